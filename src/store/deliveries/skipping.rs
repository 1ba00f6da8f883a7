//! Skipping deliveries of a watch, in parts.
//!
//! Deliveries of a watch are skipped when it is stopped, when it ends before its progress is delivered, and when one of
//! its destinations accepts nothing more. A watch can have a million deliveries, and every other write waits for a
//! transaction. So the transaction examines only the newest ones of each watch ([`EXAMINED`] in all). If others remain,
//! it also creates an operation that no client sees, and that examines them step by step (`operations`). The position
//! is in the row of the operation, so the next start continues after a crash. Very many watches can end at once, so
//! none is created if the next rows ([`OLDER_EXAMINED`]) are the last and none of them changes.
//!
//! **What is not examined yet is not sent.** The transaction removes all of it from the memory of the dispatcher, and
//! pages leave it out ([`IS_LEFT_OUT`]): it follows from the rows of the watch and of the destination. Only its status
//! is written later. A watch that had ended before its stop keeps its status, so the row of the operation, which has
//! the id of the watch, leaves out everything that it sends, until the last part is examined.
//!
//! An attempt that is in flight meanwhile is recorded. If it fails before its delivery is examined, the retry is
//! skipped like the others; after that, the delivery is no longer pending. If it was the last one of the schedule, a
//! stopped delivery that is not examined yet ends as `failed` instead of `skipped`.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use super::super::batch::{Batch, LeftToSkip};
use super::super::db::{Result, Tx, params, row_sql};
use crate::domain::{
    AppNo, CancelScope, DeliveryId, DeliveryStatus, DispatcherMessage, EventType, Id, Reason, SkipScope,
    WatchId,
};

/// Maximum number of deliveries that the commands of one kind examine in one transaction.
pub const EXAMINED: usize = 2_000;

/// Number of deliveries of each watch that are examined nevertheless. Most watches have fewer.
const LEAST: usize = 10;

/// Number of further deliveries, of all watches together and of each, that are read to decide whether anything is left
/// to skip. Only flags are read, in the database.
const OLDER_EXAMINED: (usize, usize) = (4_000, 20);

/// Whether a delivery `d` of a watch `w` to the destination `wd` is to be skipped, and is not sent.
pub const IS_LEFT_OUT: &str = "case when w.status = 'stopped'
    or d.status = 'pending' and wd.gone_at is not null
    or d.status = 'pending' and d.type in ('job.processing', 'job.progress') and w.status <> 'watching'
    or (select o.no from operations o where o.id = w.id and o.finished_at is null) is not null
  then 1 else 0 end";

/// [`IS_LEFT_OUT`] of a delivery. No row: it does not exist, or is being erased.
pub static LEFT_OUT: LazyLock<String> = LazyLock::new(|| {
    format!(
        "select {IS_LEFT_OUT} from deliveries d
         join events e on e.id = d.event
         join watch_destinations wd on wd.watch = d.watch and wd.n = d.n
         left join watches w on w.app = d.app and w.id = d.watch
         where d.app = $1 and d.id = $2"
    )
});

/// The newest deliveries of a watch before an id. The second condition lets PostgreSQL, which plans while the tables
/// are empty, prefer the index by watch to the primary key, in which it would read all deliveries of the app.
pub const EXAMINE: &str =
    "select id, status, reason, type, n, case when next_attempt_at is null then 0 else 1 end
    from deliveries where watch = $1 and watch <= $1 and app = $2 and id < $3 order by id desc limit $4";

/// The next deliveries of a watch before an id: their number, whether an attempt of any follows, and whether a disabled
/// destination has skipped any.
pub const OLDER: &str = "select count(*), coalesce(max(waits), 0), coalesce(max(is_disabled), 0)
    from (select case when next_attempt_at is null then 0 else 1 end as waits,
            case when status = 'skipped' and reason = 'disabled' then 1 else 0 end as is_disabled
          from deliveries where watch = $1 and watch <= $1 and app = $2 and id < $3 order by id desc limit $4) older";

/// Deliveries that are skipped.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    pub app: AppNo,
    pub watch: WatchId,
    pub scope: SkipScope,
    /// The same for the dispatcher.
    pub cancel: CancelScope,
}

/// A delivery that is examined.
struct Examined {
    id: DeliveryId,
    status: DeliveryStatus,
    is_disabled: bool,
    event_type: EventType,
    n: i64,
    waits: bool,
}

/// What becomes of a delivery.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    /// It is skipped.
    Skip,
    /// Its manual retry is cancelled.
    Cancel,
    /// A disabled destination has skipped it. It is not sent later, either.
    Stop,
}

/// Skips deliveries of watches that are not attempted any more, though nothing failed: the newest ones now, and the
/// others later. Counts them, and notifies the dispatcher.
pub fn skip(batch: &mut Batch<'_>, skips: &[Skip]) -> Result<()> {
    if skips.is_empty() {
        return Ok(());
    }
    // Two commands of a transaction can concern the same watch.
    let mut known = BTreeSet::new();
    let skips: Vec<&Skip> = skips.iter().filter(|one| known.insert((one.watch, one.scope))).collect();
    let most = (EXAMINED / skips.len()).max(LEAST);
    let all = skips.iter().map(|one| (one.app, one.watch, one.scope, Id::MAX)).collect::<Vec<_>>();
    let mut parts = skip_part(batch, &all, most)?;
    end_unchanging(batch, &skips, &mut parts)?;
    for (Skip { app, watch, scope, cancel }, Part { changed, next }) in skips.into_iter().zip(parts) {
        if changed > 0 || next.is_some() {
            let (watch, which) = (*watch, *cancel);
            batch.effects.dispatcher_messages.push(DispatcherMessage::Skip { watch, which });
        }
        if let Some(before) = next {
            batch.left_to_skip.push(LeftToSkip { app: *app, watch: *watch, scope: *scope, before });
        }
    }
    Ok(())
}

/// Ends the parts after which nothing changes: no operation is necessary.
fn end_unchanging(batch: &Batch<'_>, skips: &[&Skip], parts: &mut [Part]) -> Result<()> {
    let (all, least) = OLDER_EXAMINED;
    let most = (all / skips.len()).max(least);
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut left: Vec<(&Skip, &mut Option<Id>, Id)> = skips
        .iter()
        .zip(parts)
        .filter_map(|(skip, part)| part.next.map(|next| (*skip, &mut part.next, next)))
        .collect();
    let older = batch.tx.fetch(
        OLDER,
        left.iter().map(|(skip, _, before)| params![skip.watch, skip.app, *before, limit]),
        |row| Ok((row.int(0)?, row.flag(1)?, row.flag(2)?)),
    )?;
    for ((skip, next, _), older) in left.iter_mut().zip(older) {
        let is_changing = |&(count, waits, is_disabled): &(i64, bool, bool)| {
            count >= limit || waits || is_disabled && skip.scope == SkipScope::Stopped
        };
        if !older.first().is_some_and(is_changing) {
            **next = None;
        }
    }
    Ok(())
}

/// Skips the next deliveries of a watch, before this one. Returns the position of the next part; `None` if nothing is
/// left.
pub fn skip_next(
    batch: &mut Batch<'_>,
    LeftToSkip { app, watch, scope, before }: LeftToSkip,
    rows: u32,
) -> Result<Option<Id>> {
    let parts = skip_part(batch, &[(app, watch, scope, before)], rows as usize)?;
    Ok(parts.into_iter().next().and_then(|part| part.next))
}

/// Requests pages of the destinations of a watch that had ended before it was stopped: a client may have requested
/// retries since, and they were left out until now.
pub fn load_again(batch: &mut Batch<'_>, app: AppNo, watch: WatchId, scope: SkipScope) -> Result<()> {
    if scope != SkipScope::Stopped {
        return Ok(());
    }
    let queues = batch.tx.list(
        "select wd.queue from watches w join watch_destinations wd on wd.watch = w.id
         where w.app = $1 and w.id = $2 and w.status || '' <> 'stopped'",
        params![app, watch],
        |row| row.text(0),
    )?;
    let changed = |queue| DispatcherMessage::QueueChanged { queue, requested: Vec::new() };
    batch.effects.dispatcher_messages.extend(queues.into_iter().map(changed));
    Ok(())
}

/// What was done with a part of the deliveries of a watch.
struct Part {
    /// Number of deliveries that were changed.
    changed: usize,
    /// Position of the next part; `None` if nothing is left.
    next: Option<Id>,
}

/// Examines up to `most` deliveries of each watch, from the newest to the oldest, and changes those in the scope.
fn skip_part(
    batch: &mut Batch<'_>,
    skips: &[(AppNo, WatchId, SkipScope, Id)],
    most: usize,
) -> Result<Vec<Part>> {
    let found = examine(&batch.tx, skips, most)?;
    batch.examined += found.iter().map(Vec::len).sum::<usize>();
    let (mut skipped, mut cancelled, mut stopped) = (Vec::new(), Vec::new(), Vec::new());
    let mut parts = Vec::with_capacity(skips.len());
    for ((app, _, scope, _), found) in skips.iter().zip(&found) {
        let mut changed = 0;
        for one in found.iter().take(most) {
            let change = change_of(one, *scope);
            changed += usize::from(matches!(change, Change::Skip | Change::Cancel));
            match change {
                Change::None => {}
                Change::Skip => skipped.push((reason_of(*scope), *app, one.id)),
                Change::Cancel => cancelled.push((*app, one.id)),
                Change::Stop => stopped.push((*app, one.id)),
            }
        }
        let last = found.get(most.saturating_sub(1)).filter(|_| found.len() > most);
        parts.push(Part { changed, next: last.map(|one| one.id.0) });
    }
    let tx = &batch.tx;
    tx.update_each(
        row_sql!(
            "update deliveries set status = 'skipped', reason = $1, scheduled_at = null, next_attempt_at = null,
               is_manual = 0"
            where "app = $2 and id = $3"
        ),
        skipped.iter().map(|(reason, app, id)| params![*reason, *app, *id]),
    )?;
    tx.update_each(
        row_sql!("update deliveries set next_attempt_at = null, is_manual = 0" where "app = $1 and id = $2"),
        cancelled.iter().map(|(app, id)| params![*app, *id]),
    )?;
    tx.update_each(
        row_sql!("update deliveries set reason = 'stopped'" where "app = $1 and id = $2"),
        stopped.iter().map(|(app, id)| params![*app, *id]),
    )?;
    batch.effects.tally.skipped.extend(skipped.iter().map(|(reason, ..)| (*reason, 1)));
    Ok(parts)
}

/// Reads the newest deliveries of each watch before an id: at most `most`, and one more if others remain.
fn examine(
    tx: &Tx<'_>,
    skips: &[(AppNo, WatchId, SkipScope, Id)],
    most: usize,
) -> Result<Vec<Vec<Examined>>> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
    tx.fetch(
        EXAMINE,
        skips.iter().map(|(app, watch, _, before)| params![*watch, *app, *before, limit]),
        |row| {
            Ok(Examined {
                id: DeliveryId(row.id(0)?),
                status: row.word(1, DeliveryStatus::parse)?,
                is_disabled: row.opt_text(2)?.as_deref() == Some(Reason::Disabled.as_str()),
                event_type: row.word(3, EventType::parse)?,
                n: row.int(4)?,
                waits: row.flag(5)?,
            })
        },
    )
}

fn reason_of(scope: SkipScope) -> Reason {
    match scope {
        SkipScope::Stopped => Reason::Stopped,
        SkipScope::Superseded => Reason::Superseded,
        SkipScope::Gone(_) => Reason::Gone,
    }
}

/// Decides what becomes of a delivery.
fn change_of(one: &Examined, scope: SkipScope) -> Change {
    let is_pending = one.status == DeliveryStatus::Pending;
    let is_progress = matches!(one.event_type, EventType::JobProcessing | EventType::JobProgress);
    match scope {
        SkipScope::Stopped if is_pending => Change::Skip,
        SkipScope::Stopped if one.waits => Change::Cancel,
        SkipScope::Stopped if one.status == DeliveryStatus::Skipped && one.is_disabled => Change::Stop,
        SkipScope::Superseded if is_pending && is_progress => Change::Skip,
        SkipScope::Gone(n) if is_pending && one.n == n => Change::Skip,
        SkipScope::Stopped | SkipScope::Superseded | SkipScope::Gone(_) => Change::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_changes_only_what_is_in_its_scope() {
        use DeliveryStatus::{Failed, Pending, Skipped, Succeeded};
        let one = |status, event_type, n| Examined {
            id: DeliveryId(Id::MAX),
            status,
            is_disabled: status == Skipped,
            event_type,
            n,
            waits: matches!(status, Pending | Failed),
        };
        let (ending, progress) = (EventType::JobCompleted, EventType::JobProgress);
        let table = [
            (SkipScope::Stopped, one(Pending, ending, 0), Change::Skip),
            (SkipScope::Stopped, one(Failed, ending, 0), Change::Cancel),
            (SkipScope::Stopped, one(Skipped, ending, 0), Change::Stop),
            (SkipScope::Stopped, one(Succeeded, ending, 0), Change::None),
            (SkipScope::Superseded, one(Pending, progress, 0), Change::Skip),
            (SkipScope::Superseded, one(Pending, ending, 0), Change::None),
            (SkipScope::Superseded, one(Failed, progress, 0), Change::None),
            (SkipScope::Gone(1), one(Pending, ending, 1), Change::Skip),
            (SkipScope::Gone(1), one(Pending, ending, 0), Change::None),
            (SkipScope::Gone(1), one(Failed, ending, 1), Change::None),
        ];
        for (n, (scope, delivery, expected)) in table.iter().enumerate() {
            assert!(change_of(delivery, *scope) == *expected, "row {n}");
        }
    }
}
