//! The outbound network client: every HTTP exchange and every other connection of this program.
//!
//! There are two kinds of addresses:
//!
//! - **A user's address** ([`Egress::send`]) is untrusted. The URL is parsed once. An address in it is checked
//!   before each exchange. A name is checked when the connection is made, on the addresses that are then
//!   connected to (`resolver`). The check at registration ([`Egress::check`]) helps the user to find errors; it is
//!   not the guard, because a name can have other addresses tomorrow.
//! - **An operator's address** ([`Egress::fetch`], [`Egress::call`], [`Egress::dial`]) is trusted. Its responses
//!   are limited in time and size all the same.
//!
//! Both kinds have no redirects, no proxy from the environment, no cookies and no hidden retries. Each exchange
//! has a deadline, which takes effect after a lookup that is in progress ([`LookupPhase`]), and a limit on the bytes that
//! are read, before the head of the response as well as after it. All exchanges together have a limit on the connections
//! that they leave open.
//!
//! **With a proxy** (`[egress] proxy`) every HTTP exchange uses it, also those with allowed and with operator's
//! addresses: a network with a proxy often has no other route. The proxy then resolves the names, so this program
//! does not see the addresses that are connected to. Two parts of the guard remain: the check at registration
//! and the check of addresses in URLs. The proxy is responsible for the rest. The proxy's own name is trusted. Mail is
//! sent to its server directly: the server is the operator's, usually inside the network, and few proxies permit its
//! port.
//!
//! This module decides neither when and where to send nor what a response means. It does not replace a firewall, see
//! `ranges`.

mod address;
mod connect;
mod error;
mod exhaustion;
mod head_limit;
mod http;
mod identity;
mod lookup_limit;
mod pool;
mod ranges;
mod received;
mod redirect;
mod resolver;
mod sent_secrets;
mod target_cache;
#[cfg(test)]
mod tests;
mod token;

pub use address::{Allowed, Proxy, Settings, SocketLimits, Target, is_public_https};
pub use connect::USER_AGENT;
pub use error::SendError;
pub use identity::{ClientIdentity, InvalidIdentity, check_identity};
pub use ranges::{AddressRange, RANGES, Source, Verdict};
pub use received::Received;
pub use redirect::redirect_target;
pub use resolver::{Lookup, Resolver};
pub use token::{
    NoToken, NotIssued, TOKEN_ANSWER_MAX, Token, TokenParts, TokenSlot, read_token, read_token_with,
};

use std::ffi::OsStr;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper_util::client::proxy::matcher::Matcher;
pub use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, retry};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};

use crate::clock::{Clock, Moment};
use crate::dns::LookupError;
use crate::domain::{AddressError, AppNo, SecretTexts, TlsPem};
use crate::tls::{self, Trust};
use address::AddressClass;
use connect::{Connector, ProxyPeer};
use error::CONNECT_TIMEOUT;
use http::{HttpClient, HttpRequest};
use lookup_limit::LookupLimiter;
use pool::Pool;
use resolver::{AddressPolicy, Guard, LookupCache, LookupPhase};
use target_cache::TargetCache;

/// Maximum time for which a registration waits for DNS.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum size of the recorded response headers, in bytes.
const HEADERS_MAX: usize = 16 * 1024;

/// The outbound network client.
pub struct Egress {
    settings: Arc<Settings>,
    resolver: Resolver,
    clock: Clock,
    lookup_cache: LookupCache,
    targets: TargetCache,
    lookup_limiter: LookupLimiter,
    /// Client for users' https addresses.
    secure: HttpClient,
    /// Client for users' http addresses, for which the guard has stricter rules.
    plain: HttpClient,
    /// Client for the operator's addresses.
    trusted: HttpClient,
    /// Client for providers' https addresses that a client has chosen.
    guarded: HttpClient,
    /// Client for their http addresses, with the stricter rules.
    guarded_plain: HttpClient,
    /// TLS for other protocols than HTTP.
    tls: Arc<rustls::ClientConfig>,
    /// Verifier of receivers whose identity has no authorities of its own.
    verifier: Arc<dyn ServerCertVerifier>,
    /// Has another owner for each request that no poll and no attempt waits for.
    background: Arc<()>,
    /// The password of the proxy, which no answer shows.
    proxy_secrets: SecretTexts,
}

/// Makes a client without the guard, for commands that call the user's own server, through the proxy if there is one.
/// `cert_file` is the value of `SSL_CERT_FILE`.
pub fn unguarded(
    connect_timeout: Duration,
    proxy: Option<&Proxy>,
    cert_file: Option<&OsStr>,
) -> anyhow::Result<Client> {
    tls::refuse_blocking(cert_file)?;
    let mut tls = tls::config(Vec::new())?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut client = Client::builder()
        .no_proxy()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .retry(retry::never())
        .http1_only()
        .connect_timeout(connect_timeout)
        .tls_backend_preconfigured(tls);
    if let Some(proxy) = proxy {
        client = client.proxy(reqwest::Proxy::all(proxy.url())?);
    }
    Ok(client.gzip(true).build()?)
}

/// Returns whether the list in `NO_PROXY` contains the host of a URL.
pub fn bypasses_proxy(no_proxy: &str, url: &str) -> bool {
    // The address of the proxy does not count.
    let matcher = Matcher::builder().all("http://proxy").no(no_proxy).build();
    url.parse().is_ok_and(|url| matcher.intercept(&url).is_none())
}

/// A POST to a user's address (`U` is [`Target`], the checked URL) or to an operator's (`U` is [`Url`]).
#[derive(Debug)]
pub struct Post<U> {
    /// The address.
    pub url: U,
    /// The headers, sent unchanged; a missing `accept` becomes `*/*`, and a missing `user-agent` [`USER_AGENT`]. At an
    /// operator's address, `accept-encoding` is added.
    pub headers: HeaderMap,
    /// The body, sent unchanged.
    pub body: Bytes,
    /// Deadline of the exchange, which includes the response's body.
    pub timeout: Duration,
    /// Maximum number of bytes that are read of the response's body.
    pub max_answer: usize,
}

/// A request to a provider: to an operator's address, or to a name that a client has chosen.
#[derive(Debug)]
pub struct Fetch {
    /// The method.
    pub method: Method,
    /// The URL.
    pub url: Url,
    /// The headers, sent unchanged; a missing `accept` becomes `*/*`, a missing `user-agent` [`USER_AGENT`], and
    /// `accept-encoding` is added.
    pub headers: HeaderMap,
    /// Deadline of the exchange, which includes the response's body.
    pub timeout: Duration,
    /// Maximum size of the decoded body, in bytes. A larger one is an error.
    pub max_body: usize,
    /// The body, sent unchanged.
    pub body: Bytes,
    /// Number of redirects that are followed, if they lead to the same scheme, host and port.
    pub max_redirects: u8,
    /// Whether a client has chosen the host: its addresses are then subject to the guard, as those of receivers.
    pub is_guarded: bool,
}

impl Fetch {
    /// Makes a GET with these headers. A name or a value that is not valid in HTTP is left out.
    pub fn new(url: Url, named: &[(String, String)], timeout: Duration, max_body: usize) -> Self {
        let header = |(name, value): &(String, String)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            // A header can contain the credential.
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        };
        Self {
            method: Method::GET,
            url,
            headers: named.iter().filter_map(header).collect(),
            timeout,
            max_body,
            body: Bytes::new(),
            max_redirects: 0,
            is_guarded: false,
        }
    }
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Egress {
    /// Makes the client. `extra_roots` are certificate authorities that are trusted besides the system's.
    pub fn new(
        settings: Settings,
        resolver: Resolver,
        clock: Clock,
        extra_roots: Vec<CertificateDer<'static>>,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = Arc::new(settings);
        let verifier = tls::verifier(extra_roots)?;
        let bare = tls::config_with(Arc::clone(&verifier), None)?;
        let mut tls = bare.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let tls = Arc::new(tls);
        let proxy = settings.proxy.as_ref().map(|proxy| {
            // An error would show the URL with its password.
            let peer = Url::parse(proxy.url()).ok().and_then(|url| ProxyPeer::of(&url));
            peer.map(Arc::new)
                .ok_or_else(|| anyhow::anyhow!("[egress] proxy: the HTTP client cannot use this URL"))
        });
        let proxy = proxy.transpose()?;
        let proxy_secrets =
            settings.proxy.as_ref().map(|proxy| sent_secrets::of_proxy(proxy.url())).unwrap_or_default();
        let pool = Pool::new(settings.limits.unused, clock.clone());
        let client = |policy, decodes| {
            // With a proxy, only the proxy's name is resolved.
            let policy = if proxy.is_some() { AddressPolicy::Trusted } else { policy };
            let guard = Guard { policy, resolver: resolver.clone(), settings: settings.clone() };
            let (proxy, tls, clock) = (proxy.clone(), Arc::clone(&tls), clock.clone());
            HttpClient {
                connector: Connector { guard, proxy, tls, clock },
                pool: Arc::clone(&pool),
                decodes,
                resends: !decodes,
            }
        };
        Ok(Arc::new(Self {
            // Receivers' bodies are not decoded: they are only recorded, and could be decompression bombs.
            secure: client(AddressPolicy::Secure, false),
            plain: client(AddressPolicy::Plain, false),
            trusted: client(AddressPolicy::Trusted, true),
            guarded: client(AddressPolicy::Secure, true),
            guarded_plain: client(AddressPolicy::Plain, true),
            tls: Arc::new(bare),
            verifier,
            background: Arc::default(),
            proxy_secrets,
            lookup_cache: LookupCache::default(),
            targets: TargetCache::default(),
            lookup_limiter: LookupLimiter::new(settings.limits.lookups),
            settings,
            resolver,
            clock,
        }))
    }

    /// Returns what has another owner for each request that no poll and no attempt waits for.
    pub fn background_work(&self) -> &Arc<()> {
        &self.background
    }

    /// Returns the number of requests that no poll and no attempt waits for.
    pub fn in_background(&self) -> usize {
        Arc::strong_count(&self.background) - 1
    }

    /// Parses a user's URL without resolving its name, for a URL that [`Egress::check`] has accepted. The error
    /// has every reason.
    pub fn parse(&self, url: &str) -> Result<Target, AddressError> {
        if let Some(target) = self.targets.get(url) {
            return Ok(target);
        }
        let target = self.settings.parse(url)?;
        self.targets.put(url, &target);
        Ok(target)
    }

    /// Checks a URL at a registration of `app` and resolves its name. A name that does not resolve yet is accepted if
    /// public addresses are permitted. If the name servers do not answer, or not before `until`, it is also accepted
    /// where only the networks of the operator are permitted. The error has every reason; it does not reveal the
    /// addresses of a name.
    pub async fn check(&self, app: AppNo, url: &str, until: Moment) -> Result<Target, AddressError> {
        let target = self.parse(url)?;
        let required = self.settings.required_class(target.name(), target.is_plain());
        if target.literal().is_some() || required == AddressClass::Unknown {
            return Ok(target);
        }
        let class = self.classify(app, target.name(), until).await;
        if self.settings.accepts(class, required) {
            return Ok(target);
        }
        let refusal = self.settings.class_objection(target.name(), target.is_plain(), class);
        Err(AddressError::Forbidden(refusal))
    }

    /// Returns the class of a name, from the cache or by a lookup.
    async fn classify(&self, app: AppNo, name: &str, until: Moment) -> AddressClass {
        let now = self.clock.moment();
        let cached = self.lookup_cache.entry(name, now);
        if let Some((_, class)) = cached.get() {
            return *class;
        }
        // A batch can contain one host a thousand times: concurrent checks share one lookup.
        let answer = cached.get_or_init(async || {
            // A lookup is a large future: boxed, it does not enlarge those of requests without one.
            let lookup = Box::pin(async {
                let _permit = self.lookup_limiter.acquire(app).await;
                self.resolver.lookup(name, false).await
            });
            let class = match self.clock.timeout(LOOKUP_TIMEOUT, lookup).await {
                Some(Ok(addresses)) => self.settings.classify(&addresses),
                Some(Err(LookupError::NotFound)) => AddressClass::Unknown,
                Some(Err(LookupError::Failed(_) | LookupError::Unavailable(_))) | None => {
                    AddressClass::Unanswered
                }
            };
            (self.clock.moment(), class)
        });
        let answer = self.clock.timeout(until.since(now), answer).await;
        answer.map_or(AddressClass::Unanswered, |(_, class)| *class)
    }

    /// Sends a request to a receiver. The status of the response decides: an endless, slow or broken body is cut
    /// off and is no error.
    pub async fn send(&self, post: Post<Target>) -> Result<Received, SendError> {
        self.send_to_receiver(post, (None, Trust::Machine)).await
    }

    /// Makes a TLS identity ready for connections.
    pub fn identity(&self, pem: &TlsPem) -> Result<Arc<ClientIdentity>, InvalidIdentity> {
        ClientIdentity::new(pem, &self.verifier).map(Arc::new)
    }

    /// Sends a webhook, whose destination can have a TLS identity. It has no effect on a URL without TLS.
    pub async fn send_as(
        &self,
        identity: Option<&Arc<ClientIdentity>>,
        post: Post<Target>,
    ) -> Result<Received, SendError> {
        self.send_to_receiver(post, (identity, Trust::MachineForWebhook)).await
    }

    async fn send_to_receiver(
        &self,
        post: Post<Target>,
        identity: (Option<&Arc<ClientIdentity>>, Trust),
    ) -> Result<Received, SendError> {
        // The HTTP client calls the resolver for names only, so an address in the URL is checked here, each time.
        if let Some(refusal) = self.settings.literal_objection(&post.url) {
            return Err(SendError::Refused(refusal));
        }
        let client = if post.url.is_plain() { &self.plain } else { &self.secure };
        self.post(client, post, identity).await
    }

    /// Sends a request to a service of the operator. As with a receiver, the status decides, whatever happens to
    /// the body.
    pub async fn call(&self, post: Post<Url>) -> Result<Received, SendError> {
        self.post(&self.trusted, post, (None, Trust::Machine)).await
    }

    async fn post(
        &self,
        client: &HttpClient,
        post: Post<impl Into<Url>>,
        (identity, trust): (Option<&Arc<ClientIdentity>>, Trust),
    ) -> Result<Received, SendError> {
        let Post { url, headers, body, timeout, max_answer } = post;
        let secrets = sent_secrets::of_headers(&headers);
        let request = HttpRequest {
            method: Method::POST,
            url: url.into(),
            headers,
            body,
            identity: identity.map(Arc::clone),
            trust,
        };
        let (mut received, _) = self.exchange(client, request, timeout, max_answer).await?;
        received.hide(&secrets);
        Ok(received)
    }

    /// Sends a request to a provider. An incomplete response is an error. The deadline includes the redirects.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Received, SendError> {
        let (received, read) = self.fetch_partly(fetch).await?;
        read.map(|()| received)
    }

    /// Does the same, and returns an incomplete response with the reason why it is incomplete.
    pub async fn fetch_partly(
        &self,
        mut fetch: Fetch,
    ) -> Result<(Received, Result<(), SendError>), SendError> {
        let client = match (fetch.is_guarded, fetch.url.scheme()) {
            (false, _) => &self.trusted,
            (true, "http") => &self.guarded_plain,
            (true, _) => &self.guarded,
        };
        let (mut duration, mut redirects) = (Duration::ZERO, 0);
        loop {
            let url = fetch.url.clone();
            // Only a redirect needs them again.
            let headers = match fetch.max_redirects {
                0 => std::mem::take(&mut fetch.headers),
                _ => fetch.headers.clone(),
            };
            if fetch.is_guarded {
                // The HTTP client calls the resolver for names only, so an address in the URL is checked here.
                self.parse(url.as_str()).map_err(|error| SendError::Refused(error.to_string()))?;
            }
            let (method, body, identity, trust) =
                (fetch.method.clone(), fetch.body.clone(), None, Trust::Machine);
            let request = HttpRequest { method, url, headers, body, identity, trust };
            let left = fetch.timeout.saturating_sub(duration);
            let (mut received, read) = self.exchange(client, request, left, fetch.max_body).await?;
            if read.is_err() {
                return Ok((received, read));
            }
            duration += received.duration;
            (received.duration, received.redirects) = (duration, redirects);
            let location = received.header("location").filter(|_| fetch.max_redirects > 0);
            let next = |location| redirect_target(&fetch.url, &fetch.method, received.status, location);
            match location.and_then(next) {
                Some((url, keeps_body)) => {
                    fetch.max_redirects -= 1;
                    redirects += 1;
                    fetch.url = url;
                    if !keeps_body {
                        (fetch.method, fetch.body) = (Method::GET, Bytes::new());
                        fetch.headers.remove(CONTENT_TYPE);
                    }
                }
                None => return Ok((received, read)),
            }
        }
    }

    /// Connects to an operator's host within `timeout`, for other protocols than HTTP.
    pub async fn dial(&self, host: &str, port: u16, timeout: Duration) -> Result<TcpStream, SendError> {
        let (policy, resolver) = (AddressPolicy::Trusted, self.resolver.clone());
        let guard = Guard { policy, resolver, settings: Arc::clone(&self.settings) };
        let host = match host.parse() {
            Ok(IpAddr::V4(address)) => Host::Ipv4(address),
            Ok(IpAddr::V6(address)) => Host::Ipv6(address),
            Err(_) => Host::Domain(host.to_owned()),
        };
        let phase = LookupPhase::default();
        let connecting = connect::tcp(&self.clock, &guard, &host, port, &phase);
        let connecting = Box::pin(self.clock.timeout(CONNECT_TIMEOUT, connecting));
        let connected = phase.limit(self.clock.deadline(timeout), connecting).await;
        connected
            .ok_or_else(|| SendError::timed_out(timeout))?
            .unwrap_or_else(|| Err(SendError::not_connected()))
    }

    /// Starts TLS on a connection and verifies that the peer is `host`.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, SendError> {
        connect::secure((&self.tls, Trust::Machine), stream, host.to_owned()).await
    }

    /// Returns the response, and why its body is incomplete.
    async fn exchange(
        &self,
        client: &HttpClient,
        request: HttpRequest,
        timeout: Duration,
        max_body: usize,
    ) -> Result<(Received, Result<(), SendError>), SendError> {
        let watch = self.clock.stopwatch();
        // One timer for the whole exchange.
        let mut deadline = std::pin::pin!(self.clock.deadline(timeout));
        let phase = LookupPhase::default();
        // Boxed, because the future of a connection is large, and each layer above would copy its size.
        let answer = phase.limit(&mut deadline, Box::pin(client.send(request, &phase))).await;
        let answer = answer.unwrap_or_else(|| Err(SendError::timed_out(timeout)));
        let mut response = answer.map_err(|error| match (error, &self.settings.proxy) {
            // The proxy, or a connection that it was to make, has failed.
            (SendError::Connect(why), Some(_)) => SendError::Connect(format!("through the proxy: {why}")),
            (error, _) => error,
        })?;
        let (status, headers) = (response.status, std::mem::take(&mut response.headers));
        let mut body = Vec::new();
        let read = tokio::select! {
            biased;
            read = response.read(&mut body, max_body) => read,
            () = &mut deadline => Err(SendError::timed_out(timeout)),
        };
        let mut received = Received {
            status,
            headers: recorded_headers(&headers),
            body: body.into(),
            truncated: read.is_err(),
            duration: watch.elapsed(),
            redirects: 0,
        };
        received.hide(&self.proxy_secrets);
        Ok((received, read))
    }
}

/// Returns the headers as text, up to the maximum size.
fn recorded_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut remaining = HEADERS_MAX;
    let mut recorded = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let Some(left) = remaining.checked_sub(name.as_str().len() + value.len()) else { break };
        remaining = left;
        recorded.push((name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    recorded
}
