//! The credential of a provider: how it is sent, and to which hosts.
//!
//! A credential with one value is configured as it is. One with several fields is configured as a JSON object, or as lines
//! `field=value`. No message repeats any of it.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use url::Url;

use super::template::{Template, percent_encode};

/// Shortest secret that is replaced in messages. A shorter one would replace words.
const SECRET_MIN: usize = 4;

/// How to send the credential, and to which hosts.
#[derive(Clone, Debug)]
pub(super) struct Auth {
    pub(super) form: AuthForm,
    pub(super) send_to: Vec<HostPattern>,
    /// The hosts that the operator lists, of those that a wildcard of `send_to` allows and a client may choose.
    pub(super) operator_hosts: Vec<HostPattern>,
    /// Whether the operator has replaced the host by `base_url`.
    pub(super) is_rebased: bool,
}

/// How to send the credential.
#[derive(Clone, Debug)]
pub(super) enum AuthForm {
    /// In one header, after a prefix.
    Header { name: String, prefix: String },
    /// `user:password`, as HTTP Basic.
    Basic,
    /// In headers with templates over the fields of the credential.
    Headers(Vec<(String, Template)>),
    /// In the query.
    Query(Vec<(String, Template)>),
    /// In the JSON or form body.
    Body(Vec<(String, Template)>),
}

/// The parts that a credential adds to a request.
#[derive(Default)]
pub(super) struct Sent {
    pub(super) headers: Vec<(String, String)>,
    pub(super) query: Vec<(String, String)>,
    pub(super) body: Vec<(String, String)>,
}

impl Auth {
    /// Returns whether the credential may be sent to the host and port of `url`. It requires https.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        url.scheme() == "https" && self.send_to.iter().any(|pattern| pattern.contains(url))
    }

    /// Does the same for a host that a client has chosen. Below a wildcard, it may be the host of another customer of the
    /// provider, who would get the credential. So `send_to` must have it without a wildcard, or the operator lists it.
    pub(super) fn trusts_chosen(&self, url: &Url) -> bool {
        self.is_rebased || self.trusts_named(url)
    }

    /// Does the same for a URL that an answer of the provider names, which no `base_url` replaces.
    pub(super) fn trusts_named(&self, url: &Url) -> bool {
        let is_exact = || self.send_to.iter().any(|pattern| !pattern.is_wildcard && pattern.contains(url));
        let is_listed = || self.operator_hosts.iter().any(|pattern| pattern.contains(url));
        self.trusts(url) && (is_exact() || is_listed())
    }

    /// Returns the names of the fields of the credential; empty if it is one value.
    fn fields(&self) -> BTreeSet<&str> {
        match &self.form {
            AuthForm::Header { .. } | AuthForm::Basic => BTreeSet::new(),
            AuthForm::Headers(parts) | AuthForm::Query(parts) | AuthForm::Body(parts) => {
                parts.iter().flat_map(|(_, template)| template.names()).collect()
            }
        }
    }

    /// Checks a credential. After the name of a scheme, such as `Bearer`, a key is one word.
    pub(super) fn check(&self, credential: &str) -> Result<(), String> {
        let AuthForm::Header { prefix, .. } = &self.form else { return self.sent(credential).map(drop) };
        if prefix.is_empty() {
            return Ok(());
        }
        let begin = credential.get(..prefix.len());
        if begin.is_some_and(|begin| begin.eq_ignore_ascii_case(prefix)) {
            return Err(format!("the key begins with `{}`, which is added to it; remove it", prefix.trim()));
        }
        if credential.contains(' ') {
            return Err("the key contains a space; remove it".to_owned());
        }
        Ok(())
    }

    /// Returns what the credential adds to a request. The error is the rest of a sentence about the key.
    pub(super) fn sent(&self, credential: &str) -> Result<Sent, String> {
        let mut sent = Sent::default();
        match &self.form {
            AuthForm::Header { name, prefix } => {
                let credential = printable(credential)?;
                sent.headers.push((name.clone(), format!("{prefix}{credential}")));
            }
            AuthForm::Basic => {
                let pair = user_and_password(credential)?;
                sent.headers.push(("authorization".to_owned(), format!("Basic {}", STANDARD.encode(pair))));
            }
            AuthForm::Headers(parts) => {
                let fields = self.read(credential)?;
                for (name, template) in parts {
                    let text = template.render(|field| printable(&fields[field]).map(str::to_owned))?;
                    sent.headers.push((name.clone(), text));
                }
            }
            AuthForm::Query(parts) => sent.query = self.rendered(parts, credential)?,
            AuthForm::Body(parts) => sent.body = self.rendered(parts, credential)?,
        }
        Ok(sent)
    }

    fn rendered(
        &self,
        parts: &[(String, Template)],
        credential: &str,
    ) -> Result<Vec<(String, String)>, String> {
        let fields = self.read(credential)?;
        let render = |(name, template): &(String, Template)| {
            Ok((name.clone(), template.render(|field| Ok(fields[field].clone()))?))
        };
        parts.iter().map(render).collect()
    }

    /// Returns the fields of a credential. Each field of the definition is among them.
    fn read(&self, credential: &str) -> Result<BTreeMap<String, String>, String> {
        let names = self.fields();
        let only = if names.len() == 1 { names.first().copied() } else { None };
        let fields = match (json_fields(credential), only) {
            (Some(fields), None) => fields,
            (Some(fields), Some(only)) if fields.contains_key(only) => fields,
            (_, Some(only)) => {
                let prefix = format!("{only}=");
                let value = credential.trim_end().strip_prefix(&prefix).unwrap_or(credential);
                BTreeMap::from([(only.to_owned(), value.to_owned())])
            }
            (None, None) => line_fields(credential),
        };
        let listed = || names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        if names.iter().any(|name| fields.get(*name).is_none_or(std::string::String::is_empty)) {
            return Err(format!(
                "must be a JSON object, or lines `field=value`, with the fields {}",
                listed()
            ));
        }
        if fields.keys().any(|name| !names.contains(name.as_str())) {
            return Err(format!("has a field that is not used; the fields are {}", listed()));
        }
        if fields.values().any(|value| value.chars().any(char::is_control)) {
            return Err("must not contain control characters".to_owned());
        }
        Ok(fields)
    }

    /// Returns every text from which the credential could be read, as it can occur in a message.
    pub(super) fn secrets(&self, credential: &str) -> Vec<String> {
        let mut secrets = match &self.form {
            AuthForm::Header { .. } => vec![credential.to_owned()],
            AuthForm::Basic => {
                let pair = user_and_password(credential).unwrap_or_default();
                let password = pair.split_once(':').map_or("", |(_, password)| password);
                vec![credential.to_owned(), STANDARD.encode(&pair), password.to_owned()]
            }
            AuthForm::Headers(_) | AuthForm::Query(_) | AuthForm::Body(_) => {
                let mut secrets: Vec<_> = self.read(credential).unwrap_or_default().into_values().collect();
                secrets.push(credential.to_owned());
                secrets
            }
        };
        let encoded: Vec<String> = secrets.iter().map(|secret| percent_encode(secret)).collect();
        secrets.extend(encoded);
        // A credential of one value is replaced whatever its length.
        secrets.retain(|secret| secret.len() >= SECRET_MIN || secret == credential);
        secrets.retain(|secret| !secret.is_empty());
        // A longer secret can contain a shorter one.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        secrets
    }

    /// Returns a credential that consists of `value`, to show a request.
    pub(super) fn sample(&self, value: &str) -> String {
        let names = self.fields();
        if names.is_empty() {
            return value.to_owned();
        }
        let fields: Map<String, Value> =
            names.into_iter().map(|name| (name.to_owned(), value.into())).collect();
        Value::Object(fields).to_string()
    }
}

fn printable(text: &str) -> Result<&str, String> {
    let is_printable = !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    is_printable.then_some(text).ok_or_else(|| "must be printable ASCII without spaces".to_owned())
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

/// Hosts that are allowed: one, or all whose name ends with the labels after `*.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPattern {
    name: String,
    is_wildcard: bool,
    port: u16,
}

impl HostPattern {
    /// Parses `api.example.com`, `api.example.com:8443` or `*.example.com`. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a host; write it as api.example.com or api.example.com:8443");
        let foreign = |c: char| c.is_whitespace() || "/@?#*\\".contains(c);
        let (name, is_wildcard) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let url = Url::parse(&format!("https://{name}")).ok().filter(|_| !name.contains(foreign));
        let url = url.ok_or_else(wrong)?;
        let is_name = matches!(url.host(), Some(url::Host::Domain(domain)) if domain.contains('.'));
        if is_wildcard && !is_name {
            return Err(format!("`{text}` allows too many hosts; write it as *.example.com"));
        }
        let name = url.host_str().ok_or_else(wrong)?.to_owned();
        Ok(Self { name, is_wildcard, port: url.port_or_known_default().ok_or_else(wrong)? })
    }

    /// Returns a host that is allowed.
    pub(super) fn example(&self) -> String {
        let label = if self.is_wildcard { "x." } else { "" };
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        format!("{label}{}{port}", self.name)
    }

    /// Returns whether every host of `other` is allowed.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_below = || other.name.strip_suffix(&self.name).is_some_and(|labels| labels.ends_with('.'));
        self == other || (self.is_wildcard && self.port == other.port && is_below())
    }

    /// Returns whether the host and port of a URL are allowed.
    pub(super) fn contains(&self, url: &Url) -> bool {
        let is_name = |host: &str| {
            if self.is_wildcard {
                host.strip_suffix(&self.name).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            } else {
                host == self.name
            }
        };
        url.port_or_known_default() == Some(self.port) && url.host_str().is_some_and(is_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(&str, &str)]) -> Vec<(String, Template)> {
        let part = |(name, text): &(&str, &str)| ((*name).to_owned(), Template::parse(text).unwrap());
        list.iter().map(part).collect()
    }

    fn auth(form: AuthForm) -> Auth {
        Auth { form, send_to: Vec::new(), operator_hosts: Vec::new(), is_rebased: false }
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
        let form = AuthForm::Headers(parts(&[("x-id", "{id}"), ("x-auth", "Key {id}.{secret}")]));
        let auth = auth(form);
        for credential in [r#"{"id": "a1", "secret": "b2"}"#, "id=a1\nsecret=b2\n", "secret = b2\r\nid = a1"]
        {
            let sent = auth.sent(credential).map(|sent| sent.headers).unwrap();
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
    fn a_credential_of_one_field_is_its_value() {
        let auth = auth(AuthForm::Query(parts(&[("key", "{key}")])));
        for (credential, value) in
            [("a&b=c", "a&b=c"), ("key=hush", "hush"), (r#"{"key": "x"}"#, "x"), ("{x", "{x")]
        {
            assert_eq!(auth.sent(credential).unwrap().query, [("key".to_owned(), value.to_owned())]);
        }
        assert!(auth.secrets("a&b=c").contains(&"a%26b%3Dc".to_owned()));
    }

    #[test]
    fn basic_encodes_user_and_password() {
        let auth = auth(AuthForm::Basic);
        for (credential, header) in
            [("Aladdin:open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="), ("key", "Basic a2V5Og==")]
        {
            assert_eq!(
                auth.sent(credential).unwrap().headers,
                [("authorization".to_owned(), header.to_owned())]
            );
        }
        assert!(auth.check("a\nb").is_err());
        let secrets = auth.secrets("Aladdin:open sesame");
        for secret in ["open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==", "Aladdin:open sesame", "open%20sesame"]
        {
            assert!(secrets.contains(&secret.to_owned()), "{secret}");
        }
    }

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let hosts =
            |text: &str, url: &str| HostPattern::parse(text).unwrap().contains(&Url::parse(url).unwrap());
        for (pattern, url, expected) in [
            ("api.example.com", "https://api.example.com/x", true),
            ("api.example.com", "https://API.example.com/x", true),
            ("api.example.com", "https://api.example.com:8443/x", false),
            ("api.example.com:8443", "https://api.example.com:8443/x", true),
            ("api.example.com", "https://x.api.example.com", false),
            ("*.example.com", "https://api.example.com", true),
            ("*.example.com", "https://eu.api.example.com", true),
            ("*.example.com", "https://example.com", false),
            ("*.example.com", "https://evilexample.com", false),
            ("*.example.com", "https://.example.com", false),
            ("*.example.com", "https://example.com.evil.com", false),
        ] {
            let Ok(_) = Url::parse(url) else { continue };
            assert_eq!(hosts(pattern, url), expected, "{pattern} {url}");
        }
        for wrong in ["", "*", "*.", "*.com", "a*.example.com", "https://a.example", "a b", "*.127.0.0.1"] {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
