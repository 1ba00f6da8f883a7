//! Opening the SQLite file: the lock, the version, the settings, the migrations.
//!
//! **One process.** A second process on the same file would look and send a second time. A `flock`
//! on a file beside the database says that it is ours; the kernel lets go of it when the process
//! ends, however it ends. The lock is not on the database itself: closing any descriptor of that
//! file would drop SQLite's own POSIX locks on it.
//!
//! **Version.** SQLite from 3.7.0 to 3.51.2 can lose committed data in WAL mode when a second
//! connection checkpoints while another commits (fixed in 3.51.3). The library is bundled, and its
//! version is asserted all the same.
//!
//! **Durability.** `synchronous=FULL` in WAL mode: each commit is synced, so that what was answered
//! with 2xx survives the loss of power. Checkpoints copy pages that are in the log already.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use super::error::{self, end_the_process};
use super::row::Row;
use super::value::Value;

/// 3.51.3, the first version without the WAL-reset bug.
const LEAST_VERSION: i32 = 3_051_003;

/// The page cache of the writer. Memory is a promise too, and the hot pages are few.
const WRITER_CACHE_KIB: i32 = 16 * 1024;

/// The page cache of each reader.
const READER_CACHE_KIB: i32 = 2 * 1024;

/// How many pages of log make the writer copy them back, inside a commit: fewer copies of the hot
/// pages than SQLite's default of 1,000, at 32 MiB of log.
const CHECKPOINT_PAGES: i32 = 8_000;

/// Room for every statement of the program, so that none is compiled twice.
const STATEMENTS: usize = 128;

/// Each file brings the schema from the version before to its own. Never changed once released.
const MIGRATIONS: &[&str] = &[
    include_str!("../../../migrations/sqlite/0001_main.sql"),
    include_str!("../../../migrations/sqlite/0002_the_rest.sql"),
    include_str!("../../../migrations/sqlite/0003_lists.sql"),
    include_str!("../../../migrations/sqlite/0004_plain_names.sql"),
];

/// The connection that writes to a file that is ours for as long as this lives. The lock comes last: it
/// outlives the last write.
#[derive(Debug)]
pub struct WriterConnection {
    pub connection: Connection,
    path: PathBuf,
    _lock: File,
}

impl WriterConnection {
    /// Takes the file, and brings it up to date.
    pub fn open(path: &Path) -> Result<Self> {
        let version = rusqlite::version_number();
        if version < LEAST_VERSION {
            bail!("SQLite {} can lose committed data; 3.51.3 or newer is needed", rusqlite::version());
        }
        make(path);
        let path = &own_name(path)?;
        let lock = lock(path)?;
        let mut connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        prepare_writer(&connection).with_context(|| format!("{} cannot be used", path.display()))?;
        migrate(&mut connection, MIGRATIONS)
            .with_context(|| format!("{} cannot be brought up to date", path.display()))?;
        Ok(Self { connection, path: path.to_owned(), _lock: lock })
    }

    /// A further connection, that only reads.
    pub fn reader(&self) -> Result<Connection> {
        let reader = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        reader.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(reader)
    }

    pub fn begin(&self) -> error::Result<()> {
        Ok(self.connection.execute_batch("begin immediate")?)
    }

    pub fn commit(&self) -> error::Result<()> {
        match self.connection.execute_batch("commit") {
            Ok(()) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                self.roll_back();
                Err(error.into())
            }
            Err(error) => nobody_knows(&error),
        }
    }

    pub fn roll_back(&self) {
        // SQLite may have rolled back by itself.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("rollback")
        {
            nobody_knows(&error);
        }
    }

    /// Writes the file anew, without what was replaced or deleted in it; the log, too.
    ///
    /// `secure_delete` would not do: it zeroes what is deleted, and not what is left between the rows of
    /// a page when rows are moved to its neighbour.
    pub fn rewrite(&self) -> error::Result<()> {
        // As large as the database, so not in memory.
        self.connection.pragma_update(None, "temp_store", "FILE")?;
        let done = self.connection.execute_batch("vacuum");
        self.connection.pragma_update(None, "temp_store", "MEMORY")?;
        done?;
        if !self.cut_the_log()? {
            tracing::warn!("somebody else reads the database: its log is cut off at the next stop only");
        }
        Ok(())
    }

    /// Copies the log back and cuts it off; whether nobody was in the way.
    fn cut_the_log(&self) -> error::Result<bool> {
        Ok(self
            .connection
            .query_row("pragma wal_checkpoint(truncate)", [], |row| Ok(row.get::<_, i64>(0)? == 0))?)
    }

    /// Leaves one tidy file behind; the log would be read at the next start just as well.
    pub fn close(self) {
        let _ = self.cut_the_log();
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_context(|| format!("the database {} cannot be opened", path.display()))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Only a backup or somebody's shell can be in the way; they are quick.
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// The one name of the file, by which it is locked: a second process must find the lock by whichever
/// link it comes. Several names that are all its own cannot be told from each other.
fn own_name(path: &Path) -> Result<PathBuf> {
    // Where there is no file, nor could one be made, SQLite says why in a moment.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let names = path.metadata().map_or(1, |metadata| metadata.nlink());
    if names > 1 {
        bail!(
            "{} has {names} names (hard links), so it cannot be known who else has it; copy it instead",
            path.display()
        );
    }
    Ok(path)
}

fn lock(path: &Path) -> Result<File> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let beside = PathBuf::from(beside);
    let file =
        OpenOptions::new().create(true).truncate(false).write(true).open(&beside).with_context(|| {
            format!("{} cannot be created; is the folder there and writable?", beside.display())
        })?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "{} is in use by another ringback; stop that one, or give this one its own database_url",
            path.display()
        );
    }
    Ok(file)
}

/// Makes the file for its owner alone, if there is none: secrets are in it, and SQLite would go by the
/// umask. The log takes the file's mode. Where this fails, SQLite says why in a moment; an operator may
/// widen the mode, which then stays.
fn make(path: &Path) {
    let _ = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
}

fn prepare_writer(writer: &Connection) -> Result<()> {
    let mode: String = writer.query_row("pragma journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        bail!("its file system does not allow write-ahead logging (mode `{mode}`); use a local disk");
    }
    for (setting, value) in [
        ("synchronous", "FULL"),
        ("foreign_keys", "ON"),
        ("temp_store", "MEMORY"),
        ("mmap_size", "0"),
        // Four times what a checkpoint waits for: a log that is cut is paid for again, in blocks that
        // the file system must find before it can sync.
        ("journal_size_limit", "134217728"),
    ] {
        writer.pragma_update(None, setting, value)?;
    }
    // On macOS a plain fsync leaves data in the drive's cache.
    writer.pragma_update(None, "fullfsync", true)?;
    writer.pragma_update(None, "checkpoint_fullfsync", true)?;
    writer.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    writer.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let synchronous: i64 = writer.query_row("pragma synchronous", [], |row| row.get(0))?;
    if synchronous != 2 {
        bail!("synchronous=FULL was not accepted");
    }
    Ok(())
}

/// Brings the schema to the newest version. Each step is one transaction with its version number,
/// so that a crash in between leaves a version that is whole.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> Result<()> {
    let done: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    if done > migrations.len() {
        bail!("it was written by a newer version of ringback (schema {done}, here {})", migrations.len());
    }
    for (index, migration) in migrations.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.pragma_update(None, "user_version", i64::try_from(index + 1)?)?;
        transaction.commit()?;
    }
    Ok(())
}

fn nobody_knows(error: &rusqlite::Error) -> ! {
    end_the_process(&format!("a commit failed, and nobody knows what is on disk: {error}"));
}

/// See [`super::Tx::each`].
pub fn each<'v, const N: usize>(
    connection: &Connection,
    sql: &str,
    rows: impl IntoIterator<Item = [Value<'v>; N]>,
) -> error::Result<Vec<usize>> {
    let mut statement = prepare(connection, sql)?;
    let run = |row: [Value<'v>; N]| {
        bind(&mut statement, &row)?;
        Ok(statement.raw_execute()?)
    };
    rows.into_iter().map(run).collect()
}

/// See [`super::Tx::fetch`].
pub fn fetch<'v, T, R: AsRef<[Value<'v>]>>(
    connection: &Connection,
    sql: &str,
    rows: impl IntoIterator<Item = R>,
    mut read: impl FnMut(&Row<'_>) -> error::Result<T>,
) -> error::Result<Vec<Vec<T>>> {
    let mut statement = prepare(connection, sql)?;
    let mut all = Vec::new();
    for row in rows {
        bind(&mut statement, row.as_ref())?;
        let mut found = Vec::new();
        let mut cursor = statement.raw_query();
        while let Some(row) = cursor.next()? {
            found.push(read(&Row::Sqlite(row))?);
        }
        all.push(found);
    }
    Ok(all)
}

fn prepare<'c>(connection: &'c Connection, sql: &str) -> error::Result<CachedStatement<'c>> {
    let statement = connection.prepare_cached(sql)?;
    debug_assert!(
        (1..=statement.parameter_count()).all(|n| statement.parameter_name(n) == Some(&format!("${n}"))),
        "parameters are numbered in the order of their first appearance: {sql}"
    );
    Ok(statement)
}

fn bind(statement: &mut CachedStatement<'_>, row: &[Value<'_>]) -> error::Result<()> {
    debug_assert_eq!(statement.parameter_count(), row.len(), "a value for each parameter");
    for (index, value) in row.iter().enumerate() {
        statement.raw_bind_parameter(index + 1, value)?;
    }
    Ok(())
}

/// Opens an empty database in memory, with the current schema.
#[cfg(test)]
pub fn in_memory() -> Connection {
    let mut connection = Connection::open_in_memory().expect("opens");
    migrate(&mut connection, MIGRATIONS).expect("migrated");
    connection
}
