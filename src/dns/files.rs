//! The hosts file and the configuration of the resolver, read line by line. A line that cannot be parsed does not
//! affect the others, and bytes that are not UTF-8 are replaced: they are most often in a comment.

use std::collections::HashMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::Name;
use resolv_conf::ScopedIp;

use crate::domain::Timestamp;
use crate::file_state::FileState;

/// Maximum time for which a negative answer of DNS is cached: users register before they deploy.
const NEGATIVE_TTL_MAX: Duration = Duration::from_secs(60);

/// Maximum number of name servers, as in the C library.
const SERVERS_MAX: usize = 3;

/// The range of a query's timeout. The C library reads `timeout:0` as one second. Two queries fit into
/// [`super::LOOKUP_TIMEOUT`]: the library gives a TCP connection up only when a query on it has timed out, and the second
/// one is then sent on a new connection.
const QUERY_TIMEOUT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(1_400));

/// The range of the number of times that a query is sent.
const QUERY_ATTEMPTS: (u32, u32) = (2, 5);

/// What to do about a name server with a link-local address.
const LINK_LOCAL_REMEDY: &str = "a link-local address needs an interface, which is not supported: name a server with \
                                 another address, such as the local resolver 127.0.0.53 or the router's IPv4 address";

/// The files that configure name resolution.
#[derive(Clone, Debug)]
pub struct SystemFiles {
    /// The name servers and the search list.
    pub resolv_conf: PathBuf,
    /// Names with fixed addresses.
    pub hosts: PathBuf,
    /// The port of the name servers.
    pub port: u16,
}

impl Default for SystemFiles {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into(), port: 53 }
    }
}

impl SystemFiles {
    pub(super) fn state(&self, now: Timestamp) -> FileState {
        FileState::of([&self.resolv_conf, &self.hosts], now)
    }
}

/// What the two files say.
pub(super) struct Configuration {
    /// The addresses of names in lower case.
    pub(super) hosts: HashMap<Box<str>, Vec<IpAddr>>,
    /// One resolver for each name server, in the order of the file.
    pub(super) servers: Vec<TokioResolver>,
    search: Vec<Name>,
    /// Number of dots from which a name is first tried as it is.
    ndots: usize,
    /// The name servers that are not used, because their address is link-local.
    link_local: Vec<String>,
}

impl Configuration {
    pub(super) fn read(files: &SystemFiles) -> Self {
        let text = |path: &Path| match fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) => {
                tracing::debug!(%error, path = %path.display(), "a file of the resolver cannot be read");
                String::new()
            }
        };
        let (parsed, errors) = resolv_conf::Config::parse_with_errors(text(&files.resolv_conf).as_bytes());
        for error in errors {
            tracing::debug!(%error, "a line of resolv.conf is not valid and is not used");
        }
        let mut search: Vec<String> = parsed.get_last_search_or_domain().cloned().collect();
        if search.is_empty() {
            search.extend(parsed.get_system_domain());
        }
        let (link_local, usable): (Vec<&ScopedIp>, Vec<_>) =
            parsed.nameservers.iter().partition(|address| is_link_local(address));
        let link_local: Vec<String> = link_local.iter().map(ToString::to_string).collect();
        warn_of_link_local(&link_local, &files.resolv_conf);
        let servers = usable.into_iter().take(SERVERS_MAX);
        Self {
            hosts: hosts(&text(&files.hosts)),
            servers: servers.filter_map(|address| server(address.into(), files.port, &parsed)).collect(),
            link_local,
            search: search.iter().filter_map(|domain| absolute(domain)).collect(),
            ndots: parsed.ndots as usize,
        }
    }

    /// Returns why there is no server; `None` if none is named.
    pub(super) fn why_no_servers(&self) -> Option<NetError> {
        let servers = Some(self.link_local.join(", ")).filter(|servers| !servers.is_empty())?;
        Some(NetError::Msg(format!("/etc/resolv.conf names only {servers}; {LINK_LOCAL_REMEDY}")))
    }

    /// Returns the absolute names to ask for, in their order. Empty if the text is not a name.
    pub(super) fn names(&self, name: &str, search: bool) -> Vec<Name> {
        let Some(as_it_is) = absolute(name) else { return Vec::new() };
        if !search || name.ends_with('.') {
            return vec![as_it_is];
        }
        let mut relative = as_it_is.clone();
        relative.set_fqdn(false);
        let completed = self.search.iter().filter_map(|domain| relative.clone().append_domain(domain).ok());
        let mut names: Vec<Name> = completed.collect();
        let position = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(position, as_it_is);
        names
    }
}

/// Returns whether the address has a meaning only together with a network interface, which the library does not take.
fn is_link_local(address: &ScopedIp) -> bool {
    matches!(address, ScopedIp::V6(address, _) if address.is_unicast_link_local())
}

/// Warns of servers that are not used, once as long as they are the same: every connection to PostgreSQL reads the file.
fn warn_of_link_local(servers: &[String], file: &Path) {
    static WARNED: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut warned = WARNED.lock().unwrap_or_else(PoisonError::into_inner);
    if *warned != servers {
        for server in servers {
            let file = file.display();
            tracing::warn!("{file}: `nameserver {server}` is not used; {LINK_LOCAL_REMEDY}");
        }
        servers.clone_into(&mut warned);
    }
}

/// Parses a name, also one with underscores.
fn absolute(text: &str) -> Option<Name> {
    let mut name = Name::from_str_relaxed(text).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn hosts(text: &str) -> HashMap<Box<str>, Vec<IpAddr>> {
    let mut hosts: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
    for line in text.trim_start_matches('\u{feff}').lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let name = name.strip_suffix('.').unwrap_or(name).to_lowercase();
            let known = hosts.entry(name.into()).or_default();
            if !known.contains(&address) {
                known.push(address);
            }
        }
    }
    // As in an answer of DNS.
    for addresses in hosts.values_mut() {
        addresses.sort_by_key(IpAddr::is_ipv6);
    }
    hosts
}

fn server(address: IpAddr, port: u16, parsed: &resolv_conf::Config) -> Option<TokioResolver> {
    let mut server =
        if parsed.use_vc { NameServerConfig::tcp(address) } else { NameServerConfig::udp_and_tcp(address) };
    server.connections.iter_mut().for_each(|connection| connection.port = port);
    let mut options = ResolverOpts::default();
    options.timeout = Duration::from_secs(parsed.timeout.into()).clamp(QUERY_TIMEOUT.0, QUERY_TIMEOUT.1);
    // The library counts those after the first.
    options.attempts = parsed.attempts.clamp(QUERY_ATTEMPTS.0, QUERY_ATTEMPTS.1) as usize - 1;
    options.edns0 = parsed.edns0;
    options.use_hosts_file = ResolveHosts::Never;
    options.negative_max_ttl = Some(NEGATIVE_TTL_MAX);
    let configuration = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
    let resolver = TokioResolver::builder_with_config(configuration, TokioRuntimeProvider::default())
        .with_options(options)
        .build();
    resolver.inspect_err(|error| tracing::debug!(%error, %address, "a name server cannot be used")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(resolv_conf: &[u8], hosts: &[u8]) -> Configuration {
        let folder = tempfile::tempdir().unwrap();
        let files = SystemFiles {
            resolv_conf: folder.path().join("resolv.conf"),
            hosts: folder.path().join("hosts"),
            port: 53,
        };
        fs::write(&files.resolv_conf, resolv_conf).unwrap();
        fs::write(&files.hosts, hosts).unwrap();
        Configuration::read(&files)
    }

    #[test]
    fn bytes_in_a_comment_of_the_hosts_file_drop_no_host() {
        let text = b"\xef\xbb\xbf127.0.0.1 localhost\n# caf\xe9\n10.0.0.1 DB.corp db my_app # \xff\n\
            nonsense here\n::1 db\n10.0.0.2\tdb\r\n10.0.0.2 db\n";
        let hosts = configuration(b"", text).hosts;
        let of = |name: &str| hosts[name].iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(of("db.corp"), ["10.0.0.1"]);
        assert_eq!(of("db"), ["10.0.0.1", "10.0.0.2", "::1"]);
        assert_eq!(
            (of("my_app"), of("localhost")),
            (vec!["10.0.0.1".to_owned()], vec!["127.0.0.1".to_owned()])
        );
        assert_eq!(hosts.len(), 4);
    }

    #[test]
    fn one_wrong_line_of_resolv_conf_leaves_the_others_valid() {
        let text =
            b"nameserver 127.0.0.1 \xff\nnameserver nonsense\nnameserver ::1\nsearch -- a..b corp.example\n";
        let configuration = configuration(text, b"");
        assert_eq!(configuration.servers.len(), 2);
        let names = configuration.names("db", true);
        assert!(names.contains(&absolute("db.corp.example").unwrap()), "{names:?}");
    }

    // hickory-dns: a name server has an address without an interface.
    #[test]
    fn a_link_local_name_server_leaves_the_others_in_use() {
        let text =
            b"nameserver fe80::1%eth0\nnameserver fe80::2\nnameserver fe80::3%1\nnameserver 127.0.0.1\n";
        let mixed = configuration(text, b"");
        assert_eq!((mixed.servers.len(), mixed.link_local.len()), (1, 3));
        let alone = configuration(b"nameserver fe80::1%eth0\n", b"");
        assert!(alone.servers.is_empty());
        let why = alone.why_no_servers().unwrap().to_string();
        assert!(why.contains("fe80::1%eth0") && why.contains("name a server with another address"), "{why}");
        assert!(configuration(b"", b"").why_no_servers().is_none());
    }

    #[test]
    fn two_queries_fit_into_a_lookup() {
        let options = |line: &str| {
            let configuration = configuration(format!("nameserver 127.0.0.1\n{line}\n").as_bytes(), b"");
            let options = configuration.servers[0].options();
            (options.timeout.as_millis(), options.attempts)
        };
        assert_eq!(options("options timeout:0 attempts:0"), (1_000, 1));
        assert_eq!(options("options timeout:2 attempts:3"), (1_400, 2));
        assert_eq!(options("options timeout:30 attempts:99"), (1_400, 4));
    }

    #[test]
    fn only_an_operators_name_is_completed_from_the_search_list() {
        let configuration = configuration(b"search a.example b.example\noptions ndots:2\n", b"");
        let names = |name: &str, search| {
            configuration.names(name, search).iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(names("db", true), ["db.a.example.", "db.b.example.", "db."]);
        assert_eq!(names("a.b", true), ["a.b.a.example.", "a.b.b.example.", "a.b."]);
        assert_eq!(names("a.b.c", true), ["a.b.c.", "a.b.c.a.example.", "a.b.c.b.example."]);
        assert_eq!(
            (names("db.", true), names("my_app", false)),
            (vec!["db.".into()], vec!["my_app.".into()])
        );
        assert!(names("a..b", true).is_empty());
    }
}
