//! The settings of `[smtp]`. No message repeats a password.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::channels::channel::{ChannelSetting, SettingCheck, SettingValues, SettingsReport};
use crate::domain::SecretTexts;
use crate::domain::{
    CUT_PASSWORD, MailPattern, Mailbox, Masked, format_duration, has_cut_password, parse_duration,
    parse_host_name, url_error,
};

/// Maximum number of patterns of `smtp.allow`, which are compared with each address.
const PATTERNS_MAX: usize = 256;
/// Maximum length of a user name or a password, in bytes: each has to fit into one line of the exchange.
const LOGIN_MAX: usize = 256;

/// Longest time of one stage of an exchange: a server that needs longer is unlikely to answer at all.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);

const EXAMPLE: &str =
    "write it as smtp://user:password@mail.example.com:587?tls=required, or smtps://… for TLS from the start";

/// The configuration keys.
pub(super) const SETTINGS: &[ChannelSetting] = &[
    ChannelSetting {
        holds_password: true,
        ..ChannelSetting::new(
            "smtp.url",
            "mail server: `smtp://user:password@host?tls=required` or `smtps://…`",
            SettingCheck::Text(|text| SmtpServer::parse(text).map(drop)),
        )
    },
    ChannelSetting::new(
        "smtp.from",
        "sender of mails: `Ringback <ringback@example.com>`",
        SettingCheck::Text(|text| sender(text).map(drop)),
    ),
    ChannelSetting::new(
        "smtp.allow",
        "addresses that may receive mail: `*@example.com`, `me@example.com`, `*`; if not set, the sender's own domain, unless it is a public mail service's",
        SettingCheck::List(|entries| patterns(entries.iter().map(String::as_str)).map(drop)),
    ),
    ChannelSetting {
        default: Some("30s"),
        ..ChannelSetting::new(
            "smtp.timeout",
            "timeout of each stage of an SMTP exchange before the end of the message; the reply to the whole message may take 10 minutes",
            SettingCheck::Text(|text| timeout(text).map(drop)),
        )
    },
];

/// When an SMTP exchange is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SmtpSecurity {
    /// Never.
    None,
    /// With STARTTLS, if the server offers it.
    Opportunistic,
    /// With STARTTLS; without it, nothing is sent.
    Required,
    /// From the start of the connection.
    Implicit,
}

/// The operator's mail server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SmtpServer {
    /// When the exchange is encrypted.
    pub(super) security: SmtpSecurity,
    /// Host name or IP address.
    pub(super) host: String,
    /// Port.
    pub(super) port: u16,
    /// User name and password.
    pub(super) login: Option<(String, Masked)>,
    /// Maximum time of each stage before the final dot.
    pub(super) timeout: Duration,
}

/// Maximum time of each stage, if the setting has no value.
const TIMEOUT: Duration = Duration::from_secs(30);

impl SmtpServer {
    /// Returns the password, also as the login sends it.
    pub(super) fn secrets(&self) -> SecretTexts {
        let encode = |text: &str| BASE64_STANDARD.encode(text);
        SecretTexts::new(self.login.iter().flat_map(|(name, password)| {
            let password = password.reveal();
            [password.to_owned(), encode(password), encode(&format!("\0{name}\0{password}"))]
        }))
    }

    /// Parses the URL of a mail server.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| {
            let error = url_error(text, error, "smtp:// or smtps://");
            format!("this is not a URL ({error}); {EXAMPLE}")
        })?;
        let fail = |error: &str| Err(format!("{error}; {EXAMPLE}"));
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value);
        let others = url.query_pairs().count() > usize::from(tls.is_some());
        let (security, default_port) = match (url.scheme(), tls.as_deref()) {
            ("smtps", None) => (SmtpSecurity::Implicit, 465),
            ("smtps", Some(_)) => return fail("smtps:// is TLS from the start: leave `tls` out"),
            ("smtp", None) => (SmtpSecurity::None, 25),
            ("smtp", Some("required")) => (SmtpSecurity::Required, 587),
            ("smtp", Some("opportunistic")) => (SmtpSecurity::Opportunistic, 587),
            ("smtp", Some(_)) => {
                return fail("`tls` is required or opportunistic; without `tls`, mail is sent in plain text");
            }
            _ => return fail("it begins with smtp:// or smtps://"),
        };
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        // The URL parser encodes Unicode in this scheme.
        let decoded = percent_decode_str(host).decode_utf8_lossy();
        let name =
            if host.parse::<IpAddr>().is_ok() { Some(host.to_owned()) } else { parse_host_name(&decoded) };
        let error = match () {
            () if host.is_empty() => "no host is named",
            () if name.is_none() => "the host is neither a name nor an address",
            () if others => "the only parameter is `tls`",
            () if has_cut_password(text) => CUT_PASSWORD,
            () if url.fragment().is_some() => "a # in a password is written %23",
            () if !matches!(url.path(), "" | "/") => "it has no path; a / in a password is written %2F",
            () if url.port() == Some(0) => "there is no port 0",
            () if url.password().is_some_and(str::is_empty) => "the password is empty",
            () if url.password().is_some() && url.username().is_empty() => "the user name is missing",
            () if url.password().is_none() && !url.username().is_empty() => "the password is missing",
            () => "",
        };
        if !error.is_empty() {
            return fail(error);
        }
        let login = url.password().map(|password| -> Result<_, String> {
            Ok((decode(url.username())?, Masked::new(decode(password)?)))
        });
        Ok(Self {
            security,
            host: name.unwrap_or_default(),
            port: url.port().unwrap_or(default_port),
            login: login.transpose()?,
            timeout: TIMEOUT,
        })
    }
}

fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_decode_str(text).decode_utf8().ok().filter(|text| {
        // NUL separates the parts of a login, and a line break would end the line.
        text.len() <= LOGIN_MAX && !text.chars().any(char::is_control)
    });
    let error = "the user name or the password is too long, or is no text when its %XX are decoded";
    decoded.map(Into::into).ok_or_else(|| format!("{error}; {EXAMPLE}"))
}

/// Parses the time of a stage.
pub(super) fn timeout(text: &str) -> Result<Duration, String> {
    let span = parse_duration(text)?;
    if span > TIMEOUT_MAX {
        return Err(format!("`{text}` is too long; the maximum is {}", format_duration(TIMEOUT_MAX)));
    }
    Ok(span)
}

/// Parses the sender of the mails.
pub(super) fn sender(text: &str) -> Result<Mailbox, String> {
    Mailbox::parse(text).ok_or_else(|| {
        format!(
            "`{text}` is not a sender; write it as ringback@example.com or Ringback <ringback@example.com>"
        )
    })
}

/// Parses the patterns of the permitted recipients.
pub(super) fn patterns<'a>(
    entries: impl ExactSizeIterator<Item = &'a str>,
) -> Result<Vec<MailPattern>, String> {
    if entries.len() > PATTERNS_MAX {
        return Err(format!("{} entries are too many; the maximum is {PATTERNS_MAX}", entries.len()));
    }
    let parse = |entry: &str| {
        MailPattern::parse(entry).ok_or_else(|| {
            format!("`{entry}` is neither *@example.com, nor me@example.com, nor * (everybody)")
        })
    };
    entries.map(parse).collect()
}

/// Checks the settings together.
pub(super) fn check(values: &SettingValues) -> SettingsReport {
    let mut report = SettingsReport::default();
    let Some(server) = values.text("smtp.url").and_then(|text| SmtpServer::parse(text).ok()) else {
        for key in ["smtp.from", "smtp.allow"] {
            if values.list(key).is_some() {
                report.warnings.push(format!("{key} is set, but no smtp.url: no mail is sent"));
            }
        }
        return report;
    };
    if server.security == SmtpSecurity::None && server.login.is_some() {
        let warning = "smtp.url sends its password unencrypted: add ?tls=required, or write smtps://";
        report.warnings.push(warning.to_owned());
    }
    let Some(from) = values.text("smtp.from") else {
        report.errors.push(("smtp.url", "[smtp] url needs [smtp] from: the sender of the mails".to_owned()));
        return report;
    };
    if let (None, Ok(from)) = (values.list("smtp.allow"), sender(from)) {
        let domain = MailPattern::of_sender(&from.address).map(|_| format!("*@{}", from.address.domain()));
        if domain.is_none() {
            report.warnings.push(format!(
                "smtp.allow (RINGBACK_SMTP__ALLOW) is not set, and the domain of smtp.from is that of a public mail \
                 service: no recipient is permitted; name them, such as {}",
                from.address.as_str()
            ));
        }
        report.derived.push(("smtp.allow", format!("[{}]", domain.unwrap_or_default())));
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_server_is_configured_by_a_url() {
        let read = |text| {
            let server = SmtpServer::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
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
        for (text, name) in [
            ("smtp://[::1]:25", "::1"),
            ("smtp://My_Mail", "my_mail"),
            ("smtp://bücher.example.", "xn--bcher-kva.example"),
        ] {
            assert_eq!(read(text).1, name);
        }
    }

    #[test]
    fn an_error_about_a_mail_server_does_not_repeat_its_password() {
        for (text, says) in [
            ("mail.example.com", "not a URL"),
            ("mail.example.com:25", "smtp://"),
            ("http://u:hush@mail.example.com", "begins with smtp://"),
            ("smtp://", "no host"),
            ("smtp://u:hush@mail..example", "neither a name nor an address"),
            ("smtp://u:hush@10.0.0", "neither a name nor an address"),
            ("smtp://u:hush@mail.example.com?tls=none", "without `tls`, mail is sent in plain text"),
            ("smtp://u:hush@mail.example.com?tls=required&tls=required", "the only parameter"),
            ("smtp://u:hush@mail.example.com?starttls=1", "the only parameter"),
            ("smtps://u:hush@mail.example.com?tls=required", "TLS from the start"),
            ("smtp://u:hu/sh@mail.example.com", "not a URL"),
            ("smtp://u:hush@mail.example.com/x", "no path"),
            ("smtp://u:hush@mail.example.com#x", "%23"),
            ("smtp://u:hu#sh@mail.example.com", "%23"),
            ("smtp://u:25#hush@mail.example.com", "%23"),
            ("smtp://u:hu/sh@mail.example.com", "%2F"),
            ("smtp://u:hush@mail.example.com:0", "port 0"),
            ("smtp://u@mail.example.com", "the password is missing"),
            ("smtp://:hush@mail.example.com", "the user name is missing"),
            ("smtp://u:%00hush@mail.example.com", "no text"),
            ("smtp://u:%0d%0ahush@mail.example.com", "no text"),
            ("smtp://u:%ffhush@mail.example.com", "no text"),
        ] {
            let error = SmtpServer::parse(text).err().unwrap_or_else(|| panic!("{text} passes"));
            assert!(error.contains(says) && !error.contains("hush"), "{text}: {error}");
        }
    }
}
