//! Throughput, as ratios within one run: `cargo bench`. The result is one JSON object on stdout.
//!
//! The release binary runs in a separate process; the load, the provider and the receiver run in this one, on the same
//! cores. Each figure is compared with a bare loop: the same client and number of connections against the same local
//! server, without Ringback. Machines differ and are shared, so the ratio is the result. Rounds are interleaved, and
//! the median counts.
//!
//! The same figures are measured on PostgreSQL, with a server of the benchmark's own on the same cores
//! and the same disk, and shown as ratios to the figures on SQLite. They are omitted if PostgreSQL's
//! programs are not installed.
//!
//! `RINGBACK_BENCH_BASE=PATH cargo bench` compares with another binary, such as that of the previous
//! version: each figure is measured for both binaries, one directly after the other, in alternating
//! order, and `beside_base` holds the ratios (new to base, the median of the rounds).
//! `RINGBACK_BENCH_ROUNDS` sets the number of rounds. `RINGBACK_BENCH_FIGURES=deliveries,together cargo bench` measures
//! only these figures, for a profile or to compare a change with its base.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the machine's clock")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at an error")]

use std::collections::HashMap;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use serde_json::{Value, json};

use self::server::Server;
use self::service::{
    CONNECTIONS, Service, Target, client, json_answer, median, no_content, per_second, post, serve,
};

#[path = "support/service.rs"]
#[expect(dead_code, reason = "the other benchmarks use it")]
mod service;

#[path = "../tests/it/server.rs"]
#[expect(dead_code, reason = "the tests do more with it")]
mod server;

const ROUNDS: usize = 3;
const BINARY: &str = env!("CARGO_BIN_EXE_ringback");
const SPAN: Duration = Duration::from_secs(3);

/// Database in the folder of the service.
const SQLITE: &str = "sqlite://ringback.db";

/// Number of watches of one job whose deliveries are measured.
const DELIVERIES: u64 = 30_000;
/// Number of jobs that are polled repeatedly.
const POLLED: u64 = 2_000;
/// Number of watches before the measurement of memory, and number of additional watches.
const WAITING: (u64, u64) = (100_000, 200_000);

/// Provider and receiver: one server with as little work as possible.
#[derive(Default)]
struct Local {
    gets: AtomicU64,
    posts: AtomicU64,
    completed: AtomicBool,
}

impl Local {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() == Method::POST {
            let _ = request.into_body().collect().await;
            self.posts.fetch_add(1, Ordering::Relaxed);
            return no_content();
        }
        let id = request.uri().path().rsplit('/').next().unwrap_or("");
        let done = self.completed.load(Ordering::Relaxed) || id.starts_with("done");
        let (status, output) = if done {
            ("completed", r#""https://cdn.muvi.video/outputs/job/output_0.mp4""#)
        } else {
            ("processing", "null")
        };
        let body = format!(
            r#"{{"jobId":"{id}","status":"{status}","progress":50,"output":{output},"outputs":null,"error":null,"createdAt":"2026-02-18T15:00:00Z","completedAt":null}}"#
        );
        self.gets.fetch_add(1, Ordering::Relaxed);
        json_answer(body)
    }

    async fn start() -> (Arc<Self>, SocketAddr) {
        let local = Arc::new(Self::default());
        let server = Arc::clone(&local);
        let address = serve(move |request| Arc::clone(&server).answer(request)).await;
        (local, address)
    }
}

/// Sends requests on all connections until `until` returns true. Returns the requests per second.
async fn load(
    request: impl Fn(u64) -> reqwest::RequestBuilder + Send + Sync + 'static,
    until: impl Fn(u64, Duration) -> bool + Send + Sync + 'static,
) -> f64 {
    let (request, until, count) = (Arc::new(request), Arc::new(until), Arc::new(AtomicU64::new(0)));
    let start = Instant::now();
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (request, until, count) = (Arc::clone(&request), Arc::clone(&until), Arc::clone(&count));
            tokio::spawn(async move {
                loop {
                    let n = count.fetch_add(1, Ordering::Relaxed);
                    if until(n, start.elapsed()) {
                        count.fetch_sub(1, Ordering::Relaxed);
                        return;
                    }
                    let response = request(n).send().await.unwrap();
                    assert!(response.status().is_success(), "{}", response.status());
                    response.bytes().await.unwrap();
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.unwrap();
    }
    per_second(count.load(Ordering::Relaxed), start.elapsed())
}

fn registration(job: &str, local: SocketAddr) -> String {
    format!(r#"{{"jobId":"{job}","callbackUrl":"http://{local}/hook","metadata":{{"orderId":42}}}}"#)
}

fn for_span(_: u64, elapsed: Duration) -> bool {
    elapsed >= SPAN
}

async fn bare_post(local: SocketAddr) -> f64 {
    let (client, url) = (client(), format!("http://{local}/hook"));
    load(move |n| post(&client, &url, registration(&format!("job_{n}"), local)), for_span).await
}

async fn bare_get(local: SocketAddr) -> f64 {
    let (client, url) = (client(), format!("http://{local}/v1/jobs/job_"));
    load(move |n| client.get(format!("{url}{n}")).header("authorization", "Bearer bench"), for_span).await
}

async fn register(service: &Service, local: SocketAddr, prefix: &'static str, until: u64) -> f64 {
    let (client, url) = (client(), format!("{}/v1/watches", service.url));
    let request = move |n| post(&client, &url, registration(&format!("{prefix}_{n}"), local));
    if until == 0 { load(request, for_span).await } else { load(request, move |n, _| n >= until).await }
}

async fn registrations(on: &Target<'_>) -> f64 {
    let service = Service::start(on, "1h", "1h").await;
    register(&service, on.local, "job", 0).await
}

async fn polls(server: &Local, on: &Target<'_>) -> f64 {
    let service = Service::start(on, "1ms", "1ms").await;
    register(&service, on.local, "job", POLLED).await;
    let (before, start) = (server.gets.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(SPAN).await;
    per_second(server.gets.load(Ordering::Relaxed) - before, start.elapsed())
}

/// Waits until the receiver has `count` more posts than `before`.
async fn received(server: &Local, before: u64, count: u64) {
    while server.posts.load(Ordering::Relaxed) < before + count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn deliveries(server: &Local, on: &Target<'_>) -> f64 {
    let service = Service::start(on, "10ms", "10ms").await;
    let local = on.local;
    let (client, url) = (client(), format!("{}/v1/watches", service.url));
    load(move |_| post(&client, &url, registration("one_job", local)), |n, _| n >= DELIVERIES).await;
    let before = server.posts.load(Ordering::Relaxed);
    server.completed.store(true, Ordering::Relaxed);
    received(server, before, 1).await;
    let start = Instant::now();
    received(server, before, DELIVERIES).await;
    let rate = per_second(DELIVERIES, start.elapsed());
    server.completed.store(false, Ordering::Relaxed);
    rate
}

/// Registration, poll and delivery of jobs that have ended before their first poll.
async fn together(server: &Local, on: &Target<'_>) -> f64 {
    let service = Service::start(on, "1ms", "1ms").await;
    let (count, before, start) = (20_000, server.posts.load(Ordering::Relaxed), Instant::now());
    register(&service, on.local, "done", count).await;
    received(server, before, count).await;
    per_second(count, start.elapsed())
}

/// Measures the memory per additional watch.
async fn memory(on: &Target<'_>) -> f64 {
    let service = Service::start(on, "1h", "1h").await;
    register(&service, on.local, "first", WAITING.0).await;
    let before = service.resident();
    register(&service, on.local, "more", WAITING.1).await;
    per_second(service.resident().saturating_sub(before), Duration::from_secs(WAITING.1))
}

/// Measures group commit alone: as many callers as connections, each with one row to write, and one thread that commits
/// the queued rows.
async fn commits() -> f64 {
    let folder = tempfile::tempdir_in(".").unwrap();
    let (queue, mut waiting) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<()>>(CONNECTIONS);
    let connection = rusqlite::Connection::open(folder.path().join("commits.db")).unwrap();
    connection.pragma_update(None, "journal_mode", "WAL").unwrap();
    connection.pragma_update(None, "synchronous", "FULL").unwrap();
    connection.execute_batch("create table rows (no integer primary key, body blob not null)").unwrap();
    let writer = std::thread::spawn(move || {
        while let Some(first) = waiting.blocking_recv() {
            let mut batch = vec![first];
            while let Ok(next) = waiting.try_recv() {
                batch.push(next);
            }
            connection.execute_batch("begin immediate").unwrap();
            for _ in &batch {
                let mut insert = connection.prepare_cached("insert into rows (body) values (?1)").unwrap();
                insert.execute([[7u8; 300].as_slice()]).unwrap();
            }
            connection.execute_batch("commit").unwrap();
            for caller in batch {
                let _ = caller.send(());
            }
        }
    });
    let (count, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let callers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (queue, count) = (queue.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                while start.elapsed() < SPAN {
                    let (answer, answered) = tokio::sync::oneshot::channel();
                    queue.send(answer).await.unwrap();
                    answered.await.unwrap();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    let rate = per_second(count.load(Ordering::Relaxed), start.elapsed());
    drop(queue);
    writer.join().unwrap();
    rate
}

/// Measures the median duration of fdatasync after an append of 4 KiB, in milliseconds.
fn sync_ms(folder: &Path) -> f64 {
    let mut file = std::fs::File::create(folder.join("sync")).unwrap();
    let mut spans: Vec<f64> = (0..300)
        .map(|_| {
            file.write_all(&[7; 4096]).unwrap();
            let start = Instant::now();
            file.sync_data().unwrap();
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    median(&mut spans)
}

/// The figures that are measured for each binary.
const FIGURES: [&str; 7] = [
    "registrations",
    "deliveries",
    "together",
    "polls",
    "registrations_on_postgres",
    "deliveries_on_postgres",
    "together_on_postgres",
];

/// The figures of [`FIGURES`] that are measured on both databases.
const ON_BOTH: [&str; 3] = ["registrations", "deliveries", "together"];

async fn measure(name: &str, server: &Local, on: &Target<'_>) -> f64 {
    match name.trim_end_matches("_on_postgres") {
        "registrations" => registrations(on).await,
        "deliveries" => deliveries(server, on).await,
        "together" => together(server, on).await,
        _ => polls(server, on).await,
    }
}

#[tokio::main]
async fn main() {
    let postgres = server::programs().map(|programs| Server::start(&programs, Path::new(".")));
    let (server, local) = Local::start().await;
    let base = std::env::var("RINGBACK_BENCH_BASE").ok();
    let rounds = std::env::var("RINGBACK_BENCH_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let only = std::env::var("RINGBACK_BENCH_FIGURES").ok();
    let is_chosen =
        |name: &&str| only.as_ref().is_none_or(|only| only.split(',').any(|chosen| chosen == *name));
    let mut figures: HashMap<String, Vec<f64>> = HashMap::new();
    let mut syncs = Vec::new();
    for round in 0..rounds {
        syncs.push(sync_ms(tempfile::tempdir_in(".").unwrap().path()));
        let mut found = vec![
            ("bare_post".to_owned(), bare_post(local).await),
            ("bare_get".to_owned(), bare_get(local).await),
            ("commits".to_owned(), commits().await),
        ];
        for name in FIGURES.into_iter().filter(is_chosen) {
            let mut binaries = vec![(BINARY, "")];
            binaries.extend(base.as_deref().map(|path| (path, "base_")));
            if round % 2 == 1 {
                binaries.reverse();
            }
            for (binary, prefix) in binaries {
                let database = match (&postgres, name.ends_with("_on_postgres")) {
                    (_, false) => SQLITE.to_owned(),
                    (Some(postgres), true) => postgres.url(&postgres.empty()),
                    (None, true) => continue,
                };
                let on = Target { binary, local, database: &database };
                found.push((format!("{prefix}{name}"), measure(name, &server, &on).await));
            }
        }
        eprintln!("round {}: {:?}", round + 1, found.iter().map(|(n, f)| (n, f.round())).collect::<Vec<_>>());
        for (name, figure) in found {
            figures.entry(name).or_default().push(figure);
        }
    }
    if only.is_some() {
        println!("{:#}", json!({ "figures": figures, "beside_base": beside_base(&figures) }));
        return;
    }
    let bytes = memory(&Target { binary: BINARY, local, database: SQLITE }).await;
    let sync = median(&mut syncs);
    let mut report = report(&figures, sync, bytes);
    if let Some(base) = &base {
        report["beside_base"] = beside_base(&figures);
        report["beside_base"]["bytes_for_each_further_watch"] =
            json!(memory(&Target { binary: base, local, database: SQLITE }).await.round());
    }
    println!("{report:#}");
}

/// Ratios of this binary's figures to those of the base: the median of the rounds, and all rounds.
fn beside_base(figures: &HashMap<String, Vec<f64>>) -> Value {
    let mut ratios = serde_json::Map::new();
    for name in FIGURES {
        let (Some(new), Some(base)) = (figures.get(name), figures.get(&format!("base_{name}"))) else {
            continue;
        };
        let rounds: Vec<f64> = new.iter().zip(base).map(|(new, base)| new / base).collect();
        let ratio = median(&mut rounds.clone());
        ratios.insert(name.to_owned(), json!({ "ratio": ratio, "rounds": rounds }));
    }
    Value::Object(ratios)
}

fn report(figures: &HashMap<String, Vec<f64>>, sync: f64, bytes: f64) -> Value {
    let typical = |name: &str| median(&mut figures[name].clone());
    // A ratio within each round, then the median of the rounds.
    let ratio = |name: &str, beside: &str| {
        let mut ratios: Vec<f64> =
            figures[name].iter().zip(&figures[beside]).map(|(one, bare)| one / bare).collect();
        median(&mut ratios)
    };
    let line = |name: &str, beside: &str, floor: f64| {
        let ratio = ratio(name, beside);
        json!({ "per_second": typical(name).round(), "beside": beside, "ratio": ratio, "floor": floor, "holds": ratio >= floor })
    };
    let (beside, floor) = if sync > 1.0 { ("commits", 0.6) } else { ("bare_post", 0.30) };
    let mut report = json!({
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "rounds": figures["bare_post"].len(),
        "connections": CONNECTIONS,
        "fdatasync_ms": sync,
        "bare_post_per_second": typical("bare_post").round(),
        "bare_get_per_second": typical("bare_get").round(),
        "commits_per_second": typical("commits").round(),
        "registrations": line("registrations", beside, floor),
        "polls": line("polls", "bare_get", 0.4),
        "deliveries": line("deliveries", "bare_post", 0.35),
        "together": line("together", "bare_post", 0.13),
        "bytes_for_each_further_watch": { "value": bytes.round(), "ceiling": 600, "holds": bytes <= 600.0 },
    });
    for name in ON_BOTH {
        let on_postgres = format!("{name}_on_postgres");
        if figures.contains_key(&on_postgres) {
            report[&on_postgres] = line(&on_postgres, name, 0.4);
        }
    }
    report
}
