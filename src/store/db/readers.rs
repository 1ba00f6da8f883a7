//! Read-only connections.

use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::error::{Result, StoreError};
use super::postgres;
use super::tx::Tx;

/// Number of concurrent reads: one for each of two cores, and one for a slow list.
pub const READERS: usize = 3;

/// A connection that only reads.
#[derive(Debug)]
pub enum Reader {
    /// A SQLite file.
    Sqlite(Connection),
    /// A PostgreSQL server.
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

    /// Releases the snapshot: a snapshot that stays open prevents the removal of old rows.
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

/// A pool of connections that only read.
#[derive(Debug)]
pub struct Readers {
    idle: Mutex<Vec<Reader>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Creates a pool of these connections.
    pub fn new(readers: Vec<Reader>) -> Self {
        let permits = Arc::new(Semaphore::new(readers.len()));
        Self { idle: Mutex::new(readers), permits }
    }

    /// Runs `read` in a transaction of its own, which sees one snapshot.
    pub async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Tx<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_| lost())?;
        let readers = Arc::clone(self);
        let work = tokio::task::spawn_blocking(move || {
            // The permit is held until the read ends: the caller may be cancelled before that.
            let _permit = permit;
            let mut reader = readers.take()?;
            read(&reader.begin()?)
        });
        work.await.map_err(|_| lost())?
    }

    fn take(&self) -> Result<Lease<'_>> {
        let reader = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Ok(Lease { readers: self, reader: Some(reader.ok_or_else(lost)?) })
    }
}

fn lost() -> StoreError {
    StoreError::Unavailable("a read was lost".to_owned())
}

/// A connection in use. It returns to the pool when the read ends, even by a panic.
struct Lease<'r> {
    readers: &'r Readers,
    reader: Option<Reader>,
}

impl Lease<'_> {
    fn begin(&mut self) -> Result<Tx<'_>> {
        self.reader.as_mut().ok_or_else(lost)?.begin()
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let Some(mut reader) = self.reader.take() else { return };
        reader.end();
        self.readers.idle.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
    }
}
