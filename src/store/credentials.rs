//! Credentials of apps, with which their jobs are polled in place of the operator's.
//!
//! A credential is found by its name when a watch is registered. The job then refers to its id, which no other
//! credential ever has: a new one with the same name is another one, and its jobs are others. So a job never gets a
//! credential that its registration did not name.
//!
//! A credential that a running watch uses cannot be deleted. The registration checks in its transaction that the
//! credential exists, so neither overtakes the other.

use super::batch::Batch;
use super::db::{Result, Row, Tx, params};
use super::idempotency::Outcome;
use super::reads::{INTERNAL, ReadStore};
use super::rows::to_json;
use super::sealing::{Column, Keyring};
use crate::domain::{AppNo, Credential, CredentialKind, Id, Masked};

/// Maximum number of credentials of an app. A list shows all of them.
const CREDENTIALS_MAX: i64 = 100;

/// Creates a credential.
#[derive(Debug)]
pub struct CreateCredential {
    /// The app.
    pub app: AppNo,
    /// The credential without its secret.
    pub credential: Credential,
    /// What is sealed.
    pub secret: Masked,
}

/// Reason why a credential was not created or deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialRefusal {
    /// The app has no such credential.
    NotFound,
    /// The app has another one with this name.
    NameTaken,
    /// The app has the maximum number of credentials, which is the value.
    TooMany(i64),
    /// A running watch uses it.
    InUse,
}

/// Deletes a credential.
#[derive(Clone, Debug)]
pub struct DeleteCredential {
    /// The app.
    pub app: AppNo,
    /// Its name.
    pub name: String,
}

impl ReadStore {
    /// Returns the credentials of an app, in the order of their names.
    pub async fn credentials(&self, app: AppNo) -> Result<Vec<Credential>> {
        let unreadable = self.shared.unreadable.clone();
        self.read(app, move |tx| {
            let sql =
                "select id, name, kind, send_to, created_at from credentials where app = $1 order by name";
            let read = |row: &Row<'_>| unreadable.skip(("credentials", 0), row, read_credential(row));
            Ok(tx.list(sql, params![app], read)?.into_iter().flatten().collect())
        })
        .await
    }

    /// Returns the secret of a credential by its id; `None` if it was deleted.
    pub async fn credential_secret(&self, id: Id) -> Result<Option<Masked>> {
        let (keyring, unreadable) = (self.shared.keyring.clone(), self.shared.unreadable.clone());
        self.read(INTERNAL, move |tx| {
            tx.find("select secret, id from credentials where id = $1", params![id], |row| {
                let secret = row.text(0).and_then(|text| keyring.open(Column::CREDENTIAL_SECRET, id, text));
                unreadable.note(("credentials", 1), row, &secret);
                secret.map(Masked::new)
            })
        })
        .await
    }

    /// Returns a credential of an app with its secret.
    pub async fn credential(&self, app: AppNo, name: String) -> Result<Option<(Id, Masked)>> {
        let keyring = self.shared.keyring.clone();
        self.read(app, move |tx| {
            let sql = "select id, secret from credentials where app = $1 and name = $2";
            tx.find(sql, params![app, &name], |row| {
                let id = row.id(0)?;
                Ok((id, Masked::new(keyring.open(Column::CREDENTIAL_SECRET, id, row.text(1)?)?)))
            })
        })
        .await
    }
}

fn read_credential(row: &Row<'_>) -> Result<Credential> {
    Ok(Credential {
        id: row.id(0)?,
        name: row.text(1)?,
        kind: row.word(2, CredentialKind::parse)?,
        send_to: row.json(3)?,
        created_at: row.time(4)?,
    })
}

pub fn create(batch: &mut Batch<'_>, command: &CreateCredential) -> Outcome<(), CredentialRefusal> {
    let CreateCredential { app, credential, secret } = command;
    let sql = "select name from credentials where app = $1";
    let names = batch.tx.list(sql, params![*app], |row| row.text(0))?;
    if names.contains(&credential.name) {
        return Ok(Err(CredentialRefusal::NameTaken));
    }
    if i64::try_from(names.len()).unwrap_or(i64::MAX) >= CREDENTIALS_MAX {
        return Ok(Err(CredentialRefusal::TooMany(CREDENTIALS_MAX)));
    }
    let sealed = batch.shared.keyring.seal(Column::CREDENTIAL_SECRET, credential.id, secret.reveal())?;
    batch.tx.run(
        "insert into credentials (id, app, name, kind, send_to, secret, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        params![
            credential.id,
            *app,
            &credential.name,
            credential.kind.as_str(),
            &to_json(&credential.send_to),
            &*sealed,
            credential.created_at
        ],
    )?;
    Ok(Ok(()))
}

/// Returns a row if a running watch or a pending cancellation uses a credential. An index finds them, however many jobs of
/// the credential have ended.
pub(super) const USERS: &str = "select 1
    where exists (select 1 from watches w where w.credential = $1 and w.status = 'watching')
      or exists (select 1 from job_cancels c where c.credential = $1 and c.status = 'pending')";

pub fn delete(batch: &mut Batch<'_>, command: &DeleteCredential) -> Result<Result<(), CredentialRefusal>> {
    let DeleteCredential { app, name } = command;
    let sql = "select id from credentials where app = $1 and name = $2";
    let Some(id) = batch.tx.find(sql, params![*app, name], |row| row.id(0))? else {
        return Ok(Err(CredentialRefusal::NotFound));
    };
    let used = batch.tx.find(USERS, params![id], |row| row.int(0))?;
    if used.is_some() {
        return Ok(Err(CredentialRefusal::InUse));
    }
    batch.tx.run("delete from credentials where id = $1", params![id])?;
    Ok(Ok(()))
}

/// Returns whether all these credentials exist. There is one writer, so they exist until the commit.
pub fn all_exist(tx: &Tx<'_>, ids: &[Id]) -> Result<bool> {
    if ids.is_empty() {
        return Ok(true);
    }
    let rows = ids.iter().map(|id| params![*id]);
    let found = tx.fetch("select 1 from credentials where id = $1", rows, |row| row.int(0))?;
    Ok(found.iter().all(|found| !found.is_empty()))
}

/// Deletes up to `rows` credentials of an app that is erased. Returns how many there were.
pub fn erase(tx: &Tx<'_>, app: AppNo, rows: u32) -> Result<usize> {
    let found =
        tx.list("select id from credentials where app = $1 limit $2", params![app, rows], |row| row.id(0))?;
    tx.each("delete from credentials where id = $1", found.iter().map(|id| params![*id]))?;
    Ok(found.len())
}

/// Re-seals the credentials after `last`. Returns the number of changed rows, and the last id if more remain.
pub fn reseal(tx: &Tx<'_>, keyring: &Keyring, last: Id) -> Result<(usize, Option<Id>)> {
    const CHUNK: u32 = 500;
    let sql = "select id, secret from credentials where id > $1 order by id limit $2";
    let found = tx.list(sql, params![last, CHUNK], |row| {
        let (id, mut secret) = (row.id(0)?, row.text(1)?);
        let is_changed = keyring.reseal(id, [(Column::CREDENTIAL_SECRET, Some(&mut secret))])?;
        Ok((id, is_changed, secret))
    })?;
    let mut count = 0;
    for (id, _, secret) in found.iter().filter(|(_, is_changed, _)| *is_changed) {
        count += tx.run("update credentials set secret = $1 where id = $2", params![secret, *id])?;
    }
    Ok((count, found.last().map(|(id, ..)| *id)))
}
