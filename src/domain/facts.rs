//! The shapes in which facts travel between the rooms of the house: what an API call asks to be
//! written, what the store hands to those who look and to those who send, and what is shown.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{
    AppId, ChannelKind, DeliveryId, DeliveryStatus, DestinationId, EventId, EventSet, EventType, JobName,
    Known, Masked, Observation, Payload, ProviderHealth, Reason, Timestamp, WatchId, WatchStatus,
};

/// Names a row of `jobs`. It never leaves the program: in public a job has its provider's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobNo(pub i64);

/// Names a row of `apps`. It never leaves the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AppNo(pub i64);

/// A tenant.
#[derive(Clone, Debug)]
pub struct App {
    /// The row.
    pub no: AppNo,
    /// The public id.
    pub id: AppId,
    /// What people call it.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// `whsec_…`: signs what goes to destinations that have no secret of their own.
    pub signing_secret: Masked,
    /// The one before it, which signs too until then.
    pub old_secret: Option<(Masked, Timestamp)>,
}

impl App {
    /// The secret before this one, while its grace lasts.
    pub fn old_secret(&self, now: Timestamp) -> Option<(&Masked, Timestamp)> {
        self.old_secret.as_ref().filter(|(_, until)| now < *until).map(|(secret, until)| (secret, *until))
    }

    /// All that sign now, the newest first.
    pub fn secrets(&self, now: Timestamp) -> impl Iterator<Item = &Masked> {
        std::iter::once(&self.signing_secret).chain(self.old_secret(now).map(|(secret, _)| secret))
    }
}

/// A watch to be registered; every field was checked.
#[derive(Clone, Debug)]
pub struct NewWatch {
    /// In whose name.
    pub app: AppNo,
    /// Its id, already drawn.
    pub id: WatchId,
    /// The job.
    pub job: JobName,
    /// What is sent.
    pub events: EventSet,
    /// In which form.
    pub payload: Payload,
    /// The client's own JSON object, byte for byte.
    pub metadata: Option<String>,
    /// What it asks of the poller.
    pub terms: Terms,
    /// The W3C trace context of the registration.
    pub traceparent: Option<String>,
    /// Where to.
    pub destinations: Vec<Destination>,
    /// When.
    pub created_at: Timestamp,
}

/// A way out with its address, as a watch has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    /// The public id.
    pub id: DestinationId,
    /// The way out.
    pub channel: ChannelKind,
    /// The address, in its one spelling.
    pub address: String,
    /// Which queue its deliveries wait in: the app with the scheme, the host and the port; with the mail
    /// server; or with a chat's address, hashed.
    pub queue: String,
    /// Further headers.
    pub headers: Vec<(String, String)>,
    /// Signs in the app's secret's stead.
    pub secret: Option<String>,
}

impl fmt::Debug for Destination {
    /// Neither what is secret nor the address, which may be: a URL can hold a token.
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

/// What one watch, or all watches of a job together, ask of the poller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// When the (first) watch expires.
    pub expires_at: Timestamp,
    /// The (smallest) greatest gap between looks that a user asked for.
    pub poll_interval: Option<Duration>,
    /// The (earliest) time at which the provider said it would be done.
    pub expected_at: Option<Timestamp>,
    /// Whether `job.processing` or `job.progress` is wanted by any.
    pub wants_progress: bool,
}

impl Terms {
    /// What both ask for together.
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

/// The lesser of two that may be missing.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// All that the poller needs of a job to plan its looks.
#[derive(Clone, Debug)]
pub struct JobSnapshot {
    /// The row.
    pub no: JobNo,
    /// The job.
    pub name: JobName,
    /// How often the job was registered anew after it had ended.
    pub generation: i64,
    /// What is written of it.
    pub known: Known,
    /// When this generation was first registered.
    pub registered_at: Timestamp,
    /// How many watches wait for it.
    pub watching: u32,
    /// What they ask for together; `None` where nobody waits and one look is wanted all the same.
    pub terms: Option<Terms>,
    /// Somebody asked to look at once.
    pub look_wanted: bool,
    /// The watch in whose trace the looks are, with its `traceparent`; read only where traces are kept.
    pub traced: Option<(WatchId, Option<String>)>,
}

/// A provider, as those who look know it now.
#[derive(Clone, Debug)]
pub struct ProviderState {
    /// Its name for programs.
    pub id: String,
    /// Its name for people.
    pub name: String,
    /// Whether it can be asked: it has a key, or needs none.
    pub configured: bool,
    /// How it is.
    pub health: ProviderHealth,
    /// Until when nothing is asked but to try whether it is better, or because it was asked too often.
    pub held_until: Option<Timestamp>,
    /// When it last answered well.
    pub last_good_at: Option<Timestamp>,
    /// What was last wrong, and when; no job is named.
    pub last_error: Option<(Timestamp, String)>,
    /// The time that one look uses up; `None` for no limit.
    pub spacing: Option<Duration>,
    /// How many looks can be saved up.
    pub burst: u32,
    /// How many looks may be in flight.
    pub concurrency: u32,
    /// How many are.
    pub in_flight: u32,
    /// How many are due and wait for the budget.
    pub waiting: usize,
    /// From registration to the first look.
    pub first: Duration,
    /// The least gap between looks at one job.
    pub min_interval: Duration,
    /// The greatest.
    pub max_interval: Duration,
    /// How long a watch lives that does not say.
    pub deadline: Duration,
}

/// What the store tells those who look, after the commit.
#[derive(Clone, Debug)]
pub enum PollerMessage {
    /// A watch was registered: the facts of its job, with the terms of this watch alone.
    Watch(Box<JobSnapshot>),
    /// A watch was stopped or amended: what those that wait ask for now, or `None` where nobody waits any
    /// more.
    WatchersChanged {
        /// The job.
        job: JobNo,
        /// How many watches wait for it now.
        watching: u32,
        /// What they ask for.
        terms: Option<Terms>,
    },
    /// Somebody asked to look at once.
    PollNow(Box<JobSnapshot>),
}

/// How busy somebody is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activity {
    /// How much is under way.
    pub under_way: usize,
    /// When there is more to do, if nothing comes in between.
    pub next: Option<Timestamp>,
}

impl Activity {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { under_way: self.under_way + other.under_way, next: least(self.next, other.next) }
    }
}

/// A delivery that wants to be tried, with all that a channel needs.
#[derive(Clone, Debug)]
pub struct PendingDelivery {
    /// In whose name.
    pub app: AppNo,
    /// The delivery.
    pub id: DeliveryId,
    /// What happened; also the `webhook-id`.
    pub event: EventId,
    /// What kind of thing happened.
    pub event_type: EventType,
    /// To which watch.
    pub watch: WatchId,
    /// Where to.
    pub destination: Destination,
    /// The trace context of the registration.
    pub traceparent: Option<String>,
    /// The exact bytes that every attempt sends.
    pub body: Arc<[u8]>,
    /// What they are.
    pub payload: Payload,
    /// The place in the schedule that is next.
    pub step: u32,
    /// How many attempts are on record.
    pub attempts: u32,
    /// Asked for by hand: it takes no place in the schedule.
    pub manual: bool,
    /// When the job ended, on the first try at saying so.
    pub finished: Option<Finished>,
}

/// The end of a job by its provider's clock: how late we are is measured from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Whose clock.
    pub provider: String,
    /// When.
    pub at: Timestamp,
}

/// What the store tells those who send, after the commit.
#[derive(Clone, Debug)]
pub enum DispatcherMessage {
    /// A delivery wants to be tried.
    Dispatch(Box<PendingDelivery>),
    /// Much waits in a lane that was asked for by hand: it is paged in from the store.
    QueueChanged {
        /// The lane.
        lane: String,
        /// What waits.
        asked: Vec<DeliveryId>,
    },
    /// What waits for this watch is not to be sent any more, but for what is in flight.
    Skip {
        /// The watch.
        watch: WatchId,
        /// Which of it.
        which: CancelScope,
    },
}

/// Which of a watch's deliveries are called off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelScope {
    /// All: the watch was stopped.
    All,
    /// What is not an ending: the ending has overtaken it.
    Progress,
    /// What goes to this destination: it wants nothing more.
    To(DestinationId),
}

/// One try at a delivery, for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// When it began.
    pub at: Timestamp,
    /// How long it took.
    pub duration_ms: u32,
    /// HTTP's.
    pub status_code: Option<u16>,
    /// A word and a sentence.
    pub error: Option<String>,
    /// What was sent.
    pub request_headers: Vec<(String, String)>,
    /// What came back.
    pub response_headers: Vec<(String, String)>,
    /// The beginning of what came back.
    pub response_body: String,
}

/// A watch, as it is shown.
#[derive(Clone, Debug)]
pub struct Watch {
    /// Its id.
    pub id: WatchId,
    /// Where it stands.
    pub status: WatchStatus,
    /// The job.
    pub job: JobName,
    /// The row of the job.
    pub job_no: JobNo,
    /// The job as last seen; for a watch that ended with its job, as it ended.
    pub seen: Observation,
    /// Where to, and how the last delivery to it went.
    pub destinations: Vec<(Destination, Option<DeliveryStatus>)>,
    /// What is sent.
    pub events: EventSet,
    /// The client's own JSON object.
    pub metadata: Option<String>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// When it expires, or would have.
    pub expires_at: Timestamp,
}

/// An event, as it is listed.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its id.
    pub id: EventId,
    /// Its place in the app's feed.
    pub position: i64,
    /// What kind of thing happened.
    pub event_type: EventType,
    /// The watch.
    pub watch: WatchId,
    /// When it was observed.
    pub at: Timestamp,
    /// The body, as it is sent.
    pub body: Vec<u8>,
}

/// A delivery, as it is shown.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Its id.
    pub id: DeliveryId,
    /// What happened.
    pub event: EventId,
    /// What kind of thing happened.
    pub event_type: EventType,
    /// To which watch.
    pub watch: WatchId,
    /// Where to.
    pub destination: DestinationId,
    /// The way out.
    pub channel: ChannelKind,
    /// The address.
    pub address: String,
    /// Where it stands.
    pub status: DeliveryStatus,
    /// Why it was given up.
    pub reason: Option<Reason>,
    /// When it is tried next.
    pub next_attempt_at: Option<Timestamp>,
    /// When it was made.
    pub created_at: Timestamp,
}
