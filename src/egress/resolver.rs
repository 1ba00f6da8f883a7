//! The guard: which addresses of a name the HTTP client may connect to. [`crate::dns`] finds the addresses.
//!
//! A user's name is checked when the connection is made: the HTTP client gets exactly the addresses that were
//! checked. Between the check and the connection the name cannot change its addresses. An address that DNS reports
//! later is neither checked nor connected to. An address in a URL does not pass through here; `Egress::send` checks it.
//!
//! A lookup occupies no thread, and dropping its future cancels it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OnceCell;

use super::address::{AddressClass, Settings};
use super::exhaustion::lacking;
use crate::clock::{Clock, Moment};
use crate::dns::{LookupError, NetworkError, SystemFiles, SystemResolver};

/// Maximum number of addresses of a name that are tried.
const ADDRESSES_MAX: usize = 16;

/// A lookup in progress.
pub type Lookup = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// The source of the addresses of names; a parameter, like the clock.
#[derive(Clone)]
pub enum Resolver {
    /// `/etc/hosts` and the name servers of `/etc/resolv.conf`.
    System(Arc<SystemResolver>),
    /// A function in place of DNS, for tests.
    Fixed(Arc<dyn Fn(&str) -> Lookup + Send + Sync>),
}

impl Resolver {
    /// Makes the system's resolver. Without name servers it uses the hosts file alone, until there are some.
    pub fn system() -> Self {
        let system = SystemResolver::new(SystemFiles::default(), Clock::System);
        if !system.has_servers() {
            tracing::warn!("no name servers are configured; only the hosts file is used");
        }
        Self::System(Arc::new(system))
    }

    /// Makes a resolver with immediate answers, for tests.
    pub fn fixed(answer: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        Self::Fixed(Arc::new(move |name| Box::pin(std::future::ready(answer(name)))))
    }

    /// Returns the addresses of `name`. Only a `trusted` name is completed from the search list: with it, a user's
    /// `api.prod` could resolve to a service of the cluster.
    pub(super) async fn lookup(&self, name: &str, trusted: bool) -> Result<Vec<IpAddr>, LookupError> {
        match self {
            Self::Fixed(answer) => answer(name).await.map_err(|error| {
                if error.kind() == io::ErrorKind::NetworkDown {
                    LookupError::Unavailable(None)
                } else if error.raw_os_error().is_some() {
                    LookupError::Failed(error.into())
                } else {
                    LookupError::NotFound
                }
            }),
            Self::System(system) => system.lookup(name, trusted).await,
        }
    }
}

/// The rules for the addresses of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    /// The name has no address, with this explanation.
    #[error("{0}")]
    Unknown(String),
    /// This machine lacks something that a lookup needs.
    #[error("{0}")]
    Exhausted(&'static str),
    /// The name servers of this machine do not answer.
    #[error("{0}")]
    Unavailable(String),
}

impl ResolveError {
    /// Returns the error of a failed lookup. A user's name is shown. A name of the operator is not: users can read
    /// these errors.
    fn of_lookup(error: &LookupError, shown: Option<&str>) -> Self {
        let name = shown.map(|name| format!(" `{name}`")).unwrap_or_default();
        if let LookupError::Failed(NetworkError::Io(network))
        | LookupError::Unavailable(Some(NetworkError::Io(network))) = error
            && let Some(lacking) = lacking(network)
        {
            return Self::Exhausted(lacking);
        }
        match error {
            LookupError::NotFound => Self::Unknown(format!("the host name{name} does not resolve")),
            LookupError::Failed(why) => {
                Self::Unknown(format!("no name server could resolve the host name{name}: {why}"))
            }
            LookupError::Unavailable(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// Whether an exchange waits for a lookup.
///
/// A lookup has its own limit ([`dns::LOOKUP_TIMEOUT`](crate::dns::LOOKUP_TIMEOUT) and the query for the root, 3.8 s
/// together), at whose end it is known whether the name or this machine is at fault. If the deadline of an exchange is
/// shorter and passed first, silent name servers would count against the receiver or the provider. So a deadline that
/// passes during a lookup takes effect after it.
#[derive(Debug, Default)]
pub(super) struct LookupPhase(AtomicBool);

impl LookupPhase {
    async fn during<T>(&self, lookup: impl Future<Output = T>) -> T {
        self.0.store(true, Ordering::Relaxed);
        let done = lookup.await;
        self.0.store(false, Ordering::Relaxed);
        done
    }

    /// Runs `work`, which marks its lookups in `self`, until `deadline` and the end of a lookup that is then in
    /// progress. Returns `None` if the work did not finish in time.
    pub(super) async fn limit<T>(
        &self,
        deadline: impl Future<Output = ()>,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        // The end of the lookup wakes the task, which then polls the work first, and this again.
        let after_lookup =
            poll_fn(|_| if self.0.load(Ordering::Relaxed) { Poll::Pending } else { Poll::Ready(()) });
        let expired = async {
            deadline.await;
            after_lookup.await;
        };
        tokio::select! {
            biased;
            done = work => Some(done),
            () = expired => None,
        }
    }
}

/// The resolver of an HTTP client, which applies its address policy.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) policy: AddressPolicy,
    pub(super) resolver: Resolver,
    pub(super) settings: Arc<Settings>,
}

impl Guard {
    pub(super) async fn addresses(
        &self,
        name: &str,
        phase: &LookupPhase,
    ) -> Result<Vec<IpAddr>, ResolveError> {
        let trusted = self.policy == AddressPolicy::Trusted || self.settings.allows_name(name);
        let shown = (self.policy != AddressPolicy::Trusted).then_some(name);
        let failed = |error: LookupError| ResolveError::of_lookup(&error, shown);
        let mut addresses = phase.during(self.resolver.lookup(name, trusted)).await.map_err(failed)?;
        if addresses.is_empty() {
            return Err(failed(LookupError::NotFound));
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

/// The class of a name, and the time of its lookup. Without a value, the lookup is in progress, or it was cancelled.
type CachedClass = OnceCell<(Moment, AddressClass)>;

/// The classes of names that registrations resolve.
#[derive(Debug, Default)]
pub(super) struct LookupCache(Mutex<HashMap<Box<str>, Arc<CachedClass>>>);

impl LookupCache {
    /// Time for which an entry is valid: a batch resolves a name once.
    const TTL: Duration = Duration::from_secs(60);
    /// Time for which a failure is valid. Longer than a batch; a user who repeats the registration when the name or the
    /// network is there is not refused for long.
    const FAILURE_TTL: Duration = Duration::from_secs(10);
    /// Maximum number of entries: about 1 MiB of names.
    const MAX: usize = 4_096;

    /// Returns the valid entry of a name, or a new one.
    pub(super) fn entry(&self, name: &str, now: Moment) -> Arc<CachedClass> {
        let ttl = |class| if class <= AddressClass::Unknown { Self::FAILURE_TTL } else { Self::TTL };
        let is_valid =
            |entry: &CachedClass| entry.get().is_none_or(|(at, class)| now.since(*at) < ttl(*class));
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
        let at = |millis| Moment::default().plus(Duration::from_millis(millis));
        let class = |now| cache.entry("a.example", at(now)).get().map(|(_, class)| *class);
        cache.entry("a.example", at(1_000)).set((at(1_000), AddressClass::Public)).unwrap();
        assert_eq!(class(60_999), Some(AddressClass::Public));
        assert_eq!(class(61_000), None);
        // A failure expires sooner.
        cache.entry("a.example", at(61_000)).set((at(61_000), AddressClass::Unknown)).unwrap();
        assert_eq!(class(70_999), Some(AddressClass::Unknown));
        assert_eq!(class(71_000), None);
        for n in 0..3 * LookupCache::MAX {
            let entry = cache.entry(&format!("{n}.example"), at(2_000));
            entry.set((at(2_000), AddressClass::Public)).unwrap();
        }
        assert!(cache.0.lock().unwrap().len() <= LookupCache::MAX);
    }
}
