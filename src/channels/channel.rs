//! Description of a channel: its row in the channel table, the trait that it implements, and the result of an attempt.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};
use tokio::sync::Notify;

use super::templates::{TemplateFile, Templates};
use crate::clock::Clock;
use crate::domain::{
    AddressError, App, AppNo, Attempt, ChannelKind, Masked, Outcome, PendingDelivery, Timestamp, hash,
};
use crate::egress::{self, ClientIdentity, Egress, Post, Received, SendError};

/// Maximum size of a response that is read and recorded, in bytes.
pub(super) const RESPONSE_MAX: usize = 16 * 1024;

/// Wait after an error that only the operator can correct: a mail server locks the account after repeated attempts
/// with a wrong password.
pub(super) const OPERATOR_WAIT: Duration = Duration::from_secs(30 * 60);

/// The `user-agent` of every request, as its record shows it.
pub(super) const USER_AGENT_VALUE: HeaderValue = HeaderValue::from_static(egress::USER_AGENT);

/// One row of the channel table: the facts about a channel that do not depend on the configuration.
pub struct ChannelSpec {
    /// The channel.
    pub kind: ChannelKind,
    /// Field of a registration that holds addresses of this channel; `None` if only `notify` does.
    pub shorthand: Option<Shorthand>,
    /// Fields of a destination object that may hold the address. Exactly one of them is given; an error
    /// about a missing address names the first.
    pub address_fields: &'static [&'static str],
    /// Whether requests are signed: then a destination may have its own secret and additional headers.
    pub is_signed: bool,
    /// Returns the address in an entry of `notify` that is a plain text, if the text can only be an address
    /// of this channel.
    pub recognize: fn(&str) -> Option<Cow<'_, str>>,
    /// Returns an address as the API shows it, with its secret part masked.
    pub show: fn(&str) -> ShownAddress<'_>,
    /// Which deliveries of an app share a destination queue.
    pub queue: QueueScope,
    /// How fast messages may follow each other.
    pub pacing: Pacing,
    /// Templates of the messages.
    pub templates: &'static [&'static TemplateFile],
    /// Configuration keys.
    pub settings: &'static [ChannelSetting],
    /// Checks the settings together, after each was checked alone.
    pub check_settings: fn(&SettingValues) -> SettingsReport,
    /// Returns the channel as it is configured.
    pub configure: fn(&SettingValues) -> Box<dyn Channel>,
}

impl ChannelSpec {
    /// Returns a row without the optional features.
    pub(super) const fn new(kind: ChannelKind, configure: fn(&SettingValues) -> Box<dyn Channel>) -> Self {
        Self {
            kind,
            shorthand: None,
            address_fields: &["url"],
            is_signed: false,
            recognize: |_| None,
            show: |address| ShownAddress::Url(Cow::Borrowed(address)),
            queue: QueueScope::Url,
            pacing: Pacing::Unlimited,
            templates: &[],
            settings: &[],
            check_settings: |_| SettingsReport {
                errors: Vec::new(),
                warnings: Vec::new(),
                derived: Vec::new(),
            },
            configure,
        }
    }
}

/// A channel as it is configured.
///
/// A channel renders a message, sends it once, and classifies the response. It keeps no state except tokens: the
/// dispatcher decides when to retry and what to record.
pub trait Channel: fmt::Debug + Send + Sync {
    /// Parses an address and checks that it is permitted. The host of a URL is checked later.
    fn parse_address(&self, text: &str) -> Result<ParsedAddress, AddressError>;

    /// Makes one attempt.
    fn send<'a>(&'a self, services: &'a Services, message: &'a Message<'a>) -> SendFuture<'a>;
}

/// An attempt that is being made. The error is a sentence: the message or the address cannot be sent, now or later.
pub type SendFuture<'a> = Pin<Box<dyn Future<Output = Result<AttemptResult, String>> + Send + 'a>>;

/// Shared resources that channels use to send.
#[derive(Debug)]
pub struct Services {
    /// The outbound HTTP client, which also opens other connections.
    pub egress: Arc<Egress>,
    /// The clock.
    pub clock: Clock,
    /// The templates of the messages.
    pub templates: Templates,
}

/// One attempt to deliver an event.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The delivery, with its destination and the event's body.
    pub delivery: &'a PendingDelivery,
    /// The app, whose secrets sign where the destination has none. Needed for signed channels only.
    pub app: Option<&'a App>,
    /// Start of the attempt.
    pub now: Timestamp,
    /// Maximum duration of the attempt, unless the channel has a timeout of its own.
    pub timeout: Duration,
    /// TLS identity of the destination.
    pub identity: Option<&'a Arc<ClientIdentity>>,
    /// Where the channel reports that the message is transmitted and only the reply is missing.
    pub transmission: &'a Transmission,
}

/// Reports that a message is transmitted completely, while its reply may take minutes. From then on, it is unclear
/// whether the receiver has accepted the message, until the attempt ends.
#[derive(Debug, Default)]
pub struct Transmission {
    unclear: Mutex<Option<Box<AttemptResult>>>,
    completed: Notify,
}

impl Transmission {
    /// Reports the end of the transmission. `unclear` is the result if the attempt is dropped before the reply.
    pub(super) fn complete(&self, unclear: AttemptResult) {
        *self.unclear.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(unclear));
        self.completed.notify_one();
    }

    /// Returns after the end of the transmission.
    pub async fn completed(&self) {
        self.completed.notified().await;
    }

    /// Takes the result of an attempt that is dropped before the reply.
    pub fn take_unclear(&self) -> Option<AttemptResult> {
        self.unclear.lock().unwrap_or_else(PoisonError::into_inner).take().map(|result| *result)
    }
}

/// A field of a registration that holds addresses of one channel.
#[derive(Clone, Copy, Debug)]
pub struct Shorthand {
    /// Name of the field.
    pub field: &'static str,
    /// Whether it may hold a list of addresses.
    pub is_list: bool,
}

/// An address that a channel accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedAddress {
    /// A URL, whose host is to be checked.
    Url(String),
    /// Any other address.
    Text(String),
}

/// An address as the API shows it: the variant is the name of the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ShownAddress<'a> {
    /// A URL.
    Url(Cow<'a, str>),
    /// An email address.
    Email(&'a str),
    /// The name of a place within a service, such as a Slack channel.
    Channel(&'a str),
}

/// Which deliveries of an app share a destination queue, and so its order and its breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueScope {
    /// Deliveries to the same URL, whatever its query. The queues of one scheme, host and port (the origin) share the
    /// limits of the host, and a breaker for its connections.
    Url,
    /// Deliveries to the same address. The queue is named by the hash of the address, which may be secret.
    Address,
    /// All deliveries of the channel: they go to the one server of this name.
    Server(&'static str),
}

/// How fast the messages of a channel may follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pacing {
    /// As fast as the destination queue permits.
    Unlimited,
    /// At most one message per interval to one address, for all apps together. A 429 with `Retry-After` holds
    /// back all messages to the address.
    PerAddress(Duration),
    /// At most this many messages in flight, for all addresses and apps together. A message that waits long for its
    /// reply does not count.
    Concurrent(usize),
}

/// A configuration key of a channel.
#[derive(Debug)]
pub struct ChannelSetting {
    /// The dotted key, such as `slack.bot_token`.
    pub key: &'static str,
    /// Default, as it would be written in the configuration.
    pub default: Option<&'static str>,
    /// Description in one line.
    pub doc: &'static str,
    /// How a value is checked.
    pub check: SettingCheck,
    /// Whether the value is a URL that can contain a password. Then it can come from a file, as credentials can.
    pub holds_password: bool,
}

impl ChannelSetting {
    /// Returns a setting without a default.
    pub(super) const fn new(key: &'static str, doc: &'static str, check: SettingCheck) -> Self {
        Self { key, default: None, doc, check, holds_password: false }
    }
}

/// How a value of a setting is checked. An error never repeats a secret.
#[derive(Clone, Copy, Debug)]
pub enum SettingCheck {
    /// A text.
    Text(fn(&str) -> Result<(), String>),
    /// A secret: printable ASCII characters, never shown.
    Credential(fn(&str) -> Result<(), String>),
    /// An http(s) URL, kept without a slash at its end.
    BaseUrl,
    /// A list of texts.
    List(fn(&[String]) -> Result<(), String>),
}

/// Values of the channels' settings. Each was checked when the configuration was read.
#[derive(Clone, Debug, Default)]
pub struct SettingValues(BTreeMap<&'static str, Vec<Masked>>);

impl SettingValues {
    /// Sets a value, or a list of values.
    pub fn set(&mut self, key: &'static str, values: &[String]) {
        self.0.insert(key, values.iter().map(Masked::new).collect());
    }

    /// Returns the single value of `key`; `None` if it is not set.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.list(key)?.first().map(Masked::reveal)
    }

    /// Returns all values of `key`; `None` if it is not set.
    pub fn list(&self, key: &str) -> Option<&[Masked]> {
        self.0.get(key).map(Vec::as_slice)
    }
}

/// Errors and warnings about the settings of a channel as a whole.
#[derive(Debug, Default)]
pub struct SettingsReport {
    /// Errors, each with the key where it is reported.
    pub errors: Vec<(&'static str, String)>,
    /// Warnings for the log.
    pub warnings: Vec<String>,
    /// Values of settings that are not set and follow from others, each with its key.
    pub derived: Vec<(&'static str, String)>,
}

/// How far an exchange came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Nothing was sent, for a reason that says nothing about the destination.
    NotTried,
    /// No connection was made: the name, TCP or TLS failed.
    NotConnected,
    /// The connection stood, and no answer came in time.
    NoAnswer,
    /// The connection stood, and the answer broke off or is unreadable.
    Broken,
    /// A gateway answered that its backend gives no answer.
    Unavailable,
    /// The destination answered.
    Answered,
}

impl Reach {
    /// Returns how far an exchange with a complete answer came. 502, 503 and 504 come from a gateway whose backend is
    /// restarted, or from a server that starts or stops. Cloudflare has 520 to 524 for backends that refuse, break off
    /// or do not answer. A 500 comes from the receiver's program itself.
    pub(super) fn of_status(status: u16) -> Self {
        match status {
            502..=504 | 520..=524 => Self::Unavailable,
            _ => Self::Answered,
        }
    }

    pub(super) fn of(error: &SendError) -> Self {
        match error {
            SendError::Refused(_) | SendError::Exhausted(_) | SendError::Resolver(_) => Self::NotTried,
            error if error.is_unconnected() => Self::NotConnected,
            SendError::Timeout(_) => Self::NoAnswer,
            SendError::Connect(_)
            | SendError::Tls(_)
            | SendError::Protocol(_)
            | SendError::TooLarge(_)
            | SendError::Closed => Self::Broken,
        }
    }
}

/// What an attempt learned about the token that it needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenUse {
    /// A request for a token ended. It counts for the token URL, not for the destination.
    Requested {
        /// Name of the queue that webhooks to the token URL have.
        queue: String,
        /// How far the exchange came.
        reach: Reach,
        /// Whether there is no token, so that nothing was sent to the destination.
        has_failed: bool,
    },
    /// An earlier request has just failed, and the next one may be made after this time. Nothing was sent.
    Awaited(Duration),
}

/// Result of one attempt.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// Classification of the result; decides what follows.
    pub outcome: Outcome,
    /// How far the exchange came. The breakers count by it.
    pub reach: Reach,
    /// Duration of the exchange, which the channel measures; zero if nothing was sent.
    pub duration: Duration,
    /// What the attempt learned about its token, if it requested or awaits one.
    pub token: Option<Box<TokenUse>>,
    /// Entry for the attempt log. The dispatcher sets its times.
    pub attempt: Attempt,
}

impl AttemptResult {
    /// Returns the result of an attempt that sent nothing.
    pub(super) fn without_response(outcome: Outcome, error: String, request_headers: Headers) -> Self {
        let attempt = Attempt { error: Some(error), request_headers, ..Attempt::default() };
        Self { outcome, reach: Reach::NotTried, duration: Duration::ZERO, token: None, attempt }
    }

    /// Returns for how long the attempt has to wait until a token may be requested for it.
    pub fn token_wait(&self) -> Option<Duration> {
        match self.token.as_deref()? {
            TokenUse::Awaited(wait) => Some(*wait),
            TokenUse::Requested { .. } => None,
        }
    }

    /// Returns the result of an HTTP exchange. `classify` returns the outcome of a response, and its error.
    pub(super) fn of_exchange(
        (response, request_headers): Exchange,
        classify: impl FnOnce(&Received) -> (Outcome, Option<String>),
    ) -> Self {
        let received = match response {
            Ok(received) => received,
            Err(error) => {
                let outcome = match () {
                    () if matches!(error, SendError::Refused(_)) => Outcome::Refused,
                    () if error.is_ours() => Outcome::NotMade,
                    () => Outcome::Retry { after: None },
                };
                let result = Self::without_response(outcome, error.to_string(), request_headers);
                return Self { reach: Reach::of(&error), ..result };
            }
        };
        let (outcome, error) = classify(&received);
        let failed = outcome != Outcome::Ok;
        let error = error.or_else(|| failed.then(|| format!("HTTP {}", received.status)));
        let reach = Reach::of_status(received.status);
        let attempt = Attempt {
            status_code: Some(received.status),
            error,
            request_headers,
            response_body: recorded_text(&received.body),
            response_headers: received.headers,
            ..Attempt::default()
        };
        Self { outcome, reach, duration: Duration::ZERO, token: None, attempt }
    }
}

/// Headers, as the attempt log shows them.
pub(super) type Headers = Vec<(String, String)>;

/// The response to a request, and the request's headers.
pub(super) type Exchange = (Result<Received, SendError>, Headers);

/// Returns the name of the queue of webhooks of an app to a URL. `target` is the checked URL.
pub(super) fn webhook_queue(app: AppNo, url: &str, target: Option<&egress::Target>) -> String {
    let origin = target.map(egress::Target::origin).unwrap_or_default();
    let path = url.split(['?', '#']).next().unwrap_or_default();
    format!("{} {origin} {}", app.0, short_hash(path))
}

/// Returns a hash that names an address without revealing it.
pub(super) fn short_hash(text: &str) -> String {
    format!("{:016x}", u64::from_be_bytes(hash(&[text.as_bytes()])))
}

/// Posts to the URL of a destination.
pub(super) async fn post(
    egress: &Egress,
    url: &str,
    (headers, body): (HeaderMap, Bytes),
    timeout: Duration,
) -> Exchange {
    let (recorded, post) = prepared(egress, url, (headers, body), timeout);
    let response = match post {
        Ok(post) => egress.send(post).await,
        Err(error) => Err(error),
    };
    (response, recorded)
}

/// Posts to the URL of a webhook, with the TLS identity of its destination.
pub(super) async fn post_as(
    identity: Option<&Arc<ClientIdentity>>,
    egress: &Egress,
    url: &str,
    (headers, body): (HeaderMap, Bytes),
    timeout: Duration,
) -> Exchange {
    let (recorded, post) = prepared(egress, url, (headers, body), timeout);
    let response = match post {
        Ok(post) => egress.send_as(identity, post).await,
        Err(error) => Err(error),
    };
    (response, recorded)
}

/// Returns a request to the URL of a destination, and its headers as they are recorded.
fn prepared(
    egress: &Egress,
    url: &str,
    (headers, body): (HeaderMap, Bytes),
    timeout: Duration,
) -> (Headers, Result<Post<egress::Target>, SendError>) {
    let recorded = recorded_headers(&headers);
    // The configuration may permit fewer addresses than at the registration; that may change again.
    let url = egress.parse(url).map_err(|error| SendError::Refused(error.to_string()));
    (recorded, url.map(|url| Post { url, headers, body, timeout, max_answer: RESPONSE_MAX }))
}

/// Returns headers as an attempt records them. Custom headers are marked sensitive, and masked.
pub(super) fn recorded_headers(headers: &HeaderMap) -> Headers {
    let show = |value: &HeaderValue| match value.to_str() {
        Ok(text) if !value.is_sensitive() => text.to_owned(),
        _ => "***".to_owned(),
    };
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), show(value))).collect()
}

/// Returns a response as text that any database accepts: without NUL, and at most [`RESPONSE_MAX`] bytes
/// long, although each invalid byte becomes a character of three.
pub(super) fn recorded_text(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    let mut end = text.len().min(RESPONSE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}
