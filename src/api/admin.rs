//! The signing secret, whether the service is alive and able to serve, and its metrics.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::http::{
    Caller, FieldErrorCode, FieldErrors, IdempotencyClaim, ObjectReader, Problem, ProblemCode, Query,
    RequestBody,
};
use super::{Answer, Api, CONNECTIONS_MAX, answered, first_answer, replayed, reply};
use crate::channels::webhook::Secret;
use crate::domain::{Masked, Timestamp};
use crate::store::{Rotate, Rotated, Scope};
use crate::telemetry::metrics::{Clients, Snapshot};

/// The longest grace after a rotation. A receiver that has not changed its secret by then will not.
const GRACE_MAX: u64 = 30 * 24 * 3600;

/// And if nothing is said.
const GRACE: u64 = 24 * 3600;

/// A signing secret.
#[derive(Serialize, ToSchema)]
#[schema(as = SigningSecret)]
pub struct SecretView<'a> {
    /// `whsec_` and base64.
    secret: &'a str,
    /// The one before, while it signs, too.
    #[schema(required)]
    previous: Option<PreviousView>,
}

/// A signing secret whose time is nearly over.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PreviousSecret)]
pub struct PreviousView {
    /// Until then it signs.
    expires_at: Timestamp,
}

fn secret_view(secret: &Masked, old_until: Option<Timestamp>) -> Vec<u8> {
    let previous = old_until.map(|expires_at| PreviousView { expires_at });
    serde_json::to_vec(&SecretView { secret: secret.reveal(), previous }).unwrap_or_default()
}

/// `GET /v1/signing-secret`
pub async fn signing_secret(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.require(Scope::Admin)?;
    Query::new(&parts).done()?;
    let app = api.store.app(app).ok_or_else(Problem::not_found)?;
    let old_until = app.old_secret(api.clock.now()).map(|(_, until)| until);
    Ok(reply(StatusCode::OK, secret_view(&app.signing_secret, old_until)))
}

/// `POST /v1/signing-secret/rotate`
pub async fn rotate(State(api): State<Arc<Api>>, caller: Caller, body: RequestBody, parts: Parts) -> Answer {
    let app = caller.require(Scope::Admin)?;
    Query::new(&parts).done()?;
    let text = body.json_or_nothing().await?;
    let claim = IdempotencyClaim::sealed(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let grace = read_grace(&text)?;
    if api.store.has_configured_secret(app) {
        let detail = "the signing secret is set in the server's configuration; change signing_secret there";
        return Err(Problem::new(ProblemCode::SecretConfigured, detail));
    }
    let (now, secret) = (api.clock.now(), Masked::new(Secret::generate().expose()));
    let old_until = Some(now.plus(grace)).filter(|until| *until > now);
    let answer = first_answer(StatusCode::OK, None, secret_view(&secret, old_until));
    let remember = claim.as_ref().map(|claim| (claim.remember(), answer.clone()));
    match api.store.rotate(Rotate { app, signing_secret: secret, grace, remember, now }).await? {
        Rotated::Done => Ok(answered(answer)),
        Rotated::Replayed(replay) => replayed(replay),
    }
}

fn read_grace(text: &str) -> Result<Duration, Problem> {
    let mut errors = FieldErrors::default();
    let raw: &RawValue =
        serde_json::from_str(if text.is_empty() { "{}" } else { text }).unwrap_or(RawValue::NULL);
    let mut grace = Some(GRACE);
    if let Some(mut fields) = ObjectReader::read(raw, "", &mut errors) {
        if let Some(seconds) = fields.take("graceSeconds") {
            grace = seconds.get().parse().ok().filter(|seconds| *seconds <= GRACE_MAX);
        }
        fields.done(&mut errors);
    }
    if grace.is_none() {
        let detail = format!("must be a whole number from 0 to {GRACE_MAX}");
        errors.add("/graceSeconds", FieldErrorCode::OutOfRange, detail);
    }
    errors.check().map(|()| Duration::from_secs(grace.unwrap_or_default()))
}

/// `GET /healthz`: the process answers.
pub async fn healthz() -> Response {
    reply(StatusCode::OK, json!({ "status": "ok" }).to_string().into_bytes())
}

/// `GET /readyz`: the database answers and takes writes, the plans are made, and the server is not
/// about to end.
pub async fn readyz(State(api): State<Arc<Api>>) -> Answer {
    let not = |why: &str| Err(Problem::new(ProblemCode::NotReady, why));
    if *api.draining.borrow() {
        return not("the server is stopping");
    }
    if !api.loaded.load(Ordering::Acquire) {
        return not("the schedules are not loaded yet");
    }
    if api.store.refusing() {
        return not("the database refuses writes");
    }
    match api.store.check_reads().await {
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
        connections: CONNECTIONS_MAX - api.connections.available_permits().min(CONNECTIONS_MAX),
        waiting: api.waits.in_use_count(),
        following: api.streams.in_use_count(),
    };
    let oldest_due = backlog.oldest.map(|oldest| now.since(oldest)).unwrap_or_default();
    let snapshot = Snapshot { load: (api.load)(), queues: api.store.queues(), backlog, oldest_due, clients };
    let text = api.store.metrics().render(&snapshot);
    let mut response = reply(StatusCode::OK, text);
    let plain = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response
}
