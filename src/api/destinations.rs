//! The destinations of a watch: parsing them, resolving their addresses, and showing them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::http::object_reader::{self, pointer};
use super::http::{Api, FieldErrorCode, FieldErrors, ObjectReader, not_one_of};
use super::signing_fields::SigningFields;
use crate::channels::webhook::check_header;
use crate::channels::{self, ParsedAddress, Shorthand, ShownAddress};
use crate::clock::Moment;
use crate::domain::{
    AddressError, AppNo, ChannelKind, DeliveryStatus, Destination, DestinationId, KeyKind, SignatureForm,
    Timestamp,
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
#[expect(dead_code, reason = "part of `Registration`")]
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
    /// Id of a saved destination. This version has none.
    destination_id: Option<DestinationId>,
}

/// A destination as a client requests it; its host name is not resolved yet.
#[derive(PartialEq)]
pub(super) struct DestinationRequest {
    channel: ChannelKind,
    address: ParsedAddress,
    headers: Vec<(String, String)>,
    signing: SigningFields,
}

/// The requests of a client, each with the JSON pointer to it.
pub(super) type DestinationRequests = Vec<(String, DestinationRequest)>;

/// The detail for a saved destination.
const NOT_SAVED: &str = "this version has no saved destinations; give the address itself";

/// Parses every destination of a registration.
pub(super) fn destination_requests(api: &Api, fields: &mut ObjectReader<'_, '_>) -> DestinationRequests {
    let shorthands = channels::TABLE.iter().filter_map(|spec| Some((spec.kind, spec.shorthand?)));
    if !fields.has("notify") && !shorthands.clone().any(|(_, shorthand)| fields.has(shorthand.field)) {
        let detail =
            "is required to say where to send events; or use email, slack or notify (`[]` for nowhere)";
        fields.error("callbackUrl", FieldErrorCode::Required, detail);
    }
    if fields.take("destinationId").is_some() {
        fields.error("destinationId", FieldErrorCode::Unsupported, NOT_SAVED);
    }
    let mut reader = DestinationReader::new(api);
    for (channel, Shorthand { field, is_list }) in shorthands {
        let at = fields.at(field);
        let Some(raw) = fields.take(field) else { continue };
        match object_reader::text(raw) {
            Some(text) => _ = reader.address(channel, &text, at, fields.errors),
            None if is_list => reader.addresses(channel, raw, &at, fields.errors),
            None => fields.error(field, FieldErrorCode::InvalidType, "must be a string"),
        }
    }
    if let Some(list) = fields.list("notify", ENTRIES_MAX) {
        reader.list(list, &fields.at("notify"), fields.errors);
    }
    reader.requests
}

/// The detail for a text in `notify` that is no URL.
const PLAIN: &str = "must be a URL that begins with https://, or mailto: and a mail address; for a Slack channel, give \
                     an object: {\"type\": \"slack\", \"channel\": \"#ops\"}";

/// Parser of destinations.
pub(super) struct DestinationReader<'a> {
    api: &'a Api,
    /// The destinations so far.
    pub(super) requests: DestinationRequests,
}

impl<'a> DestinationReader<'a> {
    pub(super) fn new(api: &'a Api) -> Self {
        Self { api, requests: Vec::new() }
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
            errors.add(at, FieldErrorCode::InvalidType, "must be a string or an object");
        }
    }

    /// Parses a list of addresses of a channel.
    fn addresses(&mut self, channel: ChannelKind, raw: &RawValue, at: &str, errors: &mut FieldErrors) {
        let Some(list) = object_reader::first(raw, ENTRIES_MAX) else {
            return errors.add(at, FieldErrorCode::InvalidType, "must be a string or a list of strings");
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
    fn address(
        &mut self,
        channel: ChannelKind,
        text: &str,
        at: String,
        errors: &mut FieldErrors,
    ) -> Option<&mut DestinationRequest> {
        let address = errors.keep(&at, self.api.channels.parse_address(channel, text))?;
        let (headers, signing) = (Vec::new(), SigningFields::default());
        self.requests.push((at, DestinationRequest { channel, address, headers, signing }));
        self.requests.last_mut().map(|(_, request)| request)
    }

    /// Parses a destination that is an object.
    fn object(&mut self, raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<()> {
        let mut fields = ObjectReader::read(raw, at, errors)?;
        if fields.take("destinationId").is_some() {
            fields.error("destinationId", FieldErrorCode::Unsupported, NOT_SAVED);
            return None;
        }
        let channel = match fields.text("type") {
            None => channels::DEFAULT,
            Some(word) => {
                let allowed = ChannelKind::WORDS.iter().copied();
                let parsed = ChannelKind::parse(&word).ok_or_else(|| not_one_of(&word, allowed));
                fields.keep("type", parsed)?
            }
        };
        let spec = channels::spec(channel);
        let found = one_of(&mut fields, spec.address_fields);
        let (mut own_headers, mut signing) = (Vec::new(), SigningFields::default());
        if spec.is_signed {
            signing = SigningFields::read(&mut fields);
            own_headers = headers(&mut fields);
            signing.check_headers(&own_headers, &mut fields);
        }
        let of_channels = channels::TABLE.iter().flat_map(|spec| spec.address_fields);
        of_channels
            .chain(&["headers", "signature", "keys", "secret"])
            .for_each(|name| fields.drop_null(name));
        fields.done();
        let (at, text) = found?;
        let request = self.address(channel, &text, at, errors)?;
        (request.headers, request.signing) = (own_headers, signing);
        Some(())
    }
}

/// Takes the string that stands under exactly one of these names.
fn one_of(fields: &mut ObjectReader<'_, '_>, names: &[&'static str]) -> Option<(String, String)> {
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

fn headers(fields: &mut ObjectReader<'_, '_>) -> Vec<(String, String)> {
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

/// Resolves every address and makes one destination of each.
pub(super) async fn destinations(
    api: &Api,
    app: AppNo,
    requests: &[(String, DestinationRequest)],
    (now, until): (Timestamp, Moment),
    errors: &mut FieldErrors,
) -> Vec<Destination> {
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
        return Vec::new();
    }
    let mut destinations: Vec<Destination> = Vec::with_capacity(distinct.len());
    // All at the same time, because each can take a second.
    let targets =
        join_all(distinct.iter().map(|(_, request)| check(&api.egress, app, &request.address, until)));
    for ((at, request), target) in distinct.iter().zip(targets.await) {
        let Some(target) = errors.keep(at, target) else { continue };
        let address = match (&target, &request.address) {
            (Some(target), _) => target.as_str(),
            (None, ParsedAddress::Url(text) | ParsedAddress::Text(text)) => text,
        };
        let channel = request.channel;
        match destinations.iter().find(|known| known.address == address && known.channel == channel) {
            Some(known)
                if known.headers == request.headers
                    && known.secret == request.signing.secret
                    && known.signing == request.signing.signing => {}
            Some(_) => {
                let detail = "is given twice, with different headers, signatures or secrets; give it once";
                errors.add(at, FieldErrorCode::Duplicate, detail);
            }
            None => destinations.push(Destination {
                id: DestinationId(api.store.ids().draw(now)),
                channel,
                address: address.to_owned(),
                queue: channels::spec(channel).queue_name(app, address, target.as_ref()),
                headers: request.headers.clone(),
                secret: request.signing.secret.clone(),
                signing: request.signing.signing.clone(),
            }),
        }
    }
    destinations
}

/// Checks a URL and resolves its name; `None` for an address without a URL. A panic is an error of this address
/// alone: it ends neither the connection nor a batch.
async fn check(
    egress: &Egress,
    app: AppNo,
    address: &ParsedAddress,
    until: Moment,
) -> Result<Option<egress::Target>, AddressError> {
    let ParsedAddress::Url(url) = address else { return Ok(None) };
    let checked = AssertUnwindSafe(egress.check(app, url, until)).catch_unwind().await;
    let panicked = |_| Err(AddressError::Invalid("could not be resolved; send the request again".to_owned()));
    checked.unwrap_or_else(panicked).map(Some)
}

/// A destination of a watch.
#[derive(Serialize, ToSchema)]
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
    /// Status of the latest delivery; null before the first.
    #[schema(required)]
    status: Option<DeliveryStatus>,
}

impl<'a> DestinationView<'a> {
    /// Shows a destination of a watch.
    pub fn of((destination, status): &'a (Destination, Option<DeliveryStatus>)) -> Self {
        let signing = destination.signing.as_deref();
        Self {
            id: destination.id,
            address: Address::of(destination.channel, &destination.address),
            headers: destination.headers.iter().map(|(name, _)| (name.as_str(), "***")).collect(),
            signature: signing.map(|signing| signing.form),
            keys: signing
                .filter(|signing| signing.form == SignatureForm::Standard)
                .map(|signing| signing.keys.as_slice()),
            status: *status,
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
