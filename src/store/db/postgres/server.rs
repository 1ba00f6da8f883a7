//! The address of a PostgreSQL server, and new sessions on it.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_postgres::config::TargetSessionAttrs;

use super::super::error::{Result, StoreError};
use super::runtime::BlockingRuntime;
use super::session::{LOCK_TIMEOUT, STATEMENT_TIMEOUT, Session, message};
use super::tls::Tls;
use crate::clock::{Clock, Stopwatch};

/// Timeout of each address of the server. Connecting and preparing a session may take twice as long.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after a failed connection in which the same error is returned without a new attempt.
const FAILURE_VALID_FOR: Duration = Duration::from_millis(200);

/// Settings of a session. Every statement has an index. PostgreSQL plans statements while the tables are
/// empty, when reading everything seems cheap, and keeps the plans; so plans without an index are disabled.
const SESSION_SETTINGS: &str = "set idle_in_transaction_session_timeout = '60s';
    set default_transaction_isolation = 'read committed'; set client_min_messages = 'warning';
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off";

/// The address of a server, and the last failure to connect.
#[derive(Debug)]
pub struct Server {
    config: tokio_postgres::Config,
    tls: Tls,
    last_failure: Mutex<Option<(Stopwatch, String)>>,
}

impl Server {
    /// Parses the URL of a database.
    pub fn new(url: &str) -> anyhow::Result<Arc<Self>> {
        // The message of the library may quote parts of a password.
        let config = tokio_postgres::Config::from_str(url);
        let mut config = config.map_err(|_| {
            anyhow::anyhow!("database_url cannot be parsed; expected postgres://user:password@host/database")
        })?;
        if config.get_application_name().is_none() {
            config.application_name("ringback");
        }
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        let tls = Tls::new(crate::tls::config(Vec::new())?);
        Ok(Arc::new(Self { config, tls, last_failure: Mutex::new(None) }))
    }

    /// Opens and prepares a session.
    pub fn connect(&self, runtime: &Arc<BlockingRuntime>) -> Result<Session> {
        let last_failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, reason)) = last_failure.as_ref().filter(|(at, _)| at.elapsed() < FAILURE_VALID_FOR) {
            return Err(StoreError::Unavailable(reason.clone()));
        }
        drop(last_failure);
        let connecting = Clock::System.timeout(CONNECT_TIMEOUT * 2, self.open_session(runtime));
        let reason = match runtime.block_on(connecting) {
            Some(Ok(session)) => return Ok(session),
            Some(Err(error)) => message(&error),
            None => "it does not answer".to_owned(),
        };
        let failure = Some((Clock::System.stopwatch(), reason.clone()));
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        Err(StoreError::Unavailable(reason))
    }

    async fn open_session(
        &self,
        runtime: &Arc<BlockingRuntime>,
    ) -> std::result::Result<Session, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(self.tls.clone()).await?;
        let driver = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (statement, lock) = (STATEMENT_TIMEOUT.as_millis(), LOCK_TIMEOUT.as_millis());
        client
            .batch_execute(&format!(
                "set statement_timeout = {statement}; set lock_timeout = {lock}; {SESSION_SETTINGS}"
            ))
            .await?;
        let number = client.prepare("select cast(pg_current_xact_id() as text)").await?;
        Ok(Session::new(Arc::clone(runtime), client, driver, number))
    }

    /// Returns a further connection, which only reads.
    pub fn reader(self: &Arc<Self>) -> anyhow::Result<Reader> {
        let runtime = Arc::new(BlockingRuntime::new()?);
        Ok(Reader { server: Arc::clone(self), runtime, session: None })
    }
}

/// A connection that only reads. It connects at the first read, and again after a loss.
#[derive(Debug)]
pub struct Reader {
    server: Arc<Server>,
    runtime: Arc<BlockingRuntime>,
    session: Option<Session>,
}

/// Begins a transaction that sees one snapshot.
const READ: &str = "begin isolation level repeatable read read only";

impl Reader {
    /// Begins a transaction. This also detects a lost connection, which is replaced.
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

    /// Ends the transaction.
    pub fn end(&mut self) {
        if self.session.as_ref().is_some_and(|session| session.batch("rollback").is_err()) {
            self.session = None;
        }
    }
}
