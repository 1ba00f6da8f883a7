//! The schedule of one job, and the queue of the jobs of one provider and credential, ordered by time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use crate::domain::{JobName, JobNo, JobSnapshot, Known, Limits, PollPolicy, PollStats, Terms, Timestamp};
use crate::poller::budget::{Budget, Permit};
use crate::telemetry::traces::Context;

/// Time for which a final poll that fails is repeated.
const FINAL_POLL: Duration = Duration::from_secs(60);

/// Number of stale entries that a heap may always contain.
pub const SLACK: usize = 1_024;

/// The time of something that is not scheduled.
pub const NEVER: Timestamp = Timestamp::MAX;

/// The schedule of one job. There may be a million jobs, so fields that few jobs need are boxed.
#[derive(Debug)]
pub struct JobSchedule {
    pub name: JobName,
    /// Index of the provider's queue.
    pub queue: usize,
    pub generation: i64,
    pub known: Known,
    /// How many watches wait for the job.
    pub watching: u32,
    pub terms: Option<Terms>,
    pub registered_at: Timestamp,
    /// Start of the last poll.
    pub polled_at: Option<Timestamp>,
    /// Time of the next poll; [`NEVER`] if none is scheduled. In the heap of polls, only an entry with this
    /// time is valid.
    pub poll_at: Timestamp,
    /// Time of the next step of the expiry, with the same rules for the heap of expiries.
    pub expiry_at: Timestamp,
    /// Number of polls since the process started.
    pub polls: u32,
    pub in_flight: bool,
    /// Whether a client requested a poll while one was in flight.
    pub poll_again: bool,
    /// Trace of the watch that waited first; the spans of polls belong to it. `None` if no traces are exported.
    pub trace: Option<Box<Context>>,
    pub rare: Option<Box<RareState>>,
}

/// State that only few jobs have: after errors, or while they expire.
#[derive(Debug, Default)]
pub struct RareState {
    /// Failed polls in a row.
    pub failures: u32,
    /// Number of `not_found` outcomes in a row, and the time of the first.
    pub not_found: Option<(u32, Timestamp)>,
    pub last_error: Option<String>,
    pub final_poll: Option<FinalPoll>,
    /// No poll before this time, because of a failure or of the provider's `Retry-After`. Only a requested poll
    /// ignores it.
    pub not_before: Timestamp,
}

/// The final poll of watches that have expired.
#[derive(Clone, Copy, Debug)]
pub struct FinalPoll {
    /// The watches that had expired by this time end with the result of the poll.
    pub cutoff: Timestamp,
    /// Time at which those watches end without a result; [`NEVER`] while their end is being written.
    pub give_up_at: Timestamp,
}

impl JobSchedule {
    pub fn new(facts: &JobSnapshot, queue: usize) -> Self {
        let traced = facts.traced.as_ref();
        Self {
            name: facts.name.clone(),
            queue,
            generation: facts.generation,
            known: facts.known,
            watching: facts.watching,
            terms: facts.terms,
            registered_at: facts.registered_at,
            polled_at: None,
            poll_at: NEVER,
            expiry_at: NEVER,
            polls: 0,
            in_flight: false,
            poll_again: false,
            trace: traced.and_then(|(watch, parent)| Context::of(*watch, parent.as_deref())).map(Box::new),
            rare: None,
        }
    }

    /// Adds a watch to a job that is scheduled already.
    pub fn add_watch(&mut self, facts: &JobSnapshot) {
        if facts.generation > self.generation {
            // The job had ended and was registered anew: nothing of the old schedule is valid.
            let new = Self::new(facts, self.queue);
            *self = Self { in_flight: self.in_flight, polls: self.polls, poll_again: self.poll_again, ..new };
            return;
        }
        self.watching = self.watching.saturating_add(1);
        self.terms = self.terms.into_iter().chain(facts.terms).reduce(Terms::and);
        if facts.terms.is_some_and(|terms| terms.wants_progress) {
            self.known.forget();
        }
    }

    pub fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// Returns the cutoff of the final poll, if one is under way.
    pub fn cutoff(&self) -> Option<Timestamp> {
        self.rare.as_ref()?.final_poll.map(|poll| poll.cutoff)
    }

    /// Returns the earliest time of a poll that a client requests at `now`.
    pub fn earliest_poll(&self, min_interval: Duration, now: Timestamp) -> Timestamp {
        self.polled_at.map_or(now, |at| at.plus(min_interval).max(now))
    }

    /// Marks the job as being polled.
    pub fn start_poll(&mut self) {
        self.in_flight = true;
        self.poll_at = NEVER;
    }

    /// Records the start of the poll that is in flight.
    pub fn record_start(&mut self, at: Timestamp) {
        self.polled_at = Some(at);
        self.polls = self.polls.saturating_add(1);
    }

    /// Returns the time of the next step of the expiry: the final poll, or the end of the watches without its result.
    pub fn next_expiry(&self) -> Timestamp {
        let final_poll = self.rare.as_ref().and_then(|rare| rare.final_poll);
        let expires_at = self.terms.map_or(NEVER, |terms| terms.expires_at);
        final_poll.map_or(expires_at, |poll| poll.give_up_at)
    }

    /// Moves the schedule back by `jump`.
    pub fn set_back(&mut self, jump: Duration) {
        let back = |at: Timestamp| if at == NEVER { NEVER } else { at.minus(jump) };
        self.poll_at = back(self.poll_at);
        self.polled_at = self.polled_at.map(back);
        if let Some(rare) = &mut self.rare {
            rare.not_before = back(rare.not_before);
            rare.not_found = rare.not_found.map(|(count, since)| (count, back(since)));
            if let Some(poll) = &mut rare.final_poll {
                poll.give_up_at = back(poll.give_up_at);
            }
        }
        if self.expiry_at != NEVER {
            self.expiry_at = self.next_expiry();
        }
    }

    pub fn stats(&self) -> PollStats {
        PollStats {
            last_polled_at: self.polled_at,
            next_poll_at: (self.watching > 0 && self.poll_at != NEVER).then_some(self.poll_at),
            polls: self.polls,
            last_error: self.rare.as_ref().and_then(|rare| rare.last_error.clone()),
        }
    }
}

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

    /// Schedules the next poll of a job, in place of the one that was scheduled before.
    pub fn schedule_poll(&mut self, job: JobNo, found: &mut JobSchedule, at: Timestamp) {
        if found.poll_at != at {
            found.poll_at = at;
            self.polls.push(Reverse((at, job)));
        }
    }

    /// Schedules the next step of the expiry of a job, in place of the one that was scheduled before.
    pub fn schedule_expiry(&mut self, job: JobNo, found: &mut JobSchedule) {
        let at = found.next_expiry();
        if found.expiry_at != at {
            found.expiry_at = at;
            if at != NEVER {
                self.expiries.push(Reverse((at, job)));
            }
        }
    }

    /// Appends the polls that are due and granted by the budget to `actions`.
    pub fn take_polls(&mut self, jobs: &mut Jobs, now: Timestamp, actions: &mut Vec<Action>) {
        while let Some((at, job)) = first_due(&self.polls, now) {
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

    /// Appends the steps of expiries that are due to `actions`. Each final poll has been granted by the budget.
    pub fn take_expiries(
        &mut self,
        jobs: &mut Jobs,
        started_at: Timestamp,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        while let Some((at, job)) = first_due(&self.expiries, now) {
            let Some(found) = jobs.get_mut(&job).filter(|found| found.expiry_at == at) else {
                self.expiries.pop();
                continue;
            };
            let cutoff = found.cutoff();
            let held_back = self.budget.is_held_back();
            let starts_poll = !found.in_flight && cutoff.is_none() && !held_back;
            if starts_poll && self.budget.acquire(now) != Permit::Granted {
                break;
            }
            self.expiries.pop();
            found.expiry_at = NEVER;
            if found.in_flight {
                // Nothing is decided about a job that is being polled; the end of the poll schedules it again.
                continue;
            }
            if let Some(cutoff) = cutoff {
                found.rare().final_poll = Some(FinalPoll { cutoff, give_up_at: NEVER });
                actions.push(Action::GiveUp(job, cutoff));
                continue;
            }
            // While polls are held back, it is unknown when the final poll can be sent. Probes may still reach
            // the provider, so the poll is scheduled all the same.
            let sent_at = if held_back { at.max(started_at) } else { now };
            let give_up_at = sent_at.plus(FINAL_POLL);
            found.rare().final_poll = Some(FinalPoll { cutoff: now, give_up_at });
            if held_back {
                self.schedule_expiry(job, found);
                let poll_at = found.poll_at.min(now);
                self.schedule_poll(job, found, poll_at);
            } else {
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

/// Returns the first entry of a heap, if it is due.
fn first_due(heap: &TimeHeap, now: Timestamp) -> Option<(Timestamp, JobNo)> {
    heap.peek().map(|Reverse(first)| *first).filter(|(at, _)| *at <= now)
}
