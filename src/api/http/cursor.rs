//! Cursors: the end of a page, encoded so that clients treat it as opaque.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::domain::{Id, Timestamp};
use crate::store::TimelinePosition;

/// The detail for a text that is not a cursor.
pub const WRONG: &str = "is not a cursor of this list; use `nextCursor` of the page before";

/// Maximum number of timeline entries of a watch within one millisecond.
const SAME_INSTANT_MAX: u32 = 10_000;

/// Encodes the id after which the next page begins.
pub fn encode(id: Id) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(id.to_bytes())
}

/// Decodes the result of [`encode`].
pub fn decode(text: &str) -> Option<Id> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 16]>::try_from(bytes).ok().map(Id::from_bytes)
}

/// Encodes the timeline position after which the next page begins.
pub fn encode_timeline_position(position: TimelinePosition) -> String {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&position.at.millis().to_be_bytes());
    bytes[8..].copy_from_slice(&position.count.to_be_bytes());
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes the result of [`encode_timeline_position`].
pub fn decode_timeline_position(text: &str) -> Option<TimelinePosition> {
    let bytes = <[u8; 12]>::try_from(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (at, count) = bytes.split_at(8);
    let at = i64::from_be_bytes(at.try_into().ok()?);
    let count = u32::from_be_bytes(count.try_into().ok()?);
    // All entries of one millisecond are read together.
    (at >= 0 && count <= SAME_INSTANT_MAX)
        .then_some(TimelinePosition { at: Timestamp::from_millis(at), count })
}

/// Encodes the number before which the next page of a numbered list begins.
pub fn encode_number(number: u32) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(number.to_be_bytes())
}

/// Decodes the result of [`encode_number`].
pub fn decode_number(text: &str) -> Option<u32> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 4]>::try_from(bytes).ok().map(u32::from_be_bytes)
}

/// Encodes the feed position after which the next page begins.
pub fn encode_feed_position(position: i64) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(position.to_be_bytes())
}

/// Decodes the result of [`encode_feed_position`].
pub fn decode_feed_position(text: &str) -> Option<i64> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    <[u8; 8]>::try_from(bytes).ok().map(i64::from_be_bytes).filter(|position| *position >= 0)
}
