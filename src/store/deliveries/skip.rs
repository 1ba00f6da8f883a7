//! Deliveries that are not attempted any more, though nothing failed.

use super::super::batch::Batch;
use super::super::db::Result;
use crate::domain::{CancelScope, DeliveryId, DestinationId, DispatcherMessage, Reason, Timestamp, WatchId};

/// Skips pending progress of watches that have ended.
pub fn skip_superseded(batch: &mut Batch<'_>, watches: &[WatchId]) -> Result<()> {
    let skipped = batch.tx.update_each(
        "update deliveries set status = 'skipped', reason = 'superseded', scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where watch = $1 and status = 'pending' and type in ('job.processing', 'job.progress')",
        watches.iter().map(|watch| [watch.0.into()]),
    )?;
    for (watch, skipped) in watches.iter().zip(skipped) {
        notify_skipped(batch, *watch, CancelScope::Progress, Reason::Superseded, (skipped, 0));
    }
    Ok(())
}

/// Skips the pending deliveries of stopped watches, and cancels their manual retries.
pub fn skip_stopped(batch: &mut Batch<'_>, watches: &[WatchId]) -> Result<()> {
    let skipped = batch.tx.update_each(
        "update deliveries set status = 'skipped', reason = 'stopped', scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where watch = $1 and status = 'pending'",
        watches.iter().map(|watch| [watch.0.into()]),
    )?;
    let manual = batch.tx.update_each(
        "update deliveries set next_attempt_at = null, is_manual = 0
         where watch = $1 and next_attempt_at is not null",
        watches.iter().map(|watch| [watch.0.into()]),
    )?;
    for ((watch, skipped), manual) in watches.iter().zip(skipped).zip(manual) {
        notify_skipped(batch, *watch, CancelScope::All, Reason::Stopped, (skipped, manual));
    }
    Ok(())
}

/// A destination that is gone: `n` of the watch, since `at`. `delivery` found this and is not skipped.
pub(super) struct GoneDestination {
    pub(super) watch: WatchId,
    pub(super) n: i64,
    pub(super) destination: DestinationId,
    pub(super) delivery: DeliveryId,
    pub(super) at: Timestamp,
}

/// Marks destinations as gone, and skips their other pending deliveries.
pub(super) fn skip_gone(batch: &mut Batch<'_>, gone: &[GoneDestination]) -> Result<()> {
    batch.tx.update_each(
        "update watch_destinations set gone_at = $1 where watch = $2 and n = $3",
        gone.iter().map(|gone| [gone.at.into(), gone.watch.0.into(), gone.n.into()]),
    )?;
    let skipped = batch.tx.update_each(
        "update deliveries set status = 'skipped', reason = 'gone', scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where watch = $1 and n = $2 and status = 'pending' and id <> $3",
        gone.iter().map(|gone| [gone.watch.0.into(), gone.n.into(), gone.delivery.0.into()]),
    )?;
    for (gone, skipped) in gone.iter().zip(skipped) {
        let scope = CancelScope::To(gone.destination);
        notify_skipped(batch, gone.watch, scope, Reason::Gone, (skipped, 0));
    }
    Ok(())
}

/// Counts skipped deliveries, and notifies the dispatcher of them and of cancelled manual retries.
fn notify_skipped(
    batch: &mut Batch<'_>,
    watch: WatchId,
    which: CancelScope,
    reason: Reason,
    (skipped, manual): (usize, usize),
) {
    batch.effects.tally.skipped(reason, skipped);
    if skipped + manual > 0 {
        batch.effects.dispatcher_messages.push(DispatcherMessage::Skip { watch, which });
    }
}
