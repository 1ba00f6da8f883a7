//! The examples of a definition: responses whose meaning the file states.

use std::fmt;

use serde_json::json;

use super::definition::Definition;
use super::file::{Example, Expect};
use super::interpretation::{Interpretation, JobReport};
use crate::domain::{JobError, Observation, Timestamp};

impl Definition {
    /// Interprets every example. Returns a sentence for each with another meaning than the file states.
    pub fn check_examples(&self) -> Result<(), Vec<String>> {
        let wrong: Vec<String> = (1..)
            .zip(&self.examples)
            .filter_map(|(n, example)| {
                self.check_example(example).err().map(|why| format!("example {n}: {why}"))
            })
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn check_example(&self, example: &Example) -> Result<(), String> {
        self.check_job_id(&example.job_id).map_err(|why| format!("job_id: {why}"))?;
        let meaning = self.interpret(&example.job_id, example.http, example.body.as_bytes());
        if example.expect.is_met_by(&meaning) {
            return Ok(());
        }
        Err(match (example.expect.report(), &meaning) {
            (Some(expected), Interpretation::Ok(report)) => differences(&expected, report),
            _ => format!("expected {}, but got {meaning}", example.expect),
        })
    }
}

/// Lists the fields of a job that differ, by their names in the file.
fn differences(expected: &JobReport, actual: &JobReport) -> String {
    let pairs = fields(expected).into_iter().zip(fields(actual)).filter(|(one, other)| one != other);
    let sentences =
        pairs.map(|((name, expected), (_, actual))| format!("{name}: expected {expected}, but got {actual}"));
    sentences.collect::<Vec<_>>().join("; ")
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
            Self::Error { message } => write!(f, "an error with the message `{message}`"),
            Self::Unauthorized { code, message } => {
                write!(f, "an account error with the code `{code}` and the message `{message}`")
            }
            Self::RateLimited { message } => write!(f, "\"too many requests\" with the message `{message}`"),
            Self::NotFound { message } => write!(f, "\"no such job\" with the message `{message}`"),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, says) = match self {
            Self::Seen { status, raw_status, .. } => {
                return write!(f, "a job with the status {status} and the raw status `{raw_status}`");
            }
            Self::Trouble { says } => ("an error".to_owned(), says),
            Self::Account { code, says } => (format!("an account error with the code `{code}`"), says),
            Self::RateLimited { says } => ("\"too many requests\"".to_owned(), says),
            Self::NotFound { says } => ("\"no such job\"".to_owned(), says),
        };
        if says.is_empty() { f.write_str(&what) } else { write!(f, "{what} with `{says}` in the message") }
    }
}

impl Expect {
    fn is_met_by(&self, meaning: &Interpretation) -> bool {
        match (self, meaning) {
            (Self::Seen { .. }, Interpretation::Ok(report)) => self.report().as_ref() == Some(report),
            (Self::Account { code, says }, Interpretation::Unauthorized { code: actual, message }) => {
                code == actual && message.contains(says)
            }
            (Self::NotFound { says }, Interpretation::NotFound { message })
            | (Self::RateLimited { says }, Interpretation::RateLimited { message })
            | (Self::Trouble { says }, Interpretation::Error { message }) => message.contains(says),
            _ => false,
        }
    }

    /// Returns the expected report; `None` where another meaning is expected.
    fn report(&self) -> Option<Box<JobReport>> {
        let Self::Seen {
            status,
            raw_status,
            unknown_status,
            progress,
            output,
            outputs,
            error_code,
            error_message,
            created_at,
            completed_at,
            request_id,
        } = self.clone()
        else {
            return None;
        };
        let error = (error_code.is_some() || error_message.is_some())
            .then_some(JobError { code: error_code, message: error_message });
        let raw_status = Some(raw_status);
        let observation =
            Observation { status, raw_status, progress, output, outputs, error, created_at, completed_at };
        Some(Box::new(JobReport { observation, unknown_status, request_id }))
    }
}
