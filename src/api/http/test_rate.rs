//! The rate of test sends of each app.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::domain::AppNo;

/// Maximum number of tests of one app in [`PERIOD`]: enough for a person, and too few to flood a receiver.
const TESTS_MAX: usize = 10;
const PERIOD: Duration = Duration::from_secs(60);

/// Counts the tests of each app in any period of a minute. There are few apps, so none is forgotten.
#[derive(Debug, Default)]
pub struct TestRate(Mutex<HashMap<AppNo, VecDeque<Moment>>>);

impl TestRate {
    /// Counts a test, or returns the time until the next one is permitted.
    pub fn try_take(&self, app: AppNo, now: Moment) -> Result<(), Duration> {
        let mut apps = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = apps.entry(app).or_default();
        while sent.front().is_some_and(|at| now >= at.plus(PERIOD)) {
            sent.pop_front();
        }
        match sent.front() {
            Some(first) if sent.len() >= TESTS_MAX => Err(first.plus(PERIOD).since(now)),
            Some(_) | None => {
                sent.push_back(now);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_tests_a_minute_are_permitted_for_each_app() {
        let rate = TestRate::default();
        let at = |seconds| Moment::default().plus(Duration::from_secs(seconds));
        for second in 0..10 {
            assert_eq!(rate.try_take(AppNo(1), at(second)), Ok(()), "{second}");
        }
        assert_eq!(rate.try_take(AppNo(1), at(10)), Err(Duration::from_secs(50)));
        assert_eq!(rate.try_take(AppNo(2), at(10)), Ok(()));
        assert_eq!(rate.try_take(AppNo(1), at(59)), Err(Duration::from_secs(1)));
        assert_eq!(rate.try_take(AppNo(1), at(60)), Ok(()));
        assert_eq!(rate.try_take(AppNo(1), at(60)), Err(Duration::from_secs(1)));
    }
}
