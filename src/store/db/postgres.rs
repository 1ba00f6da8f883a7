//! The writer's connection to PostgreSQL 14 or newer: the lock, and the recovery from the loss of the server.
//!
//! **One process.** A second process on the same database would poll and send everything twice. The session
//! of the writer holds an advisory lock, which the server releases when the session ends. A session can end
//! while its process lives. In that case the next session takes the lock again:
//!
//! - If another process holds the lock, this process ends.
//! - If another process held it in between (`nodes.incarnation` shows that), the memory of this process no
//!   longer matches the database, and this process ends.
//! - If an old session of this process still holds it, on a server that has not noticed the loss, its process
//!   id is known, and it is terminated.
//!
//! **Durability.** A server with `synchronous_commit=off` or `fsync=off` confirms a commit before it is on
//! disk, so a crash of its machine could lose answered requests. Both settings are refused.
//!
//! **A COMMIT without an answer** may have happened or not. Each transaction that writes knows its number,
//! and `pg_xact_status` returns its outcome. Nothing else is written before the outcome is known
//! ([`WriterConnection::ready`] runs first). If the commit did happen, its messages are published then, late
//! and in order. By that time its callers have the answer "unknown", and they repeat the write. So every
//! write changes nothing when it is repeated:
//!
//! - an ending is inserted `on conflict do nothing`, and ends only watches that have not ended; the same holds
//!   for an expiry and a stop;
//! - an attempt carries the number of attempts before it, and is written only if that number is correct;
//! - an observation sets the same values, and a `job.progress` event of the same poll is not made twice;
//! - a client repeats its request with its `Idempotency-Key`, or gets a second watch, as documented.
//!
//! **Another server.** After a failover, the new primary may lack commits of the old one, and its rows may
//! differ from the memory of this process. Its timeline differs, and this process ends.

mod bulk;
mod runtime;
mod server;
mod session;
mod setup;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::{BlockingRetryable as _, ConstantBuilder};
use tokio::sync::mpsc;

use self::runtime::BlockingRuntime;
pub use self::server::{Reader, Server};
pub use self::session::Session;
use self::session::{Begin, SessionCommit, Waited};
use super::error::{Result, StoreError, end_the_process};
use super::outcome::{CommitOutcome, Committed, Received};
use super::tx::Tx;
use crate::clock::Clock;

/// Key of the advisory lock, one for each database of a server: "ringback" in ASCII.
const LOCK_KEY: i64 = 0x7269_6e67_6261_636b;

/// Pause between two questions to the server: for the lock, for the outcome of a commit.
const PAUSE: Duration = Duration::from_millis(200);

/// Maximum time that a start waits for the lock. The server releases the lock of a killed process as soon as
/// it notices the closed connection.
const LOCK_PATIENCE: Duration = Duration::from_secs(3);

/// Maximum number of remembered sessions of this process that may hold the lock. A server that notices none
/// of that many losses is not running.
const OWN_SESSIONS_MAX: usize = 64;

/// The connection that writes.
#[derive(Debug)]
pub struct WriterConnection {
    server: Arc<Server>,
    runtime: Arc<BlockingRuntime>,
    session: Session,
    /// Process ids, on the server, of the sessions that hold the lock or may hold it: the answer to a
    /// session that asked for the lock may have been lost.
    own_sessions: Vec<i64>,
    /// Number of times that the database had been opened when this process opened it.
    incarnation: Option<i64>,
    /// Timeline of the server, if the server reports it.
    timeline: Option<String>,
    /// Number of the transaction whose outcome is unknown.
    unknown_commit: Option<String>,
}

impl WriterConnection {
    /// Connects, locks the database for this process, and migrates it.
    pub fn open(server: &Arc<Server>) -> anyhow::Result<Self> {
        let runtime = Arc::new(BlockingRuntime::new()?);
        let session = server.connect(&runtime).context("the database cannot be reached")?;
        setup::check(&session)?;
        let own_sessions = vec![backend(&session)?];
        let waited = Clock::System.stopwatch();
        let locked = (|| lock(&session).map_err(Some).and_then(|locked| locked.then_some(()).ok_or(None)))
            .retry(ConstantBuilder::new().with_delay(PAUSE).without_max_times())
            .sleep(runtime.sleeper())
            .when(|error| error.is_none() && waited.elapsed() <= LOCK_PATIENCE)
            .call();
        match locked {
            Ok(()) => {}
            Err(Some(error)) => return Err(error.into()),
            Err(None) => bail!(
                "the database is in use by another ringback; stop that one, or give this one its own \
                 database_url"
            ),
        }
        setup::migrate(&session).context("the database cannot be brought up to date")?;
        let timeline = timeline(&session);
        let server = Arc::clone(server);
        Ok(Self { server, runtime, session, own_sessions, incarnation: None, timeline, unknown_commit: None })
    }

    /// Sets how often the database has been opened, this time included.
    pub fn set_incarnation(&mut self, incarnation: i64) {
        self.incarnation = Some(incarnation);
    }

    /// The connection, as statements see it.
    pub fn tx(&self) -> Tx<'_> {
        Tx::Postgres(&self.session)
    }

    /// Whether the connection is lost and nothing of the transaction has happened.
    pub fn is_lost(&self) -> bool {
        self.session.is_broken() && self.unknown_commit.is_none()
    }

    /// Begins a transaction with the next statement.
    pub fn begin(&self, writes: bool) {
        self.session.begin(if writes { Begin::Write } else { Begin::Read });
    }

    /// Commits the transaction.
    pub fn commit(&mut self) -> Result<Committed> {
        match self.session.commit()? {
            SessionCommit::Done => Ok(Committed::Yes),
            SessionCommit::Lost(Some(xid)) => {
                self.unknown_commit = Some(xid);
                Ok(Committed::Unknown)
            }
            // The transaction only read.
            SessionCommit::Lost(None) => Err(StoreError::Unavailable("the connection was lost".to_owned())),
        }
    }

    /// Rolls the transaction back.
    pub fn roll_back(&self) {
        self.session.roll_back();
    }

    /// See [`super::writer_connection::WriterConnection::ready`].
    pub fn ready(&mut self) -> Result<Option<CommitOutcome>> {
        if self.session.is_broken() {
            self.session = self.server.connect(&self.runtime)?;
            if let Err(error) = self.take_over() {
                // A session without the lock must not be used.
                self.session.give_up();
                return Err(error);
            }
            tracing::info!("the database answers again");
        }
        let Some(xid) = &self.unknown_commit else { return Ok(None) };
        let outcome = outcome(&self.session, xid)?;
        tracing::info!(
            ?outcome,
            transaction = xid,
            "the outcome of the commit whose connection was lost is known"
        );
        self.unknown_commit = None;
        Ok(Some(outcome))
    }

    /// Repeats [`WriterConnection::ready`] until it succeeds, for up to `patience`.
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<Option<CommitOutcome>> {
        let (sleeper, waited) = (self.runtime.sleeper(), Clock::System.stopwatch());
        (|| self.ready())
            .retry(ConstantBuilder::new().with_delay(PAUSE).without_max_times())
            .sleep(sleeper)
            .when(|_| waited.elapsed() < patience)
            .call()
    }

    /// Takes the lock with a new session, and verifies that no other process had it in between.
    fn take_over(&mut self) -> Result<()> {
        let session = &self.session;
        let own = backend(session)?;
        if self.own_sessions.len() == OWN_SESSIONS_MAX {
            self.own_sessions.remove(0);
        }
        self.own_sessions.push(own);
        if !lock(session)? {
            let holder = Tx::Postgres(session).find(LOCK_HOLDER, [LOCK_KEY.into()], |row| row.int(0))?;
            return Err(match holder {
                Some(holder) if self.own_sessions.contains(&holder) => {
                    let end = "select case when pg_terminate_backend(cast($1 as integer)) then 1 else 0 end";
                    Tx::Postgres(session).one(end, [holder.into()], |row| row.int(0))?;
                    StoreError::Unavailable("the old connection still held the lock".to_owned())
                }
                None => lock_is_held(),
                Some(_) => end_the_process("another ringback has taken the database over"),
            });
        }
        if let (Some(old), Some(new)) = (&self.timeline, timeline(session))
            && *old != new
        {
            end_the_process("the database was failed over to another server");
        }
        let sql = "select incarnation from nodes where id = $1";
        let incarnation = Tx::Postgres(session).find(sql, ["postgres".into()], |row| row.int(0))?;
        if incarnation != self.incarnation {
            end_the_process("another ringback had the database in between");
        }
        self.own_sessions = vec![own];
        Ok(())
    }

    /// Waits for the next item of `queue`, for the loss of the connection, or for `timeout`.
    pub fn receive<T>(&self, queue: &mut mpsc::Receiver<T>, timeout: Option<Duration>) -> Received<T> {
        let work = async {
            match timeout {
                None => Some(queue.recv().await),
                Some(timeout) => Clock::System.timeout(timeout, queue.recv()).await,
            }
        };
        match self.session.wait(work) {
            Waited::Done(Some(Some(item))) => Received::Item(item),
            Waited::Done(Some(None)) => Received::Closed,
            Waited::Done(None) | Waited::Lost => Received::Lost,
        }
    }

    /// Releases the lock and closes the connection.
    pub fn close(self) {
        let _ = self.session.batch("select pg_advisory_unlock_all()");
        self.session.close();
    }
}

/// Takes the lock, if no session holds it.
fn lock(session: &Session) -> Result<bool> {
    let sql = "select case when pg_try_advisory_lock($1) then 1 else 0 end";
    Tx::Postgres(session).one(sql, [LOCK_KEY.into()], |row| row.flag(0))
}

fn lock_is_held() -> StoreError {
    StoreError::Unavailable("the lock of the database was held a moment ago".to_owned())
}

/// Process id of the session that holds the lock.
const LOCK_HOLDER: &str = "select pid from pg_locks
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())
      and (cast(classid as bigint) << 32) | cast(objid as bigint) = $1";

/// Returns the process id of this session on the server.
fn backend(session: &Session) -> Result<i64> {
    Tx::Postgres(session).one("select pg_backend_pid()", [], |row| row.int(0))
}

/// Returns the timeline of the server. A promoted replica continues on a new timeline. Not every server that
/// speaks the protocol of PostgreSQL reports one.
fn timeline(session: &Session) -> Option<String> {
    let sql = "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    Tx::Postgres(session).one(sql, [], |row| row.text(0)).ok()
}

/// Returns the outcome of a transaction. A transaction that the server has never seen did not happen on it.
fn outcome(session: &Session, xid: &str) -> Result<CommitOutcome> {
    let sql = "select case when cast(cast($1 as text) as xid8) >= pg_snapshot_xmax(pg_current_snapshot())
                 then 'aborted' else pg_xact_status(cast(cast($1 as text) as xid8)) end";
    match Tx::Postgres(session).one(sql, [xid.into()], |row| row.opt_text(0))?.as_deref() {
        Some("committed") => Ok(CommitOutcome::Committed),
        Some("aborted") => Ok(CommitOutcome::Aborted),
        Some(_) => Err(StoreError::Unavailable("a commit is still in progress".to_owned())),
        None => end_the_process("the server does not know the outcome of a commit"),
    }
}
