//! Saved destinations: channels with their addresses that an app names once, and that many watches use.

use std::time::Duration;

use super::{Access, AppNo, ChannelKind, DestinationId, EventSet, SavedQueue, Signing, Timestamp, TlsPem};

word_enum! {
    /// Why a saved destination is disabled.
    DisabledReason {
        /// A client disabled it, or the configuration file.
        Manual = "manual",
        /// The receiver answered 410, or its address does not exist any more.
        Gone = "gone",
        /// No attempt has succeeded for days.
        Failing = "failing",
        /// It is not in the configuration file any more.
        Unmanaged = "unmanaged",
    }
}

/// A saved destination, as the API shows it.
#[derive(Clone, Debug)]
pub struct SavedDestination {
    /// The app that owns it.
    pub app: AppNo,
    /// Public id.
    pub id: DestinationId,
    /// Name for people.
    pub name: Option<String>,
    /// Description for people.
    pub description: Option<String>,
    /// Address with its headers and its secret.
    pub address: SavedAddress,
    /// Event types that it receives.
    pub events: EventSet,
    /// Whether it receives the watches whose registration names no destination.
    pub is_default: bool,
    /// Limits, and the row number.
    pub queue: SavedQueue,
    /// Whether it is in the configuration file.
    pub is_managed: bool,
    /// Why it is disabled, and since when; `None` if it is enabled.
    pub disabled: Option<(DisabledReason, Timestamp)>,
    /// How the attempts of the last day ended.
    pub health: DestinationHealth,
    /// Time of creation.
    pub created_at: Timestamp,
}

/// A channel and an address, with what is sent to it. `Debug` shows no secret, and no address, because a URL can
/// contain a token.
#[derive(Clone, PartialEq, Eq)]
pub struct SavedAddress {
    /// Kind of the channel.
    pub channel: ChannelKind,
    /// Address, in its normalised spelling.
    pub address: String,
    /// Additional headers of each request.
    pub headers: Vec<(String, String)>,
    /// Secret that signs in place of the app's.
    pub secret: Option<String>,
    /// How requests are signed; `None` for the default.
    pub signing: Option<Box<Signing>>,
    /// How requests authenticate themselves; `None` if they do not.
    pub access: Option<Box<Access>>,
    /// Certificates and key of a TLS identity that is to be stored; `None` if those that are stored remain.
    pub new_tls: Option<Box<TlsPem>>,
}

impl std::fmt::Debug for SavedAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SavedAddress").field("channel", &self.channel).finish_non_exhaustive()
    }
}

/// How the attempts to a saved destination ended in the last 24 hours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationHealth {
    /// Number of successful attempts.
    pub succeeded: u64,
    /// Number of failed attempts.
    pub failed: u64,
    /// Duration that half of the attempts did not exceed, in milliseconds; `None` without attempts.
    pub p50_ms: Option<u32>,
    /// Duration that 95 of 100 attempts did not exceed.
    pub p95_ms: Option<u32>,
    /// Error of the last failed attempt, if no success followed.
    pub last_error: Option<String>,
    /// Time of the first failed attempt after the last success.
    pub failing_since: Option<Timestamp>,
}

/// Time without a success after which a destination is disabled as `failing`.
pub const FAILING_AFTER: Duration = Duration::from_secs(5 * 24 * 3600);

/// Minimum number of failed attempts in this time. A destination that gets an event a week is not disabled.
pub const FAILING_ATTEMPTS: u32 = 20;

/// Upper bounds of the classes of durations, in milliseconds: each is larger than the one before by a half or a third.
/// A longer duration belongs to the last class.
const DURATIONS_MS: [u32; 30] = [
    1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096,
    6144, 8192, 12_288, 16_384, 24_576, 32_768,
];

/// Returns the class of a duration.
pub fn duration_bucket(duration_ms: u32) -> u8 {
    let bucket =
        DURATIONS_MS.iter().position(|bound| duration_ms <= *bound).unwrap_or(DURATIONS_MS.len() - 1);
    u8::try_from(bucket).unwrap_or(u8::MAX)
}

impl DestinationHealth {
    /// Adds attempts: for each class of durations, in ascending order, its number of successes and of failures.
    pub fn of_buckets(buckets: &[(u8, u64, u64)]) -> Self {
        let succeeded = buckets.iter().map(|(_, succeeded, _)| succeeded).sum();
        let failed = buckets.iter().map(|(.., failed)| failed).sum();
        let total: u64 = succeeded + failed;
        let percentile = |percent: u64| {
            let mut left = (total * percent).div_ceil(100);
            let (bucket, ..) = buckets.iter().find(|(_, succeeded, failed)| {
                let count = succeeded + failed;
                let is_here = count >= left;
                left = left.saturating_sub(count);
                is_here
            })?;
            DURATIONS_MS.get(usize::from(*bucket)).copied()
        };
        let has_any = total > 0;
        Self {
            succeeded,
            failed,
            p50_ms: if has_any { percentile(50) } else { None },
            p95_ms: if has_any { percentile(95) } else { None },
            ..Self::default()
        }
    }

    /// Returns the part of the attempts that succeeded, from 0 to 1; `None` without attempts.
    pub fn success_rate(&self) -> Option<f64> {
        let total = self.succeeded + self.failed;
        #[expect(clippy::cast_precision_loss, reason = "a day has fewer than 2^52 attempts")]
        let rate = self.succeeded as f64 / total as f64;
        (total > 0).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_the_bound_of_its_class_of_durations() {
        let health = |buckets: &[(u8, u64, u64)]| DestinationHealth::of_buckets(buckets);
        assert_eq!(health(&[]), DestinationHealth::default());
        assert_eq!(health(&[]).success_rate(), None);
        let one = health(&[(duration_bucket(4), 1, 0)]);
        assert_eq!((one.p50_ms, one.p95_ms, one.success_rate()), (Some(4), Some(4), Some(1.0)));
        let many = health(&[
            (duration_bucket(10), 90, 0),
            (duration_bucket(700), 4, 0),
            (duration_bucket(20_000), 0, 6),
        ]);
        assert_eq!((many.p50_ms, many.p95_ms), (Some(12), Some(24_576)));
        assert_eq!((many.succeeded, many.failed, many.success_rate()), (94, 6, Some(0.94)));
        let edge = health(&[(duration_bucket(10), 95, 0), (duration_bucket(20_000), 0, 5)]);
        assert_eq!(edge.p95_ms, Some(12));
    }

    #[test]
    fn every_duration_has_a_class() {
        for (duration, bound) in [(0, 1), (1, 1), (5, 6), (20_000, 24_576), (u32::MAX, 32_768)] {
            assert_eq!(DURATIONS_MS[usize::from(duration_bucket(duration))], bound, "{duration}");
        }
    }
}
