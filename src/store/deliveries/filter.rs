//! The filter of deliveries, and the SQL of what it selects: for lists, and for work on many deliveries.
//!
//! **By an index.** The filter decides by which index deliveries are read ([`Index`]), newest first. A watch, a
//! destination, a job or a reference leads to few deliveries. Pending, failed and skipped deliveries have partial
//! indexes, which are short beside the history; several statuses are several reads of such indexes, merged by the
//! database in the order of the ids.
//!
//! **Bounded.** The other conditions are compared row by row, so a filter can match few rows of an index or none. A
//! read ends after [`SCAN_MAX`] rows of each index ([`end_of_scan`]). The caller goes on from there in another read.
//!
//! A join is written as `cross join` where its order matters: SQLite then keeps the order, and PostgreSQL reads it like
//! any other join.

use super::super::db::{Result, Tx, Value, Where, params};
use super::super::lists::SCAN_MAX;
use crate::domain::{
    AppNo, ChannelKind, DeliveryId, DeliveryStatus, DestinationId, EventType, Id, Reason, Timestamp, WatchId,
};

/// Filter of deliveries. A field that is `None`, or empty, does not restrict them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeliveryFilter {
    /// Statuses of the delivery: one of them.
    pub statuses: Vec<DeliveryStatus>,
    /// Why no further attempt follows.
    pub reason: Option<Reason>,
    /// Type of the event.
    pub event_type: Option<EventType>,
    /// Channel of the destination.
    pub channel: Option<ChannelKind>,
    /// Origin of the webhook's URL, as `https://app.example.com:443`.
    pub origin: Option<String>,
    /// Destination.
    pub destination: Option<DestinationId>,
    /// Watch of the event.
    pub watch: Option<WatchId>,
    /// Id of the watched job at its provider.
    pub job_id: Option<String>,
    /// Reference of the watch.
    pub reference: Option<String>,
    /// Earliest time of the event.
    pub since: Option<Timestamp>,
    /// First time of the event that is excluded.
    pub until: Option<Timestamp>,
    /// Only deliveries with a smaller id: the last delivery of the previous page.
    pub before: Option<DeliveryId>,
}

impl DeliveryFilter {
    /// Returns a lower bound of the ids since `since`. There is no such bound for `until`: if the clock was set
    /// back, or if an event waited for the database, its id is later than its time by an unknown amount.
    pub(super) fn least_id(&self) -> Option<Id> {
        self.since.map(Id::least)
    }

    /// Returns whether the watch must be read for a row.
    fn needs_watch(&self) -> bool {
        self.job_id.is_some() || self.reference.is_some()
    }
}

/// The index that deliveries are read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Index {
    /// The primary key: app and id.
    App,
    /// The partial indexes of the statuses.
    Status,
    /// The index of the watch.
    Watch,
    /// The index of the destination.
    Destination,
    /// The index of the reference, which leads to few deliveries. They are put in order.
    Reference,
    /// The index of the job's id, which leads to few deliveries. They are put in order.
    Job,
}

/// The joins after the tables of a [`Branch`]: the destination of a delivery.
pub(super) const DESTINATION: &str = "join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
  left join destinations s on s.no = wd.saved";

/// Chooses the index. A job or a reference with more than [`SCAN_MAX`] watches or deliveries is not used as one.
pub(super) fn index(tx: &Tx<'_>, app: AppNo, filter: &DeliveryFilter) -> Result<Index> {
    let few = |rows: &str, values: &[Value<'_>]| -> Result<bool> {
        let sql = format!("select count(*) from (select 1 from {rows} limit {}) few", SCAN_MAX + 1);
        Ok(tx.one(&sql, values, |row| row.count(0))? <= SCAN_MAX)
    };
    if filter.watch.is_some() {
        return Ok(Index::Watch);
    }
    if let Some(reference) = filter.reference.as_deref() {
        let values = params![app, reference];
        if few("watches w where w.app + 0 = $1 and w.reference = $2", &values)?
            && few(
                "watches w cross join deliveries d
                 where w.app + 0 = $1 and w.reference = $2 and d.watch = w.id and d.app + 0 = w.app",
                &values,
            )?
        {
            return Ok(Index::Reference);
        }
    }
    // Watches of other apps are read as well, so they are counted.
    if let Some(job_id) = filter.job_id.as_deref()
        && few("jobs j cross join watches w where w.job = j.no and j.job_id = $1", &params![job_id])?
        && few(
            "jobs j cross join watches w cross join deliveries d
             where w.job = j.no and w.app + 0 = $1 and j.job_id = $2 and d.watch = w.id and d.app + 0 = w.app",
            &params![app, job_id],
        )?
    {
        return Ok(Index::Job);
    }
    Ok(without_probe(filter))
}

/// Chooses the index of a filter whose job or reference leads to many deliveries, or which has none.
pub(in crate::store) fn without_probe(filter: &DeliveryFilter) -> Index {
    let has_index = |status: &DeliveryStatus| *status != DeliveryStatus::Succeeded;
    if filter.watch.is_some() {
        Index::Watch
    } else if filter.destination.is_some() {
        Index::Destination
    } else if !filter.statuses.is_empty() && filter.statuses.iter().all(has_index) {
        Index::Status
    } else {
        Index::App
    }
}

/// One of the selects of a query: its tables, and its conditions up to the value of the app.
struct Branch {
    tables: &'static str,
    conditions: String,
}

/// Returns the selects of a query: one for each index that is read. Each partial index applies only to exactly these
/// expressions, with the status as a literal. `+ 0` hides an index from the planner.
fn branches(filter: &DeliveryFilter, index: Index) -> Vec<Branch> {
    let one = |tables, conditions: &str| vec![Branch { tables, conditions: conditions.to_owned() }];
    match index {
        Index::Status => {
            let mut statuses = filter.statuses.clone();
            statuses.sort_unstable();
            statuses.dedup();
            let branch = |status| Branch {
                tables: "deliveries d",
                conditions: format!("d.status || '' = '{status}' and d.app + 0 ="),
            };
            statuses.into_iter().map(branch).collect()
        }
        Index::App | Index::Watch | Index::Destination => one("deliveries d", "d.app ="),
        Index::Reference => {
            one("watches w cross join deliveries d", "d.watch = w.id and d.app + 0 = w.app and w.app + 0 =")
        }
        Index::Job => one(
            "jobs j cross join watches w cross join deliveries d",
            "w.job = j.no and d.watch = w.id and d.app + 0 = w.app and w.app + 0 =",
        ),
    }
}

/// Returns the tables of the watch that follow those of a branch, and how they are joined.
fn joins(filter: &DeliveryFilter, index: Index) -> (&'static str, &'static str) {
    match (index, filter.job_id.is_some()) {
        (Index::Job, _) | (Index::Reference, false) => ("", ""),
        (Index::Reference, true) => (" cross join jobs j", " and j.no = w.job"),
        (_, false) if !filter.needs_watch() => ("", ""),
        (_, false) => (" cross join watches w", " and w.app = d.app and w.id = d.watch"),
        (_, true) => (
            " cross join watches w cross join jobs j",
            " and w.app = d.app and w.id = d.watch and j.no = w.job",
        ),
    }
}

/// Builds the query of deliveries, newest first, down to the delivery `last`. `columns` begins with `d.id`, and can name
/// the delivery `d`, the destination of the watch `wd` and the saved destination `s`.
pub(in crate::store) fn query<'f>(
    columns: &str,
    (app, filter): (AppNo, &'f DeliveryFilter),
    index: Index,
    last: Option<DeliveryId>,
    limit: u32,
) -> Where<'f> {
    let (tables, joined) = joins(filter, index);
    let mut rest = Where::new("", app);
    rest.sql.push_str(joined);
    if index != Index::Status && !filter.statuses.is_empty() {
        let words: Vec<String> = filter.statuses.iter().map(|status| format!("'{status}'")).collect();
        rest.sql.extend([" and d.status in (", &words.join(", "), ")"]);
    }
    // Another index than the chosen one is hidden from the planner.
    let by_reference = if index == Index::Reference { "w.reference =" } else { "w.reference || '' =" };
    rest.and(by_reference, filter.reference.as_deref());
    let by_job = if index == Index::Job { "j.job_id =" } else { "j.job_id || '' =" };
    rest.and(by_job, filter.job_id.as_deref());
    rest.and("d.watch =", filter.watch);
    rest.and("d.destination =", filter.destination);
    rest.and("d.id <", filter.before);
    rest.and("d.id >=", filter.least_id().max(last.map(|id| id.0)));
    rest.and("d.created_at >=", filter.since);
    rest.and("d.created_at <", filter.until);
    rest.and("d.reason =", filter.reason);
    rest.and("d.type =", filter.event_type);
    rest.and("wd.channel =", filter.channel);
    if let Some(origin) = &filter.origin {
        // The name of the queue of a webhook: the app, the origin and a hash, with a space between them.
        let (first, length) = (app.0.to_string().len() + 2, origin.len() + 1);
        let name = format!("substr(coalesce(s.target, d.queue), {first}, {length}) =");
        rest.and(&name, Some(origin.as_str()));
        rest.sql.push_str(" || ' '");
    }
    let selects = branches(filter, index).into_iter().map(|Branch { tables: first, conditions }| {
        format!("select {columns} from {first}{tables} {DESTINATION} where {conditions}{}", rest.sql)
    });
    let sql = selects.collect::<Vec<_>>().join(" union all ");
    let mut query = Where { sql, values: rest.values };
    query.push(" order by 1 desc limit", limit);
    query
}

/// Returns whether rows of the index may not match.
fn has_others(filter: &DeliveryFilter, index: Index) -> bool {
    let by_row = filter.until.is_some()
        || filter.reason.is_some()
        || filter.event_type.is_some()
        || filter.channel.is_some()
        || filter.origin.is_some()
        || filter.needs_watch();
    match index {
        Index::Reference | Index::Job => false,
        Index::Status => by_row,
        Index::App | Index::Destination => by_row || !filter.statuses.is_empty(),
        Index::Watch => by_row || !filter.statuses.is_empty() || filter.destination.is_some(),
    }
}

/// Builds the queries for the last delivery that one read examines, one for each index that is read. None: every row of
/// the index matches, or there are few.
pub(in crate::store) fn scanned(app: AppNo, filter: &DeliveryFilter, index: Index) -> Vec<Where<'static>> {
    if !has_others(filter, index) {
        return Vec::new();
    }
    let scan = |Branch { tables, conditions }| {
        let mut query = Where::new(&format!("select d.id from {tables} where {conditions}"), app);
        query.and("d.watch =", filter.watch);
        query.and("d.destination =", filter.destination.filter(|_| filter.watch.is_none()));
        query.and("d.id <", filter.before);
        query.and("d.id >=", filter.least_id());
        query.push(" order by d.id desc limit 1 offset", SCAN_MAX - 1);
        query
    };
    branches(filter, index).into_iter().map(scan).collect()
}

/// Returns the delivery down to which one read examines the rows of every index. `None`: all of them are examined.
pub(super) fn end_of_scan(
    tx: &Tx<'_>,
    app: AppNo,
    filter: &DeliveryFilter,
    index: Index,
) -> Result<Option<DeliveryId>> {
    let mut end = None;
    for query in scanned(app, filter, index) {
        end = end.max(tx.find(&query.sql, query.values, |row| row.id(0).map(DeliveryId))?);
    }
    Ok(end)
}
