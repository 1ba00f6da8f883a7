//! The loaded deliveries, and which destination queue is served next. No I/O.
//!
//! A delivery that cannot be sent now stays in the store, or returns to it: it is still due there. Only as many are
//! loaded as can be sent soon, so that those of a slow or held-back queue take no place from others.
//!
//! The queues are listed by origin ([`Origin`]), and the origins by app ([`FairQueue`]). A queue or an origin that is
//! held back is taken from the lists; a timer or the end of the probe in flight adds it again.

mod forgotten;
mod pages;
mod probes;
pub(super) mod results;
mod saved;
mod skip;
pub(super) mod waiting;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::background_run::BackgroundRun;
use super::breaker::{Admission, Breakers};
use super::fair_queue::{AppShares, FairQueue, KindTurns, Used, app_of};
use super::id_set::IdSet;
use super::origin::{Origin, Places, QuickQueues, Standing, Ticket, Turn, host_of, origin_of, probes_max};
use super::pacing::Pacer;
use super::probe_waits::ProbeWaits;
use super::timers::Timers;
use super::unrecorded::Unrecorded;
use crate::channels::{self, Pacing};
use crate::clock::SetBackDetector;
use crate::domain::{
    AppNo, CancelScope, DeliveryId, DestinationId, DispatcherMessage, PendingDelivery, Timestamp, WatchId,
};
use crate::telemetry::log_window::LogWindow;

/// Maximum number of loaded deliveries, and maximum total size of their bodies in bytes. Further deliveries
/// wait on disk, not in memory.
pub(super) const LOADED_MAX: (usize, usize) = (8_192, 64 * 1024 * 1024);

/// Maximum number of queues with a timer, and of queues that have more in the store. Others are forgotten, and found
/// again by a search of the store ([`forgotten`]).
pub(super) const QUEUES_MAX: usize = 100_000;

/// Number of waiting deliveries of a queue that are examined before another page is read. Each step examines them.
const CHECKED_MAX: usize = 16;

/// The loaded deliveries: taken from the store, and waiting or in flight.
#[derive(Debug, Default)]
pub(super) struct DispatchState {
    /// Maximum number of deliveries in flight, in total and to one origin.
    in_flight_max: usize,
    per_origin_max: usize,
    /// Maximum number of queues with a timer, and of queues that have more in the store: [`QUEUES_MAX`].
    queues_max: usize,
    queues: HashMap<Arc<str>, DestinationQueue>,
    /// Number of queues that have more in the store.
    with_more: usize,
    origins: HashMap<Arc<str>, Origin>,
    loaded: IdSet<DeliveryId>,
    /// Queues that may have waiting deliveries or a page, for the deliveries that are skipped. There may be a hundred
    /// thousand queues, and far fewer of these. [`Self::skip`] removes the others.
    occupied: HashSet<Arc<str>>,
    /// Origins with manual retries that are sent although their queues are held back. `take_sendable` removes an origin
    /// at its limit; `finish` adds it again.
    urgent: FairQueue,
    /// Origins with waiting deliveries. `take_sendable` removes an origin at its limit; `finish` adds it again.
    sendable: KindTurns,
    /// Origins with more due deliveries in the store. `take_pages` removes an origin that has enough loaded
    /// deliveries; `finish` adds it again.
    loadable: KindTurns,
    /// How much of the limits each app uses.
    pub(super) shares: AppShares,
    /// Number of pages being read, and the maximum number of deliveries on them.
    pages: (usize, Places),
    /// Timers of queues: the earliest time at which a waiting delivery in the store is due. When a timer expires, a
    /// page is read, and the page returns the next time.
    timers: Timers,
    /// Time at which the store is searched for queues that were forgotten.
    search_at: Option<Timestamp>,
    /// Queues and origins that are held back, each with the time of its next probe, or of its next message.
    holds: Timers,
    /// Deliveries in flight that are probes.
    probes: IdSet<DeliveryId>,
    /// Queues and origins of each app that are due for a probe while too many others are probed.
    probe_waits: HashMap<AppNo, ProbeWaits>,
    pub(super) pacer: Pacer,
    pub(super) breakers: Breakers,
    quick: QuickQueues,
    /// Deliveries for which a manual retry was requested while they were loaded. The store is read again
    /// after they are unloaded.
    retry_requested: IdSet<DeliveryId>,
    /// Detects that the clock was set back.
    pub(super) clock: SetBackDetector,
    /// Pauses of origins after a fault of our own, and pages that could not be read, for the log.
    pauses: LogWindow,
    pub(super) unread_pages: LogWindow,
    /// Results that could not be recorded.
    pub(super) unrecorded: Unrecorded,
    /// Skips or retries the deliveries of saved destinations.
    pub(super) sweep: BackgroundRun,
    /// Reschedules retries after the clock was set back.
    pub(super) reschedule: BackgroundRun,
}

/// Deliveries to one destination, in order.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
struct DestinationQueue {
    /// Name of its origin.
    origin: Arc<str>,
    waiting: VecDeque<Box<PendingDelivery>>,
    in_flight: IdSet<DeliveryId>,
    /// Watches and destinations with a first attempt in flight. The first attempt of a later event of the watch follows
    /// it, so that they arrive in their order. Retries neither wait nor are waited for.
    first_attempts: IdSet<(WatchId, DestinationId)>,
    /// Number of its deliveries in `Origin::urgent`.
    urgent: usize,
    /// Deliveries that wait for a late reply. They are loaded, and use no place of the queue or its origin.
    awaiting_reply: IdSet<DeliveryId>,
    /// Deliveries whose exchange has ended and whose record is being written. They are loaded, and use no place either.
    awaiting_record: IdSet<DeliveryId>,
    /// Size of the bodies of its loaded deliveries.
    bytes: usize,
    /// Whether its last attempt was a quick success.
    is_quick: bool,
    /// Its position in `Origin::sendable`.
    sendable: Option<Ticket>,
    /// Whether the store has more deliveries that are due.
    has_more: bool,
    /// Its position in `Origin::loadable`.
    loadable: Option<Ticket>,
    /// The page that is being read.
    page: Option<PageInFlight>,
    /// Whether a probe is counted that is not in flight yet: it is being loaded, or waits.
    is_probing: bool,
    /// Whether the next probe is a retry, if there is one.
    retries_first: bool,
    /// Queue of an inline destination with the address of a saved one, as its last loaded delivery had it. `None` for
    /// the queue of inline destinations.
    target: Option<Arc<str>>,
}

/// A page that is being read.
#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "the boxes come from messages and go to the queue")]
struct PageInFlight {
    /// Maximum number of deliveries on it.
    limit: usize,
    /// Whether a delivery became due meanwhile, and may be missing from the page.
    became_due: bool,
    /// Whether its saved destination has changed meanwhile: the page is read again.
    is_stale: bool,
    /// Deliveries that were skipped meanwhile, and may be on the page.
    skipped: Vec<(WatchId, CancelScope)>,
    /// Manual retries that were requested meanwhile, and may be on the page.
    urgent: Vec<Box<PendingDelivery>>,
}

impl DestinationQueue {
    fn loaded(&self) -> usize {
        self.waiting.len() + self.urgent + self.in_flight.len()
    }

    /// Returns what it uses of the limits of all queues.
    fn used(&self) -> Used {
        let loaded = self.loaded() + self.awaiting_reply.len() + self.awaiting_record.len();
        Used { loaded, bytes: self.bytes, in_flight: self.in_flight.len() }
    }

    /// Returns the number of its places among the loaded deliveries of its origin.
    fn reserved(&self) -> usize {
        self.loaded() + self.page.as_ref().map_or(0, |page| page.limit)
    }

    /// Removes and returns the next delivery that may be sent. The events of one watch are few, so this is the first one
    /// as a rule.
    fn take_waiting(&mut self) -> Option<Box<PendingDelivery>> {
        let index = self.waiting.iter().position(|one| !self.must_wait(one))?;
        self.waiting.remove(index)
    }

    /// Returns whether a delivery waits for the first attempt of an earlier event of its watch.
    fn must_wait(&self, delivery: &PendingDelivery) -> bool {
        delivery.is_first_attempt() && self.first_attempts.contains(&delivery.order_key())
    }

    /// Returns whether so many deliveries wait, and the next of them can be sent as soon as there are places.
    fn has_enough(&self, count: usize) -> bool {
        if self.first_attempts.is_empty() || self.waiting.len() < count {
            return self.waiting.len() >= count;
        }
        let count = count.min(CHECKED_MAX);
        self.waiting.iter().filter(|one| !self.must_wait(one)).take(count).count() == count
    }

    fn standing(&self, name: &str) -> Standing {
        match () {
            () if *self.origin == *name => Standing::Alone,
            () if self.is_quick => Standing::Quick,
            () => Standing::Other,
        }
    }

    fn is_idle(&self) -> bool {
        self.loaded() == 0
            && self.awaiting_reply.is_empty()
            && self.awaiting_record.is_empty()
            && self.page.is_none()
            && !self.has_more
            && self.sendable.is_none()
            && self.loadable.is_none()
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
    pub(super) fn new(in_flight_max: usize, per_origin_max: usize) -> Self {
        Self { in_flight_max, per_origin_max, queues_max: QUEUES_MAX, ..Self::default() }
    }

    /// Returns how many deliveries to one origin may be loaded: those in flight, half as many whose records are being
    /// written, and enough to send while a page is read. A page waits for the commits before it.
    fn loaded_per_origin(&self) -> usize {
        self.per_origin_max * 4
    }

    /// Returns whether a delivery can be sent now.
    pub(super) fn can_send(&self) -> bool {
        self.sendable.has_any(|app, is_quick| self.shares.may_send(app, self.in_flight_max, is_quick))
            || self.urgent.has_any(|app| self.shares.may_send_urgent(app, self.in_flight_max))
    }

    /// Returns whether a delivery waits, in memory or in the store.
    pub(super) fn has_work(&self) -> bool {
        !self.timers.is_empty() || !self.queues.is_empty()
    }

    /// Returns the time of the next change, if no message arrives before.
    pub(super) fn next(&self) -> Option<Timestamp> {
        [self.timers.next(), self.holds.next(), self.pacer.next(), self.search_at].into_iter().flatten().min()
    }

    /// Applies a message of the store.
    pub(super) fn apply(&mut self, message: DispatcherMessage, now: Timestamp) {
        match message {
            DispatcherMessage::Dispatch(delivery) => self.add_committed(delivery, now),
            DispatcherMessage::QueueChanged { queue, requested } => {
                // A page leaves out loaded deliveries, so the store is read again after they are unloaded.
                let loaded: Vec<DeliveryId> =
                    requested.into_iter().filter(|id| self.loaded.contains(id)).collect();
                self.retry_requested.extend(loaded);
                let queue = queue.into();
                self.probe_now(&queue, now);
                self.mark_has_more(&queue);
            }
            DispatcherMessage::Skip { watch, which } => self.skip(watch, which),
            DispatcherMessage::DestinationChanged { queue, disabled } => {
                if disabled.is_some() {
                    self.sweep.request();
                }
                self.reload(&queue.into());
            }
            DispatcherMessage::SweepDue => self.sweep.request(),
        }
    }

    /// Makes the probes of a queue due at once: a client who requests many attempts knows perhaps that the receiver works
    /// again.
    fn probe_now(&mut self, name: &Arc<str>, now: Timestamp) {
        let target = self.queues.get(name).and_then(|queue| queue.target.clone());
        let host = target.as_deref().unwrap_or(name);
        for name in [origin_of(host), name] {
            self.breakers.probe_now(name, now);
        }
    }

    /// Loads a delivery that was just committed. If it cannot be loaded now, a later page contains it.
    fn add_committed(&mut self, delivery: Box<PendingDelivery>, now: Timestamp) {
        let most = self.loaded_per_origin();
        let saved = delivery.destination.saved.as_deref();
        let is_loaded = self.loaded.contains(&delivery.id);
        if is_loaded {
            self.retry_requested.insert(delivery.id);
        }
        let name: Arc<str> = delivery.destination.queue.as_str().into();
        let is_paced = channels::spec(delivery.destination.channel).pacing != Pacing::Unlimited
            || saved.is_some_and(|saved| saved.rate.spacing.is_some());
        let queue = self.queue(&name);
        let (origin, own, standing) = (Arc::clone(&queue.origin), queue.reserved(), queue.standing(&name));
        let is_quick = queue.is_quick;
        let is_behind_others = queue.has_more || queue.page.is_some();
        if let Some(saved) = saved {
            self.set_limits(&name, saved);
        }
        let host = host_of(&delivery, &origin);
        let admission = self.admission(&host, &name, now);
        let target = saved.and_then(|saved| self.pacer.closed_until(&saved.target, now));
        let is_closed = target.or_else(|| self.pacer.closed_until(&name, now)).is_some();
        let places = self.origin(&origin).loaded.free(most, own, standing);
        // A manual retry does not wait for the half of the queues that are not quick.
        let is_full = !self.may_load(delivery.app, is_quick || delivery.manual);
        if is_full || is_loaded {
            self.mark_has_more(&name);
        } else if delivery.manual && !is_paced && (admission != Admission::Free || !is_quick) {
            self.load_urgent(&name, delivery);
        } else if is_behind_others || places == 0 || is_closed || admission != Admission::Free {
            self.mark_has_more(&name);
        } else {
            self.load(&name, delivery);
        }
        self.remove_if_idle(&name);
    }

    /// Returns whether an attempt of a queue may be made now, by the breakers of the origin and of the URL.
    fn admission(&self, origin: &str, name: &str, now: Timestamp) -> Admission {
        match self.breakers.admission(origin, now) {
            Admission::Free => self.breakers.admission(name, now),
            limited @ (Admission::Probe | Admission::Held(_)) => limited,
        }
    }

    /// Returns a queue, a new one if it is not known.
    fn queue(&mut self, name: &Arc<str>) -> &mut DestinationQueue {
        let Self { queues, quick, .. } = self;
        queues.entry(Arc::clone(name)).or_insert_with(|| {
            let origin = origin_of(name);
            let origin = if *origin == **name { Arc::clone(name) } else { origin.into() };
            DestinationQueue { origin, is_quick: quick.contains(name), ..DestinationQueue::default() }
        })
    }

    fn origin(&mut self, name: &Arc<str>) -> &mut Origin {
        self.origins.entry(Arc::clone(name)).or_default()
    }

    /// Counts a delivery as loaded. Returns false if it was loaded before.
    fn count_loaded(&mut self, name: &Arc<str>, delivery: &PendingDelivery) -> bool {
        if !self.loaded.insert(delivery.id) {
            return false;
        }
        self.occupied.insert(Arc::clone(name));
        if let Some(saved) = &delivery.destination.saved {
            self.set_limits(name, saved);
        }
        let bytes = delivery.body.len();
        let queue = self.queue(name);
        queue.bytes += bytes;
        let (origin, is_quick) = (Arc::clone(&queue.origin), queue.is_quick);
        self.shares.load(delivery.app, bytes, is_quick);
        self.origin(&origin).loaded.take(is_quick, 1);
        true
    }

    fn load(&mut self, name: &Arc<str>, delivery: Box<PendingDelivery>) {
        if self.count_loaded(name, &delivery) {
            self.queue(name).waiting.push_back(delivery);
            self.mark_sendable(name);
        }
    }

    /// Loads a manual retry to a destination that is held back, or that would wait for slow ones. If its origin has
    /// enough of them, it stays in the store: they must not use up the share of their app.
    fn load_urgent(&mut self, name: &Arc<str>, delivery: Box<PendingDelivery>) {
        let most = self.per_origin_max * 2;
        let queue = self.queue(name);
        let origin = Arc::clone(&queue.origin);
        let known = queue.page.as_ref().map_or(0, |page| page.urgent.len());
        if known + self.origin(&origin).urgent.len() >= most {
            self.mark_has_more(name);
        } else if let Some(page) = &mut self.queue(name).page {
            page.urgent.push(delivery);
        } else if self.count_loaded(name, &delivery) {
            self.queue(name).urgent += 1;
            self.origin(&origin).urgent.push_back(delivery);
            self.list(&origin);
        }
    }

    /// Counts deliveries of a queue as unloaded, before they were sent.
    fn unload(&mut self, name: &Arc<str>, deliveries: &[Box<PendingDelivery>]) {
        let queue = self.queue(name);
        queue.bytes -= deliveries.iter().map(|delivery| delivery.body.len()).sum::<usize>();
        let (origin, is_quick) = (Arc::clone(&queue.origin), queue.is_quick);
        for delivery in deliveries {
            self.loaded.remove(&delivery.id);
            self.retry_requested.remove(&delivery.id);
            self.shares.unload(delivery.app, delivery.body.len(), is_quick);
        }
        self.origin(&origin).loaded.release(is_quick, deliveries.len());
    }

    /// Returns the waiting deliveries of a queue to the store, where they are still due.
    fn return_to_store(&mut self, name: &Arc<str>) {
        let Some(queue) = self.queues.get_mut(name) else { return };
        let waiting: Vec<_> = queue.waiting.drain(..).collect();
        if !waiting.is_empty() {
            self.unload(name, &waiting);
            self.mark_has_more(name);
        }
        self.end_unused_probe(name);
    }

    /// Records that the store has more due deliveries of a queue.
    fn mark_has_more(&mut self, name: &Arc<str>) {
        let counts = |queue: &DestinationQueue| queue.has_more || queue.page.is_some();
        if self.with_more >= self.queues_max && !self.queues.get(name).is_some_and(counts) {
            self.forget_queues();
        }
        let queue = self.queue(name);
        if let Some(page) = &mut queue.page {
            page.became_due = true;
            return;
        }
        let had_more = std::mem::replace(&mut queue.has_more, true);
        self.with_more += usize::from(!had_more);
        let Some(queue) = self.queues.get_mut(name) else { return };
        let origin = Arc::clone(&queue.origin);
        if queue.loadable.is_none() {
            let loadable = &mut self.origins.entry(Arc::clone(&origin)).or_default().loadable;
            queue.loadable = Some(loadable.push(Arc::clone(name), queue.is_quick));
        }
        self.list(&origin);
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
        let Some(queue) = self.queues.get_mut(name) else { return };
        let (origin, is_quick) = (Arc::clone(&queue.origin), queue.is_quick);
        if queue.sendable.is_none() && !queue.waiting.is_empty() {
            let origin = self.origins.entry(Arc::clone(&origin)).or_default();
            queue.sendable = Some(origin.sendable.push(Arc::clone(name), is_quick));
        }
        self.list(&origin);
    }

    /// Gives an origin its turns, if it has something to send or to load.
    fn list(&mut self, name: &Arc<str>) {
        let Some(origin) = self.origins.get_mut(name) else { return };
        let places = origin.places(self.per_origin_max);
        if !origin.is_urgent && !origin.urgent.is_empty() && origin.in_flight.total() < places {
            origin.is_urgent = true;
            self.urgent.push(Arc::clone(name));
        }
        for is_quick in [true, false] {
            let Origin { sendable, loadable, is_sendable, is_loadable, .. } = &mut *origin;
            if sendable.has(is_quick) && !std::mem::replace(is_sendable.of(is_quick), true) {
                self.sendable.push(Arc::clone(name), is_quick);
            }
            if loadable.has(is_quick) && !std::mem::replace(is_loadable.of(is_quick), true) {
                self.loadable.push(Arc::clone(name), is_quick);
            }
        }
    }

    /// Handles the timers that have expired, and the addresses that accept messages again.
    pub(super) fn expire_timers(&mut self, now: Timestamp) {
        for name in self.pacer.open(now) {
            self.mark_sendable(&name);
        }
        // If the clock was set back, the time of a probe may be far away by the new clock.
        let until = if self.clock.jump(now).is_some() { Timestamp::MAX } else { now };
        while let Some(name) = self.holds.expire(until) {
            self.mark_sendable(&name);
            self.mark_loadable(&name);
            self.list(&name);
        }
        while let Some(name) = self.timers.expire(now) {
            self.mark_has_more(&name);
        }
    }

    /// Returns the next manual retry that is sent although its queue is held back.
    fn take_urgent(&mut self) -> Option<Box<PendingDelivery>> {
        loop {
            let Self { urgent, shares, in_flight_max, .. } = self;
            let name = urgent.pop(|app| shares.may_send_urgent(app, *in_flight_max))?;
            let Some(origin) = self.origins.get_mut(&name) else { continue };
            origin.is_urgent = false;
            if origin.in_flight.total() >= origin.places(self.per_origin_max) {
                // `finish` lists it again.
                continue;
            }
            if let Some(delivery) = origin.urgent.pop_front() {
                return Some(delivery);
            }
            self.forget_if_idle(&name);
        }
    }

    /// Returns the deliveries to send now, and counts them as in flight.
    #[expect(clippy::vec_box, reason = "the boxes come from the queue and go to the tasks")]
    pub(super) fn take_sendable(&mut self, now: Timestamp) -> Vec<Box<PendingDelivery>> {
        let mut deliveries = Vec::new();
        while let Some(delivery) = self.take_urgent() {
            let name = delivery.destination.queue.as_str().into();
            self.queue(&name).urgent -= 1;
            self.start(&name, &delivery, now);
            deliveries.push(delivery);
            self.list(&origin_of(&name).into());
        }
        loop {
            let Self { sendable, shares, in_flight_max, .. } = self;
            let next = sendable.pop(|app, is_quick| shares.may_send(app, *in_flight_max, is_quick));
            let Some((origin, is_quick)) = next else { break };
            if let Some(origin) = self.origins.get_mut(&origin) {
                *origin.is_sendable.of(is_quick) = false;
            }
            let Some(name) = self.next_sender(&origin, is_quick, now) else {
                self.forget_if_idle(&origin);
                continue;
            };
            let Some(queue) = self.queues.get_mut(&name) else { continue };
            queue.sendable = None;
            let Some(delivery) = queue.take_waiting() else {
                // The end of a first attempt marks the queue as sendable again.
                self.list(&origin);
                continue;
            };
            if self.pacer.admit(&name, &delivery.destination, now) {
                self.start(&name, &delivery, now);
                deliveries.push(delivery);
                self.mark_sendable(&name);
            } else {
                // The pacer returns the queue later.
                queue.waiting.push_front(delivery);
                if self.closed_until(&name, now).is_some() {
                    self.return_to_store(&name);
                }
            }
            self.list(&origin);
        }
        deliveries
    }

    /// Counts a delivery as in flight.
    fn start(&mut self, name: &Arc<str>, delivery: &PendingDelivery, now: Timestamp) {
        let queue = self.queue(name);
        queue.in_flight.insert(delivery.id);
        if delivery.is_first_attempt() {
            queue.first_attempts.insert(delivery.order_key());
        }
        let (origin, is_quick) = (Arc::clone(&queue.origin), queue.is_quick);
        let is_counted = std::mem::take(&mut queue.is_probing);
        let host = host_of(delivery, &origin);
        let is_probe =
            [&host, name].into_iter().any(|name| self.breakers.admission(name, now) == Admission::Probe);
        if is_probe && !is_counted {
            self.count_probe(&origin);
        }
        if is_probe || is_counted {
            self.probes.insert(delivery.id);
        }
        self.origin(&origin).in_flight.take(is_quick, 1);
        self.shares.start(delivery.app, is_quick);
        for name in [&host, name] {
            self.breakers.started(name, delivery.id, now);
        }
    }

    /// Removes and returns the queue of this kind of an origin that sends next.
    fn next_sender(&mut self, name: &Arc<str>, is_quick: bool, now: Timestamp) -> Option<Arc<str>> {
        let Self {
            origins, queues, breakers, holds, per_origin_max, shares, in_flight_max, probe_waits, ..
        } = self;
        let origin = origins.get_mut(name)?;
        let admission = breakers.admission(name, now);
        if let Admission::Held(until) = admission {
            if let Some(until) = until {
                holds.set(name, until);
            }
            return None;
        }
        let (most, used, app) = (origin.places(*per_origin_max), origin.in_flight, app_of(name));
        let may_probe_origin = admission != Admission::Probe || shares.may_probe(app, *in_flight_max);
        let may_probe_url = origin.probes < probes_max(most) && shares.may_probe(app, *in_flight_max);
        if used.total() >= most {
            // `finish` lists it again.
            return None;
        }
        let (mut dropped, origin_name) = (Vec::new(), name);
        let found = origin.sendable.pop(is_quick, |name| {
            let Some(queue) = queues.get_mut(name) else { return Turn::Drop };
            let admission = queue.admission(breakers, name, now);
            if let Admission::Held(Some(until)) = admission {
                holds.set(name, until);
            }
            // A page that was requested before the breaker opened is not counted as a probe.
            let may_probe = may_probe_origin && (admission != Admission::Probe || may_probe_url);
            let waits = !may_probe && !queue.is_probing;
            if waits {
                let due_at = breakers.probe_due_at(name).unwrap_or(now);
                probe_waits.entry(app).or_default().insert(origin_name, due_at, Arc::clone(name));
            }
            if queue.waiting.is_empty() || matches!(admission, Admission::Held(_)) || waits {
                queue.sendable = None;
                dropped.push(Arc::clone(name));
                return Turn::Drop;
            }
            let standing = queue.standing(name);
            match used.free(most, queue.in_flight.len(), standing) {
                0 if used.free(most, 0, standing) == 0 => Turn::Stop,
                0 => Turn::Keep,
                _ => Turn::Take,
            }
        });
        for name in dropped {
            self.return_to_store(&name);
            self.remove_if_idle(&name);
        }
        found
    }

    /// Removes a queue that has neither deliveries nor marks, and its origin.
    fn remove_if_idle(&mut self, name: &Arc<str>) {
        if let Some(queue) = self.queues.get(name).filter(|queue| queue.is_idle()) {
            let origin = Arc::clone(&queue.origin);
            if queue.is_quick {
                // It may have been remembered long ago.
                self.quick.set(name, true);
            }
            self.queues.remove(name);
            self.occupied.remove(name);
            self.forget_if_idle(&origin);
        }
    }

    fn forget_if_idle(&mut self, origin: &Arc<str>) {
        if self.origins.get(origin).is_some_and(Origin::is_idle) {
            self.origins.remove(origin);
        }
    }
}

#[cfg(test)]
mod tests;
