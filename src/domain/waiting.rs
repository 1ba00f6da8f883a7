//! Why a delivery that is due is not attempted.

use super::{ChannelKind, DeliveryId, DestinationId, Timestamp, WatchId};

word_enum! {
    /// Why a due delivery is not attempted: `destination_down`, `rate_limited`, `order`, `busy`, `token`,
    /// `no_resources` or `no_writes`. Later versions may add reasons.
    open WaitReason {
        /// Its host cannot be reached, or its URL gives no complete answer: the breaker is open.
        DestinationDown = "destination_down",
        /// The rate of its destination, the pace of its channel, or a 429 of a chat.
        RateLimited = "rate_limited",
        /// An earlier event of its watch comes first.
        Order = "order",
        /// As many attempts are in progress as a limit permits.
        Busy = "busy",
        /// A request for the token that it needs has just failed.
        Token = "token",
        /// The machine of the service lacks descriptors, memory or ports.
        NoResources = "no_resources",
        /// The database refuses writes.
        NoWrites = "no_writes",
    }
}

/// Why a delivery waits, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveryWait {
    /// The reason.
    pub reason: WaitReason,
    /// Beginning of the outage; for another reason, the time at which the delivery became due.
    pub since: Timestamp,
    /// Time of the next attempt to the destination; `None` if it is not known, or if one is in progress.
    pub until: Option<Timestamp>,
    /// Error of the last attempt to the destination, or of the request for a token, if that is the reason.
    pub last_error: Option<String>,
    /// Whether the rate of the saved destination is the reason.
    pub is_own_rate: bool,
}

impl DeliveryWait {
    /// Returns that a delivery waits for a reason that concerns it since it is due.
    pub fn of(reason: WaitReason, delivery: &WaitingDelivery) -> Self {
        Self { reason, since: delivery.due_at, until: None, last_error: None, is_own_rate: false }
    }
}

/// A pending delivery, as its row shows it.
#[derive(Clone, Debug)]
pub struct WaitingDelivery {
    /// Public id.
    pub id: DeliveryId,
    /// The watch that the event is about; `None` if it is about no watch.
    pub watch: Option<WatchId>,
    /// Id of the destination.
    pub destination: DestinationId,
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Name of the destination queue.
    pub queue: String,
    /// Name of the queue of an inline destination with the address of the saved one; `None` for an inline one.
    pub target: Option<String>,
    /// Number of recorded attempts.
    pub attempt_count: u32,
    /// Time of the next attempt.
    pub due_at: Timestamp,
    /// Whether the destination is ordered, and an earlier event of the watch is pending.
    pub is_behind: bool,
}

impl WaitingDelivery {
    /// Returns whether an attempt could be made now. A first attempt is due at once, even if the clock was set back since
    /// the delivery was created.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.attempt_count == 0 || self.due_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    #[test]
    fn a_first_attempt_is_due_at_once_and_a_retry_at_its_time() {
        let (id, at) = (Id::from_bytes([1; 16]), Timestamp::from_millis);
        let delivery = |attempt_count| WaitingDelivery {
            id: DeliveryId(id),
            watch: None,
            destination: DestinationId(id),
            channel: ChannelKind::Webhook,
            queue: "1 https://a.example:443 x".to_owned(),
            target: None,
            attempt_count,
            due_at: at(5),
            is_behind: false,
        };
        assert!(delivery(0).is_due(at(4)), "the clock was set back");
        assert!(!delivery(1).is_due(at(4)) && delivery(1).is_due(at(5)));
    }
}
