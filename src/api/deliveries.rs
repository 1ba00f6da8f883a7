//! Deliveries: list, show, try now.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::request::{Caller, Claim, Held, Name, Query, no_fields};
use super::{Answer, Api, cursor, page, problem::Problem, replayed, reply, view};
use crate::domain::{Delivery, DeliveryId, DeliveryStatus, DestinationId, WatchId};
use crate::store::{DeliveryFilter, Resend, ResendAnswer, Scope};

/// `GET /v1/deliveries`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.may(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let filter = DeliveryFilter {
        status: query.read("status", "must be pending, succeeded or failed", DeliveryStatus::parse),
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
    let answer = serde_json::to_vec(&view::delivery(&delivery, Some(&attempts))).unwrap_or_default();
    let remember = claim.as_ref().map(|claim| (claim.remember(), answer.clone()));
    match api.store.resend(Resend { app, delivery: id, remember, now: api.clock.now() }).await? {
        ResendAnswer::Unknown => Err(Problem::not_found()),
        ResendAnswer::Stopped => {
            let detail = "its watch was stopped: nothing more is sent of it";
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        ResendAnswer::Wanted => Ok(reply(StatusCode::ACCEPTED, answer)),
        ResendAnswer::Replayed(replay) => replayed(replay),
    }
}
