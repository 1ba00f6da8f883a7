//! Values of SQL parameters and of the columns of a result, and queries with optional conditions.

use std::fmt::Write as _;
use std::sync::OnceLock;

use bytes::BytesMut;
use rusqlite::types::ValueRef;
use tokio_postgres::types::{FromSql, IsNull, Type, WrongType};

use super::error::{Result, StoreError};
use crate::domain::{
    AppId, AppNo, CancelStatus, ChannelKind, DeliveryId, DestinationId, DisabledReason, EndingKind, EventId,
    EventType, GroupNo, GroupStatus, Id, JobNo, JobStatus, KeyId, OperationId, OperationNo, OperationStatus,
    Payload, Reason, SavedNo, Scope, Timestamp, WatchId, WatchStatus,
};

/// Value of a parameter `$n`, or of a column.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Null,
    Int(i64),
    Text(&'a str),
    Bytes(&'a [u8]),
    Id([u8; 16]),
}

impl<'a> Value<'a> {
    fn int(self) -> Option<i64> {
        if let Self::Int(int) = self { Some(int) } else { None }
    }

    fn text(self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    fn bytes(self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }
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

/// Error of a conversion to or from the wire format of PostgreSQL.
type ConversionError = Box<dyn std::error::Error + Sync + Send>;

impl tokio_postgres::types::ToSql for Value<'_> {
    fn to_sql(&self, ty: &Type, out: &mut BytesMut) -> Result<IsNull, ConversionError> {
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
        // Null has every type; `to_sql` checks the others.
        true
    }

    tokio_postgres::types::to_sql_checked!();
}

/// Makes a row of parameters: the value of each expression.
macro_rules! params {
    ($($value:expr),* $(,)?) => { [$($crate::store::db::Value::from($value)),*] };
}
pub(in crate::store) use params;

/// A statement that is run for many rows of values: its text for one row, and the parts of which PostgreSQL's text for
/// all rows at once is made. [`row_sql`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct RowSql {
    pub one: &'static str,
    pub parts: Parts,
    pub pieces: &'static Pieces,
}

/// Texts of an `insert` of several rows for SQLite, one for each of [`PIECES`]. Each is made once.
///
/// [`PIECES`]: super::tx::PIECES
pub type Pieces = [OnceLock<String>; 2];

/// Parts of a [`RowSql`].
#[derive(Clone, Copy, Debug)]
pub enum Parts {
    Insert { into: &'static str, row: &'static str, tail: &'static str },
    Update { update: &'static str, condition: &'static str },
}

impl RowSql {
    /// Returns SQLite's text of an `insert` of so many rows with so many parameters each. `or fail`: SQLite need not be
    /// able to undo the first rows if a later one fails, which would cost a journal. An error undoes the transaction.
    pub fn of_rows(&self, rows: usize, params: usize) -> String {
        let Parts::Insert { into, row, tail } = self.parts else { return self.one.to_owned() };
        let mut text = format!("{} values ", into.replacen("insert into", "insert or fail into", 1));
        for done in (0..rows).map(|n| n * params) {
            text.push_str(if done == 0 { "(" } else { ", (" });
            let mut pieces = row.split('$');
            text.push_str(pieces.next().unwrap_or_default());
            for piece in pieces {
                let rest = piece.trim_start_matches(|c: char| c.is_ascii_digit());
                let number: usize = piece[..piece.len() - rest.len()].parse().unwrap_or_default();
                let _ = write!(text, "${}{rest}", done + number);
            }
            text.push(')');
        }
        format!("{text} {tail}")
    }
}

/// Makes a [`RowSql`]:
///
/// - `row_sql!("insert into t (a, b)" values ("$1, $2") "on conflict (a) do update set b = excluded.b")`: the last part
///   has no parameters, no `do nothing` and no `returning`, or is left out;
/// - `row_sql!("update t set a = $1" where "b = $2")`: without subqueries.
macro_rules! row_sql {
    ($into:literal values ($row:literal) $($tail:literal)?) => {
        $crate::store::db::RowSql {
            one: concat!($into, " values (", $row, ")" $(, " ", $tail)?),
            parts: $crate::store::db::Parts::Insert { into: $into, row: $row, tail: concat!($($tail)?) },
            pieces: $crate::store::db::pieces!(),
        }
    };
    ($update:literal where $condition:literal) => {
        $crate::store::db::RowSql {
            one: concat!($update, " where ", $condition),
            parts: $crate::store::db::Parts::Update { update: $update, condition: $condition },
            pieces: $crate::store::db::pieces!(),
        }
    };
}
pub(in crate::store) use row_sql;

/// Makes the place of the texts of one statement.
macro_rules! pieces {
    () => {{
        static PIECES: $crate::store::db::Pieces = [const { std::sync::OnceLock::new() }; 2];
        &PIECES
    }};
}
pub(in crate::store) use pieces;

/// Declares how types and references to them become values.
macro_rules! values {
    ($(|$value:ident| $into:expr => $($from:ty),+;)*) => {$($(
        impl<'a> From<$from> for Value<'a> {
            fn from($value: $from) -> Self {
                $into
            }
        }

        impl<'a> From<&$from> for Value<'a> {
            fn from(value: &$from) -> Self {
                (*value).into()
            }
        }
    )+)*};
}

values! {
    |int| Self::Int(int) => i64;
    |int| Self::Int(int.into()) => u32, u16, u8, bool;
    |at| Self::Int(at.millis()) => Timestamp;
    |no| Self::Int(no.0) => AppNo, GroupNo, JobNo, OperationNo, SavedNo;
    |id| Self::Id(id.to_bytes()) => Id, AppId, KeyId, WatchId, DestinationId, EventId, DeliveryId, OperationId;
    |text| Self::Text(text) => &'a str, &'a String;
    |word| Self::Text(word.as_str()) => CancelStatus, ChannelKind, DisabledReason, EndingKind, EventType, GroupStatus, JobStatus, OperationStatus, Payload, Reason, Scope, WatchStatus;
    |bytes| Self::Bytes(bytes) => &'a [u8];
}

impl<'a> From<&'a Option<String>> for Value<'a> {
    fn from(text: &'a Option<String>) -> Self {
        text.as_deref().into()
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

impl<'a> FromSql<'a> for Value<'a> {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, ConversionError> {
        Ok(match *ty {
            Type::INT8 => Self::Int(i64::from_be_bytes(raw.try_into()?)),
            Type::INT4 => Self::Int(i32::from_be_bytes(raw.try_into()?).into()),
            Type::BYTEA => Self::Bytes(raw),
            _ => Self::Text(std::str::from_utf8(raw)?),
        })
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4 | Type::BYTEA) || <&str>::accepts(ty)
    }
}

/// A row of a result, read by column position.
pub enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    pub fn int(&self, column: usize) -> Result<i64> {
        self.read(column, Value::int)
    }

    pub fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        self.optional(column, Value::int)
    }

    pub fn count(&self, column: usize) -> Result<u32> {
        u32::try_from(self.int(column)?).map_err(|_| self.broken(column))
    }

    pub fn flag(&self, column: usize) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    pub fn time(&self, column: usize) -> Result<Timestamp> {
        self.int(column).map(Timestamp::from_millis)
    }

    pub fn opt_time(&self, column: usize) -> Result<Option<Timestamp>> {
        Ok(self.opt_int(column)?.map(Timestamp::from_millis))
    }

    pub fn text(&self, column: usize) -> Result<String> {
        self.borrowed(column).map(str::to_owned)
    }

    pub fn opt_text(&self, column: usize) -> Result<Option<String>> {
        self.optional(column, |value| value.text().map(str::to_owned))
    }

    pub fn bytes(&self, column: usize) -> Result<Vec<u8>> {
        self.blob(column).map(<[u8]>::to_vec)
    }

    pub fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        self.optional(column, |value| value.bytes().map(<[u8]>::to_vec))
    }

    pub fn id(&self, column: usize) -> Result<Id> {
        let bytes = self.blob(column)?.try_into();
        bytes.map(Id::from_bytes).map_err(|_| self.broken(column))
    }

    /// Reads a word of a closed set.
    pub fn word<T>(&self, column: usize, parse: fn(&str) -> Option<T>) -> Result<T> {
        parse(self.borrowed(column)?).ok_or_else(|| self.broken(column))
    }

    /// Returns a column for the log: an integer, a text, or bytes in the notation of SQL, and an id in both notations.
    pub fn shown(&self, column: usize) -> String {
        match self.value(column) {
            Some(Value::Int(int)) => int.to_string(),
            Some(Value::Text(text)) => text.chars().take(64).collect(),
            Some(Value::Bytes(bytes)) => {
                let mut hex = String::from("x'");
                bytes.iter().take(64).for_each(|byte| {
                    let _ = write!(hex, "{byte:02x}");
                });
                let id = <[u8; 16]>::try_from(bytes).map(|id| format!("{:?} = ", Id::from_bytes(id)));
                format!("{}{hex}'", id.unwrap_or_default())
            }
            Some(Value::Null | Value::Id(_)) | None => "unknown".to_owned(),
        }
    }

    /// Whether a column holds exactly this text.
    pub fn is(&self, column: usize, text: &str) -> Result<bool> {
        Ok(self.borrowed(column)? == text)
    }

    /// Reads a JSON text that this program wrote.
    pub fn json<T: serde::de::DeserializeOwned>(&self, column: usize) -> Result<T> {
        serde_json::from_str(self.borrowed(column)?).map_err(|_| self.broken(column))
    }

    fn borrowed(&self, column: usize) -> Result<&str> {
        self.read(column, Value::text)
    }

    fn blob(&self, column: usize) -> Result<&[u8]> {
        self.read(column, Value::bytes)
    }

    fn read<'s, T>(&'s self, column: usize, read: fn(Value<'s>) -> Option<T>) -> Result<T> {
        self.value(column).and_then(read).ok_or_else(|| self.broken(column))
    }

    /// Reads a column that may be null.
    fn optional<'s, T>(&'s self, column: usize, read: fn(Value<'s>) -> Option<T>) -> Result<Option<T>> {
        match self.value(column) {
            Some(Value::Null) => Ok(None),
            value => value.and_then(read).map(Some).ok_or_else(|| self.broken(column)),
        }
    }

    fn value(&self, column: usize) -> Option<Value<'_>> {
        match self {
            Self::Sqlite(row) => Some(match row.get_ref(column).ok()? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(int) => Value::Int(int),
                ValueRef::Text(text) => Value::Text(std::str::from_utf8(text).ok()?),
                ValueRef::Blob(bytes) => Value::Bytes(bytes),
                ValueRef::Real(_) => return None,
            }),
            Self::Postgres(row) => {
                row.try_get::<_, Option<_>>(column).ok().map(|value| value.unwrap_or(Value::Null))
            }
        }
    }

    fn broken(&self, column: usize) -> StoreError {
        let name = match self {
            Self::Sqlite(row) => row.as_ref().column_name(column).unwrap_or("?"),
            Self::Postgres(row) => row.columns().get(column).map_or("?", tokio_postgres::Column::name),
        };
        StoreError::Inconsistent(format!("the column `{name}` cannot be read"))
    }
}

/// The values of the parameters of a statement.
pub trait Params<'v>: AsRef<[Value<'v>]> {}
impl<'v, P: AsRef<[Value<'v>]>> Params<'v> for P {}

/// The values of the parameters of a statement that is run many times.
pub trait ManyParams<'v>: IntoIterator<Item: Params<'v>> {}
impl<'v, P: IntoIterator<Item: Params<'v>>> ManyParams<'v> for P {}

/// A function that reads a row of a result.
pub trait Read<T>: FnMut(&Row<'_>) -> Result<T> {}
impl<T, F: FnMut(&Row<'_>) -> Result<T>> Read<T> for F {}

/// A query with optional conditions. (`$n is null or …` would hide the index from the planner of SQLite and
/// the type of `$n` from PostgreSQL.)
pub struct Where<'a> {
    pub sql: String,
    pub values: Vec<Value<'a>>,
}

impl<'a> Where<'a> {
    /// Creates a query. `select` ends with its first condition, up to the value: `… where app =`.
    pub fn new(select: &str, value: impl Into<Value<'a>>) -> Self {
        Self { sql: format!("{select} $1"), values: vec![value.into()] }
    }

    /// Adds a condition, such as `id <`, if there is a value for it.
    pub fn and(&mut self, condition: &str, value: Option<impl Into<Value<'a>>>) {
        if let Some(value) = value {
            self.push(&format!(" and {condition}"), value);
        }
    }

    /// Adds the end of the query, such as ` order by id limit`, up to its value.
    pub fn push(&mut self, text: &str, value: impl Into<Value<'a>>) {
        self.values.push(value.into());
        self.sql.push_str(text);
        self.sql.push_str(" $");
        self.sql.push_str(&self.values.len().to_string());
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn several_rows_have_parameters_of_their_own() {
        let insert = row_sql!("insert into t (a, b, c)" values ("$1, 'x', coalesce($2, $1)") "on conflict (a) do update set b = excluded.b");
        assert_eq!(
            insert.of_rows(2, 2),
            "insert or fail into t (a, b, c) values ($1, 'x', coalesce($2, $1)), ($3, 'x', coalesce($4, $3)) \
             on conflict (a) do update set b = excluded.b"
        );
        let plain = row_sql!("insert into t (a)" values ("$1"));
        assert_eq!(plain.of_rows(3, 1).trim_end(), "insert or fail into t (a) values ($1), ($2), ($3)");
    }
}
