//! The tables `[[result]]`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::extract::replaced;
use super::meaning::{decodes, rules};
use super::paths::{conditions, field};
use super::reader::{Node, TableReader};
use super::request::{self, Params};
use crate::domain::JobStatus;
use crate::providers::auth::Auth;
use crate::providers::definition::{
    BodyKind, Follower, JobUrl, Meaning, Method, NotFound, RequestForm, ResultForm, Target,
};
use crate::providers::extract::Extract;
use crate::providers::field::{Field, Outcome, Paths};
use crate::providers::host_pattern::HostPattern;
use crate::providers::part::SEARCHED_TOTAL;
use crate::providers::rule::{PollVerdict, Rule, Verdict, When};
use crate::providers::template::{Param, Template, UrlTemplate};

/// Largest number of results that follow one outcome of a poll.
const MAX_RESULTS: usize = 3;

/// The outcomes of polls that results can follow.
const ENDED: [(&str, Outcome); 5] = [
    ("completed", Outcome::Completed),
    ("failed", Outcome::Failed),
    ("cancelled", Outcome::Cancelled),
    ("partial", Outcome::Partial),
    ("expired", Outcome::Expired),
];

/// The outcomes of jobs about which results are read.
const OF_RESULT: [Outcome; 3] = [Outcome::Completed, Outcome::Failed, Outcome::Cancelled];

/// Largest number of values that one result takes from the answer to the poll.
const MAX_VALUES: usize = 8;

/// What the rest of the file says.
pub(super) struct Context<'a> {
    /// `None` if the provider needs no credential, or if `[auth]` has a mistake.
    pub(super) auth: Option<&'a Auth>,
    /// Whether `[auth]` is valid and not `none`.
    pub(super) has_auth: bool,
    pub(super) request: Option<&'a RequestForm>,
    pub(super) params: &'a Params,
    /// How the answers to polls are read.
    pub(super) meaning: &'a Meaning,
}

/// Reads all `[[result]]`.
pub(super) fn results(node: &Node<'_>, context: &Context<'_>) -> (Vec<ResultForm>, Vec<Follower>) {
    let list = node.tables();
    if list.len() > MAX_RESULTS * ENDED.len() {
        node.wrong(format!("there are more than {} results", MAX_RESULTS * ENDED.len()));
        return (Vec::new(), Vec::new());
    }
    let mut read: Vec<ReadResult> = Vec::new();
    for (index, node) in list.iter().enumerate() {
        let Some(table) = node.table() else { continue };
        // With a mistake in a result, it is not known what the next one begins with.
        let before = read.last().filter(|before| before.follower.index + 1 == index);
        let found = result(&table, (index, before), context);
        read.extend(found);
    }
    check_values(&read, node);
    let (forms, followers) = linked(read);
    let too_many = ENDED.iter().find(|(_, outcome)| {
        let follows = |form: &&ResultForm| form.when.iter().any(|when| outcome.is(*when));
        forms.iter().filter(follows).count() > MAX_RESULTS
    });
    if let Some((word, _)) = too_many {
        node.wrong(format!("there are more than {MAX_RESULTS} results for the outcome {word}"));
    }
    (forms, followers)
}

/// A result, and what it takes from the answer before.
struct ReadResult {
    form: ResultForm,
    follower: Follower,
    /// Whether that is the answer to the result before, and not that to the poll.
    is_chained: bool,
    /// Place of the table in the file.
    at: usize,
}

/// The answer with which a result begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Beginning {
    #[default]
    Poll,
    Result,
}

impl Beginning {
    const ALL: [(&str, Self); 2] = [("poll", Self::Poll), ("result", Self::Result)];
}

/// Returns the results, of which each has those that begin with its answer, and those that begin with the poll.
fn linked(read: Vec<ReadResult>) -> (Vec<ResultForm>, Vec<Follower>) {
    let (mut forms, mut followers): (Vec<ResultForm>, Vec<Follower>) = (Vec::new(), Vec::new());
    for ReadResult { form, follower, is_chained, .. } in read {
        match forms.last_mut().filter(|_| is_chained) {
            Some(before) => before.meaning.followers.push(follower),
            None => followers.push(follower),
        }
        forms.push(form);
    }
    (forms, followers)
}

/// Checks that each value is used: by the request of its result, or by one of those that follow from its answer.
fn check_values(read: &[ReadResult], node: &Node<'_>) {
    for (n, result) in read.iter().enumerate() {
        let chain = read[n + 1..].iter().take_while(|next| next.is_chained);
        let chain: Vec<&ReadResult> = std::iter::once(result).chain(chain).collect();
        for (name, _) in &result.follower.values {
            if !chain.iter().any(|one| request::names(&one.form.request).contains(name.as_str())) {
                let sentence = format!("{}.values: `{name}` is not used by the request; remove it", node.key);
                node.report.add(result.at, sentence);
            }
        }
    }
}

/// Reads the outcomes that a result follows.
fn when(node: &Node<'_>) -> Vec<Outcome> {
    let list = node.list();
    if node.is_list() && list.is_empty() {
        node.wrong("must list at least one outcome");
    }
    list.iter().filter_map(|item| item.word(&ENDED)).collect()
}

/// Reads a result. `before` is the one before it in the file.
fn result(
    table: &TableReader<'_>,
    (index, before): (usize, Option<&ReadResult>),
    context: &Context<'_>,
) -> Option<ReadResult> {
    let is_chained = is_chained(table, index);
    let previous = before.filter(|_| is_chained);
    let when = outcomes_before(table, previous);
    let conditions = table.get("if").map(|node| conditions(&node)).unwrap_or_default();
    let uses_credential = table.get("auth").and_then(|node| node.boolean()).unwrap_or(false);
    let target = target(table);
    let (url, hosts) = match &target {
        Some((_, url, hosts)) => (url.clone(), hosts.clone()),
        None => (Field::default(), Vec::new()),
    };
    let target = target.map(|(target, ..)| target);
    let values = table.get("values").map(|node| values(&node, context)).unwrap_or_default();
    let inherited = previous.map(|before| before.form.values.clone()).unwrap_or_default();
    let names: Vec<String> = values.iter().map(|(name, _)| name.clone()).chain(inherited).collect();
    let body_node = table.get("body");
    let body = body_node.as_ref().and_then(|node| node.word(&BodyKind::OF_RESULT)).unwrap_or_default();
    let default = if body.is_json() { "application/json" } else { "*/*" };
    let method = match table.get("method") {
        Some(node) => request::method(&node),
        None => Some(Method::Get),
    };
    let request = request_form(table, (method, target), default, context);
    let max_body = table.get("max_body").and_then(|node| request::size(&node));
    // The paths of this table are read in an answer of its own.
    let ignored_body = table.report.ignores_body.replace(body == BodyKind::None);
    let decode = table.get("decode").map(|node| decodes(&node)).unwrap_or_default();
    let nulls = context.meaning.extract.nulls.clone();
    let extract = Extract { nulls, ..Extract::default() };
    let extract_node = table.get("extract");
    let extract = match extract_node.and_then(|node| node.table()) {
        Some(table) => replaced(extract, table),
        None => extract,
    };
    let rule_node = table.get("rule");
    let rules = rule_node.as_ref().map(|node| rules(node, &extract)).unwrap_or_default();
    if let Some(node) = &rule_node {
        check_verdicts(node, &rules, &when);
    }
    table.report.ignores_body.set(ignored_body);
    if uses_credential {
        check_credential(table, request.as_ref(), &hosts, context);
    }
    table.finish();
    let request = request?;
    check_names(table, &request, &NamesOfTable { values: Some(&names), inherited: BTreeSet::new() }, context);
    let meaning = Meaning {
        dialect: context.meaning.dialect,
        max_body: max_body.unwrap_or(1024 * 1024),
        body,
        follows_redirects: false,
        job_url: context.meaning.job_url.clone(),
        unwrap: Paths::default(),
        request_id: Field::default(),
        decode,
        rules,
        status: None,
        extract,
        errors: context.meaning.errors.clone(),
        not_found: NotFound::default(),
        otherwise: Some(Outcome::Completed),
        results: Vec::new(),
        followers: Vec::new(),
        searched: SEARCHED_TOTAL,
    };
    let is_rebased = is_rebased(&request, context);
    // An answer to a result has the outcome of the poll, or ends the job.
    let after = if is_chained { OF_RESULT.to_vec() } else { when.clone() };
    let conditions = When { http: Vec::new(), all: conditions, any: Vec::new() };
    let needs_url = matches!(request.target, Target::Answer);
    let follower = Follower { index, when: after, conditions, needs_url, url, values };
    let form = ResultForm { when, request, uses_credential, is_rebased, hosts, values: names, meaning };
    // Without the result before, nothing is known about its values.
    (!is_chained || previous.is_some()).then_some(ReadResult { form, follower, is_chained, at: table.at })
}

/// Reads `from`: whether a result begins with the answer to the one before.
fn is_chained(table: &TableReader<'_>, index: usize) -> bool {
    let Some(node) = table.get("from") else { return false };
    let is_chained = node.word(&Beginning::ALL) == Some(Beginning::Result);
    if is_chained && index == 0 {
        node.wrong("is the first [[result]], so no answer to a result precedes it; remove `from`");
        return false;
    }
    is_chained
}

/// Reads the outcomes that a result follows: those of the result before, if it begins with its answer.
fn outcomes_before(table: &TableReader<'_>, previous: Option<&ReadResult>) -> Vec<Outcome> {
    match (table.get("when"), previous) {
        (Some(node), Some(_)) => {
            node.wrong("has the `when` of the result before, from whose answer it follows; write a condition in `if`");
            Vec::new()
        }
        (None, Some(before)) => before.form.when.clone(),
        (Some(node), None) => when(&node),
        (None, None) => vec![Outcome::Completed],
    }
}

/// Reads `url`, or `path` and `hosts`.
fn target(table: &TableReader<'_>) -> Option<(Target, Field, Vec<HostPattern>)> {
    let (url_node, path_node, hosts_node) = (table.get("url"), table.get("path"), table.get("hosts"));
    match (url_node, path_node) {
        (Some(node), None) => {
            if let Some(node) = hosts_node {
                node.wrong("is possible only with `path`; the host of `url` is fixed");
            }
            let url = node.ok(UrlTemplate::parse(node.text_with_braces()?, true))?;
            Some((Target::Url(url), Field::default(), Vec::new()))
        }
        (None, Some(node)) => {
            let place = field(&node);
            let Some(hosts_node) = hosts_node else {
                table.wrong("the key `hosts` is missing, the hosts that the URL at `path` can have");
                return None;
            };
            let hosts = request::hosts(&hosts_node);
            (!place.is_empty() && !hosts.is_empty()).then_some((Target::Answer, place, hosts))
        }
        _ => {
            table.wrong("has exactly one of `url`, and `path`, a place of the URL in the answer before");
            None
        }
    }
}

/// Reads `[result.values]`.
fn values(node: &Node<'_>, context: &Context<'_>) -> Vec<(String, Field)> {
    let entries = node.table().map(|table| table.entries()).unwrap_or_default();
    if entries.len() > MAX_VALUES {
        node.wrong(format!("has more than {MAX_VALUES} values"));
        return Vec::new();
    }
    let groups = names_of(context.meaning.job_url.as_ref());
    let value = |(name, node): (String, Node<'_>)| {
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            node.wrong("a name of a value consists of letters, digits and `_`");
        }
        let is_taken = name == "job_id" || context.params.others.contains_key(&name);
        if is_taken || groups.contains(name.as_str()) {
            node.wrong("is the name of a parameter; choose another one");
        }
        let place = field(&node);
        (!place.is_empty()).then_some((name, place))
    };
    entries.into_iter().filter_map(value).collect()
}

fn names_of(job_url: Option<&JobUrl>) -> BTreeSet<&str> {
    job_url.into_iter().flat_map(JobUrl::names).collect()
}

/// Reads the request of a table that follows `[request]`, with a default for the header `Accept`.
pub(super) fn request_form(
    table: &TableReader<'_>,
    (method, target): (Option<Method>, Option<Target>),
    default: &str,
    context: &Context<'_>,
) -> Option<RequestForm> {
    let query = table.get("query").map(|node| request::templates(&node)).unwrap_or_default();
    let headers = table.get("headers").map(|node| request::headers(&node)).unwrap_or_default();
    let body = request::body(table);
    if let Some(method) = method {
        request::check_method(table, method);
    }
    let accept = table.get("accept").and_then(|node| request::header_value(&node));
    let timeout = table.get("timeout").and_then(|node| request::timeout(&node));
    let timeout = timeout.or(context.request.map(|request| request.timeout));
    Some(RequestForm {
        method: method?,
        target: target?,
        query: query.into_iter().collect(),
        headers,
        accept: accept.unwrap_or_else(|| default.to_owned()),
        body,
        timeout: timeout.unwrap_or(Duration::from_secs(20)),
        follows_redirects: false,
        auth: None,
    })
}

/// A result is read after the end of the job, so it cannot say that the job runs, or that it is unknown.
fn check_verdicts(node: &Node<'_>, rules: &[Rule], when: &[Outcome]) {
    let is_of_completed = |outcome: &Outcome| outcome.status() == JobStatus::Completed;
    let follows_completed = when.iter().all(is_of_completed);
    for rule in rules {
        match &rule.verdict {
            Verdict::Job(outcome, _) if outcome.status().ending().is_none() => {
                let status = outcome.status();
                node.wrong(format!(
                    "a result cannot mean {status}; `answer = \"not_yet\"` repeats the request"
                ));
            }
            Verdict::Poll(PollVerdict::NotFound | PollVerdict::Unauthorized) => {
                node.wrong("the answer of a result is `not_yet`, `rate_limited` or `error`; each repeats the request");
            }
            Verdict::Job(outcome, _) if !follows_completed && !when.iter().any(|one| outcome.is(*one)) => {
                let words: Vec<&str> = when.iter().map(|outcome| outcome.word()).collect();
                node.wrong(format!(
                    "the details of a job that did not complete cannot change its outcome; `status` is one of {}, as in `when`",
                    words.join(", ")
                ));
            }
            Verdict::Job(..) | Verdict::Poll(_) => {}
        }
    }
}

/// Checks that the credential can be sent with the request.
pub(super) fn check_credential(
    table: &TableReader<'_>,
    form: Option<&RequestForm>,
    hosts: &[HostPattern],
    context: &Context<'_>,
) {
    if !context.has_auth {
        table.wrong_key("auth", "needs a credential, but [auth] has the type `none`");
    }
    let (Some(auth), Some(form)) = (context.auth, form) else { return };
    let is_sent = match &form.target {
        Target::Url(url) => url.fixed_origin().is_none_or(|origin| auth.trusts(origin)),
        Target::Answer | Target::JobUrl | Target::BelowJob(_) | Target::Given(_) => {
            hosts.iter().all(|host| auth.send_to.iter().any(|pattern| pattern.covers(host)))
        }
    };
    if !is_sent {
        let key = if matches!(form.target, Target::Url(_)) { "url" } else { "hosts" };
        table.wrong_key(
            key,
            "has a host that auth.send_to does not contain, so `auth = true` is not possible",
        );
    }
    request::check_body_credential(auth, form.body.as_ref(), table);
}

/// Names of a table besides the parameters.
pub(super) struct NamesOfTable<'a> {
    /// The values that the table itself gives, if it can.
    pub(super) values: Option<&'a [String]>,
    /// The names that the request for the poll has as well, where they are checked.
    pub(super) inherited: BTreeSet<&'a str>,
}

/// Checks that every name in a template has a value.
pub(super) fn check_names(
    table: &TableReader<'_>,
    form: &RequestForm,
    NamesOfTable { values, inherited }: &NamesOfTable<'_>,
    context: &Context<'_>,
) {
    let used = request::names(form);
    let groups = names_of(context.meaning.job_url.as_ref());
    let (given, values) = (*values, values.unwrap_or_default());
    for name in &used {
        let is_value = values.iter().any(|known| known == name);
        let is_param =
            *name == "job_id" || context.params.others.contains_key(*name) || groups.contains(name);
        if !is_value && !is_param && !inherited.contains(name) {
            let hint = if given.is_some() {
                format!(", or `values = {{ {name} = \"$.…\" }}`")
            } else {
                String::new()
            };
            table.wrong(format!("`{{{name}}}` is not declared; add [params.{name}]{hint}"));
        }
    }
    for name in request::required(form) {
        if context.params.others.get(name).is_some_and(Param::is_optional) {
            let places = "it can be used in `query`, `headers`, and members of the body";
            table.wrong(format!("`{{{name}}}` is optional, but always a part of the request; {places}"));
        }
    }
    if let Target::Url(url) = &form.target {
        for name in url.host().into_iter().flat_map(Template::names) {
            let is_limited = context.params.others.get(name).is_some_and(Param::is_limited);
            if !is_limited {
                let sentence = "is in the host, so it must be a parameter with a `pattern` or an `enum`";
                table.wrong_key("url", format!("`{{{name}}}` {sentence}"));
            }
        }
    }
}

/// Returns whether a request goes to the host of the polls, which a `base_url` replaces.
pub(super) fn is_rebased(form: &RequestForm, context: &Context<'_>) -> bool {
    match (&form.target, context.request.map(|request| &request.target)) {
        (Target::Url(own), Some(Target::Url(polls))) => own.origin() == polls.origin(),
        (Target::Url(_), _) => true,
        (Target::Answer | Target::JobUrl | Target::BelowJob(_) | Target::Given(_), _) => false,
    }
}
