//! Jobs as last observed, and what the poller needs of them.

use std::time::Duration;

use super::batch::Batch;
use super::db::{Result, Row, params, row_sql};
use super::idempotency::Outcome;
use super::job_polls::{self, poll_columns};
use super::reads::{INTERNAL, ReadStore};
use super::rows::{read_name, read_rounds, to_json};
use super::sealing::Keyring;
use crate::domain::{
    AppNo, AppsApart, JobNo, JobSnapshot, JobStatus, Known, Observation, PollerMessage, Terms, Timestamp,
    WatchId,
};

/// Writes the result of a requested poll of a job that has ended.
#[derive(Clone, Debug)]
pub struct RefreshEnding {
    /// The job.
    pub job: JobNo,
    /// The observation. `None`: the poll failed, or the job has not ended.
    pub seen: Option<Observation>,
    /// Whether the provider has reported a status, also one of a running job.
    pub has_status: bool,
}

/// Requests a poll of a watch's job at once.
#[derive(Clone, Debug)]
pub struct PollNow {
    /// The app.
    pub app: AppNo,
    /// A watch of the job.
    pub watch: WatchId,
    /// Time of the request.
    pub now: Timestamp,
}

/// Refusal of a request: the watch or the delivery does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFound;

/// A page of jobs.
#[derive(Clone, Debug, Default)]
pub struct JobPage {
    /// The jobs, in the order of their rows.
    pub jobs: Vec<JobSnapshot>,
    /// Jobs of which a row, or that of a watch, cannot be read.
    pub unreadable: Vec<JobNo>,
    /// The last job; `None` if there are no more.
    pub last: Option<JobNo>,
}

/// Columns of a job. The combined terms of its watches follow.
const JOB: &str = concat!(
    "select j.no, j.provider, j.account, j.job_id, coalesce(j.long_params, j.params), j.generation, j.seen, j.registered_at,
    case when j.poll_requested_at is null then 0 else 1 end, j.had_status,
    j.progress_rounds, ",
    poll_columns!()
);

/// Combined terms of the watches of job `$1`, which may be a hundred thousand: the database reads one entry of an index
/// for each column, and one for each app that watches the job. 96 is the bits of `job.processing` and `job.progress`; a test compares them.
pub(super) const TERMS: &str = "select
    (with recursive turns (app) as (
       select (select app from watches where job = $1 and status = 'watching' order by app limit 1)
       union all
       select (select w.app from watches w where w.job = $1 and w.status = 'watching' and w.app > turns.app
               order by w.app limit 1)
       from turns where turns.app is not null)
     select min((select w.expires_at from watches w where w.job = $1 and w.status = 'watching' and w.app = turns.app
                 order by w.expires_at limit 1))
     from turns where app is not null),
    (select poll_interval from watches where job = $1 and status = 'watching' and poll_interval is not null
     order by poll_interval limit 1),
    (select expected_at from watches where job = $1 and status = 'watching' and expected_at is not null
     order by expected_at limit 1),
    (select 1 from watches where job = $1 and status = 'watching' and events & 96 <> 0 order by app, id limit 1)";

impl ReadStore {
    /// Returns a page of the jobs that have watches or a requested poll, in the order of their rows.
    pub async fn jobs(&self, after: JobNo, limit: u32, now: Timestamp) -> Result<JobPage> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.read(INTERNAL, move |tx| {
            // First the page, from the indexes alone, then its columns: otherwise each page would read all
            // jobs that come after it.
            let sql = format!(
                "with page as (
                   select job from (select job from watches where status = 'watching' and job > $1
                                    group by job order by job limit $2) a
                   union
                   select no from (select no from jobs where poll_requested_at is not null and no > $1
                                   order by no limit $2) b
                   order by 1 limit $2)
                 {JOB}, count(w.id), min(w.expires_at), min(w.poll_interval), min(w.expected_at), max(w.events & 96),
                   coalesce(min(w.app), (select app from watches o where o.job = j.no limit 1)), max(w.app)
                 from page p join jobs j on j.no = p.job
                 left join watches w on w.job = j.no and w.status = 'watching'
                 group by j.no order by j.no"
            );
            let mut page = JobPage::default();
            let read = |row: &Row<'_>| {
                let job = unreadable.skip(("jobs", 0), row, read_snapshot(row, now, &keyring))?;
                Ok((JobNo(row.int(0)?), job))
            };
            for (no, job) in tx.list(&sql, params![after, limit], read)? {
                page.last = Some(no);
                match job {
                    Some(job) => page.jobs.push(job),
                    None => page.unreadable.push(no),
                }
            }
            Ok(page)
        })
        .await
    }

    /// Returns for each job its first watch that has not ended, with its `traceparent`.
    pub async fn traced_watches(&self, jobs: Vec<JobNo>) -> Result<Vec<Option<(WatchId, Option<String>)>>> {
        self.read(INTERNAL, move |tx| {
            let found = tx.fetch(
                "select id, traceparent from watches where job = $1 and status = 'watching'
                 order by app, id limit 1",
                jobs.iter().map(|job| params![job]),
                |row| Ok((WatchId(row.id(0)?), row.opt_text(1)?)),
            )?;
            Ok(found.into_iter().map(|found| found.into_iter().next()).collect())
        })
        .await
    }
}

fn read_snapshot(row: &Row<'_>, now: Timestamp, keyring: &Keyring) -> Result<JobSnapshot> {
    let (watching, app) = (row.count(15)?, AppNo(row.opt_int(20)?.unwrap_or_default()));
    let other_app = row.opt_int(21)?.map(AppNo).filter(|other| *other != app);
    Ok(JobSnapshot { watching, terms: read_terms(row, 16)?, other_app, ..read_job(row, app, now, keyring)? })
}

/// Reads the columns [`JOB`].
fn read_job(row: &Row<'_>, app: AppNo, now: Timestamp, keyring: &Keyring) -> Result<JobSnapshot> {
    let seen: Observation = row.json(6)?;
    let rounds = read_rounds(row, 10)?;
    let known = Known::new(&seen, &rounds, now);
    Ok(JobSnapshot {
        traced: None,
        no: JobNo(row.int(0)?),
        name: read_name(row, 1)?,
        poll: job_polls::read(row, 11, keyring)?,
        app,
        other_app: None,
        generation: row.int(5)?,
        known,
        apart: AppsApart::new(&rounds, known.reported(), now),
        registered_at: row.time(7)?,
        poll_requested: row.flag(8)?,
        had_status: row.flag(9)?,
        watching: 0,
        terms: None,
    })
}

/// Reads four columns from `first`: the combined terms of the watches of a job that have not ended, if there are any.
fn read_terms(row: &Row<'_>, first: usize) -> Result<Option<Terms>> {
    let Some(expires_at) = row.opt_time(first)? else { return Ok(None) };
    let poll_interval = row.opt_int(first + 1)?.and_then(|millis| u64::try_from(millis).ok());
    Ok(Some(Terms {
        expires_at,
        poll_interval: poll_interval.map(Duration::from_millis),
        expected_at: row.opt_time(first + 2)?,
        wants_progress: row.opt_int(first + 3)?.is_some_and(|bits| bits != 0),
    }))
}

/// Notifies the poller of changed jobs and of requested polls, each job once. It runs after the commands of a batch.
pub(super) fn notify_poller(batch: &mut Batch<'_>) -> Result<()> {
    notify_watchers_changed(batch)?;
    let requested = std::mem::take(&mut batch.requested_polls);
    let keys = || requested.keys().map(|job| params![job]);
    let sql = format!("{JOB} from jobs j where j.no = $1");
    let (mut requests, keyring) = (requested.values(), &batch.shared.keyring);
    let read = |row: &Row<'_>| {
        let (app, now) = requests.next().copied().unwrap_or((AppNo(0), Timestamp::default()));
        read_job(row, app, now, keyring)
    };
    let jobs = batch.tx.ones(&sql, keys(), read)?;
    let terms = batch.tx.ones(TERMS, keys(), |row| read_terms(row, 0))?;
    // The poller knows every job with watches that have not ended, and their number.
    let with_terms = |(job, terms): (JobSnapshot, Option<Terms>)| JobSnapshot {
        watching: terms.map_or(0, |_| 1),
        terms,
        ..job
    };
    let snapshots = jobs.into_iter().zip(terms).map(with_terms);
    let message = |snapshot| PollerMessage::PollNow(Box::new(snapshot));
    batch.effects.poller_messages.extend(snapshots.map(message));
    Ok(())
}

/// Notifies the poller of the terms of jobs after some of their watches were stopped, amended or expired.
fn notify_watchers_changed(batch: &mut Batch<'_>) -> Result<()> {
    if batch.changed_jobs.is_empty() {
        return Ok(());
    }
    let jobs: Vec<(JobNo, u32)> = std::mem::take(&mut batch.changed_jobs).into_iter().collect();
    let terms = batch.tx.ones(TERMS, jobs.iter().map(|(job, _)| params![job]), |row| read_terms(row, 0))?;
    // A poll that was requested in the same transaction is still made.
    let unwatched = jobs
        .iter()
        .zip(&terms)
        .filter(|((job, _), terms)| terms.is_none() && !batch.requested_polls.contains_key(job));
    batch.tx.update_each(
        row_sql!("update jobs set poll_requested_at = null" where "no = $1"),
        unwatched.map(|((job, _), _)| params![job]),
    )?;
    let changed = |((job, ended), terms): (&(JobNo, u32), _)| PollerMessage::WatchersChanged {
        job: *job,
        ended: *ended,
        terms,
    };
    batch.effects.poller_messages.extend(jobs.iter().zip(terms).map(changed));
    Ok(())
}

pub(super) fn refresh_ending(batch: &mut Batch<'_>, commands: &[&RefreshEnding]) -> Result<Vec<()>> {
    let seen: Vec<(JobNo, String, JobStatus)> = commands
        .iter()
        .filter_map(|command| command.seen.as_ref().map(|seen| (command.job, to_json(seen), seen.status)))
        .collect();
    // Only the same kind of ending: another result does not change the ending.
    batch.tx.each(
        "update endings set refreshed = $1 where job = $2 and kind = $3
         and generation = (select generation from jobs where no = $2)",
        seen.iter().map(|(job, seen, status)| params![seen, job, status]),
    )?;
    batch.tx.update_each(
        row_sql!("update jobs set poll_requested_at = null" where "no = $1"),
        commands.iter().map(|command| params![command.job]),
    )?;
    let with_status = commands.iter().filter(|command| command.has_status);
    batch.tx.update_each(
        row_sql!("update jobs set had_status = 1" where "no = $1 and had_status = 0"),
        with_status.map(|command| params![command.job]),
    )?;
    Ok(vec![(); commands.len()])
}

pub(super) fn poll_now(batch: &mut Batch<'_>, command: &PollNow) -> Outcome<(), NotFound> {
    let job = batch.tx.find(
        "update jobs set poll_requested_at = $1
         where no = (select job from watches where app = $2 and id = $3) returning no",
        params![command.now, command.app, command.watch],
        |row| Ok(JobNo(row.int(0)?)),
    )?;
    let Some(job) = job else { return Ok(Err(NotFound)) };
    batch.requested_polls.insert(job, (command.app, command.now));
    Ok(Ok(()))
}

#[cfg(test)]
mod tests {
    use crate::domain::{EventSet, EventType};

    #[test]
    fn the_statements_contain_the_bits_of_progress_events() {
        let set: EventSet = [EventType::JobProcessing, EventType::JobProgress].into_iter().collect();
        assert_eq!(set.0, 96);
    }
}
