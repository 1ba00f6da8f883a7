//! Metrics for Prometheus.
//!
//! One [`Metrics`] belongs to one store, and so to one application. Two applications in one process, as in
//! the tests, have separate numbers. This is why the `prometheus` crate is used and not the `metrics` facade:
//!
//! - The recorder of `metrics` is global to the process.
//! - Its Prometheus exporter keeps every sample of a histogram until the next scrape, without a limit.
//!
//! Two kinds of values:
//!
//! - **Counted where it happens** (polls, attempts, commits, requests). Handles are made at the start, so
//!   that counting is an atomic addition without a lookup of names. Requests are the exception: their
//!   labels need a lookup, because there are as many combinations as routes.
//! - **Read at a scrape** (queues, work in memory, the process): see [`Metrics::render`].
//!
//! Label values come from closed sets: provider names, channels, our own enums, declared routes. No label
//! holds an id, a host or an app. docs/OPERATIONS.md lists every metric, and a test compares the list.

mod gauges;
mod process;
mod registry;

pub use gauges::{Backlog, Load, Queues, Snapshot};

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use prometheus::core::AtomicI64;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge};

use crate::domain::{
    ChannelKind, Finished, NextStep, Outcome, PollOutcome, Reason, Timestamp, WatchStatus, json_string,
    word_enum,
};
use process::ProcessMetrics;
use registry::{ByLabel, Readings, Registry};

/// Seconds of work on this machine, up to the longest `?wait=`.
const LOCAL: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];

/// Seconds of an exchange over a network, up to the longest timeout that can be configured.
const EXCHANGE: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0, 600.0];

/// Seconds from the end of a job to the first attempt of its delivery.
const DELAY: &[f64] =
    &[0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// Number of commands in a transaction, up to the writer's limit.
const COMMANDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Label of a method or a status that the API does not have.
const OTHER: &str = "other";

/// The reasons for which a delivery is skipped; the other reasons are those of failed attempts.
const SKIPPED: &[Reason] = &[Reason::Stopped, Reason::Superseded, Reason::Gone, Reason::Disabled];

word_enum! {
    /// Outcome of an attempt to deliver.
    AttemptOutcome {
        /// The receiver accepted the delivery.
        Succeeded = "succeeded",
        /// The attempt failed and can be repeated.
        Failed = "failed",
        /// The message cannot be sent at all.
        Fatal = "fatal",
        /// The receiver answered 410.
        Gone = "gone",
        /// The address policy does not permit the address.
        Refused = "refused",
        /// No attempt was made, because Ringback lacks descriptors, memory or ports.
        NotMade = "not_made",
        /// The message was transmitted, and no reply says whether it was accepted.
        Unclear = "unclear",
    }
}

word_enum! {
    /// Outcome of the export of a span.
    SpanOutcome {
        /// The collector accepted the span.
        Exported = "exported",
        /// The queue was full, or the collector was not available before the process ended.
        Dropped = "dropped",
        /// The collector rejected the span.
        Rejected = "rejected",
    }
}

impl From<&Outcome> for AttemptOutcome {
    fn from(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Ok => Self::Succeeded,
            Outcome::Retry { .. } => Self::Failed,
            Outcome::Fatal => Self::Fatal,
            Outcome::Gone => Self::Gone,
            Outcome::Refused => Self::Refused,
            Outcome::NotMade => Self::NotMade,
            Outcome::Unclear => Self::Unclear,
        }
    }
}

/// Changes of a transaction, to be counted after its commit.
#[derive(Debug, Default)]
pub struct Tally {
    /// Number of registered watches.
    pub registered: usize,
    /// Status of each watch that ended.
    pub ended: Vec<WatchStatus>,
    /// Channels of the deliveries that were pending for too long, one for each.
    pub overdue: Vec<ChannelKind>,
    /// Numbers of skipped deliveries, with the reason.
    pub skipped: Vec<(Reason, usize)>,
}

/// Metrics of one provider.
#[derive(Clone, Debug)]
pub struct ProviderMetrics {
    polls: ByLabel<PollOutcome, IntCounter>,
    duration: Histogram,
    unknown_status: IntCounter,
    in_flight: IntGauge,
    breaker_open: IntGauge,
    unauthorized: IntGauge,
}

impl ProviderMetrics {
    /// Registers the metrics in the registry of the provider.
    fn new(r: &Registry) -> Self {
        Self {
            polls: r.counter_by(
                "ringback_polls_total",
                "Polls of jobs, by outcome.",
                "outcome",
                PollOutcome::ALL,
            ),
            duration: r.histogram(
                "ringback_poll_duration_seconds",
                "Duration of a poll, from the request to the last byte of the answer.",
                EXCHANGE,
            ),
            unknown_status: r.counter(
                "ringback_polls_unknown_status_total",
                "Answers with a status that the provider's definition does not contain.",
            ),
            in_flight: r.gauge("ringback_polls_in_flight", "Polls in progress."),
            breaker_open: r
                .gauge("ringback_provider_breaker_open", "1 while the provider's circuit breaker is open."),
            unauthorized: r.gauge(
                "ringback_provider_unauthorized",
                "1 while the provider does not accept the credential.",
            ),
        }
    }

    /// Records a poll that has ended.
    pub fn polled(&self, outcome: PollOutcome, took: Duration) {
        self.polls.add(outcome, 1);
        self.duration.observe(took.as_secs_f64());
    }

    /// Records an answer with a status that the definition does not contain.
    pub fn unknown_status(&self) {
        self.unknown_status.inc();
    }

    /// Sets the provider's gauges.
    pub fn set_state(&self, in_flight: u32, breaker_open: bool, unauthorized: bool) {
        self.in_flight.set(in_flight.into());
        self.breaker_open.set(breaker_open.into());
        self.unauthorized.set(unauthorized.into());
    }
}

/// Metrics of one channel.
#[derive(Debug)]
struct ChannelMetrics {
    attempts: ByLabel<AttemptOutcome, IntCounter>,
    duration: Histogram,
    succeeded: IntCounter,
    failed: ByLabel<Reason, IntCounter>,
}

impl ChannelMetrics {
    /// Registers the metrics in the registry of the channel.
    fn new(r: &Registry) -> Self {
        let ended = r.counters(
            "ringback_deliveries_ended_total",
            "Deliveries that succeeded, or failed with an attempt: then the outcome is the reason.",
            &["outcome"],
        );
        Self {
            attempts: r.counter_by(
                "ringback_attempts_total",
                "Attempts, by outcome.",
                "outcome",
                AttemptOutcome::ALL,
            ),
            duration: r.histogram(
                "ringback_attempt_duration_seconds",
                "Duration of an attempt, from the name lookup to the last byte.",
                EXCHANGE,
            ),
            succeeded: ended.with_label_values(&["succeeded"]),
            failed: ByLabel::new(Reason::ALL, |reason| ended.with_label_values(&[reason.as_str()])),
        }
    }
}

/// The metrics of one application.
#[derive(Debug)]
pub struct Metrics {
    registered: IntCounter,
    ended: ByLabel<WatchStatus, IntCounter>,
    channels: ByLabel<ChannelKind, ChannelMetrics>,
    skipped: ByLabel<Reason, IntCounter>,
    commit_duration: Histogram,
    commit_commands: Histogram,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    wrong_keys: IntCounter,
    spans: ByLabel<SpanOutcome, IntCounter>,
    /// The detection delay of each provider that is defined.
    delays: RwLock<HashMap<String, Histogram>>,
    gauges: Readings<Snapshot>,
    process: Option<ProcessMetrics>,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let r = Registry::default();
        r.shared(&*super::logs::DROPPED);
        let build = r.labeled("version", env!("CARGO_PKG_VERSION"));
        build.gauge::<AtomicI64>("ringback_build_info", "Always 1; the version is a label.").set(1);
        let can_end = WatchStatus::ALL.iter().copied().filter(|status| *status != WatchStatus::Watching);
        let can_end: Vec<WatchStatus> = can_end.collect();
        Self {
            registered: r.counter("ringback_watches_registered_total", "Registered watches."),
            ended: r.counter_by(
                "ringback_watches_ended_total",
                "Ended watches, by status.",
                "status",
                &can_end,
            ),
            channels: ByLabel::new(ChannelKind::ALL, |channel| {
                ChannelMetrics::new(&r.labeled("channel", channel.as_str()))
            }),
            skipped: r.counter_by(
                "ringback_deliveries_skipped_total",
                "Deliveries that are not attempted any more, by reason.",
                "reason",
                SKIPPED,
            ),
            commit_duration: r.histogram(
                "ringback_commit_duration_seconds",
                "Duration of a transaction of the writer, including the sync.",
                LOCAL,
            ),
            commit_commands: r.histogram("ringback_commit_commands", "Writes in a transaction.", COMMANDS),
            requests: r.counters(
                "ringback_http_requests_total",
                "Requests to the API, by documented route.",
                &["route", "method", "status"],
            ),
            request_duration: r.histograms(
                "ringback_http_request_duration_seconds",
                "Time from the head of a request to its answer.",
                &["route", "method"],
                LOCAL,
            ),
            wrong_keys: r.counter("ringback_http_wrong_keys_total", "Requests with a wrong API key."),
            spans: r.counter_by(
                "ringback_spans_total",
                "Spans for the trace collector, by outcome.",
                "outcome",
                SpanOutcome::ALL,
            ),
            delays: RwLock::default(),
            gauges: gauges::register(&r),
            process: ProcessMetrics::new(&r),
            registry: r,
        }
    }
}

impl Metrics {
    /// Registers the metrics of a provider, once, and returns their handles. Those of a provider without an API key are
    /// not exported: most definitions are not used, and each has a hundred series.
    pub fn provider(&self, id: &str, is_configured: bool) -> ProviderMetrics {
        if !is_configured {
            return ProviderMetrics::new(&Registry::default());
        }
        let registry = self.registry.labeled("provider", id);
        let delay = registry.histogram(
            "ringback_detection_delay_seconds",
            "Time from the job's completedAt to the first attempt of each delivery that reports its end.",
            DELAY,
        );
        self.delays.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), delay);
        ProviderMetrics::new(&registry)
    }

    /// Records a committed transaction.
    pub fn committed(&self, commands: usize, took: Duration, tally: &Tally) {
        #[expect(clippy::cast_precision_loss, reason = "a thousand at most")]
        self.commit_commands.observe(commands as f64);
        self.commit_duration.observe(took.as_secs_f64());
        self.registered.inc_by(tally.registered as u64);
        for status in &tally.ended {
            self.ended.add(*status, 1);
        }
        for metrics in tally.overdue.iter().filter_map(|channel| self.channels.get(*channel)) {
            metrics.failed.add(Reason::Exhausted, 1);
        }
        for (reason, count) in &tally.skipped {
            self.skipped.add(*reason, *count);
        }
    }

    /// Records an attempt whose result is committed.
    pub fn attempted(&self, channel: ChannelKind, outcome: AttemptOutcome, took: Duration, next: NextStep) {
        let Some(metrics) = self.channels.get(channel) else { return };
        metrics.attempts.add(outcome, 1);
        if outcome != AttemptOutcome::NotMade {
            metrics.duration.observe(took.as_secs_f64());
        }
        match next {
            NextStep::Succeeded => metrics.succeeded.inc(),
            NextStep::Failed(reason) => metrics.failed.add(reason, 1),
            NextStep::Retry { .. } | NextStep::Unchanged => {}
        }
    }

    /// Records that the first attempt to report the end of a job begins `now`.
    pub fn detected(&self, finished: &Finished, now: Timestamp) {
        let delays = self.delays.read().unwrap_or_else(PoisonError::into_inner);
        // The row can name a provider that is no longer defined, and a time that an earlier version stored unchecked.
        if let Some(delay) = delays.get(&finished.provider).filter(|_| finished.at.is_plausible(now)) {
            delay.observe(now.since(finished.at).as_secs_f64());
        }
    }

    /// Records an answered request. `route` is `None` if no route has this path.
    pub fn answered(&self, route: Option<&str>, method: &str, status: u16, took: Duration) {
        const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
        const METHODS: [&str; 7] = ["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD", "OPTIONS"];
        let route = route.unwrap_or("none");
        let method = METHODS.iter().find(|known| **known == method).unwrap_or(&OTHER);
        let class = CLASSES.get(usize::from(status / 100).wrapping_sub(1)).unwrap_or(&OTHER);
        self.requests.with_label_values(&[route, method, class]).inc();
        self.request_duration.with_label_values(&[route, method]).observe(took.as_secs_f64());
    }

    /// Counts a request with a wrong API key.
    pub fn wrong_key(&self) {
        self.wrong_keys.inc();
    }

    /// Counts spans, by the outcome of their export.
    pub fn spans(&self, outcome: SpanOutcome, count: usize) {
        self.spans.add(outcome, count);
    }

    /// Returns every metric in Prometheus's text format.
    pub fn render(&self, snapshot: &Snapshot) -> Vec<u8> {
        registry::set(&self.gauges, snapshot);
        if let Some(process) = &self.process {
            process.update();
        }
        self.registry.render()
    }
}
