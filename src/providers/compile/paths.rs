//! Paths, fields and conditions of a definition file.

use regex::RegexBuilder;

use super::reader::{Node, TableReader};
use crate::providers::condition::{Condition, Test};
use crate::providers::field::{Alternative, Field, Outcome, Paths, Place};
use crate::providers::part::Part;
use crate::providers::path::Path;
use crate::providers::template::reason_of;
use crate::providers::text_template::TextTemplate;

/// Largest size of a compiled pattern in bytes.
const PATTERN_SIZE: usize = 256 * 1024;

/// Longest pattern in bytes.
const PATTERN_LENGTH: usize = 500;

/// Largest number of alternatives of one field, and of values in one list.
const MAX_ALTERNATIVES: usize = 100;

/// Largest number of paths of one sum.
const MAX_SUMMANDS: usize = 16;

/// The tests of a condition.
const TESTS: [&str; 8] = ["is", "in", "same_as", "exists", "missing", "matches", "gt", "lt"];

/// Reads a path.
pub(super) fn path(node: &Node<'_>) -> Option<Path> {
    let path = node.ok(Path::parse(node.text_with_braces()?, node.report.schema.get()))?;
    let mut names = node.report.names.borrow_mut();
    names.extend(path.names().map(|name| (name.to_owned(), node.key.clone(), node.at)));
    drop(names);
    if node.report.ignores_body.get() {
        node.wrong("a path finds nothing, because response.body is `none`");
    }
    Some(path)
}

/// Reads a path or a list of paths.
pub(super) fn paths(node: &Node<'_>) -> Paths {
    Paths(items(node).iter().filter_map(path).collect())
}

/// Reads paths of an optional key.
pub(super) fn optional_paths(table: &TableReader<'_>, name: &'static str) -> Paths {
    table.get(name).map(|node| paths(&node)).unwrap_or_default()
}

/// Reads a field: a path, a list of alternatives, or a table with `path`, `header` or `sum`, `match`, and `when`.
pub(super) fn field(node: &Node<'_>) -> Field {
    field_of(node, false)
}

/// Reads a field whose value is a text, which can also be a template.
pub(super) fn text_field(node: &Node<'_>) -> Field {
    field_of(node, true)
}

fn field_of(node: &Node<'_>, allows_template: bool) -> Field {
    let mut all = Vec::new();
    for item in items(node) {
        let is_template =
            allows_template && item.is_text() && item.text_with_braces().is_some_and(TextTemplate::is_meant);
        if item.is_table() && item.is_permitted() {
            if let Some(table) = item.table() {
                let template = if allows_template { table.get("template") } else { None };
                match template {
                    Some(node) => all.extend(template_alternative(&table, &node)),
                    None => all.extend(alternatives(&table)),
                }
                table.finish();
            }
        } else if is_template && item.is_permitted() {
            all.extend(template(&item, Vec::new()));
        } else if !item.is_table() && !is_template {
            all.extend(path(&item).map(|path| Alternative::of(Place::Path(path))));
        }
    }
    Field(all)
}

/// Reads a table with `template` and `when`.
fn template_alternative(table: &TableReader<'_>, node: &Node<'_>) -> Option<Alternative> {
    for name in ["path", "header", "sum", "match"] {
        if let Some(node) = table.get(name) {
            node.wrong("is possible only without `template`; remove one of the two");
        }
    }
    let when = table.get("when").map(|node| outcomes(&node)).unwrap_or_default();
    template(node, when)
}

fn template(node: &Node<'_>, when: Vec<Outcome>) -> Option<Alternative> {
    let template = node.ok(TextTemplate::parse(node.some_text_with_braces()?))?;
    if !template.reads_answer() && when.is_empty() {
        node.wrong(
            "needs `when = [\"completed\"]`, because the answer does not decide whether there is such a text",
        );
    }
    if template.reads_answer() && node.report.ignores_body.get() {
        node.wrong("a path finds nothing, because response.body is `none`");
    }
    Some(Alternative { when, ..Alternative::of(Place::Template(template)) })
}

/// Reads a field of an optional key, whose value is a text.
pub(super) fn optional_text_field(table: &TableReader<'_>, name: &'static str) -> Field {
    table.get(name).map(|node| text_field(&node)).unwrap_or_default()
}

/// Reads `path`, `header` or `sum`, `match`, and `when`. In schema 1, only `path` is possible.
pub(super) fn alternatives(table: &TableReader<'_>) -> Vec<Alternative> {
    let when = table.get_new("when").map(|node| outcomes(&node)).unwrap_or_default();
    places(table).into_iter().map(|one| Alternative { when: when.clone(), ..one }).collect()
}

/// Reads a list of outcomes.
pub(super) fn outcomes(node: &Node<'_>) -> Vec<Outcome> {
    let list = node.list();
    if list.is_empty() {
        node.wrong("must list at least one outcome");
    }
    list.iter().filter_map(|word| word.word(&Outcome::ALL)).collect()
}

/// Reads `path`, `header` or `sum`, one of which is required, and `match`.
fn places(table: &TableReader<'_>) -> Vec<Alternative> {
    let (path, header, sum) = (table.get("path"), table.get_new("header"), table.get_new("sum"));
    let part_node = table.get_new("match");
    let part = part_node.as_ref().and_then(part);
    let places: Vec<Place> = match (&path, &header, &sum) {
        (Some(node), None, None) => paths(node).0.into_iter().map(Place::Path).collect(),
        (None, Some(node), None) => self::header(node).map(Place::Header).into_iter().collect(),
        (None, None, Some(node)) => {
            if let Some(node) = &part_node {
                node.wrong("is possible only with `path` or `header`; a sum has no parts");
            }
            self::sum(node).map(Place::Sum).into_iter().collect()
        }
        (None, None, None) => {
            table.wrong("needs `path` or `header`, the place of the value, or `sum`");
            Vec::new()
        }
        _ => {
            table.wrong("has more than one of `path`, `header` and `sum`; keep one");
            Vec::new()
        }
    };
    let alternative = |place| Alternative { part: part.clone(), ..Alternative::of(place) };
    places.into_iter().map(alternative).collect()
}

/// Reads the pattern that finds a part of a text.
fn part(node: &Node<'_>) -> Option<Part> {
    let pattern = node.ok(pattern(node.text_with_braces()?))?;
    node.ok(Part::new(pattern))
}

/// Reads the paths whose numbers are added.
fn sum(node: &Node<'_>) -> Option<Vec<Path>> {
    let list = node.list();
    if node.is_list() && !(1..=MAX_SUMMANDS).contains(&list.len()) {
        node.wrong(format!("must list 1 to {MAX_SUMMANDS} paths, whose numbers are added"));
        return None;
    }
    let paths: Vec<Path> = list.iter().filter_map(path).collect();
    (paths.len() == list.len() && !paths.is_empty()).then_some(paths)
}

/// Reads the name of a header, in lower case.
pub(super) fn header(node: &Node<'_>) -> Option<String> {
    let name = node.text()?;
    node.ok(header_name(name))
}

/// Checks the name of a header, and returns it in lower case.
pub(super) fn header_name(name: &str) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    is_name.then(|| name.to_ascii_lowercase()).ok_or_else(|| format!("`{name}` is not a valid header name"))
}

fn items<'a>(node: &Node<'a>) -> Vec<Node<'a>> {
    let mut items = node.one_or_many();
    if items.len() > MAX_ALTERNATIVES {
        node.wrong(format!("has more than {MAX_ALTERNATIVES} alternatives; shorten the list"));
        items.truncate(MAX_ALTERNATIVES);
    }
    items
}

/// Reads a list of conditions.
pub(super) fn conditions(node: &Node<'_>) -> Vec<Condition> {
    let list = node.list();
    if list.len() > MAX_ALTERNATIVES {
        node.wrong(format!("has more than {MAX_ALTERNATIVES} conditions; use several rules"));
        return Vec::new();
    }
    list.iter().filter_map(condition).collect()
}

/// Reads a condition.
fn condition(node: &Node<'_>) -> Option<Condition> {
    let table = node.table_such_as("{ path = \"$.code\", is = 5 }")?;
    let mut places = places(&table);
    let every_node = table.get("every");
    let every = every_node.as_ref().and_then(Node::boolean).unwrap_or(false);
    let mut tests = Vec::new();
    if let Some(node) = table.get("is") {
        tests.extend(is_test(&node));
    }
    if let Some(node) = table.get("in") {
        let list: Vec<_> = node.list().iter().filter_map(Node::scalar).collect();
        if list.is_empty() {
            node.wrong("must list at least one value");
        }
        tests.push(Test::Equals(list));
    }
    if let Some(node) = table.get("same_as") {
        let mut others = field(&node).0;
        if others.len() > 1 || others.iter().any(|one| !one.when.is_empty()) {
            node.wrong("must be one path, or a table of `path`, `header` or `sum` without `when`");
        }
        tests.extend(others.pop().map(|other| Test::SameAs(Box::new(other))));
    }
    for (name, test) in [("exists", Test::Exists), ("missing", Test::Missing)] {
        if let Some(node) = table.get(name) {
            match node.boolean() {
                Some(false) => {
                    node.wrong("must be true; `exists` and `missing` are the opposites of each other");
                }
                Some(true) => tests.push(test),
                None => {}
            }
        }
    }
    if let Some(node) = table.get("matches") {
        tests.extend(node.text_with_braces().and_then(|text| node.ok(pattern(text))).map(Test::Matches));
    }
    for (name, test) in [("gt", Test::Above as fn(f64) -> Test), ("lt", Test::Below)] {
        if let Some(node) = table.get(name) {
            tests.extend(node.number().map(test));
        }
    }
    if TESTS.iter().filter(|name| table.has(name)).count() != 1 {
        table.wrong(
            "a condition has exactly one of `is`, `in`, `same_as`, `exists`, `missing`, `matches`, `gt` and `lt`",
        );
    }
    if places.len() > 1 {
        table.wrong("a condition has one path; use several conditions");
    }
    if every && matches!(tests.first(), Some(Test::Missing)) {
        table.wrong_key("every", "has no meaning with `missing`, which is about all values; remove it");
    }
    table.finish();
    Some(Condition {
        place: places.pop()?,
        test: tests.into_iter().next()?,
        every,
        most_searched: usize::MAX,
    })
}

/// Reads `is`: a value, or a text with parameters.
fn is_test(node: &Node<'_>) -> Option<Test> {
    if node.is_list() {
        node.wrong("must be one value; write `in` for a list of values");
        return None;
    }
    if !node.has_parameter() {
        return node.scalar().map(|one| Test::Equals(vec![one]));
    }
    let template = node.ok(TextTemplate::parse(node.some_text_with_braces()?))?;
    if template.reads_answer() {
        node.wrong("contains a path; write `same_as` to compare with another value of the answer");
    }
    let mut names = node.report.names.borrow_mut();
    names.extend(template.names().map(|name| (name.to_owned(), node.key.clone(), node.at)));
    drop(names);
    Some(Test::SameAs(Box::new(Alternative::of(Place::Template(template)))))
}

/// Compiles a pattern that is searched in a text.
fn pattern(text: &str) -> Result<regex::Regex, String> {
    if text.len() > PATTERN_LENGTH {
        return Err(format!("must be at most {PATTERN_LENGTH} bytes"));
    }
    RegexBuilder::new(text).size_limit(PATTERN_SIZE).build().map_err(|error| {
        // The library draws the place on several lines; the last one has the reason.
        let error = error.to_string();
        let reason = error.lines().last().map_or("", |line| line.trim_start_matches("error: "));
        format!("`{text}` is not a regular expression: {}", reason_of(text, reason))
    })
}
