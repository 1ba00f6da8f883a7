//! The standard form of signatures: making and verifying `webhook-signature`.

use std::fmt;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::ed25519::PublicKey;
use crate::domain::{Timestamp, check_value, random};

/// Tolerance of receivers for the timestamp of a signature, in both directions.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

const PREFIX: &str = "whsec_";

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
    /// The timestamp is not a number. The value is its name.
    #[error("{0} is not a whole number of seconds since 1970")]
    MalformedTimestamp(&'static str),
    /// There is no signature of the expected kind. The values are the header, the kind, and the form of the header.
    #[error("{0} holds no {1} signature; it should read {2}")]
    NoSignature(&'static str, &'static str, &'static str),
    /// None of the signatures of this kind matches.
    #[error(
        "no {0} signature fits: it was made with another {key}, or {signed} is not as it was sent",
        key = if *.0 == "v1a" { "key pair" } else { "secret" },
        signed = if *.0 == "sha256" { "the body" } else { "the id, the timestamp or the body" }
    )]
    Mismatch(&'static str),
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
    let mac = secret.mac(id, timestamp, body);
    let fits =
        |encoded: &str| STANDARD.decode(encoded).is_ok_and(|tag| mac.clone().verify_slice(&tag).is_ok());
    verify_with(("v1", fits), timestamp, signatures, now, tolerance)
}

/// Verifies an asymmetric signature.
pub fn verify_asymmetric(
    key: &PublicKey,
    id: &str,
    timestamp: &str,
    signatures: &str,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), SignatureError> {
    let fits = |encoded: &str| key.fits(encoded, id, timestamp, body);
    verify_with(("v1a", fits), timestamp, signatures, now, tolerance)
}

/// Verifies that a signature of this version fits. Signatures of other versions are ignored.
fn verify_with(
    (version, fits): (&'static str, impl Fn(&str) -> bool),
    timestamp: &str,
    signatures: &str,
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), SignatureError> {
    let malformed = |_| SignatureError::MalformedTimestamp("webhook-timestamp");
    let seconds: i64 = timestamp.parse().map_err(malformed)?;
    let known =
        signatures.split(' ').filter_map(|one| one.split_once(',')).filter(|(known, _)| *known == version);
    let mut known = known.peekable();
    let form = if version == "v1" { "v1,<base64>" } else { "v1a,<base64>" };
    known.peek().ok_or(SignatureError::NoSignature("webhook-signature", version, form))?;
    if !known.any(|(_, encoded)| fits(encoded)) {
        return Err(SignatureError::Mismatch(version));
    }
    check_age(seconds, now, tolerance)
}

/// Checks the time of a signature that fits.
pub(super) fn check_age(seconds: i64, now: Timestamp, tolerance: Duration) -> Result<(), SignatureError> {
    let off = now.seconds().abs_diff(seconds);
    if off <= tolerance.as_secs() {
        return Ok(());
    }
    Err(if seconds < now.seconds() { SignatureError::TooOld(off) } else { SignatureError::InTheFuture(off) })
}
