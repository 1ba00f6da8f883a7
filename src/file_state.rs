//! The state of files that others replace while the process runs, compared without reading them.
//!
//! A time stamp alone is not enough: a file can be replaced by an older one, and two changes within one tick of the
//! file system's clock have the same time. So the state has the inode as well, and a state that was taken within
//! [`FRESH`] seconds of a change counts as changed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::domain::Timestamp;

/// Time after a change in which a further one may have the same time stamp, in seconds.
const FRESH: i64 = 2;

/// The state of some files and folders. A folder changes when a file is added, removed or replaced in it.
#[derive(Debug, Default)]
pub struct FileState {
    /// Device, inode, size, and the times of the last changes, of each file that exists.
    files: Vec<Option<[i64; 7]>>,
    is_fresh: bool,
}

impl FileState {
    /// Takes the state of the files, with symbolic links followed. It must be taken before the files are read.
    pub fn of<P: AsRef<Path>>(paths: impl IntoIterator<Item = P>, now: Timestamp) -> Self {
        let metadata = paths.into_iter().map(|path| fs::metadata(path).ok()).collect::<Vec<_>>();
        let state = |file: &fs::Metadata| {
            let (device, inode, size) =
                (file.dev().cast_signed(), file.ino().cast_signed(), file.size().cast_signed());
            [device, inode, size, file.ctime(), file.ctime_nsec(), file.mtime(), file.mtime_nsec()]
        };
        Self {
            is_fresh: metadata.iter().flatten().any(|file| file.ctime() >= now.seconds() - FRESH),
            files: metadata.iter().map(|file| file.as_ref().map(state)).collect(),
        }
    }

    /// Returns whether the files may have changed since their state was `read`.
    pub fn differs(&self, read: &Self) -> bool {
        read.is_fresh || self.files != read.files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_removed_or_recent_file_has_another_state() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        // After the year 2100, so that no file is fresh.
        let state = || FileState::of([&file], Timestamp::from_millis(5_000_000_000_000));
        let absent = state();
        fs::write(&file, "1").unwrap();
        let first = state();
        assert!(first.differs(&absent) && !state().differs(&first));
        fs::write(&other, "2").unwrap();
        fs::rename(&other, &file).unwrap();
        let replaced = state();
        assert!(replaced.differs(&first));
        fs::remove_file(&file).unwrap();
        assert!(state().differs(&replaced) && !state().differs(&absent));
        fs::write(&file, "3").unwrap();
        let fresh = FileState::of([&file], Timestamp::from_millis(0));
        assert!(state().differs(&fresh));
    }
}
