//! The table `[auth]`.

use url::Host;

use super::extract::time;
use super::jwt::{assertion, jwt};
use super::paths::{field, header_name};
use super::reader::{Mistaken, Node, TableReader};
use super::request::{hosts, json_template, templates};
use crate::providers::auth::{Auth, AuthForm, AuthHeader, AwsForm};
use crate::providers::body::JsonTemplate;
use crate::providers::host_pattern::HostPattern;
use crate::providers::issued_token::{
    Assertion, AssertionUse, ClientAuth, Encoding, GOOGLE_HOST, GoogleForm, Grant, OAuth2Form, TokenAnswer,
    TokenForm, TokenRequestExtra,
};
use crate::providers::jwt_form::COMPUTED;
use crate::providers::template::{Template, UrlTemplate};

/// Grant of an assertion (RFC 7523).
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// Longest `grant` in bytes: twice the longest name of a registered one.
const GRANT_LENGTH: usize = 100;

/// Headers of a connection, which no definition sets.
const CONNECTION_HEADERS: &[&str] = &[
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// The types, the keys of each, and the first schema that has it. All but `none` have `send_to` and `headers` as well.
const TYPES: [(&str, &[&str], u32); 11] = [
    ("none", &[], 1),
    ("bearer", &[], 1),
    ("header", &["header", "prefix"], 1),
    ("headers", &[], 2),
    ("basic", &[], 2),
    ("query", &["query"], 2),
    ("body", &["body"], 2),
    (
        "oauth2",
        &[
            "grant",
            "assertion",
            "token_url",
            "scope",
            "audience",
            "client_auth",
            "encoding",
            "token_request",
            "token_answer",
            "token",
            "header",
            "prefix",
        ],
        2,
    ),
    ("google", &["scope", "token_hosts"], 2),
    (
        "jwt",
        &[
            "algorithm",
            "key",
            "key_id",
            "claims",
            "times",
            "lifetime",
            "uppercase",
            "token",
            "header",
            "prefix",
        ],
        2,
    ),
    ("aws", &["service", "region"], 2),
];

/// The keys of each type but `none`.
const COMMON: [&str; 2] = ["send_to", "headers"];

/// Reads `[auth]`. The result is `None` if the provider needs no credential.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
pub(super) fn auth(table: TableReader<'_>) -> Result<Option<Auth>, Mistaken> {
    let before = table.report.count();
    let kind = table.require("type").and_then(|node| auth_type(&node));
    for name in TYPES.iter().flat_map(|(_, keys, _)| *keys).chain(&COMMON) {
        if let (Some(node), Some((kind, keys))) = (table.get(name), kind)
            && !(keys.contains(name) || (COMMON.contains(name) && kind != "none"))
        {
            node.wrong(format!("is not possible with type `{kind}`"));
        }
    }
    let headers = kind.filter(|(kind, _)| *kind != "none").map(|(kind, _)| auth_headers(kind, &table));
    let form = kind.and_then(|(kind, _)| auth_form(kind, &table));
    if let (Some(form), Some(headers)) = (&form, &headers) {
        check_headers(form, headers, &table);
    }
    let send_to = table.get("send_to").map(|node| hosts(&node));
    let needs_hosts = kind.is_some_and(|(kind, _)| kind != "none");
    if needs_hosts && send_to.is_none() {
        table.wrong("the key `send_to` is missing, the hosts to which the credential may be sent");
    }
    let (report, at) = (table.report, table.at);
    table.finish();
    if kind.is_some_and(|(kind, _)| kind == "none") {
        return if report.count() == before { Ok(None) } else { Err(Mistaken) };
    }
    let (form, send_to) = form.zip(send_to).ok_or(Mistaken)?;
    if report.count() > before {
        return Err(Mistaken);
    }
    let auth = Auth { headers: headers.unwrap_or_default(), ..Auth::new(form, send_to) };
    if auth.needs_field("job_id") {
        report.add(
            at,
            "auth: `{job_id}` would be a field of the credential here; the job is named in [request]",
        );
        return Err(Mistaken);
    }
    Ok(Some(auth))
}

fn auth_type(node: &Node<'_>) -> Option<(&'static str, &'static [&'static str])> {
    let text = node.text()?;
    let Some((kind, keys, schema)) = TYPES.into_iter().find(|(kind, ..)| *kind == text) else {
        let kinds = TYPES.map(|(kind, ..)| format!("`{kind}`")).join(", ");
        node.wrong(format!("`{text}` is not possible here; write one of {kinds}"));
        return None;
    };
    (schema == 1 || node.is_permitted()).then_some((kind, keys))
}

fn auth_form(kind: &str, table: &TableReader<'_>) -> Option<AuthForm> {
    match kind {
        "bearer" => Some(AuthForm::Header(AuthHeader::bearer())),
        "basic" => Some(AuthForm::Basic),
        "header" => {
            let name = table.require("header").and_then(|node| super::paths::header(&node));
            let prefix = prefix(table);
            Some(AuthForm::Header(AuthHeader { name: name?, prefix: prefix.unwrap_or_default() }))
        }
        "headers" => Some(AuthForm::Headers),
        "query" => credential_parts(table, "query").map(AuthForm::Query),
        "body" => credential_parts(table, "body").map(AuthForm::Body),
        "oauth2" => {
            let (form, header) = (oauth2(table), token_header(table));
            Some(AuthForm::Token(Box::new(TokenForm::OAuth2(Box::new(form?))), header?))
        }
        "google" => Some(AuthForm::Token(Box::new(TokenForm::Google(google(table)?)), AuthHeader::bearer())),
        "jwt" => {
            let (form, header) = (jwt(table), token_header(table));
            Some(AuthForm::Jwt(Box::new(form?), header?))
        }
        "aws" => {
            let service = table.require("service").and_then(|node| node.some_text().map(str::to_owned));
            let region = match table.get("region") {
                Some(node) => Some(node.ok(Template::parse(node.some_text_with_braces()?))?),
                None => None,
            };
            Some(AuthForm::Aws(AwsForm { service: service?, region }))
        }
        _ => None,
    }
}

fn prefix(table: &TableReader<'_>) -> Option<String> {
    let node = table.get("prefix")?;
    let prefix = node.text()?;
    let is_printable = prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    if !is_printable {
        node.wrong("contains characters that are not allowed in a header");
    }
    Some(prefix.to_owned())
}

/// Reads the header of a token: `authorization: Bearer …`, or another one.
fn token_header(table: &TableReader<'_>) -> Option<AuthHeader> {
    let prefix = prefix(table);
    let Some(node) = table.get("header") else {
        let bearer = AuthHeader::bearer();
        return Some(AuthHeader { prefix: prefix.unwrap_or(bearer.prefix), name: bearer.name });
    };
    Some(AuthHeader { name: super::paths::header(&node)?, prefix: prefix.unwrap_or_default() })
}

fn oauth2(table: &TableReader<'_>) -> Option<OAuth2Form> {
    let text = |name| table.get(name).and_then(|node| node.some_text().map(str::to_owned));
    let (scope, audience) = (text("scope"), text("audience"));
    let assertion = match table.get("assertion") {
        Some(node) => Some(assertion(&node)?),
        None => None,
    };
    let default = match &assertion {
        Some(Assertion { sent_as: AssertionUse::Grant, .. }) => Grant::Other(JWT_BEARER.to_owned()),
        Some(Assertion { sent_as: AssertionUse::Client, .. }) | None => Grant::default(),
    };
    let grant = table.get("grant").map_or(Some(default), |node| grant(&node));
    let has_no_client = grant == Some(Grant::None) || assertion.is_some();
    let default = if has_no_client { ClientAuth::None } else { ClientAuth::default() };
    let client_auth = table.get("client_auth").map_or(Some(default), |node| node.word(&ClientAuth::ALL));
    let encoding_node = table.get("encoding");
    let encoding = encoding_node.as_ref().map_or(Some(Encoding::default()), |node| node.word(&Encoding::ALL));
    let allows_token = table.get("token").and_then(|node| node.boolean()).unwrap_or(false);
    let token_url = table.require("token_url").and_then(|node| {
        let url = node.ok(UrlTemplate::parse(node.some_text_with_braces()?, false))?;
        let is_safe = url.fixed_origin().is_some_and(|origin| {
            origin.scheme() == "https" && matches!(origin.host(), Some(Host::Domain(_)))
        });
        if !is_safe {
            node.wrong("must be an https URL with a host name, because it gets the client's secret");
        }
        Some(url)
    });
    let request = table.get("token_request").map(|node| token_request(&node));
    let (extra, of_body) = match request {
        Some(request) => request?,
        None => (TokenRequestExtra::default(), None),
    };
    if let (Some(node), Some(of_body)) = (&encoding_node, of_body)
        && encoding != Some(of_body)
    {
        node.wrong("differs from the body in `token_request`; remove `encoding`");
    }
    let answer = match table.get("token_answer") {
        Some(node) => Some(token_answer(&node)?),
        None => None,
    };
    let form = OAuth2Form {
        grant: grant?,
        token_url: token_url?,
        scope,
        audience,
        client_auth: client_auth?,
        assertion,
        encoding: of_body.or(encoding)?,
        allows_token,
        extra,
        answer,
    };
    check_oauth2(&form, table);
    Some(form)
}

/// Reads `grant`: a word of the language, or the value of `grant_type`.
fn grant(node: &Node<'_>) -> Option<Grant> {
    let text = node.some_text()?;
    if let Some((_, grant)) = Grant::WORDS.iter().find(|(word, _)| *word == text) {
        return Some(grant.clone());
    }
    if text.len() > GRANT_LENGTH || !text.bytes().all(|b| b.is_ascii_graphic()) {
        node.wrong(format!("must be at most {GRANT_LENGTH} printable characters without spaces"));
        return None;
    }
    let close = |word: &str| strsim::damerau_levenshtein(word, text) <= 2;
    if let Some((word, _)) = Grant::WORDS.iter().find(|(word, _)| close(word)) {
        node.wrong(format!("did you mean `{word}`?"));
        return None;
    }
    Some(Grant::Other(text.to_owned()))
}

/// Reads `token_request`, and the form of the body if it has one.
fn token_request(node: &Node<'_>) -> Option<(TokenRequestExtra, Option<Encoding>)> {
    let table = node.table()?;
    let methods = [("GET", true), ("POST", false)];
    let is_get = table.get("method").map_or(Some(false), |node| node.word(&methods));
    let query = table.get("query").map(|node| templates(&node)).unwrap_or_default();
    let headers_node = table.get("headers");
    let headers = headers_node.as_ref().map(templates).unwrap_or_default();
    let mut named = Vec::new();
    for (name, template) in headers {
        let name = header_name(&name);
        let name = headers_node.as_ref().and_then(|node| node.ok(name))?;
        if CONNECTION_HEADERS.contains(&name.as_str()) || name == "accept" || name == "content-type" {
            table.wrong_key("headers", format!("a definition cannot set `{name}` here; remove it"));
        }
        named.push((name, template));
    }
    let (form, json) = (table.get("form"), table.get("json"));
    if let (Some(_), Some(node)) = (&form, &json) {
        node.wrong("is possible only without `form`; remove one of the two");
    }
    let (body, encoding) = match (form, json) {
        (Some(node), _) => {
            let fields = templates(&node).into_iter();
            (fields.map(|(name, text)| (name, JsonTemplate::Text(text))).collect(), Some(Encoding::Form))
        }
        (None, Some(node)) => {
            node.table()?;
            match json_template(&node, 0)? {
                JsonTemplate::Object(members) => (members, Some(Encoding::Json)),
                JsonTemplate::Text(_) | JsonTemplate::Fixed(_) | JsonTemplate::List(_) => return None,
            }
        }
        (None, None) => (Vec::new(), None),
    };
    if is_get == Some(true) && encoding.is_some() {
        table.wrong_key("method", "a request with `form` or `json` has the method `POST`; use `query`");
    }
    table.finish();
    Some((TokenRequestExtra { is_get: is_get?, query, headers: named, body }, encoding))
}

/// Reads `token_answer`.
fn token_answer(node: &Node<'_>) -> Option<TokenAnswer> {
    let table = node.table()?;
    let ignored_body = table.report.ignores_body.replace(false);
    let token = table.require("token").map(|node| {
        let token = field(&node);
        if token.0.iter().any(|one| !one.when.is_empty()) {
            node.wrong("`when` is not possible here, because the answer is not about a job");
        }
        token
    });
    let (expires_in, expires_at) = (table.get("expires_in"), table.get("expires_at"));
    if let (Some(_), Some(node)) = (&expires_in, &expires_at) {
        node.wrong("is possible only without `expires_in`; remove one of the two");
    }
    let expires_in = expires_in.map(|node| field(&node)).unwrap_or_default();
    let expires_at = expires_at.and_then(|node| time(&node));
    table.finish();
    table.report.ignores_body.set(ignored_body);
    Some(TokenAnswer { token: token?, expires_in, expires_at })
}

/// Checks what depends on several keys.
fn check_oauth2(form: &OAuth2Form, table: &TableReader<'_>) {
    let OAuth2Form { grant, client_auth, scope, audience, extra, assertion, .. } = form;
    let sends = |wanted| assertion.as_ref().is_some_and(|assertion| assertion.sent_as == wanted);
    let standard = [
        ("grant_type", *grant != Grant::None),
        ("refresh_token", *grant == Grant::RefreshToken),
        ("scope", scope.is_some()),
        ("audience", audience.is_some()),
        ("client_id", *client_auth == ClientAuth::Body),
        ("client_secret", *client_auth == ClientAuth::Body),
        ("assertion", sends(AssertionUse::Grant)),
        ("client_assertion", sends(AssertionUse::Client)),
        ("client_assertion_type", sends(AssertionUse::Client)),
    ];
    let sets = |name: &str| standard.iter().any(|(known, is_set)| *is_set && *known == name);
    let names = extra.body.iter().map(|(name, _)| name).chain(extra.query.iter().map(|(name, _)| name));
    for name in names.filter(|name| sets(name)) {
        let key = match name.as_str() {
            "grant_type" | "refresh_token" => "grant",
            "client_id" | "client_secret" => "client_auth",
            "client_assertion" | "client_assertion_type" => "assertion",
            other => other,
        };
        table.wrong_key(
            "token_request",
            format!("`{name}` is set by auth.{key} already; remove one of the two"),
        );
    }
    let has_authorization = extra.headers.iter().any(|(name, _)| name == "authorization");
    if has_authorization && *client_auth == ClientAuth::Header {
        let sentence = "`authorization` is set by auth.client_auth already; write `client_auth = \"none\"`";
        table.wrong_key("token_request", sentence);
    }
    if form.token_url.path.names().next().is_none()
        && *client_auth == ClientAuth::None
        && *grant != Grant::RefreshToken
        && extra.has_no_field()
        && assertion.is_none()
    {
        table.wrong(
            "the request for a token has no field of the credential; add it to `token_request`, such as \
             `form = { apikey = \"{apikey}\" }`",
        );
    }
    if let Some(Assertion { form: signed, .. }) = assertion {
        let sent = extra.names().chain(form.token_url.path.names()).any(|name| name == signed.key);
        if sent || (*client_auth != ClientAuth::None && signed.key == "client_secret") {
            let sentence = "is the key that signs the assertion, and is never sent; remove it";
            table.wrong(format!("`{{{}}}` {sentence}", signed.key));
        }
        if *grant == Grant::RefreshToken && sends(AssertionUse::Grant) {
            table.wrong_key("grant", "the grant `refresh_token` has no assertion; remove one of the two");
        }
    }
}

fn google(table: &TableReader<'_>) -> Option<GoogleForm> {
    let scope = table.require("scope").and_then(|node| node.some_text().map(str::to_owned));
    let token_hosts = match table.get("token_hosts") {
        Some(node) => {
            let hosts = hosts(&node);
            if hosts.iter().any(|host| !host.is_exact()) {
                node.wrong("must list hosts without `*.`, because they get what the key signs");
            }
            hosts
        }
        None => HostPattern::parse(GOOGLE_HOST).into_iter().collect(),
    };
    Some(GoogleForm { scope: scope?, token_hosts })
}

/// Reads the headers that are sent beside the credential, or as it.
fn auth_headers(kind: &str, table: &TableReader<'_>) -> Vec<(String, Template)> {
    let parts = if kind == "headers" {
        credential_parts(table, "headers")
    } else {
        table.get_new("headers").map(|node| templates(&node))
    };
    let named = |(name, template): (String, Template)| {
        let name = header_name(&name).map_err(|why| table.wrong_key("headers", why)).ok()?;
        Some((name, template))
    };
    parts.into_iter().flatten().filter_map(named).collect()
}

/// Checks the headers beside the credential.
fn check_headers(form: &AuthForm, headers: &[(String, Template)], table: &TableReader<'_>) {
    let own: Vec<&str> = match form {
        AuthForm::Header(header) | AuthForm::Token(_, header) | AuthForm::Jwt(_, header) => {
            vec![&header.name]
        }
        AuthForm::Basic => vec!["authorization"],
        AuthForm::Aws(_) => vec!["authorization", "x-amz-date", "x-amz-security-token"],
        AuthForm::Headers | AuthForm::Query(_) | AuthForm::Body(_) => Vec::new(),
    };
    let unsent: Option<&str> = match form {
        AuthForm::Jwt(form, _) => Some(&form.key),
        AuthForm::Token(form, _) => form.signing_key(),
        AuthForm::Aws(_) => Some("secret_access_key"),
        AuthForm::Header(_)
        | AuthForm::Basic
        | AuthForm::Headers
        | AuthForm::Query(_)
        | AuthForm::Body(_) => None,
    };
    for (name, template) in headers {
        if CONNECTION_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-") {
            table.wrong_key("headers", format!("a definition cannot set `{name}`; remove it"));
        } else if own.contains(&name.as_str()) {
            table
                .wrong_key("headers", format!("`{name}` is the header of the credential already; remove it"));
        }
        if let Some(field) = template.names().find(|field| Some(*field) == unsent) {
            table.wrong_key("headers", format!("`{{{field}}}` is the key, which is never sent; remove it"));
        }
        let computed = template.names().find(|field| COMPUTED.contains(field));
        if let Some(name) = computed.filter(|_| matches!(form, AuthForm::Jwt(..))) {
            table.wrong_key("headers", format!("`{{{name}}}` is possible in `claims` only"));
        }
    }
}

/// Reads templates over the fields of the credential.
fn credential_parts(table: &TableReader<'_>, name: &'static str) -> Option<Vec<(String, Template)>> {
    let node = table.require(name)?;
    let parts = templates(&node);
    if !parts.iter().any(|(_, template)| template.names().next().is_some()) {
        node.wrong("must contain a field of the credential, such as `{key}`");
        return None;
    }
    Some(parts)
}
