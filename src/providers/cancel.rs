//! The request that cancels a job, and what its answer means.
//!
//! The request is made as one for a result is: from a form with the same templates, and with the credential, which goes
//! only to the hosts of `send_to`. Redirects are not followed.
//!
//! The first `[[cancel.rule]]` whose conditions hold decides what the answer means, or else the HTTP status, and `[errors]`
//! as for polls:
//!
//! - 2xx: the provider accepts the request. The job may still run for a while, and may even complete.
//! - a status of `already_ended`: there is nothing to cancel any more.
//! - 401, an account code, 408, 425, 429 and 5xx: the same request may be accepted later.
//! - anything else: the provider refuses it, and would refuse it again.

use std::collections::BTreeMap;

use serde_json::json;
use url::Url;

use super::auth::{Credential, Supply};
use super::definition::{CancelExample, CancelForm, CancelVerdict, Definition, ExampleAnswer};
use super::interpretation::{Answer, Interpretation, PollFailure};
use super::request::{CredentialUse, Request, Sources, shown};
use super::value::clip;
use crate::domain::Timestamp;

/// Number of characters that are kept of a message, before the mark that it was cut.
const MAX_MESSAGE: usize = 499;

/// Meaning of the answer to a request that cancels a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelAnswer {
    /// The provider accepts the request.
    Accepted,
    /// The job had ended before.
    AlreadyEnded(String),
    /// The provider refuses the request.
    Refused(String),
    /// The provider limits the rate.
    RateLimited(String),
    /// The provider refuses the credential. The request may be accepted later.
    Unauthorized(String),
    /// The request may be accepted later.
    Error(String),
}

impl Definition {
    /// Returns whether the definition says how a job is cancelled.
    pub fn can_cancel(&self) -> bool {
        self.cancel.is_some()
    }

    /// Returns the method of the request that cancels a job.
    pub fn cancel_method(&self) -> Option<&'static str> {
        self.cancel.as_ref().map(|form| form.request.method.word())
    }

    /// Returns the request that cancels a job. The error is a sentence, also if the credential must not be sent to its URL.
    pub fn cancel_request(
        &self,
        job: (&str, &str),
        base_url: Option<&Url>,
        credential: Option<Credential<'_>>,
    ) -> Result<Request, String> {
        let form = self.cancel.as_ref().ok_or("the definition does not say how a job is cancelled")?;
        self.supplied_cancel(form, job, base_url, credential.map(Supply::Real))
    }

    fn supplied_cancel(
        &self,
        form: &CancelForm,
        (job_id, params): (&str, &str),
        base_url: Option<&Url>,
        supply: Option<Supply<'_>>,
    ) -> Result<Request, String> {
        let sources = Sources {
            job_id,
            params,
            values: &BTreeMap::new(),
            named: None,
            base_url: base_url.filter(|_| form.is_rebased),
            credential: CredentialUse::Sent(supply),
            max_body: form.meaning.max_body,
        };
        self.build(&form.request, &sources)
    }

    /// Returns the request that cancels a job as text, with the credential masked. `None`: the definition has none.
    pub fn shown_cancel(
        &self,
        job: (&str, &str),
        base_url: Option<&Url>,
        now: Timestamp,
    ) -> Option<Result<String, String>> {
        let request = self.supplied_cancel(self.cancel.as_ref()?, job, base_url, Some(Supply::Shown(now)));
        Some(request.map(|request| shown(&request)))
    }

    /// Returns whether the body of a good answer to [`Self::cancel_request`] has a meaning.
    pub fn reads_cancel_body(&self) -> bool {
        self.cancel.as_ref().is_some_and(|form| {
            form.meaning.errors.when.is_some() || form.rules.iter().any(|rule| rule.when.reads_body())
        })
    }

    /// Returns the meaning of the answer to [`Self::cancel_request`]. Never panics, whatever the bytes.
    pub fn interpret_cancel(&self, job: (&str, &str), answer: Answer<'_>) -> CancelAnswer {
        let read = |form: &CancelForm| self.read_limited(CancelAnswer::Error, || form.interpret(job, answer));
        self.cancel.as_ref().map_or(CancelAnswer::Accepted, read)
    }
}

impl CancelAnswer {
    fn new(verdict: CancelVerdict, message: &str) -> Self {
        let message = clip(message, MAX_MESSAGE);
        match verdict {
            CancelVerdict::Accepted => Self::Accepted,
            CancelVerdict::AlreadyEnded => Self::AlreadyEnded(message),
            CancelVerdict::Refused => Self::Refused(message),
            CancelVerdict::RateLimited => Self::RateLimited(message),
            CancelVerdict::Unauthorized => Self::Unauthorized(message),
            CancelVerdict::Error => Self::Error(message),
        }
    }

    fn parts(&self) -> (CancelVerdict, Option<&str>) {
        match self {
            Self::Accepted => (CancelVerdict::Accepted, None),
            Self::AlreadyEnded(message) => (CancelVerdict::AlreadyEnded, Some(message)),
            Self::Refused(message) => (CancelVerdict::Refused, Some(message)),
            Self::RateLimited(message) => (CancelVerdict::RateLimited, Some(message)),
            Self::Unauthorized(message) => (CancelVerdict::Unauthorized, Some(message)),
            Self::Error(message) => (CancelVerdict::Error, Some(message)),
        }
    }

    /// Returns the word of the meaning, as in an example.
    pub fn word(&self) -> &'static str {
        self.parts().0.word()
    }

    /// Returns the message; `None` if the request is accepted.
    pub fn message(&self) -> Option<&str> {
        self.parts().1
    }

    /// Returns the meaning as a line of an example.
    pub fn as_expect(&self) -> String {
        let says = self.message().map(|message| format!(", says = {}", json!(message)));
        format!("expect = {{ answer = \"{}\"{} }}", self.word(), says.unwrap_or_default())
    }
}

impl CancelForm {
    /// Interprets an example. The error is a sentence: how the meaning differs from what the file states, or what the
    /// meaning is if the file does not state it.
    pub(super) fn check_example(&self, example: &CancelExample) -> Result<(), String> {
        let ExampleAnswer { http, headers, body } = &example.answer;
        let params = serde_json::Value::Object(example.params.clone()).to_string();
        let answer = Answer { status: *http, headers, body: body.as_bytes() };
        let meaning = self.interpret((&example.job_id, &params), answer);
        let found = meaning.as_expect();
        let Some((verdict, says)) = &example.expect else {
            return Err(format!("`expect` is missing; the answer was understood as: {found}"));
        };
        let (is, message) = meaning.parts();
        let is_said = says.as_ref().is_none_or(|says| message.is_some_and(|text| text.contains(says)));
        if is == *verdict && is_said {
            return Ok(());
        }
        let part = says.as_ref().map(|says| format!(" with `{says}` in the message")).unwrap_or_default();
        Err(format!("expected `{}`{part}, but the answer was understood as: {found}", verdict.word()))
    }

    fn interpret(&self, job: (&str, &str), answer: Answer<'_>) -> CancelAnswer {
        if let Some((rule, message)) = self.meaning.cancel_rule(&self.rules, job, answer) {
            return CancelAnswer::new(rule.verdict, &message);
        }
        let is_good = (200..300).contains(&answer.status);
        // The body of a good answer says nothing, unless errors can be in it.
        if is_good && self.meaning.errors.when.is_none() {
            return CancelAnswer::Accepted;
        }
        let (failure, message) = match self.meaning.interpret(job, answer) {
            Interpretation::Ok(_) | Interpretation::NotYet => return CancelAnswer::Accepted,
            Interpretation::Failed { failure, message } => (failure, message),
        };
        let verdict = match (failure, answer.status) {
            (_, status) if self.already_ended.contains(&status) => CancelVerdict::AlreadyEnded,
            (PollFailure::RateLimited, _) => CancelVerdict::RateLimited,
            (PollFailure::Unauthorized { .. }, _) | (_, 408 | 425 | 500..) => CancelVerdict::Error,
            _ => CancelVerdict::Refused,
        };
        CancelAnswer::new(verdict, &message)
    }
}
