//! The few lines between the statements and the database.
//!
//! Statements are written once, in the SQL that SQLite and PostgreSQL share: `$1 … $n` numbered in
//! the order of their first appearance, columns that are integers, texts or bytes, `on conflict`
//! and `returning`. The one primitive is a statement run for many rows ([`Tx::each`],
//! [`Tx::fetch`]): on SQLite a loop over a prepared statement; PostgreSQL is sent all rows before
//! the first answer is read.

use std::fmt;

use bytes::BytesMut;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode};
use tokio_postgres::types::{FromSql, IsNull, Type, WrongType};

use super::postgres::Session;
use super::sqlite;
use crate::domain::{Id, Timestamp};

/// Why the store did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be read or written now: full, broken, locked. Nothing was changed.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    /// The connection was lost while the database was asked to commit: whether it did is known once it
    /// answers again.
    #[error("the database was lost while it was asked to write: {0}")]
    Unknown(String),
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

impl rusqlite::types::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(int) => ValueRef::Integer(*int),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
            Self::Id(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// Whatever comes over a connection may fail in many ways.
type Failure = Box<dyn std::error::Error + Sync + Send>;

impl tokio_postgres::types::ToSql for Value<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, Failure> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Int(int) if *ty == Type::INT8 => out.extend_from_slice(&int.to_be_bytes()),
            Self::Int(int) if *ty == Type::INT4 => out.extend_from_slice(&i32::try_from(*int)?.to_be_bytes()),
            Self::Text(text) if *ty == Type::TEXT => out.extend_from_slice(text.as_bytes()),
            Self::Bytes(bytes) if *ty == Type::BYTEA => out.extend_from_slice(bytes),
            Self::Id(bytes) if *ty == Type::BYTEA => out.extend_from_slice(bytes),
            Self::Int(_) | Self::Text(_) | Self::Bytes(_) | Self::Id(_) => {
                return Err(Box::new(WrongType::new::<Self>(ty.clone())));
            }
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        // Null is of every type; the others look for themselves.
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// An integer of whichever width the server found fit.
struct Whole(i64);

impl FromSql<'_> for Whole {
    fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, Failure> {
        Ok(Self(match *ty {
            Type::INT8 => i64::from_be_bytes(raw.try_into()?),
            _ => i32::from_be_bytes(raw.try_into()?).into(),
        }))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4)
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
pub(super) enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    pub(super) fn int(&self, column: usize) -> Result<i64> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => self.read(row.try_get(column), column).map(|Whole(int)| int),
        }
    }

    pub(super) fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => {
                let found: Option<Whole> = self.read(row.try_get(column), column)?;
                Ok(found.map(|Whole(int)| int))
            }
        }
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
        self.borrowed(column).map(str::to_owned)
    }

    pub(super) fn opt_text(&self, column: usize) -> Result<Option<String>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    pub(super) fn bytes(&self, column: usize) -> Result<Vec<u8>> {
        self.blob(column).map(<[u8]>::to_vec)
    }

    pub(super) fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    pub(super) fn id(&self, column: usize) -> Result<Id> {
        let bytes = self.blob(column)?.try_into();
        bytes.map(Id::from_bytes).map_err(|_| self.broken(column))
    }

    /// A word of a closed set.
    pub(super) fn word<T>(&self, column: usize, parse: fn(&str) -> Option<T>) -> Result<T> {
        parse(self.borrowed(column)?).ok_or_else(|| self.broken(column))
    }

    /// Whether a column holds just this text.
    pub(super) fn is(&self, column: usize, text: &str) -> Result<bool> {
        Ok(self.borrowed(column)? == text)
    }

    /// A JSON text of our own making.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T> {
        serde_json::from_str(self.borrowed(column)?).map_err(|_| self.broken(column))
    }

    fn borrowed(&self, column: usize) -> Result<&str> {
        match self {
            Self::Sqlite(row) => row.get_ref(column)?.as_str().map_err(|_| self.broken(column)),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    fn blob(&self, column: usize) -> Result<&[u8]> {
        match self {
            Self::Sqlite(row) => row.get_ref(column)?.as_blob().map_err(|_| self.broken(column)),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    fn read<T>(&self, read: Result<T, tokio_postgres::Error>, column: usize) -> Result<T> {
        read.map_err(|_| self.broken(column))
    }

    fn broken(&self, column: usize) -> StoreError {
        let name = match self {
            Self::Sqlite(row) => row.as_ref().column_name(column).unwrap_or("?"),
            Self::Postgres(row) => row.columns().get(column).map_or("?", tokio_postgres::Column::name),
        };
        StoreError::Inconsistent(format!("the column `{name}` cannot be read"))
    }
}

/// A connection with or without an open transaction, as the statements see it.
pub(super) enum Tx<'c> {
    Sqlite(&'c Connection),
    Postgres(&'c Session),
}

impl Tx<'_> {
    /// Runs a statement for each row of values and says how many rows each changed.
    pub(super) fn each<'v, const N: usize>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(connection) => sqlite::each(connection, sql, rows),
            Self::Postgres(session) => session.each(sql, rows),
        }
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
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<Vec<T>>> {
        match self {
            Self::Sqlite(connection) => sqlite::fetch(connection, sql, rows, read),
            Self::Postgres(session) => session.fetch(sql, rows, read),
        }
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

    /// For each row of values, the one row that must be there.
    pub(super) fn ones<'v, T, R: AsRef<[Value<'v>]>>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = R>,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let first = |found: Vec<T>| found.into_iter().next().ok_or_else(|| no_row(sql));
        self.fetch(sql, rows, read)?.into_iter().map(first).collect()
    }

    /// The one row that must be there.
    pub(super) fn one<T, const N: usize>(
        &self,
        sql: &str,
        row: [Value<'_>; N],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<T> {
        self.find(sql, row, read)?.ok_or_else(|| no_row(sql))
    }
}

fn no_row(sql: &str) -> StoreError {
    StoreError::Inconsistent(format!("no row for `{sql}`"))
}

impl fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tx")
    }
}
