//! Counting the probes of each app and each origin, which are limited.
//!
//! A probe is counted from the request for its page until its attempt has ended. If too many are counted, the next
//! queues and origins that are due for a probe wait here, in the order in which they became due. Each step gives as
//! many of them their turns as may be probed. One that has nothing to send any more uses no place, so the step
//! continues until no place is free or none waits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::super::fair_queue::app_of;
use super::super::origin::probes_max;
use super::DispatchState;
use crate::domain::{AppNo, Timestamp};

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
    fn first(&self, has_place: impl Fn(&Arc<str>) -> bool) -> Option<&(Timestamp, Arc<str>)> {
        self.order.iter().find(|(_, origin)| has_place(origin))
    }

    /// Removes and returns what has waited for longest of the origins that have a place.
    fn pop(&mut self, has_place: impl Fn(&Arc<str>) -> bool) -> Option<(Arc<str>, Arc<str>)> {
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

impl DispatchState {
    /// Counts a probe of a queue, before it is loaded or when it starts.
    pub(super) fn count_probe(&mut self, origin: &Arc<str>) {
        self.origin(origin).probes += 1;
        self.shares.start_probe(app_of(origin));
    }

    /// Counts a probe as ended. The next step gives its place to another one.
    pub(super) fn end_probe(&mut self, origin: &Arc<str>) {
        self.origin(origin).probes -= 1;
        self.shares.end_probe(app_of(origin));
    }

    /// Returns whether an origin may get one more probe than the `added` ones.
    fn has_probe_place(&self, origin: &str, added: usize) -> bool {
        let counted = self.origins.get(origin).map_or(0, |origin| origin.probes);
        counted + added < probes_max(self.per_origin_max)
    }

    /// Returns whether something that waits may be probed now.
    pub(in crate::dispatcher) fn can_probe(&self) -> bool {
        self.probe_waits.iter().any(|(app, waits)| {
            self.shares.may_probe(*app, self.in_flight_max)
                && waits.first(|origin| self.has_probe_place(origin, 0)).is_some()
        })
    }

    /// Gives as many of those that wait their turns as may be probed. Returns whether there were any.
    pub(in crate::dispatcher) fn resume_probes(&mut self) -> bool {
        let apps: Vec<AppNo> = self.probe_waits.keys().copied().collect();
        let mut resumed = false;
        for app in apps {
            for name in self.take_resumed(app) {
                resumed = true;
                self.mark_loadable(&name);
                self.list(&name);
            }
        }
        resumed
    }

    /// Removes and returns those of an app that may be probed.
    fn take_resumed(&mut self, app: AppNo) -> Vec<Arc<str>> {
        let Some(mut waits) = self.probe_waits.remove(&app) else { return Vec::new() };
        let mut added: HashMap<Arc<str>, usize> = HashMap::new();
        let mut names = Vec::new();
        let places = self.shares.probes_left(app, self.in_flight_max);
        while names.len() < places
            && let Some((origin, name)) = waits
                .pop(|origin| self.has_probe_place(origin, added.get(origin).copied().unwrap_or_default()))
        {
            *added.entry(origin).or_default() += 1;
            names.push(name);
        }
        if !waits.order.is_empty() {
            self.probe_waits.insert(app, waits);
        }
        names
    }

    /// Counts the probe of a queue as ended if it was counted, and nothing is left to send.
    pub(super) fn end_unused_probe(&mut self, name: &Arc<str>) {
        if let Some(queue) = self.queues.get_mut(name)
            && queue.is_probing
            && queue.waiting.is_empty()
            && queue.page.is_none()
        {
            queue.is_probing = false;
            let origin = Arc::clone(&queue.origin);
            self.end_probe(&origin);
        }
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
