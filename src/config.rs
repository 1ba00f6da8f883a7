//! The configuration: the only reader of flags, of the environment and of the configuration file.
//!
//! Defaults < `ringback.toml` (or `--config FILE`) < environment < flags. One table
//! ([`table`]) says what can be set; reading, `ringback config`, suggestions and the README's table
//! come from it. Every mistake is collected, so that one start is enough to see them all. Messages
//! never repeat a secret.
//!
//! What it deliberately does not do: know which providers exist (their definitions may come from
//! `[providers] path`; see [`Config::check_providers`]), open the database, or touch the network.

mod access;
mod parse;
mod read;
mod settings;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::domain::{Masked, Rate};
pub use access::Access;
pub use settings::{Setting, table};

use crate::channels::SettingValues;

/// The file that is read when `--config` names none, if it is there.
const DEFAULT_FILE: &str = "ringback.toml";

/// A configuration file is a page or two; what is larger is something else.
const FILE_MAX: u64 = 1024 * 1024;

/// What the service runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the API listens.
    pub listen: SocketAddr,
    /// Where the metrics are, if not there.
    pub metrics_listen: Option<SocketAddr>,
    /// How the outside reaches us: an http(s) URL without a slash at its end.
    pub public_url: String,
    /// Where the facts are kept.
    pub database: Database,
    /// The bootstrap admin key of app `default`.
    pub api_key: Option<Masked>,
    /// The signing secret of app `default`, if it is not to be generated.
    pub signing_secret: Option<Masked>,
    /// The keys that open secrets at rest; the first one seals.
    pub encryption_keys: Vec<EncryptionKey>,
    /// What is logged, as a filter of `tracing`.
    pub log: String,
    /// How it is logged.
    pub log_format: LogFormat,
    /// How long a stop waits for what is in flight.
    pub shutdown_grace: Duration,
    /// What may be reached although it is private.
    pub egress: Egress,
    /// How deliveries are sent.
    pub delivery: Delivery,
    /// How long what has ended is kept.
    pub retention: Retention,
    /// Who is told of traces.
    pub telemetry: Telemetry,
    /// Settings of the notification channels.
    pub channels: SettingValues,
    /// A folder of templates in the place of the embedded ones.
    pub templates_path: Option<PathBuf>,
    /// A folder of further provider definitions.
    pub providers_path: Option<PathBuf>,
    /// What is set for single providers, by their names.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Sentences for the log: variables that look like ours and are not.
    pub warnings: Vec<String>,
    effective: Vec<Effective>,
    /// Who first said something of a provider.
    named: BTreeMap<String, Origin>,
}

/// Where the facts are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// In a file.
    Sqlite(PathBuf),
    /// In a database of a server, by its URL, which may hold a password.
    Postgres(Masked),
}

/// `[egress]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// CIDRs, addresses and host names (in lower case) that may be reached although they are private.
    pub allow: Vec<String>,
    /// Whether plain http is allowed everywhere.
    pub allow_http: bool,
    /// Through whom everything goes: a URL, which may hold a user's name and password.
    pub proxy: Option<Masked>,
}

/// `[delivery]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// The waits after each failed try.
    pub retry_schedule: Vec<Duration>,
    /// The most that one exchange may take, body included.
    pub timeout: Duration,
    /// Sends in flight.
    pub concurrency: usize,
    /// Sends in flight towards one destination.
    pub per_destination: usize,
}

/// `[retention]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long events are kept, with their deliveries and attempts.
    pub events: Duration,
    /// How long watches are kept after their end.
    pub watches: Duration,
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector's base URL, without a slash at its end; `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// Headers for the collector, mostly a key.
    pub otlp_headers: Vec<(String, Masked)>,
    /// What the traces call this service.
    pub service_name: String,
}

/// `[providers.NAME]`: what is `None` is as the provider's definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderConfig {
    /// The credential.
    pub api_key: Option<Masked>,
    /// Where the API is: an http(s) URL without a slash at its end.
    pub base_url: Option<String>,
    /// From registration to the first look while nothing is known.
    pub first: Option<Duration>,
    /// The least gap between looks at one job.
    pub min_interval: Option<Duration>,
    /// The greatest gap between looks at one job.
    pub max_interval: Option<Duration>,
    /// How often the provider may be asked.
    pub rate: Option<Rate>,
    /// How many looks may be sent at once after a pause.
    pub burst: Option<u32>,
    /// PollStats in flight.
    pub concurrency: Option<u32>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// A key that seals secrets at rest, and is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// Hides `bytes`.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key itself.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of the file.
    File {
        /// The file, as it was named.
        path: String,
        /// Counted from 1.
        line: usize,
    },
    /// A variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Something that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong and what to do, for people.
    pub what: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.what)
    }
}

/// A key with the value that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// The dotted key.
    pub key: String,
    /// As it would be written; secrets as `***`; `None` where nothing is set.
    pub value: Option<String>,
    /// Who said so.
    pub origin: Origin,
}

/// The flags that take part in the configuration.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// The configuration file [default: ringback.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen, as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Where the facts are kept
    #[arg(
        long,
        value_name = "URL",
        help = "The database, as sqlite:///abs/path.db or postgres://user@host/name"
    )]
    pub database_url: Option<String>,
    /// What to log, as info or ringback=debug,warn
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How to log: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// The environment.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// This process's own. A value that is not UTF-8 is read with replacement characters, which the
    /// setting's own check then refuses or shows.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// A variable; an empty one is as if unset.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A configuration file that was read and not yet understood.
#[derive(Clone, Debug)]
pub struct File {
    /// How messages name it.
    pub path: String,
    /// What stands in it.
    pub text: String,
}

impl File {
    /// Reads the file that was asked for, or else `ringback.toml` if it is there.
    pub fn find(asked: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        let path = asked.unwrap_or(Path::new(DEFAULT_FILE));
        let name = path.display().to_string();
        let mut text = String::new();
        let read = fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
        let what = match read {
            Ok(_) if text.len() as u64 <= FILE_MAX => return Ok(Some(Self { path: name, text })),
            Ok(_) => format!("{name} is larger than 1 MiB"),
            Err(error) if error.kind() == io::ErrorKind::NotFound && asked.is_none() => return Ok(None),
            Err(error) => format!("{name} cannot be read: {error}"),
        };
        let default = || Origin::File { path: name.clone(), line: 1 };
        Err(ConfigError { origin: asked.map_or_else(default, |_| Origin::Flag("--config")), what })
    }
}

impl Default for Config {
    /// What holds where nobody sets anything.
    fn default() -> Self {
        read::defaults()
    }
}

impl Config {
    /// Before the table's defaults are filled in.
    fn blank() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            metrics_listen: None,
            public_url: String::new(),
            database: Database::Sqlite(PathBuf::new()),
            api_key: None,
            signing_secret: None,
            encryption_keys: Vec::new(),
            log: String::new(),
            log_format: LogFormat::Text,
            shutdown_grace: Duration::ZERO,
            egress: Egress::default(),
            delivery: Delivery::default(),
            retention: Retention::default(),
            telemetry: Telemetry::default(),
            channels: SettingValues::default(),
            templates_path: None,
            providers_path: None,
            providers: BTreeMap::new(),
            warnings: Vec::new(),
            effective: Vec::new(),
            named: BTreeMap::new(),
        }
    }

    /// Reads everything and finds every mistake.
    pub fn read(flags: &Flags, env: &Environment, file: Option<&File>) -> Result<Self, Vec<ConfigError>> {
        let (config, mistakes) = read::read(flags, env, Ok(file));
        if mistakes.is_empty() { Ok(config) } else { Err(mistakes) }
    }

    /// Reads what can be read, and finds every mistake: for whoever looks for more of them in what the
    /// configuration names. What has a mistake is as if nobody had set it.
    pub fn draft(
        flags: &Flags,
        env: &Environment,
        file: &Result<Option<File>, ConfigError>,
    ) -> (Self, Vec<ConfigError>) {
        read::read(flags, env, file.as_ref().map(Option::as_ref).map_err(Clone::clone))
    }

    /// Finds sections of providers that do not exist. A step of its own: which ones exist is known
    /// only once the folder that this configuration names has been read.
    pub fn check_providers(&self, known: &[&str]) -> Vec<ConfigError> {
        let unknown = self.providers.keys().filter(|name| !known.contains(&name.as_str()));
        unknown
            .map(|name| {
                let what = match crate::domain::nearest(name, known.iter().copied()) {
                    Some((_, near)) => format!("no provider is called `{name}`; the nearest is `{near}`"),
                    None => format!("no provider is called `{name}`; none is defined"),
                };
                ConfigError { origin: self.named.get(name).cloned().unwrap_or(Origin::Default), what }
            })
            .collect()
    }

    /// Every key with its value and origin, in the order of the table, then the providers' by name.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// Whether somebody set `key`.
    pub fn is_set(&self, key: &str) -> bool {
        self.effective.iter().any(|one| one.key == key && one.origin != Origin::Default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_asked_for_must_be_there_and_be_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.toml");
        assert!(File::find(Some(&path)).is_err_and(|mistake| mistake.to_string().starts_with("--config: ")));
        fs::write(&path, "log = 'warn'").expect("written");
        assert!(
            File::find(Some(&path)).is_ok_and(|file| file.is_some_and(|file| file.text == "log = 'warn'"))
        );
        fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).expect("written");
        assert!(File::find(Some(&path)).is_err_and(|mistake| mistake.what.contains("larger")));
    }
}
