//! Deliveries: one event on its way to one destination, and what follows an attempt. The names of the notification
//! channels, with the facts about them that the store needs; everything else about a channel is in the channel table
//! (`channels::TABLE`).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::id::jitter;
use super::{AppNo, DeliveryId, DestinationId, EventId, EventType, Timestamp, WatchId};

word_enum! {
    /// Name of a channel, such as `webhook`, `email` or `slack`. Later versions may add channels.
    open ChannelKind {
        /// A signed HTTP POST.
        Webhook = "webhook",
        /// An email.
        Email = "email",
        /// A message in Slack, or in a chat that accepts Slack's messages.
        Slack = "slack",
    }
}

/// What the store needs to know about a channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelTraits {
    /// Whether an address is a credential, because it alone permits sending to it. The store seals such
    /// addresses at rest.
    pub secret_address: bool,
    /// Whether the channel sends the payload form that the watch requests. Other channels render the event.
    pub payload_forms: bool,
}

impl ChannelKind {
    /// Returns the channel's traits.
    pub const fn traits(self) -> ChannelTraits {
        match self {
            Self::Webhook => ChannelTraits { secret_address: false, payload_forms: true },
            Self::Email => ChannelTraits { secret_address: false, payload_forms: false },
            Self::Slack => ChannelTraits { secret_address: true, payload_forms: false },
        }
    }
}

word_enum! {
    /// Form of the body that a receiver gets.
    Payload {
        /// The event, as the API documents it.
        Event = "event",
        /// The provider's response, byte for byte.
        Raw = "raw",
        /// The event's data in a `CloudEvents` 1.0 envelope.
        CloudEvents = "cloudevents",
    }
}

word_enum! {
    /// Status of a delivery.
    DeliveryStatus {
        /// Another attempt follows.
        Pending = "pending",
        /// The receiver accepted it.
        Succeeded = "succeeded",
        /// Its attempts failed, and no further one follows.
        Failed = "failed",
        /// Nothing failed, and no further attempt follows.
        Skipped = "skipped",
    }
}

word_enum! {
    /// Why no further attempt follows.
    Reason {
        /// Every attempt of the retry schedule failed.
        Exhausted = "exhausted",
        /// The receiver refused this delivery for ever (410, unknown recipient or chat), or an earlier one to
        /// the same destination; the later deliveries are skipped.
        Gone = "gone",
        /// The watch was stopped.
        Stopped = "stopped",
        /// The destination is disabled.
        Disabled = "disabled",
        /// The watch ended before this progress event was delivered.
        Superseded = "superseded",
        /// The guard forbids the address.
        Refused = "refused",
    }
}

/// A channel and an address, as a watch has them.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    /// Public id.
    pub id: DestinationId,
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Address, in its normalised spelling.
    pub address: String,
    /// Name of the destination queue: the app, with the scheme, host and port of a URL, or with the mail
    /// server, or with the hash of a chat's address.
    pub queue: String,
    /// Additional headers of each request.
    pub headers: Vec<(String, String)>,
    /// Secret that signs in place of the app's.
    pub secret: Option<String>,
}

impl fmt::Debug for Destination {
    /// Prints no secret, and no address, because a URL can contain a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.headers.iter().map(|(name, _)| name.as_str()).collect();
        f.debug_struct("Destination")
            .field("id", &self.id)
            .field("channel", &self.channel)
            .field("queue", &self.queue)
            .field("headers", &names)
            .finish_non_exhaustive()
    }
}

/// A delivery that is ready for an attempt, with everything that a channel needs.
#[derive(Clone, Debug)]
pub struct PendingDelivery {
    /// App that owns the watch.
    pub app: AppNo,
    /// Id of the delivery.
    pub id: DeliveryId,
    /// Id of the event; also the `webhook-id`.
    pub event: EventId,
    /// Type of the event.
    pub event_type: EventType,
    /// The watch that the event is about.
    pub watch: WatchId,
    /// Destination of the delivery.
    pub destination: Destination,
    /// W3C trace context of the registration.
    pub traceparent: Option<String>,
    /// Exact bytes that every attempt sends.
    pub body: Arc<[u8]>,
    /// Form of the bytes.
    pub payload: Payload,
    /// Index of the next attempt in the retry schedule.
    pub step: u32,
    /// Number of recorded attempts.
    pub attempts: u32,
    /// Whether the next attempt is a manual retry, which uses no place of the schedule.
    pub manual: bool,
    /// End of the job, where this is the first attempt to report it.
    pub finished: Option<Finished>,
}

/// End of a job by its provider's clock. The detection delay is measured from it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Finished {
    /// Id of the provider.
    pub provider: String,
    /// Time of the end.
    #[serde(rename = "completedAt")]
    pub at: Timestamp,
}

/// One attempt at a delivery, for the attempt log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attempt {
    /// Start of the attempt.
    pub at: Timestamp,
    /// Duration in milliseconds.
    pub duration_ms: u32,
    /// HTTP status of the response, if there was one.
    pub status_code: Option<u16>,
    /// A code and a sentence; `None` if the attempt succeeded.
    pub error: Option<String>,
    /// Headers of the request.
    pub request_headers: Vec<(String, String)>,
    /// Headers of the response.
    pub response_headers: Vec<(String, String)>,
    /// Beginning of the response's body.
    pub response_body: String,
}

/// A delivery, as the API shows it.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Public id.
    pub id: DeliveryId,
    /// Id of the event.
    pub event: EventId,
    /// Type of the event.
    pub event_type: EventType,
    /// The watch that the event is about.
    pub watch: WatchId,
    /// Id of the destination.
    pub destination: DestinationId,
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Address of the destination.
    pub address: String,
    /// Current status.
    pub status: DeliveryStatus,
    /// Why no further attempt follows.
    pub reason: Option<Reason>,
    /// Number of recorded attempts.
    pub attempt_count: u32,
    /// Time of the next attempt.
    pub next_attempt_at: Option<Timestamp>,
    /// Time of creation.
    pub created_at: Timestamp,
}

/// Shortest waits after attempts with an unclear outcome. A mail server that needs long to accept a message has
/// usually accepted it, so an early retry is a second copy. RFC 5321 §4.5.4.1 recommends 30 minutes at least.
const UNCLEAR_WAITS: [Duration; 3] =
    [Duration::from_secs(3600), Duration::from_secs(4 * 3600), Duration::from_secs(12 * 3600)];

/// An attempt with its number. The first attempt of a delivery has the number 1.
pub type NumberedAttempt = (u32, Attempt);

/// Maximum wait that a receiver's `Retry-After` can cause.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 3600);

/// How deliveries are sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispatchPolicy {
    /// Waits before the retries of a delivery, one for each. The first attempt has no wait.
    pub retry_schedule: Vec<Duration>,
    /// Maximum duration of an attempt, including the answer's body.
    pub timeout: Duration,
    /// Maximum number of attempts in progress.
    pub concurrency: usize,
    /// Maximum number of attempts in progress per destination.
    pub per_destination: usize,
}

impl DispatchPolicy {
    /// Returns whether no attempt follows this one if it fails: the last one of the schedule, and every
    /// manual retry.
    pub fn is_last(&self, kind: AttemptKind) -> bool {
        !matches!(kind, AttemptKind::Scheduled { step } if (step as usize) < self.retry_schedule.len())
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
    /// The message was transmitted completely, and it is unknown whether the receiver accepted it: the reply did
    /// not arrive in time, the connection was lost, or the process stopped. A retry may be a second copy, so it
    /// follows after 1 h, 4 h or 12 h ([`UNCLEAR_WAITS`]), and further ones by the schedule. It is an attempt that
    /// was made. It says nothing against the destination.
    Unclear,
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
    policy: &DispatchPolicy,
    delivery: DeliveryId,
    kind: AttemptKind,
    outcome: &Outcome,
    ended_at: Timestamp,
) -> NextStep {
    let (waits, reason, requested) = match outcome {
        Outcome::Unclear => return after_unclear(policy, delivery, kind, ended_at),
        Outcome::Ok => return NextStep::Succeeded,
        // This applies to a manual retry, too.
        Outcome::Gone => return NextStep::Failed(Reason::Gone),
        Outcome::Fatal => (None, Reason::Exhausted, None),
        Outcome::Retry { after } => (Some(&policy.retry_schedule), Reason::Exhausted, *after),
        Outcome::Refused => (Some(&policy.retry_schedule), Reason::Refused, None),
        Outcome::Down => (Some(&policy.retry_schedule), Reason::Exhausted, None),
    };
    let AttemptKind::Scheduled { step } = kind else { return NextStep::Unchanged };
    let Some(wait) = waits.and_then(|waits| waits.get(step as usize)) else {
        return NextStep::Failed(reason);
    };
    let requested = requested.unwrap_or_default().min(RETRY_AFTER_MAX);
    let wait = wait.mul_f64(jitter(delivery.0, step)).max(requested);
    NextStep::Retry { step: step + 1, due_at: ended_at.plus(wait) }
}

/// Decides what follows an attempt with an unclear outcome.
///
/// The wait is the first of [`UNCLEAR_WAITS`] that is not shorter than the next wait of the schedule, and the
/// schedule continues with its first longer wait. By default, the retries thus follow after 1 h, 4 h and 12 h, and
/// then after 14 h, 20 h and 24 h, which together take as long as the schedule. The step alone determines the
/// wait, so a row needs no second counter. A schedule without a longer wait continues with its next step, and
/// the step then counts the unclear outcomes.
fn after_unclear(
    policy: &DispatchPolicy,
    delivery: DeliveryId,
    kind: AttemptKind,
    ended_at: Timestamp,
) -> NextStep {
    let AttemptKind::Scheduled { step } = kind else { return NextStep::Unchanged };
    let (waits, index) = (&policy.retry_schedule, step as usize);
    let Some(scheduled) = waits.get(index) else { return NextStep::Failed(Reason::Exhausted) };
    let wait = UNCLEAR_WAITS.into_iter().find(|wait| wait >= scheduled).unwrap_or_default();
    let longer = waits.iter().skip(index).position(|later| *later > wait.max(*scheduled));
    let (next, wait) = match longer {
        Some(skipped) => (index + skipped, wait),
        None => (index + 1, wait.max(UNCLEAR_WAITS[index.min(UNCLEAR_WAITS.len() - 1)])),
    };
    let wait = scheduled.mul_f64(jitter(delivery.0, step)).max(wait);
    NextStep::Retry { step: u32::try_from(next).unwrap_or(u32::MAX), due_at: ended_at.plus(wait) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    const MINUTE: Duration = Duration::from_secs(60);

    fn policy() -> DispatchPolicy {
        let retry_schedule = vec![Duration::from_secs(5), MINUTE];
        DispatchPolicy { retry_schedule, ..DispatchPolicy::default() }
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

    /// Returns the waits in minutes, one for each `unclear` attempt; other attempts fail.
    fn waits_in_minutes(policy: &DispatchPolicy, unclear: &[bool]) -> Vec<u64> {
        let (id, mut step, mut waits) = (DeliveryId(Id::from_bytes([7; 16])), 0, Vec::new());
        for unclear in unclear {
            let outcome = if *unclear { Outcome::Unclear } else { Outcome::Retry { after: None } };
            let kind = AttemptKind::Scheduled { step };
            match next_attempt(policy, id, kind, &outcome, Timestamp::default()) {
                NextStep::Retry { step: next, due_at } => {
                    step = next;
                    waits.push(due_at.since(Timestamp::default()).as_secs() / 60);
                }
                NextStep::Failed(Reason::Exhausted) => break,
                other => panic!("{other:?}"),
            }
        }
        waits
    }

    // Public reports: swiftmailer/swiftmailer#828, chatmail/core#5115.
    #[test]
    fn an_unclear_outcome_waits_1_4_and_12_hours_first() {
        let minutes = [0, 5, 30, 120, 300, 600, 840, 1_200, 1_440];
        let retry_schedule = minutes.map(|minutes| MINUTE * minutes).to_vec();
        let usual = DispatchPolicy { retry_schedule, ..DispatchPolicy::default() };
        let waits = waits_in_minutes(&usual, &[true; 20]);
        assert_eq!(waits[..3], [60, 240, 720]);
        assert_eq!(waits.len(), 6, "{waits:?}");
        for (wait, scheduled) in waits[3..].iter().zip([840, 1_200, 1_440]) {
            assert!((scheduled * 8 / 10..=scheduled * 12 / 10).contains(wait), "{waits:?}");
        }
        // A refusal before it does not lengthen the wait.
        assert_eq!(waits_in_minutes(&usual, &[false, true, true])[1..], [60, 240]);
        // A short schedule keeps its number of attempts.
        assert_eq!(waits_in_minutes(&policy(), &[true; 20]), [60, 240]);
        assert_eq!(waits_in_minutes(&DispatchPolicy::default(), &[true]), [] as [u64; 0]);
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
        for outcome in [Outcome::Fatal, Outcome::Refused, Outcome::Unclear, Outcome::Retry { after: None }] {
            assert_eq!(manual(outcome), NextStep::Unchanged);
        }
    }
}
