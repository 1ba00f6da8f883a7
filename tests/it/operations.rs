//! Operations: work on many rows, and how far it is.

use serde_json::{Value, json};

use crate::harness::{AUTH, Harness, JSON, minutes};
use crate::retry::failed_once;

const STOP: &str = "/v1/watches/stop";

/// Returns the path of the operation that an answer names.
fn operation(started: &Value) -> String {
    format!("/v1/operations/{}", started["operationId"].as_str().expect("an id"))
}

async fn watching(t: &Harness) -> usize {
    t.get("/v1/watches?status=watching&limit=200").await.expect(200)["data"].as_array().unwrap().len()
}

#[tokio::test]
async fn an_operation_is_shown_for_a_day() {
    let t = Harness::start().await;
    let path = operation(&t.post(STOP, &json!({ "all": true })).await.expect(202));
    t.rest().await;
    let shown = t.get(&path).await.expect(200);
    assert_eq!(
        (&shown["status"], &shown["total"], &shown["done"]),
        (&json!("succeeded"), &json!(0), &json!(0))
    );
    t.pass(minutes(23 * 60)).await;
    t.get(&path).await.expect(200);
    t.pass(minutes(3 * 60)).await;
    t.get(&path).await.expect(404);
    t.finish().await;
}

#[tokio::test]
async fn watches_are_stopped_by_a_filter() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 5);
    t.provider.processing("job_2", 5);
    let mut kept = Vec::new();
    for job in ["job_1", "job_2", "job_1"] {
        kept.push(t.register(&json!({ "jobId": job, "notify": [] })).await);
    }
    let dry = t.post(STOP, &json!({ "jobId": "job_1", "dryRun": true })).await.expect(200);
    assert_eq!((dry, watching(&t).await), (json!({ "operationId": null, "count": 2 }), 3));
    let body = json!({ "jobId": "job_1" }).to_string();
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let started = t.send("POST", STOP, &headers, body.as_bytes()).await;
    assert_eq!(started.expect(202)["count"], 2);
    t.rest().await;
    assert_eq!(t.get(&operation(&started.json())).await.expect(200)["done"], 2);
    for (watch, status) in kept.iter().zip(["stopped", "watching", "stopped"]) {
        assert_eq!(t.shown(watch).await["status"], status);
    }
    // A repetition has no further effect.
    let again = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let repeated = t.send("POST", STOP, &headers, body.as_bytes()).await;
    assert_eq!((repeated.status, &repeated.body), (202, &started.body));
    t.rest().await;
    assert_eq!(t.shown(&again).await["status"], "watching");
    assert_eq!(t.post(STOP, &json!({})).await.expect(422)["errors"][0]["code"], "required");
    assert_eq!(t.post(STOP, &json!({ "all": true })).await.expect(202)["count"], 2);
    t.rest().await;
    assert_eq!(watching(&t).await, 0);
    let polls = t.provider.all_polls().len();
    t.pass(minutes(10)).await;
    assert_eq!(t.provider.all_polls().len(), polls);
    t.finish().await;
}

#[tokio::test]
async fn a_stop_of_ended_watches_skips_what_is_pending() {
    let t = Harness::start().await;
    let watch = failed_once(&t).await;
    // Without a status, only watches that have not ended are selected.
    assert_eq!(t.post(STOP, &json!({ "jobId": "job_1" })).await.expect(202)["count"], 0);
    t.rest().await;
    assert_eq!(t.delivery(&watch).await["status"], "pending");
    assert_eq!(t.post(STOP, &json!({ "status": "completed" })).await.expect(202)["count"], 1);
    t.rest().await;
    assert_eq!(t.delivery(&watch).await["reason"], "stopped");
    t.pass(minutes(60)).await;
    t.finish().await;
}

#[tokio::test]
async fn more_watches_than_a_step_holds_are_stopped_after_a_crash() {
    let mut t = Harness::start().await;
    let watches: Vec<Value> = (0..450)
        .map(|n| {
            t.provider.processing(&format!("job_{n}"), 0);
            json!({ "jobId": format!("job_{n}"), "notify": [] })
        })
        .collect();
    t.post("/v1/watches/batch", &json!({ "watches": watches })).await.expect(200);
    let started = t.post(STOP, &json!({ "all": true })).await.expect(202);
    assert_eq!(started["count"], 450);
    t.crash().await;
    t.restart().await;
    t.rest().await;
    let shown = t.get(&operation(&started)).await.expect(200);
    assert_eq!((&shown["status"], &shown["done"]), (&json!("succeeded"), &json!(450)));
    assert_eq!(watching(&t).await, 0);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    an_operation_is_shown_for_a_day,
    watches_are_stopped_by_a_filter,
    a_stop_of_ended_watches_skips_what_is_pending,
    more_watches_than_a_step_holds_are_stopped_after_a_crash,
}
