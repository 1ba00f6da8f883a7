//! A credential, and what is derived from it, never reaches a host outside of `send_to`.
//!
//! Each seed makes a definition with some kind of credential, settings of the operator (base URL, hosts, token URL,
//! named instance) and a registration of a client who wants the credential: parameters, a host, a URL as the job's id.
//! The requests are made by the code of the service, and so is the decision about each redirect. A second, simple
//! implementation of the rules says which hosts are permitted.
//!
//! The same cases are drawn with a credential of an app in place of the operator's: then each host must be one that the
//! app lists as well, and the operator's list has no effect.
//!
//! A further request that a definition can make (of a result, for example) belongs into [`Case::requests`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rcgen::KeyPair;
use ringback::domain::{CredentialKind, CredentialSecret, Timestamp};
use ringback::egress::{Method, redirect_target};
use ringback::providers::{Answer, Credential, Definition, Interpretation, Request};
use serde_json::{Map, Value, json};
use url::Url;

use crate::harness::Draw;

/// Number of cases of a run.
const CASES: u64 = 6_000;

/// Parts of credentials, none of which occurs anywhere else.
const SECRET: &str = "hush+Secret/0123456789";
const OTHER_SECRET: &str = "hush-other-0123456789";
const TOKEN: &str = "hush-token-0123456789";

/// Hosts that a credential may be sent to in some definitions, and hosts that look like them.
const HOSTS: [&str; 9] = [
    "api.good.example",
    "eu.good.example",
    "api.good.example:8443",
    "good.example",
    "evilgood.example",
    "good.example.evil.example",
    "evil.example",
    "customer.eu.good.example",
    "login.good.example",
];

/// Hosts of results.
const RESULT_HOSTS: [&str; 5] = [
    "api.good.example",
    "eu.good.example",
    "cdn.elsewhere.example",
    "evil.example",
    "customer.eu.good.example",
];

/// Values of a client for a parameter in the host.
const PARAMS: [&str; 16] = [
    "api",
    "eu",
    "customer.eu",
    "evil.example/",
    "evil.example#",
    "evil.example?",
    "me@evil.example",
    "api.good.example@evil.example",
    "evil.example:443",
    "127.0.0.1",
    "[::1]",
    "API",
    "api.good.example\\@evil.example",
    "%65vil.example",
    "good.example.evil.example",
    "",
];

/// What a provider answers to a request that may be redirected.
const LOCATIONS: [&str; 8] = [
    "/elsewhere",
    "https://api.good.example/x",
    "https://evil.example/x",
    "//evil.example/x",
    "http://api.good.example/x",
    "https://api.good.example:8443/x",
    "https://me@api.good.example/x",
    "https://api.good.example.evil.example/x",
];

fn pick<'a>(draw: &mut Draw, list: &[&'a str]) -> &'a str {
    list[usize::try_from(draw.below(list.len() as u64)).unwrap()]
}

/// Returns some of a list, perhaps none.
fn some<'a>(draw: &mut Draw, list: &[&'a str]) -> Vec<&'a str> {
    list.iter().copied().filter(|_| draw.below(3) == 0).collect()
}

/// A kind of credential: its table, and a credential.
struct Kind {
    name: &'static str,
    table: String,
    credential: String,
}

fn kinds(rsa: &str, ec: &str) -> Vec<Kind> {
    let fields = |list: &[(&str, &str)]| {
        let field = |(name, value): &(&str, &str)| ((*name).to_owned(), json!(value));
        Value::Object(list.iter().map(field).collect::<Map<_, _>>()).to_string()
    };
    let client = fields(&[("client_id", OTHER_SECRET), ("client_secret", SECRET)]);
    let refresh = fields(&[("client_id", "id"), ("client_secret", SECRET), ("refresh_token", OTHER_SECRET)]);
    let google =
        fields(&[("client_email", "a@b.example"), ("private_key", rsa), ("type", "service_account")]);
    let evil = fields(&[
        ("client_email", "a@b.example"),
        ("private_key", rsa),
        ("token_uri", "https://evil.example/token"),
    ]);
    let token_url = "token_url = \"https://login.good.example/token\"";
    let kind = |name, table: &str, credential: &str| Kind {
        name,
        table: format!("type = \"{name}\"\n{table}"),
        credential: credential.to_owned(),
    };
    vec![
        kind("bearer", "", SECRET),
        kind("header", "header = \"x-key\"\nprefix = \"Key \"", SECRET),
        kind(
            "headers",
            "headers = { \"x-id\" = \"{id}\", \"x-secret\" = \"Key {secret}\" }",
            &fields(&[("id", OTHER_SECRET), ("secret", SECRET)]),
        ),
        kind("basic", "", &format!("me:{SECRET}")),
        kind("query", "query = { key = \"{key}\" }", SECRET),
        kind("body", "body = { key = \"{key}\" }", SECRET),
        kind("oauth2", token_url, &client),
        kind(
            "oauth2",
            &format!("{token_url}\nclient_auth = \"body\"\nencoding = \"json\"\ntoken = true"),
            &client,
        ),
        kind("oauth2", &format!("{token_url}\ngrant = \"refresh_token\""), &refresh),
        kind("oauth2", &format!("{token_url}\ntoken = true"), SECRET),
        kind(
            "google",
            "scope = \"s\"\ntoken_hosts = [\"login.good.example\", \"oauth2.googleapis.com\"]",
            &google,
        ),
        kind("google", "scope = \"s\"", &evil),
        kind(
            "jwt",
            "algorithm = \"HS256\"\nclaims = { iss = \"{id}\" }",
            &fields(&[("id", "id"), ("secret_key", SECRET)]),
        ),
        kind("jwt", "algorithm = \"HS256\"\nclaims = { iss = \"{id}\" }\ntoken = true", SECRET),
        kind(
            "jwt",
            "algorithm = \"ES256\"\nclaims = { iss = \"{id}.{fingerprint}\" }",
            &fields(&[("id", "id"), ("private_key", ec)]),
        ),
        kind(
            "aws",
            "service = \"s\"\nregion = \"eu\"",
            &fields(&[
                ("access_key_id", OTHER_SECRET),
                ("secret_access_key", SECRET),
                ("session_token", TOKEN),
            ]),
        ),
    ]
}

/// How the host of a request is determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Fixed,
    Param,
    JobUrl,
}

/// One definition, the operator's settings, and one registration.
#[derive(Clone, Debug)]
struct Case {
    text: String,
    send_to: Vec<&'static str>,
    target: Target,
    base_url: Option<&'static str>,
    hosts: Vec<&'static str>,
    token_url: Option<&'static str>,
    job_id: String,
    param: &'static str,
    credential: String,
    kind: &'static str,
    location: &'static str,
    /// Whether the result is requested with the credential.
    result_auth: bool,
    /// URL of the result, as an answer names it.
    result_url: String,
}

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    Token,
    Poll,
    Result,
}

impl Case {
    fn draw(draw: &mut Draw, kinds: &[Kind]) -> Self {
        let kind = &kinds[usize::try_from(draw.below(kinds.len() as u64)).unwrap()];
        let patterns = [
            "api.good.example",
            "*.good.example",
            "api.good.example:8443",
            "eu.good.example",
            "good.example",
        ];
        let send_to = some(draw, &patterns);
        let target = [Target::Fixed, Target::Param, Target::JobUrl][usize::try_from(draw.below(3)).unwrap()];
        let host = pick(draw, &HOSTS);
        let has_base = draw.below(4) == 0;
        let bases = ["http://10.0.0.1:9000", "https://evil.example", "https://api.good.example/prefix"];
        let token_urls = ["http://10.0.0.1:9000/token", "https://id.operator.example/token"];
        let job_id = match target {
            Target::JobUrl => job_url(draw, host),
            Target::Fixed | Target::Param => "j1".to_owned(),
        };
        let mut text = format!(
            "schema = 2\nid = \"d\"\nname = \"D\"\ndocs = \"https://d.example\"\n[auth]\n{}\nsend_to = {send_to:?}\n",
            kind.table
        );
        let url_hosts = ["{tenant}.good.example", "{tenant}"];
        text += &match target {
            Target::Fixed => format!(
                "[params.job_id]\npattern = \".*\"\n[request]\nurl = \"https://{host}/jobs/{{job_id}}\"\n"
            ),
            Target::Param => format!(
                "[params.job_id]\npattern = \".*\"\n[params.tenant]\npattern = \".*\"\n[request]\nurl = \"https://{}/jobs/{{job_id}}\"\n",
                pick(draw, &url_hosts)
            ),
            Target::JobUrl => format!(
                "[request.job_url]\nhosts = {:?}\npath = \"/jobs/(?<job_id>.+)\"\nquery = true\n[request]\n",
                some(
                    draw,
                    &["api.good.example", "*.good.example", "api.good.example:8443", "eu.good.example"]
                )
            ),
        };
        if kind.name == "body" {
            text += "method = \"POST\"\njson = { id = \"{job_id}\" }\n";
        }
        if draw.below(2) == 0 {
            text += "redirect = \"same-origin\"\n";
        }
        text += REST;
        let result_auth = draw.below(2) == 0;
        if draw.below(2) == 0 {
            let others = ["api.good.example", "*.good.example", "cdn.elsewhere.example", "evil.example"];
            let hosts = if result_auth { send_to.clone() } else { some(draw, &others) };
            text += &format!("[[result]]\npath = \"$.u\"\nhosts = {hosts:?}\nauth = {result_auth}\n");
        }
        let example = example_id(&text, target);
        text += &examples(&example);
        Self {
            text,
            send_to,
            target,
            base_url: has_base.then(|| pick(draw, &bases)),
            hosts: some(
                draw,
                &["eu.good.example", "customer.eu.good.example", "evil.example", "good.example"],
            ),
            token_url: (draw.below(4) == 0).then(|| pick(draw, &token_urls)),
            job_id,
            param: pick(draw, &PARAMS),
            credential: kind.credential.clone(),
            kind: kind.name,
            location: pick(draw, &LOCATIONS),
            result_auth,
            result_url: {
                let host = pick(draw, &RESULT_HOSTS);
                job_url(draw, host)
            },
        }
    }

    /// Returns the definition with the operator's settings; `None` if it or the settings are refused.
    fn definition(&self, draw: &mut Draw) -> Option<Definition> {
        let mut definition = Definition::parse(&self.text).ok()?;
        if draw.below(3) == 0 {
            definition = definition.instance("d-eu");
        }
        definition.set_operator_hosts(&self.hosts.join(","), self.base_url.is_some()).ok()?;
        if let Some(url) = self.token_url {
            // Refused where no token is requested.
            let _ = definition.set_token_url(url);
        }
        Some(definition)
    }

    /// Returns every request that the service would make for the job, redirects included.
    fn requests(&self, definition: &Definition) -> Vec<(Purpose, Request)> {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").unwrap();
        let mut all = Vec::new();
        let key = self.credential.as_str();
        let needs_token = definition.needs_token(key);
        if needs_token {
            all.extend(definition.token_request(key, None, now).map(|request| (Purpose::Token, request)));
        }
        let base_url = self.base_url.map(|base| definition.check_base_url(base).unwrap());
        let given = Map::from_iter([("tenant".to_owned(), json!(self.param))]);
        let given = if self.target == Target::Param { given } else { Map::new() };
        // What the registration refuses can have been stored with an older definition.
        let params = definition.params(&given).unwrap_or_else(|_| Value::Object(given).to_string());
        let credential = Credential { key, token: needs_token.then_some(TOKEN), now };
        let polled = definition.request(&self.job_id, &params, base_url.as_ref(), Some(credential));
        all.extend(polled.map(|request| (Purpose::Poll, request)));
        let body = json!({ "s": "ok", "u": self.result_url }).to_string();
        let answer = Answer { status: 200, headers: &[], body: body.as_bytes() };
        if let Interpretation::Ok(report) = definition.interpret(&self.job_id, answer)
            && let Some(next) = report.results.first()
        {
            let job = (self.job_id.as_str(), params.as_str());
            let result = definition.result_request(next, job, base_url.as_ref(), Some(credential));
            all.extend(result.map(|request| (Purpose::Result, request)));
        }
        let redirected: Vec<_> =
            all.iter().filter_map(|(purpose, request)| Some((*purpose, self.redirected(request)?))).collect();
        all.extend(redirected);
        all
    }

    /// Returns the request after a redirect, if it is followed.
    fn redirected(&self, request: &Request) -> Option<Request> {
        let method = Method::from_bytes(request.method.as_bytes()).unwrap();
        let (url, _) = redirect_target(&request.url, &method, 307, self.location)
            .filter(|_| request.max_redirects > 0)?;
        Some(Request { url, ..request.clone() })
    }

    /// Returns whether the credential may be sent to a URL.
    fn permits(&self, purpose: Purpose, url: &Url) -> bool {
        let origin = |text: &str| Url::parse(text).unwrap().origin();
        if purpose == Purpose::Token {
            let own = self.token_url.unwrap_or("https://login.good.example/token");
            let googles = self.kind == "google" && self.token_url.is_none();
            return url.origin() == origin(own)
                || (googles && url.origin() == origin("https://oauth2.googleapis.com"));
        }
        let is_of_base = self.base_url.is_some_and(|base| url.origin() == origin(base));
        if is_of_base || (self.base_url.is_some() && purpose == Purpose::Poll) {
            return is_of_base;
        }
        let is = |pattern: &str| {
            let (host, port) = pattern.split_once(':').unwrap_or((pattern, "443"));
            let actual = url.host_str().unwrap();
            let fits = match host.strip_prefix("*.") {
                Some(parent) => actual.ends_with(&format!(".{parent}")),
                None => actual == host,
            };
            url.scheme() == "https" && fits && url.port_or_known_default().unwrap().to_string() == port
        };
        let is_allowed = self.send_to.iter().any(|pattern| is(pattern));
        let is_exact = self.send_to.iter().any(|pattern| !pattern.starts_with('*') && is(pattern));
        let is_listed = self.hosts.iter().any(|pattern| is(pattern));
        let is_fixed = purpose == Purpose::Poll && self.target == Target::Fixed;
        is_allowed && (is_fixed || is_exact || is_listed)
    }
}

/// Returns the id of the examples: a URL that the definition allows, if ids are URLs.
fn example_id(text: &str, target: Target) -> String {
    let hosts = text.lines().find_map(|line| line.strip_prefix("hosts = [\""));
    let first = hosts.and_then(|hosts| hosts.split('"').next()).unwrap_or("nowhere.example");
    match target {
        Target::JobUrl => format!("https://{}/jobs/j1", first.replace('*', "x")),
        Target::Fixed | Target::Param => "j1".to_owned(),
    }
}

/// Returns the examples that each definition needs.
fn examples(job_id: &str) -> String {
    let example = |(word, status): (&str, &str)| {
        format!(
            "[[example]]\njob_id = \"{job_id}\"\nbody = '{{\"s\": \"{word}\"}}'\nexpect = {{ answer = \"seen\", status = \"{status}\", \
             raw_status = \"{word}\" }}\n"
        )
    };
    [("run", "processing"), ("ok", "completed"), ("bad", "failed")].map(example).concat()
}

/// Returns the id of a job that is a URL.
fn job_url(draw: &mut Draw, host: &str) -> String {
    match draw.below(8) {
        0 => format!("http://{host}/jobs/j1"),
        1 => "https://api.good.example@evil.example/jobs/j1".to_owned(),
        2 => "https://evil.example/jobs/j1?x=api.good.example".to_owned(),
        3 => "https://api.good.example:8443/jobs/j1".to_owned(),
        _ => format!("https://{host}/jobs/j1"),
    }
}

/// The parts of each definition that say nothing about hosts.
const REST: &str = r#"
[status]
path = "$.s"
[status.map]
processing = ["run"]
completed = ["ok"]
failed = ["bad"]
[extract]
job_id = "none"
"#;

/// Returns every text from which the credential, or what was derived from it, can be read.
fn needles(request: &Request) -> Vec<String> {
    let mut found: Vec<String> = [SECRET, OTHER_SECRET, TOKEN].map(str::to_owned).into();
    found.extend(request.secrets.iter().filter(|secret| !secret.is_empty()).cloned());
    let encoded = |text: &String| {
        let form: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
        [form, text.replace('+', "%2B").replace('/', "%2F"), BASE64_STANDARD.encode(format!("me:{text}"))]
    };
    let more: Vec<String> = found.iter().flat_map(encoded).collect();
    found.extend(more);
    found
}

/// Returns whether a request follows a redirect.
fn is_redirected(request: &Request, case: &Case) -> bool {
    request.url.as_str().ends_with(case.location.trim_start_matches("//"))
        || request.url.path() == "/elsewhere"
}

/// Returns the request as it is sent.
fn sent(request: &Request) -> String {
    let mut text = format!("{} {}\n", request.method, request.url);
    for (name, value) in &request.headers {
        let _ = writeln!(text, "{name}: {value}");
    }
    text + &String::from_utf8_lossy(&request.body)
}

// Once: no database is used.
#[test]
fn a_credential_never_reaches_a_host_outside_of_send_to() {
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let ec = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let kinds = kinds(&rsa, &ec);
    let mut seen: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for seed in 0..CASES {
        let mut draw = Draw(seed);
        let case = Case::draw(&mut draw, &kinds);
        let requests = case.definition(&mut draw).map(|definition| case.requests(&definition));
        let what = match &requests {
            None => "refused definition",
            Some(all) if all.iter().any(|(purpose, _)| *purpose == Purpose::Poll) => "polled",
            Some(_) => "refused request",
        };
        *seen.entry((case.kind, what)).or_default() += 1;
        for (purpose, request) in requests.iter().flatten() {
            let text = sent(request);
            let carries = needles(request).iter().any(|needle| text.contains(needle.as_str()));
            if *purpose == Purpose::Result && !case.result_auth {
                assert!(
                    !carries,
                    "seed {seed}: {case:#?}
{text}"
                );
                *seen.entry(("any", "result without the credential")).or_default() += 1;
                continue;
            }
            // The location of a redirect replaces the query.
            let may_lack = case.kind == "query" && is_redirected(request, &case);
            assert!(
                carries || may_lack,
                "seed {seed}: the credential is not found:
{case:#?}
{text}"
            );
            if !carries {
                continue;
            }
            assert!(
                case.permits(*purpose, &request.url),
                "seed {seed}: {case:#?}
{text}"
            );
            let what = match purpose {
                Purpose::Token => "token request",
                Purpose::Poll => "request",
                Purpose::Result => "result",
            };
            *seen.entry((case.kind, what)).or_default() += 1;
        }
    }
    let results: u32 = seen.iter().filter(|((_, what), _)| *what == "result").map(|(_, count)| count).sum();
    let plain = seen.get(&("any", "result without the credential")).copied().unwrap_or_default();
    assert!(results > 20 && plain > 50, "{seen:?}");
    // Every kind was sent, and was kept back.
    for kind in kinds.iter().map(|kind| kind.name) {
        let count = |what| seen.get(&(kind, what)).copied().unwrap_or_default();
        assert!(count("polled") > 30 && count("refused request") > 20, "{kind}: {seen:?}");
        assert_eq!(count("token request") > 0, matches!(kind, "oauth2" | "google"), "{kind}: {seen:?}");
    }
}

/// Returns whether an app's list has the host and port of a URL, which must be one with https.
fn is_listed(own: &[String], url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let place = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    url.scheme() == "https" && own.contains(&place)
}

// Once: no database is used.
#[test]
fn an_apps_credential_reaches_only_the_hosts_that_the_app_lists() {
    let rsa = KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().serialize_pem();
    let ec = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem();
    let kinds = kinds(&rsa, &ec);
    let listed = [&HOSTS[..], &["oauth2.googleapis.com", "id.operator.example", "10.0.0.1:9000"]].concat();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..CASES {
        let mut draw = Draw(seed);
        let case = Case::draw(&mut draw, &kinds);
        let Some(definition) = case.definition(&mut draw) else { continue };
        let send_to: Vec<String> =
            listed.iter().filter(|_| draw.below(2) == 0).map(|host| (*host).to_owned()).collect();
        let (name, value) = (String::new(), case.credential.clone());
        let secret = CredentialSecret { kind: CredentialKind::Key, send_to: send_to.clone(), name, value };
        // A service account can name a token URL that the definition does not allow.
        let Ok(own) = definition.with_own_credential(&secret) else { continue };
        for (purpose, request) in case.requests(&own.definition) {
            let text = sent(&request);
            if !needles(&request).iter().any(|needle| text.contains(needle.as_str())) {
                *seen.entry("without the credential").or_default() += 1;
                continue;
            }
            assert!(is_listed(&send_to, &request.url), "seed {seed}: {send_to:?} {case:#?}\n{text}");
            // The list of the app takes the place of the operator's; the rest holds as before.
            let case = Case { hosts: HOSTS.to_vec(), ..case.clone() };
            assert!(case.permits(purpose, &request.url), "seed {seed}: {send_to:?} {case:#?}\n{text}");
            *seen.entry(case.kind).or_default() += 1;
        }
    }
    for kind in kinds.iter().map(|kind| kind.name) {
        assert!(seen.get(&kind).is_some_and(|count| *count > 10), "{kind}: {seen:?}");
    }
}
