//! Logs of the real program at level `trace`: their fields, and that they hold no secrets.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use crate::fakes::{Held, Reply, Server};
use crate::harness::guarded;
use crate::tidy::{code, rows_under, sources};
use crate::wire::{self, Answer, Request};

/// Secrets that must not be logged.
mod canary {
    pub const API_KEY: &str = "rb_canary_bootstrap_0001";
    pub const WRONG_KEY: &str = "rb_canary_wrong_key_0002";
    pub const SIGNING: &str = "whsec_Y2FuYXJ5LXNpZ25pbmctMDAwMy0wMTIzNDU2Nzg5";
    pub const DESTINATION: &str = "whsec_Y2FuYXJ5LWRlc3RpbmF0aW9uLTAwMDQtMDEyMzQ1";
    pub const HEADER: &str = "canary-header-0005";
    pub const QUERY: &str = "canary-query-0006";
    pub const PROVIDER: &str = "pb_canary_provider_0007";
    pub const HOOK: &str = "canaryHook0008";
    pub const BOT: &str = "xoxb-canary-bot-0009";
    pub const SMTP: &str = "canary-smtp-0010";
    pub const SEALING: &str = "Y2FuYXJ5LXNlYWxpbmctMDAxMS0wMTIzNDU2Nzg5MDE=";
    pub const PROXY: &str = "canary-proxy-0012";
    pub const POSTGRES: &str = "canary-postgres-0013";
    pub const COLLECTOR: &str = "canary-collector-0014";
    pub const ALL: &[&str] = &[
        API_KEY,
        WRONG_KEY,
        SIGNING,
        DESTINATION,
        HEADER,
        QUERY,
        PROVIDER,
        HOOK,
        BOT,
        SMTP,
        SEALING,
        PROXY,
        POSTGRES,
        COLLECTOR,
    ];
}

/// Text of a provider that tries to start another log line.
const FORGED: &str = "no\r\n2026-02-18T15:00:00.000000Z ERROR ringback::forged: gotcha\u{1b}[2J";

/// One server that plays every peer of the program.
struct World {
    server: Server,
    mail: SocketAddr,
}

impl World {
    async fn start() -> Self {
        let hits = AtomicUsize::new(0);
        let server = Server::start(Held::default(), move |request| answer(&request, &hits));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mail = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(no_mail(stream));
            }
        });
        Self { server: server.await, mail }
    }
}

fn answer(request: &Request, hits: &AtomicUsize) -> Reply {
    let path = request.path.split('?').next().unwrap_or_default();
    match path {
        "/v1/jobs/job_done" => Reply::json(
            200,
            &json!({ "jobId": "job_done", "status": "completed", "progress": 100,
                     "output": "https://cdn.test/1.mp4?token=canary-output" }),
        ),
        // The answer contains the key and a forged line.
        "/v1/jobs/job_echo" => {
            let key = request.header("authorization").unwrap_or_default();
            let error = json!({ "code": "UNAUTHORIZED", "message": format!("{key} is wrong: {FORGED}") });
            Reply::json(401, &json!({ "success": false, "error": error }))
        }
        "/slack/chat.postMessage" => Reply::json(200, &json!({ "ok": true, "ts": "1.2" })),
        _ if hits.fetch_add(1, Ordering::SeqCst).is_multiple_of(3) => Reply::new(500, FORGED),
        _ => Reply::new(200, "ok"),
    }
}

/// A mail server that rejects every password.
async fn no_mail(stream: tokio::net::TcpStream) {
    let mut stream = BufReader::new(stream);
    let _ = stream.write_all(b"220 mail.test ESMTP\r\n").await;
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let reply: &[u8] = match line.get(..4).unwrap_or_default() {
            "EHLO" => b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n",
            "AUTH" => b"535 5.7.8 no\r\n",
            _ => b"250 ok\r\n",
        };
        let _ = stream.write_all(reply).await;
        line.clear();
    }
}

/// `ringback serve` with a secret in every setting.
struct Program {
    child: Child,
    address: SocketAddr,
    log: tokio::task::JoinHandle<String>,
}

fn command(folder: &Path, settings: &[(&str, String)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringback"));
    command.arg("serve").current_dir(folder).env_clear().envs(settings.iter().cloned());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn settings(world: &World, log: &str, format: &str) -> Vec<(&'static str, String)> {
    let url = format!("http://{}", world.server.address);
    vec![
        ("RINGBACK_LISTEN", "127.0.0.1:0".into()),
        ("RINGBACK_LOG", log.into()),
        ("RINGBACK_LOG_FORMAT", format.into()),
        ("RINGBACK_API_KEY", canary::API_KEY.into()),
        ("RINGBACK_SIGNING_SECRET", canary::SIGNING.into()),
        ("RINGBACK_ENCRYPTION_KEY", canary::SEALING.into()),
        ("RINGBACK_EGRESS__ALLOW", "127.0.0.1".into()),
        ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "50ms, 50ms, 50ms, 50ms".into()),
        ("MUVI_API_KEY", canary::PROVIDER.into()),
        ("RINGBACK_PROVIDERS__MUVI__BASE_URL", url.clone()),
        ("RINGBACK_PROVIDERS__MUVI__RATE", "off".into()),
        ("RINGBACK_PROVIDERS__MUVI__FIRST", "50ms".into()),
        ("RINGBACK_PROVIDERS__MUVI__MIN_INTERVAL", "50ms".into()),
        ("RINGBACK_SMTP__URL", format!("smtp://me:{}@{}", canary::SMTP, world.mail)),
        ("RINGBACK_SMTP__FROM", "robot@mail.test".into()),
        ("RINGBACK_SMTP__ALLOW", "*@mail.test".into()),
        ("RINGBACK_SLACK__BOT_TOKEN", canary::BOT.into()),
        ("RINGBACK_SLACK__API_URL", format!("{url}/slack")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9".into()),
        ("OTEL_EXPORTER_OTLP_HEADERS", format!("api-key={}", canary::COLLECTOR)),
    ]
}

impl Program {
    async fn start(folder: &Path, settings: &[(&str, String)]) -> Self {
        let mut child = command(folder, settings).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = child.stderr.take().unwrap();
        let log = tokio::spawn(async move {
            let mut log = Vec::new();
            stderr.read_to_end(&mut log).await.unwrap();
            String::from_utf8(log).unwrap()
        });
        let mut log = log;
        let listening = async {
            loop {
                let Some(line) = lines.next_line().await.unwrap() else {
                    panic!("it does not start: {}", (&mut log).await.unwrap());
                };
                if let Some(address) = line.strip_prefix("ringback listens on http://") {
                    return address.parse().unwrap();
                }
            }
        };
        let address = guarded("the address", listening).await;
        Self { child, address, log }
    }

    async fn send(&self, method: &str, path: &str, key: &str, body: &Value) -> Answer {
        let key = format!("Bearer {key}");
        let headers = [("authorization", key.as_str()), ("content-type", "application/json")];
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let bytes = wire::request(method, path, &headers, body.as_bytes());
        guarded(path, wire::exchange(self.address, &bytes)).await.expect("an answer")
    }

    /// Stops the program and returns its stderr.
    async fn end(mut self) -> String {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        assert!(guarded("the end", self.child.wait()).await.unwrap().success());
        guarded("its stderr", self.log).await.unwrap()
    }
}

/// Registers watches with secrets in every possible place. Returns the secrets that were created.
async fn use_every_secret(program: &Program, world: &World) -> Vec<String> {
    let url = |path: &str| format!("http://{}{path}", world.server.address);
    let key = canary::API_KEY;
    let made = program.send("POST", "/v1/keys", key, &json!({ "scope": "write" })).await.expect(201);
    let made = made["key"].as_str().unwrap().to_owned();
    let app = program.send("POST", "/v1/apps", key, &json!({ "name": "tenant" })).await.expect(201);
    program.send("GET", "/v1/watches", canary::WRONG_KEY, &Value::Null).await.expect(401);
    program.send("GET", "/v1/signing-secret", key, &Value::Null).await.expect(200);
    let hook = url(&format!("/hook?token={}", canary::QUERY));
    let notify = json!([
        hook,
        { "url": url("/own"), "secret": canary::DESTINATION, "headers": { "x-canary": canary::HEADER } },
        url("/plain"),
    ]);
    let everywhere =
        |job: &str| json!({ "jobId": job, "notify": notify, "email": "me@mail.test", "slack": "#general" });
    let slack = url(&format!("/hooks/{}", canary::HOOK));
    let by_hook = json!({ "jobId": "job_done", "slack": slack });
    // The one whose poll is answered with 401 comes last: it pauses the provider.
    for body in [everywhere("job_done"), by_hook, everywhere("job_echo")] {
        program.send("POST", "/v1/watches", &made, &body).await.expect(201);
    }
    let wrong = json!({ "jobId": "../x", "callbackUrl": format!("ftp://u:{}@x", canary::QUERY), "secret": canary::SIGNING });
    program.send("POST", "/v1/watches", &made, &wrong).await.expect(422);
    program.send("GET", &format!("/nowhere?key={}", canary::QUERY), &made, &Value::Null).await.expect(404);
    let delivered = async {
        loop {
            let path = "/v1/deliveries?status=succeeded&limit=200";
            let found = program.send("GET", path, key, &Value::Null).await.expect(200);
            // Three webhooks, a channel and a webhook of Slack.
            if found["data"].as_array().unwrap().len() >= 5 {
                return;
            }
        }
    };
    guarded("every delivery", delivered).await;
    let secret = app["signingSecret"].as_str().or(app["secret"].as_str()).map(str::to_owned);
    [Some(made), secret].into_iter().flatten().collect()
}

fn holds_no_secret(log: &str, made: &[String]) {
    for canary in canary::ALL.iter().copied().chain(made.iter().map(String::as_str)) {
        let line = log.lines().find(|line| line.contains(canary));
        assert_eq!(line, None, "{canary} is in the log");
    }
}

/// Returns the fields that docs/OPERATIONS.md lists.
fn documented() -> BTreeSet<String> {
    let page = std::fs::read_to_string("docs/OPERATIONS.md").unwrap();
    let rows = rows_under(&page, &["field", "what it is"]);
    assert!(!rows.is_empty());
    rows.iter().map(|row| row[0].trim_matches('`').to_owned()).collect()
}

#[tokio::test]
async fn text_logs_hold_no_secret_and_no_forged_line() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    // Including every line of every library.
    let settings = settings(&world, "trace,ringback=trace", "text");
    let program = Program::start(folder.path(), &settings).await;
    let made = use_every_secret(&program, &world).await;
    let log = program.end().await;
    holds_no_secret(&log, &made);
    assert!(log.contains("gotcha"), "the attempt was made");
    assert!(log.contains("*** is wrong"), "the key was given back");
    let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    for line in log.lines() {
        let mut words = line.split_whitespace();
        let time = words.next().unwrap_or_default();
        assert!(time.len() == 27 && time.ends_with('Z'), "not a line of ours: {line:?}");
        assert!(levels.contains(&words.next().unwrap_or_default()), "{line:?}");
        assert!(!line.contains(char::is_control), "{line:?}");
    }
    assert!(
        !log.lines()
            .any(|line| line.contains(" ringback::forged: ")
                && line.starts_with("2026-02-18T15:00:00.000000Z"))
    );
}

// moby/moby#31540, containerd/containerd#12462: the reader of stderr stands still.
#[tokio::test]
async fn a_log_that_is_not_read_does_not_stop_the_service() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let mut child = command(folder.path(), &settings(&world, "ringback=debug", "text")).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = guarded("the address", lines.next_line()).await.unwrap().unwrap();
    let address: SocketAddr = first.strip_prefix("ringback listens on http://").unwrap().parse().unwrap();
    // Each line has 12 KiB: after a few, the pipe is full.
    let request = wire::request("GET", &format!("/{}", "x".repeat(12 * 1024)), &[], b"");
    for _ in 0..300 {
        let answer = guarded("an answer", wire::exchange(address, &request)).await.unwrap();
        assert_eq!(answer.status, 404);
    }
    let scrape = wire::request("GET", "/metrics", &[], b"");
    let metrics = guarded("the metrics", wire::exchange(address, &scrape)).await.unwrap();
    let dropped =
        metrics.text().lines().find_map(|line| line.strip_prefix("ringback_log_lines_dropped_total "));
    let dropped: u64 = dropped.unwrap().parse().unwrap();
    assert!(dropped > 0);
    // The reader continues.
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let reported = async {
        loop {
            let line = log.next_line().await.unwrap().unwrap();
            if line.contains("log lines were dropped") {
                return line;
            }
        }
    };
    let line = guarded("the report", reported).await;
    let count = line.rsplit_once("count=").unwrap().1.parse::<u64>().unwrap();
    assert!(count >= dropped, "{line}");
    // It stands still again: the end does not wait for it for long.
    for _ in 0..300 {
        guarded("an answer", wire::exchange(address, &request)).await.unwrap();
    }
    kill_process(Pid::from_raw(child.id().unwrap().cast_signed()).unwrap(), Signal::TERM).unwrap();
    assert!(guarded("the end", child.wait()).await.unwrap().success());
    drop(log);
}

#[tokio::test]
async fn the_log_filter_decides_what_is_logged() {
    let world = World::start().await;
    for (filter, expected, absent) in [
        ("off", &[][..], &["ready", "stopping"][..]),
        ("error", &[], &["ready"]),
        ("info", &["INFO ringback::app: ready"], &["DEBUG", "TRACE"]),
        ("ringback=debug,warn", &["INFO ringback::app: ready", "DEBUG ringback::"], &["TRACE"]),
        ("hyper=info", &[], &["ready"]),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let program = Program::start(folder.path(), &settings(&world, filter, "text")).await;
        program.send("GET", "/v1/watches", canary::API_KEY, &Value::Null).await;
        let log = program.end().await;
        assert!(expected.iter().all(|word| log.contains(word)), "{filter}: {log}");
        assert!(!absent.iter().any(|word| log.contains(word)), "{filter}: {log}");
    }
}

#[tokio::test]
async fn a_failed_attempt_is_logged_with_its_error() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let program = Program::start(folder.path(), &settings(&world, "ringback=debug", "json")).await;
    use_every_secret(&program, &world).await;
    let log = program.end().await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let empty = lines.iter().find(|line| line.as_object().unwrap().values().any(|value| value == ""));
    assert!(empty.is_none(), "{empty:?}");
    let failed: Vec<&Value> =
        lines.iter().filter(|line| line["message"] == "an attempt failed; a retry follows").collect();
    assert!(failed.iter().all(|line| line["error"].is_string()) && !failed.is_empty(), "{failed:?}");
    let ended = lines.iter().find(|line| line["message"] == "the job has ended").expect("a line");
    assert_eq!((&ended["level"], &ended["provider"]), (&json!("INFO"), &json!("muvi")));
    assert!(ended["job"].is_string() && ended["ending"] == "completed", "{ended}");
}

#[tokio::test]
async fn a_start_without_any_provider_key_warns() {
    let world = World::start().await;
    for with_key in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&world, "warn", "text");
        settings.retain(|(name, _)| with_key || *name != "MUVI_API_KEY");
        let program = Program::start(folder.path(), &settings).await;
        program.send("GET", "/v1/watches", canary::API_KEY, &Value::Null).await;
        let log = program.end().await;
        let warns = log.contains("no provider has an API key") && log.contains("MUVI_API_KEY");
        assert_eq!(warns, !with_key, "{log}");
    }
}

/// Returns the first line with this beginning of its message.
fn line_of(log: &str, message: &str) -> Value {
    let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let found = lines.find(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message)));
    found.unwrap_or_else(|| panic!("{message}: {log}"))
}

#[tokio::test]
async fn a_mail_server_at_a_wrong_address_is_named_in_the_log() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    // Nothing listens there.
    let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut settings = settings(&world, "info", "json");
    settings.push(("RINGBACK_SMTP__URL", format!("smtp://me:{}@{address}", canary::SMTP)));
    let program = Program::start(folder.path(), &settings).await;
    let made = use_every_secret(&program, &world).await;
    let attempted = async {
        loop {
            let path = "/v1/deliveries?limit=200";
            let found = program.send("GET", path, canary::API_KEY, &Value::Null).await.expect(200);
            let mut all = found["data"].as_array().unwrap().iter();
            let mail = all.find(|one| one["destination"]["type"] == "email" && one["attemptCount"] != 0);
            if let Some(mail) = mail {
                return mail.clone();
            }
        }
    };
    let mail = guarded("an attempt", attempted).await;
    let log = program.end().await;
    holds_no_secret(&log, &made);
    let line = line_of(&log, "the mail server cannot be reached");
    assert_eq!((&line["level"], &line["address"]), (&json!("WARN"), &json!(address.to_string())));
    assert_eq!(line["error"], "connect: connection refused");
    assert!(!mail.to_string().contains(&address.port().to_string()), "not for the tenant: {mail}");
}

#[tokio::test]
async fn the_first_failed_poll_is_logged_with_its_url() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let base = format!("http://{}/wrong", world.server.address);
    let mut settings = settings(&world, "info", "json");
    settings.push(("RINGBACK_PROVIDERS__MUVI__BASE_URL", base.clone()));
    let program = Program::start(folder.path(), &settings).await;
    let body = json!({ "jobId": "job_1", "notify": [] });
    program.send("POST", "/v1/watches", canary::API_KEY, &body).await.expect(201);
    let polled = async {
        loop {
            let found = program.send("GET", "/v1/providers", canary::API_KEY, &Value::Null).await.expect(200);
            let mut all = found["data"].as_array().unwrap().iter();
            if all.any(|one| one["id"] == "muvi" && !one["health"]["lastError"].is_null()) {
                return;
            }
        }
    };
    guarded("a poll", polled).await;
    let log = program.end().await;
    let line = line_of(&log, "a poll failed;");
    assert_eq!((&line["level"], &line["provider"]), (&json!("WARN"), &json!("muvi")));
    assert!(line["url"].as_str().is_some_and(|url| url.starts_with(&format!("{base}/"))), "{line}");
    assert!(line["error"].is_string(), "{line}");
    holds_no_secret(&log, &[]);
}

#[tokio::test]
async fn the_delivery_of_an_ending_is_logged_at_info() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let program = Program::start(folder.path(), &settings(&world, "info", "json")).await;
    use_every_secret(&program, &world).await;
    let log = program.end().await;
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let delivered = lines.iter().find(|line| line["message"] == "delivered");
    let delivered = delivered.unwrap_or_else(|| panic!("{log}"));
    assert_eq!((&delivered["level"], &delivered["event"]), (&json!("INFO"), &json!("job.completed")));
    for field in ["watch", "delivery", "queue", "channel"] {
        assert!(delivered[field].is_string(), "{field}: {delivered}");
    }
}

#[tokio::test]
async fn json_logs_have_documented_fields_and_no_secret() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    let settings = settings(&world, "trace,ringback=trace", "json");
    let program = Program::start(folder.path(), &settings).await;
    let made = use_every_secret(&program, &world).await;
    let log = program.end().await;
    holds_no_secret(&log, &made);
    let documented = documented();
    let (mut ours, mut wrong) = (0, String::new());
    for line in log.lines() {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let object = object.as_object().unwrap();
        for always in ["timestamp", "level", "target", "message"] {
            assert!(object.get(always).is_none_or(Value::is_string), "{line}");
        }
        if !object["target"].as_str().unwrap().starts_with("ringback") {
            continue;
        }
        ours += 1;
        assert!(object["message"].is_string(), "{line}");
        for key in
            object.keys().filter(|key| !["timestamp", "level", "target", "message"].contains(&key.as_str()))
        {
            if !documented.contains(key) {
                let _ = writeln!(wrong, "{key} in {line}");
            }
        }
    }
    assert!(wrong.is_empty() && ours > 20, "{wrong}");
}

#[tokio::test]
async fn passwords_of_proxies_and_databases_are_not_logged() {
    let (world, folder) = (World::start().await, tempfile::tempdir().unwrap());
    for format in ["text", "json"] {
        let mut proxied = settings(&world, "trace,ringback=trace", format);
        proxied.push(("RINGBACK_EGRESS__PROXY", format!("http://me:{}@127.0.0.1:9", canary::PROXY)));
        let program = Program::start(folder.path(), &proxied).await;
        let body = json!({ "jobId": "job_done", "callbackUrl": "https://example.com/hook" });
        program.send("POST", "/v1/watches", canary::API_KEY, &body).await.expect(201);
        let polled = async {
            loop {
                let found =
                    program.send("GET", "/v1/watches", canary::API_KEY, &Value::Null).await.expect(200);
                if !found["data"][0]["job"]["lastError"].is_null() {
                    return;
                }
            }
        };
        guarded("a poll", polled).await;
        holds_no_secret(&program.end().await, &[]);

        let mut elsewhere = settings(&world, "trace,ringback=trace", format);
        elsewhere
            .push(("RINGBACK_DATABASE_URL", format!("postgres://me:{}@127.0.0.1:9/none", canary::POSTGRES)));
        let output = guarded("the refusal", command(folder.path(), &elsewhere).output()).await.unwrap();
        assert_eq!(output.status.code(), Some(1));
        holds_no_secret(&String::from_utf8_lossy(&output.stderr), &[]);
        holds_no_secret(&String::from_utf8_lossy(&output.stdout), &[]);
    }
}

/// Checks the source as well, because some lines are rare. The simulator and the demo are not services.
#[test]
fn every_log_field_is_documented() {
    let documented = documented();
    let mut wrong = String::new();
    let own = |file: &Path| !file.starts_with("src/cli/sim") && !file.starts_with("src/cli/sim.rs");
    for file in sources(&["src"]).into_iter().filter(|file| own(file) && !file.starts_with("src/cli/demo")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let lines: String = code(&text).flat_map(|(_, line)| [line.trim(), " "]).collect();
        for call in lines.split("tracing::").skip(1) {
            let levels = ["error!(", "warn!(", "info!(", "debug!(", "trace!("];
            let Some(rest) = levels.iter().find_map(|level| call.strip_prefix(level)) else { continue };
            for field in fields(rest) {
                if !documented.contains(&field) {
                    let _ = writeln!(wrong, "{}: {field}", file.display());
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not in docs/OPERATIONS.md:\n{wrong}");
}

/// Returns the names of the fields of a call, which precede its message.
fn fields(call: &str) -> Vec<String> {
    let (mut depth, mut part, mut parts) = (0, String::new(), Vec::new());
    for c in call.chars() {
        match c {
            '"' if depth == 0 => break,
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => break,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => parts.push(std::mem::take(&mut part)),
            _ => {}
        }
        if c != ',' || depth > 0 {
            part.push(c);
        }
    }
    let name = |part: &String| {
        let name = part.split('=').next().unwrap_or_default().trim().trim_start_matches(['%', '?']);
        name.to_owned()
    };
    parts.iter().map(name).filter(|name| !name.is_empty()).collect()
}
