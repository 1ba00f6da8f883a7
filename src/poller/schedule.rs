//! The poll schedule of a job, as pure functions.
//!
//! The history of job durations is not known. Polls at the ages `t_k = c·k²` cost on average about 1.4 times as much as
//! the best fixed interval for the duration of the job, if this duration is much longer than `c`. The interval grows
//! with the square root of the age: the end of a short job is detected early, and a long job is not polled too often.
//! The price `c` is the number of seconds of delay that one poll is worth. (Source: inspection theory, for the
//! scale-free prior h(t) = 1/2t; Keller 1974.)
//!
//! The provider's limits (rate, `Retry-After`, backoff) apply on top. They are the subject of `budget` and
//! `scheduler`.

use std::time::Duration;

use crate::domain::{PollPolicy, Terms, Timestamp};

/// Returns the longest poll interval that the provider and the watches allow. An interval below the provider's
/// minimum is raised to it.
fn longest_interval(policy: &PollPolicy, terms: Option<&Terms>) -> Duration {
    let requested = terms.and_then(|terms| terms.poll_interval).unwrap_or(policy.max_interval);
    requested.min(policy.max_interval).max(policy.min_interval)
}

/// Returns the time of the first poll of a job that was registered at `registered_at`.
pub fn first_poll(policy: &PollPolicy, terms: Option<&Terms>, registered_at: Timestamp) -> Timestamp {
    let first = registered_at.plus(policy.first.min(longest_interval(policy, terms)));
    bring_forward(policy, terms, registered_at, first)
}

/// Returns the time of the next poll of a job that was registered at `registered_at`, was last polled at
/// `polled_at`, and was running then.
pub fn next_poll(
    policy: &PollPolicy,
    terms: Option<&Terms>,
    registered_at: Timestamp,
    polled_at: Timestamp,
) -> Timestamp {
    let age = polled_at.since(registered_at).as_secs_f64();
    let price = policy.price.as_secs_f64();
    // c·(√(age/c) + 1)² − age leads from t_k to t_k+1. It is just as smooth from an age between two of them,
    // where a late poll, a requested poll or the longest interval has led.
    let interval = Duration::from_secs_f64((price + 2.0 * (price * age).sqrt()).min(1e9));
    let interval = interval.clamp(policy.min_interval, longest_interval(policy, terms));
    bring_forward(policy, terms, polled_at, polled_at.plus(interval))
}

/// Moves a poll forward to the time at which the client expects the job to end, if that is before `next`.
fn bring_forward(policy: &PollPolicy, terms: Option<&Terms>, last: Timestamp, next: Timestamp) -> Timestamp {
    match terms.and_then(|terms| terms.expected_at) {
        Some(expected) if expected > last => next.min(expected.max(last.plus(policy.min_interval))),
        _ => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: PollPolicy = PollPolicy {
        first: Duration::from_secs(5),
        min_interval: Duration::from_secs(2),
        max_interval: Duration::from_secs(60),
        deadline: Duration::from_secs(86_400),
        not_found_grace: Duration::from_secs(60),
        price: Duration::from_secs(5),
    };

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1000)
    }

    fn terms(poll_interval: Option<u64>, expected_at: Option<i64>) -> Terms {
        Terms {
            expires_at: at(86_400),
            poll_interval: poll_interval.map(Duration::from_secs),
            expected_at: expected_at.map(at),
            wants_progress: false,
        }
    }

    fn polls(terms: &Terms, count: usize) -> Vec<i64> {
        let mut polls = vec![first_poll(&POLICY, Some(terms), at(0))];
        while polls.len() < count {
            let last = polls[polls.len() - 1];
            polls.push(next_poll(&POLICY, Some(terms), at(0), last));
        }
        polls.into_iter().map(Timestamp::seconds).collect()
    }

    #[test]
    fn polls_are_at_squared_ages_up_to_the_longest_interval() {
        let ages = polls(&terms(None, None), 12);
        assert_eq!(ages, [5, 20, 45, 80, 125, 180, 240, 300, 360, 420, 480, 540]);
    }

    #[test]
    fn a_clients_interval_is_the_longest_but_not_below_the_minimum() {
        assert_eq!(polls(&terms(Some(10), None), 4), [5, 15, 25, 35]);
        assert_eq!(polls(&terms(Some(1), None), 4), [2, 4, 6, 8]);
    }

    #[test]
    fn an_expected_end_adds_one_poll_at_that_time() {
        assert_eq!(polls(&terms(None, Some(30)), 4), [5, 20, 30, 59]);
        assert_eq!(polls(&terms(None, Some(21)), 3), [5, 20, 22]);
        assert_eq!(polls(&terms(None, Some(3)), 2), [3, 15]);
    }

    #[test]
    fn a_late_poll_continues_the_schedule_at_its_age() {
        assert_eq!(next_poll(&POLICY, None, at(0), at(45)).seconds(), 80);
        assert_eq!(next_poll(&POLICY, None, at(0), at(46)).seconds(), 81);
        assert_eq!(next_poll(&POLICY, None, at(0), at(44)).seconds(), 78);
        // The clock was set back to before the registration: the age is 0.
        assert_eq!(next_poll(&POLICY, None, at(100), at(50)).seconds(), 55);
    }
}
