//! Isolation of destinations, as ratios within one run: `cargo bench --bench isolation`. The result is one JSON object
//! on stdout.
//!
//! - `healthy_beside_silent`: 100 events per second for a receiver that answers, alone and beside 1,000 receivers that
//!   accept connections and never answer. Each of those has five events, and each attempt waits for the timeout of
//!   20 seconds. The receiver that answers has done so before. The figure is the 99th percentile of the time
//!   from the registration to the arrival, divided by that without the silent receivers.
//! - `concurrency_used`: deliveries to one saved destination that answers after 10 ms, with a limit of 32 concurrent
//!   requests. All of them are events of watches of one job, which ends when the watches are registered. The figure is
//!   the mean number of requests in flight, divided by the limit. An inline URL would use at most seven eighths of the
//!   places of its host.
//!
//! `RINGBACK_BENCH_ROUNDS` sets the number of rounds; the median counts.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the machine's clock")]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark prints")]
#![expect(clippy::unwrap_used, reason = "a benchmark stops at an error")]

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use serde_json::json;
use tokio::net::TcpListener;

use self::service::{
    CONNECTIONS, Service, Target, client, json_answer, median, no_content, per_second, post, serve,
};

#[path = "support/service.rs"]
#[expect(dead_code, reason = "the other benchmark uses it")]
mod service;

const ROUNDS: usize = 3;
/// Receivers that never answer, and the events for each.
const SILENT: (u64, u64) = (1_000, 5);
/// Time between two events for the receiver that answers.
const SPACING: Duration = Duration::from_millis(10);
/// Number of these events.
const HEALTHY: u64 = 2_000;
/// Limit of concurrent requests to the destination with a latency.
const LIMIT: u64 = 32;
/// Its latency.
const LATENCY: Duration = Duration::from_millis(10);
/// Number of deliveries to it.
const DELIVERIES: u64 = 20_000;
/// The job whose events they are.
const ONE_JOB: &str = "latency_job";

/// Provider, and receiver that answers.
#[derive(Default)]
struct Local {
    /// Arrivals of events, by job.
    arrived: Mutex<HashMap<String, Instant>>,
    posts: AtomicU64,
    /// Nanoseconds that requests with a latency were in flight.
    in_flight: AtomicU64,
    /// Whether [`ONE_JOB`] has ended.
    has_ended: AtomicBool,
}

impl Local {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        if request.method() == Method::POST {
            let start = Instant::now();
            let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
            let event: serde_json::Value = serde_json::from_slice(&body.unwrap()).unwrap();
            if path == "/latency" {
                tokio::time::sleep(LATENCY).await;
                let span = u64::try_from(start.elapsed().as_nanos()).unwrap();
                self.in_flight.fetch_add(span, Ordering::Relaxed);
            }
            let job = event["data"]["jobId"].as_str().unwrap().to_owned();
            self.arrived.lock().unwrap().entry(job).or_insert_with(Instant::now);
            self.posts.fetch_add(1, Ordering::Relaxed);
            return no_content();
        }
        let id = path.rsplit('/').next().unwrap_or("");
        let is_running = id == ONE_JOB && !self.has_ended.load(Ordering::Relaxed);
        let status = if is_running { "processing" } else { "completed" };
        let output = (!is_running).then_some("https://cdn.muvi.video/output_0.mp4");
        let body = json!({
            "jobId": id, "status": status, "progress": 50, "output": output,
            "outputs": null, "error": null, "createdAt": "2026-02-18T15:00:00Z", "completedAt": null,
        });
        json_answer(body.to_string())
    }

    async fn start() -> (Arc<Self>, SocketAddr) {
        let local = Arc::new(Self::default());
        let server = Arc::clone(&local);
        let address = serve(move |request| Arc::clone(&server).answer(request)).await;
        (local, address)
    }

    async fn received(&self, count: u64) {
        while self.posts.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Accepts connections at every loopback address, and never answers. Returns the port and the number of accepted
/// connections.
async fn silent() -> (u16, Arc<AtomicU64>) {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&accepted);
    tokio::spawn(async move {
        loop {
            let Ok((mut stream, _)) = listener.accept().await else { continue };
            count.fetch_add(1, Ordering::Relaxed);
            // Reads until the client hangs up.
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    (port, accepted)
}

const ALLOWED: (&str, &str) = ("RINGBACK_EGRESS__ALLOW", "127.0.0.0/8");

fn registration(job: &str, url: &str) -> String {
    json!({ "jobId": job, "callbackUrl": url }).to_string()
}

/// Saves a destination with a limit of concurrent requests, and returns its id.
async fn save(service: &Service, url: &str, concurrency: u64) -> String {
    let destination = json!({ "url": url, "concurrency": concurrency }).to_string();
    let request = post(&client(), &format!("{}/v1/destinations", service.url), destination);
    let answer = request.send().await.unwrap().text().await.unwrap();
    let saved: serde_json::Value = serde_json::from_str(&answer).unwrap();
    saved["id"].as_str().unwrap().to_owned()
}

/// Registers jobs that have ended, as fast as possible.
async fn register_all(
    service: &Service,
    prefix: &'static str,
    count: u64,
    registration: impl Fn(&str, u64) -> String,
) {
    let (client, api) = (client(), format!("{}/v1/watches", service.url));
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..count {
        if senders.len() >= CONNECTIONS {
            senders.join_next().await.unwrap().unwrap();
        }
        let request = post(&client, &api, registration(&format!("{prefix}_{n}"), n));
        senders.spawn(async move { assert!(request.send().await.unwrap().status().is_success()) });
    }
    senders.join_all().await;
}

/// Measures the 99th percentile of the time from a registration to the arrival of its event, in milliseconds.
async fn healthy(beside_silent: bool) -> f64 {
    let (server, local) = Local::start().await;
    let binary = env!("CARGO_BIN_EXE_ringback");
    let on = Target { binary, local, database: "sqlite://ringback.db" };
    let service = Service::start_with(&on, "1ms", "1s", &[ALLOWED]).await;
    // An untried destination shares the half of the slow ones. This one has succeeded before.
    let healthy = format!("http://{local}/hook");
    register_all(&service, "first", 1, |job, _| registration(job, &healthy)).await;
    server.received(1).await;
    if beside_silent {
        let (port, accepted) = silent().await;
        let (receivers, events) = SILENT;
        let url = |n: u64| {
            let receiver = n % receivers;
            format!("http://127.1.{}.{}:{port}/hook", receiver / 250, receiver % 250 + 1)
        };
        let silent = |job: &str, n| registration(job, &url(n));
        register_all(&service, "silent", receivers * events, silent).await;
        // The silent receivers have as many requests as they get.
        let (mut before, mut now) = (u64::MAX, 0);
        while before != now || now == 0 {
            tokio::time::sleep(Duration::from_millis(500)).await;
            (before, now) = (now, accepted.load(Ordering::Relaxed));
        }
        eprintln!("{now} silent requests in flight");
    }
    let (client, api) = (client(), format!("{}/v1/watches", service.url));
    let mut ticks = tokio::time::interval(SPACING);
    let mut senders = tokio::task::JoinSet::new();
    for n in 0..HEALTHY {
        ticks.tick().await;
        let job = format!("healthy_{n}");
        let request = post(&client, &api, registration(&job, &healthy));
        senders.spawn(async move {
            let sent_at = Instant::now();
            assert!(request.send().await.unwrap().status().is_success());
            (job, sent_at)
        });
    }
    let sent = senders.join_all().await;
    server.received(HEALTHY + 1).await;
    let arrived = server.arrived.lock().unwrap();
    let mut spans: Vec<f64> = sent
        .iter()
        .map(|(job, sent_at)| arrived[job].saturating_duration_since(*sent_at).as_secs_f64() * 1000.0)
        .collect();
    spans.sort_by(f64::total_cmp);
    spans[spans.len() * 99 / 100]
}

/// Measures the part of a destination's concurrency limit that is used.
async fn concurrency_used() -> f64 {
    let (server, local) = Local::start().await;
    let binary = env!("CARGO_BIN_EXE_ringback");
    let on = Target { binary, local, database: "sqlite://ringback.db" };
    let limit = LIMIT.to_string();
    let more = [ALLOWED, ("RINGBACK_DELIVERY__PER_DESTINATION", &limit)];
    let service = Service::start_with(&on, "1ms", "1s", &more).await;
    let id = save(&service, &format!("http://{local}/latency"), LIMIT).await;
    let to_saved = |_: &str, _| json!({ "jobId": ONE_JOB, "destinationId": id }).to_string();
    register_all(&service, "latency", DELIVERIES, to_saved).await;
    server.has_ended.store(true, Ordering::Relaxed);
    // The first and the last tenth are not measured: the queue is filling, or ends.
    server.received(DELIVERIES / 10).await;
    let (before, start) = (server.in_flight.load(Ordering::Relaxed), Instant::now());
    server.received(DELIVERIES * 9 / 10).await;
    let in_flight = server.in_flight.load(Ordering::Relaxed) - before;
    per_second(in_flight, start.elapsed()) / 1e9 / per_second(LIMIT, Duration::from_secs(1))
}

#[tokio::main]
async fn main() {
    let rounds = std::env::var("RINGBACK_BENCH_ROUNDS").map_or(ROUNDS, |text| text.parse().unwrap());
    let (mut alone, mut beside, mut used) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        alone.push(healthy(false).await);
        beside.push(healthy(true).await);
        used.push(concurrency_used().await);
        eprintln!(
            "round {}: p99 {:.1} ms alone, {:.1} ms beside; {:.2} of the limit",
            round + 1,
            alone[round],
            beside[round],
            used[round]
        );
    }
    let mut ratios: Vec<f64> = beside.iter().zip(&alone).map(|(beside, alone)| beside / alone).collect();
    let (ratio, used) = (median(&mut ratios), median(&mut used));
    let report = json!({
        "rounds": rounds,
        "healthy_beside_silent": {
            "p99_ms_alone": median(&mut alone), "p99_ms_beside": median(&mut beside),
            "ratio": ratio, "ceiling": 1.5, "holds": ratio <= 1.5,
        },
        "concurrency_used": { "limit": LIMIT, "ratio": used, "floor": 0.9, "holds": used >= 0.9 },
    });
    println!("{report:#}");
}
