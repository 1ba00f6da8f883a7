//! Apps: tenants that are isolated from each other. Admins of the first app create apps and see all of
//! them; admins of any other app see their own.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::http::{
    Answer, Api, BODY_MAX, Call, Content, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Page,
    PageParams, Problem, ProblemCode, cursor, json, page,
};
use super::signing_secret::public_key;
use crate::channels::webhook::Secret;
use crate::channels::webhook::ed25519::PublicKey;
use crate::domain::{App, AppId, AppNo, Masked};
use crate::store::{RenameApp, RenameAppRefusal};
use crate::tenants::{self, AppView, check_name};

/// Finds an app that the caller manages. `only` is the caller's own app, or `None` for all apps.
pub fn managed_app(api: &Api, only: Option<AppNo>, id: &str) -> Option<Arc<App>> {
    let app = AppId::parse(id).and_then(|id| api.store.app_by_id(id));
    app.filter(|app| only.is_none_or(|own| app.no == own))
}

/// List apps
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/apps", operation_id = "listApps", tag = "Tenants", security(("key" = ["admin"])),
    params(PageParams),
    responses((status = 200, description = "A page of apps.", body = Page<AppView>))
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let before = query.cursor(cursor::List::Apps).map(AppId);
    query.done()?;
    let found = match call.caller.managed_app() {
        None => call.api.store.apps(before, limit + 1),
        Some(own) => {
            let own = call.api.store.app(own).filter(|app| before.is_none_or(|before| app.id < before));
            own.into_iter().collect()
        }
    };
    Ok(page(&found, limit, |app| cursor::encode(cursor::List::Apps, &app.id.0), |app| AppView::of(app)))
}

/// Show an app
#[utoipa::path(
    get, path = "/v1/apps/{id}", operation_id = "showApp", tag = "Tenants", security(("key" = ["admin"])),
    params(("id" = AppId, Path)),
    responses((status = 200, description = "The app.", body = AppView))
)]
pub async fn show(call: Call) -> Answer {
    let app = call.only_id(|id| managed_app(&call.api, call.caller.managed_app(), id))?;
    Ok(json(StatusCode::OK, &AppView::of(&app)))
}

/// `cache-control` of public keys. A receiver that meets an unknown `kid` or a signature that does not fit reads them
/// again; the previous key signs on during the grace of a rotation.
const PUBLIC: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// The public keys of an app, as a JSON Web Key Set (RFC 7517, RFC 8037).
#[derive(Serialize, ToSchema)]
struct JsonWebKeySet {
    /// The current key, then the previous one while it signs, too.
    keys: Vec<JsonWebKey>,
}

/// A public key of ed25519.
#[derive(Serialize, ToSchema)]
struct JsonWebKey {
    /// `OKP`.
    kty: &'static str,
    /// `Ed25519`.
    crv: &'static str,
    /// `EdDSA`.
    alg: &'static str,
    /// `sig`.
    r#use: &'static str,
    /// Thumbprint of the key (RFC 7638).
    kid: String,
    /// The key, in base64url.
    x: String,
}

impl JsonWebKey {
    fn of(key: &PublicKey) -> Self {
        let (kid, x) = (key.thumbprint(), key.coordinate());
        Self { kty: "OKP", crv: "Ed25519", alg: "EdDSA", r#use: "sig", kid, x }
    }
}

/// Show the public keys of an app
///
/// The keys that verify the signatures of destinations with the key `ed25519`. The operation needs no API key, and
/// shows nothing else of the app.
#[utoipa::path(
    get, path = "/v1/apps/{id}/jwks.json", operation_id = "showPublicKeys", tag = "Secrets",
    params(("id" = AppId, Path)),
    responses(
        (status = 200, description = "The keys.", body = JsonWebKeySet),
        (status = 404, description = "There is no such app."),
    )
)]
pub async fn jwks(State(api): State<Arc<Api>>, id: Result<Path<String>, PathRejection>) -> Answer {
    let app = id.ok().and_then(|Path(id)| managed_app(&api, None, &id)).ok_or_else(Problem::not_found)?;
    let mut keys = Vec::with_capacity(2);
    for key in app.private_keys(api.clock.now()) {
        keys.push(JsonWebKey::of(&public_key(key)?));
    }
    let mut response = json(StatusCode::OK, &JsonWebKeySet { keys });
    response.headers_mut().insert(header::CACHE_CONTROL, PUBLIC);
    Ok(response)
}

/// An app to create.
#[derive(ToSchema)]
struct NewApp {
    /// Printable, and different from the name of every other app.
    #[schema(min_length = 1, max_length = 64, example = "customer-7")]
    name: String,
}

/// Create an app
///
/// Only for admins of the first app. The answer shows the app's signing secret. The app then needs a key
/// of its own.
#[utoipa::path(
    post, path = "/v1/apps", operation_id = "createApp", tag = "Tenants", security(("key" = ["admin"])),
    request_body(content = NewApp, example = json!({"name": "customer-7"})),
    responses(
        (status = 201, description = "The app, committed.", body = AppView,
            headers(("Location" = String, description = "Path of the app."))),
        (status = 409, description = "Another app has this name, or there are too many; or a request with this \
            Idempotency-Key is in progress, or the key was used with another API key."),
    )
)]
pub async fn create(call: Call) -> Answer {
    if call.caller.managed_app().is_some() {
        let detail = "only an admin key of the first app can create apps";
        return Err(Problem::new(ProblemCode::OperatorOnly, detail).into());
    }
    let write = call.write_secret(Content::OBJECT).await?;
    let NewApp { name } = write.object(read)?;
    let secret = Masked::new(Secret::generate().expose());
    let api = &write.api;
    let created = tenants::create_app(&api.store, name, secret, api.clock.now(), write.key());
    Ok(created.await?.into_response())
}

/// Rename an app
///
/// Only for admins of the first app. Destinations of the configuration file name their app: change the name there as
/// well, before the next start.
#[utoipa::path(
    patch, path = "/v1/apps/{id}", operation_id = "renameApp", tag = "Tenants", security(("key" = ["admin"])),
    params(("id" = AppId, Path)),
    request_body(content = NewApp, example = json!({"name": "customer-8"})),
    responses(
        (status = 200, description = "The app after the change.", body = AppView),
        (status = 409, description = "Another app has this name, or the app is the first one."),
    )
)]
pub async fn rename(call: Call) -> Answer {
    let app = call.only_id(|id| managed_app(&call.api, call.caller.managed_app(), id))?.no;
    if call.caller.managed_app().is_some() {
        let detail = "only an admin key of the first app can rename apps";
        return Err(Problem::new(ProblemCode::OperatorOnly, detail).into());
    }
    let text = call.json(BODY_MAX).await?;
    let mut errors = FieldErrors::default();
    let raw: &RawValue = serde_json::from_str(&text).unwrap_or(RawValue::NULL);
    let new = ObjectReader::read(raw, "", &mut errors).and_then(|mut fields| {
        let new = read(&mut fields);
        fields.done();
        new
    });
    errors.check()?;
    let Some(NewApp { name }) = new else { return Err(Problem::not_found().into()) };
    if app == call.api.operator {
        let detail = "the first app cannot be renamed: the configuration names it";
        return Err(Problem::new(ProblemCode::FirstApp, detail).into());
    }
    match call.api.store.rename_app(RenameApp { app, name }).await? {
        Ok(app) => Ok(json(StatusCode::OK, &AppView::of(&app))),
        Err(RenameAppRefusal::NotFound) => Err(Problem::not_found().into()),
        Err(RenameAppRefusal::NameTaken) => {
            let detail = "another app has this name; choose another one";
            Err(Problem::new(ProblemCode::NameTaken, detail).into())
        }
    }
}

fn read(fields: &mut ObjectReader<'_, '_>) -> Option<NewApp> {
    let name = fields.required_text("name")?;
    fields.keep("name", valid_name(&name)).map(|name| NewApp { name })
}

/// Checks the name of an app or of a key.
pub fn valid_name(name: &str) -> Result<String, Invalid> {
    check_name(name).map_err(|detail| (FieldErrorCode::InvalidFormat, detail))
}
