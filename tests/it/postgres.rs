//! The same tests on both databases.
//!
//! A test is written once, and runs on SQLite; [`on_postgres_too!`] runs it again on a server, as
//! `postgres::…`: what opens a store for a test asks [`on`] which. Where no server can be had, the tests
//! that need one say so, loudly; where `RINGBACK_TESTS_NEED_POSTGRES` is set, they fail.

use std::cell::Cell;
use std::io::Write as _;
use std::sync::OnceLock;

use crate::server::{Server, programs};

/// Which database a test is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Sqlite,
    Postgres,
}

thread_local! {
    /// A test runs on a thread of its own.
    static ON: Cell<On> = const { Cell::new(On::Sqlite) };
}

/// What the test that runs here is for.
pub fn on() -> On {
    ON.get()
}

/// Runs a test once more, on PostgreSQL.
pub fn on_postgres(name: &str, test: fn()) {
    if shared(name).is_some() {
        ON.set(On::Postgres);
        // The snapshots are the same on both.
        insta::allow_duplicates! { test() }
    }
}

/// Tests of this module that are run on PostgreSQL too, as `postgres::…`.
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

/// The server that all tests share; `None` where there are no programs.
pub fn shared(test: &str) -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server =
        SERVER.get_or_init(|| programs().map(|programs| Server::start(&programs, &std::env::temp_dir())));
    if server.is_none() {
        assert!(
            variable("RINGBACK_TESTS_NEED_POSTGRES").is_none(),
            "there is no PostgreSQL 14 or newer, neither in PATH nor in /usr/lib/postgresql"
        );
        // Not through `eprintln!`, which is caught.
        let line = format!("\nSKIPPED for want of PostgreSQL 14 or newer: {test}\n");
        let _ = std::io::stderr().write_all(line.as_bytes());
    }
    server.as_ref()
}
