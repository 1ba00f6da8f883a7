//! The settings of the service as typed values.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::destinations::DestinationSection;
use super::source::{ConfigError, Source};
use crate::channels::SettingValues;
use crate::domain::{DispatchPolicy, Masked, Rate, similar};

/// Settings with a folder of files.
const FOLDERS: &[&str] = &["templates.path", "providers.path"];

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
    pub delivery: DispatchPolicy,
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
    /// Whether `providers_path` was read without an error. If not, other providers may be defined.
    pub providers_path_is_known: bool,
    /// Settings of providers, by name.
    pub providers: BTreeMap<String, ProviderConfig>,
    /// Saved destinations of the file.
    pub destinations: Vec<DestinationSection>,
    /// Warnings for the log, such as variables that resemble settings.
    pub warnings: Vec<String>,
    /// Every setting with its value and source, in the order of the table, then those of the providers by name.
    pub effective: Vec<Effective>,
    /// The first source that mentions a provider.
    pub(super) provider_sources: BTreeMap<String, Source>,
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
    /// The definition of which this provider is an instance; `None` if its own name is that of the definition.
    pub definition: Option<String>,
    /// The credential.
    pub api_key: Option<Masked>,
    /// Whether the credential is used for registrations that name none of their app.
    pub shared: Option<bool>,
    /// Base URL of the API: http(s), without a slash at its end.
    pub base_url: Option<String>,
    /// URL at which the credential is exchanged for a token.
    pub token_url: Option<String>,
    /// Hosts, separated by commas, that clients may choose and that get the credential.
    pub hosts: Option<String>,
    /// Whether jobs may be cancelled with the credential.
    pub allow_cancel: Option<bool>,
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
pub struct EncryptionKey(pub [u8; 32]);

impl fmt::Debug for EncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
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

impl Config {
    /// Returns a configuration without values, before the defaults of the table are set.
    pub(super) fn blank() -> Self {
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
            delivery: DispatchPolicy::default(),
            retention: Retention::default(),
            telemetry: Telemetry::default(),
            channels: SettingValues::default(),
            templates_path: None,
            providers_path: None,
            providers_path_is_known: true,
            providers: BTreeMap::new(),
            destinations: Vec::new(),
            warnings: Vec::new(),
            effective: Vec::new(),
            provider_sources: BTreeMap::new(),
        }
    }

    /// Returns an error for each section of an unknown provider. The providers are known only after the folder that
    /// this configuration names was read; `all_read` is false if a part of it could not be read.
    pub fn check_providers(&self, known: &[&str], all_read: bool) -> Vec<ConfigError> {
        let unknown = self.providers.keys().filter(|name| !known.contains(&name.as_str()));
        let error = |name: &String| {
            let near = similar(name, known.iter().copied()).map(|near| format!("the nearest is `{near}`"));
            let near = near.unwrap_or_else(|| "`ringback provider list` shows all".to_owned());
            let source = self.provider_sources.get(name).cloned().unwrap_or(Source::Default);
            let wrong = if all_read && self.providers_path_is_known {
                format!("there is no provider `{name}`")
            } else {
                format!("no definition that could be read is about a provider `{name}`")
            };
            ConfigError { source, message: format!("{wrong}; {near}") }
        };
        unknown.map(error).collect()
    }

    /// Returns an error in a folder that a setting names, `templates.path: …`, with the place of the setting. Other
    /// errors stay as they are: they begin with the name of a file.
    pub fn located(&self, error: String) -> String {
        let of_folder = error.split_once(": ").filter(|(key, _)| FOLDERS.contains(key));
        match of_folder.map(|(key, message)| (key, self.source(key), message)) {
            None | Some((_, Source::Default, _)) => error,
            Some((key, source, message)) => ConfigError::about(key, source, message.to_owned()).to_string(),
        }
    }

    /// Returns the source of the value of `key`.
    pub fn source(&self, key: &str) -> Source {
        let set = self.effective.iter().find(|one| one.key == key);
        set.map_or(Source::Default, |one| one.source.clone())
    }

    /// Returns whether a source other than the default sets `key`.
    pub fn is_set(&self, key: &str) -> bool {
        self.source(key) != Source::Default
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::{Environment, File, Flags};

    fn from_file(text: &str) -> Result<Config, Vec<String>> {
        let file = File { path: "ringback.toml".into(), text: text.into() };
        let read = Config::read(&Flags::default(), &Environment::default(), Some(file));
        read.map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn a_key_that_occurs_twice_is_named() {
        let errors =
            from_file("log = 'info'\n[egress]\nallow = ['a']\nallow = ['b']\n").expect_err("an error");
        assert_eq!(errors, ["ringback.toml:4: the key `allow` occurs twice; remove one"]);
    }

    #[test]
    fn two_listeners_cannot_have_one_address() {
        let text = "listen = '127.0.0.1:9000'\nmetrics_listen = '127.0.0.1:9000'\n";
        let errors = from_file(text).expect_err("an error");
        let wrong = "127.0.0.1:9000 is also the address of `listen`; choose another port";
        assert_eq!(errors, [format!("ringback.toml:2: `metrics_listen`: {wrong}")]);
        assert!(from_file(&text.replace("9000", "0")).is_ok());
    }
}
