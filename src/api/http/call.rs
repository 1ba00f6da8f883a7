//! The authorized request, as handlers take it.
//!
//! The scope that a route needs is written once, in the `security` of its `#[utoipa::path]` annotation.
//! [`Call`] reads it from the `OpenAPI` document, so a handler runs only for keys of that scope.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts as _, MatchedPath, Path};
use axum::http::request::Parts;
use axum::http::{Method, Request};
use serde_json::value::RawValue;

use super::answer::Early;
use super::body::{BODY_MAX, RequestBody};
use super::caller::Caller;
use super::description::Description;
use super::idempotency::IdempotencyClaim;
use super::object_reader::ObjectReader;
use super::problem::{FieldErrors, Problem};
use super::problem_code::FieldErrorCode;
use super::query::Query;
use super::state::Api;
use crate::domain::AppNo;
use crate::store::{IdempotencyKey, Scope};

/// A request with a valid key of the scope that its route needs.
pub struct Call {
    /// The application's parts.
    pub api: Arc<Api>,
    /// The key.
    pub caller: Caller,
    /// The request without its body.
    pub parts: Parts,
    id: Option<String>,
    body: RequestBody,
}

impl FromRequest<Arc<Api>> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, api: &Arc<Api>) -> Result<Self, Problem> {
        let (mut parts, _) = request.into_parts();
        let route = parts.extensions.get::<MatchedPath>().cloned();
        let route = route.as_ref().map_or("", MatchedPath::as_str);
        // Axum answers HEAD by the handler of GET.
        let method = if parts.method == Method::HEAD { &Method::GET } else { &parts.method };
        // A route that declares no scope has no handler that takes a `Call`. If it had one, the highest scope
        // would apply.
        let description = parts.extensions.get::<Description>();
        let scope = description.and_then(|description| (description.scope_of)(method.as_str(), route));
        let caller = Caller::authorize(api, &parts.headers, scope.unwrap_or(Scope::Admin))?;
        let mut id = None;
        if route.contains('{') {
            id = Path::<String>::from_request_parts(&mut parts, &()).await.ok().map(|Path(id)| id);
        }
        let body = RequestBody::of(&mut parts, &api.clock)?;
        Ok(Self { api: Arc::clone(api), caller, parts, id, body })
    }
}

impl Call {
    /// The caller's app.
    pub fn app(&self) -> AppNo {
        self.caller.app
    }

    /// Parses the `{id}` of the path. 404 if it is malformed.
    pub fn id<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        parse_id(self.id.as_deref(), parse)
    }

    /// Parses the `{id}` of a request that takes no query parameters.
    pub fn only_id<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        self.no_query()?;
        self.id(parse)
    }

    /// The query, to be read parameter by parameter.
    pub fn query(&self) -> Query {
        Query::new(&self.parts)
    }

    /// Refuses every query parameter.
    pub fn no_query(&self) -> Result<(), Problem> {
        self.query().done()
    }

    /// Reads a JSON body of at most `max` bytes.
    pub async fn json(&self, max: usize) -> Result<String, Problem> {
        self.body.json(max).await
    }

    /// Begins a write: reads the body, claims the `Idempotency-Key` and looks for an earlier answer.
    pub async fn write(self, content: Content) -> Result<Write, Early> {
        self.begin(content, false).await
    }

    /// Begins a write whose answer holds a secret. A kept answer is sealed with the caller's API key.
    pub async fn write_secret(self, content: Content) -> Result<Write, Early> {
        self.begin(content, true).await
    }

    async fn begin(self, content: Content, has_secret: bool) -> Result<Write, Early> {
        self.no_query()?;
        let Self { api, caller, parts, id, body } = self;
        let text = match content {
            Content::Json(max) => body.json(max).await?,
            Content::Optional => body.json_or_nothing().await?,
            Content::Nothing => body.no_fields().await?,
        };
        let claim = IdempotencyClaim::new(&api, caller.app, &parts, &text, has_secret)?;
        if let Some(claim) = &claim
            && let Some(replay) = api.store.find_replay(claim.key()).await?
        {
            return Err(replay.into());
        }
        Ok(Write { api, caller, parts, text, id, claim })
    }
}

fn parse_id<T>(id: Option<&str>, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
    id.and_then(parse).ok_or_else(Problem::not_found)
}

/// What the body of a write may be.
#[derive(Clone, Copy)]
pub enum Content {
    /// A JSON object of at most so many bytes.
    Json(usize),
    /// A JSON object, or nothing.
    Optional,
    /// An empty JSON object, or nothing.
    Nothing,
}

impl Content {
    /// A JSON object of usual size.
    pub const OBJECT: Self = Self::Json(BODY_MAX);
}

/// A write that was not answered before. It holds its `Idempotency-Key` until it is dropped: a second
/// request with the same key is refused in the meantime.
pub struct Write {
    /// The application's parts.
    pub api: Arc<Api>,
    /// The key.
    pub caller: Caller,
    /// The request without its body.
    pub parts: Parts,
    /// The text of the body.
    pub text: String,
    id: Option<String>,
    claim: Option<IdempotencyClaim>,
}

impl Write {
    /// The caller's app.
    pub fn app(&self) -> AppNo {
        self.caller.app
    }

    /// Parses the `{id}` of the path. 404 if it is malformed.
    pub fn id<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        parse_id(self.id.as_deref(), parse)
    }

    /// The idempotency key of the request, for the store.
    pub fn key(&self) -> Option<IdempotencyKey> {
        self.claim.as_ref().map(IdempotencyClaim::key)
    }

    /// Reads the body as an object; fields that `read` does not take are errors. Without a body it reads an
    /// empty object.
    pub fn object<T>(&self, read: impl FnOnce(&mut ObjectReader<'_, '_>) -> Option<T>) -> Result<T, Problem> {
        let mut errors = FieldErrors::default();
        let text = if self.text.is_empty() { "{}" } else { &self.text };
        let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
        let object = ObjectReader::read(raw, "", &mut errors).and_then(|mut fields| {
            let object = read(&mut fields);
            fields.done();
            object
        });
        errors.check()?;
        object.ok_or_else(|| Problem::field("", FieldErrorCode::Required, "is incomplete"))
    }
}
