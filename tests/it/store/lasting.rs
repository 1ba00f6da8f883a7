//! Durability over a restart, the retention and a full disk; one process at a time.

use std::time::Duration;

use ringback::domain::{
    EndingKind, JobNo, JobStatus, NewWatch, NextStep, Payload, Reason, TimelineEntry, WatchId,
};
use ringback::store::{
    DatabaseLocation, EndJob, EventFilter, LoadDueDeliveries, Prune, PrunePosition, Pruned, RecordAttempt,
    RetryDelivery, StopWatch, StoreError, WatchFilter,
};

use super::{PENDING_MAX, START, StoreFixture, at, attempt, ended, file, observed, open, take_deliveries};
use crate::small_disk::small_disk;

#[tokio::test]
async fn ids_stay_in_order_after_a_restart_with_an_earlier_clock() {
    let fixture = StoreFixture::new().await;
    let before = fixture.delivery("job_1").await;
    let fixture = fixture.reopen(START.minus(Duration::from_secs(9_999_999))).await;
    let id = WatchId(fixture.store.ids().draw(START.minus(Duration::from_secs(9_999_999))));
    assert!(id.0 > before.id.0 && id.0 > before.watch.0);
}

#[tokio::test]
async fn the_first_app_and_its_key_are_created_once() {
    let fixture = StoreFixture::new().await;
    let made = fixture.store.app(fixture.app).expect("an app");
    let fixture = fixture.reopen(at(1)).await;
    let again = fixture.store.app(fixture.app).expect("an app");
    assert_eq!((made.id, &made.signing_secret), (again.id, &again.signing_secret));
    assert!(fixture.store.key(&[7; 32], at(1)).is_some() && fixture.store.key(&[8; 32], at(1)).is_none());
}

#[tokio::test]
async fn a_read_after_a_reply_sees_the_write() {
    let fixture = StoreFixture::new().await;
    for n in 0..50 {
        let watch = fixture.register(fixture.watch(&format!("job_{n}"))).await;
        assert_eq!(fixture.shown(watch.id).await.id, watch.id);
        fixture.end(watch.job_no, 0).await;
        assert_eq!(fixture.events().await.len(), n + 1);
    }
}

/// Once, 400 registrations of a job of which one watch was left had 401 endings, with 80 MB.
#[tokio::test]
async fn endings_are_pruned_with_the_watches_that_show_them() {
    let fixture = StoreFixture::new().await;
    let store = &fixture.store;
    let raw = vec![b'x'; 10_000];
    let mut watches = Vec::new();
    for generation in 0..20 {
        let watch = fixture.register(NewWatch { payload: Payload::Raw, ..fixture.watch("job_1") }).await;
        let ending =
            ended(watch.job_no, generation, EndingKind::Completed, at(60 + generation.cast_unsigned()));
        let ending = EndJob { raw: Some(raw.clone().into()), ..ending };
        store.end_job(ending).await.expect("ended");
        watches.push(watch);
    }
    let deliveries = take_deliveries(store);
    for delivery in deliveries.iter().filter(|delivery| delivery.watch != watches[7].id) {
        fixture.record(delivery, NextStep::Succeeded).await;
    }
    let last = fixture.register(fixture.watch("job_1")).await;
    fixture.prune(at(79), at(79), at(100)).await;
    let left = store.watches(fixture.app, WatchFilter::default(), 100).await.expect("read");
    let left: Vec<WatchId> = left.rows.iter().map(|watch| watch.id).collect();
    assert_eq!(left, [last.id, watches[19].id, watches[7].id]);
    assert_eq!(fixture.count("endings"), 2);
    let [pending] = &fixture.page(at(10_000), 9, &[]).await.deliveries[..] else { panic!("one is pending") };
    assert_eq!(&*pending.body, raw);
    assert_eq!(fixture.shown(watches[7].id).await.seen.status, JobStatus::Completed);
}

#[tokio::test]
async fn observations_are_pruned_with_the_watches_that_show_them() {
    let fixture = StoreFixture::new().await;
    let store = &fixture.store;
    let first = fixture.register(fixture.follower("job_1")).await;
    for n in 0..10 {
        store
            .record_observation(observed(first.job_no, 0, n, at(10 + u64::from(n))))
            .await
            .expect("recorded");
    }
    let second = fixture.register(NewWatch { created_at: at(15), ..fixture.follower("job_1") }).await;
    store
        .stop_watch(StopWatch { app: fixture.app, watch: first.id, now: at(20) })
        .await
        .expect("stopped")
        .expect("no key")
        .expect("a watch");
    for n in 0..10 {
        store
            .record_observation(observed(first.job_no, 0, n, at(30 + u64::from(n))))
            .await
            .expect("recorded");
    }
    fixture.prune(at(25), at(25), at(100)).await;
    assert_eq!(fixture.count("observations"), 15, "those before the second watch are deleted");
    let timeline = store.timeline(fixture.app, second.id, Default::default(), 100).await;
    let timeline = timeline.expect("read").expect("there");
    let is_observed = |entry: &&_| matches!(entry, (_, TimelineEntry::Observed { .. }));
    assert_eq!(timeline.iter().filter(is_observed).count(), 15);
}

#[tokio::test]
async fn old_rows_are_pruned_except_pending_deliveries() {
    let fixture = StoreFixture::new().await;
    let done = fixture.delivery("job_1").await;
    fixture.record(&done, NextStep::Failed(Reason::Gone)).await;
    let pending = fixture.delivery("job_2").await;
    let running = fixture.register(fixture.watch("job_3")).await;
    let prune = async |events, watches| fixture.prune(at(events), at(watches), at(100)).await;
    let left = async || {
        let watches =
            fixture.store.watches(fixture.app, WatchFilter::default(), 10).await.expect("read").rows.len();
        (watches, fixture.events().await.len())
    };
    assert_eq!((prune(60, 60).await, left().await), (0, (3, 2)), "nothing is older");
    assert_eq!((prune(61, 0).await, left().await), (1, (3, 1)), "its events first");
    assert!(fixture.store.delivery(fixture.app, done.id, 1).await.expect("read").is_none());
    assert_eq!((prune(61, 61).await, left().await), (1, (2, 1)));
    assert_eq!(prune(61, 61).await, 0);
    assert!(fixture.store.watch(fixture.app, pending.watch).await.expect("read").is_some());
    fixture.record(&pending, NextStep::Succeeded).await;
    assert_eq!(prune(61, 61).await, 2, "both at once");
    assert_eq!(left().await, (1, 0));
    assert_eq!(fixture.store.jobs(JobNo(0), 9, at(0)).await.expect("read").jobs[0].no, running.job_no);
    // The positions of the feed continue.
    fixture.end(running.job_no, 0).await;
    let feed =
        fixture.store.events(fixture.app, ringback::store::After::Start, EventFilter::default(), 9).await;
    assert_eq!(feed.expect("read").expect("a feed").rows[0].position, 3);
}

#[tokio::test]
async fn an_old_manual_retry_keeps_no_watch() {
    let fixture = StoreFixture::new().await;
    let failed = fixture.delivery("job_1").await;
    fixture.record(&failed, NextStep::Failed(Reason::Exhausted)).await;
    let retry = RetryDelivery { app: fixture.app, delivery: failed.id, now: at(80) };
    fixture.store.retry_delivery(retry).await.expect("taken").expect("no key").expect("retried");
    let most = PENDING_MAX.as_secs();
    for (now, deleted) in [(80 + most, 0), (81 + most, 2)] {
        assert_eq!(fixture.prune(at(70), at(70), at(now)).await, deleted);
    }
}

/// Deletes everything that is old enough. Returns the number that each transaction has deleted.
async fn prune_in_chunks(fixture: &StoreFixture) -> Vec<usize> {
    let (before, now) = (at(100_000), at(100));
    let after = PrunePosition::default();
    let mut prune = Prune {
        watches_before: before,
        events_before: before,
        pending_max: PENDING_MAX,
        now,
        after,
        rows: Prune::ROWS_MAX,
    };
    let mut chunks = Vec::new();
    while let Pruned { count, next: Some(next) } = fixture.store.prune(prune).await.expect("pruned") {
        assert!(count > 0 || prune.after != next, "it continues");
        chunks.push(count);
        prune.after = next;
    }
    chunks
}

#[tokio::test]
async fn a_watch_with_many_rows_is_deleted_in_parts() {
    let fixture = StoreFixture::new().await;
    // A delivery that was often retried manually, and an ordinary watch that ended later.
    let delivery = fixture.delivery("job_1").await;
    fixture.record(&delivery, NextStep::Failed(Reason::Gone)).await;
    let (app, event_type, delivery) = (fixture.app, delivery.event_type, delivery.id);
    for before in 1..1_050 {
        let retry = RetryDelivery { app, delivery, now: at(80) };
        fixture.store.retry_delivery(retry).await.expect("taken").expect("no key").expect("retried");
        let after = NextStep::Unchanged;
        let (attempt, saved) = (attempt().into(), None);
        let record = RecordAttempt { app, delivery, event_type, manual: true, before, attempt, after, saved };
        fixture.store.record_attempt(record).await.expect("recorded");
    }
    let small = fixture.delivery("job_2").await;
    fixture.record(&small, NextStep::Succeeded).await;
    assert_eq!(prune_in_chunks(&fixture).await, [1, 4], "a part, then the rest with the small watch");
    assert!(fixture.store.watch(fixture.app, small.watch).await.expect("read").is_none());
}

#[tokio::test]
async fn a_chunk_of_the_deletion_continues_after_kept_watches() {
    let fixture = StoreFixture::new().await;
    // More than one transaction examines: all keep a pending delivery, except for the last one.
    let mut last = None;
    for n in 0..1_001 {
        let watch = fixture.register(fixture.watch(&format!("job_{n}"))).await;
        let end = ended(watch.job_no, 0, EndingKind::Completed, at(60 + n));
        fixture.store.end_job(end).await.expect("ended");
        last = take_deliveries(&fixture.store).pop();
    }
    fixture.record(&last.expect("a delivery"), NextStep::Succeeded).await;
    assert_eq!(
        prune_in_chunks(&fixture).await,
        [0, 2],
        "the first chunk keeps all, and the next one begins after it"
    );
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let fixture = StoreFixture::new().await;
    let error = open(&fixture.location, START).expect_err("refused").to_string();
    assert!(error.contains("is in use by another ringback"), "{error}");
    fixture.register(fixture.watch("job_1")).await;
    let (_folder, location) = fixture.close().await;
    drop(open(&location, START).expect("free again"));
}

// Once: it is about files.
#[tokio::test]
async fn the_same_file_by_another_name_is_refused_too() {
    let fixture = StoreFixture::new().await;
    let DatabaseLocation::File(path) = &fixture.location else { panic!("a file") };
    let link = path.with_file_name("link.db");
    std::os::unix::fs::symlink(path, &link).expect("linked");
    let error = open(&DatabaseLocation::File(link.clone()), START).expect_err("refused").to_string();
    assert!(error.contains("is in use by another ringback"), "{error}");
    let second = path.with_file_name("second.db");
    std::fs::hard_link(path, &second).expect("linked");
    let error = open(&DatabaseLocation::File(second), START).expect_err("refused").to_string();
    assert!(error.contains("has 2 names (hard links)"), "{error}");
}

// Once: it is about files.
#[tokio::test]
async fn the_lock_is_on_the_file_and_not_on_its_name() {
    let fixture = StoreFixture::new().await;
    let moved = file(&fixture.location).with_file_name("moved.db");
    std::fs::rename(file(&fixture.location), &moved).expect("renamed");
    let error = open(&DatabaseLocation::File(moved.clone()), START).expect_err("refused").to_string();
    assert!(error.contains("is in use by another ringback; stop"), "{error}");
    std::fs::rename(&moved, file(&fixture.location)).expect("renamed");
    // The refused start dropped none of SQLite's own locks.
    fixture.register(fixture.watch("job_1")).await;
}

// Once: it is about files. The file beside the database was the only lock of version 0.1.0.
#[tokio::test]
async fn a_process_of_the_first_version_is_excluded_too() {
    let (_folder, location) = StoreFixture::new().await.close().await;
    let lock = std::fs::File::open(format!("{}.lock", file(&location).display())).expect("a lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    let error = open(&location, START).expect_err("refused").to_string();
    assert!(error.contains("is in use by another ringback, of an older version"), "{error}");
    drop(lock);
    drop(open(&location, START).expect("free"));
}

// Once: it is about files.
#[tokio::test]
async fn no_other_user_can_open_the_lock() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, location) = StoreFixture::new().await.close().await;
    let lock = std::path::PathBuf::from(format!("{}.lock", file(&location).display()));
    let mode = || std::fs::metadata(&lock).expect("a lock").permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    // As version 0.1.0 made it.
    std::fs::set_permissions(&lock, std::fs::Permissions::from_mode(0o644)).expect("changed");
    drop(open(&location, START).expect("opens"));
    assert_eq!(mode(), 0o600);
}

// Once: a server reports damage itself.
#[tokio::test]
async fn a_database_with_garbage_pages_is_not_opened() {
    use std::os::unix::fs::FileExt as _;
    let fixture = StoreFixture::new().await;
    for n in 0..200 {
        fixture.register(fixture.watch(&format!("job_{n}"))).await;
    }
    let (_folder, location) = fixture.close().await;
    let database = std::fs::OpenOptions::new().write(true).open(file(&location)).expect("opens");
    let pages = database.metadata().expect("read").len() / 4096;
    for page in [pages - 2, pages - 1] {
        database.write_all_at(&[0x5a; 4096], page * 4096).expect("written");
    }
    let error = format!("{:#}", open(&location, START).expect_err("refused"));
    assert!(error.contains("is damaged") && error.contains("restore a backup"), "{error}");
}

// Once: it writes into the file.
#[tokio::test]
async fn a_file_of_a_newer_version_is_refused_and_left_alone() {
    let (_folder, location) = StoreFixture::new().await.close().await;
    let db = rusqlite::Connection::open(file(&location)).expect("opens");
    db.pragma_update(None, "user_version", 999).expect("set");
    drop(db);
    let error = format!("{:#}", open(&location, START).expect_err("refused"));
    assert!(error.contains("written by a newer version of ringback"), "{error}");
    let db = rusqlite::Connection::open(file(&location)).expect("opens");
    let version: i64 = db.query_row("pragma user_version", [], |row| row.get(0)).expect("read");
    assert_eq!(version, 999);
}

#[tokio::test]
async fn a_repeated_write_changes_nothing() {
    let fixture = StoreFixture::new().await;
    let watch = fixture.register(fixture.follower("job_1")).await;
    let observation = observed(watch.job_no, 0, 10, at(5));
    for _ in 0..2 {
        fixture.store.record_observation(observation.clone()).await.expect("taken");
    }
    assert_eq!(fixture.events().await.len(), 2, "processing and progress, once each");
    fixture.store.record_observation(observed(watch.job_no, 0, 20, at(15))).await.expect("taken");
    assert_eq!(fixture.events().await.len(), 3);
    let end = ended(watch.job_no, 0, EndingKind::Completed, at(60));
    take_deliveries(&fixture.store);
    for _ in 0..2 {
        fixture.store.end_job(end.clone()).await.expect("ended");
    }
    assert_eq!(fixture.events().await.len(), 4);
    let [send] = &take_deliveries(&fixture.store)[..] else { panic!("one delivery") };
    let after = NextStep::Failed(Reason::Gone);
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
    for _ in 0..2 {
        fixture.store.record_attempt(record.clone()).await.expect("recorded");
        let (delivery, attempts) = fixture.shown_delivery(send.id).await;
        assert_eq!((attempts.len(), delivery.reason), (1, Some(Reason::Gone)));
    }
}

// Once: the disk is that of the file.
#[test]
fn writes_are_refused_on_a_full_disk_and_accepted_afterwards() {
    let name = "store::lasting::writes_are_refused_on_a_full_disk_and_accepted_afterwards";
    if let Some(disk) = small_disk(name, "2m") {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.expect("a runtime").block_on(on_a_small_disk(&disk));
    }
}

async fn on_a_small_disk(disk: &std::path::Path) {
    let ballast = disk.join("ballast");
    std::fs::write(&ballast, vec![0; 384 * 1024]).expect("room");
    let location = DatabaseLocation::File(disk.join("ringback.db"));
    let fixture = StoreFixture::at(tempfile::tempdir().expect("a folder"), location, START).await;
    let mut made = 0;
    let refused = loop {
        let mut watch = fixture.watch(&format!("job_{made}"));
        watch.metadata = Some(format!(r#"{{"pad": "{}"}}"#, "x".repeat(4_000)));
        match fixture.store.register(super::register_command(watch, None)).await {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
        assert!(made < 10_000, "a disk without end");
    };
    assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
    assert!(fixture.store.refusing());
    // A write of one page can fit where a larger one does not.
    let mut rest = std::fs::File::create(disk.join("rest")).expect("a name is free");
    while std::io::Write::write_all(&mut rest, &[0; 512]).is_ok() {}
    // The log has room at the position of the refused write.
    while fixture.store.check_writes().await.is_ok() {}
    assert!(fixture.store.refusing());
    let page = LoadDueDeliveries {
        queue: "a".to_owned(),
        now: START,
        limit: 1,
        loaded: Vec::new(),
        retries_first: false,
    };
    let _ = fixture.store.load_due_deliveries(page).await;
    assert!(fixture.store.refusing(), "a read is no sign of recovery");
    assert_eq!(fixture.store.jobs(JobNo(0), 10_000, START).await.expect("read").jobs.len(), made);
    std::fs::remove_file(ballast).expect("freed");
    fixture.store.check_writes().await.expect("taken again");
    assert!(!fixture.store.refusing());
    fixture.register(fixture.watch("job_last")).await;
    let fixture = fixture.reopen(START).await;
    assert_eq!(fixture.store.jobs(JobNo(0), 10_000, START).await.expect("read").jobs.len(), made + 1);
}

crate::postgres::on_postgres_too! {
    ids_stay_in_order_after_a_restart_with_an_earlier_clock,
    the_first_app_and_its_key_are_created_once,
    a_read_after_a_reply_sees_the_write,
    endings_are_pruned_with_the_watches_that_show_them,
    observations_are_pruned_with_the_watches_that_show_them,
    old_rows_are_pruned_except_pending_deliveries,
    an_old_manual_retry_keeps_no_watch,
    a_watch_with_many_rows_is_deleted_in_parts,
    a_chunk_of_the_deletion_continues_after_kept_watches,
    a_second_process_on_the_same_file_is_refused,
    a_repeated_write_changes_nothing,
}
