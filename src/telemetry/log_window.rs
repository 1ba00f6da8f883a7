//! A limit of log lines about a fault that repeats: a few a minute.
//!
//! While a disk is full, a server is away or descriptors are short, all that needs them fails for the same reason. A
//! line for each would fill the log, perhaps on the same disk. So the first, tenth, hundredth … of a minute is logged,
//! with the number so far.

use std::time::Duration;

use crate::domain::Timestamp;

/// The time in which failures are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// The failures of one kind in the current minute.
#[derive(Debug, Default)]
pub struct LogWindow {
    start: Timestamp,
    count: u64,
}

impl LogWindow {
    /// Counts a failure. Returns the number in this minute if a line reports it.
    pub fn count(&mut self, now: Timestamp) -> Option<u64> {
        // Also after the clock was set back.
        if now >= self.start.plus(WINDOW) || now < self.start {
            *self = Self { start: now, count: 0 };
        }
        self.count += 1;
        (10_u64.pow(self.count.ilog10()) == self.count).then_some(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_logged_at_powers_of_ten_within_a_minute() {
        let mut window = LogWindow::default();
        let at = |seconds: i64| Timestamp::from_millis(1_771_426_800_000 + seconds * 1_000);
        let logged: Vec<u64> = (0..1_500).filter_map(|n| window.count(at(n / 30))).collect();
        assert_eq!(logged, [1, 10, 100, 1_000]);
        assert_eq!(window.count(at(60)), Some(1));
        assert_eq!(window.count(at(-3_600)), Some(1), "after the clock was set back");
    }
}
