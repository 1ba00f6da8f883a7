//! Saved destinations: create, list, show, change, delete, enable, rotate the secret. The same fields can be given in
//! the configuration file.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access_fields::{AuthRequest, AuthView, TlsRequest, TlsView, check_access, tls};
use super::destinations::{
    Address, InlineRequest, address_of, check, check_token_url, headers, inline, one_of, own_fields,
};
use super::http::{
    Answer, BODY_MAX, Call, Content, FieldError, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Page,
    PageParams, Problem, ProblemCode, created, cursor, first_answer, json, listed,
};
use super::labels::check_name;
use super::register::events;
use super::saved_signing::{check_new_origin, check_together, has_secret, nullable, read_signing};
use super::signing_secret::{GRACE, GRACE_DEFAULT, PreviousSecret};
use crate::channels::webhook::Secret;
use crate::channels::{self, Channels};
use crate::clock::Moment;
use crate::domain::{
    Access, AddressError, AppNo, Auth, ChannelKind, DestinationHealth, DestinationId, DisabledReason,
    EventList, EventSet, EventType, KeyKind, Masked, NewTls, Rate, SavedAddress, SavedDestination, SavedNo,
    SavedQueue, SignatureForm, Signing, Timestamp, format_rate, hidden_in_name, parse_rate,
};
use crate::egress::Egress;
use crate::store::{
    Change, CreateDestination, DeleteDestination, DestinationChange, DestinationRefusal, DestinationUser,
    EnableDestination, Idempotent, ManagedDestination, RotateDestinationSecret, StoredResponse,
    TooManyDestinations, UpdateDestination,
};

/// Maximum length of a description, in characters.
const DESCRIPTION_MAX: usize = 1_000;

/// Maximum number of attempts in progress that can be given: the maximum of `delivery.concurrency` is of this size.
const CONCURRENCY_MAX: u32 = 512;

/// Shortest time between two attempts that a rate can require: the resolution of the dispatcher's clock.
const SPACING_MIN: Duration = Duration::from_millis(1);

/// Upper estimate of the size of an answer, in bytes: texts, two addresses, and the names of 32 headers.
const ANSWER_MAX: usize = 32 * 1024;

/// A saved destination.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SavedDestination)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub struct SavedDestinationView<'a> {
    id: DestinationId,
    /// Name for people.
    #[schema(required)]
    name: Option<&'a str>,
    /// Description for people.
    #[schema(required)]
    description: Option<&'a str>,
    #[serde(flatten)]
    address: Address<'a>,
    /// Names of the additional headers. Their values are not shown: `***`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, String>, required = false)]
    headers: BTreeMap<&'a str, &'static str>,
    /// Form of the signature; absent for the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<SignatureForm>,
    /// The keys that sign in the standard form; absent for the default, and for another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<&'a [KeyKind]>,
    /// How requests authenticate themselves; absent if they do not.
    #[serde(skip_serializing_if = "Option::is_none")]
    auth: Option<AuthView<'a>>,
    /// TLS identity; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    tls: Option<TlsView<'a>>,
    /// Types of the events that it receives.
    events: Vec<EventType>,
    enabled: bool,
    /// Null while it is enabled.
    #[schema(required)]
    disabled_reason: Option<DisabledReason>,
    #[schema(required)]
    disabled_at: Option<Timestamp>,
    /// Whether it receives the watches whose registration names no destination.
    default: bool,
    /// Maximum rate of attempts, such as `10/s`; null without a limit.
    #[schema(required)]
    rate: Option<String>,
    /// Maximum number of attempts in progress; null for that of every destination.
    #[schema(required)]
    concurrency: Option<u32>,
    /// Whether an event waits for the retries of earlier events of its watch.
    ordered: bool,
    /// Whether it is in the configuration file of the server.
    managed: bool,
    created_at: Timestamp,
    health: HealthView<'a>,
    /// Signing secret of a webhook. Only in the answer to the request that creates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

/// How the attempts of the last 24 hours ended.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = DestinationHealth)]
struct HealthView<'a> {
    /// Part of the attempts that succeeded, 0 to 1; null without attempts.
    #[schema(required)]
    success_rate: Option<f64>,
    latency_ms: LatencyView,
    /// Error of the last attempt; null if it succeeded.
    #[schema(required)]
    last_error: Option<&'a str>,
    /// Time of the first failed attempt after the last success.
    #[schema(required)]
    failing_since: Option<Timestamp>,
}

/// Durations of attempts in milliseconds, rounded up by a half at most.
#[derive(Serialize, ToSchema)]
#[schema(as = DestinationLatency)]
struct LatencyView {
    /// Half of the attempts took no longer; null without attempts.
    #[schema(required)]
    p50: Option<u32>,
    /// 95 of 100 attempts took no longer.
    #[schema(required)]
    p95: Option<u32>,
}

impl<'a> SavedDestinationView<'a> {
    /// Shows a destination without its secret.
    fn of(destination: &'a SavedDestination) -> Self {
        let SavedDestination { address, health, queue, disabled, .. } = destination;
        let access = address.access.as_deref();
        let (signature, keys) = address.signing.as_deref().map(Signing::shown).unwrap_or_default();
        Self {
            id: destination.id,
            name: destination.name.as_deref(),
            description: destination.description.as_deref(),
            address: Address::of(address.channel, &address.address),
            headers: address.headers.iter().map(|(name, _)| (name.as_str(), "***")).collect(),
            signature,
            keys,
            auth: AuthView::of(access),
            tls: TlsView::of(access),
            events: EventSet::iter(destination.events).collect(),
            enabled: disabled.is_none(),
            disabled_reason: disabled.map(|(reason, _)| reason),
            disabled_at: disabled.map(|(_, at)| at),
            default: destination.is_default,
            rate: queue.rate.spacing.map(format_rate),
            concurrency: queue.concurrency,
            ordered: queue.is_ordered,
            managed: destination.is_managed,
            created_at: destination.created_at,
            health: HealthView {
                success_rate: health.success_rate().map(|rate| (rate * 10_000.0).round() / 10_000.0),
                latency_ms: LatencyView { p50: health.p50_ms, p95: health.p95_ms },
                last_error: health.last_error.as_deref(),
                failing_since: health.failing_since,
            },
            secret: None,
        }
    }
}

fn shown(destination: &SavedDestination) -> StoredResponse {
    first_answer(StatusCode::OK, &SavedDestinationView::of(destination))
}

fn refused(refusal: DestinationRefusal) -> Problem {
    match refusal {
        DestinationRefusal::NotFound => Problem::not_found(),
        DestinationRefusal::Managed => Problem::new(
            ProblemCode::DestinationManaged,
            "the destination is in the server's configuration file; change it there, and restart the server",
        ),
        DestinationRefusal::InUse(user) => Problem::new(
            ProblemCode::DestinationInUse,
            match user {
                DestinationUser::Watch => {
                    "a running watch names the destination; disable it, or delete it when its watches have ended"
                }
                DestinationUser::Group => {
                    "an open group names the destination; disable it, or delete it when its groups have ended"
                }
            },
        ),
    }
}

/// List saved destinations
///
/// Newest first.
#[utoipa::path(
    get, path = "/v1/destinations", operation_id = "listDestinations", tag = "Destinations",
    security(("key" = ["read"])), params(PageParams),
    responses((status = 200, description = "A page of destinations.", body = Page<SavedDestinationView>))
)]
pub async fn list(call: Call) -> Answer {
    let mut query = call.query();
    let limit = query.limit();
    let before = query.cursor(cursor::List::Destinations).map(DestinationId);
    query.done()?;
    let now = call.api.clock.now();
    let found = call.api.store.saved_destinations(call.app(), before, limit, now).await?;
    Ok(listed(&found, |id| cursor::encode(cursor::List::Destinations, &id.0), SavedDestinationView::of))
}

/// Show a saved destination
#[utoipa::path(
    get, path = "/v1/destinations/{id}", operation_id = "showDestination", tag = "Destinations",
    security(("key" = ["read"])), params(("id" = DestinationId, Path)),
    responses((status = 200, description = "The destination.", body = SavedDestinationView))
)]
pub async fn show(call: Call) -> Answer {
    let id = call.only_id(DestinationId::parse)?;
    Ok(json(StatusCode::OK, &SavedDestinationView::of(&find(&call, id).await?)))
}

async fn find(call: &Call, id: DestinationId) -> Result<SavedDestination, Problem> {
    let found = call.api.store.saved_destination(call.app(), id, call.api.clock.now()).await?;
    found.ok_or_else(Problem::not_found)
}

/// A destination to save. The address stands in the field that belongs to its channel, as in `notify`.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "`read_new` reads it field by field; a test compares the two")]
struct NewDestination {
    /// Name for people. It need not be unique.
    #[schema(min_length = 1, max_length = 200, example = "billing")]
    name: Option<String>,
    /// Description for people.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// The channel. Default: `webhook`.
    r#type: Option<ChannelKind>,
    /// URL of a webhook, or of a Slack webhook.
    url: Option<String>,
    /// Mail address; `address` and `to` are synonyms.
    email: Option<String>,
    /// Synonym of `email`.
    address: Option<String>,
    /// Synonym of `email`.
    to: Option<String>,
    /// Slack channel, as `#ops`; `slack` is a synonym.
    channel: Option<String>,
    /// Synonym of `url` or `channel`, for Slack.
    slack: Option<String>,
    /// Additional headers of a webhook.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<()>,
    /// Form of the signature of a webhook. Default: `standard`.
    signature: Option<SignatureForm>,
    /// The keys that sign in the standard form. Default: `hmac`.
    keys: Option<Vec<KeyKind>>,
    /// Signing secret of a webhook: `whsec_` and the base64 of 24 to 64 bytes; for the signatures `github` and
    /// `stripe`, any text of 8 to 256 printable ASCII characters. Default: one is generated, if a secret signs.
    secret: Option<String>,
    /// How requests to a webhook authenticate themselves.
    auth: Option<AuthRequest>,
    /// TLS identity for the connections to a webhook.
    tls: Option<TlsRequest>,
    /// Events that it receives: types, or `job.*`, `watch.*`, `destination.*` or `delivery.*`. Default:
    /// every event that ends a watch.
    #[schema(min_items = 1)]
    events: Option<Vec<String>>,
    /// Whether it is enabled. Default: `true`.
    enabled: Option<bool>,
    /// Whether it receives the watches whose registration names no destination. Default: `false`.
    default: Option<bool>,
    /// Maximum rate of attempts, at most `1000/s`. Default: no limit.
    #[schema(example = "10/s")]
    rate: Option<String>,
    /// Maximum number of attempts in progress. The server's `delivery.per_destination` applies as well.
    #[schema(minimum = 1, maximum = 512)]
    concurrency: Option<u32>,
    /// Whether an event waits for the retries of earlier events of its watch. Default: `false`.
    ordered: Option<bool>,
}

/// Save a destination
///
/// The answer shows the signing secret of a webhook, once.
#[utoipa::path(
    post, path = "/v1/destinations", operation_id = "createDestination", tag = "Destinations",
    security(("key" = ["write"])),
    request_body(content = NewDestination, example = json!({
        "name": "billing", "url": "https://app.example.com/hooks/billing", "rate": "10/s",
    })),
    responses(
        (status = 201, description = "The destination, committed.", body = SavedDestinationView,
            headers(("Location" = String, description = "Path of the destination."))),
        (status = 409, description = "The app has too many destinations; or a request with this Idempotency-Key is in \
            progress, or the key was used with another API key."),
    )
)]
pub async fn create(call: Call) -> Answer {
    let write = call.write_secret(Content::OBJECT).await?;
    let (api, app, now) = (&write.api, write.app(), write.api.clock.now());
    let request = write.object(|fields| read_new(&api.channels, fields))?;
    let mut errors = FieldErrors::default();
    let id = DestinationId(api.store.ids().draw(now));
    let new = new_destination(&api.egress, (app, id), request, (now, Moment::MAX), &mut errors).await;
    errors.check()?;
    // Without an error, the destination is there.
    let (mut new, is_enabled) = new.ok_or_else(Problem::not_found)?;
    if channels::spec(new.address.channel).is_signed && has_secret(new.address.signing.as_deref()) {
        new.address.secret.get_or_insert_with(|| Secret::generate().expose());
    }
    new.disabled = (!is_enabled).then_some((DisabledReason::Manual, now));
    let view =
        SavedDestinationView { secret: new.address.secret.as_deref(), ..SavedDestinationView::of(&new) };
    let answer = created(format!("/v1/destinations/{}", new.id), &view);
    write.reserve_answer(answer.body.len())?;
    let create = Idempotent::with_response(CreateDestination(new), write.key(), &answer);
    api.store.create_destination(create).await??.map_err(|TooManyDestinations(most)| {
        let detail =
            format!("the app has {most} destinations, which is the maximum; delete one that is not used");
        Problem::new(ProblemCode::LimitReached, detail)
    })?;
    Ok(answer.into_response())
}

/// A destination as it is requested: the pointer to its address, its address and its settings.
struct NewRequest {
    at: String,
    address: InlineRequest,
    tls: Option<NewTls>,
    change: DestinationChange,
}

/// Takes the fields of a new destination.
fn read_new(channels: &Channels, fields: &mut ObjectReader<'_, '_>) -> Option<NewRequest> {
    let change = settings(fields);
    let address = inline(channels, fields);
    // Without a valid address, the field is checked all the same.
    let has_tls = address.as_ref().is_none_or(|(_, address)| channels::spec(address.channel).is_signed);
    let tls = if has_tls { tls(fields) } else { None };
    own_fields().for_each(|name| fields.drop_null(name));
    let (at, address) = address?;
    Some(NewRequest { at, address, tls, change })
}

/// Takes the fields of a destination that do not depend on its channel. `null` stands for the default.
fn settings(fields: &mut ObjectReader<'_, '_>) -> DestinationChange {
    DestinationChange {
        name: nullable(fields, "name", |fields, name| fields.parsed(name, check_name)),
        description: nullable(fields, "description", |fields, name| fields.parsed(name, check_description)),
        events: match nullable(fields, "events", |fields, _| events(fields, EventList::OfDestination)) {
            Change::Set(events) => Change::Set(events.unwrap_or_else(EventSet::endings)),
            Change::Kept => Change::Kept,
        },
        is_enabled: fields.boolean("enabled").map_or(Change::Kept, Change::Set),
        is_default: fields.boolean("default").map_or(Change::Kept, Change::Set),
        rate: match nullable(fields, "rate", |fields, name| fields.parsed(name, check_rate)) {
            Change::Set(rate) => Change::Set(rate.unwrap_or_default()),
            Change::Kept => Change::Kept,
        },
        concurrency: nullable(fields, "concurrency", |fields, name| {
            fields.integer(name, 1..=CONCURRENCY_MAX)
        }),
        is_ordered: fields.boolean("ordered").map_or(Change::Kept, Change::Set),
        ..DestinationChange::default()
    }
}

fn check_description(text: &str) -> Result<String, Invalid> {
    if text.chars().count() > DESCRIPTION_MAX {
        return Err((
            FieldErrorCode::TooLong,
            format!("must not have more than {DESCRIPTION_MAX} characters"),
        ));
    }
    if let Some(c) = text.split('\n').find_map(hidden_in_name) {
        let detail = format!("must not contain the invisible character U+{:04X}; remove it", u32::from(c));
        return Err((FieldErrorCode::InvalidFormat, detail));
    }
    Ok(text.to_owned())
}

fn check_rate(text: &str) -> Result<Rate, Invalid> {
    let rate = parse_rate(text).map_err(|detail| (FieldErrorCode::InvalidFormat, detail))?;
    if rate.spacing.is_some_and(|spacing| spacing < SPACING_MIN) {
        return Err((
            FieldErrorCode::OutOfRange,
            "must not be more than 1000/s; write off for no limit".to_owned(),
        ));
    }
    Ok(rate)
}

/// Reads a destination of the configuration file, which has a name. Returns the field and the error of each invalid
/// field.
pub async fn managed_destination(
    (channels, egress): (&Channels, &Egress),
    (app, id): (AppNo, DestinationId),
    fields: &Masked,
    times: (Timestamp, Moment),
) -> Result<ManagedDestination, Vec<(String, String)>> {
    let mut errors = FieldErrors::default();
    let raw: &RawValue = serde_json::from_str(fields.reveal()).unwrap_or(RawValue::NULL);
    let request = ObjectReader::read(raw, "", &mut errors).and_then(|mut fields| {
        let request = read_new(channels, &mut fields);
        fields.done();
        request
    });
    let mut made = None;
    if let Some(request) = request {
        made = new_destination(egress, (app, id), request, times, &mut errors).await;
    }
    let listed = |problem: Problem| {
        let field =
            |error: FieldError| (error.pointer.trim_start_matches('/').replace('/', "."), error.detail);
        problem.errors.into_iter().map(field).collect::<Vec<_>>()
    };
    errors.check().map_err(listed)?;
    let (destination, is_enabled) = made.ok_or_else(Vec::new)?;
    let destination = SavedDestination { is_managed: true, ..destination };
    Ok(ManagedDestination { destination, is_enabled })
}

/// Checks the address of a new destination, and makes the destination. Also returns whether it is to be enabled.
/// `None`: there are errors.
async fn new_destination(
    egress: &Egress,
    (app, id): (AppNo, DestinationId),
    request: NewRequest,
    (now, until): (Timestamp, Moment),
    errors: &mut FieldErrors,
) -> Option<(SavedDestination, bool)> {
    let NewRequest { at, address, tls, change } = request;
    let InlineRequest { channel, address, headers, signing, auth } = address;
    let found = resolve(egress, app, channel, &address, until).await;
    if let Some(auth) = auth.as_deref() {
        check_token_url(egress, app, auth, ("", until), errors).await;
    }
    let (address, target) = errors.keep(at, found)?;
    let (summary, new_tls) = tls.map(|NewTls { summary, pem }| (summary, Box::new(pem))).unzip();
    let access = Access::of(auth.map(|auth| *auth), summary);
    check_access(access.as_deref(), &headers, &address, errors);
    let mut destination = SavedDestination {
        app,
        id,
        name: None,
        description: None,
        address: SavedAddress {
            channel,
            address,
            headers,
            secret: signing.secret,
            signing: signing.signing,
            access,
            new_tls,
        },
        events: EventSet::endings(),
        is_default: false,
        queue: SavedQueue {
            no: SavedNo(0),
            target,
            rate: Rate::default(),
            concurrency: None,
            is_ordered: false,
            old_secret: None,
        },
        is_managed: false,
        disabled: None,
        health: DestinationHealth::default(),
        created_at: now,
    };
    let is_enabled = change.is_enabled != Change::Set(false);
    change.apply_to(&mut destination);
    Some((destination, is_enabled))
}

/// Checks an address. Returns its normalised spelling, and the name of the queue of an inline destination with it.
async fn resolve(
    egress: &Egress,
    app: AppNo,
    channel: ChannelKind,
    address: &channels::ParsedAddress,
    until: Moment,
) -> Result<(String, String), AddressError> {
    let target = check(egress, app, address, until).await?;
    let text = address_of(address, target.as_ref()).to_owned();
    let queue = channels::spec(channel).queue_name(app, &text, target.as_ref());
    Ok((text, queue))
}

/// A change of a saved destination. At least one field is required. `null` removes a value.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase", min_properties = 1)]
#[expect(dead_code, reason = "`read_change` reads it field by field; a test compares the two")]
struct DestinationAmendment {
    /// Name for people.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Description for people.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// The channel; it cannot be changed.
    r#type: Option<ChannelKind>,
    /// URL of a webhook, or of a Slack webhook.
    url: Option<String>,
    /// Mail address; `address` and `to` are synonyms.
    email: Option<String>,
    /// Synonym of `email`.
    address: Option<String>,
    /// Synonym of `email`.
    to: Option<String>,
    /// Slack channel, as `#ops`; `slack` is a synonym.
    channel: Option<String>,
    /// Synonym of `url` or `channel`, for Slack.
    slack: Option<String>,
    /// Additional headers of a webhook. They replace all headers.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<()>,
    /// Form of the signature of a webhook.
    signature: Option<SignatureForm>,
    /// The keys that sign in the standard form.
    keys: Option<Vec<KeyKind>>,
    /// How requests to a webhook authenticate themselves. It replaces the whole authentication.
    auth: Option<AuthRequest>,
    /// TLS identity for the connections to a webhook. It replaces the whole identity.
    tls: Option<TlsRequest>,
    /// Events that it receives. Null: every event that ends a watch.
    #[schema(min_items = 1)]
    events: Option<Vec<String>>,
    /// `false` disables it, `true` enables it.
    enabled: Option<bool>,
    /// Whether it receives the watches whose registration names no destination.
    default: Option<bool>,
    /// Maximum rate of attempts, at most `1000/s`.
    #[schema(example = "10/s")]
    rate: Option<String>,
    /// Maximum number of attempts in progress.
    #[schema(minimum = 1, maximum = 512)]
    concurrency: Option<u32>,
    /// Whether an event waits for the retries of earlier events of its watch.
    ordered: Option<bool>,
}

/// Change a saved destination
///
/// The change applies to pending deliveries, too. A destination that is disabled receives nothing: new deliveries to it
/// are skipped, and pending ones as well.
#[utoipa::path(
    patch, path = "/v1/destinations/{id}", operation_id = "updateDestination", tag = "Destinations",
    security(("key" = ["write"])), params(("id" = DestinationId, Path)),
    request_body(content = DestinationAmendment, example = json!({"rate": "5/s", "enabled": false})),
    responses(
        (status = 200, description = "The destination after the change.", body = SavedDestinationView),
        (status = 409, description = "The destination is in the server's configuration file."),
    )
)]
pub async fn update(call: Call) -> Answer {
    let id = call.only_id(DestinationId::parse)?;
    let (api, app) = (&call.api, call.app());
    let text = call.json(BODY_MAX).await?;
    let before = find(&call, id).await?;
    let mut after = before.clone();
    let channel = after.address.channel;
    let mut errors = FieldErrors::default();
    let change = read_change(&api.channels, channel, &text, &mut errors);
    let (address, mut change) = change.unwrap_or_default();
    if let Some((at, address)) = address {
        let found = resolve(&api.egress, app, channel, &address, Moment::MAX).await;
        change.address = errors.keep(at, found).map_or(Change::Kept, Change::Set);
    }
    if let Change::Set(Some(auth @ Auth::Oauth2(_))) = &change.auth {
        check_token_url(&api.egress, app, auth, ("", Moment::MAX), &mut errors).await;
    }
    change.clone().apply_to(&mut after);
    check_together(&after.address, &change, &mut errors);
    check_new_origin((&before.address, &after.address), &change, &mut errors);
    errors.check()?;
    call.reserve_answer(ANSWER_MAX)?;
    let update = UpdateDestination { app, id, change, now: api.clock.now() };
    let after = api.store.update_destination(update).await?.map_err(refused)?;
    Ok(shown(&after).into_response())
}

type ChangedAddress = Option<(String, channels::ParsedAddress)>;

/// Reads a change of a destination of a channel. `None`: there are errors.
fn read_change(
    channels: &Channels,
    channel: ChannelKind,
    text: &str,
    errors: &mut FieldErrors,
) -> Option<(ChangedAddress, DestinationChange)> {
    let raw: &RawValue = serde_json::from_str(text).unwrap_or(RawValue::NULL);
    let mut fields = ObjectReader::read(raw, "", errors)?;
    if fields.has_no_field() {
        let detail = "must have at least one field to change";
        fields.errors.add("", FieldErrorCode::Empty, detail);
    }
    let spec = channels::spec(channel);
    if fields.text("type").is_some_and(|word| word != channel.as_str()) {
        let detail = format!("cannot be changed from {channel}; save another destination");
        fields.error("type", FieldErrorCode::Conflict, detail);
    }
    if fields.take_other("secret").is_some() {
        let detail = "cannot be changed; use POST /v1/destinations/{id}/rotate-secret";
        fields.error("secret", FieldErrorCode::UnknownField, detail);
    }
    let mut change = settings(&mut fields);
    if spec.is_signed {
        change.headers = match nullable(&mut fields, "headers", |fields, name| {
            fields.has(name).then(|| headers(fields))
        }) {
            Change::Set(headers) => Change::Set(headers.unwrap_or_default()),
            Change::Kept => Change::Kept,
        };
        read_signing(&mut fields, &mut change);
    }
    let has_address = spec.address_fields.iter().any(|name| fields.has(name));
    let found = if has_address { one_of(&mut fields, spec.address_fields) } else { None };
    let address = found.and_then(|(at, text)| {
        let parsed = fields.errors.keep(&at, channels.parse_address(channel, &text))?;
        Some((at, parsed))
    });
    own_fields().for_each(|name| fields.drop_null(name));
    fields.done();
    Some((address, change))
}

/// Delete a saved destination
///
/// Its deliveries that are pending are skipped. The address stays readable in earlier deliveries until their watches
/// are deleted after the retention time.
#[utoipa::path(
    delete, path = "/v1/destinations/{id}", operation_id = "deleteDestination", tag = "Destinations",
    security(("key" = ["write"])), params(("id" = DestinationId, Path)),
    responses(
        (status = 204, description = "The destination is deleted."),
        (status = 409, description = "A running watch or an open group names the destination, or it is in the server's \
            configuration file."),
    )
)]
pub async fn remove(call: Call) -> Answer {
    let id = call.only_id(DestinationId::parse)?;
    let (api, app) = (&call.api, call.app());
    let destination = find(&call, id).await?;
    let refusal = if destination.is_managed {
        Some(DestinationRefusal::Managed)
    } else {
        api.store.destination_user(app, destination.queue.no).await?.map(DestinationRefusal::InUse)
    };
    if let Some(refusal) = refusal {
        return Err(refused(refusal).into());
    }
    let delete = DeleteDestination { app, id, now: api.clock.now() };
    api.store.delete_destination(delete).await?.map_err(refused)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// How to enable a destination.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
struct Enabling {
    /// Whether the deliveries are sent that were skipped because the destination was disabled. Default: `false`.
    #[schema(value_type = Option<bool>)]
    retry_skipped: bool,
}

/// Enable a saved destination
///
/// With `retrySkipped`, the deliveries that were skipped as `disabled` become pending within seconds, 200 at a time,
/// except those of stopped watches and the progress of watches that have ended. A destination of the configuration file
/// can be enabled if attempts have disabled it.
#[utoipa::path(
    post, path = "/v1/destinations/{id}/enable", operation_id = "enableDestination", tag = "Destinations",
    security(("key" = ["write"])), params(("id" = DestinationId, Path)),
    request_body(content = Option<Enabling>, example = json!({"retrySkipped": true})),
    responses(
        (status = 200, description = "The destination, enabled.", body = SavedDestinationView),
        (status = 409, description = "The configuration file of the server disables the destination; or a request with \
            this Idempotency-Key is in progress."),
    )
)]
pub async fn enable(call: Call) -> Answer {
    let write = call.write(Content::Optional).await?;
    let Enabling { retry_skipped } = write.object(|fields| {
        let retry_skipped = fields.boolean("retrySkipped").unwrap_or_default();
        Some(Enabling { retry_skipped })
    })?;
    let (api, app, id) = (&write.api, write.app(), write.id(DestinationId::parse)?);
    write.reserve_answer(ANSWER_MAX)?;
    let enable = EnableDestination { app, id, retry_skipped, now: api.clock.now() };
    let enable = Idempotent::new(enable, write.key(), |after: &SavedDestination| Some(shown(after)));
    let after = api.store.enable_destination(enable).await??.map_err(refused)?;
    Ok(shown(&after).into_response())
}

/// How to replace the secret of a destination.
#[derive(ToSchema)]
struct SecretRotation {
    /// Time in which the previous secret signs, too, `0s` to `30d`. Default: `24h`.
    #[schema(example = "24h", default = "24h", value_type = Option<String>)]
    grace: Duration,
}

/// The secret of a saved destination.
#[derive(Serialize, ToSchema)]
struct DestinationSecret<'a> {
    /// `whsec_` and base64.
    secret: &'a str,
    /// The previous secret, while it signs, too.
    #[schema(required)]
    previous: Option<PreviousSecret>,
}

/// Replace the secret of a saved destination
///
/// The answer shows the new secret, once. During the grace both the new and the previous secret sign:
/// `webhook-signature` holds two signatures, separated by a space. A secret that is older still is dropped.
#[utoipa::path(
    post, path = "/v1/destinations/{id}/rotate-secret", operation_id = "rotateDestinationSecret", tag = "Destinations",
    security(("key" = ["write"])), params(("id" = DestinationId, Path)),
    request_body(content = Option<SecretRotation>, example = json!({"grace": "24h"})),
    responses(
        (status = 200, description = "The new secret.", body = DestinationSecret),
        (status = 409, description = "The destination is in the server's configuration file; or a request with this \
            Idempotency-Key is in progress, or the key was used with another API key."),
    )
)]
pub async fn rotate_secret(call: Call) -> Answer {
    let write = call.write_secret(Content::Optional).await?;
    let SecretRotation { grace } = write.object(|fields| {
        let grace = fields.duration("grace", GRACE).unwrap_or(GRACE_DEFAULT);
        Some(SecretRotation { grace })
    })?;
    let (api, app, id) = (&write.api, write.app(), write.id(DestinationId::parse)?);
    let SavedAddress { channel, signing, .. } = find(&write, id).await?.address;
    if !has_secret(signing.as_deref()) {
        let detail =
            "no secret signs the requests to this destination; change its `signature` and `keys` first";
        return Err(Problem::target(FieldErrorCode::Conflict, detail).into());
    }
    if !channels::spec(channel).is_signed {
        let detail =
            format!("a destination of the channel {channel} has no secret; only webhooks are signed");
        return Err(Problem::target(FieldErrorCode::Conflict, detail).into());
    }
    let (now, secret) = (api.clock.now(), Masked::new(Secret::generate().expose()));
    let old_until = Some(now.plus(grace)).filter(|until| *until > now);
    let previous = old_until.map(|expires_at| PreviousSecret { expires_at });
    let answer = first_answer(StatusCode::OK, &DestinationSecret { secret: secret.reveal(), previous });
    let rotate = RotateDestinationSecret { app, id, secret, old_until, now };
    let rotate = Idempotent::with_response(rotate, write.key(), &answer);
    api.store.rotate_destination_secret(rotate).await??.map_err(refused)?;
    Ok(answer.into_response())
}
