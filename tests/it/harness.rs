//! The real application on a free port, with fakes of its peers and a clock that the test controls.
//!
//! The application has its own runtime, so [`Harness::crash`] can end it at once; only the database remains. No test
//! sleeps: [`Harness::rest`] returns when all due work is done, and [`Harness::pass`] moves the clock from one
//! scheduled time to the next, so everything happens exactly when it is scheduled.
//!
//! Every test ends with [`Harness::finish`], which fails for unread requests, overdue deliveries and errors.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use ringback::app::{App, FirstStart, HostEnvironment};
use ringback::clock::{Clock, ManualClock};
use ringback::config::{Config, Environment, File, Flags};
use ringback::domain::{Activity, Timestamp};
use ringback::egress::Resolver;
use rustix::io::Errno;
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

/// Start time of every test.
pub const START: &str = "2026-02-18T15:00:00.000Z";

/// The configured admin key.
pub const KEY: &str = "rb_integration_key_0123";

/// The configured signing secret.
pub const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// Limit of every wait, by the machine's clock: far more than a loaded machine needs.
const GUARD: Duration = Duration::from_secs(60);

/// Waits for `work`; fails the test if it takes longer than [`GUARD`].
#[expect(clippy::disallowed_methods, reason = "a test that hangs must fail, independent of its own clock")]
pub async fn guarded<T>(what: &str, work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(GUARD, work).await;
    done.unwrap_or_else(|_| panic!("{what}: timed out after {GUARD:?}"))
}

pub fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

/// Returns [`START`] as a timestamp.
pub fn start() -> Timestamp {
    Timestamp::parse(START).unwrap()
}

/// Returns the whole seconds from [`START`] to each time.
pub fn since_start(times: &[Timestamp]) -> Vec<u64> {
    times.iter().map(|at| at.since(start()).as_secs()).collect()
}

/// A reproducible pseudo-random sequence (splitmix64).
#[derive(Debug)]
pub struct Draw(pub u64);

impl Draw {
    /// Returns the next number below `limit`.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

/// Panics of applications' threads.
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

/// A running application.
struct Running {
    runtime: Runtime,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
    activity: Box<dyn Fn() -> Activity + Send + Sync>,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<anyhow::Result<()>>,
    first_start: FirstStart,
}

/// A name of the fake DNS.
#[derive(Clone)]
struct Known {
    name: String,
    addresses: Result<Vec<IpAddr>, Errno>,
    slow: Option<Slow>,
}

/// A name lookup that waits until the test answers it.
#[derive(Clone)]
pub struct Slow {
    requested: Arc<watch::Sender<bool>>,
    answered: Arc<watch::Sender<bool>>,
}

impl Slow {
    /// Waits until the application looks the name up.
    pub async fn requested(&self) {
        let mut requested = self.requested.subscribe();
        guarded("the lookup", requested.wait_for(|requested| *requested)).await.unwrap();
    }

    /// Ends the lookup.
    pub fn answer(&self) {
        self.answered.send_replace(true);
    }
}

/// State that fakes share with a harness that is started after them.
pub struct Neighbours {
    pub clock: ManualClock,
    pub held: Held,
    /// Certificate authorities that the application trusts.
    pub roots: Vec<CertificateDer<'static>>,
}

impl Default for Neighbours {
    fn default() -> Self {
        Self { clock: ManualClock::at(start()), held: Held::default(), roots: Vec::new() }
    }
}

/// The application and its fakes.
pub struct Harness {
    pub clock: ManualClock,
    pub provider: Provider,
    pub receiver: Receiver,
    /// Responses that the fakes hold back.
    pub held: Held,
    names: Arc<Mutex<Vec<Known>>>,
    roots: Vec<CertificateDer<'static>>,
    folder: TempDir,
    /// Server and name of the PostgreSQL database. `None`: a SQLite file in the folder.
    database: Option<(&'static Server, String)>,
    settings: Vec<(String, String)>,
    running: Option<Running>,
    /// Configuration file of the next start.
    pub file_text: Option<String>,
    /// Maximum number of open files that the application believes to have.
    pub descriptors: u64,
    threads: Vec<String>,
    finished: bool,
}

impl Harness {
    /// Starts the application with the settings of most tests: no rate limit, defaults otherwise.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts the application with further settings; an empty value unsets one.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        Self::among(Neighbours::default(), settings).await
    }

    /// Starts the application with the state of fakes that run already.
    pub async fn among(neighbours: Neighbours, settings: &[(&str, &str)]) -> Self {
        let mut harness = Self::prepared(neighbours, settings).await;
        harness.restart().await;
        harness
    }

    /// Starts the fakes and not the application, which [`Self::restart`] does.
    pub async fn prepared(neighbours: Neighbours, settings: &[(&str, &str)]) -> Self {
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
        Self {
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
            file_text: None,
            descriptors: 1 << 20,
            threads,
            finished: false,
        }
    }

    /// Returns the error with which an application with these settings does not start.
    pub async fn refused(settings: &[(&str, &str)]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = format!("sqlite://{}", folder.path().join("ringback.db").display());
        let all = [("RINGBACK_LISTEN", "127.0.0.1:0"), ("RINGBACK_DATABASE_URL", file.as_str())];
        let environment: Environment = all.iter().chain(settings).copied().collect();
        let config = Config::read(&Flags::default(), &environment, None).unwrap();
        let clock = Clock::Manual(ManualClock::at(start()));
        let resolver = Resolver::fixed(|_| Err(std::io::ErrorKind::NotFound.into()));
        let surroundings = HostEnvironment {
            clock,
            resolver,
            roots: Vec::new(),
            descriptors: 1 << 20,
            discards_output: false,
        };
        App::build(config, surroundings).await.unwrap_err().to_string()
    }

    /// Changes a setting for the next start; an empty value unsets it.
    pub fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Returns the configuration of the next start.
    pub fn config(&self) -> Config {
        let environment: Environment = self.settings.iter().cloned().collect();
        let file = self.file_text.clone().map(|text| File { path: "ringback.toml".to_owned(), text });
        Config::read(&Flags::default(), &environment, file).unwrap()
    }

    /// Returns the error with which the application does not start on its database.
    pub async fn start_error(&self) -> String {
        App::build(self.config(), self.environment()).await.unwrap_err().to_string()
    }

    /// Returns an environment without names.
    pub fn environment(&self) -> HostEnvironment {
        let clock = Clock::Manual(self.clock.clone());
        let resolver = Resolver::fixed(|_| Err(std::io::ErrorKind::NotFound.into()));
        HostEnvironment {
            clock,
            resolver,
            roots: self.roots.clone(),
            descriptors: self.descriptors,
            discards_output: false,
        }
    }

    /// Starts the application on its database.
    pub async fn restart(&mut self) {
        self.launch().await;
        self.ready().await;
    }

    /// Starts the application again, which may not become ready.
    pub async fn launch(&mut self) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(self.running.is_none(), "the application runs already");
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
                    slow.requested.send_replace(true);
                    let _ = slow.answered.subscribe().wait_for(|answered| *answered).await;
                }
                Ok(found.addresses?)
            })
        }));
        let clock = Clock::Manual(self.clock.clone());
        let surroundings = HostEnvironment {
            clock,
            resolver,
            roots: self.roots.clone(),
            descriptors: self.descriptors,
            discards_output: false,
        };
        let app = runtime.spawn(App::build(config, surroundings)).await.unwrap().unwrap();
        let (address, activity) = (app.address(), Box::new(app.activity()));
        let (first_start, metrics) = (app.first_start.clone(), app.metrics_address());
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = runtime.spawn(app.run(async move {
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        self.threads.push(thread);
        self.running = Some(Running { runtime, address, metrics, activity, stop, ended, first_start });
    }

    /// Waits until the application is ready.
    async fn ready(&self) {
        guarded("readiness", async { while self.get_without_key("/readyz").await.status != 200 {} }).await;
    }

    /// Ends the application at once, as a crash does.
    pub async fn crash(&mut self) {
        let running = self.running.take().expect("a running application");
        running.runtime.shutdown_background();
        self.released().await;
    }

    /// Waits until the lock of the database is free. The last write of a crashed application can still be in
    /// progress; the kernel or the server releases the lock after it.
    pub async fn released(&self) {
        if let Some((server, name)) = &self.database {
            let (server, name) = (*server, name.clone());
            let free = tokio::task::spawn_blocking(move || {
                server.query(&name, "select pg_advisory_lock(x'72696e676261636b'::bit(64)::bigint)")
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

    /// Waits until a stopping application accepts no more connections.
    pub async fn closed(&self, address: SocketAddr) {
        let refused = async { while TcpStream::connect(address).await.is_ok() {} };
        guarded("the listener to close", refused).await;
    }

    /// Starts an orderly stop of the application.
    pub fn begin_stop(&mut self) -> Stopping {
        let Running { runtime, stop, ended, .. } = self.running.take().expect("a running application");
        let _ = stop.send(());
        Stopping { runtime, ended }
    }

    /// Stops the application orderly.
    pub async fn stop(&mut self) {
        self.begin_stop().ended().await;
    }

    /// Path of the SQLite file.
    pub fn file(&self) -> PathBuf {
        self.folder.path().join("ringback.db")
    }

    pub fn address(&self) -> SocketAddr {
        self.running.as_ref().expect("a running application").address
    }

    /// Address of the listener for metrics, if there is one.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.running.as_ref().expect("a running application").metrics
    }

    pub fn first_start(&self) -> &FirstStart {
        &self.running.as_ref().expect("a running application").first_start
    }

    /// Makes a name resolve to these addresses from now on.
    pub fn resolve(&self, name: &str, addresses: &[&str]) {
        self.know(name, addresses, None);
    }

    /// Makes the lookups of a name fail from now on, because the application has no free descriptor.
    pub fn lack_descriptors(&self, name: &str) {
        self.fail(name, Errno::MFILE);
    }

    /// Makes the lookups of a name fail from now on, because no name server answers.
    pub fn lose_name_servers(&self, name: &str) {
        self.fail(name, Errno::NETDOWN);
    }

    fn fail(&self, name: &str, error: Errno) {
        self.names.lock().unwrap().push(Known { name: name.to_owned(), addresses: Err(error), slow: None });
    }

    /// Makes a name resolve to these addresses after [`Slow::answer`].
    pub fn resolve_slowly(&self, name: &str, addresses: &[&str]) -> Slow {
        let slow = Slow { requested: Arc::default(), answered: Arc::default() };
        self.know(name, addresses, Some(slow.clone()));
        slow
    }

    fn know(&self, name: &str, addresses: &[&str], slow: Option<Slow>) {
        let addresses = Ok(addresses.iter().map(|address| address.parse().unwrap()).collect());
        self.names.lock().unwrap().push(Known { name: name.to_owned(), addresses, slow });
    }

    pub fn now(&self) -> Timestamp {
        Clock::Manual(self.clock.clone()).now()
    }

    fn activity(&self) -> Activity {
        (self.running.as_ref().expect("a running application").activity)()
    }

    /// Waits until all due work is done, also that of the background loops, except requests that a fake holds back.
    pub async fn rest(&self) {
        self.rest_until(|activity| activity.in_background == 0).await;
    }

    /// Waits until all due work is done, and until `is_idle`.
    async fn rest_until(&self, is_idle: impl Fn(&Activity) -> bool) {
        let now = self.now();
        let resting = async {
            let mut found = 0;
            loop {
                // In this order: a held request is in progress and remains so.
                let held = self.held.count();
                let activity = self.activity();
                let is_due = activity.next_at.is_some_and(|at| at <= now);
                let rests = activity.in_progress == held && !is_due && is_idle(&activity);
                found = if rests { found + 1 } else { 0 };
                // The clock may just have passed the deadline of a held request. The one thread of the application
                // has ended such a request before it has answered a few others.
                if found > if held == 0 { 0 } else { 3 } {
                    return;
                }
                // A round trip instead of a sleep: the application makes progress in the meantime.
                self.get_without_key("/healthz").await;
            }
        };
        guarded("rest", resting).await;
    }

    /// Lets the application read what the fakes have written so far. It has one thread, which finds all sockets with data
    /// before it finishes a round trip.
    pub async fn read_arrived(&self) {
        for _ in 0..3 {
            self.get_without_key("/healthz").await;
        }
    }

    /// Waits until all due work is done, and advances the clock meanwhile: a write that the database has refused is
    /// repeated after a second.
    pub async fn work_off(&self) {
        let working = async {
            while self.activity().in_progress > self.held.count() {
                self.clock.advance(seconds(1));
                self.get_without_key("/healthz").await;
            }
        };
        guarded("work off", working).await;
        self.rest().await;
    }

    /// Advances the clock by `span`, from one scheduled time to the next.
    pub async fn pass(&self, span: Duration) {
        let end = self.now().plus(span);
        loop {
            // The background loops work at the end. To wait for them at each step would take most of the time.
            self.rest_until(|_| true).await;
            match self.activity().next_at {
                Some(at) if at <= end => self.clock.set(at),
                _ => break,
            }
        }
        self.clock.set(end);
        self.rest().await;
    }

    /// Requests `path` until the status is `status`: for background work that is neither a poll nor an attempt.
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

    /// Sends a POST without a body.
    pub async fn act(&self, path: &str) -> Answer {
        self.send("POST", path, &[AUTH], b"").await
    }

    /// Stops a watch.
    pub async fn stop_watch(&self, watch: &str) -> Answer {
        self.act(&format!("/v1/watches/{watch}/stop")).await
    }

    /// Registers a watch and returns its id.
    #[track_caller]
    pub fn register(&self, body: &Value) -> impl Future<Output = String> {
        let body = body.clone();
        async move { id(&self.post("/v1/watches", &body).await.expect(201)) }
    }

    /// Registers a watch on a job, with the receiver as its only destination.
    pub async fn watch(&self, job: &str) -> String {
        self.register(&json!({ "jobId": job, "callbackUrl": self.receiver.url("/hook") })).await
    }

    /// Creates the keys `read` and `write`, with the scopes of these names. SQLite only: it writes into the file.
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

    /// Returns a watch.
    pub async fn shown(&self, watch: &str) -> Value {
        self.get(&format!("/v1/watches/{watch}")).await.expect(200)
    }

    /// Returns the only delivery of a watch, with its attempts.
    pub async fn delivery(&self, watch: &str) -> Value {
        let found = self.get(&format!("/v1/deliveries?watchId={watch}")).await.expect(200);
        let [one] = found["data"].as_array().unwrap().as_slice() else { panic!("not one: {found}") };
        self.get(&format!("/v1/deliveries/{}", id(one))).await.expect(200)
    }

    /// Ends a test. Waits for due work, and fails for unread requests, overdue deliveries, failed polls, errors that
    /// a fake has found, and panics. Then stops the application orderly.
    pub async fn finish(self) {
        self.rest().await;
        let unread = self.receiver.unread();
        assert!(unread.is_empty(), "unread requests: {unread:#?}");
        let now = self.now();
        let pending = self.get("/v1/deliveries?status=pending&limit=200").await.expect(200);
        for delivery in pending["data"].as_array().unwrap() {
            let next = Timestamp::parse(delivery["nextAttemptAt"].as_str().unwrap()).unwrap();
            assert!(next > now, "an attempt is overdue: {delivery}");
        }
        let watching = self.get("/v1/watches?status=watching&limit=200").await.expect(200);
        for watch in watching["data"].as_array().unwrap() {
            assert!(watch["job"]["lastError"].is_null(), "a poll failed: {watch}");
        }
        self.give_up().await;
    }

    /// Ends a test that leaves requests, deliveries or poll errors behind on purpose.
    pub async fn give_up(mut self) {
        if self.running.is_some() {
            self.stop().await;
        }
        self.finished = true;
        let complaints = [self.provider.complaints(), self.receiver.complaints()].concat();
        assert!(complaints.is_empty(), "{complaints:#?}");
        let panicked = PANICKED.lock().unwrap_or_else(PoisonError::into_inner);
        let own = |line: &&String| {
            line.starts_with("writer") || self.threads.iter().any(|thread| line.starts_with(thread.as_str()))
        };
        let own: Vec<&String> = panicked.iter().filter(own).collect();
        assert!(own.is_empty(), "{own:#?}");
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            running.runtime.shutdown_background();
        }
        assert!(self.finished || std::thread::panicking(), "a test must end with finish() or give_up()");
    }
}

/// A stopping application.
pub struct Stopping {
    runtime: Runtime,
    ended: JoinHandle<anyhow::Result<()>>,
}

impl Stopping {
    /// Waits for the end of the orderly stop.
    pub async fn ended(self) {
        guarded("the end", self.ended).await.unwrap().unwrap();
        self.runtime.shutdown_background();
    }
}

/// The header with the configured admin key.
pub const AUTH: (&str, &str) = ("authorization", "Bearer rb_integration_key_0123");

/// The header of a JSON body.
pub const JSON: (&str, &str) = ("content-type", "application/json");

/// Returns the `id` of a view.
#[track_caller]
pub fn id(view: &Value) -> String {
    view["id"].as_str().unwrap_or_else(|| panic!("no id in {view}")).to_owned()
}
