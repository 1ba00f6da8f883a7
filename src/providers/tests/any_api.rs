//! Guarantees for APIs with unusual outputs, statuses, errors and requests.

use serde_json::{Value, json};

use super::schema_2::{compiled, text};
use super::{Answer, Definition, Interpretation, PollFailure, mistakes, report};
use crate::domain::{JobStatus, Observation};
use crate::providers::compile::compile;

fn read(definition: &Definition, status: u16, headers: &[(&str, &str)], body: &str) -> Interpretation {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let headers: Vec<_> = headers.iter().map(owned).collect();
    let job = ("j1", r#"{"host":"eu.two.example","team":"blue"}"#);
    definition.interpret_of(job, Answer { status, headers: &headers, body: body.as_bytes() })
}

fn job(definition: &Definition, body: &str) -> Observation {
    report(read(definition, 200, &[], body)).observation
}

/// Checks that a definition with these tables has this mistake.
fn refuse(tables: &str, expected: &str) {
    let found = mistakes(&text(tables));
    assert!(found.iter().any(|mistake| mistake.contains(expected)), "{tables}\n{expected}\n{found:#?}");
}

#[test]
fn an_output_can_be_made_of_values_ids_and_parameters() {
    let definition = compiled(
        r#"
[params.team]
pattern = "[a-z]+"
[params.job_id]
pattern = "[a-z0-9]+"
[extract]
job_id = "none"
output = "https://files.two.example/{team}/{job_id}/{$.file_id}/content"
error_message = { template = "{$.reason}: {$.detail}", when = ["failed"] }
[extract.outputs]
each = "$.files[*]"
url = "https://files.two.example/{$.id}"
"#,
    );
    let seen = job(
        &definition,
        r#"{"s": "ok", "file_id": "f 1/a", "files": [{"id": 5}, {"id": "../x"}, {"id": null}]}"#,
    );
    assert_eq!(seen.output.as_deref(), Some("https://files.two.example/blue/j1/f%201/a/content"));
    let urls: Vec<_> = seen.outputs.iter().flatten().map(|output| output.url.as_deref()).collect();
    assert_eq!(urls, [Some("https://files.two.example/5")]);
    // A missing value, and an outcome for which it is not read.
    let seen = job(&definition, r#"{"s": "ok", "reason": "a", "detail": "b"}"#);
    assert_eq!((seen.output, seen.error), (None, None));
    let error = job(&definition, r#"{"s": "bad", "reason": "a", "detail": "b"}"#).error.unwrap();
    assert_eq!(error.message.as_deref(), Some("a: b"));
}

#[test]
fn a_template_without_meaning_is_a_mistake() {
    for (output, expected) in [
        ("\"https://x.example/{team}/{$.id}\"", "`{team}` is neither a path, such as {$.team}, nor declared"),
        ("\"https://x.example/{job_id}\"", "extract.output: needs `when = [\"completed\"]`"),
        (
            "\"https://x{$.host}/x\"",
            "the host can contain parameters, and a value of an answer can be the whole host",
        ),
        ("\"https://x.example/{$.id\"", "has an unpaired brace"),
        ("{ template = \"https://x.example/{$.id}\", path = \"$.x\" }", "possible only without `template`"),
        ("{ template = \"plain\" }", "has no value in braces"),
        ("\"https://x.example/x\"", "write it as $"),
    ] {
        refuse(&format!("[extract]\njob_id = \"none\"\noutput = {output}\n"), expected);
    }
    // Other fields are read as they are.
    refuse("[extract]\njob_id = \"none\"\noutput_json = { template = \"{$.a}\" }\n", "template");
    let old = text("[extract]\njob_id = \"$.id\"\noutput = \"https://x.example/{$.id}\"\n");
    assert!(!mistakes(&old.replace("schema = 2", "schema = 1")).is_empty());
}

#[test]
fn a_rule_can_mean_everything_that_the_map_can() {
    let definition = compiled(
        r#"
[[rule]]
all = [{ path = "$.approval", is = "required" }]
status = "waiting"
raw_status = "approval"
[[rule]]
all = [{ path = "$.errors", gt = 0 }]
status = "partial"
[[rule]]
http = 410
status = "expired"
explain = "Too late."
"#,
    );
    let seen = job(&definition, r#"{"s": "x", "approval": "required"}"#);
    assert_eq!((seen.status, seen.raw_status.as_deref()), (JobStatus::Processing, Some("approval")));
    let code = |seen: &Observation| seen.error.as_ref().and_then(|error| error.code.clone());
    let seen = job(&definition, r#"{"s": "ok", "errors": 1}"#);
    assert_eq!((seen.status, code(&seen).as_deref()), (JobStatus::Completed, Some("partial")));
    let seen = report(read(&definition, 410, &[], "{}")).observation;
    assert_eq!((seen.status, code(&seen).as_deref()), (JobStatus::Failed, Some("expired")));
    refuse(
        "[[rule]]\nhttp = 410\nanswer = \"not_yet\"\nraw_status = \"x\"\n",
        "is possible only with `status`",
    );
    refuse("[[rule]]\nhttp = 410\nstatus = \"gone\"\n", "`expired`, `partial`, `waiting`");
}

#[test]
fn an_api_that_cannot_fail_says_so() {
    let tables = |failed: &str| {
        let status = "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [\"run\"]\ncompleted = [\"ok\"]\n";
        let example = |word: &str, status: &str| {
            format!(
                "[[example]]\njob_id = \"j1\"\nbody = '{{\"s\": \"{word}\"}}'\n\
                 expect = {{ answer = \"seen\", status = \"{status}\", raw_status = \"{word}\" }}\n"
            )
        };
        format!("{status}{failed}\n{}{}", example("run", "processing"), example("ok", "completed"))
    };
    let (definition, found) = compile(&text(&tables("failed = []")));
    assert!(definition.is_some() && found.is_empty(), "{found:#?}");
    refuse(&tables(""), "at least one word or rule must mean failed");
    refuse(&tables(""), "at least one must show a job that failed");
}

#[test]
fn an_unknown_job_can_have_no_answer_or_a_code_in_a_header() {
    let none = compiled("[not_found]\nhttp = []\n");
    let failure = |definition: &Definition, headers: &[(&str, &str)]| {
        let Interpretation::Failed { failure, message } = read(definition, 404, headers, "{}") else {
            panic!("404")
        };
        (failure, message)
    };
    assert_eq!(failure(&none, &[]).0, PollFailure::Error);
    let coded = compiled(
        "[errors]\ncode = [\"$.code\", { header = \"X-Error\" }]\naccount = [\"suspended\"]\n\
         [not_found]\nvalues = [\"no_job\"]\n",
    );
    let found = failure(&coded, &[("x-error", "no_job")]);
    assert_eq!(found, (PollFailure::NotFound, "HTTP 404 no_job".to_owned()));
    assert_eq!(failure(&coded, &[("x-error", "no_route")]).0, PollFailure::Error);
    let code = "suspended".to_owned();
    assert_eq!(failure(&coded, &[("x-error", "suspended")]).0, PollFailure::Unauthorized { code });
    refuse(
        "[errors]\ncode = { header = \"x\", when = [\"failed\"] }\n",
        "errors.code: `when` is not possible",
    );
    refuse(
        "[not_found]\nhttp = []\nvalues = [\"a\"]\n[errors]\ncode = \"$.c\"\n",
        "remove `path` and `values`",
    );
    refuse("[not_found]\nhttp = [500]\n", "must list statuses from 400 to 499");
}

const OPTIONAL: &str = r#"
[params.job_id]
pattern = "[a-z0-9]+"
[params.team]
optional = true
pattern = "[a-z]+"
[request]
method = "POST"
url = "https://api.two.example/jobs"
query = { team = "{team}", all = "1" }
headers = { X-Team = "team {team}", X-All = "1" }
json = { id = "{job_id}", team = "{team}", deep = { team = "{team}", a = 1 } }
"#;

#[test]
fn what_contains_an_absent_optional_parameter_is_not_sent() {
    let definition = compiled(OPTIONAL);
    let request = |given: Value| {
        let params = definition.params(given.as_object().unwrap()).unwrap();
        let request = definition.request("j1", &params, None, None).unwrap();
        let team = request.headers.iter().find(|(name, _)| name == "x-team").map(|(_, value)| value.clone());
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        (params, request.url.query().map(str::to_owned), team, body)
    };
    let absent = ("{}".to_owned(), Some("all=1".to_owned()), None, json!({ "id": "j1", "deep": { "a": 1 } }));
    assert_eq!(request(json!({})), absent);
    let body = json!({ "id": "j1", "team": "blue", "deep": { "team": "blue", "a": 1 } });
    let query = Some("all=1&team=blue".to_owned());
    let given = (r#"{"team":"blue"}"#.to_owned(), query, Some("team blue".to_owned()), body);
    assert_eq!(request(json!({ "team": "blue" })), given);
    assert!(definition.params(json!({ "team": "5" }).as_object().unwrap()).is_err());
    assert!(definition.parameters().all(|parameter| parameter.is_optional));
    for (part, replaced, expected) in [
        ("/jobs\"", "/jobs/{team}\"", "params.team: is optional, but always a part of the request"),
        ("{ team = \"{team}\", a = 1 }", "[\"{team}\"]", "params.team: is optional, but always a part"),
        ("optional = true", "optional = true\ndefault = \"a\"", "is not possible with `default`"),
        ("optional = true", "optional = 1", "params.team.optional: must be true or false"),
        (
            "pattern = \"[a-z0-9]+\"",
            "pattern = \"[a-z0-9]+\"\noptional = true",
            "every registration gives a job id",
        ),
    ] {
        refuse(&OPTIONAL.replacen(part, replaced, 1), expected);
    }
}
