//! Deliveries of a watch that are skipped while they are loaded.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{DispatchState, is_skipped};
use crate::domain::{CancelScope, PendingDelivery, WatchId};

/// Removes and returns the skipped deliveries of a watch.
#[expect(clippy::vec_box, reason = "the boxes come from the queue")]
fn remove_skipped(
    waiting: &mut VecDeque<Box<PendingDelivery>>,
    watch: WatchId,
    scope: CancelScope,
) -> Vec<Box<PendingDelivery>> {
    if !waiting.iter().any(|delivery| is_skipped(delivery, watch, scope)) {
        return Vec::new();
    }
    let (skipped, kept): (VecDeque<_>, VecDeque<_>) =
        std::mem::take(waiting).into_iter().partition(|delivery| is_skipped(delivery, watch, scope));
    *waiting = kept;
    skipped.into()
}

impl DispatchState {
    /// Removes the waiting deliveries of a watch that are in the scope. Deliveries in flight continue.
    pub(super) fn skip(&mut self, watch: WatchId, scope: CancelScope) {
        let mut removed: Vec<(Arc<str>, Vec<Box<PendingDelivery>>)> = Vec::new();
        let mut urgent = Vec::new();
        self.occupied.retain(|name| {
            let Some(queue) = self.queues.get_mut(name) else { return false };
            let skipped = remove_skipped(&mut queue.waiting, watch, scope);
            if let Some(page) = &mut queue.page {
                page.skipped.push((watch, scope));
                page.urgent.retain(|delivery| !is_skipped(delivery, watch, scope));
            }
            if !skipped.is_empty() {
                removed.push((Arc::clone(name), skipped));
            }
            if queue.urgent > 0
                && let Some(origin) = self.origins.get_mut(&queue.origin)
            {
                urgent.extend(remove_skipped(&mut origin.urgent, watch, scope));
            }
            !queue.waiting.is_empty() || queue.page.is_some() || queue.urgent > 0
        });
        for delivery in urgent {
            let name = delivery.destination.queue.as_str().into();
            self.queue(&name).urgent -= 1;
            removed.push((name, vec![delivery]));
        }
        for (name, skipped) in removed {
            self.unload(&name, &skipped);
            self.end_unused_probe(&name);
            self.mark_loadable(&name);
            self.remove_if_idle(&name);
        }
    }
}
