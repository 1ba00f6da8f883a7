//! Keys: make, list, revoke. A key is shown in the answer that makes it; what is kept is its SHA-256.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;
use serde_json::value::{RawValue, to_raw_value};

use super::object_reader::ObjectReader;
use super::problem::{FieldErrors, Problem};
use super::request::{BODY_MAX, Caller, Claim, Held, Name, Query, json};
use super::{Answer, Api, answered, cursor, first_answer, page, replayed, reply};
use crate::domain::{App, AppId, AppNo, KeyId, Scope, Timestamp};
use crate::store::{CreateKey, CreatedKey, KeyRow, RevokeKey};
use crate::tenants::{EXPIRES_IN, check_expiry, check_name, hash_key, key_view, make_key};

/// What is said of an app that is not there, or none of the caller's business.
const NO_APP: &str = "there is no such app";

/// `GET /v1/keys`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let only = caller.manages()?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let before = query.read("cursor", cursor::WRONG, |text| cursor::decode(text).map(KeyId));
    let asked = query.read("appId", NO_APP, |id| known_app(&api, only, id));
    query.done()?;
    let app = asked.map(|app| app.no).or(only);
    let found = api.store.keys(app, before, limit + 1).await?;
    let shown = |key: &KeyRow| to_raw_value(&key_view(key, None)).ok();
    Ok(page(found.iter(), limit, |key| cursor::encode(key.id.0), shown))
}

/// `GET /v1/keys/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, Name(id): Name, parts: Parts) -> Answer {
    let only = caller.manages()?;
    Query::new(&parts).done()?;
    let id = KeyId::parse(&id).ok_or_else(Problem::not_found)?;
    let key = api.store.key_by_id(only, id).await?.ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, serde_json::to_vec(&key_view(&key, None)).unwrap_or_default()))
}

/// `DELETE /v1/keys/{id}`: the caller's own, too.
pub async fn revoke(State(api): State<Arc<Api>>, caller: Caller, Name(id): Name, parts: Parts) -> Answer {
    let app = caller.manages()?;
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
pub async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(held): Extension<Held>,
    parts: Parts,
) -> Answer {
    let own = caller.may(Scope::Admin)?;
    let only = caller.manages()?;
    Query::new(&parts).done()?;
    let text = json(&held, &parts.headers, &api.clock, BODY_MAX).await?;
    let claim = Claim::sealed(&api, own, &parts, text.as_bytes())?;
    if let Some(replay) = Claim::first_answer(claim.as_ref()).await? {
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
            let detail = format!("the app has {most} keys, and no more can be made: revoke some");
            Err(Problem::new(StatusCode::CONFLICT, detail))
        }
        CreatedKey::Replayed(replay) => replayed(replay),
    }
}

/// The app of this id, where the caller manages it. Another's is as if there were none.
fn known_app(api: &Api, only: Option<AppNo>, id: &str) -> Option<Arc<App>> {
    let app = AppId::parse(id).and_then(|id| api.store.app_by_id(id))?;
    Some(app).filter(|app| only.is_none_or(|own| app.no == own))
}

/// A key as somebody wants it.
struct Wanted {
    name: Option<String>,
    scope: Scope,
    expires_at: Option<Timestamp>,
    app: Option<Arc<App>>,
}

fn read(text: &str, now: Timestamp, app: impl FnOnce(&str) -> Option<Arc<App>>) -> Result<Wanted, Problem> {
    let mut errors = FieldErrors::default();
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let Some(mut fields) = ObjectReader::read(raw, "", &mut errors) else {
        return Err(Problem::invalid(errors));
    };
    let name = fields.parsed("name", &mut errors, check_name);
    let given = fields.has("scope");
    let scope = fields.parsed("scope", &mut errors, |word| {
        Scope::parse(word).ok_or_else(|| "must be read, write or admin".to_owned())
    });
    if !given {
        errors.add("/scope", "is needed: read, write or admin");
    }
    if fields.has("expiresIn") && fields.has("expiresAt") {
        errors.add("/expiresAt", "cannot be used with expiresIn");
    }
    let expires_in = fields.duration("expiresIn", EXPIRES_IN, &mut errors);
    let expires_at = fields.time("expiresAt", &mut errors);
    if let Some(Err(wrong)) = expires_at.map(|at| check_expiry(at, now)) {
        errors.add("/expiresAt", wrong);
    }
    let app = fields.parsed("appId", &mut errors, |id| app(id).ok_or_else(|| NO_APP.to_owned()));
    fields.done(&mut errors);
    errors.check()?;
    let scope = scope.ok_or_else(|| Problem::fault("/scope", "is needed: read, write or admin"))?;
    Ok(Wanted { name, scope, expires_at: expires_in.map(|span| now.plus(span)).or(expires_at), app })
}
