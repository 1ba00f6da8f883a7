//! Deletion of rows that are older than the retention, in chunks.
//!
//! A watch with a pending delivery is not deleted, however old it is. A delivery is not pending for ever
//! (`deliveries/overdue`). Neither is a manual retry of a delivery that has ended: a request that was not carried out
//! for as long keeps no watch. Each run reads an old watch that it cannot delete only once: the next chunk continues
//! after it.
//!
//! **The rows of a transaction are limited**, because every other write waits for it. A watch can have many: an attempt
//! for each manual retry, and an event with a delivery to each destination for every progress of a month. Such a watch
//! is deleted in parts, and counts as deleted when no row is left. How long a transaction takes depends on the disk and
//! on the size of the rows. The caller therefore adapts the number of rows ([`Prune::rows`]).
//!
//! A job is deleted with its last watch. A job that is registered again and again may have a watch for ever, so the
//! rows of its past are deleted when the watches that show them have been deleted:
//!
//! - An *ending* is shown by each watch for which it is the first ending of the watch's generation or of a later
//!   one. A raw answer is sent from it to the watches that it ended, which have its time as their end.
//! - An *observation* is shown by each watch that was registered before it and had not ended.
//!
//! A job can have very many watches, of one generation or of many. So neither check reads all of them: the check of an
//! ending is a search in an index by job and generation, and that of observations reads [`READ_OF_JOB`] watches. If
//! more watches of one generation are left, their observations are deleted later.

mod rows;
mod without_watch;

use std::collections::BTreeSet;
use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, Tx, params, row_sql};
use super::deliveries::created_before;
use super::destinations;
use super::events;
use super::idempotency;
use super::job_cancels;
use super::operations::expiry::prune_finished;
use crate::domain::{AppNo, Id, JobNo, Timestamp, WatchId};

use self::rows::{delete_events, delete_part, number_within_rows};
#[cfg(test)]
pub(super) use self::without_watch::{EMPTY_GROUPS, OLD_GROUPS, OLD_OPERATIONAL};
use self::without_watch::{EventPosition, Limits, prune_group_events, prune_groups, prune_operational};

/// Maximum number of watches that are deleted in one transaction.
const CHUNK: u32 = 100;

/// Maximum number of old watches that are examined in one transaction: some of them may have pending deliveries.
const EXAMINED: u32 = 1_000;

/// Maximum number of watches of a job that are read to find the first registration.
const READ_OF_JOB: u32 = 100;

/// Time after which the row of a job is deleted whose last watch was erased while it ran. A poll takes a minute at most.
const ORPHANED_FOR: Duration = Duration::from_secs(3600);

/// Deletes a chunk of old rows.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Watches that ended before this time are deleted.
    pub watches_before: Timestamp,
    /// The events, deliveries and attempts of watches that ended before this time are deleted.
    pub events_before: Timestamp,
    /// A manual retry that was requested longer ago keeps no watch.
    pub pending_max: Duration,
    /// The current time, for the age of stored responses.
    pub now: Timestamp,
    /// Maximum number of events, deliveries and attempts that are deleted, and of stored responses: at most
    /// [`Prune::ROWS_MAX`].
    pub rows: u32,
    /// Position of the last result.
    pub after: PrunePosition,
}

impl Prune {
    /// Maximum number of rows of each kind that are deleted in one transaction.
    pub const ROWS_MAX: u32 = 1_000;

    fn chunk(&self) -> u32 {
        self.rows.min(CHUNK)
    }

    fn examined(&self) -> u32 {
        self.rows.saturating_mul(10).min(EXAMINED)
    }
}

/// How far a run has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrunePosition {
    watch: WatchPosition,
    operational: EventPosition,
    groups: EventPosition,
    empty_groups: EventPosition,
}

/// The last watch that was examined, in the order of the ends of the watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WatchPosition {
    ended_at: Timestamp,
    app: AppNo,
    id: WatchId,
}

impl Default for WatchPosition {
    /// Returns the position before all watches.
    fn default() -> Self {
        Self {
            ended_at: Timestamp::from_millis(i64::MIN),
            app: AppNo(0),
            id: WatchId(Id::from_bytes([0; 16])),
        }
    }
}

/// Result of [`Prune`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pruned {
    /// Number of watches, of events about no watch, also in part, of groups, of stored responses, and of rows of saved
    /// destinations that were deleted.
    pub count: usize,
    /// Position of the next chunk; `None` if nothing is left.
    pub next: Option<PrunePosition>,
}

pub(super) fn prune(batch: &mut Batch<'_>, command: &Prune) -> Result<Pruned> {
    batch.checkpoint_early();
    let tx = &batch.tx;
    let responses = delete_responses(tx, command.now.minus(idempotency::VALID_FOR), command.rows)?;
    let requested_before = created_before(tx, command.pending_max, command.now)?;
    let (mut watches_with_events, mut next) = watches_with_old_events(tx, command, requested_before)?;
    let whole = number_within_rows(tx, watches_with_events.iter().map(|watch| watch.id), command.rows)?;
    let mut parts = 0;
    if whole < watches_with_events.len() {
        if whole == 0 {
            delete_part(tx, watches_with_events[0].id, command.rows)?;
            parts = 1;
        }
        watches_with_events.truncate(whole);
        next = Some(watches_with_events.last().map_or(command.after.watch, OldWatch::position));
    }
    delete_events(tx, &watches_with_events.iter().map(|watch| params![watch.id]))?;
    tx.update_each(
        row_sql!("update watches set pruned = 1" where "app = $1 and id = $2"),
        watches_with_events.iter().map(|watch| params![watch.app, watch.id]),
    )?;
    // These have no deliveries any more, so each is deleted.
    let watches = tx.list(
        "select app, id, job, generation, ended_at from watches where pruned = 1 and ended_at < $1
         order by ended_at limit $2",
        params![command.watches_before.min(command.events_before), command.chunk()],
        old_watch,
    )?;
    let keys = watches.iter().map(|watch| params![watch.app, watch.id]);
    let ids = watches.iter().map(|watch| params![watch.id]);
    tx.each("delete from watch_destinations where watch = $1", ids)?;
    job_cancels::delete(tx, watches.iter().map(|watch| WatchId(watch.id)))?;
    tx.each("delete from watches where app = $1 and id = $2", keys)?;
    delete_jobs(tx, &watches.iter().map(|watch| watch.job).collect())?;
    delete_endings(tx, &watches)?;
    delete_observations(tx, &watches)?;
    let of_destinations = destinations::prune_hours(tx, command.now, command.rows)?
        + destinations::prune_deleted(tx, command.chunk())?;
    let old = prune_finished(tx, command.now, command.rows)?
        + delete_orphans(tx, command.now, command.chunk())?
        + events::prune_erased(tx, command.events_before, command.rows)?;
    let limits = Limits {
        before: command.events_before,
        requested_before,
        rows: command.rows,
        chunk: command.chunk(),
        examined: command.examined(),
    };
    let (operational, next_operational) = prune_operational(tx, &limits, command.after.operational)?;
    let (group_events, next_groups) = prune_group_events(tx, &limits, command.after.groups)?;
    let limits = Limits { before: command.watches_before.min(command.events_before), ..limits };
    let (groups, next_empty) = prune_groups(tx, &limits, command.after.empty_groups)?;
    let count = responses + watches_with_events.len() + parts + watches.len() + of_destinations;
    let count = count + operational + group_events + groups + old;
    let others = [next_operational, next_groups, next_empty];
    let is_done = count == 0 && next.is_none() && others.iter().all(Option::is_none);
    let next = PrunePosition {
        watch: next.unwrap_or(command.after.watch),
        operational: next_operational.unwrap_or(command.after.operational),
        groups: next_groups.unwrap_or(command.after.groups),
        empty_groups: next_empty.unwrap_or(command.after.empty_groups),
    };
    Ok(Pruned { count, next: (!is_done).then_some(next) })
}

/// Deletes the oldest of the stored responses from before this time, at most so many. Returns their number.
fn delete_responses(tx: &Tx<'_>, before: Timestamp, rows: u32) -> Result<usize> {
    idempotency::delete_fitting(
        tx,
        "select app, path, key, octet_length(response) from idempotency where created_at < $1
         order by created_at limit $2",
        &params![before, rows],
    )
}

/// A watch that is deleted.
pub(super) struct OldWatch {
    pub(super) app: AppNo,
    pub(super) id: Id,
    pub(super) job: JobNo,
    pub(super) generation: i64,
    pub(super) ended_at: Timestamp,
}

impl OldWatch {
    fn position(&self) -> WatchPosition {
        WatchPosition { ended_at: self.ended_at, app: self.app, id: WatchId(self.id) }
    }
}

/// Deletes those of the jobs that have no watch, with their past.
pub(super) fn delete_jobs(tx: &Tx<'_>, jobs: &BTreeSet<JobNo>) -> Result<()> {
    let nos = jobs.iter().map(|job| params![job]);
    let left = tx.fetch("select job from watches where job = $1 limit 1", nos, |row| row.int(0))?;
    let unwatched = || jobs.iter().zip(&left).filter(|(_, left)| left.is_empty()).map(|(job, _)| job);
    for sql in [
        "delete from observations where job = $1",
        "delete from endings where job = $1",
        "delete from job_polls where job = $1",
        "delete from jobs where no = $1",
    ] {
        tx.each(sql, unwatched().map(|job| params![job]))?;
    }
    Ok(())
}

/// Deletes jobs whose last watch was erased long enough ago (`erase`). A job that has a watch again stays. Returns how
/// many were examined.
fn delete_orphans(tx: &Tx<'_>, now: Timestamp, rows: u32) -> Result<usize> {
    let found = tx.list(
        "select no from jobs where orphaned_at < $1 order by orphaned_at limit $2",
        params![now.minus(ORPHANED_FOR), rows],
        |row| Ok(JobNo(row.int(0)?)),
    )?;
    delete_jobs(tx, &found.iter().copied().collect())?;
    tx.update_each(
        row_sql!("update jobs set orphaned_at = null" where "no = $1"),
        found.iter().map(|job| params![*job]),
    )?;
    Ok(found.len())
}

/// Deletes the endings that only deleted watches showed: the first and the second one that follow each watch. An
/// ending that is being applied can be overtaken by the next one, so both can have ended the watch.
pub(super) fn delete_endings(tx: &Tx<'_>, deleted: &[OldWatch]) -> Result<()> {
    let generations: BTreeSet<(JobNo, i64)> = deleted.iter().map(|one| (one.job, one.generation)).collect();
    let shown = tx.fetch(
        "select job, generation from endings where job = $1 and generation >= $2 order by generation limit 2",
        generations.iter().map(|(job, generation)| params![job, generation]),
        |row| Ok((JobNo(row.int(0)?), row.int(1)?)),
    )?;
    let shown: BTreeSet<(JobNo, i64)> = shown.into_iter().flatten().collect();
    // An unfinished ending will be shown by watches that have not ended yet.
    tx.each(
        "delete from endings where job = $1 and generation = $2 and unfinished = 0
         and not exists (
           select 1 from watches w
           where w.job = $1 and w.ended_at is not null and w.generation <= $2 and w.generation > coalesce(
             (select max(e.generation) from endings e where e.job = $1 and e.generation < $2), -1))
         and not exists (
           select 1 from watches w
           where w.job = $1 and w.ended_at = endings.ended_at and w.generation =
             (select max(e.generation) from endings e where e.job = $1 and e.generation < $2))",
        shown.iter().map(|(job, generation)| params![job, generation]),
    )?;
    Ok(())
}

/// Deletes the observations that only deleted watches showed: those before the first registration of a watch that is
/// left.
pub(super) fn delete_observations(tx: &Tx<'_>, deleted: &[OldWatch]) -> Result<()> {
    let jobs: BTreeSet<JobNo> = deleted.iter().map(|watch| watch.job).collect();
    let registrations = |sql| {
        let nos = jobs.iter().map(|job| params![job, READ_OF_JOB]);
        tx.fetch(sql, nos, |row| Ok((row.int(0)?, row.time(1)?)))
    };
    let ended = registrations(
        "select generation, created_at from watches where job = $1 and ended_at is not null
         order by generation, ended_at limit $2",
    )?;
    let watching = registrations(
        "select generation, created_at from watches where job = $1 and status = 'watching' limit $2",
    )?;
    let firsts = ended.iter().zip(&watching).map(|(ended, watching)| {
        let first = first_registration(ended)?;
        Some(first.min(first_registration(watching)?))
    });
    let old = jobs.iter().zip(firsts).filter_map(|(job, first)| Some((job, first?)));
    let old: Vec<_> = old.collect();
    tx.each(
        "delete from observations where job = $1 and observed_at < $2",
        old.iter().map(|(job, first)| params![*job, *first]),
    )?;
    Ok(())
}

/// Returns the time of the first registration among watches of a job, of which not all may have been read; the latest
/// possible time without a watch. `None`: it is not known. Watches of a later generation were registered later.
fn first_registration(watches: &[(i64, Timestamp)]) -> Option<Timestamp> {
    let is_one_generation = || watches.iter().all(|(generation, _)| *generation == watches[0].0);
    if watches.len() == READ_OF_JOB as usize && is_one_generation() {
        return None;
    }
    Some(watches.iter().map(|(_, created_at)| *created_at).min().unwrap_or(Timestamp::MAX))
}
/// The watches that ended before `$2` and come after a position, and whether a delivery keeps each.
pub(super) const OLD: &str = "select app, id, job, generation, ended_at, case when exists (
    select 1 from deliveries d where d.watch = w.id and d.next_attempt_at is not null
      and (d.status = 'pending' or d.next_attempt_at >= $1)) then 1 else 0 end
  from watches w where pruned = 0 and ended_at < $2 and (ended_at, app, id) > ($3, $4, $5)
  order by ended_at, app, id limit $6";

/// Returns the next watches whose events are deleted, and the position after them if more may remain.
fn watches_with_old_events(
    tx: &Tx<'_>,
    command: &Prune,
    requested_before: Timestamp,
) -> Result<(Vec<OldWatch>, Option<WatchPosition>)> {
    let WatchPosition { ended_at, app, id } = command.after.watch;
    let found = tx.list(
        OLD,
        params![requested_before, command.events_before, ended_at, app, id, command.examined()],
        |row| Ok((old_watch(row)?, row.flag(5)?)),
    )?;
    let may_have_more = found.len() == command.examined() as usize;
    let last = found.last().map(|(watch, _)| watch.position());
    let mut old: Vec<OldWatch> =
        found.into_iter().filter(|(_, is_kept)| !is_kept).map(|(watch, _)| watch).collect();
    if old.len() > command.chunk() as usize {
        old.truncate(command.chunk() as usize);
        let next = old.last().map(OldWatch::position);
        return Ok((old, next));
    }
    Ok((old, last.filter(|_| may_have_more)))
}

fn old_watch(row: &Row<'_>) -> Result<OldWatch> {
    Ok(OldWatch {
        app: AppNo(row.int(0)?),
        id: row.id(1)?,
        job: JobNo(row.int(2)?),
        generation: row.int(3)?,
        ended_at: row.time(4)?,
    })
}
