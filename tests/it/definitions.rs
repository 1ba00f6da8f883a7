//! Definitions of the operator's folder: what they change in the service.

use std::fs;

use serde_json::json;

use crate::fakes::{PROVIDER_KEY, Reply, error};
use crate::harness::{Harness, seconds, since_start};

/// A definition of schema 2 for the provider of the tests, in which an HTTP 422 can be a good answer without news.
const NOT_YET: &str = r#"
schema = 2
id = "muvi"
name = "Muvi"
docs = "https://muvi.example/docs"
[params.job_id]
pattern = "[a-z0-9_]+"
[auth]
type = "bearer"
send_to = ["api.muvi.example"]
[request]
url = "https://api.muvi.example/v1/jobs/{job_id}"
[[rule]]
http = [422]
all = [{ path = "$.error.message", is = "Request is still in progress" }]
answer = "not_yet"
[status]
path = "$.status"
[status.map]
processing = ["processing"]
completed = ["completed"]
failed = ["failed"]
[extract]
job_id = "$.jobId"
[poll]
price = "5s"
[limits]
rate = "off"
[[example]]
job_id = "job_1"
http = 422
body = '{"error": {"message": "Request is still in progress"}}'
expect = { answer = "not_yet" }
[[example]]
job_id = "job_1"
body = '{"jobId": "job_1", "status": "completed"}'
expect = { answer = "seen", status = "completed", raw_status = "completed" }
[[example]]
job_id = "job_1"
body = '{"jobId": "job_1", "status": "failed"}'
expect = { answer = "seen", status = "failed", raw_status = "failed" }
"#;

// Once: definitions are read from files; the store has no part in it.
#[tokio::test]
async fn a_definition_with_mistakes_disables_its_provider_only() {
    let folder = tempfile::tempdir().unwrap();
    let broken = NOT_YET.replace("id = \"muvi\"", "id = \"acme\"").replace("$.jobId", "jobId");
    fs::write(folder.path().join("broken.toml"), broken).unwrap();
    let t = Harness::with(&[("RINGBACK_PROVIDERS__PATH", &folder.path().display().to_string())]).await;
    let list = t.get("/v1/providers").await.expect(200);
    let acme = list["data"].as_array().unwrap().iter().find(|one| one["id"] == "acme").unwrap().clone();
    assert_eq!((&acme["health"]["status"], &acme["configured"]), (&json!("invalid"), &json!(false)));
    let error = acme["errors"][0].as_str().unwrap();
    assert!(error.contains("broken.toml:24:10: extract.job_id: `jobId` is not a path"), "{error}");
    let body = json!({ "jobId": "job_1", "provider": "acme", "notify": [] });
    let refused = t.post("/v1/watches", &body).await.expect(422);
    assert!(refused.to_string().contains("the definition of `acme` has mistakes"), "{refused}");
    t.provider.completed("job_1");
    t.watch("job_1").await;
    t.pass(seconds(10)).await;
    t.receiver.next().await;
    t.finish().await;
}

// Once: the decision is the same on both databases.
#[tokio::test]
async fn a_good_answer_without_news_is_polled_again_by_the_schedule() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("muvi.toml"), NOT_YET).unwrap();
    let t = Harness::with(&[("RINGBACK_PROVIDERS__PATH", &folder.path().display().to_string())]).await;
    let not_yet = || Reply::json(422, &json!({ "error": { "message": "Request is still in progress" } }));
    t.provider.processing("job_1", 0);
    t.provider.script("job_1", [not_yet(), not_yet(), not_yet()]);
    let watch = t.watch("job_1").await;
    t.pass(seconds(60)).await;
    let shown = t.shown(&watch).await;
    assert_eq!((&shown["status"], &shown["job"]["lastError"]), (&json!("watching"), &json!(null)), "{shown}");
    let list = t.get("/v1/providers").await.expect(200);
    assert_eq!(list["data"][0]["health"]["status"], "ok", "{list}");
    // As for any answer about a running job.
    assert_eq!(since_start(&t.provider.polls("job_1"))[..3], [5, 20, 45]);
    t.finish().await;
}

// Once: what is hidden never reaches the database.
#[tokio::test]
async fn an_answer_with_the_key_of_the_provider_is_passed_on_without_it() {
    let t = Harness::start().await;
    // A message is cut after 500 characters.
    let cut = format!("{} {PROVIDER_KEY} and more", "x".repeat(491));
    t.provider.processing("job_1", 0);
    t.provider.script("job_1", [error(500, "INTERNAL_ERROR", &cut), error(500, PROVIDER_KEY, "why")]);
    let output = format!("https://cdn.example/1.mp4?key={PROVIDER_KEY}");
    t.provider.job("job_2", &json!({ "status": "completed", "output": output }));
    let failure = json!({ "code": "E1", "message": format!("bad key {PROVIDER_KEY}") });
    t.provider.job("job_3", &json!({ "status": "failed", "error": failure }));
    let mut shown = Vec::new();
    for job in ["job_1", "job_2", "job_3"] {
        shown.push(t.watch(job).await);
    }
    t.pass(seconds(30)).await;
    for watch in shown {
        let text = t.shown(&watch).await.to_string();
        assert!(!text.contains(&PROVIDER_KEY[..6]), "{text}");
    }
    for _ in 0..2 {
        let received = t.receiver.next().await;
        assert!(!String::from_utf8_lossy(&received.body).contains(&PROVIDER_KEY[..6]), "{received:?}");
    }
    let list = t.get("/v1/providers").await.expect(200).to_string();
    assert!(list.contains("HTTP 500") && !list.contains(&PROVIDER_KEY[..6]), "{list}");
    t.finish().await;
}

// Once: the limits are in memory.
#[tokio::test]
async fn redirects_count_for_the_rate_of_the_provider() {
    let folder = tempfile::tempdir().unwrap();
    let text = NOT_YET
        .replace("[[rule]]\n", "redirect = \"same-origin\"\n[[rule]]\n")
        .replace("rate = \"off\"", "rate = \"1/s\"");
    fs::write(folder.path().join("muvi.toml"), text).unwrap();
    let t = Harness::with(&[("RINGBACK_PROVIDERS__PATH", &folder.path().display().to_string())]).await;
    let redirect = || Reply::json(302, &json!({})).with("location", "/v1/jobs/job_1");
    t.provider.processing("job_1", 0);
    t.provider.script("job_1", [redirect(), redirect(), redirect()]);
    t.provider.processing("job_2", 0);
    t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.watch("job_2").await;
    t.pass(seconds(12)).await;
    // The first poll made four requests, so the next one starts four seconds later.
    let (first, second) = (since_start(&t.provider.polls("job_1")), since_start(&t.provider.polls("job_2")));
    assert_eq!(first[..4], [5, 5, 5, 5], "{first:?}");
    assert!(second[0] >= 9, "{first:?} {second:?}");
    t.finish().await;
}
