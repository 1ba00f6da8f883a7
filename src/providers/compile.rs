//! Compiling a definition file to a [`Definition`].
//!
//! All errors are listed at once, each with its key, for the author of the definition. Only an error in the form
//! (no TOML, an unknown key, a wrong type) is reported alone, with its line.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use url::Url;

use super::definition::Definition;
use super::extract::{Extract, Outputs, Progress};
use super::file::{
    AuthTable, AuthType, ErrorsTable, Example, Expect, ExtractTable, File, Fold, LimitsTable, Method,
    NotFoundTable, OutputsTable, ParamTable, PathList, PollTable, ProgressTable, RequestTable, ResponseTable,
    StatusTable,
};
use super::param::Param;
use super::path::{Path, Paths};
use super::reader::{Errors, NotFound, Reader, StatusWords};
use super::request_form::{Auth, RequestForm, authority};
use super::template::{Template, UrlTemplate};
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
        compile(file)
    }
}

/// Returns an error in the form, with its line.
fn located(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().trim_end();
    match error.span() {
        Some(span) => {
            let before = text.get(..span.start).unwrap_or(text);
            format!("line {}: {message}", before.matches('\n').count() + 1)
        }
        None => message.to_owned(),
    }
}

/// Compiles `file`; the error lists every error in it.
fn compile(file: File) -> Result<Definition, Vec<String>> {
    let mut report = DefinitionErrors::default();
    let definition = definition(file, &mut report);
    match definition {
        Some(definition) if report.0.is_empty() => Ok(definition),
        _ => Err(report.0),
    }
}

/// Returns `None` if a part is invalid and has no default value. Its error is then in `report`.
fn definition(file: File, report: &mut DefinitionErrors) -> Option<Definition> {
    if file.schema != SCHEMA {
        report.add("schema", format!("{} is unknown; this version supports schema {SCHEMA}", file.schema));
    }
    if !is_slug(&file.id) {
        report.add("id", "must be 1 to 40 characters of a-z, 0-9 and -, starting with a letter");
    }
    if file.name.trim().is_empty() {
        report.add("name", "must not be empty");
    }
    if !Url::parse(&file.docs).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
        report.add("docs", "must be the URL of the provider's documentation");
    }
    let mut params = file.params;
    let job_id = job_id_param(params.remove("job_id").unwrap_or_default(), report);
    let params: BTreeMap<String, Param> = params
        .into_iter()
        .map(|(name, table)| {
            let param = report.take(&format!("params.{name}"), Param::new(table));
            (name, param)
        })
        .collect();
    let request = request_form(file.request, file.auth, report);
    if let Some(request) = &request {
        check_names(request, &params, report);
    }
    for class in missing(&file.example) {
        report.add("example", format!("at least one must show a job that {class}"));
    }
    let (not_found, grace) = not_found(file.not_found, &file.errors, report);
    let ResponseTable { unwrap, request_id } = file.response;
    let reader = Reader {
        unwrap: report.paths("response.unwrap", &unwrap),
        request_id: report.paths("response.request_id", &request_id),
        status: status_words(file.status, report),
        extract: extract(file.extract, report),
        errors: errors(file.errors, report),
        not_found,
        max_body: request.as_ref().map_or(0, |request| request.max_body),
    };
    let (poll, limits) = (poll(file.poll, grace, report), limits(file.limits, report));
    Some(Definition {
        id: file.id,
        name: file.name,
        docs: file.docs,
        job_id,
        params,
        request: request?,
        reader,
        poll,
        limits,
        examples: file.example,
    })
}

/// Returns the meanings that the examples of a definition must show and do not, each as the end of a sentence.
fn missing(examples: &[Example]) -> Vec<&'static str> {
    let shows = |ending: Option<EndingKind>| {
        examples.iter().any(
            |example| matches!(&example.expect, Expect::Seen { status, .. } if status.ending() == ending),
        )
    };
    let required = [
        (None, "still runs"),
        (Some(EndingKind::Completed), "completed"),
        (Some(EndingKind::Failed), "failed"),
    ];
    required.into_iter().filter(|(ending, _)| !shows(*ending)).map(|(_, words)| words).collect()
}

/// Errors found so far.
#[derive(Default)]
struct DefinitionErrors(Vec<String>);

impl DefinitionErrors {
    fn add(&mut self, key: &str, sentence: impl fmt::Display) {
        self.0.push(format!("{key}: {sentence}"));
    }

    /// Returns the value, or adds its error and returns a default. A definition with an error is never used.
    fn take<T: Default>(&mut self, key: &str, value: Result<T, String>) -> T {
        value.unwrap_or_else(|sentence| {
            self.add(key, sentence);
            T::default()
        })
    }

    fn paths(&mut self, key: &str, list: &PathList) -> Paths {
        Paths(list.0.iter().map(|text| self.take(key, Path::parse(text))).collect())
    }

    /// Parses a list of paths that must not be empty.
    fn some_paths(&mut self, key: &str, list: &PathList) -> Paths {
        if list.0.is_empty() {
            self.add(key, "a path is required");
        }
        self.paths(key, list)
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
    if table.pattern.is_none() {
        report.add(
            "params.job_id",
            "a `pattern` is required, so that a registration with an impossible id is rejected",
        );
    }
    if table.default.is_some() || table.r#enum.is_some() {
        report.add(
            "params.job_id",
            "`default` and `enum` are not allowed, because every registration gives a job id",
        );
    }
    report.take("params.job_id", Param::new(table))
}

fn request_form(table: RequestTable, auth: AuthTable, report: &mut DefinitionErrors) -> Option<RequestForm> {
    let RequestTable { method: Method::Get, url, query, headers, timeout, max_body } = table;
    let url = match UrlTemplate::parse(&url) {
        Ok(url) => Some(url),
        Err(sentence) => {
            report.add("request.url", sentence);
            None
        }
    };
    let query = query
        .into_iter()
        .map(|(name, text)| {
            let template = report.take(&format!("request.query.{name}"), Template::parse(&text));
            (name, template)
        })
        .collect();
    let headers = headers
        .into_iter()
        .map(|(name, text)| {
            let key = format!("request.headers.{name}");
            let name = report.take(&key, header_name(&name));
            if RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-") {
                report.add(&key, "a definition cannot set this header; describe a credential in [auth]");
            }
            (name, report.take(&key, Template::parse(&text)))
        })
        .collect();
    let timeout = report.duration("request.timeout", timeout.as_deref(), "20s");
    if timeout > MAX_TIMEOUT {
        report.add("request.timeout", format!("must be at most {} s", MAX_TIMEOUT.as_secs()));
    }
    let max_body = report.take("request.max_body", parse_size(max_body.as_deref().unwrap_or("1MiB")));
    let auth = credential(auth, report);
    if let (Some(auth), Some(url)) = (&auth, &url)
        && !auth.trusts(&url.origin)
    {
        report.add("auth.send_to", "must contain the host of request.url, whose scheme must be https");
    }
    Some(RequestForm { url: url?, query, headers, timeout, max_body, auth })
}

/// Parses a size, such as `64KiB` or `1MiB`.
fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is not a size from 1KiB to 16MiB; write it as 64KiB or 1MiB");
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1024),
        (_, Some(number)) => (number, 1024 * 1024),
        (None, None) => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|size| (1024..=MAX_BODY).contains(size)).ok_or_else(wrong)
}

fn credential(table: AuthTable, report: &mut DefinitionErrors) -> Option<Auth> {
    let AuthTable { r#type, header, prefix, send_to } = table;
    if r#type == AuthType::None {
        if header.is_some() || prefix.is_some() || !send_to.is_empty() {
            report.add("auth", "type `none` allows no `header`, `prefix` or `send_to`");
        }
        return None;
    }
    let (header, prefix) = match (r#type, header) {
        (AuthType::Header, Some(name)) => {
            (report.take("auth.header", header_name(&name)), prefix.unwrap_or_default())
        }
        (AuthType::Header, None) => {
            report.add("auth.header", "type `header` requires the name of the header");
            Default::default()
        }
        (_, given) => {
            if given.is_some() || prefix.is_some() {
                report.add("auth", "`header` and `prefix` are allowed only with type `header`");
            }
            ("authorization".to_owned(), "Bearer ".to_owned())
        }
    };
    if !prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        report.add("auth.prefix", "contains characters that are not allowed in a header");
    }
    if send_to.is_empty() {
        report.add("auth.send_to", "must list the hosts to which the credential may be sent");
    }
    let send_to = send_to.iter().map(|host| report.take("auth.send_to", host_and_port(host))).collect();
    Some(Auth { header, prefix, send_to })
}

/// Parses `api.example.com` or `api.example.com:8443`.
fn host_and_port(text: &str) -> Result<(String, u16), String> {
    let wrong = || format!("`{text}` is not a host; write it as api.example.com or api.example.com:8443");
    if text.is_empty() || text.contains(['/', '@', '?', '#', '*', '\\']) || text.contains(char::is_whitespace)
    {
        return Err(wrong());
    }
    Url::parse(&format!("https://{text}")).ok().as_ref().and_then(authority).ok_or_else(wrong)
}

fn header_name(name: &str) -> Result<String, String> {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("`{name}` is not a valid header name"));
    }
    Ok(name.to_ascii_lowercase())
}

/// Checks that every parameter is declared and used.
fn check_names(form: &RequestForm, params: &BTreeMap<String, Param>, report: &mut DefinitionErrors) {
    let fields = form.query.iter().chain(&form.headers).map(|(_, template)| template);
    let used: Vec<&str> = std::iter::once(&form.url.path).chain(fields).flat_map(Template::names).collect();
    for name in &used {
        if *name != "job_id" && !params.contains_key(*name) {
            report.add("request", format!("`{{{name}}}` is not declared; add [params.{name}]"));
        }
    }
    for name in params.keys().map(String::as_str).chain(["job_id"]) {
        if !used.contains(&name) {
            report.add(&format!("params.{name}"), "the request does not use this parameter; remove it");
        }
    }
}

fn status_words(table: StatusTable, report: &mut DefinitionErrors) -> StatusWords {
    let StatusTable { path, fold, unknown, map, explain } = table;
    if !matches!(unknown, JobStatus::Pending | JobStatus::Processing) {
        report.add(
            "status.unknown",
            "must be processing or pending, because an unknown status must not end a job",
        );
    }
    for (class, words) in [("completed", &map.completed), ("failed", &map.failed)] {
        if words.is_empty() {
            report.add("status.map", format!("at least one word must mean {class}"));
        }
    }
    if map.pending.is_empty() && map.processing.is_empty() {
        report.add("status.map", "at least one word must mean pending or processing");
    }
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
            if word.trim().is_empty() {
                report.add("status.map", format!("{class} contains an empty word"));
            }
            if let Some(other) = words.insert(fold.apply(&word), class) {
                report.add("status.map", format!("`{word}` is listed twice, in {other} and in {class}"));
            }
        }
    }
    let mut sentences = HashMap::new();
    for (word, sentence) in explain {
        let word = fold.apply(&word);
        if !matches!(words.get(&word), Some(JobStatus::Failed | JobStatus::Cancelled)) {
            report.add("status.explain", format!("`{word}` is not a word of failed or cancelled"));
        }
        sentences.insert(word, sentence);
    }
    StatusWords { path: report.some_paths("status.path", &path), fold, unknown, words, explain: sentences }
}

impl Fold {
    /// Returns the spelling of a word for comparison.
    pub(super) fn apply(self, word: &str) -> String {
        match self {
            Self::None => word.to_owned(),
            Self::Lower => word.to_lowercase(),
        }
    }
}

fn extract(table: ExtractTable, report: &mut DefinitionErrors) -> Extract {
    let ExtractTable {
        job_id,
        progress: given_progress,
        output,
        outputs,
        error_code,
        error_message,
        created_at,
        completed_at,
    } = table;
    Extract {
        job_id: report.some_paths("extract.job_id", &job_id),
        progress: given_progress.and_then(|table| progress(table, report)),
        output: report.paths("extract.output", &output),
        outputs: outputs.map(|OutputsTable { each, url, r#type, thumbnail, poster, only_urls }| Outputs {
            each: report.some_paths("extract.outputs.each", &each),
            url: report.some_paths("extract.outputs.url", &url),
            kind: report.paths("extract.outputs.type", &r#type),
            thumbnail: report.paths("extract.outputs.thumbnail", &thumbnail),
            poster: report.paths("extract.outputs.poster", &poster),
            only_urls,
        }),
        error_code: report.paths("extract.error_code", &error_code),
        error_message: report.paths("extract.error_message", &error_message),
        created_at: created_at.map(|t| (report.some_paths("extract.created_at", &t.path), t.format)),
        completed_at: completed_at.map(|t| (report.some_paths("extract.completed_at", &t.path), t.format)),
    }
}

fn progress(table: ProgressTable, report: &mut DefinitionErrors) -> Option<Progress> {
    let key = "extract.progress";
    match table {
        ProgressTable { path, unit: Some(unit), ratio: None } => {
            Some(Progress::Number(report.some_paths(key, &path), unit))
        }
        ProgressTable { path: PathList(none), unit: None, ratio: Some([part, whole]) } if none.is_empty() => {
            Some(Progress::Ratio(report.take(key, Path::parse(&part)), report.take(key, Path::parse(&whole))))
        }
        _ => {
            report.add(key, "set either `path` and `unit`, or `ratio` alone");
            None
        }
    }
}

fn errors(table: ErrorsTable, report: &mut DefinitionErrors) -> Errors {
    let ErrorsTable { when, code, message, account } = table;
    if code.0.is_empty() && !account.is_empty() {
        report.add("errors.account", "requires errors.code, the path of the code that is compared");
    }
    let when = when.map(|condition| {
        if condition.is.is_array() || condition.is.is_object() || condition.is.is_null() {
            report.add("errors.when", "`is` must be a boolean, a number or a string");
        }
        (report.take("errors.when", Path::parse(&condition.path)), condition.is)
    });
    Errors {
        when,
        code: report.paths("errors.code", &code),
        message: report.paths("errors.message", &message),
        account,
    }
}

fn not_found(
    table: NotFoundTable,
    errors: &ErrorsTable,
    report: &mut DefinitionErrors,
) -> (NotFound, Duration) {
    let NotFoundTable { http, path, values, grace } = table;
    let http = http.unwrap_or_else(|| vec![404]);
    if http.is_empty()
        || http.iter().any(|status| !(400..500).contains(status) || [401, 429].contains(status))
    {
        report.add("not_found.http", "must list statuses from 400 to 499, except 401 and 429");
    }
    // The codes are at `errors.code`, unless `not_found.path` is set.
    let place = if path.0.is_empty() && !values.is_empty() { &errors.code } else { &path };
    if place.0.is_empty() && !values.is_empty() {
        report.add("not_found.values", "requires a path: not_found.path or errors.code");
    }
    let paths = report.paths("not_found.path", place);
    (NotFound { http, path: paths, values }, report.duration("not_found.grace", grace.as_deref(), "60s"))
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
    if poll.min_interval > poll.max_interval {
        report.add("poll.min_interval", "must not be greater than poll.max_interval");
    }
    if poll.deadline > MAX_DEADLINE || poll.deadline < poll.first {
        report.add("poll.deadline", "must be between poll.first and 30d");
    }
    if poll.not_found_grace > poll.deadline {
        report.add("not_found.grace", "must not be longer than poll.deadline");
    }
    poll
}

fn limits(table: LimitsTable, report: &mut DefinitionErrors) -> Limits {
    let LimitsTable { rate, burst, concurrency } = table;
    let limits = Limits {
        rate: report.take("limits.rate", parse_rate(rate.as_deref().unwrap_or("1/s"))),
        burst: burst.unwrap_or(1),
        concurrency: concurrency.unwrap_or(4),
    };
    for (key, value) in [("limits.burst", limits.burst), ("limits.concurrency", limits.concurrency)] {
        if !(1..=MAX_CONCURRENCY).contains(&value) {
            report.add(key, format!("must be between 1 and {MAX_CONCURRENCY}"));
        }
    }
    limits
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
