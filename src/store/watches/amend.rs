//! Amending a watch that has not ended.
//!
//! **Amended while the job ends.** The first transaction decides. An amendment begins with an update of the watch
//! `where status = 'watching'`. If no row matches, the watch has ended, nothing is changed, and the command is
//! refused. If the row matches, it is locked until the commit, and a later ending reads the amended destinations and
//! metadata. No ending is delivered to a mixture of old and new destinations.
//!
//! **Amended during the last poll.** A poll at the expiry that finds no ending ends the watches that expire, by
//! their rows at that time, before the poll began ([`ExpireWatches`](super::super::ExpireWatches)). A watch whose
//! expiry was postponed meanwhile is not among them. The poller receives the new terms from its mailbox before it
//! decides anything.
//!
//! **Earlier events do not change.** They keep their metadata and their deliveries. A new destination receives
//! later events only.

use super::super::batch::Batch;
use super::super::db::{Result, Row};
use super::super::jobs;
use super::super::rows::{insert_destinations, read_destination};
use super::read::find;
use crate::domain::{AppNo, Destination, JobNo, Timestamp, Watch, WatchId};

/// Changes a watch. A field that is `None` is not changed.
#[derive(Clone, Debug)]
pub struct AmendWatch {
    /// The app.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// New expiry.
    pub expires_at: Option<Timestamp>,
    /// New metadata: a JSON object of the client's.
    pub metadata: Option<String>,
    /// Additional destinations. Those that the watch has already are ignored.
    pub destinations: Vec<Destination>,
    /// Maximum number of destinations of the watch.
    pub destinations_max: usize,
}

/// Reason why a watch was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AmendRefusal {
    /// The watch does not exist.
    NotFound,
    /// The watch has ended.
    Ended,
    /// The watch would have more than the maximum number of destinations.
    TooManyDestinations,
    /// The watch has this address already, with other headers or another secret.
    DestinationDiffers(String),
}

pub fn amend_watch(batch: &mut Batch<'_>, command: &AmendWatch) -> Result<Result<Watch, AmendRefusal>> {
    let (app, id) = (command.app.0, command.watch.0);
    let keyring = &batch.shared.keyring;
    // Locks the row: the watch does not end before the commit.
    let held = batch.tx.run(
        "update watches set status = status where app = $1 and id = $2 and status = 'watching'",
        [app.into(), id.into()],
    )?;
    if held == 0 {
        let known = find(&batch.tx, keyring, command.app, command.watch)?;
        return Ok(Err(if known.is_some() { AmendRefusal::Ended } else { AmendRefusal::NotFound }));
    }
    let known = batch.tx.list(
        "select n, id, channel, address, queue, headers, secret from watch_destinations
         where watch = $1 order by n",
        [id.into()],
        |row: &Row<'_>| Ok((row.int(0)?, read_destination(row, 1, keyring)?)),
    )?;
    let mut fresh = Vec::new();
    for one in &command.destinations {
        let same = |known: &&Destination| known.channel == one.channel && known.address == one.address;
        match known.iter().map(|(_, known)| known).find(same) {
            None => fresh.push(one),
            Some(known) if known.headers == one.headers && known.secret == one.secret => {}
            Some(_) => return Ok(Err(AmendRefusal::DestinationDiffers(one.address.clone()))),
        }
    }
    if known.len() + fresh.len() > command.destinations_max {
        return Ok(Err(AmendRefusal::TooManyDestinations));
    }
    let first = known.last().map_or(0, |(n, _)| n + 1);
    let fresh = (first..).zip(fresh).map(|(n, one)| (command.watch, n, one));
    insert_destinations(&batch.tx, keyring, fresh)?;
    if let Some(metadata) = &command.metadata {
        batch.tx.run(
            "update watches set metadata = $1 where app = $2 and id = $3",
            [metadata.into(), app.into(), id.into()],
        )?;
    }
    if let Some(expires_at) = command.expires_at {
        let job = batch.tx.one(
            "update watches set expires_at = $1 where app = $2 and id = $3 returning job",
            [expires_at.into(), app.into(), id.into()],
            |row| Ok(JobNo(row.int(0)?)),
        )?;
        jobs::notify_watchers_changed(batch, &[job])?;
    }
    let amended = find(&batch.tx, keyring, command.app, command.watch)?;
    Ok(amended.ok_or(AmendRefusal::NotFound))
}
