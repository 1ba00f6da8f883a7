//! Paths to values of an answer.
//!
//! The language is a small part of `JSONPath`: `$.a.b`, `$.a[0]`, `$.a[*].b`. Schema 2 adds `$.a[-1]`, quoted names, and
//! two forms with the id of the job. There is no recursive descent, and a filter only compares one member with the id. A
//! lookup therefore visits each node at most once for each step, and cannot fail.

use super::value::{Json, label, position};

/// Largest number of steps of a path. No known response is deeper.
const MAX_STEPS: usize = 16;

/// A path to values.
#[derive(Clone, Debug)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Member of an object.
    Key(String),
    /// Item of a list; a negative index counts from the end.
    Index(i64),
    /// Every item of a list.
    Items,
    /// Every item of a list, and every member of an object.
    Children,
    /// The member whose name is the id of the job.
    JobKey,
    /// The items or members whose member with this name is the id of the job.
    JobItems(String),
}

impl Path {
    /// Parses a path of schema 1 or 2. The error is a sentence.
    pub(super) fn parse(text: &str, schema: u32) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a path; write it as $.a.b, $.a[0] or $.a[*].b");
        let mut rest = text.strip_prefix('$').ok_or_else(wrong)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = next_step(rest).ok_or_else(wrong)?;
            let is_new = !matches!(step, Step::Key(_) if rest.starts_with('.'))
                && !matches!(step, Step::Index(0..) | Step::Children);
            if schema < 2 && is_new {
                return Err(format!("`{text}` needs schema = 2"));
            }
            steps.push(if schema < 2 && step == Step::Children { Step::Items } else { step });
            rest = after;
        }
        if steps.len() > MAX_STEPS {
            return Err(format!("`{text}` has more than {MAX_STEPS} steps; shorten it"));
        }
        Ok(Self(steps))
    }

    /// Returns every node at the path in the answer about a job.
    pub(super) fn nodes<'a>(&self, root: &'a Json<'a>, job_id: &str) -> Vec<&'a Json<'a>> {
        nodes(&self.0, root, job_id)
    }

    /// Returns whether the path selects the items of an empty list.
    pub(super) fn is_empty_list(&self, root: &Json<'_>, job_id: &str) -> bool {
        let [list @ .., Step::Items | Step::Children] = self.0.as_slice() else { return false };
        nodes(list, root, job_id)
            .into_iter()
            .any(|node| matches!(node, Json::List(items) if items.is_empty()))
    }

    /// Calls `change` for every node at the path.
    pub(super) fn change(&self, root: &mut Json<'_>, job_id: &str, change: &impl Fn(&mut Json<'_>)) {
        change_nodes(&self.0, root, job_id, change);
    }
}

fn nodes<'a>(steps: &[Step], root: &'a Json<'a>, job_id: &str) -> Vec<&'a Json<'a>> {
    let mut nodes = vec![root];
    for step in steps {
        nodes = match step {
            Step::Key(key) => nodes.into_iter().filter_map(|node| node.get(key)).collect(),
            Step::Index(index) => nodes.into_iter().filter_map(|node| node.at(*index)).collect(),
            Step::Items => nodes.into_iter().flat_map(items).collect(),
            Step::Children => nodes.into_iter().flat_map(children).collect(),
            Step::JobKey => nodes.into_iter().filter_map(|node| node.get(job_id)).collect(),
            Step::JobItems(key) => {
                nodes.into_iter().flat_map(children).filter(|child| names_job(child, key, job_id)).collect()
            }
        };
    }
    nodes
}

fn items<'a>(node: &'a Json<'a>) -> impl Iterator<Item = &'a Json<'a>> {
    let items = if let Json::List(items) = node { items.as_slice() } else { &[] };
    items.iter()
}

fn children<'a>(node: &'a Json<'a>) -> impl Iterator<Item = &'a Json<'a>> {
    let members = if let Json::Object(members) = node { members.as_slice() } else { &[] };
    items(node).chain(members.iter().map(|(_, value)| value))
}

fn names_job(node: &Json<'_>, key: &str, job_id: &str) -> bool {
    node.get(key).and_then(label).is_some_and(|id| id == job_id)
}

fn change_nodes(steps: &[Step], node: &mut Json<'_>, job_id: &str, change: &impl Fn(&mut Json<'_>)) {
    let Some((step, rest)) = steps.split_first() else { return change(node) };
    let is_wanted = |name: Option<&str>, child: &Json<'_>| match step {
        Step::Key(key) => name == Some(key),
        Step::JobKey => name == Some(job_id),
        Step::JobItems(key) => names_job(child, key, job_id),
        Step::Items => name.is_none(),
        Step::Children => true,
        Step::Index(_) => false,
    };
    match (node, step) {
        (Json::List(items), Step::Index(index)) => {
            if let Some(item) = position(*index, items.len()).and_then(|at| items.get_mut(at)) {
                change_nodes(rest, item, job_id, change);
            }
        }
        (Json::List(items), _) => {
            for item in items.iter_mut().filter(|item| is_wanted(None, item)) {
                change_nodes(rest, item, job_id, change);
            }
        }
        (Json::Object(members), _) => {
            for (_, value) in members.iter_mut().filter(|(name, value)| is_wanted(Some(name), value)) {
                change_nodes(rest, value, job_id, change);
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
    let (inside, rest) = inner.split_once(']')?;
    let step = match inside {
        "*" => Step::Children,
        "{job_id}" => Step::JobKey,
        _ if inside.starts_with("?@.") => {
            let (key, id) = inside.strip_prefix("?@.")?.split_once("==")?;
            let key = key.trim();
            let is_name = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || "_-".contains(c));
            (is_name && id.trim() == "{job_id}").then(|| Step::JobItems(key.to_owned()))?
        }
        _ => {
            let digits = inside.strip_prefix('-').unwrap_or(inside);
            let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| inside.parse().ok().map(Step::Index))??
        }
    };
    Some((step, rest))
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use serde_json::{Value, json};

    use super::*;
    use crate::providers::json::{Dialect, parse_json};

    fn found(path: &str, schema: u32, root: &Value) -> Value {
        let (body, cell) = (root.to_string(), OnceCell::new());
        let root = parse_json(body.as_bytes(), &cell, Dialect::Strict, None).expect("JSON").value;
        json!(Path::parse(path, schema).expect("a path").nodes(&root, "j1"))
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
            "$.a[?@.b == 1]",
            "$.a[?@.b.c == {job_id}]",
            "$.a[{id}]",
            "$.a[]",
            "$.{job_id}",
            &deep,
        ] {
            assert!(Path::parse(text, 2).is_err(), "{text}");
        }
        assert!(Path::parse("$.a[-1]", 1).is_err_and(|why| why.ends_with("needs schema = 2")));
    }
}
