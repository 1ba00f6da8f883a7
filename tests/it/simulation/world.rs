//! The world outside: the provider with the truth about each job, the receivers, and the ledgers of both.
//!
//! Each entry of a ledger is stamped with the length of the log at that moment. [`State::forget`] removes what came
//! after a crash point: in the history that the simulation continues, it has never happened.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringback::clock::{Clock, Stopwatch};
use serde_json::json;

use super::disk::{CrashPoint, written};
use crate::fakes::{Held, Hit, PROVIDER_KEY, Reply, Server, Shared, error, verify};
use crate::harness::SECRET;
use crate::wire::Request;

/// Seconds of `Retry-After` in the answers of the receivers and of the provider.
pub const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The truth about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truth {
    Processing(u8),
    Completed,
    Failed,
    Cancelled,
    Absent,
}

/// How the provider answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderMode {
    /// With the truth.
    Healthy,
    Error,
    Unauthorized,
    Reset,
    /// A page in HTML with the status 200.
    Html,
    /// A JSON object that breaks off.
    Truncated,
    /// A status that no definition knows.
    UnknownStatus,
    /// 429 with `Retry-After`.
    Busy,
    /// A body that does not end.
    Stalled,
}

/// How a receiver answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReceiverMode {
    Accepts,
    Error,
    /// 503 with `Retry-After`.
    Busy,
    Gone,
    Redirect,
    Reset,
    /// It accepts the webhook, and its answer is lost.
    LostAnswer,
    Stalled,
}

/// A poll that the provider has seen.
#[derive(Clone, Debug)]
pub struct Poll {
    written: u64,
    /// Time since the start of the world.
    pub at: Duration,
    /// Number of starts of the application before it.
    pub starts: u32,
    pub job: String,
    pub mode: ProviderMode,
    pub truth: Truth,
}

/// A webhook that a receiver has seen.
#[derive(Clone, Debug)]
pub struct Seen {
    written: u64,
    pub at: Duration,
    pub starts: u32,
    pub mode: ReceiverMode,
    pub hit: Hit,
}

/// The state of the world.
#[derive(Debug)]
pub struct State {
    database: PathBuf,
    clock: Clock,
    elapsed: Stopwatch,
    pub starts: u32,
    pub jobs: BTreeMap<String, Truth>,
    pub provider: ProviderMode,
    pub receivers: BTreeMap<String, ReceiverMode>,
    pub polls: Vec<Poll>,
    pub seen: Vec<Seen>,
    /// What no provider or receiver would accept.
    pub complaints: Vec<String>,
    receiver_url: String,
}

/// The servers of the world.
pub struct World {
    pub state: Arc<Shared<State>>,
    provider: Server,
    receiver: Server,
}

impl World {
    pub async fn start(database: PathBuf, clock: Clock, held: Held) -> Self {
        let state = Shared::new(State {
            database,
            elapsed: clock.stopwatch(),
            clock,
            starts: 0,
            jobs: BTreeMap::new(),
            provider: ProviderMode::Healthy,
            receivers: BTreeMap::new(),
            polls: Vec::new(),
            seen: Vec::new(),
            complaints: Vec::new(),
            receiver_url: String::new(),
        });
        let (polled, sent) = (Arc::clone(&state), Arc::clone(&state));
        let provider =
            Server::start(held.clone(), move |request| polled.change(|state| state.poll(&request))).await;
        let receiver = Server::start(held, move |request| sent.change(|state| state.receive(request))).await;
        state.change(|state| state.receiver_url = format!("http://{}", receiver.address));
        Self { state, provider, receiver }
    }

    pub fn provider_url(&self) -> String {
        format!("http://{}", self.provider.address)
    }

    pub fn receiver_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.receiver.address)
    }
}

impl State {
    /// Forgets what came after a crash of the current start. Every start begins a new log.
    pub fn forget(&mut self, point: CrashPoint) {
        let starts = self.starts;
        self.polls.retain(|poll| poll.starts < starts || point.includes(poll.written));
        self.seen.retain(|seen| seen.starts < starts || point.includes(seen.written));
    }

    fn poll(&mut self, request: &Request) -> Reply {
        let job = request.path.strip_prefix("/v1/jobs/").unwrap_or_default().to_owned();
        if request.header("authorization") != Some(&format!("Bearer {PROVIDER_KEY}")) {
            self.complaints.push(format!("the provider got another key: {request:?}"));
        }
        let Some(truth) = self.jobs.get(&job).copied() else {
            self.complaints.push(format!("no client has named this job: {request:?}"));
            return Reply::status(404);
        };
        let (written, at, mode) = (written(&self.database), self.elapsed.elapsed(), self.provider);
        self.polls.push(Poll { written, at, starts: self.starts, job: job.clone(), mode, truth });
        match mode {
            ProviderMode::Healthy => answer(&job, truth),
            ProviderMode::Error => Reply::status(500),
            ProviderMode::Unauthorized => error(401, "UNAUTHORIZED", "Invalid API key"),
            ProviderMode::Reset => Reply::reset(),
            ProviderMode::Html => Reply::new(200, "<html>completed</html>").with("content-type", "text/html"),
            ProviderMode::Truncated => {
                Reply::new(200, format!(r#"{{"jobId": "{job}", "status": "completed""#))
            }
            ProviderMode::UnknownStatus => Reply::json(200, &json!({ "jobId": job, "status": "done_maybe" })),
            ProviderMode::Busy => Reply::status(429).with("retry-after", &RETRY_AFTER.as_secs().to_string()),
            ProviderMode::Stalled => Reply::stalled(200),
        }
    }

    fn receive(&mut self, request: Request) -> Reply {
        let Request { method, path, headers, body } = request;
        let hit = Hit { at: self.clock.now(), path, headers, body };
        if hit.path == "/trap" || method != "POST" {
            self.complaints.push(format!("a redirect was followed: {method} {}", hit.path));
            return Reply::status(200);
        }
        // Only fields of the header that every webhook has: a panic here would end a task, and not the test.
        if let Err(why) = verify(SECRET, &hit) {
            self.complaints.push(format!("a webhook does not verify: {why} in {hit:?}"));
        }
        let mode = self.receivers.get(&hit.path).copied().unwrap_or(ReceiverMode::Accepts);
        let (written, at) = (written(&self.database), self.elapsed.elapsed());
        self.seen.push(Seen { written, at, starts: self.starts, mode, hit });
        match mode {
            ReceiverMode::Accepts => Reply::status(200),
            ReceiverMode::Error => Reply::status(500),
            ReceiverMode::Busy => Reply::status(503).with("retry-after", &RETRY_AFTER.as_secs().to_string()),
            ReceiverMode::Gone => Reply::status(410),
            ReceiverMode::Redirect => {
                Reply::status(307).with("location", &format!("{}/trap", self.receiver_url))
            }
            ReceiverMode::Reset | ReceiverMode::LostAnswer => Reply::reset(),
            ReceiverMode::Stalled => Reply::stalled(500),
        }
    }
}

fn answer(job: &str, truth: Truth) -> Reply {
    let (status, progress) = match truth {
        Truth::Processing(progress) => ("processing", progress),
        Truth::Completed => ("completed", 100),
        Truth::Failed => ("failed", 0),
        Truth::Cancelled => ("cancelled", 50),
        Truth::Absent => return error(404, "JOB_NOT_FOUND", "Job not found"),
    };
    Reply::json(200, &json!({ "jobId": job, "status": status, "progress": progress }))
}
