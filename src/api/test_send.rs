//! Test sends: one event of type `test` to a destination, and what its receiver answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use utoipa::ToSchema;

use super::destinations::{DestinationReader, DestinationRequest, Target, UNKNOWN, destinations};
use super::http::{
    Answer, Api, Call, Content, FieldErrorCode, FieldErrors, Problem, Write, first_answer, joined,
};
use crate::channels::{AttemptResult, hint};
use crate::domain::{
    AppNo, DeliveryId, Destination, DestinationId, EventId, EventType, Id, Outcome, Payload, PendingDelivery,
    Timestamp, WatchId,
};
use crate::events::TestBody;
use crate::store::{Idempotent, KeepAnswer};

/// Maximum number of tests in progress. Each holds a connection.
pub const TESTS_MAX: usize = 64;

/// Time for the resolution of the destination's name.
const LOOK_UP_FOR: Duration = Duration::from_secs(1);

/// Maximum size of an answer, in bytes: 16 KiB of body and of headers, escaped.
const ANSWER_MAX: usize = 128 * 1024;

/// What to test.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the reader of destinations reads it")]
struct Test {
    /// A destination in any form of an entry of `notify`.
    destination: Target,
}

/// What the receiver answered.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TestResult<'a> {
    /// Whether the receiver accepted the event.
    ok: bool,
    /// HTTP status of the receiver; null without an answer, and for a mail.
    #[schema(required)]
    status_code: Option<u16>,
    /// Duration of the exchange, in milliseconds.
    duration_ms: u32,
    /// Why the test failed; null if it succeeded, or if the status is sufficient.
    #[schema(required)]
    error: Option<&'a str>,
    /// What to check; null if the test succeeded.
    #[schema(required)]
    hint: Option<&'static str>,
    /// Values that are secret are `***`.
    request_headers: BTreeMap<&'a str, String>,
    response_headers: BTreeMap<&'a str, String>,
    /// Up to 16 KiB of the receiver's answer.
    response_body: &'a str,
}

impl<'a> TestResult<'a> {
    fn of(destination: &Destination, result: &'a AttemptResult) -> Self {
        let attempt = &result.attempt;
        Self {
            ok: result.outcome == Outcome::Ok,
            status_code: attempt.status_code,
            duration_ms: attempt.duration_ms,
            error: attempt.error.as_deref(),
            hint: hint(destination.channel, result),
            request_headers: joined(&attempt.request_headers),
            response_headers: joined(&attempt.response_headers),
            response_body: &attempt.response_body,
        }
    }
}

/// Send a test
///
/// Sends one event of type `test` to a destination, once, in the way of a delivery: the same address check, signature,
/// timeout and pace. The answer is 200 whatever the receiver says. The test is no delivery: it is not retried, not
/// listed, and changes nothing for other deliveries to the address. A saved destination gets it whatever its `events`,
/// and also while it is disabled. An app can send ten tests a minute.
#[utoipa::path(
    post, path = "/v1/test", operation_id = "sendTest", tag = "Deliveries", security(("key" = ["write"])),
    request_body(content = Test, example = json!({"destination": "https://app.example.com/hooks/muvi"})),
    responses(
        (status = 200, description = "The test was made.", body = TestResult),
        (status = 429, description = "The app has sent ten tests within a minute."),
    )
)]
pub async fn send(call: Call) -> Answer {
    let write = call.write(Content::OBJECT).await?;
    let (api, app) = (&write.api, write.app());
    let now = api.clock.now();
    let requests = write.object(|fields| {
        let mut reader = DestinationReader::new(&api.channels);
        let at = fields.at("destination");
        match fields.take("destination") {
            Some(raw) => reader.one(raw, at, fields.errors),
            None => _ = fields.required_text("destination"),
        }
        Some(reader.requests)
    })?;
    let saved = match &requests[..] {
        [(at, DestinationRequest::Saved(id))] => Some((at, *id)),
        _ => None,
    };
    let destination = if let Some((at, id)) = saved {
        let unknown = || Problem::field(at, FieldErrorCode::UnknownDestination, UNKNOWN);
        find(api, app, id).await?.ok_or_else(unknown)?
    } else {
        let mut errors = FieldErrors::default();
        let until = api.clock.moment().plus(LOOK_UP_FOR);
        let mut found = destinations(api, app, &requests, (now, until), &mut errors).await?;
        errors.check()?;
        // Without an error, there is one.
        found.pop().ok_or_else(Problem::not_found)?
    };
    test_and_answer(&write, &destination, saved.map(|(_, id)| id)).await
}

/// Send a test to a saved destination
///
/// As `POST /v1/test`: also while the destination is disabled, and whatever its `events`. The test changes neither its
/// health nor whether it is enabled.
#[utoipa::path(
    post, path = "/v1/destinations/{id}/test", operation_id = "testDestination", tag = "Destinations",
    security(("key" = ["write"])), params(("id" = DestinationId, Path)),
    responses(
        (status = 200, description = "The test was made.", body = TestResult),
        (status = 429, description = "The app has sent ten tests within a minute."),
    )
)]
pub async fn send_to_saved(call: Call) -> Answer {
    let write = call.write(Content::Nothing).await?;
    let id = write.id(DestinationId::parse)?;
    let destination = find(&write.api, write.app(), id).await?.ok_or_else(Problem::not_found)?;
    test_and_answer(&write, &destination, Some(id)).await
}

/// Returns a saved destination, also a disabled one.
async fn find(api: &Api, app: AppNo, id: DestinationId) -> Result<Option<Destination>, Problem> {
    let found = api.store.destinations_to_use(app, vec![id]).await?;
    Ok(found.into_iter().next().map(|(destination, _)| destination))
}

/// Sends a test, and answers with its result, which an idempotency key keeps.
async fn test_and_answer(write: &Write, destination: &Destination, saved: Option<DestinationId>) -> Answer {
    let api = &write.api;
    write.reserve_answer(ANSWER_MAX)?;
    let result = test(api, write.app(), destination.clone(), saved).await?;
    let answer = first_answer(StatusCode::OK, &TestResult::of(destination, &result));
    if let Some(key) = write.key() {
        let keep = Idempotent::with_response(KeepAnswer, Some(key), &answer);
        let sent = |error| Problem::after_commit(error, "the test was sent, and its result was not kept");
        let Ok(()) = api.store.keep_answer(keep).await.map_err(sent)??;
    }
    Ok(answer.into_response())
}

/// Sends a test to a destination; `saved` is its id if it is a saved one.
async fn test(
    api: &Arc<Api>,
    app: AppNo,
    destination: Destination,
    saved: Option<DestinationId>,
) -> Result<AttemptResult, Problem> {
    let busy = || Problem::busy("too many tests are in progress; send this one again later");
    let _permit = api.tests.try_acquire(app).ok_or_else(busy)?;
    api.send_rates.take_test(app, api.clock.moment())?;
    let delivery = delivery(api, app, destination, saved, api.clock.now());
    let closed = || {
        Problem::busy(
            "the channel accepts no message at the moment, because of its pace or a Retry-After; send the test again \
             later",
        )
    };
    (api.send_test)(delivery).await.ok_or_else(closed)
}

fn delivery(
    api: &Api,
    app: AppNo,
    destination: Destination,
    saved: Option<DestinationId>,
    now: Timestamp,
) -> PendingDelivery {
    let draw = || api.store.ids().draw(now);
    PendingDelivery {
        app,
        id: DeliveryId(draw()),
        event: EventId(draw()),
        event_type: EventType::Test,
        // No watch has this id, and no message shows it.
        watch: WatchId(Id::from_bytes([0; 16])),
        body: TestBody::new(now, saved).to_json().into(),
        destination,
        traceparent: None,
        payload: Payload::Event,
        step: 0,
        waited: Duration::ZERO,
        attempts: 0,
        manual: false,
        finished: None,
    }
}
