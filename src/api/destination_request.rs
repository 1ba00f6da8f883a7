//! The destinations of a registration: parsing them, and resolving their addresses.

use std::sync::Arc;

use serde_json::value::RawValue;

use super::http::object_reader::{self, pointer};
use super::http::{Api, FieldErrorCode, FieldErrors, ObjectReader, not_one_of};
use crate::channels::webhook::{Secret, check_header};
use crate::channels::{self, ParsedAddress, Shorthand};
use crate::domain::{AddressError, AppNo, ChannelKind, Destination, DestinationId, Timestamp};
use crate::egress::Target;

/// Maximum number of destinations of a watch.
pub(super) const DESTINATIONS_MAX: usize = 20;

/// Maximum number of destinations in a request, duplicates included.
const ENTRIES_MAX: usize = 100;

/// Maximum number of custom headers of a destination, and the maximum size of each value in bytes.
const HEADERS_MAX: usize = 32;
const HEADER_MAX: usize = 4 * 1024;

/// A destination as a client requests it; its host name is not resolved yet.
pub(super) struct DestinationRequest {
    /// The JSON pointer to it.
    at: String,
    channel: ChannelKind,
    address: ParsedAddress,
    headers: Vec<(String, String)>,
    secret: Option<String>,
}

impl DestinationRequest {
    /// Whether both request the same, apart from their place in the body.
    fn is_same(&self, other: &Self) -> bool {
        (self.channel, &self.address, &self.headers, &self.secret)
            == (other.channel, &other.address, &other.headers, &other.secret)
    }

    /// The URL whose host name is to be resolved.
    fn url(&self) -> Option<&str> {
        match &self.address {
            ParsedAddress::Url(url) => Some(url),
            ParsedAddress::Text(_) => None,
        }
    }
}

/// Parses every destination of a registration.
pub(super) fn destination_requests(
    api: &Api,
    fields: &mut ObjectReader<'_>,
    errors: &mut FieldErrors,
) -> Vec<DestinationRequest> {
    let shorthands: Vec<(ChannelKind, Shorthand)> =
        channels::TABLE.iter().filter_map(|spec| Some((spec.kind, spec.shorthand?))).collect();
    if !fields.has("notify") && !shorthands.iter().any(|(_, shorthand)| fields.has(shorthand.field)) {
        let detail =
            "is required to say where to send events; or use email, slack or notify (`[]` for nowhere)";
        errors.add(fields.at("callbackUrl"), FieldErrorCode::Required, detail);
    }
    let mut requests = Vec::new();
    for (channel, Shorthand { field, is_list }) in shorthands {
        let at = fields.at(field);
        if !is_list {
            let text = fields.text(field, errors);
            requests.extend(text.and_then(|text| from_address(api, channel, &text, &at, errors)));
        } else if let Some(raw) = fields.take(field) {
            requests.extend(from_addresses(api, channel, raw, &at, errors));
        }
    }
    if let Some(raw) = fields.take("notify") {
        requests.extend(notify(api, raw, &fields.at("notify"), errors));
    }
    requests
}

/// Parses a list of destinations.
pub(super) fn notify(
    api: &Api,
    raw: &RawValue,
    at: &str,
    errors: &mut FieldErrors,
) -> Vec<DestinationRequest> {
    let Some(list) = object_reader::first(raw, ENTRIES_MAX) else {
        errors.add(at, FieldErrorCode::InvalidType, "must be a list");
        return Vec::new();
    };
    let mut requests = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{at}/{n}");
        match object_reader::text(raw) {
            Some(text) => requests.extend(from_text(api, &text, &at, errors)),
            None => requests.extend(from_object(api, raw, &at, errors)),
        }
    }
    requests
}

/// Parses a destination that is a string.
fn from_text(api: &Api, text: &str, at: &str, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    let (channel, address) = channels::recognize(text);
    from_address(api, channel, &address, at, errors)
}

/// Parses an address of a channel.
fn from_address(
    api: &Api,
    channel: ChannelKind,
    text: &str,
    at: &str,
    errors: &mut FieldErrors,
) -> Option<DestinationRequest> {
    let address = errors.keep(at, api.channels.parse_address(channel, text))?;
    Some(DestinationRequest { at: at.to_owned(), channel, address, headers: Vec::new(), secret: None })
}

/// Parses one address, or a list of addresses.
fn from_addresses(
    api: &Api,
    channel: ChannelKind,
    raw: &RawValue,
    at: &str,
    errors: &mut FieldErrors,
) -> Vec<DestinationRequest> {
    if let Some(address) = object_reader::text(raw) {
        return from_address(api, channel, &address, at, errors).into_iter().collect();
    }
    let mut requests = Vec::new();
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        errors.add(at, FieldErrorCode::InvalidType, "must be a string or a list of strings");
        return requests;
    };
    if list.is_empty() {
        errors.add(at, FieldErrorCode::Empty, "must not be empty");
    }
    for (n, raw) in list.into_iter().take(ENTRIES_MAX + 1).enumerate() {
        let at = format!("{at}/{n}");
        if let Some(address) = object_reader::string(raw, &at, errors) {
            requests.extend(from_address(api, channel, &address, &at, errors));
        }
    }
    requests
}

/// Parses a destination that is an object.
fn from_object(api: &Api, raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    if !raw.get().starts_with('{') {
        errors.add(at, FieldErrorCode::InvalidType, "must be a string or an object");
        return None;
    }
    let mut fields = ObjectReader::read(raw, at, errors)?;
    if fields.take("destinationId").is_some() {
        let detail = "this version has no saved destinations; give the address itself";
        errors.add(fields.at("destinationId"), FieldErrorCode::Unsupported, detail);
        return None;
    }
    let channel = match fields.text("type", errors) {
        None => channels::DEFAULT,
        Some(word) => {
            let allowed = ChannelKind::WORDS.iter().copied();
            let parsed = ChannelKind::parse(&word).ok_or_else(|| not_one_of(&word, allowed));
            errors.keep(fields.at("type"), parsed)?
        }
    };
    let spec = channels::spec(channel);
    let found = one_of(&mut fields, spec.address_fields, errors);
    let (headers, secret) = if spec.is_signed {
        let secret = fields.parsed("secret", errors, |text| {
            let secret = Secret::parse(text).map_err(|detail| (FieldErrorCode::InvalidSecret, detail));
            secret.map(|_| text.to_owned())
        });
        (headers(&mut fields, errors), secret)
    } else {
        (Vec::new(), None)
    };
    fields.done(errors);
    let (at, text) = found?;
    let request = from_address(api, channel, &text, &at, errors)?;
    Some(DestinationRequest { headers, secret, ..request })
}

/// Takes the string that stands under exactly one of these names.
fn one_of(
    fields: &mut ObjectReader<'_>,
    names: &[&'static str],
    errors: &mut FieldErrors,
) -> Option<(String, String)> {
    let mut present = names.iter().copied().filter(|name| fields.has(name)).collect::<Vec<_>>().into_iter();
    let Some(name) = present.next() else {
        fields.required_text(names[0], errors);
        return None;
    };
    let text = fields.text(name, errors);
    for extra in present {
        fields.take(extra);
        let detail = format!("cannot be used with {name}; give one of {}", names.join(", "));
        errors.add(fields.at(extra), FieldErrorCode::Conflict, detail);
    }
    Some((fields.at(name), text?))
}

fn headers(fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> Vec<(String, String)> {
    let at = fields.at("headers");
    let object = fields.take("headers").and_then(|raw| ObjectReader::read(raw, &at, errors));
    let pairs = object.map(ObjectReader::rest).unwrap_or_default();
    if pairs.len() > HEADERS_MAX {
        errors.add(&at, FieldErrorCode::TooMany, format!("must not have more than {HEADERS_MAX} headers"));
        return Vec::new();
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, raw) in pairs {
        let at = pointer(&at, &name);
        let lower = name.to_ascii_lowercase();
        let Some(value) = object_reader::string(raw, &at, errors) else { continue };
        if value.len() > HEADER_MAX {
            errors.add(at, FieldErrorCode::TooLong, "must not be longer than 4 KiB");
        } else if headers.iter().any(|(known, _)| *known == lower) {
            errors.add(at, FieldErrorCode::Duplicate, "is given twice");
        } else if let Err(detail) = check_header(&name, &value) {
            errors.add(at, FieldErrorCode::InvalidHeader, detail);
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
    requests: &[DestinationRequest],
    (now, until): (Timestamp, Timestamp),
    errors: &mut FieldErrors,
) -> Vec<Destination> {
    // Equal requests are one destination. Different spellings of one address are found below.
    let mut distinct: Vec<&DestinationRequest> = Vec::with_capacity(requests.len().min(DESTINATIONS_MAX));
    for request in requests.iter().take(ENTRIES_MAX) {
        if !distinct.iter().any(|known| known.is_same(request)) {
            distinct.push(request);
        }
    }
    if distinct.len() > DESTINATIONS_MAX || requests.len() > ENTRIES_MAX {
        let detail = format!("must not have more than {DESTINATIONS_MAX} destinations");
        errors.add("/notify", FieldErrorCode::TooMany, detail);
        return Vec::new();
    }
    let mut destinations: Vec<Destination> = Vec::with_capacity(distinct.len());
    for (request, target) in distinct.iter().zip(resolve(api, &distinct, until).await) {
        let Some(target) = errors.keep(&request.at, target.transpose()) else { continue };
        let address = match (&target, &request.address) {
            (Some(target), _) => target.as_str(),
            (None, ParsedAddress::Url(text) | ParsedAddress::Text(text)) => text,
        };
        let channel = request.channel;
        match destinations.iter().find(|known| known.address == address && known.channel == channel) {
            Some(known) if known.headers == request.headers && known.secret == request.secret => {}
            Some(_) => {
                let detail = "is given twice, with different headers or secrets; give it once";
                errors.add(&request.at, FieldErrorCode::Duplicate, detail);
            }
            None => destinations.push(Destination {
                id: DestinationId(api.store.ids().draw(now)),
                channel,
                address: address.to_owned(),
                queue: channels::spec(channel).queue_name(app, address, target.as_ref()),
                headers: request.headers.clone(),
                secret: request.secret.clone(),
            }),
        }
    }
    destinations
}

/// Checks every URL, all at the same time because each can take a second. `None` for an address without a URL.
async fn resolve(
    api: &Api,
    requests: &[&DestinationRequest],
    until: Timestamp,
) -> Vec<Option<Result<Target, AddressError>>> {
    // Most registrations have one destination, which needs no task of its own.
    if let [request] = requests {
        return match request.url() {
            Some(url) => vec![Some(api.egress.check_until(url, until).await)],
            None => vec![None],
        };
    }
    let spawn = |url: &str| {
        let (egress, url) = (Arc::clone(&api.egress), url.to_owned());
        tokio::spawn(async move { egress.check_until(&url, until).await })
    };
    let tasks: Vec<_> = requests.iter().map(|request| request.url().map(spawn)).collect();
    let mut targets = Vec::with_capacity(tasks.len());
    for task in tasks {
        targets.push(match task {
            Some(task) => Some(task.await.unwrap_or_else(|_| {
                Err(AddressError::Invalid("could not be resolved; send the request again".to_owned()))
            })),
            None => None,
        });
    }
    targets
}
