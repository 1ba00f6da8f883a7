//! Cursors: where a page ended, in a form that nobody is tempted to make up.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::domain::{Id, Timestamp};
use crate::store::TimelinePosition;

/// What is said of a cursor that is none.
pub const WRONG: &str = "is not a cursor of this list";

/// More does not happen to one watch in one millisecond.
const TOLD_MAX: u32 = 10_000;

/// After this id.
pub fn encode(id: Id) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id.to_bytes())
}

/// Reads [`encode`]'s form.
pub fn decode(text: &str) -> Option<Id> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 16]>::try_from(bytes).ok().map(Id::from_bytes)
}

/// After this place of a story.
pub fn encode_place(place: TimelinePosition) -> String {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&place.at.millis().to_be_bytes());
    bytes[8..].copy_from_slice(&place.told.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads [`encode_place`]'s form.
pub fn decode_place(text: &str) -> Option<TimelinePosition> {
    let bytes = <[u8; 12]>::try_from(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, told) = bytes.split_at(8);
    let at = i64::from_be_bytes(at.try_into().ok()?);
    let told = u32::from_be_bytes(told.try_into().ok()?);
    // What happened in one millisecond is read whole.
    (at >= 0 && told <= TOLD_MAX).then_some(TimelinePosition { at: Timestamp::from_millis(at), told })
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
