//! Changes of jobs that have not ended, and the events about them.
//!
//! An observation is written in transactions of [`chunk_size`] watches. The first writes the row of the job.
//!
//! **The apps of a job take turns**, as at an ending (`watch_events`): each gets an equal part of a transaction, so the
//! events of one app do not wait for those of another with very many watches. The watches of an app whose round is not
//! due (`domain/progress`) are not read at all, unless they may be due `job.processing`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::batch::Batch;
use super::db::{Result, Tx, params, row_sql};
use super::rows::{read_name, read_rounds, rounds_to_json, to_json};
use super::watch_events::{
    JobChange, WATCH, WatchToNotify, Watches, chunk_size, read_from_positions, read_watches,
};
use crate::domain::{
    AppNo, EventId, EventType, Id, JobName, JobNo, JobStatus, Observation, ProgressApps, ProgressRound,
    Timestamp, WatchId,
};

/// Writes a change of a job that has not ended.
#[derive(Clone, Debug)]
pub struct RecordObservation {
    /// The job.
    pub job: JobNo,
    /// Generation that was polled.
    pub generation: i64,
    /// The observation.
    pub seen: Observation,
    /// Whether the status differs from the last observation.
    pub status_changed: bool,
    /// Whether more than the progress differs, or a watch is new. Each watch may then be due `job.processing`.
    pub is_other: bool,
    /// The apps for which `job.progress` is due.
    pub progress: ProgressApps,
    /// Those of them whose other watches know the progress: it is due for watches without an event of progress.
    pub only_new: Vec<AppNo>,
    /// Whether any watch wants an event for it.
    pub notify: bool,
    /// The provider's answer, if a watch wants it and it is small enough.
    pub raw: Option<Arc<[u8]>>,
    /// Positions of the apps at which this transaction continues. Empty: it is the first.
    pub after: Vec<ProgressPosition>,
    /// Time of the observation.
    pub observed_at: Timestamp,
}

/// An app, and its last watch that was notified.
pub type ProgressPosition = (AppNo, WatchId);

/// Result of [`RecordObservation`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notified {
    /// Positions of the apps of which more watches remain.
    pub next: Vec<ProgressPosition>,
    /// Rounds of `job.progress` events that this transaction has begun or continued.
    pub rounds: Vec<ProgressRound>,
}

impl RecordObservation {
    /// Whether the watches of an app may be due an event.
    fn concerns(&self, app: AppNo) -> bool {
        self.is_other || self.progress.contains(app)
    }

    /// Whether `job.progress` is due for a watch.
    fn is_progress_due(&self, watch: &WatchToNotify) -> bool {
        self.progress.contains(watch.app) && (watch.progress == 0 || !self.only_new.contains(&watch.app))
    }

    /// Whether the watches of every app may be due an event.
    fn concerns_all(&self) -> bool {
        self.is_other || self.progress == ProgressApps::ALL
    }
}

/// Writes observations, and notifies a chunk of the watches of each job.
pub(super) fn record_observation(
    batch: &mut Batch<'_>,
    commands: &[&RecordObservation],
) -> Result<Vec<Notified>> {
    let seen: Vec<String> = commands.iter().map(|command| to_json(&command.seen)).collect();
    let changed = batch.tx.update_each(
        row_sql!(
            "update jobs set seen = $1, had_status = 1, poll_requested_at = null"
            where "no = $2 and generation = $3 and ended = 0"
        ),
        commands.iter().zip(&seen).map(|(command, seen)| params![seen, command.job, command.generation]),
    )?;
    let applied =
        || commands.iter().zip(&changed).filter(|(_, changed)| **changed > 0).map(|(command, _)| *command);
    batch.tx.each(
        "insert into observations (job, observed_at, status, raw_status, progress) values ($1, $2, $3, $4, $5)
         on conflict (job, observed_at) do nothing",
        applied().filter(|command| command.status_changed).map(|command| {
            let Observation { status, raw_status, progress, .. } = &command.seen;
            params![command.job, command.observed_at, status, raw_status, *progress]
        }),
    )?;
    let is_notifying = |command: &RecordObservation| {
        command.notify && (command.is_other || command.progress != ProgressApps::None)
    };
    let notifying: Vec<&RecordObservation> = applied().filter(|command| is_notifying(command)).collect();
    let mut notified = notify_watches(batch, &notifying)?.into_iter();
    let notified = |(command, changed): (&&RecordObservation, &usize)| {
        let is_notified = *changed > 0 && is_notifying(command);
        is_notified.then(|| notified.next()).flatten().unwrap_or_default()
    };
    Ok(commands.iter().zip(&changed).map(notified).collect())
}

/// A `job.processing` or `job.progress` event that a watch may be due.
struct ProgressEvent<'a> {
    change: &'a JobChange<'a>,
    watch: &'a WatchToNotify,
    event_type: EventType,
    n: u32,
    /// Id of the watch's last event of this type, if there may be one.
    last: Option<EventId>,
}

/// Creates `job.processing` (once for each watch) and `job.progress` events for a chunk of each job's watches.
fn notify_watches(batch: &mut Batch<'_>, commands: &[&RecordObservation]) -> Result<Vec<Notified>> {
    let (changes, next): (Vec<_>, Vec<_>) = read_changes(batch, commands)?.into_iter().unzip();
    let mut events = Vec::new();
    for (command, change) in commands.iter().zip(&changes) {
        for watch in &change.watches.chunk {
            let event = |event_type, n, last: Option<u32>| {
                let last = last.map(|n| EventId::derive(watch.id, event_type, n));
                ProgressEvent { change, watch, event_type, n, last }
            };
            if change.seen.status == JobStatus::Processing && watch.events.has(EventType::JobProcessing) {
                events.push(event(EventType::JobProcessing, 0, Some(0)));
            }
            if command.is_progress_due(watch) && watch.events.has(EventType::JobProgress) {
                let n = watch.progress;
                events.push(event(EventType::JobProgress, n + 1, (n > 0).then_some(n)));
            }
        }
    }
    let last = events.iter().filter_map(|event| event.last).map(|id| params![id]);
    let times = batch.tx.fetch("select observed_at from events where id = $1", last, |row| row.time(0))?;
    let mut times = times.into_iter();
    // If the same observation is written again after a commit whose outcome was unknown, its progress is not due
    // again.
    events.retain(|ProgressEvent { change, event_type, last, .. }| {
        let last_at = last.and_then(|_| times.next()?.pop());
        if *event_type == EventType::JobProgress { last_at != Some(change.at) } else { last_at.is_none() }
    });
    let progressed = events.iter().filter(|event| event.event_type == EventType::JobProgress);
    batch.tx.update_each(
        row_sql!("update watches set progress = progress + 1" where "app = $1 and id = $2"),
        progressed.map(|event| params![event.watch.app, event.watch.id]),
    )?;
    let mut bytes = BTreeMap::<(JobNo, AppNo), u64>::new();
    for ProgressEvent { change, watch, event_type, n, .. } in events {
        let taken = watch.create_event(batch, event_type, n, change);
        if event_type == EventType::JobProgress {
            *bytes.entry((change.job, watch.app)).or_default() += taken;
        }
    }
    let rounds = record_rounds(&batch.tx, commands, &next, &bytes)?;
    Ok(next.into_iter().zip(rounds).map(|(next, rounds)| Notified { next, rounds }).collect())
}

/// Adds the bytes of the events of this transaction to the rounds of their jobs and apps. Returns for each command the
/// rounds of its observation, which earlier transactions may have begun.
fn record_rounds(
    tx: &Tx<'_>,
    commands: &[&RecordObservation],
    next: &[Vec<ProgressPosition>],
    bytes: &BTreeMap<(JobNo, AppNo), u64>,
) -> Result<Vec<Vec<ProgressRound>>> {
    let stored = tx.ones(
        "select progress_rounds from jobs where no = $1",
        commands.iter().map(|command| params![command.job]),
        |row| read_rounds(row, 0),
    )?;
    let mut changed: Vec<(JobNo, Option<String>)> = Vec::new();
    let mut results = Vec::with_capacity(commands.len());
    for ((command, next), mut rounds) in commands.iter().zip(next).zip(stored) {
        let at = command.observed_at;
        let before = rounds.clone();
        for (&(_, app), &bytes) in
            bytes.range((command.job, AppNo(i64::MIN))..=(command.job, AppNo(i64::MAX)))
        {
            match rounds.iter_mut().find(|round| round.app == app) {
                Some(round) if round.at == at => round.bytes += bytes,
                Some(round) => *round = ProgressRound { app, at, bytes, progress: command.seen.progress },
                None => rounds.push(ProgressRound { app, at, bytes, progress: command.seen.progress }),
            }
        }
        // What was reported to an app that waits, or whose events follow, is still needed.
        let follows = |app| next.iter().any(|(next, _)| *next == app);
        rounds.retain(|round| round.at == at || round.next_at() > at || follows(round.app));
        if rounds != before {
            changed.push((command.job, rounds_to_json(&rounds)));
        }
        rounds.retain(|round| round.at == at);
        results.push(rounds);
    }
    tx.update_each(
        row_sql!("update jobs set progress_rounds = $1" where "no = $2"),
        changed.iter().map(|(job, rounds)| params![rounds, job]),
    )?;
    Ok(results)
}

/// Reads for each observation the name of the job, the next chunk of its watches, and the positions after it.
fn read_changes<'a>(
    batch: &Batch<'_>,
    commands: &[&'a RecordObservation],
) -> Result<Vec<(JobChange<'a>, Vec<ProgressPosition>)>> {
    let names = batch.tx.ones(
        "select provider, account, job_id, coalesce(long_params, params) from jobs where no = $1",
        commands.iter().map(|command| params![command.job]),
        |row| read_name(row, 0),
    )?;
    let chunks = read_chunks(batch, commands)?;
    let change = |((command, name), (chunk, next)): ((&&'a RecordObservation, JobName), Chunk)| {
        let change = JobChange {
            job: command.job,
            name,
            seen: Cow::Borrowed(&command.seen),
            at: command.observed_at,
            ending: None,
            error: None,
            raw: command.raw.clone(),
            watches: Watches { chunk, has_more: !next.is_empty() },
        };
        (change, next)
    };
    Ok(commands.iter().zip(names).zip(chunks).map(change).collect())
}

/// Watches, and the positions at which the next transaction continues.
type Chunk = (Vec<WatchToNotify>, Vec<ProgressPosition>);

/// The watches of a job that want events of progress, in the order of an index.
pub(super) const IN_ORDER: &str = "events & 96 <> 0 order by app, id";

/// The watches of app `$2` and job `$1` that want events of progress, after the id `$3`, at most `$4`.
pub(super) fn of_app_after() -> String {
    let which = "app = $2 and id > $3 and events & 96 <> 0 order by id limit $4";
    format!("{WATCH} where job = $1 and status = 'watching' and {which}")
}

/// The apps with watches of job `$1` that want events of progress. One entry of an index is read for each.
pub(super) const APPS: &str = "with recursive turns (app) as (
     select (select app from watches where job = $1 and status = 'watching' and events & 96 <> 0
             order by app limit 1)
     union all
     select (select w.app from watches w where w.job = $1 and w.status = 'watching' and w.events & 96 <> 0
             and w.app > turns.app order by w.app limit 1)
     from turns where turns.app is not null)
   select app from turns where app is not null";

/// Reads a chunk of the watches of each command. A job with few watches, as most have, is read with one query.
fn read_chunks(batch: &Batch<'_>, commands: &[&RecordObservation]) -> Result<Vec<Chunk>> {
    let most = chunk_size(commands.iter().map(|command| command.seen.text_size()));
    let is_simple = |command: &RecordObservation| command.after.is_empty() && command.concerns_all();
    let simple = commands.iter().filter(|command| is_simple(command)).map(|command| params![command.job]);
    let mut simple = read_watches(batch, IN_ORDER, most, simple)?.into_iter();
    let mut whole = |command: &&RecordObservation| {
        let found = is_simple(command).then(|| simple.next()).flatten();
        found.filter(|watches| !watches.has_more).map(|watches| (watches.chunk, Vec::new()))
    };
    let whole: Vec<Option<Chunk>> = commands.iter().map(&mut whole).collect();
    let others =
        commands.iter().zip(&whole).filter(|(_, whole)| whole.is_none()).map(|(command, _)| *command);
    let jobs = positions(&batch.tx, &others.collect::<Vec<_>>())?;
    let sql = of_app_after();
    let values = |job, (app, id): ProgressPosition, limit| params![job, app, id, limit];
    let position = |watch: &WatchToNotify| (watch.app, watch.id);
    let mut turns = read_from_positions(batch, &sql, most, &jobs, values, position)?.into_iter();
    Ok(whole.into_iter().filter_map(|whole| whole.or_else(|| turns.next())).collect())
}

/// Returns for each command its job, and the positions at which the turns of its apps continue.
fn positions(tx: &Tx<'_>, commands: &[&RecordObservation]) -> Result<Vec<(JobNo, Vec<ProgressPosition>)>> {
    // The apps of the others are known.
    let reads_apps = |command: &RecordObservation| {
        command.after.is_empty() && (command.is_other || !matches!(command.progress, ProgressApps::Only(_)))
    };
    let reading = commands.iter().filter(|command| reads_apps(command)).map(|command| params![command.job]);
    let mut found = tx.fetch(APPS, reading, |row| row.int(0).map(AppNo))?.into_iter();
    let first = |app| (app, WatchId(Id::from_bytes([0; 16])));
    let mut of_command = |command: &&RecordObservation| {
        let positions = match &command.progress {
            _ if !command.after.is_empty() => command.after.clone(),
            ProgressApps::Only(apps) if !command.is_other => apps.iter().copied().map(first).collect(),
            ProgressApps::None | ProgressApps::AllExcept(_) | ProgressApps::Only(_) => {
                let apps = found.next().unwrap_or_default().into_iter();
                apps.filter(|app| command.concerns(*app)).map(first).collect()
            }
        };
        (command.job, positions)
    };
    Ok(commands.iter().map(&mut of_command).collect())
}
