//! Paths to values of an answer.
//!
//! The language is a small part of `JSONPath`: `$.a.b`, `$.a[0]`, `$.a[*].b`. Schema 2 adds `$.a[-1]`, quoted names, the
//! member that the id of the job or a parameter names, and filters. There is no recursive descent, and a filter only
//! compares one value below an item with a constant, the id or a parameter. A lookup therefore visits each node at most
//! once for each step, and cannot fail.

use serde_json::Number;

use super::names::Names;
use super::template::name_in_braces;
use super::value::{Json, Scalar, label, position};
use super::work;

/// Largest number of steps of a path, with those in its filters. No known response is deeper.
const MAX_STEPS: usize = 16;

/// The forms of a path, for messages.
const FORMS: &str = "$.a.b, $.a[0], $.a[*].b or $.a[?@.type == 'x'].b";

/// A path to values.
#[derive(Clone, Debug)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Member of an object.
    Key(String),
    /// Item of a list; a negative index counts from the end.
    Index(i64),
    /// Every item of a list.
    Items,
    /// Every item of a list, and every member of an object.
    Children,
    /// The member whose name is the id of the job or a parameter.
    Named(String),
    /// The items or members that pass a filter.
    Where(Filter),
}

/// A comparison of one value below an item.
#[derive(Clone, Debug, PartialEq)]
struct Filter {
    /// The members that lead to the value; empty for the item itself.
    keys: Vec<String>,
    wanted: Wanted,
}

/// What a value is compared with.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Constant(Scalar),
    /// The id of the job, or the parameter with this name.
    Name(String),
}

impl Step {
    /// Returns the name in braces that a quoted text of the step contains.
    fn literal_name(&self) -> Option<&str> {
        let texts: Vec<&str> = match self {
            Self::Key(key) => vec![key],
            Self::Where(Filter { keys, wanted }) => {
                let constant = if let Wanted::Constant(Scalar::Text(text)) = wanted {
                    Some(text.as_str())
                } else {
                    None
                };
                keys.iter().map(String::as_str).chain(constant).collect()
            }
            Self::Index(_) | Self::Items | Self::Children | Self::Named(_) => Vec::new(),
        };
        texts.into_iter().find_map(name_in_braces)
    }
}

impl Path {
    /// Parses a path of schema 1 or 2. The error is a sentence.
    pub(super) fn parse(text: &str, schema: u32) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a path; write it as {FORMS}");
        let mut rest = text.strip_prefix('$').ok_or_else(wrong)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = next_step(rest).ok_or_else(wrong)?;
            let is_new = !matches!(step, Step::Key(_) if rest.starts_with('.'))
                && !matches!(step, Step::Index(0..) | Step::Children);
            if schema < 2 && is_new {
                return Err(format!("`{text}` needs schema = 2"));
            }
            if schema >= 2
                && let Some(name) = step.literal_name()
            {
                return Err(format!(
                    "`{text}`: {{{name}}} in quotes is not replaced; write [{{{name}}}] for the member with this name, and \
                     == {{{name}}} in a filter"
                ));
            }
            steps.push(if schema < 2 && step == Step::Children { Step::Items } else { step });
            rest = after;
        }
        let in_filters = |step: &Step| if let Step::Where(filter) = step { filter.keys.len() } else { 0 };
        if steps.len() + steps.iter().map(in_filters).sum::<usize>() > MAX_STEPS {
            return Err(format!("`{text}` has more than {MAX_STEPS} steps; shorten it"));
        }
        Ok(Self(steps))
    }

    /// Returns the names of the parameters, and perhaps `job_id`.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|step| match step {
            Step::Named(name) | Step::Where(Filter { wanted: Wanted::Name(name), .. }) => Some(name.as_str()),
            Step::Key(_) | Step::Index(_) | Step::Items | Step::Children | Step::Where(_) => None,
        })
    }

    /// Calls `read` for every node at the path in the answer about a job, until it returns a result. Nothing is stored: a
    /// path is read for each item of a list.
    pub(super) fn find<'a, T>(
        &self,
        root: &'a Json<'a>,
        names: Names<'_>,
        mut read: impl FnMut(&'a Json<'a>) -> Option<T>,
    ) -> Option<T> {
        if work::spend(1) { find(&self.0, root, names, &mut read) } else { None }
    }

    /// Returns whether the path selects the items of an empty list.
    pub(super) fn is_empty_list(&self, root: &Json<'_>, names: Names<'_>) -> bool {
        let [list @ .., Step::Items | Step::Children] = self.0.as_slice() else { return false };
        let mut is_empty =
            |node: &Json<'_>| matches!(node, Json::List(items) if items.is_empty()).then_some(());
        find(list, root, names, &mut is_empty).is_some()
    }

    /// Calls `change` for every node at the path.
    pub(super) fn change(&self, root: &mut Json<'_>, names: Names<'_>, change: &impl Fn(&mut Json<'_>)) {
        change_nodes(&self.0, root, names, change);
    }
}

fn find<'a, T>(
    steps: &[Step],
    mut node: &'a Json<'a>,
    names: Names<'_>,
    read: &mut impl FnMut(&'a Json<'a>) -> Option<T>,
) -> Option<T> {
    for (n, step) in steps.iter().enumerate() {
        if !work::spend(1 + cost(step, node)) {
            return None;
        }
        let rest = &steps[n + 1..];
        node = match step {
            Step::Key(key) => node.get(key)?,
            Step::Index(index) => node.at(*index)?,
            Step::Named(name) => node.get(names.get(name)?)?,
            Step::Items => return items(node).find_map(|child| find(rest, child, names, read)),
            Step::Children => return children(node).find_map(|child| find(rest, child, names, read)),
            Step::Where(filter) => {
                let mut wanted = children(node).filter(|child| filter.passes(child, names));
                return wanted.find_map(|child| find(rest, child, names, read));
            }
        };
    }
    read(node)
}

/// Returns the number of values that a step visits in a node.
fn cost(step: &Step, node: &Json<'_>) -> usize {
    let children = match node {
        Json::List(items) => items.len(),
        Json::Object(members) => members.len(),
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_) => 0,
    };
    match step {
        Step::Index(_) => 0,
        Step::Key(_) | Step::Named(_) | Step::Items | Step::Children => children,
        Step::Where(_) => children * work::COMPARISON,
    }
}

impl Filter {
    fn passes(&self, node: &Json<'_>, names: Names<'_>) -> bool {
        let value = self.keys.iter().try_fold(node, |node, key| node.get(key));
        value.is_some_and(|value| match &self.wanted {
            Wanted::Constant(constant) => constant.equals(value),
            Wanted::Name(name) => {
                names.get(name).is_some_and(|wanted| label(value).is_some_and(|value| value == wanted))
            }
        })
    }
}

fn items<'a>(node: &'a Json<'a>) -> impl Iterator<Item = &'a Json<'a>> {
    let items = if let Json::List(items) = node { &**items } else { &[] };
    items.iter()
}

fn children<'a>(node: &'a Json<'a>) -> impl Iterator<Item = &'a Json<'a>> {
    let members = if let Json::Object(members) = node { &**members } else { &[] };
    items(node).chain(members.iter().map(|(_, value)| value))
}

fn change_nodes(steps: &[Step], node: &mut Json<'_>, names: Names<'_>, change: &impl Fn(&mut Json<'_>)) {
    let Some((step, rest)) = steps.split_first() else { return change(node) };
    if !work::spend(1 + cost(step, node)) {
        return;
    }
    let is_wanted = |name: Option<&str>, child: &Json<'_>| match step {
        Step::Key(key) => name == Some(key),
        Step::Named(key) => name.is_some() && name == names.get(key),
        Step::Where(filter) => filter.passes(child, names),
        Step::Items => name.is_none(),
        Step::Children => true,
        Step::Index(_) => false,
    };
    match (node, step) {
        (Json::List(items), Step::Index(index)) => {
            if let Some(item) = position(*index, items.len()).and_then(|at| items.get_mut(at)) {
                change_nodes(rest, item, names, change);
            }
        }
        (Json::List(items), _) => {
            for item in items.iter_mut().filter(|item| is_wanted(None, item)) {
                change_nodes(rest, item, names, change);
            }
        }
        (Json::Object(members), _) => {
            for (_, value) in members.iter_mut().filter(|(name, value)| is_wanted(Some(name), value)) {
                change_nodes(rest, value, names, change);
            }
        }
        (Json::Null | Json::Bool(_) | Json::Number(_) | Json::Text(_), _) => {}
    }
}

/// Parses the first step of a text, and returns the text after it.
fn next_step(text: &str) -> Option<(Step, &str)> {
    if let Some(name) = text.strip_prefix('.') {
        let (name, rest) = name.split_at(name.find(['.', '[']).unwrap_or(name.len()));
        let foreign = |c: char| c.is_whitespace() || "]*$@?'\"{}".contains(c);
        return (!name.is_empty() && !name.contains(foreign)).then(|| (Step::Key(name.to_owned()), rest));
    }
    let inner = text.strip_prefix('[')?;
    if let Some(quote) = inner.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let (name, rest) = inner[1..].split_once(quote)?;
        return Some((Step::Key(name.to_owned()), rest.strip_prefix(']')?)).filter(|_| !name.is_empty());
    }
    if let Some(filter) = inner.strip_prefix('?') {
        return self::filter(filter);
    }
    let (inside, rest) = inner.split_once(']')?;
    let step = if inside == "*" {
        Step::Children
    } else if let Some(name) = inside.strip_prefix('{').and_then(|name| name.strip_suffix('}')) {
        Step::Named(param_name(name)?)
    } else {
        let digits = inside.strip_prefix('-').unwrap_or(inside);
        let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        is_number.then(|| inside.parse().ok().map(Step::Index))??
    };
    Some((step, rest))
}

fn param_name(name: &str) -> Option<String> {
    let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then(|| name.to_owned())
}

/// Parses the rest of a filter, `@.type == 'final']`, and returns the text after it.
fn filter(text: &str) -> Option<(Step, &str)> {
    let (mut keys, mut rest) = (Vec::new(), text.trim_start().strip_prefix('@')?);
    loop {
        if let Some(name) = rest.strip_prefix('.') {
            let is_end = |c: char| c.is_whitespace() || ".[]=".contains(c);
            let (name, after) = name.split_at(name.find(is_end).unwrap_or(name.len()));
            if name.is_empty() || name.contains(|c: char| "*$@?'\"{}!<>&|()".contains(c)) {
                return None;
            }
            keys.push(name.to_owned());
            rest = after;
        } else if rest.starts_with('[') {
            let (Step::Key(key), after) = next_step(rest)? else { return None };
            keys.push(key);
            rest = after;
        } else {
            break;
        }
    }
    let value = rest.trim_start().strip_prefix("==")?.trim_start();
    let (wanted, rest) = if let Some(quote) = value.chars().next().filter(|c| matches!(c, '\'' | '"')) {
        let (text, rest) = value[1..].split_once(quote)?;
        (Wanted::Constant(Scalar::Text(text.to_owned())), rest)
    } else if let Some(name) = value.strip_prefix('{') {
        let (name, rest) = name.split_once('}')?;
        (Wanted::Name(param_name(name)?), rest)
    } else {
        let (word, rest) = value.split_at(value.find(']')?);
        let constant = match word.trim_end() {
            "true" => Scalar::Bool(true),
            "false" => Scalar::Bool(false),
            number => Scalar::Number(serde_json::from_str::<Number>(number).ok()?),
        };
        (Wanted::Constant(constant), rest)
    };
    Some((Step::Where(Filter { keys, wanted }), rest.trim_start().strip_prefix(']')?))
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::collections::BTreeMap;

    use serde_json::{Value, json};

    use super::*;
    use crate::providers::json::{Dialect, parse_json};

    fn names(params: &BTreeMap<String, String>) -> Names<'_> {
        Names { params, ..Names::of_job("j1") }
    }

    fn found(path: &str, schema: u32, root: &Value) -> Value {
        let params = BTreeMap::from([("kind".to_owned(), "final".to_owned())]);
        let (body, cell) = (root.to_string(), OnceCell::new());
        let root = parse_json(body.as_bytes(), &cell, Dialect::Strict, None).expect("JSON").value;
        let mut found = Vec::new();
        Path::parse(path, schema).expect("a path").find(&root, names(&params), |node| {
            found.push(node);
            None::<()>
        });
        json!(found)
    }

    #[test]
    fn a_path_selects_keys_indexes_and_every_item() {
        let root = json!({"a": {"b": 1}, "list": [{"u": "x"}, {"u": "y"}, 3], "s": "text"});
        let table = [
            ("$", json!([root])),
            ("$.a.b", json!([1])),
            ("$.list[0].u", json!(["x"])),
            ("$.list[*].u", json!(["x", "y"])),
            ("$.list[9]", json!([])),
            ("$.s.b", json!([])),
            ("$.s[*]", json!([])),
            ("$.missing[*].u", json!([])),
        ];
        for (path, nodes) in table {
            assert_eq!(found(path, 1, &root), nodes, "{path}");
            assert_eq!(found(path, 2, &root), nodes, "{path}");
        }
        assert_eq!(found("$.a[*]", 1, &root), json!([]));
    }

    #[test]
    fn a_path_of_schema_2_selects_members_the_last_item_and_the_job() {
        let root = json!({
            "jobs": {"j1": {"s": 1}, "j2": {"s": 2}}, "list": [{"id": "j0"}, {"id": "j1", "n": 5}], "a.b": {"c d": 6},
            "numbers": [1, 2, 3],
        });
        let table = [
            ("$.numbers[-1]", json!([3])),
            ("$.numbers[-3]", json!([1])),
            ("$.numbers[-4]", json!([])),
            ("$.jobs[*].s", json!([1, 2])),
            ("$.jobs[{job_id}].s", json!([1])),
            ("$.list[?@.id == {job_id}].n", json!([5])),
            ("$.list[?@.id=={job_id}].n", json!([5])),
            ("$['a.b'][\"c d\"]", json!([6])),
            ("$.jobs['j2'].s", json!([2])),
        ];
        for (path, nodes) in table {
            assert_eq!(found(path, 2, &root), nodes, "{path}");
            let refused = Path::parse(path, 1).map(drop);
            assert_eq!(refused.is_ok(), path == "$.jobs[*].s", "{path}");
        }
    }

    #[test]
    fn a_filter_compares_a_member_with_a_constant_or_a_name() {
        let root = json!({
            "files": [
                {"type": "draft", "url": "a", "n": 1}, {"type": "final", "url": "b", "meta": {"a b": {"ok": true}}},
                {"type": "final]", "url": "c", "n": "2"}, "final", {"id": "j1", "url": "d", "n": 2.0},
            ],
            "by": {"final": {"url": "e", "type": "final"}, "other": 5},
        });
        let table = [
            ("$.files[?@.type == 'final'].url", json!(["b"])),
            ("$.files[?@.type=='final'].url", json!(["b"])),
            ("$.files[? @.type == \"final]\" ].url", json!(["c"])),
            ("$.files[?@.type == {kind}].url", json!(["b"])),
            ("$.files[?@.n == 2].url", json!(["c", "d"])),
            ("$.files[?@.meta['a b'].ok == true].url", json!(["b"])),
            ("$.files[?@ == 'final']", json!(["final"])),
            ("$.files[?@.type == {absent}].url", json!([])),
            ("$.by[{kind}].url", json!(["e"])),
            ("$.by[?@.type == 'final'].url", json!(["e"])),
        ];
        for (path, nodes) in table {
            assert_eq!(found(path, 2, &root), nodes, "{path}");
            assert!(Path::parse(path, 1).is_err_and(|why| why.ends_with("needs schema = 2")), "{path}");
        }
        let names = Path::parse("$.a[?@.b == {kind}][{job_id}][?@.c == 'x']", 2).expect("a path");
        assert_eq!(names.names().collect::<Vec<_>>(), ["kind", "job_id"]);
    }

    #[test]
    fn an_invalid_path_is_rejected() {
        let deep = format!("${}", ".a".repeat(17));
        for text in [
            "",
            "a",
            "a.b",
            "$a",
            "$.",
            "$..a",
            "$.a[",
            "$.a[x]",
            "$.a]",
            "$.a b",
            "$.a[--1]",
            "$.a[+1]",
            "$.a['b]",
            "$.a['']",
            "$.a[?@.b]",
            "$.a[?@.b != 'x']",
            "$.a[?@.b == x]",
            "$.a[?@.b == 'x]",
            "$.a[?@.b == 'x'",
            "$.a[?@.b = 'x']",
            "$.a[?@.b == {}]",
            "$.a[?@[*] == 'x']",
            "$.a[?@.b == null]",
            "$.a[?b == 'x']",
            "$.a[{a b}]",
            "$.a[]",
            "$.{job_id}",
            &deep,
        ] {
            assert!(Path::parse(text, 2).is_err(), "{text}");
        }
        assert!(Path::parse("$.a[-1]", 1).is_err_and(|why| why.ends_with("needs schema = 2")));
    }
}
