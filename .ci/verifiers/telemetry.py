"""Checks a running ringback: metrics with Prometheus's parser, traces with OpenTelemetry's messages."""

import sys
import threading
import urllib.request

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from prometheus_client.parser import text_string_to_metric_families

from service import KEY, Ringback, serve, wait

TRACE, CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"

lock = threading.Lock()
spans = []
hooks = []


def collector(path, headers, body):
    assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf"), (path, headers)
    assert headers["api-key"] == "k=1", headers
    request = ExportTraceServiceRequest()
    request.ParseFromString(body)
    with lock:
        for resource in request.resource_spans:
            names = {one.key: one.value.string_value for one in resource.resource.attributes}
            assert names["service.name"] == "callbacks", names
            for scope in resource.scope_spans:
                spans.extend(scope.spans)
    return 200, ExportTraceServiceResponse().SerializeToString()


def receiver(_path, headers, _body):
    hooks.append(headers.get("traceparent"))
    # The first one is refused, so that a retry follows.
    return (500 if len(hooks) == 1 else 204), b""


def scrape(url):
    with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4"), answer.headers
        return {family.name: family for family in text_string_to_metric_families(answer.read().decode())}


def register(url, hook):
    body = f'{{"jobId": "job_completed_ordinary", "callbackUrl": "{hook}/"}}'.encode()
    headers = {
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "traceparent": f"00-{TRACE}-{CLIENT}-01",
    }
    with urllib.request.urlopen(urllib.request.Request(url + "/v1/watches", body, headers), timeout=10) as answer:
        assert answer.status == 201


def value(families, name, sample, **labels):
    found = [one.value for one in families[name].samples if one.name == sample and labels.items() <= one.labels.items()]
    assert len(found) == 1, (name, sample, labels, found)
    return found[0]


def metrics(families):
    for name, family in families.items():
        assert name.startswith(("ringback_", "process_")), name
        assert family.documentation and family.type != "unknown", family
        if family.type == "histogram":
            for key in {tuple(sorted((k, v) for k, v in one.labels.items() if k != "le")) for one in family.samples}:
                counts = [one.value for one in family.samples if one.name.endswith("_bucket") and dict(key).items() <= one.labels.items()]
                assert counts == sorted(counts), (name, key, counts)
    polls = dict(provider="muvi", outcome="ok")
    assert value(families, "ringback_polls", "ringback_polls_total", **polls) >= 1
    ended = dict(channel="webhook", outcome="succeeded")
    assert value(families, "ringback_deliveries_ended", "ringback_deliveries_ended_total", **ended) == 1
    failed = dict(channel="webhook", outcome="failed")
    assert value(families, "ringback_attempts", "ringback_attempts_total", **failed) == 1
    assert value(families, "process_cpu_seconds", "process_cpu_seconds_total") > 0
    delay = "ringback_detection_delay_seconds"
    assert value(families, delay, delay + "_count", provider="muvi") == 1
    print(f"  {len(families)} metrics, each with HELP and TYPE")


def traces():
    ids = {span.span_id: span for span in spans}
    assert len(ids) == len(spans)
    assert {span.trace_id.hex() for span in spans} == {TRACE}
    tops = [span for span in spans if span.parent_span_id not in ids]
    assert [span.name for span in tops] == ["register"] and tops[0].parent_span_id.hex() == CLIENT, tops
    names = sorted(span.name for span in spans if span.name != "poll")
    assert names == ["deliver", "deliver", "end", "register"], names
    assert all(span.end_time_unix_nano >= span.start_time_unix_nano > 0 for span in spans)
    print(f"  {len(spans)} spans, one tree below the client's")


def main():
    hook = serve(receiver)
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": serve(collector),
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=k%3D1",
        "OTEL_SERVICE_NAME": "callbacks",
        "RINGBACK_DELIVERY__RETRY_SCHEDULE": "200ms, 1s, 1s",
    }
    with Ringback(sys.argv[1], settings) as ringback:
        register(ringback.url, hook)

        def delivered():
            families = scrape(ringback.url)
            ended = dict(channel="webhook", outcome="succeeded")
            done = value(families, "ringback_deliveries_ended", "ringback_deliveries_ended_total", **ended)
            return families if done == 1 else None

        metrics(wait(30, "the delivery to succeed", delivered))
    # The last spans are exported before the process ends.
    assert hooks == [f"00-{TRACE}-{CLIENT}-01"] * 2, hooks
    traces()


main()
