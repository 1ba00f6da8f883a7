//! The table `[cancel]`.

use super::reader::{Mistaken, Node, TableReader};
use super::request;
use super::result::{self, Context};
use crate::providers::definition::{BodyKind, CancelForm, Meaning, Method, NotFound, RequestForm, Target};
use crate::providers::extract::Extract;
use crate::providers::field::{Outcome, Paths};
use crate::providers::template::UrlTemplate;

/// Largest answer that is read, in bytes. It says whether the request is accepted, and why not.
const MAX_BODY: usize = 64 * 1024;

/// Largest number of statuses in `already_ended`.
const MAX_STATUSES: usize = 20;

/// Reads `[cancel]`. `poll_url` is `request.url`, as the file has it.
pub(super) fn cancel(
    table: &TableReader<'_>,
    context: &Context<'_>,
    poll_url: Option<&str>,
) -> Result<CancelForm, Mistaken> {
    let before = table.report.count();
    let method = match table.get("method") {
        Some(node) => node.word(&Method::OF_CANCEL),
        None => Some(Method::Post),
    };
    let target = target(table, context, poll_url);
    let already_ended = table.get("already_ended").map(|node| statuses(&node)).unwrap_or_default();
    let request =
        target.and_then(|target| result::request_form(table, (method, target), "application/json", context));
    if let Some(request) = &request {
        check(table, request, context);
    }
    table.finish();
    let request = request.filter(|_| table.report.count() == before).ok_or(Mistaken)?;
    let is_rebased = matches!(request.target, Target::BelowJob(_)) || result::is_rebased(&request, context);
    Ok(CancelForm { is_rebased, already_ended, meaning: meaning(context.meaning), request })
}

/// Reads `url` or `path`. Without both, it is the URL of the poll.
fn target(table: &TableReader<'_>, context: &Context<'_>, poll_url: Option<&str>) -> Option<Target> {
    let (url, path) = (table.get("url"), table.get("path"));
    if let (Some(node), Some(_)) = (&url, &path) {
        node.wrong("stands instead of `path`; remove one");
        return None;
    }
    if let Some(node) = url {
        return node.ok(UrlTemplate::parse(node.text()?, true)).map(Target::Url);
    }
    let suffix = match &path {
        Some(node) => suffix(node)?,
        None => "",
    };
    match &context.request?.target {
        Target::JobUrl if suffix.contains(['{', '}']) => {
            path?.wrong("is put after the URL of the job, so it has no parameters; write `url` instead");
            None
        }
        Target::JobUrl => Some(Target::BelowJob(suffix.to_owned())),
        Target::Url(_) => {
            let text = format!("{}{suffix}", poll_url?);
            let parsed = UrlTemplate::parse(&text, true);
            // Without a path, it is the URL of the poll, which is valid.
            path.map_or(parsed.clone().ok(), |node| node.ok(parsed)).map(Target::Url)
        }
        Target::Answer | Target::Given(_) | Target::BelowJob(_) => None,
    }
}

/// Reads a text that is put after the path of another URL.
fn suffix<'a>(node: &Node<'a>) -> Option<&'a str> {
    let text = node.some_text()?;
    // It must not become a part of the job's id.
    if !text.starts_with(['/', ':']) {
        node.wrong("is put after the path of the poll's URL; it begins with `/` or `:`");
        return None;
    }
    if text.contains(['?', '#']) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        node.wrong("must be a path without a query; `query` adds one");
        return None;
    }
    Some(text)
}

/// Reads the statuses which mean that the job has ended before.
fn statuses(node: &Node<'_>) -> Vec<u16> {
    let list = node.list();
    if list.len() > MAX_STATUSES {
        node.wrong(format!("has more than {MAX_STATUSES} statuses"));
        return Vec::new();
    }
    let status = |node: &Node<'_>| {
        let found = u16::try_from(node.integer()?).ok();
        let found =
            found.filter(|status| (400..500).contains(status) && !matches!(status, 401 | 408 | 425 | 429));
        if found.is_none() {
            node.wrong("must be an HTTP status from 400 to 499, except 401, 408, 425 and 429, which have other meanings");
        }
        found
    };
    list.iter().filter_map(status).collect()
}

/// Checks the parameters, and that the credential can be sent with the request.
fn check(table: &TableReader<'_>, request: &RequestForm, context: &Context<'_>) {
    if context.auth.is_some() {
        let hosts = context.meaning.job_url.as_ref().map(|form| form.hosts.as_slice()).unwrap_or_default();
        result::check_credential(table, Some(request), hosts, context);
    }
    result::check_names(table, request, None, context);
    // A request without the id would cancel something else.
    let names_job =
        matches!(request.target, Target::BelowJob(_)) || request::names(request).contains("job_id");
    let has_groups = context.meaning.job_url.is_some();
    if !names_job && !has_groups {
        table.wrong("the request does not contain `{job_id}`, so it would not cancel this job");
    }
}

/// Returns how the answer is read: errors are those of polls.
fn meaning(polls: &Meaning) -> Meaning {
    Meaning {
        dialect: polls.dialect,
        max_body: MAX_BODY,
        body: BodyKind::JsonOrEmpty,
        follows_redirects: false,
        job_url: polls.job_url.clone(),
        unwrap: Paths::default(),
        request_id: polls.request_id.clone(),
        decode: Vec::new(),
        rules: Vec::new(),
        status: None,
        extract: Extract::default(),
        errors: polls.errors.clone(),
        not_found: NotFound::default(),
        otherwise: Some(Outcome::Completed),
        results: Vec::new(),
    }
}
