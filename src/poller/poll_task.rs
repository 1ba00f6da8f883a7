//! One poll, from the request to the commit of its result.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::decide::{Decision, decide};
use super::provider::PollResponse;
use super::scheduler::FinishedPoll;
use super::{AFTER_BUG, Poller};
use crate::domain::{JobName, JobNo, Timestamp};
use crate::providers::Interpretation;
use crate::store::NotifyWatches;
use crate::telemetry::traces::{Context, Span, SpanKind};

/// A poll in flight. However it ends, by a panic for example, the job is scheduled again.
pub(super) struct PollTask {
    pub(super) poller: Arc<Poller>,
    pub(super) job: JobNo,
    pub(super) started: Timestamp,
    /// Whether the next poll is scheduled.
    pub(super) finished: bool,
    pub(super) _alive: mpsc::Sender<()>,
}

impl PollTask {
    /// Polls the job, writes the result, and schedules the next poll.
    pub(super) async fn run(&mut self) {
        let poller = Arc::clone(&self.poller);
        let found = poller.scheduler().jobs.get(&self.job).map(|schedule| {
            let trace = schedule.trace.as_deref().copied();
            (schedule.queue, schedule.name.clone(), trace)
        });
        let Some((queue, name, trace)) = found else { return };
        let Some(provider) = poller.providers.get(queue) else { return };
        let stopwatch = poller.clock.stopwatch();
        let response = provider.poll(&poller.egress, &poller.clock, &name).await;
        let (now, took) = (poller.clock.now(), stopwatch.elapsed());
        if let Some(metrics) = poller.metrics.get(queue) {
            metrics.polled(response.meaning.outcome(), took);
            if matches!(&response.meaning, Interpretation::Ok(report) if report.unknown_status) {
                metrics.unknown_status();
            }
        }
        let span = trace.map(|trace| poll_span(trace, self.started, took, &name, &response));
        let span_id = span.as_ref().map(Span::id);
        poller.store.tracer().record(|| span);
        let mut decision = {
            let mut scheduler = poller.scheduler();
            poller.merge_messages(&mut scheduler, now);
            decide(&mut scheduler, self.job, response, self.started, now)
        };
        let stopwatch = poller.clock.stopwatch();
        let kind = decision.ended.as_ref().map(|ended| ended.kind);
        let ended = poller.write_decision(&mut decision).await;
        poller.store.tracer().record(|| {
            let span = trace?.span("end", SpanKind::Internal, now, stopwatch.elapsed()).below(span_id?);
            Some(span.about(b"").with("ringback.status", kind.filter(|_| ended)?.as_str()))
        });
        self.finish(decision.generation, ended, decision.not_before);
    }

    fn finish(&mut self, generation: i64, ended: bool, not_before: Option<Timestamp>) {
        self.finished = true;
        let now = self.poller.clock.now();
        let mut scheduler = self.poller.scheduler();
        self.poller.merge_messages(&mut scheduler, now);
        scheduler.finish_poll(FinishedPoll { job: self.job, generation, ended, not_before }, now);
        drop(scheduler);
        self.poller.woken.notify_one();
    }
}

impl Drop for PollTask {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let generation = self.poller.scheduler().jobs.get(&self.job).map(|schedule| schedule.generation);
        if let Some(generation) = generation {
            self.finish(generation, false, Some(self.started.plus(AFTER_BUG)));
        }
    }
}

impl Poller {
    /// Performs the writes of a decision as soon as the database accepts them. Returns whether the job has ended.
    async fn write_decision(&self, decision: &mut Decision) -> bool {
        if let Some(mut observed) = decision.observed.take() {
            while let Some(Some(last)) = self.write(|| self.store.record_observation(observed.clone())).await
            {
                observed.after = Some(last);
            }
        }
        if let Some(refresh) = decision.refresh.take() {
            self.write(|| self.store.refresh_ending(refresh.clone())).await;
        }
        if let Some(expire) = decision.expire.take() {
            self.expire(expire).await;
        }
        let Some(ended) = decision.ended.take() else { return false };
        let (job, generation) = (ended.job, ended.generation);
        let mut progress = self.write(|| self.store.end_job(ended.clone())).await;
        while progress.is_some_and(|progress| progress.has_more) {
            progress = self.write(|| self.store.notify_watches(NotifyWatches { job, generation })).await;
        }
        if progress.is_none() {
            // The watches still wait: the job stays scheduled.
            decision.not_before = Some(self.clock.now().plus(AFTER_BUG));
        }
        progress.is_some()
    }
}

/// Returns the trace span of a poll.
fn poll_span(
    trace: Context,
    started: Timestamp,
    took: Duration,
    name: &JobName,
    response: &PollResponse,
) -> Span {
    let status = match &response.meaning {
        Interpretation::Ok(report) => Some(report.observation.status.as_str()),
        Interpretation::Error { .. }
        | Interpretation::Unauthorized { .. }
        | Interpretation::RateLimited { .. }
        | Interpretation::NotFound { .. } => None,
    };
    trace
        .span("poll", SpanKind::Client, started, took)
        .about(name.job_id.as_bytes())
        .with("ringback.provider", name.provider.as_str())
        .with("ringback.job.id", name.job_id.as_str())
        .with("ringback.outcome", response.meaning.outcome().as_str())
        .with_some("ringback.status", status)
        .with("http.request.method", "GET")
        .with_some("http.response.status_code", response.http_status)
        .failed(response.meaning.message())
}
