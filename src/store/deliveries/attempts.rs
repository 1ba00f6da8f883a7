//! Recording attempts.

use std::sync::Arc;
use std::time::Duration;

use super::super::batch::Batch;
use super::super::db::{Result, RowSql, Value, params, row_sql};
use super::super::destinations::{self, GoneResult, SavedResult};
use super::super::rows::to_json;
use super::exhausted::{Failing, raise_exhausted};
use super::skipping::{Skip, skip};
use crate::domain::{
    AppNo, Attempt, CancelScope, DeliveryId, DestinationId, EventType, NextStep, Reason, SavedNo, SkipScope,
    Timestamp, WatchId,
};

/// Records an attempt and the next step of its delivery.
#[derive(Clone, Debug)]
pub struct RecordAttempt {
    /// The app.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Type of its event.
    pub event_type: EventType,
    /// Whether the attempt was a manual retry.
    pub manual: bool,
    /// Number of earlier attempts.
    pub before: u32,
    /// The attempt. Shared, because the record may have to be written again.
    pub attempt: Arc<Attempt>,
    /// Next step of the delivery.
    pub after: NextStep,
    /// Row number of the destination, if it is a saved one, and the name of its queue.
    pub saved: Option<(SavedNo, String)>,
}

/// Postpones a delivery whose attempt waits for a late reply: if the process ends before the attempt is recorded,
/// the next attempt is not due at once. The record of the attempt replaces the postponement.
///
/// After a crash, a manual retry counts as carried out, because its message was transmitted: a delivery that has ended
/// gets no further attempt. A client can request another one.
#[derive(Clone, Copy, Debug)]
pub struct PostponeDelivery {
    /// The app.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Whether the attempt is a manual retry. It does not change the schedule.
    pub manual: bool,
    /// Number of earlier attempts.
    pub before: u32,
    /// Step of the schedule that follows.
    pub step: u32,
    /// Time of the next attempt.
    pub due_at: Timestamp,
    /// Sum of the waits before it.
    pub waited: Duration,
    /// The current time.
    pub now: Timestamp,
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

pub fn postpone_delivery(batch: &mut Batch<'_>, commands: &[&PostponeDelivery]) -> Result<Vec<()>> {
    batch.tx.update_each(
        row_sql!("update deliveries set step = $1, scheduled_at = $2, next_attempt_at = $3, is_retry = 1,
           waited_ms = $4, wait_began_at = $5" where
          "app = $6 and id = $7 and attempts = $8 and status = 'pending' and is_manual = 0"),
        commands.iter().filter(|command| !command.manual).map(|command| {
            let PostponeDelivery { app, delivery, before, step, due_at, waited, now, .. } = command;
            params![step, due_at, due_at, millis(*waited), now, app, delivery, before]
        }),
    )?;
    batch.tx.update_each(
        row_sql!("update deliveries set is_manual = 0, is_retry = 1, next_attempt_at = case
             when status <> 'pending' then null when scheduled_at > $1 then scheduled_at
             else cast($1 as bigint) end" where
          "app = $2 and id = $3 and attempts = $4 and is_manual = 1"),
        commands.iter().filter(|command| command.manual).map(|command| {
            let PostponeDelivery { app, delivery, before, due_at, .. } = command;
            params![due_at, app, delivery, before]
        }),
    )?;
    Ok(vec![(); commands.len()])
}

pub fn record_attempt(batch: &mut Batch<'_>, commands: &[&RecordAttempt]) -> Result<Vec<()>> {
    raise_last_attempts(batch, commands)?;
    let applied = update_deliveries(batch, commands)?;
    let headers = |command: &&RecordAttempt| {
        (to_json(&command.attempt.request_headers), to_json(&command.attempt.response_headers))
    };
    let headers: Vec<(String, String)> = applied.iter().map(headers).collect();
    batch.tx.insert_each(
        row_sql!(
            "insert into attempts (delivery, n, started_at, duration_ms, status_code, error, request_headers,
               response_headers, response_body)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8, $9")
        ),
        applied.iter().zip(&headers).map(|(command, (request, response))| {
            let RecordAttempt { delivery, before, attempt, .. } = command;
            let Attempt { at, duration_ms, status_code, error, response_body, .. } = &**attempt;
            params![delivery, before, at, duration_ms, *status_code, error, request, response, response_body]
        }),
    )?;
    let results = applied.iter().filter_map(|command| {
        let (no, queue) = command.saved.as_ref()?;
        let is_success = command.after == NextStep::Succeeded;
        let is_of_watch = command.event_type.is_of_watch();
        let (is_exhausted, attempt) = (is_exhausted(command), &*command.attempt);
        Some(SavedResult { no: *no, queue, attempt, is_success, is_exhausted, is_of_watch })
    });
    destinations::record_results(batch, &results.collect::<Vec<_>>())?;
    Ok(vec![(); commands.len()])
}

/// Returns whether the attempt was the last one of a delivery whose destination may accept others.
fn is_exhausted(command: &RecordAttempt) -> bool {
    matches!(command.after, NextStep::Failed(Reason::Exhausted | Reason::Refused))
}

/// Raises an event for each delivery that fails with its last attempt.
fn raise_last_attempts(batch: &mut Batch<'_>, commands: &[&RecordAttempt]) -> Result<()> {
    let failing = |command: &&&RecordAttempt| is_exhausted(command) && command.event_type.is_of_watch();
    let failing = commands.iter().filter(failing).map(|command| Failing {
        app: command.app,
        id: command.delivery,
        attempts: command.before,
        attempt: Some(&command.attempt),
        at: command.attempt.at,
    });
    raise_exhausted(batch, &failing.collect::<Vec<_>>())
}

/// Updates the deliveries, one statement for each next step. Returns the commands whose delivery exists and whose
/// attempt was not recorded before.
fn update_deliveries<'a>(
    batch: &mut Batch<'_>,
    commands: &[&'a RecordAttempt],
) -> Result<Vec<&'a RecordAttempt>> {
    let mut applied = update_some(
        batch,
        row_sql!("update deliveries set attempts = attempts + 1, status = 'succeeded', reason = null, scheduled_at = null,
           next_attempt_at = null, is_manual = 0" where "app = $1 and id = $2 and attempts = $3"),
        commands,
        |command, row| (command.after == NextStep::Succeeded).then_some(row),
    )?;
    // A manual retry that was requested meanwhile keeps its `next_attempt_at`.
    applied.extend(update_some(
        batch,
        row_sql!("update deliveries set attempts = attempts + 1,
           step = case when status = 'pending' then $1 else step end,
           scheduled_at = case when status = 'pending' then cast($2 as bigint) end,
           is_retry = case when is_manual = 1 then 0 else 1 end,
           next_attempt_at = case when is_manual = 1 then next_attempt_at when status = 'pending' then $2 end,
           waited_ms = $3, wait_began_at = $4" where "app = $5 and id = $6 and attempts = $7"),
        commands,
        |command, [app, id, before]| {
            let NextStep::Retry { step, due_at, waited } = command.after else { return None };
            let Attempt { at, duration_ms, .. } = *command.attempt;
            let ended_at = at.plus(Duration::from_millis(duration_ms.into()));
            Some([step.into(), due_at.into(), millis(waited).into(), ended_at.into(), app, id, before])
        },
    )?);
    // A delivery that was skipped as gone has failed if it is refused as gone itself.
    let failed = update_some(
        batch,
        row_sql!("update deliveries set attempts = attempts + 1,
           reason = case when status = 'pending' then $1 else reason end,
           status = case when status = 'pending' or reason = $1 then 'failed' else status end,
           scheduled_at = null, next_attempt_at = case when is_manual = 1 then next_attempt_at end" where "app = $2 and id = $3 and attempts = $4"),
        commands,
        |command, [app, id, before]| {
            let NextStep::Failed(reason) = command.after else { return None };
            Some([reason.into(), app, id, before])
        },
    )?;
    mark_gone(batch, &failed)?;
    applied.extend(failed);
    applied.extend(update_some(
        batch,
        row_sql!("update deliveries set attempts = attempts + 1, is_manual = 0, next_attempt_at = scheduled_at,
           is_retry = case when step > 0 then 1 else 0 end" where "app = $1 and id = $2 and attempts = $3"),
        commands,
        |command, row| (command.after == NextStep::Unchanged).then_some(row),
    )?);
    Ok(applied)
}

/// Updates the deliveries of those commands for which `values` returns values. Its second parameter identifies the
/// row: the app, the delivery and the number of earlier attempts. Returns the commands whose delivery was updated.
fn update_some<'a, const N: usize>(
    batch: &Batch<'_>,
    sql: RowSql,
    commands: &[&'a RecordAttempt],
    values: impl Fn(&RecordAttempt, [Value<'a>; 3]) -> Option<[Value<'a>; N]>,
) -> Result<Vec<&'a RecordAttempt>> {
    let row = |command: &&'a RecordAttempt| {
        let row = params![command.app, command.delivery, command.before];
        Some((*command, values(command, row)?))
    };
    let rows: Vec<(&RecordAttempt, [Value<'_>; N])> = commands.iter().filter_map(row).collect();
    let changed = batch.tx.update_each(sql, rows.iter().map(|(_, values)| *values))?;
    let applied = rows.into_iter().zip(changed).filter(|(_, changed)| *changed > 0);
    Ok(applied.map(|((command, _), _)| command).collect())
}

/// Marks the destinations that are gone, and skips their other pending deliveries. A saved destination is disabled
/// instead, for all watches.
fn mark_gone(batch: &mut Batch<'_>, failed: &[&RecordAttempt]) -> Result<()> {
    let gone: Vec<&RecordAttempt> =
        failed.iter().copied().filter(|command| command.after == NextStep::Failed(Reason::Gone)).collect();
    let saved = gone.iter().filter_map(|command| {
        let (no, queue) = command.saved.as_ref()?;
        let is_of_watch = command.event_type.is_of_watch();
        Some((*no, GoneResult { queue, attempt: &command.attempt, is_of_watch }))
    });
    destinations::disable_gone(batch, &saved.collect())?;
    let inline: Vec<&RecordAttempt> =
        gone.iter().copied().filter(|command| command.saved.is_none()).collect();
    let found = batch.tx.fetch(
        "select watch, n, destination from deliveries where app = $1 and id = $2",
        inline.iter().map(|command| params![command.app, command.delivery]),
        |row| Ok((WatchId(row.id(0)?), row.int(1)?, DestinationId(row.id(2)?))),
    )?;
    // A manual retry is answered by this attempt.
    batch.tx.update_each(
        row_sql!("update deliveries set is_manual = 0, next_attempt_at = null" where "app = $1 and id = $2"),
        gone.iter().filter(|command| command.manual).map(|command| params![command.app, command.delivery]),
    )?;
    let found = inline
        .iter()
        .zip(found)
        .flat_map(|(command, found)| found.into_iter().map(move |found| (command, found)));
    let found: Vec<_> = found.collect();
    batch.tx.update_each(
        row_sql!("update watch_destinations set gone_at = $1" where "watch = $2 and n = $3"),
        found.iter().map(|(command, (watch, n, _))| params![command.attempt.at, watch, n]),
    )?;
    // The delivery that found this has failed, so it is not pending.
    let others = found.iter().map(|(command, (watch, n, destination))| Skip {
        app: command.app,
        watch: *watch,
        scope: SkipScope::Gone(*n),
        cancel: CancelScope::To(*destination),
    });
    skip(batch, &others.collect::<Vec<_>>())
}
