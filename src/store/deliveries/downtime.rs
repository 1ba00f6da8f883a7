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
    batch.tx.run("update nodes set running_at = $1", params![command.now]).map(|_| ())
}

pub fn exclude_downtime(batch: &mut Batch<'_>, command: &ExcludeDowntime) -> Result<usize> {
    let now = command.now;
    let last = running_at(&batch.tx)?;
    note_running(batch, &NoteRunning { now })?;
    let Some(last) = last.filter(|last| now.since(*last) > COUNTED_MAX) else { return Ok(0) };
    // `scheduled_at` is the end of the wait. A part of the wait may lie before `last`, and a part after `now`.
    batch.tx.run(
        "update deliveries set waited_ms = case
           when waited_ms < (case when scheduled_at < $1 then scheduled_at else $1 end) - $2 then 0
           else waited_ms - ((case when scheduled_at < $1 then scheduled_at else $1 end) - $2) end
         where next_attempt_at is not null and status = 'pending' and step > 0 and scheduled_at > $2",
        params![now, last],
    )
}
