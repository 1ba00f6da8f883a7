//! Ended jobs whose results are still to be requested.
//!
//! Some providers say elsewhere what a completed job has produced, or why a job has failed (`[[result]]` in a definition).
//! A poll that says that the job has ended then does not end it at once: the job waits for its results, and each is requested by a task like
//! that of a poll.
//!
//! **Where.** The report of the poll is kept in memory, in the schedule of the job ([`PendingResult`]). While it is there,
//! the next task of the job requests the next result instead of polling.
//!
//! **Budget.** A request for a result waits for its turn like a poll, and uses a place of the concurrency and one of the
//! rate. The minimum interval between two polls of a job does not delay it, because it is not a poll: it usually follows
//! within milliseconds. A good answer to a request with the credential closes the circuit breaker, and a 429 to it pauses
//! the polls of the provider. All other failures count for the job only: they may come from another host.
//!
//! **Deadlines.** A result that cannot be read is requested again after [`RETRY_DELAYS`], later if its answer has a
//! `Retry-After`. After these retries, or ten minutes after the poll ([`WAIT_MAX`]), whatever comes first, the job ends
//! as the poll has reported it. A completed one has the error code `result_unavailable`, and another keeps its code. The
//! details of a job that did not complete are requested again only [`RETRIES_OF_DETAILS`] times. This holds as well if the budget permits no
//! request for so long: the end of the wait is an entry of the heap of expiries. What cannot get better is not repeated:
//! a URL that must not be requested, a 403 and a 410.
//!
//! **Expiry.** The job has ended at its provider before its watches expired. So no watch of it expires while its results
//! are pending, and the ending is not lost; it is delayed by ten minutes at most.
//!
//! **Crash windows.** Nothing about a pending result is stored:
//!
//! - A crash before the ending is committed: the row says that the job runs. It is polled after the restart, and says
//!   again that it has completed. Results are only read, so requesting them twice has no effect.
//! - A crash after the ending is committed: the result is in the ending, as everything else.
//! - A stop of all watches: the pending result goes with the schedule of the job.
//! - A registration meanwhile joins the generation that has not ended, and ends with it.
//!
//! **A requested poll of a job that has ended** refreshes its outputs, so it requests the results, too. If one of them
//! cannot be read, the stored ending stays as it is.
//!
//! **Memory.** All reports together have a limit, which the apps share ([`super::app_memory`]). A job for which there
//! is no space is polled again after [`NO_SPACE_PAUSE`]. If its watches have expired by then, they end without its
//! results, and the error says so. A result for which there is no space any more is requested again, as if the request
//! could not be made.

use std::time::Duration;

use hyper::body::Bytes;

use super::app_memory::AppSpace;
use crate::domain::{JobError, JobStatus, Observation, Timestamp};
use crate::providers::{JobReport, NextResult};

/// Delays before the retries of a result. Most results follow within seconds; a provider's outage takes minutes.
pub const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// Longest time between the poll and the end of the job.
pub const WAIT_MAX: Duration = Duration::from_secs(600);

/// Pause of a completed job without space for its results. Each takes the space for minutes only if its provider fails.
pub const NO_SPACE_PAUSE: Duration = Duration::from_secs(30);

/// Why the results of a job are not requested yet.
pub const NO_SPACE: &str = "too many other results are being requested";

/// Number of these retries for a job that did not complete: its details are worth less than the early news.
pub const RETRIES_OF_DETAILS: usize = 3;

/// Error code of a completed job whose result could not be read.
pub const RESULT_UNAVAILABLE: &str = "result_unavailable";

/// A completed job whose results are still to be requested.
#[derive(Debug)]
pub struct PendingResult {
    /// What is known of the job. Its results begin with the one that is requested next.
    pub report: Box<JobReport>,
    /// The answer that is passed on: that of the last result in JSON that was read, or that of the poll.
    pub raw: Option<Bytes>,
    /// Generation of the job that was polled.
    pub generation: i64,
    /// Whether the poll was requested for a job that has ended already.
    pub is_refresh: bool,
    /// Failed requests of the next result in a row.
    pub failures: usize,
    /// Time of the next request.
    pub next_at: Timestamp,
    /// Time at which the job ends without its results.
    pub give_up_at: Timestamp,
    /// Why the last request failed.
    pub last_error: Option<String>,
    /// Space in the memory of all pending results.
    pub memory: AppSpace,
}

impl PendingResult {
    /// Returns the result that is requested next.
    pub fn next(&self) -> Option<&NextResult> {
        self.report.results.first()
    }

    /// Accepts what is known after a result was read. Returns `false`, and changes nothing, if there is no memory for it.
    pub fn accept(&mut self, report: Box<JobReport>, raw: Option<Bytes>) -> bool {
        let raw = raw.or_else(|| self.raw.clone());
        if !report.results.is_empty() && !self.memory.resize(memory_kib(&report, raw.as_ref())) {
            return false;
        }
        (self.report, self.raw, self.failures, self.last_error) = (report, raw, 0, None);
        true
    }

    /// Moves all times back by `jump`.
    pub fn set_back(&mut self, jump: Duration) {
        self.next_at = self.next_at.minus(jump);
        self.give_up_at = self.give_up_at.minus(jump);
    }
}

/// Returns the memory that a pending result takes, in KiB.
pub fn memory_kib(report: &JobReport, raw: Option<&Bytes>) -> u32 {
    let results: usize = report.results.iter().map(NextResult::text_size).sum();
    let bytes = report.observation.text_size() + results + raw.map_or(0, Bytes::len);
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}

/// Returns how a job has ended, for messages.
pub fn has_ended(seen: &Observation) -> &'static str {
    match seen.status {
        JobStatus::Failed => "the job failed",
        JobStatus::Cancelled => "the job was cancelled",
        JobStatus::Unknown | JobStatus::Pending | JobStatus::Processing | JobStatus::Completed => {
            "the job completed"
        }
    }
}

/// Returns a job whose result could not be read. What the provider itself reports of a partial success is appended to
/// the message; the code of a job that did not complete stays as it is.
pub fn without_result(mut report: JobReport, why: &str) -> Observation {
    report.note_lost();
    let mut seen = report.observation;
    let own = seen.error.take().unwrap_or_default();
    let ended = has_ended(&seen);
    if seen.status != JobStatus::Completed {
        let code = own.code.or_else(|| Some(RESULT_UNAVAILABLE.to_owned()));
        let why = format!("its details could not be requested: {why}");
        let message = own.message.map_or_else(|| format!("{ended}; {why}"), |own| format!("{own}; {why}"));
        return Observation { error: Some(JobError { code, message: Some(message) }), ..seen };
    }
    let own: Vec<String> = own.code.into_iter().chain(own.message).collect();
    let mut message = format!("{ended}, but its result could not be requested: {why}");
    if !own.is_empty() {
        message = format!("{message}; the provider also reported: {}", own.join(": "));
    }
    let code = Some(RESULT_UNAVAILABLE.to_owned());
    Observation { error: Some(JobError { code, message: Some(message) }), ..seen }
}
