//! Manual retries of one delivery, or of many failed ones.
//!
//! **Many deliveries.** There may be a hundred thousand, so they are marked in chunks of [`CHUNK`], each in a
//! transaction of its own, in the order of their creation. The writer is never blocked for long, and each chunk is on
//! disk before the next one begins. The count includes only deliveries on disk. After a crash some chunks are
//! attempted although the client got no response. If the client repeats the request, some deliveries are attempted
//! twice, which "at least once" permits.
//!
//! They are manual retries, as a single one is, but are queued as retries: new events do not wait for all deliveries
//! that once failed. The dispatcher is notified of the queues, not of each delivery with its body, and loads pages.

use std::collections::BTreeMap;

use super::super::batch::Batch;
use super::super::db::{Result, Tx, Where, params, row_sql};
use super::super::idempotency::Outcome;
use super::super::reads::ReadStore;
use super::{DeliveryFilter, PENDING, read_pending};
use crate::domain::{AppNo, DeliveryId, DispatcherMessage, Timestamp};

/// Maximum number of deliveries that are marked in one transaction.
const CHUNK: u32 = 200;

/// Requests an attempt of a delivery at once.
#[derive(Clone, Debug)]
pub struct RetryDelivery {
    /// The app.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Time of the request.
    pub now: Timestamp,
}

/// Reason why a delivery is not retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryRefusal {
    /// The delivery does not exist.
    NotFound,
    /// Its watch was stopped.
    Stopped,
    /// Its destination is disabled.
    Disabled,
}

/// Requests attempts of the next chunk of failed deliveries at once. Skipped deliveries, those of stopped watches and
/// those to disabled destinations are not included.
#[derive(Clone, Debug)]
pub struct RetryFailedDeliveries {
    /// The app.
    pub app: AppNo,
    /// `destination`, `since` and `until` of the deliveries. Other fields have no effect.
    pub filter: DeliveryFilter,
    /// Progress of the earlier chunks.
    pub progress: RetryProgress,
    /// Time of the request.
    pub now: Timestamp,
}

/// Progress of [`RetryFailedDeliveries`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryProgress {
    /// Number of deliveries that will be attempted.
    pub count: u64,
    /// Last delivery of the chunk, if more may remain. The caller repeats the command with this progress.
    pub after: Option<DeliveryId>,
}

impl ReadStore {
    /// Returns the number of deliveries that [`RetryFailedDeliveries`] would mark, at most `limit`.
    pub async fn count_failed(&self, app: AppNo, filter: DeliveryFilter, limit: u32) -> Result<u32> {
        self.read(app, move |tx| {
            let found = failed(tx, app, &filter, None, limit)?;
            Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
        })
        .await
    }
}

pub fn retry_delivery(batch: &mut Batch<'_>, command: &RetryDelivery) -> Outcome<(), RetryRefusal> {
    let RetryDelivery { app, delivery: id, now } = command;
    // A stop skips pending deliveries, also those of a watch that had ended; others had failed before.
    let found = batch.tx.find(
        "select case when w.status = 'stopped' or d.reason = 'stopped' then 1 else 0 end,
           case when s.disabled_reason is null then 0 else 1 end
         from deliveries d left join watches w on w.app = d.app and w.id = d.watch
         join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
         left join destinations s on s.no = wd.saved where d.app = $1 and d.id = $2",
        params![app, id],
        |row| Ok((row.flag(0)?, row.flag(1)?)),
    )?;
    match found {
        None => return Ok(Err(RetryRefusal::NotFound)),
        Some((true, _)) => return Ok(Err(RetryRefusal::Stopped)),
        Some((_, true)) => return Ok(Err(RetryRefusal::Disabled)),
        Some((false, false)) => {}
    }
    batch.tx.run(
        "update deliveries set is_manual = 1, is_retry = 0, next_attempt_at = $1 where app = $2 and id = $3",
        params![now, app, id],
    )?;
    let keyring = &batch.shared.keyring;
    let pending = batch.tx.one(&PENDING, params![app, id], |row| read_pending(row, keyring))?;
    batch.effects.dispatcher_messages.push(DispatcherMessage::Dispatch(Box::new(pending)));
    Ok(Ok(()))
}

/// Returns the app's failed deliveries after one, with their queues, in the order of their creation, without those of
/// stopped watches and those to disabled destinations.
fn failed(
    tx: &Tx<'_>,
    app: AppNo,
    filter: &DeliveryFilter,
    after: Option<DeliveryId>,
    limit: u32,
) -> Result<Vec<(DeliveryId, String)>> {
    // Failed deliveries have a partial index, which applies only to exactly these expressions. A destination has
    // fewer deliveries, and an index of its own.
    let (by_app, column) =
        if filter.destination.is_some() { ("app =", "status") } else { ("app + 0 =", "status || ''") };
    let select = format!("select id, queue from deliveries where {column} = 'failed' and {by_app}");
    let mut query = Where::new(&select, app);
    query.and("destination =", filter.destination);
    query.and("id >", after);
    query.and("id >=", filter.least_id());
    query.and("created_at >=", filter.since);
    query.and("created_at <", filter.until);
    query.push(
        " and not exists (select 1 from watches w where w.app = deliveries.app and w.id = deliveries.watch
           and w.status = 'stopped')
         and not exists (select 1 from watch_destinations wd join destinations s on s.no = wd.saved
           where wd.watch = deliveries.watch and wd.n = deliveries.n and s.disabled_reason is not null)
         order by id limit",
        limit,
    );
    tx.list(&query.sql, query.values, |row| Ok((DeliveryId(row.id(0)?), row.text(1)?)))
}

pub fn retry_failed_deliveries(
    batch: &mut Batch<'_>,
    command: &RetryFailedDeliveries,
) -> Outcome<RetryProgress> {
    let RetryProgress { count, after } = command.progress;
    let mut found = failed(&batch.tx, command.app, &command.filter, after, CHUNK + 1)?;
    let has_more = found.len() > CHUNK as usize;
    found.truncate(CHUNK as usize);
    let marked = batch.tx.update_each(
        row_sql!(
            "update deliveries set is_manual = 1, is_retry = 1, next_attempt_at = $1"
            where "app = $2 and id = $3 and status = 'failed'"
        ),
        found.iter().map(|(id, _)| params![command.now, command.app, id]),
    )?;
    let count = count + marked.into_iter().map(|changed| changed as u64).sum::<u64>();
    let after = found.last().map(|(id, _)| *id).filter(|_| has_more);
    let mut queues: BTreeMap<String, Vec<DeliveryId>> = BTreeMap::new();
    for (id, queue) in found {
        queues.entry(queue).or_default().push(id);
    }
    let messages =
        queues.into_iter().map(|(queue, requested)| DispatcherMessage::QueueChanged { queue, requested });
    batch.effects.dispatcher_messages.extend(messages);
    Ok(Ok(RetryProgress { count, after }))
}
