//! Saved destinations: the breaker of their host, their limits, and what follows when they change.
//!
//! The queue of a saved destination is alone in its origin, so that it has places of its own. Two things are shared
//! with the inline destinations of the same address: the breaker for connections to the host, and the pace of a chat.
//! `target` names both. It is known from the last delivery that was loaded. Before the first one is loaded, the queue
//! is free; the breaker is checked again before an attempt starts.

use std::sync::Arc;
use std::time::Duration;

use super::super::breaker::{Admission, Breakers};
use super::super::origin::origin_of;
use super::super::pacing::Pacer;
use super::{DestinationQueue, DispatchState};
use crate::domain::{SavedQueue, Timestamp};

/// Pause after which a saved destination is considered again whose host is probed by another queue.
const HOST_PROBE_PAUSE: Duration = Duration::from_secs(1);

impl DestinationQueue {
    /// Returns whether an attempt may be made now, by the breaker of the URL, and for a saved destination by that of
    /// its host.
    pub(super) fn admission(&self, breakers: &Breakers, name: &str, now: Timestamp) -> Admission {
        let own = breakers.admission(name, now);
        let Some(target) = &self.target else { return own };
        match (own, breakers.admission(origin_of(target), now)) {
            (held @ Admission::Held(_), _) => held,
            // The end of a probe of another queue does not give this one its turn.
            (_, Admission::Held(until)) => Admission::Held(Some(until.unwrap_or(now.plus(HOST_PROBE_PAUSE)))),
            (Admission::Probe, _) | (_, Admission::Probe) => Admission::Probe,
            (Admission::Free, Admission::Free) => Admission::Free,
        }
    }

    /// Returns when the destination accepts messages again, if that is not soon.
    pub(super) fn closed_until(&self, pacer: &Pacer, name: &str, now: Timestamp) -> Option<Timestamp> {
        let of_target = self.target.as_ref().and_then(|target| pacer.closed_until(target, now));
        pacer.closed_until(name, now).max(of_target)
    }
}

impl DispatchState {
    /// Returns when the destination of a queue accepts messages again, if that is not soon.
    pub(super) fn closed_until(&self, name: &Arc<str>, now: Timestamp) -> Option<Timestamp> {
        self.queues.get(name)?.closed_until(&self.pacer, name, now)
    }

    /// Notes the limits and the address of a saved destination.
    pub(super) fn set_limits(&mut self, name: &Arc<str>, saved: &SavedQueue) {
        let queue = self.queue(name);
        if queue.target.as_deref() != Some(&saved.target) {
            queue.target = Some(saved.target.as_str().into());
        }
        let origin = Arc::clone(&queue.origin);
        self.origin(&origin).concurrency = saved.concurrency;
        self.pacer.set_rate(name, saved.rate.spacing);
    }

    /// Returns the deliveries of a saved destination that has changed to the store, to be read again. Those in flight
    /// continue.
    pub(super) fn reload(&mut self, name: &Arc<str>) {
        self.pacer.reload(name);
        if let Some(queue) = self.queues.get_mut(name) {
            queue.target = None;
            let origin = Arc::clone(&queue.origin);
            if let Some(page) = &mut queue.page {
                page.is_stale = true;
                page.urgent.clear();
            }
            let count = std::mem::take(&mut queue.urgent);
            if count > 0 {
                // The queue is alone in its origin.
                let urgent: Vec<_> = self.origin(&origin).urgent.drain(..).collect();
                self.unload(name, &urgent);
            }
            self.return_to_store(name);
        }
        self.mark_has_more(name);
    }
}
