//! Requests to cancel jobs at their providers.
//!
//! **A request is a row**, one for each watch whose client wants it, written in the transaction that stops the watch
//! (`watches/cancel_job`) or ends it at its expiry ([`at_expiry`]). A registration that asks for the latter writes the
//! row with the status `on_expiry`. So there is no moment in which the watch is stopped and the request is lost.
//!
//! **The poller makes the requests** (`poller/cancelling`), those of an app for one job together: their rows have the
//! same `job` and `app`, and the result of an attempt changes all that are pending. It gets a message after the commit,
//! and reads the pending rows at a start.
//!
//! **Another app** that watches the job wants its result. A stop is then refused, and an expiry withholds the request.
//! The poller asks again before each attempt, because an app can register the job between two attempts. Between this
//! read and the request there is a moment in which a registration is not noticed: the job is then cancelled, and the new
//! watch ends as `cancelled`, as after a cancellation at the provider.
//!
//! **Rows are deleted** with their watches. An erasure drops a request that is pending: nothing may be left of the watch.

use std::collections::BTreeMap;

use super::batch::Batch;
use super::db::{Result, Row, StoreError, Tx, params, row_sql};
use super::job_polls::{self, poll_columns};
use super::reads::{INTERNAL, ReadStore};
use super::rows::read_name;
use crate::domain::{
    AppNo, CancelAttempt, CancelResult, CancelStatus, JobCancel, JobNo, Observation, PendingCancel,
    PollerMessage, Timestamp, WatchId,
};

/// Writes the result of an attempt to cancel a job.
#[derive(Clone, Debug)]
pub struct RecordCancel {
    /// The job.
    pub job: JobNo,
    /// The app whose requests were made.
    pub app: AppNo,
    /// The result.
    pub result: CancelResult,
    /// Time of the result.
    pub now: Timestamp,
}

impl ReadStore {
    /// Returns a page of the requests that are not decided, after those of a job and an app, and the last of them.
    pub async fn pending_cancels(
        &self,
        after: (JobNo, AppNo),
        limit: u32,
    ) -> Result<(Vec<PendingCancel>, Option<(JobNo, AppNo)>)> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.read(INTERNAL, move |tx| {
            let found = tx.list(
                concat!(
                    "select c.job, c.app, min(c.next_attempt_at) as next_attempt_at, j.provider, j.account, ",
                    poll_columns!(),
                    " from job_cancels c join jobs j on j.no = c.job
                 where c.status = 'pending' and (c.job, c.app) > ($1, $2)
                 group by c.job, c.app, j.no order by c.job, c.app limit $3"
                ),
                params![after.0, after.1, limit],
                |row| {
                    let (job, app) = (JobNo(row.int(0)?), AppNo(row.int(1)?));
                    let read = || {
                        Ok(PendingCancel {
                            job,
                            app,
                            provider: row.text(3)?,
                            account: row.text(4)?,
                            poll: job_polls::read(row, 5, &keyring)?,
                            next_attempt_at: row.time(2)?,
                        })
                    };
                    Ok(((job, app), unreadable.skip(("job_cancels by job", 0), row, read())?))
                },
            )?;
            let last = found.last().map(|(key, _)| *key);
            Ok((found.into_iter().filter_map(|(_, pending)| pending).collect(), last))
        })
        .await
    }

    /// Returns what an attempt to cancel a job needs to know. `None`: no request of the app for it is pending.
    pub async fn cancel_attempt(
        &self,
        job: JobNo,
        app: AppNo,
        now: Timestamp,
    ) -> Result<Option<CancelAttempt>> {
        let keyring = self.shared.keyring.clone();
        self.read(INTERNAL, move |tx| {
            let pending = tx.one(
                "select min(requested_at), max(attempts) from job_cancels
                 where job = $1 and app = $2 and status = 'pending'",
                params![job, app],
                |row| Ok((row.opt_time(0)?, row.opt_int(1)?)),
            )?;
            let (Some(requested_at), Some(attempts)) = pending else { return Ok(None) };
            let is_shared = is_shared(tx, job, app, now)?;
            let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
            tx.find(
                concat!(
                    "select j.provider, j.account, j.job_id, coalesce(j.long_params, j.params), j.ended, ",
                    poll_columns!(),
                    " from jobs j where j.no = $1"
                ),
                params![job],
                |row| {
                    let (name, has_ended) = (read_name(row, 0)?, row.flag(4)?);
                    let poll = job_polls::read(row, 5, &keyring)?;
                    Ok(CancelAttempt { name, poll, requested_at, attempts, has_ended, is_shared })
                },
            )
        })
        .await
    }
}

impl ReadStore {
    /// Returns what was last seen of a job whose provider has accepted to cancel it, if it has not ended. A later generation
    /// of the job is another one, and so may be the job of a watch that was registered after the acceptance.
    pub async fn cancelled_job(&self, job: JobNo, generation: i64) -> Result<Option<Observation>> {
        self.read(INTERNAL, move |tx| {
            tx.find(
                "select j.seen from jobs j where j.no = $1 and j.generation = $2 and j.ended = 0 and exists (
                   select 1 from watches w join job_cancels c on c.watch = w.id
                   where w.job = $1 and w.generation = $2 and w.ended_at is not null and c.status = 'accepted'
                     and not exists (select 1 from watches n where n.job = $1 and n.status = 'watching'
                       and n.created_at > c.finished_at))",
                params![job, generation],
                |row| row.json(0),
            )
        })
        .await
    }
}

/// Returns whether another app has a watch of a job that does not expire before `at`.
pub(super) fn is_shared(tx: &Tx<'_>, job: JobNo, app: AppNo, at: Timestamp) -> Result<bool> {
    let found = tx.find(
        "select 1 from watches where job = $1 and status = 'watching' and app <> $2 and expires_at > $3 limit 1",
        params![job, app, at],
        |row| row.int(0),
    )?;
    Ok(found.is_some())
}

/// Columns of a request in a query of watches that joins [`JOIN`], for [`read`].
pub(super) const COLUMNS: &str =
    "c.status, c.requested_at, c.attempts, c.http_status, c.message, c.finished_at";

/// The request of a watch `w`.
pub(super) const JOIN: &str = "left join job_cancels c on c.watch = w.id";

/// Reads the columns [`COLUMNS`] from `first`.
pub(super) fn read(row: &Row<'_>, first: usize) -> Result<Option<JobCancel>> {
    let Some(word) = row.opt_text(first)? else { return Ok(None) };
    let unknown = || StoreError::Inconsistent(format!("`{word}` is no status of a request to cancel a job"));
    Ok(Some(JobCancel {
        status: CancelStatus::parse(&word).ok_or_else(unknown)?,
        requested_at: row.opt_time(first + 1)?,
        attempts: row.count(first + 2)?,
        http_status: row.opt_int(first + 3)?.and_then(|status| u16::try_from(status).ok()),
        message: row.opt_text(first + 4)?,
        finished_at: row.opt_time(first + 5)?,
    }))
}

/// Inserts the requests that follow when watches expire.
pub(super) fn insert_for_expiry(
    tx: &Tx<'_>,
    watches: impl ExactSizeIterator<Item = (WatchId, AppNo, JobNo)>,
) -> Result<()> {
    if watches.len() == 0 {
        return Ok(());
    }
    let rows: Vec<_> = watches.collect();
    tx.each(
        "insert into job_cancels (watch, app, job, status, definition, credential)
         values ($1, $2, $3, 'on_expiry', (select definition from job_polls where job = $3),
           (select credential from job_polls where job = $3))
         on conflict (watch) do nothing",
        rows.iter().map(|(watch, app, job)| params![watch, app, job]),
    )?;
    Ok(())
}

/// Requests to cancel the job of a watch, unless this is pending or was accepted. The caller has checked that the job runs
/// and is not shared.
pub(super) fn request(
    batch: &mut Batch<'_>,
    watch: WatchId,
    (job, app): (JobNo, AppNo),
    now: Timestamp,
) -> Result<()> {
    let known = batch.tx.find("select status from job_cancels where watch = $1", params![watch], |row| {
        row.word(0, CancelStatus::parse)
    })?;
    if known.is_some_and(|status| !status.can_be_repeated()) {
        return Ok(());
    }
    batch.tx.run(
        "insert into job_cancels (watch, app, job, status, requested_at, next_attempt_at, definition, credential)
         values ($1, $2, $3, 'pending', $4, $4, (select definition from job_polls where job = $3),
           (select credential from job_polls where job = $3))
         on conflict (watch) do update set status = 'pending', requested_at = excluded.requested_at, attempts = 0,
           next_attempt_at = excluded.next_attempt_at, http_status = null, message = null, finished_at = null",
        params![watch, app, job, now],
    )?;
    notify(batch, (job, app), now)
}

/// A watch that has expired.
pub(super) struct ExpiredWatch {
    pub(super) id: WatchId,
    pub(super) app: AppNo,
    pub(super) job: JobNo,
    /// Time of the end.
    pub(super) at: Timestamp,
}

/// Makes the requests of watches that have expired.
pub(super) fn at_expiry(batch: &mut Batch<'_>, expired: &[ExpiredWatch]) -> Result<()> {
    let requested = batch.tx.update_each(
        row_sql!(
            "update job_cancels set status = 'pending', requested_at = $1, next_attempt_at = $2"
            where "watch = $3 and status = 'on_expiry'"
        ),
        expired.iter().map(|watch| params![watch.at, watch.at, watch.id]),
    )?;
    let requested = expired.iter().zip(requested).filter(|(_, changed)| *changed > 0);
    let requests = requested.map(|(watch, _)| ((watch.job, watch.app), watch.at));
    for ((job, app), now) in requests.collect::<BTreeMap<_, _>>() {
        if is_shared(&batch.tx, job, app, now)? {
            let withheld = CancelResult::withheld();
            record(&batch.tx, &RecordCancel { job, app, result: withheld, now })?;
        } else {
            notify(batch, (job, app), now)?;
        }
    }
    Ok(())
}

/// Lets the poller make a request, from `next_attempt_at`.
fn notify(batch: &mut Batch<'_>, (job, app): (JobNo, AppNo), next_attempt_at: Timestamp) -> Result<()> {
    let keyring = &batch.shared.keyring;
    let pending = batch.tx.one(
        concat!("select j.provider, j.account, ", poll_columns!(), " from jobs j where j.no = $1"),
        params![job],
        |row| {
            let (provider, account) = (row.text(0)?, row.text(1)?);
            let poll = job_polls::read(row, 2, keyring)?;
            Ok(PendingCancel { job, app, provider, account, poll, next_attempt_at })
        },
    )?;
    batch.effects.poller_messages.push(PollerMessage::CancelJob(Box::new(pending)));
    Ok(())
}

pub(super) fn record_cancel(batch: &mut Batch<'_>, command: &RecordCancel) -> Result<()> {
    record(&batch.tx, command)
}

/// Changes the pending requests of an app for a job. Repeating it changes nothing after a final result.
fn record(tx: &Tx<'_>, command: &RecordCancel) -> Result<()> {
    let RecordCancel { job, app, result, now } = command;
    let CancelResult { status, attempts, next_attempt_at, http_status, message } = result;
    let finished_at = next_attempt_at.is_none().then_some(*now);
    tx.run(
        "update job_cancels set status = $1, attempts = $2, next_attempt_at = $3, http_status = $4, message = $5,
           finished_at = $6
         where job = $7 and app = $8 and status = 'pending'",
        params![status, attempts, *next_attempt_at, *http_status, message, finished_at, job, app],
    )?;
    Ok(())
}

/// Deletes the requests of watches.
pub(super) fn delete(tx: &Tx<'_>, watches: impl ExactSizeIterator<Item = WatchId> + Clone) -> Result<()> {
    tx.each("delete from job_cancels where watch = $1", watches.map(|watch| params![watch]))?;
    Ok(())
}
