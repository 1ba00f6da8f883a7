//! Guarantees of what is read within an answer: parts of texts, sums, filters, and outputs that are too large.

use super::schema_2::{compiled, text};
use super::{Answer, Definition, Interpretation, report};
use crate::domain::{JobStatus, Observation};
use crate::providers::compile::compile;

fn read(
    definition: &Definition,
    params: &str,
    status: u16,
    headers: &[(&str, &str)],
    body: &str,
) -> Interpretation {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let headers: Vec<_> = headers.iter().map(owned).collect();
    let answer = Answer { status, headers: &headers, body: body.as_bytes() };
    definition.interpret_of(("j1", params), answer)
}

fn job(definition: &Definition, body: &str) -> Observation {
    report(read(definition, "{}", 200, &[], body)).observation
}

fn message(meaning: &Interpretation) -> &str {
    meaning.message().expect("an error")
}

fn error_of(job: &Observation) -> (Option<&str>, Option<&str>) {
    let error = job.error.as_ref();
    (error.and_then(|error| error.code.as_deref()), error.and_then(|error| error.message.as_deref()))
}

/// Returns the mistakes with a sentence.
fn mistakes_with(tables: &str, says: &str) -> usize {
    let (_, mistakes) = compile(&text(tables));
    mistakes.iter().filter(|mistake| mistake.text.contains(says)).count()
}

#[test]
fn a_part_of_a_text_is_a_value_wherever_a_field_is() {
    let definition = compiled(
        r#"
[errors]
code = { header = "x-error", match = "^([^;]+)" }
message = [{ header = "x-error", match = ";\\s*(.+)$" }, "$.message"]
account = ["Quota"]
[extract]
job_id = { path = "$.arn", match = "[^/]+$" }
progress = { path = "$.note", match = "([0-9]+) percent", unit = "percent" }
error_code = { path = "$.error", match = "^\\[(E[0-9]+)\\]" }
error_message = { path = "$.error", match = "^(?:\\[E[0-9]+\\])? *(.*)" }
outputs = { each = "$.files[*]", url = { path = "$.link", match = "<([^>]+)>" } }
completed_at = { path = "$.note", match = "at ([0-9]{10})", format = "epoch_s" }
[[rule]]
all = [{ path = "$.note", match = "([0-9]+) percent", gt = 90 }]
status = "waiting"
"#,
    );
    let body = r#"{"arn": "arn:x:job/j1", "s": "bad", "note": "42 percent at 1771426800", "error": "[E17] no codec",
                   "files": [{"link": "<https://x/1>; rel=next"}, {"link": "none"}]}"#;
    let seen = job(&definition, body);
    assert_eq!((seen.status, seen.progress), (JobStatus::Failed, Some(42)));
    assert_eq!(error_of(&seen), (Some("E17"), Some("no codec")));
    assert_eq!(seen.outputs.unwrap()[0].url.as_deref(), Some("https://x/1"));
    assert_eq!(seen.completed_at.unwrap().to_string(), "2026-02-18T15:00:00.000Z");
    let late = report(read(&definition, "{}", 200, &[], &body.replace("42", "95")));
    assert_eq!((late.observation.status, late.outcome_word()), (JobStatus::Processing, "waiting"));
    let other = read(&definition, "{}", 200, &[], &body.replace("/j1", "/j2"));
    assert_eq!(message(&other), "the response is about another job");
    let refused = read(&definition, "{}", 400, &[("x-error", "Quota; exceeded")], "");
    assert_eq!(message(&refused), "HTTP 400 Quota: exceeded");
    assert_eq!(refused.outcome().as_str(), "unauthorized");
    assert_eq!(message(&read(&definition, "{}", 400, &[], r#"{"message": "m"}"#)), "HTTP 400: m");
}

#[test]
fn a_code_that_is_the_status_is_shown_once() {
    let definition = compiled("[errors]\ncode = \"$.code\"\nmessage = \"$.m\"\n");
    let said = |body| message(&read(&definition, "{}", 404, &[], body)).to_owned();
    assert_eq!(said(r#"{"code": 404, "m": "no"}"#), "HTTP 404: no");
    assert_eq!(said(r#"{"code": "404"}"#), "HTTP 404");
    assert_eq!(said(r#"{"code": 4040}"#), "HTTP 404 4040");
}

#[test]
fn counts_are_added_for_the_progress_and_for_rules() {
    let definition = compiled(
        r#"
[extract]
job_id = "none"
progress = { ratio = [{ sum = ["$.n.done", "$.n.failed"] }, "$.n.total"] }
[[rule]]
all = [{ sum = ["$.n.done", "$.n.failed"], same_as = "$.n.total" }, { path = "$.n.failed", gt = 0 }]
status = "completed"
code = "partial"
[[rule]]
all = [{ path = "$.n.done", same_as = { sum = ["$.n.total"] } }]
status = "completed"
"#,
    );
    let seen = |counts: &str| {
        let seen = report(read(&definition, "{}", 200, &[], &format!(r#"{{"s": "run", "n": {counts}}}"#)));
        (seen.outcome_word(), seen.observation.progress)
    };
    assert_eq!(seen(r#"{"done": 1, "failed": 2, "total": 6}"#), ("processing", Some(50)));
    assert_eq!(seen(r#"{"done": "1", "total": 4}"#), ("processing", Some(25)), "an absent count is 0");
    assert_eq!(seen(r#"{"done": 1, "failed": null, "total": 4}"#), ("processing", Some(25)));
    assert_eq!(seen(r#"{"done": 1, "failed": "many", "total": 4}"#), ("processing", None));
    assert_eq!(seen(r#"{"total": 4}"#), ("processing", None), "no count at all");
    assert_eq!(seen(r#"{"done": 3, "failed": 1, "total": 4}"#), ("partial", Some(100)));
    assert_eq!(seen(r#"{"done": 4, "failed": 0, "total": 4}"#), ("completed", Some(100)));
    let all = compiled(
        "[extract]\njob_id = \"none\"\nprogress = { sum = [\"$.parts[*].percent\"], unit = \"percent\" }\n",
    );
    assert_eq!(job(&all, r#"{"s": "run", "parts": [{"percent": 20}, {"percent": 5.5}]}"#).progress, Some(25));
}

#[test]
fn a_filter_finds_the_item_of_a_constant_or_a_parameter() {
    let definition = compiled(
        r#"
[params.kind]
default = "final"
[extract]
job_id = "none"
output = "$.files[?@.type == {kind}].url"
error_message = "https://x/{$.files[?@.type == 'log'].url}"
"#,
    );
    let body = r#"{"s": "ok", "files": [{"type": "draft", "url": "a"}, {"type": "final", "url": "b"}, {"type": "log", "url": "c"}]}"#;
    let seen = |params| report(read(&definition, params, 200, &[], body)).observation;
    let given = seen(r#"{"kind": "draft"}"#);
    assert_eq!((given.output.as_deref(), error_of(&given).1), (Some("a"), Some("https://x/c")));
    assert_eq!(seen(r#"{"kind": "final"}"#).output.as_deref(), Some("b"));
    assert_eq!(seen(r#"{"kind": "other"}"#).output, None);
    let tables = "[extract]\njob_id = \"none\"\noutput = \"$.files[?@.type == {kind}].url\"\n";
    assert_eq!(mistakes_with(tables, "extract.output: `{kind}` is not declared; add [params.kind]"), 1);
    // An example has the default, as a registration has.
    let example = "[[example]]\njob_id = \"j1\"\nbody = '{\"s\": \"ok\", \"files\": [{\"type\": \"final\", \"url\": \"b\"}]}'\n\
                   expect = { answer = \"seen\", status = \"completed\", raw_status = \"ok\", output = \"b\" }\n";
    let tables = format!("[params.kind]\ndefault = \"final\"\n{tables}{example}");
    assert_eq!(mistakes_with(&tables, "example 1"), 0, "{:?}", compile(&text(&tables)).1);
}

#[test]
fn a_mistake_in_a_part_a_sum_or_a_comparison_is_reported() {
    let field = |field: &str| format!("[extract]\njob_id = \"none\"\noutput = {field}\n");
    for (tables, says) in [
        (field("{ path = \"$.a\", match = \"(a)(b)\" }"), "extract.output.match: has 2 groups"),
        (field("{ path = \"$.a\", match = \"(\" }"), "extract.output.match: `(` is not a regular expression"),
        (field("{ template = \"{$.a}\", match = \"b\" }"), "extract.output.match: is possible only without"),
        (field("{ sum = [\"$.a\"], match = \"b\" }"), "extract.output.match: is possible only with `path`"),
        (field("{ sum = [] }"), "extract.output.sum: must list 1 to 16 paths"),
        (field("{ sum = \"$.a\" }"), "extract.output.sum: must be a list"),
        (field("{ path = \"$.a\", sum = [\"$.b\"] }"), "has more than one of `path`, `header` and `sum`"),
        (
            "[[rule]]\nall = [{ path = \"$.a\", same_as = [\"$.b\", \"$.c\"] }]\nanswer = \"error\"\n"
                .to_owned(),
            "rule.all.same_as: must be one path",
        ),
        (
            "[rule]\nhttp = 400\nanswer = \"error\"\n".to_owned(),
            "rule: must be a list of tables; write [[rule]] and not [rule]",
        ),
        ("[result]\nurl = \"https://a.example/r\"\n".to_owned(), "write [[result]] and not [result]"),
        ("[example]\njob_id = \"j1\"\n".to_owned(), "write [[example]] and not [example]"),
        ("[poll]\nfirst = 5\n".to_owned(), "poll.first: must be a duration in quotes, such as \"5s\""),
        ("[limits]\nrate = 5\n".to_owned(), "limits.rate: must be a rate in quotes, such as \"10/s\""),
        (
            "[request]\nurl = \"https://a.example/{job_id}\"\nmax_body = 1000000\ntimeout = 20\n".to_owned(),
            "request.max_body: must be a size in quotes, such as \"64KiB\"",
        ),
    ] {
        assert_eq!(mistakes_with(&tables, says), 1, "{tables} {:?}", compile(&text(&tables)).1);
    }
}

#[test]
fn what_is_too_large_is_cut_or_left_out_and_the_error_says_so() {
    let definition = compiled(
        "[extract]\njob_id = \"none\"\noutput = \"$.text\"\noutput_json = \"$.data\"\n\
         outputs = { each = [\"$.none[*]\", \"$.files[*]\"], url = \"$\" }\nerror_message = \"$.why\"\n",
    );
    let long = "é".repeat(40_000);
    let cut = job(&definition, &format!(r#"{{"s": "ok", "text": "{long}"}}"#));
    let output = cut.output.as_deref().unwrap();
    assert!(output.len() <= 64 * 1024 && output.len() > 64 * 1024 - 4 && output.ends_with("é…"));
    let beginning = "the output is longer than 64 KiB, and only its beginning is passed on";
    assert_eq!(error_of(&cut), (Some("output_truncated"), Some(beginning)));
    let whole = "an output of more than 64 KiB is not passed on";
    for body in [
        format!(r#"{{"s": "ok", "text": "data:text/plain,{long}"}}"#),
        format!(r#"{{"s": "ok", "data": {{"a": "{long}"}}}}"#),
    ] {
        let seen = job(&definition, &body);
        assert_eq!(
            (seen.output.as_deref(), error_of(&seen)),
            (None, (Some("output_truncated"), Some(whole)))
        );
    }
    let seen = job(&definition, &format!(r#"{{"s": "ok", "files": ["a", "{long}"]}}"#));
    assert!(
        error_of(&seen).1.unwrap().contains("and some are not passed on") && seen.outputs.unwrap().len() == 1
    );
    // The job's own error stays, and a job that runs has none.
    let seen = job(&definition, &format!(r#"{{"s": "bad", "why": "w", "text": "{long}"}}"#));
    assert_eq!(error_of(&seen), (None, Some(format!("w; {beginning}").as_str())));
    assert_eq!(job(&definition, &format!(r#"{{"s": "run", "text": "{long}"}}"#)).error, None);
    assert_eq!(job(&definition, r#"{"s": "ok", "text": "short", "files": ["a"]}"#).error, None);
}

#[test]
fn a_result_that_brings_the_whole_output_leaves_no_error() {
    let definition = compiled(
        "[extract]\njob_id = \"none\"\noutput = \"$.text\"\n[[result]]\nurl = \"https://api.two.example/r/{job_id}\"\n\
         extract = { output = \"$.text\" }\n",
    );
    let long = "x".repeat(70_000);
    let before = report(read(&definition, "{}", 200, &[], &format!(r#"{{"s": "ok", "text": "{long}"}}"#)));
    assert_eq!(before.observation.error, None, "a result can bring another");
    let after = |body: &str| {
        let answer = Answer { status: 200, headers: &[], body: body.as_bytes() };
        report(definition.interpret_result("j1", &before, answer)).observation
    };
    assert_eq!(error_of(&after(r#"{"text": "https://x"}"#)), (None, None));
    assert_eq!(error_of(&after("{}")).0, Some("output_truncated"));
    assert_eq!(error_of(&after(&format!(r#"{{"text": "{long}"}}"#))).0, Some("output_truncated"));
}

#[test]
fn the_first_list_of_outputs_that_is_not_empty_counts() {
    let definition = compiled(
        "[extract]\njob_id = \"none\"\noutputs = { each = [\"$.videos[*]\", \"$.images[*]\"], url = \"$\" }\n",
    );
    let outputs = |body: &str| job(&definition, body).outputs.map(|all| all.len());
    assert_eq!(outputs(r#"{"s": "ok", "videos": [], "images": ["a", "b"]}"#), Some(2));
    assert_eq!(outputs(r#"{"s": "ok", "videos": ["v"], "images": ["a", "b"]}"#), Some(1));
    assert_eq!(outputs(r#"{"s": "ok", "images": []}"#), Some(0));
    assert_eq!(outputs(r#"{"s": "ok"}"#), None);
}

#[test]
fn an_example_can_expect_partial_and_waiting() {
    let map = "[status]\npath = \"$.s\"\n[status.map]\nprocessing = [\"run\"]\nwaiting = [\"ask\"]\ncompleted = [\"ok\"]\n\
               partial = [\"some\"]\nfailed = [\"bad\"]\n";
    let example = |word: &str, status: &str, more: &str| {
        let tables = format!(
            "{map}[[example]]\njob_id = \"j1\"\nbody = '{{\"s\": \"{word}\"}}'\n\
             expect = {{ answer = \"seen\", status = \"{status}\", raw_status = \"{word}\"{more} }}\n"
        );
        mistakes_with(&tables, "example 1")
    };
    for (word, status, more, wrong) in [
        ("ask", "waiting", "", 0),
        ("ask", "processing", "", 0),
        ("run", "waiting", "", 1),
        ("some", "partial", ", error_code = \"partial\"", 0),
        ("some", "completed", ", error_code = \"partial\"", 0),
        ("ok", "partial", "", 1),
        ("ok", "failed", "", 1),
    ] {
        assert_eq!(example(word, status, more), wrong, "{word} {status}");
    }
    let definition = compiled(map);
    let shown = read(&definition, "{}", 200, &[], r#"{"s": "ask"}"#).as_expect();
    assert_eq!(shown, r#"expect = { answer = "seen", status = "waiting", raw_status = "ask" }"#);
}

#[test]
fn codes_of_errors_may_be_numbers() {
    let definition = compiled(
        "[errors]\ncode = \"$.code\"\naccount = [7, \"x\"]\n[not_found]\nhttp = [400]\nvalues = [\"gone\", 1004]\n",
    );
    let outcome = |body: &str| read(&definition, "{}", 400, &[], body).outcome().as_str();
    assert_eq!(outcome(r#"{"code": 1004}"#), "not_found");
    assert_eq!(outcome(r#"{"code": "gone"}"#), "not_found");
    assert_eq!(outcome(r#"{"code": 7}"#), "unauthorized");
    assert_eq!(outcome(r#"{"code": 8}"#), "error");
}

#[test]
fn the_documented_rules_results_and_cancellations_work() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PROVIDERS.md")).unwrap();
    let blocks = page.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    let own = ["[[rule]]", "[[result]]", "[cancel]", "[response]", "[extract]"];
    let blocks: Vec<&str> = blocks.filter(|block| own.iter().any(|start| block.starts_with(start))).collect();
    assert_eq!(blocks.len(), 8);
    for block in blocks {
        compiled(&format!(
            "[auth]\ntype = \"bearer\"\nsend_to = [\"api.acme.example\"]\n\
             [request]\nurl = \"https://api.acme.example/v1/jobs/{{job_id}}\"\n{block}"
        ));
    }
}
