//! JSON that a client gives, and that is passed on.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use serde_json::value::RawValue;

/// JSON whose numbers are kept as they were written: a number with more than 53 bits would lose digits.
#[derive(Clone, PartialEq, Eq)]
pub struct JsonText(String);

impl JsonText {
    /// Makes the canonical form: the members of objects are sorted, without spaces between them. `None` if the text is not
    /// JSON.
    pub fn new(text: &str) -> Option<Self> {
        // The parser limits the depth.
        serde_json::from_str::<Value>(text).ok()?;
        let mut canonical = String::new();
        write_canonical(text, &mut canonical)?;
        Some(Self(canonical))
    }

    /// Returns the canonical form.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// Returns the value, in which large numbers are not exact.
    pub fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::from_str::<&RawValue>(&self.0).map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JsonText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        Self::new(raw.get()).ok_or_else(|| serde::de::Error::custom("the body is not JSON"))
    }
}

/// Appends the canonical form of a JSON text. `None` if it is not JSON.
fn write_canonical(text: &str, canonical: &mut String) -> Option<()> {
    let text = text.trim();
    let mut separator = "";
    match text.chars().next()? {
        '{' => {
            canonical.push('{');
            for (name, value) in serde_json::from_str::<BTreeMap<String, &RawValue>>(text).ok()? {
                canonical.push_str(std::mem::replace(&mut separator, ","));
                canonical.push_str(&Value::from(name).to_string());
                canonical.push(':');
                write_canonical(value.get(), canonical)?;
            }
            canonical.push('}');
        }
        '[' => {
            canonical.push('[');
            for value in serde_json::from_str::<Vec<&RawValue>>(text).ok()? {
                canonical.push_str(std::mem::replace(&mut separator, ","));
                write_canonical(value.get(), canonical)?;
            }
            canonical.push(']');
        }
        '"' => canonical.push_str(&serde_json::from_str::<Value>(text).ok()?.to_string()),
        _ => canonical.push_str(text),
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_kept_and_the_order_does_not_count() {
        for (text, canonical) in [
            (
                r#" {"b": 12345678901234567890123, "a": [1.0, -0, 1e40, null, true]} "#,
                r#"{"a":[1.0,-0,1e40,null,true],"b":12345678901234567890123}"#,
            ),
            (r#"{"A\u0041": "\u00e9\"", "": {}}"#, r#"{"":{},"AA":"é\""}"#),
        ] {
            assert_eq!(JsonText::new(text).map(|text| text.0).as_deref(), Some(canonical), "{text}");
        }
        let deep = "[".repeat(5_000);
        for wrong in ["", "{", "{]", "{\"a\": 01}", "nul", &deep] {
            assert_eq!(JsonText::new(wrong).map(|text| text.0), None, "{wrong}");
        }
    }
}
