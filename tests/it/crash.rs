//! The real program, killed repeatedly under load.
//!
//! `cargo test` kills it five times; `RINGBACK_KILLS=50 cargo test --test it crash` kills it 50 times. The test
//! prints the seed of the times; `RINGBACK_SEED` sets it. [`crate::faults`] has further faults of the real program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringback::clock::Clock;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::cuttable_proxy::Proxy;
use crate::fakes::{Held, PROVIDER_KEY, Provider, Receiver, Reply};
use crate::harness::{AUTH, Draw, JSON, KEY, SECRET, guarded, id};
use crate::postgres::{On, on, shared};
use crate::server::{Server, programs};
use crate::verdict::{Verdict, peak_of};
use crate::wire::{self, Answer};

/// Number of clients that register at the same time.
const CLIENTS: u32 = 4;

/// Least number of watches that are a load.
const LOAD_MIN: usize = 10;

/// Real time: a test cannot move the clock of another process.
#[expect(clippy::disallowed_methods, reason = "the real program runs on the real clock")]
pub async fn nap(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

/// Returns the result of `work`, or `None` if it takes longer in real time.
pub async fn within<T>(millis: u64, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = nap(millis) => None,
    }
}

/// The provider and the receiver of a process, and its database.
pub struct Ground {
    pub provider: Provider,
    pub receiver: Receiver,
    pub folder: tempfile::TempDir,
    pub database: String,
}

impl Ground {
    /// Creates a database of the kind that the test is for.
    pub async fn new() -> Self {
        match on() {
            On::Sqlite => Self::on("sqlite://ringback.db".to_owned()).await,
            On::Postgres => {
                let server = shared("a process").expect("a server");
                Self::on(server.url(&server.database())).await
            }
        }
    }

    pub async fn on(database: String) -> Self {
        Self::of(database, tempfile::tempdir().unwrap()).await
    }

    /// Creates a SQLite database below `folder`.
    pub async fn below(folder: &Path) -> Self {
        Self::of("sqlite://ringback.db".to_owned(), tempfile::tempdir_in(folder).unwrap()).await
    }

    async fn of(database: String, folder: tempfile::TempDir) -> Self {
        let held = Held::default();
        Self {
            provider: Provider::start(Clock::System, held.clone()).await,
            receiver: Receiver::start(Clock::System, held, SECRET).await,
            folder,
            database,
        }
    }

    pub fn start(&self) -> Process {
        self.start_on(&self.database)
    }

    /// Starts a process with the log level `info` and its lines on `stdout`.
    pub fn start_into(&self, stdout: Stdio) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringback"));
        prepare(&mut command, self.folder.path(), &self.provider.url(), &self.database);
        command.env("RINGBACK_LOG", "info").stdout(stdout).spawn().unwrap()
    }

    /// Starts a process with a limit (the arguments of the shell's `ulimit`) and the log level `warn`. It polls no job
    /// within an hour: nothing is written but what the test requests.
    pub fn start_limited(&self, limit: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        let settings =
            "RINGBACK_LOG=warn RINGBACK_PROVIDERS__MUVI__FIRST=1h RINGBACK_PROVIDERS__MUVI__MAX_INTERVAL=1h";
        let script = format!("ulimit {limit}; {settings} exec \"$0\" \"$@\"");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_ringback")]);
        Process::start(command, self.folder.path(), &self.provider.url(), &self.database)
    }

    /// Starts a process with further settings.
    pub fn start_with(&self, settings: &[(&str, &str)]) -> Process {
        let mut command = Command::new("/usr/bin/env");
        command.args(settings.iter().map(|(name, value)| format!("{name}={value}")));
        command.arg(env!("CARGO_BIN_EXE_ringback"));
        Process::start(command, self.folder.path(), &self.provider.url(), &self.database)
    }

    /// Kills a process with SIGKILL, and starts the next one.
    pub async fn start_after(&self, process: Process) -> Process {
        process.kill().await;
        self.start()
    }

    pub fn start_on(&self, database: &str) -> Process {
        let command = Command::new(env!("CARGO_BIN_EXE_ringback"));
        Process::start(command, self.folder.path(), &self.provider.url(), database)
    }

    /// Starts a process that also logs when its database accepts writes again.
    fn start_with_changes(&self) -> Process {
        let mut command = Command::new("/usr/bin/env");
        command.args(["RINGBACK_LOG=error,ringback::store::writer=info", env!("CARGO_BIN_EXE_ringback")]);
        Process::start(command, self.folder.path(), &self.provider.url(), &self.database)
    }

    /// Starts a process that listens on this address.
    pub fn start_at(&self, address: SocketAddr) -> Process {
        let mut command = Command::new("/usr/bin/env");
        let listen = format!("RINGBACK_LISTEN={address}");
        command.args([listen.as_str(), env!("CARGO_BIN_EXE_ringback")]);
        Process::start(command, self.folder.path(), &self.provider.url(), &self.database)
    }

    /// Starts a process that does not ignore SIGHUP, also if the tests were started by `nohup`.
    pub fn start_with_sighup(&self) -> Process {
        let mut command = Command::new("/usr/bin/env");
        command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_ringback")]);
        Process::start(command, self.folder.path(), &self.provider.url(), &self.database)
    }
}

fn prepare(command: &mut Command, folder: &Path, provider: &str, database: &str) {
    command
        .arg("serve")
        .current_dir(folder)
        .env_clear()
        .envs([
            ("RINGBACK_LISTEN", "127.0.0.1:0"),
            ("RINGBACK_DATABASE_URL", database),
            ("RINGBACK_LOG", "error"),
            ("RINGBACK_API_KEY", KEY),
            ("RINGBACK_SIGNING_SECRET", SECRET),
            ("RINGBACK_EGRESS__ALLOW", "127.0.0.1"),
            ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "200ms, 300ms, 500ms, 1s, 1s, 1s, 1s, 1s, 1s"),
            ("MUVI_API_KEY", PROVIDER_KEY),
            ("RINGBACK_PROVIDERS__MUVI__BASE_URL", provider),
            ("RINGBACK_PROVIDERS__MUVI__RATE", "off"),
            ("RINGBACK_PROVIDERS__MUVI__FIRST", "100ms"),
            ("RINGBACK_PROVIDERS__MUVI__MIN_INTERVAL", "100ms"),
            ("RINGBACK_PROVIDERS__MUVI__MAX_INTERVAL", "300ms"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
}

/// A process `ringback serve`.
pub struct Process {
    pub child: Child,
    address: watch::Receiver<Option<SocketAddr>>,
}

impl Process {
    fn start(mut command: Command, folder: &Path, provider: &str, database: &str) -> Self {
        prepare(&mut command, folder, provider, database);
        let mut child = command.spawn().unwrap();
        let (found, address) = watch::channel(None);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(address) = line.strip_prefix("ringback listens on http://") {
                    found.send_replace(address.parse().ok());
                }
            }
        });
        Self { child, address }
    }

    pub async fn address(&self) -> SocketAddr {
        let mut address = self.address.clone();
        let found = guarded("the address", address.wait_for(Option::is_some)).await.unwrap();
        found.unwrap()
    }

    /// Kills the process with SIGKILL.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Returns the exit status and stderr.
    pub async fn ended(mut self) -> (ExitStatus, String) {
        let mut said = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        let status = guarded("the end", async {
            stderr.read_to_string(&mut said).await.unwrap();
            self.child.wait().await.unwrap()
        });
        (status.await, said)
    }
}

pub async fn get(address: SocketAddr, path: &str) -> Value {
    let bytes = wire::request("GET", path, &[AUTH], b"");
    guarded(path, wire::exchange(address, &bytes)).await.expect("an answer").expect(200)
}

/// Returns the answer of `/readyz`.
pub async fn ready(address: SocketAddr) -> u16 {
    let bytes = wire::request("GET", "/readyz", &[], b"");
    guarded("/readyz", wire::exchange(address, &bytes)).await.expect("an answer").status
}

/// Registers one watch after another. Each request is repeated with its key until the answer is 201.
async fn register(
    ground: Arc<Ground>,
    client: u32,
    address: watch::Receiver<Option<SocketAddr>>,
    done: Arc<AtomicBool>,
) -> BTreeMap<String, String> {
    let mut accepted = BTreeMap::new();
    for n in 0.. {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let job = format!("job_{client}_{n}");
        ground.provider.completed(&job);
        let mut script =
            vec![Reply::json(200, &json!({ "jobId": job, "status": "processing", "progress": 10 }))];
        // Not of every job: after an error of each job in turn, the provider counts as down, with one poll a second.
        if n % 4 == 0 {
            script.push(Reply::status(503));
        }
        ground.provider.script(&job, script);
        let body = json!({ "jobId": job, "callbackUrl": ground.receiver.url("/hook") }).to_string();
        let headers = [AUTH, JSON, ("idempotency-key", job.as_str())];
        let bytes = wire::request("POST", "/v1/watches", &headers, body.as_bytes());
        let watch = loop {
            let to = *address.borrow();
            let answer = match to {
                Some(to) => wire::exchange(to, &bytes).await,
                None => None,
            };
            match answer {
                Some(answer) if answer.status == 201 => break id(&answer.json()),
                Some(Answer { status: 409 | 503, .. }) | None => nap(5).await,
                Some(other) => panic!("{other:?}"),
            }
        };
        accepted.insert(job, watch);
    }
    accepted
}

#[expect(clippy::disallowed_methods, reason = "the caller sets the duration and the seed")]
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

pub fn draw() -> Draw {
    let seed = number("RINGBACK_SEED").unwrap_or(u64::from(std::process::id()));
    println!("RINGBACK_SEED={seed}");
    Draw(seed)
}

/// Clients that register as fast as possible, at the current address of the process.
pub struct Load {
    ground: Arc<Ground>,
    moved: watch::Sender<Option<SocketAddr>>,
    done: Arc<AtomicBool>,
    clients: tokio::task::JoinSet<BTreeMap<String, String>>,
}

impl Load {
    pub fn start(ground: &Arc<Ground>) -> Self {
        // Every fifth webhook is refused, so that retries are always pending.
        let flaky = (0..100_000).map(|n| Reply::status(if n % 5 == 0 { 500 } else { 200 }));
        ground.receiver.script("/hook", flaky);
        let (moved, address) = watch::channel(None);
        let done = Arc::new(AtomicBool::new(false));
        let mut clients = tokio::task::JoinSet::new();
        for client in 0..CLIENTS {
            clients.spawn(register(Arc::clone(ground), client, address.clone(), Arc::clone(&done)));
        }
        Self { ground: Arc::clone(ground), moved, done, clients }
    }

    /// Lets the clients continue at this address.
    pub fn moved_to(&self, address: SocketAddr) {
        self.moved.send_replace(Some(address));
    }

    /// Waits until watches are accepted and delivered. A refused webhook arrives twice.
    pub async fn has_begun(&self) {
        guarded("the load", async {
            while self.ground.receiver.count() <= 2 * LOAD_MIN {
                nap(10).await;
            }
        })
        .await;
    }

    /// Waits until every accepted watch is delivered, and compares what the clients, the receiver and the process
    /// know.
    pub async fn check(self, address: SocketAddr) -> Verdict {
        self.moved_to(address);
        self.done.store(true, Ordering::Relaxed);
        let accepted: BTreeMap<String, String> =
            guarded("the last 201s", self.clients.join_all()).await.into_iter().flatten().collect();
        println!("{} watches", accepted.len());
        assert!(accepted.len() > LOAD_MIN, "there was hardly any load: {}", accepted.len());
        // A long run leaves a backlog. It may take as long as it needs, as long as it becomes smaller.
        for left in ["/v1/watches?status=watching&limit=1", "/v1/deliveries?status=pending&limit=1"] {
            let is_left = async || !get(address, left).await["data"].as_array().unwrap().is_empty();
            while is_left().await {
                let arrived = self.ground.receiver.count();
                guarded("the next delivery", async {
                    while is_left().await && self.ground.receiver.count() == arrived {
                        nap(20).await;
                    }
                })
                .await;
            }
        }
        let verdict = Verdict::of(address, &accepted, &self.ground.receiver.all()).await;
        assert!(self.ground.receiver.complaints().is_empty(), "{:?}", self.ground.receiver.complaints());
        verdict
    }
}

/// Kills the program `kills` times under load, and checks what the last process shows.
pub async fn killed(ground: &Arc<Ground>, kills: u64) -> Verdict {
    let mut draw = draw();
    let load = Load::start(ground);
    let (mut started, mut peak) = (0, 0);
    for kill in 1..=kills {
        let process = ground.start();
        // One in four is killed while it starts; the others, and the last one, live long enough to do work.
        if draw.below(4) == 0 && kill < kills {
            nap(draw.below(60)).await;
        } else {
            load.moved_to(process.address().await);
            started += 1;
            if kill == kills {
                load.has_begun().await;
            }
            nap(100 + draw.below(700)).await;
        }
        peak = peak.max(peak_of(&process));
        process.kill().await;
    }
    println!("{started} starts that got so far as to listen");
    let process = ground.start();
    let mut verdict = load.check(process.address().await).await;
    verdict.peak = peak.max(peak_of(&process));
    process.terminate();
    let (status, said) = process.ended().await;
    assert!(status.success(), "{status}: {said}");
    verdict
}

#[tokio::test]
async fn kill_dash_nine_loses_nothing_that_was_answered_with_2xx() {
    let ground = Arc::new(Ground::new().await);
    killed(&ground, number("RINGBACK_KILLS").unwrap_or(5)).await.expect_clean();
}

/// Kills the database server of the program `kills` times under load. Returns `None` without a server.
pub async fn database_killed(kills: u64) -> Option<Verdict> {
    // The test kills this server.
    shared("a server that dies")?;
    let mut server =
        tokio::task::spawn_blocking(|| Server::start(&programs().unwrap(), &std::env::temp_dir()))
            .await
            .unwrap();
    let mut draw = draw();
    let ground = Arc::new(Ground::on(server.url(&server.empty())).await);
    let load = Load::start(&ground);
    let process = ground.start_with_changes();
    let address = process.address().await;
    load.moved_to(address);
    load.has_begun().await;
    for _ in 0..kills {
        nap(300 + draw.below(500)).await;
        let away = draw.below(1_500);
        server.kill();
        assert_eq!(ready(address).await, 503);
        nap(away).await;
        server = tokio::task::spawn_blocking(move || {
            server.restart();
            server
        })
        .await
        .unwrap();
    }
    let mut verdict = load.check(address).await;
    verdict.peak = peak_of(&process);
    process.terminate();
    let (status, said) = process.ended().await;
    assert!(status.success(), "{status}: {said}");
    for change in ["the store refuses writes", "the store accepts writes again"] {
        assert!(said.contains(change), "{said}");
    }
    Some(verdict)
}

// Once: it starts its own server.
#[tokio::test]
async fn a_dying_database_server_loses_nothing_answered_with_2xx() {
    if let Some(verdict) = database_killed(number("RINGBACK_KILLS").unwrap_or(3)).await {
        verdict.expect_clean();
    }
}

// Once: it starts its own server.
#[tokio::test]
async fn a_process_whose_database_was_taken_over_ends() {
    let Some(server) = shared("a process whose database was taken over") else { return };
    let proxy = Proxy::start(server.socket());
    let name = server.database();
    let ground = Ground::on(proxy.url(&name)).await;
    let first = ground.start();
    let address = first.address().await;
    guarded("readiness", async { while ready(address).await != 200 {} }).await;
    proxy.close();
    let second = ground.start_on(&server.url(&name));
    let address = second.address().await;
    proxy.open();
    let (status, said) = first.ended().await;
    assert!(!status.success());
    assert!(said.contains("another ringback has taken the database over; the process ends"), "{said}");
    get(address, "/v1/watches").await;
}

// Once: the store is not involved.
#[tokio::test]
async fn on_sigterm_serve_answers_waiting_requests_and_exits_with_0() {
    let ground = Ground::new().await;
    ground.provider.processing("job_1", 10);
    let process = ground.start();
    let address = process.address().await;
    let body = json!({ "jobId": "job_1", "callbackUrl": ground.receiver.url("/hook") }).to_string();
    let bytes = wire::request("POST", "/v1/watches", &[AUTH, JSON], body.as_bytes());
    let watch = id(&wire::exchange(address, &bytes).await.unwrap().expect(201));
    let path = format!("/v1/watches/{watch}?wait=60s");
    let (sent, arrived) = tokio::sync::oneshot::channel();
    let waiting = tokio::spawn(async move {
        use tokio::io::AsyncWriteExt;
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(&wire::request("GET", &path, &[AUTH], b"")).await.unwrap();
        let _ = sent.send(());
        Answer::read(&mut BufReader::new(stream)).await
    });
    arrived.await.unwrap();
    // After two polls, the request, which was sent before, has been read.
    let seen = ground.provider.polls("job_1").len();
    ground.provider.polled("job_1", seen + 2).await;
    get(address, "/v1/watches").await;
    process.terminate();
    let answer = guarded("the answer", waiting).await.unwrap().expect("an answer");
    assert_eq!(answer.expect(200)["status"], "watching");
    let (status, said) = process.ended().await;
    assert_eq!((status.code(), said.as_str()), (Some(0), ""));

    ground.provider.completed("job_1");
    let again = ground.start();
    assert_eq!(ground.receiver.next().await.watch(), watch);
    again.terminate();
    assert_eq!(again.ended().await.0.code(), Some(0));
}

#[tokio::test]
async fn a_second_process_on_the_same_file_is_refused() {
    let ground = Ground::new().await;
    let first = ground.start();
    let address = first.address().await;
    let (status, said) = ground.start().ended().await;
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("is in use by another ringback"), "{said}");
    assert_eq!(said.trim().lines().count(), 1, "{said}");
    get(address, "/v1/watches").await;
    // A crash leaves nothing that an operator must clean up.
    first.kill().await;
    let next = ground.start();
    get(next.address().await, "/v1/watches").await;
}

crate::postgres::on_postgres_too! {
    kill_dash_nine_loses_nothing_that_was_answered_with_2xx,
    a_second_process_on_the_same_file_is_refused,
}
