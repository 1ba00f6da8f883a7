//! The feed of events: as pages, and as a stream of server-sent events.
//!
//! **No event is skipped.** A stream is a position in the app's feed, and positions become visible in their
//! order (`store/events`). The stream subscribes to changes before it reads the feed, so a commit between the
//! two wakes it. Every event that it sends is read from the feed, after its position.
//!
//! **A slow client delays only itself.** The next page is read when the client has taken the previous one.
//! A client that takes nothing for half a minute loses the connection (`http/stream`) and can resume with
//! `Last-Event-ID`. An idle stream is not closed: a comment every 15 s shows the client, the server and
//! every proxy between them that the connection works.
//!
//! **Every stream ends.** It ends with the server, when its key expires or is revoked (before anything more
//! is sent), and after an hour. The client then reconnects by itself, and its key is checked again.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderName, StatusCode, header};
use axum::response::IntoResponse as _;
use futures_util::stream;
use hyper::body::Bytes;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::filters::{ListedEventType, check_job_id};
use super::http::{
    Answer, Call, FieldErrorCode, Page, PageParams, Problem, ProblemCode, cursor, is_set, json_text, listed,
};
use crate::domain::{Event, EventId, EventType, FeedOrder, WatchId};
use crate::events::{DeliveryBody, DestinationBody, EventBody, GroupBody};
use crate::store::{After, EventFilter, Followed};

/// Largest number of streams, of which one app gets half. Each holds a connection and up
/// to three pages of events, whose memory is counted.
pub const STREAMS_MAX: usize = 896;

/// Pause after which an app that is over its budget of memory is tried again.
const MEMORY_PAUSE: Duration = Duration::from_secs(1);

/// Largest number of events that are read at a time, and their largest size in bytes; a larger event is read alone.
const PAGE: (u32, usize) = (16, 64 * 1024);

/// Interval of the comments on an idle stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Longest duration of a stream.
const STREAM_FOR: Duration = Duration::from_secs(3600);

/// Asks the client to wait a second before it reconnects. It is a line, and not a block of lines: the parsers of
/// `httpx-sse` and of the OpenAI client make an empty event of every blank line after an id or a `retry`.
const RETRY: &[u8] = b"retry: 1000\n";

/// A comment, for the same reason without a blank line after it.
const COMMENT: &[u8] = b": keep-alive\n";

/// An event as it was delivered, with its id. `type` says what it is about.
#[derive(ToSchema)]
#[schema(as = Event)]
#[serde(untagged)]
#[expect(dead_code, reason = "`written` writes it, from the stored bytes")]
pub enum EventView<'a> {
    /// An event of a watch.
    Watch(WatchEvent<'a>),
    /// An event of a saved destination.
    Destination(DestinationEvent<'a>),
    /// An event of a delivery.
    Delivery(DeliveryEvent<'a>),
    /// An event of a group.
    Group(GroupEvent<'a>),
}

/// An event of a watch, with its id.
#[derive(ToSchema)]
#[expect(dead_code, reason = "part of `EventView`")]
pub struct WatchEvent<'a> {
    id: EventId,
    #[serde(flatten)]
    body: EventBody<'a>,
}

/// An event of a saved destination, with its id.
#[derive(ToSchema)]
#[expect(dead_code, reason = "part of `EventView`")]
pub struct DestinationEvent<'a> {
    id: EventId,
    #[serde(flatten)]
    body: DestinationBody<'a>,
}

/// An event of a delivery, with its id.
#[derive(ToSchema)]
#[expect(dead_code, reason = "part of `EventView`")]
pub struct DeliveryEvent<'a> {
    id: EventId,
    #[serde(flatten)]
    body: DeliveryBody<'a>,
}

/// An event of a group, with its id.
#[derive(ToSchema)]
#[expect(dead_code, reason = "part of `EventView`")]
pub struct GroupEvent<'a> {
    id: EventId,
    #[serde(flatten)]
    body: GroupBody<'a>,
}

/// Writes an event as it is listed: its stored body with its id in front.
fn written(event: &Event) -> Box<RawValue> {
    let body = String::from_utf8_lossy(&event.body);
    let listed = format!("{{\"id\":\"{}\",{}", event.id, body.strip_prefix('{').unwrap_or("}"));
    RawValue::from_string(listed).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// 410: what came after an event that is not stored cannot be known.
fn gone() -> Problem {
    let detail = "the event to continue after does not exist or was deleted; start again without `after`";
    Problem::new(ProblemCode::EventGone, detail)
}

/// List events
///
/// Oldest first, unless `order` is `desc`. `after` continues after an event.
#[utoipa::path(
    get, path = "/v1/events", operation_id = "listEvents", tag = "Events", security(("key" = ["read"])),
    params(
        PageParams,
        ("after" = Option<EventId>, Query,
            description = "Only events after this one. Not together with `cursor` or `order=desc`."),
        ("type" = Option<ListedEventType>, Query, description = "Only events of this type."),
        ("watchId" = Option<WatchId>, Query, description = "Only events of this watch."),
        ("jobId" = Option<String>, Query, description = "Only events of watches on jobs with this id."),
        ("order" = Option<FeedOrder>, Query, description = "`asc` (default): oldest first; `desc`: newest first."),
    ),
    responses(
        (status = 200, description = "A page of events.", body = Page<EventView>),
        (status = 410, description = "The event of `after` does not exist, or does not exist any more."),
    )
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let order = query.word("order", FeedOrder::WORDS, FeedOrder::parse).unwrap_or(FeedOrder::Ascending);
    let filter = EventFilter {
        event_type: query.word("type", &EventType::listed_words(), EventType::parse_listed),
        watch: query.read("watchId", "is not a watch's id, which begins with watch_", WatchId::parse),
        job_id: query.parsed("jobId", check_job_id),
        is_newest_first: order == FeedOrder::Descending,
    };
    let position = query.cursor(cursor::List::Feed);
    let after = query.text("after");
    if after.is_some() && position.is_some() {
        let detail = "cannot be used with a cursor; give one of both";
        query.errors.add("?after", FieldErrorCode::Conflict, detail);
    } else if after.is_some() && filter.is_newest_first {
        let detail = "cannot be used with the order desc; continue at `nextCursor` of the page before";
        query.errors.add("?after", FieldErrorCode::Conflict, detail);
    }
    query.done()?;
    let after = match (position, after) {
        (Some(position), _) => After::Position(position),
        (None, Some(id)) => After::Event(EventId::parse(&id).ok_or_else(gone)?),
        (None, None) => After::Start,
    };
    let found = call.api.store.events(call.app(), after, filter, limit).await?.ok_or_else(gone)?;
    Ok(listed(&found, |position: i64| cursor::encode(cursor::List::Feed, &position), written))
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
    Ok(json_text(StatusCode::OK, written(&event).get().as_bytes().to_vec()))
}

/// Follow events
///
/// Server-sent events: `id`, `event` (the type) and `data` (the event as it is listed). Without
/// `Last-Event-ID` and `after` the stream begins with the next event. A comment every 15 s shows that the
/// connection works. The stream ends after an hour, or with the server; clients reconnect by themselves.
#[utoipa::path(
    get, path = "/v1/events/stream", operation_id = "streamEvents", tag = "Events",
    security(("key" = ["read"])),
    params(
        ("after" = Option<EventId>, Query, description = "Only events after this one."),
        ("type" = Option<ListedEventType>, Query, description = "Only events of this type."),
        ("Last-Event-ID" = Option<String>, Header,
            description = "Id of the last event that the client received. It has precedence over `after`."),
    ),
    responses(
        (status = 200, description = "The stream.", body = String, content_type = "text/event-stream"),
        (status = 410, description = "The event to continue after does not exist, or does not exist any more."),
    )
)]
pub async fn follow(call: Call) -> Answer {
    let (api, app) = (&call.api, call.app());
    let mut query = call.query();
    let event_type = query.word("type", &EventType::listed_words(), EventType::parse_listed);
    let after = query.text("after");
    query.done()?;
    // A client that reconnects repeats its URL and names the last event in the header.
    let last = call.parts.headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
    let after = last.filter(|id| !id.is_empty()).map(std::borrow::Cow::into_owned).or(after);
    let after = after.map(|id| EventId::parse(&id).ok_or_else(gone)).transpose()?;
    let busy = || Problem::busy("too many streams are open; connect again later, or page through /v1/events");
    let permit = api.streams.try_acquire(app).ok_or_else(busy)?;
    let position = api.store.follow_from(app, after).await?.ok_or_else(gone)?;
    let (sender, mut frames) = mpsc::channel(1);
    tokio::spawn(async move {
        send_events(&call, position, event_type, &sender).await;
        drop(permit);
    });
    let frames = stream::poll_fn(move |cx| frames.poll_recv(cx).map(|frame| frame.map(Ok::<_, Infallible>)));
    let headers =
        [(header::CONTENT_TYPE, "text/event-stream"), (HeaderName::from_static("x-accel-buffering"), "no")];
    Ok((headers, Body::from_stream(frames)).into_response())
}

/// Sends the events after `position` until the client leaves or the stream ends.
async fn send_events(
    call: &Call,
    position: i64,
    event_type: Option<EventType>,
    frames: &mpsc::Sender<Bytes>,
) {
    let (api, app) = (&call.api, call.app());
    let feed = api.store.feed_changes(app);
    let mut draining = api.draining.clone();
    let mut position = position;
    let stopwatch = api.clock.stopwatch();
    // The first bytes show the client that the stream is open.
    let mut text = Bytes::from_static(RETRY);
    while call.caller.is_still_valid(api) {
        tokio::select! {
            sent = frames.send(text) => if sent.is_err() { return },
            () = is_set(&mut draining) => return,
        }
        let left = STREAM_FOR.saturating_sub(stopwatch.elapsed());
        let mut next_comment = pin!(api.clock.sleep(KEEP_ALIVE.min(left)));
        let mut memory = api.memory.hold(Some(app));
        let events = loop {
            let changed = feed.armed();
            // Only while a page is read and sent: an idle stream holds nothing.
            while !memory.try_resize_for_read(PAGE.1) {
                tokio::select! {
                    () = api.clock.sleep(MEMORY_PAUSE) => {}
                    () = frames.closed() => return,
                    () = is_set(&mut draining) => return,
                }
            }
            // On an error the stream ends; the client reconnects and gets the reason.
            let page = api.store.follow(app, position, event_type, PAGE).await;
            let Ok(Followed { events, next, is_end }) = page else { return };
            position = next;
            if !events.is_empty() {
                break events;
            }
            if !is_end {
                continue;
            }
            memory.resize(0);
            tokio::select! {
                () = changed => {}
                () = &mut next_comment => break events,
                () = frames.closed() => return,
                () = is_set(&mut draining) => return,
            }
        };
        if stopwatch.elapsed() >= STREAM_FOR {
            return;
        }
        text = if events.is_empty() {
            Bytes::from_static(COMMENT)
        } else {
            let blocks = blocks(&events);
            memory.resize(blocks.len());
            memory.attach(blocks)
        };
    }
}

/// Writes events, each as it is listed, as lines of the stream.
fn blocks(events: &[Event]) -> Bytes {
    let mut text = String::new();
    for event in events {
        let data = written(event);
        text.extend(["id: ", &event.id.to_string(), "\nevent: ", event.event_type.as_str(), "\n"]);
        // Metadata is kept as it was written and may hold line breaks. Between two tokens of JSON any
        // white space is the same.
        for line in data.get().split(['\r', '\n']) {
            text.extend(["data: ", line, "\n"]);
        }
        text.push('\n');
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Id, Timestamp};

    #[test]
    fn line_breaks_in_metadata_do_not_split_an_event() {
        let id = EventId(Id::from_bytes([0; 16]));
        let event = Event {
            id,
            position: 1,
            event_type: EventType::JobCompleted,
            watch: Some(WatchId(Id::from_bytes([0; 16]))),
            at: Timestamp::default(),
            body: b"{\"data\":{\"metadata\":{\r\n \"a\": 1\n}}}".to_vec(),
        };
        let blocks = blocks(&[event]);
        assert_eq!(
            std::str::from_utf8(&blocks).expect("text"),
            format!(
                "id: {id}\nevent: job.completed\ndata: {{\"id\":\"{id}\",\"data\":{{\"metadata\":{{\n\
                 data: \ndata:  \"a\": 1\ndata: }}}}}}\n\n"
            )
        );
    }
}
