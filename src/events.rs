//! The public wire format of an event.
//!
//! An event is serialised once, when it is made, and stored as bytes. Every attempt signs and sends the stored
//! bytes, also after a restart or an upgrade: a later version of this module changes new events only.

mod group;
mod operational;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::domain::{
    DestinationId, EventId, EventType, Finished, JobError, JobName, Observation, Output, Timestamp, WatchId,
};

pub use self::group::GroupBody;
pub use self::operational::{DeliveryBody, DeliveryData, DestinationBody, DestinationData};

/// The part of a body that [`finished`] reads.
#[derive(Deserialize)]
struct Ending {
    data: Finished,
}

/// An event of a watch.
#[derive(Serialize, ToSchema)]
pub struct EventBody<'a> {
    #[serde(rename = "type")]
    event_type: EventType,
    timestamp: Timestamp,
    data: EventData<'a>,
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
    data: &'a EventData<'a>,
}

/// The watch, and its job at the time of the event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EventData<'a> {
    watch_id: WatchId,
    provider: &'a str,
    job_id: &'a str,
    /// The client's name for the watch.
    #[schema(required)]
    name: Option<&'a str>,
    /// The client's own id of the watch.
    #[schema(required)]
    reference: Option<&'a str>,
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
    /// Time from which the outputs cannot be read any more; null if it is not known.
    #[schema(required)]
    output_expires_at: Option<Timestamp>,
    /// The client's object, as it was given.
    #[schema(value_type = Object)]
    metadata: &'a RawValue,
}

/// What the client has given to the watch for itself and for people.
#[derive(Clone, Copy, Debug)]
pub struct Labels<'a> {
    /// Name for people.
    pub name: Option<&'a str>,
    /// The client's own id of the watch.
    pub reference: Option<&'a str>,
    /// The client's own JSON object.
    pub metadata: Option<&'a str>,
}

impl<'a> EventBody<'a> {
    /// Describes an event of a watch on `job`, with its type and its time. `seen` describes the job. `own` replaces the
    /// status and the error of an ending that the provider did not report (`job.not_found`, `watch.expired`).
    pub fn new(
        (event_type, timestamp): (EventType, Timestamp),
        watch_id: WatchId,
        job: &'a JobName,
        labels: Labels<'a>,
        seen: &'a Observation,
        own: Option<(&'a str, &'a JobError)>,
    ) -> Self {
        let data = EventData {
            watch_id,
            provider: &job.provider,
            job_id: &job.job_id,
            name: labels.name,
            reference: labels.reference,
            status: own.map_or(seen.status.as_str(), |(status, _)| status),
            raw_status: seen.raw_status.as_deref(),
            progress: seen.progress,
            output: seen.output.as_deref(),
            outputs: seen.outputs.as_deref(),
            error: own.map(|(_, error)| error).or(seen.error.as_ref()),
            created_at: seen.created_at,
            completed_at: seen.completed_at,
            output_expires_at: seen.outputs_expire_at,
            // Checked to be JSON when the watch was registered.
            metadata: serde_json::from_str(labels.metadata.unwrap_or("{}")).unwrap_or(RawValue::NULL),
        };
        Self { event_type, timestamp, data }
    }

    /// Returns the event in the default form.
    pub fn to_json(&self) -> Vec<u8> {
        // Cannot fail: the body consists of strings, numbers and checked JSON.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Returns the event as a `CloudEvents` message. Its source is the URL of the watch below `public_url`.
    pub fn to_cloud_event(&self, id: EventId, public_url: &str) -> Vec<u8> {
        let event = CloudEvent {
            specversion: "1.0",
            id,
            source: format!("{public_url}/v1/watches/{}", self.data.watch_id),
            event_type: format!("ringback.{}", self.event_type),
            subject: self.data.job_id,
            time: self.timestamp,
            datacontenttype: "application/json",
            data: &self.data,
        };
        serde_json::to_vec(&event).unwrap_or_default()
    }
}

/// The event of a test.
#[derive(Serialize, ToSchema)]
pub struct TestBody {
    /// `test`.
    #[serde(rename = "type")]
    event_type: EventType,
    timestamp: Timestamp,
    data: TestData,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TestData {
    /// A sentence for people.
    message: &'static str,
    /// Id of the saved destination that is tested; null for another one.
    #[schema(required)]
    destination_id: Option<DestinationId>,
}

impl TestBody {
    /// Describes a test at this time.
    pub fn new(timestamp: Timestamp, destination_id: Option<DestinationId>) -> Self {
        let message = "This is a test. If you read it, the destination works.";
        Self { event_type: EventType::Test, timestamp, data: TestData { message, destination_id } }
    }

    /// Returns the event in the default form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Returns the end of the job from a body in the default form; `None` for any other body.
pub fn finished(body: &[u8]) -> Option<Finished> {
    // Most events of providers that report no time are recognised without parsing them.
    if !std::str::from_utf8(body).is_ok_and(|body| body.contains("\"completedAt\":\"")) {
        return None;
    }
    serde_json::from_slice::<Ending>(body).ok().map(|ending| ending.data)
}
