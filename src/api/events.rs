//! The feed of events.

use axum::http::StatusCode;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::http::{
    Answer, Call, FieldErrorCode, Page, PageParams, Problem, ProblemCode, cursor, page, reply,
};
use crate::domain::{Event, EventId, EventType};
use crate::events::EventBody;
use crate::store::{After, EventFilter};

/// An event as it was delivered, with its id.
#[derive(ToSchema)]
#[schema(as = Event)]
#[expect(dead_code, reason = "`listed` writes it, from the stored bytes")]
pub struct EventView<'a> {
    id: EventId,
    #[serde(flatten)]
    body: EventBody<'a>,
}

/// Writes an event as it is listed: its stored body with its id in front.
pub fn listed(event: &Event) -> Box<RawValue> {
    let body = String::from_utf8_lossy(&event.body);
    let listed = format!("{{\"id\":\"{}\",{}", event.id, body.strip_prefix('{').unwrap_or("}"));
    RawValue::from_string(listed).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// 410: what came after an event that is not stored cannot be known.
pub fn gone() -> Problem {
    Problem::new(
        ProblemCode::EventGone,
        "the event to continue after does not exist or was deleted; start again without `after`",
    )
}

/// List events
///
/// Oldest first. `after` continues after an event.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "listEvents", tag = "Events", security(("key" = ["read"])),
    params(
        PageParams,
        ("after" = Option<EventId>, Query, description = "Only events after this one. Not together with `cursor`."),
        ("type" = Option<EventType>, Query, description = "Only events of this type."),
    ),
    responses(
        (status = 200, description = "A page of events.", body = Page<EventView>),
        (status = 410, description = "The event of `after` does not exist, or does not exist any more."),
    )
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
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
    let found = call.api.store.events(call.app(), after, filter, limit + 1).await?.ok_or_else(gone)?;
    Ok(page(&found, limit, |event| cursor::encode_feed_position(event.position), listed))
}

/// Show an event
#[utoipa::path(
    get, path = "/v1/events/{id}", operation_id = "showEvent", tag = "Events", security(("key" = ["read"])),
    params(("id" = EventId, Path)),
    responses((status = 200, description = "The event.", body = EventView))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(EventId::parse)?;
    let event = call.api.store.event(call.app(), id).await?.ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, listed(&event).get().as_bytes().to_vec()))
}
