//! Comparison of the received webhooks with the expected ones.

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::cli::listen::{Arrival, Signature};
use crate::cli::terminal::{Column, Terminal};

/// A job of the demo and the expected end of its watch.
#[derive(Debug)]
pub struct DemoJob {
    /// Id, from which the simulator reads the duration and the end.
    pub id: &'static str,
    /// Type of the expected event.
    pub ending: &'static str,
    /// Whether the webhook goes to the flaky receiver.
    pub flaky: bool,
    /// Maximum duration of the watch; `None` for that of the provider.
    pub expires: Option<&'static str>,
}

/// The watches of the jobs and their webhooks.
#[derive(Debug)]
pub struct Expectations {
    jobs: usize,
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    job: &'static DemoJob,
    watch: String,
    /// Header `webhook-id` of the first attempt; later attempts must have the same.
    webhook: Option<String>,
    attempts: u32,
    accepted: bool,
}

impl Expectations {
    /// Returns the expectations before any registration.
    pub fn new(jobs: &'static [DemoJob]) -> Self {
        Self { jobs: jobs.len(), entries: Vec::with_capacity(jobs.len()) }
    }

    /// Records the watch of a job.
    pub fn registered(&mut self, job: &'static DemoJob, watch: String) {
        self.entries.push(Entry { job, watch, webhook: None, attempts: 0, accepted: false });
    }

    /// Records a webhook. Returns an error if it is not an expected one.
    pub fn arrived(&mut self, arrival: &Arrival) -> Result<()> {
        match &arrival.signature {
            Signature::Verified => {}
            Signature::Wrong(why) => bail!("the signature of {} is not valid: {why}", arrival.id),
            Signature::NoSecret => bail!("the signature of {} was not checked", arrival.id),
        }
        let body: Value = serde_json::from_slice(&arrival.body).context("a webhook's body is not JSON")?;
        let watch = body["data"]["watchId"].as_str().context("a webhook names no watch")?;
        let entry = self.entries.iter_mut().find(|entry| entry.watch == watch);
        let entry = entry.with_context(|| format!("a webhook names {watch}, which is not registered"))?;
        let event = body["type"].as_str().unwrap_or_default();
        if event != entry.job.ending || event != arrival.event {
            bail!("{} should end by {}, not by {event}", entry.job.id, entry.job.ending);
        }
        let known = entry.webhook.get_or_insert_with(|| arrival.id.clone());
        if *known != arrival.id {
            bail!("the webhook of {} was first {known} and then {}", entry.job.id, arrival.id);
        }
        entry.attempts += 1;
        entry.accepted |= arrival.answered.is_success();
        Ok(())
    }

    /// Returns whether every expected webhook was accepted.
    pub fn is_complete(&self) -> bool {
        self.entries.len() == self.jobs && self.entries.iter().all(|entry| entry.accepted)
    }

    /// Returns a sentence about the missing webhooks.
    pub fn missing(&self) -> String {
        let open = self.entries.iter().filter(|entry| !entry.accepted);
        let open: Vec<String> =
            open.map(|entry| format!("{} of {}", entry.job.ending, entry.job.id)).collect();
        let open = open.join(", ");
        match self.jobs - self.entries.len() {
            0 => format!("Missing: {open}."),
            unregistered => format!("Missing: {unregistered} registrations, and {open}."),
        }
    }

    /// Checks that all webhooks and reattempts were received. The error is a sentence.
    pub fn verdict(&self) -> Result<(), String> {
        if !self.is_complete() {
            return Err(self.missing());
        }
        // The flaky receiver must have rejected one attempt.
        let wanted = |job: &DemoJob| if job.flaky { 2 } else { 1 };
        let wrong = self.entries.iter().find(|entry| entry.attempts != wanted(entry.job));
        wrong.map_or(Ok(()), |Entry { job, attempts, .. }| {
            Err(format!("attempts of the webhook of {}: {attempts} instead of {}", job.id, wanted(job)))
        })
    }

    /// Returns a table. `polls` returns the number of polls of a job.
    pub fn summary(&self, terminal: Terminal, polls: impl Fn(&str) -> u32) -> String {
        let columns = [
            Column::new("JOB"),
            Column::new("EXPECTED"),
            Column::new("POLLS"),
            Column::new("ATTEMPTS"),
            Column::new("RESULT"),
            Column::new("WEBHOOK-ID").optional(1),
        ];
        let rows = self.entries.iter().map(|entry| {
            let Entry { job: DemoJob { id, ending, .. }, webhook, attempts, accepted, .. } = entry;
            let result = if *accepted { "verified" } else { "missing" };
            let webhook = webhook.clone().unwrap_or_default();
            let (id, ending) = ((*id).to_owned(), (*ending).to_owned());
            [id.clone(), ending, polls(&id).to_string(), attempts.to_string(), result.to_owned(), webhook]
        });
        terminal.table(&columns, rows, true)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use hyper::body::Bytes;
    use serde_json::json;

    use super::*;
    use crate::cli::terminal::{PLAIN, narrow};
    use crate::domain::Timestamp;

    const JOBS: &[DemoJob] = &[
        DemoJob { id: "job_a", ending: "job.completed", flaky: false, expires: None },
        DemoJob { id: "job_b", ending: "job.failed", flaky: true, expires: None },
    ];

    fn expectations() -> Expectations {
        let mut expectations = Expectations::new(JOBS);
        for (job, watch) in JOBS.iter().zip(["watch_a", "watch_b"]) {
            expectations.registered(job, watch.to_owned());
        }
        expectations
    }

    fn arrival(watch: &str, event: &str, id: &str, answered: u16) -> Arrival {
        Arrival {
            at: Timestamp::default(),
            path: "/".to_owned(),
            id: id.to_owned(),
            event: event.to_owned(),
            attempt: 1,
            signature: Signature::Verified,
            answered: StatusCode::from_u16(answered).expect("a status"),
            body: Bytes::from(json!({ "type": event, "data": { "watchId": watch } }).to_string()),
        }
    }

    #[test]
    fn the_demo_succeeds_if_every_webhook_and_retry_is_received() {
        let mut expectations = expectations();
        expectations.arrived(&arrival("watch_a", "job.completed", "evt_a", 204)).expect("as expected");
        expectations.arrived(&arrival("watch_b", "job.failed", "evt_b", 503)).expect("as expected");
        assert_eq!(expectations.verdict(), Err("Missing: job.failed of job_b.".to_owned()));
        expectations.arrived(&arrival("watch_b", "job.failed", "evt_b", 204)).expect("as expected");
        assert_eq!(expectations.verdict(), Ok(()));
        insta::assert_snapshot!(expectations.summary(PLAIN, |_| 3), @r"
        JOB    EXPECTED       POLLS  ATTEMPTS  RESULT    WEBHOOK-ID
        job_a  job.completed  3      1         verified  evt_a
        job_b  job.failed     3      2         verified  evt_b
        ");
        let fits = |line: &str| narrow(50).fits(line);
        assert!(expectations.summary(narrow(50), |_| 3).lines().all(fits));
    }

    #[test]
    fn an_unexpected_webhook_is_an_error() {
        let forged = Arrival {
            signature: Signature::Wrong("another secret".to_owned()),
            ..arrival("watch_a", "job.completed", "evt_a", 401)
        };
        let table = [
            (forged, "is not valid"),
            (arrival("watch_c", "job.completed", "evt_c", 204), "is not registered"),
            (arrival("watch_a", "job.failed", "evt_a", 204), "should end by job.completed"),
            (arrival("watch_b", "job.failed", "evt_other", 204), "was first evt_b"),
        ];
        for (arrival, why) in table {
            let mut expectations = expectations();
            expectations.arrived(&self::arrival("watch_b", "job.failed", "evt_b", 503)).expect("as expected");
            let error = expectations.arrived(&arrival).expect_err(why).to_string();
            assert!(error.contains(why), "{error}");
            assert!(expectations.verdict().is_err());
        }
    }

    #[test]
    fn a_missing_retry_or_registration_is_an_error() {
        let mut expectations = expectations();
        for (watch, event) in [("watch_a", "job.completed"), ("watch_b", "job.failed")] {
            expectations.arrived(&arrival(watch, event, watch, 204)).expect("as expected");
        }
        assert!(expectations.verdict().is_err_and(|why| why.contains("job_b: 1 instead of 2")));
        assert!(Expectations::new(JOBS).verdict().is_err_and(|why| why.contains("2 registrations")));
    }
}
