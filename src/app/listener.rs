//! A listener of the service: it is served from the bind on, while the database is opened.
//!
//! Opening the database can take minutes: a migration, a check of every page, a rewrite, the load of a million jobs. A
//! client that connects meanwhile must get an answer, or a liveness probe ends the process, and the next start begins
//! again. So the server runs first, with a router that knows only `/healthz` and 503 `not_ready`
//! ([`api::starting`]). When everything is loaded, the whole router takes its place, also on open connections.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::api::{self, Front, Site};

/// A listener and its server, which ends when `closing` is set or its sender is dropped.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) address: SocketAddr,
    pub(super) site: Site,
    pub(super) server: JoinHandle<()>,
}

impl Listener {
    /// Binds the address of a setting and starts the server.
    pub(super) async fn start(
        setting: &str,
        address: SocketAddr,
        site: Site,
        front: Front,
        closing: watch::Receiver<bool>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| {
            format!(
                "{setting}: {address} is not available; stop the process that uses it, or set {setting} to another"
            )
        })?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(api::serve(listener, site.clone(), front, closing));
        Ok(Self { address, site, server })
    }
}
