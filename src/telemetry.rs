//! Logs, metrics and traces of this process.

pub mod logs;
pub mod metrics;
pub mod traces;
