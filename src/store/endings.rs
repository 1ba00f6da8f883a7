//! Endings: how a job ended, and telling its watches.
//!
//! An ending is a row, written first; the watches are ended *from it*, a chunk at a time, because a
//! job may have a hundred thousand of them and a transaction should not. The row stays marked `open`
//! until all are told, and a partial index shows a restart which are. The first chunk goes into the
//! transaction of the ending itself, so an ordinary job costs one commit.
//!
//! **One ending a watch.** An ending's event is made only where `update … where status = 'watching'`
//! hit the row, in the same transaction; a stop that came first, or a second ending, finds nothing
//! to hit. A partial unique index on events agrees.
//!
//! **The job's row is only "last seen".** It can go on to another generation while the chunks of
//! this ending are still being told; no chunk is ever made from it. An expiry, which is the watch's
//! own and not the job's, does quote it: "the rest is as last seen".

use std::sync::Arc;

use super::batch::{Batch, NewEvent};
use super::db::{Result, Row};
use super::deliveries;
use super::jobs::tell_who_waits;
use super::rows::{read_name, to_json};
use crate::domain::{
    AppNo, EndingKind, EventId, EventSet, EventType, Finished, JobError, JobName, JobNo, Observation,
    Payload, Timestamp, WatchId,
};
use crate::events::{self, About};

/// How many watches are ended in one transaction.
const CHUNK: u32 = 200;

/// The end of a job.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The job.
    pub job: JobNo,
    /// The generation that was looked at.
    pub generation: i64,
    /// How it ended.
    pub kind: EndingKind,
    /// What was seen; `None` where the provider had nothing to show: the rest is as last seen.
    pub seen: Option<Observation>,
    /// Why, where the provider did not say.
    pub error: Option<JobError>,
    /// The provider's answer, if it is not too large to be passed on.
    pub raw: Option<Arc<[u8]>>,
    /// When it was observed.
    pub at: Timestamp,
}

/// An ending of which more watches are to be told.
#[derive(Clone, Copy, Debug)]
pub struct NotifyWatches {
    /// The job.
    pub job: JobNo,
    /// The generation that ended.
    pub generation: i64,
}

/// The end of a job's watches whose time is up.
#[derive(Clone, Debug)]
pub struct Expire {
    /// The job.
    pub job: JobNo,
    /// Those that expire until then.
    pub until: Timestamp,
    /// Why.
    pub error: JobError,
    /// When it was decided.
    pub at: Timestamp,
}

/// How far it got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyProgress {
    /// There are more watches to be told.
    pub more: bool,
}

/// What a chunk is made from.
struct Ending {
    job: JobNo,
    name: JobName,
    kind: EndingKind,
    seen: Observation,
    error: Option<JobError>,
    raw: Option<Arc<[u8]>>,
    /// Where the raw answer is found again.
    generation: i64,
    shard: u16,
    at: Timestamp,
}

impl Ending {
    /// When the job ended, if it was seen to end and its provider says when.
    fn finished(&self) -> Option<Finished> {
        let at = self.seen.completed_at.filter(|_| self.seen.status.ending() == Some(self.kind))?;
        Some(Finished { provider: self.name.provider.clone(), at })
    }
}

/// An ending, and the watches that are told of it now.
struct Chunk {
    ending: Ending,
    watches: Vec<Waiting>,
    /// There are others.
    more: bool,
}

struct Waiting {
    app: AppNo,
    id: WatchId,
    events: EventSet,
    payload: Payload,
    metadata: Option<String>,
    traceparent: Option<String>,
}

pub(super) fn end(batch: &mut Batch<'_>, asks: &[&Ended]) -> Result<Vec<NotifyProgress>> {
    let texts: Vec<(Option<String>, Option<String>)> =
        asks.iter().map(|ask| (ask.seen.as_ref().map(to_json), ask.error.as_ref().map(to_json))).collect();
    let raw_wanted = batch.tx.fetch(
        "select generation from watches where job = $1 and status = 'watching' and payload = 'raw' limit 1",
        asks.iter().map(|ask| [ask.job.0.into()]),
        |row| row.int(0),
    )?;
    batch.tx.each(
        "insert into endings (job, generation, kind, seen, error, raw, ended_at, unfinished)
         values ($1, $2, $3, coalesce($4, (select seen from jobs where no = $1)), $5, $6, $7, 1)
         on conflict (job, generation) do nothing",
        asks.iter().zip(&texts).zip(&raw_wanted).map(|((ask, (seen, error)), raw_wanted)| {
            [
                ask.job.0.into(),
                ask.generation.into(),
                ask.kind.as_str().into(),
                seen.as_deref().into(),
                error.as_deref().into(),
                ask.raw.as_deref().filter(|_| !raw_wanted.is_empty()).into(),
                ask.at.into(),
            ]
        }),
    )?;
    batch.tx.each(
        "update jobs set ended = 1, poll_requested_at = null, seen = coalesce($1, seen)
         where no = $2 and generation = $3 and ended = 0",
        asks.iter()
            .zip(&texts)
            .map(|(ask, (seen, _))| [seen.as_deref().into(), ask.job.0.into(), ask.generation.into()]),
    )?;
    let tells: Vec<NotifyWatches> =
        asks.iter().map(|ask| NotifyWatches { job: ask.job, generation: ask.generation }).collect();
    tell(batch, &tells.iter().collect::<Vec<_>>())
}

pub(super) fn tell(batch: &mut Batch<'_>, asks: &[&NotifyWatches]) -> Result<Vec<NotifyProgress>> {
    let endings = batch.tx.fetch(
        "select j.provider, j.account, j.job_id, j.params, e.kind, e.seen, e.error, e.raw, e.generation,
           e.ended_at, e.job
         from endings e join jobs j on j.no = e.job where e.job = $1 and e.generation = $2",
        asks.iter().map(|ask| [ask.job.0.into(), ask.generation.into()]),
        read_ending,
    )?;
    let endings: Vec<Option<Ending>> = endings.into_iter().map(|found| found.into_iter().next()).collect();
    // The order is the index's: each chunk reads itself, not all that are left.
    let watches = batch.tx.fetch(
        "select app, id, events, payload, metadata, traceparent from watches
         where job = $1 and status = 'watching' and generation <= $2 order by app, id limit $3",
        asks.iter().map(|ask| [ask.job.0.into(), ask.generation.into(), (CHUNK + 1).into()]),
        read_watch,
    )?;
    let mut told = Vec::with_capacity(endings.len());
    let mut chunks = Vec::with_capacity(endings.len());
    for (ending, mut watches) in endings.into_iter().zip(watches) {
        // Nothing ended, or it has been forgotten since.
        let Some(ending) = ending else {
            told.push(NotifyProgress { more: false });
            continue;
        };
        let more = watches.len() > CHUNK as usize;
        watches.truncate(CHUNK as usize);
        chunks.push(Chunk { ending, watches, more });
        told.push(NotifyProgress { more });
    }
    end_watches(batch, &chunks)?;
    batch.tx.each(
        "update endings set unfinished = 0 where job = $1 and generation = $2",
        chunks
            .iter()
            .filter(|chunk| !chunk.more)
            .map(|Chunk { ending, .. }| [ending.job.0.into(), ending.generation.into()]),
    )?;
    Ok(told)
}

pub(super) fn expire(batch: &mut Batch<'_>, asks: &[&Expire]) -> Result<Vec<NotifyProgress>> {
    let jobs = batch.tx.ones(
        "select provider, account, job_id, params, seen from jobs where no = $1",
        asks.iter().map(|ask| [ask.job.0.into()]),
        |row| Ok((read_name(row, 0)?, row.json(4)?)),
    )?;
    let watches = batch.tx.fetch(
        "select app, id, events, payload, metadata, traceparent from watches
         where job = $1 and status = 'watching' and expires_at <= $2 order by app, id limit $3",
        asks.iter().map(|ask| [ask.job.0.into(), ask.until.into(), (CHUNK + 1).into()]),
        read_watch,
    )?;
    let mut chunks = Vec::with_capacity(asks.len());
    for ((ask, (name, seen)), mut watches) in asks.iter().zip(jobs).zip(watches) {
        let more = watches.len() > CHUNK as usize;
        watches.truncate(CHUNK as usize);
        let ending = Ending {
            job: ask.job,
            shard: name.shard(),
            name,
            kind: EndingKind::Expired,
            seen,
            error: Some(ask.error.clone()),
            raw: None,
            generation: 0,
            at: ask.at,
        };
        chunks.push(Chunk { ending, watches, more });
    }
    end_watches(batch, &chunks)?;
    let all_told = chunks.iter().filter(|chunk| !chunk.more).map(|chunk| chunk.ending.job);
    tell_who_waits(batch, &all_told.collect::<Vec<_>>())?;
    Ok(chunks.iter().map(|chunk| NotifyProgress { more: chunk.more }).collect())
}

/// Ends watches, makes their events, and the deliveries that they asked for.
fn end_watches(batch: &mut Batch<'_>, chunks: &[Chunk]) -> Result<()> {
    let all = || chunks.iter().flat_map(|chunk| chunk.watches.iter().map(|watch| (&chunk.ending, watch)));
    // `coalesce`: else PostgreSQL, which plans when the tables are empty, goes through all that wait.
    let hit = batch.tx.each(
        "update watches set status = $1, ended_at = $2
         where app = $3 and id = $4 and coalesce(status, '') = 'watching'",
        all().map(|(ending, watch)| {
            [ending.kind.status().as_str().into(), ending.at.into(), watch.app.0.into(), watch.id.0.into()]
        }),
    )?;
    let ended = || all().zip(&hit).filter(|(_, hit)| **hit > 0).map(|(ended, _)| ended);
    let followed = |watch: &Waiting| {
        watch.events.has(EventType::JobProcessing) || watch.events.has(EventType::JobProgress)
    };
    let followers = ended().filter(|(_, watch)| followed(watch)).map(|(_, watch)| watch.id);
    deliveries::supersede(batch, &followers.collect::<Vec<_>>())?;
    for (ending, watch) in ended() {
        tell_watch(batch, ending, watch);
    }
    Ok(())
}

/// What follows from the end of a watch.
fn tell_watch(batch: &mut Batch<'_>, ending: &Ending, watch: &Waiting) {
    let event_type = ending.kind.event();
    let own = ending.error.as_ref().map(|error| (ending.kind.as_str(), error));
    batch.effects.ended_watches.push(watch.id);
    batch.effects.tally.ended(ending.kind.status());
    let about = About {
        watch: watch.id,
        provider: &ending.name.provider,
        job_id: &ending.name.job_id,
        metadata: watch.metadata.as_deref(),
    };
    let id = EventId::derive(watch.id, event_type, 0);
    let sent = (watch.payload == Payload::CloudEvents).then(|| {
        let url = &batch.shared.public_url;
        events::cloud_event(id, event_type, ending.at, &about, &ending.seen, own, url).into()
    });
    let event = NewEvent {
        id,
        app: watch.app,
        watch: watch.id,
        event_type,
        at: ending.at,
        body: events::body(event_type, ending.at, &about, &ending.seen, own).into(),
        sent: sent.map(|sent| (watch.payload, sent)),
        finished: ending.finished(),
    };
    if watch.events.has(event_type) {
        let raw = ending.raw.as_ref().filter(|_| watch.payload == Payload::Raw);
        let raw = raw.map(|raw| (ending.generation, raw));
        deliveries::create(batch, event, watch.traceparent.as_deref(), raw, ending.shard);
    } else {
        batch.events.push(event);
    }
}

fn read_ending(row: &Row<'_>) -> Result<Ending> {
    let name = read_name(row, 0)?;
    Ok(Ending {
        shard: name.shard(),
        name,
        kind: row.word(4, EndingKind::parse)?,
        seen: row.json(5)?,
        error: if row.opt_text(6)?.is_some() { Some(row.json(6)?) } else { None },
        raw: row.opt_bytes(7)?.map(Into::into),
        generation: row.int(8)?,
        at: row.time(9)?,
        job: JobNo(row.int(10)?),
    })
}

fn read_watch(row: &Row<'_>) -> Result<Waiting> {
    Ok(Waiting {
        app: AppNo(row.int(0)?),
        id: WatchId(row.id(1)?),
        events: EventSet::from_bits(row.int(2)?),
        payload: row.word(3, Payload::parse)?,
        metadata: row.opt_text(4)?,
        traceparent: row.opt_text(5)?,
    })
}
