//! The same tests on both databases.
//!
//! A test is written once and runs on SQLite. [`on_postgres_too!`] runs it again on a server, as `postgres::…`.
//! Fixtures that open a store read [`on`]. Without the programs of PostgreSQL, the tests that need a server
//! print that they are skipped; if `RINGBACK_TESTS_NEED_POSTGRES` is set, they fail.

use std::cell::Cell;
use std::io::Write as _;
use std::sync::OnceLock;

use crate::server::{Server, programs};

/// Database of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
}

thread_local! {
    /// Database of the test on this thread.
    static ON: Cell<On> = const { Cell::new(On::Sqlite) };
}

/// Returns the database of the current test.
pub fn on() -> On {
    ON.get()
}

/// Runs a test on PostgreSQL.
pub fn on_postgres(name: &str, test: fn()) {
    if shared(name).is_some() {
        ON.set(On::Postgres);
        // Both databases have the same snapshots.
        insta::allow_duplicates! { test() }
    }
}

/// Tests of this module that also run on PostgreSQL, as `postgres::…`.
macro_rules! on_postgres_too {
    ($($name:ident,)*) => {
        mod postgres {
            $(#[test] fn $name() {
                $crate::postgres::on_postgres(concat!(module_path!(), "::", stringify!($name)), super::$name);
            })*
        }
    };
}
pub(crate) use on_postgres_too;

#[expect(clippy::disallowed_methods, reason = "a test asks how it is run")]
fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name)
}

/// Returns the server that all tests share; `None` if its programs are missing.
pub fn shared(test: &str) -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server =
        SERVER.get_or_init(|| programs().map(|programs| Server::start(&programs, &std::env::temp_dir())));
    if server.is_none() {
        assert!(
            variable("RINGBACK_TESTS_NEED_POSTGRES").is_none(),
            "there is no PostgreSQL 14 or newer, neither in PATH nor in /usr/lib/postgresql"
        );
        // The test harness captures `eprintln!`.
        let line = format!("\nSKIPPED for want of PostgreSQL 14 or newer: {test}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    server.as_ref()
}
