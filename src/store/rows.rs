//! Rows that more than one aggregate reads or writes.

use std::borrow::Cow;

use super::db::{Result, Row, StoreError, Tx};
use super::sealing::{Column, Keyring};
use crate::domain::{ChannelKind, Destination, DestinationId, Id, JobName, WatchId};

/// Reads four columns from `first`: provider, account, job id, params.
pub(super) fn read_name(row: &Row<'_>, first: usize) -> Result<JobName> {
    Ok(JobName {
        provider: row.text(first)?,
        account: row.text(first + 1)?,
        job_id: row.text(first + 2)?,
        params: row.text(first + 3)?,
    })
}

/// Reads six columns from `first`: id, channel, address, queue, headers, secret.
pub(super) fn read_destination(row: &Row<'_>, first: usize, keyring: &Keyring) -> Result<Destination> {
    let id = row.id(first)?;
    let open = |column, text: Option<String>| text.map(|text| keyring.open(column, id, text)).transpose();
    let headers = open(Column::DestinationHeaders, row.opt_text(first + 4)?)?;
    Ok(Destination {
        id: DestinationId(id),
        channel: row.word(first + 1, ChannelKind::parse)?,
        address: keyring.open(Column::DestinationAddress, id, row.text(first + 2)?)?,
        queue: row.text(first + 3)?,
        headers: headers.map_or(Ok(Vec::new()), |headers| {
            let broken =
                |_| StoreError::Inconsistent("the headers of a destination cannot be read".to_owned());
            serde_json::from_str(&headers).map_err(broken)
        })?,
        secret: open(Column::DestinationSecret, row.opt_text(first + 5)?)?,
    })
}

/// The columns of a destination that may be sealed, as they are stored.
pub(super) struct StoredDestination<'d> {
    pub(super) address: Cow<'d, str>,
    pub(super) headers: Option<Cow<'d, str>>,
    pub(super) secret: Option<Cow<'d, str>>,
}

impl<'d> StoredDestination<'d> {
    pub(super) fn new(
        keyring: &Keyring,
        id: Id,
        (address, secret_address): (&'d str, bool),
        headers: Option<String>,
        secret: Option<&'d str>,
    ) -> Result<Self> {
        Ok(Self {
            address: if secret_address {
                keyring.seal(Column::DestinationAddress, id, address)?
            } else {
                Cow::Borrowed(address)
            },
            headers: match headers {
                Some(text) => {
                    Some(Cow::Owned(keyring.seal(Column::DestinationHeaders, id, &text)?.into_owned()))
                }
                None => None,
            },
            secret: secret.map(|text| keyring.seal(Column::DestinationSecret, id, text)).transpose()?,
        })
    }

    pub(super) fn of(keyring: &Keyring, one: &'d Destination) -> Result<Self> {
        // Most destinations have no headers: this saves the serialisation.
        let headers = if one.headers.is_empty() { None } else { serde_json::to_string(&one.headers).ok() };
        let address = (one.address.as_str(), one.channel.traits().secret_address);
        Self::new(keyring, one.id.0, address, headers, one.secret.as_deref())
    }
}

/// Serialises a type of this program. None of them can fail.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// Inserts destinations, each with its watch and its number within the watch.
pub(super) fn insert_destinations<'d>(
    tx: &Tx<'_>,
    keyring: &Keyring,
    destinations: impl Iterator<Item = (WatchId, i64, &'d Destination)>,
) -> Result<()> {
    let stored = |(watch, n, one)| Ok((watch, n, one, StoredDestination::of(keyring, one)?));
    let stored: Vec<(WatchId, i64, &Destination, StoredDestination<'_>)> =
        destinations.map(stored).collect::<Result<_>>()?;
    tx.insert_each(
        "insert into watch_destinations (watch, n, id, channel, address, queue, headers, secret)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        stored.iter().map(|(watch, n, destination, stored)| {
            [
                watch.0.into(),
                (*n).into(),
                destination.id.0.into(),
                destination.channel.as_str().into(),
                stored.address.as_ref().into(),
                (&destination.queue).into(),
                stored.headers.as_deref().into(),
                stored.secret.as_deref().into(),
            ]
        }),
    )?;
    Ok(())
}

/// Returns the greatest id in the database. New ids are greater.
pub(super) fn greatest_id(tx: &Tx<'_>) -> Result<Id> {
    let mut greatest = Id::from_bytes([0; 16]);
    // For each app: its greatest id is at the end of the index.
    for sql in [
        "select (select id from watches where app = a.no order by id desc limit 1) from apps a",
        "select (select id from deliveries where app = a.no order by id desc limit 1) from apps a",
        "select id from apps",
        "select id from keys",
    ] {
        for found in tx.list(sql, [], |row| row.opt_bytes(0))?.into_iter().flatten() {
            let bytes = found.try_into();
            let bytes = bytes.map_err(|_| StoreError::Inconsistent("an id is not 16 bytes".to_owned()))?;
            greatest = greatest.max(Id::from_bytes(bytes));
        }
    }
    Ok(greatest)
}
