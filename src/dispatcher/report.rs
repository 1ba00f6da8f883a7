//! Reports of an attempt: in the attempt log of its delivery, in the log, and as a span.

use crate::channels::AttemptResult;
use crate::domain::{Attempt, NextStep, Outcome, PendingDelivery, Timestamp};
use crate::telemetry::metrics::AttemptOutcome;
use crate::telemetry::traces::{Context, Span, SpanKind};

/// Returns the entry for the attempt log of an attempt that began at `at`.
pub(super) fn attempt_entry(result: AttemptResult, at: Timestamp) -> Attempt {
    Attempt {
        at,
        duration_ms: u32::try_from(result.duration.as_millis()).unwrap_or(u32::MAX),
        status_code: result.status_code,
        error: result.error,
        request_headers: result.request_headers,
        response_headers: result.response_headers,
        response_body: result.response_body,
    }
}

/// Returns the error of an attempt, or else its HTTP status.
fn error_text(result: &AttemptResult) -> Option<String> {
    result.error.clone().or_else(|| result.status_code.map(|status| format!("HTTP {status}")))
}

/// Returns the span of an attempt, for the trace of its watch.
pub(super) fn attempt_span(
    delivery: &PendingDelivery,
    result: &AttemptResult,
    at: Timestamp,
) -> Option<Span> {
    let context = Context::of(delivery.watch, delivery.traceparent.as_deref())?;
    let error = error_text(result).filter(|_| result.outcome != Outcome::Ok);
    let provider = delivery.finished.as_ref().map(|finished| finished.provider.clone());
    let span = context
        .span("deliver", SpanKind::Client, at, result.duration)
        .about(&delivery.id.to_bytes())
        .with("ringback.watch.id", delivery.watch.to_string())
        .with("ringback.delivery.id", delivery.id.to_string())
        .with("ringback.event.id", delivery.event.to_string())
        .with("ringback.event.type", delivery.event_type.as_str())
        .with("ringback.channel", delivery.destination.channel.as_str())
        .with("ringback.attempt", i64::from(delivery.attempts) + 1)
        .with_some("ringback.provider", provider)
        .with("ringback.outcome", AttemptOutcome::from(&result.outcome).as_str())
        .with_some("http.response.status_code", result.status_code.map(i64::from));
    Some(span.failed(error.as_deref()))
}

/// Logs an attempt: at level info if a retry follows, as a warning if it was the last one.
pub(super) fn log_attempt(
    delivery: &PendingDelivery,
    result: &AttemptResult,
    next: NextStep,
    trace_id: Option<&str>,
) {
    let (queue, status) = (delivery.destination.queue.as_str(), result.status_code);
    let (channel, error) = (delivery.destination.channel, error_text(result));
    let PendingDelivery { id: delivery, watch, event_type: event, .. } = delivery;
    match next {
        NextStep::Succeeded => {
            tracing::debug!(%delivery, %watch, %event, %channel, queue, status, trace_id, "delivered");
        }
        NextStep::Retry { due_at, .. } => {
            tracing::info!(%delivery, %watch, %event, %channel, queue, status, trace_id, error, %due_at, "an attempt failed; a retry follows");
        }
        NextStep::Failed(reason) => {
            tracing::warn!(%delivery, %watch, %event, %channel, queue, status, trace_id, error, %reason, "a delivery failed; it can be retried manually");
        }
        NextStep::Unchanged => {
            tracing::info!(%delivery, %watch, %event, %channel, queue, status, trace_id, error, "a manual retry failed");
        }
    }
}
