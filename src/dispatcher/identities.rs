//! The TLS identities of saved destinations, ready for connections.
//!
//! A delivery holds the fingerprint of an identity, not its certificates, which can be large. They are read from the
//! store for the first attempt, and again when the fingerprint has changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::channels::{AttemptResult, Channels, Reach};
use crate::domain::{Attempt, Outcome, PendingDelivery, SavedNo};
use crate::egress::ClientIdentity;
use crate::store::Store;

/// Maximum number of identities in memory. One has some KiB, and its sessions.
const IDENTITIES_MAX: usize = 1_024;

/// The identities that were used.
#[derive(Debug, Default)]
pub(super) struct Identities(Mutex<HashMap<SavedNo, Arc<ClientIdentity>>>);

impl Identities {
    fn known(&self, no: SavedNo, fingerprint: &str) -> Option<Arc<ClientIdentity>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&no).filter(|identity| **identity.fingerprint() == *fingerprint).map(Arc::clone)
    }

    fn set(&self, no: SavedNo, identity: &Arc<ClientIdentity>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= IDENTITIES_MAX && !known.contains_key(&no) {
            // Each costs one read again.
            known.clear();
        }
        known.insert(no, Arc::clone(identity));
    }

    /// Returns the TLS identity of a delivery's destination, if it has one. The error is the result of an attempt that
    /// cannot be made without it.
    pub(super) async fn get(
        &self,
        (store, channels): (&Store, &Channels),
        delivery: &PendingDelivery,
    ) -> Result<Option<Arc<ClientIdentity>>, Box<AttemptResult>> {
        let destination = &delivery.destination;
        let tls = destination.access.as_deref().and_then(|access| access.tls.as_ref());
        let (Some(tls), Some(saved)) = (tls, destination.saved.as_deref()) else { return Ok(None) };
        if let Some(known) = self.known(saved.no, &tls.fingerprint) {
            return Ok(Some(known));
        }
        let failed = |why: String| {
            let error = format!("shortage: the TLS identity of the destination cannot be used: {why}");
            Box::new(AttemptResult {
                outcome: Outcome::NotMade,
                reach: Reach::NotTried,
                duration: Duration::ZERO,
                token: None,
                attempt: Attempt { error: Some(error), ..Attempt::default() },
            })
        };
        let pem =
            store.tls_identity(delivery.app, saved.no).await.map_err(|error| failed(error.to_string()))?;
        // It was removed meanwhile: the delivery is read again.
        let pem = pem.ok_or_else(|| failed("it was removed".to_owned()))?;
        let identity = channels.identity(&pem).map_err(|invalid| failed(invalid.detail))?;
        self.set(saved.no, &identity);
        Ok(Some(identity))
    }
}
