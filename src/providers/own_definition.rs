//! Definitions of apps.
//!
//! An app writes such a definition, so everything about it is treated as given by a client:
//!
//! - Each address is guarded like a callback, and no redirect is followed, whatever the definition says.
//! - An answer has at most [`ANSWER_MAX`], and a request takes at most [`TIMEOUT_MAX`].
//! - The parts that cost time for each answer are limited in number, besides the size of the text ([`TEXT_MAX`]):
//!   patterns, rules and examples. A pattern is small, before and after it is compiled, and is searched in some KiB
//!   of an answer. A text, and each answer, is read on a thread that serves no request and no other poll.

use std::time::Duration;

use regex::RegexBuilder;
use toml::de::{DeTable, DeValue};

use super::compile::Mistake;
use super::definition::{Definition, Meaning};
use super::request::Request;

/// Largest text of a definition of an app, in bytes: several times the longest that is built in.
pub const TEXT_MAX: usize = 64 * 1024;

/// Largest answer that is read, in bytes.
const ANSWER_MAX: usize = 1024 * 1024;

/// Longest time of a request.
const TIMEOUT_MAX: Duration = Duration::from_secs(20);

/// Largest compiled pattern of a parameter, in bytes, which is matched at a registration: `[A-Za-z0-9_-]{1,1024}` fits.
const PATTERN_MAX: usize = 256 * 1024;

/// Largest compiled pattern that is searched in answers, in bytes. The time of a search grows with it.
const SEARCH_MAX: usize = 64 * 1024;

/// Largest text of a pattern, and of all patterns together, in bytes. A class of characters such as `\w` takes some KiB
/// while a pattern is read, also in a part that is repeated zero times.
const PATTERN_TEXT: usize = 500;
const PATTERNS_TOTAL: usize = 4_000;

/// Largest number of bytes of an answer in which one condition searches its pattern: some hundred statuses.
const SEARCHED: usize = 4 * 1024;

/// Largest compiled pattern that finds a part of a text, in bytes. To find a group takes a multiple of a plain search.
const PART_MAX: usize = 16 * 1024;

/// Number of bytes of one answer in which all `match` together search.
const PARTS_SEARCHED: usize = 8 * 1024;

/// Largest number of patterns, rules, examples, and of what visits a whole answer once more.
const PARTS: [(&[&str], usize, &str); 4] = [
    (&["pattern", "matches", "match"], 40, "patterns"),
    (&["rule"], 40, "rules"),
    (&["example"], 100, "examples"),
    (&["sum", "same_as"], 40, "paths in `sum` and `same_as`"),
];

impl Definition {
    /// Parses a definition of an app, and runs its examples. It can take some milliseconds. The error lists every
    /// mistake.
    pub fn parse_own(text: &str) -> Result<Self, Vec<Mistake>> {
        let mut mistakes = too_many(text);
        if mistakes.is_empty() {
            match Self::parse(text) {
                Ok(mut definition) => {
                    limit_searches(&mut definition.meaning);
                    if let Some(cancel) = &mut definition.cancel {
                        limit_searches(&mut cancel.meaning);
                        cancel.rules.iter_mut().for_each(|rule| rule.when.limit_searches(SEARCHED));
                    }
                    return Ok(Self { is_of_app: true, ..definition });
                }
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

/// Limits what the patterns of all rules search.
fn limit_searches(meaning: &mut Meaning) {
    meaning.searched = PARTS_SEARCHED;
    meaning.rules.iter_mut().for_each(|rule| rule.when.limit_searches(SEARCHED));
    meaning.results.iter_mut().for_each(|result| limit_searches(&mut result.meaning));
}

/// Returns a mistake for each limit that the definition exceeds. Nothing large is compiled before.
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
    let total: usize = parts.patterns.iter().map(|(_, pattern, _)| pattern.len()).sum();
    if total > PATTERNS_TOTAL {
        mistakes.push(mistake(format!(
            "the patterns have {total} bytes; those of a definition of an app have at most {PATTERNS_TOTAL}"
        )));
    }
    if !mistakes.is_empty() {
        return mistakes;
    }
    let at = |at: usize, text: &str, why: &str| {
        let before = &text[..at.min(text.len())];
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        let (line, column) = (1 + before.matches('\n').count(), 1 + before[line_start..].chars().count());
        Mistake { line, column, text: why.to_owned() }
    };
    let costly = parts
        .patterns
        .iter()
        .filter_map(|(place, pattern, most)| Some((*place, too_costly(pattern, *most)?)));
    costly.map(|(place, why)| at(place, text, why)).collect()
}

/// Returns why a pattern of an app is refused, if it is. It has at most `most` bytes when it is compiled. What else can be wrong with it is found later.
fn too_costly(pattern: &str, most: usize) -> Option<&'static str> {
    if pattern.len() > PATTERN_TEXT {
        return Some("the pattern has more than 500 bytes");
    }
    // To fold the case of a large class of characters takes up to 50 ms.
    let mut escapes =
        pattern.match_indices('\\').filter_map(|(place, _)| pattern[place + 1..].chars().next());
    let is_large = !pattern.is_ascii() || pattern.contains("[^") || escapes.any(|c| "xuUpPwWDS".contains(c));
    if is_large && ignores_case(pattern) {
        return Some(
            "a pattern with (?i) has only small classes in a definition of an app, such as [a-z] and \\d",
        );
    }
    let compiled = RegexBuilder::new(pattern).size_limit(most).build();
    matches!(compiled, Err(regex::Error::CompiledTooBig(_)))
        .then_some("the pattern is too large for a definition of an app; repeat less in it, and write [A-Za-z0-9_] for \\w")
}

/// Returns whether a group of flags makes a part of a pattern ignore the case.
fn ignores_case(pattern: &str) -> bool {
    let groups = pattern.match_indices("(?").map(|(place, start)| &pattern[place + start.len()..]);
    groups.into_iter().any(|flags| {
        flags.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '-').any(|flag| flag == 'i')
    })
}

/// Parts of a text that are limited.
#[derive(Default)]
struct Parts {
    counts: [usize; PARTS.len()],
    /// The patterns, with their places in the text and their largest sizes.
    patterns: Vec<(usize, String, usize)>,
}

impl Parts {
    fn count(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let (name, place) = (key.get_ref().as_ref(), value.span().start);
            let size = value.get_ref().as_array().map_or(1, |items| items.len());
            for (n, (names, ..)) in PARTS.iter().enumerate() {
                if names.contains(&name) {
                    self.counts[n] += size;
                }
            }
            if let DeValue::String(text) = value.get_ref()
                && PARTS[0].0.contains(&name)
                && self.patterns.len() <= PARTS[0].1
            {
                let most = match name {
                    "match" => PART_MAX,
                    "matches" => SEARCH_MAX,
                    _ => PATTERN_MAX,
                };
                self.patterns.push((place, text.to_string(), most));
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
            format!("[params.a]\npattern = '(?i:{}){{0}}a'\n{head}", "[\\x{0}-\\x{10FFFF}]".repeat(20)),
            format!("[params.a]\npattern = '(?:{}){{0}}a'\n{head}", "\\w".repeat(1_000)),
            format!("{head}{}", rules.replace("(\\\\w{90}){90}", "x[xy]{9000}[ab]")),
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
