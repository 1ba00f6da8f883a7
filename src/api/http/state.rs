//! The state that the handlers share.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};

use super::concurrency_limit::ConcurrencyLimiter;
use super::idempotency::InProgressKeys;
use super::memory_budget::MemoryBudget;
use super::problem::Problem;
use super::provider_access::{OwnDefinitions, ProviderAccess};
use super::rate_limit::SendRates;
use super::wrong_keys::WrongKeys;
use crate::channels::{AttemptResult, Channels};
use crate::clock::Clock;
use crate::domain::{
    AppNo, DeliveryWait, JobNo, Limits, PendingDelivery, PollPolicy, PollStats, ProviderState,
    WaitingDelivery,
};
use crate::egress::Egress;
use crate::providers::Providers;
use crate::store::{FairPermit, FairSemaphore, Store};
use crate::telemetry::metrics::Load;

/// Maximum number of connections, and less with few descriptors; further ones wait in the listener's backlog. Each can
/// hold a body of 256 KiB.
pub const CONNECTIONS_MAX: usize = 4_096;

/// Maximum number of requests that wait for the end of a watch: less than half of the connections, so that others find
/// one. One app gets half of them. A client that vanishes without closing its connection is not noticed before its wait
/// is over.
pub const WAITS_MAX: usize = 1_792;

/// Maximum number of batches, of registrations and of retries, that are worked on at the same time, and of those of
/// one app. Each holds parsed data of twice its body. The others wait for their turn, with their complete bodies,
/// which the budget of memory bounds.
pub const BATCHES_MAX: usize = 8;
const BATCHES_OF_APP_MAX: usize = 4;

/// Maximum time for which a batch waits for its turn. A batch that resolves many names takes 5 s.
const BATCH_WAIT: Duration = Duration::from_secs(10);

/// Permits for batches. The apps take turns, and a permit is taken when the body has arrived: a slow upload occupies
/// no place.
#[derive(Debug)]
pub struct Batches(Arc<FairSemaphore>);

impl Default for Batches {
    fn default() -> Self {
        Self(FairSemaphore::new(BATCHES_MAX, BATCHES_OF_APP_MAX))
    }
}

impl Batches {
    /// Waits for a permit, for at most [`BATCH_WAIT`].
    pub async fn acquire(&self, app: AppNo, clock: &Clock) -> Result<FairPermit, Problem> {
        let permit = clock.timeout(BATCH_WAIT, self.0.acquire(app)).await;
        permit.ok_or_else(|| Problem::busy("too many batches are in progress; send this one again later"))
    }
}

/// Function that returns for each pending delivery why it waits, if it is due and not being attempted.
pub type DeliveryWaits = Box<dyn Fn(&[WaitingDelivery]) -> Vec<Option<DeliveryWait>> + Send + Sync>;

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
    /// Ids of the providers whose jobs may be cancelled with the operator's credential.
    pub with_cancel: HashSet<String>,
    /// What the operator's settings say about the use of each provider.
    pub access: HashMap<String, ProviderAccess>,
    /// Definitions of apps, and definitions for credentials of apps.
    pub own_definitions: OwnDefinitions,
    /// Settings of jobs without a definition, which limit definitions of apps, too.
    pub inline: (PollPolicy, Limits),
    /// SHA-256 of the configured admin key; `None` if there is none.
    pub bootstrap: Option<[u8; 32]>,
    /// The first app, whose admins manage all apps.
    pub operator: AppNo,
    /// Returns the poller's statistics of a job; `None` for a job that is not polled.
    pub poll_stats: Box<dyn Fn(JobNo) -> Option<PollStats> + Send + Sync>,
    /// Returns the poller's state of each provider, as an app sees it.
    pub provider_states: Box<dyn Fn(AppNo) -> Vec<ProviderState> + Send + Sync>,
    /// Returns for each of these pending deliveries why it waits.
    pub delivery_waits: DeliveryWaits,
    /// Whether the server is stopping.
    pub draining: watch::Receiver<bool>,
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
    /// Permits for batches, of registrations and of retries.
    pub batches: Batches,
    /// The memory of requests and answers.
    pub memory: Arc<MemoryBudget>,
    /// Counts requests with wrong keys.
    pub wrong_keys: WrongKeys,
    /// Limits the streams of events.
    pub streams: Arc<ConcurrencyLimiter>,
    /// Sends a test, once. Returns `None` if the channel accepts no message now.
    pub send_test: Box<dyn Fn(PendingDelivery) -> BoxFuture<'static, Option<AttemptResult>> + Send + Sync>,
    /// Limits the tests in progress.
    pub tests: Arc<ConcurrencyLimiter>,
    /// Limits the rates of tests and manual retries.
    pub send_rates: SendRates,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// Returns the provider of a registration that names none: the only one with an API key, or else Muvi.
    pub fn default_provider(&self) -> &str {
        let mut with_key = self.access.iter().filter(|(_, access)| access.has_key);
        match (with_key.next(), with_key.next()) {
            (Some((only, _)), None) => only,
            _ => "muvi",
        }
    }
}
