//! The request for a token that a token URL issues: OAuth 2.0 (RFC 6749) and Google's service accounts (RFC 7523).
//!
//! The request carries the credential, or an assertion that it signs. It goes to the fixed host of the definition's
//! token URL, or to the operator's token URL, and nowhere else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::host_pattern::HostPattern;
use super::jwt::{Algorithm, SigningKey, TimeClaim, Validity, sign_token};
use super::template::{UrlTemplate, percent_encode};
use crate::domain::Timestamp;

/// Host of Google's token URL.
pub(super) const GOOGLE_HOST: &str = "oauth2.googleapis.com";

/// Google's token URL, for a key that does not name it.
const GOOGLE_URL: &str = "https://oauth2.googleapis.com/token";

/// Lifetime of an assertion for Google: the longest that it accepts.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(3600);

/// How a token is requested.
#[derive(Clone, Debug)]
pub(super) enum TokenForm {
    OAuth2(OAuth2Form),
    Google(GoogleForm),
}

/// OAuth 2.0.
#[derive(Clone, Debug)]
pub(super) struct OAuth2Form {
    pub(super) grant: Grant,
    /// The host is fixed; the path can contain fields of the credential.
    pub(super) token_url: UrlTemplate,
    pub(super) scope: Option<String>,
    pub(super) audience: Option<String>,
    pub(super) client_auth: ClientAuth,
    pub(super) encoding: Encoding,
    /// Whether a credential without fields is a token, which is sent as it is.
    pub(super) allows_token: bool,
}

/// A service account of Google.
#[derive(Clone, Debug)]
pub(super) struct GoogleForm {
    pub(super) scope: String,
    /// Hosts that the key's `token_uri` may have.
    pub(super) token_hosts: Vec<HostPattern>,
}

/// What is exchanged for a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Grant {
    #[default]
    ClientCredentials,
    RefreshToken,
}

impl Grant {
    /// All grants with their words.
    pub(super) const ALL: [(&str, Self); 2] =
        [("client_credentials", Self::ClientCredentials), ("refresh_token", Self::RefreshToken)];
}

/// Where the client's id and secret are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientAuth {
    /// As HTTP Basic.
    #[default]
    Header,
    /// In the form.
    Body,
}

impl ClientAuth {
    /// All ways with their words.
    pub(super) const ALL: [(&str, Self); 2] = [("header", Self::Header), ("body", Self::Body)];
}

/// Form of the body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// As RFC 6749 has it.
    #[default]
    Form,
    Json,
}

impl Encoding {
    /// All forms with their words.
    pub(super) const ALL: [(&str, Self); 2] = [("form", Self::Form), ("json", Self::Json)];

    /// Returns the content type and the body.
    fn body(self, pairs: &[(&str, &str)]) -> (&'static str, String) {
        match self {
            Self::Form => {
                let body = Serializer::new(String::new()).extend_pairs(pairs).finish();
                ("application/x-www-form-urlencoded", body)
            }
            Self::Json => {
                let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), Value::from(*value));
                ("application/json", Value::Object(pairs.iter().map(pair).collect()).to_string())
            }
        }
    }
}

/// A POST to a token URL.
pub(super) struct TokenRequest {
    pub(super) url: Url,
    pub(super) authorization: Option<String>,
    pub(super) content_type: &'static str,
    pub(super) body: String,
    /// Texts derived from the credential.
    pub(super) secrets: Vec<String>,
}

impl TokenForm {
    pub(super) fn is_google(&self) -> bool {
        matches!(self, Self::Google(_))
    }

    /// Returns where a token is requested, for people.
    pub(super) fn shown_url(&self) -> String {
        match self {
            Self::OAuth2(form) => {
                format!("{}{}", form.token_url.origin().trim_end_matches('/'), form.token_url.path)
            }
            Self::Google(_) => "the `token_uri` of the key".to_owned(),
        }
    }

    /// Returns the credential, if it is a token itself.
    pub(super) fn bare_token<'a>(&self, credential: &'a str) -> Option<&'a str> {
        let Self::OAuth2(form) = self else { return None };
        bare_token(credential, &self.fields(true).0).filter(|_| form.allows_token)
    }

    /// Returns whether the definition's token URL contains a field of the credential.
    pub(super) fn is_in_url(&self, name: &str) -> bool {
        matches!(self, Self::OAuth2(form) if form.token_url.path.names().any(|known| known == name))
    }

    /// Returns the fields that the credential must have, and those that it may have. Those of the definition's token
    /// URL are required if the URL is used.
    pub(super) fn fields(&self, uses_url: bool) -> (BTreeSet<&str>, &'static [&'static str]) {
        match self {
            Self::OAuth2(form) => {
                let own = match form.grant {
                    Grant::ClientCredentials => ["client_id", "client_secret"],
                    Grant::RefreshToken => ["client_id", "refresh_token"],
                };
                let optional: &[&str] = match form.grant {
                    Grant::ClientCredentials => &[],
                    Grant::RefreshToken => &["client_secret"],
                };
                let of_url = form.token_url.path.names().filter(|_| uses_url);
                (of_url.chain(own).collect(), optional)
            }
            Self::Google(_) => {
                (["client_email", "private_key"].into(), &["private_key_id", "token_uri", "type"])
            }
        }
    }

    /// Returns the request for a token. The error is the rest of a sentence about the credential.
    pub(super) fn request(
        &self,
        fields: &BTreeMap<String, String>,
        refresh_token: Option<&str>,
        own_url: Option<&Url>,
        now: Timestamp,
    ) -> Result<TokenRequest, String> {
        match self {
            Self::OAuth2(form) => form.request(fields, refresh_token, own_url),
            Self::Google(form) => form.request(fields, own_url, now),
        }
    }
}

/// Returns a credential, if it has none of the fields.
pub(super) fn bare_token<'a>(credential: &'a str, fields: &BTreeSet<&str>) -> Option<&'a str> {
    let has_field = |line: &str| line.split_once('=').is_some_and(|(name, _)| fields.contains(name.trim()));
    let has_fields = credential.trim_start().starts_with('{') || credential.lines().any(has_field);
    (!has_fields).then_some(credential)
}

impl OAuth2Form {
    fn request(
        &self,
        fields: &BTreeMap<String, String>,
        refresh_token: Option<&str>,
        own_url: Option<&Url>,
    ) -> Result<TokenRequest, String> {
        let encoded = |name: &str| Ok(percent_encode(&fields[name]));
        let url = match own_url {
            Some(url) => url.clone(),
            None => self.token_url.render(None, encoded, encoded)?,
        };
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        match self.grant {
            Grant::ClientCredentials => pairs.push(("grant_type", "client_credentials")),
            Grant::RefreshToken => {
                let newest = refresh_token.unwrap_or(&fields["refresh_token"]);
                pairs.extend([("grant_type", "refresh_token"), ("refresh_token", newest)]);
            }
        }
        pairs.extend(self.scope.iter().map(|scope| ("scope", scope.as_str())));
        pairs.extend(self.audience.iter().map(|audience| ("audience", audience.as_str())));
        let (id, secret) = (fields["client_id"].as_str(), fields.get("client_secret"));
        let mut authorization = None;
        match (self.client_auth, secret) {
            (ClientAuth::Header, Some(secret)) => {
                // RFC 6749, section 2.3.1: both are encoded as in a form before they are joined.
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
                authorization = Some(format!("Basic {pair}"));
            }
            (ClientAuth::Body, Some(secret)) => {
                pairs.extend([("client_id", id), ("client_secret", secret.as_str())]);
            }
            // A public client.
            (_, None) => pairs.push(("client_id", id)),
        }
        let (content_type, body) = self.encoding.body(&pairs);
        let secrets = authorization.iter().filter_map(|value| value.strip_prefix("Basic "));
        let mut secrets: Vec<String> = secrets.map(str::to_owned).collect();
        secrets.extend(refresh_token.map(str::to_owned));
        Ok(TokenRequest { url, authorization, content_type, body, secrets })
    }
}

impl GoogleForm {
    fn request(
        &self,
        fields: &BTreeMap<String, String>,
        own_url: Option<&Url>,
        now: Timestamp,
    ) -> Result<TokenRequest, String> {
        if fields.get("type").is_some_and(|kind| kind != "service_account") {
            return Err("is not the key of a service account: its `type` is another one".to_owned());
        }
        let audience = fields.get("token_uri").map_or(GOOGLE_URL, String::as_str);
        let named = Url::parse(audience).map_err(|_| "has a `token_uri` that is not a URL")?;
        let is_allowed =
            named.scheme() == "https" && self.token_hosts.iter().any(|host| host.contains(&named));
        if !is_allowed {
            return Err("has a `token_uri` at a host that the definition does not allow".to_owned());
        }
        let key = SigningKey::parse(Algorithm::Rs256, &fields["private_key"])
            .map_err(|why| format!("has a field `private_key` that {why}"))?;
        let claims = json!({ "iss": fields["client_email"], "scope": self.scope, "aud": audience });
        let claims = claims.as_object().map_or_else(Map::new, Map::clone);
        let times = [TimeClaim::IssuedAt, TimeClaim::Expires];
        let validity = Validity { now, lifetime: ASSERTION_LIFETIME, times: &times };
        let key_id = fields.get("private_key_id").map(String::as_str);
        let assertion = sign_token((Algorithm::Rs256, &key), key_id, claims, validity)?;
        let grant = "urn:ietf:params:oauth:grant-type:jwt-bearer";
        let (content_type, body) =
            Encoding::Form.body(&[("grant_type", grant), ("assertion", assertion.as_str())]);
        let url = own_url.cloned().unwrap_or(named);
        Ok(TokenRequest { url, authorization: None, content_type, body, secrets: vec![assertion] })
    }
}
