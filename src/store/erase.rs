//! Erasing watches and apps: their rows are deleted, and no answer shows them any more.
//!
//! **A watch** is stopped first, in the same transaction ([`begin`]). Then its row, its destinations and the stored
//! responses about it are deleted. It can have very many deliveries, attempts and events, so these are deleted in
//! parts ([`rest`]). They are found by the id of the watch, so a part needs no position: it deletes the first rows that
//! are left. A crash between two parts leaves rows that the operation of the erasure deletes later
//! (`operations/advance`).
//!
//! **An attempt in flight** continues, because its request is on its way. Its record changes no row, because the
//! delivery does not exist any more, and no attempt follows. What the dispatcher has loaded is dropped, as after a
//! stop.
//!
//! **An event** leaves its id and its position in the feed, so that a reader whose last event was erased continues
//! after it. The number of these rows is limited by the retention of events.
//!
//! **A job** without watches is deleted as well, with its observations and endings, which hold results of the
//! provider. If it runs, a poll may be in flight, whose result will be written. Its contents are deleted at once then,
//! and its row an hour later, unless it was registered again (`prune`).
//!
//! **An app** is erased in steps of the same kind: watches first, then everything that is left of the app, and its row
//! at the end. Its keys are revoked before the first step, and requests of its clients that are still in progress are
//! refused by the writer. Until its watches are stopped, the app still signs what is sent in its name.

use std::collections::BTreeSet;

use super::batch::Batch;
use super::db::{Result, Tx, params, row_sql};
use super::prune::{self, OldWatch};
use super::rows::to_json;
use super::tenant_cache::TenantChange;
use super::watches::{self, StopWatch};
use super::{credentials, definitions, events, idempotency, job_cancels};
use crate::domain::{
    AppNo, CancelScope, DeliveryId, DispatcherMessage, JobNo, KeyId, Observation, Timestamp, WatchId,
};

/// Maximum number of watches of an app that one step erases.
const WATCHES: u32 = 100;

/// Maximum number of saved destinations that one step deletes. Each has up to 750 rows of counts.
const DESTINATIONS: u32 = 10;

/// What a step has erased.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Number of watches.
    pub(super) watches: u64,
    /// Whether nothing is left.
    pub(super) is_done: bool,
}

/// Stops watches, and deletes their rows, their destinations, the stored responses about them, and their jobs if no
/// other watch is left. Returns those that existed.
pub(super) fn begin(
    batch: &mut Batch<'_>,
    app: AppNo,
    ids: &[WatchId],
    now: Timestamp,
) -> Result<Vec<WatchId>> {
    let stops: Vec<StopWatch> = ids.iter().map(|watch| StopWatch { app, watch: *watch, now }).collect();
    let exist = watches::stop(batch, &stops.iter().collect::<Vec<_>>())?;
    let ids: Vec<WatchId> = ids.iter().zip(exist).filter(|(_, exists)| *exists).map(|(id, _)| *id).collect();
    batch.erased.extend(&ids);
    let tx = &batch.tx;
    let found = tx.ones(
        "select job, generation, ended_at, created_at from watches where app = $1 and id = $2",
        ids.iter().map(|id| params![app, id]),
        |row| Ok((JobNo(row.int(0)?), row.int(1)?, row.time(2)?, row.time(3)?)),
    )?;
    let created = ids.iter().zip(&found).map(|(id, (.., created_at))| (*id, *created_at));
    idempotency::forget_watches(tx, app, &created.collect::<Vec<_>>())?;
    tx.each("delete from watch_destinations where watch = $1", ids.iter().map(|id| params![id]))?;
    job_cancels::delete(tx, ids.iter().copied())?;
    tx.each("delete from watches where app = $1 and id = $2", ids.iter().map(|id| params![app, id]))?;
    let old = ids.iter().zip(found).map(|(id, (job, generation, ended_at, _))| OldWatch {
        app,
        id: id.0,
        job,
        generation,
        ended_at,
    });
    forget_jobs(tx, &old.collect::<Vec<_>>(), now)?;
    Ok(ids)
}

/// Deletes up to `left` deliveries, attempts and events of a watch whose row is deleted, and of operational events
/// about it. `now`: the ids and positions of the events are kept. Returns how many more rows can be deleted in this
/// transaction; 0 if rows may be left.
pub(super) fn rest(
    batch: &mut Batch<'_>,
    app: AppNo,
    watch: WatchId,
    left: u32,
    now: Option<Timestamp>,
) -> Result<u32> {
    let tx = &batch.tx;
    let mut left = rows_of(tx, app, watch, left, now)?;
    let about = tx.list(
        "select id from operational_events where watch = $1 limit $2",
        params![watch, left],
        |row| Ok(WatchId(row.id(0)?)),
    )?;
    for event in about {
        if left == 0 {
            break;
        }
        // The dispatcher drops what it has loaded, as it does for the watch after its stop.
        batch
            .effects
            .dispatcher_messages
            .push(DispatcherMessage::Skip { watch: event, which: CancelScope::All });
        left = rows_of(tx, app, event, left, now)?;
        if left > 0 {
            tx.run("delete from watch_destinations where watch = $1", params![event])?;
            tx.run("delete from operational_events where id = $1", params![event])?;
            left -= 1;
        }
    }
    Ok(left)
}

/// Deletes up to `left` deliveries, attempts and events with this id in the place of the watch.
fn rows_of(tx: &Tx<'_>, app: AppNo, watch: WatchId, left: u32, now: Option<Timestamp>) -> Result<u32> {
    let found =
        tx.list("select id from deliveries where watch = $1 limit $2", params![watch, left], |row| {
            Ok(DeliveryId(row.id(0)?))
        })?;
    let left = delete_deliveries(tx, app, &found, left)?;
    let found =
        tx.list("select id from events where watch = $1 limit $2", params![watch, left], |row| row.id(0))?;
    events::erase(tx, &found, now)?;
    Ok(left.saturating_sub(count(found.len())))
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX)
}

/// Deletes deliveries with their attempts, up to `left` rows. Returns how many more can be deleted; 0 if some are left.
fn delete_deliveries(tx: &Tx<'_>, app: AppNo, ids: &[DeliveryId], left: u32) -> Result<u32> {
    let most = i64::from(left);
    let counts = tx.ones(
        "select count(*) from (select 1 from attempts where delivery = $1 limit $2) few",
        ids.iter().map(|id| params![id, most]),
        |row| row.count(0),
    )?;
    let (mut used, mut whole) = (0, 0);
    while let Some(attempts) = counts.get(whole)
        && used + attempts < left
    {
        used += attempts + 1;
        whole += 1;
    }
    if let (Some(first), 0) = (ids.first(), whole) {
        // A delivery can have more attempts than fit: it was retried manually very often.
        let part = "delete from attempts where (delivery, n) in (
            select delivery, n from attempts where delivery = $1 limit $2)";
        tx.run(part, params![first, most])?;
        return Ok(0);
    }
    let ids_of_whole = &ids[..whole];
    tx.each("delete from attempts where delivery = $1", ids_of_whole.iter().map(|id| params![id]))?;
    let keys = ids_of_whole.iter().map(|id| params![app, id]);
    tx.each("delete from deliveries where app = $1 and id = $2", keys)?;
    idempotency::forget_deliveries(tx, app, ids_of_whole)?;
    Ok(if whole == ids.len() { left - used } else { 0 })
}

/// Deletes those of the jobs of erased watches that have no other watch, and what only these watches showed of the
/// others.
fn forget_jobs(tx: &Tx<'_>, erased: &[OldWatch], now: Timestamp) -> Result<()> {
    let jobs: BTreeSet<JobNo> = erased.iter().map(|watch| watch.job).collect();
    let states = tx.fetch(
        "select case when ended = 1 and poll_requested_at is null then 1 else 0 end from jobs
         where no = $1 and not exists (select 1 from watches where job = $1)",
        jobs.iter().map(|job| params![job]),
        |row| row.flag(0),
    )?;
    let (mut ended, mut orphaned) = (BTreeSet::new(), Vec::new());
    for (job, is_ended) in jobs.iter().zip(states) {
        match is_ended.first() {
            None => {}
            Some(true) => _ = ended.insert(*job),
            Some(false) => orphaned.push(*job),
        }
    }
    prune::delete_jobs(tx, &ended)?;
    for sql in [
        "delete from observations where job = $1",
        "delete from endings where job = $1",
        "delete from job_polls where job = $1",
    ] {
        tx.each(sql, orphaned.iter().map(|job| params![job]))?;
    }
    let seen = to_json(&Observation::default());
    tx.update_each(
        row_sql!("update jobs set orphaned_at = $1, seen = $2" where "no = $3"),
        orphaned.iter().map(|job| params![now, &seen, job]),
    )?;
    prune::delete_endings(tx, erased)?;
    prune::delete_observations(tx, erased)
}

/// Erases the next rows of an app, about `rows`.
pub(super) fn app_step(batch: &mut Batch<'_>, app: AppNo, rows: u32, now: Timestamp) -> Result<Step> {
    let ids = batch.tx.list(
        "select id from watches where app = $1 order by id limit $2",
        params![app, rows.min(WATCHES)],
        |row| Ok(WatchId(row.id(0)?)),
    )?;
    if !ids.is_empty() {
        begin(batch, app, &ids, now)?;
        let mut left = rows;
        for id in &ids {
            left = rest(batch, app, *id, left, None)?;
            if left == 0 {
                break;
            }
        }
        // What is left of the others is found by the app.
        return Ok(Step { watches: u64::from(count(ids.len())), is_done: false });
    }
    let is_done = app_rest(batch, app, rows)?;
    if is_done {
        batch.tx.run("insert into erased_apps (no) values ($1)", params![app])?;
        batch.tx.run("delete from apps where no = $1", params![app])?;
        batch.effects.tenant_changes.push(TenantChange::Erased(app));
    }
    Ok(Step { watches: 0, is_done })
}

/// Deletes up to `rows` rows of an app without watches. Returns whether none is left.
fn app_rest(batch: &mut Batch<'_>, app: AppNo, rows: u32) -> Result<bool> {
    let tx = &batch.tx;
    let of_app = |sql, limit: u32| tx.list(sql, params![app, limit], |row| row.id(0));
    let deliveries = of_app("select id from deliveries where app = $1 order by id limit $2", rows)?;
    let deliveries: Vec<DeliveryId> = deliveries.into_iter().map(DeliveryId).collect();
    let events_of = tx.fetch(
        "select watch from deliveries where app = $1 and id = $2 and next_attempt_at is not null",
        deliveries.iter().map(|id| params![app, id]),
        |row| Ok(WatchId(row.id(0)?)),
    )?;
    let events_of: BTreeSet<WatchId> = events_of.into_iter().flatten().collect();
    let skips = events_of.into_iter().map(|watch| DispatcherMessage::Skip { watch, which: CancelScope::All });
    batch.effects.dispatcher_messages.extend(skips);
    let left = delete_deliveries(tx, app, &deliveries, rows)?;
    let found = of_app("select id from events where app = $1 order by position limit $2", left)?;
    events::erase(tx, &found, None)?;
    let left = left.saturating_sub(count(found.len()));
    if left == 0 {
        return Ok(false);
    }
    let erased = of_app("select id from erased_events where app = $1 limit $2", left)?;
    tx.each("delete from erased_events where id = $1", erased.iter().map(|id| params![id]))?;
    let responses = idempotency::forget_app(tx, app, left)?;
    let without_watch = [
        of_app("select id from operational_events where app = $1 limit $2", left)?,
        of_app("select id from watch_groups where app = $1 limit $2", left)?,
    ]
    .concat();
    for sql in [
        "delete from watch_destinations where watch = $1",
        "delete from operational_events where id = $1",
        "delete from watch_groups where id = $1",
    ] {
        tx.each(sql, without_watch.iter().map(|id| params![id]))?;
    }
    // Groups name destinations, and may expire meanwhile.
    if !without_watch.is_empty() {
        return Ok(false);
    }
    let destinations = tx.list(
        "select no from destinations where app = $1 limit $2",
        params![app, left.min(DESTINATIONS)],
        |row| row.int(0),
    )?;
    for sql in
        ["delete from destination_hours where destination = $1", "delete from destinations where no = $1"]
    {
        tx.each(sql, destinations.iter().map(|no| params![*no]))?;
    }
    let operations = of_app("select id from operations where app = $1 limit $2", left)?;
    tx.each("delete from operations where id = $1", operations.iter().map(|id| params![id]))?;
    let credentials = credentials::erase(tx, app, left)?;
    let definitions = definitions::erase(tx, app)?;
    batch.shared.definition_ids.forget(app);
    // A key can be created while the app is deleted.
    revoke_keys(batch, app)?;
    let others = [erased.len(), responses, destinations.len(), operations.len(), credentials, definitions];
    Ok(others.iter().all(|count| *count == 0))
}

/// Deletes the keys of an app. Requests with them are refused after the commit.
pub(super) fn revoke_keys(batch: &mut Batch<'_>, app: AppNo) -> Result<()> {
    let keys =
        batch.tx.list("select id from keys where app = $1", params![app], |row| Ok(KeyId(row.id(0)?)))?;
    batch.tx.run("delete from keys where app = $1", params![app])?;
    batch.effects.tenant_changes.extend(keys.into_iter().map(TenantChange::Revoked));
    Ok(())
}
