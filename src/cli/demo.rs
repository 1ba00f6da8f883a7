//! `ringback demo`: the whole story on this machine, with no account and no network.
//!
//! Nothing here is a stand-in for the service: it is [`App`], configured by variables as it would be
//! elsewhere, and reached over HTTP. Around it stand the simulator and two receivers, one of which
//! is flaky. What is expected of them, and whether it came, is the [`Ledger`]'s. What this
//! deliberately does not do: read this machine's configuration or its `ringback.db`.

mod folder;
mod ledger;
mod screen;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use hyper::body::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use self::folder::Folder;
use self::ledger::{Ledger, Scene};
use self::screen::{Screen, Who};
use super::listen::{Arrival, Listener};
use super::sim::{Options, Simulator};
use super::{Failure, mistaken, say, stopped};
use crate::app::{App, Surroundings};
use crate::channels::webhook::Secret;
use crate::clock::Clock;
use crate::config::{Config, Environment, Flags, LogFormat};
use crate::egress::{Allowed, Egress, Post, Resolver, Settings};
use crate::telemetry;

/// The story takes some seconds; one that takes this long is stuck, and with [`GRACE`] it still ends
/// within 30 s.
const STUCK: Duration = Duration::from_secs(25);
/// Loopback is quick to finish what is in flight.
const GRACE: &str = "3s";
/// Instead of 5s, 5m, 30m …: nobody wants to wait for a demo.
const RETRY_SCHEDULE: &str = "1s, 1s, 2s";
/// How many webhooks the flaky receiver refuses.
const REFUSED: u32 = 1;
/// One registration on loopback, and what is read of its answer.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_MAX: usize = 64 * 1024;

/// What is played. The simulator reads length and ending from the job's id.
const SCENES: &[Scene] = &[
    Scene { job: "job_3s_completed", ending: "job.completed", flaky: false, expires: None },
    Scene { job: "job_2s_failed", ending: "job.failed", flaky: false, expires: None },
    Scene { job: "job_2s_cancelled", ending: "job.cancelled", flaky: false, expires: None },
    // Muvi answers the first look with 500.
    Scene { job: "job_2s_completed_e1", ending: "job.completed", flaky: false, expires: None },
    Scene { job: "job_1s_completed", ending: "job.completed", flaky: true, expires: None },
    Scene { job: "job_never", ending: "watch.expired", flaky: false, expires: Some("4s") },
];

/// Play the whole story on this machine: no account, no network
///
/// A server on a temporary database, a simulated Muvi, and two receivers that verify signatures, one
/// of them flaky. Jobs complete, fail, are cancelled and expire. The exit code is 0 if every expected
/// webhook came and was verified, else 1. It takes about five seconds.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback demo --keep

With --keep everything stays up until Ctrl-C, and the command to register a job of your own is shown.")]
pub struct Demo {
    /// Leave it running until SIGINT or SIGTERM
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        telemetry::logs::init("error", LogFormat::Text)?;
        let clock = Clock::System;
        let screen = Screen::new(&clock, &Environment::of_process());
        // Made first, so that it is dropped last: the database is closed by then.
        let folder = Folder::make()?;
        let mut stage = Stage::set(&clock, &screen, &folder).await?;
        let mut ledger = Ledger::new(SCENES);
        let outcome = tokio::select! {
            played = clock.timeout(STUCK, stage.play(&screen, &mut ledger)) => match played {
                Some(played) => played,
                None => Err(anyhow!("the demo is stuck after {} s", STUCK.as_secs())),
            },
            asked = stopped() => asked.and(Err(anyhow!("the demo was stopped before its end"))),
        };
        say(format_args!("\n{}", ledger.summary(|job| stage.simulator.polls(job))))?;
        let verdict = outcome.and_then(|()| ledger.verdict().map_err(anyhow::Error::msg));
        if verdict.is_ok() {
            let (count, seconds) = (SCENES.len(), screen.elapsed().as_secs_f64());
            say(format_args!(
                "{count} of {count} expected webhooks came, signed and verified, in {seconds:.1} s."
            ))?;
        } else if !ledger.is_complete() {
            say(ledger.missing())?;
        }
        if self.keep && verdict.is_ok() {
            stage.keep(&screen).await?;
        }
        stage.strike().await?;
        Ok(verdict?)
    }
}

/// Everything that takes part.
struct Stage {
    simulator: Simulator,
    server: JoinHandle<Result<()>>,
    end: oneshot::Sender<()>,
    /// The simulator's and the receivers' loops; they end when this is dropped.
    around: JoinSet<std::io::Result<()>>,
    client: Client,
    steady: Receiver,
    flaky: Receiver,
}

/// A receiver's address, and what arrives there.
struct Receiver {
    url: String,
    arrivals: mpsc::Receiver<Arrival>,
}

impl Stage {
    async fn set(clock: &Clock, screen: &Screen, folder: &Folder) -> Result<Self, Failure> {
        let mut around = JoinSet::new();
        let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let muvi = format!("http://{}", socket.local_addr().context("the port has no address")?);
        let simulator = Simulator::new(clock.clone(), Options::default());
        let heard = screen::overhear(simulator.router(), screen.clone());
        around.spawn(async move { axum::serve(socket, heard).await });
        screen.tell(Who::Muvi, &format!("simulated on {muvi}"));

        let app = App::build(configuration(folder, &muvi)?, Surroundings::of_machine()?).await?;
        let server = format!("http://{}", app.address()?);
        let made = app.first_start().clone();
        let key = made.admin_key.context("a new database has a new key")?;
        let secret = made.signing_secret.context("a new database has a new signing secret")?;
        let secret = Secret::parse(&secret).map_err(anyhow::Error::msg)?;
        let (end, ended) = oneshot::channel::<()>();
        let running = tokio::spawn(app.run(async {
            // Also when the other end is dropped.
            let _ = ended.await;
        }));
        screen.tell(
            Who::Server,
            &format!("listens on {server}, its database is in {}", folder.path().display()),
        );

        let steady = receiver(clock, &secret, 0, &mut around).await?;
        screen.tell(Who::Receiver, &format!("listens on {}", steady.url));
        let flaky = receiver(clock, &secret, REFUSED, &mut around).await?;
        let refuses = "answers the first webhook with 503";
        screen.tell(Who::Flaky, &format!("listens on {}, {refuses}", flaky.url));
        screen.tell(Who::Server, &format!("retries after {RETRY_SCHEDULE} (shortened for the demo)"));
        let client = Client::new(clock, server, key)?;
        Ok(Self { simulator, server: running, end, around, client, steady, flaky })
    }

    /// Registers every scene's watch and listens until all is there that is expected, or something
    /// that is not.
    async fn play(&mut self, screen: &Screen, ledger: &mut Ledger) -> Result<()> {
        for scene in SCENES {
            let to = if scene.flaky { &self.flaky } else { &self.steady };
            let mut watch = json!({ "jobId": scene.job, "callbackUrl": to.url });
            if let Some(expires) = scene.expires {
                watch["expiresIn"] = json!(expires);
            }
            let id = self.client.register(&watch).await.with_context(|| scene.job)?;
            let within = scene.expires.map(|span| format!(" for {span}")).unwrap_or_default();
            screen.tell(Who::Client, &format!("registers {}{within}: 201 {id}", scene.job));
            ledger.registered(scene, id);
        }
        while !ledger.is_complete() {
            let (who, arrival) = self.next().await?;
            screen.arrived(who, &arrival);
            ledger.arrived(&arrival)?;
        }
        Ok(())
    }

    /// What arrives next, and where; an error if the server ends.
    async fn next(&mut self) -> Result<(Who, Arrival)> {
        tokio::select! {
            Some(arrival) = self.steady.arrivals.recv() => Ok((Who::Receiver, arrival)),
            Some(arrival) = self.flaky.arrivals.recv() => Ok((Who::Flaky, arrival)),
            ended = &mut self.server => match ended.context("the server broke down")? {
                Ok(()) => bail!("the server ended by itself"),
                Err(error) => Err(error.context("the server ended")),
            },
        }
    }

    /// Stays until it is asked to stop, and shows what else arrives.
    async fn keep(&mut self, screen: &Screen) -> Result<()> {
        let (Client { server, key, .. }, url) = (&self.client, &self.steady.url);
        say("\nEverything stays up until Ctrl-C. A job of your own, 5 s long, that fails:\n")?;
        say(format_args!("  curl -X POST {server}/v1/watches \\"))?;
        say(format_args!("    -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' \\"))?;
        say(format_args!("    -d '{{\"jobId\": \"job_5s_failed_mine\", \"callbackUrl\": \"{url}\"}}'\n"))?;
        say("`ringback sim --help` says what else a job's id can ask for.\n")?;
        // One future, polled on: signals that come between two arrivals are heard.
        let mut stop = std::pin::pin!(stopped());
        loop {
            tokio::select! {
                asked = &mut stop => return asked,
                arrived = self.next() => {
                    let (who, arrival) = arrived?;
                    screen.arrived(who, &arrival);
                }
            }
        }
    }

    /// Ends the server in order, so that its database is closed before its folder goes. The
    /// receivers stay until then: sends in flight get their answers.
    async fn strike(self) -> Result<()> {
        let Self { server, end, around, .. } = self;
        if !server.is_finished() {
            drop(end);
            server.await.context("the server broke down")??;
        }
        drop(around);
        Ok(())
    }
}

/// As an operator would configure it, by variables. The process's own are not asked, so that a
/// developer's real key and database stay out of this.
fn configuration(folder: &Folder, muvi: &str) -> Result<Config, Failure> {
    let database = format!("sqlite://{}", folder.path().join("ringback.db").display());
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
    Config::read(&Flags::default(), &environment, None).map_err(|mistakes| mistaken(&mistakes))
}

async fn receiver(
    clock: &Clock,
    secret: &Secret,
    refuses: u32,
    around: &mut JoinSet<std::io::Result<()>>,
) -> Result<Receiver> {
    let listening = Listener::bind(clock.clone(), 0, Some(secret.clone()), refuses).await;
    let (listener, arrivals) = listening.context("no free port")?;
    let url = listener.url();
    around.spawn(listener.serve());
    Ok(Receiver { url, arrivals })
}

/// Whoever registers jobs: a program of its own, elsewhere.
struct Client {
    egress: Arc<Egress>,
    server: String,
    key: String,
}

impl Client {
    fn new(clock: &Clock, server: String, key: String) -> Result<Self> {
        let allow = vec![Allowed::parse("127.0.0.1/32").map_err(anyhow::Error::msg)?];
        let settings = Settings { allow, allow_http: false, ..Settings::default() };
        let egress = Egress::new(settings, Resolver::system()?, clock.clone(), Vec::new())?;
        Ok(Self { egress, server, key })
    }

    /// Registers a watch; its id.
    async fn register(&self, watch: &Value) -> Result<String> {
        let target = self.egress.parse(&format!("{}/v1/watches", self.server));
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(AUTHORIZATION, format!("Bearer {}", self.key).parse()?);
        let answer = self
            .egress
            .send(Post {
                target: target.map_err(anyhow::Error::msg)?,
                headers,
                body: Bytes::from(watch.to_string()),
                timeout: REGISTER_TIMEOUT,
                max_answer: ANSWER_MAX,
            })
            .await?;
        if answer.status != 201 {
            bail!("the server answered {}: {}", answer.status, String::from_utf8_lossy(&answer.body));
        }
        let watch: Value = serde_json::from_slice(&answer.body)?;
        watch["id"].as_str().map(str::to_owned).context("the new watch has no id")
    }
}
