//! Events about deliveries that have failed: no attempt of the schedule follows.

use super::super::batch::{Batch, RaisedEvent};
use super::super::db::{Result, params};
use super::super::destinations::error_of;
use crate::domain::{AppNo, Attempt, DeliveryId, DestinationId, EventType, Timestamp, WatchId};
use crate::events::{DeliveryBody, DeliveryData};

/// A delivery that is about to fail.
#[derive(Clone, Copy, Debug)]
pub struct Failing<'a> {
    pub app: AppNo,
    pub id: DeliveryId,
    /// Number of earlier attempts.
    pub attempts: u32,
    /// The last attempt; `None` if the delivery ends without one, because it was pending for too long.
    pub attempt: Option<&'a Attempt>,
    pub at: Timestamp,
}

/// What an event says of a delivery.
struct Found {
    event_type: EventType,
    watch: WatchId,
    destination: DestinationId,
    job_id: String,
    /// The last recorded attempt.
    earlier: Attempt,
}

/// Pending deliveries of watches. Those of operational events and of groups have no watch, so they raise no event.
const PENDING_OF_WATCH: &str = "select d.type, d.watch, d.destination, j.job_id,
    (select a.error from attempts a where a.delivery = d.id order by a.n desc limit 1),
    (select a.status_code from attempts a where a.delivery = d.id order by a.n desc limit 1)
  from deliveries d join watches w on w.app = d.app and w.id = d.watch join jobs j on j.no = w.job
  where d.app = $1 and d.id = $2 and d.attempts = $3 and d.status = 'pending'";

/// Raises an event for each of these deliveries that is pending. It is called before they are updated, so a delivery that
/// has ended already, and a record that is written twice, raise none.
pub fn raise_exhausted(batch: &mut Batch<'_>, failing: &[Failing<'_>]) -> Result<()> {
    if failing.is_empty() {
        return Ok(());
    }
    let rows = failing.iter().map(|one| params![one.app, one.id, one.attempts]);
    let found = batch.tx.fetch(PENDING_OF_WATCH, rows, |row| {
        let status_code = row.opt_int(5)?.and_then(|code| u16::try_from(code).ok());
        Ok(Found {
            event_type: row.word(0, EventType::parse)?,
            watch: WatchId(row.id(1)?),
            destination: DestinationId(row.id(2)?),
            job_id: row.text(3)?,
            earlier: Attempt { error: row.opt_text(4)?, status_code, ..Attempt::default() },
        })
    })?;
    for (Failing { app, id, attempts, attempt, at }, found) in failing.iter().zip(&found) {
        let Some(found) = found.first() else { continue };
        let last_error = error_of(attempt.unwrap_or(&found.earlier));
        let body = DeliveryBody::exhausted(
            *at,
            DeliveryData {
                delivery_id: *id,
                destination_id: found.destination,
                watch_id: found.watch,
                job_id: &found.job_id,
                event_type: found.event_type,
                attempt_count: attempts + u32::from(attempt.is_some()),
                last_error: Some(last_error.as_str()).filter(|error| !error.is_empty()),
            },
        );
        batch.raised.push(RaisedEvent {
            app: *app,
            event_type: EventType::DeliveryExhausted,
            observed_at: *at,
            about: found.destination,
            watch: Some(found.watch),
            body: body.to_json(),
        });
    }
    Ok(())
}
