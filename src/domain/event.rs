//! Events: immutable facts about a watch.

use super::id::hash;
use super::{EndingKind, EventId, Id, Timestamp, WatchId};

word_enum! {
    /// Type of an event.
    EventType {
        /// The job completed.
        JobCompleted = "job.completed",
        /// The job failed.
        JobFailed = "job.failed",
        /// The job was cancelled.
        JobCancelled = "job.cancelled",
        /// The provider does not know the job.
        JobNotFound = "job.not_found",
        /// The job did not end before the watch expired.
        WatchExpired = "watch.expired",
        /// The job was polled as running for the first time.
        JobProcessing = "job.processing",
        /// The job's progress changed.
        JobProgress = "job.progress",
        /// A test of a destination. It is about no watch, and is not in the feed.
        Test = "test",
    }
}

impl EventType {
    /// Returns the types of events of watches, in the order of their declaration.
    pub fn of_watches() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|event| event.is_of_watch())
    }

    /// Returns whether the event is about a watch: then the feed has it, and a registration can name its type.
    pub fn is_of_watch(self) -> bool {
        self != Self::Test
    }

    /// Returns whether the event ends its watch.
    pub fn is_ending(self) -> bool {
        match self {
            Self::JobCompleted
            | Self::JobFailed
            | Self::JobCancelled
            | Self::JobNotFound
            | Self::WatchExpired => true,
            Self::JobProcessing | Self::JobProgress | Self::Test => false,
        }
    }

    /// Returns whether the event reports an end that the provider reported.
    pub fn reports_the_jobs_end(self) -> bool {
        matches!(self, Self::JobCompleted | Self::JobFailed | Self::JobCancelled)
    }

    const fn bit(self) -> i64 {
        1 << self as u8
    }
}

impl EndingKind {
    /// Returns the type of the event that reports this ending.
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

impl EventId {
    /// Returns the id of the `n`th event of this type and watch.
    pub fn derive(watch: WatchId, event: EventType, n: u32) -> Self {
        let parts: [&[u8]; 4] = [&watch.to_bytes(), event.as_str().as_bytes(), &[0], &n.to_be_bytes()];
        Self(Id::from_bytes(hash(&parts)))
    }
}

/// The event types that a watch delivers. It is stored as one bit for each type, in the order of their declaration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventSet(pub i64);

impl EventSet {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// The patterns that name all types with a common beginning.
    pub const FAMILIES: [&str; 2] = ["job.*", "watch.*"];

    /// Returns the default of a registration: every type that ends a watch.
    pub fn endings() -> Self {
        EventType::ALL.iter().filter(|event| event.is_ending()).copied().collect()
    }

    /// Returns whether the set contains `event`.
    pub fn has(self, event: EventType) -> bool {
        self.0 & event.bit() != 0
    }

    /// Adds what `pattern` names: one type, `job.*` or `watch.*`. Returns `false` for any other pattern.
    pub fn add(&mut self, pattern: &str) -> bool {
        let family = pattern.strip_suffix('*').filter(|_| Self::FAMILIES.contains(&pattern));
        let is_named = |event: EventType| {
            event.as_str() == pattern || family.is_some_and(|family| event.as_str().starts_with(family))
        };
        let named: Self = EventType::of_watches().filter(|event| is_named(*event)).collect();
        self.0 |= named.0;
        named != Self::NONE
    }

    /// Returns the members, in the order of their declaration.
    pub fn iter(self) -> impl Iterator<Item = EventType> {
        EventType::ALL.iter().copied().filter(move |event| self.has(*event))
    }
}

impl FromIterator<EventType> for EventSet {
    fn from_iter<I: IntoIterator<Item = EventType>>(events: I) -> Self {
        Self(events.into_iter().fold(0, |bits, event| bits | event.bit()))
    }
}

/// An event, as the API lists it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Public id.
    pub id: EventId,
    /// Position in the app's feed.
    pub position: i64,
    /// Type of the event.
    pub event_type: EventType,
    /// The watch that the event is about.
    pub watch: WatchId,
    /// Time at which Ringback observed the fact.
    pub at: Timestamp,
    /// Body, as it is delivered.
    pub body: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_a_family_or_one_type() {
        let mut set = EventSet::NONE;
        assert!(set.add("watch.*"));
        assert_eq!(set.iter().collect::<Vec<_>>(), [EventType::WatchExpired]);
        assert!(set.add("job.*"));
        assert!(set.iter().eq(EventType::of_watches()));
        for pattern in ["*", "test", "job", "job.", "watch.stopped", "", "job.**"] {
            let mut none = EventSet::NONE;
            assert!(!none.add(pattern), "{pattern}");
        }
    }

    #[test]
    fn an_events_id_is_a_function_of_the_fact() {
        let watch = WatchId(Id::from_bytes([7; 16]));
        let id = EventId::derive(watch, EventType::JobCompleted, 0);
        assert_eq!(id, EventId::derive(watch, EventType::JobCompleted, 0));
        assert_ne!(id, EventId::derive(watch, EventType::JobFailed, 0));
        assert_ne!(id, EventId::derive(watch, EventType::JobCompleted, 1));
    }
}
