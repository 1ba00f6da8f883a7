//! How the story is told: a line for each thing that happens, with its time and whom it happens to.

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
use crate::cli::say;
use crate::clock::{Clock, Stopwatch};
use crate::config::Environment;

/// The simulator's answers are far smaller.
const ANSWER_MAX: usize = 64 * 1024;
/// Jobs whose last answer is remembered; then every answer is news again.
const JOBS_MAX: usize = 10_000;

/// Who did it.
#[derive(Clone, Copy, Debug)]
pub enum Who {
    /// The simulated provider.
    Muvi,
    /// Ringback.
    Server,
    /// Whoever registers.
    Client,
    /// The receiver that takes everything.
    Receiver,
    /// The one that does not.
    Flaky,
}

impl Who {
    fn name(self) -> &'static str {
        match self {
            Self::Muvi => "muvi",
            Self::Server => "ringback",
            Self::Client => "client",
            Self::Receiver => "receiver",
            Self::Flaky => "flaky",
        }
    }

    /// The number of a terminal's colour.
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

/// Where the story is told; clones are the same one.
#[derive(Clone, Debug)]
pub struct Screen {
    start: Arc<Stopwatch>,
    colours: bool,
}

impl Screen {
    /// Time begins now. Colours are for terminals whose owner does not object.
    pub fn new(clock: &Clock, environment: &Environment) -> Self {
        let colours = std::io::stdout().is_terminal() && environment.get("NO_COLOR").is_none();
        Self { start: Arc::new(clock.stopwatch()), colours }
    }

    /// The time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// One line.
    pub fn tell(&self, who: Who, what: &str) {
        let (at, name) = (self.elapsed().as_secs_f64(), who.name());
        // Where nobody reads on, the story still takes its course: its end is the exit code.
        let _ = if self.colours {
            let colour = who.colour();
            say(format_args!("\x1b[2m{at:5.1}s\x1b[0m  \x1b[{colour}m{name:8}\x1b[0m  {what}"))
        } else {
            say(format_args!("{at:5.1}s  {name:8}  {what}"))
        };
    }

    /// A webhook's line.
    pub fn arrived(&self, who: Who, arrival: &Arrival) {
        let signature = match &arrival.signature {
            Signature::Verified => "signature verified".to_owned(),
            Signature::Wrong(why) => format!("signature wrong: {why}"),
            Signature::NoSecret => "signature not checked".to_owned(),
        };
        let body: Value = serde_json::from_slice(&arrival.body).unwrap_or_default();
        let job = body["data"]["jobId"].as_str().unwrap_or("(no job)");
        let (event, id, attempt) = (&arrival.event, &arrival.id, arrival.attempt);
        let answered = arrival.answered.as_u16();
        self.tell(
            who,
            &format!("gets {event} of {job} ({id}, try {attempt}), {signature}, answers {answered}"),
        );
    }
}

/// Tells what the simulator says about a job, where it is not what it said before.
pub fn overhear(router: Router, screen: Screen) -> Router {
    let ear = Ear { screen, said: Arc::default() };
    router.layer(from_fn_with_state(ear, listen))
}

#[derive(Clone)]
struct Ear {
    screen: Screen,
    said: Arc<Mutex<HashMap<String, String>>>,
}

async fn listen(State(ear): State<Ear>, request: Request, next: Next) -> Response {
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
    ear.hear(job, format!("{} {word}", parts.status.as_u16()));
    Response::from_parts(parts, Body::from(body))
}

impl Ear {
    fn hear(&self, job: String, what: String) {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() >= JOBS_MAX {
            said.clear();
        }
        if said.get(&job) != Some(&what) {
            self.screen.tell(Who::Muvi, &format!("says of {job}: {what}"));
            said.insert(job, what);
        }
    }
}
