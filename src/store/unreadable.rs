//! Rows that cannot be read, and are left out where many rows are read.
//!
//! A column can hold a value that this program has not written, after a change by hand or damage to the file. Such a row
//! must not stop the start, the list of an app or the end of other watches. So where many rows are read, it is left out:
//! it is not polled, sent or shown. It stays in the database, does not count as ended, and is read again at the next
//! start. Where only this row is requested, the answer is [`StoreError::Inconsistent`].
//!
//! An error of the database is no error of a row, and is returned.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::db::{Result, Row, StoreError};

/// Maximum number of rows that are logged by a process.
const LOGGED_MAX: usize = 1_000;

/// The rows that were logged, by table and key.
#[derive(Clone, Debug, Default)]
pub struct UnreadableRows(Arc<Mutex<BTreeSet<(&'static str, String)>>>);

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

    fn log(&self, table: &'static str, key: &str, error: &str) {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if logged.len() < LOGGED_MAX && logged.insert((table, key.to_owned())) {
            tracing::error!(
                table,
                row = key,
                error,
                "a row of the database cannot be read and is left out; correct it or restore it from a backup, then restart"
            );
        }
    }
}
