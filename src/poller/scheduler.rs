//! When to look next: one plan for each job that somebody waits for, in memory.
//!
//! The scheduler is a plan and no fact: it is made from the store's rows at start, and everything that
//! it forgets in a crash it makes again. It does no I/O and reads no clock; [`Scheduler::due`] says what
//! to do now and [`Scheduler::next`] when to ask again.
//!
//! **Two heaps for each credential**: looks by their time, and expiries by theirs. Expiries come
//! first: the last look at a job is worth more than one of many. Entries are not removed when a plan
//! changes; one that does not agree with its job's plan any more is dropped when it comes up, or when such
//! entries are the most. A plan that stays what it was adds none: a job that is looked at for a month leaves
//! no trail.
//!
//! **A job in flight has no plan.** From the start of a look until what it brought is on disk the job
//! is in nobody's hands but the look's, so two looks at one job never overlap, and what arrives in
//! between (a further watch, a wish to look at once) is merged and takes effect afterwards.
//!
//! **Messages are in the order of the commits.** The store puts them into the mailbox before it
//! answers whoever asked for the write, and the mailbox is emptied before an answer is acted upon.
//! So when an ending of generation `g` is settled, every watch of generation `g` was merged and is
//! ended, and a watch of `g + 1` has already made the plan its own.
//!
//! **Expiry.** At `expires_at` there is one last look. Its start is the *cutoff*: watches that expired
//! until then are ended by what it finds. If it fails it is repeated, and 60 s after it was first sent
//! they are ended as unreachable, but never while a look is in flight, which may bring the end of the job
//! and be telling it to its watches. Behind an open breaker or a paused credential the 60 s count from
//! `expires_at`, or from the start of the process if that was later.
//!
//! **A clock that is set back** must not put everything off by the size of its jump: plans and budgets are
//! moved with it and keep their distance ([`Scheduler::heed`]). What is written down, when a watch was
//! registered and until when it waits, is not moved.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::time::Duration;

use super::budget::{Budget, Change, Limits, Permit};
use super::schedule::{Bounds, first_look, next_look};
use crate::clock::SetBackDetector;
use crate::domain::{JobName, JobNo, JobSnapshot, Known, PollStats, PollerMessage, Terms, Timestamp};
use crate::telemetry::traces::Context;

/// For how long a last look that fails is repeated.
const LAST_LOOK: Duration = Duration::from_secs(60);

/// For how many jobs that are done it is remembered how they were looked at.
const REMEMBERED: usize = 10_000;

/// So many entries that nobody means are in a heap always.
const SLACK: usize = 1_024;

/// No entry in a heap.
const NEVER: Timestamp = Timestamp::MAX;

/// One job's plan. There may be a million: what is rare stands in a box.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: JobName,
    pub(super) queue: usize,
    pub(super) generation: i64,
    pub(super) known: Known,
    pub(super) watching: u32,
    pub(super) terms: Option<Terms>,
    registered_at: Timestamp,
    looked_at: Option<Timestamp>,
    /// When it is looked at next: the one entry in `looks` that counts. [`NEVER`]: there is none.
    due: Timestamp,
    /// The same in `expiries`.
    expiry: Timestamp,
    polls: u32,
    in_flight: bool,
    /// Somebody asked to look at once while a look was in flight.
    again: bool,
    /// Where the spans of its looks hang, if traces are kept: below the watch that waited first.
    pub(super) trace: Option<Box<Context>>,
    pub(super) rare: Option<Box<Rare>>,
}

/// What only a job in trouble has.
#[derive(Debug, Default)]
pub(super) struct Rare {
    /// Failures in a row.
    pub(super) failures: u32,
    /// Answers in a row that there is no such job, and when the first came.
    pub(super) missing: Option<(u32, Timestamp)>,
    pub(super) last_error: Option<String>,
    /// The last look of watches that expired until `.0` was due; they are given up at `.1`, and
    /// at [`NEVER`] once that is being written.
    expiring: Option<(Timestamp, Timestamp)>,
    /// Not before, because it failed or the provider said so; only somebody's wish is stronger.
    put_off: Timestamp,
}

impl Entry {
    pub(super) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Until when watches had expired when their last look was first sent, if one is under way.
    pub(super) fn cutoff(&self) -> Option<Timestamp> {
        self.rare.as_ref()?.expiring.map(|(cutoff, _)| cutoff)
    }

    /// Moves what was planned by a clock that has been set back; nothing of it is in a heap afterwards.
    fn set_back(&mut self, jump: Duration) {
        (self.due, self.expiry) = (NEVER, NEVER);
        self.looked_at = self.looked_at.map(|at| at.minus(jump));
        if let Some(rare) = &mut self.rare {
            rare.put_off = rare.put_off.minus(jump);
            rare.missing = rare.missing.map(|(count, since)| (count, since.minus(jump)));
            rare.expiring = rare.expiring.map(|(cutoff, give_up)| match give_up {
                NEVER => (cutoff, NEVER),
                at => (cutoff, at.minus(jump)),
            });
        }
    }

    fn take_off(&mut self) {
        self.in_flight = true;
        self.due = NEVER;
    }

    fn looks(&self) -> PollStats {
        PollStats {
            last_polled_at: self.looked_at,
            next_poll_at: (self.watching > 0 && self.due != NEVER).then_some(self.due),
            polls: self.polls,
            last_error: self.rare.as_ref().and_then(|rare| rare.last_error.clone()),
        }
    }
}

/// The jobs of one credential.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) bounds: Bounds,
    pub(super) budget: Budget,
    /// What was last wrong, and when.
    pub(super) last_error: Option<(Timestamp, String)>,
    looks: BinaryHeap<Reverse<(Timestamp, JobNo)>>,
    expiries: BinaryHeap<Reverse<(Timestamp, JobNo)>>,
}

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Look at a job.
    Look(JobNo),
    /// Give up on those watches of a job that expired until then: the provider cannot be reached.
    GiveUp(JobNo, Timestamp),
}

/// All plans.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub(super) jobs: HashMap<JobNo, Box<Entry>>,
    pub(super) queues: Vec<Queue>,
    started_at: Timestamp,
    pub(super) clock: SetBackDetector,
    /// When there is something to do again, as was last said; a look that has ended makes it now.
    pub(super) said: Option<Timestamp>,
    /// How many watches wait for all the jobs together.
    pub(super) watching: u64,
    /// How the last jobs that are done were looked at, oldest first.
    done: (HashMap<JobNo, PollStats>, VecDeque<JobNo>),
}

impl Scheduler {
    pub(super) fn new(queues: Vec<(Bounds, Limits)>, now: Timestamp) -> Self {
        let queue = |(bounds, limits)| Queue {
            bounds,
            budget: Budget::new(limits, now),
            last_error: None,
            looks: BinaryHeap::new(),
            expiries: BinaryHeap::new(),
        };
        Self {
            jobs: HashMap::new(),
            queues: queues.into_iter().map(queue).collect(),
            started_at: now,
            clock: SetBackDetector::new(now),
            said: Some(now),
            watching: 0,
            done: (HashMap::new(), VecDeque::new()),
        }
    }

    /// How a job is looked at.
    pub(super) fn looks(&self, job: JobNo) -> Option<PollStats> {
        self.jobs.get(&job).map(|entry| entry.looks()).or_else(|| self.done.0.get(&job).cloned())
    }

    /// Notices a clock that was set back, before anything is planned by it: what is planned moves with it.
    pub(super) fn heed(&mut self, now: Timestamp) {
        let jump = self.clock.jump(now);
        self.clock.reset(now);
        let Some(jump) = jump else { return };
        tracing::warn!(seconds = jump.as_secs(), "the clock was set back: plans are moved with it");
        self.started_at = self.started_at.minus(jump);
        for queue in &mut self.queues {
            queue.budget.set_back(jump);
            queue.looks.clear();
            queue.expiries.clear();
        }
        let mut planned = Vec::with_capacity(self.jobs.len());
        for (job, entry) in &mut self.jobs {
            let (due, expiry) = (entry.due, entry.expiry);
            entry.set_back(jump);
            planned.push((*job, due, expiry));
        }
        for (job, due, expiry) in planned {
            if due != NEVER {
                self.plan_look(job, due.minus(jump));
            }
            if expiry != NEVER {
                self.plan_expiry(job);
            }
        }
    }

    /// Merges what the store tells. `queue` finds the credential of a job.
    pub(super) fn apply(&mut self, plan: PollerMessage, queue: impl Fn(&JobName) -> usize, now: Timestamp) {
        match plan {
            PollerMessage::Watch(facts) => {
                if let Some(entry) = self.jobs.get_mut(&facts.no) {
                    let before = entry.watching;
                    merge(entry, &facts);
                    count(&mut self.watching, before, entry.watching);
                } else {
                    let queue = queue(&facts.name);
                    self.jobs.insert(facts.no, Box::new(fresh(&facts, queue)));
                    count(&mut self.watching, 0, facts.watching);
                }
                self.plan_newcomer(facts.no, now);
            }
            PollerMessage::WatchersChanged { job, watching, terms } => {
                let Some(entry) = self.jobs.get_mut(&job) else { return };
                count(&mut self.watching, entry.watching, watching);
                entry.watching = watching;
                entry.terms = terms;
                // A last look that is under way goes on for the others that expired with this one.
                if let Some(rare) = &mut entry.rare
                    && rare.expiring.is_some_and(|(cutoff, _)| terms.is_none_or(|t| t.expires_at > cutoff))
                {
                    rare.expiring = None;
                }
                if watching == 0 && !entry.in_flight {
                    self.forget(job);
                } else {
                    self.plan_expiry(job);
                }
            }
            PollerMessage::PollNow(facts) => {
                let queue = queue(&facts.name);
                let entry = self.jobs.entry(facts.no).or_insert_with(|| {
                    count(&mut self.watching, 0, facts.watching);
                    Box::new(fresh(&facts, queue))
                });
                if entry.in_flight {
                    entry.again = true;
                    return;
                }
                let least = self.queues[entry.queue].bounds.min_interval;
                let due = entry.looked_at.map_or(now, |at| at.plus(least).max(now)).min(entry.due);
                self.plan_look(facts.no, due);
                self.plan_expiry(facts.no);
            }
        }
    }

    /// Takes in a job at start. Every job past its first look is due at once; the rate spreads them.
    pub(super) fn load(&mut self, facts: &JobSnapshot, queue: usize, now: Timestamp) {
        let entry = fresh(facts, queue);
        let first = first_look(&self.queues[queue].bounds, facts.terms.as_ref(), facts.registered_at);
        self.jobs.insert(facts.no, Box::new(entry));
        count(&mut self.watching, 0, facts.watching);
        self.plan_look(facts.no, if facts.poll_requested { now } else { first.max(now) });
        self.plan_expiry(facts.no);
    }

    fn plan_newcomer(&mut self, job: JobNo, now: Timestamp) {
        let Some(entry) = self.jobs.get(&job) else { return };
        let bounds = &self.queues[entry.queue].bounds;
        let terms = entry.terms.as_ref();
        let wished = match entry.looked_at {
            None => first_look(bounds, terms, entry.registered_at),
            Some(at) => next_look(bounds, terms, entry.registered_at, at),
        };
        let put_off = entry.rare.as_ref().map_or(wished, |rare| rare.put_off);
        // A newcomer may want looks more often than those before it; it never takes a place away that
        // the job has waited for.
        let due = wished.max(put_off).max(now).min(entry.due);
        if !entry.in_flight {
            self.plan_look(job, due);
            self.plan_expiry(job);
        }
    }

    /// Plans a look; the one that was planned before is forgotten.
    pub(super) fn plan_look(&mut self, job: JobNo, due: Timestamp) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        if entry.due != due {
            entry.due = due;
            let queue = entry.queue;
            self.queues[queue].looks.push(Reverse((due, job)));
            self.queues[queue].tidy(&self.jobs);
        }
    }

    /// Plans what comes next of the expiry: the last look, or giving up.
    fn plan_expiry(&mut self, job: JobNo) {
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let expiring = entry.rare.as_ref().and_then(|rare| rare.expiring);
        let at = match (expiring, &entry.terms) {
            (Some((_, give_up)), _) => give_up,
            (None, Some(terms)) => terms.expires_at,
            (None, None) => NEVER,
        };
        if entry.expiry != at {
            entry.expiry = at;
            let queue = entry.queue;
            if at != NEVER {
                self.queues[queue].expiries.push(Reverse((at, job)));
                self.queues[queue].tidy(&self.jobs);
            }
        }
    }

    /// What is to be done now; every look in it is granted by its budget and in flight.
    pub(super) fn due(&mut self, now: Timestamp) -> Vec<Due> {
        let mut due = Vec::new();
        for queue in &mut self.queues {
            queue.due(&mut self.jobs, self.started_at, now, &mut due);
        }
        due
    }

    /// When [`Self::due`] next has something to say, if nothing comes in between.
    pub(super) fn next(&self, now: Timestamp) -> Option<Timestamp> {
        self.queues.iter().filter_map(|queue| queue.next(now)).min()
    }

    /// A look has ended, and what it brought is on disk: only now is its place free for another, so
    /// that what waits to be written is bounded by the concurrency. Plans the next look, not before
    /// `not_before`.
    pub(super) fn settle(
        &mut self,
        job: JobNo,
        generation: i64,
        ended: bool,
        not_before: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.said = Some(now);
        let Some(entry) = self.jobs.get_mut(&job) else { return };
        let Queue { budget, bounds, .. } = &mut self.queues[entry.queue];
        budget.ended();
        entry.in_flight = false;
        let again = std::mem::take(&mut entry.again);
        let looked_at = entry.looked_at.unwrap_or(now);
        let soonest = looked_at.plus(bounds.min_interval);
        if ended && entry.generation == generation {
            count(&mut self.watching, entry.watching, 0);
            (entry.watching, entry.terms) = (0, None);
        }
        if entry.watching == 0 {
            if again {
                self.plan_look(job, soonest.max(now));
            } else {
                self.forget(job);
            }
            return;
        }
        let terms = entry.terms.as_ref();
        // Trouble of any kind, ours (429) included: nothing was learned, so it is looked again as soon as
        // that may be.
        let failed = entry.rare.as_ref().is_some_and(|rare| rare.failures > 0 || rare.last_error.is_some());
        let due = if entry.generation != generation {
            first_look(bounds, terms, entry.registered_at)
        } else if failed {
            soonest
        } else {
            next_look(bounds, terms, entry.registered_at, looked_at)
        };
        if let Some(not_before) = not_before {
            entry.rare().put_off = not_before;
        } else if let Some(rare) = &mut entry.rare {
            rare.put_off = Timestamp::default();
        }
        let due = due.max(not_before.unwrap_or(due));
        let due = if again { due.min(soonest) } else { due };
        self.plan_look(job, due.max(now));
        self.plan_expiry(job);
    }

    /// The start of the look that is in flight, for the record.
    pub(super) fn counted(&mut self, job: JobNo, at: Timestamp) {
        if let Some(entry) = self.jobs.get_mut(&job) {
            entry.looked_at = Some(at);
            entry.polls = entry.polls.saturating_add(1);
        }
    }

    /// All is well again with a credential: what waited for a backoff is due.
    pub(super) fn recovered(&mut self, queue: usize, now: Timestamp) {
        let waiting: Vec<JobNo> = self
            .jobs
            .iter()
            .filter(|(_, entry)| entry.queue == queue && !entry.in_flight)
            .filter(|(_, entry)| entry.rare.as_ref().is_some_and(|rare| rare.failures > 0))
            .map(|(job, _)| *job)
            .collect();
        let least = self.queues[queue].bounds.min_interval;
        for job in waiting {
            let Some(entry) = self.jobs.get_mut(&job) else { continue };
            let rare = entry.rare();
            (rare.failures, rare.put_off) = (0, Timestamp::default());
            let due = entry.looked_at.map_or(now, |at| at.plus(least).max(now));
            self.plan_look(job, due);
        }
    }

    fn forget(&mut self, job: JobNo) {
        let Some(entry) = self.jobs.remove(&job) else { return };
        self.queues[entry.queue].tidy(&self.jobs);
        let (looks, order) = &mut self.done;
        if looks.insert(job, PollStats { next_poll_at: None, ..entry.looks() }).is_none() {
            order.push_back(job);
        }
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            looks.remove(&oldest);
        }
    }

    /// How many looks of a queue are due and wait for its budget; counted no further than `most`.
    pub(super) fn waiting(&self, queue: usize, now: Timestamp, most: usize) -> usize {
        let heap = self.queues[queue].looks.as_slice();
        let (mut count, mut below) = (0, vec![0]);
        // What stands below an entry of the heap comes after it: only what is due is gone through.
        while let Some(at) = below.pop() {
            let Some(Reverse((due, job))) = heap.get(at).filter(|Reverse((due, _))| *due <= now) else {
                continue;
            };
            if self.jobs.get(job).is_some_and(|entry| entry.due == *due && !entry.in_flight) {
                count += 1;
                if count >= most {
                    break;
                }
            }
            below.extend([2 * at + 1, 2 * at + 2]);
        }
        count
    }

    /// The log's words for what changed with a credential.
    pub(super) fn say(change: Change, provider: &str, why: &str) {
        match change {
            Change::None => {}
            Change::Opened => tracing::warn!(
                provider,
                error = why,
                "the provider is in trouble: one look a second until it answers well"
            ),
            Change::Paused => tracing::error!(
                provider,
                error = why,
                "the credential is refused: one look a minute until it is accepted"
            ),
            Change::Recovered => tracing::info!(provider, "the provider answers well again"),
        }
    }
}

/// Keeps the sum of what waits for all jobs.
fn count(all: &mut u64, before: u32, after: u32) {
    *all = (*all + u64::from(after)).saturating_sub(before.into());
}

fn fresh(facts: &JobSnapshot, queue: usize) -> Entry {
    Entry {
        name: facts.name.clone(),
        queue,
        generation: facts.generation,
        known: facts.known,
        watching: facts.watching,
        terms: facts.terms,
        registered_at: facts.registered_at,
        looked_at: None,
        due: NEVER,
        expiry: NEVER,
        polls: 0,
        in_flight: false,
        again: false,
        trace: facts
            .traced
            .as_ref()
            .and_then(|(watch, given)| Context::of(*watch, given.as_deref()))
            .map(Box::new),
        rare: None,
    }
}

/// One more watch on a job that has a plan.
fn merge(entry: &mut Entry, facts: &JobSnapshot) {
    if facts.generation > entry.generation {
        // The job had ended and was registered anew: nothing of the old plan holds.
        let fresh = fresh(facts, entry.queue);
        *entry = Entry { in_flight: entry.in_flight, polls: entry.polls, again: entry.again, ..fresh };
        return;
    }
    entry.watching = entry.watching.saturating_add(1);
    entry.terms = match (entry.terms, facts.terms) {
        (Some(all), Some(one)) => Some(all.and(one)),
        (all, one) => all.or(one),
    };
    if facts.terms.is_some_and(|terms| terms.wants_progress) {
        entry.known.forget();
    }
}

impl Queue {
    /// Drops the entries that nobody means any more, once they are the most.
    fn tidy(&mut self, jobs: &HashMap<JobNo, Box<Entry>>) {
        let most = 2 * jobs.len() + SLACK;
        if self.looks.len() > most {
            self.looks.retain(|Reverse((at, job))| jobs.get(job).is_some_and(|entry| entry.due == *at));
        }
        if self.expiries.len() > most {
            self.expiries.retain(|Reverse((at, job))| jobs.get(job).is_some_and(|entry| entry.expiry == *at));
        }
    }

    fn due(
        &mut self,
        jobs: &mut HashMap<JobNo, Box<Entry>>,
        started_at: Timestamp,
        now: Timestamp,
        due: &mut Vec<Due>,
    ) {
        while let Some(Reverse((at, job))) = self.expiries.peek().copied() {
            if at > now {
                break;
            }
            let Some(entry) = jobs.get_mut(&job).filter(|entry| entry.expiry == at) else {
                self.expiries.pop();
                continue;
            };
            if entry.in_flight {
                // Nothing is decided of a job in somebody's hands; settling plans it again.
                self.expiries.pop();
                entry.expiry = NEVER;
                continue;
            }
            if let Some(cutoff) = entry.cutoff() {
                self.expiries.pop();
                entry.expiry = NEVER;
                entry.rare().expiring = Some((cutoff, NEVER));
                due.push(Due::GiveUp(job, cutoff));
                continue;
            }
            let held_back = self.budget.is_held_back();
            if !held_back && self.budget.ask(now) != Permit::Granted {
                break;
            }
            self.expiries.pop();
            // Held back, it is not to be sent for who knows how long; probes may still reach it.
            let sent_at = if held_back { at.max(started_at) } else { now };
            let give_up = sent_at.plus(LAST_LOOK);
            entry.rare().expiring = Some((now, give_up));
            if held_back {
                entry.expiry = give_up;
                self.expiries.push(Reverse((give_up, job)));
                if entry.due > now {
                    entry.due = now;
                    self.looks.push(Reverse((now, job)));
                }
            } else {
                entry.expiry = NEVER;
                entry.take_off();
                due.push(Due::Look(job));
            }
        }
        while let Some(Reverse((at, job))) = self.looks.peek().copied() {
            if at > now {
                break;
            }
            match jobs.get_mut(&job) {
                Some(entry) if entry.due == at && !entry.in_flight => {
                    if self.budget.ask(now) != Permit::Granted {
                        break;
                    }
                    entry.take_off();
                    due.push(Due::Look(job));
                }
                _ => {}
            }
            self.looks.pop();
        }
    }

    fn next(&self, now: Timestamp) -> Option<Timestamp> {
        let first = |heap: &BinaryHeap<Reverse<(Timestamp, JobNo)>>| {
            let Reverse((at, _)) = *heap.peek()?;
            if at > now {
                return Some(at);
            }
            // Due, and not granted.
            match self.budget.when(now) {
                Permit::At(at) => Some(at),
                Permit::Granted => Some(now),
                // The end of a look asks again by itself.
                Permit::Busy => None,
            }
        };
        [first(&self.looks), first(&self.expiries)].into_iter().flatten().min()
    }
}

#[cfg(test)]
mod tests;
