//! Endings of jobs, and the end of their watches.
//!
//! A job may have a hundred thousand watches, so they end in chunks. The ending is a row that is
//! written first; every chunk is made from it. The row is marked as `unfinished` until all its watches have
//! ended, and a partial index finds such rows after a restart. The transaction of the ending contains the first
//! chunk, so an ordinary job costs one commit.
//!
//! **One ending for each watch.** The event of an ending is created only if `update … where status = 'watching'`
//! changed the watch, in the same transaction. After a stop or another ending the update matches nothing. A
//! partial unique index on events enforces the same.
//!
//! **The row of the job is only the last observation.** A job can begin another generation while chunks of this
//! ending remain, so no chunk of an ending reads it. An expiry belongs to the watch and not to the job; its event
//! quotes the last observation.

use std::sync::Arc;

use super::batch::Batch;
use super::db::{Result, Row};
use super::deliveries;
use super::jobs::notify_watchers_changed;
use super::rows::{read_name, to_json};
use super::watch_events::{EventContents, WatchToNotify, read_chunks};
use crate::domain::{EndingKind, EventType, Finished, JobError, JobName, JobNo, Observation, Timestamp};

/// Writes the ending of a job, and ends the first chunk of its watches.
#[derive(Clone, Debug)]
pub struct EndJob {
    /// The job.
    pub job: JobNo,
    /// Generation that was polled.
    pub generation: i64,
    /// Kind of the ending.
    pub kind: EndingKind,
    /// The observation. `None`: the provider does not know the job; the last observation is used.
    pub seen: Option<Observation>,
    /// Error of the ending, if the provider did not report one.
    pub error: Option<JobError>,
    /// The provider's answer, if it is small enough to be passed on.
    pub raw: Option<Arc<[u8]>>,
    /// Time of the observation.
    pub observed_at: Timestamp,
}

/// Ends the next chunk of the watches of a job that has ended.
#[derive(Clone, Copy, Debug)]
pub struct NotifyWatches {
    /// The job.
    pub job: JobNo,
    /// Generation that ended.
    pub generation: i64,
}

/// Ends a chunk of a job's watches that have expired.
#[derive(Clone, Debug)]
pub struct ExpireWatches {
    /// The job.
    pub job: JobNo,
    /// Latest expiry of the watches that end.
    pub until: Timestamp,
    /// Reason.
    pub error: JobError,
    /// Time of the decision.
    pub now: Timestamp,
}

/// Progress of a command that ends watches in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotifyProgress {
    /// Whether more watches remain. The caller repeats the command.
    pub has_more: bool,
}

struct Ending {
    job: JobNo,
    name: JobName,
    kind: EndingKind,
    seen: Observation,
    error: Option<JobError>,
    raw: Option<Arc<[u8]>>,
    /// Generation whose row stores the provider's answer.
    generation: i64,
    at: Timestamp,
}

impl Ending {
    /// Returns the time at which the provider finished the job, if it reports one.
    fn finished(&self) -> Option<Finished> {
        let at = self.seen.completed_at.filter(|_| self.seen.status.ending() == Some(self.kind))?;
        Some(Finished { provider: self.name.provider.clone(), at })
    }
}

/// An ending, and the watches that end in this transaction.
struct Chunk {
    ending: Ending,
    watches: Vec<WatchToNotify>,
    has_more: bool,
}

pub(super) fn end_job(batch: &mut Batch<'_>, commands: &[&EndJob]) -> Result<Vec<NotifyProgress>> {
    let texts: Vec<(Option<String>, Option<String>)> = commands
        .iter()
        .map(|command| (command.seen.as_ref().map(to_json), command.error.as_ref().map(to_json)))
        .collect();
    let wants_raw = batch.tx.fetch(
        "select generation from watches where job = $1 and status = 'watching' and payload = 'raw' limit 1",
        commands.iter().map(|command| [command.job.0.into()]),
        |row| row.int(0),
    )?;
    batch.tx.each(
        "insert into endings (job, generation, kind, seen, error, raw, ended_at, unfinished)
         values ($1, $2, $3, coalesce($4, (select seen from jobs where no = $1)), $5, $6, $7, 1)
         on conflict (job, generation) do nothing",
        commands.iter().zip(&texts).zip(&wants_raw).map(|((command, (seen, error)), wants_raw)| {
            [
                command.job.0.into(),
                command.generation.into(),
                command.kind.as_str().into(),
                seen.as_deref().into(),
                error.as_deref().into(),
                command.raw.as_deref().filter(|_| !wants_raw.is_empty()).into(),
                command.observed_at.into(),
            ]
        }),
    )?;
    batch.tx.update_each(
        "update jobs set ended = 1, poll_requested_at = null, seen = coalesce($1, seen)
         where no = $2 and generation = $3 and ended = 0",
        commands.iter().zip(&texts).map(|(command, (seen, _))| {
            [seen.as_deref().into(), command.job.0.into(), command.generation.into()]
        }),
    )?;
    let first_chunks: Vec<NotifyWatches> = commands
        .iter()
        .map(|command| NotifyWatches { job: command.job, generation: command.generation })
        .collect();
    notify_watches(batch, &first_chunks.iter().collect::<Vec<_>>())
}

pub(super) fn notify_watches(
    batch: &mut Batch<'_>,
    commands: &[&NotifyWatches],
) -> Result<Vec<NotifyProgress>> {
    let endings = batch.tx.fetch(
        "select j.provider, j.account, j.job_id, j.params, e.kind, e.seen, e.error, e.raw, e.generation,
           e.ended_at, e.job
         from endings e join jobs j on j.no = e.job where e.job = $1 and e.generation = $2",
        commands.iter().map(|command| [command.job.0.into(), command.generation.into()]),
        read_ending,
    )?;
    let watches = read_chunks(
        &batch.tx,
        "generation <= $2",
        commands.iter().map(|command| [command.job.0.into(), command.generation.into()]),
    )?;
    let mut progress = Vec::with_capacity(endings.len());
    let mut chunks = Vec::with_capacity(endings.len());
    for (ending, (watches, has_more)) in endings.into_iter().zip(watches) {
        // There is no ending if the job did not end, or if the ending was pruned.
        let Some(ending) = ending.into_iter().next() else {
            progress.push(NotifyProgress { has_more: false });
            continue;
        };
        chunks.push(Chunk { ending, watches, has_more });
        progress.push(NotifyProgress { has_more });
    }
    end_watches(batch, &chunks)?;
    batch.tx.update_each(
        "update endings set unfinished = 0 where job = $1 and generation = $2",
        chunks
            .iter()
            .filter(|chunk| !chunk.has_more)
            .map(|Chunk { ending, .. }| [ending.job.0.into(), ending.generation.into()]),
    )?;
    Ok(progress)
}

pub(super) fn expire_watches(
    batch: &mut Batch<'_>,
    commands: &[&ExpireWatches],
) -> Result<Vec<NotifyProgress>> {
    let jobs = batch.tx.ones(
        "select provider, account, job_id, params, seen from jobs where no = $1",
        commands.iter().map(|command| [command.job.0.into()]),
        |row| Ok((read_name(row, 0)?, row.json(4)?)),
    )?;
    let watches = read_chunks(
        &batch.tx,
        "expires_at <= $2",
        commands.iter().map(|command| [command.job.0.into(), command.until.into()]),
    )?;
    let chunks: Vec<Chunk> = commands
        .iter()
        .zip(jobs)
        .zip(watches)
        .map(|((command, (name, seen)), (watches, has_more))| {
            let (job, error, at) = (command.job, Some(command.error.clone()), command.now);
            let kind = EndingKind::Expired;
            let ending = Ending { job, name, kind, seen, error, raw: None, generation: 0, at };
            Chunk { ending, watches, has_more }
        })
        .collect();
    end_watches(batch, &chunks)?;
    let finished = chunks.iter().filter(|chunk| !chunk.has_more).map(|chunk| chunk.ending.job);
    notify_watchers_changed(batch, &finished.collect::<Vec<_>>())?;
    Ok(chunks.iter().map(|chunk| NotifyProgress { has_more: chunk.has_more }).collect())
}

/// Ends watches, and creates their events and deliveries.
fn end_watches(batch: &mut Batch<'_>, chunks: &[Chunk]) -> Result<()> {
    let all = || chunks.iter().flat_map(|chunk| chunk.watches.iter().map(|watch| (&chunk.ending, watch)));
    // Without `coalesce` PostgreSQL, which plans while the tables are empty, would read all watches that have not
    // ended.
    let changed = batch.tx.update_each(
        "update watches set status = $1, ended_at = $2
         where app = $3 and id = $4 and coalesce(status, '') = 'watching'",
        all().map(|(ending, watch)| {
            [ending.kind.status().as_str().into(), ending.at.into(), watch.app.0.into(), watch.id.0.into()]
        }),
    )?;
    let ended = || all().zip(&changed).filter(|(_, changed)| **changed > 0).map(|(ended, _)| ended);
    let wants_progress = |watch: &WatchToNotify| {
        watch.events.has(EventType::JobProcessing) || watch.events.has(EventType::JobProgress)
    };
    let superseded = ended().filter(|(_, watch)| wants_progress(watch)).map(|(_, watch)| watch.id);
    deliveries::skip_superseded(batch, &superseded.collect::<Vec<_>>())?;
    for (ending, watch) in ended() {
        batch.effects.ended_watches.push(watch.id);
        batch.effects.tally.ended(ending.kind.status());
        let contents = EventContents {
            job: &ending.name,
            seen: &ending.seen,
            at: ending.at,
            own: ending.error.as_ref().map(|error| (ending.kind.as_str(), error)),
            raw: ending.raw.as_ref(),
            raw_generation: Some(ending.generation),
            finished: ending.finished(),
        };
        watch.create_event(batch, ending.kind.event(), 0, &contents);
    }
    Ok(())
}

fn read_ending(row: &Row<'_>) -> Result<Ending> {
    Ok(Ending {
        name: read_name(row, 0)?,
        kind: row.word(4, EndingKind::parse)?,
        seen: row.json(5)?,
        error: if row.opt_text(6)?.is_some() { Some(row.json(6)?) } else { None },
        raw: row.opt_bytes(7)?.map(Into::into),
        generation: row.int(8)?,
        at: row.time(9)?,
        job: JobNo(row.int(10)?),
    })
}
