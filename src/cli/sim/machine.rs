//! State machine of the simulated Muvi: `(state, request, now) → answer`, without I/O and without a clock.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::domain::{JobStatus, Timestamp, parse_duration};

/// Maximum number of jobs: that of a benchmark. Each takes about 200 bytes.
const JOBS_MAX: usize = 1_000_000;
/// Maximum length of a job id.
const ID_MAX: usize = 200;
/// Maximum and default size of a page, as documented.
const PAGE_MAX: usize = 100;
const PAGE: usize = 20;
/// The only model.
const MODEL: &str = "simulated";

/// Defaults for jobs whose id contains no duration or end.
#[derive(Clone, Debug)]
pub struct Options {
    /// Duration of a job.
    pub length: Duration,
    /// End of a job.
    pub ending: Ending,
    /// Share of polls that are answered 500.
    pub errors: f64,
    /// The only key that is accepted; `None` for any.
    pub key: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { length: Duration::from_secs(20), ending: Ending::Completed, errors: 0.0, key: None }
    }
}

/// End of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Ending {
    /// With an output.
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

#[derive(Debug)]
struct Job {
    started: Timestamp,
    polls: u32,
    script: Script,
}

/// Behaviour of a job, from its id and the options.
#[derive(Clone, Debug, PartialEq)]
struct Script {
    length: Duration,
    ending: Ending,
    never: bool,
    missing: bool,
    errors: u32,
    limits: u32,
    wrapped: bool,
}

impl Script {
    fn read(job_id: &str, options: &Options) -> Self {
        let mut script = Self {
            length: options.length,
            ending: options.ending,
            never: false,
            missing: false,
            errors: 0,
            limits: 0,
            wrapped: false,
        };
        for part in job_id.split('_') {
            let count = |letter| part.strip_prefix(letter).and_then(|digits| digits.parse::<u16>().ok());
            match part {
                "completed" => script.ending = Ending::Completed,
                "failed" => script.ending = Ending::Failed,
                "cancelled" => script.ending = Ending::Cancelled,
                "never" => script.never = true,
                "404" => script.missing = true,
                "wrapped" => script.wrapped = true,
                part => {
                    if let Ok(length) = parse_duration(part) {
                        script.length = length;
                    } else if let Some(errors) = count('e') {
                        script.errors = u32::from(errors);
                    } else if let Some(limits) = count('r') {
                        script.limits = u32::from(limits);
                    }
                }
            }
        }
        script
    }
}

impl Job {
    /// Returns the status at `now`, and the time of the end if the job has ended.
    fn status(&self, now: Timestamp) -> (JobStatus, Option<Timestamp>) {
        let age = now.since(self.started);
        if age < self.script.length / 5 {
            (JobStatus::Pending, None)
        } else if self.script.never || age < self.script.length {
            (JobStatus::Processing, None)
        } else {
            let status = match self.script.ending {
                Ending::Completed => JobStatus::Completed,
                Ending::Failed => JobStatus::Failed,
                Ending::Cancelled => JobStatus::Cancelled,
            };
            (status, Some(self.started.plus(self.script.length)))
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

    /// Returns the number of polls of a job.
    pub fn polls(&self, job_id: &str) -> u32 {
        self.jobs.get(job_id).map_or(0, |job| job.polls)
    }

    /// Answers `GET /v1/jobs/{jobId}`. A new id starts a job.
    pub fn poll(&mut self, job_id: &str, now: Timestamp) -> Answer {
        let request = self.request();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if job_id.len() > ID_MAX || !job_id.bytes().all(plain) {
            return not_found(request);
        }
        let Some(job) = self.job(job_id, now) else { return full(request) };
        job.polls = job.polls.saturating_add(1);
        let (polls, script) = (job.polls, job.script.clone());
        let view = job.view(job_id, now);
        if script.missing {
            not_found(request)
        } else if polls <= script.errors || must_fail(job_id, polls, self.options.errors) {
            error(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "A simulated failure.", request)
        } else if polls <= script.errors.saturating_add(script.limits) {
            let limited = "Too many requests, as the job id asked.";
            let answer = error(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMIT_EXCEEDED", limited, request);
            Answer { retry_after: Some(1), ..answer }
        } else if script.wrapped {
            ok(json!({"success": true, "data": view, "requestId": request}))
        } else {
            ok(view)
        }
    }

    /// Answers `POST /v1/jobs/submit`. Any model and input is accepted.
    pub fn submit(&mut self, body: &[u8], now: Timestamp) -> Answer {
        let request = self.request();
        if !serde_json::from_slice::<Value>(body).is_ok_and(|body| body.is_object()) {
            let sentence = "The body is not a JSON object.";
            return error(StatusCode::BAD_REQUEST, "INVALID_REQUEST", sentence, request);
        }
        // The id contains no instruction, so that the options decide.
        let job_id = format!("job_sim{:08}", self.order.len());
        let Some(job) = self.job(&job_id, now) else { return full(request) };
        let estimate = job.started.plus(job.script.length);
        ok(json!({
            "jobId": job_id,
            "requestId": request,
            "status": "pending",
            "estimatedCompletionTime": estimate,
            "costMicroCents": 0,
        }))
    }

    /// Answers `GET /v1/jobs`: newest first, without outputs and errors.
    pub fn list(&mut self, list: &List, now: Timestamp) -> Answer {
        let request = self.request();
        let limit = list.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
        let before = list.cursor.unwrap_or(usize::MAX).min(self.order.len());
        let other_model = list.model_id.as_deref().is_some_and(|model| model != MODEL);
        let mut page = Vec::new();
        let mut next = None;
        for (at, job_id) in self.order[..before].iter().enumerate().rev().filter(|_| !other_model) {
            let Some(job) = self.jobs.get(job_id).filter(|job| !job.script.missing) else { continue };
            let (status, completed_at) = job.status(now);
            if list.status.as_deref().is_some_and(|wanted| wanted != status.as_str()) {
                continue;
            }
            if page.len() == limit {
                next = Some((at + 1).to_string());
                break;
            }
            page.push(json!({
                "jobId": job_id, "status": status, "progress": progress(status), "model": MODEL,
                "createdAt": job.started, "completedAt": completed_at,
            }));
        }
        tracing::debug!(request, jobs = page.len(), "listed");
        ok(json!({"jobs": page, "nextCursor": next, "hasMore": next.is_some()}))
    }

    /// Answers a request without an accepted key.
    pub fn unauthorised(&mut self) -> Answer {
        let request = self.request();
        let sentence = "A key is needed: Authorization: Bearer KEY.";
        error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", sentence, request)
    }

    /// Returns the job with this id, which starts now if it is new; `None` if there are too many jobs.
    fn job(&mut self, job_id: &str, now: Timestamp) -> Option<&mut Job> {
        if !self.jobs.contains_key(job_id) {
            if self.jobs.len() >= JOBS_MAX {
                return None;
            }
            let script = Script::read(job_id, &self.options);
            self.order.push(job_id.to_owned());
            self.jobs.insert(job_id.to_owned(), Job { started: now, polls: 0, script });
        }
        self.jobs.get_mut(job_id)
    }

    fn request(&mut self) -> String {
        self.requests += 1;
        format!("req_sim{:08}", self.requests)
    }
}

/// Returns whether this poll is one of the share that fails. It is derived, so that runs are repeatable.
fn must_fail(job_id: &str, poll: u32, share: f64) -> bool {
    let mut hash = Sha256::new();
    hash.update(job_id.as_bytes());
    hash.update(poll.to_be_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    let draw = u32::from_be_bytes([digest[0], digest[1], digest[2], digest[3]]);
    f64::from(draw) < share * (f64::from(u32::MAX) + 1.0)
}

fn ok(body: Value) -> Answer {
    Answer { status: StatusCode::OK, retry_after: None, body }
}

fn not_found(request: String) -> Answer {
    error(StatusCode::NOT_FOUND, "JOB_NOT_FOUND", "There is no job with this id.", request)
}

fn full(request: String) -> Answer {
    let sentence = "The simulator has too many jobs: restart it.";
    error(StatusCode::SERVICE_UNAVAILABLE, "SIMULATOR_FULL", sentence, request)
}

#[expect(clippy::needless_pass_by_value, reason = "a request has one answer")]
fn error(status: StatusCode, code: &str, message: &str, request: String) -> Answer {
    let error = json!({"code": code, "message": message, "details": {}});
    let body = json!({"success": false, "error": error, "requestId": request});
    Answer { status, retry_after: None, body }
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
