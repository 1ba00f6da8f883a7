//! Output of the demo: one line per action, with its time and its participant.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;

use crate::cli::listen::{Arrival, Signature};
use crate::cli::output::print_line;
use crate::clock::{Clock, Stopwatch};
use crate::config::Environment;

/// Maximum size of an answer of the simulator, in bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Maximum number of jobs whose last answer is kept; then all are forgotten.
const JOBS_MAX: usize = 10_000;

/// Participant of the demo.
#[derive(Clone, Copy, Debug)]
pub enum Participant {
    /// The simulated provider.
    Muvi,
    /// Ringback.
    Server,
    /// The client that registers watches.
    Client,
    /// The receiver that accepts everything.
    Receiver,
    /// The receiver that rejects the first webhook.
    Flaky,
}

impl Participant {
    fn name(self) -> &'static str {
        match self {
            Self::Muvi => "muvi",
            Self::Server => "ringback",
            Self::Client => "client",
            Self::Receiver => "receiver",
            Self::Flaky => "flaky",
        }
    }

    /// Returns the ANSI number of the colour.
    fn colour(self) -> u8 {
        match self {
            Self::Muvi => 35,
            Self::Server => 34,
            Self::Client => 36,
            Self::Receiver => 32,
            Self::Flaky => 33,
        }
    }
}

/// Output of the demo; clones share the start time.
#[derive(Clone, Debug)]
pub struct DemoLog {
    start: Arc<Stopwatch>,
    colours: bool,
}

impl DemoLog {
    /// Starts the time. Colours are used on a terminal unless `NO_COLOR` is set.
    pub fn new(clock: &Clock, environment: &Environment) -> Self {
        let colours = std::io::stdout().is_terminal() && environment.get("NO_COLOR").is_none();
        Self { start: Arc::new(clock.stopwatch()), colours }
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints a line.
    pub fn line(&self, participant: Participant, text: &str) {
        let (at, name) = (self.elapsed().as_secs_f64(), participant.name());
        // If stdout is closed, the demo continues: its result is the exit code.
        let _ = if self.colours {
            let colour = participant.colour();
            print_line(format_args!("\x1b[2m{at:5.1}s\x1b[0m  \x1b[{colour}m{name:8}\x1b[0m  {text}"))
        } else {
            print_line(format_args!("{at:5.1}s  {name:8}  {text}"))
        };
    }

    /// Prints a line for a webhook.
    pub fn webhook(&self, participant: Participant, arrival: &Arrival) {
        let signature = match &arrival.signature {
            Signature::Verified => "signature verified".to_owned(),
            Signature::Wrong(why) => format!("signature wrong: {why}"),
            Signature::NoSecret => "signature not checked".to_owned(),
        };
        let body: Value = serde_json::from_slice(&arrival.body).unwrap_or_default();
        let job = body["data"]["jobId"].as_str().unwrap_or("(no job)");
        let (event, id, attempt) = (&arrival.event, &arrival.id, arrival.attempt);
        let answered = arrival.answered.as_u16();
        self.line(
            participant,
            &format!("receives {event} of {job} ({id}, attempt {attempt}), {signature}, answers {answered}"),
        );
    }
}

/// Prints the answers of the simulator about a job, unless the answer is the same as the one before.
pub fn log_responses(router: Router, log: DemoLog) -> Router {
    let responses = ResponseLog { log, last: Arc::default() };
    router.layer(from_fn_with_state(responses, log_response))
}

#[derive(Clone)]
struct ResponseLog {
    log: DemoLog,
    last: Arc<Mutex<HashMap<String, String>>>,
}

async fn log_response(State(responses): State<ResponseLog>, request: Request, next: Next) -> Response {
    let job = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let (parts, body) = next.run(request).await.into_parts();
    let Ok(body) = to_bytes(body, ANSWER_MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let word = answer["status"]
        .as_str()
        .or(answer["error"]["code"].as_str())
        .unwrap_or("(neither status nor error)");
    responses.record(job, format!("{} {word}", parts.status.as_u16()));
    Response::from_parts(parts, Body::from(body))
}

impl ResponseLog {
    fn record(&self, job: String, text: String) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() >= JOBS_MAX {
            last.clear();
        }
        if last.get(&job) != Some(&text) {
            self.log.line(Participant::Muvi, &format!("answers about {job}: {text}"));
            last.insert(job, text);
        }
    }
}
