//! Deliveries and their attempts.
//!
//! The column `next_attempt_at` holds the time of the next attempt, because every attempt is a write anyway. It is
//! null if no attempt follows. A partial index over it lists the remaining work by destination queue, first attempts
//! before retries.
//!
//! **Crash after an attempt and before its record.** The row still has its `next_attempt_at`, so the attempt is
//! repeated after the restart, with the same id and the same bytes. This is the price of "at least once", and the
//! only duplicate that this module can cause.
//!
//! **A record that is written twice.** If a commit succeeded and the connection was lost before its confirmation,
//! the record is written again (`db/postgres` explains when). The number of attempts does not match any more, and
//! nothing changes.
//!
//! **A stop while an attempt is in flight.** The result is recorded. A success is stored as such; after a failure
//! the delivery is no longer pending, and only the attempt is added.
//!
//! **A manual retry while an attempt is in flight.** The request sets `is_manual` and `next_attempt_at`. The record
//! of the attempt in flight does not change them, unless it succeeded or was itself a manual retry, which then
//! answers both requests.

mod attempts;
mod body;
mod downtime;
mod exhausted;
pub(super) mod filter;
mod overdue;
mod queues;
mod retry;
mod retry_many;
mod skipping;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use super::batch::{Batch, NewEvent};
use super::db::{ManyParams, Result, Row, Tx, Value, Where, params, row_sql};
use super::destinations::{self, UsedDestination};
use super::lists::{Fitting, ListPage, Remaining};
use super::reads::{ReadStore, Shared};
use super::rows::{DESTINATION, SAVED_JOIN, read_destination, read_inline, read_stored};
use super::sealing::{Column, Keyring};
use crate::domain::{
    AppNo, Attempt, ChannelKind, Delivery, DeliveryId, DeliveryStatus, Destination, DestinationId,
    DispatcherMessage, EventId, EventType, NumberedAttempt, Payload, PendingDelivery, Reason, SavedNo,
    Timestamp, WatchId,
};
use crate::events;

pub use self::attempts::{PostponeDelivery, RecordAttempt};
pub use self::downtime::NoteRunning;
use self::downtime::Wait;
pub use self::filter::DeliveryFilter;
pub use self::overdue::{EndOverdue, EndedOverdue};
pub use self::queues::{
    DestinationQueues, DueDeliveries, FindDue, FoundDue, LoadDueDeliveries, RescheduleRetries, Rescheduled,
};
pub use self::retry::{RetryDelivery, RetryRefusal};
use self::skipping::{IS_LEFT_OUT, LEFT_OUT};

pub(super) use self::attempts::{postpone_delivery, record_attempt};
pub(super) use self::downtime::{created_before, note_running};
pub(super) use self::overdue::end_overdue;
#[cfg(test)]
pub(super) use self::queues::{DUE_IN_ORDER, WAITING};
pub(super) use self::queues::{find_due, reschedule_retries};
pub(super) use self::retry::retry_delivery;
pub(super) use self::retry_many::{retried_page, retry_now};
#[cfg(test)]
pub(super) use self::skipping::{EXAMINE, OLDER};
pub(super) use self::skipping::{EXAMINED, Skip, load_again, skip, skip_next};

/// Whether the delivery `d` waits for an earlier one of its watch, because its saved destination `s` is ordered. Only then
/// other rows are read: those of its watch. One of an ended watch waits for nothing ([`EARLIER`]).
pub(super) const IS_BEHIND: &str = "case when s.is_ordered = 1 and d.status = 'pending' and exists (
      select 1 from deliveries e where e.watch = d.watch and e.n = d.n and e.status || '' = 'pending'
        and e.queue like '% dst_%' and e.id < d.id)
      and coalesce((select o.status from watches o where o.app = d.app and o.id = d.watch), 'watching') = 'watching'
    then 1 else 0 end";

/// Columns of a delivery that is shown.
static SHOWN: LazyLock<String> = LazyLock::new(|| {
    format!(
        "d.id, d.event, d.type, d.watch, d.destination, d.status, d.reason, d.next_attempt_at, d.created_at,
        wd.channel, coalesce(s.address, wd.address), d.attempts, s.no,
        (select a.error from attempts a where a.delivery = d.id and a.n = d.attempts - 1), d.queue, s.target,
        {IS_BEHIND}"
    )
});

impl ReadStore {
    /// Returns a page of up to `limit` deliveries of the app, newest first.
    pub async fn deliveries(
        &self,
        app: AppNo,
        filter: DeliveryFilter,
        limit: u32,
    ) -> Result<ListPage<Delivery, DeliveryId>> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.list(app, filter.before, limit, move |tx, before, remaining| {
            let filter = DeliveryFilter { before, ..filter.clone() };
            let index = filter::index(tx, app, &filter)?;
            let scanned = filter::end_of_scan(tx, app, &filter, index)?;
            let query = filter::query(&SHOWN, (app, &filter), index, scanned, remaining.limit());
            // Names, ids, times, the status, and why it waits.
            let size = |delivery: &Delivery| {
                1_024 + delivery.address.len() + delivery.last_error.as_deref().map_or(0, str::len)
            };
            let of = (&unreadable, ("deliveries", 0));
            let position = |row: &Row<'_>| row.id(0).map(DeliveryId);
            let read = (|row: &Row<'_>| read_shown(row, &keyring), position);
            let found = Fitting::take_readable(tx, &query, remaining, of, read, size)?;
            Ok(found.part(|delivery| delivery.id, scanned))
        })
        .await
    }

    /// Returns a delivery of the app and its newest attempts, at most `limit`, newest first.
    pub async fn delivery(
        &self,
        app: AppNo,
        id: DeliveryId,
        limit: u32,
    ) -> Result<Option<(Delivery, Vec<NumberedAttempt>)>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| {
            let sql = format!(
                "select {} from deliveries d {} where d.app = $1 and d.id = $2",
                *SHOWN,
                filter::DESTINATION
            );
            let delivery = tx.find(&sql, params![app, id], |row| read_shown(row, &keyring))?;
            let Some(delivery) = delivery else { return Ok(None) };
            let remaining = Remaining { rows: limit as usize, bytes: usize::MAX };
            Ok(Some((delivery, attempts(tx, id, u32::MAX, remaining)?.rows)))
        })
        .await
    }

    /// Returns a page of the attempts of a delivery of the app with a number below `before`, newest first. `None`: the
    /// app has no such delivery.
    pub async fn attempts(
        &self,
        app: AppNo,
        id: DeliveryId,
        before: u32,
        limit: u32,
    ) -> Result<Option<ListPage<NumberedAttempt, u32>>> {
        self.read(app, move |tx| {
            let sql = "select 1 from deliveries where app = $1 and id = $2";
            if tx.find(sql, params![app, id], |_| Ok(()))?.is_none() {
                return Ok(None);
            }
            let found = attempts(tx, id, before, Remaining::of_page(limit))?;
            Ok(Some(found.page(|(number, _)| *number)))
        })
        .await
    }
}

fn read_shown(row: &Row<'_>, keyring: &Keyring) -> Result<Delivery> {
    let destination = row.id(4)?;
    let event_type = row.word(2, EventType::parse)?;
    let watch = WatchId(row.id(3)?);
    let reason = row.opt_text(6)?;
    let is_saved = row.opt_int(12)?.is_some();
    let address = if is_saved { Column::SAVED_ADDRESS } else { Column::DESTINATION_ADDRESS };
    let status = row.word(5, DeliveryStatus::parse)?;
    Ok(Delivery {
        id: DeliveryId(row.id(0)?),
        event: EventId(row.id(1)?),
        event_type,
        watch: event_type.is_of_watch().then_some(watch),
        destination: DestinationId(destination),
        status,
        reason: reason.as_deref().and_then(Reason::parse),
        next_attempt_at: row.opt_time(7)?,
        created_at: row.time(8)?,
        attempt_count: row.count(11)?,
        last_error: unless_succeeded(status, row.opt_text(13)?),
        queue: row.text(14)?,
        target: row.opt_text(15)?,
        is_behind: row.flag(16)?,
        channel: row.word(9, ChannelKind::parse)?,
        address: keyring.open(address, destination, row.text(10)?)?,
    })
}

/// Returns the error of the last attempt. A message that a chat accepted only as plain text was delivered.
pub(super) fn unless_succeeded(status: DeliveryStatus, error: Option<String>) -> Option<String> {
    error.filter(|_| status != DeliveryStatus::Succeeded)
}

/// Returns the attempts of a delivery with a number below `before` that fit, newest first.
fn attempts(
    tx: &Tx<'_>,
    id: DeliveryId,
    before: u32,
    remaining: Remaining,
) -> Result<Fitting<NumberedAttempt, u32>> {
    // The column counts the earlier attempts.
    let mut query = Where::new(
        "select started_at, duration_ms, status_code, error, request_headers, response_headers, response_body, n + 1
         from attempts where delivery =",
        id,
    );
    query.and("n <", Some(before.saturating_sub(1)));
    query.push(" order by n desc limit", remaining.limit());
    let size = |(_, attempt): &NumberedAttempt| {
        let headers = attempt.request_headers.iter().chain(&attempt.response_headers);
        let headers = headers.map(|(name, value)| name.len() + value.len() + 8).sum::<usize>();
        256 + headers + attempt.response_body.len() + attempt.error.as_deref().map_or(0, str::len)
    };
    Fitting::take(tx, &query, remaining, |row| Ok((row.count(7)?, read_attempt(row)?)), size)
}

fn read_attempt(row: &Row<'_>) -> Result<Attempt> {
    Ok(Attempt {
        at: row.time(0)?,
        duration_ms: row.count(1)?,
        status_code: row.opt_int(2)?.and_then(|code| u16::try_from(code).ok()),
        error: row.opt_text(3)?,
        request_headers: row.json(4)?,
        response_headers: row.json(5)?,
        response_body: row.text(6)?,
    })
}

/// A destination of a watch, as it is stored: a saved one is read afterwards.
enum Found {
    /// Also whether its row can be read.
    Inline(Destination, bool),
    Saved(SavedNo),
}

/// A delivery that is created.
struct NewDelivery {
    delivery: PendingDelivery,
    /// Number of the destination among those of the watch.
    n: i64,
    shard: u16,
    created_at: Timestamp,
    raw_generation: Option<i64>,
    /// Whether its destination can be read. Otherwise it waits until the next start.
    is_readable: bool,
}

/// Creates the deliveries of the events that were added since the last call. Destinations that are gone get none, and
/// neither do saved destinations that do not receive the type. Those of a disabled destination are skipped at once.
pub(super) fn create_deliveries(batch: &mut Batch<'_>) -> Result<()> {
    let first = std::mem::replace(&mut batch.delivered, batch.events.len());
    let added = &batch.events[first..];
    let new: Vec<(&NewEvent, &Option<String>, u16)> = added
        .iter()
        .filter_map(|event| event.delivery.as_ref().map(|(traceparent, shard)| (event, traceparent, *shard)))
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let keyring = &batch.shared.keyring;
    let mut found = batch.tx.fetch_each(
        "select id, channel, address, queue, headers, secret, options, saved, n from watch_destinations
         where watch = $1 and gone_at is null",
        new.iter().map(|(event, ..)| params![event.watch]),
        |row| {
            let found = match row.opt_int(7)? {
                None => {
                    let read = read_inline(row, 0, keyring);
                    match batch.shared.unreadable.skip(("watch_destinations", 0), row, read)? {
                        Some(destination) => Found::Inline(destination, true),
                        None => Found::Inline(read_stored(row, 0)?, false),
                    }
                }
                Some(no) => Found::Saved(SavedNo(no)),
            };
            Ok((found, row.int(8)?))
        },
    )?;
    for destinations in &mut found {
        destinations.sort_by_key(|(_, n)| *n);
    }
    let saved = saved_destinations(batch, &found)?;
    let mut created = Vec::with_capacity(new.len());
    let mut skipped = Vec::new();
    for ((event, traceparent, shard), destinations) in new.into_iter().zip(found) {
        for (found, n) in destinations {
            let (destination, is_readable, is_enabled) = match found {
                Found::Inline(destination, is_readable) => (destination, is_readable, true),
                Found::Saved(no) => match saved.get(&no).filter(|(used, _)| admits(used, event.event_type)) {
                    Some((used, is_readable)) => (used.destination.clone(), *is_readable, used.is_enabled),
                    None => continue,
                },
            };
            let new = new_delivery(batch, event, (destination, n), (traceparent, shard));
            let new = NewDelivery { is_readable, ..new };
            if is_enabled { &mut created } else { &mut skipped }.push(new);
        }
    }
    batch.tx.insert_each(
        row_sql!(
            "insert into deliveries (app, id, shard, event, type, watch, n, destination, queue, status, step,
               scheduled_at, is_retry, raw_generation, next_attempt_at, created_at)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', 0, $10, 0, $11, $10, $10")
        ),
        created.iter().map(NewDelivery::values),
    )?;
    if !skipped.is_empty() {
        batch.tx.insert_each(
            row_sql!(
                "insert into deliveries (app, id, shard, event, type, watch, n, destination, queue, status, reason, step,
                   is_retry, created_at, raw_generation)"
                values ("$1, $2, $3, $4, $5, $6, $7, $8, $9, 'skipped', 'disabled', 0, 0, $10, $11")
            ),
            skipped.iter().map(NewDelivery::values),
        )?;
        batch.effects.tally.skipped.push((Reason::Disabled, skipped.len()));
    }
    remove_waiting_for_earlier(&batch.tx, &mut created)?;
    let messages = created
        .into_iter()
        .filter(|new| new.is_readable)
        .map(|new| DispatcherMessage::Dispatch(Box::new(new.delivery)));
    batch.effects.dispatcher_messages.extend(messages);
    Ok(())
}

/// Returns whether a saved destination receives a type. The destinations of a group receive its event, whatever types
/// they name.
fn admits(used: &UsedDestination, event_type: EventType) -> bool {
    event_type.is_of_group() || used.events.has(event_type)
}

/// Reads the saved destinations among those of watches, each once. Without one, nothing is read.
fn saved_destinations(
    batch: &Batch<'_>,
    found: &[Vec<(Found, i64)>],
) -> Result<BTreeMap<SavedNo, (UsedDestination, bool)>> {
    let no = |(found, _): &(Found, i64)| match found {
        Found::Saved(no) => Some(*no),
        Found::Inline(..) => None,
    };
    let nos: BTreeSet<SavedNo> = found.iter().flatten().filter_map(no).collect();
    if nos.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(nos.iter().copied().zip(destinations::used(batch, nos.iter().copied())?).collect())
}

fn new_delivery(
    batch: &Batch<'_>,
    event: &NewEvent,
    (destination, n): (Destination, i64),
    (traceparent, shard): (&Option<String>, u16),
) -> NewDelivery {
    // Channels without payload forms render their messages from the event.
    let (raw_generation, payload, body) = match &event.webhook_body {
        Some((generation, payload, body)) if destination.channel.traits().payload_forms => {
            (*generation, *payload, body)
        }
        _ => (None, Payload::Event, &event.body),
    };
    let delivery = PendingDelivery {
        app: event.app,
        id: DeliveryId(batch.shared.ids.draw(event.observed_at)),
        event: event.id,
        event_type: event.event_type,
        watch: event.watch,
        destination,
        traceparent: traceparent.clone(),
        body: Arc::clone(body),
        payload,
        step: 0,
        waited: Duration::ZERO,
        attempts: 0,
        manual: false,
        finished: event.finished.clone(),
    };
    NewDelivery { delivery, n, shard, created_at: event.observed_at, raw_generation, is_readable: true }
}

impl NewDelivery {
    fn values(&self) -> [Value<'_>; 11] {
        let Self { delivery, n, shard, created_at, raw_generation, .. } = self;
        let PendingDelivery { app, id, event, event_type, watch, destination, .. } = delivery;
        let Destination { id: to, queue, .. } = destination;
        params![app, id, shard, event, event_type, watch, n, to, queue, created_at, *raw_generation]
    }

    fn is_ordered(&self) -> bool {
        self.delivery.destination.saved.as_ref().is_some_and(|saved| saved.is_ordered)
    }
}

/// An earlier pending delivery of a watch of the app `$4` to the saved destination `$2`. The partial index of these
/// applies only to exactly these expressions. A watch can have had a million other deliveries.
///
/// A watch that has ended has none: before its ending, it had only progress, and the progress that is still pending is
/// not sent any more ([`IS_LEFT_OUT`]). So an ending does not wait until an operation has written that.
pub(super) const EARLIER: &str = "select 1 from deliveries
    where watch = $1 and n = $2 and status || '' = 'pending' and queue like '% dst_%' and id < $3
      and coalesce((select w.status from watches w where w.app = $4 and w.id = $1), 'watching') = 'watching'
    limit 1";

/// Removes the deliveries to ordered destinations for which an earlier one of the same watch is pending. They stay in
/// the store, where they are due when the earlier one has ended.
fn remove_waiting_for_earlier(tx: &Tx<'_>, created: &mut Vec<NewDelivery>) -> Result<()> {
    if !created.iter().any(NewDelivery::is_ordered) {
        return Ok(());
    }
    let earlier = tx.fetch(
        EARLIER,
        created
            .iter()
            .filter(|new| new.is_ordered())
            .map(|new| params![new.delivery.watch, new.n, new.delivery.id, new.delivery.app]),
        |row| row.int(0),
    )?;
    let mut earlier = earlier.into_iter();
    created.retain(|new| !new.is_ordered() || earlier.next().is_some_and(|found| found.is_empty()));
    Ok(())
}

/// The bytes that a delivery `d` sends, of its event `e` and its ending `n`.
const BODY: &str = "coalesce(n.raw, case when wd.channel = 'webhook' then e.webhook_body end, e.body)";

/// Reads a waiting delivery. The body is the event's. Webhooks get the form that their watch wants instead, or
/// the provider's answer that the ending stores.
static PENDING: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select d.app, d.id, d.event, d.type, d.watch, d.step, d.attempts, d.is_manual,
           w.traceparent, {BODY},
           case when n.raw is not null then 'raw'
             when wd.channel = 'webhook' and e.webhook_body is not null then w.payload else 'event' end,
           case when n.raw is not null and d.attempts = 0 then e.body end, d.waited_ms,
           d.wait_began_at, d.scheduled_at, {IS_LEFT_OUT}, {DESTINATION}
         from deliveries d
         join events e on e.id = d.event
         join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
         {SAVED_JOIN}
         left join watches w on w.app = d.app and w.id = d.watch
         left join endings n on n.job = w.job and n.generation = d.raw_generation
         where d.app = $1 and d.id = $2 and d.next_attempt_at is not null"
    )
});

/// Loads waiting deliveries by app and id: one result for each row of values, `None` if the delivery does not wait any
/// more, does not exist, or is to be skipped.
fn load_pending<'v, R: ManyParams<'v>>(
    tx: &Tx<'_>,
    shared: &Shared,
    ids: R,
) -> Result<Vec<Option<PendingDelivery>>> {
    let read = |row: &Row<'_>| {
        let is_left_out = row.flag(15)?;
        if is_left_out {
            return Ok(None);
        }
        let read = read_pending(row, &shared.keyring).and_then(|pending| Ok((pending, read_wait(row)?)));
        shared.unreadable.skip(("deliveries", 1), row, read)
    };
    let found = tx.fetch_each(&PENDING, ids, read)?;
    let mut loaded: Vec<Option<_>> = found.into_iter().map(|mut rows| rows.pop().flatten()).collect();
    downtime::exclude(tx, loaded.iter_mut().flatten().map(|(delivery, wait)| (delivery, *wait)))?;
    Ok(loaded.into_iter().map(|found| Some(found?.0)).collect())
}

/// Returns for each of these deliveries whether a page may contain it: it exists, and is not to be skipped.
fn are_sendable<'v, R: ManyParams<'v>>(tx: &Tx<'_>, ids: R) -> Result<Vec<bool>> {
    let found = tx.fetch_each(&LEFT_OUT, ids, |row| row.flag(0))?;
    Ok(found.into_iter().map(|rows| rows.first() == Some(&false)).collect())
}

/// Reads the current wait from a row of [`PENDING`]. A first attempt waits for nothing.
fn read_wait(row: &Row<'_>) -> Result<Option<Wait>> {
    let wait = |(began_at, scheduled_at)| Wait { began_at, scheduled_at };
    Ok(row.opt_time(13)?.zip(row.opt_time(14)?).map(wait))
}

/// Reads a row of [`PENDING`].
fn read_pending(row: &Row<'_>, keyring: &Keyring) -> Result<PendingDelivery> {
    let event_type = row.word(3, EventType::parse)?;
    let attempts = row.count(6)?;
    let body: Arc<[u8]> = row.bytes(9)?.into();
    let payload = row.word(10, Payload::parse)?;
    // The latency of first attempts is measured, including those that are loaded from the database, which are the
    // slowest. The provider's answer does not contain the time, so it is read from the event.
    let finished = match payload {
        _ if attempts > 0 || !event_type.reports_the_jobs_end() => None,
        Payload::Raw => row.opt_bytes(11)?.as_deref().and_then(events::finished),
        Payload::Event | Payload::CloudEvents => events::finished(&body),
    };
    Ok(PendingDelivery {
        finished,
        app: AppNo(row.int(0)?),
        id: DeliveryId(row.id(1)?),
        event: EventId(row.id(2)?),
        event_type,
        watch: WatchId(row.id(4)?),
        step: row.count(5)?,
        waited: Duration::from_millis(u64::try_from(row.int(12)?).unwrap_or(0)),
        attempts,
        manual: row.flag(7)?,
        traceparent: row.opt_text(8)?,
        body,
        payload,
        destination: read_destination(row, 16, keyring)?,
    })
}
