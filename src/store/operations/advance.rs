//! Creating operations, and their steps.

use std::time::Duration;

use super::super::apps;
use super::super::batch::{Batch, LeftToSkip};
use super::super::db::{Result, Tx, params};
use super::super::deliveries::{self, DeliveryFilter};
use super::super::erase;
use super::super::idempotency::Outcome;
use super::super::lists::{ListPage, Part, Remaining};
use super::super::reads::ReadStore;
use super::super::watches::{self, WatchFilter};
use super::subject::{ERASE_WATCH, Subject};
use super::{COUNTED_MAX, RUNNING, RUNNING_OF_APP, RunningOperation, read_running};
use crate::clock::{Clock, Stopwatch};
use crate::domain::{
    AppNo, DeliveryId, Id, OperationId, OperationNo, OperationStatus, SkipScope, Timestamp, WatchId,
};

/// Maximum number of operations of an app that are in progress.
const RUNNING_MAX: i64 = 16;

/// Number of rows that one page of a count holds.
const COUNTED: u32 = 5_000;

/// Maximum duration of a count. A client gives up after 30 s.
const COUNT_FOR: Duration = Duration::from_secs(10);

/// Creates an operation.
#[derive(Clone, Debug)]
pub struct CreateOperation {
    /// Id from [`ReadStore::ids`].
    pub id: OperationId,
    /// The app.
    pub app: AppNo,
    /// What it works on.
    pub subject: Subject,
    /// Number of rows that it concerns.
    pub total: u64,
    /// Time of the request.
    pub now: Timestamp,
}

/// Refusal of an operation: as many as the maximum, which is the value, are in progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyOperations(pub i64);

/// The rows of a step, as a reader has found them.
#[derive(Clone, Debug)]
pub struct OperationPage {
    /// Position at which the page begins.
    from: Id,
    /// Ids of the rows to change.
    found: Vec<Id>,
    /// Position of the next page; `None` if nothing is left.
    next: Option<Id>,
}

/// Makes a step of an operation. The result is whether it is still in progress.
#[derive(Clone, Debug)]
pub struct AdvanceOperation {
    /// The operation.
    pub no: OperationNo,
    /// Rows to change. `None` for one that erases, which deletes the first rows that are left, and for one that skips.
    pub page: Option<OperationPage>,
    /// Maximum number of rows that are erased, or examined to be skipped.
    pub rows: u32,
    /// Time of the step.
    pub now: Timestamp,
}

/// Ends an operation because of an error.
#[derive(Clone, Copy, Debug)]
pub struct FailOperation {
    /// The operation.
    pub no: OperationNo,
    /// Time of the end.
    pub now: Timestamp,
}

/// Erases a watch.
#[derive(Clone, Copy, Debug)]
pub struct EraseWatch {
    /// Id of the operation that erases what is left after the first step.
    pub operation: OperationId,
    /// The app.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// Maximum number of deliveries, attempts and events that the first step deletes.
    pub rows: u32,
    /// Time of the request.
    pub now: Timestamp,
}

/// Result of [`EraseWatch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchErasure {
    /// The watch does not exist.
    NotFound,
    /// Nothing is left.
    Done,
    /// The caller repeats [`AdvanceOperation`] for the rest.
    More(OperationNo),
}

/// Deletes an app: revokes its keys, and creates an operation of another app that erases it. The result is whether it
/// existed.
#[derive(Clone, Copy, Debug)]
pub struct DeleteApp {
    /// The app to erase.
    pub app: AppNo,
    /// The app of the operation.
    pub owner: AppNo,
    /// Id of the operation.
    pub operation: OperationId,
    /// Number of watches of the app.
    pub total: u64,
    /// Time of the request.
    pub now: Timestamp,
}

impl ReadStore {
    /// Finds the rows of the next step of an operation, at most `rows`.
    pub async fn operation_page(
        &self,
        operation: &RunningOperation,
        rows: u32,
    ) -> Result<Option<OperationPage>> {
        let (app, from) = (operation.app, operation.before);
        let (found, next) = match &operation.subject {
            Subject::EraseWatch(_) | Subject::EraseApp(_) | Subject::SkipDeliveries(..) => return Ok(None),
            Subject::RetryDeliveries(filter) => {
                let page = self.retried(app, filter, Some(DeliveryId(from)), rows).await?;
                (page.rows.into_iter().flatten().map(|id| id.0).collect(), page.next.map(|id| id.0))
            }
            Subject::StopWatches(filter) => {
                let page = self.stopped(app, filter, Some(WatchId(from)), rows).await?;
                (page.rows.into_iter().map(|id| id.0).collect(), page.next.map(|id| id.0))
            }
        };
        Ok(Some(OperationPage { from, found, next }))
    }

    /// Counts the deliveries that an operation would retry.
    pub async fn count_retried(&self, app: AppNo, filter: &DeliveryFilter) -> Result<u64> {
        let (mut counted, mut before) = (self.count(), None);
        loop {
            let page = self.retried(app, filter, before, COUNTED).await?;
            before = page.next;
            if counted.add(page.rows.iter().flatten().count()) || before.is_none() {
                return Ok(counted.rows);
            }
        }
    }

    /// Counts the watches that an operation would stop.
    pub async fn count_stopped(&self, app: AppNo, filter: &WatchFilter) -> Result<u64> {
        let (mut counted, mut before) = (self.count(), None);
        loop {
            let page = self.stopped(app, filter, before, COUNTED).await?;
            before = page.next;
            if counted.add(page.rows.len()) || before.is_none() {
                return Ok(counted.rows);
            }
        }
    }

    fn count(&self) -> Count {
        Count { rows: 0, took: self.request_clock.as_ref().map(Clock::stopwatch) }
    }

    /// Returns a page of the deliveries that the filter selects. `None` for one that is not retried.
    async fn retried(
        &self,
        app: AppNo,
        filter: &DeliveryFilter,
        before: Option<DeliveryId>,
        rows: u32,
    ) -> Result<ListPage<Option<DeliveryId>, DeliveryId>> {
        let filter = filter.clone();
        let part = move |tx: &Tx<'_>, before, remaining: Remaining| -> Result<Part<_, _>> {
            deliveries::retried_page(tx, app, &DeliveryFilter { before, ..filter.clone() }, remaining)
        };
        self.list(app, before, rows, part).await
    }

    async fn stopped(
        &self,
        app: AppNo,
        filter: &WatchFilter,
        before: Option<WatchId>,
        rows: u32,
    ) -> Result<ListPage<WatchId, WatchId>> {
        let filter = filter.clone();
        let part = move |tx: &Tx<'_>, before, remaining: Remaining| -> Result<Part<_, _>> {
            watches::stopped_page(tx, app, &WatchFilter { before, ..filter.clone() }, remaining)
        };
        self.list(app, before, rows, part).await
    }
}

/// A count in progress.
struct Count {
    rows: u64,
    took: Option<Stopwatch>,
}

impl Count {
    /// Adds rows. Returns whether no more are counted.
    fn add(&mut self, rows: usize) -> bool {
        self.rows += rows as u64;
        self.rows >= COUNTED_MAX || self.took.as_ref().is_some_and(|took| took.elapsed() >= COUNT_FOR)
    }
}

fn int(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// Inserts an operation, and requests its first step. Returns its row number.
fn insert(batch: &mut Batch<'_>, new: &CreateOperation) -> Result<OperationNo> {
    // Rows that are created later have greater ids.
    let before = batch.shared.ids.draw(new.now);
    insert_from(batch, new, before)
}

/// Inserts an operation that begins before this id. One that exists begins there again.
fn insert_from(batch: &mut Batch<'_>, new: &CreateOperation, before: Id) -> Result<OperationNo> {
    let subject = new.subject.to_text();
    let (kind, status) = (new.subject.kind(), OperationStatus::Running);
    batch.effects.has_operation = true;
    batch.tx.one(
        "insert into operations (app, id, kind, subject, before, status, total, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8)
         on conflict (id) do update set before = excluded.before, status = excluded.status, finished_at = null
         returning no",
        params![new.app, new.id, kind, &subject, before, status, int(new.total), new.now],
        |row| Ok(OperationNo(row.int(0)?)),
    )
}

pub fn create_operation(batch: &mut Batch<'_>, command: &CreateOperation) -> Outcome<(), TooManyOperations> {
    let values = params![command.app, ERASE_WATCH, RUNNING_MAX];
    let running = batch.tx.one(&RUNNING_OF_APP, values, |row| row.int(0))?;
    if running >= RUNNING_MAX {
        return Ok(Err(TooManyOperations(RUNNING_MAX)));
    }
    insert(batch, command)?;
    Ok(Ok(()))
}

/// Creates the operations that skip what this transaction has left. Deliveries of an erased watch are deleted instead.
pub fn create_skips(batch: &mut Batch<'_>) -> Result<()> {
    for LeftToSkip { app, watch, scope, before } in std::mem::take(&mut batch.left_to_skip) {
        if batch.erased.contains(&watch) {
            continue;
        }
        // It is deleted at its end, so its time is not shown.
        let now = Timestamp::default();
        // Pages leave out what a watch sends as long as an operation with its id exists (`deliveries/skipping`).
        let id = if scope == SkipScope::Stopped { watch.0 } else { batch.shared.ids.draw(now) };
        let (id, subject) = (OperationId(id), Subject::SkipDeliveries(watch, scope));
        insert_from(batch, &CreateOperation { id, app, subject, total: 0, now }, before)?;
    }
    Ok(())
}

pub fn advance_operation(batch: &mut Batch<'_>, command: &AdvanceOperation) -> Result<bool> {
    let AdvanceOperation { no, page, rows, now } = command;
    batch.checkpoint_early();
    let sql = format!("{RUNNING} and no = $1");
    let Some(operation) = batch.tx.find(&sql, params![*no], read_running)? else { return Ok(false) };
    let app = operation.app;
    let (done, next) = match (&operation.subject, page) {
        (Subject::EraseWatch(watch), _) => {
            if erase::rest(batch, app, *watch, *rows, Some(*now))? > 0 {
                batch.tx.run("delete from operations where no = $1", params![*no])?;
                return Ok(false);
            }
            return Ok(true);
        }
        (&Subject::SkipDeliveries(watch, scope), _) => {
            let left = LeftToSkip { app, watch, scope, before: operation.before };
            let Some(next) = deliveries::skip_next(batch, left, *rows)? else {
                batch.tx.run("delete from operations where no = $1", params![*no])?;
                deliveries::load_again(batch, app, watch, scope)?;
                return Ok(false);
            };
            batch.tx.run("update operations set before = $1 where no = $2", params![next, *no])?;
            return Ok(true);
        }
        (Subject::EraseApp(erased), _) => {
            let step = erase::app_step(batch, *erased, *rows, *now)?;
            (step.watches, (!step.is_done).then_some(operation.before))
        }
        (_, Some(page)) if page.from != operation.before => return Ok(true),
        (_, None) => return Ok(true),
        (Subject::RetryDeliveries(filter), Some(page)) => {
            let ids: Vec<DeliveryId> = page.found.iter().copied().map(DeliveryId).collect();
            (deliveries::retry_now(batch, app, filter, &ids, *now)?, page.next)
        }
        (Subject::StopWatches(filter), Some(page)) => {
            let ids: Vec<WatchId> = page.found.iter().copied().map(WatchId).collect();
            let (done, last) = watches::stop_selected(batch, app, filter, &ids, *now)?;
            (done, last.map(|last| last.0).or(page.next))
        }
    };
    let is_running = next.is_some();
    let status = if is_running { OperationStatus::Running } else { OperationStatus::Succeeded };
    let finished_at = (!is_running).then_some(*now);
    batch.tx.run(
        "update operations set before = $1, done = done + $2,
           total = case when done + $2 > total then done + $2 else total end, status = $3, finished_at = $4 where no = $5",
        params![next.unwrap_or(operation.before), int(done), status, finished_at, *no],
    )?;
    Ok(is_running)
}

pub fn fail_operation(batch: &mut Batch<'_>, command: &FailOperation) -> Result<()> {
    batch.tx.run(
        "update operations set status = $1, finished_at = $2 where no = $3 and finished_at is null",
        params![OperationStatus::Failed, command.now, command.no],
    )?;
    Ok(())
}

pub fn erase_watch(batch: &mut Batch<'_>, command: &EraseWatch) -> Result<WatchErasure> {
    let EraseWatch { operation: id, app, watch, rows, now } = *command;
    if erase::begin(batch, app, &[watch], now)?.is_empty() {
        return Ok(WatchErasure::NotFound);
    }
    if erase::rest(batch, app, watch, rows, Some(now))? > 0 {
        return Ok(WatchErasure::Done);
    }
    let subject = Subject::EraseWatch(watch);
    insert(batch, &CreateOperation { id, app, subject, total: 0, now }).map(WatchErasure::More)
}

pub fn delete_app(batch: &mut Batch<'_>, command: &DeleteApp) -> Result<bool> {
    let DeleteApp { app, owner, operation: id, total, now } = *command;
    if !apps::mark_deleted(batch, app, now)? {
        return Ok(false);
    }
    erase::revoke_keys(batch, app)?;
    insert(batch, &CreateOperation { id, app: owner, subject: Subject::EraseApp(app), total, now })?;
    Ok(true)
}
