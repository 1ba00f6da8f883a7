//! Whether the wall clock can be trusted with what cannot be undone: the deletion of old data, and the end of watches.
//!
//! A wall clock that is a month ahead, for a minute, makes all ended data older than its retention, and all watches
//! expire: a virtual machine resumes with a wrong time, a time server is wrong, a battery is empty. Nothing brings
//! deleted data back, and a watch that has ended is not polled again. Everything else that follows the wall clock can
//! wait for its correction or be repeated. So both need evidence that the clock is right:
//!
//! - **While the process runs**, the wall clock must advance like the monotonic one, which cannot be set. If it is more
//!   than [`JUMP`] ahead of what was expected, nothing is deleted, and watches expire by the expected time
//!   ([`ClockTrust::lead`]).
//! - **At the start**, the only evidence is the time at which the last run was noted (`nodes.running_at`: each minute
//!   while a delivery waits, and at each deletion), or in a new database the start itself. If the note
//!   is more than [`DOWNTIME`] old, nothing is deleted: it can be a wrong clock or a long downtime. Either way,
//!   the first deletion comes minutes after the start, when a time server has been asked.
//! - **The doubt ends** when the clock is set back to what was expected, or has been steady: for [`STEADY`] before a
//!   deletion, for [`STEADY_FOR_EXPIRIES`] before an expiry. A clock can also have been wrong before and be right now.
//!   The time in which a machine is suspended or paused counts in both clocks on Linux (`CLOCK_BOOTTIME`), so it is no
//!   jump. The price of a groundless doubt is that old data is kept for a day longer, and that for a quarter of an hour
//!   watches expire late, at most by the jump.
//!
//! A clock that was set back is trusted: less is older than its retention. What this does not detect: a clock that stays
//! wrong for longer than it must be steady, and one that is wrong over two starts, because each start notes its time. An
//! expiry does not doubt the clock of a start.

use std::time::Duration;

use crate::clock::Moment;
use crate::domain::Timestamp;

/// Smallest jump forward that counts. Corrections of a clock are smaller, and every retention is longer.
const JUMP: Duration = Duration::from_secs(5 * 60);

/// Longest time without a note after which a start trusts the clock.
const DOWNTIME: Duration = Duration::from_secs(24 * 3600);

/// Time for which the clock must be steady after a jump before data is deleted.
const STEADY: Duration = Duration::from_secs(24 * 3600);

/// Time for which the clock must be steady after a jump before watches expire by it. Time servers are asked more often.
const STEADY_FOR_EXPIRIES: Duration = Duration::from_secs(15 * 60);

/// What is known of the wall clock. It is described by its *offset*: wall clock minus monotonic clock, in milliseconds.
#[derive(Debug)]
pub struct ClockTrust {
    /// Greatest offset that is trusted.
    trusted_until: i64,
    /// Time for which the clock must be steady after a jump.
    steady: Duration,
    doubt: Option<Doubt>,
}

/// A jump of the clock.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    offset: i64,
    since: Moment,
}

/// Result of [`ClockTrust::judge`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// What cannot be undone can be done.
    Trusted,
    /// The clock has jumped since the last judgement.
    Jumped,
    /// The doubt continues.
    Doubted,
}

impl ClockTrust {
    /// Creates the state of a start at the moment `at`, for deletions. `noted` is the last time at which the service is
    /// known to have run.
    pub fn at_start(noted: Timestamp, at: Moment) -> Self {
        Self { trusted_until: offset(noted.plus(DOWNTIME), at), steady: STEADY, doubt: None }
    }

    /// Creates the state for expiries. The reading of both clocks is trusted.
    pub fn for_expiries(now: Timestamp, at: Moment) -> Self {
        Self { trusted_until: offset(now.plus(JUMP), at), steady: STEADY_FOR_EXPIRIES, doubt: None }
    }

    /// Decides by a reading of both clocks.
    pub fn judge(&mut self, now: Timestamp, at: Moment) -> Judgement {
        let offset = offset(now, at);
        let is_expected = offset <= self.trusted_until;
        let before = self.doubt.filter(|doubt| offset.abs_diff(doubt.offset) <= millis(JUMP).unsigned_abs());
        match before {
            Some(doubt) if !is_expected && at.since(doubt.since) < self.steady => return Judgement::Doubted,
            None if !is_expected => {
                self.doubt = Some(Doubt { offset, since: at });
                return Judgement::Jumped;
            }
            Some(_) | None => {}
        }
        (self.trusted_until, self.doubt) = (offset.saturating_add(millis(JUMP)), None);
        Judgement::Trusted
    }

    /// Returns by how much the clock is ahead of what was expected, and the remaining time of the doubt. `None` if the
    /// last judgement trusted the clock.
    pub fn lead(&self, now: Timestamp, at: Moment) -> Option<(Duration, Duration)> {
        let doubt = self.doubt?;
        let lead = offset(now, at).saturating_sub(self.trusted_until.saturating_sub(millis(JUMP)));
        let lead = Duration::from_millis(u64::try_from(lead).unwrap_or_default());
        Some((lead, self.steady.saturating_sub(at.since(doubt.since))))
    }
}

fn offset(now: Timestamp, at: Moment) -> i64 {
    now.millis().saturating_sub(millis(at.since(Moment::default())))
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Judgement::{Doubted, Jumped, Trusted};
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MONTH: Duration = Duration::from_secs(31 * 24 * 3600);

    /// Both clocks, which a test moves apart.
    struct Clocks(Timestamp, Moment);

    impl Clocks {
        fn new() -> Self {
            Self(Timestamp::from_millis(1_771_000_000_000), Moment::default().plus(HOUR))
        }

        fn pass(&mut self, span: Duration) {
            *self = Self(self.0.plus(span), self.1.plus(span));
        }

        fn judge(&mut self, trust: &mut ClockTrust) -> Judgement {
            self.pass(HOUR);
            trust.judge(self.0, self.1)
        }
    }

    #[test]
    fn a_clock_that_was_set_forward_deletes_nothing_for_a_day() {
        let mut clocks = Clocks::new();
        let mut trust = ClockTrust::at_start(clocks.0, clocks.1);
        assert_eq!(clocks.judge(&mut trust), Trusted);
        clocks.0 = clocks.0.plus(MONTH);
        assert_eq!(clocks.judge(&mut trust), Jumped);
        for _ in 0..23 {
            assert_eq!(clocks.judge(&mut trust), Doubted);
        }
        assert_eq!((clocks.judge(&mut trust), clocks.judge(&mut trust)), (Trusted, Trusted));
        // A second jump during the doubt begins it anew.
        for _ in 0..2 {
            clocks.0 = clocks.0.plus(MONTH);
            assert_eq!((clocks.judge(&mut trust), clocks.judge(&mut trust)), (Jumped, Doubted));
        }
    }

    #[test]
    fn a_clock_that_is_corrected_is_trusted_again_at_once() {
        let mut clocks = Clocks::new();
        let mut trust = ClockTrust::at_start(clocks.0, clocks.1);
        assert_eq!(clocks.judge(&mut trust), Trusted);
        let ahead = clocks.0.plus(MONTH);
        clocks.0 = ahead;
        assert_eq!(clocks.judge(&mut trust), Jumped);
        clocks.0 = clocks.0.minus(MONTH);
        assert_eq!(clocks.judge(&mut trust), Trusted);
        // Set back, also by much, less is old.
        clocks.0 = clocks.0.minus(MONTH);
        assert_eq!(clocks.judge(&mut trust), Trusted);
        // A correction by a minute is no jump.
        clocks.0 = clocks.0.plus(Duration::from_secs(60));
        assert_eq!(clocks.judge(&mut trust), Trusted);
    }

    #[test]
    fn the_lead_of_a_doubted_clock_is_known_until_the_doubt_ends() {
        let mut clocks = Clocks::new();
        let mut trust = ClockTrust::for_expiries(clocks.0, clocks.1);
        clocks.pass(HOUR);
        assert_eq!((trust.judge(clocks.0, clocks.1), trust.lead(clocks.0, clocks.1)), (Trusted, None));
        clocks.0 = clocks.0.plus(MONTH);
        assert_eq!(trust.judge(clocks.0, clocks.1), Jumped);
        assert_eq!(trust.lead(clocks.0, clocks.1), Some((MONTH, STEADY_FOR_EXPIRIES)));
        clocks.pass(Duration::from_secs(60));
        assert_eq!(trust.judge(clocks.0, clocks.1), Doubted);
        assert_eq!(trust.lead(clocks.0, clocks.1), Some((MONTH, Duration::from_secs(14 * 60))));
        clocks.pass(Duration::from_secs(14 * 60));
        assert_eq!((trust.judge(clocks.0, clocks.1), trust.lead(clocks.0, clocks.1)), (Trusted, None));
    }

    #[test]
    fn a_start_long_after_the_last_note_deletes_nothing_for_a_day() {
        for (downtime, first) in [(HOUR, Trusted), (20 * HOUR, Trusted), (48 * HOUR, Jumped), (MONTH, Jumped)]
        {
            let mut clocks = Clocks::new();
            let noted = clocks.0.minus(downtime);
            let mut trust = ClockTrust::at_start(noted, clocks.1);
            assert_eq!(clocks.judge(&mut trust), first, "{downtime:?}");
            for _ in 0..24 {
                clocks.judge(&mut trust);
            }
            assert_eq!(clocks.judge(&mut trust), Trusted, "{downtime:?}");
        }
        // The clock was ahead when the last run was noted.
        let mut clocks = Clocks::new();
        let mut trust = ClockTrust::at_start(clocks.0.plus(MONTH), clocks.1);
        assert_eq!(clocks.judge(&mut trust), Trusted);
    }
}
