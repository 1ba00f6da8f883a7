//! `ringback listen`: a local receiver that verifies and prints webhooks.
//!
//! [`Listener`] is the receiver without the output; the demo uses it as well. It is a tool for one developer on one
//! machine: it listens on loopback only and has no timeouts.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
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

use super::arguments::secret_file_or_stdin;
use super::output::{Failure, clean, print_waiting, visible};
use super::signals::shutdown_signal;
use super::terminal::{BOLD, DIM, GREEN, RED, Terminal};
use crate::channels::webhook::{self, Secret};
use crate::clock::Clock;
use crate::domain::{Masked, Timestamp};

/// Maximum size of a body, in bytes: four times that of a webhook.
const BODY_MAX: usize = 1024 * 1024;
/// Maximum number of ids whose attempts are counted; then counting restarts.
const IDS_MAX: usize = 10_000;
/// Maximum number of webhooks that wait to be printed. Further ones are answered and counted.
const UNSEEN_MAX: usize = 256;
/// Maximum number of bytes that are printed of a body that is not JSON.
const SHOWN_MAX: usize = 4 * 1024;

/// Receive webhooks on this machine, verify them and print them
///
/// Answers 204; 401 if the signature is not valid; 503 to the webhooks that --fail rejects.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback listen --secret-file secret.txt --fail 3

Webhooks to private addresses must be permitted. Start the server with:
  RINGBACK_EGRESS__ALLOW=127.0.0.1/32 ringback serve")]
pub struct Listen {
    /// Port on 127.0.0.1; 0 selects a free one
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// Verify signatures with the secret in this file; - for stdin
    #[arg(long, value_name = "FILE", value_parser = secret_file_or_stdin, conflicts_with = "secret")]
    secret_file: Option<Masked>,
    /// Verify signatures with this secret, which other users can see
    #[arg(long, value_name = "SECRET")]
    secret: Option<String>,
    /// Answer 503 to the first N webhooks, to see retries
    #[arg(long, value_name = "N", default_value_t = 0)]
    fail: u32,
}

impl Listen {
    /// Runs the command until it is stopped.
    pub async fn run(self) -> Result<(), Failure> {
        let of_file = self.secret_file.as_ref().map(|secret| ("--secret-file", secret.reveal()));
        let given = of_file.or(self.secret.as_deref().map(|secret| ("--secret", secret)));
        let parse =
            |(flag, text)| Secret::of_libraries(text).map_err(|why| Failure::Usage(format!("{flag}: {why}")));
        let secret = given.map(parse).transpose()?;
        let (listener, mut arrivals) = Listener::bind(Clock::System, self.port, secret, self.fail)
            .await
            .with_context(|| format!("port {} is not available; --port 0 selects a free one", self.port))?;
        let (terminal, receiver, url) =
            (Terminal::of_stdout(), Arc::clone(&listener.receiver), listener.url());
        // A stdout that is not read delays neither an answer nor the end.
        let show = async {
            print_waiting(format!(
                "Listening on {url}. Times are UTC.\nTo permit webhooks to this address, start the server with\n  \
                 RINGBACK_EGRESS__ALLOW=127.0.0.1/32 ringback serve\n"
            ))
            .await?;
            while let Some(arrival) = arrivals.recv().await {
                print_waiting(format!("\n{}\n", arrival.render(terminal))).await?;
                let unprinted = receiver.unprinted.swap(0, Relaxed);
                if unprinted > 0 {
                    let text = format!("\n{unprinted} webhooks are not printed: stdout was not read\n");
                    print_waiting(text).await?;
                }
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::select! {
            // The signal handler is installed before the first output.
            biased;
            asked = shutdown_signal() => asked?,
            served = listener.serve() => served.context("the receiver failed")?,
            shown = show => shown?,
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
    /// Opens the port (0: a free one). Received webhooks are sent to the channel. If the channel is full or dropped,
    /// requests are still answered.
    pub async fn bind(
        clock: Clock,
        port: u16,
        secret: Option<Secret>,
        fail: u32,
    ) -> std::io::Result<(Self, mpsc::Receiver<Arrival>)> {
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        let address = socket.local_addr()?;
        let (arrivals, seen) = mpsc::channel(UNSEEN_MAX);
        let (fail, attempts, unprinted) = (fail.into(), Mutex::default(), AtomicU64::new(0));
        let receiver = Arc::new(Receiver { clock, secret, fail, attempts, arrivals, unprinted });
        Ok((Self { socket, address, receiver }, seen))
    }

    /// Returns the URL.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Serves requests to every path until it is dropped.
    pub async fn serve(self) -> std::io::Result<()> {
        let router = Router::new().route("/", post(receive)).route("/{*path}", post(receive));
        let router = router.layer(DefaultBodyLimit::max(BODY_MAX)).with_state(self.receiver);
        axum::serve(self.socket, router).await
    }
}

#[derive(Debug)]
struct Receiver {
    clock: Clock,
    secret: Option<Secret>,
    /// Number of webhooks that are still to be rejected.
    fail: AtomicU32,
    /// Number of requests with each id, by path: destinations of one watch get the same id.
    attempts: Mutex<HashMap<(String, String), u32>>,
    arrivals: mpsc::Sender<Arrival>,
    /// Number of webhooks that found the channel full since the last one that was printed.
    unprinted: AtomicU64,
}

/// A received webhook.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Time of the arrival.
    pub at: Timestamp,
    /// Path and query of the request.
    pub path: String,
    /// Header `webhook-id`; empty if missing.
    pub id: String,
    /// Header `ringback-event`; empty if missing.
    pub event: String,
    /// Number of requests with this id and this path, including this one.
    pub attempt: u32,
    /// Result of the verification.
    pub signature: Signature,
    /// Status of the answer.
    pub answered: StatusCode,
    /// Bytes of the body.
    pub body: Bytes,
}

/// Result of the verification of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// The signature is valid.
    Verified,
    /// The signature is not valid, and the reason.
    Wrong(String),
    /// The signature was not verified, because there is no secret.
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
    // The other end can be dropped, or wait for a stdout that is not read.
    if receiver.arrivals.try_send(arrival).is_err() {
        receiver.unprinted.fetch_add(1, Relaxed);
    }
    answered
}

impl Receiver {
    fn judge(&self, uri: &Uri, headers: &HeaderMap, body: Bytes) -> Arrival {
        let now = self.clock.now();
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let id = header("webhook-id").to_owned();
        let verified = self.secret.as_ref().map(|secret| {
            let (time, signatures) = (header("webhook-timestamp"), header("webhook-signature"));
            webhook::verify(secret, &id, time, signatures, &body, now, webhook::TOLERANCE)
        });
        let signature = match verified {
            None => Signature::NoSecret,
            Some(Ok(())) => Signature::Verified,
            Some(Err(why)) => Signature::Wrong(why.to_string()),
        };
        let is_rejected = self.fail.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok();
        let answered = match signature {
            _ if is_rejected => StatusCode::SERVICE_UNAVAILABLE,
            Signature::Wrong(_) => StatusCode::UNAUTHORIZED,
            Signature::Verified | Signature::NoSecret => StatusCode::NO_CONTENT,
        };
        let (path, event) = (uri.to_string(), header("ringback-event").to_owned());
        let attempt = self.attempt((id.clone(), path.clone()));
        Arrival { at: now, path, id, event, attempt, signature, answered, body }
    }

    /// Returns the number of requests with this id and this path, including this one.
    fn attempt(&self, destination: (String, String)) -> u32 {
        let mut attempts = self.attempts.lock().unwrap_or_else(PoisonError::into_inner);
        if attempts.len() >= IDS_MAX {
            attempts.clear();
        }
        *attempts.entry(destination).and_modify(|attempts| *attempts += 1).or_insert(1)
    }
}

impl Arrival {
    /// Returns the lines for people: what arrived when, whether it is genuine, and its body.
    pub(super) fn render(&self, terminal: Terminal) -> String {
        let event = if self.event.is_empty() { "(no ringback-event)" } else { &self.event };
        let id = if self.id.is_empty() { "(no webhook-id)" } else { &self.id };
        let at = self.at.to_string();
        let at = terminal.paint(DIM, at.get(11..19).unwrap_or_default());
        let event = terminal.paint(BOLD, &clean(event));
        let colour = if self.answered.is_success() { GREEN } else { RED };
        let answered = terminal.paint(colour, self.answered.as_str());
        let signature = match &self.signature {
            Signature::Verified => terminal.paint(GREEN, "signature verified"),
            Signature::Wrong(why) => terminal.paint(RED, &format!("signature wrong: {why}")),
            Signature::NoSecret => "signature not checked: --secret was not given".to_owned(),
        };
        let (attempt, path) = (self.attempt, clean(&self.path));
        let head = format!("{at}  {event}  attempt {attempt}  {path} → {answered}");
        format!("{head}\n{}\n{signature}\n{}", clean(id), pretty(&self.body))
    }
}

/// Returns JSON indented, with the order and the numbers unchanged; other bodies as text in one line.
fn pretty(body: &[u8]) -> String {
    if let (Ok(text), Ok(_)) = (str::from_utf8(body), serde_json::from_slice::<IgnoredAny>(body)) {
        return indent(text);
    }
    let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_MAX)]);
    format!("{} bytes that are not JSON: {}", body.len(), clean(&shown))
}

/// Indents JSON. `serde_json::Value` is not used because it sorts keys.
fn indent(json: &str) -> String {
    let (mut out, mut depth, mut in_string, mut escaped) = (String::new(), 0, false, false);
    for c in json.chars() {
        if in_string {
            out.push_str(&visible(c));
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            continue;
        }
        if c.is_ascii_whitespace() {
            continue;
        }
        let is_close = matches!(c, '}' | ']');
        depth -= usize::from(is_close);
        // An empty object or list stays on one line.
        if out.ends_with(',') || out.ends_with(['{', '[']) != is_close {
            out.extend(["\n", &"  ".repeat(depth)]);
        }
        out.push(c);
        match c {
            '{' | '[' => depth += 1,
            ':' => out.push(' '),
            _ => in_string = c == '"',
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::terminal::PLAIN;
    use crate::clock::ManualClock;

    const NOW: Timestamp = Timestamp::from_millis(1_771_426_951_000);

    fn secret() -> Secret {
        Secret::parse("whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz").expect("a secret")
    }

    fn receiver(secret: Option<Secret>, fail: u32) -> Receiver {
        let (arrivals, _) = mpsc::channel(1);
        let clock = Clock::Manual(ManualClock::at(NOW));
        let (fail, attempts, unprinted) = (fail.into(), Mutex::default(), AtomicU64::new(0));
        Receiver { clock, secret, fail, attempts, arrivals, unprinted }
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
    fn attempts_are_counted_for_each_destination() {
        let body = Bytes::from_static(b"{}");
        let good = webhook::sign(&secret(), "evt_1", NOW.seconds(), &body);
        let receiver = receiver(Some(secret()), 2);
        let seen = [1, 2, 3].map(|_| {
            let arrival = receiver.judge(&Uri::from_static("/hook"), &headers(&good), body.clone());
            (arrival.attempt, arrival.answered.as_u16(), arrival.signature == Signature::Verified)
        });
        assert_eq!(seen, [(1, 503, true), (2, 503, true), (3, 204, true)]);
        let other = receiver.judge(&Uri::from_static("/other"), &headers(&good), body);
        assert_eq!(other.attempt, 1, "another destination of the same event");
    }

    #[test]
    fn unsigned_webhooks_are_rejected_if_there_is_a_secret() {
        let body = Bytes::from_static(b"{}");
        let strict =
            receiver(Some(secret()), 0).judge(&Uri::from_static("/"), &headers("v1,AAAA"), body.clone());
        assert_eq!(strict.answered, StatusCode::UNAUTHORIZED);
        let open = receiver(None, 0).judge(&Uri::from_static("/"), &HeaderMap::new(), body);
        assert_eq!((open.answered, open.signature), (StatusCode::NO_CONTENT, Signature::NoSecret));
    }

    #[test]
    fn a_webhook_is_printed_in_its_own_order() {
        let body = Bytes::from_static(
            br#"{"type":"job.completed", "data":{"url":"a\"{,}\\","n":1.50,"list":[1,{}],"none":[ ],"null":null}}"#,
        );
        let arrival = receiver(None, 0).judge(&Uri::from_static("/hook?a=1"), &headers("v1,AAAA"), body);
        insta::assert_snapshot!(arrival.render(PLAIN), @r#"
        15:02:31  job.completed  attempt 1  /hook?a=1 → 204
        evt_1
        signature not checked: --secret was not given
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
        assert_eq!(pretty(b"\x1b[2Jhello\xff"), "10 bytes that are not JSON: \\u001b[2Jhello\u{fffd}");
        assert_eq!(pretty("[\"a\u{202e}b\u{7f}\"]".as_bytes()), "[\n  \"a\\u202eb\\u007f\"\n]");
    }
}
