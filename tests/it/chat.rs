//! Slack, played: its hooks by TLS, its API, and hooks of chats elsewhere.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;

use ringback::clock::Clock;
use ringback::domain::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::fakes::Shared;
use crate::harness::Neighbours;
use crate::tls::authority_and;
use crate::wire::{Headers, Request};

/// Slack's host for hooks.
pub const HOOKS: &str = "hooks.slack.com";
/// The bot's token.
pub const TOKEN: &str = "xoxb-1-2-hush";

/// A message as it was posted.
#[derive(Clone, Debug)]
pub struct Posted {
    pub at: Timestamp,
    pub path: String,
    pub payload: Value,
}

/// An answer: HTTP's status, headers and body.
pub type Said = (u16, Headers, String);

/// What the API says when it refuses.
pub fn refusal(word: &str) -> Said {
    (200, Headers::new(), json!({ "ok": false, "error": word }).to_string())
}

#[derive(Debug, Default)]
struct Room {
    script: HashMap<String, VecDeque<Said>>,
    unread: VecDeque<Posted>,
    complaints: Vec<String>,
}

/// A chat.
#[derive(Debug)]
pub struct Chat {
    secure: SocketAddr,
    plain: SocketAddr,
    room: Arc<Shared<Room>>,
    accepting: [JoinHandle<()>; 2],
}

impl Drop for Chat {
    fn drop(&mut self) {
        for task in &self.accepting {
            task.abort();
        }
    }
}

impl Chat {
    pub async fn start(neighbours: &mut Neighbours) -> Self {
        let (root, acceptor) = authority_and(HOOKS);
        neighbours.roots.push(root);
        let room = Shared::new(Room::default());
        let clock = Clock::Manual(neighbours.clock.clone());
        let listeners = [(); 2].map(|()| async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
        let [secure, plain] = listeners;
        let (secure, plain) = (secure.await, plain.await);
        let addresses = (secure.local_addr().unwrap(), plain.local_addr().unwrap());
        let accept = |listener: TcpListener, acceptor: Option<tokio_rustls::TlsAcceptor>| {
            let (room, clock) = (Arc::clone(&room), clock.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (room, clock, acceptor) = (Arc::clone(&room), clock.clone(), acceptor.clone());
                    tokio::spawn(async move {
                        match acceptor {
                            None => serve(stream, &room, &clock).await,
                            Some(acceptor) => {
                                let Ok(stream) = acceptor.accept(stream).await else { return };
                                serve(stream, &room, &clock).await;
                            }
                        }
                    });
                }
            })
        };
        let accepting = [accept(secure, Some(acceptor)), accept(plain, None)];
        Self { secure: addresses.0, plain: addresses.1, room, accepting }
    }

    /// A hook of Slack's own.
    pub fn hook(&self, secret: &str) -> String {
        format!("https://{HOOKS}:{}/services/T01/B02/{secret}", self.secure.port())
    }

    /// A hook of a chat elsewhere.
    pub fn elsewhere(&self, secret: &str) -> String {
        format!("http://{}/hooks/{secret}", self.plain)
    }

    /// What `[slack] api_url` says.
    pub fn api(&self) -> String {
        format!("http://{}/api", self.plain)
    }

    /// What is posted to paths that end so is answered so, then as it should.
    pub fn script(&self, end: &str, said: impl IntoIterator<Item = Said>) {
        self.room.change(|room| room.script.entry(end.to_owned()).or_default().extend(said));
    }

    /// The next message that nobody has read.
    pub async fn next(&self) -> Posted {
        self.room.until("a message", |room| room.unread.pop_front()).await
    }

    /// Everything that nobody has read.
    pub fn read_all(&self) -> Vec<Posted> {
        self.room.lock().unread.drain(..).collect()
    }

    /// Ends a test: nothing is unread, nobody complains.
    pub fn finish(self) {
        let room = self.room.lock();
        assert!(room.unread.is_empty(), "nobody read {:#?}", room.unread);
        assert!(room.complaints.is_empty(), "{:#?}", room.complaints);
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, room: &Shared<Room>, clock: &Clock) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await {
        let (status, headers, body) = room.change(|room| room.take(&request, clock.now()));
        let mut answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: {}\r\n", body.len());
        for (name, value) in headers {
            let _ = write!(answer, "{name}: {value}\r\n");
        }
        let _ = write!(answer, "\r\n{body}");
        if stream.get_mut().write_all(answer.as_bytes()).await.is_err() {
            return;
        }
        let _ = stream.get_mut().flush().await;
    }
}

impl Room {
    fn take(&mut self, request: &Request, at: Timestamp) -> Said {
        let path = request.path.clone();
        let Ok(payload) = serde_json::from_slice::<Value>(&request.body) else {
            self.complaints.push(format!("no JSON: {request:?}"));
            return (400, Headers::new(), "invalid_payload".into());
        };
        let api = path.starts_with("/api/");
        if api && request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            self.complaints.push(format!("another token: {request:?}"));
        }
        if !api && request.header("authorization").is_some() {
            self.complaints.push("the bot's token reached a hook".into());
        }
        self.unread.push_back(Posted { at, path: path.clone(), payload });
        let scripted = self.script.iter_mut().find(|(end, _)| path.ends_with(end.as_str()));
        let said = scripted.and_then(|(_, said)| said.pop_front());
        let usual =
            if api { json!({ "ok": true, "channel": "C1", "ts": "1.2" }).to_string() } else { "ok".into() };
        said.unwrap_or((200, Headers::new(), usual))
    }
}
