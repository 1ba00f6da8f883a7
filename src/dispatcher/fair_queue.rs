//! Fairness between apps: no app delays another, however many deliveries or unreachable hosts it has.
//!
//! An app may have thousands of origins. So the apps take turns, and the origins of an app take turns within it
//! ([`FairQueue`]). Within an origin, its queues take turns ([`super::origin`]). No app uses more than seven eighths
//! of what the others leave, of the deliveries in flight and of the loaded deliveries ([`AppShares`]): there is a place
//! for another app also if several apps take all they may, and an app that is alone loses little. The probes of an app
//! use at most a quarter of its share, so that its healthy receivers do not wait for those that do not answer.
//!
//! **The queues that are not quick** ([`super::origin`]) use at most half of each of these limits together, and the
//! rule of seven eighths holds within that half as well. Each queue of a saved destination is an origin of its own, and
//! so is each host: a thousand of them that never answer would otherwise occupy every place for a whole timeout, and
//! the next event to a healthy receiver of the same app would wait as long. The origins with quick queues and those
//! with others therefore have turns of their own ([`KindTurns`]), and the two kinds alternate.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::origin::{half_of, origin_of};
use crate::domain::{AppNo, per_app_limit};

/// Returns the app of a queue or an origin: the first word of its name.
pub(super) fn app_of(queue: &str) -> AppNo {
    AppNo(queue.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default())
}

/// Orders the names of queues: the apps take turns, and within an app its origins. The queues of an origin keep their
/// order. A limit that keeps the first of them therefore takes from the apps and origins with the most queues.
pub(super) fn fair_order<'a>(names: impl Iterator<Item = &'a Arc<str>>) -> Vec<Arc<str>> {
    let next = |count: &mut usize| {
        *count += 1;
        *count
    };
    let (mut of_origin, mut of_app) = (HashMap::<&str, usize>::new(), HashMap::<AppNo, usize>::new());
    let rank = |name: &'a Arc<str>| (next(of_origin.entry(origin_of(name)).or_default()), name);
    let mut ranked: Vec<(usize, &Arc<str>)> = names.map(rank).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    for (rank, name) in &mut ranked {
        *rank = next(of_app.entry(app_of(name)).or_default());
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, name)| Arc::clone(name)).collect()
}

/// Origins that take turns: the apps first, then the origins of each app.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    apps: VecDeque<AppNo>,
    origins: HashMap<AppNo, VecDeque<Arc<str>>>,
}

impl FairQueue {
    /// Adds an origin after the others of its app.
    pub(super) fn push(&mut self, origin: Arc<str>) {
        let app = app_of(&origin);
        let row = self.origins.entry(app).or_default();
        if row.is_empty() {
            self.apps.push_back(app);
        }
        row.push_back(origin);
    }

    /// Removes the next origin of the next app that has a free place.
    pub(super) fn pop(&mut self, has_place: impl Fn(AppNo) -> bool) -> Option<Arc<str>> {
        for _ in 0..self.apps.len() {
            let app = self.apps.pop_front()?;
            if !has_place(app) {
                self.apps.push_back(app);
                continue;
            }
            let row = self.origins.get_mut(&app)?;
            let origin = row.pop_front();
            if row.is_empty() {
                self.origins.remove(&app);
            } else {
                self.apps.push_back(app);
            }
            return origin;
        }
        None
    }

    /// Removes the origins that `has_work` does not confirm, and returns them.
    pub(super) fn remove_without(&mut self, has_work: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut removed = Vec::new();
        self.origins.retain(|_, row| {
            let (kept, without) = std::mem::take(row).into_iter().partition(|origin| has_work(origin));
            *row = kept;
            removed.extend::<VecDeque<_>>(without);
            !row.is_empty()
        });
        self.apps.retain(|app| self.origins.contains_key(app));
        removed
    }

    /// Returns whether [`Self::pop`] would return an origin.
    pub(super) fn has_any(&self, has_place: impl Fn(AppNo) -> bool) -> bool {
        self.apps.iter().any(|app| has_place(*app))
    }
}

/// Origins with queues of two kinds, the quick ones and the others. An origin with both has a turn in each kind.
#[derive(Debug, Default)]
pub(super) struct KindTurns {
    quick: FairQueue,
    other: FairQueue,
    was_quick: bool,
}

impl KindTurns {
    fn of_kind(&mut self, is_quick: bool) -> &mut FairQueue {
        if is_quick { &mut self.quick } else { &mut self.other }
    }

    /// Adds an origin after the others of its app that have queues of this kind.
    pub(super) fn push(&mut self, origin: Arc<str>, is_quick: bool) {
        self.of_kind(is_quick).push(origin);
    }

    /// Removes the next origin of the next app that has a free place for a queue of its kind. Returns it with the kind.
    pub(super) fn pop(&mut self, has_place: impl Fn(AppNo, bool) -> bool) -> Option<(Arc<str>, bool)> {
        for is_quick in [!self.was_quick, self.was_quick] {
            if let Some(origin) = self.of_kind(is_quick).pop(|app| has_place(app, is_quick)) {
                self.was_quick = is_quick;
                return Some((origin, is_quick));
            }
        }
        None
    }

    /// Returns whether [`Self::pop`] would return an origin.
    pub(super) fn has_any(&self, has_place: impl Fn(AppNo, bool) -> bool) -> bool {
        self.quick.has_any(|app| has_place(app, true)) || self.other.has_any(|app| has_place(app, false))
    }

    /// Removes the origins that `has_work` does not confirm for a kind, and returns them.
    pub(super) fn remove_without(&mut self, has_work: impl Fn(&str, bool) -> bool) -> Vec<(Arc<str>, bool)> {
        let of_kind = |is_quick: bool| {
            let has_work = &has_work;
            (is_quick, move |origin: &str| has_work(origin, is_quick))
        };
        let mut removed = Vec::new();
        for (is_quick, has_work) in [true, false].map(of_kind) {
            let names = self.of_kind(is_quick).remove_without(has_work);
            removed.extend(names.into_iter().map(|name| (name, is_quick)));
        }
        removed
    }
}

/// How much of the common limits each app uses.
#[derive(Debug, Default)]
pub(super) struct AppShares {
    apps: HashMap<AppNo, Share>,
    /// What all apps use together.
    pub(super) total: Share,
}

/// A part of the common limits.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// Number of loaded deliveries.
    pub(super) loaded: usize,
    /// Size of their bodies.
    pub(super) bytes: usize,
    /// Number of deliveries in flight, without those that wait for a late reply.
    pub(super) in_flight: usize,
    /// Number of deliveries that wait for a late reply.
    pub(super) awaiting_reply: usize,
    /// Number of deliveries whose exchange has ended, and whose record is being written.
    pub(super) awaiting_record: usize,
    /// Number of probes, in flight or loaded.
    pub(super) probes: usize,
    /// The part of it that queues use that are not quick.
    pub(super) other: Used,
}

/// Deliveries of some queues: the loaded ones, the size of their bodies, and those in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) loaded: usize,
    pub(super) bytes: usize,
    pub(super) in_flight: usize,
}

impl Share {
    fn is_unused(&self) -> bool {
        self.loaded == 0 && self.probes == 0
    }
}

impl AppShares {
    /// Counts a delivery with a body of this size as loaded.
    pub(super) fn load(&mut self, app: AppNo, bytes: usize, is_quick: bool) {
        for share in [self.apps.entry(app).or_default(), &mut self.total] {
            share.loaded += 1;
            share.bytes += bytes;
            if !is_quick {
                share.other.loaded += 1;
                share.other.bytes += bytes;
            }
        }
    }

    /// Counts a delivery as unloaded.
    pub(super) fn unload(&mut self, app: AppNo, bytes: usize, is_quick: bool) {
        for share in self.apps.get_mut(&app).into_iter().chain([&mut self.total]) {
            share.loaded -= 1;
            share.bytes -= bytes;
            if !is_quick {
                share.other.loaded -= 1;
                share.other.bytes -= bytes;
            }
        }
        self.remove_if_unused(app);
    }

    /// Counts what a queue uses as that of its new kind.
    pub(super) fn change_kind(&mut self, app: AppNo, used: Used, is_quick: bool) {
        for share in self.apps.get_mut(&app).into_iter().chain([&mut self.total]) {
            let other = &mut share.other;
            for (count, change) in [
                (&mut other.loaded, used.loaded),
                (&mut other.bytes, used.bytes),
                (&mut other.in_flight, used.in_flight),
            ] {
                *count = if is_quick { *count - change } else { *count + change };
            }
        }
    }

    fn remove_if_unused(&mut self, app: AppNo) {
        if self.apps.get(&app).is_some_and(Share::is_unused) {
            self.apps.remove(&app);
        }
    }

    /// Counts a probe.
    pub(super) fn start_probe(&mut self, app: AppNo) {
        self.apps.entry(app).or_default().probes += 1;
        self.total.probes += 1;
    }

    /// Counts a probe as ended.
    pub(super) fn end_probe(&mut self, app: AppNo) {
        for share in self.apps.get_mut(&app).into_iter().chain([&mut self.total]) {
            share.probes -= 1;
        }
        self.remove_if_unused(app);
    }

    /// Returns whether an app may make one more probe, if at most `most` deliveries are in flight: its probes use at
    /// most a quarter of what it may have in flight. A probe of a URL that does not answer takes a whole timeout, and
    /// an app may have thousands of such URLs.
    pub(super) fn may_probe(&self, app: AppNo, most: usize) -> bool {
        self.probes_left(app, most) > 0
    }

    /// Returns how many more probes an app may make.
    pub(super) fn probes_left(&self, app: AppNo, most: usize) -> usize {
        let (own_in_flight, own_probes) =
            self.apps.get(&app).map_or((0, 0), |own| (own.in_flight, own.probes));
        let left = most.saturating_sub(self.total.in_flight - own_in_flight);
        (per_app_limit(left) / 4).max(1).saturating_sub(own_probes)
    }

    /// Counts a loaded delivery as in flight.
    pub(super) fn start(&mut self, app: AppNo, is_quick: bool) {
        for share in [self.apps.entry(app).or_default(), &mut self.total] {
            share.in_flight += 1;
            share.other.in_flight += usize::from(!is_quick);
        }
    }

    /// Counts a delivery as no longer in flight, but still loaded.
    pub(super) fn end(&mut self, app: AppNo, is_quick: bool) {
        for share in self.apps.get_mut(&app).into_iter().chain([&mut self.total]) {
            share.in_flight -= 1;
            share.other.in_flight -= usize::from(!is_quick);
        }
    }

    /// Counts a delivery in flight as one that waits for a late reply, if the app may have one more of them. `most`
    /// is the common maximum. Returns whether it is counted so.
    pub(super) fn await_reply(&mut self, app: AppNo, most: usize, is_quick: bool) -> bool {
        if self.total.awaiting_reply >= most || !self.may_take(app, |share| share.awaiting_reply, most) {
            return false;
        }
        self.end(app, is_quick);
        self.apps.entry(app).or_default().awaiting_reply += 1;
        self.total.awaiting_reply += 1;
        true
    }

    /// Records the end of the wait for a late reply.
    pub(super) fn end_late(&mut self, app: AppNo) {
        for share in self.apps.get_mut(&app).into_iter().chain([&mut self.total]) {
            share.awaiting_reply -= 1;
        }
    }

    /// Counts a delivery in flight as one whose record is being written, if the app may have one more of them. `most`
    /// is the common maximum. Returns whether it is counted so.
    pub(super) fn await_record(&mut self, app: AppNo, most: usize, is_quick: bool) -> bool {
        if self.total.awaiting_record >= most || !self.may_take(app, |share| share.awaiting_record, most) {
            return false;
        }
        self.end(app, is_quick);
        self.apps.entry(app).or_default().awaiting_record += 1;
        self.total.awaiting_record += 1;
        true
    }

    /// Records that the record of a delivery is written.
    pub(super) fn end_record(&mut self, app: AppNo) {
        for share in self.apps.get_mut(&app).into_iter().chain([&mut self.total]) {
            share.awaiting_record -= 1;
        }
    }

    /// Returns whether an app may have one more delivery of a queue of this kind in flight, if the common maximum is
    /// `most`.
    pub(super) fn may_send(&self, app: AppNo, most: usize, is_quick: bool) -> bool {
        self.total.in_flight < most
            && self.may_take(app, |share| share.in_flight, most)
            && (is_quick || self.may_take_of_half(app, |share| share.other.in_flight, most))
    }

    /// Returns whether an app may have one more manual retry in flight that does not wait for the half of the queues
    /// that are not quick: until they use three quarters of the places.
    pub(super) fn may_send_urgent(&self, app: AppNo, most: usize) -> bool {
        let (half, quarter) = (half_of(most), most / 4);
        self.may_send(app, most, true) && self.total.other.in_flight < half + quarter
    }

    /// Returns whether an app may have one more loaded delivery of a queue of this kind. The pair is the common
    /// maximum: the number of loaded deliveries, and the bytes of their bodies.
    pub(super) fn may_load(&self, app: AppNo, (most, bytes): (usize, usize), is_quick: bool) -> bool {
        self.may_take(app, |share| share.loaded, most)
            && self.may_take(app, |share| share.bytes, bytes)
            && (is_quick
                || (self.may_take_of_half(app, |share| share.other.loaded, most)
                    && self.may_take_of_half(app, |share| share.other.bytes, bytes)))
    }

    /// Returns whether an app may take one more of the half that the queues share that are not quick.
    ///
    /// The part of an app is rounded down: also of a small half, one place is left for an untried destination of
    /// another app.
    fn may_take_of_half(&self, app: AppNo, used: impl Fn(&Share) -> usize, most: usize) -> bool {
        let (half, total) = (half_of(most), used(&self.total));
        let is_below = |own: usize| {
            let left = half.saturating_sub(total - own);
            own == 0 || own < (left - left.div_ceil(8)).max(1)
        };
        total < half && self.apps.get(&app).is_none_or(|own| is_below(used(own)))
    }

    /// Returns whether an app uses less than it may of what the others leave. An app that uses nothing may
    /// always take one.
    fn may_take(&self, app: AppNo, used: impl Fn(&Share) -> usize, most: usize) -> bool {
        self.apps.get(&app).is_none_or(|own| {
            let left = most.saturating_sub(used(&self.total) - used(own));
            used(own) == 0 || used(own) < per_app_limit(left)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_app_uses_seven_eighths_of_the_late_replies() {
        let mut shares = AppShares::default();
        let mut wait = |app, count| {
            let one = |_: &u32| {
                shares.load(AppNo(app), 1, true);
                shares.start(AppNo(app), true);
                shares.await_reply(AppNo(app), 64, true)
            };
            (0..count).filter(one).count()
        };
        assert_eq!((wait(1, 60), wait(2, 6), wait(3, 6)), (56, 6, 2));
        assert_eq!((shares.total.awaiting_reply, shares.total.in_flight), (64, 8));
        shares.end_late(AppNo(1));
        assert!(
            !shares.await_reply(AppNo(1), 64, true),
            "it has more than its part of what the others leave"
        );
        assert!(shares.await_reply(AppNo(3), 64, true) && !shares.await_reply(AppNo(3), 64, true));
    }

    #[test]
    fn apps_take_turns_and_so_do_the_origins_of_each() {
        let mut turns = FairQueue::default();
        for queue in ["1 a", "1 b", "1 c", "2 a", "3 a", "3 b"] {
            turns.push(queue.into());
        }
        let all = |app: AppNo| app.0 > 0;
        let order: Vec<_> = std::iter::from_fn(|| turns.pop(all)).collect();
        assert_eq!(order, ["1 a", "2 a", "3 a", "1 b", "3 b", "1 c"].map(Arc::from));
        assert!(turns.origins.is_empty() && !turns.has_any(all));
    }

    #[test]
    fn origins_without_work_are_removed_with_their_apps() {
        let mut turns = FairQueue::default();
        for queue in ["1 a", "1 b", "2 a"] {
            turns.push(queue.into());
        }
        let mut removed = turns.remove_without(|origin| origin == "1 b");
        removed.sort();
        assert_eq!(removed, ["1 a", "2 a"].map(Arc::from));
        turns.push("2 c".into());
        let order: Vec<_> = std::iter::from_fn(|| turns.pop(|_| true)).collect();
        assert_eq!(order, ["1 b", "2 c"].map(Arc::from));
    }

    #[test]
    fn a_fair_order_alternates_between_apps_and_their_origins() {
        let names = ["1 x://a 1", "1 x://a 2", "1 x://a 3", "1 x://b 1", "2 x://a 1", "1 smtp", "2 x://a 2"];
        let names = names.map(Arc::<str>::from);
        let fair = ["1 x://a 1", "2 x://a 1", "1 x://b 1", "2 x://a 2", "1 smtp", "1 x://a 2", "1 x://a 3"];
        assert_eq!(fair_order(names.iter()), fair.map(Arc::from));
    }

    #[test]
    fn an_app_without_a_free_place_delays_no_other() {
        let mut turns = FairQueue::default();
        for queue in ["1 a", "2 a"] {
            turns.push(queue.into());
        }
        assert_eq!(turns.pop(|app| app != AppNo(1)), Some("2 a".into()));
        assert_eq!(turns.pop(|app| app != AppNo(1)), None);
        assert!(!turns.has_any(|app| app != AppNo(1)));
        assert_eq!(turns.pop(|_| true), Some("1 a".into()));
    }

    #[test]
    fn apps_that_take_all_they_may_leave_a_place_for_the_next() {
        let mut shares = AppShares::default();
        let mut fill = |app| {
            let start = |_: &usize| {
                let may = shares.may_send(AppNo(app), 512, true);
                shares.load(AppNo(app), 1, true);
                may.then(|| shares.start(AppNo(app), true)).is_some()
            };
            (0..1_000).take_while(start).count()
        };
        assert_eq!([1, 2, 3, 4].map(&mut fill), [448, 56, 7, 1]);
        assert_eq!(shares.total.in_flight, 512);
    }

    #[test]
    fn probes_use_a_quarter_of_the_share_of_their_app() {
        let (mut shares, one, two) = (AppShares::default(), AppNo(1), AppNo(2));
        let probes = (0..1_000).take_while(|_| {
            let may = shares.may_probe(one, 512);
            may.then(|| shares.start_probe(one)).is_some()
        });
        assert_eq!(probes.count(), 112);
        assert!(shares.may_probe(two, 512) && shares.may_probe(two, 1));
        for _ in 0..112 {
            shares.end_probe(one);
        }
        assert!(shares.apps.is_empty() && shares.total.probes == 0);
    }

    #[test]
    fn no_app_uses_more_than_seven_eighths() {
        let (mut shares, one, two) = (AppShares::default(), AppNo(1), AppNo(2));
        for _ in 0..7 {
            assert!(shares.may_send(one, 8, true) && shares.may_load(one, (8, 80), true));
            shares.load(one, 10, true);
            shares.start(one, true);
        }
        assert!(!shares.may_send(one, 8, true) && !shares.may_load(one, (8, 1_000), true));
        assert!(!shares.may_load(one, (1_000, 80), true), "bytes count too");
        assert!(shares.may_send(two, 8, true) && shares.may_load(two, (8, 80), true));
        for _ in 0..7 {
            shares.end(one, true);
            shares.unload(one, 10, true);
        }
        assert!(shares.may_send(one, 8, true) && shares.apps.is_empty());
        assert_eq!((shares.total.loaded, shares.total.bytes, shares.total.in_flight), (0, 0, 0));
    }

    #[test]
    fn queues_that_are_not_quick_use_half_of_every_limit() {
        let (mut shares, one, two) = (AppShares::default(), AppNo(1), AppNo(2));
        let mut fill = |app, is_quick| {
            let start = |_: &usize| {
                let may =
                    shares.may_send(app, 512, is_quick) && shares.may_load(app, (512, 51_200), is_quick);
                may.then(|| {
                    shares.load(app, 100, is_quick);
                    shares.start(app, is_quick);
                })
                .is_some()
            };
            (0..1_000).take_while(start).count()
        };
        assert_eq!(
            (fill(one, false), fill(two, false)),
            (224, 28),
            "seven eighths of the half, and of what is left"
        );
        assert_eq!(fill(one, true), 200, "seven eighths of what is left of everything");
        assert!(
            !shares.may_load(one, (100_000, 51_200), false)
                && !shares.may_load(one, (512, 10_000_000), false)
        );
        let used = Used { loaded: 224, bytes: 22_400, in_flight: 224 };
        shares.change_kind(one, used, true);
        assert_eq!(shares.total.other, Used { loaded: 28, bytes: 2_800, in_flight: 28 });
        assert!(shares.may_send(two, 512, false));
        shares.change_kind(one, used, false);
        assert!(!shares.may_send(two, 512, false) && shares.may_send_urgent(two, 512));
        let mut shares = AppShares::default();
        let urgent = (0..1_000).take_while(|_| {
            let may = shares.may_send_urgent(one, 512);
            may.then(|| shares.start(one, false)).is_some()
        });
        assert_eq!(urgent.count(), 384, "three quarters");
    }

    #[test]
    fn the_only_place_is_for_every_kind() {
        let shares = AppShares::default();
        for is_quick in [true, false] {
            assert!(shares.may_send(AppNo(1), 1, is_quick) && shares.may_send_urgent(AppNo(1), 1));
        }
    }

    #[test]
    fn quick_origins_and_the_others_take_turns() {
        let mut turns = KindTurns::default();
        for (name, is_quick) in [("1 a", true), ("1 a", false), ("1 b", false), ("2 c", true), ("1 d", true)]
        {
            turns.push(name.into(), is_quick);
        }
        let order: Vec<_> = std::iter::from_fn(|| turns.pop(|_, _| true)).collect();
        let expected = [("1 a", true), ("1 a", false), ("2 c", true), ("1 b", false), ("1 d", true)];
        assert_eq!(order, expected.map(|(name, is_quick)| (Arc::from(name), is_quick)));
        turns.push("1 a".into(), false);
        assert!(!turns.has_any(|_, is_quick| is_quick) && turns.pop(|_, is_quick| is_quick).is_none());
        assert_eq!(turns.remove_without(|_, is_quick| is_quick), [(Arc::from("1 a"), false)]);
    }
}
