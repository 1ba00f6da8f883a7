//! Guarantees of results that begin with the answer to another result.

use super::schema_2::{compiled, text};
use super::{Answer, Definition, Interpretation, JobReport, key, report};
use crate::providers::compile::compile;

/// A job, its list of files, the link of a file, and the file.
const CHAIN: &str = r#"
[auth]
type = "bearer"
send_to = ["api.two.example"]
[[result]]
url = "https://api.two.example/jobs/{job_id}/files"
values = { bucket = "$.bucket" }
auth = true
[[result]]
from = "result"
if = [{ path = "$.count", gt = 0 }]
url = "https://api.two.example/{bucket}/{file}/link"
values = { file = "$.files[?@.kind == 'final'].id" }
auth = true
[[result]]
from = "result"
path = "$.link"
hosts = ["cdn.example"]
body = "text"
extract = { output = "$" }
"#;

fn polled(definition: &Definition, body: &str) -> JobReport {
    report(definition.interpret("j1", Answer { status: 200, headers: &[], body: body.as_bytes() }))
}

fn after(definition: &Definition, before: &JobReport, status: u16, body: &str) -> Interpretation {
    definition.interpret_result("j1", before, Answer { status, headers: &[], body: body.as_bytes() })
}

/// Returns the URL of the next request, and whether it has the credential.
fn next(definition: &Definition, report: &JobReport) -> Option<(String, bool)> {
    let next = report.results.first()?;
    let request = definition.result_request(next, ("j1", "{}"), None, Some(key("hush"))).expect("a request");
    let has_credential = request.headers.iter().any(|(_, value)| value.contains("hush"));
    Some((request.url.into(), has_credential))
}

#[test]
fn a_result_can_begin_with_the_answer_to_another_result() {
    let definition = compiled(CHAIN);
    let job = polled(&definition, r#"{"s": "ok", "bucket": "b 1"}"#);
    assert_eq!(job.results.len(), 1);
    assert_eq!(next(&definition, &job), Some(("https://api.two.example/jobs/j1/files".to_owned(), true)));
    let list = r#"{"count": 2, "files": [{"kind": "log", "id": 1}, {"kind": "final", "id": 7}]}"#;
    let list = report(after(&definition, &job, 200, list));
    assert_eq!(next(&definition, &list), Some(("https://api.two.example/b%201/7/link".to_owned(), true)));
    let link = report(after(&definition, &list, 200, r#"{"link": "https://cdn.example/f"}"#));
    assert_eq!(next(&definition, &link), Some(("https://cdn.example/f".to_owned(), false)));
    let file = report(after(&definition, &link, 200, "the text"));
    assert_eq!((file.observation.output.as_deref(), file.results.len()), (Some("the text"), 0));
    // A host that is not listed gets no request, whatever the answer names.
    let foreign = report(after(&definition, &list, 200, r#"{"link": "https://evil.example/f"}"#));
    let refused = definition.result_request(&foreign.results[0], ("j1", "{}"), None, Some(key("hush")));
    assert!(refused.is_err_and(|why| why.contains("evil.example")));
}

#[test]
fn a_chain_ends_where_a_value_or_a_condition_is_missing() {
    let definition = compiled(CHAIN);
    let job = polled(&definition, r#"{"s": "ok", "bucket": "b"}"#);
    for list in
        [r#"{"count": 0, "files": [{"kind": "final", "id": 7}]}"#, r#"{"count": 1, "files": []}"#, "{}"]
    {
        assert!(report(after(&definition, &job, 200, list)).results.is_empty(), "{list}");
    }
    assert!(polled(&definition, r#"{"s": "ok"}"#).results.is_empty(), "no value for the chain");
    assert!(after(&definition, &job, 404, "{}").message().is_some(), "a failed request decides nothing");
}

#[test]
fn a_condition_decides_whether_a_result_is_requested() {
    let definition = compiled(
        r#"
[[result]]
if = [{ path = "$.errors", gt = 0 }, { path = "$.kind", is = "{job_id}" }]
url = "https://api.two.example/jobs/{job_id}/errors"
"#,
    );
    let count = |body: &str| polled(&definition, body).results.len();
    assert_eq!(count(r#"{"s": "ok", "errors": 1, "kind": "j1"}"#), 1);
    assert_eq!(count(r#"{"s": "ok", "errors": 1, "kind": "j2"}"#), 0, "another job");
    assert_eq!(count(r#"{"s": "ok", "errors": 0, "kind": "j1"}"#), 0);
}

#[test]
fn mistakes_in_chains_are_reported_with_a_remedy() {
    let first = "[[result]]\nurl = \"https://api.two.example/a\"\n";
    let chained = |keys: &str| format!("{first}[[result]]\nfrom = \"result\"\n{keys}");
    for (tables, expected) in [
        (
            "[[result]]\nfrom = \"result\"\nurl = \"https://api.two.example/a\"\n".to_owned(),
            "is the first [[result]]",
        ),
        (chained("when = [\"failed\"]\nurl = \"https://api.two.example/b\"\n"), "write a condition in `if`"),
        (chained("url = \"https://api.two.example/{x}\"\n"), "`{x}` is not declared"),
        (chained("url = \"https://api.two.example/b\"\nvalues = { x = \"$.x\" }\n"), "`x` is not used"),
        (
            format!("{first}[[result]]\nfrom = \"job\"\nurl = \"https://api.two.example/b\"\n"),
            "write one of `poll`, `result`",
        ),
        (
            first.repeat(2) + &chained("url = \"https://api.two.example/b\"\n"),
            "more than 3 results for the outcome completed",
        ),
    ] {
        let (_, mistakes) = compile(&text(&tables));
        assert!(mistakes.iter().any(|mistake| mistake.text.contains(expected)), "{expected}\n{mistakes:#?}");
    }
}
