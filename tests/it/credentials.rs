//! Credentials of an app: where they go, and that no answer shows them.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::harness::{Harness, Neighbours, minutes, seconds};
use crate::tenants::tenant;
use crate::tls::authority_and;
use crate::wire::Request;

pub const HOST: &str = "api.example.com";

/// A job API with TLS, which records its requests.
pub struct SecureApi {
    pub port: u16,
    pub requests: Arc<Mutex<Vec<Request>>>,
    pub state: Arc<Mutex<&'static str>>,
    /// A value of `authorization` that is answered with 401.
    pub refused: Arc<Mutex<String>>,
}

impl SecureApi {
    /// Starts the API, and an application that trusts its certificate.
    async fn start() -> (Self, Harness) {
        let (api, neighbours) = Self::listen().await;
        let t = Harness::among(neighbours, &[]).await;
        t.resolve(HOST, &["127.0.0.1"]);
        (api, t)
    }

    /// Starts the API. An application among these neighbours trusts its certificate.
    pub async fn listen() -> (Self, Neighbours) {
        let (root, acceptor) = authority_and(HOST);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, state) = (Arc::<Mutex<Vec<Request>>>::default(), Arc::new(Mutex::new("running")));
        let (kept, current) = (Arc::clone(&requests), Arc::clone(&state));
        let refused = Arc::<Mutex<String>>::default();
        let unauthorized = Arc::clone(&refused);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let mut stream = BufReader::new(stream);
                let Some(request) = Request::read(&mut stream).await else { continue };
                let is_refused = request.header("authorization") == Some(&*unauthorized.lock().unwrap());
                kept.lock().unwrap().push(request);
                let status = if is_refused { "401 Unauthorized" } else { "200 OK" };
                let body = format!(r#"{{"state": "{}"}}"#, current.lock().unwrap());
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.get_mut().write_all((head + &body).as_bytes()).await;
                let _ = stream.get_mut().shutdown().await;
            }
        });
        (Self { port, requests, state, refused }, Neighbours { roots: vec![root], ..Neighbours::default() })
    }

    pub fn host(&self) -> String {
        format!("{HOST}:{}", self.port)
    }

    fn poll(&self, path: &str, credential: &str) -> Value {
        json!({
            "url": format!("https://{}{path}", self.host()), "credential": credential,
            "status": "$.state", "completed": ["done"], "failed": ["error"],
        })
    }

    pub fn last(&self) -> Request {
        self.requests.lock().unwrap().last().expect("a request").clone()
    }

    fn bearer(&self, name: &str) -> Value {
        json!({ "name": name, "kind": "bearer", "sendTo": [self.host()], "token": "token-canary" })
    }
}

fn registration(poll: &Value) -> Value {
    json!({ "poll": poll, "notify": [] })
}

#[tokio::test]
async fn a_poll_sends_the_credential_that_it_names() {
    let (api, mut t) = SecureApi::start().await;
    let basic = json!({ "name": "b", "kind": "basic", "sendTo": [api.host()], "username": "u", "password": "canary" });
    let header = json!({ "name": "h", "kind": "header", "sendTo": [api.host()], "header": "X-Key", "value": "canary" });
    let query = json!({ "name": "q", "kind": "query", "sendTo": [api.host()], "parameter": "key", "value": "can&ry" });
    for (credential, header, path) in [
        (api.bearer("my-key"), Some(("authorization", "Bearer token-canary")), "/jobs/1"),
        (basic, Some(("authorization", "Basic dTpjYW5hcnk=")), "/jobs/1"),
        (header, Some(("x-key", "canary")), "/jobs/1"),
        (query, None, "/jobs/1?key=can%26ry"),
    ] {
        let name = credential["name"].as_str().unwrap();
        let created = t.post("/v1/credentials", &credential).await;
        assert!(created.status == 201 && !created.text().contains("canary"), "{}", created.text());
        t.register(&registration(&api.poll("/jobs/1", name))).await;
        t.pass(seconds(6)).await;
        let request = api.last();
        assert_eq!(request.path, path);
        if let Some((name, value)) = header {
            assert_eq!(request.header(name), Some(value));
        }
    }
    let listed = t.get("/v1/credentials").await;
    assert!(!listed.text().contains("canary"), "{}", listed.text());
    let names: Vec<Value> =
        listed.json()["data"].as_array().unwrap().iter().map(|one| one["name"].clone()).collect();
    assert_eq!(names, ["b", "h", "my-key", "q"]);
    // They are rows, too.
    t.crash().await;
    t.restart().await;
    *api.state.lock().unwrap() = "done";
    t.pass(minutes(2)).await;
    let done = t.get("/v1/watches?status=completed").await.expect(200);
    assert_eq!(done["data"].as_array().unwrap().len(), 4);
    t.finish().await;
}

#[tokio::test]
async fn a_credential_goes_only_to_its_hosts_over_https() {
    let (api, t) = SecureApi::start().await;
    t.post("/v1/credentials", &api.bearer("my-key")).await.expect(201);
    t.resolve("evil.example.com", &["127.0.0.1"]);
    t.resolve("sub.api.example.com", &["127.0.0.1"]);
    let port = api.port;
    for url in [
        format!("https://evil.example.com:{port}/"),
        format!("https://sub.{HOST}:{port}/"),
        format!("https://{HOST}/"),
        format!("https://{HOST}:{}/", port ^ 1),
        format!("http://{HOST}:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://{HOST}.evil.example.com:{port}/"),
    ] {
        let mut poll = api.poll("/", "my-key");
        poll["url"] = json!(url);
        let answer = t.post("/v1/watches", &registration(&poll)).await;
        assert_eq!(answer.status, 422, "{url}");
        let error = answer.json()["errors"][0].clone();
        assert!(
            ["/poll/credential", "/poll/url"].contains(&error["pointer"].as_str().unwrap()),
            "{url}: {error}"
        );
    }
    assert!(api.requests.lock().unwrap().is_empty());
    t.finish().await;
}

#[tokio::test]
async fn a_credential_in_use_cannot_be_deleted() {
    let (api, t) = SecureApi::start().await;
    t.post("/v1/credentials", &api.bearer("my-key")).await.expect(201);
    let watch = t.register(&registration(&api.poll("/jobs/1", "my-key"))).await;
    let refused = t.delete("/v1/credentials/my-key").await.expect(409);
    assert_eq!(refused["code"], "credential_in_use");
    t.stop_watch(&watch).await.expect(200);
    assert_eq!(t.delete("/v1/credentials/my-key").await.status, 204);
    assert_eq!(t.delete("/v1/credentials/my-key").await.status, 404);
    let answer = t.post("/v1/watches", &registration(&api.poll("/jobs/1", "my-key"))).await.expect(422);
    assert_eq!(answer["errors"][0]["pointer"], "/poll/credential");
    // Another credential with this name is another one: a job that used the first does not get it.
    let mut other = api.bearer("my-key");
    other["token"] = json!("another");
    t.post("/v1/credentials", &other).await.expect(201);
    t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
    t.pass(seconds(5)).await;
    assert!(api.requests.lock().unwrap().is_empty(), "the first credential was deleted");
    t.register(&registration(&api.poll("/jobs/1", "my-key"))).await;
    t.pass(seconds(6)).await;
    assert_eq!(api.last().header("authorization"), Some("Bearer another"));
    t.give_up().await;
}

#[tokio::test]
async fn the_credentials_of_another_app_do_not_exist() {
    let (api, t) = SecureApi::start().await;
    t.post("/v1/credentials", &api.bearer("my-key")).await.expect(201);
    let other = tenant(&t, "other").await;
    let list = t.as_key(&other.key, "GET", "/v1/credentials", "").await.expect(200);
    assert_eq!(list["data"], json!([]));
    assert_eq!(t.as_key(&other.key, "DELETE", "/v1/credentials/my-key", "").await.status, 404);
    let body = registration(&api.poll("/jobs/1", "my-key")).to_string();
    let refused = t.as_key(&other.key, "POST", "/v1/watches", &body).await.expect(422);
    assert_eq!(refused["errors"][0]["pointer"], "/poll/credential");
    let own = api.bearer("my-key").to_string();
    t.as_key(&other.key, "POST", "/v1/credentials", &own).await.expect(201);
    assert_eq!(
        t.post("/v1/credentials", &api.bearer("my-key")).await.expect(409)["code"],
        "credential_exists"
    );
    t.finish().await;
}

// Once: nothing is stored.
#[tokio::test]
async fn the_error_of_a_credential_names_the_field_and_the_remedy() {
    let (api, t) = SecureApi::start().await;
    let with = |name: &str, value: Value| {
        let mut credential = api.bearer("x");
        credential[name] = value;
        credential
    };
    for (credential, pointer, says) in [
        (with("name", json!("a b")), "/name", "letters, digits"),
        (with("name", Value::Null), "/name", "is required"),
        (with("kind", json!("magic")), "/kind", "bearer"),
        (with("kind", Value::Null), "/kind", "bearer, header, basic, query, key"),
        (with("sendTo", Value::Null), "/sendTo", "the hosts that get the credential"),
        (with("sendTo", json!([])), "/sendTo", "at least one host"),
        (with("sendTo", json!(["*.example.com"])), "/sendTo/0", "exact"),
        (with("sendTo", json!(["https://a.example"])), "/sendTo/0", "api.example.com"),
        (with("token", Value::Null), "/token", "is required"),
        (with("token", json!("canary\n")), "/token", "control characters"),
        (with("token", json!("canary canary")), "/token", "space"),
        (with("token", json!("Bearer canary")), "/token", "remove it"),
        (with("password", json!("canary")), "/password", "has no meaning for the kind bearer"),
        (json!({ "name": "x", "kind": "key", "sendTo": [HOST] }), "/value", "is required"),
        (
            json!({ "name": "x", "kind": "key", "sendTo": [HOST], "value": "canary\u{1}" }),
            "/value",
            "control",
        ),
        (
            json!({ "name": "x", "kind": "key", "sendTo": [HOST], "value": "canary".repeat(3_000) }),
            "/value",
            "16 KiB",
        ),
        (
            json!({ "name": "x", "kind": "header", "sendTo": [HOST], "header": "Host", "value": "canary" }),
            "/header",
            "not yours to set",
        ),
        (
            json!({ "name": "x", "kind": "basic", "sendTo": [HOST], "username": "a:b", "password": "canary" }),
            "/username",
            "colon",
        ),
    ] {
        let answer = t.post("/v1/credentials", &credential).await;
        assert_eq!(answer.status, 422, "{credential}");
        let errors = answer.json()["errors"].clone();
        let named = errors.as_array().unwrap().iter().find(|error| error["pointer"] == pointer);
        let detail = named.unwrap_or_else(|| panic!("{credential}: {errors}"))["detail"].to_string();
        assert!(detail.contains(says) && !answer.text().contains("canary"), "{credential}: {errors}");
    }
    let mut both = api.poll("/", "my-key");
    both["headers"] = json!({ "authorization": "x" });
    t.post("/v1/credentials", &api.bearer("my-key")).await.expect(201);
    let answer = t.post("/v1/watches", &registration(&both)).await.expect(422);
    assert_eq!(answer["errors"][0]["pointer"], "/poll/headers/authorization");
    t.finish().await;
}

// Once: the command line knows no database.
#[tokio::test]
async fn credentials_are_managed_on_the_command_line() {
    let (api, t) = SecureApi::start().await;
    let server = crate::cli::url(&t);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "token-canary\n").unwrap();
    let (file, host) = (file.to_str().unwrap(), api.host());
    let add = ["credential", "add", "my-key", "--send-to", &host, "--secret-file", file];
    let added = crate::cli::ask(&server, &add).await.expect(0);
    assert_eq!(added.out, "my-key is stored. Its secret is never shown.\n");
    let listed = crate::cli::ask(&server, &["credential", "list"]).await.expect(0);
    assert!(listed.out.contains("my-key") && listed.out.contains(&host), "{listed:#?}");
    let url = format!("https://{host}/jobs/1");
    let watch = [
        "watch",
        "--poll-url",
        &url,
        "--poll-credential",
        "my-key",
        "--status",
        "$.state",
        "--completed",
        "done",
    ];
    let refused = crate::cli::ask(&server, &watch).await.expect(1);
    assert!(refused.err.starts_with("--failed: is required"), "{refused:#?}");
    *api.state.lock().unwrap() = "done";
    crate::cli::ask(&server, &[&watch[..], &["--failed", "error"]].concat()).await.expect(0);
    t.pass(seconds(5)).await;
    assert_eq!(api.last().header("authorization"), Some("Bearer token-canary"));
    let wrong =
        ["credential", "add", "x", "--kind", "basic", "--send-to", "*.a.example", "--secret-file", file];
    let wrong = crate::cli::ask(&server, &wrong).await.expect(1);
    assert!(wrong.err.contains("--send-to (number 1): must be an exact host"), "{wrong:#?}");
    assert!(!wrong.err.contains("canary"), "{wrong:#?}");
    let removed = crate::cli::ask(&server, &["credential", "remove", "my-key"]).await.expect(0);
    assert_eq!(removed.out, "my-key is deleted.\n");
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    a_poll_sends_the_credential_that_it_names,
    a_credential_goes_only_to_its_hosts_over_https,
    a_credential_in_use_cannot_be_deleted,
    the_credentials_of_another_app_do_not_exist,
}
