//! HTTP in.
//!
//! A handler reads: who asks, parse, one call of the store, view. This module has what they share:
//! the routes, the front door (which gives every answer its `x-request-id` and writes the problems),
//! and the loop that accepts connections. It knows nothing of the poller and of the dispatcher; what
//! it writes reaches them through the store.

mod admin;
mod amend;
mod apps;
mod asked;
mod batch;
mod concurrency_limit;
mod cursor;
mod deliveries;
mod events;
mod follow;
mod keys;
mod object_reader;
mod openapi;
mod problem;
mod providers;
mod register;
mod registration_span;
mod request;
mod serve;
mod stream;
mod view;
mod watches;

pub use concurrency_limit::ConcurrencyLimiter;
pub use follow::STREAMS_MAX;
pub use openapi::document;
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
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::value::RawValue;
use tokio::sync::{Semaphore, watch};

use self::problem::Problem;
use crate::channels::Channels;
use crate::clock::Clock;
use crate::domain::{AppNo, JobNo, PollStats, ProviderState};
use crate::egress::Egress;
use crate::providers::Providers;
use crate::store::{FirstAnswer, Replay, Scope, Store};
use crate::telemetry::metrics::Load;

/// How many may wait for the end of a watch: a quarter of the connections. A client that has gone away
/// is not noticed before its wait is over, and those who do not wait are to find a place.
pub const WAITS_MAX: usize = 1_024;

/// How many clients may be connected; the next wait in the listener's backlog. Each may hold a body
/// of 256 KiB.
pub const CONNECTIONS_MAX: usize = 4_096;
/// How many batches are read and registered at a time: each may hold a body of 8 MiB, and about as much
/// again of what was read from it.
pub const BATCHES_MAX: usize = 8;

/// Here, or on a listener of its own.
const METRICS: &str = "/metrics";

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
    /// SHA-256 of the configured admin key.
    pub bootstrap: Option<[u8; 32]>,
    /// The app whose admins manage the tenants.
    pub operator: AppNo,
    /// What the process that looks knows of its looks at a job.
    pub looks: Box<dyn Fn(JobNo) -> Option<PollStats> + Send + Sync>,
    /// How the process that looks finds each provider.
    pub states: Box<dyn Fn() -> Vec<ProviderState> + Send + Sync>,
    /// Whether the server is about to end.
    pub draining: watch::Receiver<bool>,
    /// Whether the plans are made.
    pub planned: Arc<AtomicBool>,
    /// The keys of writes that are under way.
    pub under_way: UnderWay,
    /// Places for those who wait for the end of a watch.
    pub waits: Arc<ConcurrencyLimiter>,
    /// Places for connections.
    pub places: Arc<Semaphore>,
    /// What those who look and those who send have in hand.
    pub load: Box<dyn Fn() -> Load + Send + Sync>,
    /// Whether `/metrics` is here, and not on a listener of its own.
    pub with_metrics: bool,
    /// Places for batches, of registrations and of retries.
    pub batches: Arc<ConcurrencyLimiter>,
    /// Places for those who follow the feed.
    pub streams: Arc<ConcurrencyLimiter>,
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

/// One thing that can be asked for.
pub struct Route {
    /// The method.
    pub method: &'static str,
    /// The path, with `{id}` where a name stands.
    pub path: &'static str,
    /// What a key must be allowed; `None`: no key is needed.
    pub scope: Option<Scope>,
    handler: fn() -> MethodRouter<Arc<Api>>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

macro_rules! routes {
    ($($method:ident $path:literal $scope:ident $handler:path;)*) => {
        /// Everything that can be asked for: the router is made of it, and the tests of who may what
        /// go through it. The scope says what the handler asks of its caller; a test compares.
        pub const ROUTES: &[Route] = &[$(
            Route {
                method: stringify!($method),
                path: $path,
                scope: scope!($scope),
                handler: || on(MethodFilter::$method, $handler),
            },
        )*];
    };
}

macro_rules! scope {
    (none) => {
        None
    };
    ($scope:ident) => {
        Some(Scope::$scope)
    };
}

routes! {
    POST "/v1/watches" Write watches::create;
    GET "/v1/watches" Read watches::list;
    POST "/v1/watches/batch" Write batch::create;
    GET "/v1/watches/{id}" Read watches::show;
    PATCH "/v1/watches/{id}" Write amend::amend;
    DELETE "/v1/watches/{id}" Write watches::stop;
    POST "/v1/watches/{id}/poll" Write watches::poll;
    GET "/v1/watches/{id}/story" Read watches::story;
    GET "/v1/events" Read events::list;
    GET "/v1/events/stream" Read follow::stream;
    GET "/v1/events/{id}" Read events::show;
    GET "/v1/deliveries" Read deliveries::list;
    POST "/v1/deliveries/retry" Write deliveries::retry_many;
    GET "/v1/deliveries/{id}" Read deliveries::show;
    POST "/v1/deliveries/{id}/retry" Write deliveries::retry;
    GET "/v1/providers" Read providers::list;
    GET "/v1/signing-secret" Admin admin::signing_secret;
    POST "/v1/signing-secret/rotate" Admin admin::rotate;
    GET "/v1/apps" Admin apps::list;
    POST "/v1/apps" Admin apps::create;
    GET "/v1/apps/{id}" Admin apps::show;
    GET "/v1/keys" Admin keys::list;
    POST "/v1/keys" Admin keys::create;
    GET "/v1/keys/{id}" Admin keys::show;
    DELETE "/v1/keys/{id}" Admin keys::revoke;
    GET "/healthz" none admin::healthz;
    GET "/readyz" none admin::readyz;
    GET "/metrics" none admin::metrics;
    GET "/openapi.json" none openapi::openapi;
    GET "/docs" none openapi::docs;
}

fn router(api: Arc<Api>) -> Router {
    let with_metrics = api.with_metrics;
    let here = |one: &&Route| with_metrics || one.path != METRICS;
    let routes = ROUTES.iter().filter(here);
    finish(routes.fold(Router::new(), |router, one| router.route(one.path, (one.handler)())), api)
}

/// The routes of a listener for metrics alone.
fn metrics_router(api: Arc<Api>) -> Router {
    finish(Router::new().route(METRICS, on(MethodFilter::GET, admin::metrics)), api)
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

/// The first answer to a write, with where what was made is found.
fn answered(FirstAnswer { status, location, body }: FirstAnswer) -> Response {
    let mut response = reply(StatusCode::from_u16(status).unwrap_or_default(), body);
    if let Some(location) = location.and_then(|location| location.parse().ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The same, before it is given and, where there is an `Idempotency-Key`, kept.
fn first_answer(status: StatusCode, location: Option<String>, body: Vec<u8>) -> FirstAnswer {
    FirstAnswer { status: status.as_u16(), location, body }
}

/// The answer to a write that was made before, under the same `Idempotency-Key`.
fn replayed(replay: Replay) -> Answer {
    match replay {
        Replay::Different => {
            Err(Problem::fault("Idempotency-Key", "was used for another body; a key belongs to one request"))
        }
        Replay::Anothers => Err(Problem::new(
            StatusCode::CONFLICT,
            "this Idempotency-Key was used with another API key, and the answer holds a secret: only that \
             key gets it again",
        )),
        Replay::Answer(first) => {
            let mut response = answered(first);
            response.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
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
