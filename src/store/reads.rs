//! State that the handles and the writer of a store share, and the reading half of a store.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use super::db::{Fault, Files, Readers, Result, StoreError, Tx};
use super::definition_ids::DefinitionIds;
use super::identity::IdentityKey;
use super::notifications::{ChangeNotifier, Listener, Mailbox, WorkSignal};
use super::schema::{SchemaChange, SchemaState, unusable_tables};
use super::sealing::Keyring;
use super::tenant_cache::{TenantCache, TenantChange};
use super::unreadable::UnreadableRows;
use crate::clock::Clock;
use crate::domain::{AppNo, DispatcherMessage, Ids, PollerMessage, Timestamp, WatchId};
use crate::telemetry::metrics::{Backlog, Metrics};
use crate::telemetry::traces::Tracer;

/// The app of reads that no app requests.
pub(super) const INTERNAL: AppNo = AppNo(0);

/// Maximum time that a request waits for one answer of the database. A server that is stopped, or whose packets are
/// lost, is given up only after the timeout of a call and of a connection, which leave time for a slow statement.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Maximum time that a check waits for an answer of the database. Then the database counts as silent.
const CHECK_MAX: Duration = Duration::from_secs(2);

/// State that the handles and the writer of a store share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Draws every id that is not derived.
    pub(super) ids: Ids,
    /// Seals and opens secrets at rest.
    pub(super) keyring: Keyring,
    /// Rows that cannot be read.
    pub(super) unreadable: UnreadableRows,
    /// Key of the hashes that identify jobs which are an app's alone.
    pub(super) identity_key: IdentityKey,
    /// The ids of apps' definitions. Every registration reads them.
    pub(super) definition_ids: DefinitionIds,
    /// Public URL of the API: the `source` of `CloudEvents`.
    pub(super) public_url: String,
    /// Whether the database refused the last batch.
    pub(super) refusing: AtomicBool,
    /// Whether the database did not answer the last check in time.
    pub(super) silent: AtomicBool,
    /// Whether the tables of the database can be used.
    pub(super) schema: Mutex<SchemaState>,
    /// Whether they cannot. Every step of the poller and the dispatcher reads it.
    pub(super) is_schema_broken: AtomicBool,
    /// Files of a SQLite database.
    pub(super) files: Option<Arc<Files>>,
    /// Size of the log of a SQLite database, in bytes, when it was last checked.
    pub(super) log_size: AtomicU64,
    /// Set when one of the files was deleted or replaced. The writer then saves the contents and ends the process.
    pub(super) fault: OnceLock<Fault>,
    /// Whether the writer saves the contents of these files at the next command.
    pub(super) save_due: AtomicBool,
    /// Whether the process was asked to stop, so that this is the last try.
    pub(super) is_last_save: AtomicBool,
    /// Notifies of the end of a watch.
    pub(super) watch_ends: ChangeNotifier<WatchId>,
    /// Notifies of the growth of an app's feed.
    pub(super) feeds: ChangeNotifier<AppNo>,
    /// Messages for the poller.
    pub(super) poller_messages: Arc<Mailbox<PollerMessage>>,
    /// Messages for the dispatcher.
    pub(super) dispatcher_messages: Arc<Mailbox<DispatcherMessage>>,
    /// Requests to continue operations.
    pub(super) operations: Arc<WorkSignal>,
    /// Expiries of new groups, for their timer.
    pub(super) group_expiries: Arc<Mailbox<Timestamp>>,
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
        Self { ids, keyring, public_url, tenants: RwLock::new(tenants), ..Self::default() }
    }

    /// The tracer, or one that records nothing.
    pub(super) fn tracer(&self) -> &Tracer {
        self.tracer.get().unwrap_or(&Tracer::OFF)
    }

    /// Whether the database refused the last batch, or its files are gone.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusing.load(Ordering::Acquire) || self.fault.get().is_some()
    }

    /// Whether all these apps exist, and no client has deleted one.
    pub(super) fn are_live(&self, mut apps: impl Iterator<Item = AppNo>) -> bool {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        apps.all(|app| tenants.is_live(app))
    }

    /// Notes an error of a statement: whether a table or a column is missing.
    pub(super) fn note_error(&self, error: &StoreError) {
        if let StoreError::Schema(reason) = error {
            let mut schema = self.schema();
            let change = schema.failed(Clock::System.moment());
            self.is_schema_broken.store(schema.is_broken(), Ordering::Release);
            log_schema(change, reason);
        }
    }

    /// Notes the tables that cannot be used. Returns whether the schema counts as complete.
    fn note_tables(&self, unusable: &[String]) -> bool {
        let mut schema = self.schema();
        let change = schema.checked(unusable.is_empty(), Clock::System.moment());
        self.is_schema_broken.store(schema.is_broken(), Ordering::Release);
        log_schema(change, &unusable.join(", "));
        !schema.is_broken()
    }

    fn schema(&self) -> MutexGuard<'_, SchemaState> {
        self.schema.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the changes of a commit to the apps and keys in memory.
    pub(super) fn apply(&self, changes: Vec<TenantChange>) {
        if !changes.is_empty() {
            self.tenants.write().unwrap_or_else(PoisonError::into_inner).apply(changes);
        }
    }
}

/// Logs that the schema became incomplete or complete. `what`: the tables, or an error that names what is missing.
fn log_schema(change: SchemaChange, what: &str) {
    match change {
        SchemaChange::Broken => tracing::error!(
            missing = what,
            "a table, a column or a unique index of the database is missing, or may not be used: nothing is polled, sent or \
             registered until it is there; restore it from a backup, run the statement in `missing`, or give its \
             permissions back to the user of database_url"
        ),
        SchemaChange::Recovered => tracing::info!("the tables of the database can be used again"),
        SchemaChange::None => {}
    }
}

/// The reading half of a store. Every aggregate adds its own queries to it.
#[derive(Clone, Debug)]
pub struct ReadStore {
    pub(super) shared: Arc<Shared>,
    pub(super) readers: Arc<Readers>,
    /// Bounds the waits of requests. `None`: the service's own work waits as long as the database needs.
    pub(super) request_clock: Option<Clock>,
}

impl ReadStore {
    /// Runs `read` for an app in a transaction of its own, which sees one snapshot. The apps take turns.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        app: AppNo,
        read: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let answer = self.in_time(self.readers.read(app, read), StoreError::Unavailable).await;
        answer.inspect_err(|error| self.shared.note_error(error))
    }

    /// Returns the answer of the database. A request gets the error `late` if none arrives within [`ANSWER_MAX`].
    pub(super) async fn in_time<T>(
        &self,
        answer: impl Future<Output = Result<T>>,
        late: fn(String) -> StoreError,
    ) -> Result<T> {
        let Some(clock) = &self.request_clock else { return answer.await };
        let answer = clock.timeout(ANSWER_MAX, answer).await;
        answer.unwrap_or_else(|| Err(late(format!("no answer within {} s", ANSWER_MAX.as_secs()))))
    }

    /// Source of new ids, in the order of creation.
    pub fn ids(&self) -> &Ids {
        &self.shared.ids
    }

    /// Messages for the poller.
    pub fn poller_messages(&self) -> Arc<Mailbox<PollerMessage>> {
        Arc::clone(&self.shared.poller_messages)
    }

    /// Messages for the dispatcher.
    pub fn dispatcher_messages(&self) -> Arc<Mailbox<DispatcherMessage>> {
        Arc::clone(&self.shared.dispatcher_messages)
    }

    /// Requests to continue operations.
    pub fn operations_due(&self) -> Arc<WorkSignal> {
        Arc::clone(&self.shared.operations)
    }

    /// Expiries of new groups.
    pub fn group_expiries(&self) -> Arc<Mailbox<Timestamp>> {
        Arc::clone(&self.shared.group_expiries)
    }

    /// URL of the API as clients see it, without a slash at its end.
    pub fn public_url(&self) -> &str {
        &self.shared.public_url
    }

    /// Metrics of the process.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Sets the tracer. Only the first call has an effect.
    pub fn trace_with(&self, tracer: Tracer) {
        let _ = self.shared.tracer.set(tracer);
    }

    /// The tracer, or one that records nothing.
    pub fn tracer(&self) -> &Tracer {
        self.shared.tracer()
    }

    /// Whether a result can probably not be written: the database refused the last write, or a table cannot be used.
    pub fn refusing(&self) -> bool {
        self.shared.is_refusing() || self.is_schema_broken()
    }

    /// Whether a table or a column is missing, or may not be used.
    pub fn is_schema_broken(&self) -> bool {
        self.shared.is_schema_broken.load(Ordering::Acquire)
    }

    /// Whether the database did not answer the last check in time.
    pub fn is_silent(&self) -> bool {
        self.shared.silent.load(Ordering::Acquire)
    }

    /// Returns [`StoreError::Schema`] if a table or a column was missing at the last check, or may not be used.
    pub fn require_schema(&self) -> Result<()> {
        let error = || StoreError::Schema("the last check found a table that cannot be used".to_owned());
        if self.is_schema_broken() { Err(error()) } else { Ok(()) }
    }

    /// Checks whether the database answers in time, and whether its tables can be used. If they cannot, the error is
    /// [`StoreError::Schema`].
    pub async fn check_reads(&self) -> Result<()> {
        let (clock, late) = (Clock::System, || format!("no answer within {} s", CHECK_MAX.as_secs()));
        let answer = clock.timeout(CHECK_MAX, self.readers.read(INTERNAL, unusable_tables)).await;
        let unusable = answer.unwrap_or_else(|| Err(StoreError::Unavailable(late())))?;
        if self.shared.note_tables(&unusable) { Ok(()) } else { Err(StoreError::Schema(unusable.join(", "))) }
    }

    /// Checks whether the tables can be used, and notes meanwhile whether the answer is late. Returns when the database
    /// has answered.
    pub async fn watch_answers(&self) {
        let mut answer = std::pin::pin!(self.check_tables());
        if Clock::System.timeout(CHECK_MAX, &mut answer).await.is_some() {
            return;
        }
        self.shared.silent.store(true, Ordering::Release);
        tracing::error!(
            "the database does not answer a query within {} s: nothing can be accepted or recorded until it does; \
             check whether its server is stopped or overloaded, and whether its disk answers",
            CHECK_MAX.as_secs()
        );
        // An error is an answer as well; the writer detects a lost connection by itself.
        let () = answer.await;
        self.shared.silent.store(false, Ordering::Release);
        tracing::info!("the database answers again");
    }

    async fn check_tables(&self) {
        // The next check follows an error.
        if let Ok(unusable) = self.readers.read(INTERNAL, unusable_tables).await {
            self.shared.note_tables(&unusable);
        }
    }

    /// Returns a listener for the end of `watch`. Call this before reading the watch: an end between the
    /// read and this call would be missed.
    pub fn watch_ends(&self, watch: WatchId) -> Listener<WatchId> {
        self.shared.watch_ends.listen(watch)
    }

    /// Returns a listener for new events of an app. Call this before reading the feed.
    pub fn feed_changes(&self, app: AppNo) -> Listener<AppNo> {
        self.shared.feeds.listen(app)
    }
}
