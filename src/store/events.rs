//! Events, and the feed of an app.
//!
//! A reader of the feed requests the events after a position. This loses no event only if positions become visible in
//! their order. The last statements of a transaction assign them, in the order of the apps' rows.

pub(super) mod filter;

use std::collections::BTreeMap;

use super::batch::{Batch, NewEvent};
use super::db::{Result, Tx, params, row_sql};
use super::lists::{End, ListPage, Remaining};
use super::reads::ReadStore;
use crate::domain::{AppNo, Event, EventId, EventType, Id, Timestamp};

pub use self::filter::EventFilter;

/// Position in a feed after which a page begins.
#[derive(Clone, Copy, Debug)]
pub enum After {
    /// The beginning of the list.
    Start,
    /// A position.
    Position(i64),
    /// An event.
    Event(EventId),
}

/// The next events of a feed.
#[derive(Debug)]
pub struct Followed {
    /// The events, oldest first.
    pub events: Vec<Event>,
    /// Position for the next call.
    pub next: i64,
    /// Whether the feed ends here. Otherwise more can be read at once, even if there is no event here.
    pub is_end: bool,
}

/// Appends the batch's events to their apps' feeds.
pub(super) fn append(batch: &mut Batch<'_>) -> Result<()> {
    let mut by_app: BTreeMap<AppNo, Vec<&NewEvent>> = BTreeMap::new();
    for event in batch.events.iter().filter(|event| !batch.erased.contains(&event.watch)) {
        by_app.entry(event.app).or_default().push(event);
    }
    let count = |events: &Vec<&NewEvent>| i64::try_from(events.len()).unwrap_or(i64::MAX);
    let last = batch.tx.ones(
        "update apps set position = position + $1 where no = $2 returning position",
        by_app.iter().map(|(app, events)| params![count(events), app]),
        |row| row.int(0),
    )?;
    let placed =
        by_app.values().zip(last).flat_map(|(events, last)| events.iter().zip(last - count(events) + 1..));
    batch.tx.insert_each(
        row_sql!(
            "insert into events (id, app, position, watch, type, ending, observed_at, body, webhook_body)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8, $9")
        ),
        placed.map(|(event, position)| {
            let NewEvent { id, app, watch, event_type, observed_at, body, webhook_body, .. } = *event;
            let webhook_body = match webhook_body {
                // The ending stores a body with a generation.
                Some((None, _, body)) => Some(&**body),
                _ => None,
            };
            let ending = event_type.is_ending();
            params![id, app, position, watch, event_type, ending, observed_at, &**body, webhook_body]
        }),
    )?;
    batch.effects.changed_feeds = by_app.into_keys().collect();
    Ok(())
}

impl ReadStore {
    /// Returns the position of an event, or of the end of the app's feed. `None`: the app has no such event.
    pub async fn follow_from(&self, app: AppNo, after: Option<EventId>) -> Result<Option<i64>> {
        self.read(app, move |tx| match after {
            Some(id) => position_of(tx, app, id),
            None => end_of_feed(tx, app).map(Some),
        })
        .await
    }

    /// Returns the app's next events, at most `limit` and about `bytes`, and the position for the next call. At the
    /// end of the feed this is its end, so that events of other types are not read again.
    pub async fn follow(
        &self,
        app: AppNo,
        position: i64,
        event_type: Option<EventType>,
        (limit, bytes): (u32, usize),
    ) -> Result<Followed> {
        let remaining = Remaining { rows: limit as usize, bytes };
        let unreadable = self.shared.unreadable.clone();
        self.read(app, move |tx| {
            let filter = EventFilter { event_type, ..EventFilter::default() };
            let part = filter::part((tx, &unreadable), app, &filter, Some(position), remaining)?;
            let (next, is_end) = match part.end {
                End::List => (end_of_feed(tx, app)?, true),
                End::Full(next) | End::Scanned(next) => (next, false),
            };
            Ok(Followed { events: part.rows, next, is_end })
        })
        .await
    }

    /// Returns a page of the app's events after `after`, in the order of the filter. `None`: the app has no such event.
    pub async fn events(
        &self,
        app: AppNo,
        after: After,
        filter: EventFilter,
        limit: u32,
    ) -> Result<Option<ListPage<Event, i64>>> {
        let position = match after {
            After::Start => None,
            After::Position(position) => Some(position),
            After::Event(id) => match self.read(app, move |tx| position_of(tx, app, id)).await? {
                None => return Ok(None),
                position => position,
            },
        };
        let unreadable = self.shared.unreadable.clone();
        let page = self.list(app, position, limit, move |tx, position, remaining| {
            filter::part((tx, &unreadable), app, &filter, position, remaining)
        });
        page.await.map(Some)
    }

    /// Returns an event of the app.
    pub async fn event(&self, app: AppNo, id: EventId) -> Result<Option<Event>> {
        self.read(app, move |tx| {
            let sql = format!("select {} from events e where e.id = $1 and e.app = $2", filter::COLUMNS);
            tx.find(&sql, params![id, app], filter::read_event)
        })
        .await
    }
}

/// Returns the position of an event of the app, also of an erased one.
fn position_of(tx: &Tx<'_>, app: AppNo, id: EventId) -> Result<Option<i64>> {
    let sql = "select position from events where id = $1 and app = $2
         union all select position from erased_events where id = $1 and app = $2";
    tx.find(sql, params![id, app], |row| row.int(0))
}

/// Deletes events. `kept_at`: their ids and positions are kept, and this is the time of their erasure.
pub(super) fn erase(tx: &Tx<'_>, ids: &[Id], kept_at: Option<Timestamp>) -> Result<()> {
    if let Some(at) = kept_at {
        tx.each(
            "insert into erased_events (id, app, position, erased_at)
             select id, app, position, cast($1 as bigint) from events where id = $2
             on conflict (id) do nothing",
            ids.iter().map(|id| params![at, *id]),
        )?;
    }
    tx.each("delete from events where id = $1", ids.iter().map(|id| params![*id]))?;
    Ok(())
}

/// Deletes the positions of events that were erased before this time, at most `rows`. Returns their number.
pub(super) fn prune_erased(tx: &Tx<'_>, before: Timestamp, rows: u32) -> Result<usize> {
    let old = tx.list(
        "select id from erased_events where erased_at < $1 order by erased_at limit $2",
        params![before, rows],
        |row| row.id(0),
    )?;
    tx.each("delete from erased_events where id = $1", old.iter().map(|id| params![*id]))?;
    Ok(old.len())
}

/// Returns the position of the last event that the app ever had.
fn end_of_feed(tx: &Tx<'_>, app: AppNo) -> Result<i64> {
    tx.one("select position from apps where no = $1", params![app], |row| row.int(0))
}
