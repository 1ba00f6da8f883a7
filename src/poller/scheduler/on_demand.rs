//! Queues of jobs without a definition, which are made when the first job needs one.
//!
//! A job without a definition is polled at an address that its client has chosen. **Each app has a queue for each origin**
//! (scheme, host and port), with a rate, a breaker and a health of its own: a host that fails, or that limits the rate,
//! delays only the jobs that this app has there.
//!
//! A 401 pauses none of these queues. It is an error of the one job, whose credential is its own: others at the host may
//! have a valid one.
//!
//! **The number of queues is limited**, because each step of the poller visits all of them. An app has
//! [`QUEUES_OF_APP`] of its own, and all apps together have [`QUEUES`]. The jobs at further origins share one more queue
//! of their app. They may delay one another, and no job of another app.
//!
//! **A queue is dropped** when it has no jobs and its rate and cooldown limit nothing any more. A new queue begins with an
//! empty bucket, so dropping one never makes polls faster.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::queue::ProviderQueue;
use crate::domain::{AppNo, INLINE, JobNo, Limits, PollPolicy, Timestamp};

/// Number of queues of one app for single origins.
const QUEUES_OF_APP: usize = 64;

/// Number of queues for single origins.
const QUEUES: usize = 4_096;

/// Interval at which queues without jobs are dropped.
const DROP_INTERVAL: Duration = Duration::from_secs(60);

/// The queues that are made on demand.
#[derive(Debug)]
pub struct OnDemand {
    policy: PollPolicy,
    limits: Limits,
    /// Index of the queue of an app for an origin. The empty origin stands for all further ones.
    index_of: HashMap<(AppNo, String), u32>,
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
    pub fn queue(
        &mut self,
        queues: &mut Vec<ProviderQueue>,
        app: AppNo,
        mut origin: String,
        now: Timestamp,
    ) -> u32 {
        if let Some(known) = self.index_of.get(&(app, origin.clone())) {
            return *known;
        }
        let is_full = self.count_of.get(&app).is_some_and(|count| *count >= QUEUES_OF_APP);
        if is_full || self.index_of.len() >= QUEUES {
            origin = String::new();
            if let Some(known) = self.index_of.get(&(app, origin.clone())) {
                return *known;
            }
        }
        let shown = if origin.is_empty() { INLINE.to_owned() } else { format!("{INLINE} ({origin})") };
        let mut queue = ProviderQueue::new(shown, self.policy, self.limits, now);
        queue.members = Some(HashSet::new());
        let index = match self.free.pop() {
            Some(index) => index,
            None => u32::try_from(queues.len()).unwrap_or_default(),
        };
        match queues.get_mut(index as usize) {
            Some(place) => *place = queue,
            None => queues.push(queue),
        }
        self.index_of.insert((app, origin), index);
        *self.count_of.entry(app).or_default() += 1;
        index
    }

    /// Returns the indexes of an app's queues.
    pub fn of_app(&self, app: AppNo) -> impl Iterator<Item = usize> {
        self.index_of.iter().filter(move |((known, _), _)| *known == app).map(|(_, index)| *index as usize)
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
            let is_used = queue.members.as_ref().is_none_or(|members| !members.is_empty());
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
            |app, origin: &str| on_demand.queue(&mut queues, AppNo(app), origin.to_owned(), at(0));
        let first = queue(1, "https://a");
        assert_eq!(queue(1, "https://a"), first);
        assert_ne!(queue(2, "https://a"), first);
        assert_ne!(queue(1, "https://b"), first);
    }

    #[test]
    fn the_number_of_queues_of_an_app_is_limited() {
        let (mut on_demand, mut queues) = (on_demand(), Vec::new());
        for n in 0..10 * QUEUES_OF_APP {
            on_demand.queue(&mut queues, AppNo(1), format!("https://{n}"), at(0));
        }
        assert_eq!(queues.len(), QUEUES_OF_APP + 1);
        let shared = on_demand.queue(&mut queues, AppNo(1), "https://x".to_owned(), at(0));
        let other = on_demand.queue(&mut queues, AppNo(2), "https://x".to_owned(), at(0));
        assert_ne!(shared, other);
    }

    #[test]
    fn a_queue_without_jobs_is_dropped_when_it_limits_nothing() {
        let (mut on_demand, mut queues) = (on_demand(), Vec::new());
        let index = on_demand.queue(&mut queues, AppNo(1), "https://a".to_owned(), at(0)) as usize;
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
        let again = on_demand.queue(&mut queues, AppNo(2), "https://b".to_owned(), at(703)) as usize;
        assert_eq!((again, queues.len()), (index, 1), "its place is used again");
    }
}
