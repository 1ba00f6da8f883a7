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

/// Returns the beginning of an `[auth]` of OAuth 2.0.
fn oauth2(rest: &str) -> String {
    format!("type = \"oauth2\"\ntoken_url = \"https://login.example/token\"\n{rest}")
}

#[test]
fn every_kind_of_credential_can_have_headers_beside_it() {
    let org = "headers = { \"X-Org\" = \"{org_id}\", \"X-Api\" = \"2\" }";
    let fields = |own: &str| format!("{{\"org_id\": \"my-org\", {own}}}");
    let aws = "\"access_key_id\": \"AKID\", \"secret_access_key\": \"hush-secret\"";
    let client = "\"client_id\": \"id\", \"client_secret\": \"hush-secret\"";
    for (auth, key, own, value) in [
        ("type = \"bearer\"".to_owned(), "\"key\": \"hush-key\"", "authorization", "Bearer hush-key"),
        ("type = \"basic\"".to_owned(), "\"key\": \"u:hush\"", "authorization", "Basic dTpodXNo"),
        ("type = \"header\"\nheader = \"X-Key\"".to_owned(), "\"key\": \"hush-key\"", "x-key", "hush-key"),
        (
            "type = \"query\"\nquery = { k = \"{key}\" }".to_owned(),
            "\"key\": \"hush-key\"",
            "accept",
            "application/json",
        ),
        (oauth2(""), client, "authorization", "Bearer t0ken"),
        ("type = \"aws\"\nservice = \"s\"\nregion = \"eu-west-1\"".to_owned(), aws, "authorization", "AWS4"),
        (
            "type = \"jwt\"\nalgorithm = \"HS256\"\nclaims = {}".to_owned(),
            "\"secret_key\": \"hush-secret\"",
            "authorization",
            "Bearer eyJ",
        ),
    ] {
        let definition = defined(&format!("{auth}\n{org}"));
        let key = fields(key);
        assert_eq!(definition.check_credential(&key), Ok(()), "{auth}");
        let sent = polled(&definition, "1", &json!({ "team": "blue" }), &key, Some("t0ken"));
        assert_eq!((header(&sent, "x-org"), header(&sent, "x-api")), ("my-org", "2"), "{auth}");
        assert!(header(&sent, own).starts_with(value), "{auth}: {}", header(&sent, own));
        // The field is required, and the secret is masked wherever it stands.
        let alone = key.replace("\"org_id\": \"my-org\", ", "");
        assert!(definition.check_credential(&alone).is_err(), "{auth}");
        assert!(!definition.mask(key.clone(), Some(&key), &sent.secrets).contains("hush"), "{auth}");
        let shown = definition.shown_request("1", r#"{"region":"eu","team":"blue"}"#, None, now()).unwrap();
        assert!(shown.contains("x-org: ***") && !shown.contains("hush"), "{shown}");
    }
    // Without a field, the credential stays one value.
    let plain = defined("type = \"bearer\"\nheaders = { \"X-Api\" = \"2\" }");
    let sent = polled(&plain, "1", &json!({ "team": "blue" }), "hush-key", None);
    assert_eq!((header(&sent, "authorization"), header(&sent, "x-api")), ("Bearer hush-key", "2"));
}

#[test]
fn a_request_for_a_token_can_have_any_grant_and_form() {
    let requested = |auth: &str, key: &str| {
        let definition = defined(&oauth2(auth));
        assert_eq!(definition.check_credential(key), Ok(()), "{auth}");
        definition.token_request(key, None, now()).unwrap()
    };
    let ibm = "grant = \"urn:ibm:params:oauth:grant-type:apikey\"\nclient_auth = \"none\"\n\
               token_request = { form = { apikey = \"{apikey}\" } }";
    let sent = requested(ibm, "hush-key");
    assert_eq!(body(&sent), "grant_type=urn%3Aibm%3Aparams%3Aoauth%3Agrant-type%3Aapikey&apikey=hush-key");
    assert_eq!(header(&sent, "authorization"), "");

    let zoom =
        "grant = \"account_credentials\"\ntoken_request = { form = { account_id = \"{account_id}\" } }";
    let sent = requested(zoom, r#"{"account_id": "a1", "client_id": "id", "client_secret": "hush"}"#);
    assert_eq!(body(&sent), "grant_type=account_credentials&account_id=a1");
    assert_eq!(header(&sent, "authorization"), "Basic aWQ6aHVzaA==");

    let password = "grant = \"password\"\nclient_auth = \"body\"\n\
                    token_request = { form = { username = \"{username}\", password = \"{password}\" } }";
    let key = r#"{"username": "u", "password": "p&w", "client_id": "id", "client_secret": "hush"}"#;
    let expected = "grant_type=password&client_id=id&client_secret=hush&username=u&password=p%26w";
    assert_eq!(body(&requested(password, key)), expected);

    let login = "grant = \"none\"\n\
                 token_request = { json = { auth = { user = \"{user}\", password = \"{password}\" }, long = true } }";
    let sent = requested(login, r#"{"user": "u", "password": "p\"w"}"#);
    let expected = json!({ "auth": { "user": "u", "password": "p\"w" }, "long": true });
    assert_eq!(serde_json::from_slice::<Value>(&sent.body).unwrap(), expected);
    assert_eq!(header(&sent, "content-type"), "application/json");

    let indexer = "grant = \"none\"\ntoken_request = { method = \"GET\", query = { edit = \"false\" }, \
                   headers = { \"Ocp-Key\" = \"{key}\" } }\ntoken_answer = { token = \"$\" }";
    let sent = requested(indexer, "hush-key");
    assert_eq!((sent.method, sent.url.as_str()), ("GET", "https://login.example/token?edit=false"));
    assert_eq!(
        (header(&sent, "ocp-key"), header(&sent, "content-type"), body(&sent).as_str()),
        ("hush-key", "", "")
    );
}

#[test]
fn a_token_and_its_end_are_read_where_the_definition_says() {
    let read = |answer: &str, body: &str| {
        let login = "grant = \"none\"\ntoken_request = { json = { key = \"{key}\" } }\ntoken_answer = ";
        let definition = defined(&oauth2(&format!("{login}{answer}")));
        assert!(definition.has_own_token_answer());
        let headers = [("x-subject-token".to_owned(), "t3".to_owned())];
        definition.read_token(&headers, body.as_bytes(), now())
    };
    let seconds = |seconds| Some(std::time::Duration::from_secs(seconds));
    let found = |token: &str, life| Ok((token.to_owned(), None, life));
    assert_eq!(read("{ token = \"$.data.jwt\" }", r#"{"data": {"jwt": "t1"}}"#), found("t1", None));
    assert_eq!(read("{ token = \"$\" }", r#""t2""#), found("t2", None));
    assert_eq!(read("{ token = { header = \"X-Subject-Token\" } }", ""), found("t3", None));
    assert_eq!(
        read("{ token = \"$.t\", expires_in = \"$.ttl\" }", r#"{"t": "t4", "ttl": "90"}"#),
        found("t4", seconds(90))
    );
    let at = "{ token = \"$.t\", expires_at = { path = \"$.until\", format = \"rfc3339\" } }";
    assert_eq!(read(at, r#"{"t": "t5", "until": "2026-02-18T15:10:00Z"}"#), found("t5", seconds(600)));
    assert_eq!(
        read(at, r#"{"error": "hush"}"#),
        Err("the answer has no token where the definition says".to_owned())
    );
    assert_eq!(read(at, "<html>"), Err("the answer is not JSON".to_owned()));
}

#[test]
fn a_signature_of_a_url_is_not_sent_to_a_redirect() {
    let redirected =
        |auth: &str| text(auth).replacen("[request]", "[request]\nredirect = \"same-origin\"", 1);
    let found = mistakes(&redirected("type = \"aws\"\nservice = \"s\"\nregion = \"eu-west-1\""));
    let refused = |one: &String| {
        one.contains("request.redirect: is not possible with auth.type `aws`")
            && one.contains("remove the key")
    };
    assert!(found.len() == 1 && refused(&found[0]), "{found:#?}");
    assert!(Definition::parse(&redirected("type = \"bearer\"")).is_ok());
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
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ngrant = \"client_credential\"",
            "auth.grant: did you mean `client_credentials`?",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ngrant = \"a b\"",
            "auth.grant: must be at most 100 printable characters without spaces",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ngrant = \"none\"",
            "auth: the request for a token has no field of the credential",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ntoken_request = { form = { scope = \"a\" }, x = 1 }\nscope = \"b\"",
            "auth.token_request: `scope` is set by auth.scope already",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ntoken_request = { headers = { host = \"{h}\" } }",
            "auth.token_request.headers: a definition cannot set `host` here",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ntoken_request = { method = \"GET\", json = { a = \"{b}\" } }",
            "auth.token_request.method: a request with `form` or `json` has the method `POST`",
        ),
        (
            "type = \"oauth2\"\ntoken_url = \"https://a.example/\"\ntoken_answer = { expires_in = \"$.e\" }",
            "auth.token_answer: the key `token` is missing",
        ),
        ("type = \"bearer\"\nheaders = { host = \"x\" }", "auth.headers: a definition cannot set `host`"),
        (
            "type = \"bearer\"\nheaders = { Authorization = \"x\" }",
            "auth.headers: `authorization` is the header of the credential already",
        ),
        (
            "type = \"aws\"\nservice = \"s\"\nheaders = { x = \"{secret_access_key}\" }",
            "auth.headers: `{secret_access_key}` is the key, which is never sent",
        ),
        (
            "type = \"bearer\"\nheaders = { X-Version = \"3\" }",
            "request.headers: `x-version` is in auth.headers, too",
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
    let oauth2 = "type = \"oauth2\"";
    assert_eq!(
        kinds,
        [oauth2, oauth2, oauth2, oauth2, "type = \"google\"", "type = \"jwt\"", "type = \"aws\""]
    );
}

/// A token that the credential signs, for a user.
const ASSERTION: &str = "assertion = { algorithm = \"RS256\", lifetime = \"5m\", key_id = \"{kid}\", claims = { iss = \"{client_id}\", \
     sub = \"{user}\", aud = \"account.example\", scope = \"signature impersonation\", box_sub_type = \"user\", \
     jti = \"{jti}\", extra = { level = 2 } } }";

#[test]
fn an_assertion_with_claims_is_exchanged_for_a_token() {
    let definition = defined(&oauth2(ASSERTION));
    let key = json!({ "client_id": "c-1", "user": "u-2", "kid": "k3", "private_key": *PEM }).to_string();
    assert_eq!(definition.check_credential(&key), Ok(()));
    let sent = definition.token_request(&key, None, now()).expect("a request");
    let form: std::collections::BTreeMap<String, String> =
        url::form_urlencoded::parse(&sent.body).into_owned().collect();
    let names: Vec<&str> = form.keys().map(String::as_str).collect();
    assert_eq!(names, ["assertion", "grant_type"]);
    assert_eq!(form["grant_type"], "urn:ietf:params:oauth:grant-type:jwt-bearer");
    assert_eq!(header(&sent, "authorization"), "");
    let assertion = &form["assertion"];
    assert_eq!(sent.secrets, std::slice::from_ref(assertion));
    let mut found = claims(assertion);
    let jti = found["jti"].take();
    let expected = json!({
        "iss": "c-1", "sub": "u-2", "aud": "account.example", "scope": "signature impersonation",
        "box_sub_type": "user", "jti": null, "extra": { "level": 2 },
        "iat": now().seconds(), "exp": now().seconds() + 300,
    });
    assert_eq!(found, expected);
    let again = definition.token_request(&key, None, now()).expect("a request");
    let again =
        url::form_urlencoded::parse(&again.body).find(|(name, _)| name == "assertion").expect("one").1;
    assert!(
        jti.as_str().is_some_and(|jti| jti.len() == 32) && claims(&again)["jti"] != jti,
        "each token has its own"
    );
    assert!(!body(&sent).contains("PRIVATE"));
}

#[test]
fn an_assertion_can_name_the_client_or_go_beside_it() {
    let box_com = "client_auth = \"body\"\nassertion = { algorithm = \"HS256\", key = \"signing\", claims = { iss = \"{client_id}\" } }";
    let key = r#"{"client_id": "c", "client_secret": "s", "signing": "hush-hush"}"#;
    let sent = body(&defined(&oauth2(box_com)).token_request(key, None, now()).expect("a request"));
    assert!(sent.contains("client_id=c&client_secret=s&assertion=") && !sent.contains("hush"), "{sent}");
    let client = "assertion = { algorithm = \"HS256\", send_as = \"client_assertion\", claims = { iss = \"{id}\", sub = \"{id}\" } }\n\
                  scope = \"jobs\"";
    let sent = defined(&oauth2(client)).token_request(r#"{"id": "c", "secret_key": "hush"}"#, None, now());
    let sent = body(&sent.expect("a request"));
    let begin = "grant_type=client_credentials&scope=jobs&\
                 client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=";
    assert!(sent.starts_with(begin), "{sent}");
    // Without a grant, the client is sent only if the definition says how.
    let login = "grant = \"none\"\nclient_auth = \"header\"";
    let sent = defined(&oauth2(login)).token_request(CLIENT, None, now()).expect("a request");
    assert!(header(&sent, "authorization").starts_with("Basic ") && body(&sent).is_empty());
}

#[test]
fn mistakes_in_assertions_are_listed_with_what_to_write() {
    let signed = "assertion = { algorithm = \"HS256\", claims = { iss = \"a\" } }";
    for (keys, expected) in [
        ("assertion = \"jwt\"".to_owned(), "auth.assertion: must be a table"),
        ("assertion = { algorithm = \"HS256\" }".to_owned(), "auth.assertion: the key `claims` is missing"),
        (format!("{signed}\ngrant = \"refresh_token\""), "has no assertion"),
        (
            format!("{signed}\ntoken_request = {{ form = {{ assertion = \"x\" }} }}"),
            "set by auth.assertion already",
        ),
        (format!("{signed}\ntoken_request = {{ form = {{ k = \"{{secret_key}}\" }} }}"), "is never sent"),
        (format!("{signed}\nheaders = {{ x = \"{{secret_key}}\" }}"), "is the key, which is never sent"),
        (
            "assertion = { algorithm = \"HS256\", claims = {}, send_as = \"x\" }".to_owned(),
            "write one of `assertion`",
        ),
        (
            "assertion = { algorithm = \"HS256\", claims = {}, key_id = \"{jti}\" }".to_owned(),
            "possible in `claims` only",
        ),
    ] {
        let found = mistakes(&text(&oauth2(&keys)));
        assert!(found.iter().any(|mistake| mistake.contains(expected)), "{keys}: {found:#?}");
    }
}
