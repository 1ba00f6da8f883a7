//! What registrations need to know about the use of providers: the operator's settings, and definitions for the
//! credentials of apps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use url::Url;

use crate::domain::{CredentialSecret, Id, Masked};
use crate::providers::{Definition, OwnDefinition};

/// Number of definitions for credentials of apps that are kept. Each has some ten KiB.
const KEPT: usize = 256;

/// What the operator's settings say about the use of a provider by registrations.
#[derive(Clone, Debug, Default)]
pub struct ProviderAccess {
    /// Whether an API key is configured.
    pub has_key: bool,
    /// Whether it is used for registrations that name no credential.
    pub is_shared: bool,
    /// Address that replaces the definition's.
    pub base_url: Option<Url>,
}

/// Definitions for credentials of apps, by the id of the credential and the id of the definition. To check a key can take
/// a millisecond, and a batch names the same one a thousand times.
#[derive(Debug, Default)]
pub struct OwnDefinitions(Mutex<HashMap<(Id, String), Arc<OwnDefinition>>>);

impl OwnDefinitions {
    /// Returns a definition for a credential. The error is the rest of a sentence about the credential.
    pub fn get(
        &self,
        definition: &Definition,
        (id, secret): (Id, &Masked),
    ) -> Result<Arc<OwnDefinition>, String> {
        let key = (id, definition.id.clone());
        let kept = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept().get(&key) {
            return Ok(Arc::clone(known));
        }
        let made = Arc::new(definition.with_own_credential(&CredentialSecret::parse(secret)?)?);
        let mut kept = kept();
        if kept.len() >= KEPT {
            // They are made again when they are needed.
            kept.clear();
        }
        kept.insert(key, Arc::clone(&made));
        Ok(made)
    }
}
