//! Circuit breakers of destinations that do not respond.
//!
//! Every attempt to reach a dead host takes the whole timeout, so a queue would make only a few attempts in
//! twenty seconds, and all of them would fail. After several unreachable attempts in a row, the breaker of
//! the queue opens. While it is open, a due delivery is not sent: it moves to the next step of its schedule
//! at once, and an attempt is recorded as `destination_down`. Every ten seconds, one attempt is made as a
//! **probe**. Any HTTP response, even a 500, closes the breaker.
//!
//! **A breaker never ends a delivery.** The last attempt of a schedule and every manual retry are always
//! made. A queue with a single delivery is not affected if its attempts are further apart than the probes.
//!
//! The breakers are kept in memory, for one process. After a restart, all of them are closed.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::Timestamp;

/// Number of unreachable attempts in a row that open a breaker.
const OPENS_AFTER: u32 = 5;

/// Time between two probes, from the end of the first one.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of unreachable queues that are kept. A forgotten queue makes a few more attempts that fail.
const UNREACHABLE_MAX: usize = 10_000;

/// Breakers of all queues.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    unreachable: HashMap<String, Failures>,
}

#[derive(Debug)]
struct Failures {
    /// Number of unreachable attempts in a row.
    count: u32,
    /// End of the last unreachable attempt, or start of a probe.
    last: Timestamp,
}

impl Failures {
    fn is_open(&self) -> bool {
        self.count >= OPENS_AFTER
    }
}

impl Breakers {
    /// Returns whether an attempt is to be made now. If the breaker is open, that attempt is a probe.
    pub(super) fn admits(&mut self, queue: &str, now: Timestamp) -> bool {
        let Some(failures) = self.unreachable.get_mut(queue).filter(|failures| failures.is_open()) else {
            return true;
        };
        // If the clock was set back, the next attempt is a probe at once.
        let probe = now < failures.last || now >= failures.last.plus(PROBE_INTERVAL);
        if probe {
            failures.last = now;
        }
        probe
    }

    /// Records a response. Returns whether the breaker was open.
    pub(super) fn responded(&mut self, queue: &str) -> bool {
        self.unreachable.remove(queue).is_some_and(|failures| failures.is_open())
    }

    /// Records an unreachable attempt. Returns whether it opens the breaker.
    pub(super) fn unreachable(&mut self, queue: &str, now: Timestamp) -> bool {
        if self.unreachable.len() >= UNREACHABLE_MAX && !self.unreachable.contains_key(queue) {
            *self = Self::default();
        }
        let failures = self.unreachable.entry(queue.to_owned()).or_insert(Failures { count: 0, last: now });
        failures.count = failures.count.saturating_add(1);
        failures.last = now;
        failures.count == OPENS_AFTER
    }

    /// Returns the number of open breakers.
    pub(super) fn open_count(&self) -> usize {
        self.unreachable.values().filter(|failures| failures.is_open()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// Returns breakers; the breaker of queue `name` opened at second 0.
    fn open(name: &str) -> Breakers {
        let mut breakers = Breakers::default();
        for n in 1..=OPENS_AFTER {
            assert!(breakers.admits(name, at(0)));
            assert_eq!(breakers.unreachable(name, at(0)), n == OPENS_AFTER);
        }
        breakers
    }

    #[test]
    fn unreachable_attempts_open_it_and_a_response_closes_it() {
        let a = "1 https a.example 443";
        let mut breakers = open(a);
        assert_eq!((breakers.admits(a, at(9)), breakers.open_count()), (false, 1));
        assert!(breakers.admits("1 https b.example 443", at(9)));
        assert_eq!((breakers.responded(a), breakers.open_count()), (true, 0));
        assert!(breakers.admits(a, at(9)));
        assert!(!breakers.responded(a));
        // A response in between restarts the count.
        for _ in 1..OPENS_AFTER {
            assert!(!breakers.unreachable(a, at(9)));
        }
        assert!(!breakers.responded(a));
        assert_eq!((breakers.unreachable(a, at(9)), breakers.open_count()), (false, 0));
    }

    #[test]
    fn while_it_is_open_one_attempt_in_ten_seconds_is_a_probe() {
        let a = "1 https a.example 443";
        let mut breakers = open(a);
        let tried: Vec<i64> = (0..40).filter(|second| breakers.admits(a, at(*second))).collect();
        assert_eq!(tried, [10, 20, 30]);
        // After a long probe, the interval counts from the end of the probe.
        assert!(!breakers.unreachable(a, at(50)));
        assert_eq!((breakers.admits(a, at(59)), breakers.admits(a, at(60))), (false, true));
    }

    #[test]
    fn it_does_not_wait_after_the_clock_was_set_back() {
        let a = "1 https a.example 443";
        let mut breakers = open(a);
        assert!(breakers.admits(a, at(-3_600)));
        assert!(!breakers.admits(a, at(-3_599)));
    }

    #[test]
    fn the_number_of_unreachable_queues_is_limited() {
        let mut breakers = Breakers::default();
        for n in 0..=UNREACHABLE_MAX {
            for _ in 0..OPENS_AFTER {
                breakers.unreachable(&format!("1 https {n}.example 443"), at(0));
            }
        }
        assert_eq!((breakers.unreachable.len(), breakers.open_count()), (1, 1));
    }
}
