//! The schedule of one job, and the queue of the jobs of one provider and credential, ordered by time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::cancels::Cancels;
use super::recent_polls::Spacing;
use super::turns::{APPS_OF_A_JOB, PollKind, Turns};
use crate::domain::{
    AppNo, AppsApart, JobName, JobNo, JobSnapshot, Known, Limits, Observation, PollPolicy, PollSource,
    PollStats, ProgressApps, ProgressRound, Terms, Timestamp,
};
use crate::poller::budget::{Budget, Permit};
use crate::poller::not_found::NotFoundStreak;
use crate::poller::pending_result::PendingResult;
use crate::poller::schedule::first_poll;
use crate::telemetry::traces::Context;

/// Time for which a final poll that fails is repeated.
const FINAL_POLL: Duration = Duration::from_secs(60);

/// Longest time after the expiry for which a `Retry-After` delays the repetition of a final poll.
const FINAL_WAIT: Duration = Duration::from_secs(3600);

/// Longest time for which the end of that period waits for the turn of a last poll that is due.
const LAST_POLL_WAIT: Duration = Duration::from_secs(10);

/// Number of stale entries that a heap may always contain.
pub const SLACK: usize = 1_024;

/// The same for a queue that was made on demand, of which there are many.
const SLACK_ON_DEMAND: usize = 32;

/// The time of something that is not scheduled.
pub const NEVER: Timestamp = Timestamp::MAX;

/// The schedule of one job. There may be a million jobs, so fields that few jobs need are boxed.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct JobSchedule {
    pub name: JobName,
    /// How it is polled, if it is an app's alone.
    pub poll: Option<Arc<PollSource>>,
    /// The app that polls the job in its turn: the one that polled it last, at first the one that registered it.
    pub app: AppNo,
    /// Index of the provider's queue.
    queue: u32,
    pub generation: i64,
    pub known: Known,
    /// Whether the provider has ever reported a status of the job, also in an earlier generation.
    pub had_status: bool,
    /// How many watches wait for the job.
    pub watching: u32,
    pub terms: Option<Terms>,
    pub registered_at: Timestamp,
    /// When the last watch was added.
    pub last_watch_at: Timestamp,
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
    /// Whether a watch was added while a poll was in flight. It needs a poll of its own.
    pub watch_added: bool,
    /// Trace of the watch that waited first; the spans of polls belong to it. `None` if no traces are exported.
    pub trace: Option<Box<Context>>,
    pub rare: Option<Box<RareState>>,
}

/// State that only few jobs have: after errors, or while they expire.
#[derive(Debug, Default)]
pub struct RareState {
    /// Failed polls in a row.
    pub failures: u32,
    /// The `not_found` outcomes in a row.
    pub not_found: NotFoundStreak,
    pub last_error: Option<String>,
    /// Whether the last poll met a connection that the provider was closing. It is repeated once, as if it had not been
    /// made; the next one of this kind is an error, because a provider may answer every poll of a job so.
    pub was_closed: bool,
    pub final_poll: Option<FinalPoll>,
    /// Results that are requested before the job counts as completed.
    pub pending_result: Option<Box<PendingResult>>,
    /// Whether the end of the job without its results is being written.
    pub is_ending: bool,
    /// Further apps that watch the job and poll it in their turns.
    pub more_apps: Vec<AppNo>,
    /// Apps whose progress events differ from those of the others.
    apart: AppsApart,
    /// No poll before this time, not even a requested or a final one: the minimum interval after the last poll of an
    /// earlier schedule of the job.
    pub spaced_until: Timestamp,
    /// No poll before this time, because of the provider's `Retry-After` or because a poll cannot be made. Only
    /// requested polls ignore it.
    pub not_before: Timestamp,
    /// No poll before this time, because polls have failed. The first poll of a new watch ignores it as well.
    pub backoff_until: Timestamp,
}

/// The final poll of watches that have expired.
#[derive(Clone, Copy, Debug)]
pub struct FinalPoll {
    /// The watches that had expired by this time end with the result of the poll.
    pub cutoff: Timestamp,
    /// Time at which those watches end without a result; [`NEVER`] while their end is being written.
    pub give_up_at: Timestamp,
    /// Whether the provider has answered a poll since the cutoff.
    pub answered: bool,
    /// Whether the period is over, and the watches wait only for the answer of a last poll.
    pub is_last: bool,
}

impl FinalPoll {
    fn new(cutoff: Timestamp, give_up_at: Timestamp) -> Self {
        Self { cutoff, give_up_at, answered: false, is_last: false }
    }

    /// Starts the period again: a poll could not be made.
    pub fn extend(&mut self, now: Timestamp) {
        (self.give_up_at, self.is_last) = (self.give_up_at.max(now.plus(FINAL_POLL)), false);
    }

    /// Extends the period to the end of a `Retry-After` that lasts longer, at most [`FINAL_WAIT`] after the cutoff: the
    /// poll is repeated then.
    pub fn wait_until(&mut self, until: Timestamp) {
        let until = until.min(self.cutoff.plus(FINAL_WAIT));
        if until > self.give_up_at {
            (self.give_up_at, self.is_last) = (until, false);
        }
    }

    /// Returns when a failed poll is repeated that need not be repeated before `wanted`: at the latest at the end of
    /// the period. A poll shortly before would leave no time for one at the end.
    pub fn repeat_at(&self, wanted: Timestamp, min_interval: Duration, now: Timestamp) -> Timestamp {
        let is_too_late = wanted.plus(min_interval) > self.give_up_at;
        if is_too_late && self.give_up_at > now { self.give_up_at } else { wanted }
    }
}

impl JobSchedule {
    pub fn new(facts: &JobSnapshot, queue: u32) -> Self {
        let traced = facts.traced.as_ref();
        let rare = RareState { apart: facts.apart.clone(), ..RareState::default() };
        Self {
            name: facts.name.clone(),
            poll: facts.poll.clone(),
            app: facts.app,
            queue,
            generation: facts.generation,
            known: facts.known,
            had_status: facts.had_status,
            watching: facts.watching,
            terms: facts.terms,
            registered_at: facts.registered_at,
            last_watch_at: facts.registered_at,
            polled_at: None,
            poll_at: NEVER,
            expiry_at: NEVER,
            polls: 0,
            in_flight: false,
            poll_again: false,
            watch_added: false,
            trace: traced.and_then(|(watch, parent)| Context::of(*watch, parent.as_deref())).map(Box::new),
            rare: (!facts.apart.is_empty()).then(|| Box::new(rare)),
        }
    }

    /// Adds a watch to a job that is scheduled already.
    pub fn add_watch(&mut self, facts: &JobSnapshot, min_interval: Duration, now: Timestamp) {
        if facts.generation > self.generation {
            // The job had ended and was registered anew: nothing of the old schedule is valid, except that its polls
            // delay the next one.
            let spacing = self.spacing(min_interval);
            // Without watches, the poll that is scheduled was requested by a client.
            let poll_at = if self.watching == 0 { self.poll_at } else { NEVER };
            let more_apps = self.rare.take().map(|rare| rare.more_apps).unwrap_or_default();
            let new = Self::new(facts, self.queue);
            let Self { app, polls, in_flight, poll_again, .. } = *self;
            *self = Self { app, poll_at, polls, in_flight, poll_again, ..new };
            if !more_apps.is_empty() {
                self.rare().more_apps = more_apps;
            }
            self.keep_spacing(spacing, now);
            return;
        }
        self.watching = self.watching.saturating_add(1);
        self.last_watch_at = now;
        self.watch_added = self.in_flight;
        self.terms = self.terms.into_iter().chain(facts.terms).reduce(Terms::and);
        self.forget_reported(facts);
    }

    /// Counts nothing as reported to the app of a new watch that wants events of progress.
    pub fn forget_reported(&mut self, facts: &JobSnapshot) {
        if !facts.terms.is_some_and(|terms| terms.wants_progress) {
            return;
        }
        self.known.forget();
        let others = self.known.reported();
        if others.progress.is_some() || self.rare.is_some() {
            self.rare().apart.forget(facts.app, others);
        }
    }

    /// Apps whose progress events differ from those of the others.
    pub fn apart(&self) -> &AppsApart {
        static NONE: AppsApart = AppsApart::NONE;
        self.rare.as_ref().map_or(&NONE, |rare| &rare.apart)
    }

    /// Notes a change that is written, and a round of progress events of these apps.
    pub fn report(&mut self, seen: &Observation, round: &ProgressApps, now: Timestamp) {
        self.known = self.known.after(seen, round, now);
        let others = self.known.reported();
        if let Some(rare) = &mut self.rare {
            rare.apart.after(round, seen.progress, others, now);
        }
    }

    /// Notes the bytes of an app's round, which delay its next one.
    pub fn hold(&mut self, round: &ProgressRound) {
        let others = self.known.reported();
        if self.rare.is_some() || round.next_at() > others.next_at {
            self.rare().apart.hold(round, others);
        }
    }

    /// Returns the index of the provider's queue.
    pub fn queue(&self) -> usize {
        self.queue as usize
    }

    /// Returns the apps in whose turns the job is polled.
    pub fn apps(&self) -> impl Iterator<Item = AppNo> {
        let more = self.rare.iter().flat_map(|rare| rare.more_apps.iter().copied());
        std::iter::once(self.app).chain(more)
    }

    /// Adds an app that watches the job. Returns whether it is new, and the app that it replaces.
    pub fn add_app(&mut self, app: AppNo) -> (bool, Option<AppNo>) {
        if self.apps().any(|known| known == app) {
            return (false, None);
        }
        let more = &mut self.rare().more_apps;
        let replaced = (more.len() + 1 >= APPS_OF_A_JOB).then(|| more.remove(0));
        more.push(app);
        (true, replaced)
    }

    pub fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    /// Returns the cutoff of the final poll, if one is under way.
    pub fn cutoff(&self) -> Option<Timestamp> {
        self.rare.as_ref()?.final_poll.map(|poll| poll.cutoff)
    }

    /// Returns how the polls of the job delay its next one.
    pub fn spacing(&self, min_interval: Duration) -> Spacing {
        let (earlier, not_before) =
            self.rare.as_ref().map(|rare| (rare.spaced_until, rare.not_before)).unwrap_or_default();
        let own = self.polled_at.map(|at| at.plus(min_interval)).unwrap_or_default();
        Spacing { spaced_until: own.max(earlier), not_before }
    }

    /// Delays the next poll as the polls of an earlier schedule of the job require.
    pub fn keep_spacing(&mut self, earlier: Spacing, now: Timestamp) {
        if earlier.end() > now {
            let Spacing { spaced_until, not_before } = earlier;
            let rare = self.rare();
            (rare.spaced_until, rare.not_before) = (spaced_until, not_before);
        }
    }

    /// Returns the earliest time of a poll that is wanted at `wanted`, whatever wants it.
    pub fn earliest_poll(&self, min_interval: Duration, wanted: Timestamp) -> Timestamp {
        self.spacing(min_interval).spaced_until.max(wanted)
    }

    /// Returns the latest time of the first poll of the watch that was added last. Its schedule is its own: it does not
    /// inherit the interval of an old job, nor its backoff.
    pub fn first_poll_of_last_watch(&self, policy: &PollPolicy) -> Timestamp {
        let first = first_poll(policy, self.terms.as_ref(), self.last_watch_at);
        let not_before = self.rare.as_ref().map_or(first, |rare| rare.not_before);
        self.earliest_poll(policy.min_interval, first).max(not_before)
    }

    /// Marks the job as being polled in the turn of an app.
    pub fn start_poll(&mut self, app: AppNo) {
        if let Some(rare) = &mut self.rare
            && let Some(one) = rare.more_apps.iter_mut().find(|one| **one == app)
        {
            std::mem::swap(one, &mut self.app);
        }
        self.in_flight = true;
        self.watch_added = false;
        self.poll_at = NEVER;
    }

    /// Records the start of the poll that is in flight.
    pub fn record_start(&mut self, at: Timestamp) {
        self.polled_at = Some(at);
        self.polls = self.polls.saturating_add(1);
    }

    /// Ends the wait for a last poll that was answered, or has failed.
    pub fn end_last_poll(&mut self, now: Timestamp) {
        let final_poll = self.rare.as_mut().and_then(|rare| rare.final_poll.as_mut());
        if let Some(poll) = final_poll.filter(|poll| poll.is_last) {
            poll.give_up_at = poll.give_up_at.min(now);
        }
    }

    /// Returns the results that are pending, if any are.
    pub fn pending_result(&self) -> Option<&PendingResult> {
        self.rare.as_ref()?.pending_result.as_deref()
    }

    /// Returns the time of the next step of the expiry: the final poll, or the end of the watches without its result. While
    /// results are pending, no watch expires; the step is then the end of the job without them.
    pub fn next_expiry(&self, min_interval: Duration) -> Timestamp {
        if let Some(pending) = self.pending_result() {
            return pending.give_up_at;
        }
        let final_poll = self.rare.as_ref().and_then(|rare| rare.final_poll);
        final_poll.map_or_else(|| self.final_poll_at(min_interval), |poll| poll.give_up_at)
    }

    /// Returns when the final poll of the watches that expire next becomes due. The watches that expire within one
    /// minimum interval, or before the end of a `Retry-After`, share it, because its start is the cutoff.
    fn final_poll_at(&self, min_interval: Duration) -> Timestamp {
        self.terms.map_or(NEVER, |terms| self.spacing(min_interval).end().max(terms.expires_at))
    }

    /// Moves the schedule back by `jump`.
    pub fn set_back(&mut self, jump: Duration, min_interval: Duration) {
        let back = |at: Timestamp| if at == NEVER { NEVER } else { at.minus(jump) };
        self.poll_at = back(self.poll_at);
        self.polled_at = self.polled_at.map(back);
        self.registered_at = back(self.registered_at);
        self.last_watch_at = back(self.last_watch_at);
        if let Some(rare) = &mut self.rare {
            rare.spaced_until = back(rare.spaced_until);
            rare.not_before = back(rare.not_before);
            rare.backoff_until = back(rare.backoff_until);
            rare.not_found.set_back(jump);
            if let Some(poll) = &mut rare.final_poll {
                poll.give_up_at = back(poll.give_up_at);
            }
            if let Some(pending) = &mut rare.pending_result {
                pending.set_back(jump);
            }
        }
        if self.expiry_at != NEVER {
            self.expiry_at = self.next_expiry(min_interval);
        }
    }

    /// Returns the poll statistics. `next_poll_at` is the time at which the budget permits the next poll.
    pub fn stats(&self, next_poll_at: Option<Timestamp>) -> PollStats {
        PollStats {
            last_polled_at: self.polled_at,
            next_poll_at,
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
    /// End a completed job without its results.
    EndWithoutResult(JobNo),
    /// Make the request of an app to cancel a job of the provider whose queue has this index.
    Cancel(u32, JobNo, AppNo),
}

/// A failed poll, as every tenant may see it.
#[derive(Clone, Debug)]
pub struct ProviderError {
    pub at: Timestamp,
    /// Status and code. It says nothing of the job.
    pub text: String,
    /// Whether the provider has answered.
    pub answered: bool,
}

/// The jobs of one provider and credential.
#[derive(Debug)]
pub struct ProviderQueue {
    /// Id of the provider.
    pub provider: String,
    pub policy: PollPolicy,
    pub budget: Budget,
    /// The last error of any job.
    pub last_error: Option<ProviderError>,
    /// Whether a failed poll was logged since the last success.
    pub failure_logged: bool,
    /// Statuses that the definition does not contain and that were logged, at most twenty.
    pub unknown_logged: BTreeSet<String>,
    /// Polls that are not due yet.
    pub polls: TimeHeap,
    /// Steps of expiries that are not due yet.
    pub expiries: TimeHeap,
    /// Polls that are due.
    pub turns: Turns,
    /// Requests to cancel jobs.
    pub cancels: Cancels,
    /// The jobs of a queue that was made on demand (`on_demand`); `None` for a provider of the operator.
    pub members: Option<HashSet<JobNo>>,
    /// Name of the credential of the app with which its jobs are polled, if it is the same for all.
    pub credential: Option<String>,
    /// Whether the definition is the app's.
    pub of_app: bool,
}

impl ProviderQueue {
    pub fn new(provider: String, policy: PollPolicy, limits: Limits, now: Timestamp) -> Self {
        Self {
            provider,
            policy,
            budget: Budget::new(limits, now),
            last_error: None,
            failure_logged: false,
            unknown_logged: BTreeSet::new(),
            polls: BinaryHeap::new(),
            expiries: BinaryHeap::new(),
            turns: Turns::default(),
            cancels: Cancels::default(),
            members: None,
            credential: None,
            of_app: false,
        }
    }

    /// Drops stale entries, once they outnumber the others.
    pub fn drop_stale(&mut self, jobs: &Jobs) {
        let (jobs_max, slack) = match &self.members {
            Some(members) => (members.len(), SLACK_ON_DEMAND),
            None => (jobs.len(), SLACK),
        };
        let most = 2 * jobs_max + slack;
        if self.polls.len() > most {
            self.polls.retain(|Reverse((at, job))| jobs.get(job).is_some_and(|found| found.poll_at == *at));
        }
        if self.expiries.len() > most {
            self.expiries
                .retain(|Reverse((at, job))| jobs.get(job).is_some_and(|found| found.expiry_at == *at));
        }
        self.turns.drop_stale(slack, |kind, (at, job)| is_scheduled(jobs, kind, at, job));
    }

    /// Adds an app that watches a job. A poll of the job that waits already waits for the turn of this app, too.
    pub fn add_app(&mut self, job: JobNo, found: &mut JobSchedule, app: AppNo, now: Timestamp) {
        let (is_new, replaced) = found.add_app(app);
        if !is_new {
            return;
        }
        self.turns.add_job(app);
        if let Some(replaced) = replaced {
            self.turns.remove_job(replaced);
        }
        for (kind, at) in [(PollKind::Scheduled, found.poll_at), (PollKind::Final, found.expiry_at)] {
            let has_final = found.rare.as_ref().is_some_and(|rare| rare.final_poll.is_some());
            if at <= now && !found.in_flight && (kind == PollKind::Scheduled || !has_final) {
                self.turns.push(app, kind, (at, job));
            }
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
        let at = found.next_expiry(self.policy.min_interval);
        if found.expiry_at != at {
            found.expiry_at = at;
            if at != NEVER {
                self.expiries.push(Reverse((at, job)));
            }
        }
    }

    /// Starts the next request to cancel a job, if one is due and no poll comes before it.
    fn take_cancel(&mut self, now: Timestamp) -> Option<(JobNo, AppNo)> {
        let (job, app) = self.cancels.next(self.budget.concurrency(), now)?;
        if self.cancels.was_last && self.turns.next(self.budget.places()).is_some() {
            return None;
        }
        if self.budget.acquire(now) != Permit::Granted {
            return None;
        }
        self.cancels.start(job, app);
        Some((job, app))
    }

    /// Appends the polls and the requests to cancel jobs that are due and granted by the budget to `actions`. `index` is
    /// that of this queue. Watches expire by the second of the two times: the clock may be ahead.
    pub fn take_polls(
        &mut self,
        index: u32,
        jobs: &mut Jobs,
        (now, expiry_now): (Timestamp, Timestamp),
        actions: &mut Vec<Action>,
    ) {
        while let Some((at, job)) = first_due(&self.polls, now) {
            self.polls.pop();
            if let Some(found) = jobs.get(&job).filter(|found| found.poll_at == at && !found.in_flight) {
                found.apps().for_each(|app| self.turns.push(app, PollKind::Scheduled, (at, job)));
            }
        }
        while self.budget.check(now) == Permit::Granted {
            if let Some((job, app)) = self.take_cancel(now) {
                actions.push(Action::Cancel(index, job, app));
                continue;
            }
            let Some((app, kind, (at, job))) = self.turns.next(self.budget.places()) else { break };
            let is_valid = is_scheduled(jobs, kind, at, job);
            let Some(found) = jobs.get_mut(&job).filter(|_| is_valid) else {
                self.turns.drop_front(app, kind);
                continue;
            };
            if self.budget.acquire(now) != Permit::Granted {
                break;
            }
            self.turns.start(app, kind);
            self.cancels.was_last = false;
            found.start_poll(app);
            // Also another poll is the final one if the watches have expired, such as one that a client has requested
            // before the end of a `Retry-After`: its start is the cutoff.
            let has_final = found.rare.as_ref().is_some_and(|rare| rare.final_poll.is_some());
            if !has_final
                && found.pending_result().is_none()
                && found.terms.is_some_and(|terms| terms.expires_at <= expiry_now)
            {
                found.expiry_at = NEVER;
                found.rare().final_poll = Some(FinalPoll::new(expiry_now, expiry_now.plus(FINAL_POLL)));
            }
            actions.push(Action::Poll(job));
        }
    }

    /// Moves the final polls that are due into the queues of their apps, and appends the other steps of expiries that
    /// are due to `actions`.
    pub fn take_expiries(
        &mut self,
        jobs: &mut Jobs,
        started_at: Timestamp,
        now: Timestamp,
        actions: &mut Vec<Action>,
    ) {
        let held_back = self.budget.is_held_back();
        if held_back {
            // They became due before the provider failed.
            for (at, job) in self.turns.take_finals() {
                if let Some(found) = jobs.get_mut(&job).filter(|found| found.expiry_at == at) {
                    self.schedule_held_back(job, found, started_at, now);
                }
            }
        }
        while let Some((at, job)) = first_due(&self.expiries, now) {
            self.expiries.pop();
            let Some(found) = jobs.get_mut(&job).filter(|found| found.expiry_at == at) else { continue };
            let final_poll = found.rare.as_ref().and_then(|rare| rare.final_poll);
            if found.in_flight {
                // Nothing is decided about a job that is being polled; the end of the poll schedules it again.
                found.expiry_at = NEVER;
            } else if found.pending_result().is_some() {
                (found.expiry_at, found.poll_at) = (NEVER, NEVER);
                actions.push(Action::EndWithoutResult(job));
            } else if let Some(poll) =
                final_poll.filter(|poll| !held_back && !poll.is_last && found.poll_at <= at)
            {
                // The poll is due at this moment: its answer decides, and not which of both comes first.
                let give_up_at = at.plus(LAST_POLL_WAIT);
                found.rare().final_poll = Some(FinalPoll { give_up_at, is_last: true, ..poll });
                self.schedule_expiry(job, found);
            } else if let Some(poll) = final_poll {
                found.expiry_at = NEVER;
                found.rare().final_poll = Some(FinalPoll { give_up_at: NEVER, is_last: false, ..poll });
                actions.push(Action::GiveUp(job, poll.cutoff));
            } else if held_back {
                self.schedule_held_back(job, found, started_at, now);
            } else {
                found.apps().for_each(|app| self.turns.push(app, PollKind::Final, (at, job)));
            }
        }
    }

    /// Schedules the final poll of a job whose watches have expired, while polls are held back. It is unknown when the
    /// poll can be sent. Probes may still reach the provider, so the poll is scheduled all the same.
    fn schedule_held_back(
        &mut self,
        job: JobNo,
        found: &mut JobSchedule,
        started_at: Timestamp,
        now: Timestamp,
    ) {
        let due_at = std::mem::replace(&mut found.expiry_at, NEVER);
        if found.in_flight || found.pending_result().is_some() {
            return;
        }
        let give_up_at = due_at.max(started_at).plus(FINAL_POLL);
        found.rare().final_poll = Some(FinalPoll::new(now, give_up_at));
        self.schedule_expiry(job, found);
        let poll_at = found.poll_at.min(now);
        self.schedule_poll(job, found, poll_at);
    }

    /// Returns the time of the next action, as scheduled now.
    pub fn next_due(&self, now: Timestamp, lead: Duration) -> Option<Timestamp> {
        let permitted = || match self.budget.check(now) {
            Permit::At(at) => Some(at),
            Permit::Granted => Some(now),
            // The end of a poll in flight causes the next step.
            Permit::Busy => None,
        };
        let first = |heap: &TimeHeap, lead| {
            let Reverse((at, _)) = *heap.peek()?;
            let at = at.plus(lead);
            if at > now { Some(at) } else { permitted() }
        };
        let waiting = self.turns.next(self.budget.places()).and_then(|_| permitted());
        let cancel_at = self.cancels.next_at(self.budget.concurrency());
        let cancel_at = cancel_at.and_then(|at| if at > now { Some(at) } else { permitted() });
        let polls = [first(&self.polls, Duration::ZERO), first(&self.expiries, lead), waiting];
        polls.into_iter().chain([cancel_at]).flatten().min()
    }

    /// Returns the time of the next poll of a job, as the budget permits it now. `None`: the job is being polled, or is
    /// never polled.
    pub fn next_poll(&self, job: JobNo, found: &JobSchedule, now: Timestamp) -> Option<Timestamp> {
        let has_final = found.rare.as_ref().is_some_and(|rare| rare.final_poll.is_some());
        let final_at = if has_final || found.pending_result().is_some() {
            NEVER
        } else {
            found.final_poll_at(self.policy.min_interval)
        };
        let at = found.poll_at.min(final_at);
        if found.watching == 0 || found.in_flight || at == NEVER || self.budget.is_off() {
            return None;
        }
        let ahead = if at <= now { self.turns.ahead(found.app, (at, job)) } else { 0 };
        Some(at.max(now).max(self.budget.next_start(now, ahead)))
    }

    /// Counts the polls that are due and wait for the budget, up to `most`.
    pub fn waiting(&self, jobs: &Jobs, now: Timestamp, most: usize) -> usize {
        let is_waiting = |(app, kind, (at, job)): &(AppNo, PollKind, (Timestamp, JobNo))| {
            *at <= now && is_scheduled(jobs, *kind, *at, *job) && jobs.get(job).is_some_and(|f| f.app == *app)
        };
        self.turns.iter().filter(is_waiting).take(most).count()
    }
}

/// Returns whether an entry of a queue is valid: the job has this poll still to be started.
fn is_scheduled(jobs: &Jobs, kind: PollKind, at: Timestamp, job: JobNo) -> bool {
    let scheduled_at = |found: &JobSchedule| match kind {
        PollKind::Scheduled => found.poll_at,
        PollKind::Final => found.expiry_at,
    };
    jobs.get(&job).is_some_and(|found| !found.in_flight && scheduled_at(found) == at)
}

/// Returns the first entry of a heap, if it is due.
fn first_due(heap: &TimeHeap, now: Timestamp) -> Option<(Timestamp, JobNo)> {
    heap.peek().map(|Reverse(first)| *first).filter(|(at, _)| *at <= now)
}
