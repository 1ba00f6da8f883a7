//! Rows that more than one aggregate reads or writes.

use std::borrow::Cow;

use super::db::{Result, Row, StoreError, Tx, params, row_sql};
use super::options::{options_text, read_options};
use super::sealing::{Column, Keyring};
use super::unreadable::UnreadableRows;
use crate::domain::{
    AppNo, ChannelKind, Destination, DestinationId, Id, JobName, Masked, ProgressRound, SavedNo, SavedQueue,
    Timestamp, WatchId, parse_rate,
};

/// Reads four columns from `first`: provider, account, job id, all parameters.
pub(super) fn read_name(row: &Row<'_>, first: usize) -> Result<JobName> {
    Ok(JobName {
        provider: row.text(first)?,
        account: row.text(first + 1)?,
        job_id: row.text(first + 2)?,
        params: row.text(first + 3)?,
    })
}

/// A round of progress events as the column `progress_rounds` stores it: app, time, bytes, progress.
type StoredRound = (i64, i64, u64, Option<u8>);

/// Reads a column with the last rounds of progress events of a job.
pub(super) fn read_rounds(row: &Row<'_>, column: usize) -> Result<Vec<ProgressRound>> {
    let Some(text) = row.opt_text(column)? else { return Ok(Vec::new()) };
    let broken = |_| StoreError::Inconsistent("the rounds of progress events of a job are broken".to_owned());
    let stored: Vec<StoredRound> = serde_json::from_str(&text).map_err(broken)?;
    let round = |(app, at, bytes, progress)| ProgressRound {
        app: AppNo(app),
        at: Timestamp::from_millis(at),
        bytes,
        progress,
    };
    Ok(stored.into_iter().map(round).collect())
}

/// Returns the value of such a column.
pub(super) fn rounds_to_json(rounds: &[ProgressRound]) -> Option<String> {
    let stored = |round: &ProgressRound| -> StoredRound {
        (round.app.0, round.at.millis(), round.bytes, round.progress)
    };
    let stored: Vec<StoredRound> = rounds.iter().map(stored).collect();
    (!stored.is_empty()).then(|| to_json(&stored))
}

/// Columns of a destination of a watch, for [`read_destination`]: those of `watch_destinations wd`, left joined with
/// [`SAVED_JOIN`]. The row of a saved destination holds what applies when an attempt is made.
pub(super) const DESTINATION: &str = "wd.id, wd.channel, coalesce(s.address, wd.address), wd.queue,
    coalesce(s.headers, wd.headers), coalesce(s.secret, wd.secret), coalesce(s.options, wd.options), s.no, s.target, s.rate,
    s.concurrency, s.is_ordered, s.old_secret, s.old_secret_expires_at";

/// Number of columns of [`DESTINATION`].
pub(super) const DESTINATION_COLUMNS: usize = 14;

/// The saved destination of a row of `watch_destinations wd`. For an inline one, `saved` is null and nothing is read.
pub(super) const SAVED_JOIN: &str = "left join destinations s on s.no = wd.saved";

/// Reads seven columns of an inline destination from `first`: id, channel, address, queue, headers, secret, options.
pub(super) fn read_inline(row: &Row<'_>, first: usize, keyring: &Keyring) -> Result<Destination> {
    let sealed = SealedColumns {
        address: Column::DESTINATION_ADDRESS,
        headers: Column::DESTINATION_HEADERS,
        secret: Column::DESTINATION_SECRET,
        options: Column::DESTINATION_OPTIONS,
    };
    read_columns(row, first, &sealed, keyring)
}

/// Reads the columns of [`DESTINATION`] from `first`.
pub(super) fn read_destination(row: &Row<'_>, first: usize, keyring: &Keyring) -> Result<Destination> {
    if row.opt_int(first + 7)?.is_none() {
        return read_inline(row, first, keyring);
    }
    let sealed = SealedColumns {
        address: Column::SAVED_ADDRESS,
        headers: Column::SAVED_HEADERS,
        secret: Column::SAVED_SECRET,
        options: Column::SAVED_OPTIONS,
    };
    let destination = read_columns(row, first, &sealed, keyring)?;
    let saved = read_saved_queue(row, first + 7, destination.id.0, keyring)?;
    Ok(Destination { saved: Some(Box::new(saved)), ..destination })
}

/// Reads of a destination that cannot be read what a delivery to it stores, from the same columns.
pub(super) fn read_stored(row: &Row<'_>, first: usize) -> Result<Destination> {
    Ok(Destination {
        id: DestinationId(row.id(first)?),
        channel: row.word(first + 1, ChannelKind::parse)?,
        address: String::new(),
        queue: row.text(first + 3)?,
        headers: Vec::new(),
        secret: None,
        signing: None,
        access: None,
        saved: None,
    })
}

/// The columns of a destination that can be sealed.
struct SealedColumns {
    address: Column,
    headers: Column,
    secret: Column,
    options: Column,
}

fn read_columns(
    row: &Row<'_>,
    first: usize,
    sealed: &SealedColumns,
    keyring: &Keyring,
) -> Result<Destination> {
    let id = row.id(first)?;
    let SealedColumns { address, headers, secret, options } = *sealed;
    let (signing, access) = read_options(open(row, first + 6, (options, id), keyring)?.as_deref())?;
    Ok(Destination {
        id: DestinationId(id),
        channel: row.word(first + 1, ChannelKind::parse)?,
        address: keyring.open(address, id, row.text(first + 2)?)?,
        queue: row.text(first + 3)?,
        headers: read_headers(row, first + 4, (headers, id), keyring)?,
        secret: open(row, first + 5, (secret, id), keyring)?,
        signing,
        access,
        saved: None,
    })
}

/// Reads seven columns of `destinations s` from `first`, from `no` on.
pub(super) fn read_saved_queue(row: &Row<'_>, first: usize, id: Id, keyring: &Keyring) -> Result<SavedQueue> {
    let rate = row.opt_text(first + 2)?.map(|text| parse_rate(&text)).transpose();
    let old = open(row, first + 5, (Column::SAVED_OLD_SECRET, id), keyring)?;
    Ok(SavedQueue {
        no: SavedNo(row.int(first)?),
        target: row.text(first + 1)?,
        rate: rate.map_err(StoreError::Inconsistent)?.unwrap_or_default(),
        concurrency: row.opt_int(first + 3)?.and_then(|count| u32::try_from(count).ok()),
        is_ordered: row.flag(first + 4)?,
        old_secret: old.map(Masked::new).zip(row.opt_time(first + 6)?),
    })
}

/// Reads a text that may be sealed.
pub(super) fn open(
    row: &Row<'_>,
    index: usize,
    (column, id): (Column, Id),
    keyring: &Keyring,
) -> Result<Option<String>> {
    row.opt_text(index)?.map(|text| keyring.open(column, id, text)).transpose()
}

/// Reads the headers of a destination.
pub(super) fn read_headers(
    row: &Row<'_>,
    index: usize,
    of: (Column, Id),
    keyring: &Keyring,
) -> Result<Vec<(String, String)>> {
    let broken = |_| StoreError::Inconsistent("the headers of a destination cannot be read".to_owned());
    match open(row, index, of, keyring)? {
        Some(headers) => serde_json::from_str(&headers).map_err(broken),
        None => Ok(Vec::new()),
    }
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

/// Inserts destinations, each with its watch and its number within the watch. Of a saved one, only the id and the row
/// number are stored: the rest stands in its own row.
pub(super) fn insert_destinations<'d>(
    tx: &Tx<'_>,
    keyring: &Keyring,
    destinations: impl Iterator<Item = (WatchId, i64, &'d Destination)>,
) -> Result<()> {
    let stored = |(watch, n, destination): (WatchId, i64, &'d Destination)| {
        let seal = |column, text| keyring.seal(column, destination.id.0, text);
        let address = destination.address.as_str();
        let is_secret = destination.channel.traits().secret_address;
        if destination.saved.is_some() {
            let (address, headers, secret, options) = ("".into(), None, None, None);
            return Ok(StoredDestination { watch, n, destination, address, headers, secret, options });
        }
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
        let options = options_text(destination.signing.as_deref(), destination.access.as_deref());
        let options = options.map(seal_options).transpose()?;
        Ok(StoredDestination { watch, n, destination, address, headers, secret, options })
    };
    let stored: Vec<StoredDestination<'_>> = destinations.map(stored).collect::<Result<_>>()?;
    tx.insert_each(
        row_sql!(
            "insert into watch_destinations (watch, n, id, channel, address, queue, headers, secret,
               options, saved)"
            values ("$1, $2, $3, $4, $5, $6, $7, $8, $9, $10")
        ),
        stored.iter().map(|stored| {
            let StoredDestination { watch, n, destination, address, headers, secret, options } = stored;
            let Destination { id, channel, queue, .. } = destination;
            let (headers, secret, options) = (headers.as_deref(), secret.as_deref(), options.as_deref());
            let saved = destination.saved.as_ref().map(|saved| saved.no);
            params![watch, n, id, channel, &**address, queue, headers, secret, options, saved]
        }),
    )
}

/// Returns the greatest id in the database. New ids are greater.
pub(super) fn greatest_id(tx: &Tx<'_>, unreadable: &UnreadableRows) -> Result<Id> {
    let table_of =
        |sql: &'static str| sql.rsplit(" from ").find_map(|rest| rest.split(' ').next()).unwrap_or(sql);
    let mut greatest = Id::from_bytes([0; 16]);
    // For each app: its greatest id is at the end of the index.
    for sql in [
        "select (select id from watches where app = a.no order by id desc limit 1) from apps a",
        "select (select id from deliveries where app = a.no order by id desc limit 1) from apps a",
        "select id from apps",
        "select id from keys",
        "select id from destinations",
        "select id from operations",
        "select before from operations",
        "select id from operational_events order by id desc limit 1",
        "select id from watch_groups order by id desc limit 1",
    ] {
        let read = |row: &Row<'_>| {
            let is_null = row.opt_bytes(0).is_ok_and(|bytes| bytes.is_none());
            if is_null { Ok(None) } else { unreadable.skip((table_of(sql), 0), row, row.id(0)) }
        };
        for found in tx.list(sql, [], read)?.into_iter().flatten() {
            greatest = greatest.max(found);
        }
    }
    Ok(greatest)
}
