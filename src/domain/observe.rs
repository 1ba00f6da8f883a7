//! Effects of an observation on a job.
//!
//! A poll without a change writes nothing. The poller must therefore know what is stored. It keeps a [`Known`]
//! for each job, which is small, because there may be a million.
//!
//! When watches get `job.progress` events, which are bounded, is decided in `progress`.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::progress::{AppsApart, PROGRESS_EVERY, ProgressApps, ProgressRound, Reported};
use super::{EndingKind, JobStatus, Observation, Timestamp};

/// What is stored about a job, in the fewest bytes that show whether an observation changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Status as last written.
    pub status: JobStatus,
    /// What was reported to all apps but those that are apart ([`AppsApart`]), and the time of their next round.
    reported: Reported,
    /// Progress as last written.
    written: Option<u8>,
    /// Time of the last write of another progress; the epoch for a job that was never polled.
    written_at: Timestamp,
    rest: u64,
    /// Hash of the provider's status.
    raw_status: u32,
}

impl Known {
    /// Creates it from an observation and the last rounds of progress events, which were read from the store at `now`.
    /// The progress that is stored counts as reported to the apps without a round.
    pub fn new(seen: &Observation, rounds: &[ProgressRound], now: Timestamp) -> Self {
        let written_at = if seen.progress.is_some() { now } else { Timestamp::default() };
        let last_round_at = rounds.iter().map(|round| round.at.min(now)).max();
        let since = last_round_at.or(seen.progress.map(|_| now));
        let next_at = since.map(|since| since.plus(PROGRESS_EVERY)).unwrap_or_default();
        let reported = Reported { progress: seen.progress, next_at };
        let (status, written, rest) = (seen.status, seen.progress, fingerprint(seen));
        let raw_status = fingerprint_of(seen.raw_status.as_deref());
        Self { status, reported, written, written_at, rest, raw_status }
    }

    /// What was reported to all apps but those that are apart.
    pub fn reported(&self) -> Reported {
        self.reported
    }

    /// Returns what is stored after a change is written, and its progress is reported to these apps.
    #[must_use]
    pub fn after(self, seen: &Observation, progress: &ProgressApps, now: Timestamp) -> Self {
        let is_reported = *progress != ProgressApps::None;
        let written_at = if seen.progress == self.written && !is_reported { self.written_at } else { now };
        let reported = match progress {
            ProgressApps::AllExcept(_) => {
                Reported { progress: seen.progress, next_at: now.plus(PROGRESS_EVERY) }
            }
            ProgressApps::None | ProgressApps::Only(_) => self.reported,
        };
        let (status, written, rest) = (seen.status, seen.progress, fingerprint(seen));
        let raw_status = fingerprint_of(seen.raw_status.as_deref());
        Self { status, reported, written, written_at, rest, raw_status }
    }

    /// Returns whether the provider's status is this one, as last written.
    pub fn has_raw_status(&self, raw_status: &str) -> bool {
        self.raw_status == fingerprint_of(Some(raw_status))
    }

    /// Discards what is stored, so that the next poll counts as a change. For a new watch with progress events.
    pub fn forget(&mut self) {
        self.rest = 0;
    }
}

/// What an observation means for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Nothing new.
    Nothing,
    /// The job runs, and something has changed.
    Changed {
        /// The apps for which a progress event is due.
        progress: ProgressApps,
        /// Whether more than the progress has changed, or a watch is new.
        is_other: bool,
    },
    /// The job has ended.
    Ended(EndingKind),
}

/// Decides what `seen` means for a job about which `known` is stored. `apart` are the apps whose progress events differ
/// from those of the others. A status that moves backwards is a change like any other, because providers put jobs back
/// into their queue.
pub fn observe(known: &Known, apart: &AppsApart, seen: &Observation, now: Timestamp) -> Finding {
    if let Some(kind) = seen.status.ending() {
        return Finding::Ended(kind);
    }
    // A time in the future means that the clock was set back.
    let is_set_back = now < known.written_at;
    let progress = apart.due(known.reported, seen.progress, now, is_set_back);
    let is_write_due = is_set_back || now >= known.written_at.plus(PROGRESS_EVERY);
    // A progress of 0 says nothing.
    let is_outdated = seen.progress.is_some_and(|progress| progress != known.written.unwrap_or(0));
    let is_other = seen.status != known.status || fingerprint(seen) != known.rest;
    if progress != ProgressApps::None || (is_outdated && is_write_due) || is_other {
        return Finding::Changed { progress, is_other };
    }
    Finding::Nothing
}

/// Returns a hash of everything except the progress. It never leaves the process, so the hasher may change.
fn fingerprint(seen: &Observation) -> u64 {
    let mut hasher = DefaultHasher::new();
    let Observation { status, raw_status, progress: _, output, outputs, error, .. } = seen;
    let Observation { created_at, completed_at, outputs_expire_at, .. } = seen;
    (status, raw_status, output, outputs, error).hash(&mut hasher);
    (created_at, completed_at, outputs_expire_at).hash(&mut hasher);
    hasher.finish().max(1)
}

/// Returns a hash of a status of the provider. The first half suffices to compare it with a known one.
fn fingerprint_of(raw_status: Option<&str>) -> u32 {
    let mut hasher = DefaultHasher::new();
    raw_status.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::AppNo;

    const HOUR: Duration = Duration::from_secs(3_600);
    const HEAVY: AppNo = AppNo(1);

    fn seen(status: JobStatus, progress: u8) -> Observation {
        Observation { status, progress: Some(progress), ..Observation::default() }
    }

    fn processing(progress: u8) -> Observation {
        seen(JobStatus::Processing, progress)
    }

    fn changed(progress: ProgressApps, is_other: bool) -> Finding {
        Finding::Changed { progress, is_other }
    }

    /// A job as the poller keeps it.
    #[derive(Clone, Debug)]
    struct Job {
        known: Known,
        apart: AppsApart,
    }

    impl Job {
        fn new(seen: &Observation, rounds: &[ProgressRound], now: Timestamp) -> Self {
            let known = Known::new(seen, rounds, now);
            Self { known, apart: AppsApart::new(rounds, known.reported(), now) }
        }

        /// Observes the job, and notes what follows. An app in `bytes` has a round of this size.
        fn observe(&mut self, seen: &Observation, bytes: &[(AppNo, u64)], now: Timestamp) -> Finding {
            let finding = observe(&self.known, &self.apart, seen, now);
            if let Finding::Changed { progress, .. } = &finding {
                self.known = self.known.after(seen, progress, now);
                self.apart.after(progress, seen.progress, self.known.reported(), now);
                for &(app, bytes) in bytes.iter().filter(|(app, _)| progress.contains(*app)) {
                    let round = ProgressRound { app, at: now, bytes, progress: seen.progress };
                    self.apart.hold(&round, self.known.reported());
                }
            }
            finding
        }
    }

    #[test]
    fn a_poll_that_learns_nothing_changes_nothing() {
        let at = Timestamp::from_millis(1_000_000);
        let job = Job::new(&processing(50), &[], at);
        let soon = at.plus(Duration::from_secs(1));
        let later = at.plus(Duration::from_secs(5));
        let table = [
            (processing(50), later, Finding::Nothing),
            (processing(51), soon, Finding::Nothing),
            (processing(51), later, changed(ProgressApps::ALL, false)),
            (seen(JobStatus::Pending, 50), soon, changed(ProgressApps::None, true)),
            (seen(JobStatus::Completed, 100), soon, Finding::Ended(EndingKind::Completed)),
            (seen(JobStatus::Cancelled, 50), soon, Finding::Ended(EndingKind::Cancelled)),
        ];
        for (seen, now, finding) in table {
            assert_eq!(job.clone().observe(&seen, &[], now), finding, "{seen:?}");
        }
        let mut with_output = processing(50);
        with_output.output = Some("https://cdn.example/0.mp4".into());
        assert_eq!(job.clone().observe(&with_output, &[], soon), changed(ProgressApps::None, true));
    }

    #[test]
    fn a_new_watch_gets_the_progress_with_the_next_round_of_its_app() {
        let at = Timestamp::from_millis(1_000_000);
        let mut job = Job::new(&processing(50), &[], at);
        job.known.forget();
        job.apart.forget(HEAVY, job.known.reported());
        let same = processing(50);
        assert_eq!(job.observe(&same, &[], at), changed(ProgressApps::None, true));
        let next = at.plus(PROGRESS_EVERY);
        assert_eq!(job.observe(&same, &[], at.plus(Duration::from_secs(4))), Finding::Nothing);
        // The other apps know it, and so do the other watches of the app.
        let only_heavy = ProgressApps::Only(vec![HEAVY]);
        assert_eq!(job.apart.only_new(&only_heavy, Some(50)), [HEAVY]);
        assert_eq!(job.apart.only_new(&only_heavy, Some(51)), []);
        job.apart.forget(HEAVY, job.known.reported());
        assert_eq!(job.apart.only_new(&only_heavy, Some(50)), [HEAVY], "two new watches");
        assert_eq!(job.observe(&same, &[], next), changed(ProgressApps::Only(vec![HEAVY]), false));
        assert_eq!(job.observe(&same, &[], next.plus(HOUR)), Finding::Nothing);
        // And follow the same times again.
        let later = next.plus(HOUR);
        assert_eq!(job.observe(&processing(60), &[], later), changed(ProgressApps::ALL, false));
        assert!(job.apart.is_empty(), "{job:?}");
    }

    #[test]
    fn a_round_of_many_bytes_delays_the_next_one_of_its_app() {
        let at = Timestamp::from_millis(1_000_000_000);
        // 100 watches of 1 KB, and 5,000 of 60 KB.
        for (bytes, wait) in [(0, 5), (100_000, 5), (1_000_000, 5), (2_000_000, 10), (300_000_000, 1_500)] {
            let mut job = Job::new(&processing(10), &[], at.minus(HOUR));
            job.observe(&processing(20), &[(HEAVY, bytes)], at);
            let round = ProgressRound { app: HEAVY, at, bytes, progress: Some(20) };
            let stored = Job::new(&processing(20), &[round], at);
            let next = at.plus(Duration::from_secs(wait));
            let before = next.minus(Duration::from_millis(1));
            for mut job in [job, stored] {
                let moved = processing(30);
                if wait > 5 {
                    // The other apps do not wait.
                    let soon = at.plus(PROGRESS_EVERY);
                    let others = changed(ProgressApps::AllExcept(vec![HEAVY]), false);
                    assert_eq!(job.observe(&moved, &[], soon), others, "{bytes}");
                }
                assert_eq!(job.clone().observe(&moved, &[], before), Finding::Nothing, "{bytes}");
                let done = seen(JobStatus::Completed, 100);
                assert_eq!(job.clone().observe(&done, &[], before), Finding::Ended(EndingKind::Completed));
                let due = if wait > 5 { ProgressApps::Only(vec![HEAVY]) } else { ProgressApps::ALL };
                assert_eq!(job.observe(&moved, &[], next), changed(due, false), "{bytes}");
                assert_eq!(job.observe(&moved, &[], next.plus(HOUR)), Finding::Nothing, "once");
            }
        }
    }

    /// One job with an app of large rounds, polled every second, for an hour. What each app gets is what it gets alone.
    #[test]
    fn each_app_gets_the_progress_as_if_it_were_alone() {
        let at = |second: u64| Timestamp::from_millis(1_000_000_000).plus(Duration::from_secs(second));
        let (light, bytes) = (AppNo(2), 4_000_000);
        let progress = |second: u64| u8::try_from(second / 7 % 100).unwrap();
        let run = |sizes: &[(AppNo, u64)]| {
            let mut job = Job::new(&Observation::default(), &[], at(0));
            let mut got = vec![Vec::new(); 2];
            for second in 1..3_600 {
                let seen = processing(progress(second));
                if let Finding::Changed { progress, .. } = job.observe(&seen, sizes, at(second)) {
                    for (app, got) in [HEAVY, light].into_iter().zip(&mut got) {
                        got.extend(progress.contains(app).then_some((second, seen.progress)));
                    }
                }
            }
            got
        };
        let together = run(&[(HEAVY, bytes), (light, 1_000)]);
        assert_eq!(together[0], run(&[(HEAVY, bytes)])[0]);
        assert_eq!(together[1], run(&[(light, 1_000)])[1]);
        assert!(together[0].windows(2).all(|two| two[1].0 - two[0].0 == 20 && two[1].1 != two[0].1));
        assert_eq!(together[1].len(), 514, "each value once: {:?}", together[1]);
    }

    #[test]
    fn a_round_in_the_future_delays_no_longer_than_one_of_now() {
        let at = Timestamp::from_millis(1_000_000_000);
        let round =
            ProgressRound { app: HEAVY, at: at.plus(24 * HOUR), bytes: 2_000_000, progress: Some(10) };
        let mut job = Job::new(&processing(10), &[round], at);
        let finding = job.observe(&processing(20), &[], at.plus(Duration::from_secs(10)));
        assert_eq!(finding, changed(ProgressApps::ALL, false));
    }

    #[test]
    fn progress_is_reported_after_the_clock_was_set_back() {
        let at = Timestamp::from_millis(1_000_000_000);
        let round = ProgressRound { app: HEAVY, at, bytes: 300_000_000, progress: Some(50) };
        let mut job = Job::new(&processing(50), &[round], at);
        let finding = job.observe(&processing(51), &[], at.minus(HOUR));
        assert_eq!(finding, changed(ProgressApps::ALL, false));
    }

    #[test]
    fn early_progress_is_reported_later() {
        let at = Timestamp::from_millis(1_000_000);
        let mut job = Job::new(&Observation::default(), &[], at);
        assert_eq!(job.observe(&processing(10), &[], at), changed(ProgressApps::ALL, true));
        let soon = at.plus(Duration::from_secs(2));
        let next = seen(JobStatus::Pending, 20);
        assert_eq!(job.observe(&next, &[], soon), changed(ProgressApps::None, true));
        assert_eq!(job.observe(&next, &[], at.plus(PROGRESS_EVERY)), changed(ProgressApps::ALL, false));
    }

    #[test]
    fn what_was_not_reported_before_a_restart_is_reported_after_it() {
        let at = Timestamp::from_millis(1_000_000_000);
        // The row has a newer progress than the last round of the app, which waits for its bytes.
        let round = ProgressRound { app: HEAVY, at, bytes: 4_000_000, progress: Some(20) };
        let mut job = Job::new(&processing(90), &[round], at.plus(Duration::from_secs(10)));
        let due = at.plus(Duration::from_secs(20));
        assert_eq!(job.observe(&processing(90), &[], due.minus(Duration::from_millis(1))), Finding::Nothing);
        let only = changed(ProgressApps::Only(vec![HEAVY]), false);
        assert_eq!(job.observe(&processing(90), &[], due), only);
    }
}
