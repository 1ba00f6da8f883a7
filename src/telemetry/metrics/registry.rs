//! Registration of metrics.
//!
//! Names and labels are constants of the program, and every registry is made from the same ones. A name
//! that Prometheus does not accept therefore fails in every test that starts the application.

use prometheus::core::{Atomic, Collector, GenericCounter, GenericGauge};
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts,
    TextEncoder,
};

/// Seconds of an exchange over a network, up to the longest timeout that can be configured.
pub(super) const EXCHANGE: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 300.0, 600.0];

/// Function that reads the value of a gauge.
type Value<T> = fn(&T) -> f64;

/// Name, description and value of a gauge.
pub type Reading<T> = (&'static str, &'static str, Value<T>);

/// Gauges whose values are read from a `T`.
#[derive(Debug)]
pub struct Readings<T>(Vec<(Gauge, Value<T>)>);

impl<T> Readings<T> {
    /// Sets every gauge.
    pub fn set(&self, from: &T) {
        for (gauge, value) in &self.0 {
            gauge.set(value(from));
        }
    }
}

/// The metrics of one application.
#[derive(Debug, Default)]
pub struct Registry(prometheus::Registry);

impl Registry {
    #[expect(clippy::expect_used, reason = "names and labels are constants, and every test registers them")]
    fn register<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("a valid name");
        self.0.register(Box::new(metric.clone())).expect("a name that is not registered yet");
        metric
    }

    /// Registers a counter.
    pub fn counter<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericCounter<P> {
        self.register(GenericCounter::with_opts(Opts::new(name, help)))
    }

    /// Registers a counter with labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(Opts::new(name, help), labels))
    }

    /// Registers a gauge.
    pub fn gauge<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericGauge<P> {
        self.register(GenericGauge::with_opts(Opts::new(name, help)))
    }

    /// Registers gauges whose values are read from a `T`.
    pub fn readings<T>(&self, readings: &[Reading<T>]) -> Readings<T> {
        Readings(readings.iter().map(|(name, help, value)| (self.gauge(name, help), *value)).collect())
    }

    /// Registers a gauge with labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    /// Registers a histogram.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        self.register(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec())))
    }

    /// Registers a histogram with labels.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        self.register(HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels))
    }

    /// Returns every metric in Prometheus's text format. Metrics without a sample are left out.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.0.gather(), &mut text);
        text
    }
}
