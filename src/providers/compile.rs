//! Compiling a definition file to a [`Definition`].
//!
//! All mistakes are listed at once, in the order of the file, each with its line, its column and its key. The file is read
//! key by key, and a part with a mistake does not stop the check of the others. Only a file that is not TOML is reported
//! alone. The examples run as soon as the parts that interpret answers have no mistake, whatever the rest has.

mod auth;
mod cancel;
mod examples;
mod extract;
mod jwt;
mod meaning;
mod paths;
mod poll;
mod reader;
mod request;
mod result;

use std::collections::BTreeSet;

use toml::de::DeTable;
use url::Url;

use super::definition::{CancelForm, Definition, Example, Expect, Meaning, RequestForm};
use super::extract::Extract;
use super::json::Dialect;
use super::part::SEARCHED_TOTAL;
use super::rule::Rule;
use crate::domain::{EndingKind, INLINE, JobStatus};
pub use reader::Mistake;
use reader::{Mistaken, Node, Report, TableReader};
use request::{Params, RequestParts};

/// Newest version of the definition language.
const SCHEMA: u32 = 2;

impl Definition {
    /// Parses a definition, and runs its examples. The error lists every mistake.
    pub fn parse(text: &str) -> Result<Self, Vec<Mistake>> {
        without_mistakes(compile(text))
    }

    /// Parses a definition whose examples were run before, when it was stored.
    pub(super) fn parse_stored(text: &str) -> Result<Self, Vec<Mistake>> {
        let report = Report::new(text);
        report.runs_examples.set(false);
        without_mistakes(compile_with(report, text))
    }
}

fn without_mistakes(
    (definition, mistakes): (Option<Definition>, Vec<Mistake>),
) -> Result<Definition, Vec<Mistake>> {
    definition.filter(|_| mistakes.is_empty()).ok_or(mistakes)
}

/// Returns the definition, if only its examples have mistakes, and every mistake.
pub(super) fn compile(text: &str) -> (Option<Definition>, Vec<Mistake>) {
    compile_with(Report::new(text), text)
}

fn compile_with(report: Report<'_>, text: &str) -> (Option<Definition>, Vec<Mistake>) {
    let (parsed, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        for error in syntax {
            let at = error.span().map_or(0, |span| span.start);
            report.add(at, format!("{}{}", error.message(), remedy(error.message())));
        }
        return (None, report.mistakes());
    }
    let definition = definition(&TableReader::new(&report, parsed.get_ref()));
    (definition, report.mistakes())
}

/// Returns what to do about a mistake that TOML has no meaning for.
fn remedy(message: &str) -> &'static str {
    if message.contains("escape") {
        "; write a pattern between single quotes, such as '[0-9]+\\.mp4', or each backslash twice"
    } else if message.contains("duplicate key") {
        "; put all keys of a table under one heading"
    } else if message.contains("quoted") || message.contains("string") {
        "; write texts and paths between quotes"
    } else {
        ""
    }
}

/// Returns the id that a file with mistakes gives its provider.
pub(super) fn id_of(text: &str) -> Option<String> {
    let (parsed, _) = DeTable::parse_recoverable(text);
    let id = parsed.get_ref().get("id")?.get_ref().as_str()?.to_owned();
    is_provider_id(&id).then_some(id)
}

/// Reads a file. Returns `None` if a part has a mistake, which is then in the report.
fn definition(file: &TableReader<'_>) -> Option<Definition> {
    let report = file.report;
    read_schema(file);
    let head = head(file);
    let poll_table = file.get("poll").and_then(|node| node.table());
    let limits_table = file.get("limits").and_then(|node| node.table());
    let not_found_table = file.get("not_found").and_then(|node| node.table());
    let request_table = file.require("request").and_then(|node| node.table());
    let has_job_url = request_table.as_ref().is_some_and(|table| table.has("job_url"));
    let params_table = file.get("params").and_then(|node| node.table());
    let params = request::params(params_table.as_ref(), has_job_url, report);
    let auth = file.require("auth").and_then(|node| node.table()).ok_or(Mistaken).and_then(auth::auth);
    let parts = request_table.as_ref().map(|table| request::request(table, auth, &params));
    let parts = parts.unwrap_or(RequestParts { form: None, job_url: None, max_body: 1024 * 1024 });
    let follows_redirects = parts.form.as_ref().is_some_and(|form| form.follows_redirects);
    let before = report.count();
    let job_url = parts.job_url.clone();
    let meaning =
        read_meaning(file, not_found_table.as_ref(), parts.job_url, parts.max_body, follows_redirects);
    let grace = poll::duration(not_found_table.as_ref(), "grace", 60);
    let meaning = read_results(file, meaning, parts.form.as_ref(), &params);
    let meaning = meaning.filter(|_| report.count() == before);
    let cancel = read_cancel(file, meaning.as_ref(), parts.form.as_ref(), (request_table.as_ref(), &params));
    if let (Some(form), Some(table)) = (&parts.form, &request_table) {
        let results = meaning.iter().flat_map(|meaning| &meaning.results).map(|result| &result.request);
        let requests = results.chain(cancel.iter().flatten().map(|cancel| &cancel.request));
        let templates = meaning.as_ref().map(Meaning::template_names).unwrap_or_default();
        let mut others: BTreeSet<&str> = requests.flat_map(request::names).collect();
        check_templates(file, &templates, &params, job_url.as_ref());
        others.extend(&templates);
        let in_paths = report.names.borrow();
        check_paths(file, &in_paths, &params, job_url.as_ref());
        others.extend(in_paths.iter().map(|(name, ..)| name.as_str()));
        // With a mistake in a table, it is not known what it uses.
        let is_known = meaning.is_some() || !(file.has("result") || file.has("cancel"));
        if is_known && cancel.is_ok() {
            request::check_names(form, &others, job_url.as_ref(), &params, report, table.at);
        }
    }
    if let Some(table) = request_table {
        table.finish();
    }
    let examples = read_examples(file, meaning.as_ref(), &params);
    let policy = poll::poll(poll_table.as_ref(), grace, report);
    let limits = poll::limits(limits_table.as_ref());
    [poll_table, limits_table, not_found_table].into_iter().flatten().for_each(|table| table.finish());
    file.finish();
    let (id, name, docs, webhooks, notes) = head?;
    let Params { job_id, others } = params;
    Some(Definition {
        id,
        instance_of: None,
        name,
        docs,
        webhooks,
        notes,
        poll: policy,
        limits,
        job_id,
        params: others,
        request: parts.form?,
        meaning: meaning?,
        cancel: cancel.ok()?,
        examples,
        secrets: Vec::new(),
        hidden: Vec::new(),
        own_kib: None,
    })
}

/// Checks that every name in a template of `[extract]` has a value.
fn check_templates(
    file: &TableReader<'_>,
    names: &BTreeSet<&str>,
    params: &Params,
    job_url: Option<&super::definition::JobUrl>,
) {
    let groups: BTreeSet<&str> = job_url.into_iter().flat_map(super::definition::JobUrl::names).collect();
    for name in names {
        let is_declared = *name == "job_id" || params.others.contains_key(*name) || groups.contains(name);
        if !is_declared {
            file.wrong_key(
                "extract",
                format!(
                    "`{{{name}}}` is neither a path, such as {{$.{name}}}, nor declared; add [params.{name}]"
                ),
            );
        }
    }
}

/// Checks that every name in a path has a value.
fn check_paths(
    file: &TableReader<'_>,
    names: &[(String, String, usize)],
    params: &Params,
    job_url: Option<&super::definition::JobUrl>,
) {
    let groups: BTreeSet<&str> = job_url.into_iter().flat_map(super::definition::JobUrl::names).collect();
    for (name, key, at) in names {
        if name != "job_id" && !params.others.contains_key(name) && !groups.contains(name.as_str()) {
            file.report.add(*at, format!("{key}: `{{{name}}}` is not declared; add [params.{name}]"));
        }
    }
}

fn read_schema(file: &TableReader<'_>) {
    let Some(node) = file.require("schema") else { return };
    let Some(schema) = node.integer() else { return };
    if let Some(schema) = u32::try_from(schema).ok().filter(|schema| (1..=SCHEMA).contains(schema)) {
        file.report.schema.set(schema);
    } else {
        node.wrong(format!("{schema} is unknown; this version supports schema 1 and {SCHEMA}"));
        file.report.schema.set(SCHEMA);
    }
}

type Head = (String, String, String, Option<String>, Vec<String>);

/// Reads what the definition says about itself.
fn head(file: &TableReader<'_>) -> Option<Head> {
    let id = file.require("id").and_then(|node| {
        let id = node.text()?;
        if !is_provider_id(id) {
            node.wrong("must be 1 to 40 characters of a-z, 0-9 and -, starting with a letter");
        }
        if id == INLINE {
            node.wrong("`inline` stands for jobs without a definition; choose another id");
        }
        Some(id.to_owned())
    });
    let name = file.require("name").and_then(|node| node.some_text().map(str::to_owned));
    let docs = file.require("docs").and_then(|node| {
        let docs = node.text_with_braces()?;
        if !Url::parse(docs).is_ok_and(|url| matches!(url.scheme(), "https" | "http")) {
            node.wrong("must be the URL of the provider's documentation");
        }
        Some(docs.to_owned())
    });
    let webhooks = file.get_new("webhooks").and_then(|node| node.some_text_with_braces().map(str::to_owned));
    let notes = file.get_new("notes").map(|node| node.texts_with_braces()).unwrap_or_default();
    Some((id?, name?, docs?, webhooks, notes))
}

/// Returns whether `id` consists of lower case letters, digits and dashes, so that it can be part of the name of a
/// variable and of a file.
pub fn is_provider_id(id: &str) -> bool {
    id.len() <= 40
        && id.starts_with(|c: char| c.is_ascii_lowercase())
        && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Reads the parts that interpret answers.
fn read_meaning(
    file: &TableReader<'_>,
    not_found_table: Option<&TableReader<'_>>,
    job_url: Option<super::definition::JobUrl>,
    max_body: usize,
    follows_redirects: bool,
) -> Option<Meaning> {
    let table = |name| file.get(name).and_then(|node: Node<'_>| node.table());
    // First, because it decides whether paths find anything.
    let response = table("response").map(meaning::response).unwrap_or_default();
    let extract = file.require("extract").and_then(|node| node.table()).map(extract::extract);
    let fallback = Extract::default();
    let rules_node = file.get_new("rule");
    let rules: Vec<Rule> = rules_node
        .as_ref()
        .map(|node| meaning::rules(node, extract.as_ref().unwrap_or(&fallback)))
        .unwrap_or_default();
    let status = if let Some(table) = file.get("status").and_then(|node| node.table()) {
        Some(meaning::status(table, &rules))
    } else {
        match &rules_node {
            Some(node) => meaning::check_outcomes(node, std::iter::empty(), &rules),
            None => drop(file.require("status")),
        }
        None
    };
    let errors = table("errors").map(meaning::errors).unwrap_or_default();
    let not_found = match not_found_table {
        Some(table) => meaning::not_found(table, &errors.code),
        None => super::definition::NotFound { http: vec![404], ..Default::default() },
    };
    let dialect = if file.report.schema.get() >= 2 { Dialect::Tolerant } else { Dialect::Strict };
    let meaning::Response { body, unwrap, request_id, decode } = response;
    Some(Meaning {
        dialect,
        max_body,
        body,
        follows_redirects,
        job_url,
        unwrap,
        request_id,
        decode,
        rules,
        status,
        extract: extract?,
        errors,
        not_found,
        otherwise: None,
        results: Vec::new(),
        followers: Vec::new(),
        searched: SEARCHED_TOTAL,
    })
}

/// Reads the follow-up requests, and adds them to what an answer means.
fn read_results(
    file: &TableReader<'_>,
    meaning: Option<Meaning>,
    request: Option<&RequestForm>,
    params: &Params,
) -> Option<Meaning> {
    let node = file.get_new("result");
    let mut meaning = meaning?;
    let Some(node) = node else { return Some(meaning) };
    let auth = request.and_then(|form| form.auth.as_ref());
    // A mistake in [auth] or [request] is reported there.
    let has_auth = request.is_none_or(|form| form.auth.is_some());
    let context = result::Context { auth, has_auth, request, params, meaning: &meaning };
    let (results, followers) = result::results(&node, &context);
    (meaning.results, meaning.followers) = (results, followers);
    Some(meaning)
}

/// Reads how a job is cancelled. `None`: the file does not say it.
fn read_cancel(
    file: &TableReader<'_>,
    meaning: Option<&Meaning>,
    request: Option<&RequestForm>,
    (request_table, params): (Option<&TableReader<'_>>, &Params),
) -> Result<Option<CancelForm>, Mistaken> {
    let Some(node) = file.get_new("cancel") else { return Ok(None) };
    let table = node.table().ok_or(Mistaken)?;
    // Its keys depend on parts that have mistakes.
    let Some(meaning) = meaning else { return Err(Mistaken) };
    let auth = request.and_then(|form| form.auth.as_ref());
    let has_auth = request.is_none_or(|form| form.auth.is_some());
    let context = result::Context { auth, has_auth, request, params, meaning };
    let poll_url = request_table.and_then(|table| table.get("url")).and_then(|node| node.text_with_braces());
    cancel::cancel(&table, &context, poll_url).map(Some)
}

/// Reads the examples and runs them.
fn read_examples(file: &TableReader<'_>, meaning: Option<&Meaning>, params: &Params) -> Vec<Example> {
    let report = file.report;
    let nodes = file.get("example").map(|node| node.tables()).unwrap_or_default();
    let mut read = Vec::new();
    let mut unread = false;
    for (n, node) in (1..).zip(&nodes) {
        let Some(example) = examples::example(node) else {
            unread = true;
            continue;
        };
        let wrong = |why: &str| report.add(node.at, format!("example {n}: {why}"));
        examples::check_params((&example.job_id, &example.params), params, meaning, &wrong);
        if report.runs_examples.get()
            && let Some(meaning) = meaning
            && let Err(why) = meaning.check_example(&examples::with_defaults(&example, params))
        {
            wrong(&why);
        }
        unread |= example.expect.is_none();
        read.push(example);
    }
    if !unread {
        let at = nodes.last().map_or(0, |node| node.at);
        let cannot_fail = report.cannot_fail.get();
        check_coverage(&read, cannot_fail, |sentence| report.add(at, format!("example: {sentence}")));
    }
    read
}

/// Checks that the examples show a job that runs, one that completed and one that failed, unless no job fails.
fn check_coverage(examples: &[Example], cannot_fail: bool, wrong: impl Fn(&str)) {
    let (completed, failed) = (Some(EndingKind::Completed), Some(EndingKind::Failed));
    let shows = |endings: &[Option<EndingKind>]| {
        let status = |example: &Example| match &example.expect {
            Some(Expect::Seen(seen)) => Some(seen.outcome.status()),
            // A good answer without news is one about a job that runs.
            Some(Expect::NotYet) => Some(JobStatus::Processing),
            Some(
                Expect::NotFound { .. }
                | Expect::Account { .. }
                | Expect::RateLimited { .. }
                | Expect::Trouble { .. },
            )
            | None => None,
        };
        examples.iter().filter_map(status).any(|status| endings.contains(&status.ending()))
    };
    for (endings, kind) in [(None, "runs"), (completed, "completed"), (failed, "failed")] {
        let is_needed = endings != failed || !cannot_fail;
        if is_needed && !shows(&[endings]) {
            wrong(&format!("at least one must show a job that {kind}"));
        }
    }
}
