//! Watches: "notify these destinations when this job ends".

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{
    AppNo, CancelStatus, DeliveryId, DeliveryStatus, Destination, DestinationId, EndingKind, EventId,
    EventSet, EventType, GroupRequest, JobCancel, JobName, JobNo, JobStatus, NewPoll, Observation, Payload,
    Reason, Timestamp, WatchId,
};

word_enum! {
    /// Status of a watch. All but `watching` are final.
    WatchStatus {
        /// Waiting for the job to end.
        Watching = "watching",
        /// The job completed.
        Completed = "completed",
        /// The job failed.
        Failed = "failed",
        /// The job was cancelled.
        Cancelled = "cancelled",
        /// The provider does not know the job.
        NotFound = "not_found",
        /// The job did not end before the watch expired.
        Expired = "expired",
        /// A client stopped the watch.
        Stopped = "stopped",
    }
}

impl EndingKind {
    /// Returns the final status of a watch with this ending.
    pub fn status(self) -> WatchStatus {
        match self {
            Self::Completed => WatchStatus::Completed,
            Self::Failed => WatchStatus::Failed,
            Self::Cancelled => WatchStatus::Cancelled,
            Self::NotFound => WatchStatus::NotFound,
            Self::Expired => WatchStatus::Expired,
        }
    }
}

/// A watch to be registered. Every field is validated.
#[derive(Clone, Debug)]
pub struct NewWatch {
    /// App that owns the watch.
    pub app: AppNo,
    /// Id, already drawn.
    pub id: WatchId,
    /// The job to watch.
    pub job: JobName,
    /// How the job is polled, if it is the app's alone.
    pub poll: Option<Box<NewPoll>>,
    /// Events to deliver.
    pub events: EventSet,
    /// Form of the delivered body.
    pub payload: Payload,
    /// Name for people.
    pub name: Option<String>,
    /// The client's own id of the watch.
    pub reference: Option<String>,
    /// The client's own JSON object, byte for byte.
    pub metadata: Option<String>,
    /// What the watch requires of the poller.
    pub terms: Terms,
    /// W3C trace context of the registration.
    pub traceparent: Option<String>,
    /// Where to deliver.
    pub destinations: Vec<Destination>,
    /// The group that it belongs to.
    pub group: Option<GroupRequest>,
    /// Whether the job is cancelled when the watch expires.
    pub cancels_on_expiry: bool,
    /// Time of registration.
    pub created_at: Timestamp,
}

/// What one watch, or all watches of a job together, require of the poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Expiry of the watch; of several, the earliest.
    pub expires_at: Timestamp,
    /// Longest poll interval that the client accepts; of several, the shortest.
    pub poll_interval: Option<Duration>,
    /// Time at which the client expects the job to end; of several, the earliest.
    pub expected_at: Option<Timestamp>,
    /// Whether `job.processing` or `job.progress` is to be delivered.
    pub wants_progress: bool,
}

impl Terms {
    /// Returns the terms that satisfy both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            expires_at: self.expires_at.min(other.expires_at),
            poll_interval: least(self.poll_interval, other.poll_interval),
            expected_at: least(self.expected_at, other.expected_at),
            wants_progress: self.wants_progress || other.wants_progress,
        }
    }
}

/// Returns the smaller of two values, each of which may be missing.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    a.into_iter().chain(b).min()
}

/// A watch, as the API shows it.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Public id.
    pub id: WatchId,
    /// Current status.
    pub status: WatchStatus,
    /// The watched job.
    pub job: JobName,
    /// How the job is polled, if it is the app's alone: what the registration says, as JSON without secrets.
    pub poll: Option<String>,
    /// Row number of the job.
    pub job_no: JobNo,
    /// The job as last polled; for a watch that ended with its job, as it ended.
    pub seen: Observation,
    /// Each destination with the latest delivery to it.
    pub destinations: Vec<(Destination, Option<LatestDelivery>)>,
    /// Events to deliver.
    pub events: EventSet,
    /// Name for people.
    pub name: Option<String>,
    /// The client's own id of the watch.
    pub reference: Option<String>,
    /// The client's own JSON object.
    pub metadata: Option<String>,
    /// The client's id of the group that it belongs to.
    pub group: Option<String>,
    /// The request to cancel the job, if there is one.
    pub cancel: Option<JobCancel>,
    /// Time of registration.
    pub created_at: Timestamp,
    /// Time of the end; `None` while it waits.
    pub ended_at: Option<Timestamp>,
    /// Time at which it expires, or would have expired.
    pub expires_at: Timestamp,
}

/// The newest delivery of a watch to one of its destinations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LatestDelivery {
    /// Public id.
    pub id: DeliveryId,
    /// Current status.
    pub status: DeliveryStatus,
    /// Why no further attempt follows.
    pub reason: Option<Reason>,
    /// Number of recorded attempts.
    pub attempt_count: u32,
    /// Error of the last attempt; `None` if it succeeded, or if there was none.
    pub last_error: Option<String>,
    /// Time of the next attempt.
    pub next_attempt_at: Option<Timestamp>,
    /// Whether the destination is ordered, and an earlier event of the watch is pending.
    pub is_behind: bool,
}

/// One thing that happened to a watch; `kind` says which.
// Each variant holds `at`: a shared part beside them would be an `allOf`, which client generators do not take.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
#[expect(
    missing_docs,
    reason = "docs of fields are part of the API's description, which has none for plain names"
)]
pub enum TimelineEntry {
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
        /// Code of the job's error at its end, such as `output_truncated`.
        #[schema(required)]
        error_code: Option<String>,
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
    /// A client requested to cancel the job, or the watch expired whose registration requested it.
    #[serde(rename = "cancel_requested")]
    #[schema(title = "TimelineCancelRequested")]
    CancelRequested { at: Timestamp },
    /// The request to cancel the job was decided.
    #[serde(rename = "cancel_finished", rename_all = "camelCase")]
    #[schema(title = "TimelineCancelFinished")]
    CancelFinished {
        at: Timestamp,
        status: CancelStatus,
        /// HTTP status of the provider's last answer; null without an answer.
        #[schema(required)]
        http_status: Option<u16>,
        /// Why the request was not accepted; null if it was.
        #[schema(required)]
        message: Option<String>,
    },
}
