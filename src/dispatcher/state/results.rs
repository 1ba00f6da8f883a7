//! What the result of an attempt changes: for its delivery, and for the others of its destination.

use std::sync::Arc;
use std::time::Duration;

use super::DispatchState;
use crate::channels::{AttemptResult, Reach, TokenUse};
use crate::dispatcher::breaker::OWN_FAULT_PAUSE;
use crate::dispatcher::fair_queue::app_of;
use crate::dispatcher::origin::{QUICK, host_of, origin_of};
use crate::domain::{AppNo, ChannelKind, DeliveryId, NextStep, Outcome, PendingDelivery, Timestamp};

/// Maximum number of deliveries that wait for a late reply, and hold neither a place of their queue nor one of their
/// channel. Each holds a connection; a busy mail server accepts no more from one client.
const AWAITING_REPLY_MAX: usize = 64;

/// What a result changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::dispatcher) struct Changes {
    /// A breaker has opened.
    pub(in crate::dispatcher) opened: Option<Opened>,
    /// A breaker has closed.
    pub(in crate::dispatcher) closed: bool,
    /// The origin pauses after a fault of our own, and a log line reports it: the number of such pauses, over all
    /// origins in the current minute.
    pub(in crate::dispatcher) paused: Option<u64>,
    /// For how long attempts of several deliveries to the origin or the URL have failed, this one included.
    pub(in crate::dispatcher) outage: Option<Duration>,
}

/// Kind of a breaker that has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dispatcher) enum Opened {
    /// No connection to the origin is made.
    Origin,
    /// The URL gives no answer in time, or its answers break off.
    Url,
}

impl DispatchState {
    /// Updates the breakers, the pacing and the standing of a queue after an attempt that started and ended at these
    /// times.
    pub(in crate::dispatcher) fn settle(
        &mut self,
        delivery: &PendingDelivery,
        result: &AttemptResult,
        (started_at, ended_at): (Timestamp, Timestamp),
    ) -> Changes {
        let channel = delivery.destination.channel;
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let origin = Arc::clone(&self.queue(&name).origin);
        let host = host_of(delivery, &origin);
        let mut changes = Changes::default();
        if let Some(wait) = result.token_wait() {
            // Its deliveries need the same token.
            self.breakers.await_token(&name, wait, result.attempt.error.as_deref(), ended_at);
            return changes;
        }
        if result.outcome == Outcome::NotMade {
            if self.breakers.pause(&host, OWN_FAULT_PAUSE, ended_at) {
                changes.paused = self.pauses.count(ended_at);
            }
            return changes;
        }
        if let Some(TokenUse::Requested { queue, reach, has_failed }) = result.token.as_deref() {
            let outage = self.settle_token((queue.as_str(), *reach), delivery.id, (started_at, ended_at));
            if *has_failed {
                for name in [origin_of(queue), queue] {
                    self.breakers.note_error(name, result.attempt.error.as_deref());
                }
                // Nothing was sent to the destination.
                changes.outage = outage;
                return changes;
            }
        }
        if let (Some(429), Outcome::Retry { after: Some(wait) }) =
            (result.attempt.status_code, &result.outcome)
        {
            let saved = delivery.destination.saved.as_ref();
            let target = saved.map_or(&*name, |saved| saved.target.as_str());
            let waiting = self.pacer.rate_limited(target, channel, *wait, ended_at);
            if self.pacer.closed_until(target, ended_at).is_some() {
                waiting.iter().chain([&name]).for_each(|name| self.return_to_store(name));
            }
        }
        let is_connected = !matches!(result.reach, Reach::NotTried | Reach::NotConnected);
        if is_connected && host != name {
            changes.closed |= self.breakers.responded(&host);
        }
        match result.reach {
            Reach::NotTried => {}
            Reach::NotConnected => {
                let opens = self.breakers.failed(&host, delivery.id, (started_at, ended_at));
                self.breakers.note_error(&host, result.attempt.error.as_deref());
                changes.outage = self.breakers.outage(&host, ended_at);
                changes.opened = opens.then_some(Opened::Origin);
            }
            Reach::NoAnswer | Reach::Broken => {
                let opens = self.breakers.failed(&name, delivery.id, (started_at, ended_at));
                self.breakers.note_error(&name, result.attempt.error.as_deref());
                changes.outage = self.breakers.outage(&name, ended_at);
                changes.opened = opens.then_some(Opened::Url);
            }
            Reach::Unavailable => {
                changes.closed |= self.breakers.unavailable(&name, delivery.id, ended_at);
                changes.outage = self.breakers.outage(&name, ended_at);
            }
            Reach::Answered => changes.closed |= self.breakers.responded(&name),
        }
        match changes.opened {
            Some(Opened::Origin) => {
                // Saved destinations of the host have origins of their own, and return when it is their turn.
                for origin in [&host, &origin] {
                    let Some(origin) = self.origins.get_mut(origin) else { continue };
                    for name in origin.sendable.drain() {
                        self.queue(&name).sendable = None;
                        self.return_to_store(&name);
                    }
                }
            }
            Some(Opened::Url) => self.return_to_store(&name),
            None => {}
        }
        if result.reach != Reach::NotTried {
            self.set_quick(&name, result.outcome == Outcome::Ok && result.duration < QUICK);
        }
        changes
    }

    /// Updates the breakers of a token URL, which are those of webhooks to it. Returns for how long requests for tokens
    /// of several deliveries have failed.
    fn settle_token(
        &mut self,
        (queue, reach): (&str, Reach),
        delivery: DeliveryId,
        (started_at, ended_at): (Timestamp, Timestamp),
    ) -> Option<Duration> {
        let name: Arc<str> = queue.into();
        let host: Arc<str> = origin_of(&name).into();
        if !matches!(reach, Reach::NotTried | Reach::NotConnected) {
            self.breakers.responded(&host);
        }
        match reach {
            Reach::NotTried => None,
            Reach::NotConnected => {
                self.breakers.failed(&host, delivery, (started_at, ended_at));
                self.breakers.outage(&host, ended_at)
            }
            Reach::NoAnswer | Reach::Broken => {
                self.breakers.failed(&name, delivery, (started_at, ended_at));
                self.breakers.outage(&name, ended_at)
            }
            Reach::Unavailable => {
                self.breakers.unavailable(&name, delivery, ended_at);
                self.breakers.outage(&name, ended_at)
            }
            Reach::Answered => {
                self.breakers.responded(&name);
                None
            }
        }
    }

    /// Changes the standing of a queue in its origin.
    fn set_quick(&mut self, name: &Arc<str>, is_quick: bool) {
        let Some(queue) = self.queues.get_mut(name).filter(|queue| queue.is_quick != is_quick) else {
            return;
        };
        queue.is_quick = is_quick;
        self.quick.set(name, is_quick);
        let (in_flight, loaded) = (queue.in_flight.len(), queue.reserved());
        let on_page = queue.page.as_ref().map_or(0, |page| page.limit);
        self.pages.1.release(!is_quick, on_page);
        self.pages.1.take(is_quick, on_page);
        let origin = Arc::clone(&queue.origin);
        self.shares.change_kind(app_of(&origin), queue.used(), is_quick);
        let (sendable, loadable) = (queue.sendable, queue.loadable);
        let Some(of_queue) = self.origins.get_mut(&origin) else { return };
        for (places, count) in [(&mut of_queue.in_flight, in_flight), (&mut of_queue.loaded, loaded)] {
            places.release(!is_quick, count);
            places.take(is_quick, count);
        }
        for (turns, ticket) in [(&mut of_queue.sendable, sendable), (&mut of_queue.loadable, loadable)] {
            if let Some(ticket) = ticket {
                turns.change_kind(ticket, is_quick);
            }
        }
        self.list(&origin);
    }

    /// Frees the places of a delivery in flight that waits for a late reply: in its queue and its origin, in its
    /// channel, and among all attempts. Returns false if too many deliveries wait already; it then keeps its places.
    pub(in crate::dispatcher) fn await_reply(&mut self, delivery: &PendingDelivery) -> bool {
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let Some(queue) = self.queues.get_mut(&name) else { return false };
        if !queue.in_flight.contains(&delivery.id)
            || !self.shares.await_reply(delivery.app, AWAITING_REPLY_MAX, queue.is_quick)
        {
            return false;
        }
        queue.in_flight.remove(&delivery.id);
        queue.awaiting_reply.insert(delivery.id);
        if delivery.is_first_attempt() {
            queue.first_attempts.remove(&delivery.order_key());
        }
        self.free_places(&name, delivery);
        self.mark_loadable(&name);
        self.mark_sendable(&name);
        true
    }

    /// Frees the places of a delivery whose exchange has ended, before its record is written: with a receiver that
    /// answers within milliseconds, the commit of the record would otherwise use a part of the time of each place. If
    /// many records are being written already, the delivery keeps its places until its own is. So a crash repeats at
    /// most half as many attempts again as there are places.
    pub(in crate::dispatcher) fn end_exchange(&mut self, delivery: &PendingDelivery) {
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let Some(queue) = self.queues.get_mut(&name) else { return };
        let places = self.origins.get(&queue.origin).map_or(0, |origin| origin.places(self.per_origin_max));
        if queue.awaiting_record.len() >= places / 2
            || !queue.in_flight.contains(&delivery.id)
            || !self.shares.await_record(delivery.app, self.in_flight_max / 2, queue.is_quick)
        {
            return;
        }
        queue.in_flight.remove(&delivery.id);
        queue.awaiting_record.insert(delivery.id);
        self.free_places(&name, delivery);
        // `finish` marks it as loadable, soon.
        self.mark_sendable(&name);
    }

    /// Frees the places that a delivery in flight uses in its origin and its channel.
    fn free_places(&mut self, name: &Arc<str>, delivery: &PendingDelivery) {
        let queue = self.queue(name);
        let (origin, is_quick) = (Arc::clone(&queue.origin), queue.is_quick);
        let origin = self.origin(&origin);
        origin.in_flight.release(is_quick, 1);
        origin.loaded.release(is_quick, 1);
        for waiting in self.pacer.finished(delivery.destination.channel, delivery.app) {
            self.mark_sendable(&waiting);
        }
    }

    /// Records that a test was answered with 429: its address is closed for this time, as after a delivery.
    pub(in crate::dispatcher) fn limit_after_test(
        &mut self,
        queue: &str,
        channel: ChannelKind,
        retry_after: Duration,
        now: Timestamp,
    ) {
        for waiting in self.pacer.rate_limited(queue, channel, retry_after, now) {
            self.return_to_store(&waiting);
        }
    }

    /// Frees the place of a test in its channel.
    pub(in crate::dispatcher) fn end_test(&mut self, channel: ChannelKind, app: AppNo) {
        for waiting in self.pacer.finished(channel, app) {
            self.mark_sendable(&waiting);
        }
    }

    /// Unloads a delivery after its attempt.
    pub(in crate::dispatcher) fn finish(
        &mut self,
        delivery: &PendingDelivery,
        next: NextStep,
        now: Timestamp,
    ) {
        self.loaded.remove(&delivery.id);
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let queue = self.queue(&name);
        let origin = Arc::clone(&queue.origin);
        queue.in_flight.remove(&delivery.id);
        let is_late = queue.awaiting_reply.remove(&delivery.id);
        let has_no_place = queue.awaiting_record.remove(&delivery.id);
        let is_quick = queue.is_quick;
        queue.bytes -= delivery.body.len();
        if delivery.is_first_attempt() && !is_late {
            queue.first_attempts.remove(&delivery.order_key());
        }
        if is_late {
            self.shares.end_late(delivery.app);
        } else if has_no_place {
            self.shares.end_record(delivery.app);
        } else {
            self.shares.end(delivery.app, is_quick);
            self.free_places(&name, delivery);
        }
        self.shares.unload(delivery.app, delivery.body.len(), is_quick);
        let host = host_of(delivery, &origin);
        for name in [&host, &name] {
            self.breakers.ended(name, delivery.id, now);
        }
        if self.probes.remove(&delivery.id) {
            self.end_probe(&origin);
        }
        if let NextStep::Retry { due_at, .. } = next {
            self.set_timer(&name, due_at);
        }
        // After a failed manual retry, or if no attempt could be made, the delivery may be due.
        // To an ordered destination, a later one of its watch may be due now.
        let is_ordered = delivery.destination.saved.as_ref().is_some_and(|saved| saved.is_ordered);
        if self.retry_requested.remove(&delivery.id) || next == NextStep::Unchanged || is_ordered {
            self.mark_has_more(&name);
        }
        self.mark_loadable(&name);
        self.mark_sendable(&name);
        if host != origin {
            // The inline destinations of the host may have waited for this probe.
            self.list(&host);
        }
        self.list(&origin);
        self.remove_if_idle(&name);
    }
}
