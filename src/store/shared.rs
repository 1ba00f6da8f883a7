//! State that the handles, the readers and the writer of a store share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use super::change_notifier::ChangeNotifier;
use super::mailbox::Mailbox;
use super::sealing::Keyring;
use super::tenant_cache::{TenantCache, TenantChange};
use crate::domain::{AppNo, DispatcherMessage, Ids, PollerMessage, Timestamp, WatchId};
use crate::telemetry::metrics::{Backlog, Metrics};
use crate::telemetry::traces::Tracer;

/// State that the handles, the readers and the writer of a store share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Draws every id that is not derived.
    pub(super) ids: Ids,
    /// Seals and opens secrets at rest.
    pub(super) keyring: Keyring,
    /// Public URL of the API: the `source` of `CloudEvents`.
    pub(super) public_url: String,
    /// Whether the database refused the last batch.
    pub(super) refusing: AtomicBool,
    /// Notifies of the end of a watch.
    pub(super) watch_ends: ChangeNotifier<WatchId>,
    /// Notifies of the growth of an app's feed.
    pub(super) feeds: ChangeNotifier<AppNo>,
    /// Messages for the poller.
    pub(super) poller_messages: Arc<Mailbox<PollerMessage>>,
    /// Messages for the dispatcher.
    pub(super) dispatcher_messages: Arc<Mailbox<DispatcherMessage>>,
    /// Apps and keys. Every request and every attempt reads them.
    pub(super) tenants: RwLock<TenantCache>,
    /// Counters of the process.
    pub(super) metrics: Arc<Metrics>,
    /// Set at most once, before the first span.
    pub(super) tracer: OnceLock<Tracer>,
    /// Last count of the backlog, and its time.
    pub(super) backlog: tokio::sync::Mutex<Option<(Timestamp, Backlog)>>,
}

impl Shared {
    /// Creates the state of a store that was just opened.
    pub(super) fn new(ids: Ids, tenants: TenantCache, keyring: Keyring, public_url: String) -> Self {
        Self {
            ids,
            keyring,
            public_url,
            refusing: AtomicBool::new(false),
            watch_ends: ChangeNotifier::default(),
            feeds: ChangeNotifier::default(),
            poller_messages: Arc::default(),
            dispatcher_messages: Arc::default(),
            tenants: RwLock::new(tenants),
            metrics: Arc::new(Metrics::default()),
            tracer: OnceLock::new(),
            backlog: tokio::sync::Mutex::default(),
        }
    }

    /// The tracer, or one that records nothing.
    pub(super) fn tracer(&self) -> &Tracer {
        self.tracer.get().unwrap_or(&Tracer::OFF)
    }

    /// Whether the database refused the last batch.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Acquire)
    }

    /// Applies the changes of a commit to the apps and keys in memory.
    pub(super) fn apply(&self, changes: Vec<TenantChange>) {
        if !changes.is_empty() {
            self.tenants.write().unwrap_or_else(PoisonError::into_inner).apply(changes);
        }
    }
}
