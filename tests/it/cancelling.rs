//! Cancelling jobs at their providers: when a watch is stopped, and when it expires.

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ringback::domain::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::cli::{ask, run, url};
use crate::fakes::{Reply, Server, error};
use crate::harness::{Harness, Neighbours, id, minutes, seconds, since_start};
use crate::tenants::{Tenant, tenant};

/// A definition of the fake provider.
const DEFINITION: &str = r#"
schema = 2
id = "acme"
name = "Acme"
docs = "https://acme.example/docs"
[params.job_id]
pattern = "[a-z0-9_]+"
[auth]
type = "bearer"
send_to = ["api.acme.example"]
[request]
url = "https://api.acme.example/v1/jobs/{job_id}"
[status]
path = "$.status"
[status.map]
processing = ["processing"]
completed = ["completed"]
failed = ["failed"]
cancelled = ["cancelled"]
[extract]
job_id = "none"
[errors]
code = "$.error.code"
message = "$.error.message"
[cancel]
path = "/cancel"
json = { job = "{job_id}" }
already_ended = [410]
[limits]
rate = "off"
[[example]]
job_id = "job_1"
body = '{"status": "processing"}'
expect = { answer = "seen", status = "processing", raw_status = "processing" }
[[example]]
job_id = "job_1"
body = '{"status": "completed"}'
expect = { answer = "seen", status = "completed", raw_status = "completed" }
[[example]]
job_id = "job_1"
body = '{"status": "failed"}'
expect = { answer = "seen", status = "failed", raw_status = "failed" }
"#;

/// The API key of the operator.
const ACME_KEY: &str = "acme_key_0123456789";

/// What the fake provider got, and what it answers.
#[derive(Default)]
struct Log {
    /// Each request that is no poll: time, method, path, credential, body.
    cancels: Vec<(Timestamp, String)>,
    polls: Vec<Timestamp>,
    /// Answers to the next requests to cancel; 202 after them.
    replies: VecDeque<Reply>,
    /// Status of all jobs.
    status: &'static str,
}

/// The application with a provider whose jobs can be cancelled.
struct Acme {
    t: Harness,
    log: Arc<Mutex<Log>>,
    _server: Server,
    folder: TempDir,
}

impl Acme {
    async fn start(settings: &[(&str, &str)]) -> Self {
        Self::defined(DEFINITION, settings).await
    }

    async fn defined(definition: &str, settings: &[(&str, &str)]) -> Self {
        let neighbours = Neighbours::default();
        let log = Arc::new(Mutex::new(Log { status: "processing", ..Log::default() }));
        let (noted, clock) = (Arc::clone(&log), neighbours.clock.clone());
        let server = Server::start(neighbours.held.clone(), move |request| {
            let now = ringback::clock::Clock::Manual(clock.clone()).now();
            let mut log = noted.lock().unwrap();
            if request.method == "GET" {
                log.polls.push(now);
                if log.status == "deleted" {
                    return error(404, "NO_JOB", "There is no such job.");
                }
                return Reply::json(200, &json!({ "status": log.status }));
            }
            let (method, path) = (&request.method, &request.path);
            let credential = request.header("authorization").unwrap_or_default();
            let body = String::from_utf8_lossy(&request.body);
            log.cancels.push((now, format!("{method} {path} {credential} {body}")));
            log.replies.pop_front().unwrap_or_else(|| Reply::status(202))
        });
        let server = server.await;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("acme.toml"), definition).unwrap();
        let (path, url) = (folder.path().display().to_string(), format!("http://{}", server.address));
        let mut all = vec![
            ("RINGBACK_PROVIDERS__PATH", path.as_str()),
            ("RINGBACK_PROVIDERS__ACME__BASE_URL", url.as_str()),
            ("RINGBACK_PROVIDERS__ACME__API_KEY", ACME_KEY),
            ("RINGBACK_PROVIDERS__ACME__ALLOW_CANCEL", "true"),
        ];
        all.extend(settings);
        let t = Harness::among(neighbours, &all).await;
        Self { t, log, _server: server, folder }
    }

    /// Registers a watch without destinations.
    async fn watch(&self, job: &str) -> String {
        self.t.register(&json!({ "provider": "acme", "jobId": job, "notify": [] })).await
    }

    async fn watch_until(&self, job: &str, expires_in: &str) -> String {
        let body = json!({
            "provider": "acme", "jobId": job, "notify": [], "expiresIn": expires_in, "cancelJobOnExpiry": true,
        });
        self.t.register(&body).await
    }

    /// Stops a watch and cancels its job.
    async fn cancel(&self, watch: &str) -> Value {
        let path = format!("/v1/watches/{watch}/stop");
        self.t.post(&path, &json!({ "cancelJob": true })).await.expect(200)
    }

    fn definition(&self) -> PathBuf {
        self.folder.path().join("acme.toml")
    }

    fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.log.lock().unwrap().replies.extend(replies);
    }

    fn status(&self, status: &'static str) {
        self.log.lock().unwrap().status = status;
    }

    /// The requests to cancel so far.
    fn cancels(&self) -> Vec<String> {
        self.log.lock().unwrap().cancels.iter().map(|(_, request)| request.clone()).collect()
    }

    /// The seconds from the start to each of them.
    fn cancelled_at(&self) -> Vec<u64> {
        since_start(&self.log.lock().unwrap().cancels.iter().map(|(at, _)| *at).collect::<Vec<_>>())
    }

    /// The cancellation of a watch: its status, its HTTP status and its message.
    async fn result(&self, watch: &str) -> [Value; 3] {
        let shown = self.t.shown(watch).await;
        ["status", "httpStatus", "message"].map(|field| shown["cancelJob"][field].clone())
    }

    /// The entries of the timeline from the stop on.
    async fn timeline(&self, watch: &str) -> Vec<Value> {
        let all = self.t.get(&format!("/v1/watches/{watch}/timeline")).await.expect(200);
        let of_end = |one: &&Value| {
            ["stopped", "cancel_requested", "cancel_finished"].contains(&one["kind"].as_str().unwrap())
        };
        all["data"].as_array().unwrap().iter().filter(of_end).cloned().collect()
    }
}

/// The request for a job.
fn request_for(job: &str) -> String {
    format!("POST /v1/jobs/{job}/cancel Bearer {ACME_KEY} {{\"job\":\"{job}\"}}")
}

async fn app_watch(acme: &Acme, tenant: &Tenant, job: &str) -> String {
    let body = json!({ "provider": "acme", "jobId": job, "notify": [] }).to_string();
    id(&acme.t.as_key(&tenant.key, "POST", "/v1/watches", &body).await.expect(201))
}

#[tokio::test]
async fn a_stop_cancels_the_job_and_the_timeline_says_so() {
    let acme = Acme::start(&[]).await;
    let watch = acme.watch("job_1").await;
    let stopped = acme.cancel(&watch).await;
    assert_eq!(stopped["status"], "stopped");
    assert_eq!(stopped["cancelJob"]["status"], "pending", "{stopped}");
    acme.t.rest().await;
    assert_eq!(acme.cancels(), [request_for("job_1")]);
    let shown = acme.t.shown(&watch).await;
    let at = "2026-02-18T15:00:00.000Z";
    let expected = json!({
        "status": "accepted", "requestedAt": at, "attempts": 1, "httpStatus": 202, "message": null, "finishedAt": at,
    });
    assert_eq!(shown["cancelJob"], expected);
    assert_eq!(
        acme.timeline(&watch).await,
        [
            json!({ "kind": "stopped", "at": at }),
            json!({ "kind": "cancel_requested", "at": at }),
            json!({ "kind": "cancel_finished", "at": at, "status": "accepted", "httpStatus": 202, "message": null }),
        ]
    );
    // It was accepted, so it is not requested again.
    acme.cancel(&watch).await;
    acme.t.rest().await;
    assert_eq!(acme.cancels().len(), 1);
    // A stop without the field cancels nothing.
    let other = acme.watch("job_2").await;
    let stopped = acme.t.stop_watch(&other).await.expect(200);
    assert_eq!(stopped["cancelJob"], json!(null));
    acme.t.pass(minutes(1)).await;
    assert_eq!(acme.cancels().len(), 1);
    acme.t.finish().await;
}

#[tokio::test]
async fn a_cancelled_job_that_is_deleted_ends_as_cancelled() {
    let mut acme = Acme::start(&[]).await;
    let (watch, other) = (acme.watch("job_1").await, acme.watch("job_1").await);
    let unrelated = acme.watch("job_2").await;
    acme.t.pass(seconds(10)).await;
    acme.cancel(&watch).await;
    acme.t.rest().await;
    assert_eq!(acme.result(&watch).await[0], "accepted");
    // The next start knows it from the database.
    acme.t.crash().await;
    acme.t.restart().await;
    acme.status("deleted");
    acme.t.pass(minutes(2)).await;
    let shown = acme.t.shown(&other).await;
    assert_eq!(
        (&shown["status"], &shown["job"]["status"]),
        (&json!("cancelled"), &json!("cancelled")),
        "{shown}"
    );
    let message = "the provider accepted to cancel the job, and does not know it any more: \
                   HTTP 404 NO_JOB: There is no such job.";
    assert_eq!(shown["job"]["error"], json!({ "code": null, "message": message }));
    // Another job that is not found keeps its grace.
    assert_eq!(acme.t.shown(&unrelated).await["status"], "watching");
    // If it is registered again, it is another job.
    let again = acme.watch("job_1").await;
    acme.t.pass(minutes(2)).await;
    assert_eq!(acme.t.shown(&again).await["status"], "watching");
    acme.t.give_up().await;
}

#[tokio::test]
async fn a_watch_that_begins_after_a_cancellation_keeps_its_grace() {
    let acme = Acme::start(&[]).await;
    let (watch, _other) = (acme.watch("job_1").await, acme.watch("job_1").await);
    acme.t.pass(seconds(10)).await;
    acme.cancel(&watch).await;
    acme.t.rest().await;
    assert_eq!(acme.result(&watch).await[0], "accepted");
    acme.t.clock.advance(seconds(1));
    acme.status("deleted");
    // The ID may be that of another job now.
    let later = acme.watch("job_1").await;
    acme.t.pass(minutes(2)).await;
    assert_eq!(acme.t.shown(&later).await["status"], "watching");
    acme.t.give_up().await;
}

#[tokio::test]
async fn a_deleted_job_whose_cancellation_failed_keeps_its_grace() {
    let acme = Acme::start(&[]).await;
    let (watch, other) = (acme.watch("job_1").await, acme.watch("job_1").await);
    acme.t.pass(seconds(10)).await;
    acme.reply([error(409, "CONFLICT", "Too late.")]);
    acme.cancel(&watch).await;
    acme.t.rest().await;
    acme.status("deleted");
    acme.t.pass(minutes(2)).await;
    assert_eq!(acme.t.shown(&other).await["status"], "watching");
    acme.t.give_up().await;
}

#[tokio::test]
async fn a_crash_before_the_request_does_not_lose_it() {
    // The bucket is empty at a start, so the request waits for a minute.
    let mut acme = Acme::start(&[("RINGBACK_PROVIDERS__ACME__RATE", "1/m")]).await;
    let watch = acme.watch("job_1").await;
    acme.cancel(&watch).await;
    acme.t.rest().await;
    assert_eq!(acme.result(&watch).await[0], "pending");
    acme.t.crash().await;
    acme.t.restart().await;
    assert_eq!(acme.cancels(), [""; 0]);
    acme.t.pass(minutes(2)).await;
    assert_eq!(acme.cancels(), [request_for("job_1")]);
    assert_eq!(acme.result(&watch).await[0], "accepted");
    acme.t.finish().await;
}

#[tokio::test]
async fn a_crash_after_the_request_sends_it_again() {
    let mut acme = Acme::start(&[]).await;
    let watch = acme.watch("job_1").await;
    let (held, _gate) = Reply::status(202).held();
    acme.reply([held, error(410, "GONE", "The job has been cancelled.")]);
    acme.cancel(&watch).await;
    acme.t.rest().await;
    assert_eq!(acme.cancels().len(), 1);
    acme.t.crash().await;
    acme.t.restart().await;
    acme.t.rest().await;
    assert_eq!(acme.cancels(), [request_for("job_1"), request_for("job_1")]);
    let message = json!("HTTP 410 GONE: The job has been cancelled.");
    assert_eq!(acme.result(&watch).await, [json!("already_ended"), json!(410), message]);
    acme.t.finish().await;
}

#[tokio::test]
async fn a_refused_cancellation_shows_the_providers_reason() {
    let acme = Acme::start(&[]).await;
    let watch = acme.watch("job_1").await;
    let sentence = format!("Key {ACME_KEY} may not cancel. {}", "x".repeat(1_000));
    acme.reply([error(409, "CONFLICT", &sentence)]);
    acme.cancel(&watch).await;
    acme.t.pass(minutes(20)).await;
    assert_eq!(acme.cancels().len(), 1, "it would be refused again");
    let [status, http_status, message] = acme.result(&watch).await;
    assert_eq!((status, http_status), (json!("refused"), json!(409)));
    let message = message.as_str().unwrap();
    assert!(message.starts_with("HTTP 409 CONFLICT: Key *** may not cancel."), "{message}");
    assert_eq!(message.chars().count(), 500);
    let [_, _, finished] = &acme.timeline(&watch).await[..] else { panic!("three entries") };
    assert_eq!((&finished["status"], &finished["httpStatus"]), (&json!("refused"), &json!(409)));
    // The client may request it again.
    assert_eq!(acme.cancel(&watch).await["cancelJob"]["status"], "pending");
    acme.t.rest().await;
    assert_eq!(acme.result(&watch).await, [json!("accepted"), json!(202), json!(null)]);
    acme.t.finish().await;
}

#[tokio::test]
async fn a_cancellation_that_fails_is_repeated() {
    let acme = Acme::start(&[]).await;
    let watch = acme.watch("job_1").await;
    acme.reply([Reply::status(503), Reply::reset(), Reply::status(500).with("retry-after", "60")]);
    acme.cancel(&watch).await;
    acme.t.rest().await;
    let pending = acme.t.shown(&watch).await["cancelJob"].clone();
    assert_eq!((&pending["status"], &pending["httpStatus"]), (&json!("pending"), &json!(503)));
    acme.t.pass(minutes(10)).await;
    assert_eq!(acme.cancelled_at(), [0, 2, 12, 72]);
    assert_eq!(acme.result(&watch).await, [json!("accepted"), json!(202), json!(null)]);
    // Not for ever.
    let watch = acme.watch("job_2").await;
    acme.reply(vec![error(500, "OOPS", "no"); 9]);
    acme.cancel(&watch).await;
    acme.t.pass(minutes(30)).await;
    let waits: Vec<u64> = acme.cancelled_at()[4..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(waits, [2, 10, 30, 120, 300]);
    assert_eq!(acme.result(&watch).await, [json!("failed"), json!(500), json!("HTTP 500 OOPS: no")]);
    acme.t.finish().await;
}

#[tokio::test]
async fn a_refused_key_of_a_cancellation_stops_no_polls() {
    let acme = Acme::start(&[]).await;
    let (other, watch) = (acme.watch("job_2").await, acme.watch("job_1").await);
    acme.reply(vec![error(401, "READ_ONLY", "The key may only read."); 9]);
    acme.cancel(&watch).await;
    acme.t.pass(minutes(20)).await;
    assert_eq!(acme.result(&watch).await[..2], [json!("failed"), json!(401)]);
    assert!(acme.t.shown(&other).await["job"]["polls"].as_u64().unwrap() > 10);
    let provider = acme.t.get("/v1/providers/acme").await.expect(200);
    assert_eq!(provider["health"]["status"], "ok", "{provider}");
    acme.t.finish().await;
}

#[tokio::test]
async fn a_job_that_another_app_watches_is_not_cancelled() {
    let acme = Acme::start(&[]).await;
    let tenant = tenant(&acme.t, "other").await;
    let (watch, other) = (acme.watch("job_1").await, app_watch(&acme, &tenant, "job_1").await);
    let path = format!("/v1/watches/{watch}/stop");
    let problem = acme.t.post(&path, &json!({ "cancelJob": true })).await.expect(409);
    assert_eq!(problem["code"], "job_shared", "{problem}");
    let shown = acme.t.shown(&watch).await;
    assert_eq!((&shown["status"], &shown["cancelJob"]), (&json!("watching"), &json!(null)));
    acme.t.pass(minutes(1)).await;
    assert_eq!(acme.cancels(), [""; 0]);
    acme.t.as_key(&tenant.key, "POST", &format!("/v1/watches/{other}/stop"), "").await.expect(200);
    // Further watches of the same app are no reason.
    let second = acme.watch("job_1").await;
    acme.cancel(&watch).await;
    acme.t.rest().await;
    assert_eq!(acme.result(&watch).await[0], "accepted");
    acme.status("cancelled");
    acme.t.pass(minutes(5)).await;
    assert_eq!(acme.t.shown(&second).await["status"], "cancelled");
    acme.t.finish().await;
}

#[tokio::test]
async fn a_cancellation_without_an_api_key_stays_pending() {
    let mut acme = Acme::start(&[]).await;
    let (watch, other) = (acme.watch("job_1").await, acme.watch("job_2").await);
    acme.reply([Reply::status(503)]);
    acme.cancel(&watch).await;
    acme.t.rest().await;
    acme.t.set("RINGBACK_PROVIDERS__ACME__API_KEY", "");
    acme.t.stop().await;
    acme.t.restart().await;
    acme.t.pass(minutes(20)).await;
    let [status, _, message] = acme.result(&watch).await;
    assert_eq!((&status, acme.cancels().len()), (&json!("pending"), 1), "{message}");
    assert!(message.as_str().unwrap().contains("no API key is configured"), "{message}");
    let stop = format!("/v1/watches/{other}/stop");
    let problem = acme.t.post(&stop, &json!({ "cancelJob": true })).await.expect(422);
    assert_eq!(problem["errors"][0]["code"], "no_credential", "{problem}");
    acme.t.set("RINGBACK_PROVIDERS__ACME__API_KEY", ACME_KEY);
    acme.t.stop().await;
    acme.t.restart().await;
    acme.t.pass(minutes(2)).await;
    assert_eq!((acme.result(&watch).await[0].clone(), acme.cancels().len()), (json!("accepted"), 2));
    acme.t.give_up().await;
}

#[tokio::test]
async fn a_large_body_does_not_change_what_the_status_means() {
    let when = DEFINITION.replace("[errors]", "[errors]\nwhen = { path = \"$.ok\", is = false }");
    for definition in [DEFINITION, &when] {
        let acme = Acme::defined(definition, &[]).await;
        for (job, status, expected) in [("job_1", 202, "accepted"), ("job_2", 404, "refused")] {
            let watch = acme.watch(job).await;
            acme.reply([Reply::new(status, "x".repeat(200 * 1024))]);
            acme.cancel(&watch).await;
            acme.t.pass(minutes(1)).await;
            let [found, http_status, _] = acme.result(&watch).await;
            assert_eq!((found, http_status), (json!(expected), json!(status)));
        }
        assert_eq!(acme.cancels().len(), 2);
        acme.t.finish().await;
    }
}

#[tokio::test]
async fn an_app_that_comes_later_withholds_the_cancellation() {
    let acme = Acme::start(&[]).await;
    let tenant = tenant(&acme.t, "other").await;
    let watch = acme.watch("job_1").await;
    acme.reply([Reply::status(503)]);
    acme.cancel(&watch).await;
    acme.t.rest().await;
    app_watch(&acme, &tenant, "job_1").await;
    acme.t.pass(seconds(5)).await;
    assert_eq!(acme.cancels().len(), 1);
    let [status, _, message] = acme.result(&watch).await;
    assert_eq!(status, "withheld");
    assert_eq!(message, "another app watches the job, so it was not cancelled");
    acme.t.finish().await;
}

#[tokio::test]
async fn what_cannot_be_cancelled_is_refused_and_not_stopped() {
    let acme = Acme::start(&[("RINGBACK_PROVIDERS__ACME__ALLOW_CANCEL", "")]).await;
    acme.t.provider.processing("job_2", 10);
    let inline = json!({ "url": format!("{}/v1/jobs/job_2", acme.t.provider.url()), "status": "$.status",
        "headers": { "authorization": format!("Bearer {}", crate::fakes::PROVIDER_KEY) },
        "completed": ["completed"], "failed": ["failed"] });
    let subjects = [
        (json!({ "provider": "acme", "jobId": "job_1" }), "cancel_not_allowed"),
        (json!({ "provider": "muvi", "jobId": "job_2" }), "no_cancel"),
        (json!({ "poll": inline }), "no_cancel"),
    ];
    for (mut subject, code) in subjects {
        subject["notify"] = json!([]);
        let watch = acme.t.register(&subject).await;
        let stop = format!("/v1/watches/{watch}/stop");
        let problem = acme.t.post(&stop, &json!({ "cancelJob": true })).await.expect(422);
        let found = &problem["errors"][0];
        assert_eq!((&found["pointer"], &found["code"]), (&json!("/cancelJob"), &json!(code)), "{problem}");
        assert_eq!(acme.t.shown(&watch).await["status"], "watching");
        acme.t.post(&stop, &json!({ "cancelJob": false })).await.expect(200);
        subject["cancelJobOnExpiry"] = json!(true);
        let problem = acme.t.post("/v1/watches", &subject).await.expect(422);
        let found = &problem["errors"][0];
        assert_eq!(
            (&found["pointer"], &found["code"]),
            (&json!("/cancelJobOnExpiry"), &json!(code)),
            "{problem}"
        );
    }
    let bulk = acme.t.post("/v1/watches/stop", &json!({ "all": true, "cancelJob": true })).await.expect(422);
    assert_eq!(bulk["errors"][0]["pointer"], "/cancelJob", "{bulk}");
    acme.t.pass(minutes(1)).await;
    assert_eq!(acme.cancels(), [""; 0]);
    acme.t.finish().await;
}

#[tokio::test]
async fn an_expiry_cancels_the_job_if_the_registration_wants_it() {
    let acme = Acme::start(&[]).await;
    let watch = acme.watch_until("job_1", "20s").await;
    let shown = acme.t.shown(&watch).await;
    assert_eq!(shown["cancelJob"]["status"], "on_expiry", "{shown}");
    // A second watch of the same job, and one that does not want it.
    let second = acme.watch_until("job_1", "20s").await;
    let plain = json!({ "provider": "acme", "jobId": "job_2", "notify": [], "expiresIn": "20s" });
    let plain = acme.t.register(&plain).await;
    let ended = acme.watch_until("job_3", "10m").await;
    acme.t.pass(minutes(2)).await;
    assert_eq!(acme.cancels(), [request_for("job_1")], "one request for both watches");
    for watch in [&watch, &second] {
        let shown = acme.t.shown(watch).await;
        assert_eq!(
            (&shown["status"], &shown["cancelJob"]["status"]),
            (&json!("expired"), &json!("accepted"))
        );
        let kinds: Vec<Value> = acme.timeline(watch).await.iter().map(|one| one["kind"].clone()).collect();
        assert_eq!(kinds, ["cancel_requested", "cancel_finished"]);
    }
    assert_eq!(acme.t.shown(&plain).await["cancelJob"], json!(null));
    // A job that completes before is not cancelled.
    acme.status("completed");
    acme.t.pass(minutes(15)).await;
    let shown = acme.t.shown(&ended).await;
    assert_eq!((&shown["status"], &shown["cancelJob"]), (&json!("completed"), &json!(null)), "{shown}");
    assert_eq!(acme.cancels().len(), 1);
    acme.t.finish().await;
}

#[tokio::test]
async fn an_expiry_withholds_the_cancellation_of_a_shared_job() {
    let acme = Acme::start(&[]).await;
    let tenant = tenant(&acme.t, "other").await;
    let watch = acme.watch_until("job_1", "20s").await;
    app_watch(&acme, &tenant, "job_1").await;
    acme.t.pass(minutes(2)).await;
    assert_eq!(acme.cancels(), [""; 0]);
    assert_eq!(acme.t.shown(&watch).await["status"], "expired");
    assert_eq!(acme.result(&watch).await[0], "withheld");
    let [requested, finished] = &acme.timeline(&watch).await[..] else { panic!("two entries") };
    assert_eq!((&requested["kind"], &finished["status"]), (&json!("cancel_requested"), &json!("withheld")));
    acme.t.finish().await;
}

#[tokio::test]
async fn a_job_that_has_ended_is_not_cancelled() {
    let acme = Acme::start(&[]).await;
    let watch = acme.watch("job_1").await;
    acme.status("completed");
    acme.t.pass(seconds(10)).await;
    let shown = acme.cancel(&watch).await;
    assert_eq!((&shown["status"], &shown["cancelJob"]), (&json!("completed"), &json!(null)));
    acme.t.pass(minutes(1)).await;
    assert_eq!(acme.cancels(), [""; 0]);
    acme.t.finish().await;
}

#[tokio::test]
async fn cancellations_keep_the_rate_and_leave_turns_to_polls() {
    let acme = Acme::start(&[
        ("RINGBACK_PROVIDERS__ACME__RATE", "1/s"),
        ("RINGBACK_PROVIDERS__ACME__MIN_INTERVAL", "1s"),
        ("RINGBACK_PROVIDERS__ACME__MAX_INTERVAL", "1s"),
        ("RINGBACK_PROVIDERS__ACME__FIRST", "1s"),
    ])
    .await;
    for n in 0..10 {
        acme.watch(&format!("polled_{n}")).await;
    }
    acme.t.pass(seconds(5)).await;
    for n in 0..20 {
        let watch = acme.watch(&format!("job_{n}")).await;
        acme.cancel(&watch).await;
    }
    acme.t.pass(seconds(60)).await;
    let (cancelled, polled) = {
        let log = acme.log.lock().unwrap();
        (log.cancels.iter().map(|(at, _)| *at).collect::<Vec<_>>(), log.polls.clone())
    };
    assert_eq!(cancelled.len(), 20);
    let mut all = [cancelled.clone(), polled.clone()].concat();
    all.sort();
    assert!(all.windows(2).all(|pair| pair[1].since(pair[0]) >= seconds(1)), "{all:?}");
    let (first, last) = (cancelled[0], cancelled[19]);
    let between = polled.iter().filter(|at| **at > first && **at < last).count();
    assert!((19..=20).contains(&between), "{between} polls between 20 cancellations");
    acme.t.give_up().await;
}

#[tokio::test]
async fn an_erased_watch_leaves_no_cancellation_behind() {
    let acme = Acme::start(&[("RINGBACK_PROVIDERS__ACME__RATE", "1/m")]).await;
    let watch = acme.watch("job_1").await;
    acme.cancel(&watch).await;
    assert_eq!(acme.t.delete(&format!("/v1/watches/{watch}")).await.status, 204);
    acme.t.pass(minutes(5)).await;
    assert_eq!(acme.cancels(), [""; 0]);
    acme.t.finish().await;
}

#[tokio::test]
async fn a_withdrawn_permission_holds_for_pending_cancellations() {
    let mut acme = Acme::start(&[("RINGBACK_PROVIDERS__ACME__RATE", "1/m")]).await;
    let watch = acme.watch("job_1").await;
    acme.cancel(&watch).await;
    acme.t.stop().await;
    acme.t.set("RINGBACK_PROVIDERS__ACME__ALLOW_CANCEL", "false");
    acme.t.restart().await;
    acme.t.pass(minutes(5)).await;
    assert_eq!(acme.cancels(), [""; 0]);
    let [status, _, message] = acme.result(&watch).await;
    assert_eq!(status, "failed");
    assert!(message.as_str().unwrap().contains("does not allow any more"), "{message}");
    acme.t.finish().await;
}

#[tokio::test]
async fn the_cancellation_goes_only_to_the_hosts_of_the_key() {
    // The definition names a host to which the operator's address does not apply.
    let elsewhere = DEFINITION
        .replace("send_to = [\"api.acme.example\"]", "send_to = [\"api.acme.example\", \"*.ops.example\"]")
        .replace("path = \"/cancel\"", "url = \"https://a.ops.example/{job_id}\"");
    let acme = Acme::defined(&elsewhere, &[]).await;
    let watch = acme.watch("job_1").await;
    acme.cancel(&watch).await;
    acme.t.pass(minutes(20)).await;
    assert_eq!(acme.cancels(), [""; 0], "no request to the address of the polls");
    let [status, http_status, message] = acme.result(&watch).await;
    assert_eq!((status, http_status), (json!("failed"), json!(null)), "{message}");
    assert!(!message.as_str().unwrap().contains(ACME_KEY));
    acme.t.finish().await;
}

// Once: the commands use the API.
#[tokio::test]
async fn the_command_line_cancels_jobs() {
    let acme = Acme::start(&[]).await;
    let url = url(&acme.t);
    let registered =
        ask(&url, &["watch", "job_1", "--provider", "acme", "--cancel-on-expiry", "--json"]).await.expect(0);
    assert_eq!(registered.json()["cancelJob"]["status"], "on_expiry", "{registered:#?}");
    let watch = id(&registered.json());
    let stopped = ask(&url, &["stop", &watch, "--cancel-job"]).await.expect(0);
    assert!(stopped.err.contains(&format!("`ringback show {watch}` shows the result")), "{stopped:#?}");
    acme.t.rest().await;
    let shown = ask(&url, &["show", &watch]).await.expect(0);
    assert!(shown.out.contains("accepted") && shown.out.contains("cancel_finished"), "{shown:#?}");
    acme.t.provider.processing("job_2", 10);
    let other = acme.t.watch("job_2").await;
    let refused = ask(&url, &["stop", &other, "--cancel-job"]).await.expect(1);
    assert!(refused.err.contains("--cancel-job: is not possible"), "{refused:#?}");
    let file = acme.definition().display().to_string();
    let request = run(&[], &["provider", "show-request", &file, "job_1", "--cancel"]).await.expect(0);
    assert!(request.out.starts_with("POST https://api.acme.example/v1/jobs/job_1/cancel\n"), "{request:#?}");
    assert!(request.out.contains("authorization: Bearer ***"), "{request:#?}");
    let none = run(&[], &["provider", "show-request", "muvi", "job_1", "--cancel"]).await.expect(1);
    assert!(none.err.contains("has no [cancel]"), "{none:#?}");
    acme.t.give_up().await;
}

crate::postgres::on_postgres_too! {
    a_stop_cancels_the_job_and_the_timeline_says_so,
    a_cancelled_job_that_is_deleted_ends_as_cancelled,
    a_watch_that_begins_after_a_cancellation_keeps_its_grace,
    a_deleted_job_whose_cancellation_failed_keeps_its_grace,
    a_crash_before_the_request_does_not_lose_it,
    a_crash_after_the_request_sends_it_again,
    a_refused_cancellation_shows_the_providers_reason,
    a_cancellation_that_fails_is_repeated,
    a_refused_key_of_a_cancellation_stops_no_polls,
    a_job_that_another_app_watches_is_not_cancelled,
    a_cancellation_without_an_api_key_stays_pending,
    a_large_body_does_not_change_what_the_status_means,
    an_app_that_comes_later_withholds_the_cancellation,
    what_cannot_be_cancelled_is_refused_and_not_stopped,
    an_expiry_cancels_the_job_if_the_registration_wants_it,
    an_expiry_withholds_the_cancellation_of_a_shared_job,
    a_job_that_has_ended_is_not_cancelled,
    cancellations_keep_the_rate_and_leave_turns_to_polls,
    an_erased_watch_leaves_no_cancellation_behind,
    a_withdrawn_permission_holds_for_pending_cancellations,
    the_cancellation_goes_only_to_the_hosts_of_the_key,
}
