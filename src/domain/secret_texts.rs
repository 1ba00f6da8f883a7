//! Secrets as they can occur in texts, and their replacement.
//!
//! An answer can repeat a credential, also one that another app must not see. All secrets are found in one pass, so that
//! the time does not grow with their number: an app may write a credential with many parts. Where a hostile text consists of
//! the beginnings of secrets, the number of comparisons is limited.
//!
//! **Escapes.** A text with escapes is also searched as it is without them ([`Unescaped`]), and what is found there is replaced
//! in the text itself. JSON in a string of JSON is escaped twice, and so is a URL in a query, so this is repeated ([`DEPTH`]). A
//! secret can itself contain what has the form of an escape, which is then read as well. So it is also searched as it is
//! without its escapes.
//!
//! **Base64.** Three bytes become four characters, so the characters of a secret within a longer text depend on its place
//! only in three ways. Each of them is searched, without the characters at both ends that depend on the text around it.

mod unescaped;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use aho_corasick::{AhoCorasick, AhoCorasickKind};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use self::unescaped::Unescaped;

/// Text that stands for a secret.
pub const MASK: &str = "***";

/// Number of bytes at the beginning of each spelling that are searched for. The rest is compared where they are found, so
/// that the memory of the search does not grow with the length of a secret.
const ANCHOR: usize = 16;

/// Number of bytes that are compared for each byte of a text, and for each text. Where a hostile text takes more, a
/// beginning counts as the whole secret.
const COMPARED: usize = 32;
const COMPARED_MIN: usize = 1024 * 1024;

/// Number of times that the escapes of a text are read.
const DEPTH: usize = 4;

/// Shortest secret that is searched in Base64 as well, alone and as a part of a longer text. The Base64 of a shorter
/// one is like a word.
const BASE64_MIN: usize = 4;
const BASE64_PART_MIN: usize = 8;

/// Texts that are replaced.
#[derive(Clone, Default)]
pub struct SecretTexts {
    sets: Vec<Arc<Set>>,
}

/// Texts that are searched together.
#[derive(Default)]
struct Set {
    texts: Vec<String>,
    /// Finds the texts in every spelling; made when it is first needed.
    search: OnceLock<Option<Search>>,
}

impl fmt::Debug for SecretTexts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} secrets", self.iter().count())
    }
}

impl SecretTexts {
    /// Makes the set. Empty texts are left out.
    pub fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts.sort_unstable();
        texts.dedup();
        let is_empty = texts.is_empty();
        let set = Arc::new(Set { texts, search: OnceLock::new() });
        Self { sets: Some(set).filter(|_| !is_empty).into_iter().collect() }
    }

    /// Returns the texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.sets.iter().flat_map(|set| &set.texts).map(String::as_str)
    }

    /// Returns whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Returns the set with further texts.
    #[must_use]
    pub fn with(&self, further: &[String]) -> Self {
        let further = Self::new(further.iter().cloned());
        Self { sets: self.sets.iter().chain(&further.sets).cloned().collect() }
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
        if self.is_empty() {
            return Vec::new();
        }
        let mut found = self.find_as_it_is(text.as_bytes());
        let mut views: Vec<Unescaped> = Vec::new();
        while views.len() < DEPTH
            && let Some(view) = Unescaped::of(views.last().map_or(text.as_bytes(), |view| &view.text))
        {
            let in_view = self.find_as_it_is(&view.text).into_iter();
            let in_text =
                |range| views.iter().rev().fold(view.original(range), |range, view| view.original(range));
            found.extend(in_view.map(in_text));
            views.push(view);
        }
        // What was not compared can end within a character.
        for range in &mut found {
            range.start = (0..=range.start).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            range.end = (range.end..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(text.len());
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

    fn find_as_it_is(&self, text: &[u8]) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        for set in &self.sets {
            if let Some(search) = set.search.get_or_init(|| Search::of(&set.texts)) {
                search.find(text, &mut found);
            }
        }
        found
    }
}

/// Finds texts.
struct Search {
    /// Finds the beginnings.
    anchors: AhoCorasick,
    /// The texts with each beginning, the longest first.
    spellings: Vec<Vec<String>>,
}

impl Search {
    /// Returns what finds secrets in every spelling. `None` if there are none.
    fn of(secrets: &[String]) -> Option<Self> {
        let mut by_anchor: BTreeMap<Vec<u8>, Vec<String>> = BTreeMap::new();
        for spelling in secrets.iter().flat_map(|secret| spellings(secret)) {
            let anchor = &spelling.as_bytes()[..spelling.len().min(ANCHOR)];
            by_anchor.entry(anchor.to_vec()).or_default().push(spelling);
        }
        for spellings in by_anchor.values_mut() {
            spellings.sort_unstable_by_key(|spelling| std::cmp::Reverse(spelling.len()));
            spellings.dedup();
        }
        // A DFA would be faster, and takes a KiB for each byte of a text.
        let kind = Some(AhoCorasickKind::ContiguousNFA);
        let anchors = AhoCorasick::builder().kind(kind).build(by_anchor.keys());
        let anchors = anchors.ok().filter(|_| !by_anchor.is_empty())?;
        Some(Self { anchors, spellings: by_anchor.into_values().collect() })
    }

    /// Adds where the texts are, also those that begin within another one. They may overlap.
    fn find(&self, text: &[u8], found: &mut Vec<Range<usize>>) {
        let mut left = COMPARED_MIN + COMPARED * text.len();
        for anchor in self.anchors.find_overlapping_iter(text) {
            let start = anchor.start();
            for spelling in &self.spellings[anchor.pattern().as_usize()] {
                let end = start + spelling.len();
                let known = found.last_mut().filter(|last| (last.start..last.end).contains(&start));
                if end > text.len() || known.as_ref().is_some_and(|last| end <= last.end) {
                    continue;
                }
                let is_compared = left >= spelling.len();
                left -= spelling.len().min(left);
                if is_compared && text[start..end] != *spelling.as_bytes() {
                    continue;
                }
                match known {
                    Some(last) => last.end = end,
                    None => found.push(start..end),
                }
                break;
            }
        }
    }
}

/// Returns a secret as it can occur in a text without escapes.
fn spellings(secret: &str) -> Vec<String> {
    let mut spellings = vec![secret.to_owned()];
    // A form has a plus for each space.
    spellings.extend(secret.contains(' ').then(|| secret.replace(' ', "+")));
    let mut unescaped = Unescaped::of(secret.as_bytes());
    for _ in 0..DEPTH {
        let Some(view) = unescaped else { break };
        // Not a word, and not a part of a character.
        let text = std::str::from_utf8(&view.text).ok().filter(|text| text.len() >= BASE64_PART_MIN);
        spellings.extend(text.map(str::to_owned));
        unescaped = Unescaped::of(&view.text);
    }
    if secret.len() >= BASE64_MIN {
        let whole = STANDARD.encode(secret);
        let unpadded = whole.trim_end_matches('=').to_owned();
        spellings.extend(in_both_alphabets(whole).into_iter().chain(in_both_alphabets(unpadded)));
    }
    if secret.len() >= BASE64_PART_MIN {
        spellings.extend((0..3).flat_map(|before| in_both_alphabets(base64_part(secret, before))));
    }
    spellings
}

/// Returns the characters in which Base64 writes a secret that has `before` bytes, and any number of groups, before it.
/// Those at its ends that depend on other bytes are left out.
fn base64_part(secret: &str, before: usize) -> String {
    let mut encoded = STANDARD.encode([&vec![0; before], secret.as_bytes()].concat());
    encoded.truncate((before + secret.len()) * 8 / 6);
    encoded.split_off((before * 8).div_ceil(6))
}

/// Returns a text of Base64, and the one with the characters that URLs and names of files permit.
fn in_both_alphabets(encoded: String) -> [String; 2] {
    let other = encoded.replace('+', "-").replace('/', "_");
    [encoded, other]
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
        let texts = SecretTexts::new(["a/b\"&Ü+=".to_owned()]);
        let bytes = || "a/b\"&Ü+=".bytes();
        let every = bytes().map(|byte| format!("%{byte:02X}")).collect::<Vec<_>>().concat();
        let every_lower = bytes().map(|byte| format!("%{byte:02x}")).collect::<Vec<_>>().concat();
        for text in [
            "a/b\"&Ü+=",
            "a%2Fb%22%26%C3%9C%2B%3D",
            "a%2fb%22%26%c3%9c%2b%3d",
            // `quote` of Python, `encodeURI` of JavaScript, and a URL in a query.
            "a/b%22%26%C3%9C%2B%3D",
            "a/b%22&%C3%9C+=",
            "a%252Fb%2522%2526%25C3%259C%252B%253D",
            &every,
            &every_lower,
            "a/b\"&amp;Ü+=",
            "a/b&quot;&amp;Ü&#43;&#61;",
            "a&#x2F;b&#34;&#x26;&#220;&#x2b;&equals;",
            "a/b&amp;quot;&amp;amp;Ü+=",
            r#"a\/b\"&Ü+="#,
            r#"a/b\"&Ü+="#,
            r"a/b\u0022\u0026\u00DC\u002B\u003d",
            r"\u0061\u002f\u0062\u0022\u0026\u00dc\u002b\u003d",
            // JSON in JSON, HTML in JSON, and what mixes escapes.
            r#"a/b\\\"\\u0026Ü\\u002b="#,
            r"a/b\u0026quot;\u0026amp;Ü\u0026#43;=",
            r"a\/b%22\u0026Ü%2B&#61;",
        ] {
            let around = format!(r#"{{"key": "{text}", "next\u0021": "\ud83d\ude00 100% &amp; %41"}}"#);
            let hidden = texts.hide(&around);
            let expected = r#"{"key": "***", "next\u0021": "\ud83d\ude00 100% &amp; %41"}"#;
            assert_eq!(hidden.as_deref(), Some(expected), "{text}");
        }
        for text in ["a/b", r"a\", r"\u00", r"\u00zz", r"\ud83d", r"\ud83d\u0041", r"\x41", "Ü\\Ü", ""] {
            assert_eq!(texts.hide(text), None, "{text}");
        }
    }

    #[test]
    fn a_secret_with_escapes_of_its_own_is_known() {
        let texts = SecretTexts::new([r"key%2Fand\u0041-more".to_owned(), "open sesame".to_owned()]);
        for text in [
            r"key%2Fand\u0041-more",
            r"key%252Fand%5Cu0041-more",
            r"key\u00252Fand\\u0041-more",
            r"\u006bey%2Fand\\u0041-more",
            "open+sesame",
            "open%20sesame",
        ] {
            assert_eq!(texts.hide(&format!("<{text}>")).as_deref(), Some("<***>"), "{text}");
        }
    }

    #[test]
    fn a_secret_is_known_in_base64() {
        let secret = "sk-live?>~0123";
        let texts = SecretTexts::new([secret.to_owned()]);
        let hides = |text: &str| texts.hide(text);
        for text in ["c2stbGl2ZT8+fjAxMjM=", "c2stbGl2ZT8-fjAxMjM", r"c2stbGl2ZT8\u002bfjAxMjM%3D"] {
            assert_eq!(hides(&format!("<{text}>")).as_deref(), Some("<***>"), "{text}");
        }
        for before in ["", "u", "us", "user", "{\"k\":\""] {
            for after in ["", ":", "\"}", "..."] {
                let encoded = STANDARD.encode(format!("{before}{secret}{after}"));
                let hidden = hides(&encoded).unwrap_or_else(|| encoded.clone());
                let around = 4 * (before.len() + after.len()).div_ceil(3) + 4;
                assert!(hidden.contains(MASK) && hidden.len() <= MASK.len() + around, "{encoded} {hidden}");
            }
        }
        assert_eq!(hides(&STANDARD.encode("sk-live?>~0023-and-more")), None);
        assert_eq!(SecretTexts::new(["abc".to_owned()]).hide("YWJj"), None, "like a word");
    }

    #[test]
    fn a_secret_that_repeats_itself_takes_limited_work() {
        let (most, other) = ("a".repeat(16 * 1024), format!("{}b", "a".repeat(4 * 1024)));
        let texts = SecretTexts::new([most.clone(), other.clone(), "aaaaaaaa".to_owned()]);
        let hidden = texts.hide(&format!("-{}-{other}-", "a".repeat(256 * 1024))).unwrap_or_default();
        assert!(hidden.starts_with("-***") && !hidden.contains("aaaaaaaa"), "{} bytes", hidden.len());
        assert_eq!(texts.hide(&format!("<{other}>")).as_deref(), Some("<***>"));
        let texts = SecretTexts::new([format!("{most}b"), format!("{}c", &most[..20])]);
        assert!(texts.hide(&format!("{}Ü", "a".repeat(256 * 1024))).is_some(), "the beginning counts");
        assert_eq!(texts.hide(&format!("<{}c>", &most[..20])).as_deref(), Some("<***>"));
        assert_eq!(texts.hide(&"a".repeat(21)), None);
    }

    #[test]
    fn a_hostile_text_is_searched_a_few_times() {
        // Each level is read once more, and the last is not.
        let texts = SecretTexts::new(["hush/0123".to_owned()]);
        let nested = |times: usize| (0..times).fold("%2F".to_owned(), |text, _| text.replacen('%', "%25", 1));
        assert!(texts.hide(&format!("hush{}0123", nested(DEPTH - 1))).is_some());
        assert_eq!(texts.hide(&format!("hush{}0123", nested(DEPTH))), None);
        for part in ["%", "%25", r"\\", "&#", "&amp;", r"\u0025", r"\ud83d\ude00", "%C3", "\u{dc}%9c"] {
            assert_eq!(texts.hide(&part.repeat(20_000)), None, "{part}");
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
