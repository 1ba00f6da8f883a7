//! When a look at a job is worth it: one pure function.
//!
//! With no history of how long such jobs take, looks at ages `t_k = c·k²` are never much worse than
//! the best fixed interval, whatever the length turns out to be: gaps grow with the square root of
//! the age, so a short job is caught early and a long one is not asked for in vain. `c`, the price,
//! is how many seconds of delay one look is worth. (Inspection theory, for the scale-free prior
//! h(t) = 1/2t; Keller 1974.)
//!
//! What the provider allows (rate, `Retry-After`, backoff) is decided elsewhere and comes on top.

use std::time::Duration;

use crate::domain::{Terms, Timestamp};

/// What bounds the schedule of a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// From registration to the first look.
    pub first: Duration,
    /// The least gap between looks at one job.
    pub min_interval: Duration,
    /// The greatest gap.
    pub max_interval: Duration,
    /// How much delay one look is worth.
    pub price: Duration,
}

impl Bounds {
    /// The greatest gap that these watches allow; a wish below the least gap is raised to it.
    fn greatest_gap(&self, terms: Option<&Terms>) -> Duration {
        let wished = terms.and_then(|terms| terms.poll_interval).unwrap_or(self.max_interval);
        wished.min(self.max_interval).max(self.min_interval)
    }
}

/// The first look at a job that was registered at `registered_at`, of which nothing is known.
pub fn first_look(bounds: &Bounds, terms: Option<&Terms>, registered_at: Timestamp) -> Timestamp {
    let first = registered_at.plus(bounds.first.min(bounds.greatest_gap(terms)));
    hinted(bounds, terms, registered_at, first)
}

/// The next look at a job that was registered at `registered_at`, was looked at at `looked_at`, and
/// had not ended.
pub fn next_look(
    bounds: &Bounds,
    terms: Option<&Terms>,
    registered_at: Timestamp,
    looked_at: Timestamp,
) -> Timestamp {
    let age = looked_at.since(registered_at).as_secs_f64();
    let price = bounds.price.as_secs_f64();
    // c·(√(age/c) + 1)² − age: from t_k to t_k+1, and as smooth from an age in between, to which a
    // late look, a wish or the greatest gap has led.
    let gap = Duration::from_secs_f64((price + 2.0 * (price * age).sqrt()).min(1e9));
    let gap = gap.clamp(bounds.min_interval, bounds.greatest_gap(terms));
    hinted(bounds, terms, looked_at, looked_at.plus(gap))
}

/// Moves a look forward to the time at which the provider said that the job would be done.
fn hinted(bounds: &Bounds, terms: Option<&Terms>, last: Timestamp, next: Timestamp) -> Timestamp {
    match terms.and_then(|terms| terms.expected_at) {
        Some(expected) if expected > last => next.min(expected.max(last.plus(bounds.min_interval))),
        _ => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        first: Duration::from_secs(5),
        min_interval: Duration::from_secs(2),
        max_interval: Duration::from_secs(60),
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

    fn looks(terms: &Terms, count: usize) -> Vec<i64> {
        let mut looks = vec![first_look(&BOUNDS, Some(terms), at(0))];
        while looks.len() < count {
            let last = looks[looks.len() - 1];
            looks.push(next_look(&BOUNDS, Some(terms), at(0), last));
        }
        looks.into_iter().map(Timestamp::seconds).collect()
    }

    #[test]
    fn looks_come_at_the_squares_until_the_greatest_gap() {
        let ages = looks(&terms(None, None), 12);
        assert_eq!(ages, [5, 20, 45, 80, 125, 180, 240, 300, 360, 420, 480, 540]);
    }

    #[test]
    fn a_users_interval_is_the_greatest_gap_and_never_below_the_providers_least() {
        assert_eq!(looks(&terms(Some(10), None), 4), [5, 15, 25, 35]);
        assert_eq!(looks(&terms(Some(1), None), 4), [2, 4, 6, 8]);
    }

    #[test]
    fn an_expected_end_adds_one_look_at_that_time() {
        assert_eq!(looks(&terms(None, Some(30)), 4), [5, 20, 30, 59]);
        assert_eq!(looks(&terms(None, Some(21)), 3), [5, 20, 22]);
        assert_eq!(looks(&terms(None, Some(3)), 2), [3, 15]);
    }

    #[test]
    fn a_look_that_came_late_or_after_a_restart_goes_on_where_the_schedule_is() {
        assert_eq!(next_look(&BOUNDS, None, at(0), at(45)).seconds(), 80);
        assert_eq!(next_look(&BOUNDS, None, at(0), at(46)).seconds(), 81);
        assert_eq!(next_look(&BOUNDS, None, at(0), at(44)).seconds(), 78);
        // A clock that was set back before the registration: the age is none.
        assert_eq!(next_look(&BOUNDS, None, at(100), at(50)).seconds(), 55);
    }
}
