//! Operational events: a saved destination was disabled or has recovered, or a delivery has failed for good.
//!
//! **In the transaction of the change.** A command that changes a destination or a delivery adds a [`RaisedEvent`] to its
//! batch. [`create`] makes the events and their destinations before the deliveries of the commands of this kind are
//! created. So the change, the event and its deliveries are committed together or not at all.
//!
//! **Stored like the events of a watch.** Each event has a row of its own in `operational_events`. The id of this row
//! stands in the place of the watch in `events`, `watch_destinations` and `deliveries`, and no watch has it. Everything
//! that finds rows by a watch therefore works without a second way: pages, attempts, manual retries, sweeps. What also
//! reads the watch itself uses an outer join.
//!
//! **Receivers** are the saved destinations of the app that name the type, without the one that the event is about. They
//! are chosen when the event is created. A disabled destination gets a delivery that is skipped.
//!
//! **No event follows from an operational event.** An attempt to deliver one, or the event of a group, counts for the
//! health of its destination, and can disable it. It raises no event: otherwise a destination that fails would get an
//! event about each event that it did not get.

use std::collections::{BTreeMap, BTreeSet};

use super::batch::{Batch, NewEvent, RaisedEvent};
use super::db::{Result, params, row_sql};
use crate::domain::{AppNo, ChannelKind, DestinationId, EventId, EventSet, SavedNo, WatchId};

/// The saved destinations of app `$1` that name the type of an operational event. They are as many as the destinations of
/// a watch at most: one transaction can create hundreds of these events.
const RECEIVERS: &str = "select no, id, channel, events from destinations
    where app = $1 and deleted_at is null and events & 1792 <> 0 order by id limit 20";

/// A saved destination that receives operational events.
struct Receiver {
    no: SavedNo,
    id: DestinationId,
    channel: ChannelKind,
    events: EventSet,
}

/// Creates the events that were raised since the last call, and their destinations.
pub(super) fn create(batch: &mut Batch<'_>) -> Result<()> {
    if batch.raised.is_empty() {
        return Ok(());
    }
    let raised = std::mem::take(&mut batch.raised);
    let apps: BTreeSet<AppNo> = raised.iter().map(|event| event.app).collect();
    let found = batch.tx.fetch(RECEIVERS, apps.iter().map(|app| params![app]), |row| {
        Ok(Receiver {
            no: SavedNo(row.int(0)?),
            id: DestinationId(row.id(1)?),
            channel: row.word(2, ChannelKind::parse)?,
            events: EventSet(row.int(3)?),
        })
    })?;
    let receivers: BTreeMap<AppNo, Vec<Receiver>> = apps.into_iter().zip(found).collect();
    let drawn: Vec<WatchId> =
        raised.iter().map(|event| WatchId(batch.shared.ids.draw(event.observed_at))).collect();
    let events = || raised.iter().zip(&drawn);
    batch.tx.insert_each(
        row_sql!("insert into operational_events (id, app, watch, created_at)" values ("$1, $2, $3, $4")),
        events().map(|(event, id)| params![id, event.app, event.watch, event.observed_at]),
    )?;
    let of_event = |event: &RaisedEvent| {
        let (about, event_type) = (event.about, event.event_type);
        let of_app = receivers.get(&event.app).into_iter().flatten();
        of_app.filter(move |receiver| receiver.id != about && receiver.events.has(event_type))
    };
    let destinations: Vec<(WatchId, i64, &Receiver, String)> = events()
        .flat_map(|(event, id)| {
            (0..).zip(of_event(event)).map(move |(n, to)| (*id, n, to, to.id.queue(event.app)))
        })
        .collect();
    batch.tx.insert_each(
        row_sql!(
            "insert into watch_destinations (watch, n, id, channel, address, queue, saved)"
            values ("$1, $2, $3, $4, '', $5, $6")
        ),
        destinations.iter().map(|(id, n, to, queue)| params![id, n, to.id, to.channel, queue, to.no]),
    )?;
    let new: Vec<NewEvent> = events()
        .map(|(event, id)| NewEvent {
            id: EventId::derive(*id, event.event_type, 0),
            app: event.app,
            watch: *id,
            event_type: event.event_type,
            observed_at: event.observed_at,
            body: event.body.as_slice().into(),
            webhook_body: None,
            finished: None,
            delivery: of_event(event).next().map(|_| (None, 0)),
        })
        .collect();
    batch.events.extend(new);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::EventType;

    #[test]
    fn the_statement_contains_the_bits_of_operational_events() {
        let operational = EventType::ALL.iter().copied().filter(|event| event.is_operational());
        let set: EventSet = operational.collect();
        assert!(RECEIVERS.contains(&format!("events & {} <> 0", set.0)), "{}", set.0);
    }
}
