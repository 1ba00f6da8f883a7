//! Guarantees of `[cancel]`.

use url::Url;

use super::schema_2::{compiled, text};
use super::{Answer, Definition, key};
use crate::providers::CancelAnswer;
use crate::providers::compile::compile;

const AUTH: &str = r#"
[auth]
type = "bearer"
send_to = ["api.two.example"]
"#;

/// Returns the request for a job: its method, its URL, its headers with the credential, and its body.
fn requested(definition: &Definition, job_id: &str, base: Option<&str>) -> Result<[String; 4], String> {
    let base = base.map(|base| Url::parse(base).unwrap());
    let request = definition.cancel_request((job_id, "{}"), base.as_ref(), Some(key("hush")))?;
    let secret: Vec<&str> =
        request.headers.iter().filter(|(_, value)| value.contains("hush")).map(|(name, _)| &**name).collect();
    let body = String::from_utf8(request.body).unwrap();
    Ok([request.method.to_owned(), request.url.into(), secret.join(","), body])
}

fn request_of(tables: &str) -> [String; 4] {
    requested(&compiled(&format!("{AUTH}{tables}")), "j1", None).unwrap()
}

#[test]
fn a_cancellation_is_described_like_a_poll() {
    let at = |path: &str| format!("https://api.two.example{path}");
    for (table, method, url, body) in [
        ("[cancel]\n", "POST", at("/jobs/j1"), ""),
        ("[cancel]\nmethod = \"DELETE\"\n", "DELETE", at("/jobs/j1"), ""),
        ("[cancel]\npath = \"/cancel\"\n", "POST", at("/jobs/j1/cancel"), ""),
        ("[cancel]\npath = \":cancel\"\nmethod = \"PUT\"\n", "PUT", at("/jobs/j1:cancel"), ""),
        (
            "[cancel]\nurl = \"https://api.two.example/stop\"\njson = { ids = [\"{job_id}\"], force = true }\n",
            "POST",
            at("/stop"),
            r#"{"force":true,"ids":["j1"]}"#,
        ),
        (
            "[cancel]\nurl = \"https://api.two.example/stop\"\nquery = { id = \"{job_id}\" }\n",
            "POST",
            at("/stop?id=j1"),
            "",
        ),
        (
            "[cancel]\nmethod = \"PATCH\"\nform = { job = \"{job_id}\" }\nurl = \"https://api.two.example/stop\"\n",
            "PATCH",
            at("/stop"),
            "job=j1",
        ),
    ] {
        assert_eq!(request_of(table), [method, &url, "authorization", body], "{table}");
    }
    let none = compiled(AUTH);
    assert!(!none.can_cancel() && none.cancel_method().is_none());
    assert!(none.cancel_request(("j1", "{}"), None, None).is_err());
}

#[test]
fn a_base_url_replaces_the_host_of_the_polls_only() {
    let base = Some("http://127.0.0.1:9000/x");
    let at = |table: &str| {
        requested(&compiled(&format!("{AUTH}{table}")), "j1", base).map(|found| found[1].clone())
    };
    assert_eq!(at("[cancel]\npath = \"/cancel\"\n").as_deref(), Ok("http://127.0.0.1:9000/x/jobs/j1/cancel"));
    let elsewhere = "[auth]\ntype = \"bearer\"\nsend_to = [\"api.two.example\", \"ops.two.example\"]\n[cancel]\n\
                     url = \"https://ops.two.example/{job_id}\"\n";
    let found = requested(&compiled(elsewhere), "j1", base).unwrap();
    assert_eq!(found[1..3], ["https://ops.two.example/j1", "authorization"]);
}

#[test]
fn a_job_that_is_a_url_is_cancelled_below_it() {
    let request = r#"
[auth]
type = "bearer"
send_to = ["*.two.example"]
[request.job_url]
hosts = ["*.two.example"]
path = "/(?<project>[a-z]+)/jobs/(?<job_id>[a-z0-9]+)"
query = true
"#;
    let id = "https://eu.two.example/shop/jobs/j1?view=all";
    for (table, url) in [
        ("[cancel]\npath = \"/cancel\"\n", "https://eu.two.example/shop/jobs/j1/cancel"),
        ("[cancel]\n", "https://eu.two.example/shop/jobs/j1"),
        (
            "[cancel]\nurl = \"https://api.two.example/{project}/{job_id}\"\n",
            "https://api.two.example/shop/j1",
        ),
    ] {
        let definition = compiled(&format!("{request}{table}"));
        let found = requested(&definition, id, None);
        // A host that the client chooses gets the key only if the operator lists it.
        if table.contains("url") {
            assert_eq!(found.unwrap()[1], url, "{table}");
        } else {
            assert!(found.unwrap_err().contains("must not be sent to this host"), "{table}");
            let found = requested(&definition, id, Some("http://127.0.0.1:9000")).unwrap();
            assert_eq!(found[1], url.replace("https://eu.two.example", "http://127.0.0.1:9000"), "{table}");
        }
    }
}

#[test]
fn the_http_status_decides_what_an_answer_means() {
    let definition = compiled(&format!(
        "{AUTH}[errors]\ncode = \"$.code\"\nmessage = \"$.message\"\naccount = [\"no_money\"]\n\
         [cancel]\nalready_ended = [409, 410]\n"
    ));
    let read = |status, body: &str| {
        definition.interpret_cancel(("j1", "{}"), Answer { status, headers: &[], body: body.as_bytes() })
    };
    for status in [200, 202, 204] {
        for body in ["", "OK", "{\"code\": \"x\"}"] {
            assert_eq!(read(status, body), CancelAnswer::Accepted);
        }
    }
    let message = r#"{"code": "done", "message": "It has ended."}"#;
    assert_eq!(read(409, message), CancelAnswer::AlreadyEnded("HTTP 409 done: It has ended.".to_owned()));
    assert_eq!(read(403, message), CancelAnswer::Refused("HTTP 403 done: It has ended.".to_owned()));
    assert!(matches!(read(404, "<html>"), CancelAnswer::Refused(_)));
    assert!(matches!(read(302, ""), CancelAnswer::Refused(_)));
    assert!(matches!(read(429, ""), CancelAnswer::RateLimited(_)));
    for (status, body) in
        [(401, ""), (402, r#"{"code": "no_money"}"#), (408, ""), (425, ""), (500, ""), (503, "x")]
    {
        assert!(matches!(read(status, body), CancelAnswer::Error(_)), "{status}");
    }
    let CancelAnswer::Refused(long) = read(400, &format!(r#"{{"message": "{}"}}"#, "é".repeat(2_000)))
    else {
        panic!("refused")
    };
    assert_eq!(long.chars().count(), 500);
}

#[test]
fn an_error_within_a_good_answer_refuses_the_cancellation() {
    let definition = compiled(&format!(
        "{AUTH}[errors]\nwhen = {{ path = \"$.ok\", is = false }}\nmessage = \"$.why\"\n[cancel]\n"
    ));
    let read = |body: &str| {
        definition.interpret_cancel(("j1", "{}"), Answer { status: 200, headers: &[], body: body.as_bytes() })
    };
    assert_eq!(read(r#"{"ok": true}"#), CancelAnswer::Accepted);
    assert_eq!(read(""), CancelAnswer::Accepted);
    assert_eq!(
        read(r#"{"ok": false, "why": "Too late"}"#),
        CancelAnswer::Refused("HTTP 200: Too late".to_owned())
    );
}

#[test]
fn mistakes_in_a_cancellation_are_listed_with_their_places() {
    let wrong = |table: &str| {
        let text = text(&format!("{AUTH}{table}"));
        let (definition, mistakes) = compile(&text);
        assert!(definition.is_none(), "{table}");
        let all = mistakes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        // Relative to the table.
        let first = text.lines().position(|line| line == "[cancel]").unwrap() + 1;
        (first, all)
    };
    for (table, line, says) in [
        (
            "method = \"GET\"",
            1,
            "cancel.method: `GET` is not possible here; write one of `POST`, `PUT`, `PATCH`, `DELETE`",
        ),
        (
            "path = \"cancel\"",
            1,
            "cancel.path: is put after the path of the poll's URL; it begins with `/` or `:`",
        ),
        ("path = \"/a?b=c\"", 1, "cancel.path: must be a path without a query"),
        (
            "path = \"/a\"\nurl = \"https://api.two.example/{job_id}\"",
            2,
            "cancel.url: stands instead of `path`",
        ),
        ("url = \"https://api.two.example/stop\"", 0, "the request does not contain `{job_id}`"),
        ("path = \"/{region}\"", 0, "cancel: `{region}` is not declared; add [params.region]"),
        (
            "url = \"https://evil.example/{job_id}\"",
            1,
            "cancel.url: has a host that auth.send_to does not contain",
        ),
        ("already_ended = [200]", 1, "cancel.already_ended: must be an HTTP status from 400 to 499"),
        ("already_ended = [429]", 1, "cancel.already_ended: must be an HTTP status from 400 to 499"),
        (
            "headers = { authorization = \"x\" }",
            1,
            "cancel.headers.authorization: a definition cannot set this header",
        ),
        ("redirect = \"never\"", 1, "cancel.redirect"),
    ] {
        let (first, all) = wrong(&format!("[cancel]\n{table}\n"));
        assert!(all.contains(says), "{table}\n{all}");
        let found = all.lines().find(|one| one.contains(says)).unwrap();
        assert!(found.starts_with(&format!("{}:", first + line)), "{table}\n{found}");
    }
    let schema_1 = text("[cancel]\n").replace("schema = 2", "schema = 1");
    let (_, mistakes) = compile(&schema_1);
    assert!(mistakes.iter().any(|mistake| mistake.text.contains("cancel")), "{mistakes:#?}");
}

#[test]
fn a_parameter_may_be_used_by_the_cancellation_only() {
    let tables = "[params.reason]\ndefault = \"none\"\n[cancel]\njson = { id = \"{job_id}\", reason = \"{reason}\" }\n";
    let definition = compiled(&format!("{AUTH}{tables}"));
    let request = definition.cancel_request(("j1", r#"{"reason":"cost"}"#), None, Some(key("hush"))).unwrap();
    assert_eq!(String::from_utf8(request.body).unwrap(), r#"{"id":"j1","reason":"cost"}"#);
    let shown =
        definition.shown_cancel(("j1", r#"{"reason":"cost"}"#), None, crate::domain::Timestamp::default());
    let shown = shown.unwrap().unwrap();
    assert!(shown.starts_with("POST https://api.two.example/jobs/j1\n"), "{shown}");
    assert!(shown.contains("authorization: Bearer ***"), "{shown}");
}

/// Rules for an envelope and for a job that has ended.
const RULES: &str = r#"
[errors]
code = "$.code"
message = "$.message"
[cancel]
already_ended = [409]
[[cancel.rule]]
http = 200
all = [{ path = "$.code", is = "already_done" }]
answer = "already_ended"
[[cancel.rule]]
http = "2xx"
all = [{ path = "$.code", exists = true }]
answer = "refused"
explain = "The envelope has a code."
[[cancel.rule]]
http = 400
all = [{ path = "$.message", matches = "(?i)terminal state" }]
answer = "already_ended"
[[cancel.rule]]
http = [404]
answer = "accepted"
[[cancel.rule]]
http = 423
answer = "error"
[[cancel.rule]]
http = [422]
all = [{ path = "$.code", missing = true }]
answer = "accepted"
"#;

#[test]
fn a_rule_decides_first_what_an_answer_to_a_cancellation_means() {
    let definition = compiled(&format!("{AUTH}{RULES}"));
    let read = |status, body: &str| {
        definition.interpret_cancel(("j1", "{}"), Answer { status, headers: &[], body: body.as_bytes() })
    };
    assert_eq!(read(200, ""), CancelAnswer::Accepted);
    assert_eq!(read(200, "{}"), CancelAnswer::Accepted);
    let ended = CancelAnswer::AlreadyEnded("HTTP 200 already_done".to_owned());
    assert_eq!(read(200, r#"{"code": "already_done"}"#), ended);
    let refused = CancelAnswer::Refused("HTTP 200 17: The envelope has a code.".to_owned());
    assert_eq!(read(200, r#"{"code": 17}"#), refused);
    let message = r#"{"message": "The job is in a terminal state."}"#;
    assert_eq!(read(400, message).word(), "already_ended");
    assert_eq!(read(400, "{}").word(), "refused");
    assert_eq!(read(404, "<html>"), CancelAnswer::Accepted);
    assert_eq!(read(423, "").word(), "error");
    assert_eq!(read(422, "{}").word(), "accepted");
    assert_eq!(read(422, "<html>").word(), "refused", "what is missing may be there");
    assert_eq!(read(409, "").word(), "already_ended", "no rule: as without rules");
    assert_eq!(read(503, "").word(), "error");
}

#[test]
fn an_example_of_a_cancellation_shows_its_meaning() {
    let example = |answer: &str| {
        let tables = format!("{AUTH}{RULES}[[cancel.example]]\njob_id = \"j1\"\n{answer}\n");
        let (_, mistakes) = compile(&text(&tables));
        let of_cancel = mistakes.into_iter().map(|mistake| mistake.text);
        of_cancel.filter(|text| text.contains("cancel")).collect::<Vec<_>>().join("\n")
    };
    let ended = "body = '{\"code\": \"already_done\"}'";
    let expect = "expect = { answer = \"already_ended\", says = \"HTTP 200 already_done\" }";
    assert_eq!(example(&format!("{ended}\n{expect}")), "");
    assert_eq!(
        example(ended),
        format!("cancel.example 1: `expect` is missing; the answer was understood as: {expect}")
    );
    assert_eq!(example("http = 202\nbody = ''\nexpect = { answer = \"accepted\" }"), "");
    let wrong = example("http = 403\nbody = ''\nexpect = { answer = \"accepted\" }");
    assert!(
        wrong.contains(
            "expected `accepted`, but the answer was understood as: expect = { answer = \"refused\""
        ),
        "{wrong}"
    );
    let wrong = example("http = 403\nbody = ''\nexpect = { answer = \"gone\" }");
    assert!(
        wrong.contains("`gone` is not possible here; write one of `accepted`, `already_ended`"),
        "{wrong}"
    );
    let wrong = example("http = 403\nbody = ''\nexpect = { answer = \"accepted\", says = \"x\" }");
    assert!(wrong.contains("is not possible with `accepted`"), "{wrong}");
    let wrong = example("body = ''\nparams = { x = \"y\" }");
    assert!(wrong.contains("cancel.example 1: params: there is no [params.x]"), "{wrong}");
    let (_, mistakes) =
        compile(&text(&format!("{AUTH}[cancel]\n[cancel.rule]\nhttp = 200\nanswer = \"accepted\"\n")));
    assert!(
        mistakes.iter().any(|mistake| mistake.text.contains("write [[cancel.rule]] and not [cancel.rule]"))
    );
}

#[test]
fn a_mistake_elsewhere_is_not_reported_at_the_cancellation() {
    let of_cancel = |tables: &str| {
        let (_, mistakes) = compile(&text(tables));
        assert!(!mistakes.is_empty());
        mistakes.into_iter().filter(|mistake| mistake.text.contains("cancel")).collect::<Vec<_>>()
    };
    let cancel = "[cancel]\nmethod = \"PUT\"\njson = { id = \"{job_id}\" }\npath = \"/stop\"\n";
    for tables in [
        format!("[request]\nurl = \"https://api.two.example/{{job_id}}/../x y\"\n{AUTH}{cancel}"),
        format!("[request]\nurl = \"https://api.two.example/{{region}}/{{job_id}}\"\n{AUTH}{cancel}"),
        format!("[request]\nurl = \"https://evil.example/{{job_id}}\"\n{AUTH}{cancel}"),
        format!("[auth]\ntype = \"wrong\"\n{cancel}"),
        format!("[auth]\ntype = \"bearer\"\n{cancel}"),
    ] {
        assert_eq!(of_cancel(&tables), [], "{tables}");
    }
}
