//! The token that a key signs for each request: what it says, and from which fields of the credential.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::body::JsonTemplate;
use super::jwt::{Algorithm, SigningKey, TimeClaim, Validity, sign_token};
use super::template::Template;
use crate::domain::Timestamp;

/// Name of a part of the claims that is computed: the hash of the public key.
pub(super) const FINGERPRINT: &str = "fingerprint";

/// Name of a part of the claims that is another text in each token, for APIs that accept each one once.
const UNIQUE: &str = "jti";

/// The parts of claims that are computed, and no fields of the credential.
pub(super) const COMPUTED: [&str; 2] = [FINGERPRINT, UNIQUE];

/// Number of the tokens that this process has signed. Several can be signed in one millisecond.
static SIGNED: AtomicU64 = AtomicU64::new(0);

/// A signed token.
#[derive(Clone, Debug)]
pub(super) struct JwtForm {
    pub(super) algorithm: Algorithm,
    /// Field of the credential that has the key.
    pub(super) key: String,
    /// The parameter `kid` of the head.
    pub(super) key_id: Option<Template>,
    /// The claims, an object.
    pub(super) claims: JsonTemplate,
    pub(super) times: Vec<TimeClaim>,
    pub(super) lifetime: Duration,
    /// Fields that are put into upper case.
    pub(super) uppercase: Vec<String>,
    /// Whether a credential without fields is a token, which is sent as it is.
    pub(super) allows_token: bool,
}

impl JwtForm {
    /// Returns the fields of the credential that the token needs.
    pub(super) fn fields(&self) -> BTreeSet<&str> {
        let claims = self.claims.templates().into_iter().flat_map(Template::names);
        let others = self.key_id.iter().flat_map(Template::names);
        let named = claims.filter(|name| !COMPUTED.contains(name)).chain(others);
        named.chain([self.key.as_str()]).collect()
    }

    /// Returns the credential, if it is a token.
    pub(super) fn bare_token<'a>(&self, credential: &'a str) -> Option<&'a str> {
        bare_token(credential, &self.fields()).filter(|_| self.allows_token)
    }

    /// Signs a token. The error is the rest of a sentence about the credential.
    pub(super) fn token(&self, fields: &BTreeMap<String, String>, now: Timestamp) -> Result<String, String> {
        let key = SigningKey::parse(self.algorithm, &fields[&self.key])
            .map_err(|why| format!("has a field `{}` that {why}", self.key))?;
        let unique = unique(fields, now);
        let value = |name: &str| {
            if name == UNIQUE {
                return Ok(unique.clone());
            }
            if name == FINGERPRINT {
                return key.fingerprint().ok_or_else(|| "has no public key".to_owned());
            }
            let value = fields[name].clone();
            Ok(if self.uppercase.iter().any(|one| one == name) { value.to_uppercase() } else { value })
        };
        let claims = self.claims.render(&value, &|_| false)?.as_object().cloned().unwrap_or_default();
        let key_id = self.key_id.as_ref().map(|template| template.render(value)).transpose()?;
        let validity = Validity { now, lifetime: self.lifetime, times: &self.times };
        sign_token((self.algorithm, &key), key_id.as_deref(), claims, validity)
    }
}

/// Returns the unique text of a token. It is derived from the credential, so that servers with other ones differ.
fn unique(fields: &BTreeMap<String, String>, now: Timestamp) -> String {
    let number = SIGNED.fetch_add(1, Ordering::Relaxed);
    let digest = Sha256::digest(format!("{fields:?}\n{}\n{number}", now.millis()));
    let mut text = String::new();
    for byte in &digest[..16] {
        // Writing to a text cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// Returns a credential, if it has none of the fields.
pub(super) fn bare_token<'a>(credential: &'a str, fields: &BTreeSet<&str>) -> Option<&'a str> {
    let has_field = |line: &str| line.split_once('=').is_some_and(|(name, _)| fields.contains(name.trim()));
    let has_fields = credential.trim_start().starts_with('{') || credential.lines().any(has_field);
    (!has_fields).then_some(credential)
}
