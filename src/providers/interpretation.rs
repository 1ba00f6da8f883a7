//! The meaning of a response. Reading is pure and total: any bytes have an [`Interpretation`], and none cause a panic.
//!
//! The order of the checks decides. A response is about the request, not about the job, if its status is not 2xx
//! or if its body reports an error. Such a response means, in this order:
//!
//! 1. `unauthorized`: a 401, or an account code of the definition;
//! 2. `rate_limited`: a 429;
//! 3. `not_found`: as the definition describes it;
//! 4. `error`: everything else.
//!
//! If a field that decides occurs twice with different values, the response is an `error` as well.
//!
//! Any other response is about the job if it names the requested job and has a status. The other fields cannot
//! cause an error: a field of the wrong type is null. An unknown status word ends no job, so a provider may add words.

use serde_json::Value;

use super::definition::{Definition, NotFound};
use super::extract::{Extract, MAX_TEXT, clip, cut, label, text};
use super::json::{Parsed, parse_json};
use crate::domain::{JobError, Observation, PollOutcome, to_utf8};

/// Number of characters that are kept of a word: a status, a code or a request id.
const MAX_WORD: usize = 200;

/// Number of characters that are kept of a provider's error message.
const MAX_SENTENCE: usize = 500;

/// Number of repeated fields with different values of which each is examined.
const MAX_REPEATED: usize = 8;

/// Meaning of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interpretation {
    /// The response describes the job.
    Ok(Box<JobReport>),
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
            PollFailure::Error | PollFailure::Closed => PollOutcome::Error,
            PollFailure::NotMade | PollFailure::NoCredential => PollOutcome::NotMade,
            PollFailure::Unauthorized { .. } => PollOutcome::Unauthorized,
            PollFailure::RateLimited => PollOutcome::RateLimited,
            PollFailure::NotFound => PollOutcome::NotFound,
        }
    }

    /// Returns the error message; `None` if the poll succeeded.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Ok(_) => None,
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
}

impl Definition {
    /// Returns the meaning of the response to [`Self::request`]. `body` is the decoded body, up to the size limit.
    /// Never panics, whatever the bytes. Times are returned as the provider reports them, also implausible ones, which
    /// [`Observation::discard_implausible_times`] discards: this function has no clock.
    pub fn interpret(&self, job_id: &str, status: u16, body: &[u8]) -> Interpretation {
        let (answer, repeated) = match self.parse_body(body, None) {
            Ok(Parsed { value, repeated }) => (Ok(value), repeated),
            Err(message) => (Err(message), Vec::new()),
        };
        let meaning = self.meaning(job_id, status, answer);
        match self.ambiguous(job_id, status, body, &repeated, &meaning) {
            Some(message) => Interpretation::error(format!("HTTP {status}, but {message}")),
            None => meaning,
        }
    }

    /// Returns why a response has several meanings: a field that decides occurs twice, and its values differ. Which value
    /// counts would depend on the parser.
    fn ambiguous(
        &self,
        job_id: &str,
        status: u16,
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
            let other = self.parse_body(body, Some(*n)).map(|parsed| parsed.value);
            self.meaning(job_id, status, other) != *meaning
        };
        let (_, name) = repeated.iter().enumerate().find(decides)?;
        let name = clip(name, MAX_WORD);
        Some(format!("its field `{name}` occurs twice, with different values; report this to the provider"))
    }

    fn meaning(&self, job_id: &str, status: u16, answer: Result<Value, String>) -> Interpretation {
        let reports_error = |answer: &Value| {
            self.errors.when.as_ref().is_some_and(|when| when.path.nodes(answer).contains(&&when.is))
        };
        match answer {
            Ok(answer) if (200..300).contains(&status) && !reports_error(&answer) => {
                self.job(job_id, &answer).unwrap_or_else(Interpretation::error)
            }
            Err(message) if (200..300).contains(&status) => {
                Interpretation::error(format!("HTTP {status}, but {message}"))
            }
            answer => self.refusal(status, &answer.unwrap_or(Value::Null)),
        }
    }

    /// Parses a body. Of the repeated field with the number `first_of`, the value before is read.
    fn parse_body(&self, body: &[u8], first_of: Option<usize>) -> Result<Parsed, String> {
        if body.len() > self.request.max_body {
            return Err(format!("the response is larger than {} bytes", self.request.max_body));
        }
        let body = &*to_utf8(body);
        if body.iter().all(u8::is_ascii_whitespace) {
            return Err("the response is empty".to_owned());
        }
        parse_json(body, first_of).map_err(|error| format!("the response is not JSON: {error}"))
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
        let failure = if status == 401 || code.as_ref().is_some_and(|code| self.errors.account.contains(code))
        {
            let code = code.map_or_else(|| "unauthorized".to_owned(), |code| clip(&code, MAX_WORD));
            PollFailure::Unauthorized { code }
        } else if status == 429 {
            PollFailure::RateLimited
        } else if self.not_found.applies(status, answer) {
            PollFailure::NotFound
        } else {
            PollFailure::Error
        };
        Interpretation::Failed { failure, message }
    }

    /// Interprets a response that is about the job. The error is a sentence that describes why it is not.
    fn job(&self, job_id: &str, answer: &Value) -> Result<Interpretation, String> {
        let job =
            self.response.unwrap.find(answer, |node| node.is_object().then_some(node)).unwrap_or(answer);
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
        let Extract { progress, output, outputs, created_at, completed_at, .. } = &self.extract;
        let outputs = outputs.as_ref().and_then(|outputs| outputs.read(job));
        let first_url = || outputs.iter().flatten().find_map(|output| output.url.clone());
        let output = output.find(job, text).filter(|text| text.len() <= MAX_TEXT).or_else(first_url);
        let observation = Observation {
            status,
            progress: progress.as_ref().and_then(|progress| progress.read(job)),
            output,
            error: self.error(job, &word),
            created_at: created_at.as_ref().and_then(|time| time.read(job)),
            completed_at: completed_at.as_ref().and_then(|time| time.read(job)),
            raw_status: Some(clip(&raw, MAX_WORD)),
            outputs,
        };
        let (unknown_status, request_id) = (known.is_none(), self.request_id(answer));
        Ok(Interpretation::Ok(Box::new(JobReport { observation, unknown_status, request_id })))
    }

    /// Returns the error of the job. If the job has none, the explanation of its status word is used.
    fn error(&self, job: &Value, word: &str) -> Option<JobError> {
        let explained = self.status.explain.get(word);
        let code = self.extract.error_code.find(job, label).or_else(|| explained.map(|_| word.to_owned()));
        let message = self.extract.error_message.find(job, text).or_else(|| explained.cloned());
        let code = code.map(|code| clip(&code, MAX_WORD));
        let message = message.map(|text| cut(text, MAX_TEXT));
        (code.is_some() || message.is_some()).then_some(JobError { code, message })
    }

    fn request_id(&self, answer: &Value) -> Option<String> {
        self.response.request_id.find(answer, label).map(|id| clip(&id, MAX_WORD))
    }
}

impl NotFound {
    /// Returns whether a response reports an unknown job. A 404 without the expected code is the
    /// response of a proxy or of a wrong address.
    fn applies(&self, status: u16, answer: &Value) -> bool {
        let is_value = |code| self.values.is_empty() || self.values.contains(&code);
        let is_marked = || self.path.0.is_empty() || self.path.find(answer, label).is_some_and(is_value);
        self.http.contains(&status) && answer.is_object() && is_marked()
    }
}
