//! The document that describes the API: `OpenAPI` 3.1.
//!
//! The schemas are made from the types that are shown (and from those of [`super::asked`], for what is
//! read); the operations are a table here. What follows from a route's nature (who may ask, whether it
//! takes a body, an id, an `Idempotency-Key`) is written once and added to each. The document is committed
//! as `openapi.json`; tests compare the two, the routes of the router, the names that are read from
//! queries and bodies, and every answer that any test gets.

mod page;
mod table;

pub use page::docs;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

use self::table::{OPERATIONS, Operation, Shape};
use super::{admin, asked, batch, http, providers, reply, view};
use crate::domain::{AppId, DeliveryStatus, DestinationId, EventId, EventType, WatchId, WatchStatus};
use crate::tenants;

/// The document, as text that people can read, too.
static TEXT: LazyLock<String> = LazyLock::new(|| {
    // Alternate form, with a line at the end: the committed file is the same, byte for byte.
    format!("{:#}\n", *DOCUMENT)
});

static DOCUMENT: LazyLock<Value> = LazyLock::new(made);

/// The document, as `ringback openapi` prints it and `/openapi.json` answers.
pub fn document() -> &'static str {
    &TEXT
}

/// `GET /openapi.json`
pub async fn openapi() -> Response {
    reply(StatusCode::OK, document().as_bytes().to_vec())
}

fn made() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in OPERATIONS {
        paths.entry(operation.path).or_default().insert(operation.method.to_owned(), described(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Ringback",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Watches the jobs of polling-only APIs and calls back.",
            "description": INTRODUCTION,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": table::TAGS.iter().map(|(name, text)| json!({ "name": name, "description": text }))
            .collect::<Vec<_>>(),
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": { "key": { "type": "http", "scheme": "bearer", "description": KEYS } },
        },
    })
}

const INTRODUCTION: &str = "JSON, in camelCase. Times are RFC 3339 in UTC, with milliseconds. Ids say what \
    they are, and all but `evt_` have the order of their creation. A 2xx for a write means that it is on \
    disk. Every answer carries `x-request-id`. What is refused is a problem (RFC 9457) that names every \
    invalid field at once. Every list takes `limit` and `cursor`, and ends where `nextCursor` is null.";

const KEYS: &str = "An API key. Its scope is `read`, `write` or `admin`, and each includes the ones before \
    it; `x-scope` of an operation says which one it takes.";

/// Every schema, by its name.
fn schemas() -> BTreeMap<String, Value> {
    let mut all = Vec::new();
    collect::<view::WatchView>(&mut all);
    collect::<view::DeliveryView>(&mut all);
    collect::<view::EventView>(&mut all);
    collect::<view::TimelineEntryView>(&mut all);
    collect::<batch::BatchView>(&mut all);
    collect::<http::ProblemView>(&mut all);
    collect::<providers::ProviderView>(&mut all);
    collect::<asked::Registration>(&mut all);
    collect::<asked::Batch>(&mut all);
    collect::<asked::Amendment>(&mut all);
    collect::<asked::Retry>(&mut all);
    collect::<asked::NewApp>(&mut all);
    collect::<asked::NewKey>(&mut all);
    collect::<asked::Rotation>(&mut all);
    collect::<admin::SecretView>(&mut all);
    collect::<tenants::AppView>(&mut all);
    collect::<tenants::KeyView>(&mut all);
    let mut named: BTreeMap<String, Value> = all
        .into_iter()
        .map(|(name, schema)| (name, serde_json::to_value(schema).unwrap_or_default()))
        .collect();
    // What is read has no other fields.
    for name in
        ["Registration", "Batch", "Amendment", "Retry", "TargetObject", "NewApp", "NewKey", "Rotation"]
    {
        if let Some(schema) = named.get_mut(name) {
            schema["additionalProperties"] = false.into();
        }
    }
    // An item that is wrong is refused in its place; the batch is right.
    if let Some(schema) = named.get_mut("Batch") {
        let anything = json!({ "description": "Whatever else it is, is refused in its place." });
        schema["properties"]["watches"]["items"] =
            json!({ "anyOf": [{ "$ref": reference("Registration") }, anything] });
    }
    if let Some(schema) = named.get_mut("Amendment") {
        schema["minProperties"] = 1.into();
    }
    named
}

fn collect<T: ToSchema>(all: &mut Vec<(String, RefOr<Schema>)>) {
    T::schemas(all);
    all.push((T::name().into_owned(), T::schema()));
}

/// One operation of the document.
fn described(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.description,
        "parameters": parameters(operation),
        "responses": responses(operation),
    });
    match operation.scope {
        Some(scope) => {
            described["security"] = json!([{ "key": [] }]);
            described["x-scope"] = scope.as_str().into();
        }
        None => described["security"] = json!([]),
    }
    if let Some(body) = &operation.body {
        let mut content = json!({ "schema": { "$ref": reference(body.schema) } });
        if let Ok(example) = serde_json::from_str::<Value>(body.example) {
            content["example"] = example;
        }
        described["requestBody"] =
            json!({ "required": !body.optional, "content": { "application/json": content } });
    } else if operation.is_post() {
        let nothing = json!({ "type": "object", "additionalProperties": false });
        described["requestBody"] = json!({
            "required": false,
            "description": "Nothing, or an empty object.",
            "content": { "application/json": { "schema": nothing } },
        });
    }
    described
}

fn reference(schema: &str) -> String {
    format!("#/components/schemas/{schema}")
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let mut parameters = Vec::new();
    if let Some(id) = operation.names_one() {
        let pattern = format!("^{id}[0-7][0-9a-hjkmnp-tv-z]{{25}}$");
        parameters.push(json!({ "name": "id", "in": "path", "required": true,
            "schema": { "type": "string", "pattern": pattern } }));
    }
    for name in operation.query {
        let (description, schema) = parameter(operation, name);
        parameters.push(json!({ "name": name, "in": "query", "required": false,
            "description": description, "schema": schema }));
    }
    let mut header = |name: &str, description: &str, schema: Value| {
        parameters.push(json!({ "name": name, "in": "header", "required": false,
            "description": description, "schema": schema }));
    };
    if operation.id == "streamEvents" {
        header("Last-Event-ID", "Goes before `after`: where the last stream broke off.", id::<EventId>());
    }
    if operation.is_post() && operation.scope.is_some() {
        let schema = json!({ "type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$" });
        header(
            "Idempotency-Key",
            "For 24 hours the same key and body give the first 2xx again, with `Idempotent-Replayed: true`.",
            schema,
        );
    }
    parameters
}

fn id<T: PartialSchema>() -> Value {
    serde_json::to_value(T::schema()).unwrap_or_default()
}

/// What a parameter of a query is.
fn parameter(operation: &Operation, name: &str) -> (&'static str, Value) {
    let time = || json!({ "type": "string", "format": "date-time" });
    match name {
        "limit" => {
            ("How many to show.", json!({ "type": "integer", "minimum": 1, "maximum": 200, "default": 50 }))
        }
        "cursor" => ("The last answer's `nextCursor`.", json!({ "type": "string" })),
        "status" if operation.tag == "Deliveries" => ("Those that stand here.", id::<DeliveryStatus>()),
        "status" => ("Those that stand here.", id::<WatchStatus>()),
        "provider" => ("On jobs of this provider.", json!({ "type": "string" })),
        "jobId" => ("On jobs with this id.", json!({ "type": "string" })),
        "wait" => (
            "Answers as soon as the watch has ended, or then, or when the server is about to end: 1ms to 60s.",
            json!({ "type": "string", "pattern": "^([1-9][0-9]{0,3}ms|[1-9]s|[1-5][0-9]s|60s|1m)$" }),
        ),
        "after" => ("What came after this event.", id::<EventId>()),
        "type" => ("Events of this type.", id::<EventType>()),
        "watchId" => ("Of this watch.", id::<WatchId>()),
        "destinationId" => ("To this destination.", id::<DestinationId>()),
        "appId" => ("Of this app.", id::<AppId>()),
        "since" => ("Of events from then on.", time()),
        "until" => ("Of events until then.", time()),
        _ => ("", json!({})),
    }
}

fn responses(operation: &Operation) -> Map<String, Value> {
    let mut responses = Map::new();
    let request_id = || json!({ "description": "Names this request, in the log too.", "required": true, "schema": { "type": "string" } });
    for answer in operation.answers {
        let mut headers = json!({ "x-request-id": request_id() });
        for (name, description) in answer.headers {
            headers[*name] = json!({ "description": description, "schema": { "type": "string" } });
        }
        if operation.is_post() {
            headers["Idempotent-Replayed"] = json!({ "description": "`true` where this answer was given before.",
                "schema": { "type": "string", "enum": ["true"] } });
        }
        let mut response = json!({ "description": answer.description, "headers": headers });
        if let Some((media_type, schema)) = content(&answer.shape) {
            response["content"] = json!({ media_type: { "schema": schema } });
        }
        responses.insert(answer.status.to_string(), response);
    }
    for status in operation.problems() {
        let headers = match status {
            503 => json!({ "x-request-id": request_id(),
                "Retry-After": { "description": "Seconds.", "required": true, "schema": { "type": "string" } } }),
            401 => json!({ "x-request-id": request_id(),
                "WWW-Authenticate": { "description": "`Bearer`.", "required": true, "schema": { "type": "string" } } }),
            _ => json!({ "x-request-id": request_id() }),
        };
        let problem = json!({
            "description": operation.why(status),
            "headers": headers,
            "content": { "application/problem+json": { "schema": { "$ref": reference("Problem") } } },
        });
        responses.insert(status.to_string(), problem);
    }
    responses
}

/// `None` where there is nothing to say.
fn content(shape: &Shape) -> Option<(&'static str, Value)> {
    Some(match shape {
        Shape::Nothing => return None,
        Shape::One(name) => ("application/json", json!({ "$ref": reference(name) })),
        Shape::Page(name) => (
            "application/json",
            json!({
                "type": "object",
                "required": ["data", "nextCursor"],
                "properties": {
                    "data": { "type": "array", "items": { "$ref": reference(name) } },
                    "nextCursor": { "type": ["string", "null"] },
                },
            }),
        ),
        Shape::Fields(fields) => {
            let of_type = |(name, of_type): &(&str, &str)| ((*name).to_owned(), json!({ "type": of_type }));
            let properties: Map<String, Value> = fields.iter().map(of_type).collect();
            let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
            ("application/json", json!({ "type": "object", "required": required, "properties": properties }))
        }
        Shape::Any => ("application/json", json!({ "type": "object" })),
        Shape::Text(media_type) => (media_type, json!({ "type": "string" })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Scope;

    #[test]
    fn no_operation_is_described_twice_and_each_has_all_its_words() {
        let mut seen = std::collections::HashSet::new();
        for one in OPERATIONS {
            assert!(seen.insert((one.method, one.path)) && seen.insert((one.id, "")), "{}", one.id);
            assert!(table::TAGS.iter().any(|(tag, _)| *tag == one.tag), "{}", one.id);
            assert!(one.query.iter().all(|name| !parameter(one, name).0.is_empty()), "{}", one.id);
            assert!(one.scope.is_none_or(|scope| scope >= Scope::Read) && !one.answers.is_empty());
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let text = document();
        for name in text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(DOCUMENT["components"]["schemas"][name].is_object(), "{name}");
        }
    }
}
