//! Rows of a result, read by column position.

use tokio_postgres::types::{FromSql, Type};

use super::error::{Result, StoreError};
use super::value::ConversionError;
use crate::domain::{Id, Timestamp};

/// A row, read by position.
pub enum Row<'r> {
    Sqlite(&'r rusqlite::Row<'r>),
    Postgres(&'r tokio_postgres::Row),
}

impl Row<'_> {
    pub fn int(&self, column: usize) -> Result<i64> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => self.read(row.try_get(column), column).map(|Whole(int)| int),
        }
    }

    pub fn opt_int(&self, column: usize) -> Result<Option<i64>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => {
                let found: Option<Whole> = self.read(row.try_get(column), column)?;
                Ok(found.map(|Whole(int)| int))
            }
        }
    }

    pub fn count(&self, column: usize) -> Result<u32> {
        u32::try_from(self.int(column)?).map_err(|_| self.broken(column))
    }

    pub fn flag(&self, column: usize) -> Result<bool> {
        Ok(self.int(column)? != 0)
    }

    pub fn time(&self, column: usize) -> Result<Timestamp> {
        Ok(Timestamp::from_millis(self.int(column)?))
    }

    pub fn opt_time(&self, column: usize) -> Result<Option<Timestamp>> {
        Ok(self.opt_int(column)?.map(Timestamp::from_millis))
    }

    pub fn text(&self, column: usize) -> Result<String> {
        self.borrowed(column).map(str::to_owned)
    }

    pub fn opt_text(&self, column: usize) -> Result<Option<String>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    pub fn bytes(&self, column: usize) -> Result<Vec<u8>> {
        self.blob(column).map(<[u8]>::to_vec)
    }

    pub fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>> {
        match self {
            Self::Sqlite(row) => Ok(row.get(column)?),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    pub fn id(&self, column: usize) -> Result<Id> {
        let bytes = self.blob(column)?.try_into();
        bytes.map(Id::from_bytes).map_err(|_| self.broken(column))
    }

    /// Reads a word of a closed set.
    pub fn word<T>(&self, column: usize, parse: fn(&str) -> Option<T>) -> Result<T> {
        parse(self.borrowed(column)?).ok_or_else(|| self.broken(column))
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
        match self {
            Self::Sqlite(row) => row.get_ref(column)?.as_str().map_err(|_| self.broken(column)),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    fn blob(&self, column: usize) -> Result<&[u8]> {
        match self {
            Self::Sqlite(row) => row.get_ref(column)?.as_blob().map_err(|_| self.broken(column)),
            Self::Postgres(row) => self.read(row.try_get(column), column),
        }
    }

    fn read<T>(&self, read: Result<T, tokio_postgres::Error>, column: usize) -> Result<T> {
        read.map_err(|_| self.broken(column))
    }

    fn broken(&self, column: usize) -> StoreError {
        let name = match self {
            Self::Sqlite(row) => row.as_ref().column_name(column).unwrap_or("?"),
            Self::Postgres(row) => row.columns().get(column).map_or("?", tokio_postgres::Column::name),
        };
        StoreError::Inconsistent(format!("the column `{name}` cannot be read"))
    }
}

/// An integer of 4 or 8 bytes, as the server chose.
struct Whole(i64);

impl FromSql<'_> for Whole {
    fn from_sql(ty: &Type, raw: &[u8]) -> Result<Self, ConversionError> {
        Ok(Self(match *ty {
            Type::INT8 => i64::from_be_bytes(raw.try_into()?),
            _ => i32::from_be_bytes(raw.try_into()?).into(),
        }))
    }

    fn accepts(ty: &Type) -> bool {
        matches!(*ty, Type::INT8 | Type::INT4)
    }
}
