//! Sets of ids with a cheap hash. Each delivery is looked up in several of them, and its queue looks up many others.
//!
//! The ids are drawn by this program and not by clients, so no client can choose ids with equal hashes.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// A set of ids, or of tuples of them.
pub(super) type IdSet<T> = HashSet<T, BuildHasherDefault<IdHasher>>;

/// Spreads the bits of an id over the upper ones (from the golden ratio).
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// Hasher of ids.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        // The lower bits of a product depend only on those of its factors.
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0.rotate_left(8) ^ u64::from(*byte)).wrapping_mul(SPREAD);
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "both halves are taken")]
    fn write_u128(&mut self, id: u128) {
        for half in [(id >> 64) as u64, id as u64] {
            self.0 = (self.0.rotate_left(32) ^ half).wrapping_mul(SPREAD);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::*;
    use crate::domain::{DeliveryId, Ids, Timestamp};

    #[test]
    fn ids_of_one_millisecond_and_of_many_have_different_hashes() {
        let (ids, set) = (Ids::default(), IdSet::<DeliveryId>::default());
        let hash = |millis| set.hasher().hash_one(DeliveryId(ids.draw(Timestamp::from_millis(millis))));
        let hashes: Vec<u64> = (0..4_096).map(|n| hash(1_700_000_000_000 + n / 64)).collect();
        let lower: HashSet<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
        let upper: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
        assert!(lower.len() > 3_000, "{}", lower.len());
        assert_eq!(upper.len(), 128);
    }
}
