//! The loop that continues operations (`store/operations`).

use std::time::Duration;

use super::background::Never;
use crate::clock::Clock;
use crate::store::{
    AdvanceOperation, FailOperation, OperationTurns, RunningOperation, Store, StoreError, WRITE_RETRY_PAUSE,
};

/// Duration of a step beyond which the next one is smaller. Every other write waits for it, for at most about twice as
/// long.
const STEP: Duration = Duration::from_millis(10);

/// Smallest, first and largest number of rows of a step.
const ROWS: (u32, u32, u32) = (10, 100, 1_000);

/// Continues the operations in progress, and those that are created later.
pub(super) async fn run(store: Store, clock: Clock) -> Never {
    let due = store.operations_due();
    loop {
        let requested = due.next().await;
        work(&store, &clock).await;
        due.finish(requested);
    }
}

/// Returns the number of rows of the next step after one of `rows` that took this time.
fn next_rows(rows: u32, took: Duration) -> u32 {
    if took > STEP { (rows / 2).max(ROWS.0) } else { (rows + rows / 2).min(ROWS.2) }
}

/// Makes steps of all operations, in turns, until none is left.
async fn work(store: &Store, clock: &Clock) {
    let (mut turns, mut rows) = (OperationTurns::default(), ROWS.1);
    loop {
        let next = match store.next_operation(&mut turns).await {
            Ok(Some(next)) => next,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "operations could not be read; the next try follows in a second");
                clock.sleep(WRITE_RETRY_PAUSE).await;
                continue;
            }
        };
        let took = clock.stopwatch();
        match step(store, clock, &next, rows).await {
            Ok(true) => rows = next_rows(rows, took.elapsed()),
            Ok(false) => ended(&next),
            Err(StoreError::Inconsistent(reason)) => fail(store, clock, &next, &reason).await,
            Err(error) => {
                let operation = next.id;
                tracing::warn!(%error, %operation, "an operation waits: the database accepts no writes");
                clock.sleep(WRITE_RETRY_PAUSE).await;
            }
        }
    }
}

/// Logs the end of an operation. A job with very many watches can leave as many of those that no client sees.
fn ended(operation: &RunningOperation) {
    let (id, kind) = (operation.id, operation.subject.kind());
    if operation.subject.is_hidden() {
        tracing::debug!(operation = %id, kind, "an operation has ended");
    } else {
        tracing::info!(operation = %id, kind, "an operation has ended");
    }
}

/// Makes a step of an operation. Returns whether it is still in progress.
async fn step(
    store: &Store,
    clock: &Clock,
    operation: &RunningOperation,
    rows: u32,
) -> Result<bool, StoreError> {
    let page = store.operation_page(operation, rows).await?;
    store.advance_operation(AdvanceOperation { no: operation.no, page, rows, now: clock.now() }).await
}

/// Ends an operation whose rows cannot be read or changed: a repetition would fail as well.
async fn fail(store: &Store, clock: &Clock, operation: &RunningOperation, reason: &str) {
    let (no, id) = (operation.no, operation.id);
    tracing::error!(error = reason, operation = %id, "an operation has failed");
    if let Err(error) = store.fail_operation(FailOperation { no, now: clock.now() }).await {
        tracing::warn!(%error, operation = %id, "the end of an operation could not be written");
        clock.sleep(WRITE_RETRY_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_step_makes_the_next_one_smaller() {
        let after = |rows, millis| next_rows(rows, Duration::from_millis(millis));
        assert_eq!((after(100, 11), after(15, 500), after(10, 500)), (50, 10, 10));
        assert_eq!((after(10, 1), after(100, 10), after(900, 1)), (15, 150, 1_000));
    }
}
