//! What the program is about, without I/O: ids, states, and the decisions.
//!
//! The words are the contract's. A **job** is the provider's; a **watch** is "tell these
//! destinations how this job ends"; an **observation** is one parsed poll; an **event** is one
//! immutable fact about a watch; a **delivery** is (event, destination); an **attempt** is one try
//! at a delivery. This module imports nothing of the crate, and nothing here reads a clock.

mod facts;
mod id;
mod mail;
mod near;
mod observe;
mod rate;
mod retry;
mod time;

pub use facts::{
    Activity, App, AppNo, Attempt, CancelScope, Delivery, Destination, DispatcherMessage, Event, Finished,
    JobNo, JobSnapshot, NewWatch, PendingDelivery, PollerMessage, ProviderState, Terms, Watch,
};
pub use id::{AppId, DeliveryId, DestinationId, EventId, Id, Ids, KeyId, RequestId, WatchId, random};
pub use mail::{MailAddress, MailPattern, Mailbox};
pub use near::nearest;
pub use observe::{Finding, Known, observe};
pub use rate::{Rate, format_rate, parse_rate};
pub use retry::{AttemptKind, NextStep, Outcome, RetryPolicy, next_attempt};
pub use time::{Timestamp, format_duration, parse_duration};

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

/// The number of shards. A job, its watches and its deliveries live in one of them, and a shard has
/// one owner; fixed for ever, because it is stored.
pub const SHARDS: u16 = 1024;

/// A closed set of words: an enum whose variants have one spelling, in the API, in the store and in
/// the log alike.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every member, in the order in which they are declared.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The one spelling.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Reads the one spelling.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let words = utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .enum_values(Some([$($word,)*]));
                words.into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                Self::parse(&word).ok_or_else(|| serde::de::Error::unknown_variant(&word, &[$($word,)*]))
            }
        }
    };
}

words! {
    /// Where the provider's job stands, as last seen.
    JobStatus {
        /// Never polled yet.
        Unknown = "unknown",
        /// Waiting at the provider.
        Pending = "pending",
        /// Running at the provider.
        Processing = "processing",
        /// Ended well.
        Completed = "completed",
        /// Ended badly.
        Failed = "failed",
        /// Ended by somebody's wish.
        Cancelled = "cancelled",
    }
}

impl JobStatus {
    /// How a job ends that is seen in this status; `None` while it runs.
    pub fn ending(self) -> Option<EndingKind> {
        match self {
            Self::Unknown | Self::Pending | Self::Processing => None,
            Self::Completed => Some(EndingKind::Completed),
            Self::Failed => Some(EndingKind::Failed),
            Self::Cancelled => Some(EndingKind::Cancelled),
        }
    }
}

words! {
    /// How a watch can end by what the provider said or did not say.
    EndingKind {
        /// The job completed.
        Completed = "completed",
        /// The job failed.
        Failed = "failed",
        /// The job was cancelled.
        Cancelled = "cancelled",
        /// The provider does not know the job.
        NotFound = "not_found",
        /// The job did not end in time.
        Expired = "expired",
    }
}

impl EndingKind {
    /// The state of a watch that ended so.
    pub fn status(self) -> WatchStatus {
        match self {
            Self::Completed => WatchStatus::Completed,
            Self::Failed => WatchStatus::Failed,
            Self::Cancelled => WatchStatus::Cancelled,
            Self::NotFound => WatchStatus::NotFound,
            Self::Expired => WatchStatus::Expired,
        }
    }

    /// The event that says so.
    pub fn event(self) -> EventType {
        match self {
            Self::Completed => EventType::JobCompleted,
            Self::Failed => EventType::JobFailed,
            Self::Cancelled => EventType::JobCancelled,
            Self::NotFound => EventType::JobNotFound,
            Self::Expired => EventType::WatchExpired,
        }
    }
}

words! {
    /// Where a watch stands. All but `watching` are final.
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
        /// The job did not end in time.
        Expired = "expired",
        /// The user called it off.
        Stopped = "stopped",
    }
}

words! {
    /// What can happen to a watch.
    EventType {
        /// The job completed.
        JobCompleted = "job.completed",
        /// The job failed.
        JobFailed = "job.failed",
        /// The job was cancelled.
        JobCancelled = "job.cancelled",
        /// The provider does not know the job.
        JobNotFound = "job.not_found",
        /// The job did not end in time.
        WatchExpired = "watch.expired",
        /// The job was first seen running.
        JobProcessing = "job.processing",
        /// The job's progress moved.
        JobProgress = "job.progress",
    }
}

impl EventType {
    /// Whether it ends the watch.
    pub fn is_ending(self) -> bool {
        match self {
            Self::JobCompleted
            | Self::JobFailed
            | Self::JobCancelled
            | Self::JobNotFound
            | Self::WatchExpired => true,
            Self::JobProcessing | Self::JobProgress => false,
        }
    }

    /// Whether it says how the provider's job ended.
    pub fn says_how_the_job_ended(self) -> bool {
        matches!(self, Self::JobCompleted | Self::JobFailed | Self::JobCancelled)
    }

    const fn bit(self) -> i64 {
        1 << self as u8
    }
}

/// The events that a watch wants to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventSet(i64);

impl EventSet {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// Every ending: what a watch gets that does not say.
    pub fn endings() -> Self {
        EventType::ALL.iter().filter(|event| event.is_ending()).copied().collect()
    }

    /// Whether `event` is wanted.
    pub fn has(self, event: EventType) -> bool {
        self.0 & event.bit() != 0
    }

    /// Adds what `pattern` names: one type, `job.*` or `watch.*`. `false` if it names nothing.
    pub fn add(&mut self, pattern: &str) -> bool {
        let before = self.0;
        for event in EventType::ALL {
            let family = pattern.strip_suffix('*').filter(|family| matches!(*family, "job." | "watch."));
            if event.as_str() == pattern || family.is_some_and(|f| event.as_str().starts_with(f)) {
                self.0 |= event.bit();
            }
        }
        self.0 != before || EventType::parse(pattern).is_some() || matches!(pattern, "job.*" | "watch.*")
    }

    /// The members, in the order in which the types are declared.
    pub fn iter(self) -> impl Iterator<Item = EventType> {
        EventType::ALL.iter().copied().filter(move |event| self.has(*event))
    }

    /// As stored: one bit for each type, in the order in which they are declared.
    pub fn bits(self) -> i64 {
        self.0
    }

    /// From what was stored.
    pub fn from_bits(bits: i64) -> Self {
        Self(bits)
    }
}

impl FromIterator<EventType> for EventSet {
    fn from_iter<I: IntoIterator<Item = EventType>>(events: I) -> Self {
        Self(events.into_iter().fold(0, |bits, event| bits | event.bit()))
    }
}

words! {
    /// What a key may do: each scope includes the ones before it.
    Scope {
        /// See.
        Read = "read",
        /// See and register.
        Write = "write",
        /// Everything.
        Admin = "admin",
    }
}

words! {
    /// What a receiver is sent.
    Payload {
        /// The event, as the contract describes it.
        Event = "event",
        /// The provider's answer, byte for byte.
        Raw = "raw",
        /// The event's data in a `CloudEvents` 1.0 envelope.
        CloudEvents = "cloudevents",
    }
}

words! {
    /// How a provider is, with the credential that it is asked with.
    ProviderHealth {
        /// It answers.
        Ok = "ok",
        /// Some looks fail, or it said that it is asked too often.
        Degraded = "degraded",
        /// It refuses the credential: one look a minute until it is accepted.
        Paused = "paused",
        /// It is in trouble: one look a second until one is answered well.
        Down = "down",
    }
}

words! {
    /// A kind of way out.
    ChannelKind {
        /// A signed HTTP POST.
        Webhook = "webhook",
        /// A mail.
        Email = "email",
        /// A message in Slack, or in a chat that takes Slack's messages.
        Slack = "slack",
    }
}

words! {
    /// Where a delivery stands.
    DeliveryStatus {
        /// Something is still to be tried.
        Pending = "pending",
        /// It was taken.
        Succeeded = "succeeded",
        /// It was given up.
        Failed = "failed",
    }
}

words! {
    /// Why a delivery was given up.
    Reason {
        /// The schedule is spent.
        Exhausted = "exhausted",
        /// The receiver answered 410.
        Gone = "gone",
        /// The watch was stopped.
        Stopped = "stopped",
        /// The destination is disabled.
        Disabled = "disabled",
        /// An ending overtook it.
        Superseded = "superseded",
        /// The guard forbids the address.
        Refused = "refused",
    }
}

/// A secret that neither `{:?}` nor `{}` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Masked(String);

impl Masked {
    /// Hides `secret`.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// What one app may have of something that is bounded for all together: a little is left for another, and
/// of few things one may have all.
pub const fn per_app_limit(all: usize) -> usize {
    all - all / 8
}

/// One thing that a job made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Output {
    /// Where it lies.
    #[schema(required)]
    pub url: Option<String>,
    /// `video`, `image`, `audio`, `text`, or the provider's own word.
    #[serde(rename = "type")]
    #[schema(required)]
    pub kind: Option<String>,
    /// A small picture of it.
    #[schema(required)]
    pub thumbnail: Option<String>,
    /// A picture to show before it plays.
    #[schema(required)]
    pub poster_image: Option<String>,
}

/// Why a job did not end well, in the provider's words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JobError {
    /// For programs.
    #[schema(required)]
    pub code: Option<String>,
    /// For people.
    #[schema(required)]
    pub message: Option<String>,
}

/// One parsed poll: the job as the provider describes it, in our words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Observation {
    /// What the definition makes of the provider's word.
    pub status: JobStatus,
    /// The provider's word; null before the first look.
    pub raw_status: Option<String>,
    /// 0 to 100.
    pub progress: Option<u8>,
    /// The first thing that the job made.
    pub output: Option<String>,
    /// All that the job made.
    pub outputs: Option<Vec<Output>>,
    /// Why it did not end well.
    pub error: Option<JobError>,
    /// When the job was submitted, by the provider's clock.
    pub created_at: Option<Timestamp>,
    /// When the job ended, by the provider's clock.
    pub completed_at: Option<Timestamp>,
}

impl Observation {
    /// A job that was never polled.
    pub fn unknown() -> Self {
        Self {
            status: JobStatus::Unknown,
            raw_status: None,
            progress: None,
            output: None,
            outputs: None,
            error: None,
            created_at: None,
            completed_at: None,
        }
    }
}

/// What makes a job the same job: watches with equal names share one poll.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct JobName {
    /// The provider's name.
    pub provider: String,
    /// The name of the credential it is asked with: never a hash of the key, which a rotation of
    /// the key would orphan.
    pub account: String,
    /// The provider's id of the job.
    pub job_id: String,
    /// Further parameters of the URL: canonical JSON, defaults filled in, keys sorted.
    pub params: String,
}

impl JobName {
    /// The shard in which the job lives, with its watches and deliveries.
    pub fn shard(&self) -> u16 {
        let mut hash = Sha256::new();
        for part in [&self.provider, &self.account, &self.job_id, &self.params] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part.as_bytes());
        }
        let digest: [u8; 32] = hash.finalize().into();
        u16::from_be_bytes([digest[0], digest[1]]) % SHARDS
    }
}

/// What the process that looks knows of its looks at a job; elsewhere unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PollStats {
    /// When it was last asked for.
    pub last_polled_at: Option<Timestamp>,
    /// When it will next be asked for, if nothing comes in between.
    pub next_poll_at: Option<Timestamp>,
    /// How often it was asked for.
    pub polls: u32,
    /// What is wrong, if the last look failed.
    pub last_error: Option<String>,
}

/// The jitter of the retries: a factor of 0.8 to 1.2, derived from what it is for, so that it comes
/// out the same after a crash.
fn jitter(id: Id, n: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(id.to_bytes());
    hash.update(n.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let draw = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    0.8 + 0.4 * f64::from(draw) / f64::from(u32::MAX)
}

/// Reads a `Retry-After`: seconds, whole or not, or an HTTP date, as a span from `now`. Nonsense
/// and the past are `None`. The caller caps it.
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        return (plain && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let millis = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
    let date = Timestamp::from_millis(i64::try_from(millis).ok()?);
    (date > now).then(|| date.since(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_a_family_or_one_type_and_nothing_else() {
        let mut set = EventSet::NONE;
        assert!(set.add("watch.*"));
        assert_eq!(set.iter().collect::<Vec<_>>(), [EventType::WatchExpired]);
        assert!(set.add("job.*"));
        assert_eq!(set.iter().count(), EventType::ALL.len());
        for pattern in ["*", "job", "job.", "watch.stopped", "", "job.**"] {
            let mut none = EventSet::NONE;
            assert!(!none.add(pattern), "{pattern}");
        }
    }

    #[test]
    fn the_shard_of_a_job_never_changes() {
        let name = JobName {
            provider: "muvi".into(),
            account: "default".into(),
            job_id: "job_abc123def456".into(),
            params: "{}".into(),
        };
        assert_eq!(name.shard(), 889);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").unwrap_or_default();
        let table = [
            ("0", Some(0)),
            ("120", Some(120_000)),
            (" 1.5 ", Some(1_500)),
            ("Wed, 18 Feb 2026 15:02:00 GMT", Some(120_000)),
            ("Wed, 18 Feb 2026 14:02:00 GMT", None),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("1e3", None),
            ("soon", None),
            ("", None),
        ];
        for (text, millis) in table {
            let read = parse_retry_after(text, now).map(|span| span.as_millis());
            assert_eq!(read, millis, "{text}");
        }
    }
}
