//! Credentials of an app beside `provider`: the job is the app's alone, and the key goes only to the hosts of the
//! credential.

use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::credentials::{HOST, SecureApi};
use crate::harness::{Harness, minutes, seconds};
use crate::tenants::tenant;

/// A definition of the operator for the API with TLS.
const ACME: &str = r#"
schema = 2
id = "acme"
name = "Acme"
docs = "https://acme.example/docs"
[params.job_id]
pattern = "[a-z0-9_]+"
[auth]
type = "bearer"
send_to = ["HOST"]
[request]
url = "https://HOST/jobs/{job_id}"
[status]
path = "$.state"
[status.map]
processing = ["running"]
completed = ["done"]
failed = ["error"]
[extract]
job_id = "none"
[cancel]
path = "/cancel"
[limits]
rate = "off"
[[example]]
job_id = "job_1"
body = '{"state": "running"}'
expect = { answer = "seen", status = "processing", raw_status = "running" }
[[example]]
job_id = "job_1"
body = '{"state": "done"}'
expect = { answer = "seen", status = "completed", raw_status = "done" }
[[example]]
job_id = "job_1"
body = '{"state": "error"}'
expect = { answer = "seen", status = "failed", raw_status = "error" }
"#;

/// Starts the API, and an application whose operator has a definition and a key for it.
pub async fn start(settings: &[(&str, &str)]) -> (SecureApi, Harness, TempDir) {
    let (api, neighbours) = SecureApi::listen().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("acme.toml"), ACME.replace("HOST", &api.host())).unwrap();
    let path = folder.path().display().to_string();
    let key = ("RINGBACK_PROVIDERS__ACME__API_KEY", "operators-key");
    let settings = [&[("RINGBACK_PROVIDERS__PATH", path.as_str()), key], settings].concat();
    let t = Harness::among(neighbours, &settings).await;
    t.resolve(HOST, &["127.0.0.1"]);
    (api, t, folder)
}

impl SecureApi {
    pub fn key(&self, name: &str, value: &str) -> Value {
        json!({ "name": name, "kind": "key", "sendTo": [self.host()], "value": value })
    }

    /// Returns the values of `authorization` that arrived, each once, in their order.
    fn keys(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let values = requests.iter().map(|request| request.header("authorization").unwrap().to_owned());
        let mut values: Vec<String> = values.collect();
        values.sort();
        values.dedup();
        values
    }
}

pub fn job(id: &str, credential: &str) -> Value {
    json!({ "provider": "acme", "jobId": id, "credential": credential, "notify": [] })
}

async fn acme(t: &Harness, key: &str) -> Value {
    t.as_key(key, "GET", "/v1/providers/acme", "").await.expect(200)
}

// Once: the test changes the SQLite file.
#[tokio::test]
async fn a_credential_in_use_before_an_upgrade_is_so_after_it() {
    let (api, mut t, _folder) = start(&[]).await;
    for name in ["used", "unused"] {
        t.post("/v1/credentials", &api.key(name, "canary-of-the-app")).await.expect(201);
    }
    let watch = t.register(&job("job_1", "used")).await;
    let ended = t.register(&job("job_2", "unused")).await;
    t.stop_watch(&ended).await.expect(200);
    t.stop().await;
    // The tables of the previous version, and the migration of them.
    let db = rusqlite::Connection::open(t.file()).unwrap();
    for table in ["watches", "job_cancels"] {
        for column in ["definition", "credential"] {
            let before = format!("drop index {table}_{column}; alter table {table} drop column {column};");
            db.execute_batch(&before).unwrap();
        }
    }
    let before = "create index job_polls_definition on job_polls (definition) where definition is not null;
                  create index job_polls_credential on job_polls (credential) where credential is not null;";
    db.execute_batch(before).unwrap();
    db.execute_batch(include_str!("../../migrations/sqlite/0028_use_of_definitions.sql")).unwrap();
    drop(db);
    t.restart().await;
    t.delete("/v1/credentials/used").await.expect(409);
    assert_eq!(t.delete("/v1/credentials/unused").await.status, 204);
    t.stop_watch(&watch).await.expect(200);
    assert_eq!(t.delete("/v1/credentials/used").await.status, 204);
    t.give_up().await;
}

#[tokio::test]
async fn a_credential_of_the_app_replaces_the_operators_key() {
    let (api, mut t, _folder) = start(&[]).await;
    t.post("/v1/credentials", &api.key("my-key", "canary-of-the-app")).await.expect(201);
    let shared = t.register(&json!({ "provider": "acme", "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(10)).await;
    assert_eq!(api.keys(), ["Bearer operators-key"]);
    let own = t.register(&job("job_1", "my-key")).await;
    t.pass(seconds(10)).await;
    assert_eq!(api.keys(), ["Bearer canary-of-the-app", "Bearer operators-key"]);
    let shown = t.get(&format!("/v1/watches/{own}")).await;
    assert!(!shown.text().contains("canary"), "{}", shown.text());
    assert_eq!((&shown.json()["credential"], &shown.json()["provider"]), (&json!("my-key"), &json!("acme")));
    assert_eq!(t.shown(&shared).await["credential"], json!(null));
    // It is a row, too.
    t.crash().await;
    api.requests.lock().unwrap().clear();
    t.restart().await;
    *api.state.lock().unwrap() = "done";
    t.pass(minutes(2)).await;
    assert_eq!(api.keys(), ["Bearer canary-of-the-app", "Bearer operators-key"]);
    for watch in [&own, &shared] {
        assert_eq!(t.shown(watch).await["status"], "completed");
    }
    t.finish().await;
}

#[tokio::test]
async fn two_apps_with_credentials_of_their_own_share_nothing() {
    let (api, t, _folder) = start(&[]).await;
    *api.refused.lock().unwrap() = "Bearer canary-one".to_owned();
    let (one, other) = (tenant(&t, "one").await, tenant(&t, "other").await);
    let mut watches = Vec::new();
    for (app, value) in [(&one, "canary-one"), (&other, "canary-two")] {
        let credential = api.key("my-key", value).to_string();
        t.as_key(&app.key, "POST", "/v1/credentials", &credential).await.expect(201);
        let body = job("job_1", "my-key").to_string();
        let watch = t.as_key(&app.key, "POST", "/v1/watches", &body).await.expect(201);
        watches.push(watch["id"].as_str().unwrap().to_owned());
    }
    t.pass(seconds(30)).await;
    let shown = async |app: &str, watch: &str| {
        t.as_key(app, "GET", &format!("/v1/watches/{watch}"), "").await.expect(200)["job"].clone()
    };
    let (refused, running) = (shown(&one.key, &watches[0]).await, shown(&other.key, &watches[1]).await);
    assert_eq!((&refused["status"], &running["status"]), (&json!("unknown"), &json!("processing")));
    assert!(refused["lastError"].as_str().unwrap().contains("401"), "{refused}");
    assert_eq!(running["lastError"], json!(null));
    // Each app sees the pause of its own credential only, and the operator's is not paused.
    let (of_one, of_other) = (acme(&t, &one.key).await, acme(&t, &other.key).await);
    let credential = &of_one["credentials"][0];
    assert_eq!((&credential["name"], &credential["health"]["status"]), (&json!("my-key"), &json!("paused")));
    assert_eq!(of_other["credentials"][0]["health"]["status"], "ok");
    for state in [&of_one, &of_other] {
        assert_eq!((&state["health"]["status"], &state["health"]["lastError"]), (&json!("ok"), &json!(null)));
        assert_eq!(state["credentials"].as_array().unwrap().len(), 1);
    }
    let of_operator = t.get("/v1/providers/acme").await.expect(200);
    assert_eq!(of_operator["credentials"], json!([]));
    // While the one is paused, it is polled once a minute.
    api.requests.lock().unwrap().clear();
    t.pass(minutes(3)).await;
    let of = |value: &str| {
        let requests = api.requests.lock().unwrap();
        requests.iter().filter(|request| request.header("authorization") == Some(value)).count()
    };
    assert!(of("Bearer canary-one") <= 3 && of("Bearer canary-two") > 3, "{:?}", api.keys());
    // The end of one job is not that of the other.
    *api.state.lock().unwrap() = "done";
    t.pass(minutes(2)).await;
    assert_eq!(shown(&other.key, &watches[1]).await["status"], "completed");
    assert_eq!(shown(&one.key, &watches[0]).await["status"], "unknown");
    assert!(!api.keys().contains(&"Bearer operators-key".to_owned()));
    t.give_up().await;
}

#[tokio::test]
async fn a_key_that_is_not_shared_needs_a_credential_of_the_app() {
    let (api, t, _folder) = start(&[("RINGBACK_PROVIDERS__ACME__SHARED", "false")]).await;
    let without = json!({ "provider": "acme", "jobId": "job_1", "notify": [] });
    let refused = t.post("/v1/watches", &without).await.expect(422);
    let error = &refused["errors"][0];
    assert_eq!((&error["pointer"], &error["code"]), (&json!("/credential"), &json!("required")));
    let detail = error["detail"].as_str().unwrap();
    assert!(detail.contains("`acme`") && detail.contains("POST /v1/credentials"), "{detail}");
    assert_eq!(t.get("/v1/providers/acme").await.expect(200)["shared"], false);
    assert_eq!(t.get("/v1/providers/muvi").await.expect(200)["shared"], true);
    t.post("/v1/credentials", &api.key("my-key", "canary-of-the-app")).await.expect(201);
    t.register(&job("job_1", "my-key")).await;
    t.pass(seconds(10)).await;
    assert_eq!(api.keys(), ["Bearer canary-of-the-app"]);
    t.give_up().await;
}

// Once: the configuration is read before the database is opened.
#[tokio::test]
async fn there_must_be_a_key_that_is_not_shared() {
    let folder = tempfile::tempdir().unwrap();
    let auth = "type = \"bearer\"\nsend_to = [\"HOST\"]";
    let without = ACME.replace(auth, "type = \"none\"").replace("HOST", HOST);
    fs::write(folder.path().join("acme.toml"), without).unwrap();
    let path = folder.path().display().to_string();
    for (name, says) in [
        ("RINGBACK_PROVIDERS__INLINE__SHARED", "has no meaning for jobs without a definition"),
        ("RINGBACK_PROVIDERS__ACME__SHARED", "[providers.acme] shared: the provider needs no credential"),
    ] {
        let error = Harness::refused(&[("RINGBACK_PROVIDERS__PATH", path.as_str()), (name, "false")]).await;
        assert!(error.contains(says), "{error}");
    }
}

// Once: nothing is stored but credentials.
#[tokio::test]
async fn a_credential_that_does_not_fit_is_refused_with_the_remedy() {
    let (api, t, _folder) = start(&[]).await;
    let host = api.host();
    let basic =
        json!({ "name": "basic", "kind": "basic", "sendTo": [host], "username": "u", "password": "canary" });
    let elsewhere = json!({ "name": "elsewhere", "kind": "bearer", "sendTo": [HOST], "token": "canary" });
    let header =
        json!({ "name": "spaces", "kind": "header", "sendTo": [host], "header": "x-key", "value": "canary" });
    let lines = api.key("lines", "canary=a\nother=b");
    for credential in [&basic, &elsewhere, &header, &lines] {
        t.post("/v1/credentials", credential).await.expect(201);
    }
    for (body, pointer, says) in [
        (job("job_1", "none"), "/credential", "there is no such credential"),
        (job("job_1", "a b"), "/credential", "letters, digits"),
        (job("job_1", "basic"), "/credential", "is of the kind basic, and Acme takes no user and password"),
        (job("job_1", "lines"), "/credential", "does not fit Acme"),
        (job("job_1", "elsewhere"), "/credential", host.as_str()),
        (
            json!({ "poll": "https://api.example.com/1", "credential": "basic", "notify": [] }),
            "/credential",
            "write it into poll",
        ),
    ] {
        let answer = t.post("/v1/watches", &body).await;
        assert_eq!(answer.status, 422, "{body}");
        let error = answer.json()["errors"][0].clone();
        assert_eq!(error["pointer"], pointer, "{error}");
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.contains(says) && !answer.text().contains("canary"), "{detail}");
    }
    // A text of any kind that is sent as it is fits a definition that sends one.
    t.register(&job("job_1", "spaces")).await;
    // A poll object says itself how a credential is sent.
    let poll = json!({
        "url": format!("https://{host}/1"), "credential": "lines", "status": "$.state", "completed": ["done"], "failed": [],
    });
    let refused = t.post("/v1/watches", &json!({ "poll": poll, "notify": [] })).await.expect(422);
    assert!(refused["errors"][0]["detail"].as_str().unwrap().contains("is of the kind key"), "{refused}");
    t.give_up().await;
}

#[tokio::test]
async fn a_deleted_credential_is_not_used_for_its_old_jobs() {
    let (api, t, _folder) = start(&[]).await;
    t.post("/v1/credentials", &api.key("my-key", "canary-first")).await.expect(201);
    let watch = t.register(&job("job_1", "my-key")).await;
    t.pass(seconds(10)).await;
    assert_eq!(t.delete("/v1/credentials/my-key").await.expect(409)["code"], "credential_in_use");
    t.stop_watch(&watch).await.expect(200);
    assert_eq!(t.delete("/v1/credentials/my-key").await.status, 204);
    t.post("/v1/credentials", &api.key("my-key", "canary-second")).await.expect(201);
    api.requests.lock().unwrap().clear();
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(seconds(30)).await;
    assert!(api.requests.lock().unwrap().is_empty(), "{:?}", api.keys());
    t.register(&job("job_1", "my-key")).await;
    t.pass(seconds(10)).await;
    assert_eq!(api.keys(), ["Bearer canary-second"]);
    t.give_up().await;
}

// Once: the command line knows no database.
#[tokio::test]
async fn a_watch_names_a_credential_on_the_command_line() {
    let (api, t, folder) = start(&[]).await;
    let server = crate::cli::url(&t);
    let file = folder.path().join("key");
    fs::write(&file, "canary-of-the-app\n").unwrap();
    let (file, host) = (file.to_str().unwrap(), api.host());
    let add = ["credential", "add", "my-key", "--kind", "key", "--send-to", &host, "--secret-file", file];
    crate::cli::ask(&server, &add).await.expect(0);
    let watch = ["watch", "job_1", "--provider", "acme", "--credential"];
    let wrong = crate::cli::ask(&server, &[&watch[..], &["other"]].concat()).await.expect(1);
    assert!(wrong.err.starts_with("--credential: there is no such credential"), "{wrong:#?}");
    let shown = crate::cli::ask(&server, &[&watch[..], &["my-key"]].concat()).await.expect(0);
    assert!(shown.out.contains("job_1 of acme") && shown.out.contains("my-key"), "{shown:#?}");
    t.pass(seconds(10)).await;
    assert_eq!(api.keys(), ["Bearer canary-of-the-app"]);
    t.give_up().await;
}

crate::postgres::on_postgres_too! {
    a_credential_of_the_app_replaces_the_operators_key,
    two_apps_with_credentials_of_their_own_share_nothing,
    a_key_that_is_not_shared_needs_a_credential_of_the_app,
    a_deleted_credential_is_not_used_for_its_old_jobs,
}
