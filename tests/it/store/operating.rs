//! Operations: steps, positions and limits.

use ringback::domain::{
    DeliveryStatus, EndingKind, NextStep, OperationId, OperationStatus, Reason, WatchStatus,
};
use ringback::store::{
    AdvanceOperation, CreateOperation, DeliveryFilter, EraseWatch, OperationTurns, RunningOperation, Subject,
    TooManyOperations, WatchErasure, WatchFilter,
};

use super::{StoreFixture, app, at, ended, observed, take_deliveries};

/// Creates an operation and returns it.
async fn create(fixture: &StoreFixture, subject: Subject) -> RunningOperation {
    let id = OperationId(fixture.store.ids().draw(at(50)));
    let create = CreateOperation { id, app: fixture.app, subject, total: 0, now: at(50) };
    fixture.store.create_operation(create).await.expect("taken").expect("no key").expect("created");
    fixture.store.next_operation(&mut OperationTurns::default()).await.expect("read").expect("an operation")
}

/// Makes one step. Returns whether the operation is still in progress.
pub async fn step(fixture: &StoreFixture, operation: &RunningOperation, rows: u32) -> bool {
    let page = fixture.store.operation_page(operation, rows).await.expect("read");
    let advance = AdvanceOperation { no: operation.no, page, rows, now: at(60) };
    fixture.store.advance_operation(advance).await.expect("taken")
}

fn watching() -> Subject {
    Subject::StopWatches(WatchFilter { status: Some(WatchStatus::Watching), ..WatchFilter::default() })
}

#[tokio::test]
async fn an_operation_continues_at_its_position_after_a_restart() {
    let mut fixture = StoreFixture::new().await;
    let mut watches = Vec::new();
    for n in 0..5 {
        watches.push(fixture.register(fixture.watch(&format!("job_{n}"))).await.id);
    }
    let mut operation = create(&fixture, watching()).await;
    for _ in 0..2 {
        assert!(step(&fixture, &operation, 2).await);
        fixture = fixture.reopen(at(55)).await;
        operation = fixture
            .store
            .next_operation(&mut OperationTurns::default())
            .await
            .expect("read")
            .expect("in progress");
    }
    // From the newest to the oldest.
    assert_eq!(fixture.shown(watches[0]).await.status, WatchStatus::Watching);
    assert_eq!(fixture.shown(watches[1]).await.status, WatchStatus::Stopped);
    assert!(!step(&fixture, &operation, 2).await);
    assert_eq!(fixture.shown(watches[0]).await.status, WatchStatus::Stopped);
    let shown = fixture.store.operation(fixture.app, operation.id).await.expect("read").expect("shown");
    assert_eq!((shown.status, shown.total, shown.done), (OperationStatus::Succeeded, 5, 5));
    assert!(fixture.store.next_operation(&mut OperationTurns::default()).await.expect("read").is_none());
}

#[tokio::test]
async fn a_step_that_is_repeated_has_no_further_effect() {
    let fixture = StoreFixture::new().await;
    for n in 0..5 {
        fixture.register(fixture.watch(&format!("job_{n}"))).await;
    }
    let operation = create(&fixture, watching()).await;
    for _ in 0..3 {
        // The position of this copy does not change.
        assert!(step(&fixture, &operation, 2).await);
    }
    let shown = fixture.store.operation(fixture.app, operation.id).await.expect("read").expect("shown");
    assert_eq!((shown.status, shown.done), (OperationStatus::Running, 2));
}

#[tokio::test]
async fn an_operation_leaves_out_what_is_created_later() {
    let fixture = StoreFixture::new().await;
    let earlier = fixture.register(fixture.watch("job_1")).await;
    let operation = create(&fixture, watching()).await;
    let later = fixture.register(fixture.watch("job_2")).await;
    assert!(!step(&fixture, &operation, 100).await);
    assert_eq!(fixture.shown(earlier.id).await.status, WatchStatus::Stopped);
    assert_eq!(fixture.shown(later.id).await.status, WatchStatus::Watching);
}

#[tokio::test]
async fn a_step_changes_only_what_the_filter_still_selects() {
    let fixture = StoreFixture::new().await;
    let running = fixture.register(fixture.follower("job_1")).await;
    fixture.store.record_observation(observed(running.job_no, 0, 10, at(5))).await.expect("taken");
    let mut sent = vec![take_deliveries(&fixture.store).pop().expect("a delivery")];
    for job in ["job_2", "job_3"] {
        sent.push(fixture.delivery(job).await);
    }
    for delivery in &sent[..2] {
        fixture.record(delivery, NextStep::Failed(Reason::Exhausted)).await;
    }
    let statuses = vec![DeliveryStatus::Failed, DeliveryStatus::Pending];
    let subject = Subject::RetryDeliveries(DeliveryFilter { statuses, ..DeliveryFilter::default() });
    let operation = create(&fixture, subject).await;
    let page = fixture.store.operation_page(&operation, 100).await.expect("read");
    // Between the two parts of the step, one watch is stopped, and another delivery fails.
    fixture.stop(sent[0].watch).await;
    fixture.record(&sent[2], NextStep::Failed(Reason::Exhausted)).await;
    let advance = AdvanceOperation { no: operation.no, page, rows: 100, now: at(60) };
    assert!(!fixture.store.advance_operation(advance).await.expect("taken"));
    let due: Vec<_> = fixture.page(at(60), 9, &[]).await.deliveries.iter().map(|one| one.id).collect();
    assert!(due.len() == 2 && due.contains(&sent[1].id) && due.contains(&sent[2].id), "{due:?}");
    let shown = fixture.store.operation(fixture.app, operation.id).await.expect("read").expect("shown");
    assert_eq!((shown.status, shown.done), (OperationStatus::Succeeded, 2));
}

#[tokio::test]
async fn the_operations_in_progress_of_an_app_are_limited() {
    let fixture = StoreFixture::new().await;
    let other = app(&fixture.store, "other").await;
    let mut create = CreateOperation {
        id: OperationId(fixture.store.ids().draw(at(1))),
        app: fixture.app,
        subject: watching(),
        total: 1,
        now: at(1),
    };
    for n in 0..=16 {
        create.id = OperationId(fixture.store.ids().draw(at(1)));
        let made = fixture.store.create_operation(create.clone()).await.expect("taken").expect("no key");
        assert_eq!(made, if n < 16 { Ok(()) } else { Err(TooManyOperations(16)) });
    }
    create.app = other;
    create.id = OperationId(fixture.store.ids().draw(at(1)));
    let made = fixture.store.create_operation(create.clone()).await.expect("taken").expect("no key");
    assert_eq!(made, Ok(()));
    // It belongs to one app.
    assert!(fixture.store.operation(other, create.id).await.expect("read").is_some());
    assert!(fixture.store.operation(fixture.app, create.id).await.expect("read").is_none());
}

#[tokio::test]
async fn an_erasure_continues_after_a_restart() {
    let fixture = StoreFixture::new().await;
    let sent = fixture.delivery("job_1").await;
    fixture.record(&sent, NextStep::Failed(Reason::Exhausted)).await;
    let operation = OperationId(fixture.store.ids().draw(at(50)));
    let erase = EraseWatch { operation, app: fixture.app, watch: sent.watch, rows: 1, now: at(50) };
    let erased = fixture.store.erase_watch(erase).await.expect("taken");
    let WatchErasure::More(no) = erased else { panic!("{erased:?}") };
    assert!(fixture.store.watch(fixture.app, sent.watch).await.expect("read").is_none());
    let fixture = fixture.reopen(at(55)).await;
    let left = fixture
        .store
        .next_operation(&mut OperationTurns::default())
        .await
        .expect("read")
        .expect("in progress");
    assert_eq!((left.no, &left.subject), (no, &Subject::EraseWatch(sent.watch)));
    assert!(fixture.store.operation(fixture.app, left.id).await.expect("read").is_none(), "it is not shown");
    let mut steps = 0;
    while step(&fixture, &left, 2).await {
        steps += 1;
    }
    assert!((1..9).contains(&steps), "{steps}");
    assert!(fixture.store.delivery(fixture.app, sent.id, 9).await.expect("read").is_none());
    assert_eq!(fixture.events().await.len(), 0);
    let position = fixture.store.follow_from(fixture.app, Some(sent.event)).await.expect("read");
    assert_eq!(position, Some(1));
    assert_eq!(fixture.store.erase_watch(erase).await.expect("taken"), WatchErasure::NotFound);
}

#[tokio::test]
async fn late_results_of_an_erased_job_are_harmless() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.watch("job_1")).await;
    let operation = OperationId(fixture.store.ids().draw(at(50)));
    let erase = EraseWatch { operation, app: fixture.app, watch: watch.id, rows: 100, now: at(50) };
    assert_eq!(fixture.store.erase_watch(erase).await.expect("taken"), WatchErasure::Done);
    let end = ended(watch.job_no, 0, ringback::domain::EndingKind::Completed, at(60));
    assert!(!fixture.store.end_job(end).await.expect("nothing to end"));
    assert!(take_deliveries(&fixture.store).is_empty());
    assert_eq!(fixture.events().await.len(), 0);
    // The job is watched again: it begins the next generation.
    let again = fixture.register(fixture.watch("job_1")).await;
    assert_eq!((again.job_no, again.status), (watch.job_no, WatchStatus::Watching));
}

#[tokio::test]
async fn no_event_outlives_the_erasure_of_its_watch() {
    let fixture = StoreFixture::new().await;
    for n in 0..10 {
        let watch = fixture.register(fixture.watch(&format!("job_{n}"))).await;
        let operation = OperationId(fixture.store.ids().draw(at(50)));
        let erase = EraseWatch { operation, app: fixture.app, watch: watch.id, rows: 100, now: at(50) };
        // Both are in one transaction as a rule.
        let end = fixture.store.end_job(ended(watch.job_no, 0, EndingKind::Completed, at(50)));
        let (end, erased) = tokio::join!(end, fixture.store.erase_watch(erase));
        end.expect("ended");
        assert_eq!(erased.expect("erased"), WatchErasure::Done);
    }
    for table in ["events", "deliveries", "watches"] {
        assert_eq!(fixture.count(table), 0, "{table}");
    }
}

crate::postgres::on_postgres_too! {
    an_operation_continues_at_its_position_after_a_restart,
    a_step_that_is_repeated_has_no_further_effect,
    an_operation_leaves_out_what_is_created_later,
    a_step_changes_only_what_the_filter_still_selects,
    the_operations_in_progress_of_an_app_are_limited,
    an_erasure_continues_after_a_restart,
    late_results_of_an_erased_job_are_harmless,
    no_event_outlives_the_erasure_of_its_watch,
}
