//! Providers: the settings of their polls, and their state, as the poller reports it.

use std::time::Duration;

use super::{Rate, Timestamp};

/// When to poll a job. The definition has the defaults, and the configuration can replace some of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollPolicy {
    /// Time from registration to the first poll.
    pub first: Duration,
    /// Shortest poll interval of one job.
    pub min_interval: Duration,
    /// Longest poll interval of one job.
    pub max_interval: Duration,
    /// Default lifetime of a watch.
    pub deadline: Duration,
    /// Time for which `not_found` may mean "not yet created".
    pub not_found_grace: Duration,
    /// Accepted delay of the detection per saved poll: without history, the k-th poll is at the age `price`·k².
    pub price: Duration,
}

/// Returns the environment variable of a provider's API key, for messages that say what to set.
pub fn credential_variable(provider: &str) -> String {
    match provider {
        // Muvi's own name for it.
        "muvi" => "MUVI_API_KEY".to_owned(),
        other => format!("RINGBACK_PROVIDERS__{}__API_KEY", other.replace('-', "_").to_uppercase()),
    }
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

word_enum! {
    /// Health of a provider with one credential.
    ProviderHealth {
        /// No key is configured, so no job can be polled.
        Unconfigured = "unconfigured",
        /// The last polls succeeded.
        Ok = "ok",
        /// Some polls fail, or the provider limits the rate.
        Degraded = "degraded",
        /// The provider rejects the credential: one poll a minute until it is accepted.
        Paused = "paused",
        /// The circuit breaker is open: one poll a second until one succeeds.
        Down = "down",
        /// The definition has mistakes, so no job can be polled.
        Invalid = "invalid",
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
        /// The poll was not made, because this process or its machine lacks something, or no API key is configured.
        NotMade = "not_made",
    }
}

/// Current state and settings of a provider.
#[derive(Clone, Debug)]
pub struct ProviderState {
    /// Id for programs.
    pub id: String,
    /// Id of the definition: another one for a named instance.
    pub definition: String,
    /// Name for people.
    pub name: String,
    /// Whether the definition is the app's.
    pub of_app: bool,
    /// Whether it can be polled: a key is configured, or none is needed.
    pub configured: bool,
    /// Current health.
    pub health: ProviderHealth,
    /// Time until which no poll starts, except probes; `None` while polls start as scheduled.
    pub held_until: Option<Timestamp>,
    /// Time of the last successful poll.
    pub last_good_at: Option<Timestamp>,
    /// Time of the last error, and its status and code. They say nothing of the job, which may be another tenant's.
    pub last_error: Option<(Timestamp, String)>,
    /// Number of polls in flight.
    pub in_flight: u32,
    /// Number of polls that are due and wait for the budget.
    pub waiting: usize,
    /// When a job is polled.
    pub policy: PollPolicy,
    /// How fast jobs are polled.
    pub limits: Limits,
    /// Mistakes of the definition; empty unless the health is `invalid`.
    pub mistakes: Vec<String>,
    /// The credentials of the app with which jobs of the provider are polled.
    pub credentials: Vec<CredentialState>,
}

/// Current state of an app's credential at one provider. It is the app's own, as are its budget and its errors.
#[derive(Clone, Debug)]
pub struct CredentialState {
    /// Its name.
    pub name: String,
    /// Current health of the polls with it.
    pub health: ProviderHealth,
    /// Time until which no poll starts, except probes; `None` while polls start as scheduled.
    pub held_until: Option<Timestamp>,
    /// Time of the last successful poll.
    pub last_good_at: Option<Timestamp>,
    /// Time of the last error, and its status and code.
    pub last_error: Option<(Timestamp, String)>,
    /// Number of polls in flight.
    pub in_flight: u32,
    /// Number of polls that are due and wait for the budget.
    pub waiting: usize,
}

impl ProviderState {
    /// Returns the state of a definition of an app by which no job was polled.
    pub fn unused(id: &str, policy: PollPolicy, limits: Limits) -> Self {
        let (of_app, configured, health) = (true, true, ProviderHealth::Ok);
        Self { of_app, configured, health, policy, limits, ..Self::invalid(id, &[]) }
    }

    /// Returns the state of a provider whose definition has mistakes.
    pub fn invalid(id: &str, mistakes: &[String]) -> Self {
        Self {
            id: id.to_owned(),
            definition: id.to_owned(),
            name: id.to_owned(),
            of_app: false,
            configured: false,
            health: ProviderHealth::Invalid,
            held_until: None,
            last_good_at: None,
            last_error: None,
            in_flight: 0,
            waiting: 0,
            policy: PollPolicy::default(),
            limits: Limits { rate: Rate { spacing: None }, burst: 0, concurrency: 0 },
            mistakes: mistakes.to_vec(),
            credentials: Vec::new(),
        }
    }
}
