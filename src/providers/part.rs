//! A part of a text: what a pattern finds in a header such as `Quota;exceeded`, or in a name such as `…/job-123`.

use std::borrow::Cow;
use std::cell::Cell;

use regex::Regex;

use super::value::{Json, number_text};

/// Number of bytes of a text in which a pattern is searched. A part of a longer text is none, because its end, which
/// `$` stands for, is not read.
const SEARCHED: usize = 64 * 1024;

/// Number of bytes that one search counts at least.
const SEARCH_COST: usize = 16;

/// Number of bytes of one answer in which parts are searched.
pub(super) const SEARCHED_TOTAL: usize = 1024 * 1024;

/// Finds a part of a text.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// A pattern with at most one group.
    pattern: Regex,
}

impl Part {
    /// Makes the part that a pattern finds: its group, or without one all that it matches. The error is a sentence.
    pub(super) fn new(pattern: Regex) -> Result<Self, String> {
        match pattern.captures_len() {
            1 | 2 => Ok(Self { pattern }),
            groups => Err(format!(
                "has {} groups; the one group in parentheses is the value, so write the others as (?:…)",
                groups - 1
            )),
        }
    }

    /// Returns the part of a text or a number. `left` is the number of bytes in which may be searched.
    pub(super) fn of(&self, value: &Json<'_>, left: &Cell<usize>) -> Option<String> {
        let text = match value {
            Json::Text(text) => Cow::Borrowed(text.as_ref()),
            Json::Number(number) => Cow::Owned(number_text(number)),
            Json::Null | Json::Bool(_) | Json::List(_) | Json::Object(_) => return None,
        };
        let after = left.get().checked_sub(text.len().max(SEARCH_COST)).filter(|_| text.len() <= SEARCHED)?;
        left.set(after);
        let found = self.pattern.captures(&text)?;
        found.get(self.pattern.captures_len() - 1).map(|part| part.as_str().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(pattern: &str) -> Part {
        Part::new(Regex::new(pattern).expect("a pattern")).expect("at most one group")
    }

    #[test]
    fn a_part_is_the_group_or_the_whole_match() {
        let text = |text: &str| Json::Text(text.to_owned().into());
        for (pattern, value, expected) in [
            ("^[^;]+", text("Quota;exceeded"), Some("Quota")),
            (";(.*)$", text("Quota;exceeded"), Some("exceeded")),
            ("[^/]+$", text("arn:aws:x:job/job-123"), Some("job-123")),
            ("^(?:a|b)(?<id>[0-9]+)", text("b42"), Some("42")),
            ("^[0-9]{2}", Json::Number(4711.into()), Some("47")),
            ("x(y)?", text("x"), None),
            ("z", text("x"), None),
            (".", Json::Null, None),
            (".", Json::Bool(true), None),
        ] {
            let left = Cell::new(1_000);
            assert_eq!(part(pattern).of(&value, &left).as_deref(), expected, "{pattern} {value:?}");
        }
        assert!(
            Part::new(Regex::new("(a)(b)").expect("a pattern")).is_err_and(|why| why.contains("2 groups"))
        );
    }

    #[test]
    fn the_bytes_that_are_searched_have_a_limit() {
        let (found, left) = (part("b$"), Cell::new(200));
        let text = |length: usize| Json::Text(format!("{}b", "a".repeat(length - 1)).into());
        assert!(found.of(&text(100), &left).is_some() && left.get() == 100);
        assert!(found.of(&text(101), &left).is_none() && left.get() == 100);
        assert!(found.of(&text(1), &left).is_some() && left.get() == 100 - SEARCH_COST);
        let left = Cell::new(usize::MAX);
        assert!(found.of(&text(SEARCHED), &left).is_some() && found.of(&text(SEARCHED + 1), &left).is_none());
    }
}
