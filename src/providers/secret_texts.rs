//! Secrets as they can occur in texts, and their replacement.
//!
//! An answer can repeat a credential, also one that another app must not see. All secrets are found in one pass, so that
//! the time does not grow with their number: an app may write a credential with hundreds of parts.
//!
//! **In JSON** each character can be written as an escape, and programs differ in which they write so (`\u0026`, `\u002B`,
//! `\/`). A text with escapes is therefore also searched as it is without them, and what is found there is replaced in
//! the text itself. JSON in a string of JSON is escaped twice, so this is repeated ([`DEPTH`]).

use std::cmp::Reverse;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind, Input, MatchKind};

use super::template::percent_encode;

/// Text that stands for a secret.
pub(super) const MASK: &str = "***";

/// Number of searches for secrets that begin within another one, and of bytes after it that each reads.
const OVERLAPS_MAX: usize = 1_000;
const LONGEST_OVERLAP: usize = 16 * 1024;

/// Number of times that the escapes of a text are read.
const DEPTH: usize = 3;

/// Texts that are replaced: without duplicates, and the longest first, because a longer one can contain a shorter one.
#[derive(Clone, Default)]
pub struct SecretTexts {
    texts: Vec<String>,
    /// Finds the texts; made when it is first needed.
    search: Arc<OnceLock<Option<AhoCorasick>>>,
}

impl fmt::Debug for SecretTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.texts.len())
    }
}

impl SecretTexts {
    /// Makes the set. Empty texts are left out.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts
            .sort_by(|one, other| Reverse(one.len()).cmp(&Reverse(other.len())).then_with(|| one.cmp(other)));
        texts.dedup();
        Self { texts, search: Arc::default() }
    }

    /// Returns the texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(String::as_str)
    }

    /// Returns whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Returns the set with further texts.
    #[must_use]
    pub fn with(&self, further: &[String]) -> Self {
        Self::new(self.texts.iter().chain(further).cloned())
    }

    /// Returns `text` with `***` in place of each secret; `None` if it has none.
    pub fn hide(&self, text: &str) -> Option<String> {
        let found = self.find(text);
        if found.is_empty() {
            return None;
        }
        let (mut hidden, mut at) = (String::with_capacity(text.len()), 0);
        for range in found {
            hidden.push_str(&text[at..range.start]);
            hidden.push_str(MASK);
            at = range.end;
        }
        hidden.push_str(&text[at..]);
        Some(hidden)
    }

    /// Returns where secrets are, in order and without overlaps.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let Some(search) = self.search.get_or_init(|| searcher(&self.texts)) else { return Vec::new() };
        let mut found = with_overlaps(search, text);
        let mut views: Vec<Unescaped> = Vec::new();
        while views.len() < DEPTH
            && let Some(view) = Unescaped::of(views.last().map_or(text, |view| &view.text))
        {
            let in_view = with_overlaps(search, &view.text).into_iter();
            let in_text =
                |range| views.iter().rev().fold(view.original(range), |range, view| view.original(range));
            found.extend(in_view.map(in_text));
            views.push(view);
        }
        found.sort_by_key(|range| range.start);
        found.dedup_by(|next, before| {
            let overlaps = next.start < before.end;
            if overlaps {
                before.end = before.end.max(next.end);
            }
            overlaps
        });
        found
    }
}

/// Returns what finds these texts, the longest one at each place. `None` if there are none.
fn searcher(texts: &[String]) -> Option<AhoCorasick> {
    // A DFA would be faster, and takes a KiB for each byte of a text.
    let kind = Some(AhoCorasickKind::ContiguousNFA);
    let search = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).kind(kind).build(texts);
    search.ok().filter(|_| !texts.is_empty())
}

/// Returns where secrets are, also those that begin within another one. Of a hostile answer, not all overlaps are found.
fn with_overlaps(search: &AhoCorasick, text: &str) -> Vec<Range<usize>> {
    let mut found: Vec<Range<usize>> = search.find_iter(text).map(|found| found.range()).collect();
    let mut searches = OVERLAPS_MAX;
    for at in 0..found.len() {
        let mut within = found[at].clone();
        while searches > 0 {
            searches -= 1;
            let end = text.len().min(within.end + LONGEST_OVERLAP);
            let next = search.find(Input::new(text).span(within.start + 1..end)).map(|next| next.range());
            let Some(next) = next.filter(|next| next.start < within.end) else { break };
            found.push(next.clone());
            within = next;
        }
    }
    found
}

/// A text whose escapes, as JSON has them in strings, are replaced by their characters.
struct Unescaped {
    text: String,
    /// Places after escapes, in this text and in the one with escapes: between two of them, both texts are equal.
    places: Vec<(usize, usize)>,
}

impl Unescaped {
    /// Returns a text without its escapes; `None` if it has none.
    fn of(escaped: &str) -> Option<Self> {
        let (mut text, mut places) = (String::new(), Vec::new());
        let (mut copied, mut at) = (0, 0);
        while let Some(found) = escaped[at..].find('\\') {
            let start = at + found;
            let Some((character, length)) = read_escape(&escaped[start..]) else {
                at = start + 1;
                continue;
            };
            text.push_str(&escaped[copied..start]);
            text.push(character);
            (copied, at) = (start + length, start + length);
            places.push((text.len(), at));
        }
        if places.is_empty() {
            return None;
        }
        text.push_str(&escaped[copied..]);
        Some(Self { text, places })
    }

    /// Returns a range of this text in the one with escapes.
    fn original(&self, range: Range<usize>) -> Range<usize> {
        let place = |at: usize| {
            let after = self.places.partition_point(|(here, _)| *here <= at);
            let (here, there) = after.checked_sub(1).map_or((0, 0), |before| self.places[before]);
            there + (at - here)
        };
        place(range.start)..place(range.end)
    }
}

/// Reads the escape with which a text begins. Returns its character and its length.
fn read_escape(text: &str) -> Option<(char, usize)> {
    let unit = |at: usize| u16::from_str_radix(text.get(at..at + 4)?, 16).ok();
    let character = match text.as_bytes().get(1)? {
        b'u' => {
            let first = unit(2)?;
            let second = text.get(6..8).filter(|next| *next == "\\u").and_then(|_| unit(8));
            let units = [Some(first), second.filter(|_| (0xd800..0xdc00).contains(&first))];
            return match char::decode_utf16(units.into_iter().flatten()).next()? {
                Ok(character) => Some((character, 6 * character.len_utf16())),
                Err(_) => Some((char::REPLACEMENT_CHARACTER, 6)),
            };
        }
        character @ (b'"' | b'\\' | b'/') => char::from(*character),
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        _ => return None,
    };
    Some((character, 2))
}

/// Returns a secret as URLs and HTML spell it. The escapes of JSON are read wherever it is searched.
pub(super) fn spellings(secret: &str) -> [String; 3] {
    let escaped = percent_encode(secret);
    let lower = lower_escapes(&escaped);
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    [escaped, lower, html]
}

/// Returns a percent-encoded text with the digits of its escapes in lower case.
fn lower_escapes(text: &str) -> String {
    let mut rest = 0;
    let lower = text.chars().map(|c| {
        rest = if c == '%' { 3 } else { rest - i32::from(rest > 0) };
        if rest > 0 { c.to_ascii_lowercase() } else { c }
    });
    lower.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_secret_is_replaced_before_one_that_it_contains() {
        let texts = SecretTexts::new(["key", "key-and-more", "", "key"].map(str::to_owned));
        assert_eq!(texts.hide("key-and-more, key").as_deref(), Some("***, ***"));
        assert_eq!((texts.hide("none"), texts.iter().count()), (None, 2));
        assert_eq!(texts.with(&["none".to_owned()]).hide("none").as_deref(), Some("***"));
    }

    #[test]
    fn a_secret_is_known_in_urls_json_and_html() {
        let secret = "a/b\"&Ü+=";
        let texts = SecretTexts::new(spellings(secret).into_iter().chain([secret.to_owned()]));
        for text in [
            "a/b\"&Ü+=",
            "a%2Fb%22%26%C3%9C%2B%3D",
            "a%2fb%22%26%c3%9c%2b%3d",
            "a/b\"&amp;Ü+=",
            r#"a\/b\"&Ü+="#,
            r#"a/b\"&Ü+="#,
            r"a/b\u0022\u0026\u00DC\u002B\u003d",
            r"\u0061\u002f\u0062\u0022\u0026\u00dc\u002b\u003d",
            // JSON in JSON.
            r#"a/b\\\"\\u0026Ü\\u002b="#,
        ] {
            let around = format!(r#"{{"key": "{text}", "next\u0021": "\ud83d\ude00"}}"#);
            let hidden = texts.hide(&around);
            let expected = r#"{"key": "***", "next\u0021": "\ud83d\ude00"}"#;
            assert_eq!(hidden.as_deref(), Some(expected), "{text}");
        }
        for text in ["a/b", r"a\", r"\u00", r"\u00zz", r"\ud83d", r"\ud83d\u0041", r"\x41", "Ü\\Ü", ""] {
            assert_eq!(texts.hide(text), None, "{text}");
        }
    }

    #[test]
    fn secrets_that_overlap_as_escapes_are_replaced_once() {
        let texts = SecretTexts::new(["token-1", "en-1\"x", "x"].map(str::to_owned));
        assert_eq!(texts.hide(r#"token-1\"x, \u0078"#).as_deref(), Some("***, ***"));
        let texts = SecretTexts::new([r"\u0041bc", "Abcd"].map(str::to_owned));
        assert_eq!(texts.hide(r"-\u0041bcd-").as_deref(), Some("-***-"));
        let texts = SecretTexts::new(["account-sk", "sk-live-0123"].map(str::to_owned));
        assert_eq!(texts.hide("account-sk-live-0123.").as_deref(), Some("***."));
    }
}
