//! A receiver that answers the first attempts of each webhook in a hostile way, and the later ones with 200.
//!
//! It counts attempts by `webhook-id`, so that a fault of one delivery does not depend on the others. It writes raw
//! bytes: most of its answers are not HTTP that a library would send.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};

use ringback::clock::Clock;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::crash::nap;
use crate::fakes::{Hit, Shared};
use crate::wire::Request;

/// How the first attempts are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// One byte of the head every 30 ms, without end.
    SlowHead,
    /// One byte of the body every 30 ms.
    SlowBody,
    /// A body without end, as fast as possible.
    Endless,
    /// A reset: before the request is read, and before, in and after each part of the answer.
    Reset,
    /// A `content-length` that is too large, too small, twice there, no number, or contradicted by chunks.
    WrongLength,
    /// A small compressed body that is large when it is decoded.
    Bomb,
    /// A redirect to a URL that redirects back.
    Redirect,
    /// An answer, by a server whose TLS fails for its first connections.
    Tls,
}

impl Behaviour {
    /// Number of attempts of each webhook that are answered in this way.
    const fn attempts(self) -> u32 {
        match self {
            Self::SlowHead | Self::SlowBody | Self::Endless | Self::Bomb => 2,
            Self::Reset | Self::WrongLength => 5,
            Self::Redirect => 3,
            Self::Tls => 0,
        }
    }
}

/// Number of connections that are reset before their request is read ([`Behaviour::Reset`]).
const UNREAD: usize = 3;

/// Length of the decoded bomb, in bytes.
const BOMB: usize = 256 << 20;

/// The bomb: zeros, compressed.
static COMPRESSED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let block = vec![0; 1 << 20];
    (0..BOMB >> 20).for_each(|_| encoder.write_all(&block).unwrap());
    encoder.finish().unwrap()
});

/// Returns the compressed bomb.
pub fn bomb() -> Vec<u8> {
    COMPRESSED.clone()
}

#[derive(Debug, Default)]
struct Log {
    connections: usize,
    attempts: HashMap<String, u32>,
    hits: Vec<Hit>,
    /// Requests that follow a redirect.
    followed: Vec<String>,
}

/// What the server does with the TLS of its first connections; later ones are accepted.
pub struct Tls {
    /// Certificates that the client trusts for this address, does not trust, and trusts for another name.
    pub good: TlsAcceptor,
    pub untrusted: TlsAcceptor,
    pub other_name: TlsAcceptor,
}

/// The receiver. It stops when it is dropped.
pub struct Hostile {
    address: SocketAddr,
    log: Arc<Shared<Log>>,
    accepting: JoinHandle<()>,
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Hostile {
    pub async fn start(behaviour: Behaviour, tls: Option<Tls>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, log) = (listener.local_addr().unwrap(), Shared::new(Log::default()));
        let accepting = tokio::spawn({
            let (log, tls) = (Arc::clone(&log), tls.map(Arc::new));
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let number = log.change(|log| {
                        log.connections += 1;
                        log.connections - 1
                    });
                    let (log, tls) = (Arc::clone(&log), tls.clone());
                    tokio::spawn(async move {
                        match tls {
                            Some(tls) => serve_tls(stream, number, &tls, &log, address).await,
                            None if behaviour == Behaviour::Reset && number < UNREAD => {
                                let _ = stream.set_zero_linger();
                            }
                            None => serve(stream, behaviour, &log, address).await,
                        }
                    });
                }
            }
        });
        Self { address, log, accepting }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns every webhook that was read.
    pub fn hits(&self) -> Vec<Hit> {
        self.log.lock().hits.clone()
    }

    /// Returns the requests that followed a redirect.
    pub fn followed(&self) -> Vec<String> {
        self.log.lock().followed.clone()
    }

    /// Returns the number of attempts that were answered in the hostile way.
    pub fn hostile_attempts(&self) -> u32 {
        self.log.lock().attempts.values().sum()
    }

    /// Returns the number of connections.
    pub fn connections(&self) -> usize {
        self.log.lock().connections
    }
}

async fn serve_tls(stream: TcpStream, number: usize, tls: &Tls, log: &Shared<Log>, address: SocketAddr) {
    let acceptor = match number {
        // It closes, answers without TLS, answers with a record that is none, or never answers.
        0 => return,
        1 => return write_and_close(stream, b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await,
        2 => return write_and_close(stream, &[0x16, 3, 3, 0xff, 0xff, 0, 0, 0]).await,
        3 => return until_closed(stream).await,
        4 | 5 => &tls.untrusted,
        6 | 7 => &tls.other_name,
        _ => &tls.good,
    };
    if let Ok(stream) = acceptor.accept(stream).await {
        serve(stream, Behaviour::Tls, log, address).await;
    }
}

async fn write_and_close(mut stream: TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes).await;
    // Without this, unread bytes of the client make a reset of the close.
    let _ = stream.shutdown().await;
    until_closed(stream).await;
}

async fn until_closed(mut stream: impl AsyncRead + Unpin) {
    let mut bytes = [0; 1024];
    while let Ok(1..) = stream.read(&mut bytes).await {}
}

/// A stream whose connection can be reset.
trait Resettable {
    fn reset(&self);
}

impl Resettable for TcpStream {
    fn reset(&self) {
        let _ = self.set_zero_linger();
    }
}

impl Resettable for tokio_rustls::server::TlsStream<TcpStream> {
    fn reset(&self) {
        let _ = self.get_ref().0.set_zero_linger();
    }
}

async fn serve<S>(stream: S, behaviour: Behaviour, log: &Shared<Log>, address: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Resettable + Unpin,
{
    let mut stream = BufReader::new(stream);
    while let Some(Request { path, headers, body, .. }) = Request::read(&mut stream).await {
        let hit = Hit { at: Clock::System.now(), path, headers, body };
        if hit.path.starts_with("/circle") {
            log.change(|log| log.followed.push(hit.path));
            return;
        }
        let attempt = log.change(|log| {
            let attempt = log.attempts.entry(hit.id().to_owned()).or_default();
            let number = *attempt;
            *attempt += u32::from(number < behaviour.attempts());
            log.hits.push(hit);
            number
        });
        let is_open = if attempt < behaviour.attempts() {
            misbehave(stream.get_mut(), behaviour, attempt, address).await
        } else {
            stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_ok()
        };
        if !is_open {
            return;
        }
    }
}

/// Answers an attempt. Returns whether the connection can be used again.
async fn misbehave<S>(stream: &mut S, behaviour: Behaviour, attempt: u32, address: SocketAddr) -> bool
where
    S: AsyncWrite + Resettable + Unpin,
{
    match behaviour {
        Behaviour::SlowHead => {
            let start: &[u8] = if attempt == 0 { b"HTTP/1.1 20" } else { b"HTTP/1.1 200 OK\r\nx-slow: " };
            let _ = stream.write_all(start).await;
            drip(stream).await;
        }
        // The last one is a 2xx, which counts although its body is slow.
        Behaviour::SlowBody | Behaviour::Endless => {
            let status = if attempt == 0 { 500 } else { 200 };
            let head = format!("HTTP/1.1 {status} Slow\r\ncontent-length: 1000000000000\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            if behaviour == Behaviour::SlowBody {
                drip(stream).await;
            } else {
                while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
            }
        }
        Behaviour::Reset => {
            let whole =
                b"HTTP/1.1 500 Error\r\ncontent-length: 100\r\nx-long: header\r\n\r\nthe beginning of a body";
            let head = whole.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
            // Before the first byte; in the status line, a header and the body; between head and body.
            let length = [0, 11, head - 9, head, whole.len()][attempt as usize];
            let _ = stream.write_all(&whole[..length]).await;
            let _ = stream.flush().await;
            // What was written arrives before the reset.
            nap(20).await;
            stream.reset();
        }
        Behaviour::WrongLength => {
            let (headers, body) = [
                ("content-length: 1000", "too short"),
                ("content-length: 3", "too long"),
                ("content-length: 3\r\ncontent-length: 7", "twice"),
                ("content-length: -1", "no number"),
                ("content-length: 5\r\ntransfer-encoding: chunked", "fffffffffffffffff\r\nx\r\n"),
            ][attempt as usize];
            let mut answer = String::from("HTTP/1.1 500 Error\r\n");
            let _ = write!(answer, "{headers}\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
        Behaviour::Bomb => {
            let (status, encoding) = [(500, "gzip"), (503, "gzip, gzip")][attempt as usize];
            let length = COMPRESSED.len();
            let head = format!(
                "HTTP/1.1 {status} Bomb\r\ncontent-encoding: {encoding}\r\ncontent-length: {length}\r\n\r\n"
            );
            let _ = stream.write_all(head.as_bytes()).await;
            return stream.write_all(&COMPRESSED).await.is_ok();
        }
        Behaviour::Redirect => {
            let status = [301, 307, 308][attempt as usize];
            let head = format!(
                "HTTP/1.1 {status} Moved\r\nlocation: http://{address}/circle\r\ncontent-length: 0\r\n\r\n"
            );
            return stream.write_all(head.as_bytes()).await.is_ok();
        }
        Behaviour::Tls => {}
    }
    false
}

/// Writes a byte every 30 ms until the client closes the connection.
async fn drip(stream: &mut (impl AsyncWrite + Unpin)) {
    while stream.write_all(b"x").await.is_ok() {
        nap(30).await;
    }
}
