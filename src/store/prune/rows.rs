//! Rows of events, deliveries and attempts, by the id of a watch or by the id that stands in its place.

use super::super::db::{Result, Tx, Value, params};
use crate::domain::Id;

/// Deletes the events, deliveries and attempts of each of these ids, which are those of watches or stand in their place.
pub fn delete_events<'v>(
    tx: &Tx<'_>,
    ids: &(impl ExactSizeIterator<Item = [Value<'v>; 1]> + Clone),
) -> Result<()> {
    for sql in [
        "delete from attempts where delivery in (select id from deliveries where watch = $1)",
        "delete from deliveries where watch = $1",
        "delete from events where watch = $1",
    ] {
        tx.each(sql, ids.clone())?;
    }
    Ok(())
}

/// Returns how many of these ids, from the first on, have no more than `rows` events, deliveries and attempts.
pub fn number_within_rows(tx: &Tx<'_>, ids: impl ExactSizeIterator<Item = Id>, rows: u32) -> Result<usize> {
    let most = i64::from(rows) + 1;
    let counts = tx.ones(
        "select (select count(*) from (
             select 1 from attempts a join deliveries d on d.id = a.delivery where d.watch = $1 limit $2) x)
           + (select count(*) from (select 1 from deliveries where watch = $1 limit $2) y)
           + (select count(*) from (select 1 from events where watch = $1 limit $2) z)",
        ids.map(|id| params![id, most]),
        |row| row.int(0),
    )?;
    let total = counts.iter().scan(0_i64, |total, count| {
        *total = total.saturating_add(*count);
        Some(*total)
    });
    Ok(total.take_while(|total| *total < most).count())
}

/// Deletes `rows` rows of a watch that has more: attempts before their deliveries, and these before the events.
pub fn delete_part(tx: &Tx<'_>, watch: Id, rows: u32) -> Result<()> {
    let mut left = rows as usize;
    for sql in [
        "delete from attempts where (delivery, n) in (
           select a.delivery, a.n from attempts a join deliveries d on d.id = a.delivery where d.watch = $1 limit $2)",
        "delete from deliveries where (app, id) in (select app, id from deliveries where watch = $1 limit $2)",
        "delete from events where id in (select id from events where watch = $1 limit $2)",
    ] {
        left = left.saturating_sub(tx.run(sql, params![watch, i64::try_from(left).unwrap_or(i64::MAX)])?);
    }
    Ok(())
}
