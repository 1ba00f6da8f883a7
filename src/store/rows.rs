//! Rows that more than one aggregate reads or writes.

use std::borrow::Cow;
use std::time::Duration;

use super::db::{Result, Row, StoreError};
use super::sealing::{Column, Keyring};
use crate::domain::{ChannelKind, Destination, DestinationId, Id, JobName, Terms};

/// Four columns from `first`: provider, account, job id, params.
pub(super) fn read_name(row: &Row<'_>, first: usize) -> Result<JobName> {
    Ok(JobName {
        provider: row.text(first)?,
        account: row.text(first + 1)?,
        job_id: row.text(first + 2)?,
        params: row.text(first + 3)?,
    })
}

/// Six columns from `first`: id, channel, address, lane, headers, secret.
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

/// What of a destination may be sealed, as it is stored.
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
        // Few have headers; for those that have none there is no text to make.
        let headers = if one.headers.is_empty() { None } else { serde_json::to_string(&one.headers).ok() };
        let address = (one.address.as_str(), one.channel.traits().secret_address);
        Self::new(keyring, one.id.0, address, headers, one.secret.as_deref())
    }
}

/// What all watches that wait for a job ask for together; `None` where nobody waits.
pub(super) fn read_terms(row: &Row<'_>, first: usize) -> Result<(u32, Option<Terms>)> {
    let watching = row.count(first)?;
    if watching == 0 {
        return Ok((0, None));
    }
    let poll_interval = row.opt_int(first + 2)?.and_then(|millis| u64::try_from(millis).ok());
    let terms = Terms {
        expires_at: row.time(first + 1)?,
        poll_interval: poll_interval.map(Duration::from_millis),
        expected_at: row.opt_time(first + 3)?,
        wants_progress: row.flag(first + 4)?,
    };
    Ok((watching, Some(terms)))
}

/// Our own shapes: there is nothing in them that could fail.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}
