//! The address of a PostgreSQL server, and its sessions that only read.

use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio_postgres::config::TargetSessionAttrs;

use super::super::error::{Result, StoreError};
use super::addresses::open_first;
use super::session::{BlockingRuntime, Session, message};
use super::tls::{self, Tls};
use crate::clock::{Clock, Stopwatch};
use crate::domain::{PostgresUrl, Verification};

/// Default of the timeout of each address of the server, which `connect_timeout` in the URL replaces.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time after a failed connection in which the same error is returned without a new attempt.
const FAILURE_VALID_FOR: Duration = Duration::from_millis(200);

/// What the library says of a session in which `transaction_read_only` is on.
pub(super) const READ_ONLY: &str = "database does not allow writes";

const READ_ONLY_REMEDY: &str = "use the address of the primary server, or set default_transaction_read_only = off for the \
                                role: alter role NAME set default_transaction_read_only = off";

/// The address of a server, and the last failure to connect.
#[derive(Debug)]
pub struct Server {
    config: tokio_postgres::Config,
    url: PostgresUrl,
    /// TLS with the authorities of the machine. `None`: the file of the URL is read for each connection.
    tls: Option<Tls>,
    /// Timeout of each address of the server. Connecting and preparing a session may take twice as long.
    connect_timeout: Duration,
    last_failure: Mutex<Option<(Stopwatch, String)>>,
}

impl Server {
    /// Parses the URL of a database.
    pub fn new(url: &str) -> anyhow::Result<Arc<Self>> {
        let url = PostgresUrl::parse(url).map_err(|error| anyhow::anyhow!("database_url: {error}"))?;
        // The message of the library may quote parts of a password.
        let config = tokio_postgres::Config::from_str(url.url.reveal());
        let mut config = config.map_err(|_| {
            anyhow::anyhow!("database_url cannot be parsed; expected postgres://user:password@host/database")
        })?;
        if config.get_application_name().is_none() {
            config.application_name("ringback");
        }
        let connect_timeout = url.connect_timeout.unwrap_or(CONNECT_TIMEOUT);
        config
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .connect_timeout(connect_timeout)
            .tcp_user_timeout(Duration::from_secs(10))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        let tls = Tls(Arc::new(tls::config(&url)?));
        let tls = url.roots.is_none().then_some(tls);
        if url.verification == Verification::None {
            tracing::warn!("the certificate of the database server is not verified (sslmode=no-verify)");
        }
        Ok(Arc::new(Self { config, url, tls, connect_timeout, last_failure: Mutex::default() }))
    }

    /// Opens and prepares a session.
    pub fn connect(&self, runtime: &Arc<BlockingRuntime>) -> Result<Session> {
        if let Some((at, reason)) = &*self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
            && at.elapsed() < FAILURE_VALID_FOR
        {
            return Err(StoreError::Unavailable(reason.clone()));
        }
        let tls = match &self.tls {
            Some(tls) => tls.clone(),
            None => tls::config(&self.url)
                .map(|config| Tls(Arc::new(config)))
                .map_err(|error| StoreError::Unavailable(format!("{error:#}")))?,
        };
        let opening = open_first(&self.config, |config| {
            let tls = tls.clone();
            let open = async move {
                let opened = Session::open(runtime, &config, tls).await;
                opened.map_err(|error| {
                    let message = message(&error);
                    let read_only = message.contains(READ_ONLY).then_some(READ_ONLY_REMEDY);
                    match read_only.or_else(|| tls::remedy(&error)) {
                        Some(remedy) => format!("{message}; {remedy}"),
                        None => message,
                    }
                })
            };
            open.boxed_local()
        });
        let reason = match runtime.block_on(Clock::System.timeout(self.connect_timeout * 2, opening)) {
            Some(Ok(session)) => return Ok(session),
            Some(Err(reason)) => reason,
            None => "it does not answer".to_owned(),
        };
        let failure = Some((Clock::System.stopwatch(), reason.clone()));
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        Err(StoreError::Unavailable(reason))
    }

    /// Returns a further connection, which only reads.
    pub fn reader(self: &Arc<Self>) -> anyhow::Result<Reader> {
        Ok(Reader { server: Arc::clone(self), runtime: BlockingRuntime::new()?, session: None })
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
        let session = if let Some(session) = self.session.take().filter(|old| old.batch(READ).is_ok()) {
            session
        } else {
            let session = self.server.connect(&self.runtime)?;
            session.batch(READ)?;
            session
        };
        Ok(self.session.insert(session))
    }

    /// Ends the transaction.
    pub fn end(&mut self) {
        if self.session.as_ref().is_some_and(|session| session.batch("rollback").is_err()) {
            self.session = None;
        }
    }
}
