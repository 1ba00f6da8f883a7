//! Checks of single values. An error says what is wrong and what to write instead, without repeating a secret.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::{Map, Value};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use super::{Database, EncryptionKey, LogFormat, Masked};
use crate::channels::SettingCheck;
use crate::domain::{
    CUT_PASSWORD, PostgresUrl, format_duration, has_cut_password, nearest, parse_any_duration,
    parse_duration, parse_host_name, url_error,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Maximum length of the service name, which is sent with every batch of spans.
const SERVICE_NAME_MAX: usize = 255;

/// Maximum number of retries: one an hour for two days.
const RETRIES_MAX: usize = 50;
/// Longest wait before a retry: the default retention of the event.
const WAIT_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Maximum number of entries of `egress.allow`, which is searched for every connection.
const ALLOW_MAX: usize = 256;
/// Maximum number of wrong entries of a list that an error names.
const ENTRIES_SHOWN: usize = 8;
/// Log levels, from nothing to everything.
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
/// Maximum number of encryption keys. A rotation needs two.
const ENCRYPTION_KEYS_MAX: usize = 8;
/// Maximum length of a credential: it must fit into one header line.
const CREDENTIAL_MAX: usize = 8 * 1024;

pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is not an address with a port; write it as 127.0.0.1:8080"))
}

pub(super) fn duration(text: &str, max: Duration) -> Result<Duration, String> {
    if parse_any_duration(text)? > max {
        return Err(format!("`{text}` is too long; the maximum is {}", format_duration(max)));
    }
    parse_duration(text)
}

/// Parses a poll interval.
pub(super) fn poll_interval(text: &str) -> Result<Duration, String> {
    duration(text, DAY)
}

pub(super) fn schedule(entries: &[String]) -> Result<Vec<Duration>, String> {
    at_most(entries.len(), RETRIES_MAX, "entries")?;
    entries_of(entries, |entry| duration(entry, WAIT_MAX))
}

/// Parses each entry of a list. The error has a sentence about each wrong one, up to [`ENTRIES_SHOWN`].
fn entries_of<T>(entries: &[String], parse: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    let (mut values, mut wrong) = (Vec::with_capacity(entries.len()), Vec::new());
    for entry in entries {
        match parse(entry) {
            Ok(value) => values.push(value),
            Err(error) => wrong.push(error),
        }
    }
    if wrong.is_empty() {
        return Ok(values);
    }
    if let Some(hidden) = wrong.len().checked_sub(ENTRIES_SHOWN).filter(|hidden| *hidden > 0) {
        wrong.truncate(ENTRIES_SHOWN);
        wrong.push(format!("{hidden} further entries are wrong"));
    }
    Err(wrong.join("; "))
}

fn at_most(count: usize, max: usize, what: &str) -> Result<(), String> {
    if count > max { Err(format!("{count} {what} are too many; the maximum is {max}")) } else { Ok(()) }
}

pub(super) fn integer<T>(text: &str, range: RangeInclusive<T>) -> Result<T, String>
where
    T: FromStr + PartialOrd + std::fmt::Display,
{
    let (min, max) = (range.start(), range.end());
    let number = text.parse().ok().filter(|number| range.contains(number));
    number.ok_or_else(|| format!("`{text}` is not a whole number from {min} to {max}"))
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| format!("`{text}` is neither true nor false; write one of them"))
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        Err("the path is empty; write one, or leave the setting out".into())
    } else {
        Ok(PathBuf::from(text))
    }
}

/// Parses a database URL: `sqlite://` and a path, which is relative unless it begins with a slash, or the URL of a
/// PostgreSQL server.
pub(super) fn database(text: &str) -> Result<Database, String> {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return postgres_url(text).map(Database::Postgres);
    }
    let form =
        "write it as sqlite://ringback.db, sqlite:///abs/path.db or postgres://user:password@host/name";
    match text.strip_prefix("sqlite://") {
        None => Err(format!("this is not the URL of an SQLite or PostgreSQL database; {form}")),
        Some("" | "/") => Err(format!("the file is missing; {form}")),
        Some(path) if path.starts_with(":memory:") => {
            Err(format!("a database in memory would lose everything at a restart; {form}"))
        }
        Some(path) if path.contains(['?', '#']) => Err(format!("parameters are not supported; {form}")),
        Some(path) if has_escape(path) => Err(
            "the path is taken as it is, and escapes such as %20 are not decoded; write the character itself"
                .into(),
        ),
        Some(path) => Ok(Database::Sqlite(PathBuf::from(path))),
    }
}

/// Returns whether a text has percent-encoded bytes, as in a URL.
fn has_escape(text: &str) -> bool {
    let escaped = |rest: &str| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    text.split('%').skip(1).any(escaped)
}

/// Checks the URL of a PostgreSQL server. The library's messages are not repeated: what the library takes for a
/// parameter can be part of a password.
fn postgres_url(text: &str) -> Result<Masked, String> {
    let form = "write it as postgres://user:password@host:5432/name?sslmode=require, with %40 for an @ in the \
                password and so on";
    let parsed = PostgresUrl::parse(text)?;
    let config = tokio_postgres::Config::from_str(parsed.url.reveal());
    let config = config.map_err(|_| format!("this URL cannot be read; {form}"))?;
    let missing = if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        "the host"
    } else if config.get_dbname().is_none() {
        "the name of the database"
    } else {
        return Ok(Masked::new(text));
    };
    Err(format!("{missing} is missing; {form}"))
}

/// Returns a value as it may be shown: passwords in URLs are replaced.
pub(super) fn without_password(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let rest = match rest.rsplit_once('@') {
        // Everything before the last @ can be part of the password.
        Some((user, rest)) => {
            let (user, password) = user.split_once(':').unwrap_or((user, ""));
            format!("{user}{}@{rest}", if password.is_empty() { "" } else { ":***" })
        }
        None => rest.to_owned(),
    };
    let Some((place, parameters)) = rest.split_once('?') else { return format!("{scheme}://{rest}") };
    let masked = parameters.split('&').map(|one| match one.split_once('=') {
        Some((name, _)) if name.to_lowercase().contains("pass") || name.contains('%') => {
            format!("{name}=***")
        }
        _ => one.to_owned(),
    });
    format!("{scheme}://{place}?{}", masked.collect::<Vec<_>>().join("&"))
}

/// Parses encryption keys, each of 32 bytes in base64 of either alphabet, with or without padding.
pub(super) fn encryption_keys(text: &str) -> Result<Vec<EncryptionKey>, String> {
    const FORM: &str = "make one with `openssl rand -base64 32`";
    let mut keys = Vec::new();
    for one in text.split(',') {
        let plain = one.trim().trim_end_matches('=').replace('-', "+").replace('_', "/");
        let bytes = STANDARD_NO_PAD.decode(plain).map_err(|_| format!("a key is not base64; {FORM}"))?;
        let length = bytes.len();
        let bytes = bytes.try_into().map_err(|_| format!("a key has {length} bytes; {FORM}"))?;
        let key = EncryptionKey(bytes);
        if keys.contains(&key) {
            return Err("a key occurs twice; remove one".to_owned());
        }
        keys.push(key);
    }
    at_most(keys.len(), ENCRYPTION_KEYS_MAX, "keys")?;
    Ok(keys)
}

/// Parses an http(s) URL to which paths are appended.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let url = web_url(text, "URL", |url| {
        if !url.username().is_empty() || url.password().is_some() {
            Some("it must not contain a user name or a password")
        } else {
            (url.query().or(url.fragment()).is_some()).then_some("it must not have a query or a fragment")
        }
    })?;
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Parses the URL of a proxy.
pub(super) fn proxy(text: &str) -> Result<Masked, String> {
    // A password that begins with digits is a port, and the URL another one.
    if has_cut_password(text) {
        return Err(format!("this proxy cannot be used: {CUT_PASSWORD}"));
    }
    let url = web_url(text, "proxy", |url| {
        if url.path() != "/" || url.query().or(url.fragment()).is_some() {
            Some("it must end after the port, as in http://user:password@proxy:3128")
        } else {
            (url.port() == Some(0)).then_some("its port must not be 0")
        }
    })?;
    Ok(Masked::new(url.as_str()))
}

/// Parses an http(s) URL, and checks it. It is not repeated in the messages: it can hold a credential.
fn web_url(text: &str, what: &str, wrong: fn(&Url) -> Option<&'static str>) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| {
        format!("this {what} cannot be used: {}", url_error(text, error, "http:// or https://"))
    })?;
    let is_web = matches!(url.scheme(), "http" | "https");
    match if is_web { wrong(&url) } else { Some("it must begin with http:// or https://") } {
        Some(wrong) => Err(format!("this {what} cannot be used: {wrong}")),
        None => Ok(url),
    }
}

pub(super) fn api_key(text: &str) -> Result<Masked, String> {
    header_value(text, 16..=256)
}

/// Returns a credential with several fields in one line: the JSON object of a file, such as the key of a service
/// account, or lines `field=value`. Returns `None` for every other text.
pub(super) fn fields_in_one_line(text: &str) -> Option<String> {
    let text = text.trim();
    if text.starts_with('{') {
        return serde_json::from_str::<Map<String, Value>>(text)
            .ok()
            .map(|fields| Value::Object(fields).to_string());
    }
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let field = |line: &&str| {
        let (name, value) = line.split_once('=')?;
        let (name, value) = (name.trim(), value.trim());
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        (is_name && !value.is_empty()).then(|| (name.to_owned(), value.into()))
    };
    let fields: Option<Map<String, Value>> = lines.iter().map(field).collect();
    fields.filter(|_| lines.len() > 1).map(|fields| Value::Object(fields).to_string())
}

/// Checks the credential of a provider. The definition says which of several fields go into a header, and checks those.
pub(super) fn credential(text: &str) -> Result<Masked, String> {
    let lengths = 1..=CREDENTIAL_MAX;
    let has_fields = text.starts_with('{') && serde_json::from_str::<Map<String, Value>>(text).is_ok();
    if has_fields && lengths.contains(&text.len()) && !text.chars().any(char::is_control) {
        return Ok(Masked::new(text));
    }
    header_value(text, lengths)
}

fn header_value(text: &str, lengths: RangeInclusive<usize>) -> Result<Masked, String> {
    if !lengths.contains(&text.len()) {
        let (length, min, max) = (text.chars().count(), lengths.start(), lengths.end());
        return Err(format!("the key has {length} characters; it must have {min} to {max}"));
    }
    printable(text)
}

/// Returns the values of a channel's setting as they are kept: one, unless the setting is a list.
pub(super) fn channel_values(check: SettingCheck, values: &[String]) -> Result<Vec<String>, String> {
    match check {
        SettingCheck::Text(check) => check(&values[0])?,
        SettingCheck::Credential(check) => check(credential(&values[0])?.reveal())?,
        SettingCheck::BaseUrl => return base_url(&values[0]).map(|url| vec![url]),
        SettingCheck::List(check) => check(values)?,
    }
    Ok(values.to_vec())
}

/// Parses headers as OpenTelemetry writes them: `name=value,name=value`, with percent-encoded values.
pub(super) fn headers(text: &str) -> Result<Vec<(String, Masked)>, String> {
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let mut headers = Vec::new();
    for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
        // The value is not repeated in the messages: it usually is a key.
        let (name, value) = pair.split_once('=').ok_or("a header has no value; write it as name=value")?;
        let name = name.trim();
        if name.is_empty() || !name.chars().all(token) {
            return Err(format!("`{name}` is not the name of a header"));
        }
        let value = percent_encoding::percent_decode_str(value.trim()).decode_utf8();
        let value = value.map_err(|_| "a header's value is not UTF-8")?;
        headers.push((name.to_ascii_lowercase(), printable(&value)?));
    }
    Ok(headers)
}

/// Checks the name of this service in traces.
pub(super) fn service_name(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("the name of the service is empty".into()),
        name if name.len() > SERVICE_NAME_MAX => {
            Err(format!("the name of the service is too long; the maximum is {SERVICE_NAME_MAX} characters"))
        }
        name => Ok(name.to_owned()),
    }
}

/// Checks that a key arrives unchanged in a header. Servers remove spaces at its ends.
fn printable(text: &str) -> Result<Masked, String> {
    if text.trim() != text {
        Err("the key begins or ends with a space or a line break; remove it".into())
    } else if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        Err("the key contains characters that are not printable ASCII; copy it again".into())
    } else {
        Ok(Masked::new(text))
    }
}

pub(super) fn signing_secret(text: &str) -> Result<Masked, String> {
    let form = "write it as whsec_ and the base64 of 24 to 64 bytes";
    let encoded =
        text.strip_prefix("whsec_").ok_or_else(|| format!("a signing secret begins with whsec_; {form}"))?;
    let bytes =
        STANDARD.decode(encoded).map_err(|_| format!("the part after whsec_ is not base64; {form}"))?;
    if !(24..=64).contains(&bytes.len()) {
        return Err(format!("the secret has {} bytes; {form}", bytes.len()));
    }
    Ok(Masked::new(text))
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    // The library takes a bare word that is not a level for a target, and then logs nothing else.
    let mut words =
        text.split(',').map(str::trim).filter(|word| !word.is_empty() && !word.contains(['=', '[']));
    // It reads a level in either case, and 0 to 5 as well.
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        let near = nearest(word, LEVELS.iter().copied()).filter(|(edits, _)| edits * 2 < word.len());
        let near = near.map_or(String::new(), |(_, near)| format!(", the nearest is {near}"));
        let levels = LEVELS.join(", ");
        return Err(format!(
            "`{word}` is not a level{near}; write one of {levels}, or a filter such as {word}=debug"
        ));
    }
    let wrong = |error| format!("`{text}` is not a log filter such as info or ringback=debug,warn: {error}");
    EnvFilter::builder().parse(text).map(|_| text.to_owned()).map_err(wrong)
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("`{text}` is neither text nor json; write one of them")),
    }
}

pub(super) fn allow(entries: &[String]) -> Result<Vec<String>, String> {
    at_most(entries.len(), ALLOW_MAX, "entries")?;
    entries_of(entries, allowed)
}

fn allowed(entry: &str) -> Result<String, String> {
    if entry.parse::<ipnet::IpNet>().is_ok() || entry.parse::<IpAddr>().is_ok() {
        return Ok(entry.to_ascii_lowercase());
    }
    parse_host_name(entry).ok_or_else(|| format!(
        "`{entry}` is neither a network (10.0.0.0/8), nor an address (10.1.2.3), nor a host name without a port"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[&str]) -> Vec<String> {
        entries.iter().map(|&entry| entry.to_owned()).collect()
    }

    #[test]
    fn a_database_is_a_file_relative_or_absolute() {
        let file = |path: &str| Ok(Database::Sqlite(PathBuf::from(path)));
        assert_eq!(database("sqlite://ringback.db"), file("ringback.db"));
        assert_eq!(database("sqlite:///var/lib/r.db"), file("/var/lib/r.db"));
        for text in [
            "",
            "ringback.db",
            "sqlite:r.db",
            "sqlite://",
            "sqlite://:memory:",
            "sqlite://r.db?x=1",
            "sqlite://my%20data.db",
        ] {
            assert!(database(text).is_err(), "{text}");
        }
        assert_eq!(database("sqlite://100%.db"), file("100%.db"));
        assert!(database("mysql://u:hush@db/r").is_err_and(|e| !e.contains("hush")));
    }

    #[test]
    fn a_postgres_url_is_shown_without_its_password() {
        for text in [
            "postgres://db/r",
            "postgresql://u@db:5433/r?sslmode=disable",
            "postgres://u:hush@a,b/r?sslmode=require",
            "postgres://u@%2Frun%2Fpostgresql/r",
            "postgres://u:hu?sh=hush@db/r",
        ] {
            assert_eq!(database(text), Ok(Database::Postgres(Masked::new(text))), "{text}");
        }
        for text in [
            "postgres://u:hush@db",
            "postgres://u:hush@/r",
            "postgres://u:hush@db/r?sslmode=verify",
            "postgres://u:hush@db:port/r",
        ] {
            assert!(database(text).is_err_and(|error| !error.contains("hush")), "{text}");
        }
        for (text, shown) in [
            ("postgres://db/r", "postgres://db/r"),
            ("postgres://u@db/r", "postgres://u@db/r"),
            ("postgres://u:hush@db/r?sslmode=require", "postgres://u:***@db/r?sslmode=require"),
            ("postgres://u:hu@sh@db/r", "postgres://u:***@db/r"),
            ("postgres://u:hu/s?h@db/r", "postgres://u:***@db/r"),
            ("postgres://db/r?user=u&password=hush", "postgres://db/r?user=u&password=***"),
            ("postgres://db/r?p%61ssword=hush", "postgres://db/r?p%61ssword=***"),
            (
                "smtp://me%40a.example:hush@a.example:587?tls=required",
                "smtp://me%40a.example:***@a.example:587?tls=required",
            ),
            ("sqlite://ringback.db", "sqlite://ringback.db"),
            ("127.0.0.1:8080", "127.0.0.1:8080"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }

    #[test]
    fn a_base_url_has_no_part_after_its_path() {
        assert_eq!(base_url("https://Example.com/"), Ok("https://example.com".into()));
        assert_eq!(base_url("http://127.0.0.1:9100/a/"), Ok("http://127.0.0.1:9100/a".into()));
        for text in
            ["", "example.com", "ftp://a.example", "https://u:hush@a.example", "https://a/?q", "https://a/#f"]
        {
            assert!(base_url(text).is_err_and(|error| !error.contains("hush")), "{text}");
        }
    }

    #[test]
    fn a_bare_word_in_a_log_filter_must_be_a_level() {
        for text in [
            "info",
            "WARN",
            "off",
            "ringback=debug,warn",
            "warn,ringback=debug",
            "hyper=info",
            "hyper_util=trace,error",
            "[polled]=debug",
            "ringback[polled{job}]=trace,info",
        ] {
            assert_eq!(log_filter(text).as_deref(), Ok(text));
        }
        for text in ["verbose", "loud", "ringback", "ringback=debug,loud", "loud,info", "ringback=loud"] {
            assert!(log_filter(text).is_err(), "{text}");
        }
        insta::assert_snapshot!(
            log_filter("ringback=debug,warning").unwrap_err(),
            @"`warning` is not a level, the nearest is warn; write one of off, error, warn, info, debug, trace, or a filter such as warning=debug"
        );
    }

    #[test]
    fn an_allowed_entry_is_a_network_an_address_or_a_name() {
        let good = [
            "10.0.0.0/8",
            "fd00::/8",
            "10.1.2.3",
            "::1",
            "localhost",
            "Hooks.internal",
            "a_b.example",
            "my_app",
            "1.example",
            "a.example.",
        ];
        assert_eq!(allow(&list(&good)).map(|allow| allow.len()), Ok(good.len()));
        assert_eq!(allow(&list(&["Hooks.internal"])), Ok(list(&["hooks.internal"])));
        for bad in [
            "",
            "10.0.0.0/33",
            "10.0.0",
            "10.0.0.256",
            "localhost:9000",
            "http://a.example",
            "*.example.com",
            "a..b",
            "-a.example",
            "a b",
            "[::1]",
        ] {
            assert!(allow(&list(&[bad])).is_err(), "{bad}");
        }
        assert!(allow(&vec!["a.example".to_owned(); ALLOW_MAX + 1]).is_err());
    }

    #[test]
    fn the_error_of_a_list_names_each_wrong_entry() {
        let error = allow(&list(&["10.0.0.0/8", "a b", "localhost", "c d"])).unwrap_err();
        assert!(error.contains("`a b` is neither") && error.contains("; `c d` is neither"), "{error}");
        assert!(!error.contains("localhost"), "{error}");
        let error = schedule(&list(&["5", "5s", "x"])).unwrap_err();
        assert!(error.starts_with("`5` is not a duration") && error.contains("; `x` is not a"), "{error}");
        let error = schedule(&vec!["x".to_owned(); 20]).unwrap_err();
        assert!(error.matches("`x` is not").count() == 8, "{error}");
        assert!(error.ends_with("; 12 further entries are wrong"), "{error}");
    }

    #[test]
    fn errors_about_keys_and_secrets_do_not_repeat_them() {
        assert!(api_key("0123456789 abcde").is_ok());
        for text in [
            "short-and-hush",
            "hush-0123456789abcdef\n",
            "hush-0123456789-schlüssel",
            " hush-0123456789abcdef",
        ] {
            assert!(api_key(text).is_err_and(|error| !error.contains("hush")), "{text}");
        }
        assert!(api_key(&"x".repeat(257)).is_err());
        let secret = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
        assert!(signing_secret(&secret(24)).is_ok() && signing_secret(&secret(64)).is_ok());
        for text in [secret(23), secret(65), "whsec_???".into(), "hush".into(), "whsec_".into()] {
            assert!(signing_secret(&text).is_err_and(|error| !error.contains("hush")), "{text}");
        }
    }

    #[test]
    fn numbers_and_durations_have_bounds() {
        assert_eq!(integer("16", 1..=1_000_usize), Ok(16));
        for text in ["0", "1001", "-1", "1e2", "", "sixteen"] {
            assert!(integer(text, 1..=1_000_usize).is_err(), "{text}");
        }
        assert!(duration("2d", DAY).is_err());
        assert_eq!(schedule(&[]), Ok(vec![]));
        assert!(schedule(&vec!["5s".to_owned(); RETRIES_MAX + 1]).is_err());
        for too_long in ["31d", "31000000000000000000d"] {
            let error = schedule(&list(&["5s", too_long])).unwrap_err();
            assert_eq!(error, format!("`{too_long}` is too long; the maximum is 30d"));
        }
    }

    #[test]
    fn an_encryption_key_is_32_bytes_in_either_base64() {
        let (standard, url) = ("+/".repeat(21) + "8=", "-_".repeat(21) + "8");
        let read = encryption_keys(&standard).expect("a key");
        assert_eq!(encryption_keys(&url), Ok(read.clone()));
        assert_eq!(format!("{read:?}"), "[***]");
        let other = "A".repeat(43);
        assert_eq!(encryption_keys(&format!("{standard}, {other}=")).map(|keys| keys.len()), Ok(2));
        for text in ["hush", "", "hush!", &format!("{standard},"), &format!("{standard},{url}")] {
            assert!(encryption_keys(text).is_err_and(|wrong| !wrong.contains("hush")), "{text}");
        }
    }

    #[test]
    fn fields_of_a_credential_may_have_any_characters() {
        let fields = fields_in_one_line("account=straße\nsecret=b2").expect("fields");
        for text in [fields.as_str(), r#"{"account":"straße","secret":"日本"}"#] {
            assert!(credential(text).is_ok(), "{text}");
        }
        for text in ["straße", "{straße", "{\"a\":\"\u{7f}\"}", " {\"a\":\"straße\"}"] {
            assert!(credential(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_credential_with_several_fields_may_have_several_lines() {
        let json = r#"{"client_email":"a@b.example","private_key":"-----BEGIN\nx\n"}"#;
        for (text, expected) in [
            (
                "{\n  \"client_email\": \"a@b.example\",\n  \"private_key\": \"-----BEGIN\\nx\\n\"\n}\n",
                Some(json),
            ),
            ("client_id=a\r\nclient_secret = b=c\n", Some(r#"{"client_id":"a","client_secret":"b=c"}"#)),
            ("client_id=a", None),
            ("hush\nhush", None),
            ("aGVsbG8=\nd29ybGQ=", None),
            ("{hush", None),
        ] {
            assert_eq!(fields_in_one_line(text).as_deref(), expected, "{text}");
        }
        assert!(credential(json).is_ok());
    }
}
