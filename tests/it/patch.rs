//! Changes of a watch that has not ended: `PATCH /v1/watches/{id}`.

use serde_json::{Value, json};

use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, SECRET, minutes, seconds};
use crate::wire::Answer;

async fn patch(t: &Harness, watch: &str, body: &Value) -> Answer {
    let path = format!("/v1/watches/{watch}");
    t.send("PATCH", &path, &[AUTH, JSON], body.to_string().as_bytes()).await
}

/// Returns the pointers of a 422 answer.
#[track_caller]
fn pointers(answer: &Answer) -> Vec<String> {
    let problem = answer.expect(422);
    let errors = problem["errors"].as_array().unwrap().iter();
    errors.map(|error| error["pointer"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_change_adds_time_and_destinations_and_replaces_metadata() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let first = t.receiver.url("/first");
    let body = json!({ "jobId": "job_1", "callbackUrl": first, "expiresIn": "1h", "metadata": { "a": 1 } });
    let watch = t.register(&body).await;
    t.pass(minutes(30)).await;
    let second = t.receiver.url("/second");
    let change = json!({ "expiresIn": "2h", "metadata": {"b": [2]},
        "notify": [first, second, { "url": second }] });
    let amended = patch(&t, &watch, &change).await.expect(200);
    assert_eq!(amended["expiresAt"], "2026-02-18T17:30:00.000Z");
    assert_eq!(amended["metadata"], json!({ "b": [2] }));
    let urls: Vec<&str> =
        amended["destinations"].as_array().unwrap().iter().map(|d| d["url"].as_str().unwrap()).collect();
    assert_eq!(urls, [&first, &second], "one address twice is one destination");
    assert_eq!(t.shown(&watch).await["destinations"], amended["destinations"]);
    // The watch outlives its first hour. Both destinations get the ending with the new metadata.
    t.pass(minutes(45)).await;
    assert_eq!(t.shown(&watch).await["status"], "watching");
    t.provider.completed("job_1");
    t.pass(minutes(2)).await;
    for path in ["/first", "/second"] {
        assert_eq!(t.receiver.next_to(path).await.json()["data"]["metadata"], json!({ "b": [2] }));
    }
    t.finish().await;
}

#[tokio::test]
async fn a_shorter_expiry_counts_from_now_also_after_a_restart() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let watch = t.watch("job_1").await;
    t.pass(minutes(10)).await;
    patch(&t, &watch, &json!({ "expiresIn": "5m" })).await.expect(200);
    t.crash().await;
    t.restart().await;
    t.pass(minutes(4)).await;
    assert_eq!(t.shown(&watch).await["status"], "watching");
    t.pass(minutes(2)).await;
    assert_eq!(t.receiver.next().await.event(), "watch.expired");
    // The same without a restart.
    t.provider.processing("job_2", 1);
    let watch = t.watch("job_2").await;
    t.pass(minutes(10)).await;
    patch(&t, &watch, &json!({ "expiresIn": "5m" })).await.expect(200);
    t.pass(minutes(4)).await;
    assert!(t.receiver.unread().is_empty());
    t.pass(minutes(2)).await;
    let expired = t.receiver.next().await;
    assert_eq!((expired.event(), expired.watch()), ("watch.expired", watch.as_str()));
    t.finish().await;
}

#[tokio::test]
async fn a_watch_extended_during_its_final_poll_continues() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let body = json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook"), "expiresIn": "60s" });
    let watch = t.register(&body).await;
    t.pass(seconds(55)).await;
    let polls = t.provider.polls("job_1").len();
    let (reply, gate) = Reply::json(200, &json!({ "jobId": "job_1", "status": "processing" })).held();
    t.provider.script("job_1", [reply]);
    t.clock.advance(seconds(5));
    t.provider.polled("job_1", polls + 1).await;
    patch(&t, &watch, &json!({ "expiresIn": "1h" })).await.expect(200);
    gate.open();
    t.pass(minutes(50)).await;
    assert_eq!(t.shown(&watch).await["status"], "watching");
    t.provider.completed("job_1");
    t.pass(minutes(5)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    t.finish().await;
}

#[tokio::test]
async fn an_ended_watch_cannot_be_changed() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let ended = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.provider.processing("job_2", 1);
    let stopped = t.watch("job_2").await;
    t.stop_watch(&stopped).await.expect(200);
    for watch in [ended, stopped] {
        let before = t.shown(&watch).await;
        for change in [json!({ "metadata": { "x": 1 } }), json!({ "expiresIn": "1h" })] {
            patch(&t, &watch, &change).await.expect(409);
        }
        let addition = json!({ "notify": [t.receiver.url("/late")] });
        patch(&t, &watch, &addition).await.expect(409);
        assert_eq!(t.shown(&watch).await, before);
    }
    let none = format!("watch_{}", "0".repeat(26));
    for unknown in [none.as_str(), "watch_1", "x"] {
        patch(&t, unknown, &json!({ "expiresIn": "1h" })).await.expect(404);
    }
    t.finish().await;
}

#[tokio::test]
async fn an_invalid_change_names_every_field_and_changes_nothing() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 1);
    let hook = t.receiver.url("/hook");
    let body = json!({ "jobId": "job_1", "metadata": { "a": 1 },
        "notify": [{ "url": hook, "secret": SECRET }] });
    let watch = t.register(&body).await;
    let before = t.shown(&watch).await;
    let metadata = json!({ "x": "x".repeat(4096) });
    for (change, wrong) in [
        (json!({}), vec![""]),
        (json!({ "expiresIn": null, "notify": null }), vec![""]),
        (json!([]), vec![""]),
        (json!({ "jobId": "job_2", "events": [], "payload": "raw" }), vec!["/jobId", "/events", "/payload"]),
        (json!({ "callbackUrl": hook }), vec!["/callbackUrl"]),
        (
            json!({ "expiresIn": "31d", "metadata": [], "notify": {} }),
            vec!["/expiresIn", "/metadata", "/notify"],
        ),
        (json!({ "metadata": metadata }), vec!["/metadata"]),
        (json!({ "notify": [] }), vec!["/notify"]),
        (json!({ "notify": ["http://10.0.0.1/", "ftp://x/"] }), vec!["/notify/0", "/notify/1"]),
        // A destination of the watch, with another secret.
        (json!({ "notify": [hook], "metadata": { "b": 1 }, "expiresIn": "9h" }), vec!["/notify"]),
    ] {
        let mut found = pointers(&patch(&t, &watch, &change).await);
        found.sort();
        let mut wrong = wrong;
        wrong.sort_unstable();
        assert_eq!(found, wrong, "{change}");
    }
    assert_eq!(t.shown(&watch).await, before);
    for field in ["jobId", "provider", "params", "events", "payload", "pollInterval", "expectedAt", "email"] {
        let found = patch(&t, &watch, &json!({ field: "x" })).await.expect(422)["errors"].clone();
        let detail = found[0]["detail"].as_str().unwrap();
        assert!(detail.starts_with("cannot be changed; ") && found[1].is_null(), "{field}: {found}");
    }
    // A watch has at most 20 destinations.
    let urls = |from: usize, to: usize| -> Value {
        (from..to).map(|n| t.receiver.url(&format!("/{n}"))).collect::<Vec<_>>().into()
    };
    patch(&t, &watch, &json!({ "notify": urls(0, 19) })).await.expect(200);
    assert_eq!(pointers(&patch(&t, &watch, &json!({ "notify": urls(19, 20) })).await), ["/notify"]);
    patch(&t, &watch, &json!({ "notify": urls(0, 5) })).await.expect(200);
    assert_eq!(t.shown(&watch).await["destinations"].as_array().unwrap().len(), 20);
    // A null `metadata` is the empty object; any other null field is ignored.
    let amended = patch(&t, &watch, &json!({ "metadata": null, "expiresIn": null })).await.expect(200);
    assert_eq!((&amended["metadata"], &amended["expiresAt"]), (&json!({}), &before["expiresAt"]));
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_change_adds_time_and_destinations_and_replaces_metadata,
    a_shorter_expiry_counts_from_now_also_after_a_restart,
    a_watch_extended_during_its_final_poll_continues,
    an_ended_watch_cannot_be_changed,
    an_invalid_change_names_every_field_and_changes_nothing,
}
