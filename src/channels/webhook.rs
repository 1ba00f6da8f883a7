//! Standard Webhooks signatures.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::Timestamp;

const TOLERANCE_SECONDS: i64 = 300;

/// A signing secret.
#[derive(Clone)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads `whsec_…`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = "a secret is whsec_ and the base64 of 24 to 64 bytes";
        let bytes = text.strip_prefix("whsec_").and_then(|encoded| STANDARD.decode(encoded).ok());
        bytes.filter(|bytes| (24..=64).contains(&bytes.len())).map(Self).ok_or_else(|| form.to_owned())
    }

    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    fn mac(&self, id: &str, timestamp: &str, body: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length will do");
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        mac
    }
}

/// Why a signature does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The timestamp is not a number.
    NoTime,
    /// The timestamp is too far away.
    OutOfTime,
    /// There is no signature of a kind that is known.
    NoSignature,
    /// None of the signatures fits.
    Mismatch,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoTime => "webhook-timestamp is not a number of seconds",
            Self::OutOfTime => "webhook-timestamp is more than 5 minutes away from now",
            Self::NoSignature => "webhook-signature holds no v1 signature",
            Self::Mismatch => "no signature fits this secret, id, timestamp and body",
        })
    }
}

/// Signs a message.
pub fn sign(secret: &Secret, id: &str, timestamp: Timestamp, body: &[u8]) -> String {
    let mac = secret.mac(id, &timestamp.seconds().to_string(), body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

/// Says whether a signature holds.
pub fn verify(
    secret: &Secret,
    id: &str,
    timestamp: &str,
    signature: &str,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Verdict> {
    let seconds: i64 = timestamp.parse().map_err(|_| Verdict::NoTime)?;
    if seconds.abs_diff(now.seconds()) > TOLERANCE_SECONDS.unsigned_abs() {
        return Err(Verdict::OutOfTime);
    }
    let mut known = signature.split(' ').filter_map(|one| one.strip_prefix("v1,")).peekable();
    known.peek().ok_or(Verdict::NoSignature)?;
    let fits = |encoded: &str| {
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        secret.mac(id, timestamp, body).verify_slice(&bytes).is_ok()
    };
    if known.any(fits) { Ok(()) } else { Err(Verdict::Mismatch) }
}
