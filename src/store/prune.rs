//! Deletion of rows that are older than the retention, in chunks.
//!
//! A watch with a pending delivery is not deleted, however old it is.
//!
//! A job is deleted with its last watch. A job that is registered again and again may have a watch for ever, so the
//! rows of its past are deleted when the watches that show them have been deleted:
//!
//! - An *ending* is shown by each watch for which it is the first ending of the watch's generation or of a later
//!   one. A raw answer is sent from it to the watches that it ended, which have its time as their end.
//! - An *observation* is shown by each watch that was registered before it and had not ended.
//!
//! Both checks stop at the first watch that still shows the row. The watches that ended first are deleted first, so
//! this is usually the first watch that is read. All watches of a job are read only when the row is deleted.

use std::collections::BTreeSet;

use super::batch::Batch;
use super::db::{Result, Tx, params, row_sql};
use super::idempotency;
use crate::domain::{AppNo, Id, JobNo, Timestamp};

/// Maximum number of watches that are deleted in one transaction.
const CHUNK: u32 = 100;

/// Maximum number of stored responses that are deleted in one transaction.
const RESPONSES: u32 = 1_000;

/// Deletes a chunk of old rows. The result is the number of watches and stored responses.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Watches that ended before this time are deleted.
    pub watches_before: Timestamp,
    /// The events, deliveries and attempts of watches that ended before this time are deleted.
    pub events_before: Timestamp,
    /// The current time, for the age of stored responses.
    pub now: Timestamp,
}

pub(super) fn prune(batch: &mut Batch<'_>, command: &Prune) -> Result<usize> {
    let tx = &batch.tx;
    let responses = tx.run(
        "delete from idempotency where (app, path, key) in
           (select app, path, key from idempotency where created_at < $1 order by created_at limit $2)",
        params![command.now.minus(idempotency::VALID_FOR), RESPONSES],
    )?;
    let watches_with_events = old_watches(tx, command.events_before, "pruned = 0 and")?;
    for sql in [
        "delete from attempts where delivery in (select id from deliveries where watch = $1)",
        "delete from deliveries where watch = $1",
        "delete from events where watch = $1",
    ] {
        tx.each(sql, watches_with_events.iter().map(|watch| params![watch.id]))?;
    }
    tx.update_each(
        row_sql!("update watches set pruned = 1" where "app = $1 and id = $2"),
        watches_with_events.iter().map(|watch| params![watch.app, watch.id]),
    )?;
    let watches = old_watches(tx, command.watches_before.min(command.events_before), "pruned = 1 and")?;
    let keys = watches.iter().map(|watch| params![watch.app, watch.id]);
    let ids = watches.iter().map(|watch| params![watch.id]);
    tx.each("delete from watch_destinations where watch = $1", ids)?;
    tx.each("delete from watches where app = $1 and id = $2", keys)?;
    delete_jobs(tx, &watches.iter().map(|watch| watch.job).collect())?;
    delete_endings(tx, &watches)?;
    delete_observations(tx, &watches)?;
    Ok(responses + watches_with_events.len() + watches.len())
}

/// A watch that is deleted.
struct OldWatch {
    app: AppNo,
    id: Id,
    job: JobNo,
    generation: i64,
    created_at: Timestamp,
    ended_at: Timestamp,
}

/// Deletes those of the jobs that have no watch, with their past.
fn delete_jobs(tx: &Tx<'_>, jobs: &BTreeSet<JobNo>) -> Result<()> {
    let nos = jobs.iter().map(|job| params![job]);
    let left = tx.fetch("select job from watches where job = $1 limit 1", nos, |row| row.int(0))?;
    let unwatched = || jobs.iter().zip(&left).filter(|(_, left)| left.is_empty()).map(|(job, _)| job);
    for sql in [
        "delete from observations where job = $1",
        "delete from endings where job = $1",
        "delete from jobs where no = $1",
    ] {
        tx.each(sql, unwatched().map(|job| params![job]))?;
    }
    Ok(())
}

/// Deletes the endings that only deleted watches showed.
fn delete_endings(tx: &Tx<'_>, deleted: &[OldWatch]) -> Result<()> {
    let shown = tx.fetch(
        "select job, generation from endings
         where job = $1 and unfinished = 0 and (ended_at = $2 or generation = (
           select min(e.generation) from endings e where e.job = $1 and e.generation >= $3))",
        deleted.iter().map(|watch| params![watch.job, watch.ended_at, watch.generation]),
        |row| Ok((JobNo(row.int(0)?), row.int(1)?)),
    )?;
    let shown: BTreeSet<(JobNo, i64)> = shown.into_iter().flatten().collect();
    // An unfinished ending will be shown by watches that have not ended yet.
    tx.each(
        "delete from endings where job = $1 and generation = $2 and unfinished = 0 and not exists (
           select 1 from watches w
           where w.job = $1 and w.status in ('completed', 'failed', 'cancelled', 'not_found')
             and (w.ended_at = endings.ended_at or w.generation <= $2 and w.generation > coalesce(
               (select max(e.generation) from endings e where e.job = $1 and e.generation < $2), -1)))",
        shown.iter().map(|(job, generation)| params![job, generation]),
    )?;
    Ok(())
}

/// Deletes the observations that only deleted watches showed.
fn delete_observations(tx: &Tx<'_>, deleted: &[OldWatch]) -> Result<()> {
    tx.each(
        "delete from observations where job = $1 and observed_at >= $2 and observed_at <= $3 and not exists (
           select 1 from watches w
           where w.job = $1 and w.created_at <= observations.observed_at
             and coalesce(w.ended_at, observations.observed_at) >= observations.observed_at)",
        deleted.iter().map(|watch| params![watch.job, watch.created_at, watch.ended_at]),
    )?;
    Ok(())
}

fn old_watches(tx: &Tx<'_>, before: Timestamp, which: &str) -> Result<Vec<OldWatch>> {
    let sql = format!(
        "select app, id, job, generation, created_at, ended_at from watches w where {which} ended_at < $1
         and not exists (select 1 from deliveries d where d.watch = w.id and d.next_attempt_at is not null)
         order by ended_at limit $2"
    );
    tx.list(&sql, params![before, CHUNK], |row| {
        Ok(OldWatch {
            app: AppNo(row.int(0)?),
            id: row.id(1)?,
            job: JobNo(row.int(2)?),
            generation: row.int(3)?,
            created_at: row.time(4)?,
            ended_at: row.time(5)?,
        })
    })
}
