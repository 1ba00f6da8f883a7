//! Trying many failed deliveries again.
//!
//! There may be a hundred thousand of them, so they are taken a chunk at a time, each in a transaction of
//! its own, in the order in which they were made: the writer never stalls, and each chunk is on disk
//! before the next begins. The count is of what is on disk. A crash in between leaves chunks that are
//! sent and nobody who was told so; who asks again asks for some of them twice, which is what "at least
//! once" allows.
//!
//! They are marked as asked for by hand, like a single one, but take the place of retries in their lanes:
//! what is new does not wait for all that once failed. Those who send are told which lanes have more to
//! do, not each delivery with its body: it is paged in.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::db::{Result, Tx, Where};
use super::deliveries::DeliveryFilter;
use super::idempotency::{self, FirstAnswer, Remember, Replay};
use super::reads::ReadStore;
use crate::domain::{AppNo, DeliveryId, DispatcherMessage, Timestamp};

/// How many are marked in one transaction.
const CHUNK: u32 = 200;

/// Makes the answer, of how many there are.
pub type Answer = fn(u64) -> FirstAnswer;

/// The wish to try the next chunk of failed deliveries again.
#[derive(Clone, Debug)]
pub struct RetryMany {
    /// In whose name.
    pub app: AppNo,
    /// Which: `destination`, `since` and `until` count.
    pub filter: DeliveryFilter,
    /// Those up to this one are marked already.
    pub after: Option<DeliveryId>,
    /// How many those were.
    pub count: u64,
    /// Under which key the answer to the whole is kept, and what makes it.
    pub remember: Option<(Remember, Answer)>,
    /// When.
    pub now: Timestamp,
}

/// How far it got.
#[derive(Debug)]
pub enum RetriedMany {
    /// There are more after this one; so many are on disk.
    More(DeliveryId, u64),
    /// So many are on disk, and that is all.
    Done(u64),
    /// The key was used before.
    Replayed(Replay),
}

impl ReadStore {
    /// How many deliveries [`Self::retry_many`] would mark, at most `most`.
    pub async fn count_failed(&self, app: AppNo, filter: DeliveryFilter, most: u32) -> Result<u32> {
        self.read(move |tx| {
            let found = failed(tx, app, &filter, None, most)?;
            Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
        })
        .await
    }
}

/// The app's failed deliveries after one, with their lanes, in the order in which they were made.
fn failed(
    tx: &Tx<'_>,
    app: AppNo,
    filter: &DeliveryFilter,
    after: Option<DeliveryId>,
    limit: u32,
) -> Result<Vec<(DeliveryId, String)>> {
    // Few are failed: by their index, which asks for just these words, unless a destination names fewer.
    let (by_app, column) =
        if filter.destination.is_some() { ("app =", "status") } else { ("app + 0 =", "status || ''") };
    let select = format!(
        "select id, queue from deliveries
         where {column} = 'failed' and {by_app}"
    );
    let mut query = Where::new(&select, app.0);
    query.and("destination =", filter.destination.map(|id| id.0));
    query.and("id >", after.map(|id| id.0));
    query.and("id >=", filter.least_id());
    query.and("created_at >=", filter.since);
    query.and("created_at <", filter.until);
    query.push(" order by id limit", limit);
    tx.list(&query.sql, query.values, |row| Ok((DeliveryId(row.id(0)?), row.text(1)?)))
}

pub(super) fn retry_many(batch: &mut Batch<'_>, asks: &[&RetryMany]) -> Result<Vec<RetriedMany>> {
    asks.iter().map(|ask| resend_chunk(batch, ask)).collect()
}

fn resend_chunk(batch: &mut Batch<'_>, ask: &RetryMany) -> Result<RetriedMany> {
    if ask.after.is_none()
        && let Some(replay) = idempotency::replay(&batch.tx, ask.remember.as_ref(), ask.now)?
    {
        return Ok(RetriedMany::Replayed(replay));
    }
    let mut found = failed(&batch.tx, ask.app, &ask.filter, ask.after, CHUNK + 1)?;
    let more = found.len() > CHUNK as usize;
    found.truncate(CHUNK as usize);
    let marked = batch.tx.each(
        "update deliveries set is_manual = 1, is_retry = 1, next_attempt_at = $1
         where app = $2 and id = $3 and status = 'failed'",
        found.iter().map(|(id, _)| [ask.now.into(), ask.app.0.into(), id.0.into()]),
    )?;
    let count = ask.count + marked.into_iter().map(|hit| hit as u64).sum::<u64>();
    let last = found.last().map(|(id, _)| *id).filter(|_| more);
    let mut lanes: BTreeMap<String, Vec<DeliveryId>> = BTreeMap::new();
    for (id, lane) in found {
        lanes.entry(lane).or_default().push(id);
    }
    batch.effects.dispatcher_messages.extend(
        lanes.into_iter().map(|(queue, requested)| DispatcherMessage::QueueChanged { queue, requested }),
    );
    if let Some(last) = last {
        return Ok(RetriedMany::More(last, count));
    }
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(&batch.tx, remember, &answer(count), ask.now)?;
    }
    Ok(RetriedMany::Done(count))
}
