//! Manual retry of one delivery.

use super::super::batch::Batch;
use super::super::db::params;
use super::super::idempotency::Outcome;
use super::load_pending;
use crate::domain::{AppNo, DeliveryId, DispatcherMessage, Timestamp};

/// Requests an attempt of a delivery at once.
#[derive(Clone, Debug)]
pub struct RetryDelivery {
    /// The app.
    pub app: AppNo,
    /// The delivery.
    pub delivery: DeliveryId,
    /// Time of the request.
    pub now: Timestamp,
}

/// Reason why a delivery is not retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryRefusal {
    /// The delivery does not exist.
    NotFound,
    /// Its watch was stopped.
    Stopped,
    /// Its destination is disabled.
    Disabled,
}

pub fn retry_delivery(batch: &mut Batch<'_>, command: &RetryDelivery) -> Outcome<(), RetryRefusal> {
    let RetryDelivery { app, delivery: id, now } = command;
    // A stop skips pending deliveries, also those of a watch that had ended; others had failed before.
    let found = batch.tx.find(
        "select case when w.status = 'stopped' or d.reason = 'stopped' then 1 else 0 end,
           case when s.disabled_reason is null then 0 else 1 end
         from deliveries d left join watches w on w.app = d.app and w.id = d.watch
         join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
         left join destinations s on s.no = wd.saved where d.app = $1 and d.id = $2",
        params![app, id],
        |row| Ok((row.flag(0)?, row.flag(1)?)),
    )?;
    match found {
        None => return Ok(Err(RetryRefusal::NotFound)),
        Some((true, _)) => return Ok(Err(RetryRefusal::Stopped)),
        Some((_, true)) => return Ok(Err(RetryRefusal::Disabled)),
        Some((false, false)) => {}
    }
    batch.tx.run(
        "update deliveries set is_manual = 1, is_retry = 0, next_attempt_at = $1 where app = $2 and id = $3",
        params![now, app, id],
    )?;
    let pending = load_pending(&batch.tx, batch.shared, [params![app, id]])?.into_iter().flatten();
    let messages = pending.map(|pending| DispatcherMessage::Dispatch(Box::new(pending)));
    batch.effects.dispatcher_messages.extend(messages);
    Ok(Ok(()))
}
