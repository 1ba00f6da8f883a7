//! The list of the resources: a line for each path, with the handlers of its methods.

use utoipa_axum::routes;

use super::http::endpoint::Resource;
use super::{apps, batch, deliveries, events, keys, providers, service, signing_secret, watches};

/// Returns every resource, except the metrics and the `OpenAPI` document.
pub fn resources() -> Vec<Resource> {
    vec![
        routes!(watches::create, watches::list),
        routes!(watches::show, watches::stop, watches::amend),
        routes!(watches::poll),
        routes!(batch::create),
        routes!(watches::timeline),
        routes!(events::list),
        routes!(events::show),
        routes!(events::follow),
        routes!(deliveries::list),
        routes!(deliveries::retry_many),
        routes!(deliveries::show),
        routes!(deliveries::retry),
        routes!(providers::list),
        routes!(signing_secret::show),
        routes!(signing_secret::rotate),
        routes!(apps::create, apps::list),
        routes!(apps::show),
        routes!(keys::create, keys::list),
        routes!(keys::show, keys::revoke),
        routes!(service::healthz),
        routes!(service::readyz),
    ]
}

/// Returns the metrics, which may have a listener of their own.
pub fn metrics() -> Resource {
    routes!(service::metrics)
}
