//! Creation of deliveries.

use std::sync::Arc;

use super::super::batch::{Batch, NewDelivery, NewEvent};
use super::super::db::Result;
use super::super::rows::read_destination;
use crate::domain::{DeliveryId, DispatcherMessage, Payload, PendingDelivery};

/// Adds an event to the batch. [`create_deliveries`] creates a delivery for each destination of its watch.
pub fn create(
    batch: &mut Batch<'_>,
    event: NewEvent,
    traceparent: Option<&str>,
    raw: Option<(i64, &Arc<[u8]>)>,
    shard: u16,
) {
    batch.new_deliveries.push(NewDelivery {
        event: batch.events.len(),
        raw: raw.map(|(generation, raw)| (generation, Arc::clone(raw))),
        traceparent: traceparent.map(str::to_owned),
        shard,
    });
    batch.events.push(event);
}

/// Creates the deliveries of the events that [`create`] added since the last call. Destinations that are gone get
/// none.
pub fn create_deliveries(batch: &mut Batch<'_>) -> Result<()> {
    let new = std::mem::take(&mut batch.new_deliveries);
    if new.is_empty() {
        return Ok(());
    }
    let new: Vec<(&NewDelivery, &NewEvent)> =
        new.iter().filter_map(|new| Some((new, batch.events.get(new.event)?))).collect();
    let keyring = &batch.shared.keyring;
    let destinations = batch.tx.fetch(
        "select id, channel, address, queue, headers, secret, n from watch_destinations
         where watch = $1 and gone_at is null order by n",
        new.iter().map(|(_, event)| [event.watch.0.into()]),
        |row| Ok((read_destination(row, 0, keyring)?, row.int(6)?)),
    )?;
    let mut created = Vec::with_capacity(new.len());
    for ((new, event), destinations) in new.into_iter().zip(destinations) {
        for (destination, n) in destinations {
            // Channels without payload forms render their messages from the event.
            let form = match (&new.raw, &event.webhook_body) {
                _ if !destination.channel.traits().payload_forms => (None, Payload::Event, &event.body),
                (Some((generation, raw)), _) => (Some(*generation), Payload::Raw, raw),
                (None, Some((payload, body))) => (None, *payload, body),
                (None, None) => (None, Payload::Event, &event.body),
            };
            let id = DeliveryId(batch.shared.ids.draw(event.observed_at));
            created.push((new, event, id, destination, n, form));
        }
    }
    batch.tx.insert_each(
        "insert into deliveries (app, id, shard, event, type, watch, n, destination, queue, status, step,
           scheduled_at, is_retry, raw_generation, next_attempt_at, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'pending', 0, $10, 0, $11, $10, $10)",
        created.iter().map(|(new, event, id, destination, n, (raw_generation, _, _))| {
            [
                event.app.0.into(),
                id.0.into(),
                i64::from(new.shard).into(),
                event.id.0.into(),
                event.event_type.as_str().into(),
                event.watch.0.into(),
                (*n).into(),
                destination.id.0.into(),
                (&destination.queue).into(),
                event.observed_at.into(),
                (*raw_generation).into(),
            ]
        }),
    )?;
    let messages = created.into_iter().map(|(new, event, id, destination, _, (_, payload, body))| {
        DispatcherMessage::Dispatch(Box::new(PendingDelivery {
            app: event.app,
            id,
            event: event.id,
            event_type: event.event_type,
            watch: event.watch,
            destination,
            traceparent: new.traceparent.clone(),
            body: Arc::clone(body),
            payload,
            step: 0,
            attempts: 0,
            manual: false,
            finished: event.finished.clone(),
        }))
    });
    batch.effects.dispatcher_messages.extend(messages);
    Ok(())
}
