//! Conditions on an answer: one test of the values at one place.

use regex::Regex;

use super::field::{Alternative, Place, Scope};
use super::value::{Json, Scalar, number};
use super::work;

/// Number of bytes of a text in which a pattern is searched.
const SEARCHED: usize = 64 * 1024;

/// Number of bytes of a text up to which it is compared with another value of the answer.
const COMPARED: usize = 1024;

/// A test of the values at a place.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) place: Alternative,
    pub(super) test: Test,
    /// Whether all values must pass, and not one of them.
    pub(super) every: bool,
    /// Largest number of bytes of all texts together in which a pattern is searched.
    pub(super) most_searched: usize,
}

/// What a value must be.
#[derive(Clone, Debug)]
pub(super) enum Test {
    /// Equal to one of these.
    Equals(Vec<Scalar>),
    /// Equal to another value of the answer.
    SameAs(Box<Alternative>),
    /// Present and not null.
    Exists,
    /// Absent or null.
    Missing,
    /// A text, number or boolean that contains a match.
    Matches(Regex),
    /// A greater number.
    Above(f64),
    /// A smaller number.
    Below(f64),
}

impl Condition {
    /// Returns whether the condition is about the body.
    pub(super) fn reads_body(&self) -> bool {
        let is_path = |one: &Alternative| match &one.place {
            Place::Path(_) | Place::Sum(_) => true,
            Place::Template(template) => template.reads_answer(),
            Place::Header(_) | Place::Http | Place::Location(_) => false,
        };
        is_path(&self.place) || matches!(&self.test, Test::SameAs(other) if is_path(other))
    }

    /// Returns whether the condition holds for an answer.
    pub(super) fn holds(&self, scope: Scope<'_>) -> bool {
        if matches!(self.test, Test::Missing) {
            return self.place.find(scope, |value| (!value.is_null()).then_some(())).is_none();
        }
        if let Test::SameAs(other) = &self.test {
            let other = other.find(scope, scalar);
            let equals =
                |other: &Scalar, value: &Json<'_>| work::spend(work::COMPARISON) && other.equals(value);
            return other.is_some_and(|other| self.passes(scope, |value| equals(&other, value)));
        }
        let mut left = self.most_searched;
        let constants = if let Test::Equals(all) = &self.test { all.len() } else { 1 };
        self.passes(scope, |value| {
            work::spend(constants * work::COMPARISON) && self.test.passes(value, &mut left)
        })
    }

    /// Returns whether one value, or every one, passes.
    fn passes(&self, scope: Scope<'_>, mut passes: impl FnMut(&Json<'_>) -> bool) -> bool {
        let mut some = false;
        let decides = |value: &Json<'_>| {
            some = true;
            (passes(value) != self.every).then_some(())
        };
        let is_decided = self.place.find(scope, decides).is_some();
        if self.every { some && !is_decided } else { is_decided }
    }
}

impl Test {
    /// Returns whether a value passes. `left` is the number of bytes in which a pattern may be searched.
    fn passes(&self, value: &Json<'_>, left: &mut usize) -> bool {
        match self {
            Self::Equals(all) => all.iter().any(|one| one.equals(value)),
            Self::Exists => !value.is_null(),
            // The other value is found before.
            Self::SameAs(_) => false,
            Self::Missing => value.is_null(),
            Self::Matches(pattern) => {
                let text = match value {
                    Json::Text(text) => text.as_ref(),
                    Json::Null | Json::Bool(_) | Json::Number(_) | Json::List(_) | Json::Object(_) => {
                        return false;
                    }
                };
                let most = text.len().min(SEARCHED).min(*left);
                let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
                *left -= end;
                (end > 0 || text.is_empty()) && pattern.is_match(&text[..end])
            }
            Self::Above(least) => number(value).is_some_and(|number| number > *least),
            Self::Below(most) => number(value).is_some_and(|number| number < *most),
        }
    }
}

/// Returns a number, a boolean or a text that is not longer than [`COMPARED`].
fn scalar(value: &Json<'_>) -> Option<Scalar> {
    match value {
        Json::Text(text) => (text.len() <= COMPARED).then(|| Scalar::Text(text.to_string())),
        Json::Number(number) => Some(Scalar::Number(number.clone())),
        Json::Bool(value) => Some(Scalar::Bool(*value)),
        Json::Null | Json::List(_) | Json::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, OnceCell};

    use super::*;
    use crate::providers::field::Head;
    use crate::providers::json::{Dialect, parse_json};
    use crate::providers::names::Names;
    use crate::providers::path::Path;

    fn holds(place: &str, test: Test, every: bool) -> bool {
        let body = br#"{"n": 5, "t": "7", "s": "Failed: x", "null": null, "list": ["a", "a"], "mixed": ["a", "b"], "empty": []}"#;
        let cell = OnceCell::new();
        let root = parse_json(body, &cell, Dialect::Tolerant, None).expect("JSON").value;
        let headers = [("x-status".to_owned(), "done".to_owned())];
        let head = Head { status: 202, headers: &headers };
        let place = match place.strip_prefix('$') {
            Some(_) => Place::Path(Path::parse(place, 2).expect("a path")),
            None => Place::Header(place.to_owned()),
        };
        let left = Cell::new(1_000);
        let names = Names::of_job("1");
        let scope = Scope { root: &root, head, names, outcome: None, nulls: &[], left: &left };
        Condition { place: Alternative::of(place), test, every, most_searched: usize::MAX }.holds(scope)
    }

    fn is(text: &str) -> Test {
        Test::Equals(vec![Scalar::Text(text.to_owned())])
    }

    #[test]
    fn a_condition_tests_any_value_or_every_one() {
        let matches = |pattern: &str| Test::Matches(Regex::new(pattern).expect("a pattern"));
        let same = |path: &str| {
            Test::SameAs(Box::new(Alternative::of(Place::Path(Path::parse(path, 2).expect("a path")))))
        };
        let table = [
            ("$.n", is("5"), false, true),
            ("$.n", Test::Equals(vec![Scalar::Number(5.into())]), false, true),
            ("$.n", Test::Above(4.5), false, true),
            ("$.n", Test::Above(5.0), false, false),
            ("$.t", Test::Below(8.0), false, true),
            ("$.s", Test::Below(8.0), false, false),
            ("$.s", matches("^Fail"), false, true),
            ("$.s", matches("^fail"), false, false),
            ("$.n", same("$.n"), false, true),
            ("$.n", same("$.t"), false, false),
            ("$.list[*]", same("$.mixed[0]"), true, true),
            ("$.mixed[*]", same("$.list[0]"), true, false),
            ("$.n", same("$.absent"), false, false),
            ("$.absent", same("$.absent"), false, false),
            ("$.null", Test::Exists, false, false),
            ("$.null", Test::Missing, false, true),
            ("$.none", Test::Missing, false, true),
            ("$.n", Test::Missing, false, false),
            ("$.list[*]", is("a"), true, true),
            ("$.mixed[*]", is("a"), true, false),
            ("$.mixed[*]", is("b"), false, true),
            ("$.empty[*]", is("a"), true, false),
            ("$.empty[*]", is("a"), false, false),
            ("x-status", is("done"), false, true),
            ("x-other", Test::Missing, false, true),
            ("x-other", is("done"), false, false),
        ];
        for (n, (place, test, every, expected)) in table.into_iter().enumerate() {
            assert_eq!(holds(place, test, every), expected, "{n}: {place}");
        }
    }
}
