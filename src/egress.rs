//! The one way out: every HTTP exchange of this program passes here, and every other connection.
//!
//! Two kinds of address are told apart. What a *user* gave ([`Egress::send`]) is hostile until
//! shown otherwise: the URL is parsed once, addresses in it are judged before each exchange, and
//! names are judged where the connection is made, on the very addresses that are then connected to
//! (`resolver`). Checking at registration ([`Egress::check`]) is a courtesy to the user, not the
//! guard: a name can resolve elsewhere tomorrow. What the *operator* configured
//! ([`Egress::fetch`], [`Egress::call`], [`Egress::dial`]) is trusted to be where it should be, but not
//! to be brief.
//!
//! For both: no redirects, no proxies from the environment, no cookies, no hidden retries, a
//! deadline for the whole exchange and a cap on what is read.
//!
//! **With a proxy** (`[egress] proxy`) everything goes through it, what the operator allowed and asked
//! for included: a network that has one has it because nothing else leads out. It is the proxy that
//! resolves names then, and nobody here sees the address that is connected to: the guard that remains
//! is the check at registration and that of addresses written into a URL, and the proxy has to do the
//! rest. Its own name is the operator's and is not judged. Only mail goes to its server directly: that is
//! a host of the operator's, mostly inside, and few proxies lead to its port.
//!
//! What is not here: when to send, whom, and what an answer means. Nor is this a substitute for a
//! firewall, see `ranges`.

mod address;
mod error;
mod ranges;
mod resolver;
#[cfg(test)]
mod tests;

pub use address::{Allowed, Proxy, Settings, Target, is_public_https};
pub use error::SendError;
pub use resolver::{Lookup, Resolver};

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, ClientBuilder, Method, Request, Response, redirect, retry};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::Url;

use crate::clock::Clock;
use crate::domain::{AddressError, Timestamp};
use crate::tls;
use address::{Demand, Reach};
use resolver::{AddressPolicy, Asked, Cache, Guard};

/// Of an exchange's deadline, this much may go to one connection: name, TCP and TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A registration waits no longer for the DNS.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// Shorter than the minute after which servers and load balancers close: fewer sends meet a
/// connection that is just being closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// As many as send at once in all by default: a host that gets everything keeps its connections.
const IDLE_PER_HOST: usize = 512;

/// What is kept of an answer's headers.
const HEADERS_MAX: usize = 16 * 1024;

/// The one outbound HTTP client.
pub struct Egress {
    settings: Arc<Settings>,
    resolver: Resolver,
    clock: Clock,
    seen: Cache,
    asked: Asked,
    /// https to users' addresses.
    secure: Client,
    /// http to users' addresses: of these the guard asks more.
    plain: Client,
    /// The operator's addresses.
    trusted: Client,
    /// TLS for what is not HTTP.
    tls: Arc<rustls::ClientConfig>,
}

/// A client for the server of whoever sits at the command line, wherever that is: no guard.
pub fn unguarded(connect_timeout: Duration) -> anyhow::Result<Client> {
    let mut tls = tls::config(Vec::new())?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = Egress::client().connect_timeout(connect_timeout).tls_backend_preconfigured(tls);
    Ok(client.gzip(true).build()?)
}

/// One POST to an address that a user gave.
#[derive(Debug)]
pub struct Post {
    /// Where to.
    pub target: Target,
    /// Sent as they are; `accept: */*` is added where it is missing.
    pub headers: HeaderMap,
    /// Sent as it is.
    pub body: Bytes,
    /// For the whole exchange, the answer's body included.
    pub timeout: Duration,
    /// How much of the answer's body is read.
    pub max_answer: usize,
}

/// One GET to an address that the operator configured.
#[derive(Debug)]
pub struct Fetch {
    /// Where from.
    pub url: Url,
    /// Sent as they are; `accept: */*` is added where it is missing, and `accept-encoding`.
    pub headers: HeaderMap,
    /// For the whole exchange, the answer's body included.
    pub timeout: Duration,
    /// A larger body, decoded, is an error.
    pub max_body: usize,
}

impl Fetch {
    /// Headers are given as text; what no header can carry is left out.
    pub fn new(url: Url, named: &[(String, String)], timeout: Duration, max_body: usize) -> Self {
        let header = |(name, value): &(String, String)| {
            let mut value = HeaderValue::from_str(value).ok()?;
            // The credential may be among them.
            value.set_sensitive(true);
            Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
        };
        Self { url, headers: named.iter().filter_map(header).collect(), timeout, max_body }
    }
}

/// One POST to an address that the operator configured.
#[derive(Debug)]
pub struct Call {
    /// Where to.
    pub url: Url,
    /// Sent as they are; `accept: */*` is added where it is missing, and `accept-encoding`.
    pub headers: HeaderMap,
    /// Sent as it is.
    pub body: Bytes,
    /// For the whole exchange, the answer's body included.
    pub timeout: Duration,
    /// How much of the answer's body is read.
    pub max_answer: usize,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Received {
    /// HTTP's.
    pub status: u16,
    /// In the order of their arrival, names in lower case; the first 16 KiB of them.
    pub headers: Vec<(String, String)>,
    /// What was read of the body.
    pub body: Bytes,
    /// Whether there was more, or might have been.
    pub truncated: bool,
    /// From the first look-up to the last byte that was read.
    pub duration: Duration,
}

impl Received {
    /// The first header of this name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// How the reading of a body ended.
enum Read {
    /// At its end.
    Whole,
    /// At the cap.
    Capped,
    /// Before its end.
    Broken(SendError),
}

impl std::fmt::Debug for Egress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Egress").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Egress {
    /// `extra_roots` are certificate authorities to trust besides the machine's.
    pub fn new(
        settings: Settings,
        resolver: Resolver,
        clock: Clock,
        extra_roots: Vec<CertificateDer<'static>>,
    ) -> anyhow::Result<Arc<Self>> {
        let settings = Arc::new(settings);
        let bare = tls::config(extra_roots)?;
        let mut tls = bare.clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let proxy = settings.proxy.as_ref().map(|proxy| reqwest::Proxy::all(proxy.url())).transpose();
        // The error would show the URL, and its password.
        let proxy = proxy.map_err(|_| anyhow::anyhow!("[egress] proxy cannot be used"))?;
        let client = |door| {
            // All that is looked up then is the proxy.
            let door = if proxy.is_some() { AddressPolicy::Trusted } else { door };
            let guard = Guard { door, resolver: resolver.clone(), settings: settings.clone() };
            let client = Self::client().dns_resolver(guard).tls_backend_preconfigured(tls.clone());
            match &proxy {
                Some(proxy) => client.proxy(proxy.clone()),
                None => client,
            }
        };
        Ok(Arc::new(Self {
            // Not decoding what receivers say: nobody needs it, and it could be a bomb.
            secure: client(AddressPolicy::Secure).no_gzip().https_only(true).build()?,
            plain: client(AddressPolicy::Plain).no_gzip().build()?,
            trusted: client(AddressPolicy::Trusted).gzip(true).build()?,
            tls: Arc::new(bare),
            seen: Cache::default(),
            asked: Asked::default(),
            settings,
            resolver,
            clock,
        }))
    }

    fn client() -> ClientBuilder {
        Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .referer(false)
            .retry(retry::never())
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
    }

    /// Reads a URL that a user gave, without looking its name up: for one that passed
    /// [`Egress::check`] once. The error is every reason, for people.
    pub fn parse(&self, url: &str) -> Result<Target, AddressError> {
        self.settings.parse(url)
    }

    /// Judges a URL at registration, its name looked up now. A name that does not resolve yet
    /// passes. The error is every reason, for people, and says of no address that it exists.
    pub async fn check(&self, url: &str) -> Result<Target, AddressError> {
        self.check_until(url, Timestamp::MAX).await
    }

    /// The same for one of many, whose names are looked up until then: one for which there was no time
    /// passes like one that does not resolve yet.
    pub async fn check_until(&self, url: &str, until: Timestamp) -> Result<Target, AddressError> {
        let target = self.parse(url)?;
        if target.literal().is_some() {
            return Ok(target);
        }
        let demand = self.settings.demand(target.name(), target.is_plain());
        if demand == Demand::Nothing {
            return Ok(target);
        }
        let reach = self.reach(target.name(), until).await;
        if demand.met_by(reach) || (demand, reach) == (Demand::NothingForbidden, Reach::Unknown) {
            return Ok(target);
        }
        let mut reasons = self.settings.doubts(target.name(), target.is_plain());
        if reach == Reach::Forbidden {
            reasons.push("must not lead to a private or otherwise special address".into());
        }
        Err(address::forbidden_error(&reasons))
    }

    async fn reach(&self, name: &str, until: Timestamp) -> Reach {
        let now = self.clock.now();
        if let Some(reach) = self.seen.get(name, now) {
            return reach;
        }
        // A batch names one host a thousand times: whoever asks meanwhile waits for the same answer.
        let asked = self.asked.join(name);
        let answer = asked.once().get_or_init(async || {
            let look_up = self.resolver.look_up(name, false);
            let reach = match self.clock.timeout(LOOK_UP_TIMEOUT, look_up).await {
                Some(Ok(addresses)) => self.settings.reach(&addresses),
                Some(Err(_)) | None => Reach::Unknown,
            };
            self.seen.put(name, reach, self.clock.now());
            reach
        });
        self.clock.timeout(until.since(now), answer).await.copied().unwrap_or(Reach::Unknown)
    }

    /// One exchange with a receiver. Whatever becomes of the answer's body, its status counts: an
    /// endless, slow or broken body is cut short, not an error.
    pub async fn send(&self, post: Post) -> Result<Received, SendError> {
        let Post { target, headers, body, timeout, max_answer } = post;
        let plain = target.is_plain();
        // The client never asks the resolver about addresses, so they are judged here, each time.
        if let Some(refusal) =
            target.literal().and_then(|address| self.settings.refuse_literal(address, plain))
        {
            return Err(SendError::Refused(refusal));
        }
        let mut request = Request::new(Method::POST, target.into_url());
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        let client = if plain { &self.plain } else { &self.secure };
        let (received, _) = self.exchange(client, request, timeout, max_answer).await?;
        Ok(received)
    }

    /// One exchange with a provider. The answer is whole, or an error.
    pub async fn fetch(&self, fetch: Fetch) -> Result<Received, SendError> {
        let Fetch { url, headers, timeout, max_body } = fetch;
        let mut request = Request::new(Method::GET, url);
        *request.headers_mut() = headers;
        match self.exchange(&self.trusted, request, timeout, max_body).await? {
            (received, Read::Whole) => Ok(received),
            (_, Read::Capped) => Err(SendError::TooLarge(max_body)),
            (_, Read::Broken(error)) => Err(error),
        }
    }

    /// With a proxy, a connection that was not made is one to the proxy, or one that it did not make.
    fn blame(&self, error: SendError) -> SendError {
        if let (SendError::Connect(why), Some(_)) = (&error, &self.settings.proxy) {
            return SendError::Connect(format!("through the proxy: {why}"));
        }
        error
    }

    /// One exchange with a service of the operator's. As with a receiver, its status counts whatever
    /// becomes of the answer's body.
    pub async fn call(&self, call: Call) -> Result<Received, SendError> {
        let Call { url, headers, body, timeout, max_answer } = call;
        let mut request = Request::new(Method::POST, url);
        *request.headers_mut() = headers;
        *request.body_mut() = Some(body.into());
        let (received, _) = self.exchange(&self.trusted, request, timeout, max_answer).await?;
        Ok(received)
    }

    /// A connection to a host that the operator configured, for what is not HTTP.
    pub async fn dial(&self, host: &str, port: u16) -> Result<TcpStream, SendError> {
        let (door, resolver) = (AddressPolicy::Trusted, self.resolver.clone());
        let guard = Guard { door, resolver, settings: Arc::clone(&self.settings) };
        let connecting = async {
            let addresses = match host.parse() {
                Ok(address) => vec![address],
                Err(_) => guard.addresses(host).await.map_err(|none| SendError::Connect(none.to_string()))?,
            };
            let mut last = SendError::Connect("the host has no address".into());
            for address in addresses {
                match TcpStream::connect((address, port)).await {
                    Ok(stream) => return Ok(stream),
                    Err(error) => last = SendError::Connect(error.kind().to_string()),
                }
            }
            Err(last)
        };
        let connected = self.clock.timeout(CONNECT_TIMEOUT, connecting).await;
        connected.unwrap_or_else(|| Err(SendError::not_connected()))
    }

    /// Makes a connection secret, if whoever is there is `host`.
    pub async fn secure(&self, stream: TcpStream, host: &str) -> Result<TlsStream<TcpStream>, SendError> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| SendError::Tls(format!("`{host}` is no name that a certificate could have")))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        connector.connect(name, stream).await.map_err(|error| SendError::not_secure(&error))
    }

    async fn exchange(
        &self,
        client: &Client,
        request: Request,
        timeout: Duration,
        max_body: usize,
    ) -> Result<(Received, Read), SendError> {
        let watch = self.clock.stopwatch();
        let answer = self.clock.timeout(timeout, client.execute(request)).await;
        let mut response = match answer {
            Some(Ok(response)) => response,
            Some(Err(error)) => return Err(self.blame(SendError::classify(&error))),
            None => return Err(SendError::timed_out(timeout)),
        };
        let mut body = Vec::new();
        let left = timeout.saturating_sub(watch.elapsed());
        let read = self.clock.timeout(left, read(&mut response, &mut body, max_body)).await;
        let read = read.unwrap_or_else(|| Read::Broken(SendError::timed_out(timeout)));
        let received = Received {
            status: response.status().as_u16(),
            headers: readable(response.headers()),
            body: body.into(),
            truncated: !matches!(read, Read::Whole),
            duration: watch.elapsed(),
        };
        Ok((received, read))
    }
}

/// Reads up to `max` bytes into `body`, which keeps them if this is dropped half-way.
async fn read(response: &mut Response, body: &mut Vec<u8>, max: usize) -> Read {
    loop {
        match response.chunk().await {
            Ok(None) => return Read::Whole,
            Ok(Some(chunk)) => {
                let room = max - body.len();
                body.extend_from_slice(&chunk[..chunk.len().min(room)]);
                if chunk.len() > room {
                    return Read::Capped;
                }
            }
            Err(error) => return Read::Broken(SendError::classify(&error)),
        }
    }
}

fn readable(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut room = HEADERS_MAX;
    let mut readable = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let Some(left) = room.checked_sub(name.as_str().len() + value.len()) else { break };
        room = left;
        readable.push((name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    readable
}
