//! The document that describes the API: `OpenAPI` 3.1.
//!
//! The `#[utoipa::path]` annotations of the handlers say what belongs to one operation. What follows from the
//! nature of an operation is added here: the scope, the headers and problems of every answer, the
//! `Idempotency-Key` of a POST, the empty body. The examples of answers are in `openapi/examples.json`; a test
//! makes them from real answers. The document is committed as `openapi.json`; tests compare it with the
//! program and with every answer that any test gets.

mod page;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, LazyLock};

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use hyper::body::Bytes;
use serde_json::{Map, Value, json};
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::http::endpoint::Resource;
use super::http::{Api, ProblemView, SharedBody, json_text};
use super::metrics;
use crate::domain::{EventType, FeedOrder};
use crate::events::{CloudEvent, DeliveryBody, DestinationBody, EventBody, GroupBody, TestBody};
use crate::store::Scope;

/// The document as text, indented, with a line break at its end: byte for byte the committed file.
static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", *DOCUMENT));

static DOCUMENT: LazyLock<Value> = LazyLock::new(make);

/// The document as a page for people.
static PAGE: LazyLock<String> = LazyLock::new(|| {
    page::render(&DOCUMENT).unwrap_or_else(|error| format!("the page cannot be rendered: {error}"))
});

/// `cache-control` of the document: it holds no data of anybody, and changes with the version.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// Answers of the real application, by operation.
const EXAMPLES: &str = include_str!("openapi/examples.json");

/// Returns the document, as `ringback openapi` prints it and `/openapi.json` answers it.
pub fn document() -> &'static str {
    &TEXT
}

/// Returns every resource, except the metrics.
pub fn resources() -> Vec<Resource> {
    let mut all = super::resources();
    all.extend([routes!(show), routes!(docs)]);
    all
}

/// Show this document
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "openapi", tag = "Service",
    responses((status = 200, description = "The OpenAPI 3.1 document.", body = Object))
)]
async fn show() -> Response {
    let mut response = json_text(StatusCode::OK, Bytes::from_static(document().as_bytes()));
    response.headers_mut().insert(header::CACHE_CONTROL, PUBLIC);
    response.extensions_mut().insert(SharedBody);
    response
}

/// Show this document as a page
#[utoipa::path(
    get, path = "/docs", operation_id = "docs", tag = "Service",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html"))
)]
async fn docs(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response {
    page::answer(&PAGE, page::server(&headers, api.store.public_url()))
}

/// One operation of the API.
pub struct Route {
    /// In upper case.
    pub method: &'static str,
    /// With `{id}` in the place of an id.
    pub path: &'static str,
    /// The scope that a key needs. `None`: the operation needs no key.
    pub scope: Option<Scope>,
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Every operation of the API, as the document has them.
pub static ROUTES: LazyLock<Vec<Route>> = LazyLock::new(|| {
    let route = |(path, method, operation): (&'static str, &'static str, &'static Value)| Route {
        method: METHODS.iter().find(|known| known.eq_ignore_ascii_case(method)).copied().unwrap_or(""),
        path,
        scope: operation["x-scope"].as_str().and_then(Scope::parse),
    };
    operations(&DOCUMENT).map(route).collect()
});

const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Every operation of a document: path, method in lower case, and what the document says of it.
fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    document["paths"].as_object().into_iter().flatten().flat_map(|(path, methods)| {
        let methods = methods.as_object().into_iter().flatten();
        methods.map(move |(method, operation)| (path.as_str(), method.as_str(), operation))
    })
}

const TAGS: &[(&str, &str)] = &[
    ("Watches", "A watch polls a job and notifies its destinations when the job ends."),
    ("Events", "What happened to watches, oldest first. The feed skips no event."),
    ("Deliveries", "Events on their way to destinations, with every attempt."),
    ("Operations", "Work on many rows, which continues in the background."),
    ("Destinations", "Saved channels and addresses, which registrations use by their ids."),
    ("Providers", "The job APIs that can be watched."),
    ("Secrets", "The secret by which receivers verify webhooks."),
    (
        "Tenants",
        "Apps, which are isolated from each other, and their API keys. Admins of the first app manage all of \
         them; admins of any other app manage their own.",
    ),
    ("Service", "The service itself."),
    ("Webhooks", "What receivers get."),
];

const INTRODUCTION: &str = "Requests and answers are JSON, in camelCase. Times are RFC 3339 in UTC, with \
    milliseconds. Ids begin with their kind; all but `evt_` sort by creation. A 2xx for a write means that the \
    write is committed. Every answer has the header `x-request-id`. A refused request is answered with a \
    problem (RFC 9457) that names every invalid field. Every list takes `limit` and `cursor`, and ends where \
    `nextCursor` is null; a page can be short, or empty, although another one follows.";

const KEYS: &str = "An API key. Its scope is `read`, `write` or `admin`; each includes the scopes before it. \
    `x-scope` of an operation is the scope that it needs.";

/// What a status means where the operation does not say it.
const MEANINGS: &[(u16, &str)] = &[
    (400, "The body is not JSON, not UTF-8, or incomplete."),
    (401, "The API key is missing or not valid."),
    (403, "The API key lacks the scope."),
    (404, "Unknown, malformed, or of another app."),
    (408, "The body did not arrive within 30 s."),
    (409, "A request with this Idempotency-Key is in progress."),
    (413, "The body is too large."),
    (415, "The body has another type than this operation takes, or it is compressed."),
    (422, "The body, the query or a header is invalid. The problem names every error."),
    (500, "An internal error."),
    (503, "The database is not available, or there are too many such requests: try again later."),
];

/// The schemas that no operation declares: those of problems, of webhooks, and of parameters alone.
#[derive(OpenApi)]
#[openapi(components(schemas(
    ProblemView,
    EventBody,
    CloudEvent,
    TestBody,
    DestinationBody,
    DeliveryBody,
    GroupBody,
    FeedOrder
)))]
struct Shared;

fn make() -> Value {
    let shared = OpenApiRouter::with_openapi(Shared::openapi());
    let all = resources().into_iter().chain([metrics()]).fold(shared, OpenApiRouter::routes);
    let mut document = serde_json::to_value(all.into_openapi()).unwrap_or_default();
    document["info"] = json!({
        "title": "Ringback",
        "version": env!("CARGO_PKG_VERSION"),
        "summary": "Watches the jobs of polling-only APIs and calls back.",
        "description": INTRODUCTION,
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/" }]);
    document["tags"] = TAGS.iter().map(|(name, text)| json!({ "name": name, "description": text })).collect();
    document["components"]["securitySchemes"] =
        json!({ "key": { "type": "http", "scheme": "bearer", "description": KEYS } });
    let examples: Value = serde_json::from_str(EXAMPLES).unwrap_or_default();
    for methods in document["paths"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        for (method, operation) in methods.as_object_mut().into_iter().flatten() {
            complete(method, operation, &examples);
        }
    }
    refer_to_items(&mut document["components"]["schemas"]);
    document["webhooks"] = webhooks(&examples);
    close_requests(&mut document);
    document
}

/// Replaces the items of pages, which utoipa writes out for a generic type, by references.
fn refer_to_items(schemas: &mut Value) {
    let mut items = Vec::new();
    for (name, page) in schemas.as_object_mut().into_iter().flatten() {
        if let Some(item) = name.strip_prefix("Page_") {
            let reference = json!({ "$ref": reference(item) });
            let schema = std::mem::replace(&mut page["properties"]["data"]["items"], reference);
            items.push((item.to_owned(), schema));
        }
    }
    for (item, schema) in items {
        schemas[item] = schema;
    }
}

/// Adds to an operation what follows from its nature.
fn complete(method: &str, operation: &mut Value, examples: &Value) {
    let is_post = method == "post";
    let has_id =
        operation["parameters"].as_array().is_some_and(|all| all.iter().any(|one| one["in"] == "path"));
    let has_body = is_post || operation["requestBody"].is_object();
    let scope = operation["security"][0]["key"][0].as_str().and_then(Scope::parse);
    match scope {
        // The roles of a bearer key are no scopes of OAuth: clients do not ask for them.
        Some(scope) => {
            operation["security"] = json!([{ "key": [] }]);
            operation["x-scope"] = scope.as_str().into();
        }
        None => operation["security"] = json!([]),
    }
    if !operation["parameters"].is_array() {
        operation["parameters"] = json!([]);
    }
    if is_post && let Some(parameters) = operation["parameters"].as_array_mut() {
        parameters.push(json!({ "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "For 24 hours, a request with the same key and body gets the first 2xx again, with \
                            `Idempotent-Replayed: true`.",
            "schema": { "type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$" } }));
        if operation["requestBody"].is_null() {
            operation["requestBody"] = json!({ "required": false, "description": "Nothing, or an empty object.",
                "content": { "application/json":
                    { "schema": { "type": "object", "additionalProperties": false } } } });
        }
    }
    // An `Option`: the body may be left out, and may not be null.
    if let Some(body) = operation.pointer_mut("/requestBody/content/application~1json/schema")
        && body["oneOf"][1]["type"] == "null"
    {
        *body = body["oneOf"][0].take();
    }
    let mut problems = Vec::new();
    if let Some(scope) = scope {
        problems.extend([401, 422, 500, 503]);
        problems.extend((scope > Scope::Read).then_some(403));
        problems.extend(has_id.then_some(404));
        problems.extend(is_post.then_some(409));
        problems.extend([400, 408, 413, 415].into_iter().filter(|_| has_body));
    }
    let example = &examples[operation["operationId"].as_str().unwrap_or_default()];
    let Some(responses) = operation["responses"].as_object_mut() else { return };
    for status in problems {
        responses.entry(status.to_string()).or_insert_with(|| json!({}));
    }
    for (status, response) in responses.iter_mut() {
        let example = if status == "422" { &examples["problem"] } else { example };
        complete_response(status, response, is_post, example);
    }
}

/// Adds to a response what every response has.
fn complete_response(status: &str, response: &mut Value, is_post: bool, example: &Value) {
    let header = |description: &str| json!({ "required": true, "schema": { "type": "string" }, "description": description });
    response["headers"]["x-request-id"] = header("Id of this request, in the log, too.");
    if status.starts_with('2') {
        if is_post {
            response["headers"]["Idempotent-Replayed"] = json!({
                "description": "`true` where this answer was given before.",
                "schema": { "type": "string", "enum": ["true"] } });
        }
        let content = response.get_mut("content").and_then(Value::as_object_mut);
        let content = content.and_then(|all| all.values_mut().next());
        if let (Some(content), false) = (content, example.is_null()) {
            content["example"] = example.clone();
        }
        return;
    }
    match status {
        "401" => response["headers"]["WWW-Authenticate"] = header("`Bearer`."),
        "429" | "503" => response["headers"]["Retry-After"] = header("Seconds."),
        _ => {}
    }
    if response["description"].as_str().unwrap_or_default().is_empty() {
        let meaning = MEANINGS.iter().find(|(known, _)| known.to_string() == status);
        response["description"] = meaning.map_or("", |(_, meaning)| meaning).into();
    }
    response["content"] =
        json!({ "application/problem+json": { "schema": { "$ref": reference("Problem") } } });
    if status == "422" && !example.is_null() {
        response["content"]["application/problem+json"]["example"] = example.clone();
    }
}

fn reference(schema: &str) -> String {
    format!("#/components/schemas/{schema}")
}

/// The requests that receivers get, by the type of the event.
fn webhooks(examples: &Value) -> Value {
    let header = |name: &str, description: &str| {
        json!({ "name": name, "in": "header", "required": true, "description": description,
            "schema": { "type": "string" } })
    };
    let headers = json!([
        header("webhook-id", "Id of the event, `evt_…`: the same in every attempt. Deduplicate by it."),
        header("webhook-timestamp", "Time of the attempt, in seconds since 1970-01-01."),
        header(
            "webhook-signature",
            "`v1,` and the base64 of HMAC-SHA256 over `<webhook-id>.<webhook-timestamp>.<body>`; with the key \
             `ed25519` also `v1a,` and the base64 of its signature; after a rotation, two of each, separated by \
             spaces. A destination with another `signature` has other headers. See https://www.standardwebhooks.com."
        ),
    ]);
    let webhook = |event: &EventType| {
        let schema = match event {
            EventType::JobCompleted
            | EventType::JobFailed
            | EventType::JobCancelled
            | EventType::JobNotFound
            | EventType::WatchExpired
            | EventType::JobProcessing
            | EventType::JobProgress => "EventBody",
            EventType::Test => "TestBody",
            EventType::DestinationDisabled | EventType::DestinationRecovered => "DestinationBody",
            EventType::DeliveryExhausted => "DeliveryBody",
            EventType::GroupCompleted | EventType::GroupExpired => "GroupBody",
        };
        let mut body = json!({ "schema": { "$ref": reference(schema) } });
        if let Some(example) = examples["webhooks"].get(event.as_str()) {
            body["example"] = example.clone();
        }
        let mut content = json!({ "application/json": body });
        if event.is_of_watch() {
            content["application/cloudevents+json"] =
                json!({ "schema": { "$ref": reference("CloudEvent") } });
        }
        let description = if event.is_of_watch() {
            "The body depends on `payload` of the watch: `event` (the default) and `cloudevents` as below; `raw` is the \
             provider's own answer."
        } else if event.is_operational() {
            "Sent to the saved destinations whose `events` name the type."
        } else if event.is_of_group() {
            "Sent to the destinations of the group, once."
        } else {
            "Sent once, on request."
        };
        let operation = json!({
            "operationId": format!("webhook.{event}"),
            "tags": ["Webhooks"],
            "summary": format!("Receive `{event}`"),
            "description": description,
            "parameters": headers,
            "requestBody": { "required": true, "content": content },
            "responses": {
                "2XX": { "description": "The event is received. It is not sent again." },
                "410": { "description": "The address is gone. No further event of this watch is sent to it." },
                "default": { "description": "The delivery is retried, for days. `Retry-After` is respected." },
            },
        });
        (event.as_str().to_owned(), json!({ "post": operation }))
    };
    EventType::ALL.iter().map(webhook).collect::<Map<_, _>>().into()
}

/// Forbids unknown fields in every schema of a request.
fn close_requests(document: &mut Value) {
    let mut found = BTreeSet::new();
    let bodies = operations(document).map(|(_, _, operation)| &operation["requestBody"]);
    let mut waiting: Vec<String> = bodies.flat_map(references).collect();
    while let Some(name) = waiting.pop() {
        if found.insert(name.clone()) {
            waiting.extend(references(&document["components"]["schemas"][name]));
        }
    }
    for name in found {
        let schema = &mut document["components"]["schemas"][name];
        if schema["properties"].is_object() {
            schema["additionalProperties"] = false.into();
        }
    }
}

/// The names of the schemas that a part of the document refers to.
fn references(part: &Value) -> Vec<String> {
    let text = part.to_string();
    let names = text.split("#/components/schemas/").skip(1).filter_map(|rest| rest.split('"').next());
    names.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::endpoint::Endpoint;

    #[test]
    fn every_operation_has_its_words_and_an_id_of_its_own() {
        let mut seen = std::collections::HashSet::new();
        for (path, method, operation) in operations(&DOCUMENT) {
            assert!(seen.insert(operation["operationId"].as_str().expect("an id")), "{method} {path}");
            assert!(TAGS.iter().any(|(tag, _)| operation["tags"][0] == *tag), "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
            let has_text = |part: &Value| part["description"].as_str().is_some_and(|text| !text.is_empty());
            for parameter in operation["parameters"].as_array().expect("parameters") {
                assert!(has_text(parameter) || parameter["in"] == "path", "{method} {path} {parameter}");
            }
            assert!(operation["responses"].as_object().expect("responses").values().all(has_text), "{path}");
        }
    }

    #[test]
    fn every_reference_is_defined_and_every_schema_is_used() {
        let used: BTreeSet<String> = references(&DOCUMENT).into_iter().collect();
        let defined: BTreeSet<String> =
            DOCUMENT["components"]["schemas"].as_object().expect("schemas").keys().cloned().collect();
        assert_eq!(used, defined);
    }

    #[test]
    fn every_operation_with_a_key_knows_its_scope() {
        let endpoints: Vec<Endpoint> =
            resources().iter().chain([&metrics()]).map(|(_, paths, _)| Endpoint::new(paths)).collect();
        for (path, method, operation) in operations(&DOCUMENT) {
            let endpoint = endpoints.iter().find(|endpoint| endpoint.path == path).expect("an endpoint");
            let scope = endpoint.scope(&method.to_uppercase().parse().expect("a method"));
            let is_public = path.ends_with("/jwks.json");
            assert_eq!(scope.is_some(), path.starts_with("/v1/") && !is_public, "{method} {path}");
            assert_eq!(scope.map(Scope::as_str), operation["x-scope"].as_str(), "{method} {path}");
        }
    }
}
