//! Apps: tenants that see nothing of each other. The admins of the first app make them and see them
//! all; the admins of any other see their own.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::value::{RawValue, to_raw_value};

use super::object_reader::ObjectReader;
use super::problem::{FieldErrors, Problem};
use super::request::{BODY_MAX, Caller, Claim, Held, Name, Query, json};
use super::{Answer, Api, answered, cursor, first_answer, page, replayed, reply};
use crate::channels::webhook::Secret;
use crate::domain::{App, AppId, Masked};
use crate::store::{CreateApp, CreatedApp, Scope};
use crate::tenants::{app_view, check_name};

/// `GET /v1/apps`
pub async fn list(State(api): State<Arc<Api>>, caller: Caller, parts: Parts) -> Answer {
    let only = caller.manages()?;
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
pub async fn show(State(api): State<Arc<Api>>, caller: Caller, Name(id): Name, parts: Parts) -> Answer {
    let only = caller.manages()?;
    Query::new(&parts).done()?;
    let app = AppId::parse(&id).and_then(|id| api.store.app_by_id(id));
    let app = app.filter(|app| only.is_none_or(|own| app.no == own)).ok_or_else(Problem::not_found)?;
    Ok(reply(StatusCode::OK, serde_json::to_vec(&app_view(&app, false)).unwrap_or_default()))
}

/// `POST /v1/apps`
pub async fn create(
    State(api): State<Arc<Api>>,
    caller: Caller,
    Extension(held): Extension<Held>,
    parts: Parts,
) -> Answer {
    let app = caller.may(Scope::Admin)?;
    if caller.manages()?.is_some() {
        let detail = "only an admin key of the first app makes apps";
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    Query::new(&parts).done()?;
    let text = json(&held, &parts.headers, &api.clock, BODY_MAX).await?;
    let claim = Claim::sealed(&api, app, &parts, text.as_bytes())?;
    if let Some(replay) = Claim::first_answer(claim.as_ref()).await? {
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
        CreatedApp::Taken => Err(Problem::new(StatusCode::CONFLICT, "another app has this name")),
        CreatedApp::TooMany(most) => {
            Err(Problem::new(StatusCode::CONFLICT, format!("there are {most} apps, and no more can be made")))
        }
        CreatedApp::Replayed(replay) => replayed(replay),
    }
}

fn read_name(text: &str) -> Result<String, Problem> {
    let mut errors = FieldErrors::default();
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let mut name = None;
    if let Some(mut fields) = ObjectReader::read(raw, "", &mut errors) {
        let raw = fields.take("name");
        name = raw.and_then(super::object_reader::text);
        match (raw, &name) {
            (None, _) => errors.add("/name", "is needed"),
            (Some(_), None) => errors.add("/name", "must be a string"),
            (Some(_), Some(given)) => {
                if let Err(wrong) = check_name(given) {
                    errors.add("/name", wrong);
                }
            }
        }
        fields.done(&mut errors);
    }
    errors.check()?;
    name.ok_or_else(|| Problem::fault("/name", "is needed"))
}
