//! `ringback serve`, `ringback health` and `ringback config`: the service, its health check, and its settings.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use anyhow::bail;

use super::arguments::{complete_configuration, configuration};
use super::client::http_client;
use super::output::{Failure, clean, discards_stdout, print_aside, print_line, print_note, print_waiting};
use super::signals::{Signals, survive_file_size_limit};
use super::terminal::{Column, Terminal};
use crate::app::{App, FirstStart, HostEnvironment};
use crate::clock::Clock;
use crate::config::{Config, Effective, Flags};
use crate::{egress, telemetry};

/// Timeout of the request: less than the three seconds of the image's HEALTHCHECK.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which a line of the log says that stdout is not read.
const PRINT_PATIENCE: Duration = Duration::from_secs(1);

/// Run the service: API, poller and dispatcher in one process
///
/// By default the database is ringback.db and the address 127.0.0.1:8080. The first start makes an admin key and a
/// signing secret and prints both once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  MUVI_API_KEY=pb_… ringback serve

  curl -X POST http://127.0.0.1:8080/v1/watches \\
    -H \"Authorization: Bearer $RINGBACK_API_KEY\" \\
    -H 'Content-Type: application/json' \\
    -d '{\"jobId\": \"job_abc123def456\",
         \"callbackUrl\": \"https://app.example.com/hooks/muvi\"}'

To show every setting: ringback config

SIGTERM, SIGINT, SIGQUIT and SIGHUP stop the service after the work in progress, for which it waits up to shutdown_grace, or interrupt its start. A second SIGTERM or SIGINT ends that wait. The exit code is 0 in both cases.

The service does not use HTTPS_PROXY, HTTP_PROXY and ALL_PROXY; its proxy is the setting egress.proxy.")]
pub struct Serve {
    #[command(flatten)]
    flags: Flags,
}

impl Serve {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        // First: a process with the number 1, as in a container, never gets a signal that it does not handle.
        let (mut first, mut both) = (Signals::install()?, Signals::install()?);
        survive_file_size_limit()?;
        let config = complete_configuration(&self.flags, true).await?;
        telemetry::logs::init(&config.log, config.log_format)?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let environment =
            HostEnvironment { discards_output: discards_stdout(), ..HostEnvironment::system()? };
        let second = async {
            both.stop().await;
            both.stop_now().await;
        };
        tokio::select! {
            ended = serve(config, environment, &mut first) => ended?,
            () = second => tracing::warn!(
                "a second signal: work in progress is interrupted, and the next start continues it"
            ),
        }
        Ok(())
    }
}

/// Starts the service, and runs it until a signal arrives.
async fn serve(config: Config, environment: HostEnvironment, signals: &mut Signals) -> Result<(), Failure> {
    let Some(mut app) = App::build_until(config, environment, signals.stop()).await? else {
        tracing::info!("stopped before the database was open");
        return Ok(());
    };
    print_once(&app.first_start, signals).await.map_err(|error| {
        Failure::Failed(format!(
            "{error:#}: the new admin key could not be printed and will not be shown again; \
             remove the database, or set RINGBACK_API_KEY"
        ))
    })?;
    let is_loaded = tokio::select! {
        loaded = app.load() => loaded.map(|()| true)?,
        () = signals.stop() => false,
    };
    if !is_loaded {
        return Ok(app.run(async {}).await?);
    }
    // After this line, clients are served.
    print_aside(format!("ringback listens on http://{}", app.address()));
    Ok(app.run(signals.stop()).await?)
}

/// Prints what the first start made. It is never logged. A reader that does not read is waited for until a signal
/// arrives: clients cannot use the service without the key.
async fn print_once(first_start: &FirstStart, signals: &mut Signals) -> anyhow::Result<()> {
    let mut lines = String::new();
    for (name, value) in [
        ("admin key (shown once, keep it):      ", &first_start.admin_key),
        ("signing secret (for receivers):       ", &first_start.signing_secret),
    ] {
        if let Some(value) = value {
            lines.extend([name, value, "\n"]);
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let mut printing = pin!(print_waiting(lines));
    let late = Clock::System.sleep(PRINT_PATIENCE);
    tokio::select! {
        biased;
        printed = &mut printing => return printed,
        () = late => tracing::warn!(
            "stdout is full and nothing reads it: the start waits until the new admin key is printed; read stdout, or \
             stop this process, remove the database and set RINGBACK_API_KEY"
        ),
        () = signals.stop() => bail!("stopped while stdout was full"),
    }
    tokio::select! {
        biased;
        printed = printing => printed,
        () = signals.stop() => bail!("stopped while stdout was full"),
    }
}

/// Check whether the service on this machine is alive
///
/// Reads the configuration as ringback serve does and requests /healthz at its address. The exit code is 0 if the
/// service answers, else 1. The HEALTHCHECK of the image runs this command.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  ringback health --ready

A service is alive if it answers. It is ready if its database answers and it is not shutting down. Restart a service that is not alive; send no requests to a service that is not ready.")]
pub struct Health {
    /// Check whether the service is ready: /readyz
    #[arg(long)]
    ready: bool,
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address and port of the service, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

impl Health {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let flags = Flags { config: self.config, listen: self.listen, ..Flags::default() };
        let address = local_address(configuration(&flags)?.listen);
        if address.port() == 0 {
            let sentence =
                "`listen` has port 0, so the port of the service is not known; give it with --listen";
            return Err(Failure::Usage(sentence.into()));
        }
        let url = format!("http://{address}/{}", if self.ready { "readyz" } else { "healthz" });
        let client = http_client(HEALTH_TIMEOUT, None)?;
        let answered = Clock::System.timeout(HEALTH_TIMEOUT, client.get(&url).send()).await;
        let wrong = match answered {
            None => format!("no answer within {} s", HEALTH_TIMEOUT.as_secs()),
            Some(Err(error)) => egress::SendError::classify(&error).to_string(),
            Some(Ok(answer)) if !answer.status().is_success() => format!("answered {}", answer.status()),
            Some(Ok(_)) => return Ok(print_line(if self.ready { "ready" } else { "alive" })?),
        };
        Err(Failure::Failed(format!("{url}: {wrong}; is the service running, and does it listen there?")))
    }
}

/// Returns the address of a server on this machine: loopback if it listens on all addresses.
fn local_address(mut listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() {
        listen.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    listen
}

/// Show every effective setting and its source
///
/// Secrets are masked. All errors are listed, including those in the definitions and templates that the configuration
/// names, and in its destinations, whose host names are looked up as at a start; the exit code is then 1.
/// Precedence: defaults < ringback.toml (or --config FILE) < environment < flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  RINGBACK_DELIVERY__TIMEOUT=5s ringback config

A variable RINGBACK_X__Y sets [x] y. Lists in variables are separated by commas.")]
pub struct ShowConfig {
    #[command(flatten)]
    flags: Flags,
}

impl ShowConfig {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        // An error in a flag is one of the errors that this command lists, not a wrong use of it.
        let config = complete_configuration(&self.flags, false).await;
        let config = config.map_err(|failure| Failure::Failed(failure.to_string()))?;
        for warning in &config.warnings {
            print_note(format_args!("warning: {warning}"));
        }
        Ok(print_line(listing(&config.effective, Terminal::of_stdout()))?)
    }
}

/// Returns the settings: key, value and source. On a terminal, a source that does not fit follows on a line of its own:
/// a value is never cut.
fn listing(effective: &[Effective], terminal: Terminal) -> String {
    /// Width of the values before aligned sources, on a narrow terminal.
    const VALUE: usize = 25;
    let shown = |one: &Effective| {
        let value = one.value.clone().unwrap_or_else(|| "none".to_owned());
        [one.key.clone(), value, one.source.to_string()]
    };
    let rows: Vec<[String; 3]> = effective.iter().map(shown).collect();
    let table = terminal.table(&["", "", ""].map(Column::new), &rows, false);
    if table.lines().all(|line| terminal.fits(line)) {
        return table;
    }
    let width = rows.iter().map(|[key, ..]| key.len()).max().unwrap_or(0);
    let lines = rows.iter().map(|row| {
        let [key, value, source] = row.each_ref().map(|cell| clean(cell));
        let forms = [
            format!("{key:width$}  {value:VALUE$}  {source}"),
            format!("{key:width$}  {value}  {source}"),
            format!("{key:width$}  {value}\n{:width$}  {source}", ""),
        ];
        let fits = |form: &&String| terminal.fits(form);
        forms.iter().find(fits).or(forms.last()).cloned().unwrap_or_default()
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::terminal::{PLAIN, narrow};
    use crate::config::Environment;

    #[test]
    fn a_server_on_all_addresses_is_checked_on_loopback() {
        for (listen, expected) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(local_address(listen.parse().expect("an address")).to_string(), expected);
        }
    }

    #[test]
    fn the_listing_shows_every_value_with_its_source() {
        let env = [
            ("RINGBACK_API_KEY", "hush-0123456789abcdef"),
            ("MUVI_API_KEY", "hush"),
            ("RINGBACK_EGRESS__ALLOW", "10.0.0.0/8,hooks.internal"),
        ];
        let env: Environment = env.into_iter().collect();
        let config = Config::read(&Flags::default(), &env, None).expect("no errors");
        // The settings of the channels are listed in the same way.
        let is_of_channel = |line: &str| {
            crate::channels::TABLE.iter().flat_map(|spec| spec.settings).any(|one| line.starts_with(one.key))
        };
        let listed = listing(&config.effective, PLAIN);
        let listed: Vec<&str> = listed.lines().filter(|line| !is_of_channel(line)).collect();
        insta::assert_snapshot!(listed.join("\n"), @r"
        listen                    127.0.0.1:8080                             default
        metrics_listen            none                                       default
        public_url                http://127.0.0.1:8080                      default
        database_url              sqlite://ringback.db                       default
        api_key                   ***                                        RINGBACK_API_KEY
        signing_secret            none                                       default
        encryption_key            none                                       default
        log                       info                                       default
        log_format                text                                       default
        shutdown_grace            25s                                        default
        egress.allow              [10.0.0.0/8, hooks.internal]               RINGBACK_EGRESS__ALLOW
        egress.allow_http         false                                      default
        egress.proxy              none                                       default
        delivery.retry_schedule   [5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h]  default
        delivery.timeout          20s                                        default
        delivery.concurrency      512                                        default
        delivery.per_destination  16                                         default
        retention.events          30d                                        default
        retention.watches         30d                                        default
        telemetry.otlp_endpoint   none                                       default
        telemetry.otlp_headers    none                                       default
        telemetry.service_name    ringback                                   default
        templates.path            none                                       default
        providers.path            none                                       default
        providers.muvi.api_key    ***                                        MUVI_API_KEY
        ");
    }
    #[test]
    fn the_listing_fits_a_terminal_and_cuts_no_value() {
        let env = [("RINGBACK_DELIVERY__RETRY_SCHEDULE", "1s, 2s, 3s, 4s, 5s, 6s, 7s, 8s, 9s")];
        let env: Environment = env.into_iter().collect();
        let config = Config::read(&Flags::default(), &env, None).expect("no errors");
        let listed = listing(&config.effective, narrow(80));
        assert!(listed.lines().all(|line| narrow(80).fits(line)), "{listed}");
        assert!(listed.contains("[1s, 2s, 3s, 4s, 5s, 6s, 7s, 8s, 9s]\n"), "{listed}");
    }
}
