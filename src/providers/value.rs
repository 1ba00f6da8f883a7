//! A JSON value that borrows its texts from the body.
//!
//! The parser's own value copies every text, and needs more than half a KiB for an object with one member. This one
//! has 24 bytes, and keeps the members of an object in a list, so that a hostile body takes at most about thirty times its
//! size. The
//! members are searched one after the other: no path is looked up more often than once for each node.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Number;

/// Largest size in bytes of the outputs' texts, and of the error's texts. They are stored with every event of
/// every watch. A client that needs all of a larger response uses the payload `raw`.
pub(super) const MAX_TEXT: usize = 64 * 1024;

/// Longest text that is compared with a number, in bytes.
const NUMBER_MAX: usize = 64;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    /// `null`, or a value that cannot be read.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number.
    Number(Number),
    /// A text.
    Text(Cow<'a, str>),
    /// A list.
    List(Box<[Json<'a>]>),
    /// An object: its members in their order, each name once.
    Object(Box<[(Cow<'a, str>, Json<'a>)]>),
}

impl Json<'_> {
    /// Returns the member of an object.
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        let Self::Object(members) = self else { return None };
        members.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// Returns the item of a list. A negative index counts from the end.
    pub(super) fn at(&self, index: i64) -> Option<&Self> {
        let Self::List(items) = self else { return None };
        items.get(position(index, items.len())?)
    }

    /// Returns whether the value is null.
    pub(super) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// Returns whether the value is an object.
    pub(super) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    /// Returns a text.
    pub(super) fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// Returns a number.
    pub(super) fn as_f64(&self) -> Option<f64> {
        if let Self::Number(number) = self { number.as_f64() } else { None }
    }

    /// Returns a value with texts of its own.
    pub(super) fn into_owned(self) -> Json<'static> {
        let own = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::Bool(value),
            Self::Number(number) => Json::Number(number),
            Self::Text(text) => Json::Text(own(text)),
            Self::List(items) => Json::List(items.into_iter().map(Json::into_owned).collect()),
            Self::Object(members) => Json::Object(
                members.into_iter().map(|(name, value)| (own(name), value.into_owned())).collect(),
            ),
        }
    }
}

/// Returns the position of an index in a list of `len` items. A negative index counts from the end.
pub(super) fn position(index: i64, len: usize) -> Option<usize> {
    let from_end = usize::try_from(index.unsigned_abs()).ok()?;
    if index < 0 { len.checked_sub(from_end) } else { Some(from_end) }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(items) => serializer.collect_seq(items),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Returns a text that is not blank. A NUL becomes U+FFFD, because `PostgreSQL` cannot store it.
pub(super) fn text(value: &Json<'_>) -> Option<String> {
    let text = value.as_str().filter(|text| !text.trim().is_empty())?;
    Some(if text.contains('\0') { text.replace('\0', "\u{FFFD}") } else { text.to_owned() })
}

/// Returns a code or an id. Some providers write them as numbers.
pub(super) fn label(value: &Json<'_>) -> Option<String> {
    let number = || if let Json::Number(number) = value { Some(number.to_string()) } else { None };
    text(value).or_else(number)
}

/// Returns a status: a text, a number or a boolean. A whole number has no decimal point.
pub(super) fn status_text(value: &Json<'_>) -> Option<String> {
    match value {
        Json::Number(number) => Some(number_text(number)),
        Json::Bool(value) => Some(value.to_string()),
        Json::Null | Json::Text(_) | Json::List(_) | Json::Object(_) => text(value),
    }
}

/// Whole numbers up to this one are exact as a double.
const EXACT: f64 = 9e15;

/// Returns whether two numbers have the same text ([`number_text`]), without making it.
fn are_equal(one: &Number, other: &Number) -> bool {
    // Of a double, the text of a negative zero has a sign.
    let whole = |double: &Number, whole: &Number| {
        let Some(value) = double.as_f64().filter(|value| value.fract() == 0.0 && value.abs() < EXACT) else {
            return false;
        };
        #[expect(clippy::cast_possible_truncation, reason = "it is exact")]
        let value = Some(value as i64).filter(|_| value != 0.0 || value.is_sign_positive());
        value.is_some() && whole.as_i64() == value
    };
    match (one.is_f64(), other.is_f64()) {
        (false, false) => one == other,
        (true, true) => one.as_f64().map(f64::to_bits) == other.as_f64().map(f64::to_bits),
        (true, false) => whole(one, other),
        (false, true) => whole(other, one),
    }
}

/// Returns a number as text. A whole number has no decimal point.
pub(super) fn number_text(number: &Number) -> String {
    match number.as_f64() {
        Some(value) if number.is_f64() && value.fract() == 0.0 && value.abs() < EXACT => {
            format!("{value:.0}")
        }
        _ => number.to_string(),
    }
}

/// Returns a number, also one that is written as a text.
pub(super) fn number(value: &Json<'_>) -> Option<f64> {
    let read = |text: &str| text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
    value.as_f64().or_else(|| read(value.as_str()?))
}

/// Returns the beginning of a text, at most `most` bytes with the mark that it was cut.
pub(super) fn cut(text: String, most: usize) -> String {
    if text.len() <= most {
        return text;
    }
    let most = most.saturating_sub('…'.len_utf8());
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    // A copy, because the whole text would still take its memory.
    format!("{}…", &text[..end])
}

/// Returns the first `most` characters of a text, without control characters, which could break a log line.
pub(super) fn clip(text: &str, most: usize) -> String {
    let shown = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut clipped: String = shown.take(most).collect();
    if text.chars().nth(most).is_some() {
        clipped.push('…');
    }
    clipped
}

/// A value that a definition compares: a text, a number or a boolean.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar {
    /// A text.
    Text(String),
    /// A number.
    Number(Number),
    /// A boolean.
    Bool(bool),
}

impl Scalar {
    /// Returns whether a value has the same type and is equal. Numbers are equal if they denote the same number.
    pub(super) fn is(&self, value: &Json<'_>) -> bool {
        match (self, value) {
            (Self::Text(one), Json::Text(other)) => one == other,
            (Self::Bool(one), Json::Bool(other)) => one == other,
            (Self::Number(one), Json::Number(other)) => are_equal(one, other),
            _ => false,
        }
    }

    /// Like [`Self::is`]; a number also equals a number in a text, and the reverse.
    pub(super) fn equals(&self, value: &Json<'_>) -> bool {
        self.is(value)
            || match (self, value) {
                (Self::Number(one), Json::Text(_)) => one.as_f64() == number(value),
                // The time of a comparison must not depend on the length of the definition's text.
                (Self::Text(one), Json::Number(_)) if one.len() <= NUMBER_MAX => {
                    number(&Json::Text(one.as_str().into())).is_some_and(|one| Some(one) == value.as_f64())
                }
                _ => false,
            }
    }

    /// Returns the value as it is shown.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number_text(number),
            Self::Bool(value) => value.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_equals_a_number_in_a_text() {
        let number = |value: f64| Number::from_f64(value).expect("finite");
        let one = Scalar::Number(number(1.0));
        for (value, equal) in [
            (Json::Number(1.into()), true),
            (Json::Number(number(1.0)), true),
            (Json::Text("1".into()), true),
            (Json::Text(" 1.0 ".into()), true),
            (Json::Text("one".into()), false),
            (Json::Text("".into()), false),
            (Json::Bool(true), false),
            (Json::Null, false),
        ] {
            assert_eq!(one.equals(&value), equal, "{value:?}");
        }
        assert!(Scalar::Text("2".to_owned()).equals(&Json::Number(2.into())));
        assert!(!Scalar::Text("x".to_owned()).equals(&Json::Number(2.into())));
        assert!(!Scalar::Text("true".to_owned()).equals(&Json::Bool(true)));
    }

    #[test]
    fn a_value_is_small() {
        assert_eq!(size_of::<Json<'_>>(), 24);
    }

    #[test]
    fn numbers_are_equal_if_their_texts_are() {
        let texts = [
            "0",
            "-0.0",
            "0.0",
            "1",
            "1.0",
            "-1",
            "-1.0",
            "1.5",
            "-1.5",
            "2",
            "9e15",
            "9000000000000000",
            "8.9e15",
            "8900000000000000",
            "1e300",
            "18446744073709551615",
            "18446744073709551616",
            "9223372036854775808",
            "-9223372036854775808",
            "5e-324",
            "0.1",
            "0.30000000000000004",
        ];
        let numbers = texts.map(|text| serde_json::from_str::<Number>(text).expect("a number"));
        for one in &numbers {
            for other in &numbers {
                let expected = number_text(one) == number_text(other);
                assert_eq!(are_equal(one, other), expected, "{one} {other}");
            }
        }
    }

    #[test]
    fn a_whole_number_is_shown_without_a_point() {
        for (text, shown) in [
            ("2", "2"),
            ("2.0", "2"),
            ("-3.0", "-3"),
            ("1.5", "1.5"),
            ("18446744073709551615", "18446744073709551615"),
        ] {
            let number: Number = serde_json::from_str(text).expect("a number");
            assert_eq!(number_text(&number), shown);
        }
    }
}
