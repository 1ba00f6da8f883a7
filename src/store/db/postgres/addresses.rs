//! The addresses of the server, each with its own attempt to connect.
//!
//! `tokio-postgres` 0.7 asks the C library for addresses, which waits ten seconds for a name server that answers no
//! AAAA query, and tries the addresses one after another: the first silent one uses up the time. So the addresses are
//! found here, and the library gets one configuration for each. An attempt that connects but gets no answer, as behind
//! a broken proxy, holds up no other address either.
//!
//! A host that is not resolved holds up no other host: the attempts at the next one start when the host before has
//! failed, or after [`HEAD_START`]. A lookup has the time of a connection (`connect_timeout`). Then its host has failed,
//! also while the C library still waits on its thread.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, LoadBalanceHosts};

use crate::clock::Clock;
use crate::dns::{self, LookupError, SystemFiles, SystemResolver};

/// Time that an address has before the next one is tried as well. A session with TLS takes seven round trips.
const HEAD_START: Duration = Duration::from_secs(1);

/// Maximum number of addresses that are tried.
const ADDRESSES_MAX: usize = 16;

/// Maximum time of a lookup, which `connect_timeout` replaces.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// The addresses of a host; `None` stands for a Unix socket.
type Addresses = Vec<Option<IpAddr>>;

/// Opens a session at the first address of the server that gives one. The error is that of the last address.
pub async fn open_first<'a, T: 'a>(
    config: &Config,
    open: impl FnMut(Config) -> LocalBoxFuture<'a, Result<T, String>>,
) -> Result<T, String> {
    open_first_of(config, open, |name| resolve(name).boxed_local()).await
}

async fn open_first_of<'a, 'n, T: 'a>(
    config: &'n Config,
    open: impl FnMut(Config) -> LocalBoxFuture<'a, Result<T, String>>,
    resolve: impl Fn(&'n str) -> LocalBoxFuture<'n, Result<Vec<IpAddr>, String>>,
) -> Result<T, String> {
    let is_random = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
    let mut hosts = hosts(config);
    if is_random {
        rotate(&mut hosts);
    }
    let (open, left) = (RefCell::new(open), Cell::new(ADDRESSES_MAX));
    let (refused, unresolved) = (RefCell::new(None), RefCell::new(None));
    let at_host = |(n, host): (usize, Option<&'n Host>)| {
        let (open, left, refused, unresolved, resolve) = (&open, &left, &refused, &unresolved, &resolve);
        async move {
            let mut addresses = match addresses(config, host, config.get_hostaddrs().get(n), resolve).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    unresolved.replace(Some(error));
                    return Err(());
                }
            };
            if is_random {
                rotate(&mut addresses);
            }
            let port = config.get_ports().get(n).or(config.get_ports().first()).copied();
            let attempts = addresses.into_iter().take_while(|_| {
                let is_left = left.get() > 0;
                left.set(left.get().saturating_sub(1));
                is_left
            });
            let attempts = attempts.map(|address| (open.borrow_mut())(at(config, host, address, port)));
            let opened = dns::staggered(&Clock::System, HEAD_START, attempts).await;
            opened.map_err(|error| {
                if error.is_some() {
                    refused.replace(error);
                }
            })
        }
    };
    let opened = dns::staggered(&Clock::System, HEAD_START, hosts.into_iter().map(at_host)).await;
    opened.map_err(|_| {
        let error = refused.take().or(unresolved.take());
        error.unwrap_or_else(|| "the server has no address".to_owned())
    })
}

/// Begins a list at a random element.
fn rotate<T>(list: &mut [T]) {
    if !list.is_empty() {
        list.rotate_left(getrandom::u32().unwrap_or_default() as usize % list.len());
    }
}

/// Returns the hosts with their numbers; `None` for one that is only known by its address.
fn hosts(config: &Config) -> Vec<(usize, Option<&Host>)> {
    let (hosts, addresses) = (config.get_hosts(), config.get_hostaddrs());
    (0..hosts.len().max(addresses.len())).map(|n| (n, hosts.get(n))).collect()
}

/// Returns the addresses of a host, which may be `given`.
async fn addresses<'n>(
    config: &Config,
    host: Option<&'n Host>,
    given: Option<&IpAddr>,
    resolve: impl Fn(&'n str) -> LocalBoxFuture<'n, Result<Vec<IpAddr>, String>>,
) -> Result<Addresses, String> {
    let name = match (host, given) {
        (Some(Host::Unix(_)), _) => return Ok(vec![None]),
        (_, Some(address)) => return Ok(vec![Some(*address)]),
        (Some(Host::Tcp(name)), None) => name,
        (None, None) => return Ok(Vec::new()),
    };
    if let Ok(address) = name.parse() {
        return Ok(vec![Some(address)]);
    }
    let limit = config.get_connect_timeout().copied().unwrap_or(LOOKUP_TIMEOUT);
    let resolved = Clock::System.timeout(limit, resolve(name)).await;
    let found = resolved.unwrap_or_else(|| {
        Err(format!("the host name `{name}` was not resolved within {} s (connect_timeout)", limit.as_secs()))
    });
    Ok(found?.into_iter().map(Some).collect())
}

async fn resolve(name: &str) -> Result<Vec<IpAddr>, String> {
    // A new resolver for each connection: its sockets belong to the runtime of the session, and connections are rare.
    let resolver = SystemResolver::new(SystemFiles::default(), Clock::System);
    match resolver.lookup(name, true).await {
        Ok(addresses) => Ok(addresses),
        // The C library may know it from another source, such as mDNS. It waits on a thread.
        Err(error) => match tokio::net::lookup_host((name, 0)).await {
            Ok(found) => Ok(found.map(|address| address.ip()).collect()),
            Err(_) => Err(match error {
                LookupError::NotFound => format!("the host name `{name}` does not resolve"),
                LookupError::Failed(_) | LookupError::Unavailable(_) => error.to_string(),
            }),
        },
    }
}

/// Returns the configuration for one address.
fn at(config: &Config, host: Option<&Host>, address: Option<IpAddr>, port: Option<u16>) -> Config {
    let mut one = without_hosts(config);
    match host {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        #[cfg(unix)]
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = address {
        one.hostaddr(address);
    }
    if let Some(port) = port {
        one.port(port);
    }
    one
}

/// Returns a copy without hosts, addresses and ports, which the library cannot remove.
fn without_hosts(config: &Config) -> Config {
    let mut copy = Config::new();
    if let Some(user) = config.get_user() {
        copy.user(user);
    }
    if let Some(password) = config.get_password() {
        copy.password(password);
    }
    if let Some(database) = config.get_dbname() {
        copy.dbname(database);
    }
    if let Some(options) = config.get_options() {
        copy.options(options);
    }
    if let Some(name) = config.get_application_name() {
        copy.application_name(name);
    }
    if let Some(timeout) = config.get_connect_timeout() {
        copy.connect_timeout(*timeout);
    }
    if let Some(timeout) = config.get_tcp_user_timeout() {
        copy.tcp_user_timeout(*timeout);
    }
    if let Some(interval) = config.get_keepalives_interval() {
        copy.keepalives_interval(interval);
    }
    if let Some(retries) = config.get_keepalives_retries() {
        copy.keepalives_retries(retries);
    }
    copy.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    copy
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[test]
    fn the_configuration_of_one_address_keeps_every_setting() {
        let parameters = "user=me password=hush dbname=d options=-cgeqo=off application_name=a sslmode=require \
            sslnegotiation=direct connect_timeout=7 tcp_user_timeout=9 keepalives=0 keepalives_idle=11 \
            keepalives_interval=12 keepalives_retries=3 target_session_attrs=read-write channel_binding=require \
            load_balance_hosts=random";
        let one: Config =
            format!("{parameters} host=db.example hostaddr=10.0.0.1 port=5433").parse().unwrap();
        let host = Host::Tcp("db.example".to_owned());
        let copy = at(&one, Some(&host), Some("10.0.0.1".parse().unwrap()), Some(5433));
        assert_eq!(format!("{copy:?}"), format!("{one:?}"));
        assert_eq!(copy.get_password(), one.get_password());
    }

    #[tokio::test]
    async fn a_silent_address_of_the_server_leaves_time_for_the_next() {
        let config: Config = "host=10.0.0.1,10.0.0.2,/run port=1,2,3 user=me".parse().unwrap();
        let mut tried = Vec::new();
        let opened = open_first(&config, |config| {
            tried.push((config.get_hostaddrs().to_vec(), config.get_ports().to_vec()));
            if config.get_ports() == [1] { pending().boxed_local() } else { ready(Ok(2)).boxed_local() }
        });
        assert_eq!(opened.await, Ok(2));
        let addresses: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()];
        // The third configuration may be made, but is not used.
        assert_eq!(tried[..2], [(vec![addresses[0]], vec![1]), (vec![addresses[1]], vec![2])]);
        let failing = open_first(&config, |config| {
            ready(Err::<(), _>(format!("{:?}", config.get_ports()))).boxed_local()
        });
        assert_eq!(failing.await, Err("[3]".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_not_resolved_does_not_block_the_next() {
        let config: Config =
            "host=silent.example,good.example port=1,2 user=me connect_timeout=3".parse().unwrap();
        let resolve = |silent: bool| {
            move |name: &str| match name {
                "silent.example" if silent => pending().boxed_local(),
                "silent.example" => ready(Err("no such name".to_owned())).boxed_local(),
                _ => ready(Ok(vec![IpAddr::from([10, 0, 0, 2])])).boxed_local(),
            }
        };
        let opened = |config: Config| ready(Ok(config.get_ports().to_vec())).boxed_local();
        assert_eq!(open_first_of(&config, opened, resolve(true)).await, Ok(vec![2]));
        assert_eq!(open_first_of(&config, opened, resolve(false)).await, Ok(vec![2]));
        // The error of a server that was reached says more.
        let refused = |_| ready(Err::<(), _>("refused".to_owned())).boxed_local();
        assert_eq!(open_first_of(&config, refused, resolve(true)).await, Err("refused".to_owned()));
        let alone: Config = "host=silent.example user=me connect_timeout=3".parse().unwrap();
        let error = open_first_of(&alone, refused, resolve(true)).await.unwrap_err();
        assert!(error.contains("`silent.example` was not resolved within 3 s"), "{error}");
    }
}
