//! Faults of the wall clock and of names. A test cannot change those of the machine, so the application runs in the
//! test, with the clock and the names of the harness.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::Survived;
use crate::fakes::Reply;
use crate::harness::{Harness, id, minutes, seconds};
use crate::verdict::{Ended, Verdict, post};

/// Retries within 40 minutes.
const SCHEDULE: (&str, &str) = ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "5s, 1m, 5m, 10m, 20m");

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Watches of a scenario, and what they were answered.
struct Clients {
    t: Harness,
    ended: Ended,
    accepted: BTreeMap<String, String>,
}

impl Clients {
    async fn start() -> Self {
        let t = Harness::with(&[SCHEDULE]).await;
        let ended = Ended::within(&t).await;
        Self { t, ended, accepted: BTreeMap::new() }
    }

    /// Registers a watch on a job that is not finished.
    async fn watch(&mut self, job: String, url: &str) {
        self.t.provider.processing(&job, 10);
        let body = json!({ "jobId": job, "callbackUrl": url, "expiresIn": "30d" });
        let watch = id(&post(self.t.address(), "/v1/watches", &body).await.expect(201));
        self.accepted.insert(job, watch);
    }

    async fn check(self) -> Verdict {
        let Self { t, ended, accepted } = self;
        let mut verdict = Verdict::of(t.address(), &accepted, &t.receiver.all()).await;
        verdict.after_end = ended.attempts_since(&t.receiver);
        t.receiver.read_all();
        t.finish().await;
        verdict
    }
}

/// The wall clock is set forward by a day and back by two, while jobs are polled and retries wait.
pub async fn jumps(rounds: u64) -> Survived {
    let mut clients = Clients::start().await;
    let url = clients.t.receiver.url("/hook");
    for round in 0..rounds {
        let jobs: Vec<String> = (0..6).map(|n| format!("job_{round}_{n}")).collect();
        for job in &jobs {
            clients.watch(job.clone(), &url).await;
        }
        let t = &clients.t;
        t.pass(seconds(30)).await;
        for (n, job) in jobs.iter().enumerate() {
            let before = t.provider.polls(job).len();
            // The retries of every other delivery wait while the clock jumps.
            t.receiver.script("/hook", [Reply::status(503), Reply::status(500)]);
            t.provider.completed(job);
            if n % 2 == 0 {
                t.pass(minutes(1)).await;
            }
            let now = t.now();
            t.clock.set_wall(if n % 3 == 0 { now.plus(DAY) } else { now.minus(DAY) });
            t.pass(minutes(2)).await;
            // Neither a storm nor a pause: some polls until the end was seen.
            let polls = t.provider.polls(job).len() - before;
            assert!((1..=30).contains(&polls), "{polls} polls of {job} around a jump");
        }
        t.pass(minutes(90)).await;
    }
    Survived::Here(rounds, clients.check().await)
}

/// The addresses of a receiver's name change between public, forbidden, mixed and unknown, and its name servers are
/// lost.
pub async fn names(rounds: u64) -> Survived {
    const NAME: &str = "hooks.example.com";
    let mut clients = Clients::start().await;
    let url = format!("http://{NAME}:{}/hook", clients.t.receiver.port());
    for round in 0..rounds {
        clients.t.resolve(NAME, &["127.0.0.1"]);
        let jobs: Vec<String> = (0..5).map(|n| format!("job_{round}_{n}")).collect();
        for job in &jobs {
            clients.watch(job.clone(), &url).await;
        }
        let t = &clients.t;
        for (n, job) in jobs.iter().enumerate() {
            match n {
                0 => t.resolve(NAME, &["10.0.0.1"]),
                1 => t.resolve(NAME, &["127.0.0.1", "169.254.169.254"]),
                2 => t.resolve(NAME, &[]),
                3 => t.lose_name_servers(NAME),
                _ => t.resolve(NAME, &["127.0.0.1"]),
            }
            let before = t.receiver.count();
            t.provider.completed(job);
            t.pass(minutes(2)).await;
            let arrived = t.receiver.count() > before;
            assert_eq!(arrived, n == 4, "{job} was sent to an address that is forbidden or unknown");
        }
        t.pass(minutes(90)).await;
    }
    Survived::Here(rounds, clients.check().await)
}
