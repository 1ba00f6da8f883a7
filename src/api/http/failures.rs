//! Requests that fail because of the database: counted, and logged a few times a minute.
//!
//! While a disk is full or the server is away, all requests that need the database fail for the same reason. A line for
//! each would fill the log, perhaps on the same disk. So the first, tenth, hundredth … of a minute is logged, with the
//! number so far. For writes, `the store refuses writes` and `the store accepts writes again` enclose that time.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::domain::Timestamp;
use crate::store::StoreError;

/// The time in which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The failures of the current minute.
#[derive(Debug, Default)]
pub(super) struct Failures(Mutex<Windows>);

#[derive(Debug, Default)]
struct Windows {
    refused: Window,
    unknown: Window,
}

#[derive(Debug, Default)]
struct Window {
    start: Timestamp,
    count: u64,
}

impl Failures {
    /// Counts a request that failed with this error, and logs it if it is the first, tenth, hundredth … of a minute.
    pub(super) fn note(&self, error: &StoreError, now: Timestamp) {
        let mut windows = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match error {
            StoreError::Unavailable(reason) | StoreError::Damaged(reason) => {
                if let Some(count) = windows.refused.count(now) {
                    tracing::warn!(error = %reason, count, "requests refused: the database is not available");
                }
            }
            StoreError::Unknown(reason) => {
                if let Some(count) = windows.unknown.count(now) {
                    tracing::warn!(error = %reason, count, "outcomes unknown: the database was lost during writes");
                }
            }
            // A bug of one kind of request: each line can have another reason.
            StoreError::Inconsistent(reason) => tracing::error!(error = %reason, "request failed"),
        }
    }
}

impl Window {
    /// Counts a failure. Returns the number in this window if a line reports it.
    fn count(&mut self, now: Timestamp) -> Option<u64> {
        // Also after the clock was set back.
        if now >= self.start.plus(WINDOW) || now < self.start {
            *self = Self { start: now, count: 0 };
        }
        self.count += 1;
        (10_u64.pow(self.count.ilog10()) == self.count).then_some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_logged_at_powers_of_ten_within_a_minute() {
        let mut window = Window::default();
        let at = |seconds: i64| Timestamp::from_millis(1_771_426_800_000 + seconds * 1_000);
        let logged: Vec<u64> = (0..1_500).filter_map(|n| window.count(at(n / 30))).collect();
        assert_eq!(logged, [1, 10, 100, 1_000]);
        assert_eq!(window.count(at(60)), Some(1));
        assert_eq!(window.count(at(-3_600)), Some(1), "after the clock was set back");
    }
}
