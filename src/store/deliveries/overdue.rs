//! The end of deliveries that have been pending for too long.
//!
//! A delivery ends by its attempts or by its waits (`domain/delivery`). Neither ends a delivery that is held back:
//! while a breaker is open, one attempt is made every 10 seconds. If a host never comes back, and an app registers
//! watches for it faster than that, most of its deliveries get no attempt, and their number would grow without limit. A
//! delivery that has been pending for the maximum time therefore ends as `exhausted`, without an attempt.
//!
//! - The time counts from the creation of the delivery. If a manual retry waits, it counts from the request.
//! - Time in which no process ran does not count (`downtime`).
//! - An attempt in flight continues. If it succeeds, the delivery has succeeded.
//! - A saved destination remembers that a delivery has failed for good, so its next success is a recovery.
//!
//! The ids of pending deliveries are in the order of their creation, and an index lists them by app. Each step ends one
//! chunk of one app, and returns the app with which the next one continues.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, Row, params, row_sql};
use super::super::destinations;
use super::downtime::{created_before, forget_interruptions};
use super::exhausted::{Failing, raise_exhausted};
use crate::domain::{AppNo, ChannelKind, DeliveryId, EventType, Id, Reason, SavedNo, Timestamp};

/// Maximum number of deliveries that are ended in one transaction.
const CHUNK: u32 = 200;

/// Maximum number of apps that are examined in one transaction.
const APPS: u32 = 1_000;

/// Ends a chunk of the deliveries that have been pending for too long.
#[derive(Clone, Copy, Debug)]
pub struct EndOverdue {
    /// Maximum time for which a delivery is pending.
    pub pending_max: Duration,
    /// First app to examine: that of the last result, or 0.
    pub from: AppNo,
    /// The current time.
    pub now: Timestamp,
}

/// Result of [`EndOverdue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndedOverdue {
    /// Number of deliveries that were ended.
    pub count: usize,
    /// First app of the next step; `None` if every app was examined.
    pub next: Option<AppNo>,
}

/// A delivery that has been pending for too long.
struct Overdue {
    id: DeliveryId,
    channel: ChannelKind,
    attempts: u32,
    event_type: EventType,
    saved: Option<SavedNo>,
}

pub fn end_overdue(batch: &mut Batch<'_>, command: &EndOverdue) -> Result<EndedOverdue> {
    let before = created_before(&batch.tx, command.pending_max, command.now)?;
    let apps = batch.tx.list(
        "select no from apps where no >= $1 order by no limit $2",
        params![command.from, APPS + 1],
        |row| row.int(0).map(AppNo),
    )?;
    let (examined, next) = match apps.split_at_checked(APPS as usize) {
        Some((examined, rest)) => (examined, rest.first().copied()),
        None => (&apps[..], None),
    };
    let overdue = "from deliveries d join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
         where d.status || '' = 'pending' and d.app + 0 = $1 and d.id < $2
           and (d.is_manual = 0 or d.next_attempt_at < $3) order by d.id limit";
    let least = Id::least(before);
    let first = batch.tx.fetch(
        &format!("select d.app {overdue} 1"),
        examined.iter().map(|app| params![app, least, before]),
        |row| row.int(0).map(AppNo),
    )?;
    let Some(app) = first.into_iter().flatten().next() else {
        if next.is_none() {
            forget_interruptions(&batch.tx, before)?;
        }
        return Ok(EndedOverdue { count: 0, next });
    };
    let read = |row: &Row<'_>| {
        Ok(Overdue {
            id: DeliveryId(row.id(0)?),
            channel: row.word(1, ChannelKind::parse)?,
            attempts: row.count(2)?,
            event_type: row.word(3, EventType::parse)?,
            saved: row.opt_int(4)?.map(SavedNo),
        })
    };
    // Those that cannot be read stay pending, and others behind them end.
    let unreadable = &batch.shared.unreadable;
    let left_out = unreadable.count("deliveries");
    let limit = i64::from(CHUNK) + i64::try_from(left_out).unwrap_or(i64::MAX / 2);
    let found = batch.tx.list(
        &format!("select d.id, wd.channel, d.attempts, d.type, wd.saved {overdue} $4"),
        params![app, least, before, limit],
        |row| unreadable.skip(("deliveries", 0), row, read(row)),
    )?;
    let mut found: Vec<Overdue> = found.into_iter().flatten().collect();
    found.truncate(CHUNK as usize);
    if found.is_empty() && unreadable.count("deliveries") == left_out {
        let after = examined.iter().copied().find(|other| *other > app);
        return Ok(EndedOverdue { count: 0, next: after.or(next) });
    }
    let failing = found.iter().map(|&Overdue { id, attempts, .. }| {
        let at = command.now;
        Failing { app, id, attempts, attempt: None, at }
    });
    raise_exhausted(batch, &failing.collect::<Vec<_>>())?;
    let of_watches = found.iter().filter(|one| one.event_type.is_of_watch());
    let saved: BTreeSet<SavedNo> = of_watches.filter_map(|one| one.saved).collect();
    let failed = saved.into_iter().map(|no| (no, command.now, None));
    destinations::note_exhausted(batch, &failed.collect::<Vec<_>>())?;
    let reason = Reason::Exhausted;
    batch.tx.update_each(
        row_sql!(
            "update deliveries set status = 'failed', reason = $1, scheduled_at = null, next_attempt_at = null,
               is_manual = 0"
            where "app = $2 and id = $3"
        ),
        found.iter().map(|one| params![reason, app, one.id]),
    )?;
    batch.effects.tally.overdue.extend(found.iter().map(|one| one.channel));
    Ok(EndedOverdue { count: found.len(), next: Some(app) })
}
