//! The table `[cancel]`.

use super::reader::{Mistaken, Node, TableReader};
use super::request;
use super::result::{self, Context, NamesOfTable};
use super::{examples, meaning};
use crate::providers::definition::{
    BodyKind, CancelForm, CancelRule, CancelVerdict, Meaning, Method, NotFound, RequestForm, Target,
};
use crate::providers::extract::Extract;
use crate::providers::field::{Outcome, Paths};
use crate::providers::part::SEARCHED_TOTAL;
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
    // Without the address of the poll, the other keys are read as well.
    let request = result::request_form(table, (method, target), "application/json", context);
    if let Some(request) = &request {
        check(table, request, context);
    }
    let rules = table.get("rule").map(|node| rules(&node)).unwrap_or_default();
    let examples = table.get("example").map(|node| node.tables()).unwrap_or_default();
    let examples: Vec<_> = examples
        .iter()
        .filter_map(|node| {
            let mut example = examples::cancel_example(node)?;
            context.params.add_defaults(&mut example.params);
            Some((node.at, example))
        })
        .collect();
    table.finish();
    let request = request.filter(|_| table.report.count() == before).ok_or(Mistaken)?;
    let is_rebased = matches!(request.target, Target::BelowJob(_)) || result::is_rebased(&request, context);
    let (places, examples): (Vec<usize>, Vec<_>) = examples.into_iter().unzip();
    let meaning = meaning_of(context.meaning);
    let form = CancelForm { request, is_rebased, already_ended, meaning, rules, examples };
    for (n, (at, example)) in (1..).zip(places.into_iter().zip(&form.examples)) {
        let wrong = |why: &str| table.report.add(at, format!("cancel.example {n}: {why}"));
        examples::check_params(
            (&example.job_id, &example.params),
            context.params,
            Some(context.meaning),
            &wrong,
        );
        if table.report.runs_examples.get()
            && let Err(why) = form.check_example(example)
        {
            wrong(&why);
        }
    }
    if table.report.count() > before {
        return Err(Mistaken);
    }
    Ok(form)
}

/// Reads all `[[cancel.rule]]`.
fn rules(node: &Node<'_>) -> Vec<CancelRule> {
    let rule = |node: &Node<'_>| {
        let table = node.table()?;
        let when = meaning::when(&table);
        let verdict_node = table.require("answer");
        let verdict = verdict_node.as_ref().and_then(|node| node.word(&CancelVerdict::ALL));
        let explain_node = table.get("explain");
        let explain = explain_node.as_ref().and_then(Node::some_text).map(str::to_owned);
        if let (Some(node), Some(CancelVerdict::Accepted)) = (&explain_node, verdict) {
            node.wrong("is not possible with `accepted`, which has no message");
        }
        table.finish();
        Some(CancelRule { when, verdict: verdict?, explain })
    };
    meaning::tables_of_rules(node).iter().filter_map(rule).collect()
}

/// Reads `url` or `path`. Without both, it is the URL of the poll.
fn target(table: &TableReader<'_>, context: &Context<'_>, poll_url: Option<&str>) -> Option<Target> {
    let (url, path) = (table.get("url"), table.get("path"));
    if let (Some(node), Some(_)) = (&url, &path) {
        node.wrong("stands instead of `path`; remove one");
        return None;
    }
    if let Some(node) = url {
        return node.ok(UrlTemplate::parse(node.text_with_braces()?, true)).map(Target::Url);
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
            // A mistake in it is reported there.
            let poll_url = poll_url.filter(|url| UrlTemplate::parse(url, true).is_ok())?;
            let text = format!("{poll_url}{suffix}");
            let parsed = UrlTemplate::parse(&text, true);
            // Without a path, it is the URL of the poll, which is valid.
            path.map_or(parsed.clone().ok(), |node| node.ok(parsed)).map(Target::Url)
        }
        Target::Answer | Target::Given(_) | Target::BelowJob(_) => None,
    }
}

/// Reads a text that is put after the path of another URL.
fn suffix<'a>(node: &Node<'a>) -> Option<&'a str> {
    let text = node.some_text_with_braces()?;
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
fn check(table: &TableReader<'_>, form: &RequestForm, context: &Context<'_>) {
    // What the address has in common with that of the poll is checked there.
    let is_own = table.has("url");
    if context.auth.is_some() && is_own {
        let hosts = context.meaning.job_url.as_ref().map(|form| form.hosts.as_slice()).unwrap_or_default();
        result::check_credential(table, Some(form), hosts, context);
    } else if let Some(auth) = context.auth {
        request::check_body_credential(auth, form.body.as_ref(), table);
    }
    let inherited = context.request.filter(|_| !is_own).map(request::names).unwrap_or_default();
    result::check_names(table, form, &NamesOfTable { values: None, inherited }, context);
    // A request without the id would cancel something else.
    let names_job = matches!(form.target, Target::BelowJob(_)) || request::names(form).contains("job_id");
    let has_groups = context.meaning.job_url.is_some();
    if !names_job && !has_groups {
        table.wrong("the request does not contain `{job_id}`, so it would not cancel this job");
    }
}

/// Returns how the answer is read: errors are those of polls.
fn meaning_of(polls: &Meaning) -> Meaning {
    Meaning {
        dialect: polls.dialect,
        max_body: MAX_BODY,
        body: if polls.body == BodyKind::Text { BodyKind::Text } else { BodyKind::JsonOrEmpty },
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
        followers: Vec::new(),
        searched: SEARCHED_TOTAL,
    }
}
