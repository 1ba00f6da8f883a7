//! Deletion of events that are about no watch, with their deliveries.
//!
//! They are kept for as long as the events of a watch that ended at their time, and longer if a delivery is pending. Each
//! run reads an old one that it cannot delete only once, as it does with watches.

use super::super::db::{Result, Row, Tx, params};
use super::{Prune, delete_events, delete_part, number_within_rows};
use crate::domain::{Id, Timestamp, WatchId};

/// The last event that was examined, in the order of their times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventPosition {
    at: Timestamp,
    /// The id that stands in the place of a watch.
    id: WatchId,
}

impl Default for EventPosition {
    /// Returns the position before all events.
    fn default() -> Self {
        Self { at: Timestamp::from_millis(i64::MIN), id: WatchId(Id::from_bytes([0; 16])) }
    }
}

/// The operational events before `$2` that come after a position, and whether a delivery keeps each.
pub const OLD_OPERATIONAL: &str = "select id, created_at, case when exists (
    select 1 from deliveries d where d.watch = o.id and d.next_attempt_at is not null
      and (d.status = 'pending' or d.next_attempt_at >= $1)) then 1 else 0 end
  from operational_events o where created_at < $2 and (created_at, id) > ($3, $4)
  order by created_at, id limit $5";

/// Deletes the next operational events. Returns how many were deleted, also in part, and the position after them if more
/// may remain.
pub fn prune_operational(
    tx: &Tx<'_>,
    command: &Prune,
    requested_before: Timestamp,
) -> Result<(usize, Option<EventPosition>)> {
    let from = command.after.operational;
    let (old, next) = next_old(tx, OLD_OPERATIONAL, command, requested_before, from)?;
    let ids = || old.iter().map(|position| params![position.id]);
    delete_events(tx, ids())?;
    tx.each("delete from watch_destinations where watch = $1", ids())?;
    tx.each("delete from operational_events where id = $1", ids())?;
    match next {
        Next::Part(id) => delete_part(tx, id, command.rows).map(|()| (1, Some(from))),
        Next::Position(next) => Ok((old.len(), next)),
    }
}

/// What follows the events that a step deletes.
pub enum Next {
    /// The first event has too many rows for one step: a part of them is deleted.
    Part(Id),
    /// The position of the next step; `None` if nothing is left.
    Position(Option<EventPosition>),
}

/// Returns the next events that `sql` finds, of which all rows can be deleted in one step.
pub fn next_old(
    tx: &Tx<'_>,
    sql: &str,
    command: &Prune,
    requested_before: Timestamp,
    from: EventPosition,
) -> Result<(Vec<EventPosition>, Next)> {
    let read =
        |row: &Row<'_>| Ok((EventPosition { id: WatchId(row.id(0)?), at: row.time(1)? }, row.flag(2)?));
    let row = params![requested_before, command.events_before, from.at, from.id, command.examined()];
    let found = tx.list(sql, row, read)?;
    let may_have_more = found.len() == command.examined() as usize;
    let last = found.last().map(|(position, _)| *position).filter(|_| may_have_more);
    let mut old: Vec<EventPosition> =
        found.into_iter().filter(|(_, is_kept)| !is_kept).map(|(position, _)| position).collect();
    let is_cut = old.len() > command.chunk() as usize;
    old.truncate(command.chunk() as usize);
    let whole = number_within_rows(tx, old.iter().map(|position| position.id.0), command.rows)?;
    if whole == 0
        && let Some(first) = old.first()
    {
        let part = Next::Part(first.id.0);
        return Ok((Vec::new(), part));
    }
    let is_cut = is_cut || whole < old.len();
    old.truncate(whole);
    let next = if is_cut { old.last().copied() } else { last };
    Ok((old, Next::Position(next)))
}
