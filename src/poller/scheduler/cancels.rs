//! Requests to cancel jobs of one provider that wait for their time or for the budget.
//!
//! **They take part in the budget of polls**: rate, concurrency, cooldown, and the probes of a breaker or of a paused
//! credential. Most of them are the first and only request of a job, and money is spent until it is made, so they come
//! before polls. But **at most every other start** is one of them while polls wait, and at most [`Cancels::most`] are in
//! flight: a client that cancels ten thousand jobs delays the endings of other jobs to twice their time at most.
//!
//! **The apps take turns.** The next request is one of the app that follows the app of the last one.
//!
//! **The requests of an app for a job are one entry.** A request that arrives while an attempt is in flight can be older or
//! newer than its result. It causes another attempt, which reads what is stored, and makes no request if none is pending.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::time::Duration;

use crate::domain::{AppNo, JobNo, Timestamp};

/// Maximum number of requests in flight for one provider. A slow one occupies a place of the polls.
const MOST: u32 = 4;

/// The requests of one provider.
#[derive(Debug, Default)]
pub struct Cancels {
    /// Times of the next attempts, by app.
    apps: BTreeMap<AppNo, BTreeSet<(Timestamp, JobNo)>>,
    /// The same times, and those of what is in flight.
    times: HashMap<(JobNo, AppNo), Time>,
    /// App of the last attempt.
    last_app: Option<AppNo>,
    in_flight: u32,
    /// Whether the last start was one of a request, and not of a poll.
    pub was_last: bool,
}

/// When an attempt is made.
#[derive(Clone, Copy, Debug)]
enum Time {
    At(Timestamp),
    /// It is in flight. Another request has arrived since, which wants an attempt at this time.
    InFlight(Option<Timestamp>),
}

impl Cancels {
    /// Schedules the attempt of an app to cancel a job, unless one is scheduled.
    pub fn add(&mut self, job: JobNo, app: AppNo, at: Timestamp) {
        match self.times.entry((job, app)) {
            Entry::Occupied(mut known) => {
                if let Time::InFlight(again) = known.get_mut() {
                    *again = Some(at);
                }
            }
            Entry::Vacant(entry) => {
                entry.insert(Time::At(at));
                self.apps.entry(app).or_default().insert((at, job));
            }
        }
    }

    /// Returns whether no request is scheduled or in flight.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// Returns the request whose turn it is at `now`, if one is due and few enough are in flight.
    pub fn next(&self, concurrency: u32, now: Timestamp) -> Option<(JobNo, AppNo)> {
        if self.in_flight >= Self::most(concurrency) {
            return None;
        }
        self.first_due(now)
    }

    fn first_due(&self, now: Timestamp) -> Option<(JobNo, AppNo)> {
        let last = self.last_app.map_or(Bound::Unbounded, Bound::Excluded);
        let later = self.apps.range((last, Bound::Unbounded));
        let turns = later.chain(self.apps.iter());
        let due = |(app, waiting): (&AppNo, &BTreeSet<(Timestamp, JobNo)>)| {
            waiting.first().filter(|(at, _)| *at <= now).map(|(_, job)| (*job, *app))
        };
        turns.into_iter().find_map(due)
    }

    /// Marks a request as in flight.
    pub fn start(&mut self, job: JobNo, app: AppNo) {
        if let Some(Time::At(at)) = self.times.insert((job, app), Time::InFlight(None)) {
            self.remove_time(job, app, at);
        }
        (self.last_app, self.was_last) = (Some(app), true);
        self.in_flight += 1;
    }

    /// Ends the attempt in flight. `next_at`: the time of the next one.
    pub fn finish(&mut self, job: JobNo, app: AppNo, next_at: Option<Timestamp>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let again = match self.times.remove(&(job, app)) {
            Some(Time::InFlight(again)) => again,
            Some(Time::At(_)) | None => None,
        };
        // If the result was that of this request as well, the next attempt finds nothing to do.
        if let Some(at) = next_at.into_iter().chain(again).min() {
            self.add(job, app, at);
        }
    }

    /// Returns the time of the next attempt: `now` or before if one waits for the budget.
    pub fn next_at(&self, concurrency: u32) -> Option<Timestamp> {
        if self.in_flight >= Self::most(concurrency) {
            // The end of an attempt causes the next step.
            return None;
        }
        self.apps.values().filter_map(|waiting| waiting.first().map(|(at, _)| *at)).min()
    }

    /// Moves all times back by `jump`.
    pub fn set_back(&mut self, jump: Duration) {
        for time in self.times.values_mut() {
            if let Time::At(at) | Time::InFlight(Some(at)) = time {
                *at = at.minus(jump);
            }
        }
        for waiting in self.apps.values_mut() {
            *waiting = waiting.iter().map(|(at, job)| (at.minus(jump), *job)).collect();
        }
    }

    /// Returns the maximum number in flight: half of the concurrency, and at least one.
    fn most(concurrency: u32) -> u32 {
        (concurrency / 2).clamp(1, MOST)
    }

    fn remove_time(&mut self, job: JobNo, app: AppNo, at: Timestamp) {
        let Some(waiting) = self.apps.get_mut(&app) else { return };
        waiting.remove(&(at, job));
        if waiting.is_empty() {
            self.apps.remove(&app);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000 * seconds)
    }

    /// Starts every request that may start, and returns its job and its app.
    fn started(cancels: &mut Cancels, concurrency: u32, now: Timestamp) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        while let Some((job, app)) = cancels.next(concurrency, now) {
            cancels.start(job, app);
            found.push((job.0, app.0));
        }
        found
    }

    #[test]
    fn the_apps_take_turns_and_few_are_in_flight() {
        let mut cancels = Cancels::default();
        for job in 1..=10 {
            cancels.add(JobNo(job), AppNo(1), at(job));
        }
        cancels.add(JobNo(20), AppNo(2), at(9));
        assert_eq!(started(&mut cancels, 2, at(100)), [(1, 1)]);
        assert_eq!(cancels.next_at(2), None);
        cancels.finish(JobNo(1), AppNo(1), None);
        assert_eq!(started(&mut cancels, 100, at(100)), [(20, 2), (2, 1), (3, 1), (4, 1)]);
    }

    #[test]
    fn a_request_is_one_entry_until_it_is_decided() {
        let mut cancels = Cancels::default();
        let (job, app) = (JobNo(1), AppNo(1));
        cancels.add(job, app, at(5));
        cancels.add(job, app, at(1));
        assert_eq!(cancels.next_at(4), Some(at(5)));
        assert_eq!(started(&mut cancels, 4, at(4)), []);
        assert_eq!(started(&mut cancels, 4, at(5)), [(1, 1)]);
        cancels.add(job, app, at(30));
        assert_eq!(started(&mut cancels, 4, at(40)), []);
        cancels.finish(job, app, Some(at(20)));
        cancels.set_back(Duration::from_secs(10));
        assert_eq!(started(&mut cancels, 4, at(10)), [(1, 1)]);
        cancels.add(job, app, at(11));
        cancels.finish(job, app, None);
        assert_eq!(started(&mut cancels, 4, at(11)), [(1, 1)], "it may be newer than the result");
        cancels.finish(job, app, None);
        assert_eq!((cancels.next_at(4), cancels.times.len(), cancels.apps.len()), (None, 0, 0));
    }
}
