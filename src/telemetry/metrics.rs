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
mod labels;
mod process;
mod providers;
mod registry;

pub use gauges::{Backlog, Clients, Load, Queues, Snapshot};
pub use labels::{AttemptOutcome, SpanOutcome};
pub use providers::ProviderMetrics;

use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec};

use crate::domain::{ChannelKind, Finished, NextStep, Reason, Timestamp, WatchStatus};
use gauges::Gauges;
use labels::{ByLabel, LabeledCounters};
use process::ProcessMetrics;
use providers::ProviderFamilies;
use registry::{EXCHANGE, Registry};

/// Seconds of work on this machine, up to the longest `?wait=`.
const LOCAL: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 60.0];

/// Number of commands in a transaction, up to the writer's limit.
const COMMANDS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// Label of a method or a status that the API does not have.
const OTHER: &str = "other";

/// The reasons for which a delivery is skipped; the other reasons are those of failed attempts.
const SKIPPED: [Reason; 4] = [Reason::Stopped, Reason::Superseded, Reason::Gone, Reason::Disabled];

/// Changes of a transaction, to be counted after its commit.
#[derive(Debug, Default)]
pub struct Tally {
    registered: usize,
    ended: Vec<WatchStatus>,
    skipped: Vec<(Reason, usize)>,
}

impl Tally {
    /// Counts registered watches.
    pub fn registered(&mut self, count: usize) {
        self.registered += count;
    }

    /// Counts a watch that ended.
    pub fn ended(&mut self, status: WatchStatus) {
        self.ended.push(status);
    }

    /// Counts deliveries that are skipped.
    pub fn skipped(&mut self, reason: Reason, count: usize) {
        self.skipped.push((reason, count));
    }
}

/// Metrics of one channel.
#[derive(Debug)]
struct ChannelMetrics {
    attempts: LabeledCounters<AttemptOutcome>,
    duration: Histogram,
    succeeded: IntCounter,
    failed: LabeledCounters<Reason>,
}

/// The metrics of one application.
#[derive(Debug)]
pub struct Metrics {
    registered: IntCounter,
    ended: LabeledCounters<WatchStatus>,
    providers: ProviderFamilies,
    channels: ByLabel<ChannelKind, ChannelMetrics>,
    skipped: LabeledCounters<Reason>,
    commit_duration: Histogram,
    commit_commands: Histogram,
    requests: IntCounterVec,
    request_duration: HistogramVec,
    spans: LabeledCounters<SpanOutcome>,
    gauges: Gauges,
    process: Option<ProcessMetrics>,
    registry: Registry,
}

impl Default for Metrics {
    fn default() -> Self {
        let r = Registry::default();
        let build = r.gauges("ringback_build_info", "Always 1; the version is a label.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let ended = r.counters("ringback_watches_ended_total", "Ended watches, by status.", &["status"]);
        let can_end = WatchStatus::ALL.iter().copied().filter(|status| *status != WatchStatus::Watching);
        let skipped = r.counters(
            "ringback_deliveries_skipped_total",
            "Deliveries that are not attempted any more, by reason.",
            &["reason"],
        );
        let spans =
            r.counters("ringback_spans_total", "Spans for the trace collector, by outcome.", &["outcome"]);
        Self {
            registered: r.counter("ringback_watches_registered_total", "Registered watches."),
            ended: ByLabel::new(can_end, |status| ended.with_label_values(&[status])),
            providers: ProviderFamilies::new(&r),
            channels: channels(&r),
            skipped: ByLabel::new(SKIPPED, |reason| skipped.with_label_values(&[reason])),
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
            spans: ByLabel::all(|outcome| spans.with_label_values(&[outcome])),
            gauges: Gauges::new(&r),
            process: ProcessMetrics::new(&r),
            registry: r,
        }
    }
}

impl Metrics {
    /// Creates the samples of a provider and returns their handles.
    pub fn provider(&self, id: &str) -> ProviderMetrics {
        self.providers.provider(id)
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
        for (reason, count) in &tally.skipped {
            self.skipped.add(*reason, *count as u64);
        }
    }

    /// Records an attempt whose result is committed.
    pub fn attempted(&self, channel: ChannelKind, outcome: AttemptOutcome, took: Duration, next: NextStep) {
        let Some(metrics) = self.channels.get(channel) else { return };
        metrics.attempts.add(outcome, 1);
        if outcome != AttemptOutcome::Down {
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
        self.providers.detected(finished, now);
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

    /// Counts spans, by the outcome of their export.
    pub fn spans(&self, outcome: SpanOutcome, count: usize) {
        self.spans.add(outcome, count as u64);
    }

    /// Returns every metric in Prometheus's text format.
    pub fn render(&self, snapshot: &Snapshot) -> Vec<u8> {
        self.gauges.set(snapshot);
        if let Some(process) = &self.process {
            process.update();
        }
        self.registry.render()
    }
}

fn channels(r: &Registry) -> ByLabel<ChannelKind, ChannelMetrics> {
    let attempts = r.counters("ringback_attempts_total", "Attempts, by outcome.", &["channel", "outcome"]);
    let duration = r.histograms(
        "ringback_attempt_duration_seconds",
        "Duration of an attempt, from the name lookup to the last byte.",
        &["channel"],
        EXCHANGE,
    );
    let ended = r.counters(
        "ringback_deliveries_ended_total",
        "Deliveries that succeeded, or failed with an attempt: then the outcome is the reason.",
        &["channel", "outcome"],
    );
    ByLabel::all(|channel| ChannelMetrics {
        attempts: ByLabel::all(|outcome| attempts.with_label_values(&[channel, outcome])),
        duration: duration.with_label_values(&[channel]),
        succeeded: ended.with_label_values(&[channel, "succeeded"]),
        failed: ByLabel::all(|reason| ended.with_label_values(&[channel, reason])),
    })
}
