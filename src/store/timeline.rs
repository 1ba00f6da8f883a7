//! The timeline of a watch: what happened to it, in order.

use super::db::{Result, Tx};
use super::reads::ReadStore;
use crate::domain::{
    AppNo, DeliveryId, DeliveryStatus, DestinationId, EventId, EventType, JobNo, JobStatus, Observation,
    Reason, Timestamp, WatchId, WatchStatus,
};

/// Position in a timeline: a time, and a number of entries of that millisecond.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimelinePosition {
    /// Time of the entry.
    pub at: Timestamp,
    /// Number of entries with this time up to and including it.
    pub count: u32,
}

/// An entry of a timeline.
#[derive(Clone, Debug)]
pub enum TimelineEntry {
    /// The watch was registered.
    Registered,
    /// The job changed.
    Observed {
        /// Status, normalised.
        status: JobStatus,
        /// Status in the provider's terms.
        raw_status: Option<String>,
        /// Progress, 0 to 100.
        progress: Option<i64>,
    },
    /// An event was created.
    Event {
        /// Its id.
        event_id: EventId,
        /// Type of the event.
        event_type: EventType,
    },
    /// A delivery was created.
    Delivery {
        /// Its id.
        delivery_id: DeliveryId,
        /// The event.
        event_id: EventId,
        /// The destination.
        destination_id: DestinationId,
        /// Current status.
        status: DeliveryStatus,
        /// Reason of `failed` or `skipped`.
        reason: Option<Reason>,
    },
    /// An attempt was made.
    Attempt {
        /// The delivery.
        delivery_id: DeliveryId,
        /// HTTP status of the response.
        status_code: Option<i64>,
        /// A word and a sentence, if the attempt failed.
        error: Option<String>,
        /// Duration in milliseconds.
        duration_ms: i64,
    },
    /// The client stopped the watch.
    Stopped,
}

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
        self.read(move |tx| {
            let watch = tx.find(
                "select job, generation, status, created_at, ended_at from watches where app = $1 and id = $2",
                [app.0.into(), id.0.into()],
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
            let mut entries = vec![(watch.created_at, TimelineEntry::Registered)];
            entries.extend(observed(tx, &watch, after.at, limit_of_kind)?);
            entries.extend(notified(tx, id, after.at, limit_of_kind)?);
            if let (WatchStatus::Stopped, Some(at)) = (watch.status, watch.ended_at) {
                entries.push((at, TimelineEntry::Stopped));
            }
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

/// Returns up to `limit` changes of the job during the watch, and the ending of the job.
fn observed(
    tx: &Tx<'_>,
    watch: &TimelineWatch,
    from: Timestamp,
    limit: u32,
) -> Result<Vec<(Timestamp, TimelineEntry)>> {
    let mut seen = tx.list(
        "select observed_at, status, raw_status, progress from observations
         where job = $1 and observed_at >= $2 and observed_at <= $3 order by observed_at limit $4",
        [
            watch.job.0.into(),
            watch.created_at.max(from).into(),
            watch.ended_at.unwrap_or(Timestamp::MAX).into(),
            limit.into(),
        ],
        |row| {
            let status = row.word(1, JobStatus::parse)?;
            Ok((
                row.time(0)?,
                TimelineEntry::Observed { status, raw_status: row.opt_text(2)?, progress: row.opt_int(3)? },
            ))
        },
    )?;
    let of_the_job =
        matches!(watch.status, WatchStatus::Completed | WatchStatus::Failed | WatchStatus::Cancelled);
    if of_the_job {
        let ending = tx.find(
            "select ended_at, seen from endings where job = $1 and generation >= $2 order by generation limit 1",
            [watch.job.0.into(), watch.generation.into()],
            |row| Ok((row.time(0)?, row.json::<Observation>(1)?)),
        )?;
        seen.extend(ending.map(|(at, end)| {
            let progress = end.progress.map(i64::from);
            (at, TimelineEntry::Observed { status: end.status, raw_status: end.raw_status, progress })
        }));
    }
    Ok(seen)
}

/// Returns up to `limit` events, deliveries and attempts of a watch, each kind in order.
fn notified(
    tx: &Tx<'_>,
    id: WatchId,
    from: Timestamp,
    limit: u32,
) -> Result<Vec<(Timestamp, TimelineEntry)>> {
    let mut entries = tx.list(
        "select observed_at, id, type from events where watch = $1 and observed_at >= $2
         order by observed_at, position limit $3",
        [id.0.into(), from.into(), limit.into()],
        |row| {
            let event_type = row.word(2, EventType::parse)?;
            Ok((row.time(0)?, TimelineEntry::Event { event_id: EventId(row.id(1)?), event_type }))
        },
    )?;
    let deliveries = tx.list(
        "select created_at, id, event, destination, status, reason from deliveries
         where watch = $1 and created_at >= $2 order by created_at, id limit $3",
        [id.0.into(), from.into(), limit.into()],
        |row| {
            let delivery = TimelineEntry::Delivery {
                delivery_id: DeliveryId(row.id(1)?),
                event_id: EventId(row.id(2)?),
                destination_id: DestinationId(row.id(3)?),
                status: row.word(4, DeliveryStatus::parse)?,
                reason: row.opt_text(5)?.as_deref().and_then(Reason::parse),
            };
            Ok((row.time(0)?, delivery))
        },
    )?;
    entries.extend(deliveries);
    entries.extend(tx.list(
        "select a.started_at, a.delivery, a.status_code, a.error, a.duration_ms
         from attempts a join deliveries d on d.id = a.delivery
         where d.watch = $1 and a.started_at >= $2 order by a.started_at, a.delivery, a.n limit $3",
        [id.0.into(), from.into(), limit.into()],
        |row| {
            let attempt = TimelineEntry::Attempt {
                delivery_id: DeliveryId(row.id(1)?),
                status_code: row.opt_int(2)?,
                error: row.opt_text(3)?,
                duration_ms: row.int(4)?,
            };
            Ok((row.time(0)?, attempt))
        },
    )?);
    Ok(entries)
}
