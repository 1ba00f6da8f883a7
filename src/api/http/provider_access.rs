//! What registrations need to know about the use of providers: the operator's settings, definitions of apps, and
//! definitions for the credentials of apps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;
use url::Url;

use super::problem::Problem;
use crate::domain::{CredentialSecret, DefinitionVersion, Id, Masked};
use crate::providers::{Definition, Mistake, OwnDefinition};
use crate::store::Store;

/// Number of definitions for credentials of apps that are kept. Each has some ten KiB.
const KEPT: usize = 256;

/// Number of definitions of apps that are kept. Each has up to some MiB of compiled patterns.
const OWN_KEPT: usize = 32;

/// Definitions of apps are parsed one at a time: a hostile one can take long.
static PARSING: Semaphore = Semaphore::const_new(1);

/// Parses a definition of an app on a thread of its own.
pub async fn parse_own_definition(text: Arc<String>) -> Result<Result<Definition, Vec<Mistake>>, Problem> {
    // The semaphore is never closed.
    let _permit = PARSING.acquire().await;
    let parsed = tokio::task::spawn_blocking(move || Definition::parse_own(&text)).await;
    parsed.map_err(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        Err(_) => Problem::busy("the server stops; send the request again later"),
    })
}

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

/// Definitions of apps, and definitions for credentials of apps. To check a key can take a millisecond, and a batch
/// names the same one a thousand times.
#[derive(Debug, Default)]
pub struct OwnDefinitions {
    /// By the id of the credential, and the id of the operator's definition or of the version of the app's.
    with_credential: Mutex<HashMap<(Id, String), Arc<OwnDefinition>>>,
    /// Definitions of apps by the ids of their versions.
    of_apps: Mutex<HashMap<Id, Arc<Definition>>>,
}

impl OwnDefinitions {
    /// Returns a version of an app's definition; `None` if it was replaced meanwhile. The inner error says why this
    /// program refuses it.
    pub async fn of_app(
        &self,
        store: &Store,
        version: &DefinitionVersion,
    ) -> Result<Option<Result<Arc<Definition>, String>>, Problem> {
        let kept = || self.of_apps.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept().get(&version.id) {
            return Ok(Some(Ok(Arc::clone(known))));
        }
        let Some(text) = store.definition_text(version.id).await? else { return Ok(None) };
        let parsed = parse_own_definition(Arc::new(text.reveal().to_owned())).await?;
        let definition = match parsed {
            Ok(definition) => Arc::new(definition),
            Err(mistakes) => {
                let first = mistakes.first().map(ToString::to_string).unwrap_or_default();
                return Ok(Some(Err(first)));
            }
        };
        let mut kept = kept();
        if kept.len() >= OWN_KEPT {
            // They are parsed again when they are needed.
            kept.clear();
        }
        kept.insert(version.id, Arc::clone(&definition));
        Ok(Some(Ok(definition)))
    }

    /// Returns a definition for a credential. `version` is that of an app's definition. The error is the rest of a
    /// sentence about the credential.
    pub fn get(
        &self,
        (definition, version): (&Definition, Option<Id>),
        (id, secret): (Id, &Masked),
    ) -> Result<Arc<OwnDefinition>, String> {
        let key = (id, version.map_or_else(|| definition.id.clone(), |version| format!("{version:?}")));
        let kept = || self.with_credential.lock().unwrap_or_else(PoisonError::into_inner);
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
