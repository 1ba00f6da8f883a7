//! SQLite: the lock, the version, the settings, the migrations, and the commit.
//!
//! **One process.** A second process on the same file would poll and send everything twice. A `flock` on a
//! file beside the database locks it for this process. The kernel releases the lock when the process ends,
//! however it ends. The lock is not on the database itself: closing any descriptor of that file would drop the
//! POSIX locks of SQLite on it.
//!
//! **Version.** In WAL mode, SQLite 3.7.0 to 3.51.2 can lose committed data when a second connection
//! checkpoints while another commits (fixed in 3.51.3). The library is bundled; its version is checked all the
//! same.
//!
//! **Durability.** `synchronous=FULL` in WAL mode: each commit is synced, so answered requests survive a loss
//! of power. Checkpoints copy pages that are already in the log.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use rustix::fs::{FlockOperation, flock};

use super::error::{self, end_the_process};
use crate::domain::params_key;

/// 3.51.3, the first version without the WAL-reset bug.
const MIN_VERSION: i32 = 3_051_003;

/// Page cache of the writer. The pages in frequent use are few, and memory is bounded.
const WRITER_CACHE_KIB: i32 = 16 * 1024;

/// Settings of the writer. `fullfsync`: on macOS, a plain fsync leaves data in the cache of the drive.
/// `journal_size_limit` is four times the size of a checkpoint: the file system must allocate the blocks of a
/// truncated log again before it can sync.
const WRITER_SETTINGS: &str =
    "pragma synchronous = full; pragma fullfsync = on; pragma checkpoint_fullfsync = on;
    pragma foreign_keys = on; pragma temp_store = memory; pragma mmap_size = 0;
    pragma journal_size_limit = 134217728";

/// Page cache of each reader.
const READER_CACHE_KIB: i32 = 2 * 1024;

/// Size of the log, in pages, at which a commit checkpoints it. At 8,000 pages (32 MiB), pages in frequent use
/// are copied less often than at the default of 1,000.
const CHECKPOINT_PAGES: i32 = 8_000;

/// Capacity of the cache of prepared statements: every statement of the program.
const STATEMENTS: usize = 128;

/// Every `migrations/sqlite/*.sql`: (file name, text), in the order of their versions. The build script lists
/// the folder. A released migration never changes.
const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations_sqlite.rs"));

/// The connection that writes, and the lock of the file. The lock is the last field, so it is released after
/// the last write.
#[derive(Debug)]
pub struct WriterConnection {
    pub connection: Connection,
    path: PathBuf,
    _lock: File,
}

impl WriterConnection {
    /// Locks the file for this process, and migrates it.
    pub fn open(path: &Path) -> Result<Self> {
        let version = rusqlite::version_number();
        if version < MIN_VERSION {
            bail!("SQLite {} can lose committed data; 3.51.3 or newer is needed", rusqlite::version());
        }
        create(path);
        let path = &canonical(path)?;
        let lock = lock(path)?;
        let mut connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        prepare_writer(&connection).with_context(|| format!("{} cannot be used", path.display()))?;
        migrate(&mut connection, MIGRATIONS)
            .with_context(|| format!("{} cannot be brought up to date", path.display()))?;
        Ok(Self { connection, path: path.to_owned(), _lock: lock })
    }

    /// Opens a further connection, which only reads.
    pub fn reader(&self) -> Result<Connection> {
        let reader = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        reader.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        reader.pragma_update(None, "query_only", true)?;
        Ok(reader)
    }

    /// Commits the transaction.
    pub fn commit(&self) -> error::Result<()> {
        match self.connection.execute_batch("commit") {
            Ok(()) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                self.roll_back();
                Err(error.into())
            }
            Err(error) => outcome_is_unknown(&error),
        }
    }

    /// Rolls the transaction back.
    pub fn roll_back(&self) {
        // SQLite may have rolled back by itself.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("rollback")
        {
            outcome_is_unknown(&error);
        }
    }

    /// Rewrites the file and its log without the remains of replaced and deleted rows.
    ///
    /// `secure_delete` is not sufficient: it zeroes deleted rows, but not the remains between the rows of a page
    /// after rows were moved to a neighbour.
    pub fn rewrite(&self) -> error::Result<()> {
        // The copy is as large as the database, so it must not be in memory.
        self.connection.pragma_update(None, "temp_store", "FILE")?;
        let done = self.connection.execute_batch("vacuum");
        self.connection.pragma_update(None, "temp_store", "MEMORY")?;
        done?;
        if self.truncate_log()? != 0 {
            tracing::warn!("another process reads the database: its log is truncated at the next stop");
        }
        Ok(())
    }

    /// Checkpoints and truncates the log. The result is not 0 if a reader prevented it.
    fn truncate_log(&self) -> rusqlite::Result<i64> {
        self.connection.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))
    }

    /// Truncates the log and closes the connection. A log that remains is read at the next start.
    pub fn close(self) {
        let _ = self.truncate_log();
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)
        .with_context(|| format!("the database {} cannot be opened", path.display()))?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    // Only a backup or an operator's shell holds a lock, and only briefly.
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    Ok(connection)
}

/// Returns the canonical path of the file: a second process must find the same lock by any symbolic link. A
/// file with several hard links is refused, because none of its names is canonical.
fn canonical(path: &Path) -> Result<PathBuf> {
    // If the file does not exist and cannot be created, SQLite reports the reason.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let names = path.metadata().map_or(1, |metadata| metadata.nlink());
    if names > 1 {
        bail!(
            "{} has {names} names (hard links), so another process may use it by another name; copy it instead",
            path.display()
        );
    }
    Ok(path)
}

fn lock(path: &Path) -> Result<File> {
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let lock_path = Path::new(&lock_path);
    let failure = || format!("{} cannot be created; is the folder there and writable?", lock_path.display());
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(lock_path);
    let file = file.with_context(failure)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "{} is in use by another ringback; stop that one, or give this one its own database_url",
            path.display()
        );
    }
    Ok(file)
}

/// Creates the file, if it is missing, with access for its owner only: it holds secrets, and SQLite would use
/// the umask. The log gets the same mode. If this fails, SQLite reports the reason. An operator may widen the
/// mode; it is not changed again.
fn create(path: &Path) {
    let _ = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
}

fn prepare_writer(writer: &Connection) -> Result<()> {
    let mode: String = writer.query_row("pragma journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        bail!("its file system does not allow write-ahead logging (mode `{mode}`); use a local disk");
    }
    writer.execute_batch(WRITER_SETTINGS)?;
    writer.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    writer.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
    let synchronous: i64 = writer.query_row("pragma synchronous", [], |row| row.get(0))?;
    if synchronous != 2 {
        bail!("synchronous=FULL was not accepted");
    }
    Ok(())
}

/// Brings the schema to the newest version. Each migration is one transaction with its version number, so a
/// crash in between leaves a complete version.
fn migrate(connection: &mut Connection, migrations: &[(&str, &str)]) -> Result<()> {
    let done: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    if done > migrations.len() {
        bail!("it was written by a newer version of ringback (schema {done}, here {})", migrations.len());
    }
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function("params_key", 1, flags, |call| {
        Ok(params_key(&call.get::<String>(0)?).into_owned())
    })?;
    for (index, (name, migration)) in migrations.iter().enumerate().skip(done) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration).with_context(|| format!("the migration {name} failed"))?;
        transaction.pragma_update(None, "user_version", i64::try_from(index + 1)?)?;
        transaction.commit()?;
    }
    Ok(())
}

fn outcome_is_unknown(error: &rusqlite::Error) -> ! {
    end_the_process(&format!("a commit failed, and the contents of the disk are unknown: {error}"));
}

/// Opens an empty database in memory, with the current schema.
#[cfg(test)]
pub fn in_memory() -> Connection {
    let mut connection = Connection::open_in_memory().expect("opens");
    migrate(&mut connection, MIGRATIONS).expect("migrated");
    connection
}
