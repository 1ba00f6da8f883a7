//! Jobs without a definition: the registration says how they are polled.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::fakes::{Reply, Server};
use crate::harness::{AUTH, Harness, JSON, minutes, seconds};
use crate::tenants::{Tenant, tenant};
use crate::wire::Request;

/// The state of a fake job API.
#[derive(Default)]
struct State {
    requests: Vec<Request>,
    reply: Option<Reply>,
}

/// A job API that no definition describes.
struct JobApi {
    server: Server,
    state: Arc<Mutex<State>>,
}

impl JobApi {
    async fn start(t: &Harness) -> Self {
        let state: Arc<Mutex<State>> = Arc::default();
        let known = Arc::clone(&state);
        let answer = move |request: Request| {
            let mut state = known.lock().unwrap();
            state.requests.push(request);
            state.reply.clone().unwrap_or_else(|| Reply::status(500))
        };
        Self { server: Server::start(t.held.clone(), answer).await, state }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address)
    }

    fn answer(&self, reply: Reply) {
        self.state.lock().unwrap().reply = Some(reply);
    }

    fn state(&self, state: &str) {
        let body =
            json!({ "state": state, "result": { "url": "https://cdn.example/1.mp4" }, "why": "bad input" });
        self.answer(Reply::json(200, &body));
    }

    fn count(&self) -> usize {
        self.state.lock().unwrap().requests.len()
    }

    fn last(&self) -> Request {
        self.state.lock().unwrap().requests.last().expect("a request").clone()
    }
}

/// Returns a poll object with secrets in a header and in the query.
fn poll(api: &JobApi) -> Value {
    json!({
        "url": api.url("/jobs/123?key=query-canary"),
        "headers": { "Authorization": "Bearer header-canary" },
        "status": "$.state",
        "completed": ["done"],
        "failed": ["error"],
        "output": "$.result.url",
        "error": "$.why",
    })
}

fn registration(poll: &Value) -> Value {
    json!({ "poll": poll, "notify": [] })
}

#[tokio::test]
async fn a_job_is_polled_as_its_registration_says() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("running");
    let body = json!({ "poll": poll(&api), "callbackUrl": t.receiver.url("/hook") });
    let watch = t.post("/v1/watches", &body).await.expect(201);
    assert_eq!((&watch["provider"], &watch["jobId"]), (&json!("inline"), &json!("/jobs/123")));
    t.pass(seconds(5)).await;
    let request = api.last();
    assert_eq!((&*request.method, &*request.path), ("GET", "/jobs/123?key=query-canary"));
    assert_eq!(request.header("authorization"), Some("Bearer header-canary"));
    api.state("DONE");
    t.pass(seconds(15)).await;
    let hit = t.receiver.next().await;
    assert_eq!(hit.event(), "job.completed");
    let data = &hit.json()["data"];
    assert_eq!((&data["provider"], &data["output"]), (&json!("inline"), &json!("https://cdn.example/1.mp4")));
    t.finish().await;
}

// Once: the meaning of an answer needs no database.
#[tokio::test]
async fn a_failed_job_has_the_error_of_its_answer() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("error");
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    let shown = t.shown(&watch).await;
    assert_eq!(
        (&shown["status"], &shown["job"]["error"]["message"]),
        (&json!("failed"), &json!("bad input"))
    );
    assert!(shown["job"]["output"].is_null(), "an output is read for a job that has completed");
    t.finish().await;
}

// Once: the meaning of an answer needs no database.
#[tokio::test]
async fn a_url_alone_suffices_for_known_styles() {
    let t = Harness::start().await;
    for (running, done, output) in [
        (
            Reply::json(200, &json!({ "status": "Running" })),
            Reply::json(200, &json!({ "status": "Succeeded", "resourceLocation": "https://r.example/1" })),
            "https://r.example/1",
        ),
        (
            Reply::json(200, &json!({ "name": "operations/1" })),
            Reply::json(200, &json!({ "name": "operations/1", "done": true, "response": { "a": 1 } })),
            r#"{"a":1}"#,
        ),
        (
            Reply::status(202),
            Reply::new(303, "<html></html>").with("location", "https://r.example/2"),
            "https://r.example/2",
        ),
    ] {
        let api = JobApi::start(&t).await;
        api.answer(running);
        let watch = t.register(&registration(&json!(api.url("/operations/1")))).await;
        t.pass(seconds(5)).await;
        assert_eq!(t.shown(&watch).await["job"]["status"], "processing");
        api.answer(done);
        t.pass(seconds(15)).await;
        let shown = t.shown(&watch).await;
        assert_eq!((&shown["status"], &shown["job"]["output"]), (&json!("completed"), &json!(output)));
    }
    t.finish().await;
}

#[tokio::test]
async fn an_http_operation_ends_after_a_202_also_after_a_crash() {
    let mut t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.answer(Reply::status(202));
    let watch = t.register(&registration(&json!(api.url("/operations/1")))).await;
    t.pass(seconds(5)).await;
    t.crash().await;
    t.restart().await;
    // A watch that wants progress makes the next poll a change.
    let mut second = registration(&json!(api.url("/operations/1")));
    second["events"] = json!(["job.*"]);
    let second = t.register(&second).await;
    api.answer(Reply::json(200, &json!({ "rows": 5 })));
    t.pass(seconds(60)).await;
    for watch in [watch, second] {
        assert_eq!(t.shown(&watch).await["status"], "completed");
    }
    t.give_up().await;
}

// Once: the meaning of an answer needs no database.
#[tokio::test]
async fn a_first_200_in_unknown_words_ends_no_job_unless_it_was_accepted() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.answer(Reply::json(200, &json!({ "state": "running" })));
    let plain = t.register(&registration(&json!(api.url("/operations/1")))).await;
    let accepted = json!({ "url": api.url("/operations/2"), "accepted": true });
    let accepted = t.register(&registration(&accepted)).await;
    t.pass(seconds(10)).await;
    let shown = t.shown(&plain).await;
    assert_eq!(shown["status"], "watching");
    let error = shown["job"]["lastError"].as_str().unwrap();
    assert!(error.contains("neither `status` nor `done`") && error.contains("`accepted`"), "{error}");
    assert_eq!(t.shown(&accepted).await["status"], "completed");
    t.give_up().await;
}

// Once: a request needs no database.
#[tokio::test]
async fn a_poll_can_be_a_post_with_a_body() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("done");
    let mut poll = poll(&api);
    (poll["method"], poll["body"]) =
        (json!("POST"), json!({ "token": "body-canary", "{": "}", "id": 18_446_744_073_709_551_615_u64 }));
    let watch = t.post("/v1/watches", &registration(&poll)).await;
    assert!(!watch.text().contains("canary"), "{}", watch.text());
    t.pass(seconds(5)).await;
    let request = api.last();
    assert_eq!((&*request.method, request.header("content-type")), ("POST", Some("application/json")));
    assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), poll["body"]);
    t.finish().await;
}

#[tokio::test]
async fn an_equal_poll_of_an_app_is_the_same_job() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("running");
    for _ in 0..3 {
        t.register(&registration(&poll(&api))).await;
    }
    // The order of the fields, and what has no meaning, does not count.
    let spelled = api.url("/x/../jobs/123?key=query-canary");
    let mut same = json!({ "error": "$.why", "method": "GET", "url": spelled });
    for (name, value) in poll(&api).as_object().unwrap().iter().filter(|(name, _)| *name != "url") {
        same[name] = value.clone();
    }
    t.register(&registration(&same)).await;
    t.pass(seconds(5)).await;
    assert_eq!(api.count(), 1);
    let mut other = poll(&api);
    other["headers"]["authorization"] = json!("Bearer another");
    other["headers"].as_object_mut().unwrap().remove("Authorization");
    t.register(&registration(&other)).await;
    let tenant = tenant(&t, "other").await;
    register(&t, &tenant, &registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    assert!(api.count() >= 3, "another header, and another app: {}", api.count());
    t.finish().await;
}

async fn register(t: &Harness, tenant: &Tenant, body: &Value) -> Value {
    t.as_key(&tenant.key, "POST", "/v1/watches", &body.to_string()).await.expect(201)
}

#[tokio::test]
async fn a_job_without_a_definition_survives_a_crash() {
    let mut t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("running");
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    let before = t.shown(&watch).await;
    t.crash().await;
    t.restart().await;
    assert_eq!(t.shown(&watch).await["poll"], before["poll"]);
    api.state("done");
    t.pass(minutes(1)).await;
    assert_eq!(t.shown(&watch).await["status"], "completed");
    assert_eq!(api.last().header("authorization"), Some("Bearer header-canary"));
    t.finish().await;
}

#[tokio::test]
async fn secrets_of_a_poll_are_never_shown() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.answer(Reply::json(400, &json!({ "message": "no header-canary, no query-canary" })));
    let created = t.post("/v1/watches", &registration(&poll(&api))).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let shown = created.json();
    assert_eq!(shown["poll"]["url"], json!(api.url("/jobs/123?***")));
    assert_eq!(shown["poll"]["headers"], json!({ "authorization": "***" }));
    t.pass(seconds(5)).await;
    let path = format!("/v1/watches/{}", shown["id"].as_str().unwrap());
    for path in [path.clone(), format!("{path}/timeline"), "/v1/watches?provider=inline".to_owned()] {
        let answer = t.get(&path).await;
        assert!(answer.status == 200 && !answer.text().contains("canary"), "{path}: {}", answer.text());
    }
    let error = t.shown(shown["id"].as_str().unwrap()).await["job"]["lastError"].clone();
    assert_eq!(error, "HTTP 400: no ***, no ***");
    t.give_up().await;
}

#[tokio::test]
async fn a_poll_now_of_an_ended_job_uses_its_poll() {
    let mut t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("done");
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    t.stop().await;
    t.restart().await;
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(seconds(5)).await;
    assert_eq!(api.count(), 2);
    t.finish().await;
}

#[tokio::test]
async fn an_erased_poll_is_gone_and_can_be_registered_again() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("running");
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.delete(&format!("/v1/watches/{watch}")).await.status, 204);
    t.rest().await;
    t.get(&format!("/v1/watches/{watch}")).await.expect(404);
    let again = t.register(&registration(&poll(&api))).await;
    api.state("done");
    t.pass(seconds(10)).await;
    assert_eq!(t.shown(&again).await["status"], "completed");
    t.finish().await;
}

// Once: it reads the file.
#[tokio::test]
async fn the_row_of_a_poll_is_deleted_with_its_job() {
    let keep = [("RINGBACK_RETENTION__EVENTS", "2d"), ("RINGBACK_RETENTION__WATCHES", "4d")];
    let mut t = Harness::with(&keep).await;
    let api = JobApi::start(&t).await;
    api.state("done");
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    let rows = |t: &Harness| {
        let db = rusqlite::Connection::open(t.file()).unwrap();
        let count = |row: &rusqlite::Row<'_>| row.get::<_, i64>(0);
        db.query_row("select count(*) from job_polls", [], count).unwrap()
    };
    assert_eq!(rows(&t), 1);
    t.pass(minutes(6 * 24 * 60)).await;
    assert_eq!(rows(&t), 0);
    t.get(&format!("/v1/watches/{watch}")).await.expect(404);
    // An erasure deletes it at once.
    api.state("running");
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    t.delete(&format!("/v1/watches/{watch}")).await;
    t.rest().await;
    assert_eq!(rows(&t), 0);
    t.stop().await;
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn each_item_of_a_batch_can_have_a_poll() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("done");
    let named = json!({ "poll": poll(&api), "jobId": "my-1", "notify": [] });
    let wrong = json!({ "poll": { "url": "https://10.0.0.1/" }, "notify": [] });
    let batch = json!({ "watches": [registration(&poll(&api)), wrong, named, registration(&poll(&api))] });
    let answer = t.post("/v1/watches/batch", &batch).await.expect(200);
    let statuses: Vec<&Value> =
        answer["data"].as_array().unwrap().iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, [&json!(201), &json!(422), &json!(201), &json!(201)]);
    t.pass(seconds(8)).await;
    let done = t.get("/v1/watches?provider=inline&status=completed").await.expect(200);
    assert_eq!(done["data"].as_array().unwrap().len(), 3);
    let named = t.get("/v1/watches?jobId=my-1").await.expect(200);
    assert_eq!(named["data"].as_array().unwrap().len(), 1);
    t.finish().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn a_failing_host_delays_only_its_own_jobs() {
    let t = Harness::start().await;
    let (broken, good) = (JobApi::start(&t).await, JobApi::start(&t).await);
    broken.answer(Reply::status(429).with("retry-after", "3000"));
    good.state("done");
    let of = |api: &JobApi, n: usize| {
        let mut poll = poll(api);
        poll["url"] = json!(api.url(&format!("/jobs/{n}")));
        registration(&poll)
    };
    let other = tenant(&t, "other").await;
    for n in 0..10 {
        t.register(&of(&broken, n)).await;
    }
    t.pass(seconds(10)).await;
    let polled = broken.count();
    let watch = t.register(&of(&good, 1)).await;
    broken.state("done");
    let of_other = register(&t, &other, &of(&broken, 1)).await;
    t.pass(seconds(10)).await;
    assert_eq!(t.shown(&watch).await["status"], "completed", "another host of the same app");
    let inline = |states: &Value| {
        let states = states["data"].as_array().unwrap();
        let state = states.iter().find(|state| state["id"] == "inline").expect("the state");
        state["health"]["status"].clone()
    };
    assert_eq!(inline(&t.get("/v1/providers?limit=200").await.expect(200)), "degraded");
    let states = t.as_key(&other.key, "GET", "/v1/providers?limit=200", "").await.expect(200);
    assert_eq!(inline(&states), "ok", "each app sees its own");
    let path = format!("/v1/watches/{}", of_other["id"].as_str().unwrap());
    let shown = t.as_key(&other.key, "GET", &path, "").await.expect(200);
    assert_eq!(shown["status"], "completed", "another app at the same host");
    assert_eq!(broken.count(), polled + 1, "the cooldown of the first app holds");
    t.give_up().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn a_rejected_credential_delays_only_its_own_job() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.answer(Reply::status(401));
    let watch = t.register(&registration(&poll(&api))).await;
    t.pass(seconds(6)).await;
    api.state("done");
    let mut other = poll(&api);
    other["url"] = json!(api.url("/jobs/2"));
    let valid = t.register(&registration(&other)).await;
    t.pass(seconds(7)).await;
    assert_eq!(t.shown(&valid).await["status"], "completed");
    t.pass(minutes(1)).await;
    assert_eq!(t.shown(&watch).await["status"], "completed", "its poll was repeated");
    t.finish().await;
}

// Once: the poller keeps this in memory.
#[tokio::test]
async fn one_app_polls_a_host_once_a_second_after_a_burst() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("running");
    for n in 0..60 {
        let mut poll = poll(&api);
        poll["url"] = json!(api.url(&format!("/jobs/{n}")));
        t.register(&registration(&poll)).await;
    }
    t.pass(seconds(20)).await;
    let count = api.count();
    assert!((15..=25).contains(&count), "20 s, and a burst of 5: {count}");
    t.finish().await;
}

// Once: the guard needs no database.
#[tokio::test]
async fn an_address_that_is_private_later_is_refused_at_the_poll() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW", "[]")]).await;
    t.resolve("jobs.example.com", &["93.184.215.14"]);
    let poll = json!({ "url": "https://jobs.example.com/1" });
    let watch = t.register(&registration(&poll)).await;
    t.resolve("jobs.example.com", &["127.0.0.1"]);
    t.pass(seconds(5)).await;
    let error = t.shown(&watch).await["job"]["lastError"].to_string();
    assert!(error.contains("private or otherwise special address"), "{error}");
    t.give_up().await;
}

// Once: a request needs no database.
#[tokio::test]
async fn a_redirect_of_a_poll_is_not_followed() {
    let t = Harness::start().await;
    let (api, other) = (JobApi::start(&t).await, JobApi::start(&t).await);
    other.state("done");
    for status in [301, 302, 307, 308] {
        api.answer(Reply::status(status).with("location", &other.url("/jobs/123")));
        let mut poll = poll(&api);
        poll["url"] = json!(api.url(&format!("/jobs/{status}")));
        let watch = t.register(&registration(&poll)).await;
        t.pass(seconds(6)).await;
        assert_eq!(t.shown(&watch).await["status"], "watching");
    }
    assert_eq!(other.count(), 0);
    t.give_up().await;
}

// Once: nothing is registered.
#[tokio::test]
async fn the_error_of_a_poll_object_names_the_field_and_the_remedy() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    let replaced = |name: &str, value: Value| {
        let mut poll = poll(&api);
        poll[name] = value;
        poll
    };
    let without = |name: &str| {
        let mut poll = poll(&api);
        poll.as_object_mut().unwrap().remove(name);
        poll
    };
    for (poll, pointer, says) in [
        (json!(5), "/poll", "must be an object"),
        (json!("ftp://a.example/"), "/poll", "must begin with https://"),
        (without("url"), "/poll/url", "is required"),
        (replaced("url", json!("https://u:p@a.example/")), "/poll/url", "must not contain credentials"),
        (replaced("method", json!("DELETE")), "/poll/method", "GET"),
        (replaced("accepted", json!(true)), "/poll/accepted", "has no meaning with `status`"),
        (replaced("accepted", json!("yes")), "/poll/accepted", "must be true or false"),
        (replaced("body", json!({ "a": 1 })), "/poll/body", "needs \"method\": \"POST\""),
        (replaced("headers", json!({ "host": "x" })), "/poll/headers/host", "not yours to set"),
        (replaced("headers", json!({ "Connection": "x" })), "/poll/headers/Connection", "not yours to set"),
        (
            replaced("headers", json!({ "Accept-Encoding": "x" })),
            "/poll/headers/accept-encoding",
            "remove it",
        ),
        (replaced("headers", json!({ "a": "b\nc" })), "/poll/headers/a", "control characters"),
        (replaced("status", json!("state")), "/poll/status", "write it as $.a.b"),
        (replaced("output", json!("$.")), "/poll/output", "write it as $.a.b"),
        (without("completed"), "/poll/completed", "the words of a job that has completed"),
        (without("failed"), "/poll/failed", "give [] if there are none"),
        (without("status"), "/poll/completed", "needs `status`"),
        (replaced("failed", json!(["x", "DONE"])), "/poll/failed/1", "is a word of `completed` already"),
        (replaced("failed", json!([null])), "/poll/failed/0", "must be a string"),
        (replaced("wrong", json!(1)), "/poll/wrong", "there is no such field"),
        (
            replaced(
                "headers",
                json!({ "x": "y".repeat(4_000), "z": "y".repeat(4_000), "a": "y".repeat(4_000),
            "b": "y".repeat(4_000), "c": "y".repeat(4_000) }),
            ),
            "/poll",
            "not be larger than 16 KiB",
        ),
    ] {
        let answer = t.post("/v1/watches", &registration(&poll)).await;
        assert_eq!(answer.status, 422, "{poll}");
        let errors = answer.json()["errors"].clone();
        let named = errors.as_array().unwrap().iter().find(|error| error["pointer"] == pointer);
        let detail = named.unwrap_or_else(|| panic!("{poll}: {errors}"))["detail"].to_string();
        assert!(detail.replace("\\\"", "\"").contains(says), "{poll}: {detail}");
        assert!(!answer.text().contains("canary"), "{}", answer.text());
    }
    for (field, value) in [("provider", json!("muvi")), ("params", json!({ "a": "b" }))] {
        let mut body = registration(&poll(&api));
        body[field] = value;
        let answer = t.post("/v1/watches", &body).await.expect(422);
        assert_eq!(answer["errors"][0]["pointer"], format!("/{field}"));
    }
    let named = t.post("/v1/watches", &json!({ "provider": "inline", "jobId": "x", "notify": [] })).await;
    assert!(named.status == 422 && named.text().contains("say in `poll`"), "{}", named.text());
    t.give_up().await;
}

// Once: the key is compared with the whole body.
#[tokio::test]
async fn an_idempotency_key_covers_the_poll() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("running");
    let headers = [AUTH, JSON, ("idempotency-key", "one")];
    let body = registration(&poll(&api)).to_string();
    let first = t.send("POST", "/v1/watches", &headers, body.as_bytes()).await;
    let again = t.send("POST", "/v1/watches", &headers, body.as_bytes()).await;
    assert_eq!((first.status, first.json()), (201, again.json()));
    let other = body.replace("header-canary", "header-other");
    t.send("POST", "/v1/watches", &headers, other.as_bytes()).await.expect(422);
    t.finish().await;
}

// Once: metrics are kept in memory.
#[tokio::test]
async fn metrics_count_the_polls_of_inline_jobs() {
    let t = Harness::start().await;
    let api = JobApi::start(&t).await;
    api.state("done");
    let page = t.get_without_key("/metrics").await;
    assert!(!page.text().contains("provider=\"inline\""), "no series before the first poll");
    t.register(&registration(&poll(&api))).await;
    t.pass(seconds(5)).await;
    let page = t.get_without_key("/metrics").await;
    let page = page.text();
    let counted = |line: &str| line.starts_with("ringback_polls_total{") && line.contains("inline");
    assert!(page.lines().any(|line| counted(line) && line.ends_with(" 1")), "{page}");
    t.finish().await;
}

// Once: the settings need no database.
#[tokio::test]
async fn the_operator_limits_the_polls_of_inline_jobs() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__INLINE__FIRST", "30s")]).await;
    let api = JobApi::start(&t).await;
    api.state("done");
    t.register(&registration(&poll(&api))).await;
    t.pass(seconds(29)).await;
    assert_eq!(api.count(), 0);
    t.pass(seconds(2)).await;
    assert_eq!(api.count(), 1);
    t.finish().await;
    let error = Harness::refused(&[("RINGBACK_PROVIDERS__INLINE__API_KEY", "x")]).await;
    assert!(error.contains("[providers.inline] api_key: has no meaning"), "{error}");
}

crate::postgres::on_postgres_too! {
    a_job_is_polled_as_its_registration_says,
    a_job_without_a_definition_survives_a_crash,
    an_equal_poll_of_an_app_is_the_same_job,
    an_http_operation_ends_after_a_202_also_after_a_crash,
    a_poll_now_of_an_ended_job_uses_its_poll,
    an_erased_poll_is_gone_and_can_be_registered_again,
    each_item_of_a_batch_can_have_a_poll,
    secrets_of_a_poll_are_never_shown,
}
