//! The addresses of names, and connections to them. The service has three users of this module: the outbound client
//! (`egress`), mail (through `egress`) and the connection to PostgreSQL.
//!
//! # Why the program orders the queries itself
//!
//! `hickory-resolver` 0.26 sends and parses the queries, retransmits them, follows aliases and caches answers. It does
//! not have the following rules, so this module does:
//!
//! - **An address family that does not answer costs [`answer::RESOLUTION_DELAY`].** `lookup_ip` of the library waits
//!   for the answers of both families, so a server that drops AAAA queries stops every connection. Here a lookup
//!   returns the first addresses and whatever the other family yields within 50 ms (RFC 8305, section 3). An address
//!   that arrives later is not used. The guard of `egress` judges the addresses that a lookup returns, and only those
//!   are connected to, so a late answer can circumvent nothing.
//! - **Negative answers end a lookup only if they can.** "No such name" for AAAA does not: some servers give it for
//!   names that have an A record (RFC 4074, section 4.2).
//! - **Name servers share the time.** They are asked in the order of the file, as the C library does. The next one is
//!   asked when the one before fails, or has been silent for [`HEAD_START`]. The first answer counts. A server that
//!   fails (`SERVFAIL`, `REFUSED`) or is silent decides nothing, as long as another one answers. The names of the
//!   search list share the time as well.
//! - **A name in the hosts file is not asked for.** The library asks DNS for the address family that the file lacks.
//!
//! # Configuration that changes
//!
//! `/etc/resolv.conf` and `/etc/hosts` change while the process runs: the network comes up after the service, a laptop
//! or a virtual machine moves to another network, an operator adds a host. A lookup compares the state of both files
//! (inode, size, times) with the one that was read, at most once a second, and reads them again if it differs. This
//! costs two system calls and a short thread a second, and does not need `inotify`, which does not see a change on the
//! other side of a bind mount. A lookup waits for the comparison for at most [`FILES_PATIENCE`], because a file can be
//! on a network mount that hangs (`file_state`). A file that cannot be parsed completely is used line by line.
//!
//! # Whose fault is a failed lookup
//!
//! A lookup that ends without an answer can be the fault of the name (its zone has no working servers) or of this
//! machine (no network yet, no name server, a resolver without its upstream). The first counts as a failed attempt;
//! the second must not, or a start before the network would use up the schedules of all deliveries. The two look the
//! same: silence, or `SERVFAIL`. So the servers are then asked two things at the same time:
//!
//! - **The root** (`. NS`), which a working resolver knows. An answer, also that there is none, shows that the servers
//!   work.
//! - **The reference**: the last other name that had addresses. Some resolvers refuse `. NS` or drop it, because it is
//!   used for attacks by amplification, and a resolver of a private network has no root. If the reference has addresses
//!   now, the servers work.
//!
//! If one of the two shows that the servers work, the fault is the name's. Else it is this machine's
//! ([`LookupError::Unavailable`]), with one exception: if there is no reference, and a server refuses `. NS` (with any
//! code but `SERVFAIL`, which a resolver without its upstream sends), the server is reachable, and only the root is
//! refused. The fault is then the name's, unless the server refuses the name as well: then it refuses this machine.
//!
//! The result is valid for a second, so that many failed lookups ask once. The zone of a name has no influence on the
//! answer about the root, and a name is never its own reference. "No such name" is an answer, so it needs none of this:
//! the fault is the name's.

mod answer;
mod dial;
mod files;
#[cfg(test)]
pub(crate) mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hickory_resolver::TokioResolver;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RecordType};

use crate::clock::{Clock, Stopwatch};
use crate::file_state::{FileValue, Source};
use answer::{Answer, of_both_families};
use files::Configuration;

pub use dial::{dial, staggered};
pub use files::SystemFiles;
pub use hickory_resolver::net::NetError as NetworkError;

/// Maximum time of a lookup. It is shorter than the time for a connection, so that a lookup at a slow server leaves
/// time to connect, and a failed one leaves time for [`STATE_TIMEOUT`].
pub const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum time of the queries for the root and the reference.
const STATE_TIMEOUT: Duration = Duration::from_millis(800);

/// Time for which the result of these queries is valid.
const STATE_VALID_FOR: Duration = Duration::from_secs(1);

/// Time that a name server has before the next one is asked as well.
const HEAD_START: Duration = Duration::from_millis(250);

/// Maximum time for which a lookup waits for a comparison of the files.
const FILES_PATIENCE: Duration = Duration::from_millis(100);

/// Reason why a lookup has no addresses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist, or has no address.
    #[error("the host name does not resolve")]
    NotFound,
    /// No name server could answer for this name, although they answer others.
    #[error("no name server could resolve the host name: {0}")]
    Failed(NetError),
    /// The name servers of this machine do not answer at all; `None` if there are none.
    #[error("{}", unavailable(.0.as_ref()))]
    Unavailable(Option<NetError>),
}

fn unavailable(error: Option<&NetError>) -> String {
    match error {
        None => "this machine has no name servers; /etc/resolv.conf names none".to_owned(),
        Some(error) => format!("the name servers of this machine do not answer: {error}"),
    }
}

/// The resolver of the system: the hosts file and the configured name servers.
///
/// Its connections belong to the runtime of the first lookup, so each runtime needs a resolver of its own.
pub struct SystemResolver {
    clock: Clock,
    configuration: FileValue<Configuration>,
    /// The last name that had addresses.
    reference: Mutex<Option<Name>>,
    servers: tokio::sync::Mutex<KnownServers>,
}

/// What is known about the name servers.
#[derive(Default)]
struct KnownServers {
    /// Their state, and when they were asked for it.
    servers: Option<(Stopwatch, ServerState)>,
    /// When they resolved names again after they had resolved nothing. A lookup that began before failed because of
    /// them.
    recovered: Option<Stopwatch>,
}

/// State of the name servers after a failed lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServerState {
    /// They resolve names.
    Works,
    /// They refuse the query for the root, and there is no reference.
    RefusesRoot,
    /// They resolve nothing.
    Fails,
}

impl SystemResolver {
    /// Reads the files.
    pub fn new(files: SystemFiles, clock: Clock) -> Self {
        let (read, configuration) = (files.state(clock.now()), Configuration::read(&files));
        let state = {
            let (files, clock) = (files.clone(), clock.clone());
            move || files.state(clock.now())
        };
        let read_again = move || {
            let configuration = Configuration::read(&files);
            let servers = configuration.servers.len();
            tracing::debug!(servers, "the configuration of name resolution was read again");
            Some(configuration)
        };
        let source = Source { state: Box::new(state), read: Box::new(read_again) };
        let configuration = FileValue::new(configuration, read, source, clock.clone());
        Self { clock, configuration, reference: Mutex::default(), servers: tokio::sync::Mutex::default() }
    }

    /// Returns whether `/etc/resolv.conf` named a server when it was last read.
    pub fn has_servers(&self) -> bool {
        !self.configuration.get().servers.is_empty()
    }

    /// Returns the addresses of `name`, IPv4 first. With `search`, a name without a final dot is completed from the
    /// search list.
    pub async fn lookup(&self, name: &str, search: bool) -> Result<Vec<IpAddr>, LookupError> {
        let configuration = self.configuration().await;
        let key = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        if let Some(known) = configuration.hosts.get(key.as_str()) {
            return Ok(known.clone());
        }
        // RFC 6761
        if key == "localhost" || key.ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        if configuration.servers.is_empty() {
            return Err(LookupError::Unavailable(configuration.why_no_servers()));
        }
        let names = configuration.names(name, search);
        let started = self.clock.stopwatch();
        match self.first_of_names(&configuration, &names).await {
            Answer::Addresses(addresses) => Ok(addresses),
            Answer::NoName | Answer::NoAddress => Err(LookupError::NotFound),
            Answer::Failed(error) => {
                Err(match self.state_of_servers(&configuration, &names, &started).await {
                    ServerState::Works => LookupError::Failed(error),
                    ServerState::RefusesRoot if !is_refusal(&error) => LookupError::Failed(error),
                    ServerState::RefusesRoot | ServerState::Fails => LookupError::Unavailable(Some(error)),
                })
            }
        }
    }

    /// Returns the configuration, read again if a file has changed.
    async fn configuration(&self) -> Arc<Configuration> {
        self.configuration.check();
        self.clock.timeout(FILES_PATIENCE, self.configuration.settled()).await;
        self.configuration.get()
    }

    /// Asks for each name of the search list until one has addresses. Each gets an equal part of the time that is left.
    async fn first_of_names(&self, configuration: &Configuration, names: &[Name]) -> Answer {
        let watch = self.clock.stopwatch();
        let mut result = Answer::NoName;
        for (left, name) in (1..=u32::try_from(names.len()).unwrap_or(u32::MAX)).rev().zip(names) {
            let part = LOOKUP_TIMEOUT.saturating_sub(watch.elapsed()) / left;
            let answer = self.clock.timeout(part, self.first_of_servers(configuration, name)).await;
            match answer.unwrap_or(Answer::Failed(NetError::Timeout)) {
                found @ Answer::Addresses(_) => {
                    self.set_reference(name);
                    return found;
                }
                // A failure says more than that the other names do not exist.
                failed @ Answer::Failed(_) => result = failed,
                Answer::NoName | Answer::NoAddress => {}
            }
        }
        result
    }

    async fn first_of_servers(&self, configuration: &Configuration, name: &Name) -> Answer {
        let ask = |server: &TokioResolver| {
            let (server, name, clock) = (server.clone(), name.clone(), self.clock.clone());
            async move {
                let v4 = answer_of(&server, name.clone(), RecordType::A);
                let v6 = answer_of(&server, name, RecordType::AAAA);
                match of_both_families(&clock, v4, v6).await {
                    Answer::Failed(error) => Err(error),
                    answer @ (Answer::Addresses(_) | Answer::NoAddress | Answer::NoName) => Ok(answer),
                }
            }
            .boxed()
        };
        let answer = staggered(&self.clock, HEAD_START, configuration.servers.iter().map(ask)).await;
        answer.unwrap_or_else(|error| Answer::Failed(error.unwrap_or(NetError::NoConnections)))
    }

    /// Makes `name` the reference.
    fn set_reference(&self, name: &Name) {
        let mut reference = self.reference.lock().unwrap_or_else(PoisonError::into_inner);
        if reference.as_ref() != Some(name) {
            *reference = Some(name.clone());
        }
    }

    /// Asks the servers for the root and for the reference, after the lookup of `names` has failed.
    async fn state_of_servers(
        &self,
        configuration: &Configuration,
        names: &[Name],
        started: &Stopwatch,
    ) -> ServerState {
        let mut known = self.servers.lock().await;
        let outdated = known.servers.as_ref().is_none_or(|(at, _)| at.elapsed() >= STATE_VALID_FOR);
        if outdated {
            self.update(&mut known, configuration, names).await;
        }
        let recovered_since = known.recovered.as_ref().is_some_and(|at| at.elapsed() <= started.elapsed());
        match &known.servers {
            // The lookup was made, at least in part, while they resolved nothing.
            Some(_) if recovered_since => ServerState::Fails,
            Some((_, state)) => *state,
            None => ServerState::Fails,
        }
    }

    /// Asks the servers for their state.
    async fn update(&self, known: &mut KnownServers, configuration: &Configuration, names: &[Name]) {
        let reference = self.reference.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reference = reference.filter(|reference| !names.contains(reference));
        let queries = configuration.servers.iter().flat_map(|server| {
            let root = knows_root(server.clone()).boxed();
            let other =
                reference.clone().map(|reference| resolves(&self.clock, server.clone(), reference).boxed());
            [Some(root), other].into_iter().flatten()
        });
        let at = self.clock.stopwatch();
        let mut queries = queries.collect::<FuturesUnordered<_>>();
        let mut found = ServerState::Fails;
        let answers = async {
            while let Some(answer) = queries.next().await {
                match answer {
                    ServerState::Works => return found = ServerState::Works,
                    ServerState::RefusesRoot if reference.is_none() => found = ServerState::RefusesRoot,
                    ServerState::RefusesRoot | ServerState::Fails => {}
                }
            }
        };
        let _ = self.clock.timeout(STATE_TIMEOUT, answers).await;
        let before =
            known.servers.replace((at, found)).is_none_or(|(_, before)| before != ServerState::Fails);
        match (before, found != ServerState::Fails) {
            (true, false) => tracing::warn!("the name servers of this machine do not answer"),
            (false, true) => {
                known.recovered = Some(self.clock.stopwatch());
                tracing::info!("the name servers of this machine answer again");
            }
            _ => {}
        }
    }
}

/// Asks one server for the root.
async fn knows_root(server: TokioResolver) -> ServerState {
    server.clear_lookup_cache(Name::root(), RecordType::NS);
    match server.lookup(Name::root(), RecordType::NS).await {
        Ok(_) => ServerState::Works,
        Err(NetError::Dns(error)) => match code(&error) {
            Some(ResponseCode::NoError | ResponseCode::NXDomain) => ServerState::Works,
            Some(ResponseCode::ServFail) | None => ServerState::Fails,
            Some(_) => ServerState::RefusesRoot,
        },
        Err(_) => ServerState::Fails,
    }
}

/// Asks one server for the addresses of a name that had some.
async fn resolves(clock: &Clock, server: TokioResolver, name: Name) -> ServerState {
    for family in [RecordType::A, RecordType::AAAA] {
        server.clear_lookup_cache(name.clone(), family);
    }
    let v4 = answer_of(&server, name.clone(), RecordType::A);
    let v6 = answer_of(&server, name, RecordType::AAAA);
    match of_both_families(clock, v4, v6).await {
        Answer::Addresses(_) => ServerState::Works,
        Answer::NoAddress | Answer::NoName | Answer::Failed(_) => ServerState::Fails,
    }
}

/// Asks one server for the addresses of one family. A query that the caller does not wait for any longer goes on for a
/// few seconds: if it times out, the library discards a TCP connection that has gone silent, which a dropped query
/// would leave for the next one; and a late answer is in the cache of the next lookup.
async fn answer_of(server: &TokioResolver, name: Name, family: RecordType) -> Answer {
    let server = server.clone();
    let query = tokio::spawn(async move { server.lookup(name, family).await });
    match query.await.unwrap_or(Err(NetError::Timeout)) {
        Ok(found) => {
            let addresses: Vec<_> =
                found.answers().iter().filter_map(|record| record.data.ip_addr()).collect();
            if addresses.is_empty() { Answer::NoAddress } else { Answer::Addresses(addresses) }
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none)))
            if none.response_code == ResponseCode::NXDomain =>
        {
            Answer::NoName
        }
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) if none.response_code == ResponseCode::NoError => {
            Answer::NoAddress
        }
        Err(error) => Answer::Failed(error),
    }
}

/// Returns the code of an answer without records.
const fn code(error: &DnsError) -> Option<ResponseCode> {
    match error {
        DnsError::NoRecordsFound(none) => Some(none.response_code),
        DnsError::ResponseCode(code) => Some(*code),
        DnsError::DnssecBogus | _ => None,
    }
}

/// Returns whether a server refused to answer.
fn is_refusal(error: &NetError) -> bool {
    matches!(error, NetError::Dns(error) if code(error) == Some(ResponseCode::Refused))
}
