//! Secrets as they can occur in texts, and their replacement.

use std::cmp::Reverse;

use serde_json::Value;

use super::template::percent_encode;

/// Text that stands for a secret.
pub(super) const MASK: &str = "***";

/// Texts that are replaced: without duplicates, and the longest first, because a longer one can contain a shorter one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SecretTexts(Vec<String>);

impl SecretTexts {
    /// Makes the set. Empty texts are left out.
    pub(super) fn new(texts: impl IntoIterator<Item = String>) -> Self {
        let mut texts: Vec<String> = texts.into_iter().filter(|text| !text.is_empty()).collect();
        texts
            .sort_by(|one, other| Reverse(one.len()).cmp(&Reverse(other.len())).then_with(|| one.cmp(other)));
        texts.dedup();
        Self(texts)
    }

    /// Returns the texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }

    /// Returns whether there is no text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the set with further texts.
    #[must_use]
    pub fn with(&self, further: &[String]) -> Self {
        Self::new(self.0.iter().chain(further).cloned())
    }

    /// Returns `text` with `***` in place of each secret; `None` if it has none.
    pub fn hide(&self, text: &str) -> Option<String> {
        let mut hidden = None;
        for secret in self.iter() {
            let current = hidden.as_deref().unwrap_or(text);
            if current.contains(secret) {
                hidden = Some(current.replace(secret, MASK));
            }
        }
        hidden
    }
}

/// Returns a secret as URLs, JSON and HTML spell it.
pub(super) fn spellings(secret: &str) -> [String; 5] {
    let escaped = percent_encode(secret);
    let lower = lower_escapes(&escaped);
    let json = Value::from(secret).to_string();
    let json = json.trim_matches('"').to_owned();
    let html = secret.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    [escaped, lower, json.replace('/', "\\/"), json, html]
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
        let found = spellings("a/b\"&Ü");
        for expected in ["a%2Fb%22%26%C3%9C", "a%2fb%22%26%c3%9c", r#"a\/b\"&Ü"#, r#"a/b\"&Ü"#, "a/b\"&amp;Ü"]
        {
            assert!(found.iter().any(|text| text == expected), "{expected}: {found:?}");
        }
    }
}
