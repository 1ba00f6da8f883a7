//! Effects of an observation on a job.
//!
//! A poll without a change writes nothing. The poller must therefore know what is stored. It keeps a [`Known`]
//! for each job, which is small, because there may be a million.
//!
//! **The bytes of progress events are bounded.** One answer of a provider causes a *round* of `job.progress` events: one
//! event for each watch of the job that wants them, and each has the text of the job, up to 64 KiB. The time until the
//! next round is therefore at least [`PROGRESS_EVERY`], and grows with the bytes of the last one. It belongs to the job
//! and not to its watches: a new watch gets the progress with the next round, and causes none. Only events wait for the
//! round. The row of the job, which the API shows, is written every [`PROGRESS_EVERY`].
//!
//! The time and the bytes of the last round are stored with its events, in the same transactions, so a crash does not
//! change the bound. A clock that is set back ends the wait: this costs one round.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{EndingKind, JobStatus, Observation, Timestamp};

/// Shortest time between two writes of the progress alone, and between two rounds of progress events.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Bytes that the progress events of one job take per millisecond on average: 200 KB/s, or 17 GB a day.
const PROGRESS_BYTES_PER_MS: u64 = 200;

/// The last round of a job's progress events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressRound {
    /// Time of the observation that they report.
    pub at: Timestamp,
    /// Bytes that they take in the database.
    pub bytes: u64,
}

impl ProgressRound {
    /// Returns the time from which on the next round may be created.
    fn next_at(self) -> Timestamp {
        self.at.plus(PROGRESS_EVERY.max(Duration::from_millis(self.bytes / PROGRESS_BYTES_PER_MS)))
    }
}

/// What is stored about a job, in the fewest bytes that show whether an observation changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Status as last written.
    pub status: JobStatus,
    /// Progress as last reported by a round of events.
    reported: Option<u8>,
    /// Progress as last written.
    written: Option<u8>,
    /// Time of the last write of another progress; the epoch for a job that was never polled.
    written_at: Timestamp,
    /// Time from which on the next round of progress events may be created.
    next_round_at: Timestamp,
    rest: u64,
}

impl Known {
    /// Creates it from an observation and the last round of progress events, which were read from the store at `now`.
    /// The progress that is stored counts as reported.
    pub fn new(seen: &Observation, round: Option<ProgressRound>, now: Timestamp) -> Self {
        let written_at = if seen.progress.is_some() { now } else { Timestamp::default() };
        // A round in the future means that the clock was set back while no process ran.
        let round = round.map(|round| ProgressRound { at: round.at.min(now), ..round });
        let next_round_at = match round {
            Some(round) => round.next_at(),
            None if seen.progress.is_some() => now.plus(PROGRESS_EVERY),
            None => Timestamp::default(),
        };
        Self {
            status: seen.status,
            reported: seen.progress,
            written: seen.progress,
            written_at,
            next_round_at,
            rest: fingerprint(seen),
        }
    }

    /// Returns what is stored after a change is written.
    #[must_use]
    pub fn after(self, seen: &Observation, progressed: bool, now: Timestamp) -> Self {
        let written_at = if seen.progress == self.written { self.written_at } else { now };
        let known =
            Self { status: seen.status, written: seen.progress, written_at, rest: fingerprint(seen), ..self };
        if !progressed {
            return known;
        }
        Self {
            reported: seen.progress,
            written_at: now,
            ..known.after_round(ProgressRound { at: now, bytes: 0 })
        }
    }

    /// Returns what is stored after a round of progress events is written.
    #[must_use]
    pub fn after_round(self, round: ProgressRound) -> Self {
        Self { next_round_at: round.next_at(), ..self }
    }

    /// Discards what is stored, so that the next poll counts as a change, and the progress as not reported. For a new
    /// watch with progress events. The time of the next round remains: other watches get the events, too.
    pub fn forget(&mut self) {
        (self.reported, self.rest) = (None, 0);
    }
}

/// What an observation means for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing new.
    Nothing,
    /// The job runs, and something has changed.
    Changed {
        /// Whether a progress event is due.
        progressed: bool,
    },
    /// The job has ended.
    Ended(EndingKind),
}

/// Decides what `seen` means for a job about which `known` is stored. A status that moves backwards is a change like
/// any other, because providers put jobs back into their queue.
pub fn observe(known: &Known, seen: &Observation, now: Timestamp) -> Finding {
    if let Some(kind) = seen.status.ending() {
        return Finding::Ended(kind);
    }
    // A progress of 0 is not reported as progress.
    let moved = |from: Option<u8>| seen.progress.is_some_and(|progress| progress != from.unwrap_or(0));
    // A time in the future means that the clock was set back.
    let is_set_back = now < known.written_at;
    let progressed = moved(known.reported) && (is_set_back || now >= known.next_round_at);
    let is_write_due = is_set_back || now >= known.written_at.plus(PROGRESS_EVERY);
    let outdated = moved(known.written) && is_write_due;
    if progressed || outdated || seen.status != known.status || fingerprint(seen) != known.rest {
        return Finding::Changed { progressed };
    }
    Finding::Nothing
}

/// Returns a hash of everything except the progress. It never leaves the process, so the hasher may change.
fn fingerprint(seen: &Observation) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Observation { status, raw_status, progress: _, output, outputs, error, created_at, completed_at } =
        seen;
    (status, raw_status, output, outputs, error, created_at, completed_at).hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn seen(status: JobStatus, progress: u8) -> Observation {
        Observation { status, progress: Some(progress), ..Observation::default() }
    }

    #[test]
    fn a_poll_that_learns_nothing_changes_nothing() {
        let at = Timestamp::from_millis(1_000_000);
        let known = Known::new(&seen(JobStatus::Processing, 50), None, at);
        let soon = at.plus(Duration::from_secs(1));
        let later = at.plus(Duration::from_secs(5));
        let table = [
            (seen(JobStatus::Processing, 50), later, Finding::Nothing),
            (seen(JobStatus::Processing, 51), soon, Finding::Nothing),
            (seen(JobStatus::Processing, 51), later, Finding::Changed { progressed: true }),
            (seen(JobStatus::Pending, 50), soon, Finding::Changed { progressed: false }),
            (seen(JobStatus::Completed, 100), soon, Finding::Ended(EndingKind::Completed)),
            (seen(JobStatus::Cancelled, 50), soon, Finding::Ended(EndingKind::Cancelled)),
        ];
        for (seen, now, finding) in table {
            assert_eq!(observe(&known, &seen, now), finding, "{seen:?}");
        }
        let mut with_output = seen(JobStatus::Processing, 50);
        with_output.output = Some("https://cdn.example/0.mp4".into());
        assert_eq!(observe(&known, &with_output, soon), Finding::Changed { progressed: false });
    }

    #[test]
    fn a_new_watch_makes_the_next_poll_a_change() {
        let at = Timestamp::from_millis(1_000_000);
        let mut known = Known::new(&seen(JobStatus::Processing, 50), None, at);
        known.forget();
        let same = seen(JobStatus::Processing, 50);
        assert_eq!(observe(&known, &same, at), Finding::Changed { progressed: false });
        // Its progress comes with the next round, as the round before was for the other watches.
        let known = known.after(&same, false, at);
        let next = at.plus(PROGRESS_EVERY);
        assert_eq!(observe(&known, &same, at.plus(Duration::from_secs(4))), Finding::Nothing);
        assert_eq!(observe(&known, &same, next), Finding::Changed { progressed: true });
        assert_eq!(observe(&known.after(&same, true, next), &same, next.plus(HOUR)), Finding::Nothing);
    }

    #[test]
    fn a_round_of_many_bytes_delays_the_next_one() {
        let at = Timestamp::from_millis(1_000_000_000);
        // 100 watches of 1 KB, and 5,000 of 60 KB.
        for (bytes, wait) in [(0, 5), (100_000, 5), (1_000_000, 5), (2_000_000, 10), (300_000_000, 1_500)] {
            let known = Known::new(&seen(JobStatus::Processing, 10), None, at);
            let known = known.after(&seen(JobStatus::Processing, 20), true, at);
            let round = ProgressRound { at, bytes };
            let stored = Known::new(&seen(JobStatus::Processing, 20), Some(round), at);
            let next = at.plus(Duration::from_secs(wait));
            let before = next.minus(Duration::from_millis(1));
            for mut known in [known.after_round(round), stored] {
                let moved = seen(JobStatus::Processing, 30);
                if wait > 5 {
                    // The row of the job is written all the same, and the event comes later.
                    let soon = at.plus(PROGRESS_EVERY);
                    assert_eq!(observe(&known, &moved, soon), Finding::Changed { progressed: false });
                    known = known.after(&moved, false, soon);
                }
                assert_eq!(observe(&known, &moved, before), Finding::Nothing, "{bytes}");
                assert_eq!(observe(&known, &moved, next), Finding::Changed { progressed: true }, "{bytes}");
                let done = seen(JobStatus::Completed, 100);
                assert_eq!(observe(&known, &done, before), Finding::Ended(EndingKind::Completed));
            }
        }
    }

    #[test]
    fn a_round_in_the_future_delays_no_longer_than_one_of_now() {
        let at = Timestamp::from_millis(1_000_000_000);
        let round = ProgressRound { at: at.plus(24 * HOUR), bytes: 2_000_000 };
        let known = Known::new(&seen(JobStatus::Processing, 10), Some(round), at);
        let finding = observe(&known, &seen(JobStatus::Processing, 20), at.plus(Duration::from_secs(10)));
        assert_eq!(finding, Finding::Changed { progressed: true });
    }

    #[test]
    fn progress_is_reported_after_the_clock_was_set_back() {
        let at = Timestamp::from_millis(1_000_000_000);
        let round = ProgressRound { at, bytes: 300_000_000 };
        let known = Known::new(&seen(JobStatus::Processing, 50), Some(round), at);
        let hour_before = at.minus(HOUR);
        let finding = observe(&known, &seen(JobStatus::Processing, 51), hour_before);
        assert_eq!(finding, Finding::Changed { progressed: true });
    }

    #[test]
    fn early_progress_is_reported_later() {
        let at = Timestamp::from_millis(1_000_000);
        let unseen = Known::new(&Observation::default(), None, at);
        let first = seen(JobStatus::Processing, 10);
        assert_eq!(observe(&unseen, &first, at), Finding::Changed { progressed: true });
        let known = unseen.after(&first, true, at);
        let soon = at.plus(Duration::from_secs(2));
        let next = seen(JobStatus::Pending, 20);
        assert_eq!(observe(&known, &next, soon), Finding::Changed { progressed: false });
        let known = known.after(&next, false, soon);
        let later = at.plus(PROGRESS_EVERY);
        assert_eq!(observe(&known, &next, later), Finding::Changed { progressed: true });
    }
}
