//! Groups: one event when enough of several watches have ended.

use serde::Serialize;
use utoipa::ToSchema;

use super::{AppNo, DeliveryStatus, Destination, GroupRule, Timestamp, WatchId, WatchStatus};

/// Row number of a group in the database. It is never shown in public.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupNo(pub i64);

word_enum! {
    /// Status of a group. All but `open` are final.
    GroupStatus {
        /// Fewer watches than required have ended.
        Open = "open",
        /// Enough of its watches have ended.
        Completed = "completed",
        /// It expired before enough of its watches had ended.
        Expired = "expired",
    }
}

/// Number of watches of a group with each status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[expect(missing_docs, reason = "the names are those of the statuses of watches")]
pub struct GroupCounts {
    pub watching: u32,
    pub completed: u32,
    pub failed: u32,
    pub cancelled: u32,
    pub not_found: u32,
    pub expired: u32,
    pub stopped: u32,
}

impl GroupCounts {
    /// Counts a watch.
    pub fn add(&mut self, status: WatchStatus) {
        let count = match status {
            WatchStatus::Watching => &mut self.watching,
            WatchStatus::Completed => &mut self.completed,
            WatchStatus::Failed => &mut self.failed,
            WatchStatus::Cancelled => &mut self.cancelled,
            WatchStatus::NotFound => &mut self.not_found,
            WatchStatus::Expired => &mut self.expired,
            WatchStatus::Stopped => &mut self.stopped,
        };
        *count += 1;
    }

    /// Returns the number of watches that have ended.
    pub fn ended(&self) -> u32 {
        let Self { watching: _, completed, failed, cancelled, not_found, expired, stopped } = self;
        completed + failed + cancelled + not_found + expired + stopped
    }
}

/// A group, as the API shows it.
#[derive(Clone, Debug)]
pub struct Group {
    /// App that owns the group.
    pub app: AppNo,
    /// The client's id.
    pub name: String,
    /// Current status.
    pub status: GroupStatus,
    /// Number of watches that belong to it.
    pub size: u32,
    /// When it is completed.
    pub rule: GroupRule,
    /// Number of watches that were registered.
    pub registered: u32,
    /// Their statuses.
    pub counts: GroupCounts,
    /// The first watches that are stored.
    pub watches: Vec<WatchId>,
    /// Destinations of its event, each with the status of the delivery to it.
    pub destinations: Vec<(Destination, Option<DeliveryStatus>)>,
    /// Time of the first registration.
    pub created_at: Timestamp,
    /// Time at which it expires, or would have expired.
    pub expires_at: Timestamp,
    /// Time of its event; `None` while it is open.
    pub ended_at: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_final_status_counts_as_ended() {
        let mut counts = GroupCounts::default();
        for status in WatchStatus::ALL {
            counts.add(*status);
        }
        assert_eq!(counts.ended(), u32::try_from(WatchStatus::ALL.len() - 1).expect("few"));
    }
}
