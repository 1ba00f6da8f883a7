//! Queues and origins of one app that are due for a probe while too many others are probed, in the order in which they
//! became due.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::domain::Timestamp;

/// Queues and origins of one app that wait for a place of a probe.
#[derive(Debug, Default)]
pub(super) struct ProbeWaits {
    /// Those of each origin, in the order in which they became due.
    origins: HashMap<Arc<str>, BTreeSet<(Timestamp, Arc<str>)>>,
    /// The origins, in the order of the first that waits.
    order: BTreeSet<(Timestamp, Arc<str>)>,
}

impl ProbeWaits {
    /// Adds a queue of an origin, or the origin itself.
    pub(super) fn insert(&mut self, origin: &Arc<str>, due_at: Timestamp, name: Arc<str>) {
        let waiting = self.origins.entry(Arc::clone(origin)).or_default();
        let first = waiting.first().map(|(at, _)| *at);
        waiting.insert((due_at, name));
        if first.is_none_or(|first| due_at < first) {
            if let Some(first) = first {
                self.order.remove(&(first, Arc::clone(origin)));
            }
            self.order.insert((due_at, Arc::clone(origin)));
        }
    }

    /// Returns whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Number of those that wait.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.origins.values().map(BTreeSet::len).sum()
    }

    /// Returns what has waited for longest.
    #[cfg(test)]
    pub(super) fn longest(&self) -> Option<Arc<str>> {
        let (_, origin) = self.order.first()?;
        self.origins[origin].first().map(|(_, name)| Arc::clone(name))
    }

    /// Returns the first origin that has a place. Those without one have probes, and these are few.
    pub(super) fn first(&self, has_place: impl Fn(&Arc<str>) -> bool) -> Option<&(Timestamp, Arc<str>)> {
        self.order.iter().find(|(_, origin)| has_place(origin))
    }

    /// Removes and returns what has waited for longest of the origins that have a place.
    pub(super) fn pop(&mut self, has_place: impl Fn(&Arc<str>) -> bool) -> Option<(Arc<str>, Arc<str>)> {
        let first = self.first(has_place)?.clone();
        self.order.remove(&first);
        let (_, origin) = first;
        let waiting = self.origins.get_mut(&origin)?;
        let (_, name) = waiting.pop_first()?;
        match waiting.first() {
            Some((next, _)) => _ = self.order.insert((*next, Arc::clone(&origin))),
            None => _ = self.origins.remove(&origin),
        }
        Some((origin, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_waited_longest_of_a_free_origin_is_next() {
        let mut waits = ProbeWaits::default();
        let (a, b): (Arc<str>, Arc<str>) = ("1 a".into(), "1 b".into());
        for (origin, at, name) in [(&a, 5, "a5"), (&b, 4, "b4"), (&a, 1, "a1"), (&b, 2, "b2"), (&a, 3, "a3")]
        {
            waits.insert(origin, Timestamp::from_millis(at), name.into());
        }
        let next =
            |waits: &mut ProbeWaits, full: &str| waits.pop(|origin| **origin != *full).map(|(_, name)| name);
        assert_eq!(next(&mut waits, "1 a").as_deref(), Some("b2"));
        let all: Vec<_> = std::iter::from_fn(|| next(&mut waits, "")).collect();
        assert_eq!(all, ["a1", "a3", "b4", "a5"].map(Arc::from));
        assert!(waits.origins.is_empty() && waits.order.is_empty());
    }
}
