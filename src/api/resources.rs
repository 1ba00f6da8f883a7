//! The list of the resources: a line for each path, with the handlers of its methods.

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::http::Resource;
use super::{apps, batch, deliveries, events, keys, providers, service, signing_secret, timeline, watches};

/// Returns every resource, except the metrics.
pub fn resources() -> Resource {
    OpenApiRouter::default()
        .routes(routes!(watches::create, watches::list))
        .routes(routes!(watches::show, watches::stop, watches::amend))
        .routes(routes!(watches::poll))
        .routes(routes!(batch::create))
        .routes(routes!(timeline::show))
        .routes(routes!(events::list))
        .routes(routes!(events::show))
        .routes(routes!(events::follow))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::retry_many))
        .routes(routes!(deliveries::show))
        .routes(routes!(deliveries::retry))
        .routes(routes!(providers::list))
        .routes(routes!(signing_secret::show))
        .routes(routes!(signing_secret::rotate))
        .routes(routes!(apps::create, apps::list))
        .routes(routes!(apps::show))
        .routes(routes!(keys::create, keys::list))
        .routes(routes!(keys::show, keys::revoke))
        .routes(routes!(service::healthz))
        .routes(routes!(service::readyz))
        .routes(routes!(service::document))
        .routes(routes!(service::docs))
}

/// Returns the metrics, which may have a listener of their own.
pub fn metrics() -> Resource {
    OpenApiRouter::default().routes(routes!(service::metrics))
}
