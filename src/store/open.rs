//! Opening of a store.

use std::sync::Arc;

use super::db::{DatabaseLocation, Tx, WriterConnection};
use super::identity::IdentityKey;
use super::reads::{ReadStore, Shared};
use super::sealing::Keyring;
use super::unreadable::UnreadableRows;
use super::writer::Writer;
use super::{Store, apps, definitions, nodes, reseal, rows};
use crate::domain::{Ids, Timestamp};

/// Options of [`Store::open`].
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// Location of the database.
    pub location: DatabaseLocation,
    /// Keys that seal and open secrets at rest.
    pub keyring: Keyring,
    /// Public URL of the API.
    pub public_url: String,
    /// Time of the start.
    pub now: Timestamp,
}

impl Store {
    /// Locks the database for this process, migrates it, and starts the writer.
    pub fn open(options: StoreOptions) -> anyhow::Result<(Self, Writer)> {
        // Opening blocks on a server, which is not allowed on a thread of an asynchronous runtime.
        let opened = std::thread::scope(|scope| scope.spawn(|| open_database(options)).join());
        let (connection, reads) = opened.map_err(|_| anyhow::anyhow!("opening the database panicked"))??;
        let (queue, writer) = Writer::start(connection, &reads.shared)?;
        Ok((Self { reads, queue }, writer))
    }
}

fn open_database(options: StoreOptions) -> anyhow::Result<(WriterConnection, ReadStore)> {
    let StoreOptions { location, keyring, public_url, now } = options;
    let (mut connection, readers) = location.open()?;
    reseal::check(&connection.tx(), &keyring)?;
    let node = connection.node();
    let take_shards = |tx: &Tx<'_>| nodes::take_shards(tx, node, now);
    let incarnation = connection.transaction("the shards cannot be taken over", take_shards)?;
    connection.set_incarnation(incarnation);
    match reseal::reseal(&mut connection, &keyring)? {
        0 => {}
        count => tracing::info!(count, "secrets were sealed with the first encryption key"),
    }
    let fill = |tx: &Tx<'_>| apps::draw_missing_keys(tx, &keyring);
    while connection.transaction("private keys cannot be drawn", fill)? {}
    let identity_key = connection
        .transaction("the key of identities cannot be drawn", |tx| IdentityKey::load(tx, &keyring))?;
    let (tx, unreadable) = (connection.tx(), UnreadableRows::default());
    let (ids, tenants) =
        (Ids::above(rows::greatest_id(&tx, &unreadable)?), apps::load_tenants(&tx, &keyring, &unreadable)?);
    let definition_ids = definitions::load_ids(&tx)?;
    let files = connection.files();
    let shared = Arc::new(Shared {
        unreadable,
        identity_key,
        definition_ids,
        files,
        ..Shared::new(ids, tenants, keyring, public_url)
    });
    Ok((connection, ReadStore { shared, readers: Arc::new(readers), request_clock: None }))
}
