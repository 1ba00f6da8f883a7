//! Groups of watches: registering into them, counting their ends, and their one event.
//!
//! A group has a row with the number of its watches for each final status. The transaction in which a watch ends adds it
//! to the row, and completes the group if enough have ended. Registrations without a group run no statement for this.
//!
//! **One event for each group.** The event is created only if `update … where ended_at is null` changed the row, in the
//! same transaction. A crash before the commit undoes the counts, the status and the event together. After it, nothing
//! changes the status again.
//!
//! **Two ends in one transaction.** The commands of a transaction only note the ends ([`note_end`]). [`settle`] adds them
//! at its end, all of one group at once, and decides then. So a group that two of them complete gets one event, which
//! counts both.
//!
//! **An end and the expiry.** The first transaction decides. In one transaction, the expiry begins with [`settle`]: ends
//! that are noted before it come first, and a group that they complete does not expire.
//!
//! **Registrations after the event.** A group that is completed by some of its watches still takes the others, until it
//! has its size. They are counted and shown, and cause no further event. After the expiry, a registration is refused,
//! because the client would wait for an event that never comes.
//!
//! **The first registrations at the same time.** The writer applies them one after another. The first defines the group,
//! and the others are compared with it, also within one transaction.
//!
//! **Stopped watches** have ended: otherwise a group with one of them would wait for its expiry. **Deleted watches** keep
//! their place in the counts, which are not computed from the rows of watches. **A job that is registered again** is
//! another watch of the group. A watch ends once, so it is counted once.
//!
//! **Stored like a watch.** The event, its destinations and its deliveries have the id of the group in the place of a
//! watch's, as those of operational events do (`operational_events`).
//!
//! **The expiry** of the next open group is found by an index. The app has a timer for it; a commit with a new group
//! notifies the timer.
//!
//! **Many groups at once.** One transaction can end watches of a thousand groups. It adds their ends, completes the
//! first [`CHUNK`] of the groups, and makes the others due: `expires_at` becomes [`DUE`], so that the timer finds them
//! first, also after a crash. Such a group is completed and does not expire, because enough of its watches have ended.
//! Clients see its expiry, which is computed from the time of its creation.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::batch::{Batch, GroupEnds, NewEvent};
use super::db::{Result, Row, StoreError, Tx, params, row_sql};
use super::reads::{INTERNAL, ReadStore};
use super::rows::{DESTINATION, DESTINATION_COLUMNS, SAVED_JOIN, insert_destinations, read_destination};
use super::sealing::Keyring;
use crate::domain::{
    AppNo, DeliveryStatus, Destination, EventId, EventType, Group, GroupCounts, GroupNo, GroupRequest,
    GroupRule, GroupStatus, NewWatch, Timestamp, WatchId, WatchStatus,
};
use crate::events::GroupBody;

/// Maximum number of ids of watches in the event of a group.
const SHOWN_WATCHES: u32 = 1_000;

/// Maximum number of groups that are completed, and that expire, in one transaction. Each event has up to 32 KiB of
/// ids, and up to 20 deliveries: together less than 2 MiB and 1,000 rows.
const CHUNK: usize = 50;

/// The expiry of a group of which enough watches have ended, until its event is created.
const DUE: Timestamp = Timestamp::from_millis(0);

/// Time until a group expires whose first registration gives none.
const EXPIRES_IN: Duration = Duration::from_secs(7 * 24 * 3600);

/// Reason why a watch is not registered in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRefusal {
    /// The app has no such group, and the registration does not give its size.
    SizeMissing,
    /// The named field differs from that of the first registration.
    Differs(&'static str),
    /// The group has as many watches as its size, which is the value.
    Full(u32),
    /// The group has expired.
    Expired,
}

/// Ends the groups that have expired, and those of which enough watches have ended. The result is the next expiry.
#[derive(Clone, Copy, Debug)]
pub struct ExpireGroups {
    /// Groups that expire by this time end.
    pub until: Timestamp,
    /// Time of the events.
    pub now: Timestamp,
}

impl ReadStore {
    /// Returns a group of the app.
    pub async fn group(&self, app: AppNo, name: String) -> Result<Option<Group>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| {
            let sql = format!("{GROUP} where app = $1 and name = $2");
            let found = tx.find(&sql, params![app, &name], read_group)?;
            let Some(StoredGroup { no, id, mut group, .. }) = found else { return Ok(None) };
            group.watches = watches(tx, std::iter::once(no))?.pop().unwrap_or_default();
            group.destinations = destinations(tx, &keyring, id)?;
            Ok(Some(group))
        })
        .await
    }

    /// Returns the next expiry of an open group.
    pub async fn next_group_expiry(&self) -> Result<Option<Timestamp>> {
        self.read(INTERNAL, next_expiry).await
    }
}

fn next_expiry(tx: &Tx<'_>) -> Result<Option<Timestamp>> {
    tx.one("select min(expires_at) from watch_groups where ended_at is null", [], |row| row.opt_time(0))
}

const GROUP: &str =
    "select no, id, app, name, status, size, rule, registered, completed, failed, cancelled, not_found,
    expired, stopped, created_at, expires_at, ended_at, expires_in, needed from watch_groups";

/// A group as it is stored, without its watches and destinations.
struct StoredGroup {
    no: GroupNo,
    /// Stands in the place of a watch.
    id: WatchId,
    expires_in_ms: i64,
    needed: u32,
    group: Group,
}

fn read_group(row: &Row<'_>) -> Result<StoredGroup> {
    let broken = || StoreError::Inconsistent("the rule of a group cannot be read".to_owned());
    let (created_at, expires_in_ms) = (row.time(14)?, row.int(17)?);
    let expires_in = Duration::from_millis(u64::try_from(expires_in_ms).unwrap_or_default());
    let registered = row.count(7)?;
    let mut counts = GroupCounts {
        watching: 0,
        completed: row.count(8)?,
        failed: row.count(9)?,
        cancelled: row.count(10)?,
        not_found: row.count(11)?,
        expired: row.count(12)?,
        stopped: row.count(13)?,
    };
    counts.watching = registered.saturating_sub(counts.ended());
    Ok(StoredGroup {
        no: GroupNo(row.int(0)?),
        id: WatchId(row.id(1)?),
        expires_in_ms,
        needed: row.count(18)?,
        group: Group {
            app: AppNo(row.int(2)?),
            name: row.text(3)?,
            status: row.word(4, GroupStatus::parse)?,
            size: row.count(5)?,
            rule: GroupRule::parse(&row.text(6)?).ok_or_else(broken)?,
            registered,
            counts,
            watches: Vec::new(),
            destinations: Vec::new(),
            created_at,
            expires_at: created_at.plus(expires_in),
            ended_at: row.opt_time(16)?,
        },
    })
}

/// Returns the first watches of each group, in the order of their registration.
fn watches(tx: &Tx<'_>, groups: impl ExactSizeIterator<Item = GroupNo>) -> Result<Vec<Vec<WatchId>>> {
    tx.fetch(
        "select id from watches where watch_group = $1 order by id limit $2",
        groups.map(|no| params![no, SHOWN_WATCHES]),
        |row| row.id(0).map(WatchId),
    )
}

/// Returns the destinations of a group, each with the status of its delivery.
fn destinations(
    tx: &Tx<'_>,
    keyring: &Keyring,
    id: WatchId,
) -> Result<Vec<(Destination, Option<DeliveryStatus>)>> {
    let sql = format!(
        "select {DESTINATION}, (select d.status from deliveries d where d.watch = wd.watch and d.n = wd.n limit 1)
         from watch_destinations wd {SAVED_JOIN} where wd.watch = $1 order by wd.n"
    );
    tx.list(&sql, params![id], |row| {
        let status = row.opt_text(DESTINATION_COLUMNS)?;
        Ok((read_destination(row, 0, keyring)?, status.as_deref().and_then(DeliveryStatus::parse)))
    })
}

/// Groups of the registrations of a transaction, by app and name.
type KnownGroups<'a> = BTreeMap<(AppNo, &'a str), StoredGroup>;

/// Registers watches in their groups. Returns for each its group, if it has one, or the reason why it is refused.
pub(super) fn join(
    batch: &mut Batch<'_>,
    watches: &[&NewWatch],
) -> Result<Vec<Result<Option<GroupNo>, GroupRefusal>>> {
    fn key(new: &NewWatch) -> Option<(AppNo, &str)> {
        Some((new.app, new.group.as_ref()?.name.as_str()))
    }
    let keys: BTreeSet<(AppNo, &str)> = watches.iter().filter_map(|new| key(new)).collect();
    if keys.is_empty() {
        return Ok(watches.iter().map(|_| Ok(None)).collect());
    }
    let sql = format!("{GROUP} where app = $1 and name = $2");
    let found = batch.tx.fetch(&sql, keys.iter().map(|(app, name)| params![app, *name]), read_group)?;
    let found = keys.into_iter().zip(found);
    let mut known: KnownGroups<'_> =
        found.filter_map(|(key, found)| Some((key, found.into_iter().next()?))).collect();
    let mut joined = Vec::with_capacity(watches.len());
    for new in watches {
        joined.push(match (&new.group, key(new)) {
            (Some(request), Some(key)) => {
                join_one(batch, &mut known, key, (request, new.created_at))?.map(Some)
            }
            _ => Ok(None),
        });
    }
    let accepted: BTreeSet<GroupNo> =
        joined.iter().filter_map(|group| group.as_ref().ok().copied().flatten()).collect();
    batch.tx.update_each(
        row_sql!("update watch_groups set registered = $1" where "no = $2"),
        known
            .values()
            .filter(|stored| accepted.contains(&stored.no))
            .map(|stored| params![stored.group.registered, stored.no]),
    )?;
    Ok(joined)
}

/// Registers a watch in a group, which it defines if there is none.
fn join_one<'a>(
    batch: &mut Batch<'_>,
    known: &mut KnownGroups<'a>,
    key: (AppNo, &'a str),
    (request, now): (&GroupRequest, Timestamp),
) -> Result<Result<GroupNo, GroupRefusal>> {
    let stored = match known.entry(key) {
        Entry::Occupied(stored) => stored.into_mut(),
        Entry::Vacant(place) => match define(batch, key.0, request, now)? {
            Ok(stored) => place.insert(stored),
            Err(refusal) => return Ok(Err(refusal)),
        },
    };
    if let Some(field) = difference(batch, stored, request)? {
        return Ok(Err(GroupRefusal::Differs(field)));
    }
    let group = &mut stored.group;
    if group.status == GroupStatus::Expired {
        return Ok(Err(GroupRefusal::Expired));
    }
    if group.registered >= group.size {
        return Ok(Err(GroupRefusal::Full(group.size)));
    }
    group.registered += 1;
    Ok(Ok(stored.no))
}

/// Inserts a group.
fn define(
    batch: &mut Batch<'_>,
    app: AppNo,
    request: &GroupRequest,
    now: Timestamp,
) -> Result<Result<StoredGroup, GroupRefusal>> {
    let Some(size) = request.size else { return Ok(Err(GroupRefusal::SizeMissing)) };
    let rule = request.rule.unwrap_or(GroupRule::All);
    let needed = rule.needed(size);
    let expires_in = request.expires_in.unwrap_or(EXPIRES_IN);
    let expires_in_ms = i64::try_from(expires_in.as_millis()).unwrap_or(i64::MAX);
    let (expires_at, id) = (now.plus(expires_in), WatchId(batch.shared.ids.draw(now)));
    let no = batch.tx.one(
        "insert into watch_groups (app, id, name, size, rule, needed, expires_in, expires_at, status, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) returning no",
        params![
            app,
            id,
            &request.name,
            size,
            &rule.to_text(),
            needed,
            expires_in_ms,
            expires_at,
            GroupStatus::Open,
            now
        ],
        |row| row.int(0).map(GroupNo),
    )?;
    let notify = request.notify.iter().flatten();
    let numbered = (0..).zip(notify).map(|(n, destination)| (id, n, destination));
    insert_destinations(&batch.tx, &batch.shared.keyring, numbered)?;
    batch.effects.group_expiries.push(expires_at);
    let group = Group {
        app,
        name: request.name.clone(),
        status: GroupStatus::Open,
        size,
        rule,
        registered: 0,
        counts: GroupCounts::default(),
        watches: Vec::new(),
        destinations: Vec::new(),
        created_at: now,
        expires_at,
        ended_at: None,
    };
    Ok(Ok(StoredGroup { no, id, expires_in_ms, needed, group }))
}

/// Returns a field that the request gives otherwise than the first registration of the group.
fn difference(
    batch: &Batch<'_>,
    stored: &StoredGroup,
    request: &GroupRequest,
) -> Result<Option<&'static str>> {
    let GroupRequest { name: _, size, rule, expires_in, notify } = request;
    let group = &stored.group;
    if size.is_some_and(|size| size != group.size) {
        return Ok(Some("size"));
    }
    if rule.is_some_and(|rule| rule.needed(group.size) != stored.needed) {
        return Ok(Some("when"));
    }
    if expires_in.is_some_and(|span| i64::try_from(span.as_millis()) != Ok(stored.expires_in_ms)) {
        return Ok(Some("expiresIn"));
    }
    let Some(notify) = notify else { return Ok(None) };
    let known = destinations(&batch.tx, &batch.shared.keyring, stored.id)?;
    let is_known = |one: &Destination| {
        let same = known.iter().find(|(known, _)| known.is_same_address(one));
        same.is_some_and(|(known, _)| known.saved.is_some() || known.has_same_options(one))
    };
    let is_same = known.len() == notify.len() && notify.iter().all(is_known);
    Ok((!is_same).then_some("notify"))
}

/// Notes that a watch of a group has ended in this transaction.
pub(super) fn note_end(batch: &mut Batch<'_>, group: GroupNo, status: WatchStatus, at: Timestamp) {
    let ends = batch.group_ends.entry(group).or_default();
    ends.counts.add(status);
    ends.last_at = ends.last_at.max(at);
}

/// Adds the ends of this transaction to their groups, and completes those of which enough watches have ended: the first
/// [`CHUNK`] of them now.
pub(super) fn settle(batch: &mut Batch<'_>) -> Result<()> {
    if batch.group_ends.is_empty() {
        return Ok(());
    }
    let ends = std::mem::take(&mut batch.group_ends);
    batch.tx.update_each(
        row_sql!(
            "update watch_groups set completed = completed + $1, failed = failed + $2, cancelled = cancelled + $3,
               not_found = not_found + $4, expired = expired + $5, stopped = stopped + $6"
            where "no = $7"
        ),
        ends.iter().map(|(no, GroupEnds { counts, .. })| {
            let GroupCounts { watching: _, completed, failed, cancelled, not_found, expired, stopped } = counts;
            params![completed, failed, cancelled, not_found, expired, stopped, no]
        }),
    )?;
    let sql = format!(
        "{GROUP} where no = $1 and ended_at is null
         and completed + failed + cancelled + not_found + expired + stopped >= needed"
    );
    let found = batch.tx.fetch(&sql, ends.keys().map(|no| params![no]), |row| {
        batch.shared.unreadable.skip(("watch_groups", 0), row, read_group(row))
    })?;
    let times = ends.values().map(|ends| ends.last_at);
    let met = found.into_iter().zip(times).filter_map(|(found, at)| Some((found.into_iter().next()??, at)));
    let mut met: Vec<_> = met.collect();
    let later = met.split_off(met.len().min(CHUNK));
    if !later.is_empty() {
        batch.tx.update_each(
            row_sql!("update watch_groups set expires_at = $1" where "no = $2"),
            later.iter().map(|(stored, _)| params![DUE, stored.no]),
        )?;
        batch.effects.group_expiries.push(DUE);
    }
    end(batch, &met, (GroupStatus::Completed, EventType::GroupCompleted))
}

/// Ends groups, each at a time, and creates their events.
fn end(
    batch: &mut Batch<'_>,
    groups: &[(StoredGroup, Timestamp)],
    (status, event_type): (GroupStatus, EventType),
) -> Result<()> {
    if groups.is_empty() {
        return Ok(());
    }
    let changed = batch.tx.update_each(
        row_sql!(
            "update watch_groups set status = $1, ended_at = $2, expires_at = created_at + expires_in"
            where "no = $3 and ended_at is null"
        ),
        groups.iter().map(|(stored, at)| params![status, at, stored.no]),
    )?;
    let watches = watches(&batch.tx, groups.iter().map(|(stored, _)| stored.no))?;
    let ended = groups.iter().zip(&watches).zip(changed).filter(|(_, changed)| *changed > 0);
    let events = ended.map(|(((StoredGroup { id, group, .. }, at), watches), _)| NewEvent {
        id: EventId::derive(*id, event_type, 0),
        app: group.app,
        watch: *id,
        event_type,
        observed_at: *at,
        body: GroupBody::new(event_type, *at, group, watches).to_json().into(),
        webhook_body: None,
        finished: None,
        delivery: Some((None, 0)),
    });
    batch.events.extend(events.collect::<Vec<_>>());
    Ok(())
}

pub(super) fn expire_groups(batch: &mut Batch<'_>, command: &ExpireGroups) -> Result<Option<Timestamp>> {
    settle(batch)?;
    let sql = format!("{GROUP} where ended_at is null and expires_at <= $1 order by expires_at limit $2");
    let unreadable = &batch.shared.unreadable;
    let left_out = unreadable.count("watch_groups");
    let most = u32::try_from(CHUNK + left_out).unwrap_or(u32::MAX);
    let due = batch.tx.list(&sql, params![command.until, most], |row| {
        unreadable.skip(("watch_groups", 0), row, read_group(row))
    })?;
    let has_unreadable = due.iter().any(Option::is_none);
    let due: Vec<StoredGroup> = due.into_iter().flatten().collect();
    if unreadable.count("watch_groups") > left_out && due.is_empty() {
        // Others may be behind them.
        return Ok(Some(command.until));
    }
    if has_unreadable && due.is_empty() {
        // Those that cannot be read stay as they are.
        let sql = "select min(expires_at) from watch_groups where ended_at is null and expires_at > $1";
        return batch.tx.one(sql, params![command.until], |row| row.opt_time(0));
    }
    let due = due.into_iter().map(|stored| (stored, command.now));
    let (met, expired): (Vec<_>, Vec<_>) =
        due.partition(|(stored, _)| stored.group.counts.ended() >= stored.needed);
    end(batch, &met, (GroupStatus::Completed, EventType::GroupCompleted))?;
    end(batch, &expired, (GroupStatus::Expired, EventType::GroupExpired))?;
    next_expiry(&batch.tx)
}
