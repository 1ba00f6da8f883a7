//! The signing secret, and whether the service is alive and able to serve.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::json;

use super::request::{Caller, Query};
use super::{Answer, Api, problem::Problem, reply};
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
