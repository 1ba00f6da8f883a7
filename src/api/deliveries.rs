//! Deliveries: list, show, try now.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::http::{
    BODY_MAX, Caller, FieldErrorCode, FieldErrors, IdempotencyClaim, ObjectReader, PathId, Problem,
    ProblemCode, Query, RequestBody, cursor,
};
use super::{Answer, Api, answered, first_answer, page, replayed, reply, view};
use crate::domain::{Delivery, DeliveryId, DeliveryStatus, DestinationId, WatchId};
use crate::store::{
    DeliveryFilter, FirstAnswer, RetriedMany, RetryDelivery, RetryDeliveryResult, RetryMany, Scope,
};

/// How many deliveries one request may ask to be tried again: seconds of work, a chunk at a time.
const RETRY_MAX: u32 = 100_000;

/// `GET /v1/deliveries`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let filter = DeliveryFilter {
        status: query.word("status", DeliveryStatus::WORDS, DeliveryStatus::parse),
        watch: query.read("watchId", "is not a watch's id", WatchId::parse),
        destination: query.read("destinationId", "is not a destination's id", DestinationId::parse),
        since: query.time("since"),
        until: query.time("until"),
        before: query.read("cursor", cursor::WRONG, |text| cursor::decode(text).map(DeliveryId)),
    };
    query.done()?;
    let found = api.store.deliveries(app, filter, limit + 1).await?;
    let shown = |one: &Delivery| serde_json::value::to_raw_value(&view::delivery(one, None)).ok();
    Ok(page(found.iter(), limit, |one| cursor::encode(one.id.0), |one| shown(one)))
}

/// What was asked to be tried again.
fn many_accepted(count: u64) -> FirstAnswer {
    let body = serde_json::json!({ "count": count }).to_string().into_bytes();
    first_answer(StatusCode::ACCEPTED, None, body)
}

/// `POST /v1/deliveries/retry`
pub async fn retry_many(
    State(api): State<Arc<Api>>,
    caller: Caller,
    body: RequestBody,
    parts: Parts,
) -> Answer {
    let app = caller.require(Scope::Write)?;
    Query::new(&parts).done()?;
    let text = body.json(BODY_MAX).await?;
    let claim = IdempotencyClaim::new(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let mut errors = FieldErrors::default();
    let filter = which_failed(&text, &mut errors);
    errors.check()?;
    let Some(_permit) = api.batches.try_acquire(app) else {
        return Err(Problem::busy("too many batches are in progress; send the request again later"));
    };
    if api.store.count_failed(app, filter, RETRY_MAX + 1).await? > RETRY_MAX {
        let detail = format!("matches more than {RETRY_MAX} deliveries; select fewer with since and until");
        return Err(Problem::field("", FieldErrorCode::TooMany, detail));
    }
    let remember = claim.as_ref().map(|claim| (claim.remember(), many_accepted as fn(u64) -> FirstAnswer));
    let now = api.clock.now();
    let mut retry_delivery = RetryMany { app, filter, after: None, count: 0, remember, now };
    loop {
        match api.store.retry_many(retry_delivery.clone()).await? {
            RetriedMany::More(after, count) => {
                (retry_delivery.after, retry_delivery.count) = (Some(after), count)
            }
            RetriedMany::Done(count) => return Ok(answered(many_accepted(count))),
            RetriedMany::Replayed(replay) => return replayed(replay),
        }
    }
}

fn which_failed(text: &str, errors: &mut FieldErrors) -> DeliveryFilter {
    let fields = serde_json::from_str(text).ok().and_then(|raw| ObjectReader::read(raw, "", errors));
    let Some(mut fields) = fields else { return DeliveryFilter::default() };
    let at = fields.at("status");
    let status = fields.required_text("status", errors);
    if status.is_some_and(|status| status != "failed") {
        errors.add(
            at,
            FieldErrorCode::InvalidValue,
            "must be `failed`; pending deliveries are retried anyway",
        );
    }
    let destination = fields.parsed("destinationId", errors, |text| {
        DestinationId::parse(text)
            .ok_or_else(|| (FieldErrorCode::InvalidFormat, "is not a destination's id".to_owned()))
    });
    let (since, until) = (fields.time("since", errors), fields.time("until", errors));
    fields.done(errors);
    DeliveryFilter { destination, since, until, ..DeliveryFilter::default() }
}

/// `GET /v1/deliveries/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    Query::new(&parts).done()?;
    let id = DeliveryId::parse(&id).ok_or_else(Problem::not_found)?;
    let (delivery, attempts) = api.store.delivery(app, id).await?.ok_or_else(Problem::not_found)?;
    let body = serde_json::to_vec(&view::delivery(&delivery, Some(&attempts))).unwrap_or_default();
    Ok(reply(StatusCode::OK, body))
}

/// `POST /v1/deliveries/{id}/retry`
pub async fn retry(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId,
    body: RequestBody,
    parts: Parts,
) -> Answer {
    let app = caller.require(Scope::Write)?;
    Query::new(&parts).done()?;
    let body = body.no_fields().await?;
    let claim = IdempotencyClaim::new(&api, app, &parts, &body)?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let id = DeliveryId::parse(&id).ok_or_else(Problem::not_found)?;
    let (delivery, attempts) = api.store.delivery(app, id).await?.ok_or_else(Problem::not_found)?;
    let body = serde_json::to_vec(&view::delivery(&delivery, Some(&attempts))).unwrap_or_default();
    let answer = first_answer(StatusCode::ACCEPTED, None, body);
    let remember = claim.as_ref().map(|claim| (claim.remember(), answer.clone()));
    match api
        .store
        .retry_delivery(RetryDelivery { app, delivery: id, remember, now: api.clock.now() })
        .await?
    {
        RetryDeliveryResult::Unknown => Err(Problem::not_found()),
        RetryDeliveryResult::Stopped => {
            let detail = "the watch of the delivery was stopped, so the delivery cannot be retried";
            Err(Problem::new(ProblemCode::WatchStopped, detail))
        }
        RetryDeliveryResult::Wanted => Ok(answered(answer)),
        RetryDeliveryResult::Replayed(replay) => replayed(replay),
    }
}
