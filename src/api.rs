//! HTTP in.
//!
//! A handler reads: who asks, parse, one call of the store, view. This module has what they share:
//! the routes, the front door (which gives every answer its `x-request-id` and writes the problems),
//! and the loop that accepts connections. It knows nothing of the poller and of the deliverer; what
//! it writes reaches them through the store.

mod admin;
mod cursor;
mod deliveries;
mod events;
mod fields;
mod problem;
mod register;
mod request;
mod serve;
mod stream;
mod view;
mod watches;

pub use request::UnderWay;
pub use serve::{serve, serve_metrics};

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};

use self::problem::Problem;
use crate::channels::Channels;
use crate::clock::Clock;
use crate::domain::{AppNo, JobNo, Looks};
use crate::egress::Egress;
use crate::meters::Load;
use crate::providers::Providers;
use crate::store::{Replay, Store};

/// How many may wait for the end of a watch: a quarter of the connections. A client that has gone away
/// is not noticed before its wait is over, and those who do not wait are to find a place.
pub const WAITS_MAX: usize = 1_024;

/// How many clients may be connected; the next wait in the listener's backlog. Each may hold a body
/// of 256 KiB.
pub const CONNECTIONS_MAX: usize = 4_096;

/// What a handler returns.
type Answer = Result<Response, Problem>;

/// What the handlers need.
pub struct Api {
    /// Facts.
    pub store: Store,
    /// Judges callback URLs.
    pub egress: Arc<Egress>,
    /// Judges mail addresses and Slack's.
    pub channels: Arc<Channels>,
    /// Time.
    pub clock: Clock,
    /// What can be watched.
    pub providers: Providers,
    /// Those of them that have a key.
    pub with_credential: HashSet<String>,
    /// SHA-256 of the configured admin key, and its app.
    pub bootstrap: Option<([u8; 32], AppNo)>,
    /// What the process that looks knows of its looks at a job.
    pub looks: Box<dyn Fn(JobNo) -> Option<Looks> + Send + Sync>,
    /// Whether the server is about to end.
    pub draining: watch::Receiver<bool>,
    /// Whether the plans are made.
    pub planned: Arc<AtomicBool>,
    /// The keys of writes that are under way.
    pub under_way: UnderWay,
    /// Places for those who wait for the end of a watch.
    pub waits: Semaphore,
    /// Places for connections.
    pub places: Arc<Semaphore>,
    /// What those who look and those who send have in hand.
    pub load: Box<dyn Fn() -> Load + Send + Sync>,
    /// Whether `/metrics` is here, and not on a listener of its own.
    pub with_metrics: bool,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Api")
    }
}

impl Api {
    /// The only provider that has a key, else Muvi.
    fn default_provider(&self) -> &str {
        let mut with_credential = self.with_credential.iter();
        match (with_credential.next(), with_credential.next()) {
            (Some(only), None) => only,
            _ => "muvi",
        }
    }
}

/// The routes.
fn router(api: Arc<Api>) -> Router {
    let with_metrics = api.with_metrics;
    let router = Router::new()
        .route("/v1/watches", post(watches::create).get(watches::list))
        .route("/v1/watches/{id}", get(watches::show).delete(watches::stop))
        .route("/v1/watches/{id}/poll", post(watches::poll))
        .route("/v1/watches/{id}/story", get(watches::story))
        .route("/v1/events", get(events::list))
        .route("/v1/events/{id}", get(events::show))
        .route("/v1/deliveries", get(deliveries::list))
        .route("/v1/deliveries/{id}", get(deliveries::show))
        .route("/v1/deliveries/{id}/retry", post(deliveries::retry))
        .route("/v1/signing-secret", get(admin::signing_secret))
        .route("/healthz", get(admin::healthz))
        .route("/readyz", get(admin::readyz));
    let router = if with_metrics { router.route("/metrics", get(admin::metrics)) } else { router };
    finish(router, api)
}

/// The routes of a listener for metrics alone.
fn metrics_router(api: Arc<Api>) -> Router {
    finish(Router::new().route("/metrics", get(admin::metrics)), api)
}

fn finish(router: Router<Arc<Api>>, api: Arc<Api>) -> Router {
    router
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
        })
        .layer(axum::middleware::from_fn(serve::name_the_route))
        .with_state(api)
}

/// A JSON answer.
fn reply(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// The answer to a write that was made before, under the same `Idempotency-Key`.
fn replayed(replay: Replay) -> Answer {
    match replay {
        Replay::Different => {
            Err(Problem::fault("Idempotency-Key", "was used for another body; a key belongs to one request"))
        }
        Replay::Answer { status, location, body } => {
            let mut response = reply(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), body);
            let headers = response.headers_mut();
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
            if let Some(location) = location.and_then(|location| location.parse().ok()) {
                headers.insert(header::LOCATION, location);
            }
            Ok(response)
        }
    }
}

/// A page, of which one more than `limit` was asked for to know whether it is the last.
fn page<'a, T: 'a>(
    found: impl ExactSizeIterator<Item = &'a T>,
    limit: u32,
    cursor: impl Fn(&T) -> String,
    shown: impl Fn(&T) -> Option<Box<RawValue>>,
) -> Response {
    let more = found.len() > limit as usize;
    let (mut data, mut last) = (Vec::with_capacity(found.len()), None);
    for one in found.take(limit as usize) {
        data.extend(shown(one));
        last = Some(cursor(one));
    }
    let page = view::Page { data, next_cursor: last.filter(|_| more) };
    reply(StatusCode::OK, serde_json::to_vec(&page).unwrap_or_default())
}
