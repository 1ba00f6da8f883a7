//! Re-sealing of secrets with the first key at the start; see [`sealing`](super::sealing).

use anyhow::{Context as _, Result, bail};

use super::db::{self, Committed, Tx, WriterConnection};
use super::rows::StoredDestination;
use super::sealing::{Column, Keyring};
use crate::domain::{ChannelKind, Id};

/// Number of rows that one transaction reads.
const CHUNK: u32 = 500;

/// Returns an error if a needed key is missing. Changes nothing.
pub(super) fn check(tx: &Tx<'_>, keyring: &Keyring) -> Result<()> {
    let needed = tx.list("select id from seals order by id", [], |row| row.text(0))?;
    let missing: Vec<&str> =
        needed.iter().map(String::as_str).filter(|id| keyring.names().all(|name| name != *id)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let (missing, known) = (missing.join(" and "), keyring.names().collect::<Vec<_>>().join(", "));
    let known = if known.is_empty() { "none".to_owned() } else { known };
    bail!(
        "secrets in the database are sealed with the encryption key {missing}, which is not configured \
         (configured: {known}): add it to encryption_key, after the one that is to seal; nothing was changed"
    )
}

/// Seals every value that is plain or under another key than the first. Returns the number of changed rows.
pub(super) fn reseal(connection: &mut WriterConnection, keyring: &Keyring) -> Result<usize> {
    let Some(first) = keyring.names().next() else { return Ok(0) };
    let seals =
        connection.tx().list("select id, complete from seals", [], |row| Ok((row.text(0)?, row.flag(1)?)))?;
    if matches!(seals.as_slice(), [(id, true)] if id == first) {
        return Ok(0);
    }
    // A new database has no plain values.
    let was_plain = !seals.iter().any(|(_, complete)| *complete)
        && connection.tx().find("select no from apps limit 1", [], |row| row.int(0))?.is_some();
    // The name is inserted before the first value is sealed.
    transaction(connection, |tx| {
        tx.run(
            "insert into seals (id, complete) values ($1, 0) on conflict (id) do update set complete = 0",
            [first.into()],
        )
    })?;
    let mut count = transaction(connection, |tx| apps(tx, keyring))?;
    let mut last = (Id::from_bytes([0; 16]), -1);
    loop {
        let (changed, next) = transaction(connection, |tx| destinations(tx, keyring, last))?;
        count += changed;
        match next {
            Some(next) => last = next,
            None => break,
        }
    }
    if was_plain && let Err(error) = connection.rewrite() {
        tracing::warn!(%error, "the database could not be rewritten: its file still holds plain secrets; run VACUUM");
    }
    // The other names are deleted when no value needs them any more.
    transaction(connection, |tx| {
        tx.run("delete from seals where id <> $1", [first.into()])?;
        tx.run("update seals set complete = 1", [])
    })?;
    Ok(count)
}

fn transaction<T>(
    connection: &mut WriterConnection,
    work: impl FnOnce(&Tx<'_>) -> db::Result<T>,
) -> Result<T> {
    connection.begin(true)?;
    let done = work(&connection.tx());
    match done {
        Ok(done) => match connection.commit()? {
            Committed::Yes => Ok(done),
            Committed::Unknown => bail!("the connection to the database was lost; start again"),
        },
        Err(error) => {
            connection.roll_back();
            Err(error).context("secrets cannot be sealed")
        }
    }
}

/// Re-seals the secrets of all apps; there are few.
fn apps(tx: &Tx<'_>, keyring: &Keyring) -> db::Result<usize> {
    let sql = "select id, signing_secret, old_signing_secret from apps";
    let found = tx.list(sql, [], |row| Ok((row.id(0)?, row.text(1)?, row.opt_text(2)?)))?;
    let stale = found.into_iter().filter(|(_, new, old)| {
        keyring.is_stale(new) || old.as_deref().is_some_and(|old| keyring.is_stale(old))
    });
    let mut count = 0;
    for (id, new, old) in stale {
        let new = keyring.open(Column::AppSecret, id, new)?;
        let new = keyring.seal(Column::AppSecret, id, &new)?;
        let old = old.map(|old| keyring.open(Column::AppOldSecret, id, old)).transpose()?;
        let old = old.as_deref().map(|old| keyring.seal(Column::AppOldSecret, id, old)).transpose()?;
        count += tx.run(
            "update apps set signing_secret = $1, old_signing_secret = $2 where id = $3",
            [new.as_ref().into(), old.as_deref().into(), id.into()],
        )?;
    }
    Ok(count)
}

/// A row of `watch_destinations`, as it is stored.
struct Row {
    key: (Id, i64),
    id: Id,
    secret_address: bool,
    address: String,
    headers: Option<String>,
    secret: Option<String>,
}

impl Row {
    fn is_stale(&self, keyring: &Keyring) -> bool {
        let optional = [&self.headers, &self.secret];
        (self.secret_address && keyring.is_stale(&self.address))
            || optional.into_iter().flatten().any(|text| keyring.is_stale(text))
    }

    fn opened(self, keyring: &Keyring) -> db::Result<Self> {
        let id = self.id;
        let open = |column, text: Option<String>| text.map(|text| keyring.open(column, id, text)).transpose();
        Ok(Self {
            address: keyring.open(Column::DestinationAddress, id, self.address)?,
            headers: open(Column::DestinationHeaders, self.headers)?,
            secret: open(Column::DestinationSecret, self.secret)?,
            ..self
        })
    }

    fn sealed(&self, keyring: &Keyring) -> db::Result<StoredDestination<'_>> {
        let address = (self.address.as_str(), self.secret_address);
        StoredDestination::new(keyring, self.id, address, self.headers.clone(), self.secret.as_deref())
    }
}

/// Re-seals the destinations after `last`. Returns the number of changed rows, and the last key if more remain.
fn destinations(tx: &Tx<'_>, keyring: &Keyring, last: (Id, i64)) -> db::Result<(usize, Option<(Id, i64)>)> {
    let found = tx.list(
        "select watch, n, id, channel, address, headers, secret from watch_destinations
         where (watch, n) > ($1, $2) order by watch, n limit $3",
        [last.0.into(), last.1.into(), CHUNK.into()],
        |row| {
            Ok(Row {
                key: (row.id(0)?, row.int(1)?),
                id: row.id(2)?,
                secret_address: row.word(3, ChannelKind::parse)?.traits().secret_address,
                address: row.text(4)?,
                headers: row.opt_text(5)?,
                secret: row.opt_text(6)?,
            })
        },
    )?;
    let next = found.last().map(|row| row.key);
    let stale = found.into_iter().filter(|row| row.is_stale(keyring));
    let plain: Vec<Row> = stale.map(|row| row.opened(keyring)).collect::<db::Result<_>>()?;
    let sealed = plain.iter().map(|row| Ok((row.key, row.sealed(keyring)?)));
    let sealed: Vec<((Id, i64), StoredDestination<'_>)> = sealed.collect::<db::Result<_>>()?;
    let changed = tx.update_each(
        "update watch_destinations set address = $1, headers = $2, secret = $3
         where watch = $4 and n = $5",
        sealed.iter().map(|((watch, n), stored)| {
            [
                stored.address.as_ref().into(),
                stored.headers.as_deref().into(),
                stored.secret.as_deref().into(),
                (*watch).into(),
                (*n).into(),
            ]
        }),
    )?;
    let count = changed.into_iter().sum();
    Ok((count, next))
}
