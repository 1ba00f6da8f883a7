//! The ways out: how one message reaches one address, and what came of it.
//!
//! A channel renders, sends and classifies, once, and remembers nothing: when to try again and what
//! to write down is decided by whoever called. Nothing here knows of a database.

pub mod email;
pub mod slack;
mod template_context;
pub mod templates;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use reqwest::header::{HeaderMap, HeaderValue};

use crate::clock::Clock;
use crate::domain::{
    AddressError, DeliveryId, EventId, EventType, MailAddress, Outcome, Payload, Timestamp, WatchId,
};
use crate::egress::{Egress, SendError};
use email::Mailer;
use slack::{Bot, SlackTarget};
use templates::Templates;
use webhook::Secret;

/// How much of an answer is read and kept.
const ANSWER_MAX: usize = 16 * 1024;

const AGENT: HeaderValue = HeaderValue::from_static(concat!("Ringback/", env!("CARGO_PKG_VERSION")));

/// One event on its way to one address.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// The delivery; every attempt carries the same id.
    pub delivery_id: DeliveryId,
    /// The event; every attempt carries the same id.
    pub event_id: EventId,
    /// What happened.
    pub event_type: EventType,
    /// To which watch.
    pub watch_id: WatchId,
    /// What kind of body it is.
    pub payload: Payload,
    /// The bytes, as they were made with the event.
    pub body: Bytes,
    /// The registration's trace.
    pub traceparent: Option<&'a str>,
    /// When this attempt is made.
    pub now: Timestamp,
    /// Where to.
    pub to: Address<'a>,
}

/// The closed set of ways out, each with what it needs to know.
#[derive(Clone, Debug)]
pub enum Address<'a> {
    /// A signed POST.
    Webhook {
        /// As it was registered.
        url: &'a str,
        /// The user's own, as [`webhook::check_header`] took them.
        headers: &'a [(String, String)],
        /// One signature each: during a rotation there are two.
        secrets: &'a [Secret],
    },
    /// A mail.
    Email {
        /// Whose box.
        to: &'a str,
    },
    /// A message in Slack, or in what takes Slack's messages.
    Slack {
        /// A hook's URL, or a channel.
        to: &'a str,
    },
}

/// What one attempt came to.
#[derive(Clone, Debug)]
pub struct AttemptResult {
    /// What it means.
    pub outcome: Outcome,
    /// HTTP's, if there was an answer.
    pub status_code: Option<u16>,
    /// A word and a sentence, if there was none.
    pub error: Option<String>,
    /// Whether nobody was there: no connection, no TLS, or no answer in time.
    pub nobody: bool,
    /// What was sent; the values of the user's own headers are masked.
    pub request_headers: Vec<(String, String)>,
    /// What came back.
    pub response_headers: Vec<(String, String)>,
    /// Its beginning, as text.
    pub response_body: String,
    /// How long it took.
    pub duration: Duration,
}

/// The ways out, as they are configured here.
#[derive(Debug)]
pub struct Channels {
    /// The way out for HTTP, and for other connections.
    pub egress: Arc<Egress>,
    /// Time.
    pub clock: Clock,
    /// Mail, where a mail server is configured.
    pub mail: Option<Mailer>,
    /// Slack's channels, where a bot is configured.
    pub bot: Option<Bot>,
    /// What people read.
    pub templates: Templates,
}

impl AttemptResult {
    /// Not tried: nobody answered there lately.
    pub fn down() -> Self {
        let why = "destination_down: nobody answered there lately, and this was not tried";
        unsent(Outcome::Down, why.to_owned(), Vec::new())
    }
}

impl Channels {
    /// Reads a mail address that the operator allows.
    pub fn mail_address(&self, text: &str) -> Result<MailAddress, AddressError> {
        let address =
            MailAddress::parse(text).ok_or_else(|| AddressError::Invalid("is not a mail address".into()))?;
        let mailer = self.mail.as_ref().ok_or_else(|| {
            AddressError::NotConfigured("no mail is sent from here: [smtp] url is not configured".into())
        })?;
        mailer.check(&address).map_err(AddressError::NotAllowed)?;
        Ok(address)
    }

    /// Reads a Slack address. The host of a URL is not checked here.
    pub fn slack_target<'a>(&self, text: &'a str) -> Result<SlackTarget<'a>, AddressError> {
        match SlackTarget::parse(text).map_err(AddressError::Invalid)? {
            SlackTarget::Channel(_) if self.bot.is_none() => Err(AddressError::NotConfigured(
                "channels cannot be posted to from here: [slack] bot_token is not configured".into(),
            )),
            target @ (SlackTarget::Hook(_) | SlackTarget::Compatible(_) | SlackTarget::Channel(_)) => {
                Ok(target)
            }
        }
    }

    /// Tries once.
    pub async fn send(&self, message: Message<'_>, timeout: Duration) -> AttemptResult {
        let Self { egress, clock, mail, bot, templates } = self;
        match message.to {
            Address::Webhook { url, headers, secrets } => {
                webhook::send(egress, clock, &message, url, headers, secrets, timeout).await
            }
            Address::Email { to } => {
                let Some(mailer) = mail else {
                    tracing::error!("mails wait: [smtp] url is not configured any more");
                    let why = "smtp: no mail server is configured any more".into();
                    return unsent(Outcome::Retry { after: None }, why, Vec::new());
                };
                mailer.send(egress, clock, templates, &message, (to, timeout)).await
            }
            Address::Slack { to } => {
                let line = slack::SendContext { egress, clock, bot: bot.as_ref(), templates };
                slack::send(line, &message, (to, timeout)).await
            }
        }
    }
}

/// The headers as an attempt records them: what the user gave is marked sensitive, and masked.
fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let show = |value: &HeaderValue| match value.to_str() {
        Ok(text) if !value.is_sensitive() => text.to_owned(),
        _ => "***".to_owned(),
    };
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), show(value))).collect()
}

/// What is kept of an answer: text that any database takes (some refuse NUL), and no longer
/// than what was read, though each broken byte becomes a sign of three.
fn text(body: &[u8]) -> String {
    let mut text = String::from_utf8_lossy(body).replace('\0', "\u{fffd}");
    let mut end = text.len().min(ANSWER_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// There was no answer over HTTP.
fn unanswered(error: &SendError, request_headers: Vec<(String, String)>) -> AttemptResult {
    let outcome = match error {
        SendError::Refused(_) => Outcome::Refused,
        SendError::Timeout(_)
        | SendError::Connect(_)
        | SendError::Tls(_)
        | SendError::Protocol(_)
        | SendError::TooLarge(_) => Outcome::Retry { after: None },
    };
    let nobody = matches!(error, SendError::Timeout(_) | SendError::Connect(_) | SendError::Tls(_));
    AttemptResult { nobody, ..unsent(outcome, error.to_string(), request_headers) }
}

/// Nothing was sent, or nothing came back.
fn unsent(outcome: Outcome, error: String, request_headers: Vec<(String, String)>) -> AttemptResult {
    AttemptResult {
        outcome,
        status_code: None,
        error: Some(error),
        nobody: false,
        request_headers,
        response_headers: Vec::new(),
        response_body: String::new(),
        duration: Duration::ZERO,
    }
}
