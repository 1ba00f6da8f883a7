//! Sizes, as definitions write them.

/// The largest answer that a definition may allow. An answer is held in memory, and parsed it takes
/// a multiple of this, for as many looks as are in flight.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// Reads `64KiB` or `1MiB`. The error is a sentence for people.
pub(super) fn parse_size(text: &str) -> Result<usize, String> {
    let wrong = || format!("`{text}` is not a size from 1KiB to 16MiB; write it as 64KiB or 1MiB");
    let (number, unit) = match (text.strip_suffix("KiB"), text.strip_suffix("MiB")) {
        (Some(number), _) => (number, 1024),
        (_, Some(number)) => (number, 1024 * 1024),
        (None, None) => return Err(wrong()),
    };
    let number: usize = number.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).filter(|size| (1024..=MAX_BODY).contains(size)).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit_and_a_greatest_value() {
        assert_eq!(parse_size("1MiB"), Ok(1_048_576));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        for text in ["", "1", "1MB", "0KiB", "17MiB", "99999999999999999999MiB", "-1KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
