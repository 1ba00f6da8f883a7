//! Cancelling jobs with what is an app's own: its credential, or its definition.

use std::fs;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::credentials::SecureApi;
use crate::fakes::{Reply, Server};
use crate::harness::{Harness, KEY, Neighbours, minutes, seconds};
use crate::own_credentials::{job, start};
use crate::own_definitions::{MINE, PATH, put_as};

/// The rate that lets a request to cancel wait: a bucket is empty at the start, and gets a token a minute.
const SLOW: (&str, &str) = ("RINGBACK_PROVIDERS__ACME__RATE", "1/m");

async fn cancel(t: &Harness, watch: &str) -> Value {
    t.post(&format!("/v1/watches/{watch}/stop"), &json!({ "cancelJob": true })).await.expect(200)
}

/// The status and the message of the cancellation of a watch.
async fn result(t: &Harness, watch: &str) -> [Value; 2] {
    let shown = t.shown(watch).await;
    ["status", "message"].map(|field| shown["cancelJob"][field].clone())
}

/// The credentials of the requests to cancel that arrived.
fn cancels(api: &SecureApi) -> Vec<String> {
    let requests = api.requests.lock().unwrap();
    let cancels = requests.iter().filter(|request| request.method == "POST");
    cancels
        .map(|request| {
            assert_eq!(request.path, "/jobs/job_1/cancel");
            request.header("authorization").unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn a_credential_of_the_app_cancels_without_permission() {
    let (api, t, _folder) = start(&[]).await;
    t.post("/v1/credentials", &api.key("my-key", "canary-of-the-app")).await.expect(201);
    let watch = t.register(&job("job_1", "my-key")).await;
    t.pass(seconds(10)).await;
    assert_eq!(cancel(&t, &watch).await["cancelJob"]["status"], "pending");
    t.pass(seconds(10)).await;
    assert_eq!(cancels(&api), ["Bearer canary-of-the-app"]);
    assert_eq!(result(&t, &watch).await[0], "accepted");
    // The operator's key needs the operator's permission.
    let shared = t.register(&json!({ "provider": "acme", "jobId": "job_1", "notify": [] })).await;
    let refused = t.post(&format!("/v1/watches/{shared}/stop"), &json!({ "cancelJob": true })).await;
    assert_eq!(refused.status, 422, "{}", refused.text());
    assert_eq!(t.shown(&shared).await["status"], "watching");
    t.stop_watch(&shared).await.expect(200);
    t.finish().await;
}

#[tokio::test]
async fn a_credential_stays_as_long_as_a_cancellation_needs_it() {
    let (api, mut t, _folder) = start(&[SLOW]).await;
    t.post("/v1/credentials", &api.key("my-key", "canary-of-the-app")).await.expect(201);
    let watch = t.register(&job("job_1", "my-key")).await;
    cancel(&t, &watch).await;
    t.rest().await;
    assert_eq!(result(&t, &watch).await[0], "pending");
    assert_eq!(t.delete("/v1/credentials/my-key").await.expect(409)["code"], "credential_in_use");
    t.crash().await;
    t.restart().await;
    assert_eq!(t.delete("/v1/credentials/my-key").await.expect(409)["code"], "credential_in_use");
    t.pass(minutes(2)).await;
    assert_eq!(cancels(&api), ["Bearer canary-of-the-app"]);
    assert_eq!(result(&t, &watch).await[0], "accepted");
    assert_eq!(t.delete("/v1/credentials/my-key").await.status, 204);
    t.finish().await;
}

#[tokio::test]
async fn a_key_that_is_no_longer_shared_cancels_nothing() {
    let allowed = ("RINGBACK_PROVIDERS__ACME__ALLOW_CANCEL", "true");
    let (api, mut t, _folder) = start(&[SLOW, allowed]).await;
    let watch = t.register(&json!({ "provider": "acme", "jobId": "job_1", "notify": [] })).await;
    cancel(&t, &watch).await;
    t.stop().await;
    t.set("RINGBACK_PROVIDERS__ACME__SHARED", "false");
    t.restart().await;
    t.pass(minutes(5)).await;
    assert_eq!(cancels(&api), [""; 0]);
    let [status, message] = result(&t, &watch).await;
    assert_eq!(status, "failed");
    assert!(message.as_str().unwrap().contains("server's key"), "{message}");
    t.finish().await;
}

#[tokio::test]
async fn a_cancellation_whose_provider_is_gone_ends() {
    let allowed = ("RINGBACK_PROVIDERS__ACME__ALLOW_CANCEL", "true");
    let (api, mut t, folder) = start(&[SLOW, allowed]).await;
    let watch = t.register(&json!({ "provider": "acme", "jobId": "job_1", "notify": [] })).await;
    cancel(&t, &watch).await;
    t.stop().await;
    fs::remove_file(folder.path().join("acme.toml")).unwrap();
    t.set("RINGBACK_PROVIDERS__ACME__API_KEY", "");
    t.set("RINGBACK_PROVIDERS__ACME__RATE", "");
    t.set("RINGBACK_PROVIDERS__ACME__ALLOW_CANCEL", "");
    t.restart().await;
    t.pass(minutes(5)).await;
    assert_eq!(cancels(&api), [""; 0]);
    let [status, message] = result(&t, &watch).await;
    assert_eq!(status, "failed");
    assert!(message.as_str().unwrap().contains("no provider `acme`"), "{message}");
    t.finish().await;
}

/// Starts an API whose requests are recorded, and an application with a definition for it: its text.
async fn with_definition() -> (Server, Arc<Mutex<Vec<String>>>, Harness, String) {
    let neighbours = Neighbours::default();
    let paths = Arc::<Mutex<Vec<String>>>::default();
    let noted = Arc::clone(&paths);
    let server = Server::start(neighbours.held.clone(), move |request| {
        noted.lock().unwrap().push(format!("{} {}", request.method, request.path));
        Reply::new(200, r#"{"state": "running"}"#)
    });
    let server = server.await;
    let t = Harness::among(neighbours, &[]).await;
    let text = MINE.replace("BASE", &format!("http://{}", server.address));
    let text = text
        .replace("[limits]\nrate = \"20/s\"", "[cancel]\npath = \"/v1-cancel\"\n[limits]\nrate = \"1/m\"");
    put_as(&t, KEY, PATH, &text).await.expect(201);
    (server, paths, t, text)
}

#[tokio::test]
async fn a_cancellation_uses_the_version_of_its_watch() {
    let (_server, paths, mut t, text) = with_definition().await;
    let watch = t.register(&json!({ "provider": "mine", "jobId": "job_1", "notify": [] })).await;
    let next = text.replace("/v1-cancel", "/v2-cancel");
    assert_eq!(put_as(&t, KEY, PATH, &next).await.expect(200)["version"], 2);
    cancel(&t, &watch).await;
    t.rest().await;
    assert_eq!(result(&t, &watch).await[0], "pending");
    // The version is kept without a running watch, also after the definition is deleted, and across a crash.
    assert_eq!(t.delete(PATH).await.status, 204);
    t.crash().await;
    t.restart().await;
    t.pass(minutes(3)).await;
    let cancels: Vec<String> =
        paths.lock().unwrap().iter().filter(|path| path.starts_with("POST")).cloned().collect();
    assert_eq!(cancels, ["POST /jobs/job_1/v1-cancel"]);
    assert_eq!(result(&t, &watch).await[0], "accepted");
    t.finish().await;
}

#[tokio::test]
async fn a_version_without_cancel_refuses_the_stop() {
    let (_server, paths, t, text) = with_definition().await;
    let next = text.replace("[cancel]\npath = \"/v1-cancel\"\n", "");
    assert_eq!(put_as(&t, KEY, PATH, &next).await.expect(200)["version"], 2);
    let watch = t.register(&json!({ "provider": "mine", "jobId": "job_1", "notify": [] })).await;
    assert_eq!(put_as(&t, KEY, PATH, &text).await.expect(200)["version"], 3);
    let refused =
        t.post(&format!("/v1/watches/{watch}/stop"), &json!({ "cancelJob": true })).await.expect(422);
    assert!(refused.to_string().contains("cancelJob"), "{refused}");
    assert_eq!(t.shown(&watch).await["status"], "watching");
    t.pass(minutes(2)).await;
    assert!(paths.lock().unwrap().iter().all(|path| path.starts_with("GET")));
    t.stop_watch(&watch).await.expect(200);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_credential_of_the_app_cancels_without_permission,
    a_credential_stays_as_long_as_a_cancellation_needs_it,
    a_key_that_is_no_longer_shared_cancels_nothing,
    a_cancellation_whose_provider_is_gone_ends,
    a_cancellation_uses_the_version_of_its_watch,
    a_version_without_cancel_refuses_the_stop,
}
