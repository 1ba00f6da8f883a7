//! Origins: the destination queues of one scheme, host and port share connections, so they share places.
//!
//! A URL of a busy host can be slow while its neighbours are quick: automation services and API gateways are one
//! host for thousands of receivers. Without shares, twenty hung requests to one URL occupy every place of the host
//! for a whole timeout, and the next event to a healthy URL waits as long.
//!
//! A destination queue is **quick** if its last attempt was a success within [`QUICK`]. All others, the untried ones
//! included, are not: it is not known how long their next attempt takes. The places of an origin are shared by three
//! rules ([`Places::free`]); they apply to the places in flight, and in the same way to the loaded deliveries:
//!
//! - The queues that are not quick use at most half of the places together. A quick queue therefore always finds a
//!   place that becomes free soon.
//! - One of them uses at most as many places as it leaves free in that half: with 16 places, the first hung URL gets
//!   4, the next one 2. An untried URL therefore does not wait for a timeout of a hung one.
//! - One quick queue leaves an eighth of the places to others, because it may turn slow with all its requests at once.
//! - Probes of URLs that do not answer use at most a quarter of the places together ([`probes_max`]). Each takes a
//!   whole timeout, and with many such URLs they would otherwise use the half of the untried ones without end.
//!
//! The quick queues and the others take turns; within each kind, the queues take turns. Mail, chats and saved
//! destinations have queues that are alone in their origin, and these rules do not apply to them. The half of all
//! places that the queues share that are not quick applies to every queue ([`super::fair_queue`]).

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::domain::{PendingDelivery, hash, per_app_limit};

/// Maximum duration of a quick success. A place that becomes free within it delays no other noticeably.
pub(super) const QUICK: Duration = Duration::from_secs(5);

/// Maximum number of quick queues that are remembered, in each of two generations. A forgotten one counts as untried
/// until its next success.
const QUICK_MAX: usize = 32_768;

/// Returns the part of a limit that queues share that are not quick.
pub(super) fn half_of(most: usize) -> usize {
    (most / 2).max(1)
}

/// Returns how many probes of URLs may be in flight to an origin with this number of places.
pub(super) fn probes_max(places: usize) -> usize {
    (places / 4).max(1)
}

/// Returns the origin of a destination queue: its name without the hash of the URL. A queue without such a hash is
/// alone in its origin, which has the same name.
pub(super) fn origin_of(queue: &str) -> &str {
    match queue.rsplit_once(' ') {
        Some((origin, _hash)) if origin.contains("://") => origin,
        _ => queue,
    }
}

/// Returns the name of the breaker for connections to the host of a delivery: the origin of its queue, or of its
/// address if it goes to a saved destination.
pub(super) fn host_of(delivery: &PendingDelivery, origin: &Arc<str>) -> Arc<str> {
    match &delivery.destination.saved {
        Some(saved) => origin_of(&saved.target).into(),
        None => Arc::clone(origin),
    }
}

/// What the queues of an origin use together.
#[derive(Debug, Default)]
pub(super) struct Origin {
    /// Places in flight.
    pub(super) in_flight: Places,
    /// Loaded deliveries, and those of the pages that are being read.
    pub(super) loaded: Places,
    /// Number of its probes, in flight or loaded.
    pub(super) probes: usize,
    /// Maximum number of places in flight, if it is that of a saved destination with such a limit.
    pub(super) concurrency: Option<u32>,
    /// Manual retries to queues that are held back, or that share places with slow ones. They are sent nevertheless, as
    /// soon as a place is free.
    pub(super) urgent: VecDeque<Box<PendingDelivery>>,
    /// Queues with waiting deliveries.
    pub(super) sendable: Turns,
    /// Queues with more due deliveries in the store.
    pub(super) loadable: Turns,
    /// Whether it is in `DispatchState::urgent`.
    pub(super) is_urgent: bool,
    /// Whether it is in `DispatchState::sendable` and `DispatchState::loadable` with its queues of each kind.
    pub(super) is_sendable: ByKind,
    pub(super) is_loadable: ByKind,
}

impl Origin {
    /// Returns whether nothing has to be remembered.
    pub(super) fn is_idle(&self) -> bool {
        let is_listed = self.is_urgent || self.is_sendable.any() || self.is_loadable.any();
        self.loaded.total() == 0
            && self.probes == 0
            && self.sendable.is_empty()
            && self.loadable.is_empty()
            && !is_listed
    }

    /// Returns how many attempts may be in flight. `most` is the limit of every origin.
    pub(super) fn places(&self, most: usize) -> usize {
        self.concurrency.map_or(most, |limit| most.min(usize::try_from(limit).unwrap_or(most)).max(1))
    }

    /// Returns whether a delivery waits, or may wait soon because a page is being read.
    pub(super) fn has_waiting(&self) -> bool {
        self.loaded.total() > self.in_flight.total()
    }
}

/// A fact about the quick queues of an origin, and about its others.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ByKind {
    quick: bool,
    other: bool,
}

impl ByKind {
    pub(super) fn of(&mut self, is_quick: bool) -> &mut bool {
        if is_quick { &mut self.quick } else { &mut self.other }
    }

    fn any(self) -> bool {
        self.quick || self.other
    }
}

/// Number of used places.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Places {
    /// Of quick queues.
    pub(super) quick: usize,
    /// Of all others.
    pub(super) other: usize,
}

impl Places {
    pub(super) fn total(self) -> usize {
        self.quick + self.other
    }

    /// Counts places of a queue as used.
    pub(super) fn take(&mut self, is_quick: bool, count: usize) {
        *if is_quick { &mut self.quick } else { &mut self.other } += count;
    }

    /// Counts places of a queue as free.
    pub(super) fn release(&mut self, is_quick: bool, count: usize) {
        let places = if is_quick { &mut self.quick } else { &mut self.other };
        debug_assert!(*places >= count, "places are released once");
        *places = places.saturating_sub(count);
    }

    /// Returns how many more places a queue may take now. `most` is the number of places of the origin, `own` is
    /// what the queue uses.
    pub(super) fn free(self, most: usize, own: usize, standing: Standing) -> usize {
        let left = most.saturating_sub(self.total());
        match standing {
            Standing::Alone => left,
            Standing::Quick => left.min(per_app_limit(most).saturating_sub(own)),
            Standing::Other => {
                let half = half_of(most);
                // Each place that it takes is one more of its own and one less that is free.
                left.min(half.saturating_sub(self.other)).saturating_sub(own).div_ceil(2)
            }
        }
    }
}

/// How a queue takes part in the shares of its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It is the only queue of its origin.
    Alone,
    /// Its last attempt was a quick success.
    Quick,
    /// Anything else.
    Other,
}

/// Queues of an origin that take turns, the quick ones and the others. An origin may list a hundred thousand queues, so
/// a queue is found by its position.
#[derive(Debug, Default)]
pub(super) struct Turns {
    quick: BTreeMap<Ticket, Arc<str>>,
    other: BTreeMap<Ticket, Arc<str>>,
    last: Ticket,
}

/// Position of a queue in [`Turns`]. A smaller one has its turn earlier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(u64);

impl Ticket {
    fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Turns {
    pub(super) fn is_empty(&self) -> bool {
        self.quick.is_empty() && self.other.is_empty()
    }

    /// Returns whether it has queues of a kind.
    pub(super) fn has(&self, is_quick: bool) -> bool {
        !if is_quick { &self.quick } else { &self.other }.is_empty()
    }

    /// Returns the queues of a kind.
    fn of_kind(&mut self, is_quick: bool) -> &mut BTreeMap<Ticket, Arc<str>> {
        if is_quick { &mut self.quick } else { &mut self.other }
    }

    /// Adds a queue after the others of its kind, and returns its position.
    pub(super) fn push(&mut self, queue: Arc<str>, is_quick: bool) -> Ticket {
        self.last = self.last.next();
        let ticket = self.last;
        self.of_kind(is_quick).insert(ticket, queue);
        ticket
    }

    /// Removes a queue.
    pub(super) fn remove(&mut self, ticket: Ticket, is_quick: bool) {
        self.of_kind(is_quick).remove(&ticket);
    }

    /// Moves a queue to this kind, in which it has the same position.
    pub(super) fn change_kind(&mut self, ticket: Ticket, is_quick: bool) {
        if let Some(queue) = self.of_kind(!is_quick).remove(&ticket) {
            self.of_kind(is_quick).insert(ticket, queue);
        }
    }

    /// Removes the next queue of a kind for which `check` returns [`Turn::Take`] or [`Turn::Drop`], and returns it if
    /// it is taken. At most as many queues are kept as use a place, so the search is short.
    pub(super) fn pop(
        &mut self,
        is_quick: bool,
        mut check: impl FnMut(&Arc<str>) -> Turn,
    ) -> Option<Arc<str>> {
        let row = self.of_kind(is_quick);
        let mut from = Ticket::default();
        while let Some((&ticket, queue)) = row.range(from..).next() {
            from = ticket.next();
            match check(queue) {
                Turn::Take => return row.remove(&ticket),
                Turn::Drop => {
                    row.remove(&ticket);
                }
                Turn::Keep => {}
                Turn::Stop => return None,
            }
        }
        None
    }

    /// Removes and returns all queues.
    pub(super) fn drain(&mut self) -> Vec<Arc<str>> {
        let (quick, other) = (std::mem::take(&mut self.quick), std::mem::take(&mut self.other));
        quick.into_values().chain(other.into_values()).collect()
    }
}

/// What happens to a queue whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is removed and returned.
    Take,
    /// It is removed: something else adds it again.
    Drop,
    /// It has no place now, and keeps its turn for later.
    Keep,
    /// No queue of its kind has a place.
    Stop,
}

/// The quick queues, by the hash of their names, in two generations: when the newer one is full, the older one is
/// forgotten.
#[derive(Debug, Default)]
pub(super) struct QuickQueues {
    newer: HashSet<u64>,
    older: HashSet<u64>,
}

impl QuickQueues {
    fn key(queue: &str) -> u64 {
        u64::from_be_bytes(hash(&[queue.as_bytes()]))
    }

    pub(super) fn contains(&self, queue: &str) -> bool {
        let key = Self::key(queue);
        self.newer.contains(&key) || self.older.contains(&key)
    }

    /// Remembers whether a queue is quick.
    pub(super) fn set(&mut self, queue: &str, is_quick: bool) {
        let key = Self::key(queue);
        if !is_quick {
            self.newer.remove(&key);
            self.older.remove(&key);
            return;
        }
        if self.newer.len() >= QUICK_MAX && !self.newer.contains(&key) {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_belongs_to_the_origin_of_its_host() {
        let table = [
            ("1 https://a.example:443 0123456789abcdef", "1 https://a.example:443"),
            ("1 https://a.example:443", "1 https://a.example:443"),
            ("1 slack 0123456789abcdef", "1 slack 0123456789abcdef"),
            ("1 smtp", "1 smtp"),
            ("1 dst_00000000000000000000000000", "1 dst_00000000000000000000000000"),
        ];
        for (queue, origin) in table {
            assert_eq!(origin_of(queue), origin);
        }
    }

    #[test]
    fn urls_that_are_not_quick_share_half_of_the_places() {
        let free = |quick, other, own, standing| Places { quick, other }.free(16, own, standing);
        let table = [
            // Hung URLs get 4, 2, 1 and 1 places, and no more.
            ((0, 0, 0, Standing::Other), 4),
            ((0, 3, 3, Standing::Other), 1),
            ((0, 4, 4, Standing::Other), 0),
            ((0, 4, 0, Standing::Other), 2),
            ((0, 7, 0, Standing::Other), 1),
            ((0, 8, 0, Standing::Other), 0),
            // A quick URL leaves two places free.
            ((0, 8, 0, Standing::Quick), 8),
            ((0, 0, 0, Standing::Quick), 14),
            ((14, 0, 14, Standing::Quick), 0),
            ((14, 0, 0, Standing::Quick), 2),
            ((14, 0, 0, Standing::Other), 1),
            ((16, 0, 0, Standing::Other), 0),
            // A URL that turned slow with its places in flight.
            ((0, 14, 14, Standing::Other), 0),
            ((0, 14, 0, Standing::Quick), 2),
            ((0, 0, 0, Standing::Alone), 16),
            ((0, 16, 16, Standing::Alone), 0),
        ];
        for ((quick, other, own, standing), expected) in table {
            assert_eq!(free(quick, other, own, standing), expected, "{quick} {other} {own} {standing:?}");
        }
        // Every kind can use the only place.
        for standing in [Standing::Alone, Standing::Quick, Standing::Other] {
            assert_eq!(Places::default().free(1, 0, standing), 1);
        }
    }

    #[test]
    fn probes_use_a_quarter_of_the_places() {
        assert_eq!([1, 3, 4, 8, 16].map(probes_max), [1, 1, 1, 2, 4]);
    }

    #[test]
    fn the_queues_of_a_kind_take_turns() {
        let mut turns = Turns::default();
        for (name, is_quick) in [("q1", true), ("q2", true), ("o1", false), ("o2", false), ("o3", false)] {
            turns.push(name.into(), is_quick);
        }
        let take = |queue: &Arc<str>| if &**queue == "o2" { Turn::Drop } else { Turn::Take };
        for (is_quick, expected) in [(true, ["q1", "q2"]), (false, ["o1", "o3"])] {
            assert!(turns.has(is_quick));
            let order: Vec<_> = std::iter::from_fn(|| turns.pop(is_quick, take)).collect();
            assert_eq!(order, expected.map(Arc::from));
            assert!(!turns.has(is_quick));
        }
        assert!(turns.is_empty());
        for name in ["a", "b"] {
            turns.push(name.into(), false);
        }
        assert_eq!(turns.pop(false, |_| Turn::Keep), None);
        assert_eq!(turns.pop(false, |_| Turn::Stop), None);
        let second = |queue: &Arc<str>| if &**queue == "b" { Turn::Take } else { Turn::Keep };
        assert_eq!(turns.pop(false, second), Some("b".into()));
        assert_eq!((turns.quick.len(), turns.other.len()), (0, 1));
    }

    #[test]
    fn a_queue_that_changes_its_kind_keeps_its_position() {
        let mut turns = Turns::default();
        let tickets = ["a", "b", "c"].map(|name| turns.push(name.into(), name != "b"));
        turns.change_kind(tickets[1], true);
        turns.change_kind(tickets[2], true);
        assert_eq!(turns.drain(), ["a", "b", "c"].map(Arc::from), "all are quick");
        let tickets = ["a", "b"].map(|name| turns.push(name.into(), false));
        turns.remove(tickets[0], false);
        turns.change_kind(tickets[0], true);
        assert_eq!((turns.pop(false, |_| Turn::Take), turns.is_empty()), (Some("b".into()), true));
    }

    #[test]
    fn the_number_of_remembered_quick_urls_is_limited() {
        let mut quick = QuickQueues::default();
        quick.set("first", true);
        for n in 0..3 * QUICK_MAX {
            quick.set(&n.to_string(), true);
        }
        assert!(quick.newer.len() <= QUICK_MAX && quick.older.len() <= QUICK_MAX);
        assert!(!quick.contains("first") && quick.contains(&(3 * QUICK_MAX - 1).to_string()));
        quick.set("a", true);
        quick.set("a", false);
        assert!(!quick.contains("a"));
    }
}
