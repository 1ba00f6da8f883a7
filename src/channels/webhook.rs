//! Webhooks: Standard Webhooks 1.0, with symmetric signatures (`v1`) and asymmetric ones (`v1a`), for senders and
//! receivers. Receivers that verify the signatures of GitHub or Stripe already get those ([`compatible`]).
//!
//! The signature covers the exact bytes of the body and the time of the attempt. Each attempt makes its own,
//! because receivers refuse a signature that is older than five minutes.

mod auth;
pub mod compatible;
pub mod ed25519;
mod standard;

use std::sync::Arc;

use hyper::body::Bytes;
use reqwest::header::{
    AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue, USER_AGENT,
};

use super::channel::{
    AttemptResult, Channel, ChannelSpec, Message, ParsedAddress, SendFuture, Services, Shorthand,
    USER_AGENT_VALUE, post_as, recorded_headers,
};
use crate::clock::Stopwatch;
use crate::domain::{
    AddressError, Auth, ChannelKind, ClientCredentials, KeyKind, Masked, Outcome, Payload, SignatureForm,
    Timestamp,
};
use crate::egress::Received;
use auth::{TokenRequest, Tokens};
use compatible::{sign_github, sign_stripe};
use ed25519::PrivateKey;
pub use standard::{Secret, SignatureError, TOLERANCE, sign, verify, verify_asymmetric};

/// Maximum lengths of a custom header, in bytes. Common servers accept 8 KiB for all headers together.
const HEADER_NAME_MAX: usize = 128;
const HEADER_VALUE_MAX: usize = 4_096;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const EVENT: HeaderName = HeaderName::from_static("ringback-event");
const WATCH: HeaderName = HeaderName::from_static("ringback-watch");
const GITHUB_SIGNATURE: HeaderName = HeaderName::from_static("x-hub-signature-256");
const GITHUB_EVENT: HeaderName = HeaderName::from_static("x-github-event");
const GITHUB_DELIVERY: HeaderName = HeaderName::from_static("x-github-delivery");
const STRIPE_SIGNATURE: HeaderName = HeaderName::from_static("stripe-signature");
const TRACE: HeaderName = HeaderName::from_static("traceparent");

/// The row of webhooks in the channel table.
pub(super) const SPEC: ChannelSpec = ChannelSpec {
    shorthand: Some(Shorthand { field: "callbackUrl", is_list: false }),
    is_signed: true,
    ..ChannelSpec::new(ChannelKind::Webhook, |_| Box::new(Webhook::default()))
};

/// The channel. It has no settings of its own.
#[derive(Debug, Default)]
struct Webhook {
    tokens: Tokens,
}

impl Channel for Webhook {
    fn parse_address(&self, text: &str) -> Result<ParsedAddress, AddressError> {
        Ok(ParsedAddress::Url(text.to_owned()))
    }

    fn send<'a>(&'a self, services: &'a Services, message: &'a Message<'a>) -> SendFuture<'a> {
        Box::pin(async move {
            // Ids and base64 are always valid headers. If not, a later attempt fails, too.
            let mut headers = headers(message).map_err(|error| error.to_string())?;
            let stopwatch = services.clock.stopwatch();
            let access = message.delivery.destination.access.as_deref();
            match access.and_then(|access| access.auth.as_ref()) {
                None => {}
                Some(Auth::Basic(basic)) => {
                    headers.extend(auth::basic(basic).map(|value| (AUTHORIZATION, value)));
                }
                Some(Auth::Oauth2(credentials)) => {
                    // Boxed, because few attempts need it, and each attempt would have its size.
                    let sending = self.send_with_token(services, message, credentials, (headers, stopwatch));
                    return Ok(Box::pin(sending).await);
                }
            }
            Ok(exchange(services, message, headers, &stopwatch).await)
        })
    }
}

impl Webhook {
    /// Makes an attempt with a token. If the receiver answers 401 to a token that may have been revoked, the request is
    /// sent once more, with a new token: the receiver has not processed the first one.
    async fn send_with_token(
        &self,
        services: &Services,
        message: &Message<'_>,
        credentials: &ClientCredentials,
        (mut headers, stopwatch): (HeaderMap, Stopwatch),
    ) -> AttemptResult {
        let request = TokenRequest::new(services, message.delivery.app, credentials);
        let left = || message.timeout.saturating_sub(stopwatch.elapsed());
        let (token, mut used) = match self.tokens.get(&request, left()).await {
            Ok(got) => got,
            Err(failure) => return failure.into_result(recorded_headers(&headers), stopwatch.elapsed()),
        };
        headers.insert(AUTHORIZATION, token.authorization());
        let mut result = exchange(services, message, headers.clone(), &stopwatch).await;
        if result.attempt.status_code == Some(401)
            && let Some(renewed) = self.tokens.renew(&request, left(), &token).await
        {
            match renewed {
                Ok((token, renewal)) => {
                    headers.insert(AUTHORIZATION, token.authorization());
                    used = renewal.or(used);
                    result = exchange(services, message, headers, &stopwatch).await;
                }
                Err(failure) => return failure.into_result(recorded_headers(&headers), stopwatch.elapsed()),
            }
        }
        AttemptResult { token: used.map(Box::new), ..result }
    }
}

/// Sends the request of an attempt, which began with `stopwatch`.
async fn exchange(
    services: &Services,
    message: &Message<'_>,
    headers: HeaderMap,
    stopwatch: &Stopwatch,
) -> AttemptResult {
    let body = Bytes::from_owner(Arc::clone(&message.delivery.body));
    let url = &message.delivery.destination.address;
    let timeout = message.timeout.saturating_sub(stopwatch.elapsed());
    let exchange = post_as(message.identity, &services.egress, url, (headers, body), timeout).await;
    let duration = stopwatch.elapsed();
    let classify = |received: &Received| (classify(received, services.clock.now()), None);
    AttemptResult { duration, ..AttemptResult::of_exchange(exchange, classify) }
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

/// Returns the secrets that sign, the newest first: those of the destination, or else those of the app (each two during
/// a rotation).
fn secrets<'m>(message: &Message<'m>) -> impl Iterator<Item = &'m str> + use<'m> {
    let (destination, now) = (&message.delivery.destination, message.now);
    let own = destination.secret.as_deref();
    let old = destination.saved.as_ref().and_then(|saved| saved.old_secret.as_ref());
    let old = old.filter(|(_, until)| own.is_some() && now < *until).map(|(secret, _)| secret.reveal());
    let app = message.app.filter(|_| own.is_none());
    let of_app = app.into_iter().flat_map(move |app| app.secrets(now)).map(Masked::reveal);
    own.into_iter().chain(old).chain(of_app)
}

/// Returns the value of `webhook-signature`.
fn standard_signatures(message: &Message<'_>, id: &str) -> String {
    let (delivery, seconds) = (message.delivery, message.now.seconds());
    let signing = delivery.destination.signing.as_deref();
    let has = |kind| signing.map_or(kind == KeyKind::Hmac, |signing| signing.has(kind));
    let mut signatures = Vec::with_capacity(1);
    if has(KeyKind::Hmac) {
        let secrets = secrets(message).filter_map(|secret| Secret::parse(secret).ok());
        signatures.extend(secrets.map(|secret| sign(&secret, id, seconds, &delivery.body)));
    }
    if has(KeyKind::Ed25519) {
        let keys = message.app.into_iter().flat_map(|app| app.private_keys(message.now));
        let keys = keys.filter_map(|key| PrivateKey::parse(key.reveal()).ok());
        signatures.extend(keys.map(|key| key.sign(id, seconds, &delivery.body)));
    }
    signatures.join(" ")
}

/// Inserts the headers of a destination's form of signatures.
fn insert_signature(
    headers: &mut HeaderMap,
    message: &Message<'_>,
    id: &str,
) -> Result<(), InvalidHeaderValue> {
    let (delivery, seconds) = (message.delivery, message.now.seconds());
    match delivery.destination.signing.as_ref().map_or(SignatureForm::Standard, |signing| signing.form) {
        SignatureForm::Standard => {
            headers.insert(SIGNATURE, standard_signatures(message, id).try_into()?);
        }
        SignatureForm::Github => {
            // The header holds one signature: the newest secret makes it.
            if let Some(secret) = secrets(message).next() {
                headers.insert(GITHUB_SIGNATURE, sign_github(secret, &delivery.body).try_into()?);
            }
            // Libraries refuse a request without these.
            headers.insert(GITHUB_EVENT, HeaderValue::from_static(delivery.event_type.as_str()));
            headers.insert(GITHUB_DELIVERY, id.try_into()?);
        }
        SignatureForm::Stripe => {
            let signature = sign_stripe(secrets(message), seconds, &delivery.body);
            headers.insert(STRIPE_SIGNATURE, signature.try_into()?);
        }
        SignatureForm::None => {}
    }
    Ok(())
}

fn headers(message: &Message<'_>) -> Result<HeaderMap, InvalidHeaderValue> {
    let delivery = message.delivery;
    let custom = &delivery.destination.headers;
    let id = delivery.event.to_string();
    let seconds = message.now.seconds();
    let content_type = match delivery.payload {
        Payload::Event | Payload::Raw => "application/json",
        Payload::CloudEvents => "application/cloudevents+json",
    };

    let mut headers = HeaderMap::with_capacity(8 + custom.len());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    insert_signature(&mut headers, message, &id)?;
    headers.insert(ID, id.try_into()?);
    headers.insert(TIMESTAMP, seconds.into());
    headers.insert(USER_AGENT, USER_AGENT_VALUE);
    headers.insert(EVENT, HeaderValue::from_static(delivery.event_type.as_str()));
    if delivery.event_type.is_of_watch() {
        headers.insert(WATCH, delivery.watch.to_string().try_into()?);
    }
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
