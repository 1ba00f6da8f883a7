//! Location of the database, and the connections to it.

use std::fmt;
use std::path::PathBuf;

use super::readers::{READERS, Reader, Readers};
use super::writer_connection::WriterConnection;
use super::{postgres, sqlite};

/// Location of the database.
#[derive(Clone)]
pub enum DatabaseLocation {
    /// Path of a SQLite file.
    File(PathBuf),
    /// URL of a database on a PostgreSQL server.
    Server(String),
}

impl fmt::Debug for DatabaseLocation {
    /// Omits the URL, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Server(_) => f.write_str("Server"),
        }
    }
}

impl DatabaseLocation {
    /// Locks the database for this process, migrates it, and opens the connections.
    pub fn open(&self) -> anyhow::Result<(WriterConnection, Readers)> {
        let (writer, readers): (_, anyhow::Result<Vec<Reader>>) = match self {
            Self::File(path) => {
                let writer = sqlite::WriterConnection::open(path)?;
                let readers = (0..READERS).map(|_| writer.reader().map(Reader::Sqlite)).collect();
                (WriterConnection::Sqlite(writer), readers)
            }
            Self::Server(url) => {
                let server = postgres::Server::new(url)?;
                let writer = postgres::WriterConnection::open(&server)?;
                let readers =
                    (0..READERS).map(|_| Ok(Reader::Postgres(Box::new(server.reader()?)))).collect();
                (WriterConnection::Postgres(Box::new(writer)), readers)
            }
        };
        Ok((writer, Readers::new(readers?)))
    }
}
