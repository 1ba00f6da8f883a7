//! The examples of a definition file.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::paths::header_name;
use super::reader::{Node, TableReader};
use super::request::Params;
use crate::domain::{Output, Timestamp, parse_duration};
use crate::providers::definition::{
    CancelExample, CancelVerdict, Example, ExampleAnswer, Expect, Meaning, Seen,
};
use crate::providers::extract::OutputsExpire;
use crate::providers::field::Outcome;

const ANSWERS: [(&str, Kind); 6] = [
    ("seen", Kind::Seen),
    ("not_found", Kind::NotFound),
    ("account", Kind::Account),
    ("rate_limited", Kind::RateLimited),
    ("trouble", Kind::Trouble),
    ("not_yet", Kind::NotYet),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Seen,
    NotFound,
    Account,
    RateLimited,
    Trouble,
    NotYet,
}

/// Reads an example; `None` if it has a mistake.
pub(super) fn example(node: &Node<'_>) -> Option<Example> {
    let before = node.report.count();
    let table = node.table()?;
    let job_id = table.require("job_id").and_then(|node| node.text_with_braces().map(str::to_owned));
    let answer = answer(&table);
    let params = params(&table);
    let results = table.get_new("results").map(|node| node.list()).unwrap_or_default();
    let results = results.iter().filter_map(|node| {
        let table = node.table()?;
        let answer = self::answer(&table);
        table.finish();
        answer
    });
    let results = results.collect();
    let expect_node = table.get("expect");
    let expect = expect_node.as_ref().and_then(|node| expect(node.table()?));
    table.finish();
    let ExampleAnswer { http, headers, body } = answer?;
    let example = Example { job_id: job_id?, params, http, headers, body, results, expect };
    (node.report.count() == before).then_some(example)
}

/// Reads an example of `[cancel]`; `None` if it has a mistake.
pub(super) fn cancel_example(node: &Node<'_>) -> Option<CancelExample> {
    let before = node.report.count();
    let table = node.table()?;
    let job_id = table.require("job_id").and_then(|node| node.text_with_braces().map(str::to_owned));
    let answer = answer(&table);
    let params = params(&table);
    let expect = table.get("expect").and_then(|node| {
        let table = node.table()?;
        let verdict = table.require("answer").and_then(|node| node.word(&CancelVerdict::ALL));
        let says_node = table.get("says");
        let says = says_node.as_ref().and_then(Node::text_with_braces).map(str::to_owned);
        if let (Some(node), Some(CancelVerdict::Accepted)) = (&says_node, verdict) {
            node.wrong("is not possible with `accepted`, which has no message");
        }
        table.finish();
        Some((verdict?, says))
    });
    table.finish();
    let example = CancelExample { job_id: job_id?, params, answer: answer?, expect };
    (node.report.count() == before).then_some(example)
}

fn params(table: &TableReader<'_>) -> Map<String, Value> {
    let params = table.get_new("params").map(|node| entries(&node)).unwrap_or_default();
    params.into_iter().map(|(name, value)| (name, Value::String(value))).collect()
}

/// Checks the id and the parameters of an example.
pub(super) fn check_params(
    (job_id, given): (&str, &Map<String, Value>),
    params: &Params,
    meaning: Option<&Meaning>,
    wrong: &impl Fn(&str),
) {
    let job_url = meaning.and_then(|meaning| meaning.job_url.as_ref());
    let id = job_url.map_or(Ok(job_id.to_owned()), |form| form.parse(job_id).map(|found| found.id));
    if let Err(why) = id.and_then(|id| params.job_id.check(&id)) {
        wrong(&format!("job_id: {why}"));
    }
    let given: BTreeMap<&String, Option<&str>> =
        given.iter().map(|(name, value)| (name, value.as_str())).collect();
    for (name, value) in given {
        match params.others.get(name) {
            None => wrong(&format!("params: there is no [params.{name}]")),
            Some(param) => {
                if let Err(why) = param.check(value.unwrap_or_default()) {
                    wrong(&format!("params.{name}: {why}"));
                }
            }
        }
    }
}

/// Returns an example with the defaults of the parameters that it does not give, as a registration has them.
pub(super) fn with_defaults(example: &Example, params: &Params) -> Example {
    let mut example = example.clone();
    params.add_defaults(&mut example.params);
    example
}

/// Reads the keys of an answer.
fn answer(table: &TableReader<'_>) -> Option<ExampleAnswer> {
    let http = table.get("http").and_then(|node| {
        let status = node.integer()?;
        let status = u16::try_from(status).ok().filter(|status| (100..=599).contains(status));
        node.ok(status.ok_or_else(|| "must be an HTTP status from 100 to 599".to_owned()))
    });
    let body = table.require("body").and_then(|node| node.text_with_braces().map(str::to_owned));
    let headers = table.get_new("headers").map(|node| {
        let lower = |(name, value): (String, String)| Some((node.ok(header_name(&name))?, value));
        entries(&node).into_iter().filter_map(lower).collect()
    });
    Some(ExampleAnswer { http: http.unwrap_or(200), headers: headers.unwrap_or_default(), body: body? })
}

fn entries(node: &Node<'_>) -> Vec<(String, String)> {
    node.table().map(|table| texts(&table)).unwrap_or_default()
}

fn texts(table: &TableReader<'_>) -> Vec<(String, String)> {
    let text = |(name, node): (String, Node<'_>)| Some((name, node.text_with_braces()?.to_owned()));
    table.entries().into_iter().filter_map(text).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
fn expect(table: TableReader<'_>) -> Option<Expect> {
    let kind = table.require("answer").and_then(|node| {
        let kind = node.word(&ANSWERS)?;
        (kind != Kind::NotYet || node.is_permitted()).then_some(kind)
    })?;
    let says = || table.get("says").and_then(|node| node.text_with_braces()).map(str::to_owned);
    let expect = match kind {
        Kind::Seen => seen(&table).map(Box::new).map(Expect::Seen),
        Kind::NotFound => Some(Expect::NotFound { says: says() }),
        Kind::Account => {
            let code = table.get("code").and_then(|node| node.text_with_braces()).map(str::to_owned);
            Some(Expect::Account { code, says: says() })
        }
        Kind::RateLimited => Some(Expect::RateLimited { says: says() }),
        Kind::Trouble => Some(Expect::Trouble { says: says() }),
        Kind::NotYet => Some(Expect::NotYet),
    };
    table.finish();
    expect
}

fn seen(table: &TableReader<'_>) -> Option<Seen> {
    let text = |name| table.get(name).and_then(|node| node.text_with_braces()).map(str::to_owned);
    let time = |name| {
        table.get(name).and_then(|node| {
            let text = node.text_with_braces()?;
            let why = || format!("`{text}` is not a time; write it as \"2026-02-18T15:00:00Z\"");
            node.ok(Timestamp::parse(text).ok_or_else(why))
        })
    };
    let outcome = table.require("status").and_then(|node| {
        let outcome = node.word(&Outcome::ALL)?;
        (!outcome.is_special() || node.is_permitted()).then_some(outcome)
    });
    let progress = table.get("progress").and_then(|node| {
        let progress = u8::try_from(node.integer()?).ok().filter(|progress| *progress <= 100);
        node.ok(progress.ok_or_else(|| "must be a number from 0 to 100".to_owned()))
    });
    let outputs = table.get("outputs").map(|node| node.list().iter().filter_map(output).collect());
    let outputs_expire = table.get_new("outputs_expire").and_then(|node| {
        let text = node.text_with_braces()?;
        let at = || Timestamp::parse(text).map(OutputsExpire::At);
        let after = parse_duration(text).ok().map(OutputsExpire::After);
        let why = || format!("`{text}` is neither a span such as \"24h\" nor a time");
        node.ok(after.or_else(at).ok_or_else(why))
    });
    let seen = Seen {
        raw_status: text("raw_status"),
        unknown_status: table.get("unknown_status").and_then(|node| node.boolean()).unwrap_or(false),
        progress,
        output: text("output"),
        outputs,
        error_code: text("error_code"),
        error_message: text("error_message"),
        created_at: time("created_at"),
        completed_at: time("completed_at"),
        request_id: text("request_id"),
        outputs_expire,
        outcome: outcome?,
    };
    Some(seen)
}

fn output(node: &Node<'_>) -> Option<Output> {
    let table = node.table()?;
    let text = |name| table.get(name).and_then(|node| node.text_with_braces()).map(str::to_owned);
    let output = Output {
        url: text("url"),
        kind: text("type"),
        thumbnail: text("thumbnail"),
        poster_image: text("posterImage"),
    };
    table.finish();
    Some(output)
}
