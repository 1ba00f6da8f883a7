//! The examples of a definition: responses whose meaning the file states.

use std::fmt;

use serde_json::json;

use super::definition::{Example, Expect, Meaning, Seen};
use super::extract::Lost;
use super::interpretation::{Answer, Interpretation, JobReport, PollFailure};
use crate::domain::{JobError, Observation, Output, Timestamp};

impl Meaning {
    /// Interprets an example. The error is a sentence: how the meaning differs from what the file states, or what the
    /// meaning is if the file does not state it.
    pub(super) fn check_example(&self, example: &Example) -> Result<(), String> {
        let answer =
            Answer { status: example.http, headers: &example.headers, body: example.body.as_bytes() };
        let params = example.params_json();
        let meaning = self.interpret((&example.job_id, &params), answer);
        let meaning = self.with_results(example, &params, meaning)?;
        let Some(expect) = &example.expect else {
            return Err(format!(
                "`expect` is missing; the answer was understood as: {}",
                meaning.as_expect()
            ));
        };
        let (expected, says) = match expect {
            Expect::Seen(seen) => return compare(seen, &meaning),
            Expect::NotYet if meaning == Interpretation::NotYet => return Ok(()),
            Expect::NotYet => return Err(format!("expected a good answer without news, but got {meaning}")),
            Expect::NotFound { says } => (PollFailure::NotFound, says),
            Expect::RateLimited { says } => (PollFailure::RateLimited, says),
            Expect::Account { code, says } => {
                (PollFailure::Unauthorized { code: code.clone().unwrap_or_default() }, says)
            }
            Expect::Trouble { says } => (PollFailure::Error, says),
        };
        let is_expected = |failure: &PollFailure| match (failure, expect) {
            (PollFailure::Unauthorized { .. }, Expect::Account { code: None, .. }) => true,
            _ => *failure == expected,
        };
        if let Interpretation::Failed { failure, message } = &meaning
            && is_expected(failure)
            && says.as_ref().is_none_or(|says| message.contains(says))
        {
            return Ok(());
        }
        let part = says.as_ref().map(|says| format!(" with `{says}` in the message")).unwrap_or_default();
        Err(format!("expected {expected}{part}, but got {meaning}"))
    }
}

impl Meaning {
    /// Returns the meaning after the follow-up requests of an example. The error says that they and the example do not fit.
    fn with_results(
        &self,
        example: &Example,
        params: &str,
        meaning: Interpretation,
    ) -> Result<Interpretation, String> {
        let mut given = example.results.iter();
        let mut meaning = meaning;
        while let Interpretation::Ok(report) = &meaning
            && let Some(next) = report.results.first()
        {
            let number = next.index + 1;
            let missing = "add it to `results = [{ http = 200, body = '…' }]`";
            let answer = given.next().ok_or_else(|| {
                format!("the answer to the request of [[result]] {number} is missing; {missing}")
            })?;
            let answer =
                Answer { status: answer.http, headers: &answer.headers, body: answer.body.as_bytes() };
            meaning = self.interpret_result((&example.job_id, params), report, answer);
        }
        match given.len() {
            0 => Ok(meaning),
            more => Err(format!("`results` has {more} more answers than results are requested; remove them")),
        }
    }
}

impl Example {
    /// Returns the parameters as canonical JSON.
    fn params_json(&self) -> String {
        serde_json::Value::Object(self.params.clone()).to_string()
    }
}

impl Interpretation {
    /// Returns the meaning as a line of an example.
    pub fn as_expect(&self) -> String {
        let text = |text: &str| json!(text).to_string();
        let (answer, fields) = match self {
            Self::Ok(report) => ("seen", seen_fields(report)),
            Self::NotYet => ("not_yet", Vec::new()),
            Self::Failed { failure: PollFailure::Unauthorized { code }, .. } => {
                ("account", vec![("code", text(code))])
            }
            Self::Failed { failure: PollFailure::RateLimited, message } => {
                ("rate_limited", vec![("says", text(message))])
            }
            Self::Failed { failure: PollFailure::NotFound, message } => {
                ("not_found", vec![("says", text(message))])
            }
            Self::Failed { message, .. } => ("trouble", vec![("says", text(message))]),
        };
        let fields = fields.iter().map(|(name, value)| format!(", {name} = {value}"));
        format!("expect = {{ answer = \"{answer}\"{} }}", fields.collect::<String>())
    }
}

/// Returns the fields of a job that are not null, as keys and values of TOML.
fn seen_fields(report: &JobReport) -> Vec<(&'static str, String)> {
    let JobReport { observation: job, unknown_status, request_id, outputs_expire, .. } = report;
    let text = |text: &String| json!(text).to_string();
    let time = |time: Timestamp| json!(time.to_string()).to_string();
    let error = job.error.as_ref();
    let mut fields = vec![("status", json!(status_word(report)).to_string())];
    let mut add = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    add("raw_status", job.raw_status.as_ref().map(text));
    add("unknown_status", unknown_status.then(|| "true".to_owned()));
    add("progress", job.progress.map(|progress| progress.to_string()));
    add("output", job.output.as_ref().map(text));
    add("outputs", job.outputs.as_ref().map(|outputs| output_tables(outputs)));
    add("error_code", error.and_then(|error| error.code.as_ref()).map(text));
    add("error_message", error.and_then(|error| error.message.as_ref()).map(text));
    add("created_at", job.created_at.map(time));
    add("completed_at", job.completed_at.map(time));
    add("request_id", request_id.as_ref().map(text));
    add("outputs_expire", outputs_expire.map(|expire| json!(expire.to_string()).to_string()));
    fields
}

fn output_tables(outputs: &[Output]) -> String {
    let table = |output: &Output| {
        let fields = [
            ("url", &output.url),
            ("type", &output.kind),
            ("thumbnail", &output.thumbnail),
            ("posterImage", &output.poster_image),
        ];
        let field =
            |(name, value): (&str, &Option<String>)| Some(format!("{name} = {}", json!(value.as_ref()?)));
        format!("{{ {} }}", fields.into_iter().filter_map(field).collect::<Vec<_>>().join(", "))
    };
    format!("[{}]", outputs.iter().map(table).collect::<Vec<_>>().join(", "))
}

/// Returns the status of a job, or the word of an outcome that says more, such as `partial`.
fn status_word(report: &JobReport) -> &'static str {
    let JobReport { observation, outcome, .. } = report;
    if outcome.is_special() { outcome.word() } else { observation.status.as_str() }
}

/// Compares the fields of a job. The error lists those that differ, by their names in the file.
fn compare(expected: &Seen, meaning: &Interpretation) -> Result<(), String> {
    let Interpretation::Ok(report) = meaning else {
        let (status, raw_status) = (expected.outcome.word(), &expected.raw_status);
        let raw = raw_status.as_deref().unwrap_or("none");
        let job = format!("a job with the status {status} and the raw status `{raw}`");
        return Err(format!("expected {job}, but got {meaning}"));
    };
    let mut report = report.clone();
    // A plain status stands for each outcome of the job that has it.
    if report.outcome.is(expected.outcome) {
        report.outcome = expected.outcome;
    }
    let pairs =
        fields(&expected.report()).into_iter().zip(fields(&report)).filter(|(one, other)| one != other);
    let sentences =
        pairs.map(|((name, expected), (_, actual))| format!("{name}: expected {expected}, but got {actual}"));
    let wrong: Vec<String> = sentences.collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// Returns the compared fields of a job, as name and text.
fn fields(report: &JobReport) -> [(&'static str, String); 12] {
    let JobReport { observation: job, unknown_status, request_id, outputs_expire, .. } = report;
    let text = |text: Option<&str>| text.map_or_else(|| "none".to_owned(), |text| format!("`{text}`"));
    let time = |time: Option<Timestamp>| text(time.map(|time| time.to_string()).as_deref());
    let error = job.error.as_ref();
    let outputs = job.outputs.as_ref().map(|outputs| json!(outputs).to_string());
    [
        ("status", status_word(report).to_owned()),
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
        ("outputs_expire", text(outputs_expire.map(|expire| expire.to_string()).as_deref())),
    ]
}

impl fmt::Display for Interpretation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(report) => {
                let fields = fields(report).map(|(name, value)| format!("{name} {value}"));
                write!(f, "a job: {}", fields.join(", "))
            }
            Self::NotYet => f.write_str("a good answer without news"),
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
            status: seen.outcome.status(),
            raw_status: seen.raw_status,
            progress: seen.progress,
            output: seen.output,
            outputs: seen.outputs,
            error: Some(error),
            created_at: seen.created_at,
            completed_at: seen.completed_at,
            outputs_expire_at: None,
        };
        JobReport {
            observation,
            unknown_status: seen.unknown_status,
            request_id: seen.request_id,
            outputs_expire: seen.outputs_expire,
            results: Vec::new(),
            outcome: seen.outcome,
            lost: Lost::default(),
        }
    }
}
