//! The pause after results that could not be recorded.
//!
//! While the database is full, locked or incomplete, the store says so, and a result is kept until it can be written
//! (`Dispatcher::record`). Any other error of that write is one of this row (a bug), or of every row, such as a trigger
//! or a constraint that was added by hand. The delivery is then still due in the store. No attempt starts for a while,
//! because its result could be lost as well; the pause doubles until a result is recorded. That of another delivery ends
//! the pause, so one broken row does not delay the others for long.

use std::time::Duration;

use crate::domain::Timestamp;

/// First and largest pause.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// The results that could not be recorded since the last one that was.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    failures: u32,
    until: Timestamp,
}

impl Unrecorded {
    /// Notes a result that could not be recorded. A pause begins.
    pub(super) fn failed(&mut self, now: Timestamp) {
        // Attempts that were in flight before the pause fail together.
        if !self.is_pausing(now) {
            self.failures = self.failures.saturating_add(1);
        }
        let factor = 2_u32.saturating_pow(self.failures.saturating_sub(1));
        self.until = now.plus(PAUSE.0.saturating_mul(factor).min(PAUSE.1));
    }

    /// Notes a recorded result.
    pub(super) fn recorded(&mut self) {
        *self = Self::default();
    }

    /// Returns whether no attempt may start.
    pub(super) fn is_pausing(&self, now: Timestamp) -> bool {
        // Not for longer, if the clock was set back.
        self.failures > 0 && now < self.until && self.until <= now.plus(PAUSE.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::default().plus(Duration::from_secs(10_000 + seconds))
    }

    /// Fails at a time, and returns the seconds of the pause that begins.
    fn fail(unrecorded: &mut Unrecorded, seconds: u64) -> u64 {
        unrecorded.failed(at(seconds));
        unrecorded.until.since(at(seconds)).as_secs()
    }

    #[test]
    fn the_pause_doubles_until_a_result_is_recorded() {
        let mut unrecorded = Unrecorded::default();
        assert!(!unrecorded.is_pausing(at(0)));
        assert_eq!(fail(&mut unrecorded, 0), 10);
        assert_eq!(fail(&mut unrecorded, 1), 10, "in flight before");
        assert!(unrecorded.is_pausing(at(10)) && !unrecorded.is_pausing(at(11)));
        assert_eq!((fail(&mut unrecorded, 11), fail(&mut unrecorded, 31)), (20, 40));
        unrecorded.recorded();
        assert!(!unrecorded.is_pausing(at(32)));
        assert_eq!(fail(&mut unrecorded, 32), 10);
        assert!(!unrecorded.is_pausing(Timestamp::default()), "the clock was set back");
    }

    #[test]
    fn the_pause_has_a_limit() {
        let mut unrecorded = Unrecorded::default();
        let pauses: Vec<u64> = (0..40).map(|n| fail(&mut unrecorded, n * 1_000)).collect();
        assert_eq!((pauses[5], pauses[6], pauses[39]), (320, 600, 600));
    }
}
