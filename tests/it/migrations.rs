//! Databases of earlier versions: this version reads them and continues their work.

use std::path::Path;

use ringback::channels::webhook::ed25519::PrivateKey;
use ringback::domain::{
    DeliveryStatus, JobNo, Masked, OperationId, PollerMessage, Reason, TimelineEntry, Timestamp, WatchId,
    WatchStatus,
};
use ringback::store::{
    After, DatabaseLocation, DeliveryFilter, EraseWatch, EventFilter, IdempotencyKey, Keyring, Replay,
    StoredResponse, TimelinePosition, WatchErasure, WatchFilter,
};
use rusqlite::Connection;

use crate::postgres::{On, on, shared};
use crate::store::{StoreFixture, at, open_with, take_poller_messages};

/// Returns the numbers in the file names of the migrations of a database, in their order.
fn numbers(database: &str) -> Vec<i64> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let number = |name: &str| name.split_once('_').and_then(|(number, _)| number.parse().ok());
    let mut numbers: Vec<i64> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
        .map(|name| number(&name).unwrap_or_else(|| panic!("{name}: expected 0001_name.sql")))
        .collect();
    numbers.sort_unstable();
    numbers
}

/// The position of a migration in the list is its version.
// Once: the test reads the folders, not a database.
#[test]
fn the_migrations_are_numbered_without_gaps() {
    for database in ["sqlite", "postgres"] {
        let numbers = numbers(database);
        assert!(numbers.iter().copied().eq(1..=newest(database)), "{database}: {numbers:?}");
    }
}

/// Returns the version of the current schema of a database.
fn newest(database: &str) -> i64 {
    i64::try_from(numbers(database).len()).expect("few migrations")
}

/// Creates a file with schema 1.
fn schema_1() -> (tempfile::TempDir, DatabaseLocation) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ringback.db");
    let db = Connection::open(&path).expect("opens");
    db.execute_batch(include_str!("migrations/schema_1.sql")).expect("loaded");
    assert_eq!(version(&db), 1);
    let empty: Vec<String> =
        rows(&db).into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert_eq!(empty, [""; 0], "every table has a row");
    (folder, DatabaseLocation::File(path))
}

fn version(db: &Connection) -> i64 {
    db.query_row("pragma user_version", [], |row| row.get(0)).expect("read")
}

/// Returns the tables and their numbers of rows.
fn rows(db: &Connection) -> Vec<(String, i64)> {
    let sql =
        "select name from sqlite_master where type = 'table' and name not like 'sqlite_%' order by name";
    let mut names = db.prepare(sql).expect("a statement");
    let names: Vec<String> =
        names.query_map([], |row| row.get(0)).expect("read").collect::<Result<_, _>>().expect("names");
    let count = |name: &String| {
        db.query_row(&format!("select count(*) from {name}"), [], |row| row.get(0)).expect("counted")
    };
    names.iter().map(|name| (name.clone(), count(name))).collect()
}

/// Returns the id of the watch in `schema_1.sql`.
fn watch_of_the_example() -> WatchId {
    WatchId::parse("watch_01khrm7rc03s2tztvnjjyqm002").expect("an id")
}

// Once: the database of schema 1 is a SQLite file.
#[tokio::test]
async fn a_database_of_schema_1_is_read_completely() {
    let (folder, location) = schema_1();
    let fixture = StoreFixture::at(folder, location, at(200)).await;
    let watch = fixture.shown(watch_of_the_example()).await;
    assert_eq!(
        (watch.status, watch.metadata.as_deref()),
        (WatchStatus::Completed, Some(r#"{"orderId": 42}"#))
    );
    assert_eq!((watch.job.job_id.as_str(), watch.seen.progress), ("job_1", Some(100)));
    let (destination, latest) = &watch.destinations[0];
    assert_eq!(
        (destination.address.as_str(), latest.as_ref().map(|latest| latest.status)),
        ("https://a.example/hook", Some(DeliveryStatus::Pending))
    );
    assert_eq!(destination.headers, [("x-env".to_owned(), "prod".to_owned())]);
    assert_eq!(destination.secret.as_deref(), Some("whsec_ZGVzdGluYXRpb24tc2VjcmV0LTAxMjM0NTY3ODkw"));
    let app = fixture.store.app(fixture.app).expect("the app");
    assert_eq!(app.signing_secret.reveal(), "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz");
    assert_eq!((app.created_at, app.old_secret.is_none()), (at(0), true));
    assert!(fixture.store.key(&[7; 32], Timestamp::MAX).is_some(), "a key that never expires");
    let events: Vec<String> = fixture.events().await.iter().map(ToString::to_string).collect();
    assert_eq!(events, ["job.processing", "job.progress", "job.completed"]);
    let beginning = TimelinePosition::default();
    let timeline = fixture.store.timeline(fixture.app, watch_of_the_example(), beginning, 100).await;
    let timeline = timeline.expect("read").expect("there");
    let observed = timeline.iter().filter(|(_, one)| matches!(one, TimelineEntry::Observed { .. })).count();
    assert_eq!((timeline.len(), observed), (10, 2), "{timeline:?}");
    let send = fixture.page(at(200), 9, &[]).await.deliveries.pop().expect("what was still to be sent");
    assert_eq!((&*send.body, send.attempts, &send.destination), (b"{}".as_slice(), 1, destination));
    let (delivery, attempts) = fixture.shown_delivery(send.id).await;
    assert_eq!((delivery.status, attempts.len()), (DeliveryStatus::Pending, 1));
    let key = IdempotencyKey {
        app: fixture.app,
        path: "/".to_owned(),
        key: "k".to_owned(),
        request_hash: [1; 32],
        now: at(200),
        seal: None,
    };
    let replay = fixture.store.find_replay(key).await.expect("read").expect("stored");
    assert!(
        matches!(replay, Replay::Response(StoredResponse { status: 201, ref body, .. }) if body == b"made"),
        "{replay:?}"
    );
}

// Once: the database of schema 1 is a SQLite file.
#[tokio::test]
async fn a_database_of_schema_1_is_migrated_without_loss() {
    let (_folder, location) = schema_1();
    let DatabaseLocation::File(path) = &location else { panic!("a file") };
    let before = rows(&Connection::open(path).expect("opens"));
    for _ in 0..2 {
        let (store, writer) = open_with(&location, at(200), Keyring::default()).expect("opens");
        drop(store);
        writer.join();
        let db = Connection::open(path).expect("opens");
        assert_eq!(version(&db), newest("sqlite"));
        let after: Vec<_> =
            rows(&db).into_iter().filter(|(name, _)| before.iter().any(|(old, _)| old == name)).collect();
        assert_eq!(after, before);
    }
}

// Once: the database of schema 1 is a SQLite file.
#[tokio::test]
async fn a_database_of_schema_1_is_sealed_with_a_new_key() {
    let (folder, location) = schema_1();
    let fixture = StoreFixture::with(folder, location, at(200), Keyring::new(&[[1; 32]])).await;
    let (destination, _) = &fixture.shown(watch_of_the_example()).await.destinations[0];
    assert_eq!(destination.secret.as_deref(), Some("whsec_ZGVzdGluYXRpb24tc2VjcmV0LTAxMjM0NTY3ODkw"));
    let DatabaseLocation::File(path) = &fixture.location else { panic!("a file") };
    let db = Connection::open(path).expect("opens");
    let sql = "select signing_secret from apps union all select secret from watch_destinations
               union all select headers from watch_destinations";
    let mut stored = db.prepare(sql).expect("a statement");
    let stored: Vec<String> =
        stored.query_map([], |row| row.get(0)).expect("read").map(Result::unwrap).collect();
    assert_eq!(stored.len(), 3);
    assert!(stored.iter().all(|text| text.starts_with("sealed:")), "{stored:?}");
}

/// Creates a database as the previous release left it when it was killed.
fn previous_release() -> (tempfile::TempDir, DatabaseLocation) {
    let folder = tempfile::tempdir().expect("a folder");
    let location = match on() {
        On::Sqlite => {
            let path = folder.path().join("ringback.db");
            let db = Connection::open(&path).expect("opens");
            db.execute_batch(include_str!("migrations/schema_3.sql")).expect("loaded");
            DatabaseLocation::File(path)
        }
        On::Postgres => {
            let server = shared("a database of the previous release").expect("a server");
            let name = server.empty();
            server.query(&name, include_str!("migrations/postgres_schema_2.sql"));
            DatabaseLocation::Server(Masked::new(server.url(&name)))
        }
    };
    (folder, location)
}

/// Executes statements on a database before it is opened.
fn change(location: &DatabaseLocation, sql: &str) {
    match location {
        DatabaseLocation::File(path) => {
            Connection::open(path).expect("opens").execute_batch(sql).expect("changed");
        }
        DatabaseLocation::Server(url) => {
            let name = url.reveal().rsplit('/').next().and_then(|name| name.split('?').next());
            shared("a change").expect("a server").query(name.expect("a name"), sql);
        }
    }
}

#[tokio::test]
async fn a_database_of_the_previous_release_opens_and_goes_on() {
    let (folder, location) = previous_release();
    let now = Timestamp::from_millis(1_795_886_400_000);
    let fixture = StoreFixture::at(folder, location, now).await;
    let watches = fixture.store.watches(fixture.app, WatchFilter::default(), 10).await.expect("read").rows;
    let watch = |job: &str| watches.iter().find(|watch| watch.job.job_id == job).expect("a watch");
    let deliveries =
        fixture.store.deliveries(fixture.app, DeliveryFilter::default(), 10).await.expect("read").rows;
    let statuses = |job: &str| {
        let of_job = deliveries.iter().rev().filter(|delivery| delivery.watch == Some(watch(job).id));
        of_job.map(|one| (one.event_type.as_str(), one.status, one.reason)).collect::<Vec<_>>()
    };
    assert_eq!(
        statuses("job_16s_completed_c"),
        [
            ("job.processing", DeliveryStatus::Failed, Some(Reason::Gone)),
            ("job.progress", DeliveryStatus::Skipped, Some(Reason::Gone)),
        ]
    );
    assert_eq!(
        statuses("job_9s_completed_d"),
        [
            ("job.processing", DeliveryStatus::Skipped, Some(Reason::Superseded)),
            ("job.completed", DeliveryStatus::Pending, None),
        ]
    );
    let stopped = ("job.completed", DeliveryStatus::Skipped, Some(Reason::Stopped));
    assert_eq!(statuses("job_1s_completed_e"), [stopped]);
    assert_eq!(statuses("job_1s_completed_k"), [("job.completed", DeliveryStatus::Pending, None)]);
    // What was pending is dispatched: the manual retry first, then the scheduled one.
    let due = fixture.page(now, 10, &[]).await.deliveries;
    let due: Vec<_> = due.iter().map(|one| (one.watch, one.manual, one.step, one.attempts)).collect();
    let (manual, scheduled) = (watch("job_1s_completed_k"), watch("job_9s_completed_d"));
    assert_eq!(due, [(manual.id, true, 2, 3), (scheduled.id, false, 1, 1)]);
    // The requested poll and the unfinished ending are not lost.
    let jobs = fixture.store.jobs(JobNo(0), 10, now).await.expect("read").jobs;
    let polled: Vec<_> = jobs.iter().map(|job| (job.name.job_id.as_str(), job.poll_requested)).collect();
    assert_eq!(polled, [("job_never_g", true)]);
    let unfinished = fixture.store.unfinished_endings().await.expect("read");
    assert_eq!(unfinished.iter().map(|ending| ending.job).collect::<Vec<_>>(), [manual.job_no]);
    let timeline = fixture.store.timeline(fixture.app, scheduled.id, TimelinePosition::default(), 100).await;
    assert_eq!(timeline.expect("read").expect("there").len(), 11);
}

#[tokio::test]
async fn apps_of_the_previous_release_get_a_key_pair_once() {
    let (folder, location) = previous_release();
    let now = Timestamp::from_millis(1_795_886_400_000);
    let keyring = Keyring::new(&[[1; 32]]);
    let fixture = StoreFixture::with(folder, location, now, keyring.clone()).await;
    let drawn = |fixture: &StoreFixture| {
        let app = fixture.store.app(fixture.app).expect("the app");
        assert!(app.old_private_key.is_none() && app.signing_secret.reveal().starts_with("whsec_"));
        app.private_key.clone()
    };
    let key = drawn(&fixture);
    assert!(PrivateKey::parse(key.reveal()).is_ok());
    let (folder, location) = fixture.close().await;
    let fixture = StoreFixture::with(folder, location, now, keyring).await;
    assert_eq!(drawn(&fixture), key, "the next start keeps it");
    // A destination of the previous release is signed as before.
    let watches = fixture.store.watches(fixture.app, WatchFilter::default(), 10).await.expect("read").rows;
    assert!(watches.iter().flat_map(|watch| &watch.destinations).all(|(one, _)| one.signing.is_none()));
}

#[tokio::test]
async fn jobs_of_the_previous_release_keep_that_they_had_a_status() {
    let (folder, location) = previous_release();
    // A job that was never found, and one that has neither ended nor been polled.
    let sql = r#"
        insert into jobs (no, shard, job_id, provider, account, params, generation, ended, seen, registered_at)
        select 90 + generation, shard, 'job_of_no_status', provider, account, params, 1, 1, '{"status":"unknown",
          "rawStatus":null,"progress":null,"output":null,"outputs":null,"error":null,"createdAt":null,
          "completedAt":null}', registered_at from jobs where job_id = 'job_never_g';
        insert into endings (job, generation, kind, seen, error, refreshed, raw, at, open)
        select no, 0, 'not_found', seen, null, null, null, registered_at, 0 from jobs
        where job_id = 'job_of_no_status';
        update jobs set generation = 1, ended = 0, seen =
          (select seen from jobs where job_id = 'job_of_no_status') where job_id = 'job_1s_completed_e';"#;
    change(&location, sql);
    let fixture = StoreFixture::at(folder, location, Timestamp::from_millis(1_795_886_400_000)).await;
    let names = ["job_never_g", "job_9s_completed_d", "job_1s_completed_e", "job_of_no_status", "job_new"];
    let mut had_status = Vec::new();
    for name in names {
        fixture.register(fixture.watch(name)).await;
        let message = take_poller_messages(&fixture.store).pop();
        let Some(PollerMessage::Watch(facts)) = message else { panic!("{name}: {message:?}") };
        had_status.push(facts.had_status);
    }
    assert_eq!(had_status, [true, true, true, false, false]);
}

#[tokio::test]
async fn long_parameters_of_the_previous_release_are_kept() {
    let (folder, location) = previous_release();
    let params = format!(r#"{{"region": "{}"}}"#, "a long name ".repeat(120));
    let sql = format!("update jobs set params = '{params}' where job_id = 'job_never_g'");
    change(&location, &sql);
    let fixture = StoreFixture::at(folder, location, Timestamp::from_millis(1_795_886_400_000)).await;
    let job = fixture.store.jobs(JobNo(0), 10, at(0)).await.expect("read").jobs.remove(0);
    assert_eq!((job.name.job_id.as_str(), &job.name.params), ("job_never_g", &params));
    let mut watch = fixture.watch("job_never_g");
    watch.job = job.name;
    assert_eq!(fixture.register(watch).await.job_no, job.no, "the same job");
}

#[tokio::test]
async fn destinations_of_the_previous_release_stay_inline() {
    let (folder, location) = previous_release();
    let fixture = StoreFixture::at(folder, location, Timestamp::from_millis(1_795_886_400_000)).await;
    let watches = fixture.store.watches(fixture.app, WatchFilter::default(), 100).await.expect("read").rows;
    let destinations: Vec<_> = watches.iter().flat_map(|watch| &watch.destinations).collect();
    assert!(!destinations.is_empty());
    for (destination, _) in destinations {
        assert!(destination.saved.is_none() && !destination.address.is_empty(), "{destination:?}");
    }
    assert_eq!((fixture.count("destinations"), fixture.count("destination_hours")), (0, 0));
}

#[tokio::test]
async fn watches_of_the_previous_release_have_no_name_or_reference() {
    let (folder, location) = previous_release();
    let fixture = StoreFixture::at(folder, location, Timestamp::from_millis(1_795_886_400_000)).await;
    let watches = fixture.store.watches(fixture.app, WatchFilter::default(), 100).await.expect("read").rows;
    assert!(watches.iter().any(|watch| watch.destinations.iter().any(|(_, latest)| latest.is_some())));
    let mut count = 0;
    for watch in &watches {
        assert_eq!((&watch.name, &watch.reference), (&None, &None));
        let filter = EventFilter { watch: Some(watch.id), ..EventFilter::default() };
        let events = fixture.store.events(fixture.app, After::Start, filter, 100).await;
        let events = events.expect("read").expect("a feed").rows;
        assert!(events.iter().all(|event| event.watch == Some(watch.id)), "{events:?}");
        assert!(events.is_sorted_by_key(|event| event.position), "{events:?}");
        count += events.len();
    }
    assert_eq!(count, fixture.events().await.len(), "every event is found by its watch");
}

#[tokio::test]
async fn watches_of_the_previous_release_can_be_erased() {
    let (folder, location) = previous_release();
    let now = Timestamp::from_millis(1_795_886_400_000);
    let fixture = StoreFixture::at(folder, location, now).await;
    let watches = fixture.store.watches(fixture.app, WatchFilter::default(), 100).await.expect("read").rows;
    assert!(!watches.is_empty());
    let events = fixture.count("events");
    for watch in watches {
        let operation = OperationId(fixture.store.ids().draw(now));
        let erase = EraseWatch { operation, app: fixture.app, watch: watch.id, rows: 100, now };
        assert_eq!(fixture.store.erase_watch(erase).await.expect("taken"), WatchErasure::Done);
    }
    for table in ["watches", "watch_destinations", "deliveries", "attempts", "events", "operations"] {
        assert_eq!(fixture.count(table), 0, "{table}");
    }
    assert_eq!(fixture.count("erased_events"), events);
}

#[tokio::test]
async fn saved_destinations_of_the_previous_version_are_read() {
    let fixture = StoreFixture::new().await;
    let saved = crate::store::sealing::save(&fixture, "a text").await;
    let (folder, location) = fixture.close().await;
    // The table of the previous version, and the migration of it.
    let database = if matches!(location, DatabaseLocation::File(_)) { "sqlite" } else { "postgres" };
    let migrations = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(database);
    let mut files =
        std::fs::read_dir(migrations).expect("a folder").map(|entry| entry.expect("a file").path());
    let migration = files.find(|path| path.to_string_lossy().ends_with("_destination_options.sql"));
    let migration = std::fs::read_to_string(migration.expect("the migration")).expect("a text");
    let before = "alter table destinations drop column options; alter table destinations drop column tls;";
    change(&location, before);
    change(&location, &migration);
    let fixture = StoreFixture::at(folder, location, at(200)).await;
    let found = fixture.store.saved_destination(fixture.app, saved.id, at(200)).await;
    let found = found.expect("read").expect("there");
    assert_eq!(found.address.address, saved.address.address);
    assert_eq!((found.address.signing, found.address.access), (None, None));
    assert_eq!(fixture.store.tls_identity(fixture.app, found.queue.no).await.expect("read"), None);
}

#[tokio::test]
async fn watches_of_the_previous_release_belong_to_no_group() {
    let (folder, location) = previous_release();
    let fixture = StoreFixture::at(folder, location, Timestamp::from_millis(1_795_886_400_000)).await;
    let watches = fixture.store.watches(fixture.app, WatchFilter::default(), 100).await.expect("read").rows;
    assert!(!watches.is_empty() && watches.iter().all(|watch| watch.group.is_none()));
    assert_eq!((fixture.count("watch_groups"), fixture.count("operational_events")), (0, 0));
    assert_eq!(fixture.store.next_group_expiry().await.expect("read"), None);
    // Its events and deliveries are about watches.
    assert!(fixture.events().await.iter().all(|event| event.is_of_watch()));
    let deliveries = fixture.store.deliveries(fixture.app, DeliveryFilter::default(), 100).await;
    assert!(deliveries.expect("read").rows.iter().all(|delivery| delivery.watch.is_some()));
}

crate::postgres::on_postgres_too! {
    watches_of_the_previous_release_have_no_name_or_reference,
    watches_of_the_previous_release_can_be_erased,
    saved_destinations_of_the_previous_version_are_read,
    watches_of_the_previous_release_belong_to_no_group,
    destinations_of_the_previous_release_stay_inline,
    long_parameters_of_the_previous_release_are_kept,
    jobs_of_the_previous_release_keep_that_they_had_a_status,
    apps_of_the_previous_release_get_a_key_pair_once,
    a_database_of_the_previous_release_opens_and_goes_on,
}
