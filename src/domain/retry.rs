//! When a delivery is tried again.

use std::time::Duration;

use super::{DeliveryId, Reason, Timestamp, jitter};

/// The most that a receiver's `Retry-After` can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// The waits after each failed try; the first try is at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// One wait for each retry.
    pub schedule: Vec<Duration>,
}

impl RetryPolicy {
    /// Whether nothing comes after this try if it fails: then it decides, or somebody asked for it.
    pub fn is_last(&self, which: AttemptKind) -> bool {
        match which {
            AttemptKind::Manual => true,
            AttemptKind::Scheduled { step } => step as usize >= self.schedule.len(),
        }
    }
}

/// What a try came to, as its channel classified it, once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Taken.
    Ok,
    /// Not taken, worth another try; the receiver may have said when.
    Retry {
        /// The receiver's `Retry-After`.
        after: Option<Duration>,
    },
    /// This message will never be taken.
    Fatal,
    /// This destination wants nothing more.
    Gone,
    /// The guard forbids the address today; a name may resolve elsewhere tomorrow.
    Refused,
    /// Not tried: nobody answered there lately.
    Down,
}

/// Which try it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    /// The `step`th of the schedule; the first is 0.
    Scheduled {
        /// How many scheduled tries came before.
        step: u32,
    },
    /// Asked for by hand: it takes no place in the schedule.
    Manual,
}

/// What becomes of a delivery after a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// It succeeded.
    Succeeded,
    /// It is tried again, as the `step`th try, at `due_at`.
    Retry {
        /// The place in the schedule.
        step: u32,
        /// Not before.
        due_at: Timestamp,
    },
    /// It is given up.
    Failed(Reason),
    /// It stays what it was: a try by hand that failed.
    Unchanged,
}

/// Decides what becomes of a delivery whose try ended at `ended_at`.
pub fn next_attempt(
    policy: &RetryPolicy,
    delivery: DeliveryId,
    which: AttemptKind,
    outcome: &Outcome,
    ended_at: Timestamp,
) -> NextStep {
    match (outcome, which) {
        (Outcome::Ok, _) => NextStep::Succeeded,
        // Whoever asked: nothing more is wanted there.
        (Outcome::Gone, _) => NextStep::Failed(Reason::Gone),
        (_, AttemptKind::Manual) => NextStep::Unchanged,
        (Outcome::Fatal, AttemptKind::Scheduled { .. }) => NextStep::Failed(Reason::Exhausted),
        (Outcome::Retry { .. } | Outcome::Refused | Outcome::Down, AttemptKind::Scheduled { step }) => {
            let Some(wait) = policy.schedule.get(step as usize) else {
                let refused = matches!(outcome, Outcome::Refused);
                return NextStep::Failed(if refused { Reason::Refused } else { Reason::Exhausted });
            };
            let asked = match outcome {
                Outcome::Retry { after: Some(after) } => (*after).min(RETRY_AFTER_MAX),
                Outcome::Ok
                | Outcome::Retry { .. }
                | Outcome::Fatal
                | Outcome::Gone
                | Outcome::Refused
                | Outcome::Down => Duration::ZERO,
            };
            let wait = wait.mul_f64(jitter(delivery.0, step)).max(asked);
            NextStep::Retry { step: step + 1, due_at: ended_at.plus(wait) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    const MINUTE: Duration = Duration::from_secs(60);

    fn policy() -> RetryPolicy {
        RetryPolicy { schedule: vec![Duration::from_secs(5), MINUTE] }
    }

    #[test]
    fn the_schedule_is_followed_with_jitter_and_then_spent() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let end = Timestamp::from_millis(0);
        let retry = Outcome::Retry { after: None };
        for (step, wait) in [(0, 5_000), (1, 60_000)] {
            let NextStep::Retry { step: next, due_at } =
                next_attempt(&policy(), id, AttemptKind::Scheduled { step }, &retry, end)
            else {
                panic!("a try is left");
            };
            assert_eq!(next, step + 1);
            assert!((wait * 8 / 10..=wait * 12 / 10).contains(&due_at.millis()), "{due_at:?}");
        }
        let spent = |outcome| next_attempt(&policy(), id, AttemptKind::Scheduled { step: 2 }, &outcome, end);
        assert_eq!(spent(retry), NextStep::Failed(Reason::Exhausted));
        assert_eq!(spent(Outcome::Refused), NextStep::Failed(Reason::Refused));
    }

    #[test]
    fn the_jitter_of_a_try_is_the_same_after_a_crash() {
        let id = DeliveryId(Id::from_bytes([9; 16]));
        let again = || {
            let which = AttemptKind::Scheduled { step: 0 };
            next_attempt(&policy(), id, which, &Outcome::Retry { after: None }, Timestamp::default())
        };
        assert_eq!(again(), again());
    }

    #[test]
    fn retry_after_can_lengthen_a_wait_to_a_day_and_never_shorten_it() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let due = |after| {
            let outcome = Outcome::Retry { after: Some(after) };
            match next_attempt(
                &policy(),
                id,
                AttemptKind::Scheduled { step: 0 },
                &outcome,
                Timestamp::default(),
            ) {
                NextStep::Retry { due_at, .. } => due_at.millis(),
                other @ (NextStep::Succeeded | NextStep::Failed(_) | NextStep::Unchanged) => {
                    panic!("{other:?}")
                }
            }
        };
        assert!(due(Duration::ZERO) >= 4_000);
        assert_eq!(due(10 * MINUTE), 600_000);
        assert_eq!(due(Duration::from_secs(1 << 40)), 86_400_000);
    }

    #[test]
    fn a_try_by_hand_changes_nothing_unless_it_succeeds_or_nothing_more_is_wanted_there() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let by_hand =
            |outcome| next_attempt(&policy(), id, AttemptKind::Manual, &outcome, Timestamp::default());
        assert_eq!(by_hand(Outcome::Ok), NextStep::Succeeded);
        assert_eq!(by_hand(Outcome::Gone), NextStep::Failed(Reason::Gone));
        for outcome in [Outcome::Fatal, Outcome::Refused, Outcome::Retry { after: None }] {
            assert_eq!(by_hand(outcome), NextStep::Unchanged);
        }
    }
}
