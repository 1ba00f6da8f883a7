//! Sweeps: what the deliveries of a saved destination become when it is disabled or enabled, in chunks.
//!
//! - **Skip**, after it was disabled. The index of waiting deliveries lists what is left, so a sweep needs no position,
//!   and can begin again at any time. A manual retry of a delivery that has ended is cancelled.
//! - **Retry**, after it was enabled, if the client wants what was skipped. The skipped deliveries of the app are
//!   examined in the order of their creation, and the position is stored. Each becomes pending with its whole schedule
//!   before it. The first attempt is a manual one, so that the maximum age of a pending delivery counts from the
//!   request. Deliveries of stopped watches stay skipped, and so does the progress of watches that have ended.

use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, Row, StoreError, params, row_sql};
use super::super::reads::{INTERNAL, ReadStore};
use crate::domain::{
    AppNo, DeliveryId, DeliveryStatus, DestinationId, DispatcherMessage, EventType, Id, Reason, SavedNo,
    Timestamp,
};

/// Maximum number of deliveries that are changed in one transaction.
const CHUNK: u32 = 200;

/// Maximum number of skipped deliveries of an app that one transaction examines.
const EXAMINED: u32 = 1_000;

/// The sweep that skips what is pending.
pub const SKIP: &str = "skip";

/// The sweep that makes pending what was skipped.
pub const RETRY: &str = "retry";

/// Continues the sweep of one destination. The result is whether more remains.
#[derive(Clone, Copy, Debug)]
pub struct SweepDestinations {
    /// Wait after a first attempt that fails.
    pub first_wait: Duration,
    /// The current time.
    pub now: Timestamp,
}

struct Sweep {
    no: SavedNo,
    app: AppNo,
    id: DestinationId,
    after: Option<Id>,
}

impl ReadStore {
    /// Returns whether the deliveries of a destination are left to be skipped or retried.
    pub async fn has_sweep(&self) -> Result<bool> {
        let sql = "select no from destinations where sweep is not null limit 1";
        self.read(INTERNAL, move |tx| Ok(tx.find(sql, [], |row| row.int(0))?.is_some())).await
    }
}

pub fn sweep_destinations(batch: &mut Batch<'_>, command: &SweepDestinations) -> Result<bool> {
    let read = |row: &Row<'_>| {
        let broken = |_| StoreError::Inconsistent("an id is not 16 bytes".to_owned());
        let after = row.opt_bytes(3)?.map(|bytes| bytes.try_into().map(Id::from_bytes)).transpose();
        let sweep = Sweep {
            no: SavedNo(row.int(0)?),
            app: AppNo(row.int(1)?),
            id: DestinationId(row.id(2)?),
            after: after.map_err(broken)?,
        };
        Ok((sweep, row.text(4)? == RETRY))
    };
    let unreadable = &batch.shared.unreadable;
    let left_out = unreadable.count("destinations");
    let found = batch.tx.list(
        "select no, app, id, sweep_after, sweep from destinations where sweep is not null order by no limit $1",
        params![i64::try_from(left_out + 1).unwrap_or(i64::MAX)],
        |row| unreadable.skip(("destinations", 0), row, read(row)),
    )?;
    let Some((sweep, is_retry)) = found.into_iter().flatten().next() else {
        return Ok(unreadable.count("destinations") > left_out);
    };
    let is_done = if is_retry { retry(batch, &sweep, command)? } else { skip(batch, &sweep)? };
    if is_done {
        batch.tx.run(
            "update destinations set sweep = null, sweep_after = null where no = $1",
            params![sweep.no],
        )?;
    }
    Ok(true)
}

/// Skips a chunk of the waiting deliveries. Returns whether it was the last.
fn skip(batch: &mut Batch<'_>, sweep: &Sweep) -> Result<bool> {
    let queue = sweep.id.queue(sweep.app);
    // Those that cannot be read wait, and others behind them are skipped.
    let unreadable = &batch.shared.unreadable;
    let left_out = unreadable.count("deliveries");
    let limit = CHUNK as usize + left_out;
    let found = batch.tx.fetch(
        "select id, status from deliveries where queue = $1 and is_retry = $2 and next_attempt_at <= $3
         order by next_attempt_at limit $4",
        [0_i64, 1].iter().map(|is_retry| {
            params![&queue, is_retry, Timestamp::MAX, i64::try_from(limit).unwrap_or(i64::MAX)]
        }),
        |row| {
            let read = || Ok((DeliveryId(row.id(0)?), row.word(1, DeliveryStatus::parse)?));
            unreadable.skip(("deliveries", 0), row, read())
        },
    )?;
    let is_done = found.iter().all(|found| found.len() < limit);
    let found: Vec<_> = found.into_iter().flatten().flatten().collect();
    let (pending, ended): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|(_, status)| *status == DeliveryStatus::Pending);
    let reason = Reason::Disabled;
    let skipped = batch.tx.update_each(
        row_sql!(
            "update deliveries set status = 'skipped', reason = $1, scheduled_at = null, next_attempt_at = null,
               is_manual = 0"
            where "app = $2 and id = $3 and status = 'pending'"
        ),
        pending.iter().map(|(id, _)| params![reason, sweep.app, id]),
    )?;
    batch.tx.update_each(
        row_sql!("update deliveries set next_attempt_at = null, is_manual = 0" where "app = $1 and id = $2"),
        ended.iter().map(|(id, _)| params![sweep.app, id]),
    )?;
    batch.effects.tally.skipped.push((reason, skipped.into_iter().sum()));
    Ok(is_done)
}

/// Makes a chunk of the skipped deliveries pending. Returns whether it was the last.
fn retry(batch: &mut Batch<'_>, sweep: &Sweep, command: &SweepDestinations) -> Result<bool> {
    let after = sweep.after.unwrap_or(Id::from_bytes([0; 16]));
    // The partial index of skipped deliveries applies only to exactly these expressions.
    let examined = batch.tx.list(
        "select id, destination, reason from deliveries where status || '' = 'skipped' and app + 0 = $1 and id > $2
         order by id limit $3",
        params![sweep.app, after, EXAMINED],
        |row| {
            let is_disabled = row.opt_text(2)?.as_deref() == Some(Reason::Disabled.as_str());
            Ok((DeliveryId(row.id(0)?), is_disabled && DestinationId(row.id(1)?) == sweep.id))
        },
    )?;
    let mut own: Vec<DeliveryId> = examined.iter().filter(|(_, is_own)| *is_own).map(|(id, _)| *id).collect();
    let has_more_own = own.len() > CHUNK as usize;
    own.truncate(CHUNK as usize);
    let last = if has_more_own { own.last().copied() } else { examined.last().map(|(id, _)| *id) };
    let is_done = !has_more_own && examined.len() < EXAMINED as usize;
    let watches = batch.tx.fetch(
        "select d.type, coalesce(w.status, '') from deliveries d left join watches w on w.app = d.app and w.id = d.watch
         where d.app = $1 and d.id = $2",
        own.iter().map(|id| params![sweep.app, id]),
        |row| Ok((row.word(0, EventType::parse)?, row.text(1)?)),
    )?;
    let is_wanted = |rows: &Vec<(EventType, String)>| {
        rows.first().is_some_and(|(event, status)| {
            !event.is_of_watch() || status == "watching" || (status != "stopped" && event.is_ending())
        })
    };
    let wanted = own.iter().zip(&watches).filter(|(_, rows)| is_wanted(rows)).map(|(id, _)| id);
    let retried = batch.tx.update_each(
        row_sql!(
            "update deliveries set status = 'pending', reason = null, step = 0, waited_ms = 0, is_retry = 1,
               is_manual = 1, wait_began_at = null, scheduled_at = $1, next_attempt_at = $2"
            where "app = $3 and id = $4 and status = 'skipped'"
        ),
        wanted.map(|id| params![command.now.plus(command.first_wait), command.now, sweep.app, id]),
    )?;
    if let Some(last) = last {
        batch.tx.run("update destinations set sweep_after = $1 where no = $2", params![last, sweep.no])?;
    }
    if retried.into_iter().any(|changed| changed > 0) {
        let (queue, requested) = (sweep.id.queue(sweep.app), Vec::new());
        batch.effects.dispatcher_messages.push(DispatcherMessage::QueueChanged { queue, requested });
    }
    Ok(is_done)
}
