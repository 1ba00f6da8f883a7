//! The span of a registration: the top of what we add to a watch's trace.

use std::time::Duration;

use axum::http::StatusCode;

use super::Api;
use crate::domain::{NewWatch, Timestamp};
use crate::telemetry::traces::{Context, Span};

/// A registration on its way, to be told of when it is on disk.
pub(super) struct RegistrationSpan {
    context: Context,
    at: Timestamp,
    watch: String,
    provider: String,
    job: String,
}

impl RegistrationSpan {
    /// `None` where nobody keeps traces, or not of this one.
    pub(super) fn new(api: &Api, watch: &NewWatch, at: Timestamp) -> Option<Self> {
        if !api.store.tracer().is_on() {
            return None;
        }
        Some(Self {
            context: Context::of(watch.id, watch.traceparent.as_deref())?,
            at,
            watch: watch.id.to_string(),
            provider: watch.job.provider.clone(),
            job: watch.job.job_id.clone(),
        })
    }

    /// It is on disk.
    pub(super) fn done(self, route: &'static str, took: Duration) -> Span {
        self.context
            .registration("register", self.at, took)
            .with("http.request.method", "POST")
            .with("http.route", route)
            .with("http.response.status_code", StatusCode::CREATED.as_u16())
            .with("ringback.watch.id", self.watch.as_str())
            .with("ringback.provider", self.provider.as_str())
            .with("ringback.job.id", self.job.as_str())
    }
}
