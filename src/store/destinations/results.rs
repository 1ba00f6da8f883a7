//! What the attempts to saved destinations show: their health, and that they have to be disabled.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, StoreError, Tx, params, row_sql};
use super::super::reads::{INTERNAL, ReadStore};
use super::sweep;
use super::transitions::{Transition, note_exhausted, raise_transitions, recover};
use crate::domain::{
    AppNo, Attempt, DestinationId, DisabledReason, DispatcherMessage, EventType, FAILING_AFTER,
    FAILING_ATTEMPTS, SavedNo, Timestamp, duration_bucket, parse_rate,
};

/// Length of an hour.
const HOUR: Duration = Duration::from_secs(3600);

/// Time for which attempts are counted.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Maximum length of a shown error, in characters.
const ERROR_MAX: usize = 300;

/// The result of an attempt to a saved destination.
#[derive(Clone, Copy, Debug)]
pub struct SavedResult<'a> {
    /// The destination.
    pub no: SavedNo,
    /// Name of its queue.
    pub queue: &'a str,
    /// The attempt.
    pub attempt: &'a Attempt,
    /// Whether it succeeded.
    pub is_success: bool,
    /// Whether it was the last attempt of its delivery.
    pub is_exhausted: bool,
    /// Whether it delivers an event of a watch. Other attempts raise no event.
    pub is_of_watch: bool,
}

/// The last attempt to a saved destination with a rate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastAttempt {
    /// Name of its queue.
    pub queue: String,
    /// Time between two attempts.
    pub spacing: Duration,
    /// Time of the attempt.
    pub at: Timestamp,
}

/// An attempt that shows that a saved destination accepts nothing any more.
#[derive(Clone, Copy, Debug)]
pub struct GoneResult<'a> {
    /// Name of its queue.
    pub queue: &'a str,
    /// The attempt.
    pub attempt: &'a Attempt,
    /// Whether it delivers an event of a watch.
    pub is_of_watch: bool,
}

/// What the attempts of one transaction show about one destination.
struct Summary<'a> {
    queue: &'a str,
    has_success: bool,
    /// Time of the last success that delivers an event of a watch.
    recovered_at: Option<Timestamp>,
    /// Last attempts of deliveries of watches that failed, before and after that success: the last of each.
    exhausted: [Option<&'a Attempt>; 2],
    /// Whether a failure after the last success belongs to an event of a watch.
    is_of_watch: bool,
    /// Number of failures after the last success, with the time of the first and of the last, and the last error.
    failures: u32,
    first: Timestamp,
    last: Timestamp,
    error: String,
}

/// Returns the beginning of the hour of a time.
fn hour_of(at: Timestamp) -> i64 {
    let hour = i64::try_from(HOUR.as_millis()).unwrap_or(i64::MAX);
    at.millis() - at.millis().rem_euclid(hour)
}

/// Returns the error of an attempt, or else its HTTP status.
pub fn error_of(attempt: &Attempt) -> String {
    let status = || attempt.status_code.map(|status| format!("HTTP {status}")).unwrap_or_default();
    let error = attempt.error.clone().unwrap_or_else(status);
    match error.char_indices().nth(ERROR_MAX) {
        Some((end, _)) => format!("{}…", &error[..end]),
        None => error,
    }
}

/// Counts attempts, and disables destinations whose attempts have failed for too long. A disabled destination has a
/// sweep again if a delivery may have become pending.
pub fn record_results(batch: &mut Batch<'_>, results: &[SavedResult<'_>]) -> Result<()> {
    if results.is_empty() {
        return Ok(());
    }
    let mut counts: BTreeMap<(SavedNo, i64, u8), (u32, u32)> = BTreeMap::new();
    let mut summaries: BTreeMap<SavedNo, Summary<'_>> = BTreeMap::new();
    let mut by_time: Vec<&SavedResult<'_>> = results.iter().collect();
    by_time.sort_by_key(|result| result.attempt.at);
    for SavedResult { no, queue, attempt, is_success, is_exhausted, is_of_watch } in by_time {
        let (succeeded, failed) =
            counts.entry((*no, hour_of(attempt.at), duration_bucket(attempt.duration_ms))).or_default();
        let summary = summaries.entry(*no).or_insert_with(|| Summary {
            queue,
            has_success: false,
            recovered_at: None,
            exhausted: [None; 2],
            is_of_watch: false,
            failures: 0,
            first: attempt.at,
            last: attempt.at,
            error: String::new(),
        });
        if *is_success {
            *succeeded += 1;
            (summary.has_success, summary.failures, summary.is_of_watch) = (true, 0, false);
            if *is_of_watch {
                summary.recovered_at = Some(attempt.at);
                summary.exhausted = [summary.exhausted[1].take().or(summary.exhausted[0]), None];
            }
        } else {
            *failed += 1;
            if summary.failures == 0 {
                summary.first = attempt.at;
            }
            summary.failures += 1;
            (summary.last, summary.error) = (attempt.at, error_of(attempt));
            summary.is_of_watch |= is_of_watch;
            if *is_exhausted && *is_of_watch {
                summary.exhausted[1] = Some(*attempt);
            }
        }
    }
    batch.tx.insert_each(
        row_sql!(
            "insert into destination_hours (destination, hour, bucket, succeeded, failed)"
            values ("$1, $2, $3, $4, $5")
            "on conflict (destination, hour, bucket) do update set
               succeeded = destination_hours.succeeded + excluded.succeeded,
               failed = destination_hours.failed + excluded.failed"
        ),
        counts
            .iter()
            .map(|((no, hour, bucket), (succeeded, failed))| params![no, hour, bucket, succeeded, failed]),
    )?;
    note_last_attempts(&batch.tx, results)?;
    note_successes(batch, &summaries)?;
    note_failures(batch, &summaries)
}

/// Notes the time of the last attempt to each destination with a rate. A time far in the future shows that the clock was
/// set back.
fn note_last_attempts(tx: &Tx<'_>, results: &[SavedResult<'_>]) -> Result<()> {
    let mut last: BTreeMap<SavedNo, Timestamp> = BTreeMap::new();
    for SavedResult { no, attempt, .. } in results {
        let last = last.entry(*no).or_insert(attempt.at);
        *last = attempt.at.max(*last);
    }
    tx.update_each(
        row_sql!(
            "update destinations set last_attempt_at = $1"
            where "no = $2 and rate is not null
                   and (last_attempt_at is null or last_attempt_at < $1 or last_attempt_at > $3)"
        ),
        last.iter().map(|(no, at)| params![*at, *no, at.plus(HOUR)]),
    )?;
    Ok(())
}

impl ReadStore {
    /// Returns the last attempts to the saved destinations whose rate permits no further attempt at the time `now`.
    pub async fn last_attempts(&self, now: Timestamp) -> Result<Vec<LastAttempt>> {
        self.read(INTERNAL, move |tx| {
            let found = tx.list(
                "select app, id, rate, last_attempt_at from destinations
                 where rate is not null and last_attempt_at is not null and deleted_at is null",
                [],
                |row| {
                    let queue = DestinationId(row.id(1)?).queue(AppNo(row.int(0)?));
                    let rate = parse_rate(&row.text(2)?).map_err(StoreError::Inconsistent)?;
                    Ok((queue, rate, row.time(3)?))
                },
            )?;
            let last = found.into_iter().filter_map(|(queue, rate, at)| {
                let spacing = rate.spacing?;
                (at <= now && now < at.plus(spacing)).then_some(LastAttempt { queue, spacing, at })
            });
            Ok(last.collect())
        })
        .await
    }
}

/// Ends the series of failures of the destinations to which an attempt has succeeded.
fn note_successes(batch: &mut Batch<'_>, summaries: &BTreeMap<SavedNo, Summary<'_>>) -> Result<()> {
    note_exhausted(batch, &exhausted(summaries, 0))?;
    let succeeded = || summaries.iter().filter(|(_, summary)| summary.has_success);
    let changed = batch.tx.update_each(
        row_sql!(
            "update destinations set failing_since = null, failed_attempts = 0, last_error = null,
               last_error_at = null"
            where "no = $1 and (failed_attempts > 0 or failed_since is not null)"
        ),
        succeeded().map(|(no, _)| params![no]),
    )?;
    let changed = succeeded().zip(changed).filter(|(_, changed)| *changed > 0);
    let of_watches = changed.filter_map(|((no, summary), _)| Some((*no, summary.recovered_at?)));
    recover(batch, &of_watches.collect::<Vec<_>>())
}

/// Returns the destinations with deliveries of watches that failed for good, before (0) or after (1) the last success.
fn exhausted(
    summaries: &BTreeMap<SavedNo, Summary<'_>>,
    place: usize,
) -> Vec<(SavedNo, Timestamp, Option<String>)> {
    let of_summary = |(no, summary): (&SavedNo, &Summary<'_>)| {
        let attempt = summary.exhausted[place]?;
        Some((*no, attempt.at, Some(error_of(attempt))))
    };
    summaries.iter().filter_map(of_summary).collect()
}

/// Records failures, and disables destinations whose attempts have failed for too long.
fn note_failures(batch: &mut Batch<'_>, summaries: &BTreeMap<SavedNo, Summary<'_>>) -> Result<()> {
    let failed: Vec<(&SavedNo, &Summary<'_>)> =
        summaries.iter().filter(|(_, summary)| summary.failures > 0).collect();
    if failed.is_empty() {
        return Ok(());
    }
    batch.tx.update_each(
        row_sql!(
            "update destinations set failing_since = coalesce(failing_since, $1),
               failed_attempts = failed_attempts + $2, last_error = $3, last_error_at = $4"
            where "no = $5"
        ),
        failed.iter().map(|(no, summary)| {
            let Summary { failures, first, last, error, .. } = summary;
            params![first, failures, error, last, *no]
        }),
    )?;
    let failing = batch.tx.update_each(
        row_sql!(
            "update destinations set disabled_reason = $1, disabled_at = $2, sweep = $3, sweep_after = null"
            where "no = $4 and disabled_reason is null and failed_attempts >= $5 and failing_since <= $6"
        ),
        failed.iter().map(|(no, summary)| {
            let since = summary.last.minus(FAILING_AFTER);
            params![DisabledReason::Failing, summary.last, sweep::SKIP, *no, FAILING_ATTEMPTS, since]
        }),
    )?;
    note_exhausted(batch, &exhausted(summaries, 1))?;
    let disabled = || failed.iter().zip(&failing).filter(|(_, changed)| **changed > 0);
    let transition = |no, at| {
        let (event_type, reason) = (EventType::DestinationDisabled, DisabledReason::Failing);
        Transition { no, event_type, reason, at, since: None, last_error: None }
    };
    let transitions = disabled()
        .filter(|((_, summary), _)| summary.is_of_watch)
        .map(|((no, summary), _)| transition(**no, summary.last));
    raise_transitions(batch, &transitions.collect::<Vec<_>>())?;
    batch.effects.dispatcher_messages.extend(disabled().map(|((_, summary), _)| {
        let (queue, disabled) = (summary.queue.to_owned(), Some(DisabledReason::Failing));
        DispatcherMessage::DestinationChanged { queue, disabled }
    }));
    // An attempt that was in flight when its destination was disabled has left its delivery pending.
    let left = batch.tx.update_each(
        row_sql!(
            "update destinations set sweep = $1, sweep_after = null"
            where "no = $2 and disabled_reason is not null and sweep is null"
        ),
        failed.iter().map(|(no, _)| params![sweep::SKIP, *no]),
    )?;
    if left.into_iter().any(|changed| changed > 0) {
        batch.effects.dispatcher_messages.push(DispatcherMessage::SweepDue);
    }
    Ok(())
}

/// Disables the saved destinations that accept nothing any more.
pub fn disable_gone(batch: &mut Batch<'_>, gone: &BTreeMap<SavedNo, GoneResult<'_>>) -> Result<()> {
    let disabled = batch.tx.update_each(
        row_sql!(
            "update destinations set disabled_reason = $1, disabled_at = $2, sweep = $3, sweep_after = null"
            where "no = $4 and disabled_reason is null"
        ),
        gone.iter().map(|(no, result)| params![DisabledReason::Gone, result.attempt.at, sweep::SKIP, no]),
    )?;
    let disabled = || gone.iter().zip(&disabled).filter(|(_, changed)| **changed > 0);
    let transition = |((no, result), _): ((&SavedNo, &GoneResult<'_>), _)| Transition {
        no: *no,
        event_type: EventType::DestinationDisabled,
        reason: DisabledReason::Gone,
        at: result.attempt.at,
        since: Some(result.attempt.at),
        last_error: Some(error_of(result.attempt)),
    };
    let of_watches = disabled().filter(|((_, result), _)| result.is_of_watch);
    let transitions: Vec<Transition> = of_watches.map(transition).collect();
    raise_transitions(batch, &transitions)?;
    batch.effects.dispatcher_messages.extend(disabled().map(|((_, result), _)| {
        let (queue, disabled) = (result.queue.to_owned(), Some(DisabledReason::Gone));
        DispatcherMessage::DestinationChanged { queue, disabled }
    }));
    Ok(())
}

/// Returns for each destination the attempts of the last day: of each class of durations its number of successes and of
/// failures.
pub fn counts(
    tx: &Tx<'_>,
    nos: impl Iterator<Item = SavedNo>,
    now: Timestamp,
) -> Result<Vec<Vec<(u8, u64, u64)>>> {
    // The hour in which the day begins counts as a whole.
    let since = hour_of(now.minus(DAY));
    let count = |number: i64| u64::try_from(number).unwrap_or(0);
    tx.fetch(
        "select bucket, cast(sum(succeeded) as bigint), cast(sum(failed) as bigint) from destination_hours
         where destination = $1 and hour >= $2 group by bucket order by bucket",
        nos.map(|no| params![no, since]),
        |row| Ok((u8::try_from(row.int(0)?).unwrap_or(u8::MAX), count(row.int(1)?), count(row.int(2)?))),
    )
}

/// Deletes counts that are older than a day, at most so many. Returns their number.
pub fn prune_hours(tx: &Tx<'_>, now: Timestamp, rows: u32) -> Result<usize> {
    tx.run(
        "delete from destination_hours where (destination, hour, bucket) in (
           select destination, hour, bucket from destination_hours where hour < $1 order by hour limit $2)",
        params![hour_of(now.minus(DAY)), rows],
    )
}

/// Whether a page of the queue of a saved destination is empty because it is disabled, and whether an event waits for
/// earlier ones. `None`: the queue is that of inline destinations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueState {
    /// Whether the destination is disabled.
    pub is_disabled: bool,
    /// Whether an event waits for earlier ones of its watch.
    pub is_ordered: bool,
}

/// Returns the state of each queue that belongs to a saved destination. Nothing is read for other queues.
pub fn queue_states<'q>(tx: &Tx<'_>, queues: impl Iterator<Item = &'q str>) -> Result<Vec<QueueState>> {
    let ids: Vec<Option<DestinationId>> = queues.map(DestinationId::of_queue).collect();
    if ids.iter().all(Option::is_none) {
        return Ok(vec![QueueState::default(); ids.len()]);
    }
    let mut found = tx
        .fetch(
            "select case when disabled_reason is null then 0 else 1 end, is_ordered from destinations where id = $1",
            ids.iter().flatten().map(|id| params![id]),
            |row| Ok(QueueState { is_disabled: row.flag(0)?, is_ordered: row.flag(1)? }),
        )?
        .into_iter();
    let state = |id: &Option<DestinationId>| match id {
        Some(_) => found.next().and_then(|rows| rows.into_iter().next()).unwrap_or_default(),
        None => QueueState::default(),
    };
    Ok(ids.iter().map(state).collect())
}
