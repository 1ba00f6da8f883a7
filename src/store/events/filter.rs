//! The filter of events, and the SQL of what it selects.
//!
//! The events of a watch have an index in the order of the feed. A job leads to few watches and events as a rule: their
//! positions are put in order, without their bodies. Every other condition is compared row by row, so a read ends after
//! [`SCAN_MAX`] rows, and the caller goes on from there in another read.

use super::super::db::{Result, Row, Tx, Value, Where, params};
use super::super::lists::{Fitting, Part, Remaining, SCAN_MAX};
use super::super::unreadable::UnreadableRows;
use crate::domain::{AppNo, Event, EventId, EventType, WatchId};

/// Columns of an event `e`, for [`read_event`].
pub(super) const COLUMNS: &str = "e.id, e.position, e.type, e.watch, e.observed_at, e.body";

/// Filter and order of events. A field that is `None` does not restrict them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Type of the event.
    pub event_type: Option<EventType>,
    /// Watch of the event.
    pub watch: Option<WatchId>,
    /// Id of the watched job at its provider.
    pub job_id: Option<String>,
    /// Whether the newest event is the first.
    pub is_newest_first: bool,
}

/// The index that events are read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Index {
    /// The feed of the app.
    Feed,
    /// The index of the watch.
    Watch,
    /// The index of the job's id, which leads to few events.
    Job,
}

/// Chooses the index.
fn index(tx: &Tx<'_>, app: AppNo, filter: &EventFilter) -> Result<Index> {
    let few = |rows: &str, values: &[Value<'_>]| -> Result<bool> {
        let sql = format!("select count(*) from (select 1 from {rows} limit {}) few", SCAN_MAX + 1);
        Ok(tx.one(&sql, values, |row| row.count(0))? <= SCAN_MAX)
    };
    if filter.watch.is_some() {
        return Ok(Index::Watch);
    }
    // Watches of other apps are read as well, so they are counted.
    let is_few = match filter.job_id.as_deref() {
        None => false,
        Some(job_id) => {
            few("jobs j cross join watches w where w.job = j.no and j.job_id = $1", &params![job_id])?
                && few(
                    "jobs j cross join watches w cross join events e
                     where w.job = j.no and w.app + 0 = $1 and j.job_id = $2 and e.watch = w.id and e.app + 0 = w.app",
                    &params![app, job_id],
                )?
        }
    };
    Ok(if is_few { Index::Job } else { Index::Feed })
}

/// Adds the bounds of a page.
fn add_bounds(
    query: &mut Where<'_>,
    filter: &EventFilter,
    (after, last): (Option<i64>, Option<i64>),
) -> &'static str {
    if filter.is_newest_first {
        query.and("e.position <", after);
        query.and("e.position >=", last);
        "desc"
    } else {
        query.and("e.position >", after);
        query.and("e.position <=", last);
        "asc"
    }
}

/// Builds the query of the events after a position, up to the position `last`.
pub(in crate::store) fn query(
    (app, filter): (AppNo, &EventFilter),
    index: Index,
    bounds: (Option<i64>, Option<i64>),
    limit: u32,
) -> Where<'_> {
    if index == Index::Job {
        return query_by_job((app, filter), bounds, limit);
    }
    let (tables, joined) = match &filter.job_id {
        None => ("", ""),
        Some(_) => (
            " cross join watches w cross join jobs j",
            " and w.app = e.app and w.id = e.watch and j.no = w.job",
        ),
    };
    let by_app = if index == Index::Watch { "e.app + 0 =" } else { "e.app =" };
    let mut query = Where::new(&format!("select {COLUMNS} from events e{tables} where {by_app}"), app);
    query.sql.push_str(joined);
    query.and("e.watch =", filter.watch);
    query.and("j.job_id || '' =", filter.job_id.as_deref());
    query.and("e.type =", filter.event_type);
    let order = add_bounds(&mut query, filter, bounds);
    query.push(&format!(" order by e.position {order} limit"), limit);
    query
}

/// Builds the query by the index of the jobs. The bodies of events that the page does not have are not read.
fn query_by_job(
    (app, filter): (AppNo, &EventFilter),
    bounds: (Option<i64>, Option<i64>),
    limit: u32,
) -> Where<'_> {
    let positions = "select e.position from jobs j cross join watches w cross join events e
        where w.job = j.no and e.watch = w.id and e.app + 0 = w.app and w.app + 0 =";
    let mut query =
        Where::new(&format!("select {COLUMNS} from events e where e.position in ({positions}"), app);
    query.and("j.job_id =", filter.job_id.as_deref());
    query.and("e.type =", filter.event_type);
    let order = add_bounds(&mut query, filter, bounds);
    query.push(&format!(" order by e.position {order} limit"), limit);
    query.sql.extend([") and e.app = $1 order by e.position ", order]);
    query
}

/// Builds the query for the last position that one read examines. `None`: every row of the index matches, or there are
/// few.
pub(in crate::store) fn scanned(
    app: AppNo,
    filter: &EventFilter,
    index: Index,
    after: Option<i64>,
) -> Option<Where<'static>> {
    if index == Index::Job || (filter.event_type.is_none() && filter.job_id.is_none()) {
        return None;
    }
    let by_app = if index == Index::Watch { "e.app + 0 =" } else { "e.app =" };
    let mut query = Where::new(&format!("select e.position from events e where {by_app}"), app);
    query.and("e.watch =", filter.watch);
    let order = add_bounds(&mut query, filter, (after, None));
    query.push(&format!(" order by e.position {order} limit 1 offset"), SCAN_MAX - 1);
    Some(query)
}

/// Reads the part of a page that begins after a position.
pub(super) fn part(
    (tx, unreadable): (&Tx<'_>, &UnreadableRows),
    app: AppNo,
    filter: &EventFilter,
    after: Option<i64>,
    remaining: Remaining,
) -> Result<Part<Event, i64>> {
    let index = index(tx, app, filter)?;
    let scanned = match scanned(app, filter, index, after) {
        Some(query) => tx.find(&query.sql, query.values, |row| row.int(0))?,
        None => None,
    };
    let query = query((app, filter), index, (after, scanned), remaining.limit());
    let size = |event: &Event| 256 + event.body.len();
    let (of, read) = ((unreadable, ("events", 0)), (read_event, |row: &Row<'_>| row.int(1)));
    let found = Fitting::take_readable(tx, &query, remaining, of, read, size)?;
    Ok(found.part(|event| event.position, scanned))
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
