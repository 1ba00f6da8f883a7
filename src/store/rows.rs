//! Rows that more than one aggregate reads or writes.

use std::borrow::Cow;

use super::db::{Result, Row, StoreError, Tx, params, row_sql};
use super::sealing::{Column, Keyring};
use crate::domain::{ChannelKind, Destination, DestinationId, Id, JobName, WatchId};

/// Reads four columns from `first`: provider, account, job id, all parameters.
pub(super) fn read_name(row: &Row<'_>, first: usize) -> Result<JobName> {
    Ok(JobName {
        provider: row.text(first)?,
        account: row.text(first + 1)?,
        job_id: row.text(first + 2)?,
        params: row.text(first + 3)?,
    })
}

/// Reads seven columns from `first`: id, channel, address, queue, headers, secret, options.
pub(super) fn read_destination(row: &Row<'_>, first: usize, keyring: &Keyring) -> Result<Destination> {
    let id = row.id(first)?;
    let open = |column, text: Option<String>| text.map(|text| keyring.open(column, id, text)).transpose();
    let broken = |_| StoreError::Inconsistent("the headers of a destination cannot be read".to_owned());
    let headers = match open(Column::DESTINATION_HEADERS, row.opt_text(first + 4)?)? {
        Some(headers) => serde_json::from_str(&headers).map_err(broken)?,
        None => Vec::new(),
    };
    let broken = |_| StoreError::Inconsistent("the options of a destination cannot be read".to_owned());
    let signing = match open(Column::DESTINATION_OPTIONS, row.opt_text(first + 6)?)? {
        Some(options) => Some(serde_json::from_str(&options).map_err(broken)?),
        None => None,
    };
    Ok(Destination {
        id: DestinationId(id),
        channel: row.word(first + 1, ChannelKind::parse)?,
        address: keyring.open(Column::DESTINATION_ADDRESS, id, row.text(first + 2)?)?,
        queue: row.text(first + 3)?,
        headers,
        secret: open(Column::DESTINATION_SECRET, row.opt_text(first + 5)?)?,
        signing,
    })
}

/// Serialises a type of this program. None of them can fail.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A destination, and its texts as they are stored.
struct StoredDestination<'d> {
    watch: WatchId,
    n: i64,
    destination: &'d Destination,
    address: Cow<'d, str>,
    headers: Option<String>,
    secret: Option<Cow<'d, str>>,
    options: Option<String>,
}

/// Inserts destinations, each with its watch and its number within the watch.
pub(super) fn insert_destinations<'d>(
    tx: &Tx<'_>,
    keyring: &Keyring,
    destinations: impl Iterator<Item = (WatchId, i64, &'d Destination)>,
) -> Result<()> {
    let stored = |(watch, n, destination): (WatchId, i64, &'d Destination)| {
        let seal = |column, text| keyring.seal(column, destination.id.0, text);
        let address = destination.address.as_str();
        let is_secret = destination.channel.traits().secret_address;
        let address = if is_secret { seal(Column::DESTINATION_ADDRESS, address)? } else { address.into() };
        // Most destinations have no headers: this saves the serialisation.
        let headers = (!destination.headers.is_empty()).then(|| to_json(&destination.headers));
        let seal_headers = |headers: String| {
            keyring.seal(Column::DESTINATION_HEADERS, destination.id.0, &headers).map(Cow::into_owned)
        };
        let headers = headers.map(seal_headers).transpose()?;
        let secret = destination.secret.as_deref();
        let secret = secret.map(|text| seal(Column::DESTINATION_SECRET, text)).transpose()?;
        let seal_options = |options: String| {
            keyring.seal(Column::DESTINATION_OPTIONS, destination.id.0, &options).map(Cow::into_owned)
        };
        let options = destination.signing.as_ref().map(to_json).map(seal_options).transpose()?;
        Ok(StoredDestination { watch, n, destination, address, headers, secret, options })
    };
    let stored: Vec<StoredDestination<'_>> = destinations.map(stored).collect::<Result<_>>()?;
    tx.insert_each(
        row_sql!(
            "insert into watch_destinations (watch, n, id, channel, address, queue, headers, secret,
               options)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8, $9")
        ),
        stored.iter().map(|stored| {
            let StoredDestination { watch, n, destination, address, headers, secret, options } = stored;
            let Destination { id, channel, queue, .. } = destination;
            let (headers, secret, options) = (headers.as_deref(), secret.as_deref(), options.as_deref());
            params![watch, n, id, channel, &**address, queue, headers, secret, options]
        }),
    )
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
            let broken = |_| StoreError::Inconsistent("an id is not 16 bytes".to_owned());
            greatest = greatest.max(found.try_into().map(Id::from_bytes).map_err(broken)?);
        }
    }
    Ok(greatest)
}
