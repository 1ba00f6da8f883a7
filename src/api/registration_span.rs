//! The trace span of a registration: the root of the spans that this program adds to a watch's trace.

use std::time::Duration;

use axum::http::StatusCode;

use super::http::Api;
use crate::domain::{NewWatch, Timestamp};
use crate::telemetry::traces::{Context, Span};

/// A registration in progress. Its span is recorded after the commit.
pub(super) struct RegistrationSpan {
    context: Context,
    started_at: Timestamp,
    watch: String,
    provider: String,
    job: String,
}

impl RegistrationSpan {
    /// Starts a span; `None` if traces are off or the trace is not sampled.
    pub(super) fn new(api: &Api, watch: &NewWatch, started_at: Timestamp) -> Option<Self> {
        if !api.store.tracer().is_on() {
            return None;
        }
        Some(Self {
            context: Context::of(watch.id, watch.traceparent.as_deref())?,
            started_at,
            watch: watch.id.to_string(),
            provider: watch.job.provider.clone(),
            job: watch.job.job_id.clone(),
        })
    }

    /// Ends the span of a registration that is committed.
    pub(super) fn end(self, route: &'static str, took: Duration) -> Span {
        self.context
            .registration("register", self.started_at, took)
            .with("http.request.method", "POST")
            .with("http.route", route)
            .with("http.response.status_code", StatusCode::CREATED.as_u16())
            .with("ringback.watch.id", self.watch.as_str())
            .with("ringback.provider", self.provider.as_str())
            .with("ringback.job.id", self.job.as_str())
    }
}
