//! Errors of the store.

use rusqlite::ErrorCode;

/// Why the store did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be read or written now: full, broken, locked. Nothing was changed.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The connection was lost while the database was asked to commit: whether it did is known once it
    /// answers again.
    #[error("the database was lost while it was asked to write: {0}")]
    Unknown(String),
    /// A row that contradicts itself, or a statement that should not have failed: a bug.
    #[error("the database holds what it should not: {0}")]
    Inconsistent(String),
}

/// Short for what the store's own functions return.
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

/// Ends the process where continuing would require a guess about the contents of the database: the next
/// start reads what is there.
pub fn end_the_process(why: &str) -> ! {
    tracing::error!("{why}; the process ends, and the next start reads what is there");
    std::process::abort();
}
