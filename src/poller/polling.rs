//! The poller: it starts polls, writes their results, and reports its state.

mod cancelling;
mod own;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};

use super::app_memory::AppMemory;
use super::decide::{Decision, decide, give_up};
use super::decide_result::{ResultRequest, decide_result, give_up_result};
use super::own_providers::{NoProvider, OwnProviders};
use super::pending_result::{PendingResult, memory_kib};
use super::provider::{PollResponse, Provider};
use super::scheduler::{Action, FinishedPoll, ProviderQueue, Scheduler};
use crate::clock::Clock;
use crate::domain::{
    Activity, AppNo, CredentialState, INLINE, JobName, JobNo, Limits, PollPolicy, PollStats, ProgressRound,
    ProviderHealth, ProviderState, Rate, Timestamp,
};
use crate::egress::Egress;
use crate::own_work::OwnWork;
use crate::providers::{Definition, InlinePoll, Interpretation, NextResult};
use crate::store::{
    ExpireWatches, JobPage, NotFoundEnd, NotifyWatches, RecordObservation, RefreshEnding, Store, StoreError,
    WRITE_RETRY_PAUSE, write_until_accepted,
};
use crate::telemetry::metrics::{Load, ProviderMetrics};
use crate::telemetry::traces::{Context, Span, SpanKind};

/// Number of jobs that are read at a time at start.
const PAGE: u32 = 10_000;

/// Pause of a job after an error that indicates a bug, so that the bug is not repeated quickly.
const AFTER_BUG: Duration = Duration::from_secs(60);

/// Largest number of waiting polls that is counted for the API. The scheduler is locked during the count.
const WAITING_SHOWN: usize = 10_000;

/// Maximum number of jobs whose watches end at the same time without the result of a poll. After an outage of a
/// provider, all of its jobs can expire at the same moment.
const GIVE_UPS: usize = 16;

/// Error of a job that the last start could not read.
const UNREADABLE: &str =
    "the server cannot read what it has stored of the job, so the job is not polled; ask the operator";

/// Error of a job whose credential or definition cannot be read.
const UNREADABLE_SOURCE: &str = "the server cannot read the credential or the definition that it has stored, so the job is not polled; ask the \
     operator, or create it again and register the job again";

/// Label of the metrics of all definitions of apps, whose number is not bounded. It is no id of a provider.
const OF_APPS: &str = "of_apps";

/// Polls jobs.
#[derive(Debug)]
pub struct Poller {
    store: Store,
    egress: Arc<Egress>,
    clock: Clock,
    /// The providers and their metrics, in the order of the scheduler's queues, which is that of the ids.
    providers: Vec<(Arc<ProviderMetrics>, Arc<Provider>)>,
    /// Those of the jobs that are an app's alone.
    own: OwnProviders,
    /// Metrics of the jobs without a definition, and of the providers that only apps have credentials for; exported
    /// from the first poll on.
    own_metrics: Mutex<BTreeMap<String, Arc<ProviderMetrics>>>,
    scheduler: Mutex<Scheduler>,
    /// Jobs that the last start could not read.
    unreadable: Mutex<BTreeSet<JobNo>>,
    /// Permits of jobs whose watches end without the result of a poll.
    give_ups: Semaphore,
    /// Memory of pending results.
    result_memory: Arc<AppMemory>,
    alive: mpsc::Sender<()>,
}

impl Poller {
    /// Creates a poller without jobs. `providers` are sorted by id, and `inline` has the settings of jobs without a
    /// definition. The receiver closes when the last poll has ended.
    pub fn new(
        store: Store,
        egress: Arc<Egress>,
        clock: Clock,
        providers: Vec<Provider>,
        inline: (PollPolicy, Limits),
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let now = clock.now();
        let queue = |p: &Provider| ProviderQueue::new(p.definition.id.clone(), p.policy, p.limits, now);
        let queues = providers.iter().map(queue).chain([queue_of_unknown_providers(now)]).collect();
        let scheduler = Mutex::new(Scheduler::new(queues, inline, now));
        let metrics = |p: &Provider| Arc::new(store.metrics().provider(&p.definition.id, is_configured(p)));
        let providers = providers.into_iter().map(|p| (metrics(&p), Arc::new(p))).collect();
        let (alive, ended) = mpsc::channel(1);
        let give_ups = Semaphore::new(GIVE_UPS);
        let result_memory = AppMemory::new();
        let own = OwnProviders::new(OwnWork::new(clock.clone()));
        let poller = Self {
            store,
            egress,
            clock,
            providers,
            own,
            own_metrics: Mutex::default(),
            scheduler,
            unreadable: Mutex::default(),
            give_ups,
            result_memory,
            alive,
        };
        (Arc::new(poller), ended)
    }

    /// Returns what runs the work that definitions of apps cause.
    pub fn own_work(&self) -> Arc<OwnWork> {
        self.own.work()
    }

    /// Builds the schedules from the store's rows, and ends the watches of endings that a crash left open. Call it
    /// once, before clients can register watches: it replaces existing schedules.
    pub async fn load(&self) -> Result<(), StoreError> {
        for NotifyWatches { job, generation } in self.store.unfinished_endings().await? {
            match self.notify_watches(job, generation).await {
                // One broken row must not stop the notification of other watches.
                Err(error @ StoreError::Inconsistent(_)) => {
                    tracing::error!(%error, row = job.0, "some watches of an ended job cannot be ended");
                }
                notified => notified?,
            }
        }
        let mut after = JobNo(0);
        loop {
            let JobPage { jobs: mut page, unreadable, last } =
                self.store.jobs(after, PAGE, self.clock.now()).await?;
            let Some(last) = last else { return self.load_cancels().await };
            after = last;
            self.unreadable().extend(unreadable);
            if self.store.tracer().is_on() {
                let traced = self.store.traced_watches(page.iter().map(|facts| facts.no).collect()).await?;
                for (facts, traced) in page.iter_mut().zip(traced) {
                    facts.traced = traced;
                }
            }
            let now = self.clock.now();
            let mut scheduler = self.scheduler();
            for facts in &page {
                scheduler.load(facts, now);
            }
        }
    }

    /// Returns the poll statistics of a job.
    pub fn stats(&self, job: JobNo) -> Option<PollStats> {
        let now = self.clock.now();
        let stats = self.scheduler().stats(job, now);
        let is_unreadable = || self.unreadable().contains(&job);
        stats.or_else(|| {
            is_unreadable()
                .then(|| PollStats { last_error: Some(UNREADABLE.to_owned()), ..PollStats::default() })
        })
    }

    fn unreadable(&self) -> MutexGuard<'_, BTreeSet<JobNo>> {
        self.unreadable.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the state of each provider, sorted by id, and at the end those of the definitions of this app that have
    /// jobs, and of its jobs without a definition, if it has any.
    pub fn providers(&self, app: AppNo) -> Vec<ProviderState> {
        let now = self.clock.now();
        let scheduler = self.scheduler();
        let mut of_credentials = credential_states(&scheduler, app, now);
        let state = |((_, provider), queue): (&(_, Arc<Provider>), &ProviderQueue)| {
            let (health, held_until) = queue.budget.health(now);
            let definition = &provider.definition;
            let configured = is_configured(provider);
            ProviderState {
                id: definition.id.clone(),
                definition: definition.definition_id().to_owned(),
                name: definition.name.clone(),
                of_app: false,
                configured,
                health: if configured { health } else { ProviderHealth::Unconfigured },
                held_until,
                last_good_at: queue.budget.last_ok,
                last_error: queue.last_error.clone().map(|error| (error.at, error.text)),
                in_flight: queue.budget.in_flight,
                waiting: queue.waiting(&scheduler.jobs, now, WAITING_SHOWN),
                policy: provider.policy,
                limits: provider.limits,
                mistakes: Vec::new(),
                credentials: of_credentials.remove(&definition.id).unwrap_or_default(),
            }
        };
        let of_definitions = self.providers.iter().zip(&scheduler.queues).map(state);
        of_definitions.chain(own_states(&scheduler, app, now)).collect()
    }

    /// Updates the metrics of each provider, and returns the load for the other metrics.
    pub fn load_now(&self) -> Load {
        let scheduler = self.scheduler();
        // The health of an app's credential is the app's, and no reason to alarm the operator.
        let mut own: BTreeMap<&str, (u32, bool)> = BTreeMap::new();
        for queue in scheduler.on_demand.all().map(|index| &scheduler.queues[index]) {
            let of_operator = queue.credential.is_some() && !queue.of_app;
            let provider = match queue {
                queue if queue.of_app => OF_APPS,
                queue if of_operator => queue.provider.as_str(),
                _ => INLINE,
            };
            let (in_flight, is_open) = own.entry(provider).or_default();
            *in_flight += queue.budget.in_flight;
            *is_open |= queue.budget.is_open() && !of_operator;
        }
        for (queue, (metrics, provider)) in scheduler.queues.iter().zip(&self.providers) {
            let budget = &queue.budget;
            let (in_flight, _) = own.get(provider.definition.id.as_str()).copied().unwrap_or_default();
            metrics.set_state(budget.in_flight + in_flight, budget.is_open(), budget.is_paused());
        }
        for (provider, metrics) in &*self.own_metrics() {
            let (in_flight, is_open) = own.get(provider.as_str()).copied().unwrap_or_default();
            metrics.set_state(in_flight, is_open, false);
        }
        Load { jobs: scheduler.jobs.len(), watching: scheduler.watching, ..Load::default() }
    }

    /// Returns the number of polls in progress, and the time of the next one.
    pub fn activity(&self) -> Activity {
        let now = self.clock.now();
        let scheduler = self.scheduler();
        let unchanged = self.store.poller_messages().is_empty() && scheduler.clock.jump(now).is_none();
        let next_at = if unchanged { scheduler.next_step_at } else { Some(now) };
        let in_progress = self.alive.strong_count() - 1 + self.egress.in_background();
        Activity { in_progress, next_at, in_background: 0 }
    }

    /// Starts the polls that are due, and returns the time of the next one. While a table of the database is missing,
    /// none starts.
    pub fn step(self: &Arc<Self>) -> Option<Timestamp> {
        let (now, moment) = self.clock.reading();
        // A poll that the scheduler has returned counts as in progress before its task starts.
        let _alive = self.alive.clone();
        let (actions, next) = {
            let mut scheduler = self.scheduler();
            scheduler.follow_clock(now);
            scheduler.judge_clock(now, moment);
            self.merge_messages(&mut scheduler, now);
            // The result of a poll could not be written.
            if self.store.is_schema_broken() {
                scheduler.next_step_at = Some(now.plus(WRITE_RETRY_PAUSE));
                return scheduler.next_step_at;
            }
            for lost in std::mem::take(&mut scheduler.lost_cancels) {
                self.start_give_up(lost);
            }
            let actions = scheduler.take_due(now);
            scheduler.next_step_at = scheduler.next_due(now);
            (actions, scheduler.next_step_at)
        };
        for action in actions {
            let (poller, alive) = (Arc::clone(self), self.alive.clone());
            match action {
                Action::Cancel(queue, job, app) => poller.start_cancel((queue, job, app), alive),
                Action::Poll(job) => {
                    let mut task = PollTask { poller, job, started: now, finished: false, _alive: alive };
                    tokio::spawn(async move { task.run().await });
                }
                Action::GiveUp(job, until) => {
                    let expired = give_up(&self.scheduler(), job, until, now);
                    tokio::spawn(async move {
                        let permit = poller.give_ups.acquire().await;
                        poller.expire(expired).await;
                        poller.wake();
                        drop((permit, alive));
                    });
                }
                Action::EndWithoutResult(job) => {
                    let decision = give_up_result(&mut self.scheduler(), job, now);
                    tokio::spawn(async move {
                        let permit = poller.give_ups.acquire().await;
                        poller.end_without_result(decision).await;
                        poller.wake();
                        drop((permit, alive));
                    });
                }
            }
        }
        next
    }

    /// Causes a call of [`Self::step`].
    pub fn wake(&self) {
        self.store.poller_messages().wake();
    }

    /// Returns when [`Self::step`] must be called before the time that it returned.
    pub async fn changed(&self) {
        self.store.poller_messages().arrived().await;
    }

    fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Merges the messages of the store into the scheduler. Call it before deciding anything.
    fn merge_messages(&self, scheduler: &mut Scheduler, now: Timestamp) {
        for message in self.store.poller_messages().take() {
            scheduler.apply(message, now);
        }
    }

    /// Writes an observation and notifies the watches of the job, a chunk at a time. The bytes of the events delay the
    /// next round of progress events of their app.
    async fn record(&self, mut observed: RecordObservation) {
        let job = observed.job;
        let mut rounds: BTreeMap<AppNo, ProgressRound> = BTreeMap::new();
        while let Some(notified) = self.write(|| self.store.record_observation(observed.clone())).await {
            rounds.extend(notified.rounds.into_iter().map(|round| (round.app, round)));
            if notified.next.is_empty() {
                break;
            }
            observed.after = notified.next;
        }
        let mut scheduler = self.scheduler();
        let found = scheduler.jobs.get_mut(&job).filter(|found| found.generation == observed.generation);
        if let Some(found) = found {
            for round in rounds.values() {
                found.hold(round);
            }
        }
    }

    async fn expire(&self, expire: ExpireWatches) {
        while self.write(|| self.store.expire_watches(expire.clone())).await == Some(true) {}
    }

    /// Writes the end of a job without its results.
    async fn end_without_result(&self, decision: Option<Decision>) {
        let Some(mut decision) = decision else { return };
        let (job, generation) = (decision.job, decision.generation);
        let has_ended = self.write_decision(&mut decision).await;
        let now = self.clock.now();
        let mut scheduler = self.scheduler();
        scheduler.follow_clock(now);
        self.merge_messages(&mut scheduler, now);
        scheduler.end_wait(job, generation, has_ended, AFTER_BUG, now);
    }

    /// Ends the remaining watches of an ended job, a chunk at a time.
    async fn notify_watches(&self, job: JobNo, generation: i64) -> Result<(), StoreError> {
        while self.store.notify_watches(NotifyWatches { job, generation }).await? {}
        Ok(())
    }

    /// Writes a result as soon as the database accepts writes. Returns `None` if it can never be written.
    async fn write<T, F: Future<Output = Result<T, StoreError>>>(&self, write: impl Fn() -> F) -> Option<T> {
        write_until_accepted(&self.clock, write)
            .await
            .inspect_err(|error| tracing::error!(%error, "the result of a poll cannot be written"))
            .ok()
    }
}

/// Returns whether the operator's settings permit polls.
fn is_configured(provider: &Provider) -> bool {
    provider.credential.is_some() || !provider.definition.needs_credential()
}

/// Returns the state of an app's credentials by the ids of the definitions, in the order of their names.
fn credential_states(
    scheduler: &Scheduler,
    app: AppNo,
    now: Timestamp,
) -> BTreeMap<String, Vec<CredentialState>> {
    let mut states: BTreeMap<String, Vec<CredentialState>> = BTreeMap::new();
    let queues = scheduler.on_demand.of_definitions(app).map(|index| &scheduler.queues[index]);
    for queue in queues.filter(|queue| !queue.of_app) {
        let (health, held_until) = queue.budget.health(now);
        states.entry(queue.provider.clone()).or_default().push(CredentialState {
            name: queue.credential.clone().unwrap_or_default(),
            health,
            held_until,
            last_good_at: queue.budget.last_ok,
            last_error: queue.last_error.clone().map(|error| (error.at, error.text)),
            in_flight: queue.budget.in_flight,
            waiting: queue.waiting(&scheduler.jobs, now, WAITING_SHOWN),
        });
    }
    for states in states.values_mut() {
        states.sort_by(|one, other| one.name.cmp(&other.name));
    }
    states
}

/// Returns the states of an app's jobs without a definition and of its definitions: for each, the worst health of its
/// queues, and their sums.
fn own_states(scheduler: &Scheduler, app: AppNo, now: Timestamp) -> Vec<ProviderState> {
    let of_queue = |index: usize| {
        let queue = &scheduler.queues[index];
        let (health, held_until) = queue.budget.health(now);
        let id = if queue.of_app { queue.provider.as_str() } else { INLINE };
        ProviderState {
            id: id.to_owned(),
            definition: id.to_owned(),
            name: if queue.of_app { id } else { "Jobs without a definition" }.to_owned(),
            of_app: queue.of_app,
            configured: true,
            health,
            held_until,
            last_good_at: queue.budget.last_ok,
            last_error: queue.last_error.clone().map(|error| (error.at, error.text)),
            in_flight: queue.budget.in_flight,
            waiting: queue.waiting(&scheduler.jobs, now, WAITING_SHOWN),
            policy: queue.policy,
            limits: queue.budget.limits(),
            mistakes: Vec::new(),
            credentials: Vec::new(),
        }
    };
    let severity = |health: ProviderHealth| match health {
        ProviderHealth::Ok => 0,
        ProviderHealth::Degraded => 1,
        ProviderHealth::Paused
        | ProviderHealth::Down
        | ProviderHealth::Invalid
        | ProviderHealth::Unconfigured => 2,
    };
    let merge = |one: ProviderState, other: ProviderState| {
        let health = std::cmp::max_by_key(one.health, other.health, |health| severity(*health));
        ProviderState {
            health,
            held_until: one.held_until.max(other.held_until),
            last_good_at: one.last_good_at.max(other.last_good_at),
            last_error: std::cmp::max_by_key(one.last_error, other.last_error, |error| {
                error.as_ref().map(|(at, _)| *at)
            }),
            in_flight: one.in_flight + other.in_flight,
            waiting: (one.waiting + other.waiting).min(WAITING_SHOWN),
            ..other
        }
    };
    let own = scheduler.on_demand.of_definitions(app).filter(|index| scheduler.queues[*index].of_app);
    let mut states: BTreeMap<String, ProviderState> = BTreeMap::new();
    for state in own.map(of_queue) {
        let merged = match states.remove(&state.id) {
            Some(known) => merge(known, state),
            None => state,
        };
        states.insert(merged.id.clone(), merged);
    }
    let (policy, limits) = scheduler.on_demand.settings();
    // The limits of the operator, and not those of a queue that they made stricter.
    let inline = scheduler.on_demand.of_app(app).map(of_queue).reduce(merge);
    states.into_values().chain(inline.map(|inline| ProviderState { policy, limits, ..inline })).collect()
}

/// Returns the queue of jobs whose provider is not defined any more. They cannot be polled; they expire in time.
fn queue_of_unknown_providers(now: Timestamp) -> ProviderQueue {
    let hour = Duration::from_secs(3600);
    let policy = PollPolicy { first: hour, min_interval: hour, max_interval: hour, ..PollPolicy::default() };
    let limits = Limits { rate: Rate { spacing: None }, burst: 1, concurrency: 0 };
    ProviderQueue::new(String::new(), policy, limits, now)
}

/// A poll in flight. However it ends, by a panic for example, the job is scheduled again.
struct PollTask {
    poller: Arc<Poller>,
    job: JobNo,
    started: Timestamp,
    /// Whether the next poll is scheduled.
    finished: bool,
    _alive: mpsc::Sender<()>,
}

impl PollTask {
    /// Polls the job, writes the result, and schedules the next poll.
    async fn run(&mut self) {
        let poller = Arc::clone(&self.poller);
        let found = poller.scheduler().jobs.get(&self.job).map(|schedule| {
            let trace = schedule.trace.as_deref().copied();
            let is_accepted = schedule.known.has_raw_status(InlinePoll::ACCEPTED);
            let source = schedule.poll.clone().map(|source| (source, is_accepted));
            (schedule.queue(), schedule.name.clone(), source, schedule.app, trace)
        });
        let Some((queue, name, source, app, trace)) = found else { return };
        let own = match &source {
            Some((source, is_accepted)) => {
                poller.own_provider((app, &name), source, *is_accepted).await.map(Some)
            }
            None => Ok(poller.providers.get(queue).cloned()),
        };
        let (metrics, provider) = match own {
            Ok(Some((metrics, provider))) => (metrics, provider),
            // The job is scheduled again.
            Ok(None) => return,
            Err(NoProvider::Store(error)) => {
                tracing::warn!(job = name.job_id, %error, "the credential or the definition of a job cannot be read; it is polled in a minute");
                if matches!(error, StoreError::Inconsistent(_)) {
                    self.note_error(UNREADABLE_SOURCE.to_owned());
                }
                return;
            }
            // The job is scheduled again.
            Err(NoProvider::NotNow(error)) => {
                tracing::debug!(job = name.job_id, error, "a job is not polled yet");
                return;
            }
            Err(NoProvider::Unusable(error)) => {
                tracing::warn!(
                    job = name.job_id,
                    error,
                    "what is stored of how a job is polled cannot be used"
                );
                self.note_error(error);
                return self.give_up_own().await;
            }
        };
        let provider = &*provider;
        if let Some(pending) = self.take_pending() {
            return self.request_result(provider, &name, trace, pending).await;
        }
        let stopwatch = poller.clock.stopwatch();
        let mut response = provider.poll(&poller.egress, &poller.clock, &name).await;
        let (now, took) = (poller.clock.now(), stopwatch.elapsed());
        if let Interpretation::Ok(report) = &response.meaning
            && !report.results.is_empty()
        {
            response.memory = poller.result_memory.take(app, memory_kib(report, response.raw.as_ref()));
        }
        metrics.polled(response.meaning.outcome(), took);
        if matches!(&response.meaning, Interpretation::Ok(report) if report.unknown_status) {
            metrics.unknown_status();
        }
        let span =
            trace.map(|trace| self.span(trace, took, (&name, provider.definition.method()), &response));
        poller.store.tracer().record(|| span.clone());
        poller.note_cancelled(self.job, &mut response.meaning).await;
        let mut decision = {
            let mut scheduler = poller.scheduler();
            scheduler.follow_clock(now);
            poller.merge_messages(&mut scheduler, now);
            // If the clock was set back during the poll, its start lies in the future.
            decide(&mut scheduler, self.job, response, self.started.min(now), now)
        };
        if let Some(error) = decision.first_error.take() {
            let (id, job, url) =
                (name.provider.as_str(), name.job_id.as_str(), provider.shown_url(&name).await);
            tracing::warn!(
                provider = id,
                job,
                url,
                error,
                "a poll failed; further ones are not logged until one succeeds: if all fail, check base_url"
            );
        }
        self.carry_out(decision, &name, trace.zip(span), now).await;
    }

    /// Notes for the clients why no poll was made.
    fn note_error(&self, error: String) {
        if let Some(schedule) = self.poller.scheduler().jobs.get_mut(&self.job) {
            schedule.rare().last_error = Some(error);
        }
    }

    /// Returns the results of the job that are pending.
    fn take_pending(&self) -> Option<Box<PendingResult>> {
        let mut scheduler = self.poller.scheduler();
        let schedule = scheduler.jobs.get_mut(&self.job)?;
        let generation = schedule.generation;
        let pending = schedule.rare.as_mut()?.pending_result.take();
        pending.filter(|pending| pending.generation == generation)
    }

    /// Requests the next result of the job, writes what follows from it, and schedules the next step.
    async fn request_result(
        &mut self,
        provider: &Provider,
        name: &JobName,
        trace: Option<Context>,
        pending: Box<PendingResult>,
    ) {
        let poller = Arc::clone(&self.poller);
        let stopwatch = poller.clock.stopwatch();
        let response = provider.result(&poller.egress, &poller.clock, name, &pending.report).await;
        let (now, took) = (poller.clock.now(), stopwatch.elapsed());
        let definition = &provider.definition;
        let about = |read: fn(&Definition, &NextResult) -> bool| {
            pending.next().is_some_and(|next| read(definition, next))
        };
        let request = ResultRequest {
            has_credential: about(Definition::sends_credential),
            is_json: about(Definition::is_json),
            started: self.started.min(now),
        };
        let (id, job, error) = (name.provider.as_str(), name.job_id.as_str(), response.meaning.message());
        tracing::debug!(provider = id, job, error, "the result of an ended job was requested");
        let span = trace.map(|trace| {
            trace
                .span("result", SpanKind::Client, self.started, took)
                .about(name.job_id.as_bytes())
                .with("ringback.provider", name.provider.clone())
                .with("ringback.job.id", name.job_id.clone())
                .with("ringback.outcome", response.meaning.outcome().as_str())
                .with_some("http.response.status_code", response.http_status.map(i64::from))
                .failed(response.meaning.message())
        });
        poller.store.tracer().record(|| span.clone());
        let decision = {
            let mut scheduler = poller.scheduler();
            scheduler.follow_clock(now);
            poller.merge_messages(&mut scheduler, now);
            decide_result(&mut scheduler, self.job, pending, response, request, now)
        };
        self.carry_out(decision, name, trace.zip(span), now).await;
    }

    /// Performs the writes of a decision, and schedules the next poll. The span of the end belongs to that of the
    /// answer.
    async fn carry_out(
        &mut self,
        mut decision: Decision,
        name: &JobName,
        traced: Option<(Context, Span)>,
        now: Timestamp,
    ) {
        let poller = Arc::clone(&self.poller);
        let stopwatch = poller.clock.stopwatch();
        let kind = decision.ending();
        let ended = poller.write_decision(&mut decision).await;
        if let Some(kind) = kind.filter(|_| ended) {
            let (provider, job, ending) = (name.provider.as_str(), name.job_id.as_str(), kind.as_str());
            tracing::info!(provider, job, ending, "the job has ended");
        }
        poller.store.tracer().record(|| {
            let (trace, above) = traced?;
            let span = trace.span("end", SpanKind::Internal, now, stopwatch.elapsed()).below(above.id());
            Some(span.about(b"").with("ringback.status", kind.filter(|_| ended)?.as_str()))
        });
        let Decision { generation, repeats_request, not_before, backoff_until, .. } = decision;
        let job = self.job;
        self.finish(FinishedPoll { job, generation, ended, repeats_request, not_before, backoff_until });
    }

    /// Ends the poll of an app's job that cannot be made any more: the credential of an ended job may have been
    /// deleted. A requested poll is forgotten, and a watch expires in time.
    async fn give_up_own(&mut self) {
        let job = self.job;
        let found = self.poller.scheduler().jobs.get(&job).map(|found| (found.generation, found.watching));
        let Some((generation, watching)) = found else { return };
        if watching == 0 {
            let refresh = RefreshEnding { job, seen: None, has_status: false };
            self.poller.write(|| self.poller.store.refresh_ending(refresh.clone())).await;
        }
        self.finish(FinishedPoll {
            job,
            generation,
            ended: false,
            repeats_request: false,
            not_before: Some(self.poller.clock.now().plus(AFTER_BUG)),
            backoff_until: None,
        });
    }

    /// Schedules the next poll.
    fn finish(&mut self, poll: FinishedPoll) {
        self.finished = true;
        let now = self.poller.clock.now();
        let mut scheduler = self.poller.scheduler();
        scheduler.follow_clock(now);
        self.poller.merge_messages(&mut scheduler, now);
        scheduler.finish_poll(poll, now);
        drop(scheduler);
        self.poller.wake();
    }

    /// Returns the trace span of the poll.
    fn span(
        &self,
        trace: Context,
        took: Duration,
        (name, method): (&JobName, &'static str),
        response: &PollResponse,
    ) -> Span {
        let status = if let Interpretation::Ok(report) = &response.meaning {
            Some(report.observation.status.as_str())
        } else {
            None
        };
        trace
            .span("poll", SpanKind::Client, self.started, took)
            .about(name.job_id.as_bytes())
            .with("ringback.provider", name.provider.clone())
            .with("ringback.job.id", name.job_id.clone())
            .with("ringback.outcome", response.meaning.outcome().as_str())
            .with_some("ringback.status", status)
            .with("http.request.method", method)
            .with_some("http.response.status_code", response.http_status.map(i64::from))
            .failed(response.meaning.message())
    }
}

impl Drop for PollTask {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let found =
            self.poller.scheduler().jobs.get(&self.job).map(|found| (found.generation, found.watching));
        if let Some((generation, watching)) = found {
            self.finish(FinishedPoll {
                job: self.job,
                generation,
                ended: false,
                repeats_request: watching == 0,
                not_before: Some(self.poller.clock.now().plus(AFTER_BUG)),
                backoff_until: None,
            });
        }
    }
}

impl Poller {
    /// Performs the writes of a decision as soon as the database accepts them. Returns whether the job has ended.
    async fn write_decision(&self, decision: &mut Decision) -> bool {
        if let Some(observed) = decision.observed.take() {
            self.record(observed).await;
        }
        if let Some(refresh) = decision.refresh.take() {
            self.write(|| self.store.refresh_ending(refresh.clone())).await;
        }
        if let Some(expire) = decision.expire.take() {
            self.expire(expire).await;
        }
        if let Some(mut not_found) = decision.not_found.take() {
            loop {
                match self.write(|| self.store.end_not_found(not_found.clone())).await {
                    Some(NotFoundEnd::More(positions)) => not_found.after = positions,
                    Some(end) => return end == NotFoundEnd::Job,
                    None => break,
                }
            }
            decision.not_before = Some(self.clock.now().plus(AFTER_BUG));
        }
        let Some(ended) = decision.ended.take() else { return false };
        let (job, generation) = (ended.job, ended.generation);
        let mut has_more = self.write(|| self.store.end_job(ended.clone())).await;
        while has_more == Some(true) {
            has_more = self.write(|| self.store.notify_watches(NotifyWatches { job, generation })).await;
        }
        if has_more.is_none() {
            // The watches still wait: the job stays scheduled.
            decision.not_before = Some(self.clock.now().plus(AFTER_BUG));
        }
        has_more.is_some()
    }
}
