//! Time as a parameter.
//!
//! Pure code takes `now`; code with I/O takes a [`Clock`]. No other module reads a clock (`clippy.toml`
//! forbids it). A test can therefore stop time, move it, and repeat what the program does at a given moment.
//!
//! All times are wall-clock milliseconds. A wall clock can jump, so a sleep is never one long timer: it
//! consists of slices of at most [`SLICE`], and the clock is read again after each.
//!
//! - A jump forward is detected within one slice.
//! - A jump backward makes a sleep longer by the size of the jump. The components that keep a schedule are
//!   woken ([`Clock::set_back`]), measure the jump ([`SetBackDetector`]) and move their schedule.

#![expect(clippy::disallowed_methods, reason = "this is the only module that may read the machine's clocks")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::domain::Timestamp;

/// Longest single timer, and with it the longest delay until a jump of the wall clock is detected.
const SLICE: Duration = Duration::from_secs(1);

/// Smallest jump backward that counts. A smaller one is a correction of the clock.
const MIN_JUMP: Duration = Duration::from_secs(1);

/// Source of the current time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's wall clock.
    System,
    /// A clock that a test moves.
    Manual(ManualClock),
}

impl Clock {
    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(clock) => *clock.0.borrow(),
        }
    }

    /// Returns once `now()` has reached `until`.
    pub async fn sleep_until(&self, until: Timestamp) {
        match self {
            Self::System => loop {
                let left = until.since(self.now());
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(SLICE)).await;
            },
            Self::Manual(clock) => {
                let mut time = clock.0.subscribe();
                // The sender lives in `clock`, so waiting cannot fail.
                let _ = time.wait_for(|now| *now >= until).await;
            }
        }
    }

    /// Returns when the clock was set back by more than [`SLICE`].
    pub async fn set_back(&self) {
        let mut manual = match self {
            Self::System => None,
            Self::Manual(clock) => Some(clock.0.subscribe()),
        };
        loop {
            let before = self.now();
            match &mut manual {
                None => tokio::time::sleep(SLICE).await,
                // The sender lives in `self`, so waiting cannot fail.
                Some(time) => _ = time.changed().await,
            }
            if self.now() < before {
                return;
            }
        }
    }

    /// Returns after `span`.
    pub async fn sleep(&self, span: Duration) {
        self.sleep_until(self.now().plus(span)).await;
    }

    /// Runs `work` for at most `limit`. Returns `None` if the work did not finish in time and was dropped.
    pub async fn timeout<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.deadline(limit) => None,
        }
    }

    /// Returns after `limit`, measured by the monotonic timer of the machine, so that a jump of the wall clock
    /// ends no exchange early.
    pub async fn deadline(&self, limit: Duration) {
        match self {
            Self::System => tokio::time::sleep(limit).await,
            Self::Manual(_) => self.sleep(limit).await,
        }
    }

    /// Starts a stopwatch, for durations that are shown to people.
    pub fn stopwatch(&self) -> Stopwatch {
        match self {
            Self::System => Stopwatch::System(std::time::Instant::now()),
            Self::Manual(clock) => Stopwatch::Manual(clock.clone(), self.now()),
        }
    }
}

/// Sleeps between the retries of `backon`.
impl backon::Sleeper for Clock {
    type Sleep = Pin<Box<dyn Future<Output = ()> + Send>>;

    fn sleep(&self, span: Duration) -> Self::Sleep {
        let clock = self.clone();
        Box::pin(async move { Self::sleep(&clock, span).await })
    }
}

/// Detects that the clock was set back between two readings.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetBackDetector {
    /// Last reading. It is set to the current time after the schedule was moved by the jump.
    pub last: Timestamp,
}

impl SetBackDetector {
    /// Returns by how much the clock was set back since the last reading; `None` if it was not, or by less
    /// than [`MIN_JUMP`].
    pub fn jump(&self, now: Timestamp) -> Option<Duration> {
        Some(self.last.since(now)).filter(|jump| *jump >= MIN_JUMP)
    }

    /// Records a reading, unless the clock was set back: [`Self::jump`] then continues to report the jump.
    pub fn advance(&mut self, now: Timestamp) {
        self.last = self.last.max(now);
    }
}

/// Measures a duration.
#[derive(Debug)]
pub enum Stopwatch {
    /// By the monotonic clock of the machine.
    System(std::time::Instant),
    /// By the manual clock.
    Manual(ManualClock, Timestamp),
}

impl Stopwatch {
    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::System(start) => start.elapsed(),
            Self::Manual(clock, start) => clock.0.borrow().since(*start),
        }
    }
}

/// A clock that a test moves.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<Timestamp>>);

impl ManualClock {
    /// Creates a clock that is stopped at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self(Arc::new(watch::Sender::new(start)))
    }

    /// Moves the time forward and wakes every sleeper that is due.
    pub fn advance(&self, span: Duration) {
        self.0.send_modify(|now| *now = now.plus(span));
    }

    /// Sets the time, forward or back.
    pub fn set(&self, to: Timestamp) {
        self.0.send_replace(to);
    }
}
