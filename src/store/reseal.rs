//! Re-sealing of secrets with the first key at the start; see [`sealing`](super::sealing).

use anyhow::{Result, bail};

use super::db::{self, Tx, WriterConnection, params, row_sql};
use super::sealing::{Column, Keyring};
use super::{credentials, definitions, job_polls};
use crate::domain::{ChannelKind, Id};

/// Number of rows that one transaction reads.
const CHUNK: u32 = 500;

/// Returns an error if a needed key is missing. Changes nothing.
pub(super) fn check(tx: &Tx<'_>, keyring: &Keyring) -> Result<()> {
    let needed = tx.list("select id from seals order by id", [], |row| row.text(0))?;
    let known: Vec<&str> = keyring.names().collect();
    let missing: Vec<String> = needed.into_iter().filter(|id| !known.contains(&id.as_str())).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let missing = missing.join(" and ");
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    bail!(
        "secrets in the database are sealed with the encryption key {missing}, which is not configured \
         (configured: {known}): add it to encryption_key, after the one that is to seal; nothing was changed"
    )
}

/// Seals every value that is plain or under another key than the first. Returns the number of changed rows.
pub(super) fn reseal(connection: &mut WriterConnection, keyring: &Keyring) -> Result<usize> {
    let failure = "secrets cannot be sealed";
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
    connection.transaction(failure, |tx| {
        tx.run(
            "insert into seals (id, complete) values ($1, 0) on conflict (id) do update set complete = 0",
            params![first],
        )
    })?;
    let mut count = connection.transaction(failure, |tx| apps(tx, keyring))?;
    let mut next = Some(0);
    while let Some(last) = next {
        let changed;
        (changed, next) = connection.transaction(failure, |tx| saved_destinations(tx, keyring, last))?;
        count += changed;
    }
    count += connection.transaction(failure, |tx| job_polls::reseal_key(tx, keyring))?;
    let mut next = Some(0);
    while let Some(last) = next {
        let changed;
        (changed, next) = connection.transaction(failure, |tx| job_polls::reseal(tx, keyring, last))?;
        count += changed;
    }
    let mut next = Some(Id::from_bytes([0; 16]));
    while let Some(last) = next {
        let changed;
        (changed, next) = connection.transaction(failure, |tx| credentials::reseal(tx, keyring, last))?;
        count += changed;
    }
    let mut next = Some(Id::from_bytes([0; 16]));
    while let Some(last) = next {
        let changed;
        (changed, next) = connection.transaction(failure, |tx| definitions::reseal(tx, keyring, last))?;
        count += changed;
    }
    let mut next = Some((Id::from_bytes([0; 16]), -1));
    while let Some(last) = next {
        let changed;
        (changed, next) = connection.transaction(failure, |tx| destinations(tx, keyring, last))?;
        count += changed;
    }
    let rewritten = if was_plain { connection.rewrite() } else { Ok(()) };
    if let Err(error) = &rewritten {
        if matches!(error, db::StoreError::Damaged(_)) {
            bail!(error.clone());
        }
        tracing::warn!(
            %error,
            "the database could not be rewritten: its file still holds plain secrets; the next start tries it again"
        );
    }
    // The other names are deleted when no value needs them any more.
    connection.transaction(failure, |tx| {
        tx.run("delete from seals where id <> $1", params![first])?;
        tx.run("update seals set complete = $1", params![rewritten.is_ok()])
    })?;
    Ok(count)
}

/// Re-seals the secrets of all apps; there are few. Returns the number of changed rows.
fn apps(tx: &Tx<'_>, keyring: &Keyring) -> db::Result<usize> {
    let sql = "select id, signing_secret, old_signing_secret, signing_key, old_signing_key from apps";
    let found = tx.list(sql, [], |row| {
        Ok((row.id(0)?, [row.opt_text(1)?, row.opt_text(2)?, row.opt_text(3)?, row.opt_text(4)?]))
    })?;
    let columns =
        [Column::APP_SECRET, Column::APP_OLD_SECRET, Column::APP_PRIVATE_KEY, Column::APP_OLD_PRIVATE_KEY];
    let mut count = 0;
    for (id, mut texts) in found {
        if keyring.reseal(id, columns.into_iter().zip(texts.iter_mut().map(Option::as_mut)))? {
            let [secret, old_secret, key, old_key] = &texts;
            count += tx.run(
                "update apps set signing_secret = $1, old_signing_secret = $2, signing_key = $3, old_signing_key = $4
                 where id = $5",
                params![secret, old_secret, key, old_key, id],
            )?;
        }
    }
    Ok(count)
}

/// A row of `watch_destinations`, as it is stored.
struct StoredDestination {
    key: (Id, i64),
    /// Whether a secret was sealed again.
    is_changed: bool,
    address: String,
    headers: Option<String>,
    secret: Option<String>,
    options: Option<String>,
}

/// Re-seals the destinations after `last`. Returns the number of changed rows, and the last key if more remain.
fn destinations(tx: &Tx<'_>, keyring: &Keyring, last: (Id, i64)) -> db::Result<(usize, Option<(Id, i64)>)> {
    let found = tx.list(
        "select watch, n, id, channel, address, headers, secret, options from watch_destinations
         where (watch, n) > ($1, $2) order by watch, n limit $3",
        params![last.0, last.1, CHUNK],
        |row| {
            let is_secret = row.word(3, ChannelKind::parse)?.traits().secret_address;
            let (mut address, mut headers) = (row.text(4)?, row.opt_text(5)?);
            let (mut secret, mut options) = (row.opt_text(6)?, row.opt_text(7)?);
            let secrets = [
                (Column::DESTINATION_ADDRESS, Some(&mut address).filter(|_| is_secret)),
                (Column::DESTINATION_HEADERS, headers.as_mut()),
                (Column::DESTINATION_SECRET, secret.as_mut()),
                (Column::DESTINATION_OPTIONS, options.as_mut()),
            ];
            let is_changed = keyring.reseal(row.id(2)?, secrets)?;
            let key = (row.id(0)?, row.int(1)?);
            Ok(StoredDestination { key, is_changed, address, headers, secret, options })
        },
    )?;
    let changed = tx.update_each(
        row_sql!(
            "update watch_destinations set address = $1, headers = $2, secret = $3, options = $4"
            where "watch = $5 and n = $6"
        ),
        found.iter().filter(|one| one.is_changed).map(|one| {
            let StoredDestination { key: (watch, n), address, headers, secret, options, .. } = one;
            params![address, headers, secret, options, watch, n]
        }),
    )?;
    Ok((changed.into_iter().sum(), found.last().map(|one| one.key)))
}

/// A row of `destinations`, as it is stored.
struct StoredSaved {
    no: i64,
    /// Whether a secret was sealed again.
    is_changed: bool,
    address: String,
    headers: Option<String>,
    secret: Option<String>,
    old_secret: Option<String>,
    options: Option<String>,
    tls: Option<String>,
}

/// Re-seals the saved destinations after `last`. Returns the number of changed rows, and the last row if more remain.
fn saved_destinations(tx: &Tx<'_>, keyring: &Keyring, last: i64) -> db::Result<(usize, Option<i64>)> {
    let found = tx.list(
        "select no, id, channel, address, headers, secret, old_secret, options, tls from destinations where no > $1
         order by no limit $2",
        params![last, CHUNK],
        |row| {
            let is_secret = row.word(2, ChannelKind::parse)?.traits().secret_address;
            let (mut address, mut headers) = (row.text(3)?, row.opt_text(4)?);
            let (mut secret, mut old_secret) = (row.opt_text(5)?, row.opt_text(6)?);
            let (mut options, mut tls) = (row.opt_text(7)?, row.opt_text(8)?);
            let secrets = [
                (Column::SAVED_ADDRESS, Some(&mut address).filter(|_| is_secret)),
                (Column::SAVED_HEADERS, headers.as_mut()),
                (Column::SAVED_SECRET, secret.as_mut()),
                (Column::SAVED_OLD_SECRET, old_secret.as_mut()),
                (Column::SAVED_OPTIONS, options.as_mut()),
                (Column::SAVED_TLS, tls.as_mut()),
            ];
            let is_changed = keyring.reseal(row.id(1)?, secrets)?;
            let no = row.int(0)?;
            Ok(StoredSaved { no, is_changed, address, headers, secret, old_secret, options, tls })
        },
    )?;
    let changed = tx.update_each(
        row_sql!(
            "update destinations set address = $1, headers = $2, secret = $3, old_secret = $4, options = $5, tls = $6"
            where "no = $7"
        ),
        found.iter().filter(|one| one.is_changed).map(|one| {
            let StoredSaved { no, address, headers, secret, old_secret, options, tls, .. } = one;
            params![address, headers, secret, old_secret, options, tls, no]
        }),
    )?;
    Ok((changed.into_iter().sum(), found.last().map(|one| one.no)))
}
