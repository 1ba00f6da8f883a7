//! The verdict after a fault: what every scenario of [`crate::faults`] and the tests of [`crate::crash`] must show.
//!
//! - No accepted watch is lost: each one that was answered with 201 exists, has ended, and has one ending.
//! - No delivery is lost: its receiver got the event, and the service knows it.
//! - No `webhook-id` has two bodies, and no watch has two ids of one event.
//! - Nothing is sent after an end: a delivery that is exhausted, gone (410) or stopped gets no further attempt.
//! - Memory is bounded.
//!
//! [`Verdict::of`] counts, and [`Verdict::expect_clean`] fails the test. So a table can show what was counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::crash::{Ground, Process, get, nap};
use crate::fakes::{Hit, Provider, Receiver, Reply};
use crate::harness::{AUTH, Harness, JSON, guarded, id, minutes, seconds};
use crate::wire;

/// Largest memory of a process in any scenario, in MiB. An idle process of a debug build takes 30 to 50 MiB.
const MEMORY_MAX: u64 = 200;

/// Returns every item of a list, page by page.
pub async fn all(address: SocketAddr, list: &str) -> Vec<Value> {
    let (mut items, mut path) = (Vec::new(), format!("{list}?limit=200"));
    loop {
        let page = get(address, &path).await;
        items.extend(page["data"].as_array().unwrap().iter().cloned());
        let Some(cursor) = page["nextCursor"].as_str() else { return items };
        path = format!("{list}?limit=200&cursor={cursor}");
    }
}

/// Sends a request with a body to a process.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> wire::Answer {
    let bytes = wire::request("POST", path, &[AUTH, JSON], body.to_string().as_bytes());
    guarded(path, wire::exchange(address, &bytes)).await.expect("an answer")
}

/// What was wrong after a fault. A fault that is survived leaves every list empty.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Number of accepted watches.
    pub watches: usize,
    /// Accepted watches and deliveries that are missing, and watches that no client registered.
    pub lost: Vec<String>,
    /// Events that were sent with two bodies or under two ids.
    pub differing: Vec<String>,
    /// Attempts after the end of a delivery.
    pub after_end: Vec<String>,
    /// Largest memory of a process, in MiB; 0 if no process of its own ran.
    pub peak: u64,
}

impl Verdict {
    /// Compares what the clients were answered with what the service shows and what the receivers got. Each watch has
    /// one destination, and its job has completed. `accepted` has the watch of each job.
    pub async fn of(address: SocketAddr, accepted: &BTreeMap<String, String>, hits: &[Hit]) -> Self {
        let mut verdict = Self { watches: accepted.len(), ..Self::default() };
        let distinct: BTreeSet<&str> = accepted.values().map(String::as_str).collect();
        if distinct.len() != accepted.len() {
            verdict.lost.push("two registrations were answered with one watch".to_owned());
        }
        let by_watch = |items: Vec<Value>, field: fn(&Value) -> &Value| {
            let mut found: HashMap<String, Vec<Value>> = HashMap::new();
            for item in items {
                found.entry(field(&item).as_str().unwrap().to_owned()).or_default().push(item);
            }
            found
        };
        let watches = by_watch(all(address, "/v1/watches").await, |watch| &watch["id"]);
        let events = by_watch(all(address, "/v1/events").await, |event| &event["data"]["watchId"]);
        let deliveries = by_watch(all(address, "/v1/deliveries").await, |delivery| &delivery["watchId"]);
        let mut of_jobs: HashMap<&str, usize> = HashMap::new();
        for watch in watches.values().flatten() {
            *of_jobs.entry(watch["jobId"].as_str().unwrap()).or_default() += 1;
        }
        let mut received: HashMap<&str, Vec<&Hit>> = HashMap::new();
        for hit in hits {
            received.entry(hit.watch()).or_default().push(hit);
        }
        for (job, watch) in accepted {
            let of_job = of_jobs.get(job.as_str()).copied().unwrap_or_default();
            if of_job != 1 {
                verdict.lost.push(format!("{job} has {of_job} watches, and one was registered"));
            }
            let watch = watch.as_str();
            let shown = watches.get(watch).map(|found| &found[0]);
            let ending = events.get(watch).map(Vec::as_slice);
            let delivery = deliveries.get(watch).map(Vec::as_slice);
            match (shown, ending, delivery) {
                (Some(shown), Some([event]), Some([delivery]))
                    if shown["status"] == "completed" && delivery["status"] == "succeeded" =>
                {
                    let id = event["id"].as_str().unwrap();
                    match received.get(watch) {
                        Some(hits) if hits.iter().all(|hit| hit.id() == id) => {}
                        Some(hits) => verdict.differing.push(format!("{watch}: {id} was sent as {hits:?}")),
                        None => verdict.lost.push(format!("{watch} was delivered to no receiver")),
                    }
                }
                found => verdict.lost.push(format!("{watch}: {found:?}")),
            }
        }
        for (watch, hits) in &received {
            let bodies: BTreeSet<(&str, &[u8])> =
                hits.iter().map(|hit| (hit.id(), hit.body.as_slice())).collect();
            if distinct.contains(watch) && bodies.len() > 1 {
                verdict.differing.push(format!("{watch} got {bodies:?}"));
            }
        }
        verdict
    }

    /// Adds what another part of a scenario counted.
    pub fn add(&mut self, other: Self) {
        self.watches += other.watches;
        self.lost.extend(other.lost);
        self.differing.extend(other.differing);
        self.after_end.extend(other.after_end);
        self.peak = self.peak.max(other.peak);
    }

    /// Fails the test if anything was lost, differs or was sent too late, or if memory was not bounded.
    #[track_caller]
    pub fn expect_clean(&self) {
        let wrong = [&self.lost, &self.differing, &self.after_end];
        assert!(wrong.iter().all(|list| list.is_empty()), "{self:#?}");
        assert!(self.peak < MEMORY_MAX, "a process took {} MiB of memory", self.peak);
    }
}

/// Returns the largest memory that a process has had, in MiB; 0 if it has ended.
pub fn peak_of(process: &Process) -> u64 {
    let status =
        process.child.id().and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let line = status.as_deref().and_then(|status| status.lines().find(|line| line.starts_with("VmHWM:")));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

/// Deliveries that ended before a fault: one was exhausted, one was answered with 410, and one was stopped.
///
/// They are made by a process of their own with a short schedule, on the database of the scenario. During and after the
/// fault, no attempt of them may arrive, although their receivers would accept it.
pub struct Ended {
    /// Their paths at the receiver, with the number of attempts before the end.
    attempts: BTreeMap<&'static str, usize>,
}

impl Ended {
    /// Paths of the receiver, and the status and the reason of the delivery.
    const PATHS: [(&str, &str, &str); 3] = [
        ("/exhausted", "failed", "exhausted"),
        ("/gone", "failed", "gone"),
        ("/stopped", "skipped", "stopped"),
    ];

    /// Makes the deliveries on the database of a process, and waits for their ends.
    pub async fn before(ground: &Ground) -> Self {
        let schedule = ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "50ms, 600ms");
        let process = ground.start_with(&[schedule]);
        let address = process.address().await;
        Self::script(&ground.provider, &ground.receiver);
        for (path, _, _) in Self::PATHS {
            let watch = Self::register(address, path, &ground.receiver).await;
            if path == "/stopped" {
                ground.receiver.next_to(path).await;
                Self::stop(address, &watch).await;
            }
        }
        guarded("the ends", async {
            while !Self::have_ended(address).await {
                nap(10).await;
            }
        })
        .await;
        process.terminate();
        let (status, said) = process.ended().await;
        assert!(status.success(), "{status}: {said}");
        Self::noted(&ground.receiver)
    }

    /// Makes the deliveries in an application with a manual clock, and moves the clock until they have ended.
    pub async fn within(t: &Harness) -> Self {
        Self::script(&t.provider, &t.receiver);
        for (path, _, _) in Self::PATHS {
            let watch = Self::register(t.address(), path, &t.receiver).await;
            if path == "/stopped" {
                t.pass(seconds(5)).await;
                Self::stop(t.address(), &watch).await;
            }
        }
        t.pass(minutes(60 * 100)).await;
        assert!(Self::have_ended(t.address()).await, "the schedule is longer than four days");
        Self::noted(&t.receiver)
    }

    fn script(provider: &Provider, receiver: &Receiver) {
        for (path, _, _) in Self::PATHS {
            let status = if path == "/gone" { 410 } else { 500 };
            receiver.always(path, Some(Reply::status(status)));
            provider.completed(&path[1..]);
        }
    }

    async fn register(address: SocketAddr, path: &str, receiver: &Receiver) -> String {
        let body = json!({ "jobId": &path[1..], "callbackUrl": receiver.url(path) });
        id(&post(address, "/v1/watches", &body).await.expect(201))
    }

    async fn stop(address: SocketAddr, watch: &str) {
        let bytes = wire::request("POST", &format!("/v1/watches/{watch}/stop"), &[AUTH], b"");
        guarded("the stop", wire::exchange(address, &bytes)).await.expect("an answer").expect(200);
    }

    async fn have_ended(address: SocketAddr) -> bool {
        let shown = all(address, "/v1/deliveries").await;
        Self::PATHS.iter().all(|(path, status, reason)| {
            shown.iter().any(|delivery| {
                delivery["destination"]["url"].as_str().is_some_and(|url| url.ends_with(path))
                    && delivery["status"] == *status
                    && delivery["reason"] == *reason
            })
        })
    }

    /// Notes the attempts so far. From now on, an attempt would succeed.
    fn noted(receiver: &Receiver) -> Self {
        let hits = receiver.all();
        let count = |path: &str| hits.iter().filter(|hit| hit.path == path).count();
        for (path, _, _) in Self::PATHS {
            receiver.always(path, None);
        }
        receiver.read_all();
        Self { attempts: Self::PATHS.map(|(path, _, _)| (path, count(path))).into() }
    }

    /// Returns the attempts that arrived after the ends.
    pub fn attempts_since(&self, receiver: &Receiver) -> Vec<String> {
        let hits = receiver.all();
        let late = |(path, before): (&&'static str, &usize)| {
            let after = hits.iter().filter(|hit| hit.path == **path).count() - before;
            (after > 0).then(|| format!("{after} attempts to {path}"))
        };
        self.attempts.iter().filter_map(late).collect()
    }
}
