//! Operations: work on many rows that a client has requested. A client starts one, gets its id, and reads how far it is.
//!
//! **Work in steps.** There may be millions of rows, and every other write waits for a transaction. So a step has two
//! parts ([`advance`]). A reader examines the rows that come next, and returns those that the filter selects: it sees a
//! snapshot and delays no write. Then the writer changes these rows, and stores the new position in the same
//! transaction. It reads each of them by its key, and changes only those that still have to be changed. The caller
//! adapts the number of rows to the duration of a step. Operations take turns, a step each. Those that skip can be
//! a hundred thousand when a job with as many watches ends, so every second step is one of another operation
//! ([`OperationTurns`]).
//!
//! **Which rows.** Rows are examined from the newest to the oldest, in the order of their ids, beginning with an id that
//! is drawn in the transaction that creates the operation. Rows that are created later have greater ids, so an operation
//! ends, however fast new rows come. A watch that is registered at the same moment may be among the rows or not.
//!
//! **Crash.** The position, the filter and the counts are in the row of the operation. A crash between the two parts
//! changes nothing. A crash after the commit loses the messages to the dispatcher; the next start rebuilds its queues
//! from the rows. The next start continues each operation where it was.
//!
//! **Two steps at the same position** can be queued if a commit has an unknown outcome. The writer compares the
//! position at which the page began with that of the row, and does nothing if they differ.
//!
//! **A retry while a delivery is in flight** follows the rules of a single one (`deliveries/retry`). A delivery that
//! succeeds between the two parts is not sent again, and one that fails between them is retried if the filter selects
//! both states. A stop between them has priority: the deliveries of a stopped watch are not retried.
//!
//! **A stop while a watch ends** between the two parts changes nothing: the ending is delivered.
//!
//! **Operations that no client sees** delete what is left of an erased watch (`erase`), and skip deliveries of a watch
//! that are too many for the transaction that stops or ends it (`deliveries/skipping`).
//!
//! **Counts.** `total` is counted by readers before the operation begins, for at most 10 s and [`COUNTED_MAX`] rows. It grows
//! with `done` if more rows are found. `done` can stay below it, because rows change meanwhile.

mod advance;
pub(super) mod expiry;
mod subject;

use std::sync::LazyLock;

use super::db::{Result, Row, StoreError, Tx, params};
use super::reads::{INTERNAL, ReadStore};
use crate::domain::{AppNo, Id, Operation, OperationId, OperationNo, OperationStatus};

pub use self::advance::{
    AdvanceOperation, CreateOperation, DeleteApp, EraseWatch, FailOperation, OperationPage,
    TooManyOperations, WatchErasure,
};
pub use self::subject::Subject;

pub(super) use self::advance::{
    advance_operation, create_operation, create_skips, delete_app, erase_watch, fail_operation,
};

/// Maximum number of rows that are counted before an operation begins.
pub const COUNTED_MAX: u64 = 1_000_000;

/// An operation in progress.
#[derive(Clone, Debug)]
pub struct RunningOperation {
    /// Row number.
    pub no: OperationNo,
    /// Id.
    pub id: OperationId,
    /// The app whose clients see it, and whose rows it works on, except if it erases another app.
    pub app: AppNo,
    /// What it works on.
    pub subject: Subject,
    /// Rows with smaller ids are left.
    pub before: Id,
}

/// Columns of an operation in progress, for [`read_running`].
pub(super) const RUNNING: &str =
    "select no, id, app, kind, subject, before from operations where finished_at is null";

/// Operations in progress that a client has requested. The partial index of these applies only to exactly these
/// expressions, and to `no + 0`.
const REQUESTED: &str = "finished_at is null and kind <> 'skip_deliveries'";

/// The next operation in progress that a client has requested.
pub(super) static NEXT_REQUESTED: LazyLock<String> =
    LazyLock::new(|| format!("{RUNNING} and {REQUESTED} and no + 0 > $1 order by no + 0 limit 1"));

/// The number of operations of the app `$1` in progress, up to `$3`. Those of the kind `$2` do not count. The sum keeps
/// the planner from the index by app, which contains those that skip.
pub(super) static RUNNING_OF_APP: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select count(*) from (select 1 from operations where {REQUESTED} and no + 0 > 0 and app + 0 = $1
           and kind <> $2 limit $3) few"
    )
});

/// The next operation in progress that skips deliveries.
pub(super) static NEXT_SKIP: LazyLock<String> =
    LazyLock::new(|| format!("{RUNNING} and kind = 'skip_deliveries' and no > $1 order by no limit 1"));

/// Turns of the operations in progress. Those that clients have requested and those that skip deliveries have
/// alternate turns, and take turns among themselves in the order of their creation.
#[derive(Clone, Copy, Debug, Default)]
pub struct OperationTurns {
    /// The last operation of each of the two kinds.
    last: [OperationNo; 2],
    /// Kind of the next turn.
    next: usize,
}

/// Reads the columns of [`RUNNING`].
pub(super) fn read_running(row: &Row<'_>) -> Result<RunningOperation> {
    Ok(RunningOperation {
        no: OperationNo(row.int(0)?),
        id: OperationId(row.id(1)?),
        app: AppNo(row.int(2)?),
        subject: Subject::read(&row.text(3)?, &row.text(4)?)?,
        before: row.id(5)?,
    })
}

impl ReadStore {
    /// Returns an operation of the app.
    pub async fn operation(&self, app: AppNo, id: OperationId) -> Result<Option<Operation>> {
        self.read(app, move |tx| {
            tx.find(
                "select status, total, done from operations
                 where id = $1 and app = $2 and kind <> $3 and kind <> $4",
                params![id, app, subject::HIDDEN[0], subject::HIDDEN[1]],
                |row| {
                    let count = |column| {
                        let broken = |_| StoreError::Inconsistent("a count is negative".to_owned());
                        u64::try_from(row.int(column)?).map_err(broken)
                    };
                    let status = row.word(0, OperationStatus::parse)?;
                    Ok(Operation { id, status, total: count(1)?, done: count(2)? })
                },
            )
        })
        .await
    }

    /// Returns the operation in progress that makes the next step, and changes the turns. `None`: none is in progress.
    pub async fn next_operation(&self, turns: &mut OperationTurns) -> Result<Option<RunningOperation>> {
        let last = turns.last;
        let kinds = [turns.next, 1 - turns.next];
        let find = move |tx: &Tx<'_>| {
            for kind in kinds {
                let sql: &str = if kind == 0 { &NEXT_REQUESTED } else { &NEXT_SKIP };
                // After the last one, the first one follows.
                for after in [last[kind], OperationNo::default()] {
                    if let Some(next) = tx.find(sql, params![after], read_running)? {
                        return Ok(Some((kind, next)));
                    }
                }
            }
            Ok(None)
        };
        let Some((kind, next)) = self.read(INTERNAL, find).await? else { return Ok(None) };
        turns.last[kind] = next.no;
        turns.next = 1 - kind;
        Ok(Some(next))
    }

    /// Returns the number of watches of an app, counted up to [`COUNTED_MAX`].
    pub async fn count_watches(&self, app: AppNo) -> Result<u64> {
        let most = i64::try_from(COUNTED_MAX).unwrap_or(i64::MAX);
        let sql = "select count(*) from (select 1 from watches where app = $1 limit $2) few";
        let count = self.read(app, move |tx| tx.one(sql, params![app, most], |row| row.int(0)));
        Ok(u64::try_from(count.await?).unwrap_or(0))
    }
}
