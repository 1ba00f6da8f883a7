//! Signed JSON Web Tokens (RFC 7519): a credential that is a key signs them, and is not sent itself.

use std::time::Duration;

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::Timestamp;

/// Time by which a token is valid before it is made, for servers whose clock is behind.
const NOT_BEFORE: Duration = Duration::from_secs(5);

/// Algorithm of a signature (RFC 7518).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// HMAC with a shared secret.
    Hs256,
    /// RSA, PKCS #1.
    Rs256,
    /// ECDSA on the curve P-256.
    Es256,
}

impl Algorithm {
    /// All algorithms with their words.
    pub(super) const ALL: [(&str, Self); 3] =
        [("HS256", Self::Hs256), ("RS256", Self::Rs256), ("ES256", Self::Es256)];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, one)| *one == self).map_or("", |(word, _)| word)
    }

    /// Returns the field of the credential that has the key, by default.
    pub(super) fn key_field(self) -> &'static str {
        match self {
            Self::Hs256 => "secret_key",
            Self::Rs256 | Self::Es256 => "private_key",
        }
    }
}

/// A claim that is a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimeClaim {
    /// When the token was made.
    IssuedAt,
    /// When it ends.
    Expires,
    /// When it begins.
    NotBefore,
}

impl TimeClaim {
    /// All of them with their names.
    pub(super) const ALL: [(&str, Self); 3] =
        [("iat", Self::IssuedAt), ("exp", Self::Expires), ("nbf", Self::NotBefore)];
}

/// A key that signs.
pub(super) enum SigningKey {
    Hmac(Vec<u8>),
    Rsa(Box<RsaKeyPair>),
    Ecdsa(Box<EcdsaKeyPair>),
}

impl SigningKey {
    /// Reads a key: a shared secret, or a private key in PEM. The error is the rest of a sentence about the key, and
    /// does not repeat it.
    pub(super) fn parse(algorithm: Algorithm, text: &str) -> Result<Self, String> {
        if algorithm == Algorithm::Hs256 {
            return Ok(Self::Hmac(text.as_bytes().to_vec()));
        }
        // In a variable, the line breaks are often written as `\n`.
        let pem = text.replace("\\n", "\n");
        if pem.contains("ENCRYPTED") {
            return Err("is encrypted; decrypt it with `openssl pkcs8 -topk8 -nocrypt`".to_owned());
        }
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| "must be a private key in PEM, which begins with -----BEGIN PRIVATE KEY-----")?;
        let other = |kind: &str| format!("must be {kind}, as {} needs it", algorithm.word());
        match algorithm {
            Algorithm::Es256 => {
                let curve = &ECDSA_P256_SHA256_FIXED_SIGNING;
                let pair = if let PrivateKeyDer::Sec1(key) = &der {
                    EcdsaKeyPair::from_private_key_der(curve, key.secret_sec1_der())
                } else {
                    EcdsaKeyPair::from_pkcs8(curve, der.secret_der())
                };
                let wrong = |_| other("a key of the elliptic curve P-256");
                pair.map(|pair| Self::Ecdsa(Box::new(pair))).map_err(wrong)
            }
            Algorithm::Rs256 | Algorithm::Hs256 => {
                let pair = if let PrivateKeyDer::Pkcs1(key) = &der {
                    RsaKeyPair::from_der(key.secret_pkcs1_der())
                } else {
                    RsaKeyPair::from_pkcs8(der.secret_der())
                };
                let wrong = |_| other("an RSA key of 2048 to 8192 bits");
                pair.map(|pair| Self::Rsa(Box::new(pair))).map_err(wrong)
            }
        }
    }

    /// Returns `SHA256:` and the base64 of the hash of the public key (SPKI in DER); `None` for a shared secret.
    pub(super) fn fingerprint(&self) -> Option<String> {
        let der: PublicKeyX509Der<'_> = match self {
            Self::Hmac(_) => return None,
            Self::Rsa(pair) => pair.public_key().as_der(),
            Self::Ecdsa(pair) => pair.public_key().as_der(),
        }
        .ok()?;
        Some(format!("SHA256:{}", STANDARD.encode(Sha256::digest(der.as_ref()))))
    }

    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let wrong = |_| "cannot sign".to_owned();
        match self {
            Self::Hmac(secret) => Ok(hmac(secret, text).to_vec()),
            Self::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), text, &mut signature).map_err(wrong)?;
                Ok(signature)
            }
            Self::Ecdsa(pair) => pair
                .sign(&SystemRandom::new(), text)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(wrong),
        }
    }
}

/// Returns the HMAC with SHA-256.
pub(super) fn hmac(key: &[u8], text: &[u8]) -> [u8; 32] {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("a key of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// What a token says besides its claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity<'a> {
    pub(super) now: Timestamp,
    pub(super) lifetime: Duration,
    pub(super) times: &'a [TimeClaim],
}

/// Makes a token.
pub(super) fn sign_token(
    (algorithm, key): (Algorithm, &SigningKey),
    key_id: Option<&str>,
    mut claims: Map<String, Value>,
    validity: Validity<'_>,
) -> Result<String, String> {
    let Validity { now, lifetime, times } = validity;
    for time in times {
        let (name, at) = match time {
            TimeClaim::IssuedAt => ("iat", now),
            TimeClaim::Expires => ("exp", now.plus(lifetime)),
            TimeClaim::NotBefore => ("nbf", now.minus(NOT_BEFORE)),
        };
        claims.insert(name.to_owned(), at.seconds().into());
    }
    let mut head = json!({ "alg": algorithm.word(), "typ": "JWT" });
    if let Some(id) = key_id {
        head["kid"] = id.into();
    }
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", encode(&head), encode(&Value::Object(claims)));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes())?);
    Ok(format!("{text}.{signature}"))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::Pkcs8V1Der;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};

    use super::*;

    fn pem(kind: &str, der: &[u8]) -> String {
        format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", STANDARD.encode(der))
    }

    fn rsa() -> (RsaKeyPair, String) {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        let pem = pem("PRIVATE KEY", der.as_ref());
        (pair, pem)
    }

    fn token(algorithm: Algorithm, text: &str) -> String {
        let key = SigningKey::parse(algorithm, text).unwrap();
        let claims = Map::from_iter([("iss".to_owned(), "ak".into())]);
        let times = [TimeClaim::Expires, TimeClaim::NotBefore, TimeClaim::IssuedAt];
        let validity = Validity {
            now: Timestamp::from_millis(1_800_000_000_500),
            lifetime: Duration::from_secs(1800),
            times: &times,
        };
        sign_token((algorithm, &key), Some("k1"), claims, validity).unwrap()
    }

    /// Returns the head and the claims, the signed text, and the signature.
    fn parts(token: &str) -> (Value, Value, String, Vec<u8>) {
        let (text, signature) = token.rsplit_once('.').unwrap();
        let (head, claims) = text.split_once('.').unwrap();
        let json = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        (json(head), json(claims), text.to_owned(), URL_SAFE_NO_PAD.decode(signature).unwrap())
    }

    #[test]
    fn the_example_of_rfc_7515_has_the_published_signature() {
        // RFC 7515, appendix A.1.
        let key = URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let text = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = SigningKey::Hmac(key).sign(text.as_bytes()).unwrap();
        assert_eq!(URL_SAFE_NO_PAD.encode(signature), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }

    #[test]
    fn a_token_has_claims_times_and_a_signature_that_verifies() {
        let (head, claims, text, signature) = parts(&token(Algorithm::Hs256, "hush"));
        assert_eq!(head, json!({ "alg": "HS256", "typ": "JWT", "kid": "k1" }));
        let expected =
            json!({ "iss": "ak", "iat": 1_800_000_000, "exp": 1_800_001_800, "nbf": 1_799_999_995 });
        assert_eq!(claims, expected);
        assert_eq!(signature, hmac(b"hush", text.as_bytes()));
        let (pair, pem) = rsa();
        for written in [pem.clone(), pem.replace('\n', "\\n")] {
            let (head, _, text, signature) = parts(&token(Algorithm::Rs256, &written));
            assert_eq!(head["alg"], "RS256");
            let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, pair.public_key().as_ref());
            public.verify(text.as_bytes(), &signature).unwrap();
        }
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let written = self::pem("PRIVATE KEY", pair.to_pkcs8v1().unwrap().as_ref());
        let (head, _, text, signature) = parts(&token(Algorithm::Es256, &written));
        assert_eq!((head["alg"].as_str(), signature.len()), (Some("ES256"), 64));
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key().as_ref());
        public.verify(text.as_bytes(), &signature).unwrap();
    }

    #[test]
    fn the_fingerprint_is_the_hash_of_the_public_key() {
        let (pair, pem) = rsa();
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        let key = SigningKey::parse(Algorithm::Rs256, &pem).unwrap();
        let expected = STANDARD.encode(Sha256::digest(der.as_ref()));
        assert_eq!(key.fingerprint(), Some(format!("SHA256:{expected}")));
        assert_eq!(SigningKey::Hmac(vec![1]).fingerprint(), None);
    }

    #[test]
    fn a_wrong_private_key_is_named_without_its_text() {
        let (_, pem) = rsa();
        let encrypted = pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
        for (algorithm, text, expected) in [
            (
                Algorithm::Rs256,
                "hush",
                "must be a private key in PEM, which begins with -----BEGIN PRIVATE KEY-----",
            ),
            (Algorithm::Rs256, &encrypted, "is encrypted; decrypt it with `openssl pkcs8 -topk8 -nocrypt`"),
            (Algorithm::Es256, &pem, "must be a key of the elliptic curve P-256, as ES256 needs it"),
        ] {
            let wrong = SigningKey::parse(algorithm, text).map(drop).unwrap_err();
            assert_eq!(wrong, expected);
        }
        let curve = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let written = self::pem("PRIVATE KEY", curve.to_pkcs8v1().unwrap().as_ref());
        let wrong = SigningKey::parse(Algorithm::Rs256, &written).map(drop).unwrap_err();
        assert_eq!(wrong, "must be an RSA key of 2048 to 8192 bits, as RS256 needs it");
    }
}
