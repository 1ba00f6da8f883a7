//! One HTTP client: a request on a connection of the pool or on a new one, and its response.
//!
//! The client is built on the connections of hyper. The client of reqwest has no limit on informational responses and
//! none on all unused connections, and does not give access to the connection (version 0.13).
//!
//! **An unused connection can be closed while a request is on its way**: many servers close after 5 s without a request
//! (nodejs/node#20256). If the peer then sends no byte of an answer, the request is sent once more, on a new connection,
//! within the same attempt and its deadline. The peer may have processed the first request; a retry of the attempt would
//! have the same effect, minutes later. A poll counts against the provider's rate, so it is an error of its own instead
//! ([`SendError::Closed`]), and the poller repeats it within the limits.

use std::error::Error as _;
use std::io::{self, ErrorKind, Write as _};
use std::sync::Arc;
use std::time::Duration;

use flate2::write::MultiGzDecoder;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use reqwest::Method;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, Entry, HOST, HeaderMap, HeaderValue,
    PROXY_AUTHORIZATION, TRANSFER_ENCODING, USER_AGENT,
};
use url::{Position, Url};

use super::connect::{self, Connector, Peer};
use super::error::SendError;
use super::head_limit::{HeadLimit, LimitedStream};
use super::identity::ClientIdentity;
use super::pool::Pool;
use super::resolver::{AddressPolicy, LookupPhase};
use crate::clock::Moment;
use crate::tls::Trust;

/// Maximum size of the head of a response, in bytes, and of the buffer that reads a body.
const HEAD_MAX: usize = 64 * 1024;

/// Maximum number of header lines of a response. Some load balancers and frameworks set a hundred cookies.
const HEADERS_MAX: usize = 512;

/// Maximum time for a connection to become free after its response is complete.
const FREE_AFTER: Duration = Duration::from_secs(1);

/// Maximum age of a connection that gets another request. Without it, a host that is used every few seconds would be
/// reached at an address that its name has lost long ago, and with a certificate whose authority is not trusted any more.
const AGE_MAX: Duration = Duration::from_secs(60);

/// Number of compressed bytes that are decoded at a time. They become a thousand times as many at most.
const DECODED_AT_ONCE: usize = 1024;

/// The destination of a connection, and the rules by which it was made.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct PoolKey {
    policy: AddressPolicy,
    peer: Peer,
    /// Fingerprint of the TLS identity.
    identity: Option<Arc<str>>,
}

/// A connection, without a request or with one in progress.
pub(super) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    limit: Arc<HeadLimit>,
    opened_at: Moment,
}

impl Connection {
    /// Returns whether it is too old for another request.
    fn is_old(&self, now: Moment) -> bool {
        now.since(self.opened_at) >= AGE_MAX
    }
}

/// The connections of all clients.
pub(super) type Connections = Pool<PoolKey, Connection>;

/// A request.
pub(super) struct HttpRequest {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// TLS identity in place of that of the client.
    pub(super) identity: Option<Arc<ClientIdentity>>,
    /// Where the authorities come from, if there is no such identity.
    pub(super) trust: Trust,
}

/// An HTTP client.
pub(super) struct HttpClient {
    pub(super) connector: Connector,
    pub(super) pool: Arc<Connections>,
    /// Whether bodies may be compressed, and are decoded.
    pub(super) decodes: bool,
    /// Whether a request is sent once more if an unused connection was closed while it was on its way. A poll is not: it
    /// would exceed the provider's rate.
    pub(super) resends: bool,
}

/// A response whose body is not read yet.
pub(super) struct HttpResponse {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Incoming,
    /// Whether only the end of the connection ends the body.
    ends_with_connection: bool,
    decoder: Option<MultiGzDecoder<Vec<u8>>>,
    key: Arc<PoolKey>,
    connection: Connection,
    pool: Arc<Connections>,
    clock: crate::clock::Clock,
}

impl HttpClient {
    /// Sends a request and returns the head of the response. Marks its lookup in `phase`.
    pub(super) async fn send(
        &self,
        request: HttpRequest,
        phase: &LookupPhase,
    ) -> Result<HttpResponse, SendError> {
        let unusable = || SendError::Protocol("the HTTP client cannot use this URL".into());
        let peer = Peer::of(&request.url).ok_or_else(unusable)?;
        let (identity, trust) = (request.identity.clone(), request.trust);
        let mut request = self.prepare(request, &peer).ok_or_else(unusable)?;
        let key = Arc::new(PoolKey {
            policy: self.connector.guard.policy,
            peer,
            identity: identity.as_ref().map(|identity| Arc::clone(identity.fingerprint())),
        });
        let mut was_closed = false;
        loop {
            // After a connection that was closed, others of the pool may be closed as well.
            let unused = if was_closed { None } else { self.pool.take(&*key) };
            let now = self.connector.clock.moment();
            let unused = unused.filter(|connection| !connection.is_old(now));
            let (mut connection, is_new) = match unused {
                Some(connection) => (connection, false),
                None => (self.connect(&key.peer, (identity.as_deref(), trust), phase).await?, true),
            };
            connection.limit.begin();
            let limit = Arc::clone(&connection.limit);
            hyper::ext::on_informational(&mut request, move |_| limit.count_informational());
            let copy = (!is_new).then(|| request.clone());
            match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(self.response(response, key, connection)),
                Err(mut failed) => match (failed.take_message(), copy) {
                    // The peer closed the connection while it was unused: nothing was sent.
                    (Some(unsent), Some(_)) => request = unsent,
                    // It closed the connection while the request was on its way. The new connection is the last try.
                    (None, Some(copy)) if is_closed(failed.error()) && connection.limit.is_silent() => {
                        if !self.resends {
                            // The repeated request needs a new connection.
                            self.pool.forget(&*key);
                            return Err(SendError::Closed);
                        }
                        (request, was_closed) = (copy, true);
                    }
                    _ => return Err(SendError::of_exchange(failed.error())),
                },
            }
        }
    }

    /// Adds what every request has. Returns `None` if the URL cannot be sent.
    fn prepare(&self, request: HttpRequest, peer: &Peer) -> Option<hyper::Request<Full<Bytes>>> {
        let HttpRequest { method, url, headers, body, identity: _, trust: _ } = request;
        let forwarding = self.connector.proxy.as_ref().filter(|_| !peer.is_https);
        let start = if forwarding.is_some() { Position::BeforeScheme } else { Position::BeforePath };
        let mut all = HeaderMap::with_capacity(headers.len() + 4);
        all.insert(HOST, HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]).ok()?);
        all.extend(headers);
        if let Entry::Vacant(accept) = all.entry(ACCEPT) {
            accept.insert(HeaderValue::from_static("*/*"));
        }
        if let Entry::Vacant(agent) = all.entry(USER_AGENT) {
            agent.insert(HeaderValue::from_static(connect::USER_AGENT));
        }
        if self.decodes
            && let Entry::Vacant(encoding) = all.entry(ACCEPT_ENCODING)
        {
            encoding.insert(HeaderValue::from_static("gzip"));
        }
        if let Some(authorization) = forwarding.and_then(|proxy| proxy.authorization.clone()) {
            all.insert(PROXY_AUTHORIZATION, authorization);
        }
        let mut prepared = hyper::Request::new(Full::new(body));
        *prepared.method_mut() = method;
        *prepared.uri_mut() = url[start..Position::AfterQuery].parse().ok()?;
        *prepared.headers_mut() = all;
        Some(prepared)
    }

    async fn connect(
        &self,
        peer: &Peer,
        (identity, trust): (Option<&ClientIdentity>, Trust),
        phase: &LookupPhase,
    ) -> Result<Connection, SendError> {
        let limit = Arc::<HeadLimit>::default();
        let of_client = (&self.connector.tls, trust);
        let tls = identity.map_or(of_client, |identity| (&identity.config, identity.trust));
        let stream = LimitedStream::new(self.connector.connect(peer, tls, phase).await?, Arc::clone(&limit));
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(HEAD_MAX)
            .max_headers(HEADERS_MAX)
            // What old servers and gateways send, and browsers accept. The status decides, so a line that nothing reads
            // must not turn a success into a failure.
            .allow_obsolete_multiline_headers_in_responses(true)
            .allow_spaces_after_header_name_in_responses(true)
            .ignore_invalid_headers_in_responses(true);
        let handshake = builder.handshake(TokioIo::new(stream)).await;
        let (sender, connection) = handshake.map_err(|error| SendError::of_exchange(&error))?;
        tokio::spawn(async move {
            // The exchange gets the error.
            let _ = connection.await;
        });
        Ok(Connection { sender, limit, opened_at: self.connector.clock.moment() })
    }

    fn response(
        &self,
        response: hyper::Response<Incoming>,
        key: Arc<PoolKey>,
        connection: Connection,
    ) -> HttpResponse {
        connection.limit.end();
        let (mut parts, body) = response.into_parts();
        let has_length =
            [CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| parts.headers.contains_key(name));
        let is_compressed = parts.headers.get(CONTENT_ENCODING).is_some_and(is_gzip);
        let decoder = (self.decodes && is_compressed).then(|| {
            parts.headers.remove(CONTENT_ENCODING);
            parts.headers.remove(CONTENT_LENGTH);
            MultiGzDecoder::new(Vec::new())
        });
        HttpResponse {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            ends_with_connection: !has_length,
            decoder,
            key,
            connection,
            pool: Arc::clone(&self.pool),
            clock: self.connector.clock.clone(),
        }
    }
}

impl HttpResponse {
    /// Reads the body of up to `max` decoded bytes into `bytes`. They remain there if the future is dropped.
    pub(super) async fn read(mut self, bytes: &mut Vec<u8>, max: usize) -> Result<(), SendError> {
        let mut received = 0;
        while let Some(frame) = self.body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // TLS without `close_notify`: the end was not announced, so the body may be incomplete. The status of a
                // receiver decides in any case, and a part of a JSON object is not JSON.
                Err(error) if self.ends_with_connection && is_unannounced_end(&error) => break,
                Err(error) => return Err(SendError::of_exchange(&error)),
            };
            let Ok(chunk) = frame.into_data() else { continue };
            received += chunk.len();
            match &mut self.decoder {
                None => append(bytes, &chunk, max)?,
                // An endless series of empty parts decodes to nothing.
                Some(_) if received > max + max / 8 + HEAD_MAX => return Err(SendError::TooLarge(max)),
                Some(decoder) => decode(decoder, &chunk, bytes, max)?,
            }
        }
        if let Some(mut decoder) = self.decoder.take().filter(|_| received > 0) {
            decoder.try_finish().map_err(|_| undecodable())?;
            append(bytes, decoder.get_ref(), max)?;
        }
        self.release();
        Ok(())
    }

    /// Returns the connection to the pool as soon as it is free.
    fn release(self) {
        let Self { key, mut connection, pool, clock, .. } = self;
        if connection.is_old(clock.moment()) {
            return;
        }
        if connection.sender.is_ready() {
            pool.put(key, connection);
        } else if !connection.sender.is_closed() {
            tokio::spawn(async move {
                if let Some(Ok(())) = clock.timeout(FREE_AFTER, connection.sender.ready()).await {
                    pool.put(key, connection);
                }
            });
        }
    }
}

/// Returns whether the peer closed the connection, orderly or not.
fn is_closed(error: &hyper::Error) -> bool {
    let by_kind = |kind| {
        matches!(
            kind,
            ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::NotConnected
                | ErrorKind::UnexpectedEof
        )
    };
    error.is_incomplete_message() || error.is_closed() || io_kind(error).is_some_and(by_kind)
}

/// Returns whether the connection ended without `close_notify`.
fn is_unannounced_end(error: &hyper::Error) -> bool {
    io_kind(error) == Some(ErrorKind::UnexpectedEof)
}

fn io_kind(error: &hyper::Error) -> Option<ErrorKind> {
    error.source()?.downcast_ref::<io::Error>().map(io::Error::kind)
}

/// Whether a content coding is gzip. Names of codings are case-insensitive, and `x-gzip` is equivalent (RFC 9110,
/// section 8.4.1).
fn is_gzip(coding: &HeaderValue) -> bool {
    ["gzip", "x-gzip"].iter().any(|name| coding.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
}

fn append(bytes: &mut Vec<u8>, chunk: &[u8], max: usize) -> Result<(), SendError> {
    let remaining = max - bytes.len();
    bytes.extend_from_slice(&chunk[..chunk.len().min(remaining)]);
    if chunk.len() > remaining { Err(SendError::TooLarge(max)) } else { Ok(()) }
}

fn decode(
    decoder: &mut MultiGzDecoder<Vec<u8>>,
    chunk: &[u8],
    bytes: &mut Vec<u8>,
    max: usize,
) -> Result<(), SendError> {
    for part in chunk.chunks(DECODED_AT_ONCE) {
        decoder.write_all(part).map_err(|_| undecodable())?;
        append(bytes, decoder.get_ref(), max)?;
        decoder.get_mut().clear();
    }
    Ok(())
}

fn undecodable() -> SendError {
    SendError::Protocol("the answer cannot be decoded".into())
}
