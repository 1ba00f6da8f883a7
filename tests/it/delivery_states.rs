//! What a client sees of deliveries: the state of each destination of a watch, filters, bytes; and the names and
//! references by which clients find their watches.

use serde_json::{Value, json};

use crate::cli::{Scripted, ask, url};
use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, id, minutes, seconds};

/// Returns the ids of a list.
async fn ids(t: &Harness, path: &str) -> Vec<String> {
    let page = t.get(path).await.expect(200);
    page["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn a_watch_shows_what_is_not_delivered_and_why() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    t.receiver.always("/down", Some(Reply::status(500)));
    t.receiver.always("/gone", Some(Reply::status(410)));
    let urls = ["/up", "/down", "/gone"].map(|path| t.receiver.url(path));
    let watch = t.register(&json!({ "jobId": "job_1", "notify": urls })).await;
    let before = t.shown(&watch).await["destinations"][1].clone();
    for field in ["status", "reason", "deliveryId", "lastError", "nextAttemptAt"] {
        assert_eq!(before[field], Value::Null, "{field}");
    }
    assert_eq!(before["attemptCount"], 0);
    t.pass(seconds(5)).await;
    t.receiver.take(3).await;
    let shown = t.shown(&watch).await;
    let [up, down, gone] = [0, 1, 2].map(|n: usize| shown["destinations"][n].clone());
    let state = |one: &Value| json!([one["status"], one["reason"], one["attemptCount"], one["lastError"]]);
    assert_eq!(state(&up), json!(["succeeded", null, 1, null]));
    assert_eq!(state(&down), json!(["pending", null, 1, "HTTP 500"]));
    assert_eq!(state(&gone), json!(["failed", "gone", 1, "HTTP 410"]));
    assert_eq!(gone["nextAttemptAt"], Value::Null);
    let path = format!("/v1/deliveries/{}", down["deliveryId"].as_str().unwrap());
    let delivery = t.get(&path).await.expect(200);
    assert_eq!(delivery["destinationId"], down["id"]);
    for field in ["status", "attemptCount", "lastError", "nextAttemptAt"] {
        assert_eq!(delivery[field], down[field], "{field}");
    }
    assert_eq!(t.get("/v1/watches").await.expect(200)["data"][0]["destinations"], shown["destinations"]);
    t.receiver.always("/down", None);
    t.pass(minutes(10)).await;
    t.receiver.take(1).await;
    t.finish().await;
}

#[tokio::test]
async fn deliveries_are_selected_by_every_filter() {
    let t = Harness::start().await;
    t.receiver.always("/down", Some(Reply::status(500)));
    let mut watches = Vec::new();
    for (job, path, reference) in [("job_1", "/up", "order-1"), ("job_2", "/down", "order-2")] {
        t.provider.completed(job);
        let body = json!({ "jobId": job, "callbackUrl": t.receiver.url(path), "reference": reference });
        watches.push(t.register(&body).await);
        t.pass(seconds(5)).await;
        t.receiver.take(1).await;
    }
    let [up, down] = [0, 1].map(|n: usize| watches[n].clone());
    let (up, down) = (id(&t.delivery(&up).await), id(&t.delivery(&down).await));
    let origin = t.receiver.url("").trim_end_matches('/').to_owned();
    let both = vec![down.clone(), up.clone()];
    for (query, found) in [
        ("status=succeeded".to_owned(), vec![up.clone()]),
        ("status=failed,pending".to_owned(), vec![down.clone()]),
        ("status=pending,succeeded".to_owned(), both.clone()),
        ("reason=gone".to_owned(), vec![]),
        ("type=job.completed&channel=webhook".to_owned(), both.clone()),
        ("channel=email".to_owned(), vec![]),
        (format!("origin={origin}"), both.clone()),
        (format!("origin={origin}&status=pending"), vec![down.clone()]),
        ("origin=https://app.example.com".to_owned(), vec![]),
        ("jobId=job_1".to_owned(), vec![up.clone()]),
        ("reference=order-2".to_owned(), vec![down.clone()]),
        ("since=1h".to_owned(), both),
        ("since=3s".to_owned(), vec![down.clone()]),
        ("until=3s".to_owned(), vec![up]),
    ] {
        assert_eq!(ids(&t, &format!("/v1/deliveries?{query}")).await, found, "{query}");
    }
    for (query, pointer) in [
        ("status=lost", "?status"),
        ("status=", "?status"),
        ("status=failed,", "?status"),
        ("reason=x", "?reason"),
        ("type=x", "?type"),
        ("channel=fax", "?channel"),
        ("origin=app.example.com", "?origin"),
        ("reference=", "?reference"),
        ("since=yesterday", "?since"),
        ("until=5", "?until"),
    ] {
        let problem = t.get(&format!("/v1/deliveries?{query}")).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}: {problem}");
    }
    t.receiver.always("/down", None);
    t.pass(minutes(10)).await;
    t.receiver.take(1).await;
    t.finish().await;
}

#[tokio::test]
async fn events_are_listed_in_both_orders_and_by_watch_and_job() {
    let t = Harness::start().await;
    let mut watches = Vec::new();
    for job in ["job_1", "job_2"] {
        t.provider.completed(job);
        watches.push(t.register(&json!({ "jobId": job, "notify": [] })).await);
        t.pass(seconds(5)).await;
    }
    let all = ids(&t, "/v1/events").await;
    let [first, second] = &all[..] else { panic!("{all:?}") };
    for (query, found) in [
        ("order=asc".to_owned(), vec![first, second]),
        ("order=desc".to_owned(), vec![second, first]),
        (format!("watchId={}", watches[1]), vec![second]),
        ("jobId=job_1&order=desc".to_owned(), vec![first]),
        (format!("after={first}&jobId=job_2"), vec![second]),
    ] {
        assert_eq!(
            ids(&t, &format!("/v1/events?{query}")).await.iter().collect::<Vec<_>>(),
            found,
            "{query}"
        );
    }
    let page = t.get("/v1/events?order=desc&limit=1").await.expect(200);
    let cursor = page["nextCursor"].as_str().unwrap();
    assert_eq!(
        ids(&t, &format!("/v1/events?order=desc&limit=1&cursor={cursor}")).await,
        std::slice::from_ref(first)
    );
    for (query, pointer) in [
        (format!("order=desc&after={first}"), "?after"),
        ("order=up".to_owned(), "?order"),
        ("watchId=x".to_owned(), "?watchId"),
    ] {
        let problem = t.get(&format!("/v1/events?{query}")).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{query}: {problem}");
    }
    t.finish().await;
}

#[tokio::test]
async fn the_body_of_a_delivery_is_byte_for_byte_what_was_sent() {
    let t = Harness::start().await;
    for payload in ["event", "raw", "cloudevents"] {
        let job = format!("job_{payload}");
        t.provider.completed(&job);
        let body = json!({ "jobId": job, "callbackUrl": t.receiver.url("/hook"), "payload": payload,
            "metadata": {"z": 1.0, "a": "\u{e4}"} });
        let watch = t.register(&body).await;
        t.pass(seconds(5)).await;
        let sent = t.receiver.next().await;
        let path = format!("/v1/deliveries/{}/body", id(&t.delivery(&watch).await));
        let answer = t.get(&path).await;
        assert_eq!((answer.status, &answer.body), (200, &sent.body), "{payload}");
        assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
    }
    let none = format!("/v1/deliveries/dlv_{}/body", "0".repeat(26));
    t.get(&none).await.expect(404);
    t.get("/v1/deliveries/x/body").await.expect(404);
    t.finish().await;
}

#[tokio::test]
async fn a_name_and_a_reference_follow_a_watch_into_its_events() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook"), "name": "Trailer, final cut",
        "reference": "order/42" });
    let watch = t.register(&body).await;
    let other = json!({ "watches": [
        { "jobId": "job_2", "notify": [], "reference": "order/42" },
        { "jobId": "job_3", "notify": [], "reference": "order/43", "name": "x".repeat(201) },
    ] });
    t.provider.processing("job_2", 1);
    let batch = t.post("/v1/watches/batch", &other).await.expect(200);
    assert_eq!(batch["data"][0]["watch"]["reference"], "order/42");
    assert_eq!(batch["data"][1]["problem"]["errors"][0]["pointer"], "/name");
    let second = id(&batch["data"][0]["watch"]);
    assert_eq!(ids(&t, "/v1/watches?reference=order/42").await, [second.clone(), watch.clone()]);
    assert!(ids(&t, "/v1/watches?reference=order/4").await.is_empty());
    t.pass(seconds(5)).await;
    let event = t.receiver.next().await.json();
    assert_eq!(event["data"]["name"], "Trailer, final cut");
    assert_eq!(event["data"]["reference"], "order/42");
    // A change, and its removal.
    let path = format!("/v1/watches/{second}");
    let patch = async |body: Value| t.send("PATCH", &path, &[AUTH, JSON], body.to_string().as_bytes()).await;
    let named = patch(json!({ "name": "Teaser", "reference": "order/44" })).await.expect(200);
    assert_eq!((&named["name"], &named["reference"]), (&json!("Teaser"), &json!("order/44")));
    assert_eq!(ids(&t, "/v1/watches?reference=order/44").await, std::slice::from_ref(&second));
    let kept = patch(json!({ "reference": null })).await.expect(200);
    assert_eq!((&kept["name"], &kept["reference"]), (&json!("Teaser"), &Value::Null));
    for (body, pointer) in [
        (json!({ "name": "" }), "/name"),
        (json!({ "name": " a" }), "/name"),
        (json!({ "name": "a\nb" }), "/name"),
        (json!({ "name": 7 }), "/name"),
        (json!({ "reference": "" }), "/reference"),
        (json!({ "reference": "r".repeat(256) }), "/reference"),
        (json!({ "reference": "a\0b" }), "/reference"),
    ] {
        let problem = patch(body.clone()).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], pointer, "{body}");
    }
    assert_eq!(t.shown(&second).await["name"], "Teaser");
    t.finish().await;
}

/// Returns an ended watch with one destination in this state.
fn ended(status: &str, delivery: &Value) -> Value {
    let mut destination = json!({ "id": "dst_1", "type": "webhook", "url": "http://127.0.0.1:9/hook" });
    for (field, value) in delivery.as_object().unwrap() {
        destination[field] = value.clone();
    }
    json!({ "id": "watch_1", "status": status, "job": { "status": status }, "destinations": [destination] })
}

fn pending() -> Value {
    json!({ "status": "pending", "reason": null, "deliveryId": "dlv_1", "attemptCount": 2,
        "lastError": "connect: refused", "nextAttemptAt": "2026-02-18T15:05:00.000Z" })
}

// Once: the answers are those of a script.
#[tokio::test]
async fn follow_waits_after_the_end_until_deliveries_have_succeeded() {
    let succeeded = json!({ "status": "succeeded", "deliveryId": "dlv_1", "attemptCount": 3 });
    let answers = [(200, ended("completed", &pending())), (200, ended("completed", &succeeded))];
    let server = Scripted::start(&answers).await;
    let ran = ask(&server.url, &["show", "watch_1", "--follow", "--json"]).await.expect(0);
    assert_eq!(ran.json()["destinations"][0]["status"], "succeeded", "{ran:#?}");
    assert_eq!(ran.err, "");
    assert_eq!(server.requests(), ["GET /v1/watches/watch_1?wait=30s", "GET /v1/watches/watch_1"]);
}

// Once: the answers are those of a script.
#[tokio::test]
async fn follow_says_what_is_not_delivered_and_exits_with_7() {
    let gone = json!({ "status": "failed", "reason": "gone", "deliveryId": "dlv_1", "attemptCount": 1,
        "lastError": null, "nextAttemptAt": null });
    let superseded = json!({ "status": "skipped", "reason": "superseded", "deliveryId": "dlv_1" });
    let table = [
        (
            "completed",
            pending(),
            7,
            "dlv_1 to http://127.0.0.1:9/hook: pending, 2 attempts, next 2026-02-18 15:05:00",
        ),
        ("completed", gone, 7, "failed: gone, 1 attempt"),
        ("failed", pending(), 3, "connect: refused"),
        ("completed", superseded, 0, ""),
    ];
    for (status, delivery, code, part) in table {
        let server = Scripted::start(&[(200, ended(status, &delivery))]).await;
        let line = ["show", "watch_1", "--follow", "--delivery-wait", "0s"];
        let ran = ask(&server.url, &line).await.expect(code);
        assert!(ran.out.starts_with(status), "{ran:#?}");
        assert!(ran.err.contains(part), "{part}: {ran:#?}");
        assert_eq!(ran.err.contains("ringback retry dlv_1"), !part.is_empty(), "{ran:#?}");
    }
    let ran = ask("http://127.0.0.1:9", &["show", "watch_1", "--delivery-wait", "5s"]).await.expect(2);
    assert!(ran.err.contains("--follow"), "{ran:#?}");
}

// Once: it is about the output of the command line.
#[tokio::test]
async fn lists_show_the_state_of_deliveries_and_names() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    t.receiver.always("/down", Some(Reply::status(500)));
    let line = [
        "watch",
        "job_1",
        "--webhook",
        &t.receiver.url("/down"),
        "--name",
        "Final cut",
        "--reference",
        "o-1",
    ];
    let url = url(&t);
    let shown = ask(&url, &line).await.expect(0).out;
    assert!(shown.contains("Final cut") && shown.contains("o-1"), "{shown}");
    t.pass(seconds(5)).await;
    t.receiver.take(1).await;
    let watches = ask(&url, &["watches", "--reference", "o-1"]).await.expect(0).out;
    assert!(watches.contains("completed  pending   muvi      job_1  Final cut"), "{watches}");
    let deliveries = ask(&url, &["deliveries", "--status", "failed,pending", "--reference", "o-1"]).await;
    let deliveries = deliveries.expect(0).out;
    assert!(deliveries.contains("ATTEMPTS") && deliveries.contains("WHY"), "{deliveries}");
    assert!(deliveries.contains("pending  1 "), "{deliveries}");
    let none = ask(&url, &["deliveries", "--origin", "https://app.example.com"]).await.expect(0);
    assert_eq!(none.out, "", "{none:#?}");
    t.receiver.always("/down", None);
    t.pass(minutes(10)).await;
    t.receiver.take(1).await;
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_watch_shows_what_is_not_delivered_and_why,
    deliveries_are_selected_by_every_filter,
    events_are_listed_in_both_orders_and_by_watch_and_job,
    the_body_of_a_delivery_is_byte_for_byte_what_was_sent,
    a_name_and_a_reference_follow_a_watch_into_its_events,
}
