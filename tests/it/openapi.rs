//! The `OpenAPI` document matches the program. Tests compare it with the routes and with the fields that the program
//! reads; [`check`] compares it with every answer of every test.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;
use ringback::domain::Timestamp;
use serde_json::{Value, json};

use crate::harness::{AUTH, Harness, KEY};
use crate::wire::Answer;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(ringback::api::document()).expect("JSON"));

/// Every operation: method, path and description.
fn operations() -> Vec<(&'static str, &'static str, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let of_path = |(path, methods): (&'static String, &'static Value)| {
        let methods = methods.as_object().unwrap();
        methods.iter().map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    };
    paths.iter().flat_map(of_path).collect()
}

/// Returns the operation of a request, if there is one.
fn operation(method: &str, path: &str) -> Option<&'static Value> {
    let path = path.split('?').next().unwrap_or("");
    let methods = &DOCUMENT["paths"][path];
    let fits = |template: &str| {
        let (template, path): (Vec<&str>, Vec<&str>) =
            (template.split('/').collect(), path.split('/').collect());
        template.len() == path.len()
            && template.iter().zip(&path).all(|(one, other)| one == other || *one == "{id}")
    };
    let methods = if methods.is_null() {
        DOCUMENT["paths"].as_object().unwrap().iter().find(|(template, _)| fits(template))?.1
    } else {
        methods
    };
    methods.get(method.to_lowercase())
}

/// Fails the test if an answer does not conform to the document.
#[track_caller]
pub fn check(method: &str, path: &str, answer: &Answer) {
    let Some(operation) = operation(method, path) else {
        assert!(matches!(answer.status, 404 | 405), "{method} {path} is not documented: {answer:?}");
        return;
    };
    let described = &operation["responses"][answer.status.to_string()];
    assert!(described.is_object(), "{method} {path}: {} is not documented: {}", answer.status, answer.text());
    for (name, header) in described["headers"].as_object().unwrap() {
        let given = answer.header(&name.to_lowercase()).is_some();
        assert!(given || header["required"] != true, "{method} {path}: no {name}");
    }
    let Some(content) = described["content"].as_object() else {
        assert_eq!(answer.body, b"", "{method} {path}");
        return;
    };
    let (media_type, content) = content.iter().next().unwrap();
    let given = answer.header("content-type").unwrap_or("").split(';').next().unwrap();
    assert_eq!(given, media_type, "{method} {path}");
    if given.ends_with("json") {
        let mut wrong = Vec::new();
        validate(&answer.json(), &content["schema"], &[], "", &mut wrong);
        assert!(wrong.is_empty(), "{method} {path}: {wrong:?} in {}", answer.text());
    }
}

/// Checks a value with the part of JSON Schema that the document uses. Fields outside of the schema and `also` are
/// errors.
fn validate(value: &Value, schema: &Value, also: &[String], at: &str, wrong: &mut Vec<String>) {
    let schema = resolve(schema);
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &&Value| {
            let mut wrong = Vec::new();
            validate(value, choice, also, at, &mut wrong);
            wrong.is_empty()
        };
        let count = choices.iter().filter(fits).count();
        if count != 1 {
            wrong.push(format!("{at}: fits {count} of the choices"));
        }
        return;
    }
    if let Some(parts) = schema["allOf"].as_array() {
        let all: Vec<String> = parts.iter().flat_map(properties).collect();
        for part in parts {
            validate(value, part, &all, at, wrong);
        }
        return;
    }
    let types: Vec<&str> = match &schema["type"] {
        Value::String(one) => vec![one],
        Value::Array(several) => several.iter().map(|one| one.as_str().unwrap()).collect(),
        _ => vec![],
    };
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not supported"),
    };
    if !types.is_empty() && !types.iter().any(|name| is(name)) {
        wrong.push(format!("{at}: {value} is none of {types:?}"));
        return;
    }
    if let Some(words) = schema["enum"].as_array().filter(|words| !words.contains(value)) {
        wrong.push(format!("{at}: {value} is none of {words:?}"));
    }
    if let Value::String(text) = value {
        if let Some(pattern) = schema["pattern"].as_str().filter(|p| !Regex::new(p).unwrap().is_match(text)) {
            wrong.push(format!("{at}: {text} does not match {pattern}"));
        }
        if schema["format"] == "date-time" && Timestamp::parse(text).is_none_or(|at| at.to_string() != *text)
        {
            wrong.push(format!("{at}: {text} is not a time"));
        }
    }
    if let Value::Array(list) = value {
        for (n, one) in list.iter().enumerate() {
            validate(one, &schema["items"], &[], &format!("{at}/{n}"), wrong);
        }
    }
    let Value::Object(fields) = value else { return };
    for name in schema["required"].as_array().into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap()) {
            wrong.push(format!("{at}: no {name}"));
        }
    }
    // An object without properties in its schema is the client's own data.
    let Some(properties) = schema["properties"].as_object() else { return };
    for (name, value) in fields {
        match properties.get(name) {
            Some(schema) => validate(value, schema, &[], &format!("{at}/{name}"), wrong),
            None if also.contains(name) => {}
            None if schema["additionalProperties"].is_object() => {}
            None => wrong.push(format!("{at}: {name} is not documented")),
        }
    }
}

fn resolve(schema: &Value) -> &Value {
    match schema["$ref"].as_str() {
        Some(name) => &DOCUMENT["components"]["schemas"][name.trim_start_matches("#/components/schemas/")],
        None => schema,
    }
}

/// Returns the names of the properties of a part of a schema, with those of its alternatives.
fn properties(schema: &Value) -> Vec<String> {
    let schema = resolve(schema);
    let own = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone());
    let choices = schema["oneOf"].as_array().into_iter().flatten().flat_map(properties);
    own.chain(choices).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Returns the text of all files of `src/api`.
fn sources() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "rs"));
    files.map(|file| fs::read_to_string(file).unwrap()).chain([read("src/api.rs")]).collect()
}

fn found(pattern: &str, text: &str) -> BTreeSet<String> {
    Regex::new(pattern).unwrap().captures_iter(text).map(|found| found[1].to_owned()).collect()
}

#[test]
fn the_committed_document_is_the_one_that_the_program_prints() {
    assert!(
        read("openapi.json") == ringback::api::document(),
        "openapi.json is not current: cargo run -- openapi > openapi.json"
    );
}

#[test]
fn what_is_read_of_a_body_is_what_is_documented_of_it() {
    let schema = |name: &str| -> BTreeSet<String> {
        let properties = DOCUMENT["components"]["schemas"][name]["properties"].as_object().unwrap();
        properties.keys().cloned().collect()
    };
    let fields = |file: &str| {
        found(
            r#"fields\s*\.(?:take|take_nullable|text|required_text|word|parsed|duration|time|list|boolean|integer)\(\s*"(\w+)""#,
            &read(file),
        )
    };
    let registration: BTreeSet<String> =
        schema("Registration").union(&schema("TargetObject")).cloned().collect();
    let addresses = ringback::channels::TABLE.iter().flat_map(|spec| {
        let shorthand = spec.shorthand.map(|shorthand| shorthand.field);
        spec.address_fields.iter().copied().chain(shorthand).map(str::to_owned)
    });
    // A saved destination has the address fields of an inline one, and no shorthand.
    let inline: BTreeSet<String> = fields("src/api/destinations.rs")
        .into_iter()
        .chain(fields("src/api/signing_fields.rs"))
        .chain(fields("src/api/access_fields.rs"))
        .chain(addresses.clone())
        .collect();
    let nullable = ["src/api/saved_destinations.rs", "src/api/saved_signing.rs"]
        .map(|file| found(r#"nullable\((?:&mut )?fields, "(\w+)""#, &read(file)));
    let nullable: BTreeSet<String> = nullable.into_iter().flatten().collect();
    let saved = fields("src/api/saved_destinations.rs");
    let saved: BTreeSet<String> = saved.union(&nullable).chain(&inline).cloned().collect();
    let documented = ["NewDestination", "DestinationAmendment", "Enabling", "SecretRotation"].map(schema);
    let documented: BTreeSet<String> = documented.into_iter().flatten().collect();
    let others = ["destinationId", "callbackUrl", "notify"].map(str::to_owned).into();
    assert_eq!(&saved - &others, documented);
    assert_eq!(&schema("NewDestination") - &schema("DestinationAmendment"), ["secret".to_owned()].into());
    let destinations = fields("src/api/destinations.rs").into_iter().chain(addresses);
    let destinations = destinations.chain(fields("src/api/signing_fields.rs"));
    // Only a saved destination has `tls`.
    let mut access = fields("src/api/access_fields.rs");
    assert!(access.remove("tls"));
    let destinations = destinations.chain(access);
    let all: BTreeSet<String> = fields("src/api/register.rs").into_iter().chain(destinations).collect();
    assert_eq!(all, registration);
    assert_eq!(fields("src/api/groups.rs"), schema("GroupOfWatch"));
    assert_eq!(fields("src/api/batch.rs"), schema("Batch"));
    assert_eq!(fields("src/api/watches.rs"), schema("Amendment"));
    let filters =
        found(r#"source\s*\.(?:text|parsed|id|word|words|instant)\(\s*"(\w+)""#, &read("src/api/filters.rs"));
    let bulk: BTreeSet<String> = fields("src/api/bulk.rs").union(&filters).cloned().collect();
    assert_eq!(bulk, schema("RetryRequest").union(&schema("StopRequest")).cloned().collect());
    assert_eq!(fields("src/api/job_cancel.rs"), schema("StopOptions"));
    assert_eq!(fields("src/api/apps.rs"), schema("NewApp"));
    assert_eq!(fields("src/api/test_send.rs"), schema("Test"));
    assert_eq!(fields("src/api/keys.rs"), schema("NewKey"));
    assert_eq!(fields("src/api/signing_secret.rs"), schema("Rotation"));
}

#[test]
fn what_is_read_of_a_query_is_what_is_documented_of_it() {
    let sources = sources();
    let mut read = found(
        r#"(?:query|source)\s*\.(?:read|words?|parsed|id|text|instant|duration)\(\s*"(\w+)""#,
        &sources,
    );
    // `Query` has functions of their own for these two.
    read.extend(["limit", "cursor"].map(str::to_owned));
    let mut documented = BTreeSet::new();
    for (_, _, operation) in operations() {
        for parameter in operation["parameters"].as_array().unwrap() {
            if parameter["in"] == "query" {
                documented.insert(parameter["name"].as_str().unwrap().to_owned());
            }
        }
    }
    assert_eq!(read, documented);
}

#[tokio::test]
async fn each_route_accepts_exactly_the_documented_parameters() {
    let t = Harness::start().await;
    let names = [
        "limit",
        "cursor",
        "status",
        "provider",
        "jobId",
        "wait",
        "after",
        "type",
        "watchId",
        "destinationId",
        "appId",
        "since",
        "until",
        "reason",
        "channel",
        "origin",
        "reference",
        "order",
    ];
    for (method, path, operation) in operations() {
        if operation["security"].as_array().unwrap().is_empty() {
            continue;
        }
        let documented: BTreeSet<&str> =
            operation["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
        for name in names {
            let path = path.replace("{id}", "x");
            let answer = t.send(&method.to_uppercase(), &format!("{path}?{name}=%00"), &[AUTH], b"").await;
            let unknown = answer.text().contains("there is no such parameter");
            assert_eq!(!unknown, documented.contains(name), "{method} {path} {name}: {}", answer.text());
        }
    }
    t.finish().await;
}

#[tokio::test]
async fn each_route_needs_the_documented_scope() {
    let mut t = Harness::start().await;
    let (read, write) = t.keys().await;
    for (method, path, operation) in operations() {
        let path = path.replace("{id}", "x");
        let method = method.to_uppercase();
        let status = async |key: Option<&str>| {
            let auth = key.map(|key| format!("Bearer {key}"));
            let headers: Vec<(&str, &str)> =
                auth.iter().map(|auth| ("authorization", auth.as_str())).collect();
            t.send(&method, &format!("{path}?x=1"), &headers, b"").await.status
        };
        let answers = [
            status(None).await,
            status(Some(&read)).await,
            status(Some(&write)).await,
            status(Some(KEY)).await,
        ];
        let wanted = match operation["x-scope"].as_str() {
            // There is no app with this id.
            None if path.ends_with("/jwks.json") => [404; 4],
            None => [200; 4],
            Some("read") => [401, 422, 422, 422],
            Some("write") => [401, 403, 422, 422],
            Some(_) => [401, 403, 403, 422],
        };
        assert_eq!(answers, wanted, "{method} {path}");
    }
    t.finish().await;
}

#[tokio::test]
async fn the_document_and_its_page_need_no_key_and_load_nothing() {
    let t = Harness::start().await;
    let answer = t.get_without_key("/openapi.json").await;
    assert_eq!(answer.text(), ringback::api::document());
    assert_eq!(answer.json()["openapi"], "3.1.0");
    let page = t.get_without_key("/docs").await;
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").unwrap();
    let directives: Vec<&str> = policy.split("; ").collect();
    let (style, others) = (directives[1], [directives[0], directives[2], directives[3], directives[4]]);
    assert!(style.starts_with("style-src 'sha256-") && directives.len() == 5, "{policy}");
    let expected = ["default-src 'none'", "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'"];
    assert_eq!(others, expected);
    let text = page.text();
    assert!(text.contains("curl -X POST") && text.contains("<nav"));
    assert!(text.contains("<pre tabindex=\"0\">export RINGBACK=http://ringback KEY="), "the requested host");
    assert!(text.trim_end().ends_with("</html>"));
    // The page contains its assets.
    for loaded in ["<script", "<link", "<img", "<iframe", " src=", "@import", "url("] {
        assert!(!text.contains(loaded), "{loaded}");
    }
    // Links lead into the page or to the document.
    for link in text.split("href=\"").skip(1) {
        assert!(
            link.starts_with('#') || link.starts_with("/openapi.json\""),
            "{}",
            &link[..link.len().min(60)]
        );
    }
    t.finish().await;
}

#[tokio::test]
async fn what_can_be_watched_is_shown_with_its_health_and_its_budget() {
    let t = Harness::with(&[
        ("RINGBACK_PROVIDERS__MUVI__RATE", "10/s"),
        ("RINGBACK_PROVIDERS__MUVI__BURST", "3"),
        ("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", "2"),
    ])
    .await;
    let list = t.get("/v1/providers?limit=100").await.expect(200);
    let one = t.get("/v1/providers/replicate").await.expect(200);
    assert!(list["data"].as_array().unwrap().contains(&one), "{one}");
    t.get("/v1/providers/nope").await.expect(404);
    let by_id: BTreeMap<&str, &Value> =
        list["data"].as_array().unwrap().iter().map(|one| (one["id"].as_str().unwrap(), one)).collect();
    let replicate = by_id["replicate"];
    assert_eq!(
        (&replicate["configured"], &replicate["health"]["status"]),
        (&json!(false), &json!("unconfigured"))
    );
    let muvi = by_id["muvi"];
    assert_eq!(
        *muvi,
        json!({
            "id": "muvi", "definition": "muvi", "name": "Muvi", "configured": true,
            "shared": true, "own": false, "version": null, "credentials": [],
            "health": { "status": "ok", "breaker": "closed", "pausedUntil": null, "lastGoodAt": null,
                        "lastError": null, "lastErrorAt": null },
            "budget": { "rate": "10/s", "burst": 3, "concurrency": 2, "inFlight": 0, "waiting": 0 },
            "poll": muvi["poll"], "errors": [], "learned": null,
        })
    );
    let text = list.to_string();
    assert!(!text.contains(crate::fakes::PROVIDER_KEY) && !text.contains(&t.provider.url()), "{text}");
    // The list is paged.
    let mut seen = Vec::new();
    let mut path = "/v1/providers?limit=1".to_owned();
    loop {
        let page = t.get(&path).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().clone());
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        path = format!("/v1/providers?limit=1&cursor={cursor}");
    }
    assert_eq!(json!(seen), list["data"]);
    t.finish().await;
}

#[tokio::test]
async fn a_providers_trouble_is_shown_and_names_no_job() {
    use crate::fakes::{Reply, error};
    use crate::harness::seconds;
    let t = Harness::start().await;
    let health = async || {
        let list = t.get("/v1/providers").await.expect(200);
        let list = list["data"].as_array().unwrap().clone();
        list.into_iter().find(|one| one["id"] == "muvi").unwrap()["health"].clone()
    };
    for n in 0..6 {
        t.provider.processing(&format!("job_{n}"), 1);
        t.register(&json!({ "jobId": format!("job_{n}"), "notify": [] })).await;
    }
    t.provider.all(Some(error(401, "UNAUTHORIZED", "Invalid API key")));
    t.pass(seconds(10)).await;
    let paused = health().await;
    assert_eq!((&paused["status"], &paused["breaker"]), (&json!("paused"), &json!("closed")));
    assert!(paused["pausedUntil"].is_string(), "{paused}");
    assert_eq!(paused["lastError"], "HTTP 401 UNAUTHORIZED");
    // The credential is accepted again; the next errors have another cause.
    t.provider.all(None);
    t.pass(seconds(70)).await;
    t.provider.all(Some(Reply::json(500, &json!({ "error": "job_0 job_1 job_2 job_3 job_4 job_5" }))));
    t.pass(seconds(180)).await;
    let down = health().await;
    assert_eq!((&down["status"], &down["breaker"]), (&json!("down"), &json!("open")), "{down}");
    t.provider.all(Some(Reply::status(429).with("retry-after", "600")));
    t.pass(seconds(10)).await;
    t.provider.all(None);
    t.pass(seconds(700)).await;
    let well = health().await;
    assert_eq!((&well["status"], &well["pausedUntil"]), (&json!("ok"), &Value::Null), "{well}");
    assert!(well["lastGoodAt"].is_string() && well["lastErrorAt"].is_string(), "{well}");
    for n in 0..6 {
        t.provider.completed(&format!("job_{n}"));
    }
    t.pass(seconds(120)).await;
    t.finish().await;
}
