//! The hosts that may receive a credential, as definitions and operators list them.

use url::Url;

/// Hosts that are allowed: one, or all whose name ends with the labels after `*.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPattern {
    name: String,
    is_wildcard: bool,
    port: u16,
}

impl HostPattern {
    /// Parses `api.example.com`, `api.example.com:8443` or `*.example.com`. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a host; write it as api.example.com or api.example.com:8443");
        if text.contains(['{', '}']) {
            return Err(format!(
                "`{text}` has braces, but a host here has no parameters; list each host, or write *.example.com for all \
                 below example.com"
            ));
        }
        let foreign = |c: char| c.is_whitespace() || "/@?#*\\".contains(c);
        let (name, is_wildcard) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let url = Url::parse(&format!("https://{name}")).ok().filter(|_| !name.contains(foreign));
        let url = url.ok_or_else(wrong)?;
        let is_name = matches!(url.host(), Some(url::Host::Domain(domain)) if domain.contains('.'));
        if is_wildcard && !is_name {
            return Err(format!("`{text}` allows too many hosts; write it as *.example.com"));
        }
        let name = url.host_str().ok_or_else(wrong)?.to_owned();
        Ok(Self { name, is_wildcard, port: url.port_or_known_default().ok_or_else(wrong)? })
    }

    /// Returns whether it allows one host only.
    pub(super) fn is_exact(&self) -> bool {
        !self.is_wildcard
    }

    /// Returns a host that is allowed.
    pub(super) fn example(&self) -> String {
        let label = if self.is_wildcard { "x." } else { "" };
        let port = if self.port == 443 { String::new() } else { format!(":{}", self.port) };
        format!("{label}{}{port}", self.name)
    }

    /// Returns whether every host of `other` is allowed.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let is_below = || other.name.strip_suffix(&self.name).is_some_and(|labels| labels.ends_with('.'));
        self == other || (self.is_wildcard && self.port == other.port && is_below())
    }

    /// Returns whether the host and port of a URL are allowed.
    pub(super) fn contains(&self, url: &Url) -> bool {
        let is_name = |host: &str| {
            if self.is_wildcard {
                host.strip_suffix(&self.name).is_some_and(|labels| labels.len() > 1 && labels.ends_with('.'))
            } else {
                host == self.name
            }
        };
        url.port_or_known_default() == Some(self.port) && url.host_str().is_some_and(is_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_one_or_more_labels() {
        let hosts =
            |text: &str, url: &str| HostPattern::parse(text).unwrap().contains(&Url::parse(url).unwrap());
        for (pattern, url, expected) in [
            ("api.example.com", "https://api.example.com/x", true),
            ("api.example.com", "https://API.example.com/x", true),
            ("api.example.com", "https://api.example.com:8443/x", false),
            ("api.example.com:8443", "https://api.example.com:8443/x", true),
            ("api.example.com", "https://x.api.example.com", false),
            ("*.example.com", "https://api.example.com", true),
            ("*.example.com", "https://eu.api.example.com", true),
            ("*.example.com", "https://example.com", false),
            ("*.example.com", "https://evilexample.com", false),
            ("*.example.com", "https://.example.com", false),
            ("*.example.com", "https://example.com.evil.com", false),
        ] {
            let Ok(_) = Url::parse(url) else { continue };
            assert_eq!(hosts(pattern, url), expected, "{pattern} {url}");
        }
        for wrong in [
            "",
            "*",
            "*.",
            "*.com",
            "a*.example.com",
            "https://a.example",
            "a b",
            "*.127.0.0.1",
            "{region}.a.example",
            "*.{x}.a.example",
        ] {
            assert!(HostPattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
