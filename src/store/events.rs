//! Events, and the feed of an app.
//!
//! A reader of the feed requests the events after a position. This loses no event only if positions become visible in
//! their order. The last statements of a transaction assign them, in the order of the apps' rows.

use std::collections::BTreeMap;

use super::batch::{Batch, NewEvent};
use super::db::{Result, Row, Tx, Where, params, row_sql};
use super::lists::{End, Fitting, ListPage, Part, Remaining, SCAN_MAX};
use super::reads::ReadStore;
use crate::domain::{AppNo, Event, EventId, EventType, WatchId};

const COLUMNS: &str = "id, position, type, watch, observed_at, body";

/// Position in a feed after which a page begins.
#[derive(Clone, Copy, Debug)]
pub enum After {
    /// The beginning of the feed.
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
    for event in &batch.events {
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
        self.read(app, move |tx| {
            let part = after_position(tx, app, position, event_type, remaining)?;
            let (next, is_end) = match part.end {
                End::List => (end_of_feed(tx, app)?, true),
                End::Full(next) | End::Scanned(next) => (next, false),
            };
            Ok(Followed { events: part.rows, next, is_end })
        })
        .await
    }

    /// Returns a page of the app's events after `after`, oldest first; `event_type`: only of this type. `None`: the
    /// app has no such event.
    pub async fn events(
        &self,
        app: AppNo,
        after: After,
        event_type: Option<EventType>,
        limit: u32,
    ) -> Result<Option<ListPage<Event, i64>>> {
        let position = match after {
            After::Start => Some(0),
            After::Position(position) => Some(position),
            After::Event(id) => self.read(app, move |tx| position_of(tx, app, id)).await?,
        };
        let Some(position) = position else { return Ok(None) };
        let page = self.list(app, Some(position), limit, move |tx, position, remaining| {
            after_position(tx, app, position.unwrap_or_default(), event_type, remaining)
        });
        page.await.map(Some)
    }

    /// Returns an event of the app.
    pub async fn event(&self, app: AppNo, id: EventId) -> Result<Option<Event>> {
        self.read(app, move |tx| {
            let sql = format!("select {COLUMNS} from events where id = $1 and app = $2");
            tx.find(&sql, params![id, app], read_event)
        })
        .await
    }
}

fn after_position(
    tx: &Tx<'_>,
    app: AppNo,
    position: i64,
    event_type: Option<EventType>,
    remaining: Remaining,
) -> Result<Part<Event, i64>> {
    let scanned = match event_type {
        Some(_) => tx.find(
            "select position from events where app = $1 and position > $2 order by position limit 1 offset $3",
            params![app, position, SCAN_MAX - 1],
            |row| row.int(0),
        )?,
        None => None,
    };
    let mut query = Where::new(&format!("select {COLUMNS} from events where app ="), app);
    query.and("position >", Some(position));
    query.and("position <=", scanned);
    query.and("type =", event_type);
    query.push(" order by position limit", remaining.limit());
    let found = Fitting::take(tx, &query, remaining, read_event, |event| 256 + event.body.len())?;
    Ok(found.part(|event| event.position, scanned))
}

fn position_of(tx: &Tx<'_>, app: AppNo, id: EventId) -> Result<Option<i64>> {
    let row = params![id, app];
    tx.find("select position from events where id = $1 and app = $2", row, |row| row.int(0))
}

/// Returns the position of the last event that the app ever had.
fn end_of_feed(tx: &Tx<'_>, app: AppNo) -> Result<i64> {
    tx.one("select position from apps where no = $1", params![app], |row| row.int(0))
}

pub(super) fn read_event(row: &Row<'_>) -> Result<Event> {
    let event_type = row.word(2, EventType::parse)?;
    let watch = WatchId(row.id(3)?);
    Ok(Event {
        id: EventId(row.id(0)?),
        position: row.int(1)?,
        event_type,
        watch: event_type.is_of_watch().then_some(watch),
        at: row.time(4)?,
        body: row.bytes(5)?,
    })
}
