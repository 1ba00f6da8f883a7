//! Tests of the scheduler, with plain timestamps.

use std::time::Duration;

use super::queue::SLACK;
use super::*;
use crate::domain::{AppNo, AppsApart, JobName, Known, Limits, Observation, PollPolicy, Rate, Terms};
use crate::poller::budget::FailedPoll;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

const POLICY: PollPolicy = PollPolicy {
    first: Duration::from_secs(5),
    min_interval: Duration::from_secs(2),
    max_interval: Duration::from_secs(60),
    deadline: Duration::from_secs(86_400),
    not_found_grace: Duration::from_secs(60),
    price: Duration::from_secs(5),
};

const EACH_SECOND: Rate = Rate { spacing: Some(SECOND) };

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(1_000_000_000 + seconds * 1000)
}

/// A scheduler with one provider and no rate limit.
fn scheduler(start: Timestamp) -> Scheduler {
    limited(start, Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 100 })
}

fn limited(start: Timestamp, limits: Limits) -> Scheduler {
    let queue = ProviderQueue::new("muvi".to_owned(), POLICY, limits, start);
    Scheduler::new(vec![queue], (POLICY, limits), start)
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
        poll: None,
        app: AppNo(1),
        other_app: None,
        generation,
        known: Known::new(&Observation::default(), &[], at(registered_at)),
        apart: AppsApart::NONE,
        had_status: false,
        registered_at: at(registered_at),
        watching: u32::from(terms.is_some()),
        terms,
        poll_requested: terms.is_none(),
    }
}

impl Scheduler {
    fn watch(&mut self, facts: JobSnapshot, now: i64) {
        self.apply(PollerMessage::Watch(Box::new(facts)), at(now));
    }

    fn unwatch(&mut self, job: i64, left: Option<Terms>, now: i64) {
        self.apply(PollerMessage::WatchersChanged { job: JobNo(job), ended: 1, terms: left }, at(now));
    }

    fn poll_now(&mut self, facts: JobSnapshot, now: i64) {
        self.apply(PollerMessage::PollNow(Box::new(facts)), at(now));
    }

    fn started(&mut self, job: i64, began: i64) -> &mut JobSchedule {
        let found = self.jobs.get_mut(&JobNo(job)).expect("scheduled");
        found.record_start(at(began));
        found
    }

    /// Finishes a poll that started at `began` and learned nothing.
    fn nothing_new(&mut self, job: i64, began: i64, now: i64) {
        let generation = self.started(job, began).generation;
        self.finish(job, generation, false, None, now);
    }

    fn failed(&mut self, job: i64, began: i64, now: i64) {
        let found = self.started(job, began);
        found.rare().failures += 1;
        let generation = found.generation;
        self.backed_off(job, generation, now + 1, now);
    }

    fn finish(&mut self, job: i64, generation: i64, ended: bool, not_before: Option<Timestamp>, now: i64) {
        let poll = made(JobNo(job), generation, ended, (not_before, None));
        self.finish_poll(poll, at(now));
    }

    /// Finishes a poll that failed, with a backoff.
    fn backed_off(&mut self, job: i64, generation: i64, until: i64, now: i64) {
        let (job, backoff_until) = (JobNo(job), Some(at(until)));
        let poll = made(job, generation, false, (None, backoff_until));
        self.finish_poll(poll, at(now));
    }

    fn in_heaps(&self) -> usize {
        self.queues[0].polls.len() + self.queues[0].expiries.len()
    }
}

/// The end of a poll that was made.
fn made(
    job: JobNo,
    generation: i64,
    ended: bool,
    (not_before, backoff_until): (Option<Timestamp>, Option<Timestamp>),
) -> FinishedPoll {
    FinishedPoll { job, generation, ended, repeats_request: false, not_before, backoff_until }
}

fn poll(job: i64) -> Action {
    Action::Poll(JobNo(job))
}

#[test]
fn the_schedule_of_a_job_is_small() {
    // There may be a million jobs. Each takes about half a KB, with its strings, its box and its heap
    // entries.
    assert!(size_of::<JobSchedule>() <= 320, "{}", size_of::<JobSchedule>());
}

#[test]
fn after_a_restart_the_rate_spreads_polls_final_polls_first() {
    let limits = Limits { rate: EACH_SECOND, burst: 1, concurrency: 100 };
    let mut scheduler = limited(at(1000), limits);
    for job in 1..=3 {
        scheduler.load(&facts(job, 0, 0, Some(terms(9_000))), at(1000));
    }
    scheduler.load(&facts(4, 0, 0, Some(terms(900))), at(1000));
    scheduler.load(&facts(5, 0, 999, Some(terms(9_000))), at(1000));
    let (mut now, mut polls) = (at(1000), Vec::new());
    while let Some(next) = scheduler.next_due(now) {
        if next > at(1020) {
            break;
        }
        assert!(next > now || polls.is_empty(), "no spinning");
        now = next;
        polls.extend(scheduler.take_due(now).into_iter().map(|due| (due, now.since(at(1000)).as_secs())));
    }
    assert_eq!(polls, [(poll(4), 1), (poll(1), 2), (poll(2), 3), (poll(3), 4), (poll(5), 5)]);
}

#[test]
fn two_polls_of_a_job_never_overlap() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.next_due(at(0)), Some(at(5)));
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.poll_now(facts(1, 0, 0, None), 6);
    scheduler.watch(facts(1, 0, 0, Some(terms(100))), 6);
    assert_eq!(scheduler.take_due(at(8_000)), [], "not even for an expiry");
    scheduler.nothing_new(1, 5, 8);
    // The poll requested in between takes effect now.
    assert_eq!(scheduler.take_due(at(8)), [poll(1)]);
}

#[test]
fn a_final_poll_at_expiry_ends_what_expired_before_its_start() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
    assert_eq!(scheduler.next_due(at(0)), Some(at(3)));
    assert_eq!(scheduler.take_due(at(4)), [poll(1)]);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(at(4)));
    scheduler.unwatch(1, None, 5);
    scheduler.nothing_new(1, 4, 5);
    assert!(scheduler.jobs.is_empty());
    assert_eq!(scheduler.take_due(at(999)), []);
}

#[test]
fn a_final_poll_that_fails_is_repeated_for_a_minute() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
    assert_eq!(scheduler.take_due(at(3)), [poll(1)]);
    let (mut now, mut polls) = (3, 1);
    let given_up = loop {
        scheduler.failed(1, now, now + 1);
        // The stop of another watch does not extend the time.
        scheduler.unwatch(1, Some(terms(3)), now + 1);
        now = scheduler
            .next_due(at(now + 1))
            .expect("scheduled")
            .since(at(0))
            .as_secs()
            .try_into()
            .expect("small");
        match scheduler.take_due(at(now))[..] {
            [Action::Poll(_)] => polls += 1,
            [give_up @ Action::GiveUp(..), ..] => break give_up,
            ref other => panic!("{other:?}"),
        }
    };
    assert_eq!((given_up, now), (Action::GiveUp(JobNo(1), at(3)), 64), "after the answer of the poll at 63");
    assert!(polls > 3);
}

#[test]
fn the_end_of_the_minute_waits_for_the_turn_of_a_last_poll() {
    for (turn, given_up) in [(66, 67), (1_000, 73)] {
        let mut scheduler = scheduler(at(0));
        scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
        assert_eq!(scheduler.take_due(at(3)), [poll(1)]);
        scheduler.started(1, 3).rare().failures = 1;
        scheduler.finish(1, 0, false, Some(at(63)), 4);
        scheduler.queues[0].budget.rate_limited(Some(Duration::from_secs(turn - 4)), at(4), at(4));
        let mut actions = Vec::new();
        for now in 4..80 {
            for due in scheduler.take_due(at(now)) {
                actions.push((now, due));
                if due == poll(1) {
                    scheduler.failed(1, now, now + 1);
                }
            }
        }
        let first = actions.iter().find(|(_, due)| *due != poll(1));
        assert_eq!(first, Some(&(given_up, Action::GiveUp(JobNo(1), at(3)))), "{actions:?}");
    }
}

#[test]
fn no_watch_is_given_up_while_a_poll_is_in_flight() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(3))), 0);
    assert_eq!(scheduler.take_due(at(3)), [poll(1)]);
    scheduler.failed(1, 3, 60);
    assert_eq!(scheduler.take_due(at(62)), [poll(1)]);
    assert_eq!(scheduler.take_due(at(70)), []);
    scheduler.failed(1, 62, 75);
    assert_eq!(scheduler.take_due(at(75)), [Action::GiveUp(JobNo(1), at(3))]);
    assert_eq!(scheduler.take_due(at(75)), [], "once");
}

#[test]
fn with_an_open_breaker_the_minute_counts_from_expiry_or_start() {
    let mut scheduler = scheduler(at(100));
    for job in 90..95_i64 {
        // One after another.
        let started = at(99).plus(Duration::from_millis(2 * job.unsigned_abs()));
        let poll = FailedPoll { job: JobNo(job), app: AppNo(1), started, is_only_app: true };
        scheduler.queues[0].budget.error(poll, started.plus(Duration::from_millis(1)));
    }
    scheduler.load(&facts(1, 0, 0, Some(terms(50))), at(100));
    scheduler.load(&facts(2, 0, 0, Some(terms(130))), at(100));
    let mut given_up = Vec::new();
    for now in 100..250 {
        for due in scheduler.take_due(at(now)) {
            match due {
                Action::Poll(JobNo(job)) => scheduler.failed(job, now, now),
                Action::GiveUp(JobNo(job), _) => {
                    given_up.push((job, now));
                    scheduler.unwatch(job, None, now);
                }
                Action::EndWithoutResult(job) => panic!("{job:?} has no results"),
                Action::Cancel(_, job, _) => panic!("{job:?} is not to be cancelled"),
            }
        }
    }
    assert_eq!(given_up, [(1, 160), (2, 190)]);
}

#[test]
fn a_clock_that_was_set_back_before_the_start_delays_no_poll() {
    let mut scheduler = scheduler(at(1_000));
    scheduler.load(&facts(1, 0, 8_200, Some(terms(90_000))), at(1_000));
    assert_eq!(scheduler.next_due(at(1_000)), Some(at(1_005)), "as if it were registered now");
    assert_eq!(scheduler.take_due(at(1_005)), [poll(1)]);
    scheduler.nothing_new(1, 1_005, 1_005);
    assert_eq!(scheduler.next_due(at(1_005)), Some(at(1_020)));
}

#[test]
fn a_new_watch_may_advance_the_next_poll_but_never_delays_it() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(100)), [poll(1)]);
    scheduler.nothing_new(1, 100, 100);
    assert!(scheduler.next_due(at(100)) > Some(at(140)));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 101);
    assert_eq!(scheduler.next_due(at(101)), Some(at(106)), "the first poll of its own schedule");
    let hasty = Terms { poll_interval: Some(2 * SECOND), ..terms(9_000) };
    scheduler.watch(facts(1, 0, 0, Some(hasty)), 102);
    assert_eq!(scheduler.next_due(at(102)), Some(at(102)));
    let hint = Terms { expected_at: Some(at(101)), ..terms(9_000) };
    scheduler.watch(facts(1, 0, 0, Some(hint)), 102);
    assert_eq!(scheduler.next_due(at(102)), Some(at(102)), "not before the minimum interval");
    // The poll is late and waits for the budget. It keeps its time.
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 200);
    assert_eq!(scheduler.jobs[&JobNo(1)].poll_at, at(102));
    assert_eq!(scheduler.jobs[&JobNo(1)].watching, 5);
}

#[test]
fn a_new_watch_inherits_no_backoff() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.backed_off(1, 0, 65, 5);
    assert_eq!(scheduler.next_due(at(5)), Some(at(65)));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 6);
    assert_eq!(scheduler.next_due(at(6)), Some(at(11)));
    assert_eq!(scheduler.take_due(at(11)), [poll(1)]);
    // Registered while the poll is in flight.
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 12);
    scheduler.started(1, 11);
    scheduler.backed_off(1, 0, 76, 13);
    assert_eq!(scheduler.take_due(at(17)), [poll(1)]);
    scheduler.started(1, 17);
    scheduler.backed_off(1, 0, 77, 17);
    assert_eq!(scheduler.jobs[&JobNo(1)].poll_at, at(77), "the poll was for that watch");
}

#[test]
fn many_watches_of_a_job_cause_one_poll_for_each_first_interval() {
    let mut scheduler = scheduler(at(0));
    let mut polls = Vec::new();
    for second in 0..61 {
        scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), second);
        if scheduler.take_due(at(second)) == [poll(1)] {
            polls.push(second);
            scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), second);
            scheduler.started(1, second);
            scheduler.backed_off(1, 0, second + 60, second);
        }
    }
    assert_eq!(polls, (1..=12).map(|n| 5 * n).collect::<Vec<_>>());
}

#[test]
fn a_new_watch_does_not_shorten_a_retry_after() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.finish(1, 0, false, Some(at(500)), 5);
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 6);
    assert_eq!(scheduler.next_due(at(6)), Some(at(500)));
}

#[test]
fn a_new_watch_with_progress_makes_the_next_poll_a_change() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    let before = scheduler.jobs[&JobNo(1)].known;
    scheduler.watch(facts(1, 0, 0, Some(Terms { wants_progress: true, ..terms(9_000) })), 1);
    assert_ne!(scheduler.jobs[&JobNo(1)].known, before);
}

#[test]
fn a_new_generation_during_a_poll_gets_its_own_first_poll() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.watch(facts(1, 1, 7, Some(terms(9_000))), 7);
    assert_eq!(scheduler.take_due(at(7)), []);
    scheduler.finish(1, 0, true, None, 8);
    assert_eq!(scheduler.next_due(at(8)), Some(at(12)));
    assert_eq!(scheduler.take_due(at(12)), [poll(1)]);
}

#[test]
fn a_job_without_watches_is_removed_at_the_end_of_its_poll() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.unwatch(1, None, 6);
    assert!(scheduler.stats(JobNo(1), at(6)).is_some());
    scheduler.nothing_new(1, 5, 7);
    assert!(scheduler.jobs.is_empty());
    assert_eq!(scheduler.take_due(at(99_999)), []);
    let stats = scheduler.stats(JobNo(1), at(7)).expect("remembered");
    assert_eq!((stats.polls, stats.next_poll_at), (1, None));
}

#[test]
fn a_requested_poll_of_an_ended_job_is_made_once() {
    let mut scheduler = scheduler(at(0));
    scheduler.poll_now(facts(1, 0, 0, None), 3);
    scheduler.poll_now(facts(1, 0, 0, None), 4);
    assert_eq!(scheduler.take_due(at(4)), [poll(1)]);
    scheduler.nothing_new(1, 4, 5);
    assert!(scheduler.jobs.is_empty());
    assert_eq!(scheduler.take_due(at(99)), []);
}

#[test]
fn a_requested_poll_waits_only_for_the_minimum_interval() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.failed(1, 5, 50);
    scheduler.poll_now(facts(1, 0, 0, Some(terms(9_000))), 50);
    assert_eq!(scheduler.take_due(at(50)), [poll(1)]);
    scheduler.nothing_new(1, 50, 50);
    scheduler.poll_now(facts(1, 0, 0, Some(terms(9_000))), 51);
    assert_eq!(scheduler.take_due(at(51)), []);
    assert_eq!(scheduler.take_due(at(52)), [poll(1)]);
}

#[test]
fn a_poll_requested_while_the_end_is_written_follows_it() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(100))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.poll_now(facts(1, 0, 0, None), 6);
    scheduler.finish(1, 0, true, None, 6);
    assert_eq!(scheduler.take_due(at(7)), [poll(1)]);
    scheduler.nothing_new(1, 7, 8);
    assert!(scheduler.jobs.is_empty());
}

#[test]
fn after_recovery_polls_that_wait_for_a_backoff_are_due() {
    let mut scheduler = scheduler(at(0));
    for job in 1..=3 {
        scheduler.watch(facts(job, 0, 0, Some(terms(9_000))), 0);
    }
    assert_eq!(scheduler.take_due(at(5)).len(), 3);
    for job in 1..=2 {
        scheduler.started(job, 5);
        scheduler.jobs.get_mut(&JobNo(job)).expect("scheduled").rare().failures = 7;
        scheduler.backed_off(job, 0, 65, 5);
    }
    scheduler.nothing_new(3, 5, 6);
    scheduler.clear_backoffs(0, at(6));
    assert_eq!(scheduler.take_due(at(7)), [poll(1), poll(2)]);
}

#[test]
fn a_poll_occupies_its_place_until_its_result_is_committed() {
    let mut scheduler = limited(at(0), Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 1 });
    for job in 1..=2 {
        scheduler.watch(facts(job, 0, 0, Some(terms(9_000))), 0);
    }
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    assert_eq!(scheduler.next_due(at(5)), Some(at(9_000)), "the end of the poll causes the next step");
    scheduler.nothing_new(1, 5, 9);
    assert_eq!(scheduler.take_due(at(9)), [poll(2)]);
}

#[test]
fn the_heaps_do_not_grow_with_the_polls_of_a_job() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000_000))), 0);
    for round in 1..1_000 {
        let now = round * 100;
        assert_eq!(scheduler.take_due(at(now)), [poll(1)]);
        scheduler.nothing_new(1, now, now);
        scheduler.watch(facts(1, 0, 0, Some(terms(9_000_000))), now);
        assert!(scheduler.in_heaps() <= 4, "{}", scheduler.in_heaps());
    }
}

#[test]
fn a_stale_heap_entry_is_dropped_when_it_reaches_the_top() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(50))), 0);
    scheduler.unwatch(1, None, 1);
    scheduler.watch(facts(1, 1, 20, Some(terms(9_000))), 20);
    assert_eq!(scheduler.take_due(at(24)), []);
    assert_eq!(scheduler.take_due(at(25)), [poll(1)]);
    scheduler.nothing_new(1, 25, 25);
    assert_eq!(scheduler.take_due(at(50)).len(), 1, "the poll that is due, and no final poll");
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), None);
}

#[test]
fn a_clock_that_is_set_back_moves_the_schedules_with_it() {
    let mut scheduler = limited(at(0), Limits { rate: EACH_SECOND, burst: 1, concurrency: 100 });
    for job in [1, 2] {
        scheduler.watch(facts(job, 1, 0, Some(terms(20_000))), 0);
    }
    scheduler.follow_clock(at(7_200));
    assert_eq!(scheduler.take_due(at(7_200)), [Action::Poll(JobNo(1))]);
    scheduler.nothing_new(1, 7_200, 7_200);
    let next = scheduler.next_due(at(7_200)).expect("scheduled");
    // Two hours back: a poll due in a second stays due in a second.
    scheduler.follow_clock(at(0));
    assert_eq!(scheduler.next_due(at(0)).map(|at| at.plus(2 * HOUR)), Some(next));
    assert_eq!(scheduler.take_due(at(1)), [Action::Poll(JobNo(2))]);
    scheduler.nothing_new(2, 1, 1);
    let polls: Vec<Action> = (2..70).flat_map(|second| scheduler.take_due(at(second))).collect();
    assert!(polls.contains(&Action::Poll(JobNo(1))), "{polls:?}");
    // A correction by less than a second moves nothing.
    let next = scheduler.next_due(at(70));
    scheduler.follow_clock(at(70));
    scheduler.follow_clock(Timestamp::from_millis(at(70).millis() - 999));
    assert_eq!(scheduler.next_due(at(70)), next);
}

#[test]
fn ended_jobs_leave_no_entries_in_the_heaps() {
    let mut scheduler = scheduler(at(0));
    for job in 0..50_000 {
        scheduler.watch(facts(job, 1, 0, Some(terms(1_000_000))), 0);
        scheduler.unwatch(job, None, 0);
    }
    assert!(scheduler.in_heaps() <= 2 * SLACK + 4, "{} entries for no job", scheduler.in_heaps());
    // A job that changes often leaves none either.
    scheduler.watch(facts(1, 1, 0, Some(terms(1_000_000))), 0);
    for n in 0..50_000 {
        scheduler.unwatch(1, Some(terms(1_000_000 + n)), 0);
    }
    assert!(scheduler.in_heaps() <= 2 * SLACK + 4, "{} entries for one job", scheduler.in_heaps());
}

/// A scheduler whose minimum interval is longer than the time to the first poll.
fn with_long_interval() -> Scheduler {
    let mut scheduler = scheduler(at(0));
    scheduler.queues[0].policy.min_interval = 20 * SECOND;
    scheduler
}

#[test]
fn requested_polls_of_an_ended_job_keep_the_minimum_interval() {
    let (mut scheduler, mut polls) = (scheduler(at(0)), Vec::new());
    for now in 0..10 {
        scheduler.poll_now(facts(1, 0, 0, None), now);
        if scheduler.take_due(at(now)) == [poll(1)] {
            polls.push(now);
            scheduler.nothing_new(1, now, now);
        }
    }
    assert_eq!(polls, [0, 2, 4, 6, 8]);
}

#[test]
fn watches_that_expire_within_the_minimum_interval_share_a_final_poll() {
    let (mut scheduler, mut polls) = (scheduler(at(0)), Vec::new());
    for now in 0..10 {
        scheduler.watch(facts(1, 0, now, Some(terms(now + 1))), now);
        if scheduler.take_due(at(now)) == [poll(1)] {
            polls.push(now);
            assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(at(now)), "for all that have expired");
            scheduler.started(1, now);
            scheduler.unwatch(1, Some(terms(now + 1)), now);
            scheduler.nothing_new(1, now, now);
            let shown = scheduler.stats(JobNo(1), at(now)).and_then(|stats| stats.next_poll_at);
            assert_eq!(shown, Some(at(now + 2)));
        }
    }
    assert_eq!(polls, [1, 3, 5, 7, 9]);
}

#[test]
fn a_watch_that_expires_during_a_poll_waits_for_the_minimum_interval() {
    let mut scheduler = with_long_interval();
    scheduler.watch(facts(1, 0, 0, Some(terms(6))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    assert_eq!(scheduler.take_due(at(6)), []);
    scheduler.nothing_new(1, 5, 7);
    assert_eq!(scheduler.take_due(at(24)), []);
    assert_eq!(scheduler.take_due(at(25)), [poll(1)]);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(at(25)));
}

#[test]
fn a_job_that_is_stopped_and_registered_again_keeps_the_minimum_interval() {
    let (mut scheduler, mut polls) = (with_long_interval(), Vec::new());
    for now in 0..60 {
        if now % 6 == 0 {
            scheduler.watch(facts(1, 0, now, Some(terms(9_000))), now);
        }
        if scheduler.take_due(at(now)) == [poll(1)] {
            polls.push(now);
            scheduler.nothing_new(1, now, now);
        }
        if now % 6 == 5 {
            scheduler.unwatch(1, None, now);
        }
    }
    assert_eq!(polls, [5, 29, 53], "each 5 s after a registration");
}

#[test]
fn a_job_registered_again_after_its_end_keeps_the_minimum_interval() {
    let (mut scheduler, mut polls, mut generation) = (with_long_interval(), Vec::new(), 0);
    for now in 0..60 {
        scheduler.watch(facts(1, generation, now, Some(terms(9_000))), now);
        if scheduler.take_due(at(now)) == [poll(1)] {
            polls.push(now);
            scheduler.started(1, now);
            scheduler.unwatch(1, None, now);
            scheduler.finish(1, generation, true, None, now);
            generation += 1;
        }
    }
    assert_eq!(polls, [5, 25, 45]);
}

#[test]
fn a_generation_that_begins_during_a_poll_keeps_the_minimum_interval() {
    let mut scheduler = with_long_interval();
    scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.watch(facts(1, 1, 6, Some(terms(9_000))), 6);
    scheduler.finish(1, 0, true, None, 7);
    assert_eq!(scheduler.next_due(at(7)), Some(at(25)));
}

#[test]
fn a_requested_poll_that_waits_outlives_a_new_registration() {
    let mut scheduler = scheduler(at(0));
    scheduler.poll_now(facts(1, 0, 0, None), 0);
    assert_eq!(scheduler.take_due(at(0)), [poll(1)]);
    scheduler.nothing_new(1, 0, 0);
    scheduler.poll_now(facts(1, 0, 0, None), 1);
    scheduler.watch(facts(1, 1, 1, Some(terms(9_000))), 1);
    assert_eq!(scheduler.take_due(at(1)), []);
    assert_eq!(scheduler.take_due(at(2)), [poll(1)]);
}

#[test]
fn a_retry_after_outlasts_the_watches_of_the_job() {
    for generation in [0, 1] {
        let mut scheduler = scheduler(at(0));
        scheduler.watch(facts(1, 0, 0, Some(terms(9_000))), 0);
        assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
        scheduler.started(1, 5);
        scheduler.unwatch(1, None, 5);
        scheduler.finish(1, 0, false, Some(at(500)), 5);
        assert!(scheduler.jobs.is_empty());
        scheduler.watch(facts(1, generation, 6, Some(terms(9_000))), 6);
        assert_eq!(scheduler.next_due(at(6)), Some(at(500)));
        // As for a job that is watched all the time, a requested poll waits only for the minimum interval.
        scheduler.poll_now(facts(1, generation, 6, Some(terms(9_000))), 6);
        assert_eq!(scheduler.take_due(at(7)), [poll(1)]);
    }
}

#[test]
fn a_first_final_poll_waits_for_the_retry_after_of_its_job() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(30))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.finish(1, 0, false, Some(at(500)), 5);
    // Also for a watch that is registered, or expires, in the meantime.
    scheduler.watch(facts(1, 0, 0, Some(terms(400))), 40);
    assert_eq!((scheduler.take_due(at(40)), scheduler.next_due(at(40))), (Vec::new(), Some(at(500))));
    assert_eq!(scheduler.take_due(at(499)), []);
    assert_eq!(scheduler.take_due(at(500)), [poll(1)]);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(at(500)), "for all that have expired");
}

#[test]
fn a_requested_poll_after_the_expiry_is_the_final_one() {
    let mut scheduler = scheduler(at(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(30))), 0);
    assert_eq!(scheduler.take_due(at(5)), [poll(1)]);
    scheduler.started(1, 5);
    scheduler.finish(1, 0, false, Some(at(500)), 5);
    scheduler.poll_now(facts(1, 0, 0, Some(terms(30))), 40);
    assert_eq!(scheduler.take_due(at(40)), [poll(1)]);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(at(40)));
}

#[test]
fn after_recovery_a_job_still_waits_for_its_own_retry_after() {
    // The poll of job 1 is a scheduled one, and that of job 2 the final one.
    let mut scheduler = scheduler(at(0));
    for (job, expires_at) in [(1, 9_000), (2, 30)] {
        scheduler.watch(facts(job, 0, 0, Some(terms(expires_at))), 0);
    }
    assert_eq!(scheduler.take_due(at(5)), [poll(1), poll(2)]);
    for job in [1, 2] {
        scheduler.started(job, 5).rare().failures = 7;
        scheduler.finish(job, 0, false, Some(at(500)), 5);
    }
    scheduler.clear_backoffs(0, at(40));
    assert_eq!(scheduler.take_due(at(499)), []);
    assert_eq!(scheduler.take_due(at(500)).len(), 2);
    assert_eq!(scheduler.jobs[&JobNo(2)].cutoff(), Some(at(500)));
}

#[test]
fn the_minimum_interval_of_a_job_that_left_moves_with_the_clock() {
    let mut scheduler = scheduler(at(0));
    scheduler.follow_clock(at(7_200));
    scheduler.poll_now(facts(1, 0, 0, None), 7_200);
    assert_eq!(scheduler.take_due(at(7_200)), [poll(1)]);
    scheduler.nothing_new(1, 7_200, 7_200);
    // Once while the job is gone, and once while it waits.
    scheduler.follow_clock(at(3_600));
    scheduler.poll_now(facts(1, 0, 0, None), 3_600);
    scheduler.follow_clock(at(0));
    assert_eq!(scheduler.take_due(at(1)), []);
    assert_eq!(scheduler.take_due(at(2)), [poll(1)]);
}

#[test]
fn only_polls_of_the_last_minimum_interval_are_remembered() {
    let mut scheduler = scheduler(at(0));
    for now in 0..5_000 {
        scheduler.poll_now(facts(now, 0, 0, None), now);
        assert_eq!(scheduler.take_due(at(now)), [poll(now)]);
        scheduler.nothing_new(now, now, now);
    }
    assert!(scheduler.recent_polls.len() <= SLACK, "{}", scheduler.recent_polls.len());
    assert_eq!(scheduler.take_due(at(5_001)), []);
    assert_eq!(scheduler.recent_polls.len(), 0);
}

#[test]
fn a_clock_that_is_ahead_ends_no_watch_before_its_time() {
    let moment = |seconds| Moment::default().plus(Duration::from_secs(seconds));
    for is_held_back in [false, true] {
        let mut scheduler = scheduler(at(0));
        scheduler.judge_clock(at(0), moment(0));
        for job in 1..=10 {
            scheduler.watch(facts(job, 0, 0, Some(terms(600))), 0);
        }
        if is_held_back {
            scheduler.queues[0].budget.unauthorized(at(1), at(1));
        }
        // Ahead by a month for a minute. Polls are made meanwhile, and they find nothing new.
        let month = 30 * 86_400;
        for second in 2..62 {
            scheduler.judge_clock(at(month + second), moment(second.unsigned_abs()));
            for action in scheduler.take_due(at(month + second)) {
                let Action::Poll(job) = action else { panic!("{action:?} at {second}") };
                assert_eq!(scheduler.jobs[&job].cutoff(), None, "not a final poll");
                scheduler.nothing_new(job.0, month + second, month + second);
            }
            let next = scheduler.next_due(at(month + second)).expect("scheduled");
            assert!(is_held_back || next > at(month + second), "the poller rests");
        }
        // Corrected: the watches expire at their time.
        scheduler.follow_clock(at(month + 62));
        scheduler.follow_clock(at(62));
        scheduler.judge_clock(at(62), moment(62));
        assert!(scheduler.next_due(at(62)).is_some_and(|next| next <= at(600)));
        scheduler.judge_clock(at(600), moment(600));
        let mut due = scheduler.take_due(at(600));
        due.retain(|action| matches!(action, Action::Poll(job) if scheduler.jobs[job].cutoff().is_some()));
        assert_eq!(due.len(), if is_held_back { 1 } else { 10 }, "one probe, or all");
    }
}

#[test]
fn a_clock_that_stays_ahead_is_trusted_after_15_minutes() {
    let moment = |seconds| Moment::default().plus(Duration::from_secs(seconds));
    let mut scheduler = scheduler(at(0));
    scheduler.judge_clock(at(0), moment(0));
    scheduler.watch(facts(1, 0, 0, Some(terms(7_000))), 0);
    scheduler.judge_clock(at(7_200), moment(1));
    assert_eq!(scheduler.take_due(at(7_200)), [poll(1)]);
    scheduler.nothing_new(1, 7_200, 7_200);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), None);
    let mut now = at(7_200);
    while now < at(7_200 + 899) {
        scheduler.judge_clock(now, moment(now.since(at(7_199)).as_secs()));
        for _ in scheduler.take_due(now) {
            let second = now.since(at(0)).as_secs().try_into().expect("small");
            scheduler.nothing_new(1, second, second);
        }
        assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), None, "at {now}");
        let next = scheduler.next_due(now).expect("scheduled");
        assert!(next > now && next <= at(7_200 + 900), "the end of the doubt is a step: {next} after {now}");
        now = next;
    }
    scheduler.judge_clock(now, moment(now.since(at(7_199)).as_secs()));
    assert_eq!(scheduler.take_due(now), [poll(1)]);
    assert_eq!(scheduler.jobs[&JobNo(1)].cutoff(), Some(now));
}
