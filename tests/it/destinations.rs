//! Saved destinations: `/v1/destinations`, and the deliveries to them.

use std::collections::BTreeSet;

use ringback::channels::webhook::{Secret, verify};
use serde_json::{Value, json};

use crate::fakes::{Hit, Reply};
use crate::harness::{AUTH, Harness, JSON, id, minutes, seconds};
use crate::tenants::tenant;
use crate::wire::Answer;

const PATH: &str = "/v1/destinations";

/// Saves a destination. The receiver then expects its secret at `path`.
pub async fn save(t: &Harness, path: &str, more: Value) -> String {
    let mut body = json!({ "name": "ops", "url": t.receiver.url(path) });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = t.post(PATH, &body).await.expect(201);
    t.receiver.secret(path, made["secret"].as_str().unwrap());
    id(&made)
}

pub async fn patch(t: &Harness, destination: &str, body: &Value) -> Answer {
    let path = format!("{PATH}/{destination}");
    t.send("PATCH", &path, &[AUTH, JSON], body.to_string().as_bytes()).await
}

pub async fn shown(t: &Harness, destination: &str) -> Value {
    t.get(&format!("{PATH}/{destination}")).await.expect(200)
}

/// Registers a watch on a job that has completed, with this destination.
async fn notify(t: &Harness, job: &str, destination: &str) -> String {
    t.provider.completed(job);
    t.register(&json!({ "jobId": job, "notify": [{ "destinationId": destination }] })).await
}

/// Returns the status and the reason of each delivery to a destination, oldest first.
async fn deliveries(t: &Harness, destination: &str) -> Vec<(String, Value)> {
    let found = t.get(&format!("/v1/deliveries?destinationId={destination}&limit=200")).await.expect(200);
    let text = |one: &Value| (one["status"].as_str().unwrap().to_owned(), one["reason"].clone());
    found["data"].as_array().unwrap().iter().rev().map(text).collect()
}

/// Returns the pointers and codes of a 422 answer.
#[track_caller]
fn errors(answer: &Answer) -> Vec<(String, String)> {
    let problem = answer.expect(422);
    let field = |error: &Value, name: &str| error[name].as_str().unwrap().to_owned();
    problem["errors"].as_array().unwrap().iter().map(|e| (field(e, "pointer"), field(e, "code"))).collect()
}

fn error(pointer: &str, code: &str) -> (String, String) {
    (pointer.to_owned(), code.to_owned())
}

#[tokio::test]
async fn a_saved_destination_is_created_listed_changed_and_deleted() {
    let t = Harness::start().await;
    let body = json!({
        "name": "ops", "description": "two\nlines", "url": t.receiver.url("/a"), "headers": { "X-Env": "hush" },
        "events": ["job.*"], "rate": "600/m", "concurrency": 4, "ordered": true,
    });
    let made = t.post(PATH, &body).await.expect(201);
    let destination = id(&made);
    assert!(made["secret"].as_str().unwrap().starts_with("whsec_"));
    let expected = json!({
        "id": destination, "name": "ops", "description": "two\nlines", "type": "webhook", "url": t.receiver.url("/a"),
        "headers": { "x-env": "***" },
        "events": ["job.completed", "job.failed", "job.cancelled", "job.not_found", "job.processing", "job.progress"],
        "enabled": true, "disabledReason": null, "disabledAt": null, "default": false, "rate": "10/s",
        "concurrency": 4, "ordered": true, "managed": false, "createdAt": "2026-02-18T15:00:00.000Z",
        "health": { "successRate": null, "latencyMs": { "p50": null, "p95": null }, "lastError": null,
                    "failingSince": null },
    });
    assert_eq!(shown(&t, &destination).await, expected, "without the secret");
    let second = save(&t, "/b", json!({})).await;
    let page = t.get(&format!("{PATH}?limit=1")).await.expect(200);
    assert_eq!(id(&page["data"][0]), second, "newest first");
    let next = page["nextCursor"].as_str().unwrap();
    let page = t.get(&format!("{PATH}?limit=1&cursor={next}")).await.expect(200);
    assert_eq!((&page["data"][0], &page["nextCursor"]), (&expected, &Value::Null));
    let change = json!({ "name": null, "description": null, "rate": null, "concurrency": null, "events": null,
        "headers": null, "ordered": false, "url": t.receiver.url("/c"), "type": "webhook" });
    let changed = patch(&t, &destination, &change).await.expect(200);
    for field in ["name", "description", "rate", "concurrency", "headers"] {
        assert_eq!(changed[field], Value::Null, "{field}");
    }
    assert_eq!(
        (&changed["url"], changed["events"].as_array().unwrap().len()),
        (&json!(t.receiver.url("/c")), 5)
    );
    assert_eq!(shown(&t, &destination).await, changed);
    assert_eq!(t.delete(&format!("{PATH}/{destination}")).await.status, 204);
    assert_eq!(t.get(&format!("{PATH}/{destination}")).await.status, 404);
    assert_eq!(t.get(PATH).await.expect(200)["data"].as_array().unwrap().len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn invalid_fields_of_a_destination_are_named() {
    let t = Harness::start().await;
    let body = json!({
        "name": "", "description": "a\u{7}", "url": "http://169.254.169.254/", "secret": "hush", "events": [],
        "enabled": 1, "default": "yes", "rate": "2000/s", "concurrency": 0, "ordered": null, "signature": "x",
        "headers": { "host": "x" },
    });
    let found: BTreeSet<(String, String)> = errors(&t.post(PATH, &body).await).into_iter().collect();
    let expected = [
        ("/name", "empty"),
        ("/description", "invalid_format"),
        ("/secret", "invalid_secret"),
        ("/events", "empty"),
        ("/enabled", "invalid_type"),
        ("/default", "invalid_type"),
        ("/rate", "out_of_range"),
        ("/concurrency", "out_of_range"),
        ("/signature", "invalid_value"),
        ("/headers/host", "invalid_header"),
    ];
    assert_eq!(found, expected.iter().map(|(pointer, code)| error(pointer, code)).collect());
    assert_eq!(
        errors(&t.post(PATH, &json!({ "url": "http://169.254.169.254/" })).await),
        [error("/url", "forbidden_address")]
    );
    assert_eq!(errors(&t.post(PATH, &json!({})).await), [error("/url", "required")]);
    let destination = save(&t, "/a", json!({})).await;
    for (change, expected) in [
        (json!({}), error("", "empty")),
        (json!({ "secret": "whsec_x" }), error("/secret", "unknown_field")),
        (json!({ "type": "slack" }), error("/type", "conflict")),
        (json!({ "concurrency": 1.5 }), error("/concurrency", "invalid_type")),
        (json!({ "concurrency": "4" }), error("/concurrency", "invalid_type")),
        (json!({ "url": "ftp://a.example" }), error("/url", "invalid_address")),
        (json!({ "managed": true }), error("/managed", "unknown_field")),
    ] {
        assert_eq!(errors(&patch(&t, &destination, &change).await), [expected], "{change}");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_registration_uses_a_saved_destination_by_its_id() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({ "headers": { "x-env": "prod" } })).await;
    t.provider.completed("job_1");
    let saved = json!({ "destinationId": destination });
    let body = json!({ "jobId": "job_1", "destinationId": destination, "notify": [saved, saved] });
    let watch = t.post("/v1/watches", &body).await.expect(201);
    let expected = json!([{ "id": destination, "type": "webhook", "url": t.receiver.url("/a"),
        "headers": { "x-env": "***" }, "status": null, "reason": null, "deliveryId": null, "attemptCount": 0,
        "lastError": null, "nextAttemptAt": null, "waiting": null }]);
    assert_eq!(watch["destinations"], expected, "once");
    assert_eq!(t.shown(&id(&watch)).await["destinations"], expected);
    t.pass(seconds(5)).await;
    let hit = t.receiver.next_to("/a").await;
    assert_eq!(hit.header("x-env"), "prod");
    let delivery = t.delivery(&id(&watch)).await;
    assert_eq!(delivery["destinationId"], json!(destination));
    assert_eq!(delivery["destination"], json!({ "type": "webhook", "url": t.receiver.url("/a") }));
    assert_eq!(delivery["status"], "succeeded");
    // A watch can get it later, once.
    t.provider.processing("job_2", 1);
    let watch = t.register(&json!({ "jobId": "job_2", "notify": [] })).await;
    for _ in 0..2 {
        let change = json!({ "notify": [{ "destinationId": destination }] }).to_string();
        let path = format!("/v1/watches/{watch}");
        let amended = t.send("PATCH", &path, &[AUTH, JSON], change.as_bytes()).await.expect(200);
        assert_eq!(amended["destinations"].as_array().unwrap().len(), 1);
    }
    t.finish().await;
}

#[tokio::test]
async fn an_unknown_disabled_or_foreign_destination_is_refused() {
    let t = Harness::start().await;
    let other = tenant(&t, "other").await;
    let body = json!({ "url": t.receiver.url("/x") }).to_string();
    let foreign = id(&t.as_key(&other.key, "POST", PATH, &body).await.expect(201));
    let disabled = save(&t, "/a", json!({ "enabled": false })).await;
    let unknown = "dst_00000000000000000000000000".to_owned();
    let register = async |entry: Value| {
        errors(&t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": [entry] })).await)
    };
    for destination in [&foreign, &unknown] {
        let found = register(json!({ "destinationId": destination })).await;
        assert_eq!(found, [error("/notify/0/destinationId", "unknown_destination")]);
    }
    let found = register(json!({ "destinationId": disabled })).await;
    assert_eq!(found, [error("/notify/0/destinationId", "destination_disabled")]);
    let found = register(json!({ "destinationId": "dst_1" })).await;
    assert_eq!(found, [error("/notify/0/destinationId", "invalid_format")]);
    let found = register(json!({ "destinationId": unknown, "url": "https://a.example" })).await;
    assert!(found.contains(&error("/notify/0/url", "conflict")), "{found:?}");
    let found = t.post("/v1/watches", &json!({ "jobId": "job_1", "destinationId": disabled })).await;
    assert_eq!(errors(&found), [error("/destinationId", "destination_disabled")]);
    t.finish().await;
}

#[tokio::test]
async fn a_default_destination_receives_watches_that_name_none() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let bare = json!({ "jobId": "job_1" });
    let answer = t.post("/v1/watches", &bare).await;
    assert_eq!(errors(&answer), [error("/callbackUrl", "required")]);
    assert!(answer.text().contains("default"), "{}", answer.text());
    let destination = save(&t, "/a", json!({ "default": true })).await;
    let watch = t.post("/v1/watches", &bare).await.expect(201);
    assert_eq!(watch["destinations"][0]["id"], json!(destination));
    for named in [json!([]), json!([t.receiver.url("/b")])] {
        let watch = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": named })).await.expect(201);
        assert!(!watch["destinations"].to_string().contains(&destination), "{watch}");
    }
    let items = json!({ "watches": [bare, { "jobId": "job_1", "notify": [] }] });
    let batch = t.post("/v1/watches/batch", &items).await.expect(200);
    assert_eq!(batch["data"][0]["watch"]["destinations"][0]["id"], json!(destination));
    t.pass(seconds(5)).await;
    let paths: Vec<String> = t.receiver.take(3).await.into_iter().map(|hit| hit.path).collect();
    assert_eq!(paths.iter().filter(|path| *path == "/a").count(), 2);
    patch(&t, &destination, &json!({ "default": false })).await.expect(200);
    assert_eq!(errors(&t.post("/v1/watches", &bare).await), [error("/callbackUrl", "required")]);
    t.finish().await;
}

#[tokio::test]
async fn a_registration_for_disabled_defaults_only_is_refused() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let bare = json!({ "jobId": "job_1" });
    let first = save(&t, "/a", json!({ "default": true, "enabled": false })).await;
    let second = save(&t, "/b", json!({ "default": true, "enabled": false })).await;
    let refused = t.post("/v1/watches", &bare).await;
    assert_eq!(errors(&refused), [error("/callbackUrl", "destination_disabled")]);
    let remedies = [first.as_str(), &second, "/v1/destinations/{id}/enable", "notify"];
    assert!(remedies.iter().all(|part| refused.text().contains(part)), "{}", refused.text());
    let batch = t.post("/v1/watches/batch", &json!({ "watches": [bare, bare] })).await.expect(200);
    for item in batch["data"].as_array().unwrap() {
        assert_eq!(item["problem"]["errors"][0]["code"], "destination_disabled", "{item}");
    }
    // One that is enabled suffices. The other one gets a delivery that is sent when it is enabled.
    t.act(&format!("{PATH}/{second}/enable")).await.expect(200);
    t.post("/v1/watches", &bare).await.expect(201);
    t.pass(seconds(5)).await;
    t.receiver.next_to("/b").await;
    assert_eq!(deliveries(&t, &first).await, [("skipped".to_owned(), json!("disabled"))]);
    t.post(&format!("{PATH}/{first}/enable"), &json!({ "retrySkipped": true })).await.expect(200);
    t.rest().await;
    t.receiver.next_to("/a").await;
    assert_eq!(deliveries(&t, &first).await, [("succeeded".to_owned(), Value::Null)]);
    t.finish().await;
}

#[tokio::test]
async fn the_watch_and_the_destination_both_admit_an_event() {
    let t = Harness::start().await;
    let failures = save(&t, "/failures", json!({ "events": ["job.failed"] })).await;
    let all = save(&t, "/all", json!({ "events": ["job.*"] })).await;
    let both = json!([{ "destinationId": failures }, { "destinationId": all }]);
    t.provider.completed("job_1");
    t.register(&json!({ "jobId": "job_1", "notify": both })).await;
    t.provider.failed("job_2");
    t.register(&json!({ "jobId": "job_2", "notify": both })).await;
    t.provider.completed("job_3");
    t.register(&json!({ "jobId": "job_3", "notify": both, "events": ["job.failed"] })).await;
    t.pass(seconds(5)).await;
    let hits = t.receiver.take(3).await;
    let mut found: Vec<(&str, &str)> = hits.iter().map(|hit| (hit.path.as_str(), hit.event())).collect();
    found.sort_unstable();
    assert_eq!(found, [("/all", "job.completed"), ("/all", "job.failed"), ("/failures", "job.failed")]);
    assert_eq!(deliveries(&t, &failures).await.len(), 1, "no delivery is made for another type");
    t.finish().await;
}

#[tokio::test]
async fn a_change_applies_to_pending_deliveries() {
    let mut t = Harness::start().await;
    let destination = save(&t, "/old", json!({ "headers": { "x-env": "old" } })).await;
    t.receiver.always("/old", Some(Reply::status(500)));
    notify(&t, "job_1", &destination).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next_to("/old").await.header("x-env"), "old");
    let secret = t.receiver.all().len();
    assert_eq!(secret, 1);
    let change = json!({ "url": t.receiver.url("/new"), "headers": { "x-env": "new" } });
    patch(&t, &destination, &change).await.expect(200);
    let rotated = t.act(&format!("{PATH}/{destination}/rotate-secret")).await.expect(200);
    t.receiver.secret("/new", rotated["secret"].as_str().unwrap());
    t.crash().await;
    t.restart().await;
    t.pass(seconds(10)).await;
    assert_eq!(t.receiver.next_to("/new").await.header("x-env"), "new");
    assert_eq!(deliveries(&t, &destination).await, [("succeeded".to_owned(), Value::Null)]);
    t.finish().await;
}

// Once: nothing is stored.
#[tokio::test]
async fn hidden_values_are_not_sent_to_another_origin() {
    let t = Harness::start().await;
    let auth = json!({ "type": "basic", "username": "u", "password": "hush" });
    let more = json!({ "headers": { "authorization2": "hush" }, "auth": auth });
    let destination = save(&t, "/a", more).await;
    patch(&t, &destination, &json!({ "url": t.receiver.url("/b") })).await.expect(200);
    let elsewhere = json!({ "url": "http://127.0.0.1:1/c" });
    let refused = patch(&t, &destination, &elsewhere).await;
    assert_eq!(errors(&refused), [error("/headers", "required"), error("/auth", "required")]);
    let given = json!({ "url": "http://127.0.0.1:1/c", "headers": { "x-env": "new" }, "auth": null });
    let after = patch(&t, &destination, &given).await.expect(200);
    assert_eq!(after["headers"], json!({ "x-env": "***" }));
    patch(&t, &destination, &json!({ "headers": null })).await.expect(200);
    patch(&t, &destination, &json!({ "url": t.receiver.url("/d") })).await.expect(200);
    t.finish().await;
}

/// Returns whether a request is signed with a secret.
fn is_signed(hit: &Hit, secret: &str, now: ringback::domain::Timestamp) -> bool {
    let secret = Secret::parse(secret).unwrap();
    let (id, timestamp) = (hit.header("webhook-id"), hit.header("webhook-timestamp"));
    let signatures = hit.header("webhook-signature");
    verify(&secret, id, timestamp, signatures, &hit.body, now, seconds(300)).is_ok()
}

#[tokio::test]
async fn both_secrets_sign_within_the_grace() {
    let t = Harness::start().await;
    let given = "whsec_Z2l2ZW4tc2VjcmV0LW9mLWEtZGVzdGluYXRpb24=";
    let destination = save(&t, "/a", json!({ "secret": given })).await;
    let path = format!("{PATH}/{destination}/rotate-secret");
    let rotated = t.post(&path, &json!({ "grace": "1h" })).await.expect(200);
    assert_eq!(rotated["previous"], json!({ "expiresAt": "2026-02-18T16:00:00.000Z" }));
    let new = rotated["secret"].as_str().unwrap().to_owned();
    notify(&t, "job_1", &destination).await;
    t.pass(seconds(5)).await;
    let hit = t.receiver.next_to("/a").await;
    assert!(is_signed(&hit, given, t.now()) && is_signed(&hit, &new, t.now()));
    t.pass(minutes(60)).await;
    t.receiver.secret("/a", &new);
    notify(&t, "job_2", &destination).await;
    t.pass(seconds(5)).await;
    let hit = t.receiver.next_to("/a").await;
    assert!(!is_signed(&hit, given, t.now()) && is_signed(&hit, &new, t.now()));
    // Without a grace, the new secret signs alone.
    let newest = t.post(&path, &json!({ "grace": "0s" })).await.expect(200);
    assert_eq!(newest["previous"], Value::Null);
    t.receiver.secret("/a", newest["secret"].as_str().unwrap());
    notify(&t, "job_3", &destination).await;
    t.pass(seconds(5)).await;
    assert!(!is_signed(&t.receiver.next_to("/a").await, &new, t.now()));
    t.finish().await;
}

#[tokio::test]
async fn a_disabled_destination_skips_and_enabling_sends_what_was_skipped() {
    let mut t = Harness::start().await;
    let destination = save(&t, "/a", json!({})).await;
    t.receiver.script("/a", [Reply::status(500)]);
    notify(&t, "job_1", &destination).await;
    t.provider.processing("job_2", 1);
    t.register(&json!({ "jobId": "job_2", "notify": [{ "destinationId": destination }] })).await;
    t.pass(seconds(5)).await;
    t.receiver.next_to("/a").await;
    let off = patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    assert_eq!((&off["enabled"], &off["disabledReason"]), (&json!(false), &json!("manual")));
    t.rest().await;
    let skipped = ("skipped".to_owned(), json!("disabled"));
    assert_eq!(deliveries(&t, &destination).await, std::slice::from_ref(&skipped), "the pending one");
    t.provider.completed("job_2");
    t.pass(minutes(2)).await;
    assert_eq!(deliveries(&t, &destination).await, [skipped.clone(), skipped.clone()], "and the new one");
    let found = t.get(&format!("/v1/deliveries?destinationId={destination}")).await.expect(200);
    let retry = t.act(&format!("/v1/deliveries/{}/retry", id(&found["data"][0]))).await;
    assert_eq!(retry.expect(409)["code"], "destination_disabled");
    // Without `retrySkipped`, they stay skipped.
    let path = format!("{PATH}/{destination}/enable");
    assert_eq!(t.act(&path).await.expect(200)["enabled"], true);
    t.rest().await;
    assert_eq!(deliveries(&t, &destination).await, [skipped.clone(), skipped]);
    t.post(&path, &json!({ "retrySkipped": true })).await.expect(200);
    t.stop().await;
    t.restart().await;
    t.rest().await;
    t.receiver.take(2).await;
    let succeeded = ("succeeded".to_owned(), Value::Null);
    assert_eq!(deliveries(&t, &destination).await, [succeeded.clone(), succeeded]);
    t.finish().await;
}

#[tokio::test]
async fn a_skipped_delivery_that_fails_again_follows_its_schedule() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({})).await;
    t.provider.processing("job_1", 1);
    t.register(&json!({ "jobId": "job_1", "notify": [{ "destinationId": destination }] })).await;
    patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    t.receiver.script("/a", [Reply::status(500), Reply::status(500)]);
    let path = format!("{PATH}/{destination}/enable");
    t.post(&path, &json!({ "retrySkipped": true })).await.expect(200);
    t.rest().await;
    t.receiver.next_to("/a").await;
    assert_eq!(deliveries(&t, &destination).await, [("pending".to_owned(), Value::Null)]);
    t.pass(minutes(10)).await;
    t.receiver.take(2).await;
    assert_eq!(deliveries(&t, &destination).await, [("succeeded".to_owned(), Value::Null)]);
    t.finish().await;
}

#[tokio::test]
async fn many_skipped_deliveries_are_sent_in_chunks_without_stopped_watches() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({ "default": true })).await;
    let items: Vec<Value> = (0..450)
        .map(|n| {
            t.provider.processing(&format!("job_{n}"), 1);
            json!({ "jobId": format!("job_{n}") })
        })
        .collect();
    let batch = t.post("/v1/watches/batch", &json!({ "watches": items })).await.expect(200);
    patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    for n in 0..450 {
        t.provider.completed(&format!("job_{n}"));
    }
    t.pass(minutes(2)).await;
    let stopped = id(&batch["data"][7]["watch"]);
    t.stop_watch(&stopped).await.expect(200);
    let path = format!("{PATH}/{destination}/enable");
    t.post(&path, &json!({ "retrySkipped": true })).await.expect(200);
    t.rest().await;
    let hits = t.receiver.take(449).await;
    assert!(hits.iter().all(|hit| hit.watch() != stopped));
    assert_eq!(t.get("/v1/deliveries?status=pending").await.expect(200)["data"], json!([]));
    t.finish().await;
}

#[tokio::test]
async fn a_destination_that_is_gone_is_disabled_at_once() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({})).await;
    t.receiver.script("/a", [Reply::status(500), Reply::status(410)]);
    notify(&t, "job_1", &destination).await;
    t.pass(seconds(5)).await;
    notify(&t, "job_2", &destination).await;
    t.pass(seconds(5)).await;
    t.receiver.take(2).await;
    let shown_now = shown(&t, &destination).await;
    assert_eq!(
        (&shown_now["disabledReason"], &shown_now["health"]["lastError"]),
        (&json!("gone"), &json!("HTTP 410"))
    );
    let expected = [("skipped", json!("disabled")), ("failed", json!("gone"))];
    let expected: Vec<_> = expected.map(|(status, reason)| (status.to_owned(), reason)).into();
    let mut found = deliveries(&t, &destination).await;
    found.sort_by_key(|(status, _)| std::cmp::Reverse(status.clone()));
    assert_eq!(found, expected, "the jitter decides which of the two gets the 410");
    // Once enabled, it receives the next watch.
    t.act(&format!("{PATH}/{destination}/enable")).await.expect(200);
    notify(&t, "job_3", &destination).await;
    t.pass(seconds(5)).await;
    t.receiver.next_to("/a").await;
    t.finish().await;
}

#[tokio::test]
async fn five_days_without_a_success_disable_a_destination() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({})).await;
    t.receiver.always("/a", Some(Reply::status(500)));
    notify(&t, "job_1", &destination).await;
    t.pass(minutes(3 * 24 * 60)).await;
    notify(&t, "job_2", &destination).await;
    t.pass(minutes(46 * 60)).await;
    let before = shown(&t, &destination).await;
    assert_eq!(before["enabled"], true, "{before}");
    assert_eq!(before["health"]["failingSince"].as_str().unwrap()[..13], *"2026-02-18T15");
    t.pass(minutes(24 * 60)).await;
    let attempts = t.receiver.read_all().len();
    let after = shown(&t, &destination).await;
    assert!(attempts >= 20 || after["enabled"] == true, "{attempts}");
    notify_or_refused(&t, &destination, attempts).await;
    t.finish().await;
}

/// Checks that the destination is disabled as soon as there are enough attempts.
async fn notify_or_refused(t: &Harness, destination: &str, mut attempts: usize) {
    for n in 10.. {
        if shown(t, destination).await["enabled"] == false {
            break;
        }
        notify(t, &format!("job_{n}"), destination).await;
        t.pass(seconds(5)).await;
        attempts += t.receiver.read_all().len();
    }
    assert!((20..=21).contains(&attempts), "{attempts}");
    let after = shown(t, destination).await;
    assert_eq!((&after["disabledReason"], &after["health"]["successRate"]), (&json!("failing"), &json!(0.0)));
    t.receiver.always("/a", None);
    t.rest().await;
    assert_eq!(t.get("/v1/deliveries?status=pending").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn the_health_of_a_destination_covers_a_day() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({})).await;
    t.receiver.script("/a", [Reply::status(500)]);
    notify(&t, "job_1", &destination).await;
    t.pass(seconds(5)).await;
    let health = async || shown(&t, &destination).await["health"].clone();
    let failing = health().await;
    assert_eq!((&failing["successRate"], &failing["lastError"]), (&json!(0.0), &json!("HTTP 500")));
    assert!(failing["failingSince"].is_string());
    t.pass(seconds(10)).await;
    t.receiver.take(2).await;
    let works = health().await;
    assert_eq!((&works["successRate"], &works["lastError"]), (&json!(0.5), &Value::Null));
    assert_eq!((&works["failingSince"], works["latencyMs"]["p50"].is_number()), (&Value::Null, true));
    t.pass(minutes(25 * 60)).await;
    assert_eq!(health().await["successRate"], Value::Null);
    t.finish().await;
}

#[tokio::test]
async fn a_destination_that_a_running_watch_names_is_not_deleted() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({})).await;
    t.receiver.script("/a", [Reply::status(500)]);
    let first = notify(&t, "job_1", &destination).await;
    t.pass(seconds(5)).await;
    t.receiver.next_to("/a").await;
    t.provider.processing("job_2", 1);
    let running =
        t.register(&json!({ "jobId": "job_2", "notify": [{ "destinationId": destination }] })).await;
    let path = format!("{PATH}/{destination}");
    assert_eq!(t.delete(&path).await.expect(409)["code"], "destination_in_use");
    t.stop_watch(&running).await.expect(200);
    assert_eq!(t.delete(&path).await.status, 204);
    t.rest().await;
    let delivery = t.delivery(&first).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("skipped"), &json!("disabled")));
    assert_eq!(delivery["destination"]["url"], json!(t.receiver.url("/a")), "it is still shown");
    let body = json!({ "jobId": "job_1", "notify": [{ "destinationId": destination }] });
    assert_eq!(
        errors(&t.post("/v1/watches", &body).await),
        [error("/notify/0/destinationId", "unknown_destination")]
    );
    t.finish().await;
}

/// Registers jobs that have completed, in one batch.
async fn register_completed(t: &Harness, jobs: std::ops::Range<u32>, destination: &str) {
    let job = |n: u32| {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        json!({ "jobId": job, "destinationId": destination })
    };
    let items: Vec<Value> = jobs.map(job).collect();
    t.post("/v1/watches/batch", &json!({ "watches": items })).await.expect(200);
}

#[tokio::test]
async fn a_changed_rate_applies_to_what_waits_for_the_old_one() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({ "rate": "1/h" })).await;
    register_completed(&t, 0..2, &destination).await;
    t.pass(seconds(10)).await;
    let first = t.receiver.take(1).await[0].at;
    patch(&t, &destination, &json!({ "rate": "1/m" })).await.expect(200);
    t.pass(minutes(2)).await;
    let second = t.receiver.take(1).await[0].at;
    assert_eq!(second.since(first), minutes(1), "by the new rate after the last attempt");
    patch(&t, &destination, &json!({ "rate": "1/h" })).await.expect(200);
    register_completed(&t, 2..4, &destination).await;
    t.pass(minutes(10)).await;
    t.receiver.take(1).await;
    assert_eq!(t.receiver.count(), 3, "a lower rate applies as well");
    patch(&t, &destination, &json!({ "rate": null })).await.expect(200);
    t.pass(seconds(1)).await;
    t.receiver.take(1).await;
    t.finish().await;
}

#[tokio::test]
async fn a_rate_limits_the_attempts_to_a_destination() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({ "rate": "2/s" })).await;
    register_completed(&t, 0..6, &destination).await;
    t.pass(seconds(10)).await;
    let mut times: Vec<i64> = t.receiver.take(6).await.iter().map(|hit| hit.at.millis()).collect();
    times.sort_unstable();
    let gaps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [500; 5]);
    // A slow rate leaves what waits in the store.
    patch(&t, &destination, &json!({ "rate": "1/m" })).await.expect(200);
    register_completed(&t, 0..6, &destination).await;
    t.pass(minutes(10)).await;
    let mut times: Vec<i64> = t.receiver.take(6).await.iter().map(|hit| hit.at.millis()).collect();
    times.sort_unstable();
    let gaps: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(gaps, [60_000; 5]);
    t.finish().await;
}

#[tokio::test]
async fn a_rate_outlasts_a_restart_and_a_crash() {
    let mut t = Harness::start().await;
    let destination = save(&t, "/a", json!({ "rate": "1/m" })).await;
    register_completed(&t, 0..3, &destination).await;
    t.pass(seconds(10)).await;
    let first = t.receiver.take(1).await[0].at;
    t.stop().await;
    t.restart().await;
    t.pass(seconds(30)).await;
    assert_eq!(t.receiver.unread().len(), 0);
    t.pass(minutes(1)).await;
    let second = t.receiver.take(1).await[0].at;
    t.crash().await;
    t.restart().await;
    t.pass(minutes(2)).await;
    let third = t.receiver.take(1).await[0].at;
    assert_eq!((second.since(first), third.since(second)), (minutes(1), minutes(1)));
    t.finish().await;
}

#[tokio::test]
async fn a_concurrency_limits_the_attempts_in_progress() {
    let t = Harness::start().await;
    let destination = save(&t, "/a", json!({ "concurrency": 2 })).await;
    let gates: Vec<_> = (0..5)
        .map(|_| {
            let (reply, pacing) = Reply::status(200).held();
            t.receiver.script("/a", [reply]);
            pacing
        })
        .collect();
    for n in 0..5 {
        notify(&t, &format!("job_{n}"), &destination).await;
    }
    t.pass(seconds(10)).await;
    assert_eq!(t.receiver.count(), 2);
    for gate in gates {
        gate.open();
    }
    t.receiver.take(5).await;
    t.rest().await;
    t.finish().await;
}

/// Starts a watch of which an event fails and a second one follows. Returns the events that were received, in order.
async fn two_events(is_ordered: bool) -> Vec<String> {
    let t = Harness::start().await;
    let more = json!({ "ordered": is_ordered, "events": ["job.*"] });
    let destination = save(&t, "/a", more).await;
    t.receiver.script("/a", [Reply::status(500), Reply::status(500)]);
    t.provider.processing("job_1", 1);
    let events = json!(["job.progress", "job.completed"]);
    let body = json!({ "jobId": "job_1", "events": events, "notify": [{ "destinationId": destination }] });
    t.register(&body).await;
    t.pass(seconds(8)).await;
    t.provider.processing("job_1", 50);
    t.pass(seconds(10)).await;
    t.pass(minutes(20)).await;
    let received = t.receiver.read_all().into_iter();
    let events = received.map(|hit| hit.json()["data"]["progress"].to_string()).collect();
    t.finish().await;
    events
}

#[tokio::test]
async fn an_ordered_destination_retries_an_event_before_the_next() {
    let progress = two_events(true).await;
    let first_50 = progress.iter().position(|progress| progress == "50").expect("the second event");
    assert!(progress[first_50..].iter().all(|progress| progress == "50"), "{progress:?}");
    assert_eq!(progress.iter().filter(|progress| *progress == "1").count(), 3, "{progress:?}");
}

#[tokio::test]
async fn without_an_order_an_event_waits_for_no_retry() {
    let progress = two_events(false).await;
    let last_1 = progress.iter().rposition(|progress| progress == "1").expect("the retry");
    assert!(progress[..last_1].iter().any(|progress| progress == "50"), "{progress:?}");
}

#[tokio::test]
async fn a_creation_is_repeated_with_its_secret_by_the_same_key() {
    let t = Harness::start().await;
    let body = json!({ "url": t.receiver.url("/a") }).to_string();
    let headers = [AUTH, JSON, ("idempotency-key", "save-1")];
    let create = async || t.send("POST", PATH, &headers, body.as_bytes()).await;
    let (first, second) = (create().await, create().await);
    assert_eq!(first.expect(201), second.expect(201));
    assert_eq!(second.header("idempotent-replayed"), Some("true"));
    assert_eq!(t.get(PATH).await.expect(200)["data"].as_array().unwrap().len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn mail_and_chats_can_be_saved_without_a_secret() {
    let t = Harness::with(&[("RINGBACK_SLACK__BOT_TOKEN", "xoxb-1-token")]).await;
    let made = t.post(PATH, &json!({ "type": "slack", "channel": "#ops" })).await.expect(201);
    assert_eq!((&made["channel"], &made["secret"]), (&json!("#ops"), &Value::Null));
    let rotate = t.act(&format!("{PATH}/{}/rotate-secret", id(&made))).await;
    assert_eq!(errors(&rotate), [error("", "conflict")]);
    let hook =
        json!({ "type": "slack", "url": "https://hooks.slack.com/services/T0/B0/hush", "headers": {} });
    assert_eq!(errors(&t.post(PATH, &hook).await), [error("/headers", "unknown_field")]);
    assert!(!t.get(PATH).await.text().contains("hush"));
    t.finish().await;
}

// Once: the command line does not depend on the database.
#[tokio::test]
async fn saved_destinations_are_managed_on_the_command_line() {
    let t = Harness::start().await;
    let server = crate::cli::url(&t);
    let run =
        async |line: &[&str]| crate::cli::ask(&server, &[&["destinations"], line].concat()).await.expect(0);
    let hook = t.receiver.url("/a");
    let created =
        run(&["create", "--webhook", &hook, "--name", "ops", "--rate", "10/s", "--json"]).await.json();
    let destination = id(&created);
    t.receiver.secret("/a", created["secret"].as_str().unwrap());
    let updated = run(&["update", &destination, "--rate", "off", "--enabled", "false"]).await;
    assert!(updated.out.contains("disabled (manual)") && !updated.out.contains("10/s"), "{updated:#?}");
    let listed = run(&["list"]).await;
    assert!(listed.out.contains(&destination) && listed.out.contains(&hook), "{listed:#?}");
    let enabled = run(&["enable", &destination, "--retry-skipped"]).await;
    assert!(enabled.out.contains("enabled"), "{enabled:#?}");
    let rotated = run(&["rotate-secret", &destination, "--grace", "0s"]).await;
    let secret = rotated.out.split_whitespace().find(|word| word.starts_with("whsec_")).unwrap();
    t.receiver.secret("/a", secret);
    t.provider.completed("job_1");
    crate::cli::ask(&server, &["watch", "job_1", "--destination", &destination]).await.expect(0);
    t.pass(seconds(5)).await;
    t.receiver.next_to("/a").await;
    let shown = run(&["show", &destination]).await;
    assert!(shown.out.contains("100.0 %"), "{shown:#?}");
    let wrong = ["destinations", "create", "--webhook", "ftp://a.example"];
    let wrong = crate::cli::ask(&server, &wrong).await.expect(1);
    assert!(wrong.err.starts_with("--webhook: "), "{wrong:#?}");
    let wrong = ["watch", "job_1", "--destination", "dst_00000000000000000000000000"];
    let wrong = crate::cli::ask(&server, &wrong).await.expect(1);
    assert!(wrong.err.starts_with("--destination (number 1): "), "{wrong:#?}");
    let deleted = run(&["delete", &destination]).await;
    assert_eq!(deleted.out, format!("{destination} is deleted.\n"));
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_saved_destination_is_created_listed_changed_and_deleted,
    invalid_fields_of_a_destination_are_named,
    a_registration_uses_a_saved_destination_by_its_id,
    an_unknown_disabled_or_foreign_destination_is_refused,
    a_default_destination_receives_watches_that_name_none,
    a_registration_for_disabled_defaults_only_is_refused,
    the_watch_and_the_destination_both_admit_an_event,
    a_change_applies_to_pending_deliveries,
    both_secrets_sign_within_the_grace,
    a_disabled_destination_skips_and_enabling_sends_what_was_skipped,
    a_skipped_delivery_that_fails_again_follows_its_schedule,
    many_skipped_deliveries_are_sent_in_chunks_without_stopped_watches,
    a_destination_that_is_gone_is_disabled_at_once,
    five_days_without_a_success_disable_a_destination,
    the_health_of_a_destination_covers_a_day,
    a_destination_that_a_running_watch_names_is_not_deleted,
    a_rate_limits_the_attempts_to_a_destination,
    a_rate_outlasts_a_restart_and_a_crash,
    a_changed_rate_applies_to_what_waits_for_the_old_one,
    a_concurrency_limits_the_attempts_in_progress,
    an_ordered_destination_retries_an_event_before_the_next,
    without_an_order_an_event_waits_for_no_retry,
    a_creation_is_repeated_with_its_secret_by_the_same_key,
    mail_and_chats_can_be_saved_without_a_secret,
}
