//! Logs: one subscriber that writes to stderr, so that stdout stays free for the output of commands.
//!
//! - **A line is one event.** Lines contain text from outside (a provider's error, a job's id), which must
//!   not be able to start another line. JSON escapes by itself. In text lines, every control character except
//!   the final line break is written as an escape ([`EscapingWriter`]).
//! - **A level alone applies to Ringback's own lines.** Libraries log warnings and errors only. Their other
//!   lines are for debugging and must be named in the filter, because libraries do not know what is secret.
//! - **Logging never waits.** A thread of its own writes the lines ([`LogQueue`]). A panic is logged like an error,
//!   because the standard hook would write to stderr itself.
//! - **Field names are a contract.** docs/OPERATIONS.md lists them, and a test compares the list.

use std::io::{self, IsTerminal, Write};
use std::sync::{LazyLock, OnceLock};

use anyhow::Context;
use prometheus::IntCounter;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::Subscriber;

use super::log_queue::LogQueue;
use crate::config::LogFormat;

/// The queue of this process, after [`init`].
static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Number of lines that were dropped because stderr was not read or a write to it failed. stderr belongs to the
/// process, so applications of one process share this number.
pub static DROPPED: LazyLock<IntCounter> = LazyLock::new(|| {
    let help = "Log lines that were dropped because stderr was not read, or a write to it failed.";
    #[expect(clippy::expect_used, reason = "the name is a constant, and every test makes it")]
    IntCounter::new("ringback_log_lines_dropped_total", help).expect("a valid name")
});

/// Starts logging. `log` is a filter that the configuration has checked.
pub fn init(log: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = filter(log);
    let filter =
        EnvFilter::builder().parse(&filter).with_context(|| format!("`{filter}` is not a log filter"))?;
    let builder = Subscriber::builder()
        .with_env_filter(filter)
        // A line that cannot be written (a closed pipe, a full disk) is lost. The library would report that on
        // stderr as well, and so panic in the code that logs.
        .log_internal_errors(false);
    let colours = io::stderr().is_terminal();
    let report = |count| {
        tracing::warn!(count, "log lines were dropped, because stderr was not read or a write to it failed");
    };
    let started = LogQueue::start(io::stderr(), || DROPPED.inc(), report);
    let queue = started.context("the thread that writes the log cannot be started")?;
    // On a terminal the library decides: it respects NO_COLOR.
    let builder = if colours { builder } else { builder.with_ansi(false) };
    let started = match format {
        LogFormat::Json => {
            let writer = queue.clone();
            builder.with_writer(move || writer.clone()).json().flatten_event(true).try_init()
        }
        LogFormat::Text => {
            let writer = queue.clone();
            builder.with_writer(move || EscapingWriter { writer: writer.clone(), colours }).try_init()
        }
    };
    started.map_err(|error| anyhow::anyhow!("logging was already started: {error}"))?;
    let _ = QUEUE.set(queue);
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!("thread {thread} {panic}");
    }));
    Ok(())
}

/// Writes a line that is not an event, in the order of the log. Returns `false` if logging was not started.
pub fn write_line(line: &str) -> bool {
    let Some(queue) = QUEUE.get() else { return false };
    queue.push(format!("{line}\n").as_bytes());
    true
}

/// Waits until the log is written, for at most a second: for the end of the process.
pub fn flush() {
    if let Some(queue) = QUEUE.get() {
        queue.flush();
    }
}

/// Returns the filter; a level alone is applied to our own lines. The DNS library warns of each answer that does not fit
/// its query, whose number a client can choose; the error of the lookup says the same.
fn filter(log: &str) -> String {
    match log.trim().to_ascii_lowercase().as_str() {
        level @ ("info" | "debug" | "trace") => {
            format!("warn,hickory_net=error,hickory_resolver=error,ringback={level}")
        }
        _ => log.to_owned(),
    }
}

/// Escapes control characters in a line; the library writes one line at a time. With colours, escape sequences
/// are kept: they are the library's own, which removes them from the texts that it formats.
struct EscapingWriter<W> {
    writer: W,
    colours: bool,
}

impl<W: Write> Write for EscapingWriter<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let inside = line.strip_suffix(b"\n").unwrap_or(line);
        let text = String::from_utf8_lossy(inside);
        let bad = |c: char| {
            (c.is_control() && !(self.colours && c == '\u{1b}')) || matches!(c, '\u{2028}' | '\u{2029}')
        };
        if text.contains(bad) {
            let mut clean = String::with_capacity(text.len() + 16);
            for c in text.chars() {
                if bad(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
            }
            clean.push('\n');
            self.writer.write_all(clean.as_bytes())?;
        } else {
            self.writer.write_all(line)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_line_cannot_start_another_line() {
        for (given, written) in [
            ("INFO polled job=a\n", "INFO polled job=a\n"),
            ("INFO polled job=a\nERROR forged\n", "INFO polled job=a\\nERROR forged\n"),
            ("a\r\x1b[2Kb\u{85}c\u{2028}d\te\0\n", "a\\r\\u{1b}[2Kb\\u{85}c\\u{2028}d\\te\\u{0}\n"),
            ("umlaut ä\n", "umlaut ä\n"),
        ] {
            let mut lines = EscapingWriter { writer: Vec::new(), colours: false };
            lines.write_all(given.as_bytes()).expect("memory");
            assert_eq!(String::from_utf8_lossy(&lines.writer), written);
        }
        let mut coloured = EscapingWriter { writer: Vec::new(), colours: true };
        coloured.write_all(b"\x1b[32mINFO\x1b[0m a\nb\n").expect("memory");
        assert_eq!(coloured.writer, b"\x1b[32mINFO\x1b[0m a\\nb\n");
    }

    #[test]
    fn a_level_alone_applies_to_our_own_lines() {
        assert_eq!(filter("info"), "warn,hickory_net=error,hickory_resolver=error,ringback=info");
        assert_eq!(filter("TRACE"), "warn,hickory_net=error,hickory_resolver=error,ringback=trace");
        assert_eq!(filter("error"), "error");
        assert_eq!(filter("off"), "off");
        assert_eq!(filter("trace,hyper=off"), "trace,hyper=off");
    }
}
