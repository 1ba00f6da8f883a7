//! Rates and sizes, as definitions and the configuration write them.

use std::time::Duration;

/// The greatest count in a rate: above it the word for what is meant is `off`.
const MAX_COUNT: u32 = 1_000_000;

/// The largest answer that a definition may allow. An answer is held in memory, and parsed it takes
/// a multiple of this, for as many looks as are in flight.
const MAX_BODY: usize = 16 * 1024 * 1024;

/// So many requests in so long a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u32,
    /// In how long a time.
    pub per: Duration,
}

/// Reads `10/s`, `600/m`, `3000/h` or `off`, which is `None`. The error is a sentence for people.
pub fn parse_rate(text: &str) -> Result<Option<Rate>, String> {
    if text == "off" {
        return Ok(None);
    }
    let wrong = || format!("`{text}` is not a rate; write it as 10/s, 600/m or off");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    // `parse` alone would read a leading `+`.
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    match count.parse::<u32>().map_err(|_| wrong())? {
        0 => Err(format!("`{text}` would never ask; the least count is 1")),
        count if count > MAX_COUNT => Err(format!("`{text}` is no limit; write off")),
        count => Ok(Some(Rate { count, per: Duration::from_secs(seconds) })),
    }
}

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
    fn rates_are_read_as_the_contract_writes_them() {
        let rate = |count, seconds| Ok(Some(Rate { count, per: Duration::from_secs(seconds) }));
        assert_eq!(parse_rate("10/s"), rate(10, 1));
        assert_eq!(parse_rate("600/m"), rate(600, 60));
        assert_eq!(parse_rate("3000/h"), rate(3000, 3600));
        assert_eq!(parse_rate("off"), Ok(None));
        for text in ["", "10", "/s", "0/s", "-1/s", "+1/s", "1.5/s", "10/d", "10 / s", "2000000/s", "OFF"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_a_unit_and_a_greatest_value() {
        assert_eq!(parse_size("1MiB"), Ok(1_048_576));
        assert_eq!(parse_size("64KiB"), Ok(65_536));
        for text in ["", "1", "1MB", "0KiB", "17MiB", "99999999999999999999MiB", "-1KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
