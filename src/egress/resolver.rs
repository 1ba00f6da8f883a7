//! From a name to addresses that may be connected to.
//!
//! A name that a user gave is judged where the connection is made: the HTTP client is handed the
//! very addresses that were checked, so between check and use there is no moment at which the name
//! could come to mean something else. Addresses written into a URL never come this way; whoever
//! sends judges those.
//!
//! No look-up occupies a thread: dropping the future is the end of it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

use super::address::{Reach, Settings};
use crate::domain::Timestamp;

/// More addresses than this of one name are not tried.
const ADDRESSES_MAX: usize = 16;

/// How long the DNS may make us believe that a name does not exist: users register before they
/// deploy.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(60);

/// A look-up in progress.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Who knows the addresses of names: an argument, like the clock.
#[derive(Clone)]
pub enum Resolver {
    /// `/etc/hosts` and the name servers of `/etc/resolv.conf`, both read once.
    System(Arc<TokioResolver>),
    /// Somebody who plays the DNS.
    Fixed(Arc<dyn Fn(&str) -> Lookup + Send + Sync>),
}

impl Resolver {
    /// The machine's. One without name servers still knows its hosts file.
    pub fn system() -> anyhow::Result<Self> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers are known; only the hosts file is used");
            let nobody = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(nobody, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        // Both families at once, and every address of both is judged.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        Ok(Self::System(Arc::new(builder.build()?)))
    }

    /// One whose answers are at hand.
    pub fn fixed(answer: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::Fixed(Arc::new(move |name| Box::pin(std::future::ready(answer(name)))))
    }

    /// The addresses of `name`. Only a `trusted` name is completed from the search list: for any
    /// other, `api.prod` could come to mean a service of the cluster that this runs in.
    pub(super) async fn look_up(&self, name: &str, trusted: bool) -> io::Result<Vec<IpAddr>> {
        let found = match self {
            Self::Fixed(answer) => return answer(name).await,
            Self::System(dns) if trusted => dns.lookup_ip(name).await,
            Self::System(dns) => dns.lookup_ip(format!("{name}.")).await,
        };
        Ok(found.map_err(io::Error::other)?.iter().collect())
    }
}

/// For whom names are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressPolicy {
    /// https to what users gave.
    Secure,
    /// http to what users gave.
    Plain,
    /// What the operator configured.
    Trusted,
}

/// Why there is no connection; found again at the bottom of the HTTP client's error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoAddress {
    /// The guard's word.
    #[error("the host is not one that callbacks may reach")]
    Forbidden,
    /// The DNS's.
    #[error("the host name does not resolve")]
    Unknown,
}

/// The HTTP client's view of the DNS.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) door: AddressPolicy,
    pub(super) resolver: Resolver,
    pub(super) settings: Arc<Settings>,
}

impl Guard {
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, NoAddress> {
        let trusted = self.door == AddressPolicy::Trusted || self.settings.allows_name(name);
        let looked_up = self.resolver.look_up(name, trusted).await;
        let mut addresses = looked_up.ok().filter(|found| !found.is_empty()).ok_or(NoAddress::Unknown)?;
        if !trusted {
            let demand = self.settings.demand(name, self.door == AddressPolicy::Plain);
            if !demand.met_by(self.settings.reach(&addresses)) {
                return Err(NoAddress::Forbidden);
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        Ok(addresses)
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.clone();
        Box::pin(async move {
            let addresses = guard.addresses(name.as_str()).await?;
            // The client fills in the port of the URL.
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as Addrs)
        })
    }
}

/// What names came to when they were last looked up at registration.
#[derive(Debug, Default)]
pub(super) struct Cache {
    known: Mutex<HashMap<Box<str>, (Timestamp, Reach)>>,
}

impl Cache {
    /// How long an answer holds, a failure's too: a batch of registrations asks once.
    const TTL: Duration = Duration::from_secs(60);
    /// About 1 MiB of names.
    const MAX: usize = 4_096;

    pub(super) fn get(&self, name: &str, now: Timestamp) -> Option<Reach> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // Fresh is what was learned within the TTL; a clock set back makes it stale, not eternal.
        known.get(name).filter(|(at, _)| *at <= now && now < at.plus(Self::TTL)).map(|(_, reach)| *reach)
    }

    pub(super) fn put(&self, name: &str, reach: Reach, now: Timestamp) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= Self::MAX {
            known.retain(|_, (at, _)| now < at.plus(Self::TTL));
            // Full of fresh names: somebody makes them up. Forgetting all costs a look-up each.
            if known.len() >= Self::MAX {
                known.clear();
            }
        }
        known.insert(name.into(), (now, reach));
    }
}

/// The names that are being looked up at registration.
#[derive(Debug, Default)]
pub(super) struct Asked(Mutex<HashMap<Box<str>, Arc<OnceCell<Reach>>>>);

/// Somebody who waits for a look-up. The last one to leave takes the name away.
pub(super) struct Asking<'a> {
    asked: &'a Asked,
    name: &'a str,
    once: Arc<OnceCell<Reach>>,
}

impl Asked {
    pub(super) fn join<'a>(&'a self, name: &'a str) -> Asking<'a> {
        let mut names = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let once = Arc::clone(names.entry(name.into()).or_default());
        Asking { asked: self, name, once }
    }
}

impl Asking<'_> {
    pub(super) fn once(&self) -> &OnceCell<Reach> {
        &self.once
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut names = self.asked.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours goes under the lock: of two that leave together, the second sees that it is the last.
        drop(std::mem::take(&mut self.once));
        if names.get(self.name).is_some_and(|once| Arc::strong_count(once) == 1) {
            names.remove(self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_forgets_after_a_minute_and_never_grows_beyond_its_limit() {
        let cache = Cache::default();
        let at = Timestamp::from_millis;
        cache.put("a.example", Reach::Unknown, at(1_000));
        assert_eq!(cache.get("a.example", at(60_999)), Some(Reach::Unknown));
        assert_eq!(cache.get("a.example", at(61_000)), None);
        assert_eq!(cache.get("a.example", at(0)), None);
        for n in 0..3 * Cache::MAX {
            cache.put(&format!("{n}.example"), Reach::Public, at(2_000));
        }
        assert!(cache.known.lock().unwrap().len() <= Cache::MAX);
    }
}
