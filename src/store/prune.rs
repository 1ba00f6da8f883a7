//! Deletion of rows that are older than the retention, in chunks.
//!
//! A watch with a pending delivery is not deleted, however old it is.

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
        tx.each(sql, watches_with_events.iter().map(|(_, watch, _)| params![watch]))?;
    }
    tx.update_each(
        row_sql!("update watches set pruned = 1" where "app = $1 and id = $2"),
        watches_with_events.iter().map(|(app, watch, _)| params![app, watch]),
    )?;
    let watches = old_watches(tx, command.watches_before.min(command.events_before), "pruned = 1 and")?;
    let keys = watches.iter().map(|(app, watch, _)| params![app, watch]);
    let ids = watches.iter().map(|(_, watch, _)| params![watch]);
    tx.each("delete from watch_destinations where watch = $1", ids)?;
    tx.each("delete from watches where app = $1 and id = $2", keys)?;
    delete_jobs(tx, &watches.iter().map(|(.., job)| *job).collect())?;
    Ok(responses + watches_with_events.len() + watches.len())
}

/// Deletes those of the jobs that have no watch.
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

fn old_watches(tx: &Tx<'_>, before: Timestamp, which: &str) -> Result<Vec<(AppNo, Id, JobNo)>> {
    let sql = format!(
        "select app, id, job from watches w where {which} ended_at < $1
         and not exists (select 1 from deliveries d where d.watch = w.id and d.next_attempt_at is not null)
         order by ended_at limit $2"
    );
    tx.list(&sql, params![before, CHUNK], |row| Ok((AppNo(row.int(0)?), row.id(1)?, JobNo(row.int(2)?))))
}
