//! Counting failures of attempts that run concurrently.

use super::Timestamp;

/// Number of failures in a row, for attempts that may be in flight at the same time.
///
/// **Failures that were in flight together count once.** A restart of a server that lasts two seconds fails every
/// attempt that is in flight. Those failures are one observation of one fault, however many there are; a count of
/// them measures only the concurrency. A failure is therefore counted only if its attempt started after the last
/// counted failure ended: it is a new observation, made after the fault was known.
///
/// So a count of *n* needs *n* attempts one after another. If an attempt fails at once, the pause between two of
/// them is what the caller's backoff or schedule makes it. Times have a resolution of 1 ms, and an attempt that
/// starts in the millisecond in which the last counted failure ended does not count.
///
/// If the clock is set back, an attempt ends before the last counted failure; it is counted, so a streak never
/// waits for the clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailureStreak {
    count: u32,
    /// End of the last counted failure.
    counted_at: Timestamp,
}

impl FailureStreak {
    /// Records a failure. Returns whether it was counted.
    pub fn failed(&mut self, started_at: Timestamp, ended_at: Timestamp) -> bool {
        let was_set_back = ended_at < self.counted_at;
        let is_new = self.count == 0 || started_at > self.counted_at || was_set_back;
        if is_new {
            self.count = self.count.saturating_add(1);
            self.counted_at = ended_at;
        }
        is_new
    }

    /// Ends the streak after a success.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Returns the number of counted failures since the last success.
    pub fn count(self) -> u32 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, start and end of each failure, and the expected count.
    type Case = (&'static str, &'static [(i64, i64)], u32);

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    /// Returns the count after failures that started and ended at these times.
    fn count(failures: &[(i64, i64)]) -> u32 {
        let mut streak = FailureStreak::default();
        for (started, ended) in failures {
            streak.failed(at(*started), at(*ended));
        }
        streak.count()
    }

    #[test]
    fn failures_that_were_in_flight_together_count_once() {
        const HOUR: i64 = 3_600_000;
        const TABLE: [Case; 8] = [
            ("none", &[], 0),
            ("one after another", &[(0, 5), (6, 9), (10, 20)], 3),
            ("five within a millisecond", &[(7, 7), (7, 7), (7, 7), (7, 7), (7, 7)], 1),
            ("started before the first ended", &[(0, 100), (50, 150), (99, 200), (101, 201)], 2),
            ("a long one that ends late", &[(0, 10), (11, 12), (1, 20_000), (13, 14)], 3),
            ("two rounds of three", &[(0, 9), (0, 9), (1, 9), (10, 19), (11, 20), (12, 21)], 2),
            ("started as the last one ended", &[(0, 10), (10, 20)], 1),
            ("the clock was set back", &[(HOUR, HOUR + 5), (100, 105), (106, 110)], 3),
        ];
        for (name, failures, expected) in TABLE {
            assert_eq!(count(failures), expected, "{name}");
        }
    }

    #[test]
    fn a_success_ends_a_streak_of_failures() {
        let mut streak = FailureStreak::default();
        assert!(streak.failed(at(0), at(1)) && !streak.failed(at(0), at(2)));
        streak.succeeded();
        assert_eq!(streak.count(), 0);
        assert!(streak.failed(at(0), at(3)), "a failure after the success starts a new streak");
        assert_eq!(streak.count(), 1);
    }
}
