//! The ways out: how one message reaches one address, and what came of it.
//!
//! A channel renders, sends and classifies, once, and remembers nothing: when to try again and what
//! to write down is decided by whoever called. Nothing here knows of a database.

pub mod webhook;

use std::time::Duration;

use hyper::body::Bytes;

use crate::clock::Clock;
use crate::domain::{EventId, EventType, Outcome, Payload, Timestamp, WatchId};
use crate::egress::Egress;
use webhook::Secret;

/// One event on its way to one address.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The event; every attempt carries the same id.
    pub event_id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// To which watch.
    pub watch_id: WatchId,
    /// What kind of body it is.
    pub payload: Payload,
    /// The bytes, as they were made with the event.
    pub body: Bytes,
    /// The registration's trace.
    pub traceparent: Option<&'a str>,
    /// When this attempt is made.
    pub now: Timestamp,
    /// Where to.
    pub to: Address<'a>,
}

/// The closed set of ways out, each with what it needs to know.
#[derive(Clone, Debug)]
pub enum Address<'a> {
    /// A signed POST.
    Webhook {
        /// As it was registered.
        url: &'a str,
        /// The user's own, as [`webhook::check_header`] took them.
        headers: &'a [(String, String)],
        /// One signature each: during a rotation there are two.
        secrets: &'a [Secret],
    },
}

/// What one attempt came to.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What it means.
    pub outcome: Outcome,
    /// HTTP's, if there was an answer.
    pub status_code: Option<u16>,
    /// A word and a sentence, if there was none.
    pub error: Option<String>,
    /// What was sent; the values of the user's own headers are masked.
    pub request_headers: Vec<(String, String)>,
    /// What came back.
    pub response_headers: Vec<(String, String)>,
    /// Its beginning, as text.
    pub response_body: String,
    /// How long it took.
    pub duration: Duration,
}

/// Tries once.
pub async fn send(egress: &Egress, clock: &Clock, message: Message<'_>, timeout: Duration) -> Sent {
    match message.to {
        Address::Webhook { url, headers, secrets } => {
            webhook::send(egress, clock, &message, url, headers, secrets, timeout).await
        }
    }
}
