//! Reading a registration: JSON in, a [`NewWatch`] out, or every field that is wrong.
//!
//! What the contract has and this version does not (mail, Slack, saved destinations) is
//! read and checked like the rest, and then refused on its own field, so that a client learns of all
//! its mistakes at once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::value::RawValue;

use super::Api;
use super::fields::{self, Fields, pointer};
use super::problem::{Faults, Problem};
use crate::channels::webhook::{Secret, check_header};
use crate::domain::{
    AppNo, ChannelKind, Destination, DestinationId, EventSet, JobName, NewWatch, Payload, Terms, Timestamp,
    WatchId,
};
use crate::egress::Target;
use crate::providers::Definition;

/// How many destinations a watch may have.
pub(super) const DESTINATIONS_MAX: usize = 20;

/// How large the client's own object may be.
const METADATA_MAX: usize = 4 * 1024;

/// How many further headers a destination may have, and how long each may be.
const HEADERS_MAX: usize = 32;
const HEADER_MAX: usize = 4 * 1024;

/// The account whose credential a provider is asked with: there is one for each provider.
const ACCOUNT: &str = "default";

const NO_MAIL: &str = "this version sends no mail";
const NO_SLACK: &str = "this version does not send to Slack";

/// A destination as it was asked for, its address not looked up yet.
pub(super) struct Wanted {
    /// Where it stands in the body.
    at: String,
    url: String,
    headers: Vec<(String, String)>,
    secret: Option<String>,
}

/// What is read before any name is looked up.
struct Form {
    job: Option<JobName>,
    deadline: Duration,
    wanted: Vec<Wanted>,
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
    let mut faults = Faults::default();
    let form = form(api, text, &mut faults);
    let destinations = match &form {
        Some(form) => destinations(api, app, &form.wanted, (now, until), &mut faults).await,
        None => Vec::new(),
    };
    faults.check()?;
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

fn form(api: &Api, text: &str, faults: &mut Faults) -> Option<Form> {
    let raw: &RawValue = serde_json::from_str(text).ok()?;
    let mut fields = Fields::read(raw, "", faults)?;
    let definition = provider(api, &mut fields, faults);
    let job = job(definition.as_ref(), &mut fields, faults);
    let wanted = wanted(&mut fields, faults);
    let form = Form {
        job,
        deadline: definition.map_or(Duration::from_secs(3600), |definition| definition.poll().deadline),
        wanted,
        events: events(&mut fields, faults),
        payload: payload(&mut fields, faults),
        metadata: metadata(&mut fields, faults),
        expires_in: fields.duration("expiresIn", ("1s", "30d"), faults),
        expected_at: fields.time("expectedAt", faults),
        poll_interval: fields.duration("pollInterval", ("1s", "24h"), faults),
    };
    fields.done(faults);
    Some(form)
}

fn provider(api: &Api, fields: &mut Fields<'_>, faults: &mut Faults) -> Option<Arc<Definition>> {
    let at = fields.at("provider");
    let named = fields.take("provider").map(fields::text);
    let name = match &named {
        None => api.default_provider(),
        Some(Some(name)) => name,
        Some(None) => {
            faults.add(at, "must be a string");
            return None;
        }
    };
    let Some(definition) = api.providers.get(name) else {
        let known: Vec<&str> = api.providers.iter().map(|definition| definition.id()).collect();
        faults.add(at, format!("`{name}` is not known here; known are {}", known.join(", ")));
        return None;
    };
    if definition.needs_credential() && !api.with_credential.contains(name) {
        faults.add(at, format!("no api_key is configured for `{name}`"));
    }
    Some(Arc::clone(definition))
}

fn job(
    definition: Option<&Arc<Definition>>,
    fields: &mut Fields<'_>,
    faults: &mut Faults,
) -> Option<JobName> {
    let at = fields.at("jobId");
    let params_at = fields.at("params");
    let given = fields.take("jobId").map(fields::text);
    let params = fields.take("params");
    let params = match params.map(|raw| serde_json::from_str(raw.get())) {
        None => Some(serde_json::Map::new()),
        Some(Ok(params)) => Some(params),
        Some(Err(_)) => {
            faults.add(&params_at, "must be an object");
            None
        }
    };
    let job_id = match given {
        None => {
            faults.add(at, "is required");
            return None;
        }
        Some(None) => {
            faults.add(at, "must be a string");
            return None;
        }
        Some(Some(job_id)) => job_id,
    };
    if job_id.is_empty() {
        faults.add(at, "must not be empty");
        return None;
    }
    let definition = definition?;
    if let Err(wrong) = definition.check_job_id(&job_id) {
        faults.add(at, wrong);
    }
    match definition.params(&params?) {
        Ok(params) => {
            let (provider, account) = (definition.id().to_owned(), ACCOUNT.to_owned());
            Some(JobName { provider, account, job_id, params })
        }
        Err(wrong) => {
            for (name, reason) in wrong {
                faults.add(pointer(&params_at, &name), reason);
            }
            None
        }
    }
}

fn events(fields: &mut Fields<'_>, faults: &mut Faults) -> EventSet {
    let at = fields.at("events");
    let Some(list) = fields.list("events", faults) else { return EventSet::endings() };
    let mut events = EventSet::NONE;
    if list.is_empty() {
        faults.add(&at, "must name at least one event; leave it out for every ending");
    }
    for (n, raw) in list.into_iter().enumerate() {
        match fields::text(raw) {
            Some(pattern) if events.add(&pattern) => {}
            Some(pattern) => faults.add(format!("{at}/{n}"), format!("`{pattern}` is not an event")),
            None => faults.add(format!("{at}/{n}"), "must be a string"),
        }
    }
    events
}

fn payload(fields: &mut Fields<'_>, faults: &mut Faults) -> Payload {
    let payload = fields.parsed("payload", faults, |text| {
        Payload::parse(text)
            .ok_or_else(|| format!("`{text}` is not a payload; say event, raw or cloudevents"))
    });
    payload.unwrap_or(Payload::Event)
}

fn metadata(fields: &mut Fields<'_>, faults: &mut Faults) -> Option<String> {
    let at = fields.at("metadata");
    metadata_of(fields.take("metadata")?, &at, faults)
}

/// Checks the client's own object, which is kept as it stands.
pub(super) fn metadata_of(raw: &RawValue, at: &str, faults: &mut Faults) -> Option<String> {
    let raw = raw.get();
    if raw.len() > METADATA_MAX {
        faults.add(at, "must not be larger than 4 KiB");
        return None;
    }
    // Read once, so that what is passed on is an object that any receiver can read.
    match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(raw) {
        Ok(_) => Some(raw.to_owned()),
        Err(error) if error.is_data() => {
            faults.add(at, "must be an object");
            None
        }
        Err(error) => {
            faults.add(at, format!("cannot be read: {error}"));
            None
        }
    }
}

/// Every destination that is asked for, wherever in the body it stands.
fn wanted(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<Wanted> {
    let mut wanted = Vec::new();
    let mut asked = false;
    if let Some(raw) = fields.take("callbackUrl") {
        asked = true;
        match fields::text(raw) {
            Some(url) => wanted.push(plain(fields.at("callbackUrl"), url)),
            None => faults.add(fields.at("callbackUrl"), "must be a string"),
        }
    }
    if let Some(raw) = fields.take("email") {
        asked = true;
        emails(raw, &fields.at("email"), faults);
    }
    if let Some(raw) = fields.take("slack") {
        asked = true;
        match fields::text(raw) {
            Some(text) if text.is_empty() => faults.add(fields.at("slack"), "must not be empty"),
            Some(_) => faults.add(fields.at("slack"), NO_SLACK),
            None => faults.add(fields.at("slack"), "must be a string"),
        }
    }
    let at = fields.at("notify");
    if let Some(raw) = fields.take("notify") {
        asked = true;
        wanted.extend(notify(raw, &at, faults));
    }
    if !asked {
        let needed = "say where to: callbackUrl, email, slack or notify; `\"notify\": []` for nowhere";
        faults.add(fields.at("callbackUrl"), needed);
    }
    wanted
}

fn plain(at: String, url: String) -> Wanted {
    Wanted { at, url, headers: Vec::new(), secret: None }
}

/// The destinations of a list.
pub(super) fn notify(raw: &RawValue, at: &str, faults: &mut Faults) -> Vec<Wanted> {
    let Some(list) = fields::first(raw, DESTINATIONS_MAX) else {
        faults.add(at, "must be a list");
        return Vec::new();
    };
    let mut wanted = Vec::with_capacity(list.len());
    for (n, raw) in list.into_iter().enumerate() {
        let at = format!("{at}/{n}");
        match fields::text(raw) {
            Some(text) => match text.strip_prefix("mailto:") {
                Some(address) => email(address, &at, faults),
                None => wanted.push(plain(at, text)),
            },
            None => wanted.extend(destination(raw, &at, faults)),
        }
    }
    wanted
}

fn emails(raw: &RawValue, at: &str, faults: &mut Faults) {
    if let Some(one) = fields::text(raw) {
        email(&one, at, faults);
    } else if let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) {
        if list.is_empty() {
            faults.add(at, "must not be empty");
        }
        for (n, raw) in list.into_iter().enumerate() {
            match fields::text(raw) {
                Some(one) => email(&one, &format!("{at}/{n}"), faults),
                None => faults.add(format!("{at}/{n}"), "must be a string"),
            }
        }
    } else {
        faults.add(at, "must be a string or a list of strings");
    }
}

/// Refuses a mail address, for what is wrong with it or else because no mail is sent.
fn email(address: &str, at: &str, faults: &mut Faults) {
    let well_formed = address.split_once('@').is_some_and(|(name, domain)| {
        let plain = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_graphic() && b != b'@');
        plain(name) && plain(domain) && domain.split('.').all(|label| !label.is_empty())
    });
    let fits = address.len() <= 254;
    faults.add(at, if well_formed && fits { NO_MAIL } else { "is not a mail address" });
}

/// A destination that is written as an object.
fn destination(raw: &RawValue, at: &str, faults: &mut Faults) -> Option<Wanted> {
    if !raw.get().starts_with('{') {
        faults.add(at, "must be a string or an object");
        return None;
    }
    let mut fields = Fields::read(raw, at, faults)?;
    if fields.take("destinationId").is_some() {
        faults.add(fields.at("destinationId"), "this version has no saved destinations");
        return None;
    }
    match fields.text("type", faults).as_deref() {
        None | Some("webhook") => {}
        Some("email") => return refuse(&fields, NO_MAIL, faults),
        Some("slack") => return refuse(&fields, NO_SLACK, faults),
        Some(other) => return refuse(&fields, &format!("`{other}` is not a channel"), faults),
    }
    let url_at = fields.at("url");
    let url = fields.take("url");
    let url = match url.map(fields::text) {
        Some(Some(url)) => Some(url),
        Some(None) => {
            faults.add(&url_at, "must be a string");
            None
        }
        None => {
            faults.add(&url_at, "is required");
            None
        }
    };
    let secret = fields.parsed("secret", faults, |text| Secret::parse(text).map(|_| text.to_owned()));
    let headers = headers(&mut fields, faults);
    fields.done(faults);
    Some(Wanted { at: url_at, url: url?, headers, secret })
}

fn refuse(fields: &Fields<'_>, why: &str, faults: &mut Faults) -> Option<Wanted> {
    faults.add(fields.at("type"), why);
    None
}

fn headers(fields: &mut Fields<'_>, faults: &mut Faults) -> Vec<(String, String)> {
    let at = fields.at("headers");
    let Some(raw) = fields.take("headers") else { return Vec::new() };
    let Some(given) = Fields::read(raw, &at, faults) else { return Vec::new() };
    let given = given.rest();
    if given.len() > HEADERS_MAX {
        faults.add(&at, format!("must not be more than {HEADERS_MAX}"));
        return Vec::new();
    }
    let mut headers: Vec<(String, String)> = Vec::new();
    for (name, raw) in given {
        let at = pointer(&at, &name);
        let lower = name.to_ascii_lowercase();
        match fields::text(raw) {
            None => faults.add(at, "must be a string"),
            Some(value) if value.len() > HEADER_MAX => faults.add(at, "must not be longer than 4 KiB"),
            Some(_) if headers.iter().any(|(known, _)| *known == lower) => faults.add(at, "is given twice"),
            Some(value) => match check_header(&name, &value) {
                Ok(_) => headers.push((lower, value)),
                Err(wrong) => faults.add(at, wrong),
            },
        }
    }
    headers
}

/// Looks every address up, and makes one destination of each.
pub(super) async fn destinations(
    api: &Api,
    app: AppNo,
    wanted: &[Wanted],
    (now, until): (Timestamp, Timestamp),
    faults: &mut Faults,
) -> Vec<Destination> {
    if wanted.len() > DESTINATIONS_MAX {
        faults.add("/notify", format!("a watch has at most {DESTINATIONS_MAX} destinations"));
        return Vec::new();
    }
    let mut made: Vec<Destination> = Vec::with_capacity(wanted.len());
    for (one, target) in wanted.iter().zip(look_up(api, wanted, until).await) {
        let target = match target {
            Ok(target) => target,
            Err(wrong) => {
                faults.add(&one.at, wrong);
                continue;
            }
        };
        let address = target.as_str();
        match made.iter().find(|known| known.address == address) {
            Some(known) if known.headers == one.headers && known.secret == one.secret => {}
            Some(_) => faults.add(&one.at, "is given twice, with other headers or another secret"),
            None => made.push(Destination {
                id: DestinationId(api.store.ids().draw(now)),
                channel: ChannelKind::Webhook,
                address: address.to_owned(),
                lane: format!("{} {}", app.0, target.lane()),
                headers: one.headers.clone(),
                secret: one.secret.clone(),
            }),
        }
    }
    made
}

/// All at once: each name may take a second.
async fn look_up(api: &Api, wanted: &[Wanted], until: Timestamp) -> Vec<Result<Target, String>> {
    if let [one] = wanted {
        return vec![api.egress.check_until(&one.url, until).await];
    }
    let look_ups: Vec<_> = wanted
        .iter()
        .map(|one| {
            let (egress, url) = (Arc::clone(&api.egress), one.url.clone());
            tokio::spawn(async move { egress.check_until(&url, until).await })
        })
        .collect();
    let mut found = Vec::with_capacity(wanted.len());
    for look_up in look_ups {
        found.push(look_up.await.unwrap_or_else(|_| Err("could not be looked up".to_owned())));
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
