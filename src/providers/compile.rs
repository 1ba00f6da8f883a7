//! From a file's form to a definition: reads every value and lists every mistake, each with the key
//! it stands at, because whoever writes a definition wants to see them all at once.
//!
//! Only mistakes in the form (not TOML, an unknown key, a wrong type) end the reading before; those
//! name their line.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::time::Duration;

use url::Url;

use super::definition::{Definition, Limits, PollPolicy};
use super::file::{
    AuthTable, AuthType, ErrorsTable, Example, Expect, ExtractTable, File, Fold, LimitsTable, Method,
    NotFoundTable, OutputsTable, ParamTable, PathList, PollTable, ProgressTable, RequestTable, ResponseTable,
    StatusTable,
};
use super::interpret::{Errors, Extract, NotFound, Outputs, Progress, Reader, StatusWords};
use super::param::Param;
use super::path::{Path, Paths};
use super::request::{Auth, RequestForm, authority};
use super::size::parse_size;
use super::template::{Template, UrlTemplate};
use crate::domain::{EndingKind, JobStatus, parse_duration, parse_rate};

/// The version of the language.
const SCHEMA: u32 = 1;

/// A watch lives for at most this long, so no deadline is longer.
const MAX_DEADLINE: Duration = Duration::from_secs(30 * 86_400);

/// Longer than any status call takes; a look holds one place of the concurrency meanwhile.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// More in flight at once would be a load test.
const MAX_CONCURRENCY: u32 = 10_000;

/// Headers that belong to the connection, or to a table of their own.
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

/// The definition that `file` writes down, or every mistake in it.
pub(super) fn compile(file: File) -> Result<Definition, Vec<String>> {
    let mut m = DefinitionErrors::default();
    let definition = definition(file, &mut m);
    match definition {
        Some(definition) if m.0.is_empty() => Ok(definition),
        _ => Err(m.0),
    }
}

/// `None` where a part has no stand-in; its mistake is noted then.
fn definition(file: File, m: &mut DefinitionErrors) -> Option<Definition> {
    if file.schema != SCHEMA {
        m.add("schema", format!("{} is not known; this version reads schema {SCHEMA}", file.schema));
    }
    if !is_slug(&file.id) {
        m.add("id", "it must be 1 to 40 of a-z, 0-9 and -, beginning with a letter");
    }
    if file.name.trim().is_empty() {
        m.add("name", "it is empty");
    }
    if !Url::parse(&file.docs).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
        m.add("docs", "it must be the URL of the provider's documentation");
    }
    let mut params = file.params;
    let job_id = job_id_param(params.remove("job_id").unwrap_or_default(), m);
    let params: BTreeMap<String, Param> = params
        .into_iter()
        .map(|(name, table)| {
            let param = m.take(&format!("params.{name}"), Param::new(table));
            (name, param)
        })
        .collect();
    let request = request_form(file.request, file.auth, m);
    if let Some(request) = &request {
        check_names(request, &params, m);
    }
    for class in missing(&file.example) {
        m.add("example", format!("none shows a job that {class}"));
    }
    let (not_found, grace) = not_found(file.not_found, &file.errors, m);
    let ResponseTable { unwrap, request_id } = file.response;
    let reader = Reader {
        unwrap: m.paths("response.unwrap", &unwrap),
        request_id: m.paths("response.request_id", &request_id),
        status: status_words(file.status, m),
        extract: extract(file.extract, m),
        errors: errors(file.errors, m),
        not_found,
        max_body: request.as_ref().map_or(0, |request| request.max_body),
    };
    let (poll, limits) = (poll(file.poll, grace, m), limits(file.limits, m));
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

/// Returns what the examples of a definition must show and do not, each as the end of a sentence.
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

/// The mistakes found so far.
#[derive(Default)]
struct DefinitionErrors(Vec<String>);

impl DefinitionErrors {
    fn add(&mut self, key: &str, sentence: impl fmt::Display) {
        self.0.push(format!("{key}: {sentence}"));
    }

    /// The value, or its mistake noted: with one mistake the definition is never used, so anything
    /// can stand in.
    fn take<T: Default>(&mut self, key: &str, value: Result<T, String>) -> T {
        value.unwrap_or_else(|sentence| {
            self.add(key, sentence);
            T::default()
        })
    }

    fn paths(&mut self, key: &str, list: &PathList) -> Paths {
        Paths(list.0.iter().map(|text| self.take(key, Path::parse(text))).collect())
    }

    /// Paths of which there must be one.
    fn some_paths(&mut self, key: &str, list: &PathList) -> Paths {
        if list.0.is_empty() {
            self.add(key, "it needs a path");
        }
        self.paths(key, list)
    }

    fn duration(&mut self, key: &str, text: Option<&str>, default: &str) -> Duration {
        self.take(key, parse_duration(text.unwrap_or(default)))
    }
}

/// Lower case and dashes only, so that an id is also the name of a variable and of a file.
fn is_slug(id: &str) -> bool {
    id.len() <= 40
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

fn job_id_param(table: ParamTable, m: &mut DefinitionErrors) -> Param {
    if table.pattern.is_none() {
        m.add("params.job_id", "it needs a `pattern`: what cannot be an id is refused at registration");
    }
    if table.default.is_some() || table.r#enum.is_some() {
        m.add("params.job_id", "every registration gives one: it has no `default` and no `enum`");
    }
    m.take("params.job_id", Param::new(table))
}

fn request_form(table: RequestTable, auth: AuthTable, m: &mut DefinitionErrors) -> Option<RequestForm> {
    let RequestTable { method: Method::Get, url, query, headers, timeout, max_body } = table;
    let url = match UrlTemplate::parse(&url) {
        Ok(url) => Some(url),
        Err(sentence) => {
            m.add("request.url", sentence);
            None
        }
    };
    let query = query
        .into_iter()
        .map(|(name, text)| {
            let template = m.take(&format!("request.query.{name}"), Template::parse(&text));
            (name, template)
        })
        .collect();
    let headers = headers
        .into_iter()
        .map(|(name, text)| {
            let key = format!("request.headers.{name}");
            let name = m.take(&key, header_name(&name));
            if RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-") {
                m.add(&key, "it is not the definition's to set; a credential belongs to [auth]");
            }
            (name, m.take(&key, Template::parse(&text)))
        })
        .collect();
    let timeout = m.duration("request.timeout", timeout.as_deref(), "20s");
    if timeout > MAX_TIMEOUT {
        m.add("request.timeout", format!("it is longer than {} s", MAX_TIMEOUT.as_secs()));
    }
    let max_body = m.take("request.max_body", parse_size(max_body.as_deref().unwrap_or("1MiB")));
    let auth = credential(auth, m);
    if let (Some(auth), Some(url)) = (&auth, &url)
        && !auth.trusts(&url.origin)
    {
        m.add("auth.send_to", "it must name the host of request.url, and that must be https");
    }
    Some(RequestForm { url: url?, query, headers, timeout, max_body, auth })
}

fn credential(table: AuthTable, m: &mut DefinitionErrors) -> Option<Auth> {
    let AuthTable { r#type, header, prefix, send_to } = table;
    if r#type == AuthType::None {
        if header.is_some() || prefix.is_some() || !send_to.is_empty() {
            m.add("auth", "with type `none` there is nothing to send");
        }
        return None;
    }
    let (header, prefix) = match (r#type, header) {
        (AuthType::Header, Some(name)) => {
            (m.take("auth.header", header_name(&name)), prefix.unwrap_or_default())
        }
        (AuthType::Header, None) => {
            m.add("auth.header", "type `header` needs the header's name");
            Default::default()
        }
        (_, given) => {
            if given.is_some() || prefix.is_some() {
                m.add("auth", "`header` and `prefix` belong to type `header`");
            }
            ("authorization".to_owned(), "Bearer ".to_owned())
        }
    };
    if !prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        m.add("auth.prefix", "it has characters that a header cannot carry");
    }
    if send_to.is_empty() {
        m.add("auth.send_to", "it must name the only hosts that get the credential");
    }
    let send_to = send_to.iter().map(|host| m.take("auth.send_to", host_and_port(host))).collect();
    Some(Auth { header, prefix, send_to })
}

/// Reads `api.example.com` or `api.example.com:8443`.
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
        return Err(format!("`{name}` is not the name of a header"));
    }
    Ok(name.to_ascii_lowercase())
}

/// Every name that is used is declared, and every one that is declared is used.
fn check_names(form: &RequestForm, params: &BTreeMap<String, Param>, m: &mut DefinitionErrors) {
    let fields = form.query.iter().chain(&form.headers).map(|(_, template)| template);
    let used: Vec<&str> = std::iter::once(&form.url.path).chain(fields).flat_map(Template::names).collect();
    for name in &used {
        if *name != "job_id" && !params.contains_key(*name) {
            m.add("request", format!("`{{{name}}}` is not declared; add [params.{name}]"));
        }
    }
    for name in params.keys().map(String::as_str).chain(["job_id"]) {
        if !used.contains(&name) {
            m.add(&format!("params.{name}"), "the request does not use it");
        }
    }
}

fn status_words(table: StatusTable, m: &mut DefinitionErrors) -> StatusWords {
    let StatusTable { path, fold, unknown, map, explain } = table;
    if !matches!(unknown, JobStatus::Pending | JobStatus::Processing) {
        m.add("status.unknown", "a word that nobody knows ends no job; write processing or pending");
    }
    for (class, words) in [("completed", &map.completed), ("failed", &map.failed)] {
        if words.is_empty() {
            m.add("status.map", format!("no word means {class}"));
        }
    }
    if map.pending.is_empty() && map.processing.is_empty() {
        m.add("status.map", "no word means pending or processing");
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
                m.add("status.map", format!("{class} has an empty word"));
            }
            if let Some(other) = words.insert(fold.apply(&word), class) {
                m.add("status.map", format!("`{word}` stands twice, in {other} and {class}"));
            }
        }
    }
    let mut sentences = HashMap::new();
    for (word, sentence) in explain {
        let word = fold.apply(&word);
        if !matches!(words.get(&word), Some(JobStatus::Failed | JobStatus::Cancelled)) {
            m.add("status.explain", format!("`{word}` is no word for failed or cancelled"));
        }
        sentences.insert(word, sentence);
    }
    StatusWords { path: m.some_paths("status.path", &path), fold, unknown, words, explain: sentences }
}

impl Fold {
    /// The spelling that is looked up.
    pub(super) fn apply(self, word: &str) -> String {
        match self {
            Self::None => word.to_owned(),
            Self::Lower => word.to_lowercase(),
        }
    }
}

fn extract(table: ExtractTable, m: &mut DefinitionErrors) -> Extract {
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
        job_id: m.some_paths("extract.job_id", &job_id),
        progress: given_progress.and_then(|table| progress(table, m)),
        output: m.paths("extract.output", &output),
        outputs: outputs.map(|OutputsTable { each, url, r#type, thumbnail, poster, only_urls }| Outputs {
            each: m.some_paths("extract.outputs.each", &each),
            url: m.some_paths("extract.outputs.url", &url),
            kind: m.paths("extract.outputs.type", &r#type),
            thumbnail: m.paths("extract.outputs.thumbnail", &thumbnail),
            poster: m.paths("extract.outputs.poster", &poster),
            only_urls,
        }),
        error_code: m.paths("extract.error_code", &error_code),
        error_message: m.paths("extract.error_message", &error_message),
        created_at: created_at.map(|t| (m.some_paths("extract.created_at", &t.path), t.format)),
        completed_at: completed_at.map(|t| (m.some_paths("extract.completed_at", &t.path), t.format)),
    }
}

fn progress(table: ProgressTable, m: &mut DefinitionErrors) -> Option<Progress> {
    let key = "extract.progress";
    match table {
        ProgressTable { path, unit: Some(unit), ratio: None } => {
            Some(Progress::Number(m.some_paths(key, &path), unit))
        }
        ProgressTable { path: PathList(none), unit: None, ratio: Some([part, whole]) } if none.is_empty() => {
            Some(Progress::Ratio(m.take(key, Path::parse(&part)), m.take(key, Path::parse(&whole))))
        }
        _ => {
            m.add(key, "write either `path` and `unit`, or `ratio` alone");
            None
        }
    }
}

fn errors(table: ErrorsTable, m: &mut DefinitionErrors) -> Errors {
    let ErrorsTable { when, code, message, account } = table;
    if code.0.is_empty() && !account.is_empty() {
        m.add("errors.account", "codes are compared with what stands at errors.code: name its path");
    }
    let when = when.map(|condition| {
        if condition.is.is_array() || condition.is.is_object() || condition.is.is_null() {
            m.add("errors.when", "`is` must be a boolean, a number or a text");
        }
        (m.take("errors.when", Path::parse(&condition.path)), condition.is)
    });
    Errors {
        when,
        code: m.paths("errors.code", &code),
        message: m.paths("errors.message", &message),
        account,
    }
}

fn not_found(table: NotFoundTable, errors: &ErrorsTable, m: &mut DefinitionErrors) -> (NotFound, Duration) {
    let NotFoundTable { http, path, values, grace } = table;
    let http = http.unwrap_or_else(|| vec![404]);
    if http.is_empty()
        || http.iter().any(|status| !(400..500).contains(status) || [401, 429].contains(status))
    {
        m.add("not_found.http", "it must list statuses from 400 to 499, and not 401 or 429");
    }
    // Codes stand where the other errors' codes stand, unless a path of its own is given.
    let place = if path.0.is_empty() && !values.is_empty() { &errors.code } else { &path };
    if place.0.is_empty() && !values.is_empty() {
        m.add("not_found.values", "name where they stand: not_found.path, or errors.code");
    }
    let paths = m.paths("not_found.path", place);
    (NotFound { http, path: paths, values }, m.duration("not_found.grace", grace.as_deref(), "60s"))
}

fn poll(table: PollTable, not_found_grace: Duration, m: &mut DefinitionErrors) -> PollPolicy {
    let PollTable { first, min_interval, max_interval, deadline, price } = table;
    let poll = PollPolicy {
        first: m.duration("poll.first", first.as_deref(), "5s"),
        min_interval: m.duration("poll.min_interval", min_interval.as_deref(), "1s"),
        max_interval: m.duration("poll.max_interval", max_interval.as_deref(), "60s"),
        deadline: m.duration("poll.deadline", deadline.as_deref(), "24h"),
        not_found_grace,
        price: m.duration("poll.price", price.as_deref(), "5s"),
    };
    if poll.min_interval > poll.max_interval {
        m.add("poll.min_interval", "it is greater than poll.max_interval");
    }
    if poll.deadline > MAX_DEADLINE || poll.deadline < poll.first {
        m.add("poll.deadline", "it must be between poll.first and 30d");
    }
    if poll.not_found_grace > poll.deadline {
        m.add("not_found.grace", "it is longer than poll.deadline");
    }
    poll
}

fn limits(table: LimitsTable, m: &mut DefinitionErrors) -> Limits {
    let LimitsTable { rate, burst, concurrency } = table;
    let limits = Limits {
        rate: m.take("limits.rate", parse_rate(rate.as_deref().unwrap_or("1/s"))),
        burst: burst.unwrap_or(1),
        concurrency: concurrency.unwrap_or(4),
    };
    for (key, value) in [("limits.burst", limits.burst), ("limits.concurrency", limits.concurrency)] {
        if !(1..=MAX_CONCURRENCY).contains(&value) {
            m.add(key, format!("it must be between 1 and {MAX_CONCURRENCY}"));
        }
    }
    limits
}
