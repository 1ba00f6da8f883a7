//! The document as a page for people. It is made from the document alone, holds its style, and needs no
//! script: a browser that is told to load nothing (`content-security-policy`) shows all of it.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{DOCUMENT, OPERATIONS, Operation};

const TEMPLATE: &str = include_str!("../../../templates/ui/docs.html");
const STYLE: &str = include_str!("../../../templates/ui/docs.css");

static PAGE: LazyLock<String> = LazyLock::new(|| {
    rendered(&DOCUMENT).unwrap_or_else(|error| format!("the page cannot be shown: {error}"))
});

/// Nothing is loaded, and of all styles only this one holds.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

/// `GET /docs`
pub async fn docs() -> Response {
    let mut response = Response::new(Body::from(PAGE.as_str()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(policy) = POLICY.parse() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

fn rendered(document: &Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    // By its name, everything in it is escaped.
    environment.add_template("docs.html", TEMPLATE)?;
    let page = environment.get_template("docs.html")?;
    page.render(context! {
        info => Serde(&document["info"]),
        tags => Serde(&document["tags"]),
        operations => Serde(operations(document)),
        schemas => Serde(&document["components"]["schemas"]),
        style => minijinja::Value::from_safe_string(STYLE.to_owned()),
    })
}

/// The operations in the order of the table, each with what a template cannot make of it.
fn operations(document: &Value) -> Vec<Value> {
    let shown = |one: &Operation| {
        let mut operation = document["paths"][one.path][one.method].clone();
        operation["method"] = one.method.to_uppercase().into();
        operation["path"] = one.path.into();
        operation["curl"] = curl(one).into();
        operation
    };
    OPERATIONS.iter().map(shown).collect()
}

/// How to try it.
fn curl(operation: &Operation) -> String {
    let method = operation.method.to_uppercase();
    let mut words = vec!["curl".to_owned()];
    if operation.id == "streamEvents" {
        words.push("-N".to_owned());
    }
    if method != "GET" {
        words.push(format!("-X {method}"));
    }
    let id = operation.names_one().map(|prefix| format!("{prefix}…")).unwrap_or_default();
    words.push(format!("\"$RINGBACK{}\"", operation.path.replace("{id}", &id)));
    if operation.scope.is_some() {
        words.push("-H \"Authorization: Bearer $KEY\"".to_owned());
    }
    let mut line = words.join(" ");
    if let Some(body) = &operation.body {
        line.push_str(" \\\n  -H 'Content-Type: application/json' \\\n  -d '");
        line.push_str(body.example);
        line.push('\'');
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_every_schema_and_loads_nothing() {
        let page = rendered(&DOCUMENT).expect("a page");
        for operation in OPERATIONS {
            assert!(page.contains(&format!("id=\"{}\"", operation.id)), "{}", operation.id);
        }
        for name in DOCUMENT["components"]["schemas"].as_object().expect("schemas").keys() {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        assert!(page.contains("curl -X POST"));
        for loaded in ["<script", "src=", "http-equiv", "<link", "@import", "url(", "style=\""] {
            assert!(!page.contains(loaded), "{loaded}");
        }
        // What the policy names is what stands in the page.
        assert!(page.contains(&format!("<style>{STYLE}</style>")));
    }
}
