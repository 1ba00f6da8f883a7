//! Reading a request: who asks, its body, its query, its `Idempotency-Key`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::{FromRef, FromRequestParts, Path};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use percent_encoding::percent_decode_str;
use sha2::{Digest, Sha256};

use super::Api;
use super::problem::{FieldErrors, Problem};
use crate::clock::Clock;
use crate::domain::{AppNo, Timestamp};
use crate::store::{AnswerKey, Remember, Replay, Scope};
use crate::tenants::hash_key;

/// The largest body of a request.
pub const BODY_MAX: usize = 256 * 1024;

/// The largest body of a batch.
pub const BATCH_MAX: usize = 8 * 1024 * 1024;

/// How much of a refused body is read and dropped, and for how long, so that the client gets to read
/// the answer.
const DROPPED_MAX: usize = 1024 * 1024;
const DROPPED_FOR: Duration = Duration::from_secs(5);

/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Lists: how much a page holds, at most and if nothing is said.
const LIMIT_MAX: u32 = 200;
const LIMIT: u32 = 50;

/// The request's body, held back until somebody wants it; what nobody wanted is dropped politely.
#[derive(Clone, Debug)]
pub struct Held(Arc<Mutex<Option<Incoming>>>);

impl Held {
    /// Holds a body back.
    pub fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Whether there is no body, or an empty one.
    fn is_empty(&self) -> bool {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.as_ref().is_none_or(hyper::body::Body::is_end_stream)
    }

    fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads and drops what nobody wanted.
    pub async fn drop_politely(&self, clock: &Clock) {
        if let Some(body) = self.take()
            && !body.is_end_stream()
        {
            drop_body(body, clock).await;
        }
    }
}

async fn drop_body(mut body: Incoming, clock: &Clock) {
    let reading = async {
        let mut dropped = 0;
        while let Some(Ok(frame)) = body.frame().await {
            dropped += frame.data_ref().map_or(0, bytes_len);
            if dropped > DROPPED_MAX {
                break;
            }
        }
    };
    clock.timeout(DROPPED_FOR, reading).await;
}

fn bytes_len(bytes: &hyper::body::Bytes) -> usize {
    bytes.len()
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// In whose name.
    pub app: AppNo,
    scope: Scope,
    /// Whether that is the app whose admins manage the tenants.
    operator: bool,
    /// SHA-256 of the key.
    hash: [u8; 32],
}

impl Caller {
    /// `Ok` where the key may do so much.
    pub fn may(self, scope: Scope) -> Result<AppNo, Problem> {
        if self.scope >= scope {
            return Ok(self.app);
        }
        Err(Problem::new(StatusCode::FORBIDDEN, format!("this key has not the scope `{scope}`")))
    }

    /// Whether the key is still valid: for an answer that goes on for long.
    pub fn still_holds(&self, api: &Api) -> bool {
        api.bootstrap == Some(self.hash) || api.store.key(&self.hash, api.clock.now()).is_some()
    }

    /// Whose apps and keys an admin manages: those of the first app anybody's (`None`), others their
    /// own. Of everything else each sees its own app's only.
    pub fn manages(self) -> Result<Option<AppNo>, Problem> {
        let app = self.may(Scope::Admin)?;
        Ok((!self.operator).then_some(app))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Arc<Api>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let api = Arc::<Api>::from_ref(state);
        let token = bearer(&parts.headers).ok_or_else(Problem::unauthorized)?;
        let hash = hash_key(token);
        // Hashes are compared, so the time that it takes tells nothing of the key.
        let (app, scope) = match &api.bootstrap {
            Some(bootstrap) if *bootstrap == hash => (api.operator, Scope::Admin),
            Some(_) | None => {
                let key = api.store.key(&hash, api.clock.now()).ok_or_else(Problem::unauthorized)?;
                (key.app, key.scope)
            }
        };
        Ok(Self { app, scope, operator: app == api.operator, hash })
    }
}

/// The token of `Authorization: Bearer <token>`.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The name in a path. One that is not even UTF-8 once it is decoded names nothing.
#[derive(Debug)]
pub struct Name(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name)).map_err(|_| Problem::not_found())
    }
}

/// Reads the whole body, up to `max` bytes, or says what is wrong with it.
async fn body(held: &Held, clock: &Clock, max: usize) -> Result<Vec<u8>, Problem> {
    let Some(mut body) = held.take() else { return Ok(Vec::new()) };
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(max);
    let mut read = Vec::with_capacity(announced.min(max));
    let reading = async {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body broke off"))?;
            if let Some(data) = frame.data_ref() {
                if read.len() + data.len() > max {
                    return Ok(false);
                }
                read.extend_from_slice(data);
            }
        }
        Ok(true)
    };
    match clock.timeout(BODY_TIMEOUT, reading).await {
        Some(Ok(true)) => Ok(read),
        Some(Ok(false)) => {
            drop_body(body, clock).await;
            Err(too_large("the body", max))
        }
        Some(Err(problem)) => Err(problem),
        None => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 30 s")),
    }
}

/// 413.
pub fn too_large(what: &str, max: usize) -> Problem {
    let detail = format!("{what} is larger than {} KiB", max / 1024);
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
}

/// Reads a JSON body's text, of up to `max` bytes; what it says is not looked at yet.
pub async fn json(held: &Held, headers: &HeaderMap, clock: &Clock, max: usize) -> Result<String, Problem> {
    is_json(headers)?;
    let text = String::from_utf8(body(held, clock, max).await?)
        .map_err(|_| Problem::new(StatusCode::BAD_REQUEST, "the body is not UTF-8"))?;
    serde_json::from_str::<&serde_json::value::RawValue>(&text)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}")))?;
    Ok(text)
}

/// Reads the text of a JSON body that may be left out: then it is empty.
pub async fn json_or_nothing(held: &Held, headers: &HeaderMap, clock: &Clock) -> Result<String, Problem> {
    if held.is_empty() { Ok(String::new()) } else { json(held, headers, clock, BODY_MAX).await }
}

/// Reads the body of a POST that needs none: nothing, or an empty object.
pub async fn no_fields(held: &Held, headers: &HeaderMap, clock: &Clock) -> Result<Vec<u8>, Problem> {
    let read = body(held, clock, BODY_MAX).await?;
    if read.is_empty() {
        return Ok(read);
    }
    is_json(headers)?;
    match serde_json::from_slice::<serde_json::Value>(&read) {
        Ok(serde_json::Value::Object(fields)) => {
            let mut errors = FieldErrors::default();
            for name in fields.keys() {
                errors.add(super::object_reader::pointer("", name), "there is no such field");
            }
            errors.check().map(|()| read)
        }
        Ok(_) => Err(Problem::fault("", "must be an object, or nothing")),
        Err(error) => Err(Problem::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {error}"))),
    }
}

fn is_json(headers: &HeaderMap) -> Result<(), Problem> {
    let unsupported = |detail| Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = content_type.split(';').next().unwrap_or("").trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return unsupported("the body must be `content-type: application/json`");
    }
    match headers.get(header::CONTENT_ENCODING).map(axum::http::HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(()),
        Some(_) => unsupported("the body must not be compressed"),
    }
}

/// The trace of which the request is a part.
pub fn traceparent(parts: &Parts) -> Option<&str> {
    parts.headers.get("traceparent").and_then(|value| value.to_str().ok())
}

/// A part of a query as it was meant; `None` where that is not UTF-8.
fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(std::borrow::Cow::into_owned)
}

/// The parameters of a query. What is left at the end is unknown.
#[derive(Debug)]
pub struct Query {
    given: Vec<(String, String)>,
    /// What is wrong so far.
    pub errors: FieldErrors,
}

impl Query {
    /// Reads a query.
    pub fn new(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or("");
        let mut errors = FieldErrors::default();
        let mut given: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(name) = decoded(name) else {
                errors.add("?", "the name of a parameter is not UTF-8");
                continue;
            };
            match decoded(value) {
                None => errors.add(format!("?{name}"), "is not UTF-8"),
                Some(_) if given.iter().any(|(known, _)| *known == name) => {
                    errors.add(format!("?{name}"), "is given twice");
                }
                Some(value) => given.push((name, value)),
            }
        }
        Self { given, errors }
    }

    /// A parameter's text.
    pub fn text(&mut self, name: &str) -> Option<String> {
        let index = self.given.iter().position(|(known, _)| known == name)?;
        let (_, text) = self.given.swap_remove(index);
        if text.contains('\0') {
            // Not every database takes it, and nothing that could be found holds one.
            self.errors.add(format!("?{name}"), "must not hold a NUL");
            return None;
        }
        Some(text)
    }

    /// A parameter, read by `parse`; what is wrong with it is `wrong`.
    pub fn read<T>(&mut self, name: &str, wrong: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let read = parse(&text);
        if read.is_none() {
            self.errors.add(format!("?{name}"), wrong);
        }
        read
    }

    /// How much a page is to hold.
    pub fn limit(&mut self) -> u32 {
        let limit = self.read("limit", "must be a whole number from 1 to 200", |text| {
            text.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit))
        });
        limit.unwrap_or(LIMIT)
    }

    /// A time.
    pub fn time(&mut self, name: &str) -> Option<Timestamp> {
        self.read(name, "must be an RFC 3339 time, as 2026-02-18T15:00:00Z", Timestamp::parse)
    }

    /// `Ok` where everything was understood.
    pub fn done(mut self) -> Result<(), Problem> {
        for (name, _) in std::mem::take(&mut self.given) {
            self.errors.add(format!("?{name}"), "there is no such parameter");
        }
        self.errors.check()
    }
}

/// The keys of writes that are under way.
#[derive(Debug, Default)]
pub struct UnderWay(Mutex<HashSet<(AppNo, String, String)>>);

/// A write that is under way under its key.
#[derive(Debug)]
pub struct Claim {
    api: Arc<Api>,
    name: (AppNo, String, String),
    request: [u8; 32],
    seal: Option<AnswerKey>,
}

impl Claim {
    /// Reads the `Idempotency-Key`, if there is one, and claims it until dropped.
    pub fn new(api: &Arc<Api>, app: AppNo, parts: &Parts, body: &[u8]) -> Result<Option<Self>, Problem> {
        let mut keys = parts.headers.get_all("idempotency-key").iter();
        let Some(key) = keys.next() else { return Ok(None) };
        let printable =
            |key: &&str| (1..=255).contains(&key.len()) && key.bytes().all(|b| (b' '..=b'~').contains(&b));
        let key = key.to_str().ok().filter(printable).filter(|_| keys.next().is_none());
        let Some(key) = key else {
            return Err(Problem::fault(
                "Idempotency-Key",
                "must be one key of 1 to 255 printable characters",
            ));
        };
        let name = (app, parts.uri.path().to_owned(), key.to_owned());
        let mut under_way = api.under_way.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !under_way.insert(name.clone()) {
            let detail = "a request with this Idempotency-Key is still under way";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        drop(under_way);
        Ok(Some(Self { api: Arc::clone(api), name, request: Sha256::digest(body).into(), seal: None }))
    }

    /// The same for a write whose answer holds a secret: it is kept for whoever sends the same token.
    pub fn sealed(api: &Arc<Api>, app: AppNo, parts: &Parts, body: &[u8]) -> Result<Option<Self>, Problem> {
        let mut claim = Self::new(api, app, parts, body)?;
        if let Some(claim) = &mut claim {
            claim.seal = bearer(&parts.headers).map(AnswerKey::of_token);
        }
        Ok(claim)
    }

    /// The first answer, if this was asked before.
    pub async fn first_answer(claim: Option<&Self>) -> Result<Option<Replay>, Problem> {
        let Some(claim) = claim else { return Ok(None) };
        Ok(claim.api.store.recall(claim.remember(), claim.api.clock.now()).await?)
    }

    /// What the store is asked to remember.
    pub fn remember(&self) -> Remember {
        let (app, path, key) = self.name.clone();
        Remember { app, path, key, request: self.request, seal: self.seal.clone() }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.api.under_way.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}
