//! Errors of the store, and outcomes of commits and of waits.

use rusqlite::{ErrorCode, ffi};

use crate::telemetry::logs;

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
    /// The database is damaged: a part of it cannot be read, now or later. The process ends.
    #[error("the database is damaged: {0}")]
    Damaged(String),
    /// A table or a column is missing in the database. Nothing was changed.
    #[error("the tables of the database are not complete: {0}")]
    Schema(String),
    /// The app of a request was deleted meanwhile. Nothing was changed.
    #[error("the app was deleted")]
    AppDeleted,
    /// A row contradicts itself, or a statement failed that should not: a bug.
    #[error("the database is inconsistent: {0}")]
    Inconsistent(String),
}

/// Result of the functions of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        if is_damage(&error) {
            return Self::Damaged(error.to_string());
        }
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied,
            ) => Self::Unavailable(error.to_string()),
            _ if is_schema_error(&error) => Self::Schema(error.to_string()),
            _ => Self::Inconsistent(error.to_string()),
        }
    }
}

/// Whether a statement failed because a table or a column is missing. SQLite has no code of its own for it. The
/// statements are constants, so no request can cause such an error.
fn is_schema_error(error: &rusqlite::Error) -> bool {
    // When the statement is prepared, or when it is run.
    let (error, text) = if let rusqlite::Error::SqlInputError { error, msg, .. } = error {
        (error, msg)
    } else if let rusqlite::Error::SqliteFailure(error, Some(msg)) = error {
        (error, msg)
    } else {
        return false;
    };
    let is_missing = ["no such ", "has no column named "].iter().any(|words| text.contains(words));
    error.code == ErrorCode::Unknown && is_missing
}

/// Whether an error of SQLite shows damage: a page has the wrong content, or the disk cannot read it. A repetition
/// of the statement would fail in the same way, while statements that need other pages succeed.
pub fn is_damage(error: &rusqlite::Error) -> bool {
    let rusqlite::Error::SqliteFailure(error, _) = error else { return false };
    matches!(error.code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        || matches!(
            error.extended_code,
            ffi::SQLITE_IOERR_READ
                | ffi::SQLITE_IOERR_SHORT_READ
                | ffi::SQLITE_IOERR_DATA
                | ffi::SQLITE_IOERR_CORRUPTFS
        )
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
    end_with(&format!("{why}; the process ends, and the next start reads what is there"))
}

/// Ends the process with a sentence that says what happened and what to do. It is logged, so every command that opens a
/// database starts logging before.
///
/// Not by `abort`: that would write a core dump, with every secret of the process in it. `exit` runs the handlers of
/// the C library before the process ends, and other threads run on meanwhile. They do nothing that they could not have
/// done before: only the writer commits and answers. If the writer calls this function, it commits nothing more. If a
/// reader calls it, a commit of the writer in this time (at most the second for the log) is complete, and is answered
/// as every other. An attempt or a poll in flight ends as in a crash.
pub fn end_with(sentence: &str) -> ! {
    tracing::error!("{sentence}");
    logs::flush();
    std::process::exit(1);
}
