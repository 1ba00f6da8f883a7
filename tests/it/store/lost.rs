//! Loss of the PostgreSQL server: in a commit, between two commits, and for a long time.

use std::time::Duration;

use ringback::clock::Clock;
use ringback::domain::{Masked, NextStep, PollerMessage};
use ringback::store::{RecordAttempt, StoreError, WatchFilter};

use super::{START, StoreFixture, at, attempt, register_command, take_poller_messages};
use crate::cuttable_proxy::{Cut, Proxy};
use crate::harness::{Harness, guarded};
use crate::postgres::shared;
use ringback::store::DatabaseLocation;

/// Returns a store behind a proxy that can be cut; `None` if there is no server.
async fn cuttable_fixture(test: &str) -> Option<(StoreFixture, Proxy)> {
    let server = shared(test)?;
    let proxy = Proxy::start(server.socket());
    let location = DatabaseLocation::Server(Masked::new(proxy.url(&server.database())));
    let folder = tempfile::tempdir().expect("a folder");
    Some((StoreFixture::at(folder, location, START).await, proxy))
}

async fn watches(fixture: &StoreFixture) -> usize {
    fixture.store.watches(fixture.app, WatchFilter::default(), 10).await.expect("read").rows.len()
}

// As after SIGSTOP of the server.
#[tokio::test]
async fn a_silent_server_shows_in_readiness_and_metrics_soon() {
    let Some(server) = shared("a silent server") else { return };
    let proxy = Proxy::start(server.socket());
    let t = Harness::with(&[("RINGBACK_DATABASE_URL", &proxy.url(&server.database()))]).await;
    let refusing = async || {
        let answer = t.get_without_key("/metrics").await;
        answer.text().lines().any(|line| line == "ringback_store_refusing 1")
    };
    assert!(!refusing().await);
    proxy.hold();
    // Within the limit of a request of the test, which is that of an answer of the database.
    let problem = t.get_without_key("/readyz").await.expect(503);
    assert!(problem["detail"].as_str().unwrap().contains("the database does not answer"), "{problem}");
    t.clock.advance(Duration::from_secs(2));
    guarded("the gauge", async { while !refusing().await {} }).await;
    let watch = Clock::System.stopwatch();
    t.get_without_key("/readyz").await.expect(503);
    assert!(watch.elapsed() < Duration::from_secs(2), "it is known by now");
    proxy.release();
    guarded("an answer", async { while t.get_without_key("/readyz").await.status != 200 {} }).await;
    assert!(!refusing().await);
    t.finish().await;
}

#[tokio::test]
async fn a_commit_with_a_lost_answer_is_found_and_published() {
    let Some((fixture, proxy)) = cuttable_fixture("a commit whose answer was lost").await else { return };
    proxy.cut(Cut::After, false);
    let answer = fixture.store.register(register_command(fixture.watch("job_1"), None)).await;
    assert!(proxy.was_cut());
    assert!(matches!(answer, Ok(Ok(Ok(_)))), "{answer:?}");
    assert!(matches!(take_poller_messages(&fixture.store)[..], [PollerMessage::Watch(_)]));
    assert!(!fixture.store.refusing());
    assert_eq!(watches(&fixture).await, 1);
    fixture.register(fixture.watch("job_2")).await;
    assert_eq!(watches(&fixture).await, 2);
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_found_not_to_have_happened() {
    let Some((fixture, proxy)) = cuttable_fixture("a commit that never arrived").await else { return };
    proxy.cut(Cut::Before, false);
    let answer = fixture.store.register(register_command(fixture.watch("job_1"), None)).await;
    assert!(proxy.was_cut());
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(take_poller_messages(&fixture.store).is_empty());
    assert!(fixture.store.refusing(), "until a commit succeeds");
    assert_eq!(watches(&fixture).await, 0);
    fixture.register(fixture.watch("job_1")).await;
    assert!(!fixture.store.refusing());
    assert_eq!(watches(&fixture).await, 1);
}

#[tokio::test]
async fn an_unknown_commit_is_settled_before_any_other_write() {
    let Some((fixture, proxy)) = cuttable_fixture("a commit with an unknown outcome").await else { return };
    proxy.cut(Cut::After, true);
    let watch = fixture.watch("job_1");
    let answer = fixture.store.register(register_command(watch.clone(), None)).await;
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    assert!(fixture.store.refusing() && take_poller_messages(&fixture.store).is_empty());
    let answer = fixture.store.register(register_command(fixture.watch("job_2"), None)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(fixture.store.check_reads().await.is_err(), "readers are lost, too");
    proxy.open();
    guarded("the server", async { while fixture.store.check_writes().await.is_err() {} }).await;
    let messages = take_poller_messages(&fixture.store);
    let [PollerMessage::Watch(facts)] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!(facts.name.job_id, "job_1");
    assert_eq!(watches(&fixture).await, 1);
    assert!(!fixture.store.refusing());
}

#[tokio::test]
async fn an_attempt_written_twice_is_recorded_once() {
    let Some((fixture, proxy)) = cuttable_fixture("an attempt written again").await else { return };
    let send = fixture.delivery("job_1").await;
    let after = NextStep::Retry { step: 1, due_at: at(100), waited: Duration::ZERO };
    let record = RecordAttempt {
        app: fixture.app,
        delivery: send.id,
        event_type: send.event_type,
        manual: false,
        before: 0,
        attempt: attempt().into(),
        after,
        saved: None,
    };
    proxy.cut(Cut::After, true);
    let answer = fixture.store.record_attempt(record.clone()).await;
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    proxy.open();
    guarded("the record", async { while fixture.store.record_attempt(record.clone()).await.is_err() {} })
        .await;
    let (delivery, attempts) = fixture.shown_delivery(send.id).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(delivery.next_attempt_at, Some(at(100)));
}

#[tokio::test]
async fn a_connection_lost_between_two_writes_is_replaced() {
    let Some((fixture, proxy)) = cuttable_fixture("a connection that was lost").await else { return };
    for n in 0..5 {
        proxy.shake();
        // The sessions of the readers, too.
        assert_eq!(watches(&fixture).await, n);
        fixture.register(fixture.watch("job_1")).await;
    }
}

#[tokio::test]
async fn a_lost_server_is_noticed_and_found_again_without_requests() {
    let Some((fixture, proxy)) = cuttable_fixture("a server that is away").await else { return };
    assert!(!fixture.store.refusing());
    proxy.close();
    guarded("the loss", async {
        while !fixture.store.refusing() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = fixture.store.register(register_command(fixture.watch("job_1"), None)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    proxy.open();
    guarded("the server", async { while fixture.store.check_writes().await.is_err() {} }).await;
    assert!(!fixture.store.refusing());
}

#[tokio::test]
async fn an_old_session_that_still_holds_the_lock_is_terminated() {
    let Some((fixture, proxy)) = cuttable_fixture("a session that lingers").await else { return };
    proxy.say_nothing();
    for n in 0..2 {
        proxy.shake();
        guarded("the lock", async { while fixture.store.check_writes().await.is_err() {} }).await;
        fixture.register(fixture.watch("job_1")).await;
        assert_eq!(watches(&fixture).await, n + 1);
    }
}
