//! Registration of metrics.
//!
//! Names and labels are constants of the program, and every registry is made from the same ones. A name
//! that Prometheus does not accept therefore fails in every test that starts the application.

use std::collections::HashMap;

use prometheus::core::{Atomic, Collector, GenericCounter, GenericGauge};
use prometheus::{
    Encoder as _, Gauge, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, TextEncoder,
};

/// Function that reads the value of a gauge.
pub type Value<T> = fn(&T) -> f64;

/// Name, description and value of a gauge.
pub type Reading<T> = (&'static str, &'static str, Value<T>);

/// Gauges whose values are read from a `T`.
pub type Readings<T> = Vec<(Gauge, Value<T>)>;

/// Sets every gauge.
pub fn set<T>(gauges: &Readings<T>, from: &T) {
    for (gauge, value) in gauges {
        gauge.set(value(from));
    }
}

/// One value for each label of a closed set. Counters for every label exist from the start, at 0.
#[derive(Clone, Debug)]
pub struct ByLabel<L, T>(Vec<(L, T)>);

impl<L: Copy + PartialEq, T> ByLabel<L, T> {
    /// Makes the value of each of `labels`.
    pub fn new(labels: &[L], make: impl Fn(L) -> T) -> Self {
        Self(labels.iter().map(|label| (*label, make(*label))).collect())
    }

    /// Returns the value of `label`; `None` if the label has none.
    pub fn get(&self, label: L) -> Option<&T> {
        self.0.iter().find(|(known, _)| *known == label).map(|(_, value)| value)
    }
}

impl<L: Copy + PartialEq> ByLabel<L, IntCounter> {
    /// Adds `count` to the counter of `label`.
    pub fn add(&self, label: L, count: usize) {
        if let Some(counter) = self.get(label) {
            counter.inc_by(count as u64);
        }
    }
}

/// The metrics of one application, or those of them with a certain value of a label.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    registry: prometheus::Registry,
    labels: HashMap<String, String>,
}

impl Registry {
    /// Returns the registry for the metrics with this value of a label.
    pub fn labeled(&self, label: &str, value: &str) -> Self {
        let labels = HashMap::from([(label.to_owned(), value.to_owned())]);
        Self { registry: self.registry.clone(), labels }
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_labels(self.labels.clone())
    }

    #[expect(clippy::expect_used, reason = "names and labels are constants, and every test registers them")]
    fn register<M: Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let metric = metric.expect("a valid name");
        self.registry.register(Box::new(metric.clone())).expect("a name that is not registered yet");
        metric
    }

    /// Registers a metric that other applications of the process share.
    pub fn shared<M: Collector + Clone + 'static>(&self, metric: &M) {
        self.register(Ok(metric.clone()));
    }

    /// Registers a counter.
    pub fn counter<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericCounter<P> {
        self.register(GenericCounter::with_opts(self.opts(name, help)))
    }

    /// Registers a counter with labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register(IntCounterVec::new(self.opts(name, help), labels))
    }

    /// Registers a counter with one label, whose values are a closed set.
    pub fn counter_by<L: Copy + PartialEq + ToString>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[L],
    ) -> ByLabel<L, IntCounter> {
        let counters = self.counters(name, help, &[label]);
        ByLabel::new(values, |value| counters.with_label_values(&[value.to_string()]))
    }

    /// Registers a gauge.
    pub fn gauge<P: Atomic + 'static>(&self, name: &str, help: &str) -> GenericGauge<P> {
        self.register(GenericGauge::with_opts(self.opts(name, help)))
    }

    /// Registers gauges whose values are read from a `T`.
    pub fn readings<T>(&self, readings: &[Reading<T>]) -> Readings<T> {
        readings.iter().map(|(name, help, value)| (self.gauge(name, help), *value)).collect()
    }

    /// Registers a histogram.
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.register(Histogram::with_opts(opts))
    }

    /// Registers a histogram with labels.
    pub fn histograms(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let opts = HistogramOpts { common_opts: self.opts(name, help), buckets: buckets.to_vec() };
        self.register(HistogramVec::new(opts, labels))
    }

    /// Returns every metric in Prometheus's text format. Metrics without a sample are left out.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::with_capacity(16 * 1024);
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
