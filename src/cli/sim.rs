//! `ringback sim`: a simulated Muvi, so that an integration can be tried without spending credits.
//!
//! [`Simulator`] is the service without the command line; tests, the demo and benches use it too.
//! What it answers is decided by [`Machine`], a pure state machine to which time is a parameter; even
//! the random-looking errors are derived from (job, look), so that a run can be run again. What it
//! deliberately does not do: anything that Muvi does not document, such as cancelling.

mod machine;

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::net::TcpListener;

pub use machine::{Answer, Ending, List, Machine, Options};

use super::{Failure, say, stopped};
use crate::clock::Clock;
use crate::config::LogFormat;
use crate::domain::parse_duration;
use crate::telemetry;

/// Simulate Muvi's job API on this machine
///
/// A job begins when it is submitted or first asked for: pending for a fifth of its length, then
/// processing, then its ending.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback sim --length 20s --errors 0.1
  curl -H 'Authorization: Bearer any' http://127.0.0.1:9100/v1/jobs/job_10s_failed_e2

What a job id can say, between underscores and in any order; what it leaves out, the flags say:
  10s, 250ms, 2h …               the job's length
  completed, failed, cancelled   how it ends
  never                          it never ends
  404                            it is unknown: 404 JOB_NOT_FOUND
  e2                             the first 2 looks are answered 500 INTERNAL_ERROR
  r1                             the next 1 look is answered 429 with Retry-After: 1
  wrapped                        answers come in an envelope {success, data, requestId}
Everything else in it only makes it another job: job_10s_completed_a, job_10s_completed_b.

A server that looks here instead of at Muvi:
  RINGBACK_PROVIDERS__MUVI__BASE_URL=http://127.0.0.1:9100 MUVI_API_KEY=any ringback serve")]
pub struct Sim {
    /// The port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 9100)]
    port: u16,
    /// How long a job takes, where its id does not say
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    length: Duration,
    /// How a job ends, where its id does not say
    #[arg(long, value_enum, default_value_t = Ending::Completed)]
    ending: Ending,
    /// The share of looks that is answered 500, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    errors: f64,
    /// The only key that is taken [default: any]
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "a share is a number from 0 to 1, as 0.1".to_owned())
}

impl Sim {
    /// Runs the command until it is stopped.
    pub async fn run(self) -> Result<(), Failure> {
        telemetry::logs::init("info", LogFormat::Text)?;
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)).await.with_context(|| {
            format!("port {} cannot be listened on; --port 0 takes a free one", self.port)
        })?;
        let url = format!("http://{}", socket.local_addr().context("the port has no address")?);
        say(format_args!("Simulating Muvi on {url}"))?;
        say(format_args!(
            "A server looks here with RINGBACK_PROVIDERS__MUVI__BASE_URL={url} MUVI_API_KEY=any"
        ))?;
        let options =
            Options { length: self.length, ending: self.ending, errors: self.errors, key: self.key };
        let simulator = Simulator::new(Clock::System, options);
        tokio::select! {
            served = async { axum::serve(socket, simulator.router()).await } => served.context("the simulator broke down")?,
            asked = stopped() => asked?,
        }
        Ok(())
    }
}

/// The simulated Muvi; clones are the same one.
#[derive(Clone, Debug)]
pub struct Simulator {
    clock: Clock,
    key: Option<Arc<str>>,
    machine: Arc<Mutex<Machine>>,
}

impl Simulator {
    /// A Muvi that has no jobs yet.
    pub fn new(clock: Clock, options: Options) -> Self {
        let key = options.key.as_deref().map(Arc::from);
        Self { clock, key, machine: Arc::new(Mutex::new(Machine::new(options))) }
    }

    /// Its API.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/v1/jobs", get(list))
            .route("/v1/jobs/submit", post(submit))
            .route("/v1/jobs/{job_id}", get(look))
            .with_state(self.clone())
    }

    /// How often this job was asked for, failed looks included.
    pub fn polls(&self, job_id: &str) -> u32 {
        self.machine().looks(job_id)
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Any Bearer will do, unless one was named.
    fn authorised(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = given.and_then(|value| value.strip_prefix("Bearer ")).filter(|key| !key.is_empty());
        key.is_some_and(|key| self.key.as_deref().is_none_or(|only| only == key))
    }

    fn answer(&self, headers: &HeaderMap, answer: impl FnOnce(&mut Machine) -> Answer) -> Response {
        let mut machine = self.machine();
        let answer = if self.authorised(headers) { answer(&mut machine) } else { machine.unauthorised() };
        drop(machine);
        let json = (CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut response = (answer.status, [json], answer.body.to_string()).into_response();
        if let Some(seconds) = answer.retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

async fn look(
    State(simulator): State<Simulator>,
    Path(job_id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let now = simulator.clock.now();
    let response = simulator.answer(&headers, |machine| machine.look(&job_id, now));
    tracing::info!(
        job = job_id,
        look = simulator.polls(&job_id),
        status = response.status().as_u16(),
        "look"
    );
    response
}

async fn list(State(simulator): State<Simulator>, Query(list): Query<List>, headers: HeaderMap) -> Response {
    let now = simulator.clock.now();
    simulator.answer(&headers, |machine| machine.list(&list, now))
}

async fn submit(State(simulator): State<Simulator>, headers: HeaderMap, body: Bytes) -> Response {
    let now = simulator.clock.now();
    let response = simulator.answer(&headers, |machine| machine.submit(&body, now));
    tracing::info!(status = response.status().as_u16(), "submit");
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bearer_is_needed_and_where_one_is_named_it_is_that_one() {
        let simulator = |key: Option<&str>| {
            let options = Options { key: key.map(str::to_owned), ..Options::default() };
            Simulator::new(Clock::System, options)
        };
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
            assert_eq!(simulator(key).authorised(&headers(given)), taken, "{key:?} {given:?}");
        }
    }
}
