//! Statements that write many rows.

use std::fmt;

/// A statement that is run for many rows of values, in the parts that a dialect puts together. For one row it
/// is their text in order; PostgreSQL takes many rows at once.
#[derive(Clone, Copy, Debug)]
pub enum RowStatement<'s> {
    /// `into values (row) tail`.
    Insert {
        /// Table and columns: `insert into t (a, b)`.
        into: &'s str,
        /// Values of a row: `$1, $2`.
        row: &'s str,
        /// A clause without parameters, such as `on conflict (a) do update set b = excluded.b`, or nothing. Not
        /// `do nothing` or `returning`: the rows would not be known.
        tail: &'s str,
    },
    /// `update where condition`.
    Update {
        /// Table and new values, without subqueries: `update t set a = $1`.
        update: &'s str,
        /// Condition without subqueries: `b = $2`.
        condition: &'s str,
    },
}

/// The text for one row.
impl fmt::Display for RowStatement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Insert { into, row, tail } => write!(f, "{into} values ({row}) {tail}"),
            Self::Update { update, condition } => write!(f, "{update} where {condition}"),
        }
    }
}
