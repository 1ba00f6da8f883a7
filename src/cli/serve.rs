//! `ringback serve`: the service.

use anyhow::Context as _;

use super::arguments::{configuration, shutdown_signal};
use super::output::{Failure, print_line};
use crate::app::{App, FirstStart, HostEnvironment};
use crate::config::Flags;
use crate::telemetry;

/// Run the service: API, poller and dispatcher in one process
///
/// By default the database is ringback.db and the address 127.0.0.1:8080. The first start makes an admin key and a
/// signing secret and prints both once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  MUVI_API_KEY=pb_… ringback serve

  curl -X POST http://127.0.0.1:8080/v1/watches \\
    -H \"Authorization: Bearer $RINGBACK_API_KEY\" -H 'Content-Type: application/json' \\
    -d '{\"jobId\": \"job_abc123def456\", \"callbackUrl\": \"https://app.example.com/hooks/muvi\"}'

`ringback config` shows every setting. SIGTERM and SIGINT shut the service down cleanly.")]
pub struct Serve {
    #[command(flatten)]
    flags: Flags,
}

impl Serve {
    /// Runs the command.
    pub async fn run(self) -> Result<(), Failure> {
        let config = configuration(&self.flags)?;
        telemetry::logs::init(&config.log, config.log_format)?;
        for warning in &config.warnings {
            tracing::warn!("{warning}");
        }
        let app = App::build(config, HostEnvironment::system()?).await?;
        print_once(&app.first_start).context(
            "the new admin key could not be printed and will not be shown again: remove the database, or \
             set RINGBACK_API_KEY",
        )?;
        print_line(format_args!("ringback listens on http://{}", app.address()?))?;
        app.run(async {
            if let Err(error) = shutdown_signal().await {
                tracing::error!(%error, "no signal handlers can be installed");
                std::future::pending::<()>().await;
            }
        })
        .await?;
        Ok(())
    }
}

/// Prints what the first start made. It is never logged.
fn print_once(first_start: &FirstStart) -> anyhow::Result<()> {
    if let Some(key) = &first_start.admin_key {
        print_line(format_args!("admin key (shown once, keep it):      {key}"))?;
    }
    if let Some(secret) = &first_start.signing_secret {
        print_line(format_args!("signing secret (for receivers):       {secret}"))?;
    }
    Ok(())
}
