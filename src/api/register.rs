//! Registrations: JSON in, a [`NewWatch`] or every invalid field out; and their trace span.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use serde_json::value::RawValue;

use super::destinations::{DestinationRequests, destination_requests, destinations};
use super::groups::{self, GroupFields};
use super::http::object_reader::{self, pointer};
use super::http::{Api, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Problem, not_one_of};
use super::job_cancel;
use super::labels::{check_name, check_reference};
use super::own_access::{self, Named, OwnAccess};
use super::poll_fields::{self, PollRequest};
use crate::clock::Moment;
use crate::domain::{
    AppNo, EventList, EventSet, EventType, GroupRequest, INLINE, JobName, NewPoll, NewWatch,
    OPERATOR_ACCOUNT, Payload, ProviderHealth, ProviderState, Terms, Timestamp, Watch, WatchId,
    credential_variable, shown,
};
use crate::providers::{Definition, InlinePoll, ParamError};
use crate::store::RegisterRefusal;
use crate::telemetry::traces::Context;

/// Maximum size of the client's metadata, in bytes.
const METADATA_MAX: usize = 4 * 1024;

/// A watch's deadline if neither the client nor a provider's definition gives one.
const DEADLINE: Duration = Duration::from_secs(3600);

/// The bounds of `expiresIn`.
pub(super) const EXPIRES_IN: (&str, &str) = ("1s", "30d");

/// The bounds of `pollInterval`.
const POLL_INTERVAL: (&str, &str) = ("1s", "24h");

/// The fields of a registration that a change of the watch cannot have, besides the destinations.
pub(super) const FIXED_FIELDS: &[&str] = &[
    "jobId",
    "credential",
    "poll",
    "provider",
    "params",
    "payload",
    "events",
    "expectedAt",
    "pollInterval",
    "destinationId",
    "group",
    "cancelJobOnExpiry",
];

/// Parses and checks a registration that arrived at `now`. Names are resolved until `until`.
pub async fn read(
    api: &Api,
    app: AppNo,
    text: &str,
    traceparent: Option<&str>,
    (now, until): (Timestamp, Moment),
) -> Result<NewWatch, Problem> {
    let mut errors = FieldErrors::default();
    let named = own_access::find(api, app, text).await?;
    let Parsed { watch, requests, group, poll } = parse(api, app, (text, &named), now, &mut errors);
    let destinations = destinations(api, app, &requests, (now, until), &mut errors).await?;
    let group = match group {
        Some(group) => Some(resolve_group(api, app, group, (now, until), &mut errors).await?),
        None => None,
    };
    let inline = match poll {
        Some(request) => poll_fields::resolve(api, app, request, until, &mut errors).await?,
        None => None,
    };
    errors.check()?;
    // Without an error, the watch is there.
    let Some(mut watch) = watch else {
        return Err(Problem::field("", FieldErrorCode::InvalidType, "must be an object"));
    };
    if let Some((job, poll)) = inline {
        (watch.job, watch.poll) = (job, Some(Box::new(poll)));
    }
    let traceparent = traceparent.filter(|text| is_traceparent(text)).map(str::to_owned);
    Ok(NewWatch { traceparent, destinations, group, ..watch })
}

/// Resolves the destinations of a group.
async fn resolve_group(
    api: &Api,
    app: AppNo,
    group: GroupFields,
    times: (Timestamp, Moment),
    errors: &mut FieldErrors,
) -> Result<GroupRequest, Problem> {
    let GroupFields { name, size, rule, expires_in, notify } = group;
    let notify = match notify {
        Some(requests) => Some(destinations(api, app, &requests, times, errors).await?),
        None => None,
    };
    Ok(GroupRequest { name, size, rule, expires_in, notify })
}

/// A registration whose addresses are not checked yet.
#[derive(Default)]
struct Parsed {
    /// The watch without its destinations; `None` if it has an error.
    watch: Option<NewWatch>,
    requests: DestinationRequests,
    group: Option<GroupFields>,
    poll: Option<PollRequest>,
}

/// What is watched.
#[derive(Default)]
struct Subject {
    definition: Option<Arc<Definition>>,
    job: Option<JobName>,
    /// How the job is polled, if it has a definition and is the app's alone.
    own: Option<NewPoll>,
    /// How it is polled without a definition.
    poll: Option<PollRequest>,
}

/// Parses a registration, and what it names of its app's own.
fn parse(
    api: &Api,
    app: AppNo,
    (text, named): (&str, &Named),
    now: Timestamp,
    errors: &mut FieldErrors,
) -> Parsed {
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let Some(mut fields) = ObjectReader::read(raw, "", errors) else { return Parsed::default() };
    let Subject { definition, job, own, poll } = subject(api, app, &mut fields, named);
    let cancels_on_expiry = fields.boolean("cancelJobOnExpiry") == Some(true);
    if cancels_on_expiry && (poll.is_some() || definition.is_some()) {
        let checked = job_cancel::check(api, definition.as_deref(), own.is_some());
        fields.keep("cancelJobOnExpiry", checked);
    }
    let has_group = fields.has("group");
    let at = fields.at("group");
    let group = fields.take("group").and_then(|raw| groups::read(api, raw, &at, fields.errors));
    let requests = destination_requests(api, &mut fields, has_group);
    let name = fields.parsed("name", check_name);
    let reference = fields.parsed("reference", check_reference);
    let payload = fields.word("payload", Payload::WORDS, Payload::parse);
    let events = events(&mut fields, EventList::OfWatch).unwrap_or_else(EventSet::endings);
    let metadata = fields.take("metadata").and_then(|raw| check_metadata(raw, &mut fields));
    let deadline = match (&definition, &poll) {
        (_, Some(_)) => InlinePoll::POLICY.deadline,
        (definition, None) => definition.as_ref().map_or(DEADLINE, |definition| definition.poll.deadline),
    };
    let terms = Terms {
        expires_at: now.plus(fields.duration("expiresIn", EXPIRES_IN).unwrap_or(deadline)),
        expected_at: fields.time("expectedAt").filter(|at| *at > now),
        poll_interval: fields.duration("pollInterval", POLL_INTERVAL),
        wants_progress: events.has(EventType::JobProcessing) || events.has(EventType::JobProgress),
    };
    fields.done();
    let watch = job.map(|job| NewWatch {
        app,
        id: WatchId(api.store.ids().draw(now)),
        job,
        poll: own.map(Box::new),
        events,
        payload: payload.unwrap_or(Payload::Event),
        name,
        reference,
        metadata,
        terms,
        traceparent: None,
        destinations: Vec::new(),
        group: None,
        cancels_on_expiry,
        created_at: now,
    });
    Parsed { watch, requests, group, poll }
}

/// Reads what is watched: a job of a provider, or one that is polled as the registration says. The name of the latter
/// is made when its address has been checked.
fn subject(api: &Api, app: AppNo, fields: &mut ObjectReader<'_, '_>, named: &Named) -> Subject {
    if let Some(raw) = fields.take("poll") {
        if fields.take("credential").is_some() {
            let detail = "cannot be used with poll; write it into poll, as `credential`";
            fields.error("credential", FieldErrorCode::Conflict, detail);
        }
        let poll = poll_fields::read(raw, fields);
        let unnamed = || JobName {
            provider: INLINE.to_owned(),
            account: String::new(),
            job_id: String::new(),
            params: String::new(),
        };
        let job = poll.is_some().then(unnamed);
        return Subject { job, poll, ..Subject::default() };
    }
    let (definition, access) = provider(api, fields, named).unzip();
    let access = access.flatten();
    let used = access.as_ref().map(OwnAccess::definition).or(definition.as_ref());
    let job = job(used.map(|definition| &**definition), fields);
    let (job, own) = match (job, access) {
        (Some(job), Some(access)) => access.apply(api, app, fields, job).unzip(),
        (job, _) => (job, None),
    };
    Subject { definition, job, own, poll: None }
}

/// Takes the provider, and the credential of the app for it.
fn provider(
    api: &Api,
    fields: &mut ObjectReader<'_, '_>,
    named: &Named,
) -> Option<(Arc<Definition>, Option<OwnAccess>)> {
    let is_given = fields.has("provider");
    let name = if is_given { fields.text("provider")? } else { api.default_provider().to_owned() };
    if name == INLINE {
        let detail = "`inline` stands for a job without a definition; say in `poll` how it is polled";
        fields.error("provider", FieldErrorCode::Conflict, detail);
        return None;
    }
    let found = match &named.definition {
        Some((version, Ok(definition))) => Ok((definition, Some(version))),
        Some((_, Err(mistake))) => {
            let detail = format!(
                "this version of the server refuses the definition, which must be corrected: {mistake}"
            );
            Err((FieldErrorCode::UnknownProvider, detail))
        }
        None => find_provider(api, &name).map(|definition| (definition, None)),
    };
    let Some((definition, version)) = fields.keep("provider", found) else {
        // Whether it fits is not known.
        fields.take("credential");
        return None;
    };
    let has_own = fields.has("credential");
    let own = own_access::take_credential(fields, (definition, version), named);
    if version.is_some() {
        if !has_own && definition.needs_credential() {
            let detail = format!(
                "is required for `{name}`, a definition of the app, which never has a key of the operator; create one with \
                 POST /v1/credentials"
            );
            fields.error("credential", FieldErrorCode::Required, detail);
        }
    } else if !has_own && !is_usable(api, definition) {
        let is_kept = api.access.get(&name).is_some_and(|access| access.has_key && !access.is_shared);
        if is_kept {
            let detail = format!(
                "is required for `{name}`, whose key the operator does not share; create one with POST /v1/credentials"
            );
            fields.error("credential", FieldErrorCode::Required, detail);
        } else {
            fields.error("provider", FieldErrorCode::NoCredential, no_credential(api, &name, is_given));
        }
    }
    Some((Arc::clone(definition), own))
}

/// Returns whether registrations can use the provider without a credential of their app.
fn is_usable(api: &Api, definition: &Definition) -> bool {
    let access = api.access.get(&definition.id);
    !definition.needs_credential() || access.is_some_and(|access| access.has_key && access.is_shared)
}

/// Describes that a provider cannot be used, and what to do.
fn no_credential(api: &Api, name: &str, is_given: bool) -> String {
    let usable = api.providers.values().filter(|definition| is_usable(api, definition));
    let usable: Vec<&str> = usable.map(|definition| definition.id.as_str()).collect();
    if !is_given && !usable.is_empty() {
        let usable = usable.join(", ");
        return format!(
            "the server has no API key for its default provider `{name}`; give `provider`, one of: {usable}"
        );
    }
    let variable = credential_variable(name);
    format!("the server has no API key for `{name}`; give `credential`, or the operator can set {variable}")
}

/// Finds a provider by its id.
pub(super) fn find_provider<'a>(api: &'a Api, name: &str) -> Result<&'a Arc<Definition>, Invalid> {
    api.providers.get(name).ok_or_else(|| {
        let is_invalid = |state: &ProviderState| state.id == name && state.health == ProviderHealth::Invalid;
        let detail = if (api.provider_states)(api.operator).iter().any(is_invalid) {
            format!("the definition of `{name}` has mistakes, which GET /v1/providers lists; the operator must correct them")
        } else {
            let known: Vec<&str> = api.providers.keys().map(String::as_str).collect();
            let (name, near) = (shown(name), object_reader::suggestion(name, &known));
            format!("the server knows no provider `{name}`{near}; GET /v1/providers lists all")
        };
        (FieldErrorCode::UnknownProvider, detail)
    })
}

fn job(definition: Option<&Definition>, fields: &mut ObjectReader<'_, '_>) -> Option<JobName> {
    let job_id = fields.required_text("jobId");
    let params = fields.take("params");
    if let Some(at) = params.and_then(|raw| object_reader::duplicate(raw, &fields.at("params"))) {
        fields.errors.add(at, FieldErrorCode::Duplicate, object_reader::TWICE);
    }
    let params = serde_json::from_str(params.map_or("{}", RawValue::get));
    let not_an_object = |_| (FieldErrorCode::InvalidType, "must be an object".to_owned());
    let params = fields.keep("params", params.map_err(not_an_object));
    let job_id = job_id?;
    if job_id.is_empty() {
        fields.error("jobId", FieldErrorCode::Empty, "must not be empty");
        return None;
    }
    let definition = definition?;
    if let Err(detail) = definition.check_job_id(&job_id) {
        fields.error("jobId", FieldErrorCode::InvalidFormat, detail);
    }
    match definition.params(&params?) {
        Ok(params) => {
            let (provider, account) = (definition.id.clone(), OPERATOR_ACCOUNT.to_owned());
            Some(JobName { provider, account, job_id, params })
        }
        Err(invalid) => {
            let at = fields.at("params");
            for (name, error) in invalid {
                let code = match error {
                    ParamError::Unknown(_) => FieldErrorCode::UnknownField,
                    ParamError::Missing(_) => FieldErrorCode::Required,
                    ParamError::NotAString => FieldErrorCode::InvalidType,
                    ParamError::Invalid(_) => FieldErrorCode::InvalidFormat,
                };
                fields.errors.add(pointer(&at, &name), code, error.to_string());
            }
            None
        }
    }
}

/// Takes a list of event types and families; `None` if it is absent.
pub(super) fn events(fields: &mut ObjectReader<'_, '_>, named: EventList) -> Option<EventSet> {
    let list = fields.list("events", usize::MAX)?;
    let mut events = EventSet::NONE;
    if list.is_empty() {
        let detail = "must have at least one event; leave it out to get every ending";
        fields.error("events", FieldErrorCode::Empty, detail);
    }
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{}/{n}", fields.at("events"));
        let Some(pattern) = object_reader::string(raw, &at, fields.errors) else { continue };
        if !events.add(&pattern, named) {
            let allowed = named.types().map(EventType::as_str).chain(named.families().iter().copied());
            fields.errors.keep::<()>(at, Err(not_one_of(&pattern, allowed)));
        }
    }
    Some(events)
}

/// The problem of a registration that the store refuses.
pub(super) fn refused(refusal: RegisterRefusal) -> Problem {
    match refusal {
        RegisterRefusal::DestinationDeleted => destination_deleted(),
        RegisterRefusal::CredentialDeleted { is_inline } => Problem::field(
            if is_inline { "/poll/credential" } else { "/credential" },
            FieldErrorCode::UnknownCredential,
            "names a credential that was just deleted",
        ),
        RegisterRefusal::DefinitionReplaced => Problem::field(
            "/provider",
            FieldErrorCode::UnknownProvider,
            "names a definition that was just replaced or deleted; send the request again",
        ),
        RegisterRefusal::Group(refusal) => groups::refused(&refusal),
    }
}

/// The problem of a request whose saved destination was deleted while it was read.
pub(super) fn destination_deleted() -> Problem {
    Problem::field(
        "/notify",
        FieldErrorCode::UnknownDestination,
        "names a saved destination that was just deleted",
    )
}

/// Checks the client's metadata, which is stored byte for byte.
pub(super) fn check_metadata(raw: &RawValue, fields: &mut ObjectReader<'_, '_>) -> Option<String> {
    let metadata = fields.keep("metadata", metadata_text(raw))?;
    let Some(at) = object_reader::duplicate(raw, &fields.at("metadata")) else { return Some(metadata) };
    fields.errors.add(at, FieldErrorCode::Duplicate, object_reader::TWICE);
    None
}

fn metadata_text(raw: &RawValue) -> Result<String, Invalid> {
    let raw = raw.get();
    if raw.len() > METADATA_MAX {
        return Err((FieldErrorCode::TooLarge, "must not be larger than 4 KiB".to_owned()));
    }
    // Parsed here, so that every receiver can parse it.
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(raw) {
        Ok(_) => Ok(raw.to_owned()),
        Err(error) if error.is_data() => Err((FieldErrorCode::InvalidType, "must be an object".to_owned())),
        Err(error) => Err((FieldErrorCode::InvalidFormat, format!("cannot be parsed: {error}"))),
    }
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
    if api.store.tracer().is_on() { Context::of(watch.id, watch.traceparent.as_deref()) } else { None }
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
            .with("http.response.status_code", i64::from(StatusCode::CREATED.as_u16()))
            .with("ringback.watch.id", watch.id.to_string())
            .with("ringback.provider", watch.job.provider.clone())
            .with("ringback.job.id", watch.job.job_id.clone());
        Some(span)
    });
}
