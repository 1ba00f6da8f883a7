//! Results of completed jobs, which a definition requests separately, and the time at which outputs expire.

use std::fs;

use ringback::domain::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fakes::{Reply, error};
use crate::harness::{Harness, minutes, seconds, since_start};

/// A definition of the fake provider whose results are other jobs of it.
const DEFINITION: &str = r#"
schema = 2
id = "muvi"
name = "Muvi"
docs = "https://muvi.example/docs"
[params.job_id]
pattern = "[a-z0-9_]+"
[auth]
type = "bearer"
send_to = ["api.muvi.example"]
[request]
url = "https://api.muvi.example/v1/jobs/{job_id}"
[status]
path = "$.status"
[status.map]
processing = ["processing"]
completed = ["completed"]
failed = ["failed"]
[extract]
job_id = "$.jobId"
output = "$.output"
completed_at = { path = "$.completedAt", format = "rfc3339" }
outputs_expire = "24h"
[[result]]
RESULT
auth = true
[[result.rule]]
http = [422]
status = "failed"
extract = { error_code = "$.reason" }
[result.extract]
outputs = { each = "$.files[*]", url = "$.url" }
[limits]
rate = "off"
[[example]]
job_id = "job_1"
body = '{"jobId": "job_1", "status": "processing"}'
expect = { answer = "seen", status = "processing", raw_status = "processing" }
[[example]]
job_id = "job_1"
body = '{"jobId": "job_1", "status": "failed"}'
expect = { answer = "seen", status = "failed", raw_status = "failed" }
[[example]]
job_id = "job_1"
body = '{"jobId": "job_1", "status": "completed", "resultUrl": "https://api.muvi.example/r"}'
results = [{ body = '{"files": [{"url": "https://cdn.muvi.example/1"}]}' }]
[example.expect]
answer = "seen"
status = "completed"
raw_status = "completed"
output = "https://cdn.muvi.example/1"
outputs = [{ url = "https://cdn.muvi.example/1" }]
outputs_expire = "24h"
"#;

/// The result is at an address of the definition.
const AT_TEMPLATE: &str = r#"url = "https://api.muvi.example/v1/jobs/result_{job_id}""#;

/// The result is at the URL in the answer to the poll.
const AT_PATH: &str = r#"path = "$.resultUrl"
hosts = ["api.muvi.example"]"#;

async fn harness(place: &str, settings: &[(&str, &str)]) -> (Harness, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("muvi.toml"), DEFINITION.replace("RESULT", place)).unwrap();
    let path = folder.path().display().to_string();
    let mut settings = settings.to_vec();
    settings.push(("RINGBACK_PROVIDERS__PATH", &path));
    (Harness::with(&settings).await, folder)
}

/// Returns the definition with a result that has the details of a failure.
fn definition_with_details() -> String {
    let when = format!("when = [\"failed\"]\n{AT_TEMPLATE}");
    let text = DEFINITION.replace("RESULT", &when);
    let (body, _) = text.split_once("[[example]]").unwrap();
    let example = |status: &str, more: &str| {
        format!(
            "[[example]]\njob_id = \"job_1\"\nbody = '{{\"jobId\": \"job_1\", \"status\": \"{status}\"}}'\n\
             expect = {{ answer = \"seen\", status = \"{status}\", raw_status = \"{status}\"{more} }}\n"
        )
    };
    let failed = "results = [{ http = 422, body = '{\"reason\": \"moderated\"}' }]\nexpect";
    let failed = example("failed", ", error_code = \"moderated\"").replace("expect", failed);
    [body.to_owned(), example("processing", ""), example("completed", ""), failed].concat()
}

#[tokio::test]
async fn the_details_of_a_failure_are_in_its_ending() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("muvi.toml"), definition_with_details()).unwrap();
    let path = folder.path().display().to_string();
    let t = Harness::with(&[("RINGBACK_PROVIDERS__PATH", &path)]).await;
    t.provider.job("job_1", &json!({ "status": "failed" }));
    t.provider.always("result_job_1", Reply::json(422, &json!({ "reason": "moderated" })));
    t.watch("job_1").await;
    t.pass(seconds(6)).await;
    let (kind, data) = event(&t).await;
    assert_eq!((kind.as_str(), &data["error"]["code"]), ("job.failed", &json!("moderated")), "{data}");
    // Without the details, the job has failed all the same, and soon.
    t.provider.job("job_2", &json!({ "status": "failed" }));
    t.provider.always("result_job_2", error(503, "OVERLOADED", "Try again"));
    let watch = t.watch("job_2").await;
    t.pass(seconds(20)).await;
    let last_error = t.shown(&watch).await["job"]["lastError"].as_str().unwrap().to_owned();
    assert!(last_error.starts_with("the job failed; its result: HTTP 503"), "{last_error}");
    t.pass(seconds(40)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(
        (kind.as_str(), &data["error"]["code"]),
        ("job.failed", &json!("result_unavailable")),
        "{data}"
    );
    let message = data["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("the job failed; its details could not be requested: HTTP 503"), "{message}");
    assert_eq!(t.provider.polls("result_job_2").len(), 4);
    t.finish().await;
}

#[tokio::test]
async fn a_result_that_follows_from_another_never_fails_its_job() {
    let chained = "[[result]]\nfrom = \"result\"\nurl = \"https://api.muvi.example/v1/jobs/file_{file}\"\n\
                   values = { file = \"$.file\" }\nauth = true\nextract = { output = \"$.link\" }\n[limits]";
    let folder = tempfile::tempdir().unwrap();
    let text = DEFINITION.replace("RESULT", AT_TEMPLATE).replace("[limits]", chained);
    fs::write(folder.path().join("muvi.toml"), text).unwrap();
    let path = folder.path().display().to_string();
    let t = Harness::with(&[("RINGBACK_PROVIDERS__PATH", &path)]).await;
    t.provider.job("job_1", &json!({ "status": "completed" }));
    t.provider.always("result_job_1", Reply::json(200, &json!({ "file": "7" })));
    t.provider.always("file_7", Reply::json(200, &json!({ "link": "https://cdn.muvi.example/7" })));
    t.watch("job_1").await;
    t.pass(seconds(6)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(
        (kind.as_str(), &data["output"]),
        ("job.completed", &json!("https://cdn.muvi.example/7")),
        "{data}"
    );
    t.provider.job("job_2", &json!({ "status": "completed", "output": "https://cdn.muvi.example/own" }));
    t.provider.always("result_job_2", Reply::json(200, &json!({ "file": "8" })));
    t.provider.always("file_8", error(403, "EXPIRED", "The link has expired."));
    t.watch("job_2").await;
    t.pass(seconds(10)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(
        (kind.as_str(), &data["error"]["code"]),
        ("job.completed", &json!("result_unavailable")),
        "{data}"
    );
    assert_eq!(data["output"], "https://cdn.muvi.example/own");
    assert_eq!(t.provider.polls("result_job_2").len(), 1, "only the failed request is made again");
    t.finish().await;
}

#[tokio::test]
async fn an_output_that_is_cut_says_so_in_event_and_timeline() {
    let (t, _folder) = harness(AT_PATH, &[]).await;
    t.provider.job("job_1", &json!({ "status": "completed", "output": "x".repeat(70_000) }));
    let watch = t.watch("job_1").await;
    t.pass(seconds(6)).await;
    let (kind, data) = event(&t).await;
    assert_eq!((kind.as_str(), &data["error"]["code"]), ("job.completed", &json!("output_truncated")));
    assert_eq!(data["output"].as_str().unwrap().len(), 64 * 1024);
    assert_eq!(t.shown(&watch).await["job"]["error"], data["error"]);
    let timeline = t.get(&format!("/v1/watches/{watch}/timeline")).await.expect(200).to_string();
    assert!(timeline.contains(r#""errorCode":"output_truncated""#), "{timeline}");
    t.finish().await;
}

/// Returns a result with one file.
fn files() -> Value {
    json!({ "files": [{ "url": "https://cdn.muvi.example/1" }] })
}

/// Returns the data of the next event, and its type.
async fn event(t: &Harness) -> (String, Value) {
    let body = t.receiver.next().await.json();
    (body["type"].as_str().unwrap().to_owned(), body["data"].clone())
}

#[tokio::test]
async fn the_result_of_a_completed_job_is_in_its_ending() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", Reply::json(200, &files()));
    let watch = t.watch("job_1").await;
    t.pass(seconds(6)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(kind, "job.completed");
    assert_eq!(data["outputs"][0]["url"], "https://cdn.muvi.example/1", "{data}");
    assert_eq!(
        (&data["error"], &data["outputExpiresAt"]),
        (&json!(null), &json!("2026-02-19T15:02:30.000Z"))
    );
    let shown = t.shown(&watch).await;
    assert_eq!(shown["job"]["outputExpiresAt"], "2026-02-19T15:02:30.000Z", "{shown}");
    // The minimum interval does not delay the result.
    assert_eq!(since_start(&t.provider.polls("job_1")), [5]);
    assert_eq!(since_start(&t.provider.polls("result_job_1")), [5]);
    t.finish().await;
}

#[tokio::test]
async fn a_result_that_fails_never_fails_its_job() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", error(503, "OVERLOADED", "Try again"));
    let watch = t.watch("job_1").await;
    t.pass(seconds(20)).await;
    let shown = t.shown(&watch).await;
    let last_error = shown["job"]["lastError"].as_str().unwrap();
    assert!(last_error.starts_with("the job completed; its result: HTTP 503"), "{last_error}");
    t.pass(minutes(10)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(
        (kind.as_str(), &data["error"]["code"]),
        ("job.completed", &json!("result_unavailable")),
        "{data}"
    );
    let message = data["error"]["message"].as_str().unwrap();
    assert!(message.contains("its result could not be requested: HTTP 503"), "{message}");
    assert_eq!(data["output"], "https://cdn.muvi.video/outputs/job_1/output_0.mp4", "{data}");
    assert_eq!(since_start(&t.provider.polls("result_job_1")), [5, 7, 17, 47, 167, 467]);
    assert_eq!(t.provider.polls("job_1").len(), 1);
    let list = t.get("/v1/providers").await.expect(200);
    assert_eq!(list["data"][0]["health"]["status"], "ok", "{list}");
    t.finish().await;
}

#[tokio::test]
async fn a_result_is_read_as_soon_as_it_is_there() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", Reply::json(200, &files()));
    let late = error(503, "OVERLOADED", "Try again").with("retry-after", "60");
    t.provider.script("result_job_1", [late, Reply::new(200, "not JSON")]);
    t.watch("job_1").await;
    t.pass(minutes(3)).await;
    let (_, data) = event(&t).await;
    assert_eq!(data["outputs"][0]["url"], "https://cdn.muvi.example/1", "{data}");
    assert_eq!(data["error"], json!(null));
    assert_eq!(since_start(&t.provider.polls("result_job_1")), [5, 65, 75]);
    t.finish().await;
}

#[tokio::test]
async fn a_result_can_say_that_the_job_has_failed() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", Reply::json(422, &json!({ "reason": "moderated" })));
    t.watch("job_1").await;
    t.pass(seconds(6)).await;
    let (kind, data) = event(&t).await;
    assert_eq!((kind.as_str(), &data["error"]["code"]), ("job.failed", &json!("moderated")), "{data}");
    t.finish().await;
}

#[tokio::test]
async fn a_crash_while_a_result_is_pending_loses_nothing() {
    let (mut t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", error(503, "OVERLOADED", "Try again"));
    t.watch("job_1").await;
    t.pass(seconds(30)).await;
    t.crash().await;
    t.provider.always("result_job_1", Reply::json(200, &files()));
    t.restart().await;
    t.pass(seconds(10)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(kind, "job.completed");
    assert_eq!(data["outputs"][0]["url"], "https://cdn.muvi.example/1", "{data}");
    assert_eq!(t.provider.polls("job_1").len(), 2);
    t.finish().await;
}

#[tokio::test]
async fn no_watch_expires_while_a_result_is_pending() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", error(503, "OVERLOADED", "Try again"));
    let body = json!({ "jobId": "job_1", "expiresIn": "60s", "callbackUrl": t.receiver.url("/hook") });
    t.register(&body).await;
    t.pass(seconds(150)).await;
    t.provider.always("result_job_1", Reply::json(200, &files()));
    t.pass(seconds(30)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(kind, "job.completed");
    assert_eq!(data["outputs"][0]["url"], "https://cdn.muvi.example/1", "{data}");
    t.finish().await;
}

#[tokio::test]
async fn a_job_ends_without_its_result_after_ten_minutes() {
    // One request in twenty minutes.
    let (t, _folder) = harness(AT_TEMPLATE, &[("RINGBACK_PROVIDERS__MUVI__RATE", "3/h")]).await;
    t.provider.completed("job_1");
    t.watch("job_1").await;
    t.pass(minutes(29)).await;
    assert_eq!(since_start(&t.provider.polls("job_1")), [1200]);
    t.pass(minutes(2)).await;
    let (kind, data) = event(&t).await;
    assert_eq!(
        (kind.as_str(), &data["error"]["code"]),
        ("job.completed", &json!("result_unavailable")),
        "{data}"
    );
    assert!(data["error"]["message"].as_str().unwrap().contains("the limits of the provider"), "{data}");
    assert_eq!(t.provider.polls("result_job_1"), [] as [Timestamp; 0]);
    t.finish().await;
}

#[tokio::test]
async fn a_stopped_watch_requests_no_result() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", error(503, "OVERLOADED", "Try again"));
    let watch = t.watch("job_1").await;
    t.pass(seconds(20)).await;
    t.stop_watch(&watch).await.expect(200);
    t.pass(minutes(15)).await;
    assert_eq!(since_start(&t.provider.polls("result_job_1")), [5, 7, 17]);
    t.finish().await;
}

#[tokio::test]
async fn a_url_that_an_answer_names_is_followed_within_limits() {
    let (t, _folder) = harness(AT_PATH, &[]).await;
    let completed = |job: &str, url: &str| {
        t.provider.job(job, &json!({ "status": "completed", "resultUrl": url }));
    };
    // The operator's own address is trusted, like the address of the polls.
    completed("job_1", &format!("{}/v1/jobs/result_job_1", t.provider.url()));
    t.provider.always("result_job_1", Reply::json(200, &files()));
    t.watch("job_1").await;
    t.pass(seconds(6)).await;
    assert_eq!(event(&t).await.1["outputs"][0]["url"], "https://cdn.muvi.example/1");
    // A name can lead to a private address.
    t.resolve("api.muvi.example", &["10.0.0.1"]);
    for (job, url, why) in [
        ("job_2", "https://evil.example/r", "has the host evil.example, which the definition does not list"),
        ("job_3", "http://api.muvi.example/r", "is not an https URL"),
        ("job_4", "https://me@api.muvi.example/r", "contains a user name"),
        ("job_5", "/v1/jobs/result_job_5", "is not an absolute URL"),
        ("job_6", "https://10.0.0.1/r", "is not an https URL with a host name"),
        ("job_7", "https://api.muvi.example/r", "refused: "),
    ] {
        completed(job, url);
        t.watch(job).await;
        t.pass(seconds(10)).await;
        let (kind, data) = event(&t).await;
        assert_eq!((kind.as_str(), &data["error"]["code"]), ("job.completed", &json!("result_unavailable")));
        let message = data["error"]["message"].as_str().unwrap();
        assert!(message.contains(why), "{url}: {message}");
    }
    // Without a URL, there is nothing to read.
    completed("job_8", "");
    t.watch("job_8").await;
    t.pass(seconds(6)).await;
    assert_eq!(event(&t).await.1["error"], json!(null));
    t.finish().await;
}

#[tokio::test]
async fn a_requested_poll_of_an_ended_job_reads_the_result_again() {
    let (t, _folder) = harness(AT_TEMPLATE, &[]).await;
    t.provider.completed("job_1");
    t.provider.always("result_job_1", Reply::json(200, &files()));
    let watch = t.watch("job_1").await;
    t.pass(seconds(6)).await;
    event(&t).await;
    let url = |n: u32| json!({ "files": [{ "url": format!("https://cdn.muvi.example/{n}") }] });
    t.provider.always("result_job_1", Reply::json(200, &url(2)));
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(seconds(5)).await;
    assert_eq!(t.shown(&watch).await["job"]["outputs"][0]["url"], "https://cdn.muvi.example/2");
    // A result that cannot be read leaves the ending as it is.
    t.provider.always("result_job_1", Reply::status(403));
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(seconds(5)).await;
    let shown = t.shown(&watch).await;
    assert_eq!(shown["job"]["outputs"][0]["url"], "https://cdn.muvi.example/2", "{shown}");
    assert_eq!(shown["job"]["error"], json!(null), "{shown}");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    the_details_of_a_failure_are_in_its_ending,
    a_result_that_follows_from_another_never_fails_its_job,
    an_output_that_is_cut_says_so_in_event_and_timeline,
    the_result_of_a_completed_job_is_in_its_ending,
    a_result_that_fails_never_fails_its_job,
    a_result_is_read_as_soon_as_it_is_there,
    a_result_can_say_that_the_job_has_failed,
    a_crash_while_a_result_is_pending_loses_nothing,
    no_watch_expires_while_a_result_is_pending,
    a_job_ends_without_its_result_after_ten_minutes,
    a_stopped_watch_requests_no_result,
    a_url_that_an_answer_names_is_followed_within_limits,
    a_requested_poll_of_an_ended_job_reads_the_result_again,
}
