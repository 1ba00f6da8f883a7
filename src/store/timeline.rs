//! The story of a watch: what happened, in order.

use super::db::{Result, Tx};
use super::reads::ReadStore;
use crate::domain::{
    AppNo, DeliveryId, DeliveryStatus, DestinationId, EventId, EventType, JobNo, JobStatus, Observation,
    Reason, Timestamp, WatchId, WatchStatus,
};

/// Where a page of a story ended: the time, and how much that happened in that millisecond was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// When.
    pub at: Timestamp,
    /// How much of then.
    pub told: u32,
}

/// One thing that happened to a watch.
#[derive(Clone, Debug)]
pub enum TimelineEntry {
    /// It was registered.
    Registered,
    /// The job was seen to change.
    Observed {
        /// In our words.
        status: JobStatus,
        /// In the provider's.
        raw_status: Option<String>,
        /// 0 to 100.
        progress: Option<i64>,
    },
    /// An event was made.
    Event {
        /// Its id.
        id: EventId,
        /// Its kind.
        event_type: EventType,
    },
    /// A delivery was made of an event.
    Delivery {
        /// Its id.
        id: DeliveryId,
        /// The event.
        event: EventId,
        /// Where to.
        destination: DestinationId,
        /// Where it stands now.
        status: DeliveryStatus,
        /// Why it was given up.
        reason: Option<Reason>,
    },
    /// A delivery was tried.
    Attempt {
        /// The delivery.
        delivery: DeliveryId,
        /// HTTP's.
        status_code: Option<i64>,
        /// A word and a sentence.
        error: Option<String>,
        /// How long it took.
        duration_ms: i64,
    },
    /// The user called it off.
    Stopped,
}

struct Frame {
    job: JobNo,
    generation: i64,
    status: WatchStatus,
    created_at: Timestamp,
    ended_at: Option<Timestamp>,
}

impl ReadStore {
    /// What happened to a watch, in order, after a place; each with the place after it. `None` if there is
    /// no such watch.
    pub async fn story(
        &self,
        app: AppNo,
        id: WatchId,
        after: Place,
        limit: u32,
    ) -> Result<Option<Vec<(Place, TimelineEntry)>>> {
        self.read(move |tx| {
            let frame = tx.find(
                "select job, generation, status, created_at, ended_at from watches where app = $1 and id = $2",
                [app.0.into(), id.0.into()],
                |row| {
                    Ok(Frame {
                        job: JobNo(row.int(0)?),
                        generation: row.int(1)?,
                        status: row.word(2, WatchStatus::parse)?,
                        created_at: row.time(3)?,
                        ended_at: row.opt_time(4)?,
                    })
                },
            )?;
            let Some(frame) = frame else { return Ok(None) };
            // Of each kind so much that none is missed, whichever comes first.
            let most = after.told.saturating_add(limit);
            let mut story = vec![(frame.created_at, TimelineEntry::Registered)];
            story.extend(observed(tx, &frame, after.at, most)?);
            story.extend(told(tx, id, after.at, most)?);
            if let (WatchStatus::Stopped, Some(at)) = (frame.status, frame.ended_at) {
                story.push((at, TimelineEntry::Stopped));
            }
            // Stable: what happened in the same millisecond stays in the order of cause and effect.
            story.sort_by_key(|(at, _)| *at);
            let mut place = Place { at: after.at, told: 0 };
            let placed = story.into_iter().filter(|(at, _)| *at >= after.at).map(|(at, timeline_entry)| {
                place = Place { at, told: if at == place.at { place.told + 1 } else { 1 } };
                (place, timeline_entry)
            });
            let new = placed.skip_while(|(place, _)| place.at == after.at && place.told <= after.told);
            Ok(Some(new.take(limit as usize).collect()))
        })
        .await
    }
}

fn observed(
    tx: &Tx<'_>,
    frame: &Frame,
    from: Timestamp,
    most: u32,
) -> Result<Vec<(Timestamp, TimelineEntry)>> {
    let mut seen = tx.list(
        "select observed_at, status, raw_status, progress from observations
         where job = $1 and observed_at >= $2 and observed_at <= $3 order by observed_at limit $4",
        [
            frame.job.0.into(),
            frame.created_at.max(from).into(),
            frame.ended_at.unwrap_or(Timestamp::MAX).into(),
            most.into(),
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
        matches!(frame.status, WatchStatus::Completed | WatchStatus::Failed | WatchStatus::Cancelled);
    if of_the_job {
        let ending = tx.find(
            "select ended_at, seen from endings where job = $1 and generation >= $2 order by generation limit 1",
            [frame.job.0.into(), frame.generation.into()],
            |row| Ok((row.time(0)?, row.json::<Observation>(1)?)),
        )?;
        seen.extend(ending.map(|(at, end)| {
            let progress = end.progress.map(i64::from);
            (at, TimelineEntry::Observed { status: end.status, raw_status: end.raw_status, progress })
        }));
    }
    Ok(seen)
}

fn told(tx: &Tx<'_>, id: WatchId, from: Timestamp, most: u32) -> Result<Vec<(Timestamp, TimelineEntry)>> {
    let mut story = tx.list(
        "select observed_at, id, type from events where watch = $1 and observed_at >= $2
         order by observed_at, position limit $3",
        [id.0.into(), from.into(), most.into()],
        |row| {
            let event_type = row.word(2, EventType::parse)?;
            Ok((row.time(0)?, TimelineEntry::Event { id: EventId(row.id(1)?), event_type }))
        },
    )?;
    let deliveries = tx.list(
        "select created_at, id, event, destination, status, reason from deliveries
         where watch = $1 and created_at >= $2 order by created_at, id limit $3",
        [id.0.into(), from.into(), most.into()],
        |row| {
            let delivery = TimelineEntry::Delivery {
                id: DeliveryId(row.id(1)?),
                event: EventId(row.id(2)?),
                destination: DestinationId(row.id(3)?),
                status: row.word(4, DeliveryStatus::parse)?,
                reason: row.opt_text(5)?.as_deref().and_then(Reason::parse),
            };
            Ok((row.time(0)?, delivery))
        },
    )?;
    story.extend(deliveries);
    story.extend(tx.list(
        "select a.started_at, a.delivery, a.status_code, a.error, a.duration_ms
         from attempts a join deliveries d on d.id = a.delivery
         where d.watch = $1 and a.started_at >= $2 order by a.started_at, a.delivery, a.n limit $3",
        [id.0.into(), from.into(), most.into()],
        |row| {
            let attempt = TimelineEntry::Attempt {
                delivery: DeliveryId(row.id(1)?),
                status_code: row.opt_int(2)?,
                error: row.opt_text(3)?,
                duration_ms: row.int(4)?,
            };
            Ok((row.time(0)?, attempt))
        },
    )?);
    Ok(story)
}
