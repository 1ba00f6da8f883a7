//! Signatures in the forms of GitHub and Stripe, for receivers that verify one of these already.
//!
//! In both, the key is the text of the secret, byte for byte, as the libraries of both services use it: `whsec_` is a
//! part of it. The body is Ringback's.
//!
//! - GitHub (docs.github.com, "Validating webhook deliveries"): `X-Hub-Signature-256: sha256=<hex>`, the HMAC-SHA256 of
//!   the body. The header holds one signature, and no time.
//! - Stripe (docs.stripe.com, "Verify webhook signatures manually"): `Stripe-Signature: t=<seconds>,v1=<hex>`, the
//!   HMAC-SHA256 of `<seconds>.<body>`. The header can hold several signatures.

use std::fmt::Write as _;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::standard::{SignatureError, check_age};
use crate::domain::Timestamp;

/// Returns the value of `x-hub-signature-256`.
pub fn sign_github(secret: &str, body: &[u8]) -> String {
    format!("sha256={}", hex(mac(secret, &[body])))
}

/// Verifies the value of `x-hub-signature-256`. The comparison takes constant time.
pub fn verify_github(secret: &str, header: &str, body: &[u8]) -> Result<(), SignatureError> {
    let signature = header.strip_prefix("sha256=").ok_or(SignatureError::NoSignature(
        "x-hub-signature-256",
        "SHA-256",
        "sha256=<64 hex digits>",
    ))?;
    if fits(mac(secret, &[body]), signature) { Ok(()) } else { Err(SignatureError::Mismatch("sha256")) }
}

/// Returns the value of `stripe-signature`, with a signature of each secret.
pub fn sign_stripe<'s>(
    secrets: impl Iterator<Item = &'s str>,
    timestamp_seconds: i64,
    body: &[u8],
) -> String {
    let timestamp = timestamp_seconds.to_string();
    let mut header = format!("t={timestamp}");
    for secret in secrets {
        header.push_str(",v1=");
        header.push_str(&hex(mac(secret, &[timestamp.as_bytes(), b".", body])));
    }
    header
}

/// Verifies the value of `stripe-signature`. The comparison takes constant time. The time is checked last.
pub fn verify_stripe(
    secret: &str,
    header: &str,
    body: &[u8],
    now: Timestamp,
    tolerance: Duration,
) -> Result<(), SignatureError> {
    let values = |name: &'static str| {
        header
            .split(',')
            .filter_map(move |part| part.trim().split_once('=').filter(|(known, _)| *known == name))
    };
    let missing = SignatureError::NoSignature("stripe-signature", "v1", "t=<seconds>,v1=<64 hex digits>");
    let (Some((_, timestamp)), Some(_)) = (values("t").next(), values("v1").next()) else {
        return Err(missing);
    };
    let seconds: i64 = timestamp.parse().map_err(|_| SignatureError::MalformedTimestamp("t"))?;
    let mac = mac(secret, &[timestamp.as_bytes(), b".", body]);
    if !values("v1").any(|(_, signature)| fits(mac.clone(), signature)) {
        return Err(SignatureError::Mismatch("v1"));
    }
    check_age(seconds, now, tolerance)
}

fn mac(secret: &str, parts: &[&[u8]]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "a MAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac
}

fn hex(mac: Hmac<Sha256>) -> String {
    let mut hex = String::with_capacity(64);
    for byte in mac.finalize().into_bytes() {
        // Writing to a string cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// Returns whether hex digits are the tag of a message.
fn fits(mac: Hmac<Sha256>, digits: &str) -> bool {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let tag: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(byte).collect();
    tag.is_some_and(|tag| mac.verify_slice(&tag).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels::webhook::TOLERANCE;

    /// The vector of GitHub's documentation.
    const GITHUB_SECRET: &str = "It's a Secret to Everybody";
    const GITHUB_BODY: &[u8] = b"Hello, World!";
    const GITHUB_HEADER: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    const STRIPE_SECRET: &str = "whsec_test_secret";
    const STRIPE_BODY: &[u8] = b"{\n  \"id\": \"evt_test_webhook\",\n  \"object\": \"event\"\n}";
    const STRIPE_SECONDS: i64 = 1_614_265_330;
    /// Computed by `stripe.WebhookSignature` of the official library for Python, version 16.1.
    const STRIPE_HEADER: &str =
        "t=1614265330,v1=af4ead0627a34a8cca29808e8de9ada8e41a92e6237c63cef6eacf51d36cca34";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_millis(seconds * 1_000)
    }

    #[test]
    fn a_signature_for_github_agrees_with_its_documentation() {
        assert_eq!(sign_github(GITHUB_SECRET, GITHUB_BODY), GITHUB_HEADER);
        assert_eq!(verify_github(GITHUB_SECRET, GITHUB_HEADER, GITHUB_BODY), Ok(()));
        let upper = format!("sha256={}", GITHUB_HEADER.trim_start_matches("sha256=").to_uppercase());
        assert_eq!(verify_github(GITHUB_SECRET, &upper, GITHUB_BODY), Ok(()));
        for (secret, header, body) in [
            ("another", GITHUB_HEADER, GITHUB_BODY),
            (GITHUB_SECRET, GITHUB_HEADER, b"Hello, World?"),
            (GITHUB_SECRET, &GITHUB_HEADER[..GITHUB_HEADER.len() - 2], GITHUB_BODY),
            (GITHUB_SECRET, "sha256=", GITHUB_BODY),
            (GITHUB_SECRET, "sha256=\u{e4}\u{e4}", GITHUB_BODY),
        ] {
            assert_eq!(verify_github(secret, header, body), Err(SignatureError::Mismatch("sha256")));
        }
        let error = verify_github(GITHUB_SECRET, "sha1=757107ea", GITHUB_BODY).unwrap_err().to_string();
        assert!(error.contains("x-hub-signature-256"), "{error}");
    }

    #[test]
    fn a_signature_for_stripe_agrees_with_the_official_library() {
        let signed = sign_stripe([STRIPE_SECRET].into_iter(), STRIPE_SECONDS, STRIPE_BODY);
        assert_eq!(signed, STRIPE_HEADER);
        let verify =
            |secret, header: &str, now| verify_stripe(secret, header, STRIPE_BODY, at(now), TOLERANCE);
        assert_eq!(verify(STRIPE_SECRET, STRIPE_HEADER, STRIPE_SECONDS + 300), Ok(()));
        let late = verify(STRIPE_SECRET, STRIPE_HEADER, STRIPE_SECONDS + 301);
        assert_eq!(late, Err(SignatureError::TooOld(301)));
        let other = verify("another", STRIPE_HEADER, STRIPE_SECONDS);
        assert_eq!(other, Err(SignatureError::Mismatch("v1")));
        let both = sign_stripe(["another", STRIPE_SECRET].into_iter(), STRIPE_SECONDS, STRIPE_BODY);
        for secret in ["another", STRIPE_SECRET] {
            assert_eq!(verify(secret, &both, STRIPE_SECONDS), Ok(()));
        }
        assert_eq!(
            verify(STRIPE_SECRET, "t=now,v1=00", STRIPE_SECONDS),
            Err(SignatureError::MalformedTimestamp("t"))
        );
        for header in ["", "t=1614265330", "v1=00", "t=1614265330,v0=00"] {
            let error = verify(STRIPE_SECRET, header, STRIPE_SECONDS).unwrap_err();
            assert!(matches!(error, SignatureError::NoSignature("stripe-signature", ..)), "{header}");
        }
    }
}
