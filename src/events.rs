//! The public wire format of an event.
//!
//! It is serialised once, when the event is made, and stored as bytes. What is stored is what is
//! signed and what is sent, on every attempt, across restarts and upgrades: a later version of this
//! module changes new events only.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::{EventId, EventType, Finished, JobError, Observation, Output, Timestamp, WatchId};

/// What an event says of its watch.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The watch.
    pub watch: WatchId,
    /// The job's provider.
    pub provider: &'a str,
    /// The job's id at the provider.
    pub job_id: &'a str,
    /// The client's own JSON object.
    pub metadata: Option<&'a str>,
}

/// What [`finished`] reads of a body.
#[derive(Deserialize)]
struct Ending {
    data: EndingData,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct EndingData {
    provider: String,
    completed_at: Option<Timestamp>,
}

/// An event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventBody)]
pub struct Body<'a> {
    #[serde(rename = "type")]
    event_type: EventType,
    timestamp: Timestamp,
    data: Data<'a>,
}

/// `CloudEvents` 1.0, structured.
#[derive(Serialize, ToSchema)]
pub struct CloudEvent<'a> {
    /// `1.0`.
    specversion: &'static str,
    id: EventId,
    /// URL of the watch.
    source: String,
    #[serde(rename = "type")]
    /// `ringback.` and the type of the event.
    event_type: String,
    /// Id of the job at its provider.
    subject: &'a str,
    time: Timestamp,
    /// `application/json`.
    datacontenttype: &'static str,
    data: Data<'a>,
}

/// The watch, and its job at the time of the event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventData)]
struct Data<'a> {
    watch_id: WatchId,
    provider: &'a str,
    job_id: &'a str,
    /// The job's status, or `not_found` or `expired`.
    status: &'a str,
    /// The provider's own word for the status.
    #[schema(required)]
    raw_status: Option<&'a str>,
    /// 0 to 100.
    #[schema(required)]
    progress: Option<u8>,
    /// First URL of the result.
    #[schema(required)]
    output: Option<&'a str>,
    /// Every part of the result.
    #[schema(required)]
    outputs: Option<&'a [Output]>,
    #[schema(required)]
    error: Option<&'a JobError>,
    #[schema(required)]
    created_at: Option<Timestamp>,
    #[schema(required)]
    completed_at: Option<Timestamp>,
    /// The client's object, as it was given.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
}

/// The body of an event of `event_type` that happened `at`. The job is described by `seen`; an
/// ending that the provider did not speak of (`job.not_found`, `watch.expired`) gives its own
/// `status` and `error`.
pub fn body(
    event_type: EventType,
    at: Timestamp,
    about: &About<'_>,
    seen: &Observation,
    own: Option<(&str, &JobError)>,
) -> Vec<u8> {
    let data = data(about, seen, own);
    // Strings, numbers and checked JSON: there is nothing in it that could fail.
    serde_json::to_vec(&Body { event_type, timestamp: at, data }).unwrap_or_default()
}

/// The same as a `CloudEvents` message, whose source is the watch at `public_url`.
pub fn cloud_event(
    id: EventId,
    event_type: EventType,
    at: Timestamp,
    about: &About<'_>,
    seen: &Observation,
    own: Option<(&str, &JobError)>,
    public_url: &str,
) -> Vec<u8> {
    let event = CloudEvent {
        specversion: "1.0",
        id,
        source: format!("{public_url}/v1/watches/{}", about.watch),
        event_type: format!("ringback.{event_type}"),
        subject: about.job_id,
        time: at,
        datacontenttype: "application/json",
        data: data(about, seen, own),
    };
    serde_json::to_vec(&event).unwrap_or_default()
}

fn data<'a>(about: &About<'a>, seen: &'a Observation, own: Option<(&'a str, &'a JobError)>) -> Data<'a> {
    // Checked to be JSON when the watch was registered.
    let metadata: &RawValue = serde_json::from_str(about.metadata.unwrap_or("{}")).unwrap_or(RawValue::NULL);
    Data {
        watch_id: about.watch,
        provider: about.provider,
        job_id: about.job_id,
        status: own.map_or(seen.status.as_str(), |(status, _)| status),
        raw_status: seen.raw_status.as_deref(),
        progress: seen.progress,
        output: seen.output.as_deref(),
        outputs: seen.outputs.as_deref(),
        error: own.map(|(_, error)| error).or(seen.error.as_ref()),
        created_at: seen.created_at,
        completed_at: seen.completed_at,
        metadata,
    }
}

/// When the job ended, as a body of ours says; `None` for any other body.
pub fn finished(body: &[u8]) -> Option<Finished> {
    let EndingData { provider, completed_at } = serde_json::from_slice::<Ending>(body).ok()?.data;
    Some(Finished { provider, at: completed_at? })
}
