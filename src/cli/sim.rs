//! `ringback sim`: a simulated Muvi, to try an integration without spending credits.
//!
//! [`Simulator`] is the service without the command line; tests, the demo and benchmarks use it as well. [`Machine`] is
//! a pure state machine that decides the answers, with time as a parameter. Even the errors that seem random are
//! derived from the job and the number of the poll, so that runs are repeatable. The simulator does nothing that Muvi
//! does not document, such as cancelling.

mod machine;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;

pub use machine::{Answer, Ending, List, Machine, Options};

use super::output::{Failure, print_waiting};
use super::signals::shutdown_signal;
use crate::clock::Clock;
use crate::config::LogFormat;
use crate::domain::Timestamp;
use crate::telemetry;

/// Simulate Muvi's job API on this machine
///
/// A job starts when it is submitted or polled for the first time: it is pending for a fifth of its duration, then
/// processing, then it ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback sim --length 20s --errors 0.1
  curl -H 'Authorization: Bearer any' \\
    http://127.0.0.1:9100/v1/jobs/job_10s_failed_e2

A job id can contain these words between underscores, in any order; flags set the rest:
  10s, 250ms, 2h …              duration of the job
  completed, failed, cancelled  end of the job
  never                         the job never ends
  404                           the job is unknown: 404 JOB_NOT_FOUND
  e2                            the first 2 polls are answered 500
  r1                            the next 1 poll is answered 429, Retry-After: 1
  wrapped                       answers are in {success, data, requestId}

Other words only distinguish jobs: job_10s_completed_a, job_10s_completed_b.

To start a server that polls the simulator:
  RINGBACK_PROVIDERS__MUVI__BASE_URL=http://127.0.0.1:9100 \\
    MUVI_API_KEY=any ringback serve")]
pub struct Sim {
    /// Port on 127.0.0.1; 0 selects a free one
    #[arg(long, default_value_t = 9100)]
    port: u16,
    #[command(flatten)]
    options: Options,
}

impl Sim {
    /// Runs the command until it is stopped.
    pub async fn run(self) -> Result<(), Failure> {
        telemetry::logs::init("info", LogFormat::Text)?;
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port))
            .await
            .with_context(|| format!("port {} is not available; --port 0 selects a free one", self.port))?;
        let url = format!("http://{}", socket.local_addr().context("the port has no address")?);
        // A stdout that is not read delays neither an answer nor the end.
        let announce = async {
            print_waiting(format!(
                "Simulating Muvi on {url}. To poll it, start a server with\n  \
                 RINGBACK_PROVIDERS__MUVI__BASE_URL={url} MUVI_API_KEY=any ringback serve\n"
            ))
            .await?;
            std::future::pending::<anyhow::Result<()>>().await
        };
        let simulator = Simulator::new(Clock::System, self.options);
        tokio::select! {
            // The signal handler is installed before the first output.
            biased;
            asked = shutdown_signal() => asked?,
            announced = announce => announced?,
            served = async { axum::serve(socket, simulator.router()).await } => served.context("the simulator failed")?,
        }
        Ok(())
    }
}

/// The simulated Muvi; clones share their state.
#[derive(Clone, Debug)]
pub struct Simulator {
    clock: Clock,
    machine: Arc<Mutex<Machine>>,
}

impl Simulator {
    /// Returns a simulator without jobs.
    pub fn new(clock: Clock, options: Options) -> Self {
        Self { clock, machine: Arc::new(Mutex::new(Machine::new(options))) }
    }

    /// Returns the router of the API.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/jobs", get(list))
            .route("/v1/jobs/submit", post(submit))
            .route("/v1/jobs/{job_id}", get(poll))
            .with_state(self.clone())
    }

    /// Returns the number of polls of a job, including failed ones.
    pub fn polls(&self, job_id: &str) -> u32 {
        self.machine().polls(job_id)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(
        &self,
        headers: &HeaderMap,
        answer: impl FnOnce(&mut Machine, Timestamp) -> Answer,
    ) -> (Response, String) {
        let (now, mut machine) = (self.clock.now(), self.machine());
        let is_authorised = is_authorised(headers, machine.key());
        let answer = if is_authorised { answer(&mut machine, now) } else { machine.unauthorised() };
        drop(machine);
        let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let retry_after = answer.retry_after.map(|seconds| [(RETRY_AFTER, HeaderValue::from(seconds))]);
        let word = word(&answer.body);
        ((answer.status, json, retry_after, answer.body.to_string()).into_response(), word)
    }
}

/// Returns the word for the state in an answer: the status of the job, or the code of an error.
fn word(body: &Value) -> String {
    let words = ["/status", "/data/status", "/error/code"].map(|pointer| body.pointer(pointer));
    words.into_iter().flatten().find_map(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns whether a request has the `only` key that is accepted; `None` accepts any.
fn is_authorised(headers: &HeaderMap, only: Option<&str>) -> bool {
    let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let key = given.and_then(|value| value.strip_prefix("Bearer ")).filter(|key| !key.is_empty());
    key.is_some_and(|key| only.is_none_or(|only| only == key))
}

async fn poll(
    State(simulator): State<Simulator>,
    Path(job_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let (response, job_status) = simulator.answer(&headers, |machine, now| machine.poll(&job_id, now));
    let (poll, status) = (simulator.polls(&job_id), response.status().as_u16());
    tracing::info!(job = job_id, poll, status, job_status, "poll");
    response
}

async fn list(State(simulator): State<Simulator>, Query(list): Query<List>, headers: HeaderMap) -> Response {
    let (response, error) = simulator.answer(&headers, |machine, now| machine.list(&list, now));
    tracing::info!(status = response.status().as_u16(), error, "list");
    response
}

async fn submit(State(simulator): State<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    let mut job = String::new();
    let (response, job_status) = simulator.answer(&headers, |machine, now| {
        let answer = machine.submit(&body, now);
        answer.body["jobId"].as_str().unwrap_or_default().clone_into(&mut job);
        answer
    });
    tracing::info!(job, status = response.status().as_u16(), job_status, "submit");
    response
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_request_is_logged_with_the_status_of_its_job() {
        let table = [
            (json!({"status": "processing"}), "processing"),
            (json!({"success": true, "data": {"status": "completed"}}), "completed"),
            (json!({"success": false, "error": {"code": "JOB_NOT_FOUND"}}), "JOB_NOT_FOUND"),
            (json!({"jobs": []}), ""),
        ];
        for (body, logged) in table {
            assert_eq!(word(&body), logged, "{body}");
        }
    }

    #[test]
    fn a_key_is_required_and_must_be_the_configured_one() {
        let headers = |value: Option<&'static str>| {
            value
                .map(|value| (AUTHORIZATION, HeaderValue::from_static(value)))
                .into_iter()
                .collect::<HeaderMap>()
        };
        let table = [
            (None, None, false),
            (None, Some("Bearer any"), true),
            (None, Some("Bearer "), false),
            (None, Some("Basic any"), false),
            (Some("pb_1"), Some("Bearer pb_1"), true),
            (Some("pb_1"), Some("Bearer any"), false),
        ];
        for (key, given, taken) in table {
            assert_eq!(is_authorised(&headers(given), key), taken, "{key:?} {given:?}");
        }
    }
}
