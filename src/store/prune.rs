//! Forgetting what is older than the retention, a chunk at a time.
//!
//! A watch with a delivery that is still pending is never forgotten, however old it is.

use std::collections::BTreeSet;

use super::batch::Batch;
use super::db::{Result, Tx};
use super::idempotency;
use crate::domain::{AppNo, Id, JobNo, Timestamp};

/// How many watches are forgotten in one transaction.
const CHUNK: u32 = 100;

/// How many remembered answers.
const ANSWERS: u32 = 1_000;

/// What to forget.
#[derive(Clone, Copy, Debug)]
pub struct Prune {
    /// Watches that ended before then.
    pub watches_before: Timestamp,
    /// Events, deliveries and attempts of watches that ended before then.
    pub events_before: Timestamp,
    /// When it is decided.
    pub now: Timestamp,
}

pub(super) fn prune(batch: &mut Batch<'_>, asks: &[&Prune]) -> Result<Vec<usize>> {
    asks.iter().map(|ask| prune_some(&batch.tx, ask)).collect()
}

fn prune_some(tx: &Tx<'_>, ask: &Prune) -> Result<usize> {
    let answers = tx.run(
        "delete from idempotency where (app, path, key) in
           (select app, path, key from idempotency where created_at < $1 order by created_at limit $2)",
        [ask.now.minus(idempotency::KEPT).into(), ANSWERS.into()],
    )?;
    let told = old_watches(tx, ask.events_before, "pruned = 0 and")?;
    for sql in [
        "delete from attempts where delivery in (select id from deliveries where watch = $1)",
        "delete from deliveries where watch = $1",
        "delete from events where watch = $1",
    ] {
        tx.each(sql, told.iter().map(|(_, watch, _)| [(*watch).into()]))?;
    }
    tx.each(
        "update watches set pruned = 1 where app = $1 and id = $2",
        told.iter().map(|(app, watch, _)| [app.0.into(), (*watch).into()]),
    )?;
    let watches = old_watches(tx, ask.watches_before.min(ask.events_before), "pruned = 1 and")?;
    tx.each(
        "delete from watch_destinations where watch = $1",
        watches.iter().map(|(_, watch, _)| [(*watch).into()]),
    )?;
    tx.each(
        "delete from watches where app = $1 and id = $2",
        watches.iter().map(|(app, watch, _)| [app.0.into(), (*watch).into()]),
    )?;
    forget_jobs(tx, &watches.iter().map(|(.., job)| *job).collect())?;
    Ok(answers + told.len() + watches.len())
}

/// Of these jobs, those of which no watch is left.
fn forget_jobs(tx: &Tx<'_>, jobs: &BTreeSet<JobNo>) -> Result<()> {
    let left = tx.fetch(
        "select job from watches where job = $1 limit 1",
        jobs.iter().map(|job| [job.0.into()]),
        |row| row.int(0),
    )?;
    let forgotten = || jobs.iter().zip(&left).filter(|(_, left)| left.is_empty()).map(|(job, _)| job);
    for sql in [
        "delete from observations where job = $1",
        "delete from endings where job = $1",
        "delete from jobs where no = $1",
    ] {
        tx.each(sql, forgotten().map(|job| [job.0.into()]))?;
    }
    Ok(())
}

fn old_watches(tx: &Tx<'_>, before: Timestamp, which: &str) -> Result<Vec<(AppNo, Id, JobNo)>> {
    let sql = format!(
        "select app, id, job from watches w where {which} ended_at < $1
         and not exists (select 1 from deliveries d where d.watch = w.id and d.next_attempt_at is not null)
         order by ended_at limit $2"
    );
    tx.list(&sql, [before.into(), CHUNK.into()], |row| {
        Ok((AppNo(row.int(0)?), row.id(1)?, JobNo(row.int(2)?)))
    })
}
