//! The delay of writes by the deletion of old data: `cargo bench --bench pruning`. The result is one JSON object on
//! stdout. The run takes six minutes, because the first deletion begins five minutes after the start.
//!
//! The service keeps ended watches for one second. It registers and delivers a number of them, which are old when the
//! deletion begins. One client registers a watch every five milliseconds, before the deletion and while it runs. The
//! figures are the times of these registrations, each of which waits for a transaction and for the disk. A file system in
//! memory as the working directory excludes the disk.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the machine's clock")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at an error")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};

use self::service::{CONNECTIONS, Service, Target, client, json_answer, no_content, post, serve};

#[path = "support/service.rs"]
#[expect(dead_code, reason = "the other benchmarks use it")]
mod service;

/// Number of old watches.
const WATCHES: u64 = 100_000;
/// Time between two registrations that are measured.
const SPACING: Duration = Duration::from_millis(5);
/// Time from the start to the first deletion, as in `app::background`.
const FIRST_PRUNE: Duration = Duration::from_secs(300);
/// Time that is measured, before the deletion and from its begin.
const MEASURED: Duration = Duration::from_secs(20);
/// Begin of the measurement before the deletion: it ends two seconds before.
const ALONE: Duration = Duration::from_secs(278);
/// Longest time by which the deletion may delay a write, in milliseconds.
const CEILING: f64 = 20.0;

/// Registers watches at a constant rate until `end`. Returns the time of each registration, in milliseconds.
async fn registrations(url: &str, hook: &str, prefix: &str, end: Instant) -> Vec<f64> {
    let (client, api) = (client(), format!("{url}/v1/watches"));
    let mut ticks = tokio::time::interval(SPACING);
    let mut senders = tokio::task::JoinSet::new();
    for n in 0.. {
        ticks.tick().await;
        if Instant::now() >= end {
            break;
        }
        let body = json!({ "jobId": format!("{prefix}_{n}"), "callbackUrl": hook }).to_string();
        let request = post(&client, &api, body);
        senders.spawn(async move {
            let start = Instant::now();
            assert!(request.send().await.unwrap().status().is_success());
            start.elapsed().as_secs_f64() * 1000.0
        });
    }
    let mut times = senders.join_all().await;
    times.sort_by(f64::total_cmp);
    times
}

fn summary(times: &[f64]) -> Value {
    json!({
        "count": times.len(),
        "p50_ms": times[times.len() / 2],
        "p99_ms": times[times.len() * 99 / 100],
        "p999_ms": times[times.len() * 999 / 1000],
        "max_ms": times[times.len() - 1],
    })
}

/// Returns the number of watches in the database.
fn watches(service: &Service) -> i64 {
    let file = service.folder().join("ringback.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let database = rusqlite::Connection::open_with_flags(file, flags).unwrap();
    database.query_row("select count(*) from watches", [], |row| row.get(0)).unwrap()
}

#[tokio::main]
async fn main() {
    let arrived = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&arrived);
    let local = serve(move |request| {
        let is_event = request.method() == Method::POST;
        count.fetch_add(u64::from(is_event), Ordering::Relaxed);
        let id = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
        async move {
            if is_event {
                return no_content();
            }
            let body = json!({
                "jobId": id, "status": "completed", "progress": 100, "output": "https://cdn.muvi.video/output_0.mp4",
                "outputs": null, "error": null, "createdAt": null, "completedAt": null,
            });
            json_answer(body.to_string())
        }
    })
    .await;
    let on = Target { binary: env!("CARGO_BIN_EXE_ringback"), local, database: "sqlite://ringback.db" };
    let keep = [("RINGBACK_RETENTION__EVENTS", "1s"), ("RINGBACK_RETENTION__WATCHES", "1s")];
    let start = Instant::now();
    let service = Service::start_with(&on, "1ms", "1s", &keep).await;
    let hook = format!("http://{local}/hook");
    let (client, api) = (client(), format!("{}/v1/watches", service.url));
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..WATCHES {
        if senders.len() >= CONNECTIONS {
            senders.join_next().await.unwrap().unwrap();
        }
        let request =
            post(&client, &api, json!({ "jobId": format!("old_{n}"), "callbackUrl": hook }).to_string());
        senders.spawn(async move { assert!(request.send().await.unwrap().status().is_success()) });
    }
    senders.join_all().await;
    while arrived.load(Ordering::Relaxed) < WATCHES {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    eprintln!("{WATCHES} watches are delivered after {:.0} s", start.elapsed().as_secs_f64());
    tokio::time::sleep_until((start + ALONE).into()).await;
    let alone = registrations(&service.url, &hook, "alone", Instant::now() + MEASURED).await;
    let before = watches(&service);
    let during = registrations(&service.url, &hook, "during", start + FIRST_PRUNE + MEASURED).await;
    let left = watches(&service);
    let deleted = before + i64::try_from(during.len()).unwrap() - left;
    let (longest_alone, longest) = (alone[alone.len() - 1], during[during.len() - 1]);
    let report = json!({
        "watches_deleted": deleted, "watches_left": left,
        "alone": summary(&alone), "during": summary(&during),
        "ceiling_ms": CEILING,
        "holds": deleted > WATCHES.cast_signed() / 10 && longest <= longest_alone.min(CEILING) + CEILING,
    });
    println!("{report:#}");
}
