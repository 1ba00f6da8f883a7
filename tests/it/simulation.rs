//! The seeded simulation: the whole service in one process, in logical time, with a crash possible between any two
//! writes.
//!
//! The application is the real one, with its store on disk, its poller and its dispatcher. The world around it is
//! simulated ([`world`]): clients, a provider that knows the truth about each job, and receivers, all of which can fail.
//! A seed decides what happens; the clock moves only when the simulation moves it. After a step, the machine may crash:
//! the simulation chooses one of the commits that the step has made, continues from the disk as it was after that
//! commit, and forgets everything that the world saw later ([`disk`]). After each step, [`invariants`] are checked.
//!
//! ```sh
//! TMPDIR=/dev/shm RINGBACK_SEEDS=2000 cargo test --test it simulation:: -- --nocapture
//! RINGBACK_SEED=7 cargo test --test it simulation:: -- --nocapture    # one seed
//! ```
//!
//! A seed that fails prints its trace. The seed determines every decision and, because the database of each seed begins
//! with a greater ID than the clock gives, every drawn ID and so the jitter of every retry. It does not determine which
//! commands share a commit if they are queued at the same moment: that depends on threads. So a failed seed may need a
//! few runs until it fails again, and it becomes a named test.

mod disk;
mod invariants;
mod steps;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use ringback::clock::Clock;
use serde_json::Value;
use tokio::sync::OnceCell;

use self::disk::Disk;
use self::world::World;
use crate::crash::number;
use crate::harness::{Draw, Harness, Neighbours, minutes};

/// Seeds of a short run.
const SEEDS: u64 = 12;

/// Steps of a seed.
const STEPS: u64 = 24;

/// Waits before the retries of a delivery: short, so that deliveries are exhausted within a simulation.
const SCHEDULE: &str = "5s, 1m, 5m, 15m";

/// Number of jobs: few, so that watches share them and ended jobs are registered again.
const JOBS: u64 = 5;

/// Paths of the receivers.
const PATHS: [&str; 3] = ["/a", "/b", "/c"];

/// Burst of polls that the provider permits, at one poll a second.
const BURST: u32 = 2;

/// A registration that a client sends until it is answered.
#[derive(Clone, Debug)]
struct Registration {
    key: String,
    body: Value,
}

/// What a client has been answered.
#[derive(Clone, Debug)]
enum Answered {
    Registered(Registration, String),
    Stopped(String),
}

/// What the service shows.
struct Shown {
    watches: Vec<Value>,
    events: Vec<Value>,
    deliveries: Vec<Value>,
}

/// Figures of one or more seeds.
#[derive(Debug, Default)]
struct Figures {
    steps: AtomicU64,
    commits: AtomicU64,
    crashes: AtomicU64,
    polls: AtomicU64,
    webhooks: AtomicU64,
    watches: AtomicU64,
}

impl Figures {
    fn count(&self, figure: fn(&Self) -> &AtomicU64, n: usize) {
        figure(self).fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// One seed.
struct Simulation<'f> {
    t: Harness,
    world: World,
    disk: Disk,
    draw: Draw,
    figures: &'f Figures,
    /// Whether the wall clock jumps in this seed.
    jumps: u32,
    /// Watches that were answered with 201, with their registration.
    watches: BTreeMap<String, Registration>,
    /// Watches whose stop was answered with 200.
    stopped: BTreeSet<String>,
    /// Answers of the current step, with the length of the log when they were read.
    answers: Vec<(u64, Answered)>,
    /// The watches as they were last shown.
    shown: BTreeMap<String, Value>,
    /// The feed as it was last shown.
    feed: Vec<String>,
    /// Deliveries that have ended, by event and URL, with the number of their attempts.
    ended: BTreeMap<(String, String), usize>,
    trace: Trace,
}

/// The trace of a seed. It is printed if the seed fails.
#[derive(Debug, Default)]
struct Trace(Vec<String>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.0.join("\n"));
        }
    }
}

/// Returns the database that every seed starts with. It has the current schema, and one ID that is greater than every
/// ID that the clock gives, so the drawn IDs are numbered from it.
async fn template() -> &'static [u8] {
    static TEMPLATE: OnceCell<Vec<u8>> = OnceCell::const_new();
    let made = TEMPLATE.get_or_init(|| async {
        let mut t = Harness::start().await;
        t.stop().await;
        let db = rusqlite::Connection::open(t.file()).unwrap();
        db.execute("update apps set id = x'0f000000000000000000000000000000'", ()).unwrap();
        drop(db);
        let bytes = std::fs::read(t.file()).unwrap();
        t.give_up().await;
        bytes
    });
    made.await
}

impl<'f> Simulation<'f> {
    async fn start(seed: u64, figures: &'f Figures) -> Self {
        let settings = [
            ("RINGBACK_DELIVERY__RETRY_SCHEDULE", SCHEDULE),
            ("RINGBACK_PROVIDERS__MUVI__RATE", "1/s"),
            ("RINGBACK_PROVIDERS__MUVI__BURST", "2"),
            ("RINGBACK_PROVIDERS__MUVI__CONCURRENCY", "4"),
        ];
        let template = template().await;
        let mut t = Harness::prepared(Neighbours::default(), &settings).await;
        std::fs::write(t.file(), template).unwrap();
        let world = World::start(t.file(), Clock::Manual(t.clock.clone()), t.held.clone()).await;
        t.set("RINGBACK_PROVIDERS__MUVI__BASE_URL", &world.provider_url());
        let disk = Disk::before_start(&t.file());
        t.restart().await;
        Self {
            t,
            world,
            disk,
            draw: Draw(seed),
            figures,
            jumps: 0,
            watches: BTreeMap::new(),
            stopped: BTreeSet::new(),
            answers: Vec::new(),
            shown: BTreeMap::new(),
            feed: Vec::new(),
            ended: BTreeMap::new(),
            trace: Trace::default(),
        }
    }

    /// Runs the steps of a seed, and then everything to its end.
    async fn run(mut self, seed: u64, steps: u64) {
        self.trace.0.push(format!("RINGBACK_SEED={seed} RINGBACK_STEPS={steps}"));
        for n in 0..steps {
            self.step(n, seed.is_multiple_of(4)).await;
            self.check().await;
        }
        self.figures.count(|figures| &figures.steps, usize::try_from(steps).unwrap());
        self.end().await;
    }

    /// Ends all failures, and checks that everything comes to its end.
    async fn end(mut self) {
        self.world.state.change(|state| {
            state.provider = world::ProviderMode::Healthy;
            state.receivers.clear();
            state.jobs.values_mut().for_each(|truth| *truth = world::Truth::Completed);
        });
        // In parts: the timeout of a request that a receiver holds is no scheduled time, so one step could pass all of it.
        for _ in 0..18 {
            self.t.pass(minutes(10)).await;
        }
        self.check().await;
        let shown = self.show().await;
        self.everything_has_ended(&shown);
        self.figures.count(|figures| &figures.watches, self.watches.len());
        self.figures.count(|figures| &figures.polls, self.world.state.lock().polls.len());
        self.figures.count(|figures| &figures.webhooks, self.world.state.lock().seen.len());
        let Self { t, trace, .. } = self;
        t.give_up().await;
        drop(trace);
    }
}

/// Runs seeds on as many threads as there are processors.
fn run_seeds(seeds: &[u64], steps: u64, figures: &Figures) {
    let next = AtomicU64::new(0);
    let work = || {
        while let Some(seed) = seeds.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Simulation::start(*seed, figures).await.run(*seed, steps).await });
        }
    };
    if seeds.len() as u64 <= SEEDS {
        // On the thread of the test, which captures what is printed.
        return work();
    }
    let workers = std::thread::available_parallelism().unwrap().get();
    std::thread::scope(|scope| (0..workers).for_each(|_| _ = scope.spawn(work)));
}

// Once: the disk is that of a file.
#[test]
fn no_seed_breaks_an_invariant() {
    let first = number("RINGBACK_SEED");
    let count = number("RINGBACK_SEEDS").unwrap_or(if first.is_some() { 1 } else { SEEDS });
    let first = first.unwrap_or(1);
    let seeds: Vec<u64> = (first..first + count).collect();
    let (figures, watch) = (Figures::default(), Clock::System.stopwatch());
    run_seeds(&seeds, number("RINGBACK_STEPS").unwrap_or(STEPS), &figures);
    println!("{count} seeds from {first} in {:.1?}: {figures:?}", watch.elapsed());
    assert!(first > 1 || count < SEEDS || figures.crashes.into_inner() > count, "crashes are frequent");
}

// Once: the disk is that of a file.
#[test]
fn a_crash_after_any_commit_of_a_watch_loses_nothing() {
    let figures = Figures::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut index = 0;
        // As many crash points as a watch has from its registration to its delivery, and the one before them.
        loop {
            let simulation = Simulation::start(index as u64, &figures).await;
            let points = simulation.crash_in_a_watch(index).await;
            index += 1;
            if index >= points {
                break;
            }
        }
        assert!(index > 4, "a registration, an ending, an attempt and a success are {index} moments");
    });
}

// Once: the disk is that of a file. Without this, the checks could miss what they are for.
#[test]
fn a_disk_that_loses_a_commit_is_noticed() {
    let figures = Figures::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        runtime.block_on(async { Simulation::start(1, &figures).await.lose_a_commit().await });
    }));
    let panicked = checked.expect_err("the loss breaks an invariant");
    let said = panicked.downcast_ref::<String>().expect("a text");
    assert!(said.contains("the watches that exist are those that were accepted"), "{said}");
}
