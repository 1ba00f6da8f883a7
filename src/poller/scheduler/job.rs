//! The schedule of one job.

use std::time::Duration;

use crate::domain::{JobName, JobSnapshot, Known, PollStats, Terms, Timestamp};
use crate::telemetry::traces::Context;

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
        self.terms = match (self.terms, facts.terms) {
            (Some(all), Some(new)) => Some(all.and(new)),
            (all, new) => all.or(new),
        };
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

    /// Moves the schedule back by `jump`, and removes it from the heaps.
    pub fn set_back(&mut self, jump: Duration) {
        (self.poll_at, self.expiry_at) = (NEVER, NEVER);
        self.polled_at = self.polled_at.map(|at| at.minus(jump));
        if let Some(rare) = &mut self.rare {
            rare.not_before = rare.not_before.minus(jump);
            rare.not_found = rare.not_found.map(|(count, since)| (count, since.minus(jump)));
            if let Some(poll) = &mut rare.final_poll
                && poll.give_up_at != NEVER
            {
                poll.give_up_at = poll.give_up_at.minus(jump);
            }
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
