//! The credential of a provider: how it is sent, and to which hosts.
//!
//! A credential with one value is configured as it is. One with several fields is configured as a JSON object, or as
//! lines `field=value`. No message repeats any of it.
//!
//! Three kinds of credentials are not sent themselves. `jwt` and `aws` sign each request. `oauth2` and `google` are
//! exchanged for a token: [`Auth::token_request`] makes that request, the poller sends it and keeps the token. What is
//! derived from a credential goes to the hosts of the credential only, and is masked like it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use url::Url;

use super::aws::{Keys, Scope, Unsigned, region_of, shown_headers, signed_headers};
use super::host_pattern::HostPattern;
use super::issued_token::{TokenForm, TokenRequest, printable, printable_field};
use super::jwt_form::JwtForm;
use super::template::Template;
use crate::domain::MASK;
use crate::domain::Timestamp;

/// Shortest secret that is replaced in messages. A shorter one would replace words.
const SECRET_MIN: usize = 4;

/// Fields of credentials that name an account, and are no secrets.
const PUBLIC_FIELDS: &[&str] = &[
    "client_email",
    "token_uri",
    "client_id",
    "account",
    "user",
    "username",
    "access_key_id",
    "key_id",
    "tenant",
    "account_id",
    "email",
    "domain",
    "project_id",
    "org",
    "org_id",
    "organization",
    "organization_id",
    "tenant_id",
    "team_id",
    "workspace",
    "workspace_id",
    "user_id",
    "region",
    "type",
];

/// Field of a credential that is sent alone, if the credential has further fields for headers.
const KEY: &str = "key";

/// What authorises a request.
#[derive(Clone, Copy)]
pub struct Credential<'a> {
    /// The configured credential.
    pub key: &'a str,
    /// The token that was issued for it, if the definition needs one.
    pub token: Option<&'a str>,
    /// Time at which a request is signed.
    pub now: Timestamp,
}

/// Where the parts that authorise a request come from.
#[derive(Clone, Copy)]
pub(super) enum Supply<'a> {
    /// A credential.
    Real(Credential<'a>),
    /// None: the request is shown.
    Shown(Timestamp),
}

/// How to send the credential, and to which hosts.
#[derive(Clone, Debug)]
pub(super) struct Auth {
    pub(super) form: AuthForm,
    /// Headers that are sent beside it: templates over the fields of the credential.
    pub(super) headers: Vec<(String, Template)>,
    pub(super) send_to: Vec<HostPattern>,
    /// The hosts that the operator lists, of those that a wildcard of `send_to` allows and a client may choose.
    pub(super) operator_hosts: Vec<HostPattern>,
    /// Whether the operator has replaced the host by `base_url`.
    pub(super) is_rebased: bool,
    /// The operator's token URL, which replaces that of the definition.
    pub(super) token_url: Option<Url>,
    /// The hosts that an app lists for its credential, to which all other rules are subject; `None` for a credential of
    /// the operator.
    pub(super) own_hosts: Option<Vec<HostPattern>>,
}

/// How to send the credential.
#[derive(Clone, Debug)]
pub(super) enum AuthForm {
    /// In one header, after a prefix.
    Header(AuthHeader),
    /// `user:password`, as HTTP Basic.
    Basic,
    /// Only in the headers of [`Auth::headers`].
    Headers,
    /// In the query.
    Query(Vec<(String, Template)>),
    /// In the JSON or form body.
    Body(Vec<(String, Template)>),
    /// As a token that a token URL issues for it, in one header.
    Token(Box<TokenForm>, AuthHeader),
    /// As a token that it signs, in one header.
    Jwt(Box<JwtForm>, AuthHeader),
    /// As a signature of AWS.
    Aws(AwsForm),
}

/// A header, and the text before its value.
#[derive(Clone, Debug)]
pub(super) struct AuthHeader {
    pub(super) name: String,
    pub(super) prefix: String,
}

impl AuthHeader {
    /// Returns `authorization: Bearer …`.
    pub(super) fn bearer() -> Self {
        Self { name: "authorization".to_owned(), prefix: "Bearer ".to_owned() }
    }

    fn with(&self, value: &str) -> (String, String) {
        (self.name.clone(), format!("{}{value}", self.prefix))
    }
}

/// What a signature of AWS is valid for.
#[derive(Clone, Debug)]
pub(super) struct AwsForm {
    pub(super) service: String,
    /// Template over the parameters. Without it, the name of the host has the region.
    pub(super) region: Option<Template>,
}

/// The parts that a credential adds to a request.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) headers: Vec<(String, String)>,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Vec<(String, String)>,
    /// Texts derived from the credential.
    pub(super) secrets: Vec<String>,
}

impl Auth {
    /// Returns an authorization without the operator's settings.
    pub(super) fn new(form: AuthForm, send_to: Vec<HostPattern>) -> Self {
        Self {
            form,
            headers: Vec::new(),
            send_to,
            operator_hosts: Vec::new(),
            is_rebased: false,
            token_url: None,
            own_hosts: None,
        }
    }

    /// Returns whether the app whose credential it is lets it go to the host and port of `url`: only by https.
    pub(super) fn is_permitted_by_app(&self, url: &Url) -> bool {
        let is_listed = |hosts: &Vec<HostPattern>| hosts.iter().any(|host| host.contains(url));
        self.own_hosts.as_ref().is_none_or(|hosts| url.scheme() == "https" && is_listed(hosts))
    }

    /// Returns whether the credential may be sent to the host and port of `url`. It requires https.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        url.scheme() == "https" && self.send_to.iter().any(|pattern| pattern.contains(url))
    }

    /// Does the same for a host that a client has chosen. Below a wildcard, it may be the host of another customer of
    /// the provider, who would get the credential. So `send_to` must have it without a wildcard, or the operator lists
    /// it.
    pub(super) fn trusts_chosen(&self, url: &Url) -> bool {
        self.is_rebased || self.trusts_named(url)
    }

    /// Does the same for a URL that an answer of the provider names, which no `base_url` replaces.
    pub(super) fn trusts_named(&self, url: &Url) -> bool {
        let is_exact = || self.send_to.iter().any(|pattern| pattern.is_exact() && pattern.contains(url));
        let is_listed = || self.operator_hosts.iter().any(|pattern| pattern.contains(url));
        self.trusts(url) && (is_exact() || is_listed())
    }

    /// Returns the fields that a credential must have; none if it is one value. Others that it may have follow.
    fn fields(&self) -> (BTreeSet<&str>, &'static [&'static str]) {
        let of_headers: Vec<&str> = self.headers.iter().flat_map(|(_, template)| template.names()).collect();
        let (own, optional): (BTreeSet<&str>, &'static [&'static str]) = match &self.form {
            AuthForm::Header(_) | AuthForm::Basic if !of_headers.is_empty() => ([KEY].into(), &[]),
            AuthForm::Header(_) | AuthForm::Basic | AuthForm::Headers => (BTreeSet::new(), &[]),
            AuthForm::Query(parts) | AuthForm::Body(parts) => {
                (parts.iter().flat_map(|(_, template)| template.names()).collect(), &[])
            }
            AuthForm::Token(form, _) => form.fields(self.token_url.is_none()),
            AuthForm::Jwt(form, _) => (form.fields(), &[]),
            AuthForm::Aws(_) => (["access_key_id", "secret_access_key"].into(), &["session_token"]),
        };
        (own.into_iter().chain(of_headers).collect(), optional)
    }

    /// Returns whether a credential must have a field.
    pub(super) fn needs_field(&self, name: &str) -> bool {
        self.fields().0.contains(name)
    }

    /// Returns what is sent alone: the field [`KEY`] of a credential with fields, or else all of it.
    fn key_of(&self, credential: &str) -> Result<String, String> {
        if self.fields().0.is_empty() {
            return Ok(credential.to_owned());
        }
        Ok(self.read(credential)?.remove(KEY).unwrap_or_default())
    }

    /// Returns a credential that is a token itself.
    fn bare_token<'a>(&self, credential: &'a str) -> Option<&'a str> {
        match &self.form {
            AuthForm::Token(form, _) => form.bare_token(credential),
            AuthForm::Jwt(form, _) => form.bare_token(credential),
            AuthForm::Header(_)
            | AuthForm::Basic
            | AuthForm::Headers
            | AuthForm::Query(_)
            | AuthForm::Body(_)
            | AuthForm::Aws(_) => None,
        }
    }

    /// Returns the headers beside the credential. A credential that is a token itself has no fields for them.
    fn headers_beside(&self, credential: &str) -> Result<Vec<(String, String)>, String> {
        if self.headers.is_empty() || self.bare_token(credential).is_some() {
            return Ok(Vec::new());
        }
        let has_fields = !self.fields().0.is_empty();
        let fields = if has_fields { self.read(credential)? } else { BTreeMap::new() };
        headers(&self.headers, &fields)
    }

    /// Checks a credential. After the name of a scheme, such as `Bearer`, a key is one word.
    pub(super) fn check(&self, credential: &str) -> Result<(), String> {
        let now = Timestamp::from_millis(0);
        match &self.form {
            AuthForm::Header(header) => {
                let key = self.key_of(credential)?;
                if !header.prefix.is_empty() {
                    check_word(&key, &header.prefix)?;
                }
                printable(&key)?;
            }
            AuthForm::Token(form, _) => match form.bare_token(credential) {
                Some(token) => printable(token).map(drop)?,
                None => self.token_request(credential, None, now).map(drop)?,
            },
            AuthForm::Aws(_) => self.aws_keys(credential).map(drop)?,
            AuthForm::Basic
            | AuthForm::Headers
            | AuthForm::Query(_)
            | AuthForm::Body(_)
            | AuthForm::Jwt(..) => {
                self.sent(Supply::Real(Credential { key: credential, token: None, now }))?;
            }
        }
        self.headers_beside(credential).map(drop)
    }

    /// Returns what the credential adds to a request. The error is the rest of a sentence about the key.
    pub(super) fn sent(&self, supply: Supply<'_>) -> Result<Sent, String> {
        let sample = matches!(supply, Supply::Shown(_)).then(|| self.sample(MASK));
        let (key, token, now) = match (supply, &sample) {
            (Supply::Real(Credential { key, token, now }), _) => (key, token, now),
            (Supply::Shown(now), sample) => (sample.as_deref().unwrap_or(MASK), Some(MASK), now),
        };
        // The mask of a credential without fields is no token.
        let bare = self.bare_token(key).filter(|_| sample.is_none());
        let mut sent = Sent::default();
        if bare.is_none() {
            sent.headers = self.headers_beside(key)?;
        }
        match &self.form {
            AuthForm::Header(header) => sent.headers.push(header.with(printable(&self.key_of(key)?)?)),
            AuthForm::Basic if sample.is_some() => {
                // The base64 of a masked credential means nothing.
                sent.headers.push(("authorization".to_owned(), format!("Basic {MASK}")));
            }
            AuthForm::Basic => {
                let pair = user_and_password(&self.key_of(key)?)?;
                sent.headers.push(("authorization".to_owned(), format!("Basic {}", STANDARD.encode(pair))));
            }
            AuthForm::Query(parts) => sent.query = rendered(parts, &self.read(key)?)?,
            AuthForm::Body(parts) => sent.body = rendered(parts, &self.read(key)?)?,
            AuthForm::Token(_, header) => {
                let token = printable(token.or(bare).ok_or("was not exchanged for a token")?)?;
                sent.headers.push(header.with(token));
                sent.secrets.push(token.to_owned());
            }
            AuthForm::Jwt(form, header) => {
                let token = match (bare, &sample) {
                    (Some(token), _) => printable(token)?.to_owned(),
                    (None, Some(_)) => MASK.to_owned(),
                    (None, None) => form.token(&self.read(key)?, now)?,
                };
                sent.headers.push(header.with(&token));
                sent.secrets.push(token);
            }
            // The whole request is signed.
            AuthForm::Headers | AuthForm::Aws(_) => {}
        }
        Ok(sent)
    }

    /// Returns the headers that sign a whole request, and texts in them that are derived from the credential; nothing
    /// if it is not signed. `param` returns the values of parameters.
    pub(super) fn signature(
        &self,
        supply: Supply<'_>,
        request: Unsigned<'_>,
        param: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Sent, String> {
        let AuthForm::Aws(form) = &self.form else { return Ok(Sent::default()) };
        let region = match &form.region {
            Some(template) => template.render(param)?,
            None => region_of(request.url)
                .ok_or("cannot sign for this host, whose name has no region of AWS; give the definition `region`")?
                .to_owned(),
        };
        let scope = Scope { service: &form.service, region: &region };
        let (key, now) = match supply {
            Supply::Real(Credential { key, now, .. }) => (key, now),
            Supply::Shown(now) => {
                return Ok(Sent { headers: shown_headers(scope, request, now, MASK), ..Sent::default() });
            }
        };
        let fields = self.aws_keys(key)?;
        let keys = Keys {
            id: &fields["access_key_id"],
            secret: &fields["secret_access_key"],
            session: fields.get("session_token").map(String::as_str),
        };
        let headers = signed_headers(keys, scope, request, now);
        let signature = headers.last().and_then(|(_, value)| value.rsplit_once('='));
        let secrets = signature.map(|(_, signature)| signature.to_owned()).into_iter().collect();
        Ok(Sent { headers, secrets, ..Sent::default() })
    }

    fn aws_keys(&self, credential: &str) -> Result<BTreeMap<String, String>, String> {
        let fields = self.read(credential)?;
        fields.keys().try_for_each(|name| printable_field(&fields, name).map(drop))?;
        Ok(fields)
    }

    /// Returns whether a credential is exchanged for a token at a token URL.
    pub(super) fn needs_token(&self, credential: &str) -> bool {
        matches!(&self.form, AuthForm::Token(form, _) if form.bare_token(credential).is_none())
    }

    /// Returns the request for a token. `refresh_token` replaces the one of the credential.
    pub(super) fn token_request(
        &self,
        credential: &str,
        refresh_token: Option<&str>,
        now: Timestamp,
    ) -> Result<TokenRequest, String> {
        let AuthForm::Token(form, _) = &self.form else { return Err("is not exchanged for a token".into()) };
        form.request(&self.read(credential)?, refresh_token, self.token_url.as_ref(), now)
    }

    /// Returns the fields of a credential. Each required field of the definition is among them.
    fn read(&self, credential: &str) -> Result<BTreeMap<String, String>, String> {
        let (names, optional) = self.fields();
        let only = if names.len() == 1 && optional.is_empty() { names.first().copied() } else { None };
        let mut fields = match (json_fields(credential), only) {
            (Some(fields), None) => fields,
            (Some(fields), Some(only)) if fields.contains_key(only) => fields,
            (_, Some(only)) => {
                let prefix = format!("{only}=");
                let value = credential.trim_end().strip_prefix(&prefix).unwrap_or(credential);
                BTreeMap::from([(only.to_owned(), value.to_owned())])
            }
            (None, None) => line_fields(credential),
        };
        let is_google = matches!(&self.form, AuthForm::Token(form, _) if form.is_google());
        let listed = || names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if names.iter().any(|name| fields.get(*name).is_none_or(std::string::String::is_empty)) {
            let forms = if is_google {
                "the JSON key of a service account,"
            } else {
                "a JSON object, or lines `field=value`,"
            };
            return Err(format!("must be {forms} with the fields {}", listed()));
        }
        let is_of_url = |name: &str| matches!(&self.form, AuthForm::Token(form, _) if form.is_in_url(name));
        let is_known = |name: &str| names.contains(name) || optional.contains(&name) || is_of_url(name);
        if is_google {
            // The file has more of them.
            fields.retain(|name, _| is_known(name));
        } else if fields.keys().any(|name| !is_known(name)) {
            return Err(format!("has a field that is not used; the fields are {}", listed()));
        }
        // A private key in PEM has several lines.
        let key = match &self.form {
            AuthForm::Token(form, _) => form.signing_key(),
            AuthForm::Jwt(form, _) => Some(form.key.as_str()),
            AuthForm::Header(_)
            | AuthForm::Basic
            | AuthForm::Headers
            | AuthForm::Query(_)
            | AuthForm::Body(_)
            | AuthForm::Aws(_) => None,
        };
        let is_line = |name: &str, c: char| c.is_control() && !(Some(name) == key && "\r\n".contains(c));
        if fields.iter().any(|(name, value)| value.chars().any(|c| is_line(name, c))) {
            return Err("must not contain control characters".to_owned());
        }
        Ok(fields)
    }

    /// Returns every text from which the credential could be read.
    pub(super) fn secrets(&self, credential: &str) -> Vec<String> {
        self.texts(credential, &["client_email", "token_uri", "type"])
    }

    /// Returns the same without the fields that name an account. An answer can name it as well, in the URL of a result
    /// for example.
    pub(super) fn secrets_in_answers(&self, credential: &str) -> Vec<String> {
        self.texts(credential, PUBLIC_FIELDS)
    }

    /// Returns the texts of all fields of a credential but these.
    fn texts(&self, credential: &str, public: &[&str]) -> Vec<String> {
        let mut secrets = vec![credential.to_owned()];
        if !self.fields().0.is_empty() {
            let mut fields = self.read(credential).unwrap_or_default();
            fields.retain(|name, _| !public.contains(&name.as_str()));
            secrets.extend(fields.into_values());
        }
        if matches!(self.form, AuthForm::Basic) {
            let key = self.key_of(credential).unwrap_or_default();
            let pair = user_and_password(&key).unwrap_or_default();
            let (user, password) = pair.split_once(':').unwrap_or_default();
            // Without a password, the user is the key.
            let secret = if password.is_empty() { user } else { password };
            let secret = secret.to_owned();
            secrets.extend([pair, secret]);
        }
        // A credential of one value is replaced whatever its length.
        secrets.retain(|secret| secret.len() >= SECRET_MIN || secret == credential);
        secrets
    }

    /// Returns a credential that consists of `value`, to show a request.
    fn sample(&self, value: &str) -> String {
        let (names, _) = self.fields();
        if names.is_empty() {
            return value.to_owned();
        }
        let fields: Map<String, Value> =
            names.into_iter().map(|name| (name.to_owned(), value.into())).collect();
        Value::Object(fields).to_string()
    }
}

/// Returns headers with the fields of a credential.
fn headers(
    parts: &[(String, Template)],
    fields: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let header = |(name, template): &(String, Template)| {
        let text = template.render(|field| printable_field(fields, field))?;
        Ok((name.clone(), text))
    };
    parts.iter().map(header).collect()
}

/// Returns texts with the fields of a credential.
fn rendered(
    parts: &[(String, Template)],
    fields: &BTreeMap<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let render = |(name, template): &(String, Template)| {
        Ok((name.clone(), template.render(|field| Ok(fields[field].clone()))?))
    };
    parts.iter().map(render).collect()
}

/// Checks a key that follows the name of a scheme.
fn check_word(credential: &str, prefix: &str) -> Result<(), String> {
    let begin = credential.get(..prefix.len());
    if begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix)) {
        return Err(format!("the key begins with `{}`, which is added to it; remove it", prefix.trim()));
    }
    if credential.contains(' ') {
        return Err("the key contains a space; remove it".to_owned());
    }
    Ok(())
}

/// Returns `user:password`. A key without a colon is a user without a password.
fn user_and_password(credential: &str) -> Result<String, String> {
    if credential.is_empty() || credential.chars().any(char::is_control) {
        return Err("must be `user:password`, without control characters".to_owned());
    }
    Ok(if credential.contains(':') { credential.to_owned() } else { format!("{credential}:") })
}

fn json_fields(credential: &str) -> Option<BTreeMap<String, String>> {
    credential.trim_start().starts_with('{').then(|| serde_json::from_str(credential).ok())?
}

fn line_fields(credential: &str) -> BTreeMap<String, String> {
    let lines = credential.lines().filter_map(|line| line.split_once('='));
    lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::SecretTexts;

    fn parts(list: &[(&str, &str)]) -> Vec<(String, Template)> {
        let part = |(name, text): &(&str, &str)| ((*name).to_owned(), Template::parse(text).unwrap());
        list.iter().map(part).collect()
    }

    fn real(key: &str) -> Supply<'_> {
        Supply::Real(Credential { key, token: None, now: Timestamp::from_millis(0) })
    }

    fn auth(form: AuthForm) -> Auth {
        Auth::new(form, Vec::new())
    }

    #[test]
    fn a_chosen_host_gets_the_credential_only_if_it_is_listed() {
        let url = |text: &str| Url::parse(text).unwrap();
        let pattern = |text: &str| HostPattern::parse(text).unwrap();
        let mut auth = auth(AuthForm::Basic);
        auth.send_to = vec![pattern("*.cloud.example"), pattern("api.example")];
        let (own, other) = (url("https://acme.cloud.example/jobs"), url("https://evil.cloud.example/jobs"));
        assert!(auth.trusts(&other) && !auth.trusts_chosen(&other) && !auth.trusts_chosen(&own));
        assert!(auth.trusts_chosen(&url("https://api.example/")));
        auth.operator_hosts = vec![pattern("acme.cloud.example"), pattern("elsewhere.example")];
        assert!(auth.trusts_chosen(&own) && !auth.trusts_chosen(&other));
        // A host outside of send_to gets nothing, even if it is listed; plain http gets nothing either.
        assert!(!auth.trusts_chosen(&url("https://elsewhere.example/")));
        assert!(!auth.trusts_chosen(&url("http://acme.cloud.example/")));
    }

    #[test]
    fn a_credential_of_several_fields_is_json_or_lines() {
        let mut auth = auth(AuthForm::Headers);
        auth.headers = parts(&[("x-id", "{id}"), ("x-auth", "Key {id}.{secret}")]);
        for credential in [r#"{"id": "a1", "secret": "b2"}"#, "id=a1\nsecret=b2\n", "secret = b2\r\nid = a1"]
        {
            let sent = auth.sent(real(credential)).map(|sent| sent.headers).unwrap();
            let expected = [("x-id", "a1"), ("x-auth", "Key a1.b2")];
            assert_eq!(
                sent,
                expected.map(|(name, value)| (name.to_owned(), value.to_owned())),
                "{credential}"
            );
        }
        for wrong in [
            "",
            "hush",
            "id=a1",
            "{}",
            r#"{"id": "a1"}"#,
            r#"{"id": "a1", "secret": 5}"#,
            "id=a1\nsecret=hush hush",
            "id=a1\nsecret=b2\nhush=c3",
            "{",
        ] {
            let why = auth.check(wrong).expect_err(wrong);
            assert!(!why.contains("hush"), "{why}");
        }
    }

    #[test]
    fn a_field_that_cannot_be_in_a_header_is_named() {
        let credential = "{\"id\": \"straße\", \"secret\": \"b2\"}";
        let sent =
            auth(AuthForm::Body(parts(&[("user", "{id}"), ("key", "{secret}")]))).sent(real(credential));
        let expected = [("user", "straße"), ("key", "b2")];
        assert_eq!(sent.unwrap().body, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let mut auth = auth(AuthForm::Headers);
        auth.headers = parts(&[("x-auth", "{id}.{secret}")]);
        let why = auth.check(credential).unwrap_err();
        assert_eq!(why, "has a field `id` for a header, which must be printable ASCII without spaces");
    }

    #[test]
    fn a_credential_of_one_field_is_its_value() {
        let auth = auth(AuthForm::Query(parts(&[("key", "{key}")])));
        for (credential, value) in
            [("a&b=c", "a&b=c"), ("key=hush", "hush"), (r#"{"key": "x"}"#, "x"), ("{x", "{x")]
        {
            assert_eq!(auth.sent(real(credential)).unwrap().query, [("key".to_owned(), value.to_owned())]);
        }
        let mask = SecretTexts::new(auth.secrets("a&b=c"));
        assert_eq!(mask.hide("a%26b%3Dc").as_deref(), Some(MASK));
    }

    #[test]
    fn basic_encodes_user_and_password() {
        let auth = auth(AuthForm::Basic);
        for (credential, header) in
            [("Aladdin:open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), ("key", "Basic a2V5Og==")]
        {
            assert_eq!(
                auth.sent(real(credential)).unwrap().headers,
                [("authorization".to_owned(), header.to_owned())]
            );
        }
        assert!(auth.check("a\nb").is_err());
        let mask = SecretTexts::new(auth.secrets("Aladdin:open sesame"));
        for secret in ["open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin:open sesame", "open%20sesame"]
        {
            assert_eq!(mask.hide(secret).as_deref(), Some(MASK), "{secret}");
        }
        // The key alone is a user, with or without the colon.
        let mask = SecretTexts::new(auth.secrets("hush-0123"));
        for secret in ["aHVzaC0wMTIzOg==", "aHVzaC0wMTIz", "hush-0123:"] {
            assert_eq!(mask.hide(secret).as_deref(), Some(MASK), "{secret}");
        }
    }
}
