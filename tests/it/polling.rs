//! Times of the polls. Errors of a provider are not failures of its jobs.

use ringback::domain::Timestamp;
use serde_json::json;

use crate::fakes::{Reply, error};
use crate::harness::{Harness, minutes, seconds, since_start, start};

/// Returns a response in Muvi's form about a running job.
fn processing(job: &str) -> Reply {
    Reply::json(200, &json!({ "jobId": job, "status": "processing", "progress": 0 }))
}

#[tokio::test]
async fn polls_are_at_squared_ages() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    t.watch("job_1").await;
    t.pass(minutes(5)).await;
    // 2·k² from 5 on: 2·(√(5/2) + k)².
    assert_eq!(since_start(&t.provider.polls("job_1")), [5, 13, 25, 41, 62, 86, 114, 147, 183, 223, 268]);
    t.finish().await;
}

#[tokio::test]
async fn no_interval_is_longer_than_the_maximum() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    t.watch("job_1").await;
    t.pass(minutes(60)).await;
    let polls = t.provider.polls("job_1");
    let intervals: Vec<u64> = polls.windows(2).map(|pair| pair[1].since(pair[0]).as_secs()).collect();
    assert!(intervals.is_sorted() && intervals.last() == Some(&60), "{intervals:?}");
    t.finish().await;
}

#[tokio::test]
async fn the_shortest_interval_of_a_jobs_watches_applies() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__MIN_INTERVAL", "4s")]).await;
    t.provider.processing("job_1", 0);
    let watch = |interval: &str| json!({ "jobId": "job_1", "notify": [], "pollInterval": interval });
    t.register(&watch("10s")).await;
    t.pass(seconds(40)).await;
    // Raised to the provider's minimum.
    let eager = t.register(&watch("1s")).await;
    t.pass(seconds(12)).await;
    t.stop_watch(&eager).await.expect(200);
    t.pass(seconds(28)).await;
    let polls = since_start(&t.provider.polls("job_1"));
    assert_eq!(polls, [5, 13, 23, 33, 40, 44, 48, 52, 56, 66, 76]);
    t.finish().await;
}

#[tokio::test]
async fn a_job_is_polled_at_its_expected_end() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let expected = start().plus(seconds(100)).to_string();
    t.register(&json!({ "jobId": "job_1", "notify": [], "expectedAt": expected })).await;
    t.pass(seconds(120)).await;
    let polls = since_start(&t.provider.polls("job_1"));
    assert!(polls.contains(&100), "{polls:?}");
    t.finish().await;
}

#[tokio::test]
async fn the_rate_is_never_exceeded_not_even_by_a_restart() {
    let rate = [("RINGBACK_PROVIDERS__MUVI__RATE", "4/s"), ("RINGBACK_PROVIDERS__MUVI__BURST", "2")];
    let mut t = Harness::with(&rate).await;
    for n in 0..40 {
        let job = format!("job_{n}");
        t.provider.processing(&job, 0);
        t.register(&json!({ "jobId": job, "notify": [], "pollInterval": "1s" })).await;
    }
    t.pass(seconds(8)).await;
    // A full bucket at start would let a crash loop exceed the rate.
    for _ in 0..4 {
        t.crash().await;
        t.restart().await;
        t.rest().await;
    }
    t.pass(seconds(4)).await;
    let polls = t.provider.all_polls();
    let rate_and_burst = 4 + 2;
    for window in polls.windows(rate_and_burst + 1) {
        let span = window[rate_and_burst].since(window[0]);
        assert!(span >= seconds(1), "{rate_and_burst} in {span:?}: {polls:?}");
    }
    assert!(polls.len() >= 40, "the rate is used: {}", polls.len());
    t.finish().await;
}

#[tokio::test]
async fn polls_in_flight_never_exceed_the_concurrency() {
    let t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", "2")]).await;
    let mut gates = Vec::new();
    for n in 0..5 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        let (reply, gate) = processing(&job).held();
        t.provider.script(&job, [reply]);
        gates.push(gate);
        t.register(&json!({ "jobId": job, "notify": [] })).await;
    }
    t.pass(seconds(5)).await;
    t.provider.polled_in_all(2).await;
    assert_eq!(t.provider.all_polls().len(), 2);
    for gate in gates {
        gate.open();
    }
    t.rest().await;
    assert_eq!(t.provider.all_polls().len(), 5);
    t.finish().await;
}

#[tokio::test]
async fn after_a_429_no_poll_starts_until_retry_after_has_passed() {
    let t = Harness::start().await;
    for job in ["job_1", "job_2"] {
        t.provider.completed(job);
    }
    t.provider.script("job_1", [Reply::status(429).with("retry-after", "40")]);
    t.watch("job_1").await;
    t.pass(seconds(3)).await;
    t.watch("job_2").await;
    t.pass(seconds(40)).await;
    assert_eq!(since_start(&t.provider.all_polls()), [5], "job_2 was due at 8");
    t.pass(seconds(5)).await;
    assert_eq!(since_start(&t.provider.polls("job_2")), [45]);
    t.receiver.take(2).await;
    t.finish().await;
}

#[tokio::test]
async fn after_429s_without_retry_after_each_cooldown_is_longer() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    t.provider.script("job_1", (0..4).map(|_| Reply::status(429)));
    let body = json!({ "jobId": "job_1", "pollInterval": "1s", "callbackUrl": t.receiver.url("/hook") });
    t.register(&body).await;
    t.pass(minutes(1)).await;
    assert_eq!(since_start(&t.provider.polls("job_1")), [1, 2, 4, 8, 16]);
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn a_rejected_credential_fails_no_watch_and_recovers() {
    let t = Harness::start().await;
    t.provider.all(Some(error(401, "UNAUTHORIZED", "Invalid API key")));
    let mut watches = Vec::new();
    for n in 0..10 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        watches.push(t.watch(&job).await);
        t.pass(seconds(1)).await;
    }
    t.pass(seconds(290)).await;
    assert_eq!(since_start(&t.provider.all_polls()), [5, 65, 125, 185, 245]);
    for watch in &watches {
        assert_eq!(t.shown(watch).await["status"], "watching");
    }
    let first = t.shown(&watches[0]).await;
    assert_eq!(first["job"]["lastError"], "HTTP 401 UNAUTHORIZED: Invalid API key (request req_fake)");
    t.provider.all(None);
    t.pass(minutes(1)).await;
    assert_eq!(t.receiver.take(10).await.len(), 10);
    assert_eq!(since_start(&t.provider.all_polls())[5..], [305; 10]);
    t.finish().await;
}

#[tokio::test]
async fn an_account_code_pauses_the_credential_as_a_401_does() {
    let t = Harness::start().await;
    for code in ["USER_BANNED", "USER_INACTIVE", "IP_NOT_WHITELISTED"] {
        t.provider.completed(code);
        t.provider.script(code, [error(403, code, "No")]);
        let watch = t.watch(code).await;
        t.pass(seconds(30)).await;
        assert_eq!(t.provider.polls(code).len(), 1);
        assert_eq!(t.shown(&watch).await["status"], "watching");
        t.pass(minutes(1)).await;
        assert_eq!(t.receiver.next().await.event(), "job.completed");
    }
    t.finish().await;
}

#[tokio::test]
async fn errors_of_one_job_delay_only_that_job() {
    let t = Harness::start().await;
    t.provider.completed("job_bad");
    t.provider.script("job_bad", (0..4).map(|_| Reply::status(500)));
    t.watch("job_bad").await;
    t.provider.processing("job_good", 0);
    let good = t.register(&json!({ "jobId": "job_good", "notify": [] })).await;
    t.pass(seconds(30)).await;
    assert_eq!(since_start(&t.provider.polls("job_bad")), [5, 6, 8, 12, 20]);
    assert_eq!(since_start(&t.provider.polls("job_good")), [5, 13, 25]);
    assert_eq!(t.shown(&good).await["job"]["lastError"], json!(null));
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn the_breaker_opens_after_errors_of_five_jobs_and_closes_on_ok() {
    let t = Harness::start().await;
    t.provider.all(Some(Reply::status(502)));
    for n in 0..20 {
        let job = format!("job_{n}");
        t.provider.completed(&job);
        t.watch(&job).await;
    }
    t.pass(seconds(8)).await;
    let before = t.provider.all_polls().len();
    assert_eq!(before, 60, "they were due together, and failures in flight together count once");
    t.pass(seconds(20)).await;
    let probes = t.provider.all_polls()[before..].to_vec();
    // The jobs wait for 4 s first.
    assert!((16..=17).contains(&probes.len()), "one poll a second: {probes:?}");
    assert!(probes.windows(2).all(|pair| pair[1].since(pair[0]) >= seconds(1)), "{probes:?}");
    t.provider.all(None);
    t.pass(seconds(2)).await;
    assert_eq!(t.receiver.take(20).await.len(), 20, "all are polled again at once");
    t.finish().await;
}

#[tokio::test]
async fn errors_of_four_jobs_do_not_open_the_breaker() {
    let t = Harness::start().await;
    for n in 0..4 {
        let job = format!("job_{n}");
        t.provider.always(&job, Reply::status(500));
        t.register(&json!({ "jobId": job, "notify": [] })).await;
    }
    t.pass(seconds(8)).await;
    for n in 0..4 {
        assert_eq!(since_start(&t.provider.polls(&format!("job_{n}"))), [5, 6, 8]);
    }
    t.give_up().await;
}

#[tokio::test]
async fn an_unknown_job_ends_its_watch_after_a_minute_and_three_polls() {
    let t = Harness::start().await;
    t.provider.not_found("job_1");
    let watch = t.watch("job_1").await;
    t.pass(seconds(60)).await;
    let shown = t.shown(&watch).await;
    assert_eq!(shown["status"], "watching");
    let error = shown["job"]["lastError"].as_str().unwrap();
    let says = "the provider does not know the job, which counts as not found after 1m of such answers: ";
    assert!(error.starts_with(says), "{error}");
    t.pass(minutes(1)).await;
    let hit = t.receiver.next().await;
    assert_eq!(hit.event(), "job.not_found");
    let polls = t.provider.polls("job_1");
    assert!(polls.len() >= 3 && hit.at.since(polls[0]) >= seconds(60), "{polls:?}");
    t.finish().await;
}

#[tokio::test]
async fn a_poll_without_an_api_key_is_neither_counted_nor_dated() {
    let mut t = Harness::start().await;
    t.provider.processing("job_1", 10);
    let watch = t.watch("job_1").await;
    t.crash().await;
    t.set("MUVI_API_KEY", "");
    t.restart().await;
    t.pass(minutes(3)).await;
    let job = t.shown(&watch).await["job"].clone();
    assert!(job["lastError"].as_str().unwrap().starts_with("no API key is configured"), "{job}");
    assert_eq!((&job["polls"], &job["lastPolledAt"]), (&json!(0), &json!(null)));
    assert_eq!(t.provider.polls("job_1"), []);
    t.give_up().await;
}

#[tokio::test]
async fn an_ended_watch_never_shows_the_polls_of_a_later_one() {
    let mut t = Harness::start().await;
    let register = json!({ "jobId": "job_1", "notify": [] });
    t.provider.completed("job_1");
    let ended = t.register(&register).await;
    t.pass(minutes(1)).await;
    let first = t.shown(&ended).await["job"].clone();
    assert_eq!(first["polls"], 1, "{first}");
    assert!(first["lastPolledAt"].is_string(), "{first}");
    let later = t.register(&register).await;
    t.pass(minutes(1)).await;
    assert!(t.shown(&later).await["job"]["polls"].is_number());
    let unknown = (&json!(null), &json!(null));
    let job = t.shown(&ended).await["job"].clone();
    assert_eq!((&job["polls"], &job["lastPolledAt"]), unknown, "{job}");
    t.stop().await;
    t.restart().await;
    let job = t.shown(&later).await["job"].clone();
    assert_eq!((&job["polls"], &job["lastPolledAt"]), unknown, "{job}");
    t.finish().await;
}

#[tokio::test]
async fn a_job_that_appears_within_the_grace_stays_watched() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    // The job was just submitted and is not on every server yet. Any other response restarts the count.
    let missing = || error(404, "JOB_NOT_FOUND", "Job not found");
    let script = [missing(), missing(), missing(), Reply::status(500), missing(), missing()];
    t.provider.script("job_1", script);
    t.watch("job_1").await;
    t.pass(minutes(3)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    t.finish().await;
}

#[tokio::test]
async fn a_known_job_must_be_not_found_for_a_quarter_of_an_hour() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 20);
    let watch = t.watch("job_1").await;
    t.pass(seconds(10)).await;
    t.provider.not_found("job_1");
    t.pass(minutes(15)).await;
    assert_eq!(t.shown(&watch).await["status"], "watching");
    t.pass(minutes(2)).await;
    let hit = t.receiver.next().await;
    assert_eq!(hit.event(), "job.not_found");
    assert_eq!(hit.json()["data"]["progress"], 20, "the rest is as last seen");
    t.finish().await;
}

#[tokio::test]
async fn a_job_that_ended_and_is_registered_again_keeps_the_long_grace() {
    let mut t = Harness::start().await;
    t.provider.completed("job_1");
    t.watch("job_1").await;
    t.pass(seconds(5)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    t.provider.not_found("job_1");
    // The second time, the job has ended as not found, and no process has seen its status.
    for restarts in [false, true] {
        let watch = t.watch("job_1").await;
        if restarts {
            t.crash().await;
            t.restart().await;
        }
        t.pass(minutes(15)).await;
        assert_eq!(t.shown(&watch).await["status"], "watching", "restarted: {restarts}");
        t.pass(minutes(2)).await;
        assert_eq!(t.receiver.next().await.event(), "job.not_found");
    }
    t.finish().await;
}

#[tokio::test]
async fn an_unknown_job_that_is_registered_again_has_the_short_grace() {
    let t = Harness::start().await;
    t.provider.not_found("job_1");
    for _ in 0..2 {
        t.watch("job_1").await;
        t.pass(minutes(3)).await;
        assert_eq!(t.receiver.next().await.event(), "job.not_found");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_status_of_a_requested_poll_makes_the_grace_of_its_job_long() {
    let t = Harness::start().await;
    t.provider.not_found("job_1");
    let first = t.watch("job_1").await;
    t.pass(minutes(3)).await;
    assert_eq!(t.receiver.next().await.event(), "job.not_found");
    t.provider.processing("job_1", 20);
    t.act(&format!("/v1/watches/{first}/poll")).await.expect(202);
    t.pass(seconds(5)).await;
    t.provider.not_found("job_1");
    let again = t.watch("job_1").await;
    t.pass(minutes(15)).await;
    assert_eq!(t.shown(&again).await["status"], "watching");
    t.pass(minutes(2)).await;
    assert_eq!(t.receiver.next().await.event(), "job.not_found");
    t.finish().await;
}

#[tokio::test]
async fn a_404_without_the_definitions_code_never_ends_a_watch() {
    let t = Harness::start().await;
    t.provider.always("job_1", Reply::new(404, "<html>not found</html>"));
    let watch = t.watch("job_1").await;
    t.pass(minutes(60)).await;
    assert_eq!(t.shown(&watch).await["status"], "watching");
    t.give_up().await;
}

#[tokio::test]
async fn a_wrong_base_url_ends_no_watch_of_a_known_job() {
    let t = Harness::start().await;
    let mut watches = Vec::new();
    for n in 0..8 {
        let job = format!("job_{n}");
        t.provider.processing(&job, 0);
        watches.push(t.watch(&job).await);
    }
    t.pass(seconds(5)).await;
    t.provider.all(Some(error(404, "JOB_NOT_FOUND", "Job not found")));
    t.pass(minutes(30)).await;
    for watch in watches {
        assert_eq!(t.shown(&watch).await["status"], "watching", "the breaker is open");
    }
    t.give_up().await;
}

#[tokio::test]
async fn an_unknown_status_is_shown_and_ends_nothing() {
    let t = Harness::start().await;
    t.provider.job("job_1", &json!({ "status": "UPSCALING", "progress": 80 }));
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let job = &t.shown(&watch).await["job"];
    assert_eq!((&job["status"], &job["rawStatus"]), (&json!("processing"), &json!("UPSCALING")));
    assert_eq!(job["lastError"], json!(null));
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn an_unreadable_response_is_a_failed_poll_and_is_shown() {
    let table: [(&str, Reply, &str); 9] = [
        ("not_json", Reply::new(200, "<html>hello</html>"), "JSON"),
        ("truncated", Reply::new(200, "{\"jobId\": \"trunca"), "JSON"),
        ("empty", Reply::new(200, ""), "empty"),
        ("array", Reply::new(200, "[]"), "does not name the job"),
        ("other", Reply::json(200, &json!({ "jobId": "job_2", "status": "completed" })), "another job"),
        ("large", Reply::new(200, "x".repeat(1024 * 1024 + 1)), "too_large"),
        ("reset", Reply::reset(), ""),
        ("garbage", Reply::garbage(), "not HTTP"),
        ("redirect", Reply::status(302).with("location", "/v1/jobs/elsewhere"), "302"),
    ];
    let t = Harness::start().await;
    for (job, reply, says) in table {
        t.provider.completed(job);
        // A request on a kept connection that closes is sent once more, on a new one.
        let again = (job == "reset").then(Reply::reset);
        t.provider.script(job, std::iter::once(reply).chain(again));
        let watch = t.watch(job).await;
        t.pass(seconds(5)).await;
        let shown = t.shown(&watch).await;
        assert_eq!(shown["status"], "watching", "{job}");
        let error =
            shown["job"]["lastError"].as_str().unwrap_or_else(|| panic!("{job}: no error in {shown}"));
        assert!(error.contains(says), "{job}: {error}");
        t.pass(seconds(2)).await;
        assert_eq!(t.receiver.next().await.event(), "job.completed", "{job}");
    }
    t.finish().await;
}

#[tokio::test]
async fn wrong_types_in_a_response_are_null_and_end_nothing() {
    let t = Harness::start().await;
    let odd = json!({ "progress": "many", "output": 7, "outputs": { "a": 1 }, "createdAt": "yesterday",
                      "error": "none", "completedAt": 99 });
    t.provider.job("job_1", &odd);
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let shown = t.shown(&watch).await;
    assert_eq!(shown["status"], "watching");
    for field in ["output", "outputs", "createdAt", "completedAt"] {
        assert_eq!(shown["job"][field], json!(null), "{field}");
    }
    t.give_up().await;
}

#[tokio::test]
async fn a_poll_without_a_response_ends_after_its_timeout() {
    let t = Harness::start().await;
    t.provider.completed("job_1");
    let (reply, gate) = Reply::status(200).held();
    t.provider.script("job_1", [reply]);
    let watch = t.watch("job_1").await;
    t.clock.advance(seconds(5));
    t.provider.polled("job_1", 1).await;
    t.rest().await;
    t.clock.advance(seconds(20));
    t.held.none().await;
    t.rest().await;
    assert_eq!(t.shown(&watch).await["job"]["lastError"], "timeout: no answer within 20 s");
    t.pass(seconds(1)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    gate.open();
    t.finish().await;
}

#[tokio::test]
async fn a_status_that_moves_backwards_is_shown_and_ends_nothing() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 90);
    let watch = t.watch("job_1").await;
    t.pass(seconds(5)).await;
    t.provider.job("job_1", &json!({ "status": "pending", "progress": 0 }));
    t.pass(seconds(10)).await;
    let job = &t.shown(&watch).await["job"];
    assert_eq!((&job["status"], &job["progress"]), (&json!("pending"), &json!(0)));
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    t.receiver.next().await;
    t.finish().await;
}

#[tokio::test]
async fn a_job_is_polled_a_final_time_when_its_watch_expires() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let body = json!({ "jobId": "job_1", "expiresIn": "30s", "callbackUrl": t.receiver.url("/hook") });
    t.register(&body).await;
    t.pass(seconds(29)).await;
    t.provider.completed("job_1");
    t.pass(seconds(1)).await;
    assert_eq!(t.receiver.next().await.event(), "job.completed", "the final poll found its end");
    assert_eq!(since_start(&t.provider.polls("job_1")), [5, 13, 25, 30]);
    t.finish().await;
}

#[tokio::test]
async fn a_final_poll_waits_for_the_retry_after_of_its_job() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    t.provider.script("job_1", [Reply::status(503).with("retry-after", "100")]);
    let body = json!({ "jobId": "job_1", "expiresIn": "30s", "callbackUrl": t.receiver.url("/hook") });
    let watch = t.register(&body).await;
    t.pass(seconds(99)).await;
    let shown = t.shown(&watch).await;
    assert_eq!(shown["job"]["nextPollAt"], start().plus(seconds(105)).to_string());
    t.pass(seconds(10)).await;
    assert_eq!(t.receiver.next().await.event(), "watch.expired");
    assert_eq!(since_start(&t.provider.polls("job_1")), [5, 105]);
    t.finish().await;
}

#[tokio::test]
async fn each_watch_has_its_own_expiry() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let body = json!({ "jobId": "job_1", "expiresIn": "30s", "callbackUrl": t.receiver.url("/short") });
    t.register(&body).await;
    t.watch("job_1").await;
    t.pass(seconds(40)).await;
    assert_eq!(t.receiver.next().await.event(), "watch.expired");
    t.provider.completed("job_1");
    t.pass(minutes(1)).await;
    let hit = t.receiver.next().await;
    assert_eq!((hit.path.as_str(), hit.event()), ("/hook", "job.completed"));
    t.finish().await;
}

#[tokio::test]
async fn a_failed_final_poll_is_repeated_for_a_minute() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 10);
    let body = json!({ "jobId": "job_1", "expiresIn": "30s", "callbackUrl": t.receiver.url("/hook") });
    t.register(&body).await;
    t.pass(seconds(29)).await;
    t.provider.always("job_1", Reply::reset());
    t.pass(seconds(60)).await;
    assert!(t.receiver.unread().is_empty());
    t.pass(seconds(1)).await;
    let hit = t.receiver.next().await;
    assert_eq!((hit.event(), since_start(&[hit.at])[0]), ("watch.expired", 90));
    let data = &hit.json()["data"];
    assert_eq!((&data["error"]["code"], &data["progress"]), (&json!("provider_unreachable"), &json!(10)));
    let message = data["error"]["message"].as_str().unwrap();
    assert!(message.contains("could not be reached") && message.contains("protocol: "), "{message}");
    assert!(t.provider.polls("job_1").len() > 5, "it was repeated");
    t.finish().await;
}

#[tokio::test]
async fn a_provider_that_answers_is_not_called_unreachable() {
    let t = Harness::start().await;
    let table = [
        ("job_1", error(404, "JOB_NOT_FOUND", "Job not found"), "HTTP 404 JOB_NOT_FOUND: Job not found"),
        ("job_2", Reply::status(500), "HTTP 500"),
    ];
    for (job, reply, says) in table {
        // A job that the provider has known ends as not found only after 15 minutes.
        t.provider.processing(job, 0);
        let body = json!({ "jobId": job, "expiresIn": "30s", "callbackUrl": t.receiver.url("/hook") });
        t.register(&body).await;
        t.pass(seconds(29)).await;
        t.provider.always(job, reply);
        t.pass(seconds(61)).await;
        let hit = t.receiver.next().await;
        assert_eq!(hit.event(), "watch.expired");
        let error = &hit.json()["data"]["error"];
        assert_eq!(error["code"], "deadline");
        assert!(error["message"].as_str().unwrap().contains(says), "{error}");
    }
    t.finish().await;
}

#[tokio::test]
async fn an_unknown_job_ends_as_not_found_also_if_its_watch_expires() {
    let t = Harness::start().await;
    for (job, expires_in, ends_at) in [("job_1", "1s", 61), ("job_2", "8s", 68)] {
        t.provider.always(job, error(404, "JOB_NOT_FOUND", "Job not found"));
        let body = json!({ "jobId": job, "expiresIn": expires_in, "callbackUrl": t.receiver.url("/hook") });
        let registered_at = t.now();
        t.register(&body).await;
        t.pass(seconds(80)).await;
        let hit = t.receiver.next().await;
        assert_eq!(hit.event(), "job.not_found", "{expires_in}");
        assert_eq!(hit.at.since(registered_at), seconds(ends_at), "{:?}", t.provider.polls(job));
    }
    t.finish().await;
}

#[tokio::test]
async fn a_watch_expires_while_the_credential_is_paused() {
    let t = Harness::start().await;
    t.provider.all(Some(error(401, "UNAUTHORIZED", "Invalid API key")));
    for job in ["job_1", "job_2"] {
        let body = json!({ "jobId": job, "expiresIn": "10m", "callbackUrl": t.receiver.url("/hook") });
        t.register(&body).await;
    }
    t.pass(minutes(12)).await;
    for hit in t.receiver.take(2).await {
        let error = &hit.json()["data"]["error"];
        assert_eq!(error["code"], "deadline", "the provider answers");
        assert!(error["message"].as_str().unwrap().contains("HTTP 401"), "{error}");
        assert_eq!(since_start(&[hit.at]), [660]);
    }
    t.finish().await;
}

#[tokio::test]
async fn a_restart_rebuilds_the_schedules_from_the_database() {
    let mut t = Harness::start().await;
    t.provider.processing("job_old", 0);
    let old = t.watch("job_old").await;
    t.pass(minutes(2)).await;
    t.provider.completed("job_new");
    t.watch("job_new").await;
    t.crash().await;
    t.clock.advance(seconds(2));
    t.restart().await;
    t.rest().await;
    let polls = t.provider.polls("job_old");
    assert_eq!(since_start(&polls).last(), Some(&122), "its first poll is past: at once");
    t.pass(minutes(2)).await;
    // Then the squared ages continue from the registration.
    let later: Vec<u64> = since_start(&t.provider.polls("job_old")[polls.len()..]);
    assert_eq!(later, [155, 192, 233]);
    assert_eq!(since_start(&t.provider.polls("job_new")), [125], "its first poll was not yet due");
    assert_eq!(t.receiver.next().await.event(), "job.completed");
    assert_eq!(t.shown(&old).await["job"]["polls"], 4, "counted since the start of the process");
    t.finish().await;
}

#[tokio::test]
async fn a_watch_that_expired_during_a_downtime_gets_its_final_poll() {
    let mut t = Harness::start().await;
    t.provider.completed("job_1");
    t.provider.processing("job_2", 0);
    for job in ["job_1", "job_2"] {
        let body =
            json!({ "jobId": job, "expiresIn": "30s", "callbackUrl": t.receiver.url(&format!("/{job}")) });
        t.register(&body).await;
    }
    t.crash().await;
    t.clock.advance(minutes(60));
    t.restart().await;
    t.rest().await;
    assert_eq!(t.receiver.next_to("/job_1").await.event(), "job.completed");
    let expired = t.receiver.next_to("/job_2").await;
    assert_eq!(expired.json()["data"]["error"]["code"], "deadline");
    t.finish().await;
}

#[tokio::test]
async fn a_requested_poll_survives_a_crash() {
    let mut t = Harness::with(&[("RINGBACK_PROVIDERS__MUVI__FIRST", "30s")]).await;
    t.provider.processing("job_1", 0);
    let (reply, _gate) = processing("job_1").held();
    t.provider.script("job_1", [reply]);
    let watch = t.watch("job_1").await;
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.provider.polled("job_1", 1).await;
    t.crash().await;
    t.restart().await;
    t.rest().await;
    assert_eq!(since_start(&t.provider.polls("job_1")), [0, 0]);
    t.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_delays_no_poll() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    t.watch("job_1").await;
    t.pass(minutes(2)).await;
    let before = t.provider.polls("job_1").len();
    t.clock.set(Timestamp::parse("2026-02-18T14:00:00Z").unwrap());
    t.rest().await;
    t.pass(minutes(2)).await;
    assert!(t.provider.polls("job_1").len() > before, "the hour is not waited for");
    t.provider.completed("job_1");
    t.provider.completed("job_2");
    t.watch("job_2").await;
    t.pass(minutes(2)).await;
    for hit in t.receiver.take(2).await {
        assert_eq!(hit.event(), "job.completed");
    }
    t.finish().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_during_a_poll_delays_no_poll() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    let (reply, gate) = processing("job_1").held();
    t.provider.script("job_1", [reply]);
    let watch = t.watch("job_1").await;
    t.clock.advance(seconds(5));
    t.provider.polled("job_1", 1).await;
    t.clock.set(Timestamp::parse("2026-02-18T14:00:00Z").unwrap());
    gate.open();
    t.rest().await;
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(seconds(2)).await;
    assert_eq!(t.provider.polls("job_1").len(), 2, "a requested poll");
    t.pass(minutes(1)).await;
    // The same intervals as without the jump: the job has the same age.
    assert!((6..=20).contains(&t.provider.polls("job_1").len()), "{:?}", t.provider.polls("job_1"));
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    polls_are_at_squared_ages,
    no_interval_is_longer_than_the_maximum,
    the_shortest_interval_of_a_jobs_watches_applies,
    a_job_is_polled_at_its_expected_end,
    the_rate_is_never_exceeded_not_even_by_a_restart,
    polls_in_flight_never_exceed_the_concurrency,
    after_a_429_no_poll_starts_until_retry_after_has_passed,
    after_429s_without_retry_after_each_cooldown_is_longer,
    a_rejected_credential_fails_no_watch_and_recovers,
    an_account_code_pauses_the_credential_as_a_401_does,
    errors_of_one_job_delay_only_that_job,
    the_breaker_opens_after_errors_of_five_jobs_and_closes_on_ok,
    errors_of_four_jobs_do_not_open_the_breaker,
    an_unknown_job_ends_its_watch_after_a_minute_and_three_polls,
    a_poll_without_an_api_key_is_neither_counted_nor_dated,
    an_ended_watch_never_shows_the_polls_of_a_later_one,
    a_job_that_appears_within_the_grace_stays_watched,
    a_known_job_must_be_not_found_for_a_quarter_of_an_hour,
    a_job_that_ended_and_is_registered_again_keeps_the_long_grace,
    an_unknown_job_that_is_registered_again_has_the_short_grace,
    a_status_of_a_requested_poll_makes_the_grace_of_its_job_long,
    a_404_without_the_definitions_code_never_ends_a_watch,
    a_wrong_base_url_ends_no_watch_of_a_known_job,
    an_unknown_status_is_shown_and_ends_nothing,
    an_unreadable_response_is_a_failed_poll_and_is_shown,
    wrong_types_in_a_response_are_null_and_end_nothing,
    a_poll_without_a_response_ends_after_its_timeout,
    a_status_that_moves_backwards_is_shown_and_ends_nothing,
    a_job_is_polled_a_final_time_when_its_watch_expires,
    a_final_poll_waits_for_the_retry_after_of_its_job,
    each_watch_has_its_own_expiry,
    a_failed_final_poll_is_repeated_for_a_minute,
    a_provider_that_answers_is_not_called_unreachable,
    an_unknown_job_ends_as_not_found_also_if_its_watch_expires,
    a_watch_expires_while_the_credential_is_paused,
    a_restart_rebuilds_the_schedules_from_the_database,
    a_watch_that_expired_during_a_downtime_gets_its_final_poll,
    a_requested_poll_survives_a_crash,
    a_clock_that_is_set_back_delays_no_poll,
    a_clock_that_is_set_back_during_a_poll_delays_no_poll,
}
