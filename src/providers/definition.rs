//! A definition that was checked: what a provider's file says, in a form that cannot be wrong.
//!
//! The file's mistakes are found in `compile`; here are the types, and what others may read of them.

use std::collections::BTreeMap;
use std::time::Duration;

use super::compile::compile;
use super::file::{Example, File};
use super::interpret::Reader;
use super::param::Param;
use super::request::RequestForm;
use crate::domain::{JobStatus, Rate};

/// How one job API is asked, and how its answers are understood.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) docs: String,
    pub(super) job_id: Param,
    /// All but the job id.
    pub(super) params: BTreeMap<String, Param>,
    pub(super) request: RequestForm,
    pub(super) reader: Reader,
    pub(super) poll: PollPolicy,
    pub(super) limits: Limits,
    pub(super) examples: Vec<Example>,
}

/// When to poll a job. The definition has the defaults, and the configuration can replace some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollPolicy {
    /// Time from registration to the first poll.
    pub first: Duration,
    /// Shortest poll interval of one job.
    pub min_interval: Duration,
    /// Longest poll interval of one job.
    pub max_interval: Duration,
    /// Lifetime of a watch that gives none.
    pub deadline: Duration,
    /// Time for which `not_found` may mean "not yet created".
    pub not_found_grace: Duration,
    /// Delay that one poll is worth: without history, the k-th poll is at the age `price`·k².
    pub price: Duration,
}

/// How fast a provider may be polled with one credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Polls per time.
    pub rate: Rate,
    /// Number of polls that may start at once after a quiet time.
    pub burst: u32,
    /// Number of polls that may be in flight.
    pub concurrency: u32,
}

impl Definition {
    /// Reads a definition; every mistake is a sentence for people. Its examples are not run here.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| vec![located(text, &error)])?;
        compile(file)
    }

    /// The slug by which clients name it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The name for people.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the provider documents its status call.
    pub fn docs(&self) -> &str {
        &self.docs
    }

    /// Whether nothing can be asked without a key.
    pub fn needs_credential(&self) -> bool {
        self.request.auth.is_some()
    }

    /// Where it asks, unless the operator says otherwise: scheme, host and port.
    pub fn base_url(&self) -> String {
        self.request.url.origin.to_string()
    }

    /// The provider's words for how a job stands, as they are matched, and ours.
    pub fn status_words(&self) -> impl Iterator<Item = (&str, JobStatus)> {
        self.reader.status.words.iter().map(|(word, status)| (word.as_str(), *status))
    }

    /// How many examples it has.
    pub fn examples(&self) -> usize {
        self.examples.len()
    }

    /// When a job is looked at.
    pub fn poll(&self) -> &PollPolicy {
        &self.poll
    }

    /// How fast it may be asked.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }
}

/// A mistake in the form, with its line.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end();
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            format!("line {}: {message}", before.matches('\n').count() + 1)
        }
        None => message.to_owned(),
    }
}
