//! Deliveries: one event on its way to one destination, and what follows an attempt. The names of the notification
//! channels, with the facts about them that the store needs; everything else about a channel is in the channel table
//! (`channels::TABLE`).
//!
//! # When a delivery ends
//!
//! The retry schedule limits a delivery in two ways ([`next_attempt`]). A third limit applies to deliveries that are
//! held back without end ([`DispatchPolicy::pending_max`]):
//!
//! - **By attempts.** Each attempt that was made uses one place of the schedule. After the last place the delivery has
//!   failed. This is how a delivery ends as a rule.
//! - **By time.** A wait can be longer than the schedule says: a receiver sends `Retry-After`, a mail has an unclear
//!   outcome, an operator's account is locked. Such waits would lengthen a delivery from three days to ten. Once the
//!   sum of its waits has reached the sum of the schedule, the next attempt is the last one.
//!
//! - **By age.** A delivery that is held back is not attempted, so neither of the other limits ends it. It ends when it
//!   has been pending for four times the sum of the schedule, and at least for 14 days (`store/deliveries/overdue`).
//!   That is longer than any outage after which a receiver still expects its events, and shorter than the retention.
//!
//! An attempt that was not made uses no place and adds no wait. A delivery is *due* when its wait is over, and the time
//! after that is not counted: it is held back by a breaker, a rate, its turn, the store, or a lack of our own. So the
//! only state is the sum of the waits (`waited_ms`). It is written with the row of the attempt that begins the wait,
//! so it costs no write of its own.
//!
//! - The sum contains each wait without its jitter. A schedule that nothing lengthens therefore ends by its attempts:
//!   before the last one, the sum is smaller by the last wait.
//! - Time in which the process does not run is not counted. When the store loads a delivery, it subtracts from the sum
//!   the part of the current wait in which no process ran (`store/deliveries/downtime`). The process notes every minute
//!   while deliveries wait that it runs, so a crash or a stop loses a minute of a wait at most; interruptions of two
//!   minutes or less are counted.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::id::jitter;
use super::{
    Access, AppNo, DeliveryId, DestinationId, EventId, EventType, SavedQueue, Signing, Timestamp, WatchId,
};

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
        /// Every attempt of the retry schedule failed, or the delivery was pending for too long.
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
    /// Name of the destination queue: the app, with the scheme, host and port of a URL, or with the mail server, or
    /// with the hash of a chat's address, or with the id of a saved destination.
    pub queue: String,
    /// Additional headers of each request.
    pub headers: Vec<(String, String)>,
    /// Secret that signs in place of the app's.
    pub secret: Option<String>,
    /// How requests are signed; `None` for the default.
    pub signing: Option<Box<Signing>>,
    /// How requests authenticate themselves; `None` if they do not.
    pub access: Option<Box<Access>>,
    /// Limits of a saved destination; `None` if one registration made the destination.
    pub saved: Option<Box<SavedQueue>>,
}

impl Destination {
    /// Returns whether requests to both are made in the same way, apart from the address.
    pub fn has_same_options(&self, other: &Self) -> bool {
        self.headers == other.headers
            && self.secret == other.secret
            && self.signing == other.signing
            && self.access == other.access
    }

    /// Returns whether both are the same: a saved destination is the same as itself only, whatever its address.
    pub fn is_same_address(&self, other: &Self) -> bool {
        match (&self.saved, &other.saved) {
            (None, None) => self.channel == other.channel && self.address == other.address,
            (_, _) => self.id == other.id,
        }
    }
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
    /// App that owns the event.
    pub app: AppNo,
    /// Id of the delivery.
    pub id: DeliveryId,
    /// Id of the event; also the `webhook-id`.
    pub event: EventId,
    /// Type of the event.
    pub event_type: EventType,
    /// The watch that the event is about. If it is about no watch, an id that no watch has.
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
    /// Sum of its waits until the next scheduled attempt.
    pub waited: Duration,
    /// Number of recorded attempts.
    pub attempts: u32,
    /// Whether the next attempt is a manual retry, which uses no place of the schedule.
    pub manual: bool,
    /// End of the job, where this is the first attempt to report it.
    pub finished: Option<Finished>,
}

impl PendingDelivery {
    /// Returns whether no attempt was made, and none is requested by a client.
    pub const fn is_first_attempt(&self) -> bool {
        self.attempts == 0 && !self.manual
    }

    /// Returns what its first attempt keeps its order in: the watch and the destination.
    pub const fn order_key(&self) -> (WatchId, DestinationId) {
        (self.watch, self.destination.id)
    }
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
    /// The watch that the event is about; `None` if it is about no watch.
    pub watch: Option<WatchId>,
    /// Id of the destination.
    pub destination: DestinationId,
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Address of the destination.
    pub address: String,
    /// Name of the destination queue.
    pub queue: String,
    /// Name of the queue of an inline destination with the address of a saved one; `None` for an inline one.
    pub target: Option<String>,
    /// Whether the destination is ordered, and an earlier event of the watch is pending.
    pub is_behind: bool,
    /// Current status.
    pub status: DeliveryStatus,
    /// Why no further attempt follows.
    pub reason: Option<Reason>,
    /// Number of recorded attempts.
    pub attempt_count: u32,
    /// Error of the last attempt; `None` if it succeeded, or if there was none.
    pub last_error: Option<String>,
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

/// Shortest maximum time for which a delivery is pending: a host may be away for a week, and a backlog of many
/// deliveries needs days after that.
const PENDING_MAX_LEAST: Duration = Duration::from_secs(14 * 24 * 3600);

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
    /// Returns the sum of the schedule. After waits of this length, one more attempt is made.
    fn waits_max(&self) -> Duration {
        self.retry_schedule.iter().sum()
    }

    /// Returns the maximum time for which a delivery is pending, the time included for which it is held back.
    pub fn pending_max(&self) -> Duration {
        self.waits_max().saturating_mul(4).max(PENDING_MAX_LEAST)
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
    /// No attempt was made, because Ringback or its machine lacks something, such as a file descriptor or a name server
    /// that answers. Nothing is recorded, and the delivery stays due.
    NotMade,
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
        /// Sum of the waits before it.
        waited: Duration,
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
        /// Sum of the waits before it, without jitter.
        waited: Duration,
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
        Outcome::NotMade => return NextStep::Unchanged,
    };
    let AttemptKind::Scheduled { step, waited } = kind else { return NextStep::Unchanged };
    let Some(wait) = waits.and_then(|waits| waits.get(step as usize)).filter(|_| waited < policy.waits_max())
    else {
        return NextStep::Failed(reason);
    };
    let requested = requested.unwrap_or_default().min(RETRY_AFTER_MAX);
    let waited = waited.saturating_add(requested.max(*wait));
    let wait = wait.mul_f64(jitter(delivery.0, step)).max(requested);
    NextStep::Retry { step: step + 1, due_at: ended_at.plus(wait), waited }
}

/// Shortest wait for a retry that is made before its time because several deliveries fail: two probes are as far apart.
const OUTAGE_WAIT_MIN: Duration = Duration::from_secs(10);

/// Maximum number of attempts of a delivery that use no place of the schedule, until its waits are not shortened any
/// more. An outage as long as the default schedule needs about 15. A receiver that fails on some deliveries and answers
/// others would otherwise begin a new outage without end.
const OUTAGE_RETRIES_MAX: u32 = 20;

/// Shortens the wait for a retry to a destination that has been down for `outage`. `extra` is the number of attempts of
/// the delivery that used no place of the schedule; manual retries are among them.
///
/// No retry waits longer than the outage has lasted: an outage of half a minute would otherwise delay deliveries by the
/// next wait of the schedule, five minutes. A wait that is shortened uses neither a place nor time of the schedule,
/// like the time for which a delivery is held back. The shortened waits double, so they are few; when the outage has
/// lasted as long as the next wait of the schedule, the schedule continues.
pub fn during_outage(
    next: NextStep,
    kind: AttemptKind,
    (outage, extra): (Duration, u32),
    ended_at: Timestamp,
) -> NextStep {
    let (NextStep::Retry { due_at, .. }, AttemptKind::Scheduled { step, waited }) = (next, kind) else {
        return next;
    };
    if extra >= OUTAGE_RETRIES_MAX {
        return next;
    }
    let soonest = ended_at.plus(outage.max(OUTAGE_WAIT_MIN));
    if soonest < due_at { NextStep::Retry { step, due_at: soonest, waited } } else { next }
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
    let AttemptKind::Scheduled { step, waited } = kind else { return NextStep::Unchanged };
    let (waits, index) = (&policy.retry_schedule, step as usize);
    let Some(scheduled) = waits.get(index).filter(|_| waited < policy.waits_max()) else {
        return NextStep::Failed(Reason::Exhausted);
    };
    let wait = UNCLEAR_WAITS.into_iter().find(|wait| wait >= scheduled).unwrap_or_default();
    let longer = waits.iter().skip(index).position(|later| *later > wait.max(*scheduled));
    let (next, wait) = match longer {
        Some(skipped) => (index + skipped, wait),
        None => (index + 1, wait.max(UNCLEAR_WAITS[index.min(UNCLEAR_WAITS.len() - 1)])),
    };
    let waited = waited.saturating_add(wait.max(*scheduled));
    let wait = scheduled.mul_f64(jitter(delivery.0, step)).max(wait);
    NextStep::Retry { step: u32::try_from(next).unwrap_or(u32::MAX), due_at: ended_at.plus(wait), waited }
}

/// A delivery whose attempt waits for a late reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Postponement {
    /// Step of the schedule of the next attempt.
    pub step: u32,
    /// Earliest time of the next attempt.
    pub due_at: Timestamp,
    /// Sum of the waits before it.
    pub waited: Duration,
}

/// Decides when a delivery is attempted again if the process ends before the reply arrives: as after an attempt with an
/// unclear outcome. After the last attempt of the schedule nothing would follow, but the delivery has not ended yet: it
/// is attempted once more, after the first of [`UNCLEAR_WAITS`]. A scheduled attempt after a manual retry waits as
/// long.
pub fn while_unclear(
    policy: &DispatchPolicy,
    delivery: &PendingDelivery,
    kind: AttemptKind,
    now: Timestamp,
) -> Postponement {
    if let NextStep::Retry { step, due_at, waited } = after_unclear(policy, delivery.id, kind, now) {
        return Postponement { step, due_at, waited };
    }
    let wait = UNCLEAR_WAITS[0];
    Postponement { step: delivery.step, due_at: now.plus(wait), waited: delivery.waited.saturating_add(wait) }
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

    fn scheduled(step: u32) -> AttemptKind {
        AttemptKind::Scheduled { step, waited: Duration::ZERO }
    }

    /// Returns the number of attempts until the delivery has failed, and the sum of the waits. Each attempt requests
    /// this wait.
    fn attempts_until_failed(policy: &DispatchPolicy, after: Option<Duration>) -> (u32, Duration) {
        let (id, mut kind, mut end) =
            (DeliveryId(Id::from_bytes([7; 16])), scheduled(0), Timestamp::default());
        for attempts in 1.. {
            match next_attempt(policy, id, kind, &Outcome::Retry { after }, end) {
                NextStep::Retry { step, due_at, waited } => {
                    (kind, end) = (AttemptKind::Scheduled { step, waited }, due_at);
                }
                NextStep::Failed(Reason::Exhausted) => return (attempts, end.since(Timestamp::default())),
                other @ (NextStep::Succeeded | NextStep::Failed(_) | NextStep::Unchanged) => {
                    panic!("{other:?}")
                }
            }
        }
        unreachable!("the loop has no end")
    }

    #[test]
    fn a_retry_waits_no_longer_than_the_outage_has_lasted() {
        let (ended_at, second) = (Timestamp::from_millis(1_000_000), Duration::from_secs(1));
        let kind = AttemptKind::Scheduled { step: 1, waited: 5 * second };
        let due = |seconds| ended_at.plus(seconds * second);
        let scheduled = NextStep::Retry { step: 2, due_at: due(300), waited: 305 * second };
        let shortened = |seconds| NextStep::Retry { step: 1, due_at: due(seconds), waited: 5 * second };
        for (outage, expected) in
            [(0, shortened(10)), (24, shortened(24)), (299, shortened(299)), (300, scheduled)]
        {
            let found = during_outage(scheduled, kind, (outage * second, 19), ended_at);
            assert_eq!(found, expected, "{outage} s");
            assert_eq!(during_outage(scheduled, kind, (outage * second, 20), ended_at), scheduled);
        }
        let failed = NextStep::Failed(Reason::Exhausted);
        assert_eq!(during_outage(failed, kind, (second, 0), ended_at), failed);
        assert_eq!(
            during_outage(NextStep::Unchanged, AttemptKind::Manual, (second, 0), ended_at),
            NextStep::Unchanged
        );
    }

    #[test]
    fn long_waits_end_a_delivery_after_the_sum_of_its_schedule() {
        let hour = Duration::from_secs(3600);
        let retry_schedule =
            [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400].map(Duration::from_secs).to_vec();
        let usual = DispatchPolicy { retry_schedule, ..DispatchPolicy::default() };
        // Without `Retry-After`, the number of attempts ends it, whatever the jitter.
        assert_eq!(attempts_until_failed(&usual, None).0, 10);
        let equal = DispatchPolicy { retry_schedule: vec![hour; 12], ..DispatchPolicy::default() };
        assert_eq!(attempts_until_failed(&equal, None).0, 13);
        // With a day each, one more attempt follows after 75.6 h.
        assert_eq!(attempts_until_failed(&usual, Some(24 * hour)), (5, 96 * hour));
        assert_eq!(attempts_until_failed(&equal, Some(4 * hour)), (4, 12 * hour));
        assert_eq!(attempts_until_failed(&DispatchPolicy::default(), Some(hour)), (1, Duration::ZERO));
    }

    #[test]
    fn an_attempt_that_was_not_made_changes_nothing() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        for kind in [scheduled(0), scheduled(2), AttemptKind::Manual] {
            let next = next_attempt(&policy(), id, kind, &Outcome::NotMade, Timestamp::default());
            assert_eq!(next, NextStep::Unchanged);
        }
    }

    #[test]
    fn retries_follow_the_schedule_with_jitter_until_it_ends() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let end = Timestamp::from_millis(0);
        let retry = Outcome::Retry { after: None };
        for (step, wait) in [(0, 5_000), (1, 60_000)] {
            let NextStep::Retry { step: next, due_at, .. } =
                next_attempt(&policy(), id, scheduled(step), &retry, end)
            else {
                panic!("a retry is left");
            };
            assert_eq!(next, step + 1);
            assert!((wait * 8 / 10..=wait * 12 / 10).contains(&due_at.millis()), "{due_at:?}");
        }
        let last = |outcome| next_attempt(&policy(), id, scheduled(2), &outcome, end);
        assert_eq!(last(retry), NextStep::Failed(Reason::Exhausted));
        assert_eq!(last(Outcome::Refused), NextStep::Failed(Reason::Refused));
    }

    /// Returns the waits in minutes, one for each `unclear` attempt; other attempts fail.
    fn waits_in_minutes(policy: &DispatchPolicy, unclear: &[bool]) -> Vec<u64> {
        let (id, mut waits) = (DeliveryId(Id::from_bytes([7; 16])), Vec::new());
        let (mut step, mut waited) = (0, Duration::ZERO);
        for unclear in unclear {
            let outcome = if *unclear { Outcome::Unclear } else { Outcome::Retry { after: None } };
            let kind = AttemptKind::Scheduled { step, waited };
            match next_attempt(policy, id, kind, &outcome, Timestamp::default()) {
                NextStep::Retry { step: next, due_at, waited: sum } => {
                    (step, waited) = (next, sum);
                    waits.push(due_at.since(Timestamp::default()).as_secs() / 60);
                }
                NextStep::Failed(Reason::Exhausted) => break,
                other @ (NextStep::Succeeded | NextStep::Failed(_) | NextStep::Unchanged) => {
                    panic!("{other:?}")
                }
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
        // A schedule that is shorter than the wait ends with the attempt after it.
        assert_eq!(waits_in_minutes(&policy(), &[true; 20]), [60]);
        assert_eq!(waits_in_minutes(&DispatchPolicy::default(), &[true]), [] as [u64; 0]);
    }

    #[test]
    fn a_late_reply_postpones_the_last_attempt_by_an_hour() {
        let policy = policy();
        let id = Id::from_bytes([7; 16]);
        let mut delivery = PendingDelivery {
            app: AppNo(1),
            id: DeliveryId(id),
            event: crate::domain::EventId(id),
            event_type: EventType::JobCompleted,
            watch: WatchId(id),
            destination: Destination {
                id: DestinationId(id),
                channel: ChannelKind::Email,
                address: String::new(),
                queue: String::new(),
                headers: Vec::new(),
                secret: None,
                signing: None,
                access: None,
                saved: None,
            },
            traceparent: None,
            body: (*b"{}").into(),
            payload: Payload::Event,
            step: 0,
            waited: Duration::ZERO,
            attempts: 0,
            manual: false,
            finished: None,
        };
        let (hour, now) = (60 * MINUTE, Timestamp::default());
        let first = while_unclear(&policy, &delivery, scheduled(0), now);
        assert_eq!((first.step, first.due_at, first.waited), (1, now.plus(hour), hour));
        (delivery.step, delivery.waited) = (2, 2 * MINUTE);
        for kind in [scheduled(2), AttemptKind::Manual] {
            let last = while_unclear(&policy, &delivery, kind, now);
            assert_eq!((last.step, last.due_at, last.waited), (2, now.plus(hour), hour + 2 * MINUTE));
        }
    }

    #[test]
    fn a_delivery_is_pending_for_14_days_or_four_times_its_schedule() {
        let day = Duration::from_secs(24 * 3_600);
        let of =
            |retry_schedule| DispatchPolicy { retry_schedule, ..DispatchPolicy::default() }.pending_max();
        assert_eq!((of(vec![]), of(vec![day; 3]), of(vec![day; 5])), (14 * day, 14 * day, 20 * day));
    }

    #[test]
    fn the_jitter_of_a_retry_is_the_same_after_a_crash() {
        let id = DeliveryId(Id::from_bytes([9; 16]));
        let again = || {
            next_attempt(&policy(), id, scheduled(0), &Outcome::Retry { after: None }, Timestamp::default())
        };
        assert_eq!(again(), again());
    }

    #[test]
    fn retry_after_lengthens_a_wait_to_a_day_at_most() {
        let id = DeliveryId(Id::from_bytes([7; 16]));
        let due = |after| {
            let outcome = Outcome::Retry { after: Some(after) };
            match next_attempt(&policy(), id, scheduled(0), &outcome, Timestamp::default()) {
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
