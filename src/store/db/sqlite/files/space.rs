//! Free space, and errors that a lack of it causes.

use std::io;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};
use rustix::process::{Resource, geteuid, getrlimit};

/// Free space that a start needs, in megabytes: a new database, its log and its index take less than 1 MB, and the
/// first minutes of its use less than the rest.
const START_MB: u64 = 4;

/// Returns the free space of the file system of `folder` for this user, in bytes.
pub fn free(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    // Some blocks are reserved for root.
    let blocks = if geteuid().is_root() { found.f_bfree } else { found.f_bavail };
    Some(blocks.saturating_mul(found.f_frsize))
}

/// Whether a write failed because the disk is full or the file may not grow further (`ulimit -f`). SQLite reports the
/// second as a write error. Both fail before a commit is complete in the log.
pub fn is_without_space(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DiskFull) || is_beyond_limit(error)
}

fn is_beyond_limit(error: &rusqlite::Error) -> bool {
    extended_code(error) == Some(ffi::SQLITE_IOERR_WRITE) && getrlimit(Resource::Fsize).current.is_some()
}

fn extended_code(error: &rusqlite::Error) -> Option<i32> {
    error.sqlite_error().map(|error| error.extended_code)
}

/// Returns what to do about an error of the start that a lack of space has caused.
pub fn remedy(folder: &Path, error: &anyhow::Error) -> Option<String> {
    let of_sqlite = || error.chain().filter_map(|cause| cause.downcast_ref::<rusqlite::Error>());
    let mut of_system =
        error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    if of_sqlite().any(is_beyond_limit) {
        return Some(
            "a file has reached the limit of its size; raise the limit (`ulimit -f`, LimitFSIZE=), and start again".to_owned(),
        );
    }
    // The index of the log could not grow.
    let lacks_space =
        |error| is_without_space(error) || extended_code(error) == Some(ffi::SQLITE_IOERR_SHMSIZE);
    let is_full = of_sqlite().any(lacks_space)
        || of_system.any(|kind| matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded));
    is_full.then(|| {
        let kilobytes = free(folder).map_or_else(|| "an unknown number of".to_owned(), |free| (free / 1_000).to_string());
        format!(
            "the disk of the folder {} is full ({kilobytes} KB are free). Free at least {START_MB} MB there, and start again",
            folder.display()
        )
    })
}
