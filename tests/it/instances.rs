//! Named instances of a definition: settings, credential, jobs, health and metrics of their own.

use serde_json::{Value, json};

use crate::fakes::{Server, error};
use crate::harness::{Harness, Neighbours, seconds};

/// The settings of an instance of Muvi's definition at a server.
fn instance<'a>(url: &'a str, key: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("RINGBACK_PROVIDERS__MUVI_EU__DEFINITION", "muvi"),
        ("RINGBACK_PROVIDERS__MUVI_EU__BASE_URL", url),
        ("RINGBACK_PROVIDERS__MUVI_EU__API_KEY", key),
        ("RINGBACK_PROVIDERS__MUVI_EU__RATE", "2/s"),
    ]
}

fn provider(list: &Value, id: &str) -> Value {
    list["data"].as_array().unwrap().iter().find(|one| one["id"] == id).unwrap().clone()
}

#[tokio::test]
async fn an_instance_has_a_credential_jobs_and_health_of_its_own() {
    let neighbours = Neighbours::default();
    let server = Server::start(neighbours.held.clone(), |request| {
        assert_eq!(request.header("authorization"), Some("Bearer eu_key"));
        assert_eq!(request.path, "/v1/jobs/job_1");
        error(401, "UNAUTHORIZED", "Invalid API key")
    });
    let server = server.await;
    let t = Harness::among(neighbours, &instance(&format!("http://{}", server.address), "eu_key")).await;
    t.provider.processing("job_1", 10);
    let own = t.register(&json!({ "provider": "muvi", "jobId": "job_1", "notify": [] })).await;
    let other = t.register(&json!({ "provider": "muvi-eu", "jobId": "job_1", "notify": [] })).await;
    t.pass(seconds(10)).await;
    // The same id at two instances is two jobs.
    assert_eq!(t.shown(&own).await["job"]["progress"], 10);
    let shown = t.shown(&other).await;
    assert_eq!((&shown["provider"], &shown["job"]["progress"]), (&json!("muvi-eu"), &json!(null)), "{shown}");
    let list = t.get("/v1/providers?limit=200").await.expect(200);
    let (muvi, eu) = (provider(&list, "muvi"), provider(&list, "muvi-eu"));
    assert_eq!((&muvi["health"]["status"], &eu["health"]["status"]), (&json!("ok"), &json!("paused")));
    assert_eq!((&muvi["definition"], &eu["definition"]), (&json!("muvi"), &json!("muvi")));
    assert_eq!((&eu["name"], &eu["budget"]["rate"]), (&json!("Muvi (muvi-eu)"), &json!("2/s")));
    let metrics = t.get("/metrics").await;
    assert!(metrics.text().contains("provider=\"muvi-eu\""), "{}", metrics.text());
    t.give_up().await;
}

// Once: the configuration is read before the database is opened.
#[tokio::test]
async fn a_wrong_instance_refuses_the_start_with_its_place() {
    for (settings, expected) in [
        (
            [("RINGBACK_PROVIDERS__JENKINS_EU__DEFINITION", "jenkinss")],
            "RINGBACK_PROVIDERS__JENKINS_EU__DEFINITION: [providers.jenkins-eu] definition: there is no definition \
             `jenkinss`; the nearest is `jenkins`",
        ),
        (
            [("RINGBACK_PROVIDERS__GITLAB_PIPELINE__DEFINITION", "jenkins")],
            "RINGBACK_PROVIDERS__GITLAB_PIPELINE__DEFINITION: [providers.gitlab-pipeline] definition: \
             `gitlab-pipeline` is the id of another definition; give the instance another name",
        ),
        (
            [("RINGBACK_PROVIDERS__2__DEFINITION", "jenkins")],
            "RINGBACK_PROVIDERS__2__DEFINITION: [providers.2] definition: `2` cannot be the id of a provider; write 1 to \
             40 characters of a-z, 0-9 and -, starting with a letter",
        ),
    ] {
        assert_eq!(Harness::refused(&settings).await, expected);
    }
    let mut t = Harness::prepared(Neighbours::default(), &[]).await;
    t.file_text =
        Some("[providers.muvi-eu]\nbase_url = 'https://eu.example'\ndefinition = 'muvy'\n".to_owned());
    let expected = "ringback.toml:3: [providers.muvi-eu] definition: there is no definition `muvy`; the nearest is `muvi`";
    assert_eq!(t.start_error().await, expected);
    t.file_text = None;
    t.give_up().await;
}

// Once: definitions are read from files; the store has no part in it.
#[tokio::test]
async fn an_instance_of_a_broken_definition_is_disabled_with_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("acme.toml"), "id = \"acme\"\n").unwrap();
    let t = Harness::with(&[
        ("RINGBACK_PROVIDERS__PATH", folder.path().to_str().unwrap()),
        ("RINGBACK_PROVIDERS__ACME_EU__DEFINITION", "acme"),
    ])
    .await;
    let list = t.get("/v1/providers?limit=200").await.expect(200);
    let (acme, eu) = (provider(&list, "acme"), provider(&list, "acme-eu"));
    assert_eq!((&eu["health"]["status"], &eu["errors"]), (&json!("invalid"), &acme["errors"]));
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    an_instance_has_a_credential_jobs_and_health_of_its_own,
}
