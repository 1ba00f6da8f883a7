//! What registrations need to know about the use of providers: the operator's settings, definitions of apps, and
//! definitions for the credentials of apps.

use std::sync::Arc;

use url::Url;

use super::problem::Problem;
use crate::domain::{AppNo, CredentialSecret, DefinitionVersion, Id, Masked};
use crate::own_work::{AppCache, NoDefinition, NotDone, OwnWork};
use crate::providers::{Definition, Mistake, OwnDefinition};
use crate::store::Store;

/// Memory of the definitions for credentials of apps that are kept, in KiB.
const KEPT_KIB: u32 = 16 * 1024;

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
#[derive(Debug)]
pub struct OwnDefinitions {
    work: Arc<OwnWork>,
    /// By the id of the credential, and the id of the operator's definition or of the version of the app's.
    with_credential: AppCache<(Id, String), Arc<OwnDefinition>>,
}

impl OwnDefinitions {
    /// Creates an instance that keeps nothing yet.
    pub fn new(work: Arc<OwnWork>) -> Self {
        Self { work, with_credential: AppCache::new(KEPT_KIB) }
    }

    /// Parses a definition of an app.
    pub async fn parse(
        &self,
        app: AppNo,
        text: Arc<String>,
    ) -> Result<Result<Definition, Vec<Mistake>>, Problem> {
        self.work.parse(app, text).await.map_err(|why| busy(&why))
    }

    /// Returns a version of an app's definition; `None` if it was replaced meanwhile. The inner error says why this
    /// program refuses it.
    pub async fn of_app(
        &self,
        store: &Store,
        app: AppNo,
        version: &DefinitionVersion,
    ) -> Result<Option<Result<Arc<Definition>, String>>, Problem> {
        match self.work.definition(store, app, version.id).await {
            Ok(definition) => Ok(Some(Ok(definition))),
            Err(NoDefinition::Refused(first)) => Ok(Some(Err(first))),
            Err(NoDefinition::Deleted) => Ok(None),
            Err(NoDefinition::NotDone(why)) => Err(busy(&why)),
            Err(NoDefinition::Store(error)) => Err(error.into()),
        }
    }

    /// Returns a definition for a credential of an app. `version` is that of an app's definition. The inner error is the
    /// rest of a sentence about the credential.
    pub async fn with_credential(
        &self,
        app: AppNo,
        (definition, version): (Arc<Definition>, Option<Id>),
        (id, secret): (Id, Masked),
    ) -> Result<Result<Arc<OwnDefinition>, String>, Problem> {
        let key = (id, version.map_or_else(|| definition.id.clone(), |version| format!("{version:?}")));
        if let Some(known) = self.with_credential.get(&key) {
            return Ok(Ok(known));
        }
        let with_key = move || definition.with_own_credential(&CredentialSecret::parse(&secret)?);
        let made = self.work.run(app, with_key).await.map_err(|why| busy(&why))?;
        Ok(made.map(|made| self.with_credential.put(app, key, made.own_kib(), Arc::new(made))))
    }
}

/// Returns the answer to a request whose definition was not parsed.
fn busy(why: &NotDone) -> Problem {
    Problem::busy(match why {
        NotDone::Busy => "the server had no time for the definitions of apps; send the request again later",
        NotDone::Stopping => "the server stops; send the request again later",
    })
}
