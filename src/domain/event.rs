//! Events: immutable facts, most of them about a watch.
//!
//! *Operational events* are about deliveries and saved destinations, and the events of groups about several watches.
//! Neither is about one watch. They raise no further operational events.

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
        /// A saved destination was disabled.
        DestinationDisabled = "destination.disabled",
        /// A saved destination was enabled, or a delivery to it has succeeded after others failed.
        DestinationRecovered = "destination.recovered",
        /// A delivery failed, and no further attempt follows.
        DeliveryExhausted = "delivery.exhausted",
        /// Enough watches of a group have ended.
        GroupCompleted = "group.completed",
        /// A group expired before enough of its watches had ended.
        GroupExpired = "group.expired",
    }
}

impl EventType {
    /// Returns the types of events of watches, in the order of their declaration.
    pub fn of_watches() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|event| event.is_of_watch())
    }

    /// Returns the spellings of the types that lists and feeds can have: a test is in none.
    pub fn listed_words() -> Vec<&'static str> {
        Self::ALL.iter().filter(|event| **event != Self::Test).map(|event| event.as_str()).collect()
    }

    /// Parses a type that lists and feeds can have.
    pub fn parse_listed(word: &str) -> Option<Self> {
        Self::parse(word).filter(|event| *event != Self::Test)
    }

    /// Returns whether the event is about a watch: then a registration can name its type.
    pub fn is_of_watch(self) -> bool {
        self.is_ending() || matches!(self, Self::JobProcessing | Self::JobProgress)
    }

    /// Returns whether the event is about a destination or a delivery: then a saved destination can name its type.
    pub fn is_operational(self) -> bool {
        matches!(self, Self::DestinationDisabled | Self::DestinationRecovered | Self::DeliveryExhausted)
    }

    /// Returns whether the event is about a group: then the destinations of the group receive it, whatever types they
    /// name.
    pub fn is_of_group(self) -> bool {
        matches!(self, Self::GroupCompleted | Self::GroupExpired)
    }

    /// Returns whether the event ends its watch.
    pub fn is_ending(self) -> bool {
        match self {
            Self::JobCompleted
            | Self::JobFailed
            | Self::JobCancelled
            | Self::JobNotFound
            | Self::WatchExpired => true,
            Self::JobProcessing
            | Self::JobProgress
            | Self::Test
            | Self::DestinationDisabled
            | Self::DestinationRecovered
            | Self::DeliveryExhausted
            | Self::GroupCompleted
            | Self::GroupExpired => false,
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

/// What names event types in a list.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventList {
    /// A registration.
    OfWatch,
    /// A saved destination. It can name the types of operational events as well.
    OfDestination,
}

impl EventList {
    /// Returns the types that the list can name, in the order of their declaration.
    pub fn types(self) -> impl Iterator<Item = EventType> {
        let is_named = move |event: &EventType| {
            event.is_of_watch() || self == Self::OfDestination && event.is_operational()
        };
        EventType::ALL.iter().copied().filter(is_named)
    }

    /// Returns the patterns that name all types with a common beginning.
    pub fn families(self) -> &'static [&'static str] {
        match self {
            Self::OfWatch => &["job.*", "watch.*"],
            Self::OfDestination => &["job.*", "watch.*", "destination.*", "delivery.*"],
        }
    }
}

/// The event types that a watch delivers. It is stored as one bit for each type, in the order of their declaration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventSet(pub i64);

impl EventSet {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Returns the default of a registration: every type that ends a watch.
    pub fn endings() -> Self {
        EventType::ALL.iter().filter(|event| event.is_ending()).copied().collect()
    }

    /// Returns whether the set contains `event`.
    pub fn has(self, event: EventType) -> bool {
        self.0 & event.bit() != 0
    }

    /// Adds what `pattern` names in a list: one type or a family. Returns `false` for any other pattern.
    pub fn add(&mut self, pattern: &str, list: EventList) -> bool {
        let family = pattern.strip_suffix('*').filter(|_| list.families().contains(&pattern));
        let is_named = |event: EventType| {
            event.as_str() == pattern || family.is_some_and(|family| event.as_str().starts_with(family))
        };
        let named: Self = list.types().filter(|event| is_named(*event)).collect();
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
    /// The watch that the event is about; `None` if it is about no watch.
    pub watch: Option<WatchId>,
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
        assert!(set.add("watch.*", EventList::OfWatch));
        assert_eq!(set.iter().collect::<Vec<_>>(), [EventType::WatchExpired]);
        assert!(set.add("job.*", EventList::OfWatch));
        assert!(set.iter().eq(EventType::of_watches()));
        for list in [EventList::OfWatch, EventList::OfDestination] {
            for pattern in ["*", "test", "job", "job.", "watch.stopped", "", "job.**"] {
                let mut none = EventSet::NONE;
                assert!(!none.add(pattern, list), "{pattern}");
            }
        }
    }

    #[test]
    fn only_a_destination_can_name_operational_events() {
        for pattern in ["destination.*", "delivery.*", "destination.disabled", "delivery.exhausted"] {
            let mut set = EventSet::NONE;
            assert!(!set.add(pattern, EventList::OfWatch), "{pattern}");
            assert!(set.add(pattern, EventList::OfDestination), "{pattern}");
            assert!(set.iter().all(EventType::is_operational), "{pattern}");
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
