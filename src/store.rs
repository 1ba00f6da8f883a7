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
mod db;
mod deliveries;
mod endings;
mod events;
mod idempotency;
mod jobs;
mod keys;
mod postgres;
mod prune;
mod reseal;
mod retry_many;
mod sealing;
mod sqlite;
mod tenants;
mod timeline;
mod watches;
mod writer;
mod writer_connection;

pub use crate::domain::Scope;
pub use amend::{Amend, Amended};
pub use apps::{BootstrapResult, BootstrapTenant, CreateApp, CreatedApp, Rotate, Rotated};
pub use db::StoreError;
pub use deliveries::{DeliveryFilter, Page, Paged, Record, RetryDelivery, RetryDeliveryResult, Rewind};
pub use endings::{Ended, Expire, NotifyProgress, NotifyWatches};
pub use events::{After, EventFilter};
pub use idempotency::{FirstAnswer, Remember, Replay};
pub use jobs::{Observed, OpenEnding, PollNow, PollNowResult, Refresh};
pub use keys::{CreateKey, CreatedKey, KeyRow, RevokeKey};
pub use prune::Prune;
pub use retry_many::{RetriedMany, RetryMany};
pub use sealing::{AnswerKey, Keyring};
pub use tenants::Key;
pub use timeline::{Place as TimelinePosition, TimelineEntry};
pub use watches::{
    AnswerToMany, Register, RegisterMany, Registered, RegisteredMany, Stop, Stopped, WatchFilter,
};

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::thread::JoinHandle;

use anyhow::Context as _;
use rusqlite::Connection;
use tokio::sync::{Notify, Semaphore, mpsc};

use self::db::{Result, Tx};
use self::writer::{Command, Item};
use self::writer_connection::{Committed, WriterConnection};
use crate::domain::{AppNo, DispatcherMessage, Ids, PollerMessage, Timestamp, WatchId};
use crate::telemetry::metrics::{Backlog, Metrics, Queues};
use crate::telemetry::traces::Tracer;

/// How many reads run at a time: two cores' worth, and one for a slow list.
const READERS: usize = 3;

/// Where the facts are.
#[derive(Clone)]
pub enum Place {
    /// In a SQLite file.
    File(PathBuf),
    /// In a database of a PostgreSQL server, by its URL.
    Server(String),
}

impl std::fmt::Debug for Place {
    /// A URL may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Server(_) => f.write_str("Server"),
        }
    }
}

/// What a store is opened with.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Where the facts are.
    pub place: Place,
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

/// Messages for one reader, in the order of the commits.
#[derive(Debug)]
pub struct Mailbox<T> {
    waiting: Mutex<Vec<T>>,
    arrived: Notify,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { waiting: Mutex::default(), arrived: Notify::new() }
    }
}

impl<T> Mailbox<T> {
    fn put(&self, messages: Vec<T>) {
        if !messages.is_empty() {
            self.waiting.lock().unwrap_or_else(PoisonError::into_inner).extend(messages);
            self.arrived.notify_one();
        }
    }

    /// Whether nothing has arrived since the last time that it was emptied.
    pub fn is_empty(&self) -> bool {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// How much has arrived.
    fn len(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Takes what has arrived.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when something has arrived since the last time that it returned.
    pub async fn arrived(&self) {
        self.arrived.notified().await;
    }
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
    pub fn open(opening: Opening) -> anyhow::Result<(Self, Writer)> {
        let now = opening.now;
        let keyring = opening.keyring.clone();
        let public_url = opening.public_url.clone();
        // A server is waited for, which a thread that drives others may not do.
        let opened = std::thread::scope(|scope| scope.spawn(move || Opened::open(opening)).join());
        let Opened { pen, readers, ids, tenants } =
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
            metrics: Arc::new(Metrics::new(now)),
            tracer: OnceLock::new(),
            backlog: tokio::sync::Mutex::default(),
            keyring,
        });
        let readers =
            Arc::new(Readers { idle: Mutex::new(readers), turns: Arc::new(Semaphore::new(READERS)) });
        let (queue, commands) = mpsc::channel(writer::QUEUE);
        let thread = std::thread::Builder::new().name("writer".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || writer::run(pen, &shared, commands)
        })?;
        Ok((Self { shared, queue, readers }, Writer(thread)))
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
            plans: self.shared.plans.len(),
            dispatcher_messages: self.shared.dispatcher_messages.len(),
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
        let lost = || StoreError::Unavailable("a read was lost".to_owned());
        let turn = Arc::clone(&self.readers.turns).acquire_owned().await.map_err(|_| lost())?;
        let readers = Arc::clone(&self.readers);
        let work = tokio::task::spawn_blocking(move || {
            // The turn ends with the read, not with whoever asked for it, who may be gone by then.
            let _turn = turn;
            let mut reader = readers.take()?;
            read(&reader.begin()?)
        });
        work.await.map_err(|_| lost())?
    }
}

/// What is made once the database is ours.
struct Opened {
    pen: WriterConnection,
    readers: Vec<Reader>,
    ids: Ids,
    tenants: tenants::Tenants,
}

impl Opened {
    fn open(opening: Opening) -> anyhow::Result<Self> {
        let Opening { place, keyring, now, .. } = opening;
        let (mut pen, readers) = match place {
            Place::File(path) => {
                let pen = sqlite::WriterConnection::open(&path)?;
                let readers = (0..READERS).map(|_| pen.reader().map(Reader::Sqlite)).collect();
                (WriterConnection::Sqlite(pen), readers)
            }
            Place::Server(url) => {
                let server = postgres::Server::new(&url)?;
                let pen = postgres::WriterConnection::open(&server)?;
                let readers =
                    (0..READERS).map(|_| server.reader().map(Box::new).map(Reader::Postgres)).collect();
                (WriterConnection::Postgres(Box::new(pen)), readers)
            }
        };
        let readers: anyhow::Result<Vec<Reader>> = readers;
        reseal::check(&pen.tx(), &keyring)?;
        pen.begin(true)?;
        let node = pen.node();
        let taken = jobs::take_shards(&pen.tx(), node, now);
        let incarnation = taken.context("the shards cannot be taken over")?;
        match pen.commit()? {
            Committed::Yes => pen.settle_in(incarnation),
            Committed::Unknown => anyhow::bail!("the database was lost on the way; start again"),
        }
        match reseal::bring_up(&mut pen, &keyring)? {
            0 => {}
            count => tracing::info!(count, "secrets were sealed with the first encryption key"),
        }
        let tx = pen.tx();
        let (ids, tenants) = (Ids::above(watches::greatest_id(&tx)?), tenants::Tenants::load(&tx, &keyring)?);
        Ok(Self { pen, readers: readers?, ids, tenants })
    }
}

/// A connection that only reads.
#[derive(Debug)]
enum Reader {
    Sqlite(Connection),
    Postgres(Box<postgres::Reader>),
}

impl Reader {
    fn begin(&mut self) -> Result<Tx<'_>> {
        Ok(match self {
            Self::Sqlite(connection) => {
                connection.execute_batch("begin")?;
                Tx::Sqlite(connection)
            }
            Self::Postgres(reader) => Tx::Postgres(reader.begin()?),
        })
    }

    /// Gives the snapshot up: one that is held on to would keep what is old from being cleaned away.
    fn end(&mut self) {
        match self {
            Self::Sqlite(connection) if connection.is_autocommit() => {}
            Self::Sqlite(connection) => {
                let _ = connection.execute_batch("rollback");
            }
            Self::Postgres(reader) => reader.end(),
        }
    }
}

#[derive(Debug)]
struct Readers {
    idle: Mutex<Vec<Reader>>,
    turns: Arc<Semaphore>,
}

impl Readers {
    fn take(&self) -> Result<Taken<'_>> {
        let taken = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let reader = taken.ok_or_else(|| StoreError::Unavailable("all readers are busy".to_owned()))?;
        Ok(Taken { readers: self, reader: Some(reader) })
    }
}

/// A reader in use. However the read ends, a panic included, it can be taken again.
struct Taken<'r> {
    readers: &'r Readers,
    reader: Option<Reader>,
}

impl Taken<'_> {
    fn begin(&mut self) -> Result<Tx<'_>> {
        let gone = || StoreError::Unavailable("a read was lost".to_owned());
        self.reader.as_mut().ok_or_else(gone)?.begin()
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let Some(mut reader) = self.reader.take() else { return };
        reader.end();
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
    }
}

/// Tells those who wait that something happened: that a watch has ended, that an app's feed grew. Each
/// thing has a place for as long as somebody listens.
#[derive(Clone, Debug)]
struct ChangeNotifier<K: Eq + Hash>(Arc<Mutex<HashMap<K, Listeners>>>);

#[derive(Debug, Default)]
struct Listeners {
    count: usize,
    notify: Arc<Notify>,
}

impl<K: Eq + Hash> Default for ChangeNotifier<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Copy> ChangeNotifier<K> {
    fn listen(&self, to: K) -> Listener<K> {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(to).or_default();
        place.count += 1;
        Listener { to, notify: Arc::clone(&place.notify), notifier: self.clone() }
    }

    fn ring(&self, happened: &[K]) {
        if happened.is_empty() {
            return;
        }
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for one in happened {
            if let Some(place) = places.get(one) {
                place.notify.notify_waiters();
            }
        }
    }
}

/// Somebody who waits for something to happen.
#[derive(Debug)]
pub struct Listener<K: Eq + Hash + Copy> {
    to: K,
    notify: Arc<Notify>,
    notifier: ChangeNotifier<K>,
}

impl<K: Eq + Hash + Copy> Listener<K> {
    /// The next ring; armed when this returns, not when it is first polled.
    pub fn armed(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl<K: Eq + Hash + Copy> Drop for Listener<K> {
    fn drop(&mut self) {
        let mut places = self.notifier.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut place) = places.entry(self.to) {
            place.get_mut().count -= 1;
            if place.get().count == 0 {
                place.remove();
            }
        }
    }
}
