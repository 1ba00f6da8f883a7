//! Reading JSON, also JSON that the parser does not hold as a whole.
//!
//! A provider can write what is valid JSON and no value of the parser: an unpaired surrogate, a number beyond the range
//! of a double, or nesting deeper than 128. One such value, in a field that may not even be read, must not hide the end
//! of a job. Only a body that the parser rejects is changed (`repair`), so the others are read once.
//!
//! **A name can occur twice in an object**, and parsers differ in which value they take.
//! - [`Dialect::Strict`] (schema 1) lists the names whose values differ in [`Parsed::repeated`]. The caller decides
//!   whether they matter.
//! - [`Dialect::Tolerant`] (schema 2) reads the last value. It also accepts `NaN`, `Infinity`, invalid UTF-8, and control
//!   characters in texts.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::repair::{escape_foreign, replace_unpaired_surrogates, replace_unreadable};
use super::value::Json;

/// Number of members up to which the names of an object are compared with each other. More names are sorted.
const FEW_MEMBERS: usize = 24;

/// How JSON is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// As RFC 8259 describes it; repeated names are listed.
    Strict,
    /// With the mistakes that serializers make; of repeated names, the last value is read.
    Tolerant,
}

/// A parsed body.
#[derive(Debug)]
pub(super) struct Parsed<'a> {
    /// The value. Of several fields with one name, the last is read.
    pub(super) value: Json<'a>,
    /// Names of fields that occur again in their object with another value; empty in the tolerant dialect.
    pub(super) repeated: Vec<String>,
}

/// Parses JSON. `repaired` is an empty cell for the body if it has to be changed. Of the field that is number
/// `first_of` in [`Parsed::repeated`], the value before is read.
pub(super) fn parse_json<'a>(
    body: &'a [u8],
    repaired: &'a OnceCell<Vec<u8>>,
    dialect: Dialect,
    first_of: Option<usize>,
) -> serde_json::Result<Parsed<'a>> {
    parse(body, dialect, first_of).or_else(|error| {
        let escaped = if dialect == Dialect::Tolerant { escape_foreign(body) } else { Cow::Borrowed(body) };
        let paired = replace_unpaired_surrogates(&escaped);
        let valid = paired.as_deref().unwrap_or(&escaped);
        let (readable, is_cut) = replace_unreadable(valid);
        // What is cut may be no JSON. This reader keeps nothing: it is not recursive, and accepts every number.
        if is_cut && serde_json::from_slice::<IgnoredAny>(valid).is_err() {
            return Err(error);
        }
        parse(repaired.get_or_init(|| readable), dialect, first_of).map_err(|_| error)
    })
}

fn parse(body: &[u8], dialect: Dialect, first_of: Option<usize>) -> serde_json::Result<Parsed<'_>> {
    let repeated = RefCell::default();
    let mut parser = serde_json::Deserializer::from_slice(body);
    let value = ValueReader { dialect, repeated: &repeated, first_of }.deserialize(&mut parser)?;
    parser.end()?;
    Ok(Parsed { value, repeated: repeated.into_inner() })
}

/// Reads a value as the parser's own reader does, and notes repeated names.
#[derive(Clone, Copy)]
struct ValueReader<'r> {
    dialect: Dialect,
    repeated: &'r RefCell<Vec<String>>,
    first_of: Option<usize>,
}

impl<'de> DeserializeSeed<'de> for ValueReader<'_> {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueReader<'_> {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(value).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value.to_owned())))
    }

    fn visit_string<E>(self, value: String) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(value)))
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Json::List(list.into_boxed_slice()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some(Name(name)) = fields.next_key_seed(NameReader)? {
            members.push((name, fields.next_value_seed(self)?));
        }
        let members = if has_repeated(&members) { self.once_each(members) } else { members };
        Ok(Json::Object(members.into_boxed_slice()))
    }
}

impl ValueReader<'_> {
    /// Returns the members with each name once.
    fn once_each<'de>(self, members: Vec<(Cow<'de, str>, Json<'de>)>) -> Vec<(Cow<'de, str>, Json<'de>)> {
        let mut places: BTreeMap<Cow<'de, str>, usize> = BTreeMap::new();
        let mut kept: Vec<(Cow<'de, str>, Json<'de>)> = Vec::new();
        for (name, value) in members {
            let Some(&place) = places.get(&name) else {
                places.insert(name.clone(), kept.len());
                kept.push((name, value));
                continue;
            };
            let known = &mut kept[place].1;
            if self.dialect == Dialect::Tolerant {
                *known = value;
            } else if *known != value {
                let mut repeated = self.repeated.borrow_mut();
                repeated.push(name.into_owned());
                if self.first_of != Some(repeated.len() - 1) {
                    *known = value;
                }
            }
        }
        kept
    }
}

/// Returns whether a name occurs twice.
fn has_repeated(members: &[(Cow<'_, str>, Json<'_>)]) -> bool {
    if members.len() <= FEW_MEMBERS {
        return (1..members.len()).any(|at| members[..at].iter().any(|(name, _)| *name == members[at].0));
    }
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_ref()).collect();
    names.sort_unstable();
    names.windows(2).any(|two| two[0] == two[1])
}

/// The name of a member, borrowed if it contains no escapes.
struct Name<'a>(Cow<'a, str>);

struct NameReader;

impl<'de> DeserializeSeed<'de> for NameReader {
    type Value = Name<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Name<'de>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for NameReader {
    type Value = Name<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Borrowed(name)))
    }

    fn visit_str<E>(self, name: &str) -> Result<Name<'de>, E> {
        Ok(Name(Cow::Owned(name.to_owned())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::providers::repair::DEPTH_KEPT;

    fn read(
        body: &[u8],
        dialect: Dialect,
        first_of: Option<usize>,
    ) -> serde_json::Result<(Value, Vec<String>)> {
        let cell = OnceCell::new();
        let Parsed { value, repeated } = parse_json(body, &cell, dialect, first_of)?;
        Ok((json!(value), repeated))
    }

    fn strict(body: &[u8]) -> serde_json::Result<Value> {
        read(body, Dialect::Strict, None).map(|(value, _)| value)
    }

    fn tolerant(body: &[u8]) -> serde_json::Result<Value> {
        read(body, Dialect::Tolerant, None).map(|(value, _)| value)
    }

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
            for read in [strict, tolerant] {
                let value = read(body.as_bytes()).expect("JSON");
                let found = value.pointer(pointer).expect("kept");
                let start = &body[..body.len().min(60)];
                assert_eq!(*found, expected, "{start}");
            }
        }
        for broken in [
            "1e400 x",
            "[1e400",
            "[1e400}",
            "{\"a\": 01e400}",
            deep("[", "}", 200).as_str(),
            "[".repeat(100_000).as_str(),
        ] {
            let start = &broken[..broken.len().min(20)];
            assert!(strict(broken.as_bytes()).is_err() && tolerant(broken.as_bytes()).is_err(), "{start}");
        }
    }

    #[test]
    fn what_serializers_write_by_mistake_is_tolerated() {
        let table: [(&[u8], Value); 8] = [
            (b"[NaN, Infinity, -Infinity, 1]", json!([null, null, null, 1])),
            (b"{\"a\": NaN}", json!({"a": null})),
            (b"{\"NaN\": \"NaN\"}", json!({"NaN": "NaN"})),
            (b"\"a\xff\xfeb\"", json!("a\u{fffd}\u{fffd}b")),
            (b"\"line\nline\ttab\"", json!("line\nline\ttab")),
            (
                b"{\"a\": \"x\0\", \"b\": NaN, \"c\": \"\\ud83d\", \"d\": 1e999}",
                json!({"a": "x\0", "b": null, "c": "\u{fffd}", "d": null}),
            ),
            (b"{\"a\": 1, \"a\": 2}", json!({"a": 2})),
            (b"{\"a\": \"\\\\\n\"}", json!({"a": "\\\n"})),
        ];
        for (body, expected) in table {
            assert_eq!(tolerant(body).expect("JSON"), expected, "{}", String::from_utf8_lossy(body));
        }
        for broken in ["NaNx", "[Nan]", "Infinity Infinity", "\"open", "{NaN: 1}", "--Infinity", "[1,]"] {
            assert!(tolerant(broken.as_bytes()).is_err(), "{broken}");
        }
        for refused in [&b"[NaN]"[..], b"\"a\xff\"", b"\"a\nb\""] {
            assert!(strict(refused).is_err());
        }
    }

    #[test]
    fn a_name_with_two_values_is_noted() {
        let body = br#"{"a": 1, "b": {"c": [1], "c": [1], "c": [2]}, "a": 1, "d": null, "d": 0, "d": null}"#;
        let parsed = |first_of| read(body, Dialect::Strict, first_of).expect("JSON");
        assert_eq!(parsed(None).0, json!({"a": 1, "b": {"c": [2]}, "d": null}));
        assert_eq!(parsed(None).1, ["c", "d", "d"]);
        assert_eq!(parsed(Some(0)).0, json!({"a": 1, "b": {"c": [1]}, "d": null}));
        assert_eq!(parsed(Some(2)).0, json!({"a": 1, "b": {"c": [2]}, "d": 0}));
        let many: Vec<String> = (0..100).map(|n| format!("\"n{}\": {n}", n % 60)).collect();
        let many = format!("{{{}}}", many.join(", "));
        let (value, repeated) = read(many.as_bytes(), Dialect::Strict, None).expect("JSON");
        assert_eq!((value["n0"].clone(), value["n59"].clone(), repeated.len()), (json!(60), json!(59), 40));
        assert_eq!(tolerant(many.as_bytes()).expect("JSON"), value);
    }

    #[test]
    fn a_value_is_that_of_the_parsers_own_reader() {
        for body in [
            r#"{"a": [1, -2, 18446744073709551615, 18446744073709551616, 1.5, 1e300, -0.0], "b": {"": {}}}"#,
            r#"[true, false, null, "", "\u00e9\n\ud83d\ude00", "é", [[]]]"#,
            "3",
        ] {
            let expected: Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(strict(body.as_bytes()).expect("JSON"), expected);
            assert_eq!(tolerant(body.as_bytes()).expect("JSON"), expected);
        }
    }

    #[test]
    fn the_deepest_path_of_a_definition_is_kept() {
        let nested = |depth: usize| ["[".repeat(depth), "]".repeat(depth)].concat();
        let depth = |value: Value| {
            let (mut depth, mut value) = (0, &value);
            while let Some(items) = value.as_array() {
                depth += 1;
                let Some(first) = items.first() else { break };
                value = first;
            }
            depth
        };
        for given in [1, 64, 127] {
            assert_eq!(depth(strict(nested(given).as_bytes()).expect("JSON")), given);
        }
        assert_eq!(depth(strict(nested(200).as_bytes()).expect("JSON")), DEPTH_KEPT);
    }
}
