//! Effects of an observation on a job.
//!
//! A poll without a change writes nothing. The poller must therefore know what is stored. It keeps a [`Known`]
//! for each job, which is small, because there may be a million.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{EndingKind, JobStatus, Observation, Timestamp};

/// Shortest time between two writes of the progress alone.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What is stored about a job, in the fewest bytes that show whether an observation changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Status as last written.
    pub status: JobStatus,
    progress: Option<u8>,
    /// Time of the last progress; the epoch for a job that was never polled.
    progressed_at: Timestamp,
    rest: u64,
}

impl Known {
    /// Creates it from an observation that was read from the store at `now`.
    pub fn new(seen: &Observation, now: Timestamp) -> Self {
        let progressed_at = if seen.progress.is_some() { now } else { Timestamp::default() };
        Self { status: seen.status, progress: seen.progress, progressed_at, rest: fingerprint(seen) }
    }

    /// Returns what is stored after a change is written.
    #[must_use]
    pub fn after(self, seen: &Observation, progressed: bool, now: Timestamp) -> Self {
        let known = Self { status: seen.status, rest: fingerprint(seen), ..self };
        if progressed { Self { progress: seen.progress, progressed_at: now, ..known } } else { known }
    }

    /// Discards the stored progress, so that the next poll counts as a change. For a new watch with progress events.
    pub fn forget(&mut self) {
        *self = Self { progress: None, progressed_at: Timestamp::default(), rest: 0, ..*self };
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
    let moved = seen.progress.is_some_and(|progress| progress != known.progress.unwrap_or(0));
    // A time in the future means that the clock was set back.
    let is_due = now < known.progressed_at || now >= known.progressed_at.plus(PROGRESS_EVERY);
    let progressed = moved && is_due;
    if progressed || seen.status != known.status || fingerprint(seen) != known.rest {
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

    fn seen(status: JobStatus, progress: u8) -> Observation {
        Observation { status, progress: Some(progress), ..Observation::default() }
    }

    #[test]
    fn a_poll_that_learns_nothing_changes_nothing() {
        let at = Timestamp::from_millis(1_000_000);
        let known = Known::new(&seen(JobStatus::Processing, 50), at);
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
        let mut known = Known::new(&seen(JobStatus::Processing, 50), at);
        known.forget();
        let finding = observe(&known, &seen(JobStatus::Processing, 50), at);
        assert_eq!(finding, Finding::Changed { progressed: true });
    }

    #[test]
    fn progress_is_reported_after_the_clock_was_set_back() {
        let at = Timestamp::from_millis(1_000_000_000);
        let known = Known::new(&seen(JobStatus::Processing, 50), at);
        let hour_before = at.minus(Duration::from_secs(3_600));
        let finding = observe(&known, &seen(JobStatus::Processing, 51), hour_before);
        assert_eq!(finding, Finding::Changed { progressed: true });
    }

    #[test]
    fn early_progress_is_reported_later() {
        let at = Timestamp::from_millis(1_000_000);
        let unseen = Known::new(&Observation::default(), at);
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
