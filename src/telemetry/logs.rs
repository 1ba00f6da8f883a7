//! Telling what happens: one subscriber, on stderr, so that stdout stays what a command answers.
//!
//! **A line is an event.** What others have given (a provider's error, a job's id) stands in lines, and
//! must not be able to make one. JSON escapes by itself; of a line of text every control character
//! but its end is written as an escape, whichever way it came in ([`Lines`]).
//!
//! **What is said is ours.** A level alone is for our own lines; the libraries say warnings and errors.
//! What they would say beyond that is for whoever debugs them, and names them in the filter: they know
//! nothing of what is secret here.
//!
//! The names of the fields are a contract: docs/OPERATIONS.md lists them, and a test compares.

use std::io::{self, IsTerminal, Write};

use anyhow::Context;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

use crate::config::LogFormat;

/// Starts logging. `log` is a filter that the configuration has already checked.
pub fn init(log: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(log);
    let filter =
        EnvFilter::builder().parse(&filter).with_context(|| format!("`{filter}` is not a log filter"))?;
    let builder = Subscriber::builder()
        .with_env_filter(filter)
        // A line that cannot be written (whoever read stderr has gone, the disk is full) is lost. NotifyProgress
        // to complain of that, the library would do so on stderr, and panic in whoever logged.
        .log_internal_errors(false);
    // Colours only for eyes. On a terminal, NO_COLOR is heeded by the library.
    let colours = io::stderr().is_terminal();
    let started = match format {
        LogFormat::Json => builder.with_writer(io::stderr).json().flatten_event(true).try_init(),
        LogFormat::Text if colours => builder.with_writer(|| Lines(io::stderr(), true)).try_init(),
        LogFormat::Text => builder.with_ansi(false).with_writer(|| Lines(io::stderr(), false)).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("logging was already started: {error}"))
}

/// A level alone is meant for our own lines.
fn filter(log: &str) -> String {
    match log.trim().to_ascii_lowercase().as_str() {
        level @ ("info" | "debug" | "trace") => format!("warn,ringback={level}"),
        _ => log.to_owned(),
    }
}

/// Writes lines: the library hands over one at a time. With colours, the escape sequences are the
/// library's own, which it takes out of everything that it is given.
struct Lines<W>(W, bool);

impl<W: Write> Write for Lines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let inside = line.strip_suffix(b"\n").unwrap_or(line);
        let text = String::from_utf8_lossy(inside);
        let bad =
            |c: char| (c.is_control() && !(self.1 && c == '\u{1b}')) || matches!(c, '\u{2028}' | '\u{2029}');
        if text.contains(bad) {
            let mut clean = String::with_capacity(text.len() + 16);
            for c in text.chars() {
                if bad(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
            }
            clean.push('\n');
            self.0.write_all(clean.as_bytes())?;
        } else {
            self.0.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_stands_in_a_line_makes_another() {
        for (given, written) in [
            ("INFO looked job=a\n", "INFO looked job=a\n"),
            ("INFO looked job=a\nERROR forged\n", "INFO looked job=a\\nERROR forged\n"),
            ("a\r\x1b[2Kb\u{85}c\u{2028}d\te\0\n", "a\\r\\u{1b}[2Kb\\u{85}c\\u{2028}d\\te\\u{0}\n"),
            ("umlaut ä\n", "umlaut ä\n"),
        ] {
            let mut lines = Lines(Vec::new(), false);
            lines.write_all(given.as_bytes()).expect("memory");
            assert_eq!(String::from_utf8_lossy(&lines.0), written);
        }
        let mut colours = Lines(Vec::new(), true);
        colours.write_all(b"\x1b[32mINFO\x1b[0m a\nb\n").expect("memory");
        assert_eq!(colours.0, b"\x1b[32mINFO\x1b[0m a\\nb\n");
    }

    #[test]
    fn a_level_alone_is_for_our_own_lines() {
        assert_eq!(filter("info"), "warn,ringback=info");
        assert_eq!(filter("TRACE"), "warn,ringback=trace");
        assert_eq!(filter("error"), "error");
        assert_eq!(filter("off"), "off");
        assert_eq!(filter("trace,hyper=off"), "trace,hyper=off");
    }
}
