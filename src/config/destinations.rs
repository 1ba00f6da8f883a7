//! `[[destination]]`: saved destinations of the configuration file.
//!
//! This file reads the app and the name, which identify a destination. The other fields are those of the API, and the
//! API checks them, at the start and for `ringback config`: they are passed on as JSON.

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Source};
use crate::domain::Masked;

/// Name of the section.
pub(super) const KEY: &str = "destination";

/// The app of a destination that names none.
const DEFAULT_APP: &str = "default";

/// Maximum number of destinations in the file: the maximum of an app.
const SECTIONS_MAX: usize = 1_000;

/// A saved destination of the configuration file.
#[derive(Clone, Debug)]
pub struct DestinationSection {
    /// Line of the section.
    pub source: Source,
    /// Number of the section, from 1.
    pub number: usize,
    /// Name of the app.
    pub app: String,
    /// Name of the destination, unique in its app.
    pub name: String,
    /// All fields except the app, as a JSON object. It can hold a secret.
    pub fields: Masked,
}

impl DestinationSection {
    /// Returns the error of a field, with its source.
    pub fn error(&self, field: &str, detail: &str) -> ConfigError {
        let message = format!("{KEY}[{}].{field}: {detail}", self.number);
        ConfigError { source: self.source.clone(), message }
    }
}

/// A field as it may be shown, with its key and its source.
pub(super) type Shown = (String, String, Source);

/// Reads `[[destination]]`. Returns every error with its source.
pub(super) fn read(
    value: &DeValue<'_>,
    at: Source,
    source: &impl Fn(usize) -> Source,
) -> (Vec<DestinationSection>, Vec<Shown>, Vec<(Source, String)>) {
    let (mut sections, mut shown, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    let DeValue::Array(entries) = value else {
        errors.push((at, format!("`{KEY}` is a list of sections; write [[{KEY}]]")));
        return (sections, shown, errors);
    };
    if entries.len() > SECTIONS_MAX {
        errors.push((
            at,
            format!("more than {SECTIONS_MAX} sections [[{KEY}]] are too many; save some through the API"),
        ));
        return (sections, shown, errors);
    }
    for (n, entry) in (1..).zip(entries.iter()) {
        let at = source(entry.span().start);
        let DeValue::Table(table) = entry.get_ref() else {
            errors.push((at, format!("`{KEY}` is a list of sections; write [[{KEY}]]")));
            continue;
        };
        for (key, value) in table {
            let (key, value) = (key.get_ref().as_ref(), shown_value(key.get_ref(), value.get_ref()));
            shown.push((format!("{KEY}[{n}].{key}"), value, at.clone()));
        }
        match section(table, &at, n) {
            Ok(section) if sections.iter().any(|known| is_same(known, &section)) => {
                let message =
                    format!("{KEY}[{n}].name: the app has another one of this name; give each its own");
                errors.push((at, message));
            }
            Ok(section) => sections.push(section),
            Err(message) => errors.push((at, format!("{KEY}[{n}].{message}"))),
        }
    }
    (sections, shown, errors)
}

fn is_same(one: &DestinationSection, other: &DestinationSection) -> bool {
    one.app == other.app && one.name == other.name
}

fn section(table: &DeTable<'_>, at: &Source, number: usize) -> Result<DestinationSection, String> {
    let mut fields = object(table);
    let app = match fields.remove("app") {
        None => DEFAULT_APP.to_owned(),
        Some(Value::String(app)) => app,
        Some(_) => return Err("app: must be the name of an app".to_owned()),
    };
    let Some(Value::String(name)) = fields.get("name") else {
        return Err("name: is required; the next start finds the destination by it".to_owned());
    };
    let (name, fields) = (name.clone(), Masked::new(Value::Object(fields).to_string()));
    Ok(DestinationSection { source: at.clone(), number, app, name, fields })
}

fn object(table: &DeTable<'_>) -> Map<String, Value> {
    table.iter().map(|(key, value)| (key.get_ref().to_string(), json(value.get_ref()))).collect()
}

fn json(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => Value::String(number.as_str().to_owned()),
        },
        DeValue::Float(number) => {
            let parsed = number.as_str().parse().ok().and_then(Number::from_f64);
            parsed.map_or_else(|| Value::String(number.as_str().to_owned()), Value::Number)
        }
        DeValue::Boolean(yes) => (*yes).into(),
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(entries) => entries.iter().map(|entry| json(entry.get_ref())).collect(),
        DeValue::Table(table) => Value::Object(object(table)),
    }
}

/// Returns a value as it may be shown. Addresses can hold credentials, and so can headers.
fn shown_value(key: &str, value: &DeValue<'_>) -> String {
    match (key, json(value)) {
        (
            "name" | "app" | "type" | "description" | "rate" | "signature" | "email" | "address" | "to"
            | "channel",
            Value::String(text),
        ) => text,
        ("url" | "slack", Value::String(text)) => masked_url(&text),
        ("headers", Value::Object(headers)) => {
            let masked = headers.keys().map(|name| format!("{name} = ***"));
            format!("{{{}}}", masked.collect::<Vec<_>>().join(", "))
        }
        ("events" | "keys", Value::Array(events)) => {
            let events = events.iter().map(|event| event.as_str().unwrap_or("?"));
            format!("[{}]", events.collect::<Vec<_>>().join(", "))
        }
        (_, Value::Bool(yes)) => yes.to_string(),
        (_, Value::Number(number)) => number.to_string(),
        (_, _) => "***".to_owned(),
    }
}

/// Returns a URL without what follows its host: a path or a query can be a credential.
fn masked_url(text: &str) -> String {
    match text
        .split_once("://")
        .and_then(|(scheme, rest)| Some((scheme, rest.split(['/', '?', '#']).next()?)))
    {
        Some((scheme, host)) => {
            let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
            format!("{scheme}://{host}/***")
        }
        None if text.starts_with('#') => text.to_owned(),
        None => "***".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError, Environment, File, Flags};

    fn read(text: &str) -> Result<Config, Vec<String>> {
        let file = File { path: "ringback.toml".into(), text: text.into() };
        let read = Config::read(&Flags::default(), &Environment::default(), Some(file));
        read.map_err(|errors| errors.iter().map(ConfigError::to_string).collect())
    }

    #[test]
    fn a_destination_of_the_file_has_an_app_and_a_name() {
        let text = "log = 'warn'\n[[destination]]\nname = 'a'\nurl = 'https://a.example/x'\nconcurrency = 4\n\
                    [[destination]]\nname = 'a'\napp = 'b'\nevents = ['job.*']\n[destination.headers]\nx-a = 'hush'\n";
        let config = read(text).expect("no errors");
        let [first, second] = &config.destinations[..] else { panic!("{:?}", config.destinations) };
        assert_eq!((first.app.as_str(), first.name.as_str()), ("default", "a"));
        assert_eq!(first.fields.reveal(), r#"{"concurrency":4,"name":"a","url":"https://a.example/x"}"#);
        assert_eq!((second.app.as_str(), second.source.to_string().as_str()), ("b", "ringback.toml:6"));
        assert_eq!(second.fields.reveal(), r#"{"events":["job.*"],"headers":{"x-a":"hush"},"name":"a"}"#);
    }

    #[test]
    fn secrets_of_a_destination_are_not_shown() {
        let text = "[[destination]]\nname = 'a'\nurl = 'https://u:p@a.example/hush?t=hush'\nsecret = 'whsec_hush'\n\
                    headers = { authorization = 'hush' }\nslack = 'hush'\nsignature = 'github'\nkeys = ['hmac']\n\
                    auth = { type = 'basic', username = 'u', password = 'hush' }\ntls = { clientKey = 'hush' }\n";
        let config = read(text).expect("no errors");
        let shown = format!("{:?} {:?}", config.effective, config.destinations);
        assert!(!shown.contains("hush") && !shown.contains("u:p"), "{shown}");
        let value = |key: &str| config.effective.iter().find(|one| one.key == key)?.value.clone();
        assert_eq!(value("destination[1].url").as_deref(), Some("https://a.example/***"));
        assert_eq!(value("destination[1].headers").as_deref(), Some("{authorization = ***}"));
        assert_eq!(value("destination[1].secret").as_deref(), Some("***"));
        assert_eq!(value("destination[1].signature").as_deref(), Some("github"));
        assert_eq!(value("destination[1].keys").as_deref(), Some("[hmac]"));
        assert_eq!(value("destination[1].auth").as_deref(), Some("***"));
    }

    #[test]
    fn a_destination_without_a_name_is_refused_with_its_line() {
        let text = "[[destination]]\nurl = 'https://a.example/x'\n[[destination]]\nname = 'a'\n[[destination]]\n\
                    name = 'a'\n[[destination]]\nname = 'b'\napp = 1\n";
        assert_eq!(
            read(text).unwrap_err(),
            [
                "ringback.toml:1: destination[1].name: is required; the next start finds the destination by it",
                "ringback.toml:5: destination[3].name: the app has another one of this name; give each its own",
                "ringback.toml:7: destination[4].app: must be the name of an app",
            ]
        );
        let single = read("[destination]\nname = 'a'\n").unwrap_err();
        assert_eq!(single, ["ringback.toml:1: `destination` is a list of sections; write [[destination]]"]);
    }
}
