//! Running a definition's examples: what a file says an answer means must be what is understood.

use std::fmt;

use serde_json::json;

use super::definition::Definition;
use super::file::{Example, Expect};
use super::interpret::{Answer, Seen};
use crate::domain::{EndingKind, JobError, Observation, Timestamp};

impl Definition {
    /// Runs every example; each that is understood otherwise makes a sentence for people.
    pub fn check_examples(&self) -> Result<(), Vec<String>> {
        let wrong: Vec<String> = (1..)
            .zip(&self.examples)
            .filter_map(|(n, example)| self.run(example).err().map(|why| format!("example {n}: {why}")))
            .collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    fn run(&self, example: &Example) -> Result<(), String> {
        self.check_job_id(&example.job_id).map_err(|why| format!("job_id: {why}"))?;
        let body = example.body.as_bytes();
        let answer = self.interpret(&example.job_id, example.http, body);
        if example.expect.met_by(&answer) {
            return Ok(());
        }
        Err(match (example.expect.seen(), &answer) {
            (Some(expected), Answer::Seen(seen)) => differences(&expected, seen),
            (Some(_) | None, _) => format!("expected {}, but understood {answer}", example.expect),
        })
    }
}

/// What the examples of a definition must show at least, and do not: the words that end a sentence.
pub(super) fn missing(examples: &[Example]) -> Vec<&'static str> {
    let shows = |ending: Option<EndingKind>| {
        examples.iter().any(
            |example| matches!(&example.expect, Expect::Seen { status, .. } if status.ending() == ending),
        )
    };
    let wanted = [
        (None, "still runs"),
        (Some(EndingKind::Completed), "completed"),
        (Some(EndingKind::Failed), "failed"),
    ];
    wanted.into_iter().filter(|(ending, _)| !shows(*ending)).map(|(_, words)| words).collect()
}

/// Each field of a job that is understood otherwise, by the name that it has in the file.
fn differences(expected: &Seen, understood: &Seen) -> String {
    let pairs = fields(expected).into_iter().zip(fields(understood)).filter(|(one, other)| one != other);
    let told = pairs.map(|((name, expected), (_, understood))| {
        format!("{name}: expected {expected}, but understood {understood}")
    });
    told.collect::<Vec<_>>().join("; ")
}

/// What is compared of a job, in words.
fn fields(seen: &Seen) -> [(&'static str, String); 11] {
    let Seen { observation: job, unknown_status, request_id } = seen;
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

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seen(seen) => {
                let fields = fields(seen).map(|(name, value)| format!("{name} {value}"));
                write!(f, "a job: {}", fields.join(", "))
            }
            Self::NotFound { message } => write!(f, "that there is no such job, which says `{message}`"),
            Self::Account { code, message } => {
                write!(f, "that the account is in trouble, with the code `{code}`, which says `{message}`")
            }
            Self::RateLimited { message } => write!(f, "too many requests, which says `{message}`"),
            Self::Trouble { message } => write!(f, "trouble, which says `{message}`"),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, says) = match self {
            Self::Seen { status, raw_status, .. } => {
                return write!(f, "a job with the status {status}, in its words `{raw_status}`");
            }
            Self::NotFound { says } => ("that there is no such job".to_owned(), says),
            Self::Account { code, says } => {
                (format!("that the account is in trouble, with the code `{code}`"), says)
            }
            Self::RateLimited { says } => ("too many requests".to_owned(), says),
            Self::Trouble { says } => ("trouble".to_owned(), says),
        };
        if says.is_empty() { f.write_str(&what) } else { write!(f, "{what}, which says `{says}`") }
    }
}

impl Expect {
    fn met_by(&self, answer: &Answer) -> bool {
        match (self, answer) {
            (Self::Seen { .. }, Answer::Seen(seen)) => self.seen().is_some_and(|expected| expected == **seen),
            (Self::Account { code, says }, Answer::Account { code: told, message }) => {
                code == told && message.contains(says)
            }
            (Self::NotFound { says }, Answer::NotFound { message })
            | (Self::RateLimited { says }, Answer::RateLimited { message })
            | (Self::Trouble { says }, Answer::Trouble { message }) => message.contains(says),
            _ => false,
        }
    }

    fn seen(&self) -> Option<Seen> {
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
        } = self
        else {
            return None;
        };
        let error = (error_code.is_some() || error_message.is_some())
            .then(|| JobError { code: error_code.clone(), message: error_message.clone() });
        let observation = Observation {
            status: *status,
            raw_status: Some(raw_status.clone()),
            progress: *progress,
            output: output.clone(),
            outputs: outputs.clone(),
            error,
            created_at: *created_at,
            completed_at: *completed_at,
        };
        Some(Seen { observation, unknown_status: *unknown_status, request_id: request_id.clone() })
    }
}
