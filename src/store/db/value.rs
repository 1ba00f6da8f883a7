//! Values of SQL parameters, and queries with optional conditions.

use bytes::BytesMut;
use rusqlite::types::ValueRef;
use tokio_postgres::types::{IsNull, Type, WrongType};

use super::error::Result;
use crate::domain::{
    AppId, AppNo, ChannelKind, DeliveryId, DestinationId, EndingKind, EventId, EventType, Id, JobNo,
    JobStatus, KeyId, Payload, Reason, Scope, Timestamp, WatchId, WatchStatus,
};

/// Value of a parameter `$n`.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
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

/// Error of a conversion to or from the wire format of PostgreSQL.
pub type ConversionError = Box<dyn std::error::Error + Sync + Send>;

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

/// Declares how types become values.
macro_rules! values {
    ($($from:ty: |$value:ident| $into:expr;)*) => {$(
        impl From<$from> for Value<'_> {
            fn from($value: $from) -> Self {
                $into
            }
        }
    )*};
}

values! {
    i64: |int| Self::Int(int);
    u32: |int| Self::Int(int.into());
    u16: |int| Self::Int(int.into());
    u8: |int| Self::Int(int.into());
    bool: |yes| Self::Int(yes.into());
    Timestamp: |at| Self::Int(at.millis());
    AppNo: |no| Self::Int(no.0);
    JobNo: |no| Self::Int(no.0);
    Id: |id| Self::Id(id.to_bytes());
    WatchId: |id| Self::Id(id.to_bytes());
    EventId: |id| Self::Id(id.to_bytes());
    DeliveryId: |id| Self::Id(id.to_bytes());
    DestinationId: |id| Self::Id(id.to_bytes());
    AppId: |id| Self::Id(id.to_bytes());
    KeyId: |id| Self::Id(id.to_bytes());
    ChannelKind: |word| Self::Text(word.as_str());
    EndingKind: |word| Self::Text(word.as_str());
    EventType: |word| Self::Text(word.as_str());
    JobStatus: |word| Self::Text(word.as_str());
    Payload: |word| Self::Text(word.as_str());
    Reason: |word| Self::Text(word.as_str());
    Scope: |word| Self::Text(word.as_str());
    WatchStatus: |word| Self::Text(word.as_str());
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
