//! The signing secret, whether the service is alive and able to serve, and its metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde_json::json;

use super::request::{Caller, Query};
use super::{Answer, Api, CONNECTIONS_MAX, WAITS_MAX, problem::Problem, reply};
use crate::meters::Clients;
use crate::store::Scope;

/// `GET /v1/signing-secret`
pub async fn signing_secret(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.may(Scope::Admin)?;
    Query::new(&parts).done()?;
    let app = api.store.app(app).ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, json!({ "secret": app.signing_secret }).to_string().into_bytes()))
}

/// `GET /healthz`: the process answers.
pub async fn healthz() -> Response {
    reply(StatusCode::OK, json!({ "status": "ok" }).to_string().into_bytes())
}

/// `GET /readyz`: the database answers and takes writes, the plans are made, and the server is not
/// about to end.
pub async fn readyz(State(api): State<Arc<Api>>) -> Answer {
    let not = |why: &str| Err(Problem::unavailable(why));
    if *api.draining.borrow() {
        return not("the server is about to end");
    }
    if !api.planned.load(Ordering::Acquire) {
        return not("the plans are not made yet");
    }
    if api.store.refusing() {
        return not("the database refuses writes");
    }
    match api.store.answers().await {
        Ok(()) => Ok(reply(StatusCode::OK, json!({ "status": "ready" }).to_string().into_bytes())),
        Err(_) => not("the database does not answer"),
    }
}

/// `GET /metrics`: what is counted and measured, for Prometheus.
pub async fn metrics(State(api): State<Arc<Api>>) -> Response {
    let now = api.clock.now();
    // A database that does not answer is no reason to say nothing.
    let backlog = api.store.backlog(now).await.unwrap_or_default();
    let clients = Clients {
        connections: CONNECTIONS_MAX - api.places.available_permits().min(CONNECTIONS_MAX),
        waiting: WAITS_MAX - api.waits.available_permits().min(WAITS_MAX),
    };
    let text = api.store.meters().render((api.load)(), api.store.queues(), backlog, clients, now);
    let mut response = reply(StatusCode::OK, text);
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
