//! Queues of jobs that are an app's alone, which are made when the first job needs one.
//!
//! A job without a definition is polled at an address that its client has chosen. **Each app has a queue for each
//! origin** (scheme, host and port), with a rate, a breaker and a health of its own: a host that fails, or that limits
//! the rate, delays only the jobs that this app has there. A 401 does not pause such a queue. It is an error of the one
//! job, whose credential is its own: others at the host may have a valid one.
//!
//! A job with a credential of the app is polled as the operator's definition says. **Each of an app's credentials has a
//! queue for each definition**, with the schedule and the limits that the operator's own queue has, and a budget and a
//! health of its own: a provider's limits hold for a credential. A 401 pauses this queue alone.
//!
//! **Each version of an app's definition has a queue**, and so has each credential of it. Its schedule and its limits
//! are those of the definition, but no faster than the operator's settings for jobs without a definition.
//!
//! **The number of queues is limited**, because each step of the poller visits all of them. An app has
//! [`QUEUES_OF_APP`] of its own, and all apps together have [`QUEUES`]. The jobs of further queues share one more queue
//! of their app, which is as strict as the strictest of them. They may delay one another, and no job of another app.
//!
//! **A queue is dropped** when it has no jobs and its rate and cooldown limit nothing any more. A new queue begins with
//! an empty bucket, so dropping one never makes polls faster.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::queue::ProviderQueue;
use crate::domain::{AppNo, INLINE, JobNo, Limits, PollPolicy, Timestamp};

/// Number of queues of one app, besides the one for the rest.
const QUEUES_OF_APP: usize = 64;

/// Number of these queues of all apps.
const QUEUES: usize = 4_096;

/// Interval at which queues without jobs are dropped.
const DROP_INTERVAL: Duration = Duration::from_secs(60);

/// What the jobs of a queue of one app have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum QueueKey {
    /// The origin of the addresses of jobs without a definition.
    Origin(String),
    /// The account of jobs with the same definition, of which it or the credential is the app's.
    Account(String),
    /// Nothing: there are too many queues.
    Rest,
}

impl QueueKey {
    /// Returns the name of a queue of jobs without a definition, for the log.
    fn shown(&self) -> String {
        match self {
            Self::Origin(origin) => format!("{INLINE} ({origin})"),
            Self::Account(_) | Self::Rest => INLINE.to_owned(),
        }
    }
}

/// A definition and a credential, at least one of which is an app's, with the settings of the definition.
#[derive(Clone, Debug)]
pub struct OwnAccess<'a> {
    pub account: &'a str,
    pub provider: &'a str,
    pub credential: Option<&'a str>,
    pub policy: PollPolicy,
    pub limits: Limits,
    /// Whether the definition is the app's.
    pub of_app: bool,
}

/// The queues that are made on demand.
#[derive(Debug)]
pub struct OnDemand {
    /// Settings of jobs without a definition.
    policy: PollPolicy,
    limits: Limits,
    /// Index of the queue of an app.
    index_of: HashMap<(AppNo, QueueKey), u32>,
    /// Number of queues of each app.
    count_of: HashMap<AppNo, usize>,
    /// Indexes of queues that were dropped.
    free: Vec<u32>,
    drop_at: Timestamp,
}

impl OnDemand {
    pub fn new(policy: PollPolicy, limits: Limits) -> Self {
        let (index_of, count_of) = (HashMap::new(), HashMap::new());
        Self { policy, limits, index_of, count_of, free: Vec::new(), drop_at: Timestamp::default() }
    }

    /// Returns the index of the queue for an origin of an app, and makes the queue if it is missing.
    pub fn of_origin(
        &mut self,
        queues: &mut Vec<ProviderQueue>,
        app: AppNo,
        origin: String,
        now: Timestamp,
    ) -> u32 {
        let key = QueueKey::Origin(origin);
        if let Some(known) = self.find(app, &key) {
            return known;
        }
        if self.is_full(app) {
            return self.rest(queues, app, now);
        }
        let queue = ProviderQueue::new(key.shown(), self.policy, self.limits, now);
        self.add(queues, (app, key), queue)
    }

    /// Returns the index of the queue for a definition and a credential, and makes the queue if it is missing.
    pub fn of_account(
        &mut self,
        queues: &mut Vec<ProviderQueue>,
        app: AppNo,
        access: &OwnAccess<'_>,
        now: Timestamp,
    ) -> u32 {
        let OwnAccess { account, provider, credential, policy, limits, of_app } = *access;
        let key = QueueKey::Account(account.to_owned());
        if let Some(known) = self.find(app, &key) {
            return known;
        }
        if self.is_full(app) {
            let index = self.rest(queues, app, now);
            if let Some(queue) = queues.get_mut(index as usize) {
                queue.tighten(&policy, limits);
            }
            return index;
        }
        let mut queue = ProviderQueue::new(provider.to_owned(), policy, limits, now);
        queue.credential = credential.map(str::to_owned);
        queue.of_app = of_app;
        self.add(queues, (app, key), queue)
    }

    /// Returns the index of the queue of an app for all further jobs.
    fn rest(&mut self, queues: &mut Vec<ProviderQueue>, app: AppNo, now: Timestamp) -> u32 {
        if let Some(known) = self.find(app, &QueueKey::Rest) {
            return known;
        }
        let queue = ProviderQueue::new(QueueKey::Rest.shown(), self.policy, self.limits, now);
        self.add(queues, (app, QueueKey::Rest), queue)
    }

    fn find(&self, app: AppNo, key: &QueueKey) -> Option<u32> {
        self.index_of.get(&(app, key.clone())).copied()
    }

    fn is_full(&self, app: AppNo) -> bool {
        let is_full = self.count_of.get(&app).is_some_and(|count| *count >= QUEUES_OF_APP);
        is_full || self.index_of.len() >= QUEUES
    }

    fn add(
        &mut self,
        queues: &mut Vec<ProviderQueue>,
        (app, key): (AppNo, QueueKey),
        mut queue: ProviderQueue,
    ) -> u32 {
        queue.members = Some(HashSet::new());
        let index = match self.free.pop() {
            Some(index) => index,
            None => u32::try_from(queues.len()).unwrap_or_default(),
        };
        match queues.get_mut(index as usize) {
            Some(place) => *place = queue,
            None => queues.push(queue),
        }
        self.index_of.insert((app, key), index);
        *self.count_of.entry(app).or_default() += 1;
        index
    }

    /// Returns the indexes of an app's queues for jobs without a definition.
    pub fn of_app(&self, app: AppNo) -> impl Iterator<Item = usize> {
        self.entries_of(app, |key| !matches!(key, QueueKey::Account(_)))
    }

    /// Returns the indexes of an app's queues for definitions.
    pub fn of_definitions(&self, app: AppNo) -> impl Iterator<Item = usize> {
        self.entries_of(app, |key| matches!(key, QueueKey::Account(_)))
    }

    fn entries_of(&self, app: AppNo, wanted: fn(&QueueKey) -> bool) -> impl Iterator<Item = usize> {
        let found = self.index_of.iter().filter(move |((known, key), _)| *known == app && wanted(key));
        found.map(|(_, index)| *index as usize)
    }

    /// Returns the indexes of all queues.
    pub fn all(&self) -> impl Iterator<Item = usize> {
        self.index_of.values().map(|index| *index as usize)
    }

    /// Returns when the jobs are polled, and how fast those at one origin.
    pub fn settings(&self) -> (PollPolicy, Limits) {
        (self.policy, self.limits)
    }

    /// Drops the queues without jobs, once in [`DROP_INTERVAL`].
    pub fn drop_idle(&mut self, queues: &mut [ProviderQueue], now: Timestamp) {
        // The clock may have been set back.
        let is_early = now < self.drop_at && self.drop_at.since(now) <= DROP_INTERVAL;
        if self.index_of.is_empty() || is_early {
            return;
        }
        self.drop_at = now.plus(DROP_INTERVAL);
        let (free, count_of) = (&mut self.free, &mut self.count_of);
        self.index_of.retain(|(app, _), index| {
            let Some(queue) = queues.get_mut(*index as usize) else { return false };
            let has_jobs = queue.members.as_ref().is_none_or(|members| !members.is_empty());
            let is_used = has_jobs || !queue.cancels.is_empty();
            if is_used || !queue.budget.is_unlimited(now) {
                return true;
            }
            // It holds no memory until it is used again.
            *queue = ProviderQueue::new(
                String::new(),
                queue.policy,
                Limits { concurrency: 0, ..self.limits },
                now,
            );
            free.push(*index);
            if let Some(count) = count_of.get_mut(app) {
                *count -= 1;
                if *count == 0 {
                    count_of.remove(app);
                }
            }
            false
        });
    }
}

impl ProviderQueue {
    /// Returns whether all of its jobs are polled with the same credential, so that one 401 is about all of them.
    pub fn has_one_credential(&self) -> bool {
        self.members.is_none() || self.credential.is_some()
    }

    /// Makes the queue as strict as these settings.
    fn tighten(&mut self, policy: &PollPolicy, limits: Limits) {
        let own = &mut self.policy;
        own.min_interval = own.min_interval.max(policy.min_interval);
        own.max_interval = own.max_interval.max(policy.max_interval);
        own.not_found_grace = own.not_found_grace.max(policy.not_found_grace);
        self.budget.tighten(limits);
    }

    /// Notes a job of a queue that was made on demand.
    pub fn add_member(&mut self, job: JobNo) {
        if let Some(members) = &mut self.members {
            members.insert(job);
        }
    }

    /// Notes that a job is not scheduled any more.
    pub fn remove_member(&mut self, job: JobNo) {
        if let Some(members) = &mut self.members {
            members.remove(&job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Rate;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    fn on_demand() -> OnDemand {
        let limits =
            Limits { rate: Rate { spacing: Some(Duration::from_secs(1)) }, burst: 5, concurrency: 4 };
        OnDemand::new(PollPolicy::default(), limits)
    }

    #[test]
    fn each_app_has_a_queue_for_each_origin() {
        let (mut on_demand, mut queues) = (on_demand(), Vec::new());
        let mut queue =
            |app, origin: &str| on_demand.of_origin(&mut queues, AppNo(app), origin.to_owned(), at(0));
        let first = queue(1, "https://a");
        assert_eq!(queue(1, "https://a"), first);
        assert_ne!(queue(2, "https://a"), first);
        assert_ne!(queue(1, "https://b"), first);
    }

    #[test]
    fn the_number_of_queues_of_an_app_is_limited() {
        let (mut on_demand, mut queues) = (on_demand(), Vec::new());
        for n in 0..10 * QUEUES_OF_APP {
            on_demand.of_origin(&mut queues, AppNo(1), format!("https://{n}"), at(0));
        }
        assert_eq!(queues.len(), QUEUES_OF_APP + 1);
        let shared = on_demand.of_origin(&mut queues, AppNo(1), "https://x".to_owned(), at(0));
        let other = on_demand.of_origin(&mut queues, AppNo(2), "https://x".to_owned(), at(0));
        assert_ne!(shared, other);
        // A definition that is polled more rarely slows it down.
        let policy = PollPolicy { min_interval: Duration::from_secs(60), ..PollPolicy::default() };
        let limits =
            Limits { rate: Rate { spacing: Some(Duration::from_secs(9)) }, burst: 2, concurrency: 100 };
        let access = OwnAccess {
            account: "a",
            provider: "muvi",
            credential: Some("k"),
            policy,
            limits,
            of_app: false,
        };
        assert_eq!(on_demand.of_account(&mut queues, AppNo(1), &access, at(0)), shared);
        let queue = &queues[shared as usize];
        assert_eq!(queue.policy.min_interval, policy.min_interval);
        assert_eq!(queue.budget.limits(), Limits { concurrency: 4, ..limits });
        assert!(!queue.has_one_credential());
    }

    #[test]
    fn each_credential_has_a_queue_for_each_definition() {
        let (mut on_demand, mut queues) = (on_demand(), Vec::new());
        let limits = on_demand.limits;
        let access = |account| OwnAccess {
            account,
            provider: "muvi",
            credential: Some("my-key"),
            policy: PollPolicy::default(),
            limits: Limits { burst: 77, ..limits },
            of_app: false,
        };
        let mut queue = |app, account| on_demand.of_account(&mut queues, AppNo(app), &access(account), at(0));
        let first = queue(1, "a");
        assert_eq!(queue(1, "a"), first);
        assert!(queue(1, "b") != first && queue(2, "a") != first);
        let queue = &queues[first as usize];
        assert!(queue.has_one_credential() && queue.budget.limits().burst == 77);
        let count = |app| on_demand.of_definitions(AppNo(app)).count();
        assert_eq!((count(1), count(2), on_demand.of_app(AppNo(1)).count()), (2, 1, 0));
    }

    #[test]
    fn a_queue_without_jobs_is_dropped_when_it_limits_nothing() {
        let (mut on_demand, mut queues) = (on_demand(), Vec::new());
        let index = on_demand.of_origin(&mut queues, AppNo(1), "https://a".to_owned(), at(0)) as usize;
        queues[index].add_member(JobNo(1));
        let count = |on_demand: &OnDemand| on_demand.all().count();
        on_demand.drop_idle(&mut queues, at(100));
        assert_eq!(count(&on_demand), 1, "it has a job");
        queues[index].remove_member(JobNo(1));
        queues[index].budget.rate_limited(Some(Duration::from_secs(600)), at(100), at(101));
        on_demand.drop_idle(&mut queues, at(200));
        assert_eq!(count(&on_demand), 1, "its cooldown holds for new jobs");
        on_demand.drop_idle(&mut queues, at(702));
        assert_eq!((count(&on_demand), queues.len()), (0, 1));
        let again = on_demand.of_origin(&mut queues, AppNo(2), "https://b".to_owned(), at(703)) as usize;
        assert_eq!((again, queues.len()), (index, 1), "its place is used again");
    }
}
