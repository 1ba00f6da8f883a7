//! Results of commands: failures with their exit codes, and lines on stdout and stderr.

use std::fmt::Display;
use std::io::Write as _;

use anyhow::Context as _;

use crate::config::{ConfigError, Source};

/// Failure of a command.
#[derive(Debug)]
pub enum Failure {
    /// Wrong usage: exit code 2.
    Usage(String),
    /// The command failed: exit code 1.
    Failed(String),
    /// The command worked, but the watch that it followed did not complete: its own exit codes.
    Ended(u8),
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

impl From<Vec<ConfigError>> for Failure {
    /// Reports all errors of the configuration, one per line. An error in a flag is wrong usage.
    fn from(errors: Vec<ConfigError>) -> Self {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let is_usage = errors.iter().any(|error| matches!(error.source, Source::Flag(_)));
        if is_usage { Self::Usage(lines.join("\n")) } else { Self::Failed(lines.join("\n")) }
    }
}

/// Writes a line to stdout. `println!` would panic if stdout is closed, as in `ringback config | true`, or if the disk
/// is full.
pub(super) fn print_line(line: impl Display) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{line}").context("stdout cannot be written")
}

/// Writes a line to stderr, so that it is not part of the result.
pub(super) fn print_note(line: &str) {
    // If stderr is closed, the exit code still reports a failure.
    let _ = writeln!(std::io::stderr(), "{line}");
}
