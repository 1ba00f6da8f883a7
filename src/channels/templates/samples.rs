//! Samples to check templates with: each event type, with ordinary, long, missing and hostile values.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::channels::template_context::TemplateContext;
use crate::domain::EventType;

/// Returns every sample with its name.
pub(in crate::channels) fn all() -> Vec<(String, TemplateContext)> {
    let mut samples = Vec::new();
    for event in EventType::ALL {
        for (name, data) in [
            (event.to_string(), ordinary(*event)),
            (format!("{event}, long"), long(*event)),
            (format!("{event}, empty"), empty()),
            (format!("{event}, hostile"), hostile()),
        ] {
            let body =
                json!({ "type": event.as_str(), "timestamp": "2026-02-18T15:02:31.120Z", "data": data });
            let ids =
                ("evt_58t1760r40m30e209180g2g58t".to_owned(), "watch_01m84xcqq61hcfr06f3pqac001".to_owned());
            if let Ok(context) = TemplateContext::parse(*event, ids, body.to_string().as_bytes()) {
                samples.push((name, context));
            }
        }
    }
    samples
}

/// Returns every name that a template may use: `title`, `error.code`, and entries of lists as
/// `outputs[].link`.
pub(in crate::channels) fn names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, context) in all() {
        for (name, value) in json!(context).as_object().into_iter().flatten() {
            let (prefix, inside) = match value.as_array() {
                Some(entries) => (format!("{name}[]."), entries.first()),
                None => (format!("{name}."), Some(value)),
            };
            if let Some(Value::Object(fields)) = inside {
                names.extend(fields.keys().map(|field| format!("{prefix}{field}")));
            }
            names.insert(name.clone());
        }
    }
    names
}

fn ordinary(event: EventType) -> Value {
    if event == EventType::Test {
        return json!({ "message": "This is a test.", "destinationId": null });
    }
    if event == EventType::DeliveryExhausted {
        return json!({
            "deliveryId": "dlv_01m84xd4qp4xh12deasf0np000", "destinationId": "dst_01m84xcqq61hcfr06f3pqac000",
            "watchId": "watch_01m84xcqq61hcfr06f3pqac001", "jobId": "job_abc123def456",
            "eventType": "job.completed", "attemptCount": 10, "lastError": "timeout: no answer within 20 s",
        });
    }
    if event.is_of_group() {
        return json!({
            "groupId": "batch-7", "size": 100, "registered": 100,
            "counts": { "watching": 0, "completed": 97, "failed": 2, "cancelled": 0, "not_found": 1, "expired": 0,
                        "stopped": 0 },
            "watches": ["watch_01m84xcqq61hcfr06f3pqac001"],
        });
    }
    if event.is_operational() {
        return json!({
            "destinationId": "dst_01m84xcqq61hcfr06f3pqac009", "name": "billing", "reason": "failing",
            "since": "2026-02-13T15:02:31.120Z", "lastError": "HTTP 500",
        });
    }
    let url = |file: &str| format!("https://cdn.muvi.video/outputs/job_abc123def456/{file}");
    let output = |n: u8| {
        json!({ "url": url(&format!("output_{n}.mp4")), "type": "video",
                "thumbnail": url(&format!("thumb_{n}.jpg")), "posterImage": url(&format!("poster_{n}.jpg")) })
    };
    let (status, progress, error) = match event {
        EventType::JobCompleted => ("completed", 100, None),
        EventType::JobFailed => {
            ("failed", 40, Some(("GENERATION_FAILED", "The model failed.\nTry another prompt.")))
        }
        EventType::JobCancelled => ("cancelled", 50, None),
        EventType::JobNotFound => {
            ("processing", 10, Some(("not_found", "HTTP 404 JOB_NOT_FOUND: Job not found (request req_2)")))
        }
        EventType::WatchExpired => {
            let message = "no poll succeeded after the watch expired, so it is not known whether the job has \
                           ended; last error: HTTP 503";
            ("processing", 80, Some(("deadline", message)))
        }
        EventType::JobProcessing
        | EventType::JobProgress
        | EventType::Test
        | EventType::DestinationDisabled
        | EventType::DestinationRecovered
        | EventType::DeliveryExhausted
        | EventType::GroupCompleted
        | EventType::GroupExpired => ("processing", 30, None),
    };
    let error = error.map(|(code, message)| json!({ "code": code, "message": message }));
    let done = event == EventType::JobCompleted;
    json!({
        "watchId": "watch_01m84xcqq61hcfr06f3pqac001", "provider": "muvi", "jobId": "job_abc123def456",
        "name": null, "reference": null, "status": status, "rawStatus": status, "progress": progress,
        "output": done.then(|| url("output_0.mp4")), "outputs": done.then(|| [output(0), output(1)]),
        "error": error, "createdAt": "2026-02-18T15:00:00.000Z",
        "completedAt": event.reports_the_jobs_end().then_some("2026-02-18T15:02:30.000Z"),
        "metadata": { "orderId": 42, "customer": "Ada" },
    })
}

/// Values as some real jobs have them: long ids, signed URLs, messages of several lines, nested metadata.
fn long(event: EventType) -> Value {
    let mut data = ordinary(event);
    let id = "batch_6f1d2c3b4a5968778695a4b3c2d1e0f0_customer-4711_render-queue-europe-west_2026-02-18";
    let url = |n: u8| {
        let query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&X-Amz-Signature=";
        format!(
            "https://storage.example.com/{id}/final-cut-{n}-1920x1080-h264.mp4?{query}{}",
            "0f".repeat(64)
        )
    };
    data["jobId"] = json!(id);
    data["name"] =
        json!("Trailer of the spring campaign, final cut, all four formats, for the review on Thursday");
    data["reference"] = json!("ord_00000000000000000000000042/render/final-cut");
    data["rawStatus"] = json!("succeeded_with_warnings_and_partial_results");
    if event == EventType::JobCompleted {
        data["output"] = json!(url(1));
        data["outputs"] = (1..=12).map(|n| json!({ "url": url(n), "type": "video" })).collect();
    }
    if event == EventType::JobFailed {
        let frames =
            (1..=9).map(|n| format!("  at render.frame_{n} (/opt/worker/pipeline/stage_{n}.py:{n}42)"));
        let trace: Vec<String> = frames.collect();
        let message =
            format!("RuntimeError: CUDA out of memory. Tried to allocate 2.50 GiB.\n{}", trace.join("\n"));
        data["error"] = json!({ "code": "INTERNAL_GENERATION_PIPELINE_ERROR", "message": message });
    }
    data["metadata"] = json!({
        "orderId": "ord_00000000000000000000000042",
        "a_rather_long_name_of_a_metadata_entry": "https://shop.example.com/orders/42?from=mail&step=2",
        "tags": ["red", "green"],
        "note": "A value of several words that needs more than one line even on a wide screen, \
                 and some more of them on a telephone.",
    });
    data
}

fn empty() -> Value {
    json!({
        "watchId": "watch_01m84xcqq61hcfr06f3pqac001", "provider": "muvi", "jobId": "j", "status": "unknown",
        "rawStatus": null, "progress": null, "output": null, "outputs": null, "error": null, "createdAt": null,
        "completedAt": null, "metadata": {},
    })
}

/// A text that attacks every format in which it is shown.
const HOSTILE: &str = "\r\nBcc: x@y.example\r\n\r\n<script>alert(1)</script>\" onload=\"x <!channel> @channel \
     <@U123> *b* `c` [a](javascript:x) {{ 7 * 7 }} {% raw %} \u{202e}gpj.exe\u{0}\u{1b}[31m & &amp; \\ | =_ .";

fn hostile() -> Value {
    let long = format!("{HOSTILE}{}", "W\u{1f600}".repeat(2_000));
    let fields: serde_json::Map<String, Value> =
        (0..30).map(|n| (format!("{n}{HOSTILE}"), json!(long))).collect();
    let output = json!({ "url": format!("javascript:alert(1){HOSTILE}"), "type": HOSTILE,
                         "thumbnail": format!("https://a.example/\"><img src=x>{HOSTILE}"), "posterImage": "data:x" });
    json!({
        "message": long, "groupId": HOSTILE, "counts": { HOSTILE: 7 }, "destinationId": HOSTILE, "name": HOSTILE, "reason": HOSTILE, "since": HOSTILE,
        "lastError": long, "deliveryId": HOSTILE, "eventType": HOSTILE, "attemptCount": 1, "watchId": HOSTILE, "reference": long, "provider": HOSTILE, "jobId": HOSTILE, "status": HOSTILE, "rawStatus": long,
        "progress": 255, "output": format!("https://a.example/{HOSTILE}"), "outputs": vec![output; 30],
        "error": { "code": HOSTILE, "message": format!("{HOSTILE}\n.\n{long}") }, "createdAt": HOSTILE,
        "completedAt": "9999-12-31T23:59:59.999Z", "metadata": fields,
    })
}
