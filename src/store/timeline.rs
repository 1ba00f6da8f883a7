//! The timeline of a watch: what happened to it, in order.

use super::db::{Result, Row, Tx, params};
use super::job_cancels;
use super::reads::ReadStore;
use crate::domain::{
    AppNo, DeliveryId, DeliveryStatus, DestinationId, EventId, EventType, JobCancel, JobNo, JobStatus,
    Observation, Reason, TimelineEntry, Timestamp, WatchId, WatchStatus,
};

/// Position in a timeline: a time, and a number of entries of that millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimelinePosition {
    /// Time of the entry.
    pub at: Timestamp,
    /// Number of entries with this time up to and including it.
    pub count: u32,
}

/// A time, and what happened then.
type Entry = (Timestamp, TimelineEntry);

/// The attributes of a watch that its timeline needs.
struct TimelineWatch {
    job: JobNo,
    generation: i64,
    status: WatchStatus,
    created_at: Timestamp,
    ended_at: Option<Timestamp>,
}

impl ReadStore {
    /// Returns the entries of a timeline after a position, each with its own position. `None`: the app has no such
    /// watch.
    pub async fn timeline(
        &self,
        app: AppNo,
        id: WatchId,
        after: TimelinePosition,
        limit: u32,
    ) -> Result<Option<Vec<(TimelinePosition, TimelineEntry)>>> {
        self.read(app, move |tx| {
            let watch = tx.find(
                "select job, generation, status, created_at, ended_at from watches where app = $1 and id = $2",
                params![app, id],
                |row| {
                    Ok(TimelineWatch {
                        job: JobNo(row.int(0)?),
                        generation: row.int(1)?,
                        status: row.word(2, WatchStatus::parse)?,
                        created_at: row.time(3)?,
                        ended_at: row.opt_time(4)?,
                    })
                },
            )?;
            let Some(watch) = watch else { return Ok(None) };
            // The page may consist of entries of one kind.
            let limit_of_kind = after.count.saturating_add(limit);
            let mut entries = vec![(watch.created_at, TimelineEntry::Registered { at: watch.created_at })];
            entries.extend(observed(tx, &watch, after.at, limit_of_kind)?);
            entries.extend(notified(tx, id, after.at, limit_of_kind)?);
            if let (WatchStatus::Stopped, Some(at)) = (watch.status, watch.ended_at) {
                entries.push((at, TimelineEntry::Stopped { at }));
            }
            entries.extend(cancelled(tx, id)?);
            // The sort is stable: entries of one millisecond stay in the order of cause and effect.
            entries.sort_by_key(|(at, _)| *at);
            let mut position = TimelinePosition { at: after.at, count: 0 };
            let positioned = entries.into_iter().filter(|(at, _)| *at >= after.at).map(|(at, entry)| {
                let count = if at == position.at { position.count + 1 } else { 1 };
                position = TimelinePosition { at, count };
                (position, entry)
            });
            let new = positioned
                .skip_while(|(position, _)| position.at == after.at && position.count <= after.count);
            Ok(Some(new.take(limit as usize).collect()))
        })
        .await
    }
}

/// Returns the request to cancel the job, and its result.
fn cancelled(tx: &Tx<'_>, id: WatchId) -> Result<Vec<Entry>> {
    let sql = format!("select {} from job_cancels c where c.watch = $1", job_cancels::COLUMNS);
    let found = tx.find(&sql, params![id], |row| job_cancels::read(row, 0))?.flatten();
    let Some(JobCancel { status, requested_at, http_status, message, finished_at, .. }) = found else {
        return Ok(Vec::new());
    };
    let requested = requested_at.map(|at| (at, TimelineEntry::CancelRequested { at }));
    let finished =
        finished_at.map(|at| (at, TimelineEntry::CancelFinished { at, status, http_status, message }));
    Ok(requested.into_iter().chain(finished).collect())
}

/// Returns up to `limit` changes of the job during the watch, and the ending of the job.
fn observed(tx: &Tx<'_>, watch: &TimelineWatch, from: Timestamp, limit: u32) -> Result<Vec<Entry>> {
    let (first, last) = (watch.created_at.max(from), watch.ended_at.unwrap_or(Timestamp::MAX));
    let mut seen = tx.list(
        "select observed_at, status, raw_status, progress from observations
         where job = $1 and observed_at >= $2 and observed_at <= $3 order by observed_at limit $4",
        params![watch.job, first, last, limit],
        |row| {
            let (at, status) = (row.time(0)?, row.word(1, JobStatus::parse)?);
            let (raw_status, progress) = (row.opt_text(2)?, row.opt_int(3)?);
            Ok((at, TimelineEntry::Observed { at, status, raw_status, progress, error_code: None }))
        },
    )?;
    if matches!(watch.status, WatchStatus::Completed | WatchStatus::Failed | WatchStatus::Cancelled) {
        seen.extend(tx.find(
            "select ended_at, seen from endings where job = $1 and generation >= $2 order by generation limit 1",
            params![watch.job, watch.generation],
            |row| {
                let at = row.time(0)?;
                let Observation { status, raw_status, progress, error, .. } = row.json(1)?;
                let (progress, error_code) = (progress.map(i64::from), error.and_then(|error| error.code));
                Ok((at, TimelineEntry::Observed { at, status, raw_status, progress, error_code }))
            },
        )?);
    }
    Ok(seen)
}

/// Returns up to `limit` events, deliveries and attempts of a watch, each kind in order.
fn notified(tx: &Tx<'_>, id: WatchId, from: Timestamp, limit: u32) -> Result<Vec<Entry>> {
    let list = |sql, read: fn(&Row<'_>) -> Result<Entry>| tx.list(sql, params![id, from, limit], read);
    let events = list(
        "select observed_at, id, type from events where watch = $1 and observed_at >= $2
         order by observed_at, position limit $3",
        |row| {
            let (at, event_id) = (row.time(0)?, EventId(row.id(1)?));
            Ok((at, TimelineEntry::Event { at, event_id, event_type: row.word(2, EventType::parse)? }))
        },
    )?;
    let deliveries = list(
        "select created_at, id, event, destination, status, reason from deliveries
         where watch = $1 and created_at >= $2 order by created_at, id limit $3",
        |row| {
            let at = row.time(0)?;
            let delivery = TimelineEntry::Delivery {
                at,
                delivery_id: DeliveryId(row.id(1)?),
                event_id: EventId(row.id(2)?),
                destination_id: DestinationId(row.id(3)?),
                status: row.word(4, DeliveryStatus::parse)?,
                reason: row.opt_text(5)?.as_deref().and_then(Reason::parse),
            };
            Ok((at, delivery))
        },
    )?;
    let attempts = list(
        "select a.started_at, a.delivery, a.status_code, a.error, a.duration_ms
         from attempts a join deliveries d on d.id = a.delivery
         where d.watch = $1 and a.started_at >= $2 order by a.started_at, a.delivery, a.n limit $3",
        |row| {
            let (at, delivery_id, duration_ms) = (row.time(0)?, DeliveryId(row.id(1)?), row.int(4)?);
            let (status_code, error) = (row.opt_int(2)?, row.opt_text(3)?);
            Ok((at, TimelineEntry::Attempt { at, delivery_id, status_code, error, duration_ms }))
        },
    )?;
    Ok([events, deliveries, attempts].into_iter().flatten().collect())
}
