//! Counting the probes of each app and each origin, which are limited.
//!
//! A probe is counted from the request for its page until its attempt has ended. If too many are counted, the next
//! queues and origins that are due for a probe wait here. The end of a probe gives all of them their turns, in the
//! order in which they became due, so the one that has waited for longest follows. Each of them that finds no place
//! waits again at its position.

use std::sync::Arc;

use super::super::fair_queue::app_of;
use super::DispatchState;

impl DispatchState {
    /// Counts a probe of a queue, before it is loaded or when it starts.
    pub(super) fn count_probe(&mut self, origin: &Arc<str>) {
        self.origin(origin).probes += 1;
        self.shares.start_probe(app_of(origin));
    }

    /// Counts a probe as ended. The queues and origins that waited for that take their turns.
    pub(super) fn end_probe(&mut self, origin: &Arc<str>) {
        let app = app_of(origin);
        self.origin(origin).probes -= 1;
        self.shares.end_probe(app);
        for (_, name) in self.probe_waits.remove(&app).unwrap_or_default() {
            self.mark_loadable(&name);
            self.list(&name);
        }
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
