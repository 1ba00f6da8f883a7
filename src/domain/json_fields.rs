//! The fields of a JSON object, in the order in which they are written.

use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Returns the first fields of a JSON object with their raw values, at most `most`. Duplicates are kept. `None` for any
/// other value.
pub fn json_fields(json: &str, most: usize) -> Option<Vec<(String, &RawValue)>> {
    struct Fields(usize);

    impl<'de> Visitor<'de> for Fields {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut fields = Vec::new();
            while let Some(field) = map.next_entry()? {
                if fields.len() < self.0 {
                    fields.push(field);
                }
            }
            Ok(fields)
        }
    }

    serde_json::Deserializer::from_str(json).deserialize_map(Fields(most)).ok()
}
