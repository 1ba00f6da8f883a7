//! The result of one attempt, and the parts of it that several channels build in the same way.

use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};

use crate::domain::Outcome;
use crate::egress::{Egress, Post, Received, SendError};

/// Maximum size of a response that is read and recorded, in bytes.
pub(super) const RESPONSE_MAX: usize = 16 * 1024;

/// The `user-agent` of every request.
pub(super) const USER_AGENT_VALUE: HeaderValue =
    HeaderValue::from_static(concat!("Ringback/", env!("CARGO_PKG_VERSION")));

/// Result of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// Classification of the result; decides what follows.
    pub outcome: Outcome,
    /// HTTP status, if there was a response.
    pub status_code: Option<u16>,
    /// A code and a sentence; `None` if the attempt succeeded or the status is sufficient.
    pub error: Option<String>,
    /// Whether the destination did not respond: no connection, no TLS, or no response in time.
    pub unreachable: bool,
    /// Headers that were sent; the values of custom headers are masked.
    pub request_headers: Vec<(String, String)>,
    /// Headers of the response.
    pub response_headers: Vec<(String, String)>,
    /// Beginning of the response's body, as text.
    pub response_body: String,
    /// Duration of the exchange.
    pub duration: Duration,
}

impl AttemptResult {
    /// Returns the result of an attempt that was skipped because the destination did not respond lately.
    pub fn destination_down() -> Self {
        let error = "destination_down: the destination did not respond lately; nothing was sent";
        Self::without_response(Outcome::Down, error.to_owned(), Vec::new())
    }

    /// Returns the result of an exchange without an HTTP response.
    pub(super) fn without_response(
        outcome: Outcome,
        error: String,
        request_headers: Vec<(String, String)>,
    ) -> Self {
        Self {
            outcome,
            status_code: None,
            error: Some(error),
            unreachable: false,
            request_headers,
            response_headers: Vec::new(),
            response_body: String::new(),
            duration: Duration::ZERO,
        }
    }

    /// Returns the result of an attempt whose message or address cannot be sent, now or later.
    pub(super) fn invalid(reason: impl std::fmt::Display) -> Self {
        Self::without_response(Outcome::Fatal, format!("invalid: {reason}"), Vec::new())
    }

    /// Returns the result of an HTTP exchange. `classify` returns the outcome of a response, and its error.
    pub(super) fn of_exchange(
        (response, request_headers): (Result<Received, SendError>, Vec<(String, String)>),
        classify: impl FnOnce(&Received) -> (Outcome, Option<String>),
    ) -> Self {
        let received = match response {
            Ok(received) => received,
            Err(error) => return Self::send_error(&error, request_headers),
        };
        let (outcome, error) = classify(&received);
        Self {
            outcome,
            status_code: Some(received.status),
            error,
            unreachable: false,
            request_headers,
            response_body: recorded_text(&received.body),
            response_headers: received.headers,
            duration: received.duration,
        }
    }

    fn send_error(error: &SendError, request_headers: Vec<(String, String)>) -> Self {
        let refused = matches!(error, SendError::Refused(_));
        let outcome = if refused { Outcome::Refused } else { Outcome::Retry { after: None } };
        let unreachable = matches!(error, SendError::Timeout(_) | SendError::Connect(_) | SendError::Tls(_));
        Self { unreachable, ..Self::without_response(outcome, error.to_string(), request_headers) }
    }
}

/// Posts to the URL of a destination. Also returns the headers for the attempt log.
pub(super) async fn post(
    egress: &Egress,
    url: &str,
    (headers, body): (HeaderMap, Bytes),
    timeout: Duration,
) -> (Result<Received, SendError>, Vec<(String, String)>) {
    let recorded = recorded_headers(&headers);
    let response = match egress.parse(url) {
        Ok(url) => egress.send(Post { url, headers, body, timeout, max_answer: RESPONSE_MAX }).await,
        // The configuration permits fewer addresses than at the registration; that may change again.
        Err(error) => Err(SendError::Refused(error.to_string())),
    };
    (response, recorded)
}

/// Returns headers as an attempt records them. Custom headers are marked sensitive, and masked.
pub(super) fn recorded_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let show = |value: &HeaderValue| match value.to_str() {
        Ok(text) if !value.is_sensitive() => text.to_owned(),
        _ => "***".to_owned(),
    };
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), show(value))).collect()
}

/// Returns a response as text that any database accepts: without NUL, and at most [`RESPONSE_MAX`] bytes
/// long, although each invalid byte becomes a character of three.
pub(super) fn recorded_text(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    let mut end = text.len().min(RESPONSE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
