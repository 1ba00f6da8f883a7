//! Time in which the process does not run. It is not counted against deliveries.
//!
//! The column `waited_ms` of a delivery contains its current wait in full (`domain/delivery` explains what the sum is
//! for), and `wait_began_at` is the beginning of that wait. If the process does not run during a part of the wait, the
//! part before a start is subtracted when the delivery is loaded ([`exclude`]). No row is changed for it: millions of deliveries may be
//! waiting at a start. The attempt that ends the wait writes the reduced sum.
//!
//! The store knows the interruptions from `nodes.running_at`, which the process sets at its start, every minute while a
//! delivery waits, and at each deletion of old data. If more time than [`COUNTED_MAX`] has passed since the last note, it
//! writes a row of `interruptions`.
//!
//! - A shorter interruption, such as an ordinary restart, is counted as a wait.
//! - After a longer one, the time between the last note and the end of the process, a minute at most, is subtracted
//!   as well.
//! - An idle process notes nothing. After a start, the time since its last note counts as an interruption; a wait that
//!   began after the note is not affected, apart from the minutes around it.
//! - The rows can overlap after the clock was set back. Each moment is subtracted once.
//!
//! Interruptions do not count for the maximum age of a delivery, either ([`created_before`]), and are kept until no
//! pending delivery can be as old. A process that stands still, or that can write nothing, leaves a row as well.

use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, Tx, params};
use super::super::reads::{INTERNAL, ReadStore};
use crate::domain::{PendingDelivery, Timestamp};

/// Longest interruption that is counted as a wait: two notes.
const COUNTED_MAX: Duration = Duration::from_secs(120);

/// Notes that the process runs.
#[derive(Clone, Debug)]
pub struct NoteRunning {
    /// Whether the process has just started.
    pub is_start: bool,
    /// The current time.
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
    note(&batch.tx, command.is_start, command.now)
}

/// Returns the time of the last note, if a longer interruption has followed it.
fn last_before_interruption(tx: &Tx<'_>, now: Timestamp) -> Result<Option<Timestamp>> {
    Ok(running_at(tx)?.filter(|last| now.since(*last) > COUNTED_MAX))
}

/// Notes that the process runs, and the interruption before.
fn note(tx: &Tx<'_>, is_start: bool, now: Timestamp) -> Result<()> {
    if let Some(last) = last_before_interruption(tx, now)? {
        tx.run(
            "insert into interruptions (started_at, ended_at, is_start) values ($1, $2, $3)
             on conflict (started_at) do update set ended_at = excluded.ended_at, is_start = excluded.is_start",
            params![last, now, is_start],
        )?;
    }
    tx.run("update nodes set running_at = $1", params![now]).map(|_| ())
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

/// The current wait of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    /// End of the attempt before it.
    pub began_at: Timestamp,
    /// Time of the next scheduled attempt.
    pub scheduled_at: Timestamp,
}

/// Subtracts the interruptions during the current waits from the sums of waits.
pub fn exclude<'a>(
    tx: &Tx<'_>,
    deliveries: impl Iterator<Item = (&'a mut PendingDelivery, Option<Wait>)>,
) -> Result<()> {
    let waiting: Vec<(&mut PendingDelivery, Wait)> =
        deliveries.filter_map(|(delivery, wait)| Some((delivery, wait?))).collect();
    let Some(first) = waiting.iter().map(|(_, wait)| wait.began_at).min() else { return Ok(()) };
    let interruptions: Vec<(Timestamp, Timestamp)> = tx.list(
        "select started_at, ended_at from interruptions where started_at >= $1 and is_start = 1 order by started_at",
        params![first.minus(COUNTED_MAX)],
        |row| Ok((row.time(0)?, row.time(1)?)),
    )?;
    for (delivery, wait) in waiting {
        delivery.waited = delivery.waited.saturating_sub(interrupted(&interruptions, wait));
    }
    Ok(())
}

/// Returns the part of a wait in which no process ran. The interruptions are in the order of their beginning.
fn interrupted(interruptions: &[(Timestamp, Timestamp)], wait: Wait) -> Duration {
    let mut until = wait.began_at;
    let mut sum = Duration::ZERO;
    for (started_at, ended_at) in interruptions {
        // The process ran while the wait began, and would have noted it: this is a note after an idle time.
        if wait.began_at > started_at.plus(COUNTED_MAX) {
            continue;
        }
        let (from, to) = (until.max(*started_at), (*ended_at).min(wait.scheduled_at));
        if from < to {
            sum = sum.saturating_add(to.since(from));
            until = to;
        }
    }
    sum
}
