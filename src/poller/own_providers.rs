//! The providers of jobs with a credential or a definition of an app.
//!
//! Such a provider is made of a definition and its settings, and of the credential. It is kept, because it holds the
//! token for which a credential is exchanged: a new one for each poll would request a token for each poll. To compile a
//! definition takes milliseconds, too. All jobs with the same account share one. What is the app's is read from the
//! store when a job first needs it, so a million jobs do not hold a million copies.
//!
//! **A limited number of them is kept** ([`KEPT_KIB`]), which the apps share. One that gives way is made again when it is
//! needed. Its token is then requested again, and a refresh token that the provider had replaced is lost, as at a restart.
//!
//! **A credential that was deleted** is never used: the message about a job says that it is missing
//! (`store/job_polls`), and a credential that a running watch uses cannot be deleted. Nothing about a kept provider can
//! become wrong: a credential, a version of a definition and the operator's settings do not change while the process
//! runs.

use std::sync::Arc;

use super::app_memory::AppMemory;
use super::provider::{Owner, Provider};
use crate::domain::{AppNo, CredentialRef, CredentialSecret, Id, Limits, PollPolicy};
use crate::own_work::{AppCache, NoDefinition, OwnWork};
use crate::store::{Store, StoreError};

/// Memory of the providers that are kept, in KiB.
const KEPT_KIB: u32 = 32 * 1024;

/// Reason why a job cannot be polled.
#[derive(Debug)]
pub enum NoProvider {
    /// What is stored does not permit it: a sentence.
    Unusable(String),
    /// The store cannot be read now.
    Store(StoreError),
    /// There was no time to parse its definition: a sentence.
    NotNow(String),
}

/// What a provider is made of, besides a credential.
pub enum Source<'a> {
    /// The operator's provider with the same definition.
    OfOperator(&'a Provider),
    /// A version of a definition of the app, with its settings.
    OfApp(Id, PollPolicy, Limits),
}

/// Makes the providers, and keeps them.
#[derive(Debug)]
pub struct OwnProviders {
    /// By account.
    kept: AppCache<String, Arc<Provider>>,
    work: Arc<OwnWork>,
    /// Memory of the answers that are being received for apps.
    answers: Arc<AppMemory>,
}

impl OwnProviders {
    /// Creates an instance that keeps nothing yet.
    pub fn new(work: Arc<OwnWork>) -> Self {
        Self { kept: AppCache::new(KEPT_KIB), work, answers: AppMemory::new() }
    }

    /// Returns what parses definitions and reads answers.
    pub fn work(&self) -> Arc<OwnWork> {
        Arc::clone(&self.work)
    }

    /// Returns what reads the answers for an app.
    pub fn owner(&self, app: AppNo) -> Owner {
        Owner { app, work: Arc::clone(&self.work), answers: Arc::clone(&self.answers) }
    }

    /// Returns the provider of the jobs of an account of an app, which is made of this source if it is not kept.
    pub async fn get(
        &self,
        store: &Store,
        (app, account): (AppNo, &str),
        credential: Option<&CredentialRef>,
        source: Source<'_>,
    ) -> Result<Arc<Provider>, NoProvider> {
        let deleted = |name: &str| NoProvider::Unusable(format!("the credential `{name}` was deleted"));
        let id_of = |credential: &CredentialRef| credential.id.ok_or_else(|| deleted(&credential.name));
        let id = credential.map(id_of).transpose()?;
        let account = account.to_owned();
        if let Some(known) = self.kept.get(&account) {
            return Ok(known);
        }
        let (definition, base_url, policy, limits, owner) = match source {
            Source::OfOperator(Provider { definition, base_url, policy, limits, .. }) => {
                (Arc::clone(definition), base_url.clone(), *policy, *limits, None)
            }
            Source::OfApp(id, policy, limits) => {
                let definition = self.work.definition(store, app, id).await.map_err(unusable)?;
                (definition, None, policy, limits, Some(self.owner(app)))
            }
        };
        let (definition, key, kib) = match credential.zip(id) {
            None => {
                let kib = definition.own_kib();
                (definition, None, kib)
            }
            Some((CredentialRef { name, .. }, id)) => {
                let secret = store.credential_secret(id).await.map_err(NoProvider::Store)?;
                let secret = secret.ok_or_else(|| deleted(name))?;
                let with_key = move || definition.with_own_credential(&CredentialSecret::parse(&secret)?);
                let made = self.work.run(app, with_key).await;
                let made = made.map_err(|why| NoProvider::NotNow(why.to_string()))?;
                let own =
                    made.map_err(|why| NoProvider::Unusable(format!("the credential `{name}` {why}")))?;
                let kib = own.own_kib();
                (own.definition, Some(own.key), kib)
            }
        };
        let made = Provider::new(definition, key, base_url, policy, limits).with_owner(owner);
        Ok(self.kept.put(app, account, kib, Arc::new(made)))
    }
}

fn unusable(none: NoDefinition) -> NoProvider {
    match none {
        NoDefinition::Store(error) => NoProvider::Store(error),
        NoDefinition::NotDone(why) => NoProvider::NotNow(why.to_string()),
        NoDefinition::Deleted => NoProvider::Unusable("the version of the definition was deleted".to_owned()),
        NoDefinition::Refused(first) => {
            NoProvider::Unusable(format!("this version of the program refuses the definition: {first}"))
        }
    }
}
