//! Telling what happens: one subscriber, on stderr, so that stdout stays what a command answers.
//!
//! What it deliberately does not do: decide what is logged where. That is one filter, the
//! operator's.

use std::io::IsTerminal;

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

use crate::config::LogFormat;

/// Starts logging. `log` is a filter that the configuration has already checked.
pub fn init(log: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().parse(log).with_context(|| format!("`{log}` is not a log filter"))?;
    let builder = Subscriber::builder()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written (whoever read stderr has gone, the disk is full) is lost. Told
        // to complain of that, the library would do so on stderr, and panic in whoever logged.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text if std::io::stderr().is_terminal() => builder.try_init(),
        // Colours only for eyes. On a terminal, NO_COLOR is heeded by the library.
        LogFormat::Text => builder.with_ansi(false).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging was already started: {error}"))
}
