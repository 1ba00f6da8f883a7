//! What the author's request has besides its URL: the method, headers and a body.

use serde_json::{Map, Value};
use url::form_urlencoded::parse as parse_form;

use super::guess::{folded, quoted};
use super::input::{SkeletonAuth, SkeletonInput, is_key_name};
use crate::providers::definition::Method;

/// Headers that are not written into `request.headers`: the program sets them, they have a key of their own, or they hold
/// credentials.
const OWN_HEADERS: &[&str] =
    &["accept", "accept-encoding", "connection", "content-length", "host", "user-agent", "cookie"];

/// Method, headers and body, without the credential.
pub(super) struct Sent {
    pub(super) method: &'static str,
    /// The header `Accept`, if it is not the default.
    pub(super) accept: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Option<Body>,
    /// Names of all credentials in headers and body.
    pub(super) keys: Vec<String>,
}

/// A body.
pub(super) enum Body {
    Json(Map<String, Value>),
    Form(Vec<(String, String)>),
    /// The query of GraphQL, and its variables.
    GraphQl(String, Map<String, Value>),
}

impl Sent {
    /// Reads the request, and the kind of the credential in it. The error is a sentence that names the argument.
    pub(super) fn read(input: &SkeletonInput<'_>) -> Result<(Self, Option<SkeletonAuth>), String> {
        let mut auth = None;
        let (mut headers, mut keys) = (Vec::new(), Vec::new());
        for (name, value) in &input.headers {
            let name = name.to_ascii_lowercase();
            if name == "authorization" {
                let (scheme, rest) = value.split_once(' ').unwrap_or(("", value));
                let found = match scheme.to_ascii_lowercase().as_str() {
                    "basic" => SkeletonAuth::Basic,
                    "bearer" => SkeletonAuth::Bearer,
                    _ if rest.is_empty() || scheme.is_empty() => {
                        SkeletonAuth::Header(name.clone(), String::new())
                    }
                    _ => SkeletonAuth::Header(name.clone(), format!("{scheme} ")),
                };
                keys.push(name);
                auth = auth.or(Some(found));
            } else if is_key_header(&name) {
                keys.push(name.clone());
                auth = auth.or(Some(SkeletonAuth::Header(name, String::new())));
            } else {
                headers.push((name, value.clone()));
            }
        }
        let (body, of_body) = match input.body {
            Some(text) => Body::read(text).map(|(body, of_body)| (Some(body), of_body))?,
            None => (None, Vec::new()),
        };
        keys.extend(of_body.iter().cloned());
        let of_body = of_body.into_iter().next().map(SkeletonAuth::Body);
        let default = if body.is_some() { "POST" } else { "GET" };
        let named = input.method.unwrap_or(default).to_ascii_uppercase();
        let known = Method::ALL.iter().find(|(word, _)| *word == named);
        let (method, _) =
            known.ok_or_else(|| format!("--method: `{named}` is not possible; write GET, POST or PUT"))?;
        if body.is_some() && *method == "GET" {
            return Err("--method: a request with a body has the method POST or PUT".to_owned());
        }
        let accept =
            headers.iter().find(|(name, _)| name == "accept").map(|(_, value)| value.trim().to_owned());
        let accept = accept.filter(|value| !["application/json", "*/*", ""].contains(&value.as_str()));
        headers.retain(|(name, value)| {
            let is_default = name == "content-type" && value == "application/json";
            !is_default && !OWN_HEADERS.contains(&name.as_str())
        });
        Ok((Self { method, accept, headers, body, keys }, auth.or(of_body)))
    }

    /// Returns whether `{job_id}` is in the body.
    pub(super) fn has_marker(&self) -> bool {
        self.texts().iter().any(|text| text.contains("{job_id}"))
    }

    /// Returns the texts of the body that can be the id of the job.
    pub(super) fn texts(&self) -> Vec<String> {
        let mut texts = Vec::new();
        match &self.body {
            Some(Body::Json(members) | Body::GraphQl(_, members)) => {
                members.values().for_each(|value| add_texts(value, &mut texts));
            }
            Some(Body::Form(pairs)) => texts.extend(pairs.iter().map(|(_, value)| value.clone())),
            None => {}
        }
        texts
    }

    /// Puts `{job_id}` in the place of the id.
    pub(super) fn place(&mut self, job_id: &str) {
        match &mut self.body {
            Some(Body::Json(members) | Body::GraphQl(_, members)) => {
                members.values_mut().for_each(|value| replace(value, job_id));
            }
            Some(Body::Form(pairs)) => {
                for (_, value) in pairs.iter_mut().filter(|(_, value)| value == job_id) {
                    "{job_id}".clone_into(value);
                }
            }
            None => {}
        }
    }
}

/// Returns whether values of a header with this name are credentials, such as `x-api-key`.
fn is_key_header(name: &str) -> bool {
    let folded = folded(name);
    is_key_name(&folded) || folded.ends_with("token")
}

fn add_texts(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Number(number) => texts.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| add_texts(item, texts)),
        Value::Object(members) => members.values().for_each(|value| add_texts(value, texts)),
        Value::Null | Value::Bool(_) => {}
    }
}

fn replace(value: &mut Value, job_id: &str) {
    match value {
        Value::String(text) if text == job_id => "{job_id}".clone_into(text),
        Value::Number(number) if number.to_string() == job_id => *value = "{job_id}".into(),
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, job_id)),
        Value::Object(members) => members.values_mut().for_each(|value| replace(value, job_id)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

impl Body {
    /// Reads a body, and the names of the credentials in it. The error is a sentence that names the argument.
    fn read(text: &str) -> Result<(Self, Vec<String>), String> {
        let text = text.trim();
        if !text.starts_with(['{', '[']) {
            if text.is_empty() || !text.split('&').all(|pair| pair.contains('=')) {
                return Err("--body: must be a JSON object, or a form such as id=j_1&wait=0".to_owned());
            }
            let pairs: Vec<(String, String)> = parse_form(text.as_bytes()).into_owned().collect();
            let (keys, pairs): (Vec<_>, Vec<_>) = pairs.into_iter().partition(|(name, _)| is_key_name(name));
            return Ok((Self::Form(pairs), keys.into_iter().map(|(name, _)| name).collect()));
        }
        let value: Value =
            serde_json::from_str(text).map_err(|error| format!("--body: is not JSON ({error})"))?;
        let Value::Object(mut members) = value else {
            return Err(
                "--body: must be a JSON object; other JSON is not possible in a definition".to_owned()
            );
        };
        let is_query = |text: &str| text.contains('{');
        if let Some(query) = members.get("query").and_then(Value::as_str).filter(|text| is_query(text)) {
            let variables = members.get("variables").and_then(Value::as_object).cloned().unwrap_or_default();
            return Ok((Self::GraphQl(query.to_owned(), variables), Vec::new()));
        }
        let keys: Vec<String> = members.keys().filter(|name| is_key_name(name)).cloned().collect();
        members.retain(|name, _| !keys.contains(name));
        Ok((Self::Json(members), keys))
    }

    /// Returns the key of `[request]` as TOML.
    pub(super) fn toml(&self) -> String {
        match self {
            Self::Json(members) => format!("json = {}", table(members)),
            Self::Form(pairs) => {
                let pair = |(name, value): &(String, String)| format!("{} = {}", quoted(name), quoted(value));
                format!("form = {{ {} }}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
            }
            Self::GraphQl(query, variables) => {
                format!("graphql = {{ query = {}, variables = {} }}", quoted(query), table(variables))
            }
        }
    }

    /// Returns what the author must decide about the body.
    pub(super) fn questions(&self) -> Vec<String> {
        let values: Vec<&Value> = match self {
            Self::Json(members) | Self::GraphQl(_, members) => members.values().collect(),
            Self::Form(_) => Vec::new(),
        };
        let has_null = values.iter().any(|value| has(value, &|value| value.is_null()));
        let is_brace = |text: &str| text.contains(['{', '}']) && text != "{job_id}";
        let has_brace = values.iter().any(|value| has(value, &|value| value.as_str().is_some_and(is_brace)));
        let null = "Does the API need the members of the body that were null? They are left out.";
        let brace =
            "Which texts of the body contain braces? They stand for parameters, and cannot be written.";
        [(has_null, null), (has_brace, brace)]
            .into_iter()
            .filter(|(is_asked, _)| *is_asked)
            .map(|(_, question)| question.to_owned())
            .collect()
    }
}

/// Returns whether a value, or one within it, passes a test.
fn has(value: &Value, test: &impl Fn(&Value) -> bool) -> bool {
    test(value)
        || match value {
            Value::Array(items) => items.iter().any(|item| has(item, test)),
            Value::Object(members) => members.values().any(|value| has(value, test)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
        }
}

/// Returns an object as an inline table. TOML has no null.
fn table(members: &Map<String, Value>) -> String {
    let member = |(name, value): (&String, &Value)| Some(format!("{} = {}", quoted(name), toml(value)?));
    let members: Vec<_> = members.iter().filter_map(member).collect();
    if members.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", members.join(", ")) }
}

fn toml(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(text) => Some(quoted(text)),
        Value::Array(items) => {
            Some(format!("[{}]", items.iter().filter_map(toml).collect::<Vec<_>>().join(", ")))
        }
        Value::Object(members) => Some(table(members)),
    }
}
