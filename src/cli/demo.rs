//! `ringback demo`: runs all of Ringback on this machine, without an account and a network.
//!
//! The service is the real [`App`], configured by variables and used over HTTP. The simulator is its provider, and two
//! receivers, one of them flaky, get its webhooks. [`Expectations`] compares the received webhooks with the expected
//! ones. The demo does not read the configuration of this machine or its `ringback.db`.

mod expectations;
mod log;

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use axum::middleware::from_fn_with_state;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use self::expectations::{DemoJob, Expectations};
use self::log::{CLIENT, DemoLog, FLAKY, MUVI, Participant, RECEIVER, SERVER, log_response};
use super::client::Client;
use super::listen::{Arrival, Listener};
use super::output::Failure;
use super::request_fields::Body;
use super::signals::Signals;
use super::sim::{Options, Simulator};
use super::terminal::Terminal;
use crate::app::{App, HostEnvironment};
use crate::channels::webhook::Secret;
use crate::clock::Clock;
use crate::config::{Access, Config, Environment, Flags, LogFormat, Masked};
use crate::domain::random;
use crate::telemetry;

/// Timeout of the demo, which takes about five seconds. With [`GRACE`] the command ends within 30 s.
const TIMEOUT: Duration = Duration::from_secs(25);
/// Shutdown grace of the service; requests on loopback end quickly.
const GRACE: &str = "3s";
/// Retry schedule, shorter than the default to keep the demo short.
const RETRY_SCHEDULE: &str = "1s, 1s, 2s";
/// Number of webhooks that the flaky receiver rejects.
const REJECTED: u32 = 1;

/// The jobs. The simulator reads the duration and the end of a job from its id.
const JOBS: &[DemoJob] = &[
    DemoJob { id: "job_3s_completed", ending: "job.completed", flaky: false, expires: None },
    DemoJob { id: "job_2s_failed", ending: "job.failed", flaky: false, expires: None },
    DemoJob { id: "job_2s_cancelled", ending: "job.cancelled", flaky: false, expires: None },
    // The simulator answers the first poll with 500.
    DemoJob { id: "job_2s_completed_e1", ending: "job.completed", flaky: false, expires: None },
    DemoJob { id: "job_1s_completed", ending: "job.completed", flaky: true, expires: None },
    DemoJob { id: "job_never", ending: "watch.expired", flaky: false, expires: Some("4s") },
];

/// Show all of Ringback on this machine: no account, no network
///
/// Starts a server with a temporary database, a simulated Muvi, and two receivers that verify signatures, one of them
/// flaky. Jobs complete, fail, are cancelled and expire. The exit code is 0 if every expected webhook was received and
/// verified, else 1. The demo takes about five seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback demo --keep

With --keep everything runs until Ctrl-C, and the demo prints a command that registers a job of your own.")]
pub struct Demo {
    /// Keep everything running until SIGINT or SIGTERM
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        telemetry::logs::init("error", LogFormat::Text)?;
        let clock = Clock::System;
        let log = Arc::new(DemoLog::new(&clock));
        let mut signals = Signals::install()?;
        // Created first, so that it is dropped last, after the database was closed.
        let folder = Folder::make()?;
        let mut services = Services::start(&clock, &log, &folder).await?;
        let mut expectations = Expectations::new(JOBS);
        let outcome = tokio::select! {
            played = clock.timeout(TIMEOUT, services.run_jobs(&log, &mut expectations)) => match played {
                Some(played) => played,
                None => Err(anyhow!("the demo did not end within {} s", TIMEOUT.as_secs())),
            },
            () = signals.stop() => Err(anyhow!("the demo was interrupted")),
        };
        let reported = tokio::select! {
            reported = services.report(&log, &expectations, outcome) => reported,
            () = signals.stop() => Err(anyhow!("the demo was interrupted")),
        };
        let verdict = match reported {
            Ok(()) if self.keep => services.keep(&log, &mut signals).await,
            reported => reported,
        };
        // The server ends before its database is removed, also after an error of stdout.
        tokio::select! {
            closed = services.shut_down() => closed?,
            // A second signal ends the wait for the work in progress.
            () = signals.stop_now() => {}
        }
        Ok(verdict?)
    }
}

/// The running services.
struct Services {
    simulator: Simulator,
    server: JoinHandle<Result<()>>,
    end: oneshot::Sender<()>,
    /// Tasks of the simulator and the receivers; they end when this is dropped.
    tasks: JoinSet<std::io::Result<()>>,
    client: Client,
    key: String,
    steady: Receiver,
    flaky: Receiver,
}

/// URL of a receiver, and the webhooks that it receives.
struct Receiver {
    url: String,
    arrivals: mpsc::Receiver<Arrival>,
}

impl Services {
    async fn start(clock: &Clock, log: &Arc<DemoLog>, folder: &Folder) -> Result<Self, Failure> {
        let mut tasks = JoinSet::new();
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let muvi = format!("http://{}", socket.local_addr().context("the port has no address")?);
        let simulator = Simulator::new(clock.clone(), Options::default());
        let logged = simulator.router().layer(from_fn_with_state(log.clone(), log_response));
        tasks.spawn(async move { axum::serve(socket, logged).await });
        log.line(MUVI, &format!("simulated on {muvi}"));

        let mut app = App::build(configuration(folder, &muvi)?, HostEnvironment::system()?).await?;
        app.load().await?;
        let server = format!("http://{}", app.address());
        let made = app.first_start.clone();
        let key = made.admin_key.context("the new database has no new key")?;
        let secret = made.signing_secret.context("the new database has no new signing secret")?;
        let secret = Secret::parse(&secret).map_err(anyhow::Error::msg)?;
        let (end, ended) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(async {
            // Ends also when the sender is dropped.
            let _ = ended.await;
        }));
        log.line(SERVER, &format!("listens on {server}"));
        log.line(SERVER, &format!("database in {}", folder.0.display()));

        let mut receiver = async |rejects| {
            let listening = Listener::bind(clock.clone(), 0, Some(secret.clone()), rejects).await;
            let (listener, arrivals) = listening.context("no free port")?;
            let url = listener.url();
            tasks.spawn(listener.serve());
            anyhow::Ok(Receiver { url, arrivals })
        };
        let steady = receiver(0).await?;
        log.line(RECEIVER, &format!("listens on {}", steady.url));
        let flaky = receiver(REJECTED).await?;
        log.line(FLAKY, &format!("listens on {}", flaky.url));
        log.line(FLAKY, "answers 503 to the first webhook");
        log.line(SERVER, &format!("retries after {RETRY_SCHEDULE} (shortened for the demo)"));
        let client = Client::new(Access { url: server, key: Some(Masked::new(key.clone())), proxy: None })?;
        Ok(Self { simulator, server: running, end, tasks, client, key, steady, flaky })
    }

    /// Registers a watch for every job and waits for the expected webhooks. Returns an error for any other webhook.
    async fn run_jobs(&mut self, log: &DemoLog, expectations: &mut Expectations) -> Result<()> {
        for demo_job in JOBS {
            let to = if demo_job.flaky { &self.flaky } else { &self.steady };
            let mut watch = json!({ "jobId": demo_job.id, "callbackUrl": to.url });
            if let Some(expires) = demo_job.expires {
                watch["expiresIn"] = json!(expires);
            }
            let answer = self.client.post("/v1/watches", Some(Body::fixed(watch.to_string())), None).await;
            let answer = answer.map_err(anyhow::Error::msg).with_context(|| demo_job.id)?;
            let id = answer.value()["id"].as_str().map(str::to_owned).context("the new watch has no id")?;
            let within = demo_job.expires.map(|duration| format!(" for {duration}")).unwrap_or_default();
            log.line(CLIENT, &format!("registers {}{within}: 201", demo_job.id));
            expectations.registered(demo_job, id);
        }
        while !expectations.is_complete() {
            let (participant, arrival) = self.next().await?;
            log.webhook(participant, &arrival);
            expectations.arrived(&arrival)?;
        }
        Ok(())
    }

    /// Prints the summary, and returns the verdict.
    async fn report(&self, log: &DemoLog, expectations: &Expectations, outcome: Result<()>) -> Result<()> {
        let summary = expectations.summary(Terminal::of_stdout(), |job| self.simulator.polls(job));
        log.say(format_args!("\n{summary}\n")).await?;
        let verdict = outcome.and_then(|()| expectations.verdict().map_err(anyhow::Error::msg));
        if verdict.is_ok() {
            let (count, seconds) = (JOBS.len(), log.elapsed().as_secs_f64());
            let sentence = "expected webhooks were received and verified in";
            log.say(format_args!("{count} of {count} {sentence} {seconds:.1} s.")).await?;
        } else if !expectations.is_complete() {
            log.say(expectations.missing()).await?;
        }
        verdict
    }

    /// Waits for the next webhook and returns its receiver. Returns an error if the server ends.
    async fn next(&mut self) -> Result<(Participant, Arrival)> {
        tokio::select! {
            Some(arrival) = self.steady.arrivals.recv() => Ok((RECEIVER, arrival)),
            Some(arrival) = self.flaky.arrivals.recv() => Ok((FLAKY, arrival)),
            ended = &mut self.server => match ended.context("the server failed")? {
                Ok(()) => bail!("the server ended"),
                Err(error) => Err(error.context("the server ended")),
            },
        }
    }

    /// Runs until a signal, and shows further webhooks.
    async fn keep(&mut self, log: &DemoLog, signals: &mut Signals) -> Result<()> {
        let (server, key, url) = (self.client.url(), &self.key, &self.steady.url);
        // One future for all iterations, so that no signal is lost between two webhooks.
        let mut stop = std::pin::pin!(signals.stop());
        let text = format!(
            r#"
Everything runs until Ctrl-C. To register a job of your own that fails after 5 s:

  curl -X POST {server}/v1/watches \
    -H 'Content-Type: application/json' \
    -H 'Authorization: Bearer {key}' \
    -d '{{"jobId": "job_5s_failed_mine",
         "callbackUrl": "{url}"}}'

What a job id can contain: ringback sim --help
"#
        );
        tokio::select! {
            () = &mut stop => return Ok(()),
            said = log.say(text) => said?,
        }
        loop {
            tokio::select! {
                () = &mut stop => return Ok(()),
                arrived = self.next() => {
                    let (participant, arrival) = arrived?;
                    log.webhook(participant, &arrival);
                }
            }
        }
    }

    /// Shuts the server down, so that its database is closed before its folder is removed. The receivers run until
    /// then, so that attempts in progress are answered.
    async fn shut_down(self) -> Result<()> {
        let Self { server, end, tasks, .. } = self;
        if !server.is_finished() {
            drop(end);
            server.await.context("the server failed")??;
        }
        drop(tasks);
        Ok(())
    }
}

/// Folder that is removed with its content when it is dropped. After a kill it stays.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    /// Creates a folder with a random name that only this user can read, because the database holds a secret.
    fn make() -> Result<Self> {
        let mut name = [0; 8];
        random(&mut name);
        let name = format!("ringback-demo-{:016x}", u64::from_be_bytes(name));
        let path = std::env::temp_dir().join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("{} cannot be created; set TMPDIR to another folder", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::error!(%error, path = %self.0.display(), "the temporary folder could not be removed");
        }
    }
}

/// Returns the configuration of the service. Variables of the process are not read, so that the demo does not use a
/// developer's key and database.
fn configuration(folder: &Folder, muvi: &str) -> Result<Config, Failure> {
    let database = format!("sqlite://{}", folder.0.join("ringback.db").display());
    let variables = [
        ("RINGBACK_LISTEN", "127.0.0.1:0"),
        ("RINGBACK_DATABASE_URL", &database),
        ("RINGBACK_SHUTDOWN_GRACE", GRACE),
        ("RINGBACK_EGRESS__ALLOW", "127.0.0.1/32"),
        ("RINGBACK_DELIVERY__RETRY_SCHEDULE", RETRY_SCHEDULE),
        ("RINGBACK_PROVIDERS__MUVI__BASE_URL", muvi),
        ("RINGBACK_PROVIDERS__MUVI__FIRST", "200ms"),
        ("RINGBACK_PROVIDERS__MUVI__MIN_INTERVAL", "200ms"),
        ("RINGBACK_PROVIDERS__MUVI__MAX_INTERVAL", "500ms"),
        ("RINGBACK_PROVIDERS__MUVI__RATE", "50/s"),
        ("MUVI_API_KEY", "simulated"),
    ];
    let environment: Environment = variables.into_iter().collect();
    Ok(Config::read(&Flags::default(), &environment, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_is_removed_when_it_is_dropped() {
        let folder = Folder::make().expect("a folder");
        let path = folder.0.clone();
        fs::write(path.join("ringback.db"), "data").expect("written");
        drop(folder);
        assert!(!path.exists());
    }
}
