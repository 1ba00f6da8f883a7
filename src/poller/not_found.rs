//! The grace of a job that its provider does not know.
//!
//! A provider can need a moment before it knows a new job. A watch therefore ends as `not_found` only after at least
//! [`POLLS`] such answers in a row, and when the grace has passed since the first of them.
//!
//! **Each watch has the whole grace**, whichever app has registered the same job before. The first answer begins a
//! *period*, which is for the watches that were registered before its poll started. If another watch is registered
//! later, the next answer begins a further period for it. At the end of a period, its watches end and the others go on.
//!
//! Periods begin at least an eighth of the grace apart, so a job has few of them at a time. A client that registers
//! watches of one job again and again therefore delays the end of a watch by an eighth of the grace at most.

use std::time::Duration;

use crate::domain::Timestamp;

/// Number of `not_found` answers in a row that end a watch.
const POLLS: u32 = 3;

/// Number of periods that begin within one grace.
const PERIODS: u32 = 8;

/// The `not_found` answers of a job in a row.
#[derive(Debug, Default)]
pub struct NotFoundStreak {
    /// The periods that have not ended, the oldest first.
    periods: Vec<Period>,
}

#[derive(Debug)]
struct Period {
    /// Start of its first poll. It is compared with stored times, so a clock that is set back does not move it.
    registered_until: Timestamp,
    /// The same time, for the grace. It moves back with the clock.
    since: Timestamp,
    /// Number of its answers.
    polls: u32,
}

impl NotFoundStreak {
    /// Counts an answer to a poll that started at `started`. `last_watch_at` is the time of the last registration.
    /// Returns the latest registration of the watches that end now, if a period has ended.
    pub fn count(
        &mut self,
        started: Timestamp,
        now: Timestamp,
        grace: Duration,
        last_watch_at: Timestamp,
    ) -> Option<Timestamp> {
        let begins = self.periods.last().is_none_or(|last| {
            last.registered_until < last_watch_at && now >= last.since.plus(grace / PERIODS)
        });
        if begins {
            self.periods.push(Period { registered_until: started, since: started, polls: 0 });
        }
        self.periods.iter_mut().for_each(|period| period.polls = period.polls.saturating_add(1));
        let has_ended = |period: &Period| period.polls >= POLLS && now >= period.since.plus(grace);
        // A later period has fewer answers, so the periods that have ended are the first ones.
        let ended = self.periods.iter().take_while(|period| has_ended(period)).count();
        self.periods.drain(..ended).next_back().map(|period| period.registered_until)
    }

    /// Moves the periods back by `jump`.
    pub fn set_back(&mut self, jump: Duration) {
        self.periods.iter_mut().for_each(|period| period.since = period.since.minus(jump));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(60);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(1_000_000_000 + seconds * 1000)
    }

    /// Returns the ends for polls at `polls`, while watches are registered at `watches`: the time of each, and the
    /// latest registration that it ends.
    fn ends(polls: impl IntoIterator<Item = i64>, watches: &[i64]) -> Vec<(i64, i64)> {
        let (mut streak, mut ends) = (NotFoundStreak::default(), Vec::new());
        for poll in polls {
            let last = watches.iter().copied().filter(|watch| *watch <= poll).max().unwrap_or_default();
            if let Some(until) = streak.count(at(poll), at(poll), GRACE, at(last)) {
                ends.push((poll, until.seconds() - at(0).seconds()));
            }
            assert!(streak.periods.len() <= 10, "{}", streak.periods.len());
        }
        ends
    }

    #[test]
    fn a_watch_ends_after_three_answers_and_the_grace() {
        assert_eq!(ends([5, 6, 8, 12, 20, 36, 68], &[0]), [(68, 5)]);
        assert_eq!(ends([5, 95, 185], &[0]), [(185, 5)], "three answers");
    }

    #[test]
    fn a_later_watch_has_the_whole_grace() {
        assert_eq!(ends([5, 6, 8, 12, 20, 36, 67, 69, 129], &[0, 62]), [(67, 5), (129, 67)]);
        // Registered at the end of the first period.
        assert_eq!(ends([5, 6, 8, 65, 66, 126], &[0, 65]), [(65, 5), (126, 65)]);
    }

    #[test]
    fn watches_registered_again_and_again_keep_none_from_ending() {
        let watches: Vec<i64> = (0..600).collect();
        let ends = ends(1..600, &watches);
        for watch in 0..500 {
            let end = ends.iter().find(|(_, until)| *until >= watch).map(|(end, _)| end - watch);
            assert!(end.is_some_and(|waited| (60..=70).contains(&waited)), "{watch}: {end:?}");
        }
    }
}
