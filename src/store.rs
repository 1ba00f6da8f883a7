//! Facts. All SQL is in this module and nowhere else.
//!
//! What happened is a row: jobs as last seen, their endings, watches, events, deliveries, attempts.
//! When to look and when to send next are plans, made from rows by those who look and send. A write
//! is a command to the one writer ([`writer`] is the essay); reads go beside it, on connections of
//! their own, and see what is committed.
//!
//! The store sees no HTTP. What it has to tell those who look and those who send it puts into their
//! [`Mailbox`], after the commit.

mod amend;
mod apps;
mod change_notifier;
mod db;
mod deliveries;
mod endings;
mod events;
mod idempotency;
mod jobs;
mod keys;
#[cfg(test)]
mod list_plans;
mod mailbox;
mod prune;
mod reseal;
mod retry_many;
mod retry_writes;
mod sealing;
mod tenants;
mod timeline;
mod watches;
mod writer;

pub use crate::domain::Scope;
pub use amend::{Amend, Amended};
pub use apps::{BootstrapResult, BootstrapTenant, CreateApp, CreatedApp, Rotate, Rotated};
pub use change_notifier::Listener;
pub use db::{DatabaseLocation, StoreError};
pub use deliveries::{DeliveryFilter, Page, Paged, Record, RetryDelivery, RetryDeliveryResult, Rewind};
pub use endings::{Ended, Expire, NotifyProgress, NotifyWatches};
pub use events::{After, EventFilter};
pub use idempotency::{FirstAnswer, Remember, Replay};
pub use jobs::{Observed, OpenEnding, PollNow, PollNowResult, Refresh};
pub use keys::{CreateKey, CreatedKey, KeyRow, RevokeKey};
pub use mailbox::Mailbox;
pub use prune::Prune;
pub use retry_many::{RetriedMany, RetryMany};
pub use retry_writes::{WRITE_RETRY_PAUSE, write_until_accepted};
pub use sealing::{AnswerKey, Keyring};
pub use tenants::Key;
pub use timeline::{Place as TimelinePosition, TimelineEntry};
pub use watches::{
    AnswerToMany, Register, RegisterMany, Registered, RegisteredMany, Stop, Stopped, WatchFilter,
};

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::JoinHandle;

use anyhow::Context as _;
use tokio::sync::mpsc;

use self::change_notifier::ChangeNotifier;
use self::db::{Committed, Readers, Result, Tx, WriterConnection};
use self::writer::{Command, Item};
use crate::domain::{AppNo, DispatcherMessage, Ids, PollerMessage, Timestamp, WatchId};
use crate::telemetry::metrics::{Backlog, Metrics, Queues};
use crate::telemetry::traces::Tracer;

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Where the facts are.
    pub location: DatabaseLocation,
    /// Seals and opens secrets at rest.
    pub keyring: Keyring,
    /// How the outside reaches the API.
    pub public_url: String,
    /// When.
    pub now: Timestamp,
}

/// What several parts of the store look at.
#[derive(Debug)]
struct Shared {
    /// Draws every id that is not derived.
    ids: Ids,
    /// Whether the last batch was refused by the database.
    refusing: AtomicBool,
    watch_ends: ChangeNotifier<WatchId>,
    feeds: ChangeNotifier<AppNo>,
    /// How the outside reaches the API: what is sent may name its source.
    public_url: String,
    plans: Arc<Mailbox<PollerMessage>>,
    dispatcher_messages: Arc<Mailbox<DispatcherMessage>>,
    /// Small, and looked at with every request and every send.
    tenants: RwLock<tenants::Tenants>,
    /// Seals and opens secrets at rest.
    keyring: Keyring,
    metrics: Arc<Metrics>,
    tracer: OnceLock<Tracer>,
    /// When the backlog was last counted, and what it was: not at every asking.
    backlog: tokio::sync::Mutex<Option<(Timestamp, Backlog)>>,
}

impl Shared {
    fn tracer(&self) -> &Tracer {
        self.tracer.get().unwrap_or(&Tracer::OFF)
    }
}

/// The handle: cheap to clone, and the writer ends with the last one.
#[derive(Clone, Debug)]
pub struct Store {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Command>,
    readers: Arc<Readers>,
}

/// The writer's thread. It ends when the last [`Store`] is dropped.
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

impl Writer {
    /// Waits until everything is written and the file is closed.
    pub fn join(self) {
        let _ = self.0.join();
    }
}

impl Store {
    /// Opens the database, takes it for this process, and brings it up to date.
    pub fn open(options: StoreOptions) -> anyhow::Result<(Self, Writer)> {
        let keyring = options.keyring.clone();
        let public_url = options.public_url.clone();
        // A server is waited for, which a thread that drives others may not do.
        let opened = std::thread::scope(|scope| scope.spawn(move || Opened::open(options)).join());
        let Opened { connection, readers, ids, tenants } =
            opened.map_err(|_| anyhow::anyhow!("opening the database panicked"))??;
        let shared = Arc::new(Shared {
            ids,
            refusing: AtomicBool::new(false),
            watch_ends: ChangeNotifier::default(),
            feeds: ChangeNotifier::default(),
            public_url,
            plans: Arc::default(),
            dispatcher_messages: Arc::default(),
            tenants: RwLock::new(tenants),
            metrics: Arc::new(Metrics::default()),
            tracer: OnceLock::new(),
            backlog: tokio::sync::Mutex::default(),
            keyring,
        });
        let (queue, commands) = mpsc::channel(writer::QUEUE);
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || writer::run(connection, &shared, commands)
        })?;
        Ok((Self { shared, queue, readers: Arc::new(readers) }, Writer(thread)))
    }

    /// Draws ids in the order of creation.
    pub fn ids(&self) -> &Ids {
        &self.shared.ids
    }

    /// For those who look.
    pub fn plans(&self) -> Arc<Mailbox<PollerMessage>> {
        Arc::clone(&self.shared.plans)
    }

    /// For those who send.
    pub fn dispatcher_messages(&self) -> Arc<Mailbox<DispatcherMessage>> {
        Arc::clone(&self.shared.dispatcher_messages)
    }

    /// What is counted and measured around these facts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// From now on spans go there.
    pub fn trace_with(&self, tracer: Tracer) {
        // A second one would come too late for those who have asked already.
        let _ = self.shared.tracer.set(tracer);
    }

    /// Takes spans of what happens around these facts.
    pub fn tracer(&self) -> &Tracer {
        self.shared.tracer()
    }

    /// How much waits in its queues.
    pub fn queues(&self) -> Queues {
        Queues {
            writer: self.queue.max_capacity() - self.queue.capacity(),
            poller: self.shared.plans.len(),
            dispatcher: self.shared.dispatcher_messages.len(),
            refusing: self.refusing(),
        }
    }

    /// Whether the database took the last write.
    pub fn refusing(&self) -> bool {
        self.shared.refusing.load(Ordering::Acquire)
    }

    /// A bell that rings when `watch` has ended. Take it before reading how the watch stands, or the
    /// end may come in between and not be heard.
    pub fn watch_ends(&self, watch: WatchId) -> Listener<WatchId> {
        self.shared.watch_ends.listen(watch)
    }

    /// A bell that rings when an app's feed has grown. Take it before reading the feed.
    pub fn feed_changes(&self, app: AppNo) -> Listener<AppNo> {
        self.shared.feeds.listen(app)
    }

    /// Asks the database something, to learn whether it answers.
    pub async fn answers(&self) -> Result<()> {
        self.read(|tx| tx.one("select count(*) from nodes", [], |row| row.int(0)).map(|_| ())).await
    }

    /// Writes something that changes nothing, to learn whether writes are taken again.
    pub async fn probe(&self) -> Result<()> {
        self.ask(Command::Probe, ()).await
    }

    async fn ask<Q, A>(&self, command: fn(Box<Item<Q, A>>) -> Command, ask: Q) -> Result<A> {
        let gone = || StoreError::Unavailable("the writer has ended".to_owned());
        let (item, answer) = Item::new(ask);
        self.queue.send(command(item)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Runs `read` beside the writer, in a transaction of its own: one snapshot.
    async fn read<T: std::marker::Send + 'static>(
        &self,
        read: impl FnOnce(&Tx<'_>) -> Result<T> + std::marker::Send + 'static,
    ) -> Result<T> {
        self.readers.read(read).await
    }
}

/// What is made once the database is ours.
struct Opened {
    connection: WriterConnection,
    readers: Readers,
    ids: Ids,
    tenants: tenants::Tenants,
}

impl Opened {
    fn open(options: StoreOptions) -> anyhow::Result<Self> {
        let StoreOptions { location, keyring, now, .. } = options;
        let (mut connection, readers) = location.open()?;
        reseal::check(&connection.tx(), &keyring)?;
        connection.begin(true)?;
        let node = connection.node();
        let taken = jobs::take_shards(&connection.tx(), node, now);
        let incarnation = taken.context("the shards cannot be taken over")?;
        match connection.commit()? {
            Committed::Yes => connection.set_incarnation(incarnation),
            Committed::Unknown => anyhow::bail!("the database was lost on the way; start again"),
        }
        match reseal::bring_up(&mut connection, &keyring)? {
            0 => {}
            count => tracing::info!(count, "secrets were sealed with the first encryption key"),
        }
        let tx = connection.tx();
        let (ids, tenants) = (Ids::above(watches::greatest_id(&tx)?), tenants::Tenants::load(&tx, &keyring)?);
        Ok(Self { connection, readers, ids, tenants })
    }
}
