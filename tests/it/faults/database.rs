//! Faults of the process and of its database under load. The five faults of a PostgreSQL server have the names of the
//! chaos scenarios of `hardbyte/postgresql-job-queue-benchmarking`, so that the results can be compared.

use std::sync::Arc;

use super::Survived;
use crate::crash::{Ground, Load, Process, database_killed, draw, killed, nap, ready};
use crate::cuttable_proxy::Proxy;
use crate::harness::guarded;
use crate::postgres::shared;
use crate::server::{Server, connect, programs};
use crate::verdict::{Ended, Verdict, peak_of};

/// A process under load, with deliveries that ended before.
struct UnderLoad {
    ground: Arc<Ground>,
    ended: Ended,
    load: Load,
    process: Process,
}

impl UnderLoad {
    async fn start(ground: Ground) -> Self {
        let ended = Ended::before(&ground).await;
        let ground = Arc::new(ground);
        let load = Load::start(&ground);
        let process = ground.start();
        load.moved_to(process.address().await);
        load.has_begun().await;
        Self { ground, ended, load, process }
    }

    /// Waits until everything is delivered, and stops the process.
    async fn check(self) -> Verdict {
        let Self { ground, ended, load, process } = self;
        let mut verdict = load.check(process.address().await).await;
        verdict.after_end = ended.attempts_since(&ground.receiver);
        verdict.peak = peak_of(&process);
        process.terminate();
        let (status, said) = process.ended().await;
        assert!(status.success(), "{status}: {said}");
        verdict
    }
}

/// Kills the process in a loop.
async fn kills(ground: Ground, kills: u64) -> Verdict {
    let ended = Ended::before(&ground).await;
    let ground = Arc::new(ground);
    let mut verdict = killed(&ground, kills).await;
    verdict.after_end = ended.attempts_since(&ground.receiver);
    verdict
}

pub async fn kills_on_sqlite(rounds: u64) -> Survived {
    let ground = Ground::on("sqlite://ringback.db".to_owned()).await;
    Survived::Here(rounds, kills(ground, rounds).await)
}

/// Returns a new database on the server of all tests; `None` if there is no server.
async fn ground_on_server(what: &str) -> Option<(&'static Server, String, Ground)> {
    let what = what.to_owned();
    let made = tokio::task::spawn_blocking(move || shared(&what).map(|server| (server, server.database())));
    let (server, name) = made.await.unwrap()?;
    let ground = Ground::on(server.url(&name)).await;
    Some((server, name, ground))
}

/// SIGKILL of the process while it has many watches, polls and attempts in progress.
pub async fn kill_under_load(rounds: u64) -> Survived {
    let mut verdict = Verdict::default();
    for _ in 0..rounds {
        let Some((_, _, ground)) = ground_on_server("a kill under load").await else {
            return Survived::Skipped;
        };
        let mut under = UnderLoad::start(ground).await;
        nap(1_000).await;
        let next = under.ground.start_after(under.process).await;
        under.process = next;
        under.load.moved_to(under.process.address().await);
        verdict.add(under.check().await);
    }
    Survived::Here(rounds, verdict)
}

pub async fn repeated_kills(rounds: u64) -> Survived {
    let Some((_, _, ground)) = ground_on_server("repeated kills").await else { return Survived::Skipped };
    Survived::Here(rounds, kills(ground, rounds).await)
}

/// Kills of the whole server, which is started again.
pub async fn restart(rounds: u64) -> Survived {
    Survived::of(rounds, database_killed(rounds).await)
}

/// The server terminates every session of the process.
pub async fn backend_kill(rounds: u64) -> Survived {
    let Some((server, name, ground)) = ground_on_server("a backend kill").await else {
        return Survived::Skipped;
    };
    let mut draw = draw();
    let under = UnderLoad::start(ground).await;
    for _ in 0..rounds {
        nap(150 + draw.below(300)).await;
        // On a slow machine, the process may not have new sessions yet.
        guarded("sessions of the process", async {
            loop {
                let sql = terminate(&name);
                let killed = tokio::task::spawn_blocking(move || server.query("postgres", &sql)).await;
                if killed.unwrap().as_deref() != Some("0") {
                    break;
                }
                nap(20).await;
            }
        })
        .await;
    }
    Survived::Here(rounds, under.check().await)
}

fn terminate(database: &str) -> String {
    format!("select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = '{database}'")
}

/// Other clients take every connection of the server, and the sessions of the process are lost.
pub async fn pool_exhaustion(rounds: u64) -> Survived {
    if shared("an exhausted pool").is_none() {
        return Survived::Skipped;
    }
    // Its own server: the other tests need connections.
    let start = || Server::start(&programs().unwrap(), &std::env::temp_dir());
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    let name = server.empty();
    let under = UnderLoad::start(Ground::on(server.url(&name)).await).await;
    let (address, url) = (under.process.address().await, server.url("postgres"));
    for _ in 0..rounds {
        nap(300).await;
        let mut taken = Vec::new();
        guarded("no connection is left", async {
            while let Ok(connection) = connect(&url).await {
                taken.push(connection);
            }
            // The process finds no place for its new sessions, unless it is faster than the next line.
            while ready(address).await == 200 {
                taken[0].0.simple_query(&terminate(&name)).await.unwrap();
                while let Ok(connection) = connect(&url).await {
                    taken.push(connection);
                }
            }
        })
        .await;
        nap(500).await;
        drop(taken);
        guarded("readiness", async {
            while ready(address).await != 200 {
                nap(10).await;
            }
        })
        .await;
    }
    Survived::Here(rounds, under.check().await)
}

/// The server answers nothing, as after SIGSTOP or on a frozen disk. Its connections stay open.
pub async fn stall(rounds: u64) -> Survived {
    let Some(server) = shared("a store that stalls") else { return Survived::Skipped };
    let proxy = Proxy::start(server.socket());
    let name = tokio::task::spawn_blocking(|| server.database()).await.unwrap();
    let under = UnderLoad::start(Ground::on(proxy.url(&name)).await).await;
    // The length that the name of the scenario promises takes too long for every run.
    let stall = if rounds > 1 { 30_000 } else { 3_000 };
    let rounds = rounds.div_ceil(10);
    for _ in 0..rounds {
        nap(500).await;
        proxy.hold();
        nap(stall).await;
        proxy.release();
    }
    Survived::Here(rounds, under.check().await)
}
