//! Loss of the PostgreSQL server: in a commit, between two commits, and for a long time.

use ringback::domain::{NextStep, PollerMessage};
use ringback::store::{RecordAttempt, Replayable, StoreError, WatchFilter};

use super::{START, StoreFixture, asked, at, attempt, plans};
use crate::cuttable_proxy::{Cut, Proxy};
use crate::harness::guarded;
use crate::postgres::shared;
use ringback::store::DatabaseLocation;

/// Returns a store behind a proxy that can be cut; `None` if there is no server.
async fn house(test: &str) -> Option<(StoreFixture, Proxy)> {
    let server = shared(test)?;
    let proxy = Proxy::start(server.socket());
    let place = DatabaseLocation::Server(proxy.url(&server.database()));
    let folder = tempfile::tempdir().expect("a folder");
    Some((StoreFixture::at(folder, place, START).await, proxy))
}

async fn watches(house: &StoreFixture) -> usize {
    house.store.watches(house.app, WatchFilter::default(), 10).await.expect("read").len()
}

#[tokio::test]
async fn a_commit_with_a_lost_answer_is_found_and_published() {
    let Some((house, proxy)) = house("a commit whose answer was lost").await else { return };
    proxy.cut(Cut::After, false);
    let answer = house.store.register(asked(house.watch("job_1"), None)).await;
    assert!(proxy.was_cut());
    assert!(matches!(answer, Ok(Replayable::Done(_))), "{answer:?}");
    assert!(matches!(plans(&house.store)[..], [PollerMessage::Watch(_)]));
    assert!(!house.store.refusing());
    assert_eq!(watches(&house).await, 1);
    house.register(house.watch("job_2")).await;
    assert_eq!(watches(&house).await, 2);
}

#[tokio::test]
async fn a_commit_that_never_arrived_is_found_not_to_have_happened() {
    let Some((house, proxy)) = house("a commit that never arrived").await else { return };
    proxy.cut(Cut::Before, false);
    let answer = house.store.register(asked(house.watch("job_1"), None)).await;
    assert!(proxy.was_cut());
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(plans(&house.store).is_empty());
    assert!(house.store.refusing(), "until a commit succeeds");
    assert_eq!(watches(&house).await, 0);
    house.register(house.watch("job_1")).await;
    assert!(!house.store.refusing());
    assert_eq!(watches(&house).await, 1);
}

#[tokio::test]
async fn an_unknown_commit_is_settled_before_any_other_write() {
    let Some((house, proxy)) = house("a commit of which nobody knows").await else { return };
    proxy.cut(Cut::After, true);
    let watch = house.watch("job_1");
    let answer = house.store.register(asked(watch.clone(), None)).await;
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    assert!(house.store.refusing() && plans(&house.store).is_empty());
    let answer = house.store.register(asked(house.watch("job_2"), None)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    assert!(house.store.check_reads().await.is_err(), "readers are lost, too");
    proxy.open();
    guarded("the server", async { while house.store.check_writes().await.is_err() {} }).await;
    let told = plans(&house.store);
    let [PollerMessage::Watch(facts)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(facts.name.job_id, "job_1");
    assert_eq!(watches(&house).await, 1);
    assert!(!house.store.refusing());
}

#[tokio::test]
async fn an_attempt_written_twice_is_recorded_once() {
    let Some((house, proxy)) = house("an attempt written again").await else { return };
    let send = house.delivery("job_1").await;
    let after = NextStep::Retry { step: 1, due_at: at(100) };
    let record = RecordAttempt {
        app: house.app,
        delivery: send.id,
        manual: false,
        before: 0,
        attempt: attempt(),
        after,
    };
    proxy.cut(Cut::After, true);
    let answer = house.store.record_attempt(record.clone()).await;
    assert!(matches!(answer, Err(StoreError::Unknown(_))), "{answer:?}");
    proxy.open();
    guarded("the record", async { while house.store.record_attempt(record.clone()).await.is_err() {} }).await;
    let (delivery, attempts) = house.shown_delivery(send.id).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(delivery.next_attempt_at, Some(at(100)));
}

#[tokio::test]
async fn a_connection_lost_between_two_writes_is_replaced() {
    let Some((house, proxy)) = house("a connection that was lost").await else { return };
    for n in 0..5 {
        proxy.shake();
        // The sessions of the readers, too.
        assert_eq!(watches(&house).await, n);
        house.register(house.watch("job_1")).await;
    }
}

#[tokio::test]
async fn a_lost_server_is_noticed_and_found_again_without_requests() {
    let Some((house, proxy)) = house("a server that is away").await else { return };
    assert!(!house.store.refusing());
    proxy.close();
    guarded("the loss", async {
        while !house.store.refusing() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let answer = house.store.register(asked(house.watch("job_1"), None)).await;
    assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
    proxy.open();
    guarded("the server", async { while house.store.check_writes().await.is_err() {} }).await;
    assert!(!house.store.refusing());
}

#[tokio::test]
async fn an_old_session_that_still_holds_the_lock_is_terminated() {
    let Some((house, proxy)) = house("a session that lingers").await else { return };
    proxy.say_nothing();
    for n in 0..2 {
        proxy.shake();
        guarded("the lock", async { while house.store.check_writes().await.is_err() {} }).await;
        house.register(house.watch("job_1")).await;
        assert_eq!(watches(&house).await, n + 1);
    }
}
