//! Invalid requests: the response lists every error with its place, code and reason, and the next request is
//! served.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::{AUTH, Harness, JSON, guarded, minutes, seconds};
use crate::wire::{self, Answer};

/// One field error of a problem.
#[derive(Debug, PartialEq)]
struct FieldError {
    pointer: String,
    code: String,
    detail: String,
}

/// The field errors of a problem.
fn errors(problem: &Value) -> Vec<FieldError> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let errors = problem["errors"].as_array().map_or(&[][..], Vec::as_slice);
    let field_error = |error: &Value| FieldError {
        pointer: text(&error["pointer"]),
        code: text(&error["code"]),
        detail: text(&error["detail"]),
    };
    errors.iter().map(field_error).collect()
}

/// A valid registration with these fields replaced; null removes a field.
fn with(fields: &Value) -> Value {
    let mut body = json!({ "jobId": "job_1", "callbackUrl": "https://app.example.com/hook" });
    for (name, value) in fields.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[tokio::test]
#[expect(clippy::too_many_lines, reason = "a table")]
async fn every_invalid_field_has_its_pointer_code_and_reason() {
    let t = Harness::start().await;
    let long = "j".repeat(129);
    let table = [
        (json!({ "jobId": null }), "/jobId", "required", "required"),
        (json!({ "jobId": "" }), "/jobId", "empty", "empty"),
        (json!({ "jobId": 7 }), "/jobId", "invalid_type", "string"),
        (json!({ "jobId": ["a"] }), "/jobId", "invalid_type", "string"),
        (json!({ "jobId": "../../etc/passwd" }), "/jobId", "invalid_format", "[A-Za-z0-9_-]"),
        (json!({ "jobId": "a/b" }), "/jobId", "invalid_format", ""),
        (json!({ "jobId": "a%2fb" }), "/jobId", "invalid_format", ""),
        (json!({ "jobId": "." }), "/jobId", "invalid_format", ""),
        (json!({ "jobId": "job\n1" }), "/jobId", "invalid_format", ""),
        (json!({ "jobId": "job\u{0}1" }), "/jobId", "invalid_format", "NUL"),
        (
            json!({ "jobId": "job_1\u{200b}" }),
            "/jobId",
            "invalid_format",
            "ends with the invisible character U+200B",
        ),
        (json!({ "jobId": " job_1" }), "/jobId", "invalid_format", "begins or ends with a space; remove it"),
        (json!({ "provider": "mu\u{0}vi" }), "/provider", "invalid_format", "NUL"),
        (
            json!({ "callbackUrl": "https://a.example/\u{feff}" }),
            "/callbackUrl",
            "invalid_address",
            "invisible",
        ),
        (json!({ "slack": "#ops\u{0}" }), "/slack", "invalid_address", ""),
        (
            json!({ "notify": [{ "url": "https://a.example/", "secret": "whsec_AAAA\r\n" }] }),
            "/notify/0/secret",
            "invalid_secret",
            "line break",
        ),
        (json!({ "jobId": "jöb" }), "/jobId", "invalid_format", ""),
        (json!({ "jobId": long }), "/jobId", "invalid_format", ""),
        (json!({ "callbackUrl": null }), "/callbackUrl", "required", "where to"),
        (json!({ "callbackUrl": 1 }), "/callbackUrl", "invalid_type", "string"),
        (json!({ "extra": 1 }), "/extra", "unknown_field", "no such field"),
        (json!({ "JobID": "x" }), "/JobID", "unknown_field", "no such field"),
        (json!({ "a/b~c": 1 }), "/a~1b~0c", "unknown_field", "no such field"),
        (json!({ "provider": "nobody" }), "/provider", "unknown_provider", "GET /v1/providers"),
        (json!({ "provider": 1 }), "/provider", "invalid_type", "string"),
        (
            json!({ "provider": "replicate" }),
            "/provider",
            "no_credential",
            "set RINGBACK_PROVIDERS__REPLICATE__API_KEY",
        ),
        (json!({ "params": [] }), "/params", "invalid_type", "object"),
        (json!({ "params": { "region": "eu" } }), "/params/region", "unknown_field", ""),
        (json!({ "events": "job.completed" }), "/events", "invalid_type", "list"),
        (json!({ "events": [] }), "/events", "empty", "at least one"),
        (
            json!({ "events": ["job.completed", "job.exploded"] }),
            "/events/1",
            "invalid_value",
            "job.completed, job.failed",
        ),
        (json!({ "events": [1] }), "/events/0", "invalid_type", "string"),
        (json!({ "metadata": [] }), "/metadata", "invalid_type", "object"),
        (json!({ "metadata": "x" }), "/metadata", "invalid_type", "object"),
        (json!({ "metadata": { "x": "x".repeat(4096) } }), "/metadata", "too_large", "4 KiB"),
        (json!({ "expiresIn": "31d" }), "/expiresIn", "out_of_range", "30d"),
        (json!({ "expiresIn": "0s" }), "/expiresIn", "out_of_range", "from 1s to 30d"),
        (json!({ "expiresIn": "99999999d" }), "/expiresIn", "out_of_range", "from 1s to 30d"),
        (json!({ "pollInterval": "0m" }), "/pollInterval", "out_of_range", "from 1s to 24h"),
        (json!({ "expiresIn": 60 }), "/expiresIn", "invalid_type", "must be a string such as \"60s\""),
        (json!({ "expectedAt": 1_771_426_800 }), "/expectedAt", "invalid_type", "\"2026-02-18T15:00:00Z\""),
        (json!({ "destinationId": "dst_1" }), "/destinationId", "invalid_format", "begins with dst_"),
        (
            json!({ "callbackUrl": "app.example.com/hook" }),
            "/callbackUrl",
            "invalid_address",
            "begin with https://",
        ),
        (
            json!({ "callbackUrl": "mailto:me@a.example" }),
            "/callbackUrl",
            "invalid_address",
            r#""type": "email""#,
        ),
        (
            json!({ "notify": ["#ops"] }),
            "/notify/0",
            "invalid_address",
            r##"{"type": "slack", "channel": "#ops"}"##,
        ),
        (json!({ "notify": ["me@a.example"] }), "/notify/0", "invalid_address", "mailto:"),
        (json!({ "expiresIn": "soon" }), "/expiresIn", "invalid_format", "duration"),
        (json!({ "expectedAt": "tomorrow" }), "/expectedAt", "invalid_format", "RFC 3339"),
        (json!({ "pollInterval": "999ms" }), "/pollInterval", "out_of_range", "1s"),
        (json!({ "pollInterval": "25h" }), "/pollInterval", "out_of_range", "24h"),
        (json!({ "payload": "xml" }), "/payload", "invalid_value", "event, raw, cloudevents"),
        (json!({ "payload": {} }), "/payload", "invalid_type", "string"),
        (json!({ "email": "nobody" }), "/email", "invalid_address", "not a mail address"),
        (json!({ "email": ["@example.com"] }), "/email/0", "invalid_address", "not a mail address"),
        (json!({ "email": [] }), "/email", "empty", "empty"),
        (json!({ "email": {} }), "/email", "invalid_type", "string"),
        (json!({ "slack": "" }), "/slack", "invalid_address", "empty"),
        (json!({ "slack": 1 }), "/slack", "invalid_type", "string"),
        (json!({ "notify": "https://a.example/" }), "/notify", "invalid_type", "list"),
        (json!({ "notify": [1] }), "/notify/0", "invalid_type", "string or an object"),
        (json!({ "notify": [{}] }), "/notify/0/url", "required", "required"),
        (json!({ "notify": [{ "to": "me@a.example" }] }), "/notify/0/type", "required", "with to, a field"),
        (
            json!({ "notify": [{ "email": "me@a.example" }] }),
            "/notify/0/type",
            "required",
            "set it to \"email\"",
        ),
        (json!({ "notify": [{ "channel": "#ops" }] }), "/notify/0/type", "required", "set it to \"slack\""),
        (json!({ "notify": [{ "url": 1 }] }), "/notify/0/url", "invalid_type", "string"),
        (
            json!({ "notify": [{ "type": "pigeon", "url": "https://a.example/" }] }),
            "/notify/0/type",
            "invalid_value",
            "webhook, email, slack",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "x": 1 }] }),
            "/notify/0/x",
            "unknown_field",
            "no such field",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "secret": "s3cret" }] }),
            "/notify/0/secret",
            "invalid_secret",
            "whsec_",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "secret": "whsec_AAAA" }] }),
            "/notify/0/secret",
            "invalid_secret",
            "24 to 64",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "headers": [] }] }),
            "/notify/0/headers",
            "invalid_type",
            "object",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "headers": { "Host": "x" } }] }),
            "/notify/0/headers/Host",
            "invalid_header",
            "not yours",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "headers": { "webhook-id": "x" } }] }),
            "/notify/0/headers/webhook-id",
            "invalid_header",
            "not yours",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "headers": { "a": "x\r\ny: z" } }] }),
            "/notify/0/headers/a",
            "invalid_header",
            "control",
        ),
        (
            json!({ "notify": [{ "url": "https://a.example/", "headers": { "a b": "x" } }] }),
            "/notify/0/headers/a b",
            "invalid_header",
            "name of a header",
        ),
        (
            json!({ "notify": [{ "url": "https://app.example.com/hook", "headers": { "a": "b" } }] }),
            "/notify/0/url",
            "duplicate",
            "twice",
        ),
        (json!({ "notify": ["mailto:nobody"] }), "/notify/0", "invalid_address", "not a mail address"),
    ];
    for (fields, pointer, code, reason) in table {
        let mut body = with(&fields);
        if let Some(object) = body.as_object_mut() {
            object.retain(|_, value| !value.is_null());
        }
        let answer = t.post("/v1/watches", &body).await;
        assert_eq!(answer.status, 422, "{body}: {}", answer.text());
        let found = errors(&answer.json());
        assert_eq!(found.len(), 1, "{body}: {found:?}");
        assert_eq!((&*found[0].pointer, &*found[0].code), (pointer, code), "{body}: {found:?}");
        assert!(found[0].detail.contains(reason), "{body}: {found:?}");
        assert!(!answer.text().contains("s3cret"), "{}", answer.text());
    }
    t.finish().await;
}

#[tokio::test]
async fn null_is_absent_in_every_field_of_every_request() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let document = t.get_without_key("/openapi.json").await.json();
    let names = |schema: &str| {
        let fields = document["components"]["schemas"][schema]["properties"].as_object().unwrap();
        fields.keys().map(|name| (name.clone(), Value::Null)).collect::<serde_json::Map<_, _>>()
    };
    let filled = |schema: &str, given: Value| {
        let mut object = Value::Object(names(schema));
        for (name, value) in given.as_object().unwrap() {
            object[name] = value.clone();
        }
        object
    };
    let url = t.receiver.url("/hook");
    let registration = filled("Registration", json!({ "jobId": "job_1", "callbackUrl": url }));
    t.post("/v1/watches", &registration).await.expect(201);
    let targets = [json!({ "url": url }), json!({ "type": "webhook", "url": url })];
    for target in targets.map(|given| filled("TargetObject", given)) {
        t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": [target] })).await.expect(201);
    }
    t.post("/v1/keys", &filled("NewKey", json!({ "scope": "read" }))).await.expect(201);
    // A required field is missing, and has no other error.
    let entry = |given: Value| json!({ "jobId": "job_1", "notify": [filled("TargetObject", given)] });
    for (path, body, pointer) in [
        ("/v1/watches", filled("Registration", json!({ "callbackUrl": url })), "/jobId"),
        ("/v1/watches", filled("Registration", json!({ "jobId": "job_1" })), "/callbackUrl"),
        ("/v1/watches", entry(json!({ "type": null })), "/notify/0/url"),
        ("/v1/watches", entry(json!({ "type": "email" })), "/notify/0/email"),
        ("/v1/watches", entry(json!({ "type": "slack" })), "/notify/0/url"),
        ("/v1/watches/batch", json!({ "watches": null }), "/watches"),
        ("/v1/apps", json!({ "name": null }), "/name"),
        ("/v1/keys", filled("NewKey", json!({ "name": null })), "/scope"),
        ("/v1/deliveries/retry", json!({ "status": null, "since": null }), ""),
    ] {
        let found = errors(&t.post(path, &body).await.expect(422));
        let found: Vec<_> = found.iter().map(|error| (&*error.pointer, &*error.code)).collect();
        assert_eq!(found, [(pointer, "required")], "{path}: {body}");
    }
    t.give_up().await;
}

#[tokio::test]
async fn a_default_provider_without_a_key_names_those_that_have_one() {
    let keys = ["REPLICATE", "OPENAI_BATCH"].map(|name| format!("RINGBACK_PROVIDERS__{name}__API_KEY"));
    let t = Harness::with(&[("MUVI_API_KEY", ""), (&keys[0], "x"), (&keys[1], "x")]).await;
    let hook = json!({ "jobId": "job_1", "callbackUrl": "https://app.example.com/hook" });
    let found = errors(&t.post("/v1/watches", &hook).await.expect(422));
    assert_eq!((found.len(), &*found[0].pointer, &*found[0].code), (1, "/provider", "no_credential"));
    let says = "its default provider `muvi`; give `provider`, one of: openai-batch, replicate";
    assert!(found[0].detail.ends_with(says), "{found:?}");
    let named = errors(&t.post("/v1/watches", &with(&json!({ "provider": "muvi" }))).await.expect(422));
    assert!(named[0].detail.contains("the operator can set MUVI_API_KEY"), "{named:?}");
    t.finish().await;
}

#[tokio::test]
async fn all_field_errors_are_reported_at_once() {
    let t = Harness::start().await;
    let body = json!({ "jobId": "", "callbackUrl": "ftp://x", "events": ["no"], "expiresIn": "1y", "extra": 1,
                       "metadata": 1, "notify": [{ "url": "https://10.0.0.1/" }, { "secret": "x" }] });
    let problem = t.post("/v1/watches", &body).await.expect(422);
    let mut pointers: Vec<String> = errors(&problem).into_iter().map(|error| error.pointer).collect();
    pointers.sort();
    let expected = [
        "/callbackUrl",
        "/events/0",
        "/expiresIn",
        "/extra",
        "/jobId",
        "/metadata",
        "/notify/0/url",
        "/notify/1/secret",
        "/notify/1/url",
    ];
    assert_eq!(pointers, expected);
    assert_eq!(problem["title"], "Invalid request");
    assert_eq!(problem["code"], "invalid_request");
    assert_eq!(problem["type"], "urn:ringback:problem:invalid_request");
    t.finish().await;
}

#[tokio::test]
async fn a_forbidden_address_is_refused_in_every_spelling() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW", "[]")]).await;
    t.resolve("rebound.example.com", &["93.184.216.34", "169.254.169.254"]);
    t.resolve("public.example.com", &["93.184.216.34"]);
    let long = format!("https://a.example/{}", "x".repeat(2_048));
    let urls = [
        "not a url",
        "",
        "https://",
        "/hook",
        "app.example.com/hook",
        "ftp://a.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "http://public.example.com/",
        "https://user:pw@a.example/",
        "https://user@a.example/",
        "https://a.example/#x",
        "https://a.example:0/",
        "https://a..example/",
        "https://.example.com/",
        "https://127.0.0.1/",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0177.0.0.1/",
        "https://①②⑦.0.0.1/",
        "https://0.0.0.0/",
        "https://10.1.2.3/",
        "https://172.16.0.1/",
        "https://192.168.0.1/",
        "https://169.254.169.254/latest/meta-data",
        "https://100.64.0.1/",
        "https://[::1]/",
        "https://[::]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[fe80::1]/",
        "https://[fd00::1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://224.0.0.1/",
        "https://255.255.255.255/",
        "https://localhost/",
        "https://LOCALHOST./",
        "https://a.localhost/",
        "https://router.local/",
        "https://metadata.google.internal/",
        "https://api.svc/",
        "https://x.svc.cluster.local/",
        "https://1.168.192.in-addr.arpa/",
        "https://x.onion/",
        "https://intranet/",
        "https://rebound.example.com/",
        "https://a b.example/",
        "https://a\t.example/",
        &long,
    ];
    for url in urls {
        for fields in
            [json!({ "callbackUrl": url }), json!({ "callbackUrl": null, "notify": [{ "url": url }] })]
        {
            let mut body = with(&fields);
            body.as_object_mut().unwrap().retain(|_, value| !value.is_null());
            let answer = t.post("/v1/watches", &body).await;
            assert_eq!(answer.status, 422, "{url}: {}", answer.text());
            let found = errors(&answer.json());
            assert_eq!(found.len(), 1, "{url}: {found:?}");
            let FieldError { pointer, code, detail } = &found[0];
            assert!(pointer.to_lowercase().ends_with("url") && !detail.is_empty(), "{url}: {found:?}");
            assert!(matches!(&**code, "invalid_address" | "forbidden_address"), "{url}: {found:?}");
        }
    }
    let rebound =
        t.post("/v1/watches", &with(&json!({ "callbackUrl": "https://rebound.example.com/" }))).await;
    assert!(!rebound.text().contains("169.254"), "without saying which: {}", rebound.text());
    t.provider.completed("job_1");
    for url in ["https://public.example.com/hook?x=1", "https://nowhere-yet.example.com/"] {
        t.post("/v1/watches", &with(&json!({ "callbackUrl": url }))).await.expect(201);
    }
    t.give_up().await;
}

// Convoy, frain-dev/convoy#2706: the Slack hook of an endpoint and an address without a type passed by the guard.
#[tokio::test]
async fn every_field_that_takes_an_address_is_guarded() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW", "[]")]).await;
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let url = "https://169.254.169.254/latest";
    for (entry, field) in [
        (json!(url), ""),
        (json!({ "url": url }), "/url"),
        (json!({ "type": null, "url": url }), "/url"),
        (json!({ "type": "webhook", "url": url }), "/url"),
        (json!({ "type": "slack", "url": url }), "/url"),
        (json!({ "type": "slack", "slack": url }), "/slack"),
    ] {
        let notify = json!({ "notify": [entry] });
        let mut new = notify.clone();
        new["jobId"] = "job_1".into();
        let batch = t.post("/v1/watches/batch", &json!({ "watches": [new] })).await.expect(200);
        let change = notify.to_string();
        let changed =
            t.send("PATCH", &format!("/v1/watches/{watch}"), &[AUTH, JSON], change.as_bytes()).await;
        for problem in [
            t.post("/v1/watches", &new).await.expect(422),
            batch["data"][0]["problem"].clone(),
            changed.expect(422),
        ] {
            let found = errors(&problem);
            let place = (&*found[0].pointer, &*found[0].code, found.len());
            assert_eq!(place, (&*format!("/notify/0{field}"), "forbidden_address", 1), "{entry}: {found:?}");
        }
    }
    let found = errors(&t.post("/v1/watches", &with(&json!({ "callbackUrl": url }))).await.expect(422));
    assert_eq!((&*found[0].pointer, &*found[0].code), ("/callbackUrl", "forbidden_address"));
    // An empty type is no type, and such a hook is none of Slack's.
    for fields in [json!({ "notify": [{ "type": "", "url": url }] }), json!({ "slack": url })] {
        t.post("/v1/watches", &with(&fields)).await.expect(422);
    }
    t.give_up().await;
}

#[tokio::test]
async fn a_watch_has_at_most_twenty_destinations() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let urls = |n: usize| -> Vec<String> { (0..n).map(|n| t.receiver.url(&format!("/{n}"))).collect() };
    let problem = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": urls(21) })).await.expect(422);
    assert_eq!((&*errors(&problem)[0].pointer, &*errors(&problem)[0].code), ("/notify", "too_many"));
    // Equal entries count once.
    let notify = [urls(20), urls(20), urls(3)].concat();
    t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": notify })).await.expect(201);
    let many = vec![t.receiver.url("/0"); 101];
    t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": many })).await.expect(422);
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.take(20).await.len(), 20);
    t.finish().await;
}

#[tokio::test]
async fn a_malformed_body_is_400_and_an_invalid_one_422() {
    let t = Harness::start().await;
    let large = json!({ "jobId": "x".repeat(256 * 1024) }).to_string();
    let bomb = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let deep = format!(
        r#"{{"jobId":"job_1","notify":[],"metadata":{{"a":{}{}}}}}"#,
        "[".repeat(90_000),
        "]".repeat(90_000)
    );
    let table: [(&[u8], u16, &str, &str); 17] = [
        (b"", 400, "malformed_body", "not JSON"),
        (b"   ", 400, "malformed_body", "not JSON"),
        (b"{", 400, "malformed_body", "not JSON"),
        (b"{\"jobId\": \"job_1\",}", 400, "malformed_body", "not JSON"),
        (b"{} {}", 400, "malformed_body", "not JSON"),
        (b"jobId=job_1", 400, "malformed_body", "not JSON"),
        (b"{\"jobId\": NaN}", 400, "malformed_body", "not JSON"),
        (b"\xff\xfe{\x00}\x00", 400, "malformed_body", "the body is UTF-16; save or send it as UTF-8"),
        (b"{\x00}\x00", 400, "malformed_body", "the body is UTF-16"),
        (b"{\"jobId\": \"\xc3\x28\"}", 400, "malformed_body", "not UTF-8"),
        (b"\xef\xbb\xbf{}", 422, "invalid_request", "fields are invalid"),
        (b"[]", 422, "invalid_request", "object"),
        (b"null", 422, "invalid_request", ""),
        (b"\"job_1\"", 422, "invalid_request", "object"),
        (bomb.as_bytes(), 422, "invalid_request", "object"),
        (deep.as_bytes(), 422, "invalid_request", "/metadata: is nested deeper"),
        (large.as_bytes(), 413, "too_large", "256 KiB"),
    ];
    for (body, status, code, reason) in table {
        let answer = t.send("POST", "/v1/watches", &[AUTH, JSON], body).await;
        let start = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
        assert_eq!(answer.status, status, "{start}: {}", answer.text());
        let problem = answer.json();
        assert_eq!(problem["code"], code, "{start}");
        let detail = problem["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(reason), "{start}: {detail}");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_duplicate_field_is_refused() {
    let t = Harness::start().await;
    let body = br#"{"jobId":"job_1","jobId":"job_2","notify":[]}"#;
    let problem = t.send("POST", "/v1/watches", &[AUTH, JSON], body).await.expect(422);
    let expected =
        |pointer: &str| json!([{ "pointer": pointer, "code": "duplicate", "detail": "is given twice" }]);
    assert_eq!(problem["errors"], expected("/jobId"));
    for (metadata, pointer) in
        [(r#"{"a":1,"a":2}"#, "/metadata/a"), (r#"{"a":[{"b":{"c":1,"c":1}}]}"#, "/metadata/a/0/b/c")]
    {
        let body = format!(r#"{{"jobId":"job_1","notify":[],"metadata":{metadata}}}"#);
        let problem = t.send("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes()).await.expect(422);
        assert_eq!(problem["errors"], expected(pointer));
    }
    let watch = t.register(&with(&json!({}))).await;
    let body = br#"{"metadata":{"a":1,"a":2}}"#;
    let problem = t.send("PATCH", &format!("/v1/watches/{watch}"), &[AUTH, JSON], body).await.expect(422);
    assert_eq!(problem["errors"], expected("/metadata/a"));
    let body = br#"{"jobId":"job_1","notify":[],"params":{"a":"1","a":"2"}}"#;
    let problem = t.send("POST", "/v1/watches", &[AUTH, JSON], body).await.expect(422);
    assert_eq!(problem["errors"][0], expected("/params/a")[0]);
    t.finish().await;
}

#[tokio::test]
async fn a_body_with_another_media_type_or_encoding_is_415() {
    let t = Harness::start().await;
    let body = br#"{"jobId":"job_1","notify":[]}"#;
    for headers in [
        vec![AUTH],
        vec![AUTH, ("content-type", "text/plain")],
        vec![AUTH, ("content-type", "application/x-www-form-urlencoded")],
        vec![AUTH, ("content-type", "application/jsonx")],
        vec![AUTH, JSON, ("content-encoding", "gzip")],
    ] {
        let answer = t.send("POST", "/v1/watches", &headers, body).await;
        assert_eq!(answer.status, 415, "{headers:?}: {}", answer.text());
        assert_eq!(answer.json()["code"], "unsupported_media_type");
    }
    t.provider.completed("job_1");
    let charset = ("content-type", "Application/JSON; charset=utf-8");
    t.send("POST", "/v1/watches", &[AUTH, charset], body).await.expect(201);
    // Not compressed, in any case of the name.
    t.send("POST", "/v1/watches", &[AUTH, JSON, ("content-encoding", "Identity")], body).await.expect(201);
    t.finish().await;
}

// A gateway may have read another body, or checked the other key.
#[tokio::test]
async fn a_request_that_two_servers_read_differently_is_refused() {
    let t = Harness::start().await;
    let (name, value) = AUTH;
    let body = br#"{"jobId":"job_1","notify":[]}"#;
    let head = format!(
        "POST /v1/watches HTTP/1.1\r\nhost: a\r\n{name}: {value}\r\ncontent-type: application/json\r\n"
    );
    let chunks = format!("{:x}\r\n{}\r\n0\r\n\r\n", body.len(), std::str::from_utf8(body).unwrap());
    for (coding, status) in [("gzip, chunked", 415), ("Chunked", 201)] {
        t.provider.processing("job_1", 0);
        let request = format!("{head}transfer-encoding: {coding}\r\n\r\n{chunks}");
        let answer = raw(&t, request.as_bytes()).await;
        assert!(answer.starts_with(format!("HTTP/1.1 {status} ").as_bytes()), "{coding}");
    }
    let twice = [AUTH, (name, "Bearer another-key-0123456789"), JSON];
    assert_eq!(t.send("POST", "/v1/watches", &twice, body).await.status, 401);
    t.finish().await;
}

#[tokio::test]
async fn an_action_without_fields_refuses_fields() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let path = format!("/v1/watches/{watch}/poll");
    for (body, status) in [("{}", 202), ("", 202), ("{\"x\":1}", 422), ("[]", 422), ("{", 400)] {
        assert_eq!(t.send("POST", &path, &[AUTH, JSON], body.as_bytes()).await.status, status, "{body}");
    }
    let bomb = "[".repeat(200_000);
    assert_eq!(t.send("POST", &path, &[AUTH, JSON], bomb.as_bytes()).await.status, 400);
    t.finish().await;
}

/// Sends bytes, closes the sending side, and reads until the server closes the connection.
async fn raw(t: &Harness, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(t.address()).await.unwrap();
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut back = Vec::new();
    let _ = guarded("the server to close", stream.read_to_end(&mut back)).await;
    back
}

#[tokio::test]
async fn after_any_bytes_the_next_request_is_served() {
    let t = Harness::start().await;
    let auth = "authorization: Bearer rb_integration_key_0123\r\ncontent-type: application/json\r\n";
    let post = format!("POST /v1/watches HTTP/1.1\r\nhost: x\r\n{auth}");
    let huge = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "a: b\r\n".repeat(500));
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(100_000));
    let table: [(&str, Vec<u8>, &[u16]); 16] = [
        ("nothing", Vec::new(), &[]),
        ("zeros", vec![0; 10_000], &[400]),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[400]),
        ("another protocol", b"EHLO mail.example\r\n\r\n".to_vec(), &[400]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), &[]),
        ("half a line", b"GET /healthz HT".to_vec(), &[]),
        ("half the headers", b"GET /healthz HTTP/1.1\r\nhost: x\r\n".to_vec(), &[]),
        ("a huge header", huge.into_bytes(), &[431]),
        ("many headers", many.into_bytes(), &[431]),
        ("a long path", long.into_bytes(), &[414, 431, 400]),
        ("half a body", format!("{post}content-length: 100\r\n\r\n{{\"jobId\"").into_bytes(), &[400]),
        ("a bad length", format!("{post}content-length: -1\r\n\r\n{{}}").into_bytes(), &[400]),
        (
            "two lengths",
            format!("{post}content-length: 2\r\ncontent-length: 3\r\n\r\n{{}}x").into_bytes(),
            &[400],
        ),
        (
            "bad chunks",
            format!("{post}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n").into_bytes(),
            &[400],
        ),
        (
            "an endless chunk",
            format!("{post}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{{}}").into_bytes(),
            &[400],
        ),
        (
            "length and chunks",
            format!("{post}content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n").into_bytes(),
            &[400],
        ),
    ];
    for (what, bytes, statuses) in table {
        let back = raw(&t, &bytes).await;
        let status =
            String::from_utf8_lossy(&back).split(' ').nth(1).and_then(|word| word.parse::<u16>().ok());
        assert_eq!(status.is_some(), !statuses.is_empty(), "{what}: {}", String::from_utf8_lossy(&back));
        assert!(status.is_none_or(|status| statuses.contains(&status)), "{what}: {status:?}");
        t.get_without_key("/healthz").await.expect(200);
    }
    t.get("/v1/watches").await.expect(200);
    t.finish().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let t = Harness::start().await;
    let paths = ["/healthz", "/nowhere", "/v1/watches", "/readyz"];
    let requests: Vec<String> =
        paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).collect();
    let mut stream = TcpStream::connect(t.address()).await.unwrap();
    stream.write_all(requests.concat().as_bytes()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut statuses = Vec::new();
    for _ in paths {
        statuses.push(guarded("an answer", Answer::read(&mut stream)).await.unwrap().status);
    }
    assert_eq!(statuses, [200, 404, 401, 200]);
    t.finish().await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_413_with_and_without_length() {
    let t = Harness::start().await;
    let body = vec![b' '; 2 * 1024 * 1024];
    let whole = wire::request("POST", "/v1/watches", &[AUTH, JSON], &body);
    let chunked = {
        let head = format!(
            "POST /v1/watches HTTP/1.1\r\nhost: x\r\n{}: {}\r\n{}: {}\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n",
            AUTH.0,
            AUTH.1,
            JSON.0,
            JSON.1,
            body.len()
        );
        [head.as_bytes(), &body, b"\r\n0\r\n\r\n"].concat()
    };
    for bytes in [whole, chunked] {
        let stream = TcpStream::connect(t.address()).await.unwrap();
        let (read, mut write) = stream.into_split();
        // The client sends and reads at the same time; the server stops reading at its limit.
        let sending = async move {
            let _ = write.write_all(&bytes).await;
            write
        };
        let mut read = BufReader::new(read);
        let (answer, _) =
            guarded("an answer", async { tokio::join!(Answer::read(&mut read), sending) }).await;
        // A reset can arrive before the response if the client sends more than 1 MiB.
        if let Some(answer) = answer {
            assert_eq!(answer.status, 413, "{}", answer.text());
        }
        t.get_without_key("/healthz").await.expect(200);
    }
    // Up to 1 MiB is read and discarded, so that the client can read the response.
    let refused = t.send("POST", "/v1/watches", &[AUTH, JSON], &vec![b' '; 900 * 1024]).await;
    assert_eq!(refused.status, 413);
    let unauthorized = t.send("POST", "/v1/watches", &[JSON], &vec![b' '; 900 * 1024]).await;
    assert_eq!(unauthorized.status, 401);
    let nowhere = t.send("POST", "/nowhere", &[JSON], &vec![b' '; 900 * 1024]).await;
    assert_eq!(nowhere.status, 404);
    t.finish().await;
}

#[tokio::test]
async fn an_incomplete_body_is_408_after_the_deadline() {
    let t = Harness::start().await;
    let mut stream = TcpStream::connect(t.address()).await.unwrap();
    let head = format!(
        "POST /v1/watches HTTP/1.1\r\nhost: x\r\n{}: {}\r\n{}: {}\r\ncontent-length: 50\r\n\r\n{{\"jobId\"",
        AUTH.0, AUTH.1, JSON.0, JSON.1
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut stream = BufReader::new(stream);
    let mut answer = std::pin::pin!(Answer::read(&mut stream));
    // The start of the deadline is not visible from outside.
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut answer => break answer,
            _ = t.get_without_key("/healthz") => t.clock.advance(seconds(31)),
        }
    };
    let status = answer.map(|answer| answer.status);
    assert!(matches!(status, None | Some(408)), "{status:?}");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    every_invalid_field_has_its_pointer_code_and_reason,
    null_is_absent_in_every_field_of_every_request,
    a_default_provider_without_a_key_names_those_that_have_one,
    all_field_errors_are_reported_at_once,
    a_forbidden_address_is_refused_in_every_spelling,
    every_field_that_takes_an_address_is_guarded,
    a_watch_has_at_most_twenty_destinations,
    a_malformed_body_is_400_and_an_invalid_one_422,
    a_duplicate_field_is_refused,
    a_body_with_another_media_type_or_encoding_is_415,
    a_request_that_two_servers_read_differently_is_refused,
    an_action_without_fields_refuses_fields,
    after_any_bytes_the_next_request_is_served,
    pipelined_requests_are_answered_in_order,
    a_body_above_the_limit_is_413_with_and_without_length,
    an_incomplete_body_is_408_after_the_deadline,
}

#[tokio::test]
async fn a_hook_of_slack_is_refused_as_a_webhook() {
    let t = Harness::start().await;
    let hook = "https://hooks.slack.com/services/T1/B2/hush";
    let as_slack = r#"{"type": "slack", "url": "…"}"#;
    for (body, pointer, says) in [
        (json!({ "callbackUrl": hook }), "/callbackUrl", as_slack),
        (json!({ "notify": [{ "url": hook }] }), "/notify/0/url", as_slack),
        (json!({ "notify": [{ "type": "webhook", "url": hook }] }), "/notify/0/url", as_slack),
        (json!({ "slack": "https://hooks.slack.com/foo" }), "/slack", "hooks.slack.com/services/"),
        (json!({ "notify": ["https://hooks.slack.com/foo"] }), "/notify/0", "hooks.slack.com/services/"),
    ] {
        let mut body = body;
        body["jobId"] = "job_1".into();
        let answer = t.post("/v1/watches", &body).await;
        assert_eq!(answer.status, 422, "{body}");
        assert!(!answer.text().contains("hush"), "{}", answer.text());
        let found = errors(&answer.json());
        assert_eq!((&*found[0].pointer, &*found[0].code), (pointer, "invalid_address"), "{found:?}");
        assert!(found[0].detail.contains(says), "{found:?}");
    }
    t.finish().await;
}

#[tokio::test]
async fn an_error_in_a_request_names_the_next_step() {
    let t = Harness::start().await;
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let path = format!("/v1/watches/{watch}");
    for (path, code, says) in [
        (format!("{path}?wait=30"), "invalid_format", "write it as 250ms, 5s"),
        (format!("{path}?wait=5m"), "out_of_range", "must be from 1ms to 60s"),
        ("/v1/watches?job=job_1".to_owned(), "unknown_field", "did you mean `jobId`?"),
    ] {
        let found = errors(&t.get(&path).await.expect(422));
        assert_eq!(found[0].code, code, "{path}: {found:?}");
        assert!(found[0].detail.contains(says), "{path}: {found:?}");
    }
    let change = json!({ "callbackUrl": "https://a.example/" }).to_string();
    let answer = t.send("PATCH", &path, &[AUTH, JSON], change.as_bytes()).await.expect(422);
    let found = errors(&answer);
    assert_eq!((&*found[0].pointer, &*found[0].code), ("/callbackUrl", "unknown_field"), "{found:?}");
    assert!(found[0].detail.contains("`notify`"), "{found:?}");
    let detail = async |path: &str| t.get(path).await.expect(404)["detail"].as_str().unwrap().to_owned();
    assert!(detail("/v1/watch").await.starts_with("no such path"));
    assert!(detail("/v1/watches/watch_unknown").await.starts_with("no such object"));
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    t.finish().await;
}
