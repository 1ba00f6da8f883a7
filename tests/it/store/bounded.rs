//! Transactions whose size does not depend on the number of rows that an app has: the rest follows in further ones.

use std::time::Duration;

use ringback::domain::{
    CancelScope, Destination, DispatcherMessage, EventList, EventType, GroupRequest, NewWatch, NextStep,
    OperationId, Reason, SavedNo, SkipScope, Timestamp, Watch, WatchStatus,
};
use ringback::store::{
    AdvanceOperation, CreateDestination, CreateOperation, ExpireGroups, Idempotent, LoadDueDeliveries,
    NoteRunning, OperationTurns, RecordAttempt, RegisterMany, RetryDelivery, RunningOperation, Subject,
    WatchFilter,
};

use super::{StoreFixture, at, attempt, observed, take_deliveries};

/// Number of deliveries that one transaction examines to skip them.
const EXAMINED: usize = 2_000;

/// Number of destinations of a watch.
const DESTINATIONS: usize = 20;

/// Registers a watch that has more deliveries than one transaction examines. All are pending.
async fn busy(fixture: &StoreFixture) -> Watch {
    busy_with(fixture, fixture.destination("a.example")).await
}

/// The same with this destination, and others of one host.
async fn busy_with(fixture: &StoreFixture, first: Destination) -> Watch {
    let others = (1..DESTINATIONS).map(|_| fixture.destination("a.example"));
    let destinations = std::iter::once(first).chain(others).collect();
    let watch = fixture.register(NewWatch { destinations, ..fixture.follower("job_1") }).await;
    for n in 0..=(EXAMINED / DESTINATIONS) as u64 + 8 {
        let progress = u8::try_from(n % 100).expect("a percentage");
        fixture.store.record_observation(observed(watch.job_no, 0, progress, at(n))).await.expect("taken");
    }
    fixture.store.dispatcher_messages().take();
    assert!(fixture.count("deliveries") > EXAMINED + 100);
    watch
}

fn pending(fixture: &StoreFixture) -> usize {
    fixture.count("deliveries where status = 'pending'")
}

fn skipped(fixture: &StoreFixture, reason: Reason) -> usize {
    fixture.count(&format!("deliveries where status = 'skipped' and reason = '{reason}'"))
}

async fn in_progress(fixture: &StoreFixture) -> Option<RunningOperation> {
    fixture.store.next_operation(&mut OperationTurns::default()).await.expect("read")
}

/// Makes the steps of the operation in progress. Returns their number. None changes more than `rows` deliveries.
async fn work_off(fixture: &StoreFixture, rows: u32) -> usize {
    let mut steps = 0;
    while let Some(operation) = in_progress(fixture).await {
        let before = pending(fixture);
        let page = fixture.store.operation_page(&operation, rows).await.expect("read");
        let advance = AdvanceOperation { no: operation.no, page, rows, now: at(300) };
        fixture.store.advance_operation(advance).await.expect("taken");
        assert!(before - pending(fixture) <= rows as usize, "a step is not larger than requested");
        steps += 1;
    }
    steps
}

#[tokio::test]
async fn a_stop_with_very_many_deliveries_is_continued_after_a_crash() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    let all = pending(&fixture);
    fixture.stop(watch.id).await;
    assert_eq!((skipped(&fixture, Reason::Stopped), pending(&fixture)), (EXAMINED, all - EXAMINED));
    let messages = fixture.store.dispatcher_messages().take();
    let skips = |message: &DispatcherMessage| match message {
        DispatcherMessage::Skip { watch: id, which } => (*id, *which) == (watch.id, CancelScope::All),
        _ => false,
    };
    assert!(messages.iter().any(skips), "nothing stays loaded");
    // What is still pending is not sent, and a page is not read again at once.
    let fixture = fixture.reopen(at(200)).await;
    let page = fixture.page(at(200), 9, &[]).await;
    assert_eq!((page.deliveries.len(), page.has_more, page.next_retry_at), (0, false, Some(at(201))));
    let operation = in_progress(&fixture).await.expect("the rest");
    assert_eq!(operation.subject, Subject::SkipDeliveries(watch.id, SkipScope::Stopped));
    assert!(fixture.store.operation(fixture.app, operation.id).await.expect("read").is_none(), "not shown");
    assert!(work_off(&fixture, 50).await >= 2);
    assert_eq!((skipped(&fixture, Reason::Stopped), pending(&fixture)), (all, 0));
    assert_eq!(fixture.count("operations"), 0);
    assert_eq!(fixture.page(at(300), 9, &[]).await.next_retry_at, None);
}

#[tokio::test]
async fn very_much_progress_of_an_ended_watch_is_skipped_in_parts() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    let all = pending(&fixture);
    fixture.end(watch.job_no, 0).await;
    assert_eq!(skipped(&fixture, Reason::Superseded), EXAMINED);
    assert_eq!(pending(&fixture), all - EXAMINED + DESTINATIONS, "and the ending");
    let fixture = fixture.reopen(at(200)).await;
    let page = fixture.page(at(200), 1_000, &[]).await;
    let types: Vec<EventType> = page.deliveries.iter().map(|one| one.event_type).collect();
    assert_eq!(types, [EventType::JobCompleted; DESTINATIONS], "the ending does not wait");
    assert!(work_off(&fixture, 50).await >= 2);
    assert_eq!((skipped(&fixture, Reason::Superseded), pending(&fixture)), (all, DESTINATIONS));
}

#[tokio::test]
async fn very_many_deliveries_to_a_gone_address_are_skipped_in_parts() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    let all = pending(&fixture);
    let sent = fixture.page(at(200), 1, &[]).await.deliveries.pop().expect("one");
    fixture.record(&sent, NextStep::Failed(Reason::Gone)).await;
    let found = skipped(&fixture, Reason::Gone);
    assert!(found > 0 && found < all / DESTINATIONS - 1, "{found}");
    let fixture = fixture.reopen(at(200)).await;
    let page = fixture.page(at(200), 3_000, &[]).await;
    let is_gone = |one: &ringback::domain::PendingDelivery| one.destination.id == sent.destination.id;
    assert!(!page.deliveries.iter().any(is_gone), "nothing more is sent to it");
    let n = in_progress(&fixture).await.map(|operation| operation.subject);
    assert!(matches!(n, Some(Subject::SkipDeliveries(id, SkipScope::Gone(_))) if id == watch.id), "{n:?}");
    work_off(&fixture, 50).await;
    assert_eq!(skipped(&fixture, Reason::Gone), all / DESTINATIONS - 1);
    assert_eq!(pending(&fixture), all - all / DESTINATIONS);
}

#[tokio::test]
async fn an_ending_to_an_ordered_destination_waits_for_no_skipped_progress() {
    let fixture = StoreFixture::new().await;
    let mut saved = super::sealing::saved(&fixture, "ordered");
    saved.queue.is_ordered = true;
    assert!(saved.events.add("job.*", EventList::OfDestination));
    let created = fixture.store.create_destination(CreateDestination(saved.clone())).await;
    created.expect("taken").expect("no key").expect("created");
    let used = fixture.store.destinations_to_use(fixture.app, vec![saved.id]).await.expect("read");
    let watch = busy_with(&fixture, used[0].0.clone()).await;
    let page = async |fixture: &StoreFixture| {
        let (queue, limit) = (used[0].0.queue.clone(), 10);
        let load = LoadDueDeliveries { queue, now: at(200), limit, loaded: Vec::new(), retries_first: false };
        let page = fixture.store.load_due_deliveries(load).await.expect("a page");
        page.deliveries.iter().map(|one| one.event_type).collect::<Vec<_>>()
    };
    assert_eq!(page(&fixture).await, [EventType::JobProcessing], "its progress is in order");
    fixture.end(watch.job_no, 0).await;
    let pending = "deliveries where status = 'pending' and queue like '% dst_%'";
    assert!(fixture.count(pending) > 2, "an operation has to skip the oldest progress");
    let sent = take_deliveries(&fixture.store);
    let ending = sent.iter().find(|one| one.destination.id == saved.id).expect("dispatched at once");
    assert_eq!(ending.event_type, EventType::JobCompleted);
    assert!(!fixture.shown_delivery(ending.id).await.0.is_behind);
    let fixture = fixture.reopen(at(200)).await;
    assert_eq!(page(&fixture).await, [EventType::JobCompleted], "and after a crash");
}

#[tokio::test]
async fn deliveries_behind_many_that_are_to_be_skipped_are_loaded() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    let other = fixture.delivery("job_2").await;
    fixture.stop(watch.id).await;
    assert!(pending(&fixture) > 100, "left to skip, and older");
    let fixture = fixture.reopen(at(200)).await;
    let page = fixture.page(at(200), 10, &[]).await;
    let found: Vec<_> = page.deliveries.iter().map(|one| one.id).collect();
    assert_eq!((found, page.has_more), (vec![other.id], false));
    // It is loaded already, and nothing else can be sent.
    let page = fixture.page(at(200), 10, &[other.id]).await;
    assert_eq!((page.deliveries.len(), page.has_more, page.next_retry_at), (0, false, Some(at(201))));
}

#[tokio::test]
async fn the_end_of_a_watch_of_which_all_is_delivered_leaves_nothing_to_skip() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    fixture.run("update deliveries set status = 'succeeded', next_attempt_at = null");
    fixture.end(watch.job_no, 0).await;
    assert!(in_progress(&fixture).await.is_none());
    fixture.run(
        "update deliveries set status = 'skipped', reason = 'disabled' where id = (select id from deliveries order by id limit 1)",
    );
    fixture.stop(watch.id).await;
    assert_eq!(work_off(&fixture, 1_000).await, 1, "the oldest one may not be sent later");
    assert_eq!(skipped(&fixture, Reason::Stopped), DESTINATIONS + 1, "and the ending");
}

#[tokio::test]
async fn nothing_of_an_ended_watch_is_sent_after_its_stop() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    // A client has requested that all is sent again.
    fixture.run("update deliveries set status = 'failed', is_manual = 1");
    fixture.end(watch.job_no, 0).await;
    work_off(&fixture, 1_000).await;
    let failed = fixture.page(at(200), 10, &[]).await.deliveries;
    assert_eq!(failed.len(), 10, "it is sent before the stop");
    fixture.stop(watch.id).await;
    assert_eq!(fixture.shown(watch.id).await.status, WatchStatus::Completed);
    assert!(fixture.count("deliveries where next_attempt_at is not null") > 100, "left to an operation");
    let fixture = fixture.reopen(at(200)).await;
    assert_eq!(fixture.page(at(200), 10, &[]).await.deliveries.len(), 0);
    fixture.stop(watch.id).await;
    assert_eq!(fixture.count("operations"), 1, "a repetition begins it again");
    work_off(&fixture, 50).await;
    assert_eq!(fixture.count("deliveries where next_attempt_at is not null"), 0);
    // A later request counts.
    let retry = RetryDelivery { app: fixture.app, delivery: failed[0].id, now: at(300) };
    fixture.store.retry_delivery(retry).await.expect("taken").expect("no key").expect("retried");
    assert_eq!(fixture.page(at(300), 10, &[]).await.deliveries.len(), 1);
}

#[tokio::test]
async fn operations_that_skip_and_those_of_clients_have_alternate_turns() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    fixture.end(watch.job_no, 0).await;
    fixture.stop(watch.id).await;
    assert_eq!(fixture.count("operations where kind = 'skip_deliveries'"), 2);
    for _ in 0..2 {
        let id = OperationId(fixture.store.ids().draw(at(200)));
        let subject = Subject::StopWatches(WatchFilter::default());
        let create = CreateOperation { id, app: fixture.app, subject, total: 1, now: at(200) };
        fixture.store.create_operation(create).await.expect("taken").expect("no key").expect("created");
    }
    let (mut turns, mut found) = (OperationTurns::default(), Vec::new());
    for _ in 0..6 {
        let next = fixture.store.next_operation(&mut turns).await.expect("read").expect("in progress");
        found.push((next.subject.is_hidden(), next.no));
    }
    let hidden: Vec<bool> = found.iter().map(|(hidden, _)| *hidden).collect();
    assert_eq!(hidden, [false, true, false, true, false, true]);
    assert!(found[0] != found[2] && found[1] != found[3], "each of a kind has its turn: {found:?}");
    assert_eq!((found[4], found[5]), (found[0], found[1]));
}

#[tokio::test]
async fn an_erasure_skips_nothing_that_it_deletes() {
    let fixture = StoreFixture::new().await;
    let watch = busy(&fixture).await;
    let operation = ringback::domain::OperationId(fixture.store.ids().draw(at(200)));
    let erase =
        ringback::store::EraseWatch { operation, app: fixture.app, watch: watch.id, rows: 100, now: at(200) };
    fixture.store.erase_watch(erase).await.expect("taken");
    assert_eq!(fixture.count("operations"), 1, "only that of the erasure");
    assert_eq!(fixture.page(at(200), 9, &[]).await.deliveries.len(), 0, "nothing is sent");
    while let Some(operation) = in_progress(&fixture).await {
        let advance = AdvanceOperation { no: operation.no, page: None, rows: 500, now: at(300) };
        fixture.store.advance_operation(advance).await.expect("taken");
    }
    assert_eq!(fixture.count("deliveries"), 0);
}

/// Registers watches on one job, each changed by `change`.
async fn register(fixture: &StoreFixture, count: usize, change: impl Fn(usize, &mut NewWatch)) -> Vec<Watch> {
    let watch = |n| {
        let mut watch = fixture.watch("job_1");
        change(n, &mut watch);
        watch
    };
    let many = Idempotent::new(RegisterMany((0..count).map(watch).collect()), None, |_: &Vec<_>| None);
    let made = fixture.store.register_many(many).await.expect("taken").expect("new").expect("registered");
    made.into_iter().map(|made| made.expect("registered")).collect()
}

#[tokio::test]
async fn a_stop_of_many_watches_stops_as_many_as_fit_a_transaction() {
    let fixture = StoreFixture::new().await;
    let watches = register(&fixture, 300, |_, watch| {
        watch.destinations = (0..DESTINATIONS).map(|_| fixture.destination("a.example")).collect();
    })
    .await;
    let mut has_more = fixture.end(watches[0].job_no, 0).await;
    while has_more {
        let next = ringback::store::NotifyWatches { job: watches[0].job_no, generation: 0 };
        has_more = fixture.store.notify_watches(next).await.expect("notified");
    }
    let subject =
        Subject::StopWatches(WatchFilter { status: Some(WatchStatus::Completed), ..WatchFilter::default() });
    let id = ringback::domain::OperationId(fixture.store.ids().draw(at(200)));
    let create = CreateOperation { id, app: fixture.app, subject, total: 300, now: at(200) };
    fixture.store.create_operation(create).await.expect("taken").expect("no key").expect("created");
    let mut done = Vec::new();
    while let Some(operation) = in_progress(&fixture).await {
        let page = fixture.store.operation_page(&operation, 1_000).await.expect("read");
        let advance = AdvanceOperation { no: operation.no, page, rows: 1_000, now: at(300) };
        fixture.store.advance_operation(advance).await.expect("taken");
        done.push(fixture.store.operation(fixture.app, id).await.expect("read").expect("shown").done);
    }
    assert_eq!(done, [100, 200, 300], "of 6,000 deliveries");
    assert_eq!((skipped(&fixture, Reason::Stopped), pending(&fixture)), (6_000, 0));
}

#[tokio::test]
async fn groups_that_one_transaction_completes_follow_in_parts_after_a_crash() {
    let fixture = StoreFixture::new().await;
    let request = |n: usize| GroupRequest {
        name: format!("group-{n:03}"),
        size: Some(1),
        rule: None,
        expires_in: Some(Duration::from_secs(3_600)),
        notify: Some(vec![fixture.destination("a.example")]),
    };
    let watches = register(&fixture, 120, |n, watch| watch.group = Some(request(n))).await;
    assert!(!fixture.end(watches[0].job_no, 0).await, "all watches end in one transaction");
    let completed = async |fixture: &StoreFixture| {
        let events = fixture.events().await;
        assert!(!events.contains(&EventType::GroupExpired));
        events.iter().filter(|one| **one == EventType::GroupCompleted).count()
    };
    assert_eq!(completed(&fixture).await, 50);
    let fixture = fixture.reopen(at(100)).await;
    assert!(fixture.store.next_group_expiry().await.expect("read").is_some_and(|next| next < at(100)));
    let shown = fixture.store.group(fixture.app, "group-119".to_owned()).await.expect("read").expect("there");
    assert_eq!((shown.ended_at, shown.expires_at), (None, at(3_600)), "its expiry is shown as before");
    // Their expiry has passed as well, but enough of their watches ended before.
    let expire = || ExpireGroups { until: at(9_000), now: at(9_000) };
    let mut counts = Vec::new();
    let mut next = Some(Timestamp::default());
    while next.is_some() {
        next = fixture.store.expire_groups(expire()).await.expect("taken");
        counts.push(completed(&fixture).await);
    }
    assert_eq!(counts, [100, 120]);
    let shown = fixture.store.group(fixture.app, "group-119".to_owned()).await.expect("read").expect("there");
    assert_eq!((shown.ended_at, shown.expires_at), (Some(at(9_000)), at(3_600)));
    assert_eq!(fixture.store.expire_groups(expire()).await.expect("taken"), None);
    assert_eq!(completed(&fixture).await, 120, "once");
}

#[tokio::test]
async fn a_success_after_an_overdue_delivery_is_a_recovery() {
    let fixture = StoreFixture::new().await;
    let saved = super::sealing::save(&fixture, "recovers").await;
    let used = fixture.store.destinations_to_use(fixture.app, vec![saved.id]).await.expect("read");
    let deliver = async |job: &str| {
        let destinations = vec![used[0].0.clone()];
        let watch = fixture.register(NewWatch { destinations, ..fixture.watch(job) }).await;
        fixture.store.dispatcher_messages().take();
        fixture.end(watch.job_no, 0).await;
        take_deliveries(&fixture.store).pop().expect("a delivery")
    };
    fixture.store.note_running(NoteRunning { is_start: false, now: at(60) }).await.expect("noted");
    deliver("job_1").await;
    for seconds in (100..=2_000).step_by(100) {
        fixture.store.note_running(NoteRunning { is_start: false, now: at(seconds) }).await.expect("noted");
    }
    assert_eq!(fixture.end_overdue(Duration::from_secs(1_000), at(2_000)).await, 1);
    let sent = deliver("job_2").await;
    let no: SavedNo = sent.destination.saved.as_ref().expect("saved").no;
    let record = RecordAttempt {
        app: fixture.app,
        delivery: sent.id,
        event_type: sent.event_type,
        manual: false,
        before: 0,
        attempt: ringback::domain::Attempt { at: at(2_100), ..attempt() }.into(),
        after: NextStep::Succeeded,
        saved: Some((no, sent.destination.queue.clone())),
    };
    fixture.store.record_attempt(record).await.expect("recorded");
    let operational: Vec<EventType> =
        fixture.events().await.into_iter().filter(|one| !one.is_of_watch()).collect();
    assert_eq!(operational, [EventType::DeliveryExhausted, EventType::DestinationRecovered]);
}

crate::postgres::on_postgres_too! {
    a_stop_with_very_many_deliveries_is_continued_after_a_crash,
    very_much_progress_of_an_ended_watch_is_skipped_in_parts,
    very_many_deliveries_to_a_gone_address_are_skipped_in_parts,
    an_ending_to_an_ordered_destination_waits_for_no_skipped_progress,
    deliveries_behind_many_that_are_to_be_skipped_are_loaded,
    the_end_of_a_watch_of_which_all_is_delivered_leaves_nothing_to_skip,
    nothing_of_an_ended_watch_is_sent_after_its_stop,
    operations_that_skip_and_those_of_clients_have_alternate_turns,
    an_erasure_skips_nothing_that_it_deletes,
    a_stop_of_many_watches_stops_as_many_as_fit_a_transaction,
    groups_that_one_transaction_completes_follow_in_parts_after_a_crash,
    a_success_after_an_overdue_delivery_is_a_recovery,
}
