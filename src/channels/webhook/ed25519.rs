//! Asymmetric signatures of Standard Webhooks 1.0 (`v1a`): ed25519. The receiver needs only the public key, so it can
//! verify a request and cannot make one.
//!
//! No official library verifies these signatures (standard-webhooks/standard-webhooks at version 1.0.0). They skip
//! them, so a header can have signatures of both kinds.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};

use crate::domain::check_value;

const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";

/// Lengths of a seed and of a public key, in bytes.
const SEED: usize = 32;
const PUBLIC: usize = 32;

/// Private key of an app.
pub struct PrivateKey(Ed25519KeyPair);

impl PrivateKey {
    /// Parses `whsk_` and the base64 of the seed of 32 bytes, or of the seed and the public key. The error is a
    /// sentence that does not repeat the key.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_value(text)?;
        let encoded = text.strip_prefix(PRIVATE_PREFIX).ok_or("must begin with whsk_")?;
        let bytes = STANDARD.decode(encoded).map_err(|_| "must be base64 after whsk_")?;
        let pair = match bytes.split_at_checked(SEED) {
            Some((seed, [])) => Ed25519KeyPair::from_seed_unchecked(seed),
            Some((seed, public)) => Ed25519KeyPair::from_seed_and_public_key(seed, public),
            None => return Err(format!("must hold 32 or 64 bytes, not {}", bytes.len())),
        };
        pair.map(Self).map_err(|_| "is not a private key of ed25519 and its public key".to_owned())
    }

    /// Returns the public key.
    pub fn public(&self) -> PublicKey {
        let mut public = [0; PUBLIC];
        public.copy_from_slice(self.0.public_key().as_ref());
        PublicKey(public)
    }

    /// Returns the signature of a message: `v1a,<base64>`.
    pub fn sign(&self, id: &str, timestamp_seconds: i64, body: &[u8]) -> String {
        let signature = self.0.sign(&signed_text(id, &timestamp_seconds.to_string(), body));
        format!("v1a,{}", STANDARD.encode(signature))
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsk_***")
    }
}

/// Public key of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; PUBLIC]);

impl PublicKey {
    /// Parses `whpk_` and the base64 of 32 bytes. The error is a sentence.
    pub fn parse(text: &str) -> Result<Self, String> {
        check_value(text)?;
        let encoded = text.strip_prefix(PUBLIC_PREFIX).ok_or("must begin with whpk_")?;
        let bytes = STANDARD.decode(encoded).map_err(|_| "must be base64 after whpk_")?;
        let length = bytes.len();
        bytes.try_into().map(Self).map_err(|_| format!("must hold 32 bytes, not {length}"))
    }

    /// Returns whether a text is meant as a public key.
    pub fn is_prefixed(text: &str) -> bool {
        text.starts_with(PUBLIC_PREFIX)
    }

    /// Returns the form of Standard Webhooks: `whpk_` and base64.
    pub fn expose(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.0))
    }

    /// Returns the value `x` of a JSON Web Key (RFC 8037).
    pub fn coordinate(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Returns the thumbprint of the key (RFC 7638), which names it.
    pub fn thumbprint(&self) -> String {
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.coordinate());
        URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
    }

    /// Returns whether the base64 of a signature is valid.
    pub(super) fn fits(&self, encoded: &str, id: &str, timestamp: &str, body: &[u8]) -> bool {
        let Ok(signature) = STANDARD.decode(encoded) else { return false };
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&signed_text(id, timestamp, body), &signature).is_ok()
    }
}

fn signed_text(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    [id.as_bytes(), b".", timestamp.as_bytes(), b".", body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::draw_private_key;

    /// The vector of Svix's tests, which the specification quotes as well.
    const PRIVATE: &str =
        "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const PUBLIC_TEXT: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    const MESSAGE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const SECONDS: i64 = 1_614_265_330;
    const BODY: &[u8] = br#"{"test": 2432232314}"#;
    const SIGNED: &str =
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    #[test]
    fn an_asymmetric_signature_agrees_with_the_published_vector() {
        let key = PrivateKey::parse(PRIVATE).unwrap();
        assert_eq!(key.public().expose(), PUBLIC_TEXT);
        assert_eq!(key.sign(MESSAGE, SECONDS, BODY), SIGNED);
        let public = PublicKey::parse(PUBLIC_TEXT).unwrap();
        let encoded = SIGNED.trim_start_matches("v1a,");
        assert!(public.fits(encoded, MESSAGE, "1614265330", BODY));
        for (id, timestamp, body) in
            [("msg_2", "1614265330", BODY), (MESSAGE, "1614265331", BODY), (MESSAGE, "1614265330", b"{}")]
        {
            assert!(!public.fits(encoded, id, timestamp, body), "{id} {timestamp}");
        }
    }

    // RFC 8037, appendix A.3.
    #[test]
    fn the_thumbprint_agrees_with_the_published_vector() {
        let bytes = URL_SAFE_NO_PAD.decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        let key = PublicKey(bytes.try_into().unwrap());
        assert_eq!(key.coordinate(), "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.thumbprint(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn a_private_key_is_drawn_parsed_and_never_printed() {
        let (one, other) = (draw_private_key(), draw_private_key());
        let key = PrivateKey::parse(one.reveal()).unwrap();
        assert_ne!(key.public(), PrivateKey::parse(other.reveal()).unwrap().public());
        assert_eq!(format!("{key:?}"), "whsk_***");
        let wrong_pair = format!("{}A==", &PRIVATE[..PRIVATE.len() - 3]);
        for (text, error) in [
            ("", "must begin with whsk_"),
            ("whsk_?", "must be base64 after whsk_"),
            ("whsk_AAAA", "must hold 32 or 64 bytes, not 3"),
            (&wrong_pair, "is not a private key of ed25519 and its public key"),
        ] {
            assert_eq!(PrivateKey::parse(text).unwrap_err(), error);
        }
        for (text, error) in [
            ("whsec_AAAA", "must begin with whpk_"),
            ("whpk_?", "must be base64 after whpk_"),
            ("whpk_AAAA", "must hold 32 bytes, not 3"),
        ] {
            assert_eq!(PublicKey::parse(text).unwrap_err(), error);
        }
    }
}
