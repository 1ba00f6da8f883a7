//! Traces as a collector receives them: OTLP over HTTP, decoded with the messages that OpenTelemetry
//! publishes.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};
use prost::Message as _;
use serde_json::json;

use crate::fakes::{Held, Reply, Server, Shared};
use crate::harness::{AUTH, Harness, JSON, guarded, id, minutes, seconds};
use crate::metrics::scrape;
use crate::wire::Request;

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A collector that keeps the spans that it receives.
struct Collector {
    server: Server,
    shared: Arc<Shared<Got>>,
}

#[derive(Debug, Default)]
struct Got {
    always: Option<Reply>,
    requests: usize,
    spans: Vec<Span>,
    resource: Option<Resource>,
}

impl Collector {
    async fn start() -> Self {
        let shared = Shared::new(Got::default());
        let server = Server::start(Held::default(), {
            let shared = Arc::clone(&shared);
            move |request| shared.change(|got| got.take(&request))
        });
        Self { server: server.await, shared }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Sets the answer to every request; no spans are kept meanwhile. `None` ends it.
    fn always(&self, reply: Option<Reply>) {
        self.shared.change(|got| got.always = reply);
    }

    /// Waits for `n` requests.
    async fn wait_for_requests(&self, n: usize) {
        self.shared.until("requests", |got| (got.requests >= n).then_some(())).await;
    }

    /// Waits for `count` spans with this name and returns them.
    async fn spans(&self, name: &str, count: usize) -> Vec<Span> {
        let found = |got: &mut Got| {
            let named: Vec<Span> = got.spans.iter().filter(|span| span.name == name).cloned().collect();
            (named.len() >= count).then_some(named)
        };
        let named = self.shared.until(&format!("{count} spans `{name}`"), found).await;
        assert_eq!(named.len(), count, "{named:#?}");
        named
    }

    fn all(&self) -> Vec<Span> {
        self.shared.lock().spans.clone()
    }
}

impl Got {
    fn take(&mut self, request: &Request) -> Reply {
        self.requests += 1;
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/base/v1/traces"));
        assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(request.header("api-key"), Some("s=cret"));
        if let Some(reply) = &self.always {
            return reply.clone();
        }
        let decoded = ExportTraceServiceRequest::decode(request.body.as_slice()).unwrap();
        for spans in decoded.resource_spans {
            self.resource = spans.resource;
            self.spans.extend(spans.scope_spans.into_iter().flat_map(|scope| scope.spans));
        }
        Reply::new(200, ExportTraceServiceResponse::default().encode_to_vec())
    }
}

async fn traced(collector: &Collector) -> Harness {
    Harness::with(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("{}/base/", collector.url())),
        ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%3Dcret"),
    ])
    .await
}

fn attribute(span: &Span, name: &str) -> String {
    let value = span.attributes.iter().find(|one| one.key == name).and_then(|one| one.value.clone()?.value);
    match value {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{name} is {other:?} in {span:#?}"),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Asserts that the spans form one tree below `parent`, without an id that occurs twice.
fn is_one_tree(spans: &[Span], parent: &str) {
    let ids: HashSet<String> = spans.iter().map(|span| hex(&span.span_id)).collect();
    assert_eq!(ids.len(), spans.len(), "an id occurs twice: {spans:#?}");
    let traces: HashSet<String> = spans.iter().map(|span| hex(&span.trace_id)).collect();
    assert_eq!(traces.len(), 1, "{traces:?}");
    let tops: Vec<&Span> = spans.iter().filter(|span| !ids.contains(&hex(&span.parent_span_id))).collect();
    let [top] = tops.as_slice() else { panic!("not one root: {tops:#?}") };
    assert_eq!(top.name, "register");
    assert_eq!(hex(&top.parent_span_id), parent);
}

async fn register(t: &Harness, job: &str, path: &str, traceparent: Option<&str>) -> String {
    let body = json!({ "jobId": job, "callbackUrl": t.receiver.url(path) }).to_string();
    let mut headers = vec![AUTH, JSON];
    headers.extend(traceparent.map(|given| ("traceparent", given)));
    id(&t.send("POST", "/v1/watches", &headers, body.as_bytes()).await.expect(201))
}

#[tokio::test]
async fn spans_of_a_watch_form_one_tree_across_a_restart() {
    let collector = Collector::start().await;
    let mut t = traced(&collector).await;
    t.provider.processing("job_1", 10);
    let watch = register(&t, "job_1", "/hook?token=s3cret", Some(TRACEPARENT)).await;
    t.pass(seconds(5)).await;
    t.stop().await;
    t.clock.advance(seconds(1));
    t.restart().await;
    t.provider.completed("job_1");
    t.receiver.script("/hook?token=s3cret", [Reply::status(500)]);
    t.pass(minutes(1)).await;
    for hit in t.receiver.take(2).await {
        assert_eq!(hit.header("traceparent"), TRACEPARENT);
    }
    t.stop().await;

    let spans = collector.all();
    is_one_tree(&spans, "00f067aa0ba902b7");
    assert_eq!(hex(&spans[0].trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    let [registered] = collector.spans("register", 1).await.try_into().unwrap();
    assert_eq!(registered.kind(), SpanKind::Server);
    assert_eq!(attribute(&registered, "http.response.status_code"), "201");
    assert_eq!(attribute(&registered, "http.route"), "/v1/watches");
    assert_eq!(attribute(&registered, "ringback.watch.id"), watch);
    let polls: Vec<Span> = spans.iter().filter(|span| span.name == "poll").cloned().collect();
    assert_eq!(polls.len(), t.provider.polls("job_1").len());
    let last = polls.last().unwrap();
    assert_eq!((last.kind(), attribute(last, "ringback.status")), (SpanKind::Client, "completed".to_owned()));
    let [end] = collector.spans("end", 1).await.try_into().unwrap();
    assert_eq!(end.parent_span_id, last.span_id);
    let [failed, delivered] = collector.spans("deliver", 2).await.try_into().unwrap();
    assert_eq!(attribute(&failed, "http.response.status_code"), "500");
    assert_eq!(failed.status.as_ref().unwrap().message, "HTTP 500");
    assert_eq!(attribute(&delivered, "ringback.attempt"), "2");
    assert_eq!(attribute(&delivered, "ringback.event.type"), "job.completed");
    assert_eq!(delivered.status.as_ref().unwrap().code(), StatusCode::Unset);
    assert_eq!(failed.parent_span_id, registered.span_id);
    assert!(failed.start_time_unix_nano >= registered.end_time_unix_nano);
    assert!(!format!("{spans:?}").contains("s3cret"), "no URL in a span");
    t.give_up().await;
}

#[tokio::test]
async fn without_traceparent_a_watch_has_its_own_trace() {
    let collector = Collector::start().await;
    let mut t = traced(&collector).await;
    t.provider.processing("job_1", 1);
    t.provider.processing("job_2", 1);
    let first = register(&t, "job_1", "/hook", None).await;
    let second = register(&t, "job_2", "/hook", None).await;
    let registered = |span: &&Span| span.name == "register";
    let exported = async {
        while collector.all().iter().filter(registered).count() < 2 {
            t.clock.advance(seconds(1));
            t.rest().await;
        }
    };
    guarded("the spans of both registrations", exported).await;
    t.crash().await;
    t.provider.completed("job_1");
    t.provider.completed("job_2");
    t.clock.advance(seconds(1));
    t.restart().await;
    t.pass(minutes(1)).await;
    t.receiver.take(2).await;
    t.stop().await;
    let mut by_trace: HashMap<String, Vec<Span>> = HashMap::new();
    for span in collector.all() {
        by_trace.entry(hex(&span.trace_id)).or_default().push(span);
    }
    assert_eq!(by_trace.len(), 2);
    let mut watches = HashSet::new();
    for spans in by_trace.values() {
        is_one_tree(spans, "");
        let mut names: Vec<&str> = spans.iter().map(|span| span.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names, ["deliver", "end", "poll", "register"]);
        watches.insert(attribute(&spans[0], "ringback.watch.id"));
    }
    assert_eq!(watches, HashSet::from([first, second]));
    t.give_up().await;
}

#[tokio::test]
async fn polls_of_a_shared_job_are_in_its_first_watchs_trace() {
    let collector = Collector::start().await;
    let mut t = traced(&collector).await;
    t.provider.completed("job_1");
    register(&t, "job_1", "/first", Some(TRACEPARENT)).await;
    register(&t, "job_1", "/second", None).await;
    // The client of this watch does not record.
    register(&t, "job_1", "/third", Some(&TRACEPARENT.replace("-01", "-00"))).await;
    t.pass(seconds(5)).await;
    t.receiver.take(3).await;
    t.stop().await;
    let names = |ours: bool| {
        let all = collector.all();
        let mut names: Vec<String> = all
            .iter()
            .filter(|span| hex(&span.trace_id).starts_with("4bf92f35") == ours)
            .map(|span| span.name.clone())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names(true), ["deliver", "end", "poll", "register"]);
    assert_eq!(names(false), ["deliver", "register"]);
    t.give_up().await;
}

#[tokio::test]
async fn an_unavailable_collector_costs_only_spans() {
    let collector = Collector::start().await;
    let t = traced(&collector).await;
    let partial = ExportTracePartialSuccess { rejected_spans: 1, ..ExportTracePartialSuccess::default() };
    let partial = ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    let count =
        async |outcome: &str| scrape(&t).await.of(&format!(r#"ringback_spans_total{{outcome="{outcome}"}}"#));
    // Advances the clock second by second until the count is reached.
    let until = async |outcome: &str, least: f64| {
        let counting = async {
            while count(outcome).await < least {
                t.clock.advance(seconds(1));
                t.rest().await;
            }
        };
        guarded(outcome, counting).await;
    };
    collector.always(Some(Reply::status(503)));
    t.provider.processing("job_1", 1);
    t.watch("job_1").await;
    collector.wait_for_requests(1).await;
    t.pass(minutes(1)).await;
    assert_eq!((count("exported").await, count("rejected").await), (0.0, 0.0), "the batch is kept");
    collector.always(Some(Reply::status(400)));
    until("rejected", 1.0).await;
    collector.always(Some(Reply::new(200, partial)));
    until("rejected", count("rejected").await + 1.0).await;
    collector.always(None);
    until("exported", count("exported").await + 1.0).await;
    assert_eq!(count("dropped").await, 0.0);
    t.give_up().await;
}

crate::postgres::on_postgres_too! {
    spans_of_a_watch_form_one_tree_across_a_restart,
    without_traceparent_a_watch_has_its_own_trace,
    polls_of_a_shared_job_are_in_its_first_watchs_trace,
    an_unavailable_collector_costs_only_spans,
}
