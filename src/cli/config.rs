//! `ringback config`: prints every effective setting and its source.

use std::fmt::Write as _;

use super::arguments::read_configuration;
use super::output::{Failure, print_line, print_note};
use crate::config::{Effective, Flags};

/// Show every effective setting and its source
///
/// Secrets are masked. All errors are listed, including those in the definitions and templates that the configuration
/// names; the exit code is then 1.
/// Precedence: defaults < ringback.toml (or --config FILE) < environment < flags.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example:
  RINGBACK_DELIVERY__TIMEOUT=5s ringback config

A variable RINGBACK_X__Y sets [x] y. Lists in variables are separated by commas.")]
pub struct Show {
    #[command(flatten)]
    flags: Flags,
}

impl Show {
    /// Runs the command.
    pub fn run(self) -> Result<(), Failure> {
        let (config, errors) = read_configuration(&self.flags);
        // Definitions and templates are checked as well, so that all errors are shown at once.
        let errors = errors.iter().map(ToString::to_string);
        let lines: Vec<String> = errors.chain(crate::app::configuration_errors(&config)).collect();
        if !lines.is_empty() {
            return Err(Failure::Failed(lines.join("\n")));
        }
        for warning in &config.warnings {
            print_note(&format!("warning: {warning}"));
        }
        Ok(print_line(listing(config.effective()).trim_end())?)
    }
}

/// Returns three columns: key, value, source.
fn listing(effective: &[Effective]) -> String {
    let value = |one: &Effective| one.value.clone().unwrap_or_else(|| "none".to_owned());
    let width = |of: &dyn Fn(&Effective) -> usize| effective.iter().map(of).max().unwrap_or(0);
    let keys = width(&|one| one.key.chars().count());
    let values = width(&|one| value(one).chars().count());
    effective.iter().fold(String::new(), |mut text, one| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:keys$}  {:values$}  {}", one.key, value(one), one.source);
        text
    })
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment};

    use super::*;

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
        let listed = listing(config.effective());
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
}
