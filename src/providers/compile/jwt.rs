//! The keys of a token that the credential signs: of `type = "jwt"`, and of an `assertion`.

use std::time::Duration;

use super::reader::{Node, TableReader};
use super::request::json_template;
use crate::domain::parse_duration;
use crate::providers::body::JsonTemplate;
use crate::providers::issued_token::{Assertion, AssertionUse};
use crate::providers::jwt::{Algorithm, TimeClaim};
use crate::providers::jwt_form::{COMPUTED, FINGERPRINT, JwtForm};
use crate::providers::template::Template;

/// Lifetime of a signed token without another one. A token is signed for each request, so a short one is enough.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(10 * 60);

/// Longest lifetime of a signed token.
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Reads the keys of a token that each poll has.
pub(super) fn jwt(table: &TableReader<'_>) -> Option<JwtForm> {
    let allows_token = table.get("token").and_then(|node| node.boolean()).unwrap_or(false);
    form(table, allows_token)
}

/// Reads `assertion`: a token that is exchanged for another one.
pub(super) fn assertion(node: &Node<'_>) -> Option<Assertion> {
    let table = node.table()?;
    let sent_as =
        table.get("send_as").map_or(Some(AssertionUse::default()), |node| node.word(&AssertionUse::ALL));
    let form = form(&table, false);
    table.finish();
    Some(Assertion { form: form?, sent_as: sent_as? })
}

fn form(table: &TableReader<'_>, allows_token: bool) -> Option<JwtForm> {
    let algorithm = table.require("algorithm").and_then(|node| node.word(&Algorithm::ALL));
    let key = table.get("key").and_then(|node| node.some_text().map(str::to_owned));
    let key_id = table.get("key_id").and_then(|node| node.ok(Template::parse(node.some_text_with_braces()?)));
    let claims = table.require("claims").and_then(|node| {
        node.table()?;
        json_template(&node, 0)
    });
    let times = table.get("times").map(|node| {
        let list = node.list();
        list.iter().filter_map(|item| item.word(&TimeClaim::ALL)).collect::<Vec<_>>()
    });
    let lifetime = table.get("lifetime").and_then(|node| {
        let lifetime = node.parsed("a duration in quotes, such as \"10m\"", parse_duration)?;
        if !(Duration::from_secs(60)..=LIFETIME_MAX).contains(&lifetime) {
            node.wrong("must be from 1m to 24h");
        }
        Some(lifetime)
    });
    let uppercase = table.get("uppercase").map(|node| node.texts()).unwrap_or_default();
    let algorithm = algorithm?;
    let form = JwtForm {
        algorithm,
        key: key.unwrap_or_else(|| algorithm.key_field().to_owned()),
        key_id,
        claims: claims?,
        times: times.unwrap_or_else(|| vec![TimeClaim::IssuedAt, TimeClaim::Expires]),
        lifetime: lifetime.unwrap_or(LIFETIME_DEFAULT),
        uppercase,
        allows_token,
    };
    check(&form, table);
    Some(form)
}

/// Checks what depends on several keys.
fn check(form: &JwtForm, table: &TableReader<'_>) {
    let JwtForm { algorithm, claims, uppercase, .. } = form;
    let names: Vec<&str> = claims.templates().into_iter().flat_map(Template::names).collect();
    if *algorithm == Algorithm::Hs256 && names.contains(&FINGERPRINT) {
        table.wrong_key("claims", "`{fingerprint}` needs a key pair: RS256 or ES256");
    }
    let others: Vec<&str> = form.key_id.iter().flat_map(Template::names).collect();
    if names.iter().chain(&others).any(|name| *name == form.key) {
        table.wrong(format!("`{{{}}}` is the key, which is never sent; remove it", form.key));
    }
    if let Some(name) = others.iter().find(|name| COMPUTED.contains(name)) {
        table.wrong(format!("`{{{name}}}` is possible in `claims` only"));
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
