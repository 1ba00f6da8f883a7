//! Watches: registering, stopping, showing.
//!
//! **Registration of a job that has ended.** The upsert of the job decides it, in the transaction of
//! the watch: a job found ended takes the next generation, forgets what was last seen, and is looked
//! for anew. An ending ends the watches of its own generation and earlier ones only, so it can never
//! reach the new watch, whichever is committed first.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, StoreError, Tx, Value, Where};
use super::idempotency::{self, FirstAnswer, Remember, Replay};
use super::reads::ReadStore;
use super::rows::{StoredDestination, read_destination, read_name};
use super::sealing::Keyring;
use super::{deliveries, jobs};
use crate::domain::{
    AppNo, DeliveryStatus, Destination, EventSet, Id, JobName, JobNo, JobSnapshot, Known, NewWatch,
    Observation, PollerMessage, Timestamp, Watch, WatchId, WatchStatus,
};

/// What is written of a job that was never polled.
static UNSEEN: LazyLock<String> =
    LazyLock::new(|| serde_json::to_string(&Observation::unknown()).unwrap_or_default());

/// A watch to be registered.
#[derive(Debug)]
pub struct Register {
    /// The watch.
    pub watch: NewWatch,
    /// Under which key the answer is kept.
    pub remember: Option<Remember>,
    /// Makes the answer that is kept.
    pub answer: fn(&Watch) -> FirstAnswer,
}

/// What became of it.
#[derive(Debug)]
pub enum Registered {
    /// It is on disk.
    New(Box<Watch>),
    /// The key was used before.
    Replayed(Replay),
}

/// Makes the answer, of the watches.
pub type AnswerToMany = Box<dyn Fn(&[Watch]) -> FirstAnswer + Send>;

/// Watches to be registered together: all of them, in one transaction, or none.
pub struct RegisterMany {
    /// The watches.
    pub watches: Vec<NewWatch>,
    /// Under which key the answer is kept, and what makes it, of the watches in their order.
    pub remember: Option<(Remember, AnswerToMany)>,
    /// When.
    pub now: Timestamp,
}

impl fmt::Debug for RegisterMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegisterMany").field("watches", &self.watches).finish_non_exhaustive()
    }
}

/// What became of them.
#[derive(Debug)]
pub enum RegisteredMany {
    /// They are on disk.
    New(Vec<Watch>),
    /// The key was used before.
    Replayed(Replay),
}

/// A watch to be stopped.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// In whose name.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// There is no such watch.
    Unknown,
    /// Nothing more is looked for or sent, but for what is in flight.
    Done,
}

/// Which watches.
#[derive(Clone, Debug, Default)]
pub struct WatchFilter {
    /// That stand here.
    pub status: Option<WatchStatus>,
    /// On jobs of this provider.
    pub provider: Option<String>,
    /// On jobs with this id.
    pub job_id: Option<String>,
    /// Registered before this one: where the last page ended.
    pub before: Option<WatchId>,
}

impl ReadStore {
    /// One watch.
    pub async fn watch(&self, app: AppNo, id: WatchId) -> Result<Option<Watch>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| find(tx, &keyring, app, id)).await
    }

    /// The app's watches, newest first.
    pub async fn watches(&self, app: AppNo, filter: WatchFilter, limit: u32) -> Result<Vec<Watch>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| {
            let query = listed(app, &filter, limit);
            let mut found = tx.list(&query.sql, query.values, read_watch)?;
            add_destinations(tx, &keyring, &mut found)?;
            Ok(found)
        })
        .await
    }
}

/// The app's watches that a filter lets through, newest first.
pub(super) fn listed(app: AppNo, filter: &WatchFilter, limit: u32) -> Where<'_> {
    // A job's id leads to few watches, by way of the jobs (`+ 0` hides the primary key from the planner). Those
    // that wait have an index; it asks for just these words, the status a literal: one of our own few.
    let (by_app, column) = match (&filter.job_id, filter.status) {
        (Some(_), _) => ("w.app + 0 =", "w.status"),
        (None, Some(WatchStatus::Watching)) => ("w.app + 0 =", "w.status || ''"),
        (None, _) => ("w.app =", "w.status"),
    };
    let status = filter.status.map(|status| format!("{column} = '{status}' and ")).unwrap_or_default();
    let mut query = Where::new(&format!("{SELECT} where {status}{by_app}"), app.0);
    query.and("j.job_id =", filter.job_id.as_deref());
    query.and("j.provider =", filter.provider.as_deref());
    query.and("w.id <", filter.before.map(|id| id.0));
    query.push(" order by w.id desc limit", limit);
    query
}

pub(super) fn find(tx: &Tx<'_>, keyring: &Keyring, app: AppNo, id: WatchId) -> Result<Option<Watch>> {
    let sql = format!("{SELECT} where w.app = $1 and w.id = $2");
    let mut found = tx.list(&sql, [app.0.into(), id.0.into()], read_watch)?;
    add_destinations(tx, keyring, &mut found)?;
    Ok(found.pop())
}

/// A watch that ended with its job shows the job as it ended; any other, as it was last seen.
const SELECT: &str = "select w.id, w.status, w.events, w.metadata, w.created_at, w.ended_at, w.expires_at,
    j.no, j.provider, j.account, j.job_id, j.params,
    coalesce((select coalesce(e.refreshed, e.seen) from endings e
              where e.job = w.job and e.generation >= w.generation
                and w.status in ('completed', 'failed', 'cancelled', 'not_found')
              order by e.generation limit 1), j.seen)
  from watches w join jobs j on j.no = w.job";

fn read_watch(row: &Row<'_>) -> Result<Watch> {
    Ok(Watch {
        id: WatchId(row.id(0)?),
        status: row.word(1, WatchStatus::parse)?,
        events: EventSet::from_bits(row.int(2)?),
        metadata: row.opt_text(3)?,
        created_at: row.time(4)?,
        ended_at: row.opt_time(5)?,
        expires_at: row.time(6)?,
        job_no: JobNo(row.int(7)?),
        job: read_name(row, 8)?,
        seen: row.json(12)?,
        destinations: Vec::new(),
    })
}

/// Reads where each watch tells, and how its last delivery to there stands.
fn add_destinations(tx: &Tx<'_>, keyring: &Keyring, watches: &mut [Watch]) -> Result<()> {
    let found = tx.fetch(
        "select id, channel, address, queue, headers, secret,
           (select d.status from deliveries d where d.watch = wd.watch and d.n = wd.n order by d.id desc limit 1)
         from watch_destinations wd where watch = $1 order by n",
        watches.iter().map(|watch| [watch.id.0.into()]),
        |row| {
            let destination = read_destination(row, 0, keyring)?;
            let status = row.opt_text(6)?;
            Ok((destination, status.as_deref().and_then(DeliveryStatus::parse)))
        },
    )?;
    for (watch, destinations) in watches.iter_mut().zip(found) {
        watch.destinations = destinations;
    }
    Ok(())
}

pub(super) fn register(batch: &mut Batch<'_>, asks: &[&Register]) -> Result<Vec<Registered>> {
    let remembers: Vec<&Remember> = asks.iter().filter_map(|ask| ask.remember.as_ref()).collect();
    let keys: HashSet<_> = remembers.iter().map(|one| (one.app, &one.path, &one.key)).collect();
    if keys.len() < remembers.len() {
        return Err(StoreError::Inconsistent("one key twice in a batch: each by itself".to_owned()));
    }
    let mut known = idempotency::look_up(&batch.tx, &remembers)?.into_iter();
    let mut answers: Vec<Option<Registered>> = Vec::with_capacity(asks.len());
    let mut fresh: Vec<&NewWatch> = Vec::with_capacity(asks.len());
    for ask in asks {
        let known = if ask.remember.is_some() { known.next().flatten() } else { None };
        let replay = known.and_then(|known| known.at(ask.watch.created_at));
        if replay.is_none() {
            fresh.push(&ask.watch);
        }
        answers.push(replay.map(Registered::Replayed));
    }
    let jobs = upsert_jobs(&batch.tx, &fresh)?;
    insert_watches(&batch.tx, &batch.shared.keyring, &fresh, &jobs)?;
    batch.effects.tally.registered(fresh.len());
    let traced = batch.shared.tracer().is_on();
    let mut made = fresh.iter().zip(&jobs).map(|(new, job)| {
        batch.effects.poller_messages.push(PollerMessage::Watch(Box::new(job.facts(new, traced))));
        shown(new, job)
    });
    for answer in &mut answers {
        if answer.is_none() {
            *answer = made.next().map(|watch| Registered::New(Box::new(watch)));
        }
    }
    let kept: Vec<_> = asks
        .iter()
        .zip(&answers)
        .filter_map(|(ask, answer)| match (&ask.remember, answer) {
            (Some(remember), Some(Registered::New(watch))) => {
                Some((remember, (ask.answer)(watch), ask.watch.created_at))
            }
            _ => None,
        })
        .collect();
    idempotency::keep_all(&batch.tx, kept.iter().map(|(remember, answer, now)| (*remember, answer, *now)))?;
    Ok(answers.into_iter().flatten().collect())
}

pub(super) fn register_many(batch: &mut Batch<'_>, asks: &[&RegisterMany]) -> Result<Vec<RegisteredMany>> {
    asks.iter().map(|ask| register_many_one(batch, ask)).collect()
}

fn register_many_one(batch: &mut Batch<'_>, ask: &RegisterMany) -> Result<RegisteredMany> {
    if let Some(replay) = idempotency::replay(&batch.tx, ask.remember.as_ref(), ask.now)? {
        return Ok(RegisteredMany::Replayed(replay));
    }
    let fresh: Vec<&NewWatch> = ask.watches.iter().collect();
    let jobs = upsert_jobs(&batch.tx, &fresh)?;
    insert_watches(&batch.tx, &batch.shared.keyring, &fresh, &jobs)?;
    batch.effects.tally.registered(fresh.len());
    let traced = batch.shared.tracer().is_on();
    let plans =
        fresh.iter().zip(&jobs).map(|(new, job)| PollerMessage::Watch(Box::new(job.facts(new, traced))));
    batch.effects.poller_messages.extend(plans);
    let made: Vec<Watch> = fresh.iter().zip(&jobs).map(|(new, job)| shown(new, job)).collect();
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(&batch.tx, remember, &answer(&made), ask.now)?;
    }
    Ok(RegisteredMany::New(made))
}

/// A job as the upsert found or made it.
struct FoundJob {
    no: JobNo,
    generation: i64,
    seen: Observation,
    registered_at: Timestamp,
}

impl FoundJob {
    fn facts(&self, new: &NewWatch, traced: bool) -> JobSnapshot {
        JobSnapshot {
            traced: traced.then(|| (new.id, new.traceparent.clone())),
            no: self.no,
            name: new.job.clone(),
            generation: self.generation,
            known: Known::new(&self.seen, self.registered_at),
            registered_at: self.registered_at,
            watching: 1,
            terms: Some(new.terms),
            poll_requested: false,
        }
    }
}

fn upsert_jobs(tx: &Tx<'_>, fresh: &[&NewWatch]) -> Result<Vec<FoundJob>> {
    // Each job once, in the order of the first: for the others there would be nothing to do.
    let mut known = HashSet::with_capacity(fresh.len());
    let rows = fresh.iter().filter(|new| known.insert(&new.job)).map(|new| {
        let JobName { provider, account, job_id, params } = &new.job;
        [
            i64::from(new.job.shard()).into(),
            job_id.into(),
            provider.into(),
            account.into(),
            params.into(),
            Value::Text(&UNSEEN),
            new.created_at.into(),
        ]
    });
    tx.each(
        "insert into jobs (shard, job_id, provider, account, params, seen, registered_at)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (job_id, provider, account, params) do update set
           generation = jobs.generation + jobs.ended,
           seen = case when jobs.ended = 1 then excluded.seen else jobs.seen end,
           registered_at = case when jobs.ended = 1 then excluded.registered_at else jobs.registered_at end,
           ended = 0",
        rows,
    )?;
    // Not by `returning`: SQLite makes a table for what it returns, each time, and that costs more
    // than to look the row up.
    let found = tx.fetch(
        "select no, generation, seen, registered_at from jobs
         where job_id = $1 and provider = $2 and account = $3 and params = $4",
        fresh.iter().map(|new| {
            let JobName { provider, account, job_id, params } = &new.job;
            [job_id.into(), provider.into(), account.into(), params.into()]
        }),
        |row| {
            Ok(FoundJob {
                no: JobNo(row.int(0)?),
                generation: row.int(1)?,
                // Most jobs are new, and there is nothing to read.
                seen: if row.is(2, &UNSEEN)? { Observation::unknown() } else { row.json(2)? },
                registered_at: row.time(3)?,
            })
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

fn insert_watches(tx: &Tx<'_>, keyring: &Keyring, fresh: &[&NewWatch], jobs: &[FoundJob]) -> Result<()> {
    let millis = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    tx.each(
        "insert into watches (app, id, job, generation, status, events, payload, metadata, poll_interval,
           expected_at, traceparent, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        fresh.iter().zip(jobs).map(|(new, job)| {
            [
                new.app.0.into(),
                new.id.0.into(),
                job.no.0.into(),
                job.generation.into(),
                WatchStatus::Watching.as_str().into(),
                new.events.bits().into(),
                new.payload.as_str().into(),
                new.metadata.as_deref().into(),
                new.terms.poll_interval.map(millis).into(),
                new.terms.expected_at.into(),
                new.traceparent.as_deref().into(),
                new.created_at.into(),
                new.terms.expires_at.into(),
            ]
        }),
    )?;
    let destinations = fresh
        .iter()
        .flat_map(|new| (0i64..).zip(&new.destinations).map(|(n, destination)| (new.id, n, destination)));
    insert_destinations(tx, keyring, destinations)?;
    Ok(())
}

/// Inserts destinations of watches, each with its number within the watch.
pub(super) fn insert_destinations<'d>(
    tx: &Tx<'_>,
    keyring: &Keyring,
    destinations: impl Iterator<Item = (WatchId, i64, &'d Destination)>,
) -> Result<()> {
    let stored = |(watch, n, one)| Ok((watch, n, one, StoredDestination::of(keyring, one)?));
    let stored: Vec<(WatchId, i64, &Destination, StoredDestination<'_>)> =
        destinations.map(stored).collect::<Result<_>>()?;
    tx.each(
        "insert into watch_destinations (watch, n, id, channel, address, queue, headers, secret)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        stored.iter().map(|(watch, n, destination, stored)| {
            [
                watch.0.into(),
                (*n).into(),
                destination.id.0.into(),
                destination.channel.as_str().into(),
                stored.address.as_ref().into(),
                (&destination.queue).into(),
                stored.headers.as_deref().into(),
                stored.secret.as_deref().into(),
            ]
        }),
    )?;
    Ok(())
}

/// The watch as it stands the moment it is made.
fn shown(new: &NewWatch, job: &FoundJob) -> Watch {
    Watch {
        id: new.id,
        status: WatchStatus::Watching,
        job: new.job.clone(),
        job_no: job.no,
        seen: job.seen.clone(),
        destinations: new.destinations.iter().map(|d| (d.clone(), None)).collect(),
        events: new.events,
        metadata: new.metadata.clone(),
        created_at: new.created_at,
        ended_at: None,
        expires_at: new.terms.expires_at,
    }
}

pub(super) fn stop(batch: &mut Batch<'_>, asks: &[&Stop]) -> Result<Vec<Stopped>> {
    let jobs = batch.tx.fetch(
        "select job from watches where app = $1 and id = $2",
        asks.iter().map(|ask| [ask.app.0.into(), ask.watch.0.into()]),
        |row| Ok(JobNo(row.int(0)?)),
    )?;
    let known: Vec<(&Stop, JobNo)> =
        asks.iter().zip(&jobs).filter_map(|(ask, job)| Some((*ask, *job.first()?))).collect();
    let hit = batch.tx.each(
        "update watches set status = 'stopped', ended_at = $1
         where app = $2 and id = $3 and coalesce(status, '') = 'watching'",
        known.iter().map(|(ask, _)| [ask.now.into(), ask.app.0.into(), ask.watch.0.into()]),
    )?;
    deliveries::call_off(batch, &known.iter().map(|(ask, _)| ask.watch).collect::<Vec<_>>())?;
    let mut fewer = BTreeSet::new();
    for ((ask, job), _) in known.iter().zip(hit).filter(|(_, hit)| *hit > 0) {
        fewer.insert(*job);
        batch.effects.ended_watches.push(ask.watch);
        batch.effects.tally.ended(WatchStatus::Stopped);
    }
    // Once for each job: whoever stops all the watches of one should not have them counted each time.
    jobs::tell_who_waits(batch, &fewer.into_iter().collect::<Vec<_>>())?;
    let answer = |job: &Vec<JobNo>| if job.is_empty() { Stopped::Unknown } else { Stopped::Done };
    Ok(jobs.iter().map(answer).collect())
}

/// The greatest id ever drawn, so that the next is greater.
pub(super) fn greatest_id(tx: &Tx<'_>) -> Result<Id> {
    let mut greatest = Id::from_bytes([0; 16]);
    // App by app: the greatest of an app is at the end of the index.
    for sql in [
        "select (select id from watches where app = a.no order by id desc limit 1) from apps a",
        "select (select id from deliveries where app = a.no order by id desc limit 1) from apps a",
        "select id from apps",
        "select id from keys",
    ] {
        for found in tx.list(sql, [], |row| row.opt_bytes(0))?.into_iter().flatten() {
            let bytes = found.try_into();
            let bytes = bytes.map_err(|_| StoreError::Inconsistent("an id is not 16 bytes".to_owned()))?;
            greatest = greatest.max(Id::from_bytes(bytes));
        }
    }
    Ok(greatest)
}
