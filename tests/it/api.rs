//! Properties of every response of the API, lists, idempotency keys, health, the first start and retention.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::cuttable_proxy::{Cut, Proxy};
use crate::fakes::Reply;
use crate::harness::{AUTH, Harness, JSON, KEY, SECRET, id, minutes, seconds};
use crate::postgres::shared;
use crate::wire::{self, Answer};

async fn keyed(t: &Harness, key: &str, body: &Value) -> Answer {
    let headers = [AUTH, JSON, ("idempotency-key", key)];
    t.send("POST", "/v1/watches", &headers, body.to_string().as_bytes()).await
}

#[tokio::test]
async fn a_registration_returns_the_watch_and_its_location() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let body = json!({ "jobId": "job_1", "notify": [], "expiresIn": "24h" });
    let answer = t.post("/v1/watches", &body).await;
    let watch = answer.expect(201);
    assert_eq!(answer.header("location"), Some(format!("/v1/watches/{}", id(&watch)).as_str()));
    assert_eq!(t.get(answer.header("location").unwrap()).await.expect(200)["id"], watch["id"]);
    insta::assert_snapshot!(answer.text().replace(&id(&watch), "watch_…"), @r#"{"id":"watch_…","status":"watching","jobId":"job_1","provider":"muvi","name":null,"reference":null,"job":{"status":"unknown","rawStatus":null,"progress":null,"output":null,"outputs":null,"error":null,"createdAt":null,"completedAt":null,"outputExpiresAt":null,"lastPolledAt":null,"nextPollAt":null,"polls":0,"estimatedCompletionAt":null,"lastError":null},"destinations":[],"events":["job.completed","job.failed","job.cancelled","job.not_found","watch.expired"],"metadata":{},"groupId":null,"createdAt":"2026-02-18T15:00:00.000Z","endedAt":null,"expiresAt":"2026-02-19T15:00:00.000Z"}"#);
    t.finish().await;
}

#[tokio::test]
async fn every_response_has_a_unique_request_id() {
    let t = Harness::start().await;
    let mut ids = HashSet::new();
    for (path, status) in [
        ("/healthz", 200),
        ("/v1/watches", 200),
        ("/v1/watches?x=1", 422),
        ("/v1/watches/watch_0", 404),
        ("/nowhere", 404),
    ] {
        let answer = t.get(path).await;
        assert_eq!(answer.status, status, "{path}");
        let request = answer.header("x-request-id").unwrap().to_owned();
        assert!(request.starts_with("req_"), "{request}");
        if status >= 400 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            let problem = answer.json();
            assert_eq!(problem["requestId"], request);
            assert_eq!(problem["status"], status);
            for field in ["type", "title", "detail"] {
                assert!(problem[field].is_string(), "{problem}");
            }
        }
        assert!(ids.insert(request));
    }
    t.finish().await;
}

#[tokio::test]
async fn a_request_without_a_valid_key_is_401() {
    let t = Harness::start().await;
    let paths = ["/v1/watches", "/v1/events", "/v1/deliveries", "/v1/signing-secret", "/v1/watches/watch_1"];
    for path in paths {
        for given in [None, Some("Bearer wrong"), Some("Basic abc"), Some("Bearer"), Some("Bearer ")] {
            let headers: Vec<(&str, &str)> =
                given.map(|given| ("authorization", given)).into_iter().collect();
            let answer = t.send("GET", path, &headers, b"").await;
            assert_eq!(answer.status, 401, "{path} {given:?}");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        }
    }
    // The scheme is case-insensitive.
    let lower = format!("bearer {KEY}");
    t.send("GET", "/v1/watches", &[("authorization", &lower)], b"").await.expect(200);
    t.finish().await;
}

// Once: the test writes into the SQLite file.
#[tokio::test]
async fn a_key_permits_what_its_scope_includes_and_no_more() {
    let mut t = Harness::start().await;
    t.keys().await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "notify": [] }).to_string();
    for (key, register, secret) in [("read", 403, 403), ("write", 201, 403), (KEY, 201, 200)] {
        let auth = format!("Bearer {key}");
        let headers = [("authorization", auth.as_str()), JSON];
        assert_eq!(t.send("GET", "/v1/watches", &headers[..1], b"").await.status, 200);
        assert_eq!(t.send("POST", "/v1/watches", &headers, body.as_bytes()).await.status, register, "{key}");
        assert_eq!(t.send("GET", "/v1/signing-secret", &headers[..1], b"").await.status, secret, "{key}");
    }
    t.finish().await;
}

#[tokio::test]
async fn an_unsupported_method_is_405_with_the_supported_ones() {
    let t = Harness::start().await;
    for (method, path, allow) in [
        ("PUT", "/v1/watches", ["GET", "POST"].as_slice()),
        ("POST", "/v1/watches/watch_1", &["GET", "DELETE"]),
        ("GET", "/v1/watches/watch_1/poll", &["POST"]),
        ("DELETE", "/v1/events", &["GET"]),
        ("GET", "/v1/deliveries/dlv_1/retry", &["POST"]),
        ("POST", "/healthz", &["GET"]),
    ] {
        let answer = t.send(method, path, &[AUTH], b"").await;
        assert_eq!(answer.status, 405, "{method} {path}");
        let allowed = answer.header("allow").unwrap_or_else(|| panic!("no allow for {path}"));
        for method in allow {
            assert!(allowed.contains(method), "{path}: {allowed}");
        }
        assert_eq!(answer.json()["status"], 405);
    }
    t.finish().await;
}

#[tokio::test]
async fn an_unknown_or_malformed_id_is_404() {
    let t = Harness::start().await;
    let none = "0".repeat(26);
    for name in ["0", "watch_", "watch_x", "evt_1", "%00", "..", "watch_%2e%2e", "watch_' or 1=1", "%ff%fe"] {
        let name = name.replace(' ', "%20");
        for path in ["watches", "events", "deliveries"] {
            assert_eq!(t.get(&format!("/v1/{path}/{name}")).await.status, 404, "{path}/{name}");
        }
    }
    for (method, path) in [
        ("GET", format!("watches/watch_{none}")),
        ("DELETE", format!("watches/watch_{none}")),
        ("POST", format!("watches/watch_{none}/poll")),
        ("POST", format!("watches/watch_{none}/stop")),
        ("GET", format!("operations/op_{none}")),
        ("GET", format!("watches/watch_{none}/timeline")),
        ("GET", format!("events/evt_{none}")),
        ("GET", format!("deliveries/dlv_{none}")),
        ("POST", format!("deliveries/dlv_{none}/retry")),
    ] {
        assert_eq!(t.send(method, &format!("/v1/{path}"), &[AUTH], b"").await.status, 404, "{path}");
    }
    assert_eq!(t.get(&format!("/v1/events?after=evt_{none}")).await.status, 410);
    t.finish().await;
}

#[tokio::test]
async fn an_invalid_query_names_every_invalid_parameter() {
    let t = Harness::start().await;
    for (path, wrong) in [
        ("/v1/watches?limit=0", vec!["?limit"]),
        ("/v1/watches?limit=201", vec!["?limit"]),
        (
            "/v1/watches?limit=x&cursor=y&status=z&provider=w&unknown=1",
            vec!["?limit", "?cursor", "?status", "?provider", "?unknown"],
        ),
        ("/v1/watches?limit=1&limit=2", vec!["?limit"]),
        ("/v1/watches?jobId=job%00", vec!["?jobId"]),
        ("/v1/watches?jobId=%ff&provider=m%C3%28", vec!["?jobId", "?provider"]),
        ("/v1/watches?%ff=1", vec!["?"]),
        ("/v1/events?type=job.exploded&limit=-1", vec!["?type", "?limit"]),
        (
            "/v1/deliveries?status=lost&watchId=1&destinationId=2&since=now&until=never",
            vec!["?status", "?watchId", "?destinationId", "?since", "?until"],
        ),
    ] {
        let problem = t.get(path).await.expect(422);
        let mut pointers: Vec<&str> =
            problem["errors"].as_array().unwrap().iter().map(|e| e["pointer"].as_str().unwrap()).collect();
        let mut wrong = wrong;
        pointers.sort_unstable();
        wrong.sort_unstable();
        assert_eq!(pointers, wrong, "{path}");
    }
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    for query in ["wait=61s", "wait=0s", "wait=soon", "wit=1s"] {
        t.get(&format!("/v1/watches/{watch}?{query}")).await.expect(422);
    }
    t.get("/v1/watches?limit=200").await.expect(200);
    t.get("/v1/watches?limit=1").await.expect(200);
    t.finish().await;
}

#[tokio::test]
async fn pages_list_every_row_once() {
    let t = Harness::start().await;
    let mut created = Vec::new();
    for n in 0..120 {
        let job = format!("job_{}", n % 60);
        t.provider.completed(&job);
        let body = json!({ "jobId": job, "callbackUrl": t.receiver.url("/hook") });
        created.push(t.register(&body).await);
    }
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.take(120).await.len(), 120);
    for list in ["watches", "events", "deliveries"] {
        let mut seen = Vec::new();
        let mut path = format!("/v1/{list}?limit=50");
        let mut pages = 0;
        loop {
            let page = t.get(&path).await.expect(200);
            seen.extend(page["data"].as_array().unwrap().iter().map(id));
            pages += 1;
            // New rows do not move the rows of later pages.
            if list == "watches" {
                t.provider.completed("job_late");
                t.register(&json!({ "jobId": "job_late", "notify": [] })).await;
            }
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            path = format!("/v1/{list}?limit=50&cursor={cursor}");
        }
        let once: HashSet<&String> = seen.iter().collect();
        assert_eq!((seen.len(), once.len(), pages), (120, 120, 3), "{list}");
        if list == "watches" {
            created.reverse();
            assert_eq!(seen, created, "newest first");
        }
    }
    let default = t.get("/v1/watches").await.expect(200);
    assert_eq!(default["data"].as_array().unwrap().len(), 50);
    t.pass(seconds(5)).await;
    t.finish().await;
}

/// Registers three watches: the first job completes, the second fails, the third continues.
async fn three(t: &Harness) -> Vec<String> {
    t.provider.completed("job_1");
    t.provider.failed("job_2");
    t.provider.processing("job_3", 1);
    let mut watches = Vec::new();
    for job in ["job_1", "job_2", "job_3"] {
        watches.push(t.watch(job).await);
    }
    t.pass(seconds(5)).await;
    t.receiver.take(2).await;
    watches
}

/// Returns the ids on the first page of a list.
async fn ids(t: &Harness, path: &str) -> Vec<String> {
    t.get(path).await.expect(200)["data"].as_array().unwrap().iter().map(id).collect()
}

#[tokio::test]
async fn watches_are_listed_newest_first_and_can_be_filtered() {
    let t = Harness::start().await;
    let watches = three(&t).await;
    let newest: Vec<String> = watches.iter().rev().cloned().collect();
    assert_eq!(ids(&t, "/v1/watches").await, newest);
    assert_eq!(ids(&t, "/v1/watches?status=watching").await, watches[2..]);
    assert_eq!(ids(&t, "/v1/watches?status=failed").await, watches[1..2]);
    assert_eq!(ids(&t, "/v1/watches?jobId=job_1").await, watches[..1]);
    assert_eq!(ids(&t, "/v1/watches?provider=muvi").await, newest);
    t.finish().await;
}

#[tokio::test]
async fn events_are_listed_oldest_first_by_type_and_after_an_event() {
    let t = Harness::start().await;
    three(&t).await;
    let events = ids(&t, "/v1/events").await;
    assert_eq!(events.len(), 2);
    let failed = t.get("/v1/events?type=job.failed").await.expect(200)["data"].clone();
    assert_eq!((failed.as_array().unwrap().len(), &failed[0]["data"]["jobId"]), (1, &json!("job_2")));
    assert_eq!(ids(&t, &format!("/v1/events?after={}", events[0])).await, events[1..]);
    t.finish().await;
}

#[tokio::test]
async fn an_event_by_id_equals_the_event_in_the_feed() {
    let t = Harness::start().await;
    three(&t).await;
    for event in t.get("/v1/events").await.expect(200)["data"].as_array().unwrap() {
        let read = t.get(&format!("/v1/events/{}", id(event))).await;
        assert_eq!(&read.expect(200), event);
    }
    t.finish().await;
}

#[tokio::test]
async fn deliveries_are_listed_newest_first_and_can_be_filtered() {
    let t = Harness::start().await;
    let watches = three(&t).await;
    let of = async |watch: &str| ids(&t, &format!("/v1/deliveries?watchId={watch}")).await;
    let (first, second) = (of(&watches[0]).await, of(&watches[1]).await);
    assert_eq!((first.len(), second.len(), of(&watches[2]).await.len()), (1, 1, 0));
    assert_eq!(ids(&t, "/v1/deliveries?status=pending").await, Vec::<String>::new());
    assert_eq!(ids(&t, "/v1/deliveries?since=2026-02-18T15:00:06Z").await.len(), 0);
    let mut all = ids(&t, "/v1/deliveries?until=2026-02-18T15:00:06Z&status=succeeded").await;
    assert_eq!(all, ids(&t, "/v1/deliveries").await);
    all.sort();
    let mut both = [first, second].concat();
    both.sort();
    assert_eq!(all, both);
    t.finish().await;
}

#[tokio::test]
async fn the_signing_secret_of_the_api_signs_webhooks() {
    let t = Harness::start().await;
    let shown = t.get("/v1/signing-secret").await.expect(200);
    assert_eq!((&shown["secret"], &shown["previous"]), (&json!(SECRET), &Value::Null));
    assert!(shown["publicKey"].as_str().unwrap().starts_with("whpk_"), "{shown}");
    // The receiver verifies every signature with this secret and reports any error.
    t.provider.completed("job_1");
    t.watch("job_1").await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    t.finish().await;
}

#[tokio::test]
async fn the_same_idempotency_key_and_body_replay_the_first_answer() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let body = json!({ "jobId": "job_1", "notify": [] });
    let first = keyed(&t, "k1", &body).await;
    first.expect(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    t.pass(seconds(10)).await;
    t.crash().await;
    t.restart().await;
    let again = keyed(&t, "k1", &body).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.header("location"), first.header("location"));
    assert_eq!(t.get("/v1/watches").await.expect(200)["data"].as_array().unwrap().len(), 1);

    // A body that differs by a space is another body.
    let other = format!("{body} ");
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let problem = t.send("POST", "/v1/watches", &headers, other.as_bytes()).await.expect(422);
    assert_eq!(problem["errors"][0]["pointer"], "Idempotency-Key");

    // Without a key, the same body creates another watch.
    assert_ne!(t.register(&body).await, id(&first.json()));
    t.finish().await;
}

#[tokio::test]
async fn a_replay_is_not_validated_again() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    t.resolve("app.example.com", &["93.184.216.34"]);
    let body = json!({ "jobId": "job_1", "callbackUrl": "https://app.example.com/hook" });
    let first = keyed(&t, "k1", &body).await;
    first.expect(201);
    t.resolve("app.example.com", &["10.0.0.1"]);
    t.pass(minutes(2)).await;
    keyed(&t, "k2", &body).await.expect(422);
    let again = keyed(&t, "k1", &body).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    t.finish().await;
}

#[tokio::test]
async fn an_idempotency_key_expires_after_a_day() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "notify": [] });
    let first = id(&keyed(&t, "k1", &body).await.expect(201));
    t.pass(minutes(24 * 60 - 1)).await;
    assert_eq!(id(&keyed(&t, "k1", &body).await.expect(201)), first);
    t.pass(minutes(2)).await;
    let later = keyed(&t, "k1", &body).await;
    assert_ne!(id(&later.expect(201)), first);
    assert_eq!(later.header("idempotent-replayed"), None);
    t.finish().await;
}

#[tokio::test]
async fn a_refusal_is_not_stored_and_an_invalid_key_is_refused() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    keyed(&t, "k1", &json!({ "jobId": "", "notify": [] })).await.expect(422);
    keyed(&t, "k1", &json!({ "jobId": "job_1", "notify": [] })).await.expect(201);
    for key in ["", &"k".repeat(256), "tab\tkey", "kéy"] {
        let problem = keyed(&t, key, &json!({ "jobId": "job_1", "notify": [] })).await.expect(422);
        assert_eq!(problem["errors"][0]["pointer"], "Idempotency-Key", "{key:?}");
    }
    keyed(&t, &"k".repeat(255), &json!({ "jobId": "job_1", "notify": [] })).await.expect(201);
    t.finish().await;
}

#[tokio::test]
async fn concurrent_requests_with_one_key_create_one_watch() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "notify": [] }).to_string();
    let headers = [AUTH, JSON, ("idempotency-key", "k1")];
    let bytes = wire::request("POST", "/v1/watches", &headers, body.as_bytes());
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (address, bytes) = (t.address(), bytes.clone());
        requests.spawn(async move { wire::exchange(address, &bytes).await.unwrap() });
    }
    let answers = requests.join_all().await;
    let created: HashSet<String> =
        answers.iter().filter(|answer| answer.status == 201).map(|answer| id(&answer.json())).collect();
    assert_eq!(created.len(), 1, "{answers:?}");
    assert!(answers.iter().all(|answer| matches!(answer.status, 201 | 409)), "{answers:?}");
    assert_eq!(t.get("/v1/watches").await.expect(200)["data"].as_array().unwrap().len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_key_of_a_request_in_progress_is_409() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    // A slow name lookup, which the test ends, keeps the first request in progress.
    let url = format!("http://slow.example.com:{}/hook", t.receiver.port());
    let release = t.resolve_slowly("slow.example.com", &["127.0.0.1"]);
    let body = json!({ "jobId": "job_1", "callbackUrl": url });
    let (first, second) = tokio::join!(keyed(&t, "k1", &body), async {
        release.requested().await;
        let second = keyed(&t, "k1", &body).await;
        release.answer();
        second
    });
    assert_eq!((first.status, second.status), (201, 409), "{} {}", first.text(), second.text());
    assert_eq!(keyed(&t, "k1", &body).await.body, first.body);
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn a_retry_and_a_poll_run_once_per_idempotency_key() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::status(500)]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let delivery = id(&t.delivery(&watch).await);
    let headers = [AUTH, ("idempotency-key", "k1")];
    let path = format!("/v1/deliveries/{delivery}/retry");
    let first = t.send("POST", &path, &headers, b"").await;
    first.expect(202);
    t.rest().await;
    let again = t.send("POST", &path, &headers, b"").await;
    assert_eq!((again.status, again.body), (202, first.body));
    t.rest().await;
    assert_eq!(t.receiver.take(2).await.len(), 2);
    let path = format!("/v1/watches/{watch}/poll");
    for _ in 0..3 {
        t.send("POST", &path, &headers, b"").await.expect(202);
        t.pass(seconds(5)).await;
    }
    assert_eq!(t.provider.polls("job_1").len(), 2);
    t.finish().await;
}

#[tokio::test]
async fn health_needs_no_key_and_readiness_ends_with_the_drain() {
    let mut t = Harness::start().await;
    t.get_without_key("/healthz").await.expect(200);
    t.get_without_key("/readyz").await.expect(200);
    // A connection is open when the drain begins, and an attempt in flight delays its end.
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    t.provider.completed("job_1");
    t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    let address = t.address();
    let half = "GET /readyz HTTP/1.1\r\nhost: ringback\r\n";
    let mut open = tokio::net::TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut open, half.as_bytes()).await.unwrap();
    t.get_without_key("/healthz").await.expect(200);
    let stopping = t.begin_stop();
    t.closed(address).await;
    // The server may cut off an incomplete request. If it answers, the status is 503.
    let _ = tokio::io::AsyncWriteExt::write_all(&mut open, b"\r\n").await;
    if let Some(answer) = Answer::read(&mut tokio::io::BufReader::new(open)).await {
        assert_eq!(answer.status, 503, "{}", answer.text());
    }
    gate.open();
    stopping.ended().await;
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn only_the_first_start_creates_a_key_and_a_secret() {
    let mut t = Harness::with(&[("RINGBACK_API_KEY", ""), ("RINGBACK_SIGNING_SECRET", "")]).await;
    let created = t.first_start().clone();
    let (key, secret) = (created.admin_key.unwrap(), created.signing_secret.unwrap());
    let auth = format!("Bearer {key}");
    let shown = t.send("GET", "/v1/signing-secret", &[("authorization", &auth)], b"").await;
    assert_eq!(shown.expect(200)["secret"], secret);
    t.stop().await;
    t.restart().await;
    let later = t.first_start();
    assert!(later.admin_key.is_none() && later.signing_secret.is_none());
    t.receiver.secret("/hook", &secret);
    t.provider.completed("job_1");
    let body = json!({ "jobId": "job_1", "callbackUrl": t.receiver.url("/hook") }).to_string();
    let headers = [("authorization", auth.as_str()), JSON];
    t.send("POST", "/v1/watches", &headers, body.as_bytes()).await.expect(201);
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.get("/v1/watches").await.expect(401);
    t.give_up().await;
}

#[tokio::test]
async fn the_retention_deletes_only_events_and_ended_watches() {
    let t =
        Harness::with(&[("RINGBACK_RETENTION__EVENTS", "2d"), ("RINGBACK_RETENTION__WATCHES", "4d")]).await;
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let event = t.receiver.next().await.id().to_owned();
    t.provider.processing("job_2", 0);
    let continuing = t
        .register(&json!({ "jobId": "job_2", "notify": [], "expiresIn": "30d", "pollInterval": "24h" }))
        .await;
    let (event_path, watch_path) = (format!("/v1/events/{event}"), format!("/v1/watches/{watch}"));
    t.pass(minutes(60 * 47)).await;
    t.get(&event_path).await.expect(200);
    t.pass(minutes(60 * 2)).await;
    t.get(&event_path).await.expect(404);
    t.pass(minutes(60 * 46)).await;
    t.get(&watch_path).await.expect(200);
    t.pass(minutes(60 * 2)).await;
    t.get(&watch_path).await.expect(404);
    t.get(&format!("/v1/events?after={event}")).await.expect(410);
    assert_eq!(t.shown(&continuing).await["status"], "watching");
    t.finish().await;
}

// Once: the test writes into the SQLite file.
#[tokio::test]
async fn a_stop_whose_answer_cannot_be_read_changes_nothing() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    let other = rusqlite::Connection::open(t.file()).unwrap();
    let broken =
        "create trigger broken after update of status on watches begin update jobs set provider = x'ff'; end";
    other.execute_batch(broken).unwrap();
    t.stop_watch(&watch).await.expect(500);
    other.execute_batch("drop trigger broken").unwrap();
    assert_eq!(t.shown(&watch).await["status"], "watching");
    assert_eq!(t.stop_watch(&watch).await.expect(200)["status"], "stopped");
    t.finish().await;
}

// Once: the server is PostgreSQL in any case.
#[tokio::test]
async fn an_unknown_outcome_names_the_remedy_of_its_request() {
    let Some(server) = shared("a commit with an unknown outcome") else { return };
    let proxy = Proxy::start(server.socket());
    let t = Harness::with(&[("RINGBACK_DATABASE_URL", &proxy.url(&server.database()))]).await;
    let body = json!({ "scope": "read" }).to_string();
    let key = id(&t.post("/v1/keys", &json!({ "scope": "read" })).await.expect(201));
    for (method, path, body, remedy) in [
        ("POST", "/v1/keys", body.as_str(), "an `Idempotency-Key`, which this one lacks"),
        ("DELETE", &format!("/v1/keys/{key}"), "", "; it is safe to send the request again"),
    ] {
        proxy.cut(Cut::After, true);
        let problem = t.as_key(KEY, method, path, body).await.expect(503);
        assert_eq!(problem["code"], "outcome_unknown", "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(remedy), "{problem}");
        proxy.open();
        t.until("/readyz", 200).await;
    }
    t.finish().await;
}

#[tokio::test]
async fn too_many_query_parameters_are_one_error() {
    let t = Harness::start().await;
    let query = |count: usize| (0..count).map(|n| format!("p{n}")).collect::<Vec<_>>().join("&");
    let errors = async |count: usize| {
        let problem = t.get(&format!("/v1/watches?{}", query(count))).await.expect(422);
        problem["errors"].as_array().unwrap().clone()
    };
    assert_eq!(errors(64).await.len(), 64);
    for count in [65, 2_500] {
        let error = json!({ "pointer": "?", "code": "too_many", "detail": "has more than 64 parameters" });
        assert_eq!(errors(count).await, [error], "{count}");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_a_month_ahead_for_an_hour_deletes_nothing() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let event = format!("/v1/events/{}", t.receiver.next().await.id());
    let right = t.now();
    t.clock.set_wall(right.plus(minutes(60 * 24 * 31)));
    t.pass(minutes(90)).await;
    // A deletion would run beside these requests.
    for _ in 0..50 {
        t.get(&event).await.expect(200);
    }
    t.get(&format!("/v1/watches/{watch}")).await.expect(200);
    t.clock.set_wall(right.plus(minutes(90)));
    t.pass(minutes(60)).await;
    t.get(&event).await.expect(200);
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_clock_that_is_a_month_ahead_for_an_hour_deletes_nothing,
    a_registration_returns_the_watch_and_its_location,
    every_response_has_a_unique_request_id,
    a_request_without_a_valid_key_is_401,
    an_unsupported_method_is_405_with_the_supported_ones,
    an_unknown_or_malformed_id_is_404,
    an_invalid_query_names_every_invalid_parameter,
    pages_list_every_row_once,
    watches_are_listed_newest_first_and_can_be_filtered,
    events_are_listed_oldest_first_by_type_and_after_an_event,
    an_event_by_id_equals_the_event_in_the_feed,
    deliveries_are_listed_newest_first_and_can_be_filtered,
    the_signing_secret_of_the_api_signs_webhooks,
    the_same_idempotency_key_and_body_replay_the_first_answer,
    a_replay_is_not_validated_again,
    an_idempotency_key_expires_after_a_day,
    a_refusal_is_not_stored_and_an_invalid_key_is_refused,
    concurrent_requests_with_one_key_create_one_watch,
    a_key_of_a_request_in_progress_is_409,
    a_retry_and_a_poll_run_once_per_idempotency_key,
    health_needs_no_key_and_readiness_ends_with_the_drain,
    only_the_first_start_creates_a_key_and_a_secret,
    the_retention_deletes_only_events_and_ended_watches,
    too_many_query_parameters_are_one_error,
}
