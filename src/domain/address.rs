//! Addresses of destinations: why one is refused, and the syntax of host names, as DNS can carry them (RFC 1123).

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

/// Returns whether the text is a host name: labels of letters, digits and inner hyphens.
pub fn is_host_name(text: &str) -> bool {
    has_labels(text, |byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Like [`is_host_name`], but `_` counts as a letter: names inside a network often contain it.
pub fn is_internal_host_name(text: &str) -> bool {
    has_labels(text, |byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn has_labels(text: &str, is_allowed: impl Fn(u8) -> bool) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(&is_allowed)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= NAME_MAX && text.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_has_labels_of_letters_digits_and_hyphens() {
        let (label, long_label) = ("a".repeat(63), "a".repeat(64));
        let long_name = format!("{}{}", "a.".repeat(126), "aa");
        for name in ["a", "example.com", "xn--bcher-kva.example", "a-b.c1", "127.0.0.1", &label] {
            assert!(is_host_name(name), "{name}");
        }
        for name in ["", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "a b", "é", &long_label, &long_name] {
            assert!(!is_host_name(name), "{name}");
        }
        assert!(is_internal_host_name("my_service") && !is_internal_host_name("my service"));
    }
}
