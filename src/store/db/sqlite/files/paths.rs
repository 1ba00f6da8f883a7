//! Names and identities of the files of a database.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Device and inode of a file.
pub type Identity = (u64, u64);

/// Number of the copies of deleted files that one folder can hold.
const COPIES_MAX: u32 = 100;

/// Size of the header of a log. A log that is not longer holds no commit.
const LOG_HEADER: u64 = 32;

/// Returns the path with `suffix` appended to its name.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the identity of the file with this name; `None` if there is none.
pub fn identity(path: &Path) -> io::Result<Option<Identity>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether there is a log beside the database that holds commits, or may hold some.
pub fn has_log(path: &Path) -> bool {
    match fs::metadata(beside(path, "-wal")) {
        Ok(log) => log.len() > LOG_HEADER,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The names that a copy of a deleted database can have.
pub fn copies(path: &Path) -> impl DoubleEndedIterator<Item = PathBuf> + '_ {
    (1..=COPIES_MAX).map(|n| beside(path, &format!(".saved-{n}")))
}
