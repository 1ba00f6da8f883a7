//! Decides what the answer to the request for a result means for its job. Like `decide`, it does no I/O.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;

use super::decide::{Decision, RETRY_AFTER_MAX, log_health};
use super::pending_result::{
    NO_SPACE, NO_SPACE_PAUSE, PendingResult, RETRIES_OF_DETAILS, RETRY_DELAYS, has_ended, without_result,
};
use super::provider::PollResponse;
use super::scheduler::{JobSchedule, Scheduler};
use crate::domain::{JobName, JobNo, JobStatus, Observation, ProviderHealth, Timestamp};
use crate::providers::{Interpretation, PollFailure};
use crate::store::{EndJob, RefreshEnding};

/// Pause after a request that could not be made because this process or its machine lacks something.
const NOT_MADE_PAUSE: Duration = Duration::from_secs(1);

/// HTTP statuses that the same request gets again.
const LASTING: [u16; 2] = [403, 410];

/// What is known of the request besides its answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ResultRequest {
    /// Whether it had the credential, so that the answer says something about the provider.
    pub(super) has_credential: bool,
    /// Whether the answer can be passed on.
    pub(super) is_json: bool,
    /// Start of the request.
    pub(super) started: Timestamp,
}

/// Decides what the answer to the next result of a job means, and updates the schedule of the job and the budget.
pub(super) fn decide_result(
    scheduler: &mut Scheduler,
    job: JobNo,
    mut pending: Box<PendingResult>,
    response: PollResponse,
    request: ResultRequest,
    now: Timestamp,
) -> Decision {
    let PollResponse { meaning, retry_after, raw, http_status, redirects, .. } = response;
    let retry_after = retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    let mut decision = Decision::new(job, pending.generation, now);
    let Some(schedule) = scheduler.jobs.get_mut(&job) else { return decision };
    if !is_awaited(schedule, &pending) {
        decision.generation = schedule.generation;
        return decision;
    }
    let index = schedule.queue();
    let queue = &mut scheduler.queues[index];
    queue.budget.charge(redirects, now);
    let (failure, message) = match meaning {
        Interpretation::Ok(report) => {
            if !pending.accept(report, raw.filter(|_| request.is_json)) {
                pending.next_at = now.plus(NO_SPACE_PAUSE);
                return decision.wait_or_end(schedule, pending, NO_SPACE.to_owned());
            }
            pending.next_at = now;
            schedule.rare().last_error = None;
            if pending.next().is_none() {
                decision.end_with_result(*pending);
            } else {
                schedule.rare().pending_result = Some(pending);
            }
            let change = request.has_credential.then(|| queue.budget.ok(now)).flatten();
            log_health(change, (&queue.provider, queue.credential.as_deref()), "");
            if change == Some(ProviderHealth::Ok) {
                scheduler.clear_backoffs(index, now);
            }
            return decision;
        }
        Interpretation::NotYet => (PollFailure::Error, "the result is not ready yet".to_owned()),
        Interpretation::Failed { failure, message } => (failure, message),
    };
    if failure == PollFailure::NotMade {
        pending.next_at = now.plus(NOT_MADE_PAUSE);
    } else {
        if failure == PollFailure::RateLimited && request.has_credential {
            queue.budget.rate_limited(retry_after, request.started, now);
        }
        let is_completed = pending.report.observation.status == JobStatus::Completed;
        let retries = if is_completed { RETRY_DELAYS.len() } else { RETRIES_OF_DETAILS };
        let delay = RETRY_DELAYS[..retries].get(pending.failures).copied();
        pending.failures += 1;
        let is_lasting =
            failure == PollFailure::Refused || http_status.is_some_and(|status| LASTING.contains(&status));
        let wait = delay.filter(|_| !is_lasting).map(|delay| delay.max(retry_after.unwrap_or_default()));
        pending.next_at = wait.map_or(Timestamp::MAX, |wait| now.plus(wait));
    }
    decision.wait_or_end(schedule, pending, message)
}

/// Ends the job whose results could not be read in time. Returns `None` if no results of the job are pending any more.
pub(super) fn give_up_result(scheduler: &mut Scheduler, job: JobNo, now: Timestamp) -> Option<Decision> {
    let schedule = scheduler.jobs.get_mut(&job)?;
    let pending = schedule.rare.as_mut()?.pending_result.take()?;
    let mut decision = Decision::new(job, pending.generation, now);
    if is_awaited(schedule, &pending) {
        schedule.rare().is_ending = true;
        decision.end_without_result(*pending, &schedule.name);
    }
    Some(decision)
}

/// Returns whether anything still waits for the results: a watch, or the refresh of an ending.
fn is_awaited(schedule: &JobSchedule, pending: &PendingResult) -> bool {
    schedule.generation == pending.generation && (schedule.watching > 0 || pending.is_refresh)
}

impl Decision {
    /// Keeps the results pending until their next request, or ends the job if there is none in time.
    fn wait_or_end(
        mut self,
        schedule: &mut JobSchedule,
        mut pending: Box<PendingResult>,
        message: String,
    ) -> Self {
        schedule.rare().last_error =
            Some(format!("{}; its result: {message}", has_ended(&pending.report.observation)));
        pending.last_error = Some(message);
        if pending.next_at >= pending.give_up_at {
            self.end_without_result(*pending, &schedule.name);
        } else {
            schedule.rare().pending_result = Some(pending);
        }
        self
    }

    fn end_with_result(&mut self, pending: PendingResult) {
        let PendingResult { report, raw, is_refresh, .. } = pending;
        if is_refresh {
            self.refresh_with(Some(report.observation));
        } else {
            self.end(report.observation, raw);
        }
    }

    fn end_without_result(&mut self, pending: PendingResult, name: &JobName) {
        let PendingResult { report, raw, is_refresh, last_error, .. } = pending;
        if is_refresh {
            return self.refresh_with(None);
        }
        let why = last_error
            .unwrap_or_else(|| "the limits of the provider permitted no request in time".to_owned());
        let JobName { provider, job_id: job, .. } = name;
        tracing::warn!(
            provider,
            job,
            error = why,
            "the job has ended, and its result could not be requested"
        );
        self.end(without_result(*report, &why), raw);
    }

    fn refresh_with(&mut self, seen: Option<Observation>) {
        self.refresh = Some(RefreshEnding { job: self.job, seen, has_status: true });
    }

    fn end(&mut self, seen: Observation, raw: Option<Bytes>) {
        let Some(kind) = seen.status.ending() else { return };
        let raw = raw.map(|raw| Arc::from(raw.as_ref()));
        let (job, generation, observed_at) = (self.job, self.generation, self.now);
        self.ended = Some(EndJob { job, generation, kind, seen, raw, observed_at });
    }
}
