//! Counting the probes of each app and each origin, which are limited.
//!
//! A probe is counted from the request for its page until its attempt has ended. If too many are counted, the next
//! queues and origins that are due for a probe wait here, in the order in which they became due. Each step gives as
//! many of them their turns as may be probed. One that has nothing to send any more uses no place, so the step
//! continues until no place is free or none waits.

use std::collections::HashMap;
use std::sync::Arc;

use super::super::fair_queue::app_of;
use super::super::origin::probes_max;
use super::DispatchState;
use crate::domain::AppNo;

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
        if !waits.is_empty() {
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
