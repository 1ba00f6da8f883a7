//! Deliveries: pages, results of attempts, and manual retries.

use std::time::Duration;

use ringback::domain::{
    CancelScope, DeliveryStatus, DispatcherMessage, EndingKind, NextStep, PendingDelivery, Reason, Timestamp,
};
use ringback::store::{
    DeliveryFilter, Idempotent, LoadDueDeliveries, NoteRunning, NotifyWatches, PostponeDelivery,
    RegisterMany, RescheduleRetries, RetryDelivery, RetryRefusal,
};

use super::{StoreFixture, app, at, ended, observed, take_deliveries};

async fn retry_delivery(
    fixture: &StoreFixture,
    send: &PendingDelivery,
    seconds: u64,
) -> Result<(), RetryRefusal> {
    let retry_delivery = RetryDelivery { app: fixture.app, delivery: send.id, now: at(seconds) };
    fixture.store.retry_delivery(retry_delivery).await.expect("taken").expect("a request without a key")
}

fn ids(deliveries: &[PendingDelivery]) -> Vec<ringback::domain::DeliveryId> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[tokio::test]
async fn a_successful_delivery_is_not_sent_again() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    fixture.record(&send, NextStep::Succeeded).await;
    let (delivery, attempts) = fixture.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Succeeded, None));
    assert_eq!(attempts, [super::attempt()]);
    assert!(fixture.page(at(999), 10, &[]).await.deliveries.is_empty());
    assert!(fixture.store.destination_queues(10).await.expect("read").queues.is_empty());
}

#[tokio::test]
async fn a_retry_is_loaded_when_due_with_the_same_bytes() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    fixture.record(&send, NextStep::Retry { step: 1, due_at: at(100), waited: Duration::ZERO }).await;
    let fixture = fixture.reopen(at(80)).await;
    assert_eq!(
        fixture.store.destination_queues(10).await.expect("read").queues,
        [(send.destination.queue.clone(), at(100))]
    );
    let early = fixture.page(at(99), 10, &[]).await;
    assert!(early.deliveries.is_empty() && !early.has_more);
    assert_eq!(early.next_retry_at, Some(at(100)));
    let due = fixture.page(at(100), 10, &[]).await;
    let [again] = &due.deliveries[..] else { panic!("{due:?}") };
    assert_eq!((again.id, again.event, &again.body), (send.id, send.event, &send.body));
    assert_eq!((again.step, again.attempts, again.manual), (1, 1, false));
    assert_eq!(again.destination, send.destination);
}

#[tokio::test]
async fn waiting_queues_are_found_in_turns_of_apps_and_hosts() {
    let fixture = StoreFixture::new().await;
    let (one, two) = (fixture.app, app(&fixture.store, "other").await);
    let mut queues = Vec::new();
    // Each is due a second after the one before.
    for (n, (app, host)) in
        (0_u64..).zip([(one, "a"), (one, "a"), (one, "a"), (one, "b"), (two, "a"), (two, "a")])
    {
        let due_at = at(60 + n);
        let mut watch = fixture.watch(&format!("job_{n}"));
        watch.app = app;
        watch.destinations[0].queue = format!("{} https://{host}.example:443 {n:016x}", app.0);
        queues.push((watch.destinations[0].queue.clone(), due_at));
        let watch = fixture.register(watch).await;
        let end = ended(watch.job_no, 0, EndingKind::Completed, due_at);
        fixture.store.end_job(end).await.expect("ended");
    }
    let fair: Vec<_> = [0, 4, 3, 5, 1, 2].map(|n: usize| queues[n].clone()).into();
    for (limit, others_at) in [(1, Some(61)), (2, Some(61)), (4, Some(61)), (5, Some(62)), (6, None)] {
        let found = fixture.store.destination_queues(limit).await.expect("read");
        assert_eq!((found.queues, found.others_at), (fair[..limit].to_vec(), others_at.map(at)), "{limit}");
    }
}

#[tokio::test]
async fn time_without_a_running_process_is_not_counted() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    let (store, hour) = (&fixture.store, 3_600);
    let note = async |is_start, seconds| {
        store.note_running(NoteRunning { is_start, now: at(seconds) }).await.expect("noted");
    };
    let waited = async || {
        let due = fixture.page(at(1_000_000), 10, &[]).await;
        let [again] = &due.deliveries[..] else { panic!("{due:?}") };
        again.waited.as_secs()
    };
    // The second wait is a day, from 61 s on, after 1 h.
    let waits = Duration::from_secs(25 * hour);
    fixture.record(&send, NextStep::Retry { step: 2, due_at: at(24 * hour), waited: waits }).await;
    // Each start notes that the process runs.
    let started = async |seconds| {
        note(true, seconds).await;
        waited().await
    };
    note(false, 2 * hour).await;
    assert_eq!(started(2 * hour + 120).await, 25 * hour, "a short interruption");
    assert_eq!(started(5 * hour + 120).await, 22 * hour, "three hours");
    assert_eq!(started(5 * hour + 120).await, 22 * hour, "it was repeated");
    note(false, 20 * hour).await;
    assert_eq!(started(30 * hour).await, 18 * hour, "until the wait ended");
    assert_eq!(started(90 * hour).await, 18 * hour, "nothing counts after it");
    note(false, 1_000).await;
    assert_eq!(started(5 * hour).await, 16 * hour + 880, "the clock was set back: no moment counts twice");
}

#[tokio::test]
async fn first_attempts_precede_retries_without_loaded_ones() {
    let fixture = StoreFixture::new().await;
    let retried = fixture.delivery("job_0").await;
    fixture.record(&retried, NextStep::Retry { step: 1, due_at: at(61), waited: Duration::ZERO }).await;
    let mut first = Vec::new();
    for n in 1..=5 {
        first.push(fixture.delivery(&format!("job_{n}")).await.id);
    }
    let page = fixture.page(at(100), 3, &[]).await;
    assert_eq!((ids(&page.deliveries), page.has_more), (first[..3].to_vec(), true));
    let page = fixture.page(at(100), 3, &first[..3]).await;
    let mut rest = first[3..].to_vec();
    rest.push(retried.id);
    assert_eq!((ids(&page.deliveries), page.has_more), (rest.clone(), false));
    let page = fixture.page(at(100), 3, &[&first[..], &[retried.id]].concat()).await;
    assert!(page.deliveries.is_empty() && !page.has_more);
    // A clock that was set back does not delay first attempts.
    assert_eq!(ids(&fixture.page(at(0), 9, &[]).await.deliveries), first);
}

/// Reschedules what waits. Returns the numbers of deliveries and of steps.
async fn rescheduled(fixture: &StoreFixture, now: Timestamp) -> (usize, usize) {
    let mut step = RescheduleRetries::new(vec![Duration::from_secs(5)], now);
    let (mut count, mut steps) = (0, 0);
    loop {
        let done = fixture.store.reschedule_retries(step.clone()).await.expect("taken");
        (count, steps) = (count + done.count, steps + 1);
        let Some(next) = done.next else { return (count, steps) };
        step.after = next;
    }
}

#[tokio::test]
async fn a_retry_is_rescheduled_after_the_clock_was_set_back() {
    // During an outage, a retry can follow that uses no place of the schedule.
    for step in [0, 1] {
        let fixture = StoreFixture::new().await;
        let send = fixture.delivery("job_1").await;
        fixture.record(&send, NextStep::Retry { step, due_at: at(100_000), waited: Duration::ZERO }).await;
        let tried_at = super::attempt().at;
        assert_eq!(rescheduled(&fixture, tried_at).await, (0, 1));
        let before = tried_at.minus(Duration::from_secs(10));
        assert_eq!(rescheduled(&fixture, before).await, (1, 1));
        let page = fixture.page(before, 10, &[]).await;
        assert_eq!(page.next_retry_at, Some(before.plus(Duration::from_secs(5))), "step {step}");
    }
}

#[tokio::test]
async fn a_first_attempt_is_due_after_the_clock_was_set_back() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    let queues = async || fixture.store.destination_queues(10).await.expect("read").queues;
    assert_eq!(queues().await, [(send.destination.queue.clone(), at(60))]);
    assert_eq!(rescheduled(&fixture, at(0)).await, (1, 1));
    assert_eq!(queues().await, [(send.destination.queue, at(0))]);
}

#[tokio::test]
async fn a_delivery_that_was_committed_meanwhile_is_not_rescheduled() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    assert_eq!(rescheduled(&fixture, at(57)).await, (0, 1), "a first attempt that is due at 60");
    fixture.record(&send, NextStep::Retry { step: 1, due_at: at(100_000), waited: Duration::ZERO }).await;
    let tried_at = super::attempt().at;
    assert_eq!(rescheduled(&fixture, tried_at.minus(Duration::from_secs(3))).await, (0, 1), "a retry");
}

#[tokio::test]
async fn many_waiting_deliveries_are_rescheduled_in_steps() {
    let fixture = StoreFixture::new().await;
    let watches = (0..1_000).map(|_| fixture.watch("job_1")).collect();
    let many = Idempotent::new(RegisterMany(watches), None, |_: &Vec<_>| None);
    let made = fixture.store.register_many(many).await.expect("taken").expect("new").expect("registered");
    let job = made[0].as_ref().expect("registered").job_no;
    fixture.register(fixture.watch("job_1")).await;
    fixture.end(job, 0).await;
    while fixture.store.notify_watches(NotifyWatches { job, generation: 0 }).await.expect("notified") {}
    assert_eq!(fixture.count("deliveries where next_attempt_at is not null"), 1_001);
    let late = format!("deliveries where next_attempt_at > {}", at(0).millis());
    assert_eq!(fixture.count(&late), 1_001);
    // Those that move are at earlier positions then.
    assert_eq!(rescheduled(&fixture, at(0)).await, (1_001, 2));
    assert_eq!(fixture.count(&late), 0);
}

#[tokio::test]
async fn a_failed_delivery_has_a_reason() {
    let fixture = StoreFixture::new().await;
    for reason in [Reason::Exhausted, Reason::Refused, Reason::Gone] {
        let send = fixture.delivery(reason.as_str()).await;
        fixture.record(&send, NextStep::Failed(reason)).await;
        let (delivery, attempts) = fixture.shown_delivery(send.id).await;
        assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Failed, Some(reason)));
        assert_eq!((delivery.next_attempt_at, attempts.len()), (None, 1));
    }
}

#[tokio::test]
async fn later_deliveries_to_a_gone_destination_are_skipped() {
    let fixture = StoreFixture::new().await;
    let mut watch = fixture.follower("job_1");
    watch.destinations = vec![fixture.destination("a.example"), fixture.destination("b.example")];
    let gone = watch.destinations[0].id;
    let watch = fixture.register(watch).await;
    fixture.store.record_observation(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    let sent = take_deliveries(&fixture.store);
    assert_eq!(sent.len(), 4);
    let first = sent.iter().find(|send| send.destination.id == gone).expect("one to it");
    fixture.record(first, NextStep::Failed(Reason::Gone)).await;
    let off = DispatcherMessage::Skip { watch: watch.id, which: CancelScope::To(gone) };
    let messages = fixture.store.dispatcher_messages().take();
    assert_eq!(format!("{messages:?}"), format!("{:?}", [off]), "loaded deliveries are skipped too");
    for send in &sent {
        let (delivery, _) = fixture.shown_delivery(send.id).await;
        let expected = match (send.id == first.id, send.destination.id == gone) {
            (true, _) => (DeliveryStatus::Failed, Some(Reason::Gone)),
            (false, true) => (DeliveryStatus::Skipped, Some(Reason::Gone)),
            (false, false) => (DeliveryStatus::Pending, None),
        };
        assert_eq!((delivery.status, delivery.reason), expected);
    }
    fixture.end(watch.job_no, 0).await;
    let ending: Vec<_> =
        take_deliveries(&fixture.store).into_iter().map(|send| send.destination.id).collect();
    assert_eq!(ending, [watch.destinations[1].0.id]);
}

#[tokio::test]
async fn an_attempt_in_flight_at_a_stop_is_recorded() {
    let fixture = StoreFixture::new().await;
    for (job, after, status) in [
        ("job_1", NextStep::Succeeded, DeliveryStatus::Succeeded),
        (
            "job_2",
            NextStep::Retry { step: 1, due_at: at(100), waited: Duration::ZERO },
            DeliveryStatus::Skipped,
        ),
        ("job_3", NextStep::Failed(Reason::Exhausted), DeliveryStatus::Skipped),
    ] {
        let send = fixture.delivery(job).await;
        fixture.stop(send.watch).await;
        fixture.record(&send, after).await;
        let (delivery, attempts) = fixture.shown_delivery(send.id).await;
        assert_eq!((delivery.status, attempts.len()), (status, 1), "{job}");
        let reason = (status == DeliveryStatus::Skipped).then_some(Reason::Stopped);
        assert_eq!((delivery.reason, delivery.next_attempt_at), (reason, None));
    }
    assert!(fixture.page(at(999), 10, &[]).await.deliveries.is_empty());
}

#[tokio::test]
async fn a_failed_manual_retry_keeps_the_status() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    fixture.record(&send, NextStep::Failed(Reason::Exhausted)).await;
    assert!(retry_delivery(&fixture, &send, 80).await.is_ok());
    let messages = take_deliveries(&fixture.store);
    assert!(messages.len() == 1 && messages[0].manual && messages[0].attempts == 1);
    assert_eq!(ids(&fixture.page(at(80), 10, &[]).await.deliveries), [send.id], "it outlives a crash");
    fixture.record(&send, NextStep::Unchanged).await;
    let (delivery, attempts) = fixture.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Failed, Some(Reason::Exhausted)));
    assert_eq!((delivery.next_attempt_at, attempts.len()), (None, 2));
    retry_delivery(&fixture, &send, 90).await.expect("accepted");
    fixture.record(&send, NextStep::Succeeded).await;
    assert_eq!(fixture.shown_delivery(send.id).await.0.status, DeliveryStatus::Succeeded);
}

#[tokio::test]
async fn a_manual_retry_of_a_pending_delivery_keeps_its_schedule() {
    let fixture = StoreFixture::new().await;
    let send = fixture.delivery("job_1").await;
    fixture.record(&send, NextStep::Retry { step: 2, due_at: at(500), waited: Duration::ZERO }).await;
    retry_delivery(&fixture, &send, 80).await.expect("accepted");
    let [now] = &fixture.page(at(80), 10, &[]).await.deliveries[..] else { panic!("due now") };
    assert!(now.manual);
    fixture.record(&send, NextStep::Unchanged).await;
    let page = fixture.page(at(80), 10, &[]).await;
    assert!(page.deliveries.is_empty());
    assert_eq!(page.next_retry_at, Some(at(500)));
    assert_eq!(fixture.page(at(500), 10, &[]).await.deliveries[0].step, 2);
}

#[tokio::test]
async fn a_manual_retry_requested_in_flight_follows_the_attempt() {
    let fixture = StoreFixture::new().await;
    for (job, after) in [
        ("job_1", NextStep::Retry { step: 1, due_at: at(500), waited: Duration::ZERO }),
        ("job_2", NextStep::Failed(Reason::Exhausted)),
    ] {
        let send = fixture.delivery(job).await;
        retry_delivery(&fixture, &send, 80).await.expect("accepted");
        fixture.record(&send, after).await;
        let page = fixture.page(at(80), 10, &[]).await;
        assert_eq!(ids(&page.deliveries), [send.id], "{job}");
        assert!(page.deliveries[0].manual);
        fixture.record(&send, NextStep::Succeeded).await;
    }
}

#[tokio::test]
async fn a_stop_cancels_manual_retries_and_refuses_new_ones() {
    let fixture = StoreFixture::new().await;
    let done = fixture.delivery("job_1").await;
    fixture.record(&done, NextStep::Failed(Reason::Exhausted)).await;
    retry_delivery(&fixture, &done, 80).await.expect("accepted");
    fixture.stop(done.watch).await;
    fixture.record(&done, NextStep::Unchanged).await;
    assert!(fixture.page(at(999), 10, &[]).await.deliveries.is_empty());
    let pending = fixture.delivery("job_2").await;
    fixture.stop(pending.watch).await;
    assert!(matches!(retry_delivery(&fixture, &pending, 90).await, Err(RetryRefusal::Stopped)));
    let unknown =
        RetryDelivery { app: super::app(&fixture.store, "other").await, delivery: pending.id, now: at(90) };
    assert!(matches!(
        fixture.store.retry_delivery(unknown).await.expect("answered"),
        Ok(Err(RetryRefusal::NotFound))
    ));
}

#[tokio::test]
async fn a_skipped_delivery_can_be_retried_manually() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.follower("job_1")).await;
    fixture.store.record_observation(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    let send = take_deliveries(&fixture.store).remove(0);
    fixture.end(watch.job_no, 0).await;
    assert_eq!(fixture.shown_delivery(send.id).await.0.status, DeliveryStatus::Skipped);
    assert!(retry_delivery(&fixture, &send, 80).await.is_ok());
    fixture.record(&send, NextStep::Unchanged).await;
    let (delivery, _) = fixture.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Skipped, Some(Reason::Superseded)));
    retry_delivery(&fixture, &send, 90).await.expect("accepted");
    fixture.record(&send, NextStep::Succeeded).await;
    let (delivery, _) = fixture.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Succeeded, None));
}

#[tokio::test]
async fn a_delivery_that_is_pending_for_too_long_ends() {
    let fixture = StoreFixture::new().await;
    let store = &fixture.store;
    let most = Duration::from_secs(1_000);
    // Notes every 100 s that the process runs.
    let run = async |from: u64, to: u64| {
        for seconds in (from..=to).step_by(100) {
            store.note_running(NoteRunning { is_start: false, now: at(seconds) }).await.expect("noted");
        }
    };
    run(60, 60).await;
    let held = fixture.delivery("job_1").await;
    let retried = fixture.delivery("job_2").await;
    let done = fixture.delivery("job_3").await;
    fixture.record(&done, NextStep::Succeeded).await;
    run(160, 460).await;
    // The process does not run for hours.
    assert_eq!(fixture.end_overdue(most, at(10_000)).await, 0, "before the first note");
    store.note_running(NoteRunning { is_start: false, now: at(10_000) }).await.expect("noted");
    run(10_100, 10_500).await;
    assert_eq!(fixture.end_overdue(most, at(10_500)).await, 0, "after 900 s of running");
    assert!(retry_delivery(&fixture, &retried, 10_600).await.is_ok());
    run(10_600, 10_700).await;
    assert_eq!(fixture.end_overdue(most, at(10_700)).await, 1, "a manual retry waits");
    let (delivery, attempts) = fixture.shown_delivery(held.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Failed, Some(Reason::Exhausted)));
    assert_eq!((delivery.next_attempt_at, attempts.len()), (None, 0));
    assert_eq!(ids(&fixture.page(at(20_000), 9, &[]).await.deliveries), [retried.id]);
    run(10_800, 11_700).await;
    assert_eq!(fixture.end_overdue(most, at(11_700)).await, 1);
    assert_eq!(fixture.shown_delivery(done.id).await.0.status, DeliveryStatus::Succeeded);
    // An attempt that was in flight counts.
    fixture.record(&retried, NextStep::Succeeded).await;
    assert_eq!(fixture.shown_delivery(retried.id).await.0.status, DeliveryStatus::Succeeded);
    assert!(retry_delivery(&fixture, &held, 11_800).await.is_ok());
}

#[tokio::test]
async fn no_delivery_of_a_stopped_watch_is_retried() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.follower("job_1")).await;
    fixture.store.record_observation(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    let sent = take_deliveries(&fixture.store).pop().expect("a delivery");
    fixture.record(&sent, NextStep::Failed(Reason::Exhausted)).await;
    fixture.stop(watch.id).await;
    assert_eq!(retry_delivery(&fixture, &sent, 40).await, Err(RetryRefusal::Stopped));
    let filter = DeliveryFilter { statuses: vec![DeliveryStatus::Failed], ..DeliveryFilter::default() };
    assert_eq!(fixture.store.count_retried(fixture.app, &filter).await.expect("read"), 0);
    assert!(fixture.page(at(50), 9, &[]).await.deliveries.is_empty());
}

#[tokio::test]
async fn a_page_may_begin_with_retries() {
    let fixture = StoreFixture::new().await;
    let retried = fixture.delivery("job_0").await;
    fixture.record(&retried, NextStep::Retry { step: 1, due_at: at(61), waited: Duration::ZERO }).await;
    let first = fixture.delivery("job_1").await;
    for (retries_first, expected) in [(true, retried.id), (false, first.id)] {
        let (queue, now) = (first.destination.queue.clone(), at(100));
        let page = LoadDueDeliveries { queue, now, limit: 1, loaded: Vec::new(), retries_first };
        let page = fixture.store.load_due_deliveries(page).await.expect("a page");
        assert_eq!((ids(&page.deliveries), page.has_more), (vec![expected], true));
    }
}

#[tokio::test]
async fn a_late_reply_postpones_every_kind_of_attempt() {
    let fixture = StoreFixture::new().await;
    let postpone = async |send: &PendingDelivery, manual, before| {
        let (app, delivery, due_at) = (fixture.app, send.id, at(4_000));
        let (step, waited) = (1, Duration::from_secs(5));
        let command = PostponeDelivery { app, delivery, manual, before, step, due_at, waited, now: at(400) };
        fixture.store.postpone_delivery(command).await.expect("postponed");
        fixture.shown_delivery(send.id).await.0.next_attempt_at
    };
    let due = async || ids(&fixture.page(at(100), 9, &[]).await.deliveries);
    let scheduled = fixture.delivery("job_1").await;
    assert_eq!((postpone(&scheduled, false, 0).await, due().await), (Some(at(4_000)), vec![]));
    // A manual retry of a pending delivery does not bring its schedule forward.
    let manual = fixture.delivery("job_2").await;
    assert!(retry_delivery(&fixture, &manual, 80).await.is_ok());
    assert_eq!(postpone(&manual, false, 0).await, Some(at(80)), "a retry that was requested meanwhile");
    assert_eq!((postpone(&manual, true, 0).await, due().await), (Some(at(4_000)), vec![]));
    // One of a delivery that has ended is not repeated.
    let failed = fixture.delivery("job_3").await;
    fixture.record(&failed, NextStep::Failed(Reason::Exhausted)).await;
    assert!(retry_delivery(&fixture, &failed, 80).await.is_ok());
    assert_eq!((postpone(&failed, true, 1).await, due().await), (None, vec![]));
    // The record of the attempt replaces the postponement.
    fixture.record(&PendingDelivery { manual: true, ..*manual.clone() }, NextStep::Unchanged).await;
    assert_eq!(fixture.shown_delivery(manual.id).await.0.next_attempt_at, Some(at(60)));
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_with_filters_and_a_cursor() {
    let fixture = StoreFixture::new().await;
    let mut all = Vec::new();
    for n in 0..6 {
        all.insert(0, fixture.delivery(&format!("job_{n}")).await);
    }
    fixture.record(&all[0], NextStep::Succeeded).await;
    fixture.record(&all[1], NextStep::Failed(Reason::Exhausted)).await;
    fixture.stop(all[2].watch).await;
    let list = async |filter| {
        let found = fixture.store.deliveries(fixture.app, filter, 4).await.expect("read");
        found.rows.into_iter().map(|delivery| delivery.id).collect::<Vec<_>>()
    };
    let expected: Vec<_> = all.iter().map(|send| send.id).collect();
    let by = DeliveryFilter::default;
    assert_eq!(list(by()).await, expected[..4]);
    assert_eq!(list(DeliveryFilter { before: Some(expected[3]), ..by() }).await, expected[4..]);
    for (status, ids) in [
        (DeliveryStatus::Succeeded, &expected[..1]),
        (DeliveryStatus::Failed, &expected[1..2]),
        (DeliveryStatus::Skipped, &expected[2..3]),
        (DeliveryStatus::Pending, &expected[3..]),
    ] {
        assert_eq!(list(DeliveryFilter { statuses: vec![status], ..by() }).await, ids);
    }
    assert_eq!(list(DeliveryFilter { watch: Some(all[2].watch), ..by() }).await, expected[2..3]);
    let to = Some(all[3].destination.id);
    assert_eq!(list(DeliveryFilter { destination: to, ..by() }).await, expected[3..4]);
    assert!(list(DeliveryFilter { since: Some(at(61)), ..by() }).await.is_empty());
    assert_eq!(list(DeliveryFilter { since: Some(at(60)), until: Some(at(61)), ..by() }).await.len(), 4);
    assert!(list(DeliveryFilter { until: Some(at(60)), ..by() }).await.is_empty());
}

crate::postgres::on_postgres_too! {
    a_successful_delivery_is_not_sent_again,
    a_retry_is_loaded_when_due_with_the_same_bytes,
    waiting_queues_are_found_in_turns_of_apps_and_hosts,
    time_without_a_running_process_is_not_counted,
    first_attempts_precede_retries_without_loaded_ones,
    a_retry_is_rescheduled_after_the_clock_was_set_back,
    a_first_attempt_is_due_after_the_clock_was_set_back,
    a_delivery_that_was_committed_meanwhile_is_not_rescheduled,
    many_waiting_deliveries_are_rescheduled_in_steps,
    a_failed_delivery_has_a_reason,
    later_deliveries_to_a_gone_destination_are_skipped,
    an_attempt_in_flight_at_a_stop_is_recorded,
    a_failed_manual_retry_keeps_the_status,
    a_manual_retry_of_a_pending_delivery_keeps_its_schedule,
    a_manual_retry_requested_in_flight_follows_the_attempt,
    a_stop_cancels_manual_retries_and_refuses_new_ones,
    a_skipped_delivery_can_be_retried_manually,
    a_delivery_that_is_pending_for_too_long_ends,
    no_delivery_of_a_stopped_watch_is_retried,
    a_page_may_begin_with_retries,
    a_late_reply_postpones_every_kind_of_attempt,
    deliveries_are_listed_newest_first_with_filters_and_a_cursor,
}
