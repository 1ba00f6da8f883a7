//! Databases: connections, one SQL text, two dialects.
//!
//! Every statement is written once, in the SQL that SQLite and PostgreSQL share:
//!
//! - parameters `$1 … $n`, numbered in the order of their first appearance;
//! - columns of integers, texts and bytes;
//! - `on conflict` and `returning`.
//!
//! One primitive runs a statement for many rows ([`Tx::each`], [`Tx::fetch`]). On SQLite it loops over a
//! prepared statement. On PostgreSQL it sends all rows before it reads the first answer.

mod error;
mod location;
mod outcome;
mod postgres;
mod readers;
mod row;
mod sqlite;
mod tx;
mod value;
mod writer_connection;

pub use self::error::{Result, StoreError};
pub use self::location::DatabaseLocation;
pub use self::outcome::{CommitOutcome, Committed, Received};
pub use self::readers::Readers;
pub use self::row::Row;
#[cfg(test)]
pub use self::sqlite::in_memory;
pub use self::tx::Tx;
pub(super) use self::value::params;
pub use self::value::{Value, Where};
pub use self::writer_connection::WriterConnection;
