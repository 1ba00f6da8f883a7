//! Looking at jobs.
//!
//! The [`Scheduler`] says when, the provider's definition says how to ask and what the answer means,
//! [`judge`](Poller::judge) decides what is to be written, and the scheduler plans the next look. One
//! look is one task; [`Poller::step`] starts those that are due and says when it wants to be called
//! again. Nothing here sleeps, but for the wait until a store that refuses writes takes them again.
//!
//! **A poll that learns nothing writes nothing.** How often and when a job was looked at, and what
//! was wrong, is in memory only.
//!
//! **What a look has brought is written before its job is planned again.** While the store refuses,
//! the outcome is kept and written when it can be; the number of such looks is bounded by the
//! provider's concurrency.

mod budget;
mod schedule;
mod scheduler;

pub use budget::Limits;
pub use schedule::Bounds;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::{Notify, mpsc};
use url::Url;

use self::budget::{Change, backoff};
use self::scheduler::{Due, Entry, Scheduler};
use crate::clock::Clock;
use crate::domain::{
    Activity, EndingKind, Finding, JobError, JobName, JobNo, Masked, PollOutcome, PollStats, ProviderState,
    Timestamp, observe, parse_retry_after,
};
use crate::egress::{Egress, Fetch};
use crate::providers::{Answer, Definition, Seen};
use crate::store::{
    Ended, Expire, NotifyWatches, Observed, OpenEnding, Refresh, Store, StoreError, write_until_accepted,
};
use crate::telemetry::metrics::{Load, ProviderMetrics};
use crate::telemetry::traces::{Context, Span, SpanKind};

/// The largest answer that is passed on byte for byte.
const RAW_MAX: usize = 256 * 1024;

/// The most that a provider can put off the next look at one job.
const PUT_OFF_MAX: Duration = Duration::from_secs(3600);

/// A 404 ends a watch only after so long, for a job that was seen before.
const GRACE_SEEN: Duration = Duration::from_secs(15 * 60);

/// … and after so many looks.
const GRACE_LOOKS: u32 = 3;

/// How many jobs are read at a time when the scheduler is made.
const PAGE: u32 = 10_000;

/// Until the next look at a job after something went wrong that should not: a bug is not repeated in
/// a hurry.
const STUMBLED: Duration = Duration::from_secs(60);

/// As far as looks that wait are counted for people: the scheduler is held meanwhile.
const WAITING_SHOWN: usize = 10_000;

/// A provider as it is configured here.
#[derive(Debug)]
pub struct Provider {
    /// How to ask and what the answers mean.
    pub definition: Arc<Definition>,
    /// The key.
    pub credential: Option<Masked>,
    /// In the place of the definition's.
    pub base_url: Option<Url>,
    /// When to look.
    pub bounds: Bounds,
    /// How much.
    pub limits: Limits,
}

impl Provider {
    /// The key itself.
    pub fn key(&self) -> Option<&str> {
        self.credential.as_ref().map(Masked::reveal)
    }
}

/// PollStats at jobs.
#[derive(Debug)]
pub struct Poller {
    store: Store,
    egress: Arc<Egress>,
    clock: Clock,
    providers: Vec<Provider>,
    by_name: HashMap<String, usize>,
    scheduler: Mutex<Scheduler>,
    woken: Notify,
    alive: mpsc::Sender<()>,
    /// One for each provider.
    metrics: Vec<ProviderMetrics>,
}

/// An answer, and what came with it.
struct Asked {
    answer: Answer,
    /// HTTP's, if there was an answer.
    status: Option<u16>,
    retry_after: Option<Duration>,
    raw: Option<Bytes>,
}

impl Asked {
    /// Which of the five kinds of answer it is.
    fn answered(&self) -> PollOutcome {
        match self.answer {
            Answer::Seen(_) => PollOutcome::Ok,
            Answer::Trouble { .. } => PollOutcome::Error,
            Answer::Account { .. } => PollOutcome::Unauthorized,
            Answer::RateLimited { .. } => PollOutcome::RateLimited,
            Answer::NotFound { .. } => PollOutcome::NotFound,
        }
    }
}

/// What a look makes necessary.
#[derive(Default)]
struct Judgement {
    generation: i64,
    observed: Option<Observed>,
    ended: Option<Ended>,
    expire: Option<Expire>,
    refresh: Option<Refresh>,
    not_before: Option<Timestamp>,
}

impl Poller {
    /// A poller with an empty scheduler. The receiver ends when the last look has.
    pub fn new(
        store: Store,
        egress: Arc<Egress>,
        clock: Clock,
        providers: Vec<Provider>,
    ) -> (Arc<Self>, mpsc::Receiver<()>) {
        let by_name = providers.iter().zip(0..).map(|(p, n)| (p.definition.id().to_owned(), n)).collect();
        let mut queues: Vec<(Bounds, Limits)> = providers.iter().map(|p| (p.bounds, p.limits)).collect();
        // Jobs of a provider that is not known any more cannot be asked for; they expire in time.
        let hour = Duration::from_secs(3600);
        queues.push((
            Bounds { first: hour, min_interval: hour, max_interval: hour, price: hour },
            Limits { spacing: None, burst: 1, concurrency: 0 },
        ));
        let metrics = providers.iter().map(|p| store.metrics().provider(p.definition.id())).collect();
        let scheduler = Mutex::new(Scheduler::new(queues, clock.now()));
        let (alive, ended) = mpsc::channel(1);
        let woken = Notify::new();
        (Arc::new(Self { store, egress, clock, providers, by_name, scheduler, woken, alive, metrics }), ended)
    }

    /// Makes the scheduler from the store's rows, and ends the watches of endings that a crash left
    /// open. To be called once, before anybody can register: it overwrites what is planned.
    pub async fn load(&self) -> Result<(), StoreError> {
        for OpenEnding { job, generation } in self.store.open_endings().await? {
            match self.tell(job, generation).await {
                // One broken row must not keep the others from being told.
                Err(error @ StoreError::Inconsistent(_)) => {
                    tracing::error!(%error, row = job.0, "an ending could not be told to all its watches");
                }
                told => told?,
            }
        }
        let mut after = JobNo(0);
        loop {
            let page = self.store.jobs(after, PAGE, self.clock.now()).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.no;
            let mut page = page;
            if self.store.tracer().is_on() {
                let traced = self.store.traced(page.iter().map(|facts| facts.no).collect()).await?;
                for (facts, traced) in page.iter_mut().zip(traced) {
                    facts.traced = traced;
                }
            }
            let now = self.clock.now();
            let mut scheduler = self.scheduler();
            for facts in &page {
                scheduler.load(facts, self.queue(&facts.name), now);
            }
        }
    }

    /// How a job is looked at.
    pub fn looks(&self, job: JobNo) -> Option<PollStats> {
        self.scheduler().looks(job)
    }

    /// How each provider is, in the order of their names.
    pub fn providers(&self) -> Vec<ProviderState> {
        let now = self.clock.now();
        let scheduler = self.scheduler();
        let state = |(n, provider): (usize, &Provider)| {
            let queue = &scheduler.queues[n];
            let (health, held_until) = queue.budget.health(now);
            let definition = &provider.definition;
            ProviderState {
                id: definition.id().to_owned(),
                name: definition.name().to_owned(),
                configured: provider.credential.is_some() || !definition.needs_credential(),
                health,
                held_until,
                last_good_at: queue.budget.last_good(),
                last_error: queue.last_error.clone(),
                spacing: provider.limits.spacing,
                burst: provider.limits.burst,
                concurrency: provider.limits.concurrency,
                in_flight: queue.budget.in_flight(),
                waiting: scheduler.waiting(n, now, WAITING_SHOWN),
                first: provider.bounds.first,
                min_interval: provider.bounds.min_interval,
                max_interval: provider.bounds.max_interval,
                deadline: definition.poll().deadline,
            }
        };
        let mut states: Vec<ProviderState> = self.providers.iter().enumerate().map(state).collect();
        states.sort_by(|one, other| one.id.cmp(&other.id));
        states
    }

    /// How many jobs have a plan.
    pub fn planned(&self) -> usize {
        self.scheduler().jobs.len()
    }

    /// How much there is to look at, for the metrics; those of each provider are set here.
    pub fn load_now(&self) -> Load {
        let scheduler = self.scheduler();
        for (queue, metrics) in scheduler.queues.iter().zip(&self.metrics) {
            let budget = &queue.budget;
            metrics.set_state(budget.in_flight(), budget.is_open(), budget.is_paused());
        }
        Load { jobs: scheduler.jobs.len(), watching: scheduler.watching, ..Load::default() }
    }

    /// How much is under way, and when there is more to do.
    pub fn activity(&self) -> Activity {
        let now = self.clock.now();
        let scheduler = self.scheduler();
        let quiet = self.store.poller_messages().is_empty() && scheduler.clock.jump(now).is_none();
        let next = if quiet { scheduler.said } else { Some(now) };
        Activity { in_progress: self.alive.strong_count() - 1, next_at: next }
    }

    /// Starts the looks that are due, and says when the next are.
    pub fn step(self: &Arc<Self>) -> Option<Timestamp> {
        let now = self.clock.now();
        // What is taken from the scheduler and not started yet is under way, too.
        let _alive = self.alive.clone();
        let (due, next) = {
            let mut scheduler = self.scheduler();
            scheduler.heed(now);
            self.merge(&mut scheduler, now);
            let due = scheduler.due(now);
            scheduler.said = scheduler.next(now);
            (due, scheduler.said)
        };
        for due in due {
            match due {
                Due::Look(job) => {
                    let mut look = InFlight {
                        poller: Arc::clone(self),
                        job,
                        at: now,
                        settled: false,
                        _alive: self.alive.clone(),
                    };
                    tokio::spawn(async move { look.run().await });
                }
                Due::GiveUp(job, until) => {
                    let poller = Arc::clone(self);
                    let alive = self.alive.clone();
                    tokio::spawn(async move {
                        let message = "the provider could not be reached when the watch expired";
                        poller.expire(expire(job, until, "provider_unreachable", message, now)).await;
                        poller.woken.notify_one();
                        drop(alive);
                    });
                }
            }
        }
        next
    }

    /// Makes [`Self::step`] be called: the clock was set back.
    pub fn wake(&self) {
        self.woken.notify_one();
    }

    /// Returns when there is a reason to call [`Self::step`] before the time that it gave.
    pub async fn changed(&self) {
        let plans = self.store.poller_messages();
        tokio::select! {
            () = self.woken.notified() => {}
            () = plans.arrived() => {}
        }
    }

    fn scheduler(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Merges what the store has told into the scheduler: always before anything is decided.
    fn merge(&self, scheduler: &mut Scheduler, now: Timestamp) {
        for plan in self.store.poller_messages().take() {
            scheduler.apply(plan, |name| self.queue(name), now);
        }
    }

    fn queue(&self, name: &JobName) -> usize {
        self.by_name.get(&name.provider).copied().unwrap_or(self.providers.len())
    }

    async fn ask(&self, provider: &Provider, name: &JobName) -> Asked {
        let trouble = |message| Asked {
            answer: Answer::Trouble { message },
            status: None,
            retry_after: None,
            raw: None,
        };
        let definition = &provider.definition;
        if definition.needs_credential() && provider.credential.is_none() {
            let (code, message) = ("no_api_key".to_owned(), "no api_key is configured".to_owned());
            let answer = Answer::Account { code, message };
            return Asked { answer, status: None, retry_after: None, raw: None };
        }
        let base_url = provider.base_url.as_ref();
        let request = match definition.request(&name.job_id, &name.params, base_url, provider.key()) {
            Ok(request) => request,
            Err(message) => return trouble(message),
        };
        let fetch = Fetch::new(request.url, &request.headers, request.timeout, request.max_body);
        match self.egress.fetch(fetch).await {
            Err(error) => trouble(error.to_string()),
            Ok(received) => {
                let now = self.clock.now();
                let retry_after =
                    received.header("retry-after").and_then(|text| parse_retry_after(text, now));
                let mut answer = definition.interpret(&name.job_id, received.status, &received.body);
                hide(&mut answer, provider.key());
                let raw = Some(received.body).filter(|body| body.len() <= RAW_MAX);
                Asked { answer, status: Some(received.status), retry_after, raw }
            }
        }
    }

    /// Decides what an answer means. The job's plan is changed; nothing is written yet.
    fn judge(
        &self,
        scheduler: &mut Scheduler,
        job: JobNo,
        asked: Asked,
        started: Timestamp,
        now: Timestamp,
    ) -> Judgement {
        let retry_after = asked.retry_after.map(|after| after.min(PUT_OFF_MAX));
        scheduler.counted(job, started);
        let Some(entry) = scheduler.jobs.get_mut(&job) else { return Judgement::default() };
        let queue = entry.queue;
        let generation = entry.generation;
        let budget = &mut scheduler.queues[queue].budget;
        let mut judgement = Judgement {
            generation,
            not_before: retry_after.map(|after| now.plus(after)),
            ..Judgement::default()
        };
        let (change, why) = match asked.answer {
            Answer::Seen(seen) => {
                let change = budget.good(now);
                if let Some(rare) = &mut entry.rare {
                    (rare.failures, rare.missing, rare.last_error) = (0, None, None);
                }
                note(entry, &seen);
                judge_seen(entry, job, &seen, asked.raw, now, &mut judgement);
                (change, String::new())
            }
            Answer::NotFound { message } => {
                let accepted = budget.accepted();
                let change = budget.trouble(job, now);
                let open = budget.is_open();
                if fail(entry, job, &message, now, &mut judgement) && !open {
                    self.judge_missing(entry, job, &message, now, &mut judgement);
                }
                (if accepted == Change::None { change } else { accepted }, message)
            }
            Answer::Account { code, message } => {
                entry.rare().missing = None;
                entry.rare().last_error = Some(format!("{code}: {message}"));
                if entry.watching == 0 {
                    judgement.refresh = Some(Refresh { job, seen: None });
                }
                (budget.refused(now), message)
            }
            Answer::RateLimited { message } => {
                judgement.not_before = Some(budget.too_fast(retry_after, now));
                entry.rare().missing = None;
                entry.rare().last_error = Some(message.clone());
                if entry.watching == 0 {
                    judgement.refresh = Some(Refresh { job, seen: None });
                }
                (Change::None, message)
            }
            Answer::Trouble { message } => {
                entry.rare().missing = None;
                fail(entry, job, &message, now, &mut judgement);
                (budget.trouble(job, now), message)
            }
        };
        if !why.is_empty() {
            // Every tenant may see how a provider is, and none another's job.
            let job_id = scheduler.jobs.get(&job).map_or("", |entry| entry.name.job_id.as_str());
            scheduler.queues[queue].last_error = Some((now, why.replace(job_id, "…")));
        }
        let provider = self.providers.get(queue).map_or("?", |provider| provider.definition.id());
        Scheduler::say(change, provider, &why);
        if change == Change::Recovered {
            scheduler.recovered(queue, now);
        }
        judgement
    }

    /// The provider says that there is no such job: the job's end, if it has said so long enough.
    fn judge_missing(
        &self,
        entry: &mut Entry,
        job: JobNo,
        message: &str,
        now: Timestamp,
        judgement: &mut Judgement,
    ) {
        let seen_before = entry.known.status != crate::domain::JobStatus::Unknown;
        let grace =
            self.providers.get(entry.queue).map_or(GRACE_SEEN, |p| p.definition.poll().not_found_grace);
        let grace = if seen_before { GRACE_SEEN.max(grace) } else { grace };
        let (looks, since) = entry.rare().missing.map_or((1, now), |(looks, since)| (looks + 1, since));
        entry.rare().missing = Some((looks, since));
        if looks >= GRACE_LOOKS && now >= since.plus(grace) && entry.watching > 0 {
            judgement.ended = Some(Ended {
                job,
                generation: entry.generation,
                kind: EndingKind::NotFound,
                seen: None,
                error: Some(JobError {
                    code: Some("not_found".to_owned()),
                    message: Some(message.to_owned()),
                }),
                raw: None,
                at: now,
            });
        }
    }

    /// Writes what was decided, however long the store refuses. `true` if the job has ended.
    async fn act(&self, judgement: &mut Judgement) -> bool {
        if let Some(mut observed) = judgement.observed.take() {
            while let Some(Some(last)) = self.write(|| self.store.observe(observed.clone())).await {
                observed.after = Some(last);
            }
        }
        if let Some(refresh) = judgement.refresh.take() {
            self.write(|| self.store.refresh(refresh.clone())).await;
        }
        if let Some(expire) = judgement.expire.take() {
            self.expire(expire).await;
        }
        let Some(ended) = judgement.ended.take() else { return false };
        let (job, generation) = (ended.job, ended.generation);
        let mut told = self.write(|| self.store.end(ended.clone())).await;
        while told.is_some_and(|told| told.more) {
            told = self.write(|| self.store.notify_watches(NotifyWatches { job, generation })).await;
        }
        if told.is_none() {
            // Its watches still wait: the job keeps its plan, so that they are not forgotten.
            judgement.not_before = Some(self.clock.now().plus(STUMBLED));
        }
        told.is_some()
    }

    async fn expire(&self, expire: Expire) {
        while self.write(|| self.store.expire(expire.clone())).await.is_some_and(|told| told.more) {}
    }

    /// Tells the rest of an ending's watches, a chunk at a time.
    async fn tell(&self, job: JobNo, generation: i64) -> Result<(), StoreError> {
        while self.store.notify_watches(NotifyWatches { job, generation }).await?.more {}
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

/// A look in flight. However it ends, a panic included, its job is planned again.
struct InFlight {
    poller: Arc<Poller>,
    job: JobNo,
    at: Timestamp,
    settled: bool,
    _alive: mpsc::Sender<()>,
}

impl InFlight {
    async fn run(&mut self) {
        let poller = Arc::clone(&self.poller);
        let found = poller.scheduler().jobs.get(&self.job).map(|entry| {
            let trace = entry.trace.as_deref().copied();
            (entry.queue, entry.name.clone(), trace)
        });
        let Some((queue, name, trace)) = found else { return };
        let Some(provider) = poller.providers.get(queue) else { return };
        let stopwatch = poller.clock.stopwatch();
        let asked = poller.ask(provider, &name).await;
        let (now, took) = (poller.clock.now(), stopwatch.elapsed());
        if let Some(metrics) = poller.metrics.get(queue) {
            metrics.polled(asked.answered(), took);
            if matches!(&asked.answer, Answer::Seen(seen) if seen.unknown_status) {
                metrics.unknown_status();
            }
        }
        let look = trace.map(|trace| look_span(trace, self.at, took, &name, &asked));
        let look_id = look.as_ref().map(Span::id);
        poller.store.tracer().record(|| look);
        let mut judgement = {
            let mut scheduler = poller.scheduler();
            poller.merge(&mut scheduler, now);
            poller.judge(&mut scheduler, self.job, asked, self.at, now)
        };
        let stopwatch = poller.clock.stopwatch();
        let kind = judgement.ended.as_ref().map(|ended| ended.kind);
        let ended = poller.act(&mut judgement).await;
        poller.store.tracer().record(|| {
            let span = trace?.span("end", SpanKind::Internal, now, stopwatch.elapsed()).below(look_id?);
            Some(span.about(b"").with("ringback.status", kind.filter(|_| ended)?.as_str()))
        });
        self.settle(judgement.generation, ended, judgement.not_before);
    }

    fn settle(&mut self, generation: i64, ended: bool, not_before: Option<Timestamp>) {
        self.settled = true;
        let now = self.poller.clock.now();
        let mut scheduler = self.poller.scheduler();
        self.poller.merge(&mut scheduler, now);
        scheduler.settle(self.job, generation, ended, not_before, now);
        drop(scheduler);
        self.poller.woken.notify_one();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let scheduler = self.poller.scheduler();
        let Some(entry) = scheduler.jobs.get(&self.job) else { return };
        let generation = entry.generation;
        drop(scheduler);
        self.settle(generation, false, Some(self.at.plus(STUMBLED)));
    }
}

/// Takes the credential out of what a provider says of it: the words are logged, and shown to users.
fn hide(answer: &mut Answer, credential: Option<&str>) {
    let (Answer::NotFound { message }
    | Answer::Account { message, .. }
    | Answer::RateLimited { message }
    | Answer::Trouble { message }) = answer
    else {
        return;
    };
    if let Some(credential) = credential.filter(|credential| message.contains(credential)) {
        *message = message.replace(credential, "***");
    }
}

/// A look, for its trace.
fn look_span(trace: Context, at: Timestamp, took: Duration, name: &JobName, asked: &Asked) -> Span {
    let (status, error) = match &asked.answer {
        Answer::Seen(seen) => (Some(seen.observation.status.as_str()), None),
        Answer::NotFound { message }
        | Answer::Account { message, .. }
        | Answer::RateLimited { message }
        | Answer::Trouble { message } => (None, Some(message.as_str())),
    };
    trace
        .span("poll", SpanKind::Client, at, took)
        .about(name.job_id.as_bytes())
        .with("ringback.provider", name.provider.as_str())
        .with("ringback.job.id", name.job_id.as_str())
        .with("ringback.outcome", asked.answered().as_str())
        .with_some("ringback.status", status)
        .with("http.request.method", "GET")
        .with_some("http.response.status_code", asked.status)
        .failed(error)
}

/// What was seen, for the log.
fn note(entry: &Entry, seen: &Seen) {
    let JobName { provider, job_id: job, .. } = &entry.name;
    let (job_status, provider_request) = (seen.observation.raw_status.as_deref(), seen.request_id.as_deref());
    let news = || observe(&entry.known, &seen.observation, Timestamp::default()) != Finding::Nothing;
    if seen.unknown_status && news() {
        tracing::warn!(
            provider,
            job,
            job_status,
            provider_request,
            "a status that the definition does not know: the job is watched on"
        );
    } else {
        tracing::debug!(provider, job, job_status, provider_request, "looked");
    }
}

/// What was seen of a job: nothing new, a change, or its end.
fn judge_seen(
    entry: &mut Entry,
    job: JobNo,
    seen: &Seen,
    raw: Option<Bytes>,
    now: Timestamp,
    judgement: &mut Judgement,
) {
    let raw = |wanted: bool| raw.filter(|_| wanted).map(|raw| Arc::from(raw.as_ref()));
    let observation = &seen.observation;
    if entry.watching == 0 {
        let ended = observation.status.ending().is_some();
        judgement.refresh = Some(Refresh { job, seen: ended.then(|| observation.clone()) });
        return;
    }
    match observe(&entry.known, observation, now) {
        Finding::Nothing => {}
        Finding::Changed { progressed } => {
            let wanted = entry.terms.is_some_and(|terms| terms.wants_progress);
            judgement.observed = Some(Observed {
                job,
                generation: entry.generation,
                seen: observation.clone(),
                status_changed: entry.known.status != observation.status,
                progressed,
                wanted,
                raw: raw(wanted),
                after: None,
                at: now,
            });
            entry.known = entry.known.after(observation, progressed, now);
        }
        Finding::Ended(kind) => {
            judgement.ended = Some(Ended {
                job,
                generation: entry.generation,
                kind,
                seen: Some(observation.clone()),
                error: None,
                raw: raw(true),
                at: now,
            });
            return;
        }
    }
    if let Some(cutoff) = entry.cutoff() {
        let message = "the job had not ended when the watch expired";
        judgement.expire = Some(expire(job, cutoff, "deadline", message, now));
    }
}

fn expire(job: JobNo, until: Timestamp, code: &str, message: &str, at: Timestamp) -> Expire {
    Expire {
        job,
        until,
        error: JobError { code: Some(code.to_owned()), message: Some(message.to_owned()) },
        at,
    }
}

/// A look that failed: that job again, later each time. `true` where somebody waits for the job.
fn fail(entry: &mut Entry, job: JobNo, message: &str, now: Timestamp, judgement: &mut Judgement) -> bool {
    let waited_for = entry.watching > 0;
    if !waited_for {
        judgement.refresh = Some(Refresh { job, seen: None });
    }
    let rare = entry.rare();
    rare.failures = rare.failures.saturating_add(1);
    rare.last_error = Some(message.to_owned());
    let again = now.plus(backoff(rare.failures));
    judgement.not_before = Some(judgement.not_before.map_or(again, |asked| asked.max(again)));
    waited_for
}
