//! Ids: 128 bits, written as a prefix and 26 characters of Crockford's base32, in lower case.
//!
//! All but an event's are *drawn*: 48 bits of milliseconds, then 80 bits that are random when the
//! millisecond is new and one more than the last otherwise, so that the order of ids is the order
//! of their creation. An event's is *derived* from (watch, type, n): whoever observes the same fact
//! again, after a crash or a takeover, derives the same id.

use std::fmt;
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use super::{EventType, Timestamp};

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const DIGITS: usize = 26;

/// The greatest time that an id has room for.
const MILLIS_MAX: i64 = (1 << 48) - 1;

/// 128 bits that name something.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u128);

impl Id {
    /// Greater than any that is drawn.
    pub const MAX: Self = Self(u128::MAX);

    /// The least that is drawn when it is `at`, or later. A clock that was set back draws greater ones
    /// than its time says, never lesser ones.
    pub fn least(at: Timestamp) -> Self {
        Self(u128::from(at.millis().clamp(0, MILLIS_MAX).unsigned_abs()) << 80)
    }

    /// As stored.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From what was stored.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    fn write(self, prefix: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; DIGITS];
        let mut rest = self.0;
        for digit in text.iter_mut().rev() {
            *digit = ALPHABET[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(prefix)?;
        f.write_str(str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }

    fn read(prefix: &str, text: &str) -> Option<Self> {
        let digits = text.strip_prefix(prefix)?.as_bytes();
        // 26 digits hold 130 bits: the first may be 7 at most.
        if digits.len() != DIGITS || digits[0] > b'7' {
            return None;
        }
        let mut value = 0u128;
        for digit in digits {
            let index = ALPHABET.iter().position(|known| known == digit)?;
            value = (value << 5) | index as u128;
        }
        Some(Self(value))
    }
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Id);

        impl $name {
            /// Reads the public form; `None` for anything else.
            pub fn parse(text: &str) -> Option<Self> {
                Id::read($prefix, text).map(Self)
            }

            /// As stored.
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

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let text = utoipa::openapi::ObjectBuilder::new()
                    .schema_type(utoipa::openapi::schema::Type::String)
                    .pattern(Some(concat!("^", $prefix, "[0-7][0-9a-hjkmnp-tv-z]{25}$")));
                text.into()
            }
        }

        impl utoipa::ToSchema for $name {}

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

ids! {
    /// Names a watch.
    WatchId = "watch_";
    /// Names an event; also the `webhook-id` of everything that is sent because of it.
    EventId = "evt_";
    /// Names a delivery.
    DeliveryId = "dlv_";
    /// Names a destination.
    DestinationId = "dst_";
    /// Names an app.
    AppId = "app_";
    /// Names an API key (not the key itself).
    KeyId = "key_";
    /// Names one request to the API, in its answer and in the log.
    RequestId = "req_";
}

impl EventId {
    /// The id of the `n`th event of this type of this watch.
    pub fn derive(watch: WatchId, event: EventType, n: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(watch.to_bytes());
        hash.update(event.as_str().as_bytes());
        hash.update([0]);
        hash.update(n.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut first = [0u8; 16];
        first.copy_from_slice(&digest[..16]);
        Self(Id::from_bytes(first))
    }
}

/// Draws ids in ascending order.
#[derive(Debug, Default)]
pub struct Ids {
    last: Mutex<u128>,
}

impl Ids {
    /// Draws from above `last`: the greatest id that was ever stored, so that a clock which was
    /// set back over a restart does not break the order.
    pub fn above(last: Id) -> Self {
        Self { last: Mutex::new(last.0) }
    }

    /// The next id.
    pub fn draw(&self, now: Timestamp) -> Id {
        let millis = u128::try_from(now.millis()).unwrap_or(0) & ((1 << 48) - 1);
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *last = if millis > *last >> 80 {
            // The top bit stays clear: room to count up within the millisecond.
            (millis << 80) | u128::from(random_u64() >> 1) << 16
        } else {
            *last + 1
        };
        Id(*last)
    }
}

/// Returns the jitter of a retry: a factor of 0.8 to 1.2, derived from the delivery and the step, so that it
/// is the same after a crash.
pub(super) fn jitter(id: Id, n: u32) -> f64 {
    let mut hash = Sha256::new();
    hash.update(id.to_bytes());
    hash.update(n.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let draw = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    0.8 + 0.4 * f64::from(draw) / f64::from(u32::MAX)
}

fn random_u64() -> u64 {
    let mut bytes = [0u8; 8];
    random(&mut bytes);
    u64::from_be_bytes(bytes)
}

/// Fills `bytes` from the operating system's generator.
///
/// # Panics
/// When the operating system has no randomness: nothing that this program makes would be safe.
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
    fn ids_come_in_the_order_of_their_creation_even_when_the_clock_does_not() {
        let ids = Ids::default();
        let drawn: Vec<Id> = [5, 5, 7, 3, 9].map(|ms| ids.draw(Timestamp::from_millis(ms))).to_vec();
        assert!(drawn.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn no_id_is_less_than_its_time_whatever_the_clock_does() {
        let ids = Ids::default();
        for ms in [5, 9, 3, 0, 9, 8, 1_771_426_800_000, 7, 1_771_426_800_001] {
            let at = Timestamp::from_millis(ms);
            assert!(ids.draw(at) >= Id::least(at), "{ms}");
        }
        assert!(ids.draw(Timestamp::from_millis(1_771_426_900_000)) < Id::least(Timestamp::MAX));
        assert!(Id::least(Timestamp::from_millis(-1)) == Id(0));
    }

    #[test]
    fn an_events_id_is_a_function_of_the_fact() {
        let watch = WatchId(Id(7));
        let id = EventId::derive(watch, EventType::JobCompleted, 0);
        assert_eq!(id, EventId::derive(watch, EventType::JobCompleted, 0));
        assert_ne!(id, EventId::derive(watch, EventType::JobFailed, 0));
        assert_ne!(id, EventId::derive(watch, EventType::JobCompleted, 1));
    }
}
