//! The read-write connection, on either database.

use std::time::Duration;

use tokio::sync::mpsc;

use super::error::Result;
use super::outcome::{CommitOutcome, Committed, Received};
use super::tx::Tx;
use super::{postgres, sqlite};

/// The only connection that changes the database.
#[derive(Debug)]
pub enum WriterConnection {
    /// A SQLite file.
    Sqlite(sqlite::WriterConnection),
    /// A PostgreSQL server.
    Postgres(Box<postgres::WriterConnection>),
}

impl WriterConnection {
    /// Name of this process's row in `nodes`.
    pub const fn node(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Sets how often the database has been opened, this time included.
    pub fn set_incarnation(&mut self, incarnation: i64) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(connection) => connection.set_incarnation(incarnation),
        }
    }

    /// Rewrites a SQLite file without the remains of replaced and deleted rows. A PostgreSQL server cleans
    /// up its dead rows itself.
    pub fn rewrite(&self) -> Result<()> {
        match self {
            Self::Sqlite(connection) => connection.rewrite(),
            Self::Postgres(_) => Ok(()),
        }
    }

    /// The connection, as statements see it.
    pub fn tx(&self) -> Tx<'_> {
        match self {
            Self::Sqlite(connection) => Tx::Sqlite(&connection.connection),
            Self::Postgres(connection) => connection.tx(),
        }
    }

    /// Reconnects if the connection is lost. Returns the outcome of the unknown commit, if there was one.
    pub fn ready(&mut self) -> Result<Option<CommitOutcome>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(connection) => connection.ready(),
        }
    }

    /// Whether the connection is lost and nothing of the transaction has happened.
    pub fn is_lost(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(connection) => connection.is_lost(),
        }
    }

    /// Begins a transaction that `writes` or only reads.
    pub fn begin(&self, writes: bool) -> Result<()> {
        match self {
            Self::Sqlite(connection) => connection.begin(),
            Self::Postgres(connection) => {
                connection.begin(writes);
                Ok(())
            }
        }
    }

    /// Commits the transaction.
    pub fn commit(&mut self) -> Result<Committed> {
        match self {
            Self::Sqlite(connection) => connection.commit().map(|()| Committed::Yes),
            Self::Postgres(connection) => connection.commit(),
        }
    }

    /// Rolls the transaction back.
    pub fn roll_back(&self) {
        match self {
            Self::Sqlite(connection) => connection.roll_back(),
            Self::Postgres(connection) => connection.roll_back(),
        }
    }

    /// Waits for the next item of `queue`, for the loss of the connection, or for `timeout`.
    pub fn receive<T>(&self, queue: &mut mpsc::Receiver<T>, timeout: Option<Duration>) -> Received<T> {
        match self {
            Self::Sqlite(_) => queue.blocking_recv().map_or(Received::Closed, Received::Item),
            Self::Postgres(connection) => connection.receive(queue, timeout),
        }
    }

    /// Repeats [`WriterConnection::ready`] until it succeeds, for up to `patience`.
    pub fn wait_until_ready(&mut self, patience: Duration) -> Result<Option<CommitOutcome>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(connection) => connection.wait_until_ready(patience),
        }
    }

    /// Closes the connection.
    pub fn close(self) {
        match self {
            Self::Sqlite(connection) => connection.close(),
            Self::Postgres(connection) => connection.close(),
        }
    }
}
