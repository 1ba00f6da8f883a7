//! Connections to the database: one that writes, and a few that only read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::mpsc;

use super::error::{CommitOutcome, Received, Result, StoreError, end_with};
use super::fair_semaphore::FairSemaphore;
use super::tx::Tx;
use super::{postgres, sqlite};
use crate::domain::{AppNo, Masked};

/// Number of concurrent reads: one for each of two cores, and one for a slow list.
const READERS: usize = 3;

/// Location of the database.
#[derive(Clone, Debug)]
pub enum DatabaseLocation {
    /// Path of a SQLite file.
    File(PathBuf),
    /// URL of a database on a PostgreSQL server. It may hold a password.
    Server(Masked),
}

impl DatabaseLocation {
    /// Locks the database for this process, migrates it, and opens the connections.
    pub fn open(&self) -> anyhow::Result<(WriterConnection, Readers)> {
        let (writer, readers): (_, anyhow::Result<Vec<Reader>>) = match self {
            Self::File(path) => {
                let writer = sqlite::WriterConnection::open(path)?;
                let readers = (0..READERS).map(|_| writer.reader().map(Reader::Sqlite)).collect();
                (WriterConnection::Sqlite(writer), readers)
            }
            Self::Server(url) => {
                let server = postgres::Server::new(url.reveal())?;
                let writer = postgres::WriterConnection::open(&server)?;
                let readers =
                    (0..READERS).map(|_| server.reader().map(Box::new).map(Reader::Postgres)).collect();
                (WriterConnection::Postgres(Box::new(writer)), readers)
            }
        };
        let (idle, permits) = (Mutex::new(readers?), FairSemaphore::new(READERS, READERS));
        Ok((writer, Readers { idle, permits }))
    }
}

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
        if let Self::Postgres(connection) = self {
            connection.incarnation = Some(incarnation);
        }
    }

    /// Rewrites a SQLite file without the remains of replaced and deleted rows. A PostgreSQL server cleans
    /// up its dead rows itself.
    pub fn rewrite(&self) -> Result<()> {
        if let Self::Sqlite(connection) = self { connection.rewrite() } else { Ok(()) }
    }

    /// The connection, as statements see it.
    pub fn tx(&self) -> Tx<'_> {
        match self {
            Self::Sqlite(connection) => Tx::Sqlite(&connection.connection),
            Self::Postgres(connection) => Tx::Postgres(&connection.session),
        }
    }

    /// Reconnects if the connection is lost, for up to `patience`. Returns the outcome of the unknown commit,
    /// if there was one.
    pub fn ready(&mut self, patience: Duration) -> Result<Option<CommitOutcome>> {
        if let Self::Postgres(connection) = self { connection.ready(patience) } else { Ok(None) }
    }

    /// Whether the connection is lost and nothing of the transaction has happened.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Postgres(connection) if connection.is_lost())
    }

    /// Begins a transaction that `writes` or only reads.
    pub fn begin(&self, writes: bool) -> Result<()> {
        match self {
            Self::Sqlite(connection) => connection.connection.execute_batch("begin immediate")?,
            Self::Postgres(connection) => connection.session.begin(writes),
        }
        Ok(())
    }

    /// Commits the transaction. [`StoreError::Unknown`]: the connection was lost before the server answered, and
    /// [`WriterConnection::ready`] returns the outcome when the server answers again.
    pub fn commit(&mut self) -> Result<()> {
        match self {
            Self::Sqlite(connection) => connection.commit(),
            Self::Postgres(connection) => connection.commit(),
        }
    }

    /// Rolls the transaction back.
    pub fn roll_back(&self) {
        match self {
            Self::Sqlite(connection) => connection.roll_back(),
            Self::Postgres(connection) => connection.session.roll_back(),
        }
    }

    /// Runs `work` in a transaction of its own at the start of the process. `failure` says what it failed to do.
    pub fn transaction<T>(
        &mut self,
        failure: &'static str,
        work: impl FnOnce(&Tx<'_>) -> Result<T>,
    ) -> anyhow::Result<T> {
        self.begin(true)?;
        let done = work(&self.tx()).inspect_err(|_| self.roll_back()).context(failure)?;
        match self.commit() {
            Err(StoreError::Unknown(_)) => bail!("the connection to the database was lost; start again"),
            committed => Ok(committed.map(|()| done)?),
        }
    }

    /// Waits for the next item of `queue`, for the loss of the connection, or for `timeout`.
    pub fn receive<T>(&self, queue: &mut mpsc::Receiver<T>, timeout: Option<Duration>) -> Received<T> {
        match self {
            Self::Sqlite(_) => queue.blocking_recv().map_or(Received::Closed, Received::Item),
            Self::Postgres(connection) => connection.session.receive(queue, timeout),
        }
    }

    /// The files of a SQLite database.
    pub fn files(&self) -> Option<Arc<sqlite::Files>> {
        if let Self::Sqlite(connection) = self { Some(Arc::clone(&connection.files)) } else { None }
    }

    /// Ends the process because a file of the database was deleted or replaced. Returns only if its contents could not
    /// be saved.
    pub fn end(&self, fault: sqlite::Fault) -> sqlite::Unsaved {
        match self {
            Self::Sqlite(connection) => connection.end(fault),
            Self::Postgres(_) => end_with("a server has no files here"),
        }
    }

    /// Ends the process because the database is damaged.
    pub fn end_damaged(&self, reason: &str) -> ! {
        match self {
            Self::Sqlite(connection) => connection.files.end_damaged(reason),
            Self::Postgres(_) => end_with(&damaged_server(reason)),
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

/// Returns a sentence about a damaged database on a server.
fn damaged_server(reason: &str) -> String {
    format!(
        "the server reports that the database is damaged ({reason}); restore a backup, and check its disk before"
    )
}

/// A connection that only reads.
#[derive(Debug)]
enum Reader {
    Sqlite(sqlite::Reader),
    Postgres(Box<postgres::Reader>),
}

impl Reader {
    fn begin(&mut self) -> Result<Tx<'_>> {
        Ok(match self {
            Self::Sqlite(reader) => {
                reader.connection.execute_batch("begin")?;
                Tx::Sqlite(&reader.connection)
            }
            Self::Postgres(reader) => Tx::Postgres(reader.begin()?),
        })
    }

    /// Releases the snapshot: a snapshot that stays open prevents the removal of old rows.
    fn end(&mut self) {
        match self {
            Self::Sqlite(reader) => {
                let _ = reader.connection.execute_batch("rollback");
            }
            Self::Postgres(reader) => reader.end(),
        }
    }

    /// Ends the process because the database is damaged.
    fn end_damaged(&self, reason: &str) -> ! {
        match self {
            Self::Sqlite(reader) => reader.end_damaged(reason),
            Self::Postgres(_) => end_with(&damaged_server(reason)),
        }
    }
}

/// A pool of connections that only read. The apps take turns, so that no app waits behind the reads of another.
#[derive(Debug)]
pub struct Readers {
    idle: Mutex<Vec<Reader>>,
    permits: Arc<FairSemaphore>,
}

impl Readers {
    /// Runs `read` for an app in a transaction of its own, which sees one snapshot.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        app: AppNo,
        read: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let lost = || StoreError::Unavailable("a read was lost".to_owned());
        let permit = self.permits.acquire(app).await;
        let readers = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || {
            // The permit is held until the read ends: the caller may be cancelled before that.
            let _permit = permit;
            let reader = readers.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut reader = reader.ok_or_else(lost)?;
            // The connection returns to the pool even after a panic.
            let result = catch_unwind(AssertUnwindSafe(|| read(&reader.begin()?)));
            reader.end();
            if let Ok(Err(StoreError::Damaged(reason))) = &result {
                reader.end_damaged(reason);
            }
            readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
            result.unwrap_or_else(|_| Err(lost()))
        });
        work.await.map_err(|_| lost())?
    }
}
