//! Reads the sources in order: defaults, file, environment, flags. Every source is checked completely, even where a
//! later one overrides it: otherwise an error would appear only when the later source is removed.

use toml::de::{DeTable, DeValue};

use super::secret_file::{has_file, value_or_file};
use super::settings::{self, Setting, Store};
use super::{
    Config, ConfigError, Effective, Environment, File, Flags, Source, conflicts, destinations, parse,
};
use crate::channels;
use crate::domain::check_setting;

/// Variables of the client commands.
const CLIENT_VARIABLES: &[&str] = &["RINGBACK_URL"];

/// Variables of a proxy for programs of a user. The service does not use them: they are often set for a whole machine,
/// and a proxy between the service and its receivers would take over the check of addresses.
const PROXY_VARIABLES: &[&str] =
    &["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// Maximum number of edits between a variable without `__` and the setting that is suggested for it. Variables that
/// are further away belong to other programs: Kubernetes sets `RINGBACK_SERVICE_HOST` for a service of this name.
const TYPO_EDITS: usize = 2;

/// A value as it was written.
enum Written {
    One(String),
    Many(Vec<String>),
}

struct Reader {
    config: Config,
    errors: Vec<ConfigError>,
    /// Whether `[providers] path` was read without an error.
    providers_path_is_known: bool,
    /// Settings whose value has an error.
    mistaken: Vec<&'static str>,
}

impl Config {
    /// Reads all sources. Returns every error.
    pub fn read(flags: &Flags, env: &Environment, file: Option<File>) -> Result<Self, Vec<ConfigError>> {
        let (config, errors) = Self::read_partially(flags, env, Ok(file));
        if errors.is_empty() { Ok(config) } else { Err(errors) }
    }

    /// Reads all sources and returns every error together with the values that have none, so that the caller can
    /// check files that the configuration names. A value with an error is treated as not set.
    pub fn read_partially(
        flags: &Flags,
        env: &Environment,
        file: Result<Option<File>, ConfigError>,
    ) -> (Self, Vec<ConfigError>) {
        let (errors, mistaken) = (Vec::new(), Vec::new());
        let mut reader = Reader { config: Self::blank(), errors, providers_path_is_known: true, mistaken };
        reader.defaults();
        match file {
            Ok(Some(file)) => reader.file(&file),
            Ok(None) => {}
            Err(error) => {
                reader.errors.push(error);
                reader.providers_path_is_known = false;
            }
        }
        reader.environment(env);
        reader.flags(flags);
        reader.derive();
        reader.check();
        reader.note_proxies(env);
        reader.config.providers_path_is_known = reader.providers_path_is_known;
        (reader.config, reader.errors)
    }
}

impl Reader {
    fn defaults(&mut self) {
        for setting in settings::table().iter().filter(|setting| !matches!(setting.store, Store::Provider(_)))
        {
            let empty = Effective { key: setting.key.to_owned(), value: None, source: Source::Default };
            self.config.effective.push(empty);
            // `{listen}` is filled in by `derive`, when all layers have been read.
            if let Some(text) = setting.default.filter(|text| !text.contains('{')) {
                self.set_text(setting, None, text, Source::Default);
            }
        }
    }

    fn file(&mut self, file: &File) {
        let ends: Vec<usize> = file.text.match_indices('\n').map(|(at, _)| at).collect();
        let source = |at: usize| {
            let line = ends.partition_point(|end| *end < at) + 1;
            Source::File { path: file.path.clone(), line }
        };
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        if errors.is_empty() {
            self.section(&mut Vec::new(), table.get_ref(), &source);
        }
        // The parser returns tables in alphabetical order; errors are listed by line.
        self.errors.sort_by_key(|error| match error.source {
            Source::File { line, .. } => line,
            Source::Default | Source::Variable(_) | Source::VariableFile { .. } | Source::Flag(_) => 0,
        });
        // Values recovered from broken TOML would cause misleading errors. The `Display` of the error would quote
        // the line, which can hold a secret.
        self.providers_path_is_known &= errors.is_empty();
        for error in errors {
            let span = error.span().unwrap_or_default();
            // The name of a key is no secret.
            let message = match (error.message(), file.text.get(span.clone())) {
                ("duplicate key", Some(key)) => format!("the key `{key}` occurs twice; remove one"),
                (message, _) => message.to_owned(),
            };
            self.errors.push(ConfigError { source: source(span.start), message });
        }
    }

    fn section<'t>(
        &mut self,
        path: &mut Vec<&'t str>,
        table: &'t DeTable<'_>,
        source: &impl Fn(usize) -> Source,
    ) {
        for (key, value) in table {
            if path.is_empty() && key.get_ref() == destinations::KEY {
                self.destinations(value.get_ref(), source(key.span().start), source);
                continue;
            }
            path.push(key.get_ref());
            if let DeValue::Table(inner) = value.get_ref()
                && (!inner.is_empty() || is_section(path))
            {
                self.section(path, inner, source);
            } else {
                self.leaf(path, value.get_ref(), source(key.span().start));
            }
            path.pop();
        }
    }

    fn destinations(&mut self, value: &DeValue<'_>, at: Source, source: &impl Fn(usize) -> Source) {
        let (sections, shown, errors) = destinations::read(value, at, source);
        self.config.destinations = sections;
        let effective = |(key, value, source)| Effective { key, value: Some(value), source };
        self.config.effective.extend(shown.into_iter().map(effective));
        self.errors.extend(errors.into_iter().map(|(source, message)| ConfigError { source, message }));
    }

    fn leaf(&mut self, path: &[&str], value: &DeValue<'_>, source: Source) {
        let key = path.join(".");
        let Some((setting, name)) = settings::find(path) else {
            let message = if is_section(path) {
                format!("`{key}` is a section; write [{key}] and its keys below it")
            } else {
                unknown(&key, &format!("`{key}`"), |near| format!("`{near}`"))
            };
            self.errors.push(ConfigError { source, message });
            return;
        };
        match given(value) {
            Some(given) => self.set(setting, name, &given, source),
            None => self
                .errors
                .push(ConfigError { source, message: format!("`{key}` cannot be a table; write a value") }),
        }
    }

    fn environment(&mut self, env: &Environment) {
        for (name, value) in &env.0 {
            if let Some(rest) = name.strip_prefix("RINGBACK_") {
                self.variable(env, name, rest, value);
            }
        }
        // Last, so that they override RINGBACK_TELEMETRY__… and RINGBACK_PROVIDERS__MUVI__API_KEY.
        for (variable, key) in settings::FOREIGN_VARIABLES {
            let path: Vec<&str> = key.split('.').collect();
            let Some((setting, name)) = settings::find(&path) else { continue };
            if setting.has_file_variable() {
                self.value_or_file(env, setting, name, variable);
            } else if let Some(value) = env.get(variable) {
                self.set_text(setting, name, value, Source::Variable((*variable).to_owned()));
            }
        }
    }

    /// Sets the value of a variable, or of the file that its file variable names.
    fn value_or_file(
        &mut self,
        env: &Environment,
        setting: &'static Setting,
        name: Option<&str>,
        variable: &str,
    ) {
        match value_or_file(env, variable) {
            Ok(Some((value, source))) => self.set_text(setting, name, &value, source),
            Ok(None) => {}
            Err(error) => self.errors.push(error),
        }
    }

    fn variable(&mut self, env: &Environment, name: &str, rest: &str, value: &str) {
        if let (Some(rest), Some(variable)) =
            (rest.strip_suffix(settings::FILE_SUFFIX), name.strip_suffix(settings::FILE_SUFFIX))
        {
            let key = settings::key_of(rest);
            let path: Vec<&str> = key.split('.').collect();
            let found = settings::find(&path).filter(|_| settings::variable(&key) == variable);
            match found {
                Some((setting, provider)) if setting.has_file_variable() => {
                    return self.value_or_file(env, setting, provider, variable);
                }
                Some(_) if name.contains("__") => {
                    let source = Source::Variable(name.to_owned());
                    let message = format!("only a secret can come from a file; set {variable} to the value");
                    return self.errors.push(ConfigError { source, message });
                }
                Some(_) | None => {}
            }
        }
        let key = settings::key_of(rest);
        let path: Vec<&str> = key.split('.').collect();
        let source = Source::Variable(name.to_owned());
        // Variables are case-sensitive: RINGBACK_listen is not RINGBACK_LISTEN.
        if let Some((setting, provider)) = settings::find(&path).filter(|_| settings::variable(&key) == name)
        {
            // As for scalars: `${X:-}` of a compose file gives an empty value for a variable that is not set.
            // A secret with a file variable as well is an error, which that variable reports.
            let is_in_file = setting.has_file_variable() && has_file(env, name);
            if !value.is_empty() && !is_in_file {
                self.set_text(setting, provider, value, source);
            }
        } else if name.contains("__") {
            let message = unknown(&key, "this", settings::variable);
            self.errors.push(ConfigError { source, message });
        } else if !CLIENT_VARIABLES.contains(&name) {
            let near = settings::similar_key(&key).filter(|(edits, _)| *edits <= TYPO_EDITS);
            let hint = near.map(|(_, near)| format!("; did you mean {}?", settings::variable(&near)));
            let hint = hint.unwrap_or_default();
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
                self.set_text(setting, name, value, Source::Flag(flag));
            }
        }
    }

    /// Sets a value from a source that has only text. The entries of a list are separated by commas; `[]` has none.
    fn set_text(&mut self, setting: &'static Setting, name: Option<&str>, text: &str, source: Source) {
        let given = if !setting.is_list() {
            Written::One(text.to_owned())
        } else if matches!(text.trim(), "" | "[]") {
            Written::Many(Vec::new())
        } else {
            Written::Many(text.split(',').map(|entry| entry.trim().to_owned()).collect())
        };
        self.set(setting, name, &given, source);
    }

    fn set(&mut self, setting: &'static Setting, name: Option<&str>, given: &Written, source: Source) {
        let fields = match given {
            Written::One(value) if setting.key == "providers.NAME.api_key" => {
                parse::fields_in_one_line(value)
            }
            Written::One(_) | Written::Many(_) => None,
        };
        let values = match given {
            Written::One(value) if !setting.is_list() => {
                Ok(std::slice::from_ref(fields.as_ref().unwrap_or(value)))
            }
            Written::Many(values) if setting.is_list() => Ok(values.as_slice()),
            Written::One(_) => Err("a list is expected; write it as [\"…\", \"…\"]".to_owned()),
            Written::Many(_) => {
                Err("one value is expected, not a list; write it without brackets".to_owned())
            }
        };
        let values = values.and_then(|values| {
            // A value that another program substitutes or a person pastes can have more than was meant.
            values
                .iter()
                .try_for_each(|value| check_setting(value))
                .map_err(|error| format!("the value {error}"))?;
            Ok(values)
        });
        let config = &mut self.config;
        let stored = values.and_then(|values| match setting.store {
            Store::One(store) => store(config, &values[0]),
            Store::Many(store) => store(config, values),
            Store::Provider(store) => {
                let section = name.unwrap_or_default().to_owned();
                config.provider_sources.entry(section.clone()).or_insert_with(|| source.clone());
                store(config.providers.entry(section).or_default(), &values[0])
            }
            Store::Channel(check) => {
                let values = parse::channel_values(check, values)?;
                config.channels.set(setting.key, &values);
                Ok(())
            }
        });
        let key = name.map_or_else(|| setting.key.to_owned(), |name| setting.key_for(name));
        if let Err(message) = stored {
            self.errors.push(ConfigError::about(&key, source, message));
            self.mistaken.push(setting.key);
            self.providers_path_is_known &= setting.key != "providers.path";
            return;
        }
        let value = Some(match given {
            _ if setting.secret => "***".to_owned(),
            Written::One(value) => parse::without_password(value),
            Written::Many(values) => format!("[{}]", values.join(", ")),
        });
        let effective = &mut self.config.effective;
        match effective.iter_mut().find(|one| one.key == key) {
            Some(one) => (one.value, one.source) = (value, source),
            None => effective.push(Effective { key, value, source }),
        }
    }

    /// Warns if the environment names a proxy and the configuration does not.
    fn note_proxies(&mut self, env: &Environment) {
        let set = PROXY_VARIABLES.iter().find(|name| env.get(name).is_some());
        if let Some(name) = set.filter(|_| !self.config.is_set("egress.proxy")) {
            self.config.warnings.push(format!(
                "{name} is set, but the service does not use it; a proxy for its requests is set by egress.proxy \
                 (RINGBACK_EGRESS__PROXY)"
            ));
        }
    }

    /// Sets the default that depends on another value, and sorts the keys of the providers.
    fn derive(&mut self) {
        let listen = self.config.listen.to_string();
        for setting in settings::table() {
            let text = setting.default.filter(|text| text.contains("{listen}"));
            if let Some(text) = text.filter(|_| !self.config.is_set(setting.key)) {
                self.set_text(setting, None, &text.replace("{listen}", &listen), Source::Default);
            }
        }
        let own =
            settings::table().iter().filter(|setting| !matches!(setting.store, Store::Provider(_))).count();
        self.config.effective[own..].sort_by(|a, b| a.key.cmp(&b.key));
    }

    /// Checks what depends on several values.
    fn check(&mut self) {
        for (key, message) in conflicts::find(&self.config) {
            self.errors.push(ConfigError::about(key, self.config.source(key), message));
        }
        for spec in &channels::TABLE {
            // What is missing may be a value with an error of its own.
            if spec.settings.iter().any(|setting| self.mistaken.contains(&setting.key)) {
                continue;
            }
            let report = (spec.check_settings)(&self.config.channels);
            for (key, value) in report.derived {
                let effective = self.config.effective.iter_mut();
                if let Some(one) = effective.into_iter().find(|one| one.key == key && one.value.is_none()) {
                    one.value = Some(value);
                }
            }
            self.config.warnings.extend(report.warnings);
            for (key, message) in report.errors {
                self.errors.push(ConfigError { source: self.config.source(key), message });
            }
        }
        let mut providers = std::mem::take(&mut self.config.providers);
        for (name, provider) in &mut providers {
            if let (Some(least), Some(greatest)) = (provider.min_interval, provider.max_interval)
                && least > greatest
            {
                let source = self.config.source(&format!("providers.{name}.min_interval"));
                let message = format!(
                    "[providers.{name}] min_interval is greater than max_interval; lower it or raise max_interval"
                );
                self.errors.push(ConfigError { source, message });
                // Otherwise the check against the provider's definition would report it again.
                provider.min_interval = None;
            }
        }
        self.config.providers = providers;
    }
}

/// Returns whether the path is that of a section.
fn is_section(path: &[&str]) -> bool {
    match path {
        ["providers", _] => true,
        path => {
            let prefix = format!("{}.", path.join("."));
            settings::table().iter().any(|setting| setting.key.starts_with(&prefix))
        }
    }
}

/// Returns the error for an unknown key. `shown` is the text of the user, and `spell` writes a key in the same form.
fn unknown(key: &str, shown: &str, spell: impl Fn(&str) -> String) -> String {
    match settings::similar_key(key) {
        Some((_, near)) => format!("{shown} is not a setting; the nearest is {}", spell(&near)),
        None => format!("{shown} is not a setting; docs/CONFIGURATION.md lists all"),
    }
}

fn given(value: &DeValue<'_>) -> Option<Written> {
    let DeValue::Array(entries) = value else { return scalar(value).map(Written::One) };
    entries.iter().map(|entry| scalar(entry.get_ref())).collect::<Option<_>>().map(Written::Many)
}

/// Returns a value as it would be written in a variable. The check of the setting reports what is wrong with it.
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
        let read = Config::read(&Flags::default(), &Environment::default(), Some(file(text)));
        read.map_err(|errors| errors.iter().map(ConfigError::to_string).collect())
    }

    fn from_env(variables: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let env = variables.iter().copied().collect();
        let read = Config::read(&Flags::default(), &env, None);
        read.map_err(|errors| errors.iter().map(ConfigError::to_string).collect())
    }

    fn source(config: &Config, key: &str) -> String {
        let found = config.effective.iter().find(|one| one.key == key);
        found.map_or_else(String::new, |one| one.source.to_string())
    }

    #[test]
    fn without_settings_the_defaults_apply() {
        let config = from_env(&[]).expect("no errors");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.public_url, "http://127.0.0.1:8080");
        assert_eq!(config.database, Database::Sqlite(PathBuf::from("ringback.db")));
        assert_eq!(config.api_key, None);
        assert_eq!(config.delivery.retry_schedule.len(), 9);
        assert_eq!(config.delivery.timeout, Duration::from_secs(20));
        assert_eq!((config.delivery.concurrency, config.delivery.per_destination), (512, 16));
        assert_eq!(config.retention.events, Duration::from_secs(30 * 86_400));
        assert!(config.egress.allow.is_empty() && !config.egress.allow_http);
        assert!(config.effective.iter().all(|one| one.source == Source::Default));
    }

    #[test]
    fn flags_override_variables_override_the_file() {
        let file =
            file("listen = '127.0.0.1:1'\nlog = 'warn'\nlog_format = 'json'\n[delivery]\ntimeout = '5s'\n");
        let env = [("RINGBACK_LISTEN", "127.0.0.1:2"), ("RINGBACK_LOG", "debug")].into_iter().collect();
        let flags = Flags { listen: Some("127.0.0.1:3".into()), ..Flags::default() };
        let config = Config::read(&flags, &env, Some(file)).expect("no errors");
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.log, "debug");
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.public_url, "http://127.0.0.1:3");
        let sources = ["listen", "log", "log_format", "delivery.timeout", "shutdown_grace", "public_url"];
        assert_eq!(
            sources.map(|key| source(&config, key)),
            ["--listen", "RINGBACK_LOG", "ringback.toml:3", "ringback.toml:5", "default", "default"]
        );
    }

    #[test]
    fn every_error_is_reported_with_its_place() {
        let text = "listen = 8080\ndelivery = 5\n[delivery]\n";
        assert!(
            from_file(text).is_err_and(|errors| errors.len() == 1 && errors[0].contains("ringback.toml:3"))
        );
        let text = "listen = 8080\nlisen = 'x'\negress = 5\n[delivery]\ntimout = '5s'\ntimeout = 20\n\
                    retry_schedule = '5s'\nconcurrency = 0\n[retention]\nevents = ['1d']\n[foo]\n[providers.muvi]\nrat = '1/s'\n";
        let errors = from_file(text).expect_err("errors");
        insta::assert_snapshot!(errors.join("\n"), @r#"
        ringback.toml:1: `listen`: `8080` is not an address with a port; write it as 127.0.0.1:8080
        ringback.toml:2: `lisen` is not a setting; the nearest is `listen`
        ringback.toml:3: `egress` is a section; write [egress] and its keys below it
        ringback.toml:5: `delivery.timout` is not a setting; the nearest is `delivery.timeout`
        ringback.toml:6: `delivery.timeout`: `20` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d
        ringback.toml:7: `delivery.retry_schedule`: a list is expected; write it as ["…", "…"]
        ringback.toml:8: `delivery.concurrency`: `0` is not a whole number from 1 to 10000
        ringback.toml:10: `retention.events`: one value is expected, not a list; write it without brackets
        ringback.toml:11: `foo` is not a setting; docs/CONFIGURATION.md lists all
        ringback.toml:13: `providers.muvi.rat` is not a setting; the nearest is `providers.muvi.rate`
        "#);
    }

    #[test]
    fn a_value_that_cannot_be_meant_is_refused_with_the_remedy() {
        let errors = from_env(&[
            ("MUVI_API_KEY", "hush-0123456789\n"),
            ("RINGBACK_DATABASE_URL", "sqlite:///data/\u{fffd}.db"),
            ("RINGBACK_EGRESS__ALLOW", " 10.0.0.0/8 , ho\u{200b}st"),
            ("RINGBACK_LISTEN", "\u{feff}127.0.0.1:8080"),
            ("RINGBACK_SMTP__FROM", "r@a.example "),
            ("RINGBACK_SMTP__URL", "smtp://u:hush\r\n@a.example?tls=required"),
        ]);
        insta::assert_snapshot!(errors.expect_err("errors").join("\n"), @r"
        RINGBACK_DATABASE_URL: the value contains a character that is not UTF-8; remove it
        RINGBACK_EGRESS__ALLOW: the value contains the invisible character U+200B; remove it
        RINGBACK_LISTEN: the value begins with a byte order mark (U+FEFF); remove it
        RINGBACK_SMTP__FROM: the value begins or ends with a space; remove it
        RINGBACK_SMTP__URL: the value contains a line break; remove it
        MUVI_API_KEY: the value ends with a line break; remove it
        ");
        let errors = from_file("[egress]\nallow = ['10.0.0.0/8 ']\n[slack]\nbot_token = \"xoxb-1\\u0000\"");
        insta::assert_snapshot!(errors.expect_err("errors").join("\n"), @r"
        ringback.toml:2: `egress.allow`: the value begins or ends with a space; remove it
        ringback.toml:4: `slack.bot_token`: the value ends with a NUL character; remove it
        ");
        from_env(&[("RINGBACK_EGRESS__ALLOW", " 10.0.0.0/8 , host")]).expect("no errors");
    }

    #[test]
    fn an_overridden_value_is_checked_too() {
        let env = [("RINGBACK_LISTEN", "127.0.0.1:2")].into_iter().collect();
        assert!(Config::read(&Flags::default(), &env, Some(file("listen = 'x'"))).is_err());
    }

    #[test]
    fn errors_in_toml_do_not_quote_the_line() {
        let errors = from_file("listen = '127.0.0.1:1'\napi_key = hush-hush\n").expect_err("errors");
        assert!(errors.iter().all(|error| error.starts_with("ringback.toml:2: ")), "{errors:?}");
        assert!(errors.iter().all(|error| !error.contains("hush")), "{errors:?}");
    }

    #[test]
    fn errors_and_listings_never_show_a_secret() {
        let hush = "hush-0123456789abcdef";
        let config = from_env(&[("RINGBACK_API_KEY", hush), ("MUVI_API_KEY", hush)]).expect("no errors");
        assert_eq!(config.api_key.as_ref().map(Masked::reveal), Some(hush));
        assert!(!format!("{config:?}").contains("hush"));
        let errors =
            from_file("api_key = 'hush'\nsigning_secret = 'hush'\napi_kee = 'hush'").expect_err("errors");
        assert_eq!(errors.len(), 3);
        assert!(errors.iter().all(|error| !error.contains("hush")), "{errors:?}");
    }

    // modelstudioai/cli#51
    #[test]
    fn a_proxy_of_the_environment_is_a_warning_without_effect() {
        let read = |variables: &[(&str, &str)]| from_env(variables).expect("no errors");
        let ignored = read(&[("HTTPS_PROXY", "http://u:hush@p.example:3128")]);
        assert!(ignored.egress.proxy.is_none());
        insta::assert_snapshot!(
            ignored.warnings.join("\n"),
            @"HTTPS_PROXY is set, but the service does not use it; a proxy for its requests is set by egress.proxy (RINGBACK_EGRESS__PROXY)"
        );
        let own = ("RINGBACK_EGRESS__PROXY", "http://p.example:3128");
        assert_eq!(read(&[("http_proxy", "http://p.example:3128"), own]).warnings, [""; 0]);
        assert_eq!(read(&[("NO_PROXY", "*")]).warnings, [""; 0]);
    }

    #[test]
    fn unknown_variables_are_errors_or_warnings() {
        let errors = from_env(&[
            ("RINGBACK_DELIVERY__TIMOUT", "5s"),
            ("RINGBACK_PROVIDERS__OPENAI_BATCH__RATES", "1/s"),
            ("RINGBACK_egress__allow", ""),
            ("RINGBACK_FOO__BAR", "x"),
            ("RINGBACK_DELIVERY__TIMEOUT", "soon"),
        ]);
        insta::assert_snapshot!(errors.expect_err("errors").join("\n"), @r"
        RINGBACK_DELIVERY__TIMEOUT: `soon` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d
        RINGBACK_DELIVERY__TIMOUT: this is not a setting; the nearest is RINGBACK_DELIVERY__TIMEOUT
        RINGBACK_FOO__BAR: this is not a setting; docs/CONFIGURATION.md lists all
        RINGBACK_PROVIDERS__OPENAI_BATCH__RATES: this is not a setting; the nearest is RINGBACK_PROVIDERS__OPENAI_BATCH__RATE
        RINGBACK_egress__allow: this is not a setting; the nearest is RINGBACK_EGRESS__ALLOW
        ");
        let config = from_env(&[
            ("RINGBACK_SERVICE_HOST", "10.0.0.1"),
            ("RINGBACK_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("RINGBACK_LISTN", "x"),
            ("RINGBACK_FOO", "x"),
            ("RINGBACK_EGRESS_ALLOW", "x"),
            ("RINGBACK_URL", "http://127.0.0.1:8080"),
            ("PATH", "/bin"),
        ]);
        insta::assert_snapshot!(config.expect("only warnings").warnings.join("\n"), @r"
        RINGBACK_EGRESS_ALLOW is not a setting and is ignored; did you mean RINGBACK_EGRESS__ALLOW?
        RINGBACK_FOO is not a setting and is ignored
        RINGBACK_LISTN is not a setting and is ignored; did you mean RINGBACK_LISTEN?
        RINGBACK_PORT_8080_TCP is not a setting and is ignored
        RINGBACK_SERVICE_HOST is not a setting and is ignored
        ");
    }

    #[test]
    fn an_empty_variable_is_not_set_also_for_a_list() {
        let config = from_env(&[("RINGBACK_DELIVERY__RETRY_SCHEDULE", ""), ("RINGBACK_SMTP__ALLOW", "")]);
        let config = config.expect("no errors");
        assert_eq!(config.delivery.retry_schedule.len(), 9);
        assert_eq!(config.channels.list("smtp.allow"), None);
    }

    #[test]
    fn empty_brackets_are_the_list_without_entries() {
        let config = from_env(&[
            ("RINGBACK_DELIVERY__RETRY_SCHEDULE", "[]"),
            ("RINGBACK_EGRESS__ALLOW", "10.0.0.0/8, hooks.internal"),
            ("RINGBACK_LISTEN", ""),
            ("RINGBACK_API_KEY", ""),
            ("MUVI_API_KEY", ""),
            ("RINGBACK_SMTP__URL", ""),
        ])
        .expect("no errors");
        assert!(config.delivery.retry_schedule.is_empty());
        assert_eq!(config.egress.allow, ["10.0.0.0/8", "hooks.internal"]);
        assert_eq!(config.listen.port(), 8080);
        assert_eq!(config.api_key, None);
        assert!(config.providers.is_empty());
    }

    #[test]
    fn names_of_providers_are_checked_when_they_are_known() {
        let config = from_env(&[
            ("MUVI_API_KEY", "pb_first"),
            ("RINGBACK_PROVIDERS__MUVI__API_KEY", "pb_second"),
            ("RINGBACK_PROVIDERS__MUVI__RATE", "600/m"),
            ("RINGBACK_PROVIDERS__OPENAI_BATCH__API_KEY", "sk-1"),
            ("RINGBACK_PROVIDERS__MUVY__FIRST", "3s"),
            ("RINGBACK_PROVIDERS__PATH", "more"),
        ])
        .expect("no errors");
        let muvi = &config.providers["muvi"];
        assert_eq!(muvi.api_key.as_ref().map(Masked::reveal), Some("pb_first"));
        assert_eq!(muvi.rate, Some(Rate { spacing: Some(Duration::from_millis(100)) }));
        assert_eq!(config.providers_path, Some(PathBuf::from("more")));
        assert!(config.providers["openai-batch"].api_key.is_some());
        assert_eq!(config.check_providers(&["muvi", "openai-batch", "muvy"], true), []);
        let errors = |known: &[&str], all_read: bool| {
            let errors = config.check_providers(known, all_read);
            errors.iter().map(ConfigError::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            errors(&["muvi", "openai-batch"], true),
            ["RINGBACK_PROVIDERS__MUVY__FIRST: there is no provider `muvy`; the nearest is `muvi`"]
        );
        assert_eq!(
            errors(&["muvi", "openai-batch"], false),
            [
                "RINGBACK_PROVIDERS__MUVY__FIRST: no definition that could be read is about a provider `muvy`; the nearest is `muvi`"
            ]
        );
        assert_eq!(
            errors(&["acme", "muvi"], true)[1],
            "RINGBACK_PROVIDERS__OPENAI_BATCH__API_KEY: there is no provider `openai-batch`; `ringback provider list` shows all"
        );
    }

    #[test]
    fn muvi_api_key_overrides_the_other_sources_of_the_key() {
        let file = file("[providers.muvi]\napi_key = 'of-the-file'\n[providers.replicate]\napi_key = 'r8'\n");
        let ours = ("RINGBACK_PROVIDERS__MUVI__API_KEY", "of-our-name");
        for (env, key, expected) in [
            (&[][..], "of-the-file", "ringback.toml:2"),
            (&[ours], "of-our-name", ours.0),
            (&[ours, ("MUVI_API_KEY", "of-muvis-name")], "of-muvis-name", "MUVI_API_KEY"),
        ] {
            let env = env.iter().copied().collect();
            let config = Config::read(&Flags::default(), &env, Some(file.clone())).expect("no errors");
            let credential = |name: &str| config.providers[name].api_key.as_ref().map(Masked::reveal);
            assert_eq!((credential("muvi"), credential("replicate")), (Some(key), Some("r8")));
            assert_eq!(source(&config, "providers.muvi.api_key"), expected);
        }
    }

    #[test]
    fn opentelemetry_variables_override_our_names() {
        let config = from_env(&[
            ("RINGBACK_TELEMETRY__OTLP_ENDPOINT", "http://elsewhere:4318"),
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "api-key=s%3Dcret, x-team = a"),
            ("OTEL_SERVICE_NAME", "callbacks"),
            ("RINGBACK_METRICS_LISTEN", "127.0.0.1:9464"),
        ])
        .expect("no errors");
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
        assert!(!format!("{:?}", config.effective).contains("s%3D"), "a secret is never shown");
        let wrong = from_env(&[("OTEL_EXPORTER_OTLP_HEADERS", "s3cret"), ("OTEL_SERVICE_NAME", " ")]);
        let wrong = wrong.expect_err("errors");
        assert_eq!(
            wrong,
            [
                "OTEL_EXPORTER_OTLP_HEADERS: a header has no value; write it as name=value",
                "OTEL_SERVICE_NAME: the value begins or ends with a space; remove it"
            ]
        );
    }

    #[test]
    fn a_proxy_url_is_shown_without_its_password() {
        let read = |proxy: &str| from_env(&[("RINGBACK_EGRESS__PROXY", proxy)]);
        let config = read("http://me:hush@proxy.example:3128").expect("no errors");
        assert_eq!(
            config.egress.proxy.as_ref().map(Masked::reveal),
            Some("http://me:hush@proxy.example:3128/")
        );
        assert!(!format!("{config:?}").contains("hush"));
        for wrong in
            ["proxy:3128", "socks5://me:hush@proxy", "http://me:hush@proxy/x", "http://me:hush@proxy:0"]
        {
            let errors = read(wrong).expect_err(wrong);
            assert!(errors.len() == 1 && !errors[0].contains("hush"), "{errors:?}");
        }
    }

    #[test]
    fn errors_in_channel_settings_show_no_password() {
        let text = "[smtp]\nurl = 'smtp://u:hush@'\nfrom = 'nobody'\nallow = ['*@a.example', 'a.example']\n\
                    [slack]\nbot_token = 'hush'\napi_url = 'slack'\n[templates]\npath = ''\n";
        insta::assert_snapshot!(from_file(text).expect_err("errors").join("\n"), @r"
        ringback.toml:2: `smtp.url`: this is not a URL (empty host); write it as smtp://user:password@mail.example.com:587?tls=required, or smtps://… for TLS from the start
        ringback.toml:3: `smtp.from`: `nobody` is not a sender; write it as ringback@example.com or Ringback <ringback@example.com>
        ringback.toml:4: `smtp.allow`: `a.example` is neither *@example.com, nor me@example.com, nor * (everybody)
        ringback.toml:6: `slack.bot_token`: a bot's token begins with xoxb-: it is the `Bot User OAuth Token` of the Slack app
        ringback.toml:7: `slack.api_url`: this URL cannot be used: it must begin with http:// or https://
        ringback.toml:9: `templates.path`: the path is empty; write one, or leave the setting out
        ");
        let url = "smtp://u:hush@mail.example.com";
        assert_eq!(
            from_env(&[("RINGBACK_SMTP__URL", url)]).expect_err("an error"),
            ["RINGBACK_SMTP__URL: [smtp] url needs [smtp] from: the sender of the mails"]
        );
        let config = from_env(&[("RINGBACK_SMTP__URL", url), ("RINGBACK_SMTP__FROM", "r@a.example")]);
        let config = config.expect("no errors");
        assert!(!format!("{config:?}").contains("hush"), "{config:?}");
        let shown =
            config.effective.iter().find(|one| one.key == "smtp.url").and_then(|one| one.value.as_deref());
        assert_eq!(shown, Some("smtp://u:***@mail.example.com"));
        assert_eq!(config.channels.list("smtp.allow"), None);
        assert!(config.warnings[0].contains("unencrypted"), "{:?}", config.warnings);
        let (server, from) =
            (("RINGBACK_SMTP__URL", "smtp://a.example"), ("RINGBACK_SMTP__FROM", "r@gmail.com"));
        let config = from_env(&[server, from]).expect("no errors");
        insta::assert_snapshot!(config.warnings.join("\n"), @"smtp.allow (RINGBACK_SMTP__ALLOW) is not set, and the domain of smtp.from is that of a public mail service: no recipient is permitted; name them, such as r@gmail.com");
        let allow = |config: &Config| {
            let found = config.effective.iter().find(|one| one.key == "smtp.allow").expect("listed");
            (found.value.clone().unwrap_or_default(), found.source.to_string())
        };
        assert_eq!(allow(&config), ("[]".to_owned(), "default".to_owned()));
        let config = from_env(&[server, ("RINGBACK_SMTP__FROM", "r@a.example")]).expect("no errors");
        assert_eq!(allow(&config), ("[*@a.example]".to_owned(), "default".to_owned()));
        let config = from_env(&[("RINGBACK_SMTP__ALLOW", "[]")]).expect("no errors");
        assert_eq!(config.channels.list("smtp.allow"), Some(&[][..]));
    }

    #[test]
    fn the_shortest_interval_is_at_most_the_longest() {
        let text = "[providers.muvi]\nmin_interval = '10s'\nmax_interval = '5s'\n";
        assert_eq!(
            from_file(text).expect_err("an error"),
            [
                "ringback.toml:2: [providers.muvi] min_interval is greater than max_interval; lower it or raise max_interval"
            ]
        );
    }
}
