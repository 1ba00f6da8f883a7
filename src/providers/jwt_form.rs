//! The token that a key signs for each request: what it says, and from which fields of the credential.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::body::JsonTemplate;
use super::issued_token::bare_token;
use super::jwt::{Algorithm, SigningKey, TimeClaim, Validity, sign_token};
use super::template::Template;
use crate::domain::Timestamp;

/// Name of a part of the claims that is computed: the hash of the public key.
pub(super) const FINGERPRINT: &str = "fingerprint";

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
        let named = claims.filter(|name| *name != FINGERPRINT).chain(others);
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
        let value = |name: &str| {
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
