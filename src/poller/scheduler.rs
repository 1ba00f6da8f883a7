//! The scheduler decides when each watched job is polled.
//!
//! The scheduler is kept in memory. It is built from the store's rows at start, so a crash loses nothing. It does
//! no I/O and reads no clock: [`Scheduler::take_due`] returns the actions that are due, and [`Scheduler::next_due`]
//! returns the time of the next action.
//!
//! **Two heaps for each credential.** One orders polls by time, the other orders expiries. When the schedule of a job
//! changes, its old heap entry stays. The entry is then stale: its time differs from the time in the job's
//! schedule. A stale entry is dropped when it reaches the top of the heap, or when stale entries outnumber
//! the others. An entry is added only when the time changes. A poll removes its entry from the heap of polls, and
//! usually does not change the time of the expiry. The heaps therefore do not grow while a job is polled for a month.
//!
//! **The apps take turns.** A poll that becomes due moves from its heap to the queue of its app, and waits there for
//! the budget (`turns`). The order of the waiting polls is therefore no matter of time alone: no app delays another.
//!
//! **A job being polled is not scheduled.** From the start of a poll until its result is committed, nothing else
//! schedules a poll of the job. Two polls of one job therefore never overlap. A message that arrives in between
//! (a new watch, a requested poll) is merged into the state of the job. It can change the time of the next poll, but
//! starts no poll at once.
//!
//! **Messages arrive in commit order.** The store puts a message into the poller's mailbox before it replies to
//! the caller of the write. The poller reads all messages in the mailbox before it processes the result of a poll.
//!
//! A job that is registered again after its ending begins a new *generation*. When [`Scheduler::finish_poll`] is
//! called for a poll that has ended a generation, the order of the messages guarantees two facts:
//!
//! - All watches of this generation have been merged and have ended. None of them needs another poll.
//! - A watch of the next generation is not lost. Its message has already replaced the schedule of the job, or it
//!   arrives later and schedules the job again.
//!
//! **The minimum interval** lies between any two polls of a job: scheduled, requested and final ones. It belongs to the
//! job and not to its watches, so it outlasts the schedule of the job (`recent_polls`) and its generation.
//!
//! **Expiry.** At `expires_at`, but not before the end of the minimum interval and of the job's `Retry-After`, a job is
//! polled one final time.
//!
//! - The start of the final poll is the *cutoff*. Watches that have expired by then end with the result of
//!   this poll.
//! - If the final poll fails, it is repeated. If no poll succeeds within 60 s after the cutoff, the watches end with
//!   the reason `deadline`, or `provider_unreachable` if the provider has answered none of these polls.
//! - The last of these polls is made at the end of the 60 s, whatever the backoff, and the watches wait for its answer.
//!   Without it, milliseconds would decide whether 404 answers have lasted long enough to end the job as `not_found`.
//! - They do not end without a result while a poll is in flight, because the result of that poll may end the same
//!   watches.
//! - If the breaker is open or the credential is paused, the period of 60 s begins when the final poll becomes due,
//!   or at the start of the process if that was later.
//!
//! **Results.** A completed job whose results are requested (`pending_result`) is scheduled like one that is polled,
//! but no watch of it expires.
//!
//! **A clock that is set back** must not delay every poll by the size of the jump. Schedules and budgets move
//! back by the jump and keep their distance from the current time ([`Scheduler::follow_clock`]). So does the age of a
//! job, on which its intervals depend. The expiry of a watch does not move: it is a time that its client was given.

mod cancels;
mod on_demand;
mod queue;
mod recent_polls;
mod turns;

use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

pub(super) use self::on_demand::OnDemand;
use self::on_demand::OwnAccess;
pub(super) use self::queue::{Action, JobSchedule, ProviderError, ProviderQueue};
use self::queue::{Jobs, NEVER};
use self::recent_polls::RecentPolls;
use super::pending_result::PendingResult;
use super::schedule::{first_poll, next_poll};
use crate::clock::trust::{ClockTrust, Judgement};
use crate::clock::{Moment, SetBackDetector};
use crate::domain::{
    AppNo, JobNo, JobSnapshot, JobStatus, Limits, OPERATOR_ACCOUNT, PendingCancel, PollPolicy, PollSource,
    PollStats, PollerMessage, Timestamp,
};
use crate::providers::InlinePoll;

/// Number of finished jobs whose poll statistics are kept.
const FINISHED_KEPT: usize = 10_000;

/// The schedules of all jobs.
#[derive(Debug)]
pub(super) struct Scheduler {
    pub(super) jobs: Jobs,
    pub(super) queues: Vec<ProviderQueue>,
    /// Index in `queues` of the queue of each provider.
    queue_of: HashMap<String, u32>,
    /// The queues of jobs that are an app's alone. They come after the others.
    pub(super) on_demand: OnDemand,
    started_at: Timestamp,
    pub(super) clock: SetBackDetector,
    /// Whether the clock can be trusted with the end of watches. `None` before the first step.
    trust: Option<ClockTrust>,
    /// While it cannot: by how much the clock is ahead, and the time at which the doubt ends.
    lead: Option<(Duration, Timestamp)>,
    /// Time of the poller's next step, as [`Self::next_due`] returned it in the last step. The end of a poll sets
    /// it to the current time.
    pub(super) next_step_at: Option<Timestamp>,
    /// Requests to cancel jobs of which it is not known any more how they are polled.
    pub(super) lost_cancels: Vec<PendingCancel>,
    /// Number of watches that wait, over all jobs.
    pub(super) watching: u64,
    /// The last polls of jobs that are not scheduled any more.
    recent_polls: RecentPolls,
    /// Poll statistics of the jobs that finished last.
    finished: HashMap<JobNo, PollStats>,
    /// The jobs in `finished`, in the order in which they finished.
    finished_order: VecDeque<JobNo>,
}

/// The end of a poll whose result is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FinishedPoll {
    pub(super) job: JobNo,
    /// Generation of the job that was polled.
    pub(super) generation: i64,
    /// Whether this generation has ended.
    pub(super) ended: bool,
    /// Whether the poll was requested for a job without a watch that waits, and was not made: it is repeated.
    pub(super) repeats_request: bool,
    /// The next poll starts at this time or later, unless a client requested one.
    pub(super) not_before: Option<Timestamp>,
    /// So does the next poll after a failure, unless a watch was added.
    pub(super) backoff_until: Option<Timestamp>,
}

impl Scheduler {
    /// Creates a scheduler without jobs. The last queue is for the jobs of unknown providers. The settings are those of
    /// jobs without a definition.
    pub(super) fn new(
        queues: Vec<ProviderQueue>,
        (policy, limits): (PollPolicy, Limits),
        now: Timestamp,
    ) -> Self {
        let queue_of = queues.iter().zip(0..).map(|(queue, index)| (queue.provider.clone(), index)).collect();
        Self {
            jobs: HashMap::new(),
            queues,
            queue_of,
            on_demand: OnDemand::new(policy, limits),
            started_at: now,
            clock: SetBackDetector { last: now },
            trust: None,
            lead: None,
            next_step_at: Some(now),
            lost_cancels: Vec::new(),
            watching: 0,
            recent_polls: RecentPolls::default(),
            finished: HashMap::new(),
            finished_order: VecDeque::new(),
        }
    }

    /// Returns the poll statistics of a job.
    pub(super) fn stats(&self, job: JobNo, now: Timestamp) -> Option<PollStats> {
        let Some(found) = self.jobs.get(&job) else { return self.finished.get(&job).cloned() };
        Some(found.stats(self.queues[found.queue()].next_poll(job, found, now)))
    }

    /// Moves all schedules if the clock was set back. Call it before scheduling anything at `now`.
    pub(super) fn follow_clock(&mut self, now: Timestamp) {
        let jump = self.clock.jump(now);
        self.clock.last = now;
        let Some(jump) = jump else { return };
        tracing::warn!(seconds = jump.as_secs(), "the clock was set back: scheduled polls are moved with it");
        self.started_at = self.started_at.minus(jump);
        self.recent_polls.set_back(jump);
        for queue in &mut self.queues {
            queue.budget.set_back(jump);
            queue.polls.clear();
            queue.expiries.clear();
            queue.turns.clear();
            queue.cancels.set_back(jump);
        }
        for (job, found) in &mut self.jobs {
            let queue = &mut self.queues[found.queue()];
            found.set_back(jump, queue.policy.min_interval);
            if found.poll_at != NEVER {
                queue.polls.push(Reverse((found.poll_at, *job)));
            }
            if found.expiry_at != NEVER {
                queue.expiries.push(Reverse((found.expiry_at, *job)));
            }
        }
    }

    /// Decides whether watches expire by the wall clock, by a reading of both clocks. Call it before
    /// [`Self::take_due`].
    pub(super) fn judge_clock(&mut self, now: Timestamp, at: Moment) {
        let trust = self.trust.get_or_insert_with(|| ClockTrust::for_expiries(now, at));
        let judgement = trust.judge(now, at);
        self.lead = trust.lead(now, at).map(|(lead, left)| (lead, now.plus(left)));
        if let (Judgement::Jumped, Some((lead, until))) = (judgement, self.lead) {
            tracing::warn!(
                seconds = lead.as_secs(),
                %until,
                "the clock was set forward: watches expire as if it had not been, until it was steady for 15 minutes"
            );
        }
    }

    /// Merges a message of the store.
    pub(super) fn apply(&mut self, message: PollerMessage, now: Timestamp) {
        match message {
            PollerMessage::Watch(facts) => {
                self.forget_unpollable(&facts, now);
                if let Some(found) = self.jobs.get_mut(&facts.no) {
                    let before = found.watching;
                    let queue = &mut self.queues[found.queue()];
                    found.add_watch(&facts, queue.policy.min_interval, now);
                    adjust(&mut self.watching, before, found.watching);
                    queue.add_app(facts.no, found, facts.app, now);
                } else {
                    self.insert(&facts, now);
                    if let Some(found) = self.jobs.get_mut(&facts.no) {
                        found.forget_reported(&facts);
                    }
                }
                self.schedule_new_watch(facts.no, now);
            }
            PollerMessage::WatchersChanged { job, ended, terms } => {
                let Some(found) = self.jobs.get_mut(&job) else { return };
                // The terms decide whether any watch waits; the number is only shown.
                let watching = terms.map_or(0, |_| found.watching.saturating_sub(ended).max(1));
                adjust(&mut self.watching, found.watching, watching);
                (found.watching, found.terms) = (watching, terms);
                // A final poll is for the watches that had expired by its cutoff. If none of them remains, the job
                // has no final poll any more.
                if let Some(rare) = &mut found.rare
                    && rare.final_poll.is_some_and(|poll| terms.is_none_or(|t| t.expires_at > poll.cutoff))
                {
                    rare.final_poll = None;
                }
                if watching == 0 && !found.in_flight {
                    self.remove(job, now);
                } else {
                    self.schedule_expiry(job);
                }
            }
            // The API has found the provider. If a later start does not know it, it gives the request up.
            PollerMessage::CancelJob(pending) => {
                if !self.add_cancel(&pending, now) {
                    self.lost_cancels.push(*pending);
                }
            }
            PollerMessage::PollNow(facts) => {
                if !self.jobs.contains_key(&facts.no) {
                    self.insert(&facts, now);
                }
                let Some(found) = self.jobs.get_mut(&facts.no) else { return };
                // The job has completed, and the request for its result is scheduled.
                if found.pending_result().is_some() {
                    return;
                }
                if found.in_flight || found.rare.as_ref().is_some_and(|rare| rare.is_ending) {
                    found.poll_again = true;
                    return;
                }
                let min_interval = self.queues[found.queue()].policy.min_interval;
                let poll_at = found.earliest_poll(min_interval, now).min(found.poll_at);
                self.schedule_poll(facts.no, poll_at);
                self.schedule_expiry(facts.no);
            }
        }
    }

    /// Adds a job at start. If the time of its first poll has passed, the job is due at once; the rate limit
    /// spreads such polls.
    ///
    /// A registration in the future shows that the clock was set back while no process ran. The job then counts as
    /// registered now: it would otherwise wait until the clock has caught up.
    pub(super) fn load(&mut self, facts: &JobSnapshot, now: Timestamp) {
        self.insert(facts, now);
        if let Some(found) = self.jobs.get_mut(&facts.no) {
            found.registered_at = found.registered_at.min(now);
            found.last_watch_at = found.last_watch_at.min(now);
            // A watch that was registered while the job ran has no `job.processing` if no poll followed before a crash.
            // The next poll finds out, with one write.
            let wants_progress = found.terms.is_some_and(|terms| terms.wants_progress);
            if wants_progress && found.known.status == JobStatus::Processing {
                found.known.forget();
            }
        }
        if facts.poll_requested {
            self.schedule_poll(facts.no, now);
        }
        self.schedule_new_watch(facts.no, now);
    }

    /// Schedules the request of an app to cancel a job. Returns whether it is known how its jobs are polled.
    pub(super) fn add_cancel(&mut self, pending: &PendingCancel, now: Timestamp) -> bool {
        let PendingCancel { job, app, provider, account, poll, next_attempt_at } = pending;
        let index = self.queue_for((provider, account), *app, poll.as_deref(), now);
        let is_known = index != self.queue_of_unknown();
        if is_known {
            self.queues[index as usize].cancels.add(*job, *app, *next_attempt_at);
        }
        is_known
    }

    /// Returns the index of the queue of unknown providers, which has an empty name.
    fn queue_of_unknown(&self) -> u32 {
        self.queue_of.get("").copied().unwrap_or_default()
    }

    /// Ends an attempt to cancel a job whose result is committed. The budget counts it as in flight until this call.
    pub(super) fn finish_cancel(
        &mut self,
        (index, job, app): (u32, JobNo, AppNo),
        next_at: Option<Timestamp>,
        now: Timestamp,
    ) {
        self.next_step_at = Some(now);
        let queue = &mut self.queues[index as usize];
        queue.budget.release();
        queue.cancels.finish(job, app, next_at);
    }

    /// Removes the schedule of a job of which it was not known how it is polled, if it is known now.
    fn forget_unpollable(&mut self, facts: &JobSnapshot, now: Timestamp) {
        let found = self.jobs.get(&facts.no);
        let is_unpollable = found.is_some_and(|found| found.poll.is_none() && !found.in_flight);
        if facts.poll.is_some() && is_unpollable {
            self.remove(facts.no, now);
        }
    }

    fn insert(&mut self, facts: &JobSnapshot, now: Timestamp) {
        let name = &facts.name;
        let queue = self.queue_for((&name.provider, &name.account), facts.app, facts.poll.as_deref(), now);
        let mut new = Box::new(JobSchedule::new(facts, queue));
        let queue = &mut self.queues[new.queue()];
        queue.turns.add_job(new.app);
        queue.add_member(facts.no);
        if let Some(other) = facts.other_app {
            queue.add_app(facts.no, &mut new, other, facts.registered_at);
        }
        if let Some(earlier) = self.recent_polls.take(facts.no) {
            new.keep_spacing(earlier, now);
        }
        self.jobs.insert(facts.no, new);
        adjust(&mut self.watching, 0, facts.watching);
    }

    /// Returns the index of the queue for a job. A job that is an app's alone, and of which it is not known how it is
    /// polled, has none but that of unknown providers: it must not be polled with the credential of the operator.
    fn queue_for(
        &mut self,
        (provider, account): (&str, &str),
        app: AppNo,
        source: Option<&PollSource>,
        now: Timestamp,
    ) -> u32 {
        let unknown = self.queue_of_unknown();
        match source {
            None if account != OPERATOR_ACCOUNT => unknown,
            None => self.queue_of.get(provider).copied().unwrap_or(unknown),
            Some(PollSource::Inline { poll, .. }) => {
                let origin = InlinePoll::origin_of(poll.reveal());
                self.on_demand.of_origin(&mut self.queues, app, origin, now)
            }
            Some(PollSource::OfOperator { provider, credential }) => {
                let Some(operators) = self.queue_of.get(provider).copied() else { return unknown };
                let operators = &self.queues[operators as usize];
                let access = OwnAccess {
                    account,
                    provider,
                    credential: Some(&credential.name),
                    policy: operators.policy,
                    limits: operators.budget.limits(),
                    of_app: false,
                };
                self.on_demand.of_account(&mut self.queues, app, &access, now)
            }
            Some(PollSource::OfApp { definition, credential }) => {
                let (policy, limits) = self.on_demand.settings();
                let (policy, limits) = definition.pace.within(&policy, limits);
                let access = OwnAccess {
                    account,
                    provider: &definition.provider,
                    credential: credential.as_ref().map(|credential| credential.name.as_str()),
                    policy,
                    limits,
                    of_app: true,
                };
                self.on_demand.of_account(&mut self.queues, app, &access, now)
            }
        }
    }

    fn schedule_new_watch(&mut self, job: JobNo, now: Timestamp) {
        let Some(found) = self.jobs.get(&job).filter(|found| !found.in_flight) else { return };
        if found.pending_result().is_some() {
            return;
        }
        let policy = &self.queues[found.queue()].policy;
        let terms = found.terms.as_ref();
        let wanted = match found.polled_at {
            None => first_poll(policy, terms, found.registered_at),
            Some(at) => next_poll(policy, terms, found.registered_at, at),
        };
        let not_before = found.rare.as_ref().map_or(wanted, |rare| rare.not_before.max(rare.backoff_until));
        // A new watch may require more frequent polls than the earlier watches. It never delays a poll that is
        // scheduled already.
        let own = found.first_poll_of_last_watch(policy);
        let earliest = found.earliest_poll(policy.min_interval, now);
        let poll_at = wanted.max(not_before).min(own).max(earliest).min(found.poll_at);
        self.schedule_poll(job, poll_at);
        self.schedule_expiry(job);
    }

    fn schedule_poll(&mut self, job: JobNo, at: Timestamp) {
        let Some(found) = self.jobs.get_mut(&job) else { return };
        let queue = &mut self.queues[found.queue()];
        queue.schedule_poll(job, found, at);
        queue.drop_stale(&self.jobs);
    }

    fn schedule_expiry(&mut self, job: JobNo) {
        let Some(found) = self.jobs.get_mut(&job) else { return };
        let queue = &mut self.queues[found.queue()];
        queue.schedule_expiry(job, found);
        queue.drop_stale(&self.jobs);
    }

    /// Returns the actions that are due. Each poll has been granted by the budget and counts as in flight.
    pub(super) fn take_due(&mut self, now: Timestamp) -> Vec<Action> {
        self.recent_polls.drop_past(now);
        self.on_demand.drop_idle(&mut self.queues, now);
        let mut actions = Vec::new();
        let lead = self.lead.map(|(lead, _)| lead).unwrap_or_default();
        let expiry_now = now.minus(lead);
        for (index, queue) in (0..).zip(&mut self.queues) {
            queue.take_expiries(&mut self.jobs, self.started_at, expiry_now, &mut actions);
            queue.take_polls(index, &mut self.jobs, (now, expiry_now), &mut actions);
        }
        actions
    }

    /// Returns the time at which [`Self::take_due`] returns the next action, if no message changes the schedules.
    pub(super) fn next_due(&self, now: Timestamp) -> Option<Timestamp> {
        let (lead, until) = self.lead.map_or((Duration::ZERO, None), |(lead, until)| (lead, Some(until)));
        self.queues.iter().filter_map(|queue| queue.next_due(now, lead)).chain(until).min()
    }

    /// Ends a poll whose result is committed, and schedules the next one. The budget counts the poll as
    /// in flight until this call, so the concurrency limit also bounds the number of results that wait to be
    /// written.
    pub(super) fn finish_poll(&mut self, poll: FinishedPoll, now: Timestamp) {
        let FinishedPoll { job, generation, ended, repeats_request, not_before, backoff_until } = poll;
        self.next_step_at = Some(now);
        let Some(found) = self.jobs.get_mut(&job) else { return };
        let ProviderQueue { budget, policy, turns, .. } = &mut self.queues[found.queue()];
        budget.release();
        turns.release(found.app);
        found.in_flight = false;
        found.end_last_poll(now);
        let requested = std::mem::take(&mut found.poll_again);
        let polled_at = found.polled_at.unwrap_or(now);
        let soonest = found.earliest_poll(policy.min_interval, polled_at.plus(policy.min_interval));
        if not_before.or(backoff_until).is_some() {
            found.rare();
        }
        if let Some(rare) = &mut found.rare {
            rare.not_before = not_before.unwrap_or_default();
            rare.backoff_until = backoff_until.unwrap_or_default();
        }
        if ended && found.generation == generation {
            adjust(&mut self.watching, found.watching, 0);
            (found.watching, found.terms) = (0, None);
        }
        let is_awaited = |pending: &PendingResult| {
            found.generation == generation && (found.watching > 0 || pending.is_refresh)
        };
        if let Some(next_at) =
            found.pending_result().filter(|pending| is_awaited(pending)).map(|one| one.next_at)
        {
            self.schedule_poll(job, next_at.max(now));
            self.schedule_expiry(job);
            return;
        }
        if let Some(rare) = &mut found.rare {
            rare.pending_result = None;
        }
        if found.watching == 0 {
            if requested {
                self.schedule_poll(job, soonest.max(now));
            } else if repeats_request {
                self.schedule_poll(job, soonest.max(not_before.unwrap_or(now)).max(now));
            } else {
                self.remove(job, now);
            }
            return;
        }
        let terms = found.terms.as_ref();
        // An error gives no observation, so the next poll waits only for the minimum interval and `not_before`.
        let failed = found.rare.as_ref().is_some_and(|rare| rare.failures > 0 || rare.last_error.is_some());
        let wanted = if found.generation != generation {
            found.earliest_poll(policy.min_interval, first_poll(policy, terms, found.registered_at))
        } else if failed {
            soonest
        } else {
            next_poll(policy, terms, found.registered_at, polled_at)
        };
        let poll_at = wanted.max(not_before.max(backoff_until).unwrap_or(wanted));
        let poll_at =
            if found.watch_added { poll_at.min(found.first_poll_of_last_watch(policy)) } else { poll_at };
        let poll_at = if requested { poll_at.min(soonest) } else { poll_at };
        self.schedule_poll(job, poll_at.max(now));
        self.schedule_expiry(job);
    }

    /// Ends the wait for results of a job that was to end without them. `has_ended` says whether this is committed;
    /// otherwise the job is polled again after `pause`.
    pub(super) fn end_wait(
        &mut self,
        job: JobNo,
        generation: i64,
        has_ended: bool,
        pause: Duration,
        now: Timestamp,
    ) {
        self.next_step_at = Some(now);
        let found = self.jobs.get_mut(&job);
        let Some(found) = found.filter(|found| found.generation == generation && !found.in_flight) else {
            return;
        };
        found.rare().is_ending = false;
        let requested = std::mem::take(&mut found.poll_again);
        let has_watches = !has_ended && found.watching > 0;
        if !has_watches {
            adjust(&mut self.watching, found.watching, 0);
            (found.watching, found.terms) = (0, None);
        }
        if requested {
            let poll_at = found.earliest_poll(self.queues[found.queue()].policy.min_interval, now);
            self.schedule_poll(job, poll_at);
        } else if has_watches {
            let poll_at = found.poll_at.min(now.plus(pause));
            self.schedule_poll(job, poll_at);
        } else {
            self.remove(job, now);
            return;
        }
        self.schedule_expiry(job);
    }

    /// Clears the backoffs of a provider's jobs, after the provider has recovered. These jobs are due as soon
    /// as the minimum interval and their own `Retry-After` permit.
    pub(super) fn clear_backoffs(&mut self, index: usize, now: Timestamp) {
        let queue = &mut self.queues[index];
        let clear = |job: JobNo, found: &mut JobSchedule, queue: &mut ProviderQueue| {
            let rare = found.rare.as_mut().filter(|rare| rare.failures > 0 && !found.in_flight);
            let Some(rare) = rare else { return };
            (rare.failures, rare.backoff_until) = (0, Timestamp::default());
            let not_before = rare.not_before;
            let poll_at = found.earliest_poll(queue.policy.min_interval, now).max(not_before);
            queue.schedule_poll(job, found, poll_at);
            queue.schedule_expiry(job, found);
        };
        // There may be many queues that were made on demand, and each knows its jobs.
        if let Some(members) = queue.members.take() {
            for job in &members {
                if let Some(found) = self.jobs.get_mut(job) {
                    clear(*job, found, queue);
                }
            }
            queue.members = Some(members);
        } else {
            for (job, found) in self.jobs.iter_mut().filter(|(_, found)| found.queue() == index) {
                clear(*job, found, queue);
            }
        }
        queue.drop_stale(&self.jobs);
    }

    fn remove(&mut self, job: JobNo, now: Timestamp) {
        let Some(found) = self.jobs.remove(&job) else { return };
        let queue = &mut self.queues[found.queue()];
        self.recent_polls.remember(job, found.spacing(queue.policy.min_interval), now);
        found.apps().for_each(|app| queue.turns.remove_job(app));
        queue.remove_member(job);
        queue.drop_stale(&self.jobs);
        if self.finished.insert(job, found.stats(None)).is_none() {
            self.finished_order.push_back(job);
        }
        if self.finished_order.len() > FINISHED_KEPT
            && let Some(oldest) = self.finished_order.pop_front()
        {
            self.finished.remove(&oldest);
        }
    }
}

/// Adjusts the number of watches over all jobs by the change of one job.
fn adjust(total: &mut u64, before: u32, after: u32) {
    *total = (*total + u64::from(after)).saturating_sub(before.into());
}

#[cfg(test)]
mod tests;
