//! The destinations of a watch: parsing them, resolving their addresses, and showing them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::access_fields::{self, AuthRequest, AuthView};
use super::http::object_reader::{self, pointer};
use super::http::{Api, FieldErrorCode, FieldErrors, Invalid, ObjectReader, Problem, not_one_of};
use super::signing_fields::SigningFields;
use super::waiting::{WaitingView, Waits};
use crate::channels::webhook::check_header;
use crate::channels::{self, ChannelSpec, Channels, ParsedAddress, Shorthand, ShownAddress};
use crate::clock::Moment;
use crate::domain::{
    Access, AddressError, AppNo, Auth, ChannelKind, DeliveryId, DeliveryStatus, Destination, DestinationId,
    KeyKind, LatestDelivery, Reason, SignatureForm, Signing, Timestamp,
};
use crate::egress::{self, Egress};

/// Maximum number of destinations of a watch.
pub(super) const DESTINATIONS_MAX: usize = 20;

/// Maximum number of destinations in a request, duplicates included.
pub(super) const ENTRIES_MAX: usize = 100;

/// Maximum number of custom headers of a destination, and the maximum size of each value in bytes.
const HEADERS_MAX: usize = 32;
const HEADER_MAX: usize = 4 * 1024;

/// A string, or a list of strings.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "part of `Registration`")]
pub enum OneOrMany {
    /// One string.
    One(String),
    /// Several strings.
    Many(Vec<String>),
}

/// A destination: a URL, `mailto:` and an address, or an object.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[expect(dead_code, clippy::large_enum_variant, reason = "part of `Registration`, and never made")]
pub enum Target {
    /// A URL, or `mailto:` and an address.
    Plain(String),
    /// A destination with options.
    Object(TargetObject),
}

/// A destination with options.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetObject {
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
    /// Form of the signature of this webhook. Default: `standard`.
    signature: Option<SignatureForm>,
    /// The keys that sign in the standard form. Default: `hmac`.
    keys: Option<Vec<KeyKind>>,
    /// Signing secret of this webhook, instead of the app's: `whsec_` and the base64 of 24 to 64 bytes; for the
    /// signatures `github` and `stripe`, any text of 8 to 256 printable ASCII characters.
    secret: Option<String>,
    /// How requests to this webhook authenticate themselves.
    auth: Option<AuthRequest>,
    /// Id of a saved destination, without any other field.
    destination_id: Option<DestinationId>,
}

/// A destination as a client requests it.
#[derive(PartialEq)]
pub(super) enum DestinationRequest {
    /// One with an address.
    Inline(InlineRequest),
    /// A saved one.
    Saved(DestinationId),
    /// The saved ones that receive what names no destination.
    Default,
}

/// A channel and an address as a client requests them; the host name is not resolved yet.
#[derive(PartialEq)]
pub(super) struct InlineRequest {
    pub(super) channel: ChannelKind,
    pub(super) address: ParsedAddress,
    pub(super) headers: Vec<(String, String)>,
    pub(super) signing: SigningFields,
    pub(super) auth: Option<Box<Auth>>,
}

/// The requests of a client, each with the JSON pointer to it.
pub(super) type DestinationRequests = Vec<(String, DestinationRequest)>;

/// Parses every destination of a registration. A watch in a group needs none, and gets none by default.
pub(super) fn destination_requests(
    api: &Api,
    fields: &mut ObjectReader<'_, '_>,
    has_group: bool,
) -> DestinationRequests {
    let shorthands = channels::TABLE.iter().filter_map(|spec| Some((spec.kind, spec.shorthand?)));
    let mut reader = DestinationReader::new(&api.channels);
    let has_one = has_group || fields.has("notify") || fields.has("destinationId");
    if !has_one && !shorthands.clone().any(|(_, shorthand)| fields.has(shorthand.field)) {
        reader.requests.push((fields.at("callbackUrl"), DestinationRequest::Default));
    }
    if let Some(id) = saved_id(fields) {
        reader.requests.push((fields.at("destinationId"), DestinationRequest::Saved(id)));
    }
    for (channel, Shorthand { field, is_list }) in shorthands {
        let at = fields.at(field);
        let Some(raw) = fields.take(field) else { continue };
        match object_reader::text(raw) {
            Some(text) => reader.address(channel, &text, at, fields.errors),
            None if is_list => reader.addresses(channel, raw, &at, fields.errors),
            None => {
                let (code, detail) = object_reader::not_text(raw, "must be a string");
                fields.error(field, code, detail);
            }
        }
    }
    if let Some(list) = fields.list("notify", ENTRIES_MAX) {
        reader.list(list, &fields.at("notify"), fields.errors);
    }
    reader.requests
}

/// Takes the id of a saved destination.
fn saved_id(fields: &mut ObjectReader<'_, '_>) -> Option<DestinationId> {
    let wrong =
        (FieldErrorCode::InvalidFormat, "is not a destination's id, which begins with dst_".to_owned());
    fields.parsed("destinationId", |text| DestinationId::parse(text).ok_or(wrong))
}

/// The detail for a text in `notify` that is no URL.
const PLAIN: &str = "must be a URL that begins with https://, or mailto: and a mail address; for a Slack channel, give \
                     an object: {\"type\": \"slack\", \"channel\": \"#ops\"}";

/// Parser of destinations.
pub(super) struct DestinationReader<'a> {
    channels: &'a Channels,
    /// The destinations so far.
    pub(super) requests: DestinationRequests,
}

impl<'a> DestinationReader<'a> {
    pub(super) fn new(channels: &'a Channels) -> Self {
        Self { channels, requests: Vec::new() }
    }

    /// Parses a list of destinations.
    pub(super) fn list(&mut self, list: Vec<&RawValue>, at: &str, errors: &mut FieldErrors) {
        for (n, raw) in list.into_iter().enumerate() {
            self.one(raw, format!("{at}/{n}"), errors);
        }
    }

    /// Parses a destination.
    pub(super) fn one(&mut self, raw: &RawValue, at: String, errors: &mut FieldErrors) {
        if let Some(text) = object_reader::text(raw) {
            let (channel, address) = channels::recognize(&text);
            if channel == channels::DEFAULT && !text.contains(':') {
                errors.add(at, FieldErrorCode::InvalidAddress, PLAIN);
            } else {
                self.address(channel, &address, at, errors);
            }
        } else if raw.get().starts_with('{') {
            self.object(raw, &at, errors);
        } else {
            let (code, detail) = object_reader::not_text(raw, "must be a string or an object");
            errors.add(at, code, detail);
        }
    }

    /// Parses a list of addresses of a channel.
    fn addresses(&mut self, channel: ChannelKind, raw: &RawValue, at: &str, errors: &mut FieldErrors) {
        let Some(list) = object_reader::first(raw, ENTRIES_MAX) else {
            let (code, detail) = object_reader::not_text(raw, "must be a string or a list of strings");
            return errors.add(at, code, detail);
        };
        if list.is_empty() {
            errors.add(at, FieldErrorCode::Empty, "must not be empty");
        }
        for (n, raw) in list.into_iter().enumerate() {
            let at = format!("{at}/{n}");
            if let Some(address) = object_reader::string(raw, &at, errors) {
                self.address(channel, &address, at, errors);
            }
        }
    }

    /// Parses an address of a channel.
    fn address(&mut self, channel: ChannelKind, text: &str, at: String, errors: &mut FieldErrors) {
        if let Some(address) = errors.keep(&at, self.channels.parse_address(channel, text)) {
            let (headers, signing) = (Vec::new(), SigningFields::default());
            let request = InlineRequest { channel, address, headers, signing, auth: None };
            self.requests.push((at, DestinationRequest::Inline(request)));
        }
    }

    /// Parses a destination that is an object.
    fn object(&mut self, raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<()> {
        let mut fields = ObjectReader::read(raw, at, errors)?;
        if fields.has("destinationId") {
            let id = saved_id(&mut fields);
            for name in own_fields().chain(["type"]) {
                if fields.take(name).is_some() {
                    let detail = "cannot be used with destinationId; change the saved destination";
                    fields.error(name, FieldErrorCode::Conflict, detail);
                }
            }
            let at = fields.at("destinationId");
            fields.done();
            self.requests.push((at, DestinationRequest::Saved(id?)));
            return Some(());
        }
        let request = inline(self.channels, &mut fields);
        if fields.take_other("tls").is_some() {
            let detail =
                "is for saved destinations; save one with POST /v1/destinations, and give its destinationId";
            fields.error("tls", FieldErrorCode::UnknownField, detail);
        }
        own_fields().for_each(|name| fields.drop_null(name));
        fields.done();
        let (at, request) = request?;
        self.requests.push((at, DestinationRequest::Inline(request)));
        Some(())
    }
}

/// Returns the fields of a destination object that depend on the channel.
pub(super) fn own_fields() -> impl Iterator<Item = &'static str> {
    let of_channels = channels::TABLE.iter().flat_map(|spec| spec.address_fields);
    of_channels.copied().chain(["headers", "signature", "keys", "secret", "auth", "tls"])
}

/// Takes the fields of a channel and its address. Returns the pointer to the address as well.
pub(super) fn inline(
    channels: &Channels,
    fields: &mut ObjectReader<'_, '_>,
) -> Option<(String, InlineRequest)> {
    let has_type = fields.has("type");
    let channel = match fields.text("type") {
        None => {
            if let (false, Some((spec, field))) = (has_type, other_channel(fields)) {
                let kind = spec.kind.as_str();
                let detail = format!(
                    "is required with {field}, a field of another channel than the default; set it to \"{kind}\""
                );
                own_fields().for_each(|name| _ = fields.take(name));
                fields.error("type", FieldErrorCode::Required, &detail);
                return None;
            }
            channels::DEFAULT
        }
        Some(word) => {
            let allowed = ChannelKind::WORDS.iter().copied();
            let parsed = ChannelKind::parse(&word).ok_or_else(|| not_one_of(&word, allowed));
            let Some(channel) = fields.keep("type", parsed) else {
                // It is not known which of these fields the channel has.
                own_fields().for_each(|name| _ = fields.take(name));
                return None;
            };
            channel
        }
    };
    let spec = channels::spec(channel);
    let found = one_of(fields, spec.address_fields);
    let (mut headers, mut signing, mut auth) = (Vec::new(), SigningFields::default(), None);
    if spec.is_signed {
        signing = SigningFields::read(fields);
        headers = self::headers(fields);
        auth = access_fields::auth(fields).map(Box::new);
        signing.check_headers(&headers, fields);
        access_fields::check_headers(auth.as_deref(), &headers, fields);
    }
    let (at, text) = found?;
    let address = fields.errors.keep(&at, channels.parse_address(channel, &text))?;
    Some((at, InlineRequest { channel, address, headers, signing, auth }))
}

/// Returns the channel that a destination without a type seems to mean: it has a field for an address of that channel,
/// and none of the default channel.
fn other_channel(fields: &mut ObjectReader<'_, '_>) -> Option<(&'static ChannelSpec, &'static str)> {
    if channels::spec(channels::DEFAULT).address_fields.iter().any(|name| fields.has(name)) {
        return None;
    }
    channels::TABLE.iter().find_map(|spec| {
        let field = spec.address_fields.iter().find(|name| fields.has(name))?;
        Some((spec, *field))
    })
}

/// Takes the string that stands under exactly one of these names.
pub(super) fn one_of(fields: &mut ObjectReader<'_, '_>, names: &[&'static str]) -> Option<(String, String)> {
    let present: Vec<_> = names.iter().copied().filter(|name| fields.has(name)).collect();
    let mut present = present.into_iter();
    let Some(name) = present.next() else {
        fields.required_text(names[0]);
        return None;
    };
    let text = fields.text(name);
    for extra in present {
        fields.take(extra);
        let detail = format!("cannot be used with {name}; give one of {}", names.join(", "));
        fields.error(extra, FieldErrorCode::Conflict, detail);
    }
    Some((fields.at(name), text?))
}

/// Takes the additional headers of a webhook.
pub(super) fn headers(fields: &mut ObjectReader<'_, '_>) -> Vec<(String, String)> {
    let at = fields.at("headers");
    let object = fields.take("headers").and_then(|raw| ObjectReader::read(raw, &at, fields.errors));
    let pairs = object.map(ObjectReader::rest).unwrap_or_default();
    if pairs.len() > HEADERS_MAX {
        let detail = format!("must not have more than {HEADERS_MAX} headers");
        fields.error("headers", FieldErrorCode::TooMany, detail);
        return Vec::new();
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, raw) in pairs {
        let at = pointer(&at, &name);
        let lower = name.to_ascii_lowercase();
        let Some(value) = object_reader::string(raw, &at, fields.errors) else { continue };
        if value.len() > HEADER_MAX {
            fields.errors.add(at, FieldErrorCode::TooLong, "must not be longer than 4 KiB");
        } else if headers.iter().any(|(known, _)| *known == lower) {
            fields.errors.add(at, FieldErrorCode::Duplicate, "is given twice");
        } else if let Err(detail) = check_header(&name, &value) {
            fields.errors.add(at, FieldErrorCode::InvalidHeader, detail);
        } else {
            headers.push((lower, value));
        }
    }
    headers
}

/// Resolves every address, reads every saved destination, and makes one destination of each.
pub(super) async fn destinations(
    api: &Api,
    app: AppNo,
    requests: &[(String, DestinationRequest)],
    (now, until): (Timestamp, Moment),
    errors: &mut FieldErrors,
) -> Result<Vec<Destination>, Problem> {
    // Equal requests are one destination. Different spellings of one address are found below.
    let mut distinct: Vec<&(String, DestinationRequest)> =
        Vec::with_capacity(requests.len().min(DESTINATIONS_MAX));
    for request in requests.iter().take(ENTRIES_MAX) {
        if !distinct.iter().any(|known| known.1 == request.1) {
            distinct.push(request);
        }
    }
    if distinct.len() > DESTINATIONS_MAX || requests.len() > ENTRIES_MAX {
        let detail = format!("must not have more than {DESTINATIONS_MAX} destinations");
        errors.add("/notify", FieldErrorCode::TooMany, detail);
        return Ok(Vec::new());
    }
    let mut saved = saved_destinations(api, app, &distinct).await?;
    let mut destinations: Vec<Destination> = Vec::with_capacity(distinct.len());
    // All at the same time, because each can take a second.
    let targets =
        join_all(distinct.iter().map(|(_, request)| check_request(&api.egress, app, request, until)));
    let targets = targets.await;
    check_token_urls(&api.egress, app, &distinct, until, errors).await;
    for ((at, request), target) in distinct.iter().zip(targets) {
        let Some(target) = errors.keep(at, target) else { continue };
        match request {
            DestinationRequest::Inline(request) => {
                let id = || DestinationId(api.store.ids().draw(now));
                add_inline(&mut destinations, (app, id), (at, request), target.as_ref(), errors);
            }
            DestinationRequest::Saved(id) => {
                match saved.iter().position(|(destination, _)| destination.id == *id) {
                    None => errors.add(at, FieldErrorCode::UnknownDestination, UNKNOWN),
                    Some(n) if !saved[n].1 => {
                        let detail = format!("is disabled; enable it with POST /v1/destinations/{id}/enable");
                        errors.add(at, FieldErrorCode::DestinationDisabled, detail);
                    }
                    Some(n) => destinations.push(saved.swap_remove(n).0),
                }
            }
            DestinationRequest::Default => {
                let most = u32::try_from(DESTINATIONS_MAX).unwrap_or(u32::MAX);
                let found = api.store.default_destinations(app, most + 1).await?;
                if let Err((code, detail)) = check_defaults(&found) {
                    errors.add(at, code, detail);
                }
                destinations = found.into_iter().map(|(destination, _)| destination).collect();
            }
        }
    }
    Ok(destinations)
}

/// The detail for an unknown saved destination.
pub(super) const UNKNOWN: &str =
    "there is no saved destination with this id in this app; GET /v1/destinations lists them";

/// The detail for a registration that names no destination.
const NOWHERE: &str = "is required to say where to send events; or use email, slack or notify (`[]` for nowhere), or \
                       save a destination with `default`";

/// Checks the default destinations of a registration that names none, each with whether it is enabled. One that is
/// enabled suffices: for the others, deliveries are created as skipped, and sent after they are enabled.
fn check_defaults(defaults: &[(Destination, bool)]) -> Result<(), Invalid> {
    if defaults.is_empty() {
        return Err((FieldErrorCode::Required, NOWHERE.to_owned()));
    }
    if defaults.len() > DESTINATIONS_MAX {
        let detail = format!("the app has more than {DESTINATIONS_MAX} default destinations; name some");
        return Err((FieldErrorCode::TooMany, detail));
    }
    if defaults.iter().any(|(_, is_enabled)| *is_enabled) {
        return Ok(());
    }
    let ids: Vec<String> = defaults.iter().map(|(destination, _)| destination.id.to_string()).collect();
    let (which, ids) = (if ids.len() == 1 { "is" } else { "are all" }, ids.join(", "));
    let detail = format!(
        "is required, because the default destinations of the app {which} disabled ({ids}); enable one with POST \
         /v1/destinations/{{id}}/enable, or name a destination here (`\"notify\": []` for nowhere)"
    );
    Err((FieldErrorCode::DestinationDisabled, detail))
}

/// Reads the saved destinations of requests, each with whether it is enabled. Without one, nothing is read.
async fn saved_destinations(
    api: &Api,
    app: AppNo,
    requests: &[&(String, DestinationRequest)],
) -> Result<Vec<(Destination, bool)>, Problem> {
    let id = |(_, request): &&(String, DestinationRequest)| match request {
        DestinationRequest::Saved(id) => Some(*id),
        DestinationRequest::Inline(_) | DestinationRequest::Default => None,
    };
    let ids: Vec<DestinationId> = requests.iter().filter_map(id).collect();
    if ids.is_empty() { Ok(Vec::new()) } else { Ok(api.store.destinations_to_use(app, ids).await?) }
}

/// Adds an inline destination, unless it is there already.
fn add_inline(
    destinations: &mut Vec<Destination>,
    (app, id): (AppNo, impl FnOnce() -> DestinationId),
    (at, request): (&str, &InlineRequest),
    target: Option<&egress::Target>,
    errors: &mut FieldErrors,
) {
    let address = address_of(&request.address, target);
    let channel = request.channel;
    let is_same =
        |known: &&Destination| known.saved.is_none() && known.address == address && known.channel == channel;
    match destinations.iter().find(is_same) {
        Some(known)
            if known.headers == request.headers
                && known.secret == request.signing.secret
                && known.signing == request.signing.signing
                && known.access.as_ref().and_then(|access| access.auth.as_ref())
                    == request.auth.as_deref() => {}
        Some(_) => {
            let detail = "is given twice, with different headers, signatures or credentials; give it once";
            errors.add(at, FieldErrorCode::Duplicate, detail);
        }
        None => destinations.push(Destination {
            id: id(),
            channel,
            address: address.to_owned(),
            queue: channels::spec(channel).queue_name(app, address, target),
            headers: request.headers.clone(),
            secret: request.signing.secret.clone(),
            signing: request.signing.signing.clone(),
            access: Access::of(request.auth.as_deref().cloned(), None),
            saved: None,
        }),
    }
}

/// Checks the token URLs of inline destinations. Few have one, so nothing is awaited for the others.
async fn check_token_urls(
    egress: &Egress,
    app: AppNo,
    requests: &[&(String, DestinationRequest)],
    until: Moment,
    errors: &mut FieldErrors,
) {
    for (at, request) in requests {
        if let DestinationRequest::Inline(InlineRequest { auth: Some(auth), .. }) = request {
            let object = at.rsplit_once('/').map_or("", |(object, _)| object);
            check_token_url(egress, app, auth, (object, until), errors).await;
        }
    }
}

/// Checks the token URL of an authentication as the address of a destination. `object` is the pointer to the
/// destination.
pub(super) async fn check_token_url(
    egress: &Egress,
    app: AppNo,
    auth: &Auth,
    (object, until): (&str, Moment),
    errors: &mut FieldErrors,
) {
    let Auth::Oauth2(client) = auth else { return };
    let address = ParsedAddress::Url(client.token_url.clone());
    errors.keep(format!("{object}/auth/tokenUrl"), check(egress, app, &address, until).await);
}

/// Returns an address in its normalised spelling. `target` is the checked URL, where the address is one.
pub(super) fn address_of<'a>(address: &'a ParsedAddress, target: Option<&'a egress::Target>) -> &'a str {
    match (target, address) {
        (Some(target), _) => target.as_str(),
        (None, ParsedAddress::Url(text) | ParsedAddress::Text(text)) => text,
    }
}

/// Checks the address of a request; a saved destination was checked before.
async fn check_request(
    egress: &Egress,
    app: AppNo,
    request: &DestinationRequest,
    until: Moment,
) -> Result<Option<egress::Target>, AddressError> {
    match request {
        DestinationRequest::Inline(request) => check(egress, app, &request.address, until).await,
        DestinationRequest::Saved(_) | DestinationRequest::Default => Ok(None),
    }
}

/// Checks a URL and resolves its name; `None` for an address without a URL. A panic is an error of this address
/// alone: it ends neither the connection nor a batch.
pub(super) async fn check(
    egress: &Egress,
    app: AppNo,
    address: &ParsedAddress,
    until: Moment,
) -> Result<Option<egress::Target>, AddressError> {
    let ParsedAddress::Url(url) = address else { return Ok(None) };
    check_url(egress, app, url, until).await.map(Some)
}

/// Checks a URL and resolves its name, as [`check`] does.
pub(super) async fn check_url(
    egress: &Egress,
    app: AppNo,
    url: &str,
    until: Moment,
) -> Result<egress::Target, AddressError> {
    let checked = AssertUnwindSafe(egress.check(app, url, until)).catch_unwind().await;
    let panicked = |_| Err(AddressError::Invalid("could not be resolved; send the request again".to_owned()));
    checked.unwrap_or_else(panicked)
}

/// A destination of a watch.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Destination)]
pub struct DestinationView<'a> {
    id: DestinationId,
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
    /// Status of the newest delivery of the watch to this destination; null before the first.
    #[schema(required)]
    status: Option<DeliveryStatus>,
    /// Why it ended without success.
    #[schema(required)]
    reason: Option<Reason>,
    /// Id of the newest delivery.
    #[schema(required)]
    delivery_id: Option<DeliveryId>,
    /// Number of its attempts.
    attempt_count: u32,
    /// Error of its last attempt; null if that succeeded.
    #[schema(required)]
    last_error: Option<&'a str>,
    /// Time at which its next attempt is due; null if none follows.
    #[schema(required)]
    next_attempt_at: Option<Timestamp>,
    /// Why it is due and not attempted now; null if its time has not come, or if it is being attempted.
    #[schema(required)]
    waiting: Option<&'a WaitingView>,
}

impl<'a> DestinationView<'a> {
    /// Shows a destination of a watch.
    pub fn of(
        (destination, latest): &'a (Destination, Option<LatestDelivery>),
        waits: Option<&'a Waits>,
    ) -> Self {
        let latest = latest.as_ref();
        let (signature, keys) = destination.signing.as_deref().map(Signing::shown).unwrap_or_default();
        Self {
            id: destination.id,
            address: Address::of(destination.channel, &destination.address),
            headers: destination.headers.iter().map(|(name, _)| (name.as_str(), "***")).collect(),
            signature,
            keys,
            status: latest.map(|latest| latest.status),
            reason: latest.and_then(|latest| latest.reason),
            delivery_id: latest.map(|latest| latest.id),
            attempt_count: latest.map_or(0, |latest| latest.attempt_count),
            last_error: latest.and_then(|latest| latest.last_error.as_deref()),
            next_attempt_at: latest.and_then(|latest| latest.next_attempt_at),
            waiting: waits.zip(latest).and_then(|(waits, latest)| waits.get(latest.id)),
            auth: AuthView::of(destination.access.as_deref()),
        }
    }
}

/// A destination's address, in the field that belongs to its channel.
#[derive(Serialize, ToSchema)]
pub struct Address<'a> {
    /// The channel.
    r#type: ChannelKind,
    /// URL of a webhook, or the masked URL of a Slack webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    url: Option<Cow<'a, str>>,
    /// Mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    email: Option<&'a str>,
    /// Slack channel, as `#ops`.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// Shows an address.
    pub fn of(r#type: ChannelKind, address: &'a str) -> Self {
        let empty = Self { r#type, url: None, email: None, channel: None };
        match (channels::spec(r#type).show)(address) {
            ShownAddress::Url(url) => Self { url: Some(url), ..empty },
            ShownAddress::Email(email) => Self { email: Some(email), ..empty },
            ShownAddress::Channel(channel) => Self { channel: Some(channel), ..empty },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, ManualClock};
    use crate::egress::{Resolver, Settings};

    #[tokio::test]
    async fn a_panic_in_a_name_lookup_is_an_error_of_its_address() {
        let clock = Clock::Manual(ManualClock::at(Timestamp::from_millis(0)));
        let resolver = Resolver::fixed(|name| panic!("{name}"));
        let egress = Egress::new(Settings::default(), resolver, clock, Vec::new()).expect("an egress");
        let address = ParsedAddress::Url("https://app.example.com/".to_owned());
        let checked = check(&egress, AppNo(1), &address, Moment::MAX).await;
        assert!(matches!(&checked, Err(AddressError::Invalid(_))), "{checked:?}");
        let text = ParsedAddress::Text("#ops".to_owned());
        assert!(matches!(check(&egress, AppNo(1), &text, Moment::MAX).await, Ok(None)));
    }
}
