//! The meaning of a response.

use crate::domain::{Observation, PollOutcome};

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
