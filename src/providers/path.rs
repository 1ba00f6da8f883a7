//! Paths in a response: `$.a.b`, `$.a[0]`, `$.a[*].b`.
//!
//! The language is a small part of `JSONPath`, without filters, recursive descent and slices. A lookup therefore
//! visits each node of the response at most once, and cannot fail.

use serde_json::Value;

/// Largest number of steps of a path. No known response is deeper.
const MAX_STEPS: usize = 16;

/// A path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Path {
    steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
    Each,
}

impl Path {
    /// Parses a path. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a path; write it as $.a.b, $.a[0] or $.a[*].b");
        let mut rest = text.strip_prefix('$').ok_or_else(wrong)?;
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('.') {
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let (key, tail) = after.split_at(end);
                if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "]*$@?'\"".contains(c)) {
                    return Err(wrong());
                }
                steps.push(Step::Key(key.to_owned()));
                rest = tail;
            } else {
                let (index, tail) =
                    rest.strip_prefix('[').and_then(|r| r.split_once(']')).ok_or_else(wrong)?;
                steps.push(match index {
                    "*" => Step::Each,
                    _ => Step::Index(index.parse().map_err(|_| wrong())?),
                });
                rest = tail;
            }
        }
        if steps.len() > MAX_STEPS {
            return Err(format!("`{text}` has more than {MAX_STEPS} steps; shorten it"));
        }
        Ok(Self { steps })
    }

    /// Returns every node at the path.
    pub(super) fn nodes<'a>(&self, root: &'a Value) -> Vec<&'a Value> {
        let mut nodes = vec![root];
        for step in &self.steps {
            nodes = match step {
                Step::Key(key) => nodes.into_iter().filter_map(|node| node.get(key)).collect(),
                Step::Index(index) => nodes.into_iter().filter_map(|node| node.get(index)).collect(),
                Step::Each => nodes.into_iter().filter_map(Value::as_array).flatten().collect(),
            };
        }
        nodes
    }

    /// Returns whether the path selects the items of an empty list.
    pub(super) fn is_empty_list(&self, root: &Value) -> bool {
        let Some((Step::Each, list)) = self.steps.split_last() else { return false };
        let list = Self { steps: list.to_vec() };
        list.nodes(root).into_iter().filter_map(Value::as_array).any(Vec::is_empty)
    }
}

/// Alternative paths of one value, in the order in which they are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Paths(pub(super) Vec<Path>);

impl Paths {
    /// Returns the first value that `read` accepts. Nulls and values of another type are skipped.
    pub(super) fn find<'a, T>(&self, root: &'a Value, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        self.0.iter().flat_map(|path| path.nodes(root)).find_map(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
            assert_eq!(json!(Path::parse(path).unwrap().nodes(&root)), nodes, "{path}");
        }
    }

    #[test]
    fn an_invalid_path_is_rejected() {
        let deep = format!("${}", ".a".repeat(17));
        for text in ["", "a", "a.b", "$a", "$.", "$..a", "$.a[", "$.a[-1]", "$.a[x]", "$.a]", "$.a b", &deep]
        {
            assert!(Path::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_first_usable_value_wins() {
        let paths = Paths(["$.a", "$.b", "$.c"].iter().map(|p| Path::parse(p).unwrap()).collect());
        let root = json!({"a": null, "b": 5, "c": "word"});
        assert_eq!(paths.find(&root, Value::as_str), Some("word"));
        assert_eq!(paths.find(&root, Value::as_i64), Some(5));
        assert_eq!(Paths::default().find(&root, Value::as_str), None);
    }
}
