//! Erasing watches and apps.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, id, minutes, seconds};
use crate::tenants::tenant;

/// Tables with rows about a watch.
const TABLES: [&str; 10] = [
    "watches",
    "watch_destinations",
    "events",
    "deliveries",
    "attempts",
    "idempotency",
    "jobs",
    "endings",
    "observations",
    "operations",
];

/// Returns the numbers of rows of tables of the SQLite file that are not empty.
fn rows(t: &Harness, tables: &[&str]) -> Vec<(String, i64)> {
    let db = Connection::open(t.file()).unwrap();
    let count = |table: &&str| {
        let sql = format!("select count(*) from {table}");
        ((*table).to_owned(), db.query_row(&sql, [], |row| row.get(0)).unwrap())
    };
    tables.iter().map(count).filter(|(_, count)| *count > 0).collect()
}

fn ids(list: &Value) -> Vec<String> {
    list["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn an_erased_watch_leaves_only_positions() {
    let t = Harness::start().await;
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let register = json!({
        "jobId": "job_1", "callbackUrl": t.receiver.url("/hook"), "metadata": { "name": "Ada" },
    })
    .to_string();
    t.provider.completed("job_1");
    let watch = id(&t.send("POST", "/v1/watches", &headers, register.as_bytes()).await.expect(201));
    let batch = json!({ "watches": [{ "jobId": "job_1", "notify": [] }] }).to_string();
    let batched = t.send("POST", "/v1/watches/batch", &headers, batch.as_bytes()).await.expect(200);
    let batched = batched["data"][0]["watch"]["id"].as_str().unwrap().to_owned();
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    let [event, other] = ids(&t.get("/v1/events").await.expect(200)).try_into().expect("two events");
    let delivery = id(&t.delivery(&watch).await);
    for path in [
        format!("/v1/watches/{watch}/poll"),
        format!("/v1/watches/{watch}/stop"),
        format!("/v1/deliveries/{delivery}/retry"),
    ] {
        assert!(t.send("POST", &path, &[AUTH, ("idempotency-key", "k1")], b"").await.status < 300, "{path}");
    }
    t.rest().await;
    t.receiver.read_all();
    t.provider.completed("job_2");
    let kept = t.register(&json!({ "jobId": "job_2", "notify": [] })).await;
    t.pass(seconds(5)).await;

    let path = format!("/v1/watches/{watch}");
    let erased = t.delete(&path).await;
    assert_eq!((erased.status, erased.body.as_slice()), (204, b"".as_slice()));
    assert_eq!(t.delete(&path).await.status, 404);
    for path in [
        path.clone(),
        format!("{path}/timeline"),
        format!("/v1/events/{event}"),
        format!("/v1/deliveries/{delivery}"),
        format!("/v1/deliveries/{delivery}/attempts"),
    ] {
        assert_eq!(t.get(&path).await.status, 404, "{path}");
    }
    assert_eq!(ids(&t.get("/v1/watches").await.expect(200)), [kept.clone(), batched.clone()]);
    assert_eq!(ids(&t.get("/v1/deliveries").await.expect(200)), [""; 0]);
    // A reader whose last event was erased goes on.
    let rest = ids(&t.get(&format!("/v1/events?after={event}")).await.expect(200));
    assert_eq!((rest.len(), &rest[0]), (2, &other));
    // What is remembered about the watch is gone, too: the same request registers another one.
    let again = t.send("POST", "/v1/watches", &headers, register.as_bytes()).await;
    assert_ne!(id(&again.expect(201)), watch);
    let replayed = t.send("POST", "/v1/watches/batch", &headers, batch.as_bytes()).await;
    assert_eq!(replayed.header("idempotent-replayed"), Some("true"), "the answer about another watch stays");
    t.delete(&format!("/v1/watches/{batched}")).await;
    let anew = t.send("POST", "/v1/watches/batch", &headers, batch.as_bytes()).await;
    assert_eq!((anew.status, anew.header("idempotent-replayed")), (200, None));
    t.pass(seconds(5)).await;
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn a_batch_with_an_erased_watch_is_not_registered_again() {
    let t = Harness::start().await;
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let items: Vec<_> = (0..3).map(|n| json!({ "jobId": format!("job_{n}"), "notify": [] })).collect();
    let batch = json!({ "watches": items }).to_string();
    let made = t.send("POST", "/v1/watches/batch", &headers, batch.as_bytes()).await.expect(200);
    let watches: Vec<String> =
        made["data"].as_array().unwrap().iter().map(|item| id(&item["watch"])).collect();
    t.delete(&format!("/v1/watches/{}", watches[1])).await;
    let repeated = t.send("POST", "/v1/watches/batch", &headers, batch.as_bytes()).await;
    assert_eq!(
        (repeated.status, repeated.expect(409)["code"].clone()),
        (409, json!("idempotency_answer_gone"))
    );
    assert_eq!(ids(&t.get("/v1/watches").await.expect(200)).len(), 2, "no watch was made twice");
    t.finish().await;
}

// Once: the test reads the SQLite file.
#[tokio::test]
async fn no_row_of_an_erased_watch_is_left() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::status(500)]);
    t.provider.completed("job_1");
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let body = json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook"), "metadata": { "a": 1 } });
    let body = body.to_string();
    let watch = id(&t.send("POST", "/v1/watches", &headers, body.as_bytes()).await.expect(201));
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    assert_eq!(t.delete(&format!("/v1/watches/{watch}")).await.status, 204);
    assert_eq!(rows(&t, &TABLES), []);
    assert_eq!(rows(&t, &["erased_events"]), [("erased_events".to_owned(), 1)]);
    // The position is kept as long as an event would be.
    t.pass(minutes(60 * 24 * 31)).await;
    assert_eq!(rows(&t, &["erased_events"]), []);
    t.finish().await;
}

#[tokio::test]
async fn a_running_watch_is_stopped_when_it_is_erased() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 5);
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let waited = format!("/v1/watches/{watch}?wait=60s");
    let path = format!("/v1/watches/{watch}");
    let (answer, erased) = tokio::join!(t.get(&waited), t.delete(&path));
    assert_eq!((answer.status, erased.status), (404, 204));
    let polls = t.provider.polls("job_1").len();
    t.provider.completed("job_1");
    t.pass(minutes(10)).await;
    assert_eq!(t.provider.polls("job_1").len(), polls);
    // The job can be watched again.
    let again = t.watch("job_1").await;
    t.pass(minutes(1)).await;
    assert_eq!(t.receiver.next().await.watch(), again);
    t.pass(minutes(180)).await;
    assert_eq!(t.shown(&again).await["status"], "completed");
    t.finish().await;
}

// Once: the test reads the SQLite file.
#[tokio::test]
async fn the_job_of_an_erased_watch_is_forgotten() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 5);
    let first = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let second = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.delete(&format!("/v1/watches/{first}")).await.status, 204);
    assert_eq!(t.shown(&second).await["job"]["status"], "processing", "another watch keeps the job");
    assert_eq!(t.delete(&format!("/v1/watches/{second}")).await.status, 204);
    assert_eq!(rows(&t, &TABLES), [("jobs".to_owned(), 1)], "a poll may be in flight");
    let db = Connection::open(t.file()).unwrap();
    let seen: String = db.query_row("select seen from jobs", [], |row| row.get(0)).unwrap();
    assert!(seen.contains(r#""status":"unknown""#), "{seen}");
    t.pass(minutes(180)).await;
    assert_eq!(rows(&t, &TABLES), []);
    t.finish().await;
}

#[tokio::test]
async fn an_attempt_in_flight_during_an_erasure_is_the_last() {
    let t = Harness::start().await;
    for (job, status) in [("job_1", 500), ("job_2", 200), ("job_3", 410)] {
        let (reply, gate) = Reply::status(status).held();
        t.receiver.script("/hook", [reply]);
        t.provider.completed(job);
        let watch = t.watch(job).await;
        t.pass(seconds(5)).await;
        t.receiver.next().await;
        assert_eq!(t.delete(&format!("/v1/watches/{watch}")).await.status, 204);
        gate.open();
        t.pass(minutes(180)).await;
        t.get(&format!("/v1/watches/{watch}")).await.expect(404);
    }
    assert_eq!(ids(&t.get("/v1/deliveries").await.expect(200)), [""; 0]);
    t.finish().await;
}

// Once: the test writes into the SQLite file.
#[tokio::test]
async fn a_watch_with_very_many_rows_is_erased_in_steps() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    let db = Connection::open(t.file()).unwrap();
    let many = "insert into attempts (delivery, n, started_at, duration_ms, request_headers, response_headers, response_body)
        with recursive n (n) as (select 1 union all select n + 1 from n where n < 3000)
        select (select id from deliveries), n, 0, 1, '[]', '[]', '' from n";
    db.execute_batch(many).unwrap();
    drop(db);
    assert_eq!(t.delete(&format!("/v1/watches/{watch}")).await.status, 204);
    assert_eq!(rows(&t, &TABLES), []);
    t.rest().await;
    t.finish().await;
}

#[tokio::test]
async fn an_app_is_renamed() {
    let t = Harness::start().await;
    let (a, b) = (tenant(&t, "a").await, tenant(&t, "b").await);
    let send = async |key: &str, app: &str, body: &str| {
        let answer = t.as_key(key, "PATCH", &format!("/v1/apps/{app}"), body).await;
        (answer.status, answer.json())
    };
    let operator = crate::harness::KEY;
    let (status, app) = send(operator, &a.id, r#"{"name": "customer-7"}"#).await;
    assert_eq!((status, &app["name"], &app["id"]), (200, &json!("customer-7"), &json!(a.id)));
    assert_eq!(t.get(&format!("/v1/apps/{}", a.id)).await.expect(200)["name"], "customer-7");
    let default = ids(&t.get("/v1/apps").await.expect(200)).pop().expect("the first app");
    for (key, app, body, status, code) in [
        (operator, &a.id, r#"{"name": "b"}"#, 409, "name_taken"),
        (operator, &a.id, r#"{"name": ""}"#, 422, "invalid_request"),
        (operator, &a.id, "{}", 422, "invalid_request"),
        (operator, &default, r#"{"name": "other"}"#, 409, "first_app"),
        (&a.key, &a.id, r#"{"name": "other"}"#, 403, "operator_only"),
        (&b.key, &a.id, r#"{"name": "other"}"#, 404, "not_found"),
    ] {
        let (found, problem) = send(key, app, body).await;
        assert_eq!((found, &problem["code"]), (status, &json!(code)), "{app} {body}");
    }
    // The old name is free, and the same name again is no conflict.
    t.post("/v1/apps", &json!({ "name": "a" })).await.expect(201);
    assert_eq!(send(operator, &a.id, r#"{"name": "customer-7"}"#).await.0, 200);
    t.finish().await;
}

#[tokio::test]
async fn a_deleted_app_is_erased() {
    let mut t = Harness::start().await;
    let (gone, other) = (tenant(&t, "gone").await, tenant(&t, "other").await);
    t.receiver.secret("/gone", &gone.secret);
    t.provider.processing("job_running", 5);
    t.provider.completed("job_ended");
    t.receiver.script("/gone", [Reply::status(500)]);
    let register = |job: &str| json!({ "jobId": job, "callbackUrl": t.receiver.url("/gone") }).to_string();
    for job in ["job_running", "job_ended"] {
        t.as_key(&gone.key, "POST", "/v1/watches", &register(job)).await.expect(201);
    }
    let saved = json!({ "name": "saved", "url": t.receiver.url("/gone") }).to_string();
    t.as_key(&gone.key, "POST", "/v1/destinations", &saved).await.expect(201);
    t.as_key(&other.key, "POST", "/v1/watches", r#"{"jobId": "job_ended", "notify": []}"#).await.expect(201);
    t.pass(seconds(5)).await;
    t.receiver.next_to("/gone").await;
    let path = format!("/v1/apps/{}", gone.id);
    for (key, app, status) in [(&gone.key, &gone.id, 403), (&other.key, &gone.id, 404)] {
        assert_eq!(t.as_key(key, "DELETE", &format!("/v1/apps/{app}"), "").await.status, status);
    }
    let started = t.delete(&path).await.expect(202);
    assert_eq!(started["count"], 2);
    t.as_key(&gone.key, "GET", "/v1/watches", "").await.expect(401);
    t.get(&path).await.expect(404);
    assert_eq!(t.delete(&path).await.status, 404);
    t.crash().await;
    t.restart().await;
    t.rest().await;
    let operation = format!("/v1/operations/{}", started["operationId"].as_str().unwrap());
    let shown = t.get(&operation).await.expect(200);
    assert_eq!((&shown["status"], &shown["done"]), (&json!("succeeded"), &json!(2)));
    // Nothing is polled and sent any more, and the name is free.
    let polls = t.provider.polls("job_running").len();
    t.provider.completed("job_running");
    t.pass(minutes(600)).await;
    assert_eq!(t.provider.polls("job_running").len(), polls);
    let names: Vec<Value> = t.get("/v1/apps").await.expect(200)["data"].as_array().unwrap().clone();
    assert_eq!(names.len(), 2);
    t.post("/v1/apps", &json!({ "name": "gone" })).await.expect(201);
    let kept = t.as_key(&other.key, "GET", "/v1/watches", "").await.expect(200);
    assert_eq!(kept["data"][0]["status"], "completed");
    let default = ids(&t.get("/v1/apps").await.expect(200)).pop().expect("the first app");
    assert_eq!(t.delete(&format!("/v1/apps/{default}")).await.expect(409)["code"], "first_app");
    t.finish().await;
}

// Once: the test reads the SQLite file.
#[tokio::test]
async fn no_row_of_a_deleted_app_is_left() {
    let t = Harness::start().await;
    let gone = tenant(&t, "gone").await;
    let auth = format!("Bearer {}", gone.key);
    let headers = [("authorization", auth.as_str()), JSON, ("idempotency-key", "k1")];
    for n in 0..150 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        let body = json!({ "jobId": job, "notify": [] }).to_string();
        t.as_key(&gone.key, "POST", "/v1/watches", &body).await.expect(201);
    }
    let batch = json!({ "watches": [{ "jobId": "job_0", "notify": [] }] }).to_string();
    t.send("POST", "/v1/watches/batch", &headers, batch.as_bytes()).await.expect(200);
    let saved = json!({ "name": "saved", "url": t.receiver.url("/gone") }).to_string();
    t.send("POST", "/v1/destinations", &headers, saved.as_bytes()).await.expect(201);
    t.send("POST", "/v1/watches/stop", &headers, br#"{"all": true}"#).await.expect(202);
    t.pass(minutes(1)).await;
    t.delete(&format!("/v1/apps/{}", gone.id)).await.expect(202);
    // The rows of jobs that run are deleted later.
    t.pass(minutes(180)).await;
    let db = Connection::open(t.file()).unwrap();
    for table in ["watches", "events", "deliveries", "idempotency", "destinations", "keys", "erased_events"] {
        let sql = format!("select count(*) from {table} where app <> 1");
        assert_eq!(db.query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap(), 0, "{table}");
    }
    assert_eq!(
        rows(&t, &["apps", "operations", "jobs", "destination_hours", "watch_destinations"]),
        [("apps".to_owned(), 1), ("operations".to_owned(), 1),]
    );
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    an_erased_watch_leaves_only_positions,
    a_batch_with_an_erased_watch_is_not_registered_again,
    a_running_watch_is_stopped_when_it_is_erased,
    an_attempt_in_flight_during_an_erasure_is_the_last,
    an_app_is_renamed,
    a_deleted_app_is_erased,
}
