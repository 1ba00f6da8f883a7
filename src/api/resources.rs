//! The list of the resources.

use utoipa_axum::router::OpenApiRouter;

use super::http::Resource;
use super::{
    amend, apps, batch, deliveries, event_stream, events, keys, providers, service, signing_secret, timeline,
    watches,
};

/// Returns every resource, except the metrics.
pub fn resources() -> Resource {
    OpenApiRouter::default()
        .merge(watches::routes())
        .merge(batch::routes())
        .merge(amend::routes())
        .merge(timeline::routes())
        .merge(events::routes())
        .merge(event_stream::routes())
        .merge(deliveries::routes())
        .merge(providers::routes())
        .merge(signing_secret::routes())
        .merge(apps::routes())
        .merge(keys::routes())
        .merge(service::routes())
}
