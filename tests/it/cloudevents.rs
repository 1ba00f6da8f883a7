//! `"payload": "cloudevents"`, and the content type of every payload.

use serde_json::{Value, json};

use crate::fakes::Reply;
use crate::harness::{Harness, minutes, seconds};

async fn watch(t: &Harness, job: &str, payload: &str, events: &[&str]) -> String {
    let hook = t.receiver.url("/hook");
    let body = json!({ "jobId": job, "callbackUrl": hook, "payload": payload, "events": events,
        "metadata": { "orderId": 42 } });
    t.register(&body).await
}

#[tokio::test]
async fn a_cloud_event_holds_the_data_of_the_event() {
    let t = Harness::with(&[("RINGBACK_PUBLIC_URL", "https://ringback.example.com")]).await;
    t.provider.completed("job_1");
    let watch = watch(&t, "job_1", "cloudevents", &["job.*"]).await;
    t.pass(seconds(5)).await;
    let hit = t.receiver.next().await;
    assert_eq!(hit.header("content-type"), "application/cloudevents+json");
    let event = hit.json();
    // The feed lists the event without the envelope.
    let listed = t.get(&format!("/v1/events/{}", hit.id())).await.expect(200);
    assert_eq!(event["data"], listed["data"]);
    assert_eq!(listed["type"], "job.completed");
    let mut envelope = event.clone();
    envelope["data"] = Value::Null;
    assert_eq!(
        envelope,
        json!({
            "specversion": "1.0", "id": hit.id(), "source": format!("https://ringback.example.com/v1/watches/{watch}"),
            "type": "ringback.job.completed", "subject": "job_1", "time": listed["timestamp"],
            "datacontenttype": "application/json", "data": null,
        })
    );
    t.finish().await;
}

#[tokio::test]
async fn every_attempt_sends_the_same_bytes_despite_a_new_public_url() {
    let mut t = Harness::with(&[("RINGBACK_PUBLIC_URL", "https://one.example.com")]).await;
    t.receiver.script("/hook", [Reply::status(500), Reply::status(500)]);
    t.provider.completed("job_1");
    watch(&t, "job_1", "cloudevents", &["job.*"]).await;
    t.pass(seconds(5)).await;
    t.stop().await;
    t.set("RINGBACK_PUBLIC_URL", "https://two.example.com");
    t.restart().await;
    t.pass(minutes(10)).await;
    let hits = t.receiver.take(3).await;
    assert!(hits.iter().all(|hit| hit.body == hits[0].body && hit.id() == hits[0].id()));
    assert!(hits.iter().all(|hit| hit.header("content-type") == "application/cloudevents+json"));
    assert!(String::from_utf8_lossy(&hits[0].body).contains("https://one.example.com/v1/watches/"));
    t.finish().await;
}

#[tokio::test]
async fn progress_and_expiry_are_sent_as_cloud_events() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 10);
    watch(&t, "job_1", "cloudevents", &["job.processing", "watch.expired"]).await;
    t.pass(seconds(10)).await;
    assert_eq!(t.receiver.next().await.json()["type"], "ringback.job.processing");
    t.pass(minutes(24 * 60)).await;
    let expired = t.receiver.next().await.json();
    assert_eq!(expired["type"], "ringback.watch.expired");
    assert_eq!(expired["data"]["error"]["code"], "deadline");
    t.finish().await;
}

#[tokio::test]
async fn every_attempt_has_the_content_type_of_its_payload() {
    let t = Harness::start().await;
    for (n, (payload, content_type)) in [
        ("event", "application/json"),
        ("raw", "application/json"),
        ("cloudevents", "application/cloudevents+json"),
    ]
    .into_iter()
    .enumerate()
    {
        let job = format!("job_{n}");
        t.receiver.script("/hook", [Reply::status(500)]);
        t.provider.completed(&job);
        watch(&t, &job, payload, &["job.*"]).await;
        t.pass(minutes(1)).await;
        for hit in t.receiver.take(2).await {
            assert_eq!(hit.header("content-type"), content_type, "{payload}");
        }
    }
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_cloud_event_holds_the_data_of_the_event,
    every_attempt_sends_the_same_bytes_despite_a_new_public_url,
    progress_and_expiry_are_sent_as_cloud_events,
    every_attempt_has_the_content_type_of_its_payload,
}
