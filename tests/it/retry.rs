//! Retrying many deliveries: `POST /v1/deliveries/retry`.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, minutes, seconds};

const PATH: &str = "/v1/deliveries/retry";

/// Starts an application without retries: a delivery fails after its first attempt.
async fn impatient() -> Harness {
    Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "[]")]).await
}

/// Ends jobs, of which each has one delivery, which fails.
async fn fail(t: &Harness, jobs: std::ops::Range<usize>, path: &str) -> Vec<String> {
    t.receiver.always(path, Some(Reply::status(500)));
    let mut watches = Vec::new();
    for n in jobs.clone() {
        t.provider.completed(&format!("job_{n}"));
        let body = json!({ "jobId": format!("job_{n}"), "callbackUrl": t.receiver.url(path) });
        watches.push(t.register(&body).await);
    }
    t.pass(seconds(10)).await;
    t.receiver.take(jobs.len()).await;
    t.receiver.always(path, None);
    watches
}

/// Retries deliveries, and returns how many the request has counted.
async fn retry(t: &Harness, body: Value) -> u64 {
    t.post(PATH, &body).await.expect(202)["count"].as_u64().expect("a count")
}

async fn failed(t: &Harness) -> usize {
    t.get("/v1/deliveries?status=failed&limit=200").await.expect(200)["data"].as_array().unwrap().len()
}

/// Registers a watch on a job that has completed. The first attempt of its delivery has failed, and its retry waits.
pub async fn failed_once(t: &Harness) -> String {
    t.receiver.script("/hook", [Reply::status(500)]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    watch
}

#[tokio::test]
async fn all_failed_deliveries_are_retried_under_the_same_ids() {
    let t = impatient().await;
    fail(&t, 0..3, "/a").await;
    t.provider.completed("job_9");
    let good = t.watch("job_9").await;
    t.pass(seconds(10)).await;
    t.receiver.next().await;
    let ids: HashSet<String> =
        t.receiver.all().iter().filter(|h| h.path == "/a").map(|h| h.id().to_owned()).collect();
    assert_eq!(failed(&t).await, 3);
    let answer = t.post(PATH, &json!({ "status": "failed" })).await.expect(202);
    assert_eq!(answer["count"], 3);
    t.rest().await;
    let operation = t.get(&format!("/v1/operations/{}", answer["operationId"].as_str().unwrap())).await;
    let expected = json!({ "id": answer["operationId"], "status": "succeeded", "total": 3, "done": 3 });
    assert_eq!(operation.expect(200), expected);
    let again: HashSet<String> = t.receiver.take(3).await.iter().map(|hit| hit.id().to_owned()).collect();
    assert_eq!(again, ids);
    assert_eq!(failed(&t).await, 0);
    assert_eq!(t.delivery(&good).await["attempts"].as_array().unwrap().len(), 1);
    // No failed delivery is left.
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 0);
    t.finish().await;
}

#[tokio::test]
async fn more_failed_deliveries_than_a_transaction_holds_are_retried() {
    let t = impatient().await;
    let watches: Vec<Value> = (0..450)
        .map(|n| {
            t.provider.completed(&format!("job_{n}"));
            json!({ "jobId": format!("job_{n}"), "callbackUrl": t.receiver.url("/hook") })
        })
        .collect();
    t.receiver.always("/hook", Some(Reply::status(500)));
    t.post("/v1/watches/batch", &json!({ "watches": watches })).await.expect(200);
    t.pass(seconds(10)).await;
    assert_eq!(t.receiver.take(450).await.len(), 450);
    t.receiver.always("/hook", None);
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 450);
    t.rest().await;
    let again: HashSet<String> = t.receiver.take(450).await.iter().map(|hit| hit.id().to_owned()).collect();
    assert_eq!((again.len(), failed(&t).await), (450, 0));
    t.finish().await;
}

#[tokio::test]
async fn a_retry_selects_by_event_time_and_destination() {
    let t = impatient().await;
    let first = fail(&t, 0..2, "/a").await;
    t.pass(minutes(60)).await;
    let second = fail(&t, 2..4, "/b").await;
    assert_eq!(retry(&t, json!({ "status": "failed", "until": "2026-02-18T15:00:00Z" })).await, 0);
    assert_eq!(retry(&t, json!({ "status": "failed", "since": "2026-02-18T17:00:00Z" })).await, 0);
    assert_eq!(retry(&t, json!({ "status": "failed", "since": "2026-02-18T15:30:00Z" })).await, 2);
    t.rest().await;
    let notified: HashSet<String> =
        t.receiver.take(2).await.iter().map(|hit| hit.watch().to_owned()).collect();
    assert_eq!(notified, second.into_iter().collect());
    let destination = t.shown(&first[0]).await["destinations"][0]["id"].clone();
    assert_eq!(retry(&t, json!({ "status": "failed", "destinationId": destination })).await, 1);
    t.rest().await;
    assert_eq!(t.receiver.next().await.watch(), first[0]);
    t.finish().await;
}

#[tokio::test]
async fn a_retry_of_failed_deliveries_excludes_stopped_watches() {
    let t = Harness::start().await;
    let watch = failed_once(&t).await;
    t.stop_watch(&watch).await.expect(200);
    assert_eq!(t.delivery(&watch).await["reason"], "stopped");
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 0);
    t.pass(minutes(60)).await;
    t.finish().await;
}

#[tokio::test]
async fn what_failed_before_a_stop_of_an_ended_watch_can_be_retried() {
    let t = impatient().await;
    let watch = fail(&t, 0..1, "/a").await.remove(0);
    // The watch had ended, so it keeps its status, and there is nothing to skip.
    assert_eq!(t.stop_watch(&watch).await.expect(200)["status"], "completed");
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("exhausted")));
    let retry = format!("/v1/deliveries/{}/retry", delivery["id"].as_str().unwrap());
    t.act(&retry).await.expect(202);
    t.rest().await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
}

#[tokio::test]
async fn a_failed_retry_keeps_status_and_reason() {
    let t = impatient().await;
    let watch = fail(&t, 0..1, "/a").await.remove(0);
    t.receiver.always("/a", Some(Reply::status(503)));
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 1);
    t.pass(minutes(60)).await;
    t.receiver.next().await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("exhausted")));
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 2);
    t.finish().await;
}

#[tokio::test]
async fn a_retry_requested_in_flight_is_attempted_once_more() {
    let t = impatient().await;
    fail(&t, 0..1, "/a").await;
    let (reply, gate) = Reply::status(500).held();
    t.receiver.script("/a", [reply]);
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 1);
    t.receiver.next().await;
    // A manual retry is in flight: it answers both requests, or another attempt follows. None is lost.
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 1);
    t.rest().await;
    gate.open();
    t.pass(seconds(1)).await;
    assert_eq!(t.post(PATH, &json!({ "status": "failed" })).await.expect(202)["count"], 1);
    t.rest().await;
    t.receiver.next().await;
    assert_eq!(failed(&t).await, 0);
    t.finish().await;
}

#[tokio::test]
async fn a_retry_of_many_deliveries_continues_after_a_crash() {
    let mut t = impatient().await;
    fail(&t, 0..3, "/a").await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/a", [reply]);
    let started = t.post(PATH, &json!({ "status": "failed" })).await.expect(202);
    t.crash().await;
    drop(gate);
    t.restart().await;
    t.rest().await;
    assert_eq!(failed(&t).await, 0);
    let notified: HashSet<String> = t.receiver.read_all().iter().map(|hit| hit.id().to_owned()).collect();
    assert_eq!(notified.len(), 3);
    let operation = format!("/v1/operations/{}", started["operationId"].as_str().unwrap());
    assert_eq!(t.get(&operation).await.expect(200)["status"], "succeeded");
    t.finish().await;
}

#[tokio::test]
async fn a_retry_of_many_deliveries_is_idempotent() {
    let t = impatient().await;
    fail(&t, 0..2, "/a").await;
    t.receiver.always("/a", Some(Reply::status(500)));
    let body = json!({ "status": "failed" }).to_string();
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let first = t.send("POST", PATH, &headers, body.as_bytes()).await;
    assert_eq!(first.expect(202)["count"], 2);
    t.rest().await;
    t.receiver.take(2).await;
    let again = t.send("POST", PATH, &headers, body.as_bytes()).await;
    assert_eq!((again.status, &again.body), (202, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    t.rest().await;
    t.finish().await;
}

#[tokio::test]
async fn an_invalid_retry_names_every_error() {
    let t = Harness::start().await;
    for (body, wrong) in [
        (json!({}), vec![""]),
        (json!({ "all": false, "dryRun": true }), vec![""]),
        (json!({ "status": "succeeded" }), vec!["/status"]),
        (json!({ "status": [] }), vec!["/status"]),
        (json!({ "all": 1, "origin": "x" }), vec!["/origin", "/all"]),
        (json!({ "status": "failed", "since": "now", "until": 1 }), vec!["/since", "/until"]),
        (json!({ "status": "failed", "destinationId": "dst_1", "x": 1 }), vec!["/destinationId", "/x"]),
        (json!([]), vec![""]),
    ] {
        let problem = t.post(PATH, &body).await.expect(422);
        let named: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
        assert_eq!(named, wrong, "{body}");
    }
    let detail = t.post(PATH, &json!({})).await.expect(422)["errors"][0]["detail"].clone();
    assert!(detail.as_str().unwrap().contains(r#""all": true"#), "{detail}");
    t.act(PATH).await.expect(415);
    t.finish().await;
}

#[tokio::test]
async fn a_dry_run_counts_and_changes_nothing() {
    let t = impatient().await;
    fail(&t, 0..3, "/a").await;
    let body = json!({ "all": true, "dryRun": true }).to_string();
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let first = t.send("POST", PATH, &headers, body.as_bytes()).await;
    assert_eq!(first.expect(200), json!({ "operationId": null, "count": 3 }));
    assert_eq!(retry(&t, json!({ "all": true })).await, 3);
    t.rest().await;
    t.receiver.take(3).await;
    let again = t.send("POST", PATH, &headers, body.as_bytes()).await;
    assert_eq!((again.body, again.status), (first.body, 200));
    assert_eq!(t.post(PATH, &json!({ "all": true, "dryRun": true })).await.expect(200)["count"], 0);
    t.finish().await;
}

#[tokio::test]
async fn pending_deliveries_are_sent_now_and_keep_their_schedule() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "30m,1h")]).await;
    t.receiver.always("/a", Some(Reply::status(500)));
    let mut watches = Vec::new();
    for n in 0..3 {
        t.provider.completed(&format!("job_{n}"));
        let body = json!({ "jobId": format!("job_{n}"), "callbackUrl": t.receiver.url("/a") });
        watches.push(t.register(&body).await);
    }
    t.pass(seconds(10)).await;
    t.receiver.take(3).await;
    let before = t.delivery(&watches[0]).await["nextAttemptAt"].clone();
    let other = json!({ "status": "pending", "origin": "https://app.example.com" });
    assert_eq!(retry(&t, other).await, 0);
    let origin = t.receiver.url("").trim_end_matches('/').to_owned();
    let body = json!({ "status": ["failed", "pending"], "origin": origin, "since": "2h" });
    assert_eq!(retry(&t, body.clone()).await, 3);
    t.rest().await;
    t.receiver.take(3).await;
    let delivery = t.delivery(&watches[0]).await;
    assert_eq!((&delivery["status"], &delivery["nextAttemptAt"]), (&json!("pending"), &before));
    t.receiver.always("/a", None);
    assert_eq!(retry(&t, body).await, 3);
    t.rest().await;
    t.receiver.take(3).await;
    assert_eq!(t.delivery(&watches[0]).await["status"], "succeeded");
    t.pass(minutes(120)).await;
    t.finish().await;
}

#[tokio::test]
async fn skipped_deliveries_are_retried_unless_stopped_or_superseded() {
    let t = Harness::start().await;
    t.receiver.script("/gone", [Reply::status(410)]);
    let body = |job: &str| json!({ "jobId": job, "callbackUrl": t.receiver.url("/gone"), "events": ["job.processing", "job.completed"] });
    t.provider.processing("job_1", 10);
    let watch = t.register(&body("job_1")).await;
    t.pass(seconds(10)).await;
    t.receiver.next().await;
    // The destination is gone, so nothing is created for the ending; another watch is stopped with a pending delivery.
    t.provider.completed("job_1");
    t.receiver.script("/stopped", [Reply::status(500)]);
    t.provider.completed("job_2");
    let stopped = t.register(&json!({ "jobId": "job_2", "callbackUrl": t.receiver.url("/stopped") })).await;
    t.pass(seconds(60)).await;
    t.receiver.read_all();
    t.stop_watch(&stopped).await.expect(200);
    assert_eq!(retry(&t, json!({ "status": "skipped" })).await, 0);
    assert_eq!(retry(&t, json!({ "status": "failed", "reason": "gone" })).await, 1);
    t.rest().await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    assert_eq!(retry(&t, json!({ "watchId": stopped, "status": ["pending", "skipped"] })).await, 0);
    t.finish().await;
}

// Once: the test writes into the SQLite file.
#[tokio::test]
async fn a_retry_continues_when_a_full_disk_has_space_again() {
    let t = impatient().await;
    fail(&t, 0..250, "/a").await;
    let other = rusqlite::Connection::open(t.file()).unwrap();
    // The disk is full when 100 deliveries, the first step, are marked: there is no next number.
    let full = "create table full_disk (no integer primary key autoincrement);
        insert into full_disk values (9223372036854775807);
        create trigger full_disk before update of is_manual on deliveries
        when new.is_manual = 1 and (select count(*) from deliveries where is_manual = 1 or status = 'succeeded') >= 100
        begin insert into full_disk values (null); end";
    other.execute_batch(full).unwrap();
    let started = t.post(PATH, &json!({ "status": "failed" })).await.expect(202);
    assert_eq!(started["count"], 250);
    let operation = format!("/v1/operations/{}", started["operationId"].as_str().unwrap());
    let first_step = async { while t.get(&operation).await.expect(200)["done"] != 100 {} };
    crate::harness::guarded("the first step", first_step).await;
    assert_eq!(t.get(&operation).await.expect(200)["status"], "running");
    other.execute_batch("drop trigger full_disk; drop table full_disk").unwrap();
    t.work_off().await;
    assert_eq!(t.receiver.take(250).await.len(), 250);
    assert_eq!(t.get(&operation).await.expect(200)["done"], 250);
    assert_eq!(failed(&t).await, 0);
    t.finish().await;
}

#[tokio::test]
async fn a_client_cannot_flood_a_receiver_with_retries() {
    let t = impatient().await;
    let watches = fail(&t, 0..12, "/a").await;
    let mut paths = Vec::new();
    for watch in &watches {
        let delivery = t.delivery(watch).await["id"].as_str().unwrap().to_owned();
        paths.push(format!("/v1/deliveries/{delivery}/retry"));
    }
    let keyed = |key: &'static str| [AUTH, ("idempotency-key", key)];
    t.send("POST", &paths[0], &keyed("first"), b"").await.expect(202);
    for _ in 0..9 {
        t.send("POST", &paths[0], &keyed("first"), b"").await.expect(202);
    }
    t.rest().await;
    t.receiver.take(1).await;
    // A replayed answer is no retry.
    for _ in 0..9 {
        t.act(&paths[0]).await.expect(202);
        t.rest().await;
    }
    t.receiver.take(9).await;
    let refused = t.act(&paths[0]).await;
    let problem = refused.expect(429);
    assert_eq!((&problem["code"], refused.header("retry-after")), (&json!("rate_limited"), Some("60")));
    assert!(
        problem["detail"].as_str().unwrap().starts_with("the delivery was retried ten times"),
        "{problem}"
    );
    // Other deliveries are retried, up to a hundred in 10 s. The refused request counts for its delivery only.
    for path in &paths[1..10] {
        for _ in 0..10 {
            t.act(path).await.expect(202);
        }
    }
    let refused = t.act(&paths[11]).await;
    let detail = refused.expect(429)["detail"].as_str().unwrap().to_owned();
    assert!(detail.starts_with("this app has retried a hundred deliveries within 10 s"), "{detail}");
    for _ in 0..10 {
        t.act(&paths[11]).await.expect(429);
    }
    assert_eq!(refused.header("retry-after"), Some("10"));
    let other = crate::tenants::tenant(&t, "other").await;
    t.as_key(&other.key, "POST", &paths[11], "").await.expect(404);
    t.rest().await;
    t.pass(seconds(10)).await;
    // What was refused for the app uses up nothing of the delivery.
    t.act(&paths[11]).await.expect(202);
    assert_eq!(t.act(&paths[0]).await.status, 429);
    t.pass(seconds(50)).await;
    t.act(&paths[0]).await.expect(202);
    t.rest().await;
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn an_app_starts_ten_retries_of_many_deliveries_a_minute() {
    let t = impatient().await;
    fail(&t, 0..1, "/a").await;
    for _ in 0..10 {
        retry(&t, json!({ "all": true })).await;
        t.rest().await;
    }
    let refused = t.post(PATH, &json!({ "all": true })).await;
    assert_eq!(
        (&refused.expect(429)["code"], refused.header("retry-after")),
        (&json!("rate_limited"), Some("60"))
    );
    t.post(PATH, &json!({ "all": true, "dryRun": true })).await.expect(200);
    t.pass(minutes(1)).await;
    retry(&t, json!({ "all": true })).await;
    t.rest().await;
    t.receiver.read_all();
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_client_cannot_flood_a_receiver_with_retries,
    an_app_starts_ten_retries_of_many_deliveries_a_minute,
    all_failed_deliveries_are_retried_under_the_same_ids,
    more_failed_deliveries_than_a_transaction_holds_are_retried,
    a_retry_selects_by_event_time_and_destination,
    a_retry_of_failed_deliveries_excludes_stopped_watches,
    what_failed_before_a_stop_of_an_ended_watch_can_be_retried,
    a_failed_retry_keeps_status_and_reason,
    a_retry_requested_in_flight_is_attempted_once_more,
    a_retry_of_many_deliveries_continues_after_a_crash,
    a_retry_of_many_deliveries_is_idempotent,
    an_invalid_retry_names_every_error,
    a_dry_run_counts_and_changes_nothing,
    pending_deliveries_are_sent_now_and_keep_their_schedule,
    skipped_deliveries_are_retried_unless_stopped_or_superseded,
}
