//! The state of a provider, as the poller reports it.

use std::time::Duration;

use super::Timestamp;

word_enum! {
    /// Health of a provider with one credential.
    ProviderHealth {
        /// The last polls succeeded.
        Ok = "ok",
        /// Some polls fail, or the provider limits the rate.
        Degraded = "degraded",
        /// The provider rejects the credential: one poll a minute until it is accepted.
        Paused = "paused",
        /// The circuit breaker is open: one poll a second until one succeeds.
        Down = "down",
    }
}

word_enum! {
    /// Outcome of one poll.
    PollOutcome {
        /// The response describes the job.
        Ok = "ok",
        /// No response, an error, or a response that the definition cannot read.
        Error = "error",
        /// The provider rejects the credential.
        Unauthorized = "unauthorized",
        /// The provider limits the rate (429).
        RateLimited = "rate_limited",
        /// The provider does not know the job.
        NotFound = "not_found",
    }
}

/// Current state and settings of a provider.
#[derive(Clone, Debug)]
pub struct ProviderState {
    /// Id for programs.
    pub id: String,
    /// Name for people.
    pub name: String,
    /// Whether it can be polled: a key is configured, or none is needed.
    pub configured: bool,
    /// Current health.
    pub health: ProviderHealth,
    /// Time until which no poll starts, except probes; `None` while polls start as scheduled.
    pub held_until: Option<Timestamp>,
    /// Time of the last successful poll.
    pub last_good_at: Option<Timestamp>,
    /// Time and text of the last error. The text contains no job id.
    pub last_error: Option<(Timestamp, String)>,
    /// Time between polls that the rate allows; `None` for no limit.
    pub spacing: Option<Duration>,
    /// Number of polls that may start at once after a quiet time.
    pub burst: u32,
    /// Number of polls that may be in flight.
    pub concurrency: u32,
    /// Number of polls in flight.
    pub in_flight: u32,
    /// Number of polls that are due and wait for the budget.
    pub waiting: usize,
    /// Time from registration to the first poll.
    pub first: Duration,
    /// Shortest poll interval of one job.
    pub min_interval: Duration,
    /// Longest poll interval of one job.
    pub max_interval: Duration,
    /// Default lifetime of a watch.
    pub deadline: Duration,
}
