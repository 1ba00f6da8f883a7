//! The state that the handlers share.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::{Semaphore, watch};

use super::concurrency_limit::ConcurrencyLimiter;
use super::idempotency::InProgressKeys;
use crate::channels::Channels;
use crate::clock::Clock;
use crate::domain::{AppNo, JobNo, PollStats, ProviderState};
use crate::egress::Egress;
use crate::providers::Providers;
use crate::store::Store;
use crate::telemetry::metrics::Load;

/// Maximum number of connections, and less with few descriptors; further ones wait in the listener's backlog. Each can hold a body of 256 KiB.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Maximum number of requests that wait for the end of a watch: a quarter of the connections, so that other
/// requests find one. The end of a client's connection is not noticed before its wait is over.
pub const WAITS_MAX: usize = 1_024;

/// Maximum number of concurrent batches, of registrations and of retries. Each can hold a body of 8 MiB, and
/// about as much again of parsed data.
pub const BATCHES_MAX: usize = 8;

/// The state that the handlers share.
pub struct Api {
    /// The store.
    pub store: Store,
    /// Checks callback URLs.
    pub egress: Arc<Egress>,
    /// Checks mail addresses and Slack addresses.
    pub channels: Arc<Channels>,
    /// The clock.
    pub clock: Clock,
    /// The providers whose jobs can be watched.
    pub providers: Providers,
    /// The ids of the providers for which an API key is configured.
    pub with_credential: HashSet<String>,
    /// SHA-256 of the configured admin key; `None` if there is none.
    pub bootstrap: Option<[u8; 32]>,
    /// The first app, whose admins manage all apps.
    pub operator: AppNo,
    /// Returns the poller's statistics of a job; `None` for a job that is not polled.
    pub poll_stats: Box<dyn Fn(JobNo) -> Option<PollStats> + Send + Sync>,
    /// Returns the poller's state of each provider.
    pub provider_states: Box<dyn Fn() -> Vec<ProviderState> + Send + Sync>,
    /// Whether the server is stopping.
    pub draining: watch::Receiver<bool>,
    /// Whether the poller and the dispatcher have loaded their work from the store.
    pub loaded: Arc<AtomicBool>,
    /// The idempotency keys of requests in progress.
    pub in_progress: InProgressKeys,
    /// Limits the requests that wait for the end of a watch.
    pub waits: Arc<ConcurrencyLimiter>,
    /// A permit for each connection.
    pub connections: Arc<Semaphore>,
    /// Number of these permits.
    pub connections_max: usize,
    /// Returns the load of the poller and the dispatcher, for metrics.
    pub load: Box<dyn Fn() -> Load + Send + Sync>,
    /// Whether the API's listener serves `/metrics`; otherwise a listener of its own does.
    pub with_metrics: bool,
    /// Limits the batches, of registrations and of retries.
    pub batches: Arc<ConcurrencyLimiter>,
    /// Limits the streams of events.
    pub streams: Arc<ConcurrencyLimiter>,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// Returns the provider of a registration that names none: the only one with an API key, or else Muvi.
    pub fn default_provider(&self) -> &str {
        let mut with_credential = self.with_credential.iter();
        match (with_credential.next(), with_credential.next()) {
            (Some(only), None) => only,
            _ => "muvi",
        }
    }
}
