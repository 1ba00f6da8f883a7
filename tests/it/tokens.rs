//! Credentials that are exchanged for tokens: when a token is requested, and what its failures mean.

use std::fs;
use std::sync::Arc;

use ringback::clock::Clock;
use ringback::domain::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::fakes::{Reply, Server, Shared};
use crate::harness::{Harness, Neighbours, minutes, seconds, since_start};
use crate::wire::Request;

/// A definition whose credential is exchanged for tokens.
const ACME: &str = r#"
schema = 2
id = "acme"
name = "Acme"
docs = "https://acme.example/docs"
[params.job_id]
pattern = "[a-z0-9_]+"
[auth]
type = "oauth2"
grant = "GRANT"
token_url = "https://login.acme.example/oauth/token"
scope = "jobs.read"
send_to = ["api.acme.example"]
[request]
url = "https://api.acme.example/v1/jobs/{job_id}"
[status]
path = "$.status"
[status.map]
processing = ["processing"]
completed = ["completed"]
failed = ["failed"]
[extract]
job_id = "$.id"
[errors]
message = "$.message"
[limits]
rate = "off"
concurrency = 20
[[example]]
job_id = "a"
body = '{"id": "a", "status": "processing"}'
expect = { answer = "seen", status = "processing", raw_status = "processing" }
[[example]]
job_id = "a"
body = '{"id": "a", "status": "completed"}'
expect = { answer = "seen", status = "completed", raw_status = "completed" }
[[example]]
job_id = "a"
body = '{"id": "a", "status": "failed"}'
expect = { answer = "seen", status = "failed", raw_status = "failed" }
"#;

/// A provider with a token URL.
#[derive(Debug, Default)]
struct Acme {
    /// Bodies of the requests for tokens, and their times.
    exchanges: Vec<(Timestamp, String)>,
    /// Times and tokens of the polls.
    polls: Vec<(Timestamp, String)>,
    /// Answer of the token URL instead of a token.
    refusal: Option<Reply>,
    /// Whether the provider revokes the tokens that it has issued.
    revokes: bool,
    valid: Vec<String>,
    lifetime: u64,
    /// Whether the answer of the token URL is not as in RFC 6749.
    own_form: bool,
    /// Whether a refresh token is replaced by each exchange.
    rotates: bool,
    gate: Option<Reply>,
}

impl Acme {
    fn answer(&mut self, request: &Request, now: Timestamp) -> Reply {
        if request.path == "/oauth/token" {
            let body = String::from_utf8(request.body.clone()).unwrap();
            assert_eq!(request.header("authorization"), Some("Basic aWQ6aHVzaC1zZWNyZXQ="));
            self.exchanges.push((now, body));
            if let Some(refusal) = &self.refusal {
                return refusal.clone();
            }
            let n = self.exchanges.len();
            let token = format!("t0ken-{n}");
            self.valid.push(token.clone());
            if self.own_form {
                return Reply::json(201, &json!({ "t": token, "ttl": self.lifetime.to_string() }));
            }
            let mut issued =
                json!({ "access_token": token, "token_type": "Bearer", "expires_in": self.lifetime });
            if self.rotates {
                issued["refresh_token"] = json!(format!("refresh-{n}"));
            }
            return self.gate.take().unwrap_or_else(|| Reply::json(200, &issued));
        }
        let job = request.path.strip_prefix("/v1/jobs/").unwrap();
        let token = request.header("authorization").unwrap().strip_prefix("Bearer ").unwrap().to_owned();
        self.polls.push((now, token.clone()));
        if !self.valid.contains(&token) || self.revokes {
            self.valid.clear();
            self.revokes = false;
            return Reply::json(401, &json!({ "message": format!("the token {token} is not valid") }));
        }
        Reply::json(200, &json!({ "id": job, "status": "processing" }))
    }
}

/// The application with the provider.
struct Setting {
    t: Harness,
    shared: Arc<Shared<Acme>>,
    _folder: TempDir,
    _server: Server,
}

impl Setting {
    async fn start(grant: &str, credential: &str, acme: Acme) -> Self {
        let neighbours = Neighbours::default();
        let (clock, shared) = (Clock::Manual(neighbours.clock.clone()), Shared::new(acme));
        let server = Server::start(neighbours.held.clone(), {
            let shared = Arc::clone(&shared);
            move |request| shared.change(|acme| acme.answer(&request, clock.now()))
        });
        let server = server.await;
        let url = format!("http://{}", server.address);
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("acme.toml"), ACME.replace("GRANT", grant)).unwrap();
        let settings = [
            ("RINGBACK_PROVIDERS__PATH", folder.path().to_str().unwrap()),
            ("RINGBACK_PROVIDERS__ACME__API_KEY", credential),
            ("RINGBACK_PROVIDERS__ACME__BASE_URL", url.as_str()),
            ("RINGBACK_PROVIDERS__ACME__TOKEN_URL", &format!("{url}/oauth/token")),
        ];
        let t = Harness::among(neighbours, &settings).await;
        Self { t, shared, _folder: folder, _server: server }
    }

    async fn client(lifetime: u64) -> Self {
        let acme = Acme { lifetime, ..Acme::default() };
        Self::start("client_credentials", r#"{"client_id": "id", "client_secret": "hush-secret"}"#, acme)
            .await
    }

    async fn watch(&self, job: &str) -> String {
        self.t.register(&json!({ "provider": "acme", "jobId": job, "notify": [] })).await
    }

    async fn health(&self) -> Value {
        let list = self.t.get("/v1/providers").await.expect(200);
        list["data"].as_array().unwrap().iter().find(|one| one["id"] == "acme").unwrap()["health"].clone()
    }

    fn exchanges(&self) -> Vec<u64> {
        since_start(&self.shared.lock().exchanges.iter().map(|(at, _)| *at).collect::<Vec<_>>())
    }

    fn tokens(&self) -> Vec<String> {
        self.shared.lock().polls.iter().map(|(_, token)| token.clone()).collect()
    }
}

/// Checks that each token is requested when a poll needs it, and used until the end of its life of 100 s at most.
fn check_lifetimes(shared: &Acme) {
    assert_eq!(shared.exchanges[0].1, "grant_type=client_credentials&scope=jobs.read");
    // It is renewed from a tenth of its life before its end. The poll that begins the renewal uses it.
    let times: Vec<u64> = since_start(&shared.polls.iter().map(|(at, _)| *at).collect::<Vec<_>>());
    for (n, (token, at)) in shared.polls.iter().map(|(_, token)| token).zip(&times).enumerate() {
        let issued = since_start(&shared.exchanges.iter().map(|(at, _)| *at).collect::<Vec<_>>());
        let used: usize = token.strip_prefix("t0ken-").unwrap().parse().unwrap();
        assert!(at - issued[used - 1] < 100, "poll {n} at {at} s used {token} of {issued:?}");
    }
    assert!(shared.exchanges.len() == 3 && shared.polls.len() > 5, "{shared:?}");
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_token_is_used_until_shortly_before_its_end() {
    let s = Setting::client(100).await;
    s.watch("a").await;
    s.t.pass(seconds(260)).await;
    check_lifetimes(&s.shared.lock());
    s.t.finish().await;
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_tiny_or_absent_life_causes_no_exchange_per_poll() {
    for (lifetime, exchanges) in [(1, vec![5]), (0, vec![5])] {
        let s = Setting::client(lifetime).await;
        for job in ["a", "b", "c", "d"] {
            s.watch(job).await;
            s.t.pass(seconds(1)).await;
        }
        s.t.pass(seconds(6)).await;
        assert_eq!((s.exchanges(), s.tokens().len()), (exchanges, 4), "{lifetime}");
        s.t.give_up().await;
    }
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_token_of_another_form_is_requested_and_read() {
    let acme = Acme { lifetime: 3600, own_form: true, ..Acme::default() };
    let grant = "account_credentials\"\ntoken_request = { form = { account_id = \"{account_id}\" } }\n\
                 token_answer = { token = \"$.t\", expires_in = \"$.ttl\" }\nclient_auth = \"header";
    let credential = "client_id=id\nclient_secret=hush-secret\naccount_id=a1";
    let s = Setting::start(grant, credential, acme).await;
    s.watch("a").await;
    s.t.pass(seconds(25)).await;
    assert_eq!(s.tokens(), ["t0ken-1", "t0ken-1"]);
    let body = s.shared.lock().exchanges[0].1.clone();
    assert_eq!(body, "grant_type=account_credentials&scope=jobs.read&account_id=a1");
    s.t.finish().await;
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn many_polls_wait_for_one_request_for_a_token() {
    let s = Setting::client(3600).await;
    let (reply, gate) =
        Reply::json(200, &json!({ "access_token": "t0ken-1", "token_type": "bearer", "expires_in": 3600 }))
            .held();
    s.shared.change(|acme| acme.gate = Some(reply));
    for job in ["a", "b", "c", "d"] {
        s.watch(job).await;
    }
    s.t.clock.advance(seconds(5));
    s.shared.until("a request for a token", |acme| (!acme.exchanges.is_empty()).then_some(())).await;
    assert_eq!(s.tokens(), [""; 0]);
    gate.open();
    s.shared.until("four polls", |acme| (acme.polls.len() == 4).then_some(())).await;
    s.t.rest().await;
    assert_eq!((s.exchanges(), s.tokens()), (vec![5], vec!["t0ken-1".to_owned(); 4]));
    s.t.finish().await;
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_silent_token_url_stops_no_poll_of_a_valid_token() {
    let s = Setting::client(100).await;
    s.watch("a").await;
    s.t.pass(seconds(91)).await;
    let before = s.tokens().len();
    let (reply, gate) =
        Reply::json(200, &json!({ "access_token": "t0ken-2", "token_type": "bearer", "expires_in": 100 }))
            .held();
    s.shared.change(|acme| acme.gate = Some(reply));
    for job in ["b", "c", "d"] {
        s.watch(job).await;
        s.t.pass(seconds(1)).await;
    }
    s.t.pass(seconds(5)).await;
    let tokens = s.tokens().split_off(before);
    assert!(tokens.len() >= 3 && tokens.iter().all(|token| token == "t0ken-1"), "{tokens:?}");
    assert_eq!(s.exchanges().len(), 2, "one renewal at a time");
    gate.open();
    s.t.rest().await;
    s.watch("e").await;
    s.t.pass(seconds(6)).await;
    assert_eq!(s.tokens().pop().as_deref(), Some("t0ken-2"));
    s.t.finish().await;
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_revoked_token_is_replaced_and_fails_no_poll() {
    let s = Setting::client(3600).await;
    let watch = s.watch("a").await;
    s.t.pass(seconds(25)).await;
    assert_eq!(s.tokens(), ["t0ken-1", "t0ken-1"]);
    s.shared.change(|acme| acme.revokes = true);
    s.t.pass(seconds(60)).await;
    let tokens = s.tokens();
    assert_eq!(tokens[2..4], ["t0ken-1", "t0ken-2"], "{tokens:?}");
    assert_eq!(s.exchanges().len(), 2);
    assert_eq!(s.health().await["status"], "ok");
    assert_eq!(s.t.shown(&watch).await["job"]["lastError"], json!(null));
    s.t.finish().await;
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_refusal_of_a_new_token_pauses_the_provider_without_its_text() {
    let s = Setting::client(3600).await;
    let watch = s.watch("a").await;
    s.shared.change(|acme| acme.revokes = true);
    s.t.pass(seconds(8)).await;
    assert_eq!((s.exchanges().len(), s.tokens().len()), (1, 1));
    let shown = s.t.shown(&watch).await;
    let error = shown["job"]["lastError"].as_str().unwrap();
    assert!(error.contains("the token *** is not valid"), "{error}");
    assert_eq!(s.health().await["status"], "paused");
    s.t.give_up().await;
}

// Once: the poller decides, and writes nothing.
#[tokio::test]
async fn a_rejected_client_pauses_the_provider_and_fails_no_watch() {
    let s = Setting::client(3600).await;
    s.shared.change(|acme| {
        let body = json!({ "error": "invalid_client", "error_description": "hush-secret is wrong" });
        acme.refusal = Some(Reply::json(401, &body));
    });
    // An error that could name the job is not shown to everybody.
    let watch = s.watch("job_7").await;
    s.t.pass(minutes(5)).await;
    let (shown, health) = (s.t.shown(&watch).await, s.health().await);
    assert_eq!((&shown["status"], &health["status"]), (&json!("watching"), &json!("paused")), "{health}");
    let error = shown["job"]["lastError"].as_str().unwrap();
    assert_eq!(error, "token: 127.0.0.1: answered HTTP 401 (invalid_client) to the request for a token");
    assert_eq!(health["lastError"], "HTTP 401 invalid_client");
    assert_eq!(s.tokens(), [""; 0]);
    // One a minute, as with a refused key.
    assert!((4..=6).contains(&s.exchanges().len()), "{:?}", s.exchanges());
    s.shared.change(|acme| acme.refusal = None);
    s.t.pass(minutes(2)).await;
    assert_eq!(s.health().await["status"], "ok");
    s.t.finish().await;
}

// Once: the poller decides, and writes nothing.
#[tokio::test]
async fn a_token_url_that_fails_is_named_and_ends_no_watch() {
    let s = Setting::client(3600).await;
    s.shared.change(|acme| acme.refusal = Some(Reply::new(503, "hush")));
    let watch = s.watch("a").await;
    s.t.pass(minutes(2)).await;
    let shown = s.t.shown(&watch).await;
    assert_eq!(shown["status"], "watching");
    let error = shown["job"]["lastError"].as_str().unwrap();
    assert_eq!(error, "token: 127.0.0.1: answered HTTP 503 to the request for a token");
    assert_ne!(s.health().await["status"], "paused");
    s.shared.change(|acme| acme.refusal = None);
    s.t.pass(minutes(5)).await;
    assert_eq!(s.health().await["status"], "ok");
    s.t.finish().await;
}

// Once: the poller keeps tokens in memory.
#[tokio::test]
async fn a_rotated_refresh_token_is_used_until_the_process_ends() {
    let acme = Acme { lifetime: 60, rotates: true, ..Acme::default() };
    let credential = "client_id=id\nclient_secret=hush-secret\nrefresh_token=refresh-0";
    let mut s = Setting::start("refresh_token", credential, acme).await;
    s.watch("a").await;
    s.t.pass(minutes(3)).await;
    let sent = |s: &Setting| -> Vec<String> {
        let refresh = |(_, body): &(Timestamp, String)| body.split('&').nth(1).unwrap().to_owned();
        s.shared.lock().exchanges.iter().map(refresh).collect()
    };
    assert_eq!(sent(&s)[..2], ["refresh_token=refresh-0", "refresh_token=refresh-1"]);
    let before = sent(&s).len();
    s.t.stop().await;
    s.t.restart().await;
    s.t.pass(minutes(2)).await;
    assert_eq!(sent(&s)[before], "refresh_token=refresh-0", "the configuration is not written");
    s.t.finish().await;
}

// Once: no database is used.
#[tokio::test]
async fn a_credential_that_cannot_be_used_refuses_the_start() {
    for (variable, value, expected) in [
        (
            "BIGQUERY__API_KEY",
            "hush",
            "must be the JSON key of a service account, with the fields `client_email`, `private_key`",
        ),
        (
            "BIGQUERY__API_KEY",
            r#"{"client_email": "a@b.example", "private_key": "hush"}"#,
            "`private_key` that must be a private key in PEM",
        ),
        (
            "AWS_TRANSCRIBE__API_KEY",
            r#"{"access_key_id": "AKIA"}"#,
            "with the fields `access_key_id`, `secret_access_key`",
        ),
        ("SNOWFLAKE__API_KEY", r#"{"user": "hush"}"#, "with the fields `account`, `private_key`, `user`"),
        (
            "MUVI__TOKEN_URL",
            "https://hush.example/token",
            "token_url: the provider's credential is not exchanged",
        ),
    ] {
        let error = Harness::refused(&[(&format!("RINGBACK_PROVIDERS__{variable}"), value)]).await;
        assert!(error.contains(expected) && !error.contains("hush"), "{error}");
        assert!(error.starts_with(&format!("RINGBACK_PROVIDERS__{variable}: [providers.")), "{error}");
    }
}
