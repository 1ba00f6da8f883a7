//! The feed of events.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;

use super::http::{Caller, FieldErrorCode, PathId, Problem, ProblemCode, Query, cursor};
use super::{Answer, Api, page, reply, view};
use crate::domain::{EventId, EventType};
use crate::store::{After, EventFilter, Scope};

/// 410: the position of an event that does not exist is unknown.
pub(super) fn gone() -> Problem {
    Problem::new(
        ProblemCode::EventGone,
        "the event to continue after does not exist or was deleted; start again without `after`",
    )
}

/// `GET /v1/events`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let filter = EventFilter { event_type: query.word("type", EventType::WORDS, EventType::parse) };
    let position = query.read("cursor", cursor::WRONG, cursor::decode_feed_position);
    let after = query.text("after");
    if after.is_some() && position.is_some() {
        query.errors.add(
            "?after",
            FieldErrorCode::Conflict,
            "cannot be used with a cursor; give one of both",
        );
    }
    query.done()?;
    let after = match (position, after) {
        (Some(position), _) => After::Position(position),
        (None, Some(id)) => After::Event(EventId::parse(&id).ok_or_else(gone)?),
        (None, None) => After::Start,
    };
    let found = api.store.events(app, after, filter, limit + 1).await?.ok_or_else(gone)?;
    let next = |event: &crate::domain::Event| cursor::encode_feed_position(event.position);
    Ok(page(found.iter(), limit, next, |event| Some(view::event(event))))
}

/// `GET /v1/events/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    Query::new(&parts).done()?;
    let id = EventId::parse(&id).ok_or_else(Problem::not_found)?;
    let event = api.store.event(app, id).await?.ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, view::event(&event).get().as_bytes().to_vec()))
}
