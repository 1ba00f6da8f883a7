//! Reading, layer by layer: defaults, file, environment, flags. Each layer is checked as a whole,
//! also where a later one overrides it: a mistake that is hidden today bites when the later layer
//! goes away.

use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::settings::{self, OTEL_VARIABLES, Setting, Store};
use super::{Config, ConfigError, Effective, Environment, File, Flags, Origin, parse};
use crate::channels;

/// The provider whose key has a variable of its own, and that variable.
const FIRST_PROVIDER: (&str, &str) = ("muvi", "MUVI_API_KEY");

/// Variables of the client commands.
const CLIENT_VARIABLES: &[&str] = &["RINGBACK_URL"];

/// How many edits a variable without `__` may be away from a known one to be called a slip of it.
/// Others are somebody else's: Kubernetes makes `RINGBACK_SERVICE_HOST` for a service of our name.
const SLIP: usize = 2;

/// A value as it was given.
enum Given {
    One(String),
    Many(Vec<String>),
}

struct Reader {
    config: Config,
    mistakes: Vec<ConfigError>,
    /// Whether `[providers] path` is what the user wrote.
    knows_folder: bool,
}

pub(super) fn defaults() -> Config {
    let mut reader = Reader { config: Config::blank(), mistakes: Vec::new(), knows_folder: true };
    reader.defaults();
    debug_assert_eq!(reader.mistakes, []);
    reader.derive();
    reader.config
}

pub(super) fn read(
    flags: &Flags,
    env: &Environment,
    file: Result<Option<&File>, ConfigError>,
) -> (Config, Vec<ConfigError>) {
    let mut reader = Reader { config: Config::blank(), mistakes: Vec::new(), knows_folder: true };
    reader.defaults();
    match file {
        Ok(Some(file)) => reader.file(file),
        Ok(None) => {}
        Err(mistake) => {
            reader.mistakes.push(mistake);
            reader.knows_folder = false;
        }
    }
    reader.environment(env);
    reader.flags(flags);
    reader.derive();
    reader.check();
    if !reader.knows_folder {
        // A folder of definitions may be missing here: nothing can be said of who is in it.
        reader.config.providers.clear();
    }
    (reader.config, reader.mistakes)
}

impl Reader {
    fn defaults(&mut self) {
        for setting in settings::table().iter().filter(|setting| !matches!(setting.store, Store::Provider(_)))
        {
            let empty = Effective { key: setting.key.to_owned(), value: None, origin: Origin::Default };
            self.config.effective.push(empty);
            match setting.default {
                // `{listen}` is filled in by `derive`, when all layers have been read.
                Some(text) if !text.contains('{') => self.set_text(setting, None, text, Origin::Default),
                Some(_) | None => {}
            }
        }
    }

    fn file(&mut self, file: &File) {
        let origin = |at: usize| {
            let line = file.text.get(..at).map_or(1, |before| before.matches('\n').count() + 1);
            Origin::File { path: file.path.clone(), line }
        };
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        if errors.is_empty() {
            self.section(&mut Vec::new(), table.get_ref(), &origin);
        }
        // The parser hands tables out by the alphabet; people read by the line.
        self.mistakes.sort_by_key(|mistake| match mistake.origin {
            Origin::File { line, .. } => line,
            Origin::Default | Origin::Variable(_) | Origin::Flag(_) => 0,
        });
        // What was recovered from broken TOML would only give misleading mistakes. The error's own
        // `Display` would quote the line, and the line may hold a secret.
        self.knows_folder &= errors.is_empty();
        for error in errors {
            let what = error.message().to_owned();
            self.mistakes
                .push(ConfigError { origin: origin(error.span().map_or(0, |span| span.start)), what });
        }
    }

    fn section<'t>(
        &mut self,
        path: &mut Vec<&'t str>,
        table: &'t DeTable<'_>,
        origin: &impl Fn(usize) -> Origin,
    ) {
        for (key, value) in table {
            path.push(key.get_ref());
            if let DeValue::Table(inner) = value.get_ref()
                && (!inner.is_empty() || is_section(path))
            {
                self.section(path, inner, origin);
            } else {
                self.leaf(path, value.get_ref(), origin(key.span().start));
            }
            path.pop();
        }
    }

    fn leaf(&mut self, path: &[&str], value: &DeValue<'_>, origin: Origin) {
        let key = path.join(".");
        let Some((setting, name)) = settings::find(path) else {
            let what = if is_section(path) {
                format!("`{key}` is a section: write [{key}] and its keys below")
            } else {
                unknown(&key, &format!("`{key}`"), |near| format!("`{near}`"))
            };
            self.mistakes.push(ConfigError { origin, what });
            return;
        };
        match given(value) {
            Some(given) => self.set(setting, name, &given, origin),
            None => self.mistakes.push(ConfigError { origin, what: format!("`{key}` cannot be a table") }),
        }
    }

    fn environment(&mut self, env: &Environment) {
        for (name, value) in &env.0 {
            if let Some(rest) = name.strip_prefix("RINGBACK_") {
                self.variable(name, rest, value);
            }
        }
        // Last, so that they go before RINGBACK_TELEMETRY__… and RINGBACK_PROVIDERS__MUVI__API_KEY.
        for (variable, key) in OTEL_VARIABLES {
            if let (Some(value), Some((setting, name))) =
                (env.get(variable), settings::find(&["telemetry", key]))
            {
                self.set_text(setting, name, value, Origin::Variable((*variable).to_owned()));
            }
        }
        let (provider, variable) = FIRST_PROVIDER;
        if let (Some(key), Some((setting, _))) =
            (env.get(variable), settings::find(&["providers", provider, "api_key"]))
        {
            self.set_text(setting, Some(provider), key, Origin::Variable(variable.to_owned()));
        }
    }

    fn variable(&mut self, name: &str, rest: &str, value: &str) {
        let key = settings::key_of(rest);
        let path: Vec<&str> = key.split('.').collect();
        let origin = Origin::Variable(name.to_owned());
        // The spelling counts: RINGBACK_listen is not RINGBACK_LISTEN.
        if let Some((setting, provider)) = settings::find(&path).filter(|_| settings::variable(&key) == name)
        {
            if !value.is_empty() || setting.store.is_list() {
                self.set_text(setting, provider, value, origin);
            }
        } else if name.contains("__") {
            let what = unknown(&key, "this", settings::variable);
            self.mistakes.push(ConfigError { origin, what });
        } else if !CLIENT_VARIABLES.contains(&name) {
            let (distance, near) = settings::nearest_key(&key);
            let hint = if distance <= SLIP {
                format!("; did you mean {}?", settings::variable(&near))
            } else {
                String::new()
            };
            self.config.warnings.push(format!("{name} is not a setting and is ignored{hint}"));
        }
    }

    fn flags(&mut self, flags: &Flags) {
        let given = [
            ("listen", "--listen", &flags.listen),
            ("database_url", "--database-url", &flags.database_url),
            ("log", "--log", &flags.log),
            ("log_format", "--log-format", &flags.log_format),
        ];
        for (key, flag, value) in given {
            if let (Some(value), Some((setting, name))) = (value, settings::find(&[key])) {
                self.set_text(setting, name, value, Origin::Flag(flag));
            }
        }
    }

    /// A value from a place that knows only text: a list is separated by commas.
    fn set_text(&mut self, setting: &'static Setting, name: Option<&str>, text: &str, origin: Origin) {
        let given = if !setting.store.is_list() {
            Given::One(text.to_owned())
        } else if text.trim().is_empty() {
            Given::Many(Vec::new())
        } else {
            Given::Many(text.split(',').map(|entry| entry.trim().to_owned()).collect())
        };
        self.set(setting, name, &given, origin);
    }

    fn set(&mut self, setting: &'static Setting, name: Option<&str>, given: &Given, origin: Origin) {
        let stored = match (&setting.store, given) {
            (Store::One(store), Given::One(value)) => store(&mut self.config, value),
            (Store::Many(store), Given::Many(values)) => store(&mut self.config, values),
            (Store::Provider(store), Given::One(value)) => {
                let section = name.unwrap_or_default().to_owned();
                self.config.named.entry(section.clone()).or_insert_with(|| origin.clone());
                store(self.config.providers.entry(section).or_default(), value)
            }
            (Store::ChannelOne(check), Given::One(value)) => parse::channel_value(*check, value)
                .map(|value| self.config.channels.set(setting.key, &[value])),
            (Store::ChannelMany(check), Given::Many(values)) => {
                check(values).map(|()| self.config.channels.set(setting.key, values))
            }
            (Store::Many(_) | Store::ChannelMany(_), Given::One(_)) => {
                Err("this is a list: write it as [\"…\", \"…\"]".to_owned())
            }
            (Store::One(_) | Store::Provider(_) | Store::ChannelOne(_), Given::Many(_)) => {
                Err("this is one value, not a list".to_owned())
            }
        };
        let key = name.map_or_else(|| setting.key.to_owned(), |name| setting.key_for(name));
        if let Err(what) = stored {
            // A variable or a flag says by its own name which setting it is.
            let what = if matches!(origin, Origin::File { .. }) { format!("`{key}`: {what}") } else { what };
            self.mistakes.push(ConfigError { origin, what });
            self.knows_folder &= setting.key != "providers.path";
            return;
        }
        let value = Some(match given {
            _ if setting.secret => "***".to_owned(),
            Given::One(value) => parse::without_password(value),
            Given::Many(values) => format!("[{}]", values.join(", ")),
        });
        let effective = &mut self.config.effective;
        match effective.iter_mut().find(|one| one.key == key) {
            Some(one) => (one.value, one.origin) = (value, origin),
            None => effective.push(Effective { key, value, origin }),
        }
    }

    /// Fills in the default that depends on another value, and puts the providers' keys in order.
    fn derive(&mut self) {
        let listen = self.config.listen.to_string();
        for setting in settings::table() {
            let text = setting.default.filter(|text| text.contains("{listen}"));
            if let Some(text) = text.filter(|_| !self.config.is_set(setting.key)) {
                self.set_text(setting, None, &text.replace("{listen}", &listen), Origin::Default);
            }
        }
        let own =
            settings::table().iter().filter(|setting| !matches!(setting.store, Store::Provider(_))).count();
        self.config.effective[own..].sort_by(|a, b| a.key.cmp(&b.key));
    }

    /// What only shows when all layers have been read.
    fn check(&mut self) {
        self.check_channels();
        for (name, provider) in &mut self.config.providers {
            if let (Some(least), Some(greatest)) = (provider.min_interval, provider.max_interval)
                && least > greatest
            {
                let key = format!("providers.{name}.min_interval");
                let set = self.config.effective.iter().find(|one| one.key == key);
                let origin = set.map_or(Origin::Default, |one| one.origin.clone());
                let what = format!("[providers.{name}] min_interval is greater than max_interval");
                self.mistakes.push(ConfigError { origin, what });
                // Said once: whoever knows the definition would say it again.
                provider.min_interval = None;
            }
        }
    }

    fn check_channels(&mut self) {
        for spec in &channels::TABLE {
            let report = (spec.check_settings)(&self.config.channels);
            self.config.warnings.extend(report.warnings);
            for (key, what) in report.errors {
                let set = self.config.effective.iter().find(|one| one.key == key);
                let origin = set.map_or(Origin::Default, |one| one.origin.clone());
                self.mistakes.push(ConfigError { origin, what });
            }
        }
    }
}

/// Whether keys stand below this path.
fn is_section(path: &[&str]) -> bool {
    match path {
        ["providers", _] => true,
        path => {
            let prefix = format!("{}.", path.join("."));
            settings::table().iter().any(|setting| setting.key.starts_with(&prefix))
        }
    }
}

/// Why a key is refused that is not in the table: `shown` is what the user wrote, and `spell` writes
/// a key in the user's way.
fn unknown(key: &str, shown: &str, spell: impl Fn(&str) -> String) -> String {
    let (_, near) = settings::nearest_key(key);
    format!("{shown} is not a setting; the nearest is {}", spell(&near))
}

fn given(value: &DeValue<'_>) -> Option<Given> {
    if let DeValue::Array(entries) = value {
        many(entries).map(Given::Many)
    } else {
        scalar(value).map(Given::One)
    }
}

fn many(entries: &DeArray<'_>) -> Option<Vec<String>> {
    entries.iter().map(|entry: &Spanned<DeValue<'_>>| scalar(entry.get_ref())).collect()
}

/// A value as one would write it in a variable; the setting's own check says what is wrong with it.
fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => {
            let decimal = i64::from_str_radix(number.as_str(), number.radix());
            Some(decimal.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string()))
        }
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Some(yes.to_string()),
        DeValue::Datetime(time) => Some(time.to_string()),
        DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::super::Database;
    use super::*;
    use crate::config::{LogFormat, Masked, Rate};

    fn file(text: &str) -> File {
        File { path: "ringback.toml".into(), text: text.into() }
    }

    fn from_file(text: &str) -> Result<Config, Vec<String>> {
        let read = Config::read(&Flags::default(), &Environment::default(), Some(&file(text)));
        read.map_err(|mistakes| mistakes.iter().map(ConfigError::to_string).collect())
    }

    fn from_env(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let env = variables.iter().copied().collect();
        let read = Config::read(&Flags::default(), &env, None);
        read.map_err(|mistakes| mistakes.iter().map(ConfigError::to_string).collect())
    }

    fn origin(config: &Config, key: &str) -> String {
        let found = config.effective().iter().find(|one| one.key == key);
        found.map_or_else(String::new, |one| one.origin.to_string())
    }

    #[test]
    fn with_nothing_set_everything_has_its_default() {
        let config = Config::default();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.public_url, "http://127.0.0.1:8080");
        assert_eq!(config.database, Database::Sqlite(PathBuf::from("ringback.db")));
        assert_eq!(config.api_key, None);
        assert_eq!(config.delivery.retry_schedule.len(), 9);
        assert_eq!(config.delivery.timeout, Duration::from_secs(20));
        assert_eq!((config.delivery.concurrency, config.delivery.per_destination), (512, 16));
        assert_eq!(config.retention.events, Duration::from_secs(30 * 86_400));
        assert!(config.egress.allow.is_empty() && !config.egress.allow_http);
        assert!(config.effective().iter().all(|one| one.origin == Origin::Default));
        let read = Config::read(&Flags::default(), &Environment::default(), None);
        assert_eq!(read.map(|read| format!("{read:?}")), Ok(format!("{config:?}")));
    }

    #[test]
    fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
        let file =
            file("listen = '127.0.0.1:1'\nlog = 'warn'\nlog_format = 'json'\n[delivery]\ntimeout = '5s'\n");
        let env = [("RINGBACK_LISTEN", "127.0.0.1:2"), ("RINGBACK_LOG", "debug")].into_iter().collect();
        let flags = Flags { listen: Some("127.0.0.1:3".into()), ..Flags::default() };
        let config = Config::read(&flags, &env, Some(&file)).expect("no mistake");
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.log, "debug");
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.public_url, "http://127.0.0.1:3");
        let origins = ["listen", "log", "log_format", "delivery.timeout", "shutdown_grace", "public_url"];
        assert_eq!(
            origins.map(|key| origin(&config, key)),
            ["--listen", "RINGBACK_LOG", "ringback.toml:3", "ringback.toml:5", "default", "default"]
        );
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let text = "listen = 8080\ndelivery = 5\n[delivery]\n";
        assert!(
            from_file(text)
                .is_err_and(|mistakes| mistakes.len() == 1 && mistakes[0].contains("ringback.toml:3"))
        );
        let text = "listen = 8080\nlisen = 'x'\negress = 5\n[delivery]\ntimout = '5s'\ntimeout = 20\n\
                    retry_schedule = '5s'\nconcurrency = 0\n[retention]\nevents = ['1d']\n[foo]\n[providers.muvi]\nrat = '1/s'\n";
        let mistakes = from_file(text).expect_err("mistakes");
        insta::assert_snapshot!(mistakes.join("\n"), @r#"
        ringback.toml:1: `listen`: `8080` is not an address with a port; write it as 127.0.0.1:8080
        ringback.toml:2: `lisen` is not a setting; the nearest is `listen`
        ringback.toml:3: `egress` is a section: write [egress] and its keys below
        ringback.toml:5: `delivery.timout` is not a setting; the nearest is `delivery.timeout`
        ringback.toml:6: `delivery.timeout`: `20` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d
        ringback.toml:7: `delivery.retry_schedule`: this is a list: write it as ["…", "…"]
        ringback.toml:8: `delivery.concurrency`: `0` is not a whole number from 1 to 10000
        ringback.toml:10: `retention.events`: this is one value, not a list
        ringback.toml:11: `foo` is not a setting; the nearest is `log`
        ringback.toml:13: `providers.muvi.rat` is not a setting; the nearest is `providers.muvi.rate`
        "#);
    }

    #[test]
    fn a_mistake_in_the_file_counts_although_a_variable_overrides_it() {
        let env = [("RINGBACK_LISTEN", "127.0.0.1:2")].into_iter().collect();
        assert!(Config::read(&Flags::default(), &env, Some(&file("listen = 'x'"))).is_err());
    }

    #[test]
    fn broken_toml_is_a_mistake_that_quotes_nothing() {
        let mistakes = from_file("listen = '127.0.0.1:1'\napi_key = hush-hush\n").expect_err("mistakes");
        assert!(mistakes.iter().all(|mistake| mistake.starts_with("ringback.toml:2: ")), "{mistakes:?}");
        assert!(mistakes.iter().all(|mistake| !mistake.contains("hush")), "{mistakes:?}");
    }

    #[test]
    fn no_mistake_and_no_listing_shows_a_secret() {
        let hush = "hush-0123456789abcdef";
        let config = from_env(&[("RINGBACK_API_KEY", hush), ("MUVI_API_KEY", hush)]).expect("no mistake");
        assert_eq!(config.api_key.as_ref().map(Masked::reveal), Some(hush));
        assert!(!format!("{config:?}").contains("hush"));
        let mistakes =
            from_file("api_key = 'hush'\nsigning_secret = 'hush'\napi_kee = 'hush'").expect_err("mistakes");
        assert_eq!(mistakes.len(), 3);
        assert!(mistakes.iter().all(|mistake| !mistake.contains("hush")), "{mistakes:?}");
    }

    #[test]
    fn variables_with_two_underscores_must_be_known_and_others_are_warned_of() {
        let mistakes = from_env(&[
            ("RINGBACK_DELIVERY__TIMOUT", "5s"),
            ("RINGBACK_PROVIDERS__OPENAI_BATCH__RATES", "1/s"),
            ("RINGBACK_egress__allow", ""),
            ("RINGBACK_DELIVERY__TIMEOUT", "soon"),
        ]);
        insta::assert_snapshot!(mistakes.expect_err("mistakes").join("\n"), @r"
        RINGBACK_DELIVERY__TIMEOUT: `soon` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d
        RINGBACK_DELIVERY__TIMOUT: this is not a setting; the nearest is RINGBACK_DELIVERY__TIMEOUT
        RINGBACK_PROVIDERS__OPENAI_BATCH__RATES: this is not a setting; the nearest is RINGBACK_PROVIDERS__OPENAI_BATCH__RATE
        RINGBACK_egress__allow: this is not a setting; the nearest is RINGBACK_EGRESS__ALLOW
        ");
        let config = from_env(&[
            ("RINGBACK_SERVICE_HOST", "10.0.0.1"),
            ("RINGBACK_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("RINGBACK_LISTN", "x"),
            ("RINGBACK_EGRESS_ALLOW", "x"),
            ("RINGBACK_URL", "http://127.0.0.1:8080"),
            ("PATH", "/bin"),
        ]);
        insta::assert_snapshot!(config.expect("only warnings").warnings.join("\n"), @r"
        RINGBACK_EGRESS_ALLOW is not a setting and is ignored; did you mean RINGBACK_EGRESS__ALLOW?
        RINGBACK_LISTN is not a setting and is ignored; did you mean RINGBACK_LISTEN?
        RINGBACK_PORT_8080_TCP is not a setting and is ignored
        RINGBACK_SERVICE_HOST is not a setting and is ignored
        ");
    }

    #[test]
    fn an_empty_variable_is_the_empty_list_and_elsewhere_as_if_unset() {
        let config = from_env(&[
            ("RINGBACK_DELIVERY__RETRY_SCHEDULE", ""),
            ("RINGBACK_EGRESS__ALLOW", "10.0.0.0/8, hooks.internal"),
            ("RINGBACK_LISTEN", ""),
            ("RINGBACK_API_KEY", ""),
            ("MUVI_API_KEY", ""),
            ("RINGBACK_SMTP__URL", ""),
        ])
        .expect("no mistake");
        assert!(config.delivery.retry_schedule.is_empty());
        assert_eq!(config.egress.allow, ["10.0.0.0/8", "hooks.internal"]);
        assert_eq!(config.listen.port(), 8080);
        assert_eq!(config.api_key, None);
        assert!(config.providers.is_empty());
    }

    #[test]
    fn providers_are_kept_by_name_and_checked_when_names_are_known() {
        let config = from_env(&[
            ("MUVI_API_KEY", "pb_first"),
            ("RINGBACK_PROVIDERS__MUVI__API_KEY", "pb_second"),
            ("RINGBACK_PROVIDERS__MUVI__RATE", "600/m"),
            ("RINGBACK_PROVIDERS__OPENAI_BATCH__API_KEY", "sk-1"),
            ("RINGBACK_PROVIDERS__MUVY__FIRST", "3s"),
            ("RINGBACK_PROVIDERS__PATH", "more"),
        ])
        .expect("no mistake");
        let muvi = &config.providers["muvi"];
        assert_eq!(muvi.api_key.as_ref().map(Masked::reveal), Some("pb_first"));
        assert_eq!(muvi.rate, Some(Rate::Limit { count: 600, per: Duration::from_secs(60) }));
        assert_eq!(config.providers_path, Some(PathBuf::from("more")));
        assert!(config.providers["openai-batch"].api_key.is_some());
        assert_eq!(config.check_providers(&["muvi", "openai-batch", "muvy"]), []);
        let mistakes = config.check_providers(&["muvi", "openai-batch"]);
        assert_eq!(
            mistakes.iter().map(ConfigError::to_string).collect::<Vec<_>>(),
            ["RINGBACK_PROVIDERS__MUVY__FIRST: no provider is called `muvy`; the nearest is `muvi`"]
        );
    }

    #[test]
    fn the_key_of_muvi_is_muvi_api_key_before_the_name_that_every_provider_has_before_the_file() {
        let file = file("[providers.muvi]\napi_key = 'of-the-file'\n[providers.replicate]\napi_key = 'r8'\n");
        let ours = ("RINGBACK_PROVIDERS__MUVI__API_KEY", "of-our-name");
        for (env, key, origin_of_it) in [
            (&[][..], "of-the-file", "ringback.toml:2"),
            (&[ours], "of-our-name", ours.0),
            (&[ours, ("MUVI_API_KEY", "of-muvis-name")], "of-muvis-name", "MUVI_API_KEY"),
        ] {
            let env = env.iter().copied().collect();
            let config = Config::read(&Flags::default(), &env, Some(&file)).expect("no mistake");
            let credential = |name: &str| config.providers[name].api_key.as_ref().map(Masked::reveal);
            assert_eq!((credential("muvi"), credential("replicate")), (Some(key), Some("r8")));
            assert_eq!(origin(&config, "providers.muvi.api_key"), origin_of_it);
        }
    }

    #[test]
    fn what_opentelemetry_calls_its_variables_goes_before_our_own_names() {
        let config = from_env(&[
            ("RINGBACK_TELEMETRY__OTLP_ENDPOINT", "http://elsewhere:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%3Dcret, x-team = a"),
            ("OTEL_SERVICE_NAME", "callbacks"),
            ("RINGBACK_METRICS_LISTEN", "127.0.0.1:9464"),
        ])
        .expect("no mistake");
        assert_eq!(config.telemetry.otlp_endpoint.as_deref(), Some("http://collector:4318"));
        let headers: Vec<(&str, &str)> = config
            .telemetry
            .otlp_headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.reveal()))
            .collect();
        assert_eq!(headers, [("api-key", "s=cret"), ("x-team", "a")]);
        assert_eq!(config.telemetry.service_name, "callbacks");
        assert_eq!(config.metrics_listen, Some(std::net::SocketAddr::from(([127, 0, 0, 1], 9464))));
        assert!(!format!("{:?}", config.effective()).contains("s%3D"), "a secret is never shown");
        let wrong = from_env(&[("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"), ("OTEL_SERVICE_NAME", " ")]);
        let wrong = wrong.expect_err("mistakes");
        assert_eq!(
            wrong,
            [
                "OTEL_EXPORTER_OTLP_HEADERS: a header is written name=value",
                "OTEL_SERVICE_NAME: a service has a name"
            ]
        );
    }

    #[test]
    fn a_proxy_is_a_url_whose_password_is_never_shown() {
        let read = |proxy: &str| from_env(&[("RINGBACK_EGRESS__PROXY", proxy)]);
        let config = read("http://me:hush@proxy.example:3128").expect("no mistake");
        assert_eq!(
            config.egress.proxy.as_ref().map(Masked::reveal),
            Some("http://me:hush@proxy.example:3128/")
        );
        assert!(!format!("{config:?}").contains("hush"));
        for wrong in
            ["proxy:3128", "socks5://me:hush@proxy", "http://me:hush@proxy/x", "http://me:hush@proxy:0"]
        {
            let mistakes = read(wrong).expect_err(wrong);
            assert!(mistakes.len() == 1 && !mistakes[0].contains("hush"), "{mistakes:?}");
        }
    }

    #[test]
    fn every_mistake_about_mail_and_chat_is_named_and_no_password_is_shown() {
        let text = "[smtp]\nurl = 'smtp://u:hush@'\nfrom = 'nobody'\nallow = ['*@a.example', 'a.example']\n\
                    [slack]\nbot_token = 'hush'\napi_url = 'slack'\n[templates]\npath = ''\n";
        insta::assert_snapshot!(from_file(text).expect_err("mistakes").join("\n"), @r"
        ringback.toml:2: `smtp.url`: this is not a URL (empty host); write it as smtp://user:password@mail.example.com:587?tls=required, or smtps://… for TLS from the start
        ringback.toml:3: `smtp.from`: `nobody` is not a sender; write it as ringback@example.com or Ringback <ringback@example.com>
        ringback.toml:4: `smtp.allow`: `a.example` is neither *@example.com, nor me@example.com, nor * (everybody)
        ringback.toml:6: `slack.bot_token`: a bot's token begins with xoxb-: it is the `Bot User OAuth Token` of the Slack app
        ringback.toml:7: `slack.api_url`: this is not a URL: relative URL without a base
        ringback.toml:9: `templates.path`: the path is empty
        ");
        let url = "smtp://u:hush@mail.example.com";
        assert_eq!(
            from_env(&[("RINGBACK_SMTP__URL", url)]).expect_err("a mistake"),
            ["RINGBACK_SMTP__URL: [smtp] url needs [smtp] from: the sender of the mails"]
        );
        let config = from_env(&[("RINGBACK_SMTP__URL", url), ("RINGBACK_SMTP__FROM", "r@a.example")]);
        let config = config.expect("no mistake");
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        let shown =
            config.effective().iter().find(|one| one.key == "smtp.url").and_then(|one| one.value.as_deref());
        assert_eq!(shown, Some("smtp://u:***@mail.example.com"));
        assert_eq!(config.channels.list("smtp.allow"), None);
        assert!(config.warnings[0].contains("unencrypted"), "{:?}", config.warnings);
        let config = from_env(&[("RINGBACK_SMTP__ALLOW", "")]).expect("no mistake");
        assert_eq!(config.channels.list("smtp.allow"), Some(&[][..]));
    }

    #[test]
    fn the_least_gap_is_not_greater_than_the_greatest() {
        let text = "[providers.muvi]\nmin_interval = '10s'\nmax_interval = '5s'\n";
        assert_eq!(
            from_file(text).expect_err("a mistake"),
            ["ringback.toml:2: [providers.muvi] min_interval is greater than max_interval"]
        );
    }
}
