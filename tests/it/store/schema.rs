//! Tables and permissions that an operator takes away while the store is open.

use ringback::store::StoreError;
use serde_json::{Value, json};

use super::{StoreFixture, register_command};
use crate::fakes::Reply;
use crate::harness::{Harness, guarded, minutes, seconds};
use crate::postgres::{On, on};

#[tokio::test]
async fn a_missing_table_fails_the_check_until_it_is_there_again() {
    let fixture = StoreFixture::new().await;
    fixture.store.check_reads().await.expect("complete");
    fixture.run("alter table watches rename to away");
    let register = || fixture.store.register(register_command(fixture.watch("job_1"), None));
    let refused = register().await;
    assert!(matches!(refused, Err(StoreError::Schema(_))), "{refused:?}");
    // Other writes succeed meanwhile.
    fixture.store.check_writes().await.expect("written");
    for _ in 0..2 {
        let checked = fixture.store.check_reads().await;
        assert!(matches!(&checked, Err(StoreError::Schema(which)) if which == "watches"), "{checked:?}");
    }
    fixture.run("alter table away rename to watches");
    fixture.store.check_reads().await.expect("complete");
    fixture.register(fixture.watch("job_1")).await;
}

#[tokio::test]
async fn a_missing_unique_index_fails_the_check_with_the_remedy() {
    let fixture = StoreFixture::new().await;
    fixture.store.check_reads().await.expect("complete");
    fixture.run("drop index events_one_ending");
    let checked = fixture.store.check_reads().await;
    let Err(StoreError::Schema(remedy)) = checked else { panic!("{checked:?}") };
    assert_eq!(remedy, "create unique index events_unique_watch on events (watch) where ending = 1");
    fixture.run(&remedy);
    fixture.store.check_reads().await.expect("complete");
    if on() == On::Sqlite {
        return;
    }
    for (table, constraint, columns) in [
        ("jobs", "jobs_job_id_provider_account_params_key", "job_id, provider, account, params"),
        ("job_cancels", "job_cancels_pkey", "watch"),
    ] {
        fixture.run(&format!("alter table {table} drop constraint {constraint}"));
        let checked = fixture.store.check_reads().await;
        let Err(StoreError::Schema(remedy)) = checked else { panic!("{checked:?}") };
        assert!(remedy.contains(&format!(" on {table} ({columns})")), "{remedy}");
        fixture.run(&remedy);
        fixture.store.check_reads().await.expect("complete");
    }
    fixture.register(fixture.watch("job_1")).await;
}

#[tokio::test]
async fn a_missing_column_fails_the_check_after_a_statement_needed_it() {
    let fixture = StoreFixture::new().await;
    fixture.run("alter table watches rename column metadata to away");
    let refused = fixture.store.register(register_command(fixture.watch("job_1"), None)).await;
    assert!(matches!(refused, Err(StoreError::Schema(_))), "{refused:?}");
    let checked = fixture.store.check_reads().await;
    assert!(matches!(checked, Err(StoreError::Schema(_))), "{checked:?}");
    fixture.run("alter table watches rename column away to metadata");
    fixture.register(fixture.watch("job_1")).await;
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn a_service_without_one_of_its_tables_is_not_ready() {
    let t = Harness::start().await;
    let file = t.file();
    let run = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    // No request has failed yet.
    run("alter table attempts rename to away");
    let problem = t.get_without_key("/readyz").await.expect(503);
    let says = "a table of the database is missing or may not be used; the server's log says which";
    assert_eq!((&problem["code"], &problem["detail"]), (&"not_ready".into(), &says.into()));
    run("alter table away rename to attempts");
    t.get_without_key("/readyz").await.expect(200);
    // Not at rest: the periodic check may have seen it missing, and the clock stands still.
    t.give_up().await;
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_table_to_come_back() {
    let t = Harness::start().await;
    let run = |sql: &str| rusqlite::Connection::open(t.file()).unwrap().execute_batch(sql).unwrap();
    run("alter table attempts rename to away");
    // What waits is examined, which fails and is tried again after a second: the clock stands still until the stop.
    t.clock.set(t.now().minus(minutes(60)));
    for _ in 0..20 {
        t.get_without_key("/readyz").await.expect(503);
    }
    t.give_up().await;
}

/// Returns why the newest delivery waits.
async fn wait_reason(t: &Harness) -> Value {
    t.get("/v1/deliveries").await.expect(200)["data"][0]["waiting"]["reason"].clone()
}

/// Lets the periodic check find what is missing, or that it is there again. `refuses`: 1 or 0.
async fn checked(t: &Harness, refuses: u8) {
    let line = format!("ringback_store_refusing {refuses}");
    let seen = async {
        while !t.get_without_key("/metrics").await.text().lines().any(|found| found == line) {
            t.clock.advance(seconds(1));
        }
    };
    guarded("the check", seen).await;
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn nothing_is_polled_sent_or_registered_while_a_table_is_missing() {
    let mut t = Harness::start().await;
    let file = t.file();
    let run = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    t.provider.completed("job_1");
    t.receiver.script("/hook", [Reply::status(500)]);
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.provider.processing("job_2", 1);
    t.watch("job_2").await;
    t.pass(seconds(1)).await;
    run("alter table attempts rename to away");
    checked(&t, 1).await;
    let polls = t.provider.all_polls().len();
    t.clock.advance(minutes(10));
    let problem = t.post("/v1/watches", &json!({ "jobId": "job_3", "notify": [] })).await.expect(503);
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("a table of the database is missing") && detail.contains("restore it"),
        "{detail}"
    );
    let batch = json!({ "watches": [{ "jobId": "job_3", "notify": [] }] });
    t.post("/v1/watches/batch", &batch).await.expect(503);
    t.crash().await;
    t.launch().await;
    t.until("/v1/providers", 200).await;
    checked(&t, 1).await;
    t.clock.advance(minutes(10));
    assert_eq!((t.receiver.unread().len(), t.provider.all_polls().len()), (0, polls));
    run("alter table away rename to attempts");
    checked(&t, 0).await;
    t.clock.advance(seconds(2));
    t.rest().await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    assert!(t.provider.all_polls().len() > polls);
    t.provider.completed("job_2");
    t.pass(minutes(10)).await;
    t.receiver.next().await;
    t.finish().await;
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn a_due_delivery_says_that_it_waits_for_a_table() {
    let t = Harness::start().await;
    let file = t.file();
    let run = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    t.provider.completed("job_1");
    t.receiver.script("/hook", [Reply::status(500)]);
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    // To read deliveries needs the table of attempts, but not this one.
    run("alter table idempotency rename to away");
    checked(&t, 1).await;
    t.clock.advance(minutes(10));
    assert_eq!(wait_reason(&t).await, "no_writes");
    run("alter table away rename to idempotency");
    checked(&t, 0).await;
    t.clock.advance(seconds(2));
    t.rest().await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    t.finish().await;
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn a_start_waits_for_a_table_that_it_needs() {
    let mut t = Harness::start().await;
    let file = t.file();
    let run = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    t.provider.processing("job_1", 1);
    t.watch("job_1").await;
    t.crash().await;
    run("alter table endings rename to away");
    t.launch().await;
    t.get_without_key("/readyz").await.expect(503);
    run("alter table away rename to endings");
    let ready = async {
        while t.get_without_key("/readyz").await.status != 200 {
            t.clock.advance(seconds(1));
        }
    };
    guarded("readiness", ready).await;
    t.provider.completed("job_1");
    // The periodic check may have seen the table missing, and polls start after its next turn.
    let sent = async {
        while t.receiver.unread().is_empty() {
            t.clock.advance(seconds(1));
            t.get_without_key("/healthz").await;
        }
    };
    guarded("the webhook", sent).await;
    t.receiver.next().await;
    t.finish().await;
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn no_attempt_starts_after_a_result_that_could_not_be_recorded() {
    let t = Harness::start().await;
    let file = t.file();
    let run = |sql: &str| rusqlite::Connection::open(&file).unwrap().execute_batch(sql).unwrap();
    for job in ["job_1", "job_2"] {
        t.provider.processing(job, 1);
        let callback = t.receiver.url("/hook");
        t.register(&json!({ "jobId": job, "callbackUrl": callback, "pollInterval": "1s" })).await;
    }
    t.pass(seconds(5)).await;
    run("create trigger broken before insert on attempts begin select raise(abort, 'broken'); end");
    t.provider.completed("job_1");
    t.pass(seconds(3)).await;
    t.receiver.next().await;
    assert_eq!(wait_reason(&t).await, "no_writes");
    t.provider.completed("job_2");
    t.pass(seconds(3)).await;
    assert_eq!(t.receiver.unread().len(), 0);
    run("drop trigger broken");
    t.pass(minutes(5)).await;
    // Also the first one, whose attempt is not recorded.
    t.receiver.take(2).await;
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_missing_table_fails_the_check_until_it_is_there_again,
    a_missing_unique_index_fails_the_check_with_the_remedy,
    a_missing_column_fails_the_check_after_a_statement_needed_it,
}
