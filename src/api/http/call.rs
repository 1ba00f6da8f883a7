//! The authorized request, as handlers take it.
//!
//! The scope that a route needs is written once, in the `security` of its `#[utoipa::path]` annotation.
//! [`Call`] takes it from the [endpoint](super::endpoint::Endpoint) of the request, so a handler runs only for keys of
//! that scope.

use std::ops::Deref;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts as _, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Request, header};
use serde_json::value::RawValue;

use super::answer::Answer;
use super::body::{Content, RequestContext, read_toml};
use super::idempotency::IdempotencyClaim;
use super::object_reader::ObjectReader;
use super::problem::{FieldErrorCode, FieldErrors, Problem, ProblemCode};
use super::query::Query;
use super::state::Api;
use crate::domain::{AppNo, KeyId, Timestamp};
use crate::store::{AnswerKey, IdempotencyKey, Scope};
use crate::tenants::hash_key;

/// The API key of a request, after its scope was checked.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The app of the key.
    pub app: AppNo,
    /// Whether the app is the first one, whose admins manage all apps.
    operator: bool,
    /// SHA-256 of the key.
    hash: [u8; 32],
    /// Id of the key; `None` for the configured one.
    key: Option<KeyId>,
    scope: Scope,
}

impl Caller {
    /// Finds the key of a request. 401 without a valid key, 403 if the key lacks the scope.
    pub fn authorize(api: &Api, headers: &HeaderMap, needed: Scope) -> Result<Self, Problem> {
        let token = bearer(headers).ok_or_else(Problem::unauthorized)?;
        let hash = hash_key(token);
        // Hashes are compared, so the time of the comparison reveals nothing about the key.
        let (app, scope, id) = match &api.bootstrap {
            Some(bootstrap) if *bootstrap == hash => (api.operator, Scope::Admin, None),
            Some(_) | None => {
                let key = api.store.key(&hash, api.clock.now()).ok_or_else(Problem::unauthorized)?;
                (key.app, key.scope, Some(key.id))
            }
        };
        if scope < needed {
            let detail = format!("this API key lacks the scope `{needed}`; use one that has it");
            return Err(Problem::new(ProblemCode::InsufficientScope, detail));
        }
        Ok(Self { app, operator: app == api.operator, hash, key: id, scope })
    }

    /// Whether the key is still valid: for a response that lasts.
    pub fn is_still_valid(&self, api: &Api) -> bool {
        api.bootstrap == Some(self.hash) || api.store.key(&self.hash, api.clock.now()).is_some()
    }

    /// Whether the caller may revoke a key: an admin any that it manages, others only their own.
    pub fn may_revoke(&self, key: KeyId) -> bool {
        self.scope == Scope::Admin || self.key == Some(key)
    }

    /// The app whose keys an admin manages. `None` means all apps: for admins of the first app.
    pub fn managed_app(&self) -> Option<AppNo> {
        (!self.operator).then_some(self.app)
    }
}

/// Returns the token of `Authorization: Bearer <token>`. `None` also for two such headers: a gateway may have checked
/// the other one.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = all.next()?.to_str().ok()?.split_once(' ')?;
    if all.next().is_some() {
        return None;
    }
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A request with a valid key of the scope that its route needs.
pub struct Call {
    /// The application's parts.
    pub api: Arc<Api>,
    /// The key.
    pub caller: Caller,
    /// The request without its body.
    pub parts: Parts,
    id: Option<String>,
}

impl FromRequest<Arc<Api>> for Call {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, api: &Arc<Api>) -> Result<Self, Problem> {
        let (mut parts, _) = request.into_parts();
        let endpoint = RequestContext::of(&parts).and_then(RequestContext::endpoint);
        // An operation that declares no scope has no handler that takes a `Call`. If it had one, the highest
        // scope would apply.
        let scope = endpoint.and_then(|endpoint| endpoint.scope(&parts.method)).unwrap_or(Scope::Admin);
        let has_id = endpoint.is_some_and(|endpoint| endpoint.path.contains('{'));
        let caller = match Caller::authorize(api, &parts.headers, scope) {
            Ok(caller) => caller,
            Err(problem) => {
                if problem.code == ProblemCode::Unauthorized && bearer(&parts.headers).is_some() {
                    let client = RequestContext::of(&parts).map(|body| &body.client().wrong_keys);
                    api.wrong_keys.note(client, api.store.metrics(), &api.clock).await;
                }
                return Err(problem);
            }
        };
        if let Some(body) = RequestContext::of(&parts) {
            body.belongs_to(caller.app);
        }
        let mut id = None;
        if has_id {
            id = Path::<String>::from_request_parts(&mut parts, &()).await.ok().map(|Path(id)| id);
        }
        Ok(Self { api: Arc::clone(api), caller, parts, id })
    }
}

impl Call {
    /// The caller's app.
    pub fn app(&self) -> AppNo {
        self.caller.app
    }

    /// Parses the `{id}` of the path. 404 if it is malformed.
    pub fn id<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        self.id.as_deref().and_then(parse).ok_or_else(Problem::not_found)
    }

    /// Parses the `{id}` of a request that takes no query parameters.
    pub fn only_id<T>(&self, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Problem> {
        self.no_query()?;
        self.id(parse)
    }

    /// Returns the `{id}` of the path as it is.
    pub fn raw_id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    /// The query, to be read parameter by parameter.
    pub fn query(&self) -> Query {
        Query::new(&self.parts)
    }

    /// Refuses every query parameter.
    pub fn no_query(&self) -> Result<(), Problem> {
        self.query().done()
    }

    /// Returns when the client has closed its connection, or only its sending side. Both are the same to
    /// the server, so the handler still answers.
    pub async fn hung_up(&self) {
        if let Some(body) = RequestContext::of(&self.parts) {
            body.client().hang_up.noticed().await;
        }
    }

    /// Reserves memory for the answer to a write, of at most `bytes`. It is called before the write: a 503 must not
    /// hide a committed change, and the answer to a committed change is always sent.
    pub fn reserve_answer(&self, bytes: usize) -> Result<(), Problem> {
        let body = RequestContext::of(&self.parts);
        if body.is_none_or(|body| body.try_reserve_answer(bytes)) {
            Ok(())
        } else {
            Err(Problem::over_budget())
        }
    }

    /// Reads a JSON body of at most `max` bytes.
    pub async fn json(&self, max: usize) -> Result<String, Problem> {
        Content::Json(max).read(&self.parts, &self.api.clock).await
    }

    /// Reads a TOML body of at most `max` bytes.
    pub async fn toml(&self, max: usize) -> Result<String, Problem> {
        read_toml(&self.parts, max, &self.api.clock).await
    }

    /// Begins a write: reads the body, claims the `Idempotency-Key` and finds an earlier answer.
    pub fn write(self, content: Content) -> impl Future<Output = Answer<Write>> {
        self.begin(content, false)
    }

    /// Begins a write whose answer holds a secret. A kept answer is sealed with the caller's API key.
    pub fn write_secret(self, content: Content) -> impl Future<Output = Answer<Write>> {
        self.begin(content, true)
    }

    async fn begin(self, content: Content, has_secret: bool) -> Answer<Write> {
        self.no_query()?;
        let text = content.read(&self.parts, &self.api.clock).await?;
        let seal = if has_secret { bearer(&self.parts.headers).map(AnswerKey::of_token) } else { None };
        let claim = IdempotencyClaim::new(
            &self.api.in_progress,
            &self.api.store,
            self.app(),
            (&self.parts, &text),
            seal,
        )?;
        let write = Write { call: self, text, claim };
        if let Some(key) = write.key()
            && let Some(replay) = write.api.store.find_replay(key).await?
        {
            return Err(replay.into());
        }
        Ok(write)
    }
}

/// A write that was not answered before. It holds its `Idempotency-Key` until it is dropped: a second
/// request with the same key is refused in the meantime.
pub struct Write {
    call: Call,
    /// The text of the body.
    pub text: String,
    claim: Option<IdempotencyClaim>,
}

impl Deref for Write {
    type Target = Call;

    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Write {
    /// The idempotency key of the request, for the store.
    pub fn key(&self) -> Option<IdempotencyKey> {
        self.key_at(self.api.clock.now())
    }

    /// The same for a registration, whose response is found by the time of its watches when one of them is erased.
    pub fn key_at(&self, created_at: Timestamp) -> Option<IdempotencyKey> {
        self.claim.as_ref().map(|claim| claim.key(created_at))
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
