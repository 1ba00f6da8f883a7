//! Webhooks: Standard Webhooks 1.0 with symmetric signatures (`v1`), for senders and receivers.
//!
//! The signature covers the exact bytes of the body and the time of the attempt. Each attempt makes its own,
//! because receivers refuse a signature that is older than five minutes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use hyper::body::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT};
use sha2::Sha256;

use super::channel::{
    AttemptResult, Channel, ChannelSpec, Message, ParsedAddress, SendFuture, Services, Shorthand,
    USER_AGENT_VALUE, post,
};
use crate::domain::{AddressError, ChannelKind, Outcome, Payload, Timestamp, check_value, random};
use crate::egress::Received;

/// Tolerance of receivers for the timestamp of a signature, in both directions.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

const PREFIX: &str = "whsec_";

/// Maximum lengths of a custom header, in bytes. Common servers accept 8 KiB for all headers together.
const HEADER_NAME_MAX: usize = 128;
const HEADER_VALUE_MAX: usize = 4_096;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EVENT: HeaderName = HeaderName::from_static("ringback-event");
const WATCH: HeaderName = HeaderName::from_static("ringback-watch");
const TRACE: HeaderName = HeaderName::from_static("traceparent");

/// The row of webhooks in the channel table.
pub(super) const SPEC: ChannelSpec = ChannelSpec {
    shorthand: Some(Shorthand { field: "callbackUrl", is_list: false }),
    is_signed: true,
    ..ChannelSpec::new(ChannelKind::Webhook, |_| Box::new(Webhook))
};

/// The channel. It has no settings of its own.
#[derive(Debug)]
struct Webhook;

impl Channel for Webhook {
    fn parse_address(&self, text: &str) -> Result<ParsedAddress, AddressError> {
        Ok(ParsedAddress::Url(text.to_owned()))
    }

    fn send<'a>(&'a self, services: &'a Services, message: &'a Message<'a>) -> SendFuture<'a> {
        Box::pin(async move {
            // Ids and base64 are always valid headers. If not, a later attempt fails, too.
            let headers = headers(message).map_err(|error| error.to_string())?;
            let body = Bytes::from_owner(Arc::clone(&message.delivery.body));
            let url = &message.delivery.destination.address;
            let stopwatch = services.clock.stopwatch();
            let exchange = post(&services.egress, url, (headers, body), message.timeout).await;
            let duration = stopwatch.elapsed();
            let classify = |received: &Received| (classify(received, services.clock.now()), None);
            Ok(AttemptResult { duration, ..AttemptResult::of_exchange(exchange, classify) })
        })
    }
}

/// Signing secret. Only [`Secret::expose`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Generates a random secret of 32 bytes.
    pub fn generate() -> Self {
        let mut key = vec![0; 32];
        random(&mut key);
        Self(key)
    }

    /// Parses `whsec_` and the base64 of 24 to 64 bytes. The error is a sentence that does not repeat the
    /// secret.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_value(text)?;
        let encoded = text.strip_prefix(PREFIX).ok_or("must begin with whsec_")?;
        let key = STANDARD.decode(encoded).map_err(|_| "must be base64 after whsec_")?;
        if (24..=64).contains(&key.len()) {
            Ok(Self(key))
        } else {
            Err(format!("must hold 24 to 64 bytes, not {}", key.len()))
        }
    }

    /// Parses a secret as the libraries of receivers do: without `whsec_`, too.
    pub fn of_libraries(text: &str) -> Result<Self, String> {
        let text = text.trim();
        Self::parse(&format!("{PREFIX}{}", text.strip_prefix(PREFIX).unwrap_or(text)))
    }

    /// Makes a secret of its bytes, to explain signatures that were made with a wrong key.
    pub const fn of_bytes(key: Vec<u8>) -> Self {
        Self(key)
    }

    /// Returns the public form, for the one response that may show it.
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

/// Returns the signature of a message: `v1,<base64>`.
pub fn sign(secret: &Secret, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
    let mac = secret.mac(id, &timestamp_seconds.to_string(), body).finalize();
    format!("v1,{}", STANDARD.encode(mac.into_bytes()))
}

/// Why a signature is not valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The timestamp is not a number.
    #[error("webhook-timestamp is not a whole number of seconds since 1970")]
    MalformedTimestamp,
    /// There is no `v1` signature.
    #[error("webhook-signature holds no v1 signature; it should read v1,<base64>")]
    NoSignature,
    /// None of the signatures matches.
    #[error(
        "no v1 signature fits: it was made with another secret, \
         or the id, the timestamp or the body is not as it was sent"
    )]
    Mismatch,
    /// The signature matches, but it is older than the tolerance, by this many seconds.
    #[error("the signature fits, but it was made {0} s ago; receivers refuse it as a possible replay")]
    TooOld(u64),
    /// The signature matches, but its time is in the future, by this many seconds.
    #[error("the signature fits, but its time lies {0} s in the future; one of the clocks is wrong")]
    InTheFuture(u64),
}

/// Verifies a signature. The comparison takes constant time. The timestamp is checked last, so that an error
/// about it means that everything else is valid.
pub fn verify(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), SignatureError> {
    let seconds: i64 = timestamp.parse().map_err(|_| SignatureError::MalformedTimestamp)?;
    // Signatures of other versions are ignored.
    let mut known = signatures.split(' ').filter_map(|one| one.strip_prefix("v1,")).peekable();
    known.peek().ok_or(SignatureError::NoSignature)?;
    let mac = secret.mac(id, timestamp, body);
    let fits = |encoded| STANDARD.decode(encoded).is_ok_and(|tag| mac.clone().verify_slice(&tag).is_ok());
    if !known.any(fits) {
        return Err(SignatureError::Mismatch);
    }
    let off = now.seconds().abs_diff(seconds);
    if off <= tolerance.as_secs() {
        return Ok(());
    }
    Err(if seconds < now.seconds() { SignatureError::TooOld(off) } else { SignatureError::InTheFuture(off) })
}

/// Checks a custom header of a destination. The error is a sentence.
pub fn check_header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    const FAMILIES: [&str; 4] = ["proxy-", "content-", "webhook-", "ringback-"];

    if name.len() > HEADER_NAME_MAX {
        return Err(format!("a header's name must not be longer than {HEADER_NAME_MAX} characters"));
    }
    let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| "is not the name of a header")?;
    let known = header.as_str();
    let is_hop_by_hop =
        matches!(known, "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade");
    let is_ours = matches!(known, "host" | "expect" | "user-agent" | "traceparent");
    if is_hop_by_hop || is_ours || FAMILIES.iter().any(|family| known.starts_with(family)) {
        return Err(format!("`{known}` is not yours to set; choose another name"));
    }
    if value.len() > HEADER_VALUE_MAX {
        return Err(format!("a header's value must not be longer than {HEADER_VALUE_MAX} characters"));
    }
    if value.chars().any(char::is_control) {
        return Err("must not contain control characters".into());
    }
    // Other bytes would be accepted here, but receivers decode them differently.
    let ascii = Some(value).filter(|value| value.is_ascii());
    let mut value =
        ascii.and_then(|value| value.parse::<HeaderValue>().ok()).ok_or("must be printable ASCII")?;
    value.set_sensitive(true);
    Ok((header, value))
}

/// Returns the secrets that sign: the destination's secret, or else those of the app (two during a rotation).
fn secrets(message: &Message<'_>) -> Vec<Secret> {
    if let Some(secret) = &message.delivery.destination.secret {
        return Secret::parse(secret).into_iter().collect();
    }
    let secrets = message.app.into_iter().flat_map(|app| app.secrets(message.now));
    secrets.filter_map(|secret| Secret::parse(secret.reveal()).ok()).collect()
}

fn headers(message: &Message<'_>) -> Result<HeaderMap, InvalidHeaderValue> {
    let delivery = message.delivery;
    let custom = &delivery.destination.headers;
    let id = delivery.event.to_string();
    let seconds = message.now.seconds();
    let signed = |secret: &Secret| sign(secret, &id, seconds, &delivery.body);
    let signatures: Vec<_> = secrets(message).iter().map(signed).collect();
    let content_type = match delivery.payload {
        Payload::Event | Payload::Raw => "application/json",
        Payload::CloudEvents => "application/cloudevents+json",
    };

    let mut headers = HeaderMap::with_capacity(8 + custom.len());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(SIGNATURE, signatures.join(" ").try_into()?);
    headers.insert(ID, id.try_into()?);
    headers.insert(TIMESTAMP, seconds.into());
    headers.insert(USER_AGENT, USER_AGENT_VALUE);
    headers.insert(EVENT, HeaderValue::from_static(delivery.event_type.as_str()));
    headers.insert(WATCH, delivery.watch.to_string().try_into()?);
    // A header that was valid at the registration and is invalid today is left out, so that the message can still be
    // sent.
    let trace = delivery.traceparent.as_deref();
    if let Some(trace) = trace.and_then(|trace| trace.try_into().ok()) {
        headers.insert(TRACE, trace);
    }
    headers.extend(custom.iter().filter_map(|(name, text)| check_header(name, text).ok()));
    Ok(headers)
}

fn classify(received: &Received, now: Timestamp) -> Outcome {
    match received.status {
        200..=299 => Outcome::Ok,
        410 => Outcome::Gone,
        _ => Outcome::Retry { after: received.retry_after(now) },
    }
}

#[cfg(test)]
mod tests;
