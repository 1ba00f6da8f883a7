//! Transactions, as the statements see them.

use std::fmt;

use rusqlite::Connection;

use super::error::{Result, StoreError};
use super::postgres::Session;
use super::row::Row;
use super::sqlite;
use super::value::Value;

/// A connection with or without an open transaction, as the statements see it.
pub enum Tx<'c> {
    Sqlite(&'c Connection),
    Postgres(&'c Session),
}

impl Tx<'_> {
    /// Runs a statement for each row of values. Returns the number of rows that each changed.
    pub fn each<'v, const N: usize>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(connection) => sqlite::each(connection, sql, rows),
            Self::Postgres(session) => session.each(sql, rows),
        }
    }

    /// Inserts each row of values, at once where the database can. The statement has the form `insert into t (a, b)
    /// values ($1, $2)`, with `on conflict (a) do update set …` if needed: no other clause has parameters, and there is
    /// no `do nothing` and no `returning`. No two rows have the same key.
    pub fn insert_each<'v, const N: usize>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<()> {
        self.update_each(sql, rows).map(|_| ())
    }

    /// Runs `update t set a = $1 where b = $2` for each row of values, at once where the database can. There are no
    /// subqueries, and no two rows match the same row of the table. Returns the number of rows that each changed.
    pub fn update_each<'v, const N: usize>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(connection) => sqlite::each(connection, sql, rows),
            Self::Postgres(session) => session.each_row(sql, rows),
        }
    }

    /// Runs a statement once. Returns the number of rows that it changed.
    pub fn run<const N: usize>(&self, sql: &str, row: [Value<'_>; N]) -> Result<usize> {
        Ok(self.each(sql, [row])?.into_iter().sum())
    }

    /// Runs a query for each row of values, and reads all rows of each result.
    pub fn fetch<'v, T, R: AsRef<[Value<'v>]>>(
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

    /// Runs a query once, and reads all rows of its result.
    pub fn list<'v, T>(
        &self,
        sql: &str,
        row: impl AsRef<[Value<'v>]>,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        Ok(self.fetch(sql, [row], read)?.pop().unwrap_or_default())
    }

    /// Runs a query once, and reads the first row of its result, if any.
    pub fn find<T, const N: usize>(
        &self,
        sql: &str,
        row: [Value<'_>; N],
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        Ok(self.list(sql, row, read)?.into_iter().next())
    }

    /// Runs a query for each row of values, and reads the first row of each result. A missing row is an error.
    pub fn ones<'v, T, R: AsRef<[Value<'v>]>>(
        &self,
        sql: &str,
        rows: impl IntoIterator<Item = R>,
        read: impl FnMut(&Row<'_>) -> Result<T>,
    ) -> Result<Vec<T>> {
        let first = |found: Vec<T>| found.into_iter().next().ok_or_else(|| no_row(sql));
        self.fetch(sql, rows, read)?.into_iter().map(first).collect()
    }

    /// Runs a query once, and reads the first row of its result. A missing row is an error.
    pub fn one<T, const N: usize>(
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
