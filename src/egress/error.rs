//! Why an exchange came to nothing, in words that may be shown to whoever gave the address.
//!
//! The HTTP client's own words never pass: they hold the URL, query and all. Whoever reads these
//! learns nothing about addresses that are forbidden: no connection is made to those, so open,
//! closed and absent look the same. What the operator allowed is told apart like any other.

use std::error::Error;
use std::io;
use std::time::Duration;

use super::CONNECT_TIMEOUT;
use super::resolver::NoAddress;

/// A certificate may list a thousand names, and TLS quotes them.
const DETAIL_MAX: usize = 300;

/// Why there is no answer. Shown as a word and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The guard forbids the address.
    #[error("refused: {0}")]
    Refused(String),
    /// The time was up.
    #[error("timeout: {0}")]
    Timeout(String),
    /// There is no connection to be had.
    #[error("connect: {0}")]
    Connect(String),
    /// Whoever is there is not to be believed.
    #[error("tls: {0}")]
    Tls(String),
    /// What came back is no answer, or not all of one.
    #[error("protocol: {0}")]
    Protocol(String),
    /// The answer is over its cap, in bytes, decoded.
    #[error("too_large: the answer is larger than {0} bytes")]
    TooLarge(usize),
}

impl SendError {
    /// The whole exchange took too long.
    pub fn timed_out(limit: Duration) -> Self {
        Self::Timeout(format!("no answer within {}", spoken(limit)))
    }

    pub(super) fn not_connected() -> Self {
        Self::Timeout(format!("no connection within {}", spoken(CONNECT_TIMEOUT)))
    }

    /// What went wrong while a connection was made secret.
    pub(super) fn not_secure(error: &io::Error) -> Self {
        match causes(error).find_map(|cause| cause.downcast_ref::<rustls::Error>()) {
            Some(tls) => Self::Tls(tls.to_string().chars().take(DETAIL_MAX).collect()),
            // Nobody is disbelieved: there is nobody any more.
            None => Self::Connect(error.kind().to_string()),
        }
    }

    /// Finds what went wrong at the bottom of what the HTTP client says.
    pub fn classify(error: &reqwest::Error) -> Self {
        let (mut network, mut cut) = (None, false);
        for cause in causes(error) {
            match cause.downcast_ref() {
                Some(refused @ NoAddress::Forbidden) => return Self::Refused(refused.to_string()),
                Some(unknown @ NoAddress::Unknown) => return Self::Connect(unknown.to_string()),
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
            // Their type cannot be named from here.
            match cause.to_string().strip_prefix("tunnel error: ") {
                Some("proxy authorization required") => {
                    return Self::Connect("it asks for another name or password".into());
                }
                Some("unsuccessful") => return Self::Connect("it does not connect there".into()),
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

/// An error and what is below it. `io::Error` hides the error that it carries from `source`.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(carried) => Some(carried as &(dyn Error + 'static)),
            None => error.source(),
        }
    })
}

fn spoken(span: Duration) -> String {
    match span.as_millis() {
        millis if millis % 1_000 == 0 => format!("{} s", millis / 1_000),
        millis => format!("{millis} ms"),
    }
}
