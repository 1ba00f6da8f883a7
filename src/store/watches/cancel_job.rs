//! Stopping a watch and cancelling its job.

use super::super::batch::Batch;
use super::super::db::params;
use super::super::idempotency::Outcome;
use super::super::job_cancels;
use super::{StopWatch, find, stop};
use crate::domain::{JobNo, Timestamp, Watch, WatchStatus};

/// Stops a watch, and requests to cancel its job in the same transaction. A job that has ended is not cancelled.
#[derive(Clone, Copy, Debug)]
pub struct StopAndCancel(pub StopWatch);

/// Reason why nothing was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelRefusal {
    /// The watch does not exist.
    NotFound,
    /// Another app watches the job.
    JobShared,
}

pub(in crate::store) fn stop_and_cancel(
    batch: &mut Batch<'_>,
    command: &StopAndCancel,
) -> Outcome<Watch, CancelRefusal> {
    let StopWatch { app, watch, now } = command.0;
    let found = batch.tx.find(
        "select w.status, w.job, case when j.ended = 0 and j.generation = w.generation then 1 else 0 end
         from watches w join jobs j on j.no = w.job where w.app = $1 and w.id = $2",
        params![app, watch],
        |row| Ok((row.word(0, WatchStatus::parse)?, JobNo(row.int(1)?), row.flag(2)?)),
    )?;
    let Some((status, job, runs)) = found else { return Ok(Err(CancelRefusal::NotFound)) };
    // After a stop or an expiry, the job may still run.
    let may_run = matches!(status, WatchStatus::Watching | WatchStatus::Stopped | WatchStatus::Expired);
    if runs && may_run {
        if job_cancels::is_shared(&batch.tx, job, app, Timestamp::from_millis(i64::MIN))? {
            return Ok(Err(CancelRefusal::JobShared));
        }
        job_cancels::request(batch, watch, (job, app), now)?;
    }
    stop(batch, &[&command.0])?;
    Ok(find(&batch.tx, batch.shared, app, watch)?.ok_or(CancelRefusal::NotFound))
}
