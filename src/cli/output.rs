//! Results of commands: failures with their exit codes, lines on stdout and stderr, tables, field lists, times, colours.
//!
//! Texts from the server can come from providers, receivers and clients. [`clean`] makes their control characters
//! visible before they reach a terminal. Ids are never shortened, so that they can be copied; on a narrow terminal URLs
//! and sentences are shortened.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

use anyhow::Context as _;
use serde_json::Value;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use crate::config::{ConfigError, Environment, Source};
use crate::domain::Timestamp;

/// Minimum width of a shortened column.
const COLUMN_MIN: usize = 12;

/// Space between two columns.
const GAP: &str = "  ";

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

/// Writes text to stdout. `print!` would panic if stdout is closed, as in `ringback config | true`, or if the disk is
/// full.
pub(super) fn print(text: impl Display) -> anyhow::Result<()> {
    write!(std::io::stdout(), "{text}").context("stdout cannot be written")
}

/// Writes a line to stdout.
pub(super) fn print_line(line: impl Display) -> anyhow::Result<()> {
    print(format_args!("{line}\n"))
}

/// Writes a line to stderr, so that it is not part of the result.
pub(super) fn print_note(line: impl Display) {
    // If stderr is closed, the exit code still reports a failure.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Properties of stdout: a terminal, or a program that reads the output.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    interactive: bool,
    colours: bool,
    width: Option<usize>,
}

impl Terminal {
    /// Returns the properties of stdout. Colours are used on a terminal unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let interactive = std::io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        let width = size.ok().map(|size| usize::from(size.ws_col)).filter(|width| interactive && *width > 0);
        let colours = interactive && Environment::of_process().get("NO_COLOR").is_none();
        Self { interactive, colours, width }
    }

    /// Prints JSON as the server wrote it. On a terminal, control characters in strings are escaped, which does not
    /// change the meaning.
    pub fn json(self, text: &str) -> anyhow::Result<()> {
        if !self.interactive {
            return print_line(text);
        }
        // Each of these characters is one unit of UTF-16.
        let is_escaped = |c: char| is_unfit(c) && !c.is_ascii_whitespace();
        let escape = |c| if is_escaped(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
        print_line(text.chars().map(escape).collect::<String>())
    }

    /// Returns a status in its colour.
    pub fn status(self, word: &str) -> String {
        let colour = match word {
            "completed" | "succeeded" | "ready" => 32,
            "failed" | "not_found" | "expired" => 31,
            "cancelled" | "stopped" => 33,
            "watching" | "pending" | "processing" => 36,
            _ => return clean(word),
        };
        self.paint(colour, word)
    }

    pub(super) fn paint(self, colour: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint(1, text)
    }

    /// Returns the lines of a table, with or without its header; none if there are no rows. A column whose name ends
    /// with `…` may be shortened.
    pub fn table<R: AsRef<[String]>>(
        self,
        head: &[&str],
        rows: impl IntoIterator<Item = R>,
        with_head: bool,
    ) -> String {
        let clean_row = |row: R| row.as_ref().iter().map(|cell| clean(cell)).collect();
        let rows: Vec<Vec<String>> = rows.into_iter().map(clean_row).collect();
        let names: Vec<String> = head.iter().map(|name| name.trim_end_matches('…').to_owned()).collect();
        let widths = self.widths(head, [&names].into_iter().chain(&rows));
        let line = |cells: &[String], paint: fn(Self, &str) -> String| {
            let cells = cells.iter().zip(&widths).map(|(cell, width)| {
                let short = shortened(cell, *width);
                paint(self, &short) + &" ".repeat(width.saturating_sub(short.width()))
            });
            cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
        };
        let head = (with_head && !rows.is_empty()).then(|| line(&names, Self::bold));
        let rows = rows.iter().map(|row| line(row, Self::status));
        head.into_iter().chain(rows).collect::<Vec<_>>().join("\n")
    }

    /// Returns the widths of the columns: those of their widest cells. On a narrow terminal the widest column that may
    /// be shortened is shortened first.
    fn widths<'r>(self, head: &[&str], rows: impl Iterator<Item = &'r Vec<String>>) -> Vec<usize> {
        let mut widths = vec![0; head.len()];
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while self.width.is_some_and(|room| widths.iter().sum::<usize>() + gaps > room) {
            let columns = widths.iter_mut().zip(head);
            let soft = columns.filter(|(width, name)| name.ends_with('…') && **width > COLUMN_MIN);
            let Some(widest) = soft.map(|(width, _)| width).max() else { break };
            *widest -= 1;
        }
        widths
    }
}

fn shortened(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    // The ellipsis has a width of 1.
    let fits = |used: &mut usize, c: char| {
        *used += c.width().unwrap_or(0);
        (*used <= width).then_some(c)
    };
    text.chars().scan(1, fits).chain(['…']).collect()
}

/// List of named values, one per line. Empty values are left out.
#[derive(Debug, Default)]
pub struct FieldList(Vec<(String, String)>);

impl FieldList {
    /// Adds a line.
    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.0.push((clean(name), clean(value)));
        }
    }

    /// Returns the lines.
    pub fn render(&self, terminal: Terminal) -> String {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let lines = self.0.iter().map(|(name, value)| {
            let pad = " ".repeat(width - name.len());
            let value = if name == "status" { terminal.status(value) } else { value.clone() };
            format!("{}{pad}{GAP}{value}", terminal.bold(name))
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Returns whether a character controls a terminal or changes the direction of text.
fn is_unfit(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the text with visible control characters.
pub fn clean(text: &str) -> String {
    let escape = |c: char| if is_unfit(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// Returns the value at `pointer` as text; empty for null and for a missing value.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// Returns the texts and times at several pointers. The pointer of a time ends with `At` or `/at`.
pub fn texts<const N: usize>(value: &Value, pointers: [&str; N]) -> [String; N] {
    pointers.map(|pointer| {
        let is_time = pointer.ends_with("At") || pointer.ends_with("/at");
        if is_time { time(value, pointer) } else { text(value, pointer) }
    })
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

/// Returns the time at `pointer`, in seconds; other text is returned unchanged.
pub fn time(value: &Value, pointer: &str) -> String {
    let text = text(value, pointer);
    match (Timestamp::parse(&text), text.get(..10), text.get(11..19)) {
        (Some(_), Some(day), Some(time)) => format!("{day} {time}"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Terminal = Terminal { interactive: false, colours: false, width: None };

    fn table(terminal: Terminal, with_head: bool) -> String {
        let rows = [
            ["dlv_1", "succeeded", "https://a.example/a/very/long/path/that/never/ends"],
            ["dlv_22", "failed", "https://日本.example/hook"],
        ];
        terminal.table(&["ID", "STATUS", "URL…"], rows.map(|row| row.map(str::to_owned)), with_head)
    }

    #[test]
    fn a_table_has_a_header_and_no_borders() {
        insta::assert_snapshot!(table(PLAIN, true), @r"
        ID      STATUS     URL
        dlv_1   succeeded  https://a.example/a/very/long/path/that/never/ends
        dlv_22  failed     https://日本.example/hook
        ");
    }

    #[test]
    fn a_narrow_terminal_never_shortens_an_id() {
        let narrow = Terminal { width: Some(40), ..PLAIN };
        insta::assert_snapshot!(table(narrow, false), @r"
        dlv_1   succeeded  https://a.example/a/…
        dlv_22  failed     https://日本.example…
        ");
        let tiny = Terminal { width: Some(5), ..PLAIN };
        insta::assert_snapshot!(table(tiny, false), @r"
        dlv_1   succeeded  https://a.e…
        dlv_22  failed     https://日…
        ");
    }

    #[test]
    fn text_from_outside_cannot_control_the_terminal() {
        let hostile = "a\x1b]0;x\x07b\nc\u{9b}31md\u{202e}e";
        assert_eq!(clean(hostile), r"a\u{1b}]0;x\u{7}b\nc\u{9b}31md\u{202e}e");
        let mut card = FieldList::default();
        card.line("error", hostile);
        let table = PLAIN.table(&["X"], [[hostile.to_owned()]], false);
        for shown in [card.render(PLAIN), table] {
            assert!(!shown.chars().any(is_unfit), "{shown:?}");
        }
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
    fn a_time_is_shown_to_the_second() {
        let value = serde_json::json!({ "at": "2026-02-18T15:02:31.120Z", "x": "soon", "n": null, "p": 50 });
        assert_eq!(time(&value, "/at"), "2026-02-18 15:02:31");
        assert_eq!(time(&value, "/x"), "soon");
        assert_eq!(
            (text(&value, "/n"), text(&value, "/p"), text(&value, "/q")),
            (String::new(), "50".into(), String::new())
        );
    }
}
