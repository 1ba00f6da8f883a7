//! Changing a watch that still waits.
//!
//! **Amended while the job ends.** Whichever transaction comes first decides. An amendment begins with an
//! update of the watch `where status = 'watching'`: if it hits nothing the watch has ended, nothing is
//! changed, and whoever asked is told so; if it hits, the row is ours until the commit, and an ending
//! that comes after it reads the destinations and the metadata as amended. There is no moment at which
//! an ending is told to some of the old and some of the new.
//!
//! **Amended during the last look.** A look that was sent because the watch's time was up ends, when it
//! finds nothing, the watches that *now* expire until it began ([`super::Expire`] asks the rows): one
//! whose time was put off meanwhile is not among them. The poller learns the new terms from the mailbox,
//! before it decides anything.
//!
//! **What was made before stays as it is.** An event that is on record keeps its metadata and its
//! deliveries; a new destination hears of what happens from now on.

use super::batch::Batch;
use super::db::{Result, Row};
use super::jobs;
use super::rows::read_destination;
use super::watches::{find, insert_destinations};
use crate::domain::{AppNo, Destination, JobNo, Timestamp, Watch, WatchId};

/// What is to be changed of a watch.
#[derive(Clone, Debug)]
pub struct Amend {
    /// In whose name.
    pub app: AppNo,
    /// The watch.
    pub watch: WatchId,
    /// When it expires from now on.
    pub expires_at: Option<Timestamp>,
    /// The client's own JSON object from now on.
    pub metadata: Option<String>,
    /// Further destinations.
    pub destinations: Vec<Destination>,
    /// How many there may be in all.
    pub destinations_max: usize,
}

/// What became of it.
#[derive(Debug)]
pub enum Amended {
    /// There is no such watch.
    Unknown,
    /// It has ended: nothing of it changes any more.
    Ended,
    /// There would be too many destinations.
    TooMany,
    /// This address is one of its destinations already, with other headers or another secret.
    Differs(String),
    /// It is on disk.
    Done(Box<Watch>),
}

pub(super) fn amend(batch: &mut Batch<'_>, asks: &[&Amend]) -> Result<Vec<Amended>> {
    asks.iter().map(|ask| amend_one(batch, ask)).collect()
}

fn amend_one(batch: &mut Batch<'_>, ask: &Amend) -> Result<Amended> {
    let (app, id) = (ask.app.0, ask.watch.0);
    let keyring = &batch.shared.keyring;
    // Changes nothing, and decides: from here to the commit the watch does not end.
    let held = batch.tx.run(
        "update watches set status = status where app = $1 and id = $2 and status = 'watching'",
        [app.into(), id.into()],
    )?;
    if held == 0 {
        let known = find(&batch.tx, keyring, ask.app, ask.watch)?;
        return Ok(known.map_or(Amended::Unknown, |_| Amended::Ended));
    }
    let known = batch.tx.list(
        "select n, id, channel, address, queue, headers, secret from watch_destinations
         where watch = $1 order by n",
        [id.into()],
        |row: &Row<'_>| Ok((row.int(0)?, read_destination(row, 1, keyring)?)),
    )?;
    let mut fresh = Vec::new();
    for one in &ask.destinations {
        let same = |known: &&Destination| known.channel == one.channel && known.address == one.address;
        match known.iter().map(|(_, known)| known).find(same) {
            None => fresh.push(one),
            Some(known) if known.headers == one.headers && known.secret == one.secret => {}
            Some(_) => return Ok(Amended::Differs(one.address.clone())),
        }
    }
    if known.len() + fresh.len() > ask.destinations_max {
        return Ok(Amended::TooMany);
    }
    let first = known.last().map_or(0, |(n, _)| n + 1);
    let fresh = (first..).zip(fresh).map(|(n, one)| (ask.watch, n, one));
    insert_destinations(&batch.tx, keyring, fresh)?;
    if let Some(metadata) = &ask.metadata {
        batch.tx.run(
            "update watches set metadata = $1 where app = $2 and id = $3",
            [metadata.into(), app.into(), id.into()],
        )?;
    }
    if let Some(expires_at) = ask.expires_at {
        let job = batch.tx.one(
            "update watches set expires_at = $1 where app = $2 and id = $3 returning job",
            [expires_at.into(), app.into(), id.into()],
            |row| Ok(JobNo(row.int(0)?)),
        )?;
        jobs::tell_who_waits(batch, &[job])?;
    }
    let amended = find(&batch.tx, keyring, ask.app, ask.watch)?;
    Ok(amended.map_or(Amended::Unknown, |watch| Amended::Done(Box::new(watch))))
}
