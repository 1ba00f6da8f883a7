//! Definitions of apps, which are stored over the API.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::credentials::{HOST, SecureApi};
use crate::fakes::{Reply, Server};
use crate::harness::{Harness, KEY, Neighbours, minutes, seconds};
use crate::tenants::tenant;
use crate::wire::Answer;

/// A definition without a credential.
pub const MINE: &str = r#"
schema = 2
id = "mine"
name = "Mine"
docs = "https://mine.example/docs"
[params.job_id]
pattern = "[a-z0-9_]+"
[auth]
type = "none"
[request]
url = "BASE/jobs/{job_id}"
redirect = "same-origin"
[status]
path = "$.state"
[status.map]
processing = ["running"]
completed = ["done"]
failed = ["error"]
[extract]
job_id = "none"
output = "$.url"
[limits]
rate = "20/s"
concurrency = 50
[[example]]
job_id = "job_1"
body = '{"state": "running"}'
expect = { answer = "seen", status = "processing", raw_status = "running" }
[[example]]
job_id = "job_1"
body = '{"state": "done", "url": "u"}'
expect = { answer = "seen", status = "completed", raw_status = "done", output = "u" }
[[example]]
job_id = "job_1"
body = '{"state": "error"}'
expect = { answer = "seen", status = "failed", raw_status = "error" }
"#;

pub const PATH: &str = "/v1/providers/mine/definition";

pub async fn put_as(t: &Harness, key: &str, path: &str, text: &str) -> Answer {
    let auth = format!("Bearer {key}");
    let headers = [("authorization", auth.as_str()), ("content-type", "application/toml")];
    t.send("PUT", path, &headers, text.as_bytes()).await
}

async fn put(t: &Harness, text: &str) -> Answer {
    put_as(t, KEY, PATH, text).await
}

fn job(id: &str) -> Value {
    json!({ "provider": "mine", "jobId": id, "notify": [] })
}

/// An API that answers each job with the same body, and counts the requests.
struct Api {
    server: Server,
    count: Arc<AtomicUsize>,
}

impl Api {
    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

async fn api(body: &'static str) -> (Api, Harness) {
    let neighbours = Neighbours::default();
    let count = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&count);
    let server = Server::start(neighbours.held.clone(), move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Reply::new(200, body)
    });
    let server = server.await;
    let t = Harness::among(neighbours, &[]).await;
    (Api { server, count }, t)
}

fn of(api: &Api) -> String {
    MINE.replace("BASE", &format!("http://{}", api.server.address))
}

#[tokio::test]
async fn a_definition_of_an_app_polls_its_jobs() {
    let (server, mut t) = api(r#"{"state": "running"}"#).await;
    let text = of(&server);
    let stored = put(&t, &text).await;
    assert_eq!(stored.status, 201, "{}", stored.text());
    let view = stored.json();
    assert_eq!((&view["id"], &view["name"], &view["version"]), (&json!("mine"), &json!("Mine"), &json!(1)));
    let again = put(&t, &text).await;
    assert_eq!(
        (again.status, &again.json()["version"]),
        (200, &json!(1)),
        "an equal text is the same version"
    );
    assert_eq!(again.header("etag"), stored.header("etag"));
    let shown = t.get(PATH).await;
    assert_eq!((shown.text(), shown.header("content-type")), (text.as_str(), Some("application/toml")));
    assert_eq!(shown.header("etag"), stored.header("etag"));
    let watch = t.register(&job("job_1")).await;
    t.pass(seconds(30)).await;
    let running = t.shown(&watch).await;
    assert_eq!((&running["job"]["status"], &running["provider"]), (&json!("processing"), &json!("mine")));
    assert_eq!(running["definitionVersion"], 1);
    // It is a row, too.
    t.crash().await;
    t.restart().await;
    t.pass(seconds(30)).await;
    assert!(t.shown(&watch).await["job"]["lastPolledAt"].is_string());
    let listed = t.get("/v1/watches?provider=mine").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    t.give_up().await;
}

// Once: the test damages the SQLite file.
#[tokio::test]
async fn a_watch_says_that_its_definition_cannot_be_read() {
    let (server, mut t) = api(r#"{"state": "running"}"#).await;
    put(&t, &of(&server)).await.expect(201);
    let watch = t.register(&job("job_1")).await;
    t.crash().await;
    let db = rusqlite::Connection::open(t.file()).unwrap();
    db.execute("update definitions set text = x'ff'", []).unwrap();
    drop(db);
    t.restart().await;
    t.pass(seconds(30)).await;
    let shown = t.shown(&watch).await;
    let error = shown["job"]["lastError"].as_str().unwrap_or_default();
    assert!(error.contains("cannot read the credential or the definition"), "{shown}");
    assert_eq!((&shown["status"], server.count()), (&json!("watching"), 0));
    t.give_up().await;
}

#[tokio::test]
async fn a_running_watch_keeps_its_version_of_a_definition() {
    let (server, t) = api(r#"{"state": "strange"}"#).await;
    let text = of(&server);
    put(&t, &text).await.expect(201);
    let old = t.register(&job("job_1")).await;
    // In the next version, the word means the end.
    let next = text.replace("[\"done\"]", "[\"done\", \"strange\"]");
    assert_eq!(put(&t, &next).await.expect(200)["version"], 2);
    let new = t.register(&job("job_1")).await;
    t.pass(minutes(1)).await;
    assert_eq!(t.shown(&new).await["status"], "completed");
    let shown = t.shown(&old).await;
    assert_eq!((&shown["status"], &shown["definitionVersion"]), (&json!("watching"), &json!(1)), "{shown}");
    // Also after its deletion, and no registration can use it.
    assert_eq!(t.delete(PATH).await.status, 204);
    assert_eq!(t.delete(PATH).await.status, 404);
    assert_eq!(t.get(PATH).await.status, 404);
    let before = server.count();
    t.pass(minutes(2)).await;
    assert!(server.count() > before);
    let refused = t.post("/v1/watches", &job("job_2")).await.expect(422);
    assert_eq!(refused["errors"][0]["code"], "unknown_provider");
    let listed = t.get("/v1/providers?limit=200").await.expect(200);
    let left = listed["data"].as_array().unwrap().iter().find(|one| one["id"] == "mine").unwrap();
    assert_eq!((&left["own"], &left["version"]), (&json!(true), &json!(null)));
    t.stop_watch(&old).await.expect(200);
    // The old version goes with the next change.
    put(&t, &text).await.expect(201);
    t.act(&format!("/v1/watches/{old}/poll")).await.expect(202);
    t.pass(seconds(30)).await;
    t.give_up().await;
}

#[tokio::test]
async fn definitions_of_apps_are_separate() {
    let (server, t) = api(r#"{"state": "running"}"#).await;
    put(&t, &of(&server)).await.expect(201);
    let other = tenant(&t, "other").await;
    let as_other =
        async |method: &str, path: &str, body: &str| t.as_key(&other.key, method, path, body).await;
    assert_eq!(as_other("GET", PATH, "").await.status, 404);
    assert_eq!(as_other("DELETE", PATH, "").await.status, 404);
    assert_eq!(as_other("GET", "/v1/providers/mine", "").await.status, 404);
    let refused = as_other("POST", "/v1/watches", &job("job_1").to_string()).await.expect(422);
    assert_eq!(refused["errors"][0]["code"], "unknown_provider");
    let own = t.get("/v1/providers/mine").await.expect(200);
    assert_eq!((&own["own"], &own["shared"], &own["version"]), (&json!(true), &json!(false), &json!(1)));
    // No faster than a job without a definition.
    assert_eq!((&own["budget"]["rate"], &own["budget"]["concurrency"]), (&json!("1/s"), &json!(4)));
    // The same id for another app is another definition.
    let text = of(&server).replace("name = \"Mine\"", "name = \"Theirs\"");
    put_as(&t, &other.key, PATH, &text).await.expect(201);
    let one = t.register(&job("job_1")).await;
    as_other("POST", "/v1/watches", &job("job_1").to_string()).await.expect(201);
    t.pass(seconds(20)).await;
    let seen = as_other("GET", "/v1/providers/mine", "").await.expect(200);
    assert_eq!(seen["name"], "Theirs");
    assert_eq!(t.shown(&one).await["job"]["status"], "processing");
    t.give_up().await;
}

#[tokio::test]
async fn a_cancellation_to_a_private_address_ends_at_once() {
    let (server, t) = api(r#"{"state": "running"}"#).await;
    let cancel = "[cancel]\nurl = \"https://stop.mine.example/{job_id}\"\n[limits]";
    put(&t, &of(&server).replace("[limits]", cancel)).await.expect(201);
    t.resolve("stop.mine.example", &["10.0.0.1"]);
    let watch = t.register(&job("job_1")).await;
    t.pass(seconds(10)).await;
    t.post(&format!("/v1/watches/{watch}/stop"), &json!({ "cancelJob": true })).await.expect(200);
    t.pass(seconds(10)).await;
    let shown = t.shown(&watch).await["cancelJob"].clone();
    assert_eq!((&shown["status"], &shown["attempts"]), (&json!("refused"), &json!(1)), "{shown}");
    assert!(shown["message"].as_str().unwrap().starts_with("refused: "), "{shown}");
    t.give_up().await;
}

// Once: what is read is not stored.
#[tokio::test]
async fn an_answer_that_takes_too_much_work_delays_no_expiry() {
    let body: &'static str = format!("[{}0]", "0,".repeat(400_000)).leak();
    let (server, t) = api(body).await;
    let numbers = (1..=100).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let any = vec![format!("{{ path = \"$[*]\", in = [{numbers}] }}"); 7].join(",");
    let rules = format!("[[rule]]\nany = [{any}]\nanswer = \"error\"\n").repeat(20);
    put(&t, &of(&server).replace("[limits]", &format!("{rules}[limits]"))).await.expect(201);
    let mut short = job("job_1");
    short["expiresIn"] = json!("40s");
    let watch = t.register(&short).await;
    t.pass(seconds(20)).await;
    let error = t.shown(&watch).await["job"]["lastError"].to_string();
    assert!(error.contains("too much work"), "{error}");
    // The last poll is repeated, as after every error.
    t.pass(minutes(5)).await;
    assert_eq!(t.shown(&watch).await["status"], "expired");
    t.finish().await;
}

// Once: nothing is stored.
#[tokio::test]
async fn an_id_that_no_definition_can_have_is_named() {
    let t = Harness::start().await;
    for id in ["Foo_", "9x", &"a".repeat(41)] {
        let refused = put_as(&t, KEY, &format!("/v1/providers/{id}/definition"), MINE).await.expect(422);
        let detail = refused["errors"][0]["detail"].as_str().unwrap();
        let rule = format!(
            "id: `{id}` in the path must be 1 to 40 characters of a-z, 0-9 and -, starting with a letter"
        );
        assert_eq!(detail, rule);
    }
    t.finish().await;
}

// Once: nothing is stored.
#[tokio::test]
async fn a_wrong_definition_is_refused_with_every_mistake() {
    let t = Harness::start().await;
    let text = MINE.replace("BASE", "https://mine.example");
    let wrong = text.replace("$.state", "state").replace("completed = [\"done\"]", "complete = [\"done\"]");
    let refused = put(&t, &wrong).await.expect(422);
    let details: Vec<&str> =
        refused["errors"].as_array().unwrap().iter().map(|one| one["detail"].as_str().unwrap()).collect();
    assert!(details.len() >= 2, "{details:?}");
    for detail in &details {
        let mut place = detail.split(':');
        let mut number = || place.next().unwrap().parse::<usize>().expect("a line and a column");
        assert!(number() > 0 && number() > 0, "{detail}");
    }
    let example = text.replace("raw_status = \"error\"", "raw_status = \"other\"");
    let refused = put(&t, &example).await.expect(422);
    assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("example 3"), "{refused}");
    let refused = put(&t, &text.replace("id = \"mine\"", "id = \"yours\"")).await.expect(422);
    assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("must be `mine`"), "{refused}");
    let taken = text.replace("id = \"mine\"", "id = \"muvi\"");
    let refused = put_as(&t, KEY, "/v1/providers/muvi/definition", &taken).await.expect(409);
    assert_eq!(refused["code"], "provider_taken");
    let inline = put_as(&t, KEY, "/v1/providers/inline/definition", &text).await;
    assert_eq!(inline.status, 422, "{}", inline.text());
    let large = put(&t, &format!("{text}# {}", "x".repeat(64 * 1024))).await;
    assert_eq!(large.status, 413);
    let json = t.as_key(KEY, "PUT", PATH, &text).await;
    assert!(json.status == 415 && json.text().contains("application/toml"), "{}", json.text());
    t.finish().await;
}

#[tokio::test]
async fn a_definition_of_an_app_uses_its_own_credential_only() {
    let (api, neighbours) = SecureApi::listen().await;
    // A key of the operator for a definition with the same id, which came later.
    let t = Harness::among(neighbours, &[("RINGBACK_PROVIDERS__MUVI__API_KEY", "operators-key")]).await;
    t.resolve(HOST, &["127.0.0.1"]);
    let host = api.host();
    let auth = format!("type = \"bearer\"\nsend_to = [\"{host}\"]");
    let text = MINE.replace("BASE", &format!("https://{host}")).replace("type = \"none\"", &auth);
    assert_eq!(put(&t, &text).await.expect(201)["needsCredential"], true);
    let refused = t.post("/v1/watches", &job("job_1")).await.expect(422);
    assert_eq!(
        (&refused["errors"][0]["pointer"], &refused["errors"][0]["code"]),
        (&json!("/credential"), &json!("required"))
    );
    let credential = json!({ "name": "my-key", "kind": "bearer", "sendTo": [host], "token": "token-canary" });
    t.post("/v1/credentials", &credential).await.expect(201);
    let mut with = job("job_1");
    with["credential"] = json!("my-key");
    let watch = t.register(&with).await;
    t.pass(seconds(20)).await;
    assert_eq!(api.last().header("authorization"), Some("Bearer token-canary"));
    assert_eq!(t.shown(&watch).await["credential"], "my-key");
    assert_eq!(t.delete("/v1/credentials/my-key").await.status, 409);
    t.give_up().await;
}

// Once: no request is made.
#[tokio::test]
async fn the_addresses_of_a_definition_of_an_app_are_guarded() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW", "127.0.0.2")]).await;
    t.resolve("private.example", &["10.0.0.1"]);
    for base in ["http://127.0.0.1:1", "https://169.254.169.254", "https://private.example"] {
        let text = MINE.replace("BASE", base);
        let stored = put(&t, &text).await;
        if stored.status == 422 {
            continue;
        }
        let watch = t.register(&job("job_1")).await;
        t.pass(seconds(10)).await;
        let error = t.shown(&watch).await["job"]["lastError"].to_string();
        assert!(error.contains("address") || error.contains("http"), "{base}: {error}");
        t.stop_watch(&watch).await.expect(200);
    }
    t.give_up().await;
}

#[tokio::test]
async fn the_number_of_definitions_of_an_app_is_limited() {
    let t = Harness::start().await;
    let text = MINE.replace("BASE", "https://mine.example");
    let named = |n: usize| text.replace("id = \"mine\"", &format!("id = \"mine-{n}\""));
    let path = |n: usize| format!("/v1/providers/mine-{n}/definition");
    for n in 0..50 {
        put_as(&t, KEY, &path(n), &named(n)).await.expect(201);
    }
    assert_eq!(put_as(&t, KEY, &path(50), &named(50)).await.expect(409)["code"], "limit_reached");
    let changed = named(49).replace("Mine", "Changed");
    assert_eq!(put_as(&t, KEY, &path(49), &changed).await.expect(200)["version"], 2);
    assert_eq!(t.delete(&path(0)).await.status, 204);
    put_as(&t, KEY, &path(50), &named(50)).await.expect(201);
    t.finish().await;
}

// Once: the command line knows no database.
#[tokio::test]
async fn definitions_are_managed_on_the_command_line() {
    let t = Harness::start().await;
    let server = crate::cli::url(&t);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.toml");
    let text = MINE.replace("BASE", "https://mine.example");
    std::fs::write(&file, &text).unwrap();
    let path = file.to_str().unwrap();
    let pushed = crate::cli::ask(&server, &["provider", "push", path]).await.expect(0);
    assert_eq!(pushed.out, "mine is stored as version 1.\n");
    let pulled = crate::cli::ask(&server, &["provider", "pull", "mine"]).await.expect(0);
    assert_eq!(pulled.out, text);
    std::fs::write(&file, text.replace("$.state", "state")).unwrap();
    let refused = crate::cli::ask(&server, &["provider", "push", path]).await.expect(1);
    assert!(refused.err.contains("mine.toml:") && refused.err.contains("state"), "{refused:#?}");
    let removed = crate::cli::ask(&server, &["provider", "remove", "mine"]).await.expect(0);
    assert_eq!(removed.out, "mine is deleted. Running watches keep their version.\n");
    crate::cli::ask(&server, &["provider", "pull", "mine"]).await.expect(1);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_definition_of_an_app_polls_its_jobs,
    a_running_watch_keeps_its_version_of_a_definition,
    definitions_of_apps_are_separate,
    a_cancellation_to_a_private_address_ends_at_once,
    a_definition_of_an_app_uses_its_own_credential_only,
    the_number_of_definitions_of_an_app_is_limited,
}
