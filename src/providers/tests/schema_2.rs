//! Guarantees of schema 2 of the definition language.

use serde_json::{Map, Value, json};

use super::{Answer, Definition, Interpretation, PollFailure, key, mistakes, report};
use crate::domain::{JobStatus, Observation, Timestamp};
use crate::providers::compile::compile;

/// Returns a definition of schema 2 with these tables, and with defaults for the required ones that they do not have.
pub(super) fn text(tables: &str) -> String {
    let or = |key: &str, default: &str| if tables.contains(key) { "" } else { default }.to_owned();
    [
        "schema = 2\nid = \"two\"\nname = \"Two\"\ndocs = \"https://two.example/docs\"\n".to_owned(),
        or("[params.job_id", "[params.job_id]\npattern = \"[a-z0-9_]+\"\n"),
        or("[auth]", "[auth]\ntype = \"none\"\n"),
        or("[request", "[request]\nurl = \"https://api.two.example/jobs/{job_id}\"\n"),
        or("[extract]", "[extract]\njob_id = \"none\"\n"),
        or(
            "[status",
            "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [\"run\"]\ncompleted = [\"ok\"]\nfailed = [\"bad\"]\n",
        ),
        tables.to_owned(),
    ]
    .concat()
}

/// Compiles a definition without examples.
pub(super) fn compiled(tables: &str) -> Definition {
    let text = text(tables);
    let (definition, mistakes) = compile(&text);
    let is_example = |mistake: &super::Mistake| mistake.text.starts_with("example: at least one must show");
    assert!(mistakes.iter().all(is_example), "{text}\n{mistakes:#?}");
    definition.expect("only the examples are missing")
}

fn read(definition: &Definition, status: u16, headers: &[(&str, &str)], body: &str) -> Interpretation {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let headers: Vec<_> = headers.iter().map(owned).collect();
    definition.interpret("j1", Answer { status, headers: &headers, body: body.as_bytes() })
}

fn job(definition: &Definition, body: &str) -> Observation {
    report(read(definition, 200, &[], body)).observation
}

fn failure(meaning: Interpretation) -> (PollFailure, String) {
    let Interpretation::Failed { failure, message } = meaning else { panic!("{meaning:?}") };
    (failure, message)
}

fn error_of(job: &Observation) -> (Option<&str>, Option<&str>) {
    let error = job.error.as_ref();
    (error.and_then(|error| error.code.as_deref()), error.and_then(|error| error.message.as_deref()))
}

#[test]
fn the_first_rule_that_matches_decides() {
    let definition = compiled(
        r#"
[errors]
code = "$.code"
message = "$.msg"
account = ["locked"]
[[rule]]
http = [422]
all = [{ path = "$.msg", is = "Request is still in progress" }]
answer = "not_yet"
[[rule]]
http = ["4xx"]
any = [{ path = "$.code", in = ["moderated", 17] }, { header = "x-fal", is = "failed" }]
status = "failed"
code = "rejected"
explain = "The input was rejected."
extract = { error_message = "$.msg" }
[[rule]]
http = "2xx"
all = [{ path = "$.code", gt = 0 }]
answer = "error"
code = "odd"
[[rule]]
http = [202]
status = "processing"
[[rule]]
http = [410]
answer = "not_found"
explain = "It was deleted."
[[rule]]
http = [403]
answer = "rate_limited"
[[rule]]
all = [{ path = "$.locked", is = true }]
answer = "unauthorized"
"#,
    );
    let at = |status, body: &str| read(&definition, status, &[], body);
    assert_eq!(at(422, r#"{"msg": "Request is still in progress"}"#), Interpretation::NotYet);
    // Before `[errors]`.
    let seen = report(at(422, r#"{"code": "17", "msg": "No faces."}"#));
    assert_eq!(seen.observation.status, JobStatus::Failed);
    assert_eq!(error_of(&seen.observation), (Some("rejected"), Some("No faces.")));
    assert_eq!((seen.observation.raw_status, seen.unknown_status), (None, false));
    let seen = report(read(&definition, 400, &[("x-fal", "failed")], r#"{"s": "x"}"#)).observation;
    assert_eq!(error_of(&seen), (Some("rejected"), Some("The input was rejected.")));
    assert_eq!(seen.raw_status.as_deref(), Some("x"));
    assert_eq!(failure(at(200, r#"{"s": "ok", "code": 5}"#)), (PollFailure::Error, "HTTP 200 5".to_owned()));
    assert_eq!(report(at(202, r#"{"s": "ok"}"#)).observation.status, JobStatus::Processing);
    let gone = (PollFailure::NotFound, "HTTP 410: It was deleted.".to_owned());
    assert_eq!(failure(at(410, "<html>")), gone, "a rule about the poll needs no body");
    assert_eq!(failure(at(403, "")).0, PollFailure::RateLimited);
    let code = "unauthorized".to_owned();
    assert_eq!(failure(at(500, r#"{"locked": true}"#)).0, PollFailure::Unauthorized { code });
    // No rule: as without rules.
    assert_eq!(failure(at(429, "")).0, PollFailure::RateLimited);
    let code = "locked".to_owned();
    assert_eq!(failure(at(400, r#"{"code": "locked"}"#)).0, PollFailure::Unauthorized { code });
    assert_eq!(report(at(200, r#"{"s": "ok"}"#)).observation.status, JobStatus::Completed);
    // A truncated body ends no job, whatever the status says.
    assert_eq!(failure(at(202, r#"{"s": "ok""#)).0, PollFailure::Error);
    assert_eq!(failure(at(202, "")).0, PollFailure::Error);
}

#[test]
fn a_status_has_any_type() {
    let definition = compiled(
        r#"
[status]
path = "$.s"
fold = "lower"
[status.map]
pending = [1, "Queued"]
processing = [2, false]
completed = [3, true, 4.5]
failed = ["bad"]
expired = ["Timeout"]
partial = ["half"]
waiting = ["manual"]
[status.explain]
Timeout = "It took too long."
"#,
    );
    for (body, status, raw, code) in [
        (r#"{"s": 1}"#, JobStatus::Pending, "1", None),
        (r#"{"s": "1"}"#, JobStatus::Pending, "1", None),
        (r#"{"s": "QUEUED"}"#, JobStatus::Pending, "QUEUED", None),
        (r#"{"s": 2.0}"#, JobStatus::Processing, "2", None),
        (r#"{"s": false}"#, JobStatus::Processing, "false", None),
        (r#"{"s": true}"#, JobStatus::Completed, "true", None),
        (r#"{"s": 4.5}"#, JobStatus::Completed, "4.5", None),
        (r#"{"s": "half"}"#, JobStatus::Completed, "half", Some("partial")),
        (r#"{"s": "TIMEOUT"}"#, JobStatus::Failed, "TIMEOUT", Some("expired")),
        (r#"{"s": "manual"}"#, JobStatus::Processing, "manual", None),
    ] {
        let job = job(&definition, body);
        assert_eq!(
            (job.status, job.raw_status.as_deref(), error_of(&job).0),
            (status, Some(raw), code),
            "{body}"
        );
    }
    assert_eq!(error_of(&job(&definition, r#"{"s": "timeout"}"#)).1, Some("It took too long."));
    let unknown = report(read(&definition, 200, &[], r#"{"s": 99}"#));
    assert!(unknown.unknown_status && unknown.observation.status == JobStatus::Processing);
    for none in [r#"{"s": null}"#, "{}", r#"{"s": [3]}"#, r#"{"s": {}}"#] {
        assert_eq!(failure(read(&definition, 200, &[], none)).0, PollFailure::Error, "{none}");
    }
}

#[test]
fn the_http_status_or_a_header_can_be_the_status() {
    let definition = compiled(
        r#"
[response]
body = "json_or_empty"
[status]
path = "http"
[status.map]
processing = [202]
completed = [200]
[[rule]]
http = [500]
all = [{ path = "$.failed", is = true }]
status = "failed"
[extract]
job_id = "none"
output = { header = "Location" }
"#,
    );
    let seen = report(read(&definition, 202, &[], "")).observation;
    assert_eq!((seen.status, seen.raw_status.as_deref()), (JobStatus::Processing, Some("202")));
    let seen = report(read(&definition, 200, &[("location", "https://cdn.example/1")], " \n")).observation;
    assert_eq!((seen.status, seen.output.as_deref()), (JobStatus::Completed, Some("https://cdn.example/1")));
    let seen = report(read(&definition, 500, &[], r#"{"failed": true}"#)).observation;
    assert_eq!((seen.status, seen.raw_status.as_deref()), (JobStatus::Failed, Some("500")));
    assert_eq!(failure(read(&definition, 500, &[], "")).0, PollFailure::Error);
    assert_eq!(failure(read(&definition, 404, &[], "")).0, PollFailure::Error, "an empty 404 is no lost job");
    assert_eq!(failure(read(&definition, 200, &[], "{")).0, PollFailure::Error);

    let header = compiled(
        r#"
[response]
body = "none"
[status]
path = { header = "x-status" }
[status.map]
processing = ["run"]
completed = ["ok"]
failed = ["bad"]
"#,
    );
    let seen = report(read(&header, 200, &[("x-status", "ok")], "<not read>")).observation;
    assert_eq!(seen.status, JobStatus::Completed);
}

#[test]
fn fields_are_read_from_the_jobs_part_for_the_outcomes_that_need_them() {
    let definition = compiled(
        r#"
[extract]
job_id = "$.jobs[?@.id == {job_id}].id"
output = { path = "$.url", when = ["completed"] }
output_json = [{ path = "$.list", when = ["partial"] }, { path = "$.result", when = ["completed"] }]
outputs = { each = "$.files[*]", url = ["$.href", "$"], type = "$.kind" }
error_code = { path = "$.code", when = ["failed"] }
error_message = ["$.none", { path = "$.msg", when = ["failed", "cancelled"] }]
progress = { path = "$.progress", unit = "percent" }
created_at = { path = "$.created", format = "epoch_s" }
completed_at = { path = "$.updated", format = "naive_utc", when = ["completed", "failed"] }
null = ["", "N/A", "0001-01-01T00:00:00", 0, "0"]
[status]
path = "$.jobs[?@.id == {job_id}].s"
[status.map]
processing = ["run"]
completed = ["ok"]
failed = ["bad"]
partial = ["half"]
"#,
    );
    let job = |state: &str, rest: &str| {
        let jobs = format!(r#"[{{"id": "other", "s": "bad"}}, {{"id": "j1", "s": "{state}"}}]"#);
        job(&definition, &format!(r#"{{"jobs": {jobs}, {rest}}}"#))
    };
    let fields = r#""url": "https://a.example", "code": 7, "msg": "no", "updated": "2026-02-18 15:00:00", "progress": "42%""#;
    let running = job("run", fields);
    assert_eq!((running.output, running.completed_at, running.progress), (None, None, Some(42)));
    assert_eq!(running.error, None);
    let done = job("ok", fields);
    assert_eq!(done.output.as_deref(), Some("https://a.example"));
    assert_eq!(done.completed_at.map(|at| at.to_string()).as_deref(), Some("2026-02-18T15:00:00.000Z"));
    let failed = job("bad", fields);
    assert_eq!(error_of(&failed), (Some("7"), Some("no")));
    // A partial completion is a completion.
    let partial = job("half", r#""list": [1, {"a": "é"}], "result": {"x": 1}"#);
    assert_eq!(
        (partial.output.as_deref(), error_of(&partial).0),
        (Some(r#"[1,{"a":"é"}]"#), Some("partial"))
    );
    assert_eq!(
        job("ok", r#""list": [1], "result": {"b": 1, "a": 2}"#).output.as_deref(),
        Some(r#"{"b":1,"a":2}"#)
    );
    let nulls = job("ok", r#""url": "N/A", "progress": 0, "created": "0", "updated": "0001-01-01T00:00:00""#);
    assert_eq!(
        (nulls.output, nulls.progress, nulls.created_at, nulls.completed_at),
        (None, None, None, None)
    );
    // Members of an object, and texts.
    let files = job(
        "ok",
        r#""files": {"a": {"href": "https://a.example", "kind": "video"}, "b": "https://b.example"}"#,
    );
    let urls: Vec<_> = files.outputs.unwrap().into_iter().map(|output| output.url.unwrap()).collect();
    assert_eq!(urls, ["https://a.example", "https://b.example"]);
    let other = read(&definition, 200, &[], r#"{"jobs": [{"id": "other", "s": "ok"}]}"#);
    assert!(failure(other).1.contains("does not name the job"));
}

#[test]
fn an_encoded_part_is_decoded_before_anything_is_read() {
    let definition = compiled(
        r#"
[response]
decode = [{ path = "$.data.result", as = "json" }, { path = "$.state", as = "base64_json" }]
request_id = { header = "x-request-id" }
[extract]
job_id = "none"
output = "$.data.result.urls[-1]"
[status]
path = "$.state.s"
[status.map]
processing = ["run"]
completed = ["ok"]
failed = ["bad"]
"#,
    );
    let body = r#"{"state": "eyJzIjogIm9rIn0=", "data": {"result": "{\"urls\": [\"a\", \"b\"]}"}}"#;
    let seen = report(read(&definition, 200, &[("x-request-id", "r1")], body));
    assert_eq!((seen.observation.output.as_deref(), seen.request_id.as_deref()), (Some("b"), Some("r1")));
    let cut = r#"{"state": "eyJzIjogIm9rIn0=", "data": {"result": "{\"urls\": [\"a\""}}"#;
    assert_eq!(job(&definition, cut).output, None);
}

#[test]
fn mistakes_of_serializers_hide_no_ending() {
    let definition = compiled("[extract]\njob_id = \"$.id\"\noutput = \"$.url\"\n");
    for body in [
        &b"{\"id\": \"j1\", \"s\": \"run\", \"s\": \"ok\"}"[..],
        b"{\"id\": \"j1\", \"s\": \"ok\", \"eta\": NaN, \"x\": -Infinity}",
        b"{\"id\": \"j1\", \"s\": \"ok\", \"prompt\": \"\xff\"}",
        b"{\"id\": \"j1\", \"s\": \"ok\", \"prompt\": \"a\nb\"}",
        b"\xef\xbb\xbf{\"id\": \"j1\", \"s\": \"ok\", \"n\": 1e999}",
    ] {
        let seen = report(definition.interpret("j1", Answer { status: 200, headers: &[], body })).observation;
        assert_eq!(seen.status, JobStatus::Completed, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn everything_of_schema_2_is_refused_in_schema_1() {
    let base = super::small(&[]);
    for (what, by, key) in [
        ("name = \"Small\"", "name = \"Small\"\nwebhooks = \"x\"", "webhooks"),
        ("name = \"Small\"", "name = \"Small\"\nnotes = [\"x\"]", "notes"),
        ("[auth]\ntype = \"header\"", "[auth]\ntype = \"basic\"", "auth.type"),
        ("[\"small.example\"]", "[\"small.example\", \"*.small.example\"]", "auth.send_to"),
        ("[request]", "[request]\naccept = \"text/json\"", "request.accept"),
        ("[request]", "[request]\njson = { a = 1 }", "request.json"),
        ("[request]", "[request]\nredirect = \"never\"", "request.redirect"),
        ("[status]", "[response]\nbody = \"json\"\n[status]", "response.body"),
        ("[status]", "[response]\ndecode = []\n[status]", "response.decode"),
        ("[status]", "[[rule]]\nhttp = [200]\nstatus = \"completed\"\n[status]", "rule"),
        ("failed = [\"bad\"]", "failed = [\"bad\", 5]", "status.map.failed"),
        ("failed = [\"bad\"]", "failed = [\"bad\"]\npartial = [\"half\"]", "status.map.partial"),
        ("[extract]", "[extract]\noutput_json = \"$.a\"", "extract.output_json"),
        ("[extract]", "[extract]\nnull = []", "extract.null"),
        ("[extract]", "[extract]\noutput = { path = \"$.a\" }", "extract.output"),
        ("[extract]", "[extract]\noutput = \"$.a[-1]\"", "extract.output"),
        ("format = \"epoch_ms\"", "format = \"naive_utc\"", "extract.created_at.format"),
        ("[[example]]", "[[example]]\nheaders = {}", "example.headers"),
    ] {
        assert!(base.contains(what), "{what}");
        let found = mistakes(&base.replacen(what, by, 1));
        let is_refused =
            |one: &String| one.contains(&format!(" {key}: ")) && one.contains("needs schema = 2");
        assert!(found.iter().any(is_refused), "{by}: {found:#?}");
    }
    for schema_1 in ["job_id = \"none\"", "job_id = { header = \"x\" }"] {
        assert!(Definition::parse(&base.replacen("job_id = \"$.id\"", schema_1, 1)).is_err());
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "the table of mistakes is long")]
fn every_mistake_of_schema_2_is_named() {
    for (tables, sentence) in [
        ("[[rule]]\nstatus = \"failed\"", "rule: has no condition"),
        ("[[rule]]\nhttp = [200]", "rule: has exactly one of `status`"),
        (
            "[[rule]]\nhttp = [200]\nstatus = \"failed\"\nanswer = \"error\"",
            "rule: has exactly one of `status`",
        ),
        ("[[rule]]\nhttp = [99]\nanswer = \"error\"", "rule.http: `99` is not an HTTP status"),
        ("[[rule]]\nhttp = [\"6xx\"]\nanswer = \"error\"", "rule.http: `6xx` is not an HTTP status"),
        (
            "[[rule]]\nhttp = [200]\nstatus = \"done\"",
            "rule.status: `done` is not possible here; write one of",
        ),
        (
            "[[rule]]\nhttp = [200]\nanswer = \"not_yet\"\ncode = \"x\"",
            "rule.code: is not possible with `not_yet`",
        ),
        (
            "[[rule]]\nhttp = [200]\nanswer = \"error\"\nextract = {}",
            "rule.extract: is possible only with `status`",
        ),
        (
            "[[rule]]\nall = [{ path = \"$.a\" }]\nanswer = \"error\"",
            "rule.all: a condition has exactly one of",
        ),
        (
            "[[rule]]\nall = [{ path = \"$.a\", is = 1, gt = 2 }]\nanswer = \"error\"",
            "rule.all: a condition has exactly",
        ),
        ("[[rule]]\nall = [{ is = 1 }]\nanswer = \"error\"", "rule.all: needs `path` or `header`"),
        (
            "[[rule]]\nall = [{ path = \"$.a\", matches = \"(\" }]\nanswer = \"error\"",
            "rule.all.matches: `(` is not a regular",
        ),
        (
            "[[rule]]\nall = [{ path = \"$.a\", exists = false }]\nanswer = \"error\"",
            "rule.all.exists: must be true",
        ),
        (
            "[[rule]]\nall = [{ path = \"$.a\", missing = true, every = true }]\nanswer = \"error\"",
            "rule.all.every: has no",
        ),
        (
            "[[rule]]\nall = [{ path = \"$.a\", op = \"eq\", is = 1 }]\nanswer = \"error\"",
            "rule.all.op: is not a key",
        ),
        (
            "[status]\npath = \"http\"\n[status.map]\ncompleted = [200]\nprocessing = [202]\nfailed = [404]",
            "`404` is never a status here",
        ),
        (
            "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [1]\ncompleted = [2, \"2\"]\nfailed = [3]",
            "`2` is listed twice",
        ),
        (
            "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [1]\nrunning = [2]\ncompleted = [3]\nfailed = [4]",
            "status.map.running: is not an outcome",
        ),
        (
            "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [1]\ncompleted = [3]",
            "at least one word or rule must mean failed",
        ),
        (
            "[response]\nbody = \"none\"\n",
            "status.path: a path finds nothing, because response.body is `none`",
        ),
        ("[response]\nbody = \"xml\"\n", "response.body: `xml` is not possible here"),
        (
            "[extract]\njob_id = \"none\"\noutputs_expire = { after = \"1h\" }",
            "extract.outputs_expire: the key `format` is missing",
        ),
        ("[extract]\noutput = \"$.a\"", "extract: the key `job_id` is missing"),
        (
            "[extract]\njob_id = \"none\"\noutput = { path = \"$.a\", when = [\"done\"] }",
            "extract.output.when: `done` is not possible",
        ),
        ("[auth]\ntype = \"oauth2\"", "auth: the key `token_url` is missing"),
        ("[auth]\ntype = \"query\"\nsend_to = [\"api.two.example\"]", "auth: the key `query` is missing"),
        (
            "[auth]\ntype = \"query\"\nquery = { a = \"b\" }\nsend_to = [\"api.two.example\"]",
            "auth.query: must contain a field",
        ),
        (
            "[auth]\ntype = \"body\"\nbody = { a = \"{key}\" }\nsend_to = [\"api.two.example\"]",
            "request: auth.type `body` needs a body",
        ),
        ("[auth]\ntype = \"bearer\"", "auth: the key `send_to` is missing"),
        ("[auth]\ntype = \"bearer\"\nsend_to = [\"*.com\"]", "auth.send_to: `*.com` allows too many hosts"),
        (
            "[request]\nurl = \"https://api.two.example/{job_id}\"\njson = { a = 1 }",
            "request.url: a request with a body needs",
        ),
        (
            "[request]\nurl = \"https://{host}/{job_id}\"\n[params.host]\n",
            "request.url: `{host}` is in the host, so it needs",
        ),
        (
            "[request]\nurl = \"https://{job_id}.two.example/\"\n",
            "request.url: the host cannot contain the id",
        ),
        (
            "[request]\nmethod = \"DELETE\"\nurl = \"https://api.two.example/{job_id}\"",
            "request.method: `DELETE` is not possible",
        ),
        (
            "[request]\njob_url = { hosts = [\"api.two.example\"], path = \"/x\" }",
            "request.job_url.path: needs the group",
        ),
        ("[cancels]\nmethod = \"POST\"", "cancels: is not a key of this table"),
        ("[[result]]\nurl = \"https://a.example\"", "result.url: `https://a.example` has no path"),
    ] {
        let found = mistakes(&text(tables));
        assert!(found.iter().any(|mistake| mistake.contains(sentence)), "{tables}\n{sentence}\n{found:#?}");
    }
}

#[test]
fn an_example_without_an_expectation_shows_what_to_write() {
    let tables = "[[example]]\njob_id = \"j1\"\nbody = '{\"s\": \"run\", \"x\": 1}'\n[request]\nurl = 5\n";
    let found = mistakes(&text(tables));
    let shown = "example 1: `expect` is missing; the answer was understood as: \
                 expect = { answer = \"seen\", status = \"processing\", raw_status = \"run\" }";
    assert!(found.iter().any(|mistake| mistake.ends_with(shown)), "{found:#?}");
    assert!(found.iter().any(|mistake| mistake.contains("request.url: must be a text")), "{found:#?}");
    // What is shown is an expectation that holds.
    for (http, body) in
        [(200, r#"{"s": "bad", "e": "no \"x\""}"#), (404, "{}"), (401, ""), (429, ""), (500, ""), (202, "{}")]
    {
        let rule = "[[rule]]\nhttp = [202]\nanswer = \"not_yet\"\n";
        let extract = "[extract]\njob_id = \"none\"\nerror_message = \"$.e\"\noutputs = { each = \"$.e\", url = \"$\" }\n";
        let example = format!("[[example]]\njob_id = \"j1\"\nhttp = {http}\nbody = '{body}'\n");
        let tables = format!("{rule}{extract}{example}");
        let found = mistakes(&text(&tables));
        let (_, expect) = found[0].split_once("understood as: ").unwrap();
        let found = mistakes(&text(&format!("{tables}{expect}\n")));
        assert!(
            found.iter().all(|mistake| mistake.contains("at least one must show")),
            "{expect}\n{found:#?}"
        );
    }
}

fn request(definition: &Definition, params: &Value, credential: Option<&str>) -> super::Request {
    let params = definition.params(params.as_object().unwrap()).unwrap();
    definition.request("j1", &params, None, credential.map(key)).unwrap()
}

#[test]
fn a_request_has_a_method_a_body_and_any_kind_of_credential() {
    let url = "[request]\nmethod = \"POST\"\nurl = \"https://api.two.example/status\"\n";
    let auth = |table: &str| format!("[auth]\n{table}\nsend_to = [\"api.two.example\"]\n");
    let json = compiled(&format!(
        "{url}accept = \"application/vnd.two+json\"\njson = {{ id = \"{{job_id}}\", deep = {{ n = [1, \"{{job_id}}\"] }} }}\n{}",
        auth("type = \"body\"\nbody = { api_key = \"{key}\" }")
    ));
    let sent = request(&json, &json!({}), Some("s3cret"));
    assert_eq!(sent.method, "POST");
    assert_eq!(
        String::from_utf8(sent.body).unwrap(),
        r#"{"api_key":"s3cret","deep":{"n":[1,"j1"]},"id":"j1"}"#
    );
    let header = |name: &str, headers: &[(String, String)]| {
        headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    };
    assert_eq!(header("accept", &sent.headers).as_deref(), Some("application/vnd.two+json"));
    assert_eq!(header("content-type", &sent.headers).as_deref(), Some("application/json"));
    let graphql = compiled(&format!(
        "{url}graphql = {{ query = \"query($id: ID!) {{ job(id: $id) {{ s }} }}\", variables = {{ id = \"{{job_id}}\" }} }}\n{}",
        auth("type = \"basic\"")
    ));
    let sent = request(&graphql, &json!({}), Some("me:s3cret"));
    assert!(
        sent.body
            .starts_with(br#"{"query":"query($id: ID!) { job(id: $id) { s } }","variables":{"id":"j1"}}"#)
    );
    assert_eq!(header("authorization", &sent.headers).as_deref(), Some("Basic bWU6czNjcmV0"));
    let form = compiled(&format!(
        "{url}form = {{ id = \"{{job_id}}\" }}\n{}",
        auth("type = \"query\"\nquery = { key = \"{key}\" }")
    ));
    let sent = request(&form, &json!({}), Some("a&b"));
    assert_eq!(
        (sent.url.as_str(), sent.body.as_slice()),
        ("https://api.two.example/status?key=a%26b", &b"id=j1"[..])
    );
    assert!(!format!("{sent:?}").contains("a%26b"));
    assert_eq!(form.mask("got a%26b and a&b".to_owned(), Some("a&b"), &[]), "got *** and ***");
    assert_eq!(form.mask("got s%263cret".to_owned(), Some("s&3cret"), &[]), "got ***");
    let shown = form.shown_request("j1", "{}", None, Timestamp::from_millis(0)).unwrap();
    assert!(
        shown.starts_with("POST https://api.two.example/status?key=***\n") && shown.ends_with("\n\nid=j1"),
        "{shown}"
    );
    let shown = graphql.shown_request("j1", "{}", None, Timestamp::from_millis(0)).unwrap();
    assert!(shown.contains("authorization: Basic ***\n"), "{shown}");
}

#[test]
fn a_host_from_a_client_must_be_allowed() {
    let mut definition = compiled(
        r#"
[params.job_id]
pattern = "[a-z0-9]+"
[params.host]
pattern = "[a-z0-9.-]+"
[auth]
type = "bearer"
send_to = ["*.two.example"]
[request]
url = "https://{host}/jobs/{job_id}"
redirect = "same-origin"
"#,
    );
    // Below a wildcard, it may be the host of another customer.
    let given = Map::from_iter([("host".to_owned(), json!("eu.two.example"))]);
    let errors = definition.params(&given).unwrap_err();
    assert!(errors[0].1.to_string().contains("providers.two.hosts"), "{errors:?}");
    assert!(definition.request("j1", r#"{"host":"eu.two.example"}"#, None, Some(key("key"))).is_err());
    definition.set_operator_hosts("eu.two.example, other.example", false).unwrap();
    assert!(definition.clone().set_operator_hosts("a b", false).is_err());
    let sent = request(&definition, &json!({"host": "eu.two.example"}), Some("key"));
    assert_eq!(
        (sent.url.as_str(), sent.is_from_client, sent.max_redirects),
        ("https://eu.two.example/jobs/j1", true, 3)
    );
    for host in [
        "evil.example",
        "two.example",
        "us.two.example",
        "other.example",
        "127.0.0.1",
        "eu.two.example.evil.example",
        "-",
        ".",
    ] {
        let given: Map<String, Value> = Map::from_iter([("host".to_owned(), json!(host))]);
        let errors = definition.params(&given).unwrap_err();
        assert_eq!(errors[0].0, "host", "{host}");
        let stored = json!({"host": host}).to_string();
        assert!(definition.request("j1", &stored, None, Some(key("key"))).is_err(), "{host}");
    }
    let base = definition.check_base_url("http://127.0.0.1:9000").unwrap();
    let sent =
        definition.request("j1", r#"{"host":"eu.two.example"}"#, Some(&base), Some(key("key"))).unwrap();
    assert_eq!((sent.url.as_str(), sent.is_from_client), ("http://127.0.0.1:9000/jobs/j1", false));
}

#[test]
fn a_job_can_be_its_url() {
    let mut definition = compiled(
        r#"
[auth]
type = "bearer"
send_to = ["*.two.example"]
[request.job_url]
hosts = ["queue.two.example", "*.eu.two.example"]
path = "/(?<model>[a-z/]+)/requests/(?<job_id>[a-z0-9]+)/status"
query = true
[request]
headers = { "x-model" = "{model}" }
[extract]
job_id = "$.id"
"#,
    );
    let id = "https://queue.two.example/a/b/requests/j1/status?logs=1";
    assert!(definition.check_job_id(id).is_err());
    definition.set_operator_hosts("queue.two.example", false).unwrap();
    assert_eq!(definition.check_job_id(id), Ok(()));
    let sent = definition.request(id, "{}", None, Some(key("key"))).unwrap();
    assert_eq!((sent.url.as_str(), sent.is_from_client), (id, true));
    assert!(sent.headers.contains(&("x-model".to_owned(), "a/b".to_owned())));
    let body = br#"{"id": "j1", "s": "ok"}"#;
    let seen = report(definition.interpret(id, Answer { status: 200, headers: &[], body }));
    assert_eq!(seen.observation.status, JobStatus::Completed);
    for wrong in [
        "j1",
        "http://queue.two.example/a/requests/j1/status",
        "https://evil.example/a/requests/j1/status",
        "https://queue.two.example:8443/a/requests/j1/status",
        "https://me@queue.two.example/a/requests/j1/status",
        "https://queue.two.example/a/requests/j1/status#x",
        "https://queue.two.example/a/requests/../requests/j1/status",
        "https://queue.two.example/a/requests/j1/status/more",
        "https://QUEUE.two.example/a/requests/j1/status",
        "https://127.0.0.1/a/requests/j1/status",
    ] {
        assert!(definition.check_job_id(wrong).is_err(), "{wrong}");
        assert!(definition.request(wrong, "{}", None, Some(key("key"))).is_err(), "{wrong}");
    }
    let base = definition.check_base_url("http://127.0.0.1:9000/").unwrap();
    let sent = definition.request(id, "{}", Some(&base), Some(key("key"))).unwrap();
    assert_eq!(sent.url.as_str(), "http://127.0.0.1:9000/a/b/requests/j1/status?logs=1");
}
