//! Parts that several commands share: values of arguments, the configuration that flags select, and the signals that
//! end a command.

use super::output::Failure;
use crate::app::configuration_errors;
use crate::config::{Config, ConfigError, Environment, File, Flags, Source};
use crate::domain::{Timestamp, parse_any_duration, parse_duration};

/// Parses `name=value`.
pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "write it as name=value".to_owned())
}

/// Checks the form of a duration and returns its text. The server knows the bounds.
pub(super) fn duration(text: &str) -> Result<String, String> {
    parse_any_duration(text).map(|_| text.to_owned())
}

/// Returns the time that an argument names, for the server: a time, or a duration before `now`.
pub(super) fn time_argument(
    flag: &str,
    text: Option<String>,
    now: Timestamp,
) -> Result<Option<String>, Failure> {
    let Some(text) = text else { return Ok(None) };
    if let Some(at) = Timestamp::parse(&text) {
        return Ok(Some(at.to_string()));
    }
    let ago = parse_duration(&text).map_err(|_| {
        Failure::Usage(format!(
            "{flag}: write a time such as 2026-02-18T15:00:00Z, or how long ago, such as 24h"
        ))
    })?;
    Ok(Some(now.minus(ago).to_string()))
}

/// Reads the configuration, or returns all its errors.
pub(super) fn configuration(flags: &Flags) -> Result<Config, Failure> {
    let (config, errors) = read_configuration(flags);
    if errors.is_empty() { Ok(config) } else { Err(errors.into()) }
}

/// Reads the configuration and the definitions and templates that it names, and returns all errors of both.
pub(super) fn complete_configuration(flags: &Flags) -> Result<Config, Failure> {
    let (config, errors) = read_configuration(flags);
    let in_files = configuration_errors(&config);
    if errors.is_empty() && in_files.is_empty() {
        return Ok(config);
    }
    let lines = errors.iter().map(ToString::to_string).chain(in_files).collect::<Vec<_>>().join("\n");
    let is_usage = errors.iter().any(|error| matches!(error.source, Source::Flag(_)));
    Err(if is_usage { Failure::Usage(lines) } else { Failure::Failed(lines) })
}

/// Reads the configuration, and returns all errors together with the values that have none.
pub(super) fn read_configuration(flags: &Flags) -> (Config, Vec<ConfigError>) {
    Config::read_partially(flags, &Environment::of_process(), File::find(flags.config.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_argument_is_a_time_or_a_duration_before_now() {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").expect("a time");
        let read = |text: &str| time_argument("--since", Some(text.to_owned()), now);
        assert!(read("24h").is_ok_and(|at| at.as_deref() == Some("2026-02-17T15:00:00.000Z")));
        assert!(
            read("2026-02-18T16:00:00+02:00")
                .is_ok_and(|at| at.as_deref() == Some("2026-02-18T14:00:00.000Z"))
        );
        assert!(matches!(read("yesterday"), Err(Failure::Usage(why)) if why.starts_with("--since: ")));
    }
}
