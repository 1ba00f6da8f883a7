//! Traces: what happens to a watch, as spans for an OpenTelemetry collector.
//!
//! **One trace per watch**, from its registration through the polls to the last attempt of its deliveries.
//! That can be days and several processes. No state of a trace is stored: the ids are *derived* from the
//! `traceparent` of the client or, without one, from the id of the watch. They are the same in every process
//! ([`Context::of`]), so a span made after a restart joins the same trace below the same registration.
//!
//! ```text
//! the client's span, if the client sent one
//! └─ register                     the registration
//!    ├─ poll                     each poll of the job, if this watch was the first to wait for the job
//!    │  └─ end                   the poll that found the job ended: until its result was committed
//!    ├─ deliver                  each attempt, to each destination
//!    └─ deliver
//! ```
//!
//! The watches of a job share its polls. The polls are in the trace of the first watch; the traces of the
//! others have the registration and the attempts. If the `traceparent` of a client says that the client does
//! not record, no spans are made.
//!
//! **Recording never waits for the collector.** A span is put into a bounded queue; if the queue is full, the
//! span is dropped and counted. Without a collector no span is made: [`Tracer::record`] does not call its
//! closure. No span holds a URL, a header or a body.
//!
//! # Which parts of OpenTelemetry are used
//!
//! The data model of `opentelemetry_sdk` (`SpanData`, `Resource`) and its translation to OTLP messages in
//! `opentelemetry-proto`. Everything goes out through [`Egress`], with the operator's proxy and address policy.
//! Three parts of version 0.33.1 are not used:
//!
//! - **Tracer and `SpanBuilder`.** A `SpanBuilder` has no fields for ids (`opentelemetry`,
//!   `src/trace/tracer.rs`). Ids come from the `IdGenerator`, whose methods have no parameters, so an id
//!   cannot be derived from what the span is about.
//! - **`BatchSpanProcessor`.** It runs on a thread of its own by `std::time::Instant`, not by our [`Clock`],
//!   and calls the exporter without a Tokio reactor, which an asynchronous HTTP client needs
//!   (opentelemetry-rust issue 3125). The variant for Tokio is behind an `experimental_` feature. The number of
//!   dropped spans is in a log line at shutdown, or behind `experimental_metrics_bound_instruments`.
//! - **`opentelemetry-otlp`.** `export` returns a text instead of the status and `Retry-After`, and only logs a
//!   partial success (issue 865), so exported and rejected spans cannot be counted. A batch is lost after four
//!   attempts or ten seconds, where ours is kept until the collector is back. The builder adds
//!   `OTEL_EXPORTER_OTLP_HEADERS` from the environment of the process to the headers of our configuration.

mod export;

pub use export::Exporter;
pub use opentelemetry::trace::SpanKind;

use std::array;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::domain::{Timestamp, WatchId};
use crate::telemetry::metrics::{Metrics, SpanOutcome};

#[cfg(doc)]
use crate::{clock::Clock, egress::Egress};

/// Maximum number of spans that wait for the collector; later ones are dropped.
const QUEUE: usize = 8_192;

/// Position of a watch's spans in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: TraceId,
    /// The client's span, the parent of the registration; invalid if the client sent none.
    parent: SpanId,
    /// The span of the registration.
    root: SpanId,
}

impl Context {
    /// Derives the ids, the same in every process. Returns `None` if the client does not record its trace.
    pub fn of(watch: WatchId, traceparent: Option<&str>) -> Option<Self> {
        let digest = Sha256::new().chain_update(b"ringback.trace").chain_update(watch.to_bytes()).finalize();
        let trace = TraceId::from_bytes(array::from_fn(|n| digest[n]));
        let root = SpanId::from_bytes(array::from_fn(|n| digest[16 + n]));
        match traceparent.and_then(parse_traceparent) {
            None => Some(Self { trace, parent: SpanId::INVALID, root }),
            Some((trace, parent, flags)) if flags.is_sampled() => Some(Self { trace, parent, root }),
            Some(_) => None,
        }
    }

    /// Returns the id of the trace in hexadecimal digits, for the log.
    pub fn trace_id(&self) -> String {
        self.trace.to_string()
    }

    /// Returns the span of the registration.
    pub fn registration(self, name: &'static str, at: Timestamp, took: Duration) -> Span {
        self.span(name, SpanKind::Server, at, took).below(self.parent).identified(self.root)
    }

    /// Returns a span below the registration.
    pub fn span(self, name: &'static str, kind: SpanKind, at: Timestamp, took: Duration) -> Span {
        let start_time = SystemTime::UNIX_EPOCH + Duration::from_millis(at.millis().try_into().unwrap_or(0));
        let scope = InstrumentationScope::builder("ringback").with_version(env!("CARGO_PKG_VERSION"));
        let flags = TraceFlags::SAMPLED;
        Span(SpanData {
            span_context: SpanContext::new(self.trace, SpanId::INVALID, flags, false, TraceState::NONE),
            parent_span_id: self.root,
            parent_span_is_remote: false,
            span_kind: kind,
            name: Cow::Borrowed(name),
            start_time,
            end_time: start_time + took,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: scope.build(),
        })
    }
}

/// Parses a `traceparent` header of the W3C, whose syntax was checked at the registration.
fn parse_traceparent(traceparent: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = traceparent.split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    Some((trace, span, TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?)))
}

/// A finished span.
#[derive(Clone, Debug)]
pub struct Span(SpanData);

impl Span {
    fn identified(mut self, id: SpanId) -> Self {
        let trace = self.0.span_context.trace_id();
        self.0.span_context = SpanContext::new(trace, id, TraceFlags::SAMPLED, false, TraceState::NONE);
        self
    }

    /// Derives the id from the name, the parent, the subject and the start time. The same work at another
    /// time is another span.
    #[must_use]
    pub fn about(self, subject: &[u8]) -> Self {
        let started = self.0.start_time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let digest = Sha256::new()
            .chain_update(self.0.name.as_bytes())
            .chain_update(self.0.parent_span_id.to_bytes())
            .chain_update(subject)
            .chain_update(started.as_millis().to_be_bytes())
            .finalize();
        self.identified(SpanId::from_bytes(array::from_fn(|n| digest[n])))
    }

    /// Sets the parent, which is in the same trace.
    #[must_use]
    pub fn below(mut self, parent: SpanId) -> Self {
        self.0.parent_span_id = parent;
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(self, name: &'static str, value: impl Into<Value>) -> Self {
        self.with_some(name, Some(value))
    }

    /// Adds an attribute if there is a value.
    #[must_use]
    pub fn with_some(mut self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        self.0.attributes.extend(value.map(|value| KeyValue::new(name, value)));
        self
    }

    /// Marks the span as failed if there is an error.
    #[must_use]
    pub fn failed(mut self, error: Option<&str>) -> Self {
        self.0.status = error.map_or(Status::Unset, |error| Status::error(error.to_owned()));
        self
    }

    /// Returns the id, for the spans below this one.
    pub fn id(&self) -> SpanId {
        self.0.span_context.span_id()
    }
}

/// Queue for finished spans, if there is a collector.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<(mpsc::Sender<SpanData>, Arc<Metrics>)>);

impl Tracer {
    /// A tracer without a collector.
    pub const OFF: Self = Self(None);

    /// Returns a tracer and the receiving end of its queue.
    fn new(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<SpanData>) {
        let (spans, queue) = mpsc::channel(QUEUE);
        (Self(Some((spans, metrics))), queue)
    }

    /// Returns whether there is a collector.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Queues the span that `make` returns. Without a collector, `make` is not called.
    pub fn record(&self, make: impl FnOnce() -> Option<Span>) {
        if let Some((spans, metrics)) = &self.0
            && let Some(span) = make()
            && spans.try_send(span.0).is_err()
        {
            metrics.spans(SpanOutcome::Dropped, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Id;

    const GIVEN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn watch(n: u8) -> WatchId {
        WatchId(Id::from_bytes([n; 16]))
    }

    #[test]
    fn a_watch_is_in_the_clients_trace_or_in_one_of_its_own() {
        let own = Context::of(watch(1), None).expect("recorded");
        let again = Context::of(watch(1), None).expect("recorded");
        let other = Context::of(watch(2), None).expect("recorded");
        assert_eq!(own, again, "ids are derived");
        assert_ne!(own.trace, other.trace);
        assert_eq!(own.parent, SpanId::INVALID);

        let given = Context::of(watch(1), Some(GIVEN)).expect("recorded");
        assert_eq!(given.trace.to_bytes()[..3], [0x4b, 0xf9, 0x2f]);
        assert_eq!(given.parent.to_bytes(), [0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
        assert_eq!(given.root, own.root);
        assert_eq!(
            Context::of(watch(1), Some(&GIVEN.replace("-01", "-00"))),
            None,
            "the client does not record"
        );
        assert_eq!(
            Context::of(watch(1), Some(&GIVEN.replace("-01", "-03"))),
            Some(given),
            "other flags do not matter"
        );
    }

    #[test]
    fn span_ids_are_derived_from_subject_and_start() {
        let context = Context::of(watch(1), None).expect("recorded");
        let at = |millis, what: &[u8]| {
            let at = Timestamp::from_millis(millis);
            context.span("deliver", SpanKind::Client, at, Duration::ZERO).about(what).id()
        };
        assert_eq!(at(1, b"a"), at(1, b"a"));
        assert_ne!(at(1, b"a"), at(1, b"b"));
        assert_ne!(at(1, b"a"), at(2, b"a"));
    }

    #[test]
    fn without_a_collector_no_span_is_made() {
        Tracer::OFF.record(|| unreachable!("there is no collector"));
    }
}
