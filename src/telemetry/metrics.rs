//! Metrics: what is counted and measured, for Prometheus.
//!
//! One [`Metrics`] belongs to one store, and with it to one app: two apps in one process, as tests
//! have them, do not see each other's numbers. That is why this is the `prometheus` crate, with a
//! registry of its own for each, and not the `metrics` facade: its recorder is the process's, and its
//! Prometheus exporter keeps every sample of a histogram until somebody asks, without a limit. Here a
//! histogram is a row of counters, made once.
//!
//! **What is counted where it happens** (polls, attempts, commits, requests) is a handle that was made
//! at start: an atomic addition, no name or label is looked up. Requests are the exception; there are
//! as many kinds as routes, and each is found by its labels. **What can be read off** (queues, what is
//! in hand) is read when somebody asks, see [`Metrics::render`].
//!
//! Labels come from closed sets: providers as defined, channels, words of ours, routes as they are
//! declared. No id, no host, no app. Every name is in the table of docs/OPERATIONS.md, and a test
//! compares.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use crate::domain::{ChannelKind, Finished, NextStep, Outcome, PollOutcome, Reason, Timestamp, WatchStatus};

/// An exchange over a network, up to the longest that can be configured.
const EXCHANGE: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0, 600.0];

/// Something on this machine, up to the longest wait for the end of a watch.
const LOCAL: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];

/// From the end of a job until its receivers are told.
const DELAY: &[f64] =
    &[0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// Up to what the writer puts into one transaction.
const COMMANDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// A method or a status that no API of ours has.
const OTHER: &str = "other";

/// What an attempt came to, in a word: for a label and for a span.
pub fn outcome_word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Ok => OUTCOMES[0],
        Outcome::Retry { .. } => OUTCOMES[1],
        Outcome::Fatal => OUTCOMES[2],
        Outcome::Gone => OUTCOMES[3],
        Outcome::Refused => OUTCOMES[4],
        Outcome::Down => OUTCOMES[5],
    }
}

/// What became of spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanFate {
    /// The collector has them.
    Exported,
    /// There was no room for them, or no collector in time.
    Dropped,
    /// The collector refused them.
    Rejected,
}

impl SpanFate {
    const ALL: [&str; 3] = ["exported", "dropped", "rejected"];
}

const OUTCOMES: [&str; 6] = ["succeeded", "failed", "fatal", "gone", "refused", "destination_down"];

/// One provider's.
#[derive(Clone, Debug)]
pub struct ProviderMetrics {
    polls: Vec<IntCounter>,
    duration: Histogram,
    unknown_status: IntCounter,
    in_flight: IntGauge,
    breaker: IntGauge,
    credential: IntGauge,
}

impl ProviderMetrics {
    /// Counts a poll.
    pub fn polled(&self, outcome: PollOutcome, took: Duration) {
        self.polls[outcome as usize].inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// A status was seen that the definition does not know.
    pub fn unknown_status(&self) {
        self.unknown_status.inc();
    }

    /// How it stands: looks in flight, whether the breaker is open, whether the credential is refused.
    pub fn stands(&self, in_flight: u32, breaker: bool, credential: bool) {
        self.in_flight.set(in_flight.into());
        self.breaker.set(breaker.into());
        self.credential.set(credential.into());
    }
}

/// One channel's.
#[derive(Debug)]
struct ChannelMetrics {
    attempts: [IntCounter; 6],
    duration: Histogram,
    retries: IntCounter,
    succeeded: IntCounter,
    failed: Vec<IntCounter>,
}

/// The reasons for which deliveries are given up without a further attempt; the others are an attempt's.
const CALLED_OFF: [Reason; 4] = [Reason::Stopped, Reason::Superseded, Reason::Gone, Reason::Disabled];

/// What a transaction changes, to be counted once it is committed.
#[derive(Debug, Default)]
pub struct Tally {
    registered: u64,
    ended: [u64; WatchStatus::ALL.len()],
    called_off: [u64; Reason::ALL.len()],
}

impl Tally {
    /// Watches were registered.
    pub fn registered(&mut self, count: usize) {
        self.registered += count as u64;
    }

    /// A watch has ended.
    pub fn ended(&mut self, status: WatchStatus) {
        self.ended[status as usize] += 1;
    }

    /// Deliveries were given up without a further attempt.
    pub fn called_off(&mut self, reason: Reason, count: usize) {
        self.called_off[reason as usize] += count as u64;
    }
}

/// What those who look and those who send have in hand, read when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// Jobs that have a plan.
    pub jobs: usize,
    /// Watches that wait for them.
    pub watching: u64,
    /// Deliveries in memory.
    pub in_hand: usize,
    /// Those of them that are being sent.
    pub in_flight: usize,
    /// Destinations where nobody answers.
    pub down: usize,
}

/// What waits in the store's queues, read when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Queues {
    /// Commands that wait for the writer.
    pub writer: usize,
    /// Messages that wait for those who look.
    pub plans: usize,
    /// Messages that wait for those who send.
    pub dispatcher_messages: usize,
    /// Whether the database refuses writes.
    pub refusing: bool,
}

/// Deliveries whose turn has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many.
    pub count: u64,
    /// Since when the oldest waits.
    pub oldest: Option<Timestamp>,
}

/// Who is connected, read when somebody asks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clients {
    /// Connections.
    pub connections: usize,
    /// Those of them that wait for the end of a watch.
    pub waiting: usize,
    /// And those that follow the feed.
    pub following: usize,
}

/// What is counted and measured.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    build_info: IntGaugeVec,
    started: IntGauge,
    registered: IntCounter,
    ended: Vec<(WatchStatus, IntCounter)>,
    watching: IntGauge,
    jobs: IntGauge,
    polls: IntCounterVec,
    poll_duration: HistogramVec,
    unknown_status: IntCounterVec,
    polls_in_flight: IntGaugeVec,
    breaker: IntGaugeVec,
    credential: IntGaugeVec,
    delay: HistogramVec,
    /// The same, by provider: their number is that of the definitions.
    delays: RwLock<HashMap<String, Histogram>>,
    channels: Vec<ChannelMetrics>,
    called_off: Vec<(Reason, IntCounter)>,
    due: IntGauge,
    due_oldest: prometheus::Gauge,
    in_hand: IntGauge,
    in_flight: IntGauge,
    down: IntGauge,
    queues: IntGaugeVec,
    commit_duration: Histogram,
    commit_commands: Histogram,
    refusing: IntGauge,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    connections: IntGauge,
    waiting: IntGauge,
    following: IntGauge,
    spans: [IntCounter; 3],
}

impl Metrics {
    /// All at zero.
    #[expect(clippy::too_many_lines, reason = "a list: one entry for each metric, each read by itself")]
    pub fn new(now: Timestamp) -> Self {
        let r = Registry::new();
        let ended = counters(&r, "watches_ended_total", "Watches that have ended, by how.", &["status"]);
        let called_off = counters(
            &r,
            "deliveries_called_off_total",
            "Deliveries given up without a further attempt, by the reason.",
            &["reason"],
        );
        let spans = counters(
            &r,
            "spans_total",
            "Spans for the trace collector, by what became of them.",
            &["outcome"],
        );
        let metrics = Self {
            build_info: gauges(&r, "build_info", "Always 1; the version is a label.", &["version"]),
            started: gauge(&r, "start_time_seconds", "When the process started, since 1970."),
            registered: counter(&r, "watches_registered_total", "Watches that were registered."),
            ended: WatchStatus::ALL
                .iter()
                .filter(|status| **status != WatchStatus::Watching)
                .map(|status| (*status, ended.with_label_values(&[status.as_str()])))
                .collect(),
            watching: gauge(&r, "watches_watching", "Watches that this process waits for."),
            jobs: gauge(&r, "jobs_planned", "Jobs that this process looks at."),
            polls: counters(&r, "polls_total", "Polls, by their outcome.", &["provider", "outcome"]),
            poll_duration: histograms(
                &r,
                "poll_duration_seconds",
                "How long a look took, from the request to the last byte.",
                &["provider"],
                EXCHANGE,
            ),
            unknown_status: counters(
                &r,
                "polls_unknown_status_total",
                "Answers with a status that the provider's definition does not know.",
                &["provider"],
            ),
            polls_in_flight: gauges(&r, "polls_in_flight", "Polls in flight.", &["provider"]),
            breaker: gauges(
                &r,
                "provider_breaker_open",
                "1 while the provider is in trouble.",
                &["provider"],
            ),
            credential: gauges(
                &r,
                "provider_credential_refused",
                "1 while the provider refuses the credential.",
                &["provider"],
            ),
            delay: histograms(
                &r,
                "detection_delay_seconds",
                "From the job's completedAt to the first attempt of the delivery that says so.",
                &["provider"],
                DELAY,
            ),
            delays: RwLock::default(),
            channels: channels(&r),
            called_off: CALLED_OFF
                .into_iter()
                .map(|why| (why, called_off.with_label_values(&[why.as_str()])))
                .collect(),
            due: gauge(&r, "deliveries_due", "Deliveries whose turn has come, those in flight included."),
            due_oldest: register(
                &r,
                prometheus::Gauge::with_opts(opts(
                    "deliveries_due_oldest_seconds",
                    "For how long the oldest of them has waited.",
                )),
            ),
            in_hand: gauge(&r, "deliveries_in_hand", "Deliveries in memory, waiting or in flight."),
            in_flight: gauge(&r, "deliveries_in_flight", "Attempts that are under way."),
            down: gauge(&r, "destinations_down", "Destinations where nobody answers: their breaker is open."),
            queues: gauges(&r, "queue_length", "Messages that wait within the process.", &["queue"]),
            commit_duration: histogram(
                &r,
                "commit_duration_seconds",
                "How long a transaction of the writer took, the sync included.",
                LOCAL,
            ),
            commit_commands: histogram(&r, "commit_commands", "Writes in one transaction.", COMMANDS),
            refusing: gauge(&r, "store_refusing", "1 while the database refuses writes."),
            requests: counters(
                &r,
                "http_requests_total",
                "Requests to the API, by the route as it is documented.",
                &["route", "method", "status"],
            ),
            request_duration: histograms(
                &r,
                "http_request_duration_seconds",
                "From the head of a request to its answer.",
                &["route", "method"],
                LOCAL,
            ),
            connections: gauge(&r, "http_connections", "Connections of clients."),
            following: gauge(&r, "http_streams", "Requests that follow the feed."),
            waiting: gauge(&r, "http_waiting", "Requests that wait for the end of a watch."),
            spans: SpanFate::ALL.map(|word| spans.with_label_values(&[word])),
            registry: r,
        };
        metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        metrics.started.set(now.seconds());
        metrics
    }

    /// A provider's own handles; all its labels are there from then on.
    pub fn provider(&self, id: &str) -> ProviderMetrics {
        let delay = self.delay.with_label_values(&[id]);
        self.delays.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), delay);
        ProviderMetrics {
            polls: PollOutcome::ALL
                .iter()
                .map(|outcome| self.polls.with_label_values(&[id, outcome.as_str()]))
                .collect(),
            duration: self.poll_duration.with_label_values(&[id]),
            unknown_status: self.unknown_status.with_label_values(&[id]),
            in_flight: self.polls_in_flight.with_label_values(&[id]),
            breaker: self.breaker.with_label_values(&[id]),
            credential: self.credential.with_label_values(&[id]),
        }
    }

    /// A transaction was committed.
    pub fn committed(&self, commands: usize, took: Duration, tally: &Tally) {
        #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
        self.commit_commands.observe(commands as f64);
        self.commit_duration.observe(took.as_secs_f64());
        self.registered.inc_by(tally.registered);
        for (status, counter) in &self.ended {
            counter.inc_by(tally.ended[*status as usize]);
        }
        for (reason, counter) in &self.called_off {
            counter.inc_by(tally.called_off[*reason as usize]);
        }
    }

    /// An attempt was made, and is on record.
    pub fn attempted(&self, channel: ChannelKind, outcome: &'static str, took: Duration, after: NextStep) {
        let Some(metrics) = self.channels.get(channel as usize) else { return };
        if let Some(index) = OUTCOMES.iter().position(|word| *word == outcome) {
            metrics.attempts[index].inc();
        }
        if outcome != OUTCOMES[5] {
            metrics.duration.observe(took.as_secs_f64());
        }
        match after {
            NextStep::Succeeded => metrics.succeeded.inc(),
            NextStep::Retry { .. } => metrics.retries.inc(),
            NextStep::Failed(reason) => metrics.failed[reason as usize].inc(),
            NextStep::Unchanged => {}
        }
    }

    /// The first attempt at telling the end of a job begins.
    pub fn detected(&self, finished: &Finished, now: Timestamp) {
        let delays = self.delays.read().unwrap_or_else(PoisonError::into_inner);
        // A row may name a provider that is not defined any more.
        if let Some(delay) = delays.get(&finished.provider) {
            delay.observe(now.since(finished.at).as_secs_f64());
        }
    }

    /// A request was answered. `route` is `None` where there is no such path.
    pub fn answered(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        const METHODS: [&str; 7] = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
        let route = route.unwrap_or("none");
        let method = METHODS.iter().find(|known| **known == method).unwrap_or(&OTHER);
        let class = CLASSES.get(usize::from(status / 100).wrapping_sub(1)).unwrap_or(&OTHER);
        self.requests.with_label_values(&[route, method, class]).inc();
        self.request_duration.with_label_values(&[route, method]).observe(took.as_secs_f64());
    }

    /// Spans have reached the collector, or have not.
    pub fn spans(&self, fate: SpanFate, count: usize) {
        self.spans[fate as usize].inc_by(count as u64);
    }

    /// Everything as text, in Prometheus's format, with what is read off at this moment.
    pub fn render(
        &self,
        load: Load,
        queues: Queues,
        backlog: Backlog,
        clients: Clients,
        now: Timestamp,
    ) -> Vec<u8> {
        let set = |gauge: &IntGauge, to: usize| gauge.set(i64::try_from(to).unwrap_or(i64::MAX));
        set(&self.jobs, load.jobs);
        self.watching.set(i64::try_from(load.watching).unwrap_or(i64::MAX));
        set(&self.in_hand, load.in_hand);
        set(&self.in_flight, load.in_flight);
        set(&self.down, load.down);
        for (queue, length) in [
            ("writer", queues.writer),
            ("plans", queues.plans),
            ("dispatcher_messages", queues.dispatcher_messages),
        ] {
            set(&self.queues.with_label_values(&[queue]), length);
        }
        self.refusing.set(queues.refusing.into());
        self.due.set(i64::try_from(backlog.count).unwrap_or(i64::MAX));
        self.due_oldest.set(backlog.oldest.map_or(0.0, |oldest| now.since(oldest).as_secs_f64()));
        set(&self.connections, clients.connections);
        set(&self.waiting, clients.waiting);
        set(&self.following, clients.following);
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing to memory does not fail, and what has no sample yet is left out.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}

fn channels(registry: &Registry) -> Vec<ChannelMetrics> {
    let attempts =
        counters(registry, "attempts_total", "Attempts, by what they came to.", &["channel", "outcome"]);
    let duration = histograms(
        registry,
        "attempt_duration_seconds",
        "How long an attempt took, from the first look-up to the last byte.",
        &["channel"],
        EXCHANGE,
    );
    let retries = counters(
        registry,
        "retries_total",
        "Attempts that failed and are to be followed by another.",
        &["channel"],
    );
    let ended = counters(
        registry,
        "deliveries_ended_total",
        "Deliveries that succeeded, or were given up after an attempt: then the outcome is the reason.",
        &["channel", "outcome"],
    );
    let made = ChannelKind::ALL.iter().map(|channel| {
        let channel = channel.as_str();
        ChannelMetrics {
            attempts: OUTCOMES.map(|word| attempts.with_label_values(&[channel, word])),
            duration: duration.with_label_values(&[channel]),
            retries: retries.with_label_values(&[channel]),
            succeeded: ended.with_label_values(&[channel, "succeeded"]),
            failed: Reason::ALL.iter().map(|why| ended.with_label_values(&[channel, why.as_str()])).collect(),
        }
    });
    made.collect()
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("ringback_{name}"), help)
}

/// All names and labels are written here, and each app's registry is made from the same ones: a test
/// that makes one has tried them all.
#[expect(clippy::expect_used, reason = "a name or label that does not pass never does")]
fn register<M: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<M>) -> M {
    let metric = metric.expect("a valid name");
    registry.register(Box::new(metric.clone())).expect("a name of its own");
    metric
}

fn counter(registry: &Registry, name: &str, help: &str) -> IntCounter {
    register(registry, IntCounter::with_opts(opts(name, help)))
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    register(registry, IntCounterVec::new(opts(name, help), labels))
}

fn gauge(registry: &Registry, name: &str, help: &str) -> IntGauge {
    register(registry, IntGauge::with_opts(opts(name, help)))
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(opts(name, help), labels))
}

fn histogram(registry: &Registry, name: &str, help: &str, buckets: &[f64]) -> Histogram {
    register(registry, Histogram::with_opts(HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec())))
}

fn histograms(registry: &Registry, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
    let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
    register(registry, HistogramVec::new(opts, labels))
}
