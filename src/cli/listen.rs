//! `ringback listen`: a local receiver that verifies and shows what arrives.
//!
//! [`Listener`] is the receiver without the printing; the demo uses it too. It is a tool for one
//! developer on one machine: it binds to loopback alone and has no timeouts of its own.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::routing::post;
use serde::de::IgnoredAny;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::{Failure, say, stopped};
use crate::channels::webhook::{self, Secret};
use crate::clock::Clock;

/// Four times what a webhook can have.
const BODY_MAX: usize = 1024 * 1024;
/// How many ids are remembered to count their attempts; then counting starts anew.
const IDS_MAX: usize = 10_000;
/// Arrivals that nobody has looked at yet; then senders wait.
const UNSEEN_MAX: usize = 256;
/// How much is shown of a body that is not JSON.
const SHOWN_MAX: usize = 4 * 1024;

/// Receive webhooks on this machine, verify them and show them
///
/// It answers 204, or 401 where the signature does not hold, or 503 to those that --fail refuses.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback listen --secret whsec_… --fail 3

A private address is only called back where it is allowed; start the server with
  RINGBACK_EGRESS__ALLOW=127.0.0.1/32 ringback serve")]
pub struct Listen {
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Verify signatures with this secret, as whsec_…
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Refuse the first N with 503, to see them come again
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail: u32,
}

impl Listen {
    /// Runs the command until it is stopped.
    pub async fn run(self) -> Result<(), Failure> {
        let secret = self.secret.as_deref().map(Secret::parse).transpose();
        let secret = secret.map_err(|why| Failure::Usage(format!("--secret: {why}")))?;
        let (listener, mut arrivals) =
            Listener::bind(Clock::System, self.port, secret, self.fail).await.with_context(|| {
                format!("port {} cannot be listened on; --port 0 takes a free one", self.port)
            })?;
        say(format_args!("Listening on {}", listener.url()))?;
        say("The server calls it back if it was started with RINGBACK_EGRESS__ALLOW=127.0.0.1/32")?;
        let show = async {
            while let Some(arrival) = arrivals.recv().await {
                say(format_args!("\n{arrival}"))?;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::select! {
            served = listener.serve() => served.context("the receiver broke down")?,
            shown = show => shown?,
            asked = stopped() => asked?,
        }
        Ok(())
    }
}

/// A receiver on loopback.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    receiver: Arc<Receiver>,
}

impl Listener {
    /// Takes the port (0: a free one). What arrives comes out of the channel; who drops the channel
    /// still gets answers sent.
    pub async fn bind(
        clock: Clock,
        port: u16,
        secret: Option<Secret>,
        fail: u32,
    ) -> std::io::Result<(Self, mpsc::Receiver<Arrival>)> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = socket.local_addr()?;
        let (arrivals, seen) = mpsc::channel(UNSEEN_MAX);
        let tally = Mutex::new(Tally { fail, attempts: HashMap::new() });
        Ok((Self { socket, address, receiver: Arc::new(Receiver { clock, secret, tally, arrivals }) }, seen))
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What it answers, on every path.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/", post(receive))
            .route("/{*path}", post(receive))
            .layer(DefaultBodyLimit::max(BODY_MAX))
            .with_state(self.receiver.clone())
    }

    /// Serves until it is dropped.
    pub async fn serve(self) -> std::io::Result<()> {
        let router = self.router();
        axum::serve(self.socket, router).await
    }
}

struct Receiver {
    clock: Clock,
    secret: Option<Secret>,
    tally: Mutex<Tally>,
    arrivals: mpsc::Sender<Arrival>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

struct Tally {
    /// How many are still to be refused.
    fail: u32,
    attempts: HashMap<String, u32>,
}

/// Something that arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// The path and query that were asked for.
    pub path: String,
    /// `webhook-id`; empty if there was none.
    pub id: String,
    /// `ringback-event`; empty if there was none.
    pub event: String,
    /// How often this id has come, this time included.
    pub attempt: u32,
    /// Whether the signature holds.
    pub signature: Signature,
    /// What was answered.
    pub answered: StatusCode,
    /// The exact bytes.
    pub body: Bytes,
}

/// Whether a signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// It does.
    Verified,
    /// It does not, and why.
    Wrong(String),
    /// Without a secret nobody can say.
    NoSecret,
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let arrival = receiver.judge(&uri, &headers, body);
    let answered = arrival.answered;
    // Whoever dropped the other end does not want to know.
    let _ = receiver.arrivals.send(arrival).await;
    answered
}

impl Receiver {
    fn judge(&self, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Arrival {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id = header("webhook-id").to_owned();
        let signature = match &self.secret {
            None => Signature::NoSecret,
            Some(secret) => {
                let (time, signatures) = (header("webhook-timestamp"), header("webhook-signature"));
                match webhook::verify(
                    secret,
                    &id,
                    time,
                    signatures,
                    &body,
                    self.clock.now(),
                    webhook::TOLERANCE,
                ) {
                    Ok(()) => Signature::Verified,
                    Err(why) => Signature::Wrong(why.to_string()),
                }
            }
        };
        let (attempt, refused) = self.tally.lock().unwrap_or_else(PoisonError::into_inner).count(&id);
        let answered = match signature {
            _ if refused => StatusCode::SERVICE_UNAVAILABLE,
            Signature::Wrong(_) => StatusCode::UNAUTHORIZED,
            Signature::Verified | Signature::NoSecret => StatusCode::NO_CONTENT,
        };
        let event = header("ringback-event").to_owned();
        Arrival { path: uri.to_string(), id, event, attempt, signature, answered, body }
    }
}

impl Tally {
    /// The attempts of this id, and whether this one is refused.
    fn count(&mut self, id: &str) -> (u32, bool) {
        if self.attempts.len() >= IDS_MAX {
            self.attempts.clear();
        }
        let attempts = self.attempts.entry(id.to_owned()).or_default();
        *attempts += 1;
        let refused = self.fail > 0;
        self.fail = self.fail.saturating_sub(1);
        (*attempts, refused)
    }
}

impl fmt::Display for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or = |text: &str, other: &str| if text.is_empty() { other.to_owned() } else { text.to_owned() };
        let event = or(&self.event, "(no ringback-event)");
        let id = or(&self.id, "(no webhook-id)");
        writeln!(f, "{event}  {id}  attempt {}  {} → {}", self.attempt, self.path, self.answered.as_u16())?;
        match &self.signature {
            Signature::Verified => writeln!(f, "signature: verified")?,
            Signature::Wrong(why) => writeln!(f, "signature: wrong: {why}")?,
            Signature::NoSecret => writeln!(f, "signature: not checked, no --secret was given")?,
        }
        f.write_str(&pretty(&self.body))
    }
}

/// JSON, indented, its order and its numbers as they came; anything else as text without control
/// characters, which a terminal would obey.
fn pretty(body: &[u8]) -> String {
    if let (Ok(text), Ok(_)) = (str::from_utf8(body), serde_json::from_slice::<IgnoredAny>(body)) {
        return indent(text);
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_MAX)]).escape_debug().to_string();
    format!("{} bytes that are not JSON: {shown}", body.len())
}

/// Indents text that is known to be JSON. Not by way of `serde_json::Value`, which sorts keys.
fn indent(json: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0, false, false);
    let line = |out: &mut String, depth: usize| out.extend(["\n", &"  ".repeat(depth)]);
    let mut chars = json.chars().filter(|c| !c.is_control()).peekable();
    while let Some(c) = chars.next() {
        if in_string {
            out.push(c);
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        match c {
            ' ' => {}
            '{' | '[' => {
                out.push(c);
                while chars.next_if_eq(&' ').is_some() {}
                if let Some(close) = chars.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(1_771_426_951_000);

    fn secret() -> Secret {
        Secret::parse("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz").expect("a secret")
    }

    fn receiver(secret: Option<Secret>, fail: u32) -> Receiver {
        let (arrivals, _) = mpsc::channel(1);
        let clock = Clock::Manual(ManualClock::at(NOW));
        Receiver { clock, secret, tally: Mutex::new(Tally { fail, attempts: HashMap::new() }), arrivals }
    }

    fn headers(signature: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("webhook-id", "evt_1"),
            ("webhook-timestamp", "1771426951"),
            ("webhook-signature", signature),
            ("ringback-event", "job.completed"),
        ] {
            headers.insert(name, value.parse().expect("a header"));
        }
        headers
    }

    #[test]
    fn the_first_are_refused_and_attempts_are_counted_for_each_id() {
        let body = Bytes::from_static(b"{}");
        let good = webhook::sign(&secret(), "evt_1", NOW.seconds(), &body);
        let receiver = receiver(Some(secret()), 2);
        let seen = [1, 2, 3].map(|_| {
            let arrival = receiver.judge(&Uri::from_static("/hook"), &headers(&good), body.clone());
            (arrival.attempt, arrival.answered.as_u16(), arrival.signature == Signature::Verified)
        });
        assert_eq!(seen, [(1, 503, true), (2, 503, true), (3, 204, true)]);
    }

    #[test]
    fn what_is_not_signed_is_refused_and_without_a_secret_everything_is_taken() {
        let body = Bytes::from_static(b"{}");
        let strict =
            receiver(Some(secret()), 0).judge(&Uri::from_static("/"), &headers("v1,AAAA"), body.clone());
        assert_eq!(strict.answered, StatusCode::UNAUTHORIZED);
        let open = receiver(None, 0).judge(&Uri::from_static("/"), &HeaderMap::new(), body);
        assert_eq!((open.answered, open.signature), (StatusCode::NO_CONTENT, Signature::NoSecret));
    }

    #[test]
    fn an_arrival_is_shown_in_the_order_in_which_it_was_written() {
        let body = Bytes::from_static(
            br#"{"type":"job.completed", "data":{"url":"a\"{,}\\","n":1.50,"list":[1,{}],"none":[ ],"null":null}}"#,
        );
        let arrival = receiver(None, 0).judge(&Uri::from_static("/hook?a=1"), &headers("v1,AAAA"), body);
        insta::assert_snapshot!(arrival.to_string(), @r#"
        job.completed  evt_1  attempt 1  /hook?a=1 → 204
        signature: not checked, no --secret was given
        {
          "type": "job.completed",
          "data": {
            "url": "a\"{,}\\",
            "n": 1.50,
            "list": [
              1,
              {}
            ],
            "none": [],
            "null": null
          }
        }
        "#);
        assert_eq!(pretty(b"\x1b[2Jhello\xff"), "10 bytes that are not JSON: \\u{1b}[2Jhello\u{fffd}");
    }
}
