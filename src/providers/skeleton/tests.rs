//! Guarantees of first definitions.

use super::*;
use crate::providers::compile::compile;
use crate::providers::definition::Expect;
use crate::providers::load_providers;

fn input<'a>(url: &'a str, answers: &[&'a str]) -> SkeletonInput<'a> {
    SkeletonInput {
        id: "acme-video",
        url,
        job_id: None,
        method: None,
        body: None,
        headers: Vec::new(),
        auth: None,
        answers: answers.to_vec(),
    }
}

const RUNNING: &str =
    r#"{"data": {"task_id": "t_81", "state": "RENDERING", "progress": 0.4, "created": 1771426800000}}"#;
const DONE: &str = r#"{"data": {"task_id": "t_81", "state": "SUCCEEDED", "files": [{"href": "https://cdn.example/it's.mp4"}]}}"#;

#[test]
fn a_skeleton_has_what_the_answers_show_and_asks_for_the_rest() {
    let made =
        skeleton(&input("https://api.acme.example/v1/tasks/t_81?fields=all&api_key=hush", &[RUNNING, DONE]))
            .expect("a skeleton");
    insta::assert_snapshot!(made.text, @r#"
    # Sources: the URL of each page from which a fact below comes, and the date on which it was read.
    schema = 2
    id = "acme-video"
    name = "Acme Video"
    # ? What is the URL of the page that documents the status of a job?
    docs = "https://example.com/docs"

    [params.job_id]
    # ? Which characters can the id of a job have? The pattern was made from one id.
    pattern = "[A-Za-z0-9_-]+"

    [auth]
    type = "query"
    query = { "api_key" = "{key}" }
    send_to = ["api.acme.example"]

    [request]
    url = "https://api.acme.example/v1/tasks/{job_id}"
    query = { "fields" = "all" }

    [status]
    path = "$.data.state"

    [status.map]
    # ? Which statuses are missing? Only those of the answers are known; the others are guesses.
    processing = ["RENDERING"]
    completed = ["SUCCEEDED"]
    failed = ["FAILED"]   # ? in no answer

    [extract]
    job_id = "$.data.task_id"
    progress = { path = "$.data.progress", unit = "fraction" }
    outputs = { each = "$.data.files[*]", url = { path = "$.href", when = ["completed"] } }
    created_at = { path = "$.data.created", format = "epoch_ms" }
    # ? Where is the cause of a failure? Add `error_message`, and `error_code` if there is one.

    # The answers that are not about a job: without a key, for an unknown id, over the rate limit.
    [errors]
    # ? Where is the message of an error answer?
    message = "$.message"

    [limits]
    # ? Which rate of requests does the API permit?
    rate = "1/s"

    [[example]]
    job_id = "t_81"
    body = '{"data": {"task_id": "t_81", "state": "RENDERING", "progress": 0.4, "created": 1771426800000}}'

    [[example]]
    job_id = "t_81"
    body = '''
    {"data": {"task_id": "t_81", "state": "SUCCEEDED", "files": [{"href": "https://cdn.example/it's.mp4"}]}}'''
    "#);
    insta::assert_snapshot!(made.questions.join("\n"), @r#"
    What is the URL of the page that documents the status of a job?
    Which characters can the id of a job have? The pattern was made from one id.
    Which statuses are missing? Only those of the answers are known; the others are guesses.
    Where is the cause of a failure? Add `error_message`, and `error_code` if there is one.
    Where is the message of an error answer?
    Which rate of requests does the API permit?
    "#);
}

/// Answers of the author, and the meaning of each, make a definition without a mistake.
#[test]
fn a_skeleton_with_all_answers_needs_only_the_meanings() {
    let answers = [
        r#"{"id": "8f14e45f-ceea-467e", "status": "queued"}"#,
        r#"{"id": "8f14e45f-ceea-467e", "status": "done", "result_url": "https://cdn.example/1", "finished_at": "2026-02-18T15:00:00Z"}"#,
        r#"{"id": "8f14e45f-ceea-467e", "status": "failed", "error": {"code": "nsfw", "message": "Refused"}}"#,
    ];
    let url = "https://api.acme.example/v2/jobs/8f14e45f-ceea-467e/status";
    let mut text = skeleton(&input(url, &answers)).expect("a skeleton").text;
    for _ in answers {
        let (_, mistakes) = compile(&text);
        let asks = mistakes.first().map(ToString::to_string).unwrap_or_default();
        let (_, expect) = asks.split_once("understood as: ").unwrap_or_else(|| panic!("{mistakes:?}"));
        // The first example without a meaning.
        let examples: Vec<_> = text.match_indices("[[example]]").map(|(at, _)| at).collect();
        let ends = examples[1..].iter().copied().chain([text.len()]);
        let end =
            examples.iter().zip(ends).find(|(at, end)| !text[**at..*end].contains("expect")).expect("one").1;
        text.insert_str(end, &format!("{expect}\n"));
    }
    let (definition, mistakes) = compile(&text);
    assert!(mistakes.is_empty() && definition.is_some(), "{mistakes:?}\n{text}");
    for part in ["output = \"https://cdn.example/1\"", "error_code = \"nsfw\"", "error_message = \"Refused\""]
    {
        assert!(text.contains(part), "{part}\n{text}");
    }
}

#[test]
fn an_argument_that_cannot_be_meant_is_refused_with_the_remedy() {
    let of = |url, answers: &[&'static str]| skeleton(&input(url, answers)).expect_err("refused");
    let cases = [
        of("http://api.acme.example/jobs/a1", &["{}"]),
        of("api.acme.example/jobs/a1", &["{}"]),
        of("https://api.acme.example/jobs/status", &["{}"]),
        of("https://api.acme.example/jobs/a1", &["<html>"]),
        of("https://api.acme.example/jobs/a1", &[]),
    ];
    insta::assert_snapshot!(cases.join("\n"), @r#"
    --url: must begin with https://; for a server of your own, providers.NAME.base_url replaces scheme, host and port later
    --url: relative URL without a base; write it as https://api.example.com/v1/jobs/job_1
    --url: no part of the path, the query or the body is the id of the job; write {job_id} in its place, and give the id with --job-id
    answer 1 is not JSON (expected value at line 1 column 1); give the body of an answer as it was received
    the standard input has no answer; give the body of at least one
    "#);
}

/// The answers of every embedded definition about one job.
#[test]
fn a_skeleton_is_a_definition_whatever_the_answers_are() {
    let (mut same, mut all) = (0, 0);
    for definition in load_providers(None).valid.values() {
        let seen: Vec<_> = definition
            .examples
            .iter()
            .filter(|example| matches!(example.expect, Some(Expect::Seen(_))))
            .filter(|example| serde_json::from_str::<Value>(&example.body).is_ok_and(|body| body.is_object()))
            .collect();
        let Some(first) = seen.first() else { continue };
        let answers: Vec<&str> = seen.iter().map(|example| example.body.as_str()).collect();
        let made = SkeletonInput {
            job_id: Some(&first.job_id),
            ..input("https://api.acme.example/v1/jobs/{job_id}", &answers)
        };
        let made = skeleton(&made).unwrap_or_else(|error| panic!("{}: {error}", definition.id));
        let (compiled, mistakes) = compile(&made.text);
        // The author decides first what a contradicted status means.
        let is_open = |mistake: &super::super::Mistake| mistake.text.contains("must mean completed");
        if made.text.contains("Which rules decide?") && mistakes.iter().any(is_open) {
            continue;
        }
        assert!(compiled.is_some(), "{}: {mistakes:?}\n{}", definition.id, made.text);
        // The status map of a text is right if each word that both have means the same.
        let compiled = compiled.expect("a definition");
        let meant: std::collections::HashMap<_, _> = definition.status_words().collect();
        for (word, status) in compiled.status_words() {
            if let Some(truth) = meant.get(word).or_else(|| meant.get(word.to_lowercase().as_str())) {
                all += 1;
                same += usize::from(*truth == status);
            }
        }
    }
    assert!(all > 150 && same * 100 >= all * 95, "{same} of {all} statuses mean the same");
}

/// Returns the mistakes of a skeleton besides those that only the author can correct: examples and their meanings.
fn mistakes_of(made: &Skeleton) -> Vec<String> {
    let (_, mistakes) = compile(&made.text);
    let is_open = |text: &str| text.starts_with("example");
    mistakes
        .iter()
        .map(ToString::to_string)
        .filter(|text| !is_open(text.split(": ").nth(1).unwrap_or(text)))
        .collect()
}

#[test]
fn a_poll_with_a_body_makes_a_definition_without_a_mistake() {
    let answer = r#"{"data": {"id": "j_1", "status": "running"}}"#;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let graphql = r#"{"query": "query($id: ID!) { job(id: $id) { status } }", "variables": {"id": "j_1", "all": true}}"#;
    for (body, headers, auth, parts) in [
        (
            r#"{"id": "j_1", "deep": {"a": [1, "j_1"], "b": null}, "api_key": "hush"}"#,
            vec![],
            None,
            vec![
                "type = \"body\"\nbody = { \"api_key\" = \"{key}\" }",
                "method = \"POST\"\nurl = \"https://api.acme.example/status\"",
                "# ? Does the API need the members of the body that were null? They are left out.",
                "json = { \"deep\" = { \"a\" = [1, \"{job_id}\"] }, \"id\" = \"{job_id}\" }",
            ],
        ),
        (
            "id=j_1&wait=0",
            vec![header("X-Api-Key", "hush"), header("X-Version", "2")],
            None,
            vec![
                "type = \"header\"\nheader = \"x-api-key\"",
                "headers = { \"x-version\" = \"2\" }",
                "form = { \"id\" = \"{job_id}\", \"wait\" = \"0\" }",
            ],
        ),
        (
            graphql,
            vec![header("Authorization", "Bearer hush")],
            None,
            vec![
                "type = \"bearer\"",
                "graphql = { query = \"query($id: ID!) { job(id: $id) { status } }\", variables = { \"all\" = true, \"id\" = \"{job_id}\" } }",
            ],
        ),
        (
            r#"{"JobId": "{job_id}"}"#,
            vec![header("X-Amz-Target", "Service.Get"), header("Content-Type", "application/x-amz-json-1.1")],
            Some(SkeletonAuth::Aws("batch".to_owned())),
            vec![
                "type = \"aws\"\nservice = \"batch\"",
                "headers = { \"x-amz-target\" = \"Service.Get\", \"content-type\" = \"application/x-amz-json-1.1\" }",
                "json = { \"JobId\" = \"{job_id}\" }",
            ],
        ),
    ] {
        let made = skeleton(&SkeletonInput {
            body: Some(body),
            headers,
            auth,
            ..input("https://api.acme.example/status", &[answer])
        });
        let made = made.unwrap_or_else(|why| panic!("{body}: {why}"));
        for part in parts {
            assert!(made.text.contains(part), "{part}\n{}", made.text);
        }
        assert!(!made.text.contains("hush"), "{}", made.text);
        assert_eq!(mistakes_of(&made), [""; 0], "{}", made.text);
    }
}

#[test]
fn a_body_that_no_definition_can_have_is_refused() {
    for (method, body, expected) in [
        (None, Some("[1]"), "--body: must be a JSON object"),
        (None, Some("{\"a\""), "--body: is not JSON"),
        (None, Some("text"), "--body: must be a JSON object, or a form"),
        (Some("GET"), Some("{\"a\": \"{job_id}\"}"), "--method: a request with a body"),
        (Some("DELETE"), None, "--method: `DELETE` is not possible"),
    ] {
        let made =
            skeleton(&SkeletonInput { method, body, ..input("https://api.acme.example/{job_id}", &["{}"]) });
        let why = made.expect_err("refused");
        assert!(why.starts_with(expected), "{why}");
    }
}

#[test]
fn a_status_that_another_member_contradicts_is_asked_about() {
    let url = "https://dev.azure.example/builds/42";
    let text = |answers: &[&str]| {
        let made = skeleton(&input(url, answers)).expect("a definition");
        assert!(made.questions.iter().all(|question| made.text.contains(&format!("# ? {question}"))));
        made.text
    };
    let running = r#"{"id": 42, "status": "inProgress"}"#;
    let failed = r#"{"id": 42, "status": "completed", "result": "failed"}"#;
    let made = text(&[running, failed]);
    assert!(!made.lines().any(|line| line.starts_with("completed = ")), "{made}");
    assert!(made.contains("but $.result is \"failed\". Which rules decide?"), "{made}");
    let rule = "# all = [{ path = \"$.status\", is = \"completed\" }, { path = \"$.result\", is = \"failed\" }]\n# status = \"failed\"";
    assert!(made.contains(rule), "{made}");
    // Google's operations.
    let made =
        text(&[r#"{"name": "42", "done": false}"#, r#"{"name": "42", "done": true, "error": {"code": 3}}"#]);
    assert!(made.contains("but $.error is present") && !made.contains("completed = [true]"), "{made}");
    let made = text(&[r#"{"id": 42, "status": "done", "success": false}"#]);
    assert!(made.contains("but $.success is false"), "{made}");
    // What agrees is a guess, and a question.
    let made = text(&[running, r#"{"id": 42, "status": "completed", "result": "succeeded"}"#]);
    assert!(made.contains("completed = [\"completed\"]"), "{made}");
    assert!(made.contains("Can $.result say that a job with the status \"completed\" failed?"), "{made}");
    let made = text(&[running, r#"{"id": 42, "status": "completed", "result": "https://x", "error": null}"#]);
    assert!(!made.contains("Can $.") && !made.contains("but $."), "{made}");
}

const TWO_JOBS: &str = r#"{"jobs": [{"jobId": "a-1", "status": "RUNNING"}, {"jobId": "b-2", "status": "DONE", "output": "https://cdn.example/b"}]}"#;

#[test]
fn a_job_in_a_list_is_selected_by_its_id() {
    let mut input = input("https://batch.eu-1.example/v1/accounts/777123/describe", &[TWO_JOBS]);
    input.body = Some(r#"{"jobs": ["b-2"]}"#);
    input.headers = vec![("Accept".to_owned(), "application/vnd.acme.v2+json".to_owned())];
    let made = skeleton(&input).expect("a skeleton");
    for line in [
        "url = \"https://batch.eu-1.example/v1/accounts/777123/describe\"",
        "json = { \"jobs\" = [\"{job_id}\"] }",
        "accept = \"application/vnd.acme.v2+json\"",
        "unwrap = \"$.jobs[?@.jobId == {job_id}]\"",
        "path = \"$.status\"",
        "completed = [\"DONE\"]",
        "job_id = \"$.jobId\"",
        "output = { path = \"$.output\", when = [\"completed\"] }",
        "job_id = \"b-2\"",
    ] {
        assert!(made.text.lines().any(|found| found == line), "{line}\n{}", made.text);
    }
    let (_, mistakes) = compile(&made.text);
    let is_expected = |text: &str| text.contains("`expect` is missing");
    assert!(mistakes.iter().all(|mistake| is_expected(&mistake.text)), "{mistakes:#?}");
}

#[test]
fn the_id_of_the_job_is_not_that_of_what_it_belongs_to() {
    let url = "https://api.acme.example/v1/services/srv-c9xyz1/deploys/dep-c1abc2";
    let answer = r#"{"id": "dep-c1abc2", "status": "live", "service": {"id": "srv-c9xyz1"}}"#;
    let made = skeleton(&input(url, &[answer])).expect("a skeleton").text;
    assert!(
        made.contains(r#"url = "https://api.acme.example/v1/services/srv-c9xyz1/deploys/{job_id}""#),
        "{made}"
    );
    assert!(made.contains(r#"job_id = "$.id""#), "{made}");
}

#[test]
fn a_count_is_no_percentage_and_the_job_is_not_its_output() {
    let url = "https://api.acme.example/v1/jobs/j_81.json?wait=0";
    let answer = r#"{"job": {"id": "j_81", "url": "https://api.acme.example/v1/jobs/j_81.json", "status": "working",
        "progress": 1, "total": 2, "message": "1 of 2", "created_on": "2026-02-18T15:00:00Z"}}"#;
    let input = SkeletonInput { job_id: Some("j_81.json"), ..input(url, &[answer]) };
    let made = skeleton(&input).expect("a skeleton").text;
    for line in [
        r#"progress = { ratio = ["$.job.progress", "$.job.total"] }"#,
        r#"error_message = { path = "$.job.message", when = ["failed"] }"#,
        r#"created_at = { path = "$.job.created_on", format = "rfc3339" }"#,
        "# ? Where is the result of a completed job?",
    ] {
        assert!(made.contains(line), "{line}: {made}");
    }
    assert!(!made.contains("output ="), "{made}");
}

#[test]
fn no_credential_of_the_request_is_written() {
    let names = ["app_key", "ocp-apim-subscription-key", "x-figma-session", "x-client-secret"];
    let headers = names.map(|name| (name.to_owned(), "HUSH-1".to_owned()));
    let url = "https://api.acme.example/v1/tasks/t_81?api_key=HUSH-2&token=HUSH-3";
    let body = r#"{"id": "t_81", "secret": "HUSH-4", "api_key": "HUSH-5"}"#;
    let made =
        skeleton(&SkeletonInput { headers: headers.into(), body: Some(body), ..input(url, &[RUNNING]) })
            .expect("a skeleton");
    assert!(!made.text.contains("HUSH"), "{}", made.text);
    for name in ["app_key", "x-figma-session", "token", "secret"] {
        let asked =
            made.questions.iter().any(|question| question.starts_with(&format!("`{name}` of the request")));
        assert!(asked, "{name}: {:?}", made.questions);
    }
}

#[test]
fn the_scheme_of_an_authorization_is_kept() {
    for (value, lines) in [
        ("Bearer HUSH", "type = \"bearer\"\n"),
        (
            "DeepL-Auth-Key HUSH",
            "type = \"header\"\nheader = \"authorization\"\nprefix = \"DeepL-Auth-Key \"\n",
        ),
        ("HUSH", "type = \"header\"\nheader = \"authorization\"\n"),
    ] {
        let headers = vec![("Authorization".to_owned(), value.to_owned())];
        let url = "https://api.acme.example/v1/tasks/t_81";
        let made = skeleton(&SkeletonInput { headers, ..input(url, &[RUNNING]) }).expect("a skeleton").text;
        assert!(made.contains(lines) && !made.contains("HUSH"), "{value}: {made}");
    }
}

#[test]
fn an_id_that_only_the_body_has_wins_over_a_number_in_the_url() {
    let mut input = input("https://api.acme.example/v1/accounts/777123/status", &[r#"{"status": "done"}"#]);
    input.body = Some(r#"{"id": "job-42"}"#);
    let made = skeleton(&input).expect("a skeleton");
    assert!(
        made.text.contains("accounts/777123/status")
            && made.text.contains("json = { \"id\" = \"{job_id}\" }")
    );
    assert!(
        made.questions.iter().any(|question| question.contains("or is it 777123 in the URL")),
        "{made:?}"
    );
    // The answer decides, also if the id is in the URL.
    let mut input =
        self::input("https://api.acme.example/v1/jobs/777123", &[r#"{"id": 777123, "status": "done"}"#]);
    input.body = Some(r#"{"trace": "t-42"}"#);
    assert!(skeleton(&input).expect("a skeleton").text.contains("/v1/jobs/{job_id}"));
}
