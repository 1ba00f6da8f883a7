//! `[[destination]]`: saved destinations of the configuration file.
//!
//! This file reads the app and the name, which identify a destination. The other fields are those of the API, and the
//! API checks them, at the start and for `ringback config`: they are passed on as JSON.

use std::collections::BTreeMap;

use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use super::{ConfigError, Source};
use crate::domain::Masked;

/// Name of the section.
pub(super) const KEY: &str = "destination";

/// The app of a destination that names none.
const DEFAULT_APP: &str = "default";

/// The name by which the other fields of a destination without one are checked.
const NO_NAME: &str = "unnamed";

/// Maximum number of destinations in the file: the maximum of an app.
const SECTIONS_MAX: usize = 1_000;

/// A saved destination of the configuration file.
#[derive(Clone, Debug)]
pub struct DestinationSection {
    /// Line of the section.
    pub source: Source,
    /// Lines of its fields, with those of tables and lists as `headers.x-a`.
    lines: BTreeMap<String, Source>,
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
        ConfigError { source: self.line(field).clone(), message }
    }

    /// Returns the line of a field, or else that of what contains it.
    fn line(&self, field: &str) -> &Source {
        let mut key = field;
        loop {
            match (self.lines.get(key), key.rsplit_once('.')) {
                (Some(line), _) => return line,
                (None, Some((outer, _))) => key = outer,
                (None, None) => return &self.source,
            }
        }
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
        let mut lines = BTreeMap::new();
        add_lines(table, "", source, &mut lines);
        let (section, mut wrong) = section(table, at, lines, n);
        for (key, value) in table {
            let (key, value) = (key.get_ref().as_ref(), shown_value(key.get_ref(), value.get_ref()));
            shown.push((format!("{KEY}[{n}].{key}"), value, section.line(key).clone()));
        }
        if wrong.is_empty() && sections.iter().any(|known| is_same(known, &section)) {
            wrong.push(("name", "the app has another one of this name; give each its own"));
        }
        let error = |(field, detail): (&str, &str)| {
            let ConfigError { source, message } = section.error(field, detail);
            (source, message)
        };
        errors.extend(wrong.into_iter().map(error));
        // Also one with an error: its other fields are checked with those of the others.
        sections.push(section);
    }
    (sections, shown, errors)
}

/// Adds the lines of the keys of a table, and of the entries of lists.
fn add_lines(
    table: &DeTable<'_>,
    before: &str,
    source: &impl Fn(usize) -> Source,
    lines: &mut BTreeMap<String, Source>,
) {
    for (key, value) in table {
        let path = format!("{before}{}", key.get_ref());
        lines.insert(path.clone(), source(key.span().start));
        match value.get_ref() {
            DeValue::Table(inner) => add_lines(inner, &format!("{path}."), source, lines),
            DeValue::Array(entries) => {
                for (n, entry) in entries.iter().enumerate() {
                    lines.insert(format!("{path}.{n}"), source(entry.span().start));
                }
            }
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_) => {}
        }
    }
}

fn is_same(one: &DestinationSection, other: &DestinationSection) -> bool {
    one.app == other.app && one.name == other.name
}

/// Returns a section, and what is wrong with its app or its name.
fn section(
    table: &DeTable<'_>,
    source: Source,
    lines: BTreeMap<String, Source>,
    number: usize,
) -> (DestinationSection, Vec<(&'static str, &'static str)>) {
    let (mut fields, mut errors) = (object(table), Vec::new());
    let app = match fields.remove("app") {
        Some(Value::String(app)) => app,
        given => {
            if given.is_some() {
                errors.push(("app", "must be the name of an app"));
            }
            DEFAULT_APP.to_owned()
        }
    };
    let name = if let Some(Value::String(name)) = fields.get("name") {
        name.clone()
    } else {
        errors.push(match fields.get("name") {
            Some(_) => ("name", "must be a string; write it in quotation marks"),
            None => ("name", "is required; the next start finds the destination by it"),
        });
        fields.insert("name".to_owned(), NO_NAME.into());
        NO_NAME.to_owned()
    };
    let fields = Masked::new(Value::Object(fields).to_string());
    (DestinationSection { source, lines, number, app, name, fields }, errors)
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
                "ringback.toml:6: destination[3].name: the app has another one of this name; give each its own",
                "ringback.toml:9: destination[4].app: must be the name of an app",
            ]
        );
        let single = read("[destination]\nname = 'a'\n").unwrap_err();
        assert_eq!(single, ["ringback.toml:1: `destination` is a list of sections; write [[destination]]"]);
    }
}
