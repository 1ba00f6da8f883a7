//! The poll budget: what one provider permits for one credential, and its health.
//!
//! A budget limits the rate and the concurrency of polls. Three further limits apply after errors:
//!
//! - **Cooldown**, after a 429. No poll starts until `Retry-After` has passed, or for 1, 2,
//!   4 … 60 s.
//! - **Circuit breaker**, after errors of five distinct jobs within a minute, at least three of them one after
//!   another, and no successful poll: the provider fails. One poll a second starts until one succeeds. Then the
//!   breaker closes and the backoffs of all jobs are cleared.
//!   The errors of one app alone do not open it while another app has jobs: they may be about its jobs only.
//! - **Pause**, after a 401 or an account code of the definition: the provider rejects the credential. One poll a
//!   minute starts until the credential is accepted. No watch fails because of it.
//!
//! **Failures that were in flight together count once** ([`FailureStreak`]), for the breaker and for the length of a
//! cooldown. A provider that is down for two seconds fails every poll in flight; that is one observation of one
//! fault. A rejection of the credential does not count if the poll had started before the last successful poll ended:
//! the success is the newer observation.
//!
//! Everything is a function of `now`; nothing here sleeps or does I/O.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{AppNo, FailureStreak, JobNo, Limits, ProviderHealth, Timestamp};

/// Longest cooldown that a provider's `Retry-After` can cause.
const COOLDOWN_MAX: Duration = Duration::from_secs(3600);

/// Number of distinct jobs whose errors open the breaker.
const BREAKER_JOBS: usize = 5;

/// Number of failures, each of a poll that started after the one before had ended, that the breaker requires as well.
const BREAKER_FAILURES: u32 = 3;

/// Time for which an error, or a successful poll, counts.
const BREAKER_WINDOW: Duration = Duration::from_secs(60);

/// Poll interval while the breaker is open.
const BREAKER_PROBE: Duration = Duration::from_secs(1);

/// Poll interval while the credential is paused.
const PAUSE_PROBE: Duration = Duration::from_secs(60);

/// Smallest concurrency of which one place is spare. An app that is alone loses at most a quarter of the places.
const SPARE_FROM: u32 = 4;

/// Returns the wait after the `n`th failure in a row: 1, 2, 4 … 60 s.
pub fn backoff(n: u32) -> Duration {
    Duration::from_secs(1 << n.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

/// Answer to a request to start a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// The poll may start, and is counted.
    Granted,
    /// No poll may start before this time.
    At(Timestamp),
    /// No poll may start before one in flight has ended.
    Busy,
}

/// A failed poll.
#[derive(Clone, Copy, Debug)]
pub struct FailedPoll {
    pub job: JobNo,
    /// The app in whose turn it was made.
    pub app: AppNo,
    pub started: Timestamp,
    /// Whether no other app has jobs at the provider.
    pub is_only_app: bool,
}

/// The budget of one credential.
#[derive(Debug)]
pub struct Budget {
    /// Time that one poll takes from the bucket, in microseconds; 0 for no limit.
    spacing: i64,
    limits: Limits,
    /// Theoretical arrival time of the GCRA, in microseconds: when the bucket is full again.
    full_at: i64,
    /// Number of polls in flight.
    pub in_flight: u32,
    cooldown_until: Timestamp,
    /// Answers 429 one after another.
    cooldowns: FailureStreak,
    /// While only probes start: `Down` (the breaker is open) or `Paused`, and the earliest time of the next probe.
    hold: Option<(ProviderHealth, Timestamp)>,
    /// Time of the last successful poll.
    pub last_ok: Option<Timestamp>,
    /// App and time of the last error of each job, of up to [`BREAKER_JOBS`] jobs.
    errors: HashMap<JobNo, (AppNo, Timestamp)>,
    /// Failed polls one after another, since the last successful one.
    failures: FailureStreak,
}

/// The places of a provider's concurrency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Number of places without a poll.
    pub free: u32,
    /// Maximum number of places of one app while another app has jobs.
    pub share: u32,
    /// Maximum number of places that are left free for the apps that have jobs and no poll in flight.
    pub reserve: u32,
    /// Number of places that are always left free for an app without a poll in flight: its first job may come soon.
    pub spare: u32,
}

impl Budget {
    /// Creates a budget with an empty bucket: before a restart or a change of owner, the bucket may just have
    /// been used up.
    pub fn new(limits: Limits, now: Timestamp) -> Self {
        let spacing = spacing_of(limits);
        Self {
            spacing,
            limits,
            full_at: micros(now) + spacing * i64::from(limits.burst),
            in_flight: 0,
            cooldown_until: Timestamp::default(),
            cooldowns: FailureStreak::default(),
            hold: None,
            last_ok: None,
            errors: HashMap::new(),
            failures: FailureStreak::default(),
        }
    }

    /// Returns the limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Makes the limits as strict as others, too.
    pub fn tighten(&mut self, others: Limits) {
        let Limits { rate, burst, concurrency } = &mut self.limits;
        rate.spacing = rate.spacing.max(others.rate.spacing);
        (*burst, *concurrency) = ((*burst).min(others.burst), (*concurrency).min(others.concurrency));
        self.spacing = spacing_of(self.limits);
    }

    /// Counts requests that followed a poll at once, because the provider redirected it: the next polls wait for them.
    pub fn charge(&mut self, requests: u8, now: Timestamp) {
        if requests > 0 {
            self.full_at = self.full_at.max(micros(now)) + self.spacing * i64::from(requests);
        }
    }

    /// Returns whether polls are limited to probes, or are impossible.
    pub fn is_held_back(&self) -> bool {
        self.hold.is_some() || self.limits.concurrency == 0
    }

    /// Returns whether it limits nothing but the rate of further polls: a new budget would be as strict.
    pub fn is_unlimited(&self, now: Timestamp) -> bool {
        self.in_flight == 0 && self.cooldown_until <= now && self.full_at <= micros(now)
    }

    /// Returns whether the provider rejects the credential.
    pub fn is_paused(&self) -> bool {
        matches!(self.hold, Some((ProviderHealth::Paused, _)))
    }

    /// Returns whether the circuit breaker is open.
    pub fn is_open(&self) -> bool {
        matches!(self.hold, Some((ProviderHealth::Down, _)))
    }

    /// Returns whether many jobs fail and no poll has succeeded for a while. While several apps have jobs, the errors
    /// of one of them say nothing about the provider.
    pub fn is_doubtful(&self, is_only_app: bool, now: Timestamp) -> bool {
        let since = now.minus(BREAKER_WINDOW);
        let recent = || self.errors.values().filter(|(_, at)| *at >= since).map(|(app, _)| *app);
        let of_several_apps = || recent().zip(recent().skip(1)).any(|(one, next)| one != next);
        recent().count() >= BREAKER_JOBS
            && self.last_ok.is_none_or(|at| at < since)
            && (is_only_app || of_several_apps())
    }

    /// Returns the health as the API shows it, and the time until which polls are held back.
    pub fn health(&self, now: Timestamp) -> (ProviderHealth, Option<Timestamp>) {
        let cooling = Some(self.cooldown_until).filter(|until| *until > now);
        let since = now.minus(BREAKER_WINDOW);
        match self.hold {
            Some((health, probe_at)) => (health, Some(probe_at).max(cooling)),
            None if cooling.is_some() || self.errors.values().any(|(_, at)| *at >= since) => {
                (ProviderHealth::Degraded, cooling)
            }
            None => (ProviderHealth::Ok, None),
        }
    }

    /// Returns what [`Self::acquire`] would return, without acquiring.
    pub fn check(&self, now: Timestamp) -> Permit {
        if self.in_flight >= self.limits.concurrency {
            return Permit::Busy;
        }
        let at = self.next_start(now, 0);
        if at > now { Permit::At(at) } else { Permit::Granted }
    }

    /// Returns the time at which the rate, the cooldown and the probes permit the start of a poll, if `ahead` polls
    /// start before it. While only probes start, it is assumed that the next one succeeds.
    pub fn next_start(&self, now: Timestamp, ahead: usize) -> Timestamp {
        let probe_at = self.hold.map_or(now, |(_, probe_at)| probe_at);
        let start = self.cooldown_until.max(probe_at).max(now);
        let saved = self.spacing * i64::from(self.limits.burst.saturating_sub(1));
        let ahead = self.spacing.saturating_mul(i64::try_from(ahead).unwrap_or(i64::MAX));
        let allowed = self.full_at.max(micros(start)).saturating_add(ahead) - saved;
        // The clock has a resolution of a millisecond, in which several polls may be allowed.
        if allowed > micros(start) + 999 { Timestamp::from_millis(allowed.div_euclid(1000)) } else { start }
    }

    /// Returns the places of polls in flight. An eighth, and at least one if there are several, is reserved for other
    /// apps. From [`SPARE_FROM`] places on, one is spare even if there is no other app.
    pub fn places(&self) -> Places {
        let total = self.limits.concurrency;
        let reserve = if total > 1 { (total / 8).max(1) } else { 0 };
        let spare = u32::from(total >= SPARE_FROM);
        Places { free: total.saturating_sub(self.in_flight), share: total - reserve, reserve, spare }
    }

    /// Returns the maximum number of polls in flight.
    pub fn concurrency(&self) -> u32 {
        self.limits.concurrency
    }

    /// Returns whether no poll ever starts.
    pub fn is_off(&self) -> bool {
        self.limits.concurrency == 0
    }

    /// Requests the start of a poll. A granted poll is counted until [`Self::release`].
    pub fn acquire(&mut self, now: Timestamp) -> Permit {
        let permit = self.check(now);
        if permit != Permit::Granted {
            return permit;
        }
        self.full_at = self.full_at.max(micros(now)) + self.spacing;
        self.in_flight += 1;
        if let Some((hold, probe_at)) = &mut self.hold {
            *probe_at = now.plus(if *hold == ProviderHealth::Down { BREAKER_PROBE } else { PAUSE_PROBE });
        }
        Permit::Granted
    }

    /// Records the end of a granted poll.
    pub fn release(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Records a successful poll. Like the following functions, returns the new health if it has changed. If it is
    /// `Ok`, the caller clears the backoffs of all jobs.
    pub fn ok(&mut self, now: Timestamp) -> Option<ProviderHealth> {
        self.last_ok = Some(now);
        self.cooldowns.succeeded();
        self.failures.succeeded();
        self.errors.clear();
        self.hold.take().map(|_| ProviderHealth::Ok)
    }

    /// Records a poll that failed at `now`. The cause may be the job or the provider.
    pub fn error(&mut self, poll: FailedPoll, now: Timestamp) -> Option<ProviderHealth> {
        let FailedPoll { job, app, started, is_only_app } = poll;
        self.failures.failed(started, now);
        let since = now.minus(BREAKER_WINDOW);
        self.errors.retain(|_, (_, at)| *at >= since);
        if self.errors.len() >= BREAKER_JOBS && self.errors.values().all(|(known, _)| *known != app) {
            // The error of another app is more evidence than that of one more job.
            let replaced = self.errors.keys().min().copied();
            replaced.and_then(|job| self.errors.remove(&job));
        }
        if self.errors.len() < BREAKER_JOBS || self.errors.contains_key(&job) {
            self.errors.insert(job, (app, now));
        }
        let is_failing = self.failures.count() >= BREAKER_FAILURES;
        if self.hold.is_none() && is_failing && self.is_doubtful(is_only_app, now) {
            self.hold = Some((ProviderHealth::Down, now.plus(BREAKER_PROBE)));
            return Some(ProviderHealth::Down);
        }
        None
    }

    /// Records that the provider rejected the credential in a poll that started at `started`.
    pub fn unauthorized(&mut self, started: Timestamp, now: Timestamp) -> Option<ProviderHealth> {
        if self.last_ok.is_some_and(|at| at > started && at <= now) {
            return None;
        }
        let was_paused = self.is_paused();
        self.hold = Some((ProviderHealth::Paused, now.plus(PAUSE_PROBE)));
        (!was_paused).then_some(ProviderHealth::Paused)
    }

    /// Records that the provider accepted the credential in a poll that did not succeed.
    pub fn authorized(&mut self) -> Option<ProviderHealth> {
        self.hold.take_if(|(hold, _)| *hold == ProviderHealth::Paused).map(|_| ProviderHealth::Ok)
    }

    /// Records a 429 to a poll that started at `started`, and returns the end of the cooldown. A `Retry-After` of zero
    /// names no time: with it, the provider would be polled at full speed.
    pub fn rate_limited(
        &mut self,
        retry_after: Option<Duration>,
        started: Timestamp,
        now: Timestamp,
    ) -> Timestamp {
        self.cooldowns.failed(started, now);
        let retry_after = retry_after.filter(|after| !after.is_zero());
        let wait = retry_after.unwrap_or_else(|| backoff(self.cooldowns.count())).min(COOLDOWN_MAX);
        self.cooldown_until = self.cooldown_until.max(now.plus(wait));
        self.cooldown_until
    }

    /// Moves all times back by `jump`, so that a clock that was set back delays nothing.
    pub fn set_back(&mut self, jump: Duration) {
        self.full_at -= i64::try_from(jump.as_micros()).unwrap_or(i64::MAX);
        self.cooldown_until = self.cooldown_until.minus(jump);
        self.last_ok = self.last_ok.map(|at| at.minus(jump));
        self.errors.values_mut().for_each(|(_, at)| *at = at.minus(jump));
        if let Some((_, probe_at)) = &mut self.hold {
            *probe_at = probe_at.minus(jump);
        }
    }
}

/// Returns the time that one poll takes from the bucket, in microseconds.
fn spacing_of(limits: Limits) -> i64 {
    let spacing = limits.rate.spacing.unwrap_or_default().as_micros();
    i64::try_from(spacing).unwrap_or(i64::MAX / 1_000_000)
}

fn micros(at: Timestamp) -> i64 {
    at.millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Rate;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + millis)
    }

    fn limits(per_second: u32, burst: u32, concurrency: u32) -> Limits {
        let rate = Rate { spacing: Some(Duration::from_secs(1) / per_second) };
        Limits { rate, burst, concurrency }
    }

    /// Requests a poll each millisecond and returns the times at which one was granted.
    fn granted(budget: &mut Budget, millis: i64) -> Vec<i64> {
        let mut times = Vec::new();
        for ms in 0..millis {
            while budget.acquire(at(ms)) == Permit::Granted {
                budget.release();
                times.push(ms);
            }
        }
        times
    }

    #[test]
    fn the_bucket_is_empty_at_start_and_the_rate_is_kept() {
        let mut budget = Budget::new(limits(10, 3, 100), at(0));
        let times = granted(&mut budget, 2_000);
        assert!(times[0] >= 100, "empty at start: {times:?}");
        assert!((18..=20).contains(&times.len()), "the rate is used: {times:?}");
        for window in times.windows(14) {
            assert!(window[13] - window[0] >= 1_000, "never more than 10 + 3 a second: {window:?}");
        }
    }

    #[test]
    fn a_rate_above_one_a_millisecond_is_kept_too() {
        let mut budget = Budget::new(limits(5_000, 1, 100), at(0));
        assert!((4_990..=5_010).contains(&granted(&mut budget, 1_000).len()));
    }

    #[test]
    fn a_burst_is_granted_at_once_and_no_more() {
        let mut budget = Budget::new(limits(10, 3, 100), at(0));
        let later = at(10_000);
        for _ in 0..3 {
            assert_eq!(budget.acquire(later), Permit::Granted);
        }
        assert!(matches!(budget.acquire(later), Permit::At(_)));
    }

    #[test]
    fn polls_in_flight_are_limited_by_the_concurrency() {
        let mut budget =
            Budget::new(Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 2 }, at(0));
        assert_eq!(budget.acquire(at(0)), Permit::Granted);
        assert_eq!(budget.acquire(at(0)), Permit::Granted);
        assert_eq!(budget.acquire(at(0)), Permit::Busy);
        budget.release();
        assert_eq!(budget.acquire(at(0)), Permit::Granted);
    }

    fn unlimited() -> Budget {
        Budget::new(Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 100 }, at(0))
    }

    /// Records a failed poll that takes a millisecond.
    fn error(budget: &mut Budget, job: i64, ended: i64) -> Option<ProviderHealth> {
        budget.error(failed(1, job, at(ended - 1)), at(ended))
    }

    fn failed(app: i64, job: i64, started: Timestamp) -> FailedPoll {
        FailedPoll { job: JobNo(job), app: AppNo(app), started, is_only_app: true }
    }

    #[test]
    fn errors_of_one_app_do_not_open_the_breaker_for_others() {
        let mut budget = unlimited();
        let of = |app, job, ended| {
            (FailedPoll { is_only_app: false, ..failed(app, job, at(ended - 1)) }, at(ended))
        };
        for n in 1..=20 {
            let (poll, now) = of(1, n, 2 * n);
            assert_eq!(budget.error(poll, now), None);
        }
        assert!(budget.is_doubtful(true, at(50)) && !budget.is_doubtful(false, at(50)));
        assert!(!budget.is_held_back());
        let (poll, now) = of(2, 30, 60);
        assert_eq!(budget.error(poll, now), Some(ProviderHealth::Down), "another app observes it, too");
    }

    #[test]
    fn errors_of_few_jobs_do_not_open_the_breaker() {
        let mut budget = unlimited();
        for n in 0..20 {
            assert_eq!(error(&mut budget, 1, 2 * n), None);
        }
        for job in 2..5 {
            assert_eq!(error(&mut budget, job, 50 + 2 * job), None);
        }
        // The fifth error comes after the first errors have expired.
        assert_eq!(error(&mut budget, 5, 61_000), None);
        assert!(!budget.is_held_back());
    }

    #[test]
    fn failures_that_were_in_flight_together_count_once() {
        let mut budget = unlimited();
        // Two outages, each of which fails forty polls in flight.
        for started in [0, 2_000] {
            for job in 1..=40 {
                assert_eq!(budget.error(failed(1, job, at(started)), at(started + 100 + job)), None);
            }
        }
        let changes: Vec<_> =
            (1..=40).map(|job| budget.error(failed(1, job, at(5_000)), at(5_000 + job))).collect();
        assert_eq!(changes[0], Some(ProviderHealth::Down), "the third observation");
        assert_eq!(changes[1..], [None; 39]);

        let mut budget = unlimited();
        let ends: Vec<Timestamp> = (1..=20).map(|n| budget.rate_limited(None, at(0), at(10 * n))).collect();
        assert_eq!(ends.last(), Some(&at(1_200)), "one second from the last answer, as after one 429");
        assert_eq!(budget.rate_limited(None, at(1_200), at(1_300)), at(3_300), "the second");
    }

    #[test]
    fn a_rejection_older_than_the_last_success_does_not_pause() {
        let mut budget = unlimited();
        budget.ok(at(500));
        assert_eq!(budget.unauthorized(at(0), at(900)), None);
        assert!(!budget.is_paused());
        assert_eq!(budget.unauthorized(at(501), at(901)), Some(ProviderHealth::Paused));
    }

    #[test]
    fn one_app_leaves_a_place_for_another() {
        let places = |concurrency| Budget::new(limits(1, 1, concurrency), at(0)).places();
        assert_eq!([0, 1, 2, 4, 8, 16].map(|total| places(total).share), [0, 1, 1, 3, 7, 14]);
        assert_eq!([0, 1, 2, 3, 4, 16].map(|total| places(total).spare), [0, 0, 0, 0, 1, 1]);
    }

    #[test]
    fn the_next_start_considers_the_rate_and_the_probes() {
        let mut budget = Budget::new(limits(2, 1, 100), at(0));
        assert_eq!([0, 1, 10].map(|ahead| budget.next_start(at(0), ahead)), [at(500), at(1_000), at(5_500)]);
        budget.unauthorized(at(0), at(1_000));
        assert_eq!([0, 1].map(|ahead| budget.next_start(at(1_000), ahead)), [at(61_000), at(61_500)]);
    }

    #[test]
    fn errors_of_five_jobs_open_the_breaker_until_a_poll_is_ok() {
        let mut budget = unlimited();
        let changes: Vec<Option<ProviderHealth>> =
            (1..=5).map(|job| error(&mut budget, job, 2 * job)).collect();
        assert_eq!(changes[4], Some(ProviderHealth::Down));
        assert_eq!(budget.acquire(at(500)), Permit::At(at(1_010)));
        assert_eq!(budget.acquire(at(1_010)), Permit::Granted);
        assert_eq!(budget.acquire(at(1_011)), Permit::At(at(2_010)));
        assert_eq!(budget.ok(at(1_100)), Some(ProviderHealth::Ok));
        assert_eq!(budget.acquire(at(1_100)), Permit::Granted);
        // A successful poll within the minute keeps the breaker closed.
        for job in 1..=9 {
            assert_eq!(error(&mut budget, job, 2_000 + 2 * job), None);
        }
    }

    #[test]
    fn a_rejected_credential_is_polled_once_a_minute() {
        let mut budget = unlimited();
        assert_eq!(budget.unauthorized(at(0), at(0)), Some(ProviderHealth::Paused));
        assert_eq!(budget.unauthorized(at(0), at(1)), None);
        assert_eq!(budget.acquire(at(30_000)), Permit::At(at(60_001)));
        assert_eq!(budget.acquire(at(60_001)), Permit::Granted);
        assert_eq!(budget.authorized(), Some(ProviderHealth::Ok));
        assert_eq!(budget.acquire(at(60_002)), Permit::Granted);
    }

    #[test]
    fn after_a_429_the_budget_waits_for_retry_after_or_backs_off() {
        let mut budget = unlimited();
        assert_eq!(budget.rate_limited(Some(Duration::from_secs(7)), at(0), at(0)), at(7_000));
        assert_eq!(budget.rate_limited(Some(Duration::from_secs(2)), at(0), at(1)), at(7_000));
        assert_eq!(budget.acquire(at(6_999)), Permit::At(at(7_000)));
        assert_eq!(budget.rate_limited(None, at(7_000), at(7_000)), at(9_000));
        assert_eq!(budget.rate_limited(None, at(9_000), at(9_000)), at(13_000));
        let zero = Some(Duration::ZERO);
        assert_eq!(unlimited().rate_limited(zero, at(0), at(0)), at(1_000), "it names no time");
        assert_eq!(
            budget.rate_limited(Some(Duration::from_secs(999_999)), at(13_001), at(20_000)),
            at(3_620_000)
        );
        assert_eq!((1..9).map(|n| backoff(n).as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
