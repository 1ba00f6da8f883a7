//! Logs, metrics and traces.

mod log_queue;
pub mod logs;
pub mod metrics;
pub mod traces;
