//! Responses.

use std::time::Duration;

use hyper::body::Bytes;

use crate::domain::{SecretTexts, Timestamp, parse_http_date, parse_retry_after};

/// A response.
#[derive(Clone, Debug)]
pub struct Received {
    /// HTTP's status.
    pub status: u16,
    /// The first 16 KiB of headers in their order, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The part of the body that was read.
    pub body: Bytes,
    /// Whether the body has, or could have, more bytes.
    pub truncated: bool,
    /// Time from the first lookup to the last byte.
    pub duration: Duration,
    /// Number of redirects that were followed, each with a request of its own.
    pub redirects: u8,
}

impl Received {
    /// Returns the first header with this lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Returns the wait from `now` that the header `retry-after` requests: the longest one, if there are several. A date
    /// is one of the server's clock, so it is compared with the `date` of the answer.
    pub fn retry_after(&self, now: Timestamp) -> Option<Duration> {
        let now = self.header("date").and_then(parse_http_date).unwrap_or(now);
        let lines = self.headers.iter().filter(|(name, _)| name == "retry-after");
        lines.filter_map(|(_, value)| parse_retry_after(value, now)).max()
    }

    /// Replaces secrets that the answer repeats.
    pub fn hide(&mut self, secrets: &SecretTexts) {
        if secrets.is_empty() {
            return;
        }
        for (_, value) in &mut self.headers {
            if let Some(hidden) = secrets.hide(value) {
                *value = hidden;
            }
        }
        if let Some(hidden) = secrets.hide(&String::from_utf8_lossy(&self.body)) {
            self.body = Bytes::from(hidden);
        }
    }
}
