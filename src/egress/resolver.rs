//! Resolving a name to addresses that can be connected to.
//!
//! A user's name is checked when the connection is made: the HTTP client gets exactly the addresses that were
//! checked. Between the check and the connection the name cannot change its addresses. An address in a URL does
//! not pass through here; `Egress::send` checks it.
//!
//! A lookup occupies no thread, and dropping its future cancels it.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::OnceCell;

use super::address::{AddressClass, Settings};
use super::exhaustion::lacking;
use crate::domain::Timestamp;

/// Maximum number of addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// Maximum time for which a negative answer of DNS is cached: users register before they deploy.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(60);

/// A lookup in progress.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// The source of the addresses of names; a parameter, like the clock.
#[derive(Clone)]
pub enum Resolver {
    /// `/etc/hosts` and the name servers of `/etc/resolv.conf`, both read once.
    System(Arc<TokioResolver>),
    /// A function in place of DNS, for tests.
    Fixed(Arc<dyn Fn(&str) -> Lookup + Send + Sync>),
}

impl Resolver {
    /// Makes the system's resolver. Without name servers it uses the hosts file alone.
    pub fn system() -> anyhow::Result<Self> {
        let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|error| {
            tracing::warn!(%error, "no name servers are configured; only the hosts file is used");
            let no_servers = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
            TokioResolver::builder_with_config(no_servers, TokioRuntimeProvider::default())
        });
        let options = builder.options_mut();
        // Both families are resolved, and every address of both is checked.
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
        Ok(Self::System(Arc::new(builder.build()?)))
    }

    /// Makes a resolver with immediate answers, for tests.
    pub fn fixed(answer: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::Fixed(Arc::new(move |name| Box::pin(std::future::ready(answer(name)))))
    }

    /// Returns the addresses of `name`. Only a `trusted` name is completed from the search list: with it, a user's
    /// `api.prod` could resolve to a service of the cluster.
    pub(super) async fn lookup(&self, name: &str, trusted: bool) -> io::Result<Vec<IpAddr>> {
        let found = match self {
            Self::Fixed(answer) => return answer(name).await,
            Self::System(dns) if trusted => dns.lookup_ip(name).await,
            Self::System(dns) => dns.lookup_ip(format!("{name}.")).await,
        };
        Ok(found.map_err(io::Error::other)?.iter().collect())
    }
}

/// The rules for the addresses of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AddressPolicy {
    /// https to users' addresses.
    Secure,
    /// http to users' addresses.
    Plain,
    /// The operator's addresses.
    Trusted,
}

/// Reason why a name has no usable address. [`SendError`](super::SendError) finds it in the HTTP client's error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ResolveError {
    /// The guard refuses an address of the name, with this explanation.
    #[error("{0}")]
    Forbidden(String),
    /// The name has no address. A user's name is shown. A name of the operator is not: users can read these errors.
    #[error("the host name{} does not resolve", .0.as_ref().map(|name| format!(" `{name}`")).unwrap_or_default())]
    Unknown(Option<String>),
    /// This machine lacks something that a lookup needs.
    #[error("{0}")]
    Exhausted(&'static str),
}

/// Returns why a lookup failed; `None` if the name has no address.
fn lacked(error: &io::Error) -> Option<ResolveError> {
    let net = error.get_ref().and_then(|carried| carried.downcast_ref::<NetError>());
    let network = if let Some(NetError::Io(network)) = net { network } else { error };
    lacking(network).map(ResolveError::Exhausted)
}

/// The resolver of an HTTP client, which applies its address policy.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) policy: AddressPolicy,
    pub(super) resolver: Resolver,
    pub(super) settings: Arc<Settings>,
}

impl Guard {
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let trusted = self.policy == AddressPolicy::Trusted || self.settings.allows_name(name);
        let resolved = self.resolver.lookup(name, trusted).await;
        let unknown = || {
            let shown = (self.policy != AddressPolicy::Trusted).then(|| name.to_owned());
            ResolveError::Unknown(shown)
        };
        let mut addresses = resolved.map_err(|error| lacked(&error).unwrap_or_else(unknown))?;
        if addresses.is_empty() {
            return Err(unknown());
        }
        if !trusted {
            let plain = self.policy == AddressPolicy::Plain;
            let class = self.settings.classify(&addresses);
            if class < self.settings.required_class(name, plain) {
                return Err(ResolveError::Forbidden(self.settings.class_objection(name, plain, class)));
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
            // The HTTP client sets the port of the URL.
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as Addrs)
        })
    }
}

/// The class of a name, and the time of its lookup. Without a value, the lookup is in progress, or it was cancelled.
type CachedClass = OnceCell<(Timestamp, AddressClass)>;

/// The classes of names that registrations resolve.
#[derive(Debug, Default)]
pub(super) struct LookupCache(Mutex<HashMap<Box<str>, Arc<CachedClass>>>);

impl LookupCache {
    /// Time for which an entry is valid, failures included: a batch resolves a name once.
    const TTL: Duration = Duration::from_secs(60);
    /// Maximum number of entries: about 1 MiB of names.
    const MAX: usize = 4_096;

    /// Returns the valid entry of a name, or a new one.
    pub(super) fn entry(&self, name: &str, now: Timestamp) -> Arc<CachedClass> {
        // An entry from the future, after the clock was set back, is stale.
        let is_valid =
            |entry: &CachedClass| entry.get().is_none_or(|(at, _)| *at <= now && now < at.plus(Self::TTL));
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(name).filter(|entry| is_valid(entry)) {
            return Arc::clone(entry);
        }
        if entries.len() >= Self::MAX {
            entries.retain(|_, entry| is_valid(entry));
            // Full of valid entries, for example of made-up names: a cleared cache costs one lookup for each.
            if entries.len() >= Self::MAX {
                entries.clear();
            }
        }
        let entry = Arc::default();
        entries.insert(name.into(), Arc::clone(&entry));
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_expires_after_a_minute_and_has_a_limit() {
        let cache = LookupCache::default();
        let at = Timestamp::from_millis;
        let class = |now| cache.entry("a.example", at(now)).get().map(|(_, class)| *class);
        cache.entry("a.example", at(1_000)).set((at(1_000), AddressClass::Unknown)).unwrap();
        assert_eq!(class(60_999), Some(AddressClass::Unknown));
        assert_eq!(class(61_000), None);
        cache.entry("a.example", at(1_000)).set((at(1_000), AddressClass::Unknown)).unwrap();
        assert_eq!(class(0), None);
        for n in 0..3 * LookupCache::MAX {
            let entry = cache.entry(&format!("{n}.example"), at(2_000));
            entry.set((at(2_000), AddressClass::Public)).unwrap();
        }
        assert!(cache.0.lock().unwrap().len() <= LookupCache::MAX);
    }
}
