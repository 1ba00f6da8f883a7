//! The examples of a definition: responses whose meaning the file states.

use std::fmt;

use serde_json::json;

use super::definition::{Definition, Example, Expect, Seen};
use super::interpretation::{Interpretation, JobReport, PollFailure};
use crate::domain::{JobError, Observation, Timestamp};

impl Definition {
    /// Interprets every example. Returns a sentence for each with another meaning than the file states.
    pub fn check_examples(&self) -> Result<(), Vec<String>> {
        let check = |(n, example): (usize, _)| {
            self.check_example(example).err().map(|why| format!("example {n}: {why}"))
        };
        let wrong: Vec<String> = (1..).zip(&self.examples).filter_map(check).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn check_example(&self, example: &Example) -> Result<(), String> {
        self.check_job_id(&example.job_id).map_err(|why| format!("job_id: {why}"))?;
        let status = example.http.unwrap_or(200);
        let meaning = self.interpret(&example.job_id, status, example.body.as_bytes());
        let (expected, says) = match &example.expect {
            Expect::Seen(seen) => return compare(seen, &meaning),
            Expect::NotFound { says } => (PollFailure::NotFound, says),
            Expect::RateLimited { says } => (PollFailure::RateLimited, says),
            Expect::Account { code, says } => (PollFailure::Unauthorized { code: code.clone() }, says),
            Expect::Trouble { says } => (PollFailure::Error, says),
        };
        if let Interpretation::Failed { failure, message } = &meaning
            && *failure == expected
            && says.as_ref().is_none_or(|says| message.contains(says))
        {
            return Ok(());
        }
        let part = says.as_ref().map(|says| format!(" with `{says}` in the message")).unwrap_or_default();
        Err(format!("expected {expected}{part}, but got {meaning}"))
    }
}

/// Compares the fields of a job. The error lists those that differ, by their names in the file.
fn compare(expected: &Seen, meaning: &Interpretation) -> Result<(), String> {
    let Interpretation::Ok(report) = meaning else {
        let Seen { status, raw_status, .. } = expected;
        let job = format!("a job with the status {status} and the raw status `{raw_status}`");
        return Err(format!("expected {job}, but got {meaning}"));
    };
    let pairs =
        fields(&expected.report()).into_iter().zip(fields(report)).filter(|(one, other)| one != other);
    let sentences =
        pairs.map(|((name, expected), (_, actual))| format!("{name}: expected {expected}, but got {actual}"));
    let wrong: Vec<String> = sentences.collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Returns the compared fields of a job, as name and text.
fn fields(report: &JobReport) -> [(&'static str, String); 11] {
    let JobReport { observation: job, unknown_status, request_id } = report;
    let text = |text: Option<&str>| text.map_or_else(|| "none".to_owned(), |text| format!("`{text}`"));
    let time = |time: Option<Timestamp>| text(time.map(|time| time.to_string()).as_deref());
    let error = job.error.as_ref();
    let outputs = job.outputs.as_ref().map(|outputs| json!(outputs).to_string());
    [
        ("status", job.status.to_string()),
        ("raw_status", text(job.raw_status.as_deref())),
        ("unknown_status", unknown_status.to_string()),
        ("progress", job.progress.map_or_else(|| "none".to_owned(), |progress| progress.to_string())),
        ("output", text(job.output.as_deref())),
        ("outputs", outputs.unwrap_or_else(|| "none".to_owned())),
        ("error_code", text(error.and_then(|error| error.code.as_deref()))),
        ("error_message", text(error.and_then(|error| error.message.as_deref()))),
        ("created_at", time(job.created_at)),
        ("completed_at", time(job.completed_at)),
        ("request_id", text(request_id.as_deref())),
    ]
}

impl fmt::Display for Interpretation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(report) => {
                let fields = fields(report).map(|(name, value)| format!("{name} {value}"));
                write!(f, "a job: {}", fields.join(", "))
            }
            Self::Failed { failure, message } => {
                let joint = if matches!(failure, PollFailure::Unauthorized { .. }) { "and" } else { "with" };
                write!(f, "{failure} {joint} the message `{message}`")
            }
        }
    }
}

impl Seen {
    fn report(&self) -> JobReport {
        let seen = self.clone();
        let error = JobError { code: seen.error_code, message: seen.error_message };
        let observation = Observation {
            status: seen.status,
            raw_status: Some(seen.raw_status),
            progress: seen.progress,
            output: seen.output,
            outputs: seen.outputs,
            error: Some(error),
            created_at: seen.created_at,
            completed_at: seen.completed_at,
        };
        JobReport { observation, unknown_status: seen.unknown_status, request_id: seen.request_id }
    }
}
