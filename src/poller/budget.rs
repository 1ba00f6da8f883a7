//! What a provider allows, and how it is.
//!
//! One budget for each provider and credential: the rate, the concurrency, and three ways to hold
//! back that have different causes.
//!
//! - **Cooldown** (429): we are too fast. The bucket waits for `Retry-After`, or 1, 2, 4 … 60 s.
//! - **Breaker** (five distinct jobs in trouble within a minute, none answered well): the provider is
//!   in trouble. One look a second, until one is answered well; then it closes, and the backoffs of
//!   all jobs are cleared.
//! - **Pause** (401, or a code that the definition names): the credential is in trouble. One look a
//!   minute, until one is answered; no watch fails for it.
//!
//! All of it is a function of `now`; nothing here sleeps or does I/O.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{JobNo, ProviderHealth, Timestamp};

/// The most that a provider's `Retry-After` can ask for.
const COOLDOWN_MAX: Duration = Duration::from_secs(3600);

/// How many jobs must be in trouble for it to be the provider's.
const BREAKER_JOBS: usize = 5;

/// For how long a trouble, or a good answer, counts.
const BREAKER_WINDOW: Duration = Duration::from_secs(60);

/// Between looks while the breaker is open.
const BREAKER_PROBE: Duration = Duration::from_secs(1);

/// Between looks while the credential is paused.
const PAUSE_PROBE: Duration = Duration::from_secs(60);

/// The wait after the `n`th failure in a row: 1, 2, 4 … 60 s.
pub fn backoff(n: u32) -> Duration {
    Duration::from_secs(1 << n.saturating_sub(1).min(6)).min(Duration::from_secs(60))
}

/// The rate and the concurrency that a provider allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The time that one look uses up; `None` for no limit.
    pub spacing: Option<Duration>,
    /// How many looks can be saved up.
    pub burst: u32,
    /// How many looks may be in flight.
    pub concurrency: u32,
}

/// Whether a look may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// It may, and is counted.
    Granted,
    /// Not before.
    At(Timestamp),
    /// Not before one that is in flight has ended.
    Busy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    /// The provider is in trouble.
    Open {
        probe_at: Timestamp,
    },
    /// The credential is in trouble.
    Paused {
        probe_at: Timestamp,
    },
}

/// What a look's answer changed, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// The breaker opened.
    Opened,
    /// The credential was paused.
    Paused,
    /// All is well again; the backoffs of all jobs are to be cleared.
    Recovered,
}

/// The budget of one credential.
#[derive(Debug)]
pub struct Budget {
    limits: Limits,
    /// GCRA's theoretical arrival time, in microseconds: when the bucket is full again.
    full_at: i64,
    in_flight: u32,
    cooldown_until: Timestamp,
    cooldowns: u32,
    health: Health,
    last_good: Option<Timestamp>,
    troubles: HashMap<JobNo, Timestamp>,
}

impl Budget {
    /// A budget whose bucket is empty: after a restart, or a change of owner, the one before may
    /// just have used it up.
    pub fn new(limits: Limits, now: Timestamp) -> Self {
        let mut budget = Self {
            limits,
            full_at: 0,
            in_flight: 0,
            cooldown_until: Timestamp::default(),
            cooldowns: 0,
            health: Health::Well,
            last_good: None,
            troubles: HashMap::new(),
        };
        budget.full_at = micros(now) + budget.spacing() * i64::from(limits.burst);
        budget
    }

    fn spacing(&self) -> i64 {
        let spacing = self.limits.spacing.unwrap_or_default().as_micros();
        i64::try_from(spacing).unwrap_or(i64::MAX / 1_000_000)
    }

    /// Whether the provider or the credential is in trouble, or nothing can be asked at all.
    pub fn is_held_back(&self) -> bool {
        self.health != Health::Well || self.limits.concurrency == 0
    }

    /// Whether the credential is refused.
    pub fn is_paused(&self) -> bool {
        matches!(self.health, Health::Paused { .. })
    }

    /// Whether the provider is in trouble.
    pub fn is_open(&self) -> bool {
        matches!(self.health, Health::Open { .. })
    }

    /// How the provider is, for people; and until when it is held back, if it is.
    pub fn health(&self, now: Timestamp) -> (ProviderHealth, Option<Timestamp>) {
        let cooling = Some(self.cooldown_until).filter(|until| *until > now);
        let since = now.minus(BREAKER_WINDOW);
        match self.health {
            Health::Open { probe_at } => (ProviderHealth::Down, Some(probe_at).max(cooling)),
            Health::Paused { probe_at } => (ProviderHealth::Paused, Some(probe_at).max(cooling)),
            Health::Well if cooling.is_some() || self.troubles.values().any(|at| *at >= since) => {
                (ProviderHealth::Degraded, cooling)
            }
            Health::Well => (ProviderHealth::Ok, None),
        }
    }

    /// When a look was last answered well.
    pub fn last_good(&self) -> Option<Timestamp> {
        self.last_good
    }

    /// How many looks are in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// What [`Self::ask`] would say, without asking.
    pub fn when(&self, now: Timestamp) -> Permit {
        if self.in_flight >= self.limits.concurrency {
            return Permit::Busy;
        }
        let saved = self.spacing() * i64::from(self.limits.burst.saturating_sub(1));
        let allowed = self.full_at - saved;
        let mut at = self.cooldown_until;
        // The clock stands still for a millisecond, in which several may be allowed.
        if allowed > micros(now) + 999 {
            at = at.max(Timestamp::from_millis(allowed.div_euclid(1000)));
        }
        if let Health::Open { probe_at } | Health::Paused { probe_at } = self.health {
            at = at.max(probe_at);
        }
        if at > now { Permit::At(at) } else { Permit::Granted }
    }

    /// Asks to start a look; one that is granted is counted until [`Self::ended`].
    pub fn ask(&mut self, now: Timestamp) -> Permit {
        let permit = self.when(now);
        if permit != Permit::Granted {
            return permit;
        }
        self.full_at = self.full_at.max(micros(now)) + self.spacing();
        self.in_flight += 1;
        match &mut self.health {
            Health::Well => {}
            Health::Open { probe_at } => *probe_at = now.plus(BREAKER_PROBE),
            Health::Paused { probe_at } => *probe_at = now.plus(PAUSE_PROBE),
        }
        Permit::Granted
    }

    /// A look that was granted has ended.
    pub fn ended(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A look was answered well.
    pub fn good(&mut self, now: Timestamp) -> Change {
        self.last_good = Some(now);
        self.cooldowns = 0;
        self.troubles.clear();
        let was = std::mem::replace(&mut self.health, Health::Well);
        if was == Health::Well { Change::None } else { Change::Recovered }
    }

    /// A look at `job` met trouble that may be the job's or the provider's.
    pub fn trouble(&mut self, job: JobNo, now: Timestamp) -> Change {
        let since = now.minus(BREAKER_WINDOW);
        self.troubles.retain(|_, at| *at >= since);
        if self.troubles.len() < BREAKER_JOBS {
            self.troubles.insert(job, now);
        }
        let none_good = self.last_good.is_none_or(|at| at < since);
        if self.health == Health::Well && none_good && self.troubles.len() >= BREAKER_JOBS {
            self.health = Health::Open { probe_at: now.plus(BREAKER_PROBE) };
            return Change::Opened;
        }
        Change::None
    }

    /// The credential was refused.
    pub fn refused(&mut self, now: Timestamp) -> Change {
        let was = std::mem::replace(&mut self.health, Health::Paused { probe_at: now.plus(PAUSE_PROBE) });
        if matches!(was, Health::Paused { .. }) { Change::None } else { Change::Paused }
    }

    /// The credential was accepted, though the answer was no good one.
    pub fn accepted(&mut self) -> Change {
        if matches!(self.health, Health::Paused { .. }) {
            self.health = Health::Well;
            return Change::Recovered;
        }
        Change::None
    }

    /// The clock was set back so far: what is waited for comes no later for it.
    pub fn set_back(&mut self, jump: Duration) {
        self.full_at -= i64::try_from(jump.as_micros()).unwrap_or(i64::MAX);
        self.cooldown_until = self.cooldown_until.minus(jump);
        self.last_good = self.last_good.map(|at| at.minus(jump));
        self.troubles.values_mut().for_each(|at| *at = at.minus(jump));
        if let Health::Open { probe_at } | Health::Paused { probe_at } = &mut self.health {
            *probe_at = probe_at.minus(jump);
        }
    }

    /// We were too fast; the answer is until when the bucket waits.
    pub fn too_fast(&mut self, retry_after: Option<Duration>, now: Timestamp) -> Timestamp {
        // Several looks that were in flight together are one lesson.
        if now >= self.cooldown_until {
            self.cooldowns += 1;
        }
        let wait = retry_after.unwrap_or_else(|| backoff(self.cooldowns)).min(COOLDOWN_MAX);
        self.cooldown_until = self.cooldown_until.max(now.plus(wait));
        self.cooldown_until
    }
}

fn micros(at: Timestamp) -> i64 {
    at.millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + millis)
    }

    fn limits(per_second: u64, burst: u32, concurrency: u32) -> Limits {
        Limits { spacing: Some(Duration::from_micros(1_000_000 / per_second)), burst, concurrency }
    }

    /// Asks each millisecond and gives the times at which a look was granted.
    fn granted(budget: &mut Budget, millis: i64) -> Vec<i64> {
        let mut times = Vec::new();
        for ms in 0..millis {
            while budget.ask(at(ms)) == Permit::Granted {
                budget.ended();
                times.push(ms);
            }
        }
        times
    }

    #[test]
    fn the_bucket_is_empty_at_start_and_the_rate_is_never_exceeded() {
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
    fn what_was_saved_up_is_spent_at_once_and_no_more() {
        let mut budget = Budget::new(limits(10, 3, 100), at(0));
        let later = at(10_000);
        for _ in 0..3 {
            assert_eq!(budget.ask(later), Permit::Granted);
        }
        assert!(matches!(budget.ask(later), Permit::At(_)));
    }

    #[test]
    fn no_more_looks_are_in_flight_than_the_provider_takes() {
        let mut budget = Budget::new(Limits { spacing: None, burst: 1, concurrency: 2 }, at(0));
        assert_eq!(budget.ask(at(0)), Permit::Granted);
        assert_eq!(budget.ask(at(0)), Permit::Granted);
        assert_eq!(budget.ask(at(0)), Permit::Busy);
        budget.ended();
        assert_eq!(budget.ask(at(0)), Permit::Granted);
    }

    fn unlimited() -> Budget {
        Budget::new(Limits { spacing: None, burst: 1, concurrency: 100 }, at(0))
    }

    #[test]
    fn one_jobs_trouble_is_not_the_providers() {
        let mut budget = unlimited();
        for _ in 0..20 {
            assert_eq!(budget.trouble(JobNo(1), at(0)), Change::None);
        }
        for job in 2..5 {
            assert_eq!(budget.trouble(JobNo(job), at(0)), Change::None);
        }
        // The fifth comes when the first are forgotten.
        assert_eq!(budget.trouble(JobNo(5), at(61_000)), Change::None);
        assert!(!budget.is_held_back());
    }

    #[test]
    fn trouble_of_five_jobs_with_no_good_answer_opens_the_breaker_until_one_is_good() {
        let mut budget = unlimited();
        let changes: Vec<Change> = (1..=5).map(|job| budget.trouble(JobNo(job), at(job))).collect();
        assert_eq!(changes[4], Change::Opened);
        assert_eq!(budget.ask(at(500)), Permit::At(at(1_005)));
        assert_eq!(budget.ask(at(1_005)), Permit::Granted);
        assert_eq!(budget.ask(at(1_006)), Permit::At(at(2_005)));
        assert_eq!(budget.good(at(1_100)), Change::Recovered);
        assert_eq!(budget.ask(at(1_100)), Permit::Granted);
        // A good answer within the minute keeps it closed.
        for job in 1..=9 {
            assert_eq!(budget.trouble(JobNo(job), at(2_000)), Change::None);
        }
    }

    #[test]
    fn a_refused_credential_is_tried_once_a_minute_until_it_is_accepted() {
        let mut budget = unlimited();
        assert_eq!(budget.refused(at(0)), Change::Paused);
        assert_eq!(budget.refused(at(1)), Change::None);
        assert_eq!(budget.ask(at(30_000)), Permit::At(at(60_001)));
        assert_eq!(budget.ask(at(60_001)), Permit::Granted);
        assert_eq!(budget.accepted(), Change::Recovered);
        assert_eq!(budget.ask(at(60_002)), Permit::Granted);
    }

    #[test]
    fn after_a_429_the_bucket_waits_as_long_as_it_is_told_or_longer_each_time() {
        let mut budget = unlimited();
        assert_eq!(budget.too_fast(Some(Duration::from_secs(7)), at(0)), at(7_000));
        assert_eq!(budget.too_fast(Some(Duration::from_secs(2)), at(1)), at(7_000));
        assert_eq!(budget.ask(at(6_999)), Permit::At(at(7_000)));
        assert_eq!(budget.too_fast(None, at(7_000)), at(9_000));
        assert_eq!(budget.too_fast(None, at(9_000)), at(13_000));
        assert_eq!(budget.too_fast(Some(Duration::from_secs(999_999)), at(20_000)), at(3_620_000));
        assert_eq!((1..9).map(|n| backoff(n).as_secs()).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
