//! Deletion of operations that ended some time ago.

use std::time::Duration;

use super::super::db::{Result, Tx, params};
use crate::domain::{OperationNo, Timestamp};

/// Time for which an operation is shown after its end.
const SHOWN_FOR: Duration = Duration::from_secs(24 * 3600);

/// Deletes at most `rows` operations that are not shown any more. Returns their number.
pub(in crate::store) fn prune_finished(tx: &Tx<'_>, now: Timestamp, rows: u32) -> Result<usize> {
    let old = tx.list(
        "select no from operations where finished_at < $1 order by finished_at limit $2",
        params![now.minus(SHOWN_FOR), rows],
        |row| Ok(OperationNo(row.int(0)?)),
    )?;
    tx.each("delete from operations where no = $1", old.iter().map(|no| params![*no]))?;
    Ok(old.len())
}
