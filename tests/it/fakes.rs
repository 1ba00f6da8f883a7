//! Stateful fakes of a provider and of a receiver of webhooks. Both respond as a test scripts them, record
//! every request with its time by the manual clock, and can be awaited.
//!
//! A fake records an error for a request that no real service would accept (a wrong key, an unknown job,
//! an invalid signature); the harness then fails the test.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ringback::clock::Clock;
use ringback::domain::Timestamp;
use serde_json::{Value, json};
use standardwebhooks::Webhook;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::harness::guarded;
use crate::wire::{Headers, Request};

/// Response of a fake to one request.
#[derive(Clone, Debug)]
pub struct Reply {
    status: u16,
    headers: Headers,
    body: Body,
    held: Option<watch::Receiver<bool>>,
}

#[derive(Clone, Debug)]
enum Body {
    Whole(Vec<u8>),
    /// A body that is never completed.
    Stalled,
    /// A body that never ends.
    Endless,
    /// No response: the connection is reset.
    Reset,
    /// Half a head, before the connection is closed.
    Cut,
    /// Bytes that are not HTTP.
    Garbage,
}

/// Holds a response back until it is opened or dropped.
#[derive(Debug)]
pub struct Pacing(watch::Sender<bool>);

impl Pacing {
    pub fn open(self) {
        self.0.send_replace(true);
    }
}

impl Reply {
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Headers::new(), body: Body::Whole(body.into()), held: None }
    }

    pub fn json(status: u16, body: &Value) -> Self {
        Self::new(status, body.to_string()).with("content-type", "application/json")
    }

    pub fn status(status: u16) -> Self {
        Self::new(status, "")
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn stalled(status: u16) -> Self {
        Self { body: Body::Stalled, ..Self::status(status) }
    }

    pub fn endless(status: u16) -> Self {
        Self { body: Body::Endless, ..Self::status(status) }
    }

    pub fn reset() -> Self {
        Self { body: Body::Reset, ..Self::status(0) }
    }

    pub fn cut() -> Self {
        Self { body: Body::Cut, ..Self::status(200) }
    }

    pub fn garbage() -> Self {
        Self { body: Body::Garbage, ..Self::status(0) }
    }

    /// Returns the same response, delayed.
    pub fn held(mut self) -> (Self, Pacing) {
        let (gate, held) = watch::channel(false);
        self.held = Some(held);
        (self, Pacing(gate))
    }

    /// Writes the response. Returns whether the connection can be used again.
    async fn write(mut self, stream: &mut TcpStream, held: &Held) -> bool {
        if let Some(gate) = &mut self.held {
            let _holding = held.hold(Some(gate.clone()), Some(stream));
            tokio::select! {
                _ = gate.wait_for(|open| *open) => {}
                () = closed(stream) => return false,
            }
        }
        let mut top = format!("HTTP/1.1 {} Scripted\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(top, "{name}: {value}\r\n");
        }
        match self.body {
            Body::Whole(body) => {
                let _ = write!(top, "content-length: {}\r\n\r\n", body.len());
                stream.write_all(&[top.as_bytes(), &body].concat()).await.is_ok()
            }
            Body::Stalled => {
                top.push_str("content-length: 1000\r\n\r\nthe beginning");
                let _ = stream.write_all(top.as_bytes()).await;
                let _holding = held.hold(None, Some(stream));
                closed(stream).await;
                false
            }
            Body::Endless => {
                top.push_str("content-length: 1000000000000\r\n\r\n");
                let _ = stream.write_all(top.as_bytes()).await;
                while stream.write_all(&[b'x'; 16 * 1024]).await.is_ok() {}
                false
            }
            Body::Reset => {
                let _ = stream.set_zero_linger();
                false
            }
            Body::Cut => {
                let _ = stream.write_all(&top.as_bytes()[..top.len() / 2]).await;
                false
            }
            Body::Garbage => {
                let _ = stream.write_all(b"220 smtp.example ESMTP ready\r\n\r\n").await;
                false
            }
        }
    }
}

/// Returns when the client has closed the connection.
async fn closed(stream: &TcpStream) {
    while stream.readable().await.is_ok() {
        match stream.try_read(&mut [0; 64]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Responses that are held back: they are in progress, and a test does not wait for them.
///
/// One whose client has closed the connection is not held back any more, from the moment of the close: its attempt has
/// ended, and the test waits for the record of it. The task of the connection notices the close later.
#[derive(Clone, Debug)]
pub struct Held(Arc<Shared<Slots>>);

#[derive(Debug, Default)]
struct Slots {
    next: usize,
    slots: HashMap<usize, Slot>,
}

#[derive(Debug)]
struct Slot {
    /// A response with a gate counts until the gate is opened.
    gate: Option<watch::Receiver<bool>>,
    /// Absent if it may be encrypted: its end is noticed by its task.
    connection: Option<std::net::TcpStream>,
}

impl Slot {
    fn is_held(&self) -> bool {
        let is_shut = self.gate.as_ref().is_none_or(|gate| !*gate.borrow() && gate.has_changed().is_ok());
        // The socket is not blocking.
        let is_open = self.connection.as_ref().is_none_or(|connection| match connection.peek(&mut [0]) {
            Ok(read) => read > 0,
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        });
        is_shut && is_open
    }
}

impl Slots {
    fn count(&self) -> usize {
        self.slots.values().filter(|slot| slot.is_held()).count()
    }
}

impl Default for Held {
    fn default() -> Self {
        Self(Shared::new(Slots::default()))
    }
}

impl Held {
    pub fn count(&self) -> usize {
        self.0.lock().count()
    }

    /// Returns when no client waits for a response.
    pub async fn none(&self) {
        self.0.until("no waiting client", |slots| (slots.count() == 0).then_some(())).await;
    }

    pub fn hold(&self, gate: Option<watch::Receiver<bool>>, connection: Option<&TcpStream>) -> Holding {
        let connection = connection.map(|connection| connection.as_fd().try_clone_to_owned().unwrap().into());
        let slot = self.0.change(|slots| {
            slots.next += 1;
            slots.slots.insert(slots.next, Slot { gate, connection });
            slots.next
        });
        Holding(self.clone(), slot)
    }
}

/// Counts a response as held back while it exists.
pub struct Holding(Held, usize);

impl Drop for Holding {
    fn drop(&mut self) {
        self.0.0.change(|slots| slots.slots.remove(&self.1));
    }
}

/// State that a fake shares with its connections, and a notification of each change.
#[derive(Debug)]
pub struct Shared<T> {
    state: Mutex<T>,
    changes: watch::Sender<()>,
}

impl<T> Shared<T> {
    pub fn new(state: T) -> Arc<Self> {
        Arc::new(Self { state: Mutex::new(state), changes: watch::Sender::new(()) })
    }

    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let changed = change(&mut self.lock());
        self.changes.send_replace(());
        changed
    }

    /// Returns the first value that `check` returns; calls it after each change.
    pub async fn until<R>(&self, what: &str, mut check: impl FnMut(&mut T) -> Option<R>) -> R {
        let mut changes = self.changes.subscribe();
        let found = guarded(what, async {
            loop {
                changes.mark_unchanged();
                if let Some(found) = check(&mut self.lock()) {
                    return found;
                }
                changes.changed().await.unwrap();
            }
        });
        found.await
    }
}

/// A server on loopback that stops with the test.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Server {
    pub async fn start(held: Held, answer: impl Fn(Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(answer);
        let accepting = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (answer, held) = (Arc::clone(&answer), held.clone());
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    while let Some(request) = Request::read(&mut stream).await {
                        if !answer(request).write(stream.get_mut(), &held).await {
                            break;
                        }
                    }
                });
            }
        });
        Self { address, accepting }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// API key that the provider accepts.
pub const PROVIDER_KEY: &str = "pb_test_key";

/// A fake provider with Muvi's API.
#[derive(Debug)]
pub struct Provider {
    server: Server,
    shared: Arc<Shared<Jobs>>,
}

#[derive(Debug, Default)]
struct Jobs {
    known: HashMap<String, Job>,
    /// Replaces the responses of all jobs.
    all: Option<Reply>,
    enveloped: bool,
    polls: Vec<(Timestamp, String)>,
    complaints: Vec<String>,
}

#[derive(Debug, Default)]
struct Job {
    script: VecDeque<Reply>,
    always: Option<Reply>,
    state: Value,
    polls: Vec<Timestamp>,
}

impl Provider {
    pub async fn start(clock: Clock, held: Held) -> Self {
        let shared = Shared::new(Jobs::default());
        let server = Server::start(held, {
            let shared = Arc::clone(&shared);
            move |request| shared.change(|jobs| jobs.answer(&request, clock.now()))
        });
        Self { server: server.await, shared }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Sets the state of a job: `fields` replace those of a job that is processing.
    pub fn job(&self, job: &str, fields: &Value) {
        let mut state = json!({
            "jobId": job, "status": "processing", "progress": 0, "output": null, "outputs": null,
            "error": null, "createdAt": "2026-02-18T14:59:00Z", "completedAt": null,
        });
        for (name, value) in fields.as_object().unwrap() {
            state[name] = value.clone();
        }
        self.shared.change(|jobs| {
            let job = jobs.job(job);
            (job.state, job.always) = (state, None);
        });
    }

    pub fn processing(&self, job: &str, progress: u8) {
        self.job(job, &json!({ "progress": progress }));
    }

    pub fn completed(&self, job: &str) {
        let url = |file: &str| format!("https://cdn.muvi.video/outputs/{job}/{file}");
        let output = json!({ "url": url("output_0.mp4"), "type": "video",
                             "thumbnail": url("thumb_0.jpg"), "posterImage": url("poster_0.jpg") });
        let ended = json!({ "status": "completed", "progress": 100, "output": url("output_0.mp4"),
                            "outputs": [output], "completedAt": "2026-02-18T15:02:30Z" });
        self.job(job, &ended);
    }

    pub fn failed(&self, job: &str) {
        let error = json!({ "code": "GENERATION_FAILED", "message": "The model failed." });
        self.job(job, &json!({ "status": "failed", "error": error, "completedAt": "2026-02-18T15:01:15Z" }));
    }

    pub fn cancelled(&self, job: &str) {
        self.job(
            job,
            &json!({ "status": "cancelled", "progress": 50, "completedAt": "2026-02-18T15:01:15Z" }),
        );
    }

    pub fn not_found(&self, job: &str) {
        self.always(job, error(404, "JOB_NOT_FOUND", "Job not found"));
    }

    /// Scripts the responses to the next polls of a job.
    pub fn script(&self, job: &str, replies: impl IntoIterator<Item = Reply>) {
        self.shared.change(|jobs| jobs.job(job).script.extend(replies));
    }

    /// Sets the response to every poll of a job, until [`Self::job`] sets its state.
    pub fn always(&self, job: &str, reply: Reply) {
        self.shared.change(|jobs| jobs.job(job).always = Some(reply));
    }

    /// Sets the response to every poll of any job; `None` removes it.
    pub fn all(&self, reply: Option<Reply>) {
        self.shared.change(|jobs| jobs.all = reply);
    }

    /// Sets whether responses are wrapped in `{"success", "data", "requestId"}`.
    pub fn enveloped(&self, enveloped: bool) {
        self.shared.change(|jobs| jobs.enveloped = enveloped);
    }

    /// Returns the times of the polls of a job.
    pub fn polls(&self, job: &str) -> Vec<Timestamp> {
        self.shared.lock().known.get(job).map(|job| job.polls.clone()).unwrap_or_default()
    }

    /// Returns the times of all polls.
    pub fn all_polls(&self) -> Vec<Timestamp> {
        self.shared.lock().polls.iter().map(|(at, _)| *at).collect()
    }

    /// Returns after `n` polls of a job.
    pub async fn polled(&self, job: &str, n: usize) {
        let what = format!("{n} polls of {job}");
        self.shared.until(&what, |jobs| (jobs.job(job).polls.len() >= n).then_some(())).await;
    }

    /// Returns after `n` polls of any jobs.
    pub async fn polled_in_all(&self, n: usize) {
        self.shared.until("polls", |jobs| (jobs.polls.len() >= n).then_some(())).await;
    }

    /// Returns the errors of requests that no provider would accept.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.lock().complaints.clone()
    }
}

/// Returns an error response of Muvi's API.
pub fn error(status: u16, code: &str, message: &str) -> Reply {
    let error = json!({ "code": code, "message": message, "details": {} });
    Reply::json(status, &json!({ "success": false, "error": error, "requestId": "req_fake" }))
}

impl Jobs {
    fn job(&mut self, job: &str) -> &mut Job {
        self.known.entry(job.to_owned()).or_default()
    }

    fn answer(&mut self, request: &Request, now: Timestamp) -> Reply {
        if request.header("authorization") != Some(&format!("Bearer {PROVIDER_KEY}")) {
            self.complaints.push(format!("the provider got another key: {request:?}"));
            return error(401, "UNAUTHORIZED", "Invalid API key");
        }
        let polled = request.path.strip_prefix("/v1/jobs/").filter(|_| request.method == "GET");
        let Some(name) = polled else {
            self.complaints.push(format!("the provider got another request: {request:?}"));
            return Reply::status(404);
        };
        self.polls.push((now, name.to_owned()));
        let (all, enveloped) = (self.all.clone(), self.enveloped);
        let job = self.job(name);
        job.polls.push(now);
        if let Some(scripted) = job.script.pop_front().or(all).or(job.always.clone()) {
            return scripted;
        }
        if job.state.is_null() {
            self.complaints.push(format!("the job {name} was not submitted"));
            return error(404, "JOB_NOT_FOUND", "Job not found");
        }
        let state = job.state.clone();
        let flat = !enveloped;
        let wrapped = || json!({ "success": true, "data": state, "requestId": "req_fake" });
        Reply::json(200, &if flat { state.clone() } else { wrapped() })
    }
}

/// A received webhook.
#[derive(Clone, Debug)]
pub struct Hit {
    pub at: Timestamp,
    pub path: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Hit {
    /// Returns the first header with this name.
    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map_or_else(|| panic!("no {name} in {self:?}"), |(_, value)| value.as_str())
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn event(&self) -> &str {
        self.header("ringback-event")
    }

    pub fn watch(&self) -> &str {
        self.header("ringback-watch")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// A fake receiver of webhooks.
#[derive(Debug)]
pub struct Receiver {
    server: Server,
    shared: Arc<Shared<Inbox>>,
}

#[derive(Debug, Default)]
struct Inbox {
    script: HashMap<String, VecDeque<Reply>>,
    always: HashMap<String, Reply>,
    secret: String,
    secrets: HashMap<String, String>,
    unread: VecDeque<Hit>,
    all: Vec<Hit>,
    complaints: Vec<String>,
}

impl Receiver {
    /// Starts a receiver that accepts everything signed with `secret`.
    pub async fn start(clock: Clock, held: Held, secret: &str) -> Self {
        let shared = Shared::new(Inbox { secret: secret.to_owned(), ..Inbox::default() });
        let server = Server::start(held, {
            let shared = Arc::clone(&shared);
            move |request| shared.change(|inbox| inbox.take(request, clock.now()))
        });
        Self { server: server.await, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.server.address)
    }

    pub fn port(&self) -> u16 {
        self.server.address.port()
    }

    /// Scripts the responses to the next webhooks to `path`; later ones get 200.
    pub fn script(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        self.shared.change(|inbox| inbox.script.entry(path.to_owned()).or_default().extend(replies));
    }

    /// Sets the response to every webhook to `path`; `None` removes it.
    pub fn always(&self, path: &str, reply: Option<Reply>) {
        self.shared.change(|inbox| match reply {
            Some(reply) => inbox.always.insert(path.to_owned(), reply),
            None => inbox.always.remove(path),
        });
    }

    /// Sets the secret that signs webhooks to `path`.
    pub fn secret(&self, path: &str, secret: &str) {
        self.shared.change(|inbox| inbox.secrets.insert(path.to_owned(), secret.to_owned()));
    }

    /// Lets webhooks to `path` have another signature than that of the standard, or none.
    pub fn other_signature(&self, path: &str) {
        self.secret(path, "");
    }

    /// Waits for the next unread webhook.
    pub async fn next(&self) -> Hit {
        self.shared.until("a webhook", |inbox| inbox.unread.pop_front()).await
    }

    /// Waits for the next unread webhook to `path`.
    pub async fn next_to(&self, path: &str) -> Hit {
        let take = |inbox: &mut Inbox| {
            let index = inbox.unread.iter().position(|hit| hit.path == path)?;
            inbox.unread.remove(index)
        };
        self.shared.until(&format!("a webhook to {path}"), take).await
    }

    /// Waits for the next `n` webhooks.
    pub async fn take(&self, n: usize) -> Vec<Hit> {
        let mut taken = Vec::new();
        while taken.len() < n {
            taken.push(self.next().await);
        }
        taken
    }

    /// Returns the unread webhooks.
    pub fn unread(&self) -> Vec<Hit> {
        self.shared.lock().unread.iter().cloned().collect()
    }

    /// Returns the number of webhooks.
    pub fn count(&self) -> usize {
        self.shared.lock().all.len()
    }

    /// Returns all webhooks.
    pub fn all(&self) -> Vec<Hit> {
        self.shared.lock().all.clone()
    }

    /// Marks all webhooks as read.
    pub fn read_all(&self) -> Vec<Hit> {
        self.shared.lock().unread.drain(..).collect()
    }

    /// Returns after `n` webhooks.
    pub async fn received(&self, n: usize) {
        self.shared.until("webhooks", |inbox| (inbox.all.len() >= n).then_some(())).await;
    }

    /// Returns the errors of webhooks that no receiver would accept.
    pub fn complaints(&self) -> Vec<String> {
        self.shared.lock().complaints.clone()
    }
}

impl Inbox {
    fn take(&mut self, request: Request, at: Timestamp) -> Reply {
        let Request { method, path, headers, body } = request;
        let hit = Hit { at, path, headers, body };
        let secret = self.secrets.get(&hit.path).unwrap_or(&self.secret);
        if !secret.is_empty()
            && let Err(why) = verify(secret, &hit)
        {
            self.complaints.push(format!("the receiver was sent what does not hold: {why} in {hit:?}"));
        }
        if method != "POST" {
            self.complaints.push(format!("the receiver was sent a {method}"));
        }
        let scripted = self.script.get_mut(&hit.path).and_then(VecDeque::pop_front);
        let reply = scripted.or(self.always.get(&hit.path).cloned()).unwrap_or_else(|| Reply::status(200));
        self.unread.push_back(hit.clone());
        self.all.push(hit);
        reply
    }
}

/// Computes the expected signature with the official library. (Its own comparison reads the machine's
/// clock; the tests check the age by [`Hit::at`] instead.)
pub fn verify(secret: &str, hit: &Hit) -> Result<(), String> {
    let timestamp: i64 = hit.header("webhook-timestamp").parse().map_err(|_| "no timestamp")?;
    if timestamp.abs_diff(hit.at.seconds()) > 300 {
        return Err(format!("{timestamp} is not the time of the attempt"));
    }
    let webhook = Webhook::new(secret).map_err(|error| error.to_string())?;
    let signed = webhook.sign(hit.id(), timestamp, &hit.body).map_err(|error| error.to_string())?;
    let given = hit.header("webhook-signature");
    if given.split(' ').any(|one| one == signed) { Ok(()) } else { Err(format!("{given} is not {signed}")) }
}
