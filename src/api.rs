//! The HTTP API.
//!
//! A handler identifies the caller, parses the request, makes one call to the store and renders the response.
//! `http` has what the resources share: the server (which adds `x-request-id` to every response and writes
//! problems), the parts of a request, and the problems. The API knows nothing of the poller and of the
//! dispatcher; its writes reach them through the store.

mod admin;
mod amend;
mod apps;
mod asked;
mod batch;
mod deliveries;
mod destination_request;
mod events;
mod follow;
mod http;
mod keys;
mod openapi;
mod providers;
mod register;
mod registration_span;
mod view;
mod watches;

pub use follow::STREAMS_MAX;
pub use http::{Api, BATCHES_MAX, CONNECTIONS_MAX, ConcurrencyLimiter, InProgressKeys, WAITS_MAX};
pub use openapi::document;

use std::fmt;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use axum::routing::{MethodFilter, MethodRouter, on};
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::http::{FieldErrorCode, Problem, ProblemCode, Server};
use crate::store::{FirstAnswer, Replay, Scope};

/// Maximum number of connections to a listener for metrics. Each response is computed anew, and there are
/// few scrapers.
const METRICS_CONNECTIONS_MAX: usize = 16;

/// Here, or on a listener of its own.
const METRICS: &str = "/metrics";

/// What a handler returns.
type Answer = Result<Response, Problem>;

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

/// Serves the API until `closing` is set. Returns after the last connection has ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let (clock, metrics) = (api.clock.clone(), Arc::clone(api.store.metrics()));
    let (connections, connections_max) = (Arc::clone(&api.connections), CONNECTIONS_MAX);
    let router = router(api);
    Server { listener, router, clock, metrics, connections, connections_max }.run(closing).await;
}

/// Serves the metrics alone, like [`serve`].
pub async fn serve_metrics(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let (clock, metrics) = (api.clock.clone(), Arc::clone(api.store.metrics()));
    let connections_max = METRICS_CONNECTIONS_MAX;
    let connections = Arc::new(Semaphore::new(connections_max));
    let router = metrics_router(api);
    Server { listener, router, clock, metrics, connections, connections_max }.run(closing).await;
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
            let detail = "this path does not support this method; Allow lists those that it supports";
            Problem::new(ProblemCode::MethodNotAllowed, detail)
        })
        .layer(axum::middleware::from_fn(http::attach_route))
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
            let detail = "was used with another body; use a new key for another request";
            let mut problem = Problem::field("Idempotency-Key", FieldErrorCode::Conflict, detail);
            problem.code = ProblemCode::IdempotencyConflict;
            Err(problem)
        }
        Replay::Anothers => Err(Problem::new(
            ProblemCode::IdempotencyOtherKey,
            "this Idempotency-Key was used with another API key, and the response holds a secret: send the \
             request with that API key",
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
