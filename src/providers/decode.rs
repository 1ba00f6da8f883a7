//! Values that are encoded within the body: JSON in a text, and Base64. They are decoded before anything is read.

use std::cell::OnceCell;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use super::json::{Dialect, parse_json};
use super::names::Names;
use super::path::Path;
use super::value::Json;

/// Both alphabets, with or without padding.
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);

/// A value to decode.
#[derive(Clone, Debug)]
pub(super) struct Decode {
    pub(super) path: Path,
    pub(super) encoding: Encoding,
}

/// How a value is encoded.
#[derive(Clone, Copy, Debug)]
pub(super) enum Encoding {
    /// A text that contains JSON.
    Json,
    /// A text in Base64.
    Base64,
    /// JSON in Base64.
    Base64Json,
}

impl Decode {
    /// Replaces the texts at the path by what they contain. A text that cannot be decoded becomes null; values of other
    /// types stay as they are.
    pub(super) fn apply(&self, root: &mut Json<'_>, names: Names<'_>) {
        self.path.change(root, names, &|node| {
            if let Json::Text(text) = node {
                let decoded = self.encoding.decode(text);
                *node = decoded.unwrap_or(Json::Null);
            }
        });
    }
}

impl Encoding {
    fn decode(self, text: &str) -> Option<Json<'static>> {
        match self {
            Self::Json => json(text.as_bytes()),
            Self::Base64 => {
                let decoded = base64(text)?;
                Some(Json::Text(String::from_utf8_lossy(&decoded).into_owned().into()))
            }
            Self::Base64Json => json(&base64(text)?),
        }
    }
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let plain: String = text
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .map(|c| match c {
            '-' => '+',
            '_' => '/',
            c => c,
        })
        .collect();
    BASE64.decode(plain).ok()
}

fn json(body: &[u8]) -> Option<Json<'static>> {
    let cell = OnceCell::new();
    parse_json(body, &cell, Dialect::Tolerant, None).ok().map(|parsed| parsed.value.into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_encoded_value_is_decoded_or_null() {
        let table = [
            (Encoding::Json, r#"{"a": [1]}"#, json!({"a": [1]})),
            (Encoding::Json, "", json!(null)),
            (Encoding::Json, "{", json!(null)),
            (Encoding::Base64, "aGVsbG8=", json!("hello")),
            (Encoding::Base64, "aGVs\nbG8", json!("hello")),
            (Encoding::Base64, "-_8", json!("\u{fffd}\u{fffd}")),
            (Encoding::Base64, "!", json!(null)),
            (Encoding::Base64Json, "eyJhIjogMX0=", json!({"a": 1})),
            (Encoding::Base64Json, "aGVsbG8=", json!(null)),
        ];
        for (encoding, text, expected) in table {
            let mut root =
                Json::Object([("x".into(), Json::Text(text.into())), ("n".into(), Json::Bool(true))].into());
            let decode = |path| Decode { path: Path::parse(path, 2).expect("a path"), encoding };
            decode("$.x").apply(&mut root, Names::of_job("1"));
            decode("$.n").apply(&mut root, Names::of_job("1"));
            decode("$.missing").apply(&mut root, Names::of_job("1"));
            assert_eq!(json!(root), json!({"x": expected, "n": true}), "{encoding:?} {text}");
        }
    }
}
