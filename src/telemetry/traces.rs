//! Traces: what happens to a watch, as spans for an OpenTelemetry collector.
//!
//! **One trace for each watch**, from its registration through the looks to the last attempt at its
//! delivery, which may be days and several processes apart. So nothing of a trace is kept anywhere:
//! where its spans hang is *derived*, from the `traceparent` that the client gave, or else from the
//! watch's id, and comes out the same in every process ([`Context::of`]). A span made after a restart
//! joins the same trace, under the same registration.
//!
//! ```text
//! the client's span, if it gave one
//! └─ register                     the registration
//!    ├─ poll                     each look at the job, where this watch was the first to wait for it
//!    │  └─ end                   the look that ended the job: until that was on disk
//!    ├─ deliver                  each attempt, to each destination
//!    └─ deliver
//! ```
//!
//! Watches of one job share its looks, and those are in the trace of the first of them; the others'
//! traces have the registration and the attempts. A client whose `traceparent` says that it does not
//! record gets no spans.
//!
//! **Why the messages and no SDK.** The SDK's spans begin and end in one process, with ids that are
//! drawn and by a clock of its own; ours are known only when they are over, with derived ids, by the
//! [`Clock`]. What would be left of it is the exporter, which brings an HTTP client of another version
//! and a thread. So the protobuf messages of OTLP are filled in here and sent through [`Egress`],
//! like everything that goes out.
//!
//! **Nobody waits for the collector.** A span is put into a queue, or dropped and counted where that
//! is full. Without a collector none is made: [`Tracer::record`] takes a closure and does not call it.
//! No span holds a URL, a header or a body.

mod export;

pub use export::{Collector, Exporter};

use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use crate::domain::{Timestamp, WatchId};
use crate::telemetry::metrics::{Metrics, SpanOutcome};

#[cfg(doc)]
use crate::{clock::Clock, egress::Egress};

/// How many spans may wait: what comes on top while a collector is away is dropped.
const QUEUE: usize = 8_192;

/// Names a span.
pub type SpanId = [u8; 8];

/// Where the spans of a watch hang.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    trace: [u8; 16],
    /// The client's span, above the registration.
    above: Option<SpanId>,
    /// The registration's span.
    root: SpanId,
}

impl Context {
    /// The same in every process; `None` where the client does not record its own trace.
    pub fn of(watch: WatchId, traceparent: Option<&str>) -> Option<Self> {
        let mut hash = Sha256::new();
        hash.update(b"ringback.trace");
        hash.update(watch.to_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut trace = [0; 16];
        let mut root = [0; 8];
        trace.copy_from_slice(&digest[..16]);
        root.copy_from_slice(&digest[16..24]);
        match traceparent.and_then(read) {
            None => Some(Self { trace, above: None, root }),
            Some((trace, above, true)) => Some(Self { trace, above: Some(above), root }),
            Some((_, _, false)) => None,
        }
    }

    /// The trace, as others write it: for the log.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", u128::from_be_bytes(self.trace))
    }

    /// The registration's own span.
    pub fn registration(self, name: &'static str, at: Timestamp, took: Duration) -> Span {
        Span { id: self.root, parent: self.above, ..self.span(name, SpanKind::Server, at, took) }
    }

    /// A span below the registration.
    pub fn span(self, name: &'static str, kind: SpanKind, at: Timestamp, took: Duration) -> Span {
        let (trace, parent) = (self.trace, Some(self.root));
        Span { trace, parent, name, kind, at, took, id: [0; 8], attributes: Vec::new(), error: None }
    }
}

/// What the W3C's header says: the trace, the span, and whether it is recorded. It was checked when it
/// arrived.
fn read(traceparent: &str) -> Option<([u8; 16], SpanId, bool)> {
    let mut parts = traceparent.split('-').skip(1);
    let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
    Some((unhex(trace)?, unhex(span)?, unhex::<1>(flags)?[0] & 1 == 1))
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Whose side of an exchange it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// We were asked.
    Server,
    /// We asked.
    Client,
    /// Within.
    Internal,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Words.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

/// Something that has happened.
#[derive(Clone, Debug)]
pub struct Span {
    trace: [u8; 16],
    id: SpanId,
    parent: Option<SpanId>,
    name: &'static str,
    kind: SpanKind,
    at: Timestamp,
    took: Duration,
    attributes: Vec<(&'static str, Value)>,
    error: Option<String>,
}

impl Span {
    /// Gives it the id that follows from what it is about and from when it began: the same thing tried
    /// again at another time is another span.
    #[must_use]
    pub fn about(mut self, what: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.name);
        hash.update(self.parent.unwrap_or_default());
        hash.update(what);
        hash.update(self.at.millis().to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        self.id.copy_from_slice(&digest[..8]);
        self
    }

    /// Hangs it below another span of its trace.
    #[must_use]
    pub fn below(mut self, parent: SpanId) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Adds an attribute.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.attributes.push((name, value.into()));
        self
    }

    /// Adds an attribute where there is one.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<Value>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// It came to nothing, and why.
    #[must_use]
    pub fn failed(mut self, error: Option<&str>) -> Self {
        self.error = error.map(str::to_owned);
        self
    }

    /// Its name for those below it.
    pub fn id(&self) -> SpanId {
        self.id
    }
}

/// Takes spans, if there is a collector.
#[derive(Clone, Debug, Default)]
pub struct Tracer(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    queue: mpsc::Sender<Span>,
    metrics: Arc<Metrics>,
}

impl Tracer {
    /// One that nobody listens to.
    pub const OFF: Self = Self(None);

    /// A tracer, and the end of its queue.
    fn new(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Span>) {
        let (queue, spans) = mpsc::channel(QUEUE);
        (Self(Some(Arc::new(Inner { queue, metrics }))), spans)
    }

    /// Whether anybody listens.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes the span that `make` makes, if anybody listens and there is one.
    pub fn record(&self, make: impl FnOnce() -> Option<Span>) {
        let Some(inner) = &self.0 else { return };
        let Some(span) = make() else { return };
        if inner.queue.try_send(span).is_err() {
            inner.metrics.spans(SpanOutcome::Dropped, 1);
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
    fn a_watch_hangs_below_the_clients_span_and_else_in_a_trace_of_its_own() {
        let own = Context::of(watch(1), None).expect("recorded");
        let again = Context::of(watch(1), None).expect("recorded");
        let other = Context::of(watch(2), None).expect("recorded");
        assert_eq!(own, again, "nothing is drawn");
        assert_ne!(own.trace, other.trace);
        assert_eq!(own.above, None);

        let given = Context::of(watch(1), Some(GIVEN)).expect("recorded");
        assert_eq!(given.trace[..3], [0x4b, 0xf9, 0x2f]);
        assert_eq!(given.above, Some([0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]));
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
    fn a_span_is_named_by_what_it_is_about_and_when_it_began() {
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
    fn without_a_collector_no_span_is_even_made() {
        Tracer::OFF.record(|| unreachable!("nobody listens"));
    }
}
