//! The last polls of jobs that have left the scheduler, for as long as they delay the next poll of their job.
//!
//! A job leaves the scheduler when no watch waits for it. It can come back at once: for a poll that a client requests,
//! for a new watch, or because it is registered again after its ending. The minimum interval and the provider's
//! `Retry-After` apply to the job all the same, so they are remembered here. Only a job that was polled within the
//! minimum interval, or has a `Retry-After` that is not over, has an entry that matters. The others are dropped when
//! the map has doubled, and all of them once the last one is past.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::{JobNo, Timestamp};

/// Number of entries from which on those that are past are dropped.
const PRUNE_FROM: usize = 1_024;

/// How the polls of a job delay its next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spacing {
    /// End of the minimum interval after the last poll.
    pub spaced_until: Timestamp,
    /// End of the provider's `Retry-After`.
    pub not_before: Timestamp,
}

impl Spacing {
    /// Returns the time from which on the next poll is not delayed any more.
    pub fn end(&self) -> Timestamp {
        self.spaced_until.max(self.not_before)
    }

    /// Moves the times back by `jump`.
    fn set_back(&mut self, jump: Duration) {
        self.spaced_until = self.spaced_until.minus(jump);
        self.not_before = self.not_before.minus(jump);
    }
}

/// The spacing of each job that has left the scheduler and may come back too soon.
#[derive(Debug)]
pub struct RecentPolls {
    jobs: HashMap<JobNo, Spacing>,
    /// Number of entries at which those that are past are dropped.
    prune_at: usize,
    /// Time at which all entries are past.
    all_past_at: Timestamp,
}

impl Default for RecentPolls {
    fn default() -> Self {
        Self { jobs: HashMap::new(), prune_at: PRUNE_FROM, all_past_at: Timestamp::default() }
    }
}

impl RecentPolls {
    /// Remembers the spacing of a job that leaves the scheduler, unless it is past.
    pub fn remember(&mut self, job: JobNo, spacing: Spacing, now: Timestamp) {
        if spacing.end() <= now {
            return;
        }
        if self.jobs.len() >= self.prune_at {
            self.jobs.retain(|_, known| known.end() > now);
            self.prune_at = (2 * self.jobs.len()).max(PRUNE_FROM);
        }
        self.all_past_at = self.all_past_at.max(spacing.end());
        self.jobs.insert(job, spacing);
    }

    /// Returns the spacing of a job that comes back, and forgets it.
    pub fn take(&mut self, job: JobNo) -> Option<Spacing> {
        self.jobs.remove(&job)
    }

    /// Drops all entries and their memory once all are past.
    pub fn drop_past(&mut self, now: Timestamp) {
        if now >= self.all_past_at && self.jobs.capacity() > 0 {
            *self = Self::default();
        }
    }

    /// Moves all times back by `jump`.
    pub fn set_back(&mut self, jump: Duration) {
        self.jobs.values_mut().for_each(|spacing| spacing.set_back(jump));
        self.all_past_at = self.all_past_at.minus(jump);
    }

    /// Returns the number of entries.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }
}
