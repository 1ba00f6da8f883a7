//! Requests with a wrong API key: counted, logged and slowed down.
//!
//! A key cannot be guessed, because it has 256 random bits. But a client that tries keys should be seen, and should
//! not cost much; and a service that uses a revoked key should be found.
//!
//! - **No correct key is refused**, whatever other clients of the same address do: they can share it behind a
//!   network address translator or a proxy.
//! - **A connection** is closed after [`OF_CONNECTION_MAX`] wrong keys.
//! - **An address** gets further refusals only after a pause, once it has sent [`OF_PEER_MAX`] wrong keys within a
//!   minute. A client with one connection then tries one key a second.
//! - **The log** has a line for the first, tenth, hundredth … wrong key of an address within a minute, and at most
//!   [`LINES_MAX`] such lines a minute. `ringback_http_wrong_keys_total` counts all.
//!
//! An IPv6 client has a whole network of 2^64 addresses, so its address is the network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::Timestamp;
use crate::telemetry::metrics::Metrics;

/// Number of wrong keys after which a connection is closed.
const OF_CONNECTION_MAX: u32 = 10;

/// Number of wrong keys of an address within a minute after which it is slowed down. A fleet with an old key that
/// tries again every few seconds stays below.
const OF_PEER_MAX: u64 = 1_000;

/// Pause before a refusal to an address that is slowed down.
const PAUSE: Duration = Duration::from_secs(1);

/// The time in which wrong keys are counted.
const WINDOW: Duration = Duration::from_secs(60);

/// Maximum number of log lines within a window.
const LINES_MAX: u32 = 60;

/// Maximum number of addresses within a window. The others are counted together.
const PEERS_MAX: usize = 4_096;

/// The wrong keys that arrived on one connection.
#[derive(Debug)]
pub(super) struct WrongKeysOfClient {
    peer: IpAddr,
    count: AtomicU32,
}

impl WrongKeysOfClient {
    /// Makes the state of a connection that was just accepted.
    pub(super) fn new(peer: IpAddr) -> Self {
        Self { peer: network(peer), count: AtomicU32::new(0) }
    }

    /// Whether the connection is closed after the current answer.
    pub(super) fn is_closing(&self) -> bool {
        self.count.load(Ordering::Relaxed) >= OF_CONNECTION_MAX
    }
}

/// Returns the address that wrong keys are counted by.
fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// The wrong keys of the current window.
#[derive(Debug, Default)]
pub struct WrongKeys(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    start: Timestamp,
    by_peer: HashMap<IpAddr, u64>,
    lines: u32,
}

/// What follows from a wrong key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Verdict {
    /// Number of wrong keys of the address in this window.
    count: u64,
    is_logged: bool,
    is_slow: bool,
}

impl WrongKeys {
    /// Counts the wrong key of a request, and waits if its address has sent too many.
    pub(super) async fn note(&self, client: Option<&WrongKeysOfClient>, metrics: &Metrics, clock: &Clock) {
        metrics.wrong_key();
        let Some(&WrongKeysOfClient { peer, ref count }) = client else { return };
        count.fetch_add(1, Ordering::Relaxed);
        let Verdict { count, is_logged, is_slow } = self.count(peer, clock.now());
        if is_logged {
            tracing::warn!(%peer, count, "requests with wrong API keys within a minute");
        }
        if is_slow {
            clock.sleep(PAUSE).await;
        }
    }

    fn count(&self, peer: IpAddr, now: Timestamp) -> Verdict {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Also after the clock was set back.
        if now >= window.start.plus(WINDOW) || now < window.start {
            *window = Window { start: now, ..Window::default() };
        }
        let is_known = window.by_peer.contains_key(&peer) || window.by_peer.len() < PEERS_MAX;
        let peer = if is_known { peer } else { Ipv6Addr::UNSPECIFIED.into() };
        let count = window.by_peer.entry(peer).or_default();
        *count += 1;
        let count = *count;
        let is_logged = 10_u64.pow(count.ilog10()) == count && window.lines < LINES_MAX;
        window.lines += u32::from(is_logged);
        Verdict { count, is_logged, is_slow: count > OF_PEER_MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_keys_are_logged_at_powers_of_ten_and_slowed_down() {
        let keys = WrongKeys::default();
        let (peer, other) =
            ("192.0.2.1".parse().expect("an address"), "192.0.2.2".parse().expect("an address"));
        let at = |seconds: i64| Timestamp::from_millis(1_771_426_800_000 + seconds * 1_000);
        let verdicts: Vec<Verdict> = (0..1_001).map(|_| keys.count(peer, at(0))).collect();
        let logged: Vec<u64> = verdicts.iter().filter(|v| v.is_logged).map(|v| v.count).collect();
        assert_eq!(logged, [1, 10, 100, 1_000]);
        assert_eq!(verdicts.iter().position(|verdict| verdict.is_slow), Some(1_000));
        assert!(!keys.count(other, at(0)).is_slow);
        let fresh = Verdict { count: 1, is_logged: true, is_slow: false };
        assert_eq!(keys.count(peer, at(60)), fresh);
        assert_eq!(keys.count(peer, at(-3_600)), fresh, "after the clock was set back");
    }

    #[test]
    fn many_addresses_take_bounded_memory_and_lines() {
        let keys = WrongKeys::default();
        let count = |n: u32| keys.count(IpAddr::V4(n.into()), Timestamp::from_millis(0));
        let logged = (0..10_000).filter(|n| count(*n).is_logged).count();
        assert_eq!(logged, 60);
        assert_eq!(keys.0.lock().expect("no panic").by_peer.len(), PEERS_MAX + 1);
    }

    #[test]
    fn the_addresses_of_an_ipv6_network_are_one() {
        let parse = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(parse("2001:db8:1:2:3:4:5:6"), parse("2001:db8:1:2::1"));
        assert_ne!(parse("2001:db8:1:2::1"), parse("2001:db8:1:3::1"));
        assert_eq!(parse("::ffff:192.0.2.1"), parse("192.0.2.1"));
    }
}
