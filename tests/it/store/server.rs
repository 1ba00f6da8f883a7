//! Checks of a PostgreSQL server, and its schema.

use std::collections::BTreeSet;

use rusqlite::Connection;

use super::{START, StoreFixture, file, open};
use crate::postgres::{On, on, shared};
use ringback::domain::Masked;
use ringback::store::DatabaseLocation;

#[test]
fn a_server_that_confirms_before_writing_is_refused() {
    let Some(server) = shared("a server that answers too soon") else { return };
    let name = server.database();
    server.query("postgres", &format!("alter database {name} set synchronous_commit = off"));
    let error = open(&DatabaseLocation::Server(Masked::new(server.url(&name))), START).expect_err("refused");
    let expected = "synchronous_commit=off, and would lose what it said was written";
    assert!(format!("{error:#}").contains(expected), "{error:#}");
}

#[test]
fn a_database_of_a_newer_version_is_refused_and_left_alone() {
    let Some(server) = shared("a database of a newer version") else { return };
    let name = server.database();
    server.query(&name, "insert into schema_version values (999)");
    let error = open(&DatabaseLocation::Server(Masked::new(server.url(&name))), START).expect_err("refused");
    assert!(format!("{error:#}").contains("written by a newer version of ringback"), "{error:#}");
    assert_eq!(server.query(&name, "select max(version) from schema_version").as_deref(), Some("999"));
}

#[test]
fn a_database_that_is_not_in_utf_8_is_refused() {
    let Some(server) = shared("a database in another encoding") else { return };
    server.query("postgres", "create database latin encoding 'LATIN1' template template0");
    let error =
        open(&DatabaseLocation::Server(Masked::new(server.url("latin"))), START).expect_err("refused");
    assert!(format!("{error:#}").contains("not in UTF-8"), "{error:#}");
}

#[test]
fn an_unreachable_server_is_reported_without_its_password() {
    let location = DatabaseLocation::Server(Masked::new("postgres://ringback:hush@127.0.0.1:1/ringback"));
    let error = format!("{:#}", open(&location, START).expect_err("refused"));
    assert!(error.contains("the database cannot be reached") && !error.contains("hush"), "{error}");
    assert!(!format!("{location:?}").contains("hush"));
}

#[tokio::test]
async fn both_databases_have_the_same_tables_and_columns() {
    let Some(server) = shared("the tables of both") else { return };
    assert_eq!(on(), On::Sqlite);
    let (_folder, location) = StoreFixture::new().await.close().await;
    let db = Connection::open(file(&location)).expect("opens");
    let sql = "select t.name || '.' || c.name from sqlite_master t, pragma_table_info(t.name) c
               where t.type = 'table' and t.name not like 'sqlite_%'";
    let mut all = db.prepare(sql).expect("a statement");
    let mut sqlite: BTreeSet<String> =
        all.query_map([], |row| row.get(0)).expect("read").collect::<Result<_, _>>().expect("names");
    // Only the number of its row.
    assert!(sqlite.remove("events.no"));
    let sql = "select string_agg(table_name || '.' || column_name, ' ') from information_schema.columns
               where table_schema = 'public' and table_name <> 'schema_version'";
    let postgres = server.query(&server.database(), sql).expect("columns");
    let postgres: BTreeSet<String> = postgres.split(' ').map(str::to_owned).collect();
    assert_eq!(sqlite, postgres);
}
