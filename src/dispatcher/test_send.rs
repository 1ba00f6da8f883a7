//! A test of a destination: one event, sent once, through the path of deliveries.
//!
//! The test uses the channel, the guard, the timeout and the pace of the channel. It is no delivery: nothing is stored,
//! no queue holds it, and it neither reads nor changes a breaker, the standing of a URL, or the metrics of attempts. A
//! stored delivery would need a watch, and would be retried, listed, and counted among the failures. A destination that
//! is held back is tested all the same, because that is when people test.

use std::sync::Arc;
use std::time::Duration;

use super::Dispatcher;
use crate::channels::{self, AttemptResult, Message, Transmission};
use crate::domain::{AppNo, Attempt, ChannelKind, Outcome, PendingDelivery};

/// Maximum time that a test waits until its channel accepts a message. A chat accepts one a second; a `Retry-After` can
/// close it for longer.
const PACE_WAIT: Duration = Duration::from_secs(10);

/// Maximum time of a test after that. A mail server may take ten minutes for its reply, and the caller waits for it.
const TEST_MAX: Duration = Duration::from_secs(60);

/// A place among the messages of a channel, until it is dropped.
struct Place<'d> {
    dispatcher: &'d Dispatcher,
    channel: ChannelKind,
    app: AppNo,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.dispatcher.state().end_test(self.channel, self.app);
        self.dispatcher.wake.notify_one();
    }
}

impl Dispatcher {
    /// Sends a test. Returns `None` if the channel accepts no message now.
    pub async fn send_test(&self, delivery: &PendingDelivery) -> Option<AttemptResult> {
        // The process does not end before the test.
        let _alive = self.alive.clone();
        let _place = self.place(delivery).await?;
        let app = self.store.app(delivery.app);
        let app = app.as_deref().filter(|_| channels::spec(delivery.destination.channel).is_signed);
        let (now, timeout, transmission) = (self.clock.now(), self.policy.timeout, Transmission::default());
        let mut result = match self.identities.get((&self.store, &self.channels), delivery).await {
            Ok(identity) => {
                let identity = identity.as_ref();
                let message = Message { delivery, app, now, timeout, identity, transmission: &transmission };
                let sent = self.clock.timeout(TEST_MAX, self.send_once(message)).await;
                sent.or_else(|| transmission.take_unclear().map(unconfirmed)).unwrap_or_else(late)
            }
            Err(not_made) => *not_made,
        };
        result.attempt.at = now;
        result.attempt.duration_ms = u32::try_from(result.duration.as_millis()).unwrap_or(u32::MAX);
        let (channel, queue) = (delivery.destination.channel, delivery.destination.queue.as_str());
        let paced = paced_queue(delivery);
        if let (Some(429), Outcome::Retry { after: Some(wait) }) =
            (result.attempt.status_code, &result.outcome)
        {
            self.state().limit_after_test(paced, channel, *wait, self.clock.now());
        }
        let (status, error) = (result.attempt.status_code, result.attempt.error.as_deref());
        tracing::info!(event = %delivery.event, %channel, queue, status, error, "a test was sent");
        Some(result)
    }

    /// Makes an attempt, after a wait if a request for its token has just failed.
    async fn send_once(&self, message: Message<'_>) -> AttemptResult {
        let result = self.channels.send(message).await;
        let Some(wait) = result.token_wait() else { return result };
        self.clock.sleep(wait).await;
        self.channels.send(message).await
    }

    /// Waits until the channel accepts a message.
    async fn place(&self, delivery: &PendingDelivery) -> Option<Place<'_>> {
        let (channel, app) = (delivery.destination.channel, delivery.app);
        let queue: Arc<str> = paced_queue(delivery).into();
        let waiting = self.clock.stopwatch();
        loop {
            let now = self.clock.now();
            let opens_at = match self.state().pacer.admit_test(&queue, channel, now) {
                Ok(()) => return Some(Place { dispatcher: self, channel, app }),
                Err(opens_at) => opens_at,
            };
            let wait = opens_at.since(now);
            if waiting.elapsed() + wait > PACE_WAIT {
                return None;
            }
            self.clock.sleep(wait).await;
        }
    }
}

/// Returns the name of the queue whose pace holds: that of an inline destination with the same address.
fn paced_queue(delivery: &PendingDelivery) -> &str {
    let destination = &delivery.destination;
    destination.saved.as_ref().map_or(destination.queue.as_str(), |saved| &saved.target)
}

/// Returns the result of a test whose whole message was sent, and whose reply took too long.
fn unconfirmed(result: AttemptResult) -> AttemptResult {
    let error = format!(
        "timeout: no reply to the message within {} s; it may have accepted the mail",
        TEST_MAX.as_secs()
    );
    let attempt = Attempt { error: Some(error), ..result.attempt };
    AttemptResult { duration: TEST_MAX, attempt, ..result }
}

/// Returns the result of a test that took too long.
fn late() -> AttemptResult {
    let error = format!("timeout: the test was given up after {} s", TEST_MAX.as_secs());
    AttemptResult {
        outcome: Outcome::Retry { after: None },
        reach: channels::Reach::NoAnswer,
        duration: TEST_MAX,
        token: None,
        attempt: Attempt { error: Some(error), ..Attempt::default() },
    }
}
