//! Guarantees of follow-up requests and of the expiry of outputs.

use url::Url;

use super::schema_2::{compiled, text};
use super::{Answer, Definition, Interpretation, JobReport, PollFailure, report};
use crate::domain::{JobStatus, Observation, Timestamp};
use crate::providers::compile::compile;

const AUTH: &str = r#"
[auth]
type = "bearer"
send_to = ["api.two.example", "*.files.example"]
"#;

/// Returns the report of a poll with this body.
fn polled(definition: &Definition, body: &str) -> JobReport {
    report(definition.interpret("j1", Answer { status: 200, headers: &[], body: body.as_bytes() }))
}

fn result(definition: &Definition, before: &JobReport, status: u16, body: &str) -> Interpretation {
    definition.interpret_result("j1", before, Answer { status, headers: &[], body: body.as_bytes() })
}

/// Returns the URL of the next result, and whether the request has the credential and is guarded.
fn requested(
    definition: &Definition,
    report: &JobReport,
    base: Option<&str>,
) -> Result<(String, bool, bool), String> {
    let base = base.map(|base| Url::parse(base).unwrap());
    let next = report.results.first().expect("a result");
    let request = definition.result_request(next, ("j1", "{}"), base.as_ref(), Some(super::key("hush")))?;
    let has_credential = request.headers.iter().any(|(_, value)| value.contains("hush"));
    Ok((request.url.into(), has_credential, request.is_from_client))
}

#[test]
fn a_result_replaces_the_fields_that_it_finds() {
    let definition = compiled(
        r#"
[extract]
job_id = "none"
output = "$.url"
error_message = "$.note"
[[result]]
url = "https://api.two.example/jobs/{job_id}/files/{file}"
values = { file = "$.file" }
extract = { outputs = { each = "$[*]", url = "$.u" }, completed_at = { path = "$[0].at", format = "epoch_s" } }
[[result]]
path = "$.log"
hosts = ["cdn.example"]
body = "text"
max_body = "1KiB"
extract = { output = "$" }
"#,
    );
    assert!(polled(&definition, r#"{"s": "run", "file": 7}"#).results.is_empty());
    let before = polled(
        &definition,
        r#"{"s": "ok", "url": "https://x", "note": "n", "file": 7, "log": "https://cdn.example/l"}"#,
    );
    assert_eq!(requested(&definition, &before, None).unwrap().0, "https://api.two.example/jobs/j1/files/7");
    let first = report(result(&definition, &before, 200, r#"[{"u": "https://y", "at": 1771426800}]"#));
    assert_eq!(first.observation.outputs.as_ref().unwrap()[0].url.as_deref(), Some("https://y"));
    assert_eq!(first.observation.completed_at, Timestamp::parse("2026-02-18T15:00:00Z"));
    assert_eq!(requested(&definition, &first, None), Ok(("https://cdn.example/l".to_owned(), false, true)));
    let last = report(result(&definition, &first, 200, "Dear \u{e9}"));
    assert_eq!(last.observation.output.as_deref(), Some("Dear é"));
    assert_eq!(last.observation.error, before.observation.error);
    assert!(last.results.is_empty());
    // A result that finds nothing, a missing value and a missing URL change nothing.
    let same = report(result(&definition, &before, 200, "{}"));
    assert_eq!(same.observation, before.observation);
    let none = polled(&definition, r#"{"s": "ok", "url": "https://x"}"#);
    assert!(none.results.is_empty());
    // Half a text is no result.
    let Interpretation::Failed { message, .. } = result(&definition, &first, 200, &"x".repeat(2000)) else {
        panic!("a truncated text")
    };
    assert!(message.contains("larger than 1024 bytes"), "{message}");
}

#[test]
fn a_rule_of_a_result_decides_first() {
    let definition = compiled(
        r#"
[errors]
message = "$.message"
[[result]]
url = "https://api.two.example/r/{job_id}"
extract = { output = "$.x", error_code = "$.code" }
[[result.rule]]
http = [425]
answer = "not_yet"
[[result.rule]]
http = ["4xx"]
all = [{ path = "$.code", exists = true }]
status = "failed"
explain = "The result says so."
[[result.rule]]
all = [{ path = "$.some", is = true }]
status = "completed"
code = "partial"
"#,
    );
    let before = polled(&definition, r#"{"s": "ok"}"#);
    let read = |status, body| result(&definition, &before, status, body);
    assert_eq!(read(425, ""), Interpretation::NotYet);
    let failed = report(read(422, r#"{"code": "moderated"}"#)).observation;
    let error = failed.error.unwrap();
    assert_eq!((failed.status, failed.raw_status.as_deref()), (JobStatus::Failed, Some("ok")));
    assert_eq!(
        (error.code.as_deref(), error.message.as_deref()),
        (Some("moderated"), Some("The result says so."))
    );
    let partial = report(read(200, r#"{"some": true, "x": "y"}"#)).observation;
    assert_eq!(
        (partial.output.as_deref(), partial.error.unwrap().code.as_deref()),
        (Some("y"), Some("partial"))
    );
    for (status, body, failure, message) in [
        (404, r#"{"message": "gone"}"#, PollFailure::Error, "HTTP 404: gone"),
        (429, "", PollFailure::RateLimited, "HTTP 429"),
        (200, "x", PollFailure::Error, "not JSON"),
        (302, "", PollFailure::Error, "HTTP 302"),
    ] {
        let Interpretation::Failed { failure: found, message: text } = read(status, body) else {
            panic!("{status}")
        };
        assert_eq!(found, failure, "{status}");
        assert!(text.contains(message), "{text}");
    }
}

#[test]
fn a_result_gets_the_credential_only_where_it_may_be_sent() {
    let table = |auth: bool, hosts: &str| {
        format!(
            "{AUTH}[[result]]\npath = \"$.u\"\nhosts = [{hosts}]\nauth = {auth}\nextract = {{ output = \"$.x\" }}\n"
        )
    };
    let at = |definition: &Definition, url: &str, base: Option<&str>| {
        let before = polled(definition, &format!(r#"{{"s": "ok", "u": "{url}"}}"#));
        requested(definition, &before, base)
    };
    let trusted = compiled(&table(true, "\"api.two.example\", \"*.files.example\""));
    let plain = compiled(&table(false, "\"api.two.example\", \"cdn.example\""));
    let base = Some("http://127.0.0.1:9000");
    for (definition, url, base, expected) in [
        (&trusted, "https://api.two.example/r", None, Some((true, true))),
        // The address of an operator replaces nothing in a URL of an answer, and its own URLs are trusted.
        (&trusted, "https://api.two.example/r", base, Some((true, true))),
        (&trusted, "http://127.0.0.1:9000/r", base, Some((true, false))),
        (&trusted, "http://127.0.0.1:9000/r", None, None),
        // Below a wildcard, it may be the host of another customer.
        (&trusted, "https://me.files.example/r", None, None),
        (&trusted, "https://me.files.example/r", base, None),
        (&trusted, "https://cdn.example/r", None, None),
        (&trusted, "http://api.two.example/r", None, None),
        (&trusted, "https://api.two.example:444/r", None, None),
        (&trusted, "https://a@api.two.example/r", None, None),
        (&plain, "https://api.two.example/r", None, Some((false, true))),
        (&plain, "https://cdn.example/r?sig=1", None, Some((false, true))),
        (&plain, "https://evil.example/r", None, None),
        (&plain, "https://evil.example/r", base, None),
    ] {
        let found = at(definition, url, base);
        let is_same = |(found, _, _): &(String, bool, bool)| found == url;
        assert!(found.as_ref().is_ok_and(is_same) == expected.is_some(), "{url} {found:?}");
        assert_eq!(found.ok().map(|(_, sent, guarded)| (sent, guarded)), expected, "{url} {base:?}");
    }
    let template = compiled(&format!(
        "{AUTH}[[result]]\nurl = \"https://api.two.example/r/{{job_id}}\"\nauth = true\n\
         [[result]]\nurl = \"https://x.files.example/r/{{job_id}}\"\nauth = true\n"
    ));
    let mut before = polled(&template, r#"{"s": "ok"}"#);
    let found = |before: &JobReport| requested(&template, before, base).unwrap();
    assert_eq!(found(&before), ("http://127.0.0.1:9000/r/j1".to_owned(), true, false));
    before.results.remove(0);
    assert_eq!(found(&before), ("https://x.files.example/r/j1".to_owned(), true, false));
}

#[test]
fn a_mistake_in_a_result_is_reported() {
    for (table, expected) in [
        ("auth = false", "result: has exactly one of `url`, and `path`"),
        ("path = \"$.u\"", "result: the key `hosts` is missing"),
        ("path = \"$.u\"\nhosts = []", "result.hosts: must list at least one host"),
        ("url = \"https://a.example/{x}\"", "result: `{x}` is not declared; add [params.x], or `values ="),
        (
            "url = \"https://a.example/r\"\nhosts = [\"b.example\"]",
            "result.hosts: is possible only with `path`",
        ),
        ("url = \"https://a.example/r\"\nauth = true", "result.auth: needs a credential"),
        ("url = \"https://a.example/r\"\nvalues = { x = \"$.x\" }", "result.values: `x` is not used"),
        ("url = \"https://a.example/{job_id}\"\nvalues = { job_id = \"$.x\" }", "is the name of a parameter"),
        ("url = \"https://a.example/r\"\njson = {}", "result.url: a request with a body needs `method"),
        ("url = \"https://a.example/r\"\nbody = \"xml\"", "result.body: `xml` is not possible here"),
        ("url = \"https://a.example/r\"\nredirect = \"never\"", "result.redirect: is not a key"),
        (
            "url = \"https://a.example/r\"\n[[result.rule]]\nhttp = 202\nstatus = \"processing\"",
            "a result cannot mean processing; `answer = \"not_yet\"` repeats the request",
        ),
        (
            "url = \"https://a.example/r\"\n[[result.rule]]\nhttp = 404\nanswer = \"not_found\"",
            "the answer of a result is `not_yet`, `rate_limited` or `error`",
        ),
    ] {
        let (_, mistakes) = compile(&text(&format!("[[result]]\n{table}\n")));
        let found = mistakes.iter().any(|mistake| mistake.text.contains(expected));
        assert!(found, "{table}: {mistakes:#?}");
    }
    let auth = AUTH.replace(", \"*.files.example\"", "");
    let (_, mistakes) =
        compile(&text(&format!("{auth}[[result]]\nurl = \"https://x.example/r\"\nauth = true\n")));
    assert!(
        mistakes.iter().any(|mistake| mistake.text.contains("auth.send_to does not contain")),
        "{mistakes:#?}"
    );
    let four = "[[result]]\nurl = \"https://a.example/r\"\n".repeat(4);
    let (_, mistakes) = compile(&text(&four));
    assert!(mistakes.iter().any(|mistake| mistake.text.contains("more than 3 results")), "{mistakes:#?}");
}

#[test]
fn the_request_for_a_result_can_be_shown() {
    let definition = compiled(&format!(
        "{AUTH}[[result]]\nurl = \"https://api.two.example/f/{{file}}\"\nvalues = {{ file = \"$.f\" }}\nauth = true\n\
         [[result]]\npath = \"$.u\"\nhosts = [\"cdn.example\"]\nbody = \"text\"\n"
    ));
    let shown = definition.shown_results("j1", "{}", None, Timestamp::from_millis(0)).unwrap();
    assert_eq!(
        shown,
        [
            (
                "completed".to_owned(),
                "GET https://api.two.example/f/{file}\naccept: application/json\nauthorization: Bearer ***"
                    .to_owned()
            ),
            ("completed".to_owned(), "GET (the URL in the answer to the poll)\naccept: */*".to_owned())
        ]
    );
}

#[test]
fn an_example_gives_the_answers_to_the_results() {
    let example = |results: &str| {
        let table = format!(
            "[[result]]\nurl = \"https://a.example/r\"\nextract = {{ output = \"$.x\" }}\n[[example]]\njob_id = \"j1\"\n\
             body = '{{\"s\": \"ok\"}}'\n{results}\nexpect = {{ answer = \"seen\", status = \"completed\", raw_status = \"ok\", output = \"y\" }}\n"
        );
        let (_, mistakes) = compile(&text(&table));
        mistakes
            .into_iter()
            .map(|mistake| mistake.text)
            .filter(|text| text.contains("example 1"))
            .collect::<Vec<_>>()
    };
    assert_eq!(example("results = [{ body = '{\"x\": \"y\"}' }]"), [] as [String; 0]);
    assert!(
        example("")[0].contains("the answer to the request of [[result]] 1 is missing; add it to `results =")
    );
    assert!(
        example("results = [{ body = '{\"x\": \"y\"}' }, { body = '' }]")[0].contains("has 1 more answers")
    );
    assert!(example("results = [{ http = 500, body = '' }]")[0].contains("but got an error"));
}

#[test]
fn outputs_expire_at_a_time_or_after_a_span() {
    let at = |text: &str| Timestamp::parse(text).unwrap();
    let now = at("2026-02-18T15:00:00Z");
    let expiry = |form: &str, body: &str| {
        let definition = compiled(&format!(
            "[extract]\njob_id = \"none\"\noutput = \"$.o\"\ncompleted_at = {{ path = \"$.at\", format = \"epoch_s\" }}\noutputs_expire = {form}\n"
        ));
        let mut report = polled(&definition, body);
        report.settle(now);
        report.observation.outputs_expire_at
    };
    let path = r#"{ path = "$.until", format = "epoch_s" }"#;
    for (form, body, expected) in [
        ("\"24h\"", r#"{"s": "ok", "o": "x", "at": 1771423200}"#, Some("2026-02-19T14:00:00Z")),
        ("\"24h\"", r#"{"s": "ok", "o": "x"}"#, Some("2026-02-19T15:00:00Z")),
        ("\"24h\"", r#"{"s": "ok"}"#, None),
        ("\"24h\"", r#"{"s": "run", "o": "x"}"#, None),
        (path, r#"{"s": "ok", "o": "x", "until": 1771513200}"#, Some("2026-02-19T15:00:00Z")),
        (path, r#"{"s": "ok", "o": "x", "until": 1771513200000}"#, None),
        (path, r#"{"s": "ok", "o": "x", "until": 0}"#, None),
        (path, r#"{"s": "ok", "o": "x"}"#, None),
    ] {
        assert_eq!(expiry(form, body), expected.map(at), "{form} {body}");
    }
    for wrong in ["5", "\"0s\"", "\"soon\"", "\"99999d\""] {
        let (_, mistakes) =
            compile(&text(&format!("[extract]\njob_id = \"none\"\noutputs_expire = {wrong}\n")));
        assert!(
            mistakes.iter().any(|mistake| mistake.text.contains("outputs_expire")),
            "{wrong} {mistakes:?}"
        );
    }
}

#[test]
fn a_partial_success_keeps_its_code() {
    let definition = compiled(
        r#"
[extract]
job_id = "none"
error_code = "$.code"
error_message = "$.why"
[[rule]]
all = [{ path = "$.some", is = true }]
status = "partial"
[[result]]
when = ["partial"]
url = "https://api.two.example/jobs/{job_id}/errors"
extract = { error_message = "$.message", error_code = "$.code" }
"#,
    );
    let before = polled(&definition, r#"{"s": "ok", "some": true, "code": "E1", "why": "one failed"}"#);
    let error = |found: &Observation| {
        let error = found.error.clone().unwrap();
        (error.code.unwrap_or_default(), error.message.unwrap_or_default())
    };
    let pair = |message: &str| ("partial".to_owned(), message.to_owned());
    assert_eq!(error(&before.observation), pair("one failed"));
    for (body, message) in [(r#"{"message": "no codec", "code": "7"}"#, "no codec"), ("{}", "one failed")] {
        let seen = report(result(&definition, &before, 200, body)).observation;
        assert_eq!((seen.status, error(&seen)), (JobStatus::Completed, pair(message)), "{body}");
    }
}

#[test]
fn the_details_of_a_failure_are_a_result_that_does_not_undo_it() {
    let definition = compiled(
        r#"
[extract]
job_id = "none"
error_code = "$.code"
[[result]]
when = ["failed"]
url = "https://api.two.example/jobs/{job_id}/errors"
extract = { error_message = "$.errors[0].message", error_code = "$.errors[0].code" }
[[result.rule]]
all = [{ path = "$.timeout", is = true }]
status = "failed"
explain = "The job took too long."
[[result]]
url = "https://api.two.example/jobs/{job_id}/files"
extract = { output = "$.url" }
"#,
    );
    let before = polled(&definition, r#"{"s": "bad", "code": "E1"}"#);
    assert_eq!(before.results.len(), 1);
    let url = "https://api.two.example/jobs/j1/errors".to_owned();
    assert_eq!(requested(&definition, &before, None), Ok((url, false, false)));
    let error = |status, body: &str| {
        let seen = report(result(&definition, &before, status, body)).observation;
        assert_eq!((seen.status, seen.raw_status.as_deref()), (JobStatus::Failed, Some("bad")));
        let error = seen.error.unwrap();
        (error.code.unwrap_or_default(), error.message.unwrap_or_default())
    };
    let pair = |code: &str, message: &str| (code.to_owned(), message.to_owned());
    assert_eq!(error(200, r#"{"errors": [{"message": "no codec"}]}"#), pair("E1", "no codec"));
    assert_eq!(error(200, r#"{"errors": [{"message": "m", "code": 7}]}"#), pair("7", "m"));
    assert_eq!(error(200, "{}"), pair("E1", ""));
    assert_eq!(error(200, r#"{"timeout": true}"#), pair("E1", "The job took too long."));
    assert!(matches!(result(&definition, &before, 503, ""), Interpretation::Failed { .. }));
    let completed = polled(&definition, r#"{"s": "ok"}"#);
    let url = "https://api.two.example/jobs/j1/files".to_owned();
    assert_eq!(requested(&definition, &completed, None), Ok((url, false, false)));
    assert!(polled(&definition, r#"{"s": "run"}"#).results.is_empty());
    for (table, expected) in [
        ("when = []", "result.when: must list at least one outcome"),
        ("when = \"failed\"", "result.when: must be a list"),
        ("when = [\"processing\"]", "result.when: `processing` is not possible here"),
        (
            "when = [\"failed\"]\n[[result.rule]]\nhttp = 200\nstatus = \"completed\"",
            "the details of a job that did not complete cannot change its outcome",
        ),
    ] {
        let (_, mistakes) =
            compile(&text(&format!("[[result]]\nurl = \"https://a.example/{{job_id}}\"\n{table}\n")));
        assert!(mistakes.iter().any(|mistake| mistake.text.contains(expected)), "{table}: {mistakes:#?}");
    }
    let three = "[[result]]\nurl = \"https://a.example/r\"\n[[result]]\nwhen = [\"failed\"]\nurl = \"https://a.example/r\"\n";
    let (_, mistakes) = compile(&text(&three.repeat(3)));
    assert!(!mistakes.iter().any(|mistake| mistake.text.contains("results")), "{mistakes:#?}");
    let (_, mistakes) = compile(&text(&three.repeat(4)));
    assert!(mistakes.iter().any(|mistake| mistake.text.contains("more than 3 results")), "{mistakes:#?}");
}
