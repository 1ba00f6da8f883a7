//! The form of results on stdout: tables, field lists, times and colours.
//!
//! **On a terminal** no table wraps, from 80 columns on: a table that is too wide first loses its optional columns,
//! then its addresses and sentences are shortened. Ids are never shortened, so that they can be copied. In a list of
//! fields, sentences continue on the next line, and a word that is too long, such as a URL, stays whole. Times are
//! relative to now. **Elsewhere** (a file, a pipe) all columns are printed in full and times are absolute, so that the
//! output does not depend on the moment and on the width of a window.

use std::io::IsTerminal as _;

use serde_json::Value;
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::output::{clean, clean_json, print};
use crate::clock::Clock;
use crate::config::Environment;
use crate::domain::Timestamp;

/// Width that a shortened column keeps while there are optional columns to drop, and its minimum after that.
const COLUMN_GOOD: usize = 20;
const COLUMN_MIN: usize = 12;

/// Space between two columns.
const GAP: &str = "  ";

/// ANSI numbers of styles.
pub const BOLD: u8 = 1;
pub const DIM: u8 = 2;
pub const RED: u8 = 31;
pub const GREEN: u8 = 32;

/// Properties of stdout: a terminal, or a program that reads the output.
#[derive(Clone, Copy, Debug)]
pub struct Terminal {
    interactive: bool,
    colours: bool,
    width: Option<usize>,
    now: Timestamp,
}

/// A column of a table.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    name: &'static str,
    is_time: bool,
    is_soft: bool,
    /// Columns with higher ranks are dropped first; those without are always printed.
    rank: Option<u8>,
}

/// Widths of the columns of a table, for its next page; 0 for a column that is not printed.
pub type Widths = Option<Vec<usize>>;

impl Column {
    /// A column that is always printed in full.
    pub const fn new(name: &'static str) -> Self {
        Self { name, is_time: false, is_soft: false, rank: None }
    }

    /// A column of times, whose cells are times as the server writes them.
    pub const fn time(name: &'static str) -> Self {
        Self { is_time: true, ..Self::new(name) }
    }

    /// The column may be shortened.
    pub const fn soft(self) -> Self {
        Self { is_soft: true, ..self }
    }

    /// The column may be dropped, before those with a lower rank.
    pub const fn optional(self, rank: u8) -> Self {
        Self { rank: Some(rank), ..self }
    }
}

impl Terminal {
    /// Returns the properties of stdout. Colours are used on a terminal unless `NO_COLOR` is set.
    pub fn of_stdout() -> Self {
        let interactive = std::io::stdout().is_terminal();
        let size = rustix::termios::tcgetwinsize(std::io::stdout());
        let width = size.ok().map(|size| usize::from(size.ws_col)).filter(|width| interactive && *width > 0);
        let colours = interactive && Environment::of_process().get("NO_COLOR").is_none();
        Self { interactive, colours, width, now: Clock::System.now() }
    }

    /// Prints JSON as the server wrote it. On a terminal, control characters in strings are escaped, which does not
    /// change the meaning.
    pub fn json(self, text: &str) -> anyhow::Result<()> {
        print(self.json_text(text))
    }

    /// Returns what [`Self::json`] prints.
    pub(super) fn json_text(self, text: &str) -> String {
        if self.interactive { format!("{}\n", clean_json(text)) } else { format!("{text}\n") }
    }

    /// Returns whether a line fits.
    pub fn fits(self, line: &str) -> bool {
        self.width.is_none_or(|width| line.width() <= width)
    }

    /// Returns a status in its colour.
    pub fn status(self, word: &str) -> String {
        let colour = match word.split_once(':').map_or(word, |(status, _)| status) {
            "completed" | "succeeded" | "ready" | "ok" => GREEN,
            "failed" | "not_found" | "expired" | "down" | "missing" => RED,
            "cancelled" | "stopped" | "skipped" | "paused" | "degraded" | "unconfigured" => 33,
            "watching" | "pending" | "processing" => 36,
            _ => return clean(word),
        };
        self.paint(colour, word)
    }

    pub(super) fn paint(self, colour: u8, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn bold(self, text: &str) -> String {
        self.paint(BOLD, text)
    }

    /// Returns a time for a table: relative on a terminal. Other text is returned unchanged.
    fn time(self, text: &str) -> String {
        match Timestamp::parse(text) {
            Some(at) if self.interactive => relative(at, self.now),
            _ => seconds(text),
        }
    }

    /// Returns a time for a line of text: absolute, and on a terminal relative as well.
    pub fn moment(self, text: &str) -> String {
        match Timestamp::parse(text) {
            Some(at) if self.interactive => format!("{} UTC ({})", seconds(text), relative(at, self.now)),
            Some(_) => format!("{} UTC", seconds(text)),
            None => text.to_owned(),
        }
    }

    /// Returns a time for a sentence: relative on a terminal, otherwise absolute.
    pub fn sentence_time(self, text: &str) -> String {
        match Timestamp::parse(text) {
            Some(at) if self.interactive => relative(at, self.now),
            Some(_) => format!("at {} UTC", seconds(text)),
            None => text.to_owned(),
        }
    }

    /// Returns a sentence below an indent. On a terminal it is broken between words, so that it fits.
    pub fn paragraph(self, text: &str, indent: usize) -> String {
        let room = self.width.map_or(usize::MAX, |width| width.saturating_sub(indent));
        format!("{}{}", " ".repeat(indent), wrapped(text, room, indent))
    }

    /// Returns the lines of a table, with or without its header; none if there are no rows.
    pub fn table<R: AsRef<[String]>>(
        self,
        columns: &[Column],
        rows: impl IntoIterator<Item = R>,
        with_head: bool,
    ) -> String {
        self.page(columns, rows, with_head, &mut None)
    }

    /// Like [`Self::table`], for one page of a long table: each page has the columns of the first.
    pub fn page<R: AsRef<[String]>>(
        self,
        columns: &[Column],
        rows: impl IntoIterator<Item = R>,
        with_head: bool,
        known: &mut Widths,
    ) -> String {
        let cell = |(cell, column): (&String, &Column)| {
            if column.is_time { self.time(cell) } else { clean(cell) }
        };
        let rows: Vec<Vec<String>> =
            rows.into_iter().map(|row| row.as_ref().iter().zip(columns).map(cell).collect()).collect();
        let names: Vec<String> = columns.iter().map(|column| self.heading(column)).collect();
        let widths = self.widths(columns, &names, &rows, known.as_deref());
        let line = |cells: &[String], paint: fn(Self, &str) -> String| {
            let shown = cells.iter().zip(&widths).filter(|(_, width)| **width > 0);
            let cells = shown.map(|(cell, width)| {
                let short = shortened(cell, *width);
                paint(self, &short) + &" ".repeat(width.saturating_sub(short.width()))
            });
            cells.collect::<Vec<_>>().join(GAP).trim_end().to_owned()
        };
        let head = (with_head && !rows.is_empty()).then(|| line(&names, Self::bold));
        let lines = rows.iter().map(|row| line(row, Self::status));
        let text = head.into_iter().chain(lines).collect::<Vec<_>>().join("\n");
        *known = Some(widths);
        text
    }

    fn heading(self, column: &Column) -> String {
        if column.is_time && !self.interactive {
            format!("{} (UTC)", column.name)
        } else {
            column.name.to_owned()
        }
    }

    /// Returns the widths of the columns: those of their widest cells. On a narrow terminal optional columns are
    /// dropped, empty ones first, and then the widest column that may be shortened is shortened first.
    fn widths(
        self,
        columns: &[Column],
        names: &[String],
        rows: &[Vec<String>],
        known: Option<&[usize]>,
    ) -> Vec<usize> {
        let widest = |n: usize| rows.iter().filter_map(|row| row.get(n)).map(|cell| cell.width()).max();
        let mut widths: Vec<usize> = (0..columns.len())
            .map(|n| {
                let natural = widest(n).unwrap_or(0).max(names[n].width());
                match known.map(|known| known[n]) {
                    None => natural,
                    // The columns of the first page, also if a later page would have more room.
                    Some(0) => 0,
                    Some(width) if columns[n].is_soft && self.width.is_some() => width,
                    Some(width) => width.max(natural),
                }
            })
            .collect();
        let Some(room) = self.width else { return widths };
        if known.is_some() {
            return widths;
        }
        let total = |widths: &[usize], least: usize| {
            let needed =
                widths.iter().zip(columns).filter(|(width, _)| **width > 0).map(|(width, column)| {
                    GAP.len() + if column.is_soft { least.min(*width) } else { *width }
                });
            needed.sum::<usize>().saturating_sub(GAP.len())
        };
        // An empty column is dropped before another one is shortened.
        let empty = (0..columns.len()).filter(|n| widest(*n) == Some(0) && columns[*n].rank.is_some());
        for n in empty.collect::<Vec<_>>() {
            if total(&widths, usize::MAX) > room {
                widths[n] = 0;
            }
        }
        while total(&widths, COLUMN_GOOD) > room {
            let optional = (0..columns.len()).filter(|n| widths[*n] > 0 && columns[*n].rank.is_some());
            let Some(last) = optional.max_by_key(|n| (widest(*n) == Some(0), columns[*n].rank)) else {
                break;
            };
            widths[last] = 0;
        }
        while total(&widths, usize::MAX) > room {
            let soft = widths.iter_mut().zip(columns);
            let soft = soft.filter(|(width, column)| column.is_soft && **width > COLUMN_MIN);
            let Some(widest) = soft.map(|(width, _)| width).max() else { break };
            *widest -= 1;
        }
        widths
    }
}

/// Returns the distance of a time from now, such as `3 min ago` or `in 5 s`. A time in the past is rounded down, one in
/// the future to the nearest unit: a key that was just made for 90 days is valid for 90 days.
fn relative(at: Timestamp, now: Timestamp) -> String {
    let (seconds, is_past) = (now.seconds().abs_diff(at.seconds()), at <= now);
    let whole = |unit: u64| (seconds + if is_past { 0 } else { unit / 2 }) / unit;
    let span = match (seconds, whole(60), whole(3_600)) {
        (0, ..) => return "now".to_owned(),
        (1..60, ..) => format!("{seconds} s"),
        (_, minutes @ ..60, _) => format!("{minutes} min"),
        (_, _, hours @ ..48) => format!("{hours} h"),
        _ => format!("{} d", whole(86_400)),
    };
    if is_past { format!("{span} ago") } else { format!("in {span}") }
}

/// Returns a time to the second, without its zone; other text without control characters.
pub fn seconds(text: &str) -> String {
    match (Timestamp::parse(text), text.get(..10), text.get(11..19)) {
        (Some(_), Some(day), Some(time)) => format!("{day} {time}"),
        _ => clean(text),
    }
}

/// Returns the text, cut to the width with an ellipsis.
pub fn shortened(text: &str, width: usize) -> String {
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
#[derive(Debug)]
pub struct FieldList {
    terminal: Terminal,
    fields: Vec<(String, String)>,
}

impl FieldList {
    /// Returns an empty list.
    pub fn new(terminal: Terminal) -> Self {
        Self { terminal, fields: Vec::new() }
    }

    /// Adds a line.
    pub fn line(&mut self, name: &str, value: impl AsRef<str>) {
        let value = value.as_ref();
        if !value.is_empty() {
            self.fields.push((clean(name), clean(value)));
        }
    }

    /// Adds the time at `pointer`.
    pub fn time(&mut self, name: &str, value: &Value, pointer: &str) {
        let moment = self.terminal.moment(&super::output::text(value, pointer));
        self.line(name, moment);
    }

    /// Returns the lines. A sentence that is too long for the terminal continues below its beginning. A word that is
    /// too long, such as a URL, stays whole, so that it can be copied.
    pub fn render(&self) -> String {
        let terminal = self.terminal;
        let indent = self.fields.iter().map(|(name, _)| name.width()).max().unwrap_or(0) + GAP.len();
        let lines = self.fields.iter().map(|(name, value)| {
            let value = match terminal.width.and_then(|width| width.checked_sub(indent)) {
                _ if name == "status" => terminal.status(value),
                Some(room) => wrapped(value, room, indent),
                None => value.clone(),
            };
            format!("{}{}{value}", terminal.bold(name), " ".repeat(indent - name.width()))
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// Breaks a text between words into lines of at most `room`; all but the first are indented.
fn wrapped(text: &str, room: usize, indent: usize) -> String {
    let (mut lines, mut used) = (String::new(), 0);
    for word in text.split(' ') {
        if used > 0 && used + 1 + word.width() > room {
            lines.push('\n');
            lines.push_str(&" ".repeat(indent));
            used = 0;
        } else if !lines.is_empty() {
            lines.push(' ');
            used += 1;
        }
        lines.push_str(word);
        used += word.width();
    }
    lines
}

/// Time of the terminals of tests: 2026-02-18T15:02:31Z.
#[cfg(test)]
const TEST_NOW: Timestamp = Timestamp::from_millis(1_771_426_951_000);

/// A pipe, for tests.
#[cfg(test)]
pub const PLAIN: Terminal = Terminal { interactive: false, colours: false, width: None, now: TEST_NOW };

/// Returns a terminal of this width, without colours, for tests.
#[cfg(test)]
pub const fn narrow(width: usize) -> Terminal {
    Terminal { interactive: true, colours: false, width: Some(width), now: TEST_NOW }
}

#[cfg(test)]
mod tests {
    use super::super::output::is_unfit;
    use super::*;

    const COLUMNS: [Column; 5] = [
        Column::new("ID"),
        Column::new("STATUS"),
        Column::new("EVENT").optional(1),
        Column::new("URL").soft(),
        Column::time("CREATED").optional(2),
    ];

    fn table(terminal: Terminal, with_head: bool) -> String {
        let (url, at) = ("https://a.example/a/very/long/path/that/never/ends", "2026-02-18T15:00:00.000Z");
        let rows = [
            ["dlv_1", "succeeded", "job.completed", url, at],
            ["dlv_22", "failed", "job.failed", "https://日本.example/hook", ""],
        ];
        terminal.table(&COLUMNS, rows.map(|row| row.map(str::to_owned)), with_head)
    }

    #[test]
    fn a_table_has_a_header_and_no_borders() {
        insta::assert_snapshot!(table(PLAIN, true), @r"
        ID      STATUS     EVENT          URL                                                 CREATED (UTC)
        dlv_1   succeeded  job.completed  https://a.example/a/very/long/path/that/never/ends  2026-02-18 15:00:00
        dlv_22  failed     job.failed     https://日本.example/hook
        ");
    }

    #[test]
    fn a_narrow_terminal_drops_columns_and_never_shortens_an_id() {
        insta::assert_snapshot!(table(narrow(100), true), @r"
        ID      STATUS     EVENT          URL                                                 CREATED
        dlv_1   succeeded  job.completed  https://a.example/a/very/long/path/that/never/ends  2 min ago
        dlv_22  failed     job.failed     https://日本.example/hook
        ");
        insta::assert_snapshot!(table(narrow(60), true), @r"
        ID      STATUS     EVENT          URL
        dlv_1   succeeded  job.completed  https://a.example/a/very/…
        dlv_22  failed     job.failed     https://日本.example/hook
        ");
        insta::assert_snapshot!(table(narrow(40), false), @r"
        dlv_1   succeeded  https://a.example/a/…
        dlv_22  failed     https://日本.example…
        ");
        insta::assert_snapshot!(table(narrow(5), false), @r"
        dlv_1   succeeded  https://a.e…
        dlv_22  failed     https://日…
        ");
    }

    #[test]
    fn an_empty_column_leaves_its_room_to_the_others() {
        let columns = [Column::new("ID"), Column::new("ERROR").soft(), Column::new("RESPONSE").optional(1)];
        let row = ["dlv_1", "connect: connection refused", ""].map(str::to_owned);
        let shown = narrow(40).table(&columns, [row], true);
        assert!(shown.ends_with("connect: connection refused") && !shown.contains("RESPONSE"), "{shown}");
    }

    #[test]
    fn every_page_of_a_table_has_the_columns_of_the_first() {
        let columns = [Column::new("ID"), Column::new("JOB").soft(), Column::new("PROVIDER").optional(1)];
        let mut widths = None;
        let mut page = |row: [&str; 3], with_head| {
            narrow(30).page(&columns, [row.map(str::to_owned)], with_head, &mut widths)
        };
        let first = page(["watch_1", "job_with_a_long_name_1", "muvi"], true);
        let second = page(["watch_2", "job_2", "muvi"], false);
        insta::assert_snapshot!(format!("{first}\n{second}"), @r"
        ID       JOB
        watch_1  job_with_a_long_name…
        watch_2  job_2
        ");
    }

    #[test]
    fn a_time_is_relative_on_a_terminal_and_absolute_elsewhere() {
        for (at, shown) in [
            ("2026-02-18T15:02:31Z", "now"),
            ("2026-02-18T15:02:30.900Z", "1 s ago"),
            ("2026-02-18T15:01:31Z", "1 min ago"),
            ("2026-02-18T14:02:31Z", "1 h ago"),
            ("2026-02-16T16:02:31Z", "47 h ago"),
            ("2026-02-16T15:02:31Z", "2 d ago"),
            ("2026-02-18T15:02:36Z", "in 5 s"),
            ("2026-02-18T15:04:00Z", "in 1 min"),
            ("2026-02-18T15:04:02Z", "in 2 min"),
            ("2026-02-18T16:02:10Z", "in 1 h"),
            ("2026-02-19T15:02:30Z", "in 24 h"),
            ("2026-02-20T14:50:00Z", "in 2 d"),
            ("2026-05-19T15:02:30Z", "in 90 d"),
            ("2026-02-18T14:02:32Z", "59 min ago"),
            ("2026-03-18T15:02:31Z", "in 28 d"),
            ("soon", "soon"),
            ("", ""),
        ] {
            assert_eq!(narrow(80).time(at), shown, "{at}");
        }
        let at = "2026-02-18T15:00:00.120Z";
        assert_eq!(PLAIN.time(at), "2026-02-18 15:00:00");
        assert_eq!(PLAIN.moment(at), "2026-02-18 15:00:00 UTC");
        assert_eq!(narrow(80).moment(at), "2026-02-18 15:00:00 UTC (2 min ago)");
    }

    #[test]
    fn a_long_sentence_continues_below_its_beginning() {
        let mut card = FieldList::new(narrow(30));
        card.line("error", "GENERATION_FAILED: the prompt was refused by the provider");
        card.line("a long url", "https://a.example/a/path/that/is/long");
        insta::assert_snapshot!(card.render(), @r"
        error       GENERATION_FAILED:
                    the prompt was
                    refused by the
                    provider
        a long url  https://a.example/a/path/that/is/long
        ");
    }

    #[test]
    fn text_from_outside_cannot_control_the_terminal() {
        let hostile = "a\x1b]0;x\x07b\nc\u{9b}31md\u{202e}e";
        let mut card = FieldList::new(PLAIN);
        card.line("error", hostile);
        let table = PLAIN.table(&[Column::new("X")], [[hostile.to_owned()]], false);
        let times = PLAIN.table(&[Column::time("X")], [[hostile.to_owned()]], false);
        for shown in [card.render(), table, times] {
            assert!(!shown.chars().any(is_unfit), "{shown:?}");
        }
    }

    #[test]
    fn a_hidden_character_has_one_visible_form_in_every_output() {
        // Metadata is JSON, so the server has escaped the first character.
        let metadata = "{\"a\":\"x\\u001by\u{202e}z\u{61c}\"}";
        let visible = r#"{"a":"x\u001by\u202ez\u061c"}"#;
        let mut card = FieldList::new(PLAIN);
        card.line("metadata", metadata);
        assert_eq!(card.render(), format!("metadata  {visible}"));
        assert_eq!(PLAIN.table(&[Column::new("X")], [[metadata.to_owned()]], false), visible);
        assert_eq!(clean_json(&format!("{{\n  {metadata}}}\n")), format!("{{\n  {visible}}}\n"));
    }
}
