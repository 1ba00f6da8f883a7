//! The HTTP API.
//!
//! Each resource has one file: request schemas, routes, handlers, views. The router and the `OpenAPI` document
//! are both made of the `#[utoipa::path]` annotations of the handlers, by `utoipa-axum`; the scope that a
//! route needs is part of the annotation. To add a resource, add its file and a line in
//! [`resources`](self::resources::resources).
//!
//! A handler takes an authorized request ([`http::Call`]), parses it, makes one call to the store and renders the
//! response. `http` has what the resources share: the server (which adds `x-request-id` to every response and
//! writes problems), the parts of a request, and the problems. The API knows nothing of the poller and of the
//! dispatcher; its writes reach them through the store.

mod apps;
mod batch;
mod deliveries;
mod destinations;
mod events;
mod http;
mod keys;
mod openapi;
mod providers;
mod register;
mod resources;
mod service;
mod signing_secret;
mod watches;

pub use events::STREAMS_MAX;
pub use http::{Api, BATCHES_MAX, CONNECTIONS_MAX, ConcurrencyLimiter, InProgressKeys, WAITS_MAX};
pub use openapi::{ROUTES, Route, document};

use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

use self::http::Problem;
use self::http::endpoint::{Resource, with_endpoint};
use self::resources::metrics;

/// Maximum number of connections to a listener for metrics. Each response is computed anew, and there are
/// few scrapers.
const METRICS_CONNECTIONS_MAX: usize = 16;

/// Serves the API until `closing` is set. Returns after the last connection has ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let mut resources = openapi::resources();
    resources.extend(api.with_metrics.then(metrics));
    let (router, connections) = (router(resources, &api), Arc::clone(&api.connections));
    http::serve(listener, router, api, connections, closing).await;
}

/// Serves the metrics alone, like [`serve`].
pub async fn serve_metrics(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX));
    http::serve(listener, router(vec![metrics()], &api), api, connections, closing).await;
}

fn router(resources: Vec<Resource>, api: &Arc<Api>) -> Router {
    let resources = resources.into_iter().map(with_endpoint);
    Router::from(resources.fold(OpenApiRouter::new(), OpenApiRouter::routes))
        .fallback(async || Problem::not_found())
        .with_state(Arc::clone(api))
}
