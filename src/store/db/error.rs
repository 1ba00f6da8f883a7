//! Errors of the store, and outcomes of commits and of waits.

use rusqlite::ErrorCode;

/// Error of a read or a write.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be read or written now: it is full, broken, locked or not reachable. Nothing was
    /// changed.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The connection was lost in a commit. The outcome is known when the server answers again.
    #[error("the connection to the database was lost in a commit: {0}")]
    Unknown(String),
    /// A row contradicts itself, or a statement failed that should not: a bug.
    #[error("the database is inconsistent: {0}")]
    Inconsistent(String),
}

/// Result of the functions of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Inconsistent(error.to_string()),
        }
    }
}

/// Outcome of a commit that was unknown at first ([`StoreError::Unknown`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// The transaction is on disk.
    Committed,
    /// The transaction did not happen.
    Aborted,
}

/// Reason why the writer stopped waiting.
#[derive(Debug)]
pub enum Received<T> {
    /// A command arrived.
    Item(T),
    /// The queue is closed: no command will arrive.
    Closed,
    /// The connection was lost, or it is time to reconnect.
    Lost,
}

/// Ends the process where continuing would require a guess about the contents of the database: the next
/// start reads what is there.
pub fn end_the_process(why: &str) -> ! {
    tracing::error!("{why}; the process ends, and the next start reads what is there");
    std::process::abort();
}
