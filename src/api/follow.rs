//! The feed as server-sent events.
//!
//! **Never skips.** A stream is a position in the app's feed, and positions become visible in their order
//! (`store/feed`). The bell is armed before the feed is read, so what is committed in between rings it;
//! and whatever the bell says, what is sent is what the feed holds after the position.
//!
//! **A slow client holds a page, not the feed.** The next page is read when the one before has been
//! taken; who takes nothing for half a minute loses the connection (`api/stream`), and comes back with
//! `Last-Event-ID`. A quiet stream has nothing to take and is not cut: a comment every 15 s tells both
//! sides, and all proxies between them, that the other is still there.
//!
//! **Nothing is for ever.** A stream ends when the server does, when its key has expired or was revoked
//! (before anything more is sent), and after an hour. A client comes back by itself, and shows its key.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::Response;
use hyper::body::{Bytes, Frame};
use tokio::sync::mpsc;

use super::events::gone;
use super::http::{Caller, Problem, Query, is_set};
use super::{Answer, Api, view};
use crate::domain::{Event, EventId, EventType};
use crate::store::{EventFilter, Scope};

/// How many may follow at once: each holds a connection, and up to three pages of events.
pub const STREAMS_MAX: usize = 512;

/// How many events are read at a time.
const PAGE: u32 = 16;

/// Between two signs of life.
const SIGN_OF_LIFE: Duration = Duration::from_secs(15);

/// How long one stream lasts.
const STREAM_FOR: Duration = Duration::from_secs(3600);

/// How a client is asked to wait, in milliseconds, before it comes back.
const RETRY: &[u8] = b"retry: 1000\n\n";

/// `GET /v1/events/stream`
pub async fn stream(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let app = caller.require(Scope::Read)?;
    let mut query = Query::new(&parts);
    let filter = EventFilter { event_type: query.word("type", EventType::WORDS, EventType::parse) };
    let after = query.text("after");
    query.done()?;
    // A client that comes back repeats its URL, and says in the header how far it got.
    let last = parts.headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()));
    let after = last.filter(|id| !id.is_empty()).map(std::borrow::Cow::into_owned).or(after);
    let after = after.map(|id| EventId::parse(&id).ok_or_else(gone)).transpose()?;
    let Some(permit) = api.streams.try_acquire(app) else {
        return Err(Problem::busy(
            "too many streams are open; connect again later, or page through /v1/events",
        ));
    };
    let position = api.store.follow_from(app, after).await?.ok_or_else(gone)?;
    let (sender, frames) = mpsc::channel(1);
    tokio::spawn(async move {
        follow(&api, caller, position, filter, &sender).await;
        drop(permit);
    });
    let mut response = Response::new(Body::new(Frames(frames)));
    for (name, value) in [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}

/// Sends what comes after `position`, until somebody has had enough.
async fn follow(api: &Api, caller: Caller, position: i64, filter: EventFilter, frames: &mpsc::Sender<Bytes>) {
    let app = caller.app;
    let bell = api.store.feed_changes(app);
    let mut draining = api.draining.clone();
    let mut position = position;
    let began = api.clock.now();
    // The first bytes, so that the client knows that it is heard.
    let mut text = Bytes::from_static(RETRY);
    while caller.is_still_valid(api) {
        tokio::select! {
            sent = frames.send(text) => if sent.is_err() { return },
            () = is_set(&mut draining) => return,
        }
        let next_sign = api.clock.now().plus(SIGN_OF_LIFE).min(began.plus(STREAM_FOR));
        let events = loop {
            let rung = bell.armed();
            // Who comes back finds out why.
            let Ok((events, next)) = api.store.follow(app, position, filter, PAGE).await else { return };
            position = next;
            if !events.is_empty() {
                break events;
            }
            tokio::select! {
                () = rung => {}
                () = api.clock.sleep_until(next_sign) => break events,
                () = frames.closed() => return,
                () = is_set(&mut draining) => {
                    let _ = frames.try_send(Bytes::from_static(RETRY));
                    return;
                }
            }
        };
        if api.clock.now() >= began.plus(STREAM_FOR) {
            let _ = frames.try_send(Bytes::from_static(RETRY));
            return;
        }
        text = if events.is_empty() { Bytes::from_static(b": keep-alive\n\n") } else { written(&events) };
    }
}

/// The events, each as it is listed, in the lines of the stream.
fn written(events: &[Event]) -> Bytes {
    let mut text = String::new();
    for event in events {
        let listed = view::event(event);
        text.extend(["id: ", &event.id.to_string(), "\nevent: ", event.event_type.as_str(), "\n"]);
        // Metadata is kept as it was written, lines and all; between two tokens of JSON any will do.
        for line in listed.get().split(['\r', '\n']) {
            text.extend(["data: ", line, "\n"]);
        }
        text.push('\n');
    }
    text.into()
}

/// A body that is written while it is sent.
struct Frames(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Id, Timestamp, WatchId};

    #[test]
    fn an_event_with_lines_in_its_metadata_is_still_one_event() {
        let id = EventId(Id::from_bytes([0; 16]));
        let event = Event {
            id,
            position: 1,
            event_type: EventType::JobCompleted,
            watch: WatchId(Id::from_bytes([0; 16])),
            at: Timestamp::default(),
            body: b"{\"data\":{\"metadata\":{\r\n \"a\": 1\n}}}".to_vec(),
        };
        let written = written(&[event]);
        assert_eq!(
            std::str::from_utf8(&written).expect("text"),
            format!(
                "id: {id}\nevent: job.completed\ndata: {{\"id\":\"{id}\",\"data\":{{\"metadata\":{{\n\
                 data: \ndata:  \"a\": 1\ndata: }}}}}}\n\n"
            )
        );
    }
}
