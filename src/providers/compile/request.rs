//! The tables `[params]` and `[request]`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

use super::paths::header_name;
use super::reader::{Mistaken, Node, Report, TableReader};
use crate::domain::parse_duration;
use crate::providers::auth::{Auth, AuthForm};
use crate::providers::body::{BodyTemplate, JsonTemplate};
use crate::providers::definition::{JobUrl, Method, RequestForm, Target};
use crate::providers::host_pattern::HostPattern;
use crate::providers::template::{Encode, Param, ParamTable, Template, UrlTemplate};

/// Longest timeout. No status request needs longer, and a poll uses a place of the concurrency during that time.
const MAX_TIMEOUT: Duration = Duration::from_secs(120);

/// Largest response that a definition may allow. A response is held in memory, and its parsed form takes a
/// multiple of this, for every poll in flight.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Deepest JSON body.
const MAX_DEPTH: usize = 16;

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

/// The parameters of a definition.
pub(super) struct Params {
    pub(super) job_id: Param,
    pub(super) others: BTreeMap<String, Param>,
}

impl Params {
    /// Adds the default of each parameter that a job does not give, as a registration does.
    pub(super) fn add_defaults(&self, given: &mut Map<String, Value>) {
        for (name, param) in &self.others {
            if let Some(default) = param.default().filter(|_| !given.contains_key(name)) {
                given.insert(name.clone(), Value::String(default.clone()));
            }
        }
    }
}

/// What `[request]` says.
pub(super) struct RequestParts {
    /// `None` if a part has a mistake.
    pub(super) form: Option<RequestForm>,
    pub(super) job_url: Option<JobUrl>,
    pub(super) max_body: usize,
}

/// Reads `[params]`. `has_job_url` says whether the id is a URL, whose form is described elsewhere.
pub(super) fn params(table: Option<&TableReader<'_>>, has_job_url: bool, report: &Report<'_>) -> Params {
    let mut params = Params { job_id: <Param as Default>::default(), others: BTreeMap::new() };
    let mut has_job_id = has_job_url;
    for (name, node) in table.map(TableReader::entries).unwrap_or_default() {
        let Some(table) = node.table() else { continue };
        let is_job_id = name == "job_id";
        if !is_job_id && !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            node.wrong("a name of a parameter consists of letters, digits and `_`");
        }
        if is_job_id {
            has_job_id = true;
            if !table.has("pattern") && !has_job_url {
                node.wrong(
                    "a `pattern` is required, so that a registration with an impossible id is rejected",
                );
            }
            if table.has("default") || table.has("enum") {
                node.wrong("`default` and `enum` are not allowed, because every registration gives a job id");
            }
        }
        let before = report.count();
        let pattern = table.get("pattern");
        let read = ParamTable {
            pattern: pattern.as_ref().and_then(Node::text_with_braces).map(str::to_owned),
            encode: table.get("encode").and_then(|node| node.word(&Encode::ALL)).unwrap_or_default(),
            default: table.get("default").and_then(|node| node.text()).map(str::to_owned),
            r#enum: table.get("enum").map(|node| node.texts()),
            is_optional: optional(&table, is_job_id),
        };
        table.finish();
        let checked = Param::check_pattern(&read);
        let is_valid = match (&checked, &pattern) {
            (Err(sentence), Some(pattern)) => {
                pattern.wrong(sentence);
                false
            }
            _ => report.count() == before,
        };
        let param = if is_valid { node.ok(Param::new(read)) } else { None };
        let param = param.unwrap_or_default();
        if is_job_id {
            params.job_id = param;
        } else {
            params.others.insert(name, param);
        }
    }
    if !has_job_id {
        let at = table.map_or(0, |table| table.at);
        report.add(at, "params.job_id: the key `pattern` is missing, the form of the provider's job ids");
    }
    params
}

/// Reads `optional` of a parameter.
fn optional(table: &TableReader<'_>, is_job_id: bool) -> bool {
    let Some(node) = table.get_new("optional") else { return false };
    let is_optional = node.boolean().unwrap_or(false);
    if is_optional && is_job_id {
        node.wrong("is not allowed, because every registration gives a job id");
    } else if is_optional && table.has("default") {
        node.wrong("is not possible with `default`, which stands for an absent value; remove one of the two");
    }
    is_optional
}

/// Reads `[request]`. `auth` is `[auth]`.
pub(super) fn request(
    table: &TableReader<'_>,
    auth: Result<Option<Auth>, Mistaken>,
    params: &Params,
) -> RequestParts {
    let job_url_table = table.get_new("job_url").and_then(|node| node.table());
    let job_url = job_url_table.and_then(job_url);
    let url_node = table.get("url");
    let target = match (&url_node, table.has("job_url")) {
        (Some(node), false) => {
            let allows_host = table.report.schema.get() >= 2;
            let url = node.text_with_braces().and_then(|text| node.ok(UrlTemplate::parse(text, allows_host)));
            url.map(Target::Url)
        }
        (None, true) => job_url.is_some().then_some(Target::JobUrl),
        (Some(node), true) => {
            node.wrong("request.job_url stands instead of `url`; remove one");
            None
        }
        (None, false) => {
            table.require("url");
            None
        }
    };
    if let (Some(Target::Url(url)), Some(node)) = (&target, &url_node) {
        check_host(url, params, node);
    }
    let method = table.get("method").map(|node| method(&node));
    let query = table.get("query").map(|node| templates(&node)).unwrap_or_default();
    let headers = table.get("headers").map(|node| headers(&node)).unwrap_or_default();
    let body = body(table);
    let method = method.map_or(Some(Method::Get), |method| method);
    if let Some(method) = method {
        check_method(table, method);
    }
    let accept = table.get_new("accept").and_then(|node| header_value(&node));
    let timeout = table.get("timeout").and_then(|node| timeout(&node));
    let max_body = table.get("max_body").and_then(|node| size(&node));
    let redirects = [("never", false), ("same-origin", true)];
    let follows_redirects = table.get_new("redirect").and_then(|node| node.word(&redirects)).unwrap_or(false);
    if let (Ok(Some(auth)), Some(target)) = (&auth, &target) {
        check_auth(auth, target, job_url.as_ref(), body.as_ref(), table);
        if follows_redirects && matches!(auth.form, AuthForm::Aws(_)) {
            let why = "is not possible with auth.type `aws`, whose signature is valid for one URL only; remove the key";
            table.wrong_key("redirect", why);
        }
        if let Some((name, _)) =
            headers.iter().find(|(name, _)| auth.headers.iter().any(|(own, _)| own == name))
        {
            table.wrong_key("headers", format!("`{name}` is in auth.headers, too; remove one of the two"));
        }
    }
    let (max_body, timeout) = (max_body.unwrap_or(1024 * 1024), timeout.unwrap_or(Duration::from_secs(20)));
    let accept = accept.unwrap_or_else(|| "application/json".to_owned());
    let form = target.zip(auth.ok()).zip(method).map(|((target, auth), method)| RequestForm {
        method,
        target,
        query: query.into_iter().collect(),
        headers,
        accept,
        body,
        timeout,
        follows_redirects,
        auth,
    });
    RequestParts { form, job_url, max_body }
}

pub(super) fn method(node: &Node<'_>) -> Option<Method> {
    let method = node.word(&Method::ALL)?;
    (method == Method::Get || node.is_permitted()).then_some(method)
}

/// Reads a timeout.
pub(super) fn timeout(node: &Node<'_>) -> Option<Duration> {
    let timeout = node.parsed("a duration in quotes, such as \"20s\"", parse_duration)?;
    if timeout > MAX_TIMEOUT {
        node.wrong(format!("must be at most {} s", MAX_TIMEOUT.as_secs()));
    }
    Some(timeout)
}

/// Checks that a request with a body has a method that permits one.
pub(super) fn check_method(table: &TableReader<'_>, method: Method) {
    if method == Method::Get && ["json", "form", "graphql"].iter().any(|key| table.has(key)) {
        let sentence = "a request with a body needs `method = \"POST\"` or \"PUT\"";
        table.wrong_key(if table.has("method") { "method" } else { "url" }, sentence);
    }
}

/// Checks that the values in a host are limited.
fn check_host(url: &UrlTemplate, params: &Params, node: &Node<'_>) {
    for name in url.host().into_iter().flat_map(Template::names) {
        if name == "job_id" {
            node.wrong("the host cannot contain the id of the job");
        } else if params.others.get(name).is_some_and(|param| !param.is_limited()) {
            let sentence =
                "is in the host, so it needs a `pattern` or an `enum`: the list of permitted hosts";
            node.wrong(format!("`{{{name}}}` {sentence}"));
        }
    }
}

/// Checks that the credential can be sent with the request.
fn check_auth(
    auth: &Auth,
    target: &Target,
    job_url: Option<&JobUrl>,
    body: Option<&BodyTemplate>,
    table: &TableReader<'_>,
) {
    let is_sent = match (target, job_url) {
        (Target::Url(url), _) => url.fixed_origin().is_none_or(|origin| auth.trusts(origin)),
        (Target::JobUrl | Target::BelowJob(_) | Target::Given(_), Some(form)) => {
            form.hosts.iter().all(|host| auth.send_to.iter().any(|pattern| pattern.covers(host)))
        }
        (Target::JobUrl | Target::BelowJob(_) | Target::Given(_), None) | (Target::Answer, _) => true,
    };
    if !is_sent && !auth.send_to.is_empty() {
        let (key, hosts) = match target {
            Target::Url(_) => ("url", "the host of request.url, whose scheme must be https"),
            Target::JobUrl | Target::BelowJob(_) | Target::Given(_) | Target::Answer => {
                ("job_url", "the hosts of request.job_url")
            }
        };
        let at = table.get(key).map_or(table.at, |node| node.at);
        table.report.add(at, format!("auth.send_to: must contain {hosts}"));
    }
    check_body_credential(auth, body, table);
}

/// Checks that a credential that is sent in the body has one.
pub(super) fn check_body_credential(auth: &Auth, body: Option<&BodyTemplate>, table: &TableReader<'_>) {
    let is_object = matches!(body, Some(BodyTemplate::Form(_) | BodyTemplate::Json(JsonTemplate::Object(_))));
    if matches!(auth.form, AuthForm::Body(_)) && !is_object {
        table.wrong("auth.type `body` needs a body to which the credential is added: `json` or `form`");
    }
}

/// Checks that every parameter is declared, and used by the poll or by a follow-up request.
pub(super) fn check_names(
    form: &RequestForm,
    others: &BTreeSet<&str>,
    job_url: Option<&JobUrl>,
    params: &Params,
    report: &Report<'_>,
    at: usize,
) {
    let used = names(form);
    let groups: BTreeSet<&str> = job_url.into_iter().flat_map(JobUrl::names).collect();
    for name in &used {
        let is_declared = *name == "job_id" || params.others.contains_key(*name) || groups.contains(name);
        if !is_declared {
            report.add(at, format!("request: `{{{name}}}` is not declared; add [params.{name}]"));
        }
    }
    let job_id = (form.target_has_id()).then_some("job_id");
    for name in params.others.keys().map(String::as_str).chain(job_id) {
        if groups.contains(name) {
            report.add(
                at,
                format!("params.{name}: the path of request.job_url gives this parameter; remove it here"),
            );
        } else if params.others.get(name).is_some_and(Param::is_optional) && required(form).contains(name) {
            let places = "it can be used in `query`, `headers`, and members of the body";
            report.add(at, format!("params.{name}: is optional, but always a part of the request; {places}"));
        } else if !used.contains(name) && !others.contains(name) {
            report.add(at, format!("params.{name}: the request does not use this parameter; remove it"));
        }
    }
}

/// Returns the names in the parts of a request that are always sent.
pub(super) fn required(form: &RequestForm) -> BTreeSet<&str> {
    let mut used: BTreeSet<&str> =
        form.body.iter().flat_map(BodyTemplate::items).flat_map(Template::names).collect();
    if let Target::Url(url) = &form.target {
        used.extend(url.path.names().chain(url.host().into_iter().flat_map(Template::names)));
    }
    if let Some(AuthForm::Aws(aws)) = form.auth.as_ref().map(|auth| &auth.form) {
        used.extend(aws.region.iter().flat_map(Template::names));
    }
    used
}

/// Returns the names in the templates of a request.
pub(super) fn names(form: &RequestForm) -> BTreeSet<&str> {
    let mut used: BTreeSet<&str> = BTreeSet::new();
    if let Target::Url(url) = &form.target {
        used.extend(url.path.names().chain(url.host().into_iter().flat_map(Template::names)));
    }
    used.extend(form.query.values().flat_map(Template::names));
    used.extend(form.headers.iter().flat_map(|(_, template)| template.names()));
    used.extend(form.body.iter().flat_map(BodyTemplate::templates).flat_map(Template::names));
    if let Some(AuthForm::Aws(aws)) = form.auth.as_ref().map(|auth| &auth.form) {
        used.extend(aws.region.iter().flat_map(Template::names));
    }
    used
}

impl RequestForm {
    /// Returns whether the id of the job must be a part of the request.
    fn target_has_id(&self) -> bool {
        matches!(self.target, Target::Url(_))
    }
}

/// Reads a table of templates.
pub(super) fn templates(node: &Node<'_>) -> Vec<(String, Template)> {
    let entries = node.table().map(|table| table.entries()).unwrap_or_default();
    let entry = |(name, node): (String, Node<'_>)| {
        node.check_literal(&name);
        Some((name, template(&node)?))
    };
    entries.into_iter().filter_map(entry).collect()
}

pub(super) fn template(node: &Node<'_>) -> Option<Template> {
    node.ok(Template::parse(node.text_with_braces()?))
}

pub(super) fn headers(node: &Node<'_>) -> Vec<(String, Template)> {
    let entries = node.table().map(|table| table.entries()).unwrap_or_default();
    let header = |(name, node): (String, Node<'_>)| {
        let name = node.ok(header_name(&name))?;
        if RESERVED_HEADERS.contains(&name.as_str()) || name.starts_with("proxy-") {
            node.wrong("a definition cannot set this header; describe a credential in [auth]");
            return None;
        }
        if name == "accept" && node.report.schema.get() >= 2 {
            node.wrong("use request.accept");
            return None;
        }
        Some((name, template(&node)?))
    };
    entries.into_iter().filter_map(header).collect()
}

pub(super) fn header_value(node: &Node<'_>) -> Option<String> {
    let text = node.some_text()?;
    if !text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        node.wrong("contains characters that are not allowed in a header");
        return None;
    }
    Some(text.to_owned())
}

/// Reads `json`, `form` or `graphql`.
pub(super) fn body(table: &TableReader<'_>) -> Option<BodyTemplate> {
    let (json, form, graphql) = (table.get_new("json"), table.get_new("form"), table.get_new("graphql"));
    if [&json, &form, &graphql].into_iter().flatten().count() > 1 {
        table.wrong("has more than one body; keep one of `json`, `form` and `graphql`");
        return None;
    }
    if let Some(node) = json {
        return json_template(&node, 0).map(BodyTemplate::Json);
    }
    if let Some(node) = form {
        return Some(BodyTemplate::Form(templates(&node)));
    }
    let table =
        graphql?.table_such_as("{ query = \"query($id: ID!) { … }\", variables = { id = \"{job_id}\" } }")?;
    // Braces in a query are not parameters.
    let query = table.require("query").and_then(|node| node.some_text_with_braces().map(str::to_owned));
    let variables = table.get("variables").and_then(|node| {
        node.table()?;
        json_template(&node, 0)
    });
    table.finish();
    let mut members = vec![("query".to_owned(), JsonTemplate::Fixed(Value::String(query?)))];
    members.extend(variables.map(|variables| ("variables".to_owned(), variables)));
    Some(BodyTemplate::Json(JsonTemplate::Object(members)))
}

pub(super) fn json_template(node: &Node<'_>, depth: usize) -> Option<JsonTemplate> {
    if depth > MAX_DEPTH {
        node.wrong(format!("is nested deeper than {MAX_DEPTH}"));
        return None;
    }
    if node.is_text() {
        return template(node).map(JsonTemplate::Text);
    }
    if let Some(fixed) = node.fixed_json() {
        return Some(JsonTemplate::Fixed(fixed));
    }
    if node.is_table() {
        let entries = node.table()?.entries();
        let member = |(name, node): (String, Node<'_>)| {
            node.check_literal(&name);
            Some((name, json_template(&node, depth + 1)?))
        };
        return Some(JsonTemplate::Object(entries.into_iter().filter_map(member).collect()));
    }
    if node.is_list() {
        return Some(JsonTemplate::List(
            node.list().iter().filter_map(|item| json_template(item, depth + 1)).collect(),
        ));
    }
    node.wrong("must be a text, a number, true, false, a list or a table");
    None
}

/// Reads `[request.job_url]`.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
fn job_url(table: TableReader<'_>) -> Option<JobUrl> {
    let hosts = table.require("hosts").map(|node| hosts(&node)).unwrap_or_default();
    let path = table.require("path").and_then(|node| {
        let text = node.some_text_with_braces()?;
        let path = node.ok(Param::anchored(text))?;
        if !path.capture_names().flatten().any(|name| name == "job_id") {
            node.wrong("needs the group `(?<job_id>…)`, the id of the job in the URL");
            return None;
        }
        Some((path, text.to_owned()))
    });
    let keeps_query = table.get("query").and_then(|node| node.boolean()).unwrap_or(false);
    table.finish();
    let (path, pattern) = path?;
    Some(JobUrl { hosts, path, pattern, keeps_query })
}

/// Reads a list of hosts.
pub(super) fn hosts(node: &Node<'_>) -> Vec<HostPattern> {
    let list = node.list();
    if list.is_empty() {
        node.wrong("must list at least one host");
    }
    let host = |item: &Node<'_>| {
        let text = item.text_with_braces()?;
        let pattern = item.ok(HostPattern::parse(text))?;
        (!text.starts_with("*.") || item.is_permitted()).then_some(pattern)
    };
    list.iter().filter_map(host).collect()
}

/// Reads a size.
pub(super) fn size(node: &Node<'_>) -> Option<usize> {
    node.parsed("a size in quotes, such as \"64KiB\" or \"1MiB\"", parse_size)
}

/// Parses a size, such as `64KiB` or `1MiB`.
fn parse_size(text: &str) -> Result<usize, String> {
    let parse = |(unit, bytes)| text.strip_suffix(unit)?.parse::<usize>().ok()?.checked_mul(bytes);
    let size = [("KiB", 1024), ("MiB", 1024 * 1024)].into_iter().find_map(parse);
    size.filter(|size| (1024..=MAX_BODY).contains(size))
        .ok_or_else(|| format!("`{text}` is not a size from 1KiB to 16MiB; write it as 64KiB or 1MiB"))
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
