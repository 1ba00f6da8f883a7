//! The timeline of a watch: what happened, in order.

use serde::Serialize;
use utoipa::ToSchema;

use super::http::{Answer, Call, Page, PageParams, Problem, cursor, page};
use crate::domain::{
    DeliveryId, DeliveryStatus, DestinationId, EventId, EventType, JobStatus, Reason, Timestamp, WatchId,
};
use crate::store::{TimelineEntry, TimelinePosition};

/// One thing that happened to a watch; `kind` says which.
// Each variant holds `at`: a shared part beside them would be an `allOf`, which client generators do not take.
#[derive(Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[schema(as = TimelineEntry)]
enum TimelineEntryView {
    /// The watch was registered.
    #[schema(title = "TimelineRegistered")]
    Registered { at: Timestamp },
    /// A poll saw the job change.
    #[serde(rename_all = "camelCase")]
    #[schema(title = "TimelineObserved")]
    Observed {
        at: Timestamp,
        status: JobStatus,
        /// The provider's own word for the status.
        #[schema(required)]
        raw_status: Option<String>,
        /// 0 to 100.
        #[schema(required)]
        progress: Option<i64>,
    },
    /// An event was made.
    #[serde(rename_all = "camelCase")]
    #[schema(title = "TimelineEvent")]
    Event { at: Timestamp, event_id: EventId, event_type: EventType },
    /// A delivery of an event was made. `status` and `reason` are the present ones.
    #[serde(rename_all = "camelCase")]
    #[schema(title = "TimelineDelivery")]
    Delivery {
        at: Timestamp,
        delivery_id: DeliveryId,
        event_id: EventId,
        destination_id: DestinationId,
        status: DeliveryStatus,
        #[schema(required)]
        reason: Option<Reason>,
    },
    /// A delivery was attempted.
    #[serde(rename_all = "camelCase")]
    #[schema(title = "TimelineAttempt")]
    Attempt {
        at: Timestamp,
        delivery_id: DeliveryId,
        /// HTTP status of the receiver; null without an answer.
        #[schema(required)]
        status_code: Option<i64>,
        /// Why the attempt failed; null if it succeeded.
        #[schema(required)]
        error: Option<String>,
        /// Duration, in milliseconds.
        duration_ms: i64,
    },
    /// The watch was stopped by a client.
    #[schema(title = "TimelineStopped")]
    Stopped { at: Timestamp },
}

impl TimelineEntryView {
    fn of(at: Timestamp, entry: TimelineEntry) -> Self {
        match entry {
            TimelineEntry::Registered => Self::Registered { at },
            TimelineEntry::Observed { status, raw_status, progress } => {
                Self::Observed { at, status, raw_status, progress }
            }
            TimelineEntry::Event { event_id, event_type } => Self::Event { at, event_id, event_type },
            TimelineEntry::Delivery { delivery_id, event_id, destination_id, status, reason } => {
                Self::Delivery { at, delivery_id, event_id, destination_id, status, reason }
            }
            TimelineEntry::Attempt { delivery_id, status_code, error, duration_ms } => {
                Self::Attempt { at, delivery_id, status_code, error, duration_ms }
            }
            TimelineEntry::Stopped => Self::Stopped { at },
        }
    }
}

/// Show the timeline of a watch
///
/// Everything that happened to the watch, in order: registration, observed changes of the job, events,
/// deliveries and attempts.
#[utoipa::path(
    get, path = "/v1/watches/{id}/timeline", operation_id = "showTimeline", tag = "Watches",
    security(("key" = ["read"])), params(("id" = WatchId, Path), PageParams),
    responses((status = 200, description = "A page of the timeline, oldest first.",
        body = Page<TimelineEntryView>))
)]
pub async fn show(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let after = query.read("cursor", cursor::WRONG, cursor::decode_timeline_position).unwrap_or_default();
    query.done()?;
    let id = call.id(WatchId::parse)?;
    let timeline =
        call.api.store.timeline(call.app(), id, after, limit + 1).await?.ok_or_else(Problem::not_found)?;
    let view = |(position, entry): &(TimelinePosition, TimelineEntry)| {
        TimelineEntryView::of(position.at, entry.clone())
    };
    Ok(page(&timeline, limit, |(position, _)| cursor::encode_timeline_position(*position), view))
}
