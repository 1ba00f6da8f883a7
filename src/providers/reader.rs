//! Reading a response. Pure and total: any bytes have an [`Interpretation`], and none cause a panic.
//!
//! The order of the checks decides. A response is about the request, not about the job, if its status is not 2xx
//! or if its body reports an error. Such a response means, in this order:
//!
//! 1. `unauthorized`: a 401, or an account code of the definition;
//! 2. `rate_limited`: a 429;
//! 3. `not_found`: as the definition describes it;
//! 4. `error`: everything else.
//!
//! Any other response is about the job if it names the requested job and has a status. The other fields cannot
//! cause an error: a field of the wrong type is null. An unknown status word ends no job, so a provider may add words.

use std::collections::HashMap;

use serde_json::Value;

use super::extract::{Extract, MAX_TEXT, clip, cut, label, text, time};
use super::file::Fold;
use super::interpretation::{Interpretation, JobReport};
use super::path::{Path, Paths};
use crate::domain::{JobError, JobStatus, Observation};

/// Number of characters that are kept of a word: a status, a code or a request id.
const MAX_WORD: usize = 200;

/// Number of characters that are kept of a provider's error message.
const MAX_SENTENCE: usize = 500;

/// Part of a definition that interprets responses.
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

/// Meanings of the status words. The words are stored in folded spelling.
#[derive(Clone, Debug)]
pub(super) struct StatusWords {
    pub(super) path: Paths,
    pub(super) fold: Fold,
    pub(super) unknown: JobStatus,
    pub(super) words: HashMap<String, JobStatus>,
    pub(super) explain: HashMap<String, String>,
}

/// How the provider reports errors.
#[derive(Clone, Debug)]
pub(super) struct Errors {
    pub(super) when: Option<(Path, Value)>,
    pub(super) code: Paths,
    pub(super) message: Paths,
    pub(super) account: Vec<String>,
}

/// How the provider reports that it does not know a job.
#[derive(Clone, Debug)]
pub(super) struct NotFound {
    pub(super) http: Vec<u16>,
    pub(super) path: Paths,
    pub(super) values: Vec<String>,
}

impl Reader {
    pub(super) fn read(&self, job_id: &str, status: u16, body: &[u8]) -> Interpretation {
        let answer = self.parse(body);
        let reports_error = |answer: &Value| {
            self.errors.when.as_ref().is_some_and(|(path, is)| path.nodes(answer).contains(&is))
        };
        match answer {
            Ok(answer) if (200..300).contains(&status) && !reports_error(&answer) => {
                self.job(job_id, &answer).unwrap_or_else(|message| Interpretation::Error { message })
            }
            Err(message) if (200..300).contains(&status) => {
                Interpretation::Error { message: format!("HTTP {status}, but {message}") }
            }
            answer => self.refusal(status, &answer.unwrap_or(Value::Null)),
        }
    }

    /// Parses a body. The parser rejects nesting deeper than 128, so that later code cannot exhaust the stack.
    fn parse(&self, body: &[u8]) -> Result<Value, String> {
        if body.len() > self.max_body {
            return Err(format!("the response is larger than {} bytes", self.max_body));
        }
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err("the response is empty".to_owned());
        }
        serde_json::from_slice(body)
            .or_else(|error| {
                replace_unpaired_surrogates(body).map_or(Err(error), |body| serde_json::from_slice(&body))
            })
            .map_err(|error| format!("the response is not JSON: {error}"))
    }

    /// Interprets a response that is about the request.
    fn refusal(&self, status: u16, answer: &Value) -> Interpretation {
        let code = self.errors.code.find(answer, label);
        let code_text = code.as_ref().map(|code| format!(" {}", clip(code, MAX_WORD)));
        let sentence =
            self.errors.message.find(answer, text).map(|text| format!(": {}", clip(&text, MAX_SENTENCE)));
        let redirect = (300..400)
            .contains(&status)
            .then(|| ": redirects are not followed; set base_url to the final address".to_owned());
        let request_id = self.request_id(answer).map(|id| format!(" (request {id})"));
        let parts = [code_text, sentence, redirect, request_id].into_iter().flatten();
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

    /// Interprets a response that is about the job. The error is a sentence that describes why it is not.
    fn job(&self, job_id: &str, answer: &Value) -> Result<Interpretation, String> {
        let job = self.unwrap.find(answer, |node| node.is_object().then_some(node)).unwrap_or(answer);
        match self.extract.job_id.find(job, label) {
            Some(id) if id == job_id => {}
            // Without the other id: a proxy that mixes up responses must not show one user the job of another.
            Some(_) => return Err("the response is about another job".to_owned()),
            None => return Err("the response does not name the job".to_owned()),
        }
        let raw = self.status.path.find(job, text).ok_or("the response has no status")?;
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

    /// Returns the error of the job. If the job has none, the explanation of its status word is used.
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
    /// Returns whether a response reports an unknown job. A 404 without the expected code is the
    /// response of a proxy or of a wrong address.
    fn applies(&self, status: u16, answer: &Value) -> bool {
        let marked = || match self.path.find(answer, label) {
            Some(code) => self.values.is_empty() || self.values.contains(&code),
            None => false,
        };
        self.http.contains(&status) && answer.is_object() && (self.path.0.is_empty() || marked())
    }
}

/// Replaces unpaired surrogates by U+FFFD. Returns `None` if there are none.
///
/// JavaScript writes a text that was cut within a character as an escaped half of it (`"\ud83d"`). That is valid
/// JSON, but not Unicode. One such text, in a prompt or in an error, must not hide the end of a job.
fn replace_unpaired_surrogates(body: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut text, mut at, mut replaced) = (Vec::with_capacity(body.len()), 0, false);
    while at < body.len() {
        let length = match (body[at], unit(at)) {
            (b'\\', Some(0xD800..=0xDBFF)) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            (b'\\', Some(0xD800..=0xDFFF)) => {
                text.extend_from_slice(b"\\ufffd");
                replaced = true;
                at += 6;
                continue;
            }
            // A backslash and the character that it escapes. The second of two backslashes starts no escape.
            (b'\\', _) => 2,
            _ => 1,
        };
        let end = body.len().min(at + length);
        text.extend_from_slice(&body[at..end]);
        at = end;
    }
    replaced.then_some(text)
}
