//! The parameters of a request: the job id and others.

use regex::Regex;

use super::file::{Encode, ParamTable};
use super::template::percent_encode;

/// Longest value in bytes: twice the longest ids in use, which are names of cloud resources.
const MAX_VALUE: usize = 256;

/// A declared parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct Param {
    /// The pattern as written, and compiled to match a whole value.
    pattern: Option<(String, Regex)>,
    allowed: Option<Vec<String>>,
    encode: Encode,
    /// Value for registrations without the parameter; `None` if the parameter is required.
    pub(super) default: Option<String>,
}

impl Param {
    /// Creates a parameter from its declaration. The error is a sentence.
    pub(super) fn new(table: ParamTable) -> Result<Self, String> {
        let ParamTable { pattern, encode, default, r#enum: allowed } = table;
        if allowed.as_ref().is_some_and(Vec::is_empty) {
            return Err("`enum` must not be empty".to_owned());
        }
        let pattern = match pattern {
            Some(pattern) => Some((pattern.clone(), anchored(&pattern)?)),
            None => None,
        };
        let param = Self { pattern, allowed, encode, default: None };
        for value in param.allowed.iter().flatten() {
            param.check(value).map_err(|why| format!("`{value}` in `enum` can never be used: {why}"))?;
        }
        if let Some(value) = &default {
            param.check(value).map_err(|why| format!("the default `{value}` can never be used: {why}"))?;
        }
        Ok(Self { default, ..param })
    }

    /// Checks a value. The error is a sentence.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        if value.is_empty() {
            return Err("must not be empty".to_owned());
        }
        if value.len() > MAX_VALUE {
            return Err(format!("must be at most {MAX_VALUE} bytes"));
        }
        if value.chars().any(char::is_control) {
            return Err("must not contain control characters".to_owned());
        }
        let leaves = match self.encode {
            Encode::Segment => matches!(value, "." | ".."),
            Encode::Path => value.split('/').any(|part| matches!(part, "" | "." | "..")),
        };
        if leaves {
            return Err("must not contain `.`, `..` or an empty part between slashes".to_owned());
        }
        if let Some(allowed) = &self.allowed
            && !allowed.iter().any(|one| one == value)
        {
            return Err(format!("must be one of {}", allowed.join(", ")));
        }
        match &self.pattern {
            Some((pattern, regex)) if !regex.is_match(value) => {
                Err(format!("must match the pattern {pattern}"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the value, encoded for a path.
    pub(super) fn encoded(&self, value: &str) -> String {
        match self.encode {
            Encode::Segment => percent_encode(value),
            Encode::Path => value.split('/').map(percent_encode).collect::<Vec<_>>().join("/"),
        }
    }
}

/// Compiles `pattern` so that it must match a whole value.
fn anchored(pattern: &str) -> Result<Regex, String> {
    let wrong = |error| format!("`{pattern}` is not a regular expression: {error}");
    // Without the brackets first, because `a)|(?:b` is valid only between them.
    Regex::new(pattern).map_err(wrong)?;
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn param(table: ParamTable) -> Param {
        Param::new(table).unwrap()
    }

    #[test]
    fn a_pattern_must_match_the_whole_value() {
        let loose = param(ParamTable { pattern: Some("job|[0-9]+".into()), ..ParamTable::default() });
        for (value, fits) in [("job", true), ("42", true), ("job1", false), ("1job", false), ("42\n", false)]
        {
            assert_eq!(loose.check(value).is_ok(), fits, "{value:?}");
        }
        assert!(Param::new(ParamTable { pattern: Some("a)|(?:b".into()), ..ParamTable::default() }).is_err());
    }

    #[test]
    fn no_value_leaves_its_place_in_a_path() {
        let segment = param(ParamTable::default());
        let path = param(ParamTable { encode: Encode::Path, ..ParamTable::default() });
        for value in ["", ".", "..", "a\0", "a\r\nb", &"x".repeat(257)] {
            assert!(segment.check(value).is_err() && path.check(value).is_err(), "{value:?}");
        }
        for value in ["a/../b", "/a", "a/", "a//b", "./a"] {
            assert!(path.check(value).is_err(), "{value:?}");
        }
        assert_eq!(segment.encoded("a/../b"), "a%2F..%2Fb");
        assert_eq!(path.encoded("projects/x y"), "projects/x%20y");
    }

    #[test]
    fn a_value_that_is_not_listed_is_rejected_with_the_list() {
        let allowed = Some(vec!["eu".into(), "us".into()]);
        let region =
            param(ParamTable { r#enum: allowed, default: Some("eu".into()), ..ParamTable::default() });
        assert_eq!(region.check("asia"), Err("must be one of eu, us".into()));
        assert_eq!(region.check("us"), Ok(()));
    }
}
