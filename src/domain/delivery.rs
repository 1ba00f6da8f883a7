//! Deliveries: one event on its way to one destination; and the names of the notification channels, with the facts
//! about them that the store needs. Everything else about a channel is in the channel table (`channels::TABLE`).

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;

use super::{AppNo, DeliveryId, DestinationId, EventId, EventType, Timestamp, WatchId};

word_enum! {
    /// Name of a channel, such as `webhook`, `email` or `slack`. Later versions may add channels.
    open ChannelKind {
        /// A signed HTTP POST.
        Webhook = "webhook",
        /// An email.
        Email = "email",
        /// A message in Slack, or in a chat that accepts Slack's messages.
        Slack = "slack",
    }
}

/// What the store needs to know about a channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelTraits {
    /// Whether an address is a credential, because it alone permits sending to it. The store seals such
    /// addresses at rest.
    pub secret_address: bool,
    /// Whether the channel sends the payload form that the watch requests. Other channels render the event.
    pub payload_forms: bool,
}

impl ChannelKind {
    /// Returns the channel's traits.
    pub const fn traits(self) -> ChannelTraits {
        match self {
            Self::Webhook => ChannelTraits { secret_address: false, payload_forms: true },
            Self::Email => ChannelTraits { secret_address: false, payload_forms: false },
            Self::Slack => ChannelTraits { secret_address: true, payload_forms: false },
        }
    }
}

word_enum! {
    /// Form of the body that a receiver gets.
    Payload {
        /// The event, as the API documents it.
        Event = "event",
        /// The provider's response, byte for byte.
        Raw = "raw",
        /// The event's data in a `CloudEvents` 1.0 envelope.
        CloudEvents = "cloudevents",
    }
}

word_enum! {
    /// Status of a delivery.
    DeliveryStatus {
        /// Another attempt follows.
        Pending = "pending",
        /// The receiver accepted it.
        Succeeded = "succeeded",
        /// Its attempts failed, and no further one follows.
        Failed = "failed",
        /// Nothing failed, and no further attempt follows.
        Skipped = "skipped",
    }
}

word_enum! {
    /// Why no further attempt follows.
    Reason {
        /// Every attempt of the retry schedule failed.
        Exhausted = "exhausted",
        /// The receiver refused this delivery for ever (410, unknown recipient or chat), or an earlier one to
        /// the same destination; the later deliveries are skipped.
        Gone = "gone",
        /// The watch was stopped.
        Stopped = "stopped",
        /// The destination is disabled.
        Disabled = "disabled",
        /// The watch ended before this progress event was delivered.
        Superseded = "superseded",
        /// The guard forbids the address.
        Refused = "refused",
    }
}

/// A channel and an address, as a watch has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    /// Public id.
    pub id: DestinationId,
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Address, in its normalised spelling.
    pub address: String,
    /// Name of the destination queue: the app, with the scheme, host and port of a URL, or with the mail
    /// server, or with the hash of a chat's address.
    pub queue: String,
    /// Additional headers of each request.
    pub headers: Vec<(String, String)>,
    /// Secret that signs in place of the app's.
    pub secret: Option<String>,
}

impl fmt::Debug for Destination {
    /// Prints no secret, and no address, because a URL can contain a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Destination")
            .field("id", &self.id)
            .field("channel", &self.channel)
            .field("queue", &self.queue)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// A delivery that is ready for an attempt, with everything that a channel needs.
#[derive(Clone, Debug)]
pub struct PendingDelivery {
    /// App that owns the watch.
    pub app: AppNo,
    /// Id of the delivery.
    pub id: DeliveryId,
    /// Id of the event; also the `webhook-id`.
    pub event: EventId,
    /// Type of the event.
    pub event_type: EventType,
    /// The watch that the event is about.
    pub watch: WatchId,
    /// Destination of the delivery.
    pub destination: Destination,
    /// W3C trace context of the registration.
    pub traceparent: Option<String>,
    /// Exact bytes that every attempt sends.
    pub body: Arc<[u8]>,
    /// Form of the bytes.
    pub payload: Payload,
    /// Index of the next attempt in the retry schedule.
    pub step: u32,
    /// Number of recorded attempts.
    pub attempts: u32,
    /// Whether the next attempt is a manual retry, which uses no place of the schedule.
    pub manual: bool,
    /// End of the job, where this is the first attempt to report it.
    pub finished: Option<Finished>,
}

/// End of a job by its provider's clock. The detection delay is measured from it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Finished {
    /// Id of the provider.
    pub provider: String,
    /// Time of the end.
    #[serde(rename = "completedAt")]
    pub at: Timestamp,
}

/// One attempt at a delivery, for the attempt log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Start of the attempt.
    pub at: Timestamp,
    /// Duration in milliseconds.
    pub duration_ms: u32,
    /// HTTP status of the response, if there was one.
    pub status_code: Option<u16>,
    /// A code and a sentence; `None` if the attempt succeeded.
    pub error: Option<String>,
    /// Headers of the request.
    pub request_headers: Vec<(String, String)>,
    /// Headers of the response.
    pub response_headers: Vec<(String, String)>,
    /// Beginning of the response's body.
    pub response_body: String,
}

/// A delivery, as the API shows it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Public id.
    pub id: DeliveryId,
    /// Id of the event.
    pub event: EventId,
    /// Type of the event.
    pub event_type: EventType,
    /// The watch that the event is about.
    pub watch: WatchId,
    /// Id of the destination.
    pub destination: DestinationId,
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Address of the destination.
    pub address: String,
    /// Current status.
    pub status: DeliveryStatus,
    /// Why no further attempt follows.
    pub reason: Option<Reason>,
    /// Time of the next attempt.
    pub next_attempt_at: Option<Timestamp>,
    /// Time of creation.
    pub created_at: Timestamp,
}
