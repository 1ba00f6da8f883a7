//! Tables and permissions that an operator takes away while the store is open.

use ringback::store::StoreError;

use super::{StoreFixture, register_command};
use crate::harness::Harness;

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
    let run = |sql: &str| rusqlite::Connection::open(t.file()).unwrap().execute_batch(sql).unwrap();
    // No request has failed yet.
    run("alter table attempts rename to away");
    let problem = t.get_without_key("/readyz").await.expect(503);
    let says = "a table of the database is missing or may not be used; the server's log says which";
    assert_eq!((&problem["code"], &problem["detail"]), (&"not_ready".into(), &says.into()));
    run("alter table away rename to attempts");
    t.get_without_key("/readyz").await.expect(200);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_missing_table_fails_the_check_until_it_is_there_again,
    a_missing_column_fails_the_check_after_a_statement_needed_it,
}
