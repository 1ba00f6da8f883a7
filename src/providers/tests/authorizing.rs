//! Guarantees of credentials that sign requests or are exchanged for tokens.

use std::sync::LazyLock;

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{Credential, Definition, embedded, mistakes, small};
use crate::domain::Timestamp;
use crate::providers::Request;

/// A private key in PEM, as it stands in a JSON text.
static PEM: LazyLock<String> = LazyLock::new(|| {
    let der: Pkcs8V1Der<'_> = KeyPair::generate(KeySize::Rsa2048).unwrap().as_der().unwrap();
    format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", STANDARD.encode(der.as_ref()))
});

fn now() -> Timestamp {
    Timestamp::parse("2026-02-18T15:00:00Z").unwrap()
}

/// Returns the minimal definition of schema 2 with this `[auth]`.
fn text(auth: &str) -> String {
    let tables = "type = \"header\"\nheader = \"X-Key\"\nprefix = \"Key \"\nsend_to = [\"small.example\"]";
    small(&[(tables, &format!("{auth}\nsend_to = [\"small.example\"]")), ("schema = 1", "schema = 2")])
}

fn defined(auth: &str) -> Definition {
    let text = text(auth);
    Definition::parse(&text).unwrap_or_else(|wrong| panic!("{text}\n{wrong:#?}"))
}

fn header<'a>(request: &'a Request, name: &str) -> &'a str {
    let found = request.headers.iter().find(|(known, _)| known == name);
    found.map_or("", |(_, value)| value.as_str())
}

fn body(request: &Request) -> String {
    String::from_utf8(request.body.clone()).unwrap()
}

/// Returns the claims of a token.
fn claims(token: &str) -> Value {
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

fn polled(definition: &Definition, job_id: &str, params: &Value, key: &str, token: Option<&str>) -> Request {
    let params = definition.params(params.as_object().unwrap()).unwrap();
    definition.request(job_id, &params, None, Some(Credential { key, token, now: now() })).unwrap()
}

const CLIENT: &str = r#"{"client_id": "my id", "client_secret": "s+3cret"}"#;

#[test]
fn a_client_is_exchanged_for_a_token_that_is_sent() {
    let oauth2 = "type = \"oauth2\"\ntoken_url = \"https://login.example/token\"";
    let definition = defined(&format!("{oauth2}\nscope = \"a b\"\naudience = \"https://small.example\""));
    let request = definition.token_request(CLIENT, None, now()).unwrap();
    assert_eq!((request.method, request.url.as_str()), ("POST", "https://login.example/token"));
    // RFC 6749, section 2.3.1: my+id:s%2B3cret
    assert_eq!(header(&request, "authorization"), "Basic bXkraWQ6cyUyQjNjcmV0");
    assert_eq!(
        body(&request),
        "grant_type=client_credentials&scope=a+b&audience=https%3A%2F%2Fsmall.example"
    );
    let sent = polled(&definition, "1", &json!({ "team": "blue" }), CLIENT, Some("t0ken"));
    assert_eq!(header(&sent, "authorization"), "Bearer t0ken");
    let masked = definition.mask("t0ken, s+3cret, s%2B3cret, my id".to_owned(), Some(CLIENT), &sent.secrets);
    assert_eq!(masked, "***, ***, ***, ***");
    assert!(
        definition.request("1", r#"{"region":"eu","team":"blue"}"#, None, Some(super::key(CLIENT))).is_err()
    );

    let definition =
        defined(&format!("{oauth2}\nclient_auth = \"body\"\nencoding = \"json\"\nheader = \"x-token\""));
    let request = definition.token_request(CLIENT, None, now()).unwrap();
    assert_eq!(header(&request, "content-type"), "application/json");
    let expected =
        json!({ "grant_type": "client_credentials", "client_id": "my id", "client_secret": "s+3cret" });
    assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), expected);
    assert_eq!(
        header(&polled(&definition, "1", &json!({ "team": "blue" }), CLIENT, Some("t")), "x-token"),
        "t"
    );

    let definition = defined(
        "type = \"oauth2\"\ngrant = \"refresh_token\"\ntoken_url = \"https://login.example/{tenant}/token\"",
    );
    assert_eq!(definition.shown_token_url().as_deref(), Some("https://login.example/{tenant}/token"));
    let key = "client_id=id\nrefresh_token=old\ntenant=a/b";
    let request = definition.token_request(key, Some("new"), now()).unwrap();
    assert_eq!(request.url.as_str(), "https://login.example/a%2Fb/token");
    assert_eq!(body(&request), "grant_type=refresh_token&refresh_token=new&client_id=id");
}

#[test]
fn a_token_url_of_the_operator_replaces_that_of_the_definition() {
    let mut databricks = Definition::clone(&embedded()["databricks"]);
    let fields = r#"{"client_id": "id", "client_secret": "s3cret"}"#;
    assert!(databricks.check_credential(fields).unwrap_err().contains("`account_id`"));
    databricks.set_token_url("https://adb-1.2.azuredatabricks.net/oidc/v1/token").unwrap();
    let request = databricks.token_request(fields, None, now()).unwrap();
    assert_eq!(request.url.as_str(), "https://adb-1.2.azuredatabricks.net/oidc/v1/token");
    // A personal access token is sent as it is.
    assert!(databricks.needs_token(fields) && !databricks.needs_token("dapi123"));
    assert_eq!(databricks.check_credential("dapi123"), Ok(()));
    assert!(Definition::clone(&embedded()["muvi"]).set_token_url("https://login.example").is_err());
}

#[test]
fn a_service_account_signs_an_assertion_for_googles_token_url() {
    let bigquery = &embedded()["bigquery"];
    let key = |token_uri: &str| {
        json!({
            "type": "service_account", "project_id": "p", "private_key_id": "k1", "private_key": PEM.as_str(),
            "client_email": "me@p.iam.gserviceaccount.com", "token_uri": token_uri, "universe_domain": "googleapis.com",
        })
        .to_string()
    };
    let good = key("https://oauth2.googleapis.com/token");
    assert_eq!(bigquery.check_credential(&good), Ok(()));
    let request = bigquery.token_request(&good, None, now()).unwrap();
    assert_eq!(request.url.as_str(), "https://oauth2.googleapis.com/token");
    let sent = body(&request);
    let assertion =
        sent.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=");
    let expected = json!({
        "iss": "me@p.iam.gserviceaccount.com", "scope": "https://www.googleapis.com/auth/bigquery",
        "aud": "https://oauth2.googleapis.com/token", "iat": 1_771_426_800, "exp": 1_771_430_400,
    });
    assert_eq!(claims(assertion.unwrap()), expected);
    assert!(!bigquery.mask(sent.clone(), Some(&good), &request.secrets).contains("eyJ"));
    for uri in [
        "https://evil.example/token",
        "http://oauth2.googleapis.com/token",
        "https://oauth2.googleapis.com.evil.example/",
    ] {
        let wrong = bigquery.check_credential(&key(uri)).unwrap_err();
        assert!(wrong.contains("`token_uri` at a host that the definition does not allow"), "{wrong}");
    }
    let user = good.replace("service_account\"", "authorized_user\"");
    assert!(bigquery.check_credential(&user).unwrap_err().contains("not the key of a service account"));
}

#[test]
fn kling_gets_a_token_that_the_secret_key_signs() {
    let kling = &embedded()["kling"];
    let params = json!({ "kind": "videos/text2video" });
    let key = r#"{"access_key": "AK1234", "secret_key": "SK5678"}"#;
    let sent = polled(kling, "1", &params, key, None);
    let token = header(&sent, "authorization").strip_prefix("Bearer ").unwrap();
    assert_eq!(claims(token), json!({ "iss": "AK1234", "exp": 1_771_428_600, "nbf": 1_771_426_795 }));
    assert_eq!(kling.mask(format!("bad {token}"), Some(key), &sent.secrets), "bad ***");
    assert_eq!(header(&polled(kling, "1", &params, "plain-key", None), "authorization"), "Bearer plain-key");
    assert!(kling.check_credential(r#"{"access_key": "AK1234"}"#).is_err());
}

#[test]
fn snowflake_gets_a_token_of_a_key_pair() {
    let mut snowflake = Definition::clone(&embedded()["snowflake"]);
    snowflake.set_operator_hosts("myorg-acme.snowflakecomputing.com", false).unwrap();
    let key = json!({ "account": "myorg-acme", "user": "ringback", "private_key": PEM.as_str() }).to_string();
    assert_eq!(snowflake.check_credential(&key), Ok(()));
    let (id, params) =
        ("01b2c3d4-0000-0000-0000-000000000001", json!({ "host": "myorg-acme.snowflakecomputing.com" }));
    let sent = polled(&snowflake, id, &params, &key, None);
    assert_eq!(header(&sent, "x-snowflake-authorization-token-type"), "KEYPAIR_JWT");
    let claims = claims(header(&sent, "authorization").strip_prefix("Bearer ").unwrap());
    assert_eq!(claims["sub"], "MYORG-ACME.RINGBACK");
    assert!(claims["iss"].as_str().unwrap().starts_with("MYORG-ACME.RINGBACK.SHA256:"), "{claims}");
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    let sent = polled(&snowflake, id, &params, "pat-token", None);
    assert_eq!(
        (header(&sent, "authorization"), header(&sent, "x-snowflake-authorization-token-type")),
        ("Bearer pat-token", "")
    );
}

#[test]
fn requests_to_aws_are_signed_for_their_region() {
    let transcribe = &embedded()["aws-transcribe"];
    let key = r#"{"access_key_id": "AKIDEXAMPLE", "secret_access_key": "hush-secret", "session_token": "hush-token"}"#;
    let sent = polled(transcribe, "j", &json!({ "region": "eu-west-1" }), key, None);
    assert_eq!(sent.url.as_str(), "https://transcribe.eu-west-1.amazonaws.com/");
    assert_eq!(
        (header(&sent, "x-amz-date"), header(&sent, "x-amz-security-token")),
        ("20260218T150000Z", "hush-token")
    );
    assert_eq!(header(&sent, "content-type"), "application/x-amz-json-1.1");
    let expected = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20260218/eu-west-1/transcribe/aws4_request, \
                    SignedHeaders=content-type;host;x-amz-date;x-amz-security-token;x-amz-target, Signature=";
    let authorization = header(&sent, "authorization");
    assert!(authorization.starts_with(expected), "{authorization}");
    let signature = authorization.rsplit_once('=').unwrap().1;
    assert_eq!(transcribe.mask(format!("{signature} hush-secret"), Some(key), &sent.secrets), "*** ***");
    assert!(!format!("{sent:?}").contains("hush"));
}

#[test]
fn a_shown_request_has_no_credential_of_any_kind() {
    let all = embedded();
    let shown = |id: &str, job_id: &str, params: Value| {
        let definition = &all[id];
        let params = definition.params(params.as_object().unwrap()).unwrap();
        definition.shown_request(job_id, &params, None, now()).unwrap()
    };
    let id = "1671477617078-2886ye";
    assert_eq!(
        shown("aws-mediaconvert", id, json!({})),
        format!(
            "GET https://mediaconvert.us-east-1.amazonaws.com/2017-08-29/jobs/{id}\naccept: application/json\n\
             x-amz-date: 20260218T150000Z\nauthorization: AWS4-HMAC-SHA256 \
             Credential=***/20260218/us-east-1/mediaconvert/aws4_request, SignedHeaders=host;x-amz-date, Signature=***"
        )
    );
    for (id, params) in
        [("bigquery", json!({ "project": "my-project" })), ("kling", json!({ "kind": "videos/x" }))]
    {
        let shown = shown(id, "1", params);
        assert!(shown.ends_with("\nauthorization: Bearer ***"), "{shown}");
    }
}

#[test]
fn mistakes_in_auth_are_listed_with_what_to_write() {
    for (auth, expected) in [
        ("type = \"oauth2\"", "auth: the key `token_url` is missing"),
        (
            "type = \"oauth2\"\ntoken_url = \"http://login.example/token\"",
            "auth.token_url: must be an https URL with a host name",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://{host}/token\"",
            "auth.token_url: scheme, host and port are fixed",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ngrant = \"password\"",
            "`client_credentials`, `refresh_token`",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\nservice = \"x\"",
            "auth.service: is not possible with type `oauth2`",
        ),
        ("type = \"google\"", "auth: the key `scope` is missing"),
        (
            "type = \"google\"\nscope = \"x\"\ntoken_hosts = [\"*.example.com\"]",
            "auth.token_hosts: must list hosts without `*.`",
        ),
        ("type = \"jwt\"\nclaims = {}", "auth: the key `algorithm` is missing"),
        ("type = \"jwt\"\nalgorithm = \"none\"\nclaims = {}", "write one of `HS256`, `RS256`, `ES256`"),
        ("type = \"jwt\"\nalgorithm = \"HS256\"\nclaims = { iss = \"{fingerprint}\" }", "needs a key pair"),
        (
            "type = \"jwt\"\nalgorithm = \"HS256\"\nclaims = { iss = \"{secret_key}\" }",
            "is the key, which is never sent",
        ),
        (
            "type = \"jwt\"\nalgorithm = \"HS256\"\nclaims = { exp = 1 }",
            "`exp` is set by `times` and `lifetime`",
        ),
        (
            "type = \"jwt\"\nalgorithm = \"HS256\"\nclaims = {}\nlifetime = \"1s\"",
            "auth.lifetime: must be from 1m to 24h",
        ),
        (
            "type = \"jwt\"\nalgorithm = \"HS256\"\nclaims = {}\nuppercase = [\"x\"]",
            "auth.uppercase: `x` is not a field",
        ),
        ("type = \"aws\"", "auth: the key `service` is missing"),
        (
            "type = \"aws\"\nservice = \"s\"\nregion = \"{zone}\"",
            "`{zone}` is not declared; add [params.zone]",
        ),
        ("type = \"sigv4\"", "`oauth2`, `google`, `jwt`, `aws`"),
    ] {
        let found = mistakes(&text(auth));
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{auth}: {found:#?}");
    }
    let old = text("type = \"aws\"\nservice = \"s\"").replace("schema = 2", "schema = 1");
    assert!(mistakes(&old).iter().any(|mistake| mistake.contains("needs schema = 2")));
}

#[test]
fn the_documented_kinds_of_credentials_can_be_used() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROVIDERS.md")).unwrap();
    let (_, tokens) = page.split_once("\n#### Tokens\n").unwrap();
    let (section, _) = tokens.split_once("\n### Instances\n").unwrap();
    let blocks = section.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let kinds: Vec<&str> = blocks
        .map(|block| {
            let (_, table) = block.split_once("[auth]\n").unwrap();
            let lines: Vec<&str> = table.lines().take_while(|line| !line.starts_with("send_to")).collect();
            defined(&lines.join("\n"));
            lines[0]
        })
        .collect();
    assert_eq!(kinds, ["type = \"oauth2\"", "type = \"google\"", "type = \"jwt\"", "type = \"aws\""]);
}
