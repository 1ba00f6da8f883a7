//! Transactions, as the statements see them.

use rusqlite::{CachedStatement, Connection};

use super::error::{Result, StoreError};
use super::postgres::Session;
use super::value::{ManyParams, Params, Read, Row, RowSql, Value};

/// A connection with or without an open transaction, as the statements see it.
#[derive(Debug)]
pub enum Tx<'c> {
    Sqlite(&'c Connection),
    Postgres(&'c Session),
}

impl Tx<'_> {
    /// Runs a statement for each row of values. Returns the number of rows that each changed.
    pub fn each<'v, R: ManyParams<'v>>(&self, sql: &str, rows: R) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = prepare(connection, sql)?;
                let run = |row: R::Item| {
                    bind(&mut statement, row.as_ref())?;
                    Ok(statement.raw_execute()?)
                };
                rows.into_iter().map(run).collect()
            }
            Self::Postgres(session) => session.each(sql, rows),
        }
    }

    /// Inserts each row of values, at once where the database can. No two rows have the same key.
    pub fn insert_each<'v>(&self, sql: RowSql, rows: impl ManyParams<'v>) -> Result<()> {
        match self {
            Self::Sqlite(connection) => insert_in_pieces(connection, sql, rows),
            Self::Postgres(session) => session.each_row(sql, rows).map(|_| ()),
        }
    }

    /// Inserts or updates a row for each row of values, at once where it is faster. No two rows have the same key.
    ///
    /// SQLite keeps a copy of each page that a statement of several rows changes, if an update of it may fail, and it
    /// searches for children of each row. That takes longer than a statement for each row.
    pub fn upsert_each<'v>(&self, sql: RowSql, rows: impl ManyParams<'v>) -> Result<()> {
        match self {
            Self::Sqlite(_) => self.each(sql.one, rows).map(|_| ()),
            Self::Postgres(session) => session.each_row(sql, rows).map(|_| ()),
        }
    }

    /// Updates the row that each row of values selects, at once where the database can. No two rows of values select
    /// the same row of the table. Returns the number of rows that each changed.
    pub fn update_each<'v>(&self, sql: RowSql, rows: impl ManyParams<'v>) -> Result<Vec<usize>> {
        match self {
            Self::Sqlite(_) => self.each(sql.one, rows),
            Self::Postgres(session) => session.each_row(sql, rows),
        }
    }

    /// Runs a statement once. Returns the number of rows that it changed.
    pub fn run<'v>(&self, sql: &str, row: impl Params<'v>) -> Result<usize> {
        Ok(self.each(sql, [row])?.into_iter().sum())
    }

    /// Runs a query for each row of values, and reads all rows of each result.
    pub fn fetch<'v, T, R: ManyParams<'v>>(
        &self,
        sql: &str,
        rows: R,
        mut read: impl Read<T>,
    ) -> Result<Vec<Vec<T>>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = prepare(connection, sql)?;
                let fetch = |row: R::Item| {
                    bind(&mut statement, row.as_ref())?;
                    let (mut found, mut cursor) = (Vec::new(), statement.raw_query());
                    while let Some(row) = cursor.next()? {
                        found.push(read(&Row::Sqlite(row))?);
                    }
                    Ok(found)
                };
                rows.into_iter().map(fetch).collect()
            }
            Self::Postgres(session) => session.fetch(sql, rows, read),
        }
    }

    /// Does the same for all rows of values at once where the database can: PostgreSQL then answers once. The rows of
    /// each result are in no order. The query is a plain `select`.
    pub fn fetch_each<'v, T, R: ManyParams<'v>>(
        &self,
        sql: &'static str,
        rows: R,
        read: impl Read<T>,
    ) -> Result<Vec<Vec<T>>> {
        match self {
            Self::Sqlite(_) => self.fetch(sql, rows, read),
            Self::Postgres(session) => session.fetch_each(sql, rows, read),
        }
    }

    /// Runs a query once, and reads all rows of its result.
    pub fn list<'v, T>(&self, sql: &str, row: impl Params<'v>, read: impl Read<T>) -> Result<Vec<T>> {
        Ok(self.fetch(sql, [row], read)?.pop().unwrap_or_default())
    }

    /// Runs a query once, and reads the rows of its result until `take` returns `false`. The rest is not read into
    /// memory.
    pub fn list_while<'v, T>(
        &self,
        sql: &str,
        row: impl Params<'v>,
        mut read: impl Read<T>,
        mut take: impl FnMut(T) -> bool,
    ) -> Result<()> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = prepare(connection, sql)?;
                bind(&mut statement, row.as_ref())?;
                let mut cursor = statement.raw_query();
                while let Some(row) = cursor.next()? {
                    if !take(read(&Row::Sqlite(row))?) {
                        break;
                    }
                }
                Ok(())
            }
            Self::Postgres(session) => session.list_while(sql, row, read, take),
        }
    }

    /// Runs a query once, and reads the first row of its result, if any.
    pub fn find<'v, T>(&self, sql: &str, row: impl Params<'v>, read: impl Read<T>) -> Result<Option<T>> {
        Ok(self.list(sql, row, read)?.into_iter().next())
    }

    /// Runs a query for each row of values, and reads the first row of each result. A missing row is an error.
    pub fn ones<'v, T>(&self, sql: &str, rows: impl ManyParams<'v>, read: impl Read<T>) -> Result<Vec<T>> {
        let first = |found: Vec<T>| found.into_iter().next().ok_or_else(|| no_row(sql));
        self.fetch(sql, rows, read)?.into_iter().map(first).collect()
    }

    /// Runs a query once, and reads the first row of its result. A missing row is an error.
    pub fn one<'v, T>(&self, sql: &str, row: impl Params<'v>, read: impl Read<T>) -> Result<T> {
        self.find(sql, row, read)?.ok_or_else(|| no_row(sql))
    }
}

/// Numbers of rows that SQLite inserts with one statement. For each statement it opens every index of the table, which
/// takes longer than the insertion of a row.
pub const PIECES: [usize; 2] = [16, 4];

fn insert_in_pieces<'v, R: ManyParams<'v>>(connection: &Connection, sql: RowSql, rows: R) -> Result<()> {
    let rows: Vec<R::Item> = rows.into_iter().collect();
    let Some(params) = rows.first().map(|row| row.as_ref().len()) else { return Ok(()) };
    let mut rest = rows.as_slice();
    let texts = sql.pieces.iter().zip(PIECES).map(|(text, size)| (Some(text), size));
    for (text, size) in texts.chain([(None, 1)]) {
        if rest.len() < size {
            continue;
        }
        let text = text.map_or(sql.one, |text| text.get_or_init(|| sql.of_rows(size, params)));
        let mut statement = prepare(connection, text)?;
        while let Some((piece, later)) = rest.split_at_checked(size) {
            bind(&mut statement, piece.iter().flat_map(AsRef::as_ref))?;
            statement.raw_execute()?;
            rest = later;
        }
    }
    Ok(())
}

fn no_row(sql: &str) -> StoreError {
    StoreError::Inconsistent(format!("no row for `{sql}`"))
}

fn prepare<'c>(connection: &'c Connection, sql: &str) -> Result<CachedStatement<'c>> {
    let statement = connection.prepare_cached(sql)?;
    debug_assert!(
        (1..=statement.parameter_count()).all(|n| statement.parameter_name(n) == Some(&format!("${n}"))),
        "parameters are numbered in the order of their first appearance: {sql}"
    );
    Ok(statement)
}

fn bind<'a, 'v: 'a>(
    statement: &mut CachedStatement<'_>,
    values: impl IntoIterator<Item = &'a Value<'v>>,
) -> Result<()> {
    let mut count = 0;
    for value in values {
        count += 1;
        statement.raw_bind_parameter(count, value)?;
    }
    debug_assert_eq!(statement.parameter_count(), count, "a value for each parameter");
    Ok(())
}
