//! Operations: work on many rows that a client has requested.

use super::OperationId;

word_enum! {
    /// State of an operation.
    OperationStatus {
        /// It is in progress.
        Running = "running",
        /// It has ended, and everything is done.
        Succeeded = "succeeded",
        /// It has ended early because of an error.
        Failed = "failed",
    }
}

/// Row number of an operation in the database. It is never shown in public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct OperationNo(pub i64);

/// An operation as a client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Id.
    pub id: OperationId,
    /// State.
    pub status: OperationStatus,
    /// Number of rows that it concerns, counted before it began.
    pub total: u64,
    /// Number of rows that are done.
    pub done: u64,
}
