//! Rates of requests that make Ringback call a receiver: tests and manual retries.
//!
//! A client can send such requests in a loop, and the receiver may be another party's. The counts are in memory: a
//! restart forgets them, which costs the receiver one more minute's worth.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::problem::{Problem, ProblemCode};
use crate::clock::Moment;
use crate::domain::{AppNo, DeliveryId};

/// Maximum number of tests of one app in a minute: enough for a person, and too few to flood a receiver.
const TESTS: (usize, Duration) = (10, Duration::from_secs(60));

/// Maximum number of manual retries of one delivery in a minute. Each is a request to the same receiver.
const RETRIES_OF_DELIVERY: (usize, Duration) = (10, Duration::from_secs(60));

/// Maximum number of manual retries of single deliveries of one app in 10 s, so 600 a minute. For more, there is the
/// retry of many.
const RETRIES_OF_APP: (usize, Duration) = (100, Duration::from_secs(10));

/// Maximum number of retries of many deliveries of one app in a minute. Each can include the same delivery.
const BULK_RETRIES: (usize, Duration) = (10, Duration::from_secs(60));

/// Number of keys from which on those without a request in the period are forgotten.
const FORGOTTEN_FROM: usize = 1_024;

/// Counts the requests with each key in any period of this length.
#[derive(Debug)]
pub struct RateLimit<K> {
    most: usize,
    period: Duration,
    counts: Mutex<Counts<K>>,
}

#[derive(Debug)]
struct Counts<K> {
    requests: HashMap<K, VecDeque<Moment>>,
    /// Number of keys at which the old ones are forgotten next.
    forget_at: usize,
}

impl<K: Eq + Hash> RateLimit<K> {
    fn new((most, period): (usize, Duration)) -> Self {
        let counts = Counts { requests: HashMap::new(), forget_at: FORGOTTEN_FROM };
        Self { most, period, counts: Mutex::new(counts) }
    }

    fn lock(&self) -> MutexGuard<'_, Counts<K>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time until the next request is permitted, as an error, without counting one.
    fn check(&self, key: &K, now: Moment) -> Result<(), Duration> {
        let counts = self.lock();
        let recent = counts.requests.get(key).into_iter().flatten().filter(|at| now < at.plus(self.period));
        let recent: Vec<&Moment> = recent.collect();
        match recent.first() {
            Some(first) if recent.len() >= self.most => Err(first.plus(self.period).since(now)),
            Some(_) | None => Ok(()),
        }
    }

    /// Counts a request, or returns the time until the next one is permitted.
    pub fn try_take(&self, key: K, now: Moment) -> Result<(), Duration> {
        let mut counts = self.lock();
        if counts.requests.len() >= counts.forget_at {
            let is_recent =
                |sent: &VecDeque<Moment>| sent.back().is_some_and(|at| now < at.plus(self.period));
            counts.requests.retain(|_, sent| is_recent(sent));
            counts.forget_at = FORGOTTEN_FROM.max(2 * counts.requests.len());
        }
        let sent = counts.requests.entry(key).or_default();
        while sent.front().is_some_and(|at| now >= at.plus(self.period)) {
            sent.pop_front();
        }
        match sent.front() {
            Some(first) if sent.len() >= self.most => Err(first.plus(self.period).since(now)),
            Some(_) | None => {
                sent.push_back(now);
                Ok(())
            }
        }
    }
}

/// The rates of all requests that make Ringback call a receiver.
#[derive(Debug)]
pub struct SendRates {
    tests: RateLimit<AppNo>,
    retries: RateLimit<DeliveryId>,
    retries_of_app: RateLimit<AppNo>,
    bulk_retries: RateLimit<AppNo>,
}

impl Default for SendRates {
    fn default() -> Self {
        Self {
            tests: RateLimit::new(TESTS),
            retries: RateLimit::new(RETRIES_OF_DELIVERY),
            retries_of_app: RateLimit::new(RETRIES_OF_APP),
            bulk_retries: RateLimit::new(BULK_RETRIES),
        }
    }
}

impl SendRates {
    /// Counts a test.
    pub fn take_test(&self, app: AppNo, now: Moment) -> Result<(), Problem> {
        let detail =
            "this app has sent ten tests within a minute; Retry-After says when the next one is possible";
        self.tests.try_take(app, now).map_err(|wait| exceeded(detail, wait))
    }

    /// Counts a manual retry of one delivery.
    pub fn take_retry(&self, app: AppNo, delivery: DeliveryId, now: Moment) -> Result<(), Problem> {
        let of_delivery = "the delivery was retried ten times within a minute; Retry-After says when the next retry is \
                           possible";
        let of_app = "this app has retried a hundred deliveries within 10 s; Retry-After says when the next retry is \
                      possible; to retry many at once, use POST /v1/deliveries/retry";
        // A request that the app's rate refuses uses up nothing of the delivery's, and the other way round.
        self.retries_of_app.check(&app, now).map_err(|wait| exceeded(of_app, wait))?;
        self.retries.try_take(delivery, now).map_err(|wait| exceeded(of_delivery, wait))?;
        self.retries_of_app.try_take(app, now).map_err(|wait| exceeded(of_app, wait))
    }

    /// Counts a retry of many deliveries.
    pub fn take_bulk_retry(&self, app: AppNo, now: Moment) -> Result<(), Problem> {
        let detail = "this app has started ten retries of many deliveries within a minute; Retry-After says when the \
                      next one is possible; select more deliveries with one request";
        self.bulk_retries.try_take(app, now).map_err(|wait| exceeded(detail, wait))
    }
}

fn exceeded(detail: &str, wait: Duration) -> Problem {
    Problem::new(ProblemCode::RateLimited, detail).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn ten_tests_a_minute_are_permitted_for_each_app() {
        let rate = RateLimit::new(TESTS);
        for second in 0..10 {
            assert_eq!(rate.try_take(AppNo(1), at(second)), Ok(()), "{second}");
        }
        assert_eq!(rate.try_take(AppNo(1), at(10)), Err(Duration::from_secs(50)));
        assert_eq!(rate.try_take(AppNo(2), at(10)), Ok(()));
        assert_eq!(rate.try_take(AppNo(1), at(59)), Err(Duration::from_secs(1)));
        assert_eq!(rate.try_take(AppNo(1), at(60)), Ok(()));
        assert_eq!(rate.try_take(AppNo(1), at(60)), Err(Duration::from_secs(1)));
    }

    #[test]
    fn keys_without_a_recent_request_are_forgotten() {
        let rate = RateLimit::new(RETRIES_OF_DELIVERY);
        // Ten new keys a second, so 600 in a period.
        for second in 0..1_000 {
            for n in 0..10 {
                assert_eq!(rate.try_take((second, n), at(second)), Ok(()));
            }
        }
        assert!(rate.lock().requests.len() <= 2 * FORGOTTEN_FROM, "{}", rate.lock().requests.len());
        for _ in 0..9 {
            assert_eq!(rate.try_take((999, 0), at(1_000)), Ok(()));
        }
        assert_eq!(rate.try_take((999, 0), at(1_000)), Err(Duration::from_secs(59)), "a recent key is kept");
    }
}
