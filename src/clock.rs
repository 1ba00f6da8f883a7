//! Time as a parameter.
//!
//! The core takes `now`; the shell takes a [`Clock`]. Nothing else in the crate reads a clock
//! (`clippy.toml` forbids it), so a test can hold time still and move it by hand, and what the
//! program does at a given moment can be run again.
//!
//! All times are wall-clock milliseconds. A wall clock can jump, so a sleep is never one long
//! timer: it is cut into slices of at most [`SLICE`], and after each the clock is asked again.
//! A jump forward is noticed within a slice. A jump backward makes a sleep longer by as much; those who
//! keep plans are told of it ([`Clock::set_back`]) and move them.

#![expect(clippy::disallowed_methods, reason = "this is the one module that may read the machine's clocks")]

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::domain::Timestamp;

/// The longest single timer: how late a jump of the wall clock is noticed.
const SLICE: Duration = Duration::from_secs(1);

/// Where time comes from: the machine, or a hand that moves it.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's wall clock.
    System,
    /// A clock that stands still until it is moved.
    Manual(ManualClock),
}

impl Clock {
    /// The time now.
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(clock) => *clock.time.borrow(),
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
                let mut time = clock.time.subscribe();
                // The sender lives in `clock`, so waiting cannot fail.
                let _ = time.wait_for(|now| *now >= until).await;
            }
        }
    }

    /// Returns when the clock was set back, by more than a slice.
    pub async fn set_back(&self) {
        match self {
            Self::System => loop {
                let before = self.now();
                tokio::time::sleep(SLICE).await;
                if self.now() < before {
                    return;
                }
            },
            Self::Manual(clock) => {
                let mut time = clock.time.subscribe();
                loop {
                    let before = *time.borrow_and_update();
                    // As above.
                    let _ = time.changed().await;
                    if *time.borrow() < before {
                        return;
                    }
                }
            }
        }
    }

    /// Returns after `span`.
    pub async fn sleep(&self, span: Duration) {
        self.sleep_until(self.now().plus(span)).await;
    }

    /// Runs `work` for at most `limit`; `None` when the time is up and the work was dropped.
    pub async fn timeout<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.deadline(limit) => None,
        }
    }

    /// A deadline is a span, not a moment: on the machine's clock it is measured by the monotonic
    /// timer, so that a jump of the wall clock cuts no exchange short.
    async fn deadline(&self, limit: Duration) {
        match self {
            Self::System => tokio::time::sleep(limit).await,
            Self::Manual(_) => self.sleep(limit).await,
        }
    }

    /// A stopwatch, for durations that are shown to people.
    pub fn stopwatch(&self) -> Stopwatch {
        match self {
            Self::System => Stopwatch::System(std::time::Instant::now()),
            Self::Manual(clock) => Stopwatch::Manual(clock.clone(), self.now()),
        }
    }
}

/// Measures how long something took.
#[derive(Debug)]
pub enum Stopwatch {
    /// By the monotonic clock.
    System(std::time::Instant),
    /// By the hand-moved clock.
    Manual(ManualClock, Timestamp),
}

impl Stopwatch {
    /// The time since it was started.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::System(start) => start.elapsed(),
            Self::Manual(clock, start) => clock.time.borrow().since(*start),
        }
    }
}

/// A clock that a test moves.
#[derive(Clone, Debug)]
pub struct ManualClock {
    time: Arc<watch::Sender<Timestamp>>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn at(start: Timestamp) -> Self {
        Self { time: Arc::new(watch::Sender::new(start)) }
    }

    /// Moves time forward and wakes every sleeper whose time has come.
    pub fn advance(&self, span: Duration) {
        self.time.send_modify(|now| *now = now.plus(span));
    }

    /// Sets the time, forward or back.
    pub fn set(&self, to: Timestamp) {
        self.time.send_replace(to);
    }
}
