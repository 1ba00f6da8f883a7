//! Running a definition's examples: what a file says an answer means must be what is understood.

use super::definition::Definition;
use super::file::{Example, Expect};
use super::understand::{Answer, Seen};
use crate::domain::{EndingKind, JobError, Observation};

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
        let answer = self.understand(&example.job_id, example.http, body);
        if example.expect.met_by(&answer) {
            return Ok(());
        }
        Err(format!("expected {:?}, but understood {answer:?}", example.expect))
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
