//! Destination queues: loading due deliveries, and rescheduling them after the clock was set back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, Row, Tx, params, row_sql};
use super::super::destinations::{self, QueueState};
use super::super::reads::{INTERNAL, ReadStore};
use super::{are_sendable, load_pending};
use crate::domain::{AppNo, DeliveryId, Id, PendingDelivery, Timestamp};
use crate::telemetry::metrics::Backlog;

/// Maximum number of index entries that are counted for the backlog: some milliseconds of work.
const COUNTED_MAX: u32 = 200_000;

/// Time for which a count of the backlog is valid. Several callers may request it, often.
const COUNT_INTERVAL: Duration = Duration::from_secs(15);

/// Maximum number of deliveries that are examined in one transaction after the clock was set back.
const CHUNK: u32 = 1_000;

/// Number of due deliveries that are examined if the first ones are all to be skipped, or are being erased. Operations
/// skip the newest ones of a watch first, so those at the head of a queue are the last, and others must not wait for
/// them. Only flags are read: some milliseconds of work.
const EXAMINED: usize = 1_000;

/// Pause after a page for which nothing was found among the deliveries that were examined. Operations work meanwhile,
/// and a page that is read at once would be the same.
const LEFT_OUT_PAUSE: Duration = Duration::from_secs(1);

/// Loads due deliveries of a destination queue.
#[derive(Clone, Debug)]
pub struct LoadDueDeliveries {
    /// Name of the queue.
    pub queue: String,
    /// Latest time of the attempts.
    pub now: Timestamp,
    /// Maximum number of deliveries.
    pub limit: u32,
    /// Deliveries that the dispatcher has already, which are excluded.
    pub loaded: Vec<DeliveryId>,
    /// Whether retries precede first attempts: on every second page with a probe. Otherwise, new deliveries to a host
    /// that is down would get all probes, and no other delivery would come to its end.
    pub retries_first: bool,
}

/// Finds due deliveries of a destination queue.
#[derive(Clone, Debug)]
pub struct FindDue {
    /// The page on which they will be.
    pub page: LoadDueDeliveries,
    /// Whether more of them are examined, because all of the first ones are to be skipped or are being erased.
    pub passes_left_out: bool,
}

/// Result of [`FindDue`].
#[derive(Clone, Debug, Default)]
pub struct FoundDue {
    /// App and id of each.
    pub ids: Vec<(AppNo, DeliveryId)>,
    /// Whether more deliveries are due.
    pub has_more: bool,
    /// Time of the next retry that is not due.
    pub next_retry_at: Option<Timestamp>,
}

impl FoundDue {
    /// Returns the page with the deliveries that were loaded. If none of those that were due could be, the page is read
    /// again after a pause: what cannot be read stays due.
    pub(in crate::store) fn with(
        self,
        deliveries: Vec<PendingDelivery>,
        were_due: bool,
        now: Timestamp,
    ) -> DueDeliveries {
        let Self { ids: _, has_more, next_retry_at } = self;
        if were_due && deliveries.is_empty() {
            return DueDeliveries {
                next_retry_at: Some(pause(next_retry_at, now)),
                ..DueDeliveries::default()
            };
        }
        DueDeliveries { deliveries, has_more, next_retry_at }
    }
}

/// Returns when a page is read again of which nothing could be loaded.
fn pause(next_retry_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let again_at = now.plus(LEFT_OUT_PAUSE);
    next_retry_at.map_or(again_at, |at| at.min(again_at))
}

/// Result of [`LoadDueDeliveries`].
#[derive(Clone, Debug, Default)]
pub struct DueDeliveries {
    /// First attempts before retries or the reverse, each by time.
    pub deliveries: Vec<PendingDelivery>,
    /// Whether more deliveries are due.
    pub has_more: bool,
    /// Time of the next retry that is not due.
    pub next_retry_at: Option<Timestamp>,
}

/// Destination queues that are not empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationQueues {
    /// Names of queues, each with the time of its first attempt.
    pub queues: Vec<(String, Timestamp)>,
    /// Earliest time of an attempt in the other queues; `None` if there are no others.
    pub others_at: Option<Timestamp>,
}

/// Time by which a delivery may lie in the future without a clock that was set back: a command waits for its turn, and
/// meanwhile others are committed.
const TURN_MAX: Duration = Duration::from_secs(5);

/// Reschedules the next waiting deliveries after the clock was set back.
#[derive(Clone, Debug)]
pub struct RescheduleRetries {
    /// Pause after each failed attempt.
    pub schedule: Vec<Duration>,
    /// The current time.
    pub now: Timestamp,
    /// Position of the last result.
    pub after: ReschedulePosition,
}

/// The last delivery that was examined, in the order of the index of waiting deliveries: its queue, whether it is a
/// retry, the time of its next attempt, its app and its id.
pub type ReschedulePosition = (String, i64, Timestamp, AppNo, DeliveryId);

/// Result of [`RescheduleRetries`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rescheduled {
    /// Number of deliveries that were rescheduled.
    pub count: usize,
    /// Position of the next step; `None` if every delivery was examined.
    pub next: Option<ReschedulePosition>,
}

impl RescheduleRetries {
    /// Returns the first step.
    pub fn new(schedule: Vec<Duration>, now: Timestamp) -> Self {
        let first = DeliveryId(Id::from_bytes([0; 16]));
        Self { schedule, now, after: (String::new(), 0, Timestamp::from_millis(i64::MIN), AppNo(0), first) }
    }
}

impl ReadStore {
    /// Returns the destination queues that are not empty: at most `limit`. The apps take turns, within an app its
    /// origins, and within an origin the earliest queue is the first. So neither an app nor a host fills the result
    /// while another has waiting deliveries.
    pub async fn destination_queues(&self, limit: usize) -> Result<DestinationQueues> {
        let unreadable = self.shared.unreadable.clone();
        let rows = self.read(INTERNAL, move |tx| {
            tx.list(
                // Without the hash of its URL, the name of a webhook's queue is its origin.
                "select queue, due_at,
                   min(due_at) over (order by app_rank desc, due_at desc, queue desc
                                     rows between unbounded preceding and 1 preceding) as others_at
                 from
                   (select queue, due_at,
                      row_number() over (partition by app order by origin_rank, due_at) as app_rank
                    from
                      (select app, queue, due_at,
                         row_number() over (partition by
                           case when queue like '%://%' then rtrim(queue, '0123456789abcdef') else queue end
                           order by due_at) as origin_rank
                       from
                         (select min(app) as app, queue, min(next_attempt_at) as due_at
                          from deliveries where next_attempt_at is not null group by queue) queues) by_origin) by_app
                 order by app_rank, due_at, queue limit $1",
                params![i64::try_from(limit).unwrap_or(i64::MAX)],
                |row| {
                    let queue = || Ok((row.text(0)?, row.time(1)?, row.opt_time(2)?));
                    unreadable.skip(("deliveries by queue", 0), row, queue())
                },
            )
        });
        let rows: Vec<_> = rows.await?.into_iter().flatten().collect();
        let others_at = rows.last().and_then(|(_, _, others_at)| *others_at);
        Ok(DestinationQueues {
            queues: rows.into_iter().map(|(queue, at, _)| (queue, at)).collect(),
            others_at,
        })
    }

    /// Returns these deliveries in their order, without those that are not waiting any more, that are to be skipped, or
    /// that are being erased.
    pub async fn pending_deliveries(&self, ids: Vec<(AppNo, DeliveryId)>) -> Result<Vec<PendingDelivery>> {
        let shared = Arc::clone(&self.shared);
        self.read(INTERNAL, move |tx| {
            let found = load_pending(tx, &shared, ids.iter().map(|(app, id)| params![app, id]))?;
            Ok(found.into_iter().flatten().collect())
        })
        .await
    }

    /// Returns the number of due deliveries and the earliest of their times. A result is up to
    /// [`COUNT_INTERVAL`] old and covers the first [`COUNTED_MAX`] pending deliveries.
    pub async fn backlog(&self, now: Timestamp) -> Result<Backlog> {
        let mut last = self.shared.backlog.lock().await;
        if let Some((counted_at, backlog)) = *last
            && now >= counted_at
            && now < counted_at.plus(COUNT_INTERVAL)
        {
            return Ok(backlog);
        }
        let counted = self.read(INTERNAL, move |tx| {
            tx.one(
                "select count(*), min(next_attempt_at) from
                   (select is_retry, next_attempt_at from deliveries where next_attempt_at is not null
                    limit $1) waiting
                 where is_retry = 0 or next_attempt_at <= $2",
                params![COUNTED_MAX, now],
                |row| {
                    Ok(Backlog { count: u64::try_from(row.int(0)?).unwrap_or(0), oldest: row.opt_time(1)? })
                },
            )
        });
        let backlog = counted.await?;
        *last = Some((now, backlog));
        Ok(backlog)
    }
}

pub fn find_due<'c>(batch: &mut Batch<'_>, commands: &[&'c FindDue]) -> Result<Vec<FoundDue>> {
    let states =
        destinations::queue_states(&batch.tx, commands.iter().map(|command| command.page.queue.as_str()))?;
    let page = |(command, state): (&&'c FindDue, QueueState)| {
        let FindDue { page: command, passes_left_out } = *command;
        let limit = command.limit as usize;
        QueuePage {
            command,
            state,
            limit: if *passes_left_out { EXAMINED } else { limit },
            loaded: command.loaded.iter().copied().collect(),
            ids: Vec::new(),
            has_more: false,
            is_blocked: false,
        }
    };
    let mut pages: Vec<QueuePage<'_>> = commands.iter().zip(states).map(page).collect();
    add_due(batch, pages.iter_mut(), |command| command.retries_first)?;
    add_due(batch, pages.iter_mut(), |command| !command.retries_first)?;
    let (mut passing, others): (Vec<_>, Vec<_>) =
        pages.iter_mut().zip(commands).partition(|(_, command)| command.passes_left_out);
    for (page, _) in others {
        page.has_more = page.ids.len() > page.limit;
    }
    pass_left_out(&batch.tx, passing.iter_mut().map(|(page, _)| &mut **page))?;
    let next_retry_at = batch.tx.ones(
        "select min(next_attempt_at) from deliveries where queue = $1 and is_retry = 1 and next_attempt_at > $2",
        commands.iter().map(|command| params![&command.page.queue, command.page.now]),
        |row| row.opt_time(0),
    )?;
    let found = |(mut page, next_retry_at): (QueuePage<'_>, Option<Timestamp>)| {
        let next_retry_at = next_retry_at.filter(|_| !page.state.is_disabled);
        if page.is_blocked {
            let next_retry_at = Some(pause(next_retry_at, page.command.now));
            return FoundDue { next_retry_at, ..FoundDue::default() };
        }
        page.ids.truncate(page.limit);
        FoundDue { ids: page.ids, has_more: page.has_more, next_retry_at }
    };
    Ok(pages.into_iter().zip(next_retry_at).map(found).collect())
}

/// Removes from each page the deliveries that are to be skipped or are being erased.
fn pass_left_out<'p, 'c: 'p>(tx: &Tx<'_>, pages: impl Iterator<Item = &'p mut QueuePage<'c>>) -> Result<()> {
    let mut pages: Vec<&mut QueuePage<'_>> = pages.collect();
    let ids = pages.iter().flat_map(|page| page.ids.iter().take(page.limit));
    let mut sendable = are_sendable(tx, ids.map(|(app, id)| params![*app, id]))?.into_iter();
    for page in &mut pages {
        let is_window_full = page.ids.len() > page.limit;
        page.ids.truncate(page.limit);
        let were_due = !page.ids.is_empty();
        page.ids.retain(|_| sendable.next() == Some(true));
        page.limit = page.command.limit as usize;
        page.has_more = is_window_full || page.ids.len() > page.limit;
        page.is_blocked = were_due && page.ids.is_empty();
    }
    Ok(())
}

/// Due deliveries of a queue, without those that the dispatcher has already. If there are more than the limit, more
/// are due.
struct QueuePage<'a> {
    command: &'a LoadDueDeliveries,
    /// The page of a disabled destination is empty.
    state: QueueState,
    limit: usize,
    loaded: HashSet<DeliveryId>,
    ids: Vec<(AppNo, DeliveryId)>,
    /// Whether more deliveries are due.
    has_more: bool,
    /// Whether all deliveries that were examined are to be skipped, or are being erased.
    is_blocked: bool,
}

/// Adds due deliveries to each page that is not full, or of which is not known yet whether more are due. `is_retry`
/// returns whether retries are added, or first attempts.
fn add_due<'p, 'c: 'p>(
    batch: &Batch<'_>,
    pages: impl Iterator<Item = &'p mut QueuePage<'c>>,
    is_retry: impl Fn(&LoadDueDeliveries) -> bool,
) -> Result<()> {
    let is_open = |page: &&mut QueuePage<'_>| page.ids.len() <= page.limit && !page.state.is_disabled;
    let (mut ordered, mut others): (Vec<_>, Vec<_>) =
        pages.filter(is_open).partition(|page| page.state.is_ordered);
    // Those that cannot be read stay due. They must not fill the page.
    let (unreadable, of) = (&batch.shared.unreadable, ("deliveries", 1));
    let left_out = unreadable.count("deliveries");
    // A covering index answers the first query. Only the rows that are taken are read.
    for (pages, sql) in [(&mut others, DUE), (&mut ordered, DUE_IN_ORDER)] {
        if pages.is_empty() {
            continue;
        }
        let found = batch.tx.fetch(
            sql,
            pages.iter().map(|page| {
                let is_retry = is_retry(page.command);
                // A first attempt is due at once, even if the clock was set back since it was created.
                let until = if is_retry { page.command.now } else { Timestamp::MAX };
                // Those that the dispatcher has may be among them. One more shows whether more are due.
                let limit = page.limit + page.command.loaded.len() + left_out + 1;
                let limit = i64::try_from(limit).unwrap_or(i64::MAX);
                params![&page.command.queue, i64::from(is_retry), until, limit]
            }),
            |row| {
                if left_out > 0 && unreadable.has(of, row) {
                    return Ok(None);
                }
                let read = || Ok((AppNo(row.int(0)?), DeliveryId(row.id(1)?)));
                unreadable.skip(of, row, read())
            },
        )?;
        for (page, found) in pages.iter_mut().zip(found) {
            let QueuePage { loaded, ids, .. } = &mut **page;
            ids.extend(found.into_iter().flatten().filter(|(_, id)| !loaded.contains(id)));
        }
    }
    Ok(())
}

/// The waiting deliveries after a position.
pub(in crate::store) const WAITING: &str =
    "select queue, is_retry, next_attempt_at, app, id, step, is_manual,
    (select max(started_at) from attempts where delivery = deliveries.id)
  from deliveries
  where next_attempt_at is not null and (queue, is_retry, next_attempt_at, app, id) > ($1, $2, $3, $4, $5)
  order by queue, is_retry, next_attempt_at, app, id limit $6";

/// A waiting delivery.
struct Waiting {
    position: ReschedulePosition,
    step: usize,
    is_manual: bool,
    last_attempt_at: Option<Timestamp>,
}
const DUE: &str =
    "select app, id from deliveries where queue = $1 and is_retry = $2 and next_attempt_at <= $3
         order by next_attempt_at, app, id limit $4";

/// The same for an ordered destination: a delivery is due only when no earlier one of its watch is pending
/// ([`EARLIER`](super::EARLIER)). What is to be skipped is left out, because it waits for nothing after the end of its
/// watch, and would fill the page.
pub(in crate::store) const DUE_IN_ORDER: &str = "select d.app, d.id from deliveries d
         where d.queue = $1 and d.is_retry = $2 and d.next_attempt_at <= $3
           and case coalesce((select w.status from watches w where w.app = d.app and w.id = d.watch), 'watching')
             when 'watching' then not exists (
               select 1 from deliveries e where e.watch = d.watch and e.n = d.n and e.status || '' = 'pending'
                 and e.queue like '% dst_%' and e.id < d.id)
             when 'stopped' then 1 = 0
             else not (d.status = 'pending' and d.type in ('job.processing', 'job.progress')) end
         order by d.next_attempt_at, d.app, d.id limit $4";

/// Reschedules deliveries whose last attempt lies in the future, which shows that the clock was set back. Each waits
/// for the pause of its step from now. First attempts and manual retries are due at once.
///
/// Each start examines every waiting delivery, in steps of [`CHUNK`]. Rows are changed only after the clock was set
/// back. A delivery that moves to a later position by that is examined twice, with the same result.
pub fn reschedule_retries(batch: &mut Batch<'_>, command: &RescheduleRetries) -> Result<Rescheduled> {
    let (tx, now) = (&batch.tx, command.now);
    let is_future = |at: Timestamp| at > now.plus(TURN_MAX);
    let (queue, is_retry, at, app, id) = &command.after;
    let position = |row: &Row<'_>| -> Result<ReschedulePosition> {
        Ok((row.text(0)?, row.int(1)?, row.time(2)?, AppNo(row.int(3)?), DeliveryId(row.id(4)?)))
    };
    let read = |row: &Row<'_>| {
        Ok(Waiting {
            position: position(row)?,
            step: row.count(5)? as usize,
            is_manual: row.flag(6)?,
            last_attempt_at: row.opt_time(7)?,
        })
    };
    let mut last = None;
    let found = tx.list(WAITING, params![queue, *is_retry, at, app, id, CHUNK], |row| {
        // The next step begins after a row that cannot be read, if its position can.
        last = position(row).ok().or(last.take());
        batch.shared.unreadable.skip(("deliveries", 4), row, read(row))
    })?;
    let is_full = found.len() == CHUNK as usize;
    let found: Vec<Waiting> = found.into_iter().flatten().collect();
    let is_retry = |one: &&Waiting| one.position.1 == 1;
    // Step 1 follows the first pause. A wait that an outage has shortened keeps step 0.
    let due_at = |step: usize| Some(now.plus(*command.schedule.get(step.saturating_sub(1))?));
    let attempted_later = |one: &&Waiting| one.last_attempt_at.is_some_and(is_future);
    let retries = tx.update_each(
        row_sql!(
            "update deliveries set scheduled_at = $1, next_attempt_at = $1"
            where "app = $2 and id = $3"
        ),
        found
            .iter()
            .filter(is_retry)
            .filter(attempted_later)
            .filter_map(|one| Some(params![due_at(one.step)?, one.position.3, one.position.4])),
    )?;
    let at_once = tx.update_each(
        row_sql!(
            "update deliveries set next_attempt_at = $1"
            where "app = $2 and id = $3 and next_attempt_at > $1"
        ),
        found
            .iter()
            .filter(|one| (!is_retry(one) || one.is_manual) && is_future(one.position.2))
            .map(|one| params![now, one.position.3, one.position.4]),
    )?;
    let count = retries.into_iter().chain(at_once).sum();
    Ok(Rescheduled { count, next: last.filter(|_| is_full) })
}
