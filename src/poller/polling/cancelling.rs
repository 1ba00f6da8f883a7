//! Cancelling jobs at their providers.
//!
//! A client requests it by stopping a watch, or by a registration whose watch expires. The store writes the request in
//! that transaction (`store/job_cancels`). The scheduler grants it a place among the polls of the provider
//! (`scheduler/cancels`), and an attempt is one task:
//!
//! 1. **Read** what is stored. No request is made any more if the job has ended, if another app watches it meanwhile, or
//!    24 h after the client's request.
//! 2. **Send** the request, with a timeout as polls have.
//! 3. **Write** the result: final, or the time of the next attempt. A request that failed is repeated after 2, 10, 30, 120
//!    and 300 s, and later if the answer has a `Retry-After`.
//!
//! **Crashes.** The row has everything that the next start needs, and the process can end between any two steps:
//!
//! - After the commit of the client's request, before the message reaches the poller: the row is pending, and
//!   [`Poller::load_cancels`] schedules it.
//! - After the request was sent, before its result is written: the row still says that it is to be made, so the next start
//!   sends it again. A provider that has accepted the first one accepts the second one, or answers that the job has ended.
//!   The timeline then shows that answer: the job is cancelled all the same, but the watch may show `already_ended` or
//!   `refused`. The alternative, to write before sending, could lose the request.
//! - While the database accepts no writes, the result is kept and written later, as those of polls. The place in the budget
//!   is kept as well, so the number of such results is limited.
//!
//! **What an answer says about the provider.** A 429 slows down all requests, and an accepted request shows that the
//! credential is valid. A 401 does not pause the provider: a key that may read jobs and not cancel them would otherwise stop
//! all polls. While a poll has paused it, requests are probes as polls are, one a minute. An error opens no breaker: it may
//! be about this kind of request only.
//!
//! **Afterwards**, an answer to a poll that does not know the job is its end `cancelled`, without the grace of a job that is
//! not found ([`Poller::note_cancelled`]). What is stored decides, so a restart changes nothing.
//!
//! **Without an API key** no request is made. It stays pending, as polls wait, and an attempt is not counted.
//!
//! **The credential** is sent to the hosts of polls only, and hidden in the answer before anything reads it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{AFTER_BUG, PAGE, Poller};
use crate::domain::{
    AppNo, CancelAttempt, CancelResult, CancelStatus, JobNo, PendingCancel, ProviderHealth, Timestamp,
    credential_variable,
};
use crate::poller::decide::log_health;
use crate::poller::own_providers::NoProvider;
use crate::poller::provider::Provider;
use crate::providers::{CancelAnswer, Interpretation, JobReport, PollFailure};
use crate::store::{RecordCancel, StoreError};

/// Pause after which an attempt is repeated that could not read the database.
const AFTER_READ: Duration = Duration::from_secs(5);

/// Pause after which a request is considered again that cannot be made without an API key.
const WITHOUT_KEY: Duration = Duration::from_secs(60);

/// The requests of an app to cancel a job, with the index of the provider's queue.
type CancelKey = (u32, JobNo, AppNo);

/// Returns why jobs of a provider cannot be cancelled. `None`: they can be. What is the app's own may always be
/// used for that; the operator must allow the use of the server's key.
fn refusal(provider: &Provider, is_own: bool) -> Option<&'static str> {
    if !provider.definition.can_cancel() {
        Some("the provider's definition does not say any more how a job is cancelled")
    } else if !is_own && !provider.allow_cancel {
        Some("the operator does not allow any more that jobs are cancelled with the server's key")
    } else {
        None
    }
}

impl Poller {
    /// Schedules the requests that the store has.
    pub(super) async fn load_cancels(&self) -> Result<(), StoreError> {
        let mut after = (JobNo(0), AppNo(0));
        loop {
            let (page, last) = self.store.pending_cancels(after, PAGE).await?;
            let Some(last) = last else { return Ok(()) };
            after = last;
            for pending in &page {
                let now = self.clock.now();
                let is_known = self.scheduler().add_cancel(pending, now);
                if is_known {
                    continue;
                }
                match self.give_up_cancel(pending).await {
                    // One broken row must not stop the start.
                    Err(error @ StoreError::Inconsistent(_)) => {
                        tracing::error!(%error, row = pending.job.0, "a request to cancel a job cannot be read; it waits until the next start");
                    }
                    given_up => given_up?,
                }
            }
        }
    }

    /// Ends the requests for a job whose provider is not known any more.
    async fn give_up_cancel(&self, pending: &PendingCancel) -> Result<(), StoreError> {
        let (job, app, now) = (pending.job, pending.app, self.clock.now());
        let Some(attempt) = self.store.cancel_attempt(job, app, now).await? else { return Ok(()) };
        let result =
            attempt.given_up(format!("the server knows no provider `{}` any more", pending.provider));
        log(&attempt, &result);
        self.store.record_cancel(RecordCancel { job, app, result, now }).await
    }

    /// Ends, in a task of its own, the requests for a job whose provider is not known any more.
    pub(super) fn start_give_up(self: &Arc<Self>, pending: PendingCancel) {
        let (poller, alive) = (Arc::clone(self), self.alive.clone());
        tokio::spawn(async move {
            let permit = poller.give_ups.acquire().await;
            if let Err(error) = poller.give_up_cancel(&pending).await {
                tracing::warn!(%error, "a request to cancel a job cannot be read; it ends at the next start");
            }
            drop((permit, alive));
        });
    }

    /// Changes the meaning of an answer that does not know a job to the end of the job, if the provider has accepted to
    /// cancel it: many APIs delete a cancelled job.
    pub(super) async fn note_cancelled(&self, job: JobNo, meaning: &mut Interpretation) {
        let Interpretation::Failed { failure: PollFailure::NotFound, message } = meaning else { return };
        let watched =
            self.scheduler().jobs.get(&job).filter(|found| found.watching > 0).map(|found| found.generation);
        let Some(generation) = watched else { return };
        match self.store.cancelled_job(job, generation).await {
            Ok(Some(seen)) => *meaning = Interpretation::Ok(Box::new(JobReport::cancelled(seen, message))),
            Ok(None) => {}
            // The next poll finds out.
            Err(error) => {
                tracing::warn!(%error, "a request to cancel a job cannot be read; the next poll reads it again");
            }
        }
    }

    /// Starts an attempt that the scheduler has granted.
    pub(super) fn start_cancel(self: &Arc<Self>, key: CancelKey, alive: mpsc::Sender<()>) {
        let poller = Arc::clone(self);
        let mut task = CancelTask { poller, key, finished: false, _alive: alive };
        tokio::spawn(async move { task.run().await });
    }
}

/// An attempt in flight. However it ends, by a panic for example, its place in the budget is released.
struct CancelTask {
    poller: Arc<Poller>,
    key: CancelKey,
    finished: bool,
    _alive: mpsc::Sender<()>,
}

impl CancelTask {
    async fn run(&mut self) {
        let (poller, (_, job, app)) = (Arc::clone(&self.poller), self.key);
        let now = poller.clock.now();
        let attempt = match poller.store.cancel_attempt(job, app, now).await {
            Ok(Some(attempt)) => attempt,
            // It is decided, or its watches were erased.
            Ok(None) => return self.finish(None),
            Err(error @ StoreError::Inconsistent(_)) => {
                tracing::error!(%error, row = job.0, "a request to cancel a job cannot be read; it waits until the next start");
                return self.finish(None);
            }
            Err(error) => {
                tracing::warn!(%error, "a request to cancel a job cannot be read; it is tried again");
                return self.finish(Some(now.plus(AFTER_READ)));
            }
        };
        let result = match attempt.without_request(now) {
            Some(result) => result,
            None => self.request(&attempt, now).await,
        };
        log(&attempt, &result);
        let record = RecordCancel { job, app, result, now: poller.clock.now() };
        let written = poller.write(|| poller.store.record_cancel(record.clone())).await;
        self.finish(match written {
            Some(()) => record.result.next_attempt_at,
            None => Some(poller.clock.now().plus(AFTER_BUG)),
        });
    }

    /// Makes the request, which starts at `started`.
    async fn request(&self, attempt: &CancelAttempt, started: Timestamp) -> CancelResult {
        let (poller, (index, _, app)) = (&self.poller, self.key);
        let own = match &attempt.poll {
            Some(source) => poller.own_provider((app, &attempt.name), source, false).await.map(Some),
            None => Ok(poller.providers.get(index as usize).cloned()),
        };
        let provider = match own {
            Ok(Some((_, provider))) => provider,
            Ok(None) => return attempt.given_up("the server does not know the provider any more".to_owned()),
            Err(NoProvider::Unusable(why)) => return attempt.given_up(why),
            Err(NoProvider::NotNow(why)) => return attempt.failed(None, why, None, poller.clock.now()),
            Err(NoProvider::Store(error)) => {
                return attempt.failed(None, error.to_string(), None, poller.clock.now());
            }
        };
        if let Some(why) = refusal(&provider, attempt.poll.is_some()) {
            return attempt.given_up(why.to_owned());
        }
        if provider.definition.needs_credential() && provider.key().is_none() {
            // As polls do, it waits until the operator has set the API key.
            let variable = credential_variable(&provider.definition.id);
            let why = format!("no API key is configured; the operator can set {variable}");
            return attempt.postponed(why, poller.clock.now().plus(WITHOUT_KEY));
        }
        let response = provider.cancel(&poller.egress, &poller.clock, &attempt.name).await;
        let (now, http_status) = (poller.clock.now(), response.http_status);
        self.learn(&response.answer, response.retry_after, (started.min(now), now));
        match response.answer {
            CancelAnswer::Accepted => attempt.decided(CancelStatus::Accepted, http_status, None),
            CancelAnswer::AlreadyEnded(why) => {
                attempt.decided(CancelStatus::AlreadyEnded, http_status, Some(why))
            }
            CancelAnswer::Refused(why) => attempt.decided(CancelStatus::Refused, http_status, Some(why)),
            CancelAnswer::RateLimited(why) | CancelAnswer::Unauthorized(why) | CancelAnswer::Error(why) => {
                attempt.failed(http_status, why, response.retry_after, now)
            }
        }
    }

    /// Notes what an answer says about the provider.
    fn learn(
        &self,
        answer: &CancelAnswer,
        retry_after: Option<Duration>,
        (started, now): (Timestamp, Timestamp),
    ) {
        let (index, ..) = self.key;
        let mut scheduler = self.poller.scheduler();
        scheduler.follow_clock(now);
        let Some(queue) = scheduler.queues.get_mut(index as usize) else { return };
        let change = match answer {
            CancelAnswer::RateLimited(_) => {
                queue.budget.rate_limited(retry_after, started, now);
                None
            }
            CancelAnswer::Accepted => queue.budget.authorized(),
            CancelAnswer::AlreadyEnded(_)
            | CancelAnswer::Refused(_)
            | CancelAnswer::Unauthorized(_)
            | CancelAnswer::Error(_) => None,
        };
        log_health(change, (&queue.provider, queue.credential.as_deref()), "");
        if change == Some(ProviderHealth::Ok) {
            scheduler.clear_backoffs(index as usize, now);
        }
    }

    /// Releases the place in the budget, and schedules the next attempt if there is one.
    fn finish(&mut self, next_at: Option<Timestamp>) {
        self.finished = true;
        let now = self.poller.clock.now();
        let mut scheduler = self.poller.scheduler();
        scheduler.follow_clock(now);
        self.poller.merge_messages(&mut scheduler, now);
        scheduler.finish_cancel(self.key, next_at, now);
        drop(scheduler);
        self.poller.wake();
    }
}

impl Drop for CancelTask {
    fn drop(&mut self) {
        if !self.finished {
            self.finish(Some(self.poller.clock.now().plus(AFTER_BUG)));
        }
    }
}

/// Logs what follows from an attempt.
fn log(attempt: &CancelAttempt, result: &CancelResult) {
    let (provider, job) = (attempt.name.provider.as_str(), attempt.name.job_id.as_str());
    let (cancellation, status) = (result.status.as_str(), result.http_status);
    let error = result.message.as_deref();
    match result.status {
        CancelStatus::OnExpiry | CancelStatus::Pending => {
            tracing::debug!(provider, job, status, error, "a job could not be cancelled yet");
        }
        CancelStatus::Accepted | CancelStatus::AlreadyEnded => {
            tracing::info!(provider, job, cancellation, "the request to cancel a job has ended");
        }
        CancelStatus::Refused | CancelStatus::Failed | CancelStatus::Withheld => {
            tracing::warn!(provider, job, cancellation, status, error, "a job was not cancelled");
        }
    }
}
