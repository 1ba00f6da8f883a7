//! Pages: reading due deliveries from the store, for queues that have few loaded ones.

use std::sync::Arc;

use super::super::breaker::Admission;
use super::super::fair_queue::app_of;
use super::super::origin::{Turn, half_of, host_of, probes_max};
use super::{DispatchState, LOADED_MAX, PageInFlight, is_skipped};
use crate::domain::{AppNo, Timestamp};
use crate::store::{DueDeliveries, LoadDueDeliveries};

/// Maximum number of pages that are read at the same time. The size of the bodies on a page is known only after
/// the page has arrived, so this also limits by how much [`LOADED_MAX`] can be exceeded.
const PAGES_MAX: usize = 16;

impl DispatchState {
    /// Returns whether a page can be read now.
    pub(in crate::dispatcher) fn can_load(&self) -> bool {
        self.loadable.has_any(|app, is_quick| self.may_load(app, is_quick))
    }

    /// Returns whether a delivery of a queue of this kind may be loaded for an app.
    pub(super) fn may_load(&self, app: AppNo, is_quick: bool) -> bool {
        let (total, (most, bytes)) = (&self.shares.total, LOADED_MAX);
        total.loaded + self.pages.1.total() < most
            && total.bytes < bytes
            && (is_quick || total.other.loaded + self.pages.1.other < half_of(most))
            && self.shares.may_load(app, LOADED_MAX, is_quick)
    }

    /// Returns the pages to read now, for queues that have few loaded deliveries and more in the store.
    pub(in crate::dispatcher) fn take_pages(&mut self, now: Timestamp) -> Vec<LoadDueDeliveries> {
        let mut pages = Vec::new();
        while self.pages.0 < PAGES_MAX {
            let mut loadable = std::mem::take(&mut self.loadable);
            let next = loadable.pop(|app, is_quick| self.may_load(app, is_quick));
            self.loadable = loadable;
            let Some((origin, is_quick)) = next else { break };
            if let Some(origin) = self.origins.get_mut(&origin) {
                *origin.is_loadable.of(is_quick) = false;
            }
            let Some((name, limit, is_probe)) = self.next_loader(&origin, is_quick, now) else {
                self.forget_if_idle(&origin);
                continue;
            };
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            queue.loadable = None;
            self.with_more -= usize::from(std::mem::take(&mut queue.has_more));
            self.occupied.insert(Arc::clone(&name));
            queue.page = Some(PageInFlight { limit, ..PageInFlight::default() });
            let retries_first = is_probe && queue.retries_first;
            queue.retries_first ^= is_probe;
            let is_new_probe = is_probe && !std::mem::replace(&mut queue.is_probing, is_probe);
            let sent = queue.in_flight.iter().chain(&queue.awaiting_reply).chain(&queue.awaiting_record);
            let sent = sent.copied();
            let loaded = queue.waiting.iter().map(|delivery| delivery.id).chain(sent);
            let urgent = self.origins.get(&origin).into_iter().flat_map(|origin| &origin.urgent);
            let urgent = urgent.filter(|delivery| *delivery.destination.queue == *name);
            let loaded = loaded.chain(urgent.map(|delivery| delivery.id)).collect();
            if is_new_probe {
                self.count_probe(&origin);
            }
            self.pages.0 += 1;
            self.pages.1.take(is_quick, limit);
            self.origin(&origin).loaded.take(is_quick, limit);
            self.list(&origin);
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            pages.push(LoadDueDeliveries { queue: name.to_string(), now, limit, loaded, retries_first });
        }
        pages
    }

    /// Removes and returns the queue of this kind of an origin whose deliveries are loaded next, the maximum number of
    /// them, and whether one is loaded as a probe.
    fn next_loader(
        &mut self,
        name: &Arc<str>,
        is_quick: bool,
        now: Timestamp,
    ) -> Option<(Arc<str>, usize, bool)> {
        let (most, few) = (self.loaded_per_origin(), self.per_origin_max.div_ceil(2));
        let Self { origins, queues, breakers, holds, pacer, shares, probe_waits, .. } = self;
        let origin = origins.get_mut(name)?;
        let admission = breakers.admission(name, now);
        if let Admission::Held(until) = admission {
            if let Some(until) = until {
                holds.set(name, until);
            }
            return None;
        }
        let (used, app) = (origin.loaded, app_of(name));
        let is_probe = admission == Admission::Probe;
        let app_may_probe = shares.may_probe(app, self.in_flight_max);
        let may_probe = app_may_probe && origin.probes < probes_max(self.per_origin_max);
        let origin_name = name;
        let mut wait = |name: &Arc<str>| {
            let due_at = breakers.probe_due_at(name).unwrap_or(now);
            probe_waits.entry(app).or_default().insert(origin_name, due_at, Arc::clone(name));
        };
        if is_probe && !app_may_probe {
            wait(name);
            return None;
        }
        if used.total() >= most || (is_probe && origin.has_waiting()) {
            // `finish` and `finish_page` list it again.
            return None;
        }
        let mut chosen = (0, false);
        let found = origin.loadable.pop(is_quick, |name| {
            let Some(queue) = queues.get_mut(name) else { return Turn::Drop };
            let admission = queue.admission(breakers, name, now);
            let is_probe = is_probe || admission == Admission::Probe;
            let closed_until = queue.closed_until(pacer, name, now);
            if let Admission::Held(Some(until)) = admission {
                holds.set(name, until);
            } else if let Some(until) = closed_until {
                holds.set(name, until);
            }
            let has_enough = queue.has_enough(if is_probe { 1 } else { few });
            let waits = admission == Admission::Probe && !may_probe;
            if waits && queue.has_more {
                wait(name);
            }
            let is_held = matches!(admission, Admission::Held(_)) || closed_until.is_some() || waits;
            if !queue.has_more || queue.page.is_some() || has_enough || is_held {
                // `mark_has_more` adds it again.
                queue.loadable = None;
                return Turn::Drop;
            }
            let standing = queue.standing(name);
            let limit = used.free(most, queue.reserved(), standing).min(if is_probe { 1 } else { most });
            chosen = (limit, is_probe);
            match limit {
                0 if used.free(most, 0, standing) == 0 => Turn::Stop,
                0 => Turn::Keep,
                _ => Turn::Take,
            }
        });
        found.map(|name| (name, chosen.0, chosen.1))
    }

    /// Loads the deliveries of a page. `None` if the page could not be read.
    pub(in crate::dispatcher) fn finish_page(
        &mut self,
        name: &Arc<str>,
        page: Option<DueDeliveries>,
        now: Timestamp,
    ) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let Some(PageInFlight { limit, became_due, is_stale, skipped, urgent }) = queue.page.take() else {
            return;
        };
        let (origin, is_quick) = (Arc::clone(&queue.origin), queue.is_quick);
        let page = page.filter(|_| !is_stale);
        self.origin(&origin).loaded.release(is_quick, limit);
        self.pages.0 -= 1;
        self.pages.1.release(is_quick, limit);
        let failed = page.is_none();
        let DueDeliveries { deliveries, has_more, next_retry_at } = page.unwrap_or_default();
        // The breaker may have opened meanwhile.
        if let Some(saved) = deliveries.first().and_then(|delivery| delivery.destination.saved.as_deref()) {
            // Also if the host is held back: otherwise the same page would be read again at once.
            self.set_limits(name, saved);
        }
        let host = deliveries.first().map(|delivery| host_of(delivery, &origin));
        let admission = self.admission(host.as_ref().unwrap_or(&origin), name, now);
        let is_held = matches!(admission, Admission::Held(_));
        let is_left = is_held && !deliveries.is_empty();
        for delivery in deliveries.into_iter().filter(|_| !is_held) {
            if !skipped.iter().any(|(watch, scope)| is_skipped(&delivery, *watch, *scope)) {
                self.load(name, Box::new(delivery));
            }
        }
        for delivery in urgent {
            self.load_urgent(name, delivery);
        }
        if failed || has_more || became_due || is_left {
            self.mark_has_more(name);
        }
        if let Some(next_retry_at) = next_retry_at {
            self.set_timer(name, next_retry_at);
        }
        self.end_unused_probe(name);
        self.list(&origin);
        self.remove_if_idle(name);
    }
}
