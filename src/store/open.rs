//! Opening of a store.

use std::sync::Arc;

use anyhow::Context as _;

use super::db::{Committed, DatabaseLocation, Readers, WriterConnection};
use super::reads::ReadStore;
use super::sealing::Keyring;
use super::shared::Shared;
use super::tenant_cache::TenantCache;
use super::writer::Writer;
use super::{Store, apps, nodes, reseal, rows};
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
        let opened = std::thread::scope(|scope| scope.spawn(|| Opened::open(&options)).join());
        let Opened { connection, readers, ids, tenants } =
            opened.map_err(|_| anyhow::anyhow!("opening the database panicked"))??;
        let StoreOptions { keyring, public_url, .. } = options;
        let shared = Arc::new(Shared::new(ids, tenants, keyring, public_url));
        let (queue, writer) = Writer::start(connection, &shared)?;
        Ok((Self { reads: ReadStore::new(shared, readers), queue }, writer))
    }
}

/// Parts of a store whose database is open.
struct Opened {
    connection: WriterConnection,
    readers: Readers,
    ids: Ids,
    tenants: TenantCache,
}

impl Opened {
    fn open(options: &StoreOptions) -> anyhow::Result<Self> {
        let keyring = &options.keyring;
        let (mut connection, readers) = options.location.open()?;
        reseal::check(&connection.tx(), keyring)?;
        connection.begin(true)?;
        let incarnation = nodes::take_shards(&connection.tx(), connection.node(), options.now);
        let incarnation = incarnation.context("the shards cannot be taken over")?;
        match connection.commit()? {
            Committed::Yes => connection.set_incarnation(incarnation),
            Committed::Unknown => anyhow::bail!("the connection to the database was lost; start again"),
        }
        match reseal::reseal(&mut connection, keyring)? {
            0 => {}
            count => tracing::info!(count, "secrets were sealed with the first encryption key"),
        }
        let tx = connection.tx();
        let (ids, tenants) = (Ids::above(rows::greatest_id(&tx)?), apps::load_tenants(&tx, keyring)?);
        Ok(Self { connection, readers, ids, tenants })
    }
}
