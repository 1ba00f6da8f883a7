//! The few lines between the statements and the database.
//!
//! Statements are written once, in the SQL that SQLite and PostgreSQL share: `$1 … $n` numbered in
//! the order of their first appearance, columns that are integers, texts or bytes, `on conflict`
//! and `returning`. The one primitive is a statement run for many rows ([`Tx::each`],
//! [`Tx::fetch`]): on SQLite a loop over a prepared statement; a server would be sent all rows in
//! one round trip.

use std::fmt;

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, ErrorCode};

use crate::domain::{Id, Timestamp};

/// Why the store did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be read or written now: full, broken, locked. Nothing was changed.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// A row that contradicts itself, or a statement that should not have failed: a bug.
    #[error("the database holds what it should not: {0}")]
    Inconsistent(String),
}

/// Short for what the store's own functions return.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(
                ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::ReadOnly
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied,
            ) => Self::Unavailable(error.to_string()),
            _ => Self::Inconsistent(error.to_string()),
        }
    }
}

/// What stands for a `$n`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Id([u8; 16]),
}

impl ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            Self::Id(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

impl From<i64> for Value<'_> {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<u32> for Value<'_> {
    fn from(int: u32) -> Self {
        Self::Int(int.into())
    }
}

impl From<bool> for Value<'_> {
    fn from(yes: bool) -> Self {
        Self::Int(yes.into())
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(at: Timestamp) -> Self {
        Self::Int(at.millis())
    }
}

impl From<Id> for Value<'_> {
    fn from(id: Id) -> Self {
        Self::Id(id.to_bytes())
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<&'a [u8]> for Value<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Bytes(bytes)
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A query whose conditions are there only if they are asked for. (`$n is null or …` would hide the
/// index from SQLite's planner and the type of `$n` from PostgreSQL.)
pub(super) struct Where<'a> {
    pub(super) sql: String,
    pub(super) values: Vec<Value<'a>>,
}

impl<'a> Where<'a> {
    /// `select` ends with its first condition, up to where the value belongs: `… where app =`.
    pub(super) fn new(select: &str, value: impl Into<Value<'a>>) -> Self {
        Self { sql: format!("{select} $1"), values: vec![value.into()] }
    }

    /// A further condition, such as `id <`, where there is a value for it.
    pub(super) fn and(&mut self, condition: &str, value: Option<impl Into<Value<'a>>>) {
        if let Some(value) = value {
            self.push(&format!(" and {condition}"), value);
        }
    }

    /// What comes last, such as ` order by id limit`, up to its value.
    pub(super) fn push(&mut self, text: &str, value: impl Into<Value<'a>>) {
        self.values.push(value.into());
        self.sql.push_str(text);
        self.sql.push_str(" $");
        self.sql.push_str(&self.values.len().to_string());
    }
}

/// A row, read by position.
pub(super) struct Row<'r>(&'r rusqlite::Row<'r>);

impl Row<'_> {
    pub(super) fn int(&self, column: usize) -> Result<i64> {
        Ok(self.0.get(column)?)
    }

    pub(super) fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        Ok(self.0.get(column)?)
    }

    pub(super) fn count(&self, column: usize) -> Result<u32> {
        u32::try_from(self.int(column)?).map_err(|_| self.broken(column))
    }

    pub(super) fn flag(&self, column: usize) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    pub(super) fn time(&self, column: usize) -> Result<Timestamp> {
        Ok(Timestamp::from_millis(self.int(column)?))
    }

    pub(super) fn opt_time(&self, column: usize) -> Result<Option<Timestamp>> {
        Ok(self.opt_int(column)?.map(Timestamp::from_millis))
    }

    pub(super) fn text(&self, column: usize) -> Result<String> {
        Ok(self.0.get(column)?)
    }

    pub(super) fn opt_text(&self, column: usize) -> Result<Option<String>> {
        Ok(self.0.get(column)?)
    }

    pub(super) fn bytes(&self, column: usize) -> Result<Vec<u8>> {
        Ok(self.0.get(column)?)
    }

    pub(super) fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(column)?)
    }

    pub(super) fn id(&self, column: usize) -> Result<Id> {
        let value = self.0.get_ref(column)?;
        let bytes = value.as_blob().ok().and_then(|bytes| <[u8; 16]>::try_from(bytes).ok());
        bytes.map(Id::from_bytes).ok_or_else(|| self.broken(column))
    }

    /// A word of a closed set.
    pub(super) fn word<T>(&self, column: usize, parse: fn(&str) -> Option<T>) -> Result<T> {
        let word = self.0.get_ref(column)?;
        word.as_str().ok().and_then(parse).ok_or_else(|| self.broken(column))
    }

    /// Whether a column holds just this text.
    pub(super) fn is(&self, column: usize, text: &str) -> Result<bool> {
        Ok(self.0.get_ref(column)?.as_bytes().is_ok_and(|bytes| bytes == text.as_bytes()))
    }

    /// A JSON text of our own making.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T> {
        let text = self.0.get_ref(column)?;
        let text = text.as_str().map_err(|_| self.broken(column))?;
        serde_json::from_str(text).map_err(|_| self.broken(column))
    }

    fn broken(&self, column: usize) -> StoreError {
        let name = self.0.as_ref().column_name(column).unwrap_or("?").to_owned();
        StoreError::Inconsistent(format!("the column `{name}` cannot be read"))
    }
}

/// A connection with or without an open transaction, as the statements see it.
pub(super) struct Tx<'c> {
    connection: &'c Connection,
}

impl<'c> Tx<'c> {
    pub(super) fn new(connection: &'c Connection) -> Self {
        Self { connection }
    }

    /// Runs a statement for each row of values and says how many rows each changed.
    pub(super) fn each<'v, const N: usize>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        let mut statement = self.prepare(sql)?;
        let run = |row: [Value<'v>; N]| {
            bind(&mut statement, &row)?;
            Ok(statement.raw_execute()?)
        };
        rows.into_iter().map(run).collect()
    }

    /// Runs a statement once and says how many rows it changed.
    pub(super) fn run<const N: usize>(&self, sql: &str, row: [Value<'_>; N]) -> Result<usize> {
        Ok(self.each(sql, [row])?.into_iter().sum())
    }

    /// Runs a query for each row of values and reads all rows that each gives.
    pub(super) fn fetch<'v, T, R: AsRef<[Value<'v>]>>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = R>,
        mut read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<Vec<T>>> {
        let mut statement = self.prepare(sql)?;
        let mut all = Vec::new();
        for row in rows {
            bind(&mut statement, row.as_ref())?;
            let mut found = Vec::new();
            let mut cursor = statement.raw_query();
            while let Some(row) = cursor.next()? {
                found.push(read(&Row(row))?);
            }
            all.push(found);
        }
        Ok(all)
    }

    /// Runs a query once and reads all its rows.
    pub(super) fn list<'v, T>(
        &self,
        sql: &str,
        row: impl AsRef<[Value<'v>]>,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        Ok(self.fetch(sql, [row], read)?.pop().unwrap_or_default())
    }

    /// Runs a query once and reads its first row, if there is one.
    pub(super) fn find<T, const N: usize>(
        &self,
        sql: &str,
        row: [Value<'_>; N],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.list(sql, row, read)?.into_iter().next())
    }

    /// The one row that must be there.
    pub(super) fn one<T, const N: usize>(
        &self,
        sql: &str,
        row: [Value<'_>; N],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.find(sql, row, read)?.ok_or_else(|| StoreError::Inconsistent(format!("no row for `{sql}`")))
    }

    fn prepare(&self, sql: &str) -> Result<CachedStatement<'c>> {
        let statement = self.connection.prepare_cached(sql)?;
        debug_assert!(
            (1..=statement.parameter_count()).all(|n| statement.parameter_name(n) == Some(&format!("${n}"))),
            "parameters are numbered in the order of their first appearance: {sql}"
        );
        Ok(statement)
    }
}

fn bind(statement: &mut CachedStatement<'_>, row: &[Value<'_>]) -> Result<()> {
    debug_assert_eq!(statement.parameter_count(), row.len(), "a value for each parameter");
    for (index, value) in row.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

impl fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tx")
    }
}
