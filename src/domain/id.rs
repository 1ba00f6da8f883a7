//! Ids: 128 bits, written as a prefix and 26 characters of Crockford's base32 in lower case.
//!
//! - All ids except those of events are *drawn*: 48 bits of milliseconds, then 80 bits. These are random in a new
//!   millisecond, and the last id plus one otherwise. The order of ids is therefore the order of their creation.
//! - The id of an event is *derived* from (watch, type, n). If the same fact is observed again, after a crash or a
//!   takeover, the derived id is the same.

use std::fmt;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::Timestamp;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: usize = 26;

/// Largest time in milliseconds that fits into an id.
const MILLIS_MAX: i64 = (1 << 48) - 1;

/// A 128 bit id without a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u128);

impl Id {
    /// An id greater than every drawn one.
    pub const MAX: Self = Self(u128::MAX);

    /// Returns the smallest id that can be drawn at `at` or later. After the clock was set back, drawn ids are
    /// greater than this, never smaller.
    pub fn least(at: Timestamp) -> Self {
        Self(u128::from(at.millis().clamp(0, MILLIS_MAX).unsigned_abs()) << 80)
    }

    /// Returns the stored form.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Returns the id that was stored as `bytes`.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Parses the form that `Debug` writes.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read("", text)
    }

    fn write(self, prefix: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // In parts, because shifts of 128 bits are slow, and an answer has several ids.
        let (mut text, mut end) = ([0; DIGITS], DIGITS);
        for (shift, digits) in [(0, 8), (40, 8), (80, 10)] {
            #[expect(clippy::cast_possible_truncation, reason = "a part has 50 bits at most")]
            let mut part = (self.0 >> shift) as u64;
            for place in text[end - digits..end].iter_mut().rev() {
                *place = ALPHABET[(part & 31) as usize];
                part >>= 5;
            }
            end -= digits;
        }
        f.write_str(prefix)?;
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }

    fn read(prefix: &str, text: &str) -> Option<Self> {
        let digits = text.strip_prefix(prefix)?.as_bytes();
        // 26 digits have 130 bits, so the first digit is at most 7.
        if digits.len() != DIGITS || digits[0] > b'7' {
            return None;
        }
        let index = |digit: &u8| ALPHABET.iter().position(|known| known == digit);
        digits.iter().try_fold(0, |value, digit| Some((value << 5) | index(digit)? as u128)).map(Self)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write("", f)
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Id);

        impl $name {
            /// Parses the public form. Returns `None` for anything else.
            pub fn parse(text: &str) -> Option<Self> {
                Id::read($prefix, text).map(Self)
            }

            /// Returns the stored form.
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_bytes()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write($prefix, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        json_string! {
            $name { pattern: concat!("^", $prefix, "[0-7][0-9a-hjkmnp-tv-z]{25}$").to_owned() }
        }
    )*};
}

ids! {
    /// Id of a watch.
    WatchId = "watch_";
    /// Id of an event, and `webhook-id` of its deliveries.
    EventId = "evt_";
    /// Id of a delivery.
    DeliveryId = "dlv_";
    /// Id of a destination.
    DestinationId = "dst_";
    /// Id of an app.
    AppId = "app_";
    /// Id of an API key; not the key itself.
    KeyId = "key_";
    /// Id of an operation on many rows.
    OperationId = "op_";
    /// Id of one API request, in its response and in the log.
    RequestId = "req_";
}

/// Draws ids in ascending order.
#[derive(Debug, Default)]
pub struct Ids(Mutex<u128>);

impl Ids {
    /// Creates a source of ids above `last`, the greatest stored id. A clock that was set back before a restart
    /// then does not break the order.
    pub fn above(last: Id) -> Self {
        Self(Mutex::new(last.0))
    }

    /// Returns the next id.
    pub fn draw(&self, now: Timestamp) -> Id {
        let millis = u128::try_from(now.millis()).unwrap_or(0) & ((1 << 48) - 1);
        let mut last = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = if millis > *last >> 80 {
            // The top bit is 0, which leaves room to count within the millisecond.
            let mut bytes = [0u8; 8];
            random(&mut bytes);
            (millis << 80) | u128::from(u64::from_be_bytes(bytes) >> 1) << 16
        } else {
            *last + 1
        };
        Id(*last)
    }
}

/// Returns the jitter of a retry: a factor of 0.8 to 1.2, derived from the delivery and the step, so that it
/// is the same after a crash.
pub(super) fn jitter(id: Id, n: u32) -> f64 {
    let draw = u32::from_be_bytes(hash(&[&id.to_bytes(), &n.to_be_bytes()]));
    0.8 + 0.4 * f64::from(draw) / f64::from(u32::MAX)
}

/// Returns the beginning of the SHA-256 hash of `parts`, one after the other.
pub fn hash<const N: usize>(parts: &[&[u8]]) -> [u8; N] {
    let digest = parts.iter().fold(Sha256::new(), Sha256::chain_update).finalize();
    std::array::from_fn(|n| digest[n])
}

/// Fills `bytes` with random bytes of the operating system.
///
/// # Panics
/// If the operating system has no random bytes, because no secret would be safe.
#[expect(clippy::expect_used, reason = "no safe way to go on without randomness")]
pub fn random(bytes: &mut [u8]) {
    getrandom::fill(bytes).expect("the operating system gives random bytes");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_survives_its_public_form() {
        let id = WatchId(Id(0x0198_0000_1111_2222_3333_4444_5555_6666));
        assert_eq!(WatchId::parse(&id.to_string()), Some(id));
        for text in [
            "",
            "watch_",
            "evt_00000000000000000000000000",
            "watch_z0000000000000000000000000",
            "watch_0000000000000000000000000I",
            "watch_000000000000000000000000000",
        ] {
            assert_eq!(WatchId::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ids_are_in_order_of_creation_even_if_the_clock_is_not() {
        let ids = Ids::default();
        let drawn: Vec<Id> = [5, 5, 7, 3, 9].map(|ms| ids.draw(Timestamp::from_millis(ms))).to_vec();
        assert!(drawn.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn no_id_is_smaller_than_its_time() {
        let ids = Ids::default();
        for ms in [5, 9, 3, 0, 9, 8, 1_771_426_800_000, 7, 1_771_426_800_001] {
            let at = Timestamp::from_millis(ms);
            assert!(ids.draw(at) >= Id::least(at), "{ms}");
        }
        assert!(ids.draw(Timestamp::from_millis(1_771_426_900_000)) < Id::least(Timestamp::MAX));
        assert!(Id::least(Timestamp::from_millis(-1)) == Id(0));
    }
}
