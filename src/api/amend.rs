//! Changes of an active watch.

use std::time::Duration;

use utoipa::ToSchema;

use super::destinations::{DESTINATIONS_MAX, DestinationReader, DestinationRequest, Target, destinations};
use super::http::{
    Answer, Api, BODY_MAX, Call, FieldErrorCode, FieldErrors, ObjectReader, Problem, ProblemCode,
    object_reader,
};
use super::register;
use super::watches::{WatchView, shown};
use crate::domain::{Timestamp, WatchId};
use crate::store::{AmendRefusal, AmendWatch};

/// A change of a watch. At least one field is required.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", min_properties = 1)]
struct Amendment {
    /// Time from now until the watch expires, `1s` to `30d`.
    #[schema(example = "48h", value_type = Option<String>)]
    expires_in: Option<Duration>,
    /// Further destinations. A watch has at most 20.
    #[schema(min_items = 1, max_items = 20, value_type = Option<Vec<Target>>)]
    notify: Vec<DestinationRequest>,
    /// Replaces the metadata. Null is the empty object.
    #[schema(value_type = Option<Object>)]
    metadata: Option<String>,
}

/// Change an active watch
///
/// Sets another expiry, adds destinations or replaces the metadata. Events that exist already stay as they
/// are.
#[utoipa::path(
    patch, path = "/v1/watches/{id}", operation_id = "amendWatch", tag = "Watches",
    security(("key" = ["write"])), params(("id" = WatchId, Path)),
    request_body(content = Amendment, example = json!({
        "expiresIn": "48h", "notify": ["https://app.example.com/hooks/more"],
    })),
    responses(
        (status = 200, description = "The watch after the change.", body = WatchView),
        (status = 409, description = "The watch has ended."),
    )
)]
pub async fn amend(call: Call) -> Answer {
    let id = call.only_id(WatchId::parse)?;
    let (api, app) = (&call.api, call.app());
    let text = call.json(BODY_MAX).await?;
    let now = api.clock.now();
    let mut errors = FieldErrors::default();
    let amendment = read(api, &text, &mut errors);
    let wanted = amendment.as_ref().map_or(&[][..], |amendment| &amendment.notify);
    let destinations = destinations(api, app, wanted, (now, Timestamp::MAX), &mut errors).await;
    errors.check()?;
    let Some(Amendment { expires_in, metadata, .. }) = amendment else {
        return Err(Problem::field("", FieldErrorCode::InvalidType, "must be an object").into());
    };
    let amend = AmendWatch {
        app,
        watch: id,
        expires_at: expires_in.map(|span| now.plus(span)),
        metadata,
        destinations,
        destinations_max: DESTINATIONS_MAX,
    };
    let problem = match api.store.amend_watch(amend).await? {
        Ok(watch) => return Ok(shown(api, &watch)),
        Err(AmendRefusal::NotFound) => Problem::not_found(),
        Err(AmendRefusal::Ended) => {
            Problem::new(ProblemCode::WatchEnded, "the watch has ended and cannot be changed")
        }
        Err(AmendRefusal::TooManyDestinations) => {
            let detail =
                format!("a watch has at most {DESTINATIONS_MAX} destinations, those that it has included");
            Problem::field("/notify", FieldErrorCode::TooMany, detail)
        }
        Err(AmendRefusal::DestinationDiffers(address)) => {
            let detail = format!("{address} is a destination already, with other headers or another secret");
            Problem::field("/notify", FieldErrorCode::Conflict, detail)
        }
    };
    Err(problem.into())
}

fn read(api: &Api, text: &str, errors: &mut FieldErrors) -> Option<Amendment> {
    let mut fields = ObjectReader::read(serde_json::from_str(text).ok()?, "", errors)?;
    if fields.is_empty() {
        errors.add("", FieldErrorCode::Empty, "must have at least one of: expiresIn, notify, metadata");
    }
    let at = fields.at("metadata");
    let metadata = match fields.take_nullable("metadata") {
        None => None,
        Some(raw) if raw.get() == "null" => Some("{}".to_owned()),
        Some(raw) => register::metadata(raw, &at, errors),
    };
    let at = fields.at("notify");
    let notify = fields.take("notify");
    if notify.and_then(|raw| object_reader::first(raw, 1)).is_some_and(|list| list.is_empty()) {
        errors.add(&at, FieldErrorCode::Empty, "must have at least one destination");
    }
    let mut reader = DestinationReader::new(api, errors);
    if let Some(raw) = notify {
        reader.list(raw, &at);
    }
    let notify = reader.requests;
    let expires_in = fields.duration("expiresIn", register::EXPIRES_IN, errors);
    fields.done(errors);
    Some(Amendment { expires_in, notify, metadata })
}
