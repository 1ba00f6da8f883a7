//! Filters of deliveries, watches and events.

use std::time::Duration;

use ringback::domain::{
    Attempt, ChannelKind, DeliveryId, DeliveryStatus, EventType, NewWatch, NextStep, PendingDelivery, Reason,
    Watch, WatchId,
};
use ringback::store::{
    After, DeliveryFilter, EventFilter, GroupRefusal, Idempotent, RecordAttempt, RegisterMany, WatchFilter,
};

use super::{StoreFixture, app, at, observed, take_deliveries};

async fn deliveries(fixture: &StoreFixture, filter: DeliveryFilter) -> Vec<DeliveryId> {
    let page = fixture.store.deliveries(fixture.app, filter, 50).await.expect("read");
    assert_eq!(page.next, None, "one page");
    page.rows.into_iter().map(|delivery| delivery.id).collect()
}

/// Ends a new watch, and returns its delivery.
async fn ended(fixture: &StoreFixture, watch: NewWatch) -> Box<PendingDelivery> {
    let watch = fixture.register(watch).await;
    take_deliveries(&fixture.store);
    fixture.end(watch.job_no, 0).await;
    take_deliveries(&fixture.store).pop().expect("a delivery")
}

#[tokio::test]
async fn several_statuses_are_merged_in_the_order_of_the_list() {
    use DeliveryStatus::{Failed, Pending, Skipped, Succeeded};

    let fixture = StoreFixture::new().await;
    let mut all = Vec::new();
    for n in 0..8 {
        all.insert(0, fixture.delivery(&format!("job_{n}")).await);
    }
    for (n, after) in [
        (0, NextStep::Failed(Reason::Exhausted)),
        (2, NextStep::Succeeded),
        (3, NextStep::Failed(Reason::Refused)),
        (6, NextStep::Failed(Reason::Exhausted)),
    ] {
        fixture.record(&all[n], after).await;
    }
    fixture.stop(all[4].watch).await;
    let id = |n: usize| all[n].id;
    let of = |statuses: &[DeliveryStatus]| DeliveryFilter {
        statuses: statuses.to_vec(),
        ..DeliveryFilter::default()
    };
    let both = [Pending, Failed, Pending];
    assert_eq!(deliveries(&fixture, of(&both)).await, [0, 1, 3, 5, 6, 7].map(id));
    assert_eq!(deliveries(&fixture, of(&[Succeeded, Skipped])).await, [2, 4].map(id));
    // Pages of two have the same rows.
    let (mut before, mut paged) = (None, Vec::new());
    loop {
        let filter = DeliveryFilter { before, ..of(&both) };
        let page = fixture.store.deliveries(fixture.app, filter, 2).await.expect("read");
        paged.extend(page.rows.into_iter().map(|delivery| delivery.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    assert_eq!(paged, [0, 1, 3, 5, 6, 7].map(id));
    let refused = DeliveryFilter { reason: Some(Reason::Refused), ..of(&both) };
    assert_eq!(deliveries(&fixture, refused).await, [3].map(id));
    let of_watch = DeliveryFilter { watch: Some(all[6].watch), ..of(&both) };
    assert_eq!(deliveries(&fixture, of_watch).await, [6].map(id));
}

#[tokio::test]
async fn deliveries_are_found_by_origin_channel_job_and_reference() {
    let fixture = StoreFixture::new().await;
    let number = fixture.app.0;
    let mut one = fixture.watch("job_1");
    one.destinations[0].queue = format!("{number} https://a.example:443 0123456789abcdef");
    one.reference = Some("order-7".to_owned());
    let mut two = fixture.watch("job_2");
    two.destinations[0].queue = format!("{number} https://a.example:4430 0123456789abcdef");
    two.reference = Some("order-7".to_owned());
    let mut mail = fixture.watch("job_1");
    mail.destinations[0].channel = ChannelKind::Email;
    mail.destinations[0].queue = format!("{number} smtp");
    let (one, two) = (ended(&fixture, one).await, ended(&fixture, two).await);
    let mail = {
        let watch = fixture.register(mail).await;
        fixture.end(watch.job_no, 1).await;
        take_deliveries(&fixture.store).pop().expect("a delivery")
    };
    let (one, two, mail) = (one.id, two.id, mail.id);
    let by = DeliveryFilter::default;
    let text = |text: &str| Some(text.to_owned());
    for (filter, found) in [
        (DeliveryFilter { origin: text("https://a.example:443"), ..by() }, vec![one]),
        (DeliveryFilter { origin: text("https://a.example:4430"), ..by() }, vec![two]),
        (DeliveryFilter { origin: text("https://a.example:44"), ..by() }, vec![]),
        (DeliveryFilter { channel: Some(ChannelKind::Email), ..by() }, vec![mail]),
        (DeliveryFilter { job_id: text("job_1"), ..by() }, vec![mail, one]),
        (DeliveryFilter { reference: text("order-7"), ..by() }, vec![two, one]),
        (DeliveryFilter { reference: text("order-7"), job_id: text("job_1"), ..by() }, vec![one]),
        (DeliveryFilter { reference: text("order-"), ..by() }, vec![]),
        (DeliveryFilter { event_type: Some(EventType::JobFailed), ..by() }, vec![]),
        (DeliveryFilter { event_type: Some(EventType::JobCompleted), ..by() }, vec![mail, two, one]),
        (
            DeliveryFilter {
                origin: text("https://a.example:443"),
                statuses: vec![DeliveryStatus::Pending, DeliveryStatus::Failed],
                job_id: text("job_1"),
                ..by()
            },
            vec![one],
        ),
    ] {
        assert_eq!(deliveries(&fixture, filter.clone()).await, found, "{filter:?}");
    }
    let other = app(&fixture.store, "other").await;
    for filter in [
        DeliveryFilter { job_id: text("job_1"), ..by() },
        DeliveryFilter { reference: text("order-7"), ..by() },
    ] {
        let page = fixture.store.deliveries(other, filter.clone(), 9).await.expect("read");
        assert!(page.rows.is_empty(), "{filter:?}");
    }
}

#[tokio::test]
async fn a_job_of_many_watches_is_no_index_and_filters_the_same() {
    let fixture = StoreFixture::new().await;
    let first = fixture.delivery("job_1").await;
    // More watches than the index of a job may lead to.
    for _ in 0..6 {
        let watches = (0..1_000).map(|_| NewWatch {
            destinations: Vec::new(),
            reference: Some("many".to_owned()),
            ..fixture.watch("job_1")
        });
        let many =
            Idempotent::new(RegisterMany(watches.collect()), None, |_: &Vec<Result<Watch, GroupRefusal>>| {
                None
            });
        fixture.store.register_many(many).await.expect("taken").expect("new").expect("all exist");
    }
    let by = DeliveryFilter::default;
    let text = |text: &str| Some(text.to_owned());
    let job = DeliveryFilter { job_id: text("job_1"), ..by() };
    assert_eq!(deliveries(&fixture, job).await, [first.id]);
    let pending = DeliveryFilter { statuses: vec![DeliveryStatus::Pending], job_id: text("job_1"), ..by() };
    assert_eq!(deliveries(&fixture, pending).await, [first.id]);
    assert!(deliveries(&fixture, DeliveryFilter { reference: text("many"), ..by() }).await.is_empty());
    let events = EventFilter { job_id: text("job_1"), ..EventFilter::default() };
    let events =
        fixture.store.events(fixture.app, After::Start, events, 9).await.expect("read").expect("a feed");
    assert_eq!(events.rows.iter().map(|event| event.watch).collect::<Vec<_>>(), [Some(first.watch)]);
}

#[tokio::test]
async fn watches_are_found_by_their_reference() {
    let fixture = StoreFixture::new().await;
    let mut ids: Vec<WatchId> = Vec::new();
    for (job, reference) in
        [("job_1", Some("a")), ("job_2", Some("b")), ("job_3", Some("a")), ("job_4", None)]
    {
        let reference = reference.map(str::to_owned);
        let watch = NewWatch { reference, ..fixture.watch(job) };
        ids.push(fixture.register(watch).await.id);
    }
    let list = async |app, filter| {
        let page = fixture.store.watches(app, filter, 9).await.expect("read");
        page.rows.into_iter().map(|watch| watch.id).collect::<Vec<_>>()
    };
    let by =
        |reference: &str| WatchFilter { reference: Some(reference.to_owned()), ..WatchFilter::default() };
    assert_eq!(list(fixture.app, by("a")).await, [ids[2], ids[0]]);
    assert_eq!(list(fixture.app, WatchFilter { before: Some(ids[2]), ..by("a") }).await, [ids[0]]);
    let of_job = WatchFilter { job_id: Some("job_3".to_owned()), ..by("a") };
    assert_eq!(list(fixture.app, of_job).await, [ids[2]]);
    assert!(list(fixture.app, by("A")).await.is_empty());
    assert!(list(app(&fixture.store, "other").await, by("a")).await.is_empty());
}

#[tokio::test]
async fn a_feed_is_read_backwards_and_by_watch_or_job() {
    let fixture = StoreFixture::new().await;
    let one = fixture.register(fixture.follower("job_1")).await;
    let two = fixture.register(fixture.follower("job_2")).await;
    fixture.store.record_observation(observed(one.job_no, 0, 10, at(5))).await.expect("taken");
    fixture.store.record_observation(observed(two.job_no, 0, 20, at(6))).await.expect("taken");
    fixture.end(one.job_no, 0).await;
    let by = EventFilter::default;
    let positions = async |filter: EventFilter| {
        // Pages of two, to the end.
        let (mut after, mut found) = (After::Start, Vec::new());
        loop {
            let page = fixture.store.events(fixture.app, after, filter.clone(), 2).await;
            let page = page.expect("read").expect("a feed");
            found.extend(page.rows.iter().map(|event| event.position));
            let Some(next) = page.next else { return found };
            after = After::Position(next);
        }
    };
    let is_newest_first = true;
    assert_eq!(positions(by()).await, [1, 2, 3, 4, 5]);
    assert_eq!(positions(EventFilter { is_newest_first, ..by() }).await, [5, 4, 3, 2, 1]);
    for (filter, ascending) in [
        (EventFilter { watch: Some(one.id), ..by() }, vec![1, 2, 5]),
        (EventFilter { job_id: Some("job_1".to_owned()), ..by() }, vec![1, 2, 5]),
        (EventFilter { job_id: Some("job_2".to_owned()), ..by() }, vec![3, 4]),
        (EventFilter { event_type: Some(EventType::JobProgress), ..by() }, vec![2, 4]),
        (EventFilter { watch: Some(two.id), event_type: Some(EventType::JobProgress), ..by() }, vec![4]),
        (EventFilter { watch: Some(two.id), job_id: Some("job_1".to_owned()), ..by() }, vec![]),
        (EventFilter { job_id: Some("job_3".to_owned()), ..by() }, vec![]),
    ] {
        let descending: Vec<i64> = ascending.iter().rev().copied().collect();
        assert_eq!(positions(filter.clone()).await, ascending, "{filter:?}");
        assert_eq!(
            positions(EventFilter { is_newest_first, ..filter.clone() }).await,
            descending,
            "{filter:?}"
        );
    }
}

#[tokio::test]
async fn a_watch_shows_the_newest_delivery_to_each_destination() {
    let fixture = StoreFixture::new().await;
    let mut watch = fixture.follower("job_1");
    watch.destinations.push(fixture.destination("b.example"));
    let watch = fixture.register(watch).await;
    let latest = async || {
        let destinations = fixture.shown(watch.id).await.destinations;
        destinations.into_iter().map(|(_, latest)| latest).collect::<Vec<_>>()
    };
    assert_eq!(latest().await, [None, None], "nothing is delivered yet");
    fixture.store.record_observation(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    for send in take_deliveries(&fixture.store) {
        fixture.record(&send, NextStep::Succeeded).await;
    }
    fixture.end(watch.job_no, 0).await;
    let [first, second] = &take_deliveries(&fixture.store)[..] else { panic!("two deliveries") };
    let attempt = Attempt { error: Some("timeout: no answer".to_owned()), ..super::attempt() }.into();
    let after = NextStep::Retry { step: 1, due_at: at(100), waited: Duration::ZERO };
    let (app, delivery, before) = (fixture.app, first.id, 0);
    let event_type = first.event_type;
    let record =
        RecordAttempt { app, delivery, event_type, manual: false, before, attempt, after, saved: None };
    fixture.store.record_attempt(record).await.expect("recorded");
    let [Some(one), Some(two)] = &latest().await[..] else { panic!("two deliveries") };
    assert_eq!((one.id, one.status, one.attempt_count), (first.id, DeliveryStatus::Pending, 1));
    assert_eq!((one.next_attempt_at, one.last_error.as_deref()), (Some(at(100)), Some("timeout: no answer")));
    assert_eq!(fixture.shown_delivery(first.id).await.0.last_error, one.last_error);
    assert_eq!((two.id, two.attempt_count, two.last_error.as_ref()), (second.id, 0, None));
    // A list shows the same.
    let page = fixture.store.watches(fixture.app, WatchFilter::default(), 9).await.expect("read");
    assert_eq!(page.rows[0].destinations[0].1.as_ref(), Some(one));
    fixture.record(second, NextStep::Failed(Reason::Exhausted)).await;
    let [_, Some(two)] = &latest().await[..] else { panic!("two deliveries") };
    assert_eq!((two.status, two.reason), (DeliveryStatus::Failed, Some(Reason::Exhausted)));
}

crate::postgres::on_postgres_too! {
    several_statuses_are_merged_in_the_order_of_the_list,
    deliveries_are_found_by_origin_channel_job_and_reference,
    a_job_of_many_watches_is_no_index_and_filters_the_same,
    watches_are_found_by_their_reference,
    a_feed_is_read_backwards_and_by_watch_or_job,
    a_watch_shows_the_newest_delivery_to_each_destination,
}
