//! The idempotency keys of requests in progress.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::AppNo;

/// An app, a path and an `Idempotency-Key`.
pub(super) type KeyName = (AppNo, String, String);

/// The idempotency keys of requests in progress.
#[derive(Debug, Default)]
pub struct InProgressKeys(Mutex<HashSet<KeyName>>);

impl InProgressKeys {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashSet<KeyName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
