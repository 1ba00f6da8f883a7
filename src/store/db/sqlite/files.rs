//! The files of a SQLite database: the locks that keep a second process out, and the check that the files are
//! still the ones that were opened.
//!
//! **A name is not a file.** SQLite finds the log of a database by its name: `x.db-wal` and `x.db-shm` lie beside
//! `x.db`. Two processes that open one file by two names (two bind mounts of the file, a rename, a hard link) have
//! two logs. Each copies its own pages over those of the other, and nothing is reported. A lock on a file *beside*
//! the database has the same fault: by each name, another file is locked. So the file itself is locked.
//!
//! **Which lock.** A process has two kinds of advisory locks on a file, and both have a trap:
//!
//! - The locks of `fcntl` belong to the process. SQLite uses them. If the process closes *any* descriptor of the
//!   file, the kernel drops all of them. So [`Files`] opens one descriptor before SQLite opens its own, and every
//!   connection keeps it open until it is closed itself. Where the lock cannot be taken, the descriptor is never
//!   closed: another connection of this process can be open.
//! - The locks of `flock` belong to the open file. On a local file system of Linux they are independent of those
//!   of `fcntl`. On NFS and CIFS, the kernel turns them into byte locks on the whole file, which exclude SQLite's
//!   own; on macOS and BSD they exclude them everywhere.
//!
//! The third kind has neither: an *open file description lock* belongs to the open file as that of `flock` does,
//! and covers a range of bytes as those of `fcntl` do. [`LOCK_BYTE`] is a byte that SQLite never locks (its own lie
//! at 1 GiB), so the lock excludes only another Ringback, on every file system that has byte locks, also across the
//! machines of a network file system. Linux has it since 3.15. Elsewhere, and on a file system without byte locks,
//! only the lock of the next paragraph is taken.
//!
//! **The file beside.** `x.db.lock` was the only lock of version 0.1.0. It is still taken, so that the old and the new
//! version exclude each other on one name. Every user who can open it can lock it, and then the service does not
//! start. So it is readable by its owner only, and one that an older version made is narrowed. It also holds a
//! [`note`], which survives the process. A start that is refused removes the lock that it has made, while it holds both
//! locks. Another process that has opened the removed file is refused for the same reason, or notices it in
//! [`Files::check`].
//!
//! **A mount point of its own.** If the file (not its folder) is mounted into a container, the log lies in the
//! container, and what it holds is lost with the container after a kill. No lock helps against that. Such a file is
//! refused.
//!
//! **What is checked while the process runs.** An open file outlives its name. After `rm`, `mv` or a restore by
//! `mv`, the process would write into a file that is never opened again. [`Files::check`] compares, outside of any
//! transaction:
//!
//! | Change | Seen by | What is saved ([`Files::rescue`]) |
//! |---|---|---|
//! | the database was deleted | no file has the name | the open file is copied beside it, as soon as this succeeds |
//! | it was renamed | no file has the name | the log is copied into the renamed file |
//! | it was replaced (`mv backup x.db`) | the name has another inode | as for a deletion or a rename |
//! | it was overwritten (`cp backup x.db`) | its header has changed, and no checkpoint explains it | the log is renamed: its pages would destroy the backup at the next start |
//! | it was written in another way | the same, of its size or the time of its last write | all is left as it is, and the next start checks all pages |
//! | the log was removed | the name has none or another inode | the log is copied into the database |
//! | the log was truncated | its frames do not have the salt that its index has | nothing: what it held is lost, and a checkpoint would copy zeros |
//! | the database was truncated | it is smaller than its header says, and no checkpoint is writing it | nothing: a backup is needed |
//! | another file system was mounted over the folder | as a deletion or a replacement, but the open file still has its name | nothing: all is below the mount |
//! | the index of the log or the lock was removed | the name has none or another inode | nothing: all is in its place |
//!
//! A hard link that is added later is no fault: the lock is on the file, and the start refuses a file with two names.
//!
//! If the contents of a deleted file cannot be saved (the disk is full, the folder is read-only), only this process has
//! them. So it stays, refuses writes, fails `/readyz`, and tries again every second, until it succeeds or is stopped
//! ([`Unsaved`]). A stop tries it once more. The same holds for a log that was removed and cannot be copied into the
//! database.
//!
//! The log of a renamed or replaced file is emptied before the process ends. Otherwise the next start would apply it to
//! the file that has the name then.
//!
//! **Which change is foreign.** In WAL mode, only checkpoints write the database. A checkpoint by any process (a shell,
//! a replicator) counts the copied pages in the index of the log: one count before its first write, one after its last.
//! So [`Contents`] are read while both counts are equal, and compared with those that were read under the same count. A
//! commit changes neither. A checkpoint of this process compares before it writes, and holds the lock of [`Known`], so
//! the check of every second waits for it. Three things are compared:
//!
//! - The header. A backup by `vacuum into` or `.backup` has another `schema_version`, one from before the start another
//!   mark: the `application_id`, which every start increases. It does not depend on the resolution of the file system's
//!   times (one tick of the kernel, up to 10 ms).
//! - The size.
//! - The time of the last write. It alone does not show what was written: `touch` changes it as well. So the log stays.
//!
//! The commit after a checkpoint begins the log anew, which sets the count to 0. If the whole log was copied before,
//! and its salt has become greater by 1, no checkpoint wrote the database in between (but one of another process, after
//! a commit of another process that a reader kept from beginning the log anew). A change is then taken for a write, not
//! for a copy.
//!
//! What is not seen: a copy in the same second as a checkpoint of another process, and a write with the same header in
//! the same tick as a checkpoint.
//!
//! **A log that stayed behind.** After a kill, the log holds the newest commits. If a backup is then restored and the
//! log forgotten, SQLite applies the log to the backup, which destroys it or undoes the restore. Nothing in a log says
//! which database it belongs to. So every start notes the mark and the `schema_version` in `.lock`, and a start that
//! finds a log beside a database with others is refused. The inode would not do: `cp backup x.db` keeps it, and a copy
//! of the whole folder changes it. While the start or a rewrite changes the two, none is noted. If none is noted, or
//! the lock was not copied with the database, the start checks all pages: a log that stayed behind mixes pages of two
//! layouts, which the check finds, and the file alone is sound. Until the check has passed, nothing is written to the
//! database, and closing it does not checkpoint.
//!
//! **A log that is missing.** After a kill, the index of the log (`-shm`) remains as well, until a process opens the
//! database. If it says that the log holds pages that were not copied, and there is no log, the newest commits are
//! lost, and the start is refused. An index beside a database of another origin is that of another database. Version
//! 0.1.0 noted no origin, so the line names both remedies. Without an index, nothing proves that there was a log.
//!
//! **A database that is missing.** A supervisor starts the program again after `mv x.db y`. A new database would accept
//! watches that the return of the old one loses. So the start is refused if the log or the note says that there was
//! one. The same holds for a database without an app whose note says that it had one: it was in a log that is missing
//! or was emptied.

mod contents;
mod note;
mod paths;
mod rescue;
mod space;
mod start;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, Result, anyhow, bail};
use rustix::fs::{FlockOperation, flock};

use self::contents::{Change, Contents, Header, LogIndex};
use self::note::{Note, Origin};
use self::paths::{Identity, identity};

pub use self::paths::{beside, has_log};
pub use self::rescue::Unsaved;
pub use self::space::{is_without_space, remedy};
pub use self::start::{
    narrow, refuse_link_without_target, refuse_lost_database, refuse_mount_point, saved_contents,
};

/// Byte that is locked. SQLite locks 512 bytes at 1 GiB. The greatest offset that every file system can lock is
/// 2^63 - 1.
#[cfg(target_os = "linux")]
const LOCK_BYTE: i64 = 1 << 62;

/// A difference between the open files and their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No file has the name of the database.
    Gone,
    /// Another file has the name of the database.
    Replaced,
    /// The database was overwritten in place.
    Overwritten,
    /// The database was written by another program.
    Written,
    /// `-wal` was removed or replaced.
    Log,
    /// `-wal` was truncated: pages of commits are missing.
    LogTruncated,
    /// The database was truncated.
    Truncated,
    /// `-shm` was removed or replaced.
    Index,
    /// `.lock` was removed or replaced.
    Lock,
}

impl Fault {
    /// Whether a checkpoint could copy a log that does not belong to the database, or that has holes.
    pub const fn forbids_checkpoint(self) -> bool {
        matches!(self, Self::Overwritten | Self::Written | Self::LogTruncated | Self::Truncated)
    }

    /// Returns what happened to the files of the database at `path`.
    pub fn describe(self, path: &Path) -> String {
        let path = path.display();
        let happened = match self {
            Self::Gone => "the database PATH was deleted or renamed",
            Self::Replaced => "the database PATH was replaced by another file",
            Self::Overwritten => "the database PATH was overwritten",
            Self::Written => "the database PATH was written by another program",
            Self::Log => "PATH-wal, the log of the database, was deleted or replaced",
            Self::LogTruncated => "PATH-wal, the log of the database, was truncated",
            Self::Truncated => "the database PATH was truncated",
            Self::Index => "PATH-shm, the index of the database's log, was deleted or replaced",
            Self::Lock => "PATH.lock, the lock of the database, was deleted or replaced",
        };
        format!("{} while it was in use", happened.replacen("PATH", &path.to_string(), 1))
    }
}

/// The locks of a database that SQLite has not opened yet.
#[derive(Debug)]
pub struct Locks {
    database: File,
    lock: File,
    /// Whether this process has made `lock`.
    is_new: bool,
}

/// The locked files of an open database.
#[derive(Debug)]
pub struct Files {
    /// Path of the database.
    pub path: PathBuf,
    locks: Locks,
    /// Identities of `-wal` and `-shm`.
    log: [Identity; 2],
    /// Marks that the header can have: the one on disk at the start, and that of this process.
    marks: [u32; 2],
    known: Mutex<Known>,
    /// `-wal`. SQLite has no locks on it.
    wal: File,
    /// `-shm`. It is closed after every connection: closing it drops their locks on it.
    index: File,
    /// Whether the next commit checkpoints a shorter log than others.
    is_early: AtomicBool,
    rescue: Rescue,
}

/// What is known of the contents of the database. A checkpoint of this process holds the lock.
#[derive(Debug, Default)]
struct Known {
    /// The database as the last checkpoint left it.
    contents: Option<Contents>,
    /// The origin that `.lock` notes.
    origin: Option<Origin>,
}

/// The end of a process whose files were changed. Several threads can notice a fault at the same time: the check of
/// every second, the writer, and a reader of a damaged page. A rescue changes files itself, and each change would be
/// reported as another fault. So the first fault is the one that all report, and it is rescued once.
#[derive(Debug, Default)]
struct Rescue {
    /// The fault. It is set before a rescue changes a file.
    fault: OnceLock<Fault>,
    /// What the rescue that succeeded says.
    done: Mutex<Option<String>>,
}

impl Locks {
    /// Locks the database for this process.
    pub fn take(path: &Path) -> Result<Self> {
        let (lock, is_new) = open_lock(&beside(path, ".lock"))?;
        let database = OpenOptions::new().read(true).write(true).open(path);
        let database = database
            .inspect_err(|_| remove_new(path, &lock, is_new))
            .with_context(|| format!("the database {} cannot be opened", path.display()))?;
        if let Err(error) = lock_both(path, &database, &lock) {
            unlock_file(&database);
            // Closing it would drop the locks of another connection of this process.
            std::mem::forget(database);
            return Err(error);
        }
        Ok(Self { database, lock, is_new })
    }

    /// Removes the lock file, if this process has made it: a refused start leaves nothing behind.
    pub fn remove_new(&self, path: &Path) {
        remove_new(path, &self.lock, self.is_new);
    }

    /// Takes the access of other users from the lock file.
    pub fn narrow(&self) {
        if self.lock.metadata().is_ok_and(|lock| lock.mode() & 0o077 != 0) {
            // A file of another owner stays as it is.
            let _ = self.lock.set_permissions(fs::Permissions::from_mode(0o600));
        }
    }

    /// Whether an earlier process noted that the database holds an app.
    pub fn are_contents_noted(&self) -> bool {
        Note::read(&self.lock).has_contents
    }

    /// Whether an earlier process noted that the database is damaged.
    pub fn is_damage_noted(&self) -> bool {
        Note::read(&self.lock).damage.is_some()
    }

    /// Refuses a log that belongs to another database. Returns whether the log, if there is one, is known to belong to
    /// this one.
    pub fn refuse_foreign_log(&self, path: &Path) -> Result<bool> {
        let (noted, found) = self.origins();
        start::refuse_foreign_log(path, noted, found)
    }

    /// Refuses a database whose newest commits were in a log that is missing.
    pub fn refuse_lost_commits(&self, path: &Path) -> Result<()> {
        let (noted, found) = self.origins();
        start::refuse_lost_commits(path, noted, found)
    }

    /// Returns the origin that is noted, and that of the file.
    fn origins(&self) -> (Option<Origin>, Option<Origin>) {
        let found = Header::read(&self.database).map(|header| Origin::of(&header));
        (Note::read(&self.lock).origin, found)
    }

    /// Notes that the pages were checked, and that the start changes the origin of the database from now on.
    pub fn note_checked(&self) -> io::Result<()> {
        let note = Note::read(&self.lock);
        let checked = Note { existed: note.existed, has_contents: note.has_contents, ..Note::default() };
        if note == checked { Ok(()) } else { checked.write(&self.lock) }
    }

    /// Remembers the files of the database that SQLite has opened. `mark` is its `application_id`.
    pub fn watch(self, path: &Path, mark: i32) -> Result<Files> {
        let identity = |suffix| {
            let path = beside(path, suffix);
            identity(&path)?.with_context(|| format!("{} is missing", path.display()))
        };
        let log = [identity("-wal")?, identity("-shm")?];
        let on_disk = Header::read(&self.database).map_or(0, |header| header.mark());
        let (wal, index) = (File::open(beside(path, "-wal"))?, File::open(beside(path, "-shm"))?);
        let (marks, known) = ([on_disk, mark.cast_unsigned()], Mutex::default());
        let is_early = AtomicBool::new(false);
        let rescue = Rescue::default();
        let files =
            Files { path: path.to_owned(), locks: self, log, marks, known, wal, index, is_early, rescue };
        files.compare(&mut files.known()).map_err(|fault| anyhow!(fault.describe(path)))?;
        Ok(files)
    }
}

impl Files {
    /// Compares the open files with their names and with what the last checkpoint left. What cannot be read shows
    /// nothing. During a rescue, the fault is the one that is rescued.
    pub fn check(&self) -> Result<(), Fault> {
        self.find_fault().map_err(|fault| self.rescue.fault.get().copied().unwrap_or(fault))
    }

    fn find_fault(&self) -> Result<(), Fault> {
        let Ok(open) = self.locks.database.metadata() else { return Ok(()) };
        match identity(&self.path) {
            Ok(None) => return Err(Fault::Gone),
            Ok(Some(found)) if found != (open.dev(), open.ino()) => return Err(Fault::Replaced),
            Ok(Some(_)) | Err(_) => {}
        }
        if !self.is_marked() {
            return Err(Fault::Overwritten);
        }
        for (suffix, known, fault) in [("-wal", self.log[0], Fault::Log), ("-shm", self.log[1], Fault::Index)]
        {
            if identity(&beside(&self.path, suffix)).is_ok_and(|found| found != Some(known)) {
                return Err(fault);
            }
        }
        self.check_log()?;
        self.compare(&mut self.known())?;
        let lock = self.locks.lock.metadata().map(|lock| (lock.dev(), lock.ino()));
        match (identity(&beside(&self.path, ".lock")), lock) {
            (Ok(found), Ok(lock)) if found != Some(lock) => Err(Fault::Lock),
            _ => Ok(()),
        }
    }

    /// Runs a checkpoint, unless it could copy the log into a database that was changed. The check every second would
    /// come too late: a checkpoint can write the header, and explains any change.
    pub fn checkpoint<T>(&self, run: impl FnOnce() -> T) -> Result<T, Fault> {
        let mut known = self.known();
        if !self.is_marked() {
            return Err(Fault::Overwritten);
        }
        self.check_log()?;
        self.compare(&mut known)?;
        let done = run();
        known.contents = None;
        self.compare(&mut known)?;
        Ok(done)
    }

    /// Requests that the next commit checkpoints a log that is not long yet.
    pub fn checkpoint_early(&self) {
        self.is_early.store(true, Ordering::Release);
    }

    /// Returns whether that was requested since the last call.
    pub fn take_early(&self) -> bool {
        self.is_early.swap(false, Ordering::AcqRel)
    }

    /// Notes the size of the log after a commit, in pages.
    pub fn note_commit(&self, pages: u32) {
        if let Some(contents) = &mut self.known().contents {
            contents.note_commit(pages);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Compares the database with what the last checkpoint left, and remembers what a later one leaves.
    fn compare(&self, known: &mut Known) -> Result<(), Fault> {
        let Some(now) = Contents::read(&self.locks.database, &self.index) else { return Ok(()) };
        match now.change_since(known.contents.as_ref()) {
            Some(Change::Overwritten) => return Err(Fault::Overwritten),
            Some(Change::Truncated) => return Err(Fault::Truncated),
            Some(Change::Written) => return Err(Fault::Written),
            None => {}
        }
        // The mark is missing as long as a reader has prevented the checkpoint of the start.
        let origin = (now.header.mark() == self.marks[1]).then(|| Origin::of(&now.header));
        if known.origin != origin && self.note(|note| note.origin = origin) {
            known.origin = origin;
        }
        known.contents = Some(now);
        Ok(())
    }

    /// Notes that the database becomes another one, whose origin the end of the next checkpoint notes.
    pub fn forget_origin(&self) {
        let mut known = self.known();
        known.origin = None;
        self.note(|note| note.origin = None);
    }

    /// Changes the note in `.lock`. Returns whether it was written.
    fn note(&self, change: impl FnOnce(&mut Note)) -> bool {
        let mut note = Note::read(&self.locks.lock);
        note.existed = true;
        change(&mut note);
        let noted = note.write(&self.locks.lock);
        noted
            .inspect_err(|error| tracing::warn!(%error, "the lock file of the database cannot be written"))
            .is_ok()
    }

    /// Compares the log with what its index says. Its size is not enough: the next commit after a truncation writes
    /// behind a hole. So samples of its frames are compared as well.
    ///
    /// It is correct also while this or another process commits or checkpoints. The index is changed after the frames
    /// are written, and before the log is truncated. So an index that is the same before and after the comparison
    /// describes the log.
    fn check_log(&self) -> Result<(), Fault> {
        let Some(index) = LogIndex::read(&self.index) else { return Ok(()) };
        let is_whole = index.describes(&self.wal);
        if is_whole || LogIndex::read(&self.index).as_ref() != Some(&index) {
            return Ok(());
        }
        Err(Fault::LogTruncated)
    }

    /// Whether the header has the mark, or cannot be read.
    fn is_marked(&self) -> bool {
        Header::read(&self.locks.database).is_none_or(|header| self.marks.contains(&header.mark()))
    }

    /// Notes damage of the database for the next start, which then checks every page.
    pub fn note_damage(&self, damage: &str) {
        self.note(|note| note.damage = Some(damage.to_owned()));
    }

    /// Notes that the database holds an app.
    pub fn note_contents(&self) {
        if !self.locks.are_contents_noted() {
            self.note(|note| note.has_contents = true);
        }
    }

    /// Releases the locks. The descriptor of the database stays open as long as a connection.
    pub fn release(&self) {
        // The database first: the process that gets the lock of the file beside it gets both.
        unlock_file(&self.locks.database);
        let _ = flock(&self.locks.lock, FlockOperation::Unlock);
    }
}

fn remove_new(path: &Path, lock: &File, is_new: bool) {
    let path = beside(path, ".lock");
    let open = lock.metadata().map(|lock| (lock.dev(), lock.ino())).ok();
    if is_new && open.is_some() && identity(&path).ok().flatten() == open {
        let _ = fs::remove_file(path);
    }
}

fn lock_both(path: &Path, database: &File, lock: &File) -> Result<()> {
    let in_use = format!("{} is in use by another ringback", path.display());
    if !lock_file(database).with_context(|| format!("{} cannot be locked", path.display()))? {
        bail!("{in_use}; stop that one, or give this one its own database_url");
    }
    if flock(lock, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "{in_use}, of an older version, or {}.lock is locked by another program (`lslocks` shows it); stop that \
             one, or give this one its own database_url",
            path.display()
        );
    }
    Ok(())
}

/// Locks the open file. Returns whether it is locked: `false` if another process has locked it.
#[cfg(target_os = "linux")]
fn lock_file(file: &File) -> io::Result<bool> {
    use nix::errno::Errno;
    match set_lock(file, nix::libc::F_WRLCK) {
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        // A file system without byte locks is accepted: the lock of the file beside is all there is.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOLCK | Errno::ENOSYS | Errno::EOPNOTSUPP) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(target_os = "linux")]
fn unlock_file(file: &File) {
    let _ = set_lock(file, nix::libc::F_UNLCK);
}

#[cfg(target_os = "linux")]
#[expect(clippy::cast_possible_truncation, reason = "constants that fit")]
fn set_lock(file: &File, kind: nix::libc::c_int) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, fcntl};
    let whence = nix::libc::SEEK_SET as nix::libc::c_short;
    let kind = kind as nix::libc::c_short;
    let lock = nix::libc::flock { l_type: kind, l_whence: whence, l_start: LOCK_BYTE, l_len: 1, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_SETLK(&lock)).map(|_| ())
}

#[cfg(not(target_os = "linux"))]
fn lock_file(_file: &File) -> io::Result<bool> {
    Ok(true)
}

#[cfg(not(target_os = "linux"))]
fn unlock_file(_file: &File) {}

/// Opens or creates the lock beside the database. Only its owner may open it: a lock of another user would stop the
/// start. Returns whether it is new.
fn open_lock(path: &Path) -> Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    if let Ok(file) = options.clone().create_new(true).open(path) {
        return Ok((file, true));
    }
    refuse_special(path)?;
    let file = options.create(true).truncate(false).open(path);
    let file = file.map_err(|error| {
        let fault = lock_fault(error.kind(), fs::metadata(path).ok().as_ref());
        anyhow::Error::from(error).context(format!("{} {fault}", path.display()))
    })?;
    Ok((file, false))
}

/// Refuses a file of the database that is no regular file, as a FIFO. To open it could wait forever, or change it.
pub fn refuse_special(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => bail!("{} is not a file; delete or rename it", path.display()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Returns what is wrong with a lock file that cannot be opened, and what to do.
fn lock_fault(kind: io::ErrorKind, found: Option<&fs::Metadata>) -> String {
    match (kind, found) {
        (io::ErrorKind::ReadOnlyFilesystem, _) => {
            "cannot be opened, because its file system is mounted read-only; mount it read-write, or name a database \
             elsewhere in database_url"
                .to_owned()
        }
        (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => "cannot be created".to_owned(),
        (_, Some(found)) if !found.is_file() => "is not a file; delete or rename it".to_owned(),
        (io::ErrorKind::PermissionDenied, Some(found)) => format!(
            "cannot be opened: it belongs to the user with number {}; run ringback as that user, or delete it while no \
             ringback uses the database",
            found.uid()
        ),
        (_, Some(_)) => "cannot be opened".to_owned(),
        (_, None) => "cannot be created; is the folder there and writable?".to_owned(),
    }
}

/// Returns the folder of the database.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates a file with access for its owner only.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_cannot_be_opened_names_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("x.db.lock");
        fs::write(&file, "").expect("made");
        let [folder, file] = [folder.path(), &file].map(|path| fs::metadata(path).expect("there"));
        for (kind, found, remedy) in [
            (io::ErrorKind::ReadOnlyFilesystem, Some(&file), "mount it read-write"),
            (io::ErrorKind::ReadOnlyFilesystem, None, "mount it read-write"),
            (io::ErrorKind::PermissionDenied, Some(&file), "run ringback as that user"),
            (io::ErrorKind::IsADirectory, Some(&folder), "delete or rename it"),
            (io::ErrorKind::NotFound, None, "is the folder there and writable?"),
        ] {
            let fault = lock_fault(kind, found);
            assert!(fault.contains(remedy), "{kind}: {fault}");
            assert_eq!(fault.contains("belongs to"), kind == io::ErrorKind::PermissionDenied, "{fault}");
        }
    }
}
