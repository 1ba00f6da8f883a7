//! The retry schedule: what follows an attempt.

use std::time::Duration;

use super::id::jitter;
use super::{DeliveryId, Reason, Timestamp};

/// Maximum wait that a receiver's `Retry-After` can cause.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// Waits after failed attempts. The first attempt has no wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// One wait for each retry.
    pub schedule: Vec<Duration>,
}

impl RetryPolicy {
    /// Returns whether no attempt follows this one if it fails: the last one of the schedule, and every
    /// manual retry.
    pub fn is_last(&self, kind: AttemptKind) -> bool {
        !matches!(kind, AttemptKind::Scheduled { step } if (step as usize) < self.schedule.len())
    }
}

/// Outcome of an attempt, as its channel classified it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver accepted the message.
    Ok,
    /// The receiver did not accept the message now; a retry may succeed.
    Retry {
        /// Minimum wait, if the receiver sent one (`Retry-After`), or if the channel knows one.
        after: Option<Duration>,
    },
    /// The receiver will never accept this message.
    Fatal,
    /// The destination accepts no messages any more.
    Gone,
    /// The guard forbids the address. A retry may succeed, because a name may resolve to another address
    /// later.
    Refused,
    /// No attempt was made, because the destination did not respond lately.
    Down,
}

/// Kind of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    /// An attempt of the schedule.
    Scheduled {
        /// Number of scheduled attempts before it.
        step: u32,
    },
    /// A manual retry, which uses no place of the schedule.
    Manual,
}

/// What follows an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextStep {
    /// The delivery succeeded.
    Succeeded,
    /// A retry follows.
    Retry {
        /// Number of scheduled attempts before it.
        step: u32,
        /// Earliest time of the retry.
        due_at: Timestamp,
    },
    /// The delivery failed.
    Failed(Reason),
    /// The delivery keeps its status, because a manual retry failed.
    Unchanged,
}

/// Decides what follows an attempt that ended at `ended_at`.
pub fn next_attempt(
    policy: &RetryPolicy,
    delivery: DeliveryId,
    kind: AttemptKind,
    outcome: &Outcome,
    ended_at: Timestamp,
) -> NextStep {
    let (waits, reason, requested) = match outcome {
        Outcome::Ok => return NextStep::Succeeded,
        // This applies to a manual retry, too.
        Outcome::Gone => return NextStep::Failed(Reason::Gone),
        Outcome::Fatal => (None, Reason::Exhausted, None),
        Outcome::Retry { after } => (Some(&policy.schedule), Reason::Exhausted, *after),
        Outcome::Refused => (Some(&policy.schedule), Reason::Refused, None),
        Outcome::Down => (Some(&policy.schedule), Reason::Exhausted, None),
    };
    let AttemptKind::Scheduled { step } = kind else { return NextStep::Unchanged };
    let Some(wait) = waits.and_then(|waits| waits.get(step as usize)) else {
        return NextStep::Failed(reason);
    };
    let requested = requested.unwrap_or_default().min(RETRY_AFTER_MAX);
    let wait = wait.mul_f64(jitter(delivery.0, step)).max(requested);
    NextStep::Retry { step: step + 1, due_at: ended_at.plus(wait) }
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
    fn retries_follow_the_schedule_with_jitter_until_it_ends() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let end = Timestamp::from_millis(0);
        let retry = Outcome::Retry { after: None };
        for (step, wait) in [(0, 5_000), (1, 60_000)] {
            let NextStep::Retry { step: next, due_at } =
                next_attempt(&policy(), id, AttemptKind::Scheduled { step }, &retry, end)
            else {
                panic!("a retry is left");
            };
            assert_eq!(next, step + 1);
            assert!((wait * 8 / 10..=wait * 12 / 10).contains(&due_at.millis()), "{due_at:?}");
        }
        let last = |outcome| next_attempt(&policy(), id, AttemptKind::Scheduled { step: 2 }, &outcome, end);
        assert_eq!(last(retry), NextStep::Failed(Reason::Exhausted));
        assert_eq!(last(Outcome::Refused), NextStep::Failed(Reason::Refused));
    }

    #[test]
    fn the_jitter_of_a_retry_is_the_same_after_a_crash() {
        let id = DeliveryId(Id::from_bytes([9; 16]));
        let again = || {
            let kind = AttemptKind::Scheduled { step: 0 };
            next_attempt(&policy(), id, kind, &Outcome::Retry { after: None }, Timestamp::default())
        };
        assert_eq!(again(), again());
    }

    #[test]
    fn retry_after_lengthens_a_wait_to_a_day_at_most() {
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
    fn a_failed_manual_retry_changes_nothing_unless_it_is_gone() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let manual =
            |outcome| next_attempt(&policy(), id, AttemptKind::Manual, &outcome, Timestamp::default());
        assert_eq!(manual(Outcome::Ok), NextStep::Succeeded);
        assert_eq!(manual(Outcome::Gone), NextStep::Failed(Reason::Gone));
        for outcome in [Outcome::Fatal, Outcome::Refused, Outcome::Retry { after: None }] {
            assert_eq!(manual(outcome), NextStep::Unchanged);
        }
    }
}
