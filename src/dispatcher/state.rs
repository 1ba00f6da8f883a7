//! The loaded deliveries, and which destination queue is served next. No I/O.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::breaker::Breakers;
use super::fair_queue::{AppShares, FairQueue};
use super::pacing::Pacer;
use crate::clock::SetBackDetector;
use crate::domain::{
    CancelScope, DeliveryId, DispatcherMessage, NextStep, PendingDelivery, Timestamp, WatchId,
};
use crate::store::{DueDeliveries, LoadDueDeliveries};

/// Maximum number of loaded deliveries, and maximum total size of their bodies in bytes. Further deliveries
/// wait on disk, not in memory.
pub(super) const LOADED_MAX: (usize, usize) = (8_192, 64 * 1024 * 1024);

/// Maximum number of pages that are read at the same time. The size of the bodies on a page is known only after
/// the page has arrived, so this also limits by how much [`LOADED_MAX`] can be exceeded.
const PAGES_MAX: usize = 16;

/// Maximum number of deliveries that wait for a late reply, and hold neither a place of their queue nor one of their
/// channel. Each holds a connection; a busy mail server accepts no more from one client.
pub(super) const AWAITING_REPLY_MAX: usize = 64;

/// The loaded deliveries: taken from the store, and waiting or in flight.
#[derive(Debug, Default)]
pub(super) struct DispatchState {
    /// Maximum number of deliveries in flight, in total and in one queue.
    in_flight_max: usize,
    per_queue_max: usize,
    queues: HashMap<Arc<str>, DestinationQueue>,
    loaded: HashSet<DeliveryId>,
    /// Queues with waiting deliveries. `take_sendable` removes a queue at its limit; `finish` adds it again.
    sendable: FairQueue,
    /// Queues with more due deliveries in the store. `take_pages` removes a queue that has enough loaded deliveries;
    /// `finish` adds it again.
    loadable: FairQueue,
    /// How much of the limits each app uses.
    pub(super) shares: AppShares,
    /// Number of pages being read, and the maximum number of deliveries on them.
    pages: (usize, usize),
    /// Timers, at most one for each queue: the earliest time at which a waiting delivery in the store is due.
    /// When a timer expires, a page is read, and the page returns the next time.
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    timer_of_queue: HashMap<Arc<str>, Timestamp>,
    pub(super) pacer: Pacer,
    pub(super) breakers: Breakers,
    /// Deliveries for which a manual retry was requested while they were loaded. The store is read again
    /// after they are unloaded.
    retry_requested: HashSet<DeliveryId>,
    /// Detects that the clock was set back.
    pub(super) clock: SetBackDetector,
}

/// Deliveries to one destination, in order.
#[derive(Debug, Default)]
struct DestinationQueue {
    waiting: VecDeque<Box<PendingDelivery>>,
    in_flight: HashSet<DeliveryId>,
    /// Deliveries that wait for a late reply. They are loaded, and use no place of the queue.
    awaiting_reply: HashSet<DeliveryId>,
    /// Whether it is in `DispatchState::sendable`.
    is_sendable: bool,
    /// Whether the store has more deliveries that are due.
    has_more: bool,
    /// Whether it is in `DispatchState::loadable`.
    is_loadable: bool,
    /// The page that is being read.
    page: Option<PageInFlight>,
}

/// A page that is being read.
#[derive(Debug, Default)]
struct PageInFlight {
    /// Maximum number of deliveries on it.
    limit: usize,
    /// Whether a delivery became due meanwhile, and may be missing from the page.
    became_due: bool,
    /// Deliveries that were skipped meanwhile, and may be on the page.
    skipped: Vec<(WatchId, CancelScope)>,
}

impl DestinationQueue {
    fn loaded(&self) -> usize {
        self.waiting.len() + self.in_flight.len()
    }

    fn is_idle(&self) -> bool {
        self.loaded() == 0
            && self.awaiting_reply.is_empty()
            && self.page.is_none()
            && !(self.is_sendable || self.has_more || self.is_loadable)
    }
}

/// Returns whether `delivery` is one of the skipped deliveries of a watch.
fn is_skipped(delivery: &PendingDelivery, watch: WatchId, scope: CancelScope) -> bool {
    delivery.watch == watch
        && match scope {
            CancelScope::All => true,
            CancelScope::Progress => !delivery.event_type.is_ending(),
            CancelScope::To(destination) => delivery.destination.id == destination,
        }
}

impl DispatchState {
    /// Creates a state without loaded deliveries. The parameters limit the deliveries in flight.
    pub(super) fn new(in_flight_max: usize, per_queue_max: usize) -> Self {
        Self { in_flight_max, per_queue_max, ..Self::default() }
    }

    /// Returns how many deliveries of one queue may be loaded: enough to send some while a page is read.
    fn loaded_per_queue(&self) -> usize {
        self.per_queue_max * 2
    }

    /// Returns whether a delivery can be sent now.
    pub(super) fn can_send(&self) -> bool {
        let has_place = |app| self.shares.may_send(app, self.in_flight_max);
        self.shares.total.in_flight < self.in_flight_max && self.sendable.has_any(has_place)
    }

    /// Returns whether a page can be read now.
    pub(super) fn can_load(&self) -> bool {
        self.loadable.has_any(|app| self.shares.may_load(app, LOADED_MAX))
    }

    /// Returns the time of the next change, if no message arrives before.
    pub(super) fn next(&self) -> Option<Timestamp> {
        let timer = self.timers.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.pacer.next()).min()
    }

    /// Applies a message of the store.
    pub(super) fn apply(&mut self, message: DispatcherMessage) {
        match message {
            DispatcherMessage::Dispatch(delivery) => self.add_committed(delivery),
            DispatcherMessage::QueueChanged { queue, requested } => {
                // A page leaves out loaded deliveries, so the store is read again after they are unloaded.
                let loaded: Vec<DeliveryId> =
                    requested.into_iter().filter(|id| self.loaded.contains(id)).collect();
                self.retry_requested.extend(loaded);
                self.mark_has_more(&queue.into());
            }
            DispatcherMessage::Skip { watch, which } => self.skip(watch, which),
        }
    }

    /// Loads a delivery that was just committed. If it cannot be loaded now, a later page contains it.
    fn add_committed(&mut self, delivery: Box<PendingDelivery>) {
        let most = self.loaded_per_queue();
        let is_full = self.is_full() || !self.shares.may_load(delivery.app, LOADED_MAX);
        let is_loaded = self.loaded.contains(&delivery.id);
        if is_loaded {
            self.retry_requested.insert(delivery.id);
        }
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let queue = self.queues.entry(Arc::clone(&name)).or_default();
        let is_behind_others = queue.has_more || queue.page.is_some() || queue.loaded() >= most;
        if is_full || is_loaded || is_behind_others {
            self.mark_has_more(&name);
        } else {
            self.load(&name, delivery);
        }
    }

    fn is_full(&self) -> bool {
        let loaded = &self.shares.total;
        loaded.loaded + self.pages.1 >= LOADED_MAX.0 || loaded.bytes >= LOADED_MAX.1
    }

    fn load(&mut self, name: &Arc<str>, delivery: Box<PendingDelivery>) {
        if !self.loaded.insert(delivery.id) {
            return;
        }
        self.shares.load(delivery.app, delivery.body.len());
        let queue = self.queues.entry(Arc::clone(name)).or_default();
        queue.waiting.push_back(delivery);
        self.mark_sendable(name);
    }

    /// Removes the waiting deliveries of a watch that are in the scope. Deliveries in flight continue.
    fn skip(&mut self, watch: WatchId, scope: CancelScope) {
        let Self { queues, loaded, retry_requested, shares, .. } = self;
        let mut changed = Vec::new();
        for (name, queue) in queues {
            let before = queue.waiting.len();
            queue.waiting.retain(|delivery| {
                let skipped = is_skipped(delivery, watch, scope);
                if skipped {
                    loaded.remove(&delivery.id);
                    retry_requested.remove(&delivery.id);
                    shares.unload(delivery.app, delivery.body.len());
                }
                !skipped
            });
            if queue.waiting.len() < before {
                changed.push(Arc::clone(name));
            }
            if let Some(page) = &mut queue.page {
                page.skipped.push((watch, scope));
            }
        }
        for name in changed {
            self.mark_loadable(&name);
            self.remove_if_idle(&name);
        }
    }

    /// Records that the store has more due deliveries of a queue.
    fn mark_has_more(&mut self, name: &Arc<str>) {
        let queue = self.queues.entry(Arc::clone(name)).or_default();
        if let Some(page) = &mut queue.page {
            page.became_due = true;
            return;
        }
        queue.has_more = true;
        if !queue.is_loadable {
            queue.is_loadable = true;
            self.loadable.push(Arc::clone(name));
        }
    }

    /// Marks a queue as loadable if the store has more of its deliveries, because the limits may permit another
    /// page now.
    fn mark_loadable(&mut self, name: &Arc<str>) {
        if self.queues.get(name).is_some_and(|queue| queue.has_more) {
            self.mark_has_more(name);
        }
    }

    /// Marks a queue as sendable if it has a waiting delivery.
    fn mark_sendable(&mut self, name: &Arc<str>) {
        if let Some(queue) = self.queues.get_mut(name)
            && !queue.is_sendable
            && !queue.waiting.is_empty()
        {
            queue.is_sendable = true;
            self.sendable.push(Arc::clone(name));
        }
    }

    /// Sets the timer of a queue, unless it has an earlier one.
    pub(super) fn set_timer(&mut self, name: &Arc<str>, at: Timestamp) {
        match self.timer_of_queue.get(name) {
            Some(earliest) if *earliest <= at => return,
            Some(later) => self.timers.remove(&(*later, Arc::clone(name))),
            None => false,
        };
        self.timer_of_queue.insert(Arc::clone(name), at);
        self.timers.insert((at, Arc::clone(name)));
    }

    /// Handles the timers that have expired, and the addresses that accept messages again.
    pub(super) fn expire_timers(&mut self, now: Timestamp) {
        for name in self.pacer.open(now) {
            self.mark_sendable(&name);
        }
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.timers.pop_first() else { return };
            self.timer_of_queue.remove(&name);
            self.mark_has_more(&name);
        }
    }

    /// Returns the deliveries to send now, and counts them as in flight.
    #[expect(clippy::vec_box, reason = "the boxes come from the queue and go to the tasks")]
    pub(super) fn take_sendable(&mut self, now: Timestamp) -> Vec<Box<PendingDelivery>> {
        let mut deliveries = Vec::new();
        while self.shares.total.in_flight < self.in_flight_max {
            let Self { sendable, shares, in_flight_max, .. } = self;
            let Some(name) = sendable.pop(|app| shares.may_send(app, *in_flight_max)) else { break };
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            queue.is_sendable = false;
            if queue.in_flight.len() >= self.per_queue_max {
                // `finish` marks it as sendable again.
                continue;
            }
            let Some(first) = queue.waiting.front() else {
                self.remove_if_idle(&name);
                continue;
            };
            if !self.pacer.admit(&name, first.destination.channel, now) {
                // The pacer returns it later.
                continue;
            }
            let Some(delivery) = queue.waiting.pop_front() else { continue };
            queue.in_flight.insert(delivery.id);
            self.shares.start(delivery.app);
            self.mark_sendable(&name);
            deliveries.push(delivery);
        }
        deliveries
    }

    /// Returns the pages to read now, for queues that have few loaded deliveries and more in the store.
    pub(super) fn take_pages(&mut self, now: Timestamp) -> Vec<LoadDueDeliveries> {
        let (most, few) = (self.loaded_per_queue(), self.per_queue_max.div_ceil(2));
        let mut pages = Vec::new();
        while !self.is_full() && self.pages.0 < PAGES_MAX {
            let Self { loadable, shares, .. } = self;
            let Some(name) = loadable.pop(|app| shares.may_load(app, LOADED_MAX)) else { break };
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            queue.is_loadable = false;
            let has_enough = queue.waiting.len() >= few || queue.loaded() >= most;
            if !queue.has_more || queue.page.is_some() || has_enough {
                // `mark_has_more` marks it as loadable again.
                continue;
            }
            let limit = most - queue.loaded();
            queue.has_more = false;
            queue.page = Some(PageInFlight { limit, ..PageInFlight::default() });
            self.pages.0 += 1;
            self.pages.1 += limit;
            let sent = queue.in_flight.iter().chain(&queue.awaiting_reply).copied();
            let loaded = queue.waiting.iter().map(|delivery| delivery.id).chain(sent);
            let (loaded, limit) = (loaded.collect(), u32::try_from(limit).unwrap_or(u32::MAX));
            pages.push(LoadDueDeliveries { queue: name.to_string(), now, limit, loaded });
        }
        pages
    }

    /// Loads the deliveries of a page. `None` if the page could not be read.
    pub(super) fn finish_page(&mut self, name: &Arc<str>, page: Option<DueDeliveries>) {
        let in_flight = self.queues.get_mut(name).and_then(|queue| queue.page.take());
        let Some(PageInFlight { limit, became_due, skipped }) = in_flight else { return };
        self.pages = (self.pages.0 - 1, self.pages.1 - limit);
        let failed = page.is_none();
        let DueDeliveries { deliveries, has_more, next_retry_at } = page.unwrap_or_default();
        for delivery in deliveries {
            if !skipped.iter().any(|(watch, scope)| is_skipped(&delivery, *watch, *scope)) {
                self.load(name, Box::new(delivery));
            }
        }
        if failed || has_more || became_due {
            self.mark_has_more(name);
        }
        if let Some(next_retry_at) = next_retry_at {
            self.set_timer(name, next_retry_at);
        }
        self.remove_if_idle(name);
    }

    /// Frees the places of a delivery in flight that waits for a late reply: in its queue, in its channel, and among
    /// all attempts. Returns false if too many deliveries wait already; it then keeps its places.
    pub(super) fn await_reply(&mut self, delivery: &PendingDelivery) -> bool {
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let Some(queue) = self.queues.get_mut(&name) else { return false };
        if !queue.in_flight.contains(&delivery.id)
            || !self.shares.await_reply(delivery.app, AWAITING_REPLY_MAX)
        {
            return false;
        }
        queue.in_flight.remove(&delivery.id);
        queue.awaiting_reply.insert(delivery.id);
        for waiting in self.pacer.finished(delivery.destination.channel) {
            self.mark_sendable(&waiting);
        }
        self.mark_loadable(&name);
        self.mark_sendable(&name);
        true
    }

    /// Unloads a delivery after its attempt.
    pub(super) fn finish(&mut self, delivery: &PendingDelivery, next: NextStep) {
        self.loaded.remove(&delivery.id);
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let queue = self.queues.get_mut(&name);
        let was_late = queue.is_some_and(|queue| {
            queue.in_flight.remove(&delivery.id);
            queue.awaiting_reply.remove(&delivery.id)
        });
        if was_late {
            self.shares.end_late(delivery.app);
        } else {
            self.shares.end(delivery.app);
            for name in self.pacer.finished(delivery.destination.channel) {
                self.mark_sendable(&name);
            }
        }
        self.shares.unload(delivery.app, delivery.body.len());
        if let NextStep::Retry { due_at, .. } = next {
            self.set_timer(&name, due_at);
        }
        // After a failed manual retry, the delivery may still have a scheduled attempt.
        if self.retry_requested.remove(&delivery.id) || next == NextStep::Unchanged {
            self.mark_has_more(&name);
        }
        self.mark_loadable(&name);
        self.mark_sendable(&name);
        self.remove_if_idle(&name);
    }

    /// Removes a queue that has neither deliveries nor marks.
    fn remove_if_idle(&mut self, name: &Arc<str>) {
        if self.queues.get(name).is_some_and(DestinationQueue::is_idle) {
            self.queues.remove(name);
        }
    }
}
