//! The queues of saved destinations: their limits, and their names.

use super::{AppNo, DestinationId, Masked, Rate, Timestamp};

/// Row number of a saved destination in the database. It is never shown in public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SavedNo(pub i64);

/// What the delivery path needs to know about a saved destination, besides its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedQueue {
    /// Row number.
    pub no: SavedNo,
    /// Name of the queue of an inline destination with this address. Connection failures count against its origin, and
    /// the pace of its channel holds for its address.
    pub target: String,
    /// Maximum rate of attempts.
    pub rate: Rate,
    /// Maximum number of attempts in progress.
    pub concurrency: Option<u32>,
    /// Whether an event waits for the retries of earlier events of its watch.
    pub is_ordered: bool,
    /// Previous secret, and the time until which it signs too.
    pub old_secret: Option<(Masked, Timestamp)>,
}

/// Prefix of a destination's id, with which the name of a saved destination's queue ends.
const QUEUE_MARK: &str = " dst_";

impl DestinationId {
    /// Returns the name of the queue of this saved destination.
    pub fn queue(self, app: AppNo) -> String {
        format!("{} {self}", app.0)
    }

    /// Returns the saved destination of a queue; `None` if the queue is that of inline destinations.
    pub fn of_queue(queue: &str) -> Option<Self> {
        let start = queue.rfind(QUEUE_MARK)?;
        Self::parse(&queue[start + 1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    #[test]
    fn the_queue_of_a_saved_destination_has_its_id() {
        let id = DestinationId(Id::from_bytes([7; 16]));
        let queue = id.queue(AppNo(3));
        assert!(queue.starts_with("3 dst_"), "{queue}");
        assert_eq!(DestinationId::of_queue(&queue), Some(id));
        for inline in ["1 https://a.example:443 0123456789abcdef", "1 slack 0123456789abcdef", "1 smtp", ""] {
            assert_eq!(DestinationId::of_queue(inline), None, "{inline}");
        }
    }
}
