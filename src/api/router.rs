//! The routers: of the start, of the API, and of the metrics alone.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use utoipa_axum::router::OpenApiRouter;

use super::http::endpoint::Resource;
use super::http::endpoint_layer::with_endpoint;
use super::http::{Api, Problem, ProblemCode, Site};
use super::{metrics, openapi, service};

/// Maximum number of connections to a listener for metrics. Each response is computed anew, and there are
/// few scrapers.
pub const METRICS_CONNECTIONS_MAX: usize = 16;

/// Returns what a listener serves while the service starts: liveness if `with_liveness`, and 503 for all else.
pub fn starting(with_liveness: bool) -> Site {
    let not_ready =
        async || Problem::new(ProblemCode::NotReady, "the server is starting; send the request again later");
    let mut router = Router::new();
    if with_liveness {
        router = router.route("/healthz", get(service::healthz).fallback(not_ready));
    }
    Site::new(router.fallback(not_ready))
}

/// Makes a listener serve the API.
pub fn open(site: &Site, api: &Arc<Api>) {
    let mut resources = openapi::resources();
    resources.extend(api.with_metrics.then(metrics));
    site.open(router(resources, api), Arc::clone(api.store.metrics()));
}

/// Makes a listener serve the metrics alone.
pub fn open_metrics(site: &Site, api: &Arc<Api>) {
    site.open(router(vec![metrics()], api), Arc::clone(api.store.metrics()));
}

fn router(resources: Vec<Resource>, api: &Arc<Api>) -> Router {
    let resources = resources.into_iter().map(with_endpoint);
    Router::from(resources.fold(OpenApiRouter::new(), OpenApiRouter::routes))
        .fallback(async || Problem::no_such_path())
        .with_state(Arc::clone(api))
}
