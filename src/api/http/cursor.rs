//! Cursors: the end of a page, encoded so that clients treat it as opaque.
//!
//! A cursor begins with the letter of its list. So the cursor of another list is an error, and not an empty page. Those
//! of the feed have no letter: clients keep them, also from earlier versions.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::domain::{Id, Timestamp};
use crate::store::TimelinePosition;

/// The detail for a text that is not a cursor.
pub(super) const WRONG: &str = "is not a cursor of this list; use `nextCursor` of the page before";

/// Maximum number of timeline entries of a watch within one millisecond.
const SAME_INSTANT_MAX: u32 = 10_000;

/// The lists that have pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    Apps,
    Attempts,
    Credentials,
    Deliveries,
    Destinations,
    Feed,
    Keys,
    Providers,
    Timeline,
    Watches,
}

impl List {
    const fn letter(self) -> Option<u8> {
        match self {
            Self::Apps => Some(b'a'),
            Self::Attempts => Some(b't'),
            Self::Credentials => Some(b'c'),
            Self::Deliveries => Some(b'd'),
            Self::Destinations => Some(b'o'),
            Self::Feed => None,
            Self::Keys => Some(b'k'),
            Self::Providers => Some(b'p'),
            Self::Timeline => Some(b'l'),
            Self::Watches => Some(b'w'),
        }
    }
}

/// The place in a list after which the next page begins.
pub trait Position: Sized {
    /// Returns the place as bytes.
    fn bytes(&self) -> Vec<u8>;

    /// Reads the result of [`Self::bytes`].
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// The last row of a page.
impl Position for Id {
    fn bytes(&self) -> Vec<u8> {
        self.to_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_bytes)
    }
}

/// The number of the last row of a numbered list.
impl Position for u32 {
    fn bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes)
    }
}

/// A position in the feed, or the number of the rows before.
impl Position for i64 {
    fn bytes(&self) -> Vec<u8> {
        self.to_be_bytes().to_vec()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_be_bytes).filter(|position| *position >= 0)
    }
}

impl Position for TimelinePosition {
    fn bytes(&self) -> Vec<u8> {
        [&self.at.millis().to_be_bytes()[..], &self.count.to_be_bytes()].concat()
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (at, count) = bytes.split_at_checked(8)?;
        let at = i64::from_be_bytes(at.try_into().ok()?);
        let count = u32::from_be_bytes(count.try_into().ok()?);
        // All entries of one millisecond are read together.
        let is_possible = at >= 0 && count <= SAME_INSTANT_MAX;
        is_possible.then_some(Self { at: Timestamp::from_millis(at), count })
    }
}

/// Encodes a place in a list.
pub fn encode(list: List, position: &impl Position) -> String {
    let bytes: Vec<u8> = list.letter().into_iter().chain(position.bytes()).collect();
    BASE64_URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes the result of [`encode`].
pub(super) fn decode<P: Position>(list: List, text: &str) -> Option<P> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
    match list.letter() {
        Some(letter) => P::read(bytes.strip_prefix(&[letter])?),
        None => P::read(&bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_is_one_of_its_list_only() {
        let id = Id::MAX;
        let cursor = encode(List::Watches, &id);
        assert_eq!(decode(List::Watches, &cursor), Some(id));
        assert_eq!(decode::<Id>(List::Deliveries, &cursor), None);
        assert_eq!(decode::<i64>(List::Feed, &encode(List::Providers, &7_i64)), None);
        assert_eq!(decode::<i64>(List::Providers, &encode(List::Feed, &7_i64)), None);
        assert_eq!(decode(List::Feed, "AAAAAAAAAAc"), Some(7_i64), "of an earlier version");
        let position = TimelinePosition { at: Timestamp::from_millis(5), count: 3 };
        assert_eq!(decode(List::Timeline, &encode(List::Timeline, &position)), Some(position));
        for wrong in ["", "!", "AAAA", "bAAAAAAAAAAAAAAAAAAAAAA"] {
            assert!(decode::<TimelinePosition>(List::Timeline, wrong).is_none(), "{wrong}");
        }
    }
}
