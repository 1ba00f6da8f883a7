//! Decisions about the response to a poll: the change of the job's schedule, and the rows to write.
//!
//! [`decide`] does no I/O. The caller performs the writes of the [`Decision`] in the order of its fields.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;

use super::budget::{FailedPoll, backoff};
use super::not_found::NotFoundStreak;
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
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

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
    job: JobNo,
    /// Generation of the job that was polled.
    pub(super) generation: i64,
    /// Whether the poll was requested for a job without a watch that waits, and could not be made.
    pub(super) repeats_request: bool,
    now: Timestamp,
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
    let PollResponse { meaning, retry_after, raw, http_status, no_answer } = response;
    let retry_after = retry_after.map(|after| after.min(RETRY_AFTER_MAX));
    let not_before = retry_after.map(|after| now.plus(after));
    let mut decision = Decision { job, now, not_before, ..Decision::default() };
    let Some(schedule) = scheduler.jobs.get_mut(&job) else { return decision };
    decision.generation = schedule.generation;
    if let Interpretation::Failed { failure: PollFailure::NotMade, message } = &meaning {
        decision.on_not_made(schedule, message);
        return decision;
    }
    let is_closed = matches!(
        meaning,
        Interpretation::Failed { failure: PollFailure::Closed | PollFailure::TokenRefused, .. }
    );
    if is_closed && !std::mem::replace(&mut schedule.rare().was_closed, true) {
        // A poll that may have arrived counts for the minimum interval.
        schedule.record_start(started);
        decision.on_not_made(schedule, meaning.message().unwrap_or_default());
        return decision;
    }
    if let Some(rare) = schedule.rare.as_mut().filter(|_| !is_closed) {
        rare.was_closed = false;
    }
    // Without an API key, no request was made: it is neither counted nor dated.
    if !matches!(meaning, Interpretation::Failed { failure: PollFailure::NoCredential, .. }) {
        schedule.record_start(started);
    }
    let index = schedule.queue();
    let queue = &mut scheduler.queues[index];
    let failed =
        FailedPoll { job, app: schedule.app, started, is_only_app: queue.turns.is_only_app(schedule.app) };
    let budget = &mut queue.budget;
    decision.on_response(schedule, &meaning, http_status.is_some(), queue.policy.not_found_grace);
    let change = match &meaning {
        Interpretation::Ok(report) => {
            if let Some(rare) = &mut schedule.rare {
                (rare.failures, rare.last_error) = (0, None);
            }
            queue.failure_logged = false;
            schedule.had_status = true;
            log_report(schedule, report, &mut queue.unknown_logged);
            decision.on_report(schedule, report, raw);
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
            let change = budget.unauthorized(started, now);
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
        // It has returned above.
        Interpretation::Failed { failure: PollFailure::NotMade, .. } => None,
    };
    if let (Some(until), Some(rare)) = (decision.not_before, &mut schedule.rare)
        && let Some(final_poll) = &mut rare.final_poll
    {
        final_poll.wait_until(until);
    }
    let error = meaning.message().unwrap_or_default();
    log_health(change, &queue.provider, error);
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

fn log_health(change: Option<ProviderHealth>, provider: &str, error: &str) {
    match change {
        None | Some(ProviderHealth::Degraded | ProviderHealth::Unconfigured | ProviderHealth::Invalid) => {}
        Some(ProviderHealth::Down) => {
            tracing::warn!(
                provider,
                error,
                "circuit breaker opened: the provider is down, or its base_url is wrong; one poll a second until one succeeds"
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
        Some(ProviderHealth::Ok) => tracing::info!(provider, "the provider has recovered"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        AppNo, AppsApart, JobSnapshot, Known, Limits, Observation, PollPolicy, PollerMessage, Rate, Terms,
    };
    use crate::poller::scheduler::{Action, FinishedPoll};

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    /// A scheduler with jobs 1 to `count`, whose watches expire at 20.
    fn scheduler(count: i64) -> Scheduler {
        let policy =
            PollPolicy { first: SECOND, min_interval: SECOND, max_interval: SECOND, ..PollPolicy::default() };
        let limits = Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 100 };
        let mut scheduler =
            Scheduler::new(vec![ProviderQueue::new("muvi".to_owned(), policy, limits, at(0))], at(0));
        for job in 1..=count {
            let terms =
                Terms { expires_at: at(20), poll_interval: None, expected_at: None, wants_progress: false };
            let snapshot = JobSnapshot {
                no: JobNo(job),
                name: JobName {
                    provider: "muvi".to_owned(),
                    account: "default".to_owned(),
                    job_id: format!("job_{job}"),
                    params: "{}".to_owned(),
                },
                app: AppNo(1),
                other_app: None,
                generation: 0,
                known: Known::new(&Observation::default(), &[], at(0)),
                apart: AppsApart::NONE,
                had_status: false,
                registered_at: at(0),
                watching: 1,
                terms: Some(terms),
                poll_requested: false,
                traced: None,
            };
            scheduler.apply(PollerMessage::Watch(Box::new(snapshot)), at(0));
        }
        scheduler
    }

    fn failed(failure: PollFailure, http_status: Option<u16>) -> PollResponse {
        let meaning = Interpretation::Failed { failure, message: "why".to_owned() };
        PollResponse { meaning, http_status, retry_after: None, no_answer: None, raw: None }
    }

    /// Ends the poll of a job with a failure.
    fn end(scheduler: &mut Scheduler, job: i64, response: PollResponse, second: i64) {
        end_at(scheduler, job, response, at(second));
    }

    fn end_at(scheduler: &mut Scheduler, job: i64, response: PollResponse, now: Timestamp) {
        let decision = decide(scheduler, JobNo(job), response, now, now);
        let Decision { generation, repeats_request, not_before, backoff_until, .. } = decision;
        let (job, ended) = (JobNo(job), false);
        let poll = FinishedPoll { job, generation, ended, repeats_request, not_before, backoff_until };
        scheduler.finish_poll(poll, now);
    }

    #[test]
    fn a_poll_that_was_not_made_counts_for_nothing() {
        let mut scheduler = scheduler(10);
        for second in 1..20 {
            assert_eq!(scheduler.take_due(at(second)).len(), 10, "repeated after a second");
            for job in 1..=10 {
                end(&mut scheduler, job, failed(PollFailure::NotMade, None), second);
            }
        }
        let queue = &scheduler.queues[0];
        assert!(!queue.budget.is_held_back() && queue.last_error.is_none());
        assert_eq!(queue.budget.health(at(20)).0, ProviderHealth::Ok);
        let stats = scheduler.stats(JobNo(1), at(20)).expect("scheduled");
        assert_eq!((stats.polls, stats.last_error.as_deref()), (0, Some("why")));
        // The minute of the final poll begins when the poll can be made.
        for second in 20..100 {
            let due = scheduler.take_due(at(second));
            assert!(due.len() == 10 && !due.iter().any(|one| matches!(one, Action::GiveUp(..))), "{due:?}");
            for job in 1..=10 {
                end(&mut scheduler, job, failed(PollFailure::NotMade, None), second);
            }
        }
    }

    #[test]
    fn a_good_answer_without_news_is_no_failure_and_changes_nothing() {
        let not_yet = || PollResponse {
            meaning: Interpretation::NotYet,
            http_status: Some(202),
            retry_after: None,
            no_answer: None,
            raw: None,
        };
        let mut scheduler = scheduler(1);
        for second in 1..10 {
            assert_eq!(scheduler.take_due(at(second)), [Action::Poll(JobNo(1))], "by the schedule");
            // A failure before it is forgotten.
            if second == 4 {
                end(&mut scheduler, 1, failed(PollFailure::Error, Some(500)), second);
                continue;
            }
            let decision = decide(&mut scheduler, JobNo(1), not_yet(), at(second), at(second));
            assert!(decision.observed.is_none() && decision.ended.is_none() && decision.expire.is_none());
            assert!(decision.refresh.is_none() && decision.first_error.is_none());
            assert_eq!((decision.not_before, decision.backoff_until), (None, None));
            end(&mut scheduler, 1, not_yet(), second);
            let stats = scheduler.stats(JobNo(1), at(second)).expect("scheduled");
            assert_eq!(stats.last_error, None, "at {second}");
            assert_eq!(scheduler.queues[0].budget.health(at(second)).0, ProviderHealth::Ok);
        }
        assert!(!scheduler.jobs[&JobNo(1)].had_status);
        // The final poll ends the watch.
        assert_eq!(scheduler.take_due(at(20)), [Action::Poll(JobNo(1))]);
        let decision = decide(&mut scheduler, JobNo(1), not_yet(), at(20), at(20));
        assert_eq!(decision.expire.and_then(|expire| expire.error.code).as_deref(), Some("deadline"));
    }

    #[test]
    fn a_poll_on_a_closed_connection_is_repeated_within_the_limits() {
        let mut scheduler = scheduler(1);
        let interval: i64 = 5;
        scheduler.queues[0].policy.min_interval = Duration::from_secs(5);
        assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
        end(&mut scheduler, 1, failed(PollFailure::Closed, None), 1);
        assert!(scheduler.take_due(at(interval)).is_empty(), "the poll may have arrived");
        assert_eq!(scheduler.take_due(at(1 + interval)), [Action::Poll(JobNo(1))]);
        assert_eq!(scheduler.queues[0].budget.health(at(2)).0, ProviderHealth::Ok);
    }

    #[test]
    fn a_job_whose_polls_are_always_cut_off_backs_off_and_expires() {
        // Its watch expires at 20 s.
        let mut scheduler = scheduler(1);
        let (mut polls, mut given_up_at) = (0, None);
        for second in 1..=90 {
            for action in scheduler.take_due(at(second)) {
                let Action::Poll(_) = action else {
                    given_up_at = Some(second);
                    continue;
                };
                polls += 1;
                end(&mut scheduler, 1, failed(PollFailure::Closed, None), second);
            }
        }
        assert!(
            (5..=20).contains(&polls) && given_up_at.is_some_and(|at| at <= 85),
            "{polls} {given_up_at:?}"
        );
    }

    #[test]
    fn a_requested_poll_that_was_not_made_is_repeated() {
        let mut scheduler = scheduler(1);
        let ended = PollerMessage::WatchersChanged { job: JobNo(1), ended: 1, terms: None };
        assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
        scheduler.jobs.get_mut(&JobNo(1)).expect("scheduled").poll_again = true;
        scheduler.apply(ended, at(1));
        end(&mut scheduler, 1, failed(PollFailure::Error, Some(500)), 1);
        for second in [2, 3, 4] {
            assert_eq!(scheduler.take_due(at(second)), [Action::Poll(JobNo(1))], "at {second}");
            end(&mut scheduler, 1, failed(PollFailure::NotMade, None), second);
        }
        // A poll that was made ends the request, although it failed.
        assert_eq!(scheduler.take_due(at(5)), [Action::Poll(JobNo(1))]);
        end(&mut scheduler, 1, failed(PollFailure::Error, Some(500)), 5);
        assert!(scheduler.jobs.is_empty());
    }

    #[test]
    fn failed_jobs_of_one_app_do_not_keep_an_unknown_job_of_another() {
        let mut scheduler = scheduler(21);
        scheduler.queues[0].policy.not_found_grace = Duration::from_secs(2);
        scheduler.jobs.get_mut(&JobNo(21)).expect("scheduled").app = AppNo(2);
        scheduler.queues[0].turns.add_job(AppNo(2));
        for second in 1..=4 {
            for job in 1..=20 {
                decide(
                    &mut scheduler,
                    JobNo(job),
                    failed(PollFailure::Error, Some(500)),
                    at(second),
                    at(second),
                );
            }
            assert!(!scheduler.queues[0].budget.is_open());
            let response = failed(PollFailure::NotFound, Some(404));
            let decision = decide(&mut scheduler, JobNo(21), response, at(second), at(second));
            let expected = (second >= 3).then_some(EndingKind::NotFound);
            assert_eq!(decision.ending(), expected, "at {second}");
            if expected.is_some() {
                return;
            }
        }
    }

    #[test]
    fn a_missing_api_key_is_no_poll_and_pauses_the_provider() {
        let mut scheduler = scheduler(1);
        assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
        end(&mut scheduler, 1, failed(PollFailure::NoCredential, None), 1);
        let stats = scheduler.stats(JobNo(1), at(2)).expect("scheduled");
        assert_eq!((stats.polls, stats.last_polled_at), (0, None));
        assert_eq!(stats.last_error.as_deref(), Some("why"));
        assert_eq!(scheduler.take_due(at(10)), [], "one attempt a minute");
        assert_eq!(scheduler.queues[0].budget.health(at(10)).0, ProviderHealth::Paused);
    }

    #[test]
    fn an_unknown_job_whose_watch_expires_early_ends_as_not_found() {
        // Which of the two takes longer, the first answer or the last, decides nothing.
        for (first, last) in [(400, 1), (1, 400)] {
            let mut scheduler = scheduler(1);
            scheduler.queues[0].policy.not_found_grace = Duration::from_secs(60);
            // The first poll is the final one.
            let (mut now, mut polls) = (at(20), Vec::new());
            let ended = loop {
                let [Action::Poll(job)] = scheduler.take_due(now)[..] else { panic!("given up at {now}") };
                polls.push(now.since(at(20)).as_secs());
                let took = if polls.len() == 1 { first } else { last };
                let answered = now.plus(Duration::from_millis(took));
                let response = failed(PollFailure::NotFound, Some(404));
                let decision = decide(&mut scheduler, job, response, now, answered);
                let Decision { generation, repeats_request, not_before, backoff_until, .. } = decision;
                if let Some(kind) = decision.ending() {
                    break kind;
                }
                let ended = false;
                let poll =
                    FinishedPoll { job, generation, ended, repeats_request, not_before, backoff_until };
                scheduler.finish_poll(poll, answered);
                now = scheduler.next_due(answered).expect("scheduled").max(answered);
            };
            assert_eq!(ended, EndingKind::NotFound);
            assert_eq!(polls.last(), Some(&60), "{polls:?}");
        }
    }

    #[test]
    fn the_error_of_an_unknown_job_names_the_grace() {
        let mut scheduler = scheduler(1);
        scheduler.queues[0].policy.not_found_grace = Duration::from_secs(60);
        assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(1))]);
        end(&mut scheduler, 1, failed(PollFailure::NotFound, Some(404)), 1);
        let stats = scheduler.stats(JobNo(1), at(2)).expect("scheduled");
        let says =
            "the provider does not know the job, which counts as not found after 1m of such answers: why";
        assert_eq!((stats.polls, stats.last_error.as_deref()), (1, Some(says)));
    }

    #[test]
    fn a_status_of_an_earlier_generation_lengthens_the_grace() {
        // The new generation has no observation.
        let mut scheduler = scheduler(1);
        let job = scheduler.jobs.get_mut(&JobNo(1)).expect("scheduled");
        assert_eq!(not_found_grace(job, Duration::from_secs(60)), Duration::from_secs(60));
        job.had_status = true;
        assert_eq!(job.known, Known::new(&Observation::default(), &[], at(0)));
        assert_eq!(not_found_grace(job, Duration::from_secs(60)), GRACE_KNOWN);
        assert_eq!(not_found_grace(job, 2 * GRACE_KNOWN), 2 * GRACE_KNOWN);
        let response = failed(PollFailure::NotFound, Some(404));
        end(&mut scheduler, 1, response, 1);
        let error = scheduler.stats(JobNo(1), at(2)).and_then(|stats| stats.last_error);
        assert!(error.is_some_and(|error| error.contains("counts as not found after 15m")));
    }

    #[test]
    fn the_first_failed_poll_since_a_success_is_logged() {
        let mut scheduler = scheduler(10);
        let not_found = || failed(PollFailure::NotFound, Some(404));
        let ok = || {
            let report =
                JobReport { observation: Observation::default(), unknown_status: false, request_id: None };
            let meaning = Interpretation::Ok(Box::new(report));
            PollResponse { meaning, http_status: Some(200), retry_after: None, no_answer: None, raw: None }
        };
        let mut logs = |job: i64, second: i64, response: PollResponse| {
            let decision = decide(&mut scheduler, JobNo(job), response, at(second), at(second));
            decision.first_error.is_some()
        };
        // A wrong base URL.
        assert!(logs(1, 1, not_found()));
        assert!(!logs(2, 1, not_found()) && !logs(1, 300, not_found()));
        // A provider that answers, but not every poll.
        assert!(!logs(2, 301, ok()) && !logs(1, 302, not_found()) && !logs(1, 303, not_found()));
        assert!(logs(1, 361, not_found()) && !logs(1, 362, not_found()));
        // A rejected credential has its own line.
        let rejected = failed(PollFailure::Unauthorized { code: "x".to_owned() }, Some(401));
        assert!(!logs(2, 370, ok()) && !logs(1, 500, rejected));
    }

    #[test]
    fn every_tenant_sees_the_status_and_the_code_of_an_error() {
        let account = |code: &str| PollFailure::Unauthorized { code: code.to_owned() };
        let table = [
            (account("UNAUTHORIZED"), Some(401), None, "HTTP 401 UNAUTHORIZED"),
            (account("no job_1 for jane@example.com"), Some(403), None, "HTTP 403"),
            (account("JOB_1.gone"), Some(403), None, "HTTP 403"),
            (PollFailure::NoCredential, None, None, "no_api_key"),
            (PollFailure::NotFound, Some(404), None, "HTTP 404 not_found"),
            (PollFailure::RateLimited, Some(429), None, "HTTP 429"),
            (PollFailure::Error, Some(502), None, "HTTP 502"),
            (PollFailure::Error, Some(200), None, "HTTP 200, but the answer cannot be read"),
            (PollFailure::Error, None, Some("timeout"), "no answer: timeout"),
            (PollFailure::Error, None, None, "no answer"),
        ];
        for (failure, status, no_answer, expected) in table {
            assert_eq!(public_error(&failure, status, no_answer, "job_1"), expected);
        }
    }

    #[test]
    fn unreachable_means_that_no_final_poll_was_answered() {
        let table = [
            (PollFailure::Error, None, "provider_unreachable"),
            (PollFailure::Error, Some(500), "deadline"),
            (PollFailure::NotFound, Some(404), "deadline"),
        ];
        for (failure, status, expected) in table {
            let mut scheduler = scheduler(1);
            assert_eq!(scheduler.take_due(at(20)), [Action::Poll(JobNo(1))]);
            end(&mut scheduler, 1, failed(failure, status), 20);
            let expired = give_up(&scheduler, JobNo(1), at(20), at(80));
            assert_eq!(expired.error.code.as_deref(), Some(expected));
            let message = expired.error.message.unwrap_or_default();
            assert!(message.contains("; last error: ") && message.ends_with("why"), "{message}");
            assert!(!message.contains("had not ended"), "{message}");
        }
    }

    #[test]
    fn a_repeated_final_poll_waits_for_retry_after_up_to_an_hour() {
        let limited = |seconds| PollResponse {
            retry_after: Some(Duration::from_secs(seconds)),
            ..failed(PollFailure::Error, Some(503))
        };
        let polls = |answers: &[u64]| {
            let mut scheduler = scheduler(1);
            let (mut now, mut polls) = (at(20), Vec::new());
            loop {
                match scheduler.take_due(now)[..] {
                    [Action::Poll(_)] => {
                        let answer = answers.get(polls.len()).copied().unwrap_or_default();
                        polls.push(now.since(at(20)).as_secs());
                        end_at(&mut scheduler, 1, limited(answer), now);
                    }
                    [Action::GiveUp(_, cutoff)] => {
                        assert_eq!(cutoff, at(20), "the first final poll is the cutoff");
                        return (polls, now.since(at(20)).as_secs());
                    }
                    [] => now = scheduler.next_due(now).expect("scheduled"),
                    ref actions => panic!("{actions:?}"),
                }
            }
        };
        assert_eq!(polls(&[120]).0[..2], [0, 120]);
        assert_eq!(polls(&[1_800, 1_700, 1_000]), (vec![0, 1_800, 3_500], 3_600));
    }
}
