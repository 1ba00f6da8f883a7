//! Pending deliveries, as the dispatcher needs them.

use std::sync::Arc;

use super::super::db::{Result, Row};
use super::super::rows::read_destination;
use super::super::sealing::Keyring;
use crate::domain::{AppNo, DeliveryId, EventId, EventType, Payload, PendingDelivery, WatchId};
use crate::events;

/// Columns of a pending delivery. The body is the event's. Webhooks get the form that their watch wants instead, or
/// the provider's answer that the ending stores.
pub(super) const PENDING: &str =
    "select d.app, d.id, d.event, d.type, d.watch, d.step, d.attempts, d.is_manual,
    w.traceparent, coalesce(n.raw, case when wd.channel = 'webhook' then e.webhook_body end, e.body),
    case when n.raw is not null then 'raw'
      when wd.channel = 'webhook' and e.webhook_body is not null then w.payload else 'event' end,
    wd.id, wd.channel, wd.address, wd.queue, wd.headers, wd.secret,
    case when n.raw is not null and d.attempts = 0 then e.body end
  from deliveries d
  join watches w on w.app = d.app and w.id = d.watch
  join events e on e.id = d.event
  join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
  left join endings n on n.job = w.job and n.generation = d.raw_generation";

/// Reads a row of [`PENDING`].
pub(super) fn read_pending(row: &Row<'_>, keyring: &Keyring) -> Result<PendingDelivery> {
    let event_type = row.word(3, EventType::parse)?;
    let attempts = row.count(6)?;
    let body: Arc<[u8]> = row.bytes(9)?.into();
    let payload = row.word(10, Payload::parse)?;
    // The latency of first attempts is measured, including those that are loaded from the database, which are the
    // slowest. The provider's answer does not contain the time, so it is read from the event.
    let finished = match payload {
        _ if attempts > 0 || !event_type.reports_the_jobs_end() => None,
        Payload::Raw => row.opt_bytes(17)?.as_deref().and_then(events::finished),
        Payload::Event | Payload::CloudEvents => events::finished(&body),
    };
    Ok(PendingDelivery {
        finished,
        app: AppNo(row.int(0)?),
        id: DeliveryId(row.id(1)?),
        event: EventId(row.id(2)?),
        event_type,
        watch: WatchId(row.id(4)?),
        step: row.count(5)?,
        attempts,
        manual: row.flag(7)?,
        traceparent: row.opt_text(8)?,
        body,
        payload,
        destination: read_destination(row, 11, keyring)?,
    })
}
