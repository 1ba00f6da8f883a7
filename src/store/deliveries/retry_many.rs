//! Manual retries of many deliveries: the rows of a step of an operation (`operations`).
//!
//! A delivery that has failed or was skipped gets one attempt, as after a single manual retry. A pending one is attempted
//! at once and keeps its schedule; if it is due already, nothing changes.
//!
//! They are manual retries, but are queued as retries: new events do not wait for all deliveries that once failed. The
//! dispatcher is notified of the queues, not of each delivery with its body, and loads pages. So what is held back by a
//! breaker stays in the store, and is sent when the receiver responds.
//!
//! Not retried: deliveries of stopped watches, those to disabled destinations, and progress of watches that have ended,
//! unless the filter names this reason.

use std::collections::BTreeMap;

use super::super::batch::Batch;
use super::super::db::{Result, Row, Tx, params, row_sql};
use super::super::lists::{Fitting, Part, Remaining};
use super::filter::{self, DeliveryFilter};
use crate::domain::{AppNo, DeliveryId, DeliveryStatus, DispatcherMessage, Reason, Timestamp, WatchStatus};

/// Columns of [`is_retried`].
const STATE: &str = "d.reason, s.disabled_reason,
    (select x.status from watches x where x.app = d.app and x.id = d.watch)";

/// Reads three columns from `first`. Returns whether a delivery with this state is retried.
fn is_retried(row: &Row<'_>, first: usize, filter: &DeliveryFilter) -> Result<bool> {
    let reason = row.opt_text(first)?.as_deref().and_then(Reason::parse);
    let is_disabled = row.opt_text(first + 1)?.is_some();
    let is_stopped = row.opt_text(first + 2)?.as_deref() == Some(WatchStatus::Stopped.as_str());
    let is_refused = match reason {
        Some(Reason::Stopped) => true,
        Some(Reason::Superseded) => filter.reason != Some(Reason::Superseded),
        _ => false,
    };
    Ok(!(is_refused || is_disabled || is_stopped))
}

/// Returns a page of the deliveries that a filter selects, newest first. `None` for one that is not retried.
pub(in crate::store) fn retried_page(
    tx: &Tx<'_>,
    app: AppNo,
    filter: &DeliveryFilter,
    remaining: Remaining,
) -> Result<Part<Option<DeliveryId>, DeliveryId>> {
    let index = filter::index(tx, app, filter)?;
    let scanned = filter::end_of_scan(tx, app, filter, index)?;
    let columns = format!("d.id, {STATE}");
    let query = filter::query(&columns, (app, filter), index, scanned, remaining.limit());
    let read = |row: &Row<'_>| Ok((DeliveryId(row.id(0)?), is_retried(row, 1, filter)?));
    let found = Fitting::take(tx, &query, remaining, read, |_| 0)?;
    let Part { rows, bytes, end } = found.part(|(id, _)| *id, scanned);
    let rows = rows.into_iter().map(|(id, is_retried)| is_retried.then_some(id)).collect();
    Ok(Part { rows, bytes, end })
}

/// Requests an attempt at once of those of these deliveries that the filter still selects. Returns their number.
pub(in crate::store) fn retry_now(
    batch: &mut Batch<'_>,
    app: AppNo,
    filter: &DeliveryFilter,
    ids: &[DeliveryId],
    now: Timestamp,
) -> Result<u64> {
    let sql = format!(
        "select d.queue, d.status, d.next_attempt_at, {STATE} from deliveries d {} where d.app = $1 and d.id = $2",
        filter::DESTINATION
    );
    let found = batch.tx.fetch(&sql, ids.iter().map(|id| params![app, id]), |row| {
        let status = row.word(1, DeliveryStatus::parse)?;
        let is_wanted = filter.statuses.contains(&status) && is_retried(row, 3, filter)?;
        Ok(is_wanted.then_some((row.text(0)?, row.opt_time(2)?)))
    })?;
    let (mut queues, mut changed) = (BTreeMap::<String, Vec<DeliveryId>>::new(), Vec::new());
    let wanted = ids.iter().zip(found).filter_map(|(id, rows)| Some((*id, rows.into_iter().next()??)));
    let mut count = 0;
    for (id, (queue, next_attempt_at)) in wanted {
        count += 1;
        if next_attempt_at.is_none_or(|at| at > now) {
            changed.push(id);
        }
        queues.entry(queue).or_default().push(id);
    }
    batch.tx.update_each(
        row_sql!(
            "update deliveries set is_manual = 1, is_retry = 1, next_attempt_at = $1"
            where "app = $2 and id = $3"
        ),
        changed.iter().map(|id| params![now, app, id]),
    )?;
    let messages =
        queues.into_iter().map(|(queue, requested)| DispatcherMessage::QueueChanged { queue, requested });
    batch.effects.dispatcher_messages.extend(messages);
    Ok(count)
}
