//! What is shown: the contract's shapes, made from facts.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::channels::{self, ShownAddress};
use crate::domain::{
    Attempt, ChannelKind, Delivery, DeliveryId, DeliveryStatus, Destination, DestinationId, Event, EventId,
    EventSet, EventType, JobError, JobStatus, Output, PollStats, Reason, Timestamp, Watch, WatchId,
    WatchStatus,
};
use crate::store::TimelineEntry;

/// A page of a list.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// What is on it.
    pub data: Vec<T>,
    /// Where the next one begins; null at the end.
    pub next_cursor: Option<String>,
}

/// A watch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Watch)]
pub struct WatchView<'a> {
    id: WatchId,
    status: WatchStatus,
    job_id: &'a str,
    provider: &'a str,
    job: JobView<'a>,
    destinations: Vec<DestinationView<'a>>,
    events: Vec<EventType>,
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
    created_at: Timestamp,
    #[schema(required)]
    ended_at: Option<Timestamp>,
    expires_at: Timestamp,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
struct JobView<'a> {
    status: JobStatus,
    #[schema(required)]
    raw_status: Option<&'a str>,
    #[schema(required)]
    progress: Option<u8>,
    #[schema(required)]
    output: Option<&'a str>,
    #[schema(required)]
    outputs: Option<&'a [Output]>,
    #[schema(required)]
    error: Option<&'a JobError>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    #[schema(required)]
    completed_at: Option<Timestamp>,
    #[schema(required)]
    last_polled_at: Option<Timestamp>,
    #[schema(required)]
    next_poll_at: Option<Timestamp>,
    polls: u32,
    /// Nothing is learned of job lengths yet, and the hint of a client is no estimate of ours.
    #[schema(required)]
    estimated_completion_at: Option<Timestamp>,
    #[schema(required)]
    last_error: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = Destination)]
struct DestinationView<'a> {
    id: DestinationId,
    #[serde(flatten)]
    address: AddressView<'a>,
    /// Their values are shown to nobody: `***`.
    #[serde(skip_serializing_if = "Masked::is_empty")]
    #[schema(value_type = std::collections::BTreeMap<String, String>, required = false)]
    headers: Masked<'a>,
    #[schema(required)]
    status: Option<DeliveryStatus>,
}

/// An address, under the name that suits its channel.
#[derive(Serialize, ToSchema)]
#[schema(as = Address)]
struct AddressView<'a> {
    r#type: ChannelKind,
    /// A webhook's, whole; a Slack hook's, masked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    url: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

fn address(r#type: ChannelKind, address: &str) -> AddressView<'_> {
    let nothing = AddressView { r#type, url: None, email: None, channel: None };
    match (channels::spec(r#type).show)(address) {
        ShownAddress::Url(url) => AddressView { url: Some(url), ..nothing },
        ShownAddress::Email(email) => AddressView { email: Some(email), ..nothing },
        ShownAddress::Channel(channel) => AddressView { channel: Some(channel), ..nothing },
    }
}

/// Headers whose values are nobody's business any more.
struct Masked<'a>(&'a [(String, String)]);

impl Masked<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Masked<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, _)| (name, "***")))
    }
}

fn object(metadata: Option<&str>) -> &RawValue {
    // Checked when the watch was registered.
    serde_json::from_str(metadata.unwrap_or("{}")).unwrap_or(RawValue::NULL)
}

fn destination_view((destination, status): &(Destination, Option<DeliveryStatus>)) -> DestinationView<'_> {
    DestinationView {
        id: destination.id,
        address: address(destination.channel, &destination.address),
        headers: Masked(&destination.headers),
        status: *status,
    }
}

/// A watch, with what the process that looks knows of its looks.
pub fn watch(watch: &Watch, looks: Option<PollStats>) -> WatchView<'_> {
    let seen = &watch.seen;
    let looks = looks.unwrap_or_default();
    WatchView {
        id: watch.id,
        status: watch.status,
        job_id: &watch.job.job_id,
        provider: &watch.job.provider,
        job: JobView {
            status: seen.status,
            raw_status: seen.raw_status.as_deref(),
            progress: seen.progress,
            output: seen.output.as_deref(),
            outputs: seen.outputs.as_deref(),
            error: seen.error.as_ref(),
            created_at: seen.created_at,
            completed_at: seen.completed_at,
            last_polled_at: looks.last_polled_at,
            next_poll_at: looks.next_poll_at.filter(|_| watch.status == WatchStatus::Watching),
            polls: looks.polls,
            estimated_completion_at: None,
            last_error: looks.last_error,
        },
        destinations: watch.destinations.iter().map(destination_view).collect(),
        events: EventSet::iter(watch.events).collect(),
        metadata: object(watch.metadata.as_deref()),
        created_at: watch.created_at,
        ended_at: watch.ended_at,
        expires_at: watch.expires_at,
    }
}

/// An event, as lists and the event stream show it.
#[derive(ToSchema)]
#[schema(as = Event, rename_all = "camelCase")]
#[expect(dead_code, reason = "what is kept as bytes has no other shape")]
pub struct EventView {
    id: EventId,
    r#type: EventType,
    timestamp: Timestamp,
    data: EventData,
}

/// What happened to a watch, and how its job was then.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "as above")]
struct EventData {
    watch_id: WatchId,
    provider: String,
    job_id: String,
    /// The job's, or `not_found` or `expired`.
    status: String,
    #[schema(required)]
    raw_status: Option<String>,
    #[schema(required)]
    progress: Option<u8>,
    #[schema(required)]
    output: Option<String>,
    #[schema(required)]
    outputs: Option<Vec<Output>>,
    #[schema(required)]
    error: Option<JobError>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    #[schema(required)]
    completed_at: Option<Timestamp>,
    #[schema(value_type = Object)]
    metadata: (),
}

/// An event as it is listed: its body, as it was sent, with its id in front.
pub fn event(event: &Event) -> Box<RawValue> {
    let body = String::from_utf8_lossy(&event.body);
    let listed = format!("{{\"id\":\"{}\",{}", event.id, body.strip_prefix('{').unwrap_or("}"));
    RawValue::from_string(listed).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

/// A delivery.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Delivery)]
pub struct DeliveryView<'a> {
    id: DeliveryId,
    event_id: EventId,
    event_type: EventType,
    watch_id: WatchId,
    destination_id: DestinationId,
    destination: AddressView<'a>,
    status: DeliveryStatus,
    #[schema(required)]
    reason: Option<Reason>,
    #[schema(required)]
    next_attempt_at: Option<Timestamp>,
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<Vec<AttemptView<'a>>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
struct AttemptView<'a> {
    at: Timestamp,
    duration_ms: u32,
    #[schema(required)]
    status_code: Option<u16>,
    #[schema(required)]
    error: Option<&'a str>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    request_headers: Headers<'a>,
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    response_headers: Headers<'a>,
    response_body: &'a str,
}

/// Headers as an object; what came several times is joined, as HTTP joins it.
struct Headers<'a>(&'a [(String, String)]);

impl Serialize for Headers<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut joined = std::collections::BTreeMap::<&str, String>::new();
        for (name, value) in self.0 {
            let all = joined.entry(name).or_default();
            if !all.is_empty() {
                all.push_str(", ");
            }
            all.push_str(value);
        }
        joined.serialize(serializer)
    }
}

/// A delivery, with its attempts where there is only the one.
pub fn delivery<'a>(delivery: &'a Delivery, attempts: Option<&'a [Attempt]>) -> DeliveryView<'a> {
    let attempt = |attempt: &'a Attempt| AttemptView {
        at: attempt.at,
        duration_ms: attempt.duration_ms,
        status_code: attempt.status_code,
        error: attempt.error.as_deref(),
        request_headers: Headers(&attempt.request_headers),
        response_headers: Headers(&attempt.response_headers),
        response_body: &attempt.response_body,
    };
    DeliveryView {
        id: delivery.id,
        event_id: delivery.event,
        event_type: delivery.event_type,
        watch_id: delivery.watch,
        destination_id: delivery.destination,
        destination: address(delivery.channel, &delivery.address),
        status: delivery.status,
        reason: delivery.reason,
        next_attempt_at: delivery.next_attempt_at,
        created_at: delivery.created_at,
        attempts: attempts.map(|attempts| attempts.iter().map(attempt).collect()),
    }
}

/// One thing that happened to a watch.
#[derive(Serialize, ToSchema)]
#[schema(as = TimelineEntry)]
pub struct TimelineEntryView {
    at: Timestamp,
    #[serde(flatten)]
    what: What,
}

#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[schema(as = HappeningKind)]
enum What {
    Registered,
    #[serde(rename_all = "camelCase")]
    Observed {
        status: JobStatus,
        #[schema(required)]
        raw_status: Option<String>,
        #[schema(required)]
        progress: Option<i64>,
    },
    #[serde(rename_all = "camelCase")]
    Event {
        event_id: EventId,
        event_type: EventType,
    },
    #[serde(rename_all = "camelCase")]
    Delivery {
        delivery_id: DeliveryId,
        event_id: EventId,
        destination_id: DestinationId,
        status: DeliveryStatus,
        #[schema(required)]
        reason: Option<Reason>,
    },
    #[serde(rename_all = "camelCase")]
    Attempt {
        delivery_id: DeliveryId,
        #[schema(required)]
        status_code: Option<i64>,
        #[schema(required)]
        error: Option<String>,
        duration_ms: i64,
    },
    Stopped,
}

/// One line of a story.
pub fn timeline_entry(at: Timestamp, timeline_entry: TimelineEntry) -> TimelineEntryView {
    let what = match timeline_entry {
        TimelineEntry::Registered => What::Registered,
        TimelineEntry::Observed { status, raw_status, progress } => {
            What::Observed { status, raw_status, progress }
        }
        TimelineEntry::Event { id, event_type } => What::Event { event_id: id, event_type },
        TimelineEntry::Delivery { id, event, destination, status, reason } => {
            What::Delivery { delivery_id: id, event_id: event, destination_id: destination, status, reason }
        }
        TimelineEntry::Attempt { delivery, status_code, error, duration_ms } => {
            What::Attempt { delivery_id: delivery, status_code, error, duration_ms }
        }
        TimelineEntry::Stopped => What::Stopped,
    };
    TimelineEntryView { at, what }
}
