//! The tables that say what an answer means: `[response]`, `[[rule]]`, `[status]`, `[errors]` and `[not_found]`.

use std::collections::HashMap;

use super::extract::replaced;
use super::paths::{alternatives, conditions, field, optional_paths, path};
use super::reader::{Node, TableReader};
use crate::domain::JobStatus;
use crate::providers::decode::{Decode, Encoding};
use crate::providers::definition::{BodyKind, ErrorMark, Errors, Fold, NotFound, StatusWords};
use crate::providers::extract::Extract;
use crate::providers::field::{Alternative, Field, Outcome, Paths, Place};
use crate::providers::rule::{HttpRange, PollVerdict, Rule, Verdict, When};
use crate::providers::value::Scalar;

/// Largest number of rules.
const MAX_RULES: usize = 100;

/// Largest number of values that are decoded.
const MAX_DECODED: usize = 8;

const ENCODINGS: [(&str, Encoding); 3] =
    [("json", Encoding::Json), ("base64", Encoding::Base64), ("base64_json", Encoding::Base64Json)];

const STATUSES: [(&str, Outcome); 5] = [
    ("pending", Outcome::Pending),
    ("processing", Outcome::Processing),
    ("completed", Outcome::Completed),
    ("failed", Outcome::Failed),
    ("cancelled", Outcome::Cancelled),
];

const ANSWERS: [(&str, PollVerdict); 5] = [
    ("not_found", PollVerdict::NotFound),
    ("unauthorized", PollVerdict::Unauthorized),
    ("rate_limited", PollVerdict::RateLimited),
    ("error", PollVerdict::Error),
    ("not_yet", PollVerdict::NotYet),
];

/// What `[response]` says.
#[derive(Default)]
pub(super) struct Response {
    pub(super) body: BodyKind,
    pub(super) unwrap: Paths,
    pub(super) request_id: Field,
    pub(super) decode: Vec<Decode>,
}

/// Reads `[response]`. It is read before all other paths.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
pub(super) fn response(table: TableReader<'_>) -> Response {
    let body = table.get_new("body").and_then(|node| node.word(&BodyKind::ALL)).unwrap_or_default();
    table.report.ignores_body.set(body == BodyKind::None);
    let decode = table.get_new("decode").map(|node| decodes(&node));
    let response = Response {
        body,
        unwrap: optional_paths(&table, "unwrap"),
        request_id: table.get("request_id").map(|node| field(&node)).unwrap_or_default(),
        decode: decode.unwrap_or_default(),
    };
    if response.request_id.0.iter().any(|one| !one.when.is_empty()) {
        table.wrong_key("request_id", "`when` is not possible here; the id is read from every answer");
    }
    table.finish();
    response
}

/// Reads the texts that are decoded.
pub(super) fn decodes(node: &Node<'_>) -> Vec<Decode> {
    let list = node.list();
    if list.len() > MAX_DECODED {
        node.wrong(format!("has more than {MAX_DECODED} values"));
    }
    list.iter().filter_map(decode).collect()
}

fn decode(node: &Node<'_>) -> Option<Decode> {
    let table = node.table_such_as("{ path = \"$.data\", as = \"json\" }")?;
    let path = table.require("path").and_then(|node| path(&node));
    let encoding = table.require("as").and_then(|node| node.word(&ENCODINGS));
    table.finish();
    Some(Decode { path: path?, encoding: encoding? })
}

/// Reads all `[[rule]]`. `extract` is the one that a rule changes.
pub(super) fn rules(node: &Node<'_>, extract: &Extract) -> Vec<Rule> {
    tables_of_rules(node).iter().filter_map(|node| rule(node.table()?, extract)).collect()
}

/// Returns the tables of a list of rules.
pub(super) fn tables_of_rules<'a>(node: &Node<'a>) -> Vec<Node<'a>> {
    let list = node.tables();
    if list.len() > MAX_RULES {
        node.wrong(format!("there are more than {MAX_RULES} rules"));
        return Vec::new();
    }
    list
}

#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
fn rule(table: TableReader<'_>, extract: &Extract) -> Option<Rule> {
    let when = when(&table);
    let (status_node, answer_node) = (table.get("status"), table.get("answer"));
    let (code_node, explain_node) = (table.get("code"), table.get("explain"));
    let code = code_node.as_ref().and_then(Node::some_text).map(str::to_owned);
    let explain = explain_node.as_ref().and_then(Node::some_text).map(str::to_owned);
    let raw_node = table.get("raw_status");
    let raw_status = raw_node.as_ref().and_then(Node::some_text).map(str::to_owned);
    let extract_node = table.get("extract");
    let verdict = match (&status_node, &answer_node) {
        (Some(node), None) => {
            let extract = match extract_node.as_ref().and_then(Node::table) {
                Some(table) => replaced(extract.clone(), table),
                None => extract.clone(),
            };
            node.word(&Outcome::ALL).map(|status| {
                let outcome = match (status, code.as_deref()) {
                    (Outcome::Completed, Some("partial")) => Outcome::Partial,
                    (Outcome::Failed, Some("expired")) => Outcome::Expired,
                    _ => status,
                };
                Verdict::Job(outcome, Box::new(extract))
            })
        }
        (None, Some(node)) => {
            for node in [&extract_node, &raw_node].into_iter().flatten() {
                node.wrong("is possible only with `status`, because other answers are not about the job");
            }
            let verdict = node.word(&ANSWERS);
            if verdict == Some(PollVerdict::NotYet) {
                for node in [&code_node, &explain_node].into_iter().flatten() {
                    node.wrong("is not possible with `not_yet`, which is no error");
                }
            }
            verdict.map(Verdict::Poll)
        }
        _ => {
            table.wrong(
                "has exactly one of `status`, an outcome of the job, and `answer`, a meaning for the poll",
            );
            None
        }
    };
    table.finish();
    Some(Rule { when, verdict: verdict?, raw_status, code, explain })
}

/// Reads the conditions of a rule.
pub(super) fn when(table: &TableReader<'_>) -> When {
    let http_node = table.get("http");
    let http = http_node.as_ref().map(super::reader::Node::one_or_many).unwrap_or_default();
    let http: Vec<HttpRange> = http.iter().filter_map(http_range).collect();
    let all = table.get("all").map(|node| conditions(&node)).unwrap_or_default();
    let any = table.get("any").map(|node| conditions(&node)).unwrap_or_default();
    if !["http", "all", "any"].iter().any(|key| table.has(key)) {
        table.wrong("has no condition; add `http`, `all` or `any`");
    }
    When { http, all, any }
}

/// Reads `404` or `"4xx"`.
fn http_range(node: &Node<'_>) -> Option<HttpRange> {
    let text = node.scalar()?.shown();
    node.ok(HttpRange::parse(&text)
        .ok_or_else(|| format!("`{text}` is not an HTTP status; write it as 404 or \"4xx\"")))
}

/// Reads `[status]`.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
pub(super) fn status(table: TableReader<'_>, rules: &[Rule]) -> StatusWords {
    let is_text = table.report.schema.get() < 2;
    let field = table.require("path").map(|node| status_field(&node)).unwrap_or_default();
    let is_http = field.0.iter().any(|one| matches!(one.place, Place::Http));
    let fold = table.get("fold").and_then(|node| node.word(&Fold::ALL)).unwrap_or_default();
    let unknown_node = table.get("unknown");
    let unknown = unknown_node.as_ref().and_then(|node| {
        let unknown = node.word(&Outcome::ALL)?;
        if !matches!(unknown, Outcome::Pending | Outcome::Processing) {
            node.wrong("must be processing or pending, because an unknown status must not end a job");
        }
        Some(unknown)
    });
    let words = table.require("map").and_then(|node| {
        let table = node.table()?;
        let words = map(&table, fold, is_http);
        // An empty list says that a job of this API cannot fail.
        let cannot_fail = node.report.schema.get() >= 2
            && table.get("failed").is_some_and(|list| list.is_list() && list.list().is_empty());
        node.report.cannot_fail.set(cannot_fail);
        check_outcomes(&node, words.values().copied(), rules);
        Some(words)
    });
    let words = words.unwrap_or_default();
    let mut explain = HashMap::new();
    let explained = table.get("explain").and_then(|node| node.table());
    for (word, node) in explained.map(|table| table.entries()).unwrap_or_default() {
        let folded = fold.apply(&word);
        let outcome = words.get(&folded).copied();
        let is_explained =
            |outcome: Outcome| matches!(outcome.status(), JobStatus::Failed | JobStatus::Cancelled);
        if !outcome.is_some_and(|outcome| is_explained(outcome) || outcome == Outcome::Partial) {
            let lists = if is_text { "failed or cancelled" } else { "failed, expired, cancelled or partial" };
            node.report.add(node.at, format!("status.explain: `{word}` is not a word of {lists}"));
        }
        explain.extend(node.some_text().map(|sentence| (folded, sentence.to_owned())));
    }
    table.finish();
    StatusWords { field, is_text, fold, unknown: unknown.unwrap_or(Outcome::Processing), words, explain }
}

/// Reads the place of the status; `"http"` stands for the HTTP status.
fn status_field(node: &Node<'_>) -> Field {
    if node.report.schema.get() >= 2 && node.is_text() && node.text_with_braces() == Some("http") {
        return Field(vec![Alternative::of(Place::Http)]);
    }
    let before = node.report.count();
    let field = if node.is_table() && node.is_permitted() {
        let Some(table) = node.table() else { return Field::default() };
        let field = Field(alternatives(&table));
        table.finish();
        field
    } else {
        field(node)
    };
    if field.is_empty() && node.report.count() == before {
        node.wrong("a path is required");
    }
    if field.0.iter().any(|one| !one.when.is_empty()) {
        node.wrong("`when` is not possible here, because the status is what decides the outcome");
    }
    field
}

/// Reads `[status.map]`.
fn map(table: &TableReader<'_>, fold: Fold, is_http: bool) -> HashMap<String, Outcome> {
    let mut words: HashMap<String, Outcome> = HashMap::new();
    for (name, outcome) in Outcome::ALL {
        let is_old = STATUSES.iter().any(|(word, _)| *word == name);
        let node = if is_old { table.get(name) } else { table.get_new(name) };
        for item in node.map(|node| node.list()).unwrap_or_default() {
            let word = match item.scalar() {
                Some(Scalar::Text(word)) => word,
                Some(other @ (Scalar::Number(_) | Scalar::Bool(_))) if item.is_permitted() => other.shown(),
                _ => continue,
            };
            let wrong = |sentence: String| item.report.add(item.at, format!("{}: {sentence}", table.key));
            if word.trim().is_empty() {
                wrong(format!("{name} contains an empty word"));
            }
            if is_http && !word.parse().is_ok_and(|status: u16| (200..300).contains(&status)) {
                wrong(format!(
                    "`{word}` is never a status here: [status] decides answers with 2xx only; use a [[rule]]"
                ));
            }
            if let Some(other) = words.insert(fold.apply(&word), outcome) {
                wrong(format!("`{word}` is listed twice, in {} and in {name}", other.word()));
            }
        }
    }
    for (name, node) in table.entries().into_iter().filter(|(name, _)| Outcome::of_word(name).is_none()) {
        let all = Outcome::ALL.map(|(word, _)| word).join(", ");
        node.report.add(node.at, format!("{}.{name}: is not an outcome; the outcomes are {all}", table.key));
    }
    words
}

/// Checks that a job can run, complete and fail.
pub(super) fn check_outcomes(node: &Node<'_>, words: impl Iterator<Item = Outcome>, rules: &[Rule]) {
    let cannot_fail = node.report.cannot_fail.get().then_some(Outcome::Failed);
    for sentence in missing_outcomes(words.chain(cannot_fail), rules, node.report.schema.get() >= 2) {
        node.wrong(sentence);
    }
}

/// Returns a sentence for each status that no word and no rule means.
pub(super) fn missing_outcomes(
    words: impl Iterator<Item = Outcome>,
    rules: &[Rule],
    has_rules: bool,
) -> Vec<String> {
    let of_rule = |rule: &Rule| match &rule.verdict {
        Verdict::Job(outcome, _) => Some(*outcome),
        Verdict::Poll(_) => None,
    };
    let is_any_not_yet = rules.iter().any(|rule| matches!(rule.verdict, Verdict::Poll(PollVerdict::NotYet)));
    let all: Vec<JobStatus> = words.chain(rules.iter().filter_map(of_rule)).map(Outcome::status).collect();
    let runs = all.iter().any(|status| matches!(status, JobStatus::Pending | JobStatus::Processing));
    let kind = if has_rules { "word or rule" } else { "word" };
    [
        (all.contains(&JobStatus::Completed), "completed"),
        (all.contains(&JobStatus::Failed), "failed"),
        (runs || is_any_not_yet, "pending or processing"),
    ]
    .into_iter()
    .filter(|(is_there, _)| !is_there)
    .map(|(_, status)| format!("at least one {kind} must mean {status}"))
    .collect()
}

/// Reads `[errors]`.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
pub(super) fn errors(table: TableReader<'_>) -> Errors {
    let when = table.get("when").and_then(|node| {
        let table = node.table_such_as("{ path = \"$.success\", is = false }")?;
        let path = table.require("path").and_then(|node| path(&node));
        let is = table.require("is").and_then(|node| node.scalar());
        table.finish();
        Some(ErrorMark { path: path?, is: is? })
    });
    let errors = Errors {
        when,
        code: table.get("code").map(|node| code_field(&node)).unwrap_or_default(),
        message: table.get("message").map(|node| code_field(&node)).unwrap_or_default(),
        account: table.get("account").map(|node| codes(&node)).unwrap_or_default(),
    };
    if errors.code.is_empty() && !errors.account.is_empty() {
        table.wrong_key("account", "requires errors.code, the path of the code that is compared");
    }
    table.finish();
    errors
}

/// Reads a list of codes: texts and, in schema 2, numbers.
fn codes(node: &Node<'_>) -> Vec<String> {
    if node.report.schema.get() < 2 {
        return node.texts();
    }
    node.list().iter().filter_map(|item| item.scalar().map(|code| code.shown())).collect()
}

/// Reads the place of a code or a message in an answer that is not about a job.
fn code_field(node: &Node<'_>) -> Field {
    let code = field(node);
    if code.0.iter().any(|one| !one.when.is_empty()) {
        node.wrong("`when` is not possible here, because an error answer has no outcome");
    }
    code
}

/// Reads `[not_found]`, without `grace`. The codes are at `errors.code`, unless `path` is set.
pub(super) fn not_found(table: &TableReader<'_>, error_code: &Field) -> NotFound {
    let is_about_job = |status: &u16| (400..500).contains(status) && ![401, 429].contains(status);
    let http = table.get("http").map(|node| {
        let list = node.list();
        let statuses: Vec<u16> = list.iter().filter_map(|item| u16::try_from(item.integer()?).ok()).collect();
        // An empty list means that the API has no answer for an unknown job.
        let may_be_empty = node.is_list() && node.report.schema.get() >= 2;
        let is_empty = statuses.is_empty() && !may_be_empty;
        if statuses.len() != list.len() || is_empty || !statuses.iter().all(is_about_job) {
            node.wrong("must list statuses from 400 to 499, except 401 and 429");
        }
        if list.is_empty() && may_be_empty && (table.has("path") || table.has("values")) {
            node.wrong("is empty, so that no answer means \"no such job\"; remove `path` and `values`");
        }
        statuses
    });
    let values = table.get("values").map(|node| codes(&node)).unwrap_or_default();
    let mut path = table.get("path").map(|node| code_field(&node)).unwrap_or_default();
    if path.is_empty() && !values.is_empty() {
        path = error_code.clone();
        if path.is_empty() {
            table.wrong_key("values", "requires a path: not_found.path or errors.code");
        }
    }
    NotFound { http: http.unwrap_or_else(|| vec![404]), path, values }
}
