//! Parts that several commands share: values of arguments, the configuration that flags select, and the signals that
//! end a command.

use std::collections::BTreeMap;
use std::path::Path;

use super::output::{Failure, clean};
use crate::app::{HostEnvironment, configuration_errors, destination_errors};
use crate::config::{Config, ConfigError, Environment, File, Flags, Source, read_secret};
use crate::domain::{Masked, TimeError, Timestamp, parse_any_duration, parse_duration};
use crate::named_file;

/// Parses `name=value`.
pub(super) fn parameter(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(name, _)| !name.is_empty());
    let pair = pair.map(|(name, value)| (name.to_owned(), value.to_owned()));
    pair.ok_or_else(|| "write it as name=value".to_owned())
}

/// Parses `name:value` of a header. The name is returned in lower case.
pub(super) fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once(':').ok_or("write it as NAME:VALUE")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// Returns pairs by their names, each of which was given once. `flag` gives them; `is_same` compares two names.
pub(super) fn by_name<'p>(
    flag: &str,
    pairs: &'p [(String, String)],
    is_same: fn(&str, &str) -> bool,
) -> Result<BTreeMap<&'p str, &'p str>, Failure> {
    for (n, (name, _)) in pairs.iter().enumerate() {
        if pairs[..n].iter().any(|(known, _)| is_same(known, name)) {
            return Err(Failure::Usage(format!("{flag}: `{}` is given twice; give it once", clean(name))));
        }
    }
    Ok(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect())
}

/// Reads a secret from a file. Secrets are no arguments, because every user of a machine can see the command lines of
/// its processes.
pub(super) fn secret_file(path: &str) -> Result<Masked, String> {
    if path == "-" {
        return Err("stdin cannot be used here; write the path of a file".to_owned());
    }
    read_secret(|most| named_file::read_once(Path::new(path), most)).map(Masked::new)
}

/// Reads a secret from a file, or from stdin if the path is `-`.
pub(super) fn secret_file_or_stdin(path: &str) -> Result<Masked, String> {
    if path == "-" {
        return read_secret(|most| named_file::read_up_to(std::io::stdin(), most)).map(Masked::new);
    }
    secret_file(path)
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
    match Timestamp::read(&text) {
        Ok(at) => return Ok(Some(at.to_string())),
        Err(TimeError::Range) => {
            return Err(Failure::Usage(format!("{flag}: the time must be {}", Timestamp::BOUNDS)));
        }
        Err(TimeError::Form) => {}
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

/// Reads the configuration and the definitions and templates that it names, and returns all errors of both, together
/// with those of its destinations. A start continues if only definitions have mistakes. It checks the destinations when it
/// knows the apps, unless there are other errors to which theirs can be added.
pub(super) async fn complete_configuration(flags: &Flags, is_start: bool) -> Result<Config, Failure> {
    let (config, errors) = read_configuration(flags);
    let mut lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.extend(configuration_errors(&config, is_start));
    if !config.destinations.is_empty() && (!is_start || !lines.is_empty()) {
        let checked = match HostEnvironment::system() {
            Ok(environment) => destination_errors(&config, environment).await,
            Err(error) => Err(error),
        };
        match checked {
            Ok(errors) => lines.extend(errors.iter().map(ToString::to_string)),
            Err(error) => lines.push(format!("{error:#}")),
        }
    }
    if lines.is_empty() {
        return Ok(config);
    }
    let is_usage = errors.iter().any(|error| matches!(error.source, Source::Flag(_)));
    let lines = lines.join("\n");
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
    fn a_name_that_is_given_twice_is_refused() {
        let pairs = |names: &[&str]| -> Vec<(String, String)> {
            names.iter().map(|name| ((*name).to_owned(), "1".to_owned())).collect()
        };
        let (distinct, twice) = (pairs(&["x-a", "x-b"]), pairs(&["x-a", "X-A"]));
        let headers = by_name("--header", &distinct, str::eq_ignore_ascii_case);
        assert!(headers.is_ok_and(|found| found.len() == 2));
        let parameters = by_name("--param", &twice, |one, other| one == other);
        assert!(parameters.is_ok_and(|found| found.len() == 2), "they differ by their case");
        let refused = by_name("--header", &twice, str::eq_ignore_ascii_case);
        assert!(
            matches!(refused, Err(Failure::Usage(why)) if why.starts_with("--header: `X-A` is given twice"))
        );
    }

    #[test]
    fn a_secret_is_the_single_line_of_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("secret");
        let path = path.to_str().expect("UTF-8");
        std::fs::write(path, "whsec_hush\n").expect("written");
        assert_eq!(secret_file(path).expect("read").reveal(), "whsec_hush");
        assert_eq!(secret_file_or_stdin(path).expect("read").reveal(), "whsec_hush");
        std::fs::write(path, "\n").expect("written");
        assert!(secret_file(path).is_err_and(|why| why.contains("is empty")));
        assert!(secret_file("/nowhere/hush").is_err_and(|why| !why.contains("hush")));
        assert!(secret_file("-").is_err());
    }

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
