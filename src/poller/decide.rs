//! Decisions about the response to a poll: the change of the job's schedule, and the rows to write.
//!
//! [`decide`] does no I/O. The caller performs the writes of the [`Decision`] in the order of its fields.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;

use super::budget::{HealthChange, backoff};
use super::provider::PollResponse;
use super::scheduler::{JobSchedule, Scheduler};
use crate::domain::{EndingKind, Finding, JobError, JobName, JobNo, JobStatus, Timestamp, observe};
use crate::providers::{Interpretation, JobReport};
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
    /// Generation of the job that was polled.
    pub(super) generation: i64,
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
    let retry_after = response.retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    scheduler.record_start(job, started);
    let Some(schedule) = scheduler.jobs.get_mut(&job) else { return Decision::default() };
    let index = schedule.queue;
    let queue = &mut scheduler.queues[index];
    let budget = &mut queue.budget;
    let mut decision = Decision {
        generation: schedule.generation,
        not_before: retry_after.map(|after| now.plus(after)),
        ..Decision::default()
    };
    if !matches!(response.meaning, Interpretation::NotFound { .. })
        && let Some(rare) = &mut schedule.rare
    {
        rare.not_found = None;
    }
    let (change, error) = match response.meaning {
        Interpretation::Ok(report) => {
            let change = budget.ok(now);
            if let Some(rare) = &mut schedule.rare {
                (rare.failures, rare.last_error) = (0, None);
            }
            log_report(schedule, &report);
            decide_report(schedule, job, &report, response.raw, now, &mut decision);
            (change, None)
        }
        Interpretation::NotFound { message } => {
            let authorized = budget.authorized();
            let change = budget.error(job, now);
            back_off(schedule, job, &message, now, &mut decision);
            if schedule.watching > 0 && !budget.is_open() {
                decide_not_found(schedule, job, &message, queue.policy.not_found_grace, now, &mut decision);
            }
            (if authorized == HealthChange::None { change } else { authorized }, Some(message))
        }
        Interpretation::Unauthorized { code, message } => {
            schedule.rare().last_error = Some(format!("{code}: {message}"));
            decision.refresh = refresh_without_watches(schedule, job);
            (budget.unauthorized(now), Some(message))
        }
        Interpretation::RateLimited { message } => {
            decision.not_before = Some(budget.rate_limited(retry_after, now));
            schedule.rare().last_error = Some(message.clone());
            decision.refresh = refresh_without_watches(schedule, job);
            (HealthChange::None, Some(message))
        }
        Interpretation::Error { message } => {
            back_off(schedule, job, &message, now, &mut decision);
            (budget.error(job, now), Some(message))
        }
    };
    log_health(change, &queue.provider, error.as_deref().unwrap_or_default());
    if let Some(error) = error.filter(|error| !error.is_empty()) {
        // Every tenant can read the state of a provider, but not the job ids of another tenant.
        queue.last_error = Some((now, error.replace(&schedule.name.job_id, "…")));
    }
    if change == HealthChange::Recovered {
        scheduler.clear_backoffs(index, now);
    }
    decision
}

/// Decides whether the description of a job shows nothing new, a change, or its end.
fn decide_report(
    schedule: &mut JobSchedule,
    job: JobNo,
    report: &JobReport,
    raw: Option<Bytes>,
    now: Timestamp,
    decision: &mut Decision,
) {
    let raw = |wanted: bool| raw.filter(|_| wanted).map(|raw| Arc::from(raw.as_ref()));
    let observation = &report.observation;
    if schedule.watching == 0 {
        let ended = observation.status.ending().is_some();
        decision.refresh = Some(RefreshEnding { job, seen: ended.then(|| observation.clone()) });
        return;
    }
    match observe(&schedule.known, observation, now) {
        Finding::Nothing => {}
        Finding::Changed { progressed } => {
            let wanted = schedule.terms.is_some_and(|terms| terms.wants_progress);
            decision.observed = Some(RecordObservation {
                job,
                generation: schedule.generation,
                seen: observation.clone(),
                status_changed: schedule.known.status != observation.status,
                progressed,
                notify: wanted,
                raw: raw(wanted),
                after: None,
                observed_at: now,
            });
            schedule.known = schedule.known.after(observation, progressed, now);
        }
        Finding::Ended(kind) => {
            decision.ended = Some(EndJob {
                job,
                generation: schedule.generation,
                kind,
                seen: Some(observation.clone()),
                error: None,
                raw: raw(true),
                observed_at: now,
            });
            return;
        }
    }
    if let Some(cutoff) = schedule.cutoff() {
        let message = "the job had not ended when the watch expired";
        decision.expire = Some(expire(job, cutoff, "deadline", message, now));
    }
}

/// Ends a job that the provider does not know, if it has reported so often enough and for long enough.
fn decide_not_found(
    schedule: &mut JobSchedule,
    job: JobNo,
    message: &str,
    grace: Duration,
    now: Timestamp,
    decision: &mut Decision,
) {
    let known_before = schedule.known.status != JobStatus::Unknown;
    let grace = if known_before { GRACE_KNOWN.max(grace) } else { grace };
    let (polls, since) = schedule.rare().not_found.map_or((1, now), |(polls, since)| (polls + 1, since));
    schedule.rare().not_found = Some((polls, since));
    if polls >= GRACE_POLLS && now >= since.plus(grace) {
        decision.ended = Some(EndJob {
            job,
            generation: schedule.generation,
            kind: EndingKind::NotFound,
            seen: None,
            error: Some(JobError { code: Some("not_found".to_owned()), message: Some(message.to_owned()) }),
            raw: None,
            observed_at: now,
        });
    }
}

/// Delays the next poll of a job after a failed one, longer after each failure.
fn back_off(schedule: &mut JobSchedule, job: JobNo, error: &str, now: Timestamp, decision: &mut Decision) {
    decision.refresh = refresh_without_watches(schedule, job);
    let rare = schedule.rare();
    rare.failures = rare.failures.saturating_add(1);
    rare.last_error = Some(error.to_owned());
    let next = now.plus(backoff(rare.failures));
    decision.not_before = Some(decision.not_before.map_or(next, |requested| requested.max(next)));
}

/// Returns the write that ends a requested poll of a job for which no watch waits, when the poll failed.
fn refresh_without_watches(schedule: &JobSchedule, job: JobNo) -> Option<RefreshEnding> {
    (schedule.watching == 0).then_some(RefreshEnding { job, seen: None })
}

/// Returns the end of the watches that expired until `until`.
pub(super) fn expire(
    job: JobNo,
    until: Timestamp,
    code: &str,
    message: &str,
    now: Timestamp,
) -> ExpireWatches {
    ExpireWatches {
        job,
        until,
        error: JobError { code: Some(code.to_owned()), message: Some(message.to_owned()) },
        now,
    }
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

fn log_health(change: HealthChange, provider: &str, error: &str) {
    match change {
        HealthChange::None => {}
        HealthChange::Opened => {
            tracing::warn!(provider, error, "circuit breaker opened: one poll a second until one succeeds");
        }
        HealthChange::Paused => {
            tracing::error!(provider, error, "credential rejected: one poll a minute until it is accepted");
        }
        HealthChange::Recovered => tracing::info!(provider, "the provider has recovered"),
    }
}
