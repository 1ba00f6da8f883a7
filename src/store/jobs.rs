//! Jobs as last seen, and what those who look need of them.

use std::sync::Arc;

use super::batch::{Batch, NewEvent};
use super::db::{Result, Row, Tx};
use super::deliveries;
use super::idempotency::{self, Kept};
use super::reads::ReadStore;
use super::rows::{read_name, read_terms, to_json};
use crate::domain::{
    AppNo, EventId, EventSet, EventType, Id, JobName, JobNo, JobSnapshot, JobStatus, Known, Observation,
    Payload, PollerMessage, Timestamp, WatchId,
};
use crate::events::{self, About};

/// How many watches of one job are told of its progress in one transaction.
const CHUNK: u32 = 200;

/// A change of a job that goes on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The job.
    pub job: JobNo,
    /// The generation that was looked at.
    pub generation: i64,
    /// What was seen.
    pub seen: Observation,
    /// Whether the status is another.
    pub status_changed: bool,
    /// Whether the progress moved.
    pub progressed: bool,
    /// Whether any watch wants to hear of it.
    pub wanted: bool,
    /// The provider's answer, where one does and it is not too large to be passed on.
    pub raw: Option<Arc<[u8]>>,
    /// Those up to this one have been told.
    pub after: Option<(AppNo, WatchId)>,
    /// When.
    pub at: Timestamp,
}

/// A later look at a job that has ended, asked for by hand.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// The job.
    pub job: JobNo,
    /// What was seen; `None` where the look failed or found something else.
    pub seen: Option<Observation>,
}

/// The wish to look at once.
#[derive(Clone, Debug)]
pub struct PollNow {
    /// In whose name.
    pub app: AppNo,
    /// A watch of the job.
    pub watch: WatchId,
    /// Under which key the answer is kept, and the answer.
    pub remember: Option<Kept>,
    /// When.
    pub now: Timestamp,
}

/// What became of it.
#[derive(Debug)]
pub enum PollNowResult {
    /// There is no such watch.
    Unknown,
    /// It is on disk.
    Wanted,
    /// The key was used before.
    Replayed(super::Replay),
}

/// An ending of which not all watches have been told.
#[derive(Clone, Copy, Debug)]
pub struct OpenEnding {
    /// The job.
    pub job: JobNo,
    /// Its generation.
    pub generation: i64,
}

/// A job, and what the watches that wait for it ask for together. 96: the bits of `job.processing` and
/// `job.progress`; a test compares.
const FACTS: &str =
    "select j.no, j.provider, j.account, j.job_id, j.params, j.generation, j.seen, j.registered_at,
    case when j.poll_requested_at is null then 0 else 1 end,
    count(w.id), min(w.expires_at), min(w.poll_interval), min(w.expected_at), max(w.events & 96)";

impl ReadStore {
    /// All jobs that somebody waits for, a page at a time, in the order of their rows.
    pub async fn jobs(&self, after: JobNo, limit: u32, now: Timestamp) -> Result<Vec<JobSnapshot>> {
        self.read(move |tx| {
            // First the page, from the indexes alone; then what is to be known of it. The other way
            // round each page would go through all that come after it.
            let sql = format!(
                "with page as (
                   select job from (select job from watches where status = 'watching' and job > $1
                                    group by job order by job limit $2) a
                   union
                   select no from (select no from jobs where poll_requested_at is not null and no > $1
                                   order by no limit $2) b
                   order by 1 limit $2)
                 {FACTS} from page p join jobs j on j.no = p.job
                 left join watches w on w.job = j.no and w.status = 'watching'
                 group by j.no order by j.no"
            );
            tx.list(&sql, [after.0.into(), limit.into()], |row| read_facts(row, now))
        })
        .await
    }

    /// For each of these jobs, the first of the watches that wait for it, with its `traceparent`.
    pub async fn traced(&self, jobs: Vec<JobNo>) -> Result<Vec<Option<(WatchId, Option<String>)>>> {
        self.read(move |tx| {
            let found = tx.fetch(
                "select id, traceparent from watches where job = $1 and status = 'watching'
                 order by app, id limit 1",
                jobs.iter().map(|job| [job.0.into()]),
                |row| Ok((WatchId(row.id(0)?), row.opt_text(1)?)),
            )?;
            Ok(found.into_iter().map(|found| found.into_iter().next()).collect())
        })
        .await
    }

    /// The endings of which not all watches have been told: a crash came in between.
    pub async fn open_endings(&self) -> Result<Vec<OpenEnding>> {
        self.read(|tx| {
            tx.list("select job, generation from endings where unfinished = 1 order by job", [], |row| {
                Ok(OpenEnding { job: JobNo(row.int(0)?), generation: row.int(1)? })
            })
        })
        .await
    }
}

fn read_facts(row: &Row<'_>, now: Timestamp) -> Result<JobSnapshot> {
    let seen: Observation = row.json(6)?;
    let (watching, terms) = read_terms(row, 9)?;
    Ok(JobSnapshot {
        traced: None,
        no: JobNo(row.int(0)?),
        name: read_name(row, 1)?,
        generation: row.int(5)?,
        known: Known::new(&seen, now),
        registered_at: row.time(7)?,
        poll_requested: row.flag(8)?,
        watching,
        terms,
    })
}

/// Tells those who look what is asked for of these jobs now, after watches of them were stopped or amended
/// or have expired.
pub(super) fn tell_who_waits(batch: &mut Batch<'_>, jobs: &[JobNo]) -> Result<()> {
    let waiting = batch.tx.ones(
        "select count(*), min(expires_at), min(poll_interval), min(expected_at), max(events & 96)
         from watches where job = $1 and status = 'watching'",
        jobs.iter().map(|job| [job.0.into()]),
        |row| read_terms(row, 0),
    )?;
    let all = || jobs.iter().zip(&waiting);
    batch.tx.each(
        "update jobs set poll_requested_at = null where no = $1",
        all().filter(|(_, (watching, _))| *watching == 0).map(|(job, _)| [job.0.into()]),
    )?;
    let plans = all().map(|(job, (watching, terms))| PollerMessage::WatchersChanged {
        job: *job,
        watching: *watching,
        terms: *terms,
    });
    batch.effects.poller_messages.extend(plans);
    Ok(())
}

pub(super) fn observe(batch: &mut Batch<'_>, asks: &[&Observed]) -> Result<Vec<Option<(AppNo, WatchId)>>> {
    let seen: Vec<String> = asks.iter().map(|ask| to_json(&ask.seen)).collect();
    let changed = batch.tx.each(
        "update jobs set seen = $1, poll_requested_at = null where no = $2 and generation = $3 and ended = 0",
        asks.iter().zip(&seen).map(|(ask, seen)| [seen.into(), ask.job.0.into(), ask.generation.into()]),
    )?;
    let taken = || asks.iter().zip(&changed).filter(|(_, changed)| **changed > 0).map(|(ask, _)| *ask);
    batch.tx.each(
        "insert into observations (job, observed_at, status, raw_status, progress) values ($1, $2, $3, $4, $5)
         on conflict (job, observed_at) do nothing",
        taken().filter(|ask| ask.status_changed).map(|ask| {
            [
                ask.job.0.into(),
                ask.at.into(),
                ask.seen.status.as_str().into(),
                ask.seen.raw_status.as_deref().into(),
                ask.seen.progress.map(i64::from).into(),
            ]
        }),
    )?;
    let wanted: Vec<&Observed> = taken().filter(|ask| ask.wanted).collect();
    let mut told = tell_progress(batch, &wanted)?.into_iter();
    let answer = |(ask, changed): (&&Observed, &usize)| {
        if *changed > 0 && ask.wanted { told.next().flatten() } else { None }
    };
    Ok(asks.iter().zip(&changed).map(answer).collect())
}

struct Follower {
    app: AppNo,
    watch: WatchId,
    events: EventSet,
    metadata: Option<String>,
    traceparent: Option<String>,
    progress: u32,
    payload: Payload,
}

impl Follower {
    /// The event that says of this look that the job is processing, if there is to be one.
    fn processing(&self, ask: &Observed) -> Option<EventId> {
        let due = ask.seen.status == JobStatus::Processing && self.events.has(EventType::JobProcessing);
        due.then(|| EventId::derive(self.watch, EventType::JobProcessing, 0))
    }

    fn wants_progress(&self, ask: &Observed) -> bool {
        ask.progressed && self.events.has(EventType::JobProgress)
    }

    /// The last event that told of progress, where there is to be another.
    fn last_progress(&self, ask: &Observed) -> Option<EventId> {
        let due = self.wants_progress(ask) && self.progress > 0;
        due.then(|| EventId::derive(self.watch, EventType::JobProgress, self.progress))
    }
}

/// An observation, and the watches that are told of it now.
struct Audience<'a> {
    ask: &'a Observed,
    job: JobName,
    followers: Vec<Follower>,
    /// There are others.
    more: bool,
}

/// Makes `job.processing` (once for each watch) and `job.progress` events for the watches that ask, of
/// each job a chunk of them. The answers are the last of each chunk, where there are more.
fn tell_progress(batch: &mut Batch<'_>, asks: &[&Observed]) -> Result<Vec<Option<(AppNo, WatchId)>>> {
    let audiences = audiences(&batch.tx, asks)?;
    let all = || audiences.iter().flat_map(|one| one.followers.iter().map(move |follower| (one, follower)));
    let due = due_events(&batch.tx, all().map(|(one, follower)| (one.ask, follower)))?;
    for ((one, follower), due) in all().zip(due) {
        for (event_type, n) in due {
            make_event(batch, one, follower, event_type, n);
        }
    }
    let last = |one: &Audience<'_>| {
        one.followers.last().filter(|_| one.more).map(|follower| (follower.app, follower.watch))
    };
    Ok(audiences.iter().map(last).collect())
}

fn audiences<'a>(tx: &Tx<'_>, asks: &[&'a Observed]) -> Result<Vec<Audience<'a>>> {
    let names = tx.ones(
        "select provider, account, job_id, params from jobs where no = $1",
        asks.iter().map(|ask| [ask.job.0.into()]),
        |row| read_name(row, 0),
    )?;
    // The order is the index's.
    let followers = tx.fetch(
        "select app, id, events, metadata, traceparent, progress, payload from watches
         where job = $1 and status = 'watching' and (app, id) > ($2, $3) and events & 96 <> 0
         order by app, id limit $4",
        asks.iter().map(|ask| {
            let (app, watch) = ask.after.unwrap_or((AppNo(0), WatchId(Id::from_bytes([0; 16]))));
            [ask.job.0.into(), app.0.into(), watch.0.into(), (CHUNK + 1).into()]
        }),
        |row| {
            Ok(Follower {
                app: AppNo(row.int(0)?),
                watch: WatchId(row.id(1)?),
                events: EventSet::from_bits(row.int(2)?),
                metadata: row.opt_text(3)?,
                traceparent: row.opt_text(4)?,
                progress: row.count(5)?,
                payload: row.word(6, Payload::parse)?,
            })
        },
    )?;
    let audience = |((ask, job), mut followers): ((&&'a Observed, JobName), Vec<Follower>)| {
        let more = followers.len() > CHUNK as usize;
        followers.truncate(CHUNK as usize);
        Audience { ask, job, followers, more }
    };
    Ok(asks.iter().zip(names).zip(followers).map(audience).collect())
}

/// What is to be told to each of these followers. Progress that was told of this very look (it was
/// committed, nobody heard of it, and the same is written again) is not told twice.
fn due_events<'f>(
    tx: &Tx<'_>,
    followers: impl Iterator<Item = (&'f Observed, &'f Follower)> + Clone,
) -> Result<Vec<Vec<(EventType, u32)>>> {
    let asked = followers.clone().flat_map(|(ask, follower)| {
        follower.processing(ask).into_iter().chain(follower.last_progress(ask)).map(|id| [id.0.into()])
    });
    let mut known =
        tx.fetch("select observed_at from events where id = $1", asked, |row| row.time(0))?.into_iter();
    let mut told_at = |id: Option<EventId>| id.and_then(|_| known.next()).and_then(|mut at| at.pop());
    let mut progressed = Vec::new();
    let mut due = Vec::new();
    for (ask, follower) in followers {
        let mut events = Vec::new();
        let processing = follower.processing(ask);
        if told_at(processing).is_none() && processing.is_some() {
            events.push((EventType::JobProcessing, 0));
        }
        let last = told_at(follower.last_progress(ask));
        if follower.wants_progress(ask) && last != Some(ask.at) {
            progressed.push(follower);
            events.push((EventType::JobProgress, follower.progress + 1));
        }
        due.push(events);
    }
    tx.each(
        "update watches set progress = progress + 1 where app = $1 and id = $2",
        progressed.iter().map(|follower| [follower.app.0.into(), follower.watch.0.into()]),
    )?;
    Ok(due)
}

fn make_event(batch: &mut Batch<'_>, told: &Audience<'_>, to: &Follower, event_type: EventType, n: u32) {
    let Audience { ask, job, .. } = told;
    let about = About {
        watch: to.watch,
        provider: &job.provider,
        job_id: &job.job_id,
        metadata: to.metadata.as_deref(),
    };
    let id = EventId::derive(to.watch, event_type, n);
    let body = events::body(event_type, ask.at, &about, &ask.seen, None).into();
    let sent = match to.payload {
        Payload::Event => None,
        Payload::Raw => ask.raw.clone(),
        Payload::CloudEvents => {
            let url = &batch.shared.public_url;
            Some(events::cloud_event(id, event_type, ask.at, &about, &ask.seen, None, url).into())
        }
    };
    let event = NewEvent {
        id,
        app: to.app,
        watch: to.watch,
        event_type,
        at: ask.at,
        body,
        sent: sent.map(|sent| (to.payload, sent)),
        finished: None,
    };
    deliveries::create(batch, event, to.traceparent.as_deref(), None, job.shard());
}

pub(super) fn refresh(batch: &mut Batch<'_>, asks: &[&Refresh]) -> Result<Vec<()>> {
    let seen: Vec<(JobNo, String, &str)> = asks
        .iter()
        .filter_map(|ask| ask.seen.as_ref().map(|seen| (ask.job, to_json(seen), seen.status.as_str())))
        .collect();
    // Only the same ending: a job that says something else now is left as it ended.
    batch.tx.each(
        "update endings set refreshed = $1 where job = $2 and kind = $3
         and generation = (select generation from jobs where no = $2)",
        seen.iter().map(|(job, seen, status)| [seen.into(), job.0.into(), (*status).into()]),
    )?;
    batch.tx.each(
        "update jobs set poll_requested_at = null where no = $1",
        asks.iter().map(|ask| [ask.job.0.into()]),
    )?;
    Ok(vec![(); asks.len()])
}

pub(super) fn poll_now(batch: &mut Batch<'_>, asks: &[&PollNow]) -> Result<Vec<PollNowResult>> {
    asks.iter().map(|ask| look_now_one(batch, ask)).collect()
}

fn look_now_one(batch: &mut Batch<'_>, ask: &PollNow) -> Result<PollNowResult> {
    let tx = &batch.tx;
    if let Some(replay) = idempotency::replay(tx, ask.remember.as_ref(), ask.now)? {
        return Ok(PollNowResult::Replayed(replay));
    }
    let job = tx.find(
        "update jobs set poll_requested_at = $1 where no = (select job from watches where app = $2 and id = $3)
         returning no",
        [ask.now.into(), ask.app.0.into(), ask.watch.0.into()],
        |row| Ok(JobNo(row.int(0)?)),
    )?;
    let Some(job) = job else { return Ok(PollNowResult::Unknown) };
    if let Some((remember, answer)) = &ask.remember {
        idempotency::keep(tx, remember, answer, ask.now)?;
    }
    let sql = format!(
        "{FACTS} from jobs j left join watches w on w.job = j.no and w.status = 'watching'
         where j.no = $1 group by j.no"
    );
    let facts = tx.one(&sql, [job.0.into()], |row| read_facts(row, ask.now))?;
    batch.effects.poller_messages.push(PollerMessage::PollNow(Box::new(facts)));
    Ok(PollNowResult::Wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statements_know_the_bits_of_progress() {
        let set: EventSet = [EventType::JobProcessing, EventType::JobProgress].into_iter().collect();
        assert_eq!(set.bits(), 96);
    }
}
