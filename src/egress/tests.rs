//! Tests of the guard and the client against receivers on loopback. No test waits; each moves a manual clock.

mod bounds;
mod bypasses;
mod manners;
mod registry;
mod spellings;

use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt as _;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::clock::ManualClock;
use crate::dns::tests::{Reply, name_server, resolver_at, system_resolver};
use crate::domain::{AddressError, Timestamp};

const APP: AppNo = AppNo(1);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 216, 34));
const LIMIT: Duration = Duration::from_secs(20);
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A resolver that resolves every name to loopback.
fn here() -> Resolver {
    Resolver::fixed(|_| Ok(vec![LOOPBACK]))
}

fn egress(allow: &[&str], resolver: Resolver) -> (Arc<Egress>, ManualClock) {
    let clock = ManualClock::at(Timestamp::from_millis(1_000_000));
    let allow = allow.iter().map(|text| Allowed::parse(text).unwrap()).collect();
    let settings = Settings { allow, allow_http: false, ..Settings::default() };
    (Egress::new(settings, resolver, Clock::Manual(clock.clone()), Vec::new()).unwrap(), clock)
}

fn post(egress: &Egress, url: &str) -> Post<Target> {
    Post {
        url: egress.parse(url).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{}"),
        timeout: LIMIT,
        max_answer: 16 * 1024,
    }
}

fn fetch(port: u16) -> Fetch {
    let url = format!("http://127.0.0.1:{port}/").parse().unwrap();
    Fetch::new(url, &[], LIMIT, 1 << 20)
}

/// Returns a poll of an address that a client has chosen.
fn guarded_poll(url: &str) -> Fetch {
    Fetch { is_guarded: true, ..Fetch::new(url.parse().unwrap(), &[], LIMIT, 1 << 20) }
}

/// Starts a server on loopback that passes the connection of every request to `answer`.
async fn server<F, A>(answer: F) -> u16
where
    F: Fn(TcpStream) -> A + Send + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_request(&mut stream).await;
            tokio::spawn(answer(stream));
        }
    });
    port
}

async fn responding(answer: impl AsRef<[u8]> + Clone + Send + Sync + 'static) -> u16 {
    server(move |mut stream| {
        let answer = answer.clone();
        async move { stream.write_all(answer.as_ref()).await.unwrap() }
    })
    .await
}

/// Reads a request with the body `{}`, or without a body.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") && !request.ends_with(b"{}") {
        if stream.read_buf(&mut request).await.unwrap() == 0 {
            break;
        }
    }
    String::from_utf8(request).unwrap()
}

/// Makes a listener that must get no connection.
fn unused_listener() -> (std::net::TcpListener, u16) {
    let listener = std::net::TcpListener::bind((LOOPBACK, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn assert_unused(listener: &std::net::TcpListener) {
    assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock, "there was a connection");
}

/// Advances the clock until `work` is done.
async fn advance_until<T>(clock: &ManualClock, work: impl Future<Output = T>) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = tokio::task::yield_now() => clock.advance(Duration::from_millis(100)),
        }
    }
}

#[tokio::test]
async fn an_exchange_sends_the_request_and_returns_the_response() {
    let (sender, request) = oneshot::channel();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        sender.send(read_request(&mut stream).await).unwrap();
        stream.write_all(b"HTTP/1.1 418 Tea\r\nX-Pot: 1\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    });
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let mut message = post(&egress, &format!("http://127.0.0.1:{port}/hook?a=b"));
    message.headers.insert("x-own", "1".parse().unwrap());
    let received = egress.send(message).await.unwrap();
    assert_eq!((received.status, &received.body[..], received.truncated), (418, &b"no"[..], false));
    assert_eq!(received.header("x-pot"), Some("1"));
    let request = request.await.unwrap();
    assert!(request.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("x-own: 1\r\n") && request.ends_with("\r\n\r\n{}"), "{request}");
    assert!(!request.contains("accept-encoding"), "{request}");
}

// vectorize-io/hindsight#2538, wavelog/wavelog#3197
#[tokio::test]
async fn every_request_has_a_user_agent_which_its_headers_may_name() {
    let (sender, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            sender.send(read_request(&mut stream).await).unwrap();
            stream.write_all(OK.as_bytes()).await.unwrap();
        }
    });
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let mut sent = async || requests.recv().await.unwrap().to_lowercase();
    let ours = format!("user-agent: {}\r\n", USER_AGENT.to_lowercase());
    egress.fetch(fetch(port)).await.unwrap();
    assert!(sent().await.contains(&ours));
    let url = format!("http://my_app:{port}/");
    egress.send(post(&egress, &url)).await.unwrap();
    assert!(sent().await.contains(&ours));
    let mut own = fetch(port);
    own.headers.insert("user-agent", "definition/1".parse().unwrap());
    egress.fetch(own).await.unwrap();
    let request = sent().await;
    assert!(request.contains("user-agent: definition/1\r\n") && !request.contains(&ours), "{request}");
}

#[tokio::test]
async fn an_address_in_a_url_is_checked_at_each_send() {
    let (listener, port) = unused_listener();
    let (lenient, _) = egress(&["127.0.0.0/8"], here());
    let (strict, _) = egress(&[], Resolver::fixed(|_| panic!("an address was resolved")));
    for host in ["127.0.0.1", "127.1", "0x7f000001"] {
        let error = strict.send(post(&lenient, &format!("https://{host}:{port}/"))).await.unwrap_err();
        assert!(matches!(error, SendError::Refused(_)), "{host}: {error}");
    }
    assert_unused(&listener);
}

#[tokio::test]
async fn plain_http_to_a_name_requires_allowed_addresses_only() {
    let port = responding(OK).await;
    let url = format!("http://receiver.example:{port}/");
    let (by_address, _) = egress(&["127.0.0.0/8"], here());
    by_address.check(APP, &url, Moment::MAX).await.unwrap();
    assert_eq!(by_address.send(post(&by_address, &url)).await.unwrap().status, 200);
    let (by_name, _) = egress(&["receiver.example"], here());
    by_name.check(APP, &url, Moment::MAX).await.unwrap();
    assert_eq!(by_name.send(post(&by_name, &url)).await.unwrap().status, 200);

    let (neither, _) = egress(&["10.0.0.0/8"], Resolver::fixed(|_| Ok(vec![PUBLIC])));
    assert!(neither.check(APP, &url, Moment::MAX).await.unwrap_err().to_string().contains("https://"));
    assert!(matches!(neither.send(post(&neither, &url)).await, Err(SendError::Refused(_))));
}

#[tokio::test]
async fn a_special_name_is_refused_unless_its_addresses_are_allowed() {
    // smartcontractkit/chainlink#1699: my_app
    for host in ["localhost", "intranet", "my_app", "db.internal", "api.default.svc.cluster.local"] {
        let url = format!("https://{host}/");
        let (public, _) = egress(&[], Resolver::fixed(|_| Ok(vec![PUBLIC])));
        public.check(APP, &url, Moment::MAX).await.unwrap_err();
        assert!(matches!(public.send(post(&public, &url)).await, Err(SendError::Refused(_))), "{host}");
        let (nowhere, _) = egress(&[], Resolver::fixed(|_| Ok(vec![])));
        nowhere.check(APP, &url, Moment::MAX).await.unwrap_err();
        egress(&["127.0.0.1"], here()).0.check(APP, &url, Moment::MAX).await.unwrap();
        egress(&[host], Resolver::fixed(|_| Ok(vec![]))).0.check(APP, &url, Moment::MAX).await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_name_is_asked_once_in_ten_seconds_for_one_second() {
    let lookups = Arc::new(AtomicUsize::new(0));
    let count = lookups.clone();
    let slow = Resolver::Fixed(Arc::new(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Box::pin(pending())
    }));
    let (egress, clock) = egress(&[], slow);
    let start = clock_now(&clock);
    for _ in 0..100 {
        advance_until(&clock, egress.check(APP, "https://slow.example/", Moment::MAX)).await.unwrap();
    }
    assert_eq!(lookups.load(Ordering::SeqCst), 1);
    assert_eq!(clock_now(&clock).since(start), Duration::from_secs(1));
    clock.advance(Duration::from_secs(10));
    advance_until(&clock, egress.check(APP, "https://slow.example/", Moment::MAX)).await.unwrap();
    assert_eq!(lookups.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_lookup_that_was_cut_off_is_repeated() {
    let lookups = AtomicUsize::new(0);
    let slow_once = Resolver::Fixed(Arc::new(move |_| match lookups.fetch_add(1, Ordering::SeqCst) {
        0 => Box::pin(pending()),
        _ => Box::pin(std::future::ready(Ok(vec![LOOPBACK]))),
    }));
    let (egress, _) = egress(&[], slow_once);
    egress.check(APP, "https://slow.example/", Moment::default()).await.unwrap();
    egress.check(APP, "https://slow.example/", Moment::MAX).await.unwrap_err();
}

fn clock_now(clock: &ManualClock) -> Timestamp {
    Clock::Manual(clock.clone()).now()
}

#[tokio::test]
async fn dialling_tries_each_address_and_reports_the_last_error() {
    let (_listener, port) = unused_listener();
    let unused = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));
    let (egress, clock) = egress(
        &[],
        Resolver::Fixed(Arc::new(move |name| match name {
            "both.example" => Box::pin(std::future::ready(Ok(vec![unused, LOOPBACK]))),
            "unused.example" => Box::pin(std::future::ready(Ok(vec![unused]))),
            "none.example" => Box::pin(std::future::ready(Ok(Vec::new()))),
            _ => Box::pin(pending()),
        })),
    );
    egress.dial("both.example", port, LIMIT).await.unwrap();
    egress.dial("127.0.0.1", port, LIMIT).await.unwrap();
    let slow = advance_until(&clock, egress.dial("slow.example", port, LIMIT)).await.unwrap_err();
    assert_eq!(slow, SendError::not_connected());
    for (name, error) in [
        ("unused.example", "connect: connection refused"),
        ("none.example", "connect: the host name does not resolve"),
    ] {
        assert_eq!(egress.dial(name, port, LIMIT).await.unwrap_err().to_string(), error);
    }
}

#[tokio::test]
async fn an_unresolved_name_is_registered_and_its_attempt_fails() {
    let (egress, _) = egress(&[], Resolver::fixed(|_| Err(io::Error::other("no such name"))));
    egress.check(APP, "https://soon.example/", Moment::MAX).await.unwrap();
    let error = egress.send(post(&egress, "https://soon.example/")).await.unwrap_err();
    assert_eq!(error.to_string(), "connect: the host name `soon.example` does not resolve");
}

#[tokio::test]
async fn a_failed_lookup_refuses_no_name_that_may_be_in_an_allowed_network() {
    let unanswered = || Resolver::fixed(|_| Err(io::ErrorKind::NetworkDown.into()));
    let failed = || Resolver::fixed(|_| Err(rustix::io::Errno::CONNREFUSED.into()));
    let silent = || Resolver::Fixed(Arc::new(|_| Box::pin(std::future::pending())));
    let absent = || Resolver::fixed(|_| Err(io::Error::other("no such name")));
    for (allow, resolver, is_accepted) in [
        ("10.0.0.0/8", unanswered(), true),
        ("10.0.0.0/8", failed(), true),
        ("10.0.0.0/8", silent(), true),
        ("10.0.0.0/8", absent(), false),
        ("other.example", unanswered(), false),
    ] {
        let (egress, clock) = egress(&[allow], resolver);
        for url in ["http://hooks.example/", "https://api.internal/"] {
            let checked = advance_until(&clock, egress.check(APP, url, Moment::MAX)).await;
            assert_eq!(checked.is_ok(), is_accepted, "{allow} {url}: {checked:?}");
        }
    }
}

#[test]
fn a_proxy_with_an_unencoded_password_is_refused_with_the_remedy() {
    for url in ["http://me:super/secret@host", "http://me:80/secret@host", "http://me:80#secret@host:3128"] {
        let refused = Proxy::parse(url).unwrap_err();
        assert!(refused.contains("%2F") && !refused.contains("secret"), "{refused}");
    }
    Proxy::parse("http://me:super%2Fsecret@host:3128/").unwrap();
}

#[tokio::test]
async fn a_stalled_body_ends_at_the_deadline_and_keeps_the_status() {
    // Far more than the sockets buffer: when it is written, the client is reading the body.
    const MUCH: usize = 32 << 20;
    let (sender, written) = oneshot::channel();
    let sender = std::sync::Mutex::new(Some(sender));
    let port = server(move |mut stream| {
        let sender = sender.lock().unwrap().take();
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            stream.write_all(&vec![b'x'; MUCH]).await.unwrap();
            sender.unwrap().send(()).unwrap();
            pending::<()>().await;
        }
    })
    .await;
    let (egress, clock) = egress(&["127.0.0.0/8"], here());
    let mut message = post(&egress, &format!("http://127.0.0.1:{port}/"));
    message.max_answer = 2 * MUCH;
    let exchange = tokio::spawn(async move { egress.send(message).await });
    written.await.unwrap();
    let received = advance_until(&clock, exchange).await.unwrap().unwrap();
    assert_eq!((received.status, received.truncated), (200, true));
    assert!(!received.body.is_empty());
}

#[tokio::test]
async fn a_missing_response_ends_at_the_deadline() {
    let port = server(|stream| async move {
        let _open = stream;
        pending::<()>().await;
    })
    .await;
    let (egress, clock) = egress(&["127.0.0.0/8"], here());
    let message = post(&egress, &format!("http://127.0.0.1:{port}/?secret"));
    let error = advance_until(&clock, egress.send(message)).await.unwrap_err();
    assert_eq!(error.to_string(), "timeout: no answer within 20 s");
    let error = advance_until(&clock, egress.fetch(fetch(port))).await.unwrap_err();
    assert_eq!(error.to_string(), "timeout: no answer within 20 s");
}

#[tokio::test]
async fn a_broken_body_fails_a_poll_but_not_a_delivery() {
    let port = responding("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart").await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    let received = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap();
    assert_eq!((received.status, &received.body[..], received.truncated), (200, &b"part"[..], true));
    let error = egress.fetch(fetch(port)).await.unwrap_err();
    assert_eq!(error.to_string(), "protocol: the connection was closed before the answer was complete");
}

#[tokio::test]
async fn an_invalid_response_is_an_error_that_shows_no_url() {
    let endless = server(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"x-endless: yes\r\n").await.is_ok() {}
    });
    let closed = {
        let (_, port) = unused_listener();
        port
    };
    let table = [
        (responding("SSH-2.0-OpenSSH_9.6\r\n\r\n").await, "protocol: the answer is not HTTP"),
        (endless.await, "protocol: the answer is not HTTP, or its head has more than 64 KiB or 512 lines"),
        (
            responding("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab").await,
            "protocol: the header content-length of the answer is not valid, or contradicts another one",
        ),
        (responding("").await, "protocol: the connection was closed before the answer was complete"),
        (closed, "connect: connection refused"),
    ];
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    for (port, words) in table {
        let error =
            egress.send(post(&egress, &format!("http://127.0.0.1:{port}/?secret"))).await.unwrap_err();
        assert_eq!(error.to_string(), words);
    }
}

#[tokio::test]
async fn a_providers_body_is_decoded_and_a_receivers_is_not() {
    const BODY: &[u8] = &[
        31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 42, 46, 73, 44, 41, 45, 86, 178, 82, 74, 206, 207, 45, 200,
        73, 45, 73, 77, 81, 170, 5, 0, 22, 237, 19, 51, 22, 0, 0, 0,
    ];
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    // Names of codings are case-insensitive, and `x-gzip` is another name (RFC 9110, section 8.4.1).
    for coding in ["gzip", "GZIP", "X-Gzip"] {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-encoding: {coding}\r\ncontent-length: {}\r\n\r\n",
            BODY.len()
        );
        let port = responding([head.as_bytes(), BODY].concat()).await;
        let fetched = egress.fetch(fetch(port)).await.unwrap();
        assert_eq!(&fetched.body[..], br#"{"status":"completed"}"#, "{coding}");
        let received = egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap();
        assert_eq!(&received.body[..], BODY, "{coding}");
    }
}

/// Returns the TLS acceptor of `hooks.example`, and the authority that issued its certificate.
fn certified() -> (TlsAcceptor, CertificateDer<'static>) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root = authority.self_signed(&authority_key).unwrap().der().clone();
    let issuer = rcgen::Issuer::new(authority, authority_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["hooks.example".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&key, &issuer).unwrap().der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .unwrap();
    (TlsAcceptor::from(Arc::new(config)), root)
}

/// Starts an https server named `hooks.example`. Returns its port and its authority.
async fn https() -> (u16, CertificateDer<'static>) {
    let (acceptor, root) = certified();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust the certificate closes the connection here.
            if let Ok(mut stream) = acceptor.accept(stream).await {
                answer_ok(&mut stream).await;
            }
        }
    });
    (port, root)
}

async fn answer_ok(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    if !read_request(stream).await.is_empty() {
        stream.write_all(OK.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn https_requires_a_trusted_certificate_for_the_name() {
    let (port, root) = https().await;
    let with_roots = |roots| {
        let settings = Settings {
            allow: vec![Allowed::parse("127.0.0.0/8").unwrap()],
            allow_http: false,
            ..Settings::default()
        };
        let clock = Clock::Manual(ManualClock::at(Timestamp::default()));
        Egress::new(settings, here(), clock, roots).unwrap()
    };
    let trusting = with_roots(vec![root]);
    let url = format!("https://hooks.example:{port}/");
    assert_eq!(trusting.send(post(&trusting, &url)).await.unwrap().status, 200);
    let url = format!("https://other.example:{port}/");
    assert!(matches!(trusting.send(post(&trusting, &url)).await, Err(SendError::Tls(_))));
    let sceptical = with_roots(Vec::new());
    let url = format!("https://hooks.example:{port}/?secret");
    let error = sceptical.send(post(&sceptical, &url)).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with("tls: invalid peer certificate: UnknownIssuer; ") && text.contains("SSL_CERT_FILE"),
        "{text}"
    );
}

#[tokio::test]
async fn a_connection_is_reused() {
    let connections = Arc::new(AtomicUsize::new(0));
    let count = connections.clone();
    let port = server(move |mut stream| {
        count.fetch_add(1, Ordering::SeqCst);
        async move {
            loop {
                stream.write_all(OK.as_bytes()).await.unwrap();
                if read_request(&mut stream).await.is_empty() {
                    return;
                }
            }
        }
    })
    .await;
    let (egress, _) = egress(&["127.0.0.0/8"], here());
    for _ in 0..10 {
        egress.send(post(&egress, &format!("http://127.0.0.1:{port}/"))).await.unwrap();
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

/// The heads of the requests that a proxy got.
type Requests = Arc<std::sync::Mutex<Vec<String>>>;

/// Starts a proxy that records its requests. It connects every name to loopback, and refuses `refused.example`.
async fn proxy() -> (u16, Requests) {
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let requests = Requests::default();
    let log = requests.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(tunnel(stream, log.clone()));
        }
    });
    (port, requests)
}

async fn tunnel(mut stream: impl AsyncRead + AsyncWrite + Unpin, requests: Requests) {
    let request = read_request(&mut stream).await;
    let authority = request.split([' ', '/']).nth(1).unwrap_or_default().to_owned();
    requests.lock().unwrap().push(request);
    let (name, port) = authority.split_once(':').unwrap();
    if name == "refused.example" {
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\n\r\n").await.unwrap();
        return;
    }
    let mut there = TcpStream::connect((LOOPBACK, port.parse().unwrap())).await.unwrap();
    stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut there).await;
}

fn through(proxy: &str, roots: Vec<CertificateDer<'static>>) -> Arc<Egress> {
    let settings = Settings { proxy: Some(Proxy::parse(proxy).unwrap()), ..Settings::default() };
    // No name resolves here, not even the proxy's.
    let no_names = Resolver::fixed(|_| Ok(Vec::new()));
    Egress::new(settings, no_names, Clock::Manual(ManualClock::at(Timestamp::default())), roots).unwrap()
}

#[tokio::test]
async fn only_the_proxy_gets_its_credentials_and_resolves_names() {
    let (port, root) = https().await;
    let (proxy, requests) = proxy().await;
    let egress = through(&format!("http://me:hu%3Ash@127.0.0.1:{proxy}"), vec![root]);
    let url = format!("https://hooks.example:{port}/hook");
    assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 200);
    let requests = requests.lock().unwrap().clone();
    // me:hu:sh
    let head = format!(
        "CONNECT hooks.example:{port} HTTP/1.1\r\nHost: hooks.example:{port}\r\nuser-agent: {USER_AGENT}\r\nproxy-authorization: Basic bWU6aHU6c2g=\r\n\r\n"
    );
    assert_eq!(requests, [head]);
    assert!(!format!("{egress:?}").contains("hu"), "{egress:?}");
}

#[tokio::test]
async fn a_proxy_can_use_tls() {
    let (port, root) = https().await;
    let (acceptor, root_of_proxy) = certified();
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let proxy = format!("https://hooks.example:{}", listener.local_addr().unwrap().port());
    let requests = Requests::default();
    let log = requests.clone();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tunnel(acceptor.accept(stream).await.unwrap(), log).await;
    });
    let settings = Settings { proxy: Some(Proxy::parse(&proxy).unwrap()), ..Settings::default() };
    let clock = Clock::Manual(ManualClock::at(Timestamp::default()));
    let egress = Egress::new(settings, here(), clock, vec![root, root_of_proxy]).unwrap();
    let url = format!("https://hooks.example:{port}/hook");
    assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 200);
    assert_eq!(requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn an_error_names_a_proxy_that_is_down_or_refuses() {
    let (port, _) = proxy().await;
    let error = |egress: Arc<Egress>, url: &'static str| async move {
        egress.send(post(&egress, url)).await.unwrap_err().to_string()
    };
    // A port without a listener.
    let down = through("http://127.0.0.1:1", Vec::new());
    assert_eq!(error(down, "https://hooks.example/").await, "connect: through the proxy: connection refused");
    let unknown = through("http://proxy.example:3128", Vec::new());
    assert_eq!(
        error(unknown, "https://hooks.example/").await,
        "connect: through the proxy: the host name does not resolve"
    );
    let refusing = through(&format!("http://127.0.0.1:{port}"), Vec::new());
    assert_eq!(
        error(refusing, "https://refused.example:1/").await,
        "connect: through the proxy: the proxy cannot connect to the destination"
    );
}

#[tokio::test]
async fn with_a_proxy_urls_are_checked_without_a_lookup() {
    let (port, requests) = proxy().await;
    let egress = through(&format!("http://127.0.0.1:{port}"), Vec::new());
    assert!(egress.parse("https://10.0.0.1/").is_err());
    assert!(egress.check(APP, "http://hooks.example/", Moment::MAX).await.is_err());
    let loosely = Settings { allow: vec![Allowed::parse("10.0.0.0/8").unwrap()], ..Settings::default() };
    let target = loosely.parse("https://10.0.0.1/").unwrap();
    let refused = egress.send(Post { url: target, ..post(&egress, "https://hooks.example/") }).await;
    assert!(matches!(refused, Err(SendError::Refused(_))), "{refused:?}");
    assert!(requests.lock().unwrap().is_empty());
}

#[test]
fn proxies_in_the_environment_are_ignored() {
    // No proxy listens there, so a request through it would fail.
    // The tests run in another process, because this one cannot safely change its environment.
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    for name in ["http_proxy", "https_proxy", "all_proxy"] {
        again.env(name, "http://127.0.0.1:1");
        again.env(name.to_uppercase(), "http://127.0.0.1:1");
    }
    let again = again.env_remove("no_proxy").env_remove("NO_PROXY").args(["--exact"]).args([
        "egress::tests::bypasses::a_redirect_is_a_response_and_is_not_followed",
        "egress::tests::https_requires_a_trusted_certificate_for_the_name",
    ]);
    let output = String::from_utf8(again.output().unwrap().stdout).unwrap();
    assert!(output.contains("2 passed; 0 failed"), "{output}");
}

#[tokio::test]
async fn the_system_resolver_knows_localhost_without_dns() {
    let addresses = Resolver::system().lookup("localhost", false).await.unwrap();
    assert!(!addresses.is_empty() && addresses.iter().all(IpAddr::is_loopback), "{addresses:?}");
}

// systemd/systemd#22575
#[tokio::test]
async fn a_missing_answer_about_ipv6_neither_refuses_nor_delays_a_callback() {
    let port = responding(OK).await;
    let ipv4_only = |_: &str, kind| if kind == 1 { Reply::Address(LOOPBACK) } else { Reply::Silence };
    let dns = name_server((Ipv4Addr::LOCALHOST, 0).into(), ipv4_only).await;
    let (egress, _) = egress(&["127.0.0.0/8"], Resolver::System(Arc::new(resolver_at(dns))));
    let url = format!("http://my_app:{port}/");
    egress.check(APP, &url, Moment::MAX).await.unwrap();
    assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 200);
    egress.dial("mail.example", port, LIMIT).await.unwrap();
}

/// Fills the queue of a listener at `address`, so that further connections get no answer. Returns what must be kept.
async fn silent(address: std::net::SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(address).unwrap();
    let listener = socket.listen(1).unwrap();
    let mut waiting = Vec::new();
    while let Some(Ok(stream)) =
        Clock::System.timeout(Duration::from_millis(100), TcpStream::connect(address)).await
    {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[tokio::test]
async fn a_silent_address_of_a_name_leaves_time_for_the_next() {
    let port = responding(OK).await;
    let unheard = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let _open = silent((unheard, port).into()).await;
    let settings = Settings { allow: vec![Allowed::parse("127.0.0.0/8").unwrap()], ..Settings::default() };
    let resolver = Resolver::fixed(move |_| Ok(vec![unheard, LOOPBACK]));
    let egress = Egress::new(settings, resolver, Clock::System, Vec::new()).unwrap();
    let url = format!("http://hooks.example:{port}/");
    assert_eq!(egress.send(post(&egress, &url)).await.unwrap().status, 200);
    egress.dial("mail.example", port, LIMIT).await.unwrap();
}

#[tokio::test]
async fn a_machine_without_name_servers_is_no_failure_of_the_receiver() {
    let (egress, _) = egress(&[], Resolver::fixed(|_| Err(io::ErrorKind::NetworkDown.into())));
    let error = egress.send(post(&egress, "https://hooks.example/")).await.unwrap_err();
    assert!(error.is_ours() && error.to_string().contains("/etc/resolv.conf"), "{error}");
    assert!(egress.dial("mail.example", 25, LIMIT).await.unwrap_err().is_ours());
}

#[tokio::test]
async fn silent_name_servers_do_not_fail_a_receiver_with_a_short_timeout() {
    let dns = name_server((Ipv4Addr::LOCALHOST, 0).into(), |_, _| Reply::Silence).await;
    let time = ManualClock::at(Timestamp::from_millis(1_000_000));
    let clock = Clock::Manual(time.clone());
    let resolver = Resolver::System(Arc::new(system_resolver(dns, clock.clone())));
    let egress = Egress::new(Settings::default(), resolver, clock.clone(), Vec::new()).unwrap();
    let short = Duration::from_secs(1);
    let (post, watch) =
        (Post { timeout: short, ..post(&egress, "https://hooks.example/") }, clock.stopwatch());
    let error = advance_until(&time, egress.send(post)).await.unwrap_err();
    assert!(error.is_ours(), "{error}");
    assert!(watch.elapsed() < Duration::from_secs(5), "{:?}", watch.elapsed());
    let url = Url::parse("https://api.example/").unwrap();
    let error = advance_until(&time, egress.fetch(Fetch::new(url, &[], short, 100))).await.unwrap_err();
    assert!(error.is_ours(), "{error}");
    let error = advance_until(&time, egress.dial("mail.example", 25, short)).await.unwrap_err();
    assert!(error.is_ours(), "{error}");
}

#[tokio::test]
async fn a_deadline_that_passes_during_a_lookup_takes_effect_after_it() {
    let (answer, answered) = oneshot::channel::<()>();
    let answered = std::sync::Mutex::new(Some(answered));
    let resolver = Resolver::Fixed(Arc::new(move |_| {
        let answered = answered.lock().unwrap().take().unwrap();
        Box::pin(async move {
            let _ = answered.await;
            Ok(vec![LOOPBACK])
        })
    }));
    let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
    let (egress, clock) = egress(&["127.0.0.0/8"], resolver);
    let url = format!("https://hooks.example:{}/", listener.local_addr().unwrap().port());
    let post = Post { timeout: Duration::from_secs(1), ..post(&egress, &url) };
    let mut sending = std::pin::pin!(egress.send(post));
    assert!((&mut sending).now_or_never().is_none());
    clock.advance(Duration::from_secs(2));
    assert!((&mut sending).now_or_never().is_none());
    drop(answer);
    assert_eq!(sending.await.unwrap_err(), SendError::timed_out(Duration::from_secs(1)));
}

#[tokio::test]
async fn a_lookup_without_a_descriptor_is_no_failure_of_the_name() {
    let (egress, _) = egress(&[], Resolver::fixed(|_| Err(rustix::io::Errno::MFILE.into())));
    let exhausted = egress.send(post(&egress, "https://hooks.example/")).await.unwrap_err();
    assert!(exhausted.is_ours(), "{exhausted}");
    let exhausted = egress.dial("mail.example", 25, LIMIT).await.unwrap_err();
    assert!(exhausted.is_ours() && exhausted.to_string().contains("LimitNOFILE"), "{exhausted}");
}

#[test]
fn a_date_in_retry_after_is_compared_with_the_date_of_the_answer() {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let after = |headers: Vec<(String, String)>| {
        let duration = Duration::ZERO;
        let received =
            Received { status: 429, headers, body: Bytes::new(), truncated: false, duration, redirects: 0 };
        received.retry_after(Timestamp::parse("2026-02-18T15:00:00Z").unwrap()).map(|wait| wait.as_secs())
    };
    // The clock of the server is 20 minutes ahead, then 20 minutes behind.
    for (date, retry_at) in [
        ("Wed, 18 Feb 2026 15:20:00 GMT", "Wed, 18 Feb 2026 15:20:30 GMT"),
        ("Wed, 18 Feb 2026 14:40:00 GMT", "Wed, 18 Feb 2026 14:40:30 GMT"),
    ] {
        assert_eq!(after(vec![header("date", date), header("retry-after", retry_at)]), Some(30));
    }
    assert_eq!(after(vec![header("retry-after", "Wed, 18 Feb 2026 15:00:10 GMT")]), Some(10));
    assert_eq!(after(vec![header("date", "now"), header("retry-after", "7")]), Some(7));
}
