//! Configuration. This module is the only reader of flags, the environment and the configuration file.
//!
//! - Precedence: defaults < `ringback.toml` (or `--config FILE`) < environment < flags.
//! - One table ([`table`]) lists all settings. Reading, `ringback config`, suggestions and the table in
//!   docs/CONFIGURATION.md come from it.
//! - All errors are collected, so that one start shows every error. Messages never repeat a secret.
//!
//! The module does not know which providers exist, because definitions can come from `[providers] path` (see
//! [`Config::check_providers`]). It does not open the database and does not use the network.

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

/// The file that is read without `--config`, if it exists.
const DEFAULT_FILE: &str = "ringback.toml";

/// Maximum size of the configuration file, in bytes.
const FILE_MAX: u64 = 1024 * 1024;

/// Settings of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// Address and port of the API.
    pub listen: SocketAddr,
    /// Separate address and port of the metrics.
    pub metrics_listen: Option<SocketAddr>,
    /// URL of the API as clients see it: http(s), without a slash at its end.
    pub public_url: String,
    /// The database.
    pub database: Database,
    /// Admin key of app `default`.
    pub api_key: Option<Masked>,
    /// Signing secret of app `default`; `None` if it is in the database.
    pub signing_secret: Option<Masked>,
    /// Keys that decrypt secrets in the database; the first one encrypts.
    pub encryption_keys: Vec<EncryptionKey>,
    /// Log filter of `tracing`.
    pub log: String,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Maximum time that a shutdown waits for work in progress.
    pub shutdown_grace: Duration,
    /// Restrictions of outgoing requests.
    pub egress: Egress,
    /// Limits of deliveries.
    pub delivery: Delivery,
    /// Retention of data.
    pub retention: Retention,
    /// Export of traces.
    pub telemetry: Telemetry,
    /// Settings of the notification channels.
    pub channels: SettingValues,
    /// Folder with templates that replace built-in ones.
    pub templates_path: Option<PathBuf>,
    /// Folder with additional provider definitions.
    pub providers_path: Option<PathBuf>,
    /// Settings of providers, by name.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Warnings for the log, such as variables that resemble settings.
    pub warnings: Vec<String>,
    effective: Vec<Effective>,
    /// The first source that mentions a provider.
    provider_sources: BTreeMap<String, Source>,
}

/// Location of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    /// SQLite file.
    Sqlite(PathBuf),
    /// URL of a PostgreSQL database, which can hold a password.
    Postgres(Masked),
}

/// `[egress]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Egress {
    /// Private networks (CIDR), addresses and host names (in lower case) that may be reached.
    pub allow: Vec<String>,
    /// Whether plain http is permitted everywhere.
    pub allow_http: bool,
    /// URL of the proxy for all outgoing requests, which can hold a user name and a password.
    pub proxy: Option<Masked>,
}

/// `[delivery]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Waits before the retries of a delivery.
    pub retry_schedule: Vec<Duration>,
    /// Timeout of an attempt, including the answer's body.
    pub timeout: Duration,
    /// Maximum number of attempts in progress.
    pub concurrency: usize,
    /// Maximum number of attempts in progress per destination.
    pub per_destination: usize,
}

/// `[retention]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// How long events, deliveries and attempts are kept.
    pub events: Duration,
    /// How long watches are kept after their end.
    pub watches: Duration,
}

/// `[telemetry]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Base URL of the collector, without a slash at its end; `None` if no traces are exported.
    pub otlp_endpoint: Option<String>,
    /// Headers for the collector, usually a key.
    pub otlp_headers: Vec<(String, Masked)>,
    /// Name of this service in traces.
    pub service_name: String,
}

/// `[providers.NAME]`. `None` means that the provider's definition decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderConfig {
    /// The credential.
    pub api_key: Option<Masked>,
    /// Base URL of the API: http(s), without a slash at its end.
    pub base_url: Option<String>,
    /// Time from the registration to the first poll, if nothing is known about the job.
    pub first: Option<Duration>,
    /// Shortest poll interval of a job.
    pub min_interval: Option<Duration>,
    /// Longest poll interval of a job.
    pub max_interval: Option<Duration>,
    /// Maximum rate of polls.
    pub rate: Option<Rate>,
    /// Maximum number of polls at once after a pause.
    pub burst: Option<u32>,
    /// Maximum number of polls in progress.
    pub concurrency: Option<u32>,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Key that encrypts secrets in the database. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct EncryptionKey([u8; 32]);

impl EncryptionKey {
    /// Wraps the bytes of a key.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the key.
    pub fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Source of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The default.
    Default,
    /// A line of the configuration file.
    File {
        /// Path as the user wrote it.
        path: String,
        /// Number of the line, from 1.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A command-line flag.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// An error in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Source of the value.
    pub source: Source,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.source, self.message)
    }
}

/// A setting with its effective value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Dotted key.
    pub key: String,
    /// The value as it would be written, secrets as `***`; `None` if the setting is not set.
    pub value: Option<String>,
    /// Source of the value.
    pub source: Source,
}

/// Command-line flags that are settings.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file [default: ringback.toml if it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on, such as 127.0.0.1:8080
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Database, such as <sqlite:///abs/path.db> or <postgres://user@host/name>
    #[arg(
        long,
        value_name = "URL",
        help = "Database, such as sqlite:///abs/path.db or postgres://user@host/name"
    )]
    pub database_url: Option<String>,
    /// Log level or filter, such as info or ringback=debug,warn
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// Log format: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// Environment variables.
#[derive(Clone, Debug, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Reads the variables of this process. A value that is not UTF-8 is read with replacement characters, which the
    /// check of the setting rejects or shows.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn of_process() -> Self {
        std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect()
    }

    /// Returns a variable; `None` if it is not set or empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}

/// A configuration file before it is parsed.
#[derive(Clone, Debug)]
pub struct File {
    /// Path, as messages show it.
    pub path: String,
    /// Content.
    pub text: String,
}

impl File {
    /// Reads the requested file, or else `ringback.toml` if it exists.
    pub fn find(requested: Option<&Path>) -> Result<Option<Self>, ConfigError> {
        let path = requested.unwrap_or(Path::new(DEFAULT_FILE));
        let name = path.display().to_string();
        let mut text = String::new();
        let read = fs::File::open(path).and_then(|file| file.take(FILE_MAX + 1).read_to_string(&mut text));
        let message = match read {
            Ok(_) if text.len() as u64 <= FILE_MAX => return Ok(Some(Self { path: name, text })),
            Ok(_) => format!("{name} is larger than 1 MiB; is it the right file?"),
            Err(error) if error.kind() == io::ErrorKind::NotFound && requested.is_none() => return Ok(None),
            Err(error) => format!("{name} cannot be read: {error}"),
        };
        let default = || Source::File { path: name.clone(), line: 1 };
        Err(ConfigError { source: requested.map_or_else(default, |_| Source::Flag("--config")), message })
    }
}

impl Default for Config {
    /// Returns the default settings.
    fn default() -> Self {
        read::defaults()
    }
}

impl Config {
    /// Returns a configuration without values, before the defaults of the table are set.
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
            provider_sources: BTreeMap::new(),
        }
    }

    /// Reads all sources. Returns every error.
    pub fn read(flags: &Flags, env: &Environment, file: Option<&File>) -> Result<Self, Vec<ConfigError>> {
        let (config, errors) = read::read(flags, env, Ok(file));
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// Reads all sources and returns every error together with the values that have none, so that the caller can
    /// check files that the configuration names. A value with an error is treated as not set.
    pub fn read_partially(
        flags: &Flags,
        env: &Environment,
        file: &Result<Option<File>, ConfigError>,
    ) -> (Self, Vec<ConfigError>) {
        read::read(flags, env, file.as_ref().map(Option::as_ref).map_err(Clone::clone))
    }

    /// Returns an error for each section of an unknown provider. The providers are known only after the folder that
    /// this configuration names was read.
    pub fn check_providers(&self, known: &[&str]) -> Vec<ConfigError> {
        let unknown = self.providers.keys().filter(|name| !known.contains(&name.as_str()));
        unknown
            .map(|name| {
                let message = match crate::domain::nearest(name, known.iter().copied()) {
                    Some((_, near)) => format!("there is no provider `{name}`; the nearest is `{near}`"),
                    None => format!("there is no provider `{name}`; none is defined"),
                };
                ConfigError {
                    source: self.provider_sources.get(name).cloned().unwrap_or(Source::Default),
                    message,
                }
            })
            .collect()
    }

    /// Returns every setting with its value and source, in the order of the table, then those of the providers by name.
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// Returns whether a source other than the default sets `key`.
    pub fn is_set(&self, key: &str) -> bool {
        self.effective.iter().any(|one| one.key == key && one.source != Source::Default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requested_file_must_exist_and_be_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("r.toml");
        assert!(File::find(Some(&path)).is_err_and(|error| error.to_string().starts_with("--config: ")));
        fs::write(&path, "log = 'warn'").expect("written");
        assert!(
            File::find(Some(&path)).is_ok_and(|file| file.is_some_and(|file| file.text == "log = 'warn'"))
        );
        fs::write(&path, vec![b'#'; 1024 * 1024 + 1]).expect("written");
        assert!(File::find(Some(&path)).is_err_and(|error| error.message.contains("larger")));
    }
}
