//! Guarantees of the definitions and of their language.

mod any_api;
mod authorizing;
mod cancelling;
mod chained;
mod hostile;
mod parts;
mod results;
mod schema_2;
mod slips;
mod text_bodies;

use std::fs;

use serde_json::{Map, Value, json};

use super::definition::BodyKind;
use super::json::Dialect;
use super::*;
use crate::domain::{JobStatus, Limits, PollOutcome, PollPolicy, Rate, Timestamp};

fn embedded() -> Providers {
    load_providers(None).valid
}

/// Returns a credential that is a key.
pub(super) fn key(key: &str) -> Credential<'_> {
    Credential { key, token: None, now: Timestamp::from_millis(0) }
}

fn muvi(status: u16, body: &str) -> Interpretation {
    embedded().get("muvi").unwrap().interpret("job_1", answer(status, body.as_bytes()))
}

fn answer(status: u16, body: &[u8]) -> Answer<'_> {
    Answer { status, headers: &[], body }
}

fn report(meaning: Interpretation) -> JobReport {
    let Interpretation::Ok(report) = meaning else { panic!("{meaning:?}") };
    *report
}

/// Returns a minimal definition after the replacements (from, to).
fn small(replace: &[(&str, &str)]) -> String {
    let text = r#"
schema = 1
id = "small"
name = "Small"
docs = "https://small.example/docs"
[params.job_id]
pattern = "[a-z0-9.]+"
[params.region]
default = "eu"
enum = ["eu", "us"]
[params.team]
pattern = "[a-z]+"
[auth]
type = "header"
header = "X-Key"
prefix = "Key "
send_to = ["small.example"]
[request]
url = "https://small.example/{region}/jobs/{job_id}"
query = { team = "{team}", full = "a b&c" }
headers = { "X-Version" = "2026-01-01" }
[status]
path = ["$.status", "$.state"]
[status.map]
processing = ["Run"]
completed = ["ok"]
failed = ["bad"]
[extract]
job_id = "$.id"
progress = { path = "$.done", unit = "fraction" }
created_at = { path = "$.at", format = "epoch_ms" }
[[example]]
job_id = "1"
body = '{"id": 1, "state": "Run"}'
expect = { answer = "seen", status = "processing", raw_status = "Run" }
[[example]]
job_id = "1"
body = '{"id": "1", "status": null, "state": "ok", "done": 0.29}'
expect = { answer = "seen", status = "completed", raw_status = "ok", progress = 29 }
[[example]]
job_id = "1"
body = '{"id": "1", "status": "bad"}'
expect = { answer = "seen", status = "failed", raw_status = "bad" }
"#;
    replace.iter().fold(text.to_owned(), |text, (what, by)| {
        assert!(text.contains(what), "{what}");
        text.replacen(what, by, 1)
    })
}

#[test]
fn a_field_that_decides_and_has_two_values_is_an_error_that_names_it() {
    let wrong = |body: &str| match muvi(200, body) {
        Interpretation::Failed { failure: PollFailure::Error, message } => message,
        other @ (Interpretation::Ok(_) | Interpretation::NotYet | Interpretation::Failed { .. }) => {
            panic!("{other:?}")
        }
    };
    let message = wrong(r#"{"jobId": "job_1", "status": "completed", "status": "processing"}"#);
    assert!(message.starts_with("HTTP 200, but its field `status` occurs twice"), "{message}");
    let message = wrong(
        r#"{"jobId": "job_1", "note": 1, "note": 2, "status": "processing", "progress": 1, "progress": 2}"#,
    );
    assert!(message.contains("`progress`"), "{message}");
    let message = wrong(
        r#"{"data": {"jobId": "job_2", "status": "failed"}, "jobId": "job_1", "status": "processing",
        "data": {"jobId": "job_1", "status": "completed"}}"#,
    );
    assert!(message.contains("`data`"), "{message}");
    let many: Vec<String> = (0..9).map(|n| format!(r#""x{n}": 1, "x{n}": 2, "#)).collect();
    let many = many.concat();
    assert!(wrong(&format!(r#"{{{many}"jobId": "job_1", "status": "processing"}}"#)).contains("more than 8"));
    // The same value twice, and a field that nothing reads.
    let seen = report(muvi(
        200,
        r#"{"jobId": "job_1", "jobId": "job_1", "status": "processing", "note": {"a": 1}, "note": {"a": 2}}"#,
    ));
    assert_eq!(seen.observation.status, JobStatus::Processing);
}

#[test]
fn every_embedded_definition_passes_its_examples() {
    let providers = embedded();
    let ids: Vec<&str> = providers.keys().map(String::as_str).collect();
    for id in ["muvi", "openai-batch", "replicate"] {
        assert!(ids.contains(&id), "{id}: {ids:?}");
    }
    assert_eq!(load_providers(None).errors, [""; 0]);
    assert!(providers.values().all(|definition| definition.examples() >= 3));
}

/// Returns whether an answer ends the job.
fn ends(meaning: &Interpretation) -> bool {
    matches!(meaning, Interpretation::Ok(report) if report.observation.status.ending().is_some())
}

#[test]
fn no_response_causes_a_panic_and_garbage_is_an_error() {
    let deep = "[".repeat(200_000);
    let deep_object = r#"{"a":"#.repeat(50_000);
    let large = format!(r#"{{"jobId": "job_1", "x": "{}"}}"#, "y".repeat(1 << 20));
    let bodies: Vec<&[u8]> = vec![
        b"",
        b" \r\n\t",
        b"null",
        b"true",
        b"0",
        b"\"completed\"",
        b"[]",
        b"[{\"jobId\": \"job_1\", \"status\": \"completed\"}]",
        b"{}",
        b"<!doctype html><title>502 Bad Gateway</title>",
        br#"{"jobId": "job_1", "status": "comple"#,
        br#"{"jobId": "job_1", "status": "completed"} trailing"#,
        b"{\"jobId\": \"job_1\", \"status\": \"\xff\xfe\"}",
        b"\xef\xbb\xbf{}",
        b"\0\0\0\0",
        br#"{"data": {}}"#,
        br#"{"success": true, "data": null}"#,
        br#"{"success": true, "data": "completed"}"#,
        br#"{"jobId": "job_1"}"#,
        br#"{"jobId": "job_1", "status": null}"#,
        br#"{"jobId": "job_1", "status": 5}"#,
        br#"{"jobId": "job_1", "status": ""}"#,
        br#"{"jobId": "job_1", "status": ["completed"]}"#,
        br#"{"jobId": "job_1", "status": {"is": "completed"}}"#,
        br#"{"jobId": null, "status": "completed"}"#,
        br#"{"jobId": "JOB_1", "status": "completed"}"#,
        br#"{"jobId": {}, "status": "completed"}"#,
        br#"{"status": "completed"}"#,
        deep.as_bytes(),
        deep_object.as_bytes(),
        large.as_bytes(),
    ];
    for (number, definition) in embedded().values().enumerate() {
        // The large bodies test the parser, which all definitions share.
        for body in bodies.iter().filter(|body| body.len() < 1_000 || number % 9 == 0) {
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            // Rules may read any text, and an HTTP status may be the status. What must name its job never ends by garbage.
            if definition.meaning.dialect == Dialect::Tolerant {
                let meanings =
                    [200, 202, 404, 500].map(|status| definition.interpret("job_1", answer(status, body)));
                let is_safe =
                    |meaning: Interpretation| definition.meaning.extract.job_id.is_none() || !ends(&meaning);
                assert!(meanings.into_iter().all(is_safe), "{}: {shown}", definition.id);
                continue;
            }
            for status in [0, 100, 200, 202, 204, 299, 302, 400, 403, 404, 418, 500, 503, 599, 65_535] {
                let meaning = definition.interpret("job_1", answer(status, body));
                assert_eq!(meaning.outcome(), PollOutcome::Error, "{status} {shown}: {meaning:?}");
            }
            let account = definition.interpret("job_1", answer(401, body));
            assert_eq!(account.outcome(), PollOutcome::Unauthorized, "{shown}: {account:?}");
            let limited = definition.interpret("job_1", answer(429, body));
            assert_eq!(limited.outcome(), PollOutcome::RateLimited, "{shown}: {limited:?}");
        }
    }
}

#[test]
fn every_truncated_response_is_an_error_without_a_panic() {
    for definition in embedded().values() {
        for example in &definition.examples {
            for end in 0..example.body.len() {
                let cut = &example.body.as_bytes()[..end];
                let meaning = definition.interpret(&example.job_id, answer(200, cut));
                let whole = example.body.get(end..).is_some_and(|rest| rest.trim().is_empty());
                // An empty body can be meant where the HTTP status is the status.
                let is_read = match definition.meaning.body {
                    BodyKind::Json | BodyKind::Text | BodyKind::WholeText => true,
                    BodyKind::JsonOrEmpty => end > 0,
                    BodyKind::None => false,
                };
                let is_safe = match definition.meaning.dialect {
                    Dialect::Strict => meaning.outcome() == PollOutcome::Error,
                    Dialect::Tolerant => !is_read || !ends(&meaning),
                };
                assert!(whole || is_safe, "{}: {meaning:?}", definition.id);
            }
        }
    }
}

#[test]
fn a_key_of_two_words_is_refused_without_repeating_it() {
    let definition = embedded().get("muvi").unwrap().clone();
    assert_eq!(definition.check_credential("hush-1"), Ok(()));
    for (key, error) in [
        ("Bearer hush", "the key begins with `Bearer`, which is added to it; remove it"),
        ("bearer hush", "the key begins with `Bearer`, which is added to it; remove it"),
        ("hush hush", "the key contains a space; remove it"),
    ] {
        assert_eq!(definition.check_credential(key), Err(error.to_owned()));
    }
}

#[test]
fn an_answer_with_a_mark_or_in_utf16_is_read() {
    let body = r#"{"jobId": "job_1", "status": "completed"}"#;
    let marked = format!("\u{feff}{body}");
    let utf16: Vec<u8> = marked.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let definition = embedded().get("muvi").unwrap().clone();
    for bytes in [marked.as_bytes(), &utf16] {
        let seen = report(definition.interpret("job_1", answer(200, bytes))).observation;
        assert_eq!(seen.status, JobStatus::Completed);
    }
}

#[test]
fn a_definition_of_a_windows_editor_is_read_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("own.toml");
    let text = small(&[]).replace('\n', "\r\n");
    fs::write(&file, format!("\u{feff}{text}")).unwrap();
    Definition::check(&file).unwrap();
    fs::write(&file, text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let errors = Definition::check(&file).unwrap_err();
    assert_eq!(errors, [format!("{}: the file is UTF-16; save or send it as UTF-8", file.display())]);
}

#[test]
fn an_unpaired_surrogate_hides_no_ending() {
    let said = |error: &str| {
        let body = format!(r#"{{"jobId": "job_1", "status": "failed", "error": {{"message": "{error}"}}}}"#);
        report(muvi(200, &body)).observation.error.and_then(|error| error.message)
    };
    for (written, read) in [
        (r"cut \ud83d", "cut \u{fffd}"),
        (r"\ude00\ud83d\ud83d\ude00", "\u{fffd}\u{fffd}😀"),
        (r"\\ud83d \uD83D\t", "\\ud83d \u{fffd}\t"),
    ] {
        assert_eq!(said(written).as_deref(), Some(read), "{written}");
    }
    for broken in [r"\ud83d\q", r"\ud83d\u12"] {
        let body = format!(r#"{{"jobId": "job_1", "status": "failed", "error": "{broken}"}}"#);
        assert_eq!(muvi(200, &body).outcome(), PollOutcome::Error, "{broken}");
    }
}

#[test]
fn a_field_of_the_wrong_type_is_null_and_affects_no_other() {
    let body = json!({
        "jobId": "job_1", "status": "Completed", "progress": "much", "output": {"url": "x"}, "error": "text",
        "outputs": [{"url": 5, "type": "video"}, null, 7, [], {}, {"url": "https://cdn.example/1.mp4", "type": {}}],
        "createdAt": 12, "completedAt": "yesterday",
    });
    let found = report(muvi(200, &body.to_string()));
    let job = found.observation;
    assert_eq!((job.status, job.raw_status.as_deref()), (JobStatus::Completed, Some("Completed")));
    assert_eq!((job.progress, job.error, job.created_at, job.completed_at), (None, None, None, None));
    let outputs = job.outputs.unwrap();
    assert_eq!(outputs.len(), 2);
    assert_eq!((outputs[0].url.as_deref(), outputs[0].kind.as_deref()), (None, Some("video")));
    assert_eq!(
        (outputs[1].url.as_deref(), outputs[1].kind.as_deref()),
        (Some("https://cdn.example/1.mp4"), None)
    );
    assert_eq!(job.output.as_deref(), Some("https://cdn.example/1.mp4"), "the first output's URL stands in");

    let deep = ["[".repeat(200), "]".repeat(200)].concat();
    for (field, value) in [("progress", "1e400"), ("output", "-1e999"), ("output", &deep), ("extra", &deep)] {
        let body = format!(r#"{{"jobId": "job_1", "{field}": {value}, "status": "completed"}}"#);
        let job = report(muvi(200, &body)).observation;
        assert_eq!((job.status, job.progress, job.output), (JobStatus::Completed, None, None), "{field}");
    }

    for outputs in ["null", "5", "{}", "\"x\"", "[null]", "[[[]]]"] {
        let body = format!(r#"{{"jobId": "job_1", "status": "completed", "outputs": {outputs}}}"#);
        assert_eq!(report(muvi(200, &body)).observation.outputs, None, "{outputs}");
    }
}

#[test]
fn progress_is_between_0_and_100_or_null() {
    let table = [
        ("-5", None),
        ("-0.1", None),
        ("-0.0", Some(0)),
        ("0", Some(0)),
        ("49.9", Some(49)),
        ("100", Some(100)),
        ("100.9", Some(100)),
        ("101", None),
        ("1e300", None),
        ("1e400", None),
        ("-1e400", None),
        ("99.99", Some(99)),
    ];
    for (given, shown) in table {
        let body = format!(r#"{{"jobId": "job_1", "status": "processing", "progress": {given}}}"#);
        assert_eq!(report(muvi(200, &body)).observation.progress, shown, "{given}");
    }
}

#[test]
fn a_future_time_is_shown_and_an_unrepresentable_one_is_null() {
    let body = r#"{"jobId": "job_1", "status": "pending", "createdAt": "2999-01-01T00:00:00+01:00",
                   "completedAt": "0000-01-01T00:00:00Z"}"#;
    let job = report(muvi(200, body)).observation;
    assert_eq!(job.created_at.unwrap().to_string(), "2998-12-31T23:00:00.000Z");
    assert_eq!(job.completed_at, None);
    let openai = embedded();
    for given in ["-1", "1e30", "99999999999999", "\"soon\"", "true"] {
        let body = format!(r#"{{"id": "batch_1", "status": "completed", "created_at": {given}}}"#);
        let meaning = openai.get("openai-batch").unwrap().interpret("batch_1", answer(200, body.as_bytes()));
        assert_eq!(report(meaning).observation.created_at, None, "{given}");
    }
}

#[test]
fn the_kept_part_of_a_response_is_bounded_and_storable() {
    let many = json!({
        "jobId": "job_1", "status": "s".repeat(5_000), "output": "a\0b", "requestId": "r\n".repeat(500),
        "outputs": vec![json!({"url": "https://cdn.example/1"}); 5_000],
    });
    let found = report(muvi(200, &many.to_string()));
    assert!(found.unknown_status);
    assert_eq!(found.observation.status, JobStatus::Processing);
    assert_eq!(found.observation.raw_status.unwrap().chars().count(), 201);
    assert_eq!(found.observation.output.as_deref(), Some("a\u{FFFD}b"));
    assert_eq!(found.observation.outputs.unwrap().len(), 1_000);
    assert!(!found.request_id.unwrap().contains('\n'));
    // All texts are stored with each event of each watch.
    let long = "x".repeat(40 * 1024);
    let url = |n: usize| json!({ "url": format!("https://cdn.example/{n}/{long}") });
    let large = json!({
        "jobId": "job_1", "status": "failed", "output": long.repeat(2), "outputs": [url(1), url(2), { "url": "https://cdn.example/3" }],
        "error": { "code": long, "message": long.repeat(2) },
    });
    let found = report(muvi(200, &large.to_string()));
    let outputs = found.observation.outputs.unwrap();
    let output = found.observation.output.unwrap();
    assert_eq!((outputs.len(), output.len(), output.ends_with("x…")), (2, 64 * 1024, true));
    assert_eq!(outputs[1].url.as_deref(), Some("https://cdn.example/3"), "a later one that fits");
    let error = found.observation.error.unwrap();
    assert_eq!(error.code.unwrap().chars().count(), 201);
    let message = error.message.unwrap();
    assert_eq!(message.len(), 64 * 1024);
    let lost = "x…; the output is longer than 64 KiB, and only its beginning is passed on; the job has more than 1000 \
                outputs, or outputs with more than 64 KiB of text, and some are not passed on";
    assert!(message.ends_with(lost), "{}", &message[64 * 1024 - 300..]);
    let sentence = json!({"success": false, "error": {"code": "X", "message": "y\n".repeat(9_000)}});
    let Interpretation::Failed { failure: PollFailure::Error, message } = muvi(500, &sentence.to_string())
    else {
        panic!("an error")
    };
    assert!(message.len() < 600 && !message.contains('\n'), "{message}");
}

#[test]
fn an_error_code_of_a_job_is_not_an_account_code() {
    let body = r#"{"jobId": "job_1", "status": "failed", "error": {"code": "USER_BANNED", "message": "x"}}"#;
    assert_eq!(report(muvi(200, body)).observation.status, JobStatus::Failed);
}

#[test]
fn a_job_id_never_leaves_its_segment() {
    let providers = embedded();
    let muvi = providers.get("muvi").unwrap();
    let long = "x".repeat(300);
    for id in [
        "", ".", "..", "../keys", "a/b", "a\\b", "%2e%2e", "..%2f", "a?b", "a#b", "a b", "a\n", "\0", "é",
        "job_1;x", "@host", &long,
    ] {
        assert!(muvi.check_job_id(id).is_err(), "{id:?}");
        assert!(muvi.request(id, "{}", None, Some(key("key"))).is_err(), "{id:?}");
    }
    let request = muvi.request("job_abc123def456", "{}", None, Some(key("key"))).unwrap();
    assert_eq!(request.url.as_str(), "https://api.muvi.video/v1/jobs/job_abc123def456");

    // Not even with a pattern that allows everything.
    let open = Definition::parse(&small(&[("[a-z0-9.]+", "(?s).*")])).unwrap();
    let params = r#"{"region": "eu", "team": "a"}"#;
    assert!(open.request("..", params, None, Some(key("key"))).is_err());
    let request = open.request("../x?y#z", params, None, Some(key("key"))).unwrap();
    assert_eq!(request.url.path(), "/eu/jobs/..%2Fx%3Fy%23z");
}

#[test]
fn the_credential_is_sent_to_listed_hosts_and_the_base_url_only() {
    let definition = Definition::parse(&small(&[])).unwrap();
    let params = definition.params(&Map::from_iter([("team".to_owned(), json!("blue"))])).unwrap();
    assert_eq!(params, r#"{"region":"eu","team":"blue"}"#);
    let request = definition.request("1.2", &params, None, Some(key("s3cret"))).unwrap();
    assert_eq!(request.url.as_str(), "https://small.example/eu/jobs/1.2?full=a%20b%26c&team=blue");
    assert!(request.headers.contains(&("x-key".to_owned(), "Key s3cret".to_owned())));
    assert!(request.headers.contains(&("x-version".to_owned(), "2026-01-01".to_owned())));
    let shown = format!("{request:?}");
    assert!(!shown.contains("s3cret") && !shown.contains("blue"), "{shown}");

    let base = definition.check_base_url("http://127.0.0.1:9000/upstream/").unwrap();
    let request = definition.request("1", &params, Some(&base), Some(key("s3cret"))).unwrap();
    assert!(request.url.as_str().starts_with("http://127.0.0.1:9000/upstream/eu/jobs/1?"));
    assert!(request.headers.iter().any(|(_, value)| value == "Key s3cret"));

    for send_to in [r#"["other.example"]"#, r#"["small.example:8443"]"#, r#"["evil.small.example"]"#, "[]"] {
        let text = small(&[(r#"["small.example"]"#, send_to)]);
        assert!(Definition::parse(&text).is_err(), "{send_to}");
    }
    for credential in [None, Some(""), Some("a b"), Some("a\r\nx: y"), Some("schlüssel")] {
        let refused = definition.request("1", &params, None, credential.map(key)).unwrap_err();
        assert!(!refused.contains("schl") && refused.contains("Small"), "{refused}");
    }
}

#[test]
fn a_base_url_is_only_an_address() {
    let providers = embedded();
    let muvi = providers.get("muvi").unwrap();
    let long = format!("https://a.example/{}", "x".repeat(2_048));
    for base in [
        "",
        "localhost:8080",
        "ftp://a.example",
        "https://",
        "https://me:pw@a.example",
        "https://a.example?x=1",
        "https://a.example#x",
        "http://a.example:0",
        &long,
    ] {
        assert!(muvi.check_base_url(base).is_err(), "{base}");
    }
    for base in ["http://127.0.0.1:1", "https://[::1]:8443/x", "http://mock"] {
        let base = muvi.check_base_url(base).unwrap();
        assert!(muvi.request("job_1", "{}", Some(&base), Some(key("key"))).is_ok(), "{base}");
    }
}

#[test]
fn every_invalid_parameter_is_listed_at_once() {
    let definition = Definition::parse(&small(&[])).unwrap();
    let given = json!({"region": "mars", "colour": "red", "team": 5});
    let errors = definition.params(given.as_object().unwrap()).unwrap_err();
    let names: Vec<&str> = errors.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["colour", "region", "team"]);
    let missing = definition.params(&Map::new()).unwrap_err();
    assert_eq!(missing, [("team".to_owned(), ParamError::Missing("is required by Small".to_owned()))]);
    let null = json!({"region": null, "team": null});
    assert_eq!(definition.params(null.as_object().unwrap()).unwrap_err(), missing, "null is absent");
    let muvi = embedded().get("muvi").unwrap().params(&Map::<String, Value>::new());
    assert_eq!(muvi.as_deref(), Ok("{}"));
}

#[test]
fn every_optional_key_of_a_definition_has_a_default() {
    let definition = Definition::parse(&small(&[])).unwrap();
    let seconds = std::time::Duration::from_secs;
    let poll = PollPolicy {
        first: seconds(5),
        min_interval: seconds(1),
        max_interval: seconds(60),
        deadline: seconds(86_400),
        not_found_grace: seconds(60),
        price: seconds(5),
    };
    assert_eq!(definition.poll, poll);
    let rate = Rate { spacing: Some(seconds(1)) };
    assert_eq!(definition.limits, Limits { rate, burst: 1, concurrency: 4 });
}

#[test]
fn every_error_in_a_definition_is_reported_with_its_key() {
    let table = [
        ("schema = 1", "schema = 3", "schema: 3 is unknown"),
        ("id = \"small\"", "id = \"Small One\"", "id: must be 1 to 40"),
        ("name = \"Small\"", "name = \" \"", "name: must not be empty"),
        ("https://small.example/docs", "here", "docs: must be the URL"),
        (
            "[a-z0-9.]+",
            "[a-z",
            "params.job_id.pattern: `[a-z` is not a regular expression: unclosed character class",
        ),
        ("pattern = \"[a-z0-9.]+\"", "", "params.job_id: a `pattern` is required"),
        ("default = \"eu\"", "default = \"mars\"", "params.region: the default `mars` can never be used"),
        ("{region}", "{zone}", "request: `{zone}` is not declared"),
        ("{region}", "eu", "params.region: the request does not use this"),
        ("{job_id}", "all", "params.job_id: the request does not use this"),
        ("{job_id}\"", "{job_id}?x=1\"", "request.url: move the query to request.query"),
        ("{job_id}\"", "{job_id\"", "request.url: `/{region}/jobs/{job_id` has an unpaired brace"),
        (
            "url = \"https://small.example",
            "url = \"http://small.example",
            "auth.send_to: must contain the host",
        ),
        (
            "url = \"https://small.example",
            "url = \"https://{team}",
            "request.url: scheme, host and port are fixed",
        ),
        ("\"X-Version\"", "\"Authorization\"", "request.headers.Authorization: a definition cannot set this"),
        ("\"X-Version\"", "\"X Version\"", "request.headers.X Version: `X Version` is not a valid"),
        ("header = \"X-Key\"\n", "", "auth: the key `header` is missing"),
        ("\"header\"\n", "\"bearer\"\n", "auth.header: is not possible with type `bearer`"),
        ("\"header\"\n", "\"none\"\n", "auth.send_to: is not possible with type `none`"),
        (
            "[\"small.example\"]",
            "[\"https://small.example\"]",
            "auth.send_to: `https://small.example` is not",
        ),
        ("processing = [\"Run\"]", "", "status.map: at least one word must mean pending or processing"),
        ("completed = [\"ok\"]", "", "status.map: at least one word must mean completed"),
        (
            "failed = [\"bad\"]",
            "failed = [\"bad\", \"ok\"]",
            "status.map: `ok` is listed twice, in completed and in failed",
        ),
        (
            "[status.map]",
            "unknown = \"failed\"\n[status.map]",
            "status.unknown: must be processing or pending",
        ),
        (
            "[status.map]",
            "explain = { ok = \"x\" }\n[status.map]",
            "status.explain: `ok` is not a word of failed",
        ),
        ("\"$.id\"", "\"id\"", "extract.job_id: `id` is not a path"),
        ("\"$.id\"", "[]", "extract.job_id: a path is required"),
        (", unit = \"fraction\"", "", "extract.progress: set either"),
        ("[extract]", "[errors]\naccount = [\"X\"]\n[extract]", "errors.account: requires errors.code"),
        ("[extract]", "[not_found]\nvalues = [\"X\"]\n[extract]", "not_found.values: requires a path"),
        ("[extract]", "[not_found]\nhttp = [429]\n[extract]", "not_found.http: must list"),
        ("[extract]", "[poll]\nfirst = \"5\"\n[extract]", "poll.first: `5` is not a duration"),
        ("[extract]", "[poll]\nmin_interval = \"2m\"\n[extract]", "poll.min_interval: must not be greater"),
        ("[extract]", "[poll]\ndeadline = \"31d\"\n[extract]", "poll.deadline: must be between"),
        ("[extract]", "[limits]\nrate = \"fast\"\n[extract]", "limits.rate: `fast` is not a rate"),
        ("[extract]", "[limits]\nburst = 0\n[extract]", "limits.burst: must be between"),
        ("[request]", "[request]\nmax_body = \"1GB\"", "request.max_body: `1GB` is not a size"),
        ("[request]", "[request]\ntimeout = \"1h\"", "request.timeout: must be at most 120 s"),
        ("[request]", "[request]\nmethod = \"POST\"", "request.method: needs schema = 2"),
        (
            "status = \"failed\"",
            "status = \"cancelled\"",
            "example: at least one must show a job that failed",
        ),
        ("id = \"small\"", "id = \"small\"\nidd = 1", "idd: is not a key of this table; did you mean `id`?"),
        ("schema = 1", "schema = = 1", "extra `=`"),
    ];
    for (what, by, sentence) in table {
        let errors = Definition::parse(&small(&[(what, by)])).unwrap_err();
        let found = errors.iter().any(|mistake| mistake.text.starts_with(sentence));
        assert!(found, "{what} -> {by}: {errors:#?}");
    }
    let several = small(&[("schema = 1", "schema = 3"), ("\"$.id\"", "\"id\""), ("{region}", "eu")]);
    assert_eq!(Definition::parse(&several).unwrap_err().len(), 3);
}

/// Returns the mistakes of a definition.
fn mistakes(text: &str) -> Vec<String> {
    Definition::parse(text).unwrap_err().iter().map(ToString::to_string).collect()
}

#[test]
fn every_mistake_is_one_line_with_its_place_in_the_order_of_the_file() {
    let wrong = small(&[
        ("[a-z0-9.]+", "[a-z"),
        ("\"$.id\"", "\"id\""),
        ("name = \"Small\"", "name = 5"),
        ("docs = ", "doc = "),
        ("[\"$.status\", \"$.state\"]", "[\"$.status\", 7]"),
        ("progress = 29", "progress = \"29\""),
    ]);
    let place = |part: &str, column: usize| {
        let line = wrong.lines().position(|line| line.contains(part)).unwrap() + 1;
        format!("{line}:{column}")
    };
    let expected = [
        "1:1: the key `docs` is missing".to_owned(),
        format!("{}: name: must be a text in quotes, and not a number", place("name = 5", 8)),
        format!("{}: doc: is not a key of this table; did you mean `docs`?", place("doc = ", 1)),
        format!(
            "{}: params.job_id.pattern: `[a-z` is not a regular expression: unclosed character class",
            place("[a-z\"", 11)
        ),
        format!("{}: status.path: must be a text in quotes, and not a number", place("$.status\", 7", 21)),
        format!(
            "{}: extract.job_id: `id` is not a path; write it as $.a.b, $.a[0], $.a[*].b or $.a[?@.type == 'x'].b",
            place("\"id\"", 10)
        ),
        format!(
            "{}: example.expect.progress: must be a whole number, and not a text",
            place("progress = \"29\"", 81)
        ),
    ];
    assert_eq!(mistakes(&wrong), expected);
}

#[test]
fn an_example_with_another_meaning_is_an_error() {
    let wrong = small(&[("progress = 29", "progress = 30")]);
    let errors = mistakes(&wrong);
    assert_eq!(errors, ["36:1: example 2: progress: expected 30, but got 29"]);
}

#[test]
fn a_folder_adds_and_replaces_definitions_and_lists_all_errors() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("small.toml", &small(&[]));
    write("notes.md", "not a definition");
    write("mine.toml", &small(&[("id = \"small\"", "id = \"muvi\""), ("\"Small\"", "\"My own\"")]));
    let LoadedProviders { valid, invalid, errors } = load_providers(Some(folder.path()));
    assert!(errors.is_empty() && invalid.is_empty(), "{errors:?} {invalid:?}");
    assert_eq!(valid.len(), embedded().len() + 1);
    assert_eq!(valid.get("muvi").unwrap().name, "My own");

    write("again.toml", &small(&[]));
    write("broken.toml", "schema = 1\nid = 5");
    write(
        "wrong.toml",
        &small(&[("id = \"small\"", "id = \"replicate\""), ("progress = 29", "progress = 1")]),
    );
    write("LOUD.TOML", "schema = 1\nid = \"loud-one\"");
    let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("pipe.toml")).unwrap();
    let LoadedProviders { valid, invalid, errors } = load_providers(Some(folder.path()));
    assert_eq!(errors, [""; 0]);
    let ids: Vec<&str> = invalid.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["loud-one", "broken", "pipe", "small", "replicate"]);
    let contains = |n: usize, part: &str| invalid[n].mistakes.iter().any(|mistake| mistake.contains(part));
    assert!(contains(1, "broken.toml:2:6: id: must be a text"), "{invalid:#?}");
    assert!(
        contains(2, "pipe.toml: the file cannot be read: it is a socket; name a regular file"),
        "{invalid:#?}"
    );
    assert!(contains(3, "small.toml: id: another file defines `small`"), "{invalid:#?}");
    assert!(contains(4, "wrong.toml:") && contains(4, ": example 2: "), "{invalid:#?}");
    // Neither the embedded definition nor one of two stands in for a file with mistakes.
    assert!(!valid.contains_key("replicate") && !valid.contains_key("small") && valid.contains_key("muvi"));
    let LoadedProviders { valid, errors, .. } = load_providers(Some(&folder.path().join("nowhere")));
    assert!(valid.contains_key("muvi"), "those that can be read are known");
    assert!(errors.len() == 1 && errors[0].starts_with("providers.path: the folder "), "{errors:?}");
}

#[test]
fn the_documented_example_is_a_valid_definition() {
    let docs = include_str!("../../docs/PROVIDERS.md");
    let (_, rest) = docs.split_once("```toml complete\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    assert_eq!(Definition::parse(text).map(drop), Ok(()));
}
