//! Reading JSON that the parser does not hold as a whole.
//!
//! A provider can write what is valid JSON and no value of the parser: an unpaired surrogate, a number beyond the range
//! of a double, or nesting deeper than 128. One such value, in a field that may not even be read, must not hide the end
//! of a job. Only a body that the parser rejects is changed, so the others are read once.
//!
//! **A name can occur twice in an object**, and parsers differ in which value they take. [`Parsed::repeated`] lists the
//! names whose values differ. The caller decides whether they matter.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Map, Number, Value};

/// Nesting that is kept if a body is too deep; a deeper value becomes null. The deepest path to a field has three parts
/// of at most 16 steps. The parser rejects nesting deeper than 128, so that later code cannot exhaust the stack.
const DEPTH_KEPT: usize = 64;

/// Largest number that is kept if a body has one that the parser rejects; a larger one becomes null.
const NUMBER_MAX: f64 = 1e308;

/// A parsed body.
#[derive(Debug)]
pub(super) struct Parsed {
    /// The value. Of several fields with one name, the last is read.
    pub(super) value: Value,
    /// Names of fields that occur again in their object with another value, in their order.
    pub(super) repeated: Vec<String>,
}

/// Parses JSON. Of the field that is number `first_of` in [`Parsed::repeated`], the value before is read.
pub(super) fn parse_json(body: &[u8], first_of: Option<usize>) -> serde_json::Result<Parsed> {
    let parse = |body: &[u8]| parse(body, first_of);
    parse(body).or_else(|error| {
        let replaced = replace_unpaired_surrogates(body);
        if let Some(value) = replaced.as_deref().and_then(|body| parse(body).ok()) {
            return Ok(value);
        }
        let body = replaced.as_deref().unwrap_or(body);
        // This reader keeps nothing: it is not recursive, and accepts every number.
        serde_json::from_slice::<IgnoredAny>(body).map_err(|_| error)?;
        parse(&replace_unreadable(body))
    })
}

fn parse(body: &[u8], first_of: Option<usize>) -> serde_json::Result<Parsed> {
    let repeated = RefCell::default();
    let mut parser = serde_json::Deserializer::from_slice(body);
    let value = ValueReader { repeated: &repeated, first_of }.deserialize(&mut parser)?;
    parser.end()?;
    Ok(Parsed { value, repeated: repeated.into_inner() })
}

/// Reads a value as the parser's own reader does, and notes repeated names.
#[derive(Clone, Copy)]
struct ValueReader<'a> {
    repeated: &'a RefCell<Vec<String>>,
    first_of: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let value = fields.next_value_seed(self)?;
            match map.entry(name) {
                Entry::Vacant(field) => _ = field.insert(value),
                Entry::Occupied(mut field) if *field.get() != value => {
                    let mut repeated = self.repeated.borrow_mut();
                    repeated.push(field.key().clone());
                    if self.first_of != Some(repeated.len() - 1) {
                        field.insert(value);
                    }
                }
                Entry::Occupied(_) => {}
            }
        }
        Ok(Value::Object(map))
    }
}

/// Replaces the values that the parser does not hold by null. The body is valid JSON.
fn replace_unreadable(body: &[u8]) -> Vec<u8> {
    let (mut kept, mut depth, mut at) = (Vec::with_capacity(body.len()), 0_usize, 0);
    while at < body.len() {
        let start = at;
        at = end_of_token(body, at);
        let token = &body[start..at];
        let opens = matches!(token, b"{" | b"[");
        depth += usize::from(opens);
        let is_deep = depth > DEPTH_KEPT;
        depth -= usize::from(matches!(token, b"}" | b"]"));
        if is_deep {
            if opens && depth == DEPTH_KEPT + 1 {
                kept.extend_from_slice(b"null");
            }
        } else if is_too_large(token) {
            kept.extend_from_slice(b"null");
        } else {
            kept.extend_from_slice(token);
        }
    }
    kept
}

/// Returns the end of a string, of a number, or of any other single byte.
fn end_of_token(body: &[u8], start: usize) -> usize {
    let rest = &body[start..];
    let length = match rest[0] {
        b'"' => {
            let mut end = 1;
            while let Some(byte) = rest.get(end).filter(|byte| **byte != b'"') {
                end += if *byte == b'\\' { 2 } else { 1 };
            }
            end + 1
        }
        b'-' | b'0'..=b'9' => {
            let is_part = |byte: &u8| byte.is_ascii_digit() || b"+-.eE".contains(byte);
            rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len())
        }
        _ => 1,
    };
    body.len().min(start + length)
}

fn is_too_large(token: &[u8]) -> bool {
    let starts_number = token.first().is_some_and(|byte| *byte == b'-' || byte.is_ascii_digit());
    let number = || std::str::from_utf8(token).ok()?.parse::<f64>().ok();
    starts_number && number().is_none_or(|number| number.abs() > NUMBER_MAX)
}

/// Replaces unpaired surrogates by U+FFFD. Returns `None` if there are none.
///
/// JavaScript writes a text that was cut within a character as an escaped half of it (`"\ud83d"`). That is valid
/// JSON, but not Unicode. One such text, in a prompt or in an error, must not hide the end of a job.
///
/// A regular expression with captures would take 0.2 s for 1 MiB of escapes, on a thread of the runtime.
fn replace_unpaired_surrogates(body: &[u8]) -> Option<Vec<u8>> {
    let unit = |at: usize| {
        let digits = body.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut text, mut at, mut replaced) = (Vec::with_capacity(body.len()), 0, false);
    while at < body.len() {
        let length = match (body[at], unit(at)) {
            (b'\\', Some(0xD800..=0xDBFF)) if matches!(unit(at + 6), Some(0xDC00..=0xDFFF)) => 12,
            (b'\\', Some(0xD800..=0xDFFF)) => {
                text.extend_from_slice(b"\\ufffd");
                replaced = true;
                at += 6;
                continue;
            }
            // A backslash and the character that it escapes. The second of two backslashes starts no escape.
            (b'\\', _) => 2,
            _ => 1,
        };
        let end = body.len().min(at + length);
        text.extend_from_slice(&body[at..end]);
        at = end;
    }
    replaced.then_some(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_parser_does_not_hold_is_null() {
        let deep = |open: &str, close: &str, count| [open.repeat(count), close.repeat(count)].concat();
        let deep_list = format!(r#"{{"a": {}, "b": [1]}}"#, deep("[", "]", 100_000));
        let deep_object =
            format!(r#"{{"a": 1, "a": {{"\ud800": 1e400}}, "b": {}}}"#, deep(r#"{"x":["#, "]}", 50_000));
        let long = "9".repeat(400);
        let table = [
            ("1e400", "", json!(null)),
            ("-1E+400", "", json!(null)),
            (&long, "", json!(null)),
            ("[1, 1e400, -2.5e-3]", "", json!([1, null, -0.0025])),
            (r#"{"1e400": "1e400 \\\" [ {", "b": 1e400}"#, "/1e400", json!("1e400 \\\" [ {")),
            (&deep_list, "/b", json!([1])),
            (&deep_object, "/a", json!({"\u{fffd}": null})),
        ];
        for (body, pointer, expected) in table {
            let value = parse_json(body.as_bytes(), None).expect("JSON").value;
            let found = value.pointer(pointer).expect("kept");
            let start = &body[..body.len().min(60)];
            assert_eq!(*found, expected, "{start}");
        }
        for broken in [
            "1e400 x",
            "[1e400",
            "[1e400}",
            "{\"a\": 01e400}",
            deep("[", "}", 200).as_str(),
            "[".repeat(100_000).as_str(),
        ] {
            assert!(parse_json(broken.as_bytes(), None).is_err(), "{}", &broken[..broken.len().min(20)]);
        }
    }

    #[test]
    fn a_name_with_two_values_is_noted() {
        let body = br#"{"a": 1, "b": {"c": [1], "c": [1], "c": [2]}, "a": 1, "d": null, "d": 0, "d": null}"#;
        let parsed = |first_of| parse_json(body, first_of).expect("JSON");
        assert_eq!(parsed(None).value, json!({"a": 1, "b": {"c": [2]}, "d": null}));
        assert_eq!(parsed(None).repeated, ["c", "d", "d"]);
        assert_eq!(parsed(Some(0)).value, json!({"a": 1, "b": {"c": [1]}, "d": null}));
        assert_eq!(parsed(Some(2)).value, json!({"a": 1, "b": {"c": [2]}, "d": 0}));
    }

    #[test]
    fn a_value_is_that_of_the_parsers_own_reader() {
        for body in [
            r#"{"a": [1, -2, 18446744073709551615, 18446744073709551616, 1.5, 1e300, -0.0], "b": {"": {}}}"#,
            r#"[true, false, null, "", "\u00e9\n\ud83d\ude00", "é", [[]]]"#,
            "3",
        ] {
            let expected: Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(parse_json(body.as_bytes(), None).expect("JSON").value, expected);
        }
    }

    #[test]
    fn the_deepest_path_of_a_definition_is_kept() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        let depth = |mut value: &Value| {
            let mut depth = 0;
            while let Some(items) = value.as_array() {
                depth += 1;
                let Some(first) = items.first() else { break };
                value = first;
            }
            depth
        };
        for given in [1, 64, 127] {
            assert_eq!(depth(&parse_json(nested(given).as_bytes(), None).expect("JSON").value), given);
        }
        assert_eq!(depth(&parse_json(nested(200).as_bytes(), None).expect("JSON").value), DEPTH_KEPT);
    }
}
