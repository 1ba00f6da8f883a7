//! The table `[extract]`, and the keys of it that a rule replaces.

use std::time::Duration;

use super::paths::{alternatives, field, optional_text_field, text_field};
use super::reader::{Node, TableReader};
use crate::domain::parse_duration;
use crate::providers::extract::{ExpiryForm, Extract, Outputs, Progress, ProgressForm, Time, TimeFormat};
use crate::providers::field::Field;
use crate::providers::value::Scalar;

/// A unit of a progress, by its word.
type Unit = (&'static str, fn(Field) -> ProgressForm);

/// Longest span for which outputs can be said to last.
const MAX_LIFE: Duration = Duration::from_secs(3_650 * 86_400);

const UNITS: [Unit; 2] = [("percent", ProgressForm::Percent), ("fraction", ProgressForm::Fraction)];

/// Reads `[extract]`.
pub(super) fn extract(table: TableReader<'_>) -> Extract {
    table.require("job_id");
    replaced(Extract::default(), table)
}

/// Reads the keys of a table, and keeps the other fields as they are.
#[expect(clippy::needless_pass_by_value, reason = "a table is finished by the function that reads it")]
pub(super) fn replaced(mut extract: Extract, table: TableReader<'_>) -> Extract {
    if let Some(node) = table.get("job_id") {
        extract.job_id = job_id(&node);
    }
    if let Some(node) = table.get("progress") {
        extract.progress = progress(&node);
    }
    if let Some(node) = table.get("output") {
        extract.output = text_field(&node);
    }
    if let Some(node) = table.get_new("output_json") {
        extract.output_json = field(&node);
    }
    if let Some(node) = table.get("outputs") {
        extract.outputs = outputs(&node);
    }
    if let Some(node) = table.get("error_code") {
        extract.error_code = text_field(&node);
    }
    if let Some(node) = table.get("error_message") {
        extract.error_message = text_field(&node);
    }
    if let Some(node) = table.get("created_at") {
        extract.created_at = time(&node);
    }
    if let Some(node) = table.get("completed_at") {
        extract.completed_at = time(&node);
    }
    if let Some(node) = table.get_new("outputs_expire") {
        extract.outputs_expire = outputs_expire(&node);
    }
    if let Some(node) = table.get_new("null") {
        extract.nulls = node.list().iter().filter_map(Node::scalar).collect::<Vec<Scalar>>();
    }
    table.finish();
    extract
}

/// Reads the field of the job's id; `None` if the answer has none.
fn job_id(node: &Node<'_>) -> Option<Field> {
    let is_none = node.report.schema.get() >= 2 && node.is_text() && node.text_with_braces() == Some("none");
    if is_none {
        return None;
    }
    let id = some_text_field(node);
    if id.0.iter().any(|one| !one.when.is_empty()) {
        node.wrong("`when` is not possible here; the id is compared before the outcome is known");
    }
    Some(id)
}

/// Reads a field that has at least one place.
fn some_field(node: &Node<'_>) -> Field {
    some(node, field)
}

/// Does the same for one whose value is a text.
fn some_text_field(node: &Node<'_>) -> Field {
    some(node, text_field)
}

fn some(node: &Node<'_>, read: fn(&Node<'_>) -> Field) -> Field {
    let before = node.report.count();
    let field = read(node);
    if field.is_empty() && node.report.count() == before {
        node.wrong("a path is required");
    }
    field
}

fn progress(node: &Node<'_>) -> Option<Progress> {
    let table = node.table_such_as("{ path = \"$.progress\", unit = \"percent\" }")?;
    let reads_texts = node.report.schema.get() >= 2;
    let unit = table.get("unit").and_then(|unit| unit.word(&UNITS));
    let ratio = table.get("ratio");
    let has_place = ["path", "header", "sum"].iter().any(|key| table.has(key));
    let is_valid = match (&ratio, has_place, table.has("unit")) {
        (None, true, true) | (Some(_), false, false) => true,
        _ => {
            table.wrong("set either `path`, `header` or `sum` with `unit`, or `ratio` alone");
            false
        }
    };
    let form = match ratio {
        Some(ratio) => {
            let parts = ratio.list();
            if parts.len() != 2 {
                ratio.wrong("must be the paths of two numbers: what is done, and the whole");
            }
            let mut fields = parts.iter().map(field);
            let (part, whole) = (fields.next(), fields.next());
            part.zip(whole).map(|(part, whole)| ProgressForm::Ratio(part, whole))
        }
        None if is_valid => {
            let field = Field(alternatives(&table));
            unit.map(|form| form(field))
        }
        None => None,
    };
    for name in ["path", "header", "sum", "match", "when"] {
        // Read or refused above.
        let _ = if is_valid { None } else { table.get(name) };
    }
    table.finish();
    Some(Progress { form: form?, reads_texts })
}

fn outputs(node: &Node<'_>) -> Option<Outputs> {
    let table = node.table_such_as("{ each = \"$.files[*]\", url = \"$.url\" }")?;
    let each = table.require("each").map(|node| some_field(&node)).unwrap_or_default();
    let url = table.require("url").map(|node| some_text_field(&node)).unwrap_or_default();
    let outputs = Outputs {
        each,
        url,
        kind: optional_text_field(&table, "type"),
        thumbnail: optional_text_field(&table, "thumbnail"),
        poster: optional_text_field(&table, "poster"),
        only_urls: table.get("only_urls").and_then(|node| node.boolean()).unwrap_or(false),
    };
    table.finish();
    Some(outputs)
}

/// Reads a time, or a span after the end of the job.
fn outputs_expire(node: &Node<'_>) -> Option<ExpiryForm> {
    if node.is_table() {
        return time(node).map(ExpiryForm::At);
    }
    if !node.is_text() {
        node.wrong("must be a span such as \"24h\", or a table with `path` and `format`");
        return None;
    }
    let span = node.ok(parse_duration(node.text()?))?;
    if span.is_zero() || span > MAX_LIFE {
        node.wrong("must be longer than 0 and at most 3650d");
        return None;
    }
    Some(ExpiryForm::After(span))
}

/// Reads the place of a time, and its format.
pub(super) fn time(node: &Node<'_>) -> Option<Time> {
    let table = node.table_such_as("{ path = \"$.created_at\", format = \"rfc3339\" }")?;
    let reads_texts = node.report.schema.get() >= 2;
    let format = table.require("format").and_then(|format| {
        let found = format.word(&TimeFormat::ALL)?;
        let is_new = matches!(found, TimeFormat::NaiveUtc | TimeFormat::EpochUs);
        (!is_new || format.is_permitted()).then_some(found)
    });
    let field = Field(alternatives(&table));
    table.finish();
    Some(Time { field, format: format?, reads_texts })
}
