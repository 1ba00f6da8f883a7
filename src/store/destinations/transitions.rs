//! Events about saved destinations: one was disabled, or has recovered.
//!
//! A destination has **recovered**
//!
//! - when it is enabled after it was disabled, by a client or by the configuration file;
//! - when an attempt succeeds after a delivery has failed for good (`delivery.exhausted`), with its last attempt or
//!   because it was pending for too long, if it was not disabled meanwhile. `failed_since` remembers that. A failed
//!   attempt whose retry succeeds is neither: each receiver that is restarted would otherwise raise events.
//!
//! So each `destination.recovered` follows a `destination.disabled` or a `delivery.exhausted`. A deletion raises nothing.

use super::super::batch::{Batch, RaisedEvent};
use super::super::db::{Result, params, row_sql};
use crate::domain::{AppNo, DestinationId, DisabledReason, EventType, SavedDestination, SavedNo, Timestamp};
use crate::events::{DestinationBody, DestinationData};

/// A change of a saved destination that attempts have caused.
#[derive(Clone, Debug)]
pub struct Transition {
    pub no: SavedNo,
    pub event_type: EventType,
    pub reason: DisabledReason,
    pub at: Timestamp,
    /// Beginning, if no earlier attempt has failed.
    pub since: Option<Timestamp>,
    /// Error of the last attempt; `None` for the stored one.
    pub last_error: Option<String>,
}

/// Raises an event for each change.
pub fn raise_transitions(batch: &mut Batch<'_>, transitions: &[Transition]) -> Result<()> {
    if transitions.is_empty() {
        return Ok(());
    }
    let found = batch.tx.ones(
        "select app, id, name, coalesce(failed_since, failing_since), coalesce(last_error, failed_error)
         from destinations where no = $1",
        transitions.iter().map(|transition| params![transition.no]),
        |row| {
            let (app, id) = (AppNo(row.int(0)?), DestinationId(row.id(1)?));
            Ok((app, id, row.opt_text(2)?, row.opt_time(3)?, row.opt_text(4)?))
        },
    )?;
    for (transition, (app, id, name, since, last_error)) in transitions.iter().zip(found) {
        let Transition { event_type, reason, at, .. } = *transition;
        let data = DestinationData {
            destination_id: id,
            name: name.as_deref(),
            reason,
            since: since.or(transition.since),
            last_error: transition.last_error.as_deref().or(last_error.as_deref()),
        };
        raise(batch, app, (event_type, at), data);
    }
    Ok(())
}

/// Raises the event of a destination that a client or the configuration file has disabled or enabled.
pub fn raise_change(
    batch: &mut Batch<'_>,
    destination: &SavedDestination,
    (event_type, at): (EventType, Timestamp),
    (reason, since): (DisabledReason, Option<Timestamp>),
) {
    let data = DestinationData {
        destination_id: destination.id,
        name: destination.name.as_deref(),
        reason,
        since,
        last_error: destination.health.last_error.as_deref(),
    };
    raise(batch, destination.app, (event_type, at), data);
}

fn raise(
    batch: &mut Batch<'_>,
    app: AppNo,
    (event_type, observed_at): (EventType, Timestamp),
    data: DestinationData<'_>,
) {
    let about = data.destination_id;
    let body = DestinationBody::new(event_type, observed_at, data).to_json();
    batch.raised.push(RaisedEvent { app, event_type, observed_at, about, watch: None, body });
}

/// Remembers that deliveries to these destinations have failed for good, each with the time and the error. `None`: no
/// attempt shows the error, so it is the last one of the destination.
pub fn note_exhausted(batch: &Batch<'_>, exhausted: &[(SavedNo, Timestamp, Option<String>)]) -> Result<()> {
    if exhausted.is_empty() {
        return Ok(());
    }
    batch.tx.update_each(
        row_sql!(
            "update destinations set failed_since = coalesce(failed_since, failing_since, $1),
               failed_error = coalesce($2, last_error, failed_error)"
            where "no = $3"
        ),
        exhausted.iter().map(|(no, at, error)| params![*at, error, *no]),
    )?;
    Ok(())
}

/// Raises the recovery of those of these destinations whose deliveries have failed for good. Each has the time of its
/// success.
pub fn recover(batch: &mut Batch<'_>, succeeded: &[(SavedNo, Timestamp)]) -> Result<()> {
    if succeeded.is_empty() {
        return Ok(());
    }
    let found = batch.tx.fetch(
        "select failed_error from destinations
         where no = $1 and failed_since is not null and disabled_reason is null",
        succeeded.iter().map(|(no, _)| params![no]),
        |row| row.opt_text(0),
    )?;
    let recovered = succeeded.iter().zip(found).filter_map(|((no, at), found)| {
        let (event_type, reason) = (EventType::DestinationRecovered, DisabledReason::Failing);
        let last_error = found.into_iter().next()?;
        Some(Transition { no: *no, event_type, reason, at: *at, since: None, last_error })
    });
    let recovered: Vec<Transition> = recovered.collect();
    raise_transitions(batch, &recovered)?;
    batch.tx.update_each(
        row_sql!("update destinations set failed_since = null, failed_error = null" where "no = $1"),
        recovered.iter().map(|transition| params![transition.no]),
    )?;
    Ok(())
}
