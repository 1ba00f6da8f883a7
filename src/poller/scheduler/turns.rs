//! The polls that are due and wait for the budget of one provider: the apps take turns.
//!
//! Each app has a queue of its own for final polls and one for the others, both in the order in which their polls
//! became due. An app whose queue is long therefore delays only itself, however many jobs it has.
//!
//! **Turns.** Each app has a number, and the app with the smallest one is next. A poll raises the number of its app by
//! one. An app that had nothing to poll continues at the number of the app that was served last, so it saves no turns.
//!
//! **Final polls get at most half.** After a final poll, another kind of poll follows: of any app, if one waits there,
//! and in any case of the same app in its next turn. A final poll is urgent, because it delays the end of a watch. But
//! a client that registers watches of one second needs one for each watch.
//!
//! **The apps leave places for one another.** Polls that take long occupy the places of the provider's concurrency.
//! While another app has jobs at the provider, an app gets no more than a share of them. Two apps could still use up
//! all, and a third would wait for the end of a slow poll. So an app that has a poll in flight also leaves one place
//! for each app that has jobs and no poll in flight. It always leaves one place, even if there is no other app: the
//! first job of another app can arrive while all polls are slow. [`Budget::places`] has these limits.
//!
//! **A job of several apps** takes turns with each of them: its polls wait in the queues of up to [`APPS_OF_A_JOB`]
//! apps, and the first of them whose turn it is polls the job. No app delays the job of another by watching it.
//!
//! An entry is stale if its time is not the time in the job's schedule any more, as in the heaps of the scheduler.
//!
//! [`Budget::places`]: crate::poller::budget::Budget::places

use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::domain::{AppNo, JobNo, Timestamp};
use crate::poller::budget::Places;

/// Number of apps in whose queues one job waits. If more watch it, the newest replaces another.
pub const APPS_OF_A_JOB: usize = 8;

/// Kind of a poll that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollKind {
    /// Poll of the schedule, or one that a client requested.
    Scheduled,
    /// First poll after the expiry of watches.
    Final,
}

/// A poll that waits: when it became due, and its job.
pub type Entry = (Timestamp, JobNo);

/// The polls that wait, by app.
#[derive(Debug, Default)]
pub struct Turns {
    apps: HashMap<AppNo, AppTurns>,
    /// The apps with polls that wait, in the order of their turns.
    waiting: BTreeSet<(u64, AppNo)>,
    /// Those of them with polls that are not final.
    scheduled: BTreeSet<(u64, AppNo)>,
    /// Number of the app that was served last.
    turn: u64,
    last_was_final: bool,
    /// Number of entries in all queues.
    entries: usize,
    /// Number of jobs, each counted for each of its apps.
    jobs: usize,
    /// Number of apps with jobs and without a poll in flight.
    idle_apps: usize,
}

/// The polls of one app.
#[derive(Debug, Default)]
struct AppTurns {
    turn: u64,
    jobs: usize,
    in_flight: u32,
    last_was_final: bool,
    scheduled: VecDeque<Entry>,
    finals: VecDeque<Entry>,
}

impl AppTurns {
    fn is_idle(&self) -> bool {
        self.jobs > 0 && self.in_flight == 0
    }

    fn queue(&mut self, kind: PollKind) -> &mut VecDeque<Entry> {
        match kind {
            PollKind::Scheduled => &mut self.scheduled,
            PollKind::Final => &mut self.finals,
        }
    }
}

impl Turns {
    /// Adds a job of an app.
    pub fn add_job(&mut self, app: AppNo) {
        self.jobs += 1;
        self.change(app, |found| found.jobs += 1);
    }

    /// Removes a job of an app.
    pub fn remove_job(&mut self, app: AppNo) {
        if !self.apps.contains_key(&app) {
            return;
        }
        self.jobs = self.jobs.saturating_sub(1);
        self.change(app, |found| found.jobs = found.jobs.saturating_sub(1));
        self.forget(app);
    }

    /// Changes the numbers of an app, and counts the idle apps again.
    fn change(&mut self, app: AppNo, change: impl FnOnce(&mut AppTurns)) {
        let found = self.apps.entry(app).or_default();
        let was_idle = found.is_idle();
        change(found);
        self.idle_apps = self.idle_apps + usize::from(found.is_idle()) - usize::from(was_idle);
    }

    /// Returns whether no other app than `app` has jobs.
    pub fn is_only_app(&self, app: AppNo) -> bool {
        self.apps.keys().all(|known| *known == app)
    }

    /// Adds a poll that is due to the queue of an app.
    pub fn push(&mut self, app: AppNo, kind: PollKind, entry: Entry) {
        let found = self.apps.entry(app).or_default();
        if found.scheduled.is_empty() && found.finals.is_empty() {
            found.turn = found.turn.max(self.turn);
            self.waiting.insert((found.turn, app));
        }
        if kind == PollKind::Scheduled && found.scheduled.is_empty() {
            self.scheduled.insert((found.turn, app));
        }
        found.queue(kind).push_back(entry);
        self.entries += 1;
    }

    /// Returns the app whose turn it is, and the poll at the front of its queue. An app that has to leave the free
    /// places to others has no turn.
    pub fn next(&self, places: Places) -> Option<(AppNo, PollKind, Entry)> {
        let is_alone = self.apps.len() <= 1;
        let idle_apps = u32::try_from(self.idle_apps).unwrap_or(u32::MAX);
        let left_free = places.reserve.min(idle_apps).max(places.spare);
        let may_start = |found: &AppTurns| {
            let is_within_share = is_alone || found.in_flight < places.share;
            found.in_flight == 0 || (is_within_share && places.free > left_free)
        };
        let app_of = |turns: &BTreeSet<(u64, AppNo)>| {
            let has_place = |app: &AppNo| self.apps.get(app).is_some_and(may_start);
            turns.iter().map(|(_, app)| *app).find(has_place)
        };
        if self.last_was_final
            && let Some(app) = app_of(&self.scheduled)
        {
            return Some((app, PollKind::Scheduled, *self.apps.get(&app)?.scheduled.front()?));
        }
        let app = app_of(&self.waiting)?;
        let found = self.apps.get(&app)?;
        match (found.scheduled.front(), found.finals.front()) {
            (scheduled, Some(last)) if scheduled.is_none() || !found.last_was_final => {
                Some((app, PollKind::Final, *last))
            }
            (scheduled, _) => Some((app, PollKind::Scheduled, *scheduled?)),
        }
    }

    /// Removes the poll at the front of a queue because it is stale. The app keeps its turn.
    pub fn drop_front(&mut self, app: AppNo, kind: PollKind) {
        let Some(found) = self.apps.get_mut(&app) else { return };
        self.entries -= usize::from(found.queue(kind).pop_front().is_some());
        let turn = found.turn;
        self.reinsert(app, turn);
    }

    /// Removes the poll at the front of a queue because it starts. It is in flight until [`Self::release`].
    pub fn start(&mut self, app: AppNo, kind: PollKind) {
        let Some(found) = self.apps.get_mut(&app) else { return };
        self.entries -= usize::from(found.queue(kind).pop_front().is_some());
        found.last_was_final = kind == PollKind::Final;
        self.last_was_final = found.last_was_final;
        let turn = found.turn;
        self.change(app, |found| found.in_flight += 1);
        self.turn = self.turn.max(turn);
        self.reinsert(app, turn + 1);
    }

    /// Returns the number of an app's polls in flight.
    #[cfg(test)]
    pub fn in_flight(&self, app: AppNo) -> u32 {
        self.apps.get(&app).map_or(0, |found| found.in_flight)
    }

    /// Records the end of a poll that an app has started.
    pub fn release(&mut self, app: AppNo) {
        if self.apps.contains_key(&app) {
            self.change(app, |found| found.in_flight = found.in_flight.saturating_sub(1));
            self.forget(app);
        }
    }

    /// Moves an app whose front has changed to its place among the others.
    fn reinsert(&mut self, app: AppNo, turn: u64) {
        let Some(found) = self.apps.get_mut(&app) else { return };
        self.waiting.remove(&(found.turn, app));
        self.scheduled.remove(&(found.turn, app));
        found.turn = turn;
        if !found.scheduled.is_empty() {
            self.scheduled.insert((turn, app));
        }
        if found.scheduled.is_empty() && found.finals.is_empty() {
            self.forget(app);
        } else {
            self.waiting.insert((turn, app));
        }
    }

    /// Removes an app that has nothing any more. If it comes back, it continues at the current turn.
    fn forget(&mut self, app: AppNo) {
        let is_unused =
            |a: &AppTurns| a.jobs == 0 && a.in_flight == 0 && a.scheduled.is_empty() && a.finals.is_empty();
        if self.apps.get(&app).is_some_and(is_unused) {
            self.apps.remove(&app);
        }
    }

    /// Removes and returns the final polls that wait.
    pub fn take_finals(&mut self) -> Vec<Entry> {
        let finals: Vec<Entry> = self.apps.values_mut().flat_map(|app| app.finals.drain(..)).collect();
        self.entries -= finals.len();
        self.rebuild();
        finals
    }

    /// Removes all polls that wait.
    pub fn clear(&mut self) {
        self.retain(|_, _, _| false);
    }

    /// Drops the entries that `is_valid` does not confirm, once they outnumber the others by `slack`. A job has at most
    /// two valid entries for each of its apps.
    pub fn drop_stale(&mut self, slack: usize, is_valid: impl Fn(PollKind, Entry) -> bool) {
        if self.entries > 2 * self.jobs + slack {
            self.retain(|_, kind, entry| is_valid(kind, entry));
        }
    }

    fn retain(&mut self, keeps: impl Fn(AppNo, PollKind, Entry) -> bool) {
        for (app, found) in &mut self.apps {
            found.scheduled.retain(|entry| keeps(*app, PollKind::Scheduled, *entry));
            found.finals.retain(|entry| keeps(*app, PollKind::Final, *entry));
        }
        self.rebuild();
    }

    fn rebuild(&mut self) {
        self.entries = self.apps.values().map(|app| app.scheduled.len() + app.finals.len()).sum();
        let turns = |has: fn(&AppTurns) -> bool| {
            let found = self.apps.iter().filter(move |(_, app)| has(app));
            found.map(|(no, app)| (app.turn, *no)).collect()
        };
        self.waiting = turns(|app| !app.scheduled.is_empty() || !app.finals.is_empty());
        self.scheduled = turns(|app| !app.scheduled.is_empty());
    }

    /// Returns the entries of all queues, each with its app.
    pub fn iter(&self) -> impl Iterator<Item = (AppNo, PollKind, Entry)> {
        self.apps.iter().flat_map(|(app, found)| {
            let scheduled = found.scheduled.iter().map(|entry| (*app, PollKind::Scheduled, *entry));
            scheduled.chain(found.finals.iter().map(|entry| (*app, PollKind::Final, *entry)))
        })
    }

    /// Returns about how many polls start before a scheduled poll of an app.
    pub fn ahead(&self, app: AppNo, entry: Entry) -> usize {
        let Some(found) = self.apps.get(&app) else { return 0 };
        // The polls become due in this order, with few exceptions.
        let of_app = found.scheduled.partition_point(|earlier| *earlier < entry);
        of_app.saturating_mul(self.waiting.len().max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(job: i64) -> Entry {
        (Timestamp::from_millis(job), JobNo(job))
    }

    /// Queues with jobs of each app: an app, and its numbers of scheduled and of final polls.
    fn turns(apps: &[(i64, i64, i64)]) -> Turns {
        let mut turns = Turns::default();
        for (app, scheduled, finals) in apps {
            let app = AppNo(*app);
            for job in 0..scheduled + finals {
                turns.add_job(app);
                let kind = if job < *scheduled { PollKind::Scheduled } else { PollKind::Final };
                turns.push(app, kind, entry(job));
            }
        }
        turns
    }

    /// Starts up to `count` polls in `total` places, and returns the app of each; a final poll has a negative number.
    fn started(turns: &mut Turns, total: u32, count: usize) -> Vec<i64> {
        let mut apps = Vec::new();
        while apps.len() < count
            && let free = total - turns.apps.values().map(|app| app.in_flight).sum::<u32>()
            && free > 0
            && let spare = u32::from(total >= 4)
            && let Some((app, kind, _)) = turns.next(Places { free, share: total - 1, reserve: 2, spare })
        {
            turns.start(app, kind);
            apps.push(if kind == PollKind::Final { -app.0 } else { app.0 });
        }
        apps
    }

    #[test]
    fn the_apps_take_turns() {
        let mut turns = turns(&[(1, 500, 0), (2, 1, 0), (3, 3, 0)]);
        assert_eq!(started(&mut turns, 100, 8), [1, 2, 3, 1, 3, 1, 3, 1]);
        // An app that comes back has saved no turns.
        for job in 0..5 {
            turns.push(AppNo(2), PollKind::Scheduled, entry(job));
        }
        let later = started(&mut turns, 100, 6);
        assert_eq!(later.iter().filter(|app| **app == 2).count(), 3, "{later:?}");
    }

    #[test]
    fn final_polls_get_at_most_half() {
        let table = [
            ("of one app", vec![(1, 4, 4)], vec![-1, 1, -1, 1, -1, 1, -1, 1]),
            ("of another app", vec![(1, 0, 4), (2, 4, 0)], vec![-1, 2, -1, 2, -1, 2, -1, 2]),
            ("of two apps", vec![(1, 0, 2), (2, 0, 2), (3, 2, 0)], vec![-1, 3, -2, 3, -1, -2]),
            ("of the app that has both", vec![(1, 3, 3), (2, 3, 0)], vec![-1, 2, 1, 2, -1, 2, 1, -1, 1]),
            ("if nothing else waits", vec![(1, 0, 3)], vec![-1, -1, -1]),
        ];
        for (name, apps, expected) in table {
            assert_eq!(started(&mut turns(&apps), 100, 99), expected, "{name}");
        }
    }

    #[test]
    fn an_app_uses_its_share_while_another_has_jobs() {
        let mut turns = turns(&[(1, 20, 0)]);
        assert_eq!(started(&mut turns, 3, 8).len(), 3, "of a few places, an app that is alone uses all");
        turns.add_job(AppNo(2));
        assert_eq!(started(&mut turns, 3, 8), [0; 0]);
        turns.release(AppNo(1));
        turns.release(AppNo(1));
        assert_eq!(started(&mut turns, 3, 8), [1]);
        turns.push(AppNo(2), PollKind::Scheduled, entry(1));
        assert_eq!(started(&mut turns, 3, 8), [2]);
        assert_eq!((turns.in_flight(AppNo(1)), turns.in_flight(AppNo(2))), (2, 1));
        turns.release(AppNo(2));
        turns.remove_job(AppNo(2));
        assert_eq!(started(&mut turns, 3, 1), [1], "alone again");
    }

    #[test]
    fn an_app_that_is_alone_leaves_a_place_for_the_next() {
        let mut turns = turns(&[(1, 20, 0)]);
        assert_eq!(started(&mut turns, 8, 20), [1; 7]);
        turns.add_job(AppNo(2));
        turns.add_job(AppNo(2));
        turns.push(AppNo(2), PollKind::Scheduled, entry(1));
        turns.push(AppNo(2), PollKind::Scheduled, entry(2));
        assert_eq!(started(&mut turns, 8, 20), [2]);
        // The place becomes free for a third app, and not for those that have a poll in flight.
        turns.release(AppNo(1));
        assert_eq!(started(&mut turns, 8, 20), [0; 0]);
        turns.add_job(AppNo(3));
        turns.push(AppNo(3), PollKind::Scheduled, entry(1));
        assert_eq!(started(&mut turns, 8, 20), [3]);
    }

    #[test]
    fn two_apps_with_slow_polls_leave_places_for_two_others() {
        let mut turns = turns(&[(1, 20, 0), (2, 20, 0)]);
        turns.add_job(AppNo(3));
        turns.add_job(AppNo(4));
        assert_eq!(started(&mut turns, 8, 20).len(), 6);
        turns.push(AppNo(3), PollKind::Scheduled, entry(1));
        turns.push(AppNo(4), PollKind::Scheduled, entry(2));
        assert_eq!(started(&mut turns, 8, 20), [3, 4]);
        // An app without jobs needs no place.
        let mut turns = self::turns(&[(1, 20, 0), (2, 20, 0)]);
        turns.add_job(AppNo(3));
        turns.add_job(AppNo(4));
        turns.remove_job(AppNo(4));
        assert_eq!(started(&mut turns, 8, 20).len(), 7);
        // With a single place, the apps take turns.
        let mut turns = self::turns(&[(1, 2, 0), (2, 2, 0)]);
        assert_eq!(
            turns.next(Places { free: 1, share: 1, reserve: 0, spare: 0 }).map(|(app, ..)| app),
            Some(AppNo(1))
        );
        turns.start(AppNo(1), PollKind::Scheduled);
        turns.release(AppNo(1));
        assert_eq!(
            turns.next(Places { free: 1, share: 1, reserve: 0, spare: 0 }).map(|(app, ..)| app),
            Some(AppNo(2))
        );
    }

    #[test]
    fn an_app_without_jobs_leaves_nothing_behind() {
        let mut turns = turns(&[(1, 2, 2)]);
        started(&mut turns, 100, 9);
        for _ in 0..4 {
            turns.release(AppNo(1));
            turns.remove_job(AppNo(1));
        }
        assert!(turns.apps.is_empty() && turns.waiting.is_empty() && turns.scheduled.is_empty());
        assert_eq!((turns.entries, turns.jobs, turns.idle_apps), (0, 0, 0));
    }

    #[test]
    fn stale_polls_do_not_accumulate() {
        let mut turns = turns(&[(1, 1, 0)]);
        for n in 0..1_000 {
            turns.push(AppNo(1), PollKind::Scheduled, entry(n));
            turns.drop_stale(10, |_, (_, job)| job == JobNo(0));
            assert!(turns.entries <= 2 + 10 + 2, "{}", turns.entries);
        }
        let places = Places { free: 1, share: 1, reserve: 0, spare: 0 };
        assert_eq!(turns.next(places), Some((AppNo(1), PollKind::Scheduled, entry(0))));
    }
}
