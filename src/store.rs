//! Facts. All SQL is in this module and nowhere else.
//!
//! A row records what happened: jobs as last seen, their endings, watches, events, deliveries, attempts. The
//! schedules of polls and attempts are in memory and computed from rows. A write is a command to the single
//! writer ([`writer`] explains it). Reads run beside the writer, on connections of their own, and see what is
//! committed.
//!
//! The store knows no HTTP. After a commit it puts messages for the poller and the dispatcher into their
//! [`Mailbox`].
//!
//! The files form layers, each of which imports only those above it:
//!
//! 1. `db`: connections, one SQL text, two dialects;
//! 2. `sealing`, `tenant_cache`, `mailbox`, `change_notifier`: state without SQL, and `shared`, which holds
//!    it;
//! 3. `rows`, `batch`, `reads`: what all aggregates use;
//! 4. one file for each aggregate: its types, statements and reads;
//! 5. `writer` and `commands`: the writer is generic, and `commands` declares the command set;
//! 6. `open`.

mod apps;
mod batch;
mod change_notifier;
mod commands;
mod db;
mod deliveries;
mod endings;
mod events;
mod idempotency;
mod jobs;
mod keys;
#[cfg(test)]
mod list_plans;
mod mailbox;
mod nodes;
mod open;
mod prune;
mod reads;
mod reseal;
mod retry_writes;
mod rows;
mod sealing;
mod shared;
mod tenant_cache;
mod tenants;
mod timeline;
mod watch_events;
mod watches;
mod writer;

pub use self::apps::{BootstrapResult, BootstrapTenant, CreateApp, CreateAppRefusal, RotateSecret};
pub use self::change_notifier::Listener;
pub use self::commands::Store;
pub use self::db::{DatabaseLocation, StoreError};
pub use self::deliveries::{
    DeliveryFilter, DueDeliveries, LoadDueDeliveries, RecordAttempt, RescheduleRetries, RetryDelivery,
    RetryFailedDeliveries, RetryProgress, RetryRefusal,
};
pub use self::endings::{EndJob, ExpireWatches, NotifyProgress, NotifyWatches};
pub use self::events::{After, EventFilter};
pub use self::idempotency::{IdempotencyKey, Idempotent, Replay, Replayable, Respond, StoredResponse};
pub use self::jobs::{NotFound, PollNow, RecordObservation, RefreshEnding, UnfinishedEnding};
pub use self::keys::{CreateKey, KeyRow, RevokeKey, TooManyKeys};
pub use self::mailbox::Mailbox;
pub use self::open::StoreOptions;
pub use self::prune::Prune;
pub use self::reads::ReadStore;
pub use self::retry_writes::{WRITE_RETRY_PAUSE, write_until_accepted};
pub use self::sealing::{AnswerKey, Keyring};
pub use self::tenant_cache::Key;
pub use self::timeline::{TimelineEntry, TimelinePosition};
pub use self::watches::{AmendRefusal, AmendWatch, Register, RegisterMany, StopWatch, WatchFilter};
pub use self::writer::Writer;
pub use crate::domain::Scope;
