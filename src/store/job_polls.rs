//! How jobs are polled that are an app's alone, and what identifies them.
//!
//! **Identity.** A job of which the definition and the credential are the operator's is identified by the provider, the
//! id and the parameters; its `account` is `default`, and all apps share it. Every other job is an app's alone. Its
//! `account` is a hash of the app, of its *source* in canonical form, and of the credential. The source is
//!
//! - without a definition the whole poll object; the provider is then `inline`;
//! - with a credential of the app beside `provider`, the id of the definition and the name of the credential;
//! - with a definition of the app, the version of it, and the name of the credential if there is one.
//!
//! So the same registration of the same app is the same job, and no app shares, sees or delays the job of another.
//!
//! The hash has a key (`identity`). Without one, a reader of the database could try values: the hash covers header
//! values and queries, which may be weak passwords. The key belongs to the database and is sealed like other secrets.
//! It never changes, because a new one would orphan the jobs.
//!
//! **The credential** is a part of the identity, by its id: a new credential with the same name is another job's.
//!
//! **The source** is stored once for each job, sealed, and beside it a form for people, in which `***` stands for each
//! secret. The poller gets it with each message about the job, and at a start with the row. Queue and budget are made
//! from it (`poller/scheduler`), and so is the definition of a poll object. For other jobs, the poller reads the
//! credential and the text of the definition when it first needs them (`poller/own_providers`): many jobs share one.
//!
//! **A row that is missing or cannot be opened** never makes a job the operator's: the account says whose it is.
//! Without its source, the job is not polled.
//!
//! **Its row** is deleted with the row of the job, and as soon as the last watch of a job is erased. A registration
//! writes it again if it is missing.

use std::sync::Arc;

use super::db::{Result, Row, Tx, params, row_sql};
use super::reads::ReadStore;
use super::sealing::{Column, Keyring};
use crate::domain::{AppNo, Id, JobNo, Masked, NewPoll, PollSource};

impl ReadStore {
    /// Returns what is stored of how an app's job is polled, and of the credential for it.
    pub fn new_poll(&self, app: AppNo, source: PollSource, shown: String, credential: Option<Id>) -> NewPoll {
        let id = self.shared.identity_key.identify(app, &source.text(), credential);
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
        Ok((job, poll, keyring.seal(Column::POLL_SOURCE, poll.id, &poll.source.text())?.into_owned()))
    });
    let sealed: Vec<(JobNo, &NewPoll, String)> = sealed.collect::<Result<_>>()?;
    tx.upsert_each(
        row_sql!(
            "insert into job_polls (job, id, source, shown, credential, definition)"
            values ("$1, $2, $3, $4, $5, $6")
            "on conflict (job) do nothing"
        ),
        sealed.iter().map(|(job, poll, source)| {
            params![*job, poll.id, source, &poll.shown, poll.credential, poll.source.definition_id()]
        }),
    )
}

/// Four columns of a job `j`, for [`read`].
macro_rules! poll_columns {
    () => {
        "(select p.id from job_polls p where p.job = j.no), (select p.source from job_polls p where p.job = j.no),
    (select p.credential from job_polls p where p.job = j.no),
    (select c.secret from job_polls p join credentials c on c.id = p.credential where p.job = j.no)"
    };
}
pub(super) use poll_columns;

/// Reads four columns of a job from `first`, id and source of its poll, and id and secret of the credential; `None` for
/// a job that is the operator's. A credential that was deleted is absent.
///
/// A text that does not open is logged and counts as absent: one broken row must not keep all other jobs from being
/// polled. The job then expires.
pub fn read(row: &Row<'_>, first: usize, keyring: &Keyring) -> Result<Option<Arc<PollSource>>> {
    let Some(poll) = row.opt_text(first + 1)? else { return Ok(None) };
    let poll = keyring.open(Column::POLL_SOURCE, row.id(first)?, poll);
    let credential = match row.opt_text(first + 3)? {
        Some(secret) => {
            let id = row.id(first + 2)?;
            keyring.open(Column::CREDENTIAL_SECRET, id, secret).map(|secret| Some((id, Masked::new(secret))))
        }
        None => Ok(None),
    };
    match poll.and_then(|poll| Ok(PollSource::read(poll, credential?))) {
        Ok(source) => Ok(Some(Arc::new(source))),
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
