//! Texts that are made of values of an answer, of the id of the job and of parameters: the URL of a file whose id the
//! answer has.
//!
//! Nothing is requested at such a text: it is data of an event. A value still cannot change the structure of an http URL:
//! it is percent-encoded, a value with a dot segment is none, and a value that is the host must be a host name.

use super::path::Path;
use super::template::percent_encode;
use super::value::MAX_TEXT;
use super::work;
use crate::domain::is_host_name;

/// Largest number of values in one template.
const MAX_VALUES: usize = 16;

/// A text with values.
#[derive(Clone, Debug)]
pub(super) struct TextTemplate {
    parts: Vec<Part>,
    /// Whether the text is an http URL, in which values are encoded.
    is_url: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// A value of the answer.
    Value(Path),
    /// The id of the job, or a parameter.
    Name(String),
}

impl TextTemplate {
    /// Returns whether a text is meant as a template and not as a path.
    pub(super) fn is_meant(text: &str) -> bool {
        !text.starts_with('$') && text.contains('{')
    }

    /// Parses a template. The error is a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let unpaired = || format!("`{text}` has an unpaired brace");
        let (mut parts, mut rest) = (Vec::new(), text);
        while let Some(open) = rest.find('{') {
            let (before, after) = rest.split_at(open);
            if before.contains('}') {
                return Err(unpaired());
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let end = closing(&after[1..]).ok_or_else(unpaired)?;
            parts.push(part(&after[1..=end])?);
            rest = &after[end + 2..];
        }
        if rest.contains('}') {
            return Err(unpaired());
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        match parts.iter().filter(|part| !matches!(part, Part::Text(_))).count() {
            0 => return Err(format!("`{text}` has no value in braces, such as {{$.file_id}}")),
            count if count > MAX_VALUES => return Err(format!("has more than {MAX_VALUES} values")),
            _ => {}
        }
        let scheme = text.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        let template = Self { parts, is_url: matches!(scheme.as_deref(), Some("http" | "https")) };
        template.check_host()?;
        Ok(template)
    }

    /// Checks that only parameters are in the host of an http URL, or that one value is the whole host.
    fn check_host(&self) -> Result<(), String> {
        if !self.is_url {
            return Ok(());
        }
        if let [Part::Text(scheme), Part::Value(_), rest @ ..] = self.parts.as_slice()
            && scheme.ends_with("://")
            && rest
                .first()
                .is_none_or(|part| matches!(part, Part::Text(text) if text.starts_with(['/', '?', '#', ':'])))
        {
            return Ok(());
        }
        let mut is_first = true;
        for part in &self.parts {
            match part {
                Part::Text(text) => {
                    let text =
                        if is_first { text.split_once("://").map_or("", |(_, rest)| rest) } else { text };
                    if text.contains(['/', '?', '#']) {
                        return Ok(());
                    }
                }
                Part::Name(name) if name != "job_id" => {}
                Part::Name(_) | Part::Value(_) => {
                    return Err(
                        "the host can contain parameters, and a value of an answer can be the whole \
                                host, but not a part of it; write a `/` before the value"
                            .to_owned(),
                    );
                }
            }
            is_first = false;
        }
        Ok(())
    }

    /// Returns the names of the parameters, and perhaps `job_id`.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().flat_map(|part| {
            let (path, name) = match part {
                Part::Text(_) => (None, None),
                Part::Value(path) => (Some(path), None),
                Part::Name(name) => (None, Some(name.as_str())),
            };
            path.into_iter().flat_map(Path::names).chain(name)
        })
    }

    /// Returns whether the text depends on the answer.
    pub(super) fn reads_answer(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Value(_)))
    }

    /// Returns the text; `None` if a value is missing, or cannot be a part of the URL. `value` returns a value of the
    /// answer, and `named` the id of the job or a parameter.
    pub(super) fn render(
        &self,
        value: impl Fn(&Path) -> Option<String>,
        named: impl Fn(&str) -> Option<String>,
    ) -> Option<String> {
        let mut text = String::new();
        for part in &self.parts {
            let value = match part {
                Part::Text(fixed) => {
                    work::spend_on(fixed.len())?;
                    text.push_str(fixed);
                    continue;
                }
                Part::Value(path) => value(path)?,
                Part::Name(name) => named(name)?,
            };
            work::spend_on(value.len())?;
            if !self.is_url {
                text.push_str(&value);
                // Only the beginning of a longer text is passed on.
                if text.len() > MAX_TEXT {
                    break;
                }
                continue;
            }
            if value.len() > MAX_TEXT {
                return None;
            }
            if text.ends_with("://") {
                text.push_str(Some(&value).filter(|value| is_host_name(value))?);
                continue;
            }
            let value = if text.ends_with('/') { value.strip_prefix('/').unwrap_or(&value) } else { &value };
            if value.split('/').any(|segment| matches!(segment, "." | "..")) {
                return None;
            }
            text.push_str(&value.split('/').map(percent_encode).collect::<Vec<_>>().join("/"));
        }
        Some(text)
    }
}

/// Returns the position of the brace that closes a value. A path can contain braces and quoted keys.
fn closing(text: &str) -> Option<usize> {
    let (mut depth, mut quote) = (0, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (_, Some(open)) if c == open => quote = None,
            ('{', None) => depth += 1,
            ('}', None) if depth == 0 => return Some(at),
            ('}', None) => depth -= 1,
            _ => {}
        }
    }
    None
}

/// Parses what is between two braces.
fn part(text: &str) -> Result<Part, String> {
    if text.starts_with('$') {
        return Path::parse(text, 2).map(Part::Value);
    }
    let is_name = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !is_name {
        return Err(format!(
            "`{{{text}}}` is neither a path, such as {{$.file_id}}, nor the name of a parameter"
        ));
    }
    Ok(Part::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;

    use super::*;
    use crate::providers::json::{Dialect, parse_json};
    use crate::providers::names::Names;
    use crate::providers::value::status_text;

    fn rendered(template: &str) -> Option<String> {
        let body = br#"{"id": "f 1", "n": 5, "key": "a/b c", "up": "../x", "abs": "/v1/x", "list": {"j/1": {"u": "y"}}, "site": "blue.up.example", "none": null}"#;
        let cell = OnceCell::new();
        let root = parse_json(body, &cell, Dialect::Tolerant, None).expect("JSON").value;
        let value = |path: &Path| path.find(&root, Names::of_job("j/1"), status_text);
        let named = |name: &str| match name {
            "job_id" => Some("j/1".to_owned()),
            "host" => Some("eu.api.example".to_owned()),
            "team" => Some("blue".to_owned()),
            _ => None,
        };
        let parsed = TextTemplate::parse(template);
        parsed.unwrap_or_else(|why| panic!("{template}: {why}")).render(value, named)
    }

    #[test]
    fn values_of_the_answer_and_parameters_make_a_url() {
        for (template, expected) in [
            ("https://api.example/files/{$.id}/content", Some("https://api.example/files/f%201/content")),
            ("https://{host}/{team}/{job_id}?n={$.n}", Some("https://eu.api.example/blue/j/1?n=5")),
            ("s3://{team}/{$.key}", Some("s3://blue/a/b c")),
            ("https://api.example/{$.key}", Some("https://api.example/a/b%20c")),
            ("https://api.example/{$.abs}", Some("https://api.example/v1/x")),
            ("https://api.example/{$.list[{job_id}].u}", Some("https://api.example/y")),
            ("https://api.example/{$['id']}", Some("https://api.example/f%201")),
            ("{$.n} of {$.id}", Some("5 of f 1")),
            ("https://{$.site}", Some("https://blue.up.example")),
            ("https://{$.site}:8443/x", Some("https://blue.up.example:8443/x")),
            ("https://{$.key}/x", None),
            ("https://{$.id}/x", None),
            ("https://api.example/{$.up}", None),
            ("https://api.example/{$.none}", None),
            ("https://api.example/{$.list}", None),
            ("https://api.example/{$.absent}/{$.id}", None),
        ] {
            assert_eq!(rendered(template).as_deref(), expected, "{template}");
        }
    }

    #[test]
    fn a_template_that_means_nothing_is_refused() {
        for text in [
            "https://api.example/x",
            "https://api.example/{",
            "https://api.example/}",
            "https://api.example/{}",
            "https://api.example/{a b}",
            "https://api.example/{$.}",
            "https://x{$.host}/x",
            "https://{$.host}x/",
            "https://{$.host}{$.path}",
            "https://{job_id}.api.example/x",
            "https://api.example{$.path}",
        ] {
            assert!(TextTemplate::parse(text).is_err(), "{text}");
        }
    }
}
