//! The filter of watches, and the SQL of what it selects: for lists, and for work on many watches.
//!
//! The filter decides by which index watches are read ([`Index`]), newest first. The other conditions are compared row
//! by row, so a read ends after [`SCAN_MAX`] rows ([`end_of_scan`]). The caller goes on from there in another read.

use super::super::db::{Result, Tx, Where, params};
use super::super::lists::SCAN_MAX;
use crate::domain::{AppNo, WatchId, WatchStatus};

/// Filter of watches. A field that is `None` does not restrict them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchFilter {
    /// Status of the watch.
    pub status: Option<WatchStatus>,
    /// Provider of the job.
    pub provider: Option<String>,
    /// Id of the job at the provider.
    pub job_id: Option<String>,
    /// The client's own id of the watch.
    pub reference: Option<String>,
    /// The client's id of the group of the watch.
    pub group: Option<String>,
    /// Only watches with a smaller id: the last watch of the previous page.
    pub before: Option<WatchId>,
}

/// The index that watches are read by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Index {
    /// The primary key: app and id.
    App,
    /// The partial index of the watches that have not ended.
    Watching,
    /// The index of the references.
    Reference,
    /// The index of the groups.
    Group,
    /// The index of the jobs. Its watches are put in order.
    Job,
}

/// Chooses the index. A job id usually leads to few watches.
pub(super) fn index(tx: &Tx<'_>, filter: &WatchFilter) -> Result<Index> {
    if filter.reference.is_some() {
        return Ok(Index::Reference);
    }
    if let Some(job_id) = filter.job_id.as_deref() {
        let sql = "select count(*) from (select 1 from jobs j join watches w on w.job = j.no
                     where j.job_id = $1 limit $2) few";
        if tx.one(sql, params![job_id, SCAN_MAX + 1], |row| row.count(0))? <= SCAN_MAX {
            return Ok(Index::Job);
        }
    }
    if filter.group.is_some() {
        return Ok(Index::Group);
    }
    Ok(if filter.status == Some(WatchStatus::Watching) { Index::Watching } else { Index::App })
}

impl Index {
    /// Returns the first condition of a query, up to the value, and the column of the status. `+ 0` hides the primary
    /// key from the planner. The indexes of the watches that have not ended and of the references apply only to exactly
    /// these expressions, the first with the status as a literal. A group belongs to one app, so its index has none.
    const fn conditions(self) -> (&'static str, &'static str) {
        match self {
            Self::App => ("w.app =", "w.status"),
            Self::Watching => ("w.app + 0 =", "w.status || ''"),
            Self::Reference | Self::Group | Self::Job => ("w.app + 0 =", "w.status"),
        }
    }
}

/// Builds the query for the last watch that one read examines. `None`: every row of the index matches, or there are
/// few.
pub(in crate::store) fn scanned(app: AppNo, filter: &WatchFilter, index: Index) -> Option<Where<'_>> {
    let has_others = filter.provider.is_some()
        || filter.job_id.is_some()
        || (filter.group.is_some() && index != Index::Group);
    let (by_app, column) = index.conditions();
    let only = match index {
        Index::Job => return None,
        Index::Watching if !has_others => return None,
        Index::App | Index::Reference | Index::Group if !has_others && filter.status.is_none() => {
            return None;
        }
        Index::Watching => format!("{column} = 'watching' and "),
        Index::App | Index::Reference | Index::Group => String::new(),
    };
    let mut query = Where::new(&format!("select w.id from watches w where {only}{by_app}"), app);
    query.and("w.reference =", filter.reference.as_deref());
    of_group(&mut query, (app, filter), index);
    query.and("w.id <", filter.before);
    query.push(" order by w.id desc limit 1 offset", SCAN_MAX - 1);
    Some(query)
}

/// Adds the condition of the group, whose index is hidden from the planner unless it is the chosen one.
fn of_group<'f>(query: &mut Where<'f>, (app, filter): (AppNo, &'f WatchFilter), index: Index) {
    let Some(group) = filter.group.as_deref() else { return };
    let hidden = if index == Index::Group { "" } else { " + 0" };
    let find = format!(" and w.watch_group{hidden} = (select g.no from watch_groups g where g.app =");
    query.push(&find, app);
    query.push(" and g.name =", group);
    query.sql.push(')');
}

/// Returns the watch down to which one read examines the rows of the index. `None`: all of them are examined.
pub(super) fn end_of_scan(
    tx: &Tx<'_>,
    app: AppNo,
    filter: &WatchFilter,
    index: Index,
) -> Result<Option<WatchId>> {
    match scanned(app, filter, index) {
        Some(query) => tx.find(&query.sql, query.values, |row| row.id(0).map(WatchId)),
        None => Ok(None),
    }
}

/// Builds the query of watches, newest first, down to the watch `last`. `select` ends with the tables: the watch `w` and
/// its job `j`.
pub(in crate::store) fn query<'f>(
    select: &str,
    (app, filter): (AppNo, &'f WatchFilter),
    index: Index,
    last: Option<WatchId>,
    limit: u32,
) -> Where<'f> {
    let (by_app, column) = index.conditions();
    let status = filter.status.map(|status| format!("{column} = '{status}' and ")).unwrap_or_default();
    let mut query = Where::new(&format!("{select} where {status}{by_app}"), app);
    query.and("w.reference =", filter.reference.as_deref());
    of_group(&mut query, (app, filter), index);
    // Another index than that of the jobs is only used if this is hidden from the planner.
    let by_job = if index == Index::Job { "j.job_id =" } else { "j.job_id || '' =" };
    query.and(by_job, filter.job_id.as_deref());
    query.and("j.provider =", filter.provider.as_deref());
    query.and("w.id <", filter.before);
    query.and("w.id >=", last);
    query.push(" order by w.id desc limit", limit);
    query
}
