//! Bringing spans to the collector: OTLP over HTTP, in protobuf.
//!
//! While one batch is on its way the next gathers, and there is a pause between two: a busy service
//! sends large batches. What the collector could not take for now is kept and brought again, and
//! meanwhile the queue fills; what it refuses is gone. Both are counted, and a line is logged when
//! trouble begins and when it ends, not for each batch.
//!
//! At the end, when nobody makes spans any more, what is left is brought once.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{
    ResourceSpans, ScopeSpans, Span as Message, Status, span, status,
};
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use tokio::sync::{mpsc, watch};
use url::Url;

use super::{Span, SpanKind, Tracer, Value};
use crate::clock::Clock;
use crate::domain::{Masked, Timestamp, parse_retry_after};
use crate::egress::{Call, Egress};
use crate::telemetry::metrics::{Metrics, SpanOutcome};

/// How many spans are brought at once: OpenTelemetry's own default.
const BATCH: usize = 512;

/// Between two batches.
const PAUSE: Duration = Duration::from_secs(1);

/// How long a collector may take: OpenTelemetry's own default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Until the next try where it took nothing and did not say when.
const AGAIN: Duration = Duration::from_secs(5);

/// The most that its `Retry-After` can ask for.
const AGAIN_MAX: Duration = Duration::from_secs(60);

/// What is read of its answer.
const ANSWER_MAX: usize = 64 * 1024;

/// Where the spans go.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Its base URL, without a slash at its end.
    pub endpoint: String,
    /// Headers for it.
    pub headers: Vec<(String, Masked)>,
    /// What it is to call this service.
    pub service_name: String,
}

/// Brings spans to the collector.
pub struct Exporter {
    queue: mpsc::Receiver<Span>,
    egress: Arc<Egress>,
    clock: Clock,
    metrics: Arc<Metrics>,
    url: Url,
    headers: HeaderMap,
    resource: Resource,
    /// Whether the last batch could not be brought, and that was said.
    failing: bool,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

/// What became of a batch.
enum Brought {
    /// It is there, or refused for good.
    Done,
    /// Not now.
    Later(Duration),
}

impl Exporter {
    /// A tracer, and what brings its spans away.
    pub fn new(
        collector: Collector,
        egress: Arc<Egress>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<(Tracer, Self)> {
        let url = Url::parse(&format!("{}/v1/traces", collector.endpoint))?;
        let mut headers = HeaderMap::new();
        for (name, value) in collector.headers {
            let mut value = HeaderValue::from_str(value.reveal())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("Ringback/", env!("CARGO_PKG_VERSION"))));
        let attributes = vec![
            attribute("service.name", &Value::Text(collector.service_name)),
            attribute("service.version", &env!("CARGO_PKG_VERSION").into()),
        ];
        let resource = Resource { attributes, ..Resource::default() };
        let (tracer, queue) = Tracer::new(Arc::clone(&metrics));
        Ok((tracer, Self { queue, egress, clock, metrics, url, headers, resource, failing: false }))
    }

    /// Brings spans until `closing` says that no more are made; then what is left, once.
    pub async fn run(mut self, mut closing: watch::Receiver<bool>) {
        let mut batch = Vec::with_capacity(BATCH);
        while !*closing.borrow() {
            let wait = if batch.is_empty() {
                tokio::select! {
                    _ = self.queue.recv_many(&mut batch, BATCH) => Duration::ZERO,
                    _ = closing.wait_for(|closing| *closing) => Duration::ZERO,
                }
            } else {
                match self.bring(&batch).await {
                    Brought::Done => {
                        batch.clear();
                        PAUSE
                    }
                    Brought::Later(wait) => wait,
                }
            };
            tokio::select! {
                () = self.clock.sleep(wait) => {}
                _ = closing.wait_for(|closing| *closing) => {}
            }
        }
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.queue.try_recv()
            {
                batch.push(span);
            }
            if batch.is_empty() {
                return;
            }
            if let Brought::Later(_) = self.bring(&batch).await {
                self.metrics.spans(SpanOutcome::Dropped, batch.len() + self.queue.len());
                return;
            }
            batch.clear();
        }
    }

    async fn bring(&mut self, batch: &[Span]) -> Brought {
        let call = Call {
            url: self.url.clone(),
            headers: self.headers.clone(),
            body: self.encode(batch).into(),
            timeout: TIMEOUT,
            max_answer: ANSWER_MAX,
        };
        let (error, again) = match self.egress.call(call).await {
            Ok(received) if (200..300).contains(&received.status) => {
                let refused = refused(&received.body).min(batch.len());
                self.metrics.spans(SpanOutcome::Exported, batch.len() - refused);
                self.metrics.spans(SpanOutcome::Rejected, refused);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the trace collector takes spans again");
                }
                return Brought::Done;
            }
            Ok(received) => {
                let again = again(received.status, received.header("retry-after"), self.clock.now());
                (format!("HTTP {}", received.status), again)
            }
            Err(error) => (error.to_string(), Some(AGAIN)),
        };
        if !std::mem::replace(&mut self.failing, true) {
            tracing::warn!(
                error,
                "the trace collector takes no spans; those that do not fit the queue are lost"
            );
        }
        if let Some(again) = again {
            return Brought::Later(again);
        }
        self.metrics.spans(SpanOutcome::Rejected, batch.len());
        Brought::Done
    }

    fn encode(&self, batch: &[Span]) -> Vec<u8> {
        let scope = InstrumentationScope {
            name: "ringback".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ..InstrumentationScope::default()
        };
        let spans = batch.iter().map(message).collect();
        let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
        let resource = Some(self.resource.clone());
        let resource_spans = vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }];
        ExportTraceServiceRequest { resource_spans }.encode_to_vec()
    }
}

/// When a batch is brought again that was not taken; by OTLP these four are worth another try.
fn again(status: u16, retry_after: Option<&str>, now: Timestamp) -> Option<Duration> {
    let asked = retry_after.and_then(|text| parse_retry_after(text, now));
    matches!(status, 429 | 502 | 503 | 504).then(|| asked.unwrap_or(AGAIN).clamp(PAUSE, AGAIN_MAX))
}

/// How many spans the collector took the batch without.
fn refused(answer: &[u8]) -> usize {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    partial.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0))
}

fn message(span: &Span) -> Message {
    let nanos = |at: Timestamp| u64::try_from(at.millis()).unwrap_or(0).saturating_mul(1_000_000);
    let start = nanos(span.at);
    let kind = match span.kind {
        SpanKind::Server => span::SpanKind::Server,
        SpanKind::Client => span::SpanKind::Client,
        SpanKind::Internal => span::SpanKind::Internal,
    };
    let status = span
        .error
        .as_ref()
        .map(|error| Status { message: error.clone(), code: status::StatusCode::Error.into() });
    Message {
        trace_id: span.trace.to_vec(),
        span_id: span.id.to_vec(),
        parent_span_id: span.parent.map(|id| id.to_vec()).unwrap_or_default(),
        // Recorded; there is no more to say.
        flags: 1,
        name: span.name.to_owned(),
        kind: kind.into(),
        start_time_unix_nano: start,
        end_time_unix_nano: start.saturating_add(u64::try_from(span.took.as_nanos()).unwrap_or(u64::MAX)),
        attributes: span.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        status,
        ..Message::default()
    }
}

fn attribute(name: &str, value: &Value) -> KeyValue {
    let value = match value {
        Value::Text(text) => any_value::Value::StringValue(text.clone()),
        Value::Number(number) => any_value::Value::IntValue(*number),
    };
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_says_when_to_come_again_within_limits() {
        let now = Timestamp::from_millis(0);
        for (status, said, seconds) in [
            (503, None, Some(5)),
            (429, Some("30"), Some(30)),
            (502, Some("0"), Some(1)),
            (504, Some("86400"), Some(60)),
            (503, Some("soon"), Some(5)),
            (400, Some("30"), None),
            (500, None, None),
            (302, None, None),
        ] {
            assert_eq!(again(status, said, now).map(|wait| wait.as_secs()), seconds, "{status} {said:?}");
        }
    }
}
