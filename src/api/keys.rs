//! Keys: make, list, revoke. A key is shown in the answer that makes it; what is kept is its SHA-256.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::value::{RawValue, to_raw_value};

use super::apps::valid_name;
use super::http::{
    BODY_MAX, Caller, FieldErrorCode, FieldErrors, IdempotencyClaim, Invalid, ObjectReader, PathId, Problem,
    ProblemCode, Query, RequestBody, cursor,
};
use super::{Answer, Api, answered, first_answer, page, replayed, reply};
use crate::domain::{App, AppId, AppNo, KeyId, Scope, Timestamp};
use crate::store::{CreateKey, CreatedKey, KeyRow, RevokeKey};
use crate::tenants::{EXPIRES_IN, check_expiry, hash_key, key_view, make_key};

/// `GET /v1/keys`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let only = caller.managed_app()?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let before = query.read("cursor", cursor::WRONG, |text| cursor::decode(text).map(KeyId));
    let asked = query.parsed("appId", |id| known_app(&api, only, id));
    query.done()?;
    let app = asked.map(|app| app.no).or(only);
    let found = api.store.keys(app, before, limit + 1).await?;
    let shown = |key: &KeyRow| to_raw_value(&key_view(key, None)).ok();
    Ok(page(found.iter(), limit, |key| cursor::encode(key.id.0), shown))
}

/// `GET /v1/keys/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let only = caller.managed_app()?;
    Query::new(&parts).done()?;
    let id = KeyId::parse(&id).ok_or_else(Problem::not_found)?;
    let key = api.store.key_by_id(only, id).await?.ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, serde_json::to_vec(&key_view(&key, None)).unwrap_or_default()))
}

/// `DELETE /v1/keys/{id}`: the caller's own, too.
pub async fn revoke(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let app = caller.managed_app()?;
    Query::new(&parts).done()?;
    let key = KeyId::parse(&id).ok_or_else(Problem::not_found)?;
    if !api.store.revoke_key(RevokeKey { app, key }).await? {
        return Err(Problem::not_found());
    }
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(response)
}

/// `POST /v1/keys`
pub async fn create(State(api): State<Arc<Api>>, caller: Caller, body: RequestBody, parts: Parts) -> Answer {
    let own = caller.require(Scope::Admin)?;
    let only = caller.managed_app()?;
    Query::new(&parts).done()?;
    let text = body.json(BODY_MAX).await?;
    let claim = IdempotencyClaim::sealed(&api, own, &parts, text.as_bytes())?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let now = api.clock.now();
    let wanted = read(&text, now, |id| known_app(&api, only, id))?;
    let app = wanted.app.or_else(|| api.store.app(own)).ok_or_else(Problem::not_found)?;
    let key = make_key();
    let row = KeyRow {
        id: KeyId(api.store.ids().draw(now)),
        app_id: app.id,
        name: wanted.name,
        scope: wanted.scope,
        created_at: now,
        expires_at: wanted.expires_at,
        last_used_at: None,
    };
    let body = serde_json::to_vec(&key_view(&row, Some(&key))).unwrap_or_default();
    let answer = first_answer(StatusCode::CREATED, Some(format!("/v1/keys/{}", row.id)), body);
    let remember = claim.as_ref().map(|claim| (claim.remember(), answer.clone()));
    let create = CreateKey { row, app: app.no, hash: hash_key(key.reveal()), remember };
    match api.store.create_key(create).await? {
        CreatedKey::New => Ok(answered(answer)),
        CreatedKey::TooMany(most) => {
            let detail = format!("the app has {most} keys, which is the maximum; revoke some");
            Err(Problem::new(ProblemCode::LimitReached, detail))
        }
        CreatedKey::Replayed(replay) => replayed(replay),
    }
}

/// Returns the app of this id if the caller manages it.
fn known_app(api: &Api, only: Option<AppNo>, id: &str) -> Result<Arc<App>, Invalid> {
    let app = AppId::parse(id).and_then(|id| api.store.app_by_id(id));
    app.filter(|app| only.is_none_or(|own| app.no == own)).ok_or_else(|| {
        (FieldErrorCode::UnknownApp, "there is no such app, or this API key does not manage it".to_owned())
    })
}

/// The detail for a missing scope.
const SCOPE_REQUIRED: &str = "is required; use one of: read, write, admin";

/// A key as a client requests it.
struct Wanted {
    name: Option<String>,
    scope: Scope,
    expires_at: Option<Timestamp>,
    app: Option<Arc<App>>,
}

fn read(
    text: &str,
    now: Timestamp,
    app: impl FnOnce(&str) -> Result<Arc<App>, Invalid>,
) -> Result<Wanted, Problem> {
    let mut errors = FieldErrors::default();
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let Some(mut fields) = ObjectReader::read(raw, "", &mut errors) else {
        return Err(Problem::invalid(errors));
    };
    let name = fields.parsed("name", &mut errors, valid_name);
    if !fields.has("scope") {
        errors.add("/scope", FieldErrorCode::Required, SCOPE_REQUIRED);
    }
    let scope = fields.word("scope", Scope::WORDS, &mut errors, Scope::parse);
    if fields.has("expiresIn") && fields.has("expiresAt") {
        errors.add("/expiresAt", FieldErrorCode::Conflict, "cannot be used with expiresIn; give one of both");
    }
    let expires_in = fields.duration("expiresIn", EXPIRES_IN, &mut errors);
    let expires_at = fields.time("expiresAt", &mut errors);
    if let Some(Err(detail)) = expires_at.map(|at| check_expiry(at, now)) {
        errors.add("/expiresAt", FieldErrorCode::OutOfRange, detail);
    }
    let app = fields.parsed("appId", &mut errors, app);
    fields.done(&mut errors);
    errors.check()?;
    let scope = scope.ok_or_else(|| Problem::field("/scope", FieldErrorCode::Required, SCOPE_REQUIRED))?;
    Ok(Wanted { name, scope, expires_at: expires_in.map(|span| now.plus(span)).or(expires_at), app })
}
