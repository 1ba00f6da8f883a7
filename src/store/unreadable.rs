//! Rows that cannot be read, and are left out where many rows are read.
//!
//! A column can hold a value that this program has not written, after a change by hand or damage to the file. Such a row
//! must not stop the start, the list of an app or the end of other watches. So where many rows are read, it is left out:
//! it is not polled, sent or shown. It stays in the database, does not count as ended, and is read again at the next
//! start. Where only this row is requested, the answer is [`StoreError::Inconsistent`].
//!
//! **Rows behind them go on.** A query that returns the first rows of a queue would return the same rows that cannot be read
//! each time. So this process remembers them: a query returns that many rows more ([`UnreadableRows::count`]), or leaves them
//! out ([`UnreadableRows::has`]).
//!
//! An error of the database is no error of a row, and is returned.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::db::{Result, Row, StoreError};

/// Maximum number of rows of a table that are remembered. Beyond it, rows behind others can wait.
const NOTED_MAX: usize = 10_000;

/// Maximum number of rows that are logged by a process.
const LOGGED_MAX: usize = 1_000;

/// The rows that could not be read since the start.
#[derive(Clone, Debug, Default)]
pub struct UnreadableRows(Arc<Mutex<Noted>>);

#[derive(Debug, Default)]
struct Noted {
    /// The keys of the rows by table, as they are shown.
    by_table: BTreeMap<&'static str, BTreeSet<String>>,
    logged: usize,
}

impl UnreadableRows {
    /// Returns what was read of a row. `None`: it cannot be read, which is logged once. `key` is the column that
    /// identifies the row in `table`.
    pub fn skip<T>(
        &self,
        (table, key): (&'static str, usize),
        row: &Row<'_>,
        read: Result<T>,
    ) -> Result<Option<T>> {
        self.note((table, key), row, &read);
        match read {
            Ok(read) => Ok(Some(read)),
            Err(StoreError::Inconsistent(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Logs a row that cannot be read.
    pub fn note<T>(&self, (table, key): (&'static str, usize), row: &Row<'_>, read: &Result<T>) {
        if let Err(StoreError::Inconsistent(error)) = read {
            self.log(table, &row.shown(key), error);
        }
    }

    /// Returns the number of rows of a table that could not be read.
    pub fn count(&self, table: &'static str) -> usize {
        self.noted().by_table.get(table).map_or(0, BTreeSet::len)
    }

    /// Returns whether a row could not be read before.
    pub fn has(&self, (table, key): (&'static str, usize), row: &Row<'_>) -> bool {
        let noted = self.noted();
        noted.by_table.get(table).is_some_and(|keys| keys.contains(&row.shown(key)))
    }

    fn log(&self, table: &'static str, key: &str, error: &str) {
        let mut noted = self.noted();
        let keys = noted.by_table.entry(table).or_default();
        if keys.len() >= NOTED_MAX || !keys.insert(key.to_owned()) || noted.logged >= LOGGED_MAX {
            return;
        }
        noted.logged += 1;
        drop(noted);
        tracing::error!(
            table,
            row = key,
            error,
            "a row of the database cannot be read and is left out; correct it or restore it from a backup, then restart"
        );
    }

    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
