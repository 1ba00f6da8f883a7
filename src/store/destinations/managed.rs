//! Destinations of the configuration file, which the start applies.
//!
//! A destination of the file is found by its app and its name. Its values are those of the file. A reason `gone` or
//! `failing` stays: the file does not know whether the receiver works again. A destination that is not in the file any
//! more is disabled as `unmanaged`, and then belongs to the clients of its app, who can enable or delete it. It is no
//! default any more: a renamed destination would otherwise receive each new event under both names, the old one when it
//! returns. If it returns to the file, it is enabled again, keeps its id, and sends what was skipped meanwhile.

use super::super::batch::Batch;
use super::super::db::{Result, params};
use super::super::reads::{INTERNAL, ReadStore};
use super::{SAVED, disable, enable, insert, read_saved, write};
use crate::domain::{DisabledReason, SavedDestination, SavedQueue, Timestamp};

/// A destination of the configuration file.
#[derive(Clone, Debug)]
pub struct ManagedDestination {
    /// Its values, with an id for the case that it is new.
    pub destination: SavedDestination,
    /// Whether the file enables it.
    pub is_enabled: bool,
}

/// Applies the destinations of the configuration file.
#[derive(Clone, Debug)]
pub struct ApplyManaged {
    /// All destinations of the file.
    pub destinations: Vec<ManagedDestination>,
    /// Time of the start.
    pub now: Timestamp,
}

/// Result of [`ApplyManaged`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ManagedChanges {
    /// Number of destinations that are new.
    pub created: usize,
    /// Number of destinations that are not in the file any more.
    pub unmanaged: usize,
}

impl ReadStore {
    /// Returns whether a destination of the configuration file is stored, or one that has left the file and is a default
    /// nevertheless.
    pub async fn has_managed_destination(&self) -> Result<bool> {
        let sql = "select no from destinations where deleted_at is null
                     and (is_managed = 1 or (is_default = 1 and disabled_reason = 'unmanaged')) limit 1";
        self.read(INTERNAL, move |tx| Ok(tx.find(sql, [], |row| row.int(0))?.is_some())).await
    }
}

pub fn apply_managed(batch: &mut Batch<'_>, command: &ApplyManaged) -> Result<ManagedChanges> {
    let keyring = &batch.shared.keyring;
    // Those that the file has left can return.
    let sql = format!(
        "{SAVED} where s.deleted_at is null and (s.is_managed = 1 or s.disabled_reason = 'unmanaged') order by s.id"
    );
    let mut known: Vec<SavedDestination> = batch.tx.list(&sql, [], |row| read_saved(row, keyring))?;
    // If a name occurs twice, the managed one is found first.
    known.sort_by_key(|destination| !destination.is_managed);
    let mut changes = ManagedChanges::default();
    for ManagedDestination { destination: new, is_enabled } in &command.destinations {
        let same = |known: &SavedDestination| {
            known.app == new.app && known.name == new.name && known.address.channel == new.address.channel
        };
        let Some(index) = known.iter().position(same) else {
            let disabled = (!is_enabled).then_some((DisabledReason::Manual, command.now));
            insert(batch, &SavedDestination { disabled, ..new.clone() })?;
            changes.created += 1;
            continue;
        };
        let before = known.remove(index);
        let SavedDestination { id, created_at, disabled, .. } = before;
        let after =
            SavedDestination { id, created_at, disabled, health: before.health.clone(), ..new.clone() };
        let after =
            SavedDestination { queue: SavedQueue { no: before.queue.no, ..after.queue.clone() }, ..after };
        write(batch, &after)?;
        match before.disabled {
            // A start without the file must not lose what was pending.
            Some((DisabledReason::Unmanaged, _)) if *is_enabled => enable(batch, &after, true, command.now)?,
            Some((DisabledReason::Manual, _)) if *is_enabled => enable(batch, &after, false, command.now)?,
            Some((DisabledReason::Unmanaged, _)) | None if !is_enabled => {
                disable(batch, &after, DisabledReason::Manual, command.now)?;
            }
            Some(_) | None => {}
        }
    }
    for left in known {
        if left.is_managed {
            disable(batch, &left, DisabledReason::Unmanaged, command.now)?;
            changes.unmanaged += 1;
        }
        // Earlier versions kept that it was a default.
        let sql = "update destinations set is_managed = 0, is_default = 0 where no = $1";
        batch.tx.run(sql, params![left.queue.no])?;
    }
    Ok(changes)
}
