//! A minimal HTTP/1.1 for both sides, with which fakes and clients can also send invalid messages. It supports
//! `content-length` and no other framing.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// Headers in the order of their arrival, names in lower case.
pub type Headers = Vec<(String, String)>;

fn find<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Request {
    /// Returns the first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Reads the next request of a connection; `None` at its end.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Self> {
        let (line, headers, body) = read_message(stream).await?;
        let mut words = line.split(' ').map(str::to_owned);
        Some(Self { method: words.next()?, path: words.next()?, headers, body })
    }
}

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Answer {
    /// Returns the first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// Checks the status and returns the body.
    #[track_caller]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// Reads the next response of a connection; `None` at its end.
    pub async fn read<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Self> {
        let (line, headers, body) = read_message(stream).await?;
        let status = line.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, headers, body })
    }
}

async fn read_message<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<(String, Headers, Vec<u8>)> {
    let first = read_line(stream).await?;
    let mut headers = Headers::new();
    loop {
        let line = read_line(stream).await?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = find(&headers, "content-length").map_or(Some(0), |length| length.parse().ok())?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some((first, headers, body))
}

async fn read_line<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line).await.ok().filter(|read| *read > 0)?;
    let text = line.strip_suffix(b"\r\n").or(line.strip_suffix(b"\n"))?;
    String::from_utf8(text.to_vec()).ok()
}

/// Returns a request as bytes.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: ringback\r\nconnection: close\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if !body.is_empty() || method == "POST" {
        let _ = write!(head, "content-length: {}\r\n", body.len());
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// Sends bytes on a new connection and reads one response; `None` if there is none.
pub async fn exchange(to: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(to).await.ok()?;
    // The server can close the connection before it has read everything; the response counts.
    let _ = stream.write_all(bytes).await;
    Answer::read(&mut BufReader::new(stream)).await
}
