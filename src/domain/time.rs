//! Times, durations and rates, as the API, definitions and the configuration write them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Deserializer};
use utoipa::openapi::schema::{KnownFormat, SchemaFormat};

use super::text::shown;

/// A time in milliseconds since 1970, UTC. It is written in RFC 3339 with milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

/// Oldest plausible age of a provider's time: providers delete jobs within weeks or months.
const AGE_MAX: Duration = Duration::from_secs(366 * 86_400);

/// Largest plausible distance of a provider's time in the future: clocks differ, and some providers write local times
/// as UTC.
const AHEAD_MAX: Duration = Duration::from_secs(86_400);

/// Number of seconds of a `Retry-After` that no integer of 64 bits holds.
const DIGITS_OVERFLOW: f64 = 18_446_744_073_709_551_616.0;

/// Smallest number of seconds of a `Retry-After` that is a time since 1970 and not a span of 31 years.
const EPOCH_SECONDS_MIN: f64 = 1e9;

impl Timestamp {
    /// Largest time: the start of the last year that RFC 3339 can express.
    pub const MAX: Self = Self(253_370_764_800_000);

    /// Returns the time with this number of milliseconds since 1970.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Returns the milliseconds since 1970.
    pub const fn millis(self) -> i64 {
        self.0
    }

    /// Returns the whole seconds since 1970.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// The bounds of a time, for an error.
    pub const BOUNDS: &str = "from 1970-01-01T00:00:00Z to 9999-01-01T00:00:00Z";

    /// Parses RFC 3339 with any offset and fraction. Returns `None` for anything else, and for a time outside of
    /// [`Self::BOUNDS`]. A leap second counts as the second before it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::read(text).ok()
    }

    /// Does the same, and says what is wrong.
    pub fn read(text: &str) -> Result<Self, TimeError> {
        let text = &*shorten_fraction(text.trim());
        let pieces = Pieces::parse(text).map_err(|_| TimeError::Form)?;
        let offset = pieces.to_numeric_offset().ok_or(TimeError::Form)?.seconds();
        pieces.time().ok_or(TimeError::Form)?;
        // The library has no moment for the last day of the year 9999.
        let moment: jiff::Timestamp = text.parse().map_err(|_| TimeError::Range)?;
        // The library reads offsets of up to 25:59:59, and a second 60 at any time.
        let is_leap_second = |at: usize| at >= 3 && text.as_bytes()[at - 3] == b':';
        let is_at_midnight = moment.as_second().rem_euclid(86_400) == 86_399;
        if offset.abs() >= 86_400
            || !is_at_midnight && text.match_indices(":60").any(|(at, _)| is_leap_second(at))
        {
            return Err(TimeError::Form);
        }
        // Before 1970, the milliseconds are rounded up.
        let is_after_start = moment >= jiff::Timestamp::UNIX_EPOCH;
        let millis = Some(moment.as_millisecond()).filter(|millis| is_after_start && *millis <= Self::MAX.0);
        millis.map(Self).ok_or(TimeError::Range)
    }

    /// Returns the time `span` later, at most [`Self::MAX`].
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        let span = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Self(self.0.saturating_add(span).min(Self::MAX.0))
    }

    /// Returns the time `span` earlier.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(span.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Returns whether a provider can mean this time: at most [`AGE_MAX`] before and [`AHEAD_MAX`] after `now`. Zero
    /// times (1970-01-01, year 1), sentinels such as 9999-12-31 and seconds that are read as milliseconds are
    /// outside of this range.
    pub fn is_plausible(self, now: Self) -> bool {
        (now.minus(AGE_MAX)..=now.plus(AHEAD_MAX)).contains(&self)
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// Why a text is no [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeError {
    /// It is not RFC 3339.
    Form,
    /// It is outside of [`Timestamp::BOUNDS`].
    Range,
}

/// Maximum number of digits of a fraction that the library reads.
const FRACTION_MAX: usize = 9;

/// Returns the text without the digits of a fraction after [`FRACTION_MAX`].
fn shorten_fraction(text: &str) -> Cow<'_, str> {
    let Some(start) = text.find(['.', ',']).map(|at| at + 1) else { return text.into() };
    let digits = text[start..].bytes().take_while(u8::is_ascii_digit).count();
    if digits <= FRACTION_MAX {
        return text.into();
    }
    format!("{}{}", &text[..start + FRACTION_MAX], &text[start + digits..]).into()
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(moment) => write!(f, "{moment:.3}"),
            Err(_) => write!(f, "{}ms", self.0),
        }
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

json_string! {
    Timestamp {
        format: SchemaFormat::KnownFormat(KnownFormat::DateTime),
        description: "RFC 3339, UTC, with milliseconds".to_owned()
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| serde::de::Error::custom("not an RFC 3339 time"))
    }
}

/// Units of a duration in milliseconds, the longest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The duration of one that is too long: 100 years.
const DURATION_MAX: Duration = Duration::from_secs(100 * 366 * 86_400);

/// Parses a duration: `250ms`, `5s`, `10m`, `2h` or `30d`, a whole number of at least 1 ms. The error is a sentence.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    match parse_any_duration(text)? {
        Duration::ZERO => Err(format!("`{}` is too short; the shortest duration is 1ms", shown(text))),
        DURATION_MAX => Err(format!("`{}` is too long", shown(text))),
        span => Ok(span),
    }
}

/// Parses a duration that can be zero, or too long, for a caller with bounds of its own. One that is too long is
/// [`DURATION_MAX`].
pub fn parse_any_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{}` is not a duration; write it as 250ms, 5s, 10m, 2h or 30d", shown(text));
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let (_, unit_millis) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    if number.is_empty() {
        return Err(wrong());
    }
    // Digits that are no number are too many.
    let number = number.parse().unwrap_or(u64::MAX);
    Ok(Duration::from_millis(number.saturating_mul(unit_millis)).min(DURATION_MAX))
}

/// Formats a duration in the largest exact unit.
pub fn format_duration(span: Duration) -> String {
    let millis = span.as_millis();
    let is_exact = |size: u64| millis >= size.into() && millis.is_multiple_of(size.into());
    let (unit, size) = UNITS.into_iter().find(|(_, size)| is_exact(*size)).unwrap_or(("ms", 1));
    format!("{}{unit}", millis / u128::from(size))
}

/// Parses a `Retry-After` header, in seconds (whole or not) or as an HTTP date, as a span from `now`. Some services
/// send the seconds since 1970 instead. A number with too many digits is the longest span. Two servers in a row may each
/// add a header, which a third one joins to a list: its longest member counts, because each of them requests to wait.
/// Returns `None` for anything else and for a time in the past. The caller limits the span.
pub fn parse_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    // A date contains a comma itself.
    let commas = text.match_indices(',').map(|(at, _)| at);
    let starts = std::iter::once(0).chain(commas.clone().map(|at| at + 1));
    let ends: Vec<usize> = commas.chain([text.len()]).collect();
    let members = starts.enumerate().flat_map(|(n, start)| {
        let ends = ends.iter().skip(n).take(2);
        ends.filter_map(move |end| parse_one_retry_after(&text[start..*end], now))
    });
    members.max()
}

/// Parses a single value of `Retry-After`.
fn parse_one_retry_after(text: &str, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if !plain || seconds < 0.0 {
            return None;
        }
        let span = Duration::from_secs_f64(seconds.min(1e12));
        // No clock gives that many milliseconds or nanoseconds: it means "never".
        if !(EPOCH_SECONDS_MIN..DIGITS_OVERFLOW).contains(&seconds) {
            return Some(span);
        }
        let at = Timestamp::default().plus(span);
        return (at > now && at.is_plausible(now)).then(|| at.since(now));
    }
    parse_http_date(text).filter(|date| *date > now).map(|date| date.since(now))
}

/// Parses a date of HTTP, such as `Mon, 23 Nov 2026 19:16:27 GMT`.
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let date = httpdate::parse_http_date(text).ok()?;
    let millis = date.duration_since(std::time::UNIX_EPOCH).ok()?.as_millis();
    Some(Timestamp::from_millis(i64::try_from(millis).ok()?))
}

/// Largest count of a rate. `off` means no limit.
const COUNT_MAX: u32 = 1_000_000;

/// Units of a rate, the shortest first.
const RATE_UNITS: [(&str, Duration); 3] =
    [("s", Duration::from_secs(1)), ("m", Duration::from_secs(60)), ("h", Duration::from_secs(3600))];

/// A limit of a number of actions in a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Time between two actions; `None` for no limit.
    pub spacing: Option<Duration>,
}

/// Parses `10/s`, `600/m`, `3000/h` or `off`. The error is a sentence.
pub fn parse_rate(text: &str) -> Result<Rate, String> {
    if text == "off" {
        return Ok(Rate { spacing: None });
    }
    let wrong = || format!("`{}` is not a rate; write it as 10/s, 600/m, 3000/h or off", shown(text));
    let (count, unit) = text.split_once('/').ok_or_else(wrong)?;
    let (_, per) = RATE_UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
    // `parse` alone would read a leading `+`.
    if !count.bytes().all(|b| b.is_ascii_digit()) {
        return Err(wrong());
    }
    match count.parse::<u32>().map_err(|_| wrong())? {
        0 => Err(format!("`{}` allows nothing; the smallest count is 1", shown(text))),
        count if count > COUNT_MAX => {
            Err(format!("`{}` is more than 1000000; write off for no limit", shown(text)))
        }
        count => Ok(Rate { spacing: Some(per / count) }),
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
    let written = RATE_UNITS.into_iter().find_map(|(unit, per)| Some(format!("{}/{unit}", whole(per)?)));
    written.unwrap_or_else(|| format!("1 in {}", format_duration(interval)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").unwrap_or_default();
        let table = [
            ("0", Some(0)),
            ("120", Some(120_000)),
            (" 1.5 ", Some(1_500)),
            ("Wed, 18 Feb 2026 15:02:00 GMT", Some(120_000)),
            ("Wed, 18 Feb 2026 14:02:00 GMT", None),
            ("Thu, 01 Jan 1970 00:00:00 GMT", None),
            ("999999999", Some(999_999_999_000)),
            ("1771426920", Some(120_000)),
            ("1771426740", None),
            ("1771426920000", None),
            ("1771426920000000000", None),
            ("99999999999999999999", Some(1_000_000_000_000_000)),
            (&"9".repeat(400), Some(1_000_000_000_000_000)),
            ("-1", None),
            ("NaN", None),
            ("inf", None),
            ("1e3", None),
            ("soon", None),
            ("", None),
            ("600, 10", Some(600_000)),
            ("10,600", Some(600_000)),
            ("soon, 10,", Some(10_000)),
            (",", None),
            ("soon, later", None),
            ("5, Wed, 18 Feb 2026 15:02:00 GMT, 7", Some(120_000)),
            ("300, Wed, 18 Feb 2026 14:02:00 GMT", Some(300_000)),
            ("Wed, 18 Feb 2026 15:02:00 GMT, Wed, 18 Feb 2026 15:03:00 GMT", Some(180_000)),
            ("Wednesday, 18-Feb-26 15:02:00 GMT", Some(120_000)),
        ];
        for (text, millis) in table {
            let read = parse_retry_after(text, now).map(|span| span.as_millis());
            assert_eq!(read, millis, "{text}");
        }
    }

    // Public report: influxdata/influxdb#13511.
    #[test]
    fn a_time_is_plausible_for_a_year_back_and_a_day_ahead() {
        let now = Timestamp::parse("2026-02-18T15:00:00Z").unwrap_or_default();
        for (text, plausible) in [
            ("1970-01-01T00:00:00Z", false),
            ("1970-01-21T12:03:46Z", false),
            ("2001-01-01T00:00:00Z", false),
            ("2025-02-17T14:59:59Z", false),
            ("2025-02-17T15:00:00Z", true),
            ("2026-02-18T15:00:00Z", true),
            ("2026-02-19T15:00:00Z", true),
            ("2026-02-19T15:00:01Z", false),
            ("9998-12-31T23:59:59Z", false),
        ] {
            assert_eq!(Timestamp::parse(text).map(|at| at.is_plausible(now)), Some(plausible), "{text}");
        }
        assert!(Timestamp::default().is_plausible(Timestamp::default()));
    }

    #[test]
    fn times_are_written_in_utc_with_milliseconds() {
        let table = [
            ("2026-02-18T15:00:00Z", "2026-02-18T15:00:00.000Z"),
            ("2026-02-18T15:00:00.1239Z", "2026-02-18T15:00:00.123Z"),
            ("2026-02-18T15:00:00.123999999999999Z", "2026-02-18T15:00:00.123Z"),
            ("2026-02-18T17:00:00.0000000000000000000001+02:00", "2026-02-18T15:00:00.000Z"),
            ("2026-02-18T17:00:00+02:00", "2026-02-18T15:00:00.000Z"),
            ("2026-02-19T14:59:00+23:59", "2026-02-18T15:00:00.000Z"),
            // A leap second is always the last one of a day in UTC.
            ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z"),
            ("2017-01-01T05:29:60.5+05:30", "2016-12-31T23:59:59.500Z"),
        ];
        for (given, written) in table {
            assert_eq!(Timestamp::parse(given).map(|t| t.to_string()).as_deref(), Some(written));
        }
        for given in [
            "",
            "yesterday",
            "2026-02-18",
            "2026-02-18T15:00:00",
            "1771426800",
            "2026-02-18T15:00:00+24:00",
            "2026-02-18T15:00:00-25:00",
            "2026-02-18T15:00:60Z",
            "2026-02-18T23:59:60+01:00",
        ] {
            assert_eq!(Timestamp::parse(given), None, "{given}");
        }
        assert_eq!(Timestamp::MAX.to_string(), "9999-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_time_outside_of_the_bounds_is_not_called_malformed() {
        for text in [
            "9999-12-31T23:59:59Z",
            "9999-01-01T00:00:00.001Z",
            "1969-12-31T23:59:59Z",
            "1969-12-31T23:59:59.9999Z",
            "1970-01-01T00:00:00+00:01",
            "0001-01-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::read(text), Err(TimeError::Range), "{text}");
        }
        for text in ["", "9999-12-31", "9999-12-31T23:59:59", "9999-13-31T23:59:59Z", "12026-01-01T00:00:00Z"]
        {
            assert_eq!(Timestamp::read(text), Err(TimeError::Form), "{text}");
        }
        let bounds = [Timestamp::default(), Timestamp::MAX].map(|at| at.to_string().replace(".000", ""));
        assert_eq!(Timestamp::BOUNDS, format!("from {} to {}", bounds[0], bounds[1]));
        for at in [Timestamp::default(), Timestamp::MAX] {
            assert_eq!(Timestamp::read(&at.to_string()), Ok(at));
        }
    }

    #[test]
    fn durations_are_parsed_as_documented() {
        for (text, millis) in [("250ms", 250), ("5s", 5_000), ("10m", 600_000), ("2h", 7_200_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)));
            assert_eq!(format_duration(Duration::from_millis(millis)), text);
        }
        for text in ["", "5", "s", "0s", "-1s", "1.5s", "5 s", "5S", "9999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert_eq!(parse_any_duration("0h"), Ok(Duration::ZERO));
        for text in ["9999999999999d", "99999999999999999999999s", "36600d"] {
            assert_eq!(parse_any_duration(text), Ok(DURATION_MAX), "{text}");
            assert!(parse_duration(text).is_err_and(|why| why.ends_with("is too long")), "{text}");
        }
    }

    #[test]
    fn a_rate_is_a_number_in_a_second_a_minute_or_an_hour_or_off() {
        let rate = |count, seconds| Ok(Rate { spacing: Some(Duration::from_secs(seconds) / count) });
        assert_eq!(parse_rate("10/s"), rate(10, 1));
        assert_eq!(parse_rate("600/m"), rate(600, 60));
        assert_eq!(parse_rate("3000/h"), rate(3000, 3600));
        assert_eq!(parse_rate("1000000/h"), rate(1_000_000, 3600));
        assert_eq!(parse_rate("off"), Ok(Rate { spacing: None }));
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
            let spacing = parse_rate(given).expect("a rate").spacing;
            assert_eq!(spacing.map(format_rate).as_deref(), Some(written));
        }
    }
}
