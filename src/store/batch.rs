//! The open transaction of the writer, and what follows from its commit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::db::{Result, Tx};
use super::reads::Shared;
use super::tenant_cache::TenantChange;
use crate::domain::{
    AppNo, DestinationId, DispatcherMessage, EventId, EventType, Finished, GroupCounts, GroupNo, Id, JobNo,
    Payload, PollerMessage, SkipScope, Timestamp, WatchId,
};
use crate::telemetry::metrics::Tally;

/// An open transaction, and the effects of its commit.
#[derive(Debug)]
pub(super) struct Batch<'c> {
    /// The transaction.
    pub(super) tx: Tx<'c>,
    /// State of the store.
    pub(super) shared: &'c Shared,
    /// Events that the last statements of the transaction insert.
    pub(super) events: Vec<NewEvent>,
    /// Watches that are erased in this transaction. Their events are not inserted.
    pub(super) erased: BTreeSet<WatchId>,
    /// Operational events that are not created yet.
    pub(super) raised: Vec<RaisedEvent>,
    /// Number of the events whose deliveries have been created. They are created when all commands of a kind have
    /// been applied.
    pub(super) delivered: usize,
    /// Jobs of which the terms may have changed, because watches were stopped, amended or expired, with the number of
    /// watches that have ended. The terms are read once, at the end of the transaction.
    pub(super) changed_jobs: BTreeMap<JobNo, u32>,
    /// Jobs of which a poll was requested, with the app and the time of the last request. They are read once as well.
    pub(super) requested_polls: BTreeMap<JobNo, (AppNo, Timestamp)>,
    /// Ends of watches of groups, which are added to their groups at the end of the transaction.
    pub(super) group_ends: BTreeMap<GroupNo, GroupEnds>,
    /// Number of deliveries that were examined to be skipped.
    pub(super) examined: usize,
    /// What is left to skip. The last statements of the transaction create an operation for each.
    pub(super) left_to_skip: Vec<LeftToSkip>,
    /// Effects of the commit.
    pub(super) effects: CommitEffects,
}

impl<'c> Batch<'c> {
    /// Creates a batch without effects.
    pub(super) fn new(tx: Tx<'c>, shared: &'c Shared) -> Self {
        Self {
            tx,
            shared,
            events: Vec::new(),
            erased: BTreeSet::new(),
            raised: Vec::new(),
            delivered: 0,
            changed_jobs: BTreeMap::new(),
            requested_polls: BTreeMap::new(),
            group_ends: BTreeMap::new(),
            examined: 0,
            left_to_skip: Vec::new(),
            effects: CommitEffects::default(),
        }
    }
}

impl Batch<'_> {
    /// Keeps the log of the database short after this transaction, because the next ones change very many pages as
    /// well.
    pub(super) fn checkpoint_early(&self) {
        if let Some(files) = &self.shared.files {
            files.checkpoint_early();
        }
    }
}

/// Applies commands one by one.
pub(super) fn each<C, T>(
    apply: impl Fn(&mut Batch<'_>, &C) -> Result<T>,
) -> impl Fn(&mut Batch<'_>, &[&C]) -> Result<Vec<T>> {
    move |batch, commands| commands.iter().map(|command| apply(batch, command)).collect()
}

/// Messages, notifications and counts that follow from a commit.
#[derive(Debug, Default)]
pub(super) struct CommitEffects {
    /// Messages for the poller.
    pub(super) poller_messages: Vec<PollerMessage>,
    /// Messages for the dispatcher.
    pub(super) dispatcher_messages: Vec<DispatcherMessage>,
    /// Watches that ended.
    pub(super) ended_watches: Vec<WatchId>,
    /// Apps whose feeds grew.
    pub(super) changed_feeds: Vec<AppNo>,
    /// Expiries of new groups.
    pub(super) group_expiries: Vec<Timestamp>,
    /// Changes of apps and keys.
    pub(super) tenant_changes: Vec<TenantChange>,
    /// Whether an operation was created.
    pub(super) has_operation: bool,
    /// Counters.
    pub(super) tally: Tally,
    /// Number of commands of the batch.
    pub(super) commands: usize,
    /// Duration of the transaction.
    pub(super) duration: Duration,
}

impl CommitEffects {
    /// Publishes the effects after the commit.
    pub(super) fn publish(self, shared: &Shared) {
        shared.metrics.committed(self.commands, self.duration, &self.tally);
        shared.refusing.store(false, Ordering::Release);
        shared.apply(self.tenant_changes);
        shared.poller_messages.put(self.poller_messages);
        shared.dispatcher_messages.put(self.dispatcher_messages);
        shared.group_expiries.put(self.group_expiries);
        shared.watch_ends.notify(&self.ended_watches);
        shared.feeds.notify(&self.changed_feeds);
        if self.has_operation {
            shared.operations.request();
        }
    }
}

/// An event that is appended at the end of the transaction.
#[derive(Debug)]
pub(super) struct NewEvent {
    pub(super) id: EventId,
    pub(super) app: AppNo,
    /// The watch, or the id that stands in its place.
    pub(super) watch: WatchId,
    pub(super) event_type: EventType,
    pub(super) observed_at: Timestamp,
    pub(super) body: Arc<[u8]>,
    /// What webhooks get instead of the event: the generation of the ending that stores it, its form and its bytes.
    pub(super) webhook_body: Option<(Option<i64>, Payload, Arc<[u8]>)>,
    /// End of the job by its provider's clock. It is measured and not stored.
    pub(super) finished: Option<Finished>,
    /// `traceparent` and shard of the deliveries. `None`: the watch does not want the event.
    pub(super) delivery: Option<(Option<String>, u16)>,
}

/// Deliveries of a watch that are left to be skipped (`deliveries/skipping`).
#[derive(Clone, Copy, Debug)]
pub(super) struct LeftToSkip {
    pub(super) app: AppNo,
    pub(super) watch: WatchId,
    pub(super) scope: SkipScope,
    /// Deliveries with smaller ids are left.
    pub(super) before: Id,
}

/// Ends of watches of a group in one transaction.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct GroupEnds {
    pub(super) counts: GroupCounts,
    /// Time of the last one.
    pub(super) last_at: Timestamp,
}

/// An operational event that a command of the transaction has raised.
#[derive(Debug)]
pub(super) struct RaisedEvent {
    pub(super) app: AppNo,
    pub(super) event_type: EventType,
    pub(super) observed_at: Timestamp,
    /// The destination that it is about, which does not receive it.
    pub(super) about: DestinationId,
    /// The watch of the delivery that it is about.
    pub(super) watch: Option<WatchId>,
    pub(super) body: Vec<u8>,
}
