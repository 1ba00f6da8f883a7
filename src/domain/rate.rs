//! Rates, as definitions and the configuration write them.

use std::time::Duration;

use super::format_duration;

/// Largest count of a rate. `off` means no limit.
const COUNT_MAX: u32 = 1_000_000;

/// Units, the shortest first.
const UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3600))];

/// A limit of a number of actions in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rate {
    /// No limit.
    #[default]
    Off,
    /// `count` actions in `per`.
    Limit {
        /// Number of actions; at least 1.
        count: u32,
        /// A second, a minute or an hour.
        per: Duration,
    },
}

impl Rate {
    /// Returns the time between two actions; `None` for no limit.
    pub fn spacing(self) -> Option<Duration> {
        match self {
            Self::Off => None,
            Self::Limit { count, per } => Some(per / count),
        }
    }
}

/// Parses `10/s`, `600/m`, `3000/h` or `off`. The error is a sentence.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "off" {
        return Ok(Rate::Off);
    }
    let wrong = || format!("`{text}` is not a rate; write it as 10/s, 600/m, 3000/h or off");
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, per) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    // `parse` alone would read a leading `+`.
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    match count.parse::<u32>().map_err(|_| wrong())? {
        0 => Err(format!("`{text}` allows nothing; the smallest count is 1")),
        count if count > COUNT_MAX => Err(format!("`{text}` is more than 1000000; write off for no limit")),
        count => Ok(Rate::Limit { count, per }),
    }
}

/// Formats the time between two actions as a rate, in the shortest exact unit.
pub fn format_rate(interval: Duration) -> String {
    let whole = |per: Duration| {
        // The time is the result of an integer division.
        let count = (per.as_nanos() + interval.as_nanos() / 2).checked_div(interval.as_nanos())?;
        let count = u32::try_from(count).ok().filter(|count| *count > 0)?;
        (per / count == interval).then_some(count)
    };
    let written = UNITS.into_iter().find_map(|(unit, per)| Some(format!("{}/{unit}", whole(per)?)));
    written.unwrap_or_else(|| format!("1 in {}", format_duration(interval)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_in_a_second_a_minute_or_an_hour_or_off() {
        let rate = |count, seconds| Ok(Rate::Limit { count, per: Duration::from_secs(seconds) });
        assert_eq!(parse_rate("10/s"), rate(10, 1));
        assert_eq!(parse_rate("600/m"), rate(600, 60));
        assert_eq!(parse_rate("3000/h"), rate(3000, 3600));
        assert_eq!(parse_rate("1000000/h"), rate(1_000_000, 3600));
        assert_eq!(parse_rate("off"), Ok(Rate::Off));
        for text in [
            "",
            "10",
            "10/",
            "/s",
            "0/s",
            "-1/s",
            "+1/s",
            "1.5/s",
            "10/d",
            "10 / s",
            "10/s/s",
            "2000000/s",
            "999999999999/s",
            "OFF",
        ] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rate_is_written_in_the_shortest_exact_unit() {
        for (given, written) in [
            ("10/s", "10/s"),
            ("600/m", "10/s"),
            ("90/m", "90/m"),
            ("1/m", "1/m"),
            ("1/h", "1/h"),
            ("7/h", "7/h"),
            ("3600/h", "1/s"),
            ("1000000/s", "1000000/s"),
        ] {
            let spacing = parse_rate(given).expect("a rate").spacing();
            assert_eq!(spacing.map(format_rate).as_deref(), Some(written));
        }
    }
}
