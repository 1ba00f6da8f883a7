//! Addresses of destinations: why one is refused, and the syntax of host names, which is the same wherever a name can
//! be given: in URLs, in `egress.allow`, and as the name of a mail server.

use url::Host;

/// Reason why the address of a destination is refused. The text is a sentence without its subject, for the
/// client that gave the address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It cannot be an address of this channel.
    #[error("{0}")]
    Invalid(String),
    /// Callbacks must not reach it.
    #[error("{0}")]
    Forbidden(String),
    /// The operator does not allow it as a recipient.
    #[error("{0}")]
    NotAllowed(String),
    /// The operator has not configured the channel.
    #[error("{0}")]
    NotConfigured(String),
}

/// Maximum length of a host name, in bytes.
const NAME_MAX: usize = 253;

/// Maximum length of a label of a host name, in bytes.
const LABEL_MAX: usize = 63;

/// Returns whether the text is a host name: labels of letters, digits, underscores and inner hyphens. The standard
/// has no underscores, but DNS can carry them, and names inside a network often contain them.
pub fn is_host_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

/// Parses the name of a host, in Unicode or in ASCII, with or without a final dot, and returns its ASCII form. An
/// address is not accepted, nor a name that URL parsers read as an address because its last label is a number.
pub fn parse_host_name(text: &str) -> Option<String> {
    // The URL parser decodes `%41`; in a name it is an error.
    let plain = Some(text.strip_suffix('.').unwrap_or(text)).filter(|text| !text.contains('%'))?;
    match Host::parse(plain) {
        Ok(Host::Domain(name)) => Some(name).filter(|name| is_host_name(name)),
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_labels_of_letters_digits_hyphens_and_underscores() {
        let (label, long_label) = ("a".repeat(63), "a".repeat(64));
        let long_name = format!("{}{}", "a.".repeat(126), "aa");
        for name in
            ["a", "example.com", "xn--bcher-kva.example", "a-b.c1", "127.0.0.1", "my_app", "_a._b", &label]
        {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", ".", "a.", ".a", "a..b", "-a", "a-", "a b", "é", &long_label, &long_name] {
            assert!(!is_host_name(name), "{name}");
        }
    }

    // smartcontractkit/chainlink#1699
    #[test]
    fn a_name_is_parsed_into_the_form_that_urls_have() {
        for (text, name) in [
            ("my_app", "my_app"),
            ("Hooks.Corp.", "hooks.corp"),
            ("bücher.example", "xn--bcher-kva.example"),
            ("ｌｏｃａｌｈｏｓｔ", "localhost"),
        ] {
            assert_eq!(parse_host_name(text).as_deref(), Some(name), "{text}");
        }
        for text in [
            "",
            ".",
            "a..b",
            "-a",
            "a b",
            "a%41",
            "*.corp",
            "a:1",
            "a/b",
            "a@b",
            "10.0.0",
            "a.1",
            "127.0.0.1",
            "[::1]",
        ] {
            assert_eq!(parse_host_name(text), None, "{text}");
        }
    }
}
