//! API keys: create, list, show, revoke. The answer that creates a key shows it; the store keeps its
//! SHA-256 only.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use utoipa::ToSchema;

use super::apps::{managed_app, valid_name};
use super::http::{
    Answer, Api, Call, Content, FieldErrorCode, Invalid, ObjectReader, Page, PageParams, Problem,
    ProblemCode, cursor, json, page,
};
use crate::domain::{App, AppId, AppNo, KeyId, Scope, Timestamp};
use crate::store::{RevokeKey, StoreError};
use crate::tenants::{self, CreateError, EXPIRES_IN, KeyView, check_expiry};

/// Finds an app that the caller manages.
fn find_app(api: &Api, only: Option<AppNo>, id: &str) -> Result<Arc<App>, Invalid> {
    managed_app(api, only, id).ok_or_else(|| (FieldErrorCode::UnknownApp, NO_APP.to_owned()))
}

/// The detail for an app that does not exist, or of another tenant.
const NO_APP: &str = "there is no such app, or this API key does not manage it";

/// List keys
///
/// Newest first, expired keys included. The `api_key` of the server's configuration is not listed.
#[utoipa::path(
    get, path = "/v1/keys", operation_id = "listKeys", tag = "Tenants", security(("key" = ["admin"])),
    params(PageParams, ("appId" = Option<AppId>, Query, description = "Only keys of this app.")),
    responses((status = 200, description = "A page of keys.", body = Page<KeyView>))
)]
pub async fn list(call: Call) -> Answer {
    let only = call.caller.managed_app();
    let mut query = call.query();
    let limit = query.limit();
    let before = query.cursor(cursor::List::Keys).map(KeyId);
    let app = query.parsed("appId", |id| find_app(&call.api, only, id));
    query.done()?;
    let app = app.map(|app| app.no).or(only);
    let found = call.api.store.keys(app, before, limit + 1).await?;
    Ok(page(&found, limit, |key| cursor::encode(cursor::List::Keys, &key.id.0), |key| KeyView::of(key, None)))
}

/// Show a key
#[utoipa::path(
    get, path = "/v1/keys/{id}", operation_id = "showKey", tag = "Tenants", security(("key" = ["admin"])),
    params(("id" = KeyId, Path)),
    responses((status = 200, description = "The key.", body = KeyView))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(KeyId::parse)?;
    let key =
        call.api.store.key_by_id(call.caller.managed_app(), id).await?.ok_or_else(Problem::not_found)?;
    Ok(json(StatusCode::OK, &KeyView::of(&key, None)))
}

/// Revoke a key
///
/// New requests with the key are refused; requests in flight are finished. Every key may revoke itself. To revoke
/// another key needs the scope `admin`; for other callers it does not exist.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", operation_id = "revokeKey", tag = "Tenants", security(("key" = ["read"])),
    params(("id" = KeyId, Path)),
    responses((status = 204, description = "The key is revoked."))
)]
pub async fn revoke(call: Call) -> Answer {
    let key = call.only_id(KeyId::parse)?;
    if !call.caller.may_revoke(key) {
        let detail =
            "no such key that this key can revoke; without the scope `admin`, it can revoke only itself";
        return Err(Problem::new(ProblemCode::NotFound, detail).into());
    }
    if !call.api.store.revoke_key(RevokeKey { app: call.caller.managed_app(), key }).await? {
        return Err(Problem::not_found().into());
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A key to create.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct NewKey {
    /// A name for people.
    #[schema(min_length = 1, max_length = 64)]
    name: Option<String>,
    /// What the key permits.
    scope: Scope,
    /// How long the key is valid, `1s` to `3650d`. Default: until it is revoked.
    #[schema(example = "90d", value_type = Option<String>)]
    expires_in: Option<Duration>,
    /// End of the key's validity; not together with `expiresIn`.
    expires_at: Option<Timestamp>,
    /// The app that the key belongs to. Default: the caller's. Admins of the first app may name any app.
    #[schema(value_type = Option<AppId>)]
    app_id: Option<Arc<App>>,
}

/// Create a key
///
/// The answer shows the key, once.
#[utoipa::path(
    post, path = "/v1/keys", operation_id = "createKey", tag = "Tenants", security(("key" = ["admin"])),
    request_body(content = NewKey, example = json!({"name": "billing", "scope": "write", "expiresIn": "90d"})),
    responses(
        (status = 201, description = "The key, committed and valid.", body = KeyView,
            headers(("Location" = String, description = "Path of the key."))),
        (status = 409, description = "The app has too many keys; or a request with this Idempotency-Key is in \
            progress, or the Idempotency-Key was used with another API key."),
    )
)]
pub async fn create(call: Call) -> Answer {
    let write = call.write_secret(Content::OBJECT).await?;
    let (api, now, only) = (&write.api, write.api.clock.now(), write.caller.managed_app());
    let request = write.object(|fields| read(api, only, now, fields))?;
    let NewKey { name, scope, expires_in, expires_at, app_id } = request;
    let expires_at = expires_in.map(|span| now.plus(span)).or(expires_at);
    let app = app_id.or_else(|| api.store.app(write.app())).ok_or_else(Problem::not_found)?;
    let is_other_app = app.no != write.app();
    let created = tenants::create_key(&api.store, name, scope, expires_at, app, now, write.key());
    match created.await {
        // Deleted after the body was read.
        Err(CreateError::Store(StoreError::AppDeleted)) if is_other_app => {
            Err(Problem::field("/appId", FieldErrorCode::UnknownApp, NO_APP).into())
        }
        created => Ok(created?.into_response()),
    }
}

fn read(api: &Api, only: Option<AppNo>, now: Timestamp, fields: &mut ObjectReader<'_, '_>) -> Option<NewKey> {
    let name = fields.parsed("name", valid_name);
    if !fields.has("scope") {
        fields.error("scope", FieldErrorCode::Required, "is required; use one of: read, write, admin");
    }
    let scope = fields.word("scope", Scope::WORDS, Scope::parse);
    if fields.has("expiresIn") && fields.has("expiresAt") {
        let detail = "cannot be used with expiresIn; give one of both";
        fields.error("expiresAt", FieldErrorCode::Conflict, detail);
    }
    let expires_in = fields.duration("expiresIn", EXPIRES_IN);
    let expires_at = fields.time("expiresAt");
    if let Some(Err(wrong)) = expires_at.map(|at| check_expiry(at, now)) {
        fields.error("expiresAt", FieldErrorCode::OutOfRange, wrong);
    }
    let app_id = fields.parsed("appId", |id| find_app(api, only, id));
    Some(NewKey { name, scope: scope?, expires_in, expires_at, app_id })
}
