//! The table of all settings, and the search for a setting by its key.

use std::sync::LazyLock;
use std::time::Duration;

use super::{Config, ProviderConfig, parse};
use crate::channels::{self, ChannelSetting, SettingCheck};
use crate::domain::{nearest, parse_rate, similar};

/// Longest shutdown grace: a shutdown that takes longer hangs.
const GRACE_MAX: Duration = Duration::from_secs(3600);
/// Longest timeout of an attempt: a receiver that needs longer is unlikely to answer at all.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Maximum number of attempts in progress. Each holds a socket, and a process has some ten thousand at most.
const ATTEMPTS_MAX: usize = 10_000;
/// Maximum number of attempts in progress per destination, to protect receivers.
const ATTEMPTS_PER_DESTINATION_MAX: usize = 1_000;
/// Maximum number of polls in progress, or at once after a pause, for one provider.
const POLLS_MAX: u32 = 10_000;
/// Longest retention: the longest duration that can be written.
const RETENTION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// A setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Dotted key. Keys that exist for each provider contain `NAME`.
    pub key: &'static str,
    /// Default, as it would be written in a configuration; `None` if the setting is then not set.
    pub default: Option<&'static str>,
    /// Description in one line.
    pub doc: &'static str,
    /// Whether the value must never be shown.
    pub secret: bool,
    /// Whether the value is a URL that can contain a password.
    holds_password: bool,
    pub(super) store: Store,
}

/// Function that checks a value and stores it in the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    /// One value.
    One(fn(&mut Config, &str) -> Result<(), String>),
    /// A list.
    Many(fn(&mut Config, &[String]) -> Result<(), String>),
    /// One value of a provider.
    Provider(fn(&mut ProviderConfig, &str) -> Result<(), String>),
    /// The value or the list of a channel.
    Channel(SettingCheck),
}

/// The settings before those of the channels, in the order in which they are shown. `listen` precedes
/// `public_url`, whose default contains it.
const FIRST: &[Setting] = &[
    one("listen", |c, v| put(&mut c.listen, parse::address(v)))
        .default("127.0.0.1:8080")
        .doc("address and port of the API"),
    one("metrics_listen", |c, v| put(&mut c.metrics_listen, parse::address(v)))
        .doc("separate address and port for `/metrics`; without it, `/metrics` is on the API's port"),
    one("public_url", |c, v| put(&mut c.public_url, parse::base_url(v)))
        .default("http://{listen}")
        .doc("URL of the API as clients see it"),
    one("database_url", |c, v| put(&mut c.database, parse::database(v)))
        .default("sqlite://ringback.db")
        .with_password()
        .doc(
            "SQLite file (`sqlite://relative.db`, `sqlite:///abs/path.db`) or PostgreSQL database \
             (`postgres://user:password@host/name?sslmode=require`)",
        ),
    secret("api_key", |c, v| put(&mut c.api_key, parse::api_key(v))).doc(
        "admin key of app `default`, 16–256 printable ASCII characters; made at the first start if \
         not set",
    ),
    secret("signing_secret", |c, v| put(&mut c.signing_secret, parse::signing_secret(v))).doc(
        "signing secret of app `default`, `whsec_…`; made at the first start if not set; while it \
         is set, rotation answers 409",
    ),
    secret("encryption_key", |c, v| put(&mut c.encryption_keys, parse::encryption_keys(v))).doc(
        "keys that encrypt secrets in the database, each 32 bytes in base64, separated by commas; \
         the first encrypts, all decrypt",
    ),
    one("log", |c, v| put(&mut c.log, parse::log_filter(v)))
        .default("info")
        .doc("log level, or a filter such as `ringback=debug,warn`"),
    one("log_format", |c, v| put(&mut c.log_format, parse::log_format(v)))
        .default("text")
        .doc("format of the log: `text` or `json`"),
    one("shutdown_grace", |c, v| put(&mut c.shutdown_grace, parse::duration(v, GRACE_MAX)))
        .default("25s")
        .doc("maximum time that a shutdown waits for work in progress"),
    many("egress.allow", |c, v| put(&mut c.egress.allow, parse::allow(v)))
        .default("")
        .doc("private networks, addresses and host names that may be reached"),
    one("egress.allow_http", |c, v| put(&mut c.egress.allow_http, parse::boolean(v)))
        .default("false")
        .doc("permits plain http everywhere; to addresses in `egress.allow` it is always permitted"),
    secret("egress.proxy", |c, v| put(&mut c.egress.proxy, parse::proxy(v))).doc(
        "http or https proxy for all outgoing requests, `http://user:password@proxy:3128`; the \
         proxy must block private addresses itself",
    ),
    many("delivery.retry_schedule", |c, v| put(&mut c.delivery.retry_schedule, parse::schedule(v)))
        .default("5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h")
        .doc("waits before the retries of a delivery; each varies by ±20 %"),
    one("delivery.timeout", |c, v| put(&mut c.delivery.timeout, parse::duration(v, TIMEOUT_MAX)))
        .default("20s")
        .doc("timeout of an attempt of a webhook or a chat message, including the answer's body"),
    one("delivery.concurrency", |c, v| put(&mut c.delivery.concurrency, parse::integer(v, 1..=ATTEMPTS_MAX)))
        .default("512")
        .doc("maximum number of attempts in progress"),
    one("delivery.per_destination", |c, v| {
        put(&mut c.delivery.per_destination, parse::integer(v, 1..=ATTEMPTS_PER_DESTINATION_MAX))
    })
    .default("16")
    .doc("maximum number of attempts in progress per destination (app, scheme, host and port)"),
    one("retention.events", |c, v| put(&mut c.retention.events, parse::duration(v, RETENTION_MAX)))
        .default("30d")
        .doc("how long events, deliveries and attempts are kept"),
    one("retention.watches", |c, v| put(&mut c.retention.watches, parse::duration(v, RETENTION_MAX)))
        .default("30d")
        .doc("how long watches are kept after their end"),
    one("telemetry.otlp_endpoint", |c, v| put(&mut c.telemetry.otlp_endpoint, parse::base_url(v))).doc(
        "URL of the OpenTelemetry collector, `http://collector:4318`; `OTEL_EXPORTER_OTLP_ENDPOINT` \
         takes precedence",
    ),
    secret("telemetry.otlp_headers", |c, v| put(&mut c.telemetry.otlp_headers, parse::headers(v))).doc(
        "headers for the collector, `name=value,name=value`; `OTEL_EXPORTER_OTLP_HEADERS` takes \
         precedence",
    ),
    one("telemetry.service_name", |c, v| put(&mut c.telemetry.service_name, parse::service_name(v)))
        .default("ringback")
        .doc("name of this service in traces; `OTEL_SERVICE_NAME` takes precedence"),
];

/// The settings that follow those of the channels.
const LAST: &[Setting] = &[
    one("templates.path", |c, v| put(&mut c.templates_path, parse::path(v)))
        .doc("folder with templates that replace the built-in ones of the same name"),
    one("providers.path", |c, v| put(&mut c.providers_path, parse::path(v)))
        .doc("folder with additional provider definitions"),
    provider("providers.NAME.definition", |p, v| put(&mut p.definition, Ok(v.to_owned())))
        .doc("definition that `NAME` is an instance of, with settings, budget and health of its own"),
    provider("providers.NAME.api_key", |p, v| put(&mut p.api_key, parse::credential(v)))
        .secret()
        .doc("credential of the provider; for muvi, `MUVI_API_KEY` takes precedence"),
    provider("providers.NAME.shared", |p, v| put(&mut p.shared, parse::boolean(v)))
        .doc("whether apps without a credential of their own use `api_key`; true unless it is set"),
    provider("providers.NAME.base_url", |p, v| put(&mut p.base_url, parse::base_url(v)))
        .doc("base URL of the API; the credential is sent to its host"),
    provider("providers.NAME.token_url", |p, v| put(&mut p.token_url, parse::base_url(v)))
        .doc("URL at which the credential is exchanged for a token; it gets the credential"),
    provider("providers.NAME.hosts", |p, v| put(&mut p.hosts, Ok(v.to_owned())))
        .doc("hosts, separated by commas, that clients may choose and that get the credential, where the definition has a wildcard"),
    provider("providers.NAME.allow_cancel", |p, v| put(&mut p.allow_cancel, parse::boolean(v)))
        .default("false")
        .doc("permits clients to cancel jobs with the credential, where the definition says how"),
    provider("providers.NAME.first", |p, v| put(&mut p.first, parse::poll_interval(v)))
        .doc("time from the registration to the first poll, if nothing is known about the job"),
    provider("providers.NAME.min_interval", |p, v| put(&mut p.min_interval, parse::poll_interval(v)))
        .doc("shortest poll interval of a job"),
    provider("providers.NAME.max_interval", |p, v| put(&mut p.max_interval, parse::poll_interval(v)))
        .doc("longest poll interval of a job"),
    provider("providers.NAME.rate", |p, v| put(&mut p.rate, parse_rate(v)))
        .doc("maximum rate of polls: `10/s`, `600/m`, `3000/h` or `off`"),
    provider("providers.NAME.burst", |p, v| put(&mut p.burst, parse::integer(v, 1..=POLLS_MAX)))
        .doc("maximum number of polls at once after a pause"),
    provider("providers.NAME.concurrency", |p, v| put(&mut p.concurrency, parse::integer(v, 1..=POLLS_MAX)))
        .doc("maximum number of polls in progress"),
];

/// End of the name of a variable that holds the path of a file with the value, as in Docker's official images.
pub(super) const FILE_SUFFIX: &str = "_FILE";

/// Variables whose names others define, and the keys that they set.
pub(super) const FOREIGN_VARIABLES: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "telemetry.otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "telemetry.otlp_headers"),
    ("OTEL_SERVICE_NAME", "telemetry.service_name"),
    ("MUVI_API_KEY", "providers.muvi.api_key"),
];

type StoreOne = fn(&mut Config, &str) -> Result<(), String>;

const fn one(key: &'static str, store: StoreOne) -> Setting {
    Setting { key, default: None, doc: "", secret: false, holds_password: false, store: Store::One(store) }
}

const fn secret(key: &'static str, store: StoreOne) -> Setting {
    one(key, store).secret()
}

const fn many(key: &'static str, store: fn(&mut Config, &[String]) -> Result<(), String>) -> Setting {
    Setting { key, default: None, doc: "", secret: false, holds_password: false, store: Store::Many(store) }
}

const fn provider(key: &'static str, store: fn(&mut ProviderConfig, &str) -> Result<(), String>) -> Setting {
    Setting {
        key,
        default: None,
        doc: "",
        secret: false,
        holds_password: false,
        store: Store::Provider(store),
    }
}

/// Sets a value, or an optional one.
fn put<T, V: Into<T>>(place: &mut T, value: Result<V, String>) -> Result<(), String> {
    *place = value?.into();
    Ok(())
}

/// Returns all settings, in the order in which they are shown.
pub fn table() -> &'static [Setting] {
    static TABLE: LazyLock<Vec<Setting>> = LazyLock::new(|| {
        let channels = channels::TABLE.iter().flat_map(|spec| spec.settings).map(of_channel);
        FIRST.iter().copied().chain(channels).chain(LAST.iter().copied()).collect()
    });
    &TABLE
}

fn of_channel(setting: &'static ChannelSetting) -> Setting {
    let ChannelSetting { key, default, doc, check, holds_password } = *setting;
    let secret = matches!(check, SettingCheck::Credential(_));
    Setting { key, default, doc, secret, holds_password, store: Store::Channel(check) }
}

impl Setting {
    const fn default(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn doc(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }

    const fn secret(self) -> Self {
        Self { secret: true, ..self }
    }

    const fn with_password(self) -> Self {
        Self { holds_password: true, ..self }
    }

    /// Returns whether a file can hold the value: it is a secret, or can contain one. The variable of the file has
    /// [`FILE_SUFFIX`].
    pub fn has_file_variable(&self) -> bool {
        self.secret || self.holds_password
    }

    /// Returns whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self.store, Store::Many(_) | Store::Channel(SettingCheck::List(_)))
    }

    /// Returns the environment variable of the setting. Variables that exist for each provider contain `NAME`.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// Returns the key for the provider `name`.
    pub(super) fn key_for(&self, name: &str) -> String {
        self.key.replace("NAME", name)
    }
}

/// Returns the environment variable of a key: `RINGBACK_EGRESS__ALLOW` for `egress.allow`.
pub(super) fn variable(key: &str) -> String {
    let words: Vec<String> = key.split('.').map(|word| word.replace('-', "_").to_uppercase()).collect();
    format!("RINGBACK_{}", words.join("__"))
}

/// Returns the key of an environment variable without `RINGBACK_`: `egress.allow` for `EGRESS__ALLOW`. Names of
/// providers get hyphens: `openai-batch` for `OPENAI_BATCH`.
pub(super) fn key_of(name: &str) -> String {
    let mut words: Vec<String> = name.split("__").map(str::to_lowercase).collect();
    if words.len() > 2 && words[0] == "providers" {
        words[1] = words[1].replace('_', "-");
    }
    words.join(".")
}

/// Returns the setting of a key, and the name of the provider if the key contains one.
pub(super) fn find<'k>(path: &[&'k str]) -> Option<(&'static Setting, Option<&'k str>)> {
    let (key, name) = match path {
        ["providers", name, key] => (format!("providers.NAME.{key}"), Some(*name)),
        path => (path.join("."), None),
    };
    table().iter().find(|setting| setting.key == key).map(|setting| (setting, name))
}

/// Returns the known key that `key` probably means, and the number of edits between them. The name of a provider in
/// `key` is kept.
pub(super) fn similar_key(key: &str) -> Option<(usize, String)> {
    let words: Vec<&str> = key.split('.').collect();
    let name = match words.as_slice() {
        ["providers", name, _] => name,
        _ => "NAME",
    };
    let known: Vec<String> = table().iter().map(|setting| setting.key_for(name)).collect();
    let near = similar(key, known.iter().map(String::as_str))?;
    nearest(key, std::iter::once(near)).map(|(edits, near)| (edits, near.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credential_variable;

    #[test]
    fn a_key_and_its_variable_convert_into_each_other() {
        for setting in table() {
            let key = setting.key_for("openai-batch");
            let name = variable(&key);
            assert_eq!(key_of(name.trim_start_matches("RINGBACK_")), key);
            assert!(
                find(&key.split('.').collect::<Vec<_>>()).is_some_and(|(found, _)| found.key == setting.key)
            );
        }
        assert_eq!(variable("providers.openai-batch.api_key"), "RINGBACK_PROVIDERS__OPENAI_BATCH__API_KEY");
    }

    #[test]
    fn messages_name_the_variable_that_sets_a_providers_key() {
        assert_eq!(credential_variable("openai-batch"), variable("providers.openai-batch.api_key"));
        let muvi = credential_variable("muvi");
        assert!(FOREIGN_VARIABLES.contains(&(muvi.as_str(), "providers.muvi.api_key")), "{muvi}");
    }
}
