//! The table `[auth]`.

use std::time::Duration;

use url::Host;

use super::paths::header_name;
use super::reader::{Mistaken, Node, TableReader};
use super::request::{hosts, json_template, templates};
use crate::domain::parse_duration;
use crate::providers::auth::{Auth, AuthForm, AuthHeader, AwsForm};
use crate::providers::body::JsonTemplate;
use crate::providers::host_pattern::HostPattern;
use crate::providers::issued_token::{
    ClientAuth, Encoding, GOOGLE_HOST, GoogleForm, Grant, OAuth2Form, TokenForm,
};
use crate::providers::jwt::{Algorithm, TimeClaim};
use crate::providers::jwt_form::{FINGERPRINT, JwtForm};
use crate::providers::template::{Template, UrlTemplate};

/// Lifetime of a signed token without another one. A token is signed for each poll, so a short one is enough.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// Longest lifetime of a signed token.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// The types, the keys of each, and the first schema that has it. All but `none` have `send_to` as well.
const TYPES: [(&str, &[&str], u32); 11] = [
    ("none", &[], 1),
    ("bearer", &[], 1),
    ("header", &["header", "prefix"], 1),
    ("headers", &["headers"], 2),
    ("basic", &[], 2),
    ("query", &["query"], 2),
    ("body", &["body"], 2),
    (
        "oauth2",
        &["grant", "token_url", "scope", "audience", "client_auth", "encoding", "token", "header", "prefix"],
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
            "headers",
            "token",
            "header",
            "prefix",
        ],
        2,
    ),
    ("aws", &["service", "region"], 2),
];

/// Reads `[auth]`. The result is `None` if the provider needs no credential.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
pub(super) fn auth(table: TableReader<'_>) -> Result<Option<Auth>, Mistaken> {
    let before = table.report.count();
    let kind = table.require("type").and_then(|node| auth_type(&node));
    for name in TYPES.iter().flat_map(|(_, keys, _)| *keys).chain(&["send_to"]) {
        if let (Some(node), Some((kind, keys))) = (table.get(name), kind)
            && !(keys.contains(name) || (*name == "send_to" && kind != "none"))
        {
            node.wrong(format!("is not possible with type `{kind}`"));
        }
    }
    let form = kind.and_then(|(kind, _)| auth_form(kind, &table));
    let send_to = table.get("send_to").map(|node| hosts(&node));
    let needs_hosts = kind.is_some_and(|(kind, _)| kind != "none");
    if needs_hosts && send_to.is_none() {
        table.wrong("the key `send_to` is missing, the hosts to which the credential may be sent");
    }
    let report = table.report;
    table.finish();
    if kind.is_some_and(|(kind, _)| kind == "none") {
        return if report.count() == before { Ok(None) } else { Err(Mistaken) };
    }
    let (form, send_to) = form.zip(send_to).ok_or(Mistaken)?;
    if report.count() > before {
        return Err(Mistaken);
    }
    Ok(Some(Auth::new(form, send_to)))
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
        "headers" => credential_headers(table).map(AuthForm::Headers),
        "query" => credential_parts(table, "query").map(AuthForm::Query),
        "body" => credential_parts(table, "body").map(AuthForm::Body),
        "oauth2" => {
            let (form, header) = (oauth2(table), token_header(table));
            Some(AuthForm::Token(Box::new(TokenForm::OAuth2(form?)), header?))
        }
        "google" => Some(AuthForm::Token(Box::new(TokenForm::Google(google(table)?)), AuthHeader::bearer())),
        "jwt" => {
            let (form, header) = (jwt(table), token_header(table));
            Some(AuthForm::Jwt(Box::new(form?), header?))
        }
        "aws" => {
            let service = table.require("service").and_then(|node| node.some_text().map(str::to_owned));
            let region = match table.get("region") {
                Some(node) => Some(node.ok(Template::parse(node.some_text()?))?),
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
    let grant = table.get("grant").map_or(Some(Grant::default()), |node| node.word(&Grant::ALL));
    let client_auth =
        table.get("client_auth").map_or(Some(ClientAuth::default()), |node| node.word(&ClientAuth::ALL));
    let encoding = table.get("encoding").map_or(Some(Encoding::default()), |node| node.word(&Encoding::ALL));
    let allows_token = table.get("token").and_then(|node| node.boolean()).unwrap_or(false);
    let token_url = table.require("token_url").and_then(|node| {
        let url = node.ok(UrlTemplate::parse(node.some_text()?, false))?;
        let is_safe = url.fixed_origin().is_some_and(|origin| {
            origin.scheme() == "https" && matches!(origin.host(), Some(Host::Domain(_)))
        });
        if !is_safe {
            node.wrong("must be an https URL with a host name, because it gets the client's secret");
        }
        Some(url)
    });
    Some(OAuth2Form {
        grant: grant?,
        token_url: token_url?,
        scope,
        audience,
        client_auth: client_auth?,
        encoding: encoding?,
        allows_token,
    })
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

fn jwt(table: &TableReader<'_>) -> Option<JwtForm> {
    let algorithm = table.require("algorithm").and_then(|node| node.word(&Algorithm::ALL));
    let key = table.get("key").and_then(|node| node.some_text().map(str::to_owned));
    let key_id = table.get("key_id").and_then(|node| node.ok(Template::parse(node.some_text()?)));
    let claims = table.require("claims").and_then(|node| {
        node.table()?;
        json_template(&node, 0)
    });
    let times = table.get("times").map(|node| {
        let list = node.list();
        list.iter().filter_map(|item| item.word(&TimeClaim::ALL)).collect::<Vec<_>>()
    });
    let lifetime = table.get("lifetime").and_then(|node| {
        let lifetime = node.ok(parse_duration(node.text()?))?;
        if !(Duration::from_secs(60)..=LIFETIME_MAX).contains(&lifetime) {
            node.wrong("must be from 1m to 24h");
        }
        Some(lifetime)
    });
    let uppercase = table.get("uppercase").map(|node| node.texts()).unwrap_or_default();
    let headers = if table.has("headers") { credential_parts_or_fixed(table) } else { Vec::new() };
    let allows_token = table.get("token").and_then(|node| node.boolean()).unwrap_or(false);
    let algorithm = algorithm?;
    let form = JwtForm {
        algorithm,
        key: key.unwrap_or_else(|| algorithm.key_field().to_owned()),
        key_id,
        claims: claims?,
        times: times.unwrap_or_else(|| vec![TimeClaim::IssuedAt, TimeClaim::Expires]),
        lifetime: lifetime.unwrap_or(LIFETIME_DEFAULT),
        uppercase,
        headers,
        allows_token,
    };
    check_jwt(&form, table);
    Some(form)
}

/// Checks what depends on several keys.
fn check_jwt(form: &JwtForm, table: &TableReader<'_>) {
    let JwtForm { algorithm, claims, uppercase, .. } = form;
    let names: Vec<&str> = claims.templates().into_iter().flat_map(Template::names).collect();
    if *algorithm == Algorithm::Hs256 && names.contains(&FINGERPRINT) {
        table.wrong_key("claims", "`{fingerprint}` needs a key pair: RS256 or ES256");
    }
    let others = form.key_id.iter().chain(form.headers.iter().map(|(_, template)| template));
    let others: Vec<&str> = others.flat_map(Template::names).collect();
    if names.iter().chain(&others).any(|name| *name == form.key) {
        table.wrong(format!("`{{{}}}` is the key, which is never sent; remove it", form.key));
    }
    if others.contains(&FINGERPRINT) {
        table.wrong("`{fingerprint}` is possible in `claims` only");
    }
    if let JsonTemplate::Object(members) = claims
        && let Some((name, _)) =
            members.iter().find(|(name, _)| TimeClaim::ALL.iter().any(|(time, _)| time == name))
    {
        table.wrong_key("claims", format!("`{name}` is set by `times` and `lifetime`; remove it"));
    }
    let fields = form.fields();
    if let Some(name) = uppercase.iter().find(|name| !fields.contains(name.as_str())) {
        table.wrong_key("uppercase", format!("`{name}` is not a field of the credential"));
    }
}

/// Reads headers that are sent with a signed token.
fn credential_parts_or_fixed(table: &TableReader<'_>) -> Vec<(String, Template)> {
    let parts = table.get("headers").map(|node| templates(&node)).unwrap_or_default();
    parts.into_iter().filter_map(|part| lower_case(part, table)).collect()
}

fn credential_headers(table: &TableReader<'_>) -> Option<Vec<(String, Template)>> {
    let parts = credential_parts(table, "headers")?;
    Some(parts.into_iter().filter_map(|part| lower_case(part, table)).collect())
}

fn lower_case((name, template): (String, Template), table: &TableReader<'_>) -> Option<(String, Template)> {
    let name = header_name(&name).map_err(|why| table.wrong_key("headers", why)).ok()?;
    Some((name, template))
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
