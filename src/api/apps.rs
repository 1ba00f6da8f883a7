//! Apps: tenants that see nothing of each other. The admins of the first app make them and see them
//! all; the admins of any other see their own.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::value::{RawValue, to_raw_value};

use super::http::{
    BODY_MAX, Caller, FieldErrorCode, FieldErrors, IdempotencyClaim, Invalid, ObjectReader, PathId, Problem,
    ProblemCode, Query, RequestBody, cursor,
};
use super::{Answer, Api, answered, first_answer, page, replayed, reply};
use crate::channels::webhook::Secret;
use crate::domain::{App, AppId, Masked};
use crate::store::{CreateApp, CreatedApp, Scope};
use crate::tenants::{app_view, check_name};

/// `GET /v1/apps`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let only = caller.managed_app()?;
    let mut query = Query::new(&parts);
    let limit = query.limit();
    let before = query.read("cursor", cursor::WRONG, |text| cursor::decode(text).map(AppId));
    query.done()?;
    let found = match only {
        None => api.store.apps(before, limit + 1),
        Some(own) => {
            let own = api.store.app(own).filter(|app| before.is_none_or(|before| app.id < before));
            own.into_iter().collect()
        }
    };
    let shown = |app: &Arc<App>| to_raw_value(&app_view(app, false)).ok();
    Ok(page(found.iter(), limit, |app| cursor::encode(app.id.0), shown))
}

/// `GET /v1/apps/{id}`
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, PathId(id): PathId, parts: Parts) -> Answer {
    let only = caller.managed_app()?;
    Query::new(&parts).done()?;
    let app = AppId::parse(&id).and_then(|id| api.store.app_by_id(id));
    let app = app.filter(|app| only.is_none_or(|own| app.no == own)).ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, serde_json::to_vec(&app_view(&app, false)).unwrap_or_default()))
}

/// `POST /v1/apps`
pub async fn create(State(api): State<Arc<Api>>, caller: Caller, body: RequestBody, parts: Parts) -> Answer {
    let app = caller.require(Scope::Admin)?;
    if caller.managed_app()?.is_some() {
        let detail = "only an admin key of the first app can create apps";
        return Err(Problem::new(ProblemCode::OperatorOnly, detail));
    }
    Query::new(&parts).done()?;
    let text = body.json(BODY_MAX).await?;
    let claim = IdempotencyClaim::sealed(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = IdempotencyClaim::first_answer(claim.as_ref()).await? {
        return replayed(replay);
    }
    let name = read_name(&text)?;
    let now = api.clock.now();
    let made = App {
        // The row is given its number when it is written; nothing of it is shown.
        no: app,
        id: AppId(api.store.ids().draw(now)),
        name: name.clone(),
        created_at: now,
        signing_secret: Masked::new(Secret::generate().expose()),
        old_secret: None,
    };
    let body = serde_json::to_vec(&app_view(&made, true)).unwrap_or_default();
    let answer = first_answer(StatusCode::CREATED, Some(format!("/v1/apps/{}", made.id)), body);
    let remember = claim.as_ref().map(|claim| (claim.remember(), answer.clone()));
    let create = CreateApp { id: made.id, name, signing_secret: made.signing_secret, remember, now };
    match api.store.create_app(create).await? {
        CreatedApp::New(_) => Ok(answered(answer)),
        CreatedApp::Taken => {
            Err(Problem::new(ProblemCode::NameTaken, "another app has this name; choose another one"))
        }
        CreatedApp::TooMany(most) => Err(Problem::new(
            ProblemCode::LimitReached,
            format!("there are {most} apps, which is the maximum"),
        )),
        CreatedApp::Replayed(replay) => replayed(replay),
    }
}

fn read_name(text: &str) -> Result<String, Problem> {
    let mut errors = FieldErrors::default();
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let mut name = None;
    if let Some(mut fields) = ObjectReader::read(raw, "", &mut errors) {
        let text = fields.required_text("name", &mut errors);
        name = text.and_then(|text| errors.keep("/name", valid_name(&text)));
        fields.done(&mut errors);
    }
    errors.check()?;
    name.ok_or_else(|| Problem::field("/name", FieldErrorCode::Required, "is required"))
}

/// Checks the name of an app or of a key.
pub(super) fn valid_name(name: &str) -> Result<String, Invalid> {
    check_name(name).map_err(|detail| (FieldErrorCode::InvalidFormat, detail))
}
