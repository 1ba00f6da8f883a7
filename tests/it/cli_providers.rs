//! `ringback provider`: the list of a server, and first definitions.

use std::process::Stdio;

use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::cli::{Ran, ended, program, run};
use crate::harness::{Harness, KEY, minutes};

/// Runs the program with this standard input.
async fn run_with(input: &str, line: &[&str]) -> Ran {
    let mut child = program(&[], line).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    ended(child).await
}

// Once: the command reads only the answer of the API.
#[tokio::test]
async fn provider_list_shows_the_state_of_a_server() {
    let t = Harness::start().await;
    t.provider.processing("job_1", 0);
    t.watch("job_1").await;
    t.pass(minutes(1)).await;
    let url = format!("http://{}", t.address());
    let env = [("RINGBACK_URL", url.as_str()), ("RINGBACK_API_KEY", KEY)];
    let ran = run(&env, &["provider", "list"]).await.expect(0);
    let muvi = ran.out.lines().find(|line| line.starts_with("muvi ")).unwrap_or_default();
    assert!(muvi.contains(" ok ") && muvi.contains(" 0 of "), "{ran:#?}");
    assert!(
        !ran.out.contains("replicate") && ran.err.contains("have no credential on this server"),
        "{ran:#?}"
    );
    assert!(ran.out.lines().all(|line| line.len() <= 80), "{ran:#?}");
    let all = run(&env, &["provider", "list", "--all"]).await.expect(0);
    assert!(all.out.contains("\nreplicate ") && all.err.is_empty(), "{all:#?}");
    let json = run(&env, &["provider", "list", "--json"]).await.expect(0).json();
    let muvi = json["data"].as_array().unwrap().iter().find(|one| one["id"] == "muvi").unwrap();
    assert_eq!((&muvi["health"]["status"], &muvi["budget"]["inFlight"]), (&json!("ok"), &json!(0)));
    // A configuration file means the settings of this shell.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("r.toml");
    std::fs::write(&file, "log = 'warn'\n").unwrap();
    let own = run(&env, &["provider", "list", "--config", &file.display().to_string()]).await.expect(0);
    assert!(own.out.contains("\nreplicate ") && own.err.contains("settings of this shell"), "{own:#?}");
    t.finish().await;
}

#[tokio::test]
async fn provider_show_request_applies_the_configuration() {
    let muvi = concat!(env!("CARGO_MANIFEST_DIR"), "/src/providers/definitions/muvi.toml");
    let snowflake = concat!(env!("CARGO_MANIFEST_DIR"), "/src/providers/definitions/snowflake.toml");
    let env = [
        ("RINGBACK_PROVIDERS__MUVI__BASE_URL", "http://127.0.0.1:9000/x"),
        ("RINGBACK_PROVIDERS__SNOWFLAKE__HOSTS", "myorg-acme.snowflakecomputing.com"),
    ];
    for name in [muvi, "muvi"] {
        let ran = run(&env, &["provider", "show-request", name, "job_1"]).await.expect(0);
        assert!(ran.out.starts_with("GET http://127.0.0.1:9000/x/v1/jobs/job_1\n"), "{ran:#?}");
    }
    for name in [snowflake, "snowflake"] {
        let show = |host| {
            let id = "01b2c3d4-0000-0000-0000-000000000001";
            let line = ["provider", "show-request", name, id, "--param", host].map(str::to_owned);
            async move { run(&env, &line.each_ref().map(String::as_str)).await }
        };
        let ran = show("host=myorg-acme.snowflakecomputing.com").await.expect(0);
        assert!(ran.out.starts_with("GET https://myorg-acme.snowflakecomputing.com/"), "{ran:#?}");
        let ran = show("host=myorg-other.snowflakecomputing.com").await.expect(2);
        assert!(ran.err.contains("the operator can list it in providers.snowflake.hosts"), "{ran:#?}");
    }
}

#[tokio::test]
async fn provider_new_makes_a_definition_from_answers() {
    let answers = r#"{"id": "j-1", "status": "running"}
        {"id": "j-1", "status": "done", "url": "https://cdn.example/1"} {"id": "j-1", "status": "error"}"#;
    let line =
        ["provider", "new", "acme", "--url", "https://api.acme.example/jobs/j-1", "--auth", "header:X-Key"];
    let made = run_with(answers, &line).await.expect(0);
    assert!(made.err.starts_with("To decide:\n- "), "{made:#?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("acme.toml");
    std::fs::write(&file, &made.out).unwrap();
    let checked = run(&[], &["provider", "check", &file.display().to_string()]).await.expect(1);
    let is_asked = |line: &str| line.contains("`expect` is missing; the answer was understood as: ");
    assert!(checked.err.lines().count() == 3 && checked.err.lines().all(is_asked), "{checked:#?}");
    let completed = r#"status = "completed", raw_status = "done", output = "https://cdn.example/1""#;
    assert!(checked.err.contains(completed), "{checked:#?}");

    let line_with_body =
        ["provider", "new", "acme", "--url", "https://api.acme.example/status", "--auth", "aws:batch"];
    let body = ["--header", "X-Amz-Target: Jobs.Get", "--body", r#"{"ids": ["j-1"]}"#];
    let made = run_with(answers, &[&line_with_body[..], &body[..]].concat()).await.expect(0);
    assert!(made.out.contains("json = { \"ids\" = [\"{job_id}\"] }"), "{made:#?}");

    let wrong = run_with("<html>", &line).await.expect(1);
    assert!(wrong.err.starts_with("the standard input is not JSON"), "{wrong:#?}");
    let wrong =
        run_with("{}", &["provider", "new", "acme", "--url", "https://a.example/status"]).await.expect(2);
    assert!(wrong.err.contains("write {job_id} in its place"), "{wrong:#?}");
    let wrong =
        run_with("{}", &["provider", "new", "acme", "--url", "https://a.example/j1", "--auth", "x"]).await;
    assert!(wrong.expect(2).err.contains("header:NAME, query:NAME, body:NAME or aws:SERVICE"));
    let wrong =
        run_with("{}", &["provider", "new", "Acme_1", "--url", "https://a.example/j1"]).await.expect(2);
    assert!(wrong.err.starts_with("NAME: must be 1 to 40 characters"), "{wrong:#?}");
}

#[tokio::test]
async fn provider_try_reads_the_answer_to_a_cancellation() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rich.toml");
    let rich = include_str!("../../src/providers/tests/rich.toml");
    std::fs::write(&file, rich.replace("[status.map]\n", "[status.map]\nwaiting = [\"asking\"]\n")).unwrap();
    let file = file.display().to_string();
    let line = ["provider", "try", &file, "--cancel"];
    let ran = run_with(r#"{"error": {"code": "already_done"}}"#, &line).await.expect(0);
    assert!(ran.out.contains("the job had ended before"), "{ran:#?}");
    let expect = r#"expect = { answer = "already_ended", says = "HTTP 200 already_done" }"#;
    assert!(ran.out.ends_with(&format!("As a [[cancel.example]]:\n{expect}\n")), "{ran:#?}");
    let json = run_with("", &[&line[..], &["--http", "403", "--json"]].concat()).await.expect(0).json();
    assert_eq!(json, json!({ "answer": "refused", "message": "HTTP 403", "httpStatus": 403 }));
    let none = run_with("{}", &["provider", "try", "muvi", "--cancel"]).await;
    assert!(none.expect(1).err.contains("the definition has no [cancel]"));
    // A status that the word of the job alone does not show.
    let ran = run_with(r#"{"data": {"id": "a1", "status": "asking"}}"#, &line[..3]).await.expect(0);
    assert!(ran.out.contains("processing (waiting)") && ran.out.contains("status = \"waiting\""), "{ran:#?}");
}
