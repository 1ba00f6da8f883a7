//! Definitions of apps.
//!
//! An app writes such a definition, so everything about it is treated as given by a client:
//!
//! - Each address is guarded like a callback, and no redirect is followed, whatever the definition says.
//! - An answer has at most [`ANSWER_MAX`], and a request takes at most [`TIMEOUT_MAX`].
//! - The parts that cost time for each answer are limited in number, besides the size of the text ([`TEXT_MAX`]):
//!   patterns, rules and examples. A text, and an answer that is not small, is read on a thread that serves no request
//!   and no other poll.

use std::time::Duration;

use regex::RegexBuilder;
use toml::de::{DeTable, DeValue};

use super::compile::Mistake;
use super::definition::Definition;
use super::request::Request;

/// Largest text of a definition of an app, in bytes: several times the longest that is built in.
pub const TEXT_MAX: usize = 64 * 1024;

/// Largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;

/// Longest time of a request.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);

/// Largest compiled pattern, in bytes. `[A-Za-z0-9_-]{1,256}` has some KiB.
const PATTERN_MAX: usize = 256 * 1024;

/// Largest number of patterns, rules and examples.
const PARTS: [(&[&str], usize, &str); 3] =
    [(&["pattern", "matches"], 40, "patterns"), (&["rule"], 40, "rules"), (&["example"], 100, "examples")];

impl Definition {
    /// Parses a definition of an app, and runs its examples. It can take some milliseconds. The error lists every
    /// mistake.
    pub fn parse_own(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = too_many(text);
        if mistakes.is_empty() {
            match Self::parse(text) {
                Ok(definition) => return Ok(Self { is_of_app: true, ..definition }),
                Err(found) => mistakes = found,
            }
        }
        Err(mistakes)
    }

    /// Returns whether it is a definition of an app.
    pub fn is_of_app(&self) -> bool {
        self.is_of_app
    }

    /// Applies the limits of definitions of apps to a request.
    pub(super) fn limit_own(&self, request: &mut Request) {
        if self.is_of_app {
            request.is_from_client = true;
            request.max_redirects = 0;
            request.max_body = request.max_body.min(ANSWER_MAX);
            request.timeout = request.timeout.min(TIMEOUT_MAX);
        }
    }
}

/// Returns a mistake for each kind of parts of which there are too many, and for a pattern that is too large.
fn too_many(text: &str) -> Vec<Mistake> {
    let (parsed, _) = DeTable::parse_recoverable(text);
    let mut parts = Parts::default();
    parts.count(parsed.get_ref());
    let mistake = |text: String| Mistake { line: 1, column: 1, text };
    let found = PARTS.iter().zip(parts.counts).filter(|((_, most, _), count)| count > most);
    let mut mistakes: Vec<Mistake> = found
        .map(|((_, most, what), count)| {
            mistake(format!("the definition has {count} {what}; a definition of an app has at most {most}"))
        })
        .collect();
    if mistakes.is_empty() {
        let is_too_large = |pattern: &&String| {
            let compiled = RegexBuilder::new(pattern).size_limit(PATTERN_MAX).build();
            matches!(compiled, Err(regex::Error::CompiledTooBig(_)))
        };
        // What else can be wrong with a pattern is found with its place.
        let large = parts.patterns.iter().find(is_too_large);
        mistakes.extend(large.map(|pattern| {
            let begin: String = pattern.chars().take(40).collect();
            mistake(format!("the pattern that begins with `{begin}` is too large; repeat less in it"))
        }));
    }
    mistakes
}

/// Parts of a text that are limited.
#[derive(Default)]
struct Parts {
    counts: [usize; PARTS.len()],
    patterns: Vec<String>,
}

impl Parts {
    fn count(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let size = value.get_ref().as_array().map_or(1, |items| items.len());
            for (n, (names, ..)) in PARTS.iter().enumerate() {
                if names.contains(&key.get_ref().as_ref()) {
                    self.counts[n] += size;
                }
            }
            if let DeValue::String(text) = value.get_ref()
                && PARTS[0].0.contains(&key.get_ref().as_ref())
                && self.patterns.len() <= PARTS[0].1
            {
                self.patterns.push(text.to_string());
            }
            self.count_value(value.get_ref());
        }
    }

    fn count_value(&mut self, value: &DeValue<'_>) {
        if let DeValue::Table(table) = value {
            self.count(table);
        } else if let DeValue::Array(items) = value {
            items.iter().for_each(|item| self.count_value(item.get_ref()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::EMBEDDED;
    use super::*;

    /// A definition that uses most of schema 2.
    const RICH: &str = include_str!("tests/rich.toml");

    #[test]
    fn every_built_in_definition_could_be_an_apps() {
        for (file, text) in EMBEDDED {
            assert!(text.len() <= TEXT_MAX, "{file}");
            assert_eq!(Definition::parse_own(text).map(drop), Ok(()), "{file}");
        }
    }

    #[test]
    fn requests_of_an_apps_definition_are_guarded_and_follow_no_redirect() {
        // The host is fixed, so that only the author has chosen it.
        let text = RICH.replace("https://{host}/", "https://api.rich.example/");
        let text = text.replace("*.rich.example", "api.rich.example");
        let text = text.replace("[params.host]\npattern = \"[a-z0-9-]+\\\\.rich\\\\.example\"\n", "");
        let text = text.replace("params = { host = \"eu.rich.example\" }\n", "");
        let definition = Definition::parse_own(&text).expect("a definition");
        let operators = Definition::parse(&text).expect("a definition");
        assert!(definition.is_of_app() && !operators.is_of_app());
        let key = || Some(super::super::tests::key(r#"{"key_id": "id", "secret": "hush-0123"}"#));
        let request = |one: &Definition| one.request("a1", "{}", None, key()).expect("a request");
        let (own, other) = (request(&definition), request(&operators));
        assert_eq!((own.is_from_client, own.max_redirects, own.max_body), (true, 0, ANSWER_MAX));
        assert!(own.timeout <= TIMEOUT_MAX);
        assert_eq!((other.is_from_client, other.max_redirects, other.max_body), (false, 3, 4 * ANSWER_MAX));
    }

    #[test]
    fn a_hostile_definition_is_refused() {
        let head = &RICH[..RICH.find("[[rule]]").unwrap_or(RICH.len())];
        let rules =
            "[[rule]]\nall = [{ path = \"$.a\", matches = \"(\\\\w{90}){90}\" }]\nanswer = \"error\"\n";
        let param = |n| format!("[params.p{n}]\npattern = \"(\\\\w{{200}}){{200}}\"\n");
        let params: String = (0..39).map(param).collect();
        let texts = [
            format!("{head}{}", rules.repeat(1_000)),
            format!("{head}{}", rules.repeat(39)),
            format!("{params}{head}"),
            "[[example]]\n".repeat(5_000),
            format!("a = {}{}", "[".repeat(20_000), "]".repeat(20_000)),
            "a.".repeat(30_000) + "a = 1",
        ];
        for text in texts {
            let text = &text[..text.len().min(TEXT_MAX)];
            assert!(Definition::parse_own(text).is_err(), "{}", &text[..80.min(text.len())]);
        }
    }
}
