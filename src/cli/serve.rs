//! `ringback serve`: the service.

use anyhow::Context as _;

use super::{Failure, configuration, say, stopped};
use crate::app::{App, FirstStart, Surroundings};
use crate::config::Flags;
use crate::telemetry;

/// Run the service: API, poller and dispatcher in one process
///
/// With nothing set it keeps its facts in ringback.db and listens on 127.0.0.1:8080. On the first
/// start it makes an admin key and a signing secret and prints both, once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  MUVI_API_KEY=pb_… ringback serve

  curl -X POST http://127.0.0.1:8080/v1/watches \\
    -H \"Authorization: Bearer $RINGBACK_API_KEY\" -H 'Content-Type: application/json' \\
    -d '{\"jobId\": \"job_abc123def456\", \"callbackUrl\": \"https://app.example.com/hooks/muvi\"}'

`ringback config` shows every setting. SIGTERM and SIGINT end the service in order.")]
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
        let app = App::build(config, Surroundings::of_machine()?).await?;
        print_once(app.first_start()).context(
            "what was made on this first start could not be shown, and will not be again: remove the \
             database, or set RINGBACK_API_KEY",
        )?;
        say(format_args!("ringback listens on http://{}", app.address()?))?;
        app.run(async {
            if let Err(error) = stopped().await {
                tracing::error!(%error, "signals cannot be heard");
                std::future::pending::<()>().await;
            }
        })
        .await?;
        Ok(())
    }
}

/// What is made on the first start is never logged.
fn print_once(first_start: &FirstStart) -> anyhow::Result<()> {
    if let Some(key) = &first_start.admin_key {
        say(format_args!("admin key (shown once, keep it):      {key}"))?;
    }
    if let Some(secret) = &first_start.signing_secret {
        say(format_args!("signing secret (receivers verify by): {secret}"))?;
    }
    Ok(())
}
