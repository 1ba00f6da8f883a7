//! Reading and listing deliveries.

use super::super::db::{Result, Row, Where};
use super::super::reads::ReadStore;
use super::super::sealing::{Column, Keyring};
use crate::domain::{
    AppNo, Attempt, ChannelKind, Delivery, DeliveryId, DeliveryStatus, DestinationId, EventId, EventType, Id,
    Reason, Timestamp, WatchId,
};

/// Filter of a list of deliveries. A field that is `None` does not restrict the list.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeliveryFilter {
    /// Status of the delivery.
    pub status: Option<DeliveryStatus>,
    /// Watch of the event.
    pub watch: Option<WatchId>,
    /// Destination.
    pub destination: Option<DestinationId>,
    /// Earliest time of the event.
    pub since: Option<Timestamp>,
    /// First time of the event that is excluded.
    pub until: Option<Timestamp>,
    /// Last delivery of the previous page.
    pub before: Option<DeliveryId>,
}

impl DeliveryFilter {
    /// Returns a lower bound of the ids since `since`. There is no such bound for `until`: if the clock was set
    /// back, or if an event waited for the database, its id is later than its time by an unknown amount.
    pub(super) fn least_id(&self) -> Option<Id> {
        self.since.map(Id::least)
    }
}

const SHOWN: &str =
    "select d.id, d.event, d.type, d.watch, d.destination, d.status, d.reason, d.next_attempt_at, d.created_at,
    wd.channel, wd.address
  from deliveries d join watch_destinations wd on wd.watch = d.watch and wd.n = d.n";

impl ReadStore {
    /// Returns up to `limit` deliveries of the app, newest first.
    pub async fn deliveries(&self, app: AppNo, filter: DeliveryFilter, limit: u32) -> Result<Vec<Delivery>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| {
            let query = listed(app, &filter, limit);
            tx.list(&query.sql, query.values, |row| read_shown(row, &keyring))
        })
        .await
    }

    /// Returns a delivery of the app and its attempts, oldest first.
    pub async fn delivery(&self, app: AppNo, id: DeliveryId) -> Result<Option<(Delivery, Vec<Attempt>)>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| {
            let sql = format!("{SHOWN} where d.app = $1 and d.id = $2");
            let row = [app.0.into(), id.0.into()];
            let Some(delivery) = tx.find(&sql, row, |row| read_shown(row, &keyring))? else {
                return Ok(None);
            };
            let attempts = tx.list(
                "select started_at, duration_ms, status_code, error, request_headers, response_headers, response_body
                 from attempts where delivery = $1 order by n",
                [id.0.into()],
                read_attempt,
            )?;
            Ok(Some((delivery, attempts)))
        })
        .await
    }
}

/// Builds the query of a list, newest first.
pub fn listed(app: AppNo, filter: &DeliveryFilter, limit: u32) -> Where<'static> {
    // Pending, failed and skipped deliveries have partial indexes. Each applies only to exactly these expressions,
    // with the status as a literal. A watch or a destination has fewer deliveries, and an index of its own.
    let narrow = filter.watch.is_some() || filter.destination.is_some();
    let (by_app, column) = match filter.status {
        Some(DeliveryStatus::Pending | DeliveryStatus::Failed | DeliveryStatus::Skipped) if !narrow => {
            ("d.app + 0 =", "d.status || ''")
        }
        _ => ("d.app =", "d.status"),
    };
    let status = filter.status.map(|status| format!("{column} = '{status}' and ")).unwrap_or_default();
    let mut query = Where::new(&format!("{SHOWN} where {status}{by_app}"), app.0);
    query.and("d.watch =", filter.watch.map(|id| id.0));
    query.and("d.destination =", filter.destination.map(|id| id.0));
    query.and("d.id <", filter.before.map(|id| id.0));
    query.and("d.id >=", filter.least_id());
    query.and("d.created_at >=", filter.since);
    query.and("d.created_at <", filter.until);
    query.push(" order by d.id desc limit", limit);
    query
}

fn read_shown(row: &Row<'_>, keyring: &Keyring) -> Result<Delivery> {
    let destination = row.id(4)?;
    let reason = row.opt_text(6)?;
    Ok(Delivery {
        id: DeliveryId(row.id(0)?),
        event: EventId(row.id(1)?),
        event_type: row.word(2, EventType::parse)?,
        watch: WatchId(row.id(3)?),
        destination: DestinationId(destination),
        status: row.word(5, DeliveryStatus::parse)?,
        reason: reason.as_deref().and_then(Reason::parse),
        next_attempt_at: row.opt_time(7)?,
        created_at: row.time(8)?,
        channel: row.word(9, ChannelKind::parse)?,
        address: keyring.open(Column::DestinationAddress, destination, row.text(10)?)?,
    })
}

fn read_attempt(row: &Row<'_>) -> Result<Attempt> {
    Ok(Attempt {
        at: row.time(0)?,
        duration_ms: row.count(1)?,
        status_code: row.opt_int(2)?.and_then(|code| u16::try_from(code).ok()),
        error: row.opt_text(3)?,
        request_headers: row.json(4)?,
        response_headers: row.json(5)?,
        response_body: row.text(6)?,
    })
}
