//! Results of commands: failures with their exit codes, lines on stdout and stderr, and the texts of JSON values.
//!
//! Texts from the server can come from providers, receivers and clients. [`visible`] is the one form of their control
//! characters and marks of writing direction, in tables, lists of fields, errors and JSON: the escape of JSON. So the
//! metadata of a watch stay JSON, and the same character never has two forms.
//!
//! A reader that closes the pipe has seen enough, as in `ringback watches --all | head -1`. The command then ends
//! quietly and with success ([`Failure::Closed`]). Every other error of stdout is a failure.

use std::fmt::Display;
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};

use anyhow::Context as _;
use serde_json::Value;

use crate::config::{ConfigError, Source};
use crate::telemetry::logs;

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Wrong usage: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The command failed: exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The server does not answer, or cannot answer now, so that a retry can help: exit code 1.
    #[error("{0}")]
    Unavailable(String),
    /// The command worked, but the watch that it followed did not complete: its own exit codes.
    #[error("exit code {0}")]
    Ended(u8),
    /// The reader of stdout has closed it: exit code 0.
    #[error("the reader of stdout has closed it")]
    Closed,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        error.downcast().unwrap_or_else(|error| Self::Failed(format!("{error:#}")))
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

/// Whether stdout is the null device. The standard library opens it in place of a closed stdout.
pub(super) fn discards_stdout() -> bool {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned().map(File::from);
    let device = |of: Metadata| of.file_type().is_char_device().then(|| of.rdev());
    let stdout = stdout.and_then(|file| file.metadata()).ok().and_then(device);
    stdout.is_some() && stdout == std::fs::metadata("/dev/null").ok().and_then(device)
}

/// Writes text to stdout. `print!` would panic if stdout is closed, as in `ringback config | true`, or if the disk is
/// full.
pub(super) fn print(text: impl Display) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout();
    // At the end of the process, an error would be ignored.
    write!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| {
        let is_closed = error.kind() == ErrorKind::BrokenPipe;
        let failed = || anyhow::Error::from(error).context("stdout cannot be written");
        if is_closed { Failure::Closed.into() } else { failed() }
    })
}

/// Writes a line to stdout.
pub(super) fn print_line(line: impl Display) -> anyhow::Result<()> {
    print(format_args!("{line}\n"))
}

/// Writes a line to stdout for a service, which needs no reader: it neither waits for one nor ends because of an error.
/// A pipe that is not read holds 64 KiB, and a write to a full one waits. The end of the process does not wait for
/// this thread.
pub(super) fn print_aside(line: String) {
    // Without a thread, the line is not shown. The log has it all the same.
    let _ = std::thread::Builder::new().name("stdout".to_owned()).spawn(move || {
        let _ = print_line(line);
    });
}

/// Writes a text to stdout on a thread of its own, and returns its result. A pipe that is not read holds 64 KiB; a write
/// to a full one waits, and the caller must not.
pub(super) async fn print_waiting(text: String) -> anyhow::Result<()> {
    let (done, printed) = tokio::sync::oneshot::channel();
    let write = move || {
        let _ = done.send(print(text));
    };
    std::thread::Builder::new().name("stdout".to_owned()).spawn(write).context("no thread can be started")?;
    printed.await.context("the thread that writes to stdout has ended")?
}

/// Turns the end of the reader of stdout into success, for a command whose work goes on without it.
pub(super) fn unless_closed(printed: anyhow::Result<()>) -> anyhow::Result<()> {
    match printed {
        Err(error) if matches!(error.downcast_ref(), Some(Failure::Closed)) => Ok(()),
        printed => printed,
    }
}

/// Writes a line to stderr, so that it is not part of the result.
pub(super) fn print_note(line: impl Display) {
    // If stderr is closed, the exit code still reports a failure. A service writes to stderr through its log only: a
    // pipe that is not read must not prevent its end.
    if !logs::write_line(&line.to_string()) {
        let _ = writeln!(std::io::stderr(), "{line}");
    }
}

/// Writes a line to stderr on a thread of its own, for a command that must not wait for a pipe that is not read.
pub(super) async fn print_note_waiting(line: String) {
    let (done, printed) = tokio::sync::oneshot::channel();
    let write = move || {
        print_note(line);
        let _ = done.send(());
    };
    // Without a thread, the line is not shown.
    if std::thread::Builder::new().name("stderr".to_owned()).spawn(write).is_ok() {
        let _ = printed.await;
    }
}

/// Returns whether a character controls a terminal or changes the direction of text.
pub(super) fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the visible form of a character.
pub(super) fn visible(c: char) -> String {
    match c {
        '\n' => r"\n".to_owned(),
        '\r' => r"\r".to_owned(),
        '\t' => r"\t".to_owned(),
        // Each of these characters is one unit of UTF-16.
        c if is_unfit(c) => format!("\\u{:04x}", u32::from(c)),
        c => c.to_string(),
    }
}

/// Returns the text with visible control characters, for a single line.
pub fn clean(text: &str) -> String {
    text.chars().map(visible).collect()
}

/// Returns JSON with visible control characters. Its meaning and its layout stay the same.
pub fn clean_json(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_whitespace() { c.to_string() } else { visible(c) }).collect()
}

/// Returns the value at `pointer` as text; empty for null and for a missing value.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Returns the texts at several pointers.
pub fn texts<const N: usize>(value: &Value, pointers: [&str; N]) -> [String; N] {
    pointers.map(|pointer| text(value, pointer))
}

/// Joins the words that are not empty.
pub fn join(words: impl IntoIterator<Item = String>, separator: &str) -> String {
    words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(separator)
}

/// Returns the entries of the list at `pointer`.
pub fn list<'v>(value: &'v Value, pointer: &str) -> impl Iterator<Item = &'v Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Returns the address of a destination, whose field depends on the channel.
pub fn address(destination: &Value) -> String {
    let named = ["/url", "/email", "/channel"].map(|field| text(destination, field));
    named.into_iter().find(|place| !place.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_visible() {
        let hostile = "a\x1b]0;x\x07b\nc\u{9b}31md\u{202e}e";
        assert_eq!(clean(hostile), r"a\u001b]0;x\u0007b\nc\u009b31md\u202ee");
    }

    #[test]
    fn a_destination_is_shown_by_its_url_email_or_channel() {
        for (field, place_of) in
            [("url", "https://a.example/hook"), ("email", "me@a.example"), ("channel", "#ops")]
        {
            assert_eq!(address(&serde_json::json!({ "type": "x", field: place_of })), place_of);
        }
        assert_eq!(address(&serde_json::json!({ "type": "x" })), "");
    }

    #[test]
    fn a_missing_value_is_an_empty_text() {
        let value = serde_json::json!({ "at": "x", "n": null, "p": 50 });
        assert_eq!(texts(&value, ["/n", "/p", "/q", "/at"]), ["", "50", "", "x"]);
    }
}
