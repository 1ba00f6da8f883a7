//! A valid provider definition.
//!
//! `compile` makes it from a file and finds the errors. This file has the types and the accessors.

use std::collections::BTreeMap;

use super::file::Example;
use super::interpretation::Interpretation;
use super::param::Param;
use super::reader::Reader;
use super::request_form::RequestForm;
use crate::domain::{JobStatus, Limits, PollPolicy};

/// How to request a job from one job API, and what the responses mean.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) job_id: Param,
    /// All parameters except the job id.
    pub(super) params: BTreeMap<String, Param>,
    pub(super) request: RequestForm,
    pub(super) reader: Reader,
    pub(super) poll: PollPolicy,
    pub(super) limits: Limits,
    pub(super) examples: Vec<Example>,
}

impl Definition {
    /// Returns the id, by which clients refer to the provider.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the URL of the provider's documentation.
    pub fn docs(&self) -> &str {
        &self.docs
    }

    /// Returns whether requests require a key.
    pub fn needs_credential(&self) -> bool {
        self.request.auth.is_some()
    }

    /// Returns the default address of requests: scheme, host and port.
    pub fn base_url(&self) -> String {
        self.request.url.origin.to_string()
    }

    /// Returns the provider's status words, as they are matched, and their meanings.
    pub fn status_words(&self) -> impl Iterator<Item = (&str, JobStatus)> {
        self.reader.status.words.iter().map(|(word, status)| (word.as_str(), *status))
    }

    /// Returns the number of examples.
    pub fn examples(&self) -> usize {
        self.examples.len()
    }

    /// Returns the meaning of the response to [`Self::request`]. `body` is the decoded body, up to the size limit.
    /// Never panics, whatever the bytes. Times are returned as the provider reports them, also future ones.
    pub fn interpret(&self, job_id: &str, status: u16, body: &[u8]) -> Interpretation {
        self.reader.read(job_id, status, body)
    }

    /// Returns when to poll a job, by default.
    pub fn poll(&self) -> &PollPolicy {
        &self.poll
    }

    /// Returns how fast to poll, by default.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}
