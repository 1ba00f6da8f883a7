//! Decisions about the response to a poll: the change of the job's schedule, and the rows to write.
//!
//! [`decide`] does no I/O. The caller performs the writes of the [`Decision`] in the order of its fields.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;

use super::budget::backoff;
use super::provider::PollResponse;
use super::scheduler::{JobSchedule, Scheduler};
use crate::domain::{
    EndingKind, Finding, JobError, JobName, JobNo, JobStatus, Observation, ProviderHealth, Timestamp,
    credential_variable, observe,
};
use crate::providers::{Interpretation, JobReport, PollFailure};
use crate::store::{EndJob, ExpireWatches, RecordObservation, RefreshEnding};

/// Longest delay of a job's next poll that a provider's `Retry-After` can cause.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Shortest grace before a `not_found` ends the watches of a job that the provider knew before.
const GRACE_KNOWN: Duration = Duration::from_secs(15 * 60);

/// Number of `not_found` outcomes in a row that are required as well.
const GRACE_POLLS: u32 = 3;

/// Writes that follow from a poll.
#[derive(Default)]
pub(super) struct Decision {
    pub(super) observed: Option<RecordObservation>,
    pub(super) refresh: Option<RefreshEnding>,
    pub(super) expire: Option<ExpireWatches>,
    pub(super) ended: Option<EndJob>,
    job: JobNo,
    /// Generation of the job that was polled.
    pub(super) generation: i64,
    now: Timestamp,
    /// No next poll before this time.
    pub(super) not_before: Option<Timestamp>,
}

/// Decides what a response means for a job, and updates the schedule of the job and the budget.
pub(super) fn decide(
    scheduler: &mut Scheduler,
    job: JobNo,
    response: PollResponse,
    started: Timestamp,
    now: Timestamp,
) -> Decision {
    let PollResponse { meaning, retry_after, raw, .. } = response;
    let retry_after = retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    let not_before = retry_after.map(|after| now.plus(after));
    let mut decision = Decision { job, now, not_before, ..Decision::default() };
    let Some(schedule) = scheduler.jobs.get_mut(&job) else { return decision };
    schedule.record_start(started);
    decision.generation = schedule.generation;
    let index = schedule.queue;
    let queue = &mut scheduler.queues[index];
    let budget = &mut queue.budget;
    if let Some(error) = meaning.message() {
        schedule.rare().last_error = Some(error.to_owned());
        // A requested poll of a job for which no watch waits ends, although it failed.
        decision.refresh = (schedule.watching == 0).then_some(RefreshEnding { job, seen: None });
    }
    if let Some(rare) = &mut schedule.rare
        && !matches!(meaning, Interpretation::Failed { failure: PollFailure::NotFound, .. })
    {
        rare.not_found = None;
    }
    let change = match &meaning {
        Interpretation::Ok(report) => {
            if let Some(rare) = &mut schedule.rare {
                (rare.failures, rare.last_error) = (0, None);
            }
            log_report(schedule, report);
            decision.on_report(schedule, report, raw);
            budget.ok(now)
        }
        Interpretation::Failed { failure: PollFailure::NotFound, message } => {
            let authorized = budget.authorized();
            let change = authorized.or(budget.error(job, now));
            decision.back_off(schedule);
            if schedule.watching > 0 && !budget.is_open() {
                decision.on_not_found(schedule, message, queue.policy.not_found_grace);
            }
            change
        }
        Interpretation::Failed { failure: PollFailure::Unauthorized { .. }, .. } => budget.unauthorized(now),
        Interpretation::Failed { failure: PollFailure::RateLimited, .. } => {
            decision.not_before = Some(budget.rate_limited(retry_after, now));
            None
        }
        Interpretation::Failed { failure: PollFailure::Error, .. } => {
            decision.back_off(schedule);
            budget.error(job, now)
        }
    };
    let error = meaning.message().unwrap_or_default();
    log_health(change, &queue.provider, error);
    if !error.is_empty() {
        // Every tenant can read the state of a provider, but not the job ids of another tenant.
        queue.last_error = Some((now, error.replace(&schedule.name.job_id, "…")));
    }
    if change == Some(ProviderHealth::Ok) {
        scheduler.clear_backoffs(index, now);
    }
    decision
}

impl Decision {
    /// Decides whether the description of a job shows nothing new, a change, or its end.
    fn on_report(&mut self, schedule: &mut JobSchedule, report: &JobReport, raw: Option<Bytes>) {
        let raw = |wanted: bool| raw.filter(|_| wanted).map(|raw| Arc::from(raw.as_ref()));
        let (job, generation, now, seen) = (self.job, self.generation, self.now, &report.observation);
        if schedule.watching == 0 {
            self.refresh = Some(RefreshEnding { job, seen: seen.status.ending().map(|_| seen.clone()) });
            return;
        }
        match observe(&schedule.known, seen, now) {
            Finding::Nothing => {}
            Finding::Changed { progressed } => {
                let notify = schedule.terms.is_some_and(|terms| terms.wants_progress);
                self.observed = Some(RecordObservation {
                    job,
                    generation,
                    seen: seen.clone(),
                    status_changed: schedule.known.status != seen.status,
                    progressed,
                    notify,
                    raw: raw(notify),
                    after: None,
                    observed_at: now,
                });
                schedule.known = schedule.known.after(seen, progressed, now);
            }
            Finding::Ended(kind) => {
                self.end(kind, Some(seen.clone()), None, raw(true));
                return;
            }
        }
        if let Some(cutoff) = schedule.cutoff() {
            let message = "the job had not ended when the watch expired";
            self.expire = Some(expire(job, cutoff, now, "deadline", message));
        }
    }

    /// Ends a job that the provider does not know, if it has reported so often enough and for long enough.
    fn on_not_found(&mut self, schedule: &mut JobSchedule, message: &str, grace: Duration) {
        let known_before = schedule.known.status != JobStatus::Unknown;
        let grace = if known_before { GRACE_KNOWN.max(grace) } else { grace };
        let not_found = &mut schedule.rare().not_found;
        let (polls, since) = not_found.map_or((1, self.now), |(polls, since)| (polls + 1, since));
        *not_found = Some((polls, since));
        if polls >= GRACE_POLLS && self.now >= since.plus(grace) {
            self.end(EndingKind::NotFound, None, Some(job_error("not_found", message)), None);
        }
    }

    fn end(
        &mut self,
        kind: EndingKind,
        seen: Option<Observation>,
        error: Option<JobError>,
        raw: Option<Arc<[u8]>>,
    ) {
        let (job, generation, observed_at) = (self.job, self.generation, self.now);
        self.ended = Some(EndJob { job, generation, kind, seen, error, raw, observed_at });
    }

    /// Delays the next poll of a job after a failed one, longer after each failure.
    fn back_off(&mut self, schedule: &mut JobSchedule) {
        let rare = schedule.rare();
        rare.failures = rare.failures.saturating_add(1);
        self.not_before = self.not_before.max(Some(self.now.plus(backoff(rare.failures))));
    }
}

fn job_error(code: &str, message: &str) -> JobError {
    JobError { code: Some(code.to_owned()), message: Some(message.to_owned()) }
}

/// Returns the end of the watches that expired until `until`.
pub fn expire(job: JobNo, until: Timestamp, now: Timestamp, code: &str, message: &str) -> ExpireWatches {
    ExpireWatches { job, until, error: job_error(code, message), now }
}

fn log_report(schedule: &JobSchedule, report: &JobReport) {
    let JobName { provider, job_id: job, .. } = &schedule.name;
    let job_status = report.observation.raw_status.as_deref();
    let provider_request = report.request_id.as_deref();
    let changed = || observe(&schedule.known, &report.observation, Timestamp::default()) != Finding::Nothing;
    if report.unknown_status && changed() {
        tracing::warn!(
            provider,
            job,
            job_status,
            provider_request,
            "the definition does not contain this status: the job counts as running"
        );
    } else {
        tracing::debug!(provider, job, job_status, provider_request, "polled");
    }
}

fn log_health(change: Option<ProviderHealth>, provider: &str, error: &str) {
    match change {
        None | Some(ProviderHealth::Degraded) => {}
        Some(ProviderHealth::Down) => {
            tracing::warn!(provider, error, "circuit breaker opened: one poll a second until one succeeds");
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
        Some(ProviderHealth::Ok) => tracing::info!(provider, "the provider has recovered"),
    }
}
