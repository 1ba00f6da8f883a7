//! The request for a token that a token URL issues: OAuth 2.0 (RFC 6749) and Google's service accounts (RFC 7523).
//!
//! The request carries the credential, or an assertion that it signs. It goes to the fixed host of the definition's
//! token URL, or to the operator's token URL, and nowhere else.
//!
//! Many APIs issue tokens in a way that only resembles OAuth 2.0: with another grant, with further fields, without a
//! client, or for a user name and a password. A definition then adds what differs to the standard request, down to a
//! request of which nothing is standard, and says where the answer has the token. Secrets are fields of the credential
//! in each case.

use std::cell::{Cell, OnceCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

use super::body::JsonTemplate;
use super::extract::Time;
use super::field::{Field, Head, Scope};
use super::host_pattern::HostPattern;
use super::json::{Dialect, parse_json};
use super::jwt::{Algorithm, SigningKey, TimeClaim, Validity, sign_token};
use super::jwt_form::{JwtForm, bare_token};
use super::names::Names;
use super::part::SEARCHED_TOTAL;
use super::template::{Template, UrlTemplate, percent_encode};
use super::value::{Json, number, text};
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
    OAuth2(Box<OAuth2Form>),
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
    pub(super) assertion: Option<Assertion>,
    pub(super) encoding: Encoding,
    /// Whether a credential without fields is a token, which is sent as it is.
    pub(super) allows_token: bool,
    pub(super) extra: TokenRequestExtra,
    /// `None`: as in RFC 6749.
    pub(super) answer: Option<TokenAnswer>,
}

/// A token that the credential signs, and that is exchanged for another one (RFC 7523).
#[derive(Clone, Debug)]
pub(super) struct Assertion {
    pub(super) form: JwtForm,
    pub(super) sent_as: AssertionUse,
}

/// What an assertion says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum AssertionUse {
    /// For whom a token is requested.
    #[default]
    Grant,
    /// Which client requests it.
    Client,
}

impl AssertionUse {
    /// All uses with the names of their fields.
    pub(super) const ALL: [(&str, Self); 2] =
        [("assertion", Self::Grant), ("client_assertion", Self::Client)];
}

/// Type of an assertion that stands for a client.
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What a request for a token has besides the parts of OAuth 2.0: templates over the fields of the credential.
#[derive(Clone, Debug, Default)]
pub(super) struct TokenRequestExtra {
    /// Whether the method is GET. The request then has no body, and all fields are in its query.
    pub(super) is_get: bool,
    pub(super) query: Vec<(String, Template)>,
    pub(super) headers: Vec<(String, Template)>,
    /// Members of the body.
    pub(super) body: Vec<(String, JsonTemplate)>,
}

impl TokenRequestExtra {
    /// Returns whether nothing of the credential is sent.
    pub(super) fn has_no_field(&self) -> bool {
        self.names().next().is_none()
    }

    /// Returns the fields of the credential that are sent.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.templates().flat_map(Template::names)
    }

    fn templates(&self) -> impl Iterator<Item = &Template> {
        let plain = self.query.iter().chain(&self.headers).map(|(_, template)| template);
        plain.chain(self.body.iter().flat_map(|(_, value)| value.templates()))
    }
}

/// Places in the answer of a token URL.
#[derive(Clone, Debug)]
pub(super) struct TokenAnswer {
    pub(super) token: Field,
    /// Number of seconds until the end of the token.
    pub(super) expires_in: Field,
    pub(super) expires_at: Option<Time>,
}

impl TokenAnswer {
    /// Returns the token, a new refresh token, and the life of the token. The error is the rest of a sentence about the
    /// token URL.
    pub(super) fn read(
        &self,
        headers: &[(String, String)],
        body: &[u8],
        now: Timestamp,
    ) -> Result<Issued, String> {
        let cell = OnceCell::new();
        let parsed = parse_json(body, &cell, Dialect::Tolerant, None).map(|parsed| parsed.value);
        // The token can be in a header.
        let root = parsed.as_ref().unwrap_or(&Json::Null);
        let head = Head { status: 200, headers };
        let left = Cell::new(SEARCHED_TOTAL);
        let scope = Scope { root, head, names: Names::of_job(""), outcome: None, nulls: &[], left: &left };
        let missing = || match &parsed {
            Ok(_) => "the answer has no token where the definition says".to_owned(),
            Err(_) => "the answer is not JSON".to_owned(),
        };
        let token = self.token.find(scope, text).ok_or_else(missing)?;
        let refresh = root.get("refresh_token").and_then(text);
        let seconds = self.expires_in.find(scope, number).filter(|seconds| *seconds >= 0.0);
        let stated = seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
        let until = || self.expires_at.as_ref()?.read(scope).map(|at| at.since(now));
        Ok((token, refresh, stated.or_else(until)))
    }
}

/// Names with their values, in the order of a request.
type Pairs<T> = Vec<(String, T)>;

/// A token, the refresh token that replaces the one that was sent, and the life of the token.
pub(super) type Issued = (String, Option<String>, Option<Duration>);

/// A service account of Google.
#[derive(Clone, Debug)]
pub(super) struct GoogleForm {
    pub(super) scope: String,
    /// Hosts that the key's `token_uri` may have.
    pub(super) token_hosts: Vec<HostPattern>,
}

/// What is exchanged for a token: the value of `grant_type`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Grant {
    #[default]
    ClientCredentials,
    RefreshToken,
    /// Nothing: the request has no `grant_type`.
    None,
    Other(String),
}

impl Grant {
    /// The grants with words of their own.
    pub(super) const WORDS: [(&str, Self); 3] = [
        ("client_credentials", Self::ClientCredentials),
        ("refresh_token", Self::RefreshToken),
        ("none", Self::None),
    ];
}

/// Where the client's id and secret are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientAuth {
    /// As HTTP Basic.
    #[default]
    Header,
    /// In the form.
    Body,
    /// Nowhere: the request has no client.
    None,
}

impl ClientAuth {
    /// All ways with their words.
    pub(super) const ALL: [(&str, Self); 3] =
        [("header", Self::Header), ("body", Self::Body), ("none", Self::None)];
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
    fn body(self, fields: &[(String, Value)]) -> (&'static str, String) {
        match self {
            Self::Form => {
                let body = Serializer::new(String::new()).extend_pairs(texts(fields)).finish();
                ("application/x-www-form-urlencoded", body)
            }
            Self::Json => ("application/json", Value::Object(fields.iter().cloned().collect()).to_string()),
        }
    }
}

/// Returns fields as pairs of texts.
fn texts(fields: &[(String, Value)]) -> impl Iterator<Item = (&str, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    fields.iter().map(move |(name, value)| (name.as_str(), text(value)))
}

/// A request to a token URL.
pub(super) struct TokenRequest {
    pub(super) method: &'static str,
    pub(super) url: Url,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
    /// Texts derived from the credential.
    pub(super) secrets: Vec<String>,
}

impl TokenForm {
    pub(super) fn is_google(&self) -> bool {
        matches!(self, Self::Google(_))
    }

    /// Returns the field of the credential that signs an assertion.
    pub(super) fn signing_key(&self) -> Option<&str> {
        match self {
            Self::OAuth2(form) => form.assertion.as_ref().map(|assertion| assertion.form.key.as_str()),
            Self::Google(_) => Some("private_key"),
        }
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

    /// Returns where the answer of the token URL has the token; `None`: as in RFC 6749.
    pub(super) fn answer(&self) -> Option<&TokenAnswer> {
        if let Self::OAuth2(form) = self { form.answer.as_ref() } else { None }
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
                let is_refresh = form.grant == Grant::RefreshToken;
                let has_client = form.client_auth != ClientAuth::None;
                let own: &[&str] = match (is_refresh, has_client) {
                    (true, true) => &["client_id", "refresh_token"],
                    (true, false) => &["refresh_token"],
                    (false, true) => &["client_id", "client_secret"],
                    (false, false) => &[],
                };
                let optional: &[&str] = if is_refresh && has_client { &["client_secret"] } else { &[] };
                let of_url = form.token_url.path.names().filter(|_| uses_url);
                let of_assertion = form.assertion.iter().flat_map(|assertion| assertion.form.fields());
                let own = own.iter().copied().chain(of_assertion);
                (of_url.chain(own).chain(form.extra.names()).collect(), optional)
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
            Self::OAuth2(form) => form.request(fields, refresh_token, own_url, now),
            Self::Google(form) => form.request(fields, own_url, now),
        }
    }
}

/// Checks a text that is sent in a header. The error is the rest of a sentence about the credential.
pub(super) fn printable(text: &str) -> Result<&str, String> {
    let is_printable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    is_printable.then_some(text).ok_or_else(|| "must be printable ASCII without spaces".to_owned())
}

/// Returns a field of a credential, if it can be in a header.
pub(super) fn printable_field(fields: &BTreeMap<String, String>, name: &str) -> Result<String, String> {
    let why = |rule| format!("has a field `{name}` for a header, which {rule}");
    printable(&fields[name]).map(str::to_owned).map_err(why)
}

impl OAuth2Form {
    fn request(
        &self,
        fields: &BTreeMap<String, String>,
        refresh_token: Option<&str>,
        own_url: Option<&Url>,
        now: Timestamp,
    ) -> Result<TokenRequest, String> {
        let encoded = |name: &str| Ok(percent_encode(&fields[name]));
        let url = match own_url {
            Some(url) => url.clone(),
            None => self.token_url.render(None, encoded, encoded)?,
        };
        let (mut pairs, mut headers) = self.standard(fields, refresh_token);
        let derived = headers.iter().filter_map(|(_, value)| value.strip_prefix("Basic "));
        let mut secrets: Vec<String> = derived.map(str::to_owned).collect();
        secrets.extend(refresh_token.map(str::to_owned));
        if let Some(Assertion { form, sent_as }) = &self.assertion {
            let assertion = form.token(fields, now)?;
            let mut add = |name: &str, value: &str| pairs.push((name.to_owned(), value.into()));
            match sent_as {
                AssertionUse::Grant => add("assertion", &assertion),
                AssertionUse::Client => {
                    add("client_assertion_type", CLIENT_ASSERTION_TYPE);
                    add("client_assertion", &assertion);
                }
            }
            secrets.push(assertion);
        }
        let value = |name: &str| Ok(fields[name].clone());
        for (name, template) in &self.extra.body {
            pairs.push((name.clone(), template.render(&value, &|_| false)?));
        }
        for (name, template) in &self.extra.headers {
            headers.push((name.clone(), template.render(|name| printable_field(fields, name))?));
        }
        let mut query = Vec::new();
        for (name, template) in &self.extra.query {
            query.push((name.as_str(), template.render(value)?));
        }
        let method = if self.extra.is_get { "GET" } else { "POST" };
        let body = if self.extra.is_get {
            query.extend(texts(&pairs));
            String::new()
        } else {
            let (content_type, body) = self.encoding.body(&pairs);
            headers.push(("content-type".to_owned(), content_type.to_owned()));
            body
        };
        let mut url = url;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(TokenRequest { method, url, headers, body, secrets })
    }

    /// Returns the fields and the headers of OAuth 2.0.
    fn standard(
        &self,
        fields: &BTreeMap<String, String>,
        refresh_token: Option<&str>,
    ) -> (Pairs<Value>, Pairs<String>) {
        let mut pairs: Pairs<Value> = Vec::new();
        let mut add = |name: &str, value: &str| pairs.push((name.to_owned(), value.into()));
        match &self.grant {
            Grant::ClientCredentials => add("grant_type", "client_credentials"),
            Grant::RefreshToken => {
                add("grant_type", "refresh_token");
                add("refresh_token", refresh_token.unwrap_or(&fields["refresh_token"]));
            }
            Grant::Other(grant) => add("grant_type", grant),
            Grant::None => {}
        }
        for (name, value) in [("scope", &self.scope), ("audience", &self.audience)] {
            if let Some(value) = value {
                add(name, value);
            }
        }
        let field = |name: &str| fields.get(name).map(String::as_str);
        match (self.client_auth, field("client_id"), field("client_secret")) {
            (ClientAuth::Header, Some(id), Some(secret)) => {
                // RFC 6749, section 2.3.1: both are encoded as in a form before they are joined.
                let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
                let pair = STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
                return (pairs, vec![("authorization".to_owned(), format!("Basic {pair}"))]);
            }
            (ClientAuth::Body, Some(id), Some(secret)) => {
                add("client_id", id);
                add("client_secret", secret);
            }
            // A public client.
            (ClientAuth::Header | ClientAuth::Body, Some(id), None) => add("client_id", id),
            (ClientAuth::None, ..) | (_, None, _) => {}
        }
        (pairs, Vec::new())
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
        let pairs = [("grant_type", grant), ("assertion", assertion.as_str())];
        let pairs = pairs.map(|(name, value)| (name.to_owned(), Value::from(value)));
        let (content_type, body) = Encoding::Form.body(&pairs);
        let headers = vec![("content-type".to_owned(), content_type.to_owned())];
        let url = own_url.cloned().unwrap_or(named);
        Ok(TokenRequest { method: "POST", url, headers, body, secrets: vec![assertion] })
    }
}
