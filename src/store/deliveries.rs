//! Deliveries and their attempts.
//!
//! The column `next_attempt_at` holds the time of the next attempt, because every attempt is a write anyway. It is
//! null if no attempt follows. A partial index over it lists the remaining work by destination queue, first attempts
//! before retries.
//!
//! **Crash after an attempt and before its record.** The row still has its `next_attempt_at`, so the attempt is
//! repeated after the restart, with the same id and the same bytes. This is the price of "at least once", and the
//! only duplicate that this module can cause.
//!
//! **A record that is written twice.** If a commit succeeded and the connection was lost before its confirmation,
//! the record is written again (`db/postgres` explains when). The number of attempts does not match any more, and
//! nothing changes.
//!
//! **A stop while an attempt is in flight.** The result is recorded. A success is stored as such; after a failure
//! the delivery is no longer pending, and only the attempt is added.
//!
//! **A manual retry while an attempt is in flight.** The request sets `is_manual` and `next_attempt_at`. The record
//! of the attempt in flight does not change them, unless it succeeded or was itself a manual retry, which then
//! answers both requests.

mod attempts;
mod create;
mod list;
mod pending;
mod queues;
mod retry;
mod skip;

pub use self::attempts::RecordAttempt;
pub use self::list::DeliveryFilter;
pub use self::queues::{DueDeliveries, LoadDueDeliveries, RescheduleRetries};
pub use self::retry::{RetryDelivery, RetryFailedDeliveries, RetryProgress, RetryRefusal};

pub(super) use self::attempts::record_attempt;
pub(super) use self::create::{create, create_deliveries};
#[cfg(test)]
pub(super) use self::list::listed;
pub(super) use self::queues::{load_due_deliveries, reschedule_retries};
pub(super) use self::retry::{retry_delivery, retry_failed_deliveries};
pub(super) use self::skip::{skip_stopped, skip_superseded};
