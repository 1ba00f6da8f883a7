//! Errors of an exchange, in texts that can be shown to the user who gave the address.
//!
//! The texts of the HTTP client are not used: they contain the URL with its query. The errors reveal nothing about
//! forbidden addresses: no connection is made to them, so open, closed and absent ports cannot be distinguished.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::resolver::ResolveError;

/// Maximum time to make a connection: resolving the name, TCP and TLS. It is part of the exchange's deadline.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum length of a TLS error, in characters: it can quote a thousand names of a certificate.
const DETAIL_MAX: usize = 300;

/// Reason why there is no response. `Display` gives a word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The guard refuses the address.
    #[error("refused: {0}")]
    Refused(String),
    /// The deadline has passed.
    #[error("timeout: {0}")]
    Timeout(String),
    /// The connection could not be made.
    #[error("connect: {0}")]
    Connect(String),
    /// The peer's identity could not be verified.
    #[error("tls: {0}")]
    Tls(String),
    /// The response is not HTTP, or is incomplete.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The decoded response is larger than this maximum, in bytes.
    #[error("too_large: the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl SendError {
    /// The exchange exceeded its deadline.
    pub fn timed_out(limit: Duration) -> Self {
        Self::Timeout(format!("no answer within {}", format_span(limit)))
    }

    pub(super) fn not_connected() -> Self {
        Self::Timeout(format!("no connection within {}", format_span(CONNECT_TIMEOUT)))
    }

    /// Classifies an error of a TLS handshake.
    pub(super) fn not_secure(error: &io::Error) -> Self {
        match causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.to_string().chars().take(DETAIL_MAX).collect()),
            // Not an error of TLS: the connection was closed.
            None => Self::Connect(error.kind().to_string()),
        }
    }

    /// Classifies an error of the HTTP client by its causes.
    pub fn classify(error: &reqwest::Error) -> Self {
        let (mut network, mut cut) = (None, false);
        for cause in causes(error) {
            match cause.downcast_ref() {
                Some(refused @ ResolveError::Forbidden) => return Self::Refused(refused.to_string()),
                Some(unknown @ ResolveError::Unknown) => return Self::Connect(unknown.to_string()),
                None => {}
            }
            if let Some(tls) = cause.downcast_ref::<rustls::Error>() {
                return Self::Tls(tls.to_string().chars().take(DETAIL_MAX).collect());
            }
            if let Some(http) = cause.downcast_ref::<hyper::Error>() {
                if http.is_parse() {
                    return Self::Protocol("the answer is not HTTP".into());
                }
                cut = true;
            }
            if let Some(error) = cause.downcast_ref::<io::Error>() {
                network = Some(error.kind());
            }
            // The type of these errors is private to the HTTP client.
            match cause.to_string().strip_prefix("tunnel error: ") {
                Some("proxy authorization required") => {
                    return Self::Connect("the proxy requires another name or password".into());
                }
                Some("unsuccessful") => {
                    return Self::Connect("the proxy cannot connect to the destination".into());
                }
                Some(_) | None => {}
            }
        }
        match network {
            _ if error.is_connect() && error.is_timeout() => Self::not_connected(),
            Some(kind) if error.is_connect() => Self::Connect(kind.to_string()),
            None if error.is_connect() => Self::Connect("no connection could be made".into()),
            _ if error.is_decode() && !cut => Self::Protocol("the answer cannot be decoded".into()),
            _ => Self::Protocol("the connection was closed before the answer was complete".into()),
        }
    }
}

/// Returns an error and its causes. `io::Error` does not return the error that it contains from `source`.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

/// Formats a time span for people.
fn format_span(span: Duration) -> String {
    match span.as_millis() {
        millis if millis % 1_000 == 0 => format!("{} s", millis / 1_000),
        millis => format!("{millis} ms"),
    }
}
