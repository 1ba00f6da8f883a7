//! Attempts and retries of webhooks: none is lost, and none is sent twice without need.

use std::time::Duration;

use ringback::domain::Timestamp;
use serde_json::{Value, json};

use crate::fakes::{Hit, Receiver, Reply};
use crate::harness::{AUTH, Harness, SECRET, id, minutes, seconds, start};
use crate::tenants::tenant;
use ringback::clock::Clock;

/// Registers a watch whose job has completed, and lets the job be polled and the watch be notified.
async fn notify(t: &Harness, job: &str, path: &str) -> String {
    t.provider.completed(job);
    let watch = t.register(&json!({ "jobId": job, "callbackUrl": t.receiver.url(path) })).await;
    t.pass(seconds(5)).await;
    watch
}

fn intervals(hits: &[Hit]) -> Vec<Duration> {
    hits.windows(2).map(|pair| pair[1].at.since(pair[0].at)).collect()
}

pub async fn retry(t: &Harness, watch: &str) -> crate::wire::Answer {
    let delivery = t.delivery(watch).await;
    t.act(&format!("/v1/deliveries/{}/retry", id(&delivery))).await
}

#[tokio::test]
async fn a_delivery_fails_after_the_schedule_with_jitter() {
    let t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::new(500, "no\0pe \u{1f600}")));
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(minutes(60 * 24 * 7)).await;
    let hits = t.receiver.read_all();
    let hour = 3600;
    let schedule = [5, 300, 1800, 2 * hour, 5 * hour, 10 * hour, 14 * hour, 20 * hour, 24 * hour];
    assert_eq!(hits.len(), schedule.len() + 1);
    for (interval, step) in intervals(&hits).iter().zip(schedule) {
        let ratio = interval.as_secs_f64() / f64::from(step);
        assert!((0.8..=1.2).contains(&ratio), "{interval:?} for {step} s");
    }
    let first = &hits[0];
    for hit in &hits {
        assert_eq!((hit.id(), &hit.body), (first.id(), &first.body));
        assert_eq!(hit.header("webhook-timestamp"), hit.at.seconds().to_string(), "of the attempt");
    }
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("exhausted")));
    let attempts = delivery["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 10);
    let times: Vec<&str> = attempts.iter().map(|attempt| attempt["at"].as_str().unwrap()).collect();
    assert_eq!(times, hits.iter().map(|hit| hit.at.to_string()).collect::<Vec<_>>());
    assert_eq!(attempts[0]["statusCode"], 500);
    assert_eq!(attempts[0]["responseBody"], "no\u{fffd}pe \u{1f600}");
    t.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_delays_no_retry() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::status(500), Reply::status(500)]);
    let watch = notify(&t, "job_1", "/hook").await;
    t.receiver.next().await;
    t.clock.set(Timestamp::parse("2026-02-18T14:00:00Z").unwrap());
    t.rest().await;
    t.pass(seconds(7)).await;
    assert_eq!(t.receiver.next().await.watch(), watch, "the hour is not waited for");
    t.pass(minutes(6)).await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
}

#[tokio::test]
async fn the_jitter_is_the_same_after_a_crash() {
    let mut t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::status(500)));
    let watch = notify(&t, "job_1", "/hook").await;
    let due_at = t.delivery(&watch).await["nextAttemptAt"].clone();
    t.crash().await;
    t.restart().await;
    t.rest().await;
    assert_eq!(t.delivery(&watch).await["nextAttemptAt"], due_at);
    t.pass(minutes(60)).await;
    let hits = t.receiver.read_all();
    assert_eq!(json!(hits[1].at), due_at);
    assert!(hits.iter().all(|hit| (hit.id(), &hit.body) == (hits[0].id(), &hits[0].body)), "{hits:?}");
    t.finish().await;
}

#[tokio::test]
async fn an_unrecorded_attempt_is_repeated_under_the_same_id() {
    let mut t = Harness::start().await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.received(1).await;
    t.crash().await;
    gate.open();
    t.restart().await;
    t.rest().await;
    let [first, second] = t.receiver.take(2).await.try_into().unwrap();
    assert_eq!((first.id(), &first.body), (second.id(), &second.body));
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
}

#[tokio::test]
async fn a_2xx_is_success_even_if_its_body_breaks_off() {
    let t = Harness::start().await;
    t.receiver.script("/endless", [Reply::endless(202)]);
    t.receiver.script("/empty", [Reply::status(204)]);
    for (job, path) in [("job_1", "/endless"), ("job_2", "/empty")] {
        let watch = notify(&t, job, path).await;
        t.receiver.next().await;
        let delivery = t.delivery(&watch).await;
        assert_eq!(delivery["status"], "succeeded", "{delivery}");
        assert!(delivery["attempts"][0]["responseBody"].as_str().unwrap().len() <= 16 * 1024);
    }
    t.receiver.script("/stalled", [Reply::stalled(200)]);
    t.provider.completed("job_3");
    let watch = t.register(&json!({ "jobId": "job_3", "callbackUrl": t.receiver.url("/stalled") })).await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.read_arrived().await;
    t.clock.advance(seconds(20));
    t.held.none().await;
    t.rest().await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.finish().await;
}

#[tokio::test]
async fn a_timeout_is_retried() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__TIMEOUT", "7s")]).await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    t.pass(Duration::from_millis(6_999)).await;
    assert_eq!(t.held.count(), 1);
    t.clock.advance(Duration::from_millis(1));
    t.held.none().await;
    t.rest().await;
    let attempt = &t.delivery(&watch).await["attempts"][0];
    assert_eq!(
        (&attempt["statusCode"], &attempt["error"]),
        (&Value::Null, &json!("timeout: no answer within 7 s"))
    );
    t.pass(seconds(10)).await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    t.receiver.next().await;
    gate.open();
    t.finish().await;
}

#[tokio::test]
async fn every_network_failure_is_recorded_and_retried() {
    let t = Harness::start().await;
    for (job, reply, code, error) in [
        ("job_reset", Reply::reset(), Value::Null, "protocol: "),
        ("job_garbage", Reply::garbage(), Value::Null, "protocol: the answer is not HTTP"),
        ("job_404", Reply::status(404), json!(404), "HTTP 404"),
        ("job_302", Reply::status(302).with("location", "/elsewhere"), json!(302), "HTTP 302"),
        ("job_400", Reply::new(400, "bad"), json!(400), "HTTP 400"),
    ] {
        t.receiver.script(&format!("/{job}"), [reply]);
        let watch = notify(&t, job, &format!("/{job}")).await;
        let delivery = t.delivery(&watch).await;
        let attempt = &delivery["attempts"][0];
        assert_eq!(attempt["statusCode"], code, "{job}");
        assert!(attempt["error"].as_str().unwrap().starts_with(error), "{job}: {attempt}");
        assert_eq!(delivery["status"], "pending", "{job}");
        t.pass(seconds(6)).await;
        assert_eq!(t.delivery(&watch).await["status"], "succeeded", "{job}");
    }
    let paths: Vec<String> = t.receiver.read_all().into_iter().map(|hit| hit.path).collect();
    assert_eq!(paths.len(), 10);
    assert!(!paths.contains(&"/elsewhere".to_owned()), "a redirect is never followed");
    t.finish().await;
}

#[tokio::test]
async fn a_refused_connection_is_retried() {
    let t = Harness::start().await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    t.provider.completed("job_1");
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": format!("http://{address}/") })).await;
    t.pass(seconds(5)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!(delivery["attempts"][0]["error"], "connect: connection refused");
    assert_eq!(delivery["status"], "pending");
    t.finish().await;
}

#[tokio::test]
async fn retry_after_lengthens_a_delay_and_never_shortens_it() {
    let t = Harness::start().await;
    let date =
        httpdate::fmt_http_date(std::time::UNIX_EPOCH + seconds(start().seconds().cast_unsigned() + 1800));
    for (job, status, given, least, most) in [
        ("job_1", 503, "120", 120, 120),
        ("job_2", 429, "1", 4, 6),
        ("job_3", 400, date.as_str(), 1700, 1800),
        ("job_4", 500, "999999999", 86_400, 86_400),
        ("job_5", 302, "60", 60, 60),
        ("job_6", 503, "soon", 4, 6),
    ] {
        t.receiver.script(&format!("/{job}"), [Reply::status(status).with("retry-after", given)]);
        let watch = notify(&t, job, &format!("/{job}")).await;
        let delivery = t.delivery(&watch).await;
        let time = |value: &Value| Timestamp::parse(value.as_str().unwrap()).unwrap();
        let wait = time(&delivery["nextAttemptAt"]).since(time(&delivery["attempts"][0]["at"])).as_secs();
        assert!((least..=most).contains(&wait), "{job}: {wait}");
    }
    t.pass(minutes(60 * 25)).await;
    assert_eq!(t.receiver.read_all().len(), 12);
    t.finish().await;
}

#[tokio::test]
async fn a_410_ends_the_deliveries_of_a_watch_to_that_address() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 10);
    t.receiver.script("/gone", [Reply::status(410)]);
    let notify = [t.receiver.url("/gone"), t.receiver.url("/here")];
    let watch = t.register(&json!({ "jobId": "job_1", "events": ["job.*"], "notify": notify })).await;
    t.pass(seconds(5)).await;
    t.provider.completed("job_1");
    t.pass(minutes(10)).await;
    let paths: Vec<String> = t.receiver.read_all().into_iter().map(|hit| hit.path).collect();
    // Both first events may have been in flight together. Nothing is sent after the response.
    assert!(paths.iter().filter(|path| *path == "/gone").count() <= 2, "{paths:?}");
    assert_eq!(paths.iter().filter(|path| *path == "/here").count(), 3, "{paths:?}");
    let with = async |status: &str| {
        let found = t.get(&format!("/v1/deliveries?watchId={watch}&status={status}")).await.expect(200);
        let found = found["data"].as_array().unwrap().clone();
        assert!(found.iter().all(|one| one["reason"] == "gone"), "{found:?}");
        found.len()
    };
    assert_eq!((with("failed").await, with("skipped").await <= 1), (1, true));
    t.finish().await;
}

#[tokio::test]
async fn a_failed_delivery_is_retried_manually_under_the_same_id() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s")]).await;
    t.receiver.always("/hook", Some(Reply::status(500)));
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(minutes(10)).await;
    let failed = t.delivery(&watch).await;
    assert_eq!((&failed["status"], &failed["reason"]), (&json!("failed"), &json!("exhausted")));

    retry(&t, &watch).await.expect(202);
    t.pass(minutes(10)).await;
    let still = t.delivery(&watch).await;
    assert_eq!((&still["status"], &still["reason"]), (&json!("failed"), &json!("exhausted")));
    assert_eq!(still["attempts"].as_array().unwrap().len(), 3, "a manual retry is one attempt");

    t.receiver.always("/hook", None);
    retry(&t, &watch).await.expect(202);
    t.rest().await;
    let done = t.delivery(&watch).await;
    assert_eq!((&done["status"], &done["reason"]), (&json!("succeeded"), &Value::Null));

    t.receiver.script("/hook", [Reply::status(500)]);
    retry(&t, &watch).await.expect(202);
    t.pass(minutes(10)).await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded", "as before");
    let hits = t.receiver.take(5).await;
    assert!(hits.iter().all(|hit| (hit.id(), &hit.body) == (hits[0].id(), &hits[0].body)));
    t.finish().await;
}

#[tokio::test]
async fn a_410_to_a_manual_retry_ends_later_deliveries() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::status(500), Reply::status(410)]);
    t.provider.processing("job_1", 10);
    let url = t.receiver.url("/hook");
    let events = ["job.processing", "job.completed"];
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": url, "events": events })).await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    retry(&t, &watch).await.expect(202);
    t.rest().await;
    t.receiver.next().await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("gone")));
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 2);
    t.provider.completed("job_1");
    t.pass(minutes(60)).await;
    t.finish().await;
}

#[tokio::test]
async fn a_manual_retry_does_not_change_the_schedule() {
    let t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::status(500)));
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(seconds(30)).await;
    let before = t.delivery(&watch).await;
    retry(&t, &watch).await.expect(202);
    t.rest().await;
    let after = t.delivery(&watch).await;
    assert_eq!(after["nextAttemptAt"], before["nextAttemptAt"]);
    assert_eq!(after["attempts"].as_array().unwrap().len(), 3);
    t.pass(minutes(10)).await;
    assert_eq!(t.receiver.read_all().len(), 4, "5 s, manual, 5 min");
    t.finish().await;
}

#[tokio::test]
async fn a_manual_retry_survives_a_crash() {
    let mut t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s")]).await;
    t.receiver.script("/hook", [Reply::status(500), Reply::status(500)]);
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(seconds(2)).await;
    let (reply, _gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    retry(&t, &watch).await.expect(202);
    t.receiver.received(3).await;
    t.crash().await;
    t.restart().await;
    t.rest().await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded");
    assert_eq!(t.receiver.read_all().len(), 4);
    t.finish().await;
}

#[tokio::test]
async fn a_stopped_watch_sends_and_retries_nothing() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::status(500)]);
    let watch = notify(&t, "job_1", "/hook").await;
    t.receiver.next().await;
    assert_eq!(t.stop_watch(&watch).await.expect(200)["status"], "completed");
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("skipped"), &json!("stopped")));
    retry(&t, &watch).await.expect(409);
    t.pass(minutes(60 * 24 * 7)).await;
    t.finish().await;
}

#[tokio::test]
async fn an_attempt_in_flight_at_a_stop_keeps_its_result() {
    for (status, stands, reason) in [(200, "succeeded", Value::Null), (500, "skipped", json!("stopped"))] {
        let t = Harness::start().await;
        let (reply, gate) = Reply::status(status).held();
        t.receiver.script("/hook", [reply]);
        t.provider.completed("job_1");
        let watch = t.watch("job_1").await;
        t.pass(seconds(5)).await;
        t.receiver.next().await;
        t.stop_watch(&watch).await.expect(200);
        gate.open();
        t.rest().await;
        let delivery = t.delivery(&watch).await;
        assert_eq!((&delivery["status"], &delivery["reason"]), (&json!(stands), &reason));
        assert_eq!(delivery["attempts"][0]["statusCode"], status);
        t.pass(minutes(60)).await;
        t.finish().await;
    }
}

#[tokio::test]
async fn a_host_that_resolves_privately_later_is_refused() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s, 1s")]).await;
    t.resolve("hooks.example.com", &["127.0.0.1"]);
    t.provider.completed("job_1");
    let url = format!("http://hooks.example.com:{}/hook", t.receiver.port());
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": url })).await;
    t.resolve("hooks.example.com", &["127.0.0.1", "10.0.0.1"]);
    t.pass(minutes(1)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("refused")));
    assert_eq!(delivery["attempts"].as_array().unwrap().len(), 3, "the schedule was followed");
    assert!(!delivery.to_string().contains("10.0.0.1"), "without saying which: {delivery}");
    t.resolve("hooks.example.com", &["127.0.0.1"]);
    retry(&t, &watch).await.expect(202);
    t.rest().await;
    assert_eq!(t.receiver.next().await.header("host"), format!("hooks.example.com:{}", t.receiver.port()));
    t.finish().await;
}

#[tokio::test]
async fn a_host_that_does_not_resolve_yet_is_accepted() {
    let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW_HTTP", "true")]).await;
    t.provider.completed("job_1");
    let url = format!("http://soon.example.com:{}/hook", t.receiver.port());
    let watch = t.register(&json!({ "jobId": "job_1", "callbackUrl": url })).await;
    t.pass(seconds(5)).await;
    let error = &t.delivery(&watch).await["attempts"][0]["error"];
    assert_eq!(error, "connect: the host name `soon.example.com` does not resolve");
    t.resolve("soon.example.com", &["127.0.0.1"]);
    t.pass(seconds(6)).await;
    t.receiver.next().await;
    t.finish().await;
}

/// Notifies two receivers of six jobs. They respond when the test permits it. Returns how many attempts were in
/// flight at once.
async fn held_back(settings: &[(&str, &str)]) -> (usize, usize) {
    let t = Harness::with(settings).await;
    let other = Receiver::start(Clock::Manual(t.clock.clone()), t.held.clone(), SECRET).await;
    let (reply, gate) = Reply::status(200).held();
    // Both URLs are quick, so they may use every place.
    t.provider.completed("job_first");
    t.register(&json!({ "jobId": "job_first", "notify": [other.url("/hook"), t.receiver.url("/hook")] }))
        .await;
    t.pass(seconds(5)).await;
    (t.receiver.next().await, other.next().await);
    t.receiver.always("/hook", Some(reply.clone()));
    other.always("/hook", Some(reply));
    for n in 0..6 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "notify": [other.url("/hook"), t.receiver.url("/hook")] })).await;
    }
    t.pass(seconds(5)).await;
    let (in_all, to_one) = (t.held.count(), other.all().len() - 1);
    gate.open();
    t.rest().await;
    assert_eq!(
        (t.receiver.take(6).await.len(), other.all().len() - 1),
        (6, 6),
        "nothing was lost, or sent twice"
    );
    t.finish().await;
    (in_all, to_one)
}

#[tokio::test]
async fn attempts_in_flight_are_limited_in_total() {
    let (in_all, _) = held_back(&[("RINGBACK_DELIVERY__CONCURRENCY", "3")]).await;
    assert_eq!(in_all, 3);
}

#[tokio::test]
async fn attempts_in_flight_are_limited_by_destination() {
    let (in_all, to_one) = held_back(&[("RINGBACK_DELIVERY__PER_DESTINATION", "2")]).await;
    assert_eq!((in_all, to_one), (4, 2));
}

#[tokio::test]
async fn a_delivery_is_shown_with_its_attempts() {
    let t = Harness::start().await;
    t.receiver.script("/hook", [Reply::new(503, "later")]);
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(seconds(10)).await;
    let [first, _] = t.receiver.take(2).await.try_into().unwrap();
    let listed = t.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200)["data"][0].clone();
    let read = t.get(&format!("/v1/deliveries/{}", id(&listed))).await.expect(200);
    for field in ["id", "eventId", "eventType", "watchId", "destinationId", "destination", "status", "reason"]
    {
        assert_eq!(read[field], listed[field], "{field}");
    }
    assert_eq!((&read["status"], &read["eventId"]), (&json!("succeeded"), &json!(first.id())));
    let codes: Vec<&Value> =
        read["attempts"].as_array().unwrap().iter().map(|one| &one["statusCode"]).collect();
    assert_eq!(codes, [503, 200], "oldest first");
    assert_eq!(read["attempts"][0]["responseBody"], "later");
    t.finish().await;
}

#[tokio::test]
async fn a_delivery_has_its_newest_attempts_and_a_list_of_all() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s")]).await;
    t.receiver.always("/hook", Some(Reply::status(500)));
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(minutes(10)).await;
    for _ in 0..23 {
        retry(&t, &watch).await.expect(202);
        // At most ten retries a minute are accepted.
        t.pass(seconds(7)).await;
    }
    let delivery = t.delivery(&watch).await;
    let numbers = |attempts: &Value| -> Vec<u64> {
        attempts.as_array().unwrap().iter().map(|one| one["number"].as_u64().unwrap()).collect()
    };
    assert_eq!(delivery["attemptCount"], 25);
    assert_eq!(numbers(&delivery["attempts"]), (6..=25).collect::<Vec<_>>(), "oldest first");
    let list = format!("/v1/deliveries/{}/attempts?limit=10", id(&delivery));
    let (mut all, mut page) = (Vec::new(), t.get(&list).await.expect(200));
    loop {
        all.extend(numbers(&page["data"]));
        let Some(cursor) = page["nextCursor"].as_str() else { break };
        page = t.get(&format!("{list}&cursor={cursor}")).await.expect(200);
    }
    assert_eq!(all, (1..=25).rev().collect::<Vec<_>>(), "newest first");
    t.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200)["data"][0]["attemptCount"]
        .as_u64()
        .expect("in lists, too");
    t.receiver.read_all();
    t.finish().await;
}

/// Each remembered answer would contain all earlier attempts: 400 retries of one delivery stored 2.5 GB.
#[tokio::test]
async fn the_answer_to_a_retry_does_not_grow_with_the_attempts() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s")]).await;
    t.receiver.always("/hook", Some(Reply::new(500, "x".repeat(10_000))));
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(minutes(10)).await;
    let path = format!("/v1/deliveries/{}/retry", id(&t.delivery(&watch).await));
    let mut sizes = Vec::new();
    for n in 0..5 {
        let key = format!("retry-{n}");
        let answer = t.send("POST", &path, &[AUTH, ("idempotency-key", &key)], b"").await.expect(202);
        assert_eq!((answer["attemptCount"].as_u64(), &answer["attempts"]), (Some(2 + n), &Value::Null));
        sizes.push(answer.to_string().len());
        t.rest().await;
    }
    assert_eq!(sizes.iter().min(), sizes.iter().max());
    t.receiver.read_all();
    t.finish().await;
}

#[tokio::test]
async fn allow_http_permits_plain_http_wherever_https_may_go() {
    for (allow, status) in [("false", 422), ("true", 201)] {
        let t = Harness::with(&[("RINGBACK_EGRESS__ALLOW_HTTP", allow)]).await;
        t.resolve("receiver.example", &["93.184.216.34"]);
        t.resolve("inside.example", &["10.0.0.1"]);
        t.provider.processing("job_1", 1);
        let body = |host: &str| json!({ "jobId": "job_1", "callbackUrl": format!("http://{host}/hook") });
        t.post("/v1/watches", &body("receiver.example")).await.expect(status);
        t.post("/v1/watches", &body("inside.example")).await.expect(422);
        t.finish().await;
    }
}

#[tokio::test]
async fn one_dead_receiver_does_not_slow_another() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__PER_DESTINATION", "2")]).await;
    let dead = Receiver::start(Clock::Manual(t.clock.clone()), t.held.clone(), SECRET).await;
    let (reply, gate) = Reply::status(200).held();
    dead.always("/hook", Some(reply));
    for n in 0..20 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "notify": [dead.url("/hook"), t.receiver.url("/hook")] })).await;
    }
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.take(20).await.len(), 20);
    dead.received(1).await;
    assert_eq!(dead.all().len(), 1, "an untried URL gets half of the places of its host");
    gate.open();
    t.rest().await;
    assert_eq!(dead.all().len(), 20, "nothing was lost");
    let ids: std::collections::HashSet<String> = dead.all().iter().map(|hit| hit.id().to_owned()).collect();
    assert_eq!(ids.len(), 20, "nor sent twice");
    assert!(dead.complaints().is_empty(), "{:?}", dead.complaints());
    t.finish().await;
}

#[tokio::test]
async fn one_apps_dead_receivers_do_not_slow_another_app() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__CONCURRENCY", "8")]).await;
    let dead = async || Receiver::start(Clock::Manual(t.clock.clone()), t.held.clone(), SECRET).await;
    let dead = [dead().await, dead().await];
    let (reply, gate) = Reply::status(200).held();
    for n in 0..20 {
        dead[n % 2].always("/hook", Some(reply.clone()));
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.register(&json!({ "jobId": job, "callbackUrl": dead[n % 2].url("/hook") })).await;
    }
    t.pass(seconds(5)).await;
    let all = || dead[0].all().len() + dead[1].all().len();
    assert_eq!(t.held.count(), 3, "of the four places that untried destinations share");
    let other = tenant(&t, "other").await;
    t.receiver.secret("/other", &other.secret);
    t.provider.completed("job_other");
    let body = json!({ "jobId": "job_other", "callbackUrl": t.receiver.url("/other") }).to_string();
    t.as_key(&other.key, "POST", "/v1/watches", &body).await.expect(201);
    t.pass(seconds(5)).await;
    t.receiver.next_to("/other").await;
    assert_eq!(all(), 3);
    gate.open();
    t.rest().await;
    assert_eq!(all(), 20, "nothing was lost");
    t.finish().await;
}

#[tokio::test]
async fn retry_after_cannot_lengthen_a_delivery_beyond_its_schedule() {
    let t = Harness::start().await;
    t.receiver.always("/hook", Some(Reply::status(503).with("retry-after", "86400")));
    let watch = notify(&t, "job_1", "/hook").await;
    t.pass(minutes(60 * 24 * 12)).await;
    let delivery = t.delivery(&watch).await;
    assert_eq!((&delivery["status"], &delivery["reason"]), (&json!("failed"), &json!("exhausted")));
    // The schedule takes 75.6 h: the attempt after it is the last one.
    assert_eq!(t.receiver.read_all().len(), 5);
    t.finish().await;
}

#[tokio::test]
async fn any_http_status_closes_the_breaker() {
    let t = Harness::with(&[
        ("RINGBACK_DELIVERY__PER_DESTINATION", "1"),
        ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s, 60s"),
    ])
    .await;
    t.receiver.always("/hook", Some(Reply::status(500)));
    for n in 0..8 {
        notify(&t, &format!("job_{n}"), "/hook").await;
    }
    t.pass(seconds(100)).await;
    assert_eq!(t.receiver.read_all().len(), 3 * 8, "each was attempted three times");
    t.finish().await;
}

#[tokio::test]
async fn more_deliveries_than_fit_in_memory_are_sent_once_each() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__PER_DESTINATION", "3")]).await;
    t.provider.completed("job_1");
    for _ in 0..120 {
        t.watch("job_1").await;
    }
    t.receiver.script("/hook", (0..60).map(|_| Reply::status(503)));
    t.pass(seconds(5)).await;
    t.pass(seconds(10)).await;
    let hits = t.receiver.read_all();
    let ids: std::collections::HashSet<&str> = hits.iter().map(Hit::id).collect();
    assert_eq!((hits.len(), ids.len()), (180, 120));
    let pending = t.get("/v1/deliveries?status=pending").await.expect(200);
    assert_eq!(pending["data"], json!([]));
    t.finish().await;
}

#[tokio::test]
async fn attempts_in_flight_are_finished_before_the_service_ends() {
    let mut t = Harness::start().await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    let stopping = t.begin_stop();
    gate.open();
    stopping.ended().await;
    t.restart().await;
    assert_eq!(t.delivery(&watch).await["status"], "succeeded", "it was recorded, so it is not sent again");
    t.finish().await;
}

#[tokio::test]
async fn unfinished_attempts_are_repeated_at_the_next_start() {
    let mut t = Harness::with(&[("RINGBACK_SHUTDOWN_GRACE", "3s")]).await;
    let (reply, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [reply]);
    t.provider.completed("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.receiver.next().await;
    let address = t.address();
    let stopping = t.begin_stop();
    t.closed(address).await;
    t.clock.advance(seconds(3));
    stopping.ended().await;
    t.released().await;
    t.restart().await;
    t.rest().await;
    assert_eq!(t.receiver.next().await.watch(), watch);
    gate.open();
    t.finish().await;
}

#[tokio::test]
async fn a_host_that_is_used_all_the_time_is_looked_up_again() {
    let allow = "127.0.0.1, moving.example";
    let t =
        Harness::with(&[("RINGBACK_EGRESS__ALLOW", allow), ("RINGBACK_EGRESS__ALLOW_HTTP", "true")]).await;
    t.resolve("moving.example", &["127.0.0.1"]);
    let url = format!("http://moving.example:{}/hook", t.receiver.port());
    let mut sent = 0;
    let mut send = async || {
        sent += 1;
        let job = format!("job_{sent}");
        t.provider.completed(&job);
        let watch = t.register(&json!({ "jobId": job, "callbackUrl": url })).await;
        t.pass(seconds(20)).await;
        t.delivery(&watch).await["status"].clone()
    };
    assert_eq!(send().await, "succeeded");
    // Nothing listens there.
    t.resolve("moving.example", &["127.0.0.2"]);
    let mut later = Vec::new();
    for _ in 0..5 {
        later.push(send().await);
    }
    // A kept connection may be used for a minute.
    assert!(later[3..].iter().all(|status| status != "succeeded"), "{later:?}");
    t.receiver.read_all();
    t.give_up().await;
}

crate::postgres::on_postgres_too! {
    a_host_that_is_used_all_the_time_is_looked_up_again,
    a_delivery_fails_after_the_schedule_with_jitter,
    a_clock_that_is_set_back_delays_no_retry,
    the_jitter_is_the_same_after_a_crash,
    an_unrecorded_attempt_is_repeated_under_the_same_id,
    a_2xx_is_success_even_if_its_body_breaks_off,
    a_timeout_is_retried,
    every_network_failure_is_recorded_and_retried,
    a_refused_connection_is_retried,
    retry_after_lengthens_a_delay_and_never_shortens_it,
    a_410_ends_the_deliveries_of_a_watch_to_that_address,
    a_failed_delivery_is_retried_manually_under_the_same_id,
    a_410_to_a_manual_retry_ends_later_deliveries,
    a_manual_retry_does_not_change_the_schedule,
    a_manual_retry_survives_a_crash,
    a_stopped_watch_sends_and_retries_nothing,
    an_attempt_in_flight_at_a_stop_keeps_its_result,
    a_host_that_resolves_privately_later_is_refused,
    a_host_that_does_not_resolve_yet_is_accepted,
    attempts_in_flight_are_limited_in_total,
    attempts_in_flight_are_limited_by_destination,
    a_delivery_is_shown_with_its_attempts,
    a_delivery_has_its_newest_attempts_and_a_list_of_all,
    the_answer_to_a_retry_does_not_grow_with_the_attempts,
    allow_http_permits_plain_http_wherever_https_may_go,
    one_dead_receiver_does_not_slow_another,
    one_apps_dead_receivers_do_not_slow_another_app,
    retry_after_cannot_lengthen_a_delivery_beyond_its_schedule,
    any_http_status_closes_the_breaker,
    more_deliveries_than_fit_in_memory_are_sent_once_each,
    attempts_in_flight_are_finished_before_the_service_ends,
    unfinished_attempts_are_repeated_at_the_next_start,
}
