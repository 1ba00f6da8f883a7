//! The meaning of a response. Reading is pure and total: any bytes have an [`Interpretation`], and none cause a panic.
//!
//! The order of the checks decides:
//!
//! 1. The body is decoded and parsed, unless it is larger than the definition allows.
//! 2. **Rules**, in the order of the file. The first whose conditions hold decides. A rule about the job needs a body that
//!    can be read; a rule about the poll does not.
//! 3. **Errors**: a status other than 2xx, or a body that reports an error. Such a response is about the request, not
//!    about the job. It means, in this order:
//!    `unauthorized` (a 401, or an account code of the definition), `rate_limited` (a 429), `not_found` (as the definition
//!    describes it), `error` (everything else).
//! 4. A body that cannot be read is an `error`.
//! 5. **Status**: the response is about the job if it names the requested job and has a status. An unknown status ends no
//!    job, so a provider may add words.
//!
//! The other fields cannot cause an error: a field of the wrong type is null. In schema 1, a response in which a field that
//! decides occurs twice with different values is an `error` as well.
//!
//! **Bounds.** Each path visits each node of the body at most once for each step, and a pattern is searched in linear time
//! in the first part of a text. The cost of a response therefore grows with its size and with the size of the
//! definition, and not faster.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;

use super::definition::{BodyKind, CancelRule, Definition, Follower, Meaning, NotFound};
use super::extract::{Extract, Lost, OutputsExpire};
use super::field::{Field, Head, Outcome, Scope};
use super::json::{Dialect, Parsed, parse_json};
use super::names::Names;
use super::rule::{PollVerdict, Rule, Verdict};
use super::value::{Json, MAX_TEXT, clip, cut, label, status_text, text};
use crate::domain::{JobError, JobStatus, Observation, PollOutcome, Timestamp, to_utf8};

/// Number of characters that are kept of a word: a status, a code or a request id.
const MAX_WORD: usize = 200;

/// Number of characters that are kept of a provider's error message.
const MAX_SENTENCE: usize = 500;

/// Error code of a job of which an output is too large to be passed on as a whole.
const OUTPUT_TRUNCATED: &str = "output_truncated";

/// Number of repeated fields with different values of which each is examined.
const MAX_REPEATED: usize = 8;

/// A response of a provider.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// HTTP status.
    pub status: u16,
    /// Headers; names in lower case.
    pub headers: &'a [(String, String)],
    /// The body, without its content encoding.
    pub body: &'a [u8],
}

/// Meaning of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interpretation {
    /// The response describes the job.
    Ok(Box<JobReport>),
    /// A good response that says nothing new about the job.
    NotYet,
    /// The response says nothing about the job.
    Failed {
        /// What it says instead.
        failure: PollFailure,
        /// Sentence for people.
        message: String,
    },
}

/// Why a poll brings nothing about the job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollFailure {
    /// No response, or one that cannot be read.
    #[error("an error")]
    Error,
    /// The poll was not made: this process or its machine lacks something, such as a file descriptor.
    #[error("a poll that was not made")]
    NotMade,
    /// A result is not requested: its URL, or the credential, does not permit it.
    #[error("a request that is not permitted")]
    Refused,
    /// The provider closed a connection while the poll was on its way. It says nothing about the provider, and may have
    /// arrived.
    #[error("a closed connection")]
    Closed,
    /// The poll was not made: the provider needs an API key, and none is configured.
    #[error("a missing API key")]
    NoCredential,
    /// The provider rejects the credential, and with it every poll.
    #[error("an account error with the code `{code}`")]
    Unauthorized {
        /// The provider's code, or `unauthorized`.
        code: String,
    },
    /// The provider rejects a token before its end. The next poll has a new one.
    #[error("a refused token")]
    TokenRefused,
    /// The provider limits the rate.
    #[error("\"too many requests\"")]
    RateLimited,
    /// The provider does not know the job.
    #[error("\"no such job\"")]
    NotFound,
}

impl Interpretation {
    /// Returns the meaning of a poll without a readable response.
    pub fn error(message: String) -> Self {
        Self::Failed { failure: PollFailure::Error, message }
    }

    /// Returns the outcome of the poll.
    pub fn outcome(&self) -> PollOutcome {
        let Self::Failed { failure, .. } = self else { return PollOutcome::Ok };
        match failure {
            PollFailure::Error | PollFailure::Closed | PollFailure::Refused => PollOutcome::Error,
            PollFailure::NotMade | PollFailure::NoCredential => PollOutcome::NotMade,
            PollFailure::Unauthorized { .. } | PollFailure::TokenRefused => PollOutcome::Unauthorized,
            PollFailure::RateLimited => PollOutcome::RateLimited,
            PollFailure::NotFound => PollOutcome::NotFound,
        }
    }

    /// Returns the error message; `None` if the poll succeeded.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Ok(_) | Self::NotYet => None,
            Self::Failed { message, .. } => Some(message),
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
    /// How long the outputs can be read.
    pub outputs_expire: Option<OutputsExpire>,
    /// The results that are to be requested before the job counts as ended, in their order.
    pub results: Vec<NextResult>,
    /// What the answer means, in more detail than the status of the observation.
    pub(super) outcome: Outcome,
    /// What of the outputs is not passed on.
    pub(super) lost: Lost,
}

impl JobReport {
    /// Returns the report of a job about which nothing else is known.
    #[cfg(test)]
    pub(crate) fn of(observation: Observation) -> Self {
        Self::bare(observation, Outcome::Processing)
    }

    fn bare(observation: Observation, outcome: Outcome) -> Self {
        Self {
            observation,
            unknown_status: false,
            request_id: None,
            outputs_expire: None,
            results: Vec::new(),
            outcome,
            lost: Lost::default(),
        }
    }

    /// Returns the report of a job that its provider has cancelled and does not know any more. `seen` is what was last seen
    /// of it, and `answer` the provider's answer.
    pub fn cancelled(seen: Observation, answer: &str) -> Self {
        let message =
            format!("the provider accepted to cancel the job, and does not know it any more: {answer}");
        let error = Some(JobError { code: None, message: Some(message) });
        let observation = Observation { status: JobStatus::Cancelled, raw_status: None, error, ..seen };
        Self::bare(observation, Outcome::Cancelled)
    }

    /// Completes a report at the time of its answer: discards implausible times, and determines when the outputs expire.
    pub fn settle(&mut self, now: Timestamp) {
        let seen = &mut self.observation;
        seen.discard_implausible_times(now);
        let expire = self.outputs_expire;
        seen.outputs_expire_at = expire.and_then(|expire| expire.at(seen.completed_at.unwrap_or(now), now));
    }

    /// Returns the outcome by its word in `[status.map]`.
    pub fn outcome_word(&self) -> &'static str {
        self.outcome.word()
    }

    /// Notes in the error of an ended job which outputs are not passed on, once no result can bring others.
    pub fn note_lost(&mut self) {
        let Some(sentence) = self.lost.sentence() else { return };
        let seen = &mut self.observation;
        if seen.status.ending().is_none() {
            return;
        }
        self.lost = Lost::default();
        seen.error = Some(match seen.error.take() {
            None => JobError { code: Some(OUTPUT_TRUNCATED.to_owned()), message: Some(sentence) },
            Some(JobError { code, message }) => {
                let most = MAX_TEXT.saturating_sub(sentence.len() + 2);
                let message = message.map_or_else(String::new, |own| format!("{}; ", cut(own, most)));
                JobError { code, message: Some(format!("{message}{sentence}")) }
            }
        });
    }

    /// Removes the expiry of outputs while the job runs, and if it has none and no result can bring any.
    pub(super) fn drop_expiry_of_nothing(&mut self) {
        let seen = &self.observation;
        let has_outputs = seen.output.is_some() || seen.outputs.as_ref().is_some_and(|all| !all.is_empty());
        let is_about_outputs = has_outputs || !self.results.is_empty();
        self.outputs_expire =
            self.outputs_expire.filter(|_| is_about_outputs && seen.status.ending().is_some());
    }
}

/// A result that is to be requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextResult {
    /// Number of the result in the definition, from 0.
    pub(super) index: usize,
    /// URL that the answer before names.
    pub(super) url: Option<String>,
    /// Values that the answers before contain.
    pub(super) values: BTreeMap<String, String>,
}

impl NextResult {
    /// Returns the number of bytes of its texts.
    pub fn text_size(&self) -> usize {
        let values: usize = self.values.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.url.as_ref().map_or(0, String::len) + values
    }
}

impl Definition {
    /// Returns whether the answers to polls are texts, and no JSON.
    pub fn reads_texts(&self) -> bool {
        self.meaning.body == BodyKind::Text
    }

    /// Returns the meaning of the response to [`Self::request`]. The body is the decoded one, up to the size limit.
    /// Never panics, whatever the bytes. Times are returned as the provider reports them, also implausible ones, which
    /// [`JobReport::settle`] discards: this function has no clock.
    pub fn interpret(&self, job_id: &str, answer: Answer<'_>) -> Interpretation {
        self.interpret_of((job_id, "{}"), answer)
    }

    /// Does the same for a job with parameters, a result of [`Self::params`].
    pub fn interpret_of(&self, job: (&str, &str), answer: Answer<'_>) -> Interpretation {
        self.read_limited(Interpretation::error, || self.meaning.interpret(job, answer))
    }
}

/// The readable part of a body: its value, or why it has none.
#[derive(Clone, Copy)]
struct Body<'a> {
    value: &'a Json<'a>,
    unreadable: Option<&'a str>,
    is_empty: bool,
}

/// What is known before an answer is read.
#[derive(Clone, Copy)]
struct Before<'a> {
    names: Names<'a>,
    /// Outcome of the poll, if the answer is that of a result.
    outcome: Option<Outcome>,
}

impl Meaning {
    /// See [`Definition::interpret`].
    pub(super) fn interpret(&self, job: (&str, &str), answer: Answer<'_>) -> Interpretation {
        let mut meaning = self.read(job, None, answer);
        if let Interpretation::Ok(report) = &mut meaning
            && report.results.is_empty()
        {
            report.note_lost();
        }
        meaning
    }

    /// Returns the meaning of an answer. `outcome` is that of the poll, if the answer is that of a result of a job that
    /// did not complete.
    pub(super) fn read(
        &self,
        job: (&str, &str),
        outcome: Option<Outcome>,
        answer: Answer<'_>,
    ) -> Interpretation {
        self.with_names(job, |names| {
            let before = Before { names, outcome };
            let body = to_utf8(answer.body);
            let cell = OnceCell::new();
            let (meaning, repeated) = match self.parse_body(&body, &cell, None) {
                Ok(Parsed { value, repeated }) => (self.meaning(before, answer, Ok(value)), repeated),
                Err(message) => (self.meaning(before, answer, Err(message)), Vec::new()),
            };
            match self.ambiguous(before, answer, &body, &repeated, &meaning) {
                Some(message) => Interpretation::error(format!("HTTP {}, but {message}", answer.status)),
                None => meaning,
            }
        })
    }

    /// Returns the first of these rules that decides the answer to a request that cancels a job, with a sentence for people.
    pub(super) fn cancel_rule<'r>(
        &self,
        rules: &'r [CancelRule],
        job: (&str, &str),
        answer: Answer<'_>,
    ) -> Option<(&'r CancelRule, String)> {
        if rules.is_empty() {
            return None;
        }
        self.with_names(job, |names| {
            let (body, cell) = (to_utf8(answer.body), OnceCell::new());
            let parsed = self.parse_body(&body, &cell, None).map(|parsed| parsed.value);
            self.in_scope(Before { names, outcome: None }, answer, parsed, |scope, body| {
                // What is missing in a body that cannot be read may be there.
                let applies = |rule: &&CancelRule| {
                    (body.is_readable() || !rule.when.reads_body()) && rule.when.holds(scope)
                };
                let rule = rules.iter().find(applies)?;
                Some((rule, self.error_message(scope, None, rule.explain.as_deref()).1))
            })
        })
    }

    fn with_names<R>(&self, (job_id, params): (&str, &str), read: impl FnOnce(Names<'_>) -> R) -> R {
        // The id in an answer is the part of the URL.
        let found = self.job_url.as_ref().and_then(|form| form.parse(job_id).ok());
        let job_id = found.as_ref().map_or(job_id, |found| &found.id);
        let params: BTreeMap<String, String> = serde_json::from_str(params).unwrap_or_default();
        read(Names { job_id, params: &params, groups: found.as_ref().map(|found| &found.params) })
    }

    /// Returns why a response has several meanings: a field that decides occurs twice, and its values differ. Which value
    /// counts would depend on the parser.
    fn ambiguous(
        &self,
        before: Before<'_>,
        answer: Answer<'_>,
        body: &[u8],
        repeated: &[String],
        meaning: &Interpretation,
    ) -> Option<String> {
        if repeated.len() > MAX_REPEATED {
            return Some(format!(
                "more than {MAX_REPEATED} of its fields occur twice, with different values"
            ));
        }
        let decides = |(n, _): &(usize, &String)| {
            let cell = OnceCell::new();
            let other = self.parse_body(body, &cell, Some(*n)).map(|parsed| parsed.value);
            self.meaning(before, answer, other) != *meaning
        };
        let (_, name) = repeated.iter().enumerate().find(decides)?;
        let name = clip(name, MAX_WORD);
        Some(format!("its field `{name}` occurs twice, with different values; report this to the provider"))
    }

    /// Parses a body in UTF-8. Of the repeated field with the number `first_of`, the value before is read.
    fn parse_body<'a>(
        &self,
        body: &'a [u8],
        cell: &'a OnceCell<Vec<u8>>,
        first_of: Option<usize>,
    ) -> Result<Parsed<'a>, String> {
        if self.body == BodyKind::None {
            return Ok(Parsed { value: Json::Null, repeated: Vec::new() });
        }
        if body.len() > self.max_body {
            return Err(format!("the response is larger than {} bytes", self.max_body));
        }
        if matches!(self.body, BodyKind::Text | BodyKind::WholeText) {
            let text = String::from_utf8_lossy(body);
            let text = if self.body == BodyKind::Text { text.trim() } else { &text };
            return Ok(Parsed { value: Json::Text(text.to_owned().into()), repeated: Vec::new() });
        }
        if is_blank(body) {
            return Err("the response is empty".to_owned());
        }
        parse_json(body, cell, self.dialect, first_of)
            .map_err(|error| format!("the response is not JSON: {error}"))
    }

    /// Decodes a parsed body, and reads it.
    fn in_scope<R>(
        &self,
        Before { names, outcome }: Before<'_>,
        answer: Answer<'_>,
        parsed: Result<Json<'_>, String>,
        read: impl FnOnce(Scope<'_>, Body<'_>) -> R,
    ) -> R {
        let Answer { status, headers, body } = answer;
        let is_good = (200..300).contains(&status);
        let is_empty = self.body == BodyKind::JsonOrEmpty && parsed.is_err() && is_blank(body);
        let parsed = match parsed {
            Err(_) if is_empty && is_good => Ok(Json::Object(Box::default())),
            parsed => parsed,
        };
        let unreadable = parsed.as_ref().err().cloned();
        let mut value = parsed.unwrap_or_else(|_| self.text_of_error(answer));
        for decode in &self.decode {
            decode.apply(&mut value, names);
        }
        let left = Cell::new(self.searched);
        let scope =
            Scope { root: &value, head: Head { status, headers }, names, outcome, nulls: &[], left: &left };
        read(scope, Body { value: &value, unreadable: unreadable.as_deref(), is_empty })
    }

    /// Returns the body of an error that is not JSON, such as the HTML of a proxy, as one text. It is null in schema 1.
    fn text_of_error(&self, answer: Answer<'_>) -> Json<'static> {
        let body = answer.body;
        let is_error = !(200..300).contains(&answer.status) && body.len() <= self.max_body;
        if !is_error || self.dialect == Dialect::Strict || !self.body.is_json() || is_blank(body) {
            return Json::Null;
        }
        Json::Text(String::from_utf8_lossy(&to_utf8(body)).trim().to_owned().into())
    }

    fn meaning(
        &self,
        before: Before<'_>,
        answer: Answer<'_>,
        parsed: Result<Json<'_>, String>,
    ) -> Interpretation {
        self.in_scope(before, answer, parsed, |scope, body| {
            let status = answer.status;
            if let Some(rule) = self.rules.iter().find(|rule| rule.applies(scope, body.is_readable())) {
                return self.ruled(rule, scope);
            }
            if !(200..300).contains(&status) || self.reports_error(scope) {
                return self.refusal(scope, None, None);
            }
            if let Some(message) = body.unreadable {
                return Interpretation::error(format!("HTTP {status}, but {message}"));
            }
            self.of_status(Scope { root: body.value, ..scope }).unwrap_or_else(Interpretation::error)
        })
    }

    fn reports_error(&self, scope: Scope<'_>) -> bool {
        self.errors.when.as_ref().is_some_and(|mark| {
            let equals = |value: &Json<'_>| match self.dialect {
                Dialect::Strict => mark.is.is(value),
                Dialect::Tolerant => mark.is.equals(value),
            };
            mark.path.find(scope.root, scope.names, |value| equals(value).then_some(())).is_some()
        })
    }

    /// Interprets a response that a rule decides.
    fn ruled(&self, rule: &Rule, scope: Scope<'_>) -> Interpretation {
        match &rule.verdict {
            Verdict::Job(outcome, extract) => {
                let job = self.job_part(scope);
                let status = self.status.as_ref();
                let raw = || status.and_then(|status| status.field.find(job, status_text));
                let raw = rule.raw_status.clone().or_else(raw);
                let code = rule.code.clone().or_else(|| outcome.code().map(str::to_owned));
                let error = (code, rule.explain.clone());
                let read = JobReader { meaning: self, extract, outcome: *outcome, error };
                read.report(scope, job, raw, false).unwrap_or_else(Interpretation::error)
            }
            Verdict::Poll(PollVerdict::NotYet) => Interpretation::NotYet,
            Verdict::Poll(verdict) => self.refusal(scope, Some(rule), Some(*verdict)),
        }
    }

    /// Interprets a response that is about the request. A rule may have decided what it means.
    fn refusal(&self, scope: Scope<'_>, rule: Option<&Rule>, verdict: Option<PollVerdict>) -> Interpretation {
        let status = scope.head.status;
        let of_rule = |text: fn(&Rule) -> &Option<String>| rule.and_then(|rule| text(rule).as_deref());
        let (code, message) =
            self.error_message(scope, of_rule(|rule| &rule.code), of_rule(|rule| &rule.explain));
        let is_account =
            || status == 401 || code.as_ref().is_some_and(|code| self.errors.account.contains(code));
        let verdict = match verdict {
            Some(verdict) => verdict,
            None if is_account() => PollVerdict::Unauthorized,
            None if status == 429 => PollVerdict::RateLimited,
            None if self.not_found.applies(scope) => PollVerdict::NotFound,
            None => PollVerdict::Error,
        };
        let failure = match verdict {
            PollVerdict::Unauthorized => {
                let code = code.map_or_else(|| "unauthorized".to_owned(), |code| clip(&code, MAX_WORD));
                PollFailure::Unauthorized { code }
            }
            PollVerdict::RateLimited => PollFailure::RateLimited,
            PollVerdict::NotFound => PollFailure::NotFound,
            PollVerdict::Error => PollFailure::Error,
            PollVerdict::NotYet => return Interpretation::NotYet,
        };
        Interpretation::Failed { failure, message }
    }

    /// Returns the code of an answer that is about the request, and a sentence for people. A rule may give both, if the
    /// answer has none.
    fn error_message(
        &self,
        scope: Scope<'_>,
        code: Option<&str>,
        explain: Option<&str>,
    ) -> (Option<String>, String) {
        let status = scope.head.status;
        let code = self.errors.code.find(scope, label).or_else(|| code.map(str::to_owned));
        // Many APIs repeat the status as the code.
        let shown = code.as_ref().filter(|code| **code != status.to_string());
        let shown = shown.map(|code| format!(" {}", clip(code, MAX_WORD)));
        let sentence = self.errors.message.find(scope, text).or_else(|| explain.map(str::to_owned));
        let sentence = sentence.map(|text| format!(": {}", clip(&text, MAX_SENTENCE)));
        let redirect = (300..400).contains(&status).then(|| self.redirect_hint().to_owned());
        let request_id = self.request_id(scope).map(|id| format!(" (request {id})"));
        let parts = [shown, sentence, redirect, request_id].into_iter().flatten();
        (code, std::iter::once(format!("HTTP {status}")).chain(parts).collect())
    }

    fn redirect_hint(&self) -> &'static str {
        if self.follows_redirects {
            ": only redirects to the same scheme, host and port are followed, at most 3"
        } else {
            ": redirects are not followed; set base_url to the final address"
        }
    }

    /// Returns the part of the answer that describes the job.
    fn job_part<'a>(&self, scope: Scope<'a>) -> Scope<'a> {
        let object = |node: &'a Json<'a>| node.is_object().then_some(node);
        let root = self.unwrap.find(scope.root, scope.names, object).unwrap_or(scope.root);
        Scope { root, ..scope }
    }

    /// Interprets a response by its status. The error is a sentence that describes why it is not about the job.
    fn of_status(&self, scope: Scope<'_>) -> Result<Interpretation, String> {
        let job = self.job_part(scope);
        if let Some(otherwise) = self.otherwise {
            let outcome = scope.outcome.unwrap_or(otherwise);
            let read = JobReader { meaning: self, extract: &self.extract, outcome, error: (None, None) };
            return read.report(scope, job, None, false);
        }
        let none = || "the response matches no rule, and the definition has no [status]".to_owned();
        let status = self.status.as_ref().ok_or_else(none)?;
        // Another job's answer must not be read at all.
        check_job(&self.extract, job)?;
        let read = if status.is_text { text } else { status_text };
        let raw = status.field.find(job, read).ok_or("the response has no status")?;
        let word = status.fold.apply(&raw);
        let known = status.words.get(&word).copied();
        let outcome = known.unwrap_or(status.unknown);
        let explained = status.explain.get(&word);
        let code = outcome.code().map(str::to_owned).or_else(|| explained.map(|_| word.clone()));
        let error = (code, explained.cloned());
        let read = JobReader { meaning: self, extract: &self.extract, outcome, error };
        read.report(scope, job, Some(raw), known.is_none())
    }

    /// Returns the results that begin with a value of this answer about a job that has ended.
    fn next_results(&self, job: Scope<'_>, outcome: Outcome) -> Vec<NextResult> {
        let next = |follower: &Follower| {
            let Follower { index, when, conditions, needs_url, url, values } = follower;
            if !when.iter().any(|when| outcome.is(*when)) || !conditions.holds(job) {
                return None;
            }
            let url = url.find(job, text);
            if url.is_none() && *needs_url {
                return None;
            }
            let value = |(name, field): &(String, Field)| Some((name.clone(), field.find(job, label)?));
            let values = values.iter().map(value).collect::<Option<_>>()?;
            Some(NextResult { index: *index, url, values })
        };
        self.followers.iter().filter_map(next).collect()
    }

    fn request_id(&self, scope: Scope<'_>) -> Option<String> {
        self.request_id.find(scope, label).map(|id| clip(&id, MAX_WORD))
    }
}

/// Checks that an answer is about the requested job.
fn check_job(extract: &Extract, job: Scope<'_>) -> Result<(), String> {
    let Some(field) = &extract.job_id else { return Ok(()) };
    match field.find(job, label) {
        Some(id) if id == job.names.job_id => Ok(()),
        // Without the other id: a proxy that mixes up responses must not show one user the job of another.
        Some(_) => Err("the response is about another job".to_owned()),
        None => Err("the response does not name the job".to_owned()),
    }
}

impl Body<'_> {
    /// Returns whether a rule about the job can be applied.
    fn is_readable(self) -> bool {
        self.unreadable.is_none() || self.is_empty
    }
}

/// Reads the fields of a job whose outcome is known.
struct JobReader<'a> {
    meaning: &'a Meaning,
    extract: &'a Extract,
    outcome: Outcome,
    /// Code and message, if the answer has none.
    error: (Option<String>, Option<String>),
}

impl JobReader<'_> {
    /// Returns the report. `answer` is the whole answer, and `job` the part that describes the job.
    fn report(
        self,
        answer: Scope<'_>,
        job: Scope<'_>,
        raw: Option<String>,
        unknown_status: bool,
    ) -> Result<Interpretation, String> {
        check_job(self.extract, job)?;
        let Extract { progress, created_at, completed_at, outputs_expire, nulls, .. } = self.extract;
        let job = Scope { outcome: Some(self.outcome), nulls, ..job };
        let (output, outputs, lost) = self.extract.outputs(job);
        let request_id = self.meaning.request_id(answer);
        let observation = Observation {
            status: self.outcome.status(),
            progress: progress.as_ref().and_then(|progress| progress.read(job)),
            output,
            created_at: created_at.as_ref().and_then(|time| time.read(job)),
            completed_at: completed_at.as_ref().and_then(|time| time.read(job)),
            raw_status: raw.map(|raw| clip(&raw, MAX_WORD)),
            outputs,
            outputs_expire_at: None,
            error: self.error(job),
        };
        let outputs_expire = outputs_expire.as_ref().and_then(|expire| expire.read(job));
        let outcome = self.outcome;
        let results = self.meaning.next_results(job, outcome);
        let mut report =
            JobReport { observation, unknown_status, request_id, outputs_expire, results, outcome, lost };
        report.drop_expiry_of_nothing();
        Ok(Interpretation::Ok(Box::new(report)))
    }

    /// Returns the error of the job. If the job has none, that of its rule or of its status is used.
    fn error(&self, job: Scope<'_>) -> Option<JobError> {
        let (code, message) = self.error.clone();
        let found = self.extract.error_code.find(job, label);
        // The code of a partial success says that it is one.
        let code = if self.outcome == Outcome::Partial { code.or(found) } else { found.or(code) };
        let message = self.extract.error_message.find(job, text).or(message);
        let code = code.map(|code| clip(&code, MAX_WORD));
        let message = message.map(|text| cut(text, MAX_TEXT));
        (code.is_some() || message.is_some()).then_some(JobError { code, message })
    }
}

impl NotFound {
    /// Returns whether a response reports an unknown job. A 404 without the expected code is the
    /// response of a proxy or of a wrong address.
    fn applies(&self, scope: Scope<'_>) -> bool {
        let is_value = |code| self.values.is_empty() || self.values.contains(&code);
        let found = || self.path.find(scope, label);
        let is_marked = || self.path.is_empty() || found().is_some_and(is_value);
        // A text can be the page of a proxy, so it must say more than its HTTP status does.
        let is_readable = scope.root.is_object() || (scope.root.as_str().is_some() && !self.path.is_empty());
        self.http.contains(&scope.head.status) && is_readable && is_marked()
    }
}

/// Returns whether a body is empty.
fn is_blank(body: &[u8]) -> bool {
    to_utf8(body).iter().all(u8::is_ascii_whitespace)
}
