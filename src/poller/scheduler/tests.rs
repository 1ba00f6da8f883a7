//! The scheduler, with plain timestamps.

use super::*;
use crate::domain::Observation;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const BOUNDS: Bounds = Bounds {
    first: Duration::from_secs(5),
    min_interval: Duration::from_secs(2),
    max_interval: Duration::from_secs(60),
    price: Duration::from_secs(5),
};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + seconds * 1000)
}

/// One credential without a rate.
fn scheduler(start: Timestamp) -> Scheduler {
    limited(start, Limits { spacing: None, burst: 1, concurrency: 100 })
}

fn limited(start: Timestamp, limits: Limits) -> Scheduler {
    Scheduler::new(vec![(BOUNDS, limits)], start)
}

fn terms(expires_at: i64) -> Terms {
    Terms { expires_at: at(expires_at), poll_interval: None, expected_at: None, wants_progress: false }
}

fn facts(job: i64, generation: i64, registered_at: i64, terms: Option<Terms>) -> JobSnapshot {
    JobSnapshot {
        traced: None,
        no: JobNo(job),
        name: JobName {
            provider: "muvi".to_owned(),
            account: "default".to_owned(),
            job_id: format!("job_{job}"),
            params: "{}".to_owned(),
        },
        generation,
        known: Known::new(&Observation::unknown(), at(registered_at)),
        registered_at: at(registered_at),
        watching: u32::from(terms.is_some()),
        terms,
        poll_requested: terms.is_none(),
    }
}

impl Scheduler {
    fn watch(&mut self, facts: JobSnapshot, now: i64) {
        self.apply(PollerMessage::Watch(Box::new(facts)), |_| 0, at(now));
    }

    fn unwatch(&mut self, job: i64, left: Option<Terms>, now: i64) {
        let (job, watching) = (JobNo(job), left.map_or(0, |_| 1));
        self.apply(PollerMessage::WatchersChanged { job, watching, terms: left }, |_| 0, at(now));
    }

    fn poll_now(&mut self, facts: JobSnapshot, now: i64) {
        self.apply(PollerMessage::PollNow(Box::new(facts)), |_| 0, at(now));
    }

    /// A look began at `began` and taught nothing.
    fn nothing_new(&mut self, job: i64, began: i64, now: i64) {
        self.counted(JobNo(job), at(began));
        let generation = self.jobs[&JobNo(job)].generation;
        self.settle(JobNo(job), generation, false, None, at(now));
    }

    fn failed(&mut self, job: i64, began: i64, now: i64) {
        self.counted(JobNo(job), at(began));
        let entry = self.jobs.get_mut(&JobNo(job)).expect("planned");
        entry.rare().failures += 1;
        let generation = entry.generation;
        self.settle(JobNo(job), generation, false, Some(at(now + 1)), at(now));
    }

    fn in_heaps(&self) -> usize {
        self.queues[0].looks.len() + self.queues[0].expiries.len()
    }
}

fn look(job: i64) -> Due {
    Due::Look(JobNo(job))
}

#[test]
fn an_entry_is_small() {
    // There may be a million: with its strings, its box and its places in the heaps about half a KB each.
    assert!(size_of::<Entry>() <= 320, "{}", size_of::<Entry>());
}

#[test]
fn after_a_restart_all_that_is_overdue_is_spread_by_the_rate_with_last_looks_first() {
    let limits = Limits { spacing: Some(SECOND), burst: 1, concurrency: 100 };
    let mut scheduler = limited(at(1000), limits);
    for job in 1..=3 {
        scheduler.load(&facts(job, 0, 0, Some(terms(9_000))), 0, at(1000));
    }
    scheduler.load(&facts(4, 0, 0, Some(terms(900))), 0, at(1000));
    scheduler.load(&facts(5, 0, 999, Some(terms(9_000))), 0, at(1000));
    let (mut now, mut looks) = (at(1000), Vec::new());
    while let Some(next) = scheduler.next(now) {
        if next > at(1020) {
            break;
        }
        assert!(next > now || looks.is_empty(), "no spinning");
        now = next;
        looks.extend(scheduler.due(now).into_iter().map(|due| (due, now.since(at(1000)).as_secs())));
    }
    assert_eq!(looks, [(look(4), 1), (look(1), 2), (look(2), 3), (look(3), 4), (look(5), 5)]);
}

#[test]
fn two_looks_at_a_job_never_overlap() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.next(at(0)), Some(at(5)));
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    scheduler.poll_now(facts(1, 0, 0, None), 6);
    scheduler.watch(facts(1, 0, 0, Some(terms(100))), 6);
    assert_eq!(scheduler.due(at(8_000)), [], "not even for an expiry");
    scheduler.nothing_new(1, 5, 8);
    // What was asked for in between takes effect now.
    assert_eq!(scheduler.due(at(8)), [look(1)]);
}

#[test]
fn the_last_look_is_at_the_expiry_and_ends_what_had_expired_until_it_was_sent() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
    assert_eq!(scheduler.next(at(0)), Some(at(3)));
    assert_eq!(scheduler.due(at(4)), [look(1)]);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(at(4)));
    scheduler.unwatch(1, None, 5);
    scheduler.nothing_new(1, 4, 5);
    assert!(scheduler.jobs.is_empty());
    assert_eq!(scheduler.due(at(999)), []);
}

#[test]
fn a_last_look_that_fails_is_repeated_for_a_minute_and_then_given_up() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
    assert_eq!(scheduler.due(at(3)), [look(1)]);
    let (mut now, mut looks) = (3, 1);
    let given_up = loop {
        scheduler.failed(1, now, now + 1);
        // Somebody else's stop gives it no more time.
        scheduler.unwatch(1, Some(terms(3)), now + 1);
        now = scheduler.next(at(now + 1)).expect("a plan").since(at(0)).as_secs().try_into().expect("small");
        match scheduler.due(at(now))[..] {
            [Due::Look(_)] => looks += 1,
            [give_up @ Due::GiveUp(..), ..] => break give_up,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!((given_up, now), (Due::GiveUp(JobNo(1), at(3)), 63));
    assert!(looks > 3);
}

#[test]
fn nothing_is_given_up_while_a_look_is_in_flight() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
    assert_eq!(scheduler.due(at(3)), [look(1)]);
    scheduler.failed(1, 3, 60);
    assert_eq!(scheduler.due(at(62)), [look(1)]);
    assert_eq!(scheduler.due(at(70)), []);
    scheduler.failed(1, 62, 75);
    assert_eq!(scheduler.due(at(75)), [Due::GiveUp(JobNo(1), at(3))]);
    assert_eq!(scheduler.due(at(75)), [], "once");
}

#[test]
fn behind_an_open_breaker_the_minute_counts_from_the_expiry_or_the_start() {
    let mut scheduler = scheduler(at(100));
    for job in 90..95 {
        scheduler.queues[0].budget.trouble(JobNo(job), at(100));
    }
    scheduler.load(&facts(1, 0, 0, Some(terms(50))), 0, at(100));
    scheduler.load(&facts(2, 0, 0, Some(terms(130))), 0, at(100));
    let mut given_up = Vec::new();
    for now in 100..250 {
        for due in scheduler.due(at(now)) {
            match due {
                Due::Look(JobNo(job)) => scheduler.failed(job, now, now),
                Due::GiveUp(JobNo(job), _) => {
                    given_up.push((job, now));
                    scheduler.unwatch(job, None, now);
                }
            }
        }
    }
    assert_eq!(given_up, [(1, 160), (2, 190)]);
}

#[test]
fn a_newcomer_may_bring_the_next_look_forward_and_never_puts_it_off() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.due(at(100)), [look(1)]);
    scheduler.nothing_new(1, 100, 100);
    let usual = scheduler.next(at(100)).expect("a plan");
    assert!(usual > at(140));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 101);
    assert_eq!(scheduler.next(at(101)), Some(usual));
    let hasty = Terms { poll_interval: Some(10 * SECOND), ..terms(9_000) };
    scheduler.watch(facts(1, 0, 0, Some(hasty)), 102);
    assert_eq!(scheduler.next(at(102)), Some(at(110)));
    let hint = Terms { expected_at: Some(at(106)), ..terms(9_000) };
    scheduler.watch(facts(1, 0, 0, Some(hint)), 103);
    assert_eq!(scheduler.next(at(103)), Some(at(106)));
    // Late, and waiting for the budget: its place is kept.
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 200);
    assert_eq!(scheduler.jobs[&JobNo(1)].due, at(106));
    assert_eq!(scheduler.jobs[&JobNo(1)].watching, 5);
}

#[test]
fn a_newcomer_does_not_shorten_what_the_provider_or_a_failure_has_put_off() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    scheduler.counted(JobNo(1), at(5));
    scheduler.settle(JobNo(1), 0, false, Some(at(500)), at(5));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 6);
    assert_eq!(scheduler.next(at(6)), Some(at(500)));
}

#[test]
fn a_newcomer_that_wants_progress_makes_the_next_look_count() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    let before = scheduler.jobs[&JobNo(1)].known;
    scheduler.watch(facts(1, 0, 0, Some(Terms { wants_progress: true, ..terms(9_000) })), 1);
    assert_ne!(scheduler.jobs[&JobNo(1)].known, before);
}

#[test]
fn a_next_generation_that_came_while_a_look_was_in_flight_is_looked_for_anew() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    scheduler.counted(JobNo(1), at(5));
    scheduler.watch(facts(1, 1, 7, Some(terms(9_000))), 7);
    assert_eq!(scheduler.due(at(7)), []);
    scheduler.settle(JobNo(1), 0, true, None, at(8));
    assert_eq!(scheduler.next(at(8)), Some(at(12)));
    assert_eq!(scheduler.due(at(12)), [look(1)]);
}

#[test]
fn the_stop_of_the_last_watch_while_a_look_is_in_flight_ends_the_plan_with_the_look() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    scheduler.unwatch(1, None, 6);
    assert!(scheduler.looks(JobNo(1)).is_some());
    scheduler.nothing_new(1, 5, 7);
    assert!(scheduler.jobs.is_empty());
    assert_eq!(scheduler.due(at(99_999)), []);
    let looks = scheduler.looks(JobNo(1)).expect("remembered");
    assert_eq!((looks.polls, looks.next_poll_at), (1, None));
}

#[test]
fn a_look_by_hand_at_a_job_that_has_ended_is_made_once() {
    let mut scheduler = scheduler(at(0));
    scheduler.poll_now(facts(1, 0, 0, None), 3);
    scheduler.poll_now(facts(1, 0, 0, None), 4);
    assert_eq!(scheduler.due(at(4)), [look(1)]);
    scheduler.nothing_new(1, 4, 5);
    assert!(scheduler.jobs.is_empty());
    assert_eq!(scheduler.due(at(99)), []);
}

#[test]
fn a_look_by_hand_waits_for_the_least_gap_and_for_nothing_else() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    scheduler.failed(1, 5, 50);
    scheduler.poll_now(facts(1, 0, 0, Some(terms(9_000))), 50);
    assert_eq!(scheduler.due(at(50)), [look(1)]);
    scheduler.nothing_new(1, 50, 50);
    scheduler.poll_now(facts(1, 0, 0, Some(terms(9_000))), 51);
    assert_eq!(scheduler.due(at(51)), []);
    assert_eq!(scheduler.due(at(52)), [look(1)]);
}

#[test]
fn a_look_by_hand_that_came_while_the_end_was_written_is_made_after_it() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(100))), 0);
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    scheduler.counted(JobNo(1), at(5));
    scheduler.poll_now(facts(1, 0, 0, None), 6);
    scheduler.settle(JobNo(1), 0, true, None, at(6));
    assert_eq!(scheduler.due(at(7)), [look(1)]);
    scheduler.nothing_new(1, 7, 8);
    assert!(scheduler.jobs.is_empty());
}

#[test]
fn when_all_is_well_again_what_waited_for_a_backoff_is_due() {
    let mut scheduler = scheduler(at(0));
    for job in 1..=3 {
        scheduler.watch(facts(job, 0, 0, Some(terms(9_000))), 0);
    }
    assert_eq!(scheduler.due(at(5)).len(), 3);
    for job in 1..=2 {
        scheduler.counted(JobNo(job), at(5));
        scheduler.jobs.get_mut(&JobNo(job)).expect("planned").rare().failures = 7;
        scheduler.settle(JobNo(job), 0, false, Some(at(65)), at(5));
    }
    scheduler.nothing_new(3, 5, 6);
    scheduler.recovered(0, at(6));
    assert_eq!(scheduler.due(at(7)), [look(1), look(2)]);
}

#[test]
fn the_place_of_a_look_is_free_when_what_it_brought_is_on_disk() {
    let mut scheduler = limited(at(0), Limits { spacing: None, burst: 1, concurrency: 1 });
    for job in 1..=2 {
        scheduler.watch(facts(job, 0, 0, Some(terms(9_000))), 0);
    }
    assert_eq!(scheduler.due(at(5)), [look(1)]);
    assert_eq!(scheduler.next(at(5)), Some(at(9_000)), "the end of the look asks again");
    scheduler.nothing_new(1, 5, 9);
    assert_eq!(scheduler.due(at(9)), [look(2)]);
}

#[test]
fn a_job_that_is_looked_at_for_long_leaves_no_trail() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000_000))), 0);
    for round in 1..1_000 {
        let now = round * 100;
        assert_eq!(scheduler.due(at(now)), [look(1)]);
        scheduler.nothing_new(1, now, now);
        scheduler.watch(facts(1, 0, 0, Some(terms(9_000_000))), now);
        assert!(scheduler.in_heaps() <= 4, "{}", scheduler.in_heaps());
    }
}

#[test]
fn a_plan_that_holds_no_more_is_dropped_when_it_comes_up() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(50))), 0);
    scheduler.unwatch(1, None, 1);
    scheduler.watch(facts(1, 1, 20, Some(terms(9_000))), 20);
    assert_eq!(scheduler.due(at(24)), []);
    assert_eq!(scheduler.due(at(25)), [look(1)]);
    scheduler.nothing_new(1, 25, 25);
    assert_eq!(scheduler.due(at(50)).len(), 1, "the look that is due, and no last one");
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), None);
}

#[test]
fn a_clock_that_is_set_back_moves_the_plans_with_it() {
    let mut scheduler = limited(at(0), Limits { spacing: Some(SECOND), burst: 1, concurrency: 100 });
    for job in [1, 2] {
        scheduler.watch(facts(job, 1, 0, Some(terms(20_000))), 0);
    }
    scheduler.heed(at(7_200));
    assert_eq!(scheduler.due(at(7_200)), [Due::Look(JobNo(1))]);
    scheduler.nothing_new(1, 7_200, 7_200);
    let next = scheduler.next(at(7_200)).expect("planned");
    // Two hours back: what was to come in a second comes in a second.
    scheduler.heed(at(0));
    assert_eq!(scheduler.next(at(0)).map(|at| at.plus(2 * HOUR)), Some(next));
    assert_eq!(scheduler.due(at(1)), [Due::Look(JobNo(2))]);
    scheduler.nothing_new(2, 1, 1);
    let looks: Vec<Due> = (2..70).flat_map(|second| scheduler.due(at(second))).collect();
    assert!(looks.contains(&Due::Look(JobNo(1))), "{looks:?}");
    // A correction by less than a second moves nothing.
    let next = scheduler.next(at(70));
    scheduler.heed(at(70));
    scheduler.heed(Timestamp::from_millis(at(70).millis() - 999));
    assert_eq!(scheduler.next(at(70)), next);
}

#[test]
fn jobs_that_have_ended_leave_no_trail() {
    let mut scheduler = scheduler(at(0));
    for job in 0..50_000 {
        scheduler.watch(facts(job, 1, 0, Some(terms(1_000_000))), 0);
        scheduler.unwatch(job, None, 0);
    }
    assert!(scheduler.in_heaps() <= 2 * SLACK + 4, "{} entries for no job", scheduler.in_heaps());
    // And one that is changed often leaves none either.
    scheduler.watch(facts(1, 1, 0, Some(terms(1_000_000))), 0);
    for n in 0..50_000 {
        scheduler.unwatch(1, Some(terms(1_000_000 + n)), 0);
    }
    assert!(scheduler.in_heaps() <= 2 * SLACK + 4, "{} entries for one job", scheduler.in_heaps());
}
