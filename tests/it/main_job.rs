//! The main guarantee: after a 2xx response to a registration, its destinations are notified of the end of the job,
//! in the documented form.

use ringback::domain::Timestamp;
use serde_json::{Value, json};

use crate::fakes::{Hit, Pacing, Reply, error};
use crate::harness::{AUTH, Harness, JSON, id, minutes, seconds, since_start, start};

/// Returns a body without the id of the watch, which differs in each run.
fn shown(hit: &Hit) -> String {
    String::from_utf8(hit.body.clone()).unwrap().replace(hit.watch(), "watch_…")
}

#[tokio::test]
async fn a_completed_job_is_delivered_signed_and_as_documented() {
    let t = Harness::start().await;
    t.provider.completed("job_abc123def456");
    let body = json!({ "jobId": "job_abc123def456", "callbackUrl": t.receiver.url("/hooks/muvi"),
                       "metadata": { "orderId": 42 } });
    let watch = t.register(&body).await;
    t.pass(seconds(5)).await;

    let hit = t.receiver.next().await;
    insta::assert_snapshot!(shown(&hit), @r#"{"type":"job.completed","timestamp":"2026-02-18T15:00:05.000Z","data":{"watchId":"watch_…","provider":"muvi","jobId":"job_abc123def456","name":null,"reference":null,"status":"completed","rawStatus":"completed","progress":100,"output":"https://cdn.muvi.video/outputs/job_abc123def456/output_0.mp4","outputs":[{"url":"https://cdn.muvi.video/outputs/job_abc123def456/output_0.mp4","type":"video","thumbnail":"https://cdn.muvi.video/outputs/job_abc123def456/thumb_0.jpg","posterImage":"https://cdn.muvi.video/outputs/job_abc123def456/poster_0.jpg"}],"error":null,"createdAt":"2026-02-18T14:59:00.000Z","completedAt":"2026-02-18T15:02:30.000Z","outputExpiresAt":null,"metadata":{"orderId":42}}}"#);
    assert_eq!(hit.path, "/hooks/muvi");
    assert_eq!(hit.header("content-type"), "application/json");
    assert_eq!(hit.header("user-agent"), concat!("Ringback/", env!("CARGO_PKG_VERSION")));
    assert_eq!(hit.header("ringback-event"), "job.completed");
    assert_eq!(hit.watch(), watch);
    assert_eq!(hit.header("webhook-timestamp"), t.now().seconds().to_string());
    assert!(hit.id().starts_with("evt_"), "{}", hit.id());

    let ended = t.shown(&watch).await;
    assert_eq!(ended["status"], "completed");
    assert_eq!(ended["endedAt"], "2026-02-18T15:00:05.000Z");
    assert_eq!(ended["destinations"][0]["status"], "succeeded");
    assert_eq!(ended["job"]["polls"], 1);
    assert_eq!(t.delivery(&watch).await["eventId"], hit.id());
    t.finish().await;
}

#[tokio::test]
async fn every_ending_has_its_own_event_type_and_reason() {
    let t = Harness::start().await;
    t.provider.failed("job_failed");
    t.provider.cancelled("job_cancelled");
    t.provider.not_found("job_missing");
    t.provider.processing("job_slow", 30);
    for job in ["job_failed", "job_cancelled", "job_missing"] {
        t.watch(job).await;
    }
    let slow = json!({ "jobId": "job_slow", "expiresIn": "10m", "callbackUrl": t.receiver.url("/hook") });
    t.register(&slow).await;
    t.pass(minutes(10)).await;

    let mut notified: Vec<Value> = t.receiver.take(4).await.iter().map(Hit::json).collect();
    notified.sort_by_key(|body| body["type"].to_string());
    let lines = notified.iter().map(|body| {
        let data = &body["data"];
        format!(
            "{} {} {} {} {}",
            body["type"], data["status"], data["rawStatus"], data["progress"], data["error"]
        )
    });
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"), @r#"
    "job.cancelled" "cancelled" "cancelled" 50 null
    "job.failed" "failed" "failed" 0 {"code":"GENERATION_FAILED","message":"The model failed."}
    "job.not_found" "not_found" null null {"code":"not_found","message":"HTTP 404 JOB_NOT_FOUND: Job not found (request req_fake)"}
    "watch.expired" "expired" "processing" 30 {"code":"deadline","message":"the job had not ended when the watch expired"}
    "#);
    t.finish().await;
}

#[tokio::test]
async fn responses_in_an_envelope_are_read_like_flat_ones() {
    let t = Harness::start().await;
    t.provider.enveloped(true);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    t.finish().await;
}

#[tokio::test]
async fn a_raw_payload_is_the_providers_response_byte_for_byte() {
    let t = Harness::start().await;
    // Order, spaces, escapes and an unknown field would not survive parsing and serialising.
    let odd = "{ \"success\":true,\n\t\"data\": {\"status\":\"completed\", \"jobId\":\"job_1\", \"x\": 1.00, \"n\":\"\\u00e9é\"}}\n";
    t.provider.always("job_1", Reply::new(200, odd));
    t.receiver.script("/hook", [Reply::status(500)]);
    t.register(&json!({ "jobId": "job_1", "payload": "raw", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(minutes(1)).await;
    for hit in t.receiver.take(2).await {
        assert_eq!(String::from_utf8_lossy(&hit.body), odd);
        assert_eq!(hit.header("content-type"), "application/json");
    }
    t.finish().await;
}

#[tokio::test]
async fn raw_progress_is_delivered_byte_for_byte_after_a_crash() {
    let mut t = Harness::start().await;
    let odd = "{ \"success\":true,\n\t\"data\": {\"status\":\"processing\", \"jobId\":\"job_1\", \"progress\": 10.0}}\n";
    t.provider.always("job_1", Reply::new(200, odd));
    t.receiver.script("/hook", [Reply::status(500), Reply::status(500)]);
    let events = ["job.processing", "job.progress"];
    let hook = t.receiver.url("/hook");
    t.register(&json!({ "jobId": "job_1", "payload": "raw", "events": events, "callbackUrl": hook })).await;
    t.pass(seconds(5)).await;
    let mut hits = t.receiver.take(2).await;
    t.crash().await;
    t.restart().await;
    t.pass(seconds(10)).await;
    hits.extend(t.receiver.take(2).await);
    for hit in hits {
        assert_eq!(String::from_utf8_lossy(&hit.body), odd, "{}", hit.event());
    }
    t.finish().await;
}

#[tokio::test]
async fn without_a_usable_raw_payload_the_event_is_delivered() {
    let t = Harness::start().await;
    let large = json!({ "jobId": "job_large", "status": "completed", "x": "x".repeat(300 * 1024) });
    t.provider.always("job_large", Reply::json(200, &large));
    t.provider.not_found("job_missing");
    for job in ["job_large", "job_missing"] {
        t.register(&json!({ "jobId": job, "payload": "raw", "callbackUrl": t.receiver.url("/hook") })).await;
    }
    t.pass(minutes(3)).await;
    let [large, missing] = t.receiver.take(2).await.try_into().unwrap();
    assert_eq!(large.json()["type"], "job.completed");
    assert_eq!(missing.json()["type"], "job.not_found");
    t.finish().await;
}

#[tokio::test]
async fn a_destinations_own_secret_signs_and_is_never_returned() {
    let t = Harness::start().await;
    let own = "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=";
    t.receiver.secret("/own", own);
    t.provider.completed("job_1");
    let notify =
        json!([{ "type": "webhook", "url": t.receiver.url("/own"), "secret": own }, t.receiver.url("/app")]);
    let body = json!({ "jobId": "job_1", "notify": notify });
    let made = t.post("/v1/watches", &body).await;
    assert!(!made.text().contains("whsec_"), "{}", made.text());
    t.pass(seconds(5)).await;
    // The receiver verifies each signature with the destination's own secret.
    t.receiver.next_to("/own").await;
    t.receiver.next_to("/app").await;
    let all = t.get("/v1/deliveries").await;
    assert!(!all.text().contains("whsec_"), "{}", all.text());
    t.finish().await;
}

#[tokio::test]
async fn additional_headers_are_sent_and_shown_masked() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let notify = json!([{ "url": t.receiver.url("/hook"), "headers": { "X-Env": "prod-secret", "authorization": "Bearer s3cret" } }]);
    let made = t.post("/v1/watches", &json!({ "jobId": "job_1", "notify": notify })).await.expect(201);
    assert_eq!(made["destinations"][0]["headers"], json!({ "x-env": "***", "authorization": "***" }));
    t.pass(seconds(5)).await;
    let hit = t.receiver.next().await;
    assert_eq!((hit.header("x-env"), hit.header("authorization")), ("prod-secret", "Bearer s3cret"));
    let delivery = t.delivery(&id(&made)).await;
    let sent = &delivery["attempts"][0]["requestHeaders"];
    assert_eq!((&sent["x-env"], &sent["authorization"]), (&json!("***"), &json!("***")));
    assert_eq!(sent["webhook-id"], hit.id());
    assert!(!delivery.to_string().contains("s3cret"), "{delivery}");
    t.finish().await;
}

#[tokio::test]
async fn the_webhook_continues_the_trace_of_the_registration() {
    let t = Harness::start().await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for (job, given) in [("job_1", trace), ("job_2", "00-no-trace-00")] {
        t.provider.completed(job);
        let body = json!({ "jobId": job, "callbackUrl": t.receiver.url(&format!("/{job}")) }).to_string();
        let headers = [AUTH, JSON, ("traceparent", given)];
        t.send("POST", "/v1/watches", &headers, body.as_bytes()).await.expect(201);
    }
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next_to("/job_1").await.header("traceparent"), trace);
    let other = t.receiver.next_to("/job_2").await;
    assert!(other.headers.iter().all(|(name, _)| name != "traceparent"), "{other:?}");
    t.finish().await;
}

#[tokio::test]
async fn only_requested_events_are_sent_but_every_ending_is_recorded() {
    let t = Harness::start().await;
    t.provider.failed("job_1");
    let hook = t.receiver.url("/hook");
    t.register(&json!({ "jobId": "job_1", "events": ["job.completed"], "callbackUrl": hook })).await;
    let registered =
        t.register(&json!({ "jobId": "job_1", "events": ["job.failed"], "callbackUrl": hook })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.watch(), registered);
    let events = t.get("/v1/events").await.expect(200);
    let types: Vec<&Value> = events["data"].as_array().unwrap().iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["job.failed", "job.failed"]);
    t.finish().await;
}

#[tokio::test]
async fn progress_is_delivered_on_request_and_processing_once() {
    let t = Harness::start().await;
    let watch = |events: Value| json!({ "jobId": "job_1", "events": events, "pollInterval": "1s", "callbackUrl": t.receiver.url("/hook") });
    t.provider.job("job_1", &json!({ "status": "pending" }));
    let curious = t.register(&watch(json!(["job.*"]))).await;
    t.register(&watch(json!(["job.completed"]))).await;
    t.pass(seconds(2)).await;
    for progress in 1..=12 {
        t.provider.processing("job_1", progress * 5);
        t.pass(seconds(1)).await;
    }
    t.provider.completed("job_1");
    t.pass(seconds(1)).await;

    let hits = t.receiver.read_all();
    let mut notified: Vec<(u64, &str, Value)> = hits
        .iter()
        .filter(|hit| hit.watch() == curious)
        .map(|hit| (since_start(&[hit.at])[0], hit.event(), hit.json()["data"]["progress"].clone()))
        .collect();
    // Simultaneous events may arrive in any order.
    notified.sort_by_key(|(at, event, _)| (*at, event.to_string()));
    let expected = [
        (3, "job.processing", json!(5)),
        (3, "job.progress", json!(5)),
        (8, "job.progress", json!(30)),
        (13, "job.progress", json!(55)),
        (15, "job.completed", json!(100)),
    ];
    assert_eq!(notified, expected);
    let ids: std::collections::HashSet<&str> = hits.iter().map(Hit::id).collect();
    assert_eq!((hits.len(), ids.len()), (6, 6), "each is an event of its own");
    t.finish().await;
}

#[tokio::test]
async fn an_ending_supersedes_progress_that_was_not_sent() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 10);
    t.receiver.script("/hook", [Reply::status(503)]);
    let body = json!({ "jobId": "job_1", "events": ["job.progress", "job.completed"], "callbackUrl": t.receiver.url("/hook") });
    let watch = t.register(&body).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.event(), "job.progress");
    t.provider.completed("job_1");
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(minutes(10)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    let skipped = t.get("/v1/deliveries?status=skipped").await.expect(200);
    assert_eq!(skipped["data"][0]["reason"], "superseded");
    assert_eq!(t.get("/v1/deliveries?status=failed").await.expect(200)["data"], json!([]));
    // A retry of all failed deliveries does not include it.
    let again = t.post("/v1/deliveries/retry", &json!({ "status": "failed" })).await.expect(202);
    assert_eq!(again["count"], 0);
    t.rest().await;
    t.finish().await;
}

#[tokio::test]
async fn a_watch_without_destinations_is_recorded_as_well() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(5)).await;
    assert_eq!(t.shown(&watch).await["status"], "completed");
    assert_eq!(t.get("/v1/events").await.expect(200)["data"][0]["data"]["watchId"], watch);
    assert_eq!(t.get("/v1/deliveries").await.expect(200)["data"], json!([]));
    t.finish().await;
}

#[tokio::test]
async fn metadata_is_returned_byte_for_byte() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let metadata = "{\"z\": 1.0e2,  \"a\":\"\\u00fc/\\/\", \"big\":12345678901234567890123, \"b\":[ ]}";
    let body =
        format!(r#"{{"jobId":"job_1","metadata":{metadata},"callbackUrl":"{}"}}"#, t.receiver.url("/hook"));
    let made = t.send("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes()).await;
    assert!(made.text().contains(metadata), "{}", made.text());
    t.pass(seconds(5)).await;
    let hit = t.receiver.next().await;
    assert!(String::from_utf8_lossy(&hit.body).contains(metadata), "{hit:?}");
    assert!(t.get("/v1/watches").await.text().contains(metadata));
    assert!(t.get("/v1/events").await.text().contains(metadata));
    t.finish().await;
}

#[tokio::test]
async fn the_same_address_twice_is_one_destination() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let hook = t.receiver.url("/hook");
    let body = json!({ "jobId": "job_1", "callbackUrl": hook, "notify": [hook, { "url": hook }] });
    let made = t.post("/v1/watches", &body).await.expect(201);
    assert_eq!(made["destinations"].as_array().unwrap().len(), 1);
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn watches_of_one_job_share_its_polls_and_all_are_notified() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let mut watches = Vec::new();
    // More watches than one transaction ends.
    for _ in 0..250 {
        watches.push(t.watch("job_1").await);
    }
    t.pass(seconds(5)).await;
    let mut notified: Vec<String> =
        t.receiver.take(250).await.iter().map(|hit| hit.watch().to_owned()).collect();
    notified.sort();
    assert_eq!(notified, watches, "ids are in the order of their creation");
    assert_eq!(t.provider.polls("job_1").len(), 1);
    t.finish().await;
}

// Once: only a SQLite file reports every commit.
#[tokio::test]
async fn a_poll_that_learns_nothing_writes_nothing() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 40);
    t.watch("job_1").await;
    // The first deletion of old data, five minutes after the start, writes as well.
    t.pass(minutes(6)).await;
    let reader =
        rusqlite::Connection::open_with_flags(t.file(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    // Changes with each commit of another connection.
    let version = || reader.query_row("pragma data_version", [], |row| row.get::<_, i64>(0)).unwrap();
    let before = version();
    t.pass(minutes(10)).await;
    assert!(t.provider.polls("job_1").len() > 10);
    assert_eq!(version(), before);
    t.provider.processing("job_1", 41);
    t.pass(minutes(1)).await;
    assert_ne!(version(), before);
    t.finish().await;
}

#[tokio::test]
async fn a_new_watch_on_an_ended_job_polls_it_again() {
    let t = Harness::start().await;
    t.provider.failed("job_1");
    let first = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.event(), "job.failed");
    // A provider may put a job back into its queue.
    t.provider.processing("job_1", 10);
    let second = t.watch("job_1").await;
    t.pass(seconds(10)).await;
    assert_eq!(t.shown(&second).await["job"]["status"], "processing");
    assert_eq!(t.shown(&first).await["job"]["status"], "failed", "the first keeps its ending");
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    let hit = t.receiver.next().await;
    assert_eq!((hit.watch(), hit.event()), (second.as_str(), "job.completed"));
    t.finish().await;
}

#[tokio::test]
async fn a_watch_registered_while_its_job_ends_gets_its_own_poll() {
    let t = Harness::start().await;
    let (reply, gate): (Reply, Pacing) =
        Reply::json(200, &json!({ "jobId": "job_1", "status": "completed" })).held();
    t.provider.processing("job_1", 1);
    t.provider.script("job_1", [reply]);
    let first = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.provider.polled("job_1", 1).await;
    let second = t.watch("job_1").await;
    gate.open();
    t.rest().await;
    let mut notified =
        vec![t.receiver.next().await.watch().to_owned(), t.receiver.next().await.watch().to_owned()];
    notified.sort();
    assert_eq!(notified, [first, second]);
    t.finish().await;
}

#[tokio::test]
async fn a_requested_poll_starts_at_once_after_the_minimum_interval() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__MIN_INTERVAL", "3s")]).await;
    t.provider.processing("job_1", 1);
    let watch = t.watch("job_1").await;
    let poll = format!("/v1/watches/{watch}/poll");
    t.act(&poll).await.expect(202);
    t.rest().await;
    t.act(&poll).await.expect(202);
    t.act(&poll).await.expect(202);
    t.pass(seconds(4)).await;
    assert_eq!(since_start(&t.provider.polls("job_1")), [0, 3]);
    t.finish().await;
}

#[tokio::test]
async fn a_poll_of_an_ended_job_refreshes_only_its_outputs() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    let before = t.shown(&watch).await;
    let poll = format!("/v1/watches/{watch}/poll");

    let signed =
        json!({ "status": "completed", "progress": 100, "output": "https://cdn.muvi.video/1?sig=2" });
    t.provider.job("job_1", &signed);
    t.act(&poll).await.expect(202);
    t.pass(minutes(60)).await;
    let after = t.shown(&watch).await;
    assert_eq!(after["job"]["output"], "https://cdn.muvi.video/1?sig=2");
    assert_eq!((&after["status"], &after["endedAt"]), (&before["status"], &before["endedAt"]));

    t.provider.failed("job_1");
    t.act(&poll).await.expect(202);
    t.rest().await;
    assert_eq!(t.shown(&watch).await["job"]["status"], "completed", "another ending is not believed");
    t.pass(seconds(10)).await;
    t.provider.always("job_1", Reply::status(500));
    t.act(&poll).await.expect(202);
    t.pass(minutes(60)).await;
    let failed = t.shown(&watch).await;
    assert_eq!(failed["job"]["output"], "https://cdn.muvi.video/1?sig=2");
    assert!(failed["job"]["lastError"].as_str().unwrap().contains("500"), "{failed}");
    assert_eq!(t.provider.polls("job_1").len(), 4, "each was one poll, not repeated");
    assert_eq!(t.get("/v1/events").await.expect(200)["data"].as_array().unwrap().len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_at_the_end_of_the_watch() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    let path = format!("/v1/watches/{watch}?wait=60s");
    let (answer, ()) = tokio::join!(t.get(&path), async {
        t.pass(seconds(5)).await;
    });
    assert_eq!(answer.expect(200)["status"], "completed");
    assert_eq!(t.get(&path).await.expect(200)["status"], "completed", "it has ended: at once");
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_when_its_time_is_up() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 5);
    let watch = t.watch("job_1").await;
    let path = format!("/v1/watches/{watch}?wait=30s");
    let mut passed = 0;
    let answer = {
        let mut waiting = std::pin::pin!(t.get(&path));
        loop {
            tokio::select! {
                biased;
                answer = &mut waiting => break answer,
                () = t.pass(seconds(1)) => passed += 1,
            }
        }
    };
    assert!(passed >= 29, "answered after {passed} s");
    assert_eq!(answer.expect(200)["status"], "watching");
    t.finish().await;
}

#[tokio::test]
async fn a_long_poll_does_not_follow_the_wall_clock() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 5);
    let watch = t.watch("job_1").await;
    let path = format!("/v1/watches/{watch}?wait=5s");
    let mut passed = 0;
    let answer = {
        let mut waiting = std::pin::pin!(t.get(&path));
        loop {
            tokio::select! {
                biased;
                answer = &mut waiting => break answer,
                () = t.pass(seconds(1)) => {
                    passed += 1;
                    if passed == 2 {
                        t.clock.set_wall(start().minus(minutes(60)));
                    }
                }
            }
        }
    };
    assert!((4..60).contains(&passed), "answered after {passed} s");
    assert_eq!(answer.expect(200)["status"], "watching");
    t.finish().await;
}

#[tokio::test]
async fn a_long_poll_is_answered_when_the_server_drains() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 5);
    let watch = t.watch("job_1").await;
    let address = t.address();
    let path = format!("/v1/watches/{watch}?wait=60s");
    let request = crate::wire::request("GET", &path, &[AUTH], b"");
    let waiting = tokio::spawn(async move { crate::wire::exchange(address, &request).await });
    // A round trip that starts later: by its end, the first connection is accepted.
    t.get("/v1/watches").await.expect(200);
    let stopping = t.begin_stop();
    let answer = crate::harness::guarded("the answer", waiting).await.unwrap();
    stopping.ended().await;
    if let Some(answer) = answer {
        assert_eq!(answer.expect(200)["status"], "watching");
    }
    t.restart().await;
    t.finish().await;
}

#[tokio::test]
async fn a_stopped_watch_causes_no_polls_and_no_notifications() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 5);
    let watch = t.watch("job_1").await;
    let other = t.watch("job_1").await;
    let waited = format!("/v1/watches/{watch}?wait=60s");
    let (answer, stopped) = tokio::join!(t.get(&waited), t.stop_watch(&watch));
    assert_eq!(answer.expect(200)["status"], "stopped");
    assert_eq!(stopped.expect(200)["endedAt"], "2026-02-18T15:00:00.000Z");
    t.provider.completed("job_1");
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.watch(), other);
    assert_eq!(t.stop_watch(&watch).await.expect(200)["status"], "stopped");
    assert_eq!(t.stop_watch(&other).await.expect(200)["status"], "completed");
    t.pass(minutes(10)).await;
    assert_eq!(t.provider.polls("job_1").len(), 1);
    t.finish().await;
}

#[tokio::test]
async fn a_timeline_lists_what_happened_in_order() {
    let t = Harness::start().await;
    t.provider.job("job_1", &json!({ "status": "pending" }));
    t.receiver.script("/hook", [Reply::status(500)]);
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.provider.processing("job_1", 40);
    t.pass(seconds(10)).await;
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    t.receiver.take(2).await;
    let timeline = t.get(&format!("/v1/watches/{watch}/timeline")).await.expect(200);
    let timeline = timeline["data"].as_array().unwrap();
    let times: Vec<Timestamp> =
        timeline.iter().map(|entry| Timestamp::parse(entry["at"].as_str().unwrap()).unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let words = timeline.iter().map(|entry| {
        let word = ["status", "eventType", "statusCode"].iter().find_map(|field| entry.get(field));
        format!("{} {}", entry["kind"].as_str().unwrap(), word.unwrap_or(&Value::Null))
    });
    insta::assert_snapshot!(words.collect::<Vec<_>>().join("\n"), @r#"
    registered null
    observed "pending"
    observed "processing"
    observed "completed"
    event "job.completed"
    delivery "succeeded"
    attempt 500
    attempt 200
    "#);
    t.finish().await;
}

#[tokio::test]
async fn an_error_in_a_2xx_response_does_not_end_the_job() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    t.provider.script("job_1", [error(200, "INTERNAL_ERROR", "Oops")]);
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let shown = t.shown(&watch).await;
    assert_eq!(shown["status"], "watching");
    assert!(shown["job"]["lastError"].as_str().unwrap().contains("INTERNAL_ERROR"), "{shown}");
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_completed_job_is_delivered_signed_and_as_documented,
    every_ending_has_its_own_event_type_and_reason,
    responses_in_an_envelope_are_read_like_flat_ones,
    a_raw_payload_is_the_providers_response_byte_for_byte,
    raw_progress_is_delivered_byte_for_byte_after_a_crash,
    without_a_usable_raw_payload_the_event_is_delivered,
    a_destinations_own_secret_signs_and_is_never_returned,
    additional_headers_are_sent_and_shown_masked,
    the_webhook_continues_the_trace_of_the_registration,
    only_requested_events_are_sent_but_every_ending_is_recorded,
    progress_is_delivered_on_request_and_processing_once,
    an_ending_supersedes_progress_that_was_not_sent,
    a_watch_without_destinations_is_recorded_as_well,
    metadata_is_returned_byte_for_byte,
    the_same_address_twice_is_one_destination,
    watches_of_one_job_share_its_polls_and_all_are_notified,
    a_new_watch_on_an_ended_job_polls_it_again,
    a_watch_registered_while_its_job_ends_gets_its_own_poll,
    a_requested_poll_starts_at_once_after_the_minimum_interval,
    a_poll_of_an_ended_job_refreshes_only_its_outputs,
    a_long_poll_is_answered_at_the_end_of_the_watch,
    a_long_poll_is_answered_when_its_time_is_up,
    a_long_poll_does_not_follow_the_wall_clock,
    a_long_poll_is_answered_when_the_server_drains,
    a_stopped_watch_causes_no_polls_and_no_notifications,
    a_timeline_lists_what_happened_in_order,
    an_error_in_a_2xx_response_does_not_end_the_job,
}
