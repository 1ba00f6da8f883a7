//! PostgreSQL, 14 or newer: the connections, the lock, the settings, the migrations, and what becomes
//! of all that when the server goes away.
//!
//! **One process.** A second process on the same database would look and send a second time. An
//! advisory lock, held by the session that writes, says that it is ours; the server lets go of it
//! when the session ends. A session can end without its process: then the lock is taken again with
//! the new one. If somebody else has it by then, or had it in between (the `incarnation` of our row
//! says so), what this process remembers is not what is written, and it ends. Our own old session
//! may still be there, on a server that has not noticed yet: it is known by its process id, and ended.
//!
//! **Durability.** A server with `synchronous_commit=off` or `fsync=off` answers before it has
//! written; what was answered with 2xx would be lost with its machine. Both are refused.
//!
//! **A COMMIT whose answer never came** may have happened or not, and the server can be asked: each
//! transaction that writes knows its number, and `pg_xact_status` says what has become of it. Until
//! then nothing else is written ([`WriterConnection::ready`] comes first). If it did happen, its plans and dispatcher_messages
//! are told then, late and in order; those who waited for its answer have been told by then that
//! nobody knows, and repeat what they wrote. That is why every write of our own changes nothing when
//! it is repeated:
//!
//! - an ending is inserted `on conflict do nothing`, and reaches watches that still watch only; the
//!   same holds for an expiry and a stop;
//! - an attempt says how many there were before it, and is written only if that is so;
//! - an observation sets what it set before, and a `job.progress` event of the same look is not made
//!   twice;
//! - a client repeats under its `Idempotency-Key`, or has a second watch, as the contract says.
//!
//! **Another server.** After a failover the new primary may lack what the old one had committed; what
//! is remembered here would then be about rows that are not there, or are others. Its timeline is
//! another, and the process ends.

mod bulk;
mod handshake;
mod session;

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;
use tokio_postgres::config::TargetSessionAttrs;

use self::handshake::Tls;
pub use self::session::Session;
use self::session::{Begin, BlockingRuntime, LOCK, STATEMENT, Waited, said};
use super::error::{Result, StoreError, end_the_process};
use super::outcome::{CommitOutcome, Committed, Received};
use super::tx::Tx;
use crate::clock::{Clock, Stopwatch};
use crate::tls;

/// "ringback" in ASCII: the number of the lock, one for each database of a server.
const LOCKED: i64 = 0x7269_6e67_6261_636b;

/// The least version, as the server numbers them.
const LEAST_VERSION: i64 = 140_000;

/// For a connection until it can be used.
const CONNECT: Duration = Duration::from_secs(5);

/// After a connection was refused, nobody asks for one for so long.
const PAUSE: Duration = Duration::from_millis(200);

/// How long a start waits for the lock: a process that was killed lets go of it as soon as the server
/// has noticed.
const TURN: Duration = Duration::from_secs(3);

/// How many sessions of our own are remembered that may have the lock: a server that notices none of so
/// many losses is not there.
const OURS_MAX: usize = 64;

/// Each brings the schema from the version before to its own. Never changed once released.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/postgres/0001_main.sql"),
    include_str!("../../../migrations/postgres/0002_lists.sql"),
    include_str!("../../../migrations/postgres/0003_plain_names.sql"),
];

/// How the server is reached, and whether it was a moment ago.
#[derive(Debug)]
pub struct Server {
    config: tokio_postgres::Config,
    tls: Tls,
    down: Mutex<Option<(Stopwatch, String)>>,
}

impl Server {
    pub fn new(url: &str) -> anyhow::Result<Arc<Self>> {
        // The library's own message may quote parts of a password.
        let config = tokio_postgres::Config::from_str(url);
        let mut config = config.map_err(|_| anyhow::anyhow!("the database's URL cannot be read"))?;
        if config.get_application_name().is_none() {
            config.application_name("ringback");
        }
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(CONNECT)
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        let tls = Tls::new(tls::config(Vec::new())?);
        Ok(Arc::new(Self { config, tls, down: Mutex::new(None) }))
    }

    /// A connection that can be used, or why there is none.
    fn connect(&self, runtime: &Arc<BlockingRuntime>) -> Result<Session> {
        let down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reason)) = down.as_ref().filter(|(since, _)| since.elapsed() < PAUSE) {
            return Err(StoreError::Unavailable(reason.clone()));
        }
        drop(down);
        let connecting = Clock::System.timeout(CONNECT * 2, async {
            let (client, connection) = self.config.connect(self.tls.clone()).await?;
            let driven = tokio::spawn(async move {
                let _ = connection.await;
            });
            client
                .batch_execute(&format!(
                    "set statement_timeout = {}; set lock_timeout = {};
                     set idle_in_transaction_session_timeout = '60s';
                     set default_transaction_isolation = 'read committed';
                     set client_min_messages = 'warning';
                     -- Every statement has its index; what a plan is made from is empty tables at first,
                     -- where reading everything seems cheap, and the plan is kept.
                     set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
                     set jit = off",
                    STATEMENT.as_millis(),
                    LOCK.as_millis(),
                ))
                .await?;
            let number = client.prepare("select cast(pg_current_xact_id() as text)").await?;
            Ok::<_, tokio_postgres::Error>(Session::new(Arc::clone(runtime), client, driven, number))
        });
        let failed = match runtime.block_on(connecting) {
            Some(Ok(session)) => return Ok(session),
            Some(Err(error)) => said(&error),
            None => "it does not answer".to_owned(),
        };
        let mut down = self.down.lock().unwrap_or_else(PoisonError::into_inner);
        *down = Some((Clock::System.stopwatch(), failed.clone()));
        Err(StoreError::Unavailable(failed))
    }

    /// A further connection, that only reads.
    pub fn reader(self: &Arc<Self>) -> anyhow::Result<Reader> {
        let runtime = Arc::new(BlockingRuntime::new()?);
        Ok(Reader { server: Arc::clone(self), runtime, session: None })
    }
}

/// A connection that only reads. It is made when it is first needed, and again when it was lost.
#[derive(Debug)]
pub struct Reader {
    server: Arc<Server>,
    runtime: Arc<BlockingRuntime>,
    session: Option<Session>,
}

/// One snapshot.
const READ: &str = "begin isolation level repeatable read read only";

impl Reader {
    /// Begins a transaction. That tells whether the connection is still one.
    pub fn begin(&mut self) -> Result<&Session> {
        if let Some(session) =
            self.session.take_if(|session| session.is_broken() || session.batch(READ).is_err())
        {
            drop(session);
        } else if let Some(ref session) = self.session {
            return Ok(session);
        }
        let session = self.server.connect(&self.runtime)?;
        session.batch(READ)?;
        Ok(self.session.insert(session))
    }

    /// Ends it.
    pub fn end(&mut self) {
        if self.session.as_ref().is_some_and(|session| session.batch("rollback").is_err()) {
            self.session = None;
        }
    }
}

/// The connection that writes.
#[derive(Debug)]
pub struct WriterConnection {
    server: Arc<Server>,
    runtime: Arc<BlockingRuntime>,
    session: Session,
    /// The server's processes for the sessions that had the lock last, or may have: a new one asks for it,
    /// and its answer may be lost.
    ours: Vec<i64>,
    /// How often this database had been opened when we opened it.
    incarnation: Option<i64>,
    /// Which history the server is on, where it says so.
    timeline: Option<String>,
    /// The number of a transaction of which nobody knows whether it was committed.
    doubt: Option<String>,
}

impl WriterConnection {
    /// Connects, takes the database for this process, and brings it up to date.
    pub fn open(server: &Arc<Server>) -> anyhow::Result<Self> {
        let runtime = Arc::new(BlockingRuntime::new()?);
        let session = server.connect(&runtime).context("the database cannot be reached")?;
        check(&session)?;
        let ours = vec![backend(&session)?];
        let waited = Clock::System.stopwatch();
        while !lock(&session)? {
            if waited.elapsed() > TURN {
                bail!(
                    "the database is in use by another ringback; stop that one, or give this one its own \
                     database_url"
                );
            }
            runtime.block_on(Clock::System.sleep(PAUSE));
        }
        migrate(&session, MIGRATIONS).context("the database cannot be brought up to date")?;
        let timeline = timeline(&session);
        let server = Arc::clone(server);
        Ok(Self { server, runtime, session, ours, incarnation: None, timeline, doubt: None })
    }

    /// Remembers under which number this process has the database.
    pub fn set_incarnation(&mut self, incarnation: i64) {
        self.incarnation = Some(incarnation);
    }

    pub fn tx(&self) -> Tx<'_> {
        Tx::Postgres(&self.session)
    }

    pub fn is_lost(&self) -> bool {
        self.session.is_broken() && self.doubt.is_none()
    }

    pub fn begin(&self, writes: bool) {
        self.session.begin(if writes { Begin::Write } else { Begin::Look });
    }

    pub fn commit(&mut self) -> Result<Committed> {
        match self.session.commit()? {
            session::Committed::Yes => Ok(Committed::Yes),
            session::Committed::Unknown(Some(xid)) => {
                self.doubt = Some(xid);
                Ok(Committed::Unknown)
            }
            // It only read.
            session::Committed::Unknown(None) => {
                Err(StoreError::Unavailable("the connection was lost".to_owned()))
            }
        }
    }

    pub fn roll_back(&self) {
        self.session.roll_back();
    }

    /// See [`super::writer_connection::WriterConnection::ready`].
    pub fn ready(&mut self) -> Result<Option<CommitOutcome>> {
        if self.session.is_broken() {
            self.session = self.server.connect(&self.runtime)?;
            if let Err(error) = self.take_up() {
                // Without the lock it is of no use.
                self.session.give_up();
                return Err(error);
            }
            tracing::info!("the database answers again");
        }
        let Some(xid) = &self.doubt else { return Ok(None) };
        let verdict = verdict(&self.session, xid)?;
        tracing::info!(outcome = ?verdict, transaction = xid, "what became of the commit in which the connection was lost");
        self.doubt = None;
        Ok(Some(verdict))
    }

    /// Makes a new session what the old one was.
    fn take_up(&mut self) -> Result<()> {
        let session = &self.session;
        let own = backend(session)?;
        if self.ours.len() == OURS_MAX {
            self.ours.remove(0);
        }
        self.ours.push(own);
        if !lock(session)? {
            let holder = Tx::Postgres(session).find(HOLDER, [LOCKED.into()], |row| row.int(0))?;
            match holder {
                Some(holder) if self.ours.contains(&holder) => {
                    let end = "select case when pg_terminate_backend(cast($1 as integer)) then 1 else 0 end";
                    Tx::Postgres(session).one(end, [holder.into()], |row| row.int(0))?;
                    return Err(StoreError::Unavailable("the old connection is still there".to_owned()));
                }
                None => return Err(StoreError::Unavailable("the lock was held a moment ago".to_owned())),
                Some(_) => end_the_process("another ringback has taken the database over"),
            }
        }
        if let (Some(old), Some(new)) = (&self.timeline, timeline(session))
            && *old != new
        {
            end_the_process("the database was failed over to another server");
        }
        let incarnation = Tx::Postgres(session).find(
            "select incarnation from nodes where id = $1",
            ["postgres".into()],
            |row| row.int(0),
        )?;
        if incarnation != self.incarnation {
            end_the_process("another ringback has had the database in between");
        }
        self.ours = vec![own];
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

    /// Waits a little for a server that is on its way back.
    pub fn pause(&self) {
        self.runtime.block_on(Clock::System.sleep(PAUSE));
    }

    pub fn close(self) {
        let _ = self.session.batch("select pg_advisory_unlock_all()");
        self.session.close();
    }
}

/// The server refuses here what would lose facts, or would not work.
fn check(session: &Session) -> anyhow::Result<()> {
    let tx = Tx::Postgres(session);
    let setting = |name: &str| tx.one("select current_setting($1)", [name.into()], |row| row.text(0));
    let version = setting("server_version_num")?.parse::<i64>().unwrap_or_default();
    if version < LEAST_VERSION {
        bail!("PostgreSQL {} is too old: 14 or newer is needed", setting("server_version")?);
    }
    if setting("server_encoding")? != "UTF8" {
        bail!("the database is not in UTF-8: create it with `encoding 'UTF8'`");
    }
    for name in ["synchronous_commit", "fsync"] {
        if setting(name)? == "off" {
            bail!(
                "the server has {name}=off, and would lose what it said was written: set {name} = on, for \
                 this database at least"
            );
        }
    }
    Ok(())
}

fn lock(session: &Session) -> Result<bool> {
    let sql = "select case when pg_try_advisory_lock($1) then 1 else 0 end";
    Tx::Postgres(session).one(sql, [LOCKED.into()], |row| row.flag(0))
}

/// Which session of the server has the lock.
const HOLDER: &str = "select pid from pg_locks
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())
      and (cast(classid as bigint) << 32) | cast(objid as bigint) = $1";

fn backend(session: &Session) -> Result<i64> {
    Tx::Postgres(session).one("select pg_backend_pid()", [], |row| row.int(0))
}

/// A promoted replica goes on under a timeline of its own. Not every server that speaks PostgreSQL's
/// language says which one it is on.
fn timeline(session: &Session) -> Option<String> {
    let sql = "select substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
    Tx::Postgres(session).one(sql, [], |row| row.text(0)).ok()
}

fn verdict(session: &Session, xid: &str) -> Result<CommitOutcome> {
    // A transaction of which the server has never heard did not happen on it.
    let sql = "select case when cast(cast($1 as text) as xid8) >= pg_snapshot_xmax(pg_current_snapshot())
                 then 'aborted' else pg_xact_status(cast(cast($1 as text) as xid8)) end";
    match Tx::Postgres(session).one(sql, [xid.into()], |row| row.opt_text(0))?.as_deref() {
        Some("committed") => Ok(CommitOutcome::Committed),
        Some("aborted") => Ok(CommitOutcome::Aborted),
        Some(_) => Err(StoreError::Unavailable("a commit is still under way".to_owned())),
        None => end_the_process("nobody knows what became of a commit"),
    }
}

/// Brings the schema to the newest version, each step in one transaction with its number.
fn migrate(session: &Session, migrations: &[&str]) -> anyhow::Result<()> {
    session.batch("create table if not exists schema_version (version bigint not null)")?;
    let done =
        Tx::Postgres(session)
            .one("select coalesce(max(version), 0) from schema_version", [], |row| row.count(0))?;
    let done = usize::try_from(done)?;
    if done > migrations.len() {
        bail!("it was written by a newer version of ringback (schema {done}, here {})", migrations.len());
    }
    for (version, migration) in (1..).zip(migrations).skip(done) {
        // An index of a large table is made for longer than any other statement may take.
        let step = format!(
            "begin; set local statement_timeout = 0; {migration}; insert into schema_version values ({version}); commit"
        );
        if let Err(error) = session.batch_without_end(&step) {
            let _ = session.batch("rollback");
            return Err(error.into());
        }
    }
    Ok(())
}
