//! Recording attempts.

use super::super::batch::Batch;
use super::super::db::Result;
use super::super::rows::to_json;
use super::skip::{GoneDestination, skip_gone};
use crate::domain::{AppNo, Attempt, DeliveryId, DestinationId, NextStep, Reason, WatchId};

/// Records an attempt and the next step of its delivery.
#[derive(Clone, Debug)]
pub struct RecordAttempt {
    /// The app.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Whether the attempt was a manual retry.
    pub manual: bool,
    /// Number of earlier attempts.
    pub before: u32,
    /// The attempt.
    pub attempt: Attempt,
    /// Next step of the delivery.
    pub after: NextStep,
}

pub fn record_attempt(batch: &mut Batch<'_>, commands: &[&RecordAttempt]) -> Result<Vec<()>> {
    let applied = update_deliveries(batch, commands)?;
    let headers: Vec<(String, String)> = applied
        .iter()
        .map(|command| {
            (to_json(&command.attempt.request_headers), to_json(&command.attempt.response_headers))
        })
        .collect();
    batch.tx.insert_each(
        "insert into attempts (delivery, n, started_at, duration_ms, status_code, error, request_headers,
           response_headers, response_body)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        applied.iter().zip(&headers).map(|(command, (request_headers, response_headers))| {
            [
                command.delivery.0.into(),
                command.before.into(),
                command.attempt.at.into(),
                command.attempt.duration_ms.into(),
                command.attempt.status_code.map(i64::from).into(),
                command.attempt.error.as_deref().into(),
                request_headers.into(),
                response_headers.into(),
                (&command.attempt.response_body).into(),
            ]
        }),
    )?;
    Ok(vec![(); commands.len()])
}

/// Updates the deliveries, one statement for each next step. Returns the commands whose delivery exists and whose
/// attempt was not recorded before.
fn update_deliveries<'a>(
    batch: &mut Batch<'_>,
    commands: &[&'a RecordAttempt],
) -> Result<Vec<&'a RecordAttempt>> {
    let (mut succeeded, mut retried, mut failed, mut unchanged) = (vec![], vec![], vec![], vec![]);
    for command in commands {
        match command.after {
            NextStep::Succeeded => succeeded.push(*command),
            NextStep::Retry { step, due_at } => retried.push((*command, step, due_at)),
            NextStep::Failed(reason) => failed.push((*command, reason)),
            NextStep::Unchanged => unchanged.push(*command),
        }
    }
    let row =
        |command: &RecordAttempt| (command.app.0.into(), command.delivery.0.into(), command.before.into());
    let mut applied = Vec::with_capacity(commands.len());
    let mut add_changed = |commands: &mut dyn Iterator<Item = &'a RecordAttempt>, changed: Vec<usize>| {
        applied.extend(commands.zip(changed).filter(|(_, changed)| *changed > 0).map(|(command, _)| command));
    };
    let changed = batch.tx.update_each(
        "update deliveries set attempts = attempts + 1, status = 'succeeded', reason = null, scheduled_at = null,
           next_attempt_at = null, is_manual = 0
         where app = $1 and id = $2 and attempts = $3",
        succeeded.iter().map(|command| <[_; 3]>::from(row(command))),
    )?;
    add_changed(&mut succeeded.iter().copied(), changed);
    // A manual retry that was requested meanwhile keeps its `next_attempt_at`.
    let changed = batch.tx.update_each(
        "update deliveries set attempts = attempts + 1,
           step = case when status = 'pending' then $1 else step end,
           scheduled_at = case when status = 'pending' then cast($2 as bigint) end,
           is_retry = case when is_manual = 1 then 0 else 1 end,
           next_attempt_at = case when is_manual = 1 then next_attempt_at when status = 'pending' then $2 end
         where app = $3 and id = $4 and attempts = $5",
        retried.iter().map(|(command, step, due_at)| {
            let (app, id, before) = row(command);
            [(*step).into(), (*due_at).into(), app, id, before]
        }),
    )?;
    add_changed(&mut retried.iter().map(|(command, ..)| *command), changed);
    // A delivery that was skipped as gone has failed if it is refused as gone itself.
    let changed = batch.tx.update_each(
        "update deliveries set attempts = attempts + 1,
           reason = case when status = 'pending' then $1 else reason end,
           status = case when status = 'pending' or reason = $1 then 'failed' else status end,
           scheduled_at = null, next_attempt_at = case when is_manual = 1 then next_attempt_at end
         where app = $2 and id = $3 and attempts = $4",
        failed.iter().map(|(command, reason)| {
            let (app, id, before) = row(command);
            [reason.as_str().into(), app, id, before]
        }),
    )?;
    let gone =
        failed.iter().zip(&changed).filter(|((_, reason), changed)| *reason == Reason::Gone && **changed > 0);
    mark_gone(batch, &gone.map(|((command, _), _)| *command).collect::<Vec<_>>())?;
    add_changed(&mut failed.iter().map(|(command, _)| *command), changed);
    let changed = batch.tx.update_each(
        "update deliveries set attempts = attempts + 1, is_manual = 0, next_attempt_at = scheduled_at,
           is_retry = case when step > 0 then 1 else 0 end
         where app = $1 and id = $2 and attempts = $3",
        unchanged.iter().map(|command| <[_; 3]>::from(row(command))),
    )?;
    add_changed(&mut unchanged.iter().copied(), changed);
    Ok(applied)
}

/// Marks the destinations of deliveries as gone, and skips their later deliveries.
fn mark_gone(batch: &mut Batch<'_>, commands: &[&RecordAttempt]) -> Result<()> {
    let found = batch.tx.fetch(
        "select watch, n, destination from deliveries where app = $1 and id = $2",
        commands.iter().map(|command| [command.app.0.into(), command.delivery.0.into()]),
        |row| Ok((WatchId(row.id(0)?), row.int(1)?, DestinationId(row.id(2)?))),
    )?;
    // A manual retry is answered by this attempt.
    batch.tx.update_each(
        "update deliveries set is_manual = 0, next_attempt_at = null where app = $1 and id = $2",
        commands
            .iter()
            .filter(|command| command.manual)
            .map(|command| [command.app.0.into(), command.delivery.0.into()]),
    )?;
    let gone = commands.iter().zip(found).flat_map(|(command, found)| {
        found.into_iter().map(|(watch, n, destination)| {
            let (delivery, at) = (command.delivery, command.attempt.at);
            GoneDestination { watch, n, destination, delivery, at }
        })
    });
    skip_gone(batch, &gone.collect::<Vec<_>>())
}
