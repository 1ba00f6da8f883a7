//! The wire format of operational events, which are about a saved destination or a delivery.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{DeliveryId, DestinationId, DisabledReason, EventType, Timestamp, WatchId};

/// An event of a saved destination.
#[derive(Serialize, ToSchema)]
pub struct DestinationBody<'a> {
    #[serde(rename = "type")]
    event_type: EventType,
    timestamp: Timestamp,
    data: DestinationData<'a>,
}

/// The saved destination that was disabled, or that has recovered.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DestinationEventData)]
pub struct DestinationData<'a> {
    /// Id of the destination.
    pub destination_id: DestinationId,
    /// Name for people.
    #[schema(required)]
    pub name: Option<&'a str>,
    /// Why it is disabled, or was disabled until now; `failing` if it has recovered without being disabled.
    pub reason: DisabledReason,
    /// When it is disabled: the first failed attempt after its last success. When it has recovered: the time since
    /// which it was disabled or its attempts failed.
    #[schema(required)]
    pub since: Option<Timestamp>,
    /// Error of the last failed attempt; null if none has failed.
    #[schema(required)]
    pub last_error: Option<&'a str>,
}

impl<'a> DestinationBody<'a> {
    /// Describes a change of a saved destination.
    pub fn new(event_type: EventType, timestamp: Timestamp, data: DestinationData<'a>) -> Self {
        Self { event_type, timestamp, data }
    }

    /// Returns the event in the default form.
    pub fn to_json(&self) -> Vec<u8> {
        // Cannot fail: the body consists of strings.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// An event of a delivery.
#[derive(Serialize, ToSchema)]
pub struct DeliveryBody<'a> {
    #[serde(rename = "type")]
    event_type: EventType,
    timestamp: Timestamp,
    data: DeliveryData<'a>,
}

/// The delivery that failed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DeliveryEventData)]
pub struct DeliveryData<'a> {
    /// Id of the delivery.
    pub delivery_id: DeliveryId,
    /// Id of its destination.
    pub destination_id: DestinationId,
    /// Id of the watch.
    pub watch_id: WatchId,
    /// Id of the job at its provider.
    pub job_id: &'a str,
    /// Type of the event that was not delivered.
    pub event_type: EventType,
    /// Number of attempts.
    pub attempt_count: u32,
    /// Error of the last attempt; null if none was made.
    #[schema(required)]
    pub last_error: Option<&'a str>,
}

impl<'a> DeliveryBody<'a> {
    /// Describes a delivery that failed at this time.
    pub fn exhausted(timestamp: Timestamp, data: DeliveryData<'a>) -> Self {
        Self { event_type: EventType::DeliveryExhausted, timestamp, data }
    }

    /// Returns the event in the default form.
    pub fn to_json(&self) -> Vec<u8> {
        // Cannot fail: the body consists of strings and numbers.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
