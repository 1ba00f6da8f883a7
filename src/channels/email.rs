//! Email: which recipients are permitted, the mail itself, and what the server's replies mean.
//!
//! Each recipient gets a mail of its own: a server that refuses one of several recipients refuses the whole
//! exchange, and no recipient sees the address of another. The `Message-ID` is the delivery's id, so a mail
//! that is sent again after a crash or a lost reply is recognized as the same mail.

mod message;
mod settings;
mod smtp;

use std::time::Duration;

use percent_encoding::percent_decode_str;

use super::attempt::{AttemptResult, recorded_text};
use super::channel::{
    Channel, ChannelSpec, Message, Pacing, ParsedAddress, QueueScope, SendFuture, Services, SettingValues,
    Shorthand, ShownAddress,
};
use super::template_context::TemplateContext;
use crate::domain::{AddressError, ChannelKind, MailAddress, MailPattern, Mailbox, Masked, Outcome};
use crate::egress::SendError;
pub(super) use message::{HTML, SUBJECT, TEXT};
use settings::{SETTINGS, SmtpServer};
use smtp::{Exchange, Failure, Mail, Reply, Stage};

/// Maximum number of mails in flight. Each uses a connection of its own, and a mail server accepts about this
/// many from one client (Postfix defers beyond 50, small relays beyond 5).
const CONCURRENT_MAX: usize = 4;

/// Wait after a temporary refusal: greylisting accepts a sender after some minutes.
const TEMPORARY_WAIT: Duration = Duration::from_secs(5 * 60);

/// Wait after an error that only the operator can correct: a server locks the account after repeated attempts
/// with a wrong password.
const OPERATOR_WAIT: Duration = Duration::from_secs(30 * 60);

/// The row of email in the channel table.
pub(super) const SPEC: ChannelSpec = ChannelSpec {
    shorthand: Some(Shorthand { field: "email", is_list: true }),
    address_fields: &["email", "address", "to"],
    recognize: |text| Some(percent_decode_str(text.strip_prefix("mailto:")?).decode_utf8_lossy()),
    show: |address| ShownAddress::Email(address),
    queue: QueueScope::Server("smtp"),
    pacing: Pacing::Concurrent(CONCURRENT_MAX),
    has_breaker: false,
    templates: &[&SUBJECT, &TEXT, &HTML],
    settings: SETTINGS,
    check_settings: settings::check,
    ..ChannelSpec::new(ChannelKind::Email, |values| Box::new(Email { mailer: Mailer::from_settings(values) }))
};

/// The channel.
#[derive(Debug)]
struct Email {
    /// `None` if no mail server is configured.
    mailer: Option<Mailer>,
}

/// A configured mail server, with the sender and the permitted recipients.
#[derive(Debug)]
struct Mailer {
    server: SmtpServer,
    from: Mailbox,
    allow: Vec<MailPattern>,
}

impl Mailer {
    fn from_settings(values: &SettingValues) -> Option<Self> {
        let server = SmtpServer::parse(values.text("smtp.url")?).ok()?;
        let from = settings::sender(values.text("smtp.from")?).ok()?;
        let allow = match values.list("smtp.allow") {
            Some(entries) => settings::patterns(entries.iter().map(Masked::reveal)).ok()?,
            None => MailPattern::of_sender(&from.address).into_iter().collect(),
        };
        Some(Self { server, from, allow })
    }
}

impl Channel for Email {
    fn parse_address(&self, text: &str) -> Result<ParsedAddress, AddressError> {
        let address = MailAddress::parse(text)
            .ok_or_else(|| AddressError::Invalid("is not a mail address".to_owned()))?;
        let mailer = self.mailer.as_ref().ok_or_else(|| {
            let message = "no mail is sent from here: [smtp] url is not configured";
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
            let Some(mailer) = &self.mailer else {
                tracing::error!("mails wait: [smtp] url is not configured any more");
                let error = "smtp: no mail server is configured any more".to_owned();
                return AttemptResult::without_response(Outcome::Retry { after: None }, error, Vec::new());
            };
            mailer.send(services, message).await
        })
    }
}

impl Mailer {
    /// Sends a mail once.
    async fn send(&self, services: &Services, message: &Message<'_>) -> AttemptResult {
        let stopwatch = services.clock.stopwatch();
        let Some(to) = MailAddress::parse(&message.delivery.destination.address) else {
            return AttemptResult::invalid("the mail address cannot be read");
        };
        let composed = TemplateContext::new(message.delivery)
            .and_then(|context| message::compose(&services.templates, &self.from, &to, message, &context));
        let composed = match composed {
            Ok(composed) => composed,
            Err(error) => return AttemptResult::invalid(error),
        };
        let mail = Mail { from: &self.from.address, to: &to, message: &composed.bytes };
        let mut exchange = Exchange::new(&self.server);
        let finished = services.clock.timeout(message.timeout, exchange.run(&services.egress, mail)).await;
        let classified = match (exchange.accepted.take(), finished) {
            (Some(reply), _) => Classified { outcome: Outcome::Ok, error: None, reply: reply.text },
            (None, Some(Err(failure))) => classify(exchange.stage, failure),
            (None, Some(Ok(())) | None) => {
                let (error, stage) = (SendError::timed_out(message.timeout), exchange.stage.name());
                let outcome = Outcome::Retry { after: None };
                Classified { outcome, error: Some(format!("{error}, at {stage}")), reply: String::new() }
            }
        };
        AttemptResult {
            error: classified.error,
            response_body: recorded_text(classified.reply.as_bytes()),
            duration: stopwatch.elapsed(),
            ..AttemptResult::without_response(classified.outcome, String::new(), composed.headers)
        }
    }
}

/// A classified exchange.
#[derive(Debug)]
struct Classified {
    outcome: Outcome,
    error: Option<String>,
    reply: String,
}

fn classify(stage: Stage, failure: Failure) -> Classified {
    let stage_name = stage.name();
    let retry = |after, error| (Outcome::Retry { after }, Some(error));
    let ((outcome, error), reply) = match failure {
        Failure::Refused(reply) => {
            let (outcome, cause) = cause(stage, &reply);
            if cause == Cause::Operator {
                tracing::error!(
                    error = reply.text,
                    "the mail server does not accept mail from here at {stage_name}: see [smtp]; mails wait"
                );
            }
            let error = match cause {
                Cause::Operator => {
                    format!(
                        "smtp: the mail server does not accept mail from here (its answer to {stage_name})"
                    )
                }
                Cause::Temporary => {
                    format!("smtp: the mail server asks to retry later (its answer to {stage_name})")
                }
                Cause::Recipient => format!("smtp: the recipient is refused (the answer to {stage_name})"),
                Cause::Message => format!("smtp: the message is refused (the answer to {stage_name})"),
            };
            ((outcome, Some(error)), reply.text)
        }
        Failure::Connection(error) => {
            // A certificate needs the operator; a lost connection does not.
            let distrusted =
                matches!(stage, Stage::Tls | Stage::StartTls) && matches!(error, SendError::Tls(_));
            let error = format!("{error}, at {stage_name}");
            if distrusted {
                tracing::error!(error, "the mail server is not trusted: see [smtp]; mails wait");
            }
            (retry(distrusted.then_some(OPERATOR_WAIT), error), String::new())
        }
        Failure::NoTls => {
            tracing::error!("the mail server offers no STARTTLS, and [smtp] url requires it; mails wait");
            (retry(Some(OPERATOR_WAIT), "tls: the mail server offers no STARTTLS".into()), String::new())
        }
        Failure::NoLogin => {
            tracing::error!("the mail server offers neither AUTH PLAIN nor AUTH LOGIN; mails wait");
            (retry(Some(OPERATOR_WAIT), "smtp: the mail server offers no login".into()), String::new())
        }
    };
    Classified { outcome, error, reply }
}

/// Cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// A temporary state of the server.
    Temporary,
    /// The configuration of the server: it would refuse every mail.
    Operator,
    /// A mailbox that does not exist any more: later mails to it are skipped.
    Recipient,
    /// This message: no retry would succeed.
    Message,
}

/// Returns the cause of a refusal. It follows from the enhanced code; without one, from the stage and the
/// code.
fn cause(stage: Stage, reply: &Reply) -> (Outcome, Cause) {
    let operator = (Outcome::Retry { after: Some(OPERATOR_WAIT) }, Cause::Operator);
    let (recipient, message) = ((Outcome::Gone, Cause::Recipient), (Outcome::Fatal, Cause::Message));
    if reply.code < 500 {
        return (Outcome::Retry { after: Some(TEMPORARY_WAIT) }, Cause::Temporary);
    }
    if matches!(reply.code, 530 | 534 | 535 | 538) {
        return operator;
    }
    match (stage, reply.enhanced_code()) {
        (Stage::Recipient | Stage::Data | Stage::Content, code) => match code {
            // About the sender's address.
            Some((_, 1, 7 | 8)) => operator,
            Some((_, 1, _) | (_, 2, 1)) => recipient,
            None if stage == Stage::Recipient && matches!(reply.code, 550 | 551 | 553) => recipient,
            Some(_) | None => message,
        },
        // About the size.
        (Stage::Sender, Some((_, 2 | 3, _))) => message,
        (Stage::Sender, None) if reply.code == 552 => message,
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
        ) => operator,
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
            assert_eq!(
                classify(stage, Failure::Connection(error)).outcome,
                Outcome::Retry { after },
                "{stage:?}"
            );
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
            (Stage::Recipient, "554 5.7.1 relay access denied", Message),
            (Stage::Recipient, "550 5.7.1 policy", Message),
            (Stage::Recipient, "530 authentication required", Operator),
            (Stage::Recipient, "550 5.1.8 bad sender", Operator),
            (Stage::Data, "554 no", Message),
            (Stage::Content, "552 5.3.4 too large", Message),
            (Stage::Content, "554 5.7.1 spam", Message),
            (Stage::Content, "550 spam", Message),
            (Stage::Content, "550 5.1.1 no such user", Recipient),
            (Stage::Content, "451 4.3.0 later", Temporary),
        ] {
            let code = text[..3].parse().unwrap();
            let (outcome, found) = cause(stage, &Reply { code, text: text.to_owned() });
            assert_eq!(found, expected_cause, "{stage:?} {text}");
            let expected = match expected_cause {
                Temporary => Outcome::Retry { after: Some(TEMPORARY_WAIT) },
                Operator => Outcome::Retry { after: Some(OPERATOR_WAIT) },
                Recipient => Outcome::Gone,
                Message => Outcome::Fatal,
            };
            assert_eq!(outcome, expected, "{stage:?} {text}");
        }
    }
}
