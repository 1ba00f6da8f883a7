//! A fake of Slack (its hooks with TLS, its API) and of compatible chats.

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

/// A received message.
#[derive(Clone, Debug)]
pub struct Posted {
    pub at: Timestamp,
    pub path: String,
    pub payload: Value,
}

/// A response: HTTP status, headers and body.
pub type Response = (u16, Headers, String);

/// Returns a refusal of the API.
pub fn refusal(word: &str) -> Response {
    (200, Headers::new(), json!({ "ok": false, "error": word }).to_string())
}

#[derive(Debug, Default)]
struct ChatState {
    script: HashMap<String, VecDeque<Response>>,
    unread: VecDeque<Posted>,
    errors: Vec<String>,
}

/// The fake chat.
#[derive(Debug)]
pub struct Chat {
    secure: SocketAddr,
    plain: SocketAddr,
    state: Arc<Shared<ChatState>>,
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
        let state = Shared::new(ChatState::default());
        let clock = Clock::Manual(neighbours.clock.clone());
        let listeners = [(); 2].map(|()| async { TcpListener::bind("127.0.0.1:0").await.unwrap() });
        let [secure, plain] = listeners;
        let (secure, plain) = (secure.await, plain.await);
        let addresses = (secure.local_addr().unwrap(), plain.local_addr().unwrap());
        let accept = |listener: TcpListener, acceptor: Option<tokio_rustls::TlsAcceptor>| {
            let (state, clock) = (Arc::clone(&state), clock.clone());
            tokio::spawn(async move {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let (state, clock, acceptor) = (Arc::clone(&state), clock.clone(), acceptor.clone());
                    tokio::spawn(async move {
                        match acceptor {
                            None => serve(stream, &state, &clock).await,
                            Some(acceptor) => {
                                let Ok(stream) = acceptor.accept(stream).await else { return };
                                serve(stream, &state, &clock).await;
                            }
                        }
                    });
                }
            })
        };
        let accepting = [accept(secure, Some(acceptor)), accept(plain, None)];
        Self { secure: addresses.0, plain: addresses.1, state, accepting }
    }

    /// Returns the URL of a Slack hook.
    pub fn hook(&self, secret: &str) -> String {
        format!("https://{HOOKS}:{}/services/T01/B02/{secret}", self.secure.port())
    }

    /// Returns the URL of a compatible hook.
    pub fn elsewhere(&self, secret: &str) -> String {
        format!("http://{}/hooks/{secret}", self.plain)
    }

    /// Returns the value of `[slack] api_url`.
    pub fn api(&self) -> String {
        format!("http://{}/api", self.plain)
    }

    /// Scripts the next responses to paths with this end.
    pub fn script(&self, end: &str, responses: impl IntoIterator<Item = Response>) {
        self.state.change(|state| state.script.entry(end.to_owned()).or_default().extend(responses));
    }

    /// Waits for the next unread message.
    pub async fn next(&self) -> Posted {
        self.state.until("a message", |state| state.unread.pop_front()).await
    }

    /// Returns all unread messages.
    pub fn read_all(&self) -> Vec<Posted> {
        self.state.lock().unread.drain(..).collect()
    }

    /// Ends a test: checks that no message is unread and that no error was found.
    pub fn finish(self) {
        let state = self.state.lock();
        assert!(state.unread.is_empty(), "unread messages: {:#?}", state.unread);
        assert!(state.errors.is_empty(), "{:#?}", state.errors);
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, state: &Shared<ChatState>, clock: &Clock) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream).await {
        let (status, headers, body) = state.change(|state| state.take(&request, clock.now()));
        let mut answer = format!("HTTP/1.1 {status} Response\r\ncontent-length: {}\r\n", body.len());
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

impl ChatState {
    fn take(&mut self, request: &Request, at: Timestamp) -> Response {
        let path = request.path.clone();
        let Ok(payload) = serde_json::from_slice::<Value>(&request.body) else {
            self.errors.push(format!("no JSON: {request:?}"));
            return (400, Headers::new(), "invalid_payload".into());
        };
        let api = path.starts_with("/api/");
        if api && request.header("authorization") != Some(&format!("Bearer {TOKEN}")) {
            self.errors.push(format!("another token: {request:?}"));
        }
        if !api && request.header("authorization").is_some() {
            self.errors.push("the bot's token reached a hook".into());
        }
        self.unread.push_back(Posted { at, path: path.clone(), payload });
        let scripted = self.script.iter_mut().find(|(end, _)| path.ends_with(end.as_str()));
        let said = scripted.and_then(|(_, said)| said.pop_front());
        let usual =
            if api { json!({ "ok": true, "channel": "C1", "ts": "1.2" }).to_string() } else { "ok".into() };
        said.unwrap_or((200, Headers::new(), usual))
    }
}
