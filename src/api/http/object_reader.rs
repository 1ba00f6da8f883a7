//! Reader for the fields of a JSON object: it reads them one by one, so that it can report every error at once.
//!
//! A field's value stays raw text until it is taken. Values that are stored byte for byte are therefore not
//! changed, and a field that is never taken is unknown.

use std::collections::HashSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::{FieldErrorCode, FieldErrors, Invalid, not_one_of};
use crate::domain::{TimeError, Timestamp, json_fields, parse_any_duration};

/// Maximum nesting of a value: deeper values could exhaust the stack of a recursive reader.
const DEPTH_MAX: usize = 32;

/// Maximum number of fields of an object; no object of the API has as many. The limit bounds the comparison of
/// each name with those before it.
const FIELDS_MAX: usize = 256;

/// The fields of an object, in the order in which they were written.
#[derive(Debug)]
pub struct ObjectReader<'a, 'e> {
    base: String,
    fields: Vec<(String, &'a RawValue)>,
    /// The names that were asked for: the fields that the object can have.
    known: Vec<&'static str>,
    /// The errors so far.
    pub errors: &'e mut FieldErrors,
}

/// Returns the JSON pointer to a field.
pub fn pointer(base: &str, name: &str) -> String {
    if name.bytes().any(|byte| matches!(byte, b'~' | b'/')) {
        return format!("{base}/{}", name.replace('~', "~0").replace('/', "~1"));
    }
    [base, "/", name].concat()
}

impl<'a, 'e> ObjectReader<'a, 'e> {
    /// Reads an object; any other value is an error at `base`.
    pub fn read(raw: &'a RawValue, base: &str, errors: &'e mut FieldErrors) -> Option<Self> {
        Self::read_to(DEPTH_MAX, raw, base, errors)
    }

    /// Reads an object whose values may have this nesting: for one whose values are objects that are read, and
    /// checked, by themselves.
    pub fn read_to(
        depth_max: usize,
        raw: &'a RawValue,
        base: &str,
        errors: &'e mut FieldErrors,
    ) -> Option<Self> {
        // One more than the maximum shows that there are too many; the rest is not needed.
        let Some(pairs) = json_fields(raw.get(), FIELDS_MAX + 1) else {
            errors.add(base, FieldErrorCode::InvalidType, "must be an object");
            return None;
        };
        if pairs.len() > FIELDS_MAX {
            errors.add(base, FieldErrorCode::TooMany, format!("has more than {FIELDS_MAX} fields"));
            return None;
        }
        let mut fields: Vec<(String, &'a RawValue)> = Vec::with_capacity(pairs.len());
        for (name, value) in pairs {
            if fields.iter().any(|(known, _)| *known == name) {
                errors.add(pointer(base, &name), FieldErrorCode::Duplicate, TWICE);
            } else if depth(value.get()) > depth_max {
                let detail = format!("is nested deeper than {depth_max} levels");
                errors.add(pointer(base, &name), FieldErrorCode::TooDeep, detail);
            } else {
                fields.push((name, value));
            }
        }
        Some(Self { base: base.to_owned(), fields, known: Vec::with_capacity(16), errors })
    }

    /// Returns the JSON pointer to a field of this object.
    pub fn at(&self, name: &str) -> String {
        pointer(&self.base, name)
    }

    /// Takes a field; `null` counts as absent.
    pub fn take(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.take_nullable(name).filter(|value| !is_null(value))
    }

    /// Takes a field that can be `null`.
    pub fn take_nullable(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.known.push(name);
        self.take_any(name)
    }

    /// Takes a field that another object of the API has, and this one does not. No error suggests its name.
    pub fn take_other(&mut self, name: &str) -> Option<&'a RawValue> {
        self.take_any(name).filter(|value| !is_null(value))
    }

    fn take_any(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.fields.iter().position(|(known, _)| known == name)?;
        Some(self.fields.swap_remove(index).1)
    }

    /// Drops a field of the API that this object does not have, if it is `null`: a client may write every field of a
    /// schema.
    pub fn drop_null(&mut self, name: &str) {
        self.fields.retain(|(known, value)| known != name || !is_null(value));
    }

    /// Whether no field is left, or only fields that are `null`.
    pub fn is_empty(&self) -> bool {
        self.fields.iter().all(|(_, value)| is_null(value))
    }

    /// Whether the object has no field.
    pub fn has_no_field(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether the field is there and `null`.
    pub fn is_null(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, value)| known == name && is_null(value))
    }

    /// Whether the field is there and not `null`.
    pub fn has(&mut self, name: &'static str) -> bool {
        self.known.push(name);
        self.fields.iter().any(|(known, value)| known == name && !is_null(value))
    }

    /// Adds an error in a field of this object.
    pub fn error(&mut self, name: &str, code: FieldErrorCode, detail: impl Into<String>) {
        self.errors.add(pointer(&self.base, name), code, detail);
    }

    /// Adds the error of a field's result, whose value it returns.
    pub fn keep<T>(&mut self, name: &str, result: Result<T, impl Into<Invalid>>) -> Option<T> {
        self.errors.keep(pointer(&self.base, name), result)
    }

    /// Takes a string.
    pub fn text(&mut self, name: &'static str) -> Option<String> {
        let raw = self.take(name)?;
        string(raw, &self.at(name), self.errors)
    }

    /// Takes a string that must be there.
    pub fn required_text(&mut self, name: &'static str) -> Option<String> {
        if !self.has(name) {
            self.error(name, FieldErrorCode::Required, "is required");
            return None;
        }
        self.text(name)
    }

    /// Takes a string that `parse` reads.
    pub fn parsed<T, E: Into<Invalid>>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(name)?;
        self.keep(name, parse(&text))
    }

    /// Takes a string out of a closed set.
    pub fn word<T>(
        &mut self,
        name: &'static str,
        allowed: &[&str],
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.parsed(name, |text| parse(text).ok_or_else(|| not_one_of(text, allowed.iter().copied())))
    }

    /// Takes a duration within bounds. It can be zero if `0s` is its lower bound.
    pub fn duration(&mut self, name: &'static str, bounds: (&str, &str)) -> Option<Duration> {
        let raw = self.take(name)?;
        let wrong = || not_text(raw, &format!("must be a string such as \"60s\", not {}", kind(raw)));
        self.keep(name, text(raw).ok_or_else(wrong).and_then(|text| duration(&text, bounds)))
    }

    /// Takes `true` or `false`.
    pub fn boolean(&mut self, name: &'static str) -> Option<bool> {
        let raw = self.take(name)?;
        let wrong = (FieldErrorCode::InvalidType, format!("must be true or false, not {}", kind(raw)));
        self.keep(name, serde_json::from_str(raw.get()).map_err(|_| wrong))
    }

    /// Takes a whole number within bounds.
    pub fn integer(&mut self, name: &'static str, bounds: RangeInclusive<u32>) -> Option<u32> {
        let raw = self.take(name)?;
        let (least, most) = (bounds.start(), bounds.end());
        let Ok(number) = serde_json::from_str::<f64>(raw.get()) else {
            let detail = format!("must be a whole number from {least} to {most}, not {}", kind(raw));
            self.error(name, FieldErrorCode::InvalidType, detail);
            return None;
        };
        let whole = serde_json::from_str(raw.get()).ok().filter(|whole| bounds.contains(whole));
        let code =
            if number.fract() == 0.0 { FieldErrorCode::OutOfRange } else { FieldErrorCode::InvalidType };
        self.keep(name, whole.ok_or_else(|| (code, format!("must be a whole number from {least} to {most}"))))
    }

    /// Takes an instant.
    pub fn time(&mut self, name: &'static str) -> Option<Timestamp> {
        let raw = self.take(name)?;
        let Some(text) = text(raw) else {
            let detail = format!("must be a string with an RFC 3339 time, not {}; {TIME_EXAMPLE}", kind(raw));
            let (code, detail) = not_text(raw, &detail);
            self.error(name, code, detail);
            return None;
        };
        self.keep(name, instant(&text))
    }

    /// Takes the first elements of a list, at most one more than `most`.
    pub fn list(&mut self, name: &'static str, most: usize) -> Option<Vec<&'a RawValue>> {
        let list = first(self.take(name)?, most);
        if list.is_none() {
            self.error(name, FieldErrorCode::InvalidType, "must be a list");
        }
        list
    }

    /// Returns the fields that are left, as they are written.
    pub fn rest(self) -> Vec<(String, &'a RawValue)> {
        self.fields
    }

    /// Reports each field that is left as unknown. A known field that is left is `null`, which counts as absent.
    pub fn done(mut self) {
        let known = &self.known;
        self.fields.retain(|(name, value)| !is_null(value) || !known.contains(&name.as_str()));
        for (name, _) in std::mem::take(&mut self.fields) {
            let detail = format!("there is no such field{}", suggestion(&name, &self.known));
            self.error(&name, FieldErrorCode::UnknownField, detail);
        }
    }
}

/// The detail for a name that an object has twice: parsers disagree which of the two counts.
pub const TWICE: &str = "is given twice";

/// Parses an instant.
pub fn instant(text: &str) -> Result<Timestamp, Invalid> {
    Timestamp::read(text).map_err(|error| match error {
        TimeError::Form => (FieldErrorCode::InvalidFormat, TIME.to_owned()),
        TimeError::Range => (FieldErrorCode::OutOfRange, format!("must be {}", Timestamp::BOUNDS)),
    })
}

/// The detail for a text that is not an instant.
pub const TIME: &str = "must be an RFC 3339 time, for example 2026-02-18T15:00:00Z";
const TIME_EXAMPLE: &str = "for example \"2026-02-18T15:00:00Z\"";

/// Parses a duration within bounds. It can be zero if `0s` is its lower bound; else zero is out of range.
pub fn duration(text: &str, (least, most): (&str, &str)) -> Result<Duration, Invalid> {
    let parse =
        |text: &str| parse_any_duration(text).map_err(|detail| (FieldErrorCode::InvalidFormat, detail));
    let span = parse(text)?;
    if (parse(least)?..=parse(most)?).contains(&span) {
        return Ok(span);
    }
    Err((FieldErrorCode::OutOfRange, format!("must be from {least} to {most}")))
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

/// Returns the JSON type of a value, with its article.
fn kind(raw: &RawValue) -> &'static str {
    match raw.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "a list",
        Some(b't' | b'f') => "true or false",
        Some(b'"') => "a string",
        _ => "a number",
    }
}

/// Returns `; did you mean …?` with the known name that resembles an unknown one, or nothing.
pub fn suggestion(unknown: &str, known: &[&str]) -> String {
    if unknown.len() > NAME_MAX {
        return String::new();
    }
    let lower = unknown.to_lowercase();
    let distance = |known: &&str| strsim::osa_distance(&lower, &known.to_lowercase());
    match known.iter().map(|name| (distance(name), name)).min() {
        Some((edits, name)) if edits * 3 <= name.len() => format!("; did you mean `{name}`?"),
        Some(_) | None => match known.iter().find(|name| begins(&lower, name)) {
            Some(name) => format!("; did you mean `{name}`?"),
            None => String::new(),
        },
    }
}

/// Whether a name is the beginning of a known one, such as `job` of `jobId`.
fn begins(lower: &str, known: &str) -> bool {
    lower.len() >= BEGINNING_MIN && known.to_lowercase().starts_with(lower)
}

/// Minimum length of a beginning that suggests a name.
const BEGINNING_MIN: usize = 3;

/// Maximum length of a name for which a similar one is searched.
const NAME_MAX: usize = 64;

/// Reads a JSON string without NUL; any other value is an error at `pointer`.
pub fn string(raw: &RawValue, pointer: &str, errors: &mut FieldErrors) -> Option<String> {
    match text(raw) {
        // PostgreSQL refuses NUL in a text.
        Some(text) if text.contains('\0') => {
            errors.add(pointer, FieldErrorCode::InvalidFormat, "must not contain NUL");
            None
        }
        Some(text) => Some(text),
        None => {
            let (code, detail) = not_text(raw, "must be a string");
            errors.add(pointer, code, detail);
            None
        }
    }
}

/// Returns the error of a value that [`text`] cannot read: `wanted`, unless it is a string.
pub fn not_text(raw: &RawValue, wanted: &str) -> Invalid {
    if raw.get().starts_with('"') {
        let detail = "must be Unicode: it contains half of a surrogate pair, such as \\ud800; send both halves, or the \
                      character itself";
        return (FieldErrorCode::InvalidFormat, detail.to_owned());
    }
    (FieldErrorCode::InvalidType, wanted.to_owned())
}

/// Returns the text of a JSON string, or `None` for any other value.
pub fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// Returns the first elements of a JSON list, at most one more than `most`; `None` for any other value.
pub fn first(raw: &RawValue, most: usize) -> Option<Vec<&RawValue>> {
    struct First(usize);

    impl<'de> Visitor<'de> for First {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
            let mut first = Vec::new();
            while let Some(element) = list.next_element()? {
                if first.len() <= self.0 {
                    first.push(element);
                }
            }
            Ok(first)
        }
    }

    serde_json::Deserializer::from_str(raw.get()).deserialize_seq(First(most)).ok()
}

/// Returns the pointer to the first name that an object has twice, in a value at the pointer `at` or below.
pub fn duplicate(raw: &RawValue, at: &str) -> Option<String> {
    duplicate_in(raw).map(|below| format!("{at}{below}"))
}

/// Number of fields up to which names are compared without a set.
const COMPARED_MAX: usize = 8;

/// Returns the same pointer, from the value on. Pointers are made only for what is found.
fn duplicate_in(raw: &RawValue) -> Option<String> {
    match raw.get().as_bytes().first() {
        Some(b'{') => {
            let fields = json_fields(raw.get(), usize::MAX)?;
            let mut names = HashSet::new();
            fields.iter().enumerate().find_map(|(n, (name, value))| {
                let is_known = if fields.len() > COMPARED_MAX {
                    !names.insert(name.as_str())
                } else {
                    fields[..n].iter().any(|(known, _)| known == name)
                };
                let below = if is_known { String::new() } else { duplicate_in(value)? };
                Some(pointer("", name) + &below)
            })
        }
        Some(b'[') => {
            let list = first(raw, usize::MAX)?;
            list.into_iter().enumerate().find_map(|(n, value)| Some(format!("/{n}{}", duplicate_in(value)?)))
        }
        _ => None,
    }
}

/// Returns the nesting of a valid JSON text.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest, mut quoted, mut escaped) = (0usize, 0, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_ignores_brackets_in_strings() {
        for (json, levels) in [("1", 0), ("[]", 1), (r#"{"a":[{}]}"#, 3), (r#"["[[\"[["]"#, 1)] {
            assert_eq!(depth(json), levels, "{json}");
        }
    }

    #[test]
    fn a_name_that_is_given_twice_is_found_at_every_depth() {
        for (json, at) in [
            (r#"{"a": {"b": 1}, "b": [{"a": 1}, {"a": 1}]}"#, None),
            (r#"{"a": 1, "a": 1}"#, Some("/m/a")),
            (r#"{"a": [0, {"b/c": 1, "b\u002fc": 2}]}"#, Some("/m/a/1/b~1c")),
            (r#"[[{"a": {}, "A": {}, "a": 1}]]"#, Some("/m/0/0/a")),
            (r#"{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":{"a":1},"c":1}"#, Some("/m/c")),
            ("7", None),
        ] {
            let raw = RawValue::from_string(json.to_owned()).expect("JSON");
            assert_eq!(duplicate(&raw, "/m").as_deref(), at, "{json}");
        }
    }

    #[test]
    fn an_unknown_name_suggests_a_similar_one() {
        let known = ["jobId", "callbackUrl", "events", "email"];
        for (unknown, similar) in [
            ("JobID", Some("jobId")),
            ("job_id", Some("jobId")),
            ("evnts", Some("events")),
            ("callback_url", Some("callbackUrl")),
            ("job", Some("jobId")),
            ("Callback", Some("callbackUrl")),
            ("jo", None),
            ("extra", None),
            ("", None),
        ] {
            let expected = similar.map_or(String::new(), |name| format!("; did you mean `{name}`?"));
            assert_eq!(suggestion(unknown, &known), expected, "{unknown}");
        }
        assert_eq!(suggestion("x", &[]), "");
    }
}
