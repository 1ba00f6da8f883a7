//! Compiling a definition file to a [`Definition`].
//!
//! All errors are listed at once, each with its line and its key, for the author of the definition. Only an error in
//! the form (no TOML, an unknown key, a wrong type) is reported alone.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::time::Duration;

use toml::de::{DeTable, DeValue};
use url::Url;

use super::definition::{
    Auth, Condition, Definition, Errors, Example, Expect, NotFound, RequestForm, StatusWords, authority,
};
use super::extract::{Extract, Path, Paths, Progress};
use super::file::{
    AuthTable, AuthType, File, LimitsTable, Method, NotFoundTable, PollTable, RequestTable, StatusTable,
};
use super::template::{Param, ParamTable, Template, UrlTemplate};
use crate::domain::{EndingKind, JobStatus, Limits, PollPolicy, parse_duration, parse_rate};

/// Version of the definition language.
const SCHEMA: u32 = 1;

/// Longest deadline: no watch lives longer.
const MAX_DEADLINE: Duration = Duration::from_secs(30 * 86_400);

/// Longest timeout. No status request needs longer, and a poll uses a place of the concurrency during that time.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// Largest concurrency and burst. More requests at once would be a load test.
const MAX_CONCURRENCY: u32 = 10_000;

/// Largest response that a definition may allow. A response is held in memory, and its parsed form takes a
/// multiple of this, for every poll in flight.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Headers that a definition cannot set: they belong to the connection or to another table.
const RESERVED_HEADERS: &[&str] = &[
    "accept-encoding",
    "authorization",
    "connection",
    "content-length",
    "cookie",
    "host",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Definition {
    /// Parses a definition. The error lists every error as a sentence. The examples are not checked here.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let file: File = toml::from_str(text).map_err(|error| vec![located(text, &error)])?;
        let mut report = DefinitionErrors::default();
        match definition(file, &mut report) {
            Some(definition) if report.0.is_empty() => Ok(definition),
            _ => Err(report.located(text)),
        }
    }
}

/// Returns an error in the form, with its line.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end();
    match error.span() {
        Some(span) => format!("line {}: {message}", line_of(text, span.start)),
        None => message.to_owned(),
    }
}

/// Returns the number of the line that contains the byte at `at`, from 1.
fn line_of(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).matches('\n').count() + 1
}

/// Returns the line of a dotted key, or of the deepest table of its path that the file has; `None` if it has none.
fn line_of_key(text: &str, key: &str) -> Option<usize> {
    let parsed = DeTable::parse(text).ok()?;
    let (mut table, mut line) = (Some(parsed.get_ref()), None);
    for word in key.split('.') {
        let Some((name, value)) = table.and_then(|table| table.get_key_value(word)) else { break };
        line = Some(line_of(text, name.span().start));
        table = if let DeValue::Table(inner) = value.get_ref() { Some(inner) } else { None };
    }
    line
}

/// Returns `None` if a part is invalid and has no default value. Its error is then in `report`.
fn definition(file: File, report: &mut DefinitionErrors) -> Option<Definition> {
    let File { id, name, docs, response, extract, errors, .. } = file;
    let sentence = format_args!("{} is unknown; this version supports schema {SCHEMA}", file.schema);
    report.require(file.schema == SCHEMA, "schema", sentence);
    let sentence = "must be 1 to 40 characters of a-z, 0-9 and -, starting with a letter";
    report.require(is_slug(&id), "id", sentence);
    report.require(!name.trim().is_empty(), "name", "must not be empty");
    let is_url = Url::parse(&docs).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
    report.require(is_url, "docs", "must be the URL of the provider's documentation");
    let mut params = file.params;
    let job_id = job_id_param(params.remove("job_id").unwrap_or_default(), report);
    let params = params.into_iter().map(|(name, table)| {
        let param = report.param(&name, table);
        (name, param)
    });
    let params = params.collect();
    let request = request_form(file.request, file.auth, report);
    if let Some(request) = &request {
        check_names(request, &params, report);
    }
    check_examples(&file.example, report);
    let (not_found, grace) = not_found(file.not_found, &errors.code, report);
    report.paths("response.unwrap", &response.unwrap.0);
    report.paths("response.request_id", &response.request_id.0);
    let status = status_words(file.status, report);
    check_extract(&extract, report);
    check_errors(&errors, report);
    let (poll, limits) = (poll(file.poll, grace, report), limits(file.limits, report));
    Some(Definition {
        id,
        name,
        docs,
        poll,
        limits,
        job_id,
        params,
        request: request?,
        response,
        status,
        extract,
        errors,
        not_found,
        examples: file.example,
    })
}

/// Checks that the examples show a job that runs, one that completed and one that failed.
fn check_examples(examples: &[Example], report: &mut DefinitionErrors) {
    let (completed, failed) = (Some(EndingKind::Completed), Some(EndingKind::Failed));
    for (ending, class) in [(None, "still runs"), (completed, "completed"), (failed, "failed")] {
        let shows = |expect: &Expect| matches!(expect, Expect::Seen(seen) if seen.status.ending() == ending);
        let is_shown = examples.iter().any(|example| shows(&example.expect));
        report.require(is_shown, "example", format_args!("at least one must show a job that {class}"));
    }
}

/// Errors found so far: the key of each, and its sentence.
#[derive(Default)]
struct DefinitionErrors(Vec<(String, String)>);

impl DefinitionErrors {
    fn add(&mut self, key: &str, sentence: impl Display) {
        self.0.push((key.to_owned(), sentence.to_string()));
    }

    /// Returns the errors as text, with the line of each in the file.
    fn located(self, text: &str) -> Vec<String> {
        let located = |(key, sentence): (String, String)| match line_of_key(text, &key) {
            Some(line) => format!("line {line}: {key}: {sentence}"),
            None => format!("{key}: {sentence}"),
        };
        self.0.into_iter().map(located).collect()
    }

    /// Returns a parameter, or adds its error.
    fn param(&mut self, name: &str, table: ParamTable) -> Param {
        let key = format!("params.{name}");
        match Param::check_pattern(&table) {
            Ok(()) => self.take(&key, Param::new(table)),
            Err(sentence) => {
                self.add(&format!("{key}.pattern"), sentence);
                <Param as Default>::default()
            }
        }
    }

    /// Adds the sentence unless the condition holds.
    fn require(&mut self, holds: bool, key: &str, sentence: impl Display) {
        if !holds {
            self.add(key, sentence);
        }
    }

    /// Returns the value, or adds its error.
    fn ok<T>(&mut self, key: &str, value: Result<T, String>) -> Option<T> {
        value.map_err(|sentence| self.add(key, sentence)).ok()
    }

    /// Returns the value, or adds its error and returns a default. A definition with an error is never used.
    fn take<T: Default>(&mut self, key: &str, value: Result<T, String>) -> T {
        self.ok(key, value).unwrap_or_default()
    }

    /// Returns an entry of a table; see [`Self::take`].
    fn entry<T: Default>(&mut self, table: &str, name: String, value: Result<T, String>) -> (String, T) {
        let value = self.take(&format!("{table}.{name}"), value);
        (name, value)
    }

    /// Adds the errors of paths.
    fn paths(&mut self, key: &str, paths: &[Path]) {
        for sentence in paths.iter().filter_map(|path| path.0.as_ref().err()) {
            self.add(key, sentence);
        }
    }

    /// Adds the errors of paths of which at least one is required.
    fn some_paths(&mut self, key: &str, paths: &[Path]) {
        self.require(!paths.is_empty(), key, "a path is required");
        self.paths(key, paths);
    }

    fn duration(&mut self, key: &str, text: Option<&str>, default: &str) -> Duration {
        self.take(key, parse_duration(text.unwrap_or(default)))
    }
}

/// Returns whether `id` consists of lower case letters, digits and dashes, so that it can be part of the name of a
/// variable and of a file.
fn is_slug(id: &str) -> bool {
    id.len() <= 40
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn job_id_param(table: ParamTable, report: &mut DefinitionErrors) -> Param {
    let key = "params.job_id";
    let pattern = "a `pattern` is required, so that a registration with an impossible id is rejected";
    report.require(table.pattern.is_some(), key, pattern);
    let plain = table.default.is_none() && table.r#enum.is_none();
    let given = "`default` and `enum` are not allowed, because every registration gives a job id";
    report.require(plain, key, given);
    report.param("job_id", table)
}

fn request_form(table: RequestTable, auth: AuthTable, report: &mut DefinitionErrors) -> Option<RequestForm> {
    let RequestTable { method: None | Some(Method::Get), url, query, headers, timeout, max_body } = table;
    let url = report.ok("request.url", UrlTemplate::parse(&url));
    let parse = |(name, text): (_, String)| report.entry("request.query", name, Template::parse(&text));
    let query = query.into_iter().map(parse).collect();
    let headers = headers.into_iter().map(|(name, text)| {
        let key = format!("request.headers.{name}");
        let name = report.take(&key, header_name(&name));
        let reserved = RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-");
        let sentence = "a definition cannot set this header; describe a credential in [auth]";
        report.require(!reserved, &key, sentence);
        (name, report.take(&key, Template::parse(&text)))
    });
    let headers = headers.collect();
    let timeout = report.duration("request.timeout", timeout.as_deref(), "20s");
    if timeout > MAX_TIMEOUT {
        report.add("request.timeout", format!("must be at most {} s", MAX_TIMEOUT.as_secs()));
    }
    let max_body = report.take("request.max_body", parse_size(max_body.as_deref().unwrap_or("1MiB")));
    let auth = credential(auth, report);
    if let (Some(auth), Some(url)) = (&auth, &url) {
        let sentence = "must contain the host of request.url, whose scheme must be https";
        report.require(auth.trusts(&url.origin), "auth.send_to", sentence);
    }
    Some(RequestForm { url: url?, query, headers, timeout, max_body, auth })
}

/// Parses a size, such as `64KiB` or `1MiB`.
fn parse_size(text: &str) -> Result<usize, String> {
    let parse = |(unit, bytes)| text.strip_suffix(unit)?.parse::<usize>().ok()?.checked_mul(bytes);
    let size = [("KiB", 1024), ("MiB", 1024 * 1024)].into_iter().find_map(parse);
    size.filter(|size| (1024..=MAX_BODY).contains(size))
        .ok_or_else(|| format!("`{text}` is not a size from 1KiB to 16MiB; write it as 64KiB or 1MiB"))
}

fn credential(table: AuthTable, report: &mut DefinitionErrors) -> Option<Auth> {
    let AuthTable { r#type, header, prefix, send_to } = table;
    let is_bare = header.is_none() && prefix.is_none();
    let (header, prefix) = match r#type {
        AuthType::None => {
            let sentence = "type `none` allows no `header`, `prefix` or `send_to`";
            report.require(is_bare && send_to.is_empty(), "auth", sentence);
            return None;
        }
        AuthType::Bearer => {
            report.require(is_bare, "auth", "`header` and `prefix` are allowed only with type `header`");
            ("authorization".to_owned(), "Bearer ".to_owned())
        }
        AuthType::Header => {
            let name = header.ok_or_else(|| "type `header` requires the name of the header".to_owned());
            let name = name.and_then(|name| header_name(&name));
            (report.take("auth.header", name), prefix.unwrap_or_default())
        }
    };
    let is_printable = prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
    report.require(is_printable, "auth.prefix", "contains characters that are not allowed in a header");
    let sentence = "must list the hosts to which the credential may be sent";
    report.require(!send_to.is_empty(), "auth.send_to", sentence);
    let send_to = send_to.iter().map(|host| report.take("auth.send_to", host_and_port(host))).collect();
    Some(Auth { header, prefix, send_to })
}

/// Parses `api.example.com` or `api.example.com:8443`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let foreign = |c: char| c.is_whitespace() || "/@?#*\\".contains(c);
    let url = Url::parse(&format!("https://{text}")).ok().filter(|_| !text.contains(foreign));
    url.as_ref()
        .and_then(authority)
        .ok_or_else(|| format!("`{text}` is not a host; write it as api.example.com or api.example.com:8443"))
}

fn header_name(name: &str) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let is_name = !name.is_empty() && name.bytes().all(is_token);
    is_name.then(|| name.to_ascii_lowercase()).ok_or_else(|| format!("`{name}` is not a valid header name"))
}

/// Checks that every parameter is declared and used.
fn check_names(form: &RequestForm, params: &BTreeMap<String, Param>, report: &mut DefinitionErrors) {
    let headers = form.headers.iter().map(|(_, template)| template);
    let templates = std::iter::once(&form.url.path).chain(form.query.values()).chain(headers);
    let used: Vec<&str> = templates.flat_map(Template::names).collect();
    for name in &used {
        let is_declared = *name == "job_id" || params.contains_key(*name);
        let sentence = format_args!("`{{{name}}}` is not declared; add [params.{name}]");
        report.require(is_declared, "request", sentence);
    }
    for name in params.keys().map(String::as_str).chain(["job_id"]) {
        let key = format!("params.{name}");
        report.require(used.contains(&name), &key, "the request does not use this parameter; remove it");
    }
}

fn status_words(table: StatusTable, report: &mut DefinitionErrors) -> StatusWords {
    let StatusTable { path, fold, unknown, map, explain } = table;
    let unknown = unknown.unwrap_or(JobStatus::Processing);
    let sentence = "must be processing or pending, because an unknown status must not end a job";
    let is_running = matches!(unknown, JobStatus::Pending | JobStatus::Processing);
    report.require(is_running, "status.unknown", sentence);
    let key = "status.map";
    report.require(!map.completed.is_empty(), key, "at least one word must mean completed");
    report.require(!map.failed.is_empty(), key, "at least one word must mean failed");
    let runs = !map.pending.is_empty() || !map.processing.is_empty();
    report.require(runs, key, "at least one word must mean pending or processing");
    let classes = [
        (JobStatus::Pending, map.pending),
        (JobStatus::Processing, map.processing),
        (JobStatus::Completed, map.completed),
        (JobStatus::Failed, map.failed),
        (JobStatus::Cancelled, map.cancelled),
    ];
    let mut words = HashMap::new();
    for (class, list) in classes {
        for word in list {
            report.require(!word.trim().is_empty(), key, format_args!("{class} contains an empty word"));
            if let Some(other) = words.insert(fold.apply(&word), class) {
                report.add(key, format!("`{word}` is listed twice, in {other} and in {class}"));
            }
        }
    }
    for word in explain.keys().map(|word| fold.apply(word)) {
        if !matches!(words.get(&word), Some(JobStatus::Failed | JobStatus::Cancelled)) {
            report.add("status.explain", format!("`{word}` is not a word of failed or cancelled"));
        }
    }
    let explain = explain.into_iter().map(|(word, sentence)| (fold.apply(&word), sentence)).collect();
    report.some_paths("status.path", &path.0);
    StatusWords { path, fold, unknown, words, explain }
}

fn check_extract(extract: &Extract, report: &mut DefinitionErrors) {
    report.some_paths("extract.job_id", &extract.job_id.0);
    if let Some(progress) = &extract.progress {
        check_progress(progress, report);
    }
    report.paths("extract.output", &extract.output.0);
    if let Some(outputs) = &extract.outputs {
        report.some_paths("extract.outputs.each", &outputs.each.0);
        report.some_paths("extract.outputs.url", &outputs.url.0);
        report.paths("extract.outputs.type", &outputs.r#type.0);
        report.paths("extract.outputs.thumbnail", &outputs.thumbnail.0);
        report.paths("extract.outputs.poster", &outputs.poster.0);
    }
    report.paths("extract.error_code", &extract.error_code.0);
    report.paths("extract.error_message", &extract.error_message.0);
    if let Some(time) = &extract.created_at {
        report.some_paths("extract.created_at", &time.path.0);
    }
    if let Some(time) = &extract.completed_at {
        report.some_paths("extract.completed_at", &time.path.0);
    }
}

fn check_progress(progress: &Progress, report: &mut DefinitionErrors) {
    let key = "extract.progress";
    match progress {
        Progress { path, unit: Some(_), ratio: None } => report.some_paths(key, &path.0),
        Progress { path, unit: None, ratio: Some(ratio) } if path.0.is_empty() => {
            report.paths(key, ratio);
        }
        _ => report.add(key, "set either `path` and `unit`, or `ratio` alone"),
    }
}

fn check_errors(errors: &Errors, report: &mut DefinitionErrors) {
    let has_code = !errors.code.0.is_empty() || errors.account.is_empty();
    report.require(has_code, "errors.account", "requires errors.code, the path of the code that is compared");
    if let Some(Condition { path, is }) = &errors.when {
        let is_plain = is.is_boolean() || is.is_number() || is.is_string();
        report.require(is_plain, "errors.when", "`is` must be a boolean, a number or a string");
        report.paths("errors.when", std::slice::from_ref(path));
    }
    report.paths("errors.code", &errors.code.0);
    report.paths("errors.message", &errors.message.0);
}

/// Returns how the provider reports an unknown job, and for how long that may mean "not yet created".
fn not_found(
    table: NotFoundTable,
    error_code: &Paths,
    report: &mut DefinitionErrors,
) -> (NotFound, Duration) {
    let NotFoundTable { http, mut path, values, grace } = table;
    let http = http.unwrap_or_else(|| vec![404]);
    let is_about_job = |status: &u16| (400..500).contains(status) && ![401, 429].contains(status);
    let sentence = "must list statuses from 400 to 499, except 401 and 429";
    report.require(!http.is_empty() && http.iter().all(is_about_job), "not_found.http", sentence);
    // The codes are at `errors.code`, unless `not_found.path` is set.
    if path.0.is_empty() && !values.is_empty() {
        path = error_code.clone();
        let sentence = "requires a path: not_found.path or errors.code";
        report.require(!path.0.is_empty(), "not_found.values", sentence);
    }
    report.paths("not_found.path", &path.0);
    (NotFound { http, path, values }, report.duration("not_found.grace", grace.as_deref(), "60s"))
}

fn poll(table: PollTable, not_found_grace: Duration, report: &mut DefinitionErrors) -> PollPolicy {
    let PollTable { first, min_interval, max_interval, deadline, price } = table;
    let poll = PollPolicy {
        first: report.duration("poll.first", first.as_deref(), "5s"),
        min_interval: report.duration("poll.min_interval", min_interval.as_deref(), "1s"),
        max_interval: report.duration("poll.max_interval", max_interval.as_deref(), "60s"),
        deadline: report.duration("poll.deadline", deadline.as_deref(), "24h"),
        not_found_grace,
        price: report.duration("poll.price", price.as_deref(), "5s"),
    };
    let PollPolicy { first, min_interval, max_interval, deadline, .. } = poll;
    let sentence = "must not be greater than poll.max_interval";
    report.require(min_interval <= max_interval, "poll.min_interval", sentence);
    let sentence = "must be between poll.first and 30d";
    report.require((first..=MAX_DEADLINE).contains(&deadline), "poll.deadline", sentence);
    report.require(not_found_grace <= deadline, "not_found.grace", "must not be longer than poll.deadline");
    poll
}

fn limits(table: LimitsTable, report: &mut DefinitionErrors) -> Limits {
    let LimitsTable { rate, burst, concurrency } = table;
    let rate = report.take("limits.rate", parse_rate(rate.as_deref().unwrap_or("1/s")));
    let (burst, concurrency) = (burst.unwrap_or(1), concurrency.unwrap_or(4));
    for (key, value) in [("limits.burst", burst), ("limits.concurrency", concurrency)] {
        if !(1..=MAX_CONCURRENCY).contains(&value) {
            report.add(key, format!("must be between 1 and {MAX_CONCURRENCY}"));
        }
    }
    Limits { rate, burst, concurrency }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_a_unit_and_a_maximum() {
        assert_eq!(parse_size("1MiB"), Ok(1_048_576));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        for text in ["", "1", "1MB", "0KiB", "17MiB", "99999999999999999999MiB", "-1KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
