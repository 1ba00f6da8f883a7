//! Texts with `{names}` in them, and the URL that is made of one.
//!
//! A value never changes the shape of what it is put into: in a URL it is percent-encoded, its
//! scheme, host and port are never part of a template, and a path that comes out differently from
//! what was written (dot segments in any spelling) is refused.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::Url;

/// A text with `{names}` in it.
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
    /// Reads a template; the error is a sentence for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, brace) = rest.split_at(at);
            let (name, after) = brace
                .strip_prefix('{')
                .and_then(|inside| inside.split_once('}'))
                .ok_or_else(|| format!("`{text}` has a brace without its partner"))?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("`{{{name}}}` is not the name of a parameter"));
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

    /// The names in it.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The text with each name replaced by what `value` says.
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

/// Where a job is asked for: a fixed origin, and a path with names in it.
#[derive(Clone, Debug)]
pub(super) struct UrlTemplate {
    /// Scheme, host and port.
    pub(super) origin: Url,
    /// The rest.
    pub(super) path: Template,
}

impl UrlTemplate {
    /// Reads a URL template; the error is a sentence for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let after_scheme = text.find("://").ok_or_else(|| format!("`{text}` is not a URL"))? + 3;
        let slash = text[after_scheme..].find('/').ok_or_else(|| format!("`{text}` has no path"))?;
        let (origin, path) = text.split_at(after_scheme + slash);
        if origin.contains(['{', '}']) {
            return Err("scheme, host and port are fixed: a parameter may stand in the path only".to_owned());
        }
        if path.contains(['?', '#']) {
            return Err("the query belongs to request.query, and a fragment is never sent".to_owned());
        }
        let origin = check_base(origin)?;
        let template = Self { origin, path: Template::parse(path)? };
        // A path that a URL would write otherwise would be refused at each look: say so now.
        template.render(None, |_| Ok("x".to_owned()))?;
        Ok(template)
    }

    /// The URL, at `base` instead of the origin where one is given.
    pub(super) fn render(
        &self,
        base: Option<&Url>,
        value: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Url, String> {
        let mut url = base.unwrap_or(&self.origin).clone();
        let path = format!("{}{}", url.path().trim_end_matches('/'), self.path.render(value)?);
        url.set_path(&path);
        if url.path() == path { Ok(url) } else { Err(format!("`{path}` is not a plain path")) }
    }
}

/// Checks an address that a path is put behind; the error is a sentence for people.
pub(super) fn check_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|error| format!("not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the scheme is `{}`; it must be https or http", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Err("it needs a host, and a port other than 0".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it must not hold a name or a password".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("it must not have a query or a fragment".to_owned());
    }
    Ok(url)
}

/// Percent-encodes every byte that is not unreserved in RFC 3986.
pub(super) fn percent_encode(value: &str) -> String {
    const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
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
    fn a_value_is_one_segment_whatever_is_in_it() {
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
    fn a_base_url_replaces_the_origin_and_comes_before_the_path() {
        let at = "https://api.example/v1/jobs/{id}";
        for (base, expected) in [
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000/v1/jobs/1"),
            ("https://proxy.example/muvi/", "https://proxy.example/muvi/v1/jobs/1"),
        ] {
            assert_eq!(url(at, Some(base), "1").as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_is_not_a_url_template_is_refused() {
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
