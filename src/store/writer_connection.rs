//! What writes: the one connection that changes anything, on either database.

use super::db::{Result, Tx};
use super::{postgres, sqlite};

/// The connection of the writer.
#[derive(Debug)]
pub(super) enum WriterConnection {
    Sqlite(sqlite::WriterConnection),
    Postgres(Box<postgres::WriterConnection>),
}

/// What became of a commit.
#[derive(Debug)]
pub(super) enum Committed {
    /// It is on disk.
    Yes,
    /// The server was lost before it answered: [`WriterConnection::ready`] tells, once it answers again.
    Unknown,
}

/// What has become, after all, of a commit whose outcome was not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is on disk.
    Committed,
    /// It never happened.
    Aborted,
}

impl WriterConnection {
    /// Who writes, by the name of its row.
    pub(super) const fn node(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "sqlite",
            Self::Postgres(_) => "postgres",
        }
    }

    /// Remembers how often the database has been opened, this time included.
    pub(super) fn settle_in(&mut self, incarnation: i64) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(pen) => pen.settle_in(incarnation),
        }
    }

    /// Leaves nothing in the file of what was replaced or deleted, where the file is ours to write.
    pub(super) fn rewrite(&self) -> Result<()> {
        match self {
            Self::Sqlite(pen) => pen.rewrite(),
            // What is dead there is for the server to clean away.
            Self::Postgres(_) => Ok(()),
        }
    }

    pub(super) fn tx(&self) -> Tx<'_> {
        match self {
            Self::Sqlite(pen) => Tx::Sqlite(&pen.connection),
            Self::Postgres(pen) => pen.tx(),
        }
    }

    /// Makes sure that there is something to write with. The answer is what became of an unknown
    /// commit, if there was one.
    pub(super) fn ready(&mut self) -> Result<Option<Verdict>> {
        match self {
            Self::Sqlite(_) => Ok(None),
            Self::Postgres(pen) => pen.ready(),
        }
    }

    /// Whether the connection is lost, and nothing of the transaction has happened.
    pub(super) fn is_lost(&self) -> bool {
        match self {
            Self::Sqlite(_) => false,
            Self::Postgres(pen) => pen.is_lost(),
        }
    }

    /// Begins a transaction, that `writes` or only reads.
    pub(super) fn begin(&self, writes: bool) -> Result<()> {
        match self {
            Self::Sqlite(pen) => pen.begin(),
            Self::Postgres(pen) => {
                pen.begin(writes);
                Ok(())
            }
        }
    }

    pub(super) fn commit(&mut self) -> Result<Committed> {
        match self {
            Self::Sqlite(pen) => pen.commit().map(|()| Committed::Yes),
            Self::Postgres(pen) => pen.commit(),
        }
    }

    pub(super) fn roll_back(&self) {
        match self {
            Self::Sqlite(pen) => pen.roll_back(),
            Self::Postgres(pen) => pen.roll_back(),
        }
    }

    /// Waits a little for a server that is on its way back.
    pub(super) fn pause(&self) {
        match self {
            Self::Sqlite(_) => {}
            Self::Postgres(pen) => pen.pause(),
        }
    }

    pub(super) fn close(self) {
        match self {
            Self::Sqlite(pen) => pen.close(),
            Self::Postgres(pen) => pen.close(),
        }
    }
}

/// The way out where going on would be a guess: the next start reads what is there.
pub(super) fn end_the_process(why: &str) -> ! {
    tracing::error!("{why}; the process ends, and the next start reads what is there");
    std::process::abort();
}
