//! `[smtp]` and `[slack]`: what their values may be. No message repeats a password or a token.

use percent_encoding::percent_decode_str;
use url::Url;

use super::{Masked, SmtpSecurity, SmtpServer};
use crate::domain::{MailPattern, Mailbox};

/// A list that is gone through for each address.
const PATTERNS_MAX: usize = 256;
/// A name or a password has to fit into one line of the exchange.
const LOGIN_MAX: usize = 256;

const FORM: &str =
    "write it as smtp://user:password@mail.example.com:587?tls=required, or smtps://… for TLS from the start";

/// The mail server's URL.
pub(super) fn smtp_url(text: &str) -> Result<SmtpServer, String> {
    let url = Url::parse(text).map_err(|error| format!("this is not a URL ({error}); {FORM}"))?;
    let (mut tls, mut others) = (None, false);
    for (name, value) in url.query_pairs() {
        match (&*name, tls) {
            ("tls", None) => tls = Some(value.into_owned()).map(|value| security(&value)),
            _ => others = true,
        }
    }
    let security = match (url.scheme(), tls) {
        ("smtps", None) => SmtpSecurity::Implicit,
        ("smtps", Some(_)) => return Err(format!("smtps:// is TLS from the start: leave `tls` out; {FORM}")),
        ("smtp", None) => SmtpSecurity::None,
        ("smtp", Some(Some(security))) => security,
        ("smtp", Some(None)) => return Err(format!("`tls` is required or opportunistic; {FORM}")),
        _ => return Err(format!("it begins with smtp:// or smtps://; {FORM}")),
    };
    let wrong = match () {
        () if others => "the only parameter is `tls`",
        () if url.fragment().is_some() => "a # in a password is written %23",
        () if !matches!(url.path(), "" | "/") => "it has no path; a / in a password is written %2F",
        () if url.port() == Some(0) => "there is no port 0",
        () if url.password().is_some_and(str::is_empty) => "the password is empty",
        () if url.password().is_some() && url.username().is_empty() => "the user name is missing",
        () if url.password().is_none() && !url.username().is_empty() => "the password is missing",
        () => "",
    };
    let host =
        url.host_str().filter(|host| !host.is_empty()).ok_or("no host is named; ".to_owned() + FORM)?;
    if !wrong.is_empty() {
        return Err(format!("{wrong}; {FORM}"));
    }
    let default_port = match security {
        SmtpSecurity::None => 25,
        SmtpSecurity::Opportunistic | SmtpSecurity::Required => 587,
        SmtpSecurity::Implicit => 465,
    };
    let login = url.password().map(|password| -> Result<_, String> {
        Ok((decoded(url.username())?, Masked::new(decoded(password)?)))
    });
    Ok(SmtpServer {
        security,
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port: url.port().unwrap_or(default_port),
        login: login.transpose()?,
    })
}

fn security(word: &str) -> Option<SmtpSecurity> {
    match word {
        "required" => Some(SmtpSecurity::Required),
        "opportunistic" => Some(SmtpSecurity::Opportunistic),
        _ => None,
    }
}

fn decoded(text: &str) -> Result<String, String> {
    let plain = percent_decode_str(text).decode_utf8().ok().filter(|text| {
        // NUL separates the words of a login; line ends end the line.
        text.len() <= LOGIN_MAX && !text.chars().any(char::is_control)
    });
    plain.map(Into::into).ok_or_else(|| {
        format!("the user name or the password is too long, or is no text when its %XX are decoded; {FORM}")
    })
}

/// Who the mails are from.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text).ok_or_else(|| {
        format!(
            "`{text}` is not a sender; write it as ringback@example.com or Ringback <ringback@example.com>"
        )
    })
}

/// Who may be mailed.
pub(super) fn mail_patterns(entries: &[String]) -> Result<Vec<MailPattern>, String> {
    if entries.len() > PATTERNS_MAX {
        return Err(format!("{} entries are too many; the most is {PATTERNS_MAX}", entries.len()));
    }
    let read = |entry: &String| {
        MailPattern::parse(entry).ok_or_else(|| {
            format!("`{entry}` is neither *@example.com, nor me@example.com, nor * (everybody)")
        })
    };
    entries.iter().map(read).collect()
}

/// The token of a Slack app's bot user.
pub(super) fn bot_token(text: &str) -> Result<Masked, String> {
    let token = super::parse::credential(text)?;
    if token.reveal().starts_with("xox") {
        Ok(token)
    } else {
        Err("a bot's token begins with xoxb-: it is the `Bot User OAuth Token` of the Slack app".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_is_a_url() {
        let read = |text| {
            let server = smtp_url(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let login = server.login.map(|(name, password)| format!("{name} {}", password.reveal()));
            (server.security, server.host, server.port, login)
        };
        let (host, login) = (|| "mail.example.com".to_owned(), || Some("me@a.example p:w/d#é".to_owned()));
        let of = |security, port, login| (security, host(), port, login);
        for (text, expected) in [
            ("smtp://mail.example.com", of(SmtpSecurity::None, 25, None)),
            ("smtp://mail.example.com:1025/", of(SmtpSecurity::None, 1025, None)),
            ("smtps://mail.example.com", of(SmtpSecurity::Implicit, 465, None)),
            ("smtp://mail.example.com?tls=required", of(SmtpSecurity::Required, 587, None)),
            ("smtp://mail.example.com:25?tls=opportunistic", of(SmtpSecurity::Opportunistic, 25, None)),
            (
                "smtp://me%40a.example:p%3Aw%2Fd%23%C3%A9@mail.example.com?tls=required",
                of(SmtpSecurity::Required, 587, login()),
            ),
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        assert_eq!(read("smtp://[::1]:25").1, "::1");
    }

    #[test]
    fn what_is_wrong_with_a_mail_server_is_said_without_its_password() {
        for (text, says) in [
            ("mail.example.com", "not a URL"),
            ("mail.example.com:25", "smtp://"),
            ("http://u:hush@mail.example.com", "begins with smtp://"),
            ("smtp://", "no host"),
            ("smtp://u:hush@mail.example.com?tls=yes", "required or opportunistic"),
            ("smtp://u:hush@mail.example.com?tls=required&tls=required", "the only parameter"),
            ("smtp://u:hush@mail.example.com?starttls=1", "the only parameter"),
            ("smtps://u:hush@mail.example.com?tls=required", "TLS from the start"),
            ("smtp://u:hu/sh@mail.example.com", "not a URL"),
            ("smtp://u:hush@mail.example.com/x", "no path"),
            ("smtp://u:hush@mail.example.com#x", "%23"),
            ("smtp://u:hush@mail.example.com:0", "port 0"),
            ("smtp://u@mail.example.com", "the password is missing"),
            ("smtp://:hush@mail.example.com", "the user name is missing"),
            ("smtp://u:%00hush@mail.example.com", "no text"),
            ("smtp://u:%0d%0ahush@mail.example.com", "no text"),
            ("smtp://u:%ffhush@mail.example.com", "no text"),
        ] {
            let error = smtp_url(text).err().unwrap_or_else(|| panic!("{text} passes"));
            assert!(error.contains(says) && !error.contains("hush"), "{text}: {error}");
        }
    }

    #[test]
    fn a_bot_token_is_not_some_other_token() {
        assert!(bot_token("xoxb-1-2-abc").is_ok());
        assert!(bot_token("hush-abc").is_err_and(|error| !error.contains("hush")));
    }
}
