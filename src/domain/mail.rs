//! Mail addresses: which texts are one, and which may be mailed.
//!
//! An address ends up in SMTP commands and in headers, so this is stricter than the standard: no
//! quoted local part, no comment, no address literal, nothing beyond ASCII before the `@`. A domain in
//! another script is brought to its ASCII form. What passes holds neither a space nor a control
//! character, and needs no escaping anywhere.

use std::fmt;

use url::Host;

use super::is_host_name;

/// The longest address that fits into an SMTP path.
const ADDRESS_MAX: usize = 254;
/// The longest part before the `@`.
const LOCAL_MAX: usize = 64;
/// A name that people read, beside the address.
const NAME_MAX: usize = 100;

/// Who gives mail boxes to everybody: that the sender has one there says nothing of the others, so
/// none of these domains is allowed by being the sender's own.
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

/// Somebody's mail address, its domain in lower case and ASCII.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MailAddress {
    text: String,
    at: usize,
}

impl MailAddress {
    /// Reads an address; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (local, domain) = text.rsplit_once('@')?;
        let domain = mail_domain(domain)?;
        let address = Self { text: format!("{local}@{domain}"), at: local.len() };
        (is_local(local) && address.text.len() <= ADDRESS_MAX).then_some(address)
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`.
    pub fn local(&self) -> &str {
        &self.text[..self.at]
    }

    /// What stands after the `@`.
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }
}

impl fmt::Display for MailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The letters that stand before an `@` without quotes, in groups between dots.
///
/// Not `%` and `!`: to many mail servers `you%elsewhere.example@ours.example` and
/// `elsewhere.example!you@ours.example` are a wish to pass the mail on, past any list of who may be mailed.
/// Nor a beginning that a server may take for an option, a program or a file.
fn is_local(local: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"#$&'*+-/=?^_`{|}~".contains(&byte);
    local.len() <= LOCAL_MAX
        && !local.starts_with(['-', '|', '/'])
        && local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(plain))
}

/// A domain with a dot, as the DNS would have it; an address in its stead is none.
fn mail_domain(text: &str) -> Option<String> {
    let Ok(Host::Domain(domain)) = Host::parse(text) else { return None };
    // The parser decodes `%41` for the sake of URLs; here it is a slip.
    let written = !text.contains('%') && domain.contains('.');
    (written && is_host_name(&domain)).then_some(domain)
}

/// An address with the name that people read beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mailbox {
    /// What people read.
    pub name: Option<String>,
    /// Where it is.
    pub address: MailAddress,
}

impl Mailbox {
    /// Reads `me@example.com` or `Name <me@example.com>`.
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

/// Who may be mailed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MailPattern {
    /// `*`: everybody.
    Anybody,
    /// `*@example.com`: everybody there.
    Domain(String),
    /// One address.
    One(MailAddress),
}

impl MailPattern {
    /// Reads `*`, `*@example.com` or an address.
    pub fn parse(text: &str) -> Option<Self> {
        match text.strip_prefix('*') {
            Some("") => Some(Self::Anybody),
            Some(rest) => Some(Self::Domain(mail_domain(rest.strip_prefix('@')?)?)),
            None => MailAddress::parse(text).map(Self::One),
        }
    }

    /// What holds where nobody says anything: the sender's own domain, unless everybody can have a box
    /// there.
    pub fn of_sender(sender: &MailAddress) -> Option<Self> {
        let public = PUBLIC_SERVICES.contains(&sender.domain());
        (!public).then(|| Self::Domain(sender.domain().to_owned()))
    }

    /// Whether `address` may be mailed. Hardly any server tells `Me` from `me`, and none that does is
    /// harmed by taking both.
    pub fn allows(&self, address: &MailAddress) -> bool {
        match self {
            Self::Anybody => true,
            Self::Domain(domain) => address.domain() == domain,
            Self::One(known) => known.as_str().eq_ignore_ascii_case(address.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_needs_no_escaping_anywhere_or_is_none() {
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
    fn a_sender_may_have_a_name() {
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
    fn who_may_be_mailed_is_a_domain_an_address_or_everybody() {
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
    fn where_everybody_can_have_a_box_nobody_is_a_neighbour() {
        let of = |text| MailAddress::parse(text).and_then(|sender| MailPattern::of_sender(&sender));
        assert_eq!(of("me@example.com"), Some(MailPattern::Domain("example.com".into())));
        assert_eq!(of("me@GMail.com"), None);
        assert!(PUBLIC_SERVICES.is_sorted());
    }
}
