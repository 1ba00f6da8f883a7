//! Events about saved destinations and deliveries: `destination.disabled`, `destination.recovered`, `delivery.exhausted`.

use serde_json::{Value, json};

use crate::destinations::{patch, save};
use crate::fakes::{Hit, Reply};
use crate::harness::{Harness, id, minutes, seconds};

/// Saves a destination for operational events.
async fn ops(t: &Harness) -> String {
    save(t, "/ops", json!({ "name": "ops", "events": ["destination.*", "delivery.*"] })).await
}

/// Registers a watch on a job that has completed, with this destination.
async fn notify(t: &Harness, job: &str, destination: &str) -> String {
    t.provider.completed(job);
    let watch = t.register(&json!({ "jobId": job, "notify": [{ "destinationId": destination }] })).await;
    t.pass(seconds(5)).await;
    watch
}

/// Returns the events of the feed that are about no watch.
async fn operational(t: &Harness) -> Vec<Value> {
    let feed = t.get("/v1/events?limit=200").await.expect(200);
    let is_operational = |event: &&Value| !event["type"].as_str().unwrap().starts_with("job.");
    feed["data"].as_array().unwrap().iter().filter(is_operational).cloned().collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// Compares a webhook with the event of the feed.
pub fn assert_is(hit: &Hit, event: &Value) {
    let mut body = hit.json();
    body["id"] = json!(hit.id());
    assert_eq!(body, *event);
    assert_eq!(hit.event(), event["type"]);
    assert!(hit.headers.iter().all(|(name, _)| name != "ringback-watch"), "it is about no watch");
}

#[tokio::test]
async fn disabling_and_enabling_a_destination_are_events_for_others() {
    let t = Harness::start().await;
    let ops = ops(&t).await;
    let destination = save(&t, "/a", json!({ "name": "billing" })).await;
    patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    // A second time, nothing changes.
    patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    t.pass(minutes(1)).await;
    t.act(&format!("/v1/destinations/{destination}/enable")).await.expect(200);
    t.rest().await;
    let events = operational(&t).await;
    assert_eq!(types(&events), ["destination.disabled", "destination.recovered"]);
    let data = json!({ "destinationId": destination, "name": "billing", "reason": "manual", "since": null,
        "lastError": null });
    assert_eq!(events[0]["data"], data);
    let since = json!("2026-02-18T15:00:00.000Z");
    assert_eq!((&events[1]["data"]["since"], &events[1]["data"]["reason"]), (&since, &json!("manual")));
    for event in &events {
        assert_is(&t.receiver.next_to("/ops").await, event);
        assert_eq!(t.get(&format!("/v1/events/{}", id(event))).await.expect(200), *event);
    }
    let found = t.get("/v1/deliveries").await.expect(200);
    for delivery in found["data"].as_array().unwrap() {
        assert_eq!((&delivery["destinationId"], &delivery["watchId"]), (&json!(ops), &Value::Null));
    }
    t.finish().await;
}

#[tokio::test]
async fn no_event_goes_to_the_destination_that_it_is_about() {
    let t = Harness::start().await;
    let ops = ops(&t).await;
    let plain = save(&t, "/a", json!({})).await;
    patch(&t, &ops, &json!({ "enabled": false })).await.expect(200);
    patch(&t, &ops, &json!({ "enabled": true })).await.expect(200);
    t.rest().await;
    assert_eq!(types(&operational(&t).await), ["destination.disabled", "destination.recovered"]);
    assert_eq!(t.get("/v1/deliveries").await.expect(200)["data"], json!([]), "neither to it nor to {plain}");
    // A deletion is no event. A disabled destination skips what it would receive.
    patch(&t, &ops, &json!({ "enabled": false })).await.expect(200);
    assert_eq!(t.delete(&format!("/v1/destinations/{plain}")).await.status, 204);
    assert_eq!(operational(&t).await.len(), 3);
    let other = save(&t, "/b", json!({ "enabled": false })).await;
    t.act(&format!("/v1/destinations/{other}/enable")).await.expect(200);
    let skipped = t.get("/v1/deliveries?status=skipped").await.expect(200);
    assert_eq!(skipped["data"][0]["eventType"], "destination.recovered");
    let path = format!("/v1/destinations/{ops}/enable");
    t.post(&path, &json!({ "retrySkipped": true })).await.expect(200);
    t.rest().await;
    assert_eq!(t.receiver.next_to("/ops").await.event(), "destination.recovered");
    t.finish().await;
}

#[tokio::test]
async fn the_last_failed_attempt_is_an_event_and_so_is_the_next_success() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "10s")]).await;
    let ops = ops(&t).await;
    let destination = save(&t, "/a", json!({ "name": "billing" })).await;
    // A retry that succeeds is no recovery.
    t.receiver.script("/a", [Reply::status(500)]);
    notify(&t, "job_1", &destination).await;
    t.pass(minutes(1)).await;
    t.receiver.take(2).await;
    assert_eq!(operational(&t).await, [Value::Null; 0]);
    t.receiver.script("/a", [Reply::status(500), Reply::status(503)]);
    let watch = notify(&t, "job_2", &destination).await;
    let delivery = id(&t.delivery(&watch).await);
    t.pass(minutes(1)).await;
    let exhausted = t.receiver.next_to("/ops").await;
    let data = json!({ "deliveryId": delivery, "destinationId": destination, "watchId": watch, "jobId": "job_2",
        "eventType": "job.completed", "attemptCount": 2, "lastError": "HTTP 503" });
    assert_eq!((exhausted.event(), &exhausted.json()["data"]), ("delivery.exhausted", &data));
    // A manual retry that fails changes nothing; one that succeeds shows that the destination works.
    t.receiver.script("/a", [Reply::status(500)]);
    t.act(&format!("/v1/deliveries/{delivery}/retry")).await.expect(202);
    t.rest().await;
    assert_eq!(operational(&t).await.len(), 1);
    t.act(&format!("/v1/deliveries/{delivery}/retry")).await.expect(202);
    t.rest().await;
    let events = operational(&t).await;
    assert_eq!(types(&events), ["delivery.exhausted", "destination.recovered"]);
    assert_is(&exhausted, &events[0]);
    assert_is(&t.receiver.next_to("/ops").await, &events[1]);
    let data = &events[1]["data"];
    assert_eq!((&data["reason"], &data["lastError"]), (&json!("failing"), &json!("HTTP 503")));
    assert_eq!(data["since"].as_str().unwrap()[..16], *"2026-02-18T15:01", "{data}");
    // Once.
    notify(&t, "job_3", &destination).await;
    assert_eq!(operational(&t).await.len(), 2);
    t.receiver.read_all();
    assert_ne!(ops, destination);
    t.finish().await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_disables_its_destination_with_an_event() {
    let mut t = Harness::start().await;
    ops(&t).await;
    let destination = save(&t, "/a", json!({})).await;
    t.receiver.script("/a", [Reply::status(410)]);
    // The event and its delivery are on disk with the attempt.
    t.receiver.script("/ops", [Reply::status(500)]);
    notify(&t, "job_1", &destination).await;
    t.receiver.take(2).await;
    t.crash().await;
    t.restart().await;
    t.pass(minutes(1)).await;
    let hit = t.receiver.next_to("/ops").await;
    let data = hit.json()["data"].clone();
    assert_eq!((&data["destinationId"], &data["reason"]), (&json!(destination), &json!("gone")));
    assert_eq!((&data["name"], &data["lastError"]), (&json!("ops"), &json!("HTTP 410")));
    assert_eq!(data["since"], hit.json()["timestamp"], "no attempt had failed before");
    let events = operational(&t).await;
    assert_eq!(types(&events), ["destination.disabled"]);
    assert_is(&hit, &events[0]);
    t.finish().await;
}

#[tokio::test]
async fn an_event_that_is_not_delivered_raises_no_event() {
    for status in [500, 410] {
        let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s")]).await;
        let ops = ops(&t).await;
        let other = save(&t, "/other", json!({ "events": ["destination.*", "delivery.*"] })).await;
        t.receiver.always("/ops", Some(Reply::status(status)));
        t.receiver.always("/hook", Some(Reply::status(500)));
        t.provider.completed("job_1");
        t.register(&json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") })).await;
        t.pass(minutes(10)).await;
        let failed = t.get(&format!("/v1/deliveries?destinationId={ops}")).await.expect(200);
        assert_eq!(failed["data"][0]["status"], "failed", "{failed}");
        assert_eq!(types(&operational(&t).await), ["delivery.exhausted"], "{status}");
        let shown = t.get(&format!("/v1/destinations/{ops}")).await.expect(200);
        assert_eq!(shown["enabled"] == false, status == 410, "it is disabled all the same");
        let delivered = t.get(&format!("/v1/deliveries?destinationId={other}")).await.expect(200);
        assert_eq!(delivered["data"].as_array().unwrap().len(), 1);
        t.receiver.read_all();
        t.finish().await;
    }
}

// Once: nothing is stored.
#[tokio::test]
async fn a_registration_cannot_name_operational_events() {
    let t = Harness::start().await;
    for pattern in ["destination.*", "delivery.exhausted", "group.completed", "test"] {
        let body = json!({ "jobId": "job_1", "notify": [], "events": [pattern] });
        let problem = t.post("/v1/watches", &body).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], "/events/0", "{problem}");
    }
    let body = json!({ "url": t.receiver.url("/a"), "events": ["group.completed"] });
    assert_eq!(t.post("/v1/destinations", &body).await.expect(422)["errors"][0]["pointer"], "/events/0");
    let destination = save(&t, "/a", json!({ "events": ["delivery.*", "job.failed"] })).await;
    let shown = t.get(&format!("/v1/destinations/{destination}")).await.expect(200);
    assert_eq!(shown["events"], json!(["job.failed", "delivery.exhausted"]));
    t.finish().await;
}

#[tokio::test]
async fn operational_events_are_deleted_after_their_retention() {
    let t = Harness::with(&[("RINGBACK_RETENTION__EVENTS", "2d")]).await;
    ops(&t).await;
    let destination = save(&t, "/a", json!({})).await;
    patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    t.pass(minutes(47 * 60)).await;
    assert_eq!(operational(&t).await.len(), 1);
    assert_eq!(t.receiver.next_to("/ops").await.event(), "destination.disabled");
    for _ in 0..3 {
        t.pass(minutes(60)).await;
    }
    assert_eq!(operational(&t).await, [Value::Null; 0]);
    assert_eq!(t.get("/v1/deliveries").await.expect(200)["data"], json!([]));
    t.finish().await;
}

// Once: the command line does not depend on the database.
#[tokio::test]
async fn show_prints_an_operational_event_with_its_deliveries() {
    let t = Harness::start().await;
    ops(&t).await;
    let destination = save(&t, "/a", json!({ "name": "billing" })).await;
    patch(&t, &destination, &json!({ "enabled": false })).await.expect(200);
    t.rest().await;
    t.receiver.next_to("/ops").await;
    let event = id(&operational(&t).await[0]);
    let shown = crate::cli::ask(&crate::cli::url(&t), &["show", &event]).await.expect(0);
    for part in ["destination.disabled", destination.as_str(), "billing", "manual", "succeeded"] {
        assert!(shown.out.contains(part), "{part}: {shown:#?}");
    }
    assert!(!shown.out.contains("job status"), "{shown:#?}");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    disabling_and_enabling_a_destination_are_events_for_others,
    no_event_goes_to_the_destination_that_it_is_about,
    the_last_failed_attempt_is_an_event_and_so_is_the_next_success,
    a_receiver_that_is_gone_disables_its_destination_with_an_event,
    an_event_that_is_not_delivered_raises_no_event,
    operational_events_are_deleted_after_their_retention,
}
