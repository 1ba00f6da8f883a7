//! Statements for many rows, made from the statement for one row.
//!
//! A row costs the server a message, an answer and a flush, however small its work is. An `insert` or an
//! `update` can take all rows at once, as one array for each `$n`. The parts of a [`RowSql`] are written once for both
//! databases; this file puts them together for arrays. A `select` is run within the server for each row of the arrays.
//!
//! If several rows of values match one row of the table, an update applies only one of them, and an upsert
//! fails. Callers send each key once.

use std::fmt::Write as _;

use tokio_postgres::types::Type;

use super::super::value::{Parts, RowSql};

/// Returns the text for many rows; `None` if a parameter has a type without arrays here. `types` are the types
/// of the parameters. An `insert` returns nothing: every row was written, or the statement failed. An
/// `update` returns the numbers, from 1, of the rows of values that matched a row of the table.
pub fn for_many(sql: RowSql, types: &[Type]) -> Option<String> {
    let arrays = arrays(types)?;
    // Columns such as `u.p3` instead of parameters such as `$3`.
    let columns = |part: &str| part.replace('$', "u.p");
    Some(match sql.parts {
        Parts::Insert { into, row, tail } => format!("{into} select {} from {arrays} {tail}", columns(row)),
        Parts::Update { update, condition } => {
            format!("{} from {arrays} where {} returning u.row", columns(update), columns(condition))
        }
    })
}

/// Returns the text of a `select` for many rows; `None` as for [`for_many`]. The last column of its result is the number,
/// from 1, of the row of values. `offset 0` keeps the planner from joining `select` with the arrays in another way: it
/// plans while the tables are empty, and each part would seem cheap.
pub fn select_for_many(select: &str, types: &[Type]) -> Option<String> {
    let (arrays, select) = (arrays(types)?, select.replace('$', "u.p"));
    Some(format!("select q.*, u.row from {arrays} cross join lateral ({select} offset 0) q"))
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

#[cfg(test)]
mod tests {
    use super::super::super::value::row_sql;
    use super::*;

    #[test]
    fn an_insert_takes_its_rows_from_arrays() {
        let insert = row_sql!(
            "insert into t (a, b, c)"
            values ("$1, 'x', coalesce($2, $1)")
            "on conflict (a) do update set b = excluded.b"
        );
        assert_eq!(
            insert.one,
            "insert into t (a, b, c) values ($1, 'x', coalesce($2, $1)) on conflict (a) do update set b = excluded.b"
        );
        let many = for_many(insert, &[Type::INT8, Type::TEXT]).expect("types with arrays");
        assert_eq!(
            many,
            "insert into t (a, b, c) select u.p1, 'x', coalesce(u.p2, u.p1) from \
             unnest(cast($1 as bigint[]), cast($2 as text[])) with ordinality as u (p1, p2, row) \
             on conflict (a) do update set b = excluded.b"
        );
        let plain = row_sql!("insert into t (a)" values ("$1"));
        assert_eq!(plain.one, "insert into t (a) values ($1)");
        let many = for_many(plain, &[Type::INT8]).expect("a type with arrays");
        assert_eq!(
            many.trim_end(),
            "insert into t (a) select u.p1 from unnest(cast($1 as bigint[])) with ordinality as u (p1, row)"
        );
    }

    #[test]
    fn an_update_returns_the_rows_that_matched() {
        let update = row_sql!("update t set a = $1" where "b = $2");
        assert_eq!(update.one, "update t set a = $1 where b = $2");
        let many = for_many(update, &[Type::INT8, Type::BYTEA]).expect("types with arrays");
        assert_eq!(
            many,
            "update t set a = u.p1 from unnest(cast($1 as bigint[]), cast($2 as bytea[])) \
             with ordinality as u (p1, p2, row) where b = u.p2 returning u.row"
        );
    }

    #[test]
    fn a_select_is_run_for_each_row_of_its_arrays() {
        let many = select_for_many("select a from t where b = $1 and c = $2", &[Type::INT8, Type::BYTEA]);
        assert_eq!(
            many.expect("types with arrays"),
            "select q.*, u.row from unnest(cast($1 as bigint[]), cast($2 as bytea[])) \
             with ordinality as u (p1, p2, row) \
             cross join lateral (select a from t where b = u.p1 and c = u.p2 offset 0) q"
        );
        assert_eq!(select_for_many("select a from t where b = $1", &[Type::INT4]), None);
    }

    #[test]
    fn other_statements_are_sent_row_by_row() {
        let update = row_sql!("update t set a = $1" where "b = 1");
        assert_eq!(for_many(update, &[Type::INT4]), None);
        assert_eq!(for_many(update, &[]), None);
    }
}
