//! Changing a watch that still waits.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::value::RawValue;

use super::destination_request::{self, DESTINATIONS_MAX, DestinationRequest};
use super::http::{
    BODY_MAX, Caller, FieldErrorCode, FieldErrors, ObjectReader, PathId, Problem, ProblemCode, Query,
    RequestBody, object_reader,
};
use super::register;
use super::watches::shown;
use super::{Answer, Api};
use crate::domain::{Timestamp, WatchId};
use crate::store::{Amend, Amended, Scope};

/// What is to be changed, before any name is looked up.
struct Form {
    expires_in: Option<Duration>,
    metadata: Option<String>,
    wanted: Vec<DestinationRequest>,
}

/// `PATCH /v1/watches/{id}`
pub async fn amend(
    State(api): State<Arc<Api>>,
    caller: Caller,
    PathId(id): PathId,
    body: RequestBody,
    parts: Parts,
) -> Answer {
    let app = caller.require(Scope::Write)?;
    Query::new(&parts).done()?;
    let id = WatchId::parse(&id).ok_or_else(Problem::not_found)?;
    let text = body.json(BODY_MAX).await?;
    let now = api.clock.now();
    let mut errors = FieldErrors::default();
    let form = form(&api, &text, &mut errors);
    let wanted = form.as_ref().map_or(&[][..], |form| &form.wanted);
    let destinations =
        destination_request::destinations(&api, app, wanted, (now, Timestamp::MAX), &mut errors).await;
    errors.check()?;
    let Some(Form { expires_in, metadata, .. }) = form else {
        return Err(Problem::field("", FieldErrorCode::InvalidType, "must be an object"));
    };
    let amend = Amend {
        app,
        watch: id,
        expires_at: expires_in.map(|span| now.plus(span)),
        metadata,
        destinations,
        destinations_max: DESTINATIONS_MAX,
    };
    match api.store.amend(amend).await? {
        Amended::Unknown => Err(Problem::not_found()),
        Amended::Ended => {
            Err(Problem::new(ProblemCode::WatchEnded, "the watch has ended and cannot be changed"))
        }
        Amended::TooMany => {
            let detail =
                format!("a watch has at most {DESTINATIONS_MAX} destinations, those that it has included");
            Err(Problem::field("/notify", FieldErrorCode::TooMany, detail))
        }
        Amended::Differs(address) => {
            let detail = format!("{address} is a destination already, with other headers or another secret");
            Err(Problem::field("/notify", FieldErrorCode::Conflict, detail))
        }
        Amended::Done(watch) => Ok(shown(&api, StatusCode::OK, &watch)),
    }
}

fn form(api: &Api, text: &str, errors: &mut FieldErrors) -> Option<Form> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let mut fields = ObjectReader::read(raw, "", errors)?;
    if fields.is_empty() {
        errors.add("", FieldErrorCode::Empty, "must have at least one of: expiresIn, notify, metadata");
    }
    let at = fields.at("metadata");
    // Written out, null is the empty object.
    let metadata = match fields.take_nullable("metadata") {
        None => None,
        Some(raw) if raw.get() == "null" => Some("{}".to_owned()),
        Some(raw) => register::metadata(raw, &at, errors),
    };
    let at = fields.at("notify");
    let wanted = match fields.take("notify") {
        None => Vec::new(),
        Some(raw) => {
            if object_reader::first(raw, 1).is_some_and(|list| list.is_empty()) {
                errors.add(&at, FieldErrorCode::Empty, "must have at least one destination");
            }
            destination_request::notify(api, raw, &at, errors)
        }
    };
    let form =
        Form { expires_in: fields.duration("expiresIn", register::EXPIRES_IN, errors), metadata, wanted };
    fields.done(errors);
    Some(form)
}
