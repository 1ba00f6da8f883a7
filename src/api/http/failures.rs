//! Requests that fail because of the database: counted, and logged a few times a minute.
//!
//! While a disk is full or the server is away, all requests that need the database fail for the same reason
//! ([`LogWindow`]). For writes, `the store refuses writes` and `the store accepts writes again` enclose that time.

use std::sync::{Mutex, PoisonError};

use crate::domain::Timestamp;
use crate::store::StoreError;
use crate::telemetry::log_window::LogWindow;

/// The failures of the current minute.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Windows>);

#[derive(Debug, Default)]
struct Windows {
    refused: LogWindow,
    unknown: LogWindow,
}

impl Failures {
    /// Counts a request that failed with this error, and logs it if it is the first, tenth, hundredth … of a minute.
    pub(super) fn note(&self, error: &StoreError, now: Timestamp) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            StoreError::Unavailable(reason) | StoreError::Damaged(reason) | StoreError::Schema(reason) => {
                if let Some(count) = windows.refused.count(now) {
                    tracing::warn!(error = %reason, count, "requests refused: the database is not available");
                }
            }
            StoreError::Unknown(reason) => {
                if let Some(count) = windows.unknown.count(now) {
                    tracing::warn!(error = %reason, count, "outcomes unknown: the database was lost during writes");
                }
            }
            // The client has deleted its app itself.
            StoreError::AppDeleted => {}
            // A bug of one kind of request: each line can have another reason.
            StoreError::Inconsistent(reason) => tracing::error!(error = %reason, "request failed"),
        }
    }
}
