//! Reading and listing watches.

use super::super::db::{Result, Row, Tx, Where};
use super::super::reads::ReadStore;
use super::super::rows::{read_destination, read_name};
use super::super::sealing::Keyring;
use crate::domain::{AppNo, DeliveryStatus, EventSet, JobNo, Watch, WatchId, WatchStatus};

/// Filter of a list of watches. A field that is `None` does not restrict the list.
#[derive(Clone, Debug, Default)]
pub struct WatchFilter {
    /// Status of the watch.
    pub status: Option<WatchStatus>,
    /// Provider of the job.
    pub provider: Option<String>,
    /// Id of the job at the provider.
    pub job_id: Option<String>,
    /// Last watch of the previous page.
    pub before: Option<WatchId>,
}

impl ReadStore {
    /// Returns a watch of the app.
    pub async fn watch(&self, app: AppNo, id: WatchId) -> Result<Option<Watch>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| find(tx, &keyring, app, id)).await
    }

    /// Returns up to `limit` watches of the app, newest first.
    pub async fn watches(&self, app: AppNo, filter: WatchFilter, limit: u32) -> Result<Vec<Watch>> {
        let keyring = self.shared.keyring.clone();
        self.read(move |tx| {
            let query = listed(app, &filter, limit);
            let mut found = tx.list(&query.sql, query.values, read_watch)?;
            add_destinations(tx, &keyring, &mut found)?;
            Ok(found)
        })
        .await
    }
}

/// Builds the query of a list, newest first.
pub fn listed(app: AppNo, filter: &WatchFilter, limit: u32) -> Where<'_> {
    // A job id leads to few watches, through the index of the jobs; `+ 0` hides the primary key from the planner.
    // Watches that have not ended have a partial index. It applies only to exactly these expressions, with the
    // status as a literal.
    let (by_app, column) = match (&filter.job_id, filter.status) {
        (Some(_), _) => ("w.app + 0 =", "w.status"),
        (None, Some(WatchStatus::Watching)) => ("w.app + 0 =", "w.status || ''"),
        (None, _) => ("w.app =", "w.status"),
    };
    let status = filter.status.map(|status| format!("{column} = '{status}' and ")).unwrap_or_default();
    let mut query = Where::new(&format!("{SELECT} where {status}{by_app}"), app.0);
    query.and("j.job_id =", filter.job_id.as_deref());
    query.and("j.provider =", filter.provider.as_deref());
    query.and("w.id <", filter.before.map(|id| id.0));
    query.push(" order by w.id desc limit", limit);
    query
}

/// Returns a watch of the app.
pub(super) fn find(tx: &Tx<'_>, keyring: &Keyring, app: AppNo, id: WatchId) -> Result<Option<Watch>> {
    let sql = format!("{SELECT} where w.app = $1 and w.id = $2");
    let mut found = tx.list(&sql, [app.0.into(), id.0.into()], read_watch)?;
    add_destinations(tx, keyring, &mut found)?;
    Ok(found.pop())
}

/// Columns of a watch. A watch that ended with its job shows the observation of the ending; every other watch
/// shows the last observation.
const SELECT: &str = "select w.id, w.status, w.events, w.metadata, w.created_at, w.ended_at, w.expires_at,
    j.no, j.provider, j.account, j.job_id, j.params,
    coalesce((select coalesce(e.refreshed, e.seen) from endings e
              where e.job = w.job and e.generation >= w.generation
                and w.status in ('completed', 'failed', 'cancelled', 'not_found')
              order by e.generation limit 1), j.seen)
  from watches w join jobs j on j.no = w.job";

fn read_watch(row: &Row<'_>) -> Result<Watch> {
    Ok(Watch {
        id: WatchId(row.id(0)?),
        status: row.word(1, WatchStatus::parse)?,
        events: EventSet(row.int(2)?),
        metadata: row.opt_text(3)?,
        created_at: row.time(4)?,
        ended_at: row.opt_time(5)?,
        expires_at: row.time(6)?,
        job_no: JobNo(row.int(7)?),
        job: read_name(row, 8)?,
        seen: row.json(12)?,
        destinations: Vec::new(),
    })
}

/// Reads the destinations of each watch, and the status of the last delivery to each.
fn add_destinations(tx: &Tx<'_>, keyring: &Keyring, watches: &mut [Watch]) -> Result<()> {
    let found = tx.fetch(
        "select id, channel, address, queue, headers, secret,
           (select d.status from deliveries d where d.watch = wd.watch and d.n = wd.n order by d.id desc limit 1)
         from watch_destinations wd where watch = $1 order by n",
        watches.iter().map(|watch| [watch.id.0.into()]),
        |row| {
            let destination = read_destination(row, 0, keyring)?;
            let status = row.opt_text(6)?;
            Ok((destination, status.as_deref().and_then(DeliveryStatus::parse)))
        },
    )?;
    for (watch, destinations) in watches.iter_mut().zip(found) {
        watch.destinations = destinations;
    }
    Ok(())
}
