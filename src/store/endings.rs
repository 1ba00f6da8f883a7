//! Endings of jobs, and the end of their watches.
//!
//! A job may have a hundred thousand watches, so they end in chunks. The ending is a row that is
//! written first; every chunk is made from it, and contains an equal part of each app. The row is marked as `unfinished` until all its watches have
//! ended, and a partial index finds such rows after a restart. The transaction of the ending contains the first
//! chunk, so an ordinary job costs one commit.
//!
//! **One ending for each watch.** The event of an ending is created only if `update … where status = 'watching'`
//! changed the watch, in the same transaction. After a stop or another ending the update matches nothing. A
//! partial unique index on events enforces the same.
//!
//! **A job that is not found ends with its last watch.** Only the watches that were registered before the grace end,
//! each with the last observation. The transaction that ends the last of them writes the ending of the job. A watch
//! that is registered before that transaction keeps the job from ending, and one that is registered after it begins
//! another generation. After a crash, the watches that remain begin the grace again.
//!
//! **The row of the job is only the last observation.** A job can begin another generation while chunks of this
//! ending remain, so no chunk of an ending reads it. An expiry belongs to the watch and not to the job; its event
//! quotes the last observation.

use std::borrow::Cow;
use std::sync::Arc;

use super::batch::Batch;
use super::db::{Result, Row, Tx, params, row_sql};
use super::deliveries::{self, Skip};
use super::groups;
use super::job_cancels::{self, ExpiredWatch};
use super::reads::{INTERNAL, ReadStore};
use super::rows::{read_name, to_json};
use super::watch_events::{
    ExpiryPosition, HAS_LATER_APP, JobChange, WatchToNotify, Watches, chunk_size, first_positions,
    read_turns, read_turns_after, read_watches,
};
use crate::domain::{
    CancelScope, EndingKind, EventType, JobError, JobName, JobNo, Observation, SkipScope, Timestamp,
};

/// The watches that the ending of generation `$2` ends.
pub(super) const OF_ENDING: &str = "generation <= $2";

/// The same watches, in the order of an index.
pub(super) const OF_ENDING_IN_ORDER: &str = "generation <= $2 order by app, expires_at, id";

/// The watches that have expired by `$2`.
pub(super) const OF_EXPIRY: &str = "expires_at <= $2";

/// Returns a row if a watch of job `$1` has not ended.
pub(super) const IS_WATCHED: &str = "select 1 from watches where job = $1 and status = 'watching' limit 1";

/// Returns a row if a watch of job `$1` wants the provider's answer.
pub(super) const WANTS_RAW: &str =
    "select generation from watches where job = $1 and status = 'watching' and payload = 'raw' limit 1";

/// Writes the ending of a job, and ends the first chunk of its watches.
#[derive(Clone, Debug)]
pub struct EndJob {
    /// The job.
    pub job: JobNo,
    /// Generation that was polled.
    pub generation: i64,
    /// Kind of the ending.
    pub kind: EndingKind,
    /// The observation.
    pub seen: Observation,
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

/// Ends the watches of a job that its provider does not know, and that were registered long enough ago. If no other
/// watch remains, the job ends as well.
#[derive(Clone, Debug)]
pub struct EndNotFound {
    /// The job.
    pub job: JobNo,
    /// Generation that was polled.
    pub generation: i64,
    /// Latest registration of the watches that end.
    pub registered_until: Timestamp,
    /// Error of the ending.
    pub error: JobError,
    /// Time of the answer.
    pub now: Timestamp,
    /// Where earlier transactions stopped, for each app that has more; empty at first.
    pub after: Vec<ExpiryPosition>,
}

/// Result of [`EndNotFound`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFoundEnd {
    /// Watches after these positions may have to end as well.
    More(Vec<ExpiryPosition>),
    /// Watches have ended, and others of the job go on.
    Watches,
    /// The job has ended.
    Job,
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

impl ReadStore {
    /// Returns the endings of which some watches are not notified, which a crash leaves.
    pub async fn unfinished_endings(&self) -> Result<Vec<NotifyWatches>> {
        let sql = "select job, generation from endings where unfinished = 1 order by job";
        let read = |row: &Row<'_>| Ok(NotifyWatches { job: JobNo(row.int(0)?), generation: row.int(1)? });
        let unreadable = self.shared.unreadable.clone();
        let found = self.read(INTERNAL, move |tx| {
            tx.list(sql, [], |row| unreadable.skip(("endings", 0), row, read(row)))
        });
        Ok(found.await?.into_iter().flatten().collect())
    }
}

pub(super) fn end_job(batch: &mut Batch<'_>, commands: &[&EndJob]) -> Result<Vec<bool>> {
    let seen: Vec<String> = commands.iter().map(|command| to_json(&command.seen)).collect();
    let jobs = commands.iter().map(|command| params![command.job]);
    let wants_raw = batch.tx.fetch_each(WANTS_RAW, jobs, |row| row.int(0))?;
    batch.tx.each(
        "insert into endings (job, generation, kind, seen, error, raw, ended_at, unfinished)
         values ($1, $2, $3, $4, null, $5, $6, 1)
         on conflict (job, generation) do nothing",
        commands.iter().zip(&seen).zip(&wants_raw).map(|((command, seen), wants_raw)| {
            let EndJob { job, generation, kind, raw, observed_at, .. } = command;
            let raw = raw.as_deref().filter(|_| !wants_raw.is_empty());
            params![job, generation, kind, seen, raw, observed_at]
        }),
    )?;
    batch.tx.update_each(
        row_sql!(
            "update jobs set ended = 1, poll_requested_at = null, seen = $1, had_status = 1"
            where "no = $2 and generation = $3 and ended = 0"
        ),
        commands.iter().zip(&seen).map(|(command, seen)| params![seen, command.job, command.generation]),
    )?;
    let first = |&&EndJob { job, generation, .. }: &&EndJob| NotifyWatches { job, generation };
    let first_chunks: Vec<NotifyWatches> = commands.iter().map(first).collect();
    notify_watches(batch, &first_chunks.iter().collect::<Vec<_>>())
}

/// Ends watches. Returns for each command whether more watches remain.
pub(super) fn notify_watches(batch: &mut Batch<'_>, commands: &[&NotifyWatches]) -> Result<Vec<bool>> {
    let rows = || commands.iter().map(|command| params![command.job, command.generation]);
    let endings = batch.tx.fetch_each(
        "select j.provider, j.account, j.job_id, coalesce(j.long_params, j.params), e.kind, e.seen, e.error, e.raw,
           e.generation, e.ended_at, e.job
         from endings e join jobs j on j.no = e.job where e.job = $1 and e.generation = $2",
        rows(),
        read_ending,
    )?;
    let texts = endings.iter().flatten().map(|ending| ending.seen.text_size());
    let watches = read_ended_watches(batch, commands, chunk_size(texts))?;
    // There is no ending if the job did not end, or if the ending was pruned.
    let endings: Vec<Option<JobChange<'_>>> = endings
        .into_iter()
        .zip(watches)
        .map(|(ending, watches)| Some(JobChange { watches, ..ending.into_iter().next()? }))
        .collect();
    end_watches(batch, endings.iter().flatten())?;
    let has_more = |ending: &JobChange<'_>| ending.watches.has_more;
    let finished = endings.iter().flatten().filter(|ending| !has_more(ending));
    batch.tx.update_each(
        row_sql!("update endings set unfinished = 0" where "job = $1 and generation = $2"),
        finished.filter_map(|ending| Some(params![ending.job, ending.ending?.1])),
    )?;
    Ok(endings.iter().map(|ending| ending.as_ref().is_some_and(has_more)).collect())
}

/// Reads a chunk of the watches that each ending ends. The apps take turns if there are more.
fn read_ended_watches(batch: &Batch<'_>, commands: &[&NotifyWatches], most: usize) -> Result<Vec<Watches>> {
    let rows = commands.iter().map(|command| params![command.job, command.generation]);
    let mut watches = read_watches(batch, OF_ENDING_IN_ORDER, most, rows)?;
    // The chunk begins with the first app. One app alone has no turns.
    let first_app = |n: usize| Some((n, watches[n].chunk.first().filter(|_| watches[n].has_more)?.app));
    let many: Vec<_> = (0..watches.len()).filter_map(first_app).collect();
    let others =
        batch.tx.fetch(HAS_LATER_APP, many.iter().map(|(n, app)| params![commands[*n].job, app]), |row| {
            row.int(0)
        })?;
    let many = many.iter().zip(others).filter(|(_, others)| !others.is_empty()).map(|((n, _), _)| *n);
    let many: Vec<usize> = many.collect();
    if many.is_empty() {
        return Ok(watches);
    }
    let jobs: Vec<_> = many.iter().map(|n| (commands[*n].job, commands[*n].generation.into())).collect();
    let turns = read_turns(batch, OF_ENDING, most, &jobs)?;
    for (n, turns) in many.into_iter().zip(turns) {
        watches[n].chunk = turns.chunk;
    }
    Ok(watches)
}

/// Ends watches of jobs that are not found. A chunk is read whole, and only those of its watches end that were
/// registered early enough: no index has the times of registration.
pub(super) fn end_not_found(batch: &mut Batch<'_>, commands: &[&EndNotFound]) -> Result<Vec<NotFoundEnd>> {
    let jobs: Vec<JobNo> = commands.iter().map(|command| command.job).collect();
    let first = first_positions(&batch.tx, &jobs)?;
    let begin = |(command, first): (&&EndNotFound, Vec<ExpiryPosition>)| {
        (command.job, if command.after.is_empty() { first } else { command.after.clone() })
    };
    let jobs: Vec<_> = commands.iter().zip(first).map(begin).collect();
    let seen = read_last_observations(&batch.tx, jobs.iter().map(|(job, _)| *job))?;
    let read = read_turns_after(batch, chunk_of(&seen), &jobs)?;
    let (mut watches, mut next) = (Vec::with_capacity(read.len()), Vec::with_capacity(read.len()));
    for (command, (mut chunk, positions)) in commands.iter().zip(read) {
        chunk.retain(|watch| watch.created_at <= command.registered_until);
        watches.push(Watches { chunk, has_more: false });
        next.push(positions);
    }
    let ends = commands.iter().map(|c| (c.job, EndingKind::NotFound, c.error.clone(), c.now));
    end_some_watches(batch, ends.zip(seen), watches)?;
    let finished =
        || commands.iter().zip(&next).filter(|(_, next)| next.is_empty()).map(|(command, _)| *command);
    let left =
        batch.tx.fetch(IS_WATCHED, finished().map(|command| params![command.job]), |row| row.int(0))?;
    let ended: Vec<&EndNotFound> =
        finished().zip(left).filter(|(_, left)| left.is_empty()).map(|(command, _)| command).collect();
    let errors: Vec<String> = ended.iter().map(|command| to_json(&command.error)).collect();
    // The job begins another generation if it is registered again.
    batch.tx.each(
        "insert into endings (job, generation, kind, seen, error, raw, ended_at, unfinished)
         values ($1, $2, $3, (select seen from jobs where no = $1), $4, null, $5, 0)
         on conflict (job, generation) do nothing",
        ended.iter().zip(&errors).map(|(command, error)| {
            params![command.job, command.generation, EndingKind::NotFound, error, command.now]
        }),
    )?;
    batch.tx.update_each(
        row_sql!(
            "update jobs set ended = 1, poll_requested_at = null"
            where "no = $1 and generation = $2 and ended = 0"
        ),
        ended.iter().map(|command| params![command.job, command.generation]),
    )?;
    let mut ended = ended.iter().map(|command| command.job).peekable();
    let result = |(command, next): (&&EndNotFound, Vec<ExpiryPosition>)| match next {
        next if !next.is_empty() => NotFoundEnd::More(next),
        _ if ended.next_if_eq(&command.job).is_some() => NotFoundEnd::Job,
        _ => NotFoundEnd::Watches,
    };
    Ok(commands.iter().zip(next).map(result).collect())
}

/// Ends watches. Returns for each command whether more watches remain.
pub(super) fn expire_watches(batch: &mut Batch<'_>, commands: &[&ExpireWatches]) -> Result<Vec<bool>> {
    let jobs: Vec<_> = commands.iter().map(|command| (command.job, command.until.into())).collect();
    let seen = read_last_observations(&batch.tx, commands.iter().map(|command| command.job))?;
    let watches = read_turns(batch, OF_EXPIRY, chunk_of(&seen), &jobs)?;
    let has_more = watches.iter().map(|watches| watches.has_more).collect();
    let ends = commands.iter().map(|c| (c.job, EndingKind::Expired, c.error.clone(), c.now));
    end_some_watches(batch, ends.zip(seen), watches)?;
    Ok(has_more)
}

/// Reads the names of jobs and their last observations.
fn read_last_observations(
    tx: &Tx<'_>,
    jobs: impl Iterator<Item = JobNo>,
) -> Result<Vec<(JobName, Observation)>> {
    tx.ones(
        "select provider, account, job_id, coalesce(long_params, params), seen from jobs where no = $1",
        jobs.map(|job| params![job]),
        |row| Ok((read_name(row, 0)?, row.json(4)?)),
    )
}

fn chunk_of(seen: &[(JobName, Observation)]) -> usize {
    chunk_size(seen.iter().map(|(_, seen)| seen.text_size()))
}

/// Why and when some watches of a job end.
type SomeEnd = (JobNo, EndingKind, JobError, Timestamp);

/// Ends some watches of jobs with the last observation.
fn end_some_watches(
    batch: &mut Batch<'_>,
    ends: impl Iterator<Item = (SomeEnd, (JobName, Observation))>,
    watches: Vec<Watches>,
) -> Result<()> {
    let mut changes = Vec::with_capacity(watches.len());
    for (((job, kind, error, at), (name, seen)), watches) in ends.zip(watches) {
        let (seen, ending, error) = (Cow::Owned(seen), Some((kind, 0)), Some(error));
        changes.push(JobChange { job, name, seen, at, ending, error, raw: None, watches });
    }
    for (change, ended) in changes.iter().zip(end_watches(batch, changes.iter())?) {
        *batch.changed_jobs.entry(change.job).or_default() += ended;
    }
    Ok(())
}

/// Ends watches, and creates their events and deliveries. Returns for each change how many watches it has ended.
fn end_watches<'e>(
    batch: &mut Batch<'_>,
    endings: impl Iterator<Item = &'e JobChange<'e>> + Clone,
) -> Result<Vec<u32>> {
    let all = endings
        .clone()
        .filter_map(|change| Some((change, change.ending?.0)))
        .flat_map(|(change, kind)| change.watches.chunk.iter().map(move |watch| (change, kind, watch)));
    // Without `coalesce` PostgreSQL, which plans while the tables are empty, would read all watches that have not
    // ended.
    let changed = batch.tx.update_each(
        row_sql!(
            "update watches set status = $1, ended_at = $2"
            where "app = $3 and id = $4 and coalesce(status, '') = 'watching'"
        ),
        all.clone().map(|(change, kind, watch)| params![kind.status(), change.at, watch.app, watch.id]),
    )?;
    let ended = all.zip(&changed).filter(|(_, changed)| **changed > 0).map(|(ended, _)| ended);
    let wants_progress = |watch: &WatchToNotify| {
        watch.events.has(EventType::JobProcessing) || watch.events.has(EventType::JobProgress)
    };
    let superseded = ended.clone().filter(|(.., watch)| wants_progress(watch)).map(|(.., watch)| Skip {
        app: watch.app,
        watch: watch.id,
        scope: SkipScope::Superseded,
        cancel: CancelScope::Progress,
    });
    deliveries::skip(batch, &superseded.collect::<Vec<_>>())?;
    let expired = ended.clone().filter(|(_, kind, _)| *kind == EndingKind::Expired);
    let expired = expired.map(|(change, _, watch)| ExpiredWatch {
        id: watch.id,
        app: watch.app,
        job: change.job,
        at: change.at,
    });
    job_cancels::at_expiry(batch, &expired.collect::<Vec<_>>())?;
    for (change, kind, watch) in ended {
        batch.effects.ended_watches.push(watch.id);
        batch.effects.tally.ended.push(kind.status());
        if let Some(group) = watch.group {
            groups::note_end(batch, group, kind.status(), change.at);
        }
        watch.create_event(batch, kind.event(), 0, change);
    }
    let mut changed = changed.iter();
    let count = |change: &JobChange<'_>| {
        let of_change = changed.by_ref().take(change.watches.chunk.len());
        u32::try_from(of_change.filter(|count| **count > 0).count()).unwrap_or(u32::MAX)
    };
    Ok(endings.map(count).collect())
}

fn read_ending(row: &Row<'_>) -> Result<JobChange<'static>> {
    Ok(JobChange {
        name: read_name(row, 0)?,
        ending: Some((row.word(4, EndingKind::parse)?, row.int(8)?)),
        seen: Cow::Owned(row.json(5)?),
        error: if row.opt_text(6)?.is_some() { Some(row.json(6)?) } else { None },
        raw: row.opt_bytes(7)?.map(Into::into),
        at: row.time(9)?,
        job: JobNo(row.int(10)?),
        watches: Watches::default(),
    })
}
