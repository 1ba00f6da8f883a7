//! Sending.
//!
//! A delivery waits in the store until its turn comes; here is what is *in hand*: taken from the
//! store, waiting for its destination or in flight. First tries come straight from the commit that
//! made them ([`DispatcherMessage::Dispatch`]); everything else is paged in, lane by lane.
//!
//! **A lane for each destination** (app, scheme, host, port) with its own queue and its own share of
//! the concurrency, served in turns: one slow receiver holds back its own lane only, and one app, however
//! many lanes it has, none of another app's ([`turns`]). What is in hand is bounded, for each lane, for each
//! app and in all; what does not fit stays in the store, and the lane is [hungry](Lane::hungry).
//!
//! **Nothing is sent twice by us while we live.** A delivery in hand is not taken again: not from an
//! errand, not from a page. A page is read by the writer, between two transactions, and leaves out
//! what was in hand when it was asked for; while it is under way its lane takes no dispatcher_messages, so what is
//! in hand can only become less, and what was finished in between is no longer waiting in the store.
//! What is called off while a page is under way may be on it, and is left out when it arrives.
//!
//! **Nothing waits for ever.** Whatever makes a lane's next turn known puts it into
//! [`timers`](Hand::timers), a page tells the next one, and what is asked for by hand while it is in
//! hand is asked of the store again once it has been let go.
//!
//! **Some ways out take less** than a lane may send: what holds them back is the [`gate`]. **Where nobody
//! answers** a lane's backlog is not held up by one timeout after another: the [`breaker`].
//!
//! **An outcome is written before its delivery is let go**, however long the store refuses; and while
//! it refuses, no send starts.

mod breaker;
mod fair_queue;
mod pacing;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use crate::channels::{self, AttemptResult, Channels, Message};
use crate::clock::{Clock, SetBackDetector};
use crate::domain::{
    Activity, Attempt, AttemptKind, CancelScope, DeliveryId, DispatcherMessage, NextStep, Outcome,
    PendingDelivery, RetryPolicy, Timestamp, WatchId, next_attempt,
};
use crate::store::{Page, Paged, Record, Rewind, Store, StoreError, WRITE_RETRY_PAUSE, write_until_accepted};
use crate::telemetry::metrics::{AttemptOutcome, Load};
use crate::telemetry::traces::{Context, Span, SpanKind};
use breaker::{Breakers, Turn};
use fair_queue::{FairQueue, Shares};
use pacing::Pacer;

/// How many deliveries may be in hand in all, and how many bytes of bodies: what is beyond waits on
/// disk, not in memory.
const MOST: (usize, usize) = (8_192, 64 * 1024 * 1024);

/// How many pages may be under way: their bodies come on top of what is in hand.
const PAGES: usize = 16;

/// How, and how much, to send.
#[derive(Clone, Debug)]
pub struct Policy {
    /// When to try again.
    pub retries: RetryPolicy,
    /// For one exchange.
    pub timeout: Duration,
    /// How many may be in flight in all.
    pub concurrency: usize,
    /// How many may be in flight to one destination.
    pub per_destination: usize,
}

/// Sends.
#[derive(Debug)]
pub struct Dispatcher {
    store: Store,
    channels: Arc<Channels>,
    clock: Clock,
    policy: Policy,
    hand: Mutex<Hand>,
    woken: Notify,
    alive: mpsc::Sender<()>,
}

/// What is in hand.
#[derive(Debug, Default)]
struct Hand {
    lanes: HashMap<Arc<str>, Lane>,
    ids: HashSet<DeliveryId>,
    bytes: usize,
    in_flight: usize,
    /// Lanes with something to send and room to send it, in turns.
    ready: FairQueue,
    /// Hungry lanes with room, in turns.
    waiting: FairQueue,
    /// How much of all that each app has.
    shares: Shares,
    /// How many pages are under way, and how many deliveries they may bring.
    pages: (usize, usize),
    /// When a lane's next turn comes, one for each lane: the earliest. The page that it leads to tells
    /// the one after it.
    timers: BTreeSet<(Timestamp, Arc<str>)>,
    alarms: HashMap<Arc<str>, Timestamp>,
    /// What holds lanes back besides.
    gate: Pacer,
    /// Where nobody answers.
    breakers: Breakers,
    /// Asked for by hand while in hand.
    wanted: HashSet<DeliveryId>,
    clock: SetBackDetector,
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "four independent marks, each with its own sentence")]
struct Lane {
    queue: VecDeque<Box<PendingDelivery>>,
    flying: HashSet<DeliveryId>,
    /// Whether it stands in `ready`.
    listed: bool,
    /// There is more in the store.
    hungry: bool,
    /// Whether it stands in `waiting`.
    waits: bool,
    /// A page of so many is under way.
    paging: Option<usize>,
    /// Something came while a page was under way, and may not be on it.
    came: bool,
    /// What was called off while a page was under way, and may be on it.
    off: Vec<(WatchId, CancelScope)>,
}

impl Lane {
    fn in_hand(&self) -> usize {
        self.queue.len() + self.flying.len()
    }
}

/// Whether `send` is among what was called off.
fn is_off(send: &PendingDelivery, watch: WatchId, which: CancelScope) -> bool {
    send.watch == watch
        && match which {
            CancelScope::All => true,
            CancelScope::Progress => !send.event_type.is_ending(),
            CancelScope::To(destination) => send.destination.id == destination,
        }
}

impl Dispatcher {
    /// A dispatcher with empty hands. The receiver ends when the last send has.
    pub fn new(
        store: Store,
        channels: Arc<Channels>,
        clock: Clock,
        policy: Policy,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        let (hand, woken) = (Mutex::default(), Notify::new());
        (Arc::new(Self { store, channels, clock, policy, hand, woken, alive }), ended)
    }

    /// Finds the lanes in which something waits.
    pub async fn load(&self) -> Result<(), StoreError> {
        let rewind = Rewind { schedule: self.policy.retries.schedule.clone(), now: self.clock.now() };
        match self.store.rewind(rewind).await? {
            0 => {}
            count => tracing::warn!(count, "the clock was set back: retries are planned anew"),
        }
        let lanes = self.store.lanes().await?;
        let mut hand = self.hand();
        for (lane, turn) in lanes {
            hand.wake_at(&lane.into(), turn);
        }
        Ok(())
    }

    /// How much is in hand, for the metrics.
    pub fn load_now(&self) -> Load {
        let hand = self.hand();
        Load {
            loaded: hand.ids.len(),
            in_flight: hand.in_flight,
            down: hand.breakers.open(),
            ..Load::default()
        }
    }

    /// How much is under way, and when there is more to do.
    pub fn activity(&self) -> Activity {
        let now = self.clock.now();
        let hand = self.hand();
        let in_progress = self.alive.strong_count() - 1;
        let may_send = |app| hand.shares.may_send(app, self.policy.concurrency);
        let can_send = hand.in_flight < self.policy.concurrency && hand.ready.has_any(may_send);
        // While something is under way, its end looks after the hungry.
        let can_page = in_progress == 0 && hand.waiting.has_any(|app| hand.shares.may_take(app, MOST));
        let due = can_send
            || can_page
            || hand.clock.jump(now).is_some()
            || !self.store.dispatcher_messages().is_empty();
        Activity { in_progress, next_at: if due { Some(now) } else { hand.next() } }
    }

    /// Starts what can be sent now, and says when there is more.
    pub fn step(self: &Arc<Self>) -> Option<Timestamp> {
        let now = self.clock.now();
        let refusing = self.store.refusing();
        // What is taken from the hand and not started yet is under way, too.
        let _alive = self.alive.clone();
        let mut hand = self.hand();
        self.take_errands(&mut hand);
        hand.wake_lanes(now);
        // What is planned by a clock that was set back is planned anew first.
        hand.clock.advance(now);
        let sends = if refusing { Vec::new() } else { self.due_sends(&mut hand, now) };
        let pages = if refusing { Vec::new() } else { self.due_pages(&mut hand, now) };
        let next = hand.next();
        drop(hand);
        for page in pages {
            self.start_page(page);
        }
        for send in sends {
            let mut flight =
                Flight { dispatcher: Arc::clone(self), send, landed: false, _alive: self.alive.clone() };
            tokio::spawn(async move { flight.run().await });
        }
        if refusing { Some(now.plus(WRITE_RETRY_PAUSE)) } else { next }
    }

    /// What comes before a step. While the store refuses writes, asks whether it still does; after the
    /// clock was set back, plans anew what waits.
    pub async fn prepare(&self) {
        if self.store.refusing() {
            let _ = self.store.check_writes().await;
        }
        let now = self.clock.now();
        if self.hand().clock.jump(now).is_some() {
            match self.load().await {
                Ok(()) => self.hand().clock.reset(now),
                // Before the next step it is tried again.
                Err(error) => {
                    tracing::warn!(%error, "retries could not be planned by the clock as it is now");
                }
            }
        }
    }

    /// Makes [`Self::step`] be called: the clock was set back.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Returns when there is a reason to call [`Self::step`] before the time that it gave.
    pub async fn changed(&self) {
        let dispatcher_messages = self.store.dispatcher_messages();
        tokio::select! {
            () = self.woken.notified() => {}
            () = dispatcher_messages.arrived() => {}
        }
    }

    /// How many deliveries are in hand.
    pub fn in_hand(&self) -> usize {
        self.hand().ids.len()
    }

    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of a lane may be in hand: enough that it never waits for a page.
    fn lane_room(&self) -> usize {
        self.policy.per_destination * 2
    }

    fn take_errands(&self, hand: &mut Hand) {
        let room = self.lane_room();
        for errand in self.store.dispatcher_messages().take() {
            match errand {
                DispatcherMessage::Dispatch(send) => hand.take(send, room),
                DispatcherMessage::QueueChanged { queue: lane, requested: asked } => {
                    // A page leaves out what is in hand; once that has landed the store is asked again.
                    let in_hand: Vec<DeliveryId> =
                        asked.into_iter().filter(|id| hand.ids.contains(id)).collect();
                    hand.wanted.extend(in_hand);
                    hand.hunger(&lane.into());
                }
                DispatcherMessage::Skip { watch, which } => hand.call_off(watch, which),
            }
        }
    }

    /// Pages for the lanes that have little in hand, and more in the store.
    fn due_pages(&self, hand: &mut Hand, now: Timestamp) -> Vec<Page> {
        let room = self.lane_room();
        let (least, mut pages) = (self.policy.per_destination.div_ceil(2), Vec::new());
        while !hand.is_full() && hand.pages.0 < PAGES {
            let Hand { waiting, shares, .. } = hand;
            let Some(name) = waiting.pop(|app| shares.may_take(app, MOST)) else { break };
            let Some(lane) = hand.lanes.get_mut(&name) else { continue };
            lane.waits = false;
            let plenty = lane.queue.len() >= least || lane.in_hand() >= room;
            if !lane.hungry || lane.paging.is_some() || plenty {
                // It is listed again when there is a reason.
                continue;
            }
            let limit = room - lane.in_hand();
            lane.hungry = false;
            lane.paging = Some(limit);
            hand.pages.0 += 1;
            hand.pages.1 += limit;
            let in_hand = lane.queue.iter().map(|send| send.id).chain(lane.flying.iter().copied()).collect();
            let limit = u32::try_from(limit).unwrap_or(u32::MAX);
            pages.push(Page { lane: name.to_string(), now, limit, in_hand });
        }
        pages
    }

    #[expect(clippy::vec_box, reason = "the boxes come from the queue and go to the tasks")]
    fn due_sends(&self, hand: &mut Hand, now: Timestamp) -> Vec<Box<PendingDelivery>> {
        let mut sends = Vec::new();
        while hand.in_flight < self.policy.concurrency {
            let Hand { ready, shares, .. } = hand;
            let Some(name) = ready.pop(|app| shares.may_send(app, self.policy.concurrency)) else { break };
            let Some(lane) = hand.lanes.get_mut(&name) else { continue };
            lane.listed = false;
            if lane.flying.len() >= self.policy.per_destination {
                // It is listed again when one of its sends has landed.
                continue;
            }
            let Some(first) = lane.queue.front() else {
                hand.tidy(&name);
                continue;
            };
            if !hand.gate.admit(&name, first.destination.channel, now) {
                // It is listed again when the gate gives it back.
                continue;
            }
            let Some(send) = lane.queue.pop_front() else { continue };
            lane.flying.insert(send.id);
            hand.in_flight += 1;
            hand.shares.start(send.app);
            hand.list(&name);
            sends.push(send);
        }
        sends
    }

    fn start_page(self: &Arc<Self>, page: Page) {
        let dispatcher = Arc::clone(self);
        let alive = self.alive.clone();
        tokio::spawn(async move {
            let lane: Arc<str> = page.lane.as_str().into();
            let paged = dispatcher.store.page(page).await;
            if let Err(error) = &paged {
                tracing::warn!(%error, "waiting deliveries could not be read");
                dispatcher.clock.sleep(WRITE_RETRY_PAUSE).await;
            }
            dispatcher.hand().put_page(&lane, paged.ok());
            dispatcher.woken.notify_one();
            drop(alive);
        });
    }
}

impl Hand {
    fn is_full(&self) -> bool {
        self.ids.len() + self.pages.1 >= MOST.0 || self.bytes >= MOST.1
    }

    /// Takes a delivery straight from its commit, or leaves it to a page.
    fn take(&mut self, send: Box<PendingDelivery>, room: usize) {
        let full = self.is_full() || !self.shares.may_take(send.app, MOST);
        let known = self.ids.contains(&send.id);
        if known {
            self.wanted.insert(send.id);
        }
        let name: Arc<str> = send.destination.queue.as_str().into();
        let lane = self.lanes.entry(Arc::clone(&name)).or_default();
        if lane.paging.is_some() {
            lane.came = true;
        } else if full || known || lane.in_hand() >= room || lane.hungry {
            self.hunger(&name);
        } else {
            self.put(&name, send);
        }
    }

    /// There is more in the store for a lane.
    fn hunger(&mut self, name: &Arc<str>) {
        let lane = self.lanes.entry(Arc::clone(name)).or_default();
        if lane.paging.is_some() {
            lane.came = true;
            return;
        }
        lane.hungry = true;
        if !lane.waits {
            lane.waits = true;
            self.waiting.push(Arc::clone(name));
        }
    }

    fn put(&mut self, name: &Arc<str>, send: Box<PendingDelivery>) {
        if !self.ids.insert(send.id) {
            return;
        }
        self.bytes += send.body.len();
        self.shares.take(send.app, send.body.len());
        let lane = self.lanes.entry(Arc::clone(name)).or_default();
        lane.queue.push_back(send);
        self.list(name);
    }

    fn put_page(&mut self, name: &Arc<str>, paged: Option<Paged>) {
        let lane = self.lanes.entry(Arc::clone(name)).or_default();
        let (came, off) = (std::mem::take(&mut lane.came), std::mem::take(&mut lane.off));
        if let Some(limit) = lane.paging.take() {
            self.pages = (self.pages.0 - 1, self.pages.1 - limit);
        }
        let failed = paged.is_none();
        let Paged { sends, more, next } =
            paged.unwrap_or(Paged { sends: Vec::new(), more: false, next: None });
        for send in sends {
            if !off.iter().any(|(watch, which)| is_off(&send, *watch, *which)) {
                self.put(name, Box::new(send));
            }
        }
        if failed || more || came {
            self.hunger(name);
        }
        if let Some(next) = next {
            self.wake_at(name, next);
        }
        self.tidy(name);
    }

    /// A lane's next turn comes then.
    fn wake_at(&mut self, name: &Arc<str>, at: Timestamp) {
        match self.alarms.get(name) {
            Some(earliest) if *earliest <= at => return,
            Some(later) => self.timers.remove(&(*later, Arc::clone(name))),
            None => false,
        };
        self.alarms.insert(Arc::clone(name), at);
        self.timers.insert((at, Arc::clone(name)));
    }

    /// Puts a lane into the row of those that can send, if it can.
    fn list(&mut self, name: &Arc<str>) {
        if let Some(lane) = self.lanes.get_mut(name)
            && !lane.listed
            && !lane.queue.is_empty()
        {
            lane.listed = true;
            self.ready.push(Arc::clone(name));
        }
    }

    /// Drops what has not been sent yet of a watch.
    fn call_off(&mut self, watch: WatchId, which: CancelScope) {
        let Self { lanes, ids, bytes, wanted, shares, .. } = self;
        let mut emptied = Vec::new();
        for (name, lane) in lanes {
            let before = lane.queue.len();
            lane.queue.retain(|send| {
                let off = is_off(send, watch, which);
                if off {
                    ids.remove(&send.id);
                    wanted.remove(&send.id);
                    *bytes -= send.body.len();
                    shares.let_go(send.app, send.body.len());
                }
                !off
            });
            if lane.queue.len() < before {
                emptied.push(Arc::clone(name));
            }
            if lane.paging.is_some() {
                lane.off.push((watch, which));
            }
        }
        for name in emptied {
            self.feed(&name);
            self.tidy(&name);
        }
    }

    /// Lists a hungry lane again: there may be room now.
    fn feed(&mut self, name: &Arc<str>) {
        if self.lanes.get(name).is_some_and(|lane| lane.hungry) {
            self.hunger(name);
        }
    }

    /// When there is more to do, if nothing comes in between.
    fn next(&self) -> Option<Timestamp> {
        let turn = self.timers.first().map(|(at, _)| *at);
        turn.into_iter().chain(self.gate.next()).min()
    }

    /// Marks the lanes whose next turn has come, or whose gate is open again.
    fn wake_lanes(&mut self, now: Timestamp) {
        for name in self.gate.open(now) {
            self.list(&name);
        }
        while self.timers.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, name)) = self.timers.pop_first() else { return };
            self.alarms.remove(&name);
            self.hunger(&name);
        }
    }

    fn land(&mut self, send: &PendingDelivery, next: Next) {
        self.ids.remove(&send.id);
        self.bytes -= send.body.len();
        self.in_flight -= 1;
        self.shares.end(send.app);
        self.shares.let_go(send.app, send.body.len());
        for name in self.gate.finished(send.destination.channel) {
            self.list(&name);
        }
        let name: Arc<str> = send.destination.queue.as_str().into();
        if let Some(lane) = self.lanes.get_mut(&name) {
            lane.flying.remove(&send.id);
        }
        let wanted = self.wanted.remove(&send.id);
        match next {
            Next::At(at) => self.wake_at(&name, at),
            Next::Unknown => self.hunger(&name),
            Next::None => {}
        }
        if wanted {
            self.hunger(&name);
        }
        self.feed(&name);
        self.list(&name);
        self.tidy(&name);
    }

    /// Forgets a lane in which nothing happens.
    fn tidy(&mut self, name: &Arc<str>) {
        let idle = |lane: &Lane| {
            lane.in_hand() == 0 && lane.paging.is_none() && !lane.listed && !lane.hungry && !lane.waits
        };
        if self.lanes.get(name).is_some_and(idle) {
            self.lanes.remove(name);
        }
    }
}

/// When a delivery that was let go has its next turn.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Then.
    At(Timestamp),
    /// The store knows: it was tried by hand, and its schedule goes on, if it has one.
    Unknown,
    /// Never.
    None,
}

/// A send in flight. However it ends, a panic included, its delivery is let go.
struct Flight {
    dispatcher: Arc<Dispatcher>,
    send: Box<PendingDelivery>,
    landed: bool,
    _alive: mpsc::Sender<()>,
}

impl Flight {
    async fn run(&mut self) {
        let dispatcher = Arc::clone(&self.dispatcher);
        let (record, outcome) = dispatcher.attempt(&self.send).await;
        let next = match record.after {
            NextStep::Retry { due_at, .. } => Next::At(due_at),
            NextStep::Unchanged => Next::Unknown,
            NextStep::Succeeded | NextStep::Failed(_) => Next::None,
        };
        let (after, took) = (record.after, Duration::from_millis(record.attempt.duration_ms.into()));
        dispatcher.insist(record).await;
        let channel = self.send.destination.channel;
        dispatcher.store.metrics().attempted(channel, outcome, took, after);
        self.land(next);
    }

    fn land(&mut self, next: Next) {
        self.landed = true;
        self.dispatcher.hand().land(&self.send, next);
        self.dispatcher.woken.notify_one();
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if !self.landed {
            // Its row still waits, and its turn has come: it is tried again, a little later.
            self.land(Next::At(self.dispatcher.clock.now().plus(Duration::from_secs(60))));
        }
    }
}

impl Dispatcher {
    /// One try, what is to be written of it, and what it came to in a word.
    async fn attempt(&self, send: &PendingDelivery) -> (Record, AttemptOutcome) {
        let at = self.clock.now();
        if let Some(finished) = &send.finished {
            self.store.metrics().detected(finished, at);
        }
        let which =
            if send.manual { AttemptKind::Manual } else { AttemptKind::Scheduled { step: send.step } };
        let lane = &send.destination.queue;
        let tried = self.policy.retries.is_last(which) || self.hand().breakers.admits(lane, at);
        let report = if tried { self.hand_over(send, at).await } else { AttemptResult::destination_down() };
        self.heed(send, &report);
        let ended_at = self.clock.now();
        let after = next_attempt(&self.policy.retries, send.id, which, &report.outcome, ended_at);
        say(send, &report, after, self.trace_id(send).as_deref());
        self.store.tracer().record(|| attempt_span(send, &report, at));
        let outcome = AttemptOutcome::from(&report.outcome);
        let record = Record {
            app: send.app,
            delivery: send.id,
            manual: send.manual,
            before: send.attempts,
            attempt: Attempt {
                at,
                duration_ms: u32::try_from(report.duration.as_millis()).unwrap_or(u32::MAX),
                status_code: report.status_code,
                error: report.error,
                request_headers: report.request_headers,
                response_headers: report.response_headers,
                response_body: report.response_body,
            },
            after,
        };
        (record, outcome)
    }

    async fn hand_over(&self, send: &PendingDelivery, now: Timestamp) -> AttemptResult {
        let is_signed = channels::spec(send.destination.channel).is_signed;
        let app = if is_signed { self.store.app(send.app) } else { None };
        let message = Message { delivery: send, app: app.as_deref(), now };
        self.channels.send(message, self.policy.timeout).await
    }

    /// What a try tells of those that come after it.
    fn heed(&self, send: &PendingDelivery, report: &AttemptResult) {
        let (lane, now) = (send.destination.queue.as_str(), self.clock.now());
        let mut hand = self.hand();
        let channel = send.destination.channel;
        if let (Some(429), Outcome::Retry { after: Some(span) }) = (report.status_code, &report.outcome) {
            hand.gate.rate_limited(lane, channel, *span, now);
        }
        let turn = match report.status_code {
            Some(_) => hand.breakers.answered(lane),
            None if report.unreachable && channels::spec(channel).has_breaker => {
                hand.breakers.silent(lane, now)
            }
            None => None,
        };
        drop(hand);
        match turn {
            Some(Turn::Opened) => {
                tracing::warn!(
                    lane,
                    "nobody answers there: one send in a while is tried until somebody does"
                );
            }
            Some(Turn::Closed) => tracing::info!(lane, "somebody answers there again"),
            None => {}
        }
    }

    /// For the log: the trace in which the attempt's span is, if traces are kept.
    fn trace_id(&self, send: &PendingDelivery) -> Option<String> {
        let traced = self.store.tracer().is_on();
        let context = traced.then(|| Context::of(send.watch, send.traceparent.as_deref()));
        context.flatten().map(|context| context.trace_id())
    }

    /// Writes an outcome until the store takes it.
    async fn insist(&self, record: Record) {
        let written = write_until_accepted(&self.clock, || self.store.record(record.clone())).await;
        if let Err(error) = written {
            tracing::error!(%error, delivery = %record.delivery, "an attempt could not be written");
        }
    }
}

/// What was wrong with an attempt, in words.
fn wrong(report: &AttemptResult) -> Option<String> {
    report.error.clone().or_else(|| report.status_code.map(|status| format!("HTTP {status}")))
}

/// An attempt, for the trace of its watch.
fn attempt_span(send: &PendingDelivery, report: &AttemptResult, at: Timestamp) -> Option<Span> {
    let context = Context::of(send.watch, send.traceparent.as_deref())?;
    let ok = report.outcome == Outcome::Ok;
    let error = wrong(report);
    let span = context
        .span("deliver", SpanKind::Client, at, report.duration)
        .about(&send.id.to_bytes())
        .with("ringback.watch.id", send.watch.to_string().as_str())
        .with("ringback.delivery.id", send.id.to_string().as_str())
        .with("ringback.event.id", send.event.to_string().as_str())
        .with("ringback.event.type", send.event_type.as_str())
        .with("ringback.channel", send.destination.channel.as_str())
        .with("ringback.attempt", send.attempts.saturating_add(1))
        .with_some("ringback.provider", send.finished.as_ref().map(|finished| finished.provider.as_str()))
        .with("ringback.outcome", AttemptOutcome::from(&report.outcome).as_str())
        .with_some("http.response.status_code", report.status_code);
    Some(span.failed(error.as_deref().filter(|_| !ok)))
}

/// One line for each attempt that did not succeed; a warning where it was the last.
fn say(send: &PendingDelivery, report: &AttemptResult, after: NextStep, trace_id: Option<&str>) {
    let (delivery, watch, event) = (send.id, send.watch, send.event_type);
    let (lane, status) = (send.destination.queue.as_str(), report.status_code);
    let channel = send.destination.channel;
    let error = wrong(report);
    match after {
        NextStep::Succeeded => {
            tracing::debug!(%delivery, %watch, %event, %channel, lane, status, trace_id, "delivered");
        }
        NextStep::Retry { due_at, .. } => {
            tracing::info!(%delivery, %watch, %event, %channel, lane, status, trace_id, error, %due_at, "not delivered, to be tried again");
        }
        NextStep::Failed(reason) => {
            tracing::warn!(%delivery, %watch, %event, %channel, lane, status, trace_id, error, %reason, "given up; it can be retried by hand");
        }
        NextStep::Unchanged => {
            tracing::info!(%delivery, %watch, %event, %channel, lane, status, trace_id, error, "a try by hand failed");
        }
    }
}
