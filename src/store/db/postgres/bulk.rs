//! One statement for many rows, made from the statement for one.
//!
//! A row costs the server a message, an answer and a flush, however little it does with it. An
//! `insert … values` and an `update … where` can be put so that they take all rows at once, as one
//! array for each `$n`; their text is made here from the one that both databases share, so there is
//! still one. What is not of these plain forms is sent row by row, pipelined.
//!
//! A row of the table that several rows of values hit is updated by one of them only, and an upsert
//! refuses to hit one twice: whoever has such rows sends each once.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

/// What is answered for the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Every row was written, or all failed.
    Insert,
    /// Which rows hit something: their numbers, from 1.
    Update,
}

/// The statement for many rows, if `sql` has a form that allows one. `types` are its parameters'.
pub(super) fn for_many(sql: &str, types: &[Type]) -> Option<(Form, String)> {
    let arrays = arrays(types)?;
    if sql.starts_with("insert into ") {
        // What is not written is not counted here.
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

/// `unnest(…) with ordinality as u (p1, …, row)`
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

/// Where the parenthesis closes that was open before `text`.
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

/// `$3` is a column now.
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
    fn an_update_says_which_rows_hit() {
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
    fn what_is_not_plain_is_left_to_be_sent_row_by_row() {
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
