//! Transactions, as the statements see them.

use std::fmt;

use rusqlite::Connection;

use super::error::{Result, StoreError};
use super::postgres::Session;
use super::row::Row;
use super::sqlite;
use super::statement::RowStatement;
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

    /// Runs `into values (row) tail` for each row of values, at once where the database can. `tail` has no
    /// parameters, no `do nothing` and no `returning`; no two rows have the same key.
    pub fn insert_each<'v, const N: usize>(
        &self,
        into: &str,
        row: &str,
        tail: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<()> {
        self.each_row(RowStatement::Insert { into, row, tail }, rows).map(|_| ())
    }

    /// Runs `update where condition` for each row of values, at once where the database can. There are no
    /// subqueries, and no two rows match the same row of the table. Returns the number of rows that each
    /// changed.
    pub fn update_each<'v, const N: usize>(
        &self,
        update: &str,
        condition: &str,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        self.each_row(RowStatement::Update { update, condition }, rows)
    }

    fn each_row<'v, const N: usize>(
        &self,
        statement: RowStatement<'_>,
        rows: impl IntoIterator<Item = [Value<'v>; N]>,
    ) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(connection) => sqlite::each(connection, &statement.to_string(), rows),
            Self::Postgres(session) => session.each_row(statement, rows),
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
