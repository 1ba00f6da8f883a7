//! Destinations where nobody answers.
//!
//! A dead host costs each try its whole timeout: behind it a lane's backlog would be worked off a few tries
//! in twenty seconds, all of them in vain. So after some tries in a row that met nobody, a lane's breaker
//! opens: what falls due takes its next place in the schedule at once, as an attempt that says
//! `destination_down`. One send in a while is a **probe**, tried for real. Whatever comes back as HTTP, be
//! it a 500, shows that somebody is there, and closes the breaker.
//!
//! **It never decides for good.** The last place of a schedule is always tried, and so is what was asked for
//! by hand: who asks wants to know. A delivery whose places are further apart than the probes does not
//! notice it at all, if it is the only one.
//!
//! It is a hint, kept in memory and for one process: after a restart each lane has to be found silent anew.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::Timestamp;

/// So many tries in a row that met nobody open it.
const OPENS_AFTER: u32 = 5;

/// Between two probes, from when the first of them was over.
const PROBE_EVERY: Duration = Duration::from_secs(10);

/// How many silent lanes are remembered. What is forgotten costs its lane a few tries.
const REMEMBERED: usize = 10_000;

/// What is known of the lanes that did not answer lately.
#[derive(Debug, Default)]
pub(super) struct Breakers {
    silent: HashMap<String, Silence>,
    /// How many of them are open.
    open: usize,
}

#[derive(Debug)]
struct Silence {
    /// How many tries in a row met nobody.
    tries: u32,
    /// When the last of them was over, or a probe began.
    last: Timestamp,
}

impl Silence {
    fn is_open(&self) -> bool {
        self.tries >= OPENS_AFTER
    }
}

/// What a try changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Opened,
    Closed,
}

impl Breakers {
    /// Whether a lane's send is to be tried now. Where its breaker is open, a yes is a probe.
    pub(super) fn admits(&mut self, lane: &str, now: Timestamp) -> bool {
        let Some(silence) = self.silent.get_mut(lane).filter(|silence| silence.is_open()) else {
            return true;
        };
        // A clock that was set back is no reason to wait.
        let probe = now < silence.last || now >= silence.last.plus(PROBE_EVERY);
        if probe {
            silence.last = now;
        }
        probe
    }

    /// Somebody answered.
    pub(super) fn answered(&mut self, lane: &str) -> Option<Turn> {
        let open = self.silent.remove(lane)?.is_open();
        self.open -= usize::from(open);
        open.then_some(Turn::Closed)
    }

    /// A try met nobody.
    pub(super) fn silent(&mut self, lane: &str, now: Timestamp) -> Option<Turn> {
        if self.silent.len() >= REMEMBERED && !self.silent.contains_key(lane) {
            *self = Self::default();
        }
        let silence = self.silent.entry(lane.to_owned()).or_insert(Silence { tries: 0, last: now });
        silence.tries = silence.tries.saturating_add(1);
        silence.last = now;
        let opened = silence.tries == OPENS_AFTER;
        self.open += usize::from(opened);
        opened.then_some(Turn::Opened)
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    /// Breakers of which this lane's has opened at second 0.
    fn open(name: &str) -> Breakers {
        let mut breakers = Breakers::default();
        for n in 1..=OPENS_AFTER {
            assert!(breakers.admits(name, at(0)));
            assert_eq!(breakers.silent(name, at(0)), (n == OPENS_AFTER).then_some(Turn::Opened));
        }
        breakers
    }

    #[test]
    fn five_tries_in_a_row_that_meet_nobody_open_it_and_an_answer_closes_it() {
        let a = "1 https a.example 443";
        let mut breakers = open(a);
        assert_eq!((breakers.admits(a, at(9)), breakers.open()), (false, 1));
        assert!(breakers.admits("1 https b.example 443", at(9)));
        assert_eq!((breakers.answered(a), breakers.open()), (Some(Turn::Closed), 0));
        assert!(breakers.admits(a, at(9)));
        assert_eq!(breakers.answered(a), None);
        // One answer among them, and they are not in a row.
        for _ in 1..OPENS_AFTER {
            assert_eq!(breakers.silent(a, at(9)), None);
        }
        assert_eq!(breakers.answered(a), None);
        assert_eq!((breakers.silent(a, at(9)), breakers.open()), (None, 0));
    }

    #[test]
    fn while_it_is_open_one_send_in_ten_seconds_is_a_probe() {
        let a = "1 https a.example 443";
        let mut breakers = open(a);
        let tried: Vec<i64> = (0..40).filter(|second| breakers.admits(a, at(*second))).collect();
        assert_eq!(tried, [10, 20, 30]);
        // A probe that took long counts from its end.
        assert_eq!(breakers.silent(a, at(50)), None);
        assert_eq!((breakers.admits(a, at(59)), breakers.admits(a, at(60))), (false, true));
    }

    #[test]
    fn a_clock_that_is_set_back_is_no_reason_to_wait() {
        let a = "1 https a.example 443";
        let mut breakers = open(a);
        assert!(breakers.admits(a, at(-3_600)));
        assert!(!breakers.admits(a, at(-3_599)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut breakers = Breakers::default();
        for n in 0..=REMEMBERED {
            for _ in 0..OPENS_AFTER {
                breakers.silent(&format!("1 https {n}.example 443"), at(0));
            }
        }
        assert_eq!((breakers.silent.len(), breakers.open()), (1, 1));
    }
}
