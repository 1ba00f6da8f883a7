//! Time in which the process does not run. It is not counted against deliveries.
//!
//! The column `waited_ms` of a delivery contains its current wait in full (`domain/delivery` explains what the sum is
//! for). If the process does not run during a part of that wait, the next start subtracts the part. It knows the part
//! from `nodes.running_at`, which the process sets every minute while a delivery waits, and at each deletion of old data.
//!
//! - A short interruption ([`COUNTED_MAX`]) is counted, so an ordinary restart changes no row.
//! - After a longer one, the time between the last note and the end of the process, a minute at most, is subtracted
//!   as well.
//! - The subtraction and the new note are one transaction: if it is repeated, no time is left to subtract.
//!
//! The longer interruptions are also kept as rows of `interruptions`, until no pending delivery can be as old: they do
//! not count for the maximum age of a delivery ([`created_before`]). A process that stands still, or that can write
//! nothing, leaves such a row as well. So does an idle process, which notes nothing; no delivery is pending then.

use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, Tx, params};
use super::super::reads::{INTERNAL, ReadStore};
use crate::domain::Timestamp;

/// Longest interruption that is counted as a wait: two notes.
const COUNTED_MAX: Duration = Duration::from_secs(120);

/// Notes that the process runs.
#[derive(Clone, Debug)]
pub struct NoteRunning {
    /// The current time.
    pub now: Timestamp,
}

/// Subtracts the time in which no process ran from the waits of pending deliveries. The result is their number.
#[derive(Clone, Debug)]
pub struct ExcludeDowntime {
    /// The current time, shortly after the start.
    pub now: Timestamp,
}

fn running_at(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    tx.one("select max(running_at) from nodes", [], |row| row.opt_time(0))
}

impl ReadStore {
    /// Returns the last noted time at which a process ran.
    pub async fn running_at(&self) -> Result<Option<Timestamp>> {
        self.read(INTERNAL, running_at).await
    }
}

pub fn note_running(batch: &mut Batch<'_>, command: &NoteRunning) -> Result<()> {
    note(&batch.tx, command.now).map(|_| ())
}

/// Returns the time of the last note, if a longer interruption has followed it.
fn last_before_interruption(tx: &Tx<'_>, now: Timestamp) -> Result<Option<Timestamp>> {
    Ok(running_at(tx)?.filter(|last| now.since(*last) > COUNTED_MAX))
}

/// Notes that the process runs, and the interruption before. Returns the time of the last note, if a longer
/// interruption has followed it.
fn note(tx: &Tx<'_>, now: Timestamp) -> Result<Option<Timestamp>> {
    let last = last_before_interruption(tx, now)?;
    if let Some(last) = last {
        tx.run(
            "insert into interruptions (started_at, ended_at) values ($1, $2)
             on conflict (started_at) do update set ended_at = excluded.ended_at",
            params![last, now],
        )?;
    }
    tx.run("update nodes set running_at = $1", params![now])?;
    Ok(last)
}

/// Returns the time since which the process has run for `age`: the latest creation of what is as old.
pub fn created_before(tx: &Tx<'_>, age: Duration, now: Timestamp) -> Result<Timestamp> {
    let earliest = now.minus(age);
    let current = last_before_interruption(tx, now)?.map(|last| (last, now));
    let noted = tx.list(
        "select started_at, ended_at from interruptions where started_at < $1 order by started_at desc",
        params![now],
        |row| Ok((row.time(0)?, row.time(1)?)),
    )?;
    let (mut left, mut until) = (age, now);
    for (started_at, ended_at) in current.into_iter().chain(noted) {
        let ran = until.since(ended_at.min(until));
        // Notes that overlap are left by a clock that was set back.
        if ran >= left || started_at >= until {
            continue;
        }
        (left, until) = (left.saturating_sub(ran), started_at);
    }
    let before = until.minus(left);
    debug_assert!(before <= earliest, "an interruption makes nothing older");
    Ok(before)
}

/// Deletes the interruptions that no pending delivery can have seen.
pub fn forget_interruptions(tx: &Tx<'_>, before: Timestamp) -> Result<()> {
    tx.run("delete from interruptions where ended_at < $1", params![before]).map(|_| ())
}

pub fn exclude_downtime(batch: &mut Batch<'_>, command: &ExcludeDowntime) -> Result<usize> {
    let now = command.now;
    let Some(last) = note(&batch.tx, now)? else { return Ok(0) };
    // `scheduled_at` is the end of the wait. A part of the wait may lie before `last`, and a part after `now`.
    batch.tx.run(
        "update deliveries set waited_ms = case
           when waited_ms < (case when scheduled_at < $1 then scheduled_at else $1 end) - $2 then 0
           else waited_ms - ((case when scheduled_at < $1 then scheduled_at else $1 end) - $2) end
         where next_attempt_at is not null and status = 'pending' and step > 0 and scheduled_at > $2",
        params![now, last],
    )
}
