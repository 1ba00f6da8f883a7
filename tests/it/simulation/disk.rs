//! The disk of the simulated machine, and its states after each commit.
//!
//! While the application runs, SQLite only appends to the log: the start has emptied it, and a checkpoint follows after
//! 8,000 pages, which no simulation writes. So the file and the first bytes of the log are the disk as it was after any
//! earlier commit. A crash *between any two writes* needs no hook in the program: the application is ended, and the log
//! is cut behind a commit. What the world saw after that commit is forgotten as well ([`super::world`]).

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Size of the header of the log.
const HEADER: usize = 32;

/// Size of the header of a frame.
const FRAME_HEADER: usize = 24;

/// The files of a running application.
pub struct Disk {
    path: PathBuf,
    /// The database. It is opened before SQLite opens it and closed after SQLite has closed it: closing it in between
    /// would drop SQLite's locks.
    database: File,
}

/// A copy of the files.
pub struct Image {
    database: Vec<u8>,
    log: Vec<u8>,
    note: Vec<u8>,
    /// End of each commit in the log, in bytes.
    commits: Vec<u64>,
}

/// A moment between two commits.
#[derive(Clone, Copy, Debug)]
pub struct CrashPoint {
    /// Length of the log after the last commit that is on disk, in bytes.
    pub end: u64,
    /// Length of the log after the commit that did not happen; `u64::MAX` if there was none.
    pub next: u64,
}

impl CrashPoint {
    /// Whether something that was seen when the log had this length was before the crash.
    pub fn includes(self, written: u64) -> bool {
        written < self.next
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Returns the length of the log of a database. Every observation of the world is stamped with it.
pub fn written(database: &Path) -> u64 {
    beside(database, "-wal").metadata().map_or(0, |log| log.len())
}

impl Disk {
    /// Opens the files before a start.
    pub fn before_start(path: &Path) -> Self {
        Self { path: path.to_owned(), database: File::open(path).unwrap() }
    }

    /// Copies the files of a running application.
    pub fn image(&self) -> Image {
        let mut database = vec![0; usize::try_from(self.database.metadata().unwrap().len()).unwrap()];
        self.database.read_exact_at(&mut database, 0).unwrap();
        let log = fs::read(beside(&self.path, "-wal")).unwrap();
        let note = fs::read(beside(&self.path, ".lock")).unwrap();
        let commits = commits(&log);
        Image { database, log, note, commits }
    }
}

impl Image {
    /// Returns every moment at which the machine could have crashed since the log had the length `since`.
    pub fn crash_points(&self, since: u64) -> Vec<CrashPoint> {
        let first = self.commits.partition_point(|end| *end <= since);
        let ends = std::iter::once(first.checked_sub(1).map_or(0, |last| self.commits[last]));
        let ends = ends.chain(self.commits[first..].iter().copied());
        let nexts = self.commits[first..].iter().copied().chain([u64::MAX]);
        ends.zip(nexts).map(|(end, next)| CrashPoint { end, next }).collect()
    }

    /// Leaves the files as a crash at `point` does, with up to `torn` bytes of the write that was in progress.
    pub fn restore(&self, path: &Path, point: CrashPoint, torn: u64) {
        // A new file: a reader of the ended application may still have the old one open.
        let new = beside(path, ".new");
        fs::write(&new, &self.database).unwrap();
        fs::rename(&new, path).unwrap();
        let last = self.log.len() as u64;
        let torn = (point.end + torn).min(point.next.saturating_sub(1)).min(last);
        let kept = usize::try_from(if point.next == u64::MAX { point.end } else { torn }).unwrap();
        let _ = fs::remove_file(beside(path, "-wal"));
        fs::write(beside(path, "-wal"), &self.log[..kept]).unwrap();
        // The kernel's copy of the index is lost with the machine, and SQLite makes it again.
        let _ = fs::remove_file(beside(path, "-shm"));
        fs::write(beside(path, ".lock"), &self.note).unwrap();
    }
}

/// Returns the end of each commit in a log: of each frame that has the size of the database.
fn commits(log: &[u8]) -> Vec<u64> {
    let number = |at: usize| log.get(at..at + 4).map(|bytes| u32::from_be_bytes(bytes.try_into().unwrap()));
    let Some(page) = number(8) else { return Vec::new() };
    let frame = FRAME_HEADER + page as usize;
    let salt = log.get(16..24);
    let mut ends = Vec::new();
    let mut at = HEADER;
    while at + frame <= log.len() && log.get(at + 8..at + 16) == salt {
        at += frame;
        if number(at - frame + 4) != Some(0) {
            ends.push(at as u64);
        }
    }
    ends
}
