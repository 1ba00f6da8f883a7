//! The queue of log lines between the code that logs and the thread that writes to stderr.
//!
//! **Logging never waits.** stderr can be a pipe without a reader: a container runtime whose log driver hangs, a
//! stopped `less`. When the pipe is full, a write to it waits, and so would every thread that logs, and then
//! everything that waits for these threads. So lines are put into a queue, and only one thread writes.
//!
//! - The queue is bounded in bytes. A line that does not fit is dropped and counted: what a service does is worth
//!   more than what it says about it.
//! - A write can also fail. stderr can be non-blocking, because a program that shares the pipe made it so; a full pipe is
//!   then an error, after which the thread waits and writes the rest. After any other error (a closed pipe, a full
//!   disk), the lines that are not written are dropped and counted as well.
//! - When lines can be written again, a line reports how many were dropped; `ringback_log_lines_dropped_total`
//!   counts them, also while nothing can be written.
//! - [`LogQueue::flush`] waits for the thread, for a bounded time, because the end of a process must not wait for a
//!   reader either.
//!
//! The crate `tracing-appender` (0.2) has such a thread. Its queue is bounded in lines and not in bytes, no line
//! reports that others were dropped, and it can be flushed only by ending it. A process that ends because of its
//! database flushes, too.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Maximum size of the lines that wait, in bytes. As many can be in the hands of the thread.
const WAITING_MAX: usize = 1024 * 1024;

/// Size above which the memory of written lines is released, in bytes.
const KEPT_MAX: usize = 64 * 1024;

/// Maximum time for which the end of the process waits until the lines are written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time until a write to a full, non-blocking stderr is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// A queue of lines, and the thread that writes them.
#[derive(Clone, Debug)]
pub struct LogQueue(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Notified when a line arrives, and when the thread has written everything.
    changed: Condvar,
    /// Called for each line that is dropped.
    on_drop: fn(),
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<u8>,
    /// Number of dropped lines that are not reported yet.
    dropped: u64,
    /// Whether the thread is writing.
    writing: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LogQueue {
    /// Starts the thread, which writes to `output`. It calls `report` with the number of dropped lines when it could
    /// write again.
    pub fn start(
        output: impl Write + Send + 'static,
        on_drop: fn(),
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let queue = Self(Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), on_drop }));
        let shared = Arc::clone(&queue.0);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || run(&shared, output, report))?;
        Ok(queue)
    }

    /// Adds a line, or drops it if the queue is full.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.0.lock();
        if state.lines.len() + line.len() > WAITING_MAX {
            state.dropped += 1;
            drop(state);
            (self.0.on_drop)();
            return;
        }
        state.lines.extend_from_slice(line);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Waits until every line is written, for at most [`FLUSH_TIMEOUT`].
    pub fn flush(&self) {
        let is_busy = |state: &mut State| state.writing || !state.lines.is_empty();
        let _ = self.0.changed.wait_timeout_while(self.0.lock(), FLUSH_TIMEOUT, is_busy);
    }
}

/// Adds each write as one line.
impl Write for LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(shared: &Shared, mut output: impl Write, report: impl Fn(u64)) {
    let mut lines = Vec::new();
    loop {
        let state = shared.changed.wait_while(shared.lock(), |state| state.lines.is_empty());
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.lines, &mut lines);
        state.writing = true;
        drop(state);
        // A new line ends the wait early, which does no harm.
        let wait = || drop(shared.changed.wait_timeout(shared.lock(), RETRY_PAUSE));
        let lost = write_lines(&mut output, &lines, wait).split(|byte| *byte == b'\n').skip(1).count();
        (0..lost).for_each(|_| (shared.on_drop)());
        lines.clear();
        lines.shrink_to(KEPT_MAX);
        let mut state = shared.lock();
        state.writing = false;
        state.dropped += lost as u64;
        let dropped = if lost == 0 { std::mem::take(&mut state.dropped) } else { 0 };
        drop(state);
        if dropped > 0 {
            report(dropped);
        }
        shared.changed.notify_all();
    }
}

/// Writes the lines, and calls `wait` while a non-blocking output is full. Returns what cannot be written.
fn write_lines<'a>(output: &mut impl Write, mut lines: &'a [u8], wait: impl Fn()) -> &'a [u8] {
    while !lines.is_empty() {
        match output.write(lines) {
            Ok(0) => break,
            Ok(written) => lines = lines.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(),
            Err(_) => break,
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    static DROPPED: AtomicU64 = AtomicU64::new(0);

    /// A pipe: a write waits until the test reads it.
    struct Pipe(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Pipe {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            self.1.recv().map_err(io::Error::other)?;
            self.0.send(lines.to_vec()).map_err(io::Error::other)?;
            Ok(lines.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    // moby/moby#31540, containerd/containerd#12462: a container whose stderr is not read stands still.
    #[test]
    fn logging_does_not_wait_for_a_reader_and_counts_what_it_drops() {
        let (sender, read) = channel();
        let (reader, permits) = channel();
        let (report, reported) = channel();
        let on_drop = || _ = DROPPED.fetch_add(1, Ordering::Relaxed);
        let pipe = Pipe(sender, permits);
        let queue = LogQueue::start(pipe, on_drop, move |count| report.send(count).expect("a test"));
        let queue = queue.expect("a thread");
        let line = [b'x'; 1024];
        // The pipe is not read: the lines fill the queue, and perhaps the buffer of the thread.
        for _ in 0..4096 {
            queue.push(&line);
        }
        queue.flush();
        let dropped = DROPPED.load(Ordering::Relaxed);
        assert!((2048..=3072).contains(&dropped), "{dropped}");
        let mut written = 0;
        while written < (4096 - dropped) * 1024 {
            reader.send(()).expect("the thread");
            written += read.recv().expect("lines").len() as u64;
        }
        assert_eq!(written, (4096 - dropped) * 1024);
        assert_eq!(reported.recv().expect("a report"), dropped);
        queue.push(b"again\n");
        reader.send(()).expect("the thread");
        assert_eq!(read.recv().expect("a line"), b"again\n");
    }

    /// An output that takes some bytes, and gives these errors one after another.
    struct Failing(Vec<u8>, Vec<io::ErrorKind>);

    impl Write for Failing {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            if let Some(error) = self.1.pop() {
                return Err(error.into());
            }
            let taken = lines.len().min(5);
            self.0.extend_from_slice(&lines[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_non_blocking_stderr_loses_no_line() {
        use io::ErrorKind::{Interrupted, WouldBlock};
        let (mut output, waits) =
            (Failing(Vec::new(), vec![WouldBlock, Interrupted, WouldBlock]), Cell::new(0));
        let left = write_lines(&mut output, b"first\nsecond\n", || waits.set(waits.get() + 1));
        assert_eq!((left, &output.0[..], waits.get()), (&b""[..], &b"first\nsecond\n"[..], 2));
    }

    #[test]
    fn lines_lost_by_a_failed_write_are_counted_and_reported() {
        static LOST: AtomicU64 = AtomicU64::new(0);
        let (sender, read) = channel();
        let (reader, permits) = channel();
        let (report, reported) = channel();
        let on_drop = || _ = LOST.fetch_add(1, Ordering::Relaxed);
        let output = Breaking(Pipe(sender, permits), false);
        let queue = LogQueue::start(output, on_drop, move |count| report.send(count).expect("a test"));
        let queue = queue.expect("a thread");
        // The pipe takes one byte of the three lines, and then fails once.
        queue.push(b"a\nb\nc\n");
        reader.send(()).expect("the thread");
        assert_eq!(read.recv().expect("a byte"), b"a");
        queue.flush();
        assert_eq!(LOST.load(Ordering::Relaxed), 3);
        queue.push(b"again\n");
        reader.send(()).expect("the thread");
        assert_eq!(read.recv().expect("a line"), b"again\n");
        assert_eq!(reported.recv().expect("a report"), 3);
    }

    /// A pipe whose first write takes one byte, and whose second write fails.
    struct Breaking(Pipe, bool);

    impl Write for Breaking {
        fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
            match (self.1, lines.len()) {
                (false, 6) => self.0.write(&lines[..1]),
                (false, _) => {
                    self.1 = true;
                    Err(io::ErrorKind::StorageFull.into())
                }
                (true, _) => self.0.write(lines),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
}
