//! The request of a client to cancel a job at its provider.

use std::sync::Arc;
use std::time::Duration;

use super::{AppNo, JobName, JobNo, PollSource, Timestamp};

/// Waits before the repetitions of a request that failed.
const RETRY_AFTER: [Duration; 5] = [
    Duration::from_secs(2),
    Duration::from_secs(10),
    Duration::from_secs(30),
    Duration::from_secs(120),
    Duration::from_secs(300),
];

/// Longest wait that a provider's `Retry-After` can cause.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Time after which a request that was not decided is given up: the provider could not be reached, or its limits and the
/// pause of its credential left no place. Most jobs have ended by then.
pub const CANCEL_PERIOD: Duration = Duration::from_secs(24 * 3600);

word_enum! {
    /// Status of a request to cancel a job. All but the first two are final.
    CancelStatus {
        /// The request is made when the watch expires.
        OnExpiry = "on_expiry",
        /// The request is made, and repeated after failures.
        Pending = "pending",
        /// The provider has accepted the request. The job may still run for a while, and may even complete.
        Accepted = "accepted",
        /// The job had ended before.
        AlreadyEnded = "already_ended",
        /// The provider has refused the request.
        Refused = "refused",
        /// No attempt had an answer that decides, and no further one follows.
        Failed = "failed",
        /// The request was not made, because another app watches the job.
        Withheld = "withheld",
    }
}

impl CancelStatus {
    /// Returns whether a client can request it again.
    pub fn can_be_repeated(self) -> bool {
        matches!(self, Self::OnExpiry | Self::Refused | Self::Failed | Self::Withheld)
    }
}

/// A request to cancel a job, as the watch of its client shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobCancel {
    /// Status.
    pub status: CancelStatus,
    /// Time of the request; `None` before the watch expires.
    pub requested_at: Option<Timestamp>,
    /// Number of attempts.
    pub attempts: u32,
    /// HTTP status of the provider's last answer.
    pub http_status: Option<u16>,
    /// Why the last attempt was not accepted.
    pub message: Option<String>,
    /// Time at which the request was decided.
    pub finished_at: Option<Timestamp>,
}

/// The requests of an app to cancel a job, which are made together.
#[derive(Clone, Debug)]
pub struct PendingCancel {
    /// The job.
    pub job: JobNo,
    /// The app.
    pub app: AppNo,
    /// Id of the job's provider.
    pub provider: String,
    /// Account of the job.
    pub account: String,
    /// How the job is polled, if it is an app's alone.
    pub poll: Option<Arc<PollSource>>,
    /// Time of the next attempt.
    pub next_attempt_at: Timestamp,
}

/// What an attempt to cancel a job needs to know.
#[derive(Clone, Debug)]
pub struct CancelAttempt {
    /// The job.
    pub name: JobName,
    /// How it is polled, if it is an app's alone.
    pub poll: Option<Arc<PollSource>>,
    /// Time of the first request that is not decided.
    pub requested_at: Timestamp,
    /// Number of earlier attempts.
    pub attempts: u32,
    /// Whether the job is known to have ended.
    pub has_ended: bool,
    /// Whether another app watches the job.
    pub is_shared: bool,
}

/// What follows from an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CancelResult {
    /// [`CancelStatus::Pending`] if another attempt follows.
    pub status: CancelStatus,
    /// Number of attempts, including this one if a request was made.
    pub attempts: u32,
    /// Time of the next attempt, if one follows.
    pub next_attempt_at: Option<Timestamp>,
    /// HTTP status of the answer.
    pub http_status: Option<u16>,
    /// Why it was not accepted.
    pub message: Option<String>,
}

impl JobCancel {
    /// Returns a request that is made when the watch expires.
    pub fn on_expiry() -> Self {
        Self {
            status: CancelStatus::OnExpiry,
            requested_at: None,
            attempts: 0,
            http_status: None,
            message: None,
            finished_at: None,
        }
    }
}

impl CancelResult {
    /// Returns the result of a request that is not made, because another app watches the job.
    pub fn withheld() -> Self {
        Self {
            status: CancelStatus::Withheld,
            attempts: 0,
            next_attempt_at: None,
            http_status: None,
            message: Some("another app watches the job, so it was not cancelled".to_owned()),
        }
    }
}

impl CancelAttempt {
    /// Returns the result without a request, if none is to be made at `now`.
    pub fn without_request(&self, now: Timestamp) -> Option<CancelResult> {
        if self.has_ended {
            let message = "the job ended before the request was sent".to_owned();
            Some(CancelResult::finished(CancelStatus::AlreadyEnded, self.attempts, None, Some(message)))
        } else if self.is_shared {
            Some(CancelResult { attempts: self.attempts, ..CancelResult::withheld() })
        } else if now > self.requested_at.plus(CANCEL_PERIOD) {
            Some(self.given_up("the request could not be sent within 24 h".to_owned()))
        } else {
            None
        }
    }

    /// Returns the result of a request that is decided.
    pub fn decided(
        &self,
        status: CancelStatus,
        http_status: Option<u16>,
        message: Option<String>,
    ) -> CancelResult {
        CancelResult::finished(status, self.attempts.saturating_add(1), http_status, message)
    }

    /// Returns the result of an attempt that failed at `now`: the next one, or the end after the last one.
    pub fn failed(
        &self,
        http_status: Option<u16>,
        message: String,
        retry_after: Option<Duration>,
        now: Timestamp,
    ) -> CancelResult {
        let wait = RETRY_AFTER.get(self.attempts as usize);
        let Some(wait) = wait else {
            return self.decided(CancelStatus::Failed, http_status, Some(message));
        };
        let wait = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX).max(*wait);
        CancelResult {
            status: CancelStatus::Pending,
            attempts: self.attempts.saturating_add(1),
            next_attempt_at: Some(now.plus(wait)),
            http_status,
            message: Some(message),
        }
    }

    /// Returns the result without a request, which is considered again at `at`.
    pub fn postponed(&self, message: String, at: Timestamp) -> CancelResult {
        CancelResult {
            status: CancelStatus::Pending,
            attempts: self.attempts,
            next_attempt_at: Some(at),
            http_status: None,
            message: Some(message),
        }
    }

    /// Returns the result without a request, and without another attempt.
    pub fn given_up(&self, message: String) -> CancelResult {
        CancelResult::finished(CancelStatus::Failed, self.attempts, None, Some(message))
    }
}

impl CancelResult {
    fn finished(
        status: CancelStatus,
        attempts: u32,
        http_status: Option<u16>,
        message: Option<String>,
    ) -> Self {
        Self { status, attempts, next_attempt_at: None, http_status, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(attempts: u32) -> CancelAttempt {
        let text = String::new;
        let name = JobName { provider: text(), account: text(), job_id: text(), params: text() };
        let requested_at = Timestamp::from_millis(0);
        CancelAttempt { name, poll: None, requested_at, attempts, has_ended: false, is_shared: false }
    }

    #[test]
    fn a_request_that_fails_is_repeated_five_times() {
        let now = Timestamp::from_millis(1_000);
        let waits: Vec<Option<i64>> = (0..6)
            .map(|n| attempt(n).failed(None, String::new(), None, now).next_attempt_at)
            .map(|at| at.map(|at| (at.millis() - 1_000) / 1_000))
            .collect();
        assert_eq!(waits, [Some(2), Some(10), Some(30), Some(120), Some(300), None]);
        assert_eq!(attempt(5).failed(None, String::new(), None, now).status, CancelStatus::Failed);
        for (after, expected) in [(60, 61_000), (999_999, 3_601_000), (0, 3_000)] {
            let after = Some(Duration::from_secs(after));
            let next = attempt(0).failed(Some(503), String::new(), after, now).next_attempt_at;
            assert_eq!(next, Some(Timestamp::from_millis(expected)));
        }
    }

    #[test]
    fn no_request_is_made_for_a_job_that_ended_or_is_shared() {
        let now = Timestamp::from_millis(1_000);
        let status = |attempt: CancelAttempt, now| attempt.without_request(now).map(|result| result.status);
        assert_eq!(status(attempt(0), now), None);
        let ended = CancelAttempt { has_ended: true, is_shared: true, ..attempt(0) };
        assert_eq!(status(ended, now), Some(CancelStatus::AlreadyEnded));
        let shared = CancelAttempt { is_shared: true, ..attempt(0) };
        assert_eq!(status(shared, now), Some(CancelStatus::Withheld));
        let late = now.plus(CANCEL_PERIOD);
        assert_eq!(status(attempt(0), late), Some(CancelStatus::Failed));
    }
}
