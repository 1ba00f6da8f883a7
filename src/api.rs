//! The HTTP API.
//!
//! Each resource has one file: request schemas, routes, handlers, views. The router and the `OpenAPI` document
//! are both made of the `#[utoipa::path]` annotations of the handlers, by `utoipa-axum`; the scope that a
//! route needs is part of the annotation. To add a resource, add its file, its `mod` line and a line in
//! `resources`; CONTRIBUTING.md lists the tests that require more.
//!
//! A handler takes an authorized request ([`http::Call`]), parses it, makes one call to the store and renders the
//! response. `http` has what the resources share: the server (which adds `x-request-id` to every response and
//! writes problems), the parts of a request, and the problems. The API knows nothing of the poller and of the
//! dispatcher; its writes reach them through the store. What only their memory knows, it reads by functions of [`Api`].

mod access_fields;
mod apps;
mod batch;
mod bulk;
mod credentials;
mod definitions;
mod deliveries;
mod delivery_body;
mod destinations;
mod erase;
mod events;
mod filters;
mod groups;
mod http;
mod job_cancel;
mod keys;
mod labels;
mod openapi;
mod operations;
mod own_access;
mod poll_fields;
mod providers;
mod register;
mod router;
mod saved_destinations;
mod saved_signing;
mod service;
mod signing_fields;
mod signing_secret;
mod test_send;
mod waiting;
mod watches;

pub use events::STREAMS_MAX;
pub use http::{
    Api, Batches, CONNECTIONS_MAX, ConcurrencyLimiter, DeliveryWaits, Front, InProgressKeys, MEMORY_MAX,
    MemoryBudget, OwnDefinitions, ProviderAccess, SendRates, Site, WAITS_MAX, WrongKeys, serve,
};
pub use openapi::{ROUTES, Route, document};
pub use router::{METRICS_CONNECTIONS_MAX, open, open_metrics, starting};
pub use saved_destinations::managed_destination;
pub use test_send::TESTS_MAX;

use utoipa_axum::routes;

use self::http::endpoint::Resource;

/// Returns every resource, except the metrics and the `OpenAPI` document: a line for each path, with the handlers
/// of its methods.
fn resources() -> Vec<Resource> {
    vec![
        routes!(watches::create, watches::list),
        routes!(watches::show, erase::erase, watches::amend),
        routes!(bulk::stop),
        routes!(watches::stop),
        routes!(watches::poll),
        routes!(batch::create),
        routes!(watches::timeline),
        routes!(groups::show),
        routes!(events::list),
        routes!(events::show),
        routes!(events::follow),
        routes!(deliveries::list),
        routes!(bulk::retry),
        routes!(deliveries::show),
        routes!(deliveries::attempts),
        routes!(delivery_body::show),
        routes!(deliveries::retry),
        routes!(operations::show),
        routes!(test_send::send),
        routes!(saved_destinations::create, saved_destinations::list),
        routes!(saved_destinations::show, saved_destinations::update, saved_destinations::remove),
        routes!(saved_destinations::enable),
        routes!(saved_destinations::rotate_secret),
        routes!(test_send::send_to_saved),
        routes!(providers::list),
        routes!(providers::show),
        routes!(definitions::show, definitions::put, definitions::remove),
        routes!(credentials::create, credentials::list),
        routes!(credentials::delete),
        routes!(signing_secret::show),
        routes!(signing_secret::rotate),
        routes!(apps::create, apps::list),
        routes!(apps::show, apps::rename, erase::delete_app),
        routes!(apps::jwks),
        routes!(keys::create, keys::list),
        routes!(keys::show, keys::revoke),
        routes!(service::healthz),
        routes!(service::readyz),
    ]
}

/// Returns the metrics, which may have a listener of their own.
fn metrics() -> Resource {
    routes!(service::metrics)
}
