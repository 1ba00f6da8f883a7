//! Events of watches, as jobs change and end.

use std::sync::Arc;

use super::batch::{Batch, NewEvent};
use super::db::{Result, Row, Tx, Value};
use super::deliveries;
use crate::domain::{
    AppNo, EventId, EventSet, EventType, Finished, JobError, JobName, Observation, Payload, Timestamp,
    WatchId,
};
use crate::events::{self, About};

/// Maximum number of watches of one job that are notified in one transaction.
const CHUNK: usize = 200;

/// A watch for which an event is created.
pub(super) struct WatchToNotify {
    pub(super) app: AppNo,
    pub(super) id: WatchId,
    /// Types that it wants.
    pub(super) events: EventSet,
    /// Form of its webhooks.
    pub(super) payload: Payload,
    metadata: Option<String>,
    traceparent: Option<String>,
    /// Number of its `job.progress` events.
    pub(super) progress: u32,
}

/// Contents of an event, which are the same for all watches of a job.
pub(super) struct EventContents<'a> {
    pub(super) job: &'a JobName,
    pub(super) seen: &'a Observation,
    pub(super) at: Timestamp,
    /// Status and error of an ending that the provider did not report.
    pub(super) own: Option<(&'a str, &'a JobError)>,
    /// The provider's answer.
    pub(super) raw: Option<&'a Arc<[u8]>>,
    /// Generation of the ending that stores the provider's answer.
    pub(super) raw_generation: Option<i64>,
    /// Time at which the provider finished the job.
    pub(super) finished: Option<Finished>,
}

impl WatchToNotify {
    fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            app: AppNo(row.int(0)?),
            id: WatchId(row.id(1)?),
            events: EventSet(row.int(2)?),
            payload: row.word(3, Payload::parse)?,
            metadata: row.opt_text(4)?,
            traceparent: row.opt_text(5)?,
            progress: row.count(6)?,
        })
    }

    /// Creates the `n`th event of a type, and deliveries if the watch wants the type.
    pub(super) fn create_event(
        &self,
        batch: &mut Batch<'_>,
        event_type: EventType,
        n: u32,
        contents: &EventContents<'_>,
    ) {
        let EventContents { job, seen, at, own, .. } = *contents;
        let about = About {
            watch: self.id,
            provider: &job.provider,
            job_id: &job.job_id,
            metadata: self.metadata.as_deref(),
        };
        let id = EventId::derive(self.id, event_type, n);
        let raw = contents.raw.filter(|_| self.payload == Payload::Raw);
        let webhook_body = match (self.payload, contents.raw_generation) {
            (Payload::CloudEvents, _) => Some(
                events::cloud_event(id, event_type, at, &about, seen, own, &batch.shared.public_url).into(),
            ),
            // The ending stores it once for all watches.
            (Payload::Raw, None) => raw.cloned(),
            (Payload::Raw, Some(_)) | (Payload::Event, _) => None,
        };
        let event = NewEvent {
            id,
            app: self.app,
            watch: self.id,
            event_type,
            observed_at: at,
            body: events::body(event_type, at, &about, seen, own).into(),
            webhook_body: webhook_body.map(|body| (self.payload, body)),
            finished: contents.finished.clone(),
        };
        if self.events.has(event_type) {
            let raw = contents.raw_generation.zip(raw);
            deliveries::create(batch, event, self.traceparent.as_deref(), raw, job.shard());
        } else {
            batch.events.push(event);
        }
    }
}

/// A chunk of the watches of a job, and whether more remain.
pub(super) type Chunk = (Vec<WatchToNotify>, bool);

/// Reads for each row of values a chunk of the watches of job `$1` that have not ended and meet a condition. They
/// are in the order of the index, so that a chunk does not read all remaining watches.
pub(super) fn read_chunks<'v, const N: usize>(
    tx: &Tx<'_>,
    condition: &str,
    rows: impl IntoIterator<Item = [Value<'v>; N]>,
) -> Result<Vec<Chunk>> {
    let sql = format!(
        "select app, id, events, payload, metadata, traceparent, progress from watches
         where job = $1 and status = 'watching' and {condition} order by app, id limit {}",
        CHUNK + 1
    );
    let found = tx.fetch(&sql, rows, WatchToNotify::read)?;
    let chunk = |mut watches: Vec<WatchToNotify>| {
        let has_more = watches.len() > CHUNK;
        watches.truncate(CHUNK);
        (watches, has_more)
    };
    Ok(found.into_iter().map(chunk).collect())
}
