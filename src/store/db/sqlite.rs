//! SQLite: the lock, the version, the settings, the migrations, and the commit.
//!
//! **One process.** A second process on the same file would poll and send everything twice. Locks keep it out, and
//! the kernel releases them when the process ends, however it ends. [`files`] explains them, and why the process ends
//! when a file is deleted or replaced.
//!
//! **Damage.** A damaged page stays damaged, and everything that needs it fails. The process ends at the first error
//! of that kind, and notes it in the lock file. Every start checks the structure of the pages, for at most
//! [`CHECK_PATIENCE`], and without that limit after such an end, or if the log may be that of another database. So a
//! damaged database accepts nothing. Until the check has passed, the start writes nothing to the database.
//!
//! **Version.** In WAL mode, SQLite 3.7.0 to 3.51.2 can lose committed data when a second connection
//! checkpoints while another commits (fixed in 3.51.3). The library is bundled; its version is checked all the
//! same.
//!
//! **Temporary files.** `vacuum` copies the database to a temporary file, and sorting a long list can need one. SQLite
//! would write them to `/var/tmp` or `/tmp`, which is often small or read-only in a container. They go to the folder of
//! the database. It must be writable, and it is on the disk whose size the operator has chosen. The setting
//! (`temp_store_directory`) belongs to the process and not to a connection, so it must be made before another thread
//! uses SQLite: the start makes it before it opens a second connection. SQLite deprecates it because
//! of this condition; a test shows that it works.
//!
//! **Size of the log.** A checkpoint makes SQLite write the log from its beginning again, unless a reader still needs it.
//! The readers of this program release their snapshots after each read. A shell with an open transaction, or a backup
//! that is copied slowly, does not, and the log grows until the disk is full. This program cannot end another process,
//! so it warns when the log is larger than [`LOG_SIZE_MAX`], and exports its size.
//!
//! **Checkpoints** run in the commit that finds the log long, and every other write waits for them. Background work
//! that deletes or changes very many rows requests a checkpoint of a shorter log with each of its transactions
//! ([`Files::checkpoint_early`]), so that none takes long.
//!
//! **Durability.** `synchronous=FULL` in WAL mode: each commit is synced, so answered requests survive a loss
//! of power. Checkpoints copy pages that are already in the log.

mod files;

use std::cell::Cell;
use std::fs::OpenOptions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::hooks::Wal;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use self::files::{Locks, is_without_space};
use super::error::{self, StoreError, end_the_process, end_with};
use crate::domain::params_key;

pub use self::files::{Fault, Files, Unsaved};

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

/// Size of the log, in bytes, that it keeps after it was written from its beginning again: the `journal_size_limit`
/// of [`WRITER_SETTINGS`].
pub const LOG_SIZE_MAX: u64 = 134_217_728;

/// Page cache of each reader.
const READER_CACHE_KIB: i32 = 2 * 1024;

/// Size of the log, in pages, at which a commit checkpoints it. At 8,000 pages (32 MiB), pages in frequent use
/// are copied less often than at the default of 1,000.
const CHECKPOINT_PAGES: i32 = 8_000;

/// The same for a commit of background work that changes very many pages once, such as the deletion of old data. A
/// checkpoint of 8,000 pages takes up to 100 ms, and every write waits for it. Without this work it would be rare.
const EARLY_CHECKPOINT_PAGES: i32 = 500;

/// Capacity of the cache of prepared statements: every statement of the program.
const STATEMENTS: usize = 128;

/// Maximum duration of the check at the start: enough for some 500 MB in the cache of the system.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);

/// Every `migrations/sqlite/*.sql`: (file name, text), in the order of their versions. The build script lists
/// the folder. A released migration never changes.
pub const MIGRATIONS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/migrations_sqlite.rs"));

/// The connection that writes. The locks are the last field, so they are released after the last write.
#[derive(Debug)]
pub struct WriterConnection {
    pub connection: Connection,
    path: PathBuf,
    pub files: Arc<Files>,
    /// Whether the note in `.lock` says that the database holds an app.
    is_noted: Cell<bool>,
    _locked: Locked,
}

/// Releases the locks when it is dropped.
#[derive(Debug)]
struct Locked(Arc<Files>);

impl Drop for Locked {
    fn drop(&mut self) {
        self.0.release();
    }
}

/// A connection that only reads. The files are the last field: their descriptors are closed after the connection.
#[derive(Debug)]
pub struct Reader {
    pub connection: Connection,
    files: Arc<Files>,
}

impl WriterConnection {
    /// Locks the file for this process, and migrates it.
    pub fn open(path: &Path) -> Result<Self> {
        let version = rusqlite::version_number();
        if version < MIN_VERSION {
            bail!("SQLite {} can lose committed data; 3.51.3 or newer is needed", rusqlite::version());
        }
        refuse_folder(path)?;
        let found = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        for suffix in ["-wal", "-shm", "-journal", ".lock"] {
            files::refuse_special(&files::beside(&found, suffix))?;
        }
        files::refuse_lost_database(path)?;
        files::refuse_link_without_target(path)?;
        create(path);
        let path = &canonical(path)?;
        let locks = Locks::take(path).map_err(|error| explain(path, &error))?;
        // The connection is closed when the reason is known, and leaves the files as they are.
        let checked = files::refuse_mount_point(path)
            .and_then(|()| open_checked(path, &locks).map_err(|error| explain(path, &error)));
        let connection = checked.inspect_err(|_| locks.remove_new(path))?;
        // Only now it is known that the files are those of this program.
        locks.narrow();
        for sentence in files::narrow(path).into_iter().chain(files::saved_contents(path)) {
            tracing::warn!("{sentence}");
        }
        Self::open_locked(path, connection, locks).map_err(|error| explain(path, &error))
    }

    fn open_locked(path: &Path, mut connection: Connection, locks: Locks) -> Result<Self> {
        prepare_writer(&connection, path).with_context(|| format!("{} cannot be used", path.display()))?;
        locks.note_checked().with_context(|| format!("{}.lock cannot be written", path.display()))?;
        migrate(&mut connection, MIGRATIONS)
            .with_context(|| format!("{} cannot be brought up to date", path.display()))?;
        let mark = mark(&connection).with_context(|| format!("{} cannot be written", path.display()))?;
        let files = Arc::new(locks.watch(path, mark)?);
        checkpoint_with_care(&mut connection, Arc::clone(&files))?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        let (path, is_noted) = (path.to_owned(), Cell::new(false));
        let writer = Self { connection, path, is_noted, _locked: Locked(Arc::clone(&files)), files };
        writer.note_contents();
        Ok(writer)
    }

    /// Opens a further connection, which only reads.
    pub fn reader(&self) -> Result<Reader> {
        let connection = connect(&self.path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        connection.pragma_update(None, "query_only", true)?;
        Ok(Reader { connection, files: Arc::clone(&self.files) })
    }

    /// Commits the transaction.
    pub fn commit(&self) -> error::Result<()> {
        match self.connection.execute_batch("commit") {
            Ok(()) => {
                self.note_contents();
                Ok(())
            }
            Err(error) if is_without_space(&error) => {
                self.roll_back();
                Err(error.into())
            }
            Err(error) => self.outcome_is_unknown(&error),
        }
    }

    /// Notes that the database holds an app, when the first one is committed: every other row needs one. A start that
    /// was interrupted before has noted nothing, so the next one begins again.
    fn note_contents(&self) {
        if !self.is_noted.get() && has_app(&self.connection).unwrap_or(false) {
            self.is_noted.set(true);
            self.files.note_contents();
        }
    }

    /// Rolls the transaction back.
    pub fn roll_back(&self) {
        // SQLite may have rolled back by itself.
        if !self.connection.is_autocommit()
            && let Err(error) = self.connection.execute_batch("rollback")
        {
            self.outcome_is_unknown(&error);
        }
    }

    fn outcome_is_unknown(&self, error: &rusqlite::Error) -> ! {
        if error::is_damage(error) {
            self.files.end_damaged(&error.to_string());
        }
        end_the_process(&format!("a commit failed, and the contents of the disk are unknown: {error}"));
    }

    /// Rewrites the file and its log without the remains of replaced and deleted rows.
    ///
    /// `secure_delete` is not sufficient: it zeroes deleted rows, but not the remains between the rows of a page
    /// after rows were moved to a neighbour.
    pub fn rewrite(&self) -> error::Result<()> {
        // The copy is as large as the database, so it must not be in memory.
        self.connection.pragma_update(None, "temp_store", "FILE")?;
        self.files.forget_origin();
        let done = self.connection.execute_batch("vacuum");
        self.connection.pragma_update(None, "temp_store", "MEMORY")?;
        done.map_err(|error| self.without_space(error))?;
        // A fault is found again by the check of every second, which ends the process.
        if let Ok(left) = self.files.checkpoint(|| self.truncate_log())
            && left? != 0
        {
            tracing::warn!("another process reads the database: its log is truncated at the next stop");
        }
        Ok(())
    }

    /// Says how much space a rewrite needs: the copy, and the log through which it replaces the file.
    fn without_space(&self, error: rusqlite::Error) -> StoreError {
        let needed = self.path.metadata().map_or(0, |database| database.len().div_ceil(1_000_000) * 2);
        let folder = self.path.parent().unwrap_or(&self.path).display();
        let error = StoreError::from(error);
        if let StoreError::Unavailable(why) = &error {
            return StoreError::Unavailable(format!("{why}; the rewrite needs {needed} MB in {folder}"));
        }
        error
    }

    /// Checkpoints and truncates the log. The result is not 0 if a reader prevented it.
    fn truncate_log(&self) -> rusqlite::Result<i64> {
        self.connection.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(0))
    }

    /// Saves the contents after a file of the database was deleted or replaced, and ends the process. Returns only if
    /// they could not be saved and would be lost with the process.
    pub fn end(&self, fault: Fault) -> Unsaved {
        let rescued = self.files.rescue(fault, || match self.truncate_log() {
            Ok(0) => Ok(()),
            Ok(_) => Err("another process reads the log".to_owned()),
            Err(error) => Err(error.to_string()),
        });
        match rescued {
            Ok(sentence) => end_with(&sentence),
            Err(unsaved) => unsaved,
        }
    }

    /// Truncates the log and closes the connection. A log that remains is read at the next start.
    pub fn close(self) {
        let fault = self.files.check().err();
        if let Some(fault) = fault {
            // The process ends anyway, and the folder of a database that is no longer needed may be removed meanwhile.
            let sentence = if fault.forbids_checkpoint() {
                self.files.rescue(fault, || Ok(())).unwrap_or_else(|unsaved| unsaved.when_lost())
            } else {
                fault.describe(&self.path)
            };
            tracing::error!("{sentence}");
        }
        if fault.is_some_and(Fault::forbids_checkpoint) {
            // Closing it would copy its log into the new contents, or copy zeros from a log that was truncated.
            std::mem::forget(self.connection);
        } else {
            let _ = self.truncate_log();
        }
    }
}

impl Files {
    /// Returns the size of the log, in bytes.
    pub fn log_size(&self) -> u64 {
        files::beside(&self.path, "-wal").metadata().map_or(0, |log| log.len())
    }

    /// Notes that the database is damaged, and ends the process.
    pub fn end_damaged(&self, reason: &str) -> ! {
        if let Err(fault) = self.check()
            && fault.forbids_checkpoint()
        {
            end_with(&self.rescue(fault, || Ok(())).unwrap_or_else(|unsaved| unsaved.when_lost()));
        }
        self.note_damage(reason);
        end_with(&damaged(&self.path, reason));
    }
}

impl Reader {
    /// Ends the process because the database is damaged.
    pub fn end_damaged(&self, reason: &str) -> ! {
        self.files.end_damaged(reason)
    }
}

/// Returns a sentence about a damaged database.
fn damaged(path: &Path, reason: &str) -> String {
    let path = path.display();
    format!(
        "the database {path} is damaged ({reason}); restore a backup, or copy what is readable with `sqlite3 {path} \
         .recover | sqlite3 new.db`; check the disk before"
    )
}

/// An error of SQLite, or a result of its check, that shows damage.
#[derive(Debug, thiserror::Error)]
#[error("the database is damaged: {0}")]
struct Damaged(String);

/// Returns the sentence for an error of the start. The connection is closed.
fn explain(path: &Path, error: &anyhow::Error) -> anyhow::Error {
    let damage = error.chain().find_map(|cause| {
        let reported = cause.downcast_ref().filter(|cause| error::is_damage(cause));
        let found = cause.downcast_ref().map(|Damaged(reason)| reason.clone());
        reported.map(rusqlite::Error::to_string).or(found)
    });
    let Some(reason) = damage else {
        let is_read_only =
            error.chain().filter_map(|cause| cause.downcast_ref::<rusqlite::Error>()).any(|cause| {
                matches!(cause.sqlite_error_code(), Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied))
            });
        if is_read_only {
            let folder = path.parent().unwrap_or(path).display();
            return anyhow!(
                "{}: the folder {folder} and all files of {} in it must be writable by the user that runs ringback",
                sentence(error),
                path.display()
            );
        }
        let folder = path.parent().unwrap_or(path);
        let remedy = files::remedy(folder, error).map(|remedy| format!(": {remedy}")).unwrap_or_default();
        return anyhow!("{}{remedy}", sentence(error));
    };
    if files::has_log(path) && is_sound_without_log(path) {
        let path = path.display();
        return anyhow!(
            "the database {path} is damaged together with its log {path}-wal ({reason}), and sound without it: the log does \
             not belong to this file (a restored backup?). Nothing was changed: move {path}-wal and {path}-shm away, and \
             start again"
        );
    }
    anyhow!(damaged(path, &reason))
}

/// Opens a database that exists or is empty, and checks it. Until the end of the start, closing the connection does not
/// copy the log into the database: the log can be one that does not belong to it.
fn open_checked(path: &Path, locks: &Locks) -> Result<Connection> {
    let log_is_known = locks.refuse_foreign_log(path)?;
    locks.refuse_lost_commits(path)?;
    let has_log = files::beside(path, "-wal").exists();
    let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let patience = (log_is_known && !locks.is_damage_noted()).then_some(CHECK_PATIENCE);
    let checked = refuse_foreign(&connection, path)
        .and_then(|()| check_pages(&connection, patience))
        .and_then(|()| refuse_lost_log(&connection, path, locks));
    if checked.is_err() && !has_log {
        // Closing it then removes the empty log that reading has made.
        let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false);
    }
    checked.map(|()| connection)
}

/// Refuses a database that has lost all of its contents. In a young service, all but the schema is still in the log.
fn refuse_lost_log(connection: &Connection, path: &Path, locks: &Locks) -> Result<()> {
    if !locks.are_contents_noted() || has_app(connection)? {
        return Ok(());
    }
    let saved = files::saved_contents(path);
    let path = path.display();
    if let Some(saved) = saved {
        bail!(
            "the database {path} is empty, but {path}.lock says that it had contents. Nothing was changed: {saved}"
        );
    }
    bail!(
        "the database {path} is empty, but {path}.lock says that it had contents: they were in its log {path}-wal, which is \
         missing or was emptied; nothing was changed. Put the log back, or restore a backup; to begin with an empty database, delete or \
         move {path}, {path}-wal, {path}-shm and {path}.lock"
    )
}

/// Whether the database holds an app. An app is never deleted.
fn has_app(connection: &Connection) -> rusqlite::Result<bool> {
    let has_table = "select exists (select 1 from sqlite_schema where type = 'table' and name = 'apps')";
    Ok(connection.query_row(has_table, [], |row| row.get(0))?
        && connection.query_row("select exists (select 1 from apps)", [], |row| row.get(0))?)
}

/// Refuses a database whose pages are damaged. See the head of this file.
fn check_pages(connection: &Connection, patience: Option<Duration>) -> Result<()> {
    let found = std::thread::scope(|scope| {
        let (interrupt, (done, ended)) = (connection.get_interrupt_handle(), channel::<()>());
        if let Some(patience) = patience {
            scope.spawn(move || {
                if ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                    interrupt.interrupt();
                }
            });
        }
        let found = connection.query_row("pragma quick_check(1)", [], |row| row.get::<_, String>(0));
        drop(done);
        found
    });
    match found {
        Ok(found) if found == "ok" => Ok(()),
        Ok(found) => bail!(Damaged(found.lines().last().unwrap_or(&found).to_owned())),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether the pages of the file alone are sound. It is read as if it could not change, so nothing is written.
fn is_sound_without_log(path: &Path) -> bool {
    let encode = |byte: u8| match byte {
        b'/' | b'-' | b'.' | b'_' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02x}"),
    };
    let name: String = path.as_os_str().as_bytes().iter().copied().map(encode).collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    connect(Path::new(&format!("file:{name}?immutable=1")), flags)
        .is_ok_and(|connection| check_pages(&connection, None).is_ok())
}

/// Makes commits checkpoint a long log, as SQLite does by itself, but never into a file that was changed.
fn checkpoint_with_care(connection: &mut Connection, files: Arc<Files>) -> rusqlite::Result<()> {
    connection.wal_hook(Some(move |log: &mut Wal, pages: std::ffi::c_int| {
        files.note_commit(pages.unsigned_abs());
        let most = if files.take_early() { EARLY_CHECKPOINT_PAGES } else { CHECKPOINT_PAGES };
        if pages >= most {
            // As in SQLite: the commit has succeeded, and the next one tries it again.
            let _ = files.checkpoint(|| log.checkpoint());
        }
        Ok(())
    }))
}

/// Gives the database a new mark, and writes it to the file. See [`files`].
fn mark(connection: &Connection) -> Result<i32> {
    let old: i32 = connection.query_row("pragma application_id", [], |row| row.get(0))?;
    let mark = old.wrapping_add(1).max(1);
    connection.pragma_update(None, "application_id", mark)?;
    connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))?;
    Ok(mark)
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
            "{0} has {names} names (hard links), so another process may use it by another name. Run `cp -p {0} {0}.copy && mv \
             {0}.copy {0}` while no process uses it: the name {0} then has a file of its own. `find / -xdev -samefile {0}` \
             shows the other names",
            path.display()
        );
    }
    Ok(path)
}

/// Refuses a path that is not that of a file. It is checked first: a folder has several names.
fn refuse_folder(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(found) if found.is_dir() => {
            bail!("{0} is a folder; name a file in it, such as {0}/ringback.db", path.display())
        }
        Ok(found) if !found.is_file() => bail!("{} is not a file; name another one", path.display()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Refuses a database with the tables of another program, before anything in it is changed. A migration is one
/// transaction with its version, so a database of this program with tables has a version and the table `watches`. An
/// SQL dump of one lacks the version.
fn refuse_foreign(connection: &Connection, path: &Path) -> Result<()> {
    let version: i64 = connection.query_row("pragma user_version", [], |row| row.get(0))?;
    let sql = "select count(*), coalesce(sum(name = 'watches'), 0),
            coalesce(sum(name in ('apps', 'jobs', 'nodes', 'shards', 'watches', 'watch_destinations')), 0)
        from sqlite_schema where type = 'table'";
    let (tables, own, typical): (i64, i64, i64) =
        connection.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    if version == 0 && typical == 6 {
        let path = path.display();
        bail!(
            "{path} has the tables of ringback, but not their version (`pragma user_version`), which an SQL dump does not \
             contain; nothing was changed. Restore a backup that was made with `vacuum into`, or set the version that \
             `sqlite3 OLD.db 'pragma user_version'` shows for the database of the dump: `sqlite3 {path} 'pragma user_version = \
             N'`"
        );
    }
    if tables > 0 && (version == 0 || own == 0) {
        bail!(
            "{} is a database of another program; name another file in database_url, which is then created",
            path.display()
        );
    }
    Ok(())
}

/// Returns an error with its causes, down to that of SQLite. Its own cause repeats it as a number, and its text can
/// quote a whole migration.
fn sentence(error: &anyhow::Error) -> String {
    let mut parts = Vec::new();
    for cause in error.chain() {
        match cause.downcast_ref() {
            Some(rusqlite::Error::SqlInputError { msg, .. }) => parts.push(msg.clone()),
            Some(_) | None => parts.push(cause.to_string()),
        }
        if cause.is::<rusqlite::Error>() {
            break;
        }
    }
    parts.join(": ")
}

/// Creates the file, if it is missing, with access for its owner only: it holds secrets, and SQLite would use
/// the umask. The log gets the same mode. If this fails, SQLite reports the reason. An operator may give the group
/// access; it is not taken again.
fn create(path: &Path) {
    let _ = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path);
}

fn prepare_writer(writer: &Connection, path: &Path) -> Result<()> {
    let folder = path.parent().and_then(Path::to_str).filter(|folder| !folder.is_empty());
    let folder = folder.unwrap_or(".");
    writer.pragma_update(None, "temp_store_directory", folder).with_context(|| {
        format!("the folder {folder} must be writable for the log and the temporary files of the database")
    })?;
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
        bail!(
            "it was written by a newer version of ringback (schema {done}, here {}); start that version, or restore a backup",
            migrations.len()
        );
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

/// Opens an empty database in memory, with the current schema.
#[cfg(test)]
pub fn in_memory() -> Connection {
    let mut connection = Connection::open_in_memory().expect("opens");
    migrate(&mut connection, MIGRATIONS).expect("migrated");
    connection
}

#[cfg(test)]
mod tests;
