//! Webhooks: Standard Webhooks 1.0, symmetric (`v1`), for senders and receivers.
//!
//! The signature covers the exact bytes that are sent and the time of the attempt, so it is made at
//! the moment of sending: receivers refuse what was signed more than five minutes ago.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT};
use sha2::Sha256;

use super::{AGENT, ANSWER_MAX, AttemptResult, Message, shown, text, unanswered, unsent};
use crate::clock::Clock;
use crate::domain::{Outcome, Payload, Timestamp, parse_retry_after, random};
use crate::egress::{Egress, Post, Received, SendError};

/// How far a receiver lets the timestamp be off, to both sides.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

const PREFIX: &str = "whsec_";

/// Longer headers are refused by common servers (8 KiB for all of them together).
const HEADER_NAME_MAX: usize = 128;
const HEADER_VALUE_MAX: usize = 4_096;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

const CLOUD_EVENT: HeaderValue = HeaderValue::from_static("application/cloudevents+json");

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EVENT: HeaderName = HeaderName::from_static("ringback-event");
const WATCH: HeaderName = HeaderName::from_static("ringback-watch");
const TRACE: HeaderName = HeaderName::from_static("traceparent");

/// What a webhook is signed with. Never shown but by [`Secret::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Draws one of 32 bytes.
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        random(&mut key);
        Self(key)
    }

    /// Reads `whsec_` and the base64 of 24 to 64 bytes. The error is a sentence that does not
    /// repeat the secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        let encoded = text.strip_prefix(PREFIX).ok_or("must begin with whsec_")?;
        let key = STANDARD.decode(encoded).map_err(|_| "must be base64 after whsec_")?;
        if (24..=64).contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(format!("must hold 24 to 64 bytes, not {}", key.len()))
        }
    }

    /// The public form, for the one answer that may show it.
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "a MAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("a key of any length");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_***")
    }
}

/// Signs: `v1,<base64>`.
pub fn sign(secret: &Secret, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let mac = secret.mac(id, &timestamp_seconds.to_string(), body).finalize();
    format!("v1,{}", STANDARD.encode(mac.into_bytes()))
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Verdict {
    /// The timestamp is not one.
    #[error("webhook-timestamp is not a whole number of seconds since 1970")]
    MalformedTimestamp,
    /// There is nothing to compare with.
    #[error("webhook-signature holds no v1 signature; it should read v1,<base64>")]
    NoSignature,
    /// None of the signatures fits.
    #[error(
        "no v1 signature fits: it was made with another secret, \
         or the id, the timestamp or the body is not as it was sent"
    )]
    Mismatch,
    /// It was right once.
    #[error("the signature fits, but it was made {0} s ago; receivers refuse it as a possible replay")]
    TooOld(u64),
    /// One of the clocks is wrong.
    #[error("the signature fits, but its time lies {0} s in the future; one of the clocks is wrong")]
    InTheFuture(u64),
}

/// Says whether a signature holds, and if not, why. The comparison takes the same time whatever the
/// signature is. The time is judged last, so that its verdict can say that all else was well.
pub fn verify(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), Verdict> {
    let seconds: i64 = timestamp.parse().map_err(|_| Verdict::MalformedTimestamp)?;
    // A receiver gets more than it knows of: other versions are passed over.
    let mut known = signatures.split(' ').filter_map(|one| one.strip_prefix("v1,")).peekable();
    known.peek().ok_or(Verdict::NoSignature)?;
    let mac = secret.mac(id, timestamp, body);
    let fits = |encoded| STANDARD.decode(encoded).is_ok_and(|tag| mac.clone().verify_slice(&tag).is_ok());
    if !known.any(fits) {
        return Err(Verdict::Mismatch);
    }
    let off = now.seconds().abs_diff(seconds);
    match off <= tolerance.as_secs() {
        true => Ok(()),
        false if seconds < now.seconds() => Err(Verdict::TooOld(off)),
        false => Err(Verdict::InTheFuture(off)),
    }
}

/// Judges a header that a user wants sent along. The error is a sentence.
pub fn check_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    const REFUSED: &[&str] = &[
        "host",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
        "user-agent",
        "traceparent",
    ];
    const FAMILIES: &[&str] = &["proxy-", "content-", "webhook-", "ringback-"];

    if name.len() > HEADER_NAME_MAX {
        return Err(format!("a header's name must not be longer than {HEADER_NAME_MAX} characters"));
    }
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not the name of a header")?;
    let known = header.as_str();
    if REFUSED.contains(&known) || FAMILIES.iter().any(|family| known.starts_with(family)) {
        return Err(format!("`{known}` is not yours to set"));
    }
    if value.len() > HEADER_VALUE_MAX {
        return Err(format!("a header's value must not be longer than {HEADER_VALUE_MAX} characters"));
    }
    if value.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    // Bytes beyond ASCII would pass, and mean something else to every receiver.
    let ascii = Some(value).filter(|value| value.is_ascii());
    let mut value =
        ascii.and_then(|value| value.parse::<HeaderValue>().ok()).ok_or("must be printable ASCII")?;
    value.set_sensitive(true);
    Ok((header, value))
}

/// Sends once.
pub(super) async fn send(
    egress: &Egress,
    clock: &Clock,
    message: &Message<'_>,
    url: &str,
    custom: &[(String, String)],
    secrets: &[Secret],
    timeout: Duration,
) -> AttemptResult {
    let watch = clock.stopwatch();
    let headers = match headers(message, custom, secrets) {
        Ok(headers) => headers,
        // Ids and base64 make headers always; if ever not, then tomorrow neither.
        Err(error) => return unsent(Outcome::Fatal, format!("invalid: {error}"), Vec::new()),
    };
    let shown = shown(&headers);
    let target = match egress.parse(url) {
        Ok(target) => target,
        // What is allowed has changed since the registration, and may change back.
        Err(error) => return unanswered(&SendError::Refused(error.to_string()), shown),
    };
    let post = Post { target, headers, body: message.body.clone(), timeout, max_answer: ANSWER_MAX };
    match egress.send(post).await {
        Ok(received) => AttemptResult {
            outcome: classify(&received, clock.now()),
            status_code: Some(received.status),
            error: None,
            nobody: false,
            request_headers: shown,
            response_body: text(&received.body),
            response_headers: received.headers,
            duration: received.duration,
        },
        Err(error) => AttemptResult { duration: watch.elapsed(), ..unanswered(&error, shown) },
    }
}

fn headers(
    message: &Message<'_>,
    custom: &[(String, String)],
    secrets: &[Secret],
) -> Result<HeaderMap, InvalidHeaderValue> {
    let id = message.event_id.to_string();
    let seconds = message.now.seconds();
    let signatures: Vec<_> = secrets.iter().map(|secret| sign(secret, &id, seconds, &message.body)).collect();

    let mut headers = HeaderMap::with_capacity(8 + custom.len());
    headers.insert(CONTENT_TYPE, content_type(message.payload));
    headers.insert(SIGNATURE, signatures.join(" ").try_into()?);
    headers.insert(ID, id.try_into()?);
    headers.insert(TIMESTAMP, seconds.into());
    headers.insert(USER_AGENT, AGENT);
    headers.insert(EVENT, HeaderValue::from_static(message.event_type.as_str()));
    headers.insert(WATCH, message.watch_id.to_string().try_into()?);
    // What was taken at registration and would not be today is left out: the message matters more.
    if let Some(trace) = message.traceparent.and_then(|trace| trace.try_into().ok()) {
        headers.insert(TRACE, trace);
    }
    headers.extend(custom.iter().filter_map(|(name, text)| check_header(name, text).ok()));
    Ok(headers)
}

fn content_type(payload: Payload) -> HeaderValue {
    match payload {
        Payload::Event | Payload::Raw => JSON,
        Payload::CloudEvents => CLOUD_EVENT,
    }
}

fn classify(received: &Received, now: Timestamp) -> Outcome {
    match received.status {
        200..=299 => Outcome::Ok,
        410 => Outcome::Gone,
        _ => Outcome::Retry {
            after: received.header("retry-after").and_then(|text| parse_retry_after(text, now)),
        },
    }
}

#[cfg(test)]
mod tests;
