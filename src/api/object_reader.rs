//! The fields of a JSON object, read one by one so that every mistake is found at once.
//!
//! A field's value stays raw text until somebody asks for it: what is to be kept byte for byte is
//! kept so, and what is never asked for is unknown.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::problem::FieldErrors;
use crate::domain::{Timestamp, parse_duration};

/// How deep a value may be nested: deeper is a bomb for whoever reads it recursively.
const DEPTH_MAX: usize = 32;

/// How many fields an object may have, far more than any of ours: each is compared with those before it.
const FIELDS_MAX: usize = 256;

/// The fields of an object, in the order in which they were written.
#[derive(Debug)]
pub struct ObjectReader<'a> {
    base: String,
    fields: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// A JSON pointer to a field.
pub fn pointer(base: &str, name: &str) -> String {
    if name.contains(['~', '/']) {
        return format!("{base}/{}", name.replace('~', "~0").replace('/', "~1"));
    }
    [base, "/", name].concat()
}

impl<'a> ObjectReader<'a> {
    /// Reads an object; anything else is a fault at `base`.
    pub fn read(raw: &'a RawValue, base: &str, errors: &mut FieldErrors) -> Option<Self> {
        Self::read_to(DEPTH_MAX, raw, base, errors)
    }

    /// Reads an object whose values may be nested so deep: one that holds others which are read, and
    /// judged, by themselves.
    pub fn read_to(
        depth_max: usize,
        raw: &'a RawValue,
        base: &str,
        errors: &mut FieldErrors,
    ) -> Option<Self> {
        let Ok(Object(given)) = serde_json::from_str::<Object<'a>>(raw.get()) else {
            errors.add(base, "must be an object");
            return None;
        };
        if given.len() > FIELDS_MAX {
            errors.add(base, format!("has more than {FIELDS_MAX} fields"));
            return None;
        }
        let mut fields: Vec<(Cow<'a, str>, &'a RawValue)> = Vec::with_capacity(given.len());
        for (name, value) in given {
            let at = || pointer(base, &name);
            if fields.iter().any(|(known, _)| *known == name) {
                errors.add(at(), "is given twice");
            } else if depth(value.get()) > depth_max {
                errors.add(at(), format!("is nested deeper than {depth_max} levels"));
            } else {
                fields.push((name, value));
            }
        }
        Some(Self { base: base.to_owned(), fields })
    }

    /// A pointer to a field of this object.
    pub fn at(&self, name: &str) -> String {
        pointer(&self.base, name)
    }

    /// Takes a field; `null` is as if it were not there.
    pub fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        self.given(name).filter(|value| value.get() != "null")
    }

    /// Takes a field that may be given as `null`.
    pub fn given(&mut self, name: &str) -> Option<&'a RawValue> {
        let index = self.fields.iter().position(|(known, _)| known == name)?;
        Some(self.fields.swap_remove(index).1)
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether there is such a field.
    pub fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, value)| known == name && value.get() != "null")
    }

    /// Takes a text.
    pub fn text(&mut self, name: &str, errors: &mut FieldErrors) -> Option<String> {
        let raw = self.take(name)?;
        let text = text(raw);
        if text.is_none() {
            errors.add(self.at(name), "must be a string");
        }
        text
    }

    /// Takes a text that `parse` understands; its error is a sentence.
    pub fn parsed<T>(
        &mut self,
        name: &str,
        errors: &mut FieldErrors,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name, errors)?;
        parse(&text).map_err(|wrong| errors.add(self.at(name), wrong)).ok()
    }

    /// Takes a duration within bounds.
    pub fn duration(
        &mut self,
        name: &str,
        (least, most): (&str, &str),
        errors: &mut FieldErrors,
    ) -> Option<Duration> {
        self.parsed(name, errors, |text| {
            let span = parse_duration(text)?;
            let bounds = (parse_duration(least)?, parse_duration(most)?);
            if span < bounds.0 || span > bounds.1 {
                return Err(format!("must be from {least} to {most}"));
            }
            Ok(span)
        })
    }

    /// Takes a time.
    pub fn time(&mut self, name: &str, errors: &mut FieldErrors) -> Option<Timestamp> {
        self.parsed(name, errors, |text| {
            Timestamp::parse(text)
                .ok_or_else(|| "must be an RFC 3339 time, as 2026-02-18T15:00:00Z".to_owned())
        })
    }

    /// Takes a list.
    pub fn list(&mut self, name: &str, errors: &mut FieldErrors) -> Option<Vec<&'a RawValue>> {
        let raw = self.take(name)?;
        let list = serde_json::from_str(raw.get()).ok();
        if list.is_none() {
            errors.add(self.at(name), "must be a list");
        }
        list
    }

    /// The fields that are left, as they stand.
    pub fn rest(self) -> Vec<(Cow<'a, str>, &'a RawValue)> {
        self.fields
    }

    /// What is left is unknown.
    pub fn done(self, errors: &mut FieldErrors) {
        for (name, _) in &self.fields {
            errors.add(self.at(name), "there is no such field");
        }
    }
}

/// A JSON string's text.
pub fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// The first elements of a JSON list, one more than `most` at most: `None` where it is none.
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

/// How deep a valid JSON text is nested.
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

struct Object<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let value = map.next_value()?;
                    // One more tells that there are too many; the rest need not be kept.
                    if pairs.len() <= FIELDS_MAX {
                        pairs.push((Cow::Owned(name), value));
                    }
                }
                Ok(Object(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_and_not_what_stands_in_strings() {
        for (json, levels) in [("1", 0), ("[]", 1), (r#"{"a":[{}]}"#, 3), (r#"["[[\"[["]"#, 1)] {
            assert_eq!(depth(json), levels, "{json}");
        }
    }
}
