//! The tables `[poll]` and `[limits]`.

use std::time::Duration;

use super::reader::{Report, TableReader};
use crate::domain::{Limits, PollPolicy, Rate, parse_duration, parse_rate};

/// Longest deadline: no watch lives longer.
const MAX_DEADLINE: Duration = Duration::from_secs(30 * 86_400);

/// Largest concurrency and burst. More requests at once would be a load test.
const MAX_CONCURRENCY: u32 = 10_000;

/// Reads a duration of an optional key. A mistake counts as the default.
pub(super) fn duration(table: Option<&TableReader<'_>>, name: &'static str, default: u64) -> Duration {
    let form = "a duration in quotes, such as \"5s\" or \"2h\"";
    let given = table.and_then(|table| table.get(name)).and_then(|node| node.parsed(form, parse_duration));
    given.unwrap_or(Duration::from_secs(default))
}

/// Reads `[poll]`.
pub(super) fn poll(
    table: Option<&TableReader<'_>>,
    not_found_grace: Duration,
    report: &Report<'_>,
) -> PollPolicy {
    let before = report.count();
    let poll = PollPolicy {
        first: duration(table, "first", 5),
        min_interval: duration(table, "min_interval", 1),
        max_interval: duration(table, "max_interval", 60),
        deadline: duration(table, "deadline", 24 * 3600),
        not_found_grace,
        price: duration(table, "price", 5),
    };
    let PollPolicy { first, min_interval, max_interval, deadline, .. } = poll;
    let wrong = |key: &'static str, sentence: &str| match table {
        Some(table) => table.wrong_key(key, sentence),
        None => report.add(0, format!("poll.{key}: {sentence}")),
    };
    // The default values are consistent with each other, but a value with a mistake is not known.
    if report.count() == before {
        if min_interval > max_interval {
            wrong("min_interval", "must not be greater than poll.max_interval");
        }
        if !(first..=MAX_DEADLINE).contains(&deadline) {
            wrong("deadline", "must be between poll.first and 30d");
        }
        if not_found_grace > deadline {
            report.add(
                table.map_or(0, |table| table.at),
                "not_found.grace: must not be longer than poll.deadline",
            );
        }
    }
    poll
}

/// Reads `[limits]`.
pub(super) fn limits(table: Option<&TableReader<'_>>) -> Limits {
    let form = "a rate in quotes, such as \"10/s\" or \"600/m\", or \"off\"";
    let rate = table.and_then(|table| table.get("rate")).and_then(|node| node.parsed(form, parse_rate));
    let count = |name: &'static str| {
        let node = table.and_then(|table| table.get(name))?;
        let count = node.integer()?;
        let count = u32::try_from(count).ok().filter(|count| (1..=MAX_CONCURRENCY).contains(count));
        if count.is_none() {
            node.wrong(format!("must be between 1 and {MAX_CONCURRENCY}"));
        }
        count
    };
    Limits {
        rate: rate.unwrap_or(Rate { spacing: Some(Duration::from_secs(1)) }),
        burst: count("burst").unwrap_or(1),
        concurrency: count("concurrency").unwrap_or(4),
    }
}
