//! A random walk over all operations and failures, with the guarantees checked after each step.
//!
//! The seeds are fixed, so every run is the same. `RINGBACK_SEED` sets another seed, and `RINGBACK_STEPS` the
//! number of steps. A seed that fails becomes a named test.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use crate::fakes::{Reply, error};
use crate::harness::{Draw, Harness, id, minutes, seconds};

/// Number of jobs: few, so that watches share them and ended jobs are registered again.
const JOBS: u64 = 6;

struct Walk {
    t: Harness,
    draw: Draw,
    /// Watches that were answered with 201, with their last known state.
    watches: BTreeMap<String, Value>,
    /// Stopped watches.
    stopped: Vec<String>,
    /// The feed at the last read.
    feed: Vec<String>,
}

impl Walk {
    fn job(&mut self) -> String {
        format!("job_{}", self.draw.below(JOBS))
    }

    async fn step(&mut self) -> String {
        match self.draw.below(16) {
            0..=3 => self.register().await,
            4..=6 => self.upstream(),
            7 => self.trouble_of_the_provider(),
            8 | 9 => self.trouble_of_the_receiver(),
            10 => self.stop_one().await,
            11 => self.poll_now().await,
            12 => self.crash().await,
            13 => {
                self.t.stop().await;
                self.t.restart().await;
                "stop in order".to_owned()
            }
            _ => {
                let span = seconds(1 + self.draw.below(600));
                self.t.pass(span).await;
                format!("pass {span:?}")
            }
        }
    }

    async fn register(&mut self) -> String {
        let job = self.job();
        let events = [json!(["job.*", "watch.*"]), json!(["job.completed", "job.failed"]), Value::Null];
        let mut body = json!({
            "jobId": job, "payload": if self.draw.below(4) == 0 { "raw" } else { "event" },
            "expiresIn": format!("{}m", 5 + self.draw.below(120)),
            "notify": [self.t.receiver.url("/a"), self.t.receiver.url("/b")],
        });
        let events = &events[usize::try_from(self.draw.below(3)).unwrap()];
        if !events.is_null() {
            body["events"] = events.clone();
        }
        let watch = self.t.register(&body).await;
        self.watches.insert(watch.clone(), Value::Null);
        format!("register {job}: {watch} {body}")
    }

    fn upstream(&mut self) -> String {
        let job = self.job();
        let progress = u8::try_from(self.draw.below(100)).unwrap();
        let provider = &self.t.provider;
        let ending = self.draw.below(8);
        match ending {
            0 => provider.completed(&job),
            1 => provider.failed(&job),
            2 => provider.cancelled(&job),
            3 => provider.not_found(&job),
            4 => provider.job(&job, &json!({ "status": "pending" })),
            _ => provider.processing(&job, progress),
        }
        format!("{job} becomes {ending} at {progress}")
    }

    fn trouble_of_the_provider(&mut self) -> String {
        let kind = self.draw.below(6);
        let reply = match kind {
            0 => Some(Reply::status(500)),
            1 => Some(error(401, "UNAUTHORIZED", "Invalid API key")),
            2 => Some(Reply::reset()),
            _ => None,
        };
        self.t.provider.all(reply);
        let job = self.job();
        let slow = Reply::status(429).with("retry-after", "30");
        self.t.provider.script(&job, [slow, Reply::garbage(), Reply::new(200, "{")]);
        format!("the provider is {kind}, {job} is odd")
    }

    fn trouble_of_the_receiver(&mut self) -> String {
        let count = self.draw.below(6);
        let path = if self.draw.below(2) == 0 { "/a" } else { "/b" };
        let replies = (0..count).map(|n| match n % 3 {
            0 => Reply::status(503).with("retry-after", "60"),
            1 => Reply::reset(),
            _ => Reply::status(302).with("location", "/a"),
        });
        self.t.receiver.script(path, replies);
        format!("{path} refuses {count}")
    }

    async fn stop_one(&mut self) -> String {
        let index = self.draw.below(self.watches.len().max(1) as u64);
        let Some(watch) = self.watches.keys().nth(usize::try_from(index).unwrap()).cloned() else {
            return "nothing to stop".to_owned();
        };
        self.t.stop_watch(&watch).await.expect(200);
        self.stopped.push(watch.clone());
        format!("stop {watch}")
    }

    async fn poll_now(&mut self) -> String {
        let index = self.draw.below(self.watches.len().max(1) as u64);
        let Some(watch) = self.watches.keys().nth(usize::try_from(index).unwrap()) else {
            return "nothing to poll".to_owned();
        };
        self.t.act(&format!("/v1/watches/{watch}/poll")).await.expect(202);
        format!("poll {watch}")
    }

    /// Restarts in the middle of other work, as a crash does.
    async fn crash(&mut self) -> String {
        let (span, turns) = (seconds(self.draw.below(30)), self.draw.below(8));
        self.t.clock.advance(span);
        for _ in 0..turns {
            self.t.get("/v1/watches").await.expect(200);
        }
        self.t.crash().await;
        self.t.restart().await;
        format!("crash after {span:?} and {turns} turns")
    }

    async fn all(&self, list: &str) -> Vec<Value> {
        let (mut items, mut path) = (Vec::new(), format!("/v1/{list}?limit=200"));
        loop {
            let page = self.t.get(&path).await.expect(200);
            items.extend(page["data"].as_array().unwrap().iter().cloned());
            let Some(cursor) = page["nextCursor"].as_str() else { return items };
            path = format!("/v1/{list}?limit=200&cursor={cursor}");
        }
    }

    /// Checks the invariants.
    async fn check(&mut self) {
        self.t.rest().await;
        let shown = self.all("watches").await;
        assert_eq!(shown.len(), self.watches.len(), "no watch is lost, and none is made up");
        for watch in shown {
            let before = self.watches.insert(id(&watch), watch.clone()).expect("it was registered");
            if before["endedAt"].is_string() {
                for field in ["status", "endedAt", "events"] {
                    assert_eq!(watch[field], before[field], "an ending is final");
                }
            }
            assert_eq!(watch["endedAt"].is_null(), watch["status"] == "watching", "{watch}");
        }

        let events = self.all("events").await;
        let feed: Vec<String> = events.iter().map(id).collect();
        assert!(feed.starts_with(&self.feed), "the feed only grows, at its end");
        self.feed = feed;
        let mut endings: HashMap<&str, &str> = HashMap::new();
        for event in &events {
            let (watch, kind) = (event["data"]["watchId"].as_str().unwrap(), event["type"].as_str().unwrap());
            if !matches!(kind, "job.processing" | "job.progress") {
                assert_eq!(endings.insert(watch, kind), None, "{watch} has two endings");
            }
        }
        for (watch, shown) in &self.watches {
            let ended = !matches!(shown["status"].as_str(), Some("watching" | "stopped"));
            assert_eq!(endings.contains_key(watch.as_str()), ended, "{shown}");
        }

        let mut bodies: HashMap<(String, String), Vec<u8>> = HashMap::new();
        for hit in self.t.receiver.all() {
            assert!(self.watches.contains_key(hit.watch()), "{hit:?}");
            assert!(
                self.feed.iter().any(|event| event == hit.id()),
                "an event that is not in the feed was received: {hit:?}"
            );
            let key = (hit.path.clone(), hit.id().to_owned());
            let first = bodies.entry(key).or_insert_with(|| hit.body.clone());
            assert_eq!(*first, hit.body, "every attempt sends the same bytes");
        }
    }

    /// Ends all failures, and checks that every receiver gets every event.
    async fn end(mut self) {
        self.t.provider.all(None);
        for n in 0..JOBS {
            self.t.provider.completed(&format!("job_{n}"));
        }
        self.t.pass(minutes(60 * 48)).await;
        self.check().await;
        for delivery in self.all("deliveries").await {
            let is_settled = delivery["status"] == "succeeded"
                || matches!(delivery["reason"].as_str(), Some("stopped" | "superseded"));
            assert!(is_settled, "{delivery}");
        }
        for watch in self.watches.values() {
            assert_ne!(watch["status"], "watching", "{watch}");
            let stopped = self.stopped.contains(&id(watch));
            assert!(stopped || watch["status"] != "stopped", "{watch}");
            let events = watch["events"].as_array().unwrap();
            let kind = match watch["status"].as_str().unwrap() {
                "expired" => "watch.expired".to_owned(),
                status => format!("job.{status}"),
            };
            if !stopped && events.iter().any(|event| *event == kind) {
                for destination in watch["destinations"].as_array().unwrap() {
                    assert_eq!(destination["status"], "succeeded", "{watch}");
                }
            }
        }
        self.t.receiver.read_all();
        self.t.finish().await;
    }
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the caller sets the seed and the length")]
async fn a_random_walk_breaks_no_guarantee() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = number("RINGBACK_SEED").map_or_else(|| (1..=6).collect(), |seed| vec![seed]);
    let steps = number("RINGBACK_STEPS").unwrap_or(60);
    for seed in seeds {
        println!("RINGBACK_SEED={seed} RINGBACK_STEPS={steps}");
        let t = Harness::start().await;
        for n in 0..JOBS {
            t.provider.processing(&format!("job_{n}"), 0);
        }
        let (watches, stopped, feed) = Default::default();
        let mut walk = Walk { t, draw: Draw(seed), watches, stopped, feed };
        for n in 0..steps {
            let step = walk.step().await;
            println!("{n}: {step}");
            walk.check().await;
        }
        walk.end().await;
    }
}

crate::postgres::on_postgres_too! {
    a_random_walk_breaks_no_guarantee,
}
