//! The feed of events, and the story of a watch.

use ringback::domain::{EventType, NextStep};
use ringback::store::{After, EventFilter, TimelineEntry, TimelinePosition};

use EventType::{JobCompleted, JobProcessing, JobProgress};

use super::{StoreFixture, at, observed, sends};

#[tokio::test]
async fn positions_have_no_gaps_whoever_writes_at_once() {
    let house = StoreFixture::new().await;
    let other = super::app(&house.store, "other").await;
    let mut jobs = Vec::new();
    for n in 0..60 {
        let mut watch = house.watch(&format!("job_{n}"));
        if n % 3 == 0 {
            watch.app = other;
        }
        jobs.push(house.register(watch).await.job_no);
    }
    let writers = jobs.into_iter().map(|job| {
        let store = house.store.clone();
        let end = super::ended(job, 0, ringback::domain::EndingKind::Completed, at(60));
        tokio::spawn(async move { store.end(end).await.expect("ended") })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.expect("ran");
    }
    for (app, count) in [(house.app, 40i64), (other, 20)] {
        let feed = house.store.events(app, After::Start, EventFilter::default(), 200).await;
        let feed = feed.expect("read").expect("a feed");
        let positions: Vec<i64> = feed.iter().map(|event| event.position).collect();
        assert_eq!(positions, (1..=count).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_reader_of_the_feed_that_goes_on_where_it_was_sees_everything_once() {
    let house = StoreFixture::new().await;
    let store = house.store.clone();
    let app = house.app;
    let reader = tokio::spawn(async move {
        let (mut after, mut seen) = (After::Start, Vec::new());
        while seen.len() < 100 {
            let page =
                store.events(app, after, EventFilter::default(), 7).await.expect("read").expect("a feed");
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
        let watch = house.register(house.watch(&format!("job_{n}"))).await;
        house.end(watch.job_no, 0).await;
        made.push(watch.id);
    }
    assert_eq!(reader.await.expect("ran"), made);
}

#[tokio::test]
async fn the_feed_goes_on_after_an_event_of_the_app_and_of_no_other() {
    let house = StoreFixture::new().await;
    let watch = house.register(house.follower("job_1")).await;
    house.store.observe(observed(watch.job_no, 0, 10, at(5))).await.expect("taken");
    house.end(watch.job_no, 0).await;
    let list = async |app, after, event_type| {
        let found = house.store.events(app, after, EventFilter { event_type }, 10).await.expect("read");
        found.map(|events| events.into_iter().map(|event| event.event_type).collect::<Vec<_>>())
    };
    let all = house.store.events(house.app, After::Start, EventFilter::default(), 10).await;
    let first = all.expect("read").expect("a feed").remove(0);
    assert_eq!(
        list(house.app, After::Start, None).await,
        Some(vec![JobProcessing, JobProgress, JobCompleted])
    );
    assert_eq!(list(house.app, After::Event(first.id), None).await, Some(vec![JobProgress, JobCompleted]));
    assert_eq!(list(house.app, After::Position(2), None).await, Some(vec![JobCompleted]));
    assert_eq!(list(house.app, After::Start, Some(JobCompleted)).await, Some(vec![JobCompleted]));
    let other = super::app(&house.store, "other").await;
    assert_eq!(list(other, After::Event(first.id), None).await, None, "never its own");
    assert_eq!(list(other, After::Start, None).await, Some(vec![]));
    assert!(house.store.event(other, first.id).await.expect("read").is_none());
    assert_eq!(house.store.event(house.app, first.id).await.expect("read").map(|e| e.body), Some(first.body));
}

#[tokio::test]
async fn the_story_of_a_watch_is_told_in_the_order_of_cause_and_effect() {
    let house = StoreFixture::new().await;
    let watch = house.register(house.follower("job_1")).await;
    house.store.observe(observed(watch.job_no, 0, 10, at(0))).await.expect("taken");
    house.end(watch.job_no, 0).await;
    let send = sends(&house.store).pop().expect("the ending");
    house.record(&send, NextStep::Succeeded).await;
    let stopped = house.register(house.watch("job_2")).await;
    house.stop(stopped.id).await;
    let page = async |id, after, limit| {
        house.store.story(house.app, id, after, limit).await.expect("read").expect("a story")
    };
    let told = async |id, limit| {
        let mut story = page(id, TimelinePosition::default(), limit).await;
        // The rest, a page at a time.
        while let Some((place, _)) = story.last() {
            let next = page(id, *place, limit).await;
            if next.is_empty() {
                break;
            }
            story.extend(next);
        }
        assert!(story.is_sorted_by_key(|(place, _)| place.at));
        let word = |timeline_entry| match timeline_entry {
            TimelineEntry::Registered => "registered".to_owned(),
            TimelineEntry::Observed { status, .. } => format!("observed {status}"),
            TimelineEntry::Event { event_type, .. } => event_type.to_string(),
            TimelineEntry::Delivery { status, .. } => format!("delivery {status}"),
            TimelineEntry::Attempt { status_code, .. } => format!("attempt {status_code:?}"),
            TimelineEntry::Stopped => "stopped".to_owned(),
        };
        story.into_iter().map(|(_, timeline_entry)| word(timeline_entry)).collect::<Vec<_>>()
    };
    let story = told(watch.id, 100).await;
    for limit in 1..=4 {
        assert_eq!(told(watch.id, limit).await, story, "by pages of {limit}");
    }
    assert_eq!(
        story,
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
    let other = super::app(&house.store, "other").await;
    let beginning = TimelinePosition::default();
    assert!(house.store.story(other, watch.id, beginning, 9).await.expect("read").is_none());
    let story = page(stopped.id, beginning, 9).await;
    assert!(matches!(story[..], [(_, TimelineEntry::Registered), (_, TimelineEntry::Stopped)]));
}

crate::postgres::on_postgres_too! {
    positions_have_no_gaps_whoever_writes_at_once,
    a_reader_of_the_feed_that_goes_on_where_it_was_sees_everything_once,
    the_feed_goes_on_after_an_event_of_the_app_and_of_no_other,
    the_story_of_a_watch_is_told_in_the_order_of_cause_and_effect,
}
