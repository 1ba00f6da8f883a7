//! The state of files that others replace while the process runs, compared without reading them.
//!
//! A time stamp alone is not enough: a file can be replaced by an older one, and two changes within one tick of the
//! file system's clock have the same time. So the state has the inode as well, and a state that was taken within
//! [`FRESH`] seconds of a change counts as changed.
//!
//! **A file can be on a network mount that hangs.** Then even its state cannot be taken. So [`FileValue`] compares and
//! reads its files on a thread of their own, one at a time, and everything else uses the old value meanwhile. It is no
//! thread of the asynchronous runtime: the end of a command would wait for it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Stopwatch};
use crate::domain::Timestamp;

/// Minimum time between two comparisons of the files of a [`FileValue`].
pub const CHECK_INTERVAL: Duration = Duration::from_secs(1);

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

/// How a value is read from its files. Both functions may block.
pub struct Source<T> {
    /// Takes the state of the files.
    pub state: Box<dyn Fn() -> FileState + Send + Sync>,
    /// Reads the value; `None` if the files have none at present.
    pub read: Box<dyn Fn() -> Option<T> + Send + Sync>,
}

/// A value that is read from files, and read again when they change.
pub struct FileValue<T>(Arc<Shared<T>>);

struct Shared<T> {
    source: Source<T>,
    clock: Clock,
    state: Mutex<State<T>>,
    /// Whether the thread runs.
    is_checking: watch::Sender<bool>,
}

struct State<T> {
    value: Arc<T>,
    read: FileState,
    checked: Stopwatch,
}

impl<T: Send + Sync + 'static> FileValue<T> {
    /// Creates a value that was read when its files had the state `read`.
    pub fn new(value: T, read: FileState, source: Source<T>, clock: Clock) -> Self {
        let state = Mutex::new(State { value: Arc::new(value), read, checked: clock.stopwatch() });
        Self(Arc::new(Shared { source, clock, state, is_checking: watch::Sender::new(false) }))
    }

    /// Returns the last value that was read. It never waits for a file.
    pub fn get(&self) -> Arc<T> {
        Arc::clone(&self.0.lock().value)
    }

    /// Starts a comparison of the files, unless one is in progress or was started within [`CHECK_INTERVAL`].
    pub fn check(&self) {
        let mut state = self.0.lock();
        if state.checked.elapsed() < CHECK_INTERVAL || self.0.is_checking.send_replace(true) {
            return;
        }
        state.checked = self.0.clock.stopwatch();
        drop(state);
        let checking = Checking(Arc::clone(&self.0));
        // Without a thread, the closure is dropped, and the next call tries it again.
        let _ = std::thread::Builder::new().name("files".to_owned()).spawn(move || checking.0.check());
    }

    /// Waits until no comparison is in progress.
    pub async fn settled(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.0.is_checking.subscribe().wait_for(|checking| !checking).await;
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self) {
        let current = (self.source.state)();
        if !current.differs(&self.lock().read) {
            return;
        }
        let value = (self.source.read)();
        let mut state = self.lock();
        state.read = current;
        if let Some(value) = value {
            state.value = Arc::new(value);
        }
    }
}

/// A comparison in progress, which ends when this is dropped, also by a panic.
struct Checking<T>(Arc<Shared<T>>);

impl<T> Drop for Checking<T> {
    fn drop(&mut self) {
        self.0.is_checking.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn a_file_that_hangs_leaves_the_old_value_in_use() {
        let time = ManualClock::at(Timestamp::from_millis(0));
        let (started, starts) = channel();
        let (answer, answers) = channel();
        let answers = Mutex::new(answers);
        let read = move || {
            started.send(()).unwrap();
            answers.lock().unwrap().recv().ok()
        };
        // Every file is fresh, so each comparison reads.
        let fresh = || FileState { files: Vec::new(), is_fresh: true };
        let source = Source { state: Box::new(fresh), read: Box::new(read) };
        let value = FileValue::new(1, fresh(), source, Clock::Manual(time.clone()));
        value.check();
        assert!(starts.try_recv().is_err(), "the files are compared once a second");
        for _ in 0..3 {
            time.advance(CHECK_INTERVAL);
            value.check();
            assert_eq!(*value.get(), 1);
        }
        starts.recv().unwrap();
        answer.send(2).unwrap();
        value.settled().await;
        assert_eq!(*value.get(), 2);
        assert!(starts.try_recv().is_err(), "one thread at a time");
        value.check();
        starts.recv().unwrap();
        answer.send(3).unwrap();
        value.settled().await;
        assert_eq!(*value.get(), 3);
    }

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
