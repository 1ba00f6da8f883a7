//! The table of everything that can be set, and how a word is matched against it.

use std::sync::LazyLock;
use std::time::Duration;

use super::{Config, ProviderConfig, parse};
use crate::channels::{self, ChannelSetting, SettingCheck};
use crate::domain::{nearest, parse_rate};

/// A stop that takes longer than this is a stop that hangs.
const GRACE_MAX: Duration = Duration::from_secs(3600);
/// A receiver that needs longer than this for a 2xx is not going to send one.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// Sends in flight each hold a socket; a process has some tens of thousands of those at most.
const SENDS_MAX: usize = 10_000;
/// Sends that one receiver may be made to bear at once.
const SENDS_EACH_MAX: usize = 1_000;
/// PollStats in flight, or sent at once after a pause, for one provider.
const LOOKS_MAX: u32 = 10_000;
/// As long as a duration can be.
const EVER: Duration = Duration::from_secs(100 * 366 * 86_400);

/// One thing that can be set.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The dotted key; a key of each provider contains `NAME`.
    pub key: &'static str,
    /// What holds where nobody says anything, as one would write it; `None`: nothing.
    pub default: Option<&'static str>,
    /// One line for people.
    pub doc: &'static str,
    /// Whether its value is never shown.
    pub secret: bool,
    pub(super) store: Store,
}

/// Checks a value and puts it where it belongs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Store {
    /// One value.
    One(fn(&mut Config, &str) -> Result<(), String>),
    /// A list.
    Many(fn(&mut Config, &[String]) -> Result<(), String>),
    /// One value of one provider.
    Provider(fn(&mut ProviderConfig, &str) -> Result<(), String>),
    /// One value of a channel.
    ChannelOne(SettingCheck),
    /// A list of a channel.
    ChannelMany(fn(&[String]) -> Result<(), String>),
}

impl Store {
    /// Returns whether the value is a list.
    pub(super) fn is_list(&self) -> bool {
        matches!(self, Self::Many(_) | Self::ChannelMany(_))
    }
}

/// Everything that can be set, in the order in which it is shown. `listen` stands before
/// `public_url`, whose default mentions it.
const FIRST: &[Setting] = &[
    one("listen", Some("127.0.0.1:8080"), "where the API listens", |c, v| {
        put(&mut c.listen, parse::address(v))
    }),
    one("metrics_listen", None, "where `/metrics` listens, instead of on the main port", |c, v| {
        put(&mut c.metrics_listen, parse::address(v).map(Some))
    }),
    one("public_url", Some("http://{listen}"), "how the outside reaches the API", |c, v| {
        put(&mut c.public_url, parse::base_url(v))
    }),
    one(
        "database_url",
        Some("sqlite://ringback.db"),
        "where the facts are kept; `sqlite:///abs/path.db` is absolute, \
         `postgres://user:password@host/name?sslmode=require` is on a server",
        |c, v| put(&mut c.database, parse::database(v)),
    ),
    secret(
        "api_key",
        "the bootstrap admin key of app `default`: 16–256 printable ASCII characters",
        |c, v| put(&mut c.api_key, parse::api_key(v).map(Some)),
    ),
    secret(
        "signing_secret",
        "`whsec_…` of app `default`; generated where none is given; while set, rotating answers 409",
        |c, v| put(&mut c.signing_secret, parse::signing_secret(v).map(Some)),
    ),
    secret(
        "encryption_key",
        "secrets at rest are sealed with it: 32 bytes, base64; of several, separated by commas, the first seals and all open",
        |c, v| put(&mut c.encryption_keys, parse::encryption_keys(v)),
    ),
    one("log", Some("info"), "what is logged: a level, or a filter as `ringback=debug,warn`", |c, v| {
        put(&mut c.log, parse::log_filter(v))
    }),
    one("log_format", Some("text"), "how it is logged: `text` or `json`", |c, v| {
        put(&mut c.log_format, parse::log_format(v))
    }),
    one("shutdown_grace", Some("25s"), "how long a stop waits for what is in flight", |c, v| {
        put(&mut c.shutdown_grace, parse::duration(v, GRACE_MAX))
    }),
    many(
        "egress.allow",
        "",
        "CIDRs, addresses and host names that callbacks may reach although they are private",
        |c, v| put(&mut c.egress.allow, parse::allow(v)),
    ),
    one(
        "egress.allow_http",
        Some("false"),
        "plain http everywhere; towards an address in `allow` it always is allowed",
        |c, v| put(&mut c.egress.allow_http, parse::yes_or_no(v)),
    ),
    secret(
        "egress.proxy",
        "an http or https proxy for all that is sent, as `http://user:password@proxy:3128`; it must guard",
        |c, v| put(&mut c.egress.proxy, parse::proxy(v).map(Some)),
    ),
    many(
        "delivery.retry_schedule",
        "5s, 5m, 30m, 2h, 5h, 10h, 14h, 20h, 24h",
        "the waits after each failed try; jitter ±20 %",
        |c, v| put(&mut c.delivery.retry_schedule, parse::schedule(v)),
    ),
    one("delivery.timeout", Some("20s"), "the whole exchange, body included", |c, v| {
        put(&mut c.delivery.timeout, parse::duration(v, TIMEOUT_MAX))
    }),
    one("delivery.concurrency", Some("512"), "sends in flight", |c, v| {
        put(&mut c.delivery.concurrency, parse::whole(v, 1..=SENDS_MAX))
    }),
    one("delivery.per_destination", Some("16"), "sends in flight towards one destination", |c, v| {
        put(&mut c.delivery.per_destination, parse::whole(v, 1..=SENDS_EACH_MAX))
    }),
    one(
        "retention.events",
        Some("30d"),
        "how long events stay, with their deliveries and attempts",
        |c, v| put(&mut c.retention.events, parse::duration(v, EVER)),
    ),
    one("retention.watches", Some("30d"), "how long watches stay after their end", |c, v| {
        put(&mut c.retention.watches, parse::duration(v, EVER))
    }),
    one(
        "telemetry.otlp_endpoint",
        None,
        "the trace collector, as `http://collector:4318`; also `OTEL_EXPORTER_OTLP_ENDPOINT`, which goes first",
        |c, v| put(&mut c.telemetry.otlp_endpoint, parse::base_url(v).map(Some)),
    ),
    secret(
        "telemetry.otlp_headers",
        "headers for it, as `name=value,name=value`; also `OTEL_EXPORTER_OTLP_HEADERS`, which goes first",
        |c, v| put(&mut c.telemetry.otlp_headers, parse::headers(v)),
    ),
    one(
        "telemetry.service_name",
        Some("ringback"),
        "what the traces call this service; also `OTEL_SERVICE_NAME`, which goes first",
        |c, v| put(&mut c.telemetry.service_name, parse::service_name(v)),
    ),
];

/// The settings that follow those of the channels.
const LAST: &[Setting] = &[
    one(
        "templates.path",
        None,
        "a folder whose templates replace the embedded ones of the same name",
        |c, v| put(&mut c.templates_path, parse::path(v).map(Some)),
    ),
    one("providers.path", None, "a folder of further provider definitions", |c, v| {
        put(&mut c.providers_path, parse::path(v).map(Some))
    }),
    Setting {
        secret: true,
        ..provider(
            "providers.NAME.api_key",
            "the credential; for muvi also `MUVI_API_KEY`, which goes first",
            |p, v| put(&mut p.api_key, parse::credential(v).map(Some)),
        )
    },
    provider(
        "providers.NAME.base_url",
        "instead of the definition's; its host gets the credential",
        |p, v| put(&mut p.base_url, parse::base_url(v).map(Some)),
    ),
    provider(
        "providers.NAME.first",
        "from registration to the first look while nothing is known of the job",
        |p, v| put(&mut p.first, parse::gap(v).map(Some)),
    ),
    provider("providers.NAME.min_interval", "the least gap between looks at one job", |p, v| {
        put(&mut p.min_interval, parse::gap(v).map(Some))
    }),
    provider("providers.NAME.max_interval", "the greatest gap between looks at one job", |p, v| {
        put(&mut p.max_interval, parse::gap(v).map(Some))
    }),
    provider(
        "providers.NAME.rate",
        "looks in a second, a minute or an hour: `10/s`, `600/m`, `3000/h` or `off`",
        |p, v| put(&mut p.rate, parse_rate(v).map(Some)),
    ),
    provider("providers.NAME.burst", "looks that may be sent at once after a pause", |p, v| {
        put(&mut p.burst, parse::whole(v, 1..=LOOKS_MAX).map(Some))
    }),
    provider("providers.NAME.concurrency", "looks in flight", |p, v| {
        put(&mut p.concurrency, parse::whole(v, 1..=LOOKS_MAX).map(Some))
    }),
];

/// The variables of `[telemetry]` that are not ours to name, and the keys that they set.
pub(super) const OTEL_VARIABLES: &[(&str, &str)] = &[
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "otlp_endpoint"),
    ("OTEL_EXPORTER_OTLP_HEADERS", "otlp_headers"),
    ("OTEL_SERVICE_NAME", "service_name"),
];

type StoreOne = fn(&mut Config, &str) -> Result<(), String>;

const fn one(
    key: &'static str,
    default: Option<&'static str>,
    doc: &'static str,
    store: StoreOne,
) -> Setting {
    Setting { key, default, doc, secret: false, store: Store::One(store) }
}

const fn secret(key: &'static str, doc: &'static str, store: StoreOne) -> Setting {
    Setting { key, default: None, doc, secret: true, store: Store::One(store) }
}

const fn many(
    key: &'static str,
    default: &'static str,
    doc: &'static str,
    store: fn(&mut Config, &[String]) -> Result<(), String>,
) -> Setting {
    Setting { key, default: Some(default), doc, secret: false, store: Store::Many(store) }
}

const fn provider(
    key: &'static str,
    doc: &'static str,
    store: fn(&mut ProviderConfig, &str) -> Result<(), String>,
) -> Setting {
    Setting { key, default: None, doc, secret: false, store: Store::Provider(store) }
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

/// Everything that can be set, in the order in which it is shown.
pub fn table() -> &'static [Setting] {
    static TABLE: LazyLock<Vec<Setting>> = LazyLock::new(|| {
        let channels = channels::TABLE.iter().flat_map(|spec| spec.settings).map(of_channel);
        FIRST.iter().copied().chain(channels).chain(LAST.iter().copied()).collect()
    });
    &TABLE
}

fn of_channel(setting: &'static ChannelSetting) -> Setting {
    let ChannelSetting { key, default, doc, check } = setting;
    let (secret, store) = match check {
        SettingCheck::Text(_) | SettingCheck::BaseUrl => (false, Store::ChannelOne(*check)),
        SettingCheck::Credential(_) => (true, Store::ChannelOne(*check)),
        SettingCheck::List(check) => (false, Store::ChannelMany(*check)),
    };
    Setting { key, default: *default, doc, secret, store }
}

impl Setting {
    /// The variable that sets it; for a key of each provider it contains `NAME`.
    pub fn variable(&self) -> String {
        variable(self.key)
    }

    /// The key for the provider `name`.
    pub(super) fn key_for(&self, name: &str) -> String {
        self.key.replace("NAME", name)
    }
}

/// `egress.allow` as `RINGBACK_EGRESS__ALLOW`.
pub(super) fn variable(key: &str) -> String {
    let words: Vec<String> = key.split('.').map(|word| word.replace('-', "_").to_uppercase()).collect();
    format!("RINGBACK_{}", words.join("__"))
}

/// A variable's name without `RINGBACK_`, as a key: `EGRESS__ALLOW` as `egress.allow`, and within
/// `[providers]`, `OPENAI_BATCH` as `openai-batch`.
pub(super) fn key_of(name: &str) -> String {
    let mut words: Vec<String> = name.split("__").map(str::to_lowercase).collect();
    if words.len() > 2 && words[0] == "providers" {
        words[1] = words[1].replace('_', "-");
    }
    words.join(".")
}

/// The setting of a key, and the provider's name where it is one of a provider.
pub(super) fn find<'k>(path: &[&'k str]) -> Option<(&'static Setting, Option<&'k str>)> {
    let (key, name) = match path {
        ["providers", name, key] => (format!("providers.NAME.{key}"), Some(*name)),
        path => (path.join("."), None),
    };
    table().iter().find(|setting| setting.key == key).map(|setting| (setting, name))
}

/// The known key that is nearest to `key`, with the provider's name that stands in it, if any.
pub(super) fn nearest_key(key: &str) -> (usize, String) {
    let words: Vec<&str> = key.split('.').collect();
    let name = match words.as_slice() {
        ["providers", name, _] => name,
        _ => "NAME",
    };
    let known: Vec<String> = table().iter().map(|setting| setting.key_for(name)).collect();
    nearest(key, known.iter().map(String::as_str))
        .map_or((usize::MAX, String::new()), |(d, k)| (d, k.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_and_its_variable_lead_to_each_other() {
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
}
