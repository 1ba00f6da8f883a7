//! Watches: registering, amending, stopping and reading them.
//!
//! **A watch is amended while its job ends.** The first transaction decides. An amendment begins with an update of
//! the watch `where status = 'watching'`. If no row matches, the watch has ended, nothing is changed, and the command
//! is refused. If the row matches, it is locked until the commit, and a later ending reads the amended destinations
//! and metadata. No ending is delivered to a mixture of old and new destinations.
//!
//! **A watch is amended during the last poll.** A poll at the expiry that finds no ending ends the watches that
//! expire, by their rows at that time, before the poll began ([`ExpireWatches`](super::ExpireWatches)). A watch whose
//! expiry was postponed meanwhile is not among them. The poller receives the new terms from its mailbox before it
//! decides anything.
//!
//! **An amendment does not change earlier events.** They keep their metadata and their deliveries. A new destination
//! receives later events only.

mod cancel_job;
pub(super) mod filter;
mod register;
mod stop_many;

use std::sync::{Arc, LazyLock};

use super::batch::Batch;
use super::db::{Result, Row, Tx, params, row_sql};
use super::deliveries::{self, IS_BEHIND, Skip};
use super::destinations::{self, Change};
use super::groups;
use super::idempotency::Results;
use super::job_cancels;
use super::jobs::NotFound;
use super::lists::{Fitting, ListPage, Remaining};
use super::reads::{ReadStore, Shared};
use super::rows::{
    DESTINATION, DESTINATION_COLUMNS, SAVED_JOIN, insert_destinations, read_destination, read_name,
};
use super::unreadable::UnreadableRows;
use crate::domain::{
    AppNo, CancelScope, CancelStatus, DeliveryId, DeliveryStatus, Destination, EventSet, GroupNo, JobCancel,
    JobNo, LatestDelivery, Reason, SkipScope, Timestamp, Watch, WatchId, WatchStatus,
};

pub use self::cancel_job::{CancelRefusal, StopAndCancel};
pub use self::filter::WatchFilter;
pub use self::register::{Register, RegisterMany, RegisterRefusal};

pub(super) use self::cancel_job::stop_and_cancel;
pub(super) use self::register::{register, register_many};
pub(super) use self::stop_many::{stop_selected, stopped_page};

/// Changes a watch. A field that is `None` is not changed.
#[derive(Clone, Debug)]
pub struct AmendWatch {
    /// The app.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// New expiry.
    pub expires_at: Option<Timestamp>,
    /// New metadata: a JSON object of the client's.
    pub metadata: Option<String>,
    /// New name for people.
    pub name: Change<Option<String>>,
    /// New reference.
    pub reference: Change<Option<String>>,
    /// Additional destinations. Those that the watch has already are ignored.
    pub destinations: Vec<Destination>,
    /// Maximum number of destinations of the watch.
    pub destinations_max: usize,
}

/// Reason why a watch was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AmendRefusal {
    /// The watch does not exist.
    NotFound,
    /// The watch has ended.
    Ended,
    /// The watch would have more than the maximum number of destinations.
    TooManyDestinations,
    /// The watch has this address already, with other headers or another secret.
    DestinationDiffers(String),
    /// A saved destination was deleted meanwhile.
    DestinationDeleted,
}

/// Stops a watch: its job is not polled for it any more, and its pending deliveries are skipped, the oldest of very
/// many by an operation (`deliveries/skipping`). Attempts in flight are recorded.
#[derive(Clone, Copy, Debug)]
pub struct StopWatch {
    /// The app.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// Time of the stop.
    pub now: Timestamp,
}

impl ReadStore {
    /// Returns a watch of the app.
    pub async fn watch(&self, app: AppNo, id: WatchId) -> Result<Option<Watch>> {
        let shared = Arc::clone(&self.shared);
        self.read(app, move |tx| find(tx, &shared, app, id)).await
    }

    /// Returns a page of up to `limit` watches of the app, newest first.
    pub async fn watches(
        &self,
        app: AppNo,
        filter: WatchFilter,
        limit: u32,
    ) -> Result<ListPage<Watch, WatchId>> {
        let shared = Arc::clone(&self.shared);
        let before = filter.before;
        self.list(app, before, limit, move |tx, before, remaining| {
            let filter = WatchFilter { before, ..filter.clone() };
            let index = filter::index(tx, &filter)?;
            let scanned = filter::end_of_scan(tx, app, &filter, index)?;
            let query = filter::query(&SELECT, (app, &filter), index, scanned, remaining.limit());
            let unreadable = &shared.unreadable;
            let read = |row: &Row<'_>| read_watch(row, unreadable);
            let position = |row: &Row<'_>| row.id(0).map(WatchId);
            let (of, read) = ((unreadable, ("watches", 0)), (read, position));
            let mut found = Fitting::take_readable(tx, &query, remaining, of, read, size)?;
            add_destinations_that_fit(tx, (app, &shared), &mut found, remaining)?;
            Ok(found.part(|watch| watch.id, scanned))
        })
        .await
    }
}

/// Returns the size of a watch on a page, in bytes, without its destinations.
fn size(watch: &Watch) -> usize {
    let seen = &watch.seen;
    let len = |text: &Option<String>| text.as_deref().map_or(0, str::len);
    let outputs = seen.outputs.iter().flatten().map(|output| {
        64 + [&output.url, &output.kind, &output.thumbnail, &output.poster_image]
            .map(len)
            .iter()
            .sum::<usize>()
    });
    let error = seen.error.as_ref().map_or(0, |error| len(&error.message) + len(&error.code));
    // Names, ids, times and the status.
    1024 + len(&watch.name)
        + len(&watch.reference)
        + len(&watch.metadata)
        + outputs.sum::<usize>()
        + error
        + len(&seen.output)
        + len(&watch.poll)
        + watch.cancel.as_ref().map_or(0, |cancel| len(&cancel.message))
}

/// Returns a watch of the app.
fn find(tx: &Tx<'_>, shared: &Shared, app: AppNo, id: WatchId) -> Result<Option<Watch>> {
    Ok(find_all(tx, shared, std::iter::once((app, id)))?.pop())
}

/// Returns watches in this order, without those that do not exist.
fn find_all(tx: &Tx<'_>, shared: &Shared, ids: impl Iterator<Item = (AppNo, WatchId)>) -> Result<Vec<Watch>> {
    let sql = format!("{} where w.app = $1 and w.id = $2", *SELECT);
    let ids: Vec<(AppNo, WatchId)> = ids.collect();
    let read = |row: &Row<'_>| read_watch(row, &shared.unreadable);
    let found = tx.fetch(&sql, ids.iter().map(|(app, id)| params![app, id]), read)?;
    let apps = ids.iter().map(|(app, _)| *app);
    let mut found: Vec<(AppNo, Watch)> =
        apps.zip(found).flat_map(|(app, found)| found.into_iter().map(move |watch| (app, watch))).collect();
    add_destinations(tx, shared, found.iter_mut().map(|(app, watch)| (*app, watch)))?;
    Ok(found.into_iter().map(|(_, watch)| watch).collect())
}

/// Columns of a watch. A watch that ended with its job shows the observation of the ending; every other watch
/// shows the last observation, also one that was not found while others of the job went on.
pub(super) static SELECT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select w.id, w.status, w.events, w.metadata, w.created_at, w.ended_at, w.expires_at,
           j.no, j.provider, j.account, j.job_id, coalesce(j.long_params, j.params),
           coalesce((select coalesce(e.refreshed, e.seen) from endings e
                     where e.job = w.job and e.generation >= w.generation
                       and w.status in ('completed', 'failed', 'cancelled', 'not_found')
                     order by e.generation limit 1), j.seen) as seen, w.name, w.reference,
           (select g.name from watch_groups g where g.no = w.watch_group),
           (select p.shown from job_polls p where p.job = j.no), {}
         from watches w join jobs j on j.no = w.job {}",
        job_cancels::COLUMNS,
        job_cancels::JOIN
    )
});

/// Reads a watch. A part of it that has a row of its own, and cannot be read, is left out.
fn read_watch(row: &Row<'_>, unreadable: &UnreadableRows) -> Result<Watch> {
    let status = row.word(1, WatchStatus::parse)?;
    // A watch that ended otherwise never expires.
    let is_open =
        |cancel: &JobCancel| status == WatchStatus::Watching || cancel.status != CancelStatus::OnExpiry;
    Ok(Watch {
        id: WatchId(row.id(0)?),
        status,
        events: EventSet(row.int(2)?),
        metadata: row.opt_text(3)?,
        created_at: row.time(4)?,
        ended_at: row.opt_time(5)?,
        expires_at: row.time(6)?,
        job_no: JobNo(row.int(7)?),
        job: read_name(row, 8)?,
        seen: unreadable.skip(("jobs", 7), row, row.json(12))?.unwrap_or_default(),
        name: row.opt_text(13)?,
        reference: row.opt_text(14)?,
        group: row.opt_text(15)?,
        poll: row.opt_text(16)?,
        cancel: unreadable
            .skip(("job_cancels", 0), row, job_cancels::read(row, 17))?
            .flatten()
            .filter(is_open),
        destinations: Vec::new(),
    })
}

/// Reads seven columns of the newest delivery to a destination of a watch from `first`, if there is one.
fn read_latest(row: &Row<'_>, first: usize) -> Result<Option<LatestDelivery>> {
    if row.opt_bytes(first)?.is_none() {
        return Ok(None);
    }
    let status = row.word(first + 1, DeliveryStatus::parse)?;
    Ok(Some(LatestDelivery {
        id: DeliveryId(row.id(first)?),
        status,
        reason: row.opt_text(first + 2)?.as_deref().and_then(Reason::parse),
        attempt_count: row.count(first + 3)?,
        next_attempt_at: row.opt_time(first + 4)?,
        last_error: deliveries::unless_succeeded(status, row.opt_text(first + 5)?),
        is_behind: row.flag(first + 6)?,
    }))
}

/// Reads the destinations of each watch, and the newest delivery to each, which the index of the watch leads to.
fn add_destinations<'w>(
    tx: &Tx<'_>,
    shared: &Shared,
    watches: impl Iterator<Item = (AppNo, &'w mut Watch)>,
) -> Result<()> {
    let watches: Vec<(AppNo, &mut Watch)> = watches.collect();
    let found = tx.fetch(
        &format!(
            "select {DESTINATION}, d.id, d.status, d.reason, d.attempts, d.next_attempt_at,
               (select a.error from attempts a where a.delivery = d.id and a.n = d.attempts - 1), {IS_BEHIND}
             from watch_destinations wd {SAVED_JOIN}
             left join deliveries d on d.app = $1 and d.id =
               (select l.id from deliveries l where l.watch = wd.watch and l.app = $1 and l.n = wd.n
                order by l.id desc limit 1)
             where wd.watch = $2 order by wd.n"
        ),
        watches.iter().map(|(app, watch)| params![app, watch.id]),
        |row| {
            let destination = read_destination(row, 0, &shared.keyring);
            let Some(destination) = shared.unreadable.skip(("watch_destinations", 0), row, destination)?
            else {
                return Ok(None);
            };
            let latest = read_latest(row, DESTINATION_COLUMNS);
            let latest = shared.unreadable.skip(("deliveries", DESTINATION_COLUMNS), row, latest)?.flatten();
            Ok(Some((destination, latest)))
        },
    )?;
    for ((_, watch), destinations) in watches.into_iter().zip(found) {
        watch.destinations = destinations.into_iter().flatten().collect();
    }
    Ok(())
}

/// Number of watches whose destinations are read together. Each can have 256 KiB of headers.
const DESTINATIONS_AT_ONCE: usize = 50;

/// Reads the destinations of the watches of a page, and cuts the page where they do not fit.
fn add_destinations_that_fit(
    tx: &Tx<'_>,
    (app, shared): (AppNo, &Shared),
    page: &mut Fitting<Watch, WatchId>,
    remaining: Remaining,
) -> Result<()> {
    let mut kept = 0;
    while kept < page.rows.len() {
        let end = page.rows.len().min(kept + DESTINATIONS_AT_ONCE);
        add_destinations(tx, shared, page.rows[kept..end].iter_mut().map(|watch| (app, watch)))?;
        while kept < end {
            page.bytes += page.rows[kept].destinations.iter().map(destination_size).sum::<usize>();
            if page.bytes > remaining.bytes && kept > 0 {
                page.rows.truncate(kept);
                (page.is_cut, page.unreadable) = (true, None);
                return Ok(());
            }
            kept += 1;
        }
    }
    Ok(())
}

fn destination_size((destination, latest): &(Destination, Option<LatestDelivery>)) -> usize {
    let error = latest.as_ref().and_then(|latest| latest.last_error.as_deref());
    // The values of headers are not shown.
    224 + destination.address.len()
        + if latest.is_some() { 512 } else { 0 }
        + error.map_or(0, str::len)
        + destination.headers.iter().map(|(name, _)| name.len() + 8).sum::<usize>()
}

pub(super) fn amend_watch(
    batch: &mut Batch<'_>,
    command: &AmendWatch,
) -> Result<Result<Watch, AmendRefusal>> {
    let (app, id) = (command.app, command.watch);
    let keyring = &batch.shared.keyring;
    // Locks the row: the watch does not end before the commit.
    let held = batch.tx.run(
        "update watches set status = status where app = $1 and id = $2 and status = 'watching'",
        params![app, id],
    )?;
    if held == 0 {
        let known = find(&batch.tx, batch.shared, app, id)?;
        return Ok(Err(if known.is_some() { AmendRefusal::Ended } else { AmendRefusal::NotFound }));
    }
    let known = batch.tx.list(
        &format!("select wd.n, {DESTINATION} from watch_destinations wd {SAVED_JOIN} where wd.watch = $1 order by wd.n"),
        params![id],
        |row| Ok((row.int(0)?, read_destination(row, 1, keyring)?)),
    )?;
    let mut fresh = Vec::new();
    for one in &command.destinations {
        let same = |known: &&Destination| known.is_same_address(one);
        match known.iter().map(|(_, known)| known).find(same) {
            None => fresh.push(one),
            Some(known) if known.saved.is_some() => {}
            Some(known) if known.has_same_options(one) => {}
            Some(_) => return Ok(Err(AmendRefusal::DestinationDiffers(one.address.clone()))),
        }
    }
    if known.len() + fresh.len() > command.destinations_max {
        return Ok(Err(AmendRefusal::TooManyDestinations));
    }
    if !destinations::all_exist(&batch.tx, fresh.iter().copied())? {
        return Ok(Err(AmendRefusal::DestinationDeleted));
    }
    let first = known.last().map_or(0, |(n, _)| n + 1);
    let fresh = (first..).zip(fresh).map(|(n, one)| (id, n, one));
    insert_destinations(&batch.tx, keyring, fresh)?;
    if let Some(metadata) = &command.metadata {
        batch
            .tx
            .run("update watches set metadata = $1 where app = $2 and id = $3", params![metadata, app, id])?;
    }
    for (sql, change) in [
        ("update watches set name = $1 where app = $2 and id = $3", &command.name),
        ("update watches set reference = $1 where app = $2 and id = $3", &command.reference),
    ] {
        if let Change::Set(text) = change {
            batch.tx.run(sql, params![text, app, id])?;
        }
    }
    if let Some(expires_at) = command.expires_at {
        let job = batch.tx.one(
            "update watches set expires_at = $1 where app = $2 and id = $3 returning job",
            params![expires_at, app, id],
            |row| Ok(JobNo(row.int(0)?)),
        )?;
        batch.changed_jobs.entry(job).or_default();
    }
    let amended = find(&batch.tx, batch.shared, app, id)?;
    Ok(amended.ok_or(AmendRefusal::NotFound))
}

/// Applies stops. Returns each watch after its stop, if it exists. It is read in the transaction: if the answer cannot
/// be made, nothing was changed.
pub(super) fn stop_watch(batch: &mut Batch<'_>, commands: &[&StopWatch]) -> Results<Watch, NotFound> {
    let is_known = stop(batch, commands)?;
    let known = commands.iter().zip(&is_known).filter(|(_, is_known)| **is_known);
    let ids = known.map(|(command, _)| (command.app, command.watch));
    let mut shown = find_all(&batch.tx, batch.shared, ids)?.into_iter();
    let result = |is_known: bool| if is_known { shown.next().ok_or(NotFound) } else { Err(NotFound) };
    Ok(is_known.into_iter().map(result).collect())
}

/// Stops watches. Returns for each whether it exists.
pub(super) fn stop(batch: &mut Batch<'_>, commands: &[&StopWatch]) -> Result<Vec<bool>> {
    let jobs = batch.tx.fetch(
        "select job, watch_group from watches where app = $1 and id = $2",
        commands.iter().map(|command| params![command.app, command.watch]),
        |row| Ok((JobNo(row.int(0)?), row.opt_int(1)?.map(GroupNo))),
    )?;
    let known: Vec<(&StopWatch, (JobNo, Option<GroupNo>))> =
        commands.iter().zip(&jobs).filter_map(|(command, job)| Some((*command, *job.first()?))).collect();
    let stopped = batch.tx.update_each(
        row_sql!(
            "update watches set status = 'stopped', ended_at = $1"
            where "app = $2 and id = $3 and coalesce(status, '') = 'watching'"
        ),
        known.iter().map(|(command, _)| params![command.now, command.app, command.watch]),
    )?;
    let skips = known.iter().map(|(StopWatch { app, watch, .. }, _)| Skip {
        app: *app,
        watch: *watch,
        scope: SkipScope::Stopped,
        cancel: CancelScope::All,
    });
    deliveries::skip(batch, &skips.collect::<Vec<_>>())?;
    for ((command, (job, group)), _) in known.iter().zip(stopped).filter(|(_, stopped)| *stopped > 0) {
        *batch.changed_jobs.entry(*job).or_default() += 1;
        batch.effects.ended_watches.push(command.watch);
        batch.effects.tally.ended.push(WatchStatus::Stopped);
        if let Some(group) = group {
            groups::note_end(batch, *group, WatchStatus::Stopped, command.now);
        }
    }
    Ok(jobs.iter().map(|job| !job.is_empty()).collect())
}
