//! Reading a definition file key by key.
//!
//! Each table notes the keys that are read. The others are unknown, and reported. A value of the wrong type is reported
//! and skipped, so that the rest of the file is checked as well.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::{self, Display};

use serde_json::{Number, Value};
use toml::de::{DeTable, DeValue};

use crate::providers::template::name_in_braces;
use crate::providers::value::Scalar;

/// The tables of keys that are often put into another one.
const HOMES: [(&str, &[&str]); 10] = [
    (
        "[request]",
        &["url", "method", "query", "headers", "accept", "json", "form", "graphql", "timeout", "max_body"],
    ),
    ("[response]", &["unwrap", "request_id", "decode"]),
    ("[status]", &["map", "fold", "unknown"]),
    (
        "[extract]",
        &[
            "job_id",
            "progress",
            "output",
            "output_json",
            "outputs",
            "error_code",
            "error_message",
            "created_at",
            "completed_at",
            "outputs_expire",
            "null",
        ],
    ),
    ("[errors]", &["account"]),
    ("[not_found]", &["grace"]),
    ("[poll]", &["first", "min_interval", "max_interval", "deadline", "price"]),
    ("[limits]", &["rate", "burst", "concurrency"]),
    ("[auth]", &["send_to", "token_url"]),
    ("[cancel]", &["already_ended"]),
];

/// Returns the table that a key belongs to.
fn home(name: &str) -> Option<&'static str> {
    HOMES.iter().find(|(_, keys)| keys.contains(&name)).map(|(table, _)| *table)
}

/// Largest number of mistakes that are listed.
const MAX_MISTAKES: usize = 100;

/// A mistake in a definition file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong, in one line.
    pub text: String,
}

impl Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.text)
    }
}

/// A part of a file cannot be used, because of a mistake that is reported.
#[derive(Clone, Copy, Debug)]
pub(in crate::providers) struct Mistaken;

/// The mistakes of a file, with their places, and what the readers of its parts need to know.
pub(in crate::providers) struct Report<'a> {
    text: &'a str,
    found: RefCell<Vec<(usize, String)>>,
    /// Version of the language.
    pub(in crate::providers) schema: Cell<u32>,
    /// Whether the body is not read, so that paths find nothing.
    pub(in crate::providers) ignores_body: Cell<bool>,
    /// Whether the file says that no job fails.
    pub(in crate::providers) cannot_fail: Cell<bool>,
    /// Whether examples are run.
    pub(in crate::providers) runs_examples: Cell<bool>,
    /// The names in paths, with the keys and the places at which they are used.
    pub(in crate::providers) names: RefCell<Vec<(String, String, usize)>>,
}

impl<'a> Report<'a> {
    pub(in crate::providers) fn new(text: &'a str) -> Self {
        let (ignores_body, cannot_fail) = (Cell::new(false), Cell::new(false));
        Self {
            text,
            found: RefCell::default(),
            schema: Cell::new(1),
            ignores_body,
            cannot_fail,
            runs_examples: Cell::new(true),
            names: RefCell::default(),
        }
    }

    /// Adds a mistake at a byte of the file.
    pub(in crate::providers) fn add(&self, at: usize, text: impl Display) {
        let one_line = text.to_string().trim().replace('\n', " ");
        self.found.borrow_mut().push((at, one_line));
    }

    /// Returns the number of mistakes.
    pub(in crate::providers) fn count(&self) -> usize {
        self.found.borrow().len()
    }

    /// Returns the mistakes in the order of the file.
    pub(in crate::providers) fn mistakes(self) -> Vec<Mistake> {
        let mut found = self.found.into_inner();
        found.sort_by_key(|(at, _)| *at);
        found.dedup();
        let more = found.len().saturating_sub(MAX_MISTAKES);
        found.truncate(MAX_MISTAKES);
        let mut mistakes: Vec<Mistake> =
            found.into_iter().map(|(at, text)| mistake(self.text, at, text)).collect();
        if more > 0 {
            mistakes.push(mistake(self.text, self.text.len(), format!("and {more} more mistakes")));
        }
        mistakes
    }
}

/// Returns a mistake at a byte of a text.
fn mistake(text: &str, at: usize, sentence: String) -> Mistake {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let column = before[line_start..].chars().count() + 1;
    Mistake { line: before.matches('\n').count() + 1, column, text: sentence }
}

/// A table of the file.
pub(in crate::providers) struct TableReader<'a> {
    pub(in crate::providers) report: &'a Report<'a>,
    /// Dotted key; empty for the file.
    pub(in crate::providers) key: String,
    pub(in crate::providers) at: usize,
    table: &'a DeTable<'a>,
    known: RefCell<BTreeSet<&'static str>>,
}

/// A value of the file.
#[derive(Clone)]
pub(in crate::providers) struct Node<'a> {
    pub(in crate::providers) report: &'a Report<'a>,
    /// Dotted key.
    pub(in crate::providers) key: String,
    pub(in crate::providers) at: usize,
    value: &'a DeValue<'a>,
}

impl<'a> TableReader<'a> {
    pub(in crate::providers) fn new(report: &'a Report<'a>, table: &'a DeTable<'a>) -> Self {
        Self { report, key: String::new(), at: 0, table, known: RefCell::default() }
    }

    /// Adds a mistake about the table.
    pub(in crate::providers) fn wrong(&self, sentence: impl Display) {
        self.report.add(self.at, Place(&self.key, sentence));
    }

    /// Adds a mistake about the value of a key, or about the table if the key is absent.
    pub(in crate::providers) fn wrong_key(&self, name: &str, sentence: impl Display) {
        let at = self.table.get_key_value(name).map_or(self.at, |(_, value)| value.span().start);
        self.report.add(at, Place(&join(&self.key, name), sentence));
    }

    fn find(&self, name: &'static str) -> Option<Node<'a>> {
        self.known.borrow_mut().insert(name);
        let (key, value) = self.table.get_key_value(name)?;
        Some(self.node(key.get_ref(), key.span().start, value.get_ref(), value.span().start))
    }

    fn node(&self, name: &str, key_at: usize, value: &'a DeValue<'a>, at: usize) -> Node<'a> {
        // The place of a table is its key: the table itself may begin anywhere.
        let at = if matches!(value, DeValue::Table(_)) { key_at } else { at };
        Node { report: self.report, key: join(&self.key, name), at, value }
    }

    /// Returns the value of a key, if the table has it.
    pub(in crate::providers) fn get(&self, name: &'static str) -> Option<Node<'a>> {
        self.find(name)
    }

    /// Like [`Self::get`], for a key that schema 1 does not have.
    pub(in crate::providers) fn get_new(&self, name: &'static str) -> Option<Node<'a>> {
        self.find(name).filter(Node::is_permitted)
    }

    /// Returns the value of a required key. Its absence is a mistake.
    pub(in crate::providers) fn require(&self, name: &'static str) -> Option<Node<'a>> {
        let found = self.find(name);
        if found.is_none() {
            self.wrong(format!("the key `{name}` is missing"));
        }
        found
    }

    /// Returns every key with its value, in the order of the file.
    pub(in crate::providers) fn entries(&self) -> Vec<(String, Node<'a>)> {
        let mut all: Vec<_> = self
            .table
            .iter()
            .map(|(key, value)| {
                let at = key.span().start;
                (
                    at,
                    key.get_ref().to_string(),
                    self.node(key.get_ref(), at, value.get_ref(), value.span().start),
                )
            })
            .collect();
        all.sort_by_key(|(at, ..)| *at);
        all.into_iter().map(|(_, name, node)| (name, node)).collect()
    }

    /// Reports the keys that were not read.
    pub(in crate::providers) fn finish(&self) {
        let known = self.known.borrow();
        for (name, node) in self.entries() {
            if known.contains(name.as_str()) {
                continue;
            }
            let distance = |known: &&'static str| (strsim::damerau_levenshtein(known, &name), *known);
            let nearest = known.iter().map(distance).min().filter(|(distance, _)| *distance <= 2);
            // The exact name of a key of another table is no misspelling of several letters.
            let nearest = nearest.filter(|(distance, _)| *distance < 2 || home(&name).is_none());
            let hint = match (nearest, home(&name)) {
                (Some((_, close)), _) => format!("; did you mean `{close}`?"),
                (None, Some(home)) => format!("; it is a key of {home}"),
                (None, None) => {
                    let keys: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
                    format!("; the keys here are {}", keys.join(", "))
                }
            };
            let at = self.table.get_key_value(name.as_str()).map_or(node.at, |(key, _)| key.span().start);
            self.report.add(at, Place(&node.key, format!("is not a key of this table{hint}")));
        }
    }

    /// Returns whether the table has one of these keys.
    pub(in crate::providers) fn has(&self, name: &str) -> bool {
        self.table.contains_key(name)
    }
}

impl<'a> Node<'a> {
    /// Adds a mistake about the value.
    pub(in crate::providers) fn wrong(&self, sentence: impl Display) {
        self.report.add(self.at, Place(&self.key, sentence));
    }

    /// Returns the result, or adds its error.
    pub(in crate::providers) fn ok<T>(&self, result: Result<T, String>) -> Option<T> {
        result.map_err(|sentence| self.wrong(sentence)).ok()
    }

    /// Returns whether the schema has this key; else that is a mistake.
    pub(in crate::providers) fn is_permitted(&self) -> bool {
        let is_permitted = self.report.schema.get() >= 2;
        if !is_permitted {
            self.wrong("needs schema = 2");
        }
        is_permitted
    }

    /// Returns whether the value is a text.
    pub(in crate::providers) fn is_text(&self) -> bool {
        matches!(self.value, DeValue::String(_))
    }

    /// Returns whether the value is a table.
    pub(in crate::providers) fn is_table(&self) -> bool {
        matches!(self.value, DeValue::Table(_))
    }

    /// Returns whether the value is a list.
    pub(in crate::providers) fn is_list(&self) -> bool {
        matches!(self.value, DeValue::Array(_))
    }

    /// Returns a text that is taken as it is. Another type is a mistake, and so is a name in braces, which has the form of a
    /// parameter.
    pub(in crate::providers) fn text(&self) -> Option<&'a str> {
        let text = self.text_with_braces()?;
        self.check_literal(text);
        Some(text)
    }

    /// Returns a text in which braces have a meaning, or which is data: a template, a path, a pattern or a part of an
    /// example.
    pub(in crate::providers) fn text_with_braces(&self) -> Option<&'a str> {
        let text = if let DeValue::String(text) = self.value { Some(text.as_ref()) } else { None };
        self.expect(text, "a text in quotes")
    }

    /// Adds a mistake if a text that is taken as it is contains the form of a parameter. Schema 1 permits it.
    pub(in crate::providers) fn check_literal(&self, text: &str) {
        if self.report.schema.get() >= 2
            && let Some(name) = name_in_braces(text)
        {
            self.wrong(format!(
                "`{{{name}}}` would be taken literally, because this text is no template; write the value itself, or \
                 remove the braces"
            ));
        }
    }

    /// Returns whether the value is a text with a name in braces, where schema 2 permits parameters.
    pub(in crate::providers) fn has_parameter(&self) -> bool {
        let DeValue::String(text) = self.value else { return false };
        self.report.schema.get() >= 2 && name_in_braces(text).is_some()
    }

    /// Returns a text that is not blank.
    pub(in crate::providers) fn some_text(&self) -> Option<&'a str> {
        let text = self.some_text_with_braces()?;
        self.check_literal(text);
        Some(text)
    }

    /// Does the same for a text in which braces have a meaning.
    pub(in crate::providers) fn some_text_with_braces(&self) -> Option<&'a str> {
        let text = self.text_with_braces()?;
        if text.trim().is_empty() {
            self.wrong("must not be empty");
            return None;
        }
        Some(text)
    }

    /// Returns a boolean.
    pub(in crate::providers) fn boolean(&self) -> Option<bool> {
        let value = if let DeValue::Boolean(value) = self.value { Some(*value) } else { None };
        self.expect(value, "true or false")
    }

    /// Returns a whole number.
    pub(in crate::providers) fn integer(&self) -> Option<i64> {
        let number = match self.value {
            DeValue::Integer(number) => {
                i64::from_str_radix(&number.as_str().replace('_', ""), number.radix()).ok()
            }
            DeValue::String(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        };
        self.expect(number, "a whole number")
    }

    /// Returns a number.
    pub(in crate::providers) fn number(&self) -> Option<f64> {
        let number = match self.scalar_value() {
            Some(Scalar::Number(number)) => number.as_f64(),
            Some(Scalar::Text(_) | Scalar::Bool(_)) | None => None,
        };
        self.expect(number, "a number")
    }

    /// Returns a text, a number or a boolean.
    pub(in crate::providers) fn scalar(&self) -> Option<Scalar> {
        let value = self.scalar_value();
        if let Some(Scalar::Text(text)) = &value {
            self.check_literal(text);
        }
        self.expect(value, "a text in quotes, a number, true or false")
    }

    fn scalar_value(&self) -> Option<Scalar> {
        match self.value {
            DeValue::String(text) => Some(Scalar::Text(text.to_string())),
            DeValue::Boolean(value) => Some(Scalar::Bool(*value)),
            DeValue::Integer(number) => {
                let digits = number.as_str().replace('_', "");
                Some(Scalar::Number(i64::from_str_radix(&digits, number.radix()).ok()?.into()))
            }
            DeValue::Float(number) => {
                let number = number.as_str().replace('_', "").parse().ok();
                number.and_then(Number::from_f64).map(Scalar::Number)
            }
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
        }
    }

    /// Returns a text, a number or a boolean as JSON; `None` for another type, which is no mistake.
    pub(in crate::providers) fn fixed_json(&self) -> Option<Value> {
        Some(match self.scalar_value()? {
            Scalar::Text(text) => Value::String(text),
            Scalar::Number(number) => Value::Number(number),
            Scalar::Bool(value) => Value::Bool(value),
        })
    }

    /// Returns the word of a closed list.
    pub(in crate::providers) fn word<T: Copy>(&self, all: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = all.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let words = all.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>().join(", ");
            self.wrong(format!("`{text}` is not possible here; write one of {words}"));
        }
        found
    }

    /// Returns the items of a list.
    pub(in crate::providers) fn list(&self) -> Vec<Self> {
        let DeValue::Array(items) = self.value else {
            if let DeValue::String(text) = self.value {
                self.wrong(format!("must be a list, and not a text; write [\"{text}\"]"));
            } else {
                self.wrong(format!("must be a list in brackets, and not {}", self.found()));
            }
            return Vec::new();
        };
        let item = |value: &'a toml::Spanned<DeValue<'a>>| Self {
            report: self.report,
            key: self.key.clone(),
            at: value.span().start,
            value: value.get_ref(),
        };
        items.iter().map(item).collect()
    }

    /// Returns the items of a list, or a single value.
    pub(in crate::providers) fn one_or_many(&self) -> Vec<Self> {
        if matches!(self.value, DeValue::Array(_)) { self.list() } else { vec![self.clone()] }
    }

    /// Returns the tables of a list such as `[[rule]]`.
    pub(in crate::providers) fn tables(&self) -> Vec<Self> {
        if self.is_table() {
            let key = &self.key;
            self.wrong(format!("must be a list of tables; write [[{key}]] and not [{key}]"));
            return Vec::new();
        }
        self.list()
    }

    /// Parses a text in a form that `parse` knows. `form` describes it with an example, such as `a size such as "1MiB"`.
    pub(in crate::providers) fn parsed<T>(
        &self,
        form: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = if let DeValue::String(text) = self.value { Some(text.as_ref()) } else { None };
        self.ok(parse(self.expect(text, form)?))
    }

    /// Returns the texts of a list.
    pub(in crate::providers) fn texts(&self) -> Vec<String> {
        self.list().iter().filter_map(|item| item.text().map(str::to_owned)).collect()
    }

    /// Returns the texts of a list for people.
    pub(in crate::providers) fn texts_with_braces(&self) -> Vec<String> {
        self.list().iter().filter_map(|item| item.text_with_braces().map(str::to_owned)).collect()
    }

    /// Returns a table.
    pub(in crate::providers) fn table(&self) -> Option<TableReader<'a>> {
        let DeValue::Table(table) = self.value else {
            let key = &self.key;
            let is_doubled = matches!(self.value, DeValue::Array(items) if
                items.iter().all(|item| matches!(item.get_ref(), DeValue::Table(_))));
            if is_doubled {
                self.wrong(format!("must be one table; write [{key}] and not [[{key}]]"));
            } else {
                self.wrong(format!("must be a table in braces, and not {}", self.found()));
            }
            return None;
        };
        let (report, key, at) = (self.report, self.key.clone(), self.at);
        Some(TableReader { report, key, at, table, known: RefCell::default() })
    }

    fn expect<T>(&self, value: Option<T>, kind: &str) -> Option<T> {
        if value.is_none() {
            self.wrong(format!("must be {kind}, and not {}", self.found()));
        }
        value
    }

    /// Returns the type of the value, for messages.
    fn found(&self) -> &'static str {
        match self.value {
            DeValue::String(_) => "a text",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a time without quotes",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        }
    }

    /// Returns a table that cannot be written shorter. `form` is an example of it.
    pub(in crate::providers) fn table_such_as(&self, form: &str) -> Option<TableReader<'a>> {
        if !self.is_table() {
            self.wrong(format!("must be a table such as {form}, and not {}", self.found()));
            return None;
        }
        self.table()
    }
}

/// A sentence about a key; without a key, about the file.
struct Place<'a, T>(&'a str, T);

impl<T: Display> Display for Place<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => write!(f, "{}", self.1),
            key => write!(f, "{key}: {}", self.1),
        }
    }
}

fn join(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}
