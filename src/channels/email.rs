//! Email: which recipients are permitted, the mail itself, and what the server's replies mean.
//!
//! Each recipient gets a mail of its own: a server that refuses one of several recipients refuses the whole
//! exchange, and no recipient sees the address of another. The `Message-ID` is the delivery's id, so a mail
//! that is sent again after a crash or a lost reply is recognized as the same mail.
//!
//! docs/MESSAGES.md has pictures of the mails.
//!
//! The results of the templates are not trusted: the subject is shortened to one line, and both bodies are
//! encoded completely. So no text can end a header, a part or the message.

mod settings;
mod smtp;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lettre::Address;
use lettre::message::header::{
    ContentTransferEncoding, ContentType, HeaderName, HeaderValue, MIME_VERSION_1_0,
};
use lettre::message::{Body, Mailbox as LettreMailbox, MultiPart, SinglePart};
use percent_encoding::percent_decode_str;

use super::channel::{
    AttemptResult, Channel, ChannelSpec, Headers, Message, OPERATOR_WAIT, Pacing, ParsedAddress, QueueScope,
    Reach, SendFuture, Services, SettingValues, Shorthand, ShownAddress, recorded_text,
};
use super::template_context::{TemplateContext, single_line};
use super::templates::{TemplateFile, Templates};
use crate::clock::Moment;
use crate::domain::SecretTexts;
use crate::domain::{AddressError, Attempt, ChannelKind, MailAddress, MailPattern, Mailbox, Masked, Outcome};
use crate::egress::SendError;
use settings::{SETTINGS, SmtpServer};
use smtp::{FINAL_REPLY_TIMEOUT, Failure, Mail, Reply, Stage};

/// Maximum number of mails in flight, of which an app that is alone uses half. Each uses a connection of its own, and a
/// mail server accepts about this many from one client (Postfix defers beyond 50, small relays beyond 5).
const CONCURRENT_MAX: usize = 8;

/// Wait after a temporary refusal: greylisting accepts a sender after some minutes.
const TEMPORARY_WAIT: Duration = Duration::from_secs(5 * 60);

/// Time between two lines about a mail server that cannot be reached.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// End of an error about a missing reply to a whole message.
const UNCLEAR: &str = "it may have accepted the mail";

/// Maximum length of a subject, in characters. Mail readers cut longer ones.
const SUBJECT_MAX: usize = 150;

/// The subject.
pub(super) const SUBJECT: TemplateFile =
    TemplateFile::text("email/subject.txt", include_str!("../../templates/email/subject.txt"), 4 * 1024);

/// The text part.
pub(super) const TEXT: TemplateFile =
    TemplateFile::text("email/message.txt", include_str!("../../templates/email/message.txt"), 64 * 1024);

/// The HTML part. Mail readers cut it after about 100 KB.
pub(super) const HTML: TemplateFile =
    TemplateFile::text("email/message.html", include_str!("../../templates/email/message.html"), 100 * 1024);

/// The row of email in the channel table.
pub(super) const SPEC: ChannelSpec = ChannelSpec {
    shorthand: Some(Shorthand { field: "email", is_list: true }),
    address_fields: &["email", "address", "to"],
    recognize: |text| {
        // A scheme is case-insensitive.
        let (scheme, address) = text.split_once(':')?;
        let is_mail = scheme.eq_ignore_ascii_case("mailto");
        is_mail.then(|| percent_decode_str(address).decode_utf8_lossy())
    },
    show: |address| ShownAddress::Email(address),
    queue: QueueScope::Server("smtp"),
    pacing: Pacing::Concurrent(CONCURRENT_MAX),
    templates: &[&SUBJECT, &TEXT, &HTML],
    settings: SETTINGS,
    check_settings: settings::check,
    ..ChannelSpec::new(ChannelKind::Email, |values| Box::new(Mailer::from_settings(values)))
};

/// A configured mail server, with the sender and the permitted recipients.
#[derive(Debug)]
struct Mailer {
    server: SmtpServer,
    from: Mailbox,
    allow: Vec<MailPattern>,
    /// The password, which no reply shows.
    secrets: SecretTexts,
    /// When the next line about an unreachable mail server is permitted.
    next_log: Mutex<Option<Moment>>,
}

impl Mailer {
    fn from_settings(values: &SettingValues) -> Option<Self> {
        let mut server = SmtpServer::parse(values.text("smtp.url")?).ok()?;
        if let Some(timeout) = values.text("smtp.timeout") {
            server.timeout = settings::timeout(timeout).ok()?;
        }
        let from = settings::sender(values.text("smtp.from")?).ok()?;
        let allow = match values.list("smtp.allow") {
            Some(entries) => settings::patterns(entries.iter().map(Masked::reveal)).ok()?,
            None => MailPattern::of_sender(&from.address).into_iter().collect(),
        };
        let secrets = server.secrets();
        Some(Self { server, from, allow, secrets, next_log: Mutex::default() })
    }
}

/// The channel; `None` if no mail server is configured.
impl Channel for Option<Mailer> {
    fn parse_address(&self, text: &str) -> Result<ParsedAddress, AddressError> {
        let address = MailAddress::parse(text).ok_or_else(|| {
            AddressError::Invalid("is not a mail address; write it as name@example.com".to_owned())
        })?;
        let mailer = self.as_ref().ok_or_else(|| {
            let message = "no mail is sent from here; the operator can set smtp.url (RINGBACK_SMTP__URL)";
            AddressError::NotConfigured(message.to_owned())
        })?;
        if !mailer.allow.iter().any(|pattern| pattern.allows(&address)) {
            let domain = address.domain();
            let message = format!("may not be mailed from here: add it, or *@{domain}, to [smtp] allow");
            return Err(AddressError::NotAllowed(message));
        }
        Ok(ParsedAddress::Text(address.as_str().to_owned()))
    }

    fn send<'a>(&'a self, services: &'a Services, message: &'a Message<'a>) -> SendFuture<'a> {
        Box::pin(async move {
            let Some(mailer) = self else {
                tracing::error!("mails wait: [smtp] url is not configured any more");
                let error = "smtp: no mail server is configured any more".to_owned();
                return Ok(AttemptResult::without_response(
                    Outcome::Retry { after: None },
                    error,
                    Vec::new(),
                ));
            };
            mailer.send(services, message).await
        })
    }
}

impl Mailer {
    /// Sends a mail once.
    async fn send(&self, services: &Services, message: &Message<'_>) -> Result<AttemptResult, String> {
        let stopwatch = services.clock.stopwatch();
        let to = MailAddress::parse(&message.delivery.destination.address)
            .ok_or("the mail address cannot be read")?;
        let (bytes, request_headers) = self.compose(&services.templates, &to, message)?;
        let mail = Mail { server: &self.server, from: &self.from.address, to: &to, message: &bytes };
        let mut stage = Stage::Connect;
        let result = |outcome, reach, error: Option<String>, reply: &str| {
            let request_headers = request_headers.clone();
            let response_body = recorded_text(reply.as_bytes());
            let attempt = Attempt { error, request_headers, response_body, ..Attempt::default() };
            AttemptResult { outcome, reach, duration: stopwatch.elapsed(), token: None, attempt }
        };
        let final_reply = match Box::pin(smtp::transmit(services, mail, &mut stage)).await {
            Ok(final_reply) => final_reply,
            Err(failure) => {
                let reach = reach(stage, &failure);
                if reach == Reach::NotConnected {
                    self.log_unreachable(services, &failure);
                }
                let (outcome, error, reply) = classify(stage, self.without_secrets(failure));
                return Ok(result(outcome, reach, Some(error), &reply));
            }
        };
        let stopped = format!("stopped: Ringback was stopped before the mail server replied; {UNCLEAR}");
        message.transmission.complete(result(Outcome::Unclear, Reach::Answered, Some(stopped), ""));
        let reply = services.clock.timeout(FINAL_REPLY_TIMEOUT, final_reply).await;
        Ok(match reply.unwrap_or_else(|| Err(SendError::timed_out(FINAL_REPLY_TIMEOUT).into())) {
            Ok(reply) => {
                let shown = self.secrets.hide(&reply.text).unwrap_or(reply.text);
                result(Outcome::Ok, Reach::Answered, None, &shown)
            }
            Err(Failure::Connection(error)) => {
                let error = format!("{error}, after the message; {UNCLEAR}");
                result(Outcome::Unclear, Reach::Answered, Some(error), "")
            }
            Err(failure) => {
                let (outcome, error, reply) = classify(Stage::Content, self.without_secrets(failure));
                result(outcome, Reach::Answered, Some(error), &reply)
            }
        })
    }

    /// Replaces the password in a reply that repeats it.
    fn without_secrets(&self, failure: Failure) -> Failure {
        match failure {
            Failure::Refused(reply) => {
                let text = self.secrets.hide(&reply.text).unwrap_or(reply.text);
                Failure::Refused(Reply { text, ..reply })
            }
            other @ (Failure::Connection(_) | Failure::NoTls | Failure::NoLogin { .. }) => other,
        }
    }

    /// Logs that the mail server does not answer at its address, at most once in [`LOG_INTERVAL`]. The users who read
    /// the attempts do not see the address.
    fn log_unreachable(&self, services: &Services, failure: &Failure) {
        let Failure::Connection(error) = failure else { return };
        let now = services.clock.moment();
        let mut next = self.next_log.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_none_or(|next| next <= now) {
            *next = Some(now.plus(LOG_INTERVAL));
            let (error, address) = (error.to_string(), format!("{}:{}", self.server.host, self.server.port));
            tracing::warn!(
                error,
                address,
                "the mail server cannot be reached: check host, port and scheme of smtp.url; mails wait"
            );
        }
    }

    /// Returns a mail, and the headers that the attempt log shows. The error is a sentence.
    fn compose(
        &self,
        templates: &Templates,
        to: &MailAddress,
        message: &Message<'_>,
    ) -> Result<(Vec<u8>, Headers), String> {
        let context = TemplateContext::new(message.delivery)?;
        let subject = single_line(&templates.render(&SUBJECT, &context)?, SUBJECT_MAX);
        let plain = templates.render(&TEXT, &context)?;
        let html = templates.render(&HTML, &context)?;
        let from = &self.from.address;
        let id = format!("<{}@{}>", message.delivery.id, from.domain());
        // Names a message that does not exist: mail readers show all mails that refer to it as one thread.
        let is_of_watch = message.delivery.event_type.is_of_watch();
        let thread = is_of_watch.then(|| format!("<{}@{}>", message.delivery.watch, from.domain()));

        let seconds = Duration::from_secs(u64::try_from(message.now.seconds()).unwrap_or_default());
        let address = |address: &MailAddress| {
            Address::new(address.local(), address.domain()).map_err(|error| format!("{address}: {error}"))
        };
        let parts = MultiPart::alternative()
            // `=_` cannot occur in a part: in its encoding, `=` precedes two digits or the end of a line.
            .boundary(format!("=_{}", message.delivery.id))
            .singlepart(part(ContentType::TEXT_PLAIN, plain)?)
            .singlepart(part(ContentType::TEXT_HTML, html)?);
        let mut mail = lettre::Message::builder()
            .date(UNIX_EPOCH + seconds)
            .from(LettreMailbox::new(self.from.name.clone(), address(from)?))
            .to(LettreMailbox::new(None, address(to)?))
            .raw_header(subject_header(&subject))
            .message_id(Some(id.clone()))
            // RFC 3834, and a header that Exchange evaluates: no automatic replies.
            .raw_header(header("Auto-Submitted", "auto-generated"))
            .raw_header(header("X-Auto-Response-Suppress", "All"))
            .header(MIME_VERSION_1_0);
        if let Some(thread) = thread {
            mail = mail.in_reply_to(thread.clone()).references(thread);
        }
        let mail = mail.multipart(parts).map_err(|error| error.to_string())?;
        let shown =
            [("from", from.as_str()), ("to", to.as_str()), ("message-id", &id), ("subject", &subject)];
        let shown = shown.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Ok((mail.formatted(), shown.into()))
    }
}

fn part(kind: ContentType, text: String) -> Result<SinglePart, String> {
    let body = Body::new_with_encoding(text, ContentTransferEncoding::QuotedPrintable);
    let body = body.map_err(|_| "a part of the mail cannot be encoded")?;
    Ok(SinglePart::builder().header(kind).body(body))
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

/// Returns the header `Subject`. If its text contains the start of an encoded word (RFC 2047), all of it is encoded:
/// lettre encodes only words with other characters than ASCII, and a mail reader would decode what a client has written.
fn subject_header(text: &str) -> HeaderValue {
    /// Size of the longest encoded word that has a multiple of three bytes: 60 of 75 characters are its text.
    const CHUNK: usize = 45;

    let name = HeaderName::new_from_ascii_str("Subject");
    if !text.contains("=?") {
        return HeaderValue::new(name, text.to_owned());
    }
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end =
            (0..=CHUNK.min(rest.len())).rev().find(|end| rest.is_char_boundary(*end)).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        words.push(format!("=?utf-8?b?{}?=", BASE64.encode(word)));
        rest = after;
    }
    HeaderValue::dangerous_new_pre_encoded(name, text.to_owned(), words.join("\r\n "))
}

/// Returns how far an exchange came that has failed. A server that gives no greeting is not reached: what accepts the
/// connection may be a forwarder whose mail server is away. A failure of TLS needs the operator, and has a wait of its
/// own.
fn reach(stage: Stage, failure: &Failure) -> Reach {
    match (stage, failure) {
        (_, Failure::Connection(error)) if error.is_ours() => Reach::NotTried,
        (Stage::Connect | Stage::Greeting, Failure::Connection(_)) => Reach::NotConnected,
        _ => Reach::Answered,
    }
}

/// Returns the outcome of a failed exchange, its error, and the server's reply.
fn classify(stage: Stage, failure: Failure) -> (Outcome, String, String) {
    let stage_name = stage.name();
    let retry = |after| Outcome::Retry { after };
    match failure {
        Failure::Refused(reply) => {
            let cause = cause(stage, &reply);
            if cause == Cause::Operator {
                tracing::error!(
                    error = reply.text,
                    "the mail server does not accept mail from here at {stage_name}: see [smtp]; mails wait"
                );
            }
            let (refusal, answer) = match cause {
                Cause::Operator => ("the mail server does not accept mail from here", "its answer"),
                Cause::Temporary => ("the mail server asks to retry later", "its answer"),
                Cause::Recipient => ("the recipient is refused", "the answer"),
                Cause::Message => ("the message is refused", "the answer"),
            };
            (cause.outcome(), format!("smtp: {refusal} ({answer} to {stage_name})"), reply.text)
        }
        Failure::Connection(error) => {
            // A certificate needs the operator; a lost connection does not.
            let distrusted =
                matches!(stage, Stage::Tls | Stage::StartTls) && matches!(error, SendError::Tls(_));
            let is_ours = error.is_ours();
            let error = match error.to_string().split_once(": ") {
                Some((kind, why)) if stage == Stage::Connect => {
                    format!("{kind}: the mail server cannot be reached: {why}")
                }
                _ => format!("{error}, at {stage_name}"),
            };
            if is_ours {
                return (Outcome::NotMade, error, String::new());
            }
            if distrusted {
                tracing::error!(error, "TLS with the mail server fails: see [smtp]; mails wait");
            }
            (retry(distrusted.then_some(OPERATOR_WAIT)), error, String::new())
        }
        Failure::NoTls => {
            tracing::error!(
                "the mail server offers no STARTTLS, and tls=required in [smtp] url demands it; mails wait"
            );
            let error = "tls: the mail server offers no STARTTLS; if its port expects TLS at once, \
                write [smtp] url with smtps://";
            let error = error.to_owned();
            (retry(Some(OPERATOR_WAIT)), error, String::new())
        }
        Failure::NoLogin { offered, starttls } => {
            let remedy = match (starttls, offered.as_str()) {
                (true, _) => "it may offer one after STARTTLS: add ?tls=required to [smtp] url".to_owned(),
                (false, "") => "remove the user name and the password from [smtp] url".to_owned(),
                (false, offered) => format!("it offers {offered}, and Ringback knows PLAIN and LOGIN"),
            };
            let error = format!("smtp: the mail server offers no login; {remedy}");
            tracing::error!(error, "the mail server does not permit the login of [smtp] url; mails wait");
            (retry(Some(OPERATOR_WAIT)), error, String::new())
        }
    }
}

/// Cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A temporary state of the server.
    Temporary,
    /// The configuration of the mail server, or of Ringback: it would refuse other mails as well.
    Operator,
    /// A mailbox that does not exist any more: later mails to it are skipped.
    Recipient,
    /// This message: no retry would succeed.
    Message,
}

impl Cause {
    fn outcome(self) -> Outcome {
        match self {
            Self::Temporary => Outcome::Retry { after: Some(TEMPORARY_WAIT) },
            Self::Operator => Outcome::Retry { after: Some(OPERATOR_WAIT) },
            Self::Recipient => Outcome::Gone,
            Self::Message => Outcome::Fatal,
        }
    }
}

/// Returns the cause of a refusal. It follows from the enhanced code; without one, from the stage and the
/// code.
///
/// A mail server refuses to relay when it knows the recipient, although this is about the client: its address or its
/// login is not permitted. Its code is 5.7.1 then, like that of all policies. After RCPT TO, 5.7.x is therefore a fault
/// that the operator can correct, and no mail is lost meanwhile. After the message, 5.7.1 is about its content, and
/// only the codes of the login (RFC 4954), of encryption (RFC 5248) and of the sender's domain and address (RFC 7372,
/// RFC 7505) are about the client.
fn cause(stage: Stage, reply: &Reply) -> Cause {
    if reply.code < 500 {
        return Cause::Temporary;
    }
    if matches!(reply.code, 530 | 534 | 535 | 538) {
        return Cause::Operator;
    }
    match (stage, reply.enhanced_code()) {
        (Stage::Recipient | Stage::Data | Stage::Content, code) => match code {
            // About the sender's address, and about the client.
            Some((_, 1, 7 | 8) | (_, 7, 8..=11 | 20..=28)) => Cause::Operator,
            Some((_, 7, _)) if stage == Stage::Recipient => Cause::Operator,
            None if stage == Stage::Recipient && reply.mentions_relaying() => Cause::Operator,
            Some((_, 1, _) | (_, 2, 1)) => Cause::Recipient,
            None if stage == Stage::Recipient && matches!(reply.code, 550 | 551 | 553) => Cause::Recipient,
            Some(_) | None => Cause::Message,
        },
        // About the size.
        (Stage::Sender, Some((_, 2 | 3, _))) => Cause::Message,
        (Stage::Sender, None) if reply.code == 552 => Cause::Message,
        // The server does not know the recipient and the message yet.
        (
            Stage::Connect
            | Stage::Tls
            | Stage::Greeting
            | Stage::Hello
            | Stage::StartTls
            | Stage::Login
            | Stage::Sender,
            _,
        ) => Cause::Operator,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untrusted_certificate_waits_longer_than_a_lost_connection() {
        let (tls, cut) = (SendError::Tls("expired".into()), SendError::Connect("cut".into()));
        for (stage, error, after) in [
            (Stage::Tls, tls.clone(), Some(OPERATOR_WAIT)),
            (Stage::StartTls, tls.clone(), Some(OPERATOR_WAIT)),
            (Stage::Content, tls, None),
            (Stage::Tls, cut.clone(), None),
            (Stage::StartTls, cut, None),
        ] {
            let (outcome, ..) = classify(stage, Failure::Connection(error));
            assert_eq!(outcome, Outcome::Retry { after }, "{stage:?}");
        }
    }

    #[test]
    fn each_refusal_has_one_cause() {
        use Cause::{Message, Operator, Recipient, Temporary};
        for (stage, text, expected_cause) in [
            (Stage::Greeting, "421 too busy", Temporary),
            (Stage::Greeting, "554 5.7.1 your address is blocked", Operator),
            (Stage::Hello, "502 what?", Operator),
            (Stage::Login, "535 5.7.8 authentication failed", Operator),
            (Stage::Login, "535 no", Operator),
            (Stage::Login, "534 too weak", Operator),
            (Stage::Login, "538 encryption required", Operator),
            (Stage::Login, "454 4.7.0 later", Temporary),
            (Stage::Sender, "530 5.7.0 must issue STARTTLS first", Operator),
            (Stage::Sender, "550 5.7.1 you are not this sender", Operator),
            (Stage::Sender, "553 sender refused", Operator),
            (Stage::Sender, "552 too large", Message),
            (Stage::Sender, "552 5.3.4 too large", Message),
            (Stage::Recipient, "450 4.2.0 greylisted", Temporary),
            (Stage::Recipient, "451 greylisted", Temporary),
            (Stage::Recipient, "452 4.2.2 full", Temporary),
            (Stage::Recipient, "550 no such user", Recipient),
            (Stage::Recipient, "551 moved", Recipient),
            (Stage::Recipient, "553 bad mailbox", Recipient),
            (Stage::Recipient, "550 5.1.1 no such user", Recipient),
            (Stage::Recipient, "554 5.1.2 no such host", Recipient),
            (Stage::Recipient, "550 5.2.1 disabled", Recipient),
            (Stage::Recipient, "552 5.2.2 full", Message),
            (Stage::Recipient, "554 5.7.1 <a@b.example>: Relay access denied", Operator),
            (Stage::Recipient, "550 5.7.1 Relaying denied", Operator),
            (Stage::Recipient, "550 5.7.60 you cannot send as this sender", Operator),
            (Stage::Recipient, "550 relay not permitted", Operator),
            (Stage::Recipient, "554 Relay access denied", Operator),
            (Stage::Recipient, "553 not in my list of allowed rcpthosts (#5.7.1)", Operator),
            (Stage::Recipient, "553 no mailbox here by that name (#5.1.1)", Recipient),
            (Stage::Recipient, "550 5.1.1 <relay@a.example>: no such user", Recipient),
            (Stage::Recipient, "550 <relay@a.example> unknown", Recipient),
            (Stage::Recipient, "550 5.1.0 rejected", Recipient),
            (Stage::Recipient, "530 authentication required", Operator),
            (Stage::Recipient, "550 5.1.8 bad sender", Operator),
            (Stage::Data, "554 no", Message),
            (Stage::Content, "552 5.3.4 too large", Message),
            (Stage::Content, "554 5.7.1 spam", Message),
            (Stage::Content, "550-5.7.26 not authenticated", Operator),
            (Stage::Content, "550 5.7.25 no reverse DNS", Operator),
            (Stage::Content, "550 5.7.8 log in", Operator),
            (Stage::Content, "550 spam", Message),
            (Stage::Content, "550 5.1.1 no such user", Recipient),
            (Stage::Content, "451 4.3.0 later", Temporary),
        ] {
            let code = text[..3].parse().unwrap();
            let found = cause(stage, &Reply { code, text: text.to_owned() });
            assert_eq!(found, expected_cause, "{stage:?} {text}");
            let expected = match expected_cause {
                Temporary => Outcome::Retry { after: Some(TEMPORARY_WAIT) },
                Operator => Outcome::Retry { after: Some(OPERATOR_WAIT) },
                Recipient => Outcome::Gone,
                Message => Outcome::Fatal,
            };
            assert_eq!(found.outcome(), expected, "{stage:?} {text}");
        }
    }
}
