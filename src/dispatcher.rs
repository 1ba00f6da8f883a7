//! Dispatching: sending deliveries, with retries.
//!
//! A delivery waits in the store until it is due. A delivery is *loaded* while the dispatcher holds it in
//! memory, where it waits for its destination or is in flight. A new delivery is loaded directly from the
//! commit that created it ([`DispatcherMessage::Dispatch`]).
//! All other deliveries are read from the store in pages. A page contains due deliveries of one queue.
//!
//! **Each destination** has a queue: for a webhook, the app and the URL without its query. The queues of one scheme,
//! host and port are an *origin*, which has a concurrency limit; its queues share it so that a slow URL delays no
//! other ([`origin`]). The origins take turns, and so do the apps, so an app with many origins does not delay another
//! app ([`fair_queue`]). The number of loaded deliveries is limited for each origin, for each app, and in total.
//! Deliveries beyond a limit stay in the store, and the queue is marked as having more.
//!
//! **No attempt is made twice within one process.** A delivery is loaded only once for each attempt:
//!
//! - A loaded delivery is not loaded again, neither from a message nor from a page.
//! - The writer itself finds the deliveries of a page, so the page shows the result of every earlier write. It leaves
//!   out the deliveries that were loaded when the page was requested. A reader then loads the rows: it sees at least
//!   what the writer saw, and leaves out what does not wait any more.
//! - While a page is being read, its queue loads nothing from messages, so its set of loaded deliveries can
//!   only shrink. A delivery that finishes during this time was already loaded before the page was requested,
//!   so the page leaves it out.
//! - While a page is being read, a delivery can become `skipped`, for example because its watch was stopped. If
//!   the page contains this delivery, it is not loaded.
//!
//! **No delivery waits forever.** Each queue has a timer for the next delivery that becomes due in the store; when
//! the timer expires, a page is read. The timer is set at the start of the process, after a failed attempt, and by
//! each page, which contains the time of the next retry in its queue. If a manual retry of a loaded delivery is
//! requested, the store is read again after the delivery has been unloaded. Queues beyond a limit are forgotten, and
//! found again by a search of the store.
//!
//! **A saved destination** has a queue of its own, and its limits come with its deliveries. When it changes, what is
//! loaded of it returns to the store and is read again, so that an attempt always uses the present address. The
//! dispatcher also runs the sweeps that skip or retry the deliveries of a destination that was disabled or enabled.
//!
//! **Some channels accept fewer messages** than a queue may send. [`pacing`] delays a message until its channel
//! accepts it.
//!
//! **A destination that does not respond** is held back ([`breaker`]): its deliveries stay in the store, where they are
//! due, and single attempts are made as probes. What is held back uses no place in its schedule.
//!
//! **An attempt that was not made** is not recorded: the breaker is open, the store refuses writes, or Ringback lacks
//! descriptors, memory or ports. Nothing changes in the store then, so nothing is lost by a crash, and nothing has to
//! be brought forward later. [`crate::domain`]'s `delivery` explains when a delivery ends nevertheless.
//!
//! **A late reply holds no place.** A mail server may take ten minutes to accept a message that it already has
//! ([`Transmission`]). After [`LATE_REPLY`], such a delivery frees its places for others, and the store notes when the
//! next attempt would be due if the outcome stayed unclear, also after a manual retry or the last attempt. A process
//! that ends without a stop therefore does not send the message again at its next start. Only in the first seconds
//! after the transmission, a crash causes a second copy at once. At a stop, the attempt is recorded as unclear.
//!
//! **An exchange that has ended holds no place.** Its record is committed with others, which takes a while. Meanwhile the
//! next delivery gets the place, so that a receiver is kept at its concurrency limit. The delivery itself stays loaded
//! until its record is written. At most half as many records as there are places are written so; then the places are
//! kept until the commit. A crash therefore repeats a limited number of attempts.
//!
//! **A test** of a destination is no delivery ([`test_send`]).
//!
//! **A result is written before its delivery is unloaded**, however long the store refuses writes. While it
//! refuses writes, or lacks a table, no attempt starts, and neither for a while after a result could not be recorded for
//! another reason ([`unrecorded`]).

mod background_run;
mod breaker;
mod fair_queue;
mod id_set;
mod identities;
mod origin;
mod pacing;
mod probe_waits;
mod state;
mod test_send;
mod timers;
mod unrecorded;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tracing::field::display;

use crate::channels::{self, AttemptResult, Channels, Message, Transmission};
use crate::clock::{Clock, Stopwatch};
use crate::domain::{
    Activity, AttemptKind, DeliveryWait, DisabledReason, DispatchPolicy, DispatcherMessage, NextStep,
    Outcome, PendingDelivery, Postponement, Timestamp, WaitReason, WaitingDelivery, during_outage,
    next_attempt, while_unclear,
};
use crate::store::{
    LoadDueDeliveries, NoteRunning, PostponeDelivery, RecordAttempt, RescheduleRetries, Rescheduled, Store,
    StoreError, SweepDestinations, WRITE_RETRY_PAUSE, write_until_accepted,
};
use crate::telemetry::metrics::{AttemptOutcome, Load};
use crate::telemetry::traces::{Context, Span, SpanKind};
use identities::Identities;
use state::results::{Changes, Opened};
use state::waiting::LOOKED_UP_AT_ONCE;
use state::{DispatchState, QUEUES_MAX};

/// Time after which the reply to a transmitted message is late. Most servers reply within a second. If the places
/// were freed at once, a burst of mails would open a connection for each.
const LATE_REPLY: Duration = Duration::from_secs(5);

/// Pause before the retry of an attempt that ended in a panic.
const PANIC_RETRY_PAUSE: Duration = Duration::from_secs(60);

/// Sends deliveries.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    channels: Arc<Channels>,
    clock: Clock,
    policy: DispatchPolicy,
    state: Mutex<DispatchState>,
    /// Notified when [`Self::step`] has to be called.
    wake: Notify,
    /// Each task has a clone. The channel closes when the last clone is dropped.
    alive: mpsc::Sender<()>,
    /// Whether the process stops, and for how long it has been stopping.
    is_stopping: watch::Sender<bool>,
    stopping_for: OnceLock<Stopwatch>,
    identities: Identities,
}

impl Dispatcher {
    /// Returns a dispatcher without loaded deliveries, and a channel. The channel closes when the dispatcher is
    /// dropped and its last task has ended.
    pub fn new(
        store: Store,
        channels: Arc<Channels>,
        clock: Clock,
        policy: DispatchPolicy,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        let state = Mutex::new(DispatchState::new(policy.concurrency, policy.per_destination));
        let (wake, is_stopping) = (Notify::new(), watch::Sender::new(false));
        let stopping_for = OnceLock::new();
        let identities = Identities::default();
        let dispatcher = Self {
            store,
            channels,
            clock,
            policy,
            state,
            wake,
            alive,
            is_stopping,
            stopping_for,
            identities,
        };
        (Arc::new(dispatcher), ended)
    }

    /// Reads from the store which queues have waiting deliveries, and when the first delivery of each queue
    /// is due.
    pub async fn load(&self) -> Result<(), StoreError> {
        self.store.note_running(NoteRunning { is_start: true, now: self.clock.now() }).await?;
        self.state().reschedule.request();
        if self.store.has_sweep().await? {
            self.state().sweep.request();
        }
        let last = self.store.last_attempts(self.clock.now()).await?;
        {
            let mut state = self.state();
            for last in &last {
                state.pacer.restore(&last.queue, last.at, last.spacing);
            }
        }
        self.search().await
    }

    /// Reads from the store which queues have waiting deliveries.
    async fn search(&self) -> Result<(), StoreError> {
        let found = self.store.destination_queues(QUEUES_MAX).await?;
        self.state().set_timers(found);
        Ok(())
    }

    /// Notes in the store that the process runs, if deliveries wait. An idle process writes nothing.
    pub async fn note_running(&self) {
        if !self.state().has_work() {
            return;
        }
        if let Err(error) =
            self.store.note_running(NoteRunning { is_start: false, now: self.clock.now() }).await
        {
            tracing::warn!(%error, "the time until which the process runs could not be written");
        }
    }

    /// Returns for each of these pending deliveries why it waits, if it is due ([`state::waiting`]).
    pub fn waits(&self, deliveries: &[WaitingDelivery]) -> Vec<Option<DeliveryWait>> {
        let (now, is_refusing) = (self.clock.now(), self.store.refusing());
        let mut waits = Vec::with_capacity(deliveries.len());
        for some in deliveries.chunks(LOOKED_UP_AT_ONCE) {
            let state = self.state();
            waits.extend(some.iter().map(|delivery| {
                if !delivery.is_due(now) {
                    None
                } else if is_refusing || state.unrecorded.is_pausing(now) {
                    Some(DeliveryWait::of(WaitReason::NoWrites, delivery))
                } else {
                    state.wait_of(delivery, now)
                }
            }));
        }
        waits
    }

    /// Returns the current load, for the metrics.
    pub fn load_now(&self) -> Load {
        let state = self.state();
        Load {
            loaded: state.shares.total.loaded,
            in_flight: state.shares.total.in_flight + state.shares.total.awaiting_reply,
            down: state.breakers.open_count(),
            ..Load::default()
        }
    }

    /// Returns how many tasks are in progress, and when there is more to do.
    pub fn activity(&self) -> Activity {
        let now = self.clock.now();
        let state = self.state();
        let in_progress = self.alive.strong_count() - 1;
        // If a page can be read and no task is in progress, a step is due now. If a task is in progress, the end of
        // the task causes a step, and this step reads the page.
        let can_load = in_progress == 0 && state.can_load();
        let is_refusing = self.store.refusing() || state.unrecorded.is_pausing(now);
        let can_work = can_load
            || state.can_send()
            || state.can_probe()
            || state.sweep.can_start()
            || state.reschedule.can_start();
        let is_due = state.clock.jump(now).is_some() || !self.store.dispatcher_messages().is_empty();
        let next_at = if is_due || (can_work && !is_refusing) {
            Some(now)
        } else {
            let retry_at = is_refusing.then(|| now.plus(WRITE_RETRY_PAUSE));
            retry_at.into_iter().chain(state.next()).min()
        };
        Activity { in_progress, next_at, in_background: 0 }
    }

    /// Starts the attempts and the reads of pages that are possible now. Returns the time of the next call.
    pub fn step(self: &Arc<Self>) -> Option<Timestamp> {
        let now = self.clock.now();
        let is_store_refusing = self.store.refusing();
        // The step first takes its work from the state, and later starts the tasks. In between, `activity` must not
        // report that no task is in progress. It counts the clones of `alive`; this clone keeps the count above zero.
        let _alive = self.alive.clone();
        let mut state = self.state();
        let is_refusing = is_store_refusing || state.unrecorded.is_pausing(now);
        // Before others become due: what waits for a probe has been due for longer.
        if !is_refusing {
            state.resume_probes();
        }
        for message in self.store.dispatcher_messages().take() {
            log_disabled(&message);
            state.apply(message, now);
        }
        state.expire_timers(now);
        state.clock.advance(now);
        let (mut deliveries, mut pages) = (Vec::new(), Vec::new());
        if !is_refusing {
            loop {
                deliveries.extend(state.take_sendable(now));
                pages.extend(state.take_pages(now));
                if !state.resume_probes() {
                    break;
                }
            }
        }
        let (next, searches) = (state.next(), state.take_search(now));
        let (sweeps, reschedules) =
            (!is_refusing && state.sweep.start(), !is_refusing && state.reschedule.start());
        drop(state);
        if searches {
            self.start_search();
        }
        if sweeps {
            self.start_sweep();
        }
        if reschedules {
            self.start_reschedule();
        }
        for page in pages {
            self.start_page(page);
        }
        for delivery in deliveries {
            let dispatcher = Arc::clone(self);
            let mut attempt = RunningAttempt { dispatcher, delivery, next: None, _alive: self.alive.clone() };
            tokio::spawn(async move { attempt.run().await });
        }
        if is_refusing { Some(now.plus(WRITE_RETRY_PAUSE)) } else { next }
    }

    /// Prepares a step. While the store refuses writes, checks whether it accepts them again. After the clock was set
    /// back, reschedules the waiting deliveries.
    pub async fn prepare(&self) {
        if self.store.refusing() {
            let _ = self.store.check_writes().await;
        }
        let now = self.clock.now();
        if self.state().clock.jump(now).is_some() {
            match self.load().await {
                Ok(()) => self.state().clock.last = now,
                // The next call of `prepare` tries again.
                Err(error) => {
                    tracing::warn!(%error, "the clock was set back, and retries could not be rescheduled");
                }
            }
        }
    }

    /// Causes a call of [`Self::step`]. This is needed after the clock was set back.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until [`Self::step`] has to be called early, before the time that its last call returned. The reason
    /// is a new message, the end of a task, or a call of [`Self::wake`].
    pub async fn changed(&self) {
        let messages = self.store.dispatcher_messages();
        tokio::select! {
            () = self.wake.notified() => {}
            () = messages.arrived() => {}
        }
    }

    /// Ends the wait for late replies. Their attempts are recorded as unclear. An attempt that has not transmitted its
    /// message within the timeout of an attempt is dropped, and made again after the next start.
    pub fn stop(&self) {
        let _ = self.stopping_for.set(self.clock.stopwatch());
        self.is_stopping.send_replace(true);
    }

    /// Returns whether the process stops. What is left of a run is done after the next start.
    fn is_stopping(&self) -> bool {
        *self.is_stopping.borrow()
    }

    /// Returns when the process stops.
    async fn stopping(&self) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.is_stopping.subscribe().wait_for(|stopping| *stopping).await;
    }

    /// Waits before the next try of what the database did not answer. Returns whether the process stops, so that there is
    /// none.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = self.stopping() => true,
            () = self.clock.sleep(WRITE_RETRY_PAUSE) => false,
        }
    }

    fn state(&self) -> MutexGuard<'_, DispatchState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start_page(self: &Arc<Self>, page: LoadDueDeliveries) {
        let dispatcher = Arc::clone(self);
        let alive = self.alive.clone();
        tokio::spawn(async move {
            let queue: Arc<str> = page.queue.as_str().into();
            let page = dispatcher.store.load_due_deliveries(page).await;
            if let Err(error) = &page {
                let count = dispatcher.state().unread_pages.count(dispatcher.clock.now());
                if let Some(count) = count {
                    tracing::warn!(%error, count, "waiting deliveries could not be read");
                }
                dispatcher.pause().await;
            }
            let now = dispatcher.clock.now();
            dispatcher.state().finish_page(&queue, page.ok(), now);
            dispatcher.wake.notify_one();
            drop(alive);
        });
    }

    fn start_search(self: &Arc<Self>) {
        let dispatcher = Arc::clone(self);
        let alive = self.alive.clone();
        tokio::spawn(async move {
            dispatcher.search_until_found().await;
            dispatcher.wake.notify_one();
            drop(alive);
        });
    }

    /// Searches until the database answers, or the process stops.
    async fn search_until_found(&self) {
        while let Err(error) = self.search().await {
            tracing::warn!(%error, "the queues of waiting deliveries could not be read");
            if self.pause().await {
                break;
            }
        }
    }
}

impl Dispatcher {
    /// Skips or retries the deliveries of saved destinations that were disabled or enabled, a chunk at a time.
    fn start_sweep(self: &Arc<Self>) {
        let dispatcher = Arc::clone(self);
        let alive = self.alive.clone();
        tokio::spawn(async move {
            let first_wait = dispatcher.policy.retry_schedule.first().copied().unwrap_or_default();
            loop {
                let sweep = SweepDestinations { first_wait, now: dispatcher.clock.now() };
                match dispatcher.store.sweep_destinations(sweep).await {
                    Ok(true) if !dispatcher.is_stopping() => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::warn!(%error, "deliveries of a disabled destination could not be skipped yet");
                        if dispatcher.pause().await {
                            break;
                        }
                    }
                }
            }
            dispatcher.state().sweep.end();
            dispatcher.wake.notify_one();
            drop(alive);
        });
    }

    /// Reschedules what waits after the clock was set back. Every waiting delivery is examined, which takes a minute
    /// for some millions: others are attempted meanwhile.
    fn start_reschedule(self: &Arc<Self>) {
        let dispatcher = Arc::clone(self);
        let alive = self.alive.clone();
        tokio::spawn(async move {
            let mut step =
                RescheduleRetries::new(dispatcher.policy.retry_schedule.clone(), dispatcher.clock.now());
            let mut total = 0;
            loop {
                match dispatcher.store.reschedule_retries(step.clone()).await {
                    Ok(Rescheduled { count, next }) => {
                        total += count;
                        let Some(next) = next.filter(|_| !dispatcher.is_stopping()) else { break };
                        (step.after, step.now) = (next, dispatcher.clock.now());
                    }
                    Err(error) => {
                        tracing::warn!(
                            %error,
                            "waiting deliveries could not be examined for retries beyond a clock that was set back; the \
                             next try follows in a second"
                        );
                        if dispatcher.pause().await {
                            break;
                        }
                        step.now = dispatcher.clock.now();
                    }
                }
            }
            if total > 0 {
                tracing::warn!(count = total, "the clock was set back; retries are rescheduled");
                // The timers of their queues are those of the old times.
                dispatcher.search_until_found().await;
            }
            dispatcher.state().reschedule.end();
            dispatcher.wake.notify_one();
            drop(alive);
        });
    }
}

/// Logs that attempts have disabled a saved destination. Nothing else notifies the operator.
fn log_disabled(message: &DispatcherMessage) {
    if let DispatcherMessage::DestinationChanged { queue, disabled: Some(reason) } = message
        && matches!(reason, DisabledReason::Gone | DisabledReason::Failing)
    {
        tracing::warn!(queue, %reason, "a saved destination was disabled; its deliveries are skipped until it is enabled");
    }
}

/// An attempt in progress. Its delivery is unloaded when the attempt ends, even by a panic.
struct RunningAttempt {
    dispatcher: Arc<Dispatcher>,
    delivery: Box<PendingDelivery>,
    /// Next step of the delivery; `None` until the record of the attempt is written.
    next: Option<NextStep>,
    _alive: mpsc::Sender<()>,
}

impl RunningAttempt {
    async fn run(&mut self) {
        let dispatcher = Arc::clone(&self.dispatcher);
        // Without a result, the delivery is still due in the store.
        let Some((record, outcome)) = dispatcher.attempt(&self.delivery).await else { return };
        let (next, duration) = (record.after, Duration::from_millis(record.attempt.duration_ms.into()));
        let is_settled = outcome == AttemptOutcome::NotMade || dispatcher.record(record).await;
        let channel = self.delivery.destination.channel;
        dispatcher.store.metrics().attempted(channel, outcome, duration, next);
        self.next = is_settled.then_some(next);
    }
}

impl Drop for RunningAttempt {
    fn drop(&mut self) {
        let dispatcher = &self.dispatcher;
        let next = self.next.unwrap_or_else(|| {
            // After a panic, or without a record, the delivery is still due in the store: it is retried, but not at once.
            let due_at = dispatcher.clock.now().plus(PANIC_RETRY_PAUSE);
            NextStep::Retry { step: self.delivery.step, due_at, waited: self.delivery.waited }
        });
        dispatcher.state().finish(&self.delivery, next, dispatcher.clock.now());
        dispatcher.wake.notify_one();
    }
}

impl Dispatcher {
    /// Makes one attempt. Returns its record and its outcome; `None` if a stop dropped it.
    async fn attempt(&self, delivery: &PendingDelivery) -> Option<(RecordAttempt, AttemptOutcome)> {
        let at = self.clock.now();
        let scheduled = AttemptKind::Scheduled { step: delivery.step, waited: delivery.waited };
        let kind = if delivery.manual { AttemptKind::Manual } else { scheduled };
        let mut result = self.send(delivery, kind, at).await?;
        result.attempt.at = at;
        result.attempt.duration_ms = u32::try_from(result.duration.as_millis()).unwrap_or(u32::MAX);
        let ended_at = self.clock.now();
        let changes = self.settle(delivery, &result, (at, ended_at));
        log_changes(delivery, changes, &result);
        let next = next_attempt(&self.policy, delivery.id, kind, &result.outcome, ended_at);
        let next = match changes.outage {
            Some(outage) => {
                let requested = if let Outcome::Retry { after } = result.outcome { after } else { None }
                    .unwrap_or_default();
                let extra = delivery.attempts.saturating_sub(delivery.step);
                during_outage(next, kind, (outage.max(requested), extra), ended_at)
            }
            None => next,
        };
        if result.outcome != Outcome::NotMade {
            if let Some(finished) = &delivery.finished {
                self.store.metrics().detected(finished, at);
            }
            log_attempt(delivery, &result, next, self.trace_id(delivery).as_deref());
            self.store.tracer().record(|| attempt_span(delivery, &result));
        }
        let outcome = AttemptOutcome::from(&result.outcome);
        let record = RecordAttempt {
            app: delivery.app,
            delivery: delivery.id,
            event_type: delivery.event_type,
            manual: delivery.manual,
            before: delivery.attempts,
            attempt: result.attempt.into(),
            after: next,
            saved: delivery
                .destination
                .saved
                .as_ref()
                .map(|saved| (saved.no, delivery.destination.queue.clone())),
        };
        Some((record, outcome))
    }

    /// Updates the state after an exchange. If it has freed a place for another delivery, that one need not wait until
    /// the record of this one is written.
    fn settle(
        &self,
        delivery: &PendingDelivery,
        result: &AttemptResult,
        times: (Timestamp, Timestamp),
    ) -> Changes {
        let mut state = self.state();
        let changes = state.settle(delivery, result, times);
        if result.outcome != Outcome::NotMade {
            state.end_exchange(delivery);
            if state.can_send() {
                self.wake.notify_one();
            }
        }
        changes
    }

    /// Sends a delivery. Returns `None` if a stop dropped the attempt before the message was transmitted.
    async fn send(
        &self,
        delivery: &PendingDelivery,
        kind: AttemptKind,
        now: Timestamp,
    ) -> Option<AttemptResult> {
        let is_signed = channels::spec(delivery.destination.channel).is_signed;
        let app = if is_signed { self.store.app(delivery.app) } else { None };
        let (timeout, transmission) = (self.policy.timeout, Transmission::default());
        let identity = match self.identities.get((&self.store, &self.channels), delivery).await {
            Ok(identity) => identity,
            Err(not_made) => return Some(*not_made),
        };
        let (app, identity) = (app.as_deref(), identity.as_ref());
        let message = Message { delivery, app, now, timeout, identity, transmission: &transmission };
        let stopwatch = self.clock.stopwatch();
        let mut sending = std::pin::pin!(self.channels.send(message));
        let dropped = async || {
            self.stopping().await;
            let passed = self.stopping_for.get().map(Stopwatch::elapsed).unwrap_or_default();
            self.clock.deadline(timeout.saturating_sub(passed)).await;
        };
        tokio::select! {
            biased;
            result = &mut sending => return Some(result),
            () = transmission.completed() => {}
            () = dropped() => return None,
        }
        let late = async {
            self.clock.deadline(LATE_REPLY).await;
            self.postpone(delivery, kind).await;
            // All places may be taken; one is free when another reply arrives.
            while !self.state().await_reply(delivery) {
                tokio::select! {
                    () = self.clock.deadline(LATE_REPLY) => {}
                    () = self.stopping() => break,
                }
            }
            self.wake.notify_one();
            dropped().await;
        };
        tokio::select! {
            biased;
            result = &mut sending => Some(result),
            () = late => {
                let duration = stopwatch.elapsed();
                transmission.take_unclear().map(|unclear| AttemptResult { duration, ..unclear })
            }
        }
    }

    /// Writes when the next attempt is due if this one stays unclear. Failures are ignored: the attempt will be
    /// recorded anyway, unless the process ends.
    async fn postpone(&self, delivery: &PendingDelivery, kind: AttemptKind) {
        let now = self.clock.now();
        let Postponement { step, due_at, waited } = while_unclear(&self.policy, delivery, kind, now);
        let PendingDelivery { app, id: delivery, attempts: before, manual, .. } = *delivery;
        let postponement = PostponeDelivery { app, delivery, manual, before, step, due_at, waited, now };
        let postponed = self.store.postpone_delivery(postponement);
        if let Err(error) = postponed.await {
            tracing::debug!(%error, %delivery, "a delivery that waits for a late reply could not be postponed");
        }
    }

    /// Returns the id of the trace with the attempt's span, for the log, if traces are exported.
    fn trace_id(&self, delivery: &PendingDelivery) -> Option<String> {
        let is_traced = self.store.tracer().is_on() && delivery.event_type.is_of_watch();
        let context = is_traced.then(|| Context::of(delivery.watch, delivery.traceparent.as_deref()));
        context.flatten().map(|context| context.trace_id())
    }

    /// Writes a record, and repeats that until the store accepts it. Returns whether it is written.
    async fn record(&self, record: RecordAttempt) -> bool {
        let written = write_until_accepted(&self.clock, || self.store.record_attempt(record.clone())).await;
        let mut state = self.state();
        match written {
            Ok(()) => {
                state.unrecorded.recorded();
                true
            }
            Err(error) => {
                state.unrecorded.failed(self.clock.now());
                drop(state);
                let delivery = record.delivery;
                tracing::error!(
                    %error, %delivery,
                    "an attempt could not be recorded; its delivery is attempted again, at the latest after a restart, \
                     and no other attempt starts for a while"
                );
                false
            }
        }
    }
}

/// Returns the span of an attempt, for the trace of its watch. An event about no watch has no trace.
fn attempt_span(delivery: &PendingDelivery, result: &AttemptResult) -> Option<Span> {
    if !delivery.event_type.is_of_watch() {
        return None;
    }
    let context = Context::of(delivery.watch, delivery.traceparent.as_deref())?;
    let error = result.attempt.error.clone().filter(|_| result.outcome != Outcome::Ok);
    let provider = delivery.finished.as_ref().map(|finished| finished.provider.clone());
    let span = context
        .span("deliver", SpanKind::Client, result.attempt.at, result.duration)
        .about(&delivery.id.to_bytes())
        .with("ringback.watch.id", delivery.watch.to_string())
        .with("ringback.delivery.id", delivery.id.to_string())
        .with("ringback.event.id", delivery.event.to_string())
        .with("ringback.event.type", delivery.event_type.as_str())
        .with("ringback.channel", delivery.destination.channel.as_str())
        .with("ringback.attempt", i64::from(delivery.attempts) + 1)
        .with_some("ringback.provider", provider)
        .with("ringback.outcome", AttemptOutcome::from(&result.outcome).as_str())
        .with_some("http.response.status_code", result.attempt.status_code.map(i64::from));
    Some(span.failed(error.as_deref()))
}

/// Logs what an attempt changed for the other deliveries of its destination.
fn log_changes(delivery: &PendingDelivery, changes: Changes, result: &AttemptResult) {
    let queue = delivery.destination.queue.as_str();
    let (delivery, error) = (delivery.id, result.attempt.error.as_deref());
    if changes.opened == Some(Opened::Origin) {
        tracing::warn!(
            %delivery, queue, error,
            "the host cannot be reached: its deliveries wait, and single attempts are made until a connection stands"
        );
    }
    if changes.opened == Some(Opened::Url) {
        tracing::warn!(
            %delivery, queue, error,
            "the URL gives no complete answer: its deliveries wait, and single attempts are made until it answers"
        );
    }
    if changes.closed {
        tracing::info!(%delivery, queue, "the destination responds again: what was held back is sent now");
    }
    if let Some(count) = changes.paused {
        tracing::warn!(
            %delivery, queue, error, count,
            "no attempt could be made; it uses no place in the schedule, and the next one follows in a second"
        );
    }
}

/// Logs an attempt: at level info if it delivers an ending, or if a retry follows; as a warning if it was the last one.
fn log_attempt(delivery: &PendingDelivery, result: &AttemptResult, next: NextStep, trace_id: Option<&str>) {
    let (queue, status) = (delivery.destination.queue.as_str(), result.attempt.status_code);
    let (channel, error) = (delivery.destination.channel, result.attempt.error.as_deref());
    let PendingDelivery { id: delivery, watch, event_type: event, manual: is_manual, .. } = delivery;
    let watch = event.is_of_watch().then(|| display(watch));
    match next {
        // The last line of a watch. Progress, and manual retries, are of interest to developers only.
        NextStep::Succeeded if event.is_ending() && !is_manual => {
            tracing::info!(%delivery, watch, %event, %channel, queue, status, trace_id, "delivered");
        }
        NextStep::Succeeded => {
            tracing::debug!(%delivery, watch, %event, %channel, queue, status, trace_id, "delivered");
        }
        NextStep::Retry { due_at, .. } => {
            tracing::info!(%delivery, watch, %event, %channel, queue, status, trace_id, error, %due_at, "an attempt failed; a retry follows");
        }
        NextStep::Failed(reason) => {
            tracing::warn!(%delivery, watch, %event, %channel, queue, status, trace_id, error, %reason, "a delivery failed; it can be retried manually");
        }
        NextStep::Unchanged => {
            tracing::info!(%delivery, watch, %event, %channel, queue, status, trace_id, error, "a manual retry failed");
        }
    }
}
