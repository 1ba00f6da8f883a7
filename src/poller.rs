//! Polling jobs.
//!
//! The scheduler selects the jobs that are due, the provider's definition makes each request and interprets
//! the response, `decide` determines what to write, and the scheduler schedules the next poll. One poll is one
//! task. [`Poller::step`] starts the polls that are due and returns when to call it again. Nothing here sleeps,
//! except to repeat a write while the database accepts no writes.
//!
//! **A poll without a change writes nothing.** The number of polls, their times and their errors are kept in
//! memory only.
//!
//! **The result of a poll is written before its job is scheduled again.** While the database accepts no writes, the
//! result is kept and written later. The number of such polls is limited by the provider's concurrency.

mod app_memory;
mod budget;
mod decide;
mod decide_result;
mod exchange;
mod not_found;
mod own_providers;
mod pending_result;
mod polling;
mod provider;
mod public_error;
mod schedule;
mod scheduler;
mod tokens;

pub use polling::Poller;
pub use provider::{Provider, Purpose};
pub use tokens::TokenFailure;
