//! Metrics of the providers.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::labels::{ByLabel, LabeledCounters};
use super::registry::{EXCHANGE, Registry};
use crate::domain::{Finished, PollOutcome, Timestamp};

/// Seconds from the end of a job to the first attempt of its delivery.
const DELAY: &[f64] =
    &[0.5, 1.0, 2.0, 3.0, 5.0, 7.5, 10.0, 15.0, 20.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];

/// Metrics with the label `provider`.
#[derive(Debug)]
pub struct ProviderFamilies {
    polls: IntCounterVec,
    poll_duration: HistogramVec,
    unknown_status: IntCounterVec,
    polls_in_flight: IntGaugeVec,
    breaker_open: IntGaugeVec,
    unauthorized: IntGaugeVec,
    delay: HistogramVec,
    /// The histogram of each provider that is defined.
    delays: RwLock<HashMap<String, Histogram>>,
}

impl ProviderFamilies {
    /// Registers the metrics; they have no samples until [`ProviderFamilies::provider`] is called.
    pub fn new(registry: &Registry) -> Self {
        let by = &["provider"];
        Self {
            polls: registry.counters(
                "ringback_polls_total",
                "Polls of jobs, by outcome.",
                &["provider", "outcome"],
            ),
            poll_duration: registry.histograms(
                "ringback_poll_duration_seconds",
                "Duration of a poll, from the request to the last byte of the answer.",
                by,
                EXCHANGE,
            ),
            unknown_status: registry.counters(
                "ringback_polls_unknown_status_total",
                "Answers with a status that the provider's definition does not contain.",
                by,
            ),
            polls_in_flight: registry.gauges("ringback_polls_in_flight", "Polls in progress.", by),
            breaker_open: registry.gauges(
                "ringback_provider_breaker_open",
                "1 while the provider's circuit breaker is open.",
                by,
            ),
            unauthorized: registry.gauges(
                "ringback_provider_unauthorized",
                "1 while the provider does not accept the credential.",
                by,
            ),
            delay: registry.histograms(
                "ringback_detection_delay_seconds",
                "Time from the job's completedAt to the first attempt of each delivery that reports its end.",
                by,
                DELAY,
            ),
            delays: RwLock::default(),
        }
    }

    /// Creates the samples of a provider and returns their handles.
    pub fn provider(&self, id: &str) -> ProviderMetrics {
        let delay = self.delay.with_label_values(&[id]);
        self.delays.write().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), delay);
        ProviderMetrics {
            polls: ByLabel::all(|outcome| self.polls.with_label_values(&[id, outcome])),
            duration: self.poll_duration.with_label_values(&[id]),
            unknown_status: self.unknown_status.with_label_values(&[id]),
            in_flight: self.polls_in_flight.with_label_values(&[id]),
            breaker_open: self.breaker_open.with_label_values(&[id]),
            unauthorized: self.unauthorized.with_label_values(&[id]),
        }
    }

    /// Records that the first attempt to report the end of a job begins `now`.
    pub fn detected(&self, finished: &Finished, now: Timestamp) {
        let delays = self.delays.read().unwrap_or_else(PoisonError::into_inner);
        // The row can name a provider that is no longer defined.
        if let Some(delay) = delays.get(&finished.provider) {
            delay.observe(now.since(finished.at).as_secs_f64());
        }
    }
}

/// Metrics of one provider.
#[derive(Clone, Debug)]
pub struct ProviderMetrics {
    polls: LabeledCounters<PollOutcome>,
    duration: Histogram,
    unknown_status: IntCounter,
    in_flight: IntGauge,
    breaker_open: IntGauge,
    unauthorized: IntGauge,
}

impl ProviderMetrics {
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
