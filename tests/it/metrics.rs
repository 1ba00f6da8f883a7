//! Metrics as Prometheus reads them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::fakes::{Reply, error};
use crate::harness::{Harness, guarded, minutes, seconds};
use crate::tidy::rows_under;
use crate::wire;

/// One scrape: the value of each sample and the type of each metric.
pub struct Scrape {
    pub samples: BTreeMap<String, f64>,
    types: BTreeMap<String, String>,
}

impl Scrape {
    /// Parses the text format; panics on anything else.
    fn read(text: &str) -> Self {
        let (mut samples, mut types, mut helped) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').unwrap();
                assert!(!help.is_empty() && helped.insert(name.to_owned()), "{line}");
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let before = samples.insert(name.to_owned(), value.parse::<f64>().unwrap());
                assert!(before.is_none(), "{line}: twice");
            }
        }
        assert_eq!(helped, types.keys().cloned().collect(), "HELP and TYPE for each");
        Self { samples, types }
    }

    /// Returns the value of a sample; 0 if it does not exist yet.
    pub fn of(&self, sample: &str) -> f64 {
        self.samples.get(sample).copied().unwrap_or_default()
    }

    /// Returns name, type and labels of each metric, as in the table of the documentation.
    fn described(&self) -> BTreeSet<(String, String, String)> {
        let labels = |name: &str, kind: &str| {
            let mut labels = BTreeSet::new();
            for sample in self.samples.keys() {
                let (head, rest) = sample.split_once('{').unwrap_or((sample, ""));
                let head = if kind == "histogram" {
                    ["_bucket", "_sum", "_count"]
                        .iter()
                        .find_map(|end| head.strip_suffix(end))
                        .unwrap_or(head)
                } else {
                    head
                };
                if head == name {
                    let names = rest.trim_end_matches('}').split("\",").filter_map(|one| one.split_once('='));
                    labels.extend(names.map(|(label, _)| label.to_owned()));
                }
            }
            labels.remove("le");
            labels.into_iter().collect::<Vec<_>>().join(" ")
        };
        let all = self.types.iter();
        all.map(|(name, kind)| (name.clone(), kind.clone(), labels(name, kind))).collect()
    }
}

/// Reads the metrics on the main port.
pub async fn scrape(t: &Harness) -> Scrape {
    let answer = t.get_without_key("/metrics").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Scrape::read(answer.text())
}

/// Runs one job of each outcome, with receivers of each outcome.
async fn run_jobs(t: &Harness) {
    t.provider.completed("job_done");
    t.provider.failed("job_failed");
    t.provider.not_found("job_missing");
    t.provider.always("job_odd", Reply::json(200, &json!({ "jobId": "job_odd", "status": "marinating" })));
    t.receiver.script("/flaky", [Reply::status(500)]);
    t.receiver.always("/gone", Some(Reply::status(410)));
    for (job, path) in [("job_done", "/flaky"), ("job_failed", "/gone"), ("job_missing", "/hook")] {
        t.register(&json!({ "jobId": job, "callbackUrl": t.receiver.url(path) })).await;
    }
    let odd = t.register(&json!({ "jobId": "job_odd", "callbackUrl": t.receiver.url("/hook") })).await;
    t.pass(minutes(3)).await;
    t.stop_watch(&odd).await.expect(200);
    t.receiver.take(4).await;
}

#[tokio::test]
async fn the_documented_metrics_are_the_exported_ones() {
    let t = Harness::start().await;
    run_jobs(&t).await;
    // A request is counted after its answer: the second scrape contains the first.
    scrape(&t).await;
    let exposed = scrape(&t).await.described();
    let page = std::fs::read_to_string("docs/OPERATIONS.md").unwrap();
    let rows = rows_under(&page, &["metric", "type", "labels"]);
    let documented: BTreeSet<_> = rows
        .iter()
        .map(|row| {
            let name = row[0].trim_matches('`').to_owned();
            let mut labels: Vec<String> =
                row[2].split(", ").map(|l| l.trim_matches('`').to_owned()).collect();
            labels.sort();
            (name, row[1].clone(), labels.join(" "))
        })
        .collect();
    let undocumented: Vec<_> = exposed.difference(&documented).collect();
    let missing: Vec<_> = documented.difference(&exposed).collect();
    assert!(
        undocumented.is_empty() && missing.is_empty(),
        "not in the table: {undocumented:#?}, not there: {missing:#?}"
    );
    let prefixed = |name: &str| name.starts_with("ringback_") || name.starts_with("process_");
    assert!(documented.iter().all(|(name, ..)| prefixed(name)));
    assert!(documented.iter().all(|(name, kind, _)| name.ends_with("_total") == (kind == "counter")));
    t.finish().await;
}

#[tokio::test]
async fn exported_statuses_and_reasons_are_the_possible_ones() {
    let t = Harness::start().await;
    let scrape = scrape(&t).await;
    let page = std::fs::read_to_string("docs/OPERATIONS.md").unwrap();
    let rows = rows_under(&page, &["metric", "type", "labels"]);
    for (metric, label) in
        [("ringback_watches_ended_total", "status"), ("ringback_deliveries_skipped_total", "reason")]
    {
        let row = rows.iter().find(|row| row[0] == format!("`{metric}`")).unwrap();
        let documented: BTreeSet<&str> = row[3].split('`').skip(1).step_by(2).collect();
        let prefix = format!("{metric}{{{label}=\"");
        let exported =
            scrape.samples.keys().filter_map(|sample| sample.strip_prefix(&prefix)?.strip_suffix("\"}"));
        assert_eq!(exported.collect::<BTreeSet<&str>>(), documented, "{metric}");
    }
    t.finish().await;
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let t = Harness::start().await;
    run_jobs(&t).await;
    let found = scrape(&t).await;
    for (sample, value) in [
        ("ringback_watches_registered_total", 4.0),
        ("ringback_watches_watching", 0.0),
        ("ringback_jobs_scheduled", 0.0),
        (r#"ringback_watches_ended_total{status="completed"}"#, 1.0),
        (r#"ringback_watches_ended_total{status="failed"}"#, 1.0),
        (r#"ringback_watches_ended_total{status="not_found"}"#, 1.0),
        (r#"ringback_watches_ended_total{status="stopped"}"#, 1.0),
        (r#"ringback_watches_ended_total{status="expired"}"#, 0.0),
        (r#"ringback_attempts_total{channel="webhook",outcome="succeeded"}"#, 2.0),
        (r#"ringback_attempts_total{channel="webhook",outcome="failed"}"#, 1.0),
        (r#"ringback_attempts_total{channel="webhook",outcome="gone"}"#, 1.0),
        (r#"ringback_deliveries_ended_total{channel="webhook",outcome="succeeded"}"#, 2.0),
        (r#"ringback_deliveries_ended_total{channel="webhook",outcome="gone"}"#, 1.0),
        (r#"ringback_deliveries_ended_total{channel="webhook",outcome="exhausted"}"#, 0.0),
        (r#"ringback_attempt_duration_seconds_count{channel="webhook"}"#, 4.0),
        ("ringback_deliveries_due", 0.0),
        ("ringback_deliveries_loaded", 0.0),
        ("ringback_store_refusing", 0.0),
        (r#"ringback_http_requests_total{method="POST",route="/v1/watches",status="2xx"}"#, 4.0),
        (r#"ringback_http_requests_total{method="POST",route="/v1/watches/{id}/stop",status="2xx"}"#, 1.0),
    ] {
        assert_eq!(found.of(sample), value, "{sample}");
    }
    let polls = t.provider.all_polls().len();
    let counted =
        |outcome: &str| found.of(&format!(r#"ringback_polls_total{{outcome="{outcome}",provider="muvi"}}"#));
    assert!(counted("not_found") >= 3.0);
    assert_eq!(counted("ok") + counted("not_found"), polls as f64);
    assert_eq!(found.of(r#"ringback_poll_duration_seconds_count{provider="muvi"}"#), polls as f64);
    assert!(found.of(r#"ringback_polls_unknown_status_total{provider="muvi"}"#) >= 1.0);
    assert!(found.of("ringback_commit_commands_sum") >= 4.0);
    t.finish().await;
}

// Once: PostgreSQL has its own log.
#[tokio::test]
async fn the_size_of_the_write_ahead_log_is_exported() {
    let t = Harness::start().await;
    let log = std::fs::OpenOptions::new().write(true).open(t.file().with_extension("db-wal")).unwrap();
    let size = 200 * 1024 * 1024;
    // As after a reader of another process. The file has a hole.
    log.set_len(size).unwrap();
    t.clock.advance(seconds(1));
    let exported = async { while scrape(&t).await.of("ringback_store_log_bytes") != size as f64 {} };
    guarded("the size", exported).await;
    t.finish().await;
}

#[tokio::test]
async fn detection_delay_runs_from_job_end_to_first_attempt() {
    let t = Harness::start().await;
    // The job ended two seconds before the poll at 15:00:05 that finds it.
    let ended = |at: &str| json!({ "status": "completed", "progress": 100, "completedAt": at });
    t.provider.job("job_late", &ended("2026-02-18T15:00:03Z"));
    // A `completedAt` in the future, and a job without one.
    t.provider.job("job_early", &ended("2026-02-18T16:00:00Z"));
    t.provider.job("job_silent", &json!({ "status": "completed", "completedAt": null }));
    t.receiver.script("/late", [Reply::status(500), Reply::status(500)]);
    for job in ["job_late", "job_early", "job_silent"] {
        let path = job.strip_prefix("job_").unwrap();
        t.register(&json!({ "jobId": job, "callbackUrl": t.receiver.url(&format!("/{path}")) })).await;
    }
    t.pass(minutes(10)).await;
    t.receiver.take(5).await;
    let found = scrape(&t).await;
    assert_eq!(found.of(r#"ringback_detection_delay_seconds_count{provider="muvi"}"#), 2.0);
    assert_eq!(found.of(r#"ringback_detection_delay_seconds_sum{provider="muvi"}"#), 2.0);
    t.finish().await;
}

// Public report: influxdata/influxdb#13511.
#[tokio::test]
async fn an_implausible_end_of_a_job_is_null_and_no_delay() {
    let t = Harness::start().await;
    let times =
        ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9998-12-31T00:00:00Z", "2026-02-18T14:00:00Z"];
    for (n, at) in times.into_iter().enumerate() {
        let job = format!("job_{n}");
        let created = if n == 3 { "2026-02-18T14:59:00Z" } else { at };
        t.provider.job(&job, &json!({ "status": "completed", "createdAt": created, "completedAt": at }));
        let watch = t.watch(&job).await;
        t.pass(seconds(5)).await;
        let shown = t.shown(&watch).await;
        let expected = if n == 3 { json!("2026-02-18T14:59:00.000Z") } else { json!(null) };
        assert_eq!(
            (&shown["job"]["createdAt"], &shown["job"]["completedAt"]),
            (&expected, &json!(null)),
            "{at}"
        );
        let hits = t.receiver.take(1).await;
        assert_eq!(hits[0].json()["data"]["completedAt"], json!(null), "{at}");
    }
    let found = scrape(&t).await;
    assert_eq!(found.of(r#"ringback_detection_delay_seconds_count{provider="muvi"}"#), 0.0);
    t.finish().await;
}

#[tokio::test]
async fn detection_delay_counts_time_before_a_restart() {
    let mut t = Harness::start().await;
    t.provider.job("job_1", &json!({ "status": "completed", "completedAt": "2026-02-18T15:00:04Z" }));
    let payloads = ["event", "raw", "cloudevents"];
    let mut gates = Vec::new();
    for payload in payloads {
        let (held, gate) = Reply::status(200).held();
        t.receiver.script(&format!("/{payload}"), [held]);
        gates.push(gate);
        let url = t.receiver.url(&format!("/{payload}"));
        t.register(&json!({ "jobId": "job_1", "callbackUrl": url, "payload": payload })).await;
    }
    t.pass(seconds(5)).await;
    t.receiver.take(payloads.len()).await;
    // The first process crashes while the attempts are in flight: no attempt is stored.
    t.crash().await;
    drop(gates);
    t.clock.advance(minutes(1));
    t.restart().await;
    t.rest().await;
    t.receiver.take(payloads.len()).await;
    let found = scrape(&t).await;
    assert_eq!(found.of(r#"ringback_detection_delay_seconds_count{provider="muvi"}"#), 3.0);
    assert_eq!(found.of(r#"ringback_detection_delay_seconds_sum{provider="muvi"}"#), 3.0 * 61.0);
    t.finish().await;
}

#[tokio::test]
async fn due_deliveries_and_the_age_of_the_oldest_are_exported() {
    let t = Harness::with(&[("RINGBACK_DELIVERY__PER_DESTINATION", "1")]).await;
    let (held, gate) = Reply::status(200).held();
    t.receiver.script("/hook", [held]);
    for job in ["job_1", "job_2", "job_3"] {
        t.provider.completed(job);
        t.watch(job).await;
    }
    t.provider.processing("job_4", 1);
    t.watch("job_4").await;
    t.pass(seconds(5)).await;
    t.clock.advance(seconds(7));
    t.rest().await;
    let found = scrape(&t).await;
    assert_eq!(found.of("ringback_deliveries_due"), 3.0);
    assert_eq!(found.of("ringback_deliveries_due_oldest_seconds"), 7.0);
    assert_eq!(found.of("ringback_deliveries_in_flight"), 1.0);
    assert_eq!(found.of("ringback_watches_watching"), 1.0);
    gate.open();
    t.rest().await;
    t.receiver.take(3).await;
    // The count is cached for 15 seconds.
    assert_eq!(scrape(&t).await.of("ringback_deliveries_due"), 3.0);
    t.clock.advance(seconds(15));
    assert_eq!(scrape(&t).await.of("ringback_deliveries_due"), 0.0);
    t.finish().await;
}

#[tokio::test]
async fn an_open_breaker_and_a_rejected_credential_are_exported() {
    let t = Harness::start().await;
    t.provider.all(Some(error(401, "UNAUTHORIZED", "Invalid API key")));
    t.provider.completed("job_1");
    t.watch("job_1").await;
    t.pass(seconds(5)).await;
    let refused = r#"ringback_provider_unauthorized{provider="muvi"}"#;
    assert_eq!(scrape(&t).await.of(refused), 1.0);
    t.provider.all(None);
    t.pass(minutes(2)).await;
    assert_eq!(scrape(&t).await.of(refused), 0.0);
    for n in 0..5 {
        let job = format!("job_down_{n}");
        t.provider.completed(&job);
        t.watch(&job).await;
    }
    t.provider.all(Some(Reply::status(503)));
    t.pass(seconds(10)).await;
    assert_eq!(scrape(&t).await.of(r#"ringback_provider_breaker_open{provider="muvi"}"#), 1.0);
    t.provider.all(None);
    t.pass(minutes(2)).await;
    assert_eq!(scrape(&t).await.of(r#"ringback_provider_breaker_open{provider="muvi"}"#), 0.0);
    t.receiver.take(6).await;
    t.finish().await;
}

#[tokio::test]
async fn with_metrics_listen_only_that_port_serves_metrics() {
    let t = Harness::with(&[("RINGBACK_METRICS_LISTEN", "127.0.0.1:0")]).await;
    assert_eq!(t.get("/metrics").await.status, 404);
    let own = t.metrics_address().unwrap();
    let fetch = async |path: &str| wire::exchange(own, &wire::request("GET", path, &[], b"")).await.unwrap();
    assert!(Scrape::read(fetch("/metrics").await.text()).of("process_start_time_seconds") > 0.0);
    assert_eq!(fetch("/v1/watches").await.status, 404);
    assert_eq!(fetch("/healthz").await.status, 404);
    t.finish().await;
}

// Once: these metrics do not depend on the database.
#[tokio::test]
async fn process_metrics_describe_this_process() {
    let t = Harness::start().await;
    let found = scrape(&t).await;
    assert!(found.of("process_cpu_seconds_total") > 0.0);
    assert!(found.of("process_threads") >= 1.0);
    assert!((3.0..=found.of("process_max_fds")).contains(&found.of("process_open_fds")));
    let memory = found.of("process_resident_memory_bytes");
    assert!((1e6..found.of("process_virtual_memory_bytes")).contains(&memory));
    // After the first of January 2020, and before now.
    let now = std::fs::metadata("/proc/self/stat").unwrap().modified().unwrap();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((1_577_836_800.0..=now + 1.0).contains(&found.of("process_start_time_seconds")));
    t.finish().await;
}

crate::postgres::on_postgres_too! {
    the_documented_metrics_are_the_exported_ones,
    metrics_count_what_happened,
    detection_delay_runs_from_job_end_to_first_attempt,
    detection_delay_counts_time_before_a_restart,
    an_implausible_end_of_a_job_is_null_and_no_delay,
    due_deliveries_and_the_age_of_the_oldest_are_exported,
    an_open_breaker_and_a_rejected_credential_are_exported,
    with_metrics_listen_only_that_port_serves_metrics,
    exported_statuses_and_reasons_are_the_possible_ones,
}
