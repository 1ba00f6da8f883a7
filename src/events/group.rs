//! The wire format of the events of groups.

use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{EventType, Group, GroupCounts, Timestamp, WatchId};

/// An event of a group of watches.
#[derive(Serialize, ToSchema)]
pub struct GroupBody<'a> {
    #[serde(rename = "type")]
    event_type: EventType,
    timestamp: Timestamp,
    data: GroupData<'a>,
}

/// The group that was completed or has expired.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = GroupEventData)]
struct GroupData<'a> {
    /// The client's id of the group.
    group_id: &'a str,
    /// Number of watches that belong to it.
    size: u32,
    /// Number of watches that were registered.
    registered: u32,
    counts: GroupCounts,
    /// The first 1,000 watches, in the order of their registration.
    #[schema(max_items = 1000)]
    watches: &'a [WatchId],
}

impl<'a> GroupBody<'a> {
    /// Describes the end of a group.
    pub fn new(
        event_type: EventType,
        timestamp: Timestamp,
        group: &'a Group,
        watches: &'a [WatchId],
    ) -> Self {
        let Group { name, size, registered, counts, .. } = group;
        let (size, registered, counts) = (*size, *registered, *counts);
        Self { event_type, timestamp, data: GroupData { group_id: name, size, registered, counts, watches } }
    }

    /// Returns the event in the default form.
    pub fn to_json(&self) -> Vec<u8> {
        // Cannot fail: the body consists of strings and numbers.
        serde_json::to_vec(self).unwrap_or_default()
    }
}
