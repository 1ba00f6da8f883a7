//! The service itself: liveness, readiness and metrics.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::http::{Answer, Api, Problem, ProblemCode, json};
use crate::clock::Clock;
use crate::store::StoreError;
use crate::telemetry::metrics::Snapshot;

/// Maximum time that a scrape waits for the count of the backlog. Scrapers wait for 10 s by default.
const BACKLOG_MAX: Duration = Duration::from_secs(4);

/// The state of the service.
#[derive(Serialize, ToSchema)]
struct ServiceStatus {
    /// `ok` or `ready`.
    status: &'static str,
}

/// Check liveness
#[utoipa::path(
    get, path = "/healthz", operation_id = "alive", tag = "Service",
    responses((status = 200, description = "The process answers.", body = ServiceStatus))
)]
pub async fn healthz() -> Response {
    json(StatusCode::OK, &ServiceStatus { status: "ok" })
}

/// Check readiness
///
/// The service is ready when the database answers and accepts writes, has all its tables, the jobs are loaded, and the
/// server is not about to stop.
#[utoipa::path(
    get, path = "/readyz", operation_id = "ready", tag = "Service",
    responses(
        (status = 200, description = "The service is ready.", body = ServiceStatus),
        (status = 503, description = "The service is not ready. The problem says why."),
    )
)]
pub async fn readyz(State(api): State<Arc<Api>>) -> Answer {
    let reason = if *api.draining.borrow() {
        "the server is stopping"
    } else if api.store.is_silent() {
        "the database does not answer; the server's log says why"
    } else if api.store.refusing() && !api.store.is_schema_broken() {
        "the database refuses writes; the server's log says why"
    } else {
        match api.store.check_reads().await {
            Ok(()) => return Ok(json(StatusCode::OK, &ServiceStatus { status: "ready" })),
            Err(StoreError::Schema(_)) => {
                "a table of the database is missing or may not be used; the server's log says which"
            }
            Err(_) => "the database does not answer, or not within 2 s; the server's log says why",
        }
    };
    Err(Problem::new(ProblemCode::NotReady, reason).into())
}

/// Show metrics
///
/// In Prometheus's text format. If `metrics_listen` is set, metrics have that listener instead.
#[utoipa::path(
    get, path = "/metrics", operation_id = "metrics", tag = "Service",
    responses(
        (status = 200, description = "The metrics.", body = String, content_type = "text/plain"),
        (status = 404, description = "The metrics have a listener of their own."),
    )
)]
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let now = api.clock.now();
    // Without an answer of the database the other metrics are still shown, and before the scraper gives up.
    let backlog = if api.store.is_silent() {
        None
    } else {
        Clock::System.timeout(BACKLOG_MAX, api.store.backlog(now)).await
    };
    let backlog = backlog.and_then(Result::ok).unwrap_or_default();
    let snapshot = Snapshot {
        load: (api.load)(),
        queues: api.store.queues(),
        backlog,
        oldest_due: backlog.oldest.map(|oldest| now.since(oldest)).unwrap_or_default(),
        connections: api.connections_max - api.connections.available_permits().min(api.connections_max),
        waiting: api.waits.in_use_count(),
        following: api.streams.in_use_count(),
        http_memory: api.memory.in_use_bytes(),
    };
    let text = api.store.metrics().render(&snapshot);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}
