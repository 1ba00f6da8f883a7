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
mod timeline;
mod watches;

pub use events::STREAMS_MAX;
pub use http::{Api, BATCHES_MAX, CONNECTIONS_MAX, ConcurrencyLimiter, InProgressKeys, WAITS_MAX};
pub use openapi::{ROUTES, Route, document};

use std::sync::Arc;

use axum::{Extension, Router};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use self::http::{Description, Problem, ProblemCode, Resource, Server};
use self::resources::{metrics, resources};

/// Maximum number of connections to a listener for metrics. Each response is computed anew, and there are
/// few scrapers.
const METRICS_CONNECTIONS_MAX: usize = 16;

/// Serves the API until `closing` is set. Returns after the last connection has ended.
pub async fn serve(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let resources = if api.with_metrics { resources().merge(metrics()) } else { resources() };
    let connections = (Arc::clone(&api.connections), CONNECTIONS_MAX);
    serve_resources(resources, connections, listener, api, closing).await;
}

/// Serves the metrics alone, like [`serve`].
pub async fn serve_metrics(listener: TcpListener, api: Arc<Api>, closing: watch::Receiver<bool>) {
    let connections = (Arc::new(Semaphore::new(METRICS_CONNECTIONS_MAX)), METRICS_CONNECTIONS_MAX);
    serve_resources(metrics(), connections, listener, api, closing).await;
}

async fn serve_resources(
    resources: Resource,
    (connections, connections_max): (Arc<Semaphore>, usize),
    listener: TcpListener,
    api: Arc<Api>,
    closing: watch::Receiver<bool>,
) {
    let (clock, metrics) = (api.clock.clone(), Arc::clone(api.store.metrics()));
    let description = Description { scope_of: openapi::scope_of, document, page: openapi::docs };
    let router = Router::from(resources)
        .fallback(async || Problem::not_found())
        .method_not_allowed_fallback(async || {
            let detail = "this path does not support this method; Allow lists those that it supports";
            Problem::new(ProblemCode::MethodNotAllowed, detail)
        })
        .layer(axum::middleware::from_fn(http::attach_route))
        .layer(Extension(description))
        .with_state(api);
    Server { listener, router, clock, metrics, connections, connections_max }.run(closing).await;
}
