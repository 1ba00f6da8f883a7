//! The request that cancels a job, and what its answer means.
//!
//! The request is made as one for a result is: from a form with the same templates, and with the credential, which goes
//! only to the hosts of `send_to`. Redirects are not followed.
//!
//! The HTTP status decides what the answer means, and `[errors]` as for polls:
//!
//! - 2xx: the provider accepts the request. The job may still run for a while, and may even complete.
//! - a status of `already_ended`: there is nothing to cancel any more.
//! - 401, an account code, 408, 425, 429 and 5xx: the same request may be accepted later.
//! - anything else: the provider refuses it, and would refuse it again.

use std::collections::BTreeMap;

use url::Url;

use super::auth::{Credential, Supply};
use super::definition::{CancelForm, Definition};
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
        self.cancel.as_ref().is_some_and(|form| form.meaning.errors.when.is_some())
    }

    /// Returns the meaning of the answer to [`Self::cancel_request`]. Never panics, whatever the bytes.
    pub fn interpret_cancel(&self, job: (&str, &str), answer: Answer<'_>) -> CancelAnswer {
        let Some(form) = &self.cancel else { return CancelAnswer::Accepted };
        let is_good = (200..300).contains(&answer.status);
        // The body of a good answer says nothing, unless errors can be in it.
        if is_good && form.meaning.errors.when.is_none() {
            return CancelAnswer::Accepted;
        }
        let (failure, message) = match form.meaning.interpret(job, answer) {
            Interpretation::Ok(_) | Interpretation::NotYet => return CancelAnswer::Accepted,
            Interpretation::Failed { failure, message } => (failure, clip(&message, MAX_MESSAGE)),
        };
        if form.already_ended.contains(&answer.status) {
            return CancelAnswer::AlreadyEnded(message);
        }
        match (failure, answer.status) {
            (PollFailure::RateLimited, _) => CancelAnswer::RateLimited(message),
            (PollFailure::Unauthorized { .. }, _) | (_, 408 | 425 | 500..) => CancelAnswer::Error(message),
            _ => CancelAnswer::Refused(message),
        }
    }
}
