//! Logs, metrics and traces.

mod log_queue;
pub mod log_window;
pub mod logs;
pub mod metrics;
pub mod traces;
