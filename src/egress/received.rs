//! Responses.

use std::time::Duration;

use hyper::body::Bytes;

use crate::domain::{MASK, SecretTexts, Timestamp, parse_http_date, parse_retry_after};

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
        let text = String::from_utf8_lossy(&self.body);
        let mut hidden = secrets.hide(&text);
        // UTF-16 has a NUL beside each letter.
        if text.contains('\0') && secrets.hide(&text.replace('\0', "")).is_some() {
            hidden = Some(MASK.to_owned());
        }
        if self.truncated {
            let shown = hidden.as_deref().unwrap_or(&text);
            let begun = secrets.iter().filter_map(|secret| begun_at_end(shown, secret)).max();
            hidden = begun.map(|len| format!("{}{MASK}", &shown[..shown.len() - len])).or(hidden);
        }
        if let Some(hidden) = hidden {
            self.body = Bytes::from(hidden);
        }
    }
}

/// Shortest beginning of a secret that is hidden at the end of a text that was cut.
const BEGINNING_MIN: usize = 4;

/// Returns the length of the beginning of a secret with which a text ends.
fn begun_at_end(text: &str, secret: &str) -> Option<usize> {
    let lengths = secret.char_indices().map(|(at, _)| at).filter(|len| *len >= BEGINNING_MIN);
    lengths.rev().find(|len| text.ends_with(&secret[..*len]))
}
