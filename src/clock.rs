//! Time as a parameter.
//!
//! Pure code takes `now`; code with I/O takes a [`Clock`]. No other module reads a clock (`clippy.toml`
//! forbids it). A test can therefore stop time, move it, and repeat what the program does at a given moment.
//!
//! There are two kinds of time:
//!
//! - **The wall clock** ([`Timestamp`]) gives the time of day. Rows, schedules that are computed from rows, and
//!   everything that users read follow it. It can jump.
//! - **The monotonic clock** ([`Moment`]) measures spans: sleeps, deadlines, and the age of what is in memory only. It
//!   cannot be set. A span must never become a wall-clock time: after the clock is set back by an hour, a wait of five
//!   seconds would take an hour.
//!
//! [`Clock::sleep_until`] waits for a time of day. It consists of timers of at most [`SLICE`], and the clock is read
//! again after each.
//!
//! - A jump forward is detected within one slice.
//! - A jump backward makes the wait longer by the size of the jump. The components that keep a schedule are
//!   woken ([`Clock::set_back`]), measure the jump ([`SetBackDetector`]) and move their schedule.
//!
//! **Late timers.** A process can stand still while time passes: `SIGSTOP`, `docker pause`, a virtual machine that is
//! moved. All deadlines have passed when it continues, and the answers lie unread in the sockets. To read one takes
//! more than one poll of one future: a connection's task reads, decrypts and parses, and hands the answer on.
//! [`Clock::deadline`] therefore consists of timers of at most [`SLICE`], too, and counts only the time in which the
//! process ran: of a timer that fires late, its span and [`LATE`]. If the last timer was later than that, one more slice
//! follows, but not after two late timers in a row, so that a deadline ends on a machine that is always late. On a loaded
//! machine, some timers are late by more than [`LATE`]: the rest of each delay is added to the deadline, and at most one
//! slice. Every deadline of the program is made by it.

#![expect(clippy::disallowed_methods, reason = "this is the only module that may read the machine's clocks")]

pub mod trust;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::domain::Timestamp;

/// Longest single timer, and with it the longest delay until a jump of the wall clock is detected, and the time that
/// work gets after the process stood still.
const SLICE: Duration = Duration::from_secs(1);

/// Delay of a timer from which the process is taken to have stood still. On a loaded machine, timers are late by some
/// milliseconds.
const LATE: Duration = Duration::from_millis(100);

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
            Self::Manual(clock) => clock.0.borrow().wall,
        }
    }

    /// Returns the current moment of the monotonic clock.
    pub fn moment(&self) -> Moment {
        static ORIGIN: OnceLock<Instant> = OnceLock::new();
        match self {
            Self::System => {
                let now = Instant::now();
                Moment(now.saturating_duration_since(*ORIGIN.get_or_init(|| now)))
            }
            Self::Manual(clock) => Moment(clock.0.borrow().monotonic),
        }
    }

    /// Returns the current time, and a moment of a monotonic clock that also counts the time in which the machine is
    /// suspended, read together. Such moments are compared with each other only.
    pub fn reading(&self) -> (Timestamp, Moment) {
        match self {
            #[cfg(target_os = "linux")]
            Self::System => {
                let since_boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                (self.now(), Moment(Duration::try_from(since_boot).unwrap_or_default()))
            }
            #[cfg(not(target_os = "linux"))]
            Self::System => (self.now(), self.moment()),
            Self::Manual(clock) => {
                let time = clock.0.borrow();
                (time.wall, Moment(time.monotonic))
            }
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
                let _ = time.wait_for(|time| time.wall >= until).await;
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

    /// Returns after `span`, measured by the monotonic clock from this call.
    pub fn sleep(&self, span: Duration) -> impl Future<Output = ()> {
        let (start, until) = (Instant::now(), self.moment().plus(span));
        async move {
            match self {
                // A span can be larger than an `Instant` permits.
                Self::System => tokio::time::sleep(span.saturating_sub(start.elapsed())).await,
                Self::Manual(clock) => {
                    // The sender lives in `clock`, so waiting cannot fail.
                    let _ = clock.0.subscribe().wait_for(|time| Moment(time.monotonic) >= until).await;
                }
            }
        }
    }

    /// Returns once `moment()` has reached `until`.
    pub async fn sleep_until_moment(&self, until: Moment) {
        match self {
            Self::System => tokio::time::sleep(until.since(self.moment())).await,
            Self::Manual(clock) => {
                // The sender lives in `clock`, so waiting cannot fail.
                let _ = clock.0.subscribe().wait_for(|time| Moment(time.monotonic) >= until).await;
            }
        }
    }

    /// Runs `work` for at most `limit`. Returns `None` if the work did not finish in time and was dropped.
    pub async fn timeout<F: Future>(&self, limit: Duration, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            done = work => Some(done),
            () = self.deadline(limit) => None,
        }
    }

    /// Returns after `limit`, measured by the monotonic clock, without the time in which the process stood still.
    pub fn deadline(&self, limit: Duration) -> impl Future<Output = ()> {
        let until = match self {
            Self::System => Duration::ZERO,
            Self::Manual(clock) => clock.0.borrow().running().saturating_add(limit),
        };
        async move {
            match self {
                Self::System => run_down(limit).await,
                Self::Manual(clock) => {
                    let _ = clock.0.subscribe().wait_for(|time| time.running() >= until).await;
                }
            }
        }
    }

    /// Starts a stopwatch, for durations that are shown to people.
    pub fn stopwatch(&self) -> Stopwatch {
        match self {
            Self::System => Stopwatch::System(Instant::now()),
            Self::Manual(clock) => Stopwatch::Manual(clock.clone(), self.moment()),
        }
    }
}

/// Returns after `limit` of time in which the process ran.
async fn run_down(limit: Duration) {
    let (mut left, mut late_in_a_row) = (limit, 0_u32);
    while !left.is_zero() || late_in_a_row == 1 {
        // After a late timer at the end, work gets one more slice.
        let (slice, start) = (if left.is_zero() { limit } else { left }.min(SLICE), Instant::now());
        tokio::time::sleep(slice).await;
        let passed = start.elapsed();
        late_in_a_row = if passed > slice + LATE { late_in_a_row.saturating_add(1) } else { 0 };
        left = left.saturating_sub(passed.min(slice + LATE));
    }
}

/// A moment of the monotonic clock: the time since the first reading of this process. It has a meaning in this process
/// only and is never stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Moment {
    /// Later than every other moment.
    pub const MAX: Self = Self(Duration::MAX);

    /// Returns the time since `earlier`, or zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Returns the moment after `span`.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
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
    System(Instant),
    /// By the manual clock.
    Manual(ManualClock, Moment),
}

impl Stopwatch {
    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        match self {
            Self::System(start) => start.elapsed(),
            Self::Manual(clock, start) => Moment(clock.0.borrow().monotonic).since(*start),
        }
    }
}

/// A clock that a test moves.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<watch::Sender<ManualTime>>);

/// The time of a manual clock.
#[derive(Clone, Copy, Debug)]
struct ManualTime {
    wall: Timestamp,
    /// Time that has passed since the clock was made.
    monotonic: Duration,
    /// The part of it in which the process stood still.
    still: Duration,
}

impl ManualTime {
    fn running(&self) -> Duration {
        self.monotonic.saturating_sub(self.still)
    }
}

impl ManualClock {
    /// Creates a clock that is stopped at `start`.
    pub fn at(start: Timestamp) -> Self {
        let time = ManualTime { wall: start, monotonic: Duration::ZERO, still: Duration::ZERO };
        Self(Arc::new(watch::Sender::new(time)))
    }

    /// Lets time pass, and wakes every sleeper that is due.
    pub fn advance(&self, span: Duration) {
        self.0.send_modify(|time| {
            time.wall = time.wall.plus(span);
            time.monotonic += span;
        });
    }

    /// Lets time pass until the wall clock shows `to`. If `to` is in the past, sets the wall clock back; no time
    /// passes.
    pub fn set(&self, to: Timestamp) {
        self.0.send_modify(|time| {
            time.monotonic += to.since(time.wall);
            time.wall = to;
        });
    }

    /// Sets the wall clock forward or back. No time passes.
    pub fn set_wall(&self, to: Timestamp) {
        self.0.send_modify(|time| time.wall = to);
    }

    /// Lets time pass in which the process stands still, as after `SIGSTOP`.
    pub fn stand_still(&self, span: Duration) {
        self.0.send_modify(|time| {
            time.wall = time.wall.plus(span);
            time.monotonic += span;
            time.still += span;
        });
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Returns how long `work` takes by tokio's paused clock, which only moves when every task waits.
    async fn took(work: impl Future<Output = ()>) -> Duration {
        let start = Instant::now();
        work.await;
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_the_process_stood_still_ends_no_deadline() {
        let mut deadline = std::pin::pin!(Clock::System.deadline(20 * SECOND));
        assert!(deadline.as_mut().now_or_never().is_none());
        tokio::time::advance(45 * SECOND).await;
        assert!(deadline.as_mut().now_or_never().is_none());
        let rest = took(deadline).await;
        assert!((18 * SECOND..21 * SECOND).contains(&rest), "{rest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn work_gets_a_second_after_its_last_timer_was_late() {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let mut work = std::pin::pin!(Clock::System.timeout(SECOND / 2, answered));
        assert!(work.as_mut().now_or_never().is_none());
        tokio::time::advance(45 * SECOND).await;
        assert!(work.as_mut().now_or_never().is_none());
        answer.send(1).expect("it still waits");
        assert_eq!(work.await, Some(Ok(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_on_a_machine_that_is_always_late() {
        let mut deadline = std::pin::pin!(Clock::System.deadline(3 * SECOND));
        assert!(deadline.as_mut().now_or_never().is_none());
        for _ in 0..2 {
            tokio::time::advance(2 * SECOND).await;
            assert!(deadline.as_mut().now_or_never().is_none());
        }
        tokio::time::advance(2 * SECOND).await;
        assert!(deadline.as_mut().now_or_never().is_some());
    }

    /// Every second timer fires 150 ms too late.
    #[tokio::test(start_paused = true)]
    async fn late_timers_of_a_loaded_machine_add_only_their_delay() {
        let mut deadline = std::pin::pin!(Clock::System.deadline(20 * SECOND));
        let start = Instant::now();
        let mut millis = [1_001, 1_151].into_iter().cycle();
        while deadline.as_mut().now_or_never().is_none() {
            tokio::time::advance(Duration::from_millis(millis.next().unwrap_or_default())).await;
        }
        let took = start.elapsed();
        assert!((20 * SECOND..23 * SECOND).contains(&took), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_takes_as_long_as_it_says() {
        for millis in [0, 1, 999, 1_000, 20_500] {
            let limit = Duration::from_millis(millis);
            let took = took(Clock::System.deadline(limit)).await;
            assert!((limit..limit + Duration::from_millis(25)).contains(&took), "{took:?} for {limit:?}");
        }
    }

    #[tokio::test]
    async fn a_sleep_does_not_follow_the_wall_clock() {
        let hour = 3_600 * SECOND;
        let time = ManualClock::at(Timestamp::from_millis(10_000_000));
        let clock = Clock::Manual(time.clone());
        let start = clock.now();
        for jump in [start.plus(hour), start, start.minus(hour)] {
            let (mut sleep, stopwatch) = (std::pin::pin!(clock.sleep(5 * SECOND)), clock.stopwatch());
            let mut deadline = std::pin::pin!(clock.deadline(5 * SECOND));
            assert!(sleep.as_mut().now_or_never().is_none() && deadline.as_mut().now_or_never().is_none());
            time.set_wall(jump);
            assert!(sleep.as_mut().now_or_never().is_none() && deadline.as_mut().now_or_never().is_none());
            time.advance(5 * SECOND);
            assert!(sleep.now_or_never().is_some() && deadline.now_or_never().is_some(), "{jump}");
            assert_eq!(stopwatch.elapsed(), 5 * SECOND);
        }
    }
}
