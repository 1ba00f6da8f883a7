//! Deletion of events that are about no watch, with their deliveries, and of groups.
//!
//! They are kept for as long as the events of a watch that ended at their time, and longer if a delivery is pending. Each
//! run reads an old one that it cannot delete only once, as it does with watches.

use super::super::db::{Result, Row, Tx, params, row_sql};
use super::rows::{delete_events, delete_part, number_within_rows};
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

/// What one step deletes, and how much.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// What is older is deleted.
    pub before: Timestamp,
    /// A manual retry that was requested earlier keeps nothing.
    pub requested_before: Timestamp,
    /// Maximum number of events, deliveries and attempts.
    pub rows: u32,
    /// Maximum number of events without a watch, or of groups.
    pub chunk: u32,
    /// Maximum number of those that are examined.
    pub examined: u32,
}

/// The operational events before `$2` that come after a position, and whether a delivery keeps each.
pub const OLD_OPERATIONAL: &str = "select id, created_at, case when exists (
    select 1 from deliveries d where d.watch = o.id and d.next_attempt_at is not null
      and (d.status = 'pending' or d.next_attempt_at >= $1)) then 1 else 0 end
  from operational_events o where created_at < $2 and (created_at, id) > ($3, $4)
  order by created_at, id limit $5";

/// The groups that ended before `$2` and come after a position, and whether a delivery keeps each.
pub const OLD_GROUPS: &str = "select id, ended_at, case when exists (
    select 1 from deliveries d where d.watch = g.id and d.next_attempt_at is not null
      and (d.status = 'pending' or d.next_attempt_at >= $1)) then 1 else 0 end
  from watch_groups g where pruned = 0 and ended_at < $2 and (ended_at, id) > ($3, $4)
  order by ended_at, id limit $5";

/// The groups without an event that ended before `$1` and come after a position, and whether a watch keeps each.
pub const EMPTY_GROUPS: &str = "select id, ended_at, case when exists (
    select 1 from watches w where w.watch_group = g.no) then 1 else 0 end
  from watch_groups g where pruned = 1 and ended_at < $1 and (ended_at, id) > ($2, $3)
  order by ended_at, id limit $4";

/// Deletes the next events of groups. Returns the same as [`prune_operational`].
pub fn prune_group_events(
    tx: &Tx<'_>,
    limits: &Limits,
    from: EventPosition,
) -> Result<(usize, Option<EventPosition>)> {
    let (old, next) = next_old(tx, OLD_GROUPS, limits, from)?;
    let ids = || old.iter().map(|position| params![position.id]);
    delete_events(tx, &ids())?;
    tx.update_each(row_sql!("update watch_groups set pruned = 1" where "id = $1"), ids())?;
    match next {
        Next::Part(id) => delete_part(tx, id, limits.rows).map(|()| (1, Some(from))),
        Next::Position(next) => Ok((old.len(), next)),
    }
}

/// Deletes the next groups whose event and whose watches have been deleted: a watch shows its group.
pub fn prune_groups(
    tx: &Tx<'_>,
    limits: &Limits,
    from: EventPosition,
) -> Result<(usize, Option<EventPosition>)> {
    let read =
        |row: &Row<'_>| Ok((EventPosition { id: WatchId(row.id(0)?), at: row.time(1)? }, row.flag(2)?));
    let found = tx.list(EMPTY_GROUPS, params![limits.before, from.at, from.id, limits.chunk], read)?;
    let may_have_more = found.len() == limits.chunk as usize;
    let next = found.last().map(|(position, _)| *position).filter(|_| may_have_more);
    let old: Vec<EventPosition> =
        found.into_iter().filter(|(_, is_kept)| !is_kept).map(|(position, _)| position).collect();
    let ids = || old.iter().map(|position| params![position.id]);
    tx.each("delete from watch_destinations where watch = $1", ids())?;
    tx.each("delete from watch_groups where id = $1", ids())?;
    Ok((old.len(), next))
}

/// Deletes the next operational events. Returns how many were deleted, also in part, and the position after them if more
/// may remain.
pub fn prune_operational(
    tx: &Tx<'_>,
    limits: &Limits,
    from: EventPosition,
) -> Result<(usize, Option<EventPosition>)> {
    let (old, next) = next_old(tx, OLD_OPERATIONAL, limits, from)?;
    let ids = || old.iter().map(|position| params![position.id]);
    delete_events(tx, &ids())?;
    tx.each("delete from watch_destinations where watch = $1", ids())?;
    tx.each("delete from operational_events where id = $1", ids())?;
    match next {
        Next::Part(id) => delete_part(tx, id, limits.rows).map(|()| (1, Some(from))),
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
    limits: &Limits,
    from: EventPosition,
) -> Result<(Vec<EventPosition>, Next)> {
    let read =
        |row: &Row<'_>| Ok((EventPosition { id: WatchId(row.id(0)?), at: row.time(1)? }, row.flag(2)?));
    let row = params![limits.requested_before, limits.before, from.at, from.id, limits.examined];
    let found = tx.list(sql, row, read)?;
    let may_have_more = found.len() == limits.examined as usize;
    let last = found.last().map(|(position, _)| *position).filter(|_| may_have_more);
    let mut old: Vec<EventPosition> =
        found.into_iter().filter(|(_, is_kept)| !is_kept).map(|(position, _)| position).collect();
    let is_cut = old.len() > limits.chunk as usize;
    old.truncate(limits.chunk as usize);
    let whole = number_within_rows(tx, old.iter().map(|position| position.id.0), limits.rows)?;
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
