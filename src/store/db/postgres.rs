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
//! **No pooler in transaction mode.** Such a pooler gives each transaction the session that is free: the lock, the
//! settings and the prepared statements of one session are then used by others. [`check_sessions`] opens a second
//! session at the start, and refuses the server if a transaction of the second one displaces the first.
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
//!   for an expiry, an end as not found and a stop;
//! - an attempt carries the number of attempts before it, and is written only if that number is correct;
//! - an observation sets the same values, and a `job.progress` event of the same poll is not made twice;
//! - a client repeats its request with its `Idempotency-Key`, or gets a second watch, as documented.
//!
//! **Another server.** After a failover, the new primary may lack commits of the old one, and its rows may
//! differ from the memory of this process. Its timeline differs, and this process ends.

mod addresses;
mod bulk;
mod server;
mod session;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use backon::{BlockingRetryable as _, ConstantBuilder};

use self::server::READ_ONLY;
use self::session::BlockingRuntime;
use super::error::{CommitOutcome, Result, StoreError, end_the_process};
use super::tx::Tx;
use super::value::params;
use crate::clock::Clock;

pub use self::server::{Reader, Server};
pub use self::session::Session;

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

/// Number of the tries to detect a pooler in transaction mode.
const POOLER_TRIES: u32 = 2;

/// Minimum version, in the numbering of the server.
const MIN_VERSION: i64 = 140_000;

/// Every `migrations/postgres/*.sql`: (file name, text), in the order of their versions. The build script
/// lists the folder. A released migration never changes.
pub const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations_postgres.rs"));

/// The connection that writes.
#[derive(Debug)]
pub struct WriterConnection {
    server: Arc<Server>,
    runtime: Arc<BlockingRuntime>,
    pub session: Session,
    /// Process ids, on the server, of the sessions that hold the lock or may hold it: the answer to a
    /// session that asked for the lock may have been lost.
    own_sessions: Vec<i64>,
    /// Number of times that the database had been opened when this process opened it.
    pub incarnation: Option<i64>,
    /// Timeline of the server, if the server reports it.
    timeline: Option<String>,
    /// Number of the transaction whose outcome is unknown.
    unknown_commit: Option<String>,
}

impl WriterConnection {
    /// Connects, locks the database for this process, and migrates it.
    pub fn open(server: &Arc<Server>) -> anyhow::Result<Self> {
        let runtime = BlockingRuntime::new()?;
        let session = server.connect(&runtime).map_err(|error| {
            let context = if error.to_string().contains(READ_ONLY) {
                "the database accepts no writes from this role"
            } else {
                "the database cannot be reached; check database_url, and that the server runs"
            };
            anyhow::Error::from(error).context(context)
        })?;
        check(&session)?;
        check_sessions(server, &runtime, &session)?;
        let own_sessions = vec![backend(&session)?];
        if !lock(&session, &runtime)? {
            bail!(
                "the database is in use by another ringback; stop that one, or give this one its own \
                 database_url"
            );
        }
        migrate(&session).context("the database cannot be brought up to date")?;
        let timeline = timeline(&session);
        let server = Arc::clone(server);
        Ok(Self { server, runtime, session, own_sessions, incarnation: None, timeline, unknown_commit: None })
    }

    /// Whether the connection is lost and nothing of the transaction has happened.
    pub fn is_lost(&self) -> bool {
        self.session.broken.get() && self.unknown_commit.is_none()
    }

    /// Commits the transaction. Keeps its number if the outcome is unknown.
    pub fn commit(&mut self) -> Result<()> {
        let committed = self.session.commit();
        if matches!(committed, Err(StoreError::Unknown(_))) {
            self.unknown_commit = self.session.xid.take();
        }
        committed
    }

    /// Reconnects if the connection is lost, and repeats this until it succeeds, for up to `patience`. Returns
    /// the outcome of the unknown commit, if there was one.
    pub fn ready(&mut self, patience: Duration) -> Result<Option<CommitOutcome>> {
        let (sleeper, waited) = (self.runtime.sleeper(), Clock::System.stopwatch());
        (|| self.try_ready())
            .retry(ConstantBuilder::new().with_delay(PAUSE).without_max_times())
            .sleep(sleeper)
            .when(|_| waited.elapsed() < patience)
            .call()
    }

    fn try_ready(&mut self) -> Result<Option<CommitOutcome>> {
        if self.session.broken.get() {
            self.session = self.server.connect(&self.runtime)?;
            if let Err(error) = self.take_over() {
                // A session without the lock must not be used.
                self.session.broken.set(true);
                return Err(error);
            }
            tracing::info!("the database answers again");
        }
        let Some(xid) = &self.unknown_commit else { return Ok(None) };
        let outcome = outcome(&self.session, xid)?;
        let known = "the outcome of the commit whose connection was lost is known";
        tracing::info!(?outcome, transaction = xid, "{known}");
        self.unknown_commit = None;
        Ok(Some(outcome))
    }

    /// Takes the lock with a new session, and verifies that no other process had it in between.
    fn take_over(&mut self) -> Result<()> {
        let session = &self.session;
        let own = backend(session)?;
        if self.own_sessions.len() == OWN_SESSIONS_MAX {
            self.own_sessions.remove(0);
        }
        self.own_sessions.push(own);
        if !try_lock(session)? {
            let holder = Tx::Postgres(session).find(LOCK_HOLDER, [LOCK_KEY.into()], |row| row.int(0))?;
            match holder {
                Some(holder) if self.own_sessions.contains(&holder) => {
                    // The server waits up to a second for the end, so that the next attempt usually succeeds.
                    let end =
                        "select case when pg_terminate_backend(cast($1 as integer), 1000) then 1 else 0 end";
                    Tx::Postgres(session).one(end, params![holder], |row| row.int(0))?;
                }
                None => {}
                Some(_) => end_the_process("another ringback has taken the database over"),
            }
            if !try_lock(session)? {
                // The caller refuses writes and tries again.
                return Err(StoreError::Unavailable("the old connection still held the lock".to_owned()));
            }
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

    /// Releases the lock and closes the connection.
    pub fn close(self) {
        let _ = self.session.batch("select pg_advisory_unlock_all()");
        self.session.close();
    }
}

/// Takes the lock, if no session holds it.
fn try_lock(session: &Session) -> Result<bool> {
    let sql = "select case when pg_try_advisory_lock($1) then 1 else 0 end";
    Tx::Postgres(session).one(sql, [LOCK_KEY.into()], |row| row.flag(0))
}

/// Takes the lock at the start, and waits up to [`LOCK_PATIENCE`] while another session holds it. Returns whether it
/// is taken.
fn lock(session: &Session, runtime: &Arc<BlockingRuntime>) -> Result<bool> {
    let waited = Clock::System.stopwatch();
    let locked = (|| if try_lock(session).map_err(Some)? { Ok(()) } else { Err(None) })
        .retry(ConstantBuilder::new().with_delay(PAUSE).without_max_times())
        .sleep(runtime.sleeper())
        .when(|error| error.is_none() && waited.elapsed() <= LOCK_PATIENCE)
        .call();
    match locked {
        Ok(()) => Ok(true),
        Err(None) => Ok(false),
        Err(Some(error)) => Err(error),
    }
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

/// Refuses a pooler that gives each transaction another session.
///
/// While a transaction of another session is open, this one has the process on the server that it had before. In
/// transaction mode, the pooler has given that process to the transaction: mostly the process that became free last.
/// The traffic of other clients can hide that once; so it is tried several times. A pooler that does not know prepared
/// statements shows itself by their errors.
fn check_sessions(server: &Server, runtime: &Arc<BlockingRuntime>, session: &Session) -> anyhow::Result<()> {
    let is_shared = || -> Result<bool> {
        let own = backend(session)?;
        let other = server.connect(runtime)?;
        other.begin(false);
        // The pool may have one process only: this session must not be asked then, because it would wait.
        let is_shared = backend(&other)? == own || backend(session)? != own;
        other.roll_back();
        other.close();
        Ok(is_shared)
    };
    for _ in 0..POOLER_TRIES {
        match is_shared() {
            Ok(false) => {}
            // The statement does not exist in this session, or exists already; or a pooler in statement mode refuses
            // the transaction.
            Err(error)
                if !["26000", "42P05", "statement pooling"]
                    .iter()
                    .any(|sign| error.to_string().contains(sign)) =>
            {
                return Err(error.into());
            }
            Ok(true) | Err(_) => bail!(
                "database_url is the address of a pooler in transaction mode or statement mode, which gives each \
                 transaction another session, and the lock against a second process belongs to a session; use the address of the server, or \
                 of a pooler in session mode (Supabase: port 5432; Neon: the host without -pooler)"
            ),
        }
    }
    Ok(())
}

/// Refuses servers that would lose commits or do not work.
fn check(session: &Session) -> anyhow::Result<()> {
    let tx = Tx::Postgres(session);
    let setting = |name: &str| tx.one("select current_setting($1)", [name.into()], |row| row.text(0));
    let version = setting("server_version_num")?.parse::<i64>().unwrap_or_default();
    if version < MIN_VERSION {
        bail!("PostgreSQL {} is too old: 14 or newer is needed", setting("server_version")?);
    }
    if setting("server_encoding")? != "UTF8" {
        bail!("the database is not in UTF-8: create it with `encoding 'UTF8'`");
    }
    if tx.one("select current_schema()", [], |row| row.opt_text(0))?.is_none() {
        bail!(
            "the search_path `{}` names no schema that exists and that the role may use; create the schema, or set \
             search_path for the role: alter role NAME set search_path = public",
            setting("search_path")?
        );
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

/// Brings the schema to the newest version. Each migration is one transaction with its version number.
fn migrate(session: &Session) -> anyhow::Result<()> {
    session.batch("create table if not exists schema_version (version bigint not null)")?;
    let newest = "select coalesce(max(version), 0) from schema_version";
    let done = usize::try_from(Tx::Postgres(session).one(newest, [], |row| row.count(0))?)?;
    if done > MIGRATIONS.len() {
        bail!(
            "it was written by a newer version of ringback (schema {done}, here {}); start that version, or restore a backup",
            MIGRATIONS.len()
        );
    }
    for (version, (name, migration)) in (1..).zip(MIGRATIONS).skip(done) {
        // Creating an index of a large table may take longer than any other statement.
        let step = format!(
            "begin; set local statement_timeout = 0; {migration}; insert into schema_version values ({version}); commit"
        );
        if let Err(error) = session.batch_without_timeout(&step) {
            let _ = session.batch("rollback");
            return Err(error).with_context(|| format!("the migration {name} failed"));
        }
    }
    Ok(())
}
