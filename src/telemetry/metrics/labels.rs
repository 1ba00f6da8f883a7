//! Metric labels as types.
//!
//! A label whose values are a closed set is an enum ([`Label`]). [`LabeledCounters`] holds one counter for
//! each value, so that every sample exists from the start, at 0.

use prometheus::IntCounter;

use crate::domain::{ChannelKind, Outcome, PollOutcome, Reason, WatchStatus};

/// A closed set of values of a metric label.
pub trait Label: Copy + PartialEq + 'static {
    /// Every value, in the order in which the samples are exported.
    const ALL: &'static [Self];

    /// Returns the value as it is exported.
    fn as_str(self) -> &'static str;
}

/// Implements [`Label`] for enums that have `ALL` and `as_str` of their own.
macro_rules! label {
    ($($name:ident)*) => {$(
        impl Label for $name {
            const ALL: &'static [Self] = $name::ALL;

            fn as_str(self) -> &'static str {
                $name::as_str(self)
            }
        }
    )*};
}

label! { ChannelKind PollOutcome Reason WatchStatus }

/// Declares enums that are used as labels.
macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Returns the value as it is exported.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }

        label! { $name }
    )*};
}

labels! {
    /// Outcome of an attempt to deliver.
    AttemptOutcome {
        /// The receiver accepted the delivery.
        Succeeded = "succeeded",
        /// The attempt failed and can be repeated.
        Failed = "failed",
        /// The message cannot be sent at all.
        Fatal = "fatal",
        /// The receiver answered 410.
        Gone = "gone",
        /// The address policy does not permit the address.
        Refused = "refused",
        /// No request was made, because the destination's breaker is open.
        Down = "destination_down",
    }

    /// Outcome of the export of a span.
    SpanOutcome {
        /// The collector accepted the span.
        Exported = "exported",
        /// The queue was full, or the collector was not available before the process ended.
        Dropped = "dropped",
        /// The collector rejected the span.
        Rejected = "rejected",
    }
}

impl From<&Outcome> for AttemptOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::Succeeded,
            Outcome::Retry { .. } => Self::Failed,
            Outcome::Fatal => Self::Fatal,
            Outcome::Gone => Self::Gone,
            Outcome::Refused => Self::Refused,
            Outcome::Down => Self::Down,
        }
    }
}

/// One value for each label.
#[derive(Clone, Debug)]
pub struct ByLabel<L, T>(Vec<(L, T)>);

impl<L: Label, T> ByLabel<L, T> {
    /// Makes the value of each of `labels`.
    pub fn new(labels: impl IntoIterator<Item = L>, make: impl Fn(&'static str) -> T) -> Self {
        Self(labels.into_iter().map(|label| (label, make(label.as_str()))).collect())
    }

    /// Makes the value of each label of the set.
    pub fn all(make: impl Fn(&'static str) -> T) -> Self {
        Self::new(L::ALL.iter().copied(), make)
    }

    /// Returns the value of `label`; `None` if the label has none.
    pub fn get(&self, label: L) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == label).map(|(_, value)| value)
    }
}

/// One counter for each label.
pub type LabeledCounters<L> = ByLabel<L, IntCounter>;

impl<L: Label> LabeledCounters<L> {
    /// Adds `count` to the counter of `label`.
    pub fn add(&self, label: L, count: u64) {
        if let Some(counter) = self.get(label) {
            counter.inc_by(count);
        }
    }
}
