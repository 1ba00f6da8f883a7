//! Cursors: where a page ended, in a form that nobody is tempted to make up.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::domain::Id;

/// What is said of a cursor that is none.
pub const WRONG: &str = "is not a cursor of this list";

/// After this id.
pub fn encode(id: Id) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id.to_bytes())
}

/// Reads [`encode`]'s form.
pub fn decode(text: &str) -> Option<Id> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 16]>::try_from(bytes).ok().map(Id::from_bytes)
}

/// After this position.
pub fn encode_position(position: i64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(position.to_be_bytes())
}

/// Reads [`encode_position`]'s form.
pub fn decode_position(text: &str) -> Option<i64> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 8]>::try_from(bytes).ok().map(i64::from_be_bytes).filter(|position| *position >= 0)
}
