//! Stopping watches.

use std::collections::BTreeSet;

use super::super::batch::Batch;
use super::super::db::Result;
use super::super::{deliveries, jobs};
use crate::domain::{AppNo, JobNo, Timestamp, WatchId, WatchStatus};

/// Stops a watch: its job is not polled for it any more, and its pending deliveries are skipped. Attempts in
/// flight are recorded.
#[derive(Clone, Copy, Debug)]
pub struct StopWatch {
    /// The app.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// Time of the stop.
    pub now: Timestamp,
}

/// Applies stops. Returns whether each watch exists.
pub fn stop_watch(batch: &mut Batch<'_>, commands: &[&StopWatch]) -> Result<Vec<bool>> {
    let jobs = batch.tx.fetch(
        "select job from watches where app = $1 and id = $2",
        commands.iter().map(|command| [command.app.0.into(), command.watch.0.into()]),
        |row| Ok(JobNo(row.int(0)?)),
    )?;
    let known: Vec<(&StopWatch, JobNo)> =
        commands.iter().zip(&jobs).filter_map(|(command, job)| Some((*command, *job.first()?))).collect();
    let stopped = batch.tx.update_each(
        "update watches set status = 'stopped', ended_at = $1
         where app = $2 and id = $3 and coalesce(status, '') = 'watching'",
        known.iter().map(|(command, _)| [command.now.into(), command.app.0.into(), command.watch.0.into()]),
    )?;
    deliveries::skip_stopped(batch, &known.iter().map(|(command, _)| command.watch).collect::<Vec<_>>())?;
    let mut changed_jobs = BTreeSet::new();
    for ((command, job), _) in known.iter().zip(stopped).filter(|(_, stopped)| *stopped > 0) {
        changed_jobs.insert(*job);
        batch.effects.ended_watches.push(command.watch);
        batch.effects.tally.ended(WatchStatus::Stopped);
    }
    // Once for each job: a client may stop many watches of one job in a batch.
    jobs::notify_watchers_changed(batch, &changed_jobs.into_iter().collect::<Vec<_>>())?;
    Ok(jobs.iter().map(|job| !job.is_empty()).collect())
}
