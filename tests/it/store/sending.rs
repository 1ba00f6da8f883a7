//! Deliveries: pages, outcomes, tries by hand.

use std::time::Duration;

use ringback::domain::{CancelScope, DeliveryStatus, DispatcherMessage, NextStep, PendingDelivery, Reason};
use ringback::store::{DeliveryFilter, RetryDelivery, RetryDeliveryResult, Rewind};

use super::{StoreFixture, at, observed, sends};

async fn retry_delivery(house: &StoreFixture, send: &PendingDelivery, seconds: u64) -> RetryDeliveryResult {
    let retry_delivery =
        RetryDelivery { app: house.app, delivery: send.id, remember: None, now: at(seconds) };
    house.store.retry_delivery(retry_delivery).await.expect("taken")
}

fn ids(sends: &[PendingDelivery]) -> Vec<ringback::domain::DeliveryId> {
    sends.iter().map(|send| send.id).collect()
}

#[tokio::test]
async fn a_delivery_that_succeeded_is_sent_no_more() {
    let house = StoreFixture::new().await;
    let send = house.delivery("job_1").await;
    house.record(&send, NextStep::Succeeded).await;
    let (delivery, attempts) = house.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Succeeded, None));
    assert_eq!(attempts, [super::attempt()]);
    assert!(house.page(at(999), 10, &[]).await.sends.is_empty());
    assert!(house.store.lanes().await.expect("read").is_empty());
}

#[tokio::test]
async fn a_delivery_is_tried_again_when_its_turn_comes_with_the_same_bytes() {
    let house = StoreFixture::new().await;
    let send = house.delivery("job_1").await;
    house.record(&send, NextStep::Retry { step: 1, due_at: at(100) }).await;
    let house = house.reopen(at(80)).await;
    assert_eq!(house.store.lanes().await.expect("read"), [(send.destination.queue.clone(), at(100))]);
    let early = house.page(at(99), 10, &[]).await;
    assert!(early.sends.is_empty() && !early.more);
    assert_eq!(early.next, Some(at(100)));
    let due = house.page(at(100), 10, &[]).await;
    let [again] = &due.sends[..] else { panic!("{due:?}") };
    assert_eq!((again.id, again.event, &again.body), (send.id, send.event, &send.body));
    assert_eq!((again.step, again.attempts, again.manual), (1, 1, false));
    assert_eq!(again.destination, send.destination);
}

#[tokio::test]
async fn first_tries_go_before_retries_and_what_is_in_hand_is_left_out() {
    let house = StoreFixture::new().await;
    let late = house.delivery("job_0").await;
    house.record(&late, NextStep::Retry { step: 1, due_at: at(61) }).await;
    let mut first = Vec::new();
    for n in 1..=5 {
        first.push(house.delivery(&format!("job_{n}")).await.id);
    }
    let page = house.page(at(100), 3, &[]).await;
    assert_eq!((ids(&page.sends), page.more), (first[..3].to_vec(), true));
    let page = house.page(at(100), 3, &first[..3]).await;
    let mut rest = first[3..].to_vec();
    rest.push(late.id);
    assert_eq!((ids(&page.sends), page.more), (rest.clone(), false));
    let page = house.page(at(100), 3, &[&first[..], &[late.id]].concat()).await;
    assert!(page.sends.is_empty() && !page.more);
    // A clock that was set back holds no first try up.
    assert_eq!(ids(&house.page(at(0), 9, &[]).await.sends), first);
}

#[tokio::test]
async fn a_retry_planned_by_a_clock_that_was_set_back_since_waits_for_its_step_from_now() {
    let house = StoreFixture::new().await;
    let send = house.delivery("job_1").await;
    house.record(&send, NextStep::Retry { step: 1, due_at: at(100_000) }).await;
    let rewind = |now| Rewind { schedule: vec![Duration::from_secs(5)], now };
    let tried_at = super::attempt().at;
    assert_eq!(house.store.rewind(rewind(tried_at)).await.expect("taken"), 0);
    let before = tried_at.minus(Duration::from_secs(10));
    assert_eq!(house.store.rewind(rewind(before)).await.expect("taken"), 1);
    let page = house.page(before, 10, &[]).await;
    assert_eq!(page.next, Some(before.plus(Duration::from_secs(5))));
}

#[tokio::test]
async fn what_was_to_be_sent_at_once_before_the_clock_was_set_back_is_sent_at_once() {
    let house = StoreFixture::new().await;
    let send = house.delivery("job_1").await;
    let rewind = Rewind { schedule: vec![Duration::from_secs(5)], now: at(0) };
    let lanes = async || house.store.lanes().await.expect("read");
    assert_eq!(lanes().await, [(send.destination.queue.clone(), at(60))]);
    assert_eq!(house.store.rewind(rewind).await.expect("taken"), 1);
    assert_eq!(lanes().await, [(send.destination.queue, at(0))]);
}

#[tokio::test]
async fn a_delivery_that_was_given_up_says_why() {
    let house = StoreFixture::new().await;
    for reason in [Reason::Exhausted, Reason::Refused, Reason::Gone] {
        let send = house.delivery(reason.as_str()).await;
        house.record(&send, NextStep::Failed(reason)).await;
        let (delivery, attempts) = house.shown_delivery(send.id).await;
        assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Failed, Some(reason)));
        assert_eq!((delivery.next_attempt_at, attempts.len()), (None, 1));
    }
}

#[tokio::test]
async fn a_destination_that_is_gone_gets_nothing_more_of_the_watch() {
    let house = StoreFixture::new().await;
    let mut watch = house.follower("job_1");
    watch.destinations = vec![house.destination("a.example"), house.destination("b.example")];
    let gone = watch.destinations[0].id;
    let watch = house.register(watch).await;
    house.store.observe(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    let sent = sends(&house.store);
    assert_eq!(sent.len(), 4);
    let first = sent.iter().find(|send| send.destination.id == gone).expect("one to it");
    house.record(first, NextStep::Failed(Reason::Gone)).await;
    let off = DispatcherMessage::Skip { watch: watch.id, which: CancelScope::To(gone) };
    let told = house.store.dispatcher_messages().take();
    assert_eq!(format!("{told:?}"), format!("{:?}", [off]), "what is in hand is called off too");
    for send in &sent {
        let (delivery, _) = house.shown_delivery(send.id).await;
        let expected = match (send.id == first.id, send.destination.id == gone) {
            (true, _) => (DeliveryStatus::Failed, Some(Reason::Gone)),
            (false, true) => (DeliveryStatus::Skipped, Some(Reason::Gone)),
            (false, false) => (DeliveryStatus::Pending, None),
        };
        assert_eq!((delivery.status, delivery.reason), expected);
    }
    house.end(watch.job_no, 0).await;
    let ending: Vec<_> = sends(&house.store).into_iter().map(|send| send.destination.id).collect();
    assert_eq!(ending, [watch.destinations[1].0.id]);
}

#[tokio::test]
async fn the_outcome_of_a_send_that_was_in_flight_at_the_stop_is_on_record() {
    let house = StoreFixture::new().await;
    for (job, after, status) in [
        ("job_1", NextStep::Succeeded, DeliveryStatus::Succeeded),
        ("job_2", NextStep::Retry { step: 1, due_at: at(100) }, DeliveryStatus::Skipped),
        ("job_3", NextStep::Failed(Reason::Exhausted), DeliveryStatus::Skipped),
    ] {
        let send = house.delivery(job).await;
        house.stop(send.watch).await;
        house.record(&send, after).await;
        let (delivery, attempts) = house.shown_delivery(send.id).await;
        assert_eq!((delivery.status, attempts.len()), (status, 1), "{job}");
        let reason = (status == DeliveryStatus::Skipped).then_some(Reason::Stopped);
        assert_eq!((delivery.reason, delivery.next_attempt_at), (reason, None));
    }
    assert!(house.page(at(999), 10, &[]).await.sends.is_empty());
}

#[tokio::test]
async fn a_try_by_hand_of_what_is_done_is_one_attempt_and_a_failure_changes_nothing() {
    let house = StoreFixture::new().await;
    let send = house.delivery("job_1").await;
    house.record(&send, NextStep::Failed(Reason::Exhausted)).await;
    assert!(matches!(retry_delivery(&house, &send, 80).await, RetryDeliveryResult::Wanted));
    let told = sends(&house.store);
    assert!(told.len() == 1 && told[0].manual && told[0].attempts == 1);
    assert_eq!(ids(&house.page(at(80), 10, &[]).await.sends), [send.id], "it outlives a crash");
    house.record(&send, NextStep::Unchanged).await;
    let (delivery, attempts) = house.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Failed, Some(Reason::Exhausted)));
    assert_eq!((delivery.next_attempt_at, attempts.len()), (None, 2));
    retry_delivery(&house, &send, 90).await;
    house.record(&send, NextStep::Succeeded).await;
    assert_eq!(house.shown_delivery(send.id).await.0.status, DeliveryStatus::Succeeded);
}

#[tokio::test]
async fn a_try_by_hand_of_what_is_pending_keeps_its_schedule() {
    let house = StoreFixture::new().await;
    let send = house.delivery("job_1").await;
    house.record(&send, NextStep::Retry { step: 2, due_at: at(500) }).await;
    retry_delivery(&house, &send, 80).await;
    let [now] = &house.page(at(80), 10, &[]).await.sends[..] else { panic!("due now") };
    assert!(now.manual);
    house.record(&send, NextStep::Unchanged).await;
    let page = house.page(at(80), 10, &[]).await;
    assert!(page.sends.is_empty());
    assert_eq!(page.next, Some(at(500)));
    assert_eq!(house.page(at(500), 10, &[]).await.sends[0].step, 2);
}

#[tokio::test]
async fn a_try_by_hand_asked_for_while_a_send_is_in_flight_is_made_after_it() {
    let house = StoreFixture::new().await;
    for (job, after) in [
        ("job_1", NextStep::Retry { step: 1, due_at: at(500) }),
        ("job_2", NextStep::Failed(Reason::Exhausted)),
    ] {
        let send = house.delivery(job).await;
        retry_delivery(&house, &send, 80).await;
        house.record(&send, after).await;
        let page = house.page(at(80), 10, &[]).await;
        assert_eq!(ids(&page.sends), [send.id], "{job}");
        assert!(page.sends[0].manual);
        house.record(&send, NextStep::Succeeded).await;
    }
}

#[tokio::test]
async fn a_stop_calls_off_a_try_by_hand_too_and_allows_no_other() {
    let house = StoreFixture::new().await;
    let done = house.delivery("job_1").await;
    house.record(&done, NextStep::Failed(Reason::Exhausted)).await;
    retry_delivery(&house, &done, 80).await;
    house.stop(done.watch).await;
    house.record(&done, NextStep::Unchanged).await;
    assert!(house.page(at(999), 10, &[]).await.sends.is_empty());
    let pending = house.delivery("job_2").await;
    house.stop(pending.watch).await;
    assert!(matches!(retry_delivery(&house, &pending, 90).await, RetryDeliveryResult::Stopped));
    let unknown = RetryDelivery {
        app: super::app(&house.store, "other").await,
        delivery: pending.id,
        remember: None,
        now: at(90),
    };
    assert!(matches!(
        house.store.retry_delivery(unknown).await.expect("answered"),
        RetryDeliveryResult::Unknown
    ));
}

#[tokio::test]
async fn a_skipped_delivery_can_be_retried_by_hand() {
    let house = StoreFixture::new().await;
    let watch = house.register(house.follower("job_1")).await;
    house.store.observe(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    let send = sends(&house.store).remove(0);
    house.end(watch.job_no, 0).await;
    assert_eq!(house.shown_delivery(send.id).await.0.status, DeliveryStatus::Skipped);
    assert!(matches!(retry_delivery(&house, &send, 80).await, RetryDeliveryResult::Wanted));
    house.record(&send, NextStep::Unchanged).await;
    let (delivery, _) = house.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Skipped, Some(Reason::Superseded)));
    retry_delivery(&house, &send, 90).await;
    house.record(&send, NextStep::Succeeded).await;
    let (delivery, _) = house.shown_delivery(send.id).await;
    assert_eq!((delivery.status, delivery.reason), (DeliveryStatus::Succeeded, None));
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_with_filters_and_a_cursor() {
    let house = StoreFixture::new().await;
    let mut all = Vec::new();
    for n in 0..6 {
        all.insert(0, house.delivery(&format!("job_{n}")).await);
    }
    house.record(&all[0], NextStep::Succeeded).await;
    house.record(&all[1], NextStep::Failed(Reason::Exhausted)).await;
    house.stop(all[2].watch).await;
    let list = async |filter| {
        let found = house.store.deliveries(house.app, filter, 4).await.expect("read");
        found.into_iter().map(|delivery| delivery.id).collect::<Vec<_>>()
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
        assert_eq!(list(DeliveryFilter { status: Some(status), ..by() }).await, ids);
    }
    assert_eq!(list(DeliveryFilter { watch: Some(all[2].watch), ..by() }).await, expected[2..3]);
    let to = Some(all[3].destination.id);
    assert_eq!(list(DeliveryFilter { destination: to, ..by() }).await, expected[3..4]);
    assert!(list(DeliveryFilter { since: Some(at(61)), ..by() }).await.is_empty());
    assert_eq!(list(DeliveryFilter { since: Some(at(60)), until: Some(at(61)), ..by() }).await.len(), 4);
    assert!(list(DeliveryFilter { until: Some(at(60)), ..by() }).await.is_empty());
}

crate::postgres::on_postgres_too! {
    a_delivery_that_succeeded_is_sent_no_more,
    a_delivery_is_tried_again_when_its_turn_comes_with_the_same_bytes,
    first_tries_go_before_retries_and_what_is_in_hand_is_left_out,
    a_retry_planned_by_a_clock_that_was_set_back_since_waits_for_its_step_from_now,
    what_was_to_be_sent_at_once_before_the_clock_was_set_back_is_sent_at_once,
    a_delivery_that_was_given_up_says_why,
    a_destination_that_is_gone_gets_nothing_more_of_the_watch,
    the_outcome_of_a_send_that_was_in_flight_at_the_stop_is_on_record,
    a_try_by_hand_of_what_is_done_is_one_attempt_and_a_failure_changes_nothing,
    a_try_by_hand_of_what_is_pending_keeps_its_schedule,
    a_try_by_hand_asked_for_while_a_send_is_in_flight_is_made_after_it,
    a_stop_calls_off_a_try_by_hand_too_and_allows_no_other,
    a_skipped_delivery_can_be_retried_by_hand,
    deliveries_are_listed_newest_first_with_filters_and_a_cursor,
}
