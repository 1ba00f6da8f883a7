//! The feed of events, and the timeline of a watch.

use ringback::domain::{EventType, NextStep, TimelineEntry};
use ringback::store::{After, EventFilter, TimelinePosition};

use EventType::{JobCompleted, JobProcessing, JobProgress};

use super::{StoreFixture, at, observed, take_deliveries};

#[tokio::test]
async fn feed_positions_have_no_gaps_under_concurrent_writes() {
    let fixture = StoreFixture::new().await;
    let other = super::app(&fixture.store, "other").await;
    let mut jobs = Vec::new();
    for n in 0..60 {
        let mut watch = fixture.watch(&format!("job_{n}"));
        if n % 3 == 0 {
            watch.app = other;
        }
        jobs.push(fixture.register(watch).await.job_no);
    }
    let writers = jobs.into_iter().map(|job| {
        let store = fixture.store.clone();
        let end = super::ended(job, 0, ringback::domain::EndingKind::Completed, at(60));
        tokio::spawn(async move { store.end_job(end).await.expect("ended") })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("ran");
    }
    for (app, count) in [(fixture.app, 40i64), (other, 20)] {
        let feed = fixture.store.events(app, After::Start, EventFilter::default(), 200).await;
        let feed = feed.expect("read").expect("a feed").rows;
        let positions: Vec<i64> = feed.iter().map(|event| event.position).collect();
        assert_eq!(positions, (1..=count).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_feed_reader_sees_every_event_once() {
    let fixture = StoreFixture::new().await;
    let store = fixture.store.clone();
    let app = fixture.app;
    let reader = tokio::spawn(async move {
        let (mut after, mut seen) = (After::Start, Vec::new());
        while seen.len() < 100 {
            let page = store
                .events(app, after, EventFilter::default(), 7)
                .await
                .expect("read")
                .expect("a feed")
                .rows;
            if let Some(last) = page.last() {
                after = After::Event(last.id);
            }
            seen.extend(page.into_iter().map(|event| event.watch));
            tokio::task::yield_now().await;
        }
        seen
    });
    let mut made = Vec::new();
    for n in 0..100 {
        let watch = fixture.register(fixture.watch(&format!("job_{n}"))).await;
        fixture.end(watch.job_no, 0).await;
        made.push(watch.id);
    }
    let made: Vec<_> = made.into_iter().map(Some).collect();
    assert_eq!(reader.await.expect("ran"), made);
}

#[tokio::test]
async fn a_feed_continues_only_after_events_of_its_app() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.follower("job_1")).await;
    fixture.store.record_observation(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    fixture.end(watch.job_no, 0).await;
    let list = async |app, after, event_type| {
        let filter = EventFilter { event_type, ..EventFilter::default() };
        let found = fixture.store.events(app, after, filter, 10).await.expect("read");
        found.map(|events| events.rows.into_iter().map(|event| event.event_type).collect::<Vec<_>>())
    };
    let all = fixture.store.events(fixture.app, After::Start, EventFilter::default(), 10).await;
    let first = all.expect("read").expect("a feed").rows.remove(0);
    assert_eq!(
        list(fixture.app, After::Start, None).await,
        Some(vec![JobProcessing, JobProgress, JobCompleted])
    );
    assert_eq!(list(fixture.app, After::Event(first.id), None).await, Some(vec![JobProgress, JobCompleted]));
    assert_eq!(list(fixture.app, After::Position(2), None).await, Some(vec![JobCompleted]));
    assert_eq!(list(fixture.app, After::Start, Some(JobCompleted)).await, Some(vec![JobCompleted]));
    let other = super::app(&fixture.store, "other").await;
    assert_eq!(list(other, After::Event(first.id), None).await, None, "never its own");
    assert_eq!(list(other, After::Start, None).await, Some(vec![]));
    assert!(fixture.store.event(other, first.id).await.expect("read").is_none());
    assert_eq!(
        fixture.store.event(fixture.app, first.id).await.expect("read").map(|e| e.body),
        Some(first.body)
    );
}

#[tokio::test]
async fn a_timeline_is_in_the_order_of_cause_and_effect() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.follower("job_1")).await;
    fixture.store.record_observation(observed(watch.job_no, 0, 10, at(0))).await.expect("taken");
    fixture.end(watch.job_no, 0).await;
    let send = take_deliveries(&fixture.store).pop().expect("the ending");
    fixture.record(&send, NextStep::Succeeded).await;
    let stopped = fixture.register(fixture.watch("job_2")).await;
    fixture.stop(stopped.id).await;
    let page = async |id, after, limit| {
        fixture.store.timeline(fixture.app, id, after, limit).await.expect("read").expect("a timeline")
    };
    let entries_of = async |id, limit| {
        let mut timeline = page(id, TimelinePosition::default(), limit).await;
        // The other pages.
        while let Some((position, _)) = timeline.last() {
            let next = page(id, *position, limit).await;
            if next.is_empty() {
                break;
            }
            timeline.extend(next);
        }
        assert!(timeline.is_sorted_by_key(|(position, _)| position.at));
        let word = |timeline_entry| match timeline_entry {
            TimelineEntry::Registered { .. } => "registered".to_owned(),
            TimelineEntry::Observed { status, .. } => format!("observed {status}"),
            TimelineEntry::Event { event_type, .. } => event_type.to_string(),
            TimelineEntry::Delivery { status, .. } => format!("delivery {status}"),
            TimelineEntry::Attempt { status_code, .. } => format!("attempt {status_code:?}"),
            TimelineEntry::Stopped { .. } => "stopped".to_owned(),
            TimelineEntry::CancelRequested { .. } => "cancel requested".to_owned(),
            TimelineEntry::CancelFinished { status, .. } => format!("cancel {status}"),
        };
        timeline.into_iter().map(|(_, timeline_entry)| word(timeline_entry)).collect::<Vec<_>>()
    };
    let timeline = entries_of(watch.id, 100).await;
    for limit in 1..=4 {
        assert_eq!(entries_of(watch.id, limit).await, timeline, "by pages of {limit}");
    }
    assert_eq!(
        timeline,
        [
            "registered",
            "observed processing",
            "job.processing",
            "job.progress",
            "delivery skipped",
            "delivery skipped",
            "observed completed",
            "job.completed",
            "delivery succeeded",
            "attempt Some(500)",
        ]
    );
    let other = super::app(&fixture.store, "other").await;
    let beginning = TimelinePosition::default();
    assert!(fixture.store.timeline(other, watch.id, beginning, 9).await.expect("read").is_none());
    let timeline = page(stopped.id, beginning, 9).await;
    assert!(matches!(
        timeline[..],
        [(_, TimelineEntry::Registered { .. }), (_, TimelineEntry::Stopped { .. })]
    ));
}

crate::postgres::on_postgres_too! {
    feed_positions_have_no_gaps_under_concurrent_writes,
    a_feed_reader_sees_every_event_once,
    a_feed_continues_only_after_events_of_its_app,
    a_timeline_is_in_the_order_of_cause_and_effect,
}
