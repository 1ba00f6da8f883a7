//! What to do about an attempt that failed: a sentence for people, for the answer to a test.

use super::slack::concerns_the_bot;
use super::{AttemptResult, Reach};
use crate::domain::{ChannelKind, Outcome};

/// Returns what to check after an attempt that failed; `None` if it succeeded.
pub fn hint(channel: ChannelKind, result: &AttemptResult) -> Option<&'static str> {
    let error = result.attempt.error.as_deref().unwrap_or_default();
    Some(match (&result.outcome, result.reach) {
        (Outcome::Ok, _) => return None,
        _ if error.starts_with("token: ") => {
            "no token was issued, so nothing was sent to the receiver: check tokenUrl, clientId, clientSecret and scopes \
             of `auth`, and whether the token URL is public or permitted by egress.allow"
        }
        (Outcome::NotMade, _) => {
            "nothing was sent: the server lacks something, such as a name server that answers; its log says what"
        }
        (Outcome::Refused, _) => {
            "the guard blocks this address; the operator can permit it with egress.allow (see docs/EGRESS.md)"
        }
        (_, Reach::NotConnected) if error.starts_with("tls:") => {
            "no TLS connection was made: check the certificate of the receiver, its chain and its name"
        }
        _ if channel == ChannelKind::Email && result.attempt.response_body.is_empty() => {
            without_reply(&result.outcome, result.reach, error)
        }
        (_, Reach::NotConnected) => {
            "no connection was made: check the host name, the port and the firewall, whether the receiver runs, and for \
             https whether the port speaks TLS"
        }
        _ if channel == ChannelKind::Email => of_reply(&result.attempt.response_body),
        _ if channel == ChannelKind::Slack && error.starts_with(SLACK) => {
            let code = error.trim_start_matches(SLACK).split(' ').next().unwrap_or_default();
            if concerns_the_bot(code) {
                "Slack refuses the bot: the operator checks slack.bot_token, and the scopes of the app"
            } else {
                "Slack refused the message: the error and the answer say why"
            }
        }
        (_, Reach::NoAnswer) => {
            "the receiver accepted the connection and did not answer in time: answer 2xx first, and work afterwards"
        }
        (_, Reach::Broken) if error.contains(" header") => {
            "the receiver, or a proxy in front of it, sends a header that is not valid HTTP"
        }
        (_, Reach::Broken) if error.contains("is not HTTP") => {
            "the answer is not HTTP: check the port of the URL, and whether it is http or https"
        }
        (_, Reach::Broken) => {
            "the answer broke off: check the log of the receiver, and of a proxy in front of it"
        }
        (_, _) => of_status(result.attempt.status_code.unwrap_or_default()),
    })
}

/// The beginning of an error that Slack itself has answered.
const SLACK: &str = "slack: ";

/// Returns what to check after a mail that no reply explains.
fn without_reply(outcome: &Outcome, reach: Reach, error: &str) -> &'static str {
    match error {
        _ if *outcome == Outcome::Unclear => {
            "the mail server got the whole mail and did not confirm it: check whether the mail arrives, and the log of \
             the mail server; a delivery may be sent twice"
        }
        _ if error.contains("is not SMTP") => {
            "the peer does not speak SMTP: check the host and the port of smtp.url, and whether a proxy or a firewall \
             answers in place of the mail server"
        }
        _ if error.contains("out of turn") => {
            "the mail server does not keep to SMTP: the operator checks its software, and what stands between it and \
             Ringback"
        }
        _ if error.starts_with("too_large:") => {
            "the peer sends more than a mail server does: check the host and the port of smtp.url"
        }
        _ if error.starts_with("tls:") => {
            "no TLS connection with the mail server was made: the operator checks scheme, port and tls of smtp.url, and \
             the certificate of the mail server"
        }
        _ if error.starts_with("smtp:") => {
            "the mail server does not fit smtp.url: the error says what the operator changes"
        }
        _ if reach == Reach::Answered => {
            "the mail server stopped in the middle of the exchange: the error names the step, and its log says why"
        }
        _ => {
            "the mail server sent no reply: check the host and the port of smtp.url, and the firewall, and whether it \
             runs"
        }
    }
}

/// Returns what to check after this reply of a mail server. Enhanced status codes are those of RFC 3463.
fn of_reply(reply: &str) -> &'static str {
    let (code, enhanced) = (reply.get(..3).unwrap_or_default(), reply.get(4..8).unwrap_or_default());
    match (code, enhanced) {
        ("530" | "534" | "535" | "538", _) => {
            "the mail server refuses the login: the operator checks smtp.url"
        }
        (_, "5.1.") | ("551" | "553", _) => {
            "the mail server does not know the recipient: check the address and its domain"
        }
        (_, "5.2.") | ("552", _) => {
            "the mailbox of the recipient is full or disabled, or the mail is too large for it"
        }
        (_, "5.7.") => {
            "the mail server refuses this mail by its rules: the operator checks the sender (smtp.from), SPF and DKIM of \
             its domain, and whether the server relays to the recipient"
        }
        _ if code.starts_with('4') => {
            "the mail server refuses the mail for now (greylisting, a limit, or a fault of its own); a delivery is retried"
        }
        _ => {
            "the mail server refuses the mail; its answer says why, and docs/OPERATIONS.md (Mail) explains the usual ones"
        }
    }
}

/// Returns what to check after an answer with this status.
fn of_status(status: u16) -> &'static str {
    match status {
        200..=299 => {
            "the receiver answered with a success, and the channel expects another answer: see the error"
        }
        300..=399 => "redirects are not followed: use the URL of the header location",
        401 | 403 => {
            "the receiver refuses the request: check its secret and how it verifies the signature, and whether it \
             expects a header of its own (`headers` of the destination)"
        }
        404 => "check the path of the URL: the receiver does not know it",
        405 => "check the path of the URL: the receiver does not accept a POST there",
        410 => "the receiver says that this address is gone; a delivery to it would end here",
        413 => "the receiver does not accept a body of this size; raise its limit",
        415 => "the receiver must accept the content-type of the request",
        429 => "the receiver limits its requests: raise the limit, or send less",
        502..=504 | 520..=524 => {
            "a gateway answered, and the receiver behind it did not: check whether it runs"
        }
        500..=599 => "the receiver failed: its log says why",
        _ => "the receiver refuses the request; its answer or its log can say why",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Attempt;

    fn result(outcome: Outcome, reach: Reach, status: Option<u16>, error: Option<&str>) -> AttemptResult {
        let attempt = Attempt { status_code: status, error: error.map(str::to_owned), ..Attempt::default() };
        AttemptResult { outcome, reach, duration: std::time::Duration::ZERO, token: None, attempt }
    }

    #[test]
    fn every_failure_has_a_hint_and_a_success_has_none() {
        let retry = || Outcome::Retry { after: None };
        let webhook = |outcome, reach, status, error| {
            hint(ChannelKind::Webhook, &result(outcome, reach, status, error))
        };
        assert_eq!(webhook(Outcome::Ok, Reach::Answered, Some(204), None), None);
        for (outcome, reach, status, error, part) in [
            (Outcome::Refused, Reach::NotTried, None, None, "egress.allow"),
            (Outcome::NotMade, Reach::NotTried, None, None, "its log"),
            (retry(), Reach::NotConnected, None, Some("connect: refused"), "whether the receiver runs"),
            (retry(), Reach::NotConnected, None, Some("tls: expired"), "certificate"),
            (retry(), Reach::NoAnswer, None, Some("timeout: x"), "in time"),
            (retry(), Reach::Broken, None, None, "broke off"),
            (retry(), Reach::Broken, None, Some("protocol: the answer is not HTTP"), "http or https"),
            (retry(), Reach::Answered, Some(200), None, "another answer"),
            (retry(), Reach::Answered, Some(302), None, "header location"),
            (retry(), Reach::Answered, Some(401), None, "signature"),
            (retry(), Reach::Answered, Some(404), None, "path"),
            (retry(), Reach::Unavailable, Some(503), None, "gateway"),
            (retry(), Reach::Answered, Some(500), None, "its log"),
            (Outcome::Gone, Reach::Answered, Some(410), None, "is gone"),
        ] {
            let found = webhook(outcome, reach, status, error).unwrap_or_default();
            assert!(found.contains(part), "{status:?} {error:?}: {found}");
        }
        let mut mail = result(retry(), Reach::NotTried, None, Some("connect: refused"));
        assert!(hint(ChannelKind::Email, &mail).is_some_and(|hint| hint.contains("smtp.url")));
        mail.attempt.response_body = "550 no such user".to_owned();
        assert!(hint(ChannelKind::Email, &mail).is_some_and(|hint| hint.contains("OPERATIONS")));
        for (reply, part) in [
            ("550 5.1.1 no such user", "check the address"),
            ("550-5.7.26 unauthenticated sender", "SPF"),
            ("552 5.2.2 full", "mailbox"),
            ("535 5.7.8 bad password", "login"),
            ("450 4.2.0 greylisted", "for now"),
        ] {
            mail.attempt.response_body = reply.to_owned();
            assert!(hint(ChannelKind::Email, &mail).is_some_and(|hint| hint.contains(part)), "{reply}");
        }
        for (code, part) in [
            ("invalid_auth", "slack.bot_token"),
            ("missing_scope (the app needs the scope chat:write)", "slack.bot_token"),
            ("channel_not_found (there is no such channel)", "refused the message"),
        ] {
            let error = format!("slack: {code}");
            let found = hint(ChannelKind::Slack, &result(retry(), Reach::Answered, Some(200), Some(&error)));
            assert!(found.is_some_and(|hint| hint.contains(part)), "{code}: {found:?}");
        }
        for status in 100..600 {
            assert!(!of_status(status).is_empty(), "{status}");
        }
    }

    #[test]
    fn a_mail_without_a_reply_has_the_hint_of_its_error() {
        let retry = || Outcome::Retry { after: None };
        for (outcome, reach, error, part) in [
            (retry(), Reach::NotConnected, "timeout: no answer within 30 s, at the greeting", "the firewall"),
            (
                retry(),
                Reach::NotConnected,
                "protocol: the mail server's reply is not SMTP, at the greeting",
                "the port",
            ),
            (
                retry(),
                Reach::Answered,
                "protocol: the mail server answered 250 out of turn, at DATA",
                "keep to SMTP",
            ),
            (
                retry(),
                Reach::Answered,
                "too_large: the answer is larger than 2048 bytes, at EHLO",
                "sends more",
            ),
            (
                retry(),
                Reach::Answered,
                "protocol: the mail server closed the connection, at RCPT TO",
                "the step",
            ),
            (retry(), Reach::Answered, "tls: expired, at TLS", "certificate"),
            (
                retry(),
                Reach::Answered,
                "smtp: the mail server offers no login; it offers X",
                "operator changes",
            ),
            (
                Outcome::Unclear,
                Reach::Answered,
                "protocol: the mail server closed the connection, after the message; it may have accepted the mail",
                "whether the mail arrives",
            ),
            (
                Outcome::Unclear,
                Reach::Answered,
                "timeout: no reply to the message within 60 s; it may have accepted the mail",
                "whether the mail arrives",
            ),
        ] {
            let found =
                hint(ChannelKind::Email, &result(outcome, reach, None, Some(error))).unwrap_or_default();
            assert!(found.contains(part), "{error}: {found}");
            let is_silent = error.starts_with("timeout: no answer");
            assert_eq!(found.contains("sent no reply"), is_silent, "{error}: {found}");
        }
    }
}
