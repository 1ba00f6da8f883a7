//! The feed of events.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::request::{Caller, Name, Query};
use super::{Answer, Api, cursor, page, problem::Problem, reply, view};
use crate::domain::{EventId, EventType};
use crate::store::{After, EventFilter, Scope};

/// 410: nobody can say what came after an event that is not there.
pub(super) fn gone() -> Problem {
    Problem::new(StatusCode::GONE, "there is no event by the id to go on after, or not any more")
}

/// `GET /v1/events`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.may(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let filter = EventFilter { event_type: query.read("type", "is not an event's type", EventType::parse) };
    let position = query.read("cursor", cursor::WRONG, cursor::decode_position);
    let after = query.text("after");
    if after.is_some() && position.is_some() {
        query.errors.add("?after", "cannot be used with a cursor, which knows where to go on");
    }
    query.done()?;
    let after = match (position, after) {
        (Some(position), _) => After::Position(position),
        (None, Some(id)) => After::Event(EventId::parse(&id).ok_or_else(gone)?),
        (None, None) => After::Start,
    };
    let found = api.store.events(app, after, filter, limit + 1).await?.ok_or_else(gone)?;
    let next = |event: &crate::domain::Event| cursor::encode_position(event.position);
    Ok(page(found.iter(), limit, next, |event| Some(view::event(event))))
}

/// `GET /v1/events/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, Name(id): Name, parts: Parts) -> Answer {
    let app = caller.may(Scope::Read)?;
    Query::new(&parts).done()?;
    let id = EventId::parse(&id).ok_or_else(Problem::not_found)?;
    let event = api.store.event(app, id).await?.ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, view::event(&event).get().as_bytes().to_vec()))
}
