//! `GET /docs`: the `OpenAPI` document as a page for people.
//!
//! The page is made from the document alone. It has no script and loads nothing, so its policy
//! (`content-security-policy`) permits one inline style and nothing else.
//!
//! **Why not a vendored renderer.** Measured in Chromium 156 with this document and the policy `script-src 'self';
//! style-src 'self'`: Scalar 1.46.4 (3.6 MB), Redoc 2.5.4 (1.1 MB) and `RapiDoc` 9.3.8 (0.9 MB) need inline styles
//! (6, 10 and 74 violations; Redoc also a worker from a `blob:` URL and does not start), and Stoplight Elements
//! 9.0.25 (2.4 MB) loses its layout. With `'unsafe-inline'` they would make the binary a tenth larger or more.

use std::convert::Infallible;
use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::stream;
use minijinja::value::Serde;
use minijinja::{Environment, context};
use pulldown_cmark::{Event, Options, Parser, html};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const TEMPLATE: &str = include_str!("../../../templates/ui/docs.html");
const STYLE: &str = include_str!("../../../templates/ui/docs.css");

/// The methods in the order in which the page lists them.
const METHODS: [&str; 5] = ["post", "get", "put", "patch", "delete"];

/// The policy: nothing is loaded, and only the page's own style applies.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

/// Stands in the page for the URL of the server.
const SERVER: &str = "http://127.0.0.1:8080";

/// Returns the URL of the server as the reader of the page sees it: `public_url` if that is https, because a proxy is
/// then in front of this server; else the host of the request.
pub fn server(headers: &HeaderMap, public_url: &str) -> String {
    let is_plain = |host: &&str| {
        !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-_[]".contains(&b))
    };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).filter(is_plain);
    match host.filter(|_| !public_url.starts_with("https:")) {
        Some(host) => format!("http://{host}"),
        None => escape(public_url),
    }
}

/// Returns a text of the configuration without characters that HTML or a shell interprets.
fn escape(text: &str) -> String {
    text.chars().filter(|c| !matches!(c, '<' | '>' | '&' | '"' | '\'' | '`' | '$' | ';' | ' ')).collect()
}

/// Answers with the page. The parts before and after the URL of the server are shared, not copied.
pub fn answer(page: &'static str, server: String) -> Response {
    let (before, after) = page.split_once(SERVER).unwrap_or((page, ""));
    let length = before.len() + server.len() + after.len();
    let parts = [Bytes::from_static(before.as_bytes()), server.into(), Bytes::from_static(after.as_bytes())];
    let body = Body::from_stream(stream::iter(parts.map(Ok::<_, Infallible>)));
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
    ];
    let length = [(header::CONTENT_LENGTH, HeaderValue::from(length))];
    (headers, length, body).into_response()
}

/// Renders the page of a document.
pub fn render(document: &Value) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    environment.add_filter("markdown", |text: &str| minijinja::Value::from_safe_string(markdown(text)));
    environment.add_filter("inline", |text: &str| {
        let page = markdown(text);
        let line = page.trim().trim_start_matches("<p>").trim_end_matches("</p>");
        minijinja::Value::from_safe_string(line.to_owned())
    });
    environment.add_filter("json", |value: &minijinja::Value| {
        serde_json::to_string_pretty(value).unwrap_or_default()
    });
    environment
        .add_filter("limits", |schema: Option<Serde<Value>>| schema.map(|Serde(schema)| limits(&schema)));
    // The ending of the name turns escaping on.
    environment.add_template("docs.html", TEMPLATE)?;
    let operations = operations(document);
    environment.get_template("docs.html")?.render(context! {
        info => Serde(&document["info"]),
        tags => Serde(&document["tags"]),
        operations => Serde(operations),
        schemas => Serde(&document["components"]["schemas"]),
        style => minijinja::Value::from_safe_string(STYLE.to_owned()),
        server => minijinja::Value::from_safe_string(SERVER.to_owned()),
    })
}

/// Renders Markdown (`CommonMark` with tables). HTML in it is shown as text.
fn markdown(text: &str) -> String {
    let events = Parser::new_ext(text, Options::ENABLE_TABLES).map(|event| {
        if let Event::Html(html) | Event::InlineHtml(html) = event { Event::Text(html) } else { event }
    });
    let mut page = String::new();
    html::push_html(&mut page, events);
    page
}

/// Returns the operations and the webhooks, each with what a template cannot compute.
fn operations(document: &Value) -> Vec<Value> {
    let mut operations = Vec::new();
    for (key, is_webhook) in [("paths", false), ("webhooks", true)] {
        for (path, methods) in document[key].as_object().into_iter().flatten() {
            for method in METHODS.iter().filter(|method| methods[**method].is_object()) {
                let spec = &methods[*method];
                let id = spec["operationId"].as_str().unwrap_or(path);
                let no_key = spec["security"].as_array().is_some_and(Vec::is_empty);
                operations.push(json!({
                    "id": id,
                    "method": method.to_uppercase(),
                    "path": path,
                    "tag": spec["tags"][0],
                    "scope": spec["x-scope"].as_str().or(no_key.then_some("no key")),
                    "webhook": is_webhook,
                    "curl": (!is_webhook).then(|| curl(path, method, spec, !no_key)),
                    "spec": spec,
                }));
            }
        }
    }
    operations
}

/// Returns a command that sends the request.
fn curl(path: &str, method: &str, spec: &Value, needs_key: bool) -> String {
    let streams = spec["responses"]["200"]["content"]["text/event-stream"].is_object();
    let no_buffer = if streams { " -N" } else { "" };
    let method = if method == "get" { String::new() } else { format!(" -X {}", method.to_uppercase()) };
    let path = path.replace("{id}", "$ID");
    let key = if needs_key { " -H \"Authorization: Bearer $KEY\"" } else { "" };
    let example = &spec["requestBody"]["content"]["application/json"]["example"];
    let body = if example.is_null() {
        String::new()
    } else {
        let json = example.to_string().replace('\'', "'\\''");
        format!(" \\\n  -H 'Content-Type: application/json' \\\n  -d '{json}'")
    };
    format!("curl{no_buffer}{method} \"$RINGBACK{path}\"{key}{body}")
}

/// Returns the bounds and the default of a schema as a phrase.
fn limits(schema: &Value) -> String {
    const BOUNDS: [(&str, &str, &str); 7] = [
        ("minimum", "at least ", ""),
        ("maximum", "at most ", ""),
        ("minLength", "at least ", " characters"),
        ("maxLength", "at most ", " characters"),
        ("minItems", "at least ", " elements"),
        ("maxItems", "at most ", " elements"),
        ("default", "default ", ""),
    ];
    let bounds = BOUNDS.iter().filter(|(key, ..)| !schema[key].is_null());
    let mut phrases: Vec<String> =
        bounds.map(|(key, before, after)| format!("{before}{}{after}", schema[key])).collect();
    if let Some(format) = schema["format"].as_str() {
        phrases.push(format!("format {format}"));
    }
    phrases.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::openapi::DOCUMENT;

    #[test]
    fn the_page_shows_everything_and_loads_nothing() {
        let page = render(&DOCUMENT).expect("a page");
        for methods in DOCUMENT["paths"].as_object().expect("paths").values() {
            for operation in methods.as_object().expect("methods").values() {
                let id = operation["operationId"].as_str().expect("an id");
                assert!(page.contains(&format!("<section id=\"{id}\">")), "{id}");
                assert!(page.contains(&format!("<a href=\"#{id}\">")), "the sidebar links {id}");
            }
        }
        for name in DOCUMENT["components"]["schemas"].as_object().expect("schemas").keys() {
            assert!(page.contains(&format!("<section id=\"schema-{name}\">")), "{name}");
        }
        assert!(page.contains("curl -X POST"));
        for loaded in ["<script", "src=", "http-equiv", "<link", "@import", "url(", "style=\""] {
            assert!(!page.contains(loaded), "{loaded}");
        }
        // The policy names the style of the page.
        assert!(page.contains(&format!("<style>{STYLE}</style>")));
        assert_eq!(page.matches(SERVER).count(), 1, "answer replaces one");
    }

    #[test]
    fn the_page_names_the_server_as_its_reader_sees_it() {
        let with_host = |host: &str, public_url: &str| {
            let headers = [(header::HOST, HeaderValue::from_str(host).expect("a host"))];
            server(&headers.into_iter().collect(), public_url)
        };
        let listen = "http://0.0.0.0:9000";
        assert_eq!(with_host("127.0.0.1:9000", listen), "http://127.0.0.1:9000");
        assert_eq!(with_host("[::1]:9000", listen), "http://[::1]:9000");
        assert_eq!(with_host("a\"<b>", listen), listen, "only a host is repeated");
        assert_eq!(with_host("10.0.0.1", "https://ringback.example"), "https://ringback.example");
        assert_eq!(server(&HeaderMap::new(), listen), listen);
    }

    #[test]
    fn the_document_has_no_links_of_rust_documentation() {
        let text = DOCUMENT.to_string();
        for leftover in ["[`", "`]", "](crate", "](super", "](Self", "::"] {
            assert!(!text.contains(leftover), "{leftover}");
        }
    }

    #[test]
    fn markdown_is_rendered_and_html_is_escaped() {
        assert_eq!(markdown("a `b` <script>"), "<p>a <code>b</code> &lt;script&gt;</p>\n");
        assert_eq!(markdown("- a\n- b"), "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n");
    }

    #[test]
    fn a_response_example_is_shown() {
        let mut document = DOCUMENT.clone();
        let list =
            &mut document["paths"]["/v1/providers"]["get"]["responses"]["200"]["content"]["application/json"];
        list["example"] = json!({ "data": [], "nextCursor": "an <example>" });
        assert!(render(&document).expect("a page").contains("&quot;an &lt;example&gt;&quot;"));
    }
}
