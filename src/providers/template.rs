//! The parameters of a request, and texts and URLs with parameters, written as `{name}`.
//!
//! A value cannot change the structure of a URL:
//!
//! - The value is percent-encoded.
//! - Scheme and port contain no parameters. A value in the host must match its pattern and be a part of a name.
//! - A URL whose path is not the path as written is rejected, for example with dot segments in any spelling.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use regex::Regex;
use url::{Host, Position, Url};

use crate::domain::{check_value, url_error};

/// Every byte that is not unreserved in RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Returns the first name in braces that has the form of a parameter or a path: `{region}` or `{$.id}`. A JSON object in a
/// text is none.
pub(super) fn name_in_braces(text: &str) -> Option<&str> {
    let is_name = |name: &&str| {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        name.starts_with('$') || (name.bytes().all(is_word) && name.contains(|c: char| !c.is_ascii_digit()))
    };
    text.split('{').skip(1).filter_map(|part| part.split_once('}')).map(|(name, _)| name).find(is_name)
}

/// Maximum size of a text with values, in bytes: far more than a header, a token or a member of a body needs.
const RENDERED_MAX: usize = 64 * 1024;

/// A text with parameters: the text before the first one, and the name of each with the text after it.
#[derive(Clone, Debug, Default)]
pub(super) struct Template {
    start: String,
    parts: Vec<(String, String)>,
}

impl Template {
    /// Parses a template. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unpaired = || format!("`{text}` has an unpaired brace");
        let (start, rest) = text.split_at(text.find('{').unwrap_or(text.len()));
        let mut parts = Vec::new();
        for part in rest.split('{').skip(1) {
            let (name, after) = part.split_once('}').ok_or_else(unpaired)?;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("`{{{name}}}` is not a valid parameter name"));
            }
            parts.push((name.to_owned(), after.to_owned()));
        }
        if start.contains('}') || parts.iter().any(|(_, after)| after.contains('}')) {
            return Err(unpaired());
        }
        Ok(Self { start: start.to_owned(), parts })
    }

    /// Makes a template without parameters, whatever the text contains.
    pub(super) fn literal(text: &str) -> Self {
        Self { start: text.to_owned(), parts: Vec::new() }
    }

    /// Returns the names of the parameters.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().map(|(name, _)| name.as_str())
    }

    /// Returns the text with each parameter replaced by its value. A text of more than [`RENDERED_MAX`] bytes is an error:
    /// a template of an app can repeat a long field of a credential very often.
    pub(super) fn render(&self, value: impl Fn(&str) -> Result<String, String>) -> Result<String, String> {
        let mut text = self.start.clone();
        for (name, after) in &self.parts {
            text.push_str(&value(name)?);
            text.push_str(after);
            if text.len() > RENDERED_MAX {
                return Err(format!("makes a text of more than {RENDERED_MAX} bytes"));
            }
        }
        Ok(text)
    }
}

/// Writes the template as the file has it.
impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.start)?;
        self.parts.iter().try_for_each(|(name, after)| write!(f, "{{{name}}}{after}"))
    }
}

/// A URL with parameters in its path, and perhaps in its host.
#[derive(Clone, Debug)]
pub(super) struct UrlTemplate {
    origin: Origin,
    /// Path.
    pub(super) path: Template,
}

#[derive(Clone, Debug)]
enum Origin {
    /// Scheme, host and port.
    Fixed(Url),
    /// Host and port of an https URL.
    Host(Template),
}

impl UrlTemplate {
    /// Parses a URL template. The error is a sentence.
    pub(super) fn parse(text: &str, allows_host: bool) -> Result<Self, String> {
        let after_scheme = text.find("://").ok_or_else(|| {
            format!("`{text}` is not a URL; write it as https://api.example.com/v1/jobs/{{job_id}}")
        })? + 3;
        let slash = text[after_scheme..]
            .find('/')
            .ok_or_else(|| format!("`{text}` has no path; add at least a `/`"))?;
        let (origin, path) = text.split_at(after_scheme + slash);
        if path.contains(['?', '#']) {
            let sentence = "move the query to request.query, and remove a fragment, which is never sent";
            return Err(sentence.to_owned());
        }
        let origin = if !origin.contains(['{', '}']) {
            Origin::Fixed(check_base(origin)?)
        } else if allows_host {
            let host = origin.strip_prefix("https://");
            Origin::Host(Template::parse(host.ok_or("a host with parameters requires https")?)?)
        } else {
            return Err("scheme, host and port are fixed; use parameters in the path only".to_owned());
        };
        let template = Self { origin, path: Template::parse(path)? };
        // A path that a URL would write differently would be rejected at each poll. Report it at load time.
        template.render(None, |_| Ok("x".to_owned()), |_| Ok("x".to_owned()))?;
        Ok(template)
    }

    /// Returns the fixed scheme, host and port.
    pub(super) fn fixed_origin(&self) -> Option<&Url> {
        if let Origin::Fixed(url) = &self.origin { Some(url) } else { None }
    }

    /// Returns the template of the host.
    pub(super) fn host(&self) -> Option<&Template> {
        if let Origin::Host(host) = &self.origin { Some(host) } else { None }
    }

    /// Returns scheme, host and port for people.
    pub(super) fn origin(&self) -> String {
        match &self.origin {
            Origin::Fixed(url) => url.to_string(),
            Origin::Host(host) => format!("https://{host}"),
        }
    }

    /// Returns the scheme, host and port with the values of the parameters.
    pub(super) fn render_origin(
        &self,
        value: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Url, String> {
        let host = match &self.origin {
            Origin::Fixed(url) => return Ok(url.clone()),
            Origin::Host(host) => host.render(value)?,
        };
        // Each value is one part of the name: it cannot add a port, a user name or a path.
        let is_name = host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b));
        let url = check_base(&format!("https://{host}")).map_err(|why| format!("`{host}`: {why}"))?;
        let is_domain = matches!(url.host(), Some(Host::Domain(_)));
        let as_written = url[Position::BeforeHost..Position::AfterPort].eq_ignore_ascii_case(&host);
        if is_name && is_domain && as_written { Ok(url) } else { Err(format!("`{host}` is not a host name")) }
    }

    /// Returns the URL. `base` replaces the origin. `value` returns the values of the path, encoded, and `plain` those
    /// of the host.
    pub(super) fn render(
        &self,
        base: Option<&Url>,
        value: impl Fn(&str) -> Result<String, String>,
        plain: impl Fn(&str) -> Result<String, String>,
    ) -> Result<Url, String> {
        let mut url = match base {
            Some(base) => base.clone(),
            None => self.render_origin(plain)?,
        };
        let path = format!("{}{}", url.path().trim_end_matches('/'), self.path.render(value)?);
        url.set_path(&path);
        if url.path() == path { Ok(url) } else { Err(format!("`{path}` is not a normalised path")) }
    }
}

/// Checks an address to which a path is appended. The error is a sentence.
pub(super) fn check_base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim())
        .map_err(|error| format!("not a URL: {}", url_error(text, error, "http:// or https://")))?;
    let problem = if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the scheme is `{}`; it must be https or http", url.scheme()));
    } else if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        "a host is required, and the port must not be 0"
    } else if !url.username().is_empty() || url.password().is_some() {
        "must not contain a user name or password"
    } else if url.query().is_some() || url.fragment().is_some() {
        "must not contain a query or fragment"
    } else {
        return Ok(url);
    };
    Err(problem.to_owned())
}

/// Returns `value` with every byte encoded that is not unreserved in RFC 3986.
pub(super) fn percent_encode(value: &str) -> String {
    utf8_percent_encode(value, RESERVED).to_string()
}

/// Longest value in bytes: twice the longest ids in use, which are names of cloud resources.
const MAX_VALUE: usize = 256;

/// The declaration of a parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct ParamTable {
    pub(super) pattern: Option<String>,
    pub(super) encode: Encode,
    pub(super) default: Option<String>,
    pub(super) r#enum: Option<Vec<String>>,
    /// Whether a registration can leave it out, and what contains it is then not sent.
    pub(super) is_optional: bool,
}

/// How a value is put into the URL's path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encode {
    /// As one segment; `/` is encoded.
    #[default]
    Segment,
    /// As several segments; `/` is kept.
    Path,
}

impl Encode {
    /// All encodings with their words.
    pub(super) const ALL: [(&str, Self); 2] = [("segment", Self::Segment), ("path", Self::Path)];
}

/// A declared parameter.
#[derive(Clone, Debug, Default)]
pub(super) struct Param {
    table: ParamTable,
    /// Matches a whole value.
    pattern: Option<Regex>,
}

impl Param {
    /// Returns the regular expression of its values, as the file has it.
    pub(super) fn pattern(&self) -> Option<&str> {
        self.table.pattern.as_deref()
    }

    /// Returns the permitted values; none if the file does not list them.
    pub(super) fn values(&self) -> &[String] {
        self.table.r#enum.as_deref().unwrap_or_default()
    }

    /// Creates a parameter from its declaration. The error is a sentence.
    pub(super) fn new(table: ParamTable) -> Result<Self, String> {
        if table.r#enum.as_ref().is_some_and(Vec::is_empty) {
            return Err("`enum` must not be empty".to_owned());
        }
        let pattern = table.pattern.as_deref().map(anchored).transpose()?;
        let param = Self { table, pattern };
        for value in param.table.r#enum.iter().flatten() {
            param.check(value).map_err(|why| format!("`{value}` in `enum` can never be used: {why}"))?;
        }
        if let Some(value) = param.default() {
            param.check(value).map_err(|why| format!("the default `{value}` can never be used: {why}"))?;
        }
        Ok(param)
    }

    /// Checks a pattern. The error is a sentence.
    pub(super) fn check_pattern(table: &ParamTable) -> Result<(), String> {
        table.pattern.as_deref().map_or(Ok(()), |pattern| anchored(pattern).map(drop))
    }

    /// Returns whether the permitted values are limited by a pattern or a list.
    pub(super) fn is_limited(&self) -> bool {
        self.pattern.is_some() || self.table.r#enum.is_some()
    }

    /// Compiles `pattern` so that it must match a whole value.
    pub(super) fn anchored(pattern: &str) -> Result<Regex, String> {
        anchored(pattern)
    }

    /// Returns whether a registration can leave the parameter out, although it has no default.
    pub(super) fn is_optional(&self) -> bool {
        self.table.is_optional
    }

    /// Returns the value for registrations without the parameter; `None` if there is none.
    pub(super) fn default(&self) -> Option<&String> {
        self.table.default.as_ref()
    }

    /// Checks a value that is no part of a request. The error is a sentence.
    pub(super) fn check_text(value: &str) -> Result<(), String> {
        Err(if value.is_empty() {
            "must not be empty".to_owned()
        } else if value.len() > MAX_VALUE {
            format!("must be at most {MAX_VALUE} bytes")
        } else if value.chars().any(char::is_control) {
            "must not contain control characters".to_owned()
        } else {
            return check_value(value);
        })
    }

    /// Checks a value. The error is a sentence.
    pub(super) fn check(&self, value: &str) -> Result<(), String> {
        let ParamTable { pattern, encode, r#enum, .. } = &self.table;
        let leaves = |part| matches!(part, "" | "." | "..");
        let leaves = match encode {
            Encode::Segment => leaves(value),
            Encode::Path => value.split('/').any(leaves),
        };
        Self::check_text(value)?;
        Err(if leaves {
            "must not contain `.`, `..` or an empty part between slashes".to_owned()
        } else if r#enum.as_ref().is_some_and(|all| all.iter().all(|one| one != value)) {
            format!("must be one of {}", r#enum.as_deref().unwrap_or_default().join(", "))
        } else if self.pattern.as_ref().is_some_and(|regex| !regex.is_match(value)) {
            format!("must match the pattern {}", pattern.as_deref().unwrap_or_default())
        } else {
            return Ok(());
        })
    }

    /// Returns the value, encoded for a path.
    pub(super) fn encoded(&self, value: &str) -> String {
        match self.table.encode {
            Encode::Segment => percent_encode(value),
            Encode::Path => value.split('/').map(percent_encode).collect::<Vec<_>>().join("/"),
        }
    }
}

/// Returns why a pattern is none: `reason` is that of the library.
pub(super) fn reason_of(pattern: &str, reason: &str) -> String {
    match name_in_braces(pattern) {
        Some(name) => format!("it has no parameters such as `{{{name}}}`; write \\{{ for a brace"),
        None => reason.to_owned(),
    }
}

/// Compiles `pattern` so that it must match a whole value.
fn anchored(pattern: &str) -> Result<Regex, String> {
    let wrong = |error: regex::Error| {
        // The library draws the place on several lines; the last one has the reason.
        let text = error.to_string();
        let reason = text.lines().last().map_or("", |line| line.trim_start_matches("error: "));
        format!("`{pattern}` is not a regular expression: {}", reason_of(pattern, reason))
    };
    // Without the brackets first, because `a)|(?:b` is valid only between them.
    Regex::new(pattern).map_err(wrong)?;
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_that_repeats_a_value_has_a_limit() {
        let template = Template::parse(&"{a}".repeat(20_000)).expect("a template");
        let calls = std::cell::Cell::new(0);
        let value = |_: &str| {
            calls.set(calls.get() + 1);
            Ok("q".repeat(15_000))
        };
        assert!(template.render(value).expect_err("too long").contains("more than 65536 bytes"));
        assert_eq!(calls.get(), 5);
        assert!(Template::parse("{a}{a}").expect("a template").render(value).is_ok());
    }

    fn url(template: &str, base: Option<&str>, value: &str) -> Result<String, String> {
        let base = base.map(|base| check_base(base).unwrap());
        let template = UrlTemplate::parse(template, true)?;
        let encoded = |_: &str| Ok(percent_encode(value));
        template.render(base.as_ref(), encoded, |_| Ok(value.to_owned())).map(String::from)
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
            assert!(UrlTemplate::parse(text, false).is_err(), "{text}");
        }
        assert!(UrlTemplate::parse("http://{host}/x", true).is_err());
    }

    #[test]
    fn a_value_in_a_host_is_a_part_of_its_name() {
        for (template, value, expected) in [
            ("https://{host}/x", "eu.api.example", Some("https://eu.api.example/x")),
            ("https://{host}/x", "EU.api.example", Some("https://eu.api.example/x")),
            ("https://{host}.api.example:8443/x", "eu", Some("https://eu.api.example:8443/x")),
            ("https://{host}.api.example/x", "evil.example/?", None),
            ("https://{host}.api.example/x", "evil.example#", None),
            ("https://{host}.api.example/x", "me:pw@evil.example", None),
            ("https://{host}.api.example/x", "a b", None),
            ("https://{host}/x", "127.0.0.1", None),
            ("https://{host}/x", "2130706433", None),
            ("https://{host}/x", "0x7f.1", None),
            ("https://{host}/x", "[::1]", None),
            ("https://{host}/x", "a.example\\@evil.example", None),
            ("https://{host}/x", "a.example:443", None),
            ("https://{host}/x", "%61.example", None),
            ("https://{host}/x", "é.example", None),
        ] {
            assert_eq!(url(template, None, value).ok().as_deref(), expected, "{template} {value}");
        }
    }

    fn param(table: ParamTable) -> Param {
        Param::new(table).unwrap()
    }

    #[test]
    fn a_pattern_must_match_the_whole_value() {
        let loose = param(ParamTable { pattern: Some("job|[0-9]+".into()), ..ParamTable::default() });
        for (value, fits) in [("job", true), ("42", true), ("job1", false), ("1job", false), ("42\n", false)]
        {
            assert_eq!(loose.check(value).is_ok(), fits, "{value:?}");
        }
        assert!(Param::new(ParamTable { pattern: Some("a)|(?:b".into()), ..ParamTable::default() }).is_err());
    }

    #[test]
    fn no_value_leaves_its_place_in_a_path() {
        let segment = param(ParamTable::default());
        let path = param(ParamTable { encode: Encode::Path, ..ParamTable::default() });
        for value in ["", ".", "..", "a\0", "a\r\nb", &"x".repeat(257)] {
            assert!(segment.check(value).is_err() && path.check(value).is_err(), "{value:?}");
        }
        for value in ["a/../b", "/a", "a/", "a//b", "./a"] {
            assert!(path.check(value).is_err(), "{value:?}");
        }
        assert_eq!(segment.encoded("a/../b"), "a%2F..%2Fb");
        assert_eq!(path.encoded("projects/x y"), "projects/x%20y");
    }

    #[test]
    fn a_value_that_is_not_listed_is_rejected_with_the_list() {
        let allowed = Some(vec!["eu".into(), "us".into()]);
        let region =
            param(ParamTable { r#enum: allowed, default: Some("eu".into()), ..ParamTable::default() });
        assert_eq!(region.check("asia"), Err("must be one of eu, us".into()));
        assert_eq!(region.check("us"), Ok(()));
    }
}
