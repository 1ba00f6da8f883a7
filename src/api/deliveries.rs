//! Deliveries: list, show, and retry one.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::destinations::Address;
use super::filters::{FilterSource, ListedEventType, delivery_filter};
use super::http::{
    Answer, Call, Content, Page, PageParams, Problem, ProblemCode, cursor, first_answer, joined, json, listed,
};
use super::waiting::{WaitingView, Waits};
use crate::domain::{
    ChannelKind, Delivery, DeliveryId, DeliveryStatus, DestinationId, EventId, EventType, NumberedAttempt,
    Reason, Timestamp, WatchId,
};
use crate::store::{DeliveryFilter, Idempotent, RetryDelivery, RetryRefusal};

/// Largest number of attempts in the answer for one delivery. Each has up to 32 KiB, and there is no limit on the
/// number of manual retries.
const SHOWN_ATTEMPTS: u32 = 20;

/// A delivery: an event on its way to one destination.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
struct DeliveryView<'a> {
    id: DeliveryId,
    event_id: EventId,
    event_type: EventType,
    /// Null if the event is about no watch.
    #[schema(required)]
    watch_id: Option<WatchId>,
    destination_id: DestinationId,
    destination: Address<'a>,
    status: DeliveryStatus,
    /// Why the delivery ended without success.
    #[schema(required)]
    reason: Option<Reason>,
    /// Time at which the next attempt is due, which may be past: then `waiting` says why it was not made. Null once the
    /// delivery has ended.
    #[schema(required)]
    next_attempt_at: Option<Timestamp>,
    /// Why the delivery is due and not attempted now; null if its time has not come, or if it is being attempted.
    #[schema(required)]
    waiting: Option<&'a WaitingView>,
    created_at: Timestamp,
    /// Number of attempts.
    attempt_count: u32,
    /// Error of the last attempt; null if it succeeded.
    #[schema(required)]
    last_error: Option<&'a str>,
    /// The newest 20 attempts, oldest first. Only in the answer to a request for one delivery.
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView<'a>>>,
}

/// One attempt of a delivery.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
struct AttemptView<'a> {
    /// Position among the attempts of the delivery. The first attempt has the number 1.
    number: u32,
    at: Timestamp,
    /// Duration, in milliseconds.
    duration_ms: u32,
    /// HTTP status of the receiver; null without an answer.
    #[schema(required)]
    status_code: Option<u16>,
    /// Why the attempt failed; null if it succeeded.
    #[schema(required)]
    error: Option<&'a str>,
    request_headers: BTreeMap<&'a str, String>,
    response_headers: BTreeMap<&'a str, String>,
    /// Up to 16 KiB of the receiver's answer.
    response_body: &'a str,
}

impl<'a> AttemptView<'a> {
    fn of((number, attempt): &'a NumberedAttempt) -> Self {
        Self {
            number: *number,
            at: attempt.at,
            duration_ms: attempt.duration_ms,
            status_code: attempt.status_code,
            error: attempt.error.as_deref(),
            request_headers: joined(&attempt.request_headers),
            response_headers: joined(&attempt.response_headers),
            response_body: &attempt.response_body,
        }
    }
}

impl<'a> DeliveryView<'a> {
    /// Makes the view without attempts.
    fn of(delivery: &'a Delivery, waiting: Option<&'a WaitingView>) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event,
            event_type: delivery.event_type,
            watch_id: delivery.watch,
            destination_id: delivery.destination,
            destination: Address::of(delivery.channel, &delivery.address),
            status: delivery.status,
            reason: delivery.reason,
            next_attempt_at: delivery.next_attempt_at,
            waiting,
            created_at: delivery.created_at,
            attempt_count: delivery.attempt_count,
            last_error: delivery.last_error.as_deref(),
            attempts: None,
        }
    }
}

/// List deliveries
///
/// Newest first, without their attempts.
#[utoipa::path(
    get, path = "/v1/deliveries", operation_id = "listDeliveries", tag = "Deliveries",
    security(("key" = ["read"])),
    params(
        PageParams,
        ("status" = Option<Vec<DeliveryStatus>>, Query, style = Form, explode = false,
            description = "Only deliveries with one of these statuses, separated by commas."),
        ("reason" = Option<Reason>, Query, description = "Only deliveries that ended for this reason."),
        ("type" = Option<ListedEventType>, Query, description = "Only deliveries of events of this type."),
        ("channel" = Option<ChannelKind>, Query, description = "Only deliveries by this channel."),
        ("origin" = Option<String>, Query, description = "Only webhooks to this scheme, host and port, such as \
            `https://app.example.com`."),
        ("destinationId" = Option<DestinationId>, Query, description = "Only deliveries to this destination."),
        ("watchId" = Option<WatchId>, Query, description = "Only deliveries of this watch."),
        ("jobId" = Option<String>, Query, description = "Only deliveries of watches on jobs with this id."),
        ("reference" = Option<String>, Query, min_length = 1, max_length = 255,
            description = "Only deliveries of watches with this reference."),
        ("since" = Option<String>, Query, description = "Only deliveries of events at or after this time, or since so \
            long ago, such as `24h`."),
        ("until" = Option<String>, Query, description = "Only deliveries of events before this time, or until so long \
            ago."),
    ),
    responses((status = 200, description = "A page of deliveries.", body = Page<DeliveryView>))
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let filter =
        delivery_filter(&mut FilterSource::Query(&mut query), DeliveryStatus::ALL, call.api.clock.now());
    let before = query.cursor(cursor::List::Deliveries).map(DeliveryId);
    let filter = DeliveryFilter { before, ..filter };
    query.done()?;
    let found = call.api.store.deliveries(call.app(), filter, limit).await?;
    let waits = Waits::of_deliveries(&call.api, &found.rows);
    let view = |delivery| DeliveryView::of(delivery, waits.get(delivery.id));
    Ok(listed(&found, |id| cursor::encode(cursor::List::Deliveries, &id.0), view))
}

/// Show a delivery
///
/// With its newest 20 attempts, oldest first.
#[utoipa::path(
    get, path = "/v1/deliveries/{id}", operation_id = "showDelivery", tag = "Deliveries",
    security(("key" = ["read"])), params(("id" = DeliveryId, Path)),
    responses((status = 200, description = "The delivery.", body = DeliveryView))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(DeliveryId::parse)?;
    let found = call.api.store.delivery(call.app(), id, SHOWN_ATTEMPTS).await?;
    let (delivery, attempts) = found.ok_or_else(Problem::not_found)?;
    let attempts = attempts.iter().rev().map(AttemptView::of).collect();
    let waits = Waits::of_deliveries(&call.api, [&delivery]);
    let waiting = waits.get(delivery.id);
    let view = DeliveryView { attempts: Some(attempts), ..DeliveryView::of(&delivery, waiting) };
    Ok(json(StatusCode::OK, &view))
}

/// List the attempts of a delivery
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/deliveries/{id}/attempts", operation_id = "listAttempts", tag = "Deliveries",
    security(("key" = ["read"])), params(("id" = DeliveryId, Path), PageParams),
    responses((status = 200, description = "A page of attempts.", body = Page<AttemptView>))
)]
pub async fn attempts(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let before = query.cursor(cursor::List::Attempts).unwrap_or(u32::MAX);
    query.done()?;
    let id = call.id(DeliveryId::parse)?;
    let found = call.api.store.attempts(call.app(), id, before, limit).await?;
    let found = found.ok_or_else(Problem::not_found)?;
    Ok(listed(&found, |number| cursor::encode(cursor::List::Attempts, &number), AttemptView::of))
}

/// Retry a delivery now
///
/// A pending delivery keeps its schedule. A delivery that has ended gets one attempt with the same
/// `webhook-id`; if it fails, its status stays as it was. Only a delivery that was skipped as `gone` becomes `failed`
/// if the receiver refuses it with 410 as well. A delivery can be retried ten times a minute, and an app can retry a
/// hundred deliveries in ten seconds.
#[utoipa::path(
    post, path = "/v1/deliveries/{id}/retry", operation_id = "retryDelivery", tag = "Deliveries",
    security(("key" = ["write"])), params(("id" = DeliveryId, Path)),
    responses(
        (status = 202, description = "The delivery without its attempts. The request to retry is committed.", body = DeliveryView),
        (status = 409, description = "The watch was stopped, or a request with this Idempotency-Key is in progress."),
        (status = 429, description = "The delivery was retried ten times within a minute, or the app has retried a \
            hundred deliveries within ten seconds."),
    )
)]
pub async fn retry(call: Call) -> Answer {
    let write = call.write(Content::Nothing).await?;
    let (api, app, id) = (&write.api, write.app(), write.id(DeliveryId::parse)?);
    // The answer has no attempts: with an `Idempotency-Key` it is stored, and many retries of one delivery would
    // store the square of their number.
    let (delivery, _) = api.store.delivery(app, id, 0).await?.ok_or_else(Problem::not_found)?;
    // It does not wait any more: the request makes an attempt.
    let answer = first_answer(StatusCode::ACCEPTED, &DeliveryView::of(&delivery, None));
    write.reserve_answer(answer.body.len())?;
    api.send_rates.take_retry(app, id, api.clock.moment())?;
    let retry = RetryDelivery { app, delivery: id, now: api.clock.now() };
    let retry = Idempotent::with_response(retry, write.key(), &answer);
    match api.store.retry_delivery(retry).await?? {
        Ok(()) => Ok(answer.into_response()),
        Err(RetryRefusal::NotFound) => Err(Problem::not_found().into()),
        Err(RetryRefusal::Stopped) => {
            let detail = "the watch of the delivery was stopped, so the delivery cannot be retried; register the job again";
            Err(Problem::new(ProblemCode::WatchStopped, detail).into())
        }
        Err(RetryRefusal::Disabled) => {
            let detail = "the destination of the delivery is disabled; enable it first, with POST \
                          /v1/destinations/{id}/enable";
            Err(Problem::new(ProblemCode::DestinationDisabled, detail).into())
        }
    }
}
