//! The body of a delivery.

use axum::http::{HeaderValue, header};
use axum::response::IntoResponse as _;

use super::http::{Answer, Call, Problem};
use crate::domain::DeliveryId;

/// The type of any bytes: the body of a webhook can be the answer of a provider, and no browser must interpret it.
const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Show the body of a delivery
///
/// The exact bytes that every attempt of a webhook sends, and over which it is signed. Mails and chat messages are
/// rendered from the event when they are sent: for them, the answer is the event.
#[utoipa::path(
    get, path = "/v1/deliveries/{id}/body", operation_id = "showDeliveryBody", tag = "Deliveries",
    security(("key" = ["read"])), params(("id" = DeliveryId, Path)),
    responses((status = 200, description = "The body.", body = String, content_type = "application/octet-stream"))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(DeliveryId::parse)?;
    let body = call.api.store.delivery_body(call.app(), id).await?.ok_or_else(Problem::not_found)?;
    Ok(([(header::CONTENT_TYPE, BYTES)], body).into_response())
}
