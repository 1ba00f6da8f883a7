//! Mail addresses, and patterns of the permitted recipients.
//!
//! An address becomes part of SMTP commands and of headers, so the parser is stricter than the standard: no
//! quoted local part, no comment, no address literal, and only ASCII before the `@`. A domain in another
//! script is converted to its ASCII form. A parsed address contains neither a space nor a control character,
//! and needs no escaping.

use std::fmt;

use url::Host;

use super::is_host_name;

/// Maximum length of an address in an SMTP path, in bytes.
const ADDRESS_MAX: usize = 254;
/// Maximum length of the part before the `@`, in bytes.
const LOCAL_MAX: usize = 64;
/// Maximum length of a display name, in characters.
const NAME_MAX: usize = 100;

/// Domains of public mail services, sorted. The sender's own domain is permitted by default, but not if it is
/// one of these: its other mailboxes belong to unrelated people.
const PUBLIC_SERVICES: &[&str] = &[
    "126.com",
    "163.com",
    "aim.com",
    "aol.com",
    "bluewin.ch",
    "btinternet.com",
    "comcast.net",
    "duck.com",
    "fastmail.com",
    "free.fr",
    "freenet.de",
    "gmail.com",
    "gmx.at",
    "gmx.ch",
    "gmx.com",
    "gmx.de",
    "gmx.net",
    "googlemail.com",
    "hey.com",
    "hotmail.co.uk",
    "hotmail.com",
    "hotmail.de",
    "hotmail.fr",
    "icloud.com",
    "laposte.net",
    "libero.it",
    "live.com",
    "mac.com",
    "mail.com",
    "mail.ru",
    "mailbox.org",
    "me.com",
    "msn.com",
    "naver.com",
    "orange.fr",
    "outlook.com",
    "outlook.de",
    "pm.me",
    "posteo.de",
    "proton.me",
    "protonmail.com",
    "qq.com",
    "rediffmail.com",
    "rocketmail.com",
    "sina.com",
    "t-online.de",
    "tuta.com",
    "tutanota.com",
    "verizon.net",
    "wanadoo.fr",
    "web.de",
    "yahoo.co.jp",
    "yahoo.co.uk",
    "yahoo.com",
    "yahoo.de",
    "yahoo.fr",
    "yandex.com",
    "yandex.ru",
    "ymail.com",
    "zoho.com",
];

/// A mail address, with its domain in lower case and ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MailAddress {
    text: String,
    at: usize,
}

impl MailAddress {
    /// Parses an address.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        let domain = mail_domain(domain)?;
        let address = Self { text: format!("{local}@{domain}"), at: local.len() };
        (is_local(local) && address.text.len() <= ADDRESS_MAX).then_some(address)
    }

    /// Returns the whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the part before the `@`.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// Returns the part after the `@`.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }
}

impl fmt::Display for MailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Returns whether a text is valid before an `@` without quotes.
///
/// `%` and `!` are not accepted: many mail servers forward `you%elsewhere.example@ours.example` and
/// `elsewhere.example!you@ours.example` to `elsewhere.example`, past the list of permitted recipients.
/// Neither is a first character that a server may interpret as the start of an option, a program or a file.
fn is_local(local: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"#$&'*+-/=?^_`{|}~".contains(&byte);
    local.len() <= LOCAL_MAX
        && !local.starts_with(['-', '|', '/'])
        && local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(plain))
}

/// Parses a domain name with at least one dot, and returns its ASCII form. An IP address is not accepted.
fn mail_domain(text: &str) -> Option<String> {
    let Ok(Host::Domain(domain)) = Host::parse(text) else { return None };
    // The URL parser decodes `%41`; in a mail address it is an error. An underscore is valid in the name of a host, but
    // not in a mail address (RFC 5321).
    let is_plain = !text.contains('%') && domain.contains('.') && !domain.contains('_');
    (is_plain && is_host_name(&domain)).then_some(domain)
}

/// A mail address with a display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// Display name.
    pub name: Option<String>,
    /// Address.
    pub address: MailAddress,
}

impl Mailbox {
    /// Parses `me@example.com` or `Name <me@example.com>`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let Some((name, rest)) = text.split_once('<') else {
            return Some(Self { name: None, address: MailAddress::parse(text)? });
        };
        let address = MailAddress::parse(rest.strip_suffix('>')?)?;
        let name = name.trim();
        let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name);
        let plain = name.chars().count() <= NAME_MAX
            && !name.chars().any(|c| c.is_control() || matches!(c, '<' | '>' | '"' | '\\'));
        plain.then(|| Self { name: Some(name.to_owned()).filter(|name| !name.is_empty()), address })
    }
}

/// Pattern of permitted recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailPattern {
    /// `*`: every address.
    Any,
    /// `*@example.com`: every address of the domain.
    Domain(String),
    /// A single address.
    Address(MailAddress),
}

impl MailPattern {
    /// Parses `*`, `*@example.com` or an address.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('*') {
            Some("") => Some(Self::Any),
            Some(rest) => Some(Self::Domain(mail_domain(rest.strip_prefix('@')?)?)),
            None => MailAddress::parse(text).map(Self::Address),
        }
    }

    /// Returns the default pattern: the sender's own domain. `None` if that is the domain of a public mail
    /// service.
    pub fn of_sender(sender: &MailAddress) -> Option<Self> {
        let public = PUBLIC_SERVICES.contains(&sender.domain());
        (!public).then(|| Self::Domain(sender.domain().to_owned()))
    }

    /// Returns whether `address` is permitted. The comparison ignores case: almost no server distinguishes
    /// `Me` from `me`, and permitting both does no harm.
    pub fn allows(&self, address: &MailAddress) -> bool {
        match self {
            Self::Any => true,
            Self::Domain(domain) => address.domain() == domain,
            Self::Address(known) => known.as_str().eq_ignore_ascii_case(address.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_would_need_escaping_is_not_accepted() {
        for (text, read) in [
            ("me@example.com", "me@example.com"),
            ("Me.Too+tag@EXAMPLE.com", "Me.Too+tag@example.com"),
            ("o'neill/x=y@a-b.example", "o'neill/x=y@a-b.example"),
            ("me@bücher.example", "me@xn--bcher-kva.example"),
        ] {
            assert_eq!(MailAddress::parse(text).map(|address| address.text).as_deref(), Some(read));
        }
        let long = format!("{}@example.com", "x".repeat(65));
        let longer = format!("me@{}.com", "x.".repeat(130));
        for text in [
            "",
            "me",
            "@",
            "me@",
            "@example.com",
            "me@localhost",
            "me@example",
            "me@127.0.0.1",
            "me@[127.0.0.1]",
            "me@[::1]",
            "a b@example.com",
            "me@exa mple.com",
            "me@example.com ",
            " me@example.com",
            "you%elsewhere.example@a.example",
            "elsewhere.example!you@a.example",
            "-oQ@a.example",
            "|sh@a.example",
            "/etc/x@a.example",
            ".me@a.example",
            "me.@a.example",
            "m..e@a.example",
            "\"me\"@a.example",
            "me@@a.example",
            "me@a..example",
            "me@-a.example",
            "me@a.example.",
            "me\r\nRCPT TO:<x@y.example>@a.example",
            "me@a.example\r\n",
            "me@a.example>",
            "<me@a.example>",
            "me,you@a.example",
            "me;x@a.example",
            "mé@a.example",
            "me@a.example?subject=x",
            "me@a%2eexample",
            "me@a_b.example",
            "me\0@a.example",
            "me(x)@a.example",
            "me@a.example/x",
            "me@a.example:25",
            "a\u{202e}b@a.example",
            &long,
            &longer,
        ] {
            assert_eq!(MailAddress::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_sender_may_have_a_display_name() {
        let read = |text| Mailbox::parse(text).map(|one| (one.name, one.address.text));
        let address = "r@a.example".to_owned();
        assert_eq!(read("r@a.example"), Some((None, address.clone())));
        assert_eq!(read("<r@a.example>"), Some((None, address.clone())));
        assert_eq!(read("Ringback <r@a.example>"), Some((Some("Ringback".into()), address.clone())));
        assert_eq!(read(" \"Jobs, Inc.\" <r@a.example> "), Some((Some("Jobs, Inc.".into()), address)));
        for text in
            ["", "Ringback", "Ringback <r@a.example", "a\nb <r@a.example>", "a < b <r@a.example>", "x <r>"]
        {
            assert_eq!(read(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_pattern_is_a_domain_an_address_or_everything() {
        let me = MailAddress::parse("Me@Example.com").expect("an address");
        for (pattern, allows) in [
            ("*", true),
            ("*@example.com", true),
            ("*@EXAMPLE.com", true),
            ("me@example.com", true),
            ("*@mail.example.com", false),
            ("you@example.com", false),
        ] {
            assert_eq!(MailPattern::parse(pattern).map(|one| one.allows(&me)), Some(allows), "{pattern}");
        }
        for pattern in
            ["", "example.com", "@example.com", "*example.com", "**@example.com", "*@", "*@*.com", "me@"]
        {
            assert_eq!(MailPattern::parse(pattern), None, "{pattern}");
        }
    }

    #[test]
    fn the_domain_of_a_public_mail_service_is_no_default() {
        let of = |text| MailAddress::parse(text).and_then(|sender| MailPattern::of_sender(&sender));
        assert_eq!(of("me@example.com"), Some(MailPattern::Domain("example.com".into())));
        assert_eq!(of("me@GMail.com"), None);
        assert!(PUBLIC_SERVICES.is_sorted());
        assert!(PUBLIC_SERVICES.iter().all(|service| mail_domain(service).as_deref() == Some(*service)));
    }
}
