//! The real application on a free port, with its neighbours played and its clock in the test's hand.
//!
//! The application has a runtime of its own, so that [`Harness::crash`] can take everything away from
//! it at once; what is left is the file. Nothing sleeps: [`Harness::rest`] returns when all that is
//! due was done, and [`Harness::pass`] moves the clock from one thing that is planned to the next, so
//! that everything happens at the very moment for which it was planned.
//!
//! Every test ends with [`Harness::finish`], which fails it for what it leaves behind.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use ringback::app::{App, FirstStart, HostEnvironment};
use ringback::clock::{Clock, ManualClock};
use ringback::config::{Config, Environment, Flags};
use ringback::domain::{Activity, Timestamp};
use ringback::egress::Resolver;
use rustls::pki_types::CertificateDer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::fakes::{Held, PROVIDER_KEY, Provider, Receiver};
use crate::postgres::{On, on, shared};
use crate::server::Server;
use crate::wire::{self, Answer};

/// When every test begins.
pub const START: &str = "2026-02-18T15:00:00.000Z";

/// The app's key.
pub const KEY: &str = "rb_integration_key_0123";

/// The app's signing secret.
pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// What nothing may take longer than, by the machine's clock: far more than a loaded machine needs.
const GUARD: Duration = Duration::from_secs(20);

/// Waits for `work`, and fails the test if it never ends.
#[expect(clippy::disallowed_methods, reason = "a test that hangs must fail, whatever its own clock says")]
pub async fn guarded<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(GUARD, work).await;
    done.unwrap_or_else(|_| panic!("waited {GUARD:?} in vain for {what}"))
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// A moment of the tests' day.
pub fn start() -> Timestamp {
    Timestamp::parse(START).unwrap()
}

/// Whole seconds since the tests' day began.
pub fn since_start(times: &[Timestamp]) -> Vec<u64> {
    times.iter().map(|at| at.since(start()).as_secs()).collect()
}

/// A stretch of numbers that look random and can be had again (splitmix64).
#[derive(Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// A number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Threads of applications that panicked.
static PANICKED: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            let thread = std::thread::current().name().unwrap_or("?").to_owned();
            if thread.starts_with("app-") || thread == "writer" {
                PANICKED.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{thread}: {panic}"));
            }
            before(panic);
        }));
    });
}

/// The application, as it runs.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    activity: Box<dyn Fn() -> Activity + Send + Sync>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
    first_start: FirstStart,
}

/// What the played DNS knows.
#[derive(Clone)]
struct Known {
    name: String,
    addresses: Vec<IpAddr>,
    slow: Option<Slow>,
}

/// A name server that takes its time.
#[derive(Clone)]
pub struct Slow {
    asked: Arc<watch::Sender<bool>>,
    answered: Arc<watch::Sender<bool>>,
}

impl Slow {
    /// Returns when it was asked.
    pub async fn asked(&self) {
        let mut asked = self.asked.subscribe();
        guarded("the look-up", asked.wait_for(|asked| *asked)).await.unwrap();
    }

    /// Lets it answer.
    pub fn answer(&self) {
        self.answered.send_replace(true);
    }
}

/// What a fake shares with the harness that is started after it.
pub struct Neighbours {
    pub clock: ManualClock,
    pub held: Held,
    /// Authorities that the application trusts.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { clock: ManualClock::at(start()), held: Held::default(), roots: Vec::new() }
    }
}

/// The application and its surroundings.
pub struct Harness {
    pub clock: ManualClock,
    pub provider: Provider,
    pub receiver: Receiver,
    /// What the fakes hold back.
    pub held: Held,
    names: Arc<Mutex<Vec<Known>>>,
    roots: Vec<CertificateDer<'static>>,
    folder: TempDir,
    /// Where it is not a file in the folder.
    database: Option<(&'static Server, String)>,
    settings: Vec<(String, String)>,
    running: Option<Running>,
    threads: Vec<String>,
    finished: bool,
}

impl Harness {
    /// The application as most tests want it: no rate limit, nothing else unusual.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The application with other settings; an empty value is none.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::among(Neighbours::default(), settings).await
    }

    /// The same, where there are neighbours already.
    pub async fn among(neighbours: Neighbours, settings: &[(&str, &str)]) -> Self {
        note_panics();
        let Neighbours { clock, held, roots } = neighbours;
        let provider = Provider::start(Clock::Manual(clock.clone()), held.clone()).await;
        let receiver = Receiver::start(Clock::Manual(clock.clone()), held.clone(), SECRET).await;
        let folder = tempfile::tempdir().unwrap();
        let database = match on() {
            On::Sqlite => None,
            On::Postgres => shared("an application").map(|server| (server, server.database())),
        };
        let url = match &database {
            None => format!("sqlite://{}", folder.path().join("ringback.db").display()),
            Some((server, name)) => server.url(name),
        };
        let mut all: Vec<(String, String)> = [
            ("RINGBACK_LISTEN", "127.0.0.1:0"),
            ("RINGBACK_DATABASE_URL", &url),
            ("RINGBACK_API_KEY", KEY),
            ("RINGBACK_SIGNING_SECRET", SECRET),
            ("RINGBACK_EGRESS__ALLOW", "127.0.0.1"),
            ("MUVI_API_KEY", PROVIDER_KEY),
            ("RINGBACK_PROVIDERS__MUVI__BASE_URL", &provider.url()),
            ("RINGBACK_PROVIDERS__MUVI__RATE", "off"),
            ("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", "1000"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        for (name, value) in settings {
            all.retain(|(known, _)| known != name);
            all.push(((*name).to_owned(), (*value).to_owned()));
        }
        let (names, threads) = (Arc::default(), Vec::new());
        let mut harness = Self {
            clock,
            provider,
            receiver,
            held,
            names,
            roots,
            folder,
            database,
            settings: all,
            running: None,
            threads,
            finished: false,
        };
        harness.restart().await;
        harness
    }

    /// Why an application with these settings does not start.
    pub async fn refused(settings: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("sqlite://{}", folder.path().join("ringback.db").display());
        let all = [("RINGBACK_LISTEN", "127.0.0.1:0"), ("RINGBACK_DATABASE_URL", file.as_str())];
        let environment: Environment = all.iter().chain(settings).copied().collect();
        let config = Config::read(&Flags::default(), &environment, None).unwrap();
        let clock = Clock::Manual(ManualClock::at(start()));
        let resolver = Resolver::fixed(|_| Err(std::io::ErrorKind::NotFound.into()));
        let surroundings = HostEnvironment { clock, resolver, roots: Vec::new() };
        App::build(config, surroundings).await.unwrap_err().to_string()
    }

    /// Changes a setting for the next start; an empty value is none.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// What the application is started with.
    pub fn config(&self) -> Config {
        let environment: Environment = self.settings.iter().cloned().collect();
        Config::read(&Flags::default(), &environment, None).unwrap()
    }

    /// Starts the application (again) on its file.
    pub async fn restart(&mut self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(self.running.is_none(), "it runs");
        let thread = format!("app-{}-", NEXT.fetch_add(1, Ordering::Relaxed));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(&thread)
            .enable_all()
            .build()
            .unwrap();
        let config = self.config();
        let names = Arc::clone(&self.names);
        let resolver = Resolver::Fixed(Arc::new(move |name| {
            let names = names.lock().unwrap_or_else(PoisonError::into_inner);
            let found = names.iter().rev().find(|known| known.name == name).cloned();
            Box::pin(async move {
                let found = found.ok_or(std::io::ErrorKind::NotFound)?;
                if let Some(slow) = &found.slow {
                    slow.asked.send_replace(true);
                    let _ = slow.answered.subscribe().wait_for(|answered| *answered).await;
                }
                Ok(found.addresses)
            })
        }));
        let clock = Clock::Manual(self.clock.clone());
        let surroundings = HostEnvironment { clock, resolver, roots: self.roots.clone() };
        let app = runtime.spawn(App::build(config, surroundings)).await.unwrap().unwrap();
        let (address, activity) = (app.address().unwrap(), Box::new(app.activity()));
        let (first_start, metrics) = (app.first_start().clone(), app.metrics_address());
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = runtime.spawn(app.run(async move {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        self.threads.push(thread);
        self.running = Some(Running { runtime, address, metrics, activity, stop, ended, first_start });
        self.rest_of_start().await;
    }

    /// Returns when the plans are made.
    async fn rest_of_start(&self) {
        guarded("readiness", async { while self.get_without_key("/readyz").await.status != 200 {} }).await;
    }

    /// Takes everything away from the application at once, as a crash would.
    pub async fn crash(&mut self) {
        let running = self.running.take().expect("it runs");
        running.runtime.shutdown_background();
        self.released().await;
    }

    /// Returns when the database is free. The last write of an application that is gone may still be on
    /// its way to the disk; then the kernel, or the server, lets go of the lock.
    pub async fn released(&self) {
        if let Some((server, name)) = &self.database {
            let (server, name) = (*server, name.clone());
            let free = tokio::task::spawn_blocking(move || {
                server.ask(&name, "select pg_advisory_lock(x'72696e676261636b'::bit(64)::bigint)")
            });
            guarded("the database", free).await.unwrap();
            return;
        }
        let lock = self.folder.path().join("ringback.db.lock");
        let free = tokio::task::spawn_blocking(move || {
            let file = std::fs::File::open(lock).unwrap();
            rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
        });
        guarded("the file", free).await.unwrap();
    }

    /// Returns when the application, asked to stop, takes no connections any more.
    pub async fn closed(&self, address: SocketAddr) {
        let refused = async { while TcpStream::connect(address).await.is_ok() {} };
        guarded("the door to close", refused).await;
    }

    /// Asks the application to stop; the handle ends when it has.
    pub fn begin_stop(&mut self) -> Stopping {
        let Running { runtime, stop, ended, .. } = self.running.take().expect("it runs");
        let _ = stop.send(());
        Stopping { runtime, ended }
    }

    /// Stops the application in order.
    pub async fn stop(&mut self) {
        self.begin_stop().ended().await;
    }

    /// The database file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ringback.db")
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("it runs").address
    }

    /// Where the metrics are, if not there.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.running.as_ref().expect("it runs").metrics
    }

    pub fn first_start(&self) -> &FirstStart {
        &self.running.as_ref().expect("it runs").first_start
    }

    /// Lets a name resolve to these addresses from now on.
    pub fn resolve(&self, name: &str, addresses: &[&str]) {
        self.know(name, addresses, None);
    }

    /// The same, but not before somebody says so.
    pub fn resolve_slowly(&self, name: &str, addresses: &[&str]) -> Slow {
        let slow = Slow { asked: Arc::default(), answered: Arc::default() };
        self.know(name, addresses, Some(slow.clone()));
        slow
    }

    fn know(&self, name: &str, addresses: &[&str], slow: Option<Slow>) {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.names.lock().unwrap().push(Known { name: name.to_owned(), addresses, slow });
    }

    pub fn now(&self) -> Timestamp {
        Clock::Manual(self.clock.clone()).now()
    }

    fn activity(&self) -> Activity {
        (self.running.as_ref().expect("it runs").activity)()
    }

    /// Returns when all that is due was done, but for what a fake holds back.
    pub async fn rest(&self) {
        let now = self.now();
        let resting = async {
            loop {
                // In this order: what is held is under way, and stays so.
                let held = self.held.count();
                let activity = self.activity();
                if activity.in_progress == held && activity.next_at.is_none_or(|at| at > now) {
                    return;
                }
                // A round trip instead of a nap: the application gets on in the meantime.
                self.get_without_key("/healthz").await;
            }
        };
        guarded("rest", resting).await;
    }

    /// Moves the clock on by `span`, from one thing that is planned to the next.
    pub async fn pass(&self, span: Duration) {
        let end = self.now().plus(span);
        loop {
            self.rest().await;
            match self.activity().next_at {
                Some(at) if at <= end => self.clock.set(at),
                _ => break,
            }
        }
        self.clock.set(end);
        self.rest().await;
    }

    /// Asks for `path` until it answers with `status`: for what happens on its own account, and is no
    /// look and no send.
    pub async fn until(&self, path: &str, status: u16) {
        guarded(path, async { while self.get(path).await.status != status {} }).await;
    }

    /// Sends a request.
    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let bytes = wire::request(method, path, headers, body);
        let answer = guarded(path, wire::exchange(self.address(), &bytes)).await.expect("an answer");
        crate::openapi::check(method, path, &answer);
        answer
    }

    /// Sends a request with another key; a body is JSON.
    pub async fn as_key(&self, key: &str, method: &str, path: &str, body: &str) -> Answer {
        let auth = format!("Bearer {key}");
        let headers = [("authorization", auth.as_str()), JSON];
        let headers = if body.is_empty() { &headers[..1] } else { &headers[..] };
        self.send(method, path, headers, body.as_bytes()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[AUTH], b"").await
    }

    pub async fn get_without_key(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"").await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, &[AUTH], b"").await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[AUTH, JSON], body.to_string().as_bytes()).await
    }

    /// A POST that needs no body.
    pub async fn act(&self, path: &str) -> Answer {
        self.send("POST", path, &[AUTH], b"").await
    }

    /// Registers a watch; the answer is its id.
    #[track_caller]
    pub fn register(&self, body: &Value) -> impl Future<Output = String> {
        let body = body.clone();
        async move { id(&self.post("/v1/watches", &body).await.expect(201)) }
    }

    /// Registers a watch on a job, with the receiver as its only destination.
    pub async fn watch(&self, job: &str) -> String {
        self.register(&json!({ "jobId": job, "callbackUrl": self.receiver.url("/hook") })).await
    }

    /// Two keys that may do less: `read` and `write`. SQLite only: they are written into the file.
    pub async fn keys(&mut self) -> (String, String) {
        self.stop().await;
        let db = rusqlite::Connection::open(self.file()).unwrap();
        for (n, scope) in [(1u8, "read"), (2, "write")] {
            let hash = Sha256::digest(scope).to_vec();
            let sql = "insert into keys (id, app, hash, scope, created_at) values (?1, 1, ?2, ?3, 0)";
            db.execute(sql, (vec![n; 16], hash, scope)).unwrap();
        }
        drop(db);
        self.restart().await;
        ("read".to_owned(), "write".to_owned())
    }

    /// A watch, as it is shown.
    pub async fn shown(&self, watch: &str) -> Value {
        self.get(&format!("/v1/watches/{watch}")).await.expect(200)
    }

    /// The only delivery of a watch, with its attempts.
    pub async fn delivery(&self, watch: &str) -> Value {
        let found = self.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200);
        let [one] = found["data"].as_array().unwrap().as_slice() else { panic!("not one: {found}") };
        self.get(&format!("/v1/deliveries/{}", id(one))).await.expect(200)
    }

    /// Ends a test: what is due is done, nothing that arrived is unread, nobody complains, no look
    /// fails, and the application stops in order.
    pub async fn finish(self) {
        self.rest().await;
        let unread = self.receiver.unread();
        assert!(unread.is_empty(), "nobody read {unread:#?}");
        let now = self.now();
        let pending = self.get("/v1/deliveries?status=pending&limit=200").await.expect(200);
        for delivery in pending["data"].as_array().unwrap() {
            let turn = Timestamp::parse(delivery["nextAttemptAt"].as_str().unwrap()).unwrap();
            assert!(turn > now, "its turn has come: {delivery}");
        }
        let watching = self.get("/v1/watches?status=watching&limit=200").await.expect(200);
        for watch in watching["data"].as_array().unwrap() {
            assert!(watch["job"]["lastError"].is_null(), "nobody looked at the error of {watch}");
        }
        self.give_up().await;
    }

    /// Ends a test that leaves something behind on purpose.
    pub async fn give_up(mut self) {
        if self.running.is_some() {
            self.stop().await;
        }
        self.finished = true;
        let complaints = [self.provider.complaints(), self.receiver.complaints()].concat();
        assert!(complaints.is_empty(), "{complaints:#?}");
        let panicked = PANICKED.lock().unwrap_or_else(PoisonError::into_inner);
        let ours = |line: &&String| {
            line.starts_with("writer") || self.threads.iter().any(|thread| line.starts_with(thread.as_str()))
        };
        let ours: Vec<&String> = panicked.iter().filter(ours).collect();
        assert!(ours.is_empty(), "{ours:#?}");
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
        assert!(self.finished || std::thread::panicking(), "a test ends with finish()");
    }
}

/// An application that was asked to stop.
pub struct Stopping {
    runtime: Runtime,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Stopping {
    /// Returns when it has stopped, in order.
    pub async fn ended(self) {
        guarded("the end", self.ended).await.unwrap().unwrap();
        self.runtime.shutdown_background();
    }
}

/// The header that says who asks.
pub const AUTH: (&str, &str) = ("authorization", "Bearer rb_integration_key_0123");

/// The header that says that a body is JSON.
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// What a view calls itself.
#[track_caller]
pub fn id(view: &Value) -> String {
    view["id"].as_str().unwrap_or_else(|| panic!("no id in {view}")).to_owned()
}
