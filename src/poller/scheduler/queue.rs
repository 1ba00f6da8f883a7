//! The jobs of one provider and credential, ordered by time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use super::job::{FinalPoll, JobSchedule, NEVER};
use crate::domain::{JobNo, Timestamp};
use crate::poller::budget::{Budget, Permit};
use crate::providers::{Limits, PollPolicy};

/// Time for which a final poll that fails is repeated.
const FINAL_POLL: Duration = Duration::from_secs(60);

/// Number of stale entries that a heap may always contain.
pub const SLACK: usize = 1_024;

/// All scheduled jobs.
pub type Jobs = HashMap<JobNo, Box<JobSchedule>>;

/// A heap with the earliest time at the top.
pub type TimeHeap = BinaryHeap<Reverse<(Timestamp, JobNo)>>;

/// An action that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Poll a job.
    Poll(JobNo),
    /// End the watches of a job that had expired by this time: the provider cannot be reached.
    GiveUp(JobNo, Timestamp),
}

/// The jobs of one provider and credential.
#[derive(Debug)]
pub struct ProviderQueue {
    /// Id of the provider.
    pub provider: String,
    pub policy: PollPolicy,
    pub budget: Budget,
    /// Time and text of the last error.
    pub last_error: Option<(Timestamp, String)>,
    pub polls: TimeHeap,
    pub expiries: TimeHeap,
}

impl ProviderQueue {
    pub fn new(provider: String, policy: PollPolicy, limits: Limits, now: Timestamp) -> Self {
        Self {
            provider,
            policy,
            budget: Budget::new(limits, now),
            last_error: None,
            polls: BinaryHeap::new(),
            expiries: BinaryHeap::new(),
        }
    }

    /// Drops stale entries, once they outnumber the others.
    pub fn drop_stale(&mut self, jobs: &Jobs) {
        let most = 2 * jobs.len() + SLACK;
        if self.polls.len() > most {
            self.polls.retain(|Reverse((at, job))| jobs.get(job).is_some_and(|found| found.poll_at == *at));
        }
        if self.expiries.len() > most {
            self.expiries
                .retain(|Reverse((at, job))| jobs.get(job).is_some_and(|found| found.expiry_at == *at));
        }
    }

    /// Appends the due actions to `actions`. Each poll has been granted by the budget.
    pub fn take_due(
        &mut self,
        jobs: &mut Jobs,
        started_at: Timestamp,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        self.take_expiries(jobs, started_at, now, actions);
        while let Some(Reverse((at, job))) = self.polls.peek().copied() {
            if at > now {
                break;
            }
            if let Some(found) = jobs.get_mut(&job).filter(|found| found.poll_at == at && !found.in_flight) {
                if self.budget.acquire(now) != Permit::Granted {
                    break;
                }
                found.start_poll();
                actions.push(Action::Poll(job));
            }
            self.polls.pop();
        }
    }

    fn take_expiries(
        &mut self,
        jobs: &mut Jobs,
        started_at: Timestamp,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        while let Some(Reverse((at, job))) = self.expiries.peek().copied() {
            if at > now {
                break;
            }
            let Some(found) = jobs.get_mut(&job).filter(|found| found.expiry_at == at) else {
                self.expiries.pop();
                continue;
            };
            if found.in_flight {
                // Nothing is decided about a job that is being polled; the end of the poll schedules it again.
                self.expiries.pop();
                found.expiry_at = NEVER;
                continue;
            }
            if let Some(cutoff) = found.cutoff() {
                self.expiries.pop();
                found.expiry_at = NEVER;
                found.rare().final_poll = Some(FinalPoll { cutoff, give_up_at: NEVER });
                actions.push(Action::GiveUp(job, cutoff));
                continue;
            }
            let held_back = self.budget.is_held_back();
            if !held_back && self.budget.acquire(now) != Permit::Granted {
                break;
            }
            self.expiries.pop();
            // While polls are held back, it is unknown when the final poll can be sent. Probes may still reach
            // the provider, so the poll is scheduled all the same.
            let sent_at = if held_back { at.max(started_at) } else { now };
            let give_up_at = sent_at.plus(FINAL_POLL);
            found.rare().final_poll = Some(FinalPoll { cutoff: now, give_up_at });
            if held_back {
                found.expiry_at = give_up_at;
                self.expiries.push(Reverse((give_up_at, job)));
                if found.poll_at > now {
                    found.poll_at = now;
                    self.polls.push(Reverse((now, job)));
                }
            } else {
                found.expiry_at = NEVER;
                found.start_poll();
                actions.push(Action::Poll(job));
            }
        }
    }

    /// Returns the time of the next action, as scheduled now.
    pub fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let first = |heap: &TimeHeap| {
            let Reverse((at, _)) = *heap.peek()?;
            if at > now {
                return Some(at);
            }
            // Due, but not granted.
            match self.budget.check(now) {
                Permit::At(at) => Some(at),
                Permit::Granted => Some(now),
                // The end of a poll in flight causes the next step.
                Permit::Busy => None,
            }
        };
        [first(&self.polls), first(&self.expiries)].into_iter().flatten().min()
    }

    /// Counts the polls that are due and wait for the budget, up to `most`.
    pub fn waiting(&self, jobs: &Jobs, now: Timestamp, most: usize) -> usize {
        let heap = self.polls.as_slice();
        let (mut count, mut below) = (0, vec![0]);
        // In a heap, the children of an entry are not earlier than the entry, so the search does not go below
        // an entry that is not due.
        while let Some(at) = below.pop() {
            let Some(Reverse((due, job))) = heap.get(at).filter(|Reverse((due, _))| *due <= now) else {
                continue;
            };
            if jobs.get(job).is_some_and(|found| found.poll_at == *due && !found.in_flight) {
                count += 1;
                if count >= most {
                    break;
                }
            }
            below.extend([2 * at + 1, 2 * at + 2]);
        }
        count
    }
}
