//! Deliveries and their attempts.
//!
//! When a delivery is sent next is a column, `turn`, because every attempt is a write anyway. It is
//! null where there is nothing to send; the partial index over it is the work that is left, lane by
//! lane, first tries before retries.
//!
//! **Crash after the send and before the record**: the row still has its turn, so the delivery is
//! sent again after the restart, with the same id and the same bytes. That is the price of "at least
//! once", and the only duplicate that this module can cause.
//!
//! **A record that is written again** (its first writing was committed, but nobody heard of it; see
//! `db/postgres`) finds another number of attempts than it knows, and changes nothing.
//!
//! **Stop while a send is in flight**: the outcome is recorded all the same. A success is the truth
//! and is written; a failure finds the delivery no longer pending and only adds its attempt.
//!
//! **Retry by hand while a send is in flight**: `by_hand` and `turn` are set beside it, and the record
//! of the send in flight leaves them alone, unless it succeeded, or was itself asked for by hand: that
//! one answers both wishes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, NewEvent, Outgoing};
use super::db::{Result, Row, Tx, Where};
use super::idempotency::{self, Kept, Replay};
use super::reads::ReadStore;
use super::rows::{read_destination, to_json};
use super::sealing::{Column, Keyring};
use crate::domain::{
    AppNo, Attempt, CancelScope, ChannelKind, Delivery, DeliveryId, DeliveryStatus, DestinationId,
    DispatcherMessage, EventId, EventType, Id, NextStep, Payload, PendingDelivery, Reason, Timestamp,
    WatchId,
};
use crate::events;
use crate::telemetry::metrics::Backlog;

/// How many entries of the index of what waits are counted: some milliseconds' worth.
const COUNTED: u32 = 200_000;

/// How long a count holds: several may ask, and often.
const COUNT_EVERY: Duration = Duration::from_secs(15);

/// What came of an attempt.
#[derive(Clone, Debug)]
pub struct Record {
    /// In whose name.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Whether it was asked for by hand.
    pub manual: bool,
    /// How many attempts there were before it.
    pub before: u32,
    /// What happened.
    pub attempt: Attempt,
    /// What becomes of the delivery.
    pub after: NextStep,
}

/// A page of a lane's waiting deliveries.
#[derive(Clone, Debug)]
pub struct Page {
    /// Whose.
    pub lane: String,
    /// Those whose turn has come.
    pub now: Timestamp,
    /// How many, beside those in hand.
    pub limit: u32,
    /// Those in hand already.
    pub in_hand: Vec<DeliveryId>,
}

/// What there is to send in a lane.
#[derive(Clone, Debug)]
pub struct Paged {
    /// First tries before retries, the oldest first.
    pub sends: Vec<PendingDelivery>,
    /// There are more whose turn has come.
    pub more: bool,
    /// When the next one's turn comes.
    pub next: Option<Timestamp>,
}

/// The clock was set back: what is planned for a time that is far off now is planned anew.
#[derive(Clone, Debug)]
pub struct Rewind {
    /// The waits after each failed try.
    pub schedule: Vec<Duration>,
    /// The time that it is now.
    pub now: Timestamp,
}

/// The wish to try a delivery now.
#[derive(Clone, Debug)]
pub struct RetryDelivery {
    /// In whose name.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Under which key the answer is kept, and the answer.
    pub remember: Option<Kept>,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug)]
pub enum RetryDeliveryResult {
    /// There is no such delivery.
    Unknown,
    /// Its watch was stopped.
    Stopped,
    /// It is on disk.
    Wanted,
    /// The key was used before.
    Replayed(Replay),
}

/// Which deliveries.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter {
    /// That stand here.
    pub status: Option<DeliveryStatus>,
    /// Of this watch.
    pub watch: Option<WatchId>,
    /// To this destination.
    pub destination: Option<DestinationId>,
    /// Of events from then on.
    pub since: Option<Timestamp>,
    /// Of events until then.
    pub until: Option<Timestamp>,
    /// Made before this one: where the last page ended.
    pub before: Option<DeliveryId>,
}

impl DeliveryFilter {
    /// Less than the id of everything since `since`. There is no such bound for `until`: where the clock was
    /// set back, or an event had to wait for the store, ids are ahead of their time, nobody knows how far.
    pub(super) fn least_id(&self) -> Option<Id> {
        self.since.map(Id::least)
    }
}

/// What is sent is the event's body, or, to webhooks, the form of it that the watch asked for, or the raw
/// answer of the ending that made it.
const SENDS: &str = "select d.app, d.id, d.event, d.type, d.watch, d.step, d.attempts, d.is_manual,
    w.traceparent, coalesce(n.raw, case when wd.channel = 'webhook' then e.webhook_body end, e.body),
    case when n.raw is not null then 'raw'
      when wd.channel = 'webhook' and e.webhook_body is not null then w.payload else 'event' end,
    wd.id, wd.channel, wd.address, wd.queue, wd.headers, wd.secret,
    case when n.raw is not null and d.attempts = 0 then e.body end
  from deliveries d
  join watches w on w.app = d.app and w.id = d.watch
  join events e on e.id = d.event
  join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
  left join endings n on n.job = w.job and n.generation = d.raw_generation";

const SHOWN: &str =
    "select d.id, d.event, d.type, d.watch, d.destination, d.status, d.reason, d.next_attempt_at, d.created_at,
    wd.channel, wd.address
  from deliveries d join watch_destinations wd on wd.watch = d.watch and wd.n = d.n";

impl ReadStore {
    /// The lanes in which something waits, and when the first turn of each comes.
    pub async fn lanes(&self) -> Result<Vec<(String, Timestamp)>> {
        self.read(|tx| {
            tx.list(
                "select queue, min(next_attempt_at) from deliveries where next_attempt_at is not null
                 group by queue",
                [],
                |row| Ok((row.text(0)?, row.time(1)?)),
            )
        })
        .await
    }

    /// What waits though its turn has come: counted at most every 15 s, and not beyond the first
    /// [`COUNTED`] that wait for anything.
    pub async fn backlog(&self, now: Timestamp) -> Result<Backlog> {
        let mut last = self.shared.backlog.lock().await;
        if let Some((at, backlog)) = *last
            && now >= at
            && now < at.plus(COUNT_EVERY)
        {
            return Ok(backlog);
        }
        let counted = self.read(move |tx| {
            tx.one(
                "select count(*), min(next_attempt_at) from
                   (select is_retry, next_attempt_at from deliveries where next_attempt_at is not null
                    limit $1) waiting
                 where is_retry = 0 or next_attempt_at <= $2",
                [COUNTED.into(), now.into()],
                |row| {
                    Ok(Backlog { count: u64::try_from(row.int(0)?).unwrap_or(0), oldest: row.opt_time(1)? })
                },
            )
        });
        let backlog = counted.await?;
        *last = Some((now, backlog));
        Ok(backlog)
    }

    /// The app's deliveries, newest first.
    pub async fn deliveries(&self, app: AppNo, filter: DeliveryFilter, limit: u32) -> Result<Vec<Delivery>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| {
            let query = listed(app, &filter, limit);
            tx.list(&query.sql, query.values, |row| read_shown(row, &keyring))
        })
        .await
    }

    /// One delivery, with its attempts, oldest first.
    pub async fn delivery(&self, app: AppNo, id: DeliveryId) -> Result<Option<(Delivery, Vec<Attempt>)>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| {
            let sql = format!("{SHOWN} where d.app = $1 and d.id = $2");
            let row = [app.0.into(), id.0.into()];
            let Some(delivery) = tx.find(&sql, row, |row| read_shown(row, &keyring))? else {
                return Ok(None);
            };
            let attempts = tx.list(
                "select started_at, duration_ms, status_code, error, request_headers, response_headers, response_body
                 from attempts where delivery = $1 order by n",
                [id.0.into()],
                read_attempt,
            )?;
            Ok(Some((delivery, attempts)))
        })
        .await
    }
}

/// The app's deliveries that a filter lets through, newest first.
pub(super) fn listed(app: AppNo, filter: &DeliveryFilter, limit: u32) -> Where<'static> {
    // What waits and what failed have an index, which asks for just these words, the status a literal: one of
    // our own few. A watch and a destination have fewer, by their own indexes.
    let narrow = filter.watch.is_some() || filter.destination.is_some();
    let (by_app, column) = match filter.status {
        Some(DeliveryStatus::Pending | DeliveryStatus::Failed | DeliveryStatus::Skipped) if !narrow => {
            ("d.app + 0 =", "d.status || ''")
        }
        _ => ("d.app =", "d.status"),
    };
    let status = filter.status.map(|status| format!("{column} = '{status}' and ")).unwrap_or_default();
    let mut query = Where::new(&format!("{SHOWN} where {status}{by_app}"), app.0);
    query.and("d.watch =", filter.watch.map(|id| id.0));
    query.and("d.destination =", filter.destination.map(|id| id.0));
    query.and("d.id <", filter.before.map(|id| id.0));
    query.and("d.id >=", filter.least_id());
    query.and("d.created_at >=", filter.since);
    query.and("d.created_at <", filter.until);
    query.push(" order by d.id desc limit", limit);
    query
}

/// Makes an event, and, with the others of its kind, a delivery for each of the watch's destinations
/// that still wants one ([`send_out`]).
pub(super) fn create(
    batch: &mut Batch<'_>,
    event: NewEvent,
    traceparent: Option<&str>,
    raw: Option<(i64, &Arc<[u8]>)>,
    shard: u16,
) {
    batch.outgoing.push(Outgoing {
        app: event.app,
        event: event.id,
        event_type: event.event_type,
        watch: event.watch,
        at: event.at,
        body: Arc::clone(&event.body),
        sent: event.sent.clone(),
        raw: raw.map(|(generation, raw)| (generation, Arc::clone(raw))),
        traceparent: traceparent.map(str::to_owned),
        shard,
        finished: event.finished.clone(),
    });
    batch.events.push(event);
}

/// Makes the deliveries of all events that were [created](create) since the last time.
pub(super) fn send_out(batch: &mut Batch<'_>) -> Result<()> {
    let outgoing = std::mem::take(&mut batch.outgoing);
    if outgoing.is_empty() {
        return Ok(());
    }
    let keyring = &batch.shared.keyring;
    let destinations = batch.tx.fetch(
        "select id, channel, address, queue, headers, secret, n from watch_destinations
         where watch = $1 and gone_at is null order by n",
        outgoing.iter().map(|event| [event.watch.0.into()]),
        |row| Ok((read_destination(row, 0, keyring)?, row.int(6)?)),
    )?;
    let mut made = Vec::with_capacity(outgoing.len());
    for (event, destinations) in outgoing.iter().zip(destinations) {
        for (destination, n) in destinations {
            // Channels without payload forms render their messages from the event.
            let form = match (&event.raw, &event.sent) {
                _ if !destination.channel.traits().payload_forms => (None, Payload::Event, &event.body),
                (Some((generation, raw)), _) => (Some(*generation), Payload::Raw, raw),
                (None, Some((payload, sent))) => (None, *payload, sent),
                (None, None) => (None, Payload::Event, &event.body),
            };
            let id = DeliveryId(batch.shared.ids.draw(event.at));
            made.push((event, id, destination, n, form));
        }
    }
    batch.tx.each(
        "insert into deliveries (app, id, shard, event, type, watch, n, destination, queue, status, step,
           scheduled_at, is_retry, raw_generation, next_attempt_at, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', 0, $10, 0, $11, $10, $10)",
        made.iter().map(|(event, id, destination, n, (raw_of, _, _))| {
            [
                event.app.0.into(),
                id.0.into(),
                i64::from(event.shard).into(),
                event.event.0.into(),
                event.event_type.as_str().into(),
                event.watch.0.into(),
                (*n).into(),
                destination.id.0.into(),
                (&destination.queue).into(),
                event.at.into(),
                (*raw_of).into(),
            ]
        }),
    )?;
    batch.effects.dispatcher_messages.extend(made.into_iter().map(
        |(event, id, destination, _, (_, payload, body))| {
            DispatcherMessage::Dispatch(Box::new(PendingDelivery {
                app: event.app,
                id,
                event: event.event,
                event_type: event.event_type,
                watch: event.watch,
                destination,
                traceparent: event.traceparent.clone(),
                body: Arc::clone(body),
                payload,
                step: 0,
                attempts: 0,
                manual: false,
                finished: event.finished.clone(),
            }))
        },
    ));
    Ok(())
}

/// The endings have overtaken what was to be said of these watches' progress.
pub(super) fn supersede(batch: &mut Batch<'_>, watches: &[WatchId]) -> Result<()> {
    let overtaken = batch.tx.each(
        "update deliveries set status = 'skipped', reason = 'superseded', scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where watch = $1 and status = 'pending' and type in ('job.processing', 'job.progress')",
        watches.iter().map(|watch| [watch.0.into()]),
    )?;
    for (watch, overtaken) in watches.iter().zip(overtaken) {
        if overtaken > 0 {
            batch.effects.tally.skipped(Reason::Superseded, overtaken);
            batch
                .effects
                .dispatcher_messages
                .push(DispatcherMessage::Skip { watch: *watch, which: CancelScope::Progress });
        }
    }
    Ok(())
}

/// The user wants nothing more of these watches.
pub(super) fn call_off(batch: &mut Batch<'_>, watches: &[WatchId]) -> Result<()> {
    let pending = batch.tx.each(
        "update deliveries set status = 'skipped', reason = 'stopped', scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where watch = $1 and status = 'pending'",
        watches.iter().map(|watch| [watch.0.into()]),
    )?;
    // A try by hand, of a delivery that is done, is called off too.
    let by_hand = batch.tx.each(
        "update deliveries set next_attempt_at = null, is_manual = 0
         where watch = $1 and next_attempt_at is not null",
        watches.iter().map(|watch| [watch.0.into()]),
    )?;
    for ((watch, pending), by_hand) in watches.iter().zip(pending).zip(by_hand) {
        batch.effects.tally.skipped(Reason::Stopped, pending);
        if pending + by_hand > 0 {
            batch
                .effects
                .dispatcher_messages
                .push(DispatcherMessage::Skip { watch: *watch, which: CancelScope::All });
        }
    }
    Ok(())
}

pub(super) fn record(batch: &mut Batch<'_>, asks: &[&Record]) -> Result<Vec<()>> {
    let fresh = settle(batch, asks)?;
    let headers: Vec<(String, String)> = fresh
        .iter()
        .map(|ask| (to_json(&ask.attempt.request_headers), to_json(&ask.attempt.response_headers)))
        .collect();
    batch.tx.each(
        "insert into attempts (delivery, n, started_at, duration_ms, status_code, error, request_headers,
           response_headers, response_body)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        fresh.iter().zip(&headers).map(|(ask, (request_headers, response_headers))| {
            [
                ask.delivery.0.into(),
                ask.before.into(),
                ask.attempt.at.into(),
                ask.attempt.duration_ms.into(),
                ask.attempt.status_code.map(i64::from).into(),
                ask.attempt.error.as_deref().into(),
                request_headers.into(),
                response_headers.into(),
                (&ask.attempt.response_body).into(),
            ]
        }),
    )?;
    Ok(vec![(); asks.len()])
}

/// Writes what becomes of the deliveries, outcome by outcome. The answer are those that were there and
/// not written before.
fn settle<'a>(batch: &mut Batch<'_>, asks: &[&'a Record]) -> Result<Vec<&'a Record>> {
    let (mut succeeded, mut again, mut failed, mut as_before) = (vec![], vec![], vec![], vec![]);
    for ask in asks {
        match ask.after {
            NextStep::Succeeded => succeeded.push(*ask),
            NextStep::Retry { step, due_at } => again.push((*ask, step, due_at)),
            NextStep::Failed(reason) => failed.push((*ask, reason)),
            NextStep::Unchanged => as_before.push(*ask),
        }
    }
    let name = |ask: &Record| (ask.app.0.into(), ask.delivery.0.into(), ask.before.into());
    let mut fresh = Vec::with_capacity(asks.len());
    let mut keep = |asks: &mut dyn Iterator<Item = &'a Record>, hit: Vec<usize>| {
        fresh.extend(asks.zip(hit).filter(|(_, hit)| *hit > 0).map(|(ask, _)| ask));
    };
    let hit = batch.tx.each(
        "update deliveries set attempts = attempts + 1, status = 'succeeded', reason = null, scheduled_at = null,
           next_attempt_at = null, is_manual = 0 where app = $1 and id = $2 and attempts = $3",
        succeeded.iter().map(|ask| <[_; 3]>::from(name(ask))),
    )?;
    keep(&mut succeeded.iter().copied(), hit);
    // What was asked for by hand in the meantime keeps its turn.
    let hit = batch.tx.each(
        "update deliveries set attempts = attempts + 1,
           step = case when status = 'pending' then $1 else step end,
           scheduled_at = case when status = 'pending' then cast($2 as bigint) end,
           is_retry = case when is_manual = 1 then 0 else 1 end,
           next_attempt_at = case when is_manual = 1 then next_attempt_at when status = 'pending' then $2 end
         where app = $3 and id = $4 and attempts = $5",
        again.iter().map(|(ask, step, due_at)| {
            let (app, id, before) = name(ask);
            [(*step).into(), (*due_at).into(), app, id, before]
        }),
    )?;
    keep(&mut again.iter().map(|(ask, ..)| *ask), hit);
    // A delivery that was skipped as gone, and is refused as gone itself, has failed.
    let hit = batch.tx.each(
        "update deliveries set attempts = attempts + 1,
           reason = case when status = 'pending' then $1 else reason end,
           status = case when status = 'pending' or reason = $1 then 'failed' else status end,
           scheduled_at = null, next_attempt_at = case when is_manual = 1 then next_attempt_at end
         where app = $2 and id = $3 and attempts = $4",
        failed.iter().map(|(ask, reason)| {
            let (app, id, before) = name(ask);
            [reason.as_str().into(), app, id, before]
        }),
    )?;
    let hit_and_gone =
        failed.iter().zip(&hit).filter(|((_, reason), hit)| *reason == Reason::Gone && **hit > 0);
    gone(batch, &hit_and_gone.map(|((ask, _), _)| *ask).collect::<Vec<_>>())?;
    keep(&mut failed.iter().map(|(ask, _)| *ask), hit);
    let hit = batch.tx.each(
        "update deliveries set attempts = attempts + 1, is_manual = 0, next_attempt_at = scheduled_at,
           is_retry = case when step > 0 then 1 else 0 end where app = $1 and id = $2 and attempts = $3",
        as_before.iter().map(|ask| <[_; 3]>::from(name(ask))),
    )?;
    keep(&mut as_before.iter().copied(), hit);
    Ok(fresh)
}

/// 410: nothing more of these watches goes to those addresses.
fn gone(batch: &mut Batch<'_>, asks: &[&Record]) -> Result<()> {
    let found = batch.tx.fetch(
        "select watch, n, destination from deliveries where app = $1 and id = $2",
        asks.iter().map(|ask| [ask.app.0.into(), ask.delivery.0.into()]),
        |row| Ok((WatchId(row.id(0)?), row.int(1)?, DestinationId(row.id(2)?))),
    )?;
    let gone = || asks.iter().zip(&found).flat_map(|(ask, found)| found.iter().map(move |to| (*ask, to)));
    // Who asked by hand has the answer.
    batch.tx.each(
        "update deliveries set is_manual = 0, next_attempt_at = null where app = $1 and id = $2",
        asks.iter().filter(|ask| ask.manual).map(|ask| [ask.app.0.into(), ask.delivery.0.into()]),
    )?;
    batch.tx.each(
        "update watch_destinations set gone_at = $1 where watch = $2 and n = $3",
        gone().map(|(ask, (watch, n, _))| [ask.attempt.at.into(), watch.0.into(), (*n).into()]),
    )?;
    let others = batch.tx.each(
        "update deliveries set status = 'skipped', reason = 'gone', scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where watch = $1 and n = $2 and status = 'pending' and id <> $3",
        gone().map(|(ask, (watch, n, _))| [watch.0.into(), (*n).into(), ask.delivery.0.into()]),
    )?;
    for ((_, (watch, _, destination)), others) in gone().zip(others) {
        if others > 0 {
            batch.effects.tally.skipped(Reason::Gone, others);
            batch
                .effects
                .dispatcher_messages
                .push(DispatcherMessage::Skip { watch: *watch, which: CancelScope::To(*destination) });
        }
    }
    Ok(())
}

pub(super) fn page(batch: &mut Batch<'_>, asks: &[&Page]) -> Result<Vec<Paged>> {
    let mut lanes: Vec<Waiting<'_>> = asks.iter().map(|ask| Waiting::new(ask)).collect();
    // A first try is due at once, whatever has become of the clock since it was planned.
    take_waiting(&batch.tx, &mut lanes, |_| (0, Timestamp::MAX))?;
    take_waiting(&batch.tx, &mut lanes, |ask| (1, ask.now))?;
    let more: Vec<bool> = lanes.iter().map(|lane| lane.ids.len() > lane.limit()).collect();
    for lane in &mut lanes {
        lane.ids.truncate(lane.limit());
    }
    let sql = format!("{SENDS} where d.app = $1 and d.id = $2");
    let keyring = &batch.shared.keyring;
    let rows = lanes.iter().flat_map(|lane| lane.ids.iter().map(|(app, id)| [(*app).into(), id.0.into()]));
    let mut sends = batch.tx.fetch(&sql, rows, |row| read_send(row, keyring))?.into_iter();
    let next = batch.tx.ones(
        "select min(next_attempt_at) from deliveries where queue = $1 and is_retry = 1 and next_attempt_at > $2",
        asks.iter().map(|ask| [(&ask.lane).into(), ask.now.into()]),
        |row| row.opt_time(0),
    )?;
    let paged = |((lane, more), next): ((&Waiting<'_>, bool), Option<Timestamp>)| Paged {
        sends: sends.by_ref().take(lane.ids.len()).flatten().collect(),
        more,
        next,
    };
    Ok(lanes.iter().zip(more).zip(next).map(paged).collect())
}

/// What waits in a lane, beside what is in hand.
struct Waiting<'a> {
    ask: &'a Page,
    in_hand: HashSet<DeliveryId>,
    ids: Vec<(i64, DeliveryId)>,
}

impl<'a> Waiting<'a> {
    fn new(ask: &'a Page) -> Self {
        Self { ask, in_hand: ask.in_hand.iter().copied().collect(), ids: Vec::new() }
    }

    fn limit(&self) -> usize {
        self.ask.limit as usize
    }

    /// Whether it is not known yet whether there are more than are asked for.
    fn has_room(&self) -> bool {
        self.ids.len() <= self.limit()
    }
}

/// Adds what waits in each lane that has room, of the kind and until the time that `which` says.
fn take_waiting(
    tx: &Tx<'_>,
    lanes: &mut [Waiting<'_>],
    which: impl Fn(&Page) -> (i64, Timestamp),
) -> Result<()> {
    let mut lanes: Vec<&mut Waiting<'_>> = lanes.iter_mut().filter(|lane| lane.has_room()).collect();
    // The index alone answers this; the rows are read only of those that are taken.
    let found = tx.fetch(
        "select app, id from deliveries where queue = $1 and is_retry = $2 and next_attempt_at <= $3
         order by next_attempt_at limit $4",
        lanes.iter().map(|lane| {
            let (late, until) = which(lane.ask);
            // As many more as could turn out to be in hand, and one to know whether there are more.
            let most = i64::try_from(lane.limit() + lane.ask.in_hand.len() + 1).unwrap_or(i64::MAX);
            [(&lane.ask.lane).into(), late.into(), until.into(), most.into()]
        }),
        |row| Ok((row.int(0)?, DeliveryId(row.id(1)?))),
    )?;
    for (lane, found) in lanes.iter_mut().zip(found) {
        let Waiting { in_hand, ids, .. } = &mut **lane;
        ids.extend(found.into_iter().filter(|(_, id)| !in_hand.contains(id)));
    }
    Ok(())
}

/// An attempt in the future says that the clock was set back since. Its delivery waits for its step
/// from now, not for as long as the clock was wrong; and what was to be sent at once is sent at once.
pub(super) fn rewind(batch: &mut Batch<'_>, asks: &[&Rewind]) -> Result<Vec<usize>> {
    asks.iter().map(|ask| rewind_all(&batch.tx, ask)).collect()
}

fn rewind_all(tx: &Tx<'_>, ask: &Rewind) -> Result<usize> {
    // Once through all that waits, at each start; there is something to change after a set-back only.
    let found = tx.list(
        "select app, id, step from deliveries
         where next_attempt_at is not null and is_retry = 1
           and (select max(started_at) from attempts where delivery = deliveries.id) > $1",
        [ask.now.into()],
        |row| Ok((row.int(0)?, DeliveryId(row.id(1)?), row.count(2)? as usize)),
    )?;
    // The first step comes after the first wait.
    let due_at = |step: usize| Some(ask.now.plus(*ask.schedule.get(step.checked_sub(1)?)?));
    let changed = tx.each(
        "update deliveries set scheduled_at = $1, next_attempt_at = $1 where app = $2 and id = $3",
        found.iter().filter_map(|(app, id, step)| Some([due_at(*step)?.into(), (*app).into(), id.0.into()])),
    )?;
    let at_once = tx.run(
        "update deliveries set next_attempt_at = $1 where next_attempt_at > $1 and (is_retry = 0 or is_manual = 1)",
        [ask.now.into()],
    )?;
    Ok(changed.into_iter().sum::<usize>() + at_once)
}

pub(super) fn retry_delivery(
    batch: &mut Batch<'_>,
    asks: &[&RetryDelivery],
) -> Result<Vec<RetryDeliveryResult>> {
    asks.iter().map(|ask| resend_one(batch, ask)).collect()
}

fn resend_one(batch: &mut Batch<'_>, ask: &RetryDelivery) -> Result<RetryDeliveryResult> {
    let (app, id) = (ask.app.0, ask.delivery.0);
    if let Some(replay) = idempotency::replay(&batch.tx, ask.remember.as_ref(), ask.now)? {
        return Ok(RetryDeliveryResult::Replayed(replay));
    }
    let found = batch.tx.find(
        "select coalesce(reason, '') from deliveries where app = $1 and id = $2",
        [app.into(), id.into()],
        |row| row.text(0),
    )?;
    match found.as_deref() {
        None => return Ok(RetryDeliveryResult::Unknown),
        Some(reason) if reason == Reason::Stopped.as_str() => return Ok(RetryDeliveryResult::Stopped),
        Some(_) => {}
    }
    batch.tx.run(
        "update deliveries set is_manual = 1, is_retry = 0, next_attempt_at = $1 where app = $2 and id = $3",
        [ask.now.into(), app.into(), id.into()],
    )?;
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(&batch.tx, remember, answer, ask.now)?;
    }
    let sql = format!("{SENDS} where d.app = $1 and d.id = $2");
    let keyring = &batch.shared.keyring;
    let send = batch.tx.one(&sql, [app.into(), id.into()], |row| read_send(row, keyring))?;
    batch.effects.dispatcher_messages.push(DispatcherMessage::Dispatch(Box::new(send)));
    Ok(RetryDeliveryResult::Wanted)
}

fn read_send(row: &Row<'_>, keyring: &Keyring) -> Result<PendingDelivery> {
    let event_type = row.word(3, EventType::parse)?;
    let attempts = row.count(6)?;
    let body: Arc<[u8]> = row.bytes(9)?.into();
    let payload = row.word(10, Payload::parse)?;
    // First tries that did not come straight from their commit count, too: they are the late ones. A raw
    // answer is the provider's: when the job ended stands in the event that it is sent for.
    let finished = match payload {
        _ if attempts > 0 || !event_type.reports_the_jobs_end() => None,
        Payload::Raw => row.opt_bytes(17)?.as_deref().and_then(events::finished),
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
        attempts,
        manual: row.flag(7)?,
        traceparent: row.opt_text(8)?,
        body,
        payload,
        destination: read_destination(row, 11, keyring)?,
    })
}

fn read_shown(row: &Row<'_>, keyring: &Keyring) -> Result<Delivery> {
    let destination = row.id(4)?;
    let reason = row.opt_text(6)?;
    Ok(Delivery {
        id: DeliveryId(row.id(0)?),
        event: EventId(row.id(1)?),
        event_type: row.word(2, EventType::parse)?,
        watch: WatchId(row.id(3)?),
        destination: DestinationId(destination),
        status: row.word(5, DeliveryStatus::parse)?,
        reason: reason.as_deref().and_then(Reason::parse),
        next_attempt_at: row.opt_time(7)?,
        created_at: row.time(8)?,
        channel: row.word(9, ChannelKind::parse)?,
        address: keyring.open(Column::DestinationAddress, destination, row.text(10)?)?,
    })
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
