//! State machine of the simulated Muvi: `(state, request, now) → answer`, without I/O and without a clock.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use clap::ValueEnum as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::domain::{JobStatus, Timestamp, hash, parse_duration};

/// Maximum number of jobs: that of a benchmark. Each takes about 200 bytes.
const JOBS_MAX: usize = 1_000_000;
/// Maximum length of a job id.
const ID_MAX: usize = 200;
/// Maximum and default size of a page, as documented.
const PAGE_MAX: usize = 100;
const PAGE: usize = 20;
/// The only model.
const MODEL: &str = "simulated";

/// Error of the API: status, code and message.
type Problem = (StatusCode, &'static str, &'static str);

const NOT_A_SUBMISSION: Problem =
    (StatusCode::BAD_REQUEST, "INVALID_REQUEST", "The body is not a JSON object.");
const UNAUTHORISED: Problem =
    (StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "A key is needed: Authorization: Bearer KEY.");
const NOT_FOUND: Problem = (StatusCode::NOT_FOUND, "JOB_NOT_FOUND", "There is no job with this id.");
const LIMITED: Problem =
    (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED", "Too many requests, as the job id asked.");
const FAILURE: Problem = (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "A simulated failure.");
const FULL: Problem =
    (StatusCode::SERVICE_UNAVAILABLE, "SIMULATOR_FULL", "The simulator has too many jobs: restart it.");

/// Options of the simulator. The duration and the end are for jobs whose id contains none.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Duration of a job, unless its id contains one
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = parse_duration)]
    pub length: Duration,
    /// End of a job, unless its id contains one
    #[arg(long, value_enum, default_value_t = Ending::Completed)]
    pub ending: Ending,
    /// Share of polls that are answered 500, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    pub errors: f64,
    /// The only key that is accepted [default: any]
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
}

fn share(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "a share is a number from 0 to 1, such as 0.1".to_owned())
}

impl Default for Options {
    fn default() -> Self {
        Self { length: Duration::from_secs(20), ending: Ending::Completed, errors: 0.0, key: None }
    }
}

/// End of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Ending {
    /// With an output.
    #[default]
    Completed,
    /// With an error.
    Failed,
    /// With neither.
    Cancelled,
}

/// Answer of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u32>,
    /// Body.
    pub body: Value,
}

/// Query of a list.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct List {
    status: Option<String>,
    model_id: Option<String>,
    limit: Option<usize>,
    cursor: Option<usize>,
}

/// The known jobs.
#[derive(Debug)]
pub struct Machine {
    options: Options,
    jobs: HashMap<String, Job>,
    /// In the order of their creation.
    order: Vec<String>,
    requests: u64,
}

/// A job; its id and the options decide its behaviour.
#[derive(Debug, Default)]
struct Job {
    started: Timestamp,
    polls: u32,
    length: Duration,
    ending: Ending,
    never: bool,
    missing: bool,
    errors: u32,
    limits: u32,
    wrapped: bool,
}

impl Job {
    /// Returns a job that starts at `now`.
    fn start(job_id: &str, options: &Options, now: Timestamp) -> Self {
        let Options { length, ending, .. } = *options;
        let mut job = Self { started: now, length, ending, ..Self::default() };
        for part in job_id.split('_') {
            let count = |letter| part.strip_prefix(letter)?.parse::<u16>().ok().map(u32::from);
            match part {
                "never" => job.never = true,
                "404" => job.missing = true,
                "wrapped" => job.wrapped = true,
                part => {
                    if let Ok(ending) = Ending::from_str(part, false) {
                        job.ending = ending;
                    } else if let Ok(length) = parse_duration(part) {
                        job.length = length;
                    } else if let Some(errors) = count('e') {
                        job.errors = errors;
                    } else if let Some(limits) = count('r') {
                        job.limits = limits;
                    }
                }
            }
        }
        job
    }

    /// Returns the status at `now`, and the time of the end if the job has ended.
    fn status(&self, now: Timestamp) -> (JobStatus, Option<Timestamp>) {
        let age = now.since(self.started);
        if age < self.length / 5 {
            (JobStatus::Pending, None)
        } else if self.never || age < self.length {
            (JobStatus::Processing, None)
        } else {
            let status = match self.ending {
                Ending::Completed => JobStatus::Completed,
                Ending::Failed => JobStatus::Failed,
                Ending::Cancelled => JobStatus::Cancelled,
            };
            (status, Some(self.started.plus(self.length)))
        }
    }

    fn view(&self, job_id: &str, now: Timestamp) -> Value {
        let (status, completed_at) = self.status(now);
        let place = format!("https://cdn.muvi.example/outputs/{job_id}");
        let made = (status == JobStatus::Completed).then(|| format!("{place}/output_0.mp4"));
        let outputs = made.as_ref().map(|url| {
            let (thumbnail, poster) = (format!("{place}/thumb_0.jpg"), format!("{place}/poster_0.jpg"));
            json!([{"url": url, "type": "video", "thumbnail": thumbnail, "posterImage": poster}])
        });
        let error = (status == JobStatus::Failed)
            .then(|| json!({"code": "GENERATION_FAILED", "message": "The job id asked for a failure."}));
        json!({
            "jobId": job_id,
            "status": status,
            "progress": progress(status),
            "output": made,
            "outputs": outputs,
            "error": error,
            "createdAt": self.started,
            "completedAt": completed_at,
        })
    }
}

/// Returns the progress of Muvi, which has three values; it is 0 for a job that did not complete.
fn progress(status: JobStatus) -> u8 {
    match status {
        JobStatus::Completed => 100,
        JobStatus::Processing => 50,
        JobStatus::Unknown | JobStatus::Pending | JobStatus::Failed | JobStatus::Cancelled => 0,
    }
}

impl Machine {
    /// Returns a machine without jobs.
    pub fn new(options: Options) -> Self {
        Self { options, jobs: HashMap::new(), order: Vec::new(), requests: 0 }
    }

    /// Returns the only key that is accepted; `None` for any.
    pub fn key(&self) -> Option<&str> {
        self.options.key.as_deref()
    }

    /// Returns the number of polls of a job.
    pub fn polls(&self, job_id: &str) -> u32 {
        self.jobs.get(job_id).map_or(0, |job| job.polls)
    }

    /// Answers `GET /v1/jobs/{jobId}`. A new id starts a job.
    pub fn poll(&mut self, job_id: &str, now: Timestamp) -> Answer {
        let share = self.options.errors;
        self.answer(|machine, request| {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
            if job_id.len() > ID_MAX || !job_id.bytes().all(plain) {
                return Err(NOT_FOUND);
            }
            let job = machine.job(job_id, now)?;
            job.polls = job.polls.saturating_add(1);
            if job.missing {
                Err(NOT_FOUND)
            } else if job.polls <= job.errors || must_fail(job_id, job.polls, share) {
                Err(FAILURE)
            } else if job.polls <= job.errors.saturating_add(job.limits) {
                Err(LIMITED)
            } else if job.wrapped {
                Ok(json!({"success": true, "data": job.view(job_id, now), "requestId": request}))
            } else {
                Ok(job.view(job_id, now))
            }
        })
    }

    /// Answers `POST /v1/jobs/submit`. Any model and input is accepted.
    pub fn submit(&mut self, body: &[u8], now: Timestamp) -> Answer {
        self.answer(|machine, request| {
            if !serde_json::from_slice::<Value>(body).is_ok_and(|body| body.is_object()) {
                return Err(NOT_A_SUBMISSION);
            }
            // The id contains no instruction, so that the options decide.
            let job_id = format!("job_sim{:08}", machine.order.len());
            let job = machine.job(&job_id, now)?;
            let estimate = job.started.plus(job.length);
            Ok(json!({
                "jobId": job_id,
                "requestId": request,
                "status": "pending",
                "estimatedCompletionTime": estimate,
                "costMicroCents": 0,
            }))
        })
    }

    /// Answers `GET /v1/jobs`: newest first, without outputs and errors.
    pub fn list(&mut self, list: &List, now: Timestamp) -> Answer {
        self.answer(|machine, request| {
            let (jobs, next) = machine.page(list, now);
            tracing::debug!(request, jobs = jobs.len(), "listed");
            Ok(json!({"jobs": jobs, "nextCursor": next, "hasMore": next.is_some()}))
        })
    }

    /// Returns a page, and the cursor of the next one.
    fn page(&self, list: &List, now: Timestamp) -> (Vec<Value>, Option<String>) {
        let limit = list.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
        let before = list.cursor.unwrap_or(usize::MAX).min(self.order.len());
        let other_model = list.model_id.as_deref().is_some_and(|model| model != MODEL);
        let mut page = Vec::new();
        for (at, job_id) in self.order[..before].iter().enumerate().rev().filter(|_| !other_model) {
            let Some(job) = self.jobs.get(job_id).filter(|job| !job.missing) else { continue };
            let (status, completed_at) = job.status(now);
            if list.status.as_deref().is_some_and(|wanted| wanted != status.as_str()) {
                continue;
            }
            if page.len() == limit {
                return (page, Some((at + 1).to_string()));
            }
            page.push(json!({
                "jobId": job_id, "status": status, "progress": progress(status), "model": MODEL,
                "createdAt": job.started, "completedAt": completed_at,
            }));
        }
        (page, None)
    }

    /// Answers a request without an accepted key.
    pub fn unauthorised(&mut self) -> Answer {
        self.answer(|_, _| Err(UNAUTHORISED))
    }

    /// Returns the job with this id, which starts now if it is new.
    fn job(&mut self, job_id: &str, now: Timestamp) -> Result<&mut Job, Problem> {
        if !self.jobs.contains_key(job_id) {
            if self.jobs.len() >= JOBS_MAX {
                return Err(FULL);
            }
            self.order.push(job_id.to_owned());
            self.jobs.insert(job_id.to_owned(), Job::start(job_id, &self.options, now));
        }
        self.jobs.get_mut(job_id).ok_or(NOT_FOUND)
    }

    /// Answers a request, whose id `decide` can use.
    fn answer(&mut self, decide: impl FnOnce(&mut Self, &str) -> Result<Value, Problem>) -> Answer {
        self.requests += 1;
        let request = format!("req_sim{:08}", self.requests);
        let (status, body) = decide(self, &request).map_or_else(
            |(status, code, message)| {
                let error = json!({"code": code, "message": message, "details": {}});
                (status, json!({"success": false, "error": error, "requestId": request}))
            },
            |body| (StatusCode::OK, body),
        );
        let retry_after = (status == StatusCode::TOO_MANY_REQUESTS).then_some(1);
        Answer { status, retry_after, body }
    }
}

/// Returns whether this poll is one of the share that fails. It is derived, so that runs are repeatable.
fn must_fail(job_id: &str, poll: u32, share: f64) -> bool {
    let draw = u32::from_be_bytes(hash(&[job_id.as_bytes(), &poll.to_be_bytes()]));
    f64::from(draw) < share * (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_millis(1_771_426_800_000);

    fn machine() -> Machine {
        Machine::new(Options::default())
    }

    fn seconds(seconds: u64) -> Timestamp {
        START.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn the_id_decides_the_duration_and_the_end_of_a_job() {
        let table = [
            ("job_10s_completed", 0, "pending", 0),
            ("job_10s_completed", 1, "pending", 0),
            ("job_10s_completed", 2, "processing", 50),
            ("job_10s_completed", 9, "processing", 50),
            ("job_10s_completed", 10, "completed", 100),
            ("job_10s_completed", 999, "completed", 100),
            ("job_failed_5s", 4, "processing", 50),
            ("job_failed_5s", 5, "failed", 0),
            ("job_3s_cancelled_x", 3, "cancelled", 0),
            ("job_never", 1_000_000, "processing", 50),
            ("job_abc123def456", 19, "processing", 50),
            ("job_abc123def456", 20, "completed", 100),
        ];
        for (job_id, at, status, progress) in table {
            let mut machine = machine();
            machine.poll(job_id, START);
            let answer = machine.poll(job_id, seconds(at));
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(
                (&answer.body["status"], &answer.body["progress"]),
                (&json!(status), &json!(progress)),
                "{job_id} {at}"
            );
        }
    }

    #[test]
    fn answers_have_the_form_of_muvi() {
        let mut machine = machine();
        let mut poll = |job_id: &str| {
            machine.poll(job_id, START);
            machine.poll(job_id, seconds(3)).body
        };
        assert_eq!(
            poll("job_3s_completed"),
            json!({
                "jobId": "job_3s_completed", "status": "completed", "progress": 100,
                "output": "https://cdn.muvi.example/outputs/job_3s_completed/output_0.mp4",
                "outputs": [{
                    "url": "https://cdn.muvi.example/outputs/job_3s_completed/output_0.mp4", "type": "video",
                    "thumbnail": "https://cdn.muvi.example/outputs/job_3s_completed/thumb_0.jpg",
                    "posterImage": "https://cdn.muvi.example/outputs/job_3s_completed/poster_0.jpg",
                }],
                "error": null, "createdAt": "2026-02-18T15:00:00.000Z", "completedAt": "2026-02-18T15:00:03.000Z",
            })
        );
        let failed = poll("job_3s_failed");
        assert_eq!(
            (&failed["error"]["code"], &failed["output"]),
            (&json!("GENERATION_FAILED"), &Value::Null)
        );
        let wrapped = poll("job_wrapped");
        assert_eq!((&wrapped["success"], &wrapped["data"]["jobId"]), (&json!(true), &json!("job_wrapped")));
        let missing = poll("job_404");
        assert_eq!(
            (&missing["success"], &missing["error"]["code"]),
            (&json!(false), &json!("JOB_NOT_FOUND"))
        );
        assert_eq!(machine.poll("job/../x", START).status, StatusCode::NOT_FOUND);
        assert_eq!(machine.unauthorised().body["error"]["code"], "UNAUTHORIZED");
    }

    #[test]
    fn errors_precede_limits_and_all_polls_are_counted() {
        let mut machine = machine();
        let polls = [1, 2, 3, 4, 5].map(|_| {
            let answer = machine.poll("job_e2_r1", START);
            (answer.status.as_u16(), answer.retry_after)
        });
        assert_eq!(polls, [(500, None), (500, None), (429, Some(1)), (200, None), (200, None)]);
        assert_eq!((machine.polls("job_e2_r1"), machine.polls("job_other")), (5, 0));
    }

    #[test]
    fn the_share_of_errors_is_exact_and_repeatable() {
        let failures = |errors: f64| {
            let mut machine = Machine::new(Options { errors, ..Options::default() });
            (0..1_000).filter(|_| machine.poll("job_x", START).status != StatusCode::OK).count()
        };
        assert_eq!((failures(0.0), failures(1.0)), (0, 1_000));
        assert!((70..130).contains(&failures(0.1)));
        assert_eq!(failures(0.1), failures(0.1));
    }

    #[test]
    fn a_submitted_job_uses_the_options_and_is_listed() {
        let mut machine = machine();
        assert_eq!(machine.submit(b"[]", START).status, StatusCode::BAD_REQUEST);
        let answer = machine.submit(br#"{"modelId":"any","input":{}}"#, START);
        assert_eq!(answer.body["estimatedCompletionTime"], json!(seconds(20)));
        let job_id = answer.body["jobId"].as_str().unwrap_or_default().to_owned();
        machine.poll("job_404", START);
        machine.poll("job_never", START);
        let done = List { status: Some("completed".into()), ..List::default() };
        let listed = machine.list(&done, seconds(20)).body;
        assert_eq!((&listed["jobs"][0]["jobId"], &listed["hasMore"]), (&json!(job_id), &json!(false)));
        let first = machine.list(&List { limit: Some(1), ..List::default() }, seconds(20)).body;
        assert_eq!((&first["jobs"][0]["jobId"], &first["hasMore"]), (&json!("job_never"), &json!(true)));
        let cursor = first["nextCursor"].as_str().and_then(|cursor| cursor.parse().ok());
        let second = machine.list(&List { cursor, ..List::default() }, seconds(20)).body;
        assert_eq!((&second["jobs"][0]["jobId"], &second["hasMore"]), (&json!(job_id), &json!(false)));
        assert_eq!(second["jobs"].as_array().map(Vec::len), Some(1));
    }
}
