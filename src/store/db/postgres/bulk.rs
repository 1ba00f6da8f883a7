//! Statements for many rows, made from the statement for one row.
//!
//! A row costs the server a message, an answer and a flush, however small its work is. An `insert … values` or
//! an `update … where` can take all rows at once, as one array for each `$n`. The text for many rows is made
//! here from the text that both databases share, so every statement is written once. Statements of other
//! forms are sent row by row, pipelined.
//!
//! If several rows of values match one row of the table, an update applies only one of them, and an upsert
//! fails. Callers send each key once.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

/// Form of a statement for many rows, which decides what its answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Every row was written, or the statement failed.
    Insert,
    /// The answer holds the numbers, from 1, of the rows that matched a row of the table.
    Update,
}

/// Returns the statement for many rows, if `sql` has a form that allows it. `types` are the types of its
/// parameters.
pub fn for_many(sql: &str, types: &[Type]) -> Option<(Form, String)> {
    let arrays = arrays(types)?;
    if sql.starts_with("insert into ") {
        // The number of written rows would be unknown after `do nothing`.
        let (head, rest) = sql.split_once("values (").filter(|_| !sql.contains("do nothing"))?;
        let end = closing(rest)?;
        let (row, tail) = (rest.get(..end)?, rest.get(end + 1..)?);
        if tail.contains('$') || tail.contains("returning") {
            return None;
        }
        Some((Form::Insert, format!("{head}select {} from {arrays}{tail}", columns(row))))
    } else if sql.starts_with("update ") {
        let mut parts = sql.split("where ");
        let (head, condition) = (parts.next()?, parts.next()?);
        let plain = parts.next().is_none() && !sql.contains("select") && !sql.contains("returning");
        let (head, condition) = (columns(head), columns(condition));
        plain.then(|| (Form::Update, format!("{head}from {arrays} where {condition} returning u.row")))
    } else {
        None
    }
}

/// Returns `unnest(…) with ordinality as u (p1, …, row)`.
fn arrays(types: &[Type]) -> Option<String> {
    let (mut given, mut names) = (String::new(), String::new());
    for (n, ty) in (1..).zip(types) {
        let name = match *ty {
            Type::INT8 => "bigint",
            Type::TEXT => "text",
            Type::BYTEA => "bytea",
            _ => return None,
        };
        let _ = write!(given, "{}cast(${n} as {name}[])", if n > 1 { ", " } else { "" });
        let _ = write!(names, "p{n}, ");
    }
    (!types.is_empty()).then(|| format!("unnest({given}) with ordinality as u ({names}row)"))
}

/// Returns the position of the parenthesis that closes the one before `text`.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(at);
        }
    }
    None
}

/// Replaces parameters such as `$3` by columns such as `u.p3`.
fn columns(text: &str) -> String {
    text.replace('$', "u.p")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_insert_takes_its_rows_from_arrays() {
        let sql = "insert into t (a, b, c) values ($1, 'x', coalesce($2, $1)) on conflict (a) do update set b = excluded.b";
        let (form, many) = for_many(sql, &[Type::INT8, Type::TEXT]).expect("plain");
        assert_eq!(form, Form::Insert);
        assert_eq!(
            many,
            "insert into t (a, b, c) select u.p1, 'x', coalesce(u.p2, u.p1) from \
             unnest(cast($1 as bigint[]), cast($2 as text[])) with ordinality as u (p1, p2, row) \
             on conflict (a) do update set b = excluded.b"
        );
    }

    #[test]
    fn an_update_returns_the_rows_that_matched() {
        let (form, many) =
            for_many("update t set a = $1 where b = $2", &[Type::INT8, Type::BYTEA]).expect("plain");
        assert_eq!(form, Form::Update);
        assert_eq!(
            many,
            "update t set a = u.p1 from unnest(cast($1 as bigint[]), cast($2 as bytea[])) \
             with ordinality as u (p1, p2, row) where b = u.p2 returning u.row"
        );
    }

    #[test]
    fn other_statements_are_sent_row_by_row() {
        for sql in [
            "insert into t (a) values ($1) on conflict (a) do nothing",
            "insert into t (a) values ($1) on conflict (a) do update set a = $1",
            "insert into t (a) select $1 from s",
            "update t set a = 1 where b = $1 and (select c from s where d = 1) > 0",
            "update t set a = $1 where b = 1 returning a",
            "delete from t where a = $1",
        ] {
            assert_eq!(for_many(sql, &[Type::INT8]), None, "{sql}");
        }
        assert_eq!(for_many("update t set a = $1 where b = 1", &[Type::INT4]), None);
        assert_eq!(for_many("update t set a = 1 where b = 1", &[]), None);
    }
}
