//! Rounds of `job.progress` events, and the bound of their bytes.
//!
//! One answer of a provider causes a *round* of `job.progress` events: one event for each watch of the job that wants
//! them, and each has the text of the job, up to 64 KiB. The bytes of these events are therefore bounded.
//!
//! **Each app has a bound of its own.** The time until an app's next round is at least [`PROGRESS_EVERY`], and grows
//! with the bytes of its last one. It belongs to the app's watches of the job together: a new watch gets the progress
//! with the next round of its app, and causes none for the others: if the progress is the same, only new watches get
//! it. An app with a hundred thousand watches of a job thus delays its own
//! events, and those of no other app. Only events wait for a round. The row of the job, which the API shows, is written
//! every [`PROGRESS_EVERY`].
//!
//! **Most apps share one state**, because there may be a million jobs: the progress that was last reported, and the
//! time of the next round, which is [`PROGRESS_EVERY`] after the last. An app has an [`AppProgress`] only while it
//! differs: its last round was large, or it has a new watch. When its time has come, it gets the newest progress, once,
//! and follows the others again.
//!
//! The rounds are stored with their events, in the same transactions, so a crash neither changes the bound nor repeats
//! or loses what was reported. A clock that is set back ends the waits: this costs one round.

use std::time::Duration;

use super::{AppNo, Timestamp};

/// Shortest time between two writes of the progress alone, and between two rounds of progress events of an app.
pub(super) const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// Bytes that the progress events of one app's watches of one job take per millisecond on average: 200 KB/s, or 17 GB a
/// day.
const PROGRESS_BYTES_PER_MS: u64 = 200;

/// The last round of progress events of an app's watches of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgressRound {
    /// The app.
    pub app: AppNo,
    /// Time of the observation that the events report.
    pub at: Timestamp,
    /// Bytes that they take in the database.
    pub bytes: u64,
    /// Progress that they report.
    pub progress: Option<u8>,
}

impl ProgressRound {
    /// Returns the time from which on the app's next round may be created.
    pub fn next_at(&self) -> Timestamp {
        self.at.plus(PROGRESS_EVERY.max(Duration::from_millis(self.bytes / PROGRESS_BYTES_PER_MS)))
    }
}

/// The apps whose watches get a progress event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ProgressApps {
    /// None.
    #[default]
    None,
    /// Every app except these.
    AllExcept(Vec<AppNo>),
    /// These apps.
    Only(Vec<AppNo>),
}

impl ProgressApps {
    /// Every app.
    pub const ALL: Self = Self::AllExcept(Vec::new());

    /// Whether the watches of an app get an event.
    pub fn contains(&self, app: AppNo) -> bool {
        match self {
            Self::None => false,
            Self::AllExcept(apps) => !apps.contains(&app),
            Self::Only(apps) => apps.contains(&app),
        }
    }
}

/// What was reported to an app, and the time of its next round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reported {
    /// Progress as last reported by a round of events.
    pub progress: Option<u8>,
    /// Time from which on the next round may be created.
    pub next_at: Timestamp,
}

impl Reported {
    /// Whether `seen` differs from what was reported. A progress of 0 is not reported.
    pub fn is_moved(&self, seen: Option<u8>) -> bool {
        seen.is_some_and(|progress| progress != self.progress.unwrap_or(0))
    }

    /// Whether a round that reports `seen` is due.
    fn is_due(&self, seen: Option<u8>, now: Timestamp, is_set_back: bool) -> bool {
        self.is_moved(seen) && (is_set_back || now >= self.next_at)
    }
}

/// The state of an app that differs from that of the other apps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AppProgress {
    app: AppNo,
    reported: Reported,
    /// What the app's other watches know, if it has a new watch, to which nothing was reported.
    others_know: Option<u8>,
}

/// The apps of a job whose progress events differ from those of its other apps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppsApart(Vec<AppProgress>);

impl AppsApart {
    /// No app.
    pub const NONE: Self = Self(Vec::new());

    /// Creates it from rounds that were read from the store at `now`. `others` is the state of the other apps.
    pub fn new(rounds: &[ProgressRound], others: Reported, now: Timestamp) -> Self {
        let own = |round: &ProgressRound| {
            // A round in the future means that the clock was set back while no process ran.
            let round = ProgressRound { at: round.at.min(now), ..*round };
            AppProgress {
                app: round.app,
                reported: Reported { progress: round.progress, next_at: round.next_at() },
                others_know: None,
            }
        };
        let mut apart = Self(rounds.iter().map(own).collect());
        apart.join(others);
        apart
    }

    /// Whether no app differs.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the apps for which a round that reports `seen` is due. `others` is the state of the other apps.
    pub(super) fn due(
        &self,
        others: Reported,
        seen: Option<u8>,
        now: Timestamp,
        is_set_back: bool,
    ) -> ProgressApps {
        let apps = |is_wanted: bool| {
            let found = self.0.iter().filter(|own| own.reported.is_due(seen, now, is_set_back) == is_wanted);
            found.map(|own| own.app).collect::<Vec<_>>()
        };
        if others.is_due(seen, now, is_set_back) {
            return ProgressApps::AllExcept(apps(false));
        }
        let due = apps(true);
        if due.is_empty() { ProgressApps::None } else { ProgressApps::Only(due) }
    }

    /// Returns the apps of a round that report `seen` only to new watches, because their other watches know it.
    pub fn only_new(&self, round: &ProgressApps, seen: Option<u8>) -> Vec<AppNo> {
        let known = |own: &&AppProgress| seen.is_some() && own.others_know == seen && round.contains(own.app);
        self.0.iter().filter(known).map(|own| own.app).collect()
    }

    /// Notes a round. `others` is the state of the other apps after it.
    pub fn after(&mut self, round: &ProgressApps, seen: Option<u8>, others: Reported, now: Timestamp) {
        for own in self.0.iter_mut().filter(|own| round.contains(own.app)) {
            own.reported = Reported { progress: seen, next_at: now.plus(PROGRESS_EVERY) };
            own.others_know = None;
        }
        self.join(others);
    }

    /// Notes the bytes of an app's round, after its events are written.
    pub fn hold(&mut self, round: &ProgressRound, others: Reported) {
        let next_at = round.next_at();
        match self.0.iter_mut().find(|own| own.app == round.app) {
            // A watch that was added meanwhile still needs the progress.
            Some(own) => own.reported.next_at = next_at,
            None if next_at > others.next_at => {
                let reported = Reported { progress: others.progress, next_at };
                self.0.push(AppProgress { app: round.app, reported, others_know: None });
            }
            None => {}
        }
    }

    /// Counts nothing as reported to an app, which has a new watch. The time of its next round remains: if the progress
    /// has changed, its other watches get the events, too.
    pub fn forget(&mut self, app: AppNo, others: Reported) {
        match self.0.iter_mut().find(|own| own.app == app) {
            Some(own) => own.others_know = own.reported.progress.take().or(own.others_know),
            None if others.progress.is_some() => {
                let reported = Reported { progress: None, ..others };
                self.0.push(AppProgress { app, reported, others_know: others.progress });
            }
            None => {}
        }
    }

    /// Removes the apps that do not differ any more.
    fn join(&mut self, others: Reported) {
        self.0.retain(|own| {
            own.reported.is_moved(Some(others.progress.unwrap_or(0))) || own.reported.next_at > others.next_at
        });
    }
}
