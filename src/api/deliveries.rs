//! Deliveries: list, show, try now.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::object_reader::ObjectReader;
use super::problem::FieldErrors;
use super::request::{BODY_MAX, Caller, Claim, Held, Name, Query, json, no_fields};
use super::{Answer, Api, answered, cursor, first_answer, page, problem::Problem, replayed, reply, view};
use crate::domain::{Delivery, DeliveryId, DeliveryStatus, DestinationId, WatchId};
use crate::store::{
    DeliveryFilter, FirstAnswer, RetriedMany, RetryDelivery, RetryDeliveryResult, RetryMany, Scope,
};

/// How many deliveries one request may ask to be tried again: seconds of work, a chunk at a time.
const RETRY_MAX: u32 = 100_000;

/// `GET /v1/deliveries`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.may(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let filter = DeliveryFilter {
        status: query.read("status", "must be pending, succeeded, failed or skipped", DeliveryStatus::parse),
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
    Extension(held): Extension<Held>,
    parts: Parts,
) -> Answer {
    let app = caller.may(Scope::Write)?;
    Query::new(&parts).done()?;
    let text = json(&held, &parts.headers, &api.clock, BODY_MAX).await?;
    let claim = Claim::new(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = Claim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let mut errors = FieldErrors::default();
    let filter = which_failed(&text, &mut errors);
    errors.check()?;
    let Some(_seat) = api.batches.take(app) else {
        return Err(Problem::unavailable("too many batches at once; ask again in a moment"));
    };
    if api.store.count_failed(app, filter, RETRY_MAX + 1).await? > RETRY_MAX {
        let detail = format!("there are more than {RETRY_MAX}: take a part of them by since and until");
        return Err(Problem::fault("", detail));
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
    let status = fields.text("status", errors);
    match status.as_deref() {
        Some("failed") => {}
        Some(_) => errors.add(at, "must be `failed`: what is pending is tried anyway"),
        None => errors.add(at, "is required, and must be `failed`"),
    }
    let destination = fields.parsed("destinationId", errors, |text| {
        DestinationId::parse(text).ok_or_else(|| "is not a destination's id".to_owned())
    });
    let (since, until) = (fields.time("since", errors), fields.time("until", errors));
    fields.done(errors);
    DeliveryFilter { destination, since, until, ..DeliveryFilter::default() }
}

/// `GET /v1/deliveries/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, Name(id): Name, parts: Parts) -> Answer {
    let app = caller.may(Scope::Read)?;
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
    Name(id): Name,
    Extension(held): Extension<Held>,
    parts: Parts,
) -> Answer {
    let app = caller.may(Scope::Write)?;
    Query::new(&parts).done()?;
    let body = no_fields(&held, &parts.headers, &api.clock).await?;
    let claim = Claim::new(&api, app, &parts, &body)?;
    if let Some(replay) = Claim::first_answer(claim.as_ref()).await? {
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
            let detail = "its watch was stopped: nothing more is sent of it";
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        RetryDeliveryResult::Wanted => Ok(answered(answer)),
        RetryDeliveryResult::Replayed(replay) => replayed(replay),
    }
}
