//! How jobs without a definition are polled, and what identifies them.
//!
//! **Identity.** A job of a definition is identified by the provider, the id and the parameters; its `account` is
//! `default`, and all apps share it. A job without a definition has the provider `inline`, and its `account` is a hash of
//! the app and of the whole poll object in canonical form. So the same poll object of the same app is the same job, and
//! no app shares, sees or delays the job of another.
//!
//! The hash has a key (`identity`). Without one, a reader of the database could try values: the hash covers header
//! values and queries, which may be weak passwords. The key belongs to the database and is sealed like other secrets. It
//! never changes, because a new one would orphan the jobs.
//!
//! **The credential** that a poll object names is a part of the identity, by its id: a new credential with the same name is
//! another job's.
//!
//! **The poll object** is stored once for each job, sealed, and beside it a form for people, in which `***` stands for
//! each secret. The poller gets it with each message about the job, and at a start with the row. Nothing else is needed
//! to poll: definition, queue and budget are made from it (`poller/scheduler`).
//!
//! **Its row** is deleted with the row of the job, and as soon as the last watch of a job is erased. A registration
//! writes it again if it is missing.

use std::sync::Arc;

use super::db::{Result, Row, Tx, params, row_sql};
use super::reads::ReadStore;
use super::sealing::{Column, Keyring};
use crate::domain::{AppNo, Id, JobNo, Masked, NewPoll, PollSource};

impl ReadStore {
    /// Returns what is stored of a poll object of an app, and of the credential that it names.
    pub fn new_poll(
        &self,
        app: AppNo,
        source: String,
        shown: String,
        credential: Option<(Id, Masked)>,
    ) -> NewPoll {
        let (credential, secret) = credential.unzip();
        let id = self.shared.identity_key.identify(app, &source, credential);
        let source = PollSource { poll: Masked::new(source), credential: secret };
        NewPoll { id, source, credential, shown }
    }
}

/// Inserts how jobs are polled, unless it is stored already. Each job occurs once.
pub fn insert<'p>(
    tx: &Tx<'_>,
    keyring: &Keyring,
    polls: impl Iterator<Item = (JobNo, &'p NewPoll)>,
) -> Result<()> {
    let sealed = polls.map(|(job, poll)| {
        Ok((job, poll, keyring.seal(Column::POLL_SOURCE, poll.id, poll.source.poll.reveal())?.into_owned()))
    });
    let sealed: Vec<(JobNo, &NewPoll, String)> = sealed.collect::<Result<_>>()?;
    tx.upsert_each(
        row_sql!(
            "insert into job_polls (job, id, source, shown, credential)"
            values ("$1, $2, $3, $4, $5")
            "on conflict (job) do nothing"
        ),
        sealed.iter().map(|(job, poll, source)| params![*job, poll.id, source, &poll.shown, poll.credential]),
    )
}

/// Reads four columns of a job from `first`, id and source of its poll, and id and secret of the credential; `None` for a
/// job of a definition. A credential that was deleted is absent.
///
/// A text that does not open is logged and counts as absent: one broken row must not keep all other jobs from being
/// polled. The job then expires.
pub fn read(row: &Row<'_>, first: usize, keyring: &Keyring) -> Result<Option<Arc<PollSource>>> {
    let Some(poll) = row.opt_text(first + 1)? else { return Ok(None) };
    let poll = keyring.open(Column::POLL_SOURCE, row.id(first)?, poll);
    let credential = match row.opt_text(first + 3)? {
        Some(secret) => keyring.open(Column::CREDENTIAL_SECRET, row.id(first + 2)?, secret).map(Some),
        None => Ok(None),
    };
    match poll.and_then(|poll| Ok((poll, credential?))) {
        Ok((poll, credential)) => Ok(Some(Arc::new(PollSource {
            poll: Masked::new(poll),
            credential: credential.map(Masked::new),
        }))),
        Err(error) => {
            tracing::error!(%error, "how a job is polled cannot be read: the job is not polled");
            Ok(None)
        }
    }
}

/// Number of rows that one transaction seals again.
const CHUNK: u32 = 500;

/// Re-seals the polls of the jobs after `last`. Returns the number of changed rows, and the last job if more remain.
pub fn reseal(tx: &Tx<'_>, keyring: &Keyring, last: i64) -> Result<(usize, Option<i64>)> {
    let found = tx.list(
        "select job, id, source from job_polls where job > $1 order by job limit $2",
        params![last, CHUNK],
        |row| {
            let mut source = row.text(2)?;
            let is_changed = keyring.reseal(row.id(1)?, [(Column::POLL_SOURCE, Some(&mut source))])?;
            Ok((row.int(0)?, is_changed, source))
        },
    )?;
    let changed = tx.update_each(
        row_sql!("update job_polls set source = $1" where "job = $2"),
        found.iter().filter(|(_, is_changed, _)| *is_changed).map(|(job, _, source)| params![source, *job]),
    )?;
    Ok((changed.into_iter().sum(), found.last().map(|(job, ..)| *job)))
}

/// Re-seals the key of the identities. Returns the number of changed rows.
pub fn reseal_key(tx: &Tx<'_>, keyring: &Keyring) -> Result<usize> {
    let mut count = 0;
    for (id, mut key) in
        tx.list("select id, key from identity_keys", [], |row| Ok((row.id(0)?, row.text(1)?)))?
    {
        if keyring.reseal(id, [(Column::IDENTITY_KEY, Some(&mut key))])? {
            count += tx.run("update identity_keys set key = $1 where id = $2", params![&key, id])?;
        }
    }
    Ok(count)
}
