//! Which word was meant: for messages that name the nearest one that is known.

/// The word that takes the fewest edits, and how many.
pub fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<(usize, &'w str)> {
    known.map(|one| (edits(word, one), one)).min_by_key(|(edits, _)| *edits)
}

/// How many letters have to be added, dropped or changed to make `b` of `a` (Levenshtein), row by row.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let changed = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_counted_letter_by_letter() {
        let table =
            [("", "", 0), ("", "abc", 3), ("listn", "listen", 1), ("kitten", "sitting", 3), ("ab", "ba", 2)];
        for (a, b, count) in table {
            assert_eq!(edits(a, b), count, "{a} {b}");
            assert_eq!(edits(b, a), count, "{b} {a}");
        }
    }
}
