//! Suggestions for misspelt words, for error messages.

/// Returns the known word with the smallest edit distance to `word`, and that distance.
pub fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<(usize, &'w str)> {
    known.map(|candidate| (strsim::levenshtein(word, candidate), candidate)).min_by_key(|(edits, _)| *edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_word_with_the_fewest_edits_is_suggested() {
        let known = ["listen", "log", "store"];
        assert_eq!(nearest("listn", known.into_iter()), Some((1, "listen")));
        assert_eq!(nearest("", known.into_iter()), Some((3, "log")));
        assert_eq!(nearest("listn", [].into_iter()), None);
    }
}
