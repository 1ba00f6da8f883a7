//! Guarantees of answers that are no JSON, and of the id in an answer.

use super::schema_2::{compiled, text};
use super::{Answer, Definition, Interpretation, PollFailure, report};
use crate::domain::{JobStatus, Observation};
use crate::providers::compile::compile;

fn read(definition: &Definition, job: (&str, &str), status: u16, body: &str) -> Interpretation {
    definition.interpret_of(job, Answer { status, headers: &[], body: body.as_bytes() })
}

fn job(definition: &Definition, body: &str) -> Observation {
    report(read(definition, ("j1", "{}"), 200, body)).observation
}

fn failure(definition: &Definition, status: u16, body: &str) -> (PollFailure, String) {
    let Interpretation::Failed { failure, message } = read(definition, ("j1", "{}"), status, body) else {
        panic!("{body}")
    };
    (failure, message)
}

#[test]
fn a_word_can_be_the_whole_answer() {
    let definition = compiled(
        r#"
[response]
body = "text"
[status]
path = "$"
[status.map]
processing = ["RUNNING"]
completed = ["DONE"]
failed = ["ERROR"]
[not_found]
path = { path = "$", match = "^no such job" }
[errors]
message = "$"
[cancel]
path = "/cancel"
[[cancel.rule]]
all = [{ path = "$", is = "TOO LATE" }]
answer = "already_ended"
"#,
    );
    assert_eq!(job(&definition, "DONE\r\n").status, JobStatus::Completed);
    let running = job(&definition, " RUNNING");
    assert_eq!((running.status, running.raw_status.as_deref()), (JobStatus::Processing, Some("RUNNING")));
    assert_eq!(job(&definition, "half a wor").status, JobStatus::Processing, "an unknown word ends nothing");
    assert_eq!(failure(&definition, 200, "\n").0, PollFailure::Error);
    assert_eq!(failure(&definition, 404, "no such job: j1").0, PollFailure::NotFound);
    let (refused, message) = failure(&definition, 404, "<html>nginx</html>");
    assert_eq!((refused, message.as_str()), (PollFailure::Error, "HTTP 404: <html>nginx</html>"));
    let answer = Answer { status: 200, headers: &[], body: b"TOO LATE\n" };
    assert_eq!(definition.interpret_cancel(("j1", "{}"), answer).word(), "already_ended");
    assert!(definition.reads_texts());
}

#[test]
fn xml_and_lines_are_read_with_patterns() {
    let xml = compiled(
        r#"
[response]
body = "text"
[status]
path = { path = "$", match = "<status>([^<]+)</status>" }
[status.map]
processing = ["run"]
completed = ["ok"]
failed = ["bad"]
[extract]
job_id = { path = "$", match = "<id>([^<]+)</id>" }
progress = { path = "$", match = "<percent>([0-9]+)<", unit = "percent" }
error_message = { path = "$", match = "(?s)<error>(.*)</error>" }
[[rule]]
all = [{ path = "$", matches = "<stopped/>" }]
status = "cancelled"
"#,
    );
    let body = |rest: &str| format!("<?xml version=\"1.0\"?>\n<job><id>j1</id>{rest}</job>");
    let seen = job(&xml, &body("<status>run</status><percent>42</percent>"));
    assert_eq!((seen.status, seen.progress), (JobStatus::Processing, Some(42)));
    let seen = job(&xml, &body("<status>bad</status><error>no\ncodec</error>"));
    assert_eq!(seen.error.and_then(|error| error.message).as_deref(), Some("no\ncodec"));
    assert_eq!(job(&xml, &body("<stopped/>")).status, JobStatus::Cancelled);
    let other = read(&xml, ("j2", "{}"), 200, &body("<status>ok</status>"));
    assert_eq!(other.message(), Some("the response is about another job"));
    let lines = compiled(
        r#"
[response]
body = "text"
[status]
path = { path = "$", match = "(?m)^state=(.*?)\\r?$" }
[status.map]
processing = ["run"]
completed = ["ok"]
failed = ["bad"]
[extract]
job_id = "none"
output = { path = "$", match = "(?m)^file=(.*?)\\r?$", when = ["completed"] }
"#,
    );
    let seen = job(&lines, "id=1\r\nstate=ok\r\nfile=https://cdn.example/a\r\n");
    assert_eq!((seen.status, seen.output.as_deref()), (JobStatus::Completed, Some("https://cdn.example/a")));
}

#[test]
fn an_error_that_is_no_json_is_a_text() {
    let definition = compiled(
        r#"
[errors]
message = ["$.message", { path = "$", match = "<title>([^<]*)</title>" }]
[[rule]]
http = [503]
all = [{ path = "$", matches = "(?i)maintenance" }]
answer = "not_yet"
[[rule]]
all = [{ path = "$", matches = "done" }]
status = "completed"
"#,
    );
    let page = "<html><title>502 Bad Gateway</title></html>";
    assert_eq!(failure(&definition, 502, page), (PollFailure::Error, "HTTP 502: 502 Bad Gateway".to_owned()));
    assert_eq!(read(&definition, ("j1", "{}"), 503, "Maintenance until 5"), Interpretation::NotYet);
    // A page ends no job, and a good answer must be JSON.
    assert_eq!(failure(&definition, 500, "done").0, PollFailure::Error);
    assert!(failure(&definition, 200, "done").1.contains("not JSON"));
    assert_eq!(failure(&definition, 404, page).0, PollFailure::Error, "a page is no lost job");
}

#[test]
fn the_id_in_an_answer_can_be_longer_or_shorter() {
    let longer = compiled("[extract]\njob_id = { path = \"$.name\", match = \"[^/]+$\" }\n");
    let ok = |definition: &Definition, id: &str, params: &str, body: &str| {
        read(definition, (id, params), 200, body).message().is_none()
    };
    assert!(ok(&longer, "j1", "{}", r#"{"s": "run", "name": "projects/x/jobs/j1"}"#));
    assert!(!ok(&longer, "j1", "{}", r#"{"s": "run", "name": "projects/x/jobs/j12"}"#));
    let shorter = compiled(
        "[params.project]\npattern = \"[a-z]+\"\n[params.job_id]\npattern = \"projects/[a-z]+/jobs/[a-z0-9]+\"\nencode = \"path\"\n\
         [request]\nurl = \"https://api.two.example/{job_id}\"\nquery = { p = \"{project}\" }\n[extract]\n\
         job_id = \"projects/{project}/jobs/{$.id}\"\n",
    );
    let params = r#"{"project": "x"}"#;
    assert!(ok(&shorter, "projects/x/jobs/j1", params, r#"{"s": "run", "id": "j1"}"#));
    assert!(ok(&shorter, "projects/x/jobs/7", params, r#"{"s": "run", "id": 7}"#));
    assert!(!ok(&shorter, "projects/y/jobs/j1", params, r#"{"s": "run", "id": "j1"}"#));
    for (keys, expected) in [
        ("{ path = \"$.id\", when = [\"completed\"] }", "`when` is not possible here"),
        ("\"projects/{project}/{$.id}\"", "`{project}` is neither a path"),
    ] {
        let (_, mistakes) = compile(&text(&format!("[extract]\njob_id = {keys}\n")));
        assert!(mistakes.iter().any(|mistake| mistake.text.contains(expected)), "{expected}\n{mistakes:#?}");
    }
}
