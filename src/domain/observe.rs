//! What a look at a job has taught.
//!
//! A poll that learns nothing writes nothing, so whoever looks must know what was last written.
//! It keeps a [`Known`] for each job: small, because there may be a million.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use super::{EndingKind, JobStatus, Observation, Timestamp};

/// Progress alone is written at most this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// What is written of a job, in as few bytes as tell whether an observation changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The status as last written.
    pub status: JobStatus,
    progress: Option<u8>,
    rest: u64,
    written_at: Timestamp,
}

impl Known {
    /// What is known after `seen` was written at `written_at`.
    pub fn new(seen: &Observation, written_at: Timestamp) -> Self {
        Self { status: seen.status, progress: seen.progress, rest: fingerprint(seen), written_at }
    }

    /// Forgets enough that the next look counts as a change: somebody new wants to be told.
    pub fn forget(&mut self) {
        self.rest = 0;
        self.written_at = Timestamp::default();
    }
}

/// What an observation means for a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing that is not written already.
    Nothing,
    /// The job goes on, and looks different. `progressed`: its progress moved.
    Changed {
        /// Whether the progress differs from what is written.
        progressed: bool,
    },
    /// The job has ended.
    Ended(EndingKind),
}

/// Decides what `seen` means for a job of which `known` is written. A status that goes backwards is
/// a change like any other: providers requeue.
pub fn observe(known: &Known, seen: &Observation, now: Timestamp) -> Finding {
    if let Some(kind) = seen.status.ending() {
        return Finding::Ended(kind);
    }
    let progressed = seen.progress != known.progress;
    if seen.status != known.status || fingerprint(seen) != known.rest {
        return Finding::Changed { progressed };
    }
    if progressed && now >= known.written_at.plus(PROGRESS_EVERY) {
        return Finding::Changed { progressed };
    }
    Finding::Nothing
}

/// Everything but the progress, in 64 bits. It never leaves the process, so the hasher may change.
fn fingerprint(seen: &Observation) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Observation { status, raw_status, progress: _, output, outputs, error, created_at, completed_at } =
        seen;
    (status, raw_status, output, created_at, completed_at).hash(&mut hasher);
    for one in outputs.iter().flatten() {
        (&one.url, &one.kind, &one.thumbnail, &one.poster_image).hash(&mut hasher);
    }
    outputs.is_some().hash(&mut hasher);
    error.as_ref().map(|error| (&error.code, &error.message)).hash(&mut hasher);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(status: JobStatus, progress: u8) -> Observation {
        Observation { status, progress: Some(progress), ..Observation::unknown() }
    }

    #[test]
    fn a_look_that_teaches_nothing_is_nothing() {
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
    fn a_newcomer_makes_the_next_look_count() {
        let at = Timestamp::from_millis(1_000_000);
        let mut known = Known::new(&seen(JobStatus::Processing, 50), at);
        known.forget();
        let finding = observe(&known, &seen(JobStatus::Processing, 50), at);
        assert_eq!(finding, Finding::Changed { progressed: false });
    }
}
