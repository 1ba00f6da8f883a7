//! Queues that are forgotten because too many are known, and found again by a search of the store.
//!
//! At most [`QUEUES_MAX`](super::QUEUES_MAX) queues have a timer, and at most as many have a mark that the store has
//! more of their deliveries. If one more is added, an eighth of them is forgotten. The apps with the most queues give
//! way, and within an app the origins with the most ([`fair_order`]). So a retry is made at its time, however many URLs
//! of another app or another host wait. The search orders the queues by the same rule, so what is held back for one app
//! or host does not hide the others from it.

use std::sync::Arc;
use std::time::Duration;

use super::DispatchState;
use crate::dispatcher::fair_queue::fair_order;
use crate::domain::Timestamp;
use crate::store::DestinationQueues;

/// Shortest time between two searches.
const SEARCH_INTERVAL: Duration = Duration::from_secs(10);

impl DispatchState {
    /// Sets the timer of a queue, unless it has an earlier one.
    pub(in crate::dispatcher) fn set_timer(&mut self, name: &Arc<str>, at: Timestamp) {
        self.timers.set(name, at);
        if self.timers.len() > self.queues_max {
            let forgotten = self.beyond_kept(fair_order(self.timers.names()));
            let first = forgotten.iter().filter_map(|name| self.timers.remove(name)).min();
            self.search_later(first.unwrap_or(at));
        }
    }

    /// Sets the timers of the queues that were found in the store. For the others, it is searched again.
    pub(in crate::dispatcher) fn set_timers(&mut self, found: DestinationQueues) {
        for (name, at) in found.queues {
            // The next page of a queue that has more sets its timer.
            if !self.queues.get(name.as_str()).is_some_and(|queue| queue.has_more) {
                self.set_timer(&name.into(), at);
            }
        }
        if let Some(at) = found.others_at {
            self.search_later(at);
        }
    }

    /// Forgets queues that have more in the store.
    pub(super) fn forget_queues(&mut self) {
        let marked = self.queues.iter().filter(|(_, queue)| queue.has_more).map(|(name, _)| name);
        for name in self.beyond_kept(fair_order(marked)) {
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            queue.has_more = false;
            self.with_more -= 1;
            if let Some(ticket) = queue.loadable.take()
                && let Some(origin) = self.origins.get_mut(&queue.origin)
            {
                origin.loadable.remove(ticket, queue.is_quick);
            }
            self.remove_if_idle(&name);
        }
        let Self { loadable, origins, .. } = self;
        let has_work = |name: &str, is_quick: bool| {
            origins.get(name).is_some_and(|origin| origin.loadable.has(is_quick))
        };
        for (name, is_quick) in loadable.remove_without(has_work) {
            if let Some(origin) = self.origins.get_mut(&name) {
                *origin.is_loadable.of(is_quick) = false;
            }
            self.forget_if_idle(&name);
        }
        self.search_later(self.clock.last);
    }

    /// Returns the names of the queues to forget. All queues are read then, so many are forgotten at a time.
    fn beyond_kept(&self, mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
        let kept = self.queues_max - self.queues_max / 8;
        names.split_off(names.len().min(kept))
    }

    /// Searches the store at this time for queues that were forgotten, but not again at once.
    fn search_later(&mut self, at: Timestamp) {
        let at = at.max(self.clock.last.plus(SEARCH_INTERVAL));
        self.search_at = Some(self.search_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Returns whether the store is to be searched now.
    pub(in crate::dispatcher) fn take_search(&mut self, now: Timestamp) -> bool {
        self.search_at.take_if(|at| *at <= now).is_some()
    }
}
