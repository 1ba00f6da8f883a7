//! What an answer means. Pure, and total: any bytes make an [`Interpretation`], none make a panic.
//!
//! The order decides. An answer that is not 2xx, or that says itself to be an error, is about the
//! request and never about the job: first the credential (401, account codes), then the rate (429),
//! then "no such job", and everything else is trouble. A good answer is about the job only if it
//! names the job that was asked for and has a status; after that nothing is trouble any more: a
//! field of the wrong type is null. An unknown status word ends no job, so a provider may add words.

use std::collections::HashMap;

use serde_json::Value;
use url::Url;

use super::definition::Definition;
use super::file::{Fold, TimeFormat, Unit};
use super::path::{Path, Paths};
use crate::domain::{JobError, JobStatus, Observation, Output, PollOutcome, Timestamp};

/// Outputs of one job that are kept; the raw answer has them all. A body of the greatest size could
/// hold a hundred thousand, which would be stored, signed and sent for every watch.
const MAX_OUTPUTS: usize = 1_000;

/// Bytes of a job's texts that are told, its outputs' and its error's each. They are written down with each
/// event of each watch; whoever wants all of a larger answer asks for it `raw`.
const MAX_TEXT: usize = 64 * 1024;

/// Characters of a word (status, code, request id) that are kept.
const MAX_WORD: usize = 200;

/// Characters of a provider's error sentence that are repeated to people.
const MAX_SENTENCE: usize = 500;

/// Meaning of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interpretation {
    /// The response describes the job.
    Ok(Box<JobReport>),
    /// The response says nothing about the job.
    Error {
        /// Sentence for people.
        message: String,
    },
    /// The provider rejects the credential, and with it every poll.
    Unauthorized {
        /// The provider's code, or `unauthorized`.
        code: String,
        /// Sentence for people.
        message: String,
    },
    /// The provider limits the rate.
    RateLimited {
        /// Sentence for people.
        message: String,
    },
    /// The provider does not know the job.
    NotFound {
        /// Sentence for people.
        message: String,
    },
}

impl Interpretation {
    /// Returns the outcome of the poll.
    pub fn outcome(&self) -> PollOutcome {
        match self {
            Self::Ok(_) => PollOutcome::Ok,
            Self::Error { .. } => PollOutcome::Error,
            Self::Unauthorized { .. } => PollOutcome::Unauthorized,
            Self::RateLimited { .. } => PollOutcome::RateLimited,
            Self::NotFound { .. } => PollOutcome::NotFound,
        }
    }

    /// Returns the error message; `None` if the poll succeeded.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Ok(_) => None,
            Self::Error { message }
            | Self::Unauthorized { message, .. }
            | Self::RateLimited { message }
            | Self::NotFound { message } => Some(message),
        }
    }

    /// Returns the error message for a change.
    pub fn message_mut(&mut self) -> Option<&mut String> {
        match self {
            Self::Ok(_) => None,
            Self::Error { message }
            | Self::Unauthorized { message, .. }
            | Self::RateLimited { message }
            | Self::NotFound { message } => Some(message),
        }
    }
}

/// What a response reports about a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobReport {
    /// The job, in Ringback's words.
    pub observation: Observation,
    /// Whether the definition does not contain the provider's status word. `observation.status` is then the
    /// definition's status for unknown words, which never ends a job.
    pub unknown_status: bool,
    /// Id of the request, for the provider's support.
    pub request_id: Option<String>,
}

/// The part of a definition that reads answers.
#[derive(Clone, Debug)]
pub(super) struct Reader {
    pub(super) unwrap: Paths,
    pub(super) request_id: Paths,
    pub(super) status: StatusWords,
    pub(super) extract: Extract,
    pub(super) errors: Errors,
    pub(super) not_found: NotFound,
    pub(super) max_body: usize,
}

/// What the status words mean. The words are folded.
#[derive(Clone, Debug)]
pub(super) struct StatusWords {
    pub(super) path: Paths,
    pub(super) fold: Fold,
    pub(super) unknown: JobStatus,
    pub(super) words: HashMap<String, JobStatus>,
    pub(super) explain: HashMap<String, String>,
}

/// Where the rest lies.
#[derive(Clone, Debug)]
pub(super) struct Extract {
    pub(super) job_id: Paths,
    pub(super) progress: Option<Progress>,
    pub(super) output: Paths,
    pub(super) outputs: Option<Outputs>,
    pub(super) error_code: Paths,
    pub(super) error_message: Paths,
    pub(super) created_at: Option<(Paths, TimeFormat)>,
    pub(super) completed_at: Option<(Paths, TimeFormat)>,
}

/// How progress is told.
#[derive(Clone, Debug)]
pub(super) enum Progress {
    /// A number.
    Number(Paths, Unit),
    /// So many of so many.
    Ratio(Path, Path),
}

/// Where outputs lie, and their parts within each.
#[derive(Clone, Debug)]
pub(super) struct Outputs {
    pub(super) each: Paths,
    pub(super) url: Paths,
    pub(super) kind: Paths,
    pub(super) thumbnail: Paths,
    pub(super) poster: Paths,
    pub(super) only_urls: bool,
}

/// How errors are told.
#[derive(Clone, Debug)]
pub(super) struct Errors {
    pub(super) when: Option<(Path, Value)>,
    pub(super) code: Paths,
    pub(super) message: Paths,
    pub(super) account: Vec<String>,
}

/// How "no such job" is told.
#[derive(Clone, Debug)]
pub(super) struct NotFound {
    pub(super) http: Vec<u16>,
    pub(super) path: Paths,
    pub(super) values: Vec<String>,
}

impl Definition {
    /// What the answer to [`Self::request`] means. `body` is what came after content-decoding, up
    /// to the cap. Never panics, whatever the bytes. Times are given as the provider tells them, the
    /// future included.
    pub fn interpret(&self, job_id: &str, status: u16, body: &[u8]) -> Interpretation {
        self.reader.read(job_id, status, body)
    }
}

impl Reader {
    fn read(&self, job_id: &str, status: u16, body: &[u8]) -> Interpretation {
        let answer = self.parse(body);
        let says_error = |answer: &Value| {
            self.errors.when.as_ref().is_some_and(|(path, is)| path.nodes(answer).contains(&is))
        };
        match answer {
            Ok(answer) if (200..300).contains(&status) && !says_error(&answer) => {
                self.job(job_id, &answer).unwrap_or_else(|message| Interpretation::Error { message })
            }
            Err(message) if (200..300).contains(&status) => {
                Interpretation::Error { message: format!("HTTP {status}, but {message}") }
            }
            answer => self.refusal(status, &answer.unwrap_or(Value::Null)),
        }
    }

    /// The parser refuses nesting deeper than 128, so nothing after it can exhaust the stack.
    fn parse(&self, body: &[u8]) -> Result<Value, String> {
        if body.len() > self.max_body {
            return Err(format!("the answer is larger than {} bytes", self.max_body));
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err("the answer is empty".to_owned());
        }
        serde_json::from_slice(body)
            .or_else(|error| mended(body).map_or(Err(error), |body| serde_json::from_slice(&body)))
            .map_err(|error| format!("the answer is not JSON: {error}"))
    }

    /// An answer that is about the request.
    fn refusal(&self, status: u16, answer: &Value) -> Interpretation {
        let code = self.errors.code.find(answer, label);
        let told = code.as_ref().map(|code| format!(" {}", clip(code, MAX_WORD)));
        let sentence =
            self.errors.message.find(answer, text).map(|said| format!(": {}", clip(&said, MAX_SENTENCE)));
        let redirect = (300..400)
            .contains(&status)
            .then(|| ": redirects are not followed; set base_url to the address that answers".to_owned());
        let request_id = self.request_id(answer).map(|id| format!(" (request {id})"));
        let parts = [told, sentence, redirect, request_id].into_iter().flatten();
        let message = std::iter::once(format!("HTTP {status}")).chain(parts).collect::<String>();
        if status == 401 || code.as_ref().is_some_and(|code| self.errors.account.contains(code)) {
            let code = code.map_or_else(|| "unauthorized".to_owned(), |code| clip(&code, MAX_WORD));
            return Interpretation::Unauthorized { code, message };
        }
        if status == 429 {
            return Interpretation::RateLimited { message };
        }
        if self.not_found.applies(status, answer) {
            return Interpretation::NotFound { message };
        }
        Interpretation::Error { message }
    }

    /// An answer that is about the job, or the sentence that says why it is not.
    fn job(&self, job_id: &str, answer: &Value) -> Result<Interpretation, String> {
        let job = self.unwrap.find(answer, |node| node.is_object().then_some(node)).unwrap_or(answer);
        match self.extract.job_id.find(job, label) {
            Some(told) if told == job_id => {}
            // Not which one: a proxy that mixes answers up must not show one user another's job.
            Some(_) => return Err("the answer is about another job".to_owned()),
            None => return Err("the answer does not say which job it is about".to_owned()),
        }
        let raw = self.status.path.find(job, text).ok_or("the answer has no status")?;
        let word = self.status.fold.apply(&raw);
        let known = self.status.words.get(&word).copied();
        let status = known.unwrap_or(self.status.unknown);
        let outputs = self.extract.outputs.as_ref().and_then(|outputs| outputs.read(job));
        let first_url = || outputs.iter().flatten().find_map(|output| output.url.clone());
        let observation = Observation {
            status,
            progress: self.extract.progress.as_ref().and_then(|progress| progress.read(job)),
            output: self
                .extract
                .output
                .find(job, text)
                .filter(|text| text.len() <= MAX_TEXT)
                .or_else(first_url),
            error: self.error(job, &word),
            created_at: time(self.extract.created_at.as_ref(), job),
            completed_at: time(self.extract.completed_at.as_ref(), job),
            raw_status: Some(clip(&raw, MAX_WORD)),
            outputs,
        };
        let request_id = self.request_id(answer);
        Ok(Interpretation::Ok(Box::new(JobReport {
            observation,
            unknown_status: known.is_none(),
            request_id,
        })))
    }

    /// The job's own error. Where it tells none, a status word that explains itself stands in.
    fn error(&self, job: &Value, word: &str) -> Option<JobError> {
        let explained = self.status.explain.get(word);
        let code = self.extract.error_code.find(job, label).or_else(|| explained.map(|_| word.to_owned()));
        let message = self.extract.error_message.find(job, text).or_else(|| explained.cloned());
        let (code, message) =
            (code.map(|code| clip(&code, MAX_WORD)), message.map(|text| cut(text, MAX_TEXT)));
        (code.is_some() || message.is_some()).then_some(JobError { code, message })
    }

    fn request_id(&self, answer: &Value) -> Option<String> {
        self.request_id.find(answer, label).map(|id| clip(&id, MAX_WORD))
    }
}

impl NotFound {
    /// A 404 without the definition's mark is a wrong address, or a proxy's.
    fn applies(&self, status: u16, answer: &Value) -> bool {
        let marked = || match self.path.find(answer, label) {
            Some(told) => self.values.is_empty() || self.values.contains(&told),
            None => false,
        };
        self.http.contains(&status) && answer.is_object() && (self.path.0.is_empty() || marked())
    }
}

impl Progress {
    /// In whole percent, rounded down: 99.9 is not done.
    fn read(&self, job: &Value) -> Option<u8> {
        let one = |path: &Path| path.nodes(job).into_iter().find_map(Value::as_f64);
        let percent = match self {
            Self::Number(paths, unit) => {
                let number = paths.find(job, Value::as_f64)?;
                match unit {
                    Unit::Percent => number,
                    Unit::Fraction => number * 100.0,
                }
            }
            Self::Ratio(part, whole) => {
                let (part, whole) = (one(part)?, one(whole)?);
                if whole <= 0.0 {
                    return None;
                }
                part / whole * 100.0
            }
        };
        // 0.29 × 100 is 28.999…
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped before")]
        Some((percent + 1e-9).clamp(0.0, 100.0) as u8)
    }
}

impl Outputs {
    /// The first place that has outputs. An item of which nothing can be read is left out; where
    /// none is left of some, null is more honest than an empty list.
    fn read(&self, job: &Value) -> Option<Vec<Output>> {
        self.each.0.iter().find_map(|path| {
            let items = path.nodes(job);
            let outputs: Vec<_> =
                items.iter().filter_map(|item| self.output(item)).take(MAX_OUTPUTS).scan(0, fits).collect();
            let empty_list = || items.is_empty() && path.is_empty_list(job);
            (!outputs.is_empty() || empty_list()).then_some(outputs)
        })
    }

    fn output(&self, item: &Value) -> Option<Output> {
        let output = Output {
            url: self.url.find(item, text).filter(|url| !self.only_urls || is_url(url)),
            kind: self.kind.find(item, text),
            thumbnail: self.thumbnail.find(item, text),
            poster_image: self.poster.find(item, text),
        };
        let usable = if self.only_urls { output.url.is_some() } else { output != Output::default() };
        usable.then_some(output)
    }
}

/// JavaScript writes a text that was cut within a character as valid JSON with half of it escaped
/// (`"\ud83d"`), which is no Unicode. One such word, in a prompt or in an error, must not hide how the
/// job ended: halves without their other half become U+FFFD. `None` where there are none.
fn mended(body: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut mended, mut at, mut halves) = (Vec::with_capacity(body.len()), 0, false);
    while at < body.len() {
        let length = match (body[at], unit(at)) {
            (b'\\', Some(0xD800..=0xDBFF)) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            (b'\\', Some(0xD800..=0xDFFF)) => {
                mended.extend_from_slice(b"\\ufffd");
                halves = true;
                at += 6;
                continue;
            }
            // With what it escapes: the second of two backslashes begins nothing.
            (b'\\', _) => 2,
            _ => 1,
        };
        let end = body.len().min(at + length);
        mended.extend_from_slice(&body[at..end]);
        at = end;
    }
    halves.then_some(mended)
}

fn is_url(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http" | "data"))
}

/// A text that says something. `PostgreSQL` cannot store a NUL, so it becomes the mark for what
/// cannot be shown.
fn text(value: &Value) -> Option<String> {
    let text = value.as_str().filter(|text| !text.trim().is_empty())?;
    Some(if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text.to_owned() })
}

/// Whether an output fits beside those before it.
fn fits(used: &mut usize, output: Output) -> Option<Output> {
    let texts = [&output.url, &output.kind, &output.thumbnail, &output.poster_image];
    *used += texts.into_iter().flatten().map(String::len).sum::<usize>();
    (*used <= MAX_TEXT).then_some(output)
}

/// The beginning of a text, of so many bytes at most.
fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

/// A code or an id: some providers write them as numbers.
fn label(value: &Value) -> Option<String> {
    text(value).or_else(|| value.as_number().map(ToString::to_string))
}

/// At most `most` characters, none of them able to break a line of the log.
fn clip(text: &str, most: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut clipped: String = shown.take(most).collect();
    if text.chars().nth(most).is_some() {
        clipped.push('…');
    }
    clipped
}

/// The first readable time.
fn time(place: Option<&(Paths, TimeFormat)>, job: &Value) -> Option<Timestamp> {
    let (paths, format) = place?;
    let epoch = |value: &Value, millis_per_unit: f64| {
        let millis = value.as_f64()? * millis_per_unit;
        #[expect(clippy::cast_precision_loss, reason = "both ends are exact in 53 bits")]
        let max = Timestamp::MAX.millis() as f64;
        #[expect(clippy::cast_possible_truncation, reason = "in range")]
        (0.0..=max).contains(&millis).then_some(Timestamp::from_millis(millis as i64))
    };
    paths.find(job, |value| match format {
        TimeFormat::Rfc3339 => value.as_str().and_then(Timestamp::parse),
        TimeFormat::EpochS => epoch(value, 1000.0),
        TimeFormat::EpochMs => epoch(value, 1.0),
    })
}
