//! Repeating a write until the database accepts it.

use std::future::Future;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};

use super::db::{Result, StoreError};
use crate::clock::Clock;

/// Pause between two attempts to write while the database accepts no writes.
pub const WRITE_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Repeats `write` while the database accepts no writes. Returns the error only if a retry cannot help
/// ([`StoreError::Inconsistent`]).
///
/// A write must change nothing when it is repeated, because the commit of a failed attempt may have happened
/// ([`StoreError::Unknown`]).
pub async fn write_until_accepted<T, F>(clock: &Clock, write: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    write
        .retry(ConstantBuilder::new().with_delay(WRITE_RETRY_PAUSE).without_max_times())
        .sleep(clock.clone())
        .when(|error| matches!(error, StoreError::Unavailable(_) | StoreError::Unknown(_)))
        .await
}
