//! Processes that open the database, and the shards that they own.

use super::batch::Batch;
use super::db::{Result, Tx, params, row_sql};
use crate::domain::{SHARDS, Timestamp};

/// A write that changes no fact. It shows whether the database accepts writes.
#[derive(Clone, Copy, Debug)]
pub struct Probe;

/// Assigns every shard to this process, as `node`, under a new epoch. Returns how often the database has
/// been opened.
pub(super) fn take_shards(tx: &Tx<'_>, node: &str, now: Timestamp) -> Result<i64> {
    tx.run(
        "insert into nodes (id, incarnation, started_at) values ($1, 1, $2)
         on conflict (id) do update set incarnation = nodes.incarnation + 1, started_at = excluded.started_at",
        params![node, now],
    )?;
    tx.insert_each(
        row_sql!(
            "insert into shards (shard, node, epoch)"
            values ("$1, $2, 1")
            "on conflict (shard) do update set node = excluded.node, epoch = shards.epoch + 1"
        ),
        (0..SHARDS).map(|shard| params![shard, node]),
    )?;
    tx.one("select incarnation from nodes where id = $1", params![node], |row| row.int(0))
}

/// Applies probes.
pub(super) fn probe(batch: &mut Batch<'_>, probes: &[&Probe]) -> Result<Vec<()>> {
    count_probe(&batch.tx)?;
    Ok(vec![(); probes.len()])
}

/// Increments a counter: SQLite writes no page for an update that changes nothing.
pub(super) fn count_probe(tx: &Tx<'_>) -> Result<()> {
    tx.run("update nodes set probes = probes + 1", []).map(|_| ())
}
