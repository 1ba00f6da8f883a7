//! Apps in turns: no app can keep another waiting by how much it sends, or to how many dead hosts.
//!
//! Lanes take turns, but an app may have thousands of them. So the turn goes round the apps first, and round
//! the lanes of an app then ([`FairQueue`]); and of what is bounded for all together, sends in flight and what is
//! in hand, no app gets more than seven eighths ([`Shares`]): there is always room for another one, and an
//! app that is alone hardly notices.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::domain::{AppNo, per_app_limit};

/// The app of a lane: its first word.
fn app_of(lane: &str) -> AppNo {
    AppNo(lane.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_default())
}

/// Lanes in turns: of the apps, and of the lanes of each.
#[derive(Debug, Default)]
pub(super) struct FairQueue {
    apps: VecDeque<AppNo>,
    lanes: HashMap<AppNo, VecDeque<Arc<str>>>,
}

impl FairQueue {
    /// At the end of its app's row.
    pub(super) fn push(&mut self, lane: Arc<str>) {
        let app = app_of(&lane);
        let row = self.lanes.entry(app).or_default();
        if row.is_empty() {
            self.apps.push_back(app);
        }
        row.push_back(lane);
    }

    /// The next lane, of the next app that has room.
    pub(super) fn pop(&mut self, has_room: impl Fn(AppNo) -> bool) -> Option<Arc<str>> {
        for _ in 0..self.apps.len() {
            let app = self.apps.pop_front()?;
            if !has_room(app) {
                self.apps.push_back(app);
                continue;
            }
            let row = self.lanes.get_mut(&app)?;
            let lane = row.pop_front();
            if row.is_empty() {
                self.lanes.remove(&app);
            } else {
                self.apps.push_back(app);
            }
            return lane;
        }
        None
    }

    /// Whether [`Self::pop`] would find one.
    pub(super) fn has_any(&self, has_room: impl Fn(AppNo) -> bool) -> bool {
        self.apps.iter().any(|app| has_room(*app))
    }
}

/// How much each app has, of what all have together.
#[derive(Debug, Default)]
pub(super) struct Shares {
    apps: HashMap<AppNo, Share>,
}

#[derive(Debug, Default)]
struct Share {
    in_hand: usize,
    bytes: usize,
    in_flight: usize,
}

impl Shares {
    /// A delivery with a body of so many bytes is in hand.
    pub(super) fn take(&mut self, app: AppNo, bytes: usize) {
        let share = self.apps.entry(app).or_default();
        share.in_hand += 1;
        share.bytes += bytes;
    }

    /// One that was in hand is let go.
    pub(super) fn let_go(&mut self, app: AppNo, bytes: usize) {
        if let Some(share) = self.apps.get_mut(&app) {
            share.in_hand -= 1;
            share.bytes -= bytes;
            if share.in_hand == 0 {
                self.apps.remove(&app);
            }
        }
    }

    /// One that is in hand is being sent.
    pub(super) fn start(&mut self, app: AppNo) {
        self.apps.entry(app).or_default().in_flight += 1;
    }

    /// It was sent; it is let go next.
    pub(super) fn end(&mut self, app: AppNo) {
        if let Some(share) = self.apps.get_mut(&app) {
            share.in_flight -= 1;
        }
    }

    /// Whether an app may have one more in flight, where all together have so many at most.
    pub(super) fn may_send(&self, app: AppNo, most: usize) -> bool {
        self.apps.get(&app).is_none_or(|held| held.in_flight < per_app_limit(most))
    }

    /// Whether an app may have more in hand, where all together have so many, and so many bytes, at most.
    pub(super) fn may_take(&self, app: AppNo, (most, bytes): (usize, usize)) -> bool {
        self.apps
            .get(&app)
            .is_none_or(|held| held.in_hand < per_app_limit(most) && held.bytes < per_app_limit(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_turn_goes_round_the_apps_and_round_the_lanes_of_each() {
        let mut turns = FairQueue::default();
        for lane in ["1 a", "1 b", "1 c", "2 a", "3 a", "3 b"] {
            turns.push(lane.into());
        }
        let all = |app: AppNo| app.0 > 0;
        let order: Vec<_> = std::iter::from_fn(|| turns.pop(all)).collect();
        assert_eq!(order, ["1 a", "2 a", "3 a", "1 b", "3 b", "1 c"].map(Arc::from));
        assert!(turns.lanes.is_empty() && !turns.has_any(all));
    }

    #[test]
    fn an_app_without_room_keeps_its_place_and_holds_nobody_up() {
        let mut turns = FairQueue::default();
        for lane in ["1 a", "2 a"] {
            turns.push(lane.into());
        }
        assert_eq!(turns.pop(|app| app != AppNo(1)), Some("2 a".into()));
        assert_eq!(turns.pop(|app| app != AppNo(1)), None);
        assert!(!turns.has_any(|app| app != AppNo(1)));
        assert_eq!(turns.pop(|_| true), Some("1 a".into()));
    }

    #[test]
    fn no_app_has_more_than_seven_eighths() {
        let (mut shares, one, two) = (Shares::default(), AppNo(1), AppNo(2));
        for _ in 0..7 {
            assert!(shares.may_send(one, 8) && shares.may_take(one, (8, 80)));
            shares.take(one, 10);
            shares.start(one);
        }
        assert!(!shares.may_send(one, 8) && !shares.may_take(one, (8, 1_000)));
        assert!(!shares.may_take(one, (1_000, 80)), "bytes count, too");
        assert!(shares.may_send(two, 8) && shares.may_take(two, (8, 80)));
        for _ in 0..7 {
            shares.end(one);
            shares.let_go(one, 10);
        }
        assert!(shares.may_send(one, 8) && shares.apps.is_empty());
    }
}
