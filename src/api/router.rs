//! The router, and the listeners that it serves.

use std::sync::Arc;

use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use utoipa_axum::router::OpenApiRouter;

use super::http::endpoint::{Resource, with_endpoint};
use super::http::{self, Api, Problem};
use super::{metrics, openapi};

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
        .fallback(async || Problem::no_such_path())
        .with_state(Arc::clone(api))
}
