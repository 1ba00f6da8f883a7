//! Messages between components, and how busy a component is.

use std::sync::Arc;

use super::{
    AppNo, AppsApart, DeliveryId, DestinationId, DisabledReason, JobName, JobNo, Known, PendingCancel,
    PendingDelivery, PollSource, Terms, Timestamp, WatchId,
};

/// What the poller needs to know about a job to schedule its polls.
#[derive(Clone, Debug)]
pub struct JobSnapshot {
    /// Row number in the database.
    pub no: JobNo,
    /// Identity of the job.
    pub name: JobName,
    /// How it is polled, if it is an app's alone.
    pub poll: Option<Arc<PollSource>>,
    /// An app with a watch of the job. The job is polled in its turn.
    pub app: AppNo,
    /// Another app whose watches wait for the job.
    pub other_app: Option<AppNo>,
    /// How many times the job was registered anew after it had ended.
    pub generation: i64,
    /// What is stored about the job.
    pub known: Known,
    /// Its apps whose progress events differ from those of the others.
    pub apart: AppsApart,
    /// Whether the provider has ever reported a status of the job, also in an earlier generation.
    pub had_status: bool,
    /// First registration of this generation.
    pub registered_at: Timestamp,
    /// How many watches wait for the job.
    pub watching: u32,
    /// Combined terms of those watches; `None` where no watch waits and a poll is requested all the same.
    pub terms: Option<Terms>,
    /// Whether a client requested a poll now.
    pub poll_requested: bool,
    /// The watch to whose trace the polls belong, with its `traceparent`. Read only while traces are exported.
    pub traced: Option<(WatchId, Option<String>)>,
}

/// Message from the store to the poller, sent after the commit.
#[derive(Clone, Debug)]
pub enum PollerMessage {
    /// A watch was registered. The snapshot has the terms of this watch alone.
    Watch(Box<JobSnapshot>),
    /// A watch was stopped or amended.
    WatchersChanged {
        /// The job.
        job: JobNo,
        /// How many of its watches have ended.
        ended: u32,
        /// Combined terms of the others; `None` where no watch waits any more.
        terms: Option<Terms>,
    },
    /// A client requested a poll now.
    PollNow(Box<JobSnapshot>),
    /// An app requested to cancel a job.
    CancelJob(Box<PendingCancel>),
}

/// Message from the store to the dispatcher, sent after the commit.
#[derive(Clone, Debug)]
pub enum DispatcherMessage {
    /// A delivery is to be attempted.
    Dispatch(Box<PendingDelivery>),
    /// Deliveries of a queue are to be retried manually. The dispatcher loads them from the store.
    QueueChanged {
        /// Name of the destination queue.
        queue: String,
        /// Deliveries to retry.
        requested: Vec<DeliveryId>,
    },
    /// A saved destination has changed: what is loaded of its deliveries is read again.
    DestinationChanged {
        /// Name of its queue.
        queue: String,
        /// Why it was disabled, if this is the change. Its deliveries are then to be skipped.
        disabled: Option<DisabledReason>,
    },
    /// Deliveries of a saved destination are to be skipped or retried, in chunks.
    SweepDue,
    /// Waiting deliveries of a watch are skipped. Attempts in flight go on.
    Skip {
        /// The watch.
        watch: WatchId,
        /// Which of its deliveries.
        which: CancelScope,
    },
}

/// Which deliveries of a watch are skipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelScope {
    /// All: the watch was stopped.
    All,
    /// Those of progress events: the watch ended before they were delivered.
    Progress,
    /// Those to this destination: it accepts nothing more.
    To(DestinationId),
}

/// Why deliveries of a watch are skipped, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SkipScope {
    /// All: the watch was stopped.
    Stopped,
    /// Those of progress events: the watch ended before they were delivered.
    Superseded,
    /// Those to the destination with this number among those of the watch: it accepts nothing more.
    Gone(i64),
}

/// How busy a component is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// Number of operations in progress.
    pub in_progress: usize,
    /// Time of the next operation, as scheduled now; `None` if there is none.
    pub next_at: Option<Timestamp>,
    /// Number of background loops that work, or are due to work. They write, and delay nothing.
    pub in_background: usize,
}
