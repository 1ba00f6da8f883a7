//! Reading a registration: JSON in, a [`NewWatch`] out, or every field that is wrong.
//!
//! What the contract has and this version does not (saved destinations) is
//! read and checked like the rest, and then refused on its own field, so that a client learns of all
//! its mistakes at once.

use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use serde_json::value::RawValue;

use super::Api;
use super::object_reader::{self, ObjectReader, pointer};
use super::problem::{FieldErrors, Problem};
use crate::channels::slack::{SlackTarget, is_own_hook, lane as slack_lane};
use crate::channels::webhook::{Secret, check_header};
use crate::domain::{
    AppNo, ChannelKind, Destination, DestinationId, EventSet, JobName, MailAddress, NewWatch, Payload, Terms,
    Timestamp, WatchId,
};
use crate::egress::Target;
use crate::providers::Definition;

/// How many destinations a watch may have.
pub(super) const DESTINATIONS_MAX: usize = 20;

/// How many may be written down, repetitions included.
const ENTRIES_MAX: usize = 100;

/// How large the client's own object may be.
const METADATA_MAX: usize = 4 * 1024;

/// How many further headers a destination may have, and how long each may be.
const HEADERS_MAX: usize = 32;
const HEADER_MAX: usize = 4 * 1024;

/// The account whose credential a provider is asked with: there is one for each provider.
const ACCOUNT: &str = "default";

/// A destination as it was asked for, its address not looked up yet.
pub(super) struct DestinationRequest {
    /// Where it stands in the body.
    at: String,
    to: To,
    headers: Vec<(String, String)>,
    secret: Option<String>,
}

/// Where to, as far as it can be judged without a look-up.
#[derive(PartialEq, Eq)]
enum To {
    /// A webhook's URL.
    Url(String),
    /// A mail address that may be mailed.
    Mail(MailAddress),
    /// The URL of a hook of Slack's, or of one that takes its messages.
    Hook(String),
    /// A channel in Slack.
    Channel(String),
}

impl DestinationRequest {
    /// Whether it says the same, wherever it stands.
    fn is_same(&self, other: &Self) -> bool {
        self.to == other.to && self.headers == other.headers && self.secret == other.secret
    }

    fn plain(at: &str, to: To) -> Self {
        Self { at: at.to_owned(), to, headers: Vec::new(), secret: None }
    }
}

/// What is read before any name is looked up.
struct Form {
    job: Option<JobName>,
    deadline: Duration,
    wanted: Vec<DestinationRequest>,
    events: EventSet,
    payload: Payload,
    metadata: Option<String>,
    expires_in: Option<Duration>,
    expected_at: Option<Timestamp>,
    poll_interval: Option<Duration>,
}

/// Reads and checks a registration. `now` is when it arrived; no name is looked up after `until`.
pub async fn read(
    api: &Api,
    app: AppNo,
    text: &str,
    traceparent: Option<&str>,
    (now, until): (Timestamp, Timestamp),
) -> Result<NewWatch, Problem> {
    let mut errors = FieldErrors::default();
    let form = form(api, text, &mut errors);
    let destinations = match &form {
        Some(form) => destinations(api, app, &form.wanted, (now, until), &mut errors).await,
        None => Vec::new(),
    };
    errors.check()?;
    // Nothing was wrong, so nothing is missing.
    let Some((form, job)) = form.and_then(|mut form| form.job.take().map(|job| (form, job))) else {
        return Err(Problem::fault("", "must be an object"));
    };
    let terms = Terms {
        expires_at: now.plus(form.expires_in.unwrap_or(form.deadline)),
        poll_interval: form.poll_interval,
        expected_at: form.expected_at.filter(|at| *at > now),
        wants_progress: [crate::domain::EventType::JobProcessing, crate::domain::EventType::JobProgress]
            .iter()
            .any(|event| form.events.has(*event)),
    };
    Ok(NewWatch {
        app,
        id: WatchId(api.store.ids().draw(now)),
        job,
        events: form.events,
        payload: form.payload,
        metadata: form.metadata,
        terms,
        traceparent: traceparent.filter(|given| is_traceparent(given)).map(str::to_owned),
        destinations,
        created_at: now,
    })
}

fn form(api: &Api, text: &str, errors: &mut FieldErrors) -> Option<Form> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let mut fields = ObjectReader::read(raw, "", errors)?;
    let definition = provider(api, &mut fields, errors);
    let job = job(definition.as_ref(), &mut fields, errors);
    let wanted = destination_requests(api, &mut fields, errors);
    let form = Form {
        job,
        deadline: definition.map_or(Duration::from_secs(3600), |definition| definition.poll().deadline),
        wanted,
        events: events(&mut fields, errors),
        payload: payload(&mut fields, errors),
        metadata: metadata(&mut fields, errors),
        expires_in: fields.duration("expiresIn", ("1s", "30d"), errors),
        expected_at: fields.time("expectedAt", errors),
        poll_interval: fields.duration("pollInterval", ("1s", "24h"), errors),
    };
    fields.done(errors);
    Some(form)
}

fn provider(api: &Api, fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> Option<Arc<Definition>> {
    let at = fields.at("provider");
    let named = fields.take("provider").map(object_reader::text);
    let name = match &named {
        None => api.default_provider(),
        Some(Some(name)) => name,
        Some(None) => {
            errors.add(at, "must be a string");
            return None;
        }
    };
    let Some(definition) = api.providers.get(name) else {
        let known: Vec<&str> = api.providers.iter().map(|definition| definition.id()).collect();
        errors.add(at, format!("`{name}` is not known here; known are {}", known.join(", ")));
        return None;
    };
    if definition.needs_credential() && !api.with_credential.contains(name) {
        errors.add(at, format!("no api_key is configured for `{name}`"));
    }
    Some(Arc::clone(definition))
}

fn job(
    definition: Option<&Arc<Definition>>,
    fields: &mut ObjectReader<'_>,
    errors: &mut FieldErrors,
) -> Option<JobName> {
    let at = fields.at("jobId");
    let params_at = fields.at("params");
    let given = fields.take("jobId").map(object_reader::text);
    let params = fields.take("params");
    let params = match params.map(|raw| serde_json::from_str(raw.get())) {
        None => Some(serde_json::Map::new()),
        Some(Ok(params)) => Some(params),
        Some(Err(_)) => {
            errors.add(&params_at, "must be an object");
            None
        }
    };
    let job_id = match given {
        None => {
            errors.add(at, "is required");
            return None;
        }
        Some(None) => {
            errors.add(at, "must be a string");
            return None;
        }
        Some(Some(job_id)) => job_id,
    };
    if job_id.is_empty() {
        errors.add(at, "must not be empty");
        return None;
    }
    let definition = definition?;
    if let Err(wrong) = definition.check_job_id(&job_id) {
        errors.add(at, wrong);
    }
    match definition.params(&params?) {
        Ok(params) => {
            let (provider, account) = (definition.id().to_owned(), ACCOUNT.to_owned());
            Some(JobName { provider, account, job_id, params })
        }
        Err(wrong) => {
            for (name, reason) in wrong {
                errors.add(pointer(&params_at, &name), reason);
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
        errors.add(&at, "must name at least one event; leave it out for every ending");
    }
    for (n, raw) in list.into_iter().enumerate() {
        match object_reader::text(raw) {
            Some(pattern) if events.add(&pattern) => {}
            Some(pattern) => errors.add(format!("{at}/{n}"), format!("`{pattern}` is not an event")),
            None => errors.add(format!("{at}/{n}"), "must be a string"),
        }
    }
    events
}

fn payload(fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> Payload {
    let payload = fields.parsed("payload", errors, |text| {
        Payload::parse(text)
            .ok_or_else(|| format!("`{text}` is not a payload; say event, raw or cloudevents"))
    });
    payload.unwrap_or(Payload::Event)
}

fn metadata(fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> Option<String> {
    let at = fields.at("metadata");
    metadata_of(fields.take("metadata")?, &at, errors)
}

/// Checks the client's own object, which is kept as it stands.
pub(super) fn metadata_of(raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<String> {
    let raw = raw.get();
    if raw.len() > METADATA_MAX {
        errors.add(at, "must not be larger than 4 KiB");
        return None;
    }
    // Read once, so that what is passed on is an object that any receiver can read.
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(raw) {
        Ok(_) => Some(raw.to_owned()),
        Err(error) if error.is_data() => {
            errors.add(at, "must be an object");
            None
        }
        Err(error) => {
            errors.add(at, format!("cannot be read: {error}"));
            None
        }
    }
}

/// Every destination that is asked for, wherever in the body it stands.
fn destination_requests(
    api: &Api,
    fields: &mut ObjectReader<'_>,
    errors: &mut FieldErrors,
) -> Vec<DestinationRequest> {
    let mut wanted = Vec::new();
    let mut asked = false;
    if let Some(raw) = fields.take("callbackUrl") {
        asked = true;
        match object_reader::text(raw) {
            Some(url) => wanted.push(DestinationRequest::plain(&fields.at("callbackUrl"), To::Url(url))),
            None => errors.add(fields.at("callbackUrl"), "must be a string"),
        }
    }
    if let Some(raw) = fields.take("email") {
        asked = true;
        wanted.extend(emails(api, raw, &fields.at("email"), errors));
    }
    if let Some(raw) = fields.take("slack") {
        asked = true;
        match object_reader::text(raw) {
            Some(text) => wanted.extend(slack(api, &text, &fields.at("slack"), errors)),
            None => errors.add(fields.at("slack"), "must be a string"),
        }
    }
    let at = fields.at("notify");
    if let Some(raw) = fields.take("notify") {
        asked = true;
        wanted.extend(notify(api, raw, &at, errors));
    }
    if !asked {
        let needed = "say where to: callbackUrl, email, slack or notify; `\"notify\": []` for nowhere";
        errors.add(fields.at("callbackUrl"), needed);
    }
    wanted
}

/// The destinations of a list.
pub(super) fn notify(
    api: &Api,
    raw: &RawValue,
    at: &str,
    errors: &mut FieldErrors,
) -> Vec<DestinationRequest> {
    let Some(list) = object_reader::first(raw, ENTRIES_MAX) else {
        errors.add(at, "must be a list");
        return Vec::new();
    };
    let mut wanted = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{at}/{n}");
        match object_reader::text(raw) {
            Some(text) => wanted.extend(named(api, text, &at, errors)),
            None => wanted.extend(destination(api, raw, &at, errors)),
        }
    }
    wanted
}

/// A destination that is written as a string. Slack's own hooks are known by their host: a webhook would
/// never be taken there.
fn named(api: &Api, text: String, at: &str, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    match text.strip_prefix("mailto:") {
        Some(address) => {
            let address = percent_decode_str(address).decode_utf8_lossy();
            email(api, &address, at, errors)
        }
        None if is_own_hook(&text) => slack(api, &text, at, errors),
        None => Some(DestinationRequest::plain(at, To::Url(text))),
    }
}

fn emails(api: &Api, raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Vec<DestinationRequest> {
    if let Some(one) = object_reader::text(raw) {
        return email(api, &one, at, errors).into_iter().collect();
    }
    let mut wanted = Vec::new();
    let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
        errors.add(at, "must be a string or a list of strings");
        return wanted;
    };
    if list.is_empty() {
        errors.add(at, "must not be empty");
    }
    for (n, raw) in list.into_iter().take(ENTRIES_MAX + 1).enumerate() {
        let at = format!("{at}/{n}");
        match object_reader::text(raw) {
            Some(one) => wanted.extend(email(api, &one, &at, errors)),
            None => errors.add(at, "must be a string"),
        }
    }
    wanted
}

fn email(api: &Api, address: &str, at: &str, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    let address = api.channels.mail_address(address).map_err(|wrong| errors.add(at, wrong)).ok()?;
    Some(DestinationRequest::plain(at, To::Mail(address)))
}

fn slack(api: &Api, address: &str, at: &str, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    let way = api.channels.slack_way(address).map_err(|wrong| errors.add(at, wrong)).ok()?;
    let to = match way {
        SlackTarget::Hook(url) | SlackTarget::Compatible(url) => To::Hook(url.to_owned()),
        SlackTarget::Channel(channel) => To::Channel(channel.to_owned()),
    };
    Some(DestinationRequest::plain(at, to))
}

/// The one text of an object's that has to stand under one of these names.
fn one_of(
    fields: &mut ObjectReader<'_>,
    names: &[&str],
    errors: &mut FieldErrors,
) -> Option<(String, String)> {
    let (mut found, mut given) = (None, false);
    for name in names {
        let at = fields.at(name);
        let Some(raw) = fields.take(name) else { continue };
        if given {
            errors.add(at, format!("is one too many of {}", names.join(", ")));
            continue;
        }
        given = true;
        match object_reader::text(raw) {
            Some(text) => found = Some((at, text)),
            None => errors.add(at, "must be a string"),
        }
    }
    if !given {
        errors.add(fields.at(names[0]), "is required");
    }
    found
}

/// Reads one address, which stands there in the body.
type Read = fn(&Api, &str, &str, &mut FieldErrors) -> Option<DestinationRequest>;

/// A destination that is written as an object.
fn destination(api: &Api, raw: &RawValue, at: &str, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    if !raw.get().starts_with('{') {
        errors.add(at, "must be a string or an object");
        return None;
    }
    let mut fields = ObjectReader::read(raw, at, errors)?;
    if fields.take("destinationId").is_some() {
        errors.add(fields.at("destinationId"), "this version has no saved destinations");
        return None;
    }
    let (names, read): (&[&str], Read) = match fields.text("type", errors).as_deref() {
        None | Some("webhook") => return webhook(fields, errors),
        Some("email") => (&["email", "address", "to"], email),
        Some("slack") => (&["url", "channel", "slack"], slack),
        Some(other) => {
            errors.add(fields.at("type"), format!("`{other}` is not a channel"));
            return None;
        }
    };
    let found = one_of(&mut fields, names, errors);
    fields.done(errors);
    let (at, text) = found?;
    read(api, &text, &at, errors)
}

fn webhook(mut fields: ObjectReader<'_>, errors: &mut FieldErrors) -> Option<DestinationRequest> {
    let url_at = fields.at("url");
    let url = fields.take("url");
    let url = match url.map(object_reader::text) {
        Some(Some(url)) => Some(url),
        Some(None) => {
            errors.add(&url_at, "must be a string");
            None
        }
        None => {
            errors.add(&url_at, "is required");
            None
        }
    };
    let secret = fields.parsed("secret", errors, |text| Secret::parse(text).map(|_| text.to_owned()));
    let headers = headers(&mut fields, errors);
    fields.done(errors);
    Some(DestinationRequest { at: url_at, to: To::Url(url?), headers, secret })
}

fn headers(fields: &mut ObjectReader<'_>, errors: &mut FieldErrors) -> Vec<(String, String)> {
    let at = fields.at("headers");
    let Some(raw) = fields.take("headers") else { return Vec::new() };
    let Some(given) = ObjectReader::read(raw, &at, errors) else { return Vec::new() };
    let given = given.rest();
    if given.len() > HEADERS_MAX {
        errors.add(&at, format!("must not be more than {HEADERS_MAX}"));
        return Vec::new();
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, raw) in given {
        let at = pointer(&at, &name);
        let lower = name.to_ascii_lowercase();
        match object_reader::text(raw) {
            None => errors.add(at, "must be a string"),
            Some(value) if value.len() > HEADER_MAX => errors.add(at, "must not be longer than 4 KiB"),
            Some(_) if headers.iter().any(|(known, _)| *known == lower) => errors.add(at, "is given twice"),
            Some(value) => match check_header(&name, &value) {
                Ok(_) => headers.push((lower, value)),
                Err(wrong) => errors.add(at, wrong),
            },
        }
    }
    headers
}

/// PollStats every address up, and makes one destination of each.
pub(super) async fn destinations(
    api: &Api,
    app: AppNo,
    wanted: &[DestinationRequest],
    (now, until): (Timestamp, Timestamp),
    errors: &mut FieldErrors,
) -> Vec<Destination> {
    // What is written twice is one; another spelling of it is found out below.
    let mut each: Vec<&DestinationRequest> = Vec::with_capacity(wanted.len().min(DESTINATIONS_MAX));
    for one in wanted.iter().take(ENTRIES_MAX) {
        if !each.iter().any(|known| known.is_same(one)) {
            each.push(one);
        }
    }
    if each.len() > DESTINATIONS_MAX || wanted.len() > ENTRIES_MAX {
        errors.add("/notify", format!("a watch has at most {DESTINATIONS_MAX} destinations"));
        return Vec::new();
    }
    let mut made: Vec<Destination> = Vec::with_capacity(each.len());
    for (one, target) in each.iter().zip(look_up(api, &each, until).await) {
        let target = match target.transpose() {
            Ok(target) => target,
            Err(wrong) => {
                errors.add(&one.at, wrong);
                continue;
            }
        };
        let url = target.as_ref().map_or("", Target::as_str);
        let (channel, address, lane) = match &one.to {
            To::Url(_) => (ChannelKind::Webhook, url, target.as_ref().map(Target::lane).unwrap_or_default()),
            To::Hook(_) => (ChannelKind::Slack, url, slack_lane(url)),
            To::Channel(channel) => (ChannelKind::Slack, channel.as_str(), slack_lane(channel)),
            // All mail goes to the one mail server.
            To::Mail(address) => (ChannelKind::Email, address.as_str(), "smtp".to_owned()),
        };
        match made.iter().find(|known| known.address == address && known.channel == channel) {
            Some(known) if known.headers == one.headers && known.secret == one.secret => {}
            Some(_) => errors.add(&one.at, "is given twice, with other headers or another secret"),
            None => made.push(Destination {
                id: DestinationId(api.store.ids().draw(now)),
                channel,
                address: address.to_owned(),
                queue: format!("{} {lane}", app.0),
                headers: one.headers.clone(),
                secret: one.secret.clone(),
            }),
        }
    }
    made
}

/// All at once: each name may take a second. `None` for what is no URL.
async fn look_up(
    api: &Api,
    wanted: &[&DestinationRequest],
    until: Timestamp,
) -> Vec<Option<Result<Target, String>>> {
    let url = |one: &DestinationRequest| match &one.to {
        To::Url(url) | To::Hook(url) => Some(url.clone()),
        To::Mail(_) | To::Channel(_) => None,
    };
    if let [one] = wanted {
        return match url(one) {
            Some(url) => vec![Some(api.egress.check_until(&url, until).await)],
            None => vec![None],
        };
    }
    let look_ups: Vec<_> = wanted
        .iter()
        .map(|one| {
            let egress = Arc::clone(&api.egress);
            url(one).map(|url| tokio::spawn(async move { egress.check_until(&url, until).await }))
        })
        .collect();
    let mut found = Vec::with_capacity(wanted.len());
    for look_up in look_ups {
        found.push(match look_up {
            Some(look_up) => Some(look_up.await.unwrap_or_else(|_| Err("could not be looked up".to_owned()))),
            None => None,
        });
    }
    found
}

/// W3C Trace Context, version 00; anything else is not passed on.
fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let hex = |part: &str, length| {
        part.len() == length && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let some = |part: &str| part.bytes().any(|b| b != b'0');
    matches!(parts.as_slice(), ["00", trace, span, flags]
        if hex(trace, 32) && some(trace) && hex(span, 16) && some(span) && hex(flags, 2))
}
