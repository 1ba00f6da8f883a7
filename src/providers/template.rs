//! Texts and URLs with parameters, written as `{name}`.
//!
//! A value cannot change the structure of a URL:
//!
//! - The value is percent-encoded.
//! - Scheme, host and port contain no parameters.
//! - A URL whose path is not the path as written is rejected, for example with dot segments in any spelling.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

/// Every byte that is not unreserved in RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A text with parameters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Name(String),
}

impl Template {
    /// Parses a template. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            let (name, after) = brace
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'))
                .ok_or_else(|| format!("`{text}` has an unpaired brace"))?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("`{{{name}}}` is not a valid parameter name"));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Name(name.to_owned()));
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// Returns the names of the parameters.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// Returns the text with each parameter replaced by its value.
    pub(super) fn render(&self, value: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Name(name) => text.push_str(&value(name)?),
            }
        }
        Ok(text)
    }
}

/// A URL with a fixed origin and a path with parameters.
#[derive(Clone, Debug)]
pub(super) struct UrlTemplate {
    /// Scheme, host and port.
    pub(super) origin: Url,
    /// Path.
    pub(super) path: Template,
}

impl UrlTemplate {
    /// Parses a URL template. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let after_scheme = text.find("://").ok_or_else(|| format!("`{text}` is not a URL"))? + 3;
        let slash = text[after_scheme..].find('/').ok_or_else(|| format!("`{text}` has no path"))?;
        let (origin, path) = text.split_at(after_scheme + slash);
        if origin.contains(['{', '}']) {
            return Err("scheme, host and port are fixed; use parameters in the path only".to_owned());
        }
        if path.contains(['?', '#']) {
            return Err(
                "move the query to request.query, and remove a fragment, which is never sent".to_owned()
            );
        }
        let origin = check_base(origin)?;
        let template = Self { origin, path: Template::parse(path)? };
        // A path that a URL would write differently would be rejected at each poll. Report it at load time.
        template.render(None, |_| Ok("x".to_owned()))?;
        Ok(template)
    }

    /// Returns the URL. `base` replaces the origin.
    pub(super) fn render(
        &self,
        base: Option<&Url>,
        value: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Url, String> {
        let mut url = base.unwrap_or(&self.origin).clone();
        let path = format!("{}{}", url.path().trim_end_matches('/'), self.path.render(value)?);
        url.set_path(&path);
        if url.path() == path { Ok(url) } else { Err(format!("`{path}` is not a normalised path")) }
    }
}

/// Checks an address to which a path is appended. The error is a sentence.
pub(super) fn check_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the scheme is `{}`; it must be https or http", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Err("a host is required, and the port must not be 0".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not contain a user name or password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must not contain a query or fragment".to_owned());
    }
    Ok(url)
}

/// Returns `value` with every byte encoded that is not unreserved in RFC 3986.
pub(super) fn percent_encode(value: &str) -> String {
    utf8_percent_encode(value, RESERVED).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(template: &str, base: Option<&str>, value: &str) -> Result<String, String> {
        let base = base.map(|base| check_base(base).unwrap());
        let template = UrlTemplate::parse(template)?;
        template.render(base.as_ref(), |_| Ok(percent_encode(value))).map(String::from)
    }

    #[test]
    fn a_value_is_always_one_segment() {
        let at = "https://api.example/v1/jobs/{id}/status";
        for (value, segment) in [
            ("job_1", "job_1"),
            ("a/b?c#d", "a%2Fb%3Fc%23d"),
            ("%2e%2e", "%252e%252e"),
            ("é \\", "%C3%A9%20%5C"),
            ("{id}", "%7Bid%7D"),
        ] {
            let expected = format!("https://api.example/v1/jobs/{segment}/status");
            assert_eq!(url(at, None, value), Ok(expected));
        }
        assert!(url(at, None, "..").is_err() && url(at, None, ".").is_err());
        assert!(url("https://api.example/{id}{id}", None, ".").is_err(), "two dots make a dot segment");
    }

    #[test]
    fn a_base_url_replaces_the_origin_and_precedes_the_path() {
        let at = "https://api.example/v1/jobs/{id}";
        for (base, expected) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000/v1/jobs/1"),
            ("https://proxy.example/muvi/", "https://proxy.example/muvi/v1/jobs/1"),
        ] {
            assert_eq!(url(at, Some(base), "1").as_deref(), Ok(expected));
        }
    }

    #[test]
    fn an_invalid_url_template_is_rejected() {
        for text in [
            "api.example/x",
            "https://api.example",
            "https://{host}/x",
            "https://api.example/x?y={z}",
            "https://api.example/a/../b",
            "https://api.example/a b",
            "https://api.example/{",
            "https://api.example/}",
            "https://api.example/{}",
            "https://me:secret@api.example/x",
            "ftp://api.example/x",
        ] {
            assert!(UrlTemplate::parse(text).is_err(), "{text}");
        }
    }
}
