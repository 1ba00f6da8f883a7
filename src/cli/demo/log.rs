//! Output of the demo: one line per action, with its time and its participant.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::cli::listen::{Arrival, Signature};
use crate::cli::output::{print_waiting, unless_closed};
use crate::cli::terminal::Terminal;
use crate::clock::{Clock, Stopwatch};

/// Maximum size of an answer of the simulator, in bytes.
const ANSWER_MAX: usize = 64 * 1024;
/// Maximum number of jobs whose last answer is kept; then all are forgotten.
const JOBS_MAX: usize = 10_000;

/// Maximum number of lines that wait to be printed. Further ones are not shown: neither the demo nor a webhook waits for a
/// stdout that is not read.
const LINES_MAX: usize = 1_000;

/// A text for stdout, and a receiver of the result.
type Printed = (String, Option<oneshot::Sender<Result<()>>>);

/// Participant of the demo: its name, and the ANSI number of its colour.
pub type Participant = (&'static str, u8);
/// The simulated provider.
pub const MUVI: Participant = ("muvi", 35);
/// Ringback.
pub const SERVER: Participant = ("ringback", 34);
/// The client that registers watches.
pub const CLIENT: Participant = ("client", 36);
/// The receiver that accepts everything.
pub const RECEIVER: Participant = ("receiver", 32);
/// The receiver that rejects the first webhook.
pub const FLAKY: Participant = ("flaky", 33);

/// Output of the demo.
#[derive(Debug)]
pub struct DemoLog {
    start: Stopwatch,
    terminal: Terminal,
    /// Last answer of the simulator about each job.
    answers: Mutex<HashMap<String, String>>,
    lines: mpsc::Sender<Printed>,
}

impl DemoLog {
    /// Starts the time, and a task that prints.
    pub fn new(clock: &Clock) -> Self {
        let (lines, mut waiting) = mpsc::channel::<Printed>(LINES_MAX);
        tokio::spawn(async move {
            while let Some((text, done)) = waiting.recv().await {
                let printed = print_waiting(text).await;
                // Without a receiver, an error is ignored: the result of the demo is its exit code.
                let _ = done.map(|done| done.send(printed));
            }
        });
        Self { start: clock.stopwatch(), terminal: Terminal::of_stdout(), answers: Mutex::default(), lines }
    }

    /// Prints a text after the lines before it, and waits until it is printed. If stdout is closed, the demo continues.
    pub async fn say(&self, text: impl Display) -> Result<()> {
        let (done, printed) = oneshot::channel();
        let queued = self.lines.send((format!("{text}\n"), Some(done))).await;
        queued.ok().context("the task that prints has ended")?;
        unless_closed(printed.await.context("the task that prints has ended")?)
    }

    /// Returns the time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Prints a line.
    pub fn line(&self, (name, colour): Participant, text: &str) {
        let at = self.terminal.paint(2, &format!("{:5.1}s", self.elapsed().as_secs_f64()));
        let name = self.terminal.paint(colour, &format!("{name:8}"));
        let _ = self.lines.try_send((format!("{at}  {name}  {text}\n"), None));
    }

    /// Prints a line for a webhook.
    pub fn webhook(&self, participant: Participant, arrival: &Arrival) {
        let signature = match &arrival.signature {
            Signature::Verified => "verified".to_owned(),
            Signature::Wrong(why) => format!("signature wrong: {why}"),
            Signature::NoSecret => "signature not checked".to_owned(),
        };
        let body: Value = serde_json::from_slice(&arrival.body).unwrap_or_default();
        let job = body["data"]["jobId"].as_str().unwrap_or("(no job)");
        let (event, attempt) = (&arrival.event, arrival.attempt);
        let retry = if attempt > 1 { format!(" again ({attempt})") } else { String::new() };
        let answered = arrival.answered.as_u16();
        self.line(participant, &format!("{event} of {job}{retry}: {signature} → {answered}"));
    }
}

/// Prints the answers of the simulator about a job, unless the answer is the same as the one before. This is a
/// middleware of its router.
pub async fn log_response(State(log): State<Arc<DemoLog>>, request: Request, next: Next) -> Response {
    let job = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let (parts, body) = next.run(request).await.into_parts();
    let Ok(body) = to_bytes(body, ANSWER_MAX).await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let word = answer["status"].as_str().or(answer["error"]["code"].as_str());
    let word = word.unwrap_or("(neither status nor error)");
    let text = format!("{} {word}", parts.status.as_u16());
    let mut answers = log.answers.lock().unwrap_or_else(PoisonError::into_inner);
    if answers.len() >= JOBS_MAX {
        answers.clear();
    }
    if answers.get(&job) != Some(&text) {
        log.line(MUVI, &format!("{job}: {text}"));
        answers.insert(job, text);
    }
    Response::from_parts(parts, Body::from(body))
}
