//! Decisions about the response to a poll: the change of the job's schedule, and the rows to write.
//!
//! [`decide`] does no I/O. The caller performs the writes of the [`Decision`] in the order of its fields.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;

use super::app_memory::AppSpace;
use super::budget::{FailedPoll, backoff};
use super::not_found::NotFoundStreak;
use super::pending_result::{NO_SPACE, NO_SPACE_PAUSE, PendingResult, WAIT_MAX, has_ended, without_result};
use super::provider::PollResponse;
use super::public_error::public_error;
use super::scheduler::{JobSchedule, ProviderError, ProviderQueue, Scheduler};
use crate::domain::{
    EndingKind, Finding, JobError, JobName, JobNo, ProviderHealth, Timestamp, credential_variable,
    format_duration, observe,
};
use crate::providers::{Interpretation, JobReport, PollFailure};
use crate::store::{EndJob, EndNotFound, ExpireWatches, RecordObservation, RefreshEnding};

/// Longest delay of a job's next poll that a provider's `Retry-After` can cause.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Shortest grace before a `not_found` ends the watches of a job of which the provider has ever reported a status.
const GRACE_KNOWN: Duration = Duration::from_secs(15 * 60);

/// Pause of a job whose poll could not be made because this process or its machine lacks something.
const NOT_MADE_PAUSE: Duration = Duration::from_secs(1);

/// Time after a success in which a failed poll is not logged.
const QUIET_AFTER_OK: Duration = Duration::from_secs(60);

/// Maximum number of unknown statuses of a provider that are logged, each once.
const UNKNOWN_LOGGED_MAX: usize = 20;

/// Writes that follow from a poll.
#[derive(Default)]
pub(super) struct Decision {
    pub(super) observed: Option<RecordObservation>,
    pub(super) refresh: Option<RefreshEnding>,
    pub(super) expire: Option<ExpireWatches>,
    pub(super) ended: Option<EndJob>,
    pub(super) not_found: Option<EndNotFound>,
    pub(super) job: JobNo,
    /// Generation of the job that was polled.
    pub(super) generation: i64,
    /// Whether the poll was requested for a job without a watch that waits, and could not be made.
    pub(super) repeats_request: bool,
    pub(super) now: Timestamp,
    /// No next poll before this time, as the provider or this machine requires.
    pub(super) not_before: Option<Timestamp>,
    /// No next poll before this time, because polls have failed.
    pub(super) backoff_until: Option<Timestamp>,
    /// The error, if it is to be logged: the first one of the provider after its last success.
    pub(super) first_error: Option<String>,
}

/// Decides what a response means for a job, and updates the schedule of the job and the budget.
pub(super) fn decide(
    scheduler: &mut Scheduler,
    job: JobNo,
    response: PollResponse,
    started: Timestamp,
    now: Timestamp,
) -> Decision {
    let PollResponse { meaning, retry_after, raw, http_status, no_answer, memory, redirects } = response;
    let retry_after = retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    let not_before = retry_after.map(|after| now.plus(after));
    let mut decision = Decision { job, now, not_before, ..Decision::default() };
    let Some(schedule) = scheduler.jobs.get_mut(&job) else { return decision };
    decision.generation = schedule.generation;
    if decision.is_repeated(schedule, &meaning, started) {
        return decision;
    }
    // Without an API key, no request was made: it is neither counted nor dated.
    if !matches!(meaning, Interpretation::Failed { failure: PollFailure::NoCredential, .. }) {
        schedule.record_start(started);
    }
    let index = schedule.queue();
    let queue = &mut scheduler.queues[index];
    let failed =
        FailedPoll { job, app: schedule.app, started, is_only_app: queue.turns.is_only_app(schedule.app) };
    let has_one_credential = queue.has_one_credential();
    let budget = &mut queue.budget;
    budget.charge(redirects, now);
    decision.on_response(schedule, &meaning, http_status.is_some(), queue.policy.not_found_grace);
    let change = match &meaning {
        Interpretation::Ok(report) => {
            if let Some(rare) = &mut schedule.rare {
                (rare.failures, rare.last_error) = (0, None);
            }
            queue.failure_logged = false;
            schedule.had_status = true;
            log_report(schedule, report, &mut queue.unknown_logged);
            if report.results.is_empty() {
                decision.on_report(schedule, report, raw);
            } else {
                decision.on_results(schedule, report, raw, memory);
            }
            budget.ok(now)
        }
        Interpretation::NotYet => {
            if let Some(rare) = &mut schedule.rare {
                (rare.failures, rare.last_error) = (0, None);
            }
            queue.failure_logged = false;
            decision.on_no_news(schedule);
            budget.ok(now)
        }
        Interpretation::Failed { failure: PollFailure::NotFound, message } => {
            // An id that the provider never knew says nothing about the provider, but about the client that gave it.
            let error = if schedule.had_status { budget.error(failed, now) } else { None };
            let change = budget.authorized().or(error);
            decision.back_off(schedule, queue.policy.min_interval);
            let is_doubtful = budget.is_doubtful(failed.is_only_app, now);
            if schedule.watching > 0 && !budget.is_open() && !is_doubtful {
                decision.on_not_found(schedule, started, message, queue.policy.not_found_grace);
            }
            change
        }
        Interpretation::Failed {
            failure: PollFailure::Unauthorized { .. } | PollFailure::NoCredential,
            ..
        } => {
            // The credential of a job without a definition is its own: others at the host may have a valid one.
            let change = if has_one_credential { budget.unauthorized(started, now) } else { None };
            if !budget.is_paused() {
                decision.back_off(schedule, queue.policy.min_interval);
            }
            change
        }
        Interpretation::Failed { failure: PollFailure::RateLimited, .. } => {
            decision.not_before = Some(budget.rate_limited(retry_after, started, now));
            None
        }
        Interpretation::Failed {
            failure: PollFailure::Error | PollFailure::Closed | PollFailure::TokenRefused,
            ..
        } => {
            decision.back_off(schedule, queue.policy.min_interval);
            budget.error(failed, now)
        }
        // They have returned above, or are no outcomes of polls.
        Interpretation::Failed { failure: PollFailure::NotMade | PollFailure::Refused, .. } => None,
    };
    if let (Some(until), Some(rare)) = (decision.not_before, &mut schedule.rare)
        && let Some(final_poll) = &mut rare.final_poll
    {
        final_poll.wait_until(until);
    }
    let error = meaning.message().unwrap_or_default();
    log_health(change, (&queue.provider, queue.credential.as_deref()), error);
    if let Interpretation::Failed { failure, .. } = &meaning {
        decision.first_error = first_error(queue, failure, error, now);
        let text = public_error(failure, http_status, no_answer, &schedule.name.job_id);
        queue.last_error = Some(ProviderError { at: now, text, answered: http_status.is_some() });
    }
    if change == Some(ProviderHealth::Ok) {
        scheduler.clear_backoffs(index, now);
    }
    decision
}

/// Returns the error of a failed poll if it is logged: the first one of the provider since a success.
fn first_error(
    queue: &mut ProviderQueue,
    failure: &PollFailure,
    error: &str,
    now: Timestamp,
) -> Option<String> {
    // A provider that answers some polls and not others must not fill the log.
    let is_silent = queue.failure_logged
        || queue.budget.last_ok.is_some_and(|last_ok| now < last_ok.plus(QUIET_AFTER_OK));
    let has_own_line = matches!(failure, PollFailure::Unauthorized { .. } | PollFailure::NoCredential);
    let is_logged = !is_silent && !has_own_line;
    queue.failure_logged |= is_logged;
    is_logged.then(|| error.to_owned())
}

impl Decision {
    /// Decides nothing yet about a job.
    pub(super) fn new(job: JobNo, generation: i64, now: Timestamp) -> Self {
        Self { job, generation, now, ..Self::default() }
    }

    /// Returns whether a poll is repeated and decides nothing else: one that could not be made, or the first one in a
    /// row whose connection was closed or whose token was refused.
    fn is_repeated(
        &mut self,
        schedule: &mut JobSchedule,
        meaning: &Interpretation,
        started: Timestamp,
    ) -> bool {
        if let Interpretation::Failed { failure: PollFailure::NotMade, message } = meaning {
            self.on_not_made(schedule, message);
            return true;
        }
        let is_closed = matches!(
            meaning,
            Interpretation::Failed { failure: PollFailure::Closed | PollFailure::TokenRefused, .. }
        );
        if is_closed && !std::mem::replace(&mut schedule.rare().was_closed, true) {
            // A poll that may have arrived counts for the minimum interval.
            schedule.record_start(started);
            self.on_not_made(schedule, meaning.message().unwrap_or_default());
            return true;
        }
        if let Some(rare) = schedule.rare.as_mut().filter(|_| !is_closed) {
            rare.was_closed = false;
        }
        false
    }

    /// Makes an ended job wait for its results. Without memory for that, it is polled again later, or ends without them
    /// if its watches have expired.
    fn on_results(
        &mut self,
        schedule: &mut JobSchedule,
        report: &JobReport,
        raw: Option<Bytes>,
        memory: Option<AppSpace>,
    ) {
        let is_refresh = schedule.watching == 0;
        let Some(memory) = memory else {
            if is_refresh {
                self.refresh = Some(RefreshEnding { job: self.job, seen: None, has_status: true });
            } else if schedule.cutoff().is_none() {
                self.not_before = self.not_before.max(Some(self.now.plus(NO_SPACE_PAUSE)));
                schedule.rare().last_error =
                    Some(format!("{}; its result: {NO_SPACE}", has_ended(&report.observation)));
            } else {
                let mut report = report.clone();
                report.observation = without_result(report.clone(), NO_SPACE);
                self.on_report(schedule, &report, raw);
            }
            return;
        };
        schedule.rare().pending_result = Some(Box::new(PendingResult {
            report: Box::new(report.clone()),
            raw,
            generation: self.generation,
            is_refresh,
            failures: 0,
            next_at: self.now,
            give_up_at: self.now.plus(WAIT_MAX),
            last_error: None,
            memory,
        }));
    }

    /// Records what each response says about the job, whatever it means.
    fn on_response(
        &mut self,
        schedule: &mut JobSchedule,
        meaning: &Interpretation,
        is_answered: bool,
        not_found_grace: Duration,
    ) {
        if let Some(error) = meaning.message() {
            let error = last_error(schedule, meaning, error, not_found_grace);
            schedule.rare().last_error = Some(error);
            // A requested poll of a job for which no watch waits ends, although it failed.
            let ended = RefreshEnding { job: self.job, seen: None, has_status: false };
            self.refresh = (schedule.watching == 0).then_some(ended);
        }
        let Some(rare) = &mut schedule.rare else { return };
        if let Some(final_poll) = &mut rare.final_poll {
            final_poll.answered |= is_answered;
        }
        if !matches!(meaning, Interpretation::Failed { failure: PollFailure::NotFound, .. }) {
            rare.not_found = NotFoundStreak::default();
        }
    }

    /// Decides whether the description of a job shows nothing new, a change, or its end.
    fn on_report(&mut self, schedule: &mut JobSchedule, report: &JobReport, raw: Option<Bytes>) {
        let raw = |wanted: bool| raw.filter(|_| wanted).map(|raw| Arc::from(raw.as_ref()));
        let (job, generation, now, seen) = (self.job, self.generation, self.now, &report.observation);
        if schedule.watching == 0 {
            let seen = seen.status.ending().map(|_| seen.clone());
            self.refresh = Some(RefreshEnding { job, seen, has_status: true });
            return;
        }
        match observe(&schedule.known, schedule.apart(), seen, now) {
            Finding::Nothing => {}
            Finding::Changed { progress, is_other } => {
                let notify = schedule.terms.is_some_and(|terms| terms.wants_progress);
                self.observed = Some(RecordObservation {
                    job,
                    generation,
                    seen: seen.clone(),
                    status_changed: schedule.known.status != seen.status,
                    is_other,
                    progress: progress.clone(),
                    only_new: schedule.apart().only_new(&progress, seen.progress),
                    notify,
                    raw: raw(notify),
                    after: Vec::new(),
                    observed_at: now,
                });
                schedule.report(seen, &progress, now);
            }
            Finding::Ended(kind) => {
                let (seen, raw) = (seen.clone(), raw(true));
                self.ended = Some(EndJob { job, generation, kind, seen, raw, observed_at: now });
                return;
            }
        }
        self.expire_running(schedule);
    }

    /// Decides what a good answer without news means: the job runs, as far as is known. A requested poll of a job for
    /// which no watch waits ends.
    fn on_no_news(&mut self, schedule: &mut JobSchedule) {
        let ended = RefreshEnding { job: self.job, seen: None, has_status: false };
        self.refresh = (schedule.watching == 0).then_some(ended);
        if schedule.watching > 0 {
            self.expire_running(schedule);
        }
    }

    /// Ends the watches that have expired while the job runs.
    fn expire_running(&mut self, schedule: &mut JobSchedule) {
        if let Some(cutoff) = schedule.cutoff() {
            let message = "the job had not ended when the watch expired";
            self.expire = Some(expire(self.job, cutoff, self.now, "deadline", message));
        }
    }

    /// Ends the watches of a job that the provider does not know, if it has reported so often enough and for long
    /// enough since their registration.
    fn on_not_found(
        &mut self,
        schedule: &mut JobSchedule,
        started: Timestamp,
        message: &str,
        grace: Duration,
    ) {
        let (job, generation, now, last_watch_at) =
            (self.job, self.generation, self.now, schedule.last_watch_at);
        let grace = not_found_grace(schedule, grace);
        let registered_until = schedule.rare().not_found.count(started, now, grace, last_watch_at);
        self.not_found = registered_until.map(|registered_until| {
            let error = job_error("not_found", message);
            EndNotFound { job, generation, registered_until, error, now, after: Vec::new() }
        });
    }

    /// Returns how the job ends, if it does.
    pub(super) fn ending(&self) -> Option<EndingKind> {
        let not_found = self.not_found.as_ref().map(|_| EndingKind::NotFound);
        self.ended.as_ref().map(|ended| ended.kind).or(not_found)
    }

    /// Repeats a poll that could not be made. It counts neither against the job nor against the provider, and not as a
    /// final poll.
    fn on_not_made(&mut self, schedule: &mut JobSchedule, message: &str) {
        self.not_before = Some(self.now.plus(NOT_MADE_PAUSE));
        self.repeats_request = schedule.watching == 0;
        let rare = schedule.rare();
        rare.last_error = Some(message.to_owned());
        if let Some(final_poll) = &mut rare.final_poll {
            final_poll.extend(self.now);
        }
    }

    /// Delays the next poll of a job after a failed one, longer after each failure.
    fn back_off(&mut self, schedule: &mut JobSchedule, min_interval: Duration) {
        let rare = schedule.rare();
        rare.failures = rare.failures.saturating_add(1);
        let wanted = self.now.plus(backoff(rare.failures));
        let repeat_at = rare.final_poll.map(|poll| poll.repeat_at(wanted, min_interval, self.now));
        self.backoff_until = Some(repeat_at.unwrap_or(wanted));
    }
}

/// Returns the time for which a job must be unknown to its provider before its watches end. `grace` is the provider's,
/// for a new job. The last observation does not decide: it is discarded when an ended job is registered again.
fn not_found_grace(schedule: &JobSchedule, grace: Duration) -> Duration {
    if schedule.had_status { GRACE_KNOWN.max(grace) } else { grace }
}

/// Describes a failed poll to the clients that watch the job. A wrong job id must not look like an outage.
fn last_error(schedule: &JobSchedule, meaning: &Interpretation, error: &str, grace: Duration) -> String {
    if !matches!(meaning, Interpretation::Failed { failure: PollFailure::NotFound, .. }) {
        return error.to_owned();
    }
    let grace = format_duration(not_found_grace(schedule, grace));
    format!(
        "the provider does not know the job, which counts as not found after {grace} of such answers: {error}"
    )
}

fn job_error(code: &str, message: &str) -> JobError {
    JobError { code: Some(code.to_owned()), message: Some(message.to_owned()) }
}

/// Returns the end of the watches that expired until `until` and whose final poll failed. If the provider has answered
/// it, or rejects the credential, it can be reached.
pub(super) fn give_up(scheduler: &Scheduler, job: JobNo, until: Timestamp, now: Timestamp) -> ExpireWatches {
    let found = scheduler.jobs.get(&job);
    let queue: Option<&ProviderQueue> = found.map(|found| &scheduler.queues[found.queue()]);
    let rare = found.and_then(|found| found.rare.as_ref());
    let answered = rare.and_then(|rare| rare.final_poll).is_some_and(|poll| poll.answered);
    let rejects = queue.is_some_and(|queue| {
        queue.budget.is_paused() && queue.last_error.as_ref().is_some_and(|error| error.answered)
    });
    let (code, reason) = if answered || rejects {
        // The job may have ended meanwhile: no poll has reported its status.
        (
            "deadline",
            "no poll succeeded after the watch expired, so it is not known whether the job has ended",
        )
    } else {
        ("provider_unreachable", "the provider could not be reached when the watch expired")
    };
    let of_job = rare.and_then(|rare| rare.last_error.as_deref());
    let of_provider = || queue?.last_error.as_ref().map(|error| error.text.as_str());
    let held_back = queue.is_some_and(|queue| queue.budget.is_held_back());
    match of_job.or_else(|| of_provider().filter(|_| held_back)) {
        Some(error) => expire(job, until, now, code, &format!("{reason}; last error: {error}")),
        None => expire(job, until, now, code, reason),
    }
}

/// Returns the end of the watches that expired until `until`.
fn expire(job: JobNo, until: Timestamp, now: Timestamp, code: &str, message: &str) -> ExpireWatches {
    ExpireWatches { job, until, error: job_error(code, message), now }
}

fn log_report(schedule: &JobSchedule, report: &JobReport, unknown_logged: &mut BTreeSet<String>) {
    let JobName { provider, job_id: job, .. } = &schedule.name;
    let job_status = report.observation.raw_status.as_deref();
    let provider_request = report.request_id.as_deref();
    let has_room = report.unknown_status && unknown_logged.len() < UNKNOWN_LOGGED_MAX;
    if has_room && unknown_logged.insert(job_status.unwrap_or_default().to_owned()) {
        tracing::warn!(
            provider,
            job,
            job_status,
            provider_request,
            "the definition does not contain this status: its jobs count as running; further polls with it are not logged"
        );
    } else {
        tracing::debug!(provider, job, job_status, provider_request, "polled");
    }
}

/// Logs a change of the health of a provider with one credential: that of the operator, or that of an app with this
/// name.
pub(super) fn log_health(
    change: Option<ProviderHealth>,
    (provider, credential): (&str, Option<&str>),
    error: &str,
) {
    match change {
        None | Some(ProviderHealth::Degraded | ProviderHealth::Unconfigured | ProviderHealth::Invalid) => {}
        Some(ProviderHealth::Down) => {
            tracing::warn!(
                provider,
                credential,
                error,
                "circuit breaker opened: the provider is down, or its base_url is wrong; one poll a second until one succeeds"
            );
        }
        Some(ProviderHealth::Paused) if credential.is_some() => {
            tracing::warn!(
                provider,
                credential,
                error,
                "credential of an app rejected: its polls are paused; one poll a minute until it is accepted"
            );
        }
        Some(ProviderHealth::Paused) => {
            let variable = credential_variable(provider);
            tracing::error!(
                provider,
                error,
                variable,
                "credential rejected: check the variable; one poll a minute until it is accepted"
            );
        }
        Some(ProviderHealth::Ok) => tracing::info!(provider, credential, "the provider has recovered"),
    }
}

#[cfg(test)]
mod tests;
