//! Export of spans to the collector: OTLP over HTTP in protobuf.
//!
//! - Spans are sent in batches, with a pause between two, so that a busy service sends large batches. While a
//!   batch is being sent, the queue collects the next one.
//! - A batch that the collector cannot take now is kept and sent again; meanwhile the queue fills. A batch
//!   that the collector rejects is discarded. Both are counted.
//! - A line is logged when the failures begin and when they end, not for each batch.
//! - At shutdown, after the last span was recorded, the rest is sent once.

use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable as _};
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SpanData;
use prost::Message as _;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{mpsc, watch};
use url::Url;

use super::Tracer;
use crate::clock::Clock;
use crate::config::Telemetry;
use crate::egress::{Egress, Post};
use crate::telemetry::metrics::{Metrics, SpanOutcome};

/// Maximum number of spans in a batch: OpenTelemetry's default.
const BATCH: usize = 512;

/// Pause between two batches, and the shortest wait before a retry.
const PAUSE: Duration = Duration::from_secs(1);

/// Timeout of a request: OpenTelemetry's default.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Wait before a retry if the collector sent no `Retry-After`.
const RETRY_WAIT: Duration = Duration::from_secs(5);

/// Longest wait that a `Retry-After` of the collector can ask for.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(60);

/// Maximum size of an answer, in bytes.
const ANSWER_MAX: usize = 64 * 1024;

/// Sends the spans of a [`Tracer`] to the collector.
#[derive(Debug)]
pub struct Exporter {
    queue: mpsc::Receiver<SpanData>,
    egress: Arc<Egress>,
    clock: Clock,
    metrics: Arc<Metrics>,
    url: Url,
    headers: HeaderMap,
    resource: ResourceAttributesWithSchema,
}

/// Failure of an export.
struct ExportError {
    message: String,
    /// Wait before a retry; `None` if the collector rejected the batch.
    retry_after: Option<Duration>,
}

impl Exporter {
    /// Returns a tracer and the exporter of its spans to the collector at `endpoint`.
    pub fn new(
        endpoint: &str,
        settings: &Telemetry,
        egress: Arc<Egress>,
        clock: Clock,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<(Tracer, Self)> {
        let url = Url::parse(&format!("{endpoint}/v1/traces"))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.otlp_headers {
            let mut value = HeaderValue::from_str(value.reveal())?;
            value.set_sensitive(true);
            headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
        }
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let attributes = [
            KeyValue::new("service.name", settings.service_name.clone()),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ];
        let resource = (&Resource::builder_empty().with_attributes(attributes).build()).into();
        let (tracer, queue) = Tracer::new(Arc::clone(&metrics));
        Ok((tracer, Self { queue, egress, clock, metrics, url, headers, resource }))
    }

    /// Exports spans until `closing` becomes true, which says that no more are recorded; then the rest, once.
    pub async fn run(mut self, closing: watch::Receiver<bool>) {
        let mut failing = false;
        loop {
            let batch = self.next_batch(closing.clone()).await;
            if batch.is_empty() {
                return;
            }
            let count = batch.len();
            let rejected = match self.export(batch, &closing, &mut failing).await {
                Ok(rejected) => rejected.min(count),
                Err(ExportError { retry_after: None, .. }) => count,
                // Only when closing.
                Err(ExportError { retry_after: Some(_), .. }) => {
                    self.metrics.spans(SpanOutcome::Dropped, count + self.queue.len());
                    return;
                }
            };
            self.metrics.spans(SpanOutcome::Exported, count - rejected);
            self.metrics.spans(SpanOutcome::Rejected, rejected);
            sleep(self.clock.clone(), closing.clone(), PAUSE).await;
        }
    }

    /// Waits for spans. Returns none if `closing` is true and the queue is empty.
    async fn next_batch(&mut self, mut closing: watch::Receiver<bool>) -> Vec<SpanData> {
        let mut batch = Vec::with_capacity(BATCH);
        tokio::select! {
            biased;
            _ = self.queue.recv_many(&mut batch, BATCH) => {}
            _ = closing.wait_for(|closing| *closing) => {}
        }
        batch
    }

    /// Sends a batch, again and again while the collector cannot take it. Returns the number of spans that the
    /// collector rejected.
    async fn export(
        &self,
        batch: Vec<SpanData>,
        closing: &watch::Receiver<bool>,
        failing: &mut bool,
    ) -> Result<usize, ExportError> {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        let sleeper = {
            let (clock, closing) = (self.clock.clone(), closing.clone());
            move |wait| sleep(clock.clone(), closing.clone(), wait)
        };
        let sent = (|| self.send(body.clone()))
            .retry(ConstantBuilder::new().without_max_times())
            .sleep(sleeper)
            .when(|error| {
                if !std::mem::replace(failing, true) {
                    tracing::warn!(
                        error = error.message,
                        "the trace collector accepts no spans: check telemetry.otlp_endpoint; spans that do not fit into the queue are dropped"
                    );
                }
                error.retry_after.is_some() && !*closing.borrow()
            })
            .adjust(|error, _| error.retry_after)
            .await;
        if sent.is_ok() && std::mem::take(failing) {
            tracing::info!("the trace collector accepts spans again");
        }
        sent
    }

    /// Sends a request once. Returns the number of spans that the collector rejected.
    async fn send(&self, body: Bytes) -> Result<usize, ExportError> {
        let call = Post {
            url: self.url.clone(),
            headers: self.headers.clone(),
            body,
            timeout: TIMEOUT,
            max_answer: ANSWER_MAX,
        };
        match self.egress.call(call).await {
            Ok(received) if (200..300).contains(&received.status) => Ok(rejected(&received.body)),
            Ok(received) => Err(ExportError {
                message: format!("HTTP {}", received.status),
                retry_after: retry_after(received.status, received.retry_after(self.clock.now())),
            }),
            Err(error) => Err(ExportError { message: error.to_string(), retry_after: Some(RETRY_WAIT) }),
        }
    }
}

/// Sleeps; returns early if `closing` is or becomes true.
async fn sleep(clock: Clock, mut closing: watch::Receiver<bool>, wait: Duration) {
    tokio::select! {
        () = clock.sleep(wait) => {}
        _ = closing.wait_for(|closing| *closing) => {}
    }
}

/// Returns the wait before a retry, from the one that the collector requests; `None` for a status that OTLP does not
/// permit to retry.
fn retry_after(status: u16, requested: Option<Duration>) -> Option<Duration> {
    let wait = requested.unwrap_or(RETRY_WAIT).clamp(PAUSE, RETRY_WAIT_MAX);
    matches!(status, 429 | 502 | 503 | 504).then_some(wait)
}

/// Returns the number of rejected spans in an answer of the collector.
fn rejected(answer: &[u8]) -> usize {
    let partial = ExportTraceServiceResponse::decode(answer).ok().and_then(|answer| answer.partial_success);
    partial.map_or(0, |partial| usize::try_from(partial.rejected_spans).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_collector_sets_the_wait_before_a_retry() {
        for (status, said, seconds) in [
            (503, None, Some(5)),
            (429, Some(30), Some(30)),
            (502, Some(0), Some(1)),
            (504, Some(86_400), Some(60)),
            (400, Some(30), None),
            (500, None, None),
            (302, None, None),
        ] {
            assert_eq!(
                retry_after(status, said.map(Duration::from_secs)).map(|wait| wait.as_secs()),
                seconds,
                "{status} {said:?}"
            );
        }
    }
}
