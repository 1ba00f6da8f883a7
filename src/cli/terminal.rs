//! Output for people: tables, field lists, times, colours.
//!
//! Texts from the server can come from providers, receivers and clients. [`clean`] makes their control characters
//! visible before they reach a terminal. Ids are never shortened, so that they can be copied; on a narrow terminal URLs
//! and sentences are shortened.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

use super::output::print_line;
use crate::config::Environment;
use crate::domain::Timestamp;

/// Minimum width of a shortened column.
const COLUMN_MIN: usize = 12;

/// Space between two columns.
const GAP: &str = "  ";

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
        let mut safe = String::with_capacity(text.len());
        for c in text.chars() {
            if is_unfit(c) && !c.is_ascii_whitespace() {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a string cannot fail.
                    let _ = write!(safe, "\\u{unit:04x}");
                }
            } else {
                safe.push(c);
            }
        }
        print_line(safe)
    }

    /// Returns a status in its colour.
    pub fn status(self, word: &str) -> String {
        let colour = match word {
            "completed" | "succeeded" | "ready" => 32,
            "failed" | "not_found" | "expired" => 31,
            "cancelled" | "stopped" => 33,
            "watching" | "pending" | "processing" => 36,
            _ => return clean(word).into_owned(),
        };
        self.paint(colour, word)
    }

    pub(super) fn paint(self, colour: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint(1, text)
    }
}

/// Table with a header.
#[derive(Debug)]
pub struct Table {
    head: Vec<&'static str>,
    /// Whether each column may be shortened.
    soft: Vec<bool>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Creates a table. A column whose name ends with `…` may be shortened.
    pub fn new(head: &[&'static str]) -> Self {
        let soft = head.iter().map(|name| name.ends_with('…')).collect();
        Self { head: head.iter().map(|name| name.trim_end_matches('…')).collect(), soft, rows: Vec::new() }
    }

    /// Adds a row, after cleaning its cells.
    pub fn row<T: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = T>) {
        self.rows.push(cells.into_iter().map(|cell| clean(cell.as_ref()).into_owned()).collect());
    }

    /// Returns whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the lines, indented, with or without the header.
    pub fn render(&self, terminal: Terminal, indent: &str, with_head: bool) -> String {
        let widths = self.widths(terminal.width.map(|width| width.saturating_sub(indent.len())));
        let line = |cells: &mut dyn Iterator<Item = &str>, paint: &dyn Fn(&str) -> String| {
            let mut line = String::new();
            for (cell, width) in cells.zip(&widths) {
                let short = shortened(cell, *width);
                let pad = width.saturating_sub(short.width());
                line.push_str(&paint(&short));
                line.push_str(&" ".repeat(pad));
                line.push_str(GAP);
            }
            format!("{indent}{}", line.trim_end())
        };
        let mut lines = Vec::with_capacity(self.rows.len() + 1);
        if with_head {
            lines.push(line(&mut self.head.iter().copied(), &|cell| terminal.bold(cell)));
        }
        for row in &self.rows {
            lines.push(line(&mut row.iter().map(String::as_str), &|cell| terminal.status(cell)));
        }
        lines.join("\n")
    }

    /// Returns the widths of the columns: those of their widest cells. On a narrow terminal the widest column that may
    /// be shortened is shortened first.
    fn widths(&self, room: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.head.iter().map(|name| name.width()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.width());
            }
        }
        let Some(room) = room else { return widths };
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        while widths.iter().sum::<usize>() + gaps > room {
            let shrinkable =
                widths.iter_mut().zip(&self.soft).filter(|(width, soft)| **soft && **width > COLUMN_MIN);
            match shrinkable.map(|(width, _)| width).max() {
                Some(widest) => *widest -= 1,
                None => break,
            }
        }
        widths
    }
}

fn shortened(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }
    let mut short = String::new();
    for c in text.chars() {
        if short.width() + unicode_width::UnicodeWidthChar::width(c).unwrap_or(0) + 1 > width {
            break;
        }
        short.push(c);
    }
    short.push('…');
    short.into()
}

/// List of named values, one per line. Empty values are left out.
#[derive(Debug, Default)]
pub struct FieldList(Vec<(String, String)>);

impl FieldList {
    /// Adds a line.
    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.0.push((clean(name).into_owned(), clean(value).into_owned()));
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
pub fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_unfit) {
        return text.into();
    }
    let mut visible = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unfit(c) {
            visible.extend(c.escape_default());
        } else {
            visible.push(c);
        }
    }
    visible.into()
}

/// Returns the value at `pointer` as text; empty for null and for a missing value.
pub fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
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

    fn table() -> Table {
        let mut table = Table::new(&["ID", "STATUS", "URL…"]);
        table.row(["dlv_1", "succeeded", "https://a.example/a/very/long/path/that/never/ends"]);
        table.row(["dlv_22", "failed", "https://日本.example/hook"]);
        table
    }

    #[test]
    fn a_table_has_a_header_and_no_borders() {
        insta::assert_snapshot!(table().render(PLAIN, "", true), @r"
        ID      STATUS     URL
        dlv_1   succeeded  https://a.example/a/very/long/path/that/never/ends
        dlv_22  failed     https://日本.example/hook
        ");
    }

    #[test]
    fn a_narrow_terminal_never_shortens_an_id() {
        let narrow = Terminal { width: Some(40), ..PLAIN };
        insta::assert_snapshot!(table().render(narrow, "", false), @r"
        dlv_1   succeeded  https://a.example/a/…
        dlv_22  failed     https://日本.example…
        ");
        let tiny = Terminal { width: Some(5), ..PLAIN };
        insta::assert_snapshot!(table().render(tiny, "", false), @r"
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
        let mut table = Table::new(&["X"]);
        table.row([hostile]);
        for shown in [card.render(PLAIN), table.render(PLAIN, "", false)] {
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
