//! The command line: the real program, against the real application or a scripted server.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use crate::fakes::{PROVIDER_KEY, Reply, error};
use crate::harness::{AUTH, Harness, KEY, guarded, id, minutes, seconds};
use crate::wire::Request;

/// Result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// Returns the program with only these variables.
pub fn program(env: &[(&str, &str)], line: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringback"));
    command.args(line).env_clear().envs(env.iter().copied()).current_dir(env!("CARGO_TARGET_TMPDIR"));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

pub async fn ended(child: Child) -> Ran {
    let output = guarded("the end of a command", child.wait_with_output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

pub async fn run(env: &[(&str, &str)], line: &[&str]) -> Ran {
    ended(program(env, line).spawn().unwrap()).await
}

/// Runs a client command for the server at `url`.
pub async fn ask(url: &str, line: &[&str]) -> Ran {
    run(&[("RINGBACK_URL", url), ("RINGBACK_API_KEY", KEY)], line).await
}

pub fn url(h: &Harness) -> String {
    format!("http://{}", h.address())
}

/// Waits until `n` watches are registered.
async fn registered(h: &Harness, n: usize) {
    let all =
        async { while h.get("/v1/watches?limit=200").await.json()["data"].as_array().unwrap().len() < n {} };
    guarded("the registrations", all).await;
}

/// A server that sends prepared answers and records the requests.
pub struct Scripted {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Scripted {
    pub async fn start(answers: &[(u16, Value)]) -> Self {
        let raw = answers.iter().map(|(status, body)| (*status, body.to_string())).collect();
        Self::raw(raw).await
    }

    pub async fn raw(answers: Vec<(u16, String)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let requests: Arc<Mutex<Vec<Request>>> = Arc::default();
        let kept = Arc::clone(&requests);
        tokio::spawn(async move {
            for (status, body) in answers {
                let mut stream = BufReader::new(listener.accept().await.unwrap().0);
                let request = Request::read(&mut stream).await.unwrap();
                kept.lock().unwrap().push(request);
                let body = if status == 204 { String::new() } else { body };
                let head =
                    format!("HTTP/1.1 {status} So\r\nconnection: close\r\ncontent-length: {}", body.len());
                let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await;
            }
        });
        Self { url, requests }
    }

    /// Returns the requests: method, path and body.
    pub fn requests(&self) -> Vec<String> {
        let line = |request: &Request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            format!("{} {} {body}", request.method, request.path).trim_end().to_owned()
        };
        self.requests.lock().unwrap().iter().map(line).collect()
    }
}

#[tokio::test]
async fn watch_registers_and_prints_the_watch() {
    let h = Harness::start().await;
    h.provider.completed("job_1");
    let hook = h.receiver.url("/hook");
    let line = [
        "watch",
        "job_1",
        "--webhook",
        &hook,
        "--metadata",
        "{\"z\": 1.0,\"a\":2}",
        "--idempotency-key",
        "k",
    ];
    let shown = ask(&url(&h), &line).await.expect(0);
    assert!(shown.out.contains("watching") && shown.out.contains("job_1 of muvi"), "{shown:#?}");
    assert!(shown.out.contains(&hook) && shown.err.is_empty(), "{shown:#?}");
    // The same command again, with JSON: the same watch.
    let again = ask(&url(&h), &[&line[..], &["--json"]].concat()).await.expect(0);
    assert!(shown.out.contains(&id(&again.json())), "{again:#?}");
    assert!(again.out.contains("{\"z\": 1.0,\"a\":2}"), "byte for byte: {again:#?}");
    h.pass(minutes(1)).await;
    assert_eq!(h.receiver.next().await.event(), "job.completed");
    h.finish().await;
}

#[tokio::test]
async fn watch_without_destination_explains_how_to_follow() {
    let h = Harness::start().await;
    h.provider.completed("job_1");
    let ran = ask(&url(&h), &["watch", "job_1", "--json"]).await.expect(0);
    let watch = id(&ran.json());
    assert_eq!(ran.json()["destinations"], json!([]));
    assert!(ran.err.contains(&format!("ringback show {watch} --follow")), "{ran:#?}");
    h.pass(minutes(1)).await;
    let ran = ask(&url(&h), &["show", &watch, "--follow", "--json"]).await.expect(0);
    assert_eq!(ran.json()["status"], "completed");
    h.finish().await;
}

#[tokio::test]
async fn follow_exits_with_a_code_for_each_final_status() {
    let h = Harness::start().await;
    h.provider.completed("job_completed");
    h.provider.failed("job_failed");
    h.provider.cancelled("job_cancelled");
    h.provider.not_found("job_gone");
    h.provider.processing("job_long", 50);
    h.provider.processing("job_stopped", 50);
    let (url, endings) = (
        url(&h),
        [
            ("job_completed", 0, "completed"),
            ("job_failed", 3, "failed"),
            ("job_cancelled", 4, "cancelled"),
            ("job_gone", 5, "not_found"),
            ("job_long", 6, "expired"),
            ("job_stopped", 6, "stopped"),
        ],
    );
    let env = [("RINGBACK_URL", url.as_str()), ("RINGBACK_API_KEY", KEY)];
    let start =
        |job: &str| program(&env, &["watch", job, "--follow", "--expires-in", "30m"]).spawn().unwrap();
    let children = endings.map(|(job, ..)| start(job));
    registered(&h, endings.len()).await;
    let found = h.get("/v1/watches?jobId=job_stopped").await.json();
    h.stop_watch(&id(&found["data"][0])).await.expect(200);
    h.pass(minutes(31)).await;
    for (child, (job, code, word)) in children.into_iter().zip(endings) {
        let ran = ended(child).await.expect(code);
        let last = ran.out.lines().last().unwrap_or_default();
        assert!(last.starts_with(word), "{job}: {ran:#?}");
    }
    h.give_up().await;
}

#[tokio::test]
async fn follow_prints_changes_on_stderr_and_the_result_on_stdout() {
    let watch = |status: &str, job: Value| json!({ "id": "watch_1", "status": status, "job": job });
    let answers = [
        (200, watch("watching", json!({ "status": "unknown" }))),
        (200, watch("watching", json!({ "status": "processing", "progress": 50 }))),
        (
            200,
            watch(
                "completed",
                json!({ "status": "completed", "progress": 100, "output": "https://a/\u{1b}[2Jb" }),
            ),
        ),
    ];
    let server = Scripted::start(&answers).await;
    let ran = ask(&server.url, &["show", "watch_1", "--follow"]).await.expect(0);
    assert_eq!(ran.err, "not polled yet\nprocessing  50 %\n");
    assert_eq!(ran.out, "completed  100 %  https://a/\\u001b[2Jb\n", "and nothing controls the terminal");
    assert_eq!(server.requests(), ["GET /v1/watches/watch_1?wait=30s"; 3]);
}

/// Forwards connections to a server whose address can change.
#[derive(Clone)]
struct Forwarder {
    address: SocketAddr,
    behind: Arc<Mutex<Option<SocketAddr>>>,
}

impl Forwarder {
    async fn to(behind: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forwarder =
            Self { address: listener.local_addr().unwrap(), behind: Arc::new(Mutex::new(Some(behind))) };
        let at = Arc::clone(&forwarder.behind);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let behind = *at.lock().unwrap();
                tokio::spawn(async move {
                    let Some(behind) = behind else { return };
                    let Ok(mut server) = TcpStream::connect(behind).await else { return };
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
                });
            }
        });
        forwarder
    }

    fn lead(&self, behind: Option<SocketAddr>) {
        *self.behind.lock().unwrap() = behind;
    }
}

#[tokio::test]
async fn follow_survives_a_restart_of_the_server() {
    let mut h = Harness::start().await;
    h.provider.processing("job_1", 50);
    let forwarder = Forwarder::to(h.address()).await;
    let url = format!("http://{}", forwarder.address);
    let env = [("RINGBACK_URL", url.as_str()), ("RINGBACK_API_KEY", KEY)];
    let mut child = program(&env, &["watch", "job_1", "--follow"]).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap()).lines();
    registered(&h, 1).await;
    h.stop().await;
    forwarder.lead(None);
    let away = async { while !stderr.next_line().await.unwrap().unwrap().starts_with("Retrying") {} };
    guarded("a note about the unavailable server", away).await;
    h.provider.completed("job_1");
    h.restart().await;
    forwarder.lead(Some(h.address()));
    h.pass(minutes(1)).await;
    let mut rest = String::new();
    let rest_of_it = async {
        while let Some(line) = stderr.next_line().await.unwrap() {
            rest.push_str(&line);
        }
    };
    guarded("the end of stderr", rest_of_it).await;
    assert!(rest.contains("answers again"), "{rest}");
    ended(child).await.expect(0);
    h.finish().await;
}

#[tokio::test]
async fn an_interrupted_follow_leaves_the_watch_unchanged() {
    let h = Harness::start().await;
    h.provider.processing("job_1", 50);
    let url = url(&h);
    let env = [("RINGBACK_URL", url.as_str()), ("RINGBACK_API_KEY", KEY)];
    let mut child = program(&env, &["watch", "job_1", "--follow"]).spawn().unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    guarded("the first line", stderr.read_line(&mut line)).await.unwrap();
    let pid = rustix::process::Pid::from_raw(child.id().unwrap().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    guarded("the rest of stderr", stderr.read_to_string(&mut line)).await.unwrap();
    let found = h.get("/v1/watches").await.json();
    assert_eq!(found["data"][0]["status"], "watching");
    assert!(line.contains(&format!("ringback show {} --follow", id(&found["data"][0]))), "{line}");
    ended(child).await.expect(1);
    h.give_up().await;
}

#[tokio::test]
async fn watches_prints_a_table_or_json() {
    let h = Harness::start().await;
    h.provider.processing("job_1", 50);
    h.provider.completed("job_2");
    let (one, two) = (h.watch("job_1").await, h.watch("job_2").await);
    h.pass(minutes(1)).await;
    h.receiver.next().await;
    let url = url(&h);
    let table = ask(&url, &["watches"]).await.expect(0).out;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let names = ["ID", "STATUS", "DELIVERY", "PROVIDER", "JOB", "NAME", "PROGRESS"];
    assert_eq!(lines[0][..7], names, "{table}");
    let first = [two.as_str(), "completed", "succeeded", "muvi", "job_2"];
    assert_eq!(lines[1][..5], first, "newest first: {table}");
    assert_eq!(lines[2][..6], [one.as_str(), "watching", "muvi", "job_1", "50", "%"], "{table}");
    assert_eq!(lines[2][6..], ["2026-02-18", "15:00:00"], "{table}");

    let only = ask(&url, &["watches", "--status", "watching", "--json"]).await.expect(0).json();
    assert_eq!((only["data"].as_array().unwrap().len(), id(&only["data"][0])), (1, one.clone()));
    let page = ask(&url, &["watches", "--limit", "1", "--json"]).await.expect(0);
    assert_eq!(page.out.trim_end(), h.get("/v1/watches?limit=1").await.text());
    let cursor = page.json()["nextCursor"].as_str().unwrap().to_owned();
    let next = ask(&url, &["watches", "--limit", "1", "--cursor", &cursor]).await.expect(0);
    assert!(next.out.contains(&one) && next.err.is_empty(), "{next:#?}");
    let more = ask(&url, &["watches", "--limit", "1"]).await.expect(0);
    assert!(more.err.contains("--all"), "{more:#?}");
    let all = ask(&url, &["watches", "--all", "--json"]).await.expect(0).out;
    let all: Vec<String> = all.lines().map(|line| id(&serde_json::from_str(line).unwrap())).collect();
    assert_eq!(all, [two, one]);
    let none = ask(&url, &["watches", "--job-id", "job_3"]).await.expect(0);
    assert_eq!((none.out.as_str(), none.err.as_str()), ("", "No entries.\n"));
    h.finish().await;
}

#[tokio::test]
async fn all_reads_every_page() {
    let page = |n: usize, next: Option<&str>| json!({ "data": [{ "id": format!("watch_{n}") }], "nextCursor": next });
    let answers = [(200, page(3, Some("a&b"))), (200, page(2, Some("c"))), (200, page(1, None))];
    let server = Scripted::start(&answers).await;
    let ran = ask(&server.url, &["watches", "--all"]).await.expect(0);
    let first: Vec<&str> = ran.out.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(first, ["ID", "watch_3", "watch_2", "watch_1"], "the header once");
    let requests = server.requests();
    assert_eq!(requests[0], "GET /v1/watches?limit=200");
    assert_eq!(requests[1], "GET /v1/watches?limit=200&cursor=a%26b");
}

#[tokio::test]
async fn show_prints_a_watch_a_delivery_or_an_event() {
    let h = Harness::start().await;
    h.provider.completed("job_1");
    h.receiver.script("/hook", [Reply::new(500, "not\nnow")]);
    let watch = h.watch("job_1").await;
    h.pass(minutes(1)).await;
    h.receiver.take(2).await;
    let url = url(&h);
    let delivery = id(&h.delivery(&watch).await);
    let event = h.delivery(&watch).await["eventId"].as_str().unwrap().to_owned();

    let shown = ask(&url, &["show", &watch]).await.expect(0).out;
    for word in
        ["completed", "registered", "observed", "job.completed", &delivery, "succeeded", "attempt", "500"]
    {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    let whole = ask(&url, &["show", &watch, "--json"]).await.expect(0).json();
    assert_eq!(whole["timeline"], h.get(&format!("/v1/watches/{watch}/timeline")).await.json()["data"]);
    assert_eq!(whole["id"], watch.as_str());

    let shown = ask(&url, &["show", &delivery]).await.expect(0).out;
    assert!(shown.contains("500") && shown.contains(r"not\nnow") && shown.contains("200"), "{shown}");
    let whole = ask(&url, &["show", &delivery, "--json"]).await.expect(0);
    assert_eq!(whole.out.trim_end(), h.get(&format!("/v1/deliveries/{delivery}")).await.text());

    let shown = ask(&url, &["show", &event]).await.expect(0).out;
    let fields: Vec<String> =
        shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    for field in ["type job.completed", "job job_1 of muvi", "job status completed, 100 %"] {
        assert!(fields.iter().any(|line| line == field), "as a watch is shown: {shown}");
    }
    assert!(shown.contains(&delivery) && shown.contains(&h.receiver.url("/hook")), "{shown}");
    let whole = ask(&url, &["show", &event, "--json"]).await.expect(0);
    assert_eq!(whole.out.trim_end(), h.get(&format!("/v1/events/{event}")).await.text());

    let wrong = ask(&url, &["show", "job_1"]).await.expect(2);
    assert!(wrong.err.contains("watch_, dlv_ or evt_"), "{wrong:#?}");
    let wrong = ask(&url, &["show", &delivery, "--follow"]).await.expect(2);
    assert!(wrong.err.contains("only a watch"), "{wrong:#?}");
    h.finish().await;
}

#[tokio::test]
async fn addresses_are_urls_email_addresses_or_channels() {
    let to = [
        json!({ "type": "webhook", "url": "https://a.example/hook" }),
        json!({ "type": "email", "email": "me@a.example" }),
        json!({ "type": "slack", "channel": "#ops" }),
    ];
    let watch = json!({ "id": "watch_1", "status": "watching", "destinations": to });
    let nothing = json!({ "data": [], "nextCursor": null });
    let delivery = |n: usize| json!({ "id": format!("dlv_{n}"), "destination": to[n], "attempts": [] });
    let deliveries = json!({ "data": [delivery(0), delivery(1), delivery(2)], "nextCursor": null });
    let mut answers = vec![(201, watch.clone()), (200, watch), (200, nothing), (200, deliveries)];
    answers.extend((0..3).map(|n| (200, delivery(n))));
    let server = Scripted::start(&answers).await;
    let places = ["https://a.example/hook", "me@a.example", "#ops"];
    for line in [&["watch", "job_1"][..], &["show", "watch_1"], &["deliveries"]] {
        let shown = ask(&server.url, line).await.expect(0).out;
        assert!(places.iter().all(|place| shown.contains(place)), "{line:?}: {shown}");
    }
    for place in places {
        let shown = ask(&server.url, &["show", "dlv_1"]).await.expect(0).out;
        assert!(shown.contains(place), "{shown}");
    }
}

#[tokio::test]
async fn deliveries_are_listed_and_retried() {
    let h = Harness::with(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", "[]")]).await;
    h.provider.completed("job_1");
    h.receiver.script("/hook", [Reply::status(500)]);
    let watch = h.watch("job_1").await;
    h.pass(minutes(1)).await;
    h.receiver.next().await;
    let url = url(&h);
    let table = ask(&url, &["deliveries", "--status", "failed", "--watch", &watch]).await.expect(0).out;
    assert!(
        table.starts_with("ID ") && table.contains("failed: exhausted") && table.contains(&watch),
        "{table}"
    );
    assert!(table.contains(&h.receiver.url("/hook")), "{table}");
    let delivery = id(&h.delivery(&watch).await);
    let since =
        ["deliveries", "--since", "2026-02-18T15:00:00Z", "--until", "2026-02-18T16:00:00Z", "--json"];
    assert_eq!(id(&ask(&url, &since).await.expect(0).json()["data"][0]), delivery);
    let wrong = ask(&url, &["deliveries", "--since", "yesterday"]).await.expect(2);
    assert!(wrong.err.starts_with("--since: write a time"), "{wrong:#?}");

    h.receiver.script("/hook", [Reply::status(500)]);
    let all = ask(&url, &["retry", "--failed", "--since", "2026-02-18T15:00:00Z", "--yes"]).await.expect(0);
    assert_eq!(all.out, "1 delivery is retried.\n");
    h.rest().await;
    assert_eq!(h.receiver.next().await.event(), "job.completed");

    let ran = ask(&url, &["retry", &delivery]).await.expect(0);
    assert!(ran.out.contains(&delivery), "{ran:#?}");
    h.rest().await;
    assert_eq!(h.receiver.next().await.event(), "job.completed");
    assert_eq!(h.delivery(&watch).await["status"], "succeeded");
    h.finish().await;
}

#[tokio::test]
async fn apps_and_keys_are_created_listed_and_revoked() {
    let app = json!({ "id": "app_1", "name": "seven", "createdAt": "2026-02-18T15:00:00.000Z" });
    let key = json!({ "id": "key_1", "appId": "app_1", "name": "billing", "scope": "read", "lastUsedAt": null,
                      "createdAt": "2026-02-18T15:00:00.000Z", "expiresAt": "2026-05-19T15:00:00.000Z" });
    let with = |value: &Value, name: &str, secret: &str| {
        let mut value = value.clone();
        value[name] = json!(secret);
        value
    };
    let server = Scripted::start(&[
        (201, with(&app, "signingSecret", "whsec_x")),
        (200, json!({ "data": [app], "nextCursor": null })),
        (201, with(&key, "key", "rb_secret")),
        (200, json!({ "data": [key], "nextCursor": null })),
        (204, Value::Null),
    ])
    .await;
    let lines: [&[&str]; 5] = [
        &["apps", "create", "seven"],
        &["apps", "list"],
        &["keys", "create", "--name", "billing", "--scope", "read", "--expires-in", "90d", "--app", "app_1"],
        &["keys", "list", "--app", "app_1"],
        &["keys", "revoke", "key_1"],
    ];
    let mut shown = String::new();
    for line in lines {
        shown.push_str(&format!("$ ringback {}\n", line.join(" ")));
        shown.push_str(&ask(&server.url, line).await.expect(0).out);
    }
    insta::assert_snapshot!(shown, @r"
    $ ringback apps create seven
    app             app_1
    name            seven
    signing secret  whsec_x
    $ ringback apps list
    ID     NAME   CREATED (UTC)
    app_1  seven  2026-02-18 15:00:00
    $ ringback keys create --name billing --scope read --expires-in 90d --app app_1
    key      rb_secret
    id       key_1
    app      app_1
    scope    read
    expires  2026-05-19 15:00:00 UTC
    $ ringback keys list --app app_1
    ID     NAME     SCOPE  APP    CREATED (UTC)        EXPIRES (UTC)        LAST USED (UTC)
    key_1  billing  read   app_1  2026-02-18 15:00:00  2026-05-19 15:00:00
    $ ringback keys revoke key_1
    key_1 is revoked.
    ");
    insta::assert_snapshot!(server.requests().join("\n"), @r#"
    POST /v1/apps {"name":"seven"}
    GET /v1/apps
    POST /v1/keys {"name":"billing","scope":"read","expiresIn":"90d","appId":"app_1"}
    GET /v1/keys?appId=app_1
    DELETE /v1/keys/key_1
    "#);
}

#[tokio::test]
async fn a_created_key_is_valid_until_it_is_revoked() {
    let h = Harness::start().await;
    let url = url(&h);
    let app = ask(&url, &["apps", "create", "seven", "--json"]).await.expect(0).json();
    assert!(app["signingSecret"].as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{app}");
    let line = ["keys", "create", "--scope", "read", "--app", &id(&app), "--expires-in", "1d", "--json"];
    let key = ask(&url, &line).await.expect(0).json();
    let env = [("RINGBACK_URL", url.as_str()), ("RINGBACK_API_KEY", key["key"].as_str().unwrap())];
    run(&env, &["watches"]).await.expect(0);
    assert!(run(&env, &["watch", "job_1"]).await.expect(1).err.contains("write"));
    let listed = ask(&url, &["keys", "list", "--app", &id(&app)]).await.expect(0).out;
    assert!(listed.contains(&id(&key)) && !listed.contains(key["key"].as_str().unwrap()), "{listed}");
    ask(&url, &["keys", "revoke", &id(&key)]).await.expect(0);
    assert!(run(&env, &["watches"]).await.expect(1).err.contains("does not know this key"));
    let apps = ask(&url, &["apps", "list"]).await.expect(0).out;
    assert!(apps.contains("default") && apps.contains(&id(&app)), "{apps}");
    h.finish().await;
}

// Not on both databases: it is about a file.
#[tokio::test]
async fn without_a_server_apps_and_keys_use_the_database() {
    let mut h = Harness::start().await;
    let database = format!("sqlite://{}", h.file().display());
    let here = [("RINGBACK_DATABASE_URL", database.as_str())];
    let refused = run(&here, &["keys", "create"]).await.expect(1);
    assert!(refused.err.contains("set RINGBACK_URL and RINGBACK_API_KEY"), "{refused:#?}");
    h.stop().await;
    let app = run(&here, &["apps", "create", "seven", "--json"]).await.expect(0).json();
    let key = run(&here, &["keys", "create", "--app", &id(&app), "--json"]).await.expect(0).json();
    let apps = run(&here, &["apps", "list", "--limit", "1", "--json"]).await.expect(0).json();
    assert_eq!(apps["data"].as_array().unwrap().len(), 1);
    // The flag overrides a variable that names a server.
    let env = [("RINGBACK_API_KEY", KEY), ("RINGBACK_URL", "http://127.0.0.1:1")];
    let listed = run(&env, &["keys", "list", "--database-url", &database]).await.expect(0).out;
    assert!(listed.contains(&id(&key)), "{listed}");
    run(&here, &["keys", "list", "--cursor", "x"]).await.expect(2);
    run(&here, &["keys", "create", "--scope", "everything"]).await.expect(2);
    run(&here, &["keys", "list", "--url", "http://127.0.0.1:1", "--config", "x"]).await.expect(2);
    h.restart().await;
    let with_key = [("RINGBACK_API_KEY", key["key"].as_str().unwrap())];
    run(&with_key, &["watches", "--url", &url(&h)]).await.expect(0);
    h.stop().await;
    run(&here, &["keys", "revoke", &id(&key)]).await.expect(0);
    let nothing =
        run(&[("RINGBACK_DATABASE_URL", "sqlite://not-there.db")], &["keys", "list"]).await.expect(1);
    assert!(nothing.err.starts_with("there is no database not-there.db"), "{nothing:#?}");
    h.restart().await;
    assert!(run(&with_key, &["watches", "--url", &url(&h)]).await.expect(1).err.contains("does not know"));
    h.finish().await;
}

#[tokio::test]
async fn errors_on_stderr_say_what_to_do() {
    let h = Harness::start().await;
    let url = url(&h);
    let with = |key: &'static str| [("RINGBACK_URL", url.clone()), ("RINGBACK_API_KEY", key.to_owned())];
    let mut errors = String::new();
    let mut collect = |ran: Ran| {
        assert_eq!(ran.out, "", "{ran:#?}");
        errors.push_str(&format!("{}: {}", ran.code, ran.err.replace(&url, "URL")));
    };
    collect(run(&[], &["watches", "--url", "http://127.0.0.1:1"]).await);
    for key in ["", "rb_not_one_of_its_keys"] {
        let env = with(key);
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        collect(run(&env, &["watches"]).await);
    }
    collect(ask(&url, &["show", "watch_unknown"]).await);
    collect(ask(&url, &["deliveries", "--destination", "nobody"]).await);
    collect(ask(&url, &["watch", "../x", "--webhook", "https://10.0.0.1/", "--events", "job.done"]).await);
    collect(ask(&url, &["watch", "job_1", "--metadata", "{"]).await);
    collect(ask(&url, &["watch", "job_1", "--webhook", "foo"]).await);
    let hook = "https://app.example.com/hook";
    collect(ask(&url, &["watch", "job_1", "--webhook", hook, "--webhook", "foo"]).await);
    collect(ask(&url, &["keys", "create", "--app", "cust"]).await);
    collect(ask(&url, &["keys", "list", "--app", "cust"]).await);
    collect(ask(&url, &["keys", "create", "--name", " x", "--expires-in", "0s"]).await);
    collect(ask(&url, &["apps", "create", "x "]).await);
    collect(ask(&format!("{url}/v1"), &["watches"]).await);
    let unknown = ask("http://no-such-host.invalid", &["watches"]).await;
    let says = "http://no-such-host.invalid does not answer (connect: the host name does not resolve: ";
    assert!(unknown.err.starts_with(says), "{unknown:#?}");
    collect(ask("ftp://x", &["watches"]).await);
    collect(run(&[("RINGBACK_API_KEY", "short")], &["watches"]).await);
    let strange = Scripted::raw(vec![(200, "<html>".into()), (500, "<html>".into())]).await;
    for _ in 0..2 {
        let ran = ask(&strange.url, &["watches"]).await;
        collect(Ran { err: ran.err.replace(&strange.url, "STRANGE"), ..ran });
    }
    insta::assert_snapshot!(errors, @r#"
    1: http://127.0.0.1:1 does not answer (connect: connection refused): is the server running, and is RINGBACK_URL its address?
    1: the server requires a key: set RINGBACK_API_KEY
    1: the server does not know this key: set RINGBACK_API_KEY to a key of this server
    1: /v1/watches/watch_unknown: no such object that this key can see; check the id, and the app of the key
    1: --destination: is not a destination's id, which begins with dst_
    1: 3 fields are invalid
      JOB_ID: must match the pattern [A-Za-z0-9_-]{1,128}
      --events (number 1): `job.done` is not allowed here; use one of: job.completed, job.failed, job.cancelled, job.not_found, watch.expired, job.processing, job.progress, job.*, watch.*
      --webhook: must not lead to 10.0.0.1 (an address that is private); the operator can permit it: add 10.0.0.1 to egress.allow (RINGBACK_EGRESS__ALLOW)
    2: --metadata: this is not JSON; write an object, such as '{"orderId": 42}'
    1: --webhook: is not a URL: it must begin with https://
    1: --webhook (number 2): is not a URL: it must begin with https://
    1: --app: there is no such app, or this API key does not manage it; `ringback apps list` shows all apps
    1: --app: there is no such app, or this API key does not manage it; `ringback apps list` shows all apps
    1: 2 fields are invalid
      --name: must not begin or end with a space
      --expires-in: must be from 1s to 3650d
    1: NAME: must not begin or end with a space
    1: /v1/v1/watches: no such path; the URL of the server must end before /v1
    1: RINGBACK_URL: this URL cannot be used: it must begin with http:// or https://
    1: RINGBACK_API_KEY: the key has 5 characters; it must have 16 to 256
    1: the server at STRANGE is not Ringback: is RINGBACK_URL right?
    1: STRANGE answered 500 Internal Server Error: is RINGBACK_URL right?
    "#);
    assert_eq!(h.send("GET", "/v1/watches", &[AUTH], b"").await.json()["data"], json!([]));
    h.finish().await;
}

#[tokio::test]
async fn answers_of_a_server_cannot_control_the_terminal() {
    let hostile = "x\u{1b}]0;owned\u{7}\u{9b}31m\ny";
    let page = json!({ "data": [{ "id": "watch_1", "jobId": hostile }], "nextCursor": null });
    let problem = json!({ "detail": hostile, "errors": [{ "pointer": hostile, "detail": hostile }] });
    let server = Scripted::start(&[(200, page), (422, problem.clone()), (404, problem)]).await;
    let shown = [
        ask(&server.url, &["watches"]).await.expect(0),
        ask(&server.url, &["watches"]).await.expect(1),
        ask(&server.url, &["show", "watch_/../../../v1/signing-secret?x"]).await.expect(1),
    ];
    for ran in &shown {
        let text = format!("{}{}", ran.out, ran.err);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{ran:#?}");
    }
    assert_eq!(server.requests()[2], "GET /v1/watches/watch_%2F..%2F..%2F..%2Fv1%2Fsigning-secret%3Fx");
}

#[tokio::test]
async fn completions_are_valid_and_name_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = run(&[], &["completions", shell]).await.expect(0).out;
        for command in ["watch", "deliveries", "keys", "provider"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    let script = run(&[], &["completions", "bash"]).await.expect(0).out;
    let mut bash =
        Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    bash.stdin.take().unwrap().write_all(script.as_bytes()).await.unwrap();
    let checked = guarded("bash", bash.wait_with_output()).await.unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");
    run(&[], &["completions", "cobol"]).await.expect(2);
}

#[tokio::test]
async fn health_exits_with_0_while_the_service_answers() {
    let mut h = Harness::start().await;
    let listen = h.address().to_string();
    assert_eq!(run(&[], &["health", "--listen", &listen]).await.expect(0).out, "alive\n");
    let env = [("RINGBACK_LISTEN", listen.as_str())];
    assert_eq!(run(&env, &["health", "--ready"]).await.expect(0).out, "ready\n");
    h.stop().await;
    let ran = run(&env, &["health"]).await.expect(1);
    assert!(ran.err.starts_with(&format!("http://{listen}/healthz: connect: ")), "{ran:#?}");
    run(&[("RINGBACK_LISTEN", "127.0.0.1:0")], &["health"]).await.expect(2);
    let wrong = run(&[("RINGBACK_LISTEN", "nowhere")], &["health"]).await.expect(1);
    assert!(wrong.err.starts_with("RINGBACK_LISTEN: "), "{wrong:#?}");
    h.give_up().await;
}

#[tokio::test]
async fn provider_list_shows_the_configured_providers() {
    let env = [("MUVI_API_KEY", "hush"), ("RINGBACK_PROVIDERS__MUVI__RATE", "90/m")];
    let table = run(&env, &["provider", "list"]).await.expect(0).out;
    let muvi = table.lines().find(|line| line.starts_with("muvi ")).unwrap_or_default();
    assert!(muvi.contains(" set ") && muvi.contains("completed") && muvi.contains("90/m"), "{table}");
    assert!(
        table.lines().any(|line| line.starts_with("replicate ") && line.contains(" missing ")),
        "{table}"
    );
    let all = run(&env, &["provider", "list", "--json"]).await.expect(0);
    assert!(!all.out.contains("hush"), "{all:#?}");
    let all = all.json();
    let muvi = all["data"].as_array().unwrap().iter().find(|one| one["id"] == "muvi").unwrap();
    assert_eq!((&muvi["credential"], &muvi["limits"]["rate"]), (&json!("set"), &json!("90/m")));
    assert_eq!(muvi["statuses"]["completed"], "completed");
}

#[tokio::test]
async fn provider_check_runs_the_examples_and_lists_errors() {
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/src/providers/definitions/muvi.toml");
    let ran = run(&[], &["provider", "check", good]).await.expect(0);
    assert!(ran.out.contains("defines `muvi`") && ran.out.contains("examples"), "{ran:#?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wrong.toml");
    // The examples expect other statuses than they contain.
    let text = std::fs::read_to_string(good).unwrap();
    std::fs::write(&file, text.replace("\nraw_status = \"", "\nraw_status = \"x")).unwrap();
    let name = file.display().to_string();
    let ran = run(&[], &["provider", "check", &name]).await.expect(1);
    assert!(ran.err.lines().count() > 1, "{ran:#?}");
    let is_located = |line: &str| line.starts_with(&format!("{name}:")) && line.contains(": example ");
    assert!(ran.err.lines().all(is_located), "{ran:#?}");
    let first = ": raw_status: expected `xprocessing`, but got `processing`";
    assert!(ran.err.lines().any(|line| line.ends_with(first)), "only what differs, in words: {ran:#?}");
    std::fs::write(&file, "id = \n").unwrap();
    let ran = run(&[], &["provider", "check", &name]).await.expect(1);
    assert!(ran.err.starts_with(&format!("{name}:1:")), "{ran:#?}");
    run(&[], &["provider", "check", "nowhere.toml"]).await.expect(1);
    // A folder.
    std::fs::copy(good, folder.path().join("good.toml")).unwrap();
    let ran = run(&[], &["provider", "check", &folder.path().display().to_string()]).await.expect(1);
    assert!(
        ran.out.contains("good.toml defines `muvi`") && ran.err.contains("1 of 2 definitions"),
        "{ran:#?}"
    );
}

#[tokio::test]
async fn provider_show_request_masks_the_credential() {
    let good = concat!(env!("CARGO_MANIFEST_DIR"), "/src/providers/definitions/muvi.toml");
    let ran = run(&[("MUVI_API_KEY", "hush")], &["provider", "show-request", good, "job_1"]).await.expect(0);
    assert!(ran.out.starts_with("GET https://api.muvi.video/v1/jobs/job_1\n"), "{ran:#?}");
    assert!(ran.out.contains("authorization: Bearer ***") && !ran.out.contains("hush"), "{ran:#?}");
}

#[tokio::test]
async fn provider_try_shows_what_an_answer_means() {
    let body = r#"{"jobId": "job_1", "status": "failed", "error": {"code": "E1", "message": "no"}}"#;
    let mut command = program(&[], &["provider", "try", "muvi", "--job-id", "job_1"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(body.as_bytes()).await.unwrap();
    let ran = ended(child).await.expect(0);
    let example = r#"answer = "seen", status = "failed", raw_status = "failed", error_code = "E1""#;
    assert!(ran.out.contains(example), "{ran:#?}");
}

#[tokio::test]
async fn provider_poll_polls_once_and_shows_the_result() {
    let h = Harness::start().await;
    let base = h.provider.url();
    let env = [("MUVI_API_KEY", PROVIDER_KEY), ("RINGBACK_PROVIDERS__MUVI__BASE_URL", base.as_str())];
    h.provider.completed("job_1");
    let ran = run(&env, &["provider", "poll", "muvi", "job_1", "--raw"]).await.expect(0);
    assert!(ran.out.contains("completed") && ran.out.contains("HTTP 200"), "{ran:#?}");
    let raw: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
    assert_eq!(raw["jobId"], "job_1");
    let polled = run(&env, &["provider", "poll", "muvi", "job_1", "--json"]).await.expect(0).json();
    assert_eq!((&polled["status"], &polled["httpStatus"]), (&json!("completed"), &json!(200)));
    h.provider.not_found("job_2");
    let ran = run(&env, &["provider", "poll", "muvi", "job_2"]).await.expect(1);
    assert!(ran.out.contains("there is no such job"), "{ran:#?}");
    h.provider.job("job_3", &json!({ "status": "processing" }));
    h.provider.script("job_3", [error(500, "INTERNAL_ERROR", "not\u{1b}now")]);
    let ran = run(&env, &["provider", "poll", "muvi", "job_3"]).await.expect(1);
    assert!(ran.out.contains("an error:") && !ran.out.contains('\u{1b}'), "{ran:#?}");
    assert!(
        run(&env, &["provider", "poll", "muvy", "job_1"])
            .await
            .expect(2)
            .err
            .contains("the nearest is `muvi`")
    );
    assert!(run(&env, &["provider", "poll", "muvi", "../x"]).await.expect(2).err.starts_with("JOB_ID: "));
    let wrong = run(&env, &["provider", "poll", "muvi", "job_1", "--param", "a=b"]).await.expect(2);
    assert!(wrong.err.starts_with("--param a: "), "{wrong:#?}");
    assert!(
        run(&env[1..], &["provider", "poll", "muvi", "job_1"])
            .await
            .expect(1)
            .err
            .contains("set MUVI_API_KEY")
    );
    assert_eq!(h.provider.polls("job_1").len(), 2, "once each time");
    h.pass(seconds(0)).await;
    h.finish().await;
}
