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
//! start. So it is readable by its owner only, and one that an older version made is narrowed.
//!
//! **A mount point of its own.** If the file (not its folder) is mounted into a container, the log lies in the
//! container, and what it holds is lost with the container after a kill. No lock helps against that. Such a file is
//! refused.
//!
//! **What is checked while the process runs.** An open file outlives its name. After `rm`, `mv` or a restore by
//! `mv`, the process would write into a file that nobody opens again. [`Files::check`] compares, outside of any
//! transaction:
//!
//! | Change | Seen by | What is saved ([`Files::rescue`]) |
//! |---|---|---|
//! | the database was deleted | no file has the name | the open file is copied beside it |
//! | it was renamed | no file has the name | the log is copied into the renamed file |
//! | it was replaced (`mv backup x.db`) | the name has another inode | as for a deletion or a rename |
//! | it was overwritten (`cp backup x.db`) | its header has another mark | the log is renamed: its pages would destroy the backup at the next start |
//! | the log was removed | the name has none or another inode | the log is copied into the database |
//! | the log was truncated | its frames do not have the salt that its index has | nothing: what it held is lost, and a checkpoint would copy zeros |
//! | the database was truncated | it is smaller than its header says, and no checkpoint is writing it | nothing: a backup is needed |
//! | another file system was mounted over the folder | as a deletion or a replacement, but the open file still has its name | nothing: all is below the mount |
//! | the index of the log or the lock was removed | the name has none or another inode | nothing: all is in its place |
//!
//! A hard link that is added later is no fault: the lock is on the file, and the start refuses a file with two names.
//!
//! The log of a renamed or replaced file is emptied before the process ends. Otherwise the next start would apply it to
//! the file that has the name then.
//!
//! The mark is the `application_id` in the header, which every start increases. Nothing else changes it, so it shows
//! a copy of another database and a backup from before the start. It does not show a backup of a later time.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};

/// Byte that is locked. SQLite locks 512 bytes at 1 GiB. The greatest offset that every file system can lock is
/// 2^63 - 1.
#[cfg(target_os = "linux")]
const LOCK_BYTE: i64 = 1 << 62;

/// First bytes of every SQLite database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Position of `application_id` in the header.
const MARK_AT: usize = 68;

/// Number of the copies of deleted files that one folder can hold.
const COPIES_MAX: u32 = 100;

/// Device and inode of a file.
type Identity = (u64, u64);

/// A difference between the open files and their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No file has the name of the database.
    Gone,
    /// Another file has the name of the database.
    Replaced,
    /// The database was overwritten in place.
    Overwritten,
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
    /// Whether a checkpoint would copy a log that does not belong to the database, or that has holes.
    pub const fn forbids_checkpoint(self) -> bool {
        matches!(self, Self::Overwritten | Self::LogTruncated | Self::Truncated)
    }

    /// Returns what happened to the files of the database at `path`.
    pub fn describe(self, path: &Path) -> String {
        let path = path.display();
        let happened = match self {
            Self::Gone => "the database PATH was deleted or renamed",
            Self::Replaced => "the database PATH was replaced by another file",
            Self::Overwritten => "the database PATH was overwritten",
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
    marks: [[u8; 4]; 2],
    /// `-wal`. SQLite has no locks on it.
    wal: File,
    /// `-shm`. It is closed after every connection: closing it drops their locks on it.
    index: File,
}

impl Locks {
    /// Locks the database for this process.
    pub fn take(path: &Path) -> Result<Self> {
        let lock = open_lock(&beside(path, ".lock"))?;
        let database = OpenOptions::new().read(true).write(true).open(path);
        let database =
            database.with_context(|| format!("the database {} cannot be opened", path.display()))?;
        if let Err(error) = lock_both(path, &database, &lock) {
            unlock_file(&database);
            // Closing it would drop the locks of another connection of this process.
            std::mem::forget(database);
            return Err(error);
        }
        Ok(Self { database, lock })
    }

    /// Returns the damage that an earlier process noted, if any.
    pub fn damage(&self) -> Option<String> {
        let mut text = [0; 1024];
        let length = self.lock.read_at(&mut text, 0).unwrap_or_default();
        (length > 0).then(|| String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// Removes the note about damage.
    pub fn clear_damage(&self) -> io::Result<()> {
        self.lock.set_len(0)
    }

    /// Remembers the files of the database that SQLite has opened. `mark` is its `application_id`.
    pub fn watch(self, path: &Path, mark: i32) -> Result<Files> {
        let identity = |suffix| {
            let path = beside(path, suffix);
            identity(&path)?.with_context(|| format!("{} is missing", path.display()))
        };
        let log = [identity("-wal")?, identity("-shm")?];
        let marks = [read_mark(&self.database).unwrap_or_default(), mark.to_be_bytes()];
        let (wal, index) = (File::open(beside(path, "-wal"))?, File::open(beside(path, "-shm"))?);
        Ok(Files { path: path.to_owned(), locks: self, log, marks, wal, index })
    }
}

impl Files {
    /// Compares the open files with their names. A name that cannot be read shows nothing.
    pub fn check(&self) -> Result<(), Fault> {
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
        self.check_sizes()?;
        let lock = self.locks.lock.metadata().map(|lock| (lock.dev(), lock.ino()));
        match (identity(&beside(&self.path, ".lock")), lock) {
            (Ok(found), Ok(lock)) if found != Some(lock) => Err(Fault::Lock),
            _ => Ok(()),
        }
    }

    /// Compares the log and the size of the database with what the index of the log says. The size of the log is not enough:
    /// the next commit after a truncation writes behind a hole. So samples of its frames are compared as well.
    ///
    /// It is correct also while this or another process commits or checkpoints. The index is changed after the frames are
    /// written, before the log is truncated, and before and after a checkpoint writes the database. So an index that is the same before and
    /// after the comparison describes both files.
    pub fn check_sizes(&self) -> Result<(), Fault> {
        let Some(index) = LogIndex::read(&self.index) else { return Ok(()) };
        let is_whole = index.describes(&self.wal);
        let database = index.is_at_rest().then(|| database_sizes(&self.locks.database)).flatten();
        if LogIndex::read(&self.index).as_ref() != Some(&index) {
            return Ok(());
        }
        match database {
            _ if !is_whole => Err(Fault::LogTruncated),
            Some((size, needed)) if size < needed => Err(Fault::Truncated),
            Some(_) | None => Ok(()),
        }
    }

    /// Whether the header has the mark, or cannot be read.
    pub fn is_marked(&self) -> bool {
        read_mark(&self.locks.database).is_none_or(|mark| self.marks.contains(&mark))
    }

    /// Saves what can be saved after `fault`, and returns a sentence that says what happened, where the data is, and
    /// what to do. `empty_log` copies the log into the open file.
    pub fn rescue(&self, fault: Fault, empty_log: impl FnOnce() -> Result<(), String>) -> String {
        let path = self.path.display();
        let nothing_lost =
            || "nothing is lost: start again, and leave the files beside the database alone".to_owned();
        let rescued = match fault {
            Fault::Overwritten => self.set_log_aside(),
            Fault::Gone | Fault::Replaced if self.is_covered() => {
                return format!(
                    "the folder of the database {path} is no longer the one that was opened: another file system is \
                     mounted over it. Nothing is lost: unmount it, and start again"
                );
            }
            Fault::LogTruncated => Ok(format!(
                "the commits that it held are lost. The next start opens the database without them; restore a backup as \
                 {path} if you have a newer one"
            )),
            Fault::Truncated => Ok(format!(
                "restore a backup as {path}, or copy what is readable with `sqlite3 {path} .recover | sqlite3 new.db`"
            )),
            Fault::Gone | Fault::Replaced => empty_log().and_then(|()| self.keep_open_file()),
            Fault::Log => empty_log().map(|()| nothing_lost()),
            // The next start reads the log.
            Fault::Index | Fault::Lock => Ok(nothing_lost()),
        };
        let rescued = rescued.unwrap_or_else(|error| {
            format!("its contents could not be saved ({error}): restore a backup as {path}, and start again")
        });
        format!("{}; {rescued}", fault.describe(&self.path))
    }

    /// Whether the open file still has the name of the database, below another file system.
    fn is_covered(&self) -> bool {
        let database = &self.locks.database;
        let link = fs::read_link(format!("/proc/self/fd/{}", database.as_raw_fd()));
        database.metadata().is_ok_and(|open| open.nlink() > 0) && link.is_ok_and(|link| link == self.path)
    }

    /// Says where the open file is. If it has no name, copies it to a new file first.
    fn keep_open_file(&self) -> Result<String, String> {
        let path = self.path.display();
        let database = &self.locks.database;
        let names = database.metadata().map_err(|error| error.to_string())?.nlink();
        let (what, kept) = if names == 0 {
            ("saved", self.copy().map_err(|error| error.to_string())?)
        } else {
            // The kernel knows the new name.
            let link = format!("/proc/self/fd/{}", database.as_raw_fd());
            ("now", fs::read_link(link).unwrap_or_else(|_| "the renamed file".into()))
        };
        Ok(format!(
            "all of its contents are {what} in {}: to go on with them, stop the service, delete {path}-wal and \
             {path}-shm, and rename that file to {path}",
            kept.display()
        ))
    }

    /// Copies the open file to a new file beside it.
    fn copy(&self) -> io::Result<PathBuf> {
        let names = (1..=COPIES_MAX).map(|n| beside(&self.path, &format!(".saved-{n}")));
        let create = |path: PathBuf| match new_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => None,
            made => Some(made.map(|file| (path, file))),
        };
        let (path, mut copy) = names.into_iter().find_map(create).ok_or(io::ErrorKind::AlreadyExists)??;
        let (mut buffer, mut at) = (vec![0; 1 << 20], 0);
        let copied = loop {
            match self.locks.database.read_at(&mut buffer, at) {
                Ok(0) => break copy.sync_all(),
                Ok(length) => {
                    at += length as u64;
                    if let Err(error) = copy.write_all(&buffer[..length]) {
                        break Err(error);
                    }
                }
                Err(error) => break Err(error),
            }
        };
        if copied.is_err() {
            let _ = fs::remove_file(&path);
        }
        copied.map(|()| path)
    }

    /// Renames the log of a database that was overwritten.
    fn set_log_aside(&self) -> Result<String, String> {
        let aside = beside(&self.path, "-wal.old");
        fs::rename(beside(&self.path, "-wal"), &aside).map_err(|error| error.to_string())?;
        Ok(format!(
            "the log of its old contents was renamed to {}, so the next start reads the new contents alone. Copy them \
             again, because parts may be overwritten, and stop the service before you do",
            aside.display()
        ))
    }

    /// Notes damage of the database for the next start.
    pub fn note_damage(&self, damage: &str) {
        let noted =
            self.locks.lock.set_len(0).and_then(|()| self.locks.lock.write_all_at(damage.as_bytes(), 0));
        if noted.and_then(|()| self.locks.lock.sync_all()).is_err() {
            tracing::warn!("the damage could not be noted for the next start");
        }
    }

    /// Releases the locks. The descriptor of the database stays open as long as a connection.
    pub fn release(&self) {
        // The database first: the process that gets the lock of the file beside it gets both.
        unlock_file(&self.locks.database);
        let _ = flock(&self.locks.lock, FlockOperation::Unlock);
    }
}

/// The header of `-shm` (<https://sqlite.org/walformat.html>): the state of the log.
#[derive(Debug, PartialEq, Eq)]
struct LogIndex {
    page_size: u64,
    /// Number of pages in the log.
    frames: u32,
    /// Random number of the current contents of the log. The log and each of its frames repeat it.
    salt: [u8; 8],
    /// Number of pages of the log that are copied into the database.
    copied: u32,
    /// Number of pages of the log that the last checkpoint began to copy.
    to_copy: u32,
}

impl LogIndex {
    /// Returns `None` for a header that cannot be read or is being written: then its two copies differ.
    fn read(index: &File) -> Option<Self> {
        let mut header = [0; 132];
        index.read_exact_at(&mut header, 0).ok()?;
        if header[..48] != header[48..96] || header[12] == 0 {
            return None;
        }
        let number = |at: usize| header[at..at + 4].try_into().ok().map(u32::from_ne_bytes);
        let page_size = u64::from(u16::from_ne_bytes([header[14], header[15]]));
        // 65,536 is stored as 1.
        let page_size = if page_size == 1 { 65_536 } else { page_size };
        Some(Self {
            page_size,
            frames: number(16)?,
            salt: header[32..40].try_into().ok()?,
            copied: number(96)?,
            to_copy: number(128)?,
        })
    }

    /// Whether the log has this salt at its start and in samples of its frames: the last, those 1, 2, 4 … before it,
    /// and the first. A hole contains one if fewer frames than it has pages follow it. What cannot be read shows nothing.
    fn describes(&self, log: &File) -> bool {
        if self.frames == 0 {
            return true;
        }
        let has_salt = |at: u64| {
            let mut salt = [0; 8];
            match log.read_exact_at(&mut salt, at) {
                Ok(()) => salt == self.salt,
                Err(error) => error.kind() != io::ErrorKind::UnexpectedEof,
            }
        };
        let samples = (0..32).map_while(|n| self.frames.checked_sub(1 << n)).chain([self.frames]);
        // Each frame has a header of 24 bytes; the log has one of 32.
        let at = |frame: u32| 32 + u64::from(frame.saturating_sub(1)) * (24 + self.page_size) + 8;
        has_salt(16) && samples.filter(|frame| *frame > 0).chain([1]).all(|frame| has_salt(at(frame)))
    }

    /// Whether no checkpoint is writing to the database, or was interrupted.
    const fn is_at_rest(&self) -> bool {
        self.copied == self.to_copy
    }
}

/// Returns the size of the database, and the size that its header says. A checkpoint writes the header first.
fn database_sizes(database: &File) -> Option<(u64, u64)> {
    let mut header = [0; 32];
    database.read_exact_at(&mut header, 0).ok()?;
    let page_size = u64::from(u16::from_be_bytes([header[16], header[17]]));
    let page_size = if page_size == 1 { 65_536 } else { page_size };
    let pages = u32::from_be_bytes([header[28], header[29], header[30], header[31]]);
    Some((database.metadata().ok()?.len(), u64::from(pages) * page_size))
}

/// Refuses to make a new database where the contents of a deleted or overwritten one were saved: a supervisor starts the
/// program again before a person has read what to do.
pub fn refuse_lost_database(path: &Path) -> Result<()> {
    if path.metadata().is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    // A link whose target is missing: the copies lie beside the target.
    let target = fs::read_link(path)
        .map_or_else(|_| path.to_owned(), |target| path.parent().unwrap_or(Path::new("")).join(target));
    let path = target.display();
    let saved =
        (1..=COPIES_MAX).map(|n| beside(&target, &format!(".saved-{n}"))).rfind(|saved| saved.exists());
    if let Some(saved) = saved {
        bail!(
            "there is no database {path}, but its contents were saved in {saved} when it was deleted or replaced: to go \
             on with them, delete {path}-wal and {path}-shm, and rename {saved} to {path}; to begin with an empty \
             database, delete or move {saved}",
            saved = saved.display()
        );
    }
    let log = beside(&target, "-wal.old");
    if log.exists() {
        bail!(
            "there is no database {path}, but the log of an overwritten one is in {log}: restore a backup as {path}; to \
             begin with an empty database, delete or move {log}",
            log = log.display()
        );
    }
    Ok(())
}

/// Refuses a file that is a mount point of its own: its log would lie elsewhere.
pub fn refuse_mount_point(path: &Path) -> Result<()> {
    if let (Some(file), Some(folder)) = (mount(path), path.parent().and_then(mount))
        && file != folder
    {
        bail!(
            "{0} is mounted as a single file, so its log {0}-wal would lie outside of that mount and be lost with the \
             container; mount the folder that holds the database",
            path.display()
        );
    }
    Ok(())
}

/// Returns the number of the mount that holds a file, if the kernel reports it (5.8).
#[cfg(target_os = "linux")]
fn mount(path: &Path) -> Option<u64> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok()?;
    (found.stx_mask & StatxFlags::MNT_ID.bits() != 0).then_some(found.stx_mnt_id)
}

#[cfg(not(target_os = "linux"))]
fn mount(_path: &Path) -> Option<u64> {
    None
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
/// start.
fn open_lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o600).open(path);
    let file = file.with_context(|| {
        let remedy = match fs::metadata(path) {
            Ok(found) if found.is_file() => {
                format!(
                    "cannot be opened: it belongs to the user with number {}; run ringback as that user, or \
                     delete it while no ringback uses the database",
                    found.uid()
                )
            }
            Ok(_) => "is not a file; delete or rename it".to_owned(),
            Err(_) => "cannot be created; is the folder there and writable?".to_owned(),
        };
        format!("{} {remedy}", path.display())
    })?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        // A file of another owner stays as it is.
        let _ = file.set_permissions(fs::Permissions::from_mode(0o600));
    }
    Ok(file)
}

/// Creates a file with access for its owner only.
fn new_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}

/// Returns the path with `suffix` appended to its name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the identity of the file with this name; `None` if there is none.
fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns the mark in the header of a database; zeros if it has no header, `None` if it cannot be read.
fn read_mark(database: &File) -> Option<[u8; 4]> {
    let mut header = [0; MARK_AT + 4];
    let length = database.read_at(&mut header, 0).ok()?;
    let mark = header[MARK_AT..].try_into().ok()?;
    Some(if length == header.len() && header.starts_with(MAGIC) { mark } else { [0; 4] })
}
