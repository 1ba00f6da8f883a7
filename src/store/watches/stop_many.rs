//! Stopping many watches: the rows of a step of an operation (`operations`).

use super::super::batch::Batch;
use super::super::db::{Result, Tx, params};
use super::super::deliveries;
use super::super::lists::{Fitting, Part, Remaining};
use super::filter::{self, WatchFilter};
use super::{StopWatch, stop};
use crate::domain::{AppNo, Timestamp, WatchId, WatchStatus};

/// Returns a page of the watches that a filter selects, newest first.
pub(in crate::store) fn stopped_page(
    tx: &Tx<'_>,
    app: AppNo,
    filter: &WatchFilter,
    remaining: Remaining,
) -> Result<Part<WatchId, WatchId>> {
    let index = filter::index(tx, filter)?;
    let scanned = filter::end_of_scan(tx, app, filter, index)?;
    let select = "select w.id from watches w join jobs j on j.no = w.job";
    let query = filter::query(select, (app, filter), index, scanned, remaining.limit());
    let found = Fitting::take(tx, &query, remaining, |row| Ok(WatchId(row.id(0)?)), |_| 0)?;
    Ok(found.part(|id| *id, scanned))
}

/// Number of watches that are stopped together. They share the deliveries that are examined.
const TOGETHER: usize = 100;

/// Stops the next of these watches that still have the status of the filter, until their deliveries are too many for
/// one transaction. Returns their number, and the last watch that was considered if others remain.
pub(in crate::store) fn stop_selected(
    batch: &mut Batch<'_>,
    app: AppNo,
    filter: &WatchFilter,
    ids: &[WatchId],
    now: Timestamp,
) -> Result<(u64, Option<WatchId>)> {
    let (mut count, examined) = (0, batch.examined);
    for (n, part) in ids.chunks(TOGETHER).enumerate() {
        if batch.examined - examined >= deliveries::EXAMINED {
            return Ok((count, ids[..n * TOGETHER].last().copied()));
        }
        count += stop_part(batch, app, filter, part, now)?;
    }
    Ok((count, None))
}

fn stop_part(
    batch: &mut Batch<'_>,
    app: AppNo,
    filter: &WatchFilter,
    ids: &[WatchId],
    now: Timestamp,
) -> Result<u64> {
    let found = batch.tx.fetch(
        "select status from watches where app = $1 and id = $2",
        ids.iter().map(|id| params![app, id]),
        |row| row.word(0, WatchStatus::parse),
    )?;
    let has_status = |found: &Vec<WatchStatus>| {
        found.first().is_some_and(|status| filter.status.is_none_or(|wanted| wanted == *status))
    };
    let selected = ids.iter().zip(&found).filter(|(_, found)| has_status(found));
    let stops: Vec<StopWatch> = selected.map(|(watch, _)| StopWatch { app, watch: *watch, now }).collect();
    stop(batch, &stops.iter().collect::<Vec<_>>())?;
    Ok(stops.len() as u64)
}
