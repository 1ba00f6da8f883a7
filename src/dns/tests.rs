//! Lookups at real name servers on loopback.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::*;
use crate::clock::ManualClock;
use crate::domain::Timestamp;
use crate::file_state::CHECK_INTERVAL;

const A: u16 = 1;
const NS: u16 = 2;
const AAAA: u16 = 28;

/// The reaction to a query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Address(IpAddr),
    /// An answer without records, with this code.
    Empty(u8),
    Silence,
}

const SERVFAIL: Reply = Reply::Empty(2);
const NO_NAME: Reply = Reply::Empty(3);
const REFUSED: Reply = Reply::Empty(5);

/// Starts a name server on `address`. `reply` gets the name and the type of a query. Returns its port.
pub(crate) async fn name_server(
    address: SocketAddr,
    reply: impl Fn(&str, u16) -> Reply + Send + 'static,
) -> u16 {
    let socket = UdpSocket::bind(address).await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut query = [0; 1_500];
        while let Ok((length, client)) = socket.recv_from(&mut query).await {
            let (name, kind, question) = parse(&query[..length]);
            let (code, record) = match reply(&name, kind) {
                Reply::Silence => continue,
                Reply::Empty(code) => (code, Vec::new()),
                Reply::Address(address) => (0, record(kind, address)),
            };
            let (answers, id) = (u8::from(!record.is_empty()), &query[..2]);
            // A recursive answer to one question.
            let head = [id, &[0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]].concat();
            socket.send_to(&[&head, question, &record].concat(), client).await.unwrap();
        }
    });
    port
}

/// Returns the name and the type of a query, and its question.
fn parse(query: &[u8]) -> (String, u16, &[u8]) {
    let (mut labels, mut at) = (Vec::new(), 12);
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8(query[at + 1..end].to_vec()).unwrap().to_lowercase());
        at = end;
    }
    (labels.join("."), u16::from_be_bytes([query[at + 1], query[at + 2]]), &query[12..at + 5])
}

/// Returns a record of the name in the question, valid for a minute.
fn record(kind: u16, address: IpAddr) -> Vec<u8> {
    let data = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let length = u8::try_from(data.len()).unwrap();
    [&[0xc0, 12, 0, u8::try_from(kind).unwrap(), 0, 1, 0, 0, 0, 60, 0, length], &data[..]].concat()
}

fn on_loopback(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), port).into()
}

/// Returns the files of a resolver with these texts, in a folder that is kept.
fn files(resolv_conf: &str, hosts: &str, port: u16) -> SystemFiles {
    let folder = tempfile::tempdir().unwrap().keep();
    let files = SystemFiles { resolv_conf: folder.join("resolv.conf"), hosts: folder.join("hosts"), port };
    std::fs::write(&files.resolv_conf, resolv_conf).unwrap();
    std::fs::write(&files.hosts, hosts).unwrap();
    files
}

/// Makes a resolver that asks the server at `port` of 127.0.0.1.
pub(crate) fn resolver_at(port: u16) -> SystemResolver {
    system_resolver(port, Clock::System)
}

/// Makes such a resolver with another clock.
pub(crate) fn system_resolver(port: u16, clock: Clock) -> SystemResolver {
    SystemResolver::new(files("nameserver 127.0.0.1\n", "", port), clock)
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

// systemd/systemd#22575, golang/go#43398
#[tokio::test]
async fn a_server_that_never_answers_aaaa_does_not_stop_a_lookup() {
    let found = Reply::Address(address("192.0.2.1"));
    let server = move |_: &str, kind| if kind == A { found } else { Reply::Silence };
    let resolver = resolver_at(name_server(on_loopback(1, 0), server).await);
    for name in ["hooks.example", "my_app"] {
        assert_eq!(resolver.lookup(name, false).await.unwrap(), [address("192.0.2.1")], "{name}");
    }
    // The same for the other family, and a server that reports a missing AAAA record as a missing name.
    let found = Reply::Address(address("2001:db8::1"));
    let server = move |_: &str, kind| if kind == AAAA { found } else { Reply::Silence };
    let resolver = resolver_at(name_server(on_loopback(1, 0), server).await);
    assert_eq!(resolver.lookup("hooks.example", false).await.unwrap(), [address("2001:db8::1")]);
    let found = Reply::Address(address("192.0.2.1"));
    let server = move |_: &str, kind| if kind == A { found } else { NO_NAME };
    let resolver = resolver_at(name_server(on_loopback(1, 0), server).await);
    assert_eq!(resolver.lookup("hooks.example", false).await.unwrap(), [address("192.0.2.1")]);
}

#[tokio::test]
async fn a_silent_or_failing_server_leaves_time_for_the_next() {
    let found = Reply::Address(address("192.0.2.1"));
    let good = move |_: &str, kind| if kind == A { found } else { Reply::Empty(0) };
    let port = name_server(on_loopback(1, 0), good).await;
    let others = [Reply::Silence, SERVFAIL, REFUSED];
    for (n, other) in (2..).zip(others) {
        name_server(on_loopback(n, port), move |_, _| other).await;
        let servers = format!("nameserver 127.0.0.{n}\nnameserver 127.0.0.1\noptions timeout:0\n");
        let resolver = SystemResolver::new(files(&servers, "", port), Clock::System);
        let found = resolver.lookup("hooks.example", false).await;
        assert_eq!(found.unwrap(), [address("192.0.2.1")], "{other:?}");
    }
    let servers = "nameserver 127.0.0.2\nnameserver 127.0.0.3\nnameserver 127.0.0.1\n";
    let resolver = SystemResolver::new(files(servers, "", port), Clock::System);
    assert_eq!(resolver.lookup("hooks.example", false).await.unwrap(), [address("192.0.2.1")]);
}

/// Starts a name server that truncates every answer over UDP, so that each query is repeated over TCP. There, each
/// connection answers this number of queries, and is silent then. Returns its port.
async fn truncating_server(each: usize) -> u16 {
    let (udp, tcp) = loop {
        let tcp = tokio::net::TcpListener::bind(on_loopback(1, 0)).await.unwrap();
        // The port may be taken for UDP.
        let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await else { continue };
        break (udp, tcp);
    };
    let port = udp.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut query = [0; 1_500];
        while let Ok((length, client)) = udp.recv_from(&mut query).await {
            let (_, _, question) = parse(&query[..length]);
            let head = [&query[..2], &[0x83, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
            udp.send_to(&[&head, question].concat(), client).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = tcp.accept().await {
            tokio::spawn(async move {
                let mut answered = 0;
                while let Ok(length) = stream.read_u16().await {
                    let mut query = vec![0; length.into()];
                    stream.read_exact(&mut query).await.unwrap();
                    answered += 1;
                    if answered > each {
                        continue;
                    }
                    let (_, kind, question) = parse(&query);
                    let record = if kind == A { record(kind, address("192.0.2.1")) } else { Vec::new() };
                    let answers = u8::from(!record.is_empty());
                    let head = [&query[..2], &[0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]].concat();
                    let answer = [&head, question, &record].concat();
                    stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn a_tcp_connection_that_goes_silent_is_replaced() {
    let port = truncating_server(2).await;
    for search in ["", "search a.example b.example c.example d.example\noptions ndots:5\n"] {
        let text = format!("nameserver 127.0.0.1\n{search}");
        let resolver = SystemResolver::new(files(&text, "", port), Clock::System);
        let find = async |name: &str| resolver.lookup(name, false).await.map_err(|error| error.to_string());
        assert_eq!(find("first.example").await, Ok(vec![address("192.0.2.1")]), "{search}");
        // The A and the AAAA query of the first name have used up the connection.
        assert_eq!(find("second.example").await, Ok(vec![address("192.0.2.1")]), "{search}");
    }
}

#[tokio::test]
async fn servers_are_asked_in_the_order_of_the_file() {
    let found = Reply::Address(address("192.0.2.1"));
    let port = name_server(on_loopback(1, 0), move |_, _| NO_NAME).await;
    let queries = Arc::new(AtomicUsize::new(0));
    let count = queries.clone();
    let second = move |_: &str, _| {
        count.fetch_add(1, Ordering::SeqCst);
        found
    };
    name_server(on_loopback(2, port), second).await;
    let servers = "nameserver 127.0.0.1\nnameserver 127.0.0.2\n";
    let resolver = SystemResolver::new(files(servers, "", port), Clock::System);
    let error = resolver.lookup("db.corp", true).await.unwrap_err();
    assert!(matches!(error, LookupError::NotFound), "{error}");
    assert_eq!(queries.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_name_in_the_hosts_file_is_not_asked_for() {
    let port = name_server(on_loopback(1, 0), |_, _| Reply::Silence).await;
    let files = files("nameserver 127.0.0.1\n", "# caf\u{e9}\n10.0.0.1 db\n", port);
    let resolver = SystemResolver::new(files, Clock::Manual(ManualClock::at(Timestamp::from_millis(0))));
    assert_eq!(resolver.lookup("DB.", true).await.unwrap(), [address("10.0.0.1")]);
}

// hickory-dns/hickory-dns#1132
#[tokio::test]
async fn the_files_are_read_again_when_they_change() {
    let found = Reply::Address(address("192.0.2.1"));
    let server = move |_: &str, kind| if kind == A { found } else { Reply::Empty(0) };
    let port = name_server(on_loopback(1, 0), server).await;
    let files = files("", "", port);
    std::fs::remove_file(&files.resolv_conf).unwrap();
    // After the year 2100, so that no file is fresh.
    let clock = ManualClock::at(Timestamp::from_millis(5_000_000_000_000));
    let resolver = SystemResolver::new(files.clone(), Clock::Manual(clock.clone()));
    let error = resolver.lookup("hooks.example", false).await.unwrap_err();
    assert!(matches!(error, LookupError::Unavailable(None)), "{error}");

    std::fs::write(&files.resolv_conf, "nameserver 127.0.0.1\n").unwrap();
    let error = resolver.lookup("hooks.example", false).await.unwrap_err();
    assert!(matches!(error, LookupError::Unavailable(None)), "the files are compared once a second: {error}");
    clock.advance(CHECK_INTERVAL);
    assert_eq!(resolver.lookup("hooks.example", false).await.unwrap(), [address("192.0.2.1")]);

    std::fs::write(&files.hosts, "10.0.0.1 hooks.example\n").unwrap();
    clock.advance(CHECK_INTERVAL);
    assert_eq!(resolver.lookup("hooks.example", false).await.unwrap(), [address("10.0.0.1")]);
    // Replaced by another file.
    std::fs::write(files.hosts.with_extension("new"), "10.0.0.2 hooks.example\n").unwrap();
    std::fs::rename(files.hosts.with_extension("new"), &files.hosts).unwrap();
    clock.advance(CHECK_INTERVAL);
    assert_eq!(resolver.lookup("hooks.example", false).await.unwrap(), [address("10.0.0.2")]);
}

#[tokio::test]
async fn a_failure_is_this_machines_fault_if_the_root_is_unknown_too() {
    let error = async |reply: fn(&str, u16) -> Reply| {
        let port = name_server(on_loopback(1, 0), reply).await;
        resolver_at(port).lookup("hooks.example", false).await.unwrap_err()
    };
    let broken_zone = error(|_, kind| if kind == NS { Reply::Empty(0) } else { SERVFAIL }).await;
    assert!(matches!(broken_zone, LookupError::Failed(_)), "{broken_zone}");
    let strict = error(|_, kind| if kind == NS { REFUSED } else { SERVFAIL }).await;
    assert!(matches!(strict, LookupError::Failed(_)), "{strict}");
    let without_upstream = error(|_, _| SERVFAIL).await;
    assert!(matches!(without_upstream, LookupError::Unavailable(Some(_))), "{without_upstream}");
    // Nothing listens.
    let unused = UdpSocket::bind(on_loopback(1, 0)).await.unwrap().local_addr().unwrap().port();
    let absent = resolver_at(unused).lookup("hooks.example", false).await.unwrap_err();
    assert!(matches!(absent, LookupError::Unavailable(Some(_))), "{absent}");
}

#[tokio::test]
async fn a_resolver_without_a_root_does_not_excuse_a_name() {
    let found = Reply::Address(address("192.0.2.1"));
    let not_implemented = Reply::Empty(4);
    for root in [REFUSED, SERVFAIL, not_implemented, NO_NAME, Reply::Silence] {
        let is_cut_off = Arc::new(AtomicBool::new(false));
        let cut_off = is_cut_off.clone();
        let server = move |name: &str, kind| match (kind, name) {
            (NS, _) => root,
            _ if cut_off.load(Ordering::SeqCst) => SERVFAIL,
            (A, "hooks.example") => found,
            (_, "hooks.example") => Reply::Empty(0),
            (_, "gone.example") => NO_NAME,
            (_, "refused.example") => REFUSED,
            _ => SERVFAIL,
        };
        let port = name_server(on_loopback(1, 0), server).await;
        let resolver = resolver_at(port);
        let error = async |name| resolver.lookup(name, false).await.unwrap_err();
        let missing = error("gone.example").await;
        assert!(matches!(missing, LookupError::NotFound), "{root:?}: {missing}");
        resolver.lookup("hooks.example", false).await.unwrap();
        for name in ["broken.example", "refused.example"] {
            let broken = error(name).await;
            assert!(matches!(broken, LookupError::Failed(_)), "{root:?}, {name}: {broken}");
        }
        // A server that answers about the root works, whatever else it lacks.
        if matches!(root, Reply::Empty(3)) {
            continue;
        }
        // The answer about `hooks.example` is in the cache of this resolver.
        let resolver = resolver_at(port);
        resolver.lookup("hooks.example", false).await.unwrap();
        is_cut_off.store(true, Ordering::SeqCst);
        let cut_off = resolver.lookup("broken.example", false).await.unwrap_err();
        assert!(matches!(cut_off, LookupError::Unavailable(Some(_))), "{root:?}: {cut_off}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_every_query_is_no_fault_of_a_name() {
    let port = name_server(on_loopback(1, 0), |_, _| REFUSED).await;
    let refused = resolver_at(port).lookup("hooks.example", false).await.unwrap_err();
    assert!(matches!(refused, LookupError::Unavailable(Some(_))), "{refused}");
}

#[tokio::test]
async fn a_lookup_that_began_before_the_servers_recovered_blames_no_name() {
    let is_back = Arc::new(AtomicBool::new(false));
    let back = is_back.clone();
    let server = move |_: &str, kind| match kind {
        NS if back.load(Ordering::SeqCst) => Reply::Empty(0),
        _ => SERVFAIL,
    };
    let port = name_server(on_loopback(1, 0), server).await;
    let clock = ManualClock::at(Timestamp::from_millis(0));
    let files = files("nameserver 127.0.0.1\n", "", port);
    let resolver = SystemResolver::new(files, Clock::Manual(clock.clone()));
    let failed = async || resolver.lookup("broken.example", false).await.unwrap_err();
    assert!(matches!(failed().await, LookupError::Unavailable(Some(_))));
    clock.advance(STATE_VALID_FOR);
    is_back.store(true, Ordering::SeqCst);
    let during = failed().await;
    assert!(matches!(during, LookupError::Unavailable(Some(_))), "the servers recovered meanwhile: {during}");
    clock.advance(Duration::from_millis(10));
    assert!(matches!(failed().await, LookupError::Failed(_)), "now the name is at fault");
}

#[tokio::test]
async fn a_lookup_at_silent_servers_ends_before_the_time_to_connect() {
    let port = name_server(on_loopback(1, 0), |_, _| Reply::Silence).await;
    let clock = ManualClock::at(Timestamp::from_millis(0));
    let files = files("nameserver 127.0.0.1\nsearch a.example b.example\n", "", port);
    let resolver = SystemResolver::new(files, Clock::Manual(clock.clone()));
    let watch = Clock::Manual(clock.clone()).stopwatch();
    let mut lookup = pin!(resolver.lookup("db", true));
    let error = loop {
        tokio::select! {
            biased;
            result = &mut lookup => break result.unwrap_err(),
            () = tokio::task::yield_now() => clock.advance(Duration::from_millis(10)),
        }
    };
    assert!(matches!(error, LookupError::Unavailable(Some(_))), "{error}");
    assert!(
        watch.elapsed() <= LOOKUP_TIMEOUT + STATE_TIMEOUT + Duration::from_millis(50),
        "{:?}",
        watch.elapsed()
    );
}
