//! Connections: to an address of a name that the guard has checked, directly or through the operator's proxy, with TLS
//! where the URL requires it.

use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use reqwest::header::HeaderValue;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use url::{Host, Url};

use super::error::{CONNECT_TIMEOUT, SendError};
use super::head_limit::Io;
use super::resolver::{Guard, LookupPhase};
use crate::clock::Clock;
use crate::dns;
use crate::tls::Trust;

/// The `user-agent` of every request that names no other: some firewalls refuse requests without one.
pub const USER_AGENT: &str = concat!("Ringback/", env!("CARGO_PKG_VERSION"));

/// Maximum size of a proxy's answer to CONNECT, in bytes.
const PROXY_ANSWER_MAX: usize = 8 * 1024;

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) is_https: bool,
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

impl Peer {
    /// Returns the host and the port of an http(s) URL.
    pub(super) fn of(url: &Url) -> Option<Self> {
        let (host, port) = (url.host()?.to_owned(), url.port_or_known_default()?);
        Some(Self { is_https: url.scheme() == "https", host, port })
    }
}

/// The operator's proxy.
pub(super) struct ProxyPeer {
    peer: Peer,
    /// The value of `proxy-authorization`.
    pub(super) authorization: Option<HeaderValue>,
}

impl ProxyPeer {
    pub(super) fn of(url: &Url) -> Option<Self> {
        let decoded = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let (name, password) = (url.username(), url.password());
        let mut authorization = None;
        if !name.is_empty() || password.is_some() {
            let both = [&decoded(name)[..], b":", &decoded(password.unwrap_or_default())].concat();
            let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(both))).ok()?;
            value.set_sensitive(true);
            authorization = Some(value);
        }
        Some(Self { peer: Peer::of(url)?, authorization })
    }
}

/// Makes the connections of an HTTP client.
pub(super) struct Connector {
    pub(super) guard: Guard,
    pub(super) proxy: Option<Arc<ProxyPeer>>,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) clock: Clock,
}

impl Connector {
    /// Connects within [`CONNECT_TIMEOUT`]. `tls`, with the origin of its authorities, is for the peer, not for the proxy.
    pub(super) async fn connect(
        &self,
        peer: &Peer,
        tls: (&Arc<ClientConfig>, Trust),
        phase: &LookupPhase,
    ) -> Result<Box<dyn Io>, SendError> {
        let connected = self.clock.timeout(CONNECT_TIMEOUT, self.connecting(peer, tls, phase)).await;
        connected.unwrap_or_else(|| Err(SendError::not_connected()))
    }

    async fn connecting(
        &self,
        peer: &Peer,
        tls: (&Arc<ClientConfig>, Trust),
        phase: &LookupPhase,
    ) -> Result<Box<dyn Io>, SendError> {
        let first = self.proxy.as_ref().map_or(peer, |proxy| &proxy.peer);
        let tcp = tcp(&self.clock, &self.guard, &first.host, first.port, phase).await?;
        let Some(proxy) = &self.proxy else {
            return if peer.is_https {
                Ok(Box::new(secure_peer(tls, tcp, peer).await?))
            } else {
                Ok(Box::new(tcp))
            };
        };
        let mut stream: Box<dyn Io> = if proxy.peer.is_https {
            Box::new(secure_peer((&self.tls, Trust::Machine), tcp, &proxy.peer).await?)
        } else {
            Box::new(tcp)
        };
        if peer.is_https {
            open_tunnel(&mut stream, proxy, peer).await?;
            stream = Box::new(secure_peer(tls, stream, peer).await?);
        }
        Ok(stream)
    }
}

async fn secure_peer<S: Io>(
    tls: (&Arc<ClientConfig>, Trust),
    stream: S,
    peer: &Peer,
) -> Result<TlsStream<S>, SendError> {
    let host = match &peer.host {
        Host::Domain(name) => name.clone(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => address.to_string(),
    };
    secure(tls, stream, host).await
}

/// Connects to a host. A name is resolved and checked by the guard; an address was checked before.
pub(super) async fn tcp(
    clock: &Clock,
    guard: &Guard,
    host: &Host<String>,
    port: u16,
    phase: &LookupPhase,
) -> Result<TcpStream, SendError> {
    let addresses = match host {
        Host::Domain(name) => guard.addresses(name, phase).await?,
        Host::Ipv4(address) => vec![IpAddr::V4(*address)],
        Host::Ipv6(address) => vec![IpAddr::V6(*address)],
    };
    let failed = |error| SendError::connecting(&error);
    let stream = dns::dial(clock, addresses, port).await.map_err(failed)?;
    // A request is written at once, so there is nothing to wait for.
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// Starts TLS and verifies that the peer is `host`.
pub(super) async fn secure<S: Io>(
    (tls, trust): (&Arc<ClientConfig>, Trust),
    stream: S,
    host: String,
) -> Result<TlsStream<S>, SendError> {
    let Ok(name) = ServerName::try_from(host.clone()) else {
        return Err(SendError::Tls(format!("`{host}` is not a name that a certificate can have")));
    };
    let connected = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await;
    connected.map_err(|error| SendError::not_secure(&error, trust))
}

/// Asks the proxy to connect to the destination.
async fn open_tunnel(stream: &mut impl Io, proxy: &ProxyPeer, peer: &Peer) -> Result<(), SendError> {
    let failed = |error: std::io::Error| SendError::connecting(&error);
    let authority = format!("{}:{}", peer.host, peer.port);
    let mut request =
        format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nuser-agent: {USER_AGENT}\r\n")
            .into_bytes();
    if let Some(authorization) = &proxy.authorization {
        request.extend([b"proxy-authorization: ", authorization.as_bytes(), b"\r\n"].concat());
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await.map_err(failed)?;
    stream.flush().await.map_err(failed)?;
    let mut answer = Vec::new();
    // The destination sends nothing before the TLS handshake, so the answer ends with its head.
    while !answer.ends_with(b"\r\n\r\n") {
        let is_closed = stream.read_buf(&mut answer).await.map_err(failed)? == 0;
        if is_closed || answer.len() > PROXY_ANSWER_MAX {
            break;
        }
    }
    let status = answer.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5)).unwrap_or_default();
    match status {
        [b'2', ..] if answer.ends_with(b"\r\n\r\n") => Ok(()),
        b"407" => Err(SendError::Connect("the proxy requires another name or password".into())),
        _ => Err(SendError::Connect("the proxy cannot connect to the destination".into())),
    }
}
