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

mod connections;
mod error;
mod fair_semaphore;
mod postgres;
mod sqlite;
mod tx;
mod value;

pub use self::connections::{DatabaseLocation, Readers, WriterConnection};
pub use self::error::{CommitOutcome, Received, Result, StoreError, end_the_process, end_with};
pub use self::fair_semaphore::{FairPermit, FairSemaphore};
pub use self::postgres::MIGRATIONS as MIGRATIONS_POSTGRES;
pub use self::sqlite::MIGRATIONS as MIGRATIONS_SQLITE;
#[cfg(test)]
pub use self::sqlite::in_memory;
pub use self::sqlite::{Fault, Files, LOG_SIZE_MAX};
pub use self::tx::Tx;
pub use self::value::{ManyParams, Parts, Pieces, Read, Row, RowSql, Value, Where};
pub(super) use self::value::{params, pieces, row_sql};
