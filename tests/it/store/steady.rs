//! The size of the database under a constant load: everything that grows is deleted in time.

use std::collections::BTreeMap;
use std::time::Duration;

use ringback::domain::{
    EndingKind, JobError, JobStatus, NewWatch, NextStep, Reason, Timestamp, Watch, WatchId,
};
use ringback::store::{DatabaseLocation, EndNotFound, ExpireWatches, IdempotencyKey, StopWatch};

use super::{
    START, StoreFixture, ended, observed, register_command, seen, take_deliveries, take_poller_messages,
};
use crate::postgres::shared;

const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Days for which events are kept, and watches.
const RETENTION: (u32, u32) = (8, 10);

/// Days for which a delivery is pending at most.
const PENDING: u32 = 5;

fn day(n: u32) -> Timestamp {
    START.plus(DAY * n)
}

/// Returns the names of the tables. A table that a later version adds is among them.
fn tables(fixture: &StoreFixture) -> Vec<String> {
    match &fixture.location {
        DatabaseLocation::File(path) => {
            let db = rusqlite::Connection::open(path).expect("opens");
            let sql = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'";
            let mut names = db.prepare(sql).expect("a statement");
            let names = names.query_map([], |row| row.get(0)).expect("read");
            names.collect::<Result<_, _>>().expect("names")
        }
        DatabaseLocation::Server(url) => {
            let (_, database) = url.reveal().rsplit_once('/').expect("a name");
            let sql = "select string_agg(tablename, ' ') from pg_tables where schemaname = 'public'";
            let names = shared("the tables").expect("a server").query(database, sql).expect("names");
            names.split(' ').map(str::to_owned).collect()
        }
    }
}

/// Returns the number of rows of each table.
fn rows(fixture: &StoreFixture) -> BTreeMap<String, usize> {
    tables(fixture).into_iter().map(|table| (table.clone(), fixture.count(&table))).collect()
}

fn execute(fixture: &StoreFixture, sql: &str) {
    match &fixture.location {
        DatabaseLocation::File(path) => {
            rusqlite::Connection::open(path).expect("opens").execute_batch(sql).expect("executed");
        }
        DatabaseLocation::Server(url) => {
            let (_, database) = url.reveal().rsplit_once('/').expect("a name");
            shared("a statement").expect("a server").query(database, sql);
        }
    }
}

/// Registers a watch with an idempotency key.
async fn register(fixture: &StoreFixture, watch: NewWatch) -> Watch {
    let now = watch.created_at;
    let key = IdempotencyKey {
        app: fixture.app,
        path: "/v1/watches".to_owned(),
        key: watch.id.to_string(),
        request_hash: [1; 32],
        now,
        seal: None,
    };
    match fixture.store.register(register_command(watch, Some(key))).await.expect("registered") {
        Ok(Ok(watch)) => watch,
        other => panic!("{other:?}"),
    }
}

/// One day of every kind of use: watches that complete, expire, are stopped, or are not found; progress; a job that is
/// registered every day; deliveries that succeed, fail, are retried, and stay pending.
async fn live(fixture: &StoreFixture, n: u32) {
    let now = day(n);
    let registered = async |name: &str| {
        let mut watch = fixture.follower(name);
        (watch.created_at, watch.terms.expires_at) = (now, now.plus(DAY / 2));
        watch.id = WatchId(fixture.store.ids().draw(now));
        register(fixture, watch).await
    };
    // The process did not run for an hour. It notes that it runs every minute, which the test does not repeat.
    let (from, until) = (now.minus(DAY / 24).millis(), now.millis());
    execute(fixture, &format!("insert into interruptions (started_at, ended_at) values ({from}, {until})"));
    let every_day = registered("job_of_every_day").await;
    let generation = i64::from(n);
    let completed = registered(&format!("job_{n}")).await;
    let [expired, stopped, unknown] = [
        registered(&format!("slow_{n}")).await,
        registered(&format!("stopped_{n}")).await,
        registered(&format!("unknown_{n}")).await,
    ];
    for (watch, generation) in [(&every_day, generation), (&completed, 0), (&expired, 0)] {
        for (progress, minutes) in [(10, 1), (60, 2)] {
            let at = now.plus(Duration::from_secs(60 * minutes));
            let mut observed = observed(watch.job_no, generation, progress, at);
            observed.seen = seen(JobStatus::Processing, Some(progress));
            fixture.store.record_observation(observed).await.expect("recorded");
        }
    }
    let at = now.plus(Duration::from_secs(300));
    for (watch, generation) in [(&every_day, generation), (&completed, 0)] {
        fixture
            .store
            .end_job(ended(watch.job_no, generation, EndingKind::Completed, at))
            .await
            .expect("ended");
    }
    let error = JobError { code: Some("deadline".to_owned()), message: None };
    let expire =
        ExpireWatches { job: expired.job_no, until: now.plus(DAY / 2), error: error.clone(), now: at };
    fixture.store.expire_watches(expire).await.expect("expired");
    fixture
        .store
        .stop_watch(StopWatch { app: fixture.app, watch: stopped.id, now: at })
        .await
        .expect("stopped")
        .expect("no key")
        .expect("a watch");
    let (job, registered_until) = (unknown.job_no, at);
    let not_found = EndNotFound { job, generation: 0, registered_until, error, now: at, after: Vec::new() };
    fixture.store.end_not_found(not_found).await.expect("ended");
    take_poller_messages(&fixture.store);
    for (number, delivery) in take_deliveries(&fixture.store).into_iter().enumerate() {
        let retry = NextStep::Retry { step: 1, due_at: now.plus(DAY), waited: DAY };
        match number % 4 {
            0 => fixture.record(&delivery, NextStep::Succeeded).await,
            1 => {
                fixture.record(&delivery, retry).await;
                fixture.record(&delivery, NextStep::Succeeded).await;
            }
            2 => fixture.record(&delivery, NextStep::Failed(Reason::Exhausted)).await,
            // Its receiver never comes back.
            _ => fixture.record(&delivery, retry).await,
        }
    }
    fixture.end_overdue(DAY * PENDING, at).await;
    let (events, watches) = RETENTION;
    let before = |days: u32| at.minus(DAY * days);
    fixture.prune(before(events), before(watches), at).await;
}

#[tokio::test]
async fn months_of_constant_load_do_not_enlarge_the_database() {
    let fixture = StoreFixture::new().await;
    let mut sizes = Vec::new();
    for n in 0..75 {
        live(&fixture, n).await;
        sizes.push(rows(&fixture));
    }
    // Every kind of row is there.
    for table in ["jobs", "endings", "observations", "watches", "events", "deliveries", "attempts"] {
        assert!(sizes[74][table] > 0, "{table}");
    }
    assert!(sizes[74]["idempotency"] > 0 && sizes[74]["interruptions"] > 0, "{:?}", sizes[74]);
    // After the longest retention each day deletes what it adds.
    for n in [30, 45, 60, 74] {
        assert_eq!(sizes[n], sizes[25], "day {n}");
    }
}

crate::postgres::on_postgres_too! {
    months_of_constant_load_do_not_enlarge_the_database,
}
