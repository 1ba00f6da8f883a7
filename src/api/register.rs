//! Registrations: JSON in, a [`NewWatch`] or every invalid field out; and their trace span.
//!
//! A field that this version does not support (saved destinations) is parsed and checked like the others, and
//! then refused by itself, so that a client learns of all its errors at once.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::destinations::{DestinationRequest, destination_requests, destinations};
use super::http::object_reader::{self, pointer};
use super::http::{Api, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Problem, not_one_of};
use crate::domain::{
    AppNo, EventSet, EventType, JobName, NewWatch, Payload, Terms, Timestamp, Watch, WatchId,
};
use crate::providers::{Definition, ParamError};
use crate::telemetry::traces::Context;

/// Maximum size of the client's metadata, in bytes.
const METADATA_MAX: usize = 4 * 1024;

/// Account of a provider's credential; each provider has one.
const ACCOUNT: &str = "default";

/// A watch's deadline if neither the client nor a provider's definition gives one.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The bounds of `expiresIn`.
pub(super) const EXPIRES_IN: (&str, &str) = ("1s", "30d");

/// The bounds of `pollInterval`.
const POLL_INTERVAL: (&str, &str) = ("1s", "24h");

/// Parses and checks a registration that arrived at `now`. Names are resolved until `until`.
pub async fn read(
    api: &Api,
    app: AppNo,
    text: &str,
    traceparent: Option<&str>,
    (now, until): (Timestamp, Timestamp),
) -> Result<NewWatch, Problem> {
    let mut errors = FieldErrors::default();
    let (watch, requests) = parse(api, app, text, now, &mut errors);
    let destinations = destinations(api, app, &requests, (now, until), &mut errors).await;
    errors.check()?;
    // Without an error, the watch is there.
    let Some(watch) = watch else {
        return Err(Problem::field("", FieldErrorCode::InvalidType, "must be an object"));
    };
    let traceparent = traceparent.filter(|text| is_traceparent(text)).map(str::to_owned);
    Ok(NewWatch { traceparent, destinations, ..watch })
}

/// Parses a registration. The watch has no destinations yet.
fn parse(
    api: &Api,
    app: AppNo,
    text: &str,
    now: Timestamp,
    errors: &mut FieldErrors,
) -> (Option<NewWatch>, Vec<DestinationRequest>) {
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let Some(mut fields) = ObjectReader::read(raw, "", errors) else { return (None, Vec::new()) };
    let definition = provider(api, &mut fields, errors);
    let job = job(definition.as_ref(), &mut fields, errors);
    let requests = destination_requests(api, &mut fields, errors);
    let payload = fields.word("payload", Payload::WORDS, errors, Payload::parse);
    let events = events(&mut fields, errors);
    let metadata = fields.take("metadata").and_then(|raw| metadata(raw, "/metadata", errors));
    let deadline = definition.map_or(DEADLINE, |definition| definition.poll().deadline);
    let terms = Terms {
        expires_at: now.plus(fields.duration("expiresIn", EXPIRES_IN, errors).unwrap_or(deadline)),
        expected_at: fields.time("expectedAt", errors).filter(|at| *at > now),
        poll_interval: fields.duration("pollInterval", POLL_INTERVAL, errors),
        wants_progress: events.has(EventType::JobProcessing) || events.has(EventType::JobProgress),
    };
    fields.done(errors);
    let watch = job.map(|job| NewWatch {
        app,
        id: WatchId(api.store.ids().draw(now)),
        job,
        events,
        payload: payload.unwrap_or(Payload::Event),
        metadata,
        terms,
        traceparent: None,
        destinations: Vec::new(),
        created_at: now,
    });
    (watch, requests)
}

fn provider(api: &Api, fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> Option<Arc<Definition>> {
    let at = fields.at("provider");
    let name = if fields.has("provider") {
        fields.text("provider", errors)?
    } else {
        api.default_provider().to_owned()
    };
    let Some(definition) = api.providers.get(&name) else {
        return errors.keep(at, Err(unknown_provider(api, &name)));
    };
    if definition.needs_credential() && !api.with_credential.contains(&name) {
        let detail = format!("no api_key is configured for `{name}`; the operator can add one");
        errors.add(at, FieldErrorCode::NoCredential, detail);
    }
    Some(Arc::clone(definition))
}

/// The error for a provider that is not defined.
pub(super) fn unknown_provider(api: &Api, name: &str) -> Invalid {
    let (_, detail) = not_one_of(name, api.providers.iter().map(|definition| definition.id()));
    (FieldErrorCode::UnknownProvider, detail)
}

fn job(
    definition: Option<&Arc<Definition>>,
    fields: &mut ObjectReader<'_>,
    errors: &mut FieldErrors,
) -> Option<JobName> {
    let at = fields.at("jobId");
    let params_at = fields.at("params");
    let job_id = fields.required_text("jobId", errors);
    let params = match fields.take("params").map(|raw| serde_json::from_str(raw.get())) {
        None => Some(serde_json::Map::new()),
        Some(Ok(params)) => Some(params),
        Some(Err(_)) => {
            errors.add(&params_at, FieldErrorCode::InvalidType, "must be an object");
            None
        }
    };
    let job_id = job_id?;
    if job_id.is_empty() {
        errors.add(at, FieldErrorCode::Empty, "must not be empty");
        return None;
    }
    let definition = definition?;
    if let Err(detail) = definition.check_job_id(&job_id) {
        errors.add(at, FieldErrorCode::InvalidFormat, detail);
    }
    match definition.params(&params?) {
        Ok(params) => {
            let (provider, account) = (definition.id().to_owned(), ACCOUNT.to_owned());
            Some(JobName { provider, account, job_id, params })
        }
        Err(invalid) => {
            for (name, error) in invalid {
                let code = match error {
                    ParamError::Unknown(_) => FieldErrorCode::UnknownField,
                    ParamError::Missing(_) => FieldErrorCode::Required,
                    ParamError::NotAString => FieldErrorCode::InvalidType,
                    ParamError::Invalid(_) => FieldErrorCode::InvalidFormat,
                };
                errors.add(pointer(&params_at, &name), code, error.to_string());
            }
            None
        }
    }
}

fn events(fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> EventSet {
    let at = fields.at("events");
    let Some(list) = fields.list("events", errors) else { return EventSet::endings() };
    let mut events = EventSet::NONE;
    if list.is_empty() {
        let detail = "must have at least one event; leave it out to get every ending";
        errors.add(&at, FieldErrorCode::Empty, detail);
    }
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{at}/{n}");
        let Some(pattern) = object_reader::string(raw, &at, errors) else { continue };
        if !events.add(&pattern) {
            let allowed = EventType::WORDS.iter().copied().chain(EventSet::FAMILIES);
            errors.keep::<()>(at, Err(not_one_of(&pattern, allowed)));
        }
    }
    events
}

/// Checks the client's metadata, which is stored byte for byte.
pub(super) fn metadata(raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<String> {
    let raw = raw.get();
    if raw.len() > METADATA_MAX {
        errors.add(at, FieldErrorCode::TooLarge, "must not be larger than 4 KiB");
        return None;
    }
    // Parsed here, so that every receiver can parse it.
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(raw) {
        Ok(_) => return Some(raw.to_owned()),
        Err(error) if error.is_data() => errors.add(at, FieldErrorCode::InvalidType, "must be an object"),
        Err(error) => errors.add(at, FieldErrorCode::InvalidFormat, format!("cannot be parsed: {error}")),
    }
    None
}

/// Whether this is a trace context of W3C's version 00; others are ignored.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let is_not_zero = |part: &str| part.bytes().any(|b| b != b'0');
    matches!(parts.as_slice(), ["00", trace, span, flags]
        if is_hex(trace, 32) && is_not_zero(trace) && is_hex(span, 16) && is_not_zero(span) && is_hex(flags, 2))
}

/// Returns the trace context of a registration; `None` if traces are off or the trace is not sampled.
pub(super) fn trace_context(api: &Api, watch: &NewWatch) -> Option<Context> {
    if !api.store.tracer().is_on() {
        return None;
    }
    Context::of(watch.id, watch.traceparent.as_deref())
}

/// Records the span of a registration that is committed: the root of the spans that this program adds to the watch's
/// trace.
pub(super) fn record_span(
    api: &Api,
    context: Option<Context>,
    watch: &Watch,
    route: &'static str,
    (started_at, took): (Timestamp, Duration),
) {
    api.store.tracer().record(|| {
        let span = context?
            .registration("register", started_at, took)
            .with("http.request.method", "POST")
            .with("http.route", route)
            .with("http.response.status_code", StatusCode::CREATED.as_u16())
            .with("ringback.watch.id", watch.id.to_string().as_str())
            .with("ringback.provider", watch.job.provider.as_str())
            .with("ringback.job.id", watch.job.job_id.as_str());
        Some(span)
    });
}
