//! Mail: who may be mailed, what a mail looks like, and what the server's answer means.
//!
//! One mail for each recipient: a server that refuses one of several refuses the whole exchange, and
//! nobody's address is shown to anybody else. The `Message-ID` is the delivery's, so a mail that is sent
//! again after a crash or a lost answer is the same mail to whoever keeps count.

mod message;
mod smtp;

use std::fmt;
use std::time::Duration;

use super::template_context::TemplateContext;
use super::templates::Templates;
use super::{AttemptResult, Message, text, unsent};
use crate::clock::Clock;
use crate::domain::{MailAddress, MailPattern, Mailbox, Outcome};
use crate::egress::{Egress, SendError};
use smtp::{Envelope, Exchange, Failure, Reply, Stage};

/// How many mails are under way at once: a mail server that one talks to with a connection for each
/// mail takes about so many from one client (Postfix defers beyond 50, small relays beyond 5).
pub const MAILS_AT_ONCE: usize = 4;

/// Greylisting wants to see a sender again after some minutes, and a busy server wants rest.
const SOON: Duration = Duration::from_secs(5 * 60);

/// What only the operator can put right is tried seldom: a server that is asked with a wrong password
/// again and again locks the account.
const SELDOM: Duration = Duration::from_secs(30 * 60);

/// When the exchange with the mail server becomes secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// Never.
    None,
    /// By STARTTLS where the server offers it.
    Opportunistic,
    /// By STARTTLS, or nothing is sent.
    Required,
    /// From the start.
    Implicit,
}

/// The operator's mail server.
#[derive(Clone, Debug)]
pub struct Server {
    /// When the exchange becomes secret.
    pub security: Security,
    /// A name or an address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Who we are there.
    pub login: Option<Login>,
}

/// A name and a password.
#[derive(Clone)]
pub struct Login {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Sends mail.
#[derive(Clone, Debug)]
pub struct Mailer {
    /// By way of whom.
    pub server: Server,
    /// In whose name.
    pub from: Mailbox,
    /// To whom.
    pub allow: Vec<MailPattern>,
}

impl Mailer {
    /// Whether this address may be mailed. The error is a sentence for whoever gave it.
    pub fn check(&self, address: &MailAddress) -> Result<(), String> {
        if self.allow.iter().any(|pattern| pattern.allows(address)) {
            return Ok(());
        }
        let domain = address.domain();
        Err(format!("may not be mailed from here: add it, or *@{domain}, to [smtp] allow"))
    }

    /// Sends once.
    pub(super) async fn send(
        &self,
        egress: &Egress,
        clock: &Clock,
        templates: &Templates,
        message: &Message<'_>,
        (to, timeout): (&str, Duration),
    ) -> AttemptResult {
        let watch = clock.stopwatch();
        let Some(to) = MailAddress::parse(to) else {
            return unsent(Outcome::Fatal, "invalid: the mail address cannot be read".into(), Vec::new());
        };
        let made = TemplateContext::of(message)
            .and_then(|news| message::compose(templates, &self.from, &to, message, &news));
        let mail = match made {
            Ok(mail) => mail,
            Err(why) => return unsent(Outcome::Fatal, format!("invalid: {why}"), Vec::new()),
        };
        let envelope = Envelope { from: &self.from.address, to: &to, message: &mail.bytes };
        let mut exchange = Exchange::with(&self.server);
        let done = clock.timeout(timeout, exchange.run(egress, envelope)).await;
        let verdict = match (exchange.taken.take(), done) {
            (Some(reply), _) => Verdict { outcome: Outcome::Ok, error: None, reply: reply.text },
            (None, Some(Err(failure))) => judge(exchange.stage, failure),
            (None, Some(Ok(())) | None) => {
                let error = SendError::timed_out(timeout);
                let stage = exchange.stage.word();
                let outcome = Outcome::Retry { after: None };
                Verdict { outcome, error: Some(format!("{error}, at {stage}")), reply: String::new() }
            }
        };
        AttemptResult {
            outcome: verdict.outcome,
            status_code: None,
            error: verdict.error,
            nobody: false,
            request_headers: mail.headers,
            response_headers: Vec::new(),
            response_body: text(verdict.reply.as_bytes()),
            duration: watch.elapsed(),
        }
    }
}

/// What came of an exchange.
#[derive(Debug)]
struct Verdict {
    outcome: Outcome,
    error: Option<String>,
    reply: String,
}

fn judge(stage: Stage, failure: Failure) -> Verdict {
    let word = stage.word();
    let retry = |after, error| (Outcome::Retry { after }, Some(error));
    let ((outcome, error), reply) = match failure {
        Failure::Said(reply) => {
            let (outcome, who) = blame(stage, &reply);
            if who == Blame::Operator {
                tracing::error!(
                    error = reply.text,
                    "the mail server does not take mail from here at {word}: see [smtp]; mails wait"
                );
            }
            let error = match who {
                Blame::Operator => {
                    format!("smtp: the mail server does not take mail from here (its answer to {word})")
                }
                Blame::Nobody => format!("smtp: the mail server asks for patience (its answer to {word})"),
                Blame::Recipient => format!("smtp: the recipient is refused (the answer to {word})"),
                Blame::Message => format!("smtp: the message is refused (the answer to {word})"),
            };
            ((outcome, Some(error)), reply.text)
        }
        Failure::Lost(error) => {
            // Only the operator can put a certificate right; a connection that is cut heals by itself.
            let distrusted =
                matches!(stage, Stage::Tls | Stage::StartTls) && matches!(error, SendError::Tls(_));
            let error = format!("{error}, at {word}");
            if distrusted {
                tracing::error!(error, "the mail server is not to be believed: see [smtp]; mails wait");
            }
            (retry(distrusted.then_some(SELDOM), error), String::new())
        }
        Failure::NoTls => {
            tracing::error!("the mail server offers no STARTTLS, and [smtp] url asks for it; mails wait");
            (retry(Some(SELDOM), "tls: the mail server offers no STARTTLS".into()), String::new())
        }
        Failure::NoLogin => {
            tracing::error!("the mail server offers neither AUTH PLAIN nor AUTH LOGIN; mails wait");
            (retry(Some(SELDOM), "smtp: the mail server offers no login".into()), String::new())
        }
    };
    Verdict { outcome, error, reply }
}

/// Whose trouble a refusal is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blame {
    /// Time heals it.
    Nobody,
    /// Who configured the server: every mail would be refused.
    Operator,
    /// Who has no box any more: nothing more goes there.
    Recipient,
    /// This message: it will never be taken.
    Message,
}

/// The enhanced code tells most; where there is none, the word of the exchange and the code.
fn blame(stage: Stage, reply: &Reply) -> (Outcome, Blame) {
    let operator = (Outcome::Retry { after: Some(SELDOM) }, Blame::Operator);
    let (recipient, message) = ((Outcome::Gone, Blame::Recipient), (Outcome::Fatal, Blame::Message));
    if reply.code < 500 {
        return (Outcome::Retry { after: Some(SOON) }, Blame::Nobody);
    }
    if matches!(reply.code, 530 | 534 | 535 | 538) {
        return operator;
    }
    match (stage, reply.enhanced()) {
        (Stage::Recipient | Stage::Data | Stage::Content, code) => match code {
            // The sender's address.
            Some((_, 1, 7 | 8)) => operator,
            Some((_, 1, _) | (_, 2, 1)) => recipient,
            None if stage == Stage::Recipient && matches!(reply.code, 550 | 551 | 553) => recipient,
            Some(_) | None => message,
        },
        // Its size.
        (Stage::Sender, Some((_, 2 | 3, _))) => message,
        (Stage::Sender, None) if reply.code == 552 => message,
        // Before anything is known of message and recipient it can be neither's.
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
    fn a_certificate_waits_for_the_operator_and_a_connection_that_is_cut_for_nobody() {
        let (tls, cut) = (SendError::Tls("expired".into()), SendError::Connect("cut".into()));
        for (stage, error, after) in [
            (Stage::Tls, tls.clone(), Some(SELDOM)),
            (Stage::StartTls, tls.clone(), Some(SELDOM)),
            (Stage::Content, tls, None),
            (Stage::Tls, cut.clone(), None),
            (Stage::StartTls, cut, None),
        ] {
            assert_eq!(judge(stage, Failure::Lost(error)).outcome, Outcome::Retry { after }, "{stage:?}");
        }
    }

    #[test]
    fn a_refusal_is_the_recipients_the_messages_the_operators_or_nobodys_trouble() {
        use Blame::{Message, Nobody, Operator, Recipient};
        for (stage, text, who) in [
            (Stage::Greeting, "421 too busy", Nobody),
            (Stage::Greeting, "554 5.7.1 your address is blocked", Operator),
            (Stage::Hello, "502 what?", Operator),
            (Stage::Login, "535 5.7.8 authentication failed", Operator),
            (Stage::Login, "535 no", Operator),
            (Stage::Login, "534 too weak", Operator),
            (Stage::Login, "538 encryption required", Operator),
            (Stage::Login, "454 4.7.0 later", Nobody),
            (Stage::Sender, "530 5.7.0 must issue STARTTLS first", Operator),
            (Stage::Sender, "550 5.7.1 you are not this sender", Operator),
            (Stage::Sender, "553 sender refused", Operator),
            (Stage::Sender, "552 too large", Message),
            (Stage::Sender, "552 5.3.4 too large", Message),
            (Stage::Recipient, "450 4.2.0 greylisted", Nobody),
            (Stage::Recipient, "451 greylisted", Nobody),
            (Stage::Recipient, "452 4.2.2 full", Nobody),
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
            (Stage::Content, "451 4.3.0 later", Nobody),
        ] {
            let code = text[..3].parse().unwrap();
            let (outcome, found) = blame(stage, &Reply { code, text: text.to_owned() });
            assert_eq!(found, who, "{stage:?} {text}");
            let expected = match who {
                Nobody => Outcome::Retry { after: Some(SOON) },
                Operator => Outcome::Retry { after: Some(SELDOM) },
                Recipient => Outcome::Gone,
                Message => Outcome::Fatal,
            };
            assert_eq!(outcome, expected, "{stage:?} {text}");
        }
    }
}
